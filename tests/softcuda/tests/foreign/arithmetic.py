"""Intrinsics and half, bfloat16, fp8 arithmetic, each compared with what Python computes."""

import math

from cuda import *

WARP = r"""
extern "C" __global__ void warps(const int *in, unsigned *out) {
    int t = threadIdx.x, x = in[t];
    unsigned full = 0xffffffff, *o = out + 16 * t;
    o[0] = __reduce_add_sync(full, x);
    o[1] = __reduce_min_sync(full, x);
    o[2] = __reduce_max_sync(full, (unsigned)x);
    o[3] = __reduce_xor_sync(full, (unsigned)x);
    o[4] = __match_any_sync(full, x % 5);
    int all; o[5] = __match_all_sync(full, x > -1000, &all); o[5] += all;
    o[6] = __ballot_sync(full, x & 1);
    o[7] = __any_sync(full, x == in[3]) + 2 * __all_sync(full, x == in[3]);
    long long wide = __shfl_xor_sync(full, (long long)x << 33, 3, 16);
    o[8] = (unsigned)(wide >> 33);
    double d = __shfl_down_sync(full, x * 0.5, 2);
    o[9] = (int)(2 * d);
    // Warp-aggregated increment of a shared counter by some lanes.
    __shared__ unsigned counter;
    if (t == 0) counter = 100;
    __syncwarp();
    o[10] = 0;
    if (x % 3 == 0) {
        unsigned active = __activemask(), leader = __ffs(active) - 1, rank = __popc(active & ((1u << t) - 1)), base = 0;
        if (t == leader) base = atomicAdd(&counter, __popc(active));
        o[10] = __shfl_sync(active, base, leader) + rank;
    }
    if (t < 20) { o[11] = __reduce_or_sync(0xfffff, 1u << t); }
    o[12] = __shfl_up_sync(full, t, 3, 8);
    o[13] = __fns(0x0f0f00f0, 0, 5);
}
extern "C" __global__ void leavers(int n, int *out) {
    if (threadIdx.x >= n) return;  // PTX: a mask may name lanes that have exited
    out[threadIdx.x] = __popc(__ballot_sync(0xffffffff, threadIdx.x & 1)) + __any_sync(0xffffffff, 0);
}
"""

INTEGER = r"""
extern "C" __global__ void integers(const unsigned *in, unsigned long long *out, int n) {
    int i = threadIdx.x; unsigned a = in[i], b = in[(i + 1) % n], c = in[(i + 2) % n];
    unsigned long long w = (unsigned long long)a << 32 | b, *o = out + 32 * i;
    o[0] = __popc(a); o[1] = __clz(a); o[2] = __ffs(a); o[3] = __brev(a); o[4] = __popcll(w); o[5] = __clzll(w);
    o[6] = __brevll(w); o[7] = __umulhi(a, b); o[8] = (unsigned)__mulhi((int)a, (int)b); o[9] = __umul64hi(w, w ^ 5);
    o[10] = __byte_perm(a, b, c & 0x7777); o[11] = __funnelshift_l(a, b, c); o[12] = __funnelshift_r(a, b, c);
    o[13] = __funnelshift_lc(a, b, c % 64); o[14] = (unsigned)__dp4a((int)a, (int)b, (int)c); o[15] = __dp4a(a, b, c);
    o[16] = __sad((int)a, (int)b, c); o[17] = __uhadd(a, b); o[18] = (unsigned)__rhadd((int)a, (int)b);
    o[19] = __vadd4(a, b); o[20] = __vabsdiffu4(a, b); o[21] = __vmaxs2(a, b); o[22] = __vcmpgtu4(a, b);
    o[23] = __vavgu4(a, b); o[24] = a / (b | 1); o[25] = w % (c | 1); o[26] = (unsigned)((int)a % (int)(b | 1));
    o[27] = __umul24(a, b); o[28] = (unsigned)__mul24((int)a, (int)b); o[29] = __vsads4(a, b);
    o[30] = __viaddmax_s32((int)a, (int)b, (int)c) & 0xffffffffu; o[31] = __vimin3_u32(a, b, c);
}
extern "C" __global__ void bigint(const unsigned *a, const unsigned *b, unsigned *sum, unsigned *product) {
    // 128-bit sum and 64 x 64 product by carry chains and by __int128
    asm("add.cc.u32 %0,%4,%8; addc.cc.u32 %1,%5,%9; addc.cc.u32 %2,%6,%10; addc.u32 %3,%7,%11;"
        : "=r"(sum[0]), "=r"(sum[1]), "=r"(sum[2]), "=r"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]));
    unsigned __int128 p = (unsigned __int128)((unsigned long long)a[1] << 32 | a[0]) * ((unsigned long long)b[1] << 32 | b[0]);
    for (int i = 0; i < 4; ++i) product[i] = (unsigned)(p >> (32 * i));
}
"""

REAL = r"""
extern "C" __global__ void reals(const float *in, double *out) {
    int i = threadIdx.x; float x = in[i]; double y = x, *o = out + 40 * i;
    o[0] = sinf(x); o[1] = cosf(x); o[2] = tanf(x); o[3] = expf(x); o[4] = logf(fabsf(x)); o[5] = powf(fabsf(x), 1.7f);
    o[6] = tanhf(x); o[7] = erff(x); o[8] = lgammaf(fabsf(x)); o[9] = atan2f(x, 2); o[10] = cbrtf(x); o[11] = rsqrtf(fabsf(x));
    o[12] = sin(y); o[13] = exp(y); o[14] = log(fabs(y)); o[15] = pow(fabs(y), 1.7); o[16] = erf(y); o[17] = tgamma(fabs(y));
    o[18] = atan(y); o[19] = sqrt(fabs(y)); o[20] = 1 / y; o[21] = fmod(y, 0.7); o[22] = hypot(y, 1.5); o[23] = sinh(y);
    o[24] = __sinf(x); o[25] = __expf(x); o[26] = __logf(fabsf(x)); o[27] = __fdividef(x, 3); o[28] = __powf(fabsf(x), 2.5f);
    o[29] = fmodf(x, 0.3f); o[30] = roundf(x); o[31] = rintf(x); o[32] = truncf(x); o[33] = __saturatef(x); o[34] = rhypot(y, 2.0);
    o[35] = normcdf(y); o[37] = cyl_bessel_i0(y); o[38] = j0f(x); o[39] = erfcinv(fmin(1.9, fabs(y) + 0.1));
}
extern "C" __global__ void rounding(const float *a, const float *b, float *out) {
    int i = threadIdx.x;
    float *o = out + 16 * i;
    o[0] = __fadd_rn(a[i], b[i]); o[1] = __fadd_rz(a[i], b[i]); o[2] = __fadd_ru(a[i], b[i]); o[3] = __fadd_rd(a[i], b[i]);
    o[4] = __fmul_rz(a[i], b[i]); o[5] = __fmul_ru(a[i], b[i]); o[6] = __fdiv_rd(a[i], b[i]); o[7] = __fsqrt_ru(fabsf(a[i]));
    o[8] = __int2float_rz(__float_as_int(a[i])); o[9] = __float2int_ru(a[i]); o[10] = __double2float_rd(a[i] / 3.0);
    o[11] = __fmaf_rz(a[i], b[i], a[i]); o[12] = (float)__float2ll_rn(a[i] * 1e10f); o[13] = __frcp_ru(b[i]);
    o[14] = __uint2float_ru(__float_as_uint(a[i])); o[15] = __ull2float_rz((unsigned long long)__float_as_uint(a[i]) << 20);
}
"""

HALF = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
template <class H, class H2> __device__ void pairs(const float *in, float *out, H2 (*pack)(float, float)) {
    int i = threadIdx.x; float *o = out + 24 * i;
    H2 a = pack(in[i], in[i + 1]), b = pack(in[i + 2], in[i + 3]), c = pack(0.5f, -2.0f);
    auto put = [&](int at, H2 x) { o[at] = (float)x.x; o[at + 1] = (float)x.y; };
    put(0, __hadd2(a, b)); put(2, __hmul2(a, b)); put(4, __hfma2(a, b, c)); put(6, __hmax2(a, b)); put(8, __hneg2(a));
    put(10, __hsub2_sat(a, b)); put(12, h2exp(c)); put(14, h2sqrt(__habs2(a))); put(16, __h2div(a, b));
    put(18, __hfma2_relu(a, b, c)); o[20] = __hbeq2(a, a) + 2 * __hbgt2(a, b); put(21, __hge2(a, b)); o[23] = __hlt(a.x, b.x);
}
__device__ __half2 half2_of(float a, float b) { return __floats2half2_rn(a, b); }
__device__ __nv_bfloat162 bf162_of(float a, float b) { return __floats2bfloat162_rn(a, b); }
extern "C" __global__ void halves(const float *in, float *out) { pairs<__half, __half2>(in, out, half2_of); }
extern "C" __global__ void bfloats(const float *in, float *out) { pairs<__nv_bfloat16, __nv_bfloat162>(in, out, bf162_of); }
extern "C" __global__ void atomics(__half *h, __half2 *h2, __nv_bfloat16 *b, __nv_bfloat162 *b2) {
    atomicAdd(h, __float2half(0.5f)); atomicAdd(h2, __floats2half2_rn(1, 2));
    atomicAdd(b, __float2bfloat16(1)); atomicAdd(b2, __floats2bfloat162_rn(1, 0.5f));
}
extern "C" __global__ void fp8(const float *in, unsigned *out, float *back) {
    int i = threadIdx.x;
    __nv_fp8_e4m3 a(in[i]); __nv_fp8_e5m2 b(in[i]);
    __nv_fp8x2_e4m3 pair(make_float2(in[i], -in[i])); __nv_fp8x4_e5m2 four(make_float4(in[i], 1, 2, 3));
    out[i] = a.__x | b.__x << 8 | (unsigned)pair.__x << 16;
    back[4 * i] = (float)a; back[4 * i + 1] = (float)b; back[4 * i + 2] = float2(pair).y; back[4 * i + 3] = float4(four).w;
}
"""


def signed(x):
    return x - (1 << 32) if x & 0x80000000 else x


def test_warp_functions():
    module = Module(WARP)
    data = [(i * 37) % 23 - 7 for i in range(32)]
    source, out = Buffer("i", data), Buffer("I", 16 * 32)
    launch(module.warps, 1, 32, source, out)
    found = out.get()
    mod5 = [int(math.fmod(x, 5)) for x in data]
    odd = sum((x & 1) << i for i, x in enumerate(data))
    xor = 0
    for x in data:
        xor ^= x & 0xFFFFFFFF
    thirds = [i for i in range(32) if data[i] % 3 == 0]
    for i in range(32):
        o = found[16 * i : 16 * i + 16]
        assert o[0] == sum(data) % 2**32 and o[1] == min(data) % 2**32
        assert o[2] == max(x % 2**32 for x in data) and o[3] == xor
        assert o[4] == sum((mod5[j] == mod5[i]) << j for j in range(32))
        assert o[5] == (0xFFFFFFFF + 1) % 2**32 and o[6] == odd and o[7] == 1
        other = i & 16 | (i & 15) ^ 3
        assert o[8] == data[other] % 2**32, (i, o[8])
        assert o[9] == data[i + 2 if i < 30 else i] % 2**32
        assert o[10] == (100 + thirds.index(i) if i in thirds else 0)
        if i < 20:
            assert o[11] == 0xFFFFF
        assert o[12] == (i - 3 if i % 8 >= 3 else i) and o[13] == 16
    few = Buffer("i", 32)
    launch(module.leavers, 1, 32, 20, few)
    assert few.get() == [10] * 20 + [0] * 12
    for buffer in (source, out, few):
        buffer.free()
    module.unload()


def permute(a, b, selector):
    eight = a | b << 32
    return sum((eight >> 8 * (selector >> 4 * k & 7) & 255) << 8 * k for k in range(4))


def parts(a, b, bits, f, is_signed=False):
    out, full = 0, (1 << bits) - 1
    for k in range(0, 32, bits):
        x, y = a >> k & full, b >> k & full
        if is_signed:
            x, y = (v - (full + 1) if v >> bits - 1 else v for v in (x, y))
        out |= (f(x, y) & full) << k
    return out


def bytes_of(x, is_signed):
    return [(b - 256 if is_signed and b > 127 else b) for b in x.to_bytes(4, "little")]


def test_integer_intrinsics():
    module = Module(INTEGER, "--device-int128")
    data = [0, 1, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 12345678, 0xDEADBEEF, 31, 32, 33, 0x01020304, 0xF0F0F0F0]
    n, m = len(data), 2**32
    source, out = Buffer("I", data), Buffer("Q", 32 * n)
    launch(module.integers, 1, n, source, out, n)
    found = out.get()
    for i, a in enumerate(data):
        b, c_ = data[(i + 1) % n], data[(i + 2) % n]
        w, sa, sb, sc = a << 32 | b, signed(a), signed(b), signed(c_)
        s, both = c_ & 31, b << 32 | a
        lowest = (a & -a).bit_length()
        dot = lambda sign: sum(x * y for x, y in zip(bytes_of(a, sign), bytes_of(b, sign)))
        s24 = lambda x: (x & 0xFFFFFF) - (1 << 24 if x & 0x800000 else 0)
        quotient = int(abs(sa) // abs(signed(b | 1))) * (1 if (sa < 0) == (signed(b | 1) < 0) else -1)
        expected = [
            bin(a).count("1"), 32 - a.bit_length(), lowest, int(f"{a:032b}"[::-1], 2), bin(w).count("1"),
            64 - w.bit_length(), int(f"{w:064b}"[::-1], 2), a * b >> 32, (sa * sb >> 32) % m, w * (w ^ 5) >> 64,
            permute(a, b, c_ & 0x7777), (both << s) >> 32 & m - 1, both >> s & m - 1, (both << min(c_ % 64, 32)) >> 32 & m - 1,
            (dot(True) + sc) % m, (dot(False) + c_) % m, (abs(sa - sb) + c_) % m, (a + b) >> 1, ((sa + sb + 1) >> 1) % m,
            parts(a, b, 8, lambda x, y: x + y), parts(a, b, 8, lambda x, y: abs(x - y)), parts(a, b, 16, max, True),
            parts(a, b, 8, lambda x, y: 255 if x > y else 0), parts(a, b, 8, lambda x, y: (x + y + 1) >> 1),
            a // (b | 1), w % (c_ | 1), (sa - quotient * signed(b | 1)) % m, (a & 0xFFFFFF) * (b & 0xFFFFFF) % m,
            s24(a) * s24(b) % m, sum(abs(x - y) for x, y in zip(bytes_of(a, True), bytes_of(b, True))),
            max(signed((a + b) % m), sc) % m, min(a, b, c_),
        ]
        for k, e in enumerate(expected):
            assert found[32 * i + k] == e, (i, k, hex(found[32 * i + k]), hex(e))
    words = lambda x: [x >> 32 * k & m - 1 for k in range(4)]
    x, y = 0xFFFFFFFF_00000001_FFFFFFFF_FFFFFFFF, 0x00000000_FFFFFFFF_00000000_00000002
    a, b, total, product = Buffer("I", words(x)), Buffer("I", words(y)), Buffer("I", 4), Buffer("I", 4)
    launch(module.bigint, 1, 1, a, b, total, product)
    assert total.get() == words((x + y) % 2**128) and product.get() == words((x % 2**64) * (y % 2**64))
    for buffer in (source, out, a, b, total, product):
        buffer.free()
    module.unload()


def test_float_functions():
    module = Module(REAL)
    data = [0.1, -0.7, 1.5, 2.25, -3.75, 0.001, 4.5]
    source, out = Buffer("f", data), Buffer("d", 40 * len(data))
    launch(module.reals, 1, len(data), source, out)
    found = out.get()
    data = source.get()
    for i, x in enumerate(data):
        a = abs(x)
        single = [math.sin(x), math.cos(x), math.tan(x), math.exp(x), math.log(a), a**1.7, math.tanh(x), math.erf(x),
                  math.lgamma(a), math.atan2(x, 2), math.copysign(a ** (1 / 3), x), a**-0.5]
        double = [math.sin(x), math.exp(x), math.log(a), a**1.7, math.erf(x), math.gamma(a), math.atan(x), math.sqrt(a),
                  1 / x, math.fmod(x, 0.7), math.hypot(x, 1.5), math.sinh(x)]
        fast = [math.sin(x), math.exp(x), math.log(a), x / 3, a**2.5]
        o = found[40 * i :]
        close(o[:12], single, 1e-6)
        close(o[12:24], double, 1e-13)
        close(o[24:29], fast, 1e-5)
        assert abs(o[29] - math.fmod(x, struct.unpack("f", struct.pack("f", 0.3))[0])) < 1e-6
        assert o[30:34] == [math.copysign(math.floor(a + 0.5), x), round(x), math.trunc(x), min(max(x, 0.0), 1.0)]
        close(o[35:36], [0.5 * math.erfc(-x / math.sqrt(2))], 1e-12)
        assert abs(math.erfc(o[39]) - min(1.9, a + 0.1)) < 1e-12
    pairs_ = [(1.0, 3e-8), (-1.0, 3.0), (0.1, 0.3), (1e20, -7.0), (16777217.0, 0.7), (-0.1, 1e-9)]
    a, b, results = Buffer("f", [p[0] for p in pairs_]), Buffer("f", [p[1] for p in pairs_]), Buffer("f", 16 * len(pairs_))
    launch(module.rounding, 1, len(pairs_), a, b, results)
    xs, ys, found = a.get(), b.get(), results.get()
    from fractions import Fraction

    def rounded(exact, mode):
        near = struct.unpack("f", struct.pack("f", float(exact)))[0]
        step = lambda v, up: struct.unpack("f", struct.pack("I", struct.unpack("I", struct.pack("f", v))[0] + (1 if (v > 0) == up else -1)))[0]
        toward_up = mode == "u" or mode == "z" and exact < 0
        if Fraction(near) == exact:
            return near
        if toward_up:
            return near if Fraction(near) > exact else step(near, True)
        return near if Fraction(near) < exact else step(near, False)

    for i, (x, y) in enumerate(zip(xs, ys)):
        o, fx, fy = found[16 * i : 16 * i + 16], Fraction(x), Fraction(y)
        assert o[1:4] == [rounded(fx + fy, m) for m in "zud"], (i, o[:4])
        assert o[4:7] == [rounded(fx * fy, "z"), rounded(fx * fy, "u"), rounded(fx / fy, "d")], i
        assert o[8] == rounded(Fraction(struct.unpack("i", struct.pack("f", x))[0]), "z")
        assert o[11] == rounded(fx * fy + fx, "z") and o[13] == rounded(1 / fy, "u"), i
        bits = struct.unpack("I", struct.pack("f", x))[0]
        assert o[14] == rounded(Fraction(bits), "u") and o[15] == rounded(Fraction(bits << 20), "z")
    for buffer in (source, out, a, b, results):
        buffer.free()
    module.unload()


def as_half(x):
    try:
        return struct.unpack("e", struct.pack("e", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def as_bfloat(x):
    bits = struct.unpack("I", struct.pack("f", x))[0]
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return struct.unpack("f", struct.pack("I", bits))[0]


def test_halves_and_bfloats():
    module = Module(HALF)
    data = [0.1 * i * i - 3.3 for i in range(20)]
    source, out = Buffer("f", data), Buffer("f", 24 * 16)
    clamp = lambda x: min(max(x, 0.0), 1.0)
    for kernel, f, tolerance in ((module.halves, as_half, 2e-3), (module.bfloats, as_bfloat, 1.6e-2)):
        launch(kernel, 1, 16, source, out)
        found = out.get()
        for i in range(16):
            v = [f(x) for x in source.get()[i : i + 4]]
            o = found[24 * i :]
            for k, (x, y, z) in enumerate([(v[0], v[2], 0.5), (v[1], v[3], -2.0)]):
                exact = [f(x + y), f(x * y), f(x * y + z), max(x, y), -x, f(clamp(x - y))]
                assert [o[2 * at + k] for at in range(6)] == exact, (i, k)
                close([o[12 + k], o[14 + k], o[16 + k]], [math.exp(z), abs(x) ** 0.5, x / y], tolerance)
                assert o[18 + k] == max(f(x * y + z), 0.0) and o[21 + k] == float(x >= y)
            assert o[20] == 1 + 2 * (v[0] > v[2] and v[1] > v[3]) and o[23] == float(v[0] < v[2])
    h, h2, b, b2 = Buffer("e", 2), Buffer("e", 2), Buffer("H", 2), Buffer("H", 2)
    launch(module.atomics, 2, 32, h, h2, b, b2)
    assert h.get()[0] == 32.0 and h2.get() == [64.0, 128.0]
    assert b.get()[0] == 0x4280 and b2.get() == [0x4280, 0x4200]
    values = [0.0, 1.0, -1.0, 448.0, 500.0, 0.001953125, 0.017, 57344.0, 1e6, -3.3, 0.1, 240.0]
    floats, codes, back = Buffer("f", values), Buffer("I", len(values)), Buffer("f", 4 * len(values))
    launch(module.fp8, 1, len(values), floats, codes, back)
    e4m3 = [0.0, 1.0, -1.0, 448.0, 448.0, 0.001953125, 0.017578125, 448.0, 448.0, -3.25, 0.1015625, 240.0]
    e5m2 = [0.0, 1.0, -1.0, 448.0, 512.0, 0.001953125, 0.015625, 57344.0, 57344.0, -3.5, 0.09375, 256.0]
    found = back.get()
    assert found[0::4] == e4m3 and found[1::4] == e5m2, (found[0::4], found[1::4])
    assert found[2::4] == [-x for x in e4m3] and found[3::4] == [3.0] * len(values)
    for buffer in (source, out, h, h2, b, b2, floats, codes, back):
        buffer.free()
    module.unload()


main(globals())
