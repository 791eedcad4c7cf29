"""A kernel that SOFTCUDA_FAIL makes fault: the host sees the error, and in managed memory what was done by then."""

from cuda import *


def test_a_planted_fault_leaves_the_work_done():
    module = Module('extern "C" __global__ void fill(int *x) { x[threadIdx.x] = threadIdx.x + 1; }')
    managed = new(U64, cuda.cuMemAllocManaged, SZ(128), U32(1))
    try:
        launch(module.fill, 1, 32, U64(managed))
        synchronise()
        raise SystemExit("the fault did not come")
    except Error as error:
        assert error.code == 700, error
    assert list((I32 * 32).from_address(managed)) == list(range(1, 33))
    assert cuda.cuCtxSynchronize() == 700


main(globals())
