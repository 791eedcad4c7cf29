// Channel shuffle: channels of K groups, dealt out in turn.
//
//   y[i·K + g] = x[g·C/K + i]      x̄[g·C/K + i] += ȳ[i·K + g]      and ẏ, x̄˙ likewise
//
// ROOFLINE. A copy: one load and one store an element, no FLOP; bound by memory. A thread takes one element in
// the order of what is written, so stores are whole sectors; what a warp loads lies within a few pixels,
// whose sectors it uses whole.
//
// Definitions: STORAGE.
#include "common.cuh"

struct Shuffle {
    Header header;
    Pixels from, to;
    u32 pixels, channels, groups;
    u32 adds; // x̄ has a value already
};
LAYOUT(Shuffle, 64);

// BACK: from y's channels to x's.
template <bool BACK> __device__ __forceinline__ void shuffle(const Shuffle& p) {
    const u64 element = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u32 pixel = (u32)(element / p.channels), channel = (u32)(element % p.channels);
    if (pixel >= p.pixels) return;
    const u32 size = p.channels / p.groups;
    const u32 source = BACK ? channel % size * p.groups + channel / size : channel % p.groups * size + channel / p.groups;
    storage* to = at(p.to, pixel) + channel;
    Lanes<1> value = load<1>(at(p.from, pixel) + source);
    if (p.adds) value[0] += load<1>(to)[0];
    store<1>(to, value);
}

extern "C" __global__ void shuffle_forward(const Shuffle p) {
    BEGIN(p);
    shuffle<false>(p);
}

extern "C" __global__ void shuffle_tangent(const Shuffle p) {
    BEGIN(p);
    shuffle<false>(p);
}

extern "C" __global__ void shuffle_backward(const Shuffle p) {
    BEGIN(p);
    shuffle<true>(p);
}

extern "C" __global__ void shuffle_tangent_backward(const Shuffle p) {
    BEGIN(p);
    shuffle<true>(p);
}
