"""Cooperative groups as CUDA's samples use them: tiles, coalesced groups, reductions, scans, partitions, the grid."""

from cuda import *

TILES = r"""
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;

extern "C" __global__ void tile_sums(const int *in, int *out) {
    cg::thread_block block = cg::this_thread_block();
    cg::thread_block_tile<8> tile = cg::tiled_partition<8>(block);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int sum = cg::reduce(tile, in[i], cg::plus<int>());
    int top = cg::reduce(tile, in[i], cg::greater<int>());
    int before = cg::exclusive_scan(tile, in[i], cg::plus<int>());
    int upto = cg::inclusive_scan(tile, in[i], cg::plus<int>());
    out[4 * i] = sum; out[4 * i + 1] = top; out[4 * i + 2] = before; out[4 * i + 3] = upto;
}
extern "C" __global__ void warp_floats(const float *in, float *out) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    float sum = cg::reduce(warp, in[blockIdx.x * 64 + threadIdx.x], cg::plus<float>());
    if (warp.thread_rank() == 0) out[blockIdx.x * 2 + warp.meta_group_rank()] = sum;
}
extern "C" __global__ void filter(const int *in, int n, int *out, int *count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && in[i] % 3 == 0) {
        cg::coalesced_group active = cg::coalesced_threads();
        int at;
        if (active.thread_rank() == 0) at = atomicAdd(count, active.size());
        at = active.shfl(at, 0) + active.thread_rank();
        out[at] = in[i];
    }
}
extern "C" __global__ void labelled(const int *label, int *size, int *sum) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    auto group = cg::labeled_partition(warp, label[threadIdx.x]);
    size[threadIdx.x] = group.size();
    sum[threadIdx.x] = cg::reduce(group, (int)threadIdx.x, cg::plus<int>());
}
extern "C" __global__ void halves(int *out) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    auto part = cg::binary_partition(warp, threadIdx.x % 4 == 0);
    out[threadIdx.x] = part.size() * 100 + part.thread_rank();
}
extern "C" __global__ void tile_steps(int *out) {
    auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    int r = tile.thread_rank();
    int x = tile.shfl_up(r, 1) + 100 * tile.shfl_down(r, 2) + 10000 * tile.shfl_xor(r, 5);
    bool any = tile.any(r == 3), all = tile.all(r < 16);
    out[threadIdx.x] = x + 1000000 * (any && all) + 2000000 * __popc(tile.ballot(r & 1));
    tile.sync();
}
extern "C" __global__ void dynamic_tile(int *out, unsigned width) {
    cg::thread_group g = cg::tiled_partition(cg::this_thread_block(), width);
    out[threadIdx.x] = g.thread_rank() * 100 + g.size();
    g.sync();
}
"""

GRID = r"""
#include <cooperative_groups.h>
namespace cg = cooperative_groups;
// Every block's sum, then, after the whole grid, their total: two phases in one launch.
extern "C" __global__ void two_phases(const float *in, float *partial, float *total, int n, int rounds) {
    cg::grid_group grid = cg::this_grid();
    __shared__ float sums[256];
    for (int round = 0; round < rounds; ++round) {
        float sum = 0;
        for (unsigned long long i = grid.thread_rank(); i < n; i += grid.size()) sum += in[i];
        sums[threadIdx.x] = sum;
        __syncthreads();
        for (int half = blockDim.x / 2; half; half /= 2) {
            if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
            __syncthreads();
        }
        if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
        grid.sync();
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            float all = 0;
            for (int b = 0; b < gridDim.x; ++b) all += partial[b];
            *total = all;
        }
        grid.sync();
    }
}
// Split arrival and waiting on the grid's barrier.
extern "C" __global__ void split_barrier(int *flags, int *seen) {
    cg::grid_group grid = cg::this_grid();
    if (threadIdx.x == 0) flags[blockIdx.x] = blockIdx.x + 1;
    auto token = grid.barrier_arrive();
    grid.barrier_wait(std::move(token));
    if (threadIdx.x == 0) seen[blockIdx.x] = flags[(blockIdx.x + 1) % gridDim.x];
}
"""

ASYNC = r"""
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
namespace cg = cooperative_groups;
extern "C" __global__ void staged(const float *in, float *out, int n) {
    extern __shared__ float stage[];
    auto block = cg::this_thread_block();
    for (int at = 0; at < n; at += 128) {
        cg::memcpy_async(block, stage, in + at, sizeof(float) * 128);
        cg::wait(block);
        out[at + threadIdx.x] = 2 * stage[127 - threadIdx.x];
        block.sync();
    }
}
"""


def test_tiles():
    module = Module(TILES)
    n = 128
    data = [(i * 37) % 101 - 50 for i in range(n)]
    source, out = Buffer("i", data), Buffer("i", 4 * n)
    launch(module.tile_sums, 2, 64, source, out)
    found = out.get()
    for i in range(n):
        tile = data[i // 8 * 8 : i // 8 * 8 + 8]
        r = i % 8
        assert found[4 * i : 4 * i + 4] == [sum(tile), max(tile), sum(tile[:r]), sum(tile[: r + 1])], i
    floats, sums = Buffer("f", [x / 4 for x in data]), Buffer("f", 4)
    launch(module.warp_floats, 2, 64, floats, sums)
    close(sums.get(), [sum(data[w * 32 : w * 32 + 32]) / 4 for w in range(4)])
    for buffer in (source, out, floats, sums):
        buffer.free()
    module.unload()


def test_coalesced_and_partitions():
    module = Module(TILES)
    n = 1000
    data = [(i * 7919) % 997 for i in range(n)]
    source, out, count = Buffer("i", data), Buffer("i", n), Buffer("i", 1)
    launch(module.filter, 8, 128, source, n, out, count)
    expected = [x for x in data if x % 3 == 0]
    assert count.get()[0] == len(expected)
    assert sorted(out.get()[: len(expected)]) == sorted(expected)
    labels = [(i * i) % 5 for i in range(32)]
    label, size, total = Buffer("i", labels), Buffer("i", 32), Buffer("i", 32)
    launch(module.labelled, 1, 32, label, size, total)
    assert size.get() == [labels.count(l) for l in labels]
    assert total.get() == [sum(i for i in range(32) if labels[i] == l) for l in labels]
    launch(module.halves, 1, 32, size)
    assert size.get() == [800 + i // 4 if i % 4 == 0 else 2400 + i - i // 4 - 1 for i in range(32)]
    launch(module.tile_steps, 1, 32, size)
    for i, x in enumerate(size.get()):
        r = i % 16
        steps = max(r - 1, 0) + 100 * (r + 2 if r + 2 < 16 else r) + 10000 * (r ^ 5)
        assert x == steps + 1000000 + 16000000, (i, x)
    launch(module.dynamic_tile, 1, 32, size, U32(4))
    assert size.get() == [i % 4 * 100 + 4 for i in range(32)]
    for buffer in (source, out, count, label, size, total):
        buffer.free()
    module.unload()


def test_grid_synchronises():
    module = Module(GRID)
    n, blocks = 100000, 24
    source, partial, total = Buffer("f", [i % 7 for i in range(n)]), Buffer("f", blocks), Buffer("f", 1)
    launch(module.two_phases, blocks, 256, source, partial, total, n, 3, cooperative=True)
    assert total.get() == [float(sum(i % 7 for i in range(n)))]
    flags, seen = Buffer("i", blocks), Buffer("i", blocks)
    launch(module.split_barrier, blocks, 64, flags, seen, cooperative=True)
    assert seen.get() == [(b + 1) % blocks + 1 for b in range(blocks)]
    for buffer in (source, partial, total, flags, seen):
        buffer.free()
    module.unload()


def test_memcpy_async_of_groups():
    module = Module(ASYNC)
    n = 1024
    source, out = Buffer("f", range(n)), Buffer("f", n)
    launch(module.staged, 1, 128, source, out, n, shared=512)
    assert out.get() == [2.0 * (i // 128 * 128 + 127 - i % 128) for i in range(n)]
    source.free()
    out.free()
    module.unload()


main(globals())
