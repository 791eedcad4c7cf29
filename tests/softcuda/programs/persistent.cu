// Blocks take work by an atomic counter until there is none; the last block done adds up what the others
// left, ordered by a fence and an atomic alone.

__device__ unsigned next_tile, done_blocks;

extern "C" __global__ void persistent_sum(float *out, float *partial, const float *x, int tiles) {
    __shared__ int tile;
    __shared__ bool last;
    __shared__ float lanes[256];
    float sum = 0.0f;
    for (;;) {
        __syncthreads();
        if (threadIdx.x == 0) tile = atomicAdd(&next_tile, 1u);
        __syncthreads();
        if (tile >= tiles) break;
        sum += x[tile * 256 + threadIdx.x];
    }
    lanes[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) lanes[threadIdx.x] += lanes[threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = lanes[0];
        __threadfence();
        last = atomicAdd(&done_blocks, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        __threadfence();
        sum = 0.0f;
        for (int i = 0; i < gridDim.x; ++i) sum += partial[i];
        *out = sum;
        next_tile = 0, done_blocks = 0;
    }
}
