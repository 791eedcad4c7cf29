// Conventions of all kernels, and the pieces they share.
//
// FILES. One `<op>.cu` an op holds that op's four passes; `.cuh` files are shared pieces. `build.rs`
// flattens the `#include "…"` lines and embeds the text; nothing else is included, so NVRTC needs no
// headers. `src/ops/<op>/cuda.rs` beside the op's maths encodes the launches.
//
// SPECIALISATION. What is fixed for a launch and worth unrolling comes as a definition (`-D KERNEL=5`);
// everything else comes in one struct by value. A file states the definitions it needs, and gives
// none of them a default. Every entry is `extern "C" __global__`, named `<op>_<pass>`, and takes one
// struct that begins with a `Header`; `BEGIN(p)` is its first line. The struct is declared here and in
// `cuda.rs` field by field (`#[repr(C)]`, `bytemuck::Pod`); LAYOUT fixes its size on this side, a
// `layout_test!` on the other. At most 4096 bytes: longer lists go into a device table (`Encoder::table`).
//
// MEMORY. Activations are NHWC in `storage` (float, or bf16 with -D STORAGE=bf16) and are reached
// through `Pixels`; θ, op weights, moments, workspace, logits are float and are reached through
// `Floats`. All arithmetic is float; sums over a batch end in double. The workspace holds garbage
// when a launch begins and is the launch's alone. VECTOR (4, 2 or 1; `Encoder::vector`) divides the
// channels, the pixel stride and the first channel of every activation a launch touches, so
// `load<VECTOR>` is one aligned access of 16, 8 or 4 bytes; neighbouring threads take neighbouring
// channels, then neighbouring pixels, so that whole sectors are used. Moments, workspace, op weights
// and tables begin at 16 bytes; a parameter in θ begins anywhere (4 bytes), so weights are loaded one
// by one, best once a block into shared memory or registers.
//
// MEMBERS. The forward pass of a population is one launch: blockIdx.z is the member, and every buffer
// knows its distance from one member's copy to the next (0 where all share it). Kernels therefore use
// a buffer only through `at(…)`. With one member blockIdx.z is 0.
//
// REDUCTIONS. No floating-point atomics. A block reduces its share in a fixed order and writes partial
// sums to the workspace; the block that finishes last (`last_block`, an integer ticket) combines all
// partials in block order, in double. Which block is last does not change the sum, so the bits are
// the same in every run; and no second launch is needed. The grid is a function of the shapes alone.
//
// ADJOINTS THAT ARE ADDED. Where several ops contribute to one adjoint, the first of a pass writes and
// the others add: `Encoder::adds_to` tells which at recording time; the kernel gets a flag.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Brain floating point: the upper half of a float. Loads are exact; stores round to nearest even.
struct bf16 {
    u16 bits;
};

#ifndef STORAGE
#error "STORAGE is float or bf16"
#endif
typedef STORAGE storage;

#define LAYOUT(type, size) static_assert(sizeof(type) == size, #type " as in Rust")

// Where a launch announces itself, so that a fault can be given its kernel's name.
struct Header {
    volatile u32* progress; // one word of host memory
    u32 launch;             // what to write there
    u32 unused;
};
LAYOUT(Header, 16);

#define BEGIN(p)                                                                                    \
    do {                                                                                            \
        if ((threadIdx.x | threadIdx.y | threadIdx.z | blockIdx.x | blockIdx.y | blockIdx.z) == 0)   \
            *(p).header.progress = (p).header.launch;                                               \
    } while (0)

// A planned NHWC activation [N, H, W, C], from its first channel; pixels are numbered (n·H + y)·W + x.
struct Pixels {
    storage* data;
    u32 stride; // elements from a pixel to the next: more than C in a channel slice
    u32 member; // elements from a member to the next
};
LAYOUT(Pixels, 16);

// Floats of θ, moments, op weights, workspace or logits.
struct Floats {
    float* data; // null where the op has none
    u32 member;  // elements from a member to the next
    u32 len;
};
LAYOUT(Floats, 16);

// Integer counters, zero between launches.
struct Tickets {
    u32* data;
    u32 member;
    u32 len;
};
LAYOUT(Tickets, 16);

__device__ __forceinline__ storage* at(const Pixels& p) {
    return p.data + (u64)blockIdx.z * p.member;
}
__device__ __forceinline__ float* at(const Floats& p) {
    return p.data + (u64)blockIdx.z * p.member;
}
__device__ __forceinline__ u32* at(const Tickets& p) {
    return p.data + (u64)blockIdx.z * p.member;
}
// Channel 0 of a pixel.
__device__ __forceinline__ storage* at(const Pixels& p, u32 pixel) {
    return at(p) + (u64)pixel * p.stride;
}

// Channels padded as in rows of moments: row 1 of a [2, padded(C)] table begins at padded(C).
__host__ __device__ constexpr u32 padded(u32 channels) {
    return (channels + 15) & ~15u;
}

// V neighbouring channels in registers.
template <int V> struct Lanes {
    float v[V];
    __device__ __forceinline__ float& operator[](int i) { return v[i]; }
    __device__ __forceinline__ float operator[](int i) const { return v[i]; }
};

template <int V> __device__ __forceinline__ Lanes<V> splat(float x) {
    Lanes<V> out;
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = x;
    return out;
}

__device__ __forceinline__ float widen(u32 bits) {
    return __uint_as_float(bits << 16);
}

// Two floats to two bf16, the first in the low half.
__device__ __forceinline__ u32 narrow(float low, float high) {
#if __CUDA_ARCH__ >= 800
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
#else
    // Before sm_80 there is no instruction, and the host refuses bf16 there.
    return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);
#endif
}

// V aligned elements.
template <int V> __device__ __forceinline__ Lanes<V> load(const float* from) {
    Lanes<V> out;
    if constexpr (V == 4) {
        const float4 x = *reinterpret_cast<const float4*>(from);
        out[0] = x.x, out[1] = x.y, out[2] = x.z, out[3] = x.w;
    } else if constexpr (V == 2) {
        const float2 x = *reinterpret_cast<const float2*>(from);
        out[0] = x.x, out[1] = x.y;
    } else {
        out[0] = *from;
    }
    return out;
}

template <int V> __device__ __forceinline__ Lanes<V> load(const bf16* from) {
    Lanes<V> out;
    if constexpr (V == 4) {
        const uint2 x = *reinterpret_cast<const uint2*>(from);
        out[0] = widen(x.x), out[1] = __uint_as_float(x.x & 0xffff0000u);
        out[2] = widen(x.y), out[3] = __uint_as_float(x.y & 0xffff0000u);
    } else if constexpr (V == 2) {
        const u32 x = *reinterpret_cast<const u32*>(from);
        out[0] = widen(x), out[1] = __uint_as_float(x & 0xffff0000u);
    } else {
        out[0] = widen(from->bits);
    }
    return out;
}

// As `load`, of memory that nothing writes while the launch runs. Such loads need not wait for stores
// that stand before them, so a loop may have many under way.
template <int V> __device__ __forceinline__ Lanes<V> fetch(const float* from) {
    Lanes<V> out;
    if constexpr (V == 4) {
        const float4 x = __ldg(reinterpret_cast<const float4*>(from));
        out[0] = x.x, out[1] = x.y, out[2] = x.z, out[3] = x.w;
    } else if constexpr (V == 2) {
        const float2 x = __ldg(reinterpret_cast<const float2*>(from));
        out[0] = x.x, out[1] = x.y;
    } else {
        out[0] = __ldg(from);
    }
    return out;
}

template <int V> __device__ __forceinline__ Lanes<V> fetch(const bf16* from) {
    Lanes<V> out;
    if constexpr (V == 4) {
        const uint2 x = __ldg(reinterpret_cast<const uint2*>(from));
        out[0] = widen(x.x), out[1] = __uint_as_float(x.x & 0xffff0000u);
        out[2] = widen(x.y), out[3] = __uint_as_float(x.y & 0xffff0000u);
    } else if constexpr (V == 2) {
        const u32 x = __ldg(reinterpret_cast<const u32*>(from));
        out[0] = widen(x), out[1] = __uint_as_float(x & 0xffff0000u);
    } else {
        out[0] = widen(__ldg(&from->bits));
    }
    return out;
}

template <int V> __device__ __forceinline__ void store(float* to, const Lanes<V>& x) {
    if constexpr (V == 4) {
        *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
    } else if constexpr (V == 2) {
        *reinterpret_cast<float2*>(to) = make_float2(x[0], x[1]);
    } else {
        *to = x[0];
    }
}

template <int V> __device__ __forceinline__ void store(bf16* to, const Lanes<V>& x) {
    if constexpr (V == 4) {
        *reinterpret_cast<uint2*>(to) = make_uint2(narrow(x[0], x[1]), narrow(x[2], x[3]));
    } else if constexpr (V == 2) {
        *reinterpret_cast<u32*>(to) = narrow(x[0], x[1]);
    } else {
        to->bits = (u16)narrow(x[0], 0.0f);
    }
}

// What a reader sees of a value that was stored: with bf16, the rounded one. Statistics are of that.
template <int V> __device__ __forceinline__ Lanes<V> as_stored(const Lanes<V>& x) {
    if constexpr (sizeof(storage) == 4) {
        return x;
    } else {
        Lanes<V> out;
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] = widen(narrow(x[i], 0.0f) & 0xffffu);
        return out;
    }
}

// Writes, or adds to what an earlier op of this pass wrote.
template <int V, class T>
__device__ __forceinline__ void store_or_add(T* to, Lanes<V> x, bool adds) {
    if (adds) {
        const Lanes<V> old = load<V>(to);
#pragma unroll
        for (int i = 0; i < V; ++i) x[i] += old[i];
    }
    store<V>(to, x);
}

// The sum over a warp, in every lane: a butterfly, so every lane adds in the same order.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

// The sum over a block of whole warps, one-dimensional, in every thread. `scratch` holds 32 doubles.
__device__ __forceinline__ double block_sum(double x, double* scratch) {
    x = warp_sum(x);
    __syncthreads(); // scratch may still be read from an earlier sum
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = x;
    __syncthreads();
    double sum = 0.0;
    for (u32 w = 0; w < blockDim.x >> 5; ++w) sum += scratch[w];
    return sum;
}

// True in all threads of the block that comes last to `ticket` out of `blocks`; all that the others
// wrote to memory before is then visible to it, and the ticket is zero again. Every thread calls it.
__device__ __forceinline__ bool last_block(u32* ticket, u32 blocks) {
    __shared__ u32 is_last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0)
        is_last = atomicInc(ticket, blocks - 1) == blocks - 1;
    __syncthreads();
    const bool last = is_last != 0;
    if (last) __threadfence();
    return last;
}

// For e < len: each(e, Σ_b partials[b·stride + e]) in double, b < blocks, by one one-dimensional block
// of a power of two of threads. Several threads share an element, each takes every so-manieth
// partial in order, and a tree over shared memory ends it. `scratch` holds blockDim.x doubles.
template <class Each>
__device__ __forceinline__ void
sum_partials(const float* partials, u32 blocks, u32 stride, u32 len, double* scratch, Each each) {
    u32 wide = 32; // threads on neighbouring elements: whole sectors
    while (wide < len && wide < blockDim.x) wide <<= 1;
    const u32 deep = blockDim.x / wide;
    const u32 column = threadIdx.x % wide, row = threadIdx.x / wide;
    for (u32 first = 0; first < len; first += wide) {
        const u32 e = first + column;
        double sum = 0.0;
        if (e < len)
            for (u32 b = row; b < blocks; b += deep) sum += __ldcg(partials + (u64)b * stride + e);
        __syncthreads();
        scratch[threadIdx.x] = sum;
        __syncthreads();
        for (u32 half = deep >> 1; half > 0; half >>= 1) {
            if (row < half) scratch[threadIdx.x] += scratch[threadIdx.x + half * wide];
            __syncthreads();
        }
        if (row == 0 && e < len) each(e, scratch[column]);
    }
    __syncthreads();
}
