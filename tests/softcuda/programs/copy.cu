// Copies whose memory traffic is known beforehand: coalesced, strided, with vectors, and through shared
// memory with every degree of bank conflict.

extern "C" __global__ void copy(float *y, const float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}

extern "C" __global__ void copy_vector(float4 *y, const float4 *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}

// y[i] = x[stride * i]: of each sector fetched, one float in `stride` is used.
extern "C" __global__ void gather_stride(float *y, const float *x, int n, int stride) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i * stride];
}

// Thread i of a warp touches word `stride * i`: stride 1 has no conflict, 2 a two-way one, 32 a 32-way one.
extern "C" __global__ void shared_stride(float *y, const float *x, int stride) {
    __shared__ float tile[32 * 32];
    int lane = threadIdx.x;
    tile[lane * stride] = x[lane];
    __syncwarp();
    y[lane] = tile[lane * stride];
}
