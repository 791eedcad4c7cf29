// Dense convolution, optional relu → k×k → batch statistics; of a window's middle row or column alone (AXIS);
// and factorized reduction (KERNEL 2, whose tap (0, 0) feeds the first channels and tap (1, 1) the others). `src/ops/conv/mod.rs` has the maths:
//
//   z = Σ_tap a[s·y + tap]·W_tap + b        W̄_tap = a[tap]ᵀ z̄                  ā = Σ_tap z̄[tap]ᵀ·W_tapᵀ
//   ż = ȧ ⋆ W + a ⋆ Ẇ + ḃ                   W̄˙_tap = ȧ[tap]ᵀ z̄ + a[tap]ᵀ z̄˙     ā˙ = z̄˙ ⋆ᵀ W + z̄ ⋆ᵀ Ẇ
//
// Two ways to multiply: exact f32 fused multiply-adds, and tensor cores. Tables, geometry and loads that the passes
// share are in `conv.cuh`.
//
// ROOFLINE. With P = N·⌈H/s⌉·⌈W/s⌉ output pixels, forward moves (s²·Cin + Cout)·P elements and does
// 2·taps·Cin·Cout·P FLOPs; backward moves (2·s²·Cin + (1 + readers)·Cout)·P and does twice the FLOPs;
// the tangent passes move and multiply twice that. A 1×1 from 64 to 16 channels is 6 FLOPs a byte of f32:
// bound by memory. A 3×3 over 16 channels is 36 FLOPs a byte, over 64 channels 144: with multiply-adds
// (an H100 has 20 a byte) bound by arithmetic. On tensor cores (TF32 148, bf16 295 dense FLOPs a byte,
// and in bf16 a byte holds twice the elements) all of them are bound by memory, or by shared memory.
//
// LAYOUT. Implicit matrix products over tiles of output pixels ("cells"); a tile is some rows and columns
// of an image, or several whole small images. Operands are rounded once, as they go to shared memory;
// a and ȧ of bf16 storage are exact there.
//
// Forward and tangent: a block keeps sums of all cells of a tile × COLUMNS output channels, and walks
// the input channels in chunks of CHUNK: the tile's piece of a with its border goes
// to shared memory once and serves all taps, so no element is loaded from device memory twice but on
// borders. Relu is applied on the way in, and in the tangent pass a and ȧ share loads of x, indices, and
// the weights' loop. Statistics are taken from the registers that are written.
//
// Backward: a cell owns the s×s input pixels under it, one for each parity class. A block holds z̄ of a
// tile (evaluated as it is loaded: `adjoint.cuh`) with the border that the transpose reaches, and CHUNK
// channels of a. From these two tiles it makes both results: ā, in registers as in forward, and its part
// of W̄, pieces of taps' matrices in each thread or warp, kept in registers over all tiles of the block.
// So x, z and the readers' adjoints are read once, and x̄ is written once; no zero that stride puts
// between pixels is multiplied. W̄ leaves once a block; the last block adds the parts in order.
//
// WHO MULTIPLIES. Threads: 4 channels × some cells each. Warps on tensor cores: pieces of 16 cells × 8
// channels each (of W̄: 16 input × 8 output channels), whose sums pass through shared memory at the end, so
// that what follows (bias, statistics, mask of relu, stores of whole sectors) is one code for both. Channels
// are padded with zeros to 16. Below 8 input or output channels, as in the first convolution of an image,
// that is more than half of a product, and of the tiles: there `cuda.rs` chooses multiply-adds in any precision.
//
// Definitions: STORAGE; OPERAND, float for multiply-adds, tf32 or bf16 for tensor cores; PASS, which of
// the entries below is compiled: 0 forward, 1 backward, 2 tangent, 3 tangent_backward; KERNEL and STRIDE
// (1 or 2); AXIS, left out, or 1 for the middle row and 2 for the middle column; VECTOR of the input and WIDE of the output (with its readers); COLUMNS, output channels of a
// block, a multiple of 8 up to 64 (on tensor cores in backward of 16); CHUNK, input channels of a step (of
// a block in backward), a power of two from 4 to 64 (on tensor cores at least a DEPTH, in backward 16);
// CELLS, most cells of a tile, with multiply-adds in forward and tangent a multiple of the threads that
// share four channels, on tensor cores of 16.
#include "conv.cuh"

#if PASS == 0 || PASS == 2
// ---- forward and tangent ----

// A 1×1 of stride 2 looks at every other pixel: its piece of a is kept without the others.
constexpr u32 STEP = KERNEL == 1 ? STRIDE : 1, REACH = KERNEL == 1 ? 1 : STRIDE;
constexpr u32 GROUPS = COLUMNS / 4, LINES = THREADS / GROUPS, PIXELS = ceil_div(CELLS, LINES);
// Half of a multiprocessor's threads; channels one by one, as of the images, four cells a thread over
// several taps, and a strided tangent whose lines are found by a division, take more registers.
constexpr bool UNEVEN = PASS == 2 && STRIDE == 2 && COLUMNS % 16 != 0;
constexpr u32 RESIDENT_BLOCKS = VECTOR == 1 || (KERNEL > 1 && (PIXELS > 2 || UNEVEN)) ? 3 : 4;
constexpr u32 A_STRIDE = tile_row<operand>(CHUNK);
// A tap's matrix: [CHUNK, COLUMNS], on tensor cores its transpose, rows A_STRIDE apart.
constexpr u32 MATRIX = TENSOR ? COLUMNS * A_STRIDE : CHUNK * COLUMNS;

// What a step needs in shared memory.
template <class T> struct Step {
    T *a, *a_dot, *w, *w_dot;
    int* from; // pixels of the region
};

// Loads the weights of input channels k … k + CHUNK.
template <class T>
__device__ __forceinline__ void load_weights(const Conv& p, const Floats (&weight)[2], u32 k, u32 first, T* to) {
    if constexpr (ON_TENSOR_CORES<T>) {
        store_rows<TAPS * COLUMNS, CHUNK>(to, [&](u32 n, u32 i) {
            return weight_at(p, weight, n / COLUMNS, k + i, first + n % COLUMNS);
        });
    } else {
#pragma unroll LOADS
        for (u32 e = threadIdx.x; e < TAPS * CHUNK * COLUMNS; e += THREADS)
            to[e] = weight_at(p, weight, e / (CHUNK * COLUMNS), k + e / COLUMNS % CHUNK, first + e % COLUMNS);
    }
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

// A cell of the block's tile: its output pixel, negative where it is none; where its window begins in the region.
struct Place {
    int pixel;
    u32 home;
};

__device__ __forceinline__ Place
place(const Conv& p, const Corner& begin, u32 index, u32 region_rows, u32 region_columns) {
    const Corner own = cell(p, index);
    const u32 image = begin.image + own.image, y = begin.y + own.y, x = begin.x + own.x;
    if (own.image >= p.tile_images || image >= p.images || y >= p.rows || x >= p.columns) return {-1, 0};
    return {(int)((image * p.rows + y) * p.columns + x),
            (own.image * region_rows + own.y * REACH) * region_columns + own.x * REACH};
}

// Sums by multiply-adds: of four channels from 4·group and every LINES-th cell.
template <class T> struct ByThreads {
    Lanes<4> sum[PIXELS];
    u32 home[PIXELS];
    u32 group, tap_begin, tap_end;

    template <class Home> __device__ __forceinline__ ByThreads(const Conv& p, u32 first, Home home_of) {
        group = threadIdx.x % GROUPS;
        const u32 c = first + 4 * group;
        tap_begin = SPLIT && c >= p.split ? 1 : 0, tap_end = SPLIT && c + 3 < p.split ? 1 : TAPS;
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i) {
            sum[i] = splat<4>(0.0f);
            const u32 line = threadIdx.x / GROUPS;
            home[i] = line < LINES ? home_of(line + i * LINES) * A_STRIDE : 0;
        }
    }

    template <bool DOT> __device__ __forceinline__ void add(const Step<T>& s, u32 region_columns) {
#pragma unroll 1
        for (u32 tap = tap_begin; tap < tap_end; ++tap) {
            const u32 offset = (tap_y(tap) * region_columns + tap_x(tap)) * A_STRIDE;
            const u32 matrix = tap * MATRIX + 4 * group;
#pragma unroll
            for (u32 j = 0; j < CHUNK; j += 4) {
                // One matrix in registers at a time: ȧ·W, then a·Ẇ.
                Lanes<4> m[4];
                rows_of(m, s.w + matrix + j * COLUMNS, COLUMNS);
#pragma unroll
                for (u32 i = 0; i < PIXELS; ++i)
                    multiply(sum[i], load<4>((DOT ? s.a_dot : s.a) + home[i] + offset + j), m);
                if constexpr (DOT) {
                    rows_of(m, s.w_dot + matrix + j * COLUMNS, COLUMNS);
#pragma unroll
                    for (u32 i = 0; i < PIXELS; ++i) multiply(sum[i], load<4>(s.a + home[i] + offset + j), m);
                }
            }
        }
    }

    __device__ __forceinline__ void finish() {}
    __device__ __forceinline__ Lanes<4> total(u32 i) const { return sum[i]; }
};

// Sums on tensor cores.
template <class T> struct ByWarps {
    typedef Product<T, CELLS, COLUMNS> Block;
    static constexpr u32 ROW = tile_row<float>(COLUMNS);
    Block sums;
    int home[Block::DOWN];
    u32 first, split;

    template <class Home> __device__ __forceinline__ ByWarps(const Conv& p, u32 first, Home home_of)
        : first(first), split(p.split) {
        sums.clear();
#pragma unroll
        for (u32 i = 0; i < Block::DOWN; ++i) home[i] = (int)(home_of(Block::row(i) + lane_of() % 16) * A_STRIDE);
    }

    template <bool DOT> __device__ __forceinline__ void add(const Step<T>& s, u32 region_columns) {
#pragma unroll 1
        for (u32 tap = 0; tap < TAPS; ++tap) {
            const int offset = (int)((tap_y(tap) * region_columns + tap_x(tap)) * A_STRIDE);
            const auto fed = [&](u32 n) { return !SPLIT || (tap == 0 ? first + n < split : first + n + 8 > split); };
#pragma unroll
            for (u32 j = 0; j < CHUNK; j += DEPTH<T>) {
                const u32 matrix = tap * MATRIX + j;
                // ȧ·W, then a·Ẇ.
                sums.add(DOT ? s.a_dot : s.a, home, offset + (int)j, s.w + matrix, A_STRIDE, fed);
                if constexpr (DOT) sums.add(s.a, home, offset + (int)j, s.w_dot + matrix, A_STRIDE, fed);
            }
        }
    }

    // From the warps' registers to the threads that own four channels, over what the steps had.
    __device__ __forceinline__ void finish() {
        __syncthreads();
        sums.write(reinterpret_cast<float*>(memory), ROW);
        __syncthreads();
    }
    __device__ __forceinline__ Lanes<4> total(u32 i) const {
        const u32 group = threadIdx.x % GROUPS, cell = threadIdx.x / GROUPS + i * LINES;
        return load<4>(reinterpret_cast<float*>(memory) + cell * ROW + 4 * group);
    }
};

template <class T> struct Multiplied { typedef ByWarps<T> type; };
template <> struct Multiplied<float> { typedef ByThreads<float> type; };

template <bool DOT> __device__ __forceinline__ void values(const Conv& p) {
    const u32 region_rows = (p.tile_rows - 1) * REACH + KERNEL;
    const u32 region_columns = (p.tile_columns - 1) * REACH + KERNEL;
    const u32 region = p.tile_images * region_rows * region_columns;
    Step<operand> s;
    s.a = reinterpret_cast<operand*>(memory);
    s.a_dot = s.a + (DOT ? region * A_STRIDE : 0);
    s.w = s.a_dot + region * A_STRIDE;
    s.w_dot = s.w + (DOT ? TAPS * MATRIX : 0);
    s.from = reinterpret_cast<int*>(s.w_dot + TAPS * MATRIX);
    const u32 group = threadIdx.x % GROUPS, line = threadIdx.x / GROUPS;
    const u32 first = blockIdx.y * COLUMNS, c = first + 4 * group;
    const Corner begin = corner(p, blockIdx.x);
    for (u32 r = threadIdx.x; r < region; r += THREADS) {
        const u32 row = r / region_columns, column = r % region_columns, y_in = row % region_rows;
        const u32 image = begin.image + row / region_rows;
        const int y = (int)(begin.y * STRIDE + y_in * STEP) - PAD;
        const int x = (int)(begin.x * STRIDE + column * STEP) - PAD;
        bool inside = image < p.images && (u32)y < p.height && (u32)x < p.width;
        if (SPLIT) inside = inside && ((y ^ x) & 1) == 0; // no tap looks at the others
        s.from[r] = inside ? (int)((image * p.height + y) * p.width + x) : -1;
    }
    Multiplied<operand>::type sums(
        p, first, [&](u32 index) { return place(p, begin, index, region_rows, region_columns).home; });
    for (u32 k = 0; k < p.cin; k += CHUNK) {
        __syncthreads();
#pragma unroll LOADS
        for (u32 e = threadIdx.x; e < region * (CHUNK / 4); e += THREADS) {
            const u32 r = e / (CHUNK / 4), lane = e % (CHUNK / 4) * 4;
            Lanes<4> x, x_dot;
            activated<DOT>(p, s.from[r], k + lane, x, x_dot);
            store<4>(s.a + r * A_STRIDE + lane, x);
            if constexpr (DOT) store<4>(s.a_dot + r * A_STRIDE + lane, x_dot);
        }
        load_weights(p, p.weight, k, first, s.w);
        if constexpr (DOT) load_weights(p, p.weight_tangent, k, first, s.w_dot);
        __syncthreads();
        sums.template add<DOT>(s, region_columns);
    }
    sums.finish();
    Lanes<4> bias = splat<4>(0.0f);
    const Floats& start = DOT ? p.bias_tangent : p.bias;
    if (start.data) bias = get<1>(at(start), c, p.cout);
    Spread<4> spread;
    Lanes<4> tangents[2] = {splat<4>(0.0f), splat<4>(0.0f)};
    Lanes<4> mean = splat<4>(0.0f), r = mean;
    if (DOT && p.statistics.data) {
        mean = get<WIDE>(at(p.statistics), c, p.cout);
        r = get<WIDE>(at(p.statistics) + padded(p.cout), c, p.cout);
    }
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i) {
        const int to = line < LINES ? place(p, begin, line + i * LINES, region_rows, region_columns).pixel : -1;
        if (to < 0) continue;
        Lanes<4> result = sums.total(i);
#pragma unroll
        for (int l = 0; l < 4; ++l) result[l] += bias[l];
        result = as_stored(result);
        put<WIDE>(at(p.output, to), c, p.cout, result, false);
        if (!p.statistics.data) continue;
        if constexpr (DOT) {
            const Lanes<4> z = get<WIDE>(at(p.value, to), c, p.cout);
#pragma unroll
            for (int l = 0; l < 4; ++l) {
                tangents[0][l] += result[l];
                tangents[1][l] = fmaf((z[l] - mean[l]) * r[l], result[l], tangents[1][l]);
            }
        } else {
            spread.add(result);
        }
    }
    if (p.statistics.data) statistics<DOT>(p, spread, tangents, first, group, line);
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
constexpr u32 Z_STRIDE = tile_row<operand>(COLUMNS), A_STRIDE = TENSOR ? tile_row<operand>(CHUNK) : CHUNK;
// How far from its cell an input pixel gathers: input pixel s·m + a lies under tap t of output
// m + (a + PAD − t)/s.
constexpr int LOW = STRIDE == 1 ? -PAD : -(PAD / 2), HIGH = STRIDE == 1 ? PAD : (1 + PAD) / 2;
// Pieces of W̄, HEIGHT × WIDTH, each a thread's, or a warp's on tensor cores; where there are fewer than WORKERS,
// several share the cells of one. tangent_backward needs registers for more else, so its pieces
// are half as high where that suffices.
constexpr u32 WORKERS = TENSOR ? WARPS : THREADS, WIDTH = TENSOR ? 8 : 4, OUTPUTS = COLUMNS / WIDTH;
constexpr u32 HEIGHT = TENSOR ? 16 : PASS == 3 && TAPS * GROUPS * OUTPUTS <= THREADS / 2 ? 2 : 4;
constexpr u32 BANDS = CHUNK / HEIGHT, PIECES = TAPS * BANDS * OUTPUTS;
constexpr u32 OWN = ceil_div(PIECES, WORKERS), SHARES = PIECES < WORKERS ? WORKERS / PIECES : 1;
// Small weights stay in shared memory over all tiles, others come tap by tap.
constexpr bool RESIDENT = TAPS * CHUNK * COLUMNS <= 4096;
// A tap's matrix: its transpose [COLUMNS, CHUNK]; on tensor cores [CHUNK, COLUMNS].
constexpr u32 W_STRIDE = TENSOR ? Z_STRIDE : CHUNK + 4, MATRIX = (TENSOR ? CHUNK : COLUMNS) * W_STRIDE;
constexpr u32 MATRICES = RESIDENT ? TAPS : 1;
// x̄ of a class on its way from the warps' registers to the threads that write it.
constexpr u32 X_STRIDE = tile_row<float>(CHUNK);

// The parity class of the input pixels under a tap, and the tap's shift of the output.
__host__ __device__ constexpr u32 parity(int tap) { return (tap + PAD) % STRIDE; }
__host__ __device__ constexpr int shift(int tap) { return ((int)parity(tap) + PAD - tap) / STRIDE; }
__host__ __device__ constexpr u32 class_of(u32 tap) { return parity(tap_y(tap)) * STRIDE + parity(tap_x(tap)); }
__host__ __device__ constexpr bool has_taps(u32 parity_class) {
    for (u32 tap = 0; tap < TAPS; ++tap)
        if (class_of(tap) == parity_class) return true;
    return false;
}

// Half of a multiprocessor's threads where the sums fit 64 registers a thread; channels one by one take a few more.
constexpr u32 RESIDENT_BLOCKS = TENSOR ? (OWN > 4 ? 2 : OWN > 2 && VECTOR == 1 ? 3 : 4) : OWN > 1 ? 2 : 4;

// Where things lie in shared memory.
template <class T> struct Tiles {
    T *z, *z_dot, *a, *a_dot, *w, *w_dot;
    float *x, *table;
    int *home, *pixel, *from;
};

// W_tap of the block's channels. With multiply-adds a warp takes 8 output channels × 4 input channels:
// whole sectors of W, and 32 banks.
template <class T>
__device__ __forceinline__ void load_matrix(const Conv& p, const Floats (&weight)[2], u32 tap, u32 k, T* to) {
    const auto entry = [&](u32 i, u32 o) {
        return o < p.channels ? weight_at(p, weight, tap, k + i, p.first + o) : 0.0f;
    };
    if constexpr (ON_TENSOR_CORES<T>) {
        store_rows<CHUNK, COLUMNS>(to, entry);
    } else {
#pragma unroll LOADS
        for (u32 e = threadIdx.x; e < COLUMNS * CHUNK; e += THREADS) {
            const u32 i = e % 4 + e / (4 * COLUMNS) * 4, o = e / 4 % COLUMNS;
            to[o * W_STRIDE + i] = entry(i, o);
        }
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
__device__ __forceinline__ void load_tile(const Conv& p, const Tiles<operand>& t, u32 tile, u32 zr, u32 zc) {
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
__device__ __forceinline__ int pixel_of(const Conv& p, const Tiles<operand>& t, u32 e, u32 parity_class) {
    const int origin = t.pixel[2 * e];
    if (STRIDE == 1 || origin < 0) return origin;
    if (parity_class & ~(u32)t.pixel[2 * e + 1]) return -1;
    return origin + (int)(parity_class / 2 * p.width + parity_class % 2);
}

// a (and ȧ) of the pixels of a class, [CELLS, CHUNK] with rows A_STRIDE apart.
template <bool DOT>
__device__ __forceinline__ void load_inputs(const Conv& p, const Tiles<operand>& t, u32 k, u32 parity_class) {
#pragma unroll LOADS
    for (u32 e = threadIdx.x; e < CELLS * GROUPS; e += THREADS) {
        Lanes<4> a, a_dot;
        activated<DOT>(p, pixel_of(p, t, e / GROUPS, parity_class), k + e % GROUPS * 4, a, a_dot);
        const u32 to = e / GROUPS * A_STRIDE + e % GROUPS * 4;
        store<4>(t.a + to, a);
        if constexpr (DOT) store<4>(t.a_dot + to, a_dot);
    }
}

// Each tap of a class with its weights in shared memory: each(tap, first element of its matrix, shift of z̄).
// Every thread of the block calls it.
template <bool DOT, class T, class Each>
__device__ __forceinline__ void
each_tap(const Conv& p, const Tiles<T>& t, u32 k, u32 parity_class, u32 zc, Each each) {
#pragma unroll 1
    for (u32 tap = 0; tap < TAPS; ++tap) {
        if (class_of(tap) != parity_class) continue;
        if constexpr (!RESIDENT) {
            __syncthreads();
            load_matrix(p, p.weight, tap, k, t.w);
            if constexpr (DOT) load_matrix(p, p.weight_tangent, tap, k, t.w_dot);
            __syncthreads();
        }
        each(tap, RESIDENT ? tap * MATRIX : 0, (shift(tap_y(tap)) * (int)zc + shift(tap_x(tap))) * (int)Z_STRIDE);
    }
}

// x̄ (or x̄˙) of a class, of four channels from 4·group and every LINES-th cell, by multiply-adds.
template <class T> struct InputByThreads {
    Lanes<4> sum[PIXELS];

    template <bool DOT>
    __device__ __forceinline__ void add(const Conv& p, const Tiles<T>& t, u32 k, u32 parity_class, u32 zc) {
        const u32 group = threadIdx.x % GROUPS, line = threadIdx.x / GROUPS;
        int home[PIXELS];
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i) {
            sum[i] = splat<4>(0.0f);
            home[i] = t.home[(line + i * LINES) % CELLS] * (int)Z_STRIDE;
        }
        each_tap<DOT>(p, t, k, parity_class, zc, [&](u32 tap, u32 matrix, int offset) {
            u32 begin, end;
            fed(p, tap, begin, end);
#pragma unroll 1
            for (u32 o = begin; o < end; o += 4) {
                // z̄˙·W, then z̄·Ẇ.
                Lanes<4> m[4];
                rows_of(m, t.w + matrix + 4 * group + o * W_STRIDE, W_STRIDE);
#pragma unroll
                for (u32 i = 0; i < PIXELS; ++i)
                    multiply(sum[i], load<4>((DOT ? t.z_dot : t.z) + home[i] + offset + (int)o), m);
                if constexpr (DOT) {
                    rows_of(m, t.w_dot + matrix + 4 * group + o * W_STRIDE, W_STRIDE);
#pragma unroll
                    for (u32 i = 0; i < PIXELS; ++i) multiply(sum[i], load<4>(t.z + home[i] + offset + (int)o), m);
                }
            }
        });
    }

    __device__ __forceinline__ Lanes<4> total(const Tiles<T>&, u32 i) const { return sum[i]; }
};

// The same on tensor cores.
template <class T> struct InputByWarps {
    template <bool DOT>
    __device__ __forceinline__ void add(const Conv& p, const Tiles<T>& t, u32 k, u32 parity_class, u32 zc) {
        typedef Product<T, CELLS, CHUNK> Block;
        Block sums;
        sums.clear();
        int home[Block::DOWN];
#pragma unroll
        for (u32 i = 0; i < Block::DOWN; ++i) home[i] = t.home[Block::row(i) + lane_of() % 16] * (int)Z_STRIDE;
        const auto all = [](u32) { return true; };
        each_tap<DOT>(p, t, k, parity_class, zc, [&](u32 tap, u32 matrix, int offset) {
            u32 begin, end;
            fed(p, tap, begin, end);
#pragma unroll 1
            for (u32 o = begin & ~(DEPTH<T> - 1); o < end; o += DEPTH<T>) {
                // z̄˙·W, then z̄·Ẇ.
                sums.add(DOT ? t.z_dot : t.z, home, offset + (int)o, t.w + matrix + o, W_STRIDE, all);
                if constexpr (DOT) sums.add(t.z, home, offset + (int)o, t.w_dot + matrix + o, W_STRIDE, all);
            }
        });
        sums.write(t.x, X_STRIDE);
        __syncthreads();
    }

    __device__ __forceinline__ Lanes<4> total(const Tiles<T>& t, u32 i) const {
        const u32 group = threadIdx.x % GROUPS, line = threadIdx.x / GROUPS;
        return load<4>(t.x + (line + i * LINES) * X_STRIDE + 4 * group);
    }
};

// Which part of W̄ a piece is: tap, first input channel, first output channel.
struct Piece {
    u32 tap, i, o;
    bool exists;
};

__device__ __forceinline__ Piece own_piece(u32 n) {
    const u32 worker = TENSOR ? threadIdx.x / 32 : threadIdx.x;
    const u32 piece = SHARES > 1 ? worker % PIECES : worker + n * WORKERS;
    return {piece / (BANDS * OUTPUTS), piece / OUTPUTS % BANDS * HEIGHT, piece % OUTPUTS * WIDTH, piece < PIECES};
}

// Where the piece's z̄ lies from a cell's home on, if the class feeds the piece.
__device__ __forceinline__ bool
feeds(const Conv& p, const Piece& own, u32 parity_class, u32 zc, int& offset) {
    if (!own.exists || class_of(own.tap) != parity_class) return false;
    u32 begin, end;
    fed(p, own.tap, begin, end);
    offset = (shift(tap_y(own.tap)) * (int)zc + shift(tap_x(own.tap))) * (int)Z_STRIDE + (int)own.o;
    return own.o + WIDTH > begin && own.o < end;
}

// sum += aᵀz
__device__ __forceinline__ void outer(float (&sum)[HEIGHT][4], const Lanes<HEIGHT>& a, const Lanes<4>& z) {
#pragma unroll
    for (u32 j = 0; j < HEIGHT; ++j)
#pragma unroll
        for (int l = 0; l < 4; ++l) sum[j][l] = fmaf(a[j], z[l], sum[j][l]);
}

// The block's part of W̄ (or W̄˙), in pieces of its threads, by multiply-adds.
template <class T> struct WeightsByThreads {
    float sum[OWN][HEIGHT][4] = {};

    // aᵀz̄ over the pixels of a class (W̄˙: aᵀz̄˙ + ȧᵀz̄).
    template <bool DOT>
    __device__ __forceinline__ void add(const Conv& p, const Tiles<T>& t, u32 parity_class, u32 cells, u32 zc) {
        const u32 share = threadIdx.x / PIECES;
        if (share >= SHARES) return;
#pragma unroll
        for (u32 n = 0; n < OWN; ++n) {
            const Piece own = own_piece(n);
            int offset;
            if (!feeds(p, own, parity_class, zc, offset)) continue;
#pragma unroll 1
            for (u32 e = share; e < cells; e += SHARES) {
                const int at_z = t.home[e] * (int)Z_STRIDE + offset;
                const u32 at_a = e * A_STRIDE + own.i;
                outer(sum[n], load<HEIGHT>(t.a + at_a), load<4>((DOT ? t.z_dot : t.z) + at_z));
                if constexpr (DOT) outer(sum[n], load<HEIGHT>(t.a_dot + at_a), load<4>(t.z + at_z));
            }
        }
    }

    // Writes it, [taps, CHUNK, COLUMNS]; past L1, and as one store: left to itself the compiler takes some apart.
    __device__ __forceinline__ void write(float* partial) const {
        float* scratch = reinterpret_cast<float*>(memory);
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
                if (own.exists && (SHARES == 1 || threadIdx.x < PIECES))
                    __stcg(reinterpret_cast<float4*>(partial + (own.tap * CHUNK + own.i + j) * COLUMNS + own.o),
                           make_float4(row[0], row[1], row[2], row[3]));
            }
        }
    }
};

// The same in pieces of its warps, on tensor cores: steps of k are cells.
template <class T> struct WeightsByWarps {
    Sums sums[OWN] = {};

    template <bool DOT>
    __device__ __forceinline__ void add(const Conv& p, const Tiles<T>& t, u32 parity_class, u32 cells, u32 zc) {
        const u32 share = threadIdx.x / 32 / PIECES;
        if (share >= SHARES) return;
#pragma unroll 1
        for (u32 e = share * DEPTH<T>; e < cells; e += SHARES * DEPTH<T>) {
#pragma unroll
            for (u32 n = 0; n < OWN; ++n) {
                const Piece own = own_piece(n);
                int offset;
                if (!feeds(p, own, parity_class, zc, offset)) continue;
                const auto a_of = [&](const T* a) { return [=](u32 k) { return a + (e + k) * A_STRIDE + own.i; }; };
                const auto z_of = [&](const T* z) {
                    return [=](u32 k) { return z + t.home[e + k] * (int)Z_STRIDE + offset; };
                };
                u32 a[4], z[2];
                load_a_transposed<T>(a, a_of(t.a));
                load_b_transposed<T>(z, z_of(DOT ? t.z_dot : t.z));
                multiply<T>(sums[n], a, z);
                if constexpr (DOT) {
                    load_a_transposed<T>(a, a_of(t.a_dot));
                    load_b_transposed<T>(z, z_of(t.z));
                    multiply<T>(sums[n], a, z);
                }
            }
        }
    }

    __device__ __forceinline__ void write(float* partial) const {
        const u32 warp = threadIdx.x / 32;
#pragma unroll
        for (u32 n = 0; n < OWN; ++n) {
            const Piece own = own_piece(n);
            Lanes<4> all;
#pragma unroll
            for (int l = 0; l < 4; ++l) all[l] = sums[n][l];
            if constexpr (SHARES > 1) {
                float* scratch = reinterpret_cast<float*>(memory);
                __syncthreads();
                store<4>(scratch + 4 * threadIdx.x, all);
                __syncthreads();
                for (u32 s = 1; s < SHARES; ++s) {
                    const Lanes<4> other =
                        load<4>(scratch + 4 * ((warp % PIECES + s * PIECES) * 32 + lane_of()));
#pragma unroll
                    for (int l = 0; l < 4; ++l) all[l] += other[l];
                }
            }
            if (!own.exists || (SHARES > 1 && warp >= PIECES)) continue;
#pragma unroll
            for (int l = 0; l < 4; l += 2)
                __stcg(reinterpret_cast<float2*>(partial + (own.tap * CHUNK + own.i + sum_row(l)) * COLUMNS + own.o +
                                                 sum_column(l)),
                       make_float2(all[l], all[l + 1]));
        }
    }
};

template <class T> struct Multiplied {
    typedef InputByWarps<T> input;
    typedef WeightsByWarps<T> weights;
};
template <> struct Multiplied<float> {
    typedef InputByThreads<float> input;
    typedef WeightsByThreads<float> weights;
};

// x̄ (or x̄˙) of the pixels of a class. Every thread of the block calls it.
template <bool DOT, class T>
__device__ __forceinline__ void
input_adjoint(const Conv& p, const Tiles<T>& t, u32 k, u32 parity_class, u32 zc) {
    const u32 group = threadIdx.x % GROUPS, line = threadIdx.x / GROUPS;
    typename Multiplied<T>::input sums;
    sums.template add<DOT>(p, t, k, parity_class, zc);
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i) {
        const u32 e = line + i * LINES;
        const int pixel = e < CELLS ? pixel_of(p, t, e, parity_class) : -1;
        if (pixel < 0) continue;
        Lanes<4> sum = sums.total(t, i);
        if (p.relu && has_taps(parity_class)) {
            const Lanes<4> a = load<4>(t.a + e * A_STRIDE + 4 * group);
#pragma unroll
            for (int l = 0; l < 4; ++l)
                if (!(a[l] > 0.0f)) sum[l] = 0.0f;
        }
        put<VECTOR>(at(p.input_adjoint, pixel), k + 4 * group, p.cin, sum, p.adds);
    }
}

// Adds all blocks' parts of W̄ of these input channels, in order, by the last block.
__device__ __forceinline__ void finish_gradient(const Conv& p, const float* slice, u32 k) {
    constexpr u32 LEN = TAPS * CHUNK * COLUMNS;
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
    Tiles<operand> t;
    t.z = reinterpret_cast<operand*>(memory);
    t.z_dot = t.z + (DOT ? region * Z_STRIDE : 0);
    t.a = t.z_dot + region * Z_STRIDE;
    t.a_dot = t.a + (DOT ? CELLS * A_STRIDE : 0);
    t.w = t.a_dot + CELLS * A_STRIDE;
    t.w_dot = t.w + (DOT ? MATRICES * MATRIX : 0);
    t.x = reinterpret_cast<float*>(t.w_dot + MATRICES * MATRIX);
    t.table = t.x + (TENSOR ? CELLS * X_STRIDE : 0);
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
    Multiplied<operand>::weights gradient;
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
            if (taps) gradient.template add<DOT>(p, t, parity_class, cells, zc);
            if (wanted) input_adjoint<DOT>(p, t, k, parity_class, zc);
        }
    }
    if (p.bias_gradient.data && blockIdx.x == 0 && blockIdx.y == 0)
        for (u32 o = threadIdx.x; o < p.channels; o += THREADS) at(p.bias_gradient)[p.first + o] = 0.0f;
    __syncthreads();
    constexpr u32 LEN = TAPS * CHUNK * COLUMNS;
    float* slice = at(p.partials) + (u64)blockIdx.y * gridDim.x * LEN;
    gradient.write(slice + (u64)blockIdx.x * LEN);
    finish_gradient(p, slice, k);
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
