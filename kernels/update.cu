// Updates of flat parameter vectors: dot products, axpy, SGD, Adam, the Neumann series, and what a power
// iteration and a central difference are made of.
//
//   sgd      b ← μ·b + (clip·g + decay·θ)    θ ← θ − lr·b       clip = min(1, c/(‖g‖ + 10⁻⁶))
//   neumann  v ← v − γ·(H·v)                 p ← p + v          ‖v‖, and the guard on its growth
//
// All are bound by memory: a few FLOP for 12 to 20 bytes an element, each vector read and written
// once, in one launch over all tensors (θ is one flat vector). Four elements a thread and step, as
// one access where all vectors begin at 16 bytes. Sums end in double, by the block that finishes last.
// What one launch computes and the next needs (‖g‖², ‖v_k‖, γ, that the series stopped) stays on the
// device: nobody waits for the host.
//
// Definitions: STORAGE.
#include "common.cuh"

#define THREADS 256
#define MOST_BLOCKS 1024

struct Update {
    Header header;
    Floats x, y, z, w;  // by entry, see there
    double* partials;   // MOST_BLOCKS
    u32* ticket;
    double* result;     // of sums; in a series ‖v_k‖, k = 0 …
    const double* norm; // ‖g‖² for sgd; the square of a norm elsewhere, by entry
    float rate;         // factor, learning rate, or γ
    float momentum, weight_decay, clip;
    u32 len;
    u32 aligned;        // all vectors begin at 16 bytes
    u32 term;           // k
    u32 guard;          // stop the series where ‖v_k‖ grows
    u32* stopped;       // the term at which the series stopped, or 0
    const double* factor; // where it is not null, `rate` is times this
    double numerator, otherwise;
};
LAYOUT(Update, 176);

__device__ __forceinline__ float rate(const Update& p) {
    return p.factor ? p.rate * (float)*p.factor : p.rate;
}

// body(e, 4) or body(e, 1) so that every element below `len` is covered once, in a fixed order a thread.
template <class Quad, class Single>
__device__ __forceinline__ void for_elements(u32 len, bool aligned, Quad quad, Single single) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    const u32 quads = aligned ? len / 4 : 0;
    for (u32 q = thread; q < quads; q += threads) quad(4 * q);
    for (u32 e = 4 * quads + thread; e < len; e += threads) single(e);
}

// Runs `body.template operator()<V>(e)` on four elements or one.
#define FOR_ELEMENTS(p, body)                                                                       \
    for_elements((p).len, (p).aligned, [&](u32 e) { body(e, Int<4>()); }, [&](u32 e) { body(e, Int<1>()); })

template <int N> struct Int {
    static constexpr int value = N;
};

// Σ over the grid: true in all threads of the last block, with the sum.
__device__ __forceinline__ bool grid_sum(const Update& p, double own, double& sum) {
    __shared__ double scratch[32];
    own = block_sum(own, scratch);
    if (threadIdx.x == 0) p.partials[blockIdx.x] = own;
    if (!last_block(p.ticket, gridDim.x)) return false;
    double mine = 0.0;
    for (u32 b = threadIdx.x; b < gridDim.x; b += blockDim.x) mine += __ldcg(p.partials + b);
    sum = block_sum(mine, scratch);
    return true;
}

// result = Σ x·y
extern "C" __global__ void __launch_bounds__(THREADS) update_dot(const Update p) {
    BEGIN(p);
    const float *x = at(p.x), *y = at(p.y);
    double own = 0.0;
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        const Lanes<V> a = load<V>(x + e), b = load<V>(y + e);
#pragma unroll
        for (int i = 0; i < V; ++i) own += (double)a[i] * (double)b[i];
    };
    FOR_ELEMENTS(p, body);
    double sum;
    if (grid_sum(p, own, sum) && threadIdx.x == 0) *p.result = sum;
}

// result = numerator/√norm as a float, or otherwise where that is zero.
extern "C" __global__ void __launch_bounds__(32) update_over_norm(const Update p) {
    BEGIN(p);
    if (threadIdx.x == 0) *p.result = *p.norm > 0.0 ? (double)(float)(p.numerator / sqrt(*p.norm)) : p.otherwise;
}

// y += rate·x
extern "C" __global__ void __launch_bounds__(THREADS) update_axpy(const Update p) {
    BEGIN(p);
    const float* x = at(p.x);
    float* y = at(p.y);
    const float factor = rate(p);
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        const Lanes<V> a = load<V>(x + e);
        Lanes<V> b = load<V>(y + e);
#pragma unroll
        for (int i = 0; i < V; ++i) b[i] += factor * a[i];
        store(y + e, b);
    };
    FOR_ELEMENTS(p, body);
}

// x /= √norm
extern "C" __global__ void __launch_bounds__(THREADS) update_normalise(const Update p) {
    BEGIN(p);
    float* x = at(p.x);
    const float length = (float)sqrt(*p.norm);
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        Lanes<V> a = load<V>(x + e);
#pragma unroll
        for (int i = 0; i < V; ++i) a[i] /= length;
        store(x + e, a);
    };
    FOR_ELEMENTS(p, body);
}

// x ← y, where norm is not zero.
extern "C" __global__ void __launch_bounds__(THREADS) update_replace(const Update p) {
    BEGIN(p);
    if (*p.norm == 0.0) return;
    float* x = at(p.x);
    const float* y = at(p.y);
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        store(x + e, load<V>(y + e));
    };
    FOR_ELEMENTS(p, body);
}

// x ← (y − z)/(2·rate), or zero where rate is: a central difference with nothing between its sides.
extern "C" __global__ void __launch_bounds__(THREADS) update_difference(const Update p) {
    BEGIN(p);
    float* x = at(p.x);
    const float *up = at(p.y), *down = at(p.z);
    const float apart = 2.0f * rate(p);
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        const Lanes<V> a = load<V>(up + e), b = load<V>(down + e);
        Lanes<V> d;
#pragma unroll
        for (int i = 0; i < V; ++i) d[i] = apart == 0.0f ? 0.0f : (a[i] - b[i]) / apart;
        store(x + e, d);
    };
    FOR_ELEMENTS(p, body);
}

// x: θ, y: b, z: g; *norm: ‖g‖²
extern "C" __global__ void __launch_bounds__(THREADS) update_sgd(const Update p) {
    BEGIN(p);
    float *theta = at(p.x), *buffer = at(p.y);
    const float* gradient = at(p.z);
    const float clip = p.clip > 0.0f ? (float)fmin((double)p.clip / (sqrt(*p.norm) + 1e-6), 1.0) : 1.0f;
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        const Lanes<V> g = load<V>(gradient + e);
        Lanes<V> t = load<V>(theta + e), b = load<V>(buffer + e);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            b[i] = p.momentum * b[i] + (clip * g[i] + p.weight_decay * t[i]);
            t[i] -= p.rate * b[i];
        }
        store(buffer + e, b);
        store(theta + e, t);
    };
    FOR_ELEMENTS(p, body);
}

// x ← θ − rate·(μ·b + g + decay·θ), θ: y, g: z, b: w: an SGD step that leaves θ alone.
extern "C" __global__ void __launch_bounds__(THREADS) update_unrolled(const Update p) {
    BEGIN(p);
    float* moved = at(p.x);
    const float *theta = at(p.y), *gradient = at(p.z), *buffer = at(p.w);
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        const Lanes<V> g = load<V>(gradient + e), b = load<V>(buffer + e);
        Lanes<V> t = load<V>(theta + e);
#pragma unroll
        for (int i = 0; i < V; ++i)
            t[i] -= p.rate * (p.momentum * b[i] + g[i] + p.weight_decay * t[i]);
        store(moved + e, t);
    };
    FOR_ELEMENTS(p, body);
}

// p ← v, result[0] = ‖v‖; v: x, p: y.
extern "C" __global__ void __launch_bounds__(THREADS) update_series_begin(const Update p) {
    BEGIN(p);
    const float* v = at(p.x);
    float* sum = at(p.y);
    double own = 0.0;
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        const Lanes<V> a = load<V>(v + e);
#pragma unroll
        for (int i = 0; i < V; ++i) own += (double)a[i] * (double)a[i];
        store(sum + e, a);
    };
    FOR_ELEMENTS(p, body);
    double squares;
    if (grid_sum(p, own, squares) && threadIdx.x == 0) {
        p.result[0] = sqrt(squares);
        *p.stopped = 0;
    }
}

// v ← v − γ·h, p ← p + v, result[k] = ‖v‖; v: x, p: y, h: z. Where ‖v‖ grew and the guard is on, the
// series stops here: later terms leave v and p as they are, and `update_series_end` takes v from p.
extern "C" __global__ void __launch_bounds__(THREADS) update_series_term(const Update p) {
    BEGIN(p);
    if (*p.stopped) return;
    float *v = at(p.x), *sum = at(p.y);
    const float* h = at(p.z);
    const float gamma = rate(p);
    double own = 0.0;
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        const Lanes<V> c = load<V>(h + e);
        Lanes<V> a = load<V>(v + e), b = load<V>(sum + e);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            a[i] -= gamma * c[i];
            b[i] += a[i];
            own += (double)a[i] * (double)a[i];
        }
        store(v + e, a);
        store(sum + e, b);
    };
    FOR_ELEMENTS(p, body);
    double squares;
    if (grid_sum(p, own, squares) && threadIdx.x == 0) {
        const double norm = sqrt(squares);
        p.result[p.term] = norm;
        if (p.guard && norm > p.result[p.term - 1]) *p.stopped = p.term;
    }
}

// If the series stopped: p ← p − v, which drops the term that grew; v: x, p: y.
extern "C" __global__ void __launch_bounds__(THREADS) update_series_end(const Update p) {
    BEGIN(p);
    if (!*p.stopped) return;
    const float* v = at(p.x);
    float* sum = at(p.y);
    const auto body = [&](u32 e, auto n) {
        constexpr int V = decltype(n)::value;
        const Lanes<V> a = load<V>(v + e);
        Lanes<V> b = load<V>(sum + e);
#pragma unroll
        for (int i = 0; i < V; ++i) b[i] -= a[i];
        store(sum + e, b);
    };
    FOR_ELEMENTS(p, body);
}

struct AdamStep {
    Header header;
    Floats theta, gradient, m, v;
    double lr, beta1, beta2, epsilon, weight_decay;
    double correct1, correct2; // 1 − βᵗ
    u32 len;
    u32 group; // neighbours that share a second moment; divides len
};
LAYOUT(AdamStep, 144);

// Kingma & Ba 2015, algorithm 1, with L2 decay in the gradient, as PyTorch has it. α has a few hundred
// elements: exactness costs nothing, so all of it is double, as on the CPU. A thread takes a group.
extern "C" __global__ void __launch_bounds__(THREADS) update_adam(const AdamStep p) {
    BEGIN(p);
    float *theta = at(p.theta), *m = at(p.m), *v = at(p.v);
    const float* gradient = at(p.gradient);
    const u32 step = gridDim.x * blockDim.x * p.group;
    for (u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * p.group; first < p.len; first += step) {
        double square = 0.0;
        for (u32 e = first; e < first + p.group; ++e) {
            const double g = (double)gradient[e] + p.weight_decay * (double)theta[e];
            square += g * g;
        }
        square /= (double)p.group;
        for (u32 e = first; e < first + p.group; ++e) {
            const double g = (double)gradient[e] + p.weight_decay * (double)theta[e];
            m[e] = (float)(p.beta1 * (double)m[e] + (1.0 - p.beta1) * g);
            v[e] = (float)(p.beta2 * (double)v[e] + (1.0 - p.beta2) * square);
            const double denominator = sqrt((double)v[e] / p.correct2) + p.epsilon;
            theta[e] = (float)((double)theta[e] - p.lr * ((double)m[e] / p.correct1) / denominator);
        }
    }
}
