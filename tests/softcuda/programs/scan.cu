// Inclusive prefix sums of blocks of 1,024 in three launches: blocks, sums of blocks, addition.

extern "C" __global__ void scan_blocks(int *y, int *totals, const int *x, int n) {
    __shared__ int buffer[2][1024];
    int i = blockIdx.x * 1024 + threadIdx.x;
    int from = 0;
    buffer[0][threadIdx.x] = i < n ? x[i] : 0;
    __syncthreads();
    for (int offset = 1; offset < 1024; offset *= 2) {
        int value = buffer[from][threadIdx.x];
        if (threadIdx.x >= offset) value += buffer[from][threadIdx.x - offset];
        buffer[1 - from][threadIdx.x] = value;
        from = 1 - from;
        __syncthreads();
    }
    if (i < n) y[i] = buffer[from][threadIdx.x];
    if (threadIdx.x == 1023) totals[blockIdx.x] = buffer[from][1023];
}

extern "C" __global__ void add_totals(int *y, const int *scanned, int n) {
    int i = blockIdx.x * 1024 + threadIdx.x;
    if (blockIdx.x > 0 && i < n) y[i] += scanned[blockIdx.x - 1];
}
