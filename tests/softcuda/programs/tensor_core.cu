// C = A · B on tensor cores, f16 in, f32 out. `product` keeps two stages of tiles in flight with cp.async;
// `fragments` is the plain wmma form of the same; `product_tf32` and `product_bf16` are the other types.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <mma.h>

using namespace nvcuda;

constexpr int TILE = 32;  // a block of four warps computes 32 × 32, each warp 16 × 16
constexpr int PAD = 8;    // halves of padding a row, against bank conflicts

__device__ void load(half *tile, const half *from, int stride) {
    // 32 rows of 32 halves: 128 pieces of 16 bytes, one a thread.
    int row = threadIdx.x / 4, piece = threadIdx.x % 4 * 8;
    __pipeline_memcpy_async(tile + row * (TILE + PAD) + piece, from + row * stride + piece, 16);
}

extern "C" __global__ void product(float *c, const half *a, const half *b, int n) {
    __shared__ __align__(16) half left[2][TILE * (TILE + PAD)];
    __shared__ __align__(16) half right[2][TILE * (TILE + PAD)];
    int row = blockIdx.y * TILE, column = blockIdx.x * TILE, warp = threadIdx.x / 32;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::fill_fragment(sum, 0.0f);
    load(left[0], a + row * n, n);
    load(right[0], b + column, n);
    __pipeline_commit();
    for (int k = 0, stage = 0; k < n; k += TILE, stage ^= 1) {
        if (k + TILE < n) {
            load(left[stage ^ 1], a + row * n + k + TILE, n);
            load(right[stage ^ 1], b + (k + TILE) * n + column, n);
        }
        __pipeline_commit();
        __pipeline_wait_prior(1);
        __syncthreads();
        for (int inner = 0; inner < TILE; inner += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> x;
            wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> y;
            wmma::load_matrix_sync(x, left[stage] + warp / 2 * 16 * (TILE + PAD) + inner, TILE + PAD);
            wmma::load_matrix_sync(y, right[stage] + inner * (TILE + PAD) + warp % 2 * 16, TILE + PAD);
            wmma::mma_sync(sum, x, y, sum);
        }
        __syncthreads();
    }
    float *to = c + (row + warp / 2 * 16) * n + column + warp % 2 * 16;
    wmma::store_matrix_sync(to, sum, n, wmma::mem_row_major);
}

template <typename T, int K, typename Stored>
__device__ void fragments(float *c, const Stored *a, const Stored *b, int n) {
    int row = blockIdx.y * 16, column = blockIdx.x * 16;
    wmma::fragment<wmma::accumulator, 16, 16, K, float> sum;
    wmma::fill_fragment(sum, 0.0f);
    for (int k = 0; k < n; k += K) {
        wmma::fragment<wmma::matrix_a, 16, 16, K, T, wmma::row_major> x;
        wmma::fragment<wmma::matrix_b, 16, 16, K, T, wmma::row_major> y;
        wmma::load_matrix_sync(x, a + row * n + k, n);
        wmma::load_matrix_sync(y, b + k * n + column, n);
        wmma::mma_sync(sum, x, y, sum);
    }
    wmma::store_matrix_sync(c + row * n + column, sum, n, wmma::mem_row_major);
}

extern "C" __global__ void product_f16(float *c, const half *a, const half *b, int n) {
    fragments<half, 16>(c, a, b, n);
}

extern "C" __global__ void product_bf16(float *c, const __nv_bfloat16 *a, const __nv_bfloat16 *b, int n) {
    fragments<__nv_bfloat16, 16>(c, a, b, n);
}

extern "C" __global__ void product_tf32(float *c, const float *a, const float *b, int n) {
    fragments<wmma::precision::tf32, 8>(c, a, b, n);
}
