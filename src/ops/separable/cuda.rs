//! The four passes on CUDA, see `kernels/separable.cu`: one launch each.
//!
//! **Grid.** Forward and tangent take a block a tile of a group's state. Backward a block takes every
//! so-manieth tile, and a chunk of the channels, and sums their gradients in a slot of its own, so that there
//! are about [`MOST_BLOCKS`] partial sums however large the batch.
//!
//! **Cut.** How large a tile is, how many channels at a time and how many pixels a strip or sub-tile has
//! follows from shapes and from the shared memory that a block may use: [`Cut::best`] tries them and takes
//! the one that costs least.

use super::{PlannedBranch, PlannedGroup, Separable};
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{Adjoint, Encoder, Floats, Header, Input, Pixels, Tickets, narrow};
use crate::ops::{Moments, Pass, Role};
use anyhow::ensure;
use bytemuck::{Pod, Zeroable};
use std::collections::HashMap;
use std::sync::Mutex;

/// `Branch` of `separable.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct BranchRow {
    depthwise: Floats,
    pointwise: Floats,
    depthwise_tangent: Floats,
    pointwise_tangent: Floats,
    depthwise_gradient: Floats,
    pointwise_gradient: Floats,
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
    lines: u32,
    unused: [u32; 2],
}

/// `Group` of `separable.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct GroupRow {
    input: Input,
    adjoint: Pixels,
    first_order: Pixels,
    sums: Floats,
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
    slot_sums: u32,
    ticket: u32,
    bar: u32,
    weights: u32,
    d: u32,
    z: u32,
    table: u32,
    taps: u32,
    sum: u32,
    products: u32,
    region: u32,
    unused: u32,
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

layout_test!(BranchRow = 320, GroupRow = 232, Parameters = 80,);

/// Threads a block: two blocks of up to 64 registers a thread are half of an H100's multiprocessor.
const THREADS: usize = 512;
/// Bytes of shared memory that the kernels declare themselves (`Stage`), at most.
const DECLARED: usize = 2 << 10;
/// Blocks of a backward launch, at most: two on each of an H100's 132 multiprocessors.
const MOST_BLOCKS: usize = 264;
/// Blocks below which a backward launch leaves multiprocessors idle.
const FEW_BLOCKS: usize = 132;
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

/// What a cut is made for.
struct Task<'a> {
    group: &'a PlannedGroup,
    pass: Pass,
    /// Sources of a branch's adjoint, at most.
    sources: usize,
    batch: usize,
    /// Groups of the launch.
    groups: usize,
    /// f32 of shared memory that a block may use.
    shared: usize,
    /// Products on tensor cores.
    tensor: bool,
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
    taps: usize,
    sum: usize,
    products: usize,
    shared: usize,
    /// Blocks that take different tiles, backward.
    sets: usize,
    /// Work of a multiprocessor, about, in f32 loaded; what is minimised.
    cost: f32,
}

/// What a barrier of a block costs, in f32 that could be loaded meanwhile.
const BARRIER: usize = 1 << 10;
/// What computing d, d̄ and their sums costs, in f32 loaded a pixel and channel.
const COMPUTED: usize = 24;
/// What loading and evaluating z̄ costs, likewise.
const ADJOINT: usize = 5;

impl Cut {
    /// The cut that costs least and fits.
    fn best(task: &Task) -> Option<Cut> {
        let sides = |size: usize| {
            let powers = (1..10).map(|power| 1usize << power);
            powers.take_while(move |&side| side < 2 * size.max(2))
        };
        let mut best: Option<Cut> = None;
        let whole = quads(task.group.channels);
        let chunks = [whole, 256, 128, 64, 32, 16, 8, 4].into_iter();
        for chunk in chunks.filter(|&chunk| chunk <= whole) {
            for rows in sides(task.group.size[0]) {
                for columns in sides(task.group.size[1]) {
                    for subtile in [4, 8, 16, 32, 64, 128, 256] {
                        let size = (rows, columns, chunk, subtile);
                        let cut = if is_backward(task.pass) {
                            Cut::backward(task, size)
                        } else {
                            Cut::forward(task, size)
                        };
                        let Some(cut) = cut.filter(|cut| cut.shared <= task.shared) else {
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

    /// A cut of these sizes for the forward or tangent pass; `None` if there are too few threads.
    fn forward(
        task: &Task,
        (rows, columns, chunk, subtile): (usize, usize, usize, usize),
    ) -> Option<Cut> {
        let group = task.group;
        let copies = copies(task.pass);
        let out = quads(most(group, |b| b.channels_out)?);
        let taps = most(group, |b| b.taps.len())?;
        let (own, reach) = pixels(group, (rows, columns));
        let threads_out = THREADS.checked_div(out / 4).filter(|&t| t > 0)?;
        THREADS.checked_div(chunk / 4).filter(|&t| t > 0)?;
        // A thread holds the sums of two pixels of a strip, a warp on tensor cores a block of them.
        let fits = if task.tensor {
            sixteens(subtile) * sixteens(out) <= THREADS / 32
        } else {
            subtile <= 2 * threads_out
        };
        if !fits {
            return None;
        }
        let side = [rows.min(group.size[0]), columns.min(group.size[1])];
        let strips = group.branches.iter();
        let strips = strips.map(|b| Strips::of(b, side, subtile, task.pass));
        let strips: Vec<Strips> = strips.collect::<Option<_>>()?;
        let passes = group.channels.div_ceil(chunk) as f32;
        let ratio = |pixels: usize| pixels as f32 / own as f32;
        let branches = group.branches.len();
        let weights = ratio(branches * copies * (taps + out));
        let mut cut = Cut {
            rows,
            columns,
            chunk,
            subtile,
            sets: 1,
            bar: copies * reach * chunk,
            ..Cut::default()
        };
        cut.weights = cut.bar;
        cut.d = cut.weights + copies * (taps * chunk + pointwise_len(task, chunk, out));
        // What `statistics.cuh` asks for, of one pass or the other.
        let scratch = if is_tangent(task.pass) { 4 } else { 9 } * THREADS + 3 * out;
        let d = copies * subtile * row(quads(group.channels));
        // On tensor cores z passes through d's room.
        cut.shared = cut.d + d.max(subtile * row(out)).max(scratch);
        let count: usize = strips.iter().map(Strips::count).sum();
        // In more than one pass each strip loads all again.
        let (states, all) = if passes > 1.0 {
            (passes * count as f32, count as f32 / branches as f32)
        } else {
            (1.0, 1.0)
        };
        cut.cost = ratio(reach) * states + weights * all + branches as f32;
        // A strip costs about as much as four pixels, for its barriers.
        cut.cost += 4.0 * ratio(count) * passes;
        Some(cut)
    }

    /// A cut of these sizes for a backward pass; `None` if there are too few threads.
    fn backward(
        task: &Task,
        (rows, columns, chunk, subtile): (usize, usize, usize, usize),
    ) -> Option<Cut> {
        let group = task.group;
        let copies = copies(task.pass);
        let out = quads(most(group, |b| b.channels_out)?);
        let taps = most(group, |b| b.taps.len())?;
        let (own, reach) = pixels(group, (rows, columns));
        THREADS.checked_div(chunk / 4).filter(|&t| t > 0)?;
        // `Outer` of the kernels: sixteen elements of P̄ a thread.
        if !task.tensor && chunk * out > 16 * THREADS {
            return None;
        }
        let side = [rows.min(group.size[0]), columns.min(group.size[1])];
        let strips = group.branches.iter();
        let strips = strips.map(|b| Strips::of(b, side, subtile, task.pass));
        let strips: Vec<Strips> = strips.collect::<Option<_>>()?;
        let region = strips.iter().map(|s| s.lines * s.width_around).max()?;
        let parts = most(group, |b| {
            tap_parts(b.window.kernel, copies == 2, chunk) * b.taps.len()
        })?;
        let mut cut = Cut {
            rows,
            columns,
            chunk,
            subtile,
            region,
            bar: copies * reach * chunk,
            ..Cut::default()
        };
        cut.weights = cut.bar + copies * region * chunk;
        cut.d = cut.weights + copies * (taps * chunk + pointwise_len(task, chunk, out));
        cut.z = cut.d + copies * subtile * row(chunk);
        cut.table = cut.z + copies * subtile * row(out);
        cut.taps = cut.table + (COEFFICIENTS + 2 * task.sources) * out;
        cut.products = cut.taps + parts * chunk;
        // Slots are summed, and the sums over x̄ gathered, where d and what follows it was.
        let products = products(task.tensor, chunk, out);
        cut.sum =
            (cut.products + products.len * products.parts).max(cut.d + 8 * THREADS + 2 * chunk);
        cut.shared = cut.sum + own * chunk;

        let chunks = group.channels.div_ceil(chunk);
        let tiles = task.batch * group.size[0].div_ceil(rows) * group.size[1].div_ceil(columns);
        let most_sets = (MOST_BLOCKS / (task.groups * chunks)).max(1);
        let tiles_a_set = tiles.div_ceil(most_sets);
        cut.sets = tiles.div_ceil(tiles_a_set);
        let around: usize = strips.iter().map(|s| s.lines_around * s.width).sum();
        let barriers: usize = strips.iter().map(|s| 3 + 2 * s.count()).sum();
        let weights = group.branches.len() * (taps + out) * chunk;
        let of_chunk = around * copies * (ADJOINT * out + COMPUTED * chunk)
            + copies * reach * chunk
            + 2 * own * chunk
            + barriers * BARRIER
            + weights * (copies + 3);
        // A multiprocessor's share.
        let blocks = cut.sets * chunks * task.groups;
        let work = (tiles_a_set * of_chunk) as f32 * blocks as f32;
        cut.cost = work / blocks.min(FEW_BLOCKS) as f32;
        Some(cut)
    }
}

/// The cuts of a group that were looked for: with all its branches, so that a part that runs takes the same.
#[derive(Default)]
pub(super) struct Cuts(Mutex<HashMap<Asked, Option<Cut>>>);

/// What of a task differs between recordings of one group: pass, sources, shared memory, tensor cores.
type Asked = (Pass, usize, usize, bool);

impl Cuts {
    fn of(&self, task: &Task) -> Option<Cut> {
        let asked = (task.pass, task.sources, task.shared, task.tensor);
        let mut found = self.0.lock().unwrap_or_else(|e| e.into_inner());
        *found.entry(asked).or_insert_with(|| Cut::best(task))
    }
}

/// How a branch's outputs around a tile are cut into strips.
struct Strips {
    /// Rows of a strip.
    lines: usize,
    /// Rows around the tile.
    lines_around: usize,
    /// Columns inside the image.
    width: usize,
    /// All columns.
    width_around: usize,
}

impl Strips {
    /// Strips of at most `subtile` pixels; `None` if a row is longer. Backward, of all outputs whose windows
    /// reach into the tile; else of those that stand on it.
    fn of(branch: &PlannedBranch, side: [usize; 2], subtile: usize, pass: Pass) -> Option<Strips> {
        let (window, output) = (&branch.window, branch.window.output());
        let reach = if is_backward(pass) {
            2 * window.padding()
        } else {
            0
        };
        let most = |i: usize| (side[i] - 1 + reach) / window.stride + 1;
        let (lines_around, width) = (most(0).min(output[0]), most(1).min(output[1]));
        let lines = (subtile / width).min(lines_around);
        (lines > 0).then_some(Strips {
            lines,
            lines_around,
            width,
            width_around: most(1),
        })
    }

    fn count(&self) -> usize {
        self.lines_around.div_ceil(self.lines)
    }
}

/// Pixels of a tile, and of the state around it as it is kept.
fn pixels(group: &PlannedGroup, (rows, columns): (usize, usize)) -> (usize, usize) {
    let side = [rows.min(group.size[0]), columns.min(group.size[1])];
    let height = (side[0] + 2 * group.border).min(group.size[0]);
    (side[0] * side[1], height * (side[1] + 2 * group.border))
}

/// The most of a group's branches.
fn most(group: &PlannedGroup, of: impl Fn(&PlannedBranch) -> usize) -> Option<usize> {
    group.branches.iter().map(of).max()
}

/// `row_of` of `separable.cuh`: f32 from a row of whole quads to the next, an odd number of quads.
fn row(channels: usize) -> usize {
    channels | 4
}

fn sixteens(count: usize) -> usize {
    count.div_ceil(16)
}

/// f32 of a chunk's rows of P in shared memory (`load_pointwise`).
fn pointwise_len(task: &Task, chunk: usize, out: usize) -> usize {
    match (task.tensor, is_backward(task.pass)) {
        (false, _) => chunk * out,
        (true, false) => out * row(chunk),
        (true, true) => chunk * row(out),
    }
}

/// `ProductTable` of the kernels.
struct Products {
    /// Tables in shared memory.
    parts: usize,
    /// f32 of a table.
    len: usize,
}

fn products(tensor: bool, chunk: usize, out: usize) -> Products {
    if !tensor {
        return Products {
            parts: 1,
            len: chunk * out,
        };
    }
    let blocks = sixteens(chunk) * sixteens(out);
    let mut parts = 1;
    while 2 * parts * blocks <= THREADS / 64 {
        parts *= 2;
    }
    Products {
        parts,
        len: 256 * blocks,
    }
}

/// Values and tangents, or values alone.
fn copies(pass: Pass) -> usize {
    if is_tangent(pass) { 2 } else { 1 }
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
    blocks: usize,
    tickets: usize,
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
    let mut kernel = Kernel::new("separable", entry)
        .define("VECTOR", encoder.vector(&touched(op, encoder)))
        .define("THREADS", THREADS);
    if let Some(tensor) = encoder.precision().tensor() {
        kernel = kernel.define("TENSOR", tensor);
    }
    parameters.tickets = encoder.tickets(tables.tickets);
    let (grid, shared) = ([tables.blocks, 1], 4 * tables.shared);
    encoder.launch(kernel, grid, THREADS, shared, &parameters);
    Ok(())
}

/// All activations that a pass may load.
fn touched(op: &Separable, encoder: &Encoder) -> Vec<crate::ops::ActivationId> {
    let mut all: Vec<_> = op.groups.iter().map(|g| g.input).collect();
    for id in op.outputs() {
        all.push(id);
        let sources = &encoder.whole().activation(id).sources;
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
        let live: Vec<&PlannedBranch> = group.live(graph).collect();
        if live.is_empty() {
            return Ok(());
        }
        let sources = group.branches.iter().map(|b| {
            let sources = encoder.whole().activation(b.branch.output).sources.len();
            sources.max(1)
        });
        let task = Task {
            group,
            pass,
            sources: sources.max().unwrap_or(1),
            batch: op.batch,
            groups: op.groups.len(),
            shared: (encoder.shared() - DECLARED) / 4,
            tensor: encoder.precision().tensor().is_some(),
        };
        let Some(cut) = group.cuts.of(&task) else {
            anyhow::bail!(
                "separable: {} to {} channels do not fit {} KiB of shared memory a block; use fewer \
                 channels, or --device cpu",
                group.channels,
                most(group, |b| b.channels_out).unwrap_or(0),
                encoder.shared() >> 10
            );
        };
        self.shared = self.shared.max(cut.shared);
        let tiles = [
            group.size[0].div_ceil(cut.rows),
            group.size[1].div_ceil(cut.columns),
        ];
        let count = op.batch * tiles[0] * tiles[1];
        let chunks = group.channels.div_ceil(cut.chunk);
        let (slots, blocks) = if is_backward(pass) {
            (cut.sets, cut.sets * chunks)
        } else {
            (count, count)
        };
        let first_branch = self.branches.len();
        let mut slot = 0;
        let mut take = |len: usize| {
            slot += len.next_multiple_of(SECTOR);
            slot - len.next_multiple_of(SECTOR)
        };
        for &branch in &live {
            let mut row = branch_row(branch, cut, pass, encoder);
            row.ticket = narrow(self.tickets);
            row.partial = narrow(if is_backward(pass) {
                self.tickets += chunks;
                let products = products(task.tensor, cut.chunk, quads(branch.channels_out));
                take(chunks * (cut.chunk * branch.taps.len() + products.len))
            } else {
                self.tickets += 1;
                take(3 * branch.channels_out)
            });
            self.branches.push(row);
        }
        let slot_sums = take(2 * chunks * cut.chunk);
        let mut row = group_row(group, cut, pass, encoder);
        row.branches = narrow(live.len());
        row.ticket = narrow(self.tickets);
        self.tickets += chunks;
        row.first_branch = narrow(first_branch);
        row.first_block = narrow(self.blocks);
        row.blocks = narrow(blocks);
        [row.tiles_y, row.tiles_x] = tiles.map(narrow);
        row.tiles = narrow(count);
        [row.partials, row.slot, row.slot_sums] = [self.workspace, slot, slot_sums].map(narrow);
        self.groups.push(row);
        self.blocks += blocks;
        self.workspace += slots * slot;
        Ok(())
    }
}

fn group_row(group: &PlannedGroup, cut: Cut, pass: Pass, encoder: &Encoder) -> GroupRow {
    let id = group.input;
    let activation = encoder.graph().activation(id);
    let mut row = GroupRow {
        input: encoder.input(id, pass),
        channels: narrow(group.channels),
        border: narrow(group.border),
        ..GroupRow::default()
    };
    [row.height, row.width] = group.size.map(narrow);
    [row.rows, row.columns] = [cut.rows, cut.columns].map(narrow);
    [row.chunk, row.subtile, row.region] = [cut.chunk, cut.subtile, cut.region].map(narrow);
    row.products = narrow(cut.products);
    [row.bar, row.weights, row.d] = [cut.bar, cut.weights, cut.d].map(narrow);
    [row.z, row.table, row.taps, row.sum] = [cut.z, cut.table, cut.taps, cut.sum].map(narrow);
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
        row.sums = encoder.moments(
            id,
            if tangent {
                Moments::AdjointSumsTangent
            } else {
                Moments::AdjointSums
            },
        );
    }
    row
}

fn branch_row(planned: &PlannedBranch, cut: Cut, pass: Pass, encoder: &mut Encoder) -> BranchRow {
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
    let side = [
        cut.rows.min(window.input[0]),
        cut.columns.min(window.input[1]),
    ];
    let strips = Strips::of(planned, side, cut.subtile, pass);
    row.lines = narrow(strips.map_or(0, |strips| strips.lines));
    if is_backward(pass) {
        row.adjoint = encoder.adjoint(branch.output, pass);
        row.depthwise_gradient = encoder.parameter_gradient(branch.depthwise);
        row.pointwise_gradient = encoder.parameter_gradient(branch.pointwise);
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
