// Layer norm over rows of C values, forward and backward, a warp a row; parameter gradients by a second
// launch over columns.

__device__ float all(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    return value;
}

extern "C" __global__ void layernorm_forward(
    float *y, float *mean, float *rstd, const float *x, const float *gain, const float *bias, int rows, int c) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += (long long)row * c;
    float sum = 0.0f, square = 0.0f;
    for (int i = threadIdx.x; i < c; i += 32) sum += x[i];
    float m = all(sum) / c;
    for (int i = threadIdx.x; i < c; i += 32) square += (x[i] - m) * (x[i] - m);
    float r = rsqrtf(all(square) / c + 1e-5f);
    for (int i = threadIdx.x; i < c; i += 32) y[(long long)row * c + i] = (x[i] - m) * r * gain[i] + bias[i];
    if (threadIdx.x == 0) mean[row] = m, rstd[row] = r;
}

extern "C" __global__ void layernorm_backward(
    float *dx, const float *dy, const float *x, const float *mean, const float *rstd, const float *gain, int rows,
    int c) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += (long long)row * c, dy += (long long)row * c;
    float m = mean[row], r = rstd[row], sum = 0.0f, product = 0.0f;
    for (int i = threadIdx.x; i < c; i += 32) {
        float d = dy[i] * gain[i];
        sum += d;
        product += d * (x[i] - m) * r;
    }
    sum = all(sum) / c, product = all(product) / c;
    for (int i = threadIdx.x; i < c; i += 32)
        dx[(long long)row * c + i] = r * (dy[i] * gain[i] - sum - (x[i] - m) * r * product);
}

extern "C" __global__ void layernorm_parameters(
    float *dgain, float *dbias, const float *dy, const float *x, const float *mean, const float *rstd, int rows,
    int c) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= c) return;
    float gain = 0.0f, bias = 0.0f;
    for (int row = 0; row < rows; ++row) {
        float d = dy[row * c + column];
        gain += d * (x[row * c + column] - mean[row]) * rstd[row];
        bias += d;
    }
    dgain[column] = gain, dbias[column] = bias;
}
