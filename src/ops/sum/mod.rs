//! The sum of a derived network's node: plain activations, each with a factor an image.
//!
//! ```text
//! y[n] = Σ_j f_j[n] · x_j[n]      x̄_j[n] += f_j[n] · ȳ[n]
//! ẏ[n] = Σ_j f_j[n] · ẋ_j[n]      x̄˙_j[n] += f_j[n] · ȳ˙[n]
//! ```
//!
//! The factors are drop path's (Larsson et al. 2017): 0 where image n drops branch j, else
//! 1/(1 − p), so that the expectation is the plain sum. They are no parameters: a caller draws them
//! and sets them before a pass; a term without a row of factors, and every term in inference, has
//! factor 1. With no terms y is zero.

mod cpu;
#[cfg(test)]
mod tests;

use super::{ActivationId, Context, Graph, Op, Pass, Role, Uses};

/// One term of the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// x
    pub input: ActivationId,
    /// Its row of factors, if it has one.
    pub factor: Option<usize>,
}

/// A tape entry; see the module.
pub struct Sum {
    terms: Vec<Term>,
    output: ActivationId,
    batch: usize,
}

impl Sum {
    /// Sums `terms` into `output`, all plain and of one shape.
    ///
    /// # Panics
    /// A normalised activation: batch norm is a mix.
    pub fn new(graph: &Graph, terms: Vec<Term>, output: ActivationId) -> Sum {
        let plain = |id| !graph.activation(id).normalised;
        assert!(
            plain(output) && terms.iter().all(|term| plain(term.input)),
            "a sum reads and writes plain activations"
        );
        let batch = graph.batch;
        Sum {
            terms,
            output,
            batch,
        }
    }
}

impl Op for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    /// Linear in its inputs: no pass needs a value of an earlier one.
    fn uses(&self, graph: &Graph, pass: Pass) -> Uses {
        let inputs = |role| {
            let moving =
                |term: &&Term| role == Role::Value || graph.activation(term.input).differentiable;
            let terms = self.terms.iter().filter(moving);
            terms.map(|term| (term.input, role)).collect::<Vec<_>>()
        };
        let forward = |role| (inputs(role), vec![(self.output, role)]);
        let backward = |role| (vec![(self.output, role)], inputs(role));
        let (reads, writes) = match pass {
            Pass::Forward => forward(Role::Value),
            Pass::Tangent => forward(Role::Tangent),
            Pass::Backward => backward(Role::Adjoint),
            Pass::TangentBackward => backward(Role::AdjointTangent),
        };
        Uses {
            reads,
            writes,
            workspace: 0,
        }
    }

    fn forward(&self, cx: &Context) {
        cpu::gather(self, cx, Role::Value);
    }

    fn backward(&self, cx: &Context) {
        cpu::scatter(self, cx, Role::Adjoint);
    }

    fn tangent(&self, cx: &Context) {
        cpu::gather(self, cx, Role::Tangent);
    }

    fn tangent_backward(&self, cx: &Context) {
        cpu::scatter(self, cx, Role::AdjointTangent);
    }
}
