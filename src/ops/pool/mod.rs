//! Pooling: 3×3 average (padding not counted), 3×3, 5×5, 7×7 and 2×2 maximum, 2×2 and 5×5 average, with
//! batch statistics; of x or of relu(x).
//!
//! ```text
//! avg: z[y] = Σ_{window ∩ image} x / |window ∩ image|       max: z[y] = max_{window ∩ image} x
//! ```
//!
//! Both are linear once the maximum's place is known (the first in row-major order, as PyTorch
//! takes it), so the tangent is the same map applied to ẋ, and both backward passes its transpose
//! applied to z̄ or z̄˙. The place is found again from x rather than stored. One entry serves all
//! outgoing edges of a state: a pool has no parameters.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use super::adjoint::coefficients_len;
use super::chunked::Partials;
use super::cuda::Encoder;
use super::statistics::partial_len;
use super::{ActivationId, Context, Graph, MAX_SOURCES, Op, Pass, Uses};
use crate::device::simd::padded;

/// Which pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 3×3 average, padding 1, not counted.
    Average3,
    /// 3×3 maximum, padding 1.
    Maximum3,
    /// 5×5 maximum, padding 2.
    Maximum5,
    /// 7×7 maximum, padding 3.
    Maximum7,
    /// 2×2 average without padding.
    Average2,
    /// 2×2 maximum without padding.
    Maximum2,
    /// 5×5 average without padding: an auxiliary head's.
    Average5,
}

impl Kind {
    /// k of its k×k window.
    fn side(self) -> usize {
        match self {
            Kind::Average2 | Kind::Maximum2 => 2,
            Kind::Average3 | Kind::Maximum3 => 3,
            Kind::Average5 | Kind::Maximum5 => 5,
            Kind::Maximum7 => 7,
        }
    }

    /// Pixels that a window may reach past the image, where it may: half of it.
    fn padding(self) -> usize {
        match self {
            Kind::Average2 | Kind::Maximum2 | Kind::Average5 => 0,
            Kind::Average3 | Kind::Maximum3 | Kind::Maximum5 | Kind::Maximum7 => self.side() / 2,
        }
    }

    fn is_maximum(self) -> bool {
        match self {
            Kind::Maximum2 | Kind::Maximum3 | Kind::Maximum5 | Kind::Maximum7 => true,
            Kind::Average2 | Kind::Average3 | Kind::Average5 => false,
        }
    }
}

/// One pool of an entry: kind and output.
#[derive(Clone, Copy, Debug)]
pub struct Branch {
    /// Which pool.
    pub kind: Kind,
    /// z
    pub output: ActivationId,
}

/// A tape entry: pools of one input with one stride.
pub struct Pool {
    input: ActivationId,
    relu: bool,
    stride: usize,
    branches: Vec<Branch>,
    size: [usize; 2],
    channels: usize,
    batch: usize,
}

impl Pool {
    /// Pools `input`, or its relu, with `stride`.
    pub fn new(
        graph: &Graph,
        input: ActivationId,
        relu: bool,
        stride: usize,
        branches: Vec<Branch>,
    ) -> Pool {
        let from = graph.activation(input);
        assert!(!from.normalised, "a pool reads a plain activation");
        let (size, channels, batch) = ([from.height, from.width], from.channels, graph.batch);
        Pool {
            input,
            relu,
            stride,
            branches,
            size,
            channels,
            batch,
        }
    }

    /// Output H, W.
    pub fn output_size(kind: Kind, stride: usize, size: [usize; 2]) -> [usize; 2] {
        size.map(|s| (s + 2 * kind.padding() - kind.side()) / stride + 1)
    }

    /// Adjoint coefficients of each branch.
    fn shared_len(&self) -> usize {
        self.branches.len() * coefficients_len(self.channels, MAX_SOURCES)
    }

    /// Statistics of each branch, then adjoint sums (unused: the input is plain).
    fn chunk_len(&self) -> usize {
        self.branches.len() * partial_len(self.channels) + 2 * padded(self.channels)
    }
}

impl Op for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn uses(&self, graph: &Graph, pass: Pass) -> Uses {
        let outputs: Vec<_> = self.branches.iter().map(|b| b.output).collect();
        let workspace = self.shared_len() + Partials::len(self.batch, self.chunk_len());
        Uses::of_pass(graph, pass, &[self.input], &outputs, |_| true, workspace)
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
