// Classifier: optional relu → global average pool → linear → mean softmax cross entropy.
// `src/ops/classifier/mod.rs` has the maths of the passes; the tangent pass has no launch, because the
// classifier has no output and tangent_backward makes l̇ from the same inputs.
//
// ROOFLINE. Features f [N, H, W, F] are read once, and in backward f̄ is written: 2 FLOPs an element of
// them, bound by memory. All else is F·(classes + N) numbers.
//
// LAYOUT. A block an image: it pools, multiplies by W and takes the softmax in shared memory, and in
// backward writes f̄ while the image's features are still in L2. What sums over images — the loss in
// forward — is added in order by the last block; W̄ = gᵀl̄ wants more threads than a block has, and is a
// second launch (`classifier_gradient`) over the rows g and l̄ that the first leaves in the workspace.
// Sums over features and images are double, as on the CPU.
//
// Definitions: STORAGE; VECTOR of the features.
#include "common.cuh"

#define THREADS 256

// `DeviceOutcome` of `ops/cuda.rs`.
struct Outcome {
    double loss;
    u32 top1, top5;
};
LAYOUT(Outcome, 16);

struct Classifier {
    Header header;
    Pixels features;
    Pixels features_tangent; // in tangent_backward; null for the images
    Pixels adjoint;          // f̄, or f̄˙; null for the images
    Floats weight;           // [F, classes]
    Floats weight_tangent;
    Floats bias;
    Floats bias_tangent;
    Floats weight_gradient;
    Floats bias_gradient;
    Floats logits; // [N, classes]
    // Forward: an Outcome an image. Else g [N, F], l̄ [N, classes], and their tangents.
    Floats rows;
    Tickets tickets;
    const u32* labels;
    Outcome* outcome; // one a member
    u32 images, pixels, channels, classes;
    u32 relu, adds;
    u32 unused[2];
};
LAYOUT(Classifier, 256);

extern __shared__ float4 memory[];

// Shared memory: THREADS doubles, VECTOR·THREADS floats, g, ġ, logits (or l̄), l̇ (or l̄˙).
struct Rows {
    double* sums;
    float *scratch, *pooled, *pooled_dot, *logits, *logits_dot;
};

__device__ __forceinline__ Rows rows(const Classifier& p) {
    Rows r;
    r.sums = reinterpret_cast<double*>(memory);
    r.scratch = reinterpret_cast<float*>(r.sums + THREADS);
    r.pooled = r.scratch + VECTOR * THREADS;
    r.pooled_dot = r.pooled + p.channels;
    r.logits = r.pooled_dot + p.channels;
    r.logits_dot = r.logits + p.classes;
    return r;
}

// Where in the workspace g, l̄, ġ, l̄˙ begin.
__device__ __forceinline__ float* saved(const Classifier& p, u32 which) {
    const u32 f = p.images * p.channels, k = p.images * p.classes;
    return at(p.rows) + (which / 2) * (f + k) + (which % 2) * f;
}

// Means over the image's pixels: of relu(f), or of ḟ where f is open. Ends with a barrier.
template <bool DOT> __device__ __forceinline__ void pool(const Classifier& p, u32 image, float* scratch, float* to) {
    const u32 groups = p.channels / VECTOR, wide = min(groups, THREADS), deep = THREADS / wide;
    const u32 column = threadIdx.x % wide, row = threadIdx.x / wide;
    const float share = 1.0f / p.pixels;
    for (u32 first = 0; first < groups; first += wide) {
        const u32 c = (first + column) * VECTOR;
        Lanes<VECTOR> sum = splat<VECTOR>(0.0f);
        if (first + column < groups && row < deep) {
            for (u32 i = row; i < p.pixels; i += deep) {
                const Lanes<VECTOR> f = load<VECTOR>(at(p.features, image * p.pixels + i) + c);
                Lanes<VECTOR> x = f;
                if constexpr (DOT) x = load<VECTOR>(at(p.features_tangent, image * p.pixels + i) + c);
#pragma unroll
                for (int l = 0; l < VECTOR; ++l) sum[l] += p.relu && f[l] <= 0.0f ? 0.0f : x[l];
            }
        }
        __syncthreads();
        store<VECTOR>(scratch + threadIdx.x * VECTOR, sum);
        __syncthreads();
        if (row == 0 && first + column < groups) {
            // Whole vectors, also of shared memory: single words VECTOR apart would share banks.
            Lanes<VECTOR> total = splat<VECTOR>(0.0f);
            for (u32 r = 0; r < deep; ++r) {
                const Lanes<VECTOR> part = load<VECTOR>(scratch + (r * wide + column) * VECTOR);
#pragma unroll
                for (int l = 0; l < VECTOR; ++l) total[l] += part[l];
            }
#pragma unroll
            for (int l = 0; l < VECTOR; ++l) total[l] *= share;
            store<VECTOR>(to + c, total);
        }
    }
    __syncthreads();
}

// each(k, Σ_f g[f]·W[f, k] (+ ġ[f]·…)) in double: threads share the features of a class. Neighbouring
// threads read neighbouring elements of W. Ends with a barrier.
template <class Term, class Each>
__device__ __forceinline__ void linear(const Classifier& p, double* sums, Term term, Each each) {
    const u32 wide = min(p.classes, THREADS), deep = THREADS / wide;
    const u32 column = threadIdx.x % wide, row = threadIdx.x / wide;
    for (u32 first = 0; first < p.classes; first += wide) {
        const u32 k = first + column;
        double sum = 0.0;
        if (k < p.classes && row < deep)
            for (u32 f = row; f < p.channels; f += deep) sum += term(f, f * p.classes + k);
        __syncthreads();
        sums[threadIdx.x] = sum;
        __syncthreads();
        if (row == 0 && k < p.classes) {
            for (u32 r = 1; r < deep; ++r) sum += sums[r * wide + column];
            each(k, sum);
        }
    }
    __syncthreads();
}

// log Σ exp l of the logits in shared memory, in every thread.
__device__ __forceinline__ double log_sum(const Classifier& p, const float* logits, double* sums) {
    float max = __uint_as_float(0xff800000u);
    for (u32 k = 0; k < p.classes; ++k) max = fmaxf(max, logits[k]);
    double sum = 0.0;
    for (u32 k = threadIdx.x; k < p.classes; k += THREADS) sum += exp((double)(logits[k] - max));
    return log(block_sum(sum, sums)) + (double)max;
}

extern "C" __global__ void __launch_bounds__(THREADS) classifier_forward(const Classifier p) {
    BEGIN(p);
    const Rows r = rows(p);
    const u32 image = blockIdx.x;
    pool<false>(p, image, r.scratch, r.pooled);
    const float *weight = at(p.weight), *bias = at(p.bias);
    float* logits = at(p.logits) + image * p.classes;
    linear(
        p, r.sums, [&](u32 f, u32 e) { return (double)r.pooled[f] * (double)weight[e]; },
        [&](u32 k, double sum) { logits[k] = r.logits[k] = (float)(sum + (double)bias[k]); });
    const double log_total = log_sum(p, r.logits, r.sums);
    Outcome* outcomes = reinterpret_cast<Outcome*>(at(p.rows));
    // Rank by strictly greater logits; a NaN anywhere counts as a miss.
    const float own = r.logits[p.labels[image]];
    double above = 0.0, wrong = 0.0;
    for (u32 k = threadIdx.x; k < p.classes; k += THREADS) {
        above += r.logits[k] > own ? 1.0 : 0.0;
        wrong += isfinite(r.logits[k]) ? 0.0 : 1.0;
    }
    above = block_sum(above, r.sums);
    wrong = block_sum(wrong, r.sums);
    if (threadIdx.x == 0) {
        outcomes[image].loss = (log_total - (double)own) / p.images;
        outcomes[image].top1 = wrong == 0.0 && above == 0.0;
        outcomes[image].top5 = wrong == 0.0 && above < 5.0;
    }
    if (!last_block(at(p.tickets), gridDim.x)) return;
    double loss = 0.0, top1 = 0.0, top5 = 0.0;
    for (u32 n = threadIdx.x; n < p.images; n += THREADS) {
        loss += __ldcg(&outcomes[n].loss);
        top1 += __ldcg(&outcomes[n].top1);
        top5 += __ldcg(&outcomes[n].top5);
    }
    loss = block_sum(loss, r.sums);
    top1 = block_sum(top1, r.sums);
    top5 = block_sum(top5, r.sums);
    if (threadIdx.x == 0) p.outcome[blockIdx.z] = {loss, (u32)top1, (u32)top5};
}

// backward (f̄, and the rows of W̄'s product) and tangent_backward (of their tangents).
template <bool DOT> __device__ __forceinline__ void adjoints(const Classifier& p) {
    const Rows r = rows(p);
    const u32 image = blockIdx.x;
    pool<false>(p, image, r.scratch, r.pooled);
    const float *weight = at(p.weight), *weight_dot = at(p.weight_tangent);
    if constexpr (DOT) {
        if (p.features_tangent.data) {
            pool<true>(p, image, r.scratch, r.pooled_dot);
        } else {
            for (u32 f = threadIdx.x; f < p.channels; f += THREADS) r.pooled_dot[f] = 0.0f;
            __syncthreads();
        }
    }
    const float* logits = at(p.logits) + image * p.classes;
    for (u32 k = threadIdx.x; k < p.classes; k += THREADS) r.logits[k] = logits[k];
    __syncthreads();
    const double log_total = log_sum(p, r.logits, r.sums);
    if constexpr (DOT) {
        const float* bias_dot = at(p.bias_tangent);
        linear(
            p, r.sums,
            [&](u32 f, u32 e) {
                return (double)r.pooled[f] * (double)weight_dot[e] + (double)r.pooled_dot[f] * (double)weight[e];
            },
            [&](u32 k, double sum) { r.logits_dot[k] = (float)(sum + (double)bias_dot[k]); });
        double mean = 0.0;
        for (u32 k = threadIdx.x; k < p.classes; k += THREADS)
            mean += exp((double)r.logits[k] - log_total) * (double)r.logits_dot[k];
        mean = block_sum(mean, r.sums);
        __syncthreads();
        for (u32 k = threadIdx.x; k < p.classes; k += THREADS) {
            const double probability = exp((double)r.logits[k] - log_total);
            r.logits_dot[k] = (float)(probability * ((double)r.logits_dot[k] - mean) / p.images);
        }
    }
    const u32 label = p.labels[image];
    for (u32 k = threadIdx.x; k < p.classes; k += THREADS)
        r.logits[k] = (float)((exp((double)r.logits[k] - log_total) - (k == label ? 1.0 : 0.0)) / p.images);
    __syncthreads();
    for (u32 f = threadIdx.x; f < p.channels; f += THREADS) {
        saved(p, 0)[image * p.channels + f] = r.pooled[f];
        if constexpr (DOT) saved(p, 2)[image * p.channels + f] = r.pooled_dot[f];
    }
    for (u32 k = threadIdx.x; k < p.classes; k += THREADS) {
        saved(p, 1)[image * p.classes + k] = r.logits[k];
        if constexpr (DOT) saved(p, 3)[image * p.classes + k] = r.logits_dot[k];
    }
    if (!p.adjoint.data) return;
    __syncthreads();
    // l̄·Wᵀ/(HW) (or l̄˙·Wᵀ + l̄·Ẇᵀ), over g: a warp a feature, so that W is read along its rows.
    const float share = 1.0f / p.pixels;
    for (u32 f = threadIdx.x / 32; f < p.channels; f += THREADS / 32) {
        float sum = 0.0f;
        for (u32 k = threadIdx.x % 32; k < p.classes; k += 32) {
            const u32 e = f * p.classes + k;
            if constexpr (DOT)
                sum = fmaf(r.logits_dot[k], weight[e], fmaf(r.logits[k], weight_dot[e], sum));
            else
                sum = fmaf(r.logits[k], weight[e], sum);
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) r.pooled[f] = sum * share;
    }
    __syncthreads();
    const u32 groups = p.channels / VECTOR;
    for (u32 e = threadIdx.x; e < p.pixels * groups; e += THREADS) {
        const u32 pixel = image * p.pixels + e / groups, c = e % groups * VECTOR;
        const Lanes<VECTOR> f = load<VECTOR>(at(p.features, pixel) + c);
        Lanes<VECTOR> bar = load<VECTOR>(r.pooled + c);
#pragma unroll
        for (int l = 0; l < VECTOR; ++l) bar[l] = p.relu && f[l] <= 0.0f ? 0.0f : bar[l];
        store_or_add<VECTOR>(at(p.adjoint, pixel) + c, bar, p.adds);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) classifier_backward(const Classifier p) {
    BEGIN(p);
    adjoints<false>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) classifier_tangent_backward(const Classifier p) {
    BEGIN(p);
    adjoints<true>(p);
}

// W̄ = gᵀl̄ and b̄ = Σ l̄ (or W̄˙ = ġᵀl̄ + gᵀl̄˙ and b̄˙ = Σ l̄˙): a thread an element, images in order.
template <bool DOT> __device__ __forceinline__ void gradient(const Classifier& p) {
    const u32 e = blockIdx.x * THREADS + threadIdx.x, weights = p.channels * p.classes;
    if (e >= weights + p.classes) return;
    const float *pooled = saved(p, 0), *bar = saved(p, 1), *pooled_dot = saved(p, 2), *bar_dot = saved(p, 3);
    const u32 f = e / p.classes, k = e % p.classes;
    double sum = 0.0;
    for (u32 n = 0; n < p.images; ++n) {
        const u32 at_f = n * p.channels + f, at_k = n * p.classes + k;
        if (e >= weights) {
            sum += (double)(DOT ? bar_dot : bar)[at_k];
        } else {
            sum += (double)pooled[at_f] * (double)(DOT ? bar_dot : bar)[at_k];
            if constexpr (DOT) sum += (double)pooled_dot[at_f] * (double)bar[at_k];
        }
    }
    if (e >= weights) at(p.bias_gradient)[k] = (float)sum;
    else at(p.weight_gradient)[e] = (float)sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) classifier_gradient(const Classifier p) {
    BEGIN(p);
    gradient<false>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) classifier_gradient_tangent(const Classifier p) {
    BEGIN(p);
    gradient<true>(p);
}
