// Philox4x32-10 (Salmon et al. 2011) and standard normals, bit for bit as src/device/random.rs has
// them: every f32 operation is a rounded one, in the same order, never contracted to a fused
// multiply-add.
#pragma once
#include "common.cuh"

struct Words {
    u32 x, y, z, w;
};

// The block of counter (index, stream).
__device__ __forceinline__ Words philox(u32 key0, u32 key1, u64 index, u64 stream) {
    Words c = {(u32)index, (u32)(index >> 32), (u32)stream, (u32)(stream >> 32)};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u32 low0 = 0xD2511F53u * c.x, high0 = __umulhi(0xD2511F53u, c.x);
        const u32 low1 = 0xCD9E8D57u * c.z, high1 = __umulhi(0xCD9E8D57u, c.z);
        c = {high1 ^ c.y ^ key0, low1, high0 ^ c.w ^ key1, low0};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return c;
}

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }

// Uniform in (0, 1]: (⌊x / 2⁸⌋ + 1) · 2⁻²⁴, exact.
__device__ __forceinline__ float uniform(u32 word) {
    return mul((float)(int)((word >> 8) + 1), 1.0f / 16777216.0f);
}

// ln x of a normal x in (0, 1]: Cephes' logf.
__device__ __forceinline__ float natural_log(float x) {
    const u32 sqrt_half = 0x3F3504F3u;
    const u32 shifted = __float_as_uint(x) - sqrt_half;
    const float exponent = (float)((int)shifted >> 23);
    const float f = sub(__uint_as_float((shifted & 0x007FFFFFu) + sqrt_half), 1.0f);
    const float z = mul(f, f);
    float y = sub(mul(7.0376836e-2f, f), 1.151461e-1f);
    y = add(mul(y, f), 1.1676999e-1f);
    y = sub(mul(y, f), 1.2420141e-1f);
    y = add(mul(y, f), 1.4249323e-1f);
    y = sub(mul(y, f), 1.6668058e-1f);
    y = add(mul(y, f), 2.0000714e-1f);
    y = sub(mul(y, f), 2.5e-1f);
    y = add(mul(y, f), 3.333333e-1f);
    y = mul(mul(y, f), z);
    y = add(y, mul(exponent, -2.1219444e-4f));
    y = sub(y, mul(0.5f, z));
    return add(add(f, y), mul(exponent, 0.6933594f));
}

// cos 2πu and sin 2πu of u = uniform(word): the nearest quarter turn is split off in integers.
__device__ __forceinline__ void cos_sin_turn(u32 word, float& cosine, float& sine) {
    const int turn = (int)(word >> 8) + 1;
    const int quadrant = (turn + (1 << 21)) >> 22;
    const int rest = turn - (quadrant << 22);
    const float x = mul((float)rest, 6.28318530717958647692f * (1.0f / 16777216.0f));
    const float z = mul(x, x);
    float s = add(mul(-1.9515296e-4f, z), 8.332161e-3f);
    s = sub(mul(s, z), 1.6666655e-1f);
    s = add(mul(mul(s, z), x), x);
    float c = sub(mul(2.4433157e-5f, z), 1.3887316e-3f);
    c = add(mul(c, z), 4.1666646e-2f);
    c = add(sub(mul(mul(c, z), z), mul(0.5f, z)), 1.0f);
    const bool swap = quadrant & 1;
    const u32 c_sign = (u32)((quadrant + 1) & 2) << 30, s_sign = (u32)(quadrant & 2) << 30;
    cosine = __uint_as_float(__float_as_uint(swap ? s : c) ^ c_sign);
    sine = __uint_as_float(__float_as_uint(swap ? c : s) ^ s_sign);
}

__device__ __forceinline__ void box_muller(u32 x0, u32 x1, float& a, float& b) {
    const float radius = __fsqrt_rn(mul(-2.0f, natural_log(uniform(x0))));
    float c, s;
    cos_sin_turn(x1, c, s);
    a = mul(radius, c);
    b = mul(radius, s);
}

// Four standard normals: elements 4·index … 4·index + 3 of `stream`.
__device__ __forceinline__ Lanes<4> normals(u32 key0, u32 key1, u64 index, u64 stream) {
    const Words words = philox(key0, key1, index, stream);
    Lanes<4> out;
    box_muller(words.x, words.y, out[0], out[1]);
    box_muller(words.z, words.w, out[2], out[3]);
    return out;
}
