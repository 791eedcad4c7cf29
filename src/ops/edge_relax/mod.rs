//! Relaxation with edge normalisation (Xu et al. 2020, PC-DARTS): the ops of an edge share softmax(α), the
//! edges into a node softmax(β).
//!
//! ```text
//! c = softmax(α_e)   b = softmax(β over a node's edges)      w_{e,o} = b_e·c_{e,o}      w_e = b_e
//! ```
//!
//! The weights are `[edges, ops + 1]`; the last column, w_e, is that of channels that pass the ops by. With
//! s_e = Σ_o c_{e,o}·w̄_{e,o}, b̄_e = w̄_e + s_e and m = Σ b·b̄ over the node's edges:
//!
//! ```text
//! ᾱ_{e,o} = w_{e,o}·(w̄_{e,o} − s_e)      β̄_e = b_e·(b̄_e − m)
//! ẇ_{e,o} = w_{e,o}·(α̇_{e,o} − Σ c·α̇ + β̇_e − Σ b·β̇)      ẇ_e = b_e·(β̇_e − Σ b·β̇)
//! ᾱ˙ = ẇ·(w̄ − s) + w·(w̄˙ − ṡ)      β̄˙ = ẇ_e·(b̄ − m) + b·(b̄˙ − ṁ)
//! ```
//!
//! c is w/b. A few hundred numbers: the CPU code is the formula, in f64, and stands here.

mod cuda;
#[cfg(test)]
mod tests;

use super::cuda::Encoder;
use super::relax::softmax;
use super::{Context, Graph, Op, ParameterId, Pass, Role, Uses, WeightsId};
use std::ops::Range;

/// A tape entry; see the module.
pub struct EdgeRelax {
    alpha: ParameterId,
    beta: ParameterId,
    weights: WeightsId,
    ops: usize,
    /// The first edge of each node, and behind the last.
    first: Vec<usize>,
}

impl EdgeRelax {
    /// Relaxes `alpha`, `[edges, ops]`, and `beta`, `[edges]`; node i has the next `into[i]` edges.
    pub fn new(
        (alpha, beta): (ParameterId, ParameterId),
        weights: WeightsId,
        into: &[usize],
        ops: usize,
    ) -> EdgeRelax {
        let mut first = vec![0];
        for count in into {
            first.push(first[first.len() - 1] + count);
        }
        EdgeRelax {
            alpha,
            beta,
            weights,
            ops,
            first,
        }
    }

    /// The edges of each node.
    fn nodes(&self) -> impl Iterator<Item = Range<usize>> {
        self.first.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// An edge's elements of a vector of op weights; the last is the edge's own.
    fn row<'a>(&self, weights: &'a [f32], edge: usize) -> &'a [f32] {
        &weights[edge * (self.ops + 1)..(edge + 1) * (self.ops + 1)]
    }
}

/// Σ a·b over the ops, without the edge's own.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// x/b, and zero of an edge whose weight vanished.
fn over(x: f64, b: f64) -> f64 {
    if b > 0.0 { x / b } else { 0.0 }
}

/// What the backward passes of one edge are made of.
#[derive(Clone, Copy, Default)]
struct Edge {
    /// b, ḃ
    b: [f64; 2],
    /// s, ṡ
    s: [f64; 2],
    /// b̄, b̄˙
    bar: [f64; 2],
}

/// The roles of an op-weight vector.
struct Roles<'a> {
    w: &'a [f32],
    bar: &'a [f32],
    /// ẇ and w̄˙, in the tangent pass.
    dot: Option<[&'a [f32]; 2]>,
}

impl EdgeRelax {
    fn edge(&self, roles: &Roles, edge: usize) -> Edge {
        let (w, bar) = (self.row(roles.w, edge), self.row(roles.bar, edge));
        let b = f64::from(w[self.ops]);
        let s = over(dot(&w[..self.ops], bar), b);
        let mut found = Edge {
            b: [b, 0.0],
            s: [s, 0.0],
            bar: [f64::from(bar[self.ops]) + s, 0.0],
        };
        if let Some([w_dot, bar_dot]) = roles.dot {
            let (w_dot, bar_dot) = (self.row(w_dot, edge), self.row(bar_dot, edge));
            let b_dot = f64::from(w_dot[self.ops]);
            // ċ = (ẇ − ḃ·c)/b
            let sum = dot(&w_dot[..self.ops], bar) + dot(&w[..self.ops], bar_dot) - b_dot * s;
            let s_dot = over(sum, b);
            found.b[1] = b_dot;
            found.s[1] = s_dot;
            found.bar[1] = f64::from(bar_dot[self.ops]) + s_dot;
        }
        found
    }

    /// Both backward passes.
    fn back(&self, cx: &Context, roles: &Roles) {
        let (alpha, beta) = (
            cx.parameter_gradient(self.alpha).write(),
            cx.parameter_gradient(self.beta).write(),
        );
        for node in self.nodes() {
            let (mut m, mut m_dot) = (0.0, 0.0);
            for edge in node.clone() {
                let Edge { b, bar, .. } = self.edge(roles, edge);
                m += b[0] * bar[0];
                m_dot += b[1] * bar[0] + b[0] * bar[1];
            }
            for edge in node {
                let Edge { b, s, bar } = self.edge(roles, edge);
                let of = |weights| self.row(weights, edge);
                let (w, w_bar) = (of(roles.w), of(roles.bar));
                let dots = roles.dot.map(|[w_dot, bar_dot]| (of(w_dot), of(bar_dot)));
                for o in 0..self.ops {
                    let (w, lift) = (f64::from(w[o]), f64::from(w_bar[o]) - s[0]);
                    let value = match dots {
                        None => w * lift,
                        Some((w_dot, bar_dot)) => {
                            f64::from(w_dot[o]) * lift + w * (f64::from(bar_dot[o]) - s[1])
                        }
                    };
                    alpha[edge * self.ops + o] = value as f32;
                }
                let lift = bar[0] - m;
                beta[edge] = match dots {
                    None => b[0] * lift,
                    Some(_) => b[1] * lift + b[0] * (bar[1] - m_dot),
                } as f32;
            }
        }
    }
}

impl Op for EdgeRelax {
    fn name(&self) -> &'static str {
        "edge_relax"
    }

    fn uses(&self, _: &Graph, _: Pass) -> Uses {
        Uses::default()
    }

    fn forward(&self, cx: &Context) {
        let of = |id| cx.parameter(id).read();
        let (alpha, beta) = (of(self.alpha), of(self.beta));
        let weights = cx.weights(self.weights, Role::Value).write();
        for node in self.nodes() {
            // In double: the sum of the node's weights, and of each edge's, is one to the last bits of f32.
            let beta = &beta[node.clone()];
            let most = beta.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = beta.iter().map(|&x| f64::from(x - most).exp()).sum();
            for (edge, &x) in node.zip(beta) {
                let b = f64::from(x - most).exp() / total;
                let row = &mut weights[edge * (self.ops + 1)..(edge + 1) * (self.ops + 1)];
                let (ops, own) = row.split_at_mut(self.ops);
                softmax(&alpha[edge * self.ops..(edge + 1) * self.ops], ops);
                for w in ops {
                    *w = (f64::from(*w) * b) as f32;
                }
                own[0] = b as f32;
            }
        }
    }

    fn backward(&self, cx: &Context) {
        let of = |role| cx.weights(self.weights, role).read();
        let roles = Roles {
            w: of(Role::Value),
            bar: of(Role::Adjoint),
            dot: None,
        };
        self.back(cx, &roles);
    }

    fn tangent(&self, cx: &Context) {
        let of = |id| cx.parameter_tangent(id).read();
        let (alpha, beta) = (of(self.alpha), of(self.beta));
        let w = cx.weights(self.weights, Role::Value).read();
        let out = cx.weights(self.weights, Role::Tangent).write();
        for node in self.nodes() {
            let own = |edge: usize| f64::from(self.row(w, edge)[self.ops]);
            let mean: f64 = node
                .clone()
                .map(|edge| own(edge) * f64::from(beta[edge]))
                .sum();
            for edge in node {
                let w = self.row(w, edge);
                let alpha = &alpha[edge * self.ops..(edge + 1) * self.ops];
                let inner = over(dot(&w[..self.ops], alpha), own(edge));
                let outer = f64::from(beta[edge]) - mean;
                let at = edge * (self.ops + 1);
                for (o, &alpha) in alpha.iter().enumerate() {
                    let slope = f64::from(alpha) - inner + outer;
                    out[at + o] = (f64::from(w[o]) * slope) as f32;
                }
                out[at + self.ops] = (own(edge) * outer) as f32;
            }
        }
    }

    fn tangent_backward(&self, cx: &Context) {
        let of = |role| cx.weights(self.weights, role).read();
        let roles = Roles {
            w: of(Role::Value),
            bar: of(Role::Adjoint),
            dot: Some([of(Role::Tangent), of(Role::AdjointTangent)]),
        };
        self.back(cx, &roles);
    }

    fn encode(&self, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
        cuda::encode(self, pass, encoder)
    }
}
