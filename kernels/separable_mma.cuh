// The matrix products of `separable.cu` on tensor cores. Operands are rounded to TENSOR (bf16 or tf32) as they are
// gathered from the tiles of floats; sums are f32. The same names, on FMA units, are in `separable_fma.cuh`.
//
// A warp's job is a block of 16 × 16 sums: two fragments, which share the gathered rows. Every gather meets each
// bank once, because rows of a tile are an odd number of quads apart (`row_of`). A block that reaches
// beyond a tile gathers its last rows again, whose sums are not stored; beyond the depth it gathers zeros.
#pragma once
#include "mma.cuh"
#include "separable.cuh"

#define WARPS (THREADS / 32)

__device__ __forceinline__ u32 sixteens(u32 count) {
    return (count + 15) >> 4;
}

// A lane's two rows of an operand in shared memory, from which it gathers for fragments (see `mma.cuh`; of B a column is
// a row here). STEP 1: rows lie along the depth of the product, and lanes take neighbouring k. STEP 2: they lie
// across it, and lanes take every second k. The order of k in a fragment does not matter, if both operands
// have the same.
template <int STEP> struct Rows {
    u32 from[2], step; // floats
    int depth;         // of the product, from the lane's first k on

    // Rows `first` … of `rows`, `step` floats apart (STEP 2: k's are).
    __device__ __forceinline__ Rows(u32 lane, u32 at, u32 step, u32 rows, u32 first, u32 depth) : step(step) {
        const u32 k = lane % 4 * STEP;
        this->depth = (int)depth - (int)k;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const u32 row = min(first + lane / 4 + 8 * i, rows - 1);
            from[i] = at + (STEP == 1 ? row * step + k : k * step + row);
        }
    }

    // Both rows' words of the step at k0, of a tile that lies `beside` floats further.
    __device__ __forceinline__ void gather(u32 (&words)[2][2], u32 k0, u32 beside = 0) const {
        constexpr u32 next = STEP == 1 ? 4 : 1;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const auto x = [&](u32 k) {
                    const u32 at = from[i] + beside + (STEP == 1 ? k0 + k : (k0 + k) * step);
                    return (int)(k0 + k) < depth ? *room(at) : 0.0f;
                };
                if constexpr (sizeof(TENSOR) == 2) words[i][r] = narrow(x(8 * r), x(8 * r + next));
                else words[i][r] = round_tf32(x(next * r));
            }
        }
    }
};

struct Block {
    Sums half[2]; // columns 0 … 7, and 8 … 15

    __device__ __forceinline__ Block() {
#pragma unroll
        for (int i = 0; i < 8; ++i) half[i / 4][i % 4] = 0.0f;
    }
    __device__ __forceinline__ void add(const u32 (&rows)[2][2], const u32 (&columns)[2][2]) {
        const u32 a[4] = {rows[0][0], rows[1][0], rows[0][1], rows[1][1]};
        multiply<TENSOR>(half[0], a, columns[0]);
        multiply<TENSOR>(half[1], a, columns[1]);
    }
    // The pair of neighbouring sums i of a lane, of four, and its place in the block.
    __device__ __forceinline__ Lanes<2> pair(int i) const {
        return {{half[i % 2][i / 2 * 2], half[i % 2][i / 2 * 2 + 1]}};
    }
    __device__ static __forceinline__ u32 row(u32 lane, int i) { return lane / 4 + i / 2 * 8; }
    __device__ static __forceinline__ u32 column(u32 lane, int i) { return i % 2 * 8 + lane % 4 * 2; }
};

// z (or ż) of a strip, summed over chunks of channels: d·P, or ḋ·P + d·Ṗ. A warp holds one block.
struct Values {
    Block z;

    // Adds what channels c0 … give.
    template <bool TANGENT> __device__ __forceinline__ void add(const Stage& s, u32 count, u32 c0) {
        const u32 id = thread(), lane = id % 32, warp = id / 32, across = sixteens(s.depth);
        const u32 m = 16 * (warp / across), n = 16 * (warp % across);
        if (m >= count) return;
        const u32 depth = min(s.group.chunk, s.d_columns - c0);
        const Rows<1> d(lane, s.group.d + c0, row_of(s.d_columns), count, m, depth);
        const Rows<1> p(lane, s.pointwise, s.pointwise_row, s.depth, n, depth);
#pragma unroll 1
        for (u32 k = 0; k < depth; k += DEPTH<TENSOR>) {
            u32 rows[2][2], columns[2][2];
            if constexpr (TANGENT) {
                d.gather(rows, k, s.d_dot - s.group.d);
                p.gather(columns, k);
                z.add(rows, columns);
            }
            d.gather(rows, k);
            p.gather(columns, k, TANGENT ? s.pointwise_dot - s.pointwise : 0);
            z.add(rows, columns);
        }
    }

    // To each thread its two pixels, by way of d's room: all of `add` was called before a barrier.
    __device__ __forceinline__ void hand_over(const Stage& s, u32 count, Lanes<4> (&to)[2]) const {
        const u32 id = thread(), lane = id % 32, warp = id / 32, across = sixteens(s.depth), step = row_of(s.depth);
        const u32 m = 16 * (warp / across), n = 16 * (warp % across), d = s.group.d;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const u32 u = m + Block::row(lane, i), c = n + Block::column(lane, i);
            if (u < count && c < s.depth) store<2>(room(d + u * step + c), z.pair(i));
        }
        __syncthreads();
        const Place at(s.depth);
        const u32 span = span_of<2>(count);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const u32 u = at.row + i * span;
            to[i] = at.row < min(at.rows, span) && u < count ? quad(room(d + u * step + 4 * at.q)) : splat<4>(0.0f);
        }
    }
};

// d̄ (and d̄˙) of a strip from z̄·Pᵀ (and z̄˙·Pᵀ + z̄·Ṗᵀ).
template <bool TANGENT> __device__ __forceinline__ void pointwise_transposed(const Stage& s, const Strip& strip) {
    const Group& g = s.group;
    const u32 id = thread(), lane = id % 32, count = strip.pixels(), across = sixteens(g.chunk);
#pragma unroll 1
    for (u32 job = id / 32; job < sixteens(count) * across; job += WARPS) {
        const u32 m = 16 * (job / across), n = 16 * (job % across);
        const Rows<1> z(lane, g.z, row_of(s.depth), count, m, s.depth);
        const Rows<1> p(lane, s.pointwise, s.pointwise_row, g.chunk, n, s.depth);
        Block bar, bar_dot;
#pragma unroll 1
        for (u32 k = 0; k < s.depth; k += DEPTH<TENSOR>) {
            u32 rows[2][2], columns[2][2];
            p.gather(columns, k);
            if constexpr (TANGENT) {
                z.gather(rows, k, s.z_dot - g.z);
                bar_dot.add(rows, columns);
            }
            z.gather(rows, k);
            bar.add(rows, columns);
            if constexpr (TANGENT) {
                p.gather(columns, k, s.pointwise_dot - s.pointwise);
                bar_dot.add(rows, columns);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const u32 u = m + Block::row(lane, i), c = n + Block::column(lane, i);
            if (u >= count || c >= g.chunk) continue;
            const u32 to = bar_at(s, strip, strip.y(u), strip.x(u)) + c;
            store<2>(room(g.bar + to), bar.pair(i));
            if constexpr (TANGENT) store<2>(room(s.bar_dot + to), bar_dot.pair(i));
        }
    }
}

// How sums of P̄ lie in shared memory and in slots: as warps hold them, [blocks, half, lane, 4]; in shared memory
// `parts` times, each of which takes every so-manieth sixteen (or eight) pixels.
struct ProductTable {
    u32 across, blocks, parts, len;

    __device__ __forceinline__ ProductTable(u32 chunk, u32 depth) : across(sixteens(depth)), parts(1) {
        blocks = sixteens(chunk) * across, len = 256 * blocks;
        while (2 * parts * blocks <= WARPS / 2) parts *= 2;
    }
    __device__ __forceinline__ u32 floats() const { return parts * len; }
    __device__ __forceinline__ u32 channel_in(u32 e) const {
        return e / 256 / across * 16 + (e & 2) * 4 + e / 16 % 8;
    }
    __device__ __forceinline__ u32 channel_out(u32 e) const {
        return e / 256 % across * 16 + e / 128 % 2 * 8 + e / 4 % 4 * 2 + (e & 1);
    }
};

// Adds to P̄ what a strip's outputs give. The last warps begin: the first ones have more of `pointwise_transposed`.
template <bool TANGENT> __device__ __forceinline__ void outer_product(const Stage& s, u32 count) {
    const Group& g = s.group;
    const ProductTable table(g.chunk, s.depth);
    const u32 id = thread(), lane = id % 32;
#pragma unroll 1
    for (u32 job = WARPS - 1 - id / 32; job < table.blocks * table.parts; job += WARPS) {
        const u32 block = job % table.blocks, m = 16 * (block / table.across), n = 16 * (block % table.across);
        const Rows<2> d(lane, g.d, row_of(g.chunk), g.chunk, m, count);
        const Rows<2> z(lane, g.z, row_of(s.depth), s.depth, n, count);
        Block sum;
#pragma unroll 1
        for (u32 k = job / table.blocks * DEPTH<TENSOR>; k < count; k += table.parts * DEPTH<TENSOR>) {
            u32 rows[2][2], columns[2][2];
            if constexpr (TANGENT) {
                d.gather(rows, k, s.d_dot - g.d);
                z.gather(columns, k);
                sum.add(rows, columns);
            }
            d.gather(rows, k);
            z.gather(columns, k, TANGENT ? s.z_dot - g.z : 0);
            sum.add(rows, columns);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const Lanes<4> share{{sum.half[h][0], sum.half[h][1], sum.half[h][2], sum.half[h][3]}};
            store_or_add<4>(room(g.products + 256 * job + 128 * h + 4 * lane), share, true);
        }
    }
}
