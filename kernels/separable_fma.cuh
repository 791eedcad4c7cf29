// The matrix products of `separable.cu` on FMA units, exact in f32: a thread's sums are of N pixels × four channels, or
// of four channels × four, so that a load from shared memory serves several FMAs. The same names, on tensor
// cores, are in `separable_mma.cuh`.
#pragma once
#include "separable.cuh"

// sum[n] += Σ_k x[rows of n][k]·m[k][four columns], over `depth` k's (whole quads).
template <int N>
__device__ __forceinline__ void
product(Lanes<4> (&sum)[N], const float* const* x, const float* m, u32 columns, u32 depth) {
#pragma unroll 1
    for (u32 k = 0; k < depth; k += 4) {
        Lanes<4> value[N];
#pragma unroll
        for (int n = 0; n < N; ++n) value[n] = quad(x[n] + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const Lanes<4> row = quad(m + (k + i) * columns);
#pragma unroll
            for (int n = 0; n < N; ++n) multiply_add(sum[n], value[n][i], row);
        }
    }
}

// z (or ż) at a thread's two pixels of a strip, summed over chunks of channels: d·P, or ḋ·P + d·Ṗ.
struct Values {
    Lanes<4> z[2];

    __device__ __forceinline__ Values() { z[0] = z[1] = splat<4>(0.0f); }

    // Adds what channels c0 … give.
    template <bool TANGENT> __device__ __forceinline__ void add(const Stage& s, u32 count, u32 c0) {
        const Place at(s.depth);
        const u32 span = span_of<2>(count);
        if (at.row >= min(at.rows, span)) return;
        const u32 step = row_of(s.d_columns), second = min(at.row + span, count - 1);
        const u32 from[2] = {at.row * step + c0, second * step + c0};
        const float* const x[2] = {room(s.group.d + from[0]), room(s.group.d + from[1])};
        const u32 depth = min(s.group.chunk, s.d_columns - c0);
        if constexpr (TANGENT) {
            const float* const x_dot[2] = {room(s.d_dot + from[0]), room(s.d_dot + from[1])};
            product<2>(z, x_dot, room(s.pointwise + 4 * at.q), s.pointwise_row, depth);
            product<2>(z, x, room(s.pointwise_dot + 4 * at.q), s.pointwise_row, depth);
        } else {
            product<2>(z, x, room(s.pointwise + 4 * at.q), s.pointwise_row, depth);
        }
    }

    // To each thread its two pixels; all of `add` was called before a barrier.
    __device__ __forceinline__ void hand_over(const Stage&, u32, Lanes<4> (&to)[2]) const { to[0] = z[0], to[1] = z[1]; }
};

// d̄ (and d̄˙) of a strip from z̄·Pᵀ, at N pixels a thread.
template <bool TANGENT> __device__ __forceinline__ void pointwise_transposed(const Stage& s, const Strip& strip) {
    constexpr int N = TANGENT ? 2 : 4;
    const Group& g = s.group;
    const Place at(g.chunk);
    if (at.row >= at.rows) return;
    const u32 step = row_of(s.depth), count = strip.pixels(), span = span_of<N>(count);
#pragma unroll 1
    for (u32 u = at.row; u < span; u += at.rows) {
        // The sum of up to two products, of z̄ or z̄˙ at x and P or Ṗ at m.
        const auto write = [&](u32 to, u32 x0, u32 m0, u32 x1, u32 m1) {
            Lanes<4> sum[N];
#pragma unroll
            for (int n = 0; n < N; ++n) sum[n] = splat<4>(0.0f);
#pragma unroll 1
            for (u32 turn = 0; turn < (x1 ? 2 : 1); ++turn) {
                const float* x[N];
#pragma unroll
                for (int n = 0; n < N; ++n) x[n] = room((turn ? x1 : x0) + min(u + n * span, count - 1) * step);
                product<N>(sum, x, room((turn ? m1 : m0) + 4 * at.q), s.pointwise_row, s.depth);
            }
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const u32 v = u + n * span;
                const int y = strip.y(v), x = strip.x(v);
                if (v < count) store<4>(room(to + bar_at(s, strip, y, x) + 4 * at.q), sum[n]);
            }
        };
        write(g.bar, g.z, s.pointwise, 0, 0);
        if constexpr (TANGENT) write(s.bar_dot, s.z_dot, s.pointwise, g.z, s.pointwise_dot);
    }
}

// How sums of P̄ lie in shared memory and in slots: [chunk, depth], once.
struct ProductTable {
    u32 depth, parts, len;

    __device__ __forceinline__ ProductTable(u32 chunk, u32 depth) : depth(depth), parts(1), len(chunk * depth) {}
    __device__ __forceinline__ u32 floats() const { return parts * len; }
    __device__ __forceinline__ u32 channel_in(u32 e) const { return e / depth; }
    __device__ __forceinline__ u32 channel_out(u32 e) const { return e % depth; }
};

// A thread's share of P̄: four channels in × four out, over every so-manieth pixel of a strip. `splits` threads
// of a warp share an element; they are neighbours, on neighbouring pixels.
struct Outer {
    u32 splits, split, c, o;
    bool live;

    __device__ __forceinline__ Outer(u32 chunk, u32 cout) {
        const u32 across = quads_of(cout), elements = (chunk >> 2) * across;
        splits = 1;
        while (splits < 32 && 2 * splits * elements <= THREADS) splits <<= 1;
        split = threadIdx.x % splits;
        const u32 element = threadIdx.x / splits;
        live = element < elements;
        c = 4 * (element / across), o = 4 * (element % across);
    }

    // sum += Σ_u xᵤ[c …]·yᵤ[o …]
    __device__ __forceinline__ void
    add(float (&sum)[16], u32 count, const float* x, u32 x_step, const float* y, u32 y_step) const {
        if (!live) return;
#pragma unroll 1
        for (u32 u = split; u < count; u += splits) {
            const Lanes<4> left = quad(x + u * x_step + c), right = quad(y + u * y_step + o);
#pragma unroll
            for (int i = 0; i < 16; ++i) sum[i] = fmaf(left[i / 4], right[i % 4], sum[i]);
        }
    }

    // Adds the sums over the splits to [chunk, width]. In each step two threads halve what they hold: one
    // takes the sums of the first half, the other those of the second.
    __device__ __forceinline__ void finish(float (&sum)[16], u32 width, float* to) const {
        halve<16>(sum, width, to + c * width + o, splits >> 1, 0);
    }

    template <int HELD>
    __device__ __forceinline__ void halve(float (&sum)[16], u32 width, float* to, u32 distance, u32 first) const {
        if constexpr (HELD > 1) {
            if (distance > 0) {
                const bool upper = (split & distance) != 0;
#pragma unroll
                for (int i = 0; i < HELD / 2; ++i) {
                    const float give = upper ? sum[i] : sum[i + HELD / 2], keep = upper ? sum[i + HELD / 2] : sum[i];
                    sum[i] = keep + __shfl_xor_sync(0xffffffffu, give, distance);
                }
                halve<HELD / 2>(sum, width, to, distance >> 1, first + (upper ? HELD / 2 : 0));
                return;
            }
        } else {
            // More threads than elements: both hold the sum, and one writes.
            for (u32 d = distance; d > 0; d >>= 1) sum[0] += __shfl_xor_sync(0xffffffffu, sum[0], d);
        }
        if (!live || (HELD == 1 && distance > 0 && (split & (2 * distance - 1)) != 0)) return;
#pragma unroll
        for (int i = 0; i < HELD; ++i) to[((first + i) >> 2) * width + ((first + i) & 3)] += sum[i];
    }
};

// Adds to P̄ what a strip's outputs give.
template <bool TANGENT> __device__ __forceinline__ void outer_product(const Stage& s, u32 count) {
    const Group& g = s.group;
    const Outer outer(g.chunk, s.branch.channels);
    float sum[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) sum[i] = 0.0f;
    const u32 step = row_of(g.chunk), z_step = row_of(s.depth);
    outer.add(sum, count, room(TANGENT ? s.d_dot : g.d), step, room(g.z), z_step);
    if constexpr (TANGENT) outer.add(sum, count, room(g.d), step, room(s.z_dot), z_step);
    outer.finish(sum, s.depth, room(g.products));
}
