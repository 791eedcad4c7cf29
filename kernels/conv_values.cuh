// Forward and tangent of `conv.cu`.
#pragma once
#include "conv.cuh"

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
