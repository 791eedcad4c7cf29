//! Batch statistics of an op's output, taken in the pass that writes it, and their tangents.
//!
//! Each chunk of images sums z − k and (z − k)² with k its first pixel, so that a large mean does
//! not cancel; rows are summed in registers, chunks in f64 by Chan's formula. With x̂ = (z − μ)·r,
//! the tangent needs mean(ż) and mean(x̂·ż):
//!
//! ```text
//! μ̇ = mean(ż)      ṙ = −r²·mean(x̂ż)      x̂˙ = r·(ż − mean(ż) − x̂·mean(x̂ż))
//! ```
//!
//! Raw outputs are written by the same calls; they have no statistics.

use super::chunked::Partials;
use super::rows::{load, write};
use super::{ActivationId, Context, Dense, Moments, NORM_EPSILON, Role};
use crate::device::View;
use crate::device::simd::{LANES, Lanes, padded};

/// f32 of partial sums that one chunk keeps for one output of `channels`.
pub const fn partial_len(channels: usize) -> usize {
    3 * padded(channels)
}

/// Writes rows of an output's value and gathers its statistics.
#[derive(Clone, Copy)]
pub struct ValueWriter {
    to: Dense,
    normalised: bool,
}

impl ValueWriter {
    /// A writer of `id`.
    pub fn new(cx: &Context, id: ActivationId) -> ValueWriter {
        ValueWriter {
            to: cx.dense(id, Role::Value),
            normalised: cx.graph.activation(id).normalised,
        }
    }

    /// Writes `row` `[W, padded(C)]` to row `y`; `partial` (see [`partial_len`]) gains its sums, or
    /// is begun when this is the chunk's `first` row.
    ///
    /// # Safety
    /// `row` and `partial` are as long as said; the task owns the image.
    #[inline(always)]
    pub unsafe fn row<V: Lanes>(
        &self,
        image: usize,
        y: usize,
        row: *const f32,
        partial: *mut f32,
        first: bool,
    ) {
        let step = padded(self.to.channels);
        let to = self.to.row(image, y);
        let mut c = 0;
        while c < step {
            // SAFETY: the caller's promise.
            unsafe {
                let shift = partial.add(2 * step + c);
                if first {
                    V::load(row.add(c)).store(shift);
                    V::splat(0.0).store(partial.add(c));
                    V::splat(0.0).store(partial.add(step + c));
                }
                let k = V::load(shift);
                let mut sum = V::splat(0.0);
                let mut square = V::splat(0.0);
                for x in 0..self.to.width {
                    let z = V::load(row.add(x * step + c));
                    write(z, &self.to, to.add(x * self.to.pixel_stride), c);
                    if self.normalised {
                        let d = z.sub(k);
                        sum = sum.add(d);
                        square = d.mul_add(d, square);
                    }
                }
                let at = partial.add(c);
                V::load(at).add(sum).store(at);
                let at = partial.add(step + c);
                V::load(at).add(square).store(at);
            }
            c += LANES;
        }
    }
}

/// Turns the chunks' partial sums into μ and r, or takes the stated ones in inference; this output's
/// begin at `offset` in each block. Does nothing for a raw output.
pub fn finish_value(cx: &Context, id: ActivationId, partials: Partials, offset: usize) {
    let activation = cx.graph.activation(id);
    if !activation.normalised {
        return;
    }
    let pixels = activation.height * activation.width;
    let step = padded(activation.channels);
    let out = cx.moments(id, Moments::Statistics).write();
    if let Some(stated) = cx.stated_statistics(id) {
        out.copy_from_slice(stated);
        return;
    }
    for c in 0..activation.channels {
        let (mut count, mut mean, mut squares) = (0.0f64, 0.0f64, 0.0f64);
        for (images, block) in partials.blocks() {
            let n = (images * pixels) as f64;
            let [sum, square, shift] =
                [0, 1, 2].map(|row| f64::from(block[offset + row * step + c]));
            let delta = shift + sum / n - mean;
            squares += square - sum * sum / n + delta * delta * count * n / (count + n);
            mean += delta * n / (count + n);
            count += n;
        }
        out[c] = mean as f32;
        out[step + c] = (1.0 / (squares.max(0.0) / count + NORM_EPSILON).sqrt()) as f32;
    }
}

/// Writes rows of an output's tangent and gathers the tangent of its statistics.
#[derive(Clone, Copy)]
pub struct TangentWriter {
    to: Dense,
    value: Dense,
    statistics: Option<View>,
}

impl TangentWriter {
    /// A writer of the tangent of `id`.
    pub fn new(cx: &Context, id: ActivationId) -> TangentWriter {
        let normalised = cx.graph.activation(id).normalised;
        TangentWriter {
            to: cx.dense(id, Role::Tangent),
            value: cx.dense(id, Role::Value),
            statistics: normalised.then(|| cx.moments(id, Moments::Statistics)),
        }
    }

    /// Writes `row` `[W, padded(C)]` of ż; `partial` gains Σ ż and Σ x̂·ż, or is begun.
    ///
    /// # Safety
    /// As for [`ValueWriter::row`].
    #[inline(always)]
    pub unsafe fn row<V: Lanes>(
        &self,
        image: usize,
        y: usize,
        row: *const f32,
        partial: *mut f32,
        first: bool,
    ) {
        let channels = self.to.channels;
        let step = padded(channels);
        let to = self.to.row(image, y);
        let value = self.value.row(image, y).cast_const();
        let mut c = 0;
        while c < step {
            // SAFETY: the caller's promise.
            unsafe {
                if first {
                    V::splat(0.0).store(partial.add(c));
                    V::splat(0.0).store(partial.add(step + c));
                }
                let mut sum = V::splat(0.0);
                let mut weighted = V::splat(0.0);
                let moments = self.statistics.map(|s| s.pointer());
                for x in 0..self.to.width {
                    let dot = V::load(row.add(x * step + c));
                    write(dot, &self.to, to.add(x * self.to.pixel_stride), c);
                    if let Some(s) = moments {
                        let z: V = load(value.add(x * self.value.pixel_stride), channels, c);
                        let normed = z.sub(V::load(s.add(c))).mul(V::load(s.add(step + c)));
                        sum = sum.add(dot);
                        weighted = normed.mul_add(dot, weighted);
                    }
                }
                let at = partial.add(c);
                V::load(at).add(sum).store(at);
                let at = partial.add(step + c);
                V::load(at).add(weighted).store(at);
            }
            c += LANES;
        }
    }
}

/// Turns the chunks' partial sums into mean(ż) and mean(x̂·ż). Does nothing for a raw output.
pub fn finish_tangent(cx: &Context, id: ActivationId, partials: Partials, offset: usize) {
    let activation = cx.graph.activation(id);
    if !activation.normalised {
        return;
    }
    let step = padded(activation.channels);
    let count = (cx.graph.batch * activation.height * activation.width) as f64;
    let out = cx.moments(id, Moments::StatisticsTangent).write();
    for (c, value) in out.iter_mut().enumerate().take(2 * step) {
        *value = (partials.sum(offset + c) / count) as f32;
    }
}
