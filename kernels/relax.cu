// Relaxation of the architecture parameters: c = softmax(α) over the ops of each edge.
//
//   ᾱ = c ∘ (c̄ − Σ c·c̄)        ċ = c ∘ (α̇ − Σ c·α̇)
//   ᾱ˙ = ċ ∘ (c̄ − Σ c·c̄) + c ∘ (c̄˙ − Σ (ċ·c̄ + c·c̄˙))
//
// With max_w, Max-W regularisation: c = 1 − s_m + s, s = softmax(α) in the place of c above, m its largest element;
// s̄ and ṡ as src/ops/relax/mod.rs has them.
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
    Floats alpha;                // α [edges, ops]
    Floats alpha_tangent;        // α̇
    Floats gradient;             // ᾱ, or ᾱ˙
    Floats value;                // c
    Floats adjoint;              // c̄
    Floats tangent;              // ċ
    Floats adjoint_tangent;      // c̄˙
    u32 edges, ops;
    u32 max_w;
    u32 unused;
};
LAYOUT(Relax, 144);

// First op weight of this thread's edge; false if it has none.
__device__ __forceinline__ bool edge(const Relax& p, u32& first) {
    const u32 e = blockIdx.x * blockDim.x + threadIdx.x;
    first = e * p.ops;
    return e < p.edges;
}

// s of one edge: c, or of Max-W the softmax of α. top is m, and ops where there is none.
struct Softmax {
    const float *c, *alpha;
    double sum;
    u32 top, ops;

    __device__ __forceinline__ double at(u32 i) const {
        return top == ops ? (double)c[i] : exp((double)(alpha[i] - alpha[top])) / sum;
    }
    // Σ s·x
    template <class X> __device__ __forceinline__ double mean(X x) const {
        double total = 0.0;
        for (u32 i = 0; i < ops; ++i) total += at(i) * x(i);
        return total;
    }
};

// Place of the largest of n elements, the first of equals.
__device__ __forceinline__ u32 largest(const float* alpha, u32 n) {
    u32 top = 0;
    for (u32 i = 1; i < n; ++i) top = alpha[i] > alpha[top] ? i : top;
    return top;
}

__device__ __forceinline__ Softmax softmax_of(const Relax& p, u32 first) {
    Softmax s = {at(p.value) + first, at(p.alpha) + first, 0.0, p.ops, p.ops};
    if (p.max_w == 0) return s;
    s.top = largest(s.alpha, p.ops);
    for (u32 i = 0; i < p.ops; ++i) s.sum += exp((double)(s.alpha[i] - s.alpha[s.top]));
    return s;
}

// s̄ of c̄, or s̄˙ of c̄˙.
struct Back {
    const float* bar;
    double of_top;
    u32 top;

    __device__ __forceinline__ Back(const Softmax& s, const float* from) : bar(from), of_top(0.0), top(s.top) {
        if (s.top == s.ops) return;
        for (u32 i = 0; i < s.ops; ++i) of_top -= i == s.top ? 0.0 : (double)bar[i];
    }
    __device__ __forceinline__ double operator()(u32 i) const { return i == top ? of_top : (double)bar[i]; }
};

// ṡ of ċ: of Max-W moved so that its sum is zero again.
struct Dot {
    const float* c_dot;
    double shift;

    __device__ __forceinline__ Dot(const Softmax& s, const float* from) : c_dot(from), shift(0.0) {
        if (s.top == s.ops) return;
        for (u32 i = 0; i < s.ops; ++i) shift -= (double)c_dot[i];
        shift /= (double)s.ops;
    }
    __device__ __forceinline__ double operator()(u32 i) const { return (double)c_dot[i] + shift; }
};

extern "C" __global__ void relax_forward(const Relax p) {
    BEGIN(p);
    u32 first;
    if (!edge(p, first)) return;
    const float* alpha = at(p.alpha) + first;
    float* c = at(p.value) + first;
    const float max = alpha[largest(alpha, p.ops)];
    double sum = 0.0;
    for (u32 i = 0; i < p.ops; ++i) sum += exp((double)(alpha[i] - max));
    const double lift = p.max_w ? 1.0 - 1.0 / sum : 0.0;
    for (u32 i = 0; i < p.ops; ++i) c[i] = (float)(lift + exp((double)(alpha[i] - max)) / sum);
}

extern "C" __global__ void relax_backward(const Relax p) {
    BEGIN(p);
    u32 first;
    if (!edge(p, first)) return;
    const Softmax s = softmax_of(p, first);
    const Back bar(s, at(p.adjoint) + first);
    float* gradient = at(p.gradient) + first;
    const double mean = s.mean(bar);
    for (u32 i = 0; i < p.ops; ++i) gradient[i] = (float)(s.at(i) * (bar(i) - mean));
}

extern "C" __global__ void relax_tangent(const Relax p) {
    BEGIN(p);
    u32 first;
    if (!edge(p, first)) return;
    const Softmax s = softmax_of(p, first);
    const float* alpha_dot = at(p.alpha_tangent) + first;
    float* c_dot = at(p.tangent) + first;
    const double mean = s.mean([&](u32 i) { return (double)alpha_dot[i]; });
    const double of_top = s.top == s.ops ? 0.0 : s.at(s.top) * ((double)alpha_dot[s.top] - mean);
    for (u32 i = 0; i < p.ops; ++i) c_dot[i] = (float)(s.at(i) * ((double)alpha_dot[i] - mean) - of_top);
}

extern "C" __global__ void relax_tangent_backward(const Relax p) {
    BEGIN(p);
    u32 first;
    if (!edge(p, first)) return;
    const Softmax s = softmax_of(p, first);
    const Dot s_dot(s, at(p.tangent) + first);
    const Back bar(s, at(p.adjoint) + first), bar_dot(s, at(p.adjoint_tangent) + first);
    float* gradient = at(p.gradient) + first;
    const double mean = s.mean(bar);
    double mean_dot = 0.0;
    for (u32 i = 0; i < p.ops; ++i) mean_dot += s_dot(i) * bar(i);
    mean_dot += s.mean(bar_dot);
    for (u32 i = 0; i < p.ops; ++i)
        gradient[i] = (float)(s_dot(i) * (bar(i) - mean) + s.at(i) * (bar_dot(i) - mean_dot));
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
