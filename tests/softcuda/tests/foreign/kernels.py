"""What kernels do besides arithmetic: constants, shared memory, local arrays, recursion, function pointers, heap,
printf, clocks, flags, templates, classes; image filters and sorts of the field."""

import tempfile

from cuda import *

MEMORY = r"""
__constant__ float taps[5];
__device__ int table[4] = {10, 20, 30, 40};
__device__ const char *const words[] = {"zero", "one", "two"};
extern "C" __global__ void filter(const float *in, float *out, int w, int h) {  // separable in one pass, clamped
    __shared__ float tile[20][20];
    for (int y = threadIdx.y; y < 20; y += 16)
        for (int x = threadIdx.x; x < 20; x += 16) {
            int gx = min(max((int)blockIdx.x * 16 + x - 2, 0), w - 1), gy = min(max((int)blockIdx.y * 16 + y - 2, 0), h - 1);
            tile[y][x] = in[gy * w + gx];
        }
    __syncthreads();
    int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
    if (x >= w || y >= h) return;
    float sum = 0;
    for (int j = 0; j < 5; ++j)
        for (int i = 0; i < 5; ++i) sum += taps[i] * taps[j] * tile[threadIdx.y + j][threadIdx.x + i];
    out[y * w + x] = sum;
}
extern "C" __global__ void __launch_bounds__(256, 2) big_shared(const int *in, int *out, int n) {
    extern __shared__ int every[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) every[i] = in[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = every[n - 1 - i];
}
extern "C" __global__ void tables(int *out) { int i = threadIdx.x; out[i] = table[i % 4] + words[i % 3][1]; atomicAdd(&table[i % 4], 0); }
struct Sized { char tag; short two; int three[3]; double four; };
extern "C" __global__ void by_value(Sized s, double *out) {
    out[0] = s.tag; out[1] = s.two; out[2] = s.three[threadIdx.x + 2]; out[3] = s.four; out[4] = sizeof(Sized);
}
"""

CALLS = r"""
__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__device__ void quicksort(int *a, int low, int high) {
    if (low >= high) return;
    int pivot = a[(low + high) / 2], i = low, j = high;
    while (i <= j) {
        while (a[i] < pivot) ++i;
        while (a[j] > pivot) --j;
        if (i <= j) { int t = a[i]; a[i++] = a[j]; a[j--] = t; }
    }
    quicksort(a, low, j); quicksort(a, i, high);
}
extern "C" __global__ void recursive(int *out) {
    int i = threadIdx.x, local[24];
    for (int k = 0; k < 24; ++k) local[k] = (k * 7 + i * 13) % 29;
    quicksort(local, 0, 23);
    bool sorted = true;
    for (int k = 1; k < 24; ++k) sorted &= local[k - 1] <= local[k];
    out[i] = sorted ? fibonacci(i % 12) : -1;
}
struct Shape { __device__ virtual float area() const = 0; };
struct Square : Shape { float a; __device__ Square(float a) : a(a) {} __device__ float area() const override { return a * a; } };
struct Disc : Shape { float r; __device__ Disc(float r) : r(r) {} __device__ float area() const override { return 3 * r * r; } };
typedef int (*Operation)(int, int);
__device__ int plus(int a, int b) { return a + b; }
__device__ int minus(int a, int b) { return a - b; }
__device__ Operation operations[2] = {plus, minus};
extern "C" __global__ void indirect(float *areas, int *values) {
    int i = threadIdx.x;
    Shape *shape = i % 2 ? (Shape *)new Square(i) : (Shape *)new Disc(i);
    areas[i] = shape->area();
    delete shape;
    values[i] = operations[i / 3 % 2](i, 5);
}
extern "C" __global__ void switches(const int *in, int *out) {
    int x = in[threadIdx.x];
    switch (x) {
        case 0: x = 11; break; case 1: x = 7; case 2: x += 100; break; case 3: x = -x; break;
        case 4: for (int i = 0; i < 10; ++i) { if (i == x) continue; x += i; } break;
        case 5: goto out; case 6: x = 1 << x; break; case 7: x = x * x * x; break; default: x = 0;
    }
    x *= 2;
out:
    out[threadIdx.x] = x;
}
"""

OUTPUT = r"""
#include <cuda/std/cassert>
extern "C" __global__ void prints(float x) {
    if (threadIdx.x) return;
    printf("%d %5d|%-5d|%05d %+d %i %u %x %X %#x %o %c %s %%\n", 1, 2, 3, 4, 5, -6, 7u, 255, 255, 255, 8, 'c', "text");
    printf("%f %.2f %8.3f %e %g %G %lld %llu %lx %hd %p\n", x, x, x, x, x, 1e-10, -1ll << 40, 1ull << 63, 255l, (short)9, (void *)0);
    printf("%*d %.*f %10s|%-10s|%.2s %ld %zu %a\n", 6, 42, 3, x, "right", "left", "cut", 1l << 40, sizeof(int), 1.0);
    int returned = printf("no arguments\n");
    printf("%d\n", returned);
}
extern "C" __global__ void asserts(int i) { assert(i < 5 && "too large"); }
"""

TIME = r"""
extern "C" __global__ void clocks(long long *out) {
    long long start = clock64(); unsigned short_start = clock();
    unsigned long long before; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(before));
    __nanosleep(1000);
    volatile float x = 1; for (int i = 0; i < 100; ++i) x = x * 1.5f;
    unsigned long long after; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(after));
    out[0] = clock64() - start; out[1] = clock() - short_start; out[2] = after - before;
    unsigned smid, warpid, nsmid; asm("mov.u32 %0, %smid;" : "=r"(smid)); asm("mov.u32 %0, %warpid;" : "=r"(warpid)); asm("mov.u32 %0, %nsmid;" : "=r"(nsmid));
    out[3] = smid < nsmid; out[4] = warpid;
}
// One block waits until the other has raised a flag.
extern "C" __global__ void flags(volatile int *flag, int *data, int *out) {
    if (threadIdx.x) return;
    if (blockIdx.x == 1) { data[0] = 1234; __threadfence(); flag[0] = 1; }
    if (blockIdx.x == 0) { while (flag[0] == 0) {} __threadfence(); out[0] = data[0]; }
}
// Chained scan: each block waits for the prefix of the one before ("decoupled look-back").
extern "C" __global__ void chained_scan(const int *in, int *out, volatile int *prefix, unsigned *ticket) {
    __shared__ int sums[256]; __shared__ unsigned mine; __shared__ int before;
    if (threadIdx.x == 0) mine = atomicAdd(ticket, 1);
    __syncthreads();
    unsigned i = mine * 256 + threadIdx.x;
    sums[threadIdx.x] = in[i];
    __syncthreads();
    for (int d = 1; d < 256; d *= 2) {
        int add = threadIdx.x >= d ? sums[threadIdx.x - d] : 0;
        __syncthreads();
        sums[threadIdx.x] += add;
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        int p = 0;
        if (mine) while ((p = prefix[mine - 1]) == -1) {}
        before = p;
        __threadfence();
        prefix[mine] = p + sums[255];
    }
    __syncthreads();
    out[i] = before + sums[threadIdx.x];
}
"""


def test_constants_shared_memory_and_parameters():
    module = Module(MEMORY)
    address, size = module.variable("taps")
    assert size == 20
    ok(cuda.cuMemcpyHtoD_v2(U64(address), struct.pack("5f", 1, 2, 3, 2, 1), SZ(20)))
    w, h = 37, 21
    image = [(x * 3 + y * 5) % 17 for y in range(h) for x in range(w)]
    source, out, t = Buffer("f", image), Buffer("f", w * h), [1, 2, 3, 2, 1]
    launch(module.filter, (3, 2), (16, 16), source, out, w, h)
    at = lambda x, y: image[min(max(y, 0), h - 1) * w + min(max(x, 0), w - 1)]
    assert out.get() == [sum(t[i] * t[j] * at(x + i - 2, y + j - 2) for i in range(5) for j in range(5)) for y in range(h) for x in range(w)]
    n = 100 * 256
    data, back = Buffer("i", range(n)), Buffer("i", n)
    kernel = module.big_shared
    try:
        launch(kernel, 1, 256, data, back, n, shared=4 * n)
        raise SystemExit("a launch with 100 KiB needs the attribute")
    except Error as error:
        assert error.code == 1
    ok(cuda.cuFuncSetAttribute(kernel, 8, 4 * n))
    launch(kernel, 1, 256, data, back, n, shared=4 * n)
    assert back.get() == list(range(n - 1, -1, -1))
    attribute = I32()
    ok(cuda.cuFuncGetAttribute(c.byref(attribute), 0, kernel))
    assert attribute.value == 256
    few = Buffer("i", 12)
    launch(module.tables, 1, 12, few)
    assert few.get() == [(10, 20, 30, 40)[i % 4] + ord(("zero", "one", "two")[i % 3][1]) for i in range(12)]

    class Sized(c.Structure):
        _fields_ = [("tag", c.c_char), ("two", c.c_short), ("three", c.c_int * 3), ("four", c.c_double)]

    five = Buffer("d", 5)
    launch(module.by_value, 1, 1, Sized(b"!", -2, (7, 8, 9), 0.5), five)
    assert five.get() == [33, -2, 9, 0.5, 24]
    for buffer in (source, out, data, back, few, five):
        buffer.free()
    module.unload()


def test_recursion_virtual_functions_and_switches():
    module = Module(CALLS)
    out = Buffer("i", 64)
    ok(cuda.cuCtxSetLimit(0, SZ(16 << 10)))
    launch(module.recursive, 1, 64, out)
    fib = [0, 1]
    while len(fib) < 12:
        fib.append(fib[-1] + fib[-2])
    assert out.get() == [fib[i % 12] for i in range(64)]
    areas, values = Buffer("f", 32), Buffer("i", 32)
    launch(module.indirect, 1, 32, areas, values)
    assert areas.get() == [float(i * i if i % 2 else 3 * i * i) for i in range(32)]
    assert values.get() == [i - 5 if i // 3 % 2 else i + 5 for i in range(32)]
    cases = Buffer("i", [i % 9 for i in range(32)])
    launch(module.switches, 1, 32, cases, values)
    four = 4
    for i in range(10):
        if i != four:
            four += i
    result = [22, 214, 204, -6, 2 * four, 5, 128, 686, 0]
    assert values.get() == [result[i % 9] for i in range(32)], values.get()
    for buffer in (out, areas, values, cases):
        buffer.free()
    module.unload()


def test_printf_and_assert():
    module = Module(OUTPUT)
    sys.stdout.flush()
    saved = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        launch(module.prints, 1, 32, 2.5)
        synchronise()
        os.dup2(saved, 1)
        file.seek(0)
        lines = file.read().decode().splitlines()
    assert lines[0] == "1     2|3    |00004 +5 -6 7 ff FF 0xff 10 c text %", lines[0]
    assert lines[1] == "2.500000 2.50    2.500 2.500000e+00 2.5 1E-10 -1099511627776 9223372036854775808 ff 9 (nil)", lines[1]
    assert lines[2] == "    42 2.500      right|left      |cu 1099511627776 4 0x1p+0", lines[2]
    assert lines[3:] == ["no arguments", "0"], lines[3:]
    launch(module.asserts, 1, 1, 4)
    synchronise()
    module.unload()


def test_clocks_and_flags():
    module = Module(TIME)
    out = Buffer("q", 5)
    launch(module.clocks, 1, 1, out)
    found = out.get()
    assert found[0] > 100 and found[1] > 100 and found[2] >= 0 and found[3:] == [1, 0], found
    flag, data, seen = Buffer("i", 1), Buffer("i", 1), Buffer("i", 1)
    launch(module.flags, 2, 32, flag, data, seen)
    assert seen.get() == [1234]
    values = [i * 31 % 7 for i in range(256 * 20)]
    source, scan, prefix, ticket = Buffer("i", values), Buffer("i", len(values)), Buffer("i", [-1] * 20), Buffer("I", 1)
    launch(module.chained_scan, 20, 256, source, scan, prefix, ticket)
    total, sums = 0, []
    for x in values:
        total += x
        sums.append(total)
    assert scan.get() == sums
    for buffer in (out, flag, data, seen, source, scan, prefix, ticket):
        buffer.free()
    module.unload()


main(globals())
