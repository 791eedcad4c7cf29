// Dropout: elements are dropped with probability p, the others scaled by 1/(1 − p).
//
//   y = m ∘ x      x̄ += m ∘ ȳ      and ẏ, x̄˙ likewise      m: 0 with probability p, else 1/(1 − p)
//
// The mask is never stored: each pass draws it again, the same bits as on the CPU. What is drawn lies in device
// memory, so that a captured launch follows it; without a draw the op is a copy.
//
// ROOFLINE. A load and a store an element, and a Philox block (some 60 integer instructions) for four of them: bound by
// memory in f32 on every supported GPU. A thread takes the four neighbours of a block, so that none is drawn
// twice; neighbouring threads take neighbouring quads, and whole sectors are used.
//
// Definitions: STORAGE, VECTOR (elements of an access: 4 where a quad lies within a pixel).
#include "philox.cuh"

// What is dropped; `Draw` of `dropout/cuda.rs`.
struct Draw {
    u32 key0, key1;
    u64 stream; // of entry 0
    float rate; // 0: nothing is dropped
    float kept; // 1/(1 − rate)
};
LAYOUT(Draw, 24);

struct Dropout {
    Header header;
    Pixels from, to;
    const Draw* draw;
    u64 entry;
    u32 elements, channels;
    u32 adds; // x̄ has a value already
    u32 unused;
};
LAYOUT(Dropout, 80);

__device__ __forceinline__ void dropout(const Dropout& p) {
    const u32 first = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (first >= p.elements) return;
    Lanes<4> mask = splat<4>(1.0f);
    if (p.draw->rate > 0.0f) {
        const Words words = philox(p.draw->key0, p.draw->key1, first / 4, p.draw->stream + p.entry);
        const u32 each[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) mask[i] = uniform(each[i]) <= p.draw->rate ? 0.0f : p.draw->kept;
    }
#pragma unroll
    for (u32 e = 0; e < 4; e += VECTOR) {
        if (first + e >= p.elements) break;
        const u32 pixel = (first + e) / p.channels, channel = (first + e) % p.channels;
        Lanes<VECTOR> x = load<VECTOR>(at(p.from, pixel) + channel);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) x[i] = mul(mask[e + i], x[i]);
        store_or_add<VECTOR>(at(p.to, pixel) + channel, x, p.adds);
    }
}

extern "C" __global__ void dropout_forward(const Dropout p) {
    BEGIN(p);
    dropout(p);
}

extern "C" __global__ void dropout_tangent(const Dropout p) {
    BEGIN(p);
    dropout(p);
}

extern "C" __global__ void dropout_backward(const Dropout p) {
    BEGIN(p);
    dropout(p);
}

extern "C" __global__ void dropout_tangent_backward(const Dropout p) {
    BEGIN(p);
    dropout(p);
}
