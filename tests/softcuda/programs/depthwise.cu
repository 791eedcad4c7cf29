// Depthwise 3 × 3 convolution, NHWC, stride 1, zero padding, four channels a thread; bf16 in and out,
// accumulated in f32.

#include <cuda_bf16.h>

extern "C" __global__ void depthwise(
    __nv_bfloat16 *y, const __nv_bfloat16 *x, const float *weight, int height, int width, int channels) {
    int quads = channels / 4;
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= height * width * quads) return;
    int c = index % quads * 4, column = index / quads % width, row = index / quads / width;
    x += (long long)blockIdx.y * height * width * channels, y += (long long)blockIdx.y * height * width * channels;
    float sum[4] = {};
    for (int dy = -1; dy <= 1; ++dy)
        for (int dx = -1; dx <= 1; ++dx) {
            int r = row + dy, s = column + dx;
            if (r < 0 || r >= height || s < 0 || s >= width) continue;
            uint2 raw = *reinterpret_cast<const uint2 *>(x + ((long long)r * width + s) * channels + c);
            float2 low = __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&raw.x));
            float2 high = __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&raw.y));
            const float *w = weight + ((dy + 1) * 3 + dx + 1) * channels + c;
            sum[0] += low.x * w[0], sum[1] += low.y * w[1], sum[2] += high.x * w[2], sum[3] += high.y * w[3];
        }
    __nv_bfloat162 low = __floats2bfloat162_rn(sum[0], sum[1]), high = __floats2bfloat162_rn(sum[2], sum[3]);
    uint2 raw = {*reinterpret_cast<unsigned *>(&low), *reinterpret_cast<unsigned *>(&high)};
    *reinterpret_cast<uint2 *>(y + ((long long)row * width + column) * channels + c) = raw;
}
