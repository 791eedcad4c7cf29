// Dense convolution, optional relu → k×k → batch statistics, and factorized reduction (KERNEL 2, whose
// tap (0, 0) feeds the first channels and tap (1, 1) the others). `src/ops/conv/mod.rs` has the maths:
//
//   z = Σ_tap a[s·y + tap]·W_tap + b        W̄_tap = a[tap]ᵀ z̄                  ā = Σ_tap z̄[tap]ᵀ·W_tapᵀ
//   ż = ȧ ⋆ W + a ⋆ Ẇ + ḃ                   W̄˙_tap = ȧ[tap]ᵀ z̄ + a[tap]ᵀ z̄˙     ā˙ = z̄˙ ⋆ᵀ W + z̄ ⋆ᵀ Ẇ
//
// Forward and tangent are in `conv_values.cuh`, the other two in `conv_adjoints.cuh`, each with its two
// ways to multiply: exact f32 fused multiply-adds, and tensor cores.
//
// ROOFLINE. With P = N·⌈H/s⌉·⌈W/s⌉ output pixels, forward moves (s²·Cin + Cout)·P elements and does
// 2·taps·Cin·Cout·P FLOPs; backward moves (2·s²·Cin + (1 + readers)·Cout)·P and does twice the FLOPs;
// the tangent passes move and multiply twice that. A 1×1 from 64 to 16 channels is 6 FLOPs a byte of f32:
// bound by memory. A 3×3 over 16 channels is 36 FLOPs a byte, over 64 channels 144: with multiply-adds
// (an H100 has 20 a byte) bound by arithmetic. On tensor cores (TF32 148, bf16 295 dense FLOPs a byte,
// and in bf16 a byte holds twice the elements) all of them are bound by memory, or by shared memory.
//
// LAYOUT. Implicit matrix products over tiles of output pixels ("cells"); a tile is some rows and columns
// of an image, or several whole small images. Operands are rounded once, as they go to shared memory;
// a and ȧ of bf16 storage are exact there.
//
// Forward and tangent: a block keeps sums of all cells of a tile × COLUMNS output channels, and walks
// the input channels in chunks of CHUNK: the tile's piece of a with its border goes
// to shared memory once and serves all taps, so no element is loaded from device memory twice but on
// borders. Relu is applied on the way in, and in the tangent pass a and ȧ share loads of x, indices, and
// the weights' loop. Statistics are taken from the registers that are written.
//
// Backward: a cell owns the s×s input pixels under it, one for each parity class. A block holds z̄ of a
// tile (evaluated as it is loaded: `adjoint.cuh`) with the border that the transpose reaches, and CHUNK
// channels of a. From these two tiles it makes both results: ā, in registers as in forward, and its part
// of W̄, pieces of taps' matrices in each thread or warp, kept in registers over all tiles of the block.
// So x, z and the readers' adjoints are read once, and x̄ is written once; no zero that stride puts
// between pixels is multiplied. W̄ leaves once a block; the last block adds the parts in order.
//
// WHO MULTIPLIES. Threads: 4 channels × some cells each. Warps on tensor cores: pieces of 16 cells × 8
// channels each (of W̄: 16 input × 8 output channels), whose sums pass through shared memory at the end, so
// that what follows (bias, statistics, mask of relu, stores of whole sectors) is one code for both. Channels
// are padded with zeros to 16. Below 8 input or output channels, as in the first convolution of an image,
// that is more than half of a product, and of the tiles: there `cuda.rs` chooses multiply-adds in any precision.
//
// Definitions: STORAGE; OPERAND, float for multiply-adds, tf32 or bf16 for tensor cores; PASS, which of
// the entries below is compiled: 0 forward, 1 backward, 2 tangent, 3 tangent_backward; KERNEL and STRIDE
// (1 or 2); VECTOR of the input and WIDE of the output (with its readers); COLUMNS, output channels of a
// block, a multiple of 8 up to 64 (on tensor cores in backward of 16); CHUNK, input channels of a step (of
// a block in backward), a power of two from 4 to 64 (on tensor cores at least a DEPTH, in backward 16);
// CELLS, most cells of a tile, with multiply-adds in forward and tangent a multiple of the threads that
// share four channels, on tensor cores of 16.
#include "conv.cuh"

#if PASS == 0 || PASS == 2
#include "conv_values.cuh"
#else
#include "conv_adjoints.cuh"
#endif

#if PASS == 0
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BLOCKS) conv_forward(const Conv p) {
    BEGIN(p);
    values<false>(p);
}
#elif PASS == 1
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BLOCKS) conv_backward(const Conv p) {
    BEGIN(p);
    adjoints<false>(p);
}
#elif PASS == 2
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BLOCKS) conv_tangent(const Conv p) {
    BEGIN(p);
    values<true>(p);
}
#else
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT_BLOCKS) conv_tangent_backward(const Conv p) {
    BEGIN(p);
    adjoints<true>(p);
}
#endif
