// C = A · B, row-major, n × n, by tiles of 16 × 16 in shared memory; n need not be a multiple of 16.

constexpr int TILE = 16;

extern "C" __global__ void matmul(float *c, const float *a, const float *b, int n) {
    __shared__ float left[TILE][TILE];
    __shared__ float right[TILE][TILE];
    int row = blockIdx.y * TILE + threadIdx.y;
    int column = blockIdx.x * TILE + threadIdx.x;
    float sum = 0.0f;
    for (int start = 0; start < n; start += TILE) {
        int k = start + threadIdx.x;
        left[threadIdx.y][threadIdx.x] = row < n && k < n ? a[row * n + k] : 0.0f;
        k = start + threadIdx.y;
        right[threadIdx.y][threadIdx.x] = k < n && column < n ? b[k * n + column] : 0.0f;
        __syncthreads();
        for (int i = 0; i < TILE; ++i) sum = fmaf(left[threadIdx.y][i], right[i][threadIdx.x], sum);
        __syncthreads();
    }
    if (row < n && column < n) c[row * n + column] = sum;
}
