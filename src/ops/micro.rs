//! The inner loops that the convolutions share, over rows of pixels in scratch.
//!
//! All buffers here are pixel-major with channels padded to whole vectors. Accumulators stay in
//! registers over all taps and input channels: a block is up to eight pixels by one or two vectors
//! of output channels, enough chains to hide the latency of a fused multiply-add, and each load of
//! a weight is used by every pixel of the block.
//!
//! # Safety
//! Every function reads and writes through raw pointers: the caller promises that the rows, taps
//! and weights lie inside its scratch, and runs them under [`crate::device::simd::dispatch`].

use super::geometry::Tap;
use crate::device::simd::{LANES, Lanes};

/// A row of pixels to read: address of the first, f32 to the next.
#[derive(Clone, Copy)]
pub struct Row {
    /// First pixel.
    pub start: *const f32,
    /// f32 to the next pixel.
    pub step: usize,
}

impl Row {
    /// The row from `start`.
    #[inline(always)]
    pub fn new(start: *const f32, step: usize) -> Row {
        Row { start, step }
    }
}

/// A row of pixels to write.
#[derive(Clone, Copy)]
pub struct RowMut {
    /// First pixel.
    pub start: *mut f32,
    /// f32 to the next pixel.
    pub step: usize,
}

impl RowMut {
    /// The row from `start`.
    #[inline(always)]
    pub fn new(start: *mut f32, step: usize) -> RowMut {
        RowMut { start, step }
    }
}

/// What a row holds before a product is added.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing: the row is overwritten.
    Zero,
    /// The product is added.
    Add,
}

/// Calls `$body` with the block size P = 8, 4, 2, 1 until `$width` pixels are done.
macro_rules! pixel_blocks {
    ($width:expr, $x:ident, $block:ident, $call:expr) => {
        let mut $x = 0;
        while $width - $x >= 8 {
            const $block: usize = 8;
            $call;
            $x += 8;
        }
        while $width - $x >= 4 {
            const $block: usize = 4;
            $call;
            $x += 4;
        }
        while $width - $x >= 1 {
            const $block: usize = 1;
            $call;
            $x += 1;
        }
    };
}

/// out[x, c] (+)= Σ_tap a[x + tap, c] · w[tap, c]: a row of a depthwise convolution.
/// `channels` is padded; weights are `[taps, channels]`.
///
/// # Safety
/// See the module.
#[inline(always)]
pub unsafe fn depthwise_row<V: Lanes>(
    a: Row,
    taps: &[Tap],
    w: *const f32,
    out: RowMut,
    width: usize,
    channels: usize,
    start: Start,
) {
    let mut c = 0;
    while c < channels {
        pixel_blocks!(width, x, P, {
            // SAFETY: the caller's promise, for pixels x..x+P and lanes c..c+16.
            unsafe {
                let input = a.start.add(x * a.step + c);
                let output = out.start.add(x * out.step + c);
                let mut sums = [V::splat(0.0); P];
                if start == Start::Add {
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(output.add(p * out.step));
                    }
                }
                for tap in taps {
                    let weight = V::load(w.add(tap.weight + c));
                    let at = input.add(tap.input);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(at.add(p * a.step)).mul_add(weight, *sum);
                    }
                }
                for (p, sum) in sums.iter().enumerate() {
                    sum.store(output.add(p * out.step));
                }
            }
        });
        c += LANES;
    }
}

/// # Safety
/// See the module.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // An inner block: every argument is an address or an extent.
unsafe fn matmul_block<V: Lanes, const P: usize, const Q: usize>(
    input: *const f32,
    step: usize,
    taps: &[Tap],
    cin: usize,
    w: *const f32,
    cout: usize,
    output: *mut f32,
    out_step: usize,
    start: Start,
) {
    // SAFETY: the caller's promise, for P pixels and 16·Q output channels.
    unsafe {
        let mut sums = [[V::splat(0.0); Q]; P];
        if start == Start::Add {
            for (p, pixel) in sums.iter_mut().enumerate() {
                for (q, sum) in pixel.iter_mut().enumerate() {
                    *sum = V::load(output.add(p * out_step + q * LANES));
                }
            }
        }
        for tap in taps {
            let at = input.add(tap.input);
            let mut weight = w.add(tap.weight);
            for k in 0..cin {
                let mut weights = [V::splat(0.0); Q];
                for (q, lanes) in weights.iter_mut().enumerate() {
                    *lanes = V::load(weight.add(q * LANES));
                }
                for (p, pixel) in sums.iter_mut().enumerate() {
                    let value = V::splat(*at.add(p * step + k));
                    for (q, sum) in pixel.iter_mut().enumerate() {
                        *sum = value.mul_add(weights[q], *sum);
                    }
                }
                weight = weight.add(cout);
            }
        }
        for (p, pixel) in sums.iter().enumerate() {
            for (q, sum) in pixel.iter().enumerate() {
                sum.store(output.add(p * out_step + q * LANES));
            }
        }
    }
}

/// out[x, o] (+)= Σ_tap Σ_k a[x + tap, k] · w[tap, k, o]: a row of a dense convolution; with one
/// tap, of a pointwise one. `cout` is padded; weights are `[taps, cin, cout]`.
///
/// # Safety
/// See the module.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Three matrices and their extents.
pub unsafe fn matmul_row<V: Lanes>(
    a: Row,
    taps: &[Tap],
    cin: usize,
    w: *const f32,
    cout: usize,
    out: RowMut,
    width: usize,
    start: Start,
) {
    let mut o = 0;
    while o + 2 * LANES <= cout {
        pixel_blocks!(width, x, P, {
            // SAFETY: the caller's promise.
            unsafe {
                matmul_block::<V, P, 2>(
                    a.start.add(x * a.step),
                    a.step,
                    taps,
                    cin,
                    w.add(o),
                    cout,
                    out.start.add(x * out.step + o),
                    out.step,
                    start,
                )
            }
        });
        o += 2 * LANES;
    }
    if o < cout {
        pixel_blocks!(width, x, P, {
            // SAFETY: the caller's promise.
            unsafe {
                matmul_block::<V, P, 1>(
                    a.start.add(x * a.step),
                    a.step,
                    taps,
                    cin,
                    w.add(o),
                    cout,
                    out.start.add(x * out.step + o),
                    out.step,
                    start,
                )
            }
        });
    }
}

/// # Safety
/// See the module.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // An inner block.
unsafe fn outer_block<V: Lanes, const K: usize, const Q: usize>(
    a: *const f32,
    a_step: usize,
    g: *const f32,
    g_step: usize,
    width: usize,
    dw: *mut f32,
    cout: usize,
) {
    // SAFETY: the caller's promise, for K input and 16·Q output channels of `width` pixels.
    unsafe {
        let mut sums = [[V::splat(0.0); Q]; K];
        for x in 0..width {
            let mut adjoint = [V::splat(0.0); Q];
            for (q, lanes) in adjoint.iter_mut().enumerate() {
                *lanes = V::load(g.add(x * g_step + q * LANES));
            }
            for (k, row) in sums.iter_mut().enumerate() {
                let value = V::splat(*a.add(x * a_step + k));
                for (q, sum) in row.iter_mut().enumerate() {
                    *sum = value.mul_add(adjoint[q], *sum);
                }
            }
        }
        for (k, row) in sums.iter().enumerate() {
            for (q, sum) in row.iter().enumerate() {
                let at = dw.add(k * cout + q * LANES);
                sum.add(V::load(at)).store(at);
            }
        }
    }
}

/// dw[k, o] += Σ_x a[x, k] · g[x, o]: the weight gradient of a row. `cout` is padded.
///
/// # Safety
/// See the module.
#[inline(always)]
pub unsafe fn outer_row<V: Lanes>(
    a: Row,
    cin: usize,
    g: Row,
    cout: usize,
    width: usize,
    dw: *mut f32,
) {
    let mut k = 0;
    while k < cin {
        let block = if cin - k >= 8 { 8 } else { 1 };
        let mut o = 0;
        while o < cout {
            // SAFETY: the caller's promise.
            unsafe {
                let (at, adjoint) = (a.start.add(k), g.start.add(o));
                let to = dw.add(k * cout + o);
                match (block, o + 2 * LANES <= cout) {
                    (8, true) => {
                        outer_block::<V, 8, 2>(at, a.step, adjoint, g.step, width, to, cout)
                    }
                    (8, false) => {
                        outer_block::<V, 8, 1>(at, a.step, adjoint, g.step, width, to, cout)
                    }
                    (_, true) => {
                        outer_block::<V, 1, 2>(at, a.step, adjoint, g.step, width, to, cout)
                    }
                    (_, false) => {
                        outer_block::<V, 1, 1>(at, a.step, adjoint, g.step, width, to, cout)
                    }
                }
            }
            o += 2 * LANES;
        }
        k += block;
    }
}

/// # Safety
/// See the module.
#[inline(always)]
unsafe fn tap_block<V: Lanes, const T: usize>(
    a: Row,
    taps: &[Tap],
    g: Row,
    width: usize,
    dw: *mut f32,
) {
    // SAFETY: the caller's promise, for T taps and sixteen channels.
    unsafe {
        let mut sums = [V::splat(0.0); T];
        for x in 0..width {
            let adjoint = V::load(g.start.add(x * g.step));
            let at = a.start.add(x * a.step);
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(at.add(taps[t].input)).mul_add(adjoint, *sum);
            }
        }
        for (t, sum) in sums.iter().enumerate() {
            let to = dw.add(taps[t].weight);
            sum.add(V::load(to)).store(to);
        }
    }
}

/// dw[tap, c] += Σ_x a[x + tap, c] · g[x, c]: the depthwise weight gradient of a row.
///
/// # Safety
/// See the module.
#[inline(always)]
pub unsafe fn depthwise_gradient_row<V: Lanes>(
    a: Row,
    taps: &[Tap],
    g: Row,
    width: usize,
    channels: usize,
    dw: *mut f32,
) {
    let mut c = 0;
    while c < channels {
        // SAFETY: the caller's promise.
        unsafe {
            let a = Row {
                start: a.start.add(c),
                ..a
            };
            let g = Row {
                start: g.start.add(c),
                ..g
            };
            let dw = dw.add(c);
            let mut rest = taps;
            while !rest.is_empty() {
                let done = match rest.len() {
                    9.. => {
                        tap_block::<V, 9>(a, rest, g, width, dw);
                        9
                    }
                    8 => {
                        tap_block::<V, 8>(a, rest, g, width, dw);
                        8
                    }
                    4.. => {
                        tap_block::<V, 4>(a, rest, g, width, dw);
                        4
                    }
                    _ => {
                        tap_block::<V, 1>(a, rest, g, width, dw);
                        1
                    }
                };
                rest = &rest[done..];
            }
        }
        c += LANES;
    }
}
