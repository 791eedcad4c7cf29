"""WMMA as in CUDA's samples (half, bfloat16, TF32, int8, double), and mma.sync with ldmatrix as in CUTLASS."""

from cuda import *

WMMA = r"""
#include <mma.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
using namespace nvcuda;

// One warp a 16 x 16 tile of C = A · B, K in steps of 16; A row major, B column major.
template <class T, class Acc> __device__ void product(const T *a, const T *b, Acc *c, int n) {
    int warp = threadIdx.x / 32 + blockIdx.x * (blockDim.x / 32), row = warp / (n / 16) * 16, col = warp % (n / 16) * 16;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, T, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, Acc> fc;
    wmma::fill_fragment(fc, Acc(0));
    for (int k = 0; k < n; k += 16) {
        wmma::load_matrix_sync(fa, a + row * n + k, n);
        wmma::load_matrix_sync(fb, b + col * n + k, n);
        wmma::mma_sync(fc, fa, fb, fc);
    }
    for (int i = 0; i < fc.num_elements; ++i) fc.x[i] = fc.x[i] * Acc(2);
    wmma::store_matrix_sync(c + row * n + col, fc, n, wmma::mem_row_major);
}
extern "C" __global__ void halves(const __half *a, const __half *b, float *c, int n) { product(a, b, c, n); }
extern "C" __global__ void half_sums(const __half *a, const __half *b, __half *c, int n) { product(a, b, c, n); }
extern "C" __global__ void bfloats(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int n) { product(a, b, c, n); }
extern "C" __global__ void bytes(const signed char *a, const signed char *b, int *c, int n) { product(a, b, c, n); }
extern "C" __global__ void tf32(const float *a, const float *b, float *c, int n) {
    wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 8, float> fc;
    wmma::load_matrix_sync(fc, c, 16, wmma::mem_col_major);
    for (int k = 0; k < n; k += 8) {
        wmma::load_matrix_sync(fa, a + k, n);
        wmma::load_matrix_sync(fb, b + k * 16, 16);
        for (int i = 0; i < fa.num_elements; ++i) fa.x[i] = wmma::__float_to_tf32(fa.x[i]);
        for (int i = 0; i < fb.num_elements; ++i) fb.x[i] = wmma::__float_to_tf32(fb.x[i]);
        wmma::mma_sync(fc, fa, fb, fc);
    }
    wmma::store_matrix_sync(c, fc, 16, wmma::mem_col_major);
}
extern "C" __global__ void doubles(const double *a, const double *b, double *c) {
    wmma::fragment<wmma::matrix_a, 8, 8, 4, double, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 8, 8, 4, double, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 8, 8, 4, double> fc;
    wmma::fill_fragment(fc, 1.0);
    wmma::load_matrix_sync(fa, a, 4);
    wmma::load_matrix_sync(fb, b, 4);
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(c, fc, 8, wmma::mem_row_major);
}
// Other shapes, through shared memory.
extern "C" __global__ void wide(const __half *a, const __half *b, float *c) {
    __shared__ __align__(32) __half sa[32 * 16], sb[16 * 8];
    for (int i = threadIdx.x; i < 512; i += 32) sa[i] = a[i];
    for (int i = threadIdx.x; i < 128; i += 32) sb[i] = b[i];
    __syncwarp();
    wmma::fragment<wmma::matrix_a, 32, 8, 16, __half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 32, 8, 16, __half, wmma::row_major> fb;
    wmma::fragment<wmma::accumulator, 32, 8, 16, float> fc;
    wmma::fill_fragment(fc, 0.0f);
    wmma::load_matrix_sync(fa, sa, 16);
    wmma::load_matrix_sync(fb, sb, 8);
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(c, fc, 8, wmma::mem_row_major);
}
"""

MMA = r"""
#include <cuda_fp16.h>
// D (16 x 8) = A (16 x 16) · B (16 x 8), operands by ldmatrix from shared memory, B transposed on the way.
extern "C" __global__ void tile(const __half *a, const __half *b, float *d) {
    __shared__ __align__(16) __half sa[16 * 16], sb[16 * 8];
    int t = threadIdx.x;
    for (int i = t; i < 256; i += 32) sa[i] = a[i];
    for (int i = t; i < 128; i += 32) sb[i] = b[i];
    __syncwarp();
    unsigned ra[4], rb[2];
    unsigned pa = __cvta_generic_to_shared(sa + t % 16 * 16 + t / 16 * 8), pb = __cvta_generic_to_shared(sb + t % 16 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3]) : "r"(pa));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(rb[0]), "=r"(rb[1]) : "r"(pb));
    float c[4] = {0, 0, 0, 0};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
    int row = t / 4, col = t % 4 * 2;
    d[row * 8 + col] = c[0]; d[row * 8 + col + 1] = c[1];
    d[(row + 8) * 8 + col] = c[2]; d[(row + 8) * 8 + col + 1] = c[3];
}
"""


def times(a, b, rows, cols, inner, at_a, at_b):
    return [sum(a[at_a(i, k)] * b[at_b(k, j)] for k in range(inner)) for i in range(rows) for j in range(cols)]


def test_wmma():
    module, n = Module(WMMA), 32
    a, b = [(i * 7) % 13 - 6 for i in range(n * n)], [(i * 5) % 11 - 5 for i in range(n * n)]
    expected = times(a, b, n, n, n, lambda i, k: i * n + k, lambda k, j: j * n + k)
    bf = lambda values: [struct.unpack("I", struct.pack("f", x))[0] >> 16 for x in values]
    for kernel, code, convert, out in (
        (module.halves, "e", list, "f"), (module.half_sums, "e", list, "e"), (module.bfloats, "H", bf, "f"),
        (module.bytes, "b", list, "i"),
    ):
        da, db, dc = Buffer(code, convert(a)), Buffer(code, convert(b)), Buffer(out, n * n)
        launch(kernel, 2, 64, da, db, dc, n)
        assert dc.get() == [2 * x for x in expected], kernel
        for buffer in (da, db, dc):
            buffer.free()
    a, b = [i % 9 * 0.5 for i in range(16 * n)], [i % 7 * 0.25 for i in range(16 * n)]
    da, db, dc = Buffer("f", a), Buffer("f", b), Buffer("f", [i % 3 for i in range(256)])
    launch(module.tf32, 1, 32, da, db, dc, n)
    product, found = times(a, b, 16, 16, n, lambda i, k: i * n + k, lambda k, j: k * 16 + j), dc.get()
    assert [found[j * 16 + i] for i in range(16) for j in range(16)] == [
        product[i * 16 + j] + (j * 16 + i) % 3 for i in range(16) for j in range(16)]
    for buffer in (da, db, dc):
        buffer.free()
    a, b = [0.1 * i for i in range(32)], [0.3 * i - 2 for i in range(32)]
    da, db, dc = Buffer("d", a), Buffer("d", b), Buffer("d", 64)
    launch(module.doubles, 1, 32, da, db, dc)
    close(dc.get(), [1 + x for x in times(a, b, 8, 8, 4, lambda i, k: i * 4 + k, lambda k, j: j * 4 + k)], 1e-15)
    for buffer in (da, db, dc):
        buffer.free()
    a, b = [i % 5 for i in range(512)], [i % 3 for i in range(128)]
    da, db, dc = Buffer("e", a), Buffer("e", b), Buffer("f", 256)
    launch(module.wide, 1, 32, da, db, dc)
    assert dc.get() == times(a, b, 32, 8, 16, lambda i, k: i * 16 + k, lambda k, j: k * 8 + j)
    for buffer in (da, db, dc):
        buffer.free()
    module.unload()


def test_mma_with_ldmatrix():
    module = Module(MMA)
    a, b = [i % 11 - 5 for i in range(256)], [i % 7 - 3 for i in range(128)]
    da, db, dd = Buffer("e", a), Buffer("e", b), Buffer("f", 128)
    launch(module.tile, 1, 32, da, db, dd)
    assert dd.get() == times(a, b, 16, 8, 16, lambda i, k: i * 16 + k, lambda k, j: k * 8 + j)
    for buffer in (da, db, dd):
        buffer.free()
    module.unload()


main(globals())
