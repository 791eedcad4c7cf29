// What the four passes of `conv.cu` share: parameters, cells of tiles, loads, and a block's product on tensor cores.
#pragma once
#include "adjoint.cuh"
#include "mma.cuh"

#define THREADS 256
// Loads in flight in a thread: more would cost the registers of four blocks a multiprocessor.
constexpr int LOADS = 1;
constexpr u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }

template <class T> constexpr bool ON_TENSOR_CORES = true;
template <> constexpr bool ON_TENSOR_CORES<float> = false;
typedef OPERAND operand;
constexpr bool TENSOR = ON_TENSOR_CORES<operand>;

#ifndef AXIS
#define AXIS 0
#endif
constexpr bool SPLIT = KERNEL == 2;
constexpr u32 TAPS = SPLIT ? 2 : AXIS ? KERNEL : KERNEL * KERNEL;
constexpr int PAD = (KERNEL - 1) / 2;

__host__ __device__ constexpr int tap_y(u32 tap) {
    return SPLIT || AXIS == 2 ? tap : AXIS == 1 ? PAD : tap / KERNEL;
}
__host__ __device__ constexpr int tap_x(u32 tap) {
    return SPLIT || AXIS == 1 ? tap : AXIS == 2 ? PAD : tap % KERNEL;
}

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

// ---- on tensor cores ----

constexpr u32 WARPS = THREADS / 32;

// A matrix of N rows of K in shared memory, `tile_row` apart, a multiple of 8 by one of DEPTH: at(n, k) rounded.
// A warp takes eight rows by four words: all banks, and whole sectors of what neighbouring n lie side by side in.
template <u32 N, u32 K, class T, class At> __device__ __forceinline__ void store_rows(T* to, At at) {
    constexpr u32 EACH = 4 / sizeof(T), ACROSS = K / (4 * EACH);
    static_assert(N % 8 == 0 && K % (4 * EACH) == 0, "whole pieces of a warp");
#pragma unroll LOADS
    for (u32 e = threadIdx.x; e < N * K / EACH; e += THREADS) {
        const u32 n = e / 4 % 8 + e / (32 * ACROSS) * 8, k = (e % 4 + e / 32 % ACROSS * 4) * EACH;
        Lanes<EACH> x;
#pragma unroll
        for (u32 j = 0; j < EACH; ++j) x[j] = at(n, k + j);
        store<EACH>(to + n * tile_row<T>(K) + k, x);
    }
}

// The sums of a block's product [M, N] in the registers of its warps: each has DOWN × ACROSS pieces of 16 × 8.
template <class T, u32 M, u32 N> struct Product {
    static_assert(M % 16 == 0 && N % 8 == 0, "whole pieces");
    static constexpr u32 ROWS = M / 16, COLS = N / 8;
    static constexpr u32 WARPS_DOWN = ROWS % 8 == 0 ? 8 : ROWS % 4 == 0 ? 4 : ROWS % 2 == 0 ? 2 : 1;
    static constexpr u32 WARPS_ACROSS = WARPS / WARPS_DOWN;
    static constexpr u32 DOWN = ROWS / WARPS_DOWN, ACROSS = ceil_div(COLS, WARPS_ACROSS);

    Sums sums[DOWN][ACROSS];

    // First row and column of a piece.
    static __device__ __forceinline__ u32 row(u32 i) {
        return (threadIdx.x / 32 % WARPS_DOWN * DOWN + i) * 16;
    }
    static __device__ __forceinline__ u32 column(u32 j) {
        return (threadIdx.x / 32 / WARPS_DOWN * ACROSS + j) * 8;
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (u32 i = 0; i < DOWN; ++i)
#pragma unroll
            for (u32 j = 0; j < ACROSS; ++j) sums[i][j] = {};
    }

    // One step of k. from[i] is where row row(i) + lane % 16 of A begins in `a`, at this k; B's columns are rows
    // of `b`, `stride` apart. Pieces whose columns are not `wanted` stay as they are.
    template <class Wanted>
    __device__ __forceinline__ void add(const T* a, const int (&from)[DOWN], int k, const T* b, u32 stride, Wanted wanted) {
        u32 left[DOWN][4];
#pragma unroll
        for (u32 i = 0; i < DOWN; ++i) load_a<T>(left[i], [&](u32) { return a + from[i] + k; });
#pragma unroll
        for (u32 j = 0; j < ACROSS; ++j) {
            const u32 n = column(j);
            if ((COLS % WARPS_ACROSS != 0 && n >= N) || !wanted(n)) continue;
            u32 right[2];
            load_b<T>(right, [&](u32 i) { return b + (n + i) * stride; });
#pragma unroll
            for (u32 i = 0; i < DOWN; ++i) multiply<T>(sums[i][j], left[i], right);
        }
    }

    // Writes the sums to shared memory, rows `stride` apart.
    __device__ __forceinline__ void write(float* to, u32 stride) const {
#pragma unroll
        for (u32 i = 0; i < DOWN; ++i)
#pragma unroll
            for (u32 j = 0; j < ACROSS; ++j) {
                if (COLS % WARPS_ACROSS != 0 && column(j) >= N) continue;
#pragma unroll
                for (int e = 0; e < 4; e += 2)
                    store<2>(to + (row(i) + sum_row(e)) * stride + column(j) + sum_column(e),
                             Lanes<2>{sums[i][j][e], sums[i][j][e + 1]});
            }
    }
};
