//! Whole supernets: sizes, derivatives against differences, symmetry of the Hessian.

use super::Supernet;
use super::parameters::initial_theta;
use crate::autograd::plan::{Buffer, Plan, lifetimes};
use crate::autograd::{Executor, Mode};
use crate::device::Device;
use crate::device::random::{Philox, Purpose};
use crate::ops::update::cpu::{axpy, dot, norm};
use crate::space::Space;

fn normal(len: usize, stream: u64) -> Vec<f32> {
    let philox = Philox::new(3, Purpose::ProbeVector);
    (0..len as u64)
        .map(|i| philox.normal4(i / 4, stream)[(i % 4) as usize])
        .collect()
}

fn tiny(space: Space) -> (Executor, Vec<f32>) {
    let cells = if space == Space::Darts { 3 } else { 1 };
    let supernet = Supernet::record(space, 4, cells, 5, 3, [8, 8]).unwrap();
    let mut theta = initial_theta(&supernet.parameters, 1);
    let omega = supernet.tape.omega_len;
    // α far from uniform, so that its derivatives matter.
    for (a, n) in theta[omega..]
        .iter_mut()
        .zip(normal(supernet.tape.alpha_len, 9))
    {
        *a = n;
    }
    let mut executor = Executor::new(supernet.tape, Device::Cpu);
    executor
        .load(&normal(3 * 8 * 8 * 3, 1), &[0, 3, 4])
        .unwrap();
    (executor, theta)
}

#[test]
fn supernets_have_the_published_number_of_weights() {
    let darts = Supernet::record(Space::Darts, 16, 8, 10, 1, [32, 32]).unwrap();
    assert_eq!(darts.tape.omega_len, 1_930_618);
    assert_eq!(darts.tape.alpha_len, 2 * 14 * 8);
    let nb201 = Supernet::record(Space::NasBench201, 16, 5, 10, 1, [32, 32]).unwrap();
    assert_eq!(nb201.tape.omega_len, 1_692_826);
    assert_eq!(nb201.tape.alpha_len, 6 * 5);
}

#[test]
fn gradient_predicts_the_change_of_the_loss() {
    for space in Space::ALL {
        let (mut executor, theta) = tiny(space);
        let mut gradient = vec![0.0; theta.len()];
        executor.forward(Mode::Gradient, &theta).unwrap();
        executor.backward(&theta, &mut gradient).unwrap();
        let direction = gradient.clone();
        let expected = dot(&gradient, &direction);
        let mut best = f64::INFINITY;
        for length in [3e-3, 1e-3, 3e-4] {
            let step = (length / norm(&direction)) as f32;
            let mut at = |sign: f32| {
                let mut moved = theta.clone();
                axpy(sign * step, &direction, &mut moved);
                executor.forward(Mode::Evaluate, &moved).unwrap().loss
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
            best = best.min((slope / expected - 1.0).abs());
        }
        assert!(best < 0.02, "{space:?}: {best}");
    }
}

#[test]
fn product_matches_the_change_of_the_gradient() {
    for space in Space::ALL {
        let (mut executor, theta) = tiny(space);
        let direction = normal(theta.len(), 5);
        let mut product = vec![0.0; theta.len()];
        let mut gradient = vec![0.0; theta.len()];
        executor.forward(Mode::Products, &theta).unwrap();
        executor.backward(&theta, &mut gradient).unwrap();
        executor.product(&theta, &direction, &mut product).unwrap();
        // Across a kink of relu or max the difference is far off: one step of several must fit.
        let mut best = f64::INFINITY;
        for step in [1e-5f32, 3e-6, 1e-6, 5e-7] {
            let mut at = |sign: f32| {
                let mut moved = theta.clone();
                axpy(sign * step, &direction, &mut moved);
                executor.forward(Mode::Gradient, &moved).unwrap();
                let mut gradient = vec![0.0; theta.len()];
                executor.backward(&moved, &mut gradient).unwrap();
                gradient
            };
            let (up, down) = (at(1.0), at(-1.0));
            let mut error = product.clone();
            axpy(-0.5 / step, &up, &mut error);
            axpy(0.5 / step, &down, &mut error);
            best = best.min(norm(&error) / norm(&product));
        }
        assert!(best < 0.03, "{space:?}: {best}");
    }
}

#[test]
fn hessian_is_symmetric() {
    for space in Space::ALL {
        let (mut executor, theta) = tiny(space);
        let (u, v) = (normal(theta.len(), 5), normal(theta.len(), 6));
        let mut gradient = vec![0.0; theta.len()];
        executor.forward(Mode::Products, &theta).unwrap();
        executor.backward(&theta, &mut gradient).unwrap();
        let (mut hu, mut hv) = (gradient.clone(), gradient.clone());
        executor.product(&theta, &u, &mut hu).unwrap();
        executor.product(&theta, &v, &mut hv).unwrap();
        let (left, right) = (dot(&u, &hv), dot(&v, &hu));
        assert!(
            (left - right).abs() < 1e-3 * norm(&u) * norm(&hv) / 10.0,
            "{left} and {right}"
        );
    }
}

#[test]
fn buffers_alive_together_never_overlap() {
    for space in [Space::Darts, Space::NasBench201] {
        let cells = if space == Space::Darts { 3 } else { 1 };
        let tape = Supernet::record(space, 4, cells, 10, 2, [8, 8])
            .expect("valid shapes")
            .tape;
        for mode in [Mode::Evaluate, Mode::Gradient, Mode::Products] {
            let plan = Plan::new(&tape, mode);
            let (buffers, _) = lifetimes(&tape, mode);
            let at = |b: &Buffer| plan.offsets[b.owner.0][b.role as usize];
            for (i, a) in buffers.iter().enumerate() {
                assert!(at(a) + a.len <= plan.workspace);
                for b in &buffers[..i] {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = at(a) + a.len <= at(b) || at(b) + b.len <= at(a);
                    assert!(!together || apart, "{a:?} and {b:?}");
                }
            }
        }
    }
}
