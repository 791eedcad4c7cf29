//! Relaxation of the architecture parameters: c = softmax(α) over the ops of each edge.
//!
//! ```text
//! ᾱ = c ∘ (c̄ − Σ c·c̄)        ċ = c ∘ (α̇ − Σ c·α̇)
//! ᾱ˙ = ċ ∘ (c̄ − Σ c·c̄) + c ∘ (c̄˙ − Σ (ċ·c̄ + c·c̄˙))
//! ```
//!
//! Max-W regularisation (Hundt et al. 2019) raises the weights of an edge until the largest is one,
//! c = 1 − s_m + s with s = softmax(α) and m its largest element, the first of equals. The way back to s̄ and on
//! from ṡ is linear, and s takes the place of c above:
//!
//! ```text
//! s̄_i = c̄_i  (i ≠ m)      s̄_m = −Σ_{i≠m} c̄_i      ċ = ṡ − ṡ_m
//! ```
//!
//! so the op of largest weight passes whole, and c̄_m reaches no α.
//!
//! A supernet has a few hundred op weights, so the CPU code is the formula, in f64, and stands here.
//!
//! Where a search draws op weights or relaxes α in a way of its own, it does so outside the tape, hands
//! over c in α's place and takes c̄ back ([`Relaxation::Given`]).

mod cuda;
#[cfg(test)]
mod tests;

use super::cuda::Encoder;
use super::{Context, Graph, Op, ParameterId, Pass, Role, Uses, WeightsId};
use std::ops::Range;

/// How the α part of θ becomes op weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relaxation {
    /// c = softmax(α), edge by edge.
    #[default]
    Softmax,
    /// c = 1 − max softmax(α) + softmax(α), edge by edge: Max-W regularisation.
    MaxW,
    /// c = α: the α part of θ holds op weights, and its gradient is c̄.
    Given,
}

/// A tape entry: `[edges, ops]` α to as many op weights.
pub struct Relax {
    alpha: ParameterId,
    weights: WeightsId,
    ops: usize,
    relaxation: Relaxation,
}

impl Relax {
    /// Relaxes `alpha` row by row of `ops` into `weights`.
    pub fn new(
        alpha: ParameterId,
        weights: WeightsId,
        ops: usize,
        relaxation: Relaxation,
    ) -> Relax {
        Relax {
            alpha,
            weights,
            ops,
            relaxation,
        }
    }

    fn is_given(&self) -> bool {
        self.relaxation == Relaxation::Given
    }

    /// Calls `row` with the range of each edge.
    fn rows(&self, cx: &Context, mut row: impl FnMut(Range<usize>)) {
        let len = cx.weights(self.weights, Role::Value).len();
        for start in (0..len).step_by(self.ops) {
            row(start..start + self.ops);
        }
    }

    /// The softmax of an edge, which stays what it is until α moves.
    fn softmax<'a>(&self, cx: &'a Context, row: Range<usize>) -> Softmax<'a> {
        match self.relaxation {
            Relaxation::MaxW => {
                let alpha = &cx.parameter(self.alpha).read()[row];
                let (sum, top) = (exponentials(alpha), largest(alpha));
                Softmax::MaxW { alpha, sum, top }
            }
            _ => Softmax::Plain(&cx.weights(self.weights, Role::Value).read()[row]),
        }
    }
}

/// s of one edge, from which its op weights are made.
#[derive(Clone, Copy)]
enum Softmax<'a> {
    /// c itself.
    Plain(&'a [f32]),
    /// Of α, with Σ e^(α − α_m) and m.
    MaxW {
        alpha: &'a [f32],
        sum: f64,
        top: usize,
    },
}

impl Softmax<'_> {
    fn at(&self, i: usize) -> f64 {
        match *self {
            Softmax::Plain(c) => f64::from(c[i]),
            Softmax::MaxW { alpha, sum, top } => f64::from(alpha[i] - alpha[top]).exp() / sum,
        }
    }

    /// m, of Max-W.
    fn top(&self) -> Option<usize> {
        match *self {
            Softmax::Plain(_) => None,
            Softmax::MaxW { top, .. } => Some(top),
        }
    }

    /// Σ s·x
    fn mean(&self, len: usize, x: impl Fn(usize) -> f64) -> f64 {
        (0..len).map(|i| self.at(i) * x(i)).sum()
    }

    /// s̄ of c̄, or s̄˙ of c̄˙.
    fn back<'b>(&self, bar: &'b [f32]) -> impl Fn(usize) -> f64 + use<'b> {
        let top = self.top();
        let others = |top: usize| -> f64 {
            let others = bar.iter().enumerate().filter(|&(i, _)| i != top);
            others.map(|(_, &x)| f64::from(x)).sum()
        };
        let of_top = top.map(|top| (top, -others(top)));
        move |i| match of_top {
            Some((top, value)) if top == i => value,
            _ => f64::from(bar[i]),
        }
    }

    /// ṡ of ċ: of Max-W moved so that its sum is zero again.
    fn dot<'b>(&self, c_dot: &'b [f32]) -> impl Fn(usize) -> f64 + use<'b> {
        let sum: f64 = c_dot.iter().map(|&x| f64::from(x)).sum();
        let shift = self.top().map_or(0.0, |_| -sum / c_dot.len() as f64);
        move |i| f64::from(c_dot[i]) + shift
    }
}

/// Place of the largest element, the first of equals.
fn largest(alpha: &[f32]) -> usize {
    (1..alpha.len()).fold(0, |top, i| if alpha[i] > alpha[top] { i } else { top })
}

/// Σ e^(α − max α)
fn exponentials(alpha: &[f32]) -> f64 {
    let max = alpha[largest(alpha)];
    alpha.iter().map(|&a| f64::from(a - max).exp()).sum()
}

/// Softmax of one row.
pub fn softmax(alpha: &[f32], out: &mut [f32]) {
    let max = alpha.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp = |a: f32| f64::from(a - max).exp();
    let sum: f64 = alpha.iter().map(|&a| exp(a)).sum();
    for (c, &a) in out.iter_mut().zip(alpha) {
        *c = (exp(a) / sum) as f32;
    }
}

impl Op for Relax {
    fn name(&self) -> &'static str {
        "relax"
    }

    fn uses(&self, _: &Graph, _: Pass) -> Uses {
        Uses::default()
    }

    fn forward(&self, cx: &Context) {
        let (alpha, c) = (
            cx.parameter(self.alpha).read(),
            cx.weights(self.weights, Role::Value),
        );
        if self.is_given() {
            return c.write().copy_from_slice(alpha);
        }
        self.rows(cx, |row| {
            if self.relaxation == Relaxation::Softmax {
                return softmax(&alpha[row.clone()], &mut c.write()[row]);
            }
            let s = self.softmax(cx, row.clone());
            let most = s.top().map_or(1.0, |top| s.at(top));
            for (i, c) in c.write()[row].iter_mut().enumerate() {
                *c = (1.0 - most + s.at(i)) as f32;
            }
        });
    }

    fn backward(&self, cx: &Context) {
        let bar = cx.weights(self.weights, Role::Adjoint).read();
        let gradient = cx.parameter_gradient(self.alpha).write();
        if self.is_given() {
            return gradient.copy_from_slice(bar);
        }
        self.rows(cx, |row| {
            let s = self.softmax(cx, row.clone());
            let bar = s.back(&bar[row.clone()]);
            let mean = s.mean(self.ops, &bar);
            for (i, gradient) in gradient[row].iter_mut().enumerate() {
                *gradient = (s.at(i) * (bar(i) - mean)) as f32;
            }
        });
    }

    fn tangent(&self, cx: &Context) {
        let alpha_dot = cx.parameter_tangent(self.alpha).read();
        let c_dot = cx.weights(self.weights, Role::Tangent).write();
        if self.is_given() {
            return c_dot.copy_from_slice(alpha_dot);
        }
        self.rows(cx, |row| {
            let s = self.softmax(cx, row.clone());
            let alpha_dot = &alpha_dot[row.clone()];
            let mean = s.mean(self.ops, |i| f64::from(alpha_dot[i]));
            let s_dot = |i: usize| s.at(i) * (f64::from(alpha_dot[i]) - mean);
            let of_top = s.top().map_or(0.0, s_dot);
            for (i, c_dot) in c_dot[row].iter_mut().enumerate() {
                *c_dot = (s_dot(i) - of_top) as f32;
            }
        });
    }

    fn tangent_backward(&self, cx: &Context) {
        let of = |role| cx.weights(self.weights, role).read();
        let (bar, bar_dot) = (of(Role::Adjoint), of(Role::AdjointTangent));
        let c_dot = of(Role::Tangent);
        let gradient = cx.parameter_gradient(self.alpha).write();
        if self.is_given() {
            return gradient.copy_from_slice(bar_dot);
        }
        self.rows(cx, |row| {
            let s = self.softmax(cx, row.clone());
            let s_dot = s.dot(&c_dot[row.clone()]);
            let (bar, bar_dot) = (s.back(&bar[row.clone()]), s.back(&bar_dot[row.clone()]));
            let mean = s.mean(self.ops, &bar);
            let mean_dot: f64 =
                (0..self.ops).map(|i| s_dot(i) * bar(i)).sum::<f64>() + s.mean(self.ops, &bar_dot);
            for (i, gradient) in gradient[row].iter_mut().enumerate() {
                *gradient = (s_dot(i) * (bar(i) - mean) + s.at(i) * (bar_dot(i) - mean_dot)) as f32;
            }
        });
    }

    fn encode(&self, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
        match self.relaxation {
            Relaxation::Softmax | Relaxation::MaxW => cuda::encode(self, pass, encoder),
            Relaxation::Given => cuda::encode_given(self, pass, encoder),
        }
        Ok(())
    }
}
