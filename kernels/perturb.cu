// A generation of the evolution strategy: its population, its recombination, its choice.
//
//   member i: ω + σ·ε_i        ω₀ = ω + Σ w_i·ε_i        w_i = −η/(nσ)·(L_i − mean L)
//   ω ← argmin over { L(ω), L(ω₀), L(ω + σ·ε_1) … L(ω + σ·ε_n) }
//
// ε is never stored: a thread draws the Philox block of its four elements in registers, for every
// member in turn, so ω is read once for the whole population and each member is written once: 4·(n + 1)
// bytes an element, against some 60 integer and 60 float instructions a normal of each member. One
// launch each whatever n is. Losses are read where the forward passes left them, and the choice is
// made where they are.
//
// Definitions: STORAGE.
#include "philox.cuh"

#define THREADS 256

// What a forward pass leaves for each member.
struct Outcome {
    double loss;
    u32 top1, top5;
};
LAYOUT(Outcome, 16);

struct Generation {
    Header header;
    float* theta;            // (ω, α)
    float* population;       // [n + 1, stride]: member 0 is θ itself
    float* recombined;       // (ω₀, α)
    const Outcome* outcomes; // [n + 2]: of ω, the members, ω₀
    u32* choice;             // what was kept: 0 ω, i member i (from 1), n + 1 ω₀
    u64 first_stream;        // of member 1
    u32 key0, key1;
    u32 stride;              // elements from a member to the next, a multiple of 4
    u32 len;                 // of θ
    u32 omega;               // of ω
    u32 members;             // n
    float sigma;
    u32 antithetic;          // members 2i + 2 take −ε of member 2i + 1
    double factor;           // η/(nσ)
    u32 literal;             // the weights as printed: +factor·L_i
    u32 unused;
};
LAYOUT(Generation, 112);

// Stream and sign of member m, m from 0.
__device__ __forceinline__ u64 stream_of(const Generation& p, u32 m, float& sign) {
    const bool odd = p.antithetic && (m & 1);
    sign = odd ? -1.0f : 1.0f;
    return p.first_stream + (m - odd);
}

__device__ __forceinline__ Lanes<4> read4(const float* from, u32 e, u32 len) {
    if (e + 4 <= len) return load<4>(from + e);
    Lanes<4> out;
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = e + i < len ? from[e + i] : 0.0f;
    return out;
}

__device__ __forceinline__ void write4(float* to, u32 e, u32 len, const Lanes<4>& x) {
    if (e + 4 <= len) {
        store(to + e, x);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (e + i < len) to[e + i] = x[i];
}

// to += factor·ε on the elements of ω.
__device__ __forceinline__ void
add_noise(const Generation& p, Lanes<4>& to, u32 e, u64 stream, float factor) {
    const Lanes<4> epsilon = normals(p.key0, p.key1, e / 4, stream);
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (e + i < p.omega) to[i] = add(to[i], mul(factor, epsilon[i]));
}

extern "C" __global__ void __launch_bounds__(THREADS) perturb_population(const Generation p) {
    BEGIN(p);
    for (u32 e = 4 * (blockIdx.x * blockDim.x + threadIdx.x); e < p.len; e += 4 * gridDim.x * blockDim.x) {
        const Lanes<4> theta = read4(p.theta, e, p.len);
        write4(p.population, e, p.len, theta);
        for (u32 m = 0; m < p.members; ++m) {
            Lanes<4> member = theta;
            float sign;
            const u64 stream = stream_of(p, m, sign);
            if (e < p.omega) add_noise(p, member, e, stream, mul(p.sigma, sign));
            write4(p.population + (u64)(m + 1) * p.stride, e, p.len, member);
        }
    }
}

// w_i of each member, into shared memory. Without a ranking, where a loss is no number, all are 0.
__device__ __forceinline__ void member_weights(const Generation& p, float* weights) {
    double sum = 0.0;
    bool finite = true;
    for (u32 m = 0; m < p.members; ++m) {
        const double loss = p.outcomes[m + 1].loss;
        sum += loss;
        finite = finite && isfinite(loss);
    }
    const double mean = sum / p.members;
    for (u32 m = threadIdx.x; m < p.members; m += blockDim.x) {
        const double loss = p.outcomes[m + 1].loss;
        const double weight = p.literal ? p.factor * loss : -p.factor * (loss - mean);
        weights[m] = finite ? (float)weight : 0.0f;
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS) perturb_recombine(const Generation p) {
    BEGIN(p);
    extern __shared__ float weights[];
    member_weights(p, weights);
    for (u32 e = 4 * (blockIdx.x * blockDim.x + threadIdx.x); e < p.len; e += 4 * gridDim.x * blockDim.x) {
        Lanes<4> theta = read4(p.theta, e, p.len);
        for (u32 m = 0; m < p.members && e < p.omega; ++m) {
            float sign;
            const u64 stream = stream_of(p, m, sign);
            add_noise(p, theta, e, stream, mul(weights[m], sign));
        }
        write4(p.recombined, e, p.len, theta);
    }
}

// The best: ties go to ω, then ω₀, then the lowest member; what is no number is never chosen over one.
__device__ __forceinline__ u32 best(const Generation& p) {
    u32 choice = 0;
    double least = p.outcomes[0].loss;
    for (u32 k = 0; k <= p.members; ++k) {
        const u32 candidate = k == 0 ? p.members + 1 : k;
        const double loss = p.outcomes[candidate].loss;
        if (loss < least || (isnan(least) && !isnan(loss))) least = loss, choice = candidate;
    }
    return choice;
}

extern "C" __global__ void __launch_bounds__(THREADS) perturb_select(const Generation p) {
    BEGIN(p);
    const u32 choice = best(p);
    if (blockIdx.x == 0 && threadIdx.x == 0) *p.choice = choice;
    if (choice == 0) return;
    const float* from = choice > p.members ? p.recombined : p.population + (u64)choice * p.stride;
    for (u32 e = 4 * (blockIdx.x * blockDim.x + threadIdx.x); e < p.omega; e += 4 * gridDim.x * blockDim.x)
        write4(p.theta, e, p.omega, read4(from, e, p.omega));
}
