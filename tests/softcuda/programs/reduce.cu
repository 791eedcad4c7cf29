// Sums: within a warp by shuffles, within a block by shared memory, over cooperative groups, over a grid by
// atomics, and by the hardware's integer reduction.

#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>

namespace cg = cooperative_groups;

__device__ float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
    return value;
}

extern "C" __global__ void warp_sums(float *sums, const float *x) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = warp_sum(x[i]);
    if (threadIdx.x % 32 == 0) sums[i / 32] = sum;
}

extern "C" __global__ void block_sums(float *sums, const float *x, int n) {
    __shared__ float partial[32];
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.0f;
        sum = warp_sum(sum);
        if (threadIdx.x == 0) sums[blockIdx.x] = sum;
    }
}

extern "C" __global__ void group_sums(int *total, const int *x, int n) {
    auto block = cg::this_thread_block();
    auto tile = cg::tiled_partition<32>(block);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int sum = cg::reduce(tile, i < n ? x[i] : 0, cg::plus<int>());
    if (tile.thread_rank() == 0) atomicAdd(total, sum);
}

extern "C" __global__ void warp_maxima(unsigned *maxima, const unsigned *x) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned most = __reduce_max_sync(0xffffffffu, x[i]);
    if (threadIdx.x % 32 == 0) maxima[i / 32] = most;
}

// The whole grid meets at a barrier: a cooperative launch.
extern "C" __global__ void grid_sum(float *out, float *sums, const float *x, int n) {
    auto grid = cg::this_grid();
    float sum = 0.0f;
    for (int i = grid.thread_rank(); i < n; i += grid.size()) sum += x[i];
    sum = warp_sum(sum);
    __shared__ float partial[32];
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        sum = 0.0f;
        for (int i = 0; i < blockDim.x / 32; ++i) sum += partial[i];
        sums[blockIdx.x] = sum;
    }
    grid.sync();
    if (grid.thread_rank() == 0) {
        sum = 0.0f;
        for (int i = 0; i < gridDim.x; ++i) sum += sums[i];
        *out = sum;
    }
}
