//! How an op's launches are encoded: the [`Encoder`], and the structs that kernels and Rust share.
//!
//! An op's `cuda.rs` turns one pass into launches. [`super::Op::encode`] is called once when a pass
//! is recorded (and once before, to measure); it asks the encoder for its buffers, fills its
//! parameter struct and calls [`Encoder::launch`]. Nothing here touches a device: addresses are
//! numbers that the executor chose. `kernels/common.cuh` states the conventions of the other side.
//!
//! A worked example is [`super::relax`]: `relax/cuda.rs` and `kernels/relax.cu`.

use super::{ActivationId, Graph, Moments, ParameterId, Pass, Role, Scale, WeightsId};
use crate::device::cuda::launch::{Kernel, Launch, Recording, SHARED_EVERYWHERE, Step};
use crate::device::simd::padded;
use crate::layout_test;
use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

pub use crate::device::cuda::launch::Header;

/// Element type of activations in device memory, and what matrix products round their operands to.
/// θ, α, statistics, gradients and everything else stay f32, and so do all sums.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32
    #[default]
    F32,
    /// f32 in memory, products on tensor cores with operands rounded to TF32; a GPU only
    Tf32,
    /// bfloat16 in memory and in products on tensor cores; a GPU only
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Tf32, Precision::Bf16];

    /// Bytes an element.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 | Precision::Tf32 => 4,
            Precision::Bf16 => 2,
        }
    }

    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }

    /// The kernels' STORAGE.
    pub fn storage(self) -> &'static str {
        match self {
            Precision::F32 | Precision::Tf32 => "float",
            Precision::Bf16 => "bf16",
        }
    }

    /// What a product on tensor cores rounds its operands to, as a type of `mma.cuh`; none in f32,
    /// whose products are exact fused multiply-adds.
    pub fn tensor(self) -> Option<&'static str> {
        match self {
            Precision::F32 => None,
            Precision::Tf32 => Some("tf32"),
            Precision::Bf16 => Some("bf16"),
        }
    }
}

/// `Pixels` of `common.cuh`: an activation `[N, H, W, C]` from its first channel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Pixels {
    /// Address; 0 where there is none.
    pub data: u64,
    /// Elements from a pixel to the next.
    pub stride: u32,
    /// Elements from a member to the next.
    pub member: u32,
}

/// `Floats` of `common.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Floats {
    /// Address; 0 where there are none.
    pub data: u64,
    /// f32 from a member to the next.
    pub member: u32,
    /// f32.
    pub len: u32,
}

/// `Tickets` of `common.cuh`: counters that are zero between launches.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Tickets {
    /// Address.
    pub data: u64,
    /// u32 from a member to the next.
    pub member: u32,
    /// u32.
    pub len: u32,
}

/// `Factor` of `adjoint.cuh`: 1, an op weight, or a gain per channel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Factor {
    /// Address; 0: the factor is 1 and its tangent 0.
    pub data: u64,
    /// f32 from a member to the next.
    pub member: u32,
    /// 1: an element per channel.
    pub per_channel: u32,
}

/// `Input` of `statistics.cuh`: an activation as an op reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Input {
    /// x or z
    pub value: Pixels,
    /// ẋ or ż, in the tangent passes, of a differentiable input.
    pub tangent: Pixels,
    /// μ and r of a normalised input.
    pub statistics: Floats,
    /// mean(ż) and mean(x̂·ż), in the tangent passes.
    pub statistics_tangent: Floats,
}

/// `Source` of `adjoint.cuh`: one reader of a normalised output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Source {
    /// u
    pub adjoint: Pixels,
    /// u̇
    pub adjoint_tangent: Pixels,
    /// s
    pub factor: Factor,
    /// ṡ
    pub factor_tangent: Factor,
}

/// `Adjoint` of `adjoint.cuh`: where an output's adjoint comes from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Adjoint {
    /// z
    pub value: Pixels,
    /// ż
    pub tangent: Pixels,
    /// μ, r; null for a raw output
    pub statistics: Floats,
    /// S₁, S₂
    pub sums: Floats,
    /// mean(ż), mean(x̂·ż)
    pub statistics_tangent: Floats,
    /// Ṡ₁, Ṡ₂
    pub sums_tangent: Floats,
    /// Address of a table of [`Source`].
    pub sources: u64,
    /// Sources.
    pub count: u32,
    /// 1/M
    pub inverse_count: f32,
}

layout_test!(
    Header = 16,
    Pixels = 16,
    Floats = 16,
    Tickets = 16,
    Factor = 16,
    Input = 64,
    Source = 64,
    Adjoint = 112,
);

/// Device memory of one kind: where it begins, and how far members lie apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    /// Address.
    pub base: u64,
    /// Elements from a member's part to the next member's; 0 if they share it.
    pub member: usize,
}

/// Where everything lies that a pass touches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Regions {
    /// Activations, laid out by the plan, in elements of storage.
    pub arena: Region,
    /// θ
    pub theta: Region,
    /// The direction of the tangent passes.
    pub direction: u64,
    /// The gradient, or the product.
    pub gradient: u64,
    /// Moments: the four kinds one after another.
    pub moments: Region,
    /// Op weights: the four roles one after another.
    pub weights: Region,
    /// Scratch of a launch.
    pub workspace: Region,
    /// Counters, zero between launches.
    pub tickets: Region,
    /// Labels `[N]`, u32.
    pub labels: u64,
    /// Logits `[N, classes]`.
    pub logits: Region,
    /// One [`DeviceOutcome`] a member.
    pub outcome: u64,
    /// The recording's tables.
    pub constants: u64,
    /// A [`DeviceDraw`](super::dropout::cuda::DeviceDraw): what dropout drops.
    pub draw: u64,
}

/// What the classifier leaves for each member.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct DeviceOutcome {
    /// Mean loss.
    pub loss: f64,
    /// See [`super::Outcome::top1`].
    pub top1: u32,
    /// See [`super::Outcome::top5`].
    pub top5: u32,
}

/// Offsets of everything that the plan does not lay out; the same for all modes.
#[derive(Clone, Debug, Default)]
pub struct SmallBuffers {
    /// Of each activation's moments within a kind.
    pub moments: Vec<usize>,
    /// f32 of one kind of moments.
    pub moments_len: usize,
    /// Of each op-weight vector within a role.
    pub weights: Vec<usize>,
    /// f32 of one role of op weights.
    pub weights_len: usize,
}

impl SmallBuffers {
    /// Lays out the moments and op weights of `graph`.
    pub fn new(graph: &Graph) -> SmallBuffers {
        let mut small = SmallBuffers::default();
        for activation in &graph.activations {
            small.moments.push(small.moments_len);
            if activation.normalised {
                small.moments_len += 2 * padded(activation.channels);
            }
        }
        for &len in &graph.weights {
            small.weights.push(small.weights_len);
            // Whole vectors, so that each begins aligned.
            small.weights_len += len.next_multiple_of(4);
        }
        small
    }
}

/// What a recording wants beside the plan, found by encoding once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// f32 of workspace: the most any op asked for.
    pub workspace: usize,
    /// Tickets: the most any op asked for.
    pub tickets: usize,
}

impl Wants {
    /// What serves both, one after the other.
    #[must_use]
    pub fn max(self, other: Wants) -> Wants {
        Wants {
            workspace: self.workspace.max(other.workspace),
            tickets: self.tickets.max(other.tickets),
        }
    }
}

/// Encodes a pass; see the module.
pub struct Encoder<'a> {
    graph: &'a Graph,
    whole: &'a Graph,
    offsets: &'a [[usize; 4]],
    small: &'a SmallBuffers,
    regions: Regions,
    precision: Precision,
    members: usize,
    shared: usize,
    written: Vec<bool>,
    used: Wants,
    wants: Wants,
    recording: Recording,
    op: &'static str,
}

impl<'a> Encoder<'a> {
    /// An encoder of one pass over `graph` for `members` copies of the network, with activations at
    /// `offsets` elements into the arena.
    pub fn new(
        graph: &'a Graph,
        (offsets, small): (&'a [[usize; 4]], &'a SmallBuffers),
        regions: Regions,
        (precision, members): (Precision, usize),
        name: &'static str,
    ) -> Encoder<'a> {
        Encoder {
            graph,
            whole: graph,
            offsets,
            small,
            regions,
            precision,
            members,
            shared: SHARED_EVERYWHERE,
            written: vec![false; graph.activations.len()],
            used: Wants::default(),
            wants: Wants::default(),
            recording: Recording::new(name),
            op: "",
        }
    }

    /// For a device on which a block may use `bytes` of shared memory.
    #[must_use]
    pub fn with_shared(mut self, bytes: usize) -> Encoder<'a> {
        self.shared = bytes;
        self
    }

    /// Encodes only what `part` of the graph runs: its live activations and active op weights.
    #[must_use]
    pub fn of_part(mut self, part: &'a Graph) -> Encoder<'a> {
        self.graph = part;
        self
    }

    /// Shared memory that a block may use, in bytes, if two of 512 threads are to fit a multiprocessor.
    pub fn shared(&self) -> usize {
        self.shared
    }

    /// Encodes one op's pass.
    ///
    /// # Errors
    /// What the op says: a size that its kernels do not take.
    pub fn op(&mut self, op: &dyn super::Op, pass: Pass) -> anyhow::Result<()> {
        self.op = op.name();
        self.used = Wants::default();
        op.encode(pass, self)?;
        self.wants = self.wants.max(self.used);
        if matches!(pass, Pass::Backward | Pass::TangentBackward) {
            for (id, _) in op.uses(self.graph, pass).writes {
                self.written[id.0] = true;
            }
        }
        Ok(())
    }

    /// Zeroes the whole gradient (or product), of `len` f32: ops that do not run write none of theirs.
    pub fn clear_gradient(&mut self, len: usize) {
        self.recording.steps.push(Step::Zero {
            address: self.regions.gradient,
            bytes: 4 * len,
        });
    }

    /// Zeroes the small sums that ops add to in a backward pass.
    pub fn clear_sums(&mut self, pass: Pass) {
        let (role, kind) = match pass {
            Pass::Backward => (Role::Adjoint, Moments::AdjointSums),
            Pass::TangentBackward => (Role::AdjointTangent, Moments::AdjointSumsTangent),
            Pass::Forward | Pass::Tangent => return,
        };
        for (base, index, len) in [
            (
                self.regions.moments.base,
                kind as usize,
                self.small.moments_len,
            ),
            (
                self.regions.weights.base,
                role as usize,
                self.small.weights_len,
            ),
        ] {
            if len > 0 {
                self.recording.steps.push(Step::Zero {
                    address: base + 4 * (index * len) as u64,
                    bytes: 4 * len,
                });
            }
        }
    }

    /// Notes that ops before this one wrote these adjoints, when not every op is encoded.
    pub fn note_written(&mut self, written: &[bool]) {
        self.written.copy_from_slice(written);
    }

    /// The recording, and what it wants.
    pub fn finish(self) -> (Recording, Wants) {
        (self.recording, self.wants)
    }

    /// Shapes, and what runs.
    pub fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// The same where everything runs. What a kernel is compiled for follows from it, so that a part of the
    /// tape takes the kernels of the whole.
    pub fn whole(&self) -> &'a Graph {
        self.whole
    }

    /// Element type of activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The buffer of an activation in a role.
    ///
    /// # Panics
    /// A buffer that the op did not name in its uses of this pass.
    pub fn pixels(&self, id: ActivationId, role: Role) -> Pixels {
        let (owner, first) = self.graph.activation(id).slice_of.unwrap_or((id, 0));
        let offset = self.offsets[owner.0][role as usize];
        assert!(
            offset != usize::MAX,
            "{role:?} of activation {} is not planned",
            id.0
        );
        // All members look at the same images.
        let shared = !self.graph.activation(owner).differentiable;
        let member = if shared { 0 } else { self.regions.arena.member };
        Pixels {
            data: self.regions.arena.base + ((offset + first) * self.precision.bytes()) as u64,
            stride: narrow(self.graph.activation(owner).channels),
            member: narrow(member),
        }
    }

    /// Like [`Self::pixels`], but null where `wanted` is false.
    pub fn pixels_if(&self, wanted: bool, id: ActivationId, role: Role) -> Pixels {
        if wanted {
            self.pixels(id, role)
        } else {
            Pixels::default()
        }
    }

    /// The moments of a normalised activation: `[2, padded(C)]`; null for a raw one.
    pub fn moments(&self, id: ActivationId, kind: Moments) -> Floats {
        let activation = self.graph.activation(id);
        if !activation.normalised {
            return Floats::default();
        }
        let offset = kind as usize * self.small.moments_len + self.small.moments[id.0];
        floats(
            self.regions.moments,
            offset,
            2 * padded(activation.channels),
        )
    }

    /// A vector of op weights in a role.
    pub fn weights(&self, id: WeightsId, role: Role) -> Floats {
        let offset = role as usize * self.small.weights_len + self.small.weights[id.0];
        floats(self.regions.weights, offset, self.graph.weights[id.0])
    }

    /// A parameter of θ.
    pub fn parameter(&self, id: ParameterId) -> Floats {
        let span = self.graph.parameters[id.0];
        floats(self.regions.theta, span.offset, span.len)
    }

    /// The direction's part for a parameter, in the tangent passes.
    pub fn parameter_tangent(&self, id: ParameterId) -> Floats {
        let span = self.graph.parameters[id.0];
        floats(alone(self.regions.direction), span.offset, span.len)
    }

    /// Where a parameter's gradient (or product) goes; each parameter belongs to one op.
    pub fn parameter_gradient(&self, id: ParameterId) -> Floats {
        let span = self.graph.parameters[id.0];
        floats(alone(self.regions.gradient), span.offset, span.len)
    }

    /// The factor of a scale: its value ([`Role::Value`]) or tangent ([`Role::Tangent`]).
    pub fn factor(&self, scale: Scale, role: Role) -> Factor {
        let (at, per_channel) = match scale {
            Scale::One => return Factor::default(),
            Scale::OpWeight(id, index) => {
                let mut all = self.weights(id, role);
                all.data += 4 * index as u64;
                (all, 0)
            }
            Scale::Gain(id) if role == Role::Tangent => (self.parameter_tangent(id), 1),
            Scale::Gain(id) => (self.parameter(id), 1),
        };
        Factor {
            data: at.data,
            member: at.member,
            per_channel,
        }
    }

    /// An activation as an op reads it in `pass`.
    pub fn input(&self, id: ActivationId, pass: Pass) -> Input {
        let tangents = matches!(pass, Pass::Tangent | Pass::TangentBackward)
            && self.graph.activation(id).differentiable;
        Input {
            value: self.pixels(id, Role::Value),
            tangent: self.pixels_if(tangents, id, Role::Tangent),
            statistics: self.moments(id, Moments::Statistics),
            statistics_tangent: self.moments(id, Moments::StatisticsTangent),
        }
    }

    /// Where the adjoint of an op's output comes from in `pass`, backward or tangent_backward.
    pub fn adjoint(&mut self, id: ActivationId, pass: Pass) -> Adjoint {
        let tangents = pass == Pass::TangentBackward;
        let activation = self.graph.activation(id);
        let source = |at: ActivationId, scale: Scale| Source {
            adjoint: self.pixels(at, Role::Adjoint),
            adjoint_tangent: self.pixels_if(tangents, at, Role::AdjointTangent),
            factor: self.factor(scale, Role::Value),
            factor_tangent: if tangents {
                self.factor(scale, Role::Tangent)
            } else {
                Factor::default()
            },
        };
        let sources: Vec<Source> = if activation.normalised {
            let readers = activation.sources.iter();
            readers.map(|s| source(s.at, s.scale)).collect()
        } else {
            vec![source(id, Scale::One)]
        };
        let count = self.graph.batch * activation.height * activation.width;
        let lazy = activation.normalised;
        let adjoint = Adjoint {
            value: self.pixels_if(lazy, id, Role::Value),
            tangent: self.pixels_if(lazy && tangents, id, Role::Tangent),
            statistics: self.moments(id, Moments::Statistics),
            sums: self.moments(id, Moments::AdjointSums),
            statistics_tangent: self.moments(id, Moments::StatisticsTangent),
            sums_tangent: self.moments(id, Moments::AdjointSumsTangent),
            sources: 0,
            count: narrow(sources.len()),
            inverse_count: 1.0 / count as f32,
        };
        Adjoint {
            sources: self.table(&sources),
            ..adjoint
        }
    }

    /// `len` f32 of workspace, this op's alone for this pass, 16-byte aligned; garbage when a launch
    /// begins. An op's launches of one pass share what it asked for, in order.
    pub fn workspace(&mut self, len: usize) -> Floats {
        let offset = self.used.workspace;
        self.used.workspace += len.next_multiple_of(4);
        floats(self.regions.workspace, offset, len)
    }

    /// `count` counters for the kernels' `last_block`, zero between launches.
    pub fn tickets(&mut self, count: usize) -> Tickets {
        let offset = self.used.tickets;
        self.used.tickets += count;
        let Floats { data, member, len } = floats(self.regions.tickets, offset, count);
        Tickets { data, member, len }
    }

    /// Device address of a table that launches read; uploaded once, when the pass is recorded.
    pub fn table<T: Pod>(&mut self, rows: &[T]) -> u64 {
        self.regions.constants + self.recording.table(rows)
    }

    /// Labels `[N]`, u32.
    pub fn labels(&self) -> u64 {
        self.regions.labels
    }

    /// Logits `[N, classes]`.
    pub fn logits(&self, classes: usize) -> Floats {
        floats(self.regions.logits, 0, self.graph.batch * classes)
    }

    /// Address of what dropout drops.
    pub fn draw(&self) -> u64 {
        self.regions.draw
    }

    /// Address of the [`DeviceOutcome`]s, one a member.
    pub fn outcome(&self) -> u64 {
        self.regions.outcome
    }

    /// True if the activation's adjoint (or its tangent) has a value in this pass already, so that
    /// the op must add to it.
    pub fn adds_to(&self, id: ActivationId) -> bool {
        self.written[id.0] || self.written[self.graph.owner(id).0]
    }

    /// The widest of 4, 2, 1 that divides channels, pixel stride and first channel of all `ids`: the
    /// kernels' VECTOR.
    pub fn vector(&self, ids: &[ActivationId]) -> usize {
        let fits = |v: usize| {
            ids.iter().all(|&id| {
                let (owner, first) = self.graph.activation(id).slice_of.unwrap_or((id, 0));
                let (whole, part) = (self.graph.activation(owner), self.graph.activation(id));
                whole.channels % v == 0 && part.channels % v == 0 && first % v == 0
            })
        };
        [4, 2].into_iter().find(|&v| fits(v)).unwrap_or(1)
    }

    /// Appends a launch of `kernel` on `grid` blocks (times the members) of `threads`, with `shared`
    /// bytes of dynamic shared memory. STORAGE is defined here.
    pub fn launch<P: Pod>(
        &mut self,
        kernel: Kernel,
        grid: [usize; 2],
        threads: usize,
        shared: usize,
        parameters: &P,
    ) {
        let kernel = kernel.define("STORAGE", self.precision.storage());
        let grid = [narrow(grid[0]), narrow(grid[1]), narrow(self.members)];
        let mut launch = Launch::new(kernel, grid, narrow(threads), shared, parameters);
        launch.op = self.op;
        self.recording.steps.push(Step::Launch(launch));
    }
}

/// A size as kernels take it.
///
/// # Panics
/// More than u32 holds: the network was refused long before.
pub fn narrow(size: usize) -> u32 {
    u32::try_from(size).expect("sizes of a network fit u32")
}

fn alone(base: u64) -> Region {
    Region { base, member: 0 }
}

fn floats(region: Region, offset: usize, len: usize) -> Floats {
    Floats {
        data: region.base + 4 * offset as u64,
        member: narrow(region.member),
        len: narrow(len),
    }
}
