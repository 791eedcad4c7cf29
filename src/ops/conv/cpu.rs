//! The four passes on the CPU: implicit matrix products over a zero-bordered copy of each image.
//!
//! A task is one chunk of images. There is no im2col matrix: a block of pixels keeps its sums in
//! registers over all taps and input channels, reading the copied image at the taps' offsets.
//! Roofline: 2·k²·C_out FLOP a loaded f32, bound by multiply-adds from 3×3 on; a 1×1 from 64
//! channels runs at memory speed.

use super::Conv;
use crate::device::View;
use crate::device::simd::{Kernel, Lanes, dispatch, padded};
use crate::ops::adjoint::{AdjointReader, coefficients_len};
use crate::ops::chunked::{Chunk, Partials};
use crate::ops::micro::{Row, RowMut, Start, matmul_row, outer_row};
use crate::ops::rows::{InputAdjoint, Padded, Reader};
use crate::ops::statistics::{TangentWriter, ValueWriter, finish_tangent, finish_value};
use crate::ops::{Context, MAX_SOURCES, Pass, Role};

/// Workspace shared by all chunks.
#[derive(Clone, Copy)]
struct Shared {
    packed: View,
    transposed: View,
    bias: View,
}

fn shared(op: &Conv, cx: &Context, tangent: bool) -> Shared {
    let (packed, transposed, bias) = (op.packed_len(), op.transposed_len(), padded(op.cout));
    let start = usize::from(tangent) * (packed + transposed + bias);
    Shared {
        packed: cx.workspace.part(start, packed),
        transposed: cx.workspace.part(start + packed, transposed),
        bias: cx.workspace.part(start + packed + transposed, bias),
    }
}

fn coefficients(op: &Conv, cx: &Context) -> View {
    let len = coefficients_len(op.cout, MAX_SOURCES);
    cx.workspace.part(op.shared_len() - len, len)
}

fn prepare(op: &Conv, cx: &Context, pass: Pass) {
    let tangents = matches!(pass, Pass::Tangent | Pass::TangentBackward);
    for tangent in [false, true] {
        if tangent && !tangents {
            continue;
        }
        let of = |id| {
            if tangent {
                cx.parameter_tangent(id)
            } else {
                cx.parameter(id)
            }
        };
        let to = shared(op, cx, tangent);
        let (packed, transposed) = (to.packed.write(), to.transposed.write());
        let (step, step_in) = (padded(op.cout), padded(op.cin));
        packed.fill(0.0);
        transposed.fill(0.0);
        for part in &op.parts {
            let weight = of(part.weight).read();
            for (from, &tap) in weight.chunks_exact(op.cin * part.channels).zip(&part.taps) {
                for (k, row) in from.chunks_exact(part.channels).enumerate() {
                    let at = (tap * op.cin + k) * step + part.first;
                    packed[at..at + part.channels].copy_from_slice(row);
                    for (o, &value) in row.iter().enumerate() {
                        transposed[(tap * op.cout + part.first + o) * step_in + k] = value;
                    }
                }
            }
        }
        let bias = to.bias.write();
        bias.fill(0.0);
        if let Some(id) = op.bias {
            bias[..op.cout].copy_from_slice(of(id).read());
        }
    }
    if matches!(pass, Pass::Backward | Pass::TangentBackward) {
        let tangent = pass == Pass::TangentBackward;
        AdjointReader::prepare(cx, op.output, coefficients(op, cx), tangent);
    }
}

struct Task<'a> {
    cx: &'a Context<'a>,
    op: &'a Conv,
    chunk: Chunk<'a>,
}

fn scratch_len(op: &Conv) -> usize {
    let [height, width] = op.window.output();
    let border = op.window.transpose_border();
    2 * Padded::len(op.window.input, op.cin, op.border)
        + 2 * Padded::len([height, width], op.cout, border)
        + op.window.input[1] * padded(op.cin)
        + width * padded(op.cout)
}

/// Runs `kernel` on every chunk; returns what the chunks summed.
fn run(op: &Conv, cx: &Context, pass: Pass, kernel: impl Fn(Task) + Sync + Send) -> Partials {
    prepare(op, cx, pass);
    let partials = Partials::new(cx.workspace, op.shared_len(), op.batch, op.chunk_len());
    partials.for_each_chunk(scratch_len(op), |chunk| kernel(Task { cx, op, chunk }));
    partials
}

pub(super) fn forward(op: &Conv, cx: &Context) {
    let partials = run(op, cx, Pass::Forward, |task| dispatch(Forward(task)));
    finish_value(cx, op.output, partials, 0);
}

pub(super) fn tangent(op: &Conv, cx: &Context) {
    let partials = run(op, cx, Pass::Tangent, |task| dispatch(Tangent(task)));
    finish_tangent(cx, op.output, partials, 0);
}

pub(super) fn backward(op: &Conv, cx: &Context) {
    let partials = run(op, cx, Pass::Backward, |task| dispatch(Backward(task)));
    finish_gradients(op, cx, partials);
}

pub(super) fn tangent_backward(op: &Conv, cx: &Context) {
    let pass = Pass::TangentBackward;
    let partials = run(op, cx, pass, |task| dispatch(TangentBackward(task)));
    finish_gradients(op, cx, partials);
}

/// Sums the chunks' weight gradients in order, each part from its taps and channels.
fn finish_gradients(op: &Conv, cx: &Context, partials: Partials) {
    let step = padded(op.cout);
    for part in &op.parts {
        let gradient = cx.parameter_gradient(part.weight).write();
        for (to, &tap) in gradient
            .chunks_exact_mut(op.cin * part.channels)
            .zip(&part.taps)
        {
            for (k, row) in to.chunks_exact_mut(part.channels).enumerate() {
                let at = (tap * op.cin + k) * step + part.first;
                for (o, value) in row.iter_mut().enumerate() {
                    *value = partials.sum(at + o) as f32;
                }
            }
        }
    }
    if let Some(bias) = op.bias {
        cx.parameter_gradient(bias).write().fill(0.0);
    }
}

/// Fills a row with the bias.
#[inline(always)]
fn fill_bias(row: &mut [f32], bias: &[f32]) {
    for pixel in row.chunks_exact_mut(bias.len()) {
        pixel.copy_from_slice(bias);
    }
}

struct Forward<'a>(Task<'a>);

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Task { cx, op, chunk } = self.0;
        let Chunk {
            images,
            partial,
            scratch,
        } = chunk;
        let (cin, cout) = (padded(op.cin), padded(op.cout));
        let [height, width] = op.window.output();
        let weights = shared(op, cx, false);
        let (a, scratch) = Padded::carve(scratch, op.window.input, op.cin, op.border);
        let z = &mut scratch[..width * cout];
        let reader = Reader::new(cx, op.input, op.relu, false);
        let writer = ValueWriter::new(cx, op.output);
        for image in images.clone() {
            // SAFETY: `scratch_len` made room; taps stay inside the border; this task alone writes
            // the outputs of its images and its partial sums.
            unsafe {
                reader.image::<V>(image, a, None);
                for y in 0..height {
                    fill_bias(z, weights.bias.read());
                    let step = op.window.stride * cin;
                    let input = Row::new(a.origin(y * op.window.stride), step);
                    let out = RowMut::new(z.as_mut_ptr(), cout);
                    let w = weights.packed.pointer();
                    matmul_row::<V>(input, &op.taps, op.cin, w, cout, out, width, Start::Add);
                    let first = image == images.start && y == 0;
                    writer.row::<V>(image, y, z.as_ptr(), partial.pointer(), first);
                }
            }
        }
    }
}

struct Tangent<'a>(Task<'a>);

impl Kernel for Tangent<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Task { cx, op, chunk } = self.0;
        let Chunk {
            images,
            partial,
            scratch,
        } = chunk;
        let (cin, cout) = (padded(op.cin), padded(op.cout));
        let [height, width] = op.window.output();
        let (w, w_dot) = (shared(op, cx, false), shared(op, cx, true));
        let (a, scratch) = Padded::carve(scratch, op.window.input, op.cin, op.border);
        let (a_dot, scratch) = Padded::carve(scratch, op.window.input, op.cin, op.border);
        let z = &mut scratch[..width * cout];
        let moving = cx.graph.activation(op.input).differentiable;
        let reader = Reader::new(cx, op.input, op.relu, true);
        let writer = TangentWriter::new(cx, op.output);
        for image in images.clone() {
            // SAFETY: as in `Forward`.
            unsafe {
                reader.image::<V>(image, a, Some(a_dot));
                for y in 0..height {
                    fill_bias(z, w_dot.bias.read());
                    let step = op.window.stride * cin;
                    let at = y * op.window.stride;
                    let input = Row::new(a.origin(at), step);
                    let input_dot = Row::new(a_dot.origin(at), step);
                    let out = RowMut::new(z.as_mut_ptr(), cout);
                    let (w, w_dot) = (w.packed.pointer(), w_dot.packed.pointer());
                    matmul_row::<V>(input, &op.taps, op.cin, w_dot, cout, out, width, Start::Add);
                    if moving {
                        matmul_row::<V>(
                            input_dot,
                            &op.taps,
                            op.cin,
                            w,
                            cout,
                            out,
                            width,
                            Start::Add,
                        );
                    }
                    let first = image == images.start && y == 0;
                    writer.row::<V>(image, y, z.as_ptr(), partial.pointer(), first);
                }
            }
        }
    }
}

/// A row of ā from the transposed window: (+)= z̄ ⋆ᵀ W.
///
/// # Safety
/// The rows and weights are those that `scratch_len` and `shared` laid out.
#[inline(always)]
unsafe fn transpose_row<V: Lanes>(
    op: &Conv,
    y: usize,
    adjoint: Padded,
    w: *const f32,
    row: *mut f32,
    start: Start,
) {
    let (cin, stride) = (padded(op.cin), op.window.stride);
    for class in op.classes.iter().filter(|class| class.row == y % stride) {
        let width = op.window.input[1]
            .saturating_sub(class.column)
            .div_ceil(stride);
        // SAFETY: as in `Forward`; the border covers the transposed taps.
        unsafe {
            let input = Row::new(adjoint.origin(y / stride), adjoint.channels);
            let out = RowMut::new(row.add(class.column * cin), stride * cin);
            matmul_row::<V>(input, &class.taps, op.cout, w, cin, out, width, start);
        }
    }
}

/// W̄ += a[tap]ᵀ g for a row.
///
/// # Safety
/// The rows and weights are those that `scratch_len` and `shared` laid out.
#[inline(always)]
unsafe fn weight_gradient<V: Lanes>(op: &Conv, a: Row, g: Row, width: usize, dw: *mut f32) {
    for tap in &op.taps {
        // SAFETY: as in `Forward`.
        unsafe {
            let input = Row::new(a.start.add(tap.input), a.step);
            outer_row::<V>(input, op.cin, g, padded(op.cout), width, dw.add(tap.weight));
        }
    }
}

struct Backward<'a>(Task<'a>);

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Task { cx, op, chunk } = self.0;
        let Chunk {
            images,
            partial,
            scratch,
        } = chunk;
        let (cin, cout) = (padded(op.cin), padded(op.cout));
        let [height, width] = op.window.output();
        let w = shared(op, cx, false);
        partial.write().fill(0.0);
        let sums = partial.part(op.chunk_len() - 2 * cin, 2 * cin).pointer();
        let (a, scratch) = Padded::carve(scratch, op.window.input, op.cin, op.border);
        let border = op.window.transpose_border();
        let (z_bar, scratch) = Padded::carve(scratch, [height, width], op.cout, border);
        let a_bar = &mut scratch[..op.window.input[1] * cin];
        let reader = Reader::new(cx, op.input, op.relu, false);
        let adjoint = AdjointReader::new(cx, op.output, coefficients(op, cx), false);
        let to = InputAdjoint::new(cx, op.input, Role::Adjoint, op.relu);
        for image in images {
            // SAFETY: as in `Forward`.
            unsafe {
                reader.image::<V>(image, a, None);
                for y in 0..height {
                    let row = z_bar.interior(y);
                    adjoint.row::<V>(image, y, RowMut::new(row, cout), None);
                    let step = op.window.stride * cin;
                    let input = Row::new(a.origin(y * op.window.stride), step);
                    let g = Row::new(row, cout);
                    weight_gradient::<V>(op, input, g, width, partial.pointer());
                }
                let Some(to) = to else { continue };
                for y in 0..op.window.input[0] {
                    let row = a_bar.as_mut_ptr();
                    let w = w.transposed.pointer();
                    transpose_row::<V>(op, y, z_bar, w, row, Start::Zero);
                    to.row::<V>(image, y, row, a.interior(y), None, sums);
                }
            }
        }
    }
}

struct TangentBackward<'a>(Task<'a>);

impl Kernel for TangentBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Task { cx, op, chunk } = self.0;
        let Chunk {
            images,
            partial,
            scratch,
        } = chunk;
        let (cin, cout) = (padded(op.cin), padded(op.cout));
        let [height, width] = op.window.output();
        let (w, w_dot) = (shared(op, cx, false), shared(op, cx, true));
        partial.write().fill(0.0);
        let sums = partial.part(op.chunk_len() - 2 * cin, 2 * cin).pointer();
        let (a, scratch) = Padded::carve(scratch, op.window.input, op.cin, op.border);
        let (a_dot, scratch) = Padded::carve(scratch, op.window.input, op.cin, op.border);
        let border = op.window.transpose_border();
        let (z_bar, scratch) = Padded::carve(scratch, [height, width], op.cout, border);
        let (z_bar_dot, scratch) = Padded::carve(scratch, [height, width], op.cout, border);
        let a_bar = &mut scratch[..op.window.input[1] * cin];
        let moving = cx.graph.activation(op.input).differentiable;
        let reader = Reader::new(cx, op.input, op.relu, true);
        let adjoint = AdjointReader::new(cx, op.output, coefficients(op, cx), true);
        let to = InputAdjoint::new(cx, op.input, Role::AdjointTangent, op.relu);
        for image in images {
            // SAFETY: as in `Forward`.
            unsafe {
                reader.image::<V>(image, a, Some(a_dot));
                for y in 0..height {
                    let (row, row_dot) = (z_bar.interior(y), z_bar_dot.interior(y));
                    let target = RowMut::new(row, cout);
                    let target_dot = RowMut::new(row_dot, cout);
                    adjoint.row::<V>(image, y, target, Some(target_dot));
                    let step = op.window.stride * cin;
                    let at = y * op.window.stride;
                    let input = Row::new(a.origin(at), step);
                    let g_dot = Row::new(row_dot, cout);
                    weight_gradient::<V>(op, input, g_dot, width, partial.pointer());
                    if moving {
                        let input_dot = Row::new(a_dot.origin(at), step);
                        let g = Row::new(row, cout);
                        weight_gradient::<V>(op, input_dot, g, width, partial.pointer());
                    }
                }
                let Some(to) = to else { continue };
                for y in 0..op.window.input[0] {
                    let row = a_bar.as_mut_ptr();
                    let (w, w_dot) = (w.transposed.pointer(), w_dot.transposed.pointer());
                    transpose_row::<V>(op, y, z_bar_dot, w, row, Start::Zero);
                    transpose_row::<V>(op, y, z_bar, w_dot, row, Start::Add);
                    let dot = Some(a_dot.interior(y).cast_const());
                    to.row::<V>(image, y, row, a.interior(y), dot, sums);
                }
            }
        }
    }
}
