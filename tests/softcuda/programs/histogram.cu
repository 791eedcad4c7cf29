// Counts bytes: privately in shared memory with atomics, then added to the result.

extern "C" __global__ void histogram(unsigned *bins, const unsigned char *x, int n) {
    __shared__ unsigned own[256];
    for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) own[bin] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&own[x[i]], 1u);
    __syncthreads();
    for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) atomicAdd(&bins[bin], own[bin]);
}

// The same with one atomic for all lanes of a warp that saw the same byte.
extern "C" __global__ void histogram_matched(unsigned *bins, const unsigned char *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned active = __ballot_sync(0xffffffffu, i < n);
    if (i < n) {
        unsigned peers = __match_any_sync(active, (unsigned)x[i]);
        if (threadIdx.x % 32 == __ffs(peers) - 1) atomicAdd(&bins[x[i]], __popc(peers));
    }
}
