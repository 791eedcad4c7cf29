//! The updates on the CPU. Sums run over a fixed tree ([`crate::device::parallel::sum`]), so they give
//! the same bits at any number of threads.

use super::{Adam, Sgd};
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

/// b ← μ·b + (clip·g + decay·θ); θ ← θ − lr·b
pub fn sgd(step: Sgd, clip_factor: f32, gradient: &[f32], buffer: &mut [f32], theta: &mut [f32]) {
    let (buffer, theta) = (View::of_mut(buffer), View::of_mut(theta));
    for_ranges(gradient.len(), |range| {
        let b = buffer.part(range.start, range.len()).write();
        let t = theta.part(range.start, range.len()).write();
        for ((b, t), &g) in b.iter_mut().zip(t).zip(&gradient[range]) {
            *b = step.momentum * *b + (clip_factor * g + step.weight_decay * *t);
            *t -= step.lr * *b;
        }
    });
}

/// Kingma & Ba 2015, algorithm 1, a group at a time. α has a few hundred elements: one thread, in f64.
pub fn adam(step: Adam, gradient: &[f32], m: &mut [f32], v: &mut [f32], theta: &mut [f32]) {
    let power = i32::try_from(step.step).unwrap_or(i32::MAX);
    let correct1 = 1.0 - step.beta1.powi(power);
    let correct2 = 1.0 - step.beta2.powi(power);
    let decayed = |g: f32, t: f32| f64::from(g) + step.weight_decay * f64::from(t);
    let groups = theta.chunks_exact_mut(step.group);
    let groups = groups.zip(gradient.chunks_exact(step.group));
    let moments = m.chunks_exact_mut(step.group);
    let moments = moments.zip(v.chunks_exact_mut(step.group));
    for ((theta, gradient), (m, v)) in groups.zip(moments) {
        let pairs = gradient.iter().zip(theta.iter());
        let square: f64 = pairs.map(|(&g, &t)| decayed(g, t).powi(2)).sum();
        let square = square / step.group as f64;
        for (((t, m), v), &g) in theta.iter_mut().zip(m).zip(v).zip(gradient) {
            let g = decayed(g, *t);
            *m = (step.beta1 * f64::from(*m) + (1.0 - step.beta1) * g) as f32;
            *v = (step.beta2 * f64::from(*v) + (1.0 - step.beta2) * square) as f32;
            let denominator = (f64::from(*v) / correct2).sqrt() + step.epsilon;
            *t = (f64::from(*t) - step.lr * (f64::from(*m) / correct1) / denominator) as f32;
        }
    }
}
