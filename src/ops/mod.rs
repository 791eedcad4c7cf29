//! The ops of a tape, one folder each, and the terms they are written in.
//!
//! **Activations** are NHWC. One that is *normalised* holds the raw z a convolution or a pool
//! produced; its producer also leaves the batch statistics, and every reader applies
//! x̂ = (z − μ)·r as it loads. The adjoint of such a z is never stored: batch norm's backward is
//! affine in what the readers already hold (see [`adjoint`]), so the producer evaluates it while
//! loading. That is what keeps the supernet's 600 branches at one write and few reads each.
//!
//! **The four passes** of an [`Op`] are `forward`, `backward`, `tangent` and `tangent_backward`; a
//! pass reads and writes only what the op named in [`Op::uses`], from which the memory plan is made.

pub mod adjoint;
pub mod chunked;
pub mod classifier;
pub mod conv;
pub mod cuda;
#[cfg(test)]
mod differences;
pub mod dropout;
pub mod edge_relax;
pub mod geometry;
pub mod micro;
pub mod mix;
pub mod perturb;
pub mod pool;
pub mod relax;
pub mod rows;
pub mod separable;
pub mod shuffle;
pub mod statistics;
pub mod sum;
pub mod update;

use crate::device::View;
use crate::device::cache::last_level;
use crate::device::simd::{LANES, padded};
use std::any::Any;
use std::sync::Mutex;

/// Added to the variance in every batch norm, as in PyTorch.
pub const NORM_EPSILON: f64 = 1e-5;

/// Most readers an activation's adjoint may come from: a pool feeds one mix an outgoing edge.
pub const MAX_SOURCES: usize = 16;

/// An activation of a tape, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActivationId(pub usize);

/// A parameter tensor of a tape, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub usize);

/// A vector of op weights c (the relaxed α), by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightsId(pub usize);

/// One of the four passes over a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Values.
    Forward,
    /// Adjoints: ∂L/∂.
    Backward,
    /// Directional derivatives of the values.
    Tangent,
    /// Directional derivatives of the adjoints.
    TangentBackward,
}

/// What a buffer of an activation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The value.
    Value,
    /// ∂L/∂value; for a normalised activation ∂L/∂x̂, where a reader stores it.
    Adjoint,
    /// The directional derivative of the value.
    Tangent,
    /// The directional derivative of the adjoint.
    AdjointTangent,
}

impl Role {
    /// All roles, in the order of their discriminants.
    pub const ALL: [Role; 4] = [
        Role::Value,
        Role::Adjoint,
        Role::Tangent,
        Role::AdjointTangent,
    ];
}

/// Factor between a reader's adjoint and ∂L/∂x̂.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// 1
    One,
    /// The op weight c_i.
    OpWeight(WeightsId, usize),
    /// The channel's batch norm gain γ.
    Gain(ParameterId),
}

/// One place the adjoint of a normalised activation comes from: `scale · Adjoint(at)`.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Whose stored adjoint.
    pub at: ActivationId,
    /// Times what.
    pub scale: Scale,
}

/// Shape, kind and readers of an activation. The batch is the tape's.
#[derive(Clone, Debug)]
pub struct Activation {
    /// H
    pub height: usize,
    /// W
    pub width: usize,
    /// C
    pub channels: usize,
    /// A channel slice of another activation: (whole, first channel).
    pub slice_of: Option<(ActivationId, usize)>,
    /// Readers see batch norm of it.
    pub normalised: bool,
    /// False for the images, whose gradient nobody asks for.
    pub differentiable: bool,
    /// Readers, for a normalised activation.
    pub sources: Vec<Source>,
    /// Something that runs reads it. All are live where every op runs; see [`Graph::is_live`].
    pub live: bool,
}

/// Where a parameter lives in the flat vector θ = (ω, α).
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First element.
    pub offset: usize,
    /// Elements.
    pub len: usize,
}

/// Shapes of everything on a tape; what an op looks up by number.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// N, images a batch.
    pub batch: usize,
    /// Activations.
    pub activations: Vec<Activation>,
    /// Parameters.
    pub parameters: Vec<Span>,
    /// Lengths of the op-weight vectors.
    pub weights: Vec<usize>,
    /// Which op weights of each vector take part; empty where all do.
    pub active: Vec<Vec<bool>>,
}

impl Graph {
    /// The activation's entry.
    pub fn activation(&self, id: ActivationId) -> &Activation {
        &self.activations[id.0]
    }

    /// The activation that owns the buffer: itself, or the whole it is a slice of.
    pub fn owner(&self, id: ActivationId) -> ActivationId {
        self.activation(id).slice_of.map_or(id, |(whole, _)| whole)
    }

    /// True if something that runs reads the activation, or the whole it is a slice of. An op computes
    /// no output that is not live.
    pub fn is_live(&self, id: ActivationId) -> bool {
        self.activation(id).live || self.activation(self.owner(id)).live
    }

    /// False for an op weight that takes no part in this run: its term is left out of the sum.
    pub fn is_active(&self, scale: Scale) -> bool {
        match scale {
            Scale::OpWeight(id, index) if !self.active.is_empty() => self.active[id.0][index],
            _ => true,
        }
    }

    /// The stored adjoints that an output's adjoint is made of, in the given role.
    pub fn adjoint_buffers(&self, id: ActivationId, role: Role) -> Vec<(ActivationId, Role)> {
        let activation = self.activation(id);
        if activation.normalised {
            activation.sources.iter().map(|s| (s.at, role)).collect()
        } else {
            vec![(id, role)]
        }
    }
}

/// What one pass of an op touches.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// Buffers read.
    pub reads: Vec<(ActivationId, Role)>,
    /// Buffers written (or added to).
    pub writes: Vec<(ActivationId, Role)>,
    /// f32 of memory the op wants for the call alone.
    pub workspace: usize,
}

impl Uses {
    /// What nearly every op touches: inputs and outputs in the roles of the pass. `input_adjoint`
    /// says whether the op stores an input's adjoint itself (a mix leaves a normalised one lazy).
    /// Outputs that are not live are left out; where none is, nothing is touched.
    pub fn of_pass(
        graph: &Graph,
        pass: Pass,
        inputs: &[ActivationId],
        outputs: &[ActivationId],
        input_adjoint: impl Fn(ActivationId) -> bool,
        workspace: usize,
    ) -> Uses {
        let mut uses = Uses {
            workspace,
            ..Uses::default()
        };
        let live: Vec<_> = outputs
            .iter()
            .copied()
            .filter(|&id| graph.is_live(id))
            .collect();
        if live.is_empty() && !outputs.is_empty() {
            return uses;
        }
        let outputs = live.as_slice();
        let stored =
            |id: &&ActivationId| graph.activation(**id).differentiable && input_adjoint(**id);
        let tangents = |id: &&ActivationId| graph.activation(**id).differentiable;
        uses.reads
            .extend(inputs.iter().map(|&id| (id, Role::Value)));
        match pass {
            Pass::Forward => uses
                .writes
                .extend(outputs.iter().map(|&id| (id, Role::Value))),
            Pass::Backward => {
                for &id in outputs {
                    uses.reads.push((id, Role::Value));
                    uses.reads.extend(graph.adjoint_buffers(id, Role::Adjoint));
                }
                uses.writes
                    .extend(inputs.iter().filter(stored).map(|&id| (id, Role::Adjoint)));
            }
            Pass::Tangent => {
                uses.reads.extend(
                    inputs
                        .iter()
                        .filter(tangents)
                        .map(|&id| (id, Role::Tangent)),
                );
                uses.reads
                    .extend(outputs.iter().map(|&id| (id, Role::Value)));
                uses.writes
                    .extend(outputs.iter().map(|&id| (id, Role::Tangent)));
            }
            Pass::TangentBackward => {
                uses.reads.extend(
                    inputs
                        .iter()
                        .filter(tangents)
                        .map(|&id| (id, Role::Tangent)),
                );
                for &id in outputs {
                    uses.reads.extend([(id, Role::Value), (id, Role::Tangent)]);
                    uses.reads.extend(graph.adjoint_buffers(id, Role::Adjoint));
                    uses.reads
                        .extend(graph.adjoint_buffers(id, Role::AdjointTangent));
                }
                uses.reads
                    .extend(inputs.iter().filter(stored).map(|&id| (id, Role::Adjoint)));
                uses.writes.extend(
                    inputs
                        .iter()
                        .filter(stored)
                        .map(|&id| (id, Role::AdjointTangent)),
                );
            }
        }
        uses
    }
}

impl Uses {
    /// What a map touches that is linear in its one input: no pass needs a value of an earlier one.
    pub fn linear(graph: &Graph, pass: Pass, input: ActivationId, output: ActivationId) -> Uses {
        if !graph.is_live(output) {
            return Uses::default();
        }
        let (read, written) = match pass {
            Pass::Forward => ((input, Role::Value), (output, Role::Value)),
            Pass::Tangent => ((input, Role::Tangent), (output, Role::Tangent)),
            Pass::Backward => ((output, Role::Adjoint), (input, Role::Adjoint)),
            Pass::TangentBackward => (
                (output, Role::AdjointTangent),
                (input, Role::AdjointTangent),
            ),
        };
        Uses {
            reads: vec![read],
            writes: vec![written],
            workspace: 0,
        }
    }
}

/// An entry of a tape.
pub trait Op: Send + Sync + Any {
    /// The op's name, for messages and profiles.
    fn name(&self) -> &'static str;
    /// What a pass touches.
    fn uses(&self, graph: &Graph, pass: Pass) -> Uses;
    /// Values and statistics of the outputs.
    fn forward(&self, cx: &Context);
    /// Adjoints of the inputs and parameters.
    fn backward(&self, cx: &Context);
    /// Tangents of the outputs along the pass's direction.
    fn tangent(&self, cx: &Context);
    /// Tangents of the adjoints of the inputs and parameters.
    fn tangent_backward(&self, cx: &Context);
    /// Encodes a pass's launches on CUDA.
    ///
    /// # Errors
    /// A size that the op's kernels do not take, or an op that has none.
    fn encode(&self, _pass: Pass, _encoder: &mut cuda::Encoder) -> anyhow::Result<()> {
        anyhow::bail!(
            "{} has no CUDA kernels in this build; use --device cpu",
            self.name()
        )
    }
}

/// Least bytes of an arena from which on the CPU writes past its caches, however small they are.
const FEWEST_STREAMED: usize = 24 << 20;

/// Whether the CPU writes past its caches what it does not read again itself. It pays where an arena is larger than a
/// core's share of the last cache: a quarter of it was between what lost and what won by it, on processors
/// with 32 and with 480 MiB of it.
fn streams(arena: View) -> bool {
    4 * arena.len() >= FEWEST_STREAMED.max(last_level() / 4)
}

/// A planned NHWC buffer: `[N, H, W, C]`, pixels `pixel_stride` f32 apart.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    /// From the first element of the first pixel.
    pub view: View,
    /// H
    pub height: usize,
    /// W
    pub width: usize,
    /// C
    pub channels: usize,
    /// f32 from a pixel to the next; more than C in a channel slice.
    pub pixel_stride: usize,
    /// Rows are written past the caches ([`rows::write`]): the arena is so large that they will have left
    /// them before they are read, and a line that is written whole need not be fetched first. Pixels
    /// are whole, aligned vectors.
    pub streams: bool,
}

impl Dense {
    /// Address of channel 0 of a pixel.
    pub fn row(&self, image: usize, y: usize) -> *mut f32 {
        debug_assert!(y < self.height);
        let offset = (image * self.height + y) * self.width * self.pixel_stride;
        assert!(offset + (self.width - 1) * self.pixel_stride + self.channels <= self.view.len());
        // SAFETY: the last element of the row was just checked to lie inside the view.
        unsafe { self.view.pointer().add(offset) }
    }
}

/// Per-channel numbers of a normalised activation, each padded to whole vectors with zeros:
/// two rows of `padded(C)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    /// μ and r = 1/√(variance + ε).
    Statistics,
    /// Σ ∂L/∂x̂ and Σ x̂·∂L/∂x̂.
    AdjointSums,
    /// μ̇ = mean(ż) and mean(x̂·ż).
    StatisticsTangent,
    /// Tangents of the adjoint sums.
    AdjointSumsTangent,
}

/// Loss and accuracy of a forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Mean softmax cross entropy; of several classifiers the weighted sum.
    pub loss: f64,
    /// Images whose label has the largest logit.
    pub top1: usize,
    /// Images whose label is among the five largest logits.
    pub top5: usize,
}

/// Where the buffers of a pass are. Made by the executor, read by the ops.
pub struct Context<'a> {
    /// Shapes.
    pub graph: &'a Graph,
    /// The arena.
    pub arena: View,
    /// Offset of each (owner activation, role) in the arena; `usize::MAX` where not planned.
    pub offsets: &'a [[usize; 4]],
    /// Offset of each activation's moments in `moments_arena`.
    pub moment_offsets: &'a [usize],
    /// Moments of all normalised activations, four kinds one after another for each.
    pub moments_arena: View,
    /// Op weights: four roles one after another for each vector.
    pub op_weights: View,
    /// Offset of each op-weight vector in `op_weights`.
    pub op_weight_offsets: &'a [usize],
    /// θ
    pub theta: View,
    /// The direction, in the tangent passes.
    pub direction: View,
    /// The gradient (backward) or the product (tangent_backward).
    pub gradient: View,
    /// The op's workspace.
    pub workspace: View,
    /// Labels `[N]`.
    pub labels: &'a [u32],
    /// Logits `[N, classes]` of each classifier, one behind another.
    pub logits: View,
    /// Loss of the forward pass.
    pub outcome: &'a Mutex<Outcome>,
    /// μ and r of every normalised activation, laid out like [`Moments::Statistics`] of `moments`,
    /// where the pass reads stated statistics and takes none of its own batch (inference).
    pub stated: Option<&'a [f32]>,
    /// Factors of the terms of sums, `[factors, N]`; none are ones (see [`sum`]).
    pub factors: Option<&'a [f32]>,
    /// What dropout drops; none: nothing.
    pub dropout: Option<dropout::Draw>,
    /// Which adjoints ops before this one wrote in this pass.
    pub written: &'a [bool],
}

impl Context<'_> {
    /// The buffer of an activation in a role.
    pub fn dense(&self, id: ActivationId, role: Role) -> Dense {
        let activation = self.graph.activation(id);
        let (owner, first) = activation.slice_of.unwrap_or((id, 0));
        let whole = self.graph.activation(owner);
        let offset = self.offsets[owner.0][role as usize];
        assert!(
            offset != usize::MAX,
            "{role:?} of activation {} is not planned",
            id.0
        );
        let len = self.graph.batch * whole.height * whole.width * whole.channels;
        let vectors = [offset + first, activation.channels, whole.channels];
        Dense {
            view: self.arena.part(offset + first, len - first),
            height: activation.height,
            width: activation.width,
            channels: activation.channels,
            pixel_stride: whole.channels,
            streams: streams(self.arena) && vectors.iter().all(|n| n % LANES == 0),
        }
    }

    /// The moments of a normalised activation: `[2, padded(C)]`.
    pub fn moments(&self, id: ActivationId, kind: Moments) -> View {
        let activation = self.graph.activation(id);
        assert!(
            activation.normalised,
            "only normalised activations have moments"
        );
        let len = 2 * padded(activation.channels);
        self.moments_arena
            .part(self.moment_offsets[id.0] + kind as usize * len, len)
    }

    /// The stated μ and r of a normalised activation, `[2, padded(C)]`, in inference.
    pub fn stated_statistics(&self, id: ActivationId) -> Option<&[f32]> {
        let stated = self.stated?;
        let len = 2 * padded(self.graph.activation(id).channels);
        // The arena has four kinds an activation, the stated vector only the first.
        Some(&stated[self.moment_offsets[id.0] / 4..][..len])
    }

    /// The factor of image `n` in the row `factor` of [`Self::factors`].
    pub fn factor(&self, factor: usize, n: usize) -> f32 {
        self.factors
            .map_or(1.0, |factors| factors[factor * self.graph.batch + n])
    }

    /// A vector of op weights in a role.
    pub fn weights(&self, id: WeightsId, role: Role) -> View {
        let len = self.graph.weights[id.0];
        self.op_weights
            .part(self.op_weight_offsets[id.0] + role as usize * len, len)
    }

    /// A parameter of θ.
    pub fn parameter(&self, id: ParameterId) -> View {
        let span = self.graph.parameters[id.0];
        self.theta.part(span.offset, span.len)
    }

    /// The direction's part for a parameter.
    pub fn parameter_tangent(&self, id: ParameterId) -> View {
        let span = self.graph.parameters[id.0];
        self.direction.part(span.offset, span.len)
    }

    /// Where a parameter's gradient (or product) goes; each parameter belongs to one op.
    pub fn parameter_gradient(&self, id: ParameterId) -> View {
        let span = self.graph.parameters[id.0];
        self.gradient.part(span.offset, span.len)
    }

    /// True if the activation's adjoint (or its tangent) has a value in this pass already, so that
    /// the op must add to it.
    pub fn adds_to(&self, id: ActivationId) -> bool {
        self.written[id.0] || self.written[self.graph.owner(id).0]
    }
}
