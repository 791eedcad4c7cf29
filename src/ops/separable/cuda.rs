//! The four passes on CUDA, see `kernels/separable.cu`: one launch forward, two backward.
//!
//! **Grid.** Forward and tangent take a block a tile of a group's state. Backward a block takes every
//! so-manieth tile and sums their gradients, so that there are about [`BACKWARD_BLOCKS`] partial sums
//! however large the batch; a second launch adds those, 32 elements a block.
//!
//! **Cut.** How large a tile is, how many channels at a time and how many pixels a sub-tile follows
//! from shapes and shared memory alone: [`Cut::best`] tries them and takes the one that reads least.

use super::{PlannedBranch, PlannedGroup, Separable};
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{Adjoint, Encoder, Floats, Header, Input, Pixels, Tickets, narrow};
use crate::ops::{Moments, Pass, Role};
use anyhow::ensure;
use bytemuck::{Pod, Zeroable};

/// `Branch` of `separable.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct BranchRow {
    depthwise: Floats,
    pointwise: Floats,
    depthwise_tangent: Floats,
    pointwise_tangent: Floats,
    output: Pixels,
    output_tangent: Pixels,
    statistics: Floats,
    statistics_tangent: Floats,
    adjoint: Adjoint,
    kernel: u32,
    stride: u32,
    dilation: u32,
    padding: u32,
    height: u32,
    width: u32,
    channels: u32,
    ticket: u32,
    partial: u32,
    unused: [u32; 3],
}

/// `Group` of `separable.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct GroupRow {
    input: Input,
    adjoint: Pixels,
    first_order: Pixels,
    channels: u32,
    height: u32,
    width: u32,
    adds: u32,
    first_branch: u32,
    branches: u32,
    first_block: u32,
    blocks: u32,
    rows: u32,
    columns: u32,
    tiles_y: u32,
    tiles_x: u32,
    tiles: u32,
    chunk: u32,
    border: u32,
    subtile: u32,
    partials: u32,
    slot: u32,
    sums: u32,
    bar: u32,
    weights: u32,
    d: u32,
    z: u32,
    table: u32,
    region: u32,
    sum: u32,
}

/// `Separable` of `separable.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    groups: u64,
    branches: u64,
    workspace: Floats,
    tickets: Tickets,
    count: u32,
    batch: u32,
    unused: [u32; 2],
}

/// `Tensor` of `separable.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct TensorRow {
    to: u64,
    channels: u32,
    first_block: u32,
    partials: u32,
    slot: u32,
    slots: u32,
    len: u32,
}

/// `Combine` of `separable.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct CombineParameters {
    header: Header,
    tensors: u64,
    count: u32,
    unused: u32,
    workspace: Floats,
}

layout_test!(
    BranchRow = 288,
    GroupRow = 200,
    Parameters = 80,
    TensorRow = 32,
    CombineParameters = 48,
);

/// Threads a block: two blocks of up to 64 registers a thread are half of an H100's multiprocessor.
const THREADS: usize = 512;
/// f32 of shared memory a block may use: 64 KiB, what every supported GPU has for a block, and three
/// times in a multiprocessor of an H100; less what the kernels declare themselves (`Stage`).
const SHARED: usize = (16 << 10) - 512;
/// Blocks of a backward launch, about: two on each of an H100's 132 multiprocessors.
const BACKWARD_BLOCKS: usize = 264;
/// Threads of `separable_combine`'s blocks, and elements that a block sums.
const COMBINE: (usize, usize) = (256, 32);
/// f32 of a sector: partial sums begin on whole ones.
const SECTOR: usize = 8;
/// Rows of the adjoint's coefficient table before the sources' (`FIRST_SOURCE` of `adjoint.cuh`).
const COEFFICIENTS: usize = 7;

fn is_tangent(pass: Pass) -> bool {
    matches!(pass, Pass::Tangent | Pass::TangentBackward)
}

fn is_backward(pass: Pass) -> bool {
    matches!(pass, Pass::Backward | Pass::TangentBackward)
}

fn quads(channels: usize) -> usize {
    channels.next_multiple_of(4)
}

/// How a group's image is cut, and where its pieces lie in shared memory (f32).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cut {
    rows: usize,
    columns: usize,
    chunk: usize,
    subtile: usize,
    region: usize,
    bar: usize,
    weights: usize,
    d: usize,
    z: usize,
    table: usize,
    sum: usize,
    shared: usize,
    /// Reads an input pixel, about; what is minimised.
    cost: f32,
}

impl Cut {
    /// The cut that reads least and fits.
    fn best(group: &PlannedGroup, sources: usize, pass: Pass) -> Option<Cut> {
        let sides = |size: usize| {
            let powers = [2usize, 4, 8, 16, 32].into_iter();
            powers.take_while(move |&side| side < 2 * size)
        };
        let mut best: Option<Cut> = None;
        let whole = quads(group.channels);
        let chunks = [whole, 128, 64, 32, 16, 8, 4].into_iter();
        for chunk in chunks.filter(|&chunk| chunk <= whole) {
            for rows in sides(group.size[0]) {
                for columns in sides(group.size[1]) {
                    for subtile in [16, 32, 64, 128, 256] {
                        let size = (rows, columns, chunk, subtile);
                        let Some(cut) = Cut::of(group, sources, pass, size) else {
                            continue;
                        };
                        if best.is_none_or(|best| cut.cost < best.cost) {
                            best = Some(cut);
                        }
                    }
                }
            }
        }
        best
    }

    /// A cut of these sizes; `None` if it does not fit.
    fn of(
        group: &PlannedGroup,
        sources: usize,
        pass: Pass,
        (rows, columns, chunk, subtile): (usize, usize, usize, usize),
    ) -> Option<Cut> {
        let copies = if is_tangent(pass) { 2 } else { 1 };
        let most = |of: &dyn Fn(&PlannedBranch) -> usize| group.branches.iter().map(of).max();
        let out = quads(most(&|b| b.channels_out)?);
        let taps = most(&|b| b.taps.len())?;
        let side = [rows.min(group.size[0]), columns.min(group.size[1])];
        let own = side[0] * side[1];
        let height = (side[0] + 2 * group.border).min(group.size[0]);
        let reach = height * (side[1] + 2 * group.border);
        let threads_out = THREADS.checked_div(out / 4).filter(|&t| t > 0)?;
        let threads_in = THREADS.checked_div(chunk / 4).filter(|&t| t > 0)?;
        let passes = group.channels.div_ceil(chunk) as f32;
        let ratio = |pixels: usize| pixels as f32 / own as f32;
        let branches = group.branches.len();
        let weights = ratio(branches * copies * (taps + out));
        let mut cut = Cut {
            rows,
            columns,
            chunk,
            subtile,
            ..Cut::default()
        };
        cut.bar = copies * reach * chunk;
        if is_backward(pass) {
            // `Outer` of the kernels: sixteen elements of P̄ a thread, or eight with tangents.
            if own > 2 * threads_in || chunk * out > 16 / copies * THREADS {
                return None;
            }
            cut.region = most(&|b| region(b, side))?;
            cut.weights = cut.bar + copies * cut.region * chunk;
            cut.d = cut.weights + copies * (taps + out) * chunk;
            let parts = most(&|b| tap_parts(b.window.kernel, copies == 2, chunk) * b.taps.len())?;
            let gathered = (parts * chunk)
                .max(out * chunk)
                .max(4 * THREADS + 2 * chunk);
            cut.z = cut.d + copies * subtile * (chunk + 4);
            cut.table = (cut.z + copies * subtile * (out + 4)).max(cut.d + gathered);
            cut.sum = cut.table + (COEFFICIENTS + 2 * sources) * out;
            cut.shared = cut.sum + own * chunk;
            let regions: usize = group.branches.iter().map(|b| region(b, side)).sum();
            cut.cost = ratio(reach) + passes * 2.0 * ratio(regions);
            // The weights, and a slot of their gradients, read and written.
            cut.cost += weights + ratio(2 * branches * (taps + out));
            // A sub-tile costs about as much as four pixels, for its barriers.
            cut.cost += 4.0 * ratio(branches * cut.region.div_ceil(subtile)) * passes;
        } else {
            if subtile > 2 * threads_out {
                return None;
            }
            cut.weights = cut.bar;
            cut.d = cut.weights + copies * (taps + out) * chunk;
            // What `statistics.cuh` asks for, of one pass or the other.
            let scratch = if is_tangent(pass) { 4 } else { 9 } * THREADS + 3 * out;
            let whole = quads(group.channels);
            cut.shared = cut.d + (copies * subtile * (whole + 4)).max(scratch);
            let subtiles = own.div_ceil(subtile);
            // In more than one pass each sub-tile loads all again.
            let (states, all) = if passes > 1.0 {
                (passes * (branches * subtiles) as f32, subtiles as f32)
            } else {
                (1.0, 1.0)
            };
            cut.cost = ratio(reach) * states + weights * all + branches as f32;
            cut.cost += 4.0 * ratio(branches * subtiles) * passes;
        }
        (cut.shared <= SHARED).then_some(cut)
    }
}

/// Outputs whose windows reach into a tile, at most.
fn region(branch: &PlannedBranch, side: [usize; 2]) -> usize {
    let (window, output) = (&branch.window, branch.window.output());
    let most = |i: usize| (side[i] - 1 + 2 * window.padding()) / window.stride + 1;
    most(0).min(output[0]) * most(1)
}

/// `TapRows::parts` of `separable.cu`.
fn tap_parts(kernel: usize, tangent: bool, chunk: usize) -> usize {
    let most = if tangent { 4 } else { 5 };
    let segments = if kernel > most { 2 * kernel } else { kernel };
    (THREADS / 32 / (segments * (chunk / 4).div_ceil(32))).max(1)
}

/// Tables and sizes of one pass.
#[derive(Default)]
struct Tables {
    groups: Vec<GroupRow>,
    branches: Vec<BranchRow>,
    tensors: Vec<TensorRow>,
    blocks: usize,
    combine_blocks: usize,
    workspace: usize,
    shared: usize,
}

/// Encodes `pass`.
///
/// # Errors
/// A window that the kernels do not have, or channels that do not fit shared memory.
pub(super) fn encode(op: &Separable, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
    let mut tables = Tables::default();
    for group in &op.groups {
        tables.add(op, group, pass, encoder)?;
    }
    if tables.groups.is_empty() {
        return Ok(());
    }
    let mut parameters = Parameters {
        groups: encoder.table(&tables.groups),
        branches: encoder.table(&tables.branches),
        workspace: encoder.workspace(tables.workspace),
        count: narrow(tables.groups.len()),
        batch: narrow(op.batch),
        ..Parameters::default()
    };
    let entry = match pass {
        Pass::Forward => "separable_forward",
        Pass::Backward => "separable_backward",
        Pass::Tangent => "separable_tangent",
        Pass::TangentBackward => "separable_tangent_backward",
    };
    let kernel = |entry| {
        Kernel::new("separable", entry)
            .define("VECTOR", encoder.vector(&touched(op, encoder)))
            .define("THREADS", THREADS)
    };
    let (main, combine) = (kernel(entry), kernel("separable_combine"));
    if !is_backward(pass) {
        parameters.tickets = encoder.tickets(tables.branches.len());
    }
    let (grid, shared) = ([tables.blocks, 1], 4 * tables.shared);
    encoder.launch(main, grid, THREADS, shared, &parameters);
    if is_backward(pass) {
        let sums = CombineParameters {
            tensors: encoder.table(&tables.tensors),
            count: narrow(tables.tensors.len()),
            workspace: parameters.workspace,
            ..CombineParameters::default()
        };
        encoder.launch(combine, [tables.combine_blocks, 1], COMBINE.0, 0, &sums);
    }
    Ok(())
}

/// All activations that a pass may load.
fn touched(op: &Separable, encoder: &Encoder) -> Vec<crate::ops::ActivationId> {
    let mut all: Vec<_> = op.groups.iter().map(|g| g.input).collect();
    for id in op.outputs() {
        all.push(id);
        let sources = &encoder.graph().activation(id).sources;
        all.extend(sources.iter().map(|source| source.at));
    }
    all
}

impl Tables {
    fn add(
        &mut self,
        op: &Separable,
        group: &PlannedGroup,
        pass: Pass,
        encoder: &mut Encoder,
    ) -> anyhow::Result<()> {
        for branch in &group.branches {
            let kernel = branch.window.kernel;
            ensure!(
                [3, 5, 7].contains(&kernel) && [1, 2].contains(&branch.window.stride),
                "separable: expected a 3x3, 5x5 or 7x7 window of stride 1 or 2, found {kernel}x{kernel} \
                 of stride {}; use --device cpu",
                branch.window.stride
            );
        }
        let graph = encoder.graph();
        let sources = group.branches.iter().map(|b| {
            let sources = graph.activation(b.branch.output).sources.len();
            sources.max(1)
        });
        let sources = sources.max().unwrap_or(1);
        let Some(cut) = Cut::best(group, sources, pass) else {
            anyhow::bail!(
                "separable: {} channels do not fit {} KiB of shared memory a block; use fewer \
                 channels, or --device cpu",
                group.channels,
                SHARED.div_ceil(256)
            );
        };
        self.shared = self.shared.max(cut.shared);
        let tiles = [
            group.size[0].div_ceil(cut.rows),
            group.size[1].div_ceil(cut.columns),
        ];
        let count = op.batch * tiles[0] * tiles[1];
        let blocks = if is_backward(pass) {
            count.min(BACKWARD_BLOCKS.div_ceil(op.groups.len()))
        } else {
            count
        };
        let first_branch = self.branches.len();
        let mut slot = 0;
        let mut take = |len: usize| {
            slot += len.next_multiple_of(SECTOR);
            slot - len.next_multiple_of(SECTOR)
        };
        let mut tensors = Vec::new();
        for branch in &group.branches {
            let ticket = self.branches.len();
            let mut row = branch_row(branch, pass, encoder);
            row.ticket = narrow(ticket);
            if is_backward(pass) {
                let depthwise = branch.taps.len() * group.channels;
                let pointwise = group.channels * branch.channels_out;
                let at = take(depthwise + pointwise);
                row.partial = narrow(at);
                let gradient = |id| encoder.parameter_gradient(id).data;
                tensors.push((gradient(branch.branch.depthwise), 0, at, depthwise));
                let pointwise = (at + depthwise, pointwise);
                let to = gradient(branch.branch.pointwise);
                tensors.push((to, 0, pointwise.0, pointwise.1));
            } else {
                row.partial = narrow(take(3 * branch.channels_out));
            }
            self.branches.push(row);
        }
        let sums = take(2 * group.channels);
        let kind = match pass {
            Pass::TangentBackward => Moments::AdjointSumsTangent,
            _ => Moments::AdjointSums,
        };
        let moments = encoder.moments(group.input, kind);
        let differentiable = graph.activation(group.input).differentiable;
        if moments.data != 0 && differentiable {
            tensors.push((moments.data, group.channels, sums, 2 * group.channels));
        }
        let partials = self.workspace;
        self.workspace += blocks * slot;
        if is_backward(pass) {
            for (to, channels, at, len) in tensors {
                self.tensors.push(TensorRow {
                    to,
                    channels: narrow(channels),
                    first_block: narrow(self.combine_blocks),
                    partials: narrow(partials + at),
                    slot: narrow(slot),
                    slots: narrow(blocks),
                    len: narrow(len),
                });
                self.combine_blocks += len.div_ceil(COMBINE.1);
            }
        }
        let mut row = group_row(group, cut, pass, encoder);
        row.first_branch = narrow(first_branch);
        row.first_block = narrow(self.blocks);
        row.blocks = narrow(blocks);
        [row.tiles_y, row.tiles_x] = tiles.map(narrow);
        row.tiles = narrow(count);
        [row.partials, row.slot, row.sums] = [partials, slot, sums].map(narrow);
        self.groups.push(row);
        self.blocks += blocks;
        Ok(())
    }
}

fn group_row(group: &PlannedGroup, cut: Cut, pass: Pass, encoder: &Encoder) -> GroupRow {
    let id = group.input;
    let activation = encoder.graph().activation(id);
    let mut row = GroupRow {
        input: encoder.input(id, pass),
        channels: narrow(group.channels),
        branches: narrow(group.branches.len()),
        border: narrow(group.border),
        ..GroupRow::default()
    };
    [row.height, row.width] = group.size.map(narrow);
    [row.rows, row.columns] = [cut.rows, cut.columns].map(narrow);
    [row.chunk, row.subtile, row.region] = [cut.chunk, cut.subtile, cut.region].map(narrow);
    [row.bar, row.weights, row.d] = [cut.bar, cut.weights, cut.d].map(narrow);
    [row.z, row.table, row.sum] = [cut.z, cut.table, cut.sum].map(narrow);
    if is_backward(pass) && activation.differentiable {
        let tangent = pass == Pass::TangentBackward;
        let role = if tangent {
            Role::AdjointTangent
        } else {
            Role::Adjoint
        };
        row.adjoint = encoder.pixels(id, role);
        let lazy = tangent && activation.normalised;
        row.first_order = encoder.pixels_if(lazy, id, Role::Adjoint);
        row.adds = u32::from(encoder.adds_to(id));
    }
    row
}

fn branch_row(planned: &PlannedBranch, pass: Pass, encoder: &mut Encoder) -> BranchRow {
    let (branch, window) = (&planned.branch, &planned.window);
    let mut row = BranchRow {
        depthwise: encoder.parameter(branch.depthwise),
        pointwise: encoder.parameter(branch.pointwise),
        statistics: encoder.moments(branch.output, Moments::Statistics),
        statistics_tangent: encoder.moments(branch.output, Moments::StatisticsTangent),
        channels: narrow(planned.channels_out),
        ..BranchRow::default()
    };
    if is_tangent(pass) {
        row.depthwise_tangent = encoder.parameter_tangent(branch.depthwise);
        row.pointwise_tangent = encoder.parameter_tangent(branch.pointwise);
    }
    if is_backward(pass) {
        row.adjoint = encoder.adjoint(branch.output, pass);
    } else {
        row.output = encoder.pixels(branch.output, Role::Value);
        let tangent = pass == Pass::Tangent;
        row.output_tangent = encoder.pixels_if(tangent, branch.output, Role::Tangent);
    }
    [row.kernel, row.stride] = [window.kernel, window.stride].map(narrow);
    [row.dilation, row.padding] = [window.dilation, window.padding()].map(narrow);
    [row.height, row.width] = window.output().map(narrow);
    row
}
