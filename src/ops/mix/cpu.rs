//! The four passes on the CPU: a task is one chunk of images, row by row, one term after another
//! into a row of sums in the first-level cache. Roofline: two FLOP a loaded f32; bound by memory,
//! which each branch's z crosses once a pass.

use super::Mix;
use crate::device::View;
use crate::device::simd::{Kernel, LANES, Lanes, dispatch, padded, prefetch};
use crate::ops::adjoint::{AdjointReader, coefficients_len};
use crate::ops::chunked::{Chunk, Partials};
use crate::ops::micro::RowMut;
use crate::ops::rows::{load, scale, store, write};
use crate::ops::statistics::{TangentWriter, ValueWriter, finish_tangent, finish_value};
use crate::ops::{Context, Dense, MAX_SOURCES, Moments, Pass, Role, Scale};

struct Task<'a> {
    cx: &'a Context<'a>,
    op: &'a Mix,
    chunk: Chunk<'a>,
}

/// Fills the coefficients of y (or ẏ): row 0 the constant β, rows 1 + 2t and 2 + 2t the factors of
/// term t's value and tangent, each less its mean. (The mean is subtracted as rows are loaded: folded
/// into the constant it would cancel where it is large beside the deviation.)
fn fill_table(op: &Mix, cx: &Context, tangent: bool) {
    let step = padded(op.channels);
    let table = cx.workspace.part(0, op.table_rows() * step).write();
    table.fill(0.0);
    for c in 0..op.channels {
        let constant = match op.shift {
            Some(id) if tangent => cx.parameter_tangent(id).read()[c],
            Some(id) => cx.parameter(id).read()[c],
            None => 0.0,
        };
        for (t, term) in op.active(cx.graph) {
            let s = scale(cx, term.scale, c, Role::Value);
            let s_dot = if tangent {
                scale(cx, term.scale, c, Role::Tangent)
            } else {
                0.0
            };
            let (mut value, mut dot) = if tangent { (s_dot, s) } else { (s, 0.0) };
            if op.normalised[t] {
                let statistics = cx.moments(term.input, Moments::Statistics).read();
                let r = statistics[step + c];
                if tangent {
                    let moments = cx.moments(term.input, Moments::StatisticsTangent).read();
                    let normed = s_dot - s * r * moments[step + c];
                    (value, dot) = (normed * r, s * r);
                } else {
                    value = s * r;
                }
            }
            table[(1 + 2 * t) * step + c] = value;
            table[(2 + 2 * t) * step + c] = dot;
        }
        table[c] = constant;
    }
}

fn coefficients(op: &Mix, cx: &Context) -> View {
    let len = coefficients_len(op.channels, MAX_SOURCES);
    cx.workspace.part(op.shared_len() - len, len)
}

/// Runs `kernel` on every chunk; returns what the chunks summed.
fn run(op: &Mix, cx: &Context, kernel: impl Fn(Task) + Sync + Send) -> Partials {
    let partials = Partials::new(cx.workspace, op.shared_len(), op.batch, op.chunk_len());
    let rows = 2 * op.size[1] * padded(op.channels);
    partials.for_each_chunk(rows, |chunk| kernel(Task { cx, op, chunk }));
    partials
}

pub(super) fn forward(op: &Mix, cx: &Context) {
    fill_table(op, cx, false);
    let partials = run(op, cx, |task| dispatch(Forward(task)));
    finish_value(cx, op.output, partials, 0);
}

pub(super) fn tangent(op: &Mix, cx: &Context) {
    fill_table(op, cx, true);
    let partials = run(op, cx, |task| dispatch(Tangent(task)));
    finish_tangent(cx, op.output, partials, 0);
}

pub(super) fn backward(op: &Mix, cx: &Context) {
    AdjointReader::prepare(cx, op.output, coefficients(op, cx), false);
    let partials = run(op, cx, |task| dispatch(Backward(task)));
    finish_sums(op, cx, Pass::Backward, partials);
}

pub(super) fn tangent_backward(op: &Mix, cx: &Context) {
    AdjointReader::prepare(cx, op.output, coefficients(op, cx), true);
    let partials = run(op, cx, |task| dispatch(TangentBackward(task)));
    finish_sums(op, cx, Pass::TangentBackward, partials);
}

/// Hands the sums on: adjoints of op weights and gains, and the inputs' adjoint sums.
fn finish_sums(op: &Mix, cx: &Context, pass: Pass, partials: Partials) {
    let tangent = pass == Pass::TangentBackward;
    let step = padded(op.channels);
    let sum = |row: usize, c: usize| partials.sum(row * step + c);
    let (role, kind) = if tangent {
        (Role::AdjointTangent, Moments::AdjointSumsTangent)
    } else {
        (Role::Adjoint, Moments::AdjointSums)
    };
    if let Some(id) = op.shift {
        for (c, value) in cx.parameter_gradient(id).write().iter_mut().enumerate() {
            *value = sum(usize::from(tangent), c) as f32;
        }
    }
    for (t, term) in op.active(cx.graph) {
        // First-order Σ ȳ·x̂, and the pass's own adjoint of s.
        let (first, own) = (2 + 2 * t, 2 + 2 * t + usize::from(tangent));
        match term.scale {
            Scale::One => {}
            Scale::OpWeight(id, index) => {
                let total: f64 = (0..op.channels).map(|c| sum(own, c)).sum();
                cx.weights(id, role).write()[index] += total as f32;
            }
            Scale::Gain(id) => {
                for (c, value) in cx.parameter_gradient(id).write().iter_mut().enumerate() {
                    *value = sum(own, c) as f32;
                }
            }
        }
        if !op.normalised[t] {
            continue;
        }
        let sums = cx.moments(term.input, kind).write();
        for c in 0..op.channels {
            let s = f64::from(scale(cx, term.scale, c, Role::Value));
            let (mut s1, mut s2) = (s * sum(usize::from(tangent), c), s * sum(own, c));
            if tangent {
                let s_dot = f64::from(scale(cx, term.scale, c, Role::Tangent));
                s1 += s_dot * sum(0, c);
                s2 += s_dot * sum(first, c);
            }
            sums[c] += s1 as f32;
            sums[step + c] += s2 as f32;
        }
    }
}

/// A row of a planned buffer and what is made of it: factor[c] · (in[x, c] − mean[c]); no mean is zero.
#[derive(Clone, Copy)]
struct Addend {
    from: Dense,
    mean: Option<View>,
    factor: *const f32,
}

/// Addends whose sum stays in registers before it goes to the row.
const TOGETHER: usize = 4;

/// out[x, c] += Σ of all addends, in their order.
#[inline(always)]
unsafe fn add_rows<V: Lanes>(
    addends: impl Iterator<Item = Addend>,
    (image, y): (usize, usize),
    out: *mut f32,
) {
    let mut some: [Option<Addend>; TOGETHER] = [None; TOGETHER];
    let mut count = 0;
    for addend in addends {
        some[count] = Some(addend);
        count += 1;
        if count == TOGETHER {
            // SAFETY: the caller's promise.
            unsafe { add_some::<V, TOGETHER>(some, (image, y), out) };
            count = 0;
        }
    }
    for addend in &some[..count] {
        // SAFETY: the caller's promise.
        unsafe { add_some::<V, 1>([*addend], (image, y), out) };
    }
}

/// As [`add_rows`], for `N` addends.
#[inline(always)]
unsafe fn add_some<V: Lanes, const N: usize>(
    addends: [Option<Addend>; N],
    (image, y): (usize, usize),
    out: *mut f32,
) {
    let addends = addends.map(|addend| addend.expect("N of them"));
    let rows = addends.map(|addend| addend.from.row(image, y).cast_const());
    let Dense {
        channels, width, ..
    } = addends[0].from;
    let step = padded(channels);
    for c in (0..step).step_by(LANES) {
        // SAFETY: the rows have `width` pixels, `out` as many of `step` f32, `factor` and `mean` `step`.
        unsafe {
            let factors = addends.map(|addend| V::load(addend.factor.add(c)));
            let means = addends.map(|addend| match addend.mean {
                Some(moments) => V::load(moments.pointer().add(c)),
                None => V::splat(0.0),
            });
            for x in 0..width {
                let at = out.add(x * step + c);
                let mut sum = V::load(at);
                for n in 0..N {
                    let stride = addends[n].from.pixel_stride;
                    prefetch(rows[n].wrapping_add((width + x) * stride + c));
                    let value: V = load(rows[n].add(x * stride), channels, c);
                    sum = value.sub(means[n]).mul_add(factors[n], sum);
                }
                sum.store(at);
            }
        }
    }
}

/// The mean (of z, or of ż) that batch norm takes off a term's input.
fn mean(cx: &Context, op: &Mix, t: usize, kind: Moments) -> Option<View> {
    op.normalised[t].then(|| cx.moments(op.terms[t].input, kind))
}

/// Sets every pixel of a row to the constant coefficient.
#[inline(always)]
unsafe fn constant_row<V: Lanes>(constant: *const f32, step: usize, width: usize, out: *mut f32) {
    for c in (0..step).step_by(LANES) {
        // SAFETY: `out` has `width` pixels of `step` f32.
        unsafe {
            let value = V::load(constant.add(c));
            for x in 0..width {
                value.store(out.add(x * step + c));
            }
        }
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
        let step = padded(op.channels);
        let table = cx
            .workspace
            .part(0, op.table_rows() * step)
            .pointer()
            .cast_const();
        let writer = ValueWriter::new(cx, op.output);
        for image in images.clone() {
            for y in 0..op.size[0] {
                let row = scratch.as_mut_ptr();
                // SAFETY: the scratch holds two rows; this task owns its images.
                unsafe {
                    constant_row::<V>(table, step, op.size[1], row);
                    let addends = op.active(cx.graph).map(|(t, term)| Addend {
                        from: cx.dense(term.input, Role::Value),
                        mean: mean(cx, op, t, Moments::Statistics),
                        factor: table.add((1 + 2 * t) * step),
                    });
                    add_rows::<V>(addends, (image, y), row);
                    let first = image == images.start && y == 0;
                    writer.row::<V>(image, y, row, partial.pointer(), first);
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
        let step = padded(op.channels);
        let table = cx
            .workspace
            .part(0, op.table_rows() * step)
            .pointer()
            .cast_const();
        let writer = TangentWriter::new(cx, op.output);
        for image in images.clone() {
            for y in 0..op.size[0] {
                let row = scratch.as_mut_ptr();
                // SAFETY: as in `Forward`.
                unsafe {
                    constant_row::<V>(table, step, op.size[1], row);
                    let addends = op.active(cx.graph).flat_map(|(t, term)| {
                        [
                            Addend {
                                from: cx.dense(term.input, Role::Value),
                                mean: mean(cx, op, t, Moments::Statistics),
                                factor: table.add((1 + 2 * t) * step),
                            },
                            Addend {
                                from: cx.dense(term.input, Role::Tangent),
                                mean: mean(cx, op, t, Moments::StatisticsTangent),
                                factor: table.add((2 + 2 * t) * step),
                            },
                        ]
                    });
                    add_rows::<V>(addends, (image, y), row);
                    let first = image == images.start && y == 0;
                    writer.row::<V>(image, y, row, partial.pointer(), first);
                }
            }
        }
    }
}

/// Stores a row of scratch in a planned buffer.
#[inline(always)]
unsafe fn store_row<V: Lanes>(row: *const f32, to: Dense, image: usize, y: usize) {
    let step = padded(to.channels);
    let out = to.row(image, y);
    for x in 0..to.width {
        for c in (0..step).step_by(LANES) {
            // SAFETY: the row has `width` pixels of `step` f32; this task owns the image.
            unsafe {
                let value = V::load(row.add(x * step + c));
                write(value, &to, out.add(x * to.pixel_stride), c);
            }
        }
    }
}

/// sums[c] += Σ_x row[x, c]
#[inline(always)]
unsafe fn sum_row<V: Lanes>(row: *const f32, step: usize, width: usize, sums: *mut f32) {
    for c in (0..step).step_by(LANES) {
        // SAFETY: the row has `width` pixels of `step` f32, `sums` has `step`.
        unsafe {
            let mut sum = V::splat(0.0);
            for x in 0..width {
                sum = sum.add(V::load(row.add(x * step + c)));
            }
            sum.add(V::load(sums.add(c))).store(sums.add(c));
        }
    }
}

/// x̄ (+)= s·ȳ, or x̄˙ (+)= ṡ·ȳ + s·ȳ˙ for a plain input.
#[inline(always)]
unsafe fn hand_on<V: Lanes>(
    cx: &Context,
    op: &Mix,
    t: usize,
    (image, y): (usize, usize),
    y_bar: *const f32,
    y_bar_dot: Option<*const f32>,
) {
    let term = op.terms[t];
    if op.normalised[t] || !cx.graph.activation(term.input).differentiable {
        return;
    }
    let role = if y_bar_dot.is_some() {
        Role::AdjointTangent
    } else {
        Role::Adjoint
    };
    let (to, add) = (cx.dense(term.input, role), cx.adds_to(term.input));
    let s = V::splat(scale(cx, term.scale, 0, Role::Value));
    let s_dot = y_bar_dot.map(|_| V::splat(scale(cx, term.scale, 0, Role::Tangent)));
    let step = padded(to.channels);
    let out = to.row(image, y);
    for c in (0..step).step_by(LANES) {
        for x in 0..to.width {
            // SAFETY: rows of `width` pixels; this task owns the image.
            unsafe {
                let at = x * step + c;
                let first = V::load(y_bar.add(at));
                let mut value = match (y_bar_dot, s_dot) {
                    (Some(dot), Some(s_dot)) => first.mul_add(s_dot, V::load(dot.add(at)).mul(s)),
                    _ => first.mul(s),
                };
                let pixel = out.add(x * to.pixel_stride);
                if add {
                    value = value.add(load(pixel, to.channels, c));
                    store(value, pixel, to.channels, c);
                } else {
                    write(value, &to, pixel, c);
                }
            }
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
        let (step, width) = (padded(op.channels), op.size[1]);
        let adjoint = AdjointReader::new(cx, op.output, coefficients(op, cx), false);
        partial.write().fill(0.0);
        let sums = partial.pointer();
        let row = scratch.as_mut_ptr();
        for image in images {
            for y in 0..op.size[0] {
                // SAFETY: as in `Forward`; `chunk_len` has a row for each sum.
                unsafe {
                    adjoint.row::<V>(image, y, RowMut::new(row, step), None);
                    if op.output_normalised {
                        store_row::<V>(row, cx.dense(op.output, Role::Adjoint), image, y);
                    }
                    sum_row::<V>(row, step, width, sums);
                    for (t, term) in op.active(cx.graph) {
                        let value = cx.dense(term.input, Role::Value);
                        let moments =
                            op.normalised[t].then(|| cx.moments(term.input, Moments::Statistics));
                        weighted_sum::<V>(
                            value,
                            moments,
                            (image, y),
                            row,
                            sums.add((2 + 2 * t) * step),
                        );
                        hand_on::<V>(cx, op, t, (image, y), row, None);
                    }
                }
            }
        }
    }
}

/// sums[c] += Σ_x ȳ·x̂ (or ȳ·x for a plain input).
#[inline(always)]
unsafe fn weighted_sum<V: Lanes>(
    value: Dense,
    moments: Option<View>,
    (image, y): (usize, usize),
    y_bar: *const f32,
    sums: *mut f32,
) {
    let (channels, step) = (value.channels, padded(value.channels));
    let row = value.row(image, y).cast_const();
    for c in (0..step).step_by(LANES) {
        // SAFETY: rows of `width` pixels; moments hold two rows of `step`.
        unsafe {
            let (mean, r) = match moments {
                Some(m) => (
                    V::load(m.pointer().add(c)),
                    V::load(m.pointer().add(step + c)),
                ),
                None => (V::splat(0.0), V::splat(1.0)),
            };
            let mut sum = V::splat(0.0);
            for x in 0..value.width {
                let at = x * value.pixel_stride;
                prefetch(row.wrapping_add(value.width * value.pixel_stride + at + c));
                let z: V = load(row.add(at), channels, c);
                sum = z.sub(mean).mul_add(V::load(y_bar.add(x * step + c)), sum);
            }
            sum.mul_add(r, V::load(sums.add(c))).store(sums.add(c));
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
        let (step, width) = (padded(op.channels), op.size[1]);
        let adjoint = AdjointReader::new(cx, op.output, coefficients(op, cx), true);
        partial.write().fill(0.0);
        let sums = partial.pointer();
        let (row, row_dot) = scratch.split_at_mut(width * step);
        let (row, row_dot) = (row.as_mut_ptr(), row_dot.as_mut_ptr());
        for image in images {
            for y in 0..op.size[0] {
                // SAFETY: as in `Backward`.
                unsafe {
                    let target = |start| RowMut::new(start, step);
                    adjoint.row::<V>(image, y, target(row), Some(target(row_dot)));
                    if op.output_normalised {
                        store_row::<V>(
                            row_dot,
                            cx.dense(op.output, Role::AdjointTangent),
                            image,
                            y,
                        );
                    }
                    sum_row::<V>(row, step, width, sums);
                    sum_row::<V>(row_dot, step, width, sums.add(step));
                    for (t, _) in op.active(cx.graph) {
                        let to = sums.add((2 + 2 * t) * step);
                        second_order_sums::<V>(cx, op, t, (image, y), row, row_dot, to);
                        hand_on::<V>(cx, op, t, (image, y), row, Some(row_dot));
                    }
                }
            }
        }
    }
}

/// First row of sums: Σ ȳ·x̂; second: Σ ȳ˙·x̂ + ȳ·x̂˙ (x and ẋ for a plain input).
#[inline(always)]
unsafe fn second_order_sums<V: Lanes>(
    cx: &Context,
    op: &Mix,
    t: usize,
    (image, y): (usize, usize),
    y_bar: *const f32,
    y_bar_dot: *const f32,
    sums: *mut f32,
) {
    let input = op.terms[t].input;
    let (value, tangent) = (cx.dense(input, Role::Value), cx.dense(input, Role::Tangent));
    let (channels, step) = (value.channels, padded(value.channels));
    let row = value.row(image, y).cast_const();
    let row_tangent = tangent.row(image, y).cast_const();
    let moments = op.normalised[t].then(|| {
        (
            cx.moments(input, Moments::Statistics),
            cx.moments(input, Moments::StatisticsTangent),
        )
    });
    for c in (0..step).step_by(LANES) {
        // SAFETY: as in `weighted_sum`.
        unsafe {
            let two = |view: View| {
                (
                    V::load(view.pointer().add(c)),
                    V::load(view.pointer().add(step + c)),
                )
            };
            let ((mean, r), (mean_dot, slope)) = match moments {
                Some((statistics, tangents)) => (two(statistics), two(tangents)),
                None => (
                    (V::splat(0.0), V::splat(1.0)),
                    (V::splat(0.0), V::splat(0.0)),
                ),
            };
            let (mut first, mut second) = (V::splat(0.0), V::splat(0.0));
            for x in 0..value.width {
                let (at, at_dot) = (x * value.pixel_stride, x * tangent.pixel_stride);
                prefetch(row.wrapping_add(value.width * value.pixel_stride + at + c));
                prefetch(row_tangent.wrapping_add(value.width * tangent.pixel_stride + at_dot + c));
                let z: V = load(row.add(at), channels, c);
                let dot: V = load(row_tangent.add(at_dot), channels, c);
                let normed = z.sub(mean).mul(r);
                let normed_dot = dot.sub(mean_dot).sub(normed.mul(slope)).mul(r);
                let adjoint = V::load(y_bar.add(x * step + c));
                first = adjoint.mul_add(normed, first);
                second = V::load(y_bar_dot.add(x * step + c)).mul_add(normed, second);
                second = adjoint.mul_add(normed_dot, second);
            }
            first.add(V::load(sums.add(c))).store(sums.add(c));
            second
                .add(V::load(sums.add(step + c)))
                .store(sums.add(step + c));
        }
    }
}
