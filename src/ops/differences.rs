//! Backward and product of a small tape, held to differences of its loss and of its gradient: for ops whose factors
//! or masks belong to the executor, which the oracle does not have.

use crate::autograd::{Executor, Mode};

fn gradient(executor: &mut Executor, mode: Mode, theta: &[f32]) -> Vec<f32> {
    let mut gradient = vec![0.0; theta.len()];
    executor.forward(mode, theta).unwrap();
    executor.backward(theta, &mut gradient).unwrap();
    gradient
}

/// Each element of the gradient is the slope of the loss between ± `step`, within `bound`.
pub(super) fn check_gradient(executor: &mut Executor, theta: &[f32], step: f32, bound: f64) {
    let found = gradient(executor, Mode::Gradient, theta);
    for (i, &expected) in found.iter().enumerate() {
        let mut at = |step: f32| {
            let mut moved = theta.to_vec();
            moved[i] += step;
            executor.forward(Mode::Gradient, &moved).unwrap().loss
        };
        let slope = (at(step) - at(-step)) / (2.0 * f64::from(step));
        assert!(
            (slope - f64::from(expected)).abs() < bound,
            "{i}: {slope} and {expected}"
        );
    }
}

/// The product with (½, ½, …) is the slope of the gradient between ± `step` along it, within `bound`.
pub(super) fn check_product(executor: &mut Executor, theta: &[f32], step: f32, bound: f32) {
    let direction = vec![0.5; theta.len()];
    let mut product = vec![0.0; theta.len()];
    gradient(executor, Mode::Products, theta);
    executor.product(theta, &direction, &mut product).unwrap();
    let mut at = |step: f32| {
        let moved: Vec<f32> = theta.iter().map(|t| t + step * 0.5).collect();
        gradient(executor, Mode::Gradient, &moved)
    };
    let (up, down) = (at(step), at(-step));
    for (i, ((up, down), expected)) in up.iter().zip(&down).zip(&product).enumerate() {
        let slope = (up - down) / (2.0 * step);
        assert!(
            (slope - expected).abs() < bound,
            "{i}: {slope} and {expected}"
        );
    }
}
