// Softmax of rows, a block a row, in one pass over the row (running maximum and sum).

#include <math_constants.h>

extern "C" __global__ void softmax(float *y, const float *x, int columns) {
    __shared__ float maxima[32], sums[32];
    const float *row = x + (long long)blockIdx.x * columns;
    float most = -CUDART_INF_F, sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        float value = row[i], larger = fmaxf(most, value);
        sum = sum * expf(most - larger) + expf(value - larger);
        most = larger;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        float other = __shfl_xor_sync(~0u, most, offset), others = __shfl_xor_sync(~0u, sum, offset);
        float larger = fmaxf(most, other);
        sum = (most == -CUDART_INF_F ? 0.0f : sum * expf(most - larger)) +
              (other == -CUDART_INF_F ? 0.0f : others * expf(other - larger));
        most = larger;
    }
    int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    if (threadIdx.x % 32 == 0) maxima[warp] = most, sums[warp] = sum;
    __syncthreads();
    most = -CUDART_INF_F;
    for (int i = 0; i < warps; ++i) most = fmaxf(most, maxima[i]);
    sum = 0.0f;
    for (int i = 0; i < warps; ++i)
        if (maxima[i] != -CUDART_INF_F) sum += sums[i] * expf(maxima[i] - most);
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
        y[(long long)blockIdx.x * columns + i] = expf(row[i] - most) / sum;
}
