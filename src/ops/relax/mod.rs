//! Relaxation of the architecture parameters: c = softmax(α) over the ops of each edge.
//!
//! ```text
//! ᾱ = c ∘ (c̄ − Σ c·c̄)        ċ = c ∘ (α̇ − Σ c·α̇)
//! ᾱ˙ = ċ ∘ (c̄ − Σ c·c̄) + c ∘ (c̄˙ − Σ (ċ·c̄ + c·c̄˙))
//! ```
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

/// How the α part of θ becomes op weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relaxation {
    /// c = softmax(α), edge by edge.
    #[default]
    Softmax,
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
    fn rows(&self, cx: &Context, mut row: impl FnMut(std::ops::Range<usize>)) {
        let len = cx.weights(self.weights, Role::Value).len();
        for start in (0..len).step_by(self.ops) {
            row(start..start + self.ops);
        }
    }
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

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
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
        self.rows(cx, |row| softmax(&alpha[row.clone()], &mut c.write()[row]));
    }

    fn backward(&self, cx: &Context) {
        let c = cx.weights(self.weights, Role::Value).read();
        let bar = cx.weights(self.weights, Role::Adjoint).read();
        let gradient = cx.parameter_gradient(self.alpha).write();
        if self.is_given() {
            return gradient.copy_from_slice(bar);
        }
        self.rows(cx, |row| {
            let mean = dot(&c[row.clone()], &bar[row.clone()]);
            for i in row {
                gradient[i] = (f64::from(c[i]) * (f64::from(bar[i]) - mean)) as f32;
            }
        });
    }

    fn tangent(&self, cx: &Context) {
        let c = cx.weights(self.weights, Role::Value).read();
        let alpha_dot = cx.parameter_tangent(self.alpha).read();
        let c_dot = cx.weights(self.weights, Role::Tangent).write();
        if self.is_given() {
            return c_dot.copy_from_slice(alpha_dot);
        }
        self.rows(cx, |row| {
            let mean = dot(&c[row.clone()], &alpha_dot[row.clone()]);
            for i in row {
                c_dot[i] = (f64::from(c[i]) * (f64::from(alpha_dot[i]) - mean)) as f32;
            }
        });
    }

    fn tangent_backward(&self, cx: &Context) {
        let of = |role| cx.weights(self.weights, role).read();
        let (c, c_dot) = (of(Role::Value), of(Role::Tangent));
        let (bar, bar_dot) = (of(Role::Adjoint), of(Role::AdjointTangent));
        let gradient = cx.parameter_gradient(self.alpha).write();
        if self.is_given() {
            return gradient.copy_from_slice(bar_dot);
        }
        self.rows(cx, |row| {
            let mean = dot(&c[row.clone()], &bar[row.clone()]);
            let mean_dot = dot(&c_dot[row.clone()], &bar[row.clone()])
                + dot(&c[row.clone()], &bar_dot[row.clone()]);
            for i in row {
                gradient[i] = (f64::from(c_dot[i]) * (f64::from(bar[i]) - mean)
                    + f64::from(c[i]) * (f64::from(bar_dot[i]) - mean_dot))
                    as f32;
            }
        });
    }

    fn encode(&self, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
        match self.relaxation {
            Relaxation::Softmax => cuda::encode(self, pass, encoder),
            Relaxation::Given => cuda::encode_given(self, pass, encoder),
        }
        Ok(())
    }
}
