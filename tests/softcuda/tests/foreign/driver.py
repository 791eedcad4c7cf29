"""The driver API as frameworks use it: captured graphs with forks and updates, pools, pitched and 3D copies, pinned
memory, launch attributes, occupancy, JIT linking, libraries, symbol versions and per-thread default streams."""

import threading

from cuda import *

SOURCE = r"""
__constant__ float factor = 2;
__device__ int calls;
extern "C" __global__ void scale(float *x, float by, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] *= by;
}
extern "C" __global__ void add(const float *a, const float *b, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}
extern "C" __global__ void __launch_bounds__(128, 4) by_constant(float *x) { x[threadIdx.x] *= factor; atomicAdd(&calls, 1); }
extern "C" __global__ void local(int *out, int k) { int a[64]; for (int i = 0; i < 64; ++i) a[i] = i * k; out[0] = a[k % 64]; }
"""
PARTS = (
    r"""
    extern __device__ float half_of(float);
    extern __device__ float bias[];
    static __device__ __noinline__ float twist(float x) { return x + 1; }
    extern "C" __global__ void linked(float *x) { x[threadIdx.x] = twist(half_of(x[threadIdx.x])) + bias[1]; }
    """,
    r"""
    __device__ float bias[2] = {100, 200};
    static __device__ __noinline__ float twist(float x) { return x - 4; }
    __device__ float half_of(float x) { return twist(x) / 2; }
    """,
)
N = 1 << 12


def stream(flags=1):
    return new(P, cuda.cuStreamCreate, U32(flags))


def event(flags=2):
    return new(P, cuda.cuEventCreate, U32(flags))


def test_captured_graph_forks_joins_updates_and_repeats():
    module = Module(SOURCE)
    a, b, out = Buffer("f", [1] * N), Buffer("f", [2] * N), Buffer("f", N)
    main_stream, side = stream(), stream()
    fork, join = event(), event()
    pinned = new(P, cuda.cuMemHostAlloc, SZ(4 * N), U32(0))
    host = (c.c_float * N).from_address(pinned)

    def capture(by):
        ok(cuda.cuStreamBeginCapture_v2(P(main_stream), U32(1)))
        ok(cuda.cuMemsetD32Async(U64(a.address), U32(0x3F800000), SZ(N), P(main_stream)))
        ok(cuda.cuEventRecord(P(fork), P(main_stream)))
        ok(cuda.cuStreamWaitEvent(P(side), P(fork), U32(0)))
        launch(module.scale, 4, 128, a, by, N, stream=main_stream)
        ok(cuda.cuMemsetD32Async(U64(b.address), U32(0x40400000), SZ(N), P(side)))
        launch(module.scale, 4, 128, b, by, N, stream=side)
        ok(cuda.cuEventRecord(P(join), P(side)))
        ok(cuda.cuStreamWaitEvent(P(main_stream), P(join), U32(0)))
        launch(module.add, N // 128, 128, a, b, out, N, stream=main_stream)
        ok(cuda.cuMemcpyDtoHAsync_v2(P(pinned), U64(out.address), SZ(4 * N), P(main_stream)))
        graph = P()
        ok(cuda.cuStreamEndCapture(P(main_stream), c.byref(graph)))
        return graph.value

    graph = capture(2.0)
    count = SZ()
    ok(cuda.cuGraphGetNodes(P(graph), None, c.byref(count)))
    assert count.value == 6, count.value
    run = new(P, cuda.cuGraphInstantiateWithFlags, P(graph), U64(0))
    for _ in range(3):
        ok(cuda.cuGraphLaunch(P(run), P(main_stream)))
        ok(cuda.cuStreamSynchronize(P(main_stream)))
        assert list(host) == [8.0] * N
    other, info = capture(5.0), (U64 * 4)()
    ok(cuda.cuGraphExecUpdate_v2(P(run), P(other), info))
    ok(cuda.cuGraphUpload(P(run), P(main_stream)))
    ok(cuda.cuGraphLaunch(P(run), P(main_stream)))
    ok(cuda.cuStreamSynchronize(P(main_stream)))
    assert list(host) == [20.0] * N
    ok(cuda.cuGraphExecDestroy(P(run)))
    for g in (graph, other):
        ok(cuda.cuGraphDestroy(P(g)))
    for e in (fork, join):
        ok(cuda.cuEventDestroy_v2(P(e)))
    for s in (main_stream, side):
        ok(cuda.cuStreamDestroy_v2(P(s)))
    ok(cuda.cuMemFreeHost(P(pinned)))
    for buffer in (a, b, out):
        buffer.free()
    module.unload()


def test_pools_and_stream_ordered_memory():
    pool, keep = P(), U64(2**64 - 1)
    ok(cuda.cuDeviceGetDefaultMemPool(c.byref(pool), 0))
    ok(cuda.cuMemPoolSetAttribute(pool, 4, c.byref(keep)))
    module, s = Module(SOURCE), stream()
    for round_ in range(4):
        x = new(U64, cuda.cuMemAllocAsync, SZ(4 * N), P(s))
        ok(cuda.cuMemsetD32Async(U64(x), U32(0x3F800000), SZ(N), P(s)))
        launch(module.scale, 8, 128, U64(x), float(round_), N, stream=s)
        host = (c.c_float * N)()
        ok(cuda.cuMemcpyDtoHAsync_v2(host, U64(x), SZ(4 * N), P(s)))
        ok(cuda.cuMemFreeAsync(U64(x), P(s)))
        ok(cuda.cuStreamSynchronize(P(s)))
        assert list(host) == [float(round_)] * N
    current, high = U64(), U64()
    ok(cuda.cuMemPoolGetAttribute(pool, 7, c.byref(current)))
    ok(cuda.cuMemPoolGetAttribute(pool, 8, c.byref(high)))
    assert current.value == 0 and high.value >= 4 * N, (current.value, high.value)
    ok(cuda.cuMemPoolTrimTo(pool, SZ(0)))

    class Properties(c.Structure):
        _fields_ = [("type", U32), ("handles", U32), ("location", U32), ("id", U32), ("security", P), ("most", SZ),
                    ("usage", c.c_ushort), ("reserved", c.c_ubyte * 54)]

    own = P()
    ok(cuda.cuMemPoolCreate(c.byref(own), c.byref(Properties(type=1, location=1))))
    x = U64()
    ok(cuda.cuMemAllocFromPoolAsync(c.byref(x), SZ(1000), own, P(s)))
    ok(cuda.cuMemFreeAsync(x, P(s)))
    ok(cuda.cuMemPoolDestroy(own))
    ok(cuda.cuStreamDestroy_v2(P(s)))
    module.unload()


def test_copies_of_two_and_three_dimensions():
    side = [("x", SZ), ("y", SZ), ("z", SZ), ("lod", SZ), ("type", U32), ("host", P), ("device", U64), ("array", P),
            ("reserved", P), ("pitch", SZ), ("height", SZ)]

    class Copy3d(c.Structure):
        _fields_ = [("src_" + n, t) for n, t in side] + [("dst_" + n, t) for n, t in side] + [("w", SZ), ("h", SZ), ("d", SZ)]

    address, pitch = U64(), SZ()
    ok(cuda.cuMemAllocPitch_v2(c.byref(address), c.byref(pitch), SZ(20), SZ(4 * 3), U32(4)))
    source, target = (I32 * 60)(*range(60)), (I32 * 60)()
    copy = Copy3d(src_type=1, src_host=c.cast(source, P), src_pitch=20, src_height=4, dst_type=2, dst_device=address,
                  dst_pitch=pitch, dst_height=4, w=20, h=4, d=3)
    ok(cuda.cuMemcpy3D_v2(c.byref(copy)))
    # A box of it back: 3 columns from 1, 2 rows from 1, 2 slices from 1.
    back = Copy3d(src_type=2, src_device=address, src_pitch=pitch, src_height=4, src_x=4, src_y=1, src_z=1, dst_type=1,
                  dst_host=c.cast(target, P), dst_pitch=20, dst_height=4, w=12, h=2, d=2)
    ok(cuda.cuMemcpy3DAsync_v2(c.byref(back), None))
    ok(cuda.cuStreamSynchronize(None))
    assert [target[z * 20 + y * 5 + x] for z in range(2) for y in range(2) for x in range(3)] == [
        (z + 1) * 20 + (y + 1) * 5 + x + 1 for z in range(2) for y in range(2) for x in range(3)]
    ok(cuda.cuMemFree_v2(address))


def test_launch_attributes_occupancy_and_function_attributes():
    module = Module(SOURCE)
    x = Buffer("f", range(128))
    # Cooperative, cluster of one, priority, programmatic stream serialisation: all without effect here.
    attributes = (Attribute * 4)(Attribute(2, 0, (U32 * 16)(1)), Attribute(4, 0, (U32 * 16)(1, 1, 1)),
                                 Attribute(8, 0, (U32 * 16)(0)), Attribute(6, 0, (U32 * 16)(1)))
    config = Config((U32 * 6)(1, 1, 1, 128, 1, 1), 0, None, attributes, 4)
    ok(cuda.cuLaunchKernelEx(c.byref(config), module.by_constant, pointers([U64(x.address)]), None))
    assert x.get() == [2.0 * i for i in range(128)]
    address, size = module.variable("factor")
    ok(cuda.cuMemcpyHtoD_v2(U64(address), struct.pack("f", 0.5), SZ(size)))
    launch(module.by_constant, 1, 128, x)
    assert x.get() == [float(i) for i in range(128)]
    address, _ = module.variable("calls")
    calls = I32()
    ok(cuda.cuMemcpyDtoH_v2(c.byref(calls), U64(address), SZ(4)))
    assert calls.value == 256
    kernel, blocks, least, threads = module.by_constant, I32(), I32(), I32()
    ok(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(c.byref(blocks), kernel, 128, SZ(0)))
    assert blocks.value == 16
    ok(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(c.byref(blocks), kernel, 128, SZ(40 << 10), U32(0)))
    assert blocks.value == 5
    ok(cuda.cuOccupancyMaxPotentialBlockSize(c.byref(least), c.byref(threads), kernel, None, SZ(0), 0))
    assert threads.value == 128 and least.value == 132 * 16
    value = I32()
    wanted = {0: 128, 1: 0, 2: 4, 7: 0}
    for attribute, expected in wanted.items():
        ok(cuda.cuFuncGetAttribute(c.byref(value), attribute, kernel))
        assert value.value == expected, (attribute, value.value)
    ok(cuda.cuFuncGetAttribute(c.byref(value), 3, module.local))
    assert value.value >= 256
    x.free()
    module.unload()


def test_linker_and_libraries():
    state, image, size = P(), P(), SZ()
    ok(cuda.cuLinkCreate_v2(0, None, None, c.byref(state)))
    text = ptx(SOURCE)
    ok(cuda.cuLinkAddData_v2(state, 1, text, SZ(len(text) + 1), b"source.ptx", 0, None, None))
    ok(cuda.cuLinkComplete(state, c.byref(image), c.byref(size)))
    module = P()
    ok(cuda.cuModuleLoadData(c.byref(module), image))
    ok(cuda.cuLinkDestroy(state))
    kernel = new(P, cuda.cuModuleGetFunction, module, b"scale")
    x = Buffer("f", [3] * 64)
    launch(P(kernel), 1, 64, x, 7.0, 64)
    assert x.get() == [21.0] * 64
    ok(cuda.cuModuleUnload(module))
    library, count = P(), U32()
    ok(cuda.cuLibraryLoadData(c.byref(library), text, None, None, 0, None, None, 0))
    ok(cuda.cuLibraryGetKernelCount(c.byref(count), library))
    assert count.value == 4
    kernel = new(P, cuda.cuLibraryGetKernel, library, b"scale")
    function = new(P, cuda.cuKernelGetFunction, P(kernel))
    launch(P(function), 1, 64, x, 2.0, 64)
    launch(P(kernel), 1, 64, x, 2.0, 64)
    assert x.get() == [84.0] * 64
    address, bytes_ = U64(), SZ()
    ok(cuda.cuLibraryGetGlobal(c.byref(address), c.byref(bytes_), library, b"calls"))
    assert bytes_.value == 4
    ok(cuda.cuLibraryUnload(library))
    x.free()


def test_texts_are_linked():
    state, image, size = P(), P(), SZ()
    ok(cuda.cuLinkCreate_v2(0, None, None, c.byref(state)))
    for part in PARTS:
        text = ptx(part, "-rdc=true")
        ok(cuda.cuLinkAddData_v2(state, 1, text, SZ(len(text) + 1), b"part.ptx", 0, None, None))
    ok(cuda.cuLinkComplete(state, c.byref(image), c.byref(size)))
    module = P()
    ok(cuda.cuModuleLoadData(c.byref(module), image))
    ok(cuda.cuLinkDestroy(state))
    x = Buffer("f", range(32))
    launch(P(new(P, cuda.cuModuleGetFunction, module, b"linked")), 1, 32, x)
    assert x.get() == [(i - 4) / 2 + 1 + 200 for i in range(32)]
    x.free()
    ok(cuda.cuModuleUnload(module))


def test_symbol_versions_and_per_thread_default_streams():
    found, status = P(), I32()
    address = lambda name: c.cast(getattr(cuda, name), P).value
    for name, version, flags, expected in (
        (b"cuMemAlloc", 12000, 0, "cuMemAlloc_v2"), (b"cuLaunchKernel", 12000, 0, "cuLaunchKernel"),
        (b"cuLaunchKernel", 12000, 2, "cuLaunchKernel_ptsz"), (b"cuMemcpyHtoD", 12000, 2, "cuMemcpyHtoD_v2_ptds"),
        (b"cuMemAlloc", 12000, 2, "cuMemAlloc_v2"), (b"cuStreamBeginCapture", 12000, 2, "cuStreamBeginCapture_v2_ptsz"),
    ):
        ok(cuda.cuGetProcAddress_v2(name, c.byref(found), version, U64(flags), c.byref(status)))
        assert found.value == address(expected) and status.value == 0, (name, flags)
    # The null stream is the thread's own: it has the number of no other thread's, and not the legacy stream's.
    numbers = []

    def ask():
        start()
        number = U64()
        ok(cuda.cuStreamGetId_ptsz(None, c.byref(number)))
        numbers.append(number.value)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    number = U64()
    ok(cuda.cuStreamGetId(None, c.byref(number)))
    assert len({*numbers, number.value}) == 3, (numbers, number.value)
    module, x = Module(SOURCE), new(U64, cuda.cuMemAlloc_v2, SZ(4 * N))
    ok(cuda.cuMemsetD32_v2_ptds(U64(x), U32(0x40000000), SZ(N)))
    values = [U64(x), c.c_float(3), I32(N)]
    ok(cuda.cuLaunchKernel_ptsz(module.scale, *[U32(k) for k in (8, 1, 1, 64, 1, 1, 0)], None, pointers(values), None))
    host = (c.c_float * N)()
    ok(cuda.cuMemcpyDtoH_v2_ptds(host, U64(x), SZ(4 * N)))
    assert list(host) == [6.0] * N
    ok(cuda.cuMemFree_v2(U64(x)))
    module.unload()


main(globals())
