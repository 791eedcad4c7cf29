// One planted fault a check, each behind a switch: with `wrong` 0 the same kernel is clean.

extern "C" __global__ void out_of_bounds(int *x, int n, int wrong) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n + wrong) x[i] = i;
}

extern "C" __global__ void misaligned(char *x, int wrong) {
    *reinterpret_cast<int *>(x + 4 * threadIdx.x + wrong) = 1;
}

extern "C" __global__ void uninitialised(float *y, const float *x) { y[threadIdx.x] = x[threadIdx.x]; }

extern "C" __global__ void uninitialised_shared(int *y, int wrong) {
    __shared__ int buffer[64];
    if (threadIdx.x < 32 || !wrong) buffer[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = buffer[threadIdx.x];
}

extern "C" __global__ void shared_race(int *y, int wrong) {
    __shared__ int buffer[64];
    buffer[threadIdx.x] = 0;
    __syncthreads();
    buffer[threadIdx.x] = threadIdx.x;
    if (!wrong) __syncthreads();
    y[threadIdx.x] = buffer[63 - threadIdx.x];
}

extern "C" __global__ void shared_bounds(int *y, int wrong) {
    extern __shared__ int dynamic[];
    dynamic[threadIdx.x + wrong] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = dynamic[threadIdx.x + wrong];
}

extern "C" __global__ void global_race(int *x, int wrong) {
    if (threadIdx.x == 0) x[wrong ? 0 : blockIdx.x] = blockIdx.x;
}

extern "C" __global__ void divergent_barrier(int *x, int wrong) {
    if (threadIdx.x < 16 || !wrong) __syncthreads();
    x[threadIdx.x] = 1;
}

extern "C" __global__ void wrong_mask(int *x, int wrong) {
    unsigned mask = wrong ? 0x000000ffu : 0x0000ffffu;
    if (threadIdx.x < 16) x[threadIdx.x] = __shfl_sync(mask, (int)threadIdx.x, 0);
}

extern "C" __global__ void failed_assertion(int *x, int wrong) {
    assert(threadIdx.x != 5 || !wrong);
    x[threadIdx.x] = 1;
}

extern "C" __global__ void trapped(int *x, int wrong) {
    if (wrong) __trap();
    x[threadIdx.x] = 1;
}

extern "C" __global__ void endless(volatile int *x, int wrong) {
    while (wrong) x[0] = 1;
    x[0] = 2;
}

extern "C" __global__ void prints(int n) {
    if (threadIdx.x < n) printf("thread %d of %s: %.2f, %llu\n", threadIdx.x, "block", 0.5 * threadIdx.x, 1ull << 40);
}
