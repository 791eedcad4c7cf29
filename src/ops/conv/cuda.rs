//! The four passes on CUDA: one launch each for up to 64 output channels. See `kernels/conv.cu`.
//!
//! **Grid.** Forward and tangent: a block a tile of output pixels and a block of output channels, up to
//! 64, so that the input is read once in every network of ours. Backward and tangent_backward: a block
//! keeps its part of W̄ over several tiles, because each part is written and read again: as many blocks
//! as fill a large GPU, more only while the parts stay a small share of what is moved anyway. Blocks of
//! another row of the grid take other input channels.
//!
//! **Block.** 256 threads; tiles are cut so that four blocks fit a multiprocessor.

use super::{Axis, Conv};
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{
    Adjoint, Encoder, Floats, Header, Input, Pixels, Precision, Tickets, narrow,
};
use crate::ops::{ActivationId, Moments, Pass, Role};
use bytemuck::{Pod, Zeroable};

/// `Conv` of `conv.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    input: Input,
    output: Pixels,
    value: Pixels,
    adjoint: Adjoint,
    input_adjoint: Pixels,
    weight: [Floats; 2],
    weight_tangent: [Floats; 2],
    gradient: [Floats; 2],
    bias: Floats,
    bias_tangent: Floats,
    bias_gradient: Floats,
    statistics: Floats,
    statistics_tangent: Floats,
    partials: Floats,
    tickets: Tickets,
    relu: u32,
    adds: u32,
    images: u32,
    height: u32,
    width: u32,
    rows: u32,
    columns: u32,
    cin: u32,
    cout: u32,
    split: u32,
    first: u32,
    channels: u32,
    tile_images: u32,
    tile_rows: u32,
    tile_columns: u32,
    tiles_down: u32,
    tiles_across: u32,
    tiles: u32,
    unused: [u32; 2],
}

layout_test!(Parameters = 528);

const THREADS: usize = 256;
/// Most output channels of a block.
const MOST_COLUMNS: usize = 64;
/// Bytes of shared memory: four blocks fit the smallest of the larger GPUs (164 KiB), one fits any.
const SHARED: usize = 40 << 10;
/// What any GPU since sm_75 gives to one block: 64 KiB, with a little left for static shared memory.
const MOST_SHARED: usize = 62 << 10;
/// Two blocks for each multiprocessor of a large GPU. A constant, because sums must not depend on the
/// device that a run moved to.
const FILL: usize = 264;

/// How the cells [N, rows, columns] are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tiling {
    /// Images, rows and columns of a tile.
    tile: [usize; 3],
    /// Tiles over images, down and across.
    grid: [usize; 3],
}

impl Tiling {
    /// Tiles of at most `most` cells that load least, where a tile of rows × columns loads
    /// `loaded(rows, columns)` pixels of each image.
    fn new(
        [images, rows, columns]: [usize; 3],
        most: usize,
        loaded: impl Fn(usize, usize) -> usize,
    ) -> Tiling {
        let cut = |across: usize| {
            let even = |size: usize, most: usize| size.div_ceil(size.div_ceil(most));
            let across = even(columns, across);
            let down = even(rows, (most / across).max(1));
            let whole = across == columns && down == rows;
            let deep = if whole {
                (most / (rows * columns)).clamp(1, images)
            } else {
                1
            };
            let tile = [deep, down, across];
            Tiling {
                tile,
                grid: [
                    images.div_ceil(deep),
                    rows.div_ceil(down),
                    columns.div_ceil(across),
                ],
            }
        };
        let cost = |t: &Tiling| t.count() * (t.tile[0] * loaded(t.tile[1], t.tile[2]) + most);
        // From wide to narrow: of equals, the one whose rows are longest.
        let widths = (1..=columns.min(most)).rev();
        widths
            .map(cut)
            .min_by_key(cost)
            .expect("an image has a column")
    }

    fn count(&self) -> usize {
        self.grid.iter().product()
    }
}

/// What a launch is specialised for, beside the convolution itself.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Output channels of a block.
    columns: usize,
    /// Input channels of a step or block.
    chunk: usize,
    /// Most cells of a tile.
    cells: usize,
    tiling: Tiling,
    /// Bytes of shared memory.
    shared: usize,
}

/// Output channels of a block: even shares of at most `most`, in whole groups.
fn columns(cout: usize, most: usize, group: usize) -> usize {
    cout.div_ceil(cout.div_ceil(most)).next_multiple_of(group)
}

/// What operands of products are in shared memory, and so who multiplies them: the kernels' OPERAND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Operand {
    name: &'static str,
    bytes: usize,
}

/// Exact multiply-adds by threads.
const FLOAT: Operand = Operand {
    name: "float",
    bytes: 4,
};

impl Operand {
    fn tensor(self) -> bool {
        self != FLOAT
    }

    /// Channels that a product on tensor cores takes at once: 32 bytes.
    fn depth(self) -> usize {
        32 / self.bytes
    }

    /// Bytes from a row of shared memory to the next: `tile_row` of `mma.cuh`.
    fn row(self, channels: usize) -> usize {
        ((channels * self.bytes).div_ceil(16) | 1) * 16
    }
}

impl Conv {
    /// Taps that a launch multiplies: both of a factorized reduction, or all.
    fn device_taps(&self) -> usize {
        self.taps.len()
    }

    fn cells(&self) -> [usize; 3] {
        let [rows, columns] = self.window.output();
        [self.batch, rows, columns]
    }

    /// Tensor cores where the precision asks for them and less than half of a step would be padding.
    fn operand(&self, precision: Precision) -> Operand {
        match precision.tensor() {
            Some(name) if self.cin >= 8 && self.cout >= 8 => Operand {
                name,
                bytes: precision.bytes(),
            },
            _ => FLOAT,
        }
    }

    /// The specialisation of forward or tangent.
    fn forward_shape(&self, dot: bool, operand: Operand) -> anyhow::Result<Shape> {
        let copies = 1 + usize::from(dot);
        // On tensor cores nine taps of W and Ẇ for 64 channels would leave no room for a tile.
        let most = match operand.tensor() && dot && self.window.kernel > 2 {
            true => MOST_COLUMNS / 2,
            false => MOST_COLUMNS,
        };
        let columns = columns(self.cout, most, 8);
        let lines = THREADS / (columns / 4);
        // A 3×3 loads nine weights an input channel: fewer channels a step.
        let most = if self.window.kernel > 2 { 32 } else { 64 } / operand.bytes;
        let least = if operand.tensor() { operand.depth() } else { 4 };
        let widest = self.cin.next_power_of_two().clamp(least, most);
        // As in the kernel: a 1×1 keeps only the pixels it looks at.
        let step = if self.window.kernel == 1 {
            1
        } else {
            self.window.stride
        };
        let kernel = self.window.kernel;
        let loaded = |rows: usize, columns: usize| {
            ((rows - 1) * step + kernel) * ((columns - 1) * step + kernel)
        };
        let shape = |chunk: usize, cells: usize| {
            let tiling = Tiling::new(self.cells(), cells, loaded);
            let region = tiling.tile[0] * loaded(tiling.tile[1], tiling.tile[2]);
            // Tensor cores take W transposed, and leave their sums in shared memory.
            let (matrix, results) = match operand.tensor() {
                true => (columns * operand.row(chunk), cells * FLOAT.row(columns)),
                false => (4 * chunk * columns, 0),
            };
            let weights = self.device_taps() * matrix;
            let tiles = copies * (region * operand.row(chunk) + weights) + 4 * region;
            // The statistics' tree, and the last block's doubles.
            let sums = 4 * (9 * THREADS + 3 * columns);
            let shared = tiles.max(sums).max(results);
            Shape {
                columns,
                chunk,
                cells,
                tiling,
                shared,
            }
        };
        let fills = |s: &Shape| s.tiling.count() * self.cout.div_ceil(columns) >= FILL;
        // In the tangent pass fewer, for its registers.
        let sizes: Vec<usize> = match (operand.tensor(), dot) {
            (true, _) => [256, 128, 64, 32]
                .into_iter()
                .filter(|c| c * columns <= 8192)
                .collect(),
            (false, true) => vec![2 * lines, lines],
            (false, false) => vec![4 * lines, 2 * lines, lines],
        };
        let fit = |chunk: usize, most: usize| {
            let shapes = sizes.iter().map(|&cells| shape(chunk, cells));
            let fitting: Vec<Shape> = shapes.filter(|s| s.shared <= most).collect();
            let filling = fitting.iter().find(|s| fills(s));
            filling.or(fitting.last()).copied()
        };
        // Fewer channels a step come last: a step then reads less than a sector of a pixel.
        let chunks = [widest, widest / 2, widest / 4]
            .into_iter()
            .filter(|&chunk| chunk >= least);
        let chosen = chunks
            .flat_map(|chunk| [(chunk, SHARED), (chunk, MOST_SHARED)])
            .find_map(|(chunk, most)| fit(chunk, most));
        chosen.map_or_else(|| self.too_large(shape(least, lines.min(32))), Ok)
    }

    /// The specialisation of backward or tangent_backward, for an output with `sources` readers.
    fn backward_shape(&self, dot: bool, sources: usize, operand: Operand) -> anyhow::Result<Shape> {
        let group = if operand.tensor() { 16 } else { 8 };
        let (columns, copies) = (
            columns(self.cout, MOST_COLUMNS, group),
            1 + usize::from(dot),
        );
        let least = if operand.tensor() { 16 } else { 4 };
        let most = self.cin.next_power_of_two().clamp(least, 64);
        let fits = |c: &usize| {
            let taps = self.device_taps();
            // A warp has up to four pieces of W̄, 16 × 8; more where that were too few channels.
            let by_warps = || *c == 16 || taps * (c / 16) * (columns / 8) <= 32;
            // A thread has one, 4 × 4, in the tangent pass of half a size.
            let pieces = taps * (c / 4) * (columns / 4);
            let few = if dot { THREADS / 2 } else { THREADS };
            let by_threads = || pieces <= few || (*c <= 16 && pieces <= 4 * THREADS);
            (least..=most).contains(c)
                && if operand.tensor() {
                    by_warps()
                } else {
                    by_threads()
                }
        };
        let chunks: Vec<usize> = [64, 32, 16, 8, 4].into_iter().filter(fits).collect();
        let Some(&fewest) = chunks.last() else {
            anyhow::bail!(
                "{} of {} taps has no CUDA kernel: expected at most 64; use --device cpu",
                self.window.kernel,
                self.device_taps()
            );
        };
        let reach = match self.window.stride {
            1 => 2 * self.window.padding(),
            _ => self.window.padding().div_ceil(2) + self.window.padding() / 2,
        };
        let loaded = |rows: usize, columns: usize| (rows + reach) * (columns + reach);
        // `coefficients` of `adjoint.cuh`.
        let table = (7 + 2 * sources) * self.cout;
        let shape = |chunk: usize, most: usize| {
            // Warps take cells by sixteens, of which the tile may have fewer.
            let cells = if operand.tensor() { most.max(16) } else { most };
            // Bytes of a tap's weights, of a row of a, and of x̄ on its way from warps to threads.
            let (matrix, a_row, x_row) = match operand.tensor() {
                true => (
                    chunk * operand.row(columns),
                    operand.row(chunk),
                    FLOAT.row(chunk),
                ),
                false => (4 * columns * (chunk + 4), 4 * chunk, 0),
            };
            let resident = self.device_taps() * chunk * columns <= 4096;
            let weights = if resident {
                self.device_taps() * matrix
            } else {
                matrix
            };
            let tiling = Tiling::new(self.cells(), most, loaded);
            let region = tiling.tile[0] * loaded(tiling.tile[1], tiling.tile[2]);
            let tiles = copies * (region * operand.row(columns) + cells * a_row + weights);
            let shared = tiles + cells * x_row + 4 * (table + 3 * cells + region);
            Shape {
                columns,
                chunk,
                cells,
                tiling,
                shared: shared.max(16 * THREADS),
            }
        };
        // From the largest: two cells a thread (on tensor cores four), down to a warp's worth of cells where few
        // channels leave many lines.
        let (per_thread, smallest) = (if operand.tensor() { 4 } else { 2 }, 8);
        let fit = |chunk: usize| {
            let largest = per_thread * THREADS / (chunk / 4);
            let sizes = std::iter::successors(Some(largest), |cells| Some(cells / 2));
            let sizes = sizes.take_while(|&cells| cells >= smallest);
            let sizes = sizes.filter(|&cells| cells <= 256);
            let shapes: Vec<Shape> = sizes.map(|cells| shape(chunk, cells)).collect();
            let fits = |most: usize| shapes.iter().find(|s| s.shared <= most).copied();
            fits(SHARED).or_else(|| fits(MOST_SHARED))
        };
        let chosen = chunks.into_iter().find_map(fit);
        chosen.map_or_else(|| self.too_large(shape(fewest, smallest)), Ok)
    }

    fn too_large(&self, shape: Shape) -> anyhow::Result<Shape> {
        anyhow::bail!(
            "a {}×{} convolution of {} to {} channels needs {} KiB of shared memory: expected at \
             most {} KiB; use fewer channels or --device cpu",
            self.window.kernel,
            self.window.kernel,
            self.cin,
            self.cout,
            shape.shared >> 10,
            MOST_SHARED >> 10
        )
    }

    fn parameters(&self, pass: Pass, encoder: &Encoder) -> Parameters {
        let [rows, columns] = self.window.output();
        let mut p = Parameters {
            input: encoder.input(self.input, pass),
            relu: u32::from(self.relu),
            images: narrow(self.batch),
            height: narrow(self.window.input[0]),
            width: narrow(self.window.input[1]),
            rows: narrow(rows),
            columns: narrow(columns),
            cin: narrow(self.cin),
            cout: narrow(self.cout),
            split: narrow(self.parts[0].channels),
            ..Parameters::default()
        };
        let tangents = matches!(pass, Pass::Tangent | Pass::TangentBackward);
        for (i, part) in self.parts.iter().enumerate() {
            p.weight[i] = encoder.parameter(part.weight);
            if tangents {
                p.weight_tangent[i] = encoder.parameter_tangent(part.weight);
            }
        }
        p
    }

    fn kernel(&self, entry: &'static str, pass: usize, shape: &Shape, encoder: &Encoder) -> Kernel {
        let readers = encoder.whole().activation(self.output).sources.iter();
        let outputs: Vec<ActivationId> = readers.map(|s| s.at).chain([self.output]).collect();
        let kernel = Kernel::new("conv", entry);
        let kernel = match self.axis {
            None => kernel,
            Some(Axis::Row) => kernel.define("AXIS", 1),
            Some(Axis::Column) => kernel.define("AXIS", 2),
        };
        kernel
            .define("PASS", pass)
            .define("OPERAND", self.operand(encoder.precision()).name)
            .define("KERNEL", self.window.kernel)
            .define("STRIDE", self.window.stride)
            .define("VECTOR", encoder.vector(&[self.input]))
            .define("WIDE", encoder.vector(&outputs))
            .define("COLUMNS", shape.columns)
            .define("CHUNK", shape.chunk)
            .define("CELLS", shape.cells)
    }
}

impl Parameters {
    fn tiled(mut self, tiling: &Tiling) -> Parameters {
        [self.tile_images, self.tile_rows, self.tile_columns] = tiling.tile.map(narrow);
        [_, self.tiles_down, self.tiles_across] = tiling.grid.map(narrow);
        self.tiles = narrow(tiling.count());
        self
    }
}

pub(super) fn encode(op: &Conv, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
    anyhow::ensure!(
        op.parts.len() == 2 || op.window.kernel != 2,
        "a 2×2 convolution has no CUDA kernels in this build, which take 1×1, 3×3, the row or column of a \
         window, and factorized reductions; use --device cpu"
    );
    match pass {
        Pass::Forward => values(op, pass, ("conv_forward", 0), encoder),
        Pass::Backward => adjoints(op, pass, ("conv_backward", 1), encoder),
        Pass::Tangent => values(op, pass, ("conv_tangent", 2), encoder),
        Pass::TangentBackward => adjoints(op, pass, ("conv_tangent_backward", 3), encoder),
    }
}

/// Forward and tangent.
fn values(
    op: &Conv,
    pass: Pass,
    (entry, number): (&'static str, usize),
    encoder: &mut Encoder,
) -> anyhow::Result<()> {
    let dot = pass == Pass::Tangent;
    let shape = op.forward_shape(dot, op.operand(encoder.precision()))?;
    let grid = [shape.tiling.count(), op.cout.div_ceil(shape.columns)];
    let mut p = op.parameters(pass, encoder).tiled(&shape.tiling);
    p.output = encoder.pixels(op.output, if dot { Role::Tangent } else { Role::Value });
    p.value = encoder.pixels_if(dot, op.output, Role::Value);
    if let Some(bias) = op.bias {
        p.bias = encoder.parameter(bias);
        if dot {
            p.bias_tangent = encoder.parameter_tangent(bias);
        }
    }
    if encoder.graph().activation(op.output).normalised {
        p.statistics = encoder.moments(op.output, Moments::Statistics);
        p.statistics_tangent = encoder.moments(op.output, Moments::StatisticsTangent);
        let rows = if dot { 2 } else { 3 };
        p.partials = encoder.workspace(grid[0] * rows * op.cout);
        p.tickets = encoder.tickets(1);
    }
    let kernel = op.kernel(entry, number, &shape, encoder);
    encoder.launch(kernel, grid, THREADS, shape.shared, &p);
    Ok(())
}

/// Backward and tangent_backward: a launch for each block of output channels, which adds to x̄.
fn adjoints(
    op: &Conv,
    pass: Pass,
    (entry, number): (&'static str, usize),
    encoder: &mut Encoder,
) -> anyhow::Result<()> {
    let dot = pass == Pass::TangentBackward;
    let graph = encoder.graph();
    let sources = encoder.whole().activation(op.output).sources.len().max(1);
    let shape = op.backward_shape(dot, sources, op.operand(encoder.precision()))?;
    let blocks = op.cin.div_ceil(shape.chunk);
    let part = op.device_taps() * shape.chunk * shape.columns;
    let grid = [gradient_parts(op, sources, &shape, part * blocks), blocks];
    let mut p = op.parameters(pass, encoder).tiled(&shape.tiling);
    p.adjoint = encoder.adjoint(op.output, pass);
    let role = if dot {
        Role::AdjointTangent
    } else {
        Role::Adjoint
    };
    p.input_adjoint = encoder.pixels_if(graph.activation(op.input).differentiable, op.input, role);
    for (i, part) in op.parts.iter().enumerate() {
        p.gradient[i] = encoder.parameter_gradient(part.weight);
    }
    if let Some(bias) = op.bias {
        p.bias_gradient = encoder.parameter_gradient(bias);
    }
    p.partials = encoder.workspace(grid[0] * grid[1] * part);
    p.tickets = encoder.tickets(blocks);
    for first in (0..op.cout).step_by(shape.columns) {
        p.first = narrow(first);
        p.channels = narrow(shape.columns.min(op.cout - first));
        p.adds = u32::from(first > 0 || encoder.adds_to(op.input));
        let kernel = op.kernel(entry, number, &shape, encoder);
        encoder.launch(kernel, grid, THREADS, shape.shared, &p);
    }
    Ok(())
}

/// How many blocks share the tiles, each with a part of `weights` gradients: enough to fill a GPU, and
/// as many more as keep the parts below an eighth of the activations.
fn gradient_parts(op: &Conv, sources: usize, shape: &Shape, weights: usize) -> usize {
    let outputs: usize = op.cells().iter().product();
    let inputs = op.batch * op.window.input[0] * op.window.input[1];
    let moved = 2 * inputs * op.cin + outputs * op.cout * (1 + sources);
    let cheap = moved / 8 / (2 * weights);
    let fill = FILL.div_ceil(2 * op.cin.div_ceil(shape.chunk));
    shape.tiling.count().min(cheap.max(fill))
}
