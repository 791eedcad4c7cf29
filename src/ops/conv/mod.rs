//! Dense convolution: optional relu → k×k, with the batch statistics of its result; and factorized
//! reduction, which is the same op with two taps.
//!
//! ```text
//! a = x, relu(x)                      x: [N, H, W, Cin]
//! z = Σ_tap a[s·y + tap] · W_tap + b  W: [k, k, Cin, Cout],  z: [N, ⌈H/s⌉, ⌈W/s⌉, Cout]
//! W̄_tap = a[tap]ᵀ z̄      ā = Σ_tap z̄[tap]ᵀ · W_tapᵀ      x̄ = 1[a > 0] ∘ ā
//! ż = ȧ ⋆ W + a ⋆ Ẇ + ḃ
//! W̄˙_tap = ȧ[tap]ᵀ z̄ + a[tap]ᵀ z̄˙      ā˙ = z̄˙ ⋆ᵀ W + z̄ ⋆ᵀ Ẇ
//! ```
//!
//! **Factorized reduction** (DARTS): relu, then two 1×1 convolutions of stride 2, the second on the
//! image shifted by one pixel, side by side on channels: a 2×2 window of which tap (0, 0) feeds the
//! first half of the channels and tap (1, 1) the second.
//!
//! **One axis** (1×3, 3×1, 1×7, 7×1): the middle row or column of a square window; other taps are never
//! visited. **2×2 at stride 2** on a 2×2 map is the auxiliary head's convolution without padding.
//!
//! **Bias** is for outputs that batch norm reads, as NAS-Bench-201 has it. Batch norm removes it
//! again, so ∂L/∂b and every product's part for b are zero exactly, not to rounding.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use super::adjoint::coefficients_len;
use super::chunked::Partials;
use super::cuda::Encoder;
use super::geometry::{ParityClass, Tap, Window};
use super::statistics::partial_len;
use super::{ActivationId, Context, Graph, MAX_SOURCES, Op, ParameterId, Pass, Uses};
use crate::device::simd::padded;

/// One weight tensor of the convolution and where it acts.
#[derive(Clone, Debug)]
struct Part {
    weight: ParameterId,
    /// Taps of the window it holds, in order.
    taps: Vec<usize>,
    /// First output channel.
    first: usize,
    /// Output channels.
    channels: usize,
}

/// Which middle of a window a convolution along one axis takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Row,
    Column,
}

/// A tape entry; see the module.
pub struct Conv {
    input: ActivationId,
    output: ActivationId,
    relu: bool,
    window: Window,
    cin: usize,
    cout: usize,
    axis: Option<Axis>,
    parts: Vec<Part>,
    bias: Option<ParameterId>,
    border: usize,
    taps: Vec<Tap>,
    classes: Vec<ParityClass>,
    batch: usize,
}

impl Conv {
    /// A k×k convolution with `[k, k, Cin, Cout]` weights and padding (k−1)/2.
    ///
    /// # Panics
    /// A bias on an output that is not normalised: see the module.
    pub fn new(
        graph: &Graph,
        (input, output): (ActivationId, ActivationId),
        (kernel, stride): (usize, usize),
        relu: bool,
        weight: ParameterId,
        bias: Option<ParameterId>,
    ) -> Conv {
        let channels = graph.activation(output).channels;
        let taps = (0..kernel * kernel).collect();
        let parts = vec![Part {
            weight,
            taps,
            first: 0,
            channels,
        }];
        assert!(
            bias.is_none() || graph.activation(output).normalised,
            "a bias is normalised away"
        );
        Conv::planned(graph, (input, output), (kernel, stride), relu, parts, bias)
    }

    /// A convolution along one axis: `[k, Cin, Cout]` weights on the middle row (`vertical`: column)
    /// of a k×k window, into a plain output.
    pub fn along(
        graph: &Graph,
        (input, output): (ActivationId, ActivationId),
        (kernel, stride): (usize, usize),
        vertical: bool,
        relu: bool,
        weight: ParameterId,
    ) -> Conv {
        let middle = kernel / 2;
        let tap = |i: usize| match vertical {
            true => i * kernel + middle,
            false => middle * kernel + i,
        };
        let parts = vec![Part {
            weight,
            taps: (0..kernel).map(tap).collect(),
            first: 0,
            channels: graph.activation(output).channels,
        }];
        let conv = Conv::planned(graph, (input, output), (kernel, stride), relu, parts, None);
        let axis = Some(if vertical { Axis::Column } else { Axis::Row });
        Conv { axis, ..conv }
    }

    /// Factorized reduction with two `[Cin, Cout/2]` weights; H and W are even.
    pub fn factorized_reduce(
        graph: &Graph,
        (input, output): (ActivationId, ActivationId),
        weights: [ParameterId; 2],
    ) -> Conv {
        let channels = graph.activation(output).channels;
        let half = channels / 2;
        let part = |i: usize, tap, first, channels| Part {
            weight: weights[i],
            taps: vec![tap],
            first,
            channels,
        };
        let parts = vec![part(0, 0, 0, half), part(1, 3, half, channels - half)];
        Conv::planned(graph, (input, output), (2, 2), true, parts, None)
    }

    fn planned(
        graph: &Graph,
        (input, output): (ActivationId, ActivationId),
        (kernel, stride): (usize, usize),
        relu: bool,
        parts: Vec<Part>,
        bias: Option<ParameterId>,
    ) -> Conv {
        let from = graph.activation(input);
        let (cin, cout) = (from.channels, graph.activation(output).channels);
        assert!(
            !from.normalised,
            "a dense convolution reads a plain activation"
        );
        let window = Window {
            kernel,
            stride,
            dilation: 1,
            input: [from.height, from.width],
        };
        // A 2×2 window reaches one pixel past the image's end, never before its start.
        let border = window.padding().max(usize::from(kernel == 2));
        let used: Vec<usize> = parts.iter().flat_map(|p| p.taps.clone()).collect();
        let pick = |taps: Vec<Tap>| -> Vec<Tap> { used.iter().map(|&t| taps[t]).collect() };
        let taps = pick(window.taps(border, padded(cin), cin * padded(cout)));
        let per_tap = cout * padded(cin);
        let mut classes = window.transposed(window.transpose_border(), padded(cout), per_tap);
        for class in &mut classes {
            class.taps.retain(|t| used.contains(&(t.weight / per_tap)));
        }
        let batch = graph.batch;
        Conv {
            input,
            output,
            relu,
            window,
            cin,
            cout,
            axis: None,
            parts,
            bias,
            border,
            taps,
            classes,
            batch,
        }
    }

    fn tap_count(&self) -> usize {
        self.window.kernel * self.window.kernel
    }

    /// f32 of the packed weights `[taps, Cin, padded(Cout)]`.
    fn packed_len(&self) -> usize {
        self.tap_count() * self.cin * padded(self.cout)
    }

    /// f32 of their per-tap transposes `[taps, Cout, padded(Cin)]`.
    fn transposed_len(&self) -> usize {
        self.tap_count() * self.cout * padded(self.cin)
    }

    /// Packed weights and their tangents, a bias row, adjoint coefficients.
    fn shared_len(&self) -> usize {
        2 * (self.packed_len() + self.transposed_len() + padded(self.cout))
            + coefficients_len(self.cout, MAX_SOURCES)
    }

    /// Weight gradients or statistics, and adjoint sums of the input.
    fn chunk_len(&self) -> usize {
        self.packed_len().max(partial_len(self.cout)) + 2 * padded(self.cin)
    }
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        if self.parts.len() == 2 {
            "factorized_reduce"
        } else {
            "conv"
        }
    }

    fn uses(&self, graph: &Graph, pass: Pass) -> Uses {
        let workspace = self.shared_len() + Partials::len(self.batch, self.chunk_len());
        Uses::of_pass(
            graph,
            pass,
            &[self.input],
            &[self.output],
            |_| true,
            workspace,
        )
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
