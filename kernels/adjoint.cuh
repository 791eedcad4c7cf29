// The adjoint of an op's output, evaluated as it is loaded.
//
// A raw output's adjoint is stored. A normalised output z is read through x̂ = r·(z − μ) by readers j,
// each of which holds an adjoint u_j with ∂L/∂x̂ = Σ_j s_j·u_j (s_j an op weight, a gain, or 1) and has
// added to S₁ = Σ ∂L/∂x̂ and S₂ = Σ x̂·∂L/∂x̂. With M values a channel,
//
//   z̄  = r·(Σ s_j·u_j − S₁/M − x̂·S₂/M)
//   z̄˙ = r·(Σ (s_j·u̇_j + ṡ_j·u_j) − Ṡ₁/M − x̂˙·S₂/M − x̂·Ṡ₂/M) + (ṙ/r)·z̄
//
// which is affine, channel by channel, in what is loaded. `prepare` writes the coefficients to shared
// memory once a block; `adjoint` evaluates. μ and mean(ż) are subtracted from what is loaded, because
// folded into the constant they would cancel where they are large beside the deviation.
#pragma once
#include "statistics.cuh"

// A factor s: 1, an op weight, or a gain per channel.
struct Factor {
    float* data;     // null: 1 (and its tangent 0)
    u32 member;      // elements from a member to the next
    u32 per_channel; // 1: data[c]; 0: data[0]
};
LAYOUT(Factor, 16);

__device__ __forceinline__ float value_of(const Factor& f, u32 c, float otherwise) {
    if (!f.data) return otherwise;
    return f.data[(u64)blockIdx.z * f.member + (f.per_channel ? c : 0)];
}

// One reader of a normalised output.
struct Source {
    Pixels adjoint;         // u
    Pixels adjoint_tangent; // u̇; in tangent_backward
    Factor factor;          // s
    Factor factor_tangent;  // ṡ; in tangent_backward
};
LAYOUT(Source, 64);

// Where an output's adjoint comes from. A raw output has one source, which is its own adjoint.
struct Adjoint {
    Pixels value;              // z
    Pixels tangent;            // ż; in tangent_backward
    Floats statistics;         // [2, padded(C)] μ, r; null for a raw output
    Floats sums;               // S₁, S₂
    Floats statistics_tangent; // μ̇, t
    Floats sums_tangent;       // Ṡ₁, Ṡ₂
    const Source* sources;     // a device table
    u32 count;                 // of sources
    float inverse_count;       // 1/M
};
LAYOUT(Adjoint, 112);

// Rows of the coefficient table, each of `channels` floats.
enum { MEAN, CONSTANT, VALUE, MEAN_DOT, CONSTANT_DOT, VALUE_DOT, TANGENT_DOT, FIRST_SOURCE };

// Floats of shared memory for the coefficients of an output.
__host__ __device__ constexpr u32 coefficients(u32 channels, u32 sources) {
    return (FIRST_SOURCE + 2 * sources) * channels;
}

// Fills `table`; every thread of a one-dimensional block calls it. Ends with a barrier.
template <bool TANGENT>
__device__ __forceinline__ void prepare(const Adjoint& a, u32 channels, float* table) {
    if (a.statistics.data) {
        for (u32 c = threadIdx.x; c < channels; c += blockDim.x) {
            const float *m = at(a.statistics), *s = at(a.sums);
            const float mean = m[c], r = m[padded(channels) + c];
            const float s1 = s[c] * a.inverse_count, s2 = s[padded(channels) + c] * a.inverse_count;
            table[MEAN * channels + c] = mean;
            table[CONSTANT * channels + c] = -r * s1;
            table[VALUE * channels + c] = -r * r * s2;
            float r_dot = 0.0f;
            if constexpr (TANGENT) {
                const float *md = at(a.statistics_tangent), *sd = at(a.sums_tangent);
                const float t = md[padded(channels) + c];
                const float s1_dot = sd[c] * a.inverse_count;
                const float s2_dot = sd[padded(channels) + c] * a.inverse_count;
                r_dot = -r * r * t;
                table[MEAN_DOT * channels + c] = md[c];
                table[CONSTANT_DOT * channels + c] = -r * s1_dot - r_dot * s1;
                table[VALUE_DOT * channels + c] = (r * (r * t * s2 - s2_dot) - r_dot * s2) * r;
                table[TANGENT_DOT * channels + c] = -r * r * s2;
            }
            for (u32 j = 0; j < a.count; ++j) {
                float* row = table + (FIRST_SOURCE + 2 * j) * channels + c;
                const float s = value_of(a.sources[j].factor, c, 1.0f);
                row[0] = r * s;
                if constexpr (TANGENT)
                    row[channels] = r * value_of(a.sources[j].factor_tangent, c, 0.0f) + r_dot * s;
            }
        }
    }
    __syncthreads();
}

// z̄ at a pixel, channels c … c + V, and in `bar_dot` z̄˙ if TANGENT.
template <bool TANGENT, int V>
__device__ __forceinline__ void
adjoint(const Adjoint& a, const float* table, u32 channels, u32 pixel, u32 c, Lanes<V>& bar, Lanes<V>& bar_dot) {
    if (!a.statistics.data) {
        bar = load<V>(at(a.sources[0].adjoint, pixel) + c);
        if constexpr (TANGENT) bar_dot = load<V>(at(a.sources[0].adjoint_tangent, pixel) + c);
        return;
    }
    const auto row = [&](u32 k) { return load<V>(table + k * channels + c); };
    Lanes<V> z = load<V>(at(a.value, pixel) + c);
    const Lanes<V> mean = row(MEAN), slope = row(VALUE);
    bar = row(CONSTANT);
#pragma unroll
    for (int i = 0; i < V; ++i) {
        z[i] -= mean[i];
        bar[i] = fmaf(z[i], slope[i], bar[i]);
    }
    if constexpr (TANGENT) {
        const Lanes<V> dot = load<V>(at(a.tangent, pixel) + c);
        const Lanes<V> mean_dot = row(MEAN_DOT), slope_dot = row(VALUE_DOT), tangent = row(TANGENT_DOT);
        bar_dot = row(CONSTANT_DOT);
#pragma unroll
        for (int i = 0; i < V; ++i)
            bar_dot[i] = fmaf(dot[i] - mean_dot[i], tangent[i], fmaf(z[i], slope_dot[i], bar_dot[i]));
    }
#pragma unroll 1 // two sources under way at once would cost registers that callers hold sums in
    for (u32 j = 0; j < a.count; ++j) {
        const Lanes<V> u = load<V>(at(a.sources[j].adjoint, pixel) + c);
        const Lanes<V> factor = row(FIRST_SOURCE + 2 * j);
#pragma unroll
        for (int i = 0; i < V; ++i) bar[i] = fmaf(u[i], factor[i], bar[i]);
        if constexpr (TANGENT) {
            const Lanes<V> u_dot = load<V>(at(a.sources[j].adjoint_tangent, pixel) + c);
            const Lanes<V> mixed = row(FIRST_SOURCE + 2 * j + 1);
#pragma unroll
            for (int i = 0; i < V; ++i)
                bar_dot[i] = fmaf(u[i], mixed[i], fmaf(u_dot[i], factor[i], bar_dot[i]));
        }
    }
}
