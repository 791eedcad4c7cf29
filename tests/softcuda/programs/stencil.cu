// Five-point stencil on an n × n grid with a halo in shared memory; outside the grid is 0.

constexpr int SIDE = 16;

extern "C" __global__ void stencil(float *y, const float *x, int n) {
    __shared__ float tile[SIDE + 2][SIDE + 2];
    int column = blockIdx.x * SIDE + threadIdx.x, row = blockIdx.y * SIDE + threadIdx.y;
    auto at = [&](int r, int c) { return r >= 0 && r < n && c >= 0 && c < n ? x[r * n + c] : 0.0f; };
    int tx = threadIdx.x + 1, ty = threadIdx.y + 1;
    tile[ty][tx] = at(row, column);
    if (threadIdx.x == 0) tile[ty][0] = at(row, column - 1);
    if (threadIdx.x == SIDE - 1) tile[ty][SIDE + 1] = at(row, column + 1);
    if (threadIdx.y == 0) tile[0][tx] = at(row - 1, column);
    if (threadIdx.y == SIDE - 1) tile[SIDE + 1][tx] = at(row + 1, column);
    __syncthreads();
    if (row < n && column < n)
        y[row * n + column] =
            tile[ty - 1][tx] + tile[ty + 1][tx] + tile[ty][tx - 1] + tile[ty][tx + 1] - 4.0f * tile[ty][tx];
}
