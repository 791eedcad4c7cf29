"""libcu++ in kernels: `cuda::pipeline`, `cuda::barrier` with `memcpy_async`, `cuda::atomic_ref`, semaphores, latches,
and the spin lock and hash table that people build from atomics."""

from cuda import *

PIPELINE = r"""
#include <cuda/pipeline>
#include <cuda/barrier>
#include <cooperative_groups.h>
namespace cg = cooperative_groups;

// Two stages of block-wide tiles: the next one loads while this one is used.
extern "C" __global__ void block_pipeline(const int *in, int *out, int tiles) {
    extern __shared__ int stage[];
    auto block = cg::this_thread_block();
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
    auto pipe = cuda::make_pipeline(block, &state);
    auto fetch = [&](int tile) {
        pipe.producer_acquire();
        cuda::memcpy_async(block, stage + tile % 2 * blockDim.x, in + tile * blockDim.x,
                           cuda::aligned_size_t<16>(sizeof(int) * blockDim.x), pipe);
        pipe.producer_commit();
    };
    fetch(0);
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) fetch(tile + 1);
        pipe.consumer_wait();
        block.sync();
        out[tile * blockDim.x + threadIdx.x] = stage[tile % 2 * blockDim.x + blockDim.x - 1 - threadIdx.x];
        block.sync();
        pipe.consumer_release();
    }
}
// A pipeline of each thread's own, without shared state.
extern "C" __global__ void thread_pipeline(const float4 *in, float *out, int n) {
    __shared__ float4 stage[2][64];
    auto pipe = cuda::make_pipeline();
    int t = threadIdx.x;
    for (int ahead = 0; ahead < 2; ++ahead) {
        pipe.producer_acquire();
        if (ahead * 64 + t < n) cuda::memcpy_async(&stage[ahead][t], in + ahead * 64 + t, sizeof(float4), pipe);
        pipe.producer_commit();
    }
    for (int at = 0, s = 0; at < n; at += 64, s ^= 1) {
        cuda::pipeline_consumer_wait_prior<1>(pipe);
        if (at + t < n) out[at + t] = stage[s][t].x + stage[s][t].y * stage[s][t].z - stage[s][t].w;
        pipe.consumer_release();
        pipe.producer_acquire();
        if (at + 128 + t < n) cuda::memcpy_async(&stage[s][t], in + at + 128 + t, sizeof(float4), pipe);
        pipe.producer_commit();
    }
}
// Producer and consumer warps that meet at barriers.
#pragma nv_diag_suppress static_var_with_dynamic_init
extern "C" __global__ void specialised(const float *in, float *out, int rounds) {
    using barrier = cuda::barrier<cuda::thread_scope_block>;
    __shared__ float buffer[2][32];
    __shared__ barrier full[2], empty[2];
    if (threadIdx.x < 2) { init(full + threadIdx.x, 64); init(empty + threadIdx.x, 64); }
    __syncthreads();
    int lane = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        for (int i = 0; i < rounds; ++i) {
            if (i >= 2) empty[i % 2].arrive_and_wait();
            buffer[i % 2][lane] = in[i * 32 + lane];
            auto token = full[i % 2].arrive();
        }
    } else {
        for (int i = 0; i < rounds; ++i) {
            full[i % 2].arrive_and_wait();
            out[i * 32 + lane] = buffer[i % 2][31 - lane] + 0.5f;
            if (i + 2 < rounds) auto token = empty[i % 2].arrive();
        }
    }
}
// A bulk copy that an mbarrier counts the bytes of (sm_90).
extern "C" __global__ void bulk(const int *in, int *out) {
    using barrier = cuda::barrier<cuda::thread_scope_block>;
    alignas(128) __shared__ int tile[256];
    __shared__ barrier bar;
    if (threadIdx.x == 0) { init(&bar, blockDim.x); cuda::device::experimental::fence_proxy_async_shared_cta(); }
    __syncthreads();
    barrier::arrival_token token;
    if (threadIdx.x == 0) {
        cuda::device::experimental::cp_async_bulk_global_to_shared(tile, in + blockIdx.x * 256, sizeof(tile), bar);
        token = cuda::device::barrier_arrive_tx(bar, 1, sizeof(tile));
    } else {
        token = bar.arrive();
    }
    bar.wait(std::move(token));
    for (int i = threadIdx.x; i < 256; i += blockDim.x) tile[i] = tile[i] * 3 + 1;
    cuda::device::experimental::fence_proxy_async_shared_cta();
    __syncthreads();
    if (threadIdx.x == 0) {
        cuda::device::experimental::cp_async_bulk_shared_to_global(out + blockIdx.x * 256, tile, sizeof(tile));
        cuda::device::experimental::cp_async_bulk_commit_group();
        cuda::device::experimental::cp_async_bulk_wait_group_read<0>();
    }
}
"""

ATOMICS = r"""
#include <cuda/atomic>
#include <cuda/semaphore>
#include <cuda/latch>
#include <cuda/std/array>
#include <cuda/std/tuple>
#include <cuda/std/complex>

extern "C" __global__ void refs(int *sum, int *top, unsigned long long *bits, float *floats, double *doubles) {
    cuda::atomic_ref<int, cuda::thread_scope_device> s(*sum), t(*top);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    s.fetch_add(i, cuda::memory_order_relaxed);
    t.fetch_max((i * 7919) % 1009, cuda::memory_order_relaxed);
    cuda::atomic_ref<unsigned long long> b(*bits);
    b.fetch_or(1ull << (i % 61));
    cuda::atomic_ref<float, cuda::thread_scope_device>(*floats).fetch_add(0.25f);
    cuda::atomic_ref<double, cuda::thread_scope_device>(*doubles).fetch_add(0.125);
}
// Blocks count one after the other behind a ticket lock: acquire and release.
__device__ cuda::atomic<unsigned, cuda::thread_scope_device> next_ticket{0}, now_serving{0};
extern "C" __global__ void ticket_lock(int *value) {
    if (threadIdx.x == 0) {
        unsigned mine = next_ticket.fetch_add(1, cuda::memory_order_relaxed);
        while (now_serving.load(cuda::memory_order_acquire) != mine) __nanosleep(20);
        *value = *value * 3 + 1;
        now_serving.store(mine + 1, cuda::memory_order_release);
    }
}
extern "C" __global__ void reset_lock() { next_ticket = 0; now_serving = 0; }
// Threads of one warp that take a lock each: needs forward progress of diverged lanes.
__device__ int plain_lock = 0;
extern "C" __global__ void lane_lock(int *counter) {
    bool done = false;
    while (!done) {
        if (atomicCAS(&plain_lock, 0, 1) == 0) {
            __threadfence();
            *(volatile int *)counter = *(volatile int *)counter + 1;
            __threadfence();
            atomicExch(&plain_lock, 0);
            done = true;
        }
    }
}
// A hash table with open addressing.
extern "C" __global__ void insert(const unsigned *keys, int n, unsigned *table, unsigned *counts, unsigned size) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned key = keys[i], slot = key * 2654435761u % size;
    while (true) {
        unsigned old = atomicCAS(&table[slot], 0xffffffffu, key);
        if (old == 0xffffffffu || old == key) { atomicAdd(&counts[slot], 1); return; }
        slot = (slot + 1) % size;
    }
}
extern "C" __global__ void semaphore(int *most) {
    __shared__ cuda::counting_semaphore<cuda::thread_scope_block, 4> *sem;
    __shared__ int inside, top;
    __shared__ alignas(8) char room[sizeof(*sem)];
    if (threadIdx.x == 0) { sem = new (room) cuda::counting_semaphore<cuda::thread_scope_block, 4>(4); inside = top = 0; }
    __syncthreads();
    sem->acquire();
    int now = atomicAdd(&inside, 1) + 1;
    atomicMax(&top, now);
    atomicSub(&inside, 1);
    sem->release();
    __syncthreads();
    if (threadIdx.x == 0) *most = top;
}
extern "C" __global__ void wide(unsigned long long *a, unsigned short *h, unsigned *u) {
    int i = threadIdx.x;
    atomicMin((long long *)&a[0], (long long)(i - 20) * 1000000007ll);
    atomicMax(&a[1], (unsigned long long)i << 40);
    atomicExch(&a[2], 77ull);
    atomicAnd(&a[3], ~(1ull << i));
    atomicXor(&a[4], 1ull << i);
    unsigned short old = h[0], seen;
    do { seen = old; old = atomicCAS(&h[0], seen, (unsigned short)(seen + 3)); } while (old != seen);
    atomicInc(&u[0], 9); atomicDec(&u[1], 6);
    cuda::std::complex<float> z(i, 1); z *= z;
    cuda::std::array<int, 4> four{1, 2, 3, i};
    auto [x, y] = cuda::std::make_tuple(four[3], four[0]);
    u[2 + i] = (unsigned)(z.real() + z.imag()) + x * 1000 + y;
}
"""


def test_pipelines_and_barriers():
    module = Module(PIPELINE)
    n = 1024
    source, out = Buffer("i", range(n)), Buffer("i", n)
    launch(module.block_pipeline, 1, 128, source, out, 8, shared=1024)
    assert out.get() == [i // 128 * 128 + 127 - i % 128 for i in range(n)]
    launch(module.bulk, 4, 64, source, out)
    assert out.get() == [3 * i + 1 for i in range(n)]
    quads = [((i * 13) % 17) * 0.5 for i in range(4 * 200)]
    floats, sums = Buffer("f", quads), Buffer("f", 200)
    launch(module.thread_pipeline, 1, 64, floats, sums, 200)
    assert sums.get() == [quads[4 * i] + quads[4 * i + 1] * quads[4 * i + 2] - quads[4 * i + 3] for i in range(200)]
    launch(module.specialised, 1, 64, floats, sums, 6)
    assert sums.get()[:192] == [quads[i // 32 * 32 + 31 - i % 32] + 0.5 for i in range(192)]
    for buffer in (source, out, floats, sums):
        buffer.free()
    module.unload()


def test_atomics_locks_and_tables():
    module = Module(ATOMICS)
    total, top, bits, single, double = Buffer("i", 1), Buffer("i", 1), Buffer("Q", 1), Buffer("f", 1), Buffer("d", 1)
    launch(module.refs, 10, 100, total, top, bits, single, double)
    assert total.get() == [499500] and top.get() == [max((i * 7919) % 1009 for i in range(1000))]
    assert bits.get() == [(1 << 61) - 1] and single.get() == [250.0] and double.get() == [125.0]
    value = Buffer("i", 1)
    for _ in range(2):
        value.fill([0])
        launch(module.ticket_lock, 8, 32, value)
        assert value.get() == [(3**8 - 1) // 2]
        launch(module.reset_lock, 1, 1)
    value.fill([0])
    launch(module.lane_lock, 4, 64, value)
    assert value.get() == [256]
    launch(module.semaphore, 1, 96, value)
    assert 1 <= value.get()[0] <= 4
    keys = [(i * i) % 257 for i in range(2000)]
    key, table, counts = Buffer("I", keys), Buffer("I", [0xFFFFFFFF] * 512), Buffer("I", 512)
    launch(module.insert, 16, 128, key, len(keys), table, counts, U32(512))
    found = dict(zip(table.get(), counts.get()))
    assert all(found[k] == keys.count(k) for k in set(keys))
    a, h, u = Buffer("Q", [0, 0, 0, 2**64 - 1, 0]), Buffer("H", [65500, 0]), Buffer("I", 40)
    launch(module.wide, 1, 32, a, h, u)
    assert a.get() == [2**64 - 20 * 1000000007, 31 << 40, 77, 2**64 - 2**32, 2**32 - 1]
    assert h.get()[0] == (65500 + 96) % 65536
    inc, dec = 0, 0
    for _ in range(32):
        inc, dec = (0 if inc >= 9 else inc + 1), (6 if dec == 0 or dec > 6 else dec - 1)
    assert u.get()[:2] == [inc, dec]
    assert u.get()[2:34] == [max(i * i - 1 + 2 * i, 0) + i * 1000 + 1 for i in range(32)]
    for buffer in (total, top, bits, single, double, value, key, table, counts, a, h, u):
        buffer.free()
    module.unload()


main(globals())
