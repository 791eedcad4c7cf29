// Pools of one state: 3×3 average (padding not counted), 3×3, 2×2, 5×5 and 7×7 maximum, 2×2 average, each with
// batch statistics. `src/ops/pool/mod.rs` has the maths; P is the pool as a matrix, once the places of the
// maxima (the first in row-major order) are known:
//
//   z = P·x       ż = P·ẋ       x̄ = Σ Pᵀ·z̄       x̄˙ = Σ Pᵀ·z̄˙
//
// ROOFLINE. With M input pixels of C channels, stride s and B branches, forward moves (1 + B/s²)·M·C
// elements and does 9·B/s² FLOPs an input; backward moves x (for the places of maxima), z and the
// readers' adjoints and writes x̄. About one FLOP a byte: bound by memory.
//
// LAYOUT. A block takes 32 bytes of channels (a whole sector) of a tile of pixels: a band of an image, or
// several whole small images, up to two pixels a thread. The tile goes to shared memory once with a border
// of one, zero outside the image, and all windows of all branches are read there. Neighbouring slabs of
// channels are neighbouring blocks, so the second half of a DRAM burst is found in the L2 cache.
//
// Backward gathers, so that no two threads add to one place: a block first finds the place of each
// window's maximum from x and keeps it as a byte; then, a branch at a time, z̄ of the windows that touch
// the tile goes to the same shared memory (evaluated as it is loaded: `adjoint.cuh`), and each thread
// adds what reaches its pixels to sums in registers. x̄ is written once, for all branches.
//
// Definitions: STORAGE; VECTOR; GROUPS, vectors of a slab, a power of two; STRIDE, 1 or 2; BRANCHES, 1 or 2;
// KINDS, two bits a branch, the first lowest: 0 average 3×3, 1 maximum 3×3, 2 average 2×2,
// 3 maximum 2×2, which shares no launch with another maximum; SIDE, left out for 3, or 5 or 7 for one branch
// alone, of kind 1, whose windows are that wide.
#include "adjoint.cuh"

#ifndef SIDE
#define SIDE 3
#endif
#define THREADS 512
// 64 registers a thread: with two blocks on a multiprocessor half its warps are there.
#define BOUNDS __launch_bounds__(THREADS, 2)
#define CELLS 2 // pixels a thread sums in the backward passes
#define MOST_BRANCHES 2 // of a launch: more would not fit the registers with their statistics

constexpr int REACH = SIDE / 2;        // of a window, from its middle
constexpr u32 SLAB = GROUPS * VECTOR;  // channels of a block
constexpr u32 ROWS = THREADS / GROUPS; // pixels side by side
static_assert((GROUPS & (GROUPS - 1)) == 0 && BRANCHES <= MOST_BRANCHES, "a slab, and branches");
typedef Lanes<VECTOR> Vector;

enum Kind { AVERAGE3, MAXIMUM3, AVERAGE2, MAXIMUM2 };
__host__ __device__ constexpr int kind_of(int branch) { return KINDS >> 2 * branch & 3; }
__host__ __device__ constexpr bool any(int kind, int branch = 0) {
    return branch < BRANCHES && (kind_of(branch) == kind || any(kind, branch + 1));
}
// A 2×2 window is the lower right of the 3×3 one.
constexpr bool SMALL = any(MAXIMUM2), MAXIMUM = SMALL || any(MAXIMUM3);
static_assert(!(SMALL && any(MAXIMUM3)), "one kind of maximum");
static_assert(SIDE == 3 || (BRANCHES == 1 && kind_of(0) == MAXIMUM3), "a wide window has its launch alone");
// Windows over a pixel, in one direction, from the first on: with stride 1 as many as a window has places; with
// stride 2 half of them, of which an odd pixel of a 3×3 sees one more, an even one of a 5×5.
__device__ __forceinline__ int first_window(int at) { return STRIDE == 1 ? at - REACH : (at + 1 - REACH) >> 1; }
__device__ __forceinline__ int window_count(int at) {
    return STRIDE == 1 ? SIDE : ((at + REACH) >> 1) - first_window(at) + 1;
}
__host__ __device__ constexpr bool is_maximum(int kind) { return kind == MAXIMUM3 || kind == MAXIMUM2; }
__host__ __device__ constexpr bool is_small(int kind) { return kind == AVERAGE2 || kind == MAXIMUM2; }

// Places of a block [images, rows, columns], counted through. Dividing by a number known only at run
// time costs twenty instructions; `inverse` = ⌈2³²/rows⌉ makes it one, exact below 2¹⁶ (0 for rows = 1).
struct Extent {
    u32 rows, columns;
    u32 rows_inverse, columns_inverse;
};
LAYOUT(Extent, 16);

__device__ __forceinline__ u32 divide(u32 x, u32 inverse) {
    return inverse ? __umulhi(x, inverse) : x;
}

struct Branch {
    Pixels output;             // z or ż: what forward and tangent write
    Pixels value;              // z, for the tangent's statistics
    Floats statistics;         // μ, r; null for a raw output
    Floats statistics_tangent;
    Adjoint adjoint;           // z̄, z̄˙
    u32 rows, columns;         // of the output
    u32 unused[2];
};
LAYOUT(Branch, 192);

struct Pool {
    Header header;
    Pixels input, tangent; // x, ẋ
    Pixels to;             // x̄ or x̄˙
    Branch branches[MOST_BRANCHES];
    Floats partials;
    Tickets tickets;
    u32 adds;              // x̄ has a value already
    u32 images, height, width, channels;
    u32 codes, values;     // backward: floats of shared memory before the places of maxima, and before z̄
    u32 tile_images;
    u32 window_count;      // of all images of a tile
    u32 unused;
    Extent tiles;          // of a batch
    Extent tile;           // of output pixels; in the backward passes of input pixels
    Extent windows;        // backward: windows that touch a tile
    Extent inputs;         // input pixels under the windows
};
LAYOUT(Pool, 584);

// Place number `index` of an extent.
struct At {
    int image, y, x;
    __device__ __forceinline__ At(u32 index, const Extent& e) {
        const u32 rest = divide(index, e.columns_inverse);
        image = divide(rest, e.rows_inverse);
        x = index - rest * e.columns, y = rest - image * e.rows;
    }
};

// The slab and the tile of this block, the vector of this thread.
struct Mine {
    u32 group, row, first, width, channel;
    bool active;
    u32 tile;
    int image, y, x; // the tile's first
};

__device__ __forceinline__ Mine mine(const Pool& p) {
    Mine m;
    m.group = threadIdx.x % GROUPS, m.row = threadIdx.x / GROUPS;
    m.first = blockIdx.x * SLAB, m.tile = blockIdx.y;
    m.width = min(SLAB, p.channels - m.first);
    m.active = m.group * VECTOR < m.width;
    m.channel = m.first + (m.active ? m.group * VECTOR : 0);
    const At first(m.tile, p.tiles);
    m.image = first.image * p.tile_images, m.y = first.y * p.tile.rows, m.x = first.x * p.tile.columns;
    return m;
}

extern __shared__ float4 shared_memory[];

// One over the pixels that a window's average is over.
__device__ __forceinline__ float average(const Pool& p, int kind, int y, int x) {
    if (kind == AVERAGE2) return 0.25f;
    const int top = y * STRIDE - 1, left = x * STRIDE - 1;
    const int down = min(top + 3, (int)p.height) - max(top, 0);
    const int across = min(left + 3, (int)p.width) - max(left, 0);
    return 1.0f / (float)(down * across);
}

// Copies input pixels from (y, x) of `from` to `tile` [images, `inputs`, SLAB], zero outside the image.
__device__ __forceinline__ void copy_tile(const Pool& p, const Mine& m, const Pixels& from, int y, int x, storage* tile) {
    for (u32 i = m.row; i < p.tile_images * p.inputs.rows * p.inputs.columns; i += ROWS) {
        const At a(i, p.inputs);
        const int image = m.image + a.image, iy = y + a.y, ix = x + a.x;
        Vector value = splat<VECTOR>(0.0f);
        if (image < (int)p.images && iy >= 0 && iy < (int)p.height && ix >= 0 && ix < (int)p.width)
            value = fetch<VECTOR>(at(from, (image * p.height + iy) * p.width + ix) + m.channel);
        store<VECTOR>(tile + i * SLAB + m.group * VECTOR, value);
    }
}

// Every branch's window at (y, x), from tiles of x and ẋ whose corner is the window's: z, or ż if DOT.
template <bool DOT>
__device__ __forceinline__ void windows(const Pool& p, int y, int x, const storage* from, const storage* from_dot,
                                        u32 columns, Vector (&z)[BRANCHES]) {
    Vector best = splat<VECTOR>(0.0f), best_dot = best, sum = best, inner = best;
    bool none = true;
    // Row by row: nine loads under way at once would not fit the registers beside the sums.
#pragma unroll 1
    for (int dy = 0; dy < SIDE; ++dy)
#pragma unroll
        for (int dx = 0; dx < SIDE; ++dx) {
            const u32 place = (dy * columns + dx) * SLAB;
            Vector value, dot;
            if (!DOT || MAXIMUM) value = load<VECTOR>(from + place);
            if (DOT) dot = load<VECTOR>(from_dot + place);
            const Vector& of = DOT ? dot : value;
            const bool inside =
                (u32)(y * STRIDE - REACH + dy) < p.height && (u32)(x * STRIDE - REACH + dx) < p.width;
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                sum[i] += of[i]; // zero outside the image
                if (dy > 0 && dx > 0) inner[i] += of[i];
                if (MAXIMUM && inside && !(SMALL && (dy == 0 || dx == 0)) && (none || value[i] > best[i])) {
                    best[i] = value[i];
                    if (DOT) best_dot[i] = dot[i];
                }
            }
            none = none && (!inside || (SMALL && (dy == 0 || dx == 0)));
        }
#pragma unroll
    for (int b = 0; b < BRANCHES; ++b) {
        if (is_maximum(kind_of(b))) {
            z[b] = DOT ? best_dot : best;
        } else {
            const float share = average(p, kind_of(b), y, x);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) z[b][i] = (kind_of(b) == AVERAGE2 ? inner[i] : sum[i]) * share;
        }
    }
}

// Forward, or tangent if DOT.
template <bool DOT> __device__ __forceinline__ void forward(const Pool& p) {
    const Mine m = mine(p);
    const u32 rows = p.inputs.rows, columns = p.inputs.columns;
    storage* tile = reinterpret_cast<storage*>(shared_memory);
    storage* tile_dot = tile + (DOT && MAXIMUM ? p.tile_images * rows * columns * SLAB : 0);
    const int top = m.y * STRIDE - REACH, left = m.x * STRIDE - REACH;
    if (!DOT || MAXIMUM) copy_tile(p, m, p.input, top, left, tile);
    if (DOT) copy_tile(p, m, p.tangent, top, left, tile_dot);
    __syncthreads();
    Spread<VECTOR> spread[BRANCHES];
    Vector sums[BRANCHES][2];
#pragma unroll
    for (int b = 0; b < BRANCHES; ++b) sums[b][0] = sums[b][1] = splat<VECTOR>(0.0f);
    for (u32 i = m.row; m.active && i < p.tile_images * p.tile.rows * p.tile.columns; i += ROWS) {
        const At a(i, p.tile);
        const u32 image = m.image + a.image, y = m.y + a.y, x = m.x + a.x;
        if (image >= p.images) break;
        const u32 corner = ((a.image * rows + a.y * STRIDE) * columns + a.x * STRIDE) * SLAB + m.group * VECTOR;
        Vector z[BRANCHES];
        windows<DOT>(p, y, x, tile + corner, tile_dot + corner, columns, z);
#pragma unroll
        for (int b = 0; b < BRANCHES; ++b) {
            const Branch& branch = p.branches[b];
            if (y >= branch.rows || x >= branch.columns) continue;
            const u32 pixel = (image * branch.rows + y) * branch.columns + x;
            store<VECTOR>(at(branch.output, pixel) + m.channel, z[b]);
            if (!branch.statistics.data) continue;
            const Vector seen = as_stored(z[b]);
            if constexpr (DOT) {
                const Vector value = fetch<VECTOR>(at(branch.value, pixel) + m.channel);
                const Vector mean = load<VECTOR>(at(branch.statistics) + m.channel);
#pragma unroll
                for (int k = 0; k < VECTOR; ++k) {
                    sums[b][0][k] += seen[k];
                    sums[b][1][k] = fmaf(value[k] - mean[k], seen[k], sums[b][1][k]); // r follows below
                }
            } else {
                spread[b].add(seen);
            }
        }
    }
    // Branch b's partials, a row a tile: [3, C] or, in tangent, [2, C].
    constexpr u32 R = DOT ? 2 : 3;
    const auto partials = [&](int b) { return at(p.partials) + (u64)b * gridDim.y * R * p.channels; };
    float* scratch = reinterpret_cast<float*>(shared_memory);
    bool normalised = false;
#pragma unroll
    for (int b = 0; b < BRANCHES; ++b) {
        if (!p.branches[b].statistics.data) continue;
        normalised = true;
        float* own = partials(b) + (u64)m.tile * R * p.channels + m.first;
        const u32 row = m.active ? m.row : ROWS;
        if constexpr (DOT) {
            const Vector r = load<VECTOR>(at(p.branches[b].statistics) + padded(p.channels) + m.channel);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) sums[b][1][k] *= r[k];
            write_sums(sums[b], m.group, row, ROWS, m.width, p.channels, scratch, own);
        } else write_spread(spread[b], m.group, row, ROWS, m.width, p.channels, scratch, own);
    }
    if (!normalised || !last_block(at(p.tickets), gridDim.x * gridDim.y)) return;
    double* wide = reinterpret_cast<double*>(shared_memory);
#pragma unroll
    for (int b = 0; b < BRANCHES; ++b) {
        const Branch& branch = p.branches[b];
        if (!branch.statistics.data) continue;
        if constexpr (DOT)
            finish_tangent(partials(b), gridDim.y, R * p.channels, p.channels,
                           p.images * branch.rows * branch.columns, wide, at(branch.statistics_tangent));
        else finish_spread(partials(b), gridDim.y, R * p.channels, p.channels, wide, at(branch.statistics));
    }
}

extern "C" __global__ void BOUNDS pool_forward(const Pool p) {
    BEGIN(p);
    forward<false>(p);
}

extern "C" __global__ void BOUNDS pool_tangent(const Pool p) {
    BEGIN(p);
    forward<true>(p);
}

// The places of the maxima of a block's windows, a byte a channel: SIDE·dy + dx within the window.
__device__ __forceinline__ void places(const Pool& p, const Mine& m, int top, int left, const storage* tile,
                                       u32* codes) {
    const u32 rows = p.inputs.rows, columns = p.inputs.columns;
    for (u32 i = m.row; i < p.window_count; i += ROWS) {
        const At a(i, p.windows);
        const storage* from =
            tile + ((a.image * rows + a.y * STRIDE) * columns + a.x * STRIDE) * SLAB + m.group * VECTOR;
        const int y = (top + a.y) * STRIDE - REACH, x = (left + a.x) * STRIDE - REACH;
        Vector best = splat<VECTOR>(0.0f);
        u32 place[VECTOR];
        bool none = true;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) place[k] = 255;
#pragma unroll(SIDE == 3 ? SIDE : 1)
        for (int dy = 0; dy < SIDE; ++dy)
#pragma unroll
            for (int dx = 0; dx < SIDE; ++dx) {
                if (SMALL && (dy == 0 || dx == 0)) continue;
                if ((u32)(y + dy) >= p.height || (u32)(x + dx) >= p.width) continue;
                const Vector value = load<VECTOR>(from + (dy * columns + dx) * SLAB);
#pragma unroll
                for (int k = 0; k < VECTOR; ++k)
                    if (none || value[k] > best[k]) best[k] = value[k], place[k] = SIDE * dy + dx;
                none = false;
            }
        u32 code = 0;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) code |= place[k] << 8 * k;
        codes[i * GROUPS + m.group] = code;
    }
}

// Adds what windows of `kind`, with adjoints in `tile`, hand to input pixel (y, x); (top, left) is the
// block's first window.
__device__ __forceinline__ void gather(int kind, const Pool& p, const Mine& m, int image, int y, int x, int top,
                                       int left, const float* tile, const u32* codes, Vector& sum) {
    const int rows = window_count(y), columns = window_count(x);
    const int first_y = first_window(y) - top, first_x = first_window(x) - left;
    // The pixel's place in the first of them; in the next it lies STRIDE before.
    const int down = y + REACH - STRIDE * first_window(y), across = x + REACH - STRIDE * first_window(x);
    u32 row = ((image * p.windows.rows + first_y) * p.windows.columns + first_x) * GROUPS + m.group;
#pragma unroll 1
    for (int i = 0; i < rows; ++i, row += p.windows.columns * GROUPS) {
        const int dy = down - STRIDE * i;
#pragma unroll 1
        for (int j = 0; j < columns; ++j) {
            const int dx = across - STRIDE * j;
            if (is_small(kind) && (dy == 0 || dx == 0)) continue;
            const u32 at = row + j * GROUPS;
            const Vector bar = load<VECTOR>(tile + at * VECTOR);
            const u32 other = is_maximum(kind) ? codes[at] ^ (SIDE * dy + dx) * 0x01010101u : 0;
#pragma unroll
            for (int k = 0; k < VECTOR; ++k)
                if (!(other & 255u << 8 * k)) sum[k] += bar[k];
        }
    }
}

// Both backward passes: Pᵀ of z̄, or of z̄˙ if DOT.
template <bool DOT> __device__ __forceinline__ void backward(const Pool& p) {
    const Mine m = mine(p);
    // The first window that touches the tile; it may lie outside.
    const int top = first_window(m.y), left = first_window(m.x);
    float* table = reinterpret_cast<float*>(shared_memory);
    u32* codes = reinterpret_cast<u32*>(table + p.codes);
    float* tile = table + p.values;
    if constexpr (MAXIMUM) {
        // x lies where z̄ will.
        storage* x = reinterpret_cast<storage*>(tile);
        copy_tile(p, m, p.input, top * STRIDE - REACH, left * STRIDE - REACH, x);
        __syncthreads();
        places(p, m, top, left, x, codes);
    }
    Vector sum[CELLS];
#pragma unroll
    for (int j = 0; j < CELLS; ++j) sum[j] = splat<VECTOR>(0.0f);
#pragma unroll
    for (int b = 0; b < BRANCHES; ++b) {
        const Branch& branch = p.branches[b];
        __syncthreads();
        prepare<DOT>(branch.adjoint, p.channels, table);
        for (u32 i = m.row; i < p.window_count; i += ROWS) {
            const At a(i, p.windows);
            const u32 image = m.image + a.image, y = top + a.y, x = left + a.x;
            Vector bar = splat<VECTOR>(0.0f), bar_dot = bar;
            // What is negative is past the last as well.
            if (image < p.images && y < branch.rows && x < branch.columns) {
                const u32 pixel = (image * branch.rows + y) * branch.columns + x;
                adjoint<DOT, VECTOR>(branch.adjoint, table, p.channels, pixel, m.channel, bar, bar_dot);
                if (DOT) bar = bar_dot;
                const float share = is_maximum(kind_of(b)) ? 1.0f : average(p, kind_of(b), y, x);
#pragma unroll
                for (int k = 0; k < VECTOR; ++k) bar[k] *= share;
            }
            store<VECTOR>(tile + i * SLAB + m.group * VECTOR, bar);
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < CELLS; ++j) {
            const u32 i = j * ROWS + m.row;
            if (i >= p.tile_images * p.tile.rows * p.tile.columns) continue;
            const At a(i, p.tile);
            gather(kind_of(b), p, m, a.image, m.y + a.y, m.x + a.x, top, left, tile, codes, sum[j]);
        }
    }
#pragma unroll
    for (int j = 0; j < CELLS; ++j) {
        const u32 i = j * ROWS + m.row;
        if (!m.active || i >= p.tile_images * p.tile.rows * p.tile.columns) continue;
        const At a(i, p.tile);
        const u32 image = m.image + a.image, y = m.y + a.y, x = m.x + a.x;
        if (image >= p.images || y >= p.height || x >= p.width) continue;
        store_or_add<VECTOR>(at(p.to, (image * p.height + y) * p.width + x) + m.channel, sum[j], p.adds);
    }
}

extern "C" __global__ void BOUNDS pool_backward(const Pool p) {
    BEGIN(p);
    backward<false>(p);
}

extern "C" __global__ void BOUNDS pool_tangent_backward(const Pool p) {
    BEGIN(p);
    backward<true>(p);
}
