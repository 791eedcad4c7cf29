// The mixed op of a node: every branch of every edge that enters it, in one read and one write.
// `src/ops/mix/mod.rs` has the maths:
//
//   y = Σ s·x̂ + Σ s·x + β       s̄ = Σ ȳ·x̂   S₁ += s·Σ ȳ   S₂ += s·s̄   x̄ += s·ȳ   β̄ = Σ ȳ
//   ẏ = Σ ṡ·x̂ + s·x̂˙ + Σ ṡ·x + s·ẋ + β̇       s̄˙ = Σ ȳ˙·x̂ + ȳ·x̂˙   Ṡ₁, Ṡ₂, x̄˙ by the product rule
//
// ROOFLINE. With T terms and M pixels of C channels, forward moves (T + 1)·M·C elements and does 3 FLOPs
// an element; backward moves (T + 1)·M·C and one more for each plain term; the tangent passes move twice
// that, and do 6 to 9 FLOPs an element. At most two FLOPs a byte: bound by memory, and so nothing is
// read twice.
//
// LAYOUT. A block takes a slab of up to 16 channels (64 bytes of float: whole sectors) over tiles of
// pixels; a thread VECTOR channels of PIXELS pixels. Forward and tangent keep y of those pixels in
// registers and walk the terms, whose coefficients (batch norm and scale folded into a mean to
// subtract and a factor) and addresses lie in shared memory: one broadcast serves PIXELS loads.
//
// Backward turns the loops round: ȳ stays in registers while the terms stream past. Each term wants
// sums over all pixels, a channel each, and T·VECTOR sums a thread would not fit its registers; so a
// warp folds its rows by a butterfly that halves the values as it halves the lanes (`fold`: 4 shuffles
// for 4 channels instead of 12), and adds the result to its own row of shared memory. Sums leave once
// a block. They are added in two levels, by the last block of each group of `fan` and by the last group,
// because 72 rows of sums from 256 blocks are too many for one block at the end.
//
// A normalised y is rare (it is read through batch norm, so ȳ is evaluated as it is loaded, and
// written for the producers of the branches): NORMALISED compiles its statistics in.
//
// Definitions: STORAGE; VECTOR; GROUPS, vectors of a slab, a power of two with GROUPS·VECTOR ≤ 16;
// PIXELS (4, 2 or 1) of a thread in forward and backward, half as many, at least one, in the tangent
// passes; NORMALISED, 1 if y is.
#include "adjoint.cuh"

#define THREADS 256
// 64 registers a thread: with four blocks on a multiprocessor half its warps are there.
#define BOUNDS __launch_bounds__(THREADS, 4)

constexpr u32 SLAB = GROUPS * VECTOR;   // channels of a block
constexpr u32 ROWS = THREADS / GROUPS;  // pixels that a block takes side by side
constexpr u32 WARPS = THREADS / 32;
constexpr int PAIRS = (PIXELS + 1) / 2; // pixels of a thread where each has a value and a tangent
constexpr int TERMS = 4 / PIXELS;       // terms of forward whose loads are under way at once
static_assert((GROUPS & (GROUPS - 1)) == 0 && SLAB <= 16, "a slab");
typedef Lanes<VECTOR> Vector;

struct Term {
    Input input;           // z, read through batch norm, or x
    Factor factor;         // s
    Factor factor_tangent; // ṡ; in the tangent passes
    Pixels to;             // x̄ or x̄˙ in the backward passes, of a plain input; else null
    Floats gradient;       // s̄ or s̄˙: of an op weight one, added to; of a gain one a channel
    Floats sums;           // S₁, S₂ or Ṡ₁, Ṡ₂ of a normalised input, added to
    u32 adds;              // x̄ has a value already
    u32 reads;             // 0: nothing asks for the value of x
    u32 round;             // how many terms before it share its sums or gradient
    u32 unused;
};
LAYOUT(Term, 160);

struct Mix {
    Header header;
    Pixels output;             // y or ẏ: what forward and tangent write
    Pixels value;              // y; in tangent, if normalised
    Pixels bar;                // ȳ; if normalised, backward writes it
    Pixels bar_dot;            // ȳ˙; if normalised, tangent_backward writes it
    Adjoint adjoint;           // of a normalised y
    Floats shift;              // β, or β̇ in tangent; null without
    Floats shift_gradient;     // β̄ or β̄˙
    Floats statistics;         // of a normalised y: μ, r
    Floats statistics_tangent; // and μ̇, t
    Floats partials;           // a row a block, by slab
    Floats groups;             // a row a group of blocks, by slab
    Floats totals;             // doubles
    Tickets tickets;           // of the grid, then one a group
    const Term* terms;
    u32 count, rounds;         // terms; one more than the largest round
    u32 channels, pixels;
    u32 fan;                   // blocks of a group
    u32 unused;
};
LAYOUT(Mix, 352);

// What the loops want of a term, in shared memory.
struct alignas(16) Place {
    const storage* value;   // null: not read
    const storage* tangent; // null: none
    storage* to;            // null: nothing is handed on
    u32 stride;             // of all three
    u32 flags;
};
static_assert(sizeof(Place) == 32, "one aligned pair of vectors");
enum { BATCH_NORM = 1, ADDS = 2 };

// The channels and pixels of this thread.
struct Mine {
    u32 group, row, lane;
    u32 first, width; // channels of the slab
    u32 channel;      // a lane past the last channel repeats the slab's first vector and stores nothing
    bool active;
};

__device__ __forceinline__ Mine mine(const Mix& p) {
    Mine m;
    m.group = threadIdx.x % GROUPS, m.row = threadIdx.x / GROUPS, m.lane = threadIdx.x & 31;
    m.first = blockIdx.y * SLAB;
    m.width = min(SLAB, p.channels - m.first);
    m.active = m.group * VECTOR < m.width;
    m.channel = m.first + (m.active ? m.group * VECTOR : 0);
    return m;
}

// Shared memory: the constant β of a slab, places, `R` rows of coefficients a term, and the rest.
extern __shared__ float4 shared_memory[];

template <int R> struct Shared {
    float* constant;
    Place* places;
    float* coefficients;
    float* rest;
    __device__ __forceinline__ Shared(u32 count) {
        constant = reinterpret_cast<float*>(shared_memory);
        places = reinterpret_cast<Place*>(constant + 16);
        coefficients = reinterpret_cast<float*>(places + count);
        rest = coefficients + R * count * SLAB;
    }
    __device__ __forceinline__ Vector row(u32 term, int r, u32 group) const {
        return load<VECTOR>(coefficients + (term * R + r) * SLAB + group * VECTOR);
    }
};

enum Kind { FORWARD, TANGENT, BACKWARD, TANGENT_BACKWARD };

// Rows of a term's coefficients, by pass. Of a plain input in the backward passes: s, ṡ.
__host__ __device__ constexpr int rows_of(Kind kind) {
    return kind == FORWARD || kind == BACKWARD ? 2 : 4;
}

// Fills constants, places and coefficients; ends with a barrier.
template <Kind KIND> __device__ __forceinline__ void fill(const Mix& p, const Mine& m, Shared<rows_of(KIND)>& s) {
    constexpr int R = rows_of(KIND);
    for (u32 i = threadIdx.x; i < p.count * SLAB; i += THREADS) {
        const u32 t = i / SLAB, k = i % SLAB, c = m.first + min(k, m.width - 1);
        const Term& term = p.terms[t];
        const bool normalised = term.input.statistics.data != nullptr;
        float mean = 0.0f, r = 1.0f, mean_dot = 0.0f, slope = 0.0f;
        if (normalised) {
            const float* of = at(term.input.statistics) + c;
            mean = of[0], r = of[padded(p.channels)];
            if (KIND == TANGENT || KIND == TANGENT_BACKWARD) {
                const float* dot = at(term.input.statistics_tangent) + c;
                mean_dot = dot[0], slope = dot[padded(p.channels)];
            }
        }
        float out[4] = {mean, r, mean_dot, slope};
        const float factor = value_of(term.factor, c, 1.0f);
        const float factor_dot =
            KIND == TANGENT || KIND == TANGENT_BACKWARD ? value_of(term.factor_tangent, c, 0.0f) : 0.0f;
        if (KIND == FORWARD) out[1] = factor * r;
        if (KIND == TANGENT) out[1] = (factor_dot - factor * r * slope) * r, out[3] = factor * r;
        if ((KIND == BACKWARD || KIND == TANGENT_BACKWARD) && !normalised) out[0] = factor, out[1] = factor_dot;
#pragma unroll
        for (int row = 0; row < R; ++row) s.coefficients[(t * R + row) * SLAB + k] = out[row];
        if (k == 0) {
            Place& place = s.places[t];
            place.value = term.reads ? at(term.input.value) : nullptr;
            place.tangent = term.input.tangent.data ? at(term.input.tangent) : nullptr;
            place.to = term.to.data ? at(term.to) : nullptr;
            place.stride = term.input.value.stride;
            place.flags = (normalised ? BATCH_NORM : 0) | (term.adds ? ADDS : 0);
        }
    }
    if (threadIdx.x < SLAB) {
        const u32 c = m.first + min(threadIdx.x, m.width - 1);
        s.constant[threadIdx.x] = p.shift.data ? at(p.shift)[c] : 0.0f;
    }
    __syncthreads();
}

// Pixel j of a thread in a tile of `n` a thread; past the last one it repeats that, and is not `real`.
__device__ __forceinline__ u32 pixel_of(const Mix& p, const Mine& m, u32 tile, int n, int j, bool& real) {
    const u32 pixel = (tile * n + j) * ROWS + m.row;
    real = pixel < p.pixels;
    return real ? pixel : p.pixels - 1;
}

__device__ __forceinline__ u64 offset(u32 pixel, u32 stride, u32 channel) {
    return (u64)pixel * stride + channel;
}

extern "C" __global__ void BOUNDS mix_forward(const Mix p) {
    BEGIN(p);
    const Mine m = mine(p);
    Shared<rows_of(FORWARD)> s(p.count);
    fill<FORWARD>(p, m, s);
    Spread<VECTOR> spread;
    for (u32 tile = blockIdx.x; tile * PIXELS * ROWS < p.pixels; tile += gridDim.x) {
        u32 pixel[PIXELS];
        bool real[PIXELS];
        Vector y[PIXELS];
#pragma unroll
        for (int j = 0; j < PIXELS; ++j) {
            pixel[j] = pixel_of(p, m, tile, PIXELS, j, real[j]);
            y[j] = load<VECTOR>(s.constant + m.group * VECTOR);
        }
#pragma unroll TERMS
        for (u32 t = 0; t < p.count; ++t) {
            const Place place = s.places[t];
            Vector z[PIXELS];
#pragma unroll
            for (int j = 0; j < PIXELS; ++j)
                z[j] = fetch<VECTOR>(place.value + offset(pixel[j], place.stride, m.channel));
            const Vector mean = s.row(t, 0, m.group), factor = s.row(t, 1, m.group);
#pragma unroll
            for (int j = 0; j < PIXELS; ++j)
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) y[j][i] = fmaf(z[j][i] - mean[i], factor[i], y[j][i]);
        }
#pragma unroll
        for (int j = 0; j < PIXELS; ++j) {
            if (!real[j] || !m.active) continue;
            store<VECTOR>(at(p.output, pixel[j]) + m.channel, y[j]);
            if (NORMALISED) spread.add(as_stored(y[j]));
        }
    }
    if constexpr (NORMALISED) {
        float* scratch = reinterpret_cast<float*>(shared_memory);
        float* partial = at(p.partials) + (u64)blockIdx.x * 3 * p.channels + m.first;
        const u32 row = m.active ? m.row : ROWS;
        write_spread(spread, m.group, row, ROWS, m.width, p.channels, scratch, partial);
        if (!last_block(at(p.tickets), gridDim.x * gridDim.y)) return;
        finish_spread(at(p.partials), gridDim.x, 3 * p.channels, p.channels,
                      reinterpret_cast<double*>(shared_memory), at(p.statistics));
    }
}

extern "C" __global__ void BOUNDS mix_tangent(const Mix p) {
    BEGIN(p);
    const Mine m = mine(p);
    Shared<rows_of(TANGENT)> s(p.count);
    fill<TANGENT>(p, m, s);
    Vector sums[2] = {splat<VECTOR>(0.0f), splat<VECTOR>(0.0f)};
    for (u32 tile = blockIdx.x; tile * PAIRS * ROWS < p.pixels; tile += gridDim.x) {
        u32 pixel[PAIRS];
        bool real[PAIRS];
        Vector y[PAIRS];
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
            pixel[j] = pixel_of(p, m, tile, PAIRS, j, real[j]);
            y[j] = load<VECTOR>(s.constant + m.group * VECTOR);
        }
        for (u32 t = 0; t < p.count; ++t) {
            const Place place = s.places[t];
            Vector z[PAIRS], dot[PAIRS];
            // What is not read has the coefficient 0.
#pragma unroll
            for (int j = 0; j < PAIRS; ++j) {
                const u64 from = offset(pixel[j], place.stride, m.channel);
                z[j] = place.value ? fetch<VECTOR>(place.value + from) : splat<VECTOR>(0.0f);
                dot[j] = place.tangent ? fetch<VECTOR>(place.tangent + from) : splat<VECTOR>(0.0f);
            }
            const Vector mean = s.row(t, 0, m.group), factor = s.row(t, 1, m.group);
            const Vector mean_dot = s.row(t, 2, m.group), factor_dot = s.row(t, 3, m.group);
#pragma unroll
            for (int j = 0; j < PAIRS; ++j)
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    y[j][i] = fmaf(z[j][i] - mean[i], factor[i], y[j][i]);
                    y[j][i] = fmaf(dot[j][i] - mean_dot[i], factor_dot[i], y[j][i]);
                }
        }
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
            if (!real[j] || !m.active) continue;
            store<VECTOR>(at(p.output, pixel[j]) + m.channel, y[j]);
            if constexpr (NORMALISED) {
                const Vector dot = as_stored(y[j]);
                const Vector value = load<VECTOR>(at(p.value, pixel[j]) + m.channel);
                const Vector mean = load<VECTOR>(at(p.statistics) + m.channel);
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    sums[0][i] += dot[i];
                    sums[1][i] = fmaf(value[i] - mean[i], dot[i], sums[1][i]); // r follows below
                }
            }
        }
    }
    if constexpr (NORMALISED) {
        float* scratch = reinterpret_cast<float*>(shared_memory);
        float* partial = at(p.partials) + (u64)blockIdx.x * 2 * p.channels + m.first;
        const u32 row = m.active ? m.row : ROWS;
        const Vector r = load<VECTOR>(at(p.statistics) + padded(p.channels) + m.channel);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) sums[1][i] *= r[i];
        write_sums(sums, m.group, row, ROWS, m.width, p.channels, scratch, partial);
        if (!last_block(at(p.tickets), gridDim.x * gridDim.y)) return;
        finish_tangent(at(p.partials), gridDim.x, 2 * p.channels, p.channels, p.pixels,
                       reinterpret_cast<double*>(shared_memory), at(p.statistics_tangent));
    }
}

// Σ over the lanes of a warp that hold the same channels. While a lane holds several channels it gives
// half of them away and keeps the other half; so at the end it has the sum of one, channel
// lane / (32 / VECTOR) of its vector, and the lanes with lane % (32 / VECTOR) < GROUPS have them all.
__device__ __forceinline__ float fold(Vector x, u32 lane) {
    u32 distance = 16;
#pragma unroll
    for (int half = VECTOR / 2; half > 0; half >>= 1, distance >>= 1) {
        const bool upper = (lane & distance) != 0;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float keep = upper ? x[i + half] : x[i], give = upper ? x[i] : x[i + half];
            x[i] = keep + __shfl_xor_sync(0xffffffffu, give, distance);
        }
    }
#pragma unroll
    for (; distance >= GROUPS; distance >>= 1) x[0] += __shfl_xor_sync(0xffffffffu, x[0], distance);
    return x[0];
}

// Adds a row of sums over the warp to the warp's accumulator of that row.
__device__ __forceinline__ void accumulate(const Vector& x, const Mine& m, float* row) {
    const float sum = fold(x, m.lane);
    if (m.lane % (32 / VECTOR) < GROUPS) row[m.group * VECTOR + m.lane / (32 / VECTOR)] += sum;
}

// Hands the sums over all pixels on, by the last block. Row K·(t + 1) + k of `totals` holds Σ ȳ·x̂ of term
// t, or (k = 1) Σ ȳ˙·x̂ + ȳ·x̂˙; rows 0 … K − 1 the same with 1 for x̂.
template <bool DOT> __device__ void hand_out(const Mix& p, const double* totals, u32 wide) {
    constexpr u32 K = DOT ? 2 : 1, OWN = K - 1;
    const auto total = [&](u32 row, u32 c) { return totals[(u64)row * wide + c]; };
    if (p.shift_gradient.data)
        for (u32 c = threadIdx.x; c < p.channels; c += THREADS) at(p.shift_gradient)[c] = (float)total(OWN, c);
    // Terms that add to the same place take turns, so that it is never added to by two threads at once.
    for (u32 round = 0; round < p.rounds; ++round) {
        for (u32 i = threadIdx.x; i < p.count * p.channels; i += THREADS) {
            const u32 t = i / p.channels, c = i % p.channels;
            const Term& term = p.terms[t];
            if (term.round != round) continue;
            const double own = total(K * (t + 1) + OWN, c);
            if (term.factor.per_channel) at(term.gradient)[c] = (float)own;
            if (!term.sums.data) continue;
            const double s = value_of(term.factor, c, 1.0f);
            double s1 = s * total(OWN, c), s2 = s * own;
            if (DOT) {
                const double s_dot = value_of(term.factor_tangent, c, 0.0f);
                s1 += s_dot * total(0, c), s2 += s_dot * total(K * (t + 1), c);
            }
            float* sums = at(term.sums) + c;
            sums[0] += (float)s1, sums[padded(p.channels)] += (float)s2;
        }
        for (u32 t = threadIdx.x / 32; t < p.count; t += WARPS) {
            const Term& term = p.terms[t];
            if (term.round != round || !term.gradient.data || term.factor.per_channel) continue;
            double sum = 0.0;
            for (u32 c = threadIdx.x & 31; c < p.channels; c += 32) sum += total(K * (t + 1) + OWN, c);
            sum = warp_sum(sum);
            if ((threadIdx.x & 31) == 0) *at(term.gradient) += (float)sum;
        }
        __syncthreads();
    }
}

// Adds the blocks' rows of `len` sums, group by group, then the groups' rows of all slabs.
template <bool DOT> __device__ __forceinline__ void finish_sums(const Mix& p, u32 len) {
    double* scratch = reinterpret_cast<double*>(shared_memory);
    const u32 groups = (gridDim.x + p.fan - 1) / p.fan, group = blockIdx.x / p.fan;
    const u32 size = min(p.fan, gridDim.x - group * p.fan);
    u32* tickets = at(p.tickets);
    if (!last_block(tickets + 1 + blockIdx.y * groups + group, size)) return;
    const u64 first = (u64)blockIdx.y * gridDim.x + group * p.fan;
    float* of_group = at(p.groups) + ((u64)blockIdx.y * groups + group) * len;
    sum_partials(at(p.partials) + first * len, size, len, len, scratch,
                 [&](u32 e, double sum) { of_group[e] = (float)sum; });
    if (!last_block(tickets, groups * gridDim.y)) return;
    double* totals = reinterpret_cast<double*>(at(p.totals));
    const u32 wide = gridDim.y * SLAB;
    for (u32 slab = 0; slab < gridDim.y; ++slab)
        sum_partials(at(p.groups) + (u64)slab * groups * len, groups, len, len, scratch, [&](u32 e, double sum) {
            totals[(u64)(e / SLAB) * wide + slab * SLAB + e % SLAB] = sum;
        });
    hand_out<DOT>(p, totals, wide);
}

// ȳ, and ȳ˙ if DOT, of a pixel; zero in a thread that has none.
template <bool DOT>
__device__ __forceinline__ void
output_adjoint(const Mix& p, const Mine& m, const float* table, u32 pixel, bool real, Vector& bar, Vector& bar_dot) {
    if constexpr (NORMALISED) {
        adjoint<DOT, VECTOR>(p.adjoint, table, p.channels, pixel, m.channel, bar, bar_dot);
        // For the branches' producers. In tangent_backward, ȳ is there already.
        if (real && m.active) {
            if (DOT) store<VECTOR>(at(p.bar_dot, pixel) + m.channel, bar_dot);
            else store<VECTOR>(at(p.bar, pixel) + m.channel, bar);
        }
    } else {
        bar = fetch<VECTOR>(at(p.bar, pixel) + m.channel);
        if (DOT) bar_dot = fetch<VECTOR>(at(p.bar_dot, pixel) + m.channel);
    }
    if (!real) bar = bar_dot = splat<VECTOR>(0.0f);
}

// Both backward passes: `bar_dot` and everything of it is there only if DOT.
template <bool DOT> __device__ __forceinline__ void backward(const Mix& p) {
    constexpr Kind KIND = DOT ? TANGENT_BACKWARD : BACKWARD;
    constexpr int N = DOT ? PAIRS : PIXELS, K = DOT ? 2 : 1;
    const Mine m = mine(p);
    Shared<rows_of(KIND)> s(p.count);
    const u32 len = K * (1 + p.count) * SLAB;
    float* all = s.rest;
    float* own = all + threadIdx.x / 32 * len;
    float* table = all + WARPS * len;
    for (u32 e = m.lane; e < len; e += 32) own[e] = 0.0f;
    if constexpr (NORMALISED) prepare<DOT>(p.adjoint, p.channels, table);
    fill<KIND>(p, m, s);
    for (u32 tile = blockIdx.x; tile * N * ROWS < p.pixels; tile += gridDim.x) {
        u32 pixel[N];
        bool real[N];
        Vector bar[N], bar_dot[N];
        Vector sum = splat<VECTOR>(0.0f), sum_dot = sum;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            pixel[j] = pixel_of(p, m, tile, N, j, real[j]);
            output_adjoint<DOT>(p, m, table, pixel[j], real[j], bar[j], bar_dot[j]);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                sum[i] += bar[j][i];
                if (DOT) sum_dot[i] += bar_dot[j][i];
            }
        }
        accumulate(sum, m, own);
        if (DOT) accumulate(sum_dot, m, own + SLAB);
        for (u32 t = 0; t < p.count; ++t) {
            const Place place = s.places[t];
            const bool normalised = (place.flags & BATCH_NORM) != 0;
            if (place.value) {
                Vector z[N], dot[N];
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    const u64 from = offset(pixel[j], place.stride, m.channel);
                    z[j] = fetch<VECTOR>(place.value + from);
                    if (DOT) dot[j] = place.tangent ? fetch<VECTOR>(place.tangent + from) : splat<VECTOR>(0.0f);
                }
                if (normalised) {
                    const Vector mean = s.row(t, 0, m.group), r = s.row(t, 1, m.group);
#pragma unroll
                    for (int j = 0; j < N; ++j)
#pragma unroll
                        for (int i = 0; i < VECTOR; ++i) z[j][i] = (z[j][i] - mean[i]) * r[i];
                    if constexpr (DOT) {
                        const Vector mean_dot = s.row(t, 2, m.group), slope = s.row(t, 3, m.group);
#pragma unroll
                        for (int j = 0; j < N; ++j)
#pragma unroll
                            for (int i = 0; i < VECTOR; ++i)
                                dot[j][i] = r[i] * (dot[j][i] - mean_dot[i] - z[j][i] * slope[i]);
                    }
                }
                sum = sum_dot = splat<VECTOR>(0.0f);
#pragma unroll
                for (int j = 0; j < N; ++j)
#pragma unroll
                    for (int i = 0; i < VECTOR; ++i) {
                        sum[i] = fmaf(bar[j][i], z[j][i], sum[i]);
                        if (DOT) sum_dot[i] = fmaf(bar_dot[j][i], z[j][i], fmaf(bar[j][i], dot[j][i], sum_dot[i]));
                    }
                float* row = own + K * (t + 1) * SLAB;
                accumulate(sum, m, row);
                if (DOT) accumulate(sum_dot, m, row + SLAB);
            }
            if (place.to) {
                const Vector factor = s.row(t, 0, m.group), factor_dot = s.row(t, 1, m.group);
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    Vector x;
#pragma unroll
                    for (int i = 0; i < VECTOR; ++i)
                        x[i] = DOT ? fmaf(bar[j][i], factor_dot[i], bar_dot[j][i] * factor[i]) : bar[j][i] * factor[i];
                    storage* to = place.to + offset(pixel[j], place.stride, m.channel);
                    if (real[j] && m.active) store_or_add<VECTOR>(to, x, place.flags & ADDS);
                }
            }
        }
    }
    __syncthreads();
    float* partial = at(p.partials) + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * len;
    for (u32 e = threadIdx.x; e < len; e += THREADS) {
        float sum = 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; ++w) sum += all[w * len + e];
        partial[e] = sum;
    }
    finish_sums<DOT>(p, len);
}

extern "C" __global__ void BOUNDS mix_backward(const Mix p) {
    BEGIN(p);
    backward<false>(p);
}

extern "C" __global__ void BOUNDS mix_tangent_backward(const Mix p) {
    BEGIN(p);
    backward<true>(p);
}
