"""The driver API by ctypes, as a program that nobody here wrote would use it. Needs nothing but Python:
kernels are PTX text. Run by tests/ctypes.rs with softcuda as libcuda.so.1; exits 0 when all holds."""

import ctypes as c
import os
import sys

cuda = c.CDLL("libcuda.so.1")
P, U64, U32, I32, SZ = c.c_void_p, c.c_uint64, c.c_uint32, c.c_int, c.c_size_t

PTX = b"""
.version 7.0
.target sm_52
.address_size 64

.visible .global .align 4 .u32 variable = 41;

.visible .entry scale(.param .u64 x, .param .f32 by, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [x];
    ld.param.f32 %f1, [by];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    mul.f32 %f3, %f2, %f1;
    st.global.f32 [%rd4], %f3;
DONE:
    ret;
}
"""

FUNCTIONS = {
    "cuMemAlloc_v2": (c.POINTER(U64), SZ),
    "cuMemFree_v2": (U64,),
    "cuMemcpyHtoD_v2": (U64, P, SZ),
    "cuMemcpyDtoH_v2": (P, U64, SZ),
    "cuMemsetD8_v2": (U64, c.c_uint8, SZ),
    "cuMemsetD2D32_v2": (U64, SZ, U32, SZ, SZ),
    "cuMemAllocPitch_v2": (c.POINTER(U64), c.POINTER(SZ), SZ, SZ, U32),
    "cuMemHostAlloc": (c.POINTER(U64), SZ, U32),
    "cuMemFreeHost": (U64,),
    "cuMemHostRegister_v2": (U64, SZ, U32),
    "cuMemHostUnregister": (U64,),
    "cuMemHostGetDevicePointer_v2": (c.POINTER(U64), U64, U32),
    "cuMemAllocManaged": (c.POINTER(U64), SZ, U32),
    "cuPointerGetAttribute": (P, U32, U64),
    "cuLaunchKernel": (P, U32, U32, U32, U32, U32, U32, U32, P, P, P),
    "cuModuleLoadData": (c.POINTER(P), P),
    "cuModuleLoadDataEx": (c.POINTER(P), P, U32, P, P),
    "cuModuleGetFunction": (c.POINTER(P), P, c.c_char_p),
    "cuModuleGetGlobal_v2": (c.POINTER(U64), c.POINTER(SZ), P, c.c_char_p),
    "cuModuleUnload": (P,),
    "cuLibraryLoadData": (c.POINTER(P), P, P, P, U32, P, P, U32),
    "cuLibraryGetKernel": (c.POINTER(P), P, c.c_char_p),
    "cuLibraryUnload": (P,),
    "cuStreamCreate": (c.POINTER(P), U32),
    "cuStreamDestroy_v2": (P,),
    "cuStreamSynchronize": (P,),
    "cuStreamWaitEvent": (P, P, U32),
    "cuStreamBeginCapture_v2": (P, U32),
    "cuStreamEndCapture": (P, c.POINTER(P)),
    "cuLaunchHostFunc": (P, P, P),
    "cuMemAllocAsync": (c.POINTER(U64), SZ, P),
    "cuMemFreeAsync": (U64, P),
    "cuMemcpyDtoHAsync_v2": (P, U64, SZ, P),
    "cuMemcpyHtoDAsync_v2": (U64, P, SZ, P),
    "cuEventCreate": (c.POINTER(P), U32),
    "cuEventRecord": (P, P),
    "cuEventDestroy_v2": (P,),
    "cuGraphCreate": (c.POINTER(P), U32),
    "cuGraphAddKernelNode_v2": (c.POINTER(P), P, P, SZ, P),
    "cuGraphAddMemsetNode": (c.POINTER(P), P, P, SZ, P, P),
    "cuGraphAddEmptyNode": (c.POINTER(P), P, P, SZ),
    "cuGraphInstantiateWithFlags": (c.POINTER(P), P, U64),
    "cuGraphExecUpdate_v2": (P, P, P),
    "cuGraphLaunch": (P, P),
    "cuGraphDestroy": (P,),
    "cuGraphExecDestroy": (P,),
    "cuMemcpy2D_v2": (P,),
    "cuGetProcAddress_v2": (c.c_char_p, c.POINTER(P), I32, U64, c.POINTER(U32)),
    "cuLaunchKernelEx": (P, P, P, P),
    "cuDevicePrimaryCtxRetain": (c.POINTER(P), I32),
    "cuDevicePrimaryCtxRelease_v2": (I32,),
    "cuCtxSetCurrent": (P,),
}
for name, arguments in FUNCTIONS.items():
    getattr(cuda, name).argtypes = arguments


def ok(code):
    assert code == 0, f"CUresult {code} in line {sys._getframe(1).f_lineno}"


def new(kind, function, *arguments):
    out = kind()
    ok(function(c.byref(out), *arguments))
    return out.value


def floats(*values):
    return (c.c_float * len(values))(*values)


def pointers(*values):
    return (P * len(values))(*[c.cast(c.byref(value), P) for value in values])


def download(address, n):
    host = (c.c_float * n)()
    ok(cuda.cuMemcpyDtoH_v2(host, address, 4 * n))
    return list(host)


def scale(function, address, by, n, stream=None):
    x, f, count = U64(address), c.c_float(by), U32(n)
    parameters = pointers(x, f, count)
    ok(cuda.cuLaunchKernel(function, (n + 31) // 32, 1, 1, 32, 1, 1, 0, stream, parameters, None))


def every_symbol_is_there():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "driver_symbols.txt")
    with open(path) as names:
        missing = [name for name in names.read().split() if not hasattr(cuda, name)]
    assert not missing, missing


def functions_are_found_by_name_and_version():
    function, status = P(), U32()
    ok(cuda.cuGetProcAddress_v2(b"cuMemAlloc", c.byref(function), 12000, 0, c.byref(status)))
    assert status.value == 0 and function.value == c.cast(cuda.cuMemAlloc_v2, P).value
    assert cuda.cuGetProcAddress_v2(b"cuNothing", c.byref(function), 12000, 0, c.byref(status)) == 500
    assert status.value == 1 and function.value is None


def nothing_works_before_cuinit():
    count = I32()
    assert cuda.cuDeviceGetCount(c.byref(count)) == 3
    ok(cuda.cuInit(0))
    ok(cuda.cuDeviceGetCount(c.byref(count)))
    assert count.value == 1
    assert cuda.cuMemAlloc_v2(c.byref(U64()), 16) == 201  # no context yet


def launches_take_pointers_or_a_packed_buffer(function):
    x = new(U64, cuda.cuMemAlloc_v2, 400)
    ok(cuda.cuMemcpyHtoD_v2(x, floats(*range(100)), 400))
    scale(function, x, 2.0, 100)
    assert download(x, 100) == [2.0 * i for i in range(100)]

    class Packed(c.Structure):
        _fields_ = [("x", U64), ("by", c.c_float), ("n", U32)]

    packed, size = Packed(x, 0.5, 100), SZ(c.sizeof(Packed))
    extra = (P * 5)(1, c.cast(c.byref(packed), P), 2, c.cast(c.byref(size), P), None)
    ok(cuda.cuLaunchKernel(function, 4, 1, 1, 32, 1, 1, 0, None, None, extra))
    assert download(x, 100) == [float(i) for i in range(100)]
    size.value = 8
    assert cuda.cuLaunchKernel(function, 4, 1, 1, 32, 1, 1, 0, None, None, extra) == 1
    for grid, block in [(0, 32), (1, 0), (1, 2048)]:
        assert cuda.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, 0, None, None, extra) == 1

    class Config(c.Structure):
        _fields_ = [("dims", U32 * 6), ("shared", U32), ("stream", P), ("attributes", P), ("count", U32)]

    config = Config((U32 * 6)(4, 1, 1, 32, 1, 1), 0, None, None, 0)
    a, f, n = U64(x), c.c_float(3.0), U32(100)
    ok(cuda.cuLaunchKernelEx(c.byref(config), function, pointers(a, f, n), None))
    assert download(x, 100) == [3.0 * i for i in range(100)]
    ok(cuda.cuMemFree_v2(x))


def pitched_memory_is_copied_row_by_row():
    address, pitch = U64(), SZ()
    ok(cuda.cuMemAllocPitch_v2(c.byref(address), c.byref(pitch), 12, 5, 4))
    assert pitch.value % 512 == 0

    class Copy(c.Structure):
        side = [("x", SZ), ("y", SZ), ("type", U32), ("host", P), ("device", U64), ("array", P), ("pitch", SZ)]
        _fields_ = [("src_" + n, t) for n, t in side] + [("dst_" + n, t) for n, t in side] + [("w", SZ), ("h", SZ)]

    source, target = floats(*range(15)), (c.c_float * 15)()
    ok(cuda.cuMemsetD2D32_v2(address, pitch, 7, 3, 5))
    up = Copy(src_type=1, src_host=c.cast(source, P), dst_type=2, dst_device=address, dst_pitch=pitch, w=12, h=5)
    ok(cuda.cuMemcpy2D_v2(c.byref(up)))
    down = Copy(src_type=2, src_device=address, src_pitch=pitch, dst_type=1, dst_host=c.cast(target, P), w=12, h=5)
    ok(cuda.cuMemcpy2D_v2(c.byref(down)))
    assert list(target) == list(source)
    down.src_y = 1
    assert cuda.cuMemcpy2D_v2(c.byref(down)) == 1  # a row too many
    ok(cuda.cuMemFree_v2(address))


def kernels_reach_pinned_registered_and_managed_memory(function):
    pinned = new(U64, cuda.cuMemHostAlloc, 128, 2)
    managed = new(U64, cuda.cuMemAllocManaged, 128, 1)
    own = floats(*[1.0] * 32)
    ok(cuda.cuMemHostRegister_v2(c.addressof(own), 128, 0))
    assert cuda.cuMemHostRegister_v2(c.addressof(own) + 4, 8, 0) == 712
    for address in (pinned, managed, c.addressof(own)):
        host = (c.c_float * 32).from_address(address)
        host[:] = [1.5] * 32
        device = new(U64, cuda.cuMemHostGetDevicePointer_v2, address, 0)
        scale(function, device, 2.0, 32)
        ok(cuda.cuCtxSynchronize())
        assert list(host) == [3.0] * 32
    kind = U32()
    ok(cuda.cuPointerGetAttribute(c.byref(kind), 2, pinned))
    assert kind.value == 1
    ok(cuda.cuPointerGetAttribute(c.byref(kind), 8, managed))
    assert kind.value == 1
    assert cuda.cuPointerGetAttribute(c.byref(kind), 2, c.addressof(kind)) == 1
    ok(cuda.cuMemHostUnregister(c.addressof(own)))
    assert cuda.cuMemHostUnregister(c.addressof(own)) == 713
    ok(cuda.cuMemFreeHost(pinned))
    ok(cuda.cuMemFree_v2(managed))
    assert cuda.cuMemFree_v2(managed) == 1


def a_bad_ptx_tells_its_line_in_the_error_log():
    log = c.create_string_buffer(512)
    options = (U32 * 2)(5, 6)
    values = (P * 2)(c.cast(log, P), 512)
    bad = PTX.replace(b"mul.f32", b"frobnicate.f32")
    assert cuda.cuModuleLoadDataEx(c.byref(P()), bad, 2, options, values) == 218
    assert b"frobnicate" in log.value and b"line 27" in log.value, log.value
    assert values[1] == len(log.value)
    for fatbin in (b"\x50\xed\x55\xba" + bytes(60), b"\xb1\x43\x62\x46" + bytes(60)):
        assert cuda.cuModuleLoadData(c.byref(P()), fatbin) == 209
    assert cuda.cuModuleLoadData(c.byref(P()), b"\x7fELF" + bytes(64)) != 0


def libraries_give_kernels_that_launch():
    library = new(P, cuda.cuLibraryLoadData, PTX, None, None, 0, None, None, 0)
    kernel = new(P, cuda.cuLibraryGetKernel, library, b"scale")
    assert cuda.cuLibraryGetKernel(c.byref(P()), library, b"none") == 500
    x = new(U64, cuda.cuMemAlloc_v2, 128)
    ok(cuda.cuMemcpyHtoD_v2(x, floats(*range(32)), 128))
    scale(kernel, x, 4.0, 32)
    assert download(x, 32) == [4.0 * i for i in range(32)]
    ok(cuda.cuMemFree_v2(x))
    ok(cuda.cuLibraryUnload(library))
    assert cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, None, None, None) == 400


def host_functions_run_in_order_and_must_not_call_cuda():
    stream = new(P, cuda.cuStreamCreate, 1)
    seen = []
    kind = c.CFUNCTYPE(None, P)
    inner = kind(lambda data: seen.append(cuda.cuStreamSynchronize(None)))
    first = kind(lambda data: seen.append(data))
    ok(cuda.cuLaunchHostFunc(stream, c.cast(first, P), 77))
    ok(cuda.cuLaunchHostFunc(stream, c.cast(inner, P), None))
    ok(cuda.cuStreamSynchronize(stream))
    assert seen == [77, 800], seen
    ok(cuda.cuStreamDestroy_v2(stream))
    assert cuda.cuStreamDestroy_v2(stream) == 400


class KernelNode(c.Structure):
    _fields_ = [("function", P), ("dims", U32 * 6), ("shared", U32), ("parameters", P), ("extra", P),
                ("kernel", P), ("context", P)]


class MemsetNode(c.Structure):
    _fields_ = [("dst", U64), ("pitch", SZ), ("value", U32), ("element", U32), ("width", SZ), ("height", SZ)]


def scaling_graph(function, x, by):
    """fill with 1.0, then scale: two nodes and the edge between them"""
    graph = new(P, cuda.cuGraphCreate, 0)
    fill = MemsetNode(x, 0, 0x3F800000, 4, 32, 1)
    first = new(P, cuda.cuGraphAddMemsetNode, graph, None, 0, c.byref(fill), None)
    a, f, n = U64(x), c.c_float(by), U32(32)
    node = KernelNode(function, (U32 * 6)(1, 1, 1, 32, 1, 1), 0, c.cast(pointers(a, f, n), P), None, None, None)
    new(P, cuda.cuGraphAddKernelNode_v2, graph, (P * 1)(first), 1, c.byref(node))
    return graph


def graphs_are_built_by_hand_updated_and_launched(function):
    x = new(U64, cuda.cuMemAlloc_v2, 128)
    graph, other = scaling_graph(function, x, 2.0), scaling_graph(function, x, 5.0)
    run = new(P, cuda.cuGraphInstantiateWithFlags, graph, 0)
    for _ in range(2):
        ok(cuda.cuGraphLaunch(run, None))
        assert download(x, 32) == [2.0] * 32
    result = (U64 * 3)()
    ok(cuda.cuGraphExecUpdate_v2(run, other, result))
    ok(cuda.cuGraphLaunch(run, None))
    assert download(x, 32) == [5.0] * 32
    new(P, cuda.cuGraphAddEmptyNode, other, None, 0)
    assert cuda.cuGraphExecUpdate_v2(run, other, result) == 910 and result[0] & 0xFFFFFFFF == 2
    for handle, destroy in ((run, cuda.cuGraphExecDestroy), (graph, cuda.cuGraphDestroy), (other, cuda.cuGraphDestroy)):
        ok(destroy(handle))
        assert destroy(handle) == 1
    ok(cuda.cuMemFree_v2(x))


def captures_fork_join_and_refuse_what_breaks_them(function):
    a, b = new(P, cuda.cuStreamCreate, 1), new(P, cuda.cuStreamCreate, 1)
    forked, joined = new(P, cuda.cuEventCreate, 2), new(P, cuda.cuEventCreate, 2)
    x = new(U64, cuda.cuMemAlloc_v2, 256)
    ok(cuda.cuMemcpyHtoD_v2(x, floats(*[1.0] * 64), 256))
    ok(cuda.cuStreamBeginCapture_v2(a, 0))
    assert cuda.cuStreamSynchronize(a) == 900
    graph = P(1)
    assert cuda.cuStreamEndCapture(a, c.byref(graph)) == 901 and not graph.value

    for join in (False, True):
        ok(cuda.cuStreamBeginCapture_v2(a, 1))
        ok(cuda.cuEventRecord(forked, a))
        ok(cuda.cuStreamWaitEvent(b, forked, 0))
        scale(function, x, 2.0, 32, a)
        scale(function, x + 128, 3.0, 32, b)
        ok(cuda.cuEventRecord(joined, b))
        if join:
            ok(cuda.cuStreamWaitEvent(a, joined, 0))
        code = cuda.cuStreamEndCapture(a, c.byref(graph))
        assert code == (0 if join else 904), code
    assert download(x, 64) == [1.0] * 64
    run = new(P, cuda.cuGraphInstantiateWithFlags, graph, 0)
    ok(cuda.cuGraphLaunch(run, a))
    ok(cuda.cuStreamSynchronize(a))
    assert download(x, 64) == [2.0] * 32 + [3.0] * 32
    ok(cuda.cuGraphExecDestroy(run))
    ok(cuda.cuGraphDestroy(graph))
    for event in (forked, joined):
        ok(cuda.cuEventDestroy_v2(event))
    for stream in (a, b):
        ok(cuda.cuStreamDestroy_v2(stream))
    ok(cuda.cuMemFree_v2(x))


def blocking_streams_are_ordered_with_the_default_stream(function):
    stream = new(P, cuda.cuStreamCreate, 0)
    x = new(U64, cuda.cuMemAlloc_v2, 128)
    ok(cuda.cuMemsetD8_v2(x, 0, 128))
    scale(function, x, 2.0, 32, stream)  # after the fill, which ran in the default stream
    scale(function, x, 2.0, 32)  # after the one above
    ok(cuda.cuCtxSynchronize())
    ok(cuda.cuStreamDestroy_v2(stream))
    ok(cuda.cuMemFree_v2(x))


def memory_in_stream_order_is_reused_only_after_its_free(function):
    stream = new(P, cuda.cuStreamCreate, 1)
    x = new(U64, cuda.cuMemAllocAsync, 128, stream)
    ok(cuda.cuMemcpyHtoDAsync_v2(x, floats(*[1.0] * 32), 128, stream))
    scale(function, x, 2.0, 32, stream)
    host = (c.c_float * 32)()
    ok(cuda.cuMemcpyDtoHAsync_v2(host, x, 128, stream))
    ok(cuda.cuMemFreeAsync(x, stream))
    ok(cuda.cuStreamSynchronize(stream))
    assert list(host) == [2.0] * 32
    assert cuda.cuMemcpyDtoHAsync_v2(host, x, 128, stream) == 1
    ok(cuda.cuStreamDestroy_v2(stream))


def main():
    every_symbol_is_there()
    nothing_works_before_cuinit()
    functions_are_found_by_name_and_version()
    context = new(P, cuda.cuDevicePrimaryCtxRetain, 0)
    ok(cuda.cuCtxSetCurrent(context))
    module = new(P, cuda.cuModuleLoadData, PTX)
    function = new(P, cuda.cuModuleGetFunction, module, b"scale")
    address, size = U64(), SZ()
    ok(cuda.cuModuleGetGlobal_v2(c.byref(address), c.byref(size), module, b"variable"))
    value = U32()
    ok(cuda.cuMemcpyDtoH_v2(c.byref(value), address, 4))
    assert (size.value, value.value) == (4, 41)
    launches_take_pointers_or_a_packed_buffer(function)
    pitched_memory_is_copied_row_by_row()
    kernels_reach_pinned_registered_and_managed_memory(function)
    a_bad_ptx_tells_its_line_in_the_error_log()
    libraries_give_kernels_that_launch()
    host_functions_run_in_order_and_must_not_call_cuda()
    graphs_are_built_by_hand_updated_and_launched(function)
    captures_fork_join_and_refuse_what_breaks_them(function)
    blocking_streams_are_ordered_with_the_default_stream(function)
    memory_in_stream_order_is_reused_only_after_its_free(function)
    ok(cuda.cuModuleUnload(module))
    ok(cuda.cuDevicePrimaryCtxRelease_v2(0))


main()
