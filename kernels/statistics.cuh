// Batch statistics of an op's output, taken while it is written, and their tangents.
//
//   μ = mean(z)   r = 1/√(var(z) + ε)      μ̇ = mean(ż)   t = mean(x̂·ż)
//   x̂ = r·(z − μ)                          x̂˙ = r·(ż − μ̇ − x̂·t)      ṙ = −r²·t
//
// Every thread keeps V channels (`group`) over some pixels; the threads of a block that keep the same
// channels (`row` of `rows`) are combined by a tree over shared memory, blocks by the last one to
// finish. Variances go by counts, means and squared deviations (Chan et al. 1983): with plain sums
// of squares a mean that is large beside the deviation would cancel.
#pragma once
#include "common.cuh"

#define NORM_EPSILON 1e-5

// Count, mean and squared deviations of V channels in one thread, about the first value it saw.
template <int V> struct Spread {
    Lanes<V> shift, sum, square;
    u32 count;

    __device__ __forceinline__ Spread() : count(0) {
        shift = sum = square = splat<V>(0.0f);
    }
    __device__ __forceinline__ void add(const Lanes<V>& z) {
        if (count == 0) shift = z;
        ++count;
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float d = z[i] - shift[i];
            sum[i] += d;
            square[i] = fmaf(d, d, square[i]);
        }
    }
};

// Chan's combination of (n, mean, squares) with another.
template <class T>
__device__ __forceinline__ void combine(T& n, T& mean, T& squares, T n2, T mean2, T squares2) {
    const T total = n + n2;
    if (n2 == T(0)) return;
    const T delta = mean2 - mean;
    mean += delta * (n2 / total);
    squares += squares2 + delta * delta * (n * n2 / total);
    n = total;
}

// Floats of `scratch` that `write_spread` wants; `finish_spread` wants 3 doubles a thread.
__host__ __device__ constexpr u32 spread_scratch(u32 threads, u32 vector) {
    return (1 + 2 * vector) * threads;
}

// Combines the block's spreads and writes its partial [3, C]: count, mean, squared deviations, `pitch`
// apart (a block that takes part of the channels writes in between). Every thread calls it; threads
// that keep nothing pass row ≥ rows.
template <int V>
__device__ __forceinline__ void write_spread(const Spread<V>& s, u32 group, u32 row, u32 rows, u32 channels,
                                             u32 pitch, float* scratch, float* partial) {
    const u32 groups = channels / V;
    // Planes of one float a thread, so that neighbouring threads use neighbouring banks.
    const u32 plane = rows * groups;
    float* own = scratch + row * groups + group;
    __syncthreads();
    if (row < rows) {
        const float n = (float)s.count;
        own[0] = n;
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float share = s.count ? s.sum[i] / n : 0.0f;
            own[(1 + 2 * i) * plane] = s.shift[i] + share;
            own[(2 + 2 * i) * plane] = fmaxf(s.square[i] - s.sum[i] * share, 0.0f);
        }
    }
    u32 half = 1;
    while (half < rows) half <<= 1;
    for (half >>= 1; half > 0; half >>= 1) {
        __syncthreads();
        if (row < half && row + half < rows) {
            const float* other = own + half * groups;
            const float n2 = other[0];
            float n = own[0];
#pragma unroll
            for (int i = 0; i < V; ++i) {
                float *mean = own + (1 + 2 * i) * plane, *squares = mean + plane;
                n = own[0];
                combine(n, *mean, *squares, n2, other[(1 + 2 * i) * plane], other[(2 + 2 * i) * plane]);
            }
            own[0] = n;
        }
    }
    __syncthreads();
    if (row == 0) {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            partial[group * V + i] = own[0];
            partial[pitch + group * V + i] = own[(1 + 2 * i) * plane];
            partial[2 * pitch + group * V + i] = own[(2 + 2 * i) * plane];
        }
    }
}

template <int V>
__device__ __forceinline__ void
write_spread(const Spread<V>& s, u32 group, u32 row, u32 rows, u32 channels, float* scratch, float* partial) {
    write_spread(s, group, row, rows, channels, channels, scratch, partial);
}

// By the last block, after `last_block`: all partials to [2, padded(C)] of μ and r. `scratch` holds
// 3·blockDim.x doubles; blockDim.x is a power of two, at least 32.
__device__ __forceinline__ void
finish_spread(const float* partials, u32 blocks, u32 stride, u32 channels, double* scratch, float* statistics) {
    u32 wide = 32;
    while (wide < channels && wide < blockDim.x) wide <<= 1;
    const u32 deep = blockDim.x / wide;
    const u32 column = threadIdx.x % wide, row = threadIdx.x / wide;
    double* own = scratch + threadIdx.x;
    const u32 plane = blockDim.x;
    for (u32 first = 0; first < channels; first += wide) {
        const u32 c = first + column;
        double n = 0.0, mean = 0.0, squares = 0.0;
        if (c < channels) {
            for (u32 b = row; b < blocks; b += deep) {
                const float* p = partials + (u64)b * stride + c;
                combine(n, mean, squares, (double)__ldcg(p), (double)__ldcg(p + channels),
                        (double)__ldcg(p + 2 * channels));
            }
        }
        __syncthreads();
        own[0] = n, own[plane] = mean, own[2 * plane] = squares;
        for (u32 half = deep >> 1; half > 0; half >>= 1) {
            __syncthreads();
            if (row < half) {
                const double* other = own + half * wide;
                combine(own[0], own[plane], own[2 * plane], other[0], other[plane], other[2 * plane]);
            }
        }
        if (row == 0 && c < channels) {
            statistics[c] = (float)own[plane];
            statistics[padded(channels) + c] =
                (float)(1.0 / sqrt(fmax(own[2 * plane], 0.0) / own[0] + NORM_EPSILON));
        }
        __syncthreads();
    }
}

// Sums R rows of V channels over the block and writes the partial [R, C], rows `pitch` apart; as
// `write_spread`. `scratch` holds V·blockDim.x floats.
template <int V, int R>
__device__ __forceinline__ void write_sums(const Lanes<V> (&x)[R], u32 group, u32 row, u32 rows, u32 channels,
                                           u32 pitch, float* scratch, float* partial) {
    const u32 groups = channels / V;
    const u32 plane = rows * groups;
    float* own = scratch + row * groups + group;
#pragma unroll
    for (int r = 0; r < R; ++r) {
        __syncthreads();
        if (row < rows) {
#pragma unroll
            for (int i = 0; i < V; ++i) own[i * plane] = x[r][i];
        }
        u32 half = 1;
        while (half < rows) half <<= 1;
        for (half >>= 1; half > 0; half >>= 1) {
            __syncthreads();
            if (row < half && row + half < rows) {
#pragma unroll
                for (int i = 0; i < V; ++i) own[i * plane] += own[i * plane + half * groups];
            }
        }
        __syncthreads();
        if (row == 0) {
#pragma unroll
            for (int i = 0; i < V; ++i) partial[r * pitch + group * V + i] = own[i * plane];
        }
    }
}

template <int V, int R>
__device__ __forceinline__ void
write_sums(const Lanes<V> (&x)[R], u32 group, u32 row, u32 rows, u32 channels, float* scratch, float* partial) {
    write_sums(x, group, row, rows, channels, channels, scratch, partial);
}

// By the last block: partials [2, C] of Σ ż and Σ x̂·ż to [2, padded(C)] of their means over `count`.
// `scratch` as for `sum_partials`.
__device__ __forceinline__ void
finish_tangent(const float* partials, u32 blocks, u32 stride, u32 channels, u32 count, double* scratch,
               float* statistics_tangent) {
    sum_partials(partials, blocks, stride, 2 * channels, scratch, [&](u32 e, double sum) {
        const u32 to = e < channels ? e : padded(channels) + e - channels;
        statistics_tangent[to] = (float)(sum / count);
    });
}

// An activation as an op reads it: raw, or through batch norm.
struct Input {
    Pixels value;
    Pixels tangent;             // in the tangent passes, of a differentiable input; else null
    Floats statistics;          // of a normalised input: [2, padded(C)] of μ and r; else null
    Floats statistics_tangent;  // in the tangent passes
};
LAYOUT(Input, 64);

// x or x̂ at a pixel, channels c … c + V.
template <int V>
__device__ __forceinline__ Lanes<V> read(const Input& in, u32 pixel, u32 c, u32 channels) {
    Lanes<V> x = load<V>(at(in.value, pixel) + c);
    if (in.statistics.data) {
        const float* m = at(in.statistics) + c;
        const Lanes<V> mean = load<V>(m), r = load<V>(m + padded(channels));
#pragma unroll
        for (int i = 0; i < V; ++i) x[i] = (x[i] - mean[i]) * r[i];
    }
    return x;
}

// ẋ or x̂˙, given what `read` returned for the same place; zero for an input without a tangent.
template <int V>
__device__ __forceinline__ Lanes<V>
read_tangent(const Input& in, const Lanes<V>& x, u32 pixel, u32 c, u32 channels) {
    if (!in.tangent.data) return splat<V>(0.0f);
    Lanes<V> dot = load<V>(at(in.tangent, pixel) + c);
    if (in.statistics.data) {
        const Lanes<V> r = load<V>(at(in.statistics) + padded(channels) + c);
        const float* m = at(in.statistics_tangent) + c;
        const Lanes<V> mean = load<V>(m), t = load<V>(m + padded(channels));
#pragma unroll
        for (int i = 0; i < V; ++i) dot[i] = r[i] * (dot[i] - mean[i] - x[i] * t[i]);
    }
    return dot;
}
