//! The four passes on CUDA: one launch each, whatever the number of terms. See `kernels/mix.cu`.

use super::Mix;
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{Adjoint, Encoder, Factor, Floats, Header, Input, Pixels, Tickets, narrow};
use crate::ops::{ActivationId, Graph, Moments, Pass, Role, Scale};
use bytemuck::{Pod, Zeroable};

/// `Term` of `mix.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct TermParameters {
    input: Input,
    factor: Factor,
    factor_tangent: Factor,
    to: Pixels,
    gradient: Floats,
    sums: Floats,
    adds: u32,
    reads: u32,
    round: u32,
    unused: u32,
}

/// `Mix` of `mix.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    output: Pixels,
    value: Pixels,
    bar: Pixels,
    bar_dot: Pixels,
    adjoint: Adjoint,
    shift: Floats,
    shift_gradient: Floats,
    statistics: Floats,
    statistics_tangent: Floats,
    partials: Floats,
    groups: Floats,
    totals: Floats,
    tickets: Tickets,
    terms: u64,
    count: u32,
    rounds: u32,
    channels: u32,
    pixels: u32,
    fan: u32,
    unused: u32,
}

layout_test!(TermParameters = 160, Parameters = 352);

/// THREADS of the kernel file.
const THREADS: usize = 256;
const WARPS: usize = THREADS / 32;
/// Most channels of a slab: 64 bytes of f32, so that every sector is used whole, and few enough that
/// the sums of 35 terms leave room for four blocks on a multiprocessor.
const SLAB: usize = 16;
/// Blocks that fill the largest GPU; with fewer, threads take fewer pixels.
const ENOUGH_BLOCKS: usize = 256;
/// Blocks beyond which each takes several tiles, so that coefficients and sums stay small beside them.
const MOST_BLOCKS: usize = 512;
/// Most bytes of shared memory a block can have on every supported GPU but sm_75, which has 64 KiB.
const MOST_SHARED: usize = 99 << 10;

/// How a pass is cut into blocks.
#[derive(Clone, Copy, Debug)]
struct Cut {
    vector: usize,
    groups: usize,
    pixels: usize,
    blocks: usize,
    slabs: usize,
    fan: usize,
}

impl Cut {
    fn new(op: &Mix, vector: usize, pass: Pass) -> Cut {
        let groups = (op.channels / vector)
            .next_power_of_two()
            .min(SLAB / vector);
        let slabs = op.channels.div_ceil(groups * vector);
        let rows = THREADS / groups;
        let all = op.batch * op.size[0] * op.size[1];
        let tiles = |pixels: usize| all.div_ceil(rows * pixels);
        let fills = |&pixels: &usize| tiles(pixels) * slabs >= ENOUGH_BLOCKS;
        // Beside what ȳ of a normalised y takes to evaluate, four pixels do not fit the registers.
        let choices: &[usize] = if op.output_normalised { &[2] } else { &[4, 2] };
        let pixels = choices.iter().copied().find(fills).unwrap_or(1);
        let own = match pass {
            Pass::Forward | Pass::Backward => pixels,
            Pass::Tangent | Pass::TangentBackward => pixels.div_ceil(2),
        };
        let blocks = tiles(own).min((MOST_BLOCKS / slabs).max(1));
        Cut {
            vector,
            groups,
            pixels,
            blocks,
            slabs,
            // The two levels are summed at equal cost.
            fan: (1..).find(|f| f * f >= blocks).expect("blocks are few"),
        }
    }

    fn slab(self) -> usize {
        self.groups * self.vector
    }

    /// Groups of blocks, all slabs.
    fn group_count(self) -> usize {
        self.slabs * self.blocks.div_ceil(self.fan)
    }
}

/// Rows of sums that a block of a backward pass over `terms` terms keeps.
fn rows(terms: usize, pass: Pass) -> usize {
    let kinds = if pass == Pass::TangentBackward { 2 } else { 1 };
    kinds * (1 + terms)
}

/// Bytes of shared memory: β, then a place and coefficients a term, then what the pass keeps.
fn shared(op: &Mix, terms: usize, pass: Pass, cut: Cut, graph: &Graph) -> usize {
    let coefficients = match pass {
        Pass::Forward | Pass::Backward => 2,
        Pass::Tangent | Pass::TangentBackward => 4,
    };
    let mut floats = 16 + terms * (8 + coefficients * cut.slab());
    // Statistics and the sums at the end lie where the coefficients did.
    let mut end = 2 * THREADS;
    match pass {
        Pass::Forward | Pass::Tangent => {
            if op.output_normalised {
                end = (1 + 2 * cut.vector).max(6) * THREADS;
            }
        }
        Pass::Backward | Pass::TangentBackward => {
            floats += WARPS * rows(terms, pass) * cut.slab();
            if op.output_normalised {
                let sources = graph.activation(op.output).sources.len();
                floats += (7 + 2 * sources) * op.channels;
            }
        }
    }
    4 * floats.max(end)
}

/// The terms as the kernel takes them, and how many rounds their sums need.
fn terms(op: &Mix, pass: Pass, encoder: &Encoder) -> (Vec<TermParameters>, u32) {
    let graph = encoder.graph();
    let backward = matches!(pass, Pass::Backward | Pass::TangentBackward);
    let (role, kind) = if pass == Pass::TangentBackward {
        (Role::AdjointTangent, Moments::AdjointSumsTangent)
    } else {
        (Role::Adjoint, Moments::AdjointSums)
    };
    let tangents = matches!(pass, Pass::Tangent | Pass::TangentBackward);
    let mut rounds = 1;
    let active: Vec<_> = op.active(graph).collect();
    let mut out = Vec::with_capacity(active.len());
    for (place, &(t, term)) in active.iter().enumerate() {
        let normalised = op.normalised[t];
        let earlier = active[..place].iter().map(|&(_, earlier)| earlier);
        let same_input = |id: ActivationId| earlier.clone().any(|e| e.input == id);
        let round = earlier
            .clone()
            .filter(|e| e.input == term.input || e.scale != Scale::One && e.scale == term.scale)
            .count();
        rounds = rounds.max(round + 1);
        let hands_on = backward && !normalised && graph.activation(term.input).differentiable;
        // s̄ and the branch's S₂ ask for x̂; ẏ asks for x only where s moves.
        let reads = pass == Pass::Forward || normalised || term.scale != Scale::One;
        let factor_tangent = if tangents {
            encoder.factor(term.scale, Role::Tangent)
        } else {
            Factor::default()
        };
        let gradient = match term.scale {
            Scale::OpWeight(id, index) if backward => {
                let mut all = encoder.weights(id, role);
                all.data += 4 * index as u64;
                Floats { len: 1, ..all }
            }
            Scale::Gain(id) if backward => encoder.parameter_gradient(id),
            _ => Floats::default(),
        };
        let sums = if backward && normalised {
            encoder.moments(term.input, kind)
        } else {
            Floats::default()
        };
        out.push(TermParameters {
            input: encoder.input(term.input, pass),
            factor: encoder.factor(term.scale, Role::Value),
            factor_tangent,
            to: encoder.pixels_if(hands_on, term.input, role),
            gradient,
            sums,
            adds: u32::from(encoder.adds_to(term.input) || same_input(term.input)),
            reads: u32::from(reads),
            round: narrow(round),
            unused: 0,
        });
    }
    (out, narrow(rounds))
}

/// Fills in where ȳ is read or, of a normalised output, evaluated and written.
fn output_adjoint(op: &Mix, pass: Pass, encoder: &mut Encoder, to: &mut Parameters) {
    let tangents = pass == Pass::TangentBackward;
    let raw = !op.output_normalised;
    to.bar = encoder.pixels_if(raw || !tangents, op.output, Role::Adjoint);
    to.bar_dot = encoder.pixels_if(tangents, op.output, Role::AdjointTangent);
    if op.output_normalised {
        to.adjoint = encoder.adjoint(op.output, pass);
    }
}

/// Encodes `pass`.
///
/// # Errors
/// More terms than a block has shared memory for.
pub(super) fn encode(op: &Mix, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
    let graph = encoder.graph();
    let mut touched: Vec<_> = op.terms.iter().map(|t| t.input).collect();
    touched.push(op.output);
    let sources = encoder.whole().activation(op.output).sources.iter();
    touched.extend(sources.map(|s| s.at));
    let cut = Cut::new(op, encoder.vector(&touched), pass);
    let (terms, rounds) = terms(op, pass, encoder);
    let shared = shared(op, terms.len(), pass, cut, graph);
    anyhow::ensure!(
        shared <= MOST_SHARED,
        "a mix of {} terms wants {shared} bytes of shared memory a block, and GPUs have {MOST_SHARED}; use --device cpu",
        terms.len()
    );
    let blocks = cut.blocks;
    let mut parameters = Parameters {
        statistics: encoder.moments(op.output, Moments::Statistics),
        statistics_tangent: encoder.moments(op.output, Moments::StatisticsTangent),
        terms: encoder.table(&terms),
        count: narrow(terms.len()),
        rounds,
        channels: narrow(op.channels),
        pixels: narrow(op.batch * op.size[0] * op.size[1]),
        fan: narrow(cut.fan),
        ..Parameters::default()
    };
    match pass {
        Pass::Forward | Pass::Tangent => {
            let tangent = pass == Pass::Tangent;
            let role = if tangent { Role::Tangent } else { Role::Value };
            parameters.output = encoder.pixels(op.output, role);
            if let Some(id) = op.shift {
                parameters.shift = if tangent {
                    encoder.parameter_tangent(id)
                } else {
                    encoder.parameter(id)
                };
            }
            if op.output_normalised {
                parameters.value = encoder.pixels(op.output, Role::Value);
                let rows = if tangent { 2 } else { 3 };
                parameters.partials = encoder.workspace(rows * op.channels * blocks);
                parameters.tickets = encoder.tickets(1);
            }
        }
        Pass::Backward | Pass::TangentBackward => {
            output_adjoint(op, pass, encoder, &mut parameters);
            if let Some(id) = op.shift {
                parameters.shift_gradient = encoder.parameter_gradient(id);
            }
            let len = rows(terms.len(), pass) * cut.slab();
            parameters.partials = encoder.workspace(len * blocks * cut.slabs);
            parameters.groups = encoder.workspace(len * cut.group_count());
            parameters.totals = encoder.workspace(2 * len * cut.slabs);
            parameters.tickets = encoder.tickets(1 + cut.group_count());
        }
    }
    let entry = match pass {
        Pass::Forward => "mix_forward",
        Pass::Backward => "mix_backward",
        Pass::Tangent => "mix_tangent",
        Pass::TangentBackward => "mix_tangent_backward",
    };
    let kernel = Kernel::new("mix", entry)
        .define("VECTOR", cut.vector)
        .define("GROUPS", cut.groups)
        .define("PIXELS", cut.pixels)
        .define("NORMALISED", u8::from(op.output_normalised));
    encoder.launch(kernel, [blocks, cut.slabs], THREADS, shared, &parameters);
    Ok(())
}
