// Dense convolution, optional relu → k×k → batch statistics, and factorized reduction (KERNEL 2, whose
// tap (0, 0) feeds the first channels and tap (1, 1) the others). `src/ops/conv/mod.rs` has the maths:
//
//   z = Σ_tap a[s·y + tap]·W_tap + b        W̄_tap = a[tap]ᵀ z̄                  ā = Σ_tap z̄[tap]ᵀ·W_tapᵀ
//   ż = ȧ ⋆ W + a ⋆ Ẇ + ḃ                   W̄˙_tap = ȧ[tap]ᵀ z̄ + a[tap]ᵀ z̄˙     ā˙ = z̄˙ ⋆ᵀ W + z̄ ⋆ᵀ Ẇ
//
// ROOFLINE. With P = N·⌈H/s⌉·⌈W/s⌉ output pixels, forward moves (s²·Cin + Cout)·P elements and does
// 2·taps·Cin·Cout·P FLOPs; backward moves (2·s²·Cin + (1 + readers)·Cout)·P and does twice the FLOPs;
// the tangent passes move and multiply twice that. A 1×1 from 64 to 16 channels is 6 FLOPs a byte:
// bound by memory. A 3×3 over 16 channels is 36 FLOPs a byte, over 64 channels 144: bound by arithmetic.
//
// LAYOUT. Implicit matrix products over tiles of output pixels ("cells"); a tile is some rows and columns
// of an image, or several whole small images.
//
// Forward and tangent: a block keeps sums of 4 channels × some cells a thread for all cells of a tile × COLUMNS output
// channels, and walks the input channels in chunks of CHUNK: the tile's piece of a with its border goes
// to shared memory once and serves all taps, so no element is loaded from device memory twice but on
// borders. Relu is applied on the way in, and in the tangent pass a and ȧ share loads of x, indices, and
// the weights' loop. Statistics are taken from the registers that are written.
//
// Backward: a cell owns the s×s input pixels under it, one for each parity class. A block holds z̄ of a
// tile (evaluated as it is loaded: `adjoint.cuh`) with the border that the transpose reaches, and CHUNK
// channels of a. From these two tiles it makes both results: ā, in registers as in forward, and its
// part of W̄, a piece of a tap's matrix in each thread, kept in registers over all tiles of the block.
// So x, z and the readers' adjoints are read once, and x̄ is written once; no zero that stride puts
// between pixels is multiplied. W̄ leaves once a block; the last block adds the parts in order.
//
// Definitions: STORAGE; PASS, which of the entries below is compiled: 0 forward, 1 backward, 2 tangent,
// 3 tangent_backward; KERNEL and STRIDE (1 or 2); VECTOR of the input and WIDE of the output (with its
// readers); COLUMNS, output channels of a block, a multiple of 8 up to 64; CHUNK, input channels of a step
// (of a block in backward), a power of two from 4 to 64; CELLS, most cells of a tile (in forward and
// tangent whole multiples of the threads that share four channels).
#include "adjoint.cuh"

#define THREADS 256
// Loads in flight in a thread: more would cost the registers of four blocks a multiprocessor.
constexpr int LOADS = 1;
constexpr u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }

constexpr bool SPLIT = KERNEL == 2;
constexpr u32 TAPS = SPLIT ? 2 : KERNEL * KERNEL;
constexpr int PAD = (KERNEL - 1) / 2;

__host__ __device__ constexpr int tap_y(u32 tap) { return SPLIT ? tap : tap / KERNEL; }
__host__ __device__ constexpr int tap_x(u32 tap) { return SPLIT ? tap : tap % KERNEL; }

struct Conv {
    Header header;
    Input input;              // x, ẋ
    Pixels output;            // z, or ż: what forward and tangent write
    Pixels value;             // z, for the tangent's statistics
    Adjoint adjoint;          // z̄, z̄˙
    Pixels input_adjoint;     // x̄, or x̄˙; null for the images
    Floats weight[2];         // [taps, Cin, Cout]; with SPLIT [Cin, split] and [Cin, Cout − split]
    Floats weight_tangent[2];
    Floats gradient[2];       // W̄, or W̄˙
    Floats bias;              // [Cout] or null
    Floats bias_tangent;
    Floats bias_gradient;     // set to zero: see mod.rs
    Floats statistics;        // [2, padded(Cout)] μ, r of the output; null for a raw one
    Floats statistics_tangent;
    Floats partials;
    Tickets tickets;
    u32 relu, adds;           // adds: x̄ has a value already
    u32 images, height, width;
    u32 rows, columns;        // of the output
    u32 cin, cout, split;     // split: first channel that tap (1, 1) feeds
    u32 first, channels;      // the output channels of a backward launch
    u32 tile_images, tile_rows, tile_columns; // a tile
    u32 tiles_down, tiles_across, tiles;
    u32 unused[2];
};
LAYOUT(Conv, 528);

// The first cell of a tile.
struct Corner {
    u32 image, y, x;
};

__device__ __forceinline__ Corner corner(const Conv& p, u32 tile) {
    const u32 across = tile % p.tiles_across, rest = tile / p.tiles_across;
    return {rest / p.tiles_down * p.tile_images, rest % p.tiles_down * p.tile_rows, across * p.tile_columns};
}

// A cell of a tile, counted from the tile's first.
__device__ __forceinline__ Corner cell(const Conv& p, u32 index) {
    const u32 row = index / p.tile_columns;
    return {row / p.tile_rows, row % p.tile_rows, index % p.tile_columns};
}

// W_tap[k, c], zero where there is none.
__device__ __forceinline__ float weight_at(const Conv& p, const Floats (&weight)[2], u32 tap, u32 k, u32 c) {
    if (k >= p.cin || c >= p.cout) return 0.0f;
    if constexpr (!SPLIT) return at(weight[0])[(tap * p.cin + k) * p.cout + c];
    if ((c >= p.split) != (tap == 1)) return 0.0f;
    return tap == 0 ? at(weight[0])[k * p.split + c] : at(weight[1])[k * (p.cout - p.split) + c - p.split];
}

// Four channels from `c` of a row of `channels` in pieces of V; channels from `channels` on are zero.
template <int V, class T> __device__ __forceinline__ Lanes<4> get(const T* from, u32 c, u32 channels) {
    Lanes<4> out;
#pragma unroll
    for (int i = 0; i < 4; i += V) {
        const Lanes<V> part = c + i < channels ? load<V>(from + c + i) : splat<V>(0.0f);
#pragma unroll
        for (int j = 0; j < V; ++j) out[i + j] = part[j];
    }
    return out;
}

template <int V, class T>
__device__ __forceinline__ void put(T* to, u32 c, u32 channels, const Lanes<4>& x, bool adds) {
#pragma unroll
    for (int i = 0; i < 4; i += V) {
        Lanes<V> part;
#pragma unroll
        for (int j = 0; j < V; ++j) part[j] = x[i + j];
        if (c + i < channels) store_or_add<V>(to + c + i, part, adds);
    }
}

// sum += x·M, for four rows of M.
__device__ __forceinline__ void multiply(Lanes<4>& sum, const Lanes<4>& x, const Lanes<4> (&m)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int l = 0; l < 4; ++l) sum[l] = fmaf(x[j], m[j][l], sum[l]);
}

__device__ __forceinline__ void rows_of(Lanes<4> (&m)[4], const float* from, u32 stride) {
#pragma unroll
    for (int j = 0; j < 4; ++j) m[j] = load<4>(from + j * stride);
}

// a = relu(x) of channels k … k + 4 at an input pixel, and ȧ; zero where `pixel` is negative.
template <bool DOT>
__device__ __forceinline__ void activated(const Conv& p, int pixel, u32 k, Lanes<4>& a, Lanes<4>& a_dot) {
    a = a_dot = splat<4>(0.0f);
    if (pixel < 0) return;
    a = get<VECTOR>(at(p.input.value, pixel), k, p.cin);
    if (DOT && p.input.tangent.data) a_dot = get<VECTOR>(at(p.input.tangent, pixel), k, p.cin);
    if (!p.relu) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (DOT && !(a[i] > 0.0f)) a_dot[i] = 0.0f;
        // In this order, so that a NaN stays one.
        a[i] = a[i] < 0.0f ? 0.0f : a[i];
    }
}

extern __shared__ float4 memory[];

#if PASS == 0 || PASS == 2
// ---- forward and tangent ----

// A 1×1 of stride 2 looks at every other pixel: its piece of a is kept without the others.
constexpr u32 STEP = KERNEL == 1 ? STRIDE : 1, REACH = KERNEL == 1 ? 1 : STRIDE;
constexpr u32 GROUPS = COLUMNS / 4, LINES = THREADS / GROUPS, PIXELS = ceil_div(CELLS, LINES);
// Half of a multiprocessor's threads; channels one by one, as of the images, four cells a thread over
// several taps, and a strided tangent whose lines are found by a division, take more registers.
constexpr bool UNEVEN = PASS == 2 && STRIDE == 2 && COLUMNS % 16 != 0;
constexpr u32 RESIDENT_BLOCKS = VECTOR == 1 || (KERNEL > 1 && (PIXELS > 2 || UNEVEN)) ? 3 : 4;
// An odd number of float4, so that neighbouring pixels begin in different banks.
constexpr u32 A_STRIDE = (CHUNK / 4 | 1) * 4;

// Loads the weights of input channels k … k + CHUNK as [taps, CHUNK, COLUMNS].
__device__ __forceinline__ void
load_weights(const Conv& p, const Floats (&weight)[2], u32 k, u32 first, float* to) {
#pragma unroll LOADS
    for (u32 e = threadIdx.x; e < TAPS * CHUNK * COLUMNS; e += THREADS)
        to[e] = weight_at(p, weight, e / (CHUNK * COLUMNS), k + e / COLUMNS % CHUNK, first + e % COLUMNS);
}

// μ, r of the output, or their tangents, from what each thread gathered in channels `group`.
template <bool DOT>
__device__ __forceinline__ void
statistics(const Conv& p, const Spread<4>& spread, const Lanes<4> (&sums)[2], u32 first, u32 group, u32 line) {
    constexpr u32 ROWS = DOT ? 2 : 3;
    float* scratch = reinterpret_cast<float*>(memory);
    float* own = scratch + spread_scratch(THREADS, 4);
    if constexpr (DOT)
        write_sums<4, 2>(sums, group, line, LINES, COLUMNS, scratch, own);
    else
        write_spread<4>(spread, group, line, LINES, COLUMNS, scratch, own);
    __syncthreads();
    const u32 channels = p.cout;
    float* partial = at(p.partials) + (u64)blockIdx.x * ROWS * channels;
    for (u32 e = threadIdx.x; e < ROWS * COLUMNS; e += THREADS) {
        const u32 c = first + e % COLUMNS;
        if (c < channels) partial[e / COLUMNS * channels + c] = own[e];
    }
    if (!last_block(at(p.tickets), gridDim.x * gridDim.y)) return;
    double* doubles = reinterpret_cast<double*>(memory);
    const u32 count = p.images * p.rows * p.columns;
    if constexpr (DOT)
        finish_tangent(at(p.partials), gridDim.x, ROWS * channels, channels, count, doubles,
                       at(p.statistics_tangent));
    else
        finish_spread(at(p.partials), gridDim.x, ROWS * channels, channels, doubles, at(p.statistics));
}

template <bool DOT> __device__ __forceinline__ void values(const Conv& p) {
    const u32 region_rows = (p.tile_rows - 1) * REACH + KERNEL;
    const u32 region_columns = (p.tile_columns - 1) * REACH + KERNEL;
    const u32 region = p.tile_images * region_rows * region_columns;
    float* a = reinterpret_cast<float*>(memory);
    float* a_dot = a + (DOT ? region * A_STRIDE : 0);
    float* w = a_dot + region * A_STRIDE;
    float* w_dot = w + (DOT ? TAPS * CHUNK * COLUMNS : 0);
    int* from = reinterpret_cast<int*>(w_dot + TAPS * CHUNK * COLUMNS);
    const u32 group = threadIdx.x % GROUPS, line = threadIdx.x / GROUPS;
    const u32 first = blockIdx.y * COLUMNS, c = first + 4 * group;
    const u32 tap_begin = SPLIT && c >= p.split ? 1 : 0, tap_end = SPLIT && c + 3 < p.split ? 1 : TAPS;
    Lanes<4> bias = splat<4>(0.0f);
    const Floats& start = DOT ? p.bias_tangent : p.bias;
    if (start.data) bias = get<1>(at(start), c, p.cout);
    const Corner begin = corner(p, blockIdx.x);
    for (u32 r = threadIdx.x; r < region; r += THREADS) {
        const u32 row = r / region_columns, column = r % region_columns, y_in = row % region_rows;
        const u32 image = begin.image + row / region_rows;
        const int y = (int)(begin.y * STRIDE + y_in * STEP) - PAD;
        const int x = (int)(begin.x * STRIDE + column * STEP) - PAD;
        bool inside = image < p.images && (u32)y < p.height && (u32)x < p.width;
        if (SPLIT) inside = inside && ((y ^ x) & 1) == 0; // no tap looks at the others
        from[r] = inside ? (int)((image * p.height + y) * p.width + x) : -1;
    }
    u32 home[PIXELS];
    int to[PIXELS];
    Lanes<4> sum[PIXELS];
#pragma unroll
    for (int i = 0; i < (int)PIXELS; ++i) {
        const u32 index = line + i * LINES;
        const Corner own = cell(p, index);
        const u32 image = begin.image + own.image, y = begin.y + own.y, x = begin.x + own.x;
        const bool inside = line < LINES && own.image < p.tile_images && image < p.images &&
                            y < p.rows && x < p.columns;
        to[i] = inside ? (int)((image * p.rows + y) * p.columns + x) : -1;
        home[i] = inside ? ((own.image * region_rows + own.y * REACH) * region_columns + own.x * REACH) *
                               A_STRIDE
                         : 0;
        sum[i] = bias;
    }
    for (u32 k = 0; k < p.cin; k += CHUNK) {
        __syncthreads();
#pragma unroll LOADS
        for (u32 e = threadIdx.x; e < region * (CHUNK / 4); e += THREADS) {
            const u32 r = e / (CHUNK / 4), lane = e % (CHUNK / 4) * 4;
            Lanes<4> x, x_dot;
            activated<DOT>(p, from[r], k + lane, x, x_dot);
            store<4>(a + r * A_STRIDE + lane, x);
            if constexpr (DOT) store<4>(a_dot + r * A_STRIDE + lane, x_dot);
        }
        load_weights(p, p.weight, k, first, w);
        if constexpr (DOT) load_weights(p, p.weight_tangent, k, first, w_dot);
        __syncthreads();
#pragma unroll 1
        for (u32 tap = tap_begin; tap < tap_end; ++tap) {
            const u32 offset = (tap_y(tap) * region_columns + tap_x(tap)) * A_STRIDE;
            const u32 matrix = tap * CHUNK * COLUMNS + 4 * group;
#pragma unroll
            for (u32 j = 0; j < CHUNK; j += 4) {
                // One matrix in registers at a time: ȧ·W, then a·Ẇ.
                Lanes<4> m[4];
                rows_of(m, w + matrix + j * COLUMNS, COLUMNS);
#pragma unroll
                for (int i = 0; i < (int)PIXELS; ++i)
                    multiply(sum[i], load<4>((DOT ? a_dot : a) + home[i] + offset + j), m);
                if constexpr (DOT) {
                    rows_of(m, w_dot + matrix + j * COLUMNS, COLUMNS);
#pragma unroll
                    for (int i = 0; i < (int)PIXELS; ++i) multiply(sum[i], load<4>(a + home[i] + offset + j), m);
                }
            }
        }
    }
    Spread<4> spread;
    Lanes<4> sums[2] = {splat<4>(0.0f), splat<4>(0.0f)};
    Lanes<4> mean = splat<4>(0.0f), r = mean;
    if (DOT && p.statistics.data) {
        mean = get<WIDE>(at(p.statistics), c, p.cout);
        r = get<WIDE>(at(p.statistics) + padded(p.cout), c, p.cout);
    }
#pragma unroll
    for (int i = 0; i < (int)PIXELS; ++i) {
        if (to[i] < 0) continue;
        const Lanes<4> result = as_stored(sum[i]);
        put<WIDE>(at(p.output, to[i]), c, p.cout, result, false);
        if (!p.statistics.data) continue;
        if constexpr (DOT) {
            const Lanes<4> z = get<WIDE>(at(p.value, to[i]), c, p.cout);
#pragma unroll
            for (int l = 0; l < 4; ++l) {
                sums[0][l] += result[l];
                sums[1][l] = fmaf((z[l] - mean[l]) * r[l], result[l], sums[1][l]);
            }
        } else {
            spread.add(result);
        }
    }
    if (p.statistics.data) statistics<DOT>(p, spread, sums, first, group, line);
}

#if PASS == 0
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BLOCKS) conv_forward(const Conv p) {
    BEGIN(p);
    values<false>(p);
}
#else
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BLOCKS) conv_tangent(const Conv p) {
    BEGIN(p);
    values<true>(p);
}
#endif

#else
// ---- backward and tangent_backward ----

constexpr u32 GROUPS = CHUNK / 4, LINES = THREADS / GROUPS, PIXELS = ceil_div(CELLS, LINES);
constexpr u32 Z_STRIDE = (COLUMNS / 4 | 1) * 4, W_STRIDE = CHUNK + 4;
// How far from its cell an input pixel gathers: input pixel s·m + a lies under tap t of output
// m + (a + PAD − t)/s.
constexpr int LOW = STRIDE == 1 ? -PAD : -(PAD / 2), HIGH = STRIDE == 1 ? PAD : (1 + PAD) / 2;
// Pieces of HEIGHT × 4 of W̄; where there are fewer than threads, several threads share the cells of one.
// tangent_backward needs registers for more else, so its pieces are half as high where that suffices.
constexpr u32 OUTPUTS = COLUMNS / 4, HEIGHT = PASS == 3 && TAPS * GROUPS * OUTPUTS <= THREADS / 2 ? 2 : 4;
constexpr u32 BANDS = CHUNK / HEIGHT, PIECES = TAPS * BANDS * OUTPUTS;
constexpr u32 OWN = ceil_div(PIECES, THREADS), SHARES = PIECES < THREADS ? THREADS / PIECES : 1;
// Small weights stay in shared memory over all tiles, others come tap by tap.
constexpr bool RESIDENT = TAPS * CHUNK * COLUMNS <= 4096;
constexpr u32 MATRIX = COLUMNS * W_STRIDE, MATRICES = RESIDENT ? TAPS : 1;

// The parity class of the input pixels under a tap, and the tap's shift of the output.
__host__ __device__ constexpr u32 parity(int tap) { return (tap + PAD) % STRIDE; }
__host__ __device__ constexpr int shift(int tap) { return ((int)parity(tap) + PAD - tap) / STRIDE; }
__host__ __device__ constexpr u32 class_of(u32 tap) { return parity(tap_y(tap)) * STRIDE + parity(tap_x(tap)); }
__host__ __device__ constexpr bool has_taps(u32 parity_class) {
    for (u32 tap = 0; tap < TAPS; ++tap)
        if (class_of(tap) == parity_class) return true;
    return false;
}

// Half of a multiprocessor's threads where the sums fit 64 registers a thread.
constexpr u32 RESIDENT_BLOCKS = OWN > 1 ? 2 : VECTOR == 1 || (PASS == 3 && HEIGHT == 4) ? 3 : 4;

// Where things lie in shared memory.
struct Tiles {
    float *z, *z_dot, *a, *a_dot, *w, *w_dot, *table;
    int *home, *pixel, *from;
};

// W_tapᵀ of the block's channels, [COLUMNS, CHUNK]. A warp takes 8 output channels × 4 input channels:
// whole sectors of W, and 32 banks.
__device__ __forceinline__ void
load_matrix(const Conv& p, const Floats (&weight)[2], u32 tap, u32 k, float* to) {
#pragma unroll LOADS
    for (u32 e = threadIdx.x; e < COLUMNS * CHUNK; e += THREADS) {
        const u32 i = e % 4 + e / (4 * COLUMNS) * 4, o = e / 4 % COLUMNS;
        to[o * W_STRIDE + i] = o < p.channels ? weight_at(p, weight, tap, k + i, p.first + o) : 0.0f;
    }
}

// The output channels, from the launch's first, that a tap feeds: [begin, end), whole groups of four.
__device__ __forceinline__ void fed(const Conv& p, u32 tap, u32& begin, u32& end) {
    begin = 0, end = COLUMNS;
    if constexpr (!SPLIT) return;
    const u32 split = p.split > p.first ? p.split - p.first : 0;
    if (tap == 0) end = min(COLUMNS, (split + 3) & ~3u);
    else begin = min(COLUMNS, split & ~3u);
}

// Fills the tables of a tile, and z̄ over it.
template <bool DOT>
__device__ __forceinline__ void load_tile(const Conv& p, const Tiles& t, u32 tile, u32 zr, u32 zc) {
    const Corner begin = corner(p, tile);
    const u32 region = p.tile_images * zr * zc;
    for (u32 r = threadIdx.x; r < region; r += THREADS) {
        const u32 row = r / zc, image = begin.image + row / zr;
        const int y = (int)(begin.y + row % zr) + LOW, x = (int)(begin.x + r % zc) + LOW;
        const bool inside = image < p.images && (u32)y < p.rows && (u32)x < p.columns;
        t.from[r] = inside ? (int)((image * p.rows + y) * p.columns + x) : -1;
    }
    for (u32 e = threadIdx.x; e < CELLS; e += THREADS) {
        const Corner own = cell(p, e);
        const u32 image = begin.image + own.image;
        const u32 y = (begin.y + own.y) * STRIDE, x = (begin.x + own.x) * STRIDE;
        const bool inside = own.image < p.tile_images && image < p.images && y < p.height && x < p.width;
        t.home[e] = inside ? (int)((own.image * zr + own.y) * zc + own.x) - LOW * (int)zc - LOW : -LOW * (int)zc - LOW;
        // Pixel (0, 0) under the cell; and which of the others are in the image.
        t.pixel[2 * e] = inside ? (int)((image * p.height + y) * p.width + x) : -1;
        t.pixel[2 * e + 1] = (y + 1 < p.height ? 2 : 0) | (x + 1 < p.width ? 1 : 0);
    }
    __syncthreads();
    // By pairs of channels: with fours, the coefficients would push sums of W̄ out of the registers.
    constexpr u32 PAIR = WIDE < 2 ? WIDE : 2, PAIRS = COLUMNS / PAIR;
#pragma unroll LOADS
    for (u32 e = threadIdx.x; e < region * PAIRS; e += THREADS) {
        const u32 r = e / PAIRS, o = e % PAIRS * PAIR;
        const int pixel = t.from[r];
        Lanes<PAIR> bar = splat<PAIR>(0.0f), bar_dot = bar;
        if (pixel >= 0 && o < p.channels)
            adjoint<DOT, PAIR>(p.adjoint, t.table, p.cout, pixel, p.first + o, bar, bar_dot);
        store<PAIR>(t.z + r * Z_STRIDE + o, bar);
        if constexpr (DOT) store<PAIR>(t.z_dot + r * Z_STRIDE + o, bar_dot);
    }
}

// The input pixel of a class under a cell, or a negative number.
__device__ __forceinline__ int pixel_of(const Conv& p, const Tiles& t, u32 e, u32 parity_class) {
    const int origin = t.pixel[2 * e];
    if (STRIDE == 1 || origin < 0) return origin;
    if (parity_class & ~(u32)t.pixel[2 * e + 1]) return -1;
    return origin + (int)(parity_class / 2 * p.width + parity_class % 2);
}

// a (and ȧ) of the pixels of a class, [CELLS, CHUNK].
template <bool DOT>
__device__ __forceinline__ void load_inputs(const Conv& p, const Tiles& t, u32 k, u32 parity_class) {
#pragma unroll LOADS
    for (u32 e = threadIdx.x; e < CELLS * GROUPS; e += THREADS) {
        Lanes<4> a, a_dot;
        activated<DOT>(p, pixel_of(p, t, e / GROUPS, parity_class), k + e % GROUPS * 4, a, a_dot);
        store<4>(t.a + 4 * e, a);
        if constexpr (DOT) store<4>(t.a_dot + 4 * e, a_dot);
    }
}

// x̄ (or x̄˙) of the pixels of a class. Every thread of the block calls it.
template <bool DOT>
__device__ __forceinline__ void input_adjoint(const Conv& p, const Tiles& t, u32 k, u32 parity_class, u32 zc) {
    const u32 group = threadIdx.x % GROUPS, line = threadIdx.x / GROUPS;
    Lanes<4> sum[PIXELS];
    int home[PIXELS];
#pragma unroll
    for (int i = 0; i < (int)PIXELS; ++i) {
        sum[i] = splat<4>(0.0f);
        home[i] = t.home[(line + i * LINES) % CELLS] * (int)Z_STRIDE;
    }
#pragma unroll 1
    for (u32 tap = 0; tap < TAPS; ++tap) {
        if (class_of(tap) != parity_class) continue;
        if constexpr (!RESIDENT) {
            __syncthreads();
            load_matrix(p, p.weight, tap, k, t.w);
            if constexpr (DOT) load_matrix(p, p.weight_tangent, tap, k, t.w_dot);
            __syncthreads();
        }
        const u32 matrix = (RESIDENT ? tap * MATRIX : 0) + 4 * group;
        const int offset = (shift(tap_y(tap)) * (int)zc + shift(tap_x(tap))) * (int)Z_STRIDE;
        u32 begin, end;
        fed(p, tap, begin, end);
#pragma unroll 1
        for (u32 o = begin; o < end; o += 4) {
            // z̄˙·W, then z̄·Ẇ.
            Lanes<4> m[4];
            rows_of(m, t.w + matrix + o * W_STRIDE, W_STRIDE);
#pragma unroll
            for (int i = 0; i < (int)PIXELS; ++i)
                multiply(sum[i], load<4>((DOT ? t.z_dot : t.z) + home[i] + offset + (int)o), m);
            if constexpr (DOT) {
                rows_of(m, t.w_dot + matrix + o * W_STRIDE, W_STRIDE);
#pragma unroll
                for (int i = 0; i < (int)PIXELS; ++i) multiply(sum[i], load<4>(t.z + home[i] + offset + (int)o), m);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < (int)PIXELS; ++i) {
        const u32 e = line + i * LINES;
        const int pixel = e < CELLS ? pixel_of(p, t, e, parity_class) : -1;
        if (pixel < 0) continue;
        if (p.relu && has_taps(parity_class)) {
            const Lanes<4> a = load<4>(t.a + e * CHUNK + 4 * group);
#pragma unroll
            for (int l = 0; l < 4; ++l)
                if (!(a[l] > 0.0f)) sum[i][l] = 0.0f;
        }
        put<VECTOR>(at(p.input_adjoint, pixel), k + 4 * group, p.cin, sum[i], p.adds);
    }
}

// sum += aᵀz
__device__ __forceinline__ void outer(float (&sum)[HEIGHT][4], const Lanes<HEIGHT>& a, const Lanes<4>& z) {
#pragma unroll
    for (u32 j = 0; j < HEIGHT; ++j)
#pragma unroll
        for (int l = 0; l < 4; ++l) sum[j][l] = fmaf(a[j], z[l], sum[j][l]);
}

// Which part of W̄ a piece is: tap, first input channel, first output channel.
struct Piece {
    u32 tap, i, o;
    bool exists;
};

__device__ __forceinline__ Piece own_piece(u32 n) {
    const u32 piece = SHARES > 1 ? threadIdx.x % PIECES : threadIdx.x + n * THREADS;
    return {piece / (BANDS * OUTPUTS), piece / OUTPUTS % BANDS * HEIGHT, piece % OUTPUTS * 4, piece < PIECES};
}

// The thread's pieces of W̄ gain aᵀz̄ over the pixels of a class (W̄˙: aᵀz̄˙ + ȧᵀz̄).
template <bool DOT>
__device__ __forceinline__ void weight_gradient(const Conv& p, const Tiles& t, u32 parity_class, u32 cells, u32 zc,
                                                float (&sum)[OWN][HEIGHT][4]) {
    const u32 share = threadIdx.x / PIECES;
    if (share >= SHARES) return;
#pragma unroll
    for (u32 n = 0; n < OWN; ++n) {
        const Piece own = own_piece(n);
        if (!own.exists || class_of(own.tap) != parity_class) continue;
        u32 begin, end;
        fed(p, own.tap, begin, end);
        if (own.o < begin || own.o >= end) continue;
        const int offset =
            (shift(tap_y(own.tap)) * (int)zc + shift(tap_x(own.tap))) * (int)Z_STRIDE + (int)own.o;
#pragma unroll 1
        for (u32 e = share; e < cells; e += SHARES) {
            const int at_z = t.home[e] * (int)Z_STRIDE + offset;
            const u32 at_a = e * CHUNK + own.i;
            outer(sum[n], load<HEIGHT>(t.a + at_a), load<4>((DOT ? t.z_dot : t.z) + at_z));
            if constexpr (DOT) outer(sum[n], load<HEIGHT>(t.a_dot + at_a), load<4>(t.z + at_z));
        }
    }
}

// Writes the block's part of W̄, [taps, CHUNK, COLUMNS]; the last block of these input channels adds all.
__device__ __forceinline__ void finish_gradient(const Conv& p, u32 k, const float (&sum)[OWN][HEIGHT][4]) {
    constexpr u32 LEN = TAPS * CHUNK * COLUMNS;
    float* scratch = reinterpret_cast<float*>(memory);
    float* slice = at(p.partials) + (u64)blockIdx.y * gridDim.x * LEN;
    float* partial = slice + (u64)blockIdx.x * LEN;
#pragma unroll
    for (u32 n = 0; n < OWN; ++n) {
        const Piece own = own_piece(n);
#pragma unroll
        for (u32 j = 0; j < HEIGHT; ++j) {
            Lanes<4> row;
#pragma unroll
            for (int l = 0; l < 4; ++l) row[l] = sum[n][j][l];
            if constexpr (SHARES > 1) {
                __syncthreads();
                store<4>(scratch + 4 * threadIdx.x, row);
                __syncthreads();
                for (u32 s = 1; s < SHARES; ++s) {
                    const Lanes<4> other = load<4>(scratch + 4 * (threadIdx.x % PIECES + s * PIECES));
#pragma unroll
                    for (int l = 0; l < 4; ++l) row[l] += other[l];
                }
            }
            // Past L1, and as one store: left to itself the compiler takes some of these apart.
            if (own.exists && (SHARES == 1 || threadIdx.x < PIECES))
                __stcg(reinterpret_cast<float4*>(partial + (own.tap * CHUNK + own.i + j) * COLUMNS + own.o),
                       make_float4(row[0], row[1], row[2], row[3]));
        }
    }
    if (!last_block(at(p.tickets) + blockIdx.y, gridDim.x)) return;
    double* doubles = reinterpret_cast<double*>(memory);
    sum_partials(slice, gridDim.x, LEN, LEN, doubles, [&](u32 e, double total) {
        const u32 tap = e / (CHUNK * COLUMNS), i = k + e / COLUMNS % CHUNK, o = e % COLUMNS, c = p.first + o;
        if (i >= p.cin || o >= p.channels) return;
        if constexpr (!SPLIT) {
            at(p.gradient[0])[(tap * p.cin + i) * p.cout + c] = (float)total;
        } else if ((c >= p.split) == (tap == 1)) {
            if (tap == 0) at(p.gradient[0])[i * p.split + c] = (float)total;
            else at(p.gradient[1])[i * (p.cout - p.split) + c - p.split] = (float)total;
        }
    });
}

template <bool DOT> __device__ __forceinline__ void adjoints(const Conv& p) {
    const u32 zr = p.tile_rows + (u32)(HIGH - LOW), zc = p.tile_columns + (u32)(HIGH - LOW);
    const u32 region = p.tile_images * zr * zc, cells = p.tile_images * p.tile_rows * p.tile_columns;
    const u32 k = blockIdx.y * CHUNK;
    Tiles t;
    t.z = reinterpret_cast<float*>(memory);
    t.z_dot = t.z + (DOT ? region * Z_STRIDE : 0);
    t.a = t.z_dot + region * Z_STRIDE;
    t.a_dot = t.a + (DOT ? CELLS * CHUNK : 0);
    t.w = t.a_dot + CELLS * CHUNK;
    t.w_dot = t.w + (DOT ? MATRICES * MATRIX : 0);
    t.table = t.w_dot + MATRICES * MATRIX;
    t.home = reinterpret_cast<int*>(t.table + coefficients(p.cout, p.adjoint.count));
    t.pixel = t.home + CELLS;
    t.from = t.pixel + 2 * CELLS;
    prepare<DOT>(p.adjoint, p.cout, t.table);
    const bool wanted = p.input_adjoint.data != nullptr;
    if (RESIDENT && wanted) {
        for (u32 tap = 0; tap < TAPS; ++tap) {
            load_matrix(p, p.weight, tap, k, t.w + tap * MATRIX);
            if constexpr (DOT) load_matrix(p, p.weight_tangent, tap, k, t.w_dot + tap * MATRIX);
        }
    }
    float gradient[OWN][HEIGHT][4] = {};
    for (u32 tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        __syncthreads(); // the tile before is done with
        load_tile<DOT>(p, t, tile, zr, zc);
#pragma unroll 1
        for (u32 parity_class = 0; parity_class < STRIDE * STRIDE; ++parity_class) {
            const bool taps = has_taps(parity_class);
            if (!taps && (!wanted || p.adds)) continue;
            __syncthreads(); // the class before is done with a; z̄ is complete
            if (taps) load_inputs<DOT>(p, t, k, parity_class);
            __syncthreads();
            if (taps) weight_gradient<DOT>(p, t, parity_class, cells, zc, gradient);
            if (wanted) input_adjoint<DOT>(p, t, k, parity_class, zc);
        }
    }
    if (p.bias_gradient.data && blockIdx.x == 0 && blockIdx.y == 0)
        for (u32 o = threadIdx.x; o < p.channels; o += THREADS) at(p.bias_gradient)[p.first + o] = 0.0f;
    __syncthreads();
    finish_gradient(p, k, gradient);
}

#if PASS == 1
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BLOCKS) conv_backward(const Conv p) {
    BEGIN(p);
    adjoints<false>(p);
}
#else
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BLOCKS) conv_tangent_backward(const Conv p) {
    BEGIN(p);
    adjoints<true>(p);
}
#endif
#endif
