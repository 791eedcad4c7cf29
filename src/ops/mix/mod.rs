//! The mixed op of a node: every branch of every edge that enters it, in one read and one write.
//!
//! ```text
//! y = Σ_b s_b · x̂_b + Σ_j s_j · x_j + β         x̂ = (z − μ)·r, s: an op weight, a gain γ, or 1
//! ```
//!
//! Batch norm alone, affine or not, is a mix of one term. With ȳ the adjoint of y:
//!
//! ```text
//! s̄_b = Σ ȳ·x̂_b      S₁ += s_b·Σ ȳ      S₂ += s_b·Σ ȳ·x̂_b      x̄_j += s_j·ȳ      β̄ = Σ ȳ
//! ```
//!
//! The branch's own adjoint stays lazy: its producer evaluates it from ȳ, S₁ and S₂
//! ([`super::adjoint`]). Along a direction, with x̂˙ from [`super::statistics`]:
//!
//! ```text
//! ẏ = Σ ṡ·x̂ + s·x̂˙ + Σ ṡ·x + s·ẋ + β̇         s̄˙ = Σ ȳ˙·x̂ + ȳ·x̂˙
//! Ṡ₁ += ṡ·Σ ȳ + s·Σ ȳ˙      Ṡ₂ += ṡ·Σ ȳ·x̂ + s·s̄˙      x̄˙ += ṡ·ȳ + s·ȳ˙
//! ```

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use super::adjoint::coefficients_len;
use super::chunked::Partials;
use super::cuda::Encoder;
use super::statistics::partial_len;
use super::{ActivationId, Context, Graph, MAX_SOURCES, Op, ParameterId, Pass, Role, Scale, Uses};
use crate::device::simd::padded;

/// One term of the sum.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// z, read through batch norm if it is normalised, else x.
    pub input: ActivationId,
    /// s
    pub scale: Scale,
}

/// A tape entry; see the module.
pub struct Mix {
    terms: Vec<Term>,
    /// Whether the term's input is normalised.
    normalised: Vec<bool>,
    shift: Option<ParameterId>,
    output: ActivationId,
    output_normalised: bool,
    channels: usize,
    size: [usize; 2],
    batch: usize,
}

impl Mix {
    /// Sums `terms`, plus β per channel if `shift` is given.
    pub fn new(
        graph: &Graph,
        terms: Vec<Term>,
        shift: Option<ParameterId>,
        output: ActivationId,
    ) -> Mix {
        let to = graph.activation(output);
        let normalised = terms
            .iter()
            .map(|t| graph.activation(t.input).normalised)
            .collect();
        Mix {
            terms,
            normalised,
            shift,
            output,
            output_normalised: to.normalised,
            channels: to.channels,
            size: [to.height, to.width],
            batch: graph.batch,
        }
    }

    /// The terms that take part, with their places.
    fn active<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = (usize, &'a Term)> {
        let terms = self.terms.iter().enumerate();
        terms.filter(|(_, term)| graph.is_active(term.scale))
    }

    /// Rows of per-channel coefficients: one constant, then two a term.
    fn table_rows(&self) -> usize {
        1 + 2 * self.terms.len()
    }

    fn shared_len(&self) -> usize {
        self.table_rows() * padded(self.channels) + coefficients_len(self.channels, MAX_SOURCES)
    }

    /// Sums of a chunk: Σ ȳ, Σ ȳ˙, then two rows a term; or the output's statistics.
    fn chunk_len(&self) -> usize {
        ((2 + 2 * self.terms.len()) * padded(self.channels)).max(partial_len(self.channels))
    }
}

impl Op for Mix {
    fn name(&self) -> &'static str {
        "mix"
    }

    fn uses(&self, graph: &Graph, pass: Pass) -> Uses {
        let inputs: Vec<_> = self.active(graph).map(|(_, term)| term.input).collect();
        let workspace = self.shared_len() + Partials::len(self.batch, self.chunk_len());
        let plain = |id| !graph.activation(id).normalised;
        let mut uses = Uses::of_pass(graph, pass, &inputs, &[self.output], plain, workspace);
        // The branches' adjoints are read from ȳ later, so a lazy ȳ is written out here.
        if self.output_normalised && graph.is_live(self.output) {
            match pass {
                Pass::Backward => uses.writes.push((self.output, Role::Adjoint)),
                Pass::TangentBackward => {
                    uses.writes.push((self.output, Role::AdjointTangent));
                }
                Pass::Forward | Pass::Tangent => {}
            }
        }
        uses
    }

    fn forward(&self, cx: &Context) {
        cpu::forward(self, cx);
    }

    fn backward(&self, cx: &Context) {
        cpu::backward(self, cx);
    }

    fn tangent(&self, cx: &Context) {
        cpu::tangent(self, cx);
    }

    fn tangent_backward(&self, cx: &Context) {
        cpu::tangent_backward(self, cx);
    }

    fn encode(&self, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
        cuda::encode(self, pass, encoder)
    }
}
