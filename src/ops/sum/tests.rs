//! A small tape around one sum: the loss moves as the gradient says, whatever the factors.

use super::Term;
use crate::autograd::{Executor, Mode, Tape};
use crate::device::Device;
use crate::ops::differences::{check_gradient, check_product};

/// images → conv (3 → 2) → x; y = f₀·x + x + f₁·x; classifier.
fn executor() -> Executor {
    let mut tape = Tape::new(2, 2, 2);
    let weight = tape.weight(3 * 2);
    let (images, factors) = (tape.images, [tape.factor(), tape.factor()]);
    let x = tape.conv(images, (1, 1), 2, false, false, (weight, None));
    let y = tape.activation([2, 2], 2, false);
    let term = |factor| Term { input: x, factor };
    tape.sum(
        vec![term(Some(factors[0])), term(None), term(Some(factors[1]))],
        y,
    );
    let (weight, bias) = (tape.weight(2 * 3), tape.weight(3));
    tape.classifier(y, false, weight, bias);
    tape.finish();
    let mut executor = Executor::new(tape, Device::Cpu);
    let images: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin()).collect();
    executor.load(&images, &[0, 2]).unwrap();
    executor
}

fn theta() -> Vec<f32> {
    (0..15).map(|i| (i as f32 * 1.3).cos()).collect()
}

#[test]
fn a_term_that_stands_twice_and_a_dropped_one_give_the_gradient_of_the_loss() {
    let mut executor = executor();
    executor.set_factors(&[0.0, 1.25, 1.25, 0.0]).unwrap();
    check_gradient(&mut executor, &theta(), 1e-2, 1e-3);
}

#[test]
fn the_product_is_the_derivative_of_the_gradient() {
    let mut executor = executor();
    executor.set_factors(&[0.0, 1.25, 1.25, 1.25]).unwrap();
    check_product(&mut executor, &theta(), 1e-2, 2e-3);
}

#[test]
fn inference_takes_every_branch_once() {
    let mut executor = executor();
    let theta = theta();
    let plain = executor.forward(Mode::Evaluate, &theta).unwrap().loss;
    executor.set_factors(&[0.0; 4]).unwrap();
    assert_ne!(
        executor.forward(Mode::Evaluate, &theta).unwrap().loss,
        plain
    );
    assert_eq!(executor.infer(&theta, &[]).unwrap().loss, plain);
}
