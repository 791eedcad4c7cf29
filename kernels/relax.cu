// Relaxation of the architecture parameters: c = softmax(α) over the ops of each edge.
//
//   ᾱ = c ∘ (c̄ − Σ c·c̄)        ċ = c ∘ (α̇ − Σ c·α̇)
//   ᾱ˙ = ċ ∘ (c̄ − Σ c·c̄) + c ∘ (c̄˙ − Σ (ċ·c̄ + c·c̄˙))
//
// A supernet has a few hundred op weights: the kernel moves some kilobytes, so its time is that of a
// launch, and it is laid out for exactness alone. A thread takes one edge, whose ops it sums in
// order, in double, as the CPU does.
//
// Where a strategy hands over c itself, all four passes copy: `relax_given`.
//
// Definitions: STORAGE.
#include "common.cuh"

struct Relax {
    Header header;
    Floats alpha;                // α [edges, ops]; in the tangent passes unused
    Floats alpha_tangent;        // α̇
    Floats gradient;             // ᾱ, or ᾱ˙
    Floats value;                // c
    Floats adjoint;              // c̄
    Floats tangent;              // ċ
    Floats adjoint_tangent;      // c̄˙
    u32 edges, ops;
    u32 unused[2];
};
LAYOUT(Relax, 144);

// First op weight of this thread's edge; false if it has none.
__device__ __forceinline__ bool edge(const Relax& p, u32& first) {
    const u32 e = blockIdx.x * blockDim.x + threadIdx.x;
    first = e * p.ops;
    return e < p.edges;
}

__device__ __forceinline__ double dot(const float* a, const float* b, u32 n) {
    double sum = 0.0;
    for (u32 i = 0; i < n; ++i) sum += (double)a[i] * (double)b[i];
    return sum;
}

extern "C" __global__ void relax_forward(const Relax p) {
    BEGIN(p);
    u32 first;
    if (!edge(p, first)) return;
    const float* alpha = at(p.alpha) + first;
    float* c = at(p.value) + first;
    float max = alpha[0];
    for (u32 i = 1; i < p.ops; ++i) max = fmaxf(max, alpha[i]);
    double sum = 0.0;
    for (u32 i = 0; i < p.ops; ++i) sum += exp((double)(alpha[i] - max));
    for (u32 i = 0; i < p.ops; ++i) c[i] = (float)(exp((double)(alpha[i] - max)) / sum);
}

extern "C" __global__ void relax_backward(const Relax p) {
    BEGIN(p);
    u32 first;
    if (!edge(p, first)) return;
    const float *c = at(p.value) + first, *bar = at(p.adjoint) + first;
    float* gradient = at(p.gradient) + first;
    const double mean = dot(c, bar, p.ops);
    for (u32 i = 0; i < p.ops; ++i) gradient[i] = (float)((double)c[i] * ((double)bar[i] - mean));
}

extern "C" __global__ void relax_tangent(const Relax p) {
    BEGIN(p);
    u32 first;
    if (!edge(p, first)) return;
    const float *c = at(p.value) + first, *alpha_dot = at(p.alpha_tangent) + first;
    float* c_dot = at(p.tangent) + first;
    const double mean = dot(c, alpha_dot, p.ops);
    for (u32 i = 0; i < p.ops; ++i) c_dot[i] = (float)((double)c[i] * ((double)alpha_dot[i] - mean));
}

extern "C" __global__ void relax_tangent_backward(const Relax p) {
    BEGIN(p);
    u32 first;
    if (!edge(p, first)) return;
    const float *c = at(p.value) + first, *c_dot = at(p.tangent) + first;
    const float *bar = at(p.adjoint) + first, *bar_dot = at(p.adjoint_tangent) + first;
    float* gradient = at(p.gradient) + first;
    const double mean = dot(c, bar, p.ops);
    const double mean_dot = dot(c_dot, bar, p.ops) + dot(c, bar_dot, p.ops);
    for (u32 i = 0; i < p.ops; ++i)
        gradient[i] = (float)((double)c_dot[i] * ((double)bar[i] - mean) +
                              (double)c[i] * ((double)bar_dot[i] - mean_dot));
}

// c = α, ᾱ = c̄, ċ = α̇, ᾱ˙ = c̄˙.
struct Given {
    Header header;
    Floats from, to;
};
LAYOUT(Given, 48);

extern "C" __global__ void relax_given(const Given p) {
    BEGIN(p);
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.to.len) at(p.to)[i] = at(p.from)[i];
}
