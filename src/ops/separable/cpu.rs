//! The four passes on the CPU: a task is one group and one chunk of images.
//!
//! For each image the input is copied once, activated, into a zero-bordered scratch image that
//! every branch reads; then each branch goes row by row with d, z̄ and d̄ rows in the first-level
//! cache. Roofline: 2·k² + 2·C_out FLOP a loaded f32 of input, so the kernel is bound by
//! multiply-adds from 16 channels on; memory sees one read of x and one write of z.

use super::packed::{Packed, coefficients, prepare};
use super::{PlannedBranch, PlannedGroup, Separable};
use crate::device::View;
use crate::device::parallel::for_each;
use crate::device::simd::{Kernel, Lanes, dispatch, padded};
use crate::ops::adjoint::AdjointReader;
use crate::ops::chunked::{Chunk, Partials};
use crate::ops::geometry::Tap;
use crate::ops::micro::{
    Row, RowMut, Start, depthwise_gradient_row, depthwise_row, matmul_row, outer_row,
};
use crate::ops::rows::{InputAdjoint, Padded, Reader, combine_gradient, combine_sums};
use crate::ops::statistics::{TangentWriter, ValueWriter, finish_tangent, finish_value};
use crate::ops::{Context, Moments, Pass, Role};

/// Taps of a pointwise product: the pixel itself.
const HERE: &[Tap] = &[Tap {
    input: 0,
    weight: 0,
}];

/// One group and one chunk of images.
struct Task<'a> {
    cx: &'a Context<'a>,
    group: &'a PlannedGroup,
    chunk: Chunk<'a>,
}

impl Task<'_> {
    /// A pass's scratch, in f32: images `a` (one or two), rows, and backward ā and d̄.
    fn scratch_len(group: &PlannedGroup, pass: Pass) -> usize {
        let copies = 1 + usize::from(matches!(pass, Pass::Tangent | Pass::TangentBackward));
        let cin = padded(group.channels);
        let width = group.size[1];
        let rows = |channels: usize| width * padded(channels);
        let widest = group
            .branches
            .iter()
            .map(|b| b.channels_out)
            .max()
            .unwrap_or(0);
        let mut len = copies * Padded::len(group.size, group.channels, group.border);
        len += copies * (rows(group.channels) + rows(widest));
        if matches!(pass, Pass::Backward | Pass::TangentBackward) {
            let border = group
                .branches
                .iter()
                .map(|b| b.window.transpose_border())
                .max();
            let adjoint = Padded::len(group.size, group.channels, border.unwrap_or(0));
            len += group.size[0] * width * cin + copies * adjoint;
        }
        len
    }
}

/// Runs `kernel` on every chunk of every group; returns what they summed.
fn run(op: &Separable, cx: &Context, pass: Pass, kernel: impl Fn(Task) + Sync + Send) -> Partials {
    prepare(op, cx, pass);
    let partials = Partials::new(cx.workspace, op.shared_len, op.batch, op.chunk_len);
    partials.for_each_task(
        op.groups.len(),
        |group| Task::scratch_len(&op.groups[group], pass),
        |group, chunk| {
            let group = &op.groups[group];
            if group.live(cx.graph).next().is_some() {
                kernel(Task { cx, group, chunk });
            }
        },
    );
    partials
}

pub(super) fn forward(op: &Separable, cx: &Context) {
    let partials = run(op, cx, Pass::Forward, |task| dispatch(Forward(task)));
    for branch in op.groups.iter().flat_map(|g| g.live(cx.graph)) {
        finish_value(cx, branch.branch.output, partials, branch.partial);
    }
}

pub(super) fn tangent(op: &Separable, cx: &Context) {
    let partials = run(op, cx, Pass::Tangent, |task| dispatch(Tangent(task)));
    for branch in op.groups.iter().flat_map(|g| g.live(cx.graph)) {
        finish_tangent(cx, branch.branch.output, partials, branch.partial);
    }
}

pub(super) fn backward(op: &Separable, cx: &Context) {
    let partials = run(op, cx, Pass::Backward, |task| dispatch(Backward(task)));
    finish_gradients(op, cx, Moments::AdjointSums, partials);
}

pub(super) fn tangent_backward(op: &Separable, cx: &Context) {
    let pass = Pass::TangentBackward;
    let partials = run(op, cx, pass, |task| dispatch(TangentBackward(task)));
    finish_gradients(op, cx, Moments::AdjointSumsTangent, partials);
}

fn finish_gradients(op: &Separable, cx: &Context, kind: Moments, partials: Partials) {
    for_each(op.groups.len(), |g| {
        let group = &op.groups[g];
        if group.live(cx.graph).next().is_none() {
            return;
        }
        for branch in group.live(cx.graph) {
            let dw = cx.parameter_gradient(branch.branch.depthwise).write();
            combine_gradient(partials, branch.partial, group.channels, dw);
            let pw = cx.parameter_gradient(branch.branch.pointwise).write();
            let at = branch.partial + branch.depthwise_len(group.channels);
            combine_gradient(partials, at, branch.channels_out, pw);
        }
        if cx.graph.activation(group.input).normalised {
            combine_sums(cx, group.input, kind, partials, group.sums);
        }
    });
}

/// Zeroes a group's part of a chunk's partial sums.
fn clear(group: &PlannedGroup, partial: View) {
    let start = group.branches.first().map_or(group.sums, |b| b.partial);
    partial.write()[start..group.sums + 2 * padded(group.channels)].fill(0.0);
}

struct Forward<'a>(Task<'a>);

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Task { cx, group, chunk } = self.0;
        let Chunk {
            images,
            partial,
            scratch,
        } = chunk;
        let cin = padded(group.channels);
        let (a, scratch) = Padded::carve(scratch, group.size, group.channels, group.border);
        let (d, z) = scratch.split_at_mut(group.size[1] * cin);
        let reader = Reader::new(cx, group.input, true, false);
        for image in images.clone() {
            // SAFETY: `scratch_len` made room for the images and rows; taps stay inside the border;
            // this task alone writes the outputs of its images and its partial sums.
            unsafe {
                reader.image::<V>(image, a, None);
                for branch in group.live(cx.graph) {
                    let writer = ValueWriter::new(cx, branch.branch.output);
                    let packed = Packed::at(branch, group.channels, cx.workspace, false);
                    let cout = padded(branch.channels_out);
                    let [height, width] = branch.window.output();
                    for y in 0..height {
                        let stride = branch.window.stride;
                        let input = Row::new(a.origin(y * stride), stride * cin);
                        let d_row = RowMut::new(d.as_mut_ptr(), cin);
                        depthwise_row::<V>(
                            input,
                            &branch.taps,
                            packed.depthwise,
                            d_row,
                            width,
                            cin,
                            Start::Zero,
                        );
                        let d_row = Row::new(d.as_ptr(), cin);
                        let z_row = RowMut::new(z.as_mut_ptr(), cout);
                        matmul_row::<V>(
                            d_row,
                            HERE,
                            group.channels,
                            packed.pointwise,
                            cout,
                            z_row,
                            width,
                            Start::Zero,
                        );
                        let first = image == images.start && y == 0;
                        let sums = partial.pointer().add(branch.partial);
                        writer.row::<V>(image, y, z.as_ptr(), sums, first);
                    }
                }
            }
        }
    }
}

/// Rows of d, and of ḋ, into scratch.
#[inline(always)]
unsafe fn depthwise_rows<V: Lanes>(
    branch: &PlannedBranch,
    y: usize,
    (a, a_dot): (Padded, Padded),
    (w, w_dot): (Packed, Packed),
    d: *mut f32,
    d_dot: *mut f32,
) {
    let (cin, stride, width) = (a.channels, branch.window.stride, branch.window.output()[1]);
    let step = stride * cin;
    // SAFETY: as in `Forward`.
    unsafe {
        let input = Row::new(a.origin(y * stride), step);
        let input_dot = Row::new(a_dot.origin(y * stride), step);
        let out = RowMut::new(d, cin);
        let out_dot = RowMut::new(d_dot, cin);
        depthwise_row::<V>(
            input,
            &branch.taps,
            w.depthwise,
            out,
            width,
            cin,
            Start::Zero,
        );
        depthwise_row::<V>(
            input_dot,
            &branch.taps,
            w.depthwise,
            out_dot,
            width,
            cin,
            Start::Zero,
        );
        depthwise_row::<V>(
            input,
            &branch.taps,
            w_dot.depthwise,
            out_dot,
            width,
            cin,
            Start::Add,
        );
    }
}

struct Tangent<'a>(Task<'a>);

impl Kernel for Tangent<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Task { cx, group, chunk } = self.0;
        let Chunk {
            images,
            partial,
            scratch,
        } = chunk;
        let cin = padded(group.channels);
        let (a, scratch) = Padded::carve(scratch, group.size, group.channels, group.border);
        let (a_dot, scratch) = Padded::carve(scratch, group.size, group.channels, group.border);
        let (d, scratch) = scratch.split_at_mut(group.size[1] * cin);
        let (d_dot, z) = scratch.split_at_mut(group.size[1] * cin);
        let reader = Reader::new(cx, group.input, true, true);
        for image in images.clone() {
            // SAFETY: as in `Forward`.
            unsafe {
                reader.image::<V>(image, a, Some(a_dot));
                for branch in group.live(cx.graph) {
                    let writer = TangentWriter::new(cx, branch.branch.output);
                    let w = Packed::at(branch, group.channels, cx.workspace, false);
                    let w_dot = Packed::at(branch, group.channels, cx.workspace, true);
                    let cout = padded(branch.channels_out);
                    let [height, width] = branch.window.output();
                    for y in 0..height {
                        depthwise_rows::<V>(
                            branch,
                            y,
                            (a, a_dot),
                            (w, w_dot),
                            d.as_mut_ptr(),
                            d_dot.as_mut_ptr(),
                        );
                        let out = RowMut::new(z.as_mut_ptr(), cout);
                        let row = |r: &[f32]| Row::new(r.as_ptr(), cin);
                        let c = group.channels;
                        matmul_row::<V>(
                            row(d_dot),
                            HERE,
                            c,
                            w.pointwise,
                            cout,
                            out,
                            width,
                            Start::Zero,
                        );
                        matmul_row::<V>(
                            row(d),
                            HERE,
                            c,
                            w_dot.pointwise,
                            cout,
                            out,
                            width,
                            Start::Add,
                        );
                        let first = image == images.start && y == 0;
                        let sums = partial.pointer().add(branch.partial);
                        writer.row::<V>(image, y, z.as_ptr(), sums, first);
                    }
                }
            }
        }
    }
}

/// ā += d̄ ⋆ᵀ w over the whole image.
#[inline(always)]
unsafe fn transpose<V: Lanes>(
    branch: &PlannedBranch,
    size: [usize; 2],
    adjoint: Padded,
    w: *const f32,
    a_bar: *mut f32,
) {
    let (cin, stride) = (adjoint.channels, branch.window.stride);
    for class in &branch.classes {
        let width = (size[1].saturating_sub(class.column)).div_ceil(stride);
        for (m, y) in (class.row..size[0]).step_by(stride).enumerate() {
            // SAFETY: as in `Forward`; the border covers the transposed taps.
            unsafe {
                let input = Row::new(adjoint.origin(m), cin);
                let out = RowMut::new(a_bar.add((y * size[1] + class.column) * cin), stride * cin);
                depthwise_row::<V>(input, &class.taps, w, out, width, cin, Start::Add);
            }
        }
    }
}

struct Backward<'a>(Task<'a>);

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Task { cx, group, chunk } = self.0;
        let Chunk {
            images,
            partial,
            scratch,
        } = chunk;
        let (cin, size) = (padded(group.channels), group.size);
        clear(group, partial);
        let (a, scratch) = Padded::carve(scratch, size, group.channels, group.border);
        let (a_bar, scratch) = scratch.split_at_mut(size[0] * size[1] * cin);
        let (d, scratch) = scratch.split_at_mut(size[1] * cin);
        let reader = Reader::new(cx, group.input, true, false);
        let to = InputAdjoint::new(cx, group.input, Role::Adjoint, true);
        for image in images {
            // SAFETY: as in `Forward`.
            unsafe {
                reader.image::<V>(image, a, None);
                a_bar.fill(0.0);
                for branch in group.live(cx.graph) {
                    let w = Packed::at(branch, group.channels, cx.workspace, false);
                    let adjoint = AdjointReader::new(
                        cx,
                        branch.branch.output,
                        coefficients(branch, cx),
                        false,
                    );
                    let cout = padded(branch.channels_out);
                    let [height, width] = branch.window.output();
                    let border = branch.window.transpose_border();
                    let (z_bar, rest) = scratch.split_at_mut(width * cout);
                    let (d_bar, _) = Padded::carve(rest, [height, width], group.channels, border);
                    let dw = partial.pointer().add(branch.partial);
                    let pw = dw.add(branch.depthwise_len(group.channels));
                    for y in 0..height {
                        let stride = branch.window.stride;
                        let input = Row::new(a.origin(y * stride), stride * cin);
                        let d_row = RowMut::new(d.as_mut_ptr(), cin);
                        depthwise_row::<V>(
                            input,
                            &branch.taps,
                            w.depthwise,
                            d_row,
                            width,
                            cin,
                            Start::Zero,
                        );
                        adjoint.row::<V>(image, y, RowMut::new(z_bar.as_mut_ptr(), cout), None);
                        let z_row = Row::new(z_bar.as_ptr(), cout);
                        outer_row::<V>(
                            Row::new(d.as_ptr(), cin),
                            group.channels,
                            z_row,
                            cout,
                            width,
                            pw,
                        );
                        let d_bar_row = d_bar.interior(y);
                        let out = RowMut::new(d_bar_row, cin);
                        matmul_row::<V>(
                            z_row,
                            HERE,
                            branch.channels_out,
                            w.transposed,
                            cin,
                            out,
                            width,
                            Start::Zero,
                        );
                        let g = Row::new(d_bar_row, cin);
                        depthwise_gradient_row::<V>(input, &branch.taps, g, width, cin, dw);
                    }
                    transpose::<V>(branch, size, d_bar, w.depthwise, a_bar.as_mut_ptr());
                }
                if let Some(to) = to {
                    for y in 0..size[0] {
                        let row = a_bar.as_ptr().add(y * size[1] * cin);
                        let sums = partial.pointer().add(group.sums);
                        to.row::<V>(image, y, row, a.interior(y), None, sums);
                    }
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
        let Task { cx, group, chunk } = self.0;
        let Chunk {
            images,
            partial,
            scratch,
        } = chunk;
        let (cin, size) = (padded(group.channels), group.size);
        clear(group, partial);
        let (a, scratch) = Padded::carve(scratch, size, group.channels, group.border);
        let (a_dot, scratch) = Padded::carve(scratch, size, group.channels, group.border);
        let (a_bar, scratch) = scratch.split_at_mut(size[0] * size[1] * cin);
        let (d, scratch) = scratch.split_at_mut(size[1] * cin);
        let (d_dot, scratch) = scratch.split_at_mut(size[1] * cin);
        let reader = Reader::new(cx, group.input, true, true);
        let to = InputAdjoint::new(cx, group.input, Role::AdjointTangent, true);
        for image in images {
            // SAFETY: as in `Forward`.
            unsafe {
                reader.image::<V>(image, a, Some(a_dot));
                a_bar.fill(0.0);
                for branch in group.live(cx.graph) {
                    let w = Packed::at(branch, group.channels, cx.workspace, false);
                    let w_dot = Packed::at(branch, group.channels, cx.workspace, true);
                    let adjoint = AdjointReader::new(
                        cx,
                        branch.branch.output,
                        coefficients(branch, cx),
                        true,
                    );
                    let cout = padded(branch.channels_out);
                    let [height, width] = branch.window.output();
                    let border = branch.window.transpose_border();
                    let (z_bar, rest) = scratch.split_at_mut(width * cout);
                    let (z_bar_dot, rest) = rest.split_at_mut(width * cout);
                    let (d_bar, rest) =
                        Padded::carve(rest, [height, width], group.channels, border);
                    let (d_bar_dot, _) =
                        Padded::carve(rest, [height, width], group.channels, border);
                    let dw = partial.pointer().add(branch.partial);
                    let pw = dw.add(branch.depthwise_len(group.channels));
                    let (c, taps) = (group.channels, branch.taps.as_slice());
                    for y in 0..height {
                        depthwise_rows::<V>(
                            branch,
                            y,
                            (a, a_dot),
                            (w, w_dot),
                            d.as_mut_ptr(),
                            d_dot.as_mut_ptr(),
                        );
                        let target = |row: &mut [f32]| RowMut::new(row.as_mut_ptr(), cout);
                        adjoint.row::<V>(image, y, target(z_bar), Some(target(z_bar_dot)));
                        let g = Row::new(z_bar.as_ptr(), cout);
                        let g_dot = Row::new(z_bar_dot.as_ptr(), cout);
                        outer_row::<V>(Row::new(d_dot.as_ptr(), cin), c, g, cout, width, pw);
                        outer_row::<V>(Row::new(d.as_ptr(), cin), c, g_dot, cout, width, pw);
                        let row = RowMut::new(d_bar.interior(y), cin);
                        let row_dot = RowMut::new(d_bar_dot.interior(y), cin);
                        let o = branch.channels_out;
                        matmul_row::<V>(g, HERE, o, w.transposed, cin, row, width, Start::Zero);
                        matmul_row::<V>(
                            g_dot,
                            HERE,
                            o,
                            w.transposed,
                            cin,
                            row_dot,
                            width,
                            Start::Zero,
                        );
                        matmul_row::<V>(
                            g,
                            HERE,
                            o,
                            w_dot.transposed,
                            cin,
                            row_dot,
                            width,
                            Start::Add,
                        );
                        let step = branch.window.stride * cin;
                        let input = Row::new(a.origin(y * branch.window.stride), step);
                        let input_dot = Row::new(a_dot.origin(y * branch.window.stride), step);
                        let d_g = Row::new(row.start, cin);
                        let d_g_dot = Row::new(row_dot.start, cin);
                        depthwise_gradient_row::<V>(input, taps, d_g_dot, width, cin, dw);
                        depthwise_gradient_row::<V>(input_dot, taps, d_g, width, cin, dw);
                    }
                    transpose::<V>(branch, size, d_bar_dot, w.depthwise, a_bar.as_mut_ptr());
                    transpose::<V>(branch, size, d_bar, w_dot.depthwise, a_bar.as_mut_ptr());
                }
                if let Some(to) = to {
                    for y in 0..size[0] {
                        let row = a_bar.as_ptr().add(y * size[1] * cin);
                        let sums = partial.pointer().add(group.sums);
                        let dot = Some(a_dot.interior(y).cast_const());
                        to.row::<V>(image, y, row, a.interior(y), dot, sums);
                    }
                }
            }
        }
    }
}
