"""Compiles CUDA C++ to PTX with NVRTC from the wheels, without a GPU or a toolkit.

    nvrtc.py WHEELS_FOLDER SOURCE.cu [-arch=compute_90] [options] > out.ptx
"""
import ctypes
import glob
import os
import sys


def compile_ptx(wheels, source, name="kernel.cu", options=()):
    root = os.path.join(wheels, "nvidia")
    find = lambda pattern: sorted(glob.glob(os.path.join(root, "**", pattern), recursive=True))
    for library in find("libnvrtc-builtins.so*"):
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)  # NVRTC itself doesn't look beside itself
    nvrtc = ctypes.CDLL([p for p in find("libnvrtc.so*") if "alt" not in p][0])
    includes = {os.path.dirname(p) for p in find("cuda_fp16.h") + find("cuda_runtime.h")}
    includes |= {os.path.dirname(os.path.dirname(p)) for p in find("crt/host_defines.h")}
    includes |= {p for p in find("cccl") if os.path.isdir(p)}
    flags = [*options, *("-I" + p for p in sorted(includes))]
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None) == 0
    array = (ctypes.c_char_p * len(flags))(*(f.encode() for f in flags))
    status = nvrtc.nvrtcCompileProgram(program, len(flags), array)
    size = ctypes.c_size_t()
    if status:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise SystemExit(log.value.decode())
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, text)
    return text.value.decode()


if __name__ == "__main__":
    wheels, path, *options = sys.argv[1:]
    sys.stdout.write(compile_ptx(wheels, open(path).read(), path, options))
