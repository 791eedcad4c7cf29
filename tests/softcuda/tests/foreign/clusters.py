"""Thread-block clusters (sm_90): `cluster_group`, distributed shared memory, the launch attribute."""

from cuda import *

SOURCE = r"""
#include <cooperative_groups.h>
namespace cg = cooperative_groups;

// A histogram whose bins are spread over the shared memory of a cluster's blocks, as in the programming guide.
extern "C" __global__ void histogram(const int *in, int n, int *bins, int count, int per_block) {
    extern __shared__ int mine[];
    cg::cluster_group cluster = cg::this_cluster();
    for (int i = threadIdx.x; i < per_block; i += blockDim.x) mine[i] = 0;
    cluster.sync();
    int id = cg::this_grid().thread_rank(), threads = gridDim.x * blockDim.x;
    for (int i = id; i < n; i += threads) {
        int bin = min(max(in[i], 0), count - 1);
        int *there = cluster.map_shared_rank(mine, bin / per_block);
        atomicAdd(there + bin % per_block, 1);
    }
    cluster.sync();
    int *out = bins + cluster.block_rank() * per_block;
    for (int i = threadIdx.x; i < per_block; i += blockDim.x) atomicAdd(&out[i], mine[i]);
}
// Each block adds up its part; then each reads the others' sums.
extern "C" __global__ void __cluster_dims__(4, 1, 1) sums(const float *in, float *out) {
    __shared__ float sum;
    auto cluster = cg::this_cluster();
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, in[blockIdx.x * blockDim.x + threadIdx.x]);
    cluster.barrier_arrive();
    cluster.barrier_wait();
    if (threadIdx.x < cluster.num_blocks()) {
        float *other = cluster.map_shared_rank(&sum, threadIdx.x);
        out[blockIdx.x * 8 + threadIdx.x] = *other;
        if (cluster.query_shared_rank(other) != threadIdx.x) out[blockIdx.x * 8 + threadIdx.x] = -1;
    }
    if (threadIdx.x == 0) {
        out[blockIdx.x * 8 + 4] = cluster.block_rank();
        out[blockIdx.x * 8 + 5] = cluster.num_threads();
        out[blockIdx.x * 8 + 6] = cluster.block_index().x;
        out[blockIdx.x * 8 + 7] = cluster.dim_blocks().x;
    }
    cluster.sync();  // nobody leaves while others still read
}
// A cluster of one block: the barrier is the block's.
extern "C" __global__ void alone(int *out) {
    __shared__ int values[64];
    values[threadIdx.x] = threadIdx.x;
    cg::this_cluster().sync();
    out[threadIdx.x] = values[63 - threadIdx.x];
}
"""


def launch_in_clusters(kernel, grid, block, cluster, *arguments, shared=0):
    attributes = (Attribute * 1)(Attribute(4, 0, (U32 * 16)(cluster, 1, 1)))
    config = Config((U32 * 6)(grid, 1, 1, block, 1, 1), shared, None, attributes, 1)
    values = [value(argument) for argument in arguments]
    ok(cuda.cuLaunchKernelEx(c.byref(config), kernel, pointers(values), None))


def test_distributed_histogram():
    module = Module(SOURCE)
    n, count = 5000, 200
    data = [(i * i * 31 + i) % 200 for i in range(n)]
    source = Buffer("i", data)
    for cluster in (1, 2, 4, 8):
        bins, per_block = Buffer("i", count), count // cluster
        launch_in_clusters(module.histogram, 8, 64, cluster, source, n, bins, count, per_block, shared=4 * per_block)
        assert bins.get() == [data.count(b) for b in range(count)], cluster
        bins.free()
    source.free()
    module.unload()


def test_blocks_read_each_others_shared_memory():
    module = Module(SOURCE)
    source, out = Buffer("f", range(8 * 32)), Buffer("f", 64)
    launch(module.sums, 8, 32, source, out)
    sums, found = [float(sum(range(b * 32, b * 32 + 32))) for b in range(8)], out.get()
    for b in range(8):
        first = b // 4 * 4
        assert found[b * 8 : b * 8 + 8] == [*sums[first : first + 4], b % 4, 128, b % 4, 4], (b, found[b * 8 : b * 8 + 8])
    few = Buffer("i", 64)
    launch(module.alone, 1, 64, few)
    assert few.get() == list(range(63, -1, -1))
    for buffer in (source, out, few):
        buffer.free()
    module.unload()


main(globals())
