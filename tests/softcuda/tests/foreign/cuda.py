"""What the programs beside this file share: NVRTC and the driver by ctypes, in the shortest way that works on a
real GPU too (`WHEELS` names the folder of NVIDIA's wheels; libcuda.so.1 is whatever the loader finds)."""

import ctypes as c
import glob
import os
import struct
import sys

WHEELS = os.environ["WHEELS"]
P, U64, U32, I32, SZ = c.c_void_p, c.c_uint64, c.c_uint32, c.c_int, c.c_size_t

for _library in glob.glob(f"{WHEELS}/lib/libnvrtc-builtins.so*"):
    c.CDLL(_library, mode=c.RTLD_GLOBAL)
nvrtc = c.CDLL(next(path for path in glob.glob(f"{WHEELS}/lib/libnvrtc.so*") if "alt" not in path))
cuda = c.CDLL("libcuda.so.1")


class Error(Exception):
    def __init__(self, code):
        name = c.c_char_p()
        cuda.cuGetErrorName(code, c.byref(name))
        super().__init__(f"{code} {name.value}")
        self.code = code


def ok(code):
    if code:
        raise Error(code)


def new(kind, function, *arguments):
    out = kind()
    ok(function(c.byref(out), *arguments))
    return out.value


def start():
    ok(cuda.cuInit(0))
    context = new(P, cuda.cuDevicePrimaryCtxRetain, 0)
    ok(cuda.cuCtxSetCurrent(P(context)))


def ptx(source, *options, arch="compute_90", name="program.cu"):
    program = P()
    assert nvrtc.nvrtcCreateProgram(c.byref(program), source.encode(), name.encode(), 0, None, None) == 0
    flags = [f"-arch={arch}", "-std=c++17", "-lineinfo", f"-I{WHEELS}/include", f"-I{WHEELS}/include/cccl", *options]
    array = (c.c_char_p * len(flags))(*[flag.encode() for flag in flags])
    status, size = nvrtc.nvrtcCompileProgram(program, len(flags), array), SZ()
    if status:
        nvrtc.nvrtcGetProgramLogSize(program, c.byref(size))
        log = c.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise SystemExit(log.value.decode())
    nvrtc.nvrtcGetPTXSize(program, c.byref(size))
    text = c.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, text)
    return text.value


class Module:
    """A compiled and loaded source; `module.name` is a kernel of it."""

    def __init__(self, source, *options, **more):
        self.text = ptx(source, *options, **more)
        if os.environ.get("KEEP_PTX"):
            open(os.environ["KEEP_PTX"], "wb").write(self.text)
        log = c.create_string_buffer(8192)
        keys, values = (U32 * 2)(5, 6), (P * 2)(c.cast(log, P), 8192)
        self.handle = P()
        if code := cuda.cuModuleLoadDataEx(c.byref(self.handle), self.text, 2, keys, values):
            raise SystemExit(f"{Error(code)}: {log.value.decode()}")

    def __getattr__(self, name):
        return P(new(P, cuda.cuModuleGetFunction, self.handle, name.encode()))

    def variable(self, name):
        address, size = U64(), SZ()
        ok(cuda.cuModuleGetGlobal_v2(c.byref(address), c.byref(size), self.handle, name.encode()))
        return address.value, size.value

    def unload(self):
        ok(cuda.cuModuleUnload(self.handle))


def value(argument):
    """A kernel argument: an address or a buffer, or an already typed ctypes value."""
    if isinstance(argument, Buffer):
        return U64(argument.address)
    if isinstance(argument, bool) or not isinstance(argument, (int, float)):
        return argument
    return I32(argument) if isinstance(argument, int) else c.c_float(argument)


def pointers(values):
    return (P * max(1, len(values)))(*[c.cast(c.byref(v), P) for v in values])


def three(n):
    return (*n, *[1] * (3 - len(n))) if isinstance(n, tuple) else (n, 1, 1)


def launch(kernel, grid, block, *arguments, shared=0, stream=None, cooperative=False):
    values = [value(argument) for argument in arguments]
    function = cuda.cuLaunchCooperativeKernel if cooperative else cuda.cuLaunchKernel
    shape = [U32(n) for n in (*three(grid), *three(block), shared)]
    more = [] if cooperative else [None]
    ok(function(kernel, *shape, P(stream), pointers(values), *more))


class Attribute(c.Structure):
    _fields_ = [("id", U32), ("pad", U32), ("value", U32 * 16)]


class Config(c.Structure):
    _fields_ = [("dims", U32 * 6), ("shared", U32), ("stream", P), ("attributes", c.POINTER(Attribute)), ("count", U32)]


class Buffer:
    """Device memory holding a Python list; `code` is struct's letter for the element."""

    def __init__(self, code, values):
        values = [0] * values if isinstance(values, int) else list(values)
        self.code, self.count = code, len(values)
        self.bytes = struct.calcsize(code) * self.count
        self.address = new(U64, cuda.cuMemAlloc_v2, SZ(self.bytes))
        self.fill(values)

    def fill(self, values):
        data = struct.pack(f"{self.count}{self.code}", *values)
        ok(cuda.cuMemcpyHtoD_v2(U64(self.address), data, SZ(self.bytes)))

    def get(self):
        data = c.create_string_buffer(self.bytes)
        ok(cuda.cuMemcpyDtoH_v2(data, U64(self.address), SZ(self.bytes)))
        return list(struct.unpack(f"{self.count}{self.code}", data.raw))

    def free(self):
        ok(cuda.cuMemFree_v2(U64(self.address)))


def synchronise():
    ok(cuda.cuCtxSynchronize())


def close(found, expected, tolerance=1e-5):
    assert len(found) == len(expected), (len(found), len(expected))
    for index, (f, e) in enumerate(zip(found, expected)):
        assert abs(f - e) <= tolerance * max(1.0, abs(e)), (index, f, e)


def main(namespace):
    """Runs every function of the program whose name starts with `test_`; names on the command line choose."""
    start()
    chosen = sys.argv[1:]
    for name, function in list(namespace.items()):
        if name.startswith("test_") and (not chosen or name in chosen):
            print(name, flush=True)
            function()
