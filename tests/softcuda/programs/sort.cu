// Bitonic sort: in shared memory for distances inside a block, in global memory beyond.

__device__ void exchange(unsigned &low, unsigned &high, bool ascending) {
    if ((low > high) == ascending) {
        unsigned other = low;
        low = high;
        high = other;
    }
}

// One step over global memory: pairs at distance `distance` in runs of `run`.
extern "C" __global__ void bitonic_step(unsigned *x, int run, int distance) {
    int pair = blockIdx.x * blockDim.x + threadIdx.x;
    int low = 2 * pair - (pair & (distance - 1));
    exchange(x[low], x[low + distance], (low & run) == 0);
}

// All steps of distance at most 512 for runs up to 1,024 in one launch of blocks of 512 threads.
extern "C" __global__ void bitonic_block(unsigned *x) {
    __shared__ unsigned tile[1024];
    int base = blockIdx.x * 1024;
    tile[threadIdx.x] = x[base + threadIdx.x];
    tile[threadIdx.x + 512] = x[base + threadIdx.x + 512];
    for (int run = 2; run <= 1024; run *= 2) {
        for (int distance = run / 2; distance > 0; distance /= 2) {
            __syncthreads();
            int low = 2 * threadIdx.x - (threadIdx.x & (distance - 1));
            exchange(tile[low], tile[low + distance], ((base + low) & run) == 0);
        }
    }
    __syncthreads();
    x[base + threadIdx.x] = tile[threadIdx.x];
    x[base + threadIdx.x + 512] = tile[threadIdx.x + 512];
}
