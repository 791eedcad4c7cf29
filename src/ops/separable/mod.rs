//! Separable convolution: relu → depthwise k×k → pointwise, with the batch statistics of its result.
//!
//! ```text
//! a = relu(x)  or  relu(batchnorm(x))          x: [N, H, W, Cin]
//! d = Σ_tap a[s·y + tap] ∘ w_tap                w: [k, k, Cin]
//! z = d · P                                     P: [Cin, Cout],  z: [N, ⌈H/s⌉, ⌈W/s⌉, Cout]
//! ```
//!
//! With z̄ the adjoint of z, and ⋆ᵀ the transpose of the depthwise window:
//!
//! ```text
//! P̄ = dᵀz̄     d̄ = z̄Pᵀ     w̄_tap = Σ d̄ ∘ a[tap]     ā = d̄ ⋆ᵀ w     x̄ = 1[a > 0] ∘ ā
//! ```
//!
//! The tangent pass differentiates the first block along (ẋ, ẇ, Ṗ), the fourth pass the second:
//!
//! ```text
//! ḋ = ȧ ⋆ w + a ⋆ ẇ          ż = ḋP + dṖ
//! P̄˙ = ḋᵀz̄ + dᵀz̄˙            d̄˙ = z̄˙Pᵀ + z̄Ṗᵀ
//! w̄˙_tap = Σ d̄˙ ∘ a + d̄ ∘ ȧ    ā˙ = d̄˙ ⋆ᵀ w + d̄ ⋆ᵀ ẇ    (relu has no second derivative)
//! ```
//!
//! One tape entry holds *groups* of branches; the branches of a group read one state and share its
//! load, its relu and its normalisation. d never reaches memory: it is a row in cache, computed
//! again in the backward passes for less than a read would cost.

mod cpu;
mod cuda;
mod packed;
#[cfg(test)]
pub(crate) mod terms;
#[cfg(test)]
mod tests;

use super::adjoint::coefficients_len;
use super::chunked::Partials;
use super::cuda::Encoder;
use super::geometry::{ParityClass, Tap, Window};
use super::statistics::partial_len;
use super::{ActivationId, Context, Graph, MAX_SOURCES, Op, ParameterId, Pass, Uses};
use crate::device::simd::padded;

/// One separable convolution of a group.
#[derive(Clone, Copy, Debug)]
pub struct Branch {
    /// k: 3, 5 or 7.
    pub kernel: usize,
    /// s: 1 or 2.
    pub stride: usize,
    /// d: 1 or 2.
    pub dilation: usize,
    /// w, `[k, k, Cin]`.
    pub depthwise: ParameterId,
    /// P, `[Cin, Cout]`.
    pub pointwise: ParameterId,
    /// z
    pub output: ActivationId,
}

/// Branches that read one activation.
#[derive(Clone, Debug)]
pub struct Group {
    /// x; if it is normalised, the branches read relu(batchnorm(x)).
    pub input: ActivationId,
    /// The branches.
    pub branches: Vec<Branch>,
}

/// A tape entry; see the module.
pub struct Separable {
    groups: Vec<PlannedGroup>,
    /// Workspace before the chunks' partial sums.
    shared_len: usize,
    /// Partial sums of one chunk.
    chunk_len: usize,
    batch: usize,
}

struct PlannedGroup {
    input: ActivationId,
    channels: usize,
    size: [usize; 2],
    /// Zeros around the image in scratch: the widest branch's.
    border: usize,
    /// Adjoint sums of the input in a chunk's partials.
    sums: usize,
    branches: Vec<PlannedBranch>,
    cuts: cuda::Cuts,
}

struct PlannedBranch {
    branch: Branch,
    window: Window,
    channels_out: usize,
    taps: Vec<Tap>,
    classes: Vec<ParityClass>,
    /// Packed w, P, Pᵀ, and after them their tangents.
    packed: usize,
    coefficients: usize,
    /// Statistics, or weight gradients, in a chunk's partials.
    partial: usize,
}

impl PlannedGroup {
    /// The branches whose output something reads.
    fn live<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = &'a PlannedBranch> {
        let branches = self.branches.iter();
        branches.filter(|planned| graph.is_live(planned.branch.output))
    }
}

impl PlannedBranch {
    fn depthwise_len(&self, cin: usize) -> usize {
        self.taps.len() * padded(cin)
    }

    fn pointwise_len(&self, cin: usize) -> usize {
        cin * padded(self.channels_out)
    }

    fn packed_len(&self, cin: usize) -> usize {
        self.depthwise_len(cin) + self.pointwise_len(cin) + self.channels_out * padded(cin)
    }
}

impl Separable {
    /// Plans the entry for the shapes in `graph`.
    pub fn new(graph: &Graph, groups: Vec<Group>) -> Separable {
        let (mut shared_len, mut chunk_len) = (0, 0);
        let take = |total: &mut usize, len: usize| {
            *total += len;
            *total - len
        };
        let groups = groups
            .into_iter()
            .map(|group| {
                let input = graph.activation(group.input);
                let (channels, size) = (input.channels, [input.height, input.width]);
                let window = |b: &Branch| Window {
                    kernel: b.kernel,
                    stride: b.stride,
                    dilation: b.dilation,
                    input: size,
                };
                let border = group
                    .branches
                    .iter()
                    .map(|b| window(b).padding())
                    .max()
                    .unwrap_or(0);
                let branches = group.branches.iter().map(|branch| {
                    let window = window(branch);
                    let step = padded(channels);
                    let mut planned = PlannedBranch {
                        branch: *branch,
                        window,
                        channels_out: graph.activation(branch.output).channels,
                        taps: window.taps(border, step, step),
                        classes: window.transposed(window.transpose_border(), step, step),
                        packed: 0,
                        coefficients: 0,
                        partial: 0,
                    };
                    planned.packed = take(&mut shared_len, 2 * planned.packed_len(channels));
                    planned.coefficients = take(
                        &mut shared_len,
                        coefficients_len(planned.channels_out, MAX_SOURCES),
                    );
                    let gradient =
                        planned.depthwise_len(channels) + planned.pointwise_len(channels);
                    planned.partial = take(
                        &mut chunk_len,
                        gradient.max(partial_len(planned.channels_out)),
                    );
                    planned
                });
                let branches = branches.collect();
                let sums = take(&mut chunk_len, 2 * padded(channels));
                PlannedGroup {
                    input: group.input,
                    channels,
                    size,
                    border,
                    sums,
                    branches,
                    cuts: cuda::Cuts::default(),
                }
            })
            .collect();
        Separable {
            groups,
            shared_len,
            chunk_len,
            batch: graph.batch,
        }
    }

    /// The inputs of the groups that have a branch to run.
    fn inputs(&self, graph: &Graph) -> Vec<ActivationId> {
        let groups = self.groups.iter();
        let running = groups.filter(|group| group.live(graph).next().is_some());
        running.map(|group| group.input).collect()
    }

    fn outputs(&self) -> Vec<ActivationId> {
        self.groups
            .iter()
            .flat_map(|g| g.branches.iter().map(|b| b.branch.output))
            .collect()
    }
}

impl Op for Separable {
    fn name(&self) -> &'static str {
        "separable"
    }

    fn uses(&self, graph: &Graph, pass: Pass) -> Uses {
        let inputs = self.inputs(graph);
        let workspace = self.shared_len + Partials::len(self.batch, self.chunk_len);
        Uses::of_pass(graph, pass, &inputs, &self.outputs(), |_| true, workspace)
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
