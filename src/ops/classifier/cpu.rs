//! The four passes on the CPU. The pooled features and the logits are a few thousand numbers, so
//! only the pool and its transpose run in parallel (a task an image); they are bound by memory.

use super::Classifier;
use crate::device::View;
use crate::device::parallel::{for_each, with_scratch};
use crate::ops::{Context, Dense, Outcome, Role};

/// Pooled features, their tangents, l̄ and l̄˙ in the op's workspace.
struct Rows {
    pooled: View,
    pooled_dot: View,
    bar: View,
    bar_dot: View,
}

fn rows(op: &Classifier, cx: &Context) -> Rows {
    let (f, k) = (op.batch * op.channels, op.batch * op.classes);
    Rows {
        pooled: cx.workspace.part(0, f),
        pooled_dot: cx.workspace.part(f, f),
        bar: cx.workspace.part(2 * f, k),
        bar_dot: cx.workspace.part(2 * f + k, k),
    }
}

/// This classifier's logits of image `n`.
fn logits(op: &Classifier, cx: &Context, n: usize) -> View {
    let first = if op.loss.auxiliary { op.batch } else { 0 };
    cx.logits.part((first + n) * op.classes, op.classes)
}

/// Calls `pixel(index of pixel, its channels)` for an image.
fn pixels(of: Dense, image: usize, mut pixel: impl FnMut(usize, &mut [f32])) {
    for y in 0..of.height {
        let start = ((image * of.height + y) * of.width) * of.pixel_stride;
        for x in 0..of.width {
            let at = start + x * of.pixel_stride;
            pixel(y * of.width + x, of.view.part(at, of.channels).write());
        }
    }
}

/// g, and ġ if `tangent`.
fn pool(op: &Classifier, cx: &Context, to: &Rows, tangent: bool) {
    let value = cx.dense(op.features, Role::Value);
    let dot = tangent.then(|| cx.dense(op.features, Role::Tangent));
    let share = 1.0 / (value.height * value.width) as f32;
    for_each(op.batch, |n| {
        let row = to.pooled.part(n * op.channels, op.channels).write();
        let row_dot = to.pooled_dot.part(n * op.channels, op.channels).write();
        row.fill(0.0);
        row_dot.fill(0.0);
        pixels(value, n, |at, features| {
            for (sum, &f) in row.iter_mut().zip(features.iter()) {
                *sum += if op.relu && f <= 0.0 { 0.0 } else { f };
            }
            let Some(dot) = dot else { return };
            let offset = (n * value.height * value.width + at) * dot.pixel_stride;
            let tangents = dot.view.part(offset, op.channels).read();
            for ((sum, &t), &f) in row_dot.iter_mut().zip(tangents).zip(features.iter()) {
                *sum += if op.relu && f <= 0.0 { 0.0 } else { t };
            }
        });
        for sum in row.iter_mut().chain(row_dot) {
            *sum *= share;
        }
    });
}

/// Lends two rows of f64, `[classes]` each, from this thread's scratch.
fn with_rows<R>(classes: usize, body: impl FnOnce(&mut [f64], &mut [f64]) -> R) -> R {
    with_scratch(4 * classes, |scratch| {
        let rows: &mut [f64] = bytemuck::cast_slice_mut(scratch);
        let (first, second) = rows.split_at_mut(classes);
        body(first, second)
    })
}

/// g·W (+ b) for one image, in f64.
fn linear(pooled: &[f32], weight: &[f32], start: impl Iterator<Item = f64>, out: &mut [f64]) {
    for (sum, start) in out.iter_mut().zip(start) {
        *sum = start;
    }
    let classes = out.len();
    for (&g, row) in pooled.iter().zip(weight.chunks_exact(classes)) {
        for (sum, &w) in out.iter_mut().zip(row) {
            *sum += f64::from(g) * f64::from(w);
        }
    }
}

fn softmax(logits: &[f32]) -> (f64, impl Iterator<Item = f64> + '_) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    let log_sum = sum.ln() + f64::from(max);
    (
        log_sum,
        logits.iter().map(move |&l| (f64::from(l) - log_sum).exp()),
    )
}

pub(super) fn forward(op: &Classifier, cx: &Context) {
    let rows = rows(op, cx);
    pool(op, cx, &rows, false);
    let (weight, bias) = (cx.parameter(op.weight).read(), cx.parameter(op.bias).read());
    let mut outcome = Outcome::default();
    for n in 0..op.batch {
        let pooled = rows.pooled.part(n * op.channels, op.channels).read();
        let logits = logits(op, cx, n).write();
        with_rows(op.classes, |row, _| {
            linear(pooled, weight, bias.iter().map(|&b| f64::from(b)), row);
            for (to, &l) in logits.iter_mut().zip(row.iter()) {
                *to = l as f32;
            }
        });
        let label = cx.labels[n] as usize;
        let (log_sum, _) = softmax(logits);
        let smoothing = f64::from(op.loss.smoothing);
        let mut loss = log_sum - (1.0 - smoothing) * f64::from(logits[label]);
        if smoothing > 0.0 {
            let total: f64 = logits.iter().map(|&l| f64::from(l)).sum();
            loss -= smoothing / op.classes as f64 * total;
        }
        outcome.loss += f64::from(op.loss.weight) * loss / op.batch as f64;
        if op.loss.auxiliary {
            continue;
        }
        // Rank by strictly greater logits; a NaN anywhere counts as a miss.
        let above = logits.iter().filter(|&&l| l > logits[label]).count();
        let finite = logits.iter().all(|l| l.is_finite());
        outcome.top1 += usize::from(finite && above == 0);
        outcome.top5 += usize::from(finite && above < 5);
    }
    let mut total = cx.outcome.lock().expect("no panic holds it");
    total.loss += outcome.loss;
    total.top1 += outcome.top1;
    total.top5 += outcome.top5;
}

/// l̄ from the logits.
fn fill_bar(op: &Classifier, cx: &Context, rows: &Rows) {
    for n in 0..op.batch {
        let bar = rows.bar.part(n * op.classes, op.classes).write();
        let (_, probabilities) = softmax(logits(op, cx, n).read());
        let (smoothing, weight) = (f64::from(op.loss.smoothing), f64::from(op.loss.weight));
        for (k, (to, p)) in bar.iter_mut().zip(probabilities).enumerate() {
            let hit = f64::from(u8::from(cx.labels[n] as usize == k));
            let target = (1.0 - smoothing) * hit + smoothing / op.classes as f64;
            *to = (weight * (p - target) / op.batch as f64) as f32;
        }
    }
}

/// to[f, k] (+)= Σ_n g[n, f]·l̄[n, k], and b̄.
fn outer(op: &Classifier, pooled: View, bar: View, to: &mut [f32], add: bool) {
    let (pooled, bar) = (pooled.read(), bar.read());
    for (f, row) in to.chunks_exact_mut(op.classes).enumerate() {
        for (k, value) in row.iter_mut().enumerate() {
            let sum: f64 = (0..op.batch)
                .map(|n| {
                    f64::from(pooled[n * op.channels + f]) * f64::from(bar[n * op.classes + k])
                })
                .sum();
            *value = if add { *value + sum as f32 } else { sum as f32 };
        }
    }
}

fn column_sums(op: &Classifier, bar: View, to: &mut [f32]) {
    let bar = bar.read();
    for (k, value) in to.iter_mut().enumerate() {
        *value = (0..op.batch)
            .map(|n| f64::from(bar[n * op.classes + k]))
            .sum::<f64>() as f32;
    }
}

/// f̄ (or f̄˙) = mask · (Σ of bar·Wᵀ over the given products)/(HW).
fn spread(op: &Classifier, cx: &Context, role: Role, products: [Option<(View, &[f32])>; 2]) {
    let value = cx.dense(op.features, Role::Value);
    let to = cx.dense(op.features, role);
    let add = cx.adds_to(op.features);
    let share = 1.0 / (value.height * value.width) as f32;
    for_each(op.batch, |n| {
        let pull = |f: usize| -> f32 {
            products
                .iter()
                .flatten()
                .map(|(bar, weight)| {
                    let bar = &bar.read()[n * op.classes..(n + 1) * op.classes];
                    let row = &weight[f * op.classes..(f + 1) * op.classes];
                    bar.iter().zip(row).map(|(&b, &w)| b * w).sum::<f32>()
                })
                .sum::<f32>()
                * share
        };
        // The pooled row of this image is not needed any more in these passes: reuse it.
        let pulled = rows(op, cx)
            .pooled
            .part(n * op.channels, op.channels)
            .write();
        for (f, value) in pulled.iter_mut().enumerate() {
            *value = pull(f);
        }
        pixels(to, n, |at, out| {
            let offset = (n * value.height * value.width + at) * value.pixel_stride;
            let features = value.view.part(offset, op.channels).read();
            for ((o, &f), &g) in out.iter_mut().zip(features).zip(pulled.iter()) {
                let g = if op.relu && f <= 0.0 { 0.0 } else { g };
                *o = if add { *o + g } else { g };
            }
        });
    });
}

pub(super) fn backward(op: &Classifier, cx: &Context) {
    let rows = rows(op, cx);
    pool(op, cx, &rows, false);
    fill_bar(op, cx, &rows);
    outer(
        op,
        rows.pooled,
        rows.bar,
        cx.parameter_gradient(op.weight).write(),
        false,
    );
    column_sums(op, rows.bar, cx.parameter_gradient(op.bias).write());
    let weight = cx.parameter(op.weight).read();
    spread(op, cx, Role::Adjoint, [Some((rows.bar, weight)), None]);
}

/// The classifier has no output activation; what its tangent feeds is computed by
/// `tangent_backward`, from the same inputs.
pub(super) fn tangent(_: &Classifier, _: &Context) {}

pub(super) fn tangent_backward(op: &Classifier, cx: &Context) {
    let rows = rows(op, cx);
    pool(op, cx, &rows, true);
    fill_bar(op, cx, &rows);
    let (weight, weight_dot) = (
        cx.parameter(op.weight).read(),
        cx.parameter_tangent(op.weight).read(),
    );
    let bias_dot = cx.parameter_tangent(op.bias).read();
    let weight_of_loss = f64::from(op.loss.weight);
    for n in 0..op.batch {
        let of = |view: View| view.part(n * op.channels, op.channels).read();
        let logits = logits(op, cx, n).read();
        let bar_dot = rows.bar_dot.part(n * op.classes, op.classes).write();
        with_rows(op.classes, |first, second| {
            let bias_dot = bias_dot.iter().map(|&b| f64::from(b));
            linear(of(rows.pooled), weight_dot, bias_dot, first);
            linear(of(rows.pooled_dot), weight, first.iter().copied(), second);
            let products = softmax(logits).1.zip(second.iter());
            let mean: f64 = products.map(|(p, &l)| p * l).sum();
            for ((to, p), &l) in bar_dot.iter_mut().zip(softmax(logits).1).zip(second.iter()) {
                *to = (weight_of_loss * p * (l - mean) / op.batch as f64) as f32;
            }
        });
    }
    let gradient = cx.parameter_gradient(op.weight).write();
    outer(op, rows.pooled_dot, rows.bar, gradient, false);
    outer(op, rows.pooled, rows.bar_dot, gradient, true);
    column_sums(op, rows.bar_dot, cx.parameter_gradient(op.bias).write());
    let products = [Some((rows.bar_dot, weight)), Some((rows.bar, weight_dot))];
    spread(op, cx, Role::AdjointTangent, products);
}
