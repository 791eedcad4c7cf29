//! Updates of flat parameter vectors: dot products, SGD, Adam, and the Neumann step.
//!
//! All are bound by memory; each is one pass over its vectors. Sums run over a fixed tree
//! ([`crate::device::parallel::sum`]), so they give the same bits at any number of threads.

use crate::device::View;
use crate::device::parallel::{for_ranges, sum};

/// Σ a·b in f64.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    sum(a.len(), |range| {
        let pairs = a[range.clone()].iter().zip(&b[range]);
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    })
}

/// ‖a‖₂ in f64.
pub fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

/// y += factor·x
pub fn axpy(factor: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "vectors of one length");
    let out = View::of_mut(y);
    for_ranges(x.len(), |range| {
        let y = out.part(range.start, range.len()).write();
        for (y, &x) in y.iter_mut().zip(&x[range]) {
            *y += factor * x;
        }
    });
}

/// One Neumann term: v ← v − γ·(H·v), p ← p + v; returns ‖v‖ of the new v.
pub fn neumann_step(gamma: f32, product: &[f32], v: &mut [f32], p: &mut [f32]) -> f64 {
    let (v_view, p_view) = (View::of_mut(v), View::of_mut(p));
    let squares = sum(product.len(), |range| {
        let v = v_view.part(range.start, range.len()).write();
        let p = p_view.part(range.start, range.len()).write();
        let mut squares = 0.0f64;
        for ((v, p), &h) in v.iter_mut().zip(p).zip(&product[range]) {
            *v -= gamma * h;
            *p += *v;
            squares += f64::from(*v) * f64::from(*v);
        }
        squares
    });
    squares.sqrt()
}

/// Settings of one SGD step; PyTorch's semantics.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// Momentum μ.
    pub momentum: f32,
    /// L2 decay, added to the gradient.
    pub weight_decay: f32,
    /// Factor of the gradient from clipping by the global norm.
    pub clip_factor: f32,
}

/// b ← μ·b + (clip·g + decay·θ); θ ← θ − lr·b
pub fn sgd(step: Sgd, gradient: &[f32], buffer: &mut [f32], theta: &mut [f32]) {
    let (buffer, theta) = (View::of_mut(buffer), View::of_mut(theta));
    for_ranges(gradient.len(), |range| {
        let b = buffer.part(range.start, range.len()).write();
        let t = theta.part(range.start, range.len()).write();
        for ((b, t), &g) in b.iter_mut().zip(t).zip(&gradient[range]) {
            *b = step.momentum * *b + (step.clip_factor * g + step.weight_decay * *t);
            *t -= step.lr * *b;
        }
    });
}

/// Settings of one Adam step; PyTorch's semantics (L2 decay in the gradient).
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// ε in the denominator.
    pub epsilon: f64,
    /// L2 decay.
    pub weight_decay: f64,
    /// Steps done, this one counted.
    pub step: u64,
}

/// Kingma & Ba 2015, algorithm 1. α has a few hundred elements: one thread, in f64.
pub fn adam(step: Adam, gradient: &[f32], m: &mut [f32], v: &mut [f32], theta: &mut [f32]) {
    let power = i32::try_from(step.step).unwrap_or(i32::MAX);
    let correct1 = 1.0 - step.beta1.powi(power);
    let correct2 = 1.0 - step.beta2.powi(power);
    for (((t, m), v), &g) in theta.iter_mut().zip(m).zip(v).zip(gradient) {
        let g = f64::from(g) + step.weight_decay * f64::from(*t);
        *m = (step.beta1 * f64::from(*m) + (1.0 - step.beta1) * g) as f32;
        *v = (step.beta2 * f64::from(*v) + (1.0 - step.beta2) * g * g) as f32;
        let denominator = (f64::from(*v) / correct2).sqrt() + step.epsilon;
        *t = (f64::from(*t) - step.lr * (f64::from(*m) / correct1) / denominator) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sgd_steps_match_pytorchs_formula() {
        let step = Sgd {
            lr: 0.1,
            momentum: 0.9,
            weight_decay: 0.01,
            clip_factor: 0.5,
        };
        let (mut theta, mut buffer) = (vec![1.0f32, -2.0], vec![0.0f32; 2]);
        sgd(step, &[4.0, 2.0], &mut buffer, &mut theta);
        assert_eq!(buffer, [2.01, 0.98]);
        sgd(step, &[0.0, 0.0], &mut buffer, &mut theta);
        let first = [1.0 - 0.1 * 2.01f64, -2.0 - 0.1 * 0.98];
        let second = [0.9 * 2.01 + 0.01 * first[0], 0.9 * 0.98 + 0.01 * first[1]];
        for i in 0..2 {
            assert!((f64::from(theta[i]) - (first[i] - 0.1 * second[i])).abs() < 1e-6);
        }
    }

    #[test]
    fn first_adam_step_moves_by_the_learning_rate() {
        let step = Adam {
            lr: 0.01,
            beta1: 0.5,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: 1,
        };
        let (mut m, mut v, mut theta) = ([0.0], [0.0], [0.5]);
        adam(step, &[-3.0], &mut m, &mut v, &mut theta);
        assert!((theta[0] - 0.51).abs() < 1e-6);
    }

    #[test]
    fn sums_do_not_depend_on_the_thread_count() {
        let a: Vec<f32> = (0..200_003).map(|i| (i as f32 * 0.37).sin()).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| norm(&a).to_bits())
        };
        assert_eq!(with(1), with(2));
        assert_eq!(with(1), with(5));
    }
}
