// Relaxation with edge normalisation: w_{e,o} = b_e·c_{e,o} and w_e = b_e, c = softmax(α_e), b = softmax(β) over
// the edges into a node. `src/ops/edge_relax/mod.rs` has the maths.
//
// As in relax.cu the work is a few hundred numbers and its time a launch's, so it is laid out for exactness alone:
// a thread takes one node, whose edges and ops it sums in order, in double, as the CPU does. No array: c is w/b.
//
// Definitions: STORAGE.
#include "common.cuh"

#define MOST_NODES 8

struct EdgeRelax {
    Header header;
    Floats alpha, beta; // α, β, or in tangent α̇, β̇
    Floats alpha_gradient, beta_gradient;
    Floats value, adjoint, tangent, adjoint_tangent; // w, w̄, ẇ, w̄˙ [edges, ops + 1]
    u32 ops, nodes;
    u32 first[MOST_NODES + 1]; // edge of each node
    u32 unused;
};
LAYOUT(EdgeRelax, 192);

__device__ __forceinline__ double dot(const float* a, const float* b, u32 n) {
    double sum = 0.0;
    for (u32 i = 0; i < n; ++i) sum += (double)a[i] * (double)b[i];
    return sum;
}

// x/b, and zero of an edge whose weight vanished.
__device__ __forceinline__ double over(double x, double b) { return b > 0.0 ? x / b : 0.0; }

extern "C" __global__ void edge_relax_forward(const EdgeRelax p) {
    BEGIN(p);
    const u32 node = threadIdx.x;
    if (node >= p.nodes) return;
    const float *alpha = at(p.alpha), *beta = at(p.beta);
    float* w = at(p.value);
    const u32 first = p.first[node], last = p.first[node + 1];
    float most = beta[first];
    for (u32 e = first + 1; e < last; ++e) most = fmaxf(most, beta[e]);
    double total = 0.0;
    for (u32 e = first; e < last; ++e) total += exp((double)(beta[e] - most));
    for (u32 e = first; e < last; ++e) {
        const double b = exp((double)(beta[e] - most)) / total;
        const float* a = alpha + e * p.ops;
        float* row = w + e * (p.ops + 1);
        float max = a[0];
        for (u32 i = 1; i < p.ops; ++i) max = fmaxf(max, a[i]);
        double sum = 0.0;
        for (u32 i = 0; i < p.ops; ++i) sum += exp((double)(a[i] - max));
        for (u32 i = 0; i < p.ops; ++i) row[i] = (float)((double)(float)(exp((double)(a[i] - max)) / sum) * b);
        row[p.ops] = (float)b;
    }
}

extern "C" __global__ void edge_relax_tangent(const EdgeRelax p) {
    BEGIN(p);
    const u32 node = threadIdx.x;
    if (node >= p.nodes) return;
    const float *alpha = at(p.alpha), *beta = at(p.beta), *w = at(p.value);
    float* out = at(p.tangent);
    const u32 first = p.first[node], last = p.first[node + 1], step = p.ops + 1;
    double mean = 0.0;
    for (u32 e = first; e < last; ++e) mean += (double)w[e * step + p.ops] * (double)beta[e];
    for (u32 e = first; e < last; ++e) {
        const double b = w[e * step + p.ops], outer = (double)beta[e] - mean;
        const double inner = over(dot(w + e * step, alpha + e * p.ops, p.ops), b);
        for (u32 i = 0; i < p.ops; ++i)
            out[e * step + i] = (float)((double)w[e * step + i] * ((double)alpha[e * p.ops + i] - inner + outer));
        out[e * step + p.ops] = (float)(b * outer);
    }
}

// b, s and b̄ of an edge, and with DOT their tangents.
struct Edge {
    double b, s, bar, b_dot, s_dot, bar_dot;
};

template <bool DOT> __device__ __forceinline__ Edge edge_of(const EdgeRelax& p, u32 e) {
    const u32 at_edge = e * (p.ops + 1);
    const float *w = at(p.value) + at_edge, *bar = at(p.adjoint) + at_edge;
    Edge found = {};
    found.b = w[p.ops];
    found.s = over(dot(w, bar, p.ops), found.b);
    found.bar = (double)bar[p.ops] + found.s;
    if constexpr (DOT) {
        const float *w_dot = at(p.tangent) + at_edge, *bar_dot = at(p.adjoint_tangent) + at_edge;
        found.b_dot = w_dot[p.ops];
        const double sum = dot(w_dot, bar, p.ops) + dot(w, bar_dot, p.ops) - found.b_dot * found.s;
        found.s_dot = over(sum, found.b);
        found.bar_dot = (double)bar_dot[p.ops] + found.s_dot;
    }
    return found;
}

// Both backward passes.
template <bool DOT> __device__ __forceinline__ void back(const EdgeRelax& p) {
    const u32 node = threadIdx.x;
    if (node >= p.nodes) return;
    float *alpha = at(p.alpha_gradient), *beta = at(p.beta_gradient);
    const u32 first = p.first[node], last = p.first[node + 1];
    double mean = 0.0, mean_dot = 0.0;
    for (u32 e = first; e < last; ++e) {
        const Edge edge = edge_of<DOT>(p, e);
        mean += edge.b * edge.bar;
        mean_dot += edge.b_dot * edge.bar + edge.b * edge.bar_dot;
    }
    for (u32 e = first; e < last; ++e) {
        const Edge edge = edge_of<DOT>(p, e);
        const u32 at_edge = e * (p.ops + 1);
        const float *w = at(p.value) + at_edge, *bar = at(p.adjoint) + at_edge;
        for (u32 i = 0; i < p.ops; ++i) {
            const double lift = (double)bar[i] - edge.s;
            double value = (double)w[i] * lift;
            if constexpr (DOT)
                value = (double)(at(p.tangent) + at_edge)[i] * lift +
                        (double)w[i] * ((double)(at(p.adjoint_tangent) + at_edge)[i] - edge.s_dot);
            alpha[e * p.ops + i] = (float)value;
        }
        const double lift = edge.bar - mean;
        beta[e] = (float)(DOT ? edge.b_dot * lift + edge.b * (edge.bar_dot - mean_dot) : edge.b * lift);
    }
}

extern "C" __global__ void edge_relax_backward(const EdgeRelax p) {
    BEGIN(p);
    back<false>(p);
}

extern "C" __global__ void edge_relax_tangent_backward(const EdgeRelax p) {
    BEGIN(p);
    back<true>(p);
}
