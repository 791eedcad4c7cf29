//! The four passes on CUDA: one launch each for all pools of a state. See `kernels/pool.cu`.

use super::{Branch, Kind, Pool};
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{Adjoint, Encoder, Floats, Header, Pixels, Precision, Tickets, narrow};
use crate::ops::{Graph, Moments, Pass, Role};
use bytemuck::{Pod, Zeroable};

/// `Extent` of `pool.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Extent {
    rows: u32,
    columns: u32,
    rows_inverse: u32,
    columns_inverse: u32,
}

/// `Branch` of `pool.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct BranchParameters {
    output: Pixels,
    value: Pixels,
    statistics: Floats,
    statistics_tangent: Floats,
    adjoint: Adjoint,
    rows: u32,
    columns: u32,
    unused: [u32; 2],
}

/// `Pool` of `pool.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    input: Pixels,
    tangent: Pixels,
    to: Pixels,
    branches: [BranchParameters; MOST_BRANCHES],
    partials: Floats,
    tickets: Tickets,
    adds: u32,
    images: u32,
    height: u32,
    width: u32,
    channels: u32,
    codes: u32,
    values: u32,
    tile_images: u32,
    window_count: u32,
    unused: u32,
    tiles: Extent,
    tile: Extent,
    windows: Extent,
    inputs: Extent,
}

layout_test!(Extent = 16, BranchParameters = 192, Parameters = 584);

/// Constants of the kernel file.
const THREADS: usize = 512;
const CELLS: usize = 2;
const MOST_BRANCHES: usize = 2;
/// Bytes of a sector, and of the channels that a block takes.
const SECTOR: usize = 32;
/// Blocks that fill the largest GPU; with fewer, tiles become smaller.
const ENOUGH_BLOCKS: usize = 256;
/// Rows of an image that a tile keeps at least, so that its border stays small beside it.
const FEWEST_ROWS: usize = 8;
/// Widest image that is not cut into columns, and the columns otherwise.
const COLUMNS: [usize; 2] = [64, 32];
/// What any GPU since sm_75 gives to one block: 64 KiB, with a little left for static shared memory.
const MOST_SHARED: usize = 62 << 10;
/// Most tiles: a limit of CUDA on the grid.
const MOST_TILES: usize = 65_535;

impl Extent {
    /// `rows` × `columns` places, at most 2¹⁶ of them counted.
    fn new(rows: usize, columns: usize) -> Extent {
        // ⌈2³²/x⌉; of 1 it does not fit, and the kernel takes 0 for it.
        let inverse = |x: usize| (1usize << 32).div_ceil(x) as u32;
        Extent {
            rows: narrow(rows),
            columns: narrow(columns),
            rows_inverse: inverse(rows),
            columns_inverse: inverse(columns),
        }
    }
}

/// How the pixels of a batch are cut: images, rows and columns of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    images: usize,
    rows: usize,
    columns: usize,
}

impl Tile {
    /// At most `most` pixels; whole images if they fit, else bands of equal height.
    fn of(most: usize, [height, width]: [usize; 2], batch: usize) -> Tile {
        let columns = if width <= COLUMNS[0].min(most) {
            width
        } else {
            COLUMNS[1].min(most)
        };
        let rows = (most / columns).clamp(1, height);
        let rows = height.div_ceil(height.div_ceil(rows));
        let whole = rows == height && columns == width;
        let images = if whole {
            (most / (rows * columns)).clamp(1, batch)
        } else {
            1
        };
        Tile {
            images,
            rows,
            columns,
        }
    }

    /// Tiles of a batch: images, down, across.
    fn count(self, [height, width]: [usize; 2], batch: usize) -> [usize; 3] {
        [
            batch.div_ceil(self.images),
            height.div_ceil(self.rows),
            width.div_ceil(self.columns),
        ]
    }

    /// At most `most` pixels, and fewer if there would not be enough blocks.
    fn new(most: usize, size: [usize; 2], batch: usize, slabs: usize) -> Tile {
        let fewest = (FEWEST_ROWS * size[1].min(COLUMNS[1])).min(size[0] * size[1]);
        let blocks = |t: Tile| slabs * t.count(size, batch).iter().product::<usize>();
        let mut most = most;
        while most / 2 >= fewest && blocks(Tile::of(most, size, batch)) < ENOUGH_BLOCKS {
            most /= 2;
        }
        Tile::of(most, size, batch)
    }
}

/// What a launch needs to know of the channels.
struct Slabs {
    vector: usize,
    groups: usize,
    count: usize,
}

impl Slabs {
    fn new(op: &Pool, encoder: &Encoder) -> Slabs {
        let graph = encoder.whole();
        let mut touched = vec![op.input];
        for branch in &op.branches {
            touched.push(branch.output);
            touched.extend(graph.activation(branch.output).sources.iter().map(|s| s.at));
        }
        let vector = encoder.vector(&touched);
        let whole = SECTOR / encoder.precision().bytes();
        let groups = (op.channels / vector)
            .next_power_of_two()
            .min(whole / vector);
        let count = op.channels.div_ceil(groups * vector);
        Slabs {
            vector,
            groups,
            count,
        }
    }

    fn channels(&self) -> usize {
        self.groups * self.vector
    }
}

fn is_backward(pass: Pass) -> bool {
    matches!(pass, Pass::Backward | Pass::TangentBackward)
}

/// Fills in a tile of at most `most` input pixels and what shared memory holds of it; returns the bytes and
/// the number of tiles.
fn lay_out(
    op: &Pool,
    branches: &[Branch],
    pass: Pass,
    (slabs, precision, most): (&Slabs, Precision, usize),
    graph: &Graph,
    to: &mut Parameters,
) -> (usize, usize) {
    let stride = op.stride;
    let maximum = branches.iter().any(|b| b.kind.is_maximum());
    let side = side(branches);
    let size = if is_backward(pass) {
        op.size
    } else {
        op.size.map(|s| s.div_ceil(stride))
    };
    // A forward tile has stride² input pixels under each of its own.
    let most = if is_backward(pass) {
        most
    } else {
        most / (stride * stride)
    };
    let tile = Tile::new(most, size, op.batch, slabs.count);
    let [images, down, across] = tile.count(size, op.batch);
    // Windows over n pixels: with stride 1 as many more as they reach on each side, with stride 2 one for
    // every two pixels of that, and one more where the tile begins or ends between.
    let windows = |n: usize| match stride {
        1 => n + 2 * (side / 2),
        _ => n / 2 + side / 2 + 1,
    };
    let [window_rows, window_columns] = if is_backward(pass) {
        [windows(tile.rows), windows(tile.columns)]
    } else {
        [tile.rows, tile.columns]
    };
    let inputs = |n: usize| stride * (n - 1) + side;
    to.tile_images = narrow(tile.images);
    to.tiles = Extent::new(down, across);
    to.tile = Extent::new(tile.rows, tile.columns);
    to.windows = Extent::new(window_rows, window_columns);
    to.inputs = Extent::new(inputs(window_rows), inputs(window_columns));
    let window_count = tile.images * window_rows * window_columns;
    to.window_count = narrow(window_count);
    let pixels = tile.images * inputs(window_rows) * inputs(window_columns);
    let input_bytes = pixels * slabs.channels() * precision.bytes();
    let bytes = if is_backward(pass) {
        let sources = branches
            .iter()
            .map(|b| graph.activation(b.output).sources.len().max(1));
        let table = (7 + 2 * sources.max().unwrap_or(1)) * op.channels;
        let codes = table.next_multiple_of(4);
        let code_count = if maximum {
            window_count * slabs.groups
        } else {
            0
        };
        let values = codes + code_count.next_multiple_of(4);
        (to.codes, to.values) = (narrow(codes), narrow(values));
        let x = if maximum { input_bytes } else { 0 };
        4 * values + x.max(4 * window_count * slabs.channels())
    } else {
        let tiles = if maximum && pass == Pass::Tangent {
            2
        } else {
            1
        };
        // Statistics lie where the tile did.
        (tiles * input_bytes).max(4 * (1 + 2 * slabs.vector).max(6) * THREADS)
    };
    (bytes, images * down * across)
}

/// Fills in what a branch reads and writes.
fn branch(op: &Pool, branch: Branch, pass: Pass, encoder: &mut Encoder) -> BranchParameters {
    let [rows, columns] = Pool::output_size(branch.kind, op.stride, op.size);
    let mut to = BranchParameters {
        statistics: encoder.moments(branch.output, Moments::Statistics),
        statistics_tangent: encoder.moments(branch.output, Moments::StatisticsTangent),
        rows: narrow(rows),
        columns: narrow(columns),
        ..BranchParameters::default()
    };
    match pass {
        Pass::Forward => to.output = encoder.pixels(branch.output, Role::Value),
        Pass::Tangent => {
            to.output = encoder.pixels(branch.output, Role::Tangent);
            to.value = encoder.pixels(branch.output, Role::Value);
        }
        Pass::Backward | Pass::TangentBackward => {
            to.adjoint = encoder.adjoint(branch.output, pass);
        }
    }
    to
}

/// Bits of KINDS.
fn kinds(branches: &[Branch]) -> usize {
    let bits = branches.iter().map(|b| match b.kind {
        Kind::Average3 => 0,
        Kind::Maximum3 | Kind::Maximum5 | Kind::Maximum7 => 1,
        Kind::Average2 => 2,
        Kind::Maximum2 => 3,
        Kind::Average5 => unreachable!("`encode` refuses it"),
    });
    bits.enumerate().map(|(b, kind)| kind << (2 * b)).sum()
}

/// k of the windows of a launch: 3, in whose lower right a 2×2 lies, or that of its one wide branch.
fn side(branches: &[Branch]) -> usize {
    let sides = branches.iter().map(|b| b.kind.side().max(3));
    sides.max().unwrap_or(3)
}

/// The branches of each launch: some at once, a wide one alone.
fn launches(branches: &[Branch]) -> Vec<Vec<Branch>> {
    let narrow = |b: &Branch| b.kind.side() <= 3;
    let (narrow, wide): (Vec<_>, Vec<_>) = branches.iter().copied().partition(narrow);
    let together = narrow.chunks(MOST_BRANCHES).map(<[Branch]>::to_vec);
    let alone = wide.into_iter().map(|branch| vec![branch]);
    together.chain(alone).collect()
}

/// Encodes the branches of one launch; the first has x̄ to write, the others add to it.
fn encode_some(
    op: &Pool,
    branches: &[Branch],
    pass: Pass,
    first: bool,
    encoder: &mut Encoder,
) -> anyhow::Result<()> {
    let graph = encoder.graph();
    let slabs = Slabs::new(op, encoder);
    let differentiable = graph.activation(op.input).differentiable;
    let mut parameters = Parameters {
        input: encoder.pixels(op.input, Role::Value),
        adds: u32::from(!first || encoder.adds_to(op.input)),
        images: narrow(op.batch),
        height: narrow(op.size[0]),
        width: narrow(op.size[1]),
        channels: narrow(op.channels),
        ..Parameters::default()
    };
    let mut most = CELLS * THREADS / slabs.groups;
    let (shared, tiles) = loop {
        let layout = (&slabs, encoder.precision(), most);
        let found = lay_out(op, branches, pass, layout, graph, &mut parameters);
        // Of several small images the borders that a wide window reaches are most of what there is.
        if found.0 <= MOST_SHARED || most == 1 {
            break found;
        }
        most /= 2;
    };
    anyhow::ensure!(
        tiles <= MOST_TILES,
        "a pool of {} images of {}×{} wants {tiles} tiles, and a launch takes {MOST_TILES}; use a smaller --batch",
        op.batch,
        op.size[0],
        op.size[1]
    );
    for (to, &from) in parameters.branches.iter_mut().zip(branches) {
        *to = branch(op, from, pass, encoder);
    }
    match pass {
        Pass::Forward | Pass::Tangent => {
            let tangent = pass == Pass::Tangent;
            parameters.tangent = encoder.pixels_if(tangent, op.input, Role::Tangent);
            let rows = if tangent { 2 } else { 3 };
            let len = branches.len() * tiles * rows * op.channels;
            parameters.partials = encoder.workspace(len);
            parameters.tickets = encoder.tickets(1);
        }
        Pass::Backward => {
            parameters.to = encoder.pixels_if(differentiable, op.input, Role::Adjoint);
        }
        Pass::TangentBackward => {
            parameters.to = encoder.pixels_if(differentiable, op.input, Role::AdjointTangent);
        }
    }
    let entry = match pass {
        Pass::Forward => "pool_forward",
        Pass::Backward => "pool_backward",
        Pass::Tangent => "pool_tangent",
        Pass::TangentBackward => "pool_tangent_backward",
    };
    let kernel = Kernel::new("pool", entry);
    let kernel = match side(branches) {
        3 => kernel,
        wide => kernel.define("SIDE", wide),
    };
    let kernel = kernel
        .define("VECTOR", slabs.vector)
        .define("GROUPS", slabs.groups)
        .define("STRIDE", op.stride)
        .define("BRANCHES", branches.len())
        .define("KINDS", kinds(branches));
    encoder.launch(kernel, [slabs.count, tiles], THREADS, shared, &parameters);
    Ok(())
}

/// Encodes `pass`. A block has registers for a few branches; more take another launch, and so does each wide
/// maximum.
///
/// # Errors
/// A stride that the kernels do not take, or more pixels than a grid.
pub(super) fn encode(op: &Pool, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
    anyhow::ensure!(
        matches!(op.stride, 1 | 2),
        "a pool of stride {} has no CUDA kernels, which take 1 or 2; use --device cpu",
        op.stride
    );
    anyhow::ensure!(
        !op.relu && op.branches.iter().all(|b| b.kind != Kind::Average5),
        "an auxiliary head's pool has no CUDA kernels in this build; use --device cpu"
    );
    if is_backward(pass) && !encoder.graph().activation(op.input).differentiable {
        return Ok(());
    }
    let live = op.branches.iter().copied();
    let live: Vec<Branch> = live
        .filter(|branch| encoder.graph().is_live(branch.output))
        .collect();
    for (i, branches) in launches(&live).iter().enumerate() {
        encode_some(op, branches, pass, i == 0, encoder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_whole_images_or_equal_bands_and_cover_the_batch() {
        let of = |most, size, batch| Tile::new(most, size, batch, 2);
        let tile = |images, rows, columns| Tile {
            images,
            rows,
            columns,
        };
        assert_eq!(of(512, [32, 32], 64), tile(1, 16, 32));
        assert_eq!(of(512, [8, 8], 1024), tile(8, 8, 8));
        assert_eq!(of(512, [8, 8], 64), tile(1, 8, 8));
        assert_eq!(of(512, [224, 224], 64), tile(1, 16, 32));
        for (size, batch) in [([33, 65], 3), ([1, 1], 1), ([7, 300], 2), ([100, 1], 5)] {
            let tile = of(512, size, batch);
            assert!(tile.images * tile.rows * tile.columns <= 512, "{tile:?}");
            let [images, down, across] = tile.count(size, batch);
            assert!(images * tile.images >= batch);
            assert!(down * tile.rows >= size[0] && across * tile.columns >= size[1]);
        }
    }

    #[test]
    fn inverses_divide_every_place_of_a_tile() {
        for by in 1..2000 {
            let inverse = u64::from(Extent::new(by, by).rows_inverse);
            for x in (0..65_536usize).step_by(by.min(7)) {
                let quotient = if inverse == 0 {
                    x as u64
                } else {
                    (x as u64 * inverse) >> 32
                };
                assert_eq!(quotient as usize, x / by, "{x} / {by}");
            }
        }
    }
}
