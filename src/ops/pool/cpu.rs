//! The four passes on the CPU: a task is one chunk of images; windows are clipped, lanes are
//! channels. Roofline: k² loads in cache and one store an output; bound by memory where k is 3.

use super::{Branch, Kind, Pool};
use crate::device::View;
use crate::device::simd::{Kernel, LANES, Lanes, dispatch, padded};
use crate::ops::adjoint::{AdjointReader, coefficients_len};
use crate::ops::chunked::{Chunk, Partials};
use crate::ops::micro::RowMut;
use crate::ops::rows::{InputAdjoint, Padded, Reader};
use crate::ops::statistics::{
    TangentWriter, ValueWriter, finish_tangent, finish_value, partial_len,
};
use crate::ops::{Context, MAX_SOURCES, Role};
use std::ops::Range;

/// Input rows (or columns) of output `at`, clipped to the image.
#[inline(always)]
fn window(kind: Kind, stride: usize, at: usize, size: usize) -> Range<usize> {
    let first = at * stride;
    let end = first + kind.side() - kind.padding();
    first.saturating_sub(kind.padding())..end.min(size)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Tangent,
    Backward,
    TangentBackward,
}

struct Task<'a> {
    cx: &'a Context<'a>,
    op: &'a Pool,
    mode: Mode,
    chunk: Chunk<'a>,
}

fn coefficients(op: &Pool, cx: &Context, branch: usize) -> View {
    let len = coefficients_len(op.channels, MAX_SOURCES);
    cx.workspace.part(branch * len, len)
}

/// The branches whose output something reads.
fn live<'a>(op: &'a Pool, cx: &'a Context) -> impl Iterator<Item = (usize, &'a Branch)> {
    let branches = op.branches.iter().enumerate();
    branches.filter(|(_, branch)| cx.graph.is_live(branch.output))
}

fn run(op: &Pool, cx: &Context, mode: Mode) {
    if matches!(mode, Mode::Backward | Mode::TangentBackward) {
        for (b, branch) in live(op, cx) {
            let tangent = mode == Mode::TangentBackward;
            AdjointReader::prepare(cx, branch.output, coefficients(op, cx, b), tangent);
        }
    }
    let partials = Partials::new(cx.workspace, op.shared_len(), op.batch, op.chunk_len());
    let step = padded(op.channels);
    let scratch = 3 * Padded::len(op.size, op.channels, 0) + 2 * op.size[1] * step;
    partials.for_each_chunk(scratch, |chunk| {
        dispatch(Task {
            cx,
            op,
            mode,
            chunk,
        });
    });
    for (b, branch) in live(op, cx) {
        let at = b * partial_len(op.channels);
        match mode {
            Mode::Forward => finish_value(cx, branch.output, partials, at),
            Mode::Tangent => finish_tangent(cx, branch.output, partials, at),
            Mode::Backward | Mode::TangentBackward => {}
        }
    }
}

pub(super) fn forward(op: &Pool, cx: &Context) {
    run(op, cx, Mode::Forward);
}

pub(super) fn backward(op: &Pool, cx: &Context) {
    run(op, cx, Mode::Backward);
}

pub(super) fn tangent(op: &Pool, cx: &Context) {
    run(op, cx, Mode::Tangent);
}

pub(super) fn tangent_backward(op: &Pool, cx: &Context) {
    run(op, cx, Mode::TangentBackward);
}

/// One window of one output pixel: 16 channels from `x`, pixels `step` apart in rows of `width`.
#[derive(Clone, Copy)]
struct Window {
    x: *const f32,
    step: usize,
    width: usize,
}

impl Window {
    #[inline(always)]
    unsafe fn at(&self, base: *const f32, y: usize, x: usize) -> *const f32 {
        // SAFETY: (y, x) lies inside the image that `base` addresses.
        unsafe { base.add((y * self.width + x) * self.step) }
    }

    /// Applies the pool to x, or with `dot` its derivative to ẋ.
    #[inline(always)]
    unsafe fn gather<V: Lanes>(
        &self,
        kind: Kind,
        rows: Range<usize>,
        columns: Range<usize>,
        dot: Option<*const f32>,
    ) -> V {
        let zero = V::splat(0.0);
        // SAFETY: the ranges are clipped to the image.
        unsafe {
            if kind.is_maximum() {
                let best = self.maximum::<V>(rows.clone(), columns.clone());
                let Some(dot) = dot else { return best };
                let (mut rest, mut sum) = (V::splat(1.0), zero);
                for y in rows {
                    for x in columns.clone() {
                        let here = best.select_greater(V::load(self.at(self.x, y, x)), zero, rest);
                        rest = rest.sub(here);
                        sum = here.mul_add(V::load(self.at(dot, y, x)), sum);
                    }
                }
                sum
            } else {
                let base = dot.unwrap_or(self.x);
                let share = 1.0 / (rows.len() * columns.len()) as f32;
                let mut sum = zero;
                for y in rows {
                    for x in columns.clone() {
                        sum = sum.add(V::load(self.at(base, y, x)));
                    }
                }
                sum.mul(V::splat(share))
            }
        }
    }

    #[inline(always)]
    unsafe fn maximum<V: Lanes>(&self, rows: Range<usize>, columns: Range<usize>) -> V {
        // SAFETY: as in `gather`; a clipped window is never empty.
        unsafe {
            let mut best = V::load(self.at(self.x, rows.start, columns.start));
            for y in rows {
                for x in columns.clone() {
                    best = best.max(V::load(self.at(self.x, y, x)));
                }
            }
            best
        }
    }

    /// Adds the transpose applied to `g` into `x_bar`.
    #[inline(always)]
    unsafe fn scatter<V: Lanes>(
        &self,
        kind: Kind,
        rows: Range<usize>,
        columns: Range<usize>,
        g: V,
        x_bar: *mut f32,
    ) {
        let zero = V::splat(0.0);
        // SAFETY: as in `gather`.
        unsafe {
            let best = kind
                .is_maximum()
                .then(|| self.maximum::<V>(rows.clone(), columns.clone()));
            let share = g.mul(V::splat(1.0 / (rows.len() * columns.len()) as f32));
            let mut rest = g;
            for y in rows {
                for x in columns.clone() {
                    let here = match best {
                        Some(best) => {
                            let here =
                                best.select_greater(V::load(self.at(self.x, y, x)), zero, rest);
                            rest = rest.sub(here);
                            here
                        }
                        None => share,
                    };
                    let to = self.at(x_bar, y, x).cast_mut();
                    V::load(to).add(here).store(to);
                }
            }
        }
    }
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Task {
            cx,
            op,
            mode,
            chunk,
        } = self;
        let Chunk {
            images,
            partial,
            scratch,
        } = chunk;
        let step = padded(op.channels);
        let tangent = mode == Mode::Tangent;
        let (x, scratch) = Padded::carve(scratch, op.size, op.channels, 0);
        let (x_dot, scratch) = Padded::carve(scratch, op.size, op.channels, 0);
        let (x_bar, scratch) = Padded::carve(scratch, op.size, op.channels, 0);
        let (row, row_dot) = scratch.split_at_mut(op.size[1] * step);
        let reader = Reader::new(cx, op.input, op.relu, tangent);
        let role = if mode == Mode::Backward {
            Role::Adjoint
        } else {
            Role::AdjointTangent
        };
        let to = match mode {
            Mode::Backward | Mode::TangentBackward => {
                InputAdjoint::new(cx, op.input, role, op.relu)
            }
            Mode::Forward | Mode::Tangent => None,
        };
        let sums = partial.part(op.chunk_len() - 2 * step, 2 * step).write();
        sums.fill(0.0);
        for image in images.clone() {
            // SAFETY: the scratch holds three images and two rows; this task owns its images.
            unsafe {
                reader.image::<V>(image, x, tangent.then_some(x_dot));
                if to.is_some() {
                    let len = op.size[0] * op.size[1] * step;
                    std::slice::from_raw_parts_mut(x_bar.start, len).fill(0.0);
                }
                for (b, branch) in live(op, cx) {
                    let [height, width] = Pool::output_size(branch.kind, op.stride, op.size);
                    let sums = partial.pointer().add(b * partial_len(op.channels));
                    for y in 0..height {
                        let first = image == images.start && y == 0;
                        let rows = window(branch.kind, op.stride, y, op.size[0]);
                        if to.is_some() {
                            let second = mode == Mode::TangentBackward;
                            let adjoint = AdjointReader::new(
                                cx,
                                branch.output,
                                coefficients(op, cx, b),
                                second,
                            );
                            let target = RowMut::new(row.as_mut_ptr(), step);
                            let dot = RowMut::new(row_dot.as_mut_ptr(), step);
                            adjoint.row::<V>(image, y, target, second.then_some(dot));
                        }
                        let g = if mode == Mode::TangentBackward {
                            row_dot.as_ptr()
                        } else {
                            row.as_ptr()
                        };
                        for at in 0..width {
                            let columns = window(branch.kind, op.stride, at, op.size[1]);
                            for c in (0..step).step_by(LANES) {
                                let here = Window {
                                    x: x.start.add(c),
                                    step,
                                    width: op.size[1],
                                };
                                if to.is_some() {
                                    let g = V::load(g.add(at * step + c));
                                    here.scatter::<V>(
                                        branch.kind,
                                        rows.clone(),
                                        columns.clone(),
                                        g,
                                        x_bar.start.add(c),
                                    );
                                } else {
                                    let dot = tangent.then(|| x_dot.start.add(c).cast_const());
                                    here.gather::<V>(
                                        branch.kind,
                                        rows.clone(),
                                        columns.clone(),
                                        dot,
                                    )
                                    .store(row.as_mut_ptr().add(at * step + c));
                                }
                            }
                        }
                        match mode {
                            Mode::Forward => ValueWriter::new(cx, branch.output).row::<V>(
                                image,
                                y,
                                row.as_ptr(),
                                sums,
                                first,
                            ),
                            Mode::Tangent => TangentWriter::new(cx, branch.output).row::<V>(
                                image,
                                y,
                                row.as_ptr(),
                                sums,
                                first,
                            ),
                            Mode::Backward | Mode::TangentBackward => {}
                        }
                    }
                }
                if let Some(to) = to {
                    for y in 0..op.size[0] {
                        let bar = x_bar.interior(y);
                        to.row::<V>(image, y, bar, x.interior(y), None, sums.as_mut_ptr());
                    }
                }
            }
        }
    }
}
