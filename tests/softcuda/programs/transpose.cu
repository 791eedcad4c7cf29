// Transposes n × n, n a multiple of 32, through a tile of shared memory: with a column of padding no access
// conflicts, without it the tile's columns all lie in one bank.

template <int PADDING>
__device__ void transpose(float *y, const float *x, int n) {
    __shared__ float tile[32][32 + PADDING];
    int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
    for (int i = 0; i < 32; i += 8) tile[threadIdx.y + i][threadIdx.x] = x[(row + i) * n + column];
    __syncthreads();
    column = blockIdx.y * 32 + threadIdx.x, row = blockIdx.x * 32 + threadIdx.y;
    for (int i = 0; i < 32; i += 8) y[(row + i) * n + column] = tile[threadIdx.x][threadIdx.y + i];
}

extern "C" __global__ void transpose_padded(float *y, const float *x, int n) { transpose<1>(y, x, n); }

extern "C" __global__ void transpose_plain(float *y, const float *x, int n) { transpose<0>(y, x, n); }
