// Recursion of a depth that differs from lane to lane: Fibonacci numbers by the definition, and quicksort of
// a private array.

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

extern "C" __global__ void fibonacci_of_lane(int *y) { y[threadIdx.x] = fibonacci(threadIdx.x % 12); }

__device__ __noinline__ void quicksort(int *x, int low, int high) {
    if (low >= high) return;
    int pivot = x[(low + high) / 2], i = low, j = high;
    while (i <= j) {
        while (x[i] < pivot) ++i;
        while (x[j] > pivot) --j;
        if (i <= j) {
            int other = x[i];
            x[i++] = x[j], x[j--] = other;
        }
    }
    quicksort(x, low, j);
    quicksort(x, i, high);
}

extern "C" __global__ void sort_rows(int *x, int n) {
    int own[16];
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    for (int i = 0; i < n; ++i) own[i] = x[row * n + i];
    quicksort(own, 0, n - 1);
    for (int i = 0; i < n; ++i) x[row * n + i] = own[i];
}
