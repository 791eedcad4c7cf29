//! Moving rows between planned NHWC memory and scratch: relu and batch norm on the way in, the
//! relu's mask and the norm's adjoint sums on the way out.

use super::chunked::Partials;
use super::{ActivationId, Context, Dense, Moments, Role, Scale};
use crate::device::View;
use crate::device::simd::{LANES, Lanes, padded, prefetch};

/// Lanes of the vector at channel `c` that hold real channels.
#[inline(always)]
pub fn lanes_at(channels: usize, c: usize) -> usize {
    (channels - c).min(LANES)
}

/// Loads a vector at channel `c` of a pixel, whole or in part.
///
/// # Safety
/// `pixel` addresses `channels` f32.
#[inline(always)]
pub unsafe fn load<V: Lanes>(pixel: *const f32, channels: usize, c: usize) -> V {
    let lanes = lanes_at(channels, c);
    // SAFETY: the caller's promise.
    unsafe {
        if lanes == LANES {
            V::load(pixel.add(c))
        } else {
            V::load_part(pixel.add(c), lanes)
        }
    }
}

/// Stores a vector at channel `c` of a pixel, whole or in part.
///
/// # Safety
/// `pixel` addresses `channels` f32 that this task owns.
#[inline(always)]
pub unsafe fn store<V: Lanes>(value: V, pixel: *mut f32, channels: usize, c: usize) {
    let lanes = lanes_at(channels, c);
    // SAFETY: the caller's promise.
    unsafe {
        if lanes == LANES {
            value.store(pixel.add(c))
        } else {
            value.store_part(pixel.add(c), lanes)
        }
    }
}

/// Stores a vector at channel `c` of a pixel of `to` that this op does not read again in this pass.
///
/// # Safety
/// `pixel` is one of `to`'s, which this task owns.
#[inline(always)]
pub unsafe fn write<V: Lanes>(value: V, to: &Dense, pixel: *mut f32, c: usize) {
    // SAFETY: the caller's promise; `streams` says that the vector is whole and aligned.
    unsafe {
        if to.streams {
            value.stream(pixel.add(c));
        } else {
            store(value, pixel, to.channels, c);
        }
    }
}

/// Padded scratch image: `[H + 2·border, W + 2·border, padded(C)]`.
#[derive(Clone, Copy)]
pub struct Padded {
    /// First f32 of the border's corner.
    pub start: *mut f32,
    /// H of the image itself.
    pub height: usize,
    /// W of the image itself.
    pub width: usize,
    /// Padded channels.
    pub channels: usize,
    /// Zeros on each side.
    pub border: usize,
}

impl Padded {
    /// f32 that such an image takes.
    pub fn len(size: [usize; 2], channels: usize, border: usize) -> usize {
        (size[0] + 2 * border) * (size[1] + 2 * border) * padded(channels)
    }

    /// Lays an image over the front of `scratch`, zeroed; returns the rest.
    pub fn carve(
        scratch: &mut [f32],
        size: [usize; 2],
        channels: usize,
        border: usize,
    ) -> (Padded, &mut [f32]) {
        let (image, rest) = scratch.split_at_mut(Self::len(size, channels, border));
        image.fill(0.0);
        let image = Padded {
            start: image.as_mut_ptr(),
            height: size[0],
            width: size[1],
            channels: padded(channels),
            border,
        };
        (image, rest)
    }

    /// f32 from a row to the next.
    #[inline(always)]
    pub fn row_step(&self) -> usize {
        (self.width + 2 * self.border) * self.channels
    }

    /// Address of row `y`, left end of the border, counted from the top border.
    ///
    /// # Safety
    /// `y` < H + 2·border.
    #[inline(always)]
    pub unsafe fn origin(&self, y: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.start.add(y * self.row_step()) }
    }

    /// Address of pixel (y, 0) of the image itself.
    ///
    /// # Safety
    /// `y` < H.
    #[inline(always)]
    pub unsafe fn interior(&self, y: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe {
            self.origin(y + self.border)
                .add(self.border * self.channels)
        }
    }
}

/// How an op reads its input: relu(x), relu(batchnorm(x)), or x itself.
#[derive(Clone, Copy)]
pub struct Reader {
    value: Dense,
    tangent: Option<Dense>,
    statistics: Option<View>,
    statistics_tangent: Option<View>,
    relu: bool,
}

impl Reader {
    /// A reader of `id`; with `tangent`, of its tangent too. The images have none: it reads as zero.
    pub fn new(cx: &Context, id: ActivationId, relu: bool, tangent: bool) -> Reader {
        let activation = cx.graph.activation(id);
        let tangent = tangent && activation.differentiable;
        let moments = |kind| activation.normalised.then(|| cx.moments(id, kind));
        Reader {
            value: cx.dense(id, Role::Value),
            tangent: tangent.then(|| cx.dense(id, Role::Tangent)),
            statistics: moments(Moments::Statistics),
            statistics_tangent: if tangent {
                moments(Moments::StatisticsTangent)
            } else {
                None
            },
            relu,
        }
    }

    /// Copies the image's a = relu(norm(x)) into `a`, and ȧ into `a_dot` when the reader has a
    /// tangent: ȧ = 1[a > 0] · r(ẋ − μ̇ − x̂·mean(x̂ẋ)).
    ///
    /// # Safety
    /// `a` and `a_dot` have the input's size.
    #[inline(always)]
    pub unsafe fn image<V: Lanes>(&self, image: usize, a: Padded, a_dot: Option<Padded>) {
        let zero = V::splat(0.0);
        let channels = self.value.channels;
        // To the same place in the next row.
        let ahead = self.value.width * self.value.pixel_stride;
        for y in 0..self.value.height {
            let mut from = self.value.row(image, y).cast_const();
            let mut from_dot = self
                .tangent
                .map(|t| (t.row(image, y).cast_const(), t.pixel_stride));
            // SAFETY: rows of the input and of scratch images of its size.
            unsafe {
                let mut to = a.interior(y);
                let mut to_dot = a_dot.map(|p| p.interior(y));
                for _ in 0..self.value.width {
                    let mut c = 0;
                    while c < channels {
                        prefetch(from.wrapping_add(ahead + c));
                        let raw: V = load(from, channels, c);
                        let mut normed = raw;
                        if let Some(statistics) = self.statistics {
                            let s = statistics.pointer();
                            normed = raw
                                .sub(V::load(s.add(c)))
                                .mul(V::load(s.add(a.channels + c)));
                        }
                        // max(0, x), in this order, lets a NaN through.
                        let value = if self.relu { zero.max(normed) } else { normed };
                        value.store(to.add(c));
                        if let (Some((dot, _)), Some(out)) = (from_dot, to_dot) {
                            let mut tangent: V = load(dot, channels, c);
                            if let (Some(s), Some(t)) = (self.statistics, self.statistics_tangent) {
                                let (s, t) = (s.pointer(), t.pointer());
                                let mean = V::load(t.add(c));
                                let slope = V::load(t.add(a.channels + c));
                                tangent = tangent
                                    .sub(mean)
                                    .sub(normed.mul(slope))
                                    .mul(V::load(s.add(a.channels + c)));
                            }
                            if self.relu {
                                tangent = normed.where_greater(zero, tangent);
                            }
                            tangent.store(out.add(c));
                        }
                        c += LANES;
                    }
                    from = from.add(self.value.pixel_stride);
                    to = to.add(a.channels);
                    from_dot = from_dot.map(|(p, step)| (p.add(step), step));
                    to_dot = to_dot.map(|p| p.add(a.channels));
                }
            }
        }
    }
}

/// How an op hands its input's adjoint on: through the relu's mask, into the stored adjoint, with
/// the sums that batch norm's backward needs when the input is normalised.
#[derive(Clone, Copy)]
pub struct InputAdjoint {
    to: Dense,
    /// The first-order adjoint, read in the tangent pass of a normalised input.
    first_order: Option<Dense>,
    relu: bool,
    add: bool,
}

impl InputAdjoint {
    /// For `backward` (`Role::Adjoint`) or `tangent_backward` (`Role::AdjointTangent`); `None` for
    /// the images.
    pub fn new(cx: &Context, id: ActivationId, role: Role, relu: bool) -> Option<InputAdjoint> {
        let activation = cx.graph.activation(id);
        if !activation.differentiable {
            return None;
        }
        let tangent = role == Role::AdjointTangent && activation.normalised;
        Some(InputAdjoint {
            to: cx.dense(id, role),
            first_order: tangent.then(|| cx.dense(id, Role::Adjoint)),
            relu,
            add: cx.adds_to(id),
        })
    }

    /// Writes row `y`: g = 1[a > 0] · `ga`, with a the row the op read. `sums` (two rows of
    /// `padded(C)`) gains Σ g and Σ g·a; in the tangent pass Σ ġ and Σ ġ·a + g·ȧ. Those are the
    /// adjoint sums over x̂, because where the mask is open a = x̂.
    ///
    /// # Safety
    /// The rows have the input's width, `sums` 2·padded(C) f32.
    #[inline(always)]
    pub unsafe fn row<V: Lanes>(
        &self,
        image: usize,
        y: usize,
        ga: *const f32,
        a: *const f32,
        a_dot: Option<*const f32>,
        sums: *mut f32,
    ) {
        let channels = self.to.channels;
        let step = padded(channels);
        let zero = V::splat(0.0);
        let to = self.to.row(image, y);
        let first = self
            .first_order
            .map(|d| (d.row(image, y).cast_const(), d.pixel_stride));
        let mut c = 0;
        while c < step {
            // SAFETY: rows as promised; this task owns the image it writes.
            unsafe {
                let mut sum = zero;
                let mut weighted = zero;
                for x in 0..self.to.width {
                    let mut g = V::load(ga.add(x * step + c));
                    let value = V::load(a.add(x * step + c));
                    if self.relu {
                        g = value.where_greater(zero, g);
                    }
                    sum = sum.add(g);
                    weighted = g.mul_add(value, weighted);
                    if let (Some((first, stride)), Some(dot)) = (first, a_dot) {
                        let g1: V = load(first.add(x * stride), channels, c);
                        weighted = g1.mul_add(V::load(dot.add(x * step + c)), weighted);
                    }
                    let pixel = to.add(x * self.to.pixel_stride);
                    if self.add {
                        store(g.add(load(pixel, channels, c)), pixel, channels, c);
                    } else {
                        write(g, &self.to, pixel, c);
                    }
                }
                let at = sums.add(c);
                sum.add(V::load(at)).store(at);
                let at = sums.add(step + c);
                weighted.add(V::load(at)).store(at);
            }
            c += LANES;
        }
    }
}

/// Copies `[rows, c]` into `[rows, padded(c)]` with zeros behind.
pub fn pack(from: &[f32], c: usize, to: &mut [f32]) {
    let step = padded(c);
    for (row, out) in from.chunks_exact(c).zip(to.chunks_exact_mut(step)) {
        out[..c].copy_from_slice(row);
        out[c..].fill(0.0);
    }
}

/// Copies `[taps, rows, c]` into its per-tap transpose `[taps, c, padded(rows)]`.
pub fn pack_transposed(from: &[f32], rows: usize, c: usize, to: &mut [f32]) {
    let step = padded(rows);
    to.fill(0.0);
    for (matrix, out) in from
        .chunks_exact(rows * c)
        .zip(to.chunks_exact_mut(c * step))
    {
        for (r, row) in matrix.chunks_exact(c).enumerate() {
            for (k, &value) in row.iter().enumerate() {
                out[k * step + r] = value;
            }
        }
    }
}

/// gradient[r, c] = Σ over the chunks' partial sums; this tensor begins at `offset` in each block.
pub fn combine_gradient(partials: Partials, offset: usize, c: usize, gradient: &mut [f32]) {
    let step = padded(c);
    for (r, row) in gradient.chunks_exact_mut(c).enumerate() {
        for (k, value) in row.iter_mut().enumerate() {
            *value = partials.sum(offset + r * step + k) as f32;
        }
    }
}

/// Adds the chunks' adjoint sums (Σ g, Σ g·x̂) of a normalised input to its moments.
pub fn combine_sums(
    cx: &Context,
    id: ActivationId,
    kind: Moments,
    partials: Partials,
    offset: usize,
) {
    for (k, sum) in cx.moments(id, kind).write().iter_mut().enumerate() {
        *sum += partials.sum(offset + k) as f32;
    }
}

/// A reader's factor s at a channel (`Role::Value`), or its tangent ṡ (`Role::Tangent`).
pub fn scale(cx: &Context, scale: Scale, channel: usize, role: Role) -> f32 {
    match (scale, role) {
        (Scale::One, Role::Value) => 1.0,
        (Scale::One, _) => 0.0,
        (Scale::OpWeight(id, index), role) => cx.weights(id, role).read()[index],
        (Scale::Gain(id), Role::Value) => cx.parameter(id).read()[channel],
        (Scale::Gain(id), _) => cx.parameter_tangent(id).read()[channel],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::memory::Arena;
    use crate::device::simd::{Kernel, dispatch};

    struct Fill(Dense);

    impl Kernel for Fill {
        type Output = ();
        #[inline(always)]
        fn run<V: Lanes>(self) {
            let to = self.0;
            for x in 0..to.width {
                for c in (0..to.channels).step_by(LANES) {
                    // SAFETY: a pixel of the only row.
                    unsafe {
                        let pixel = to.row(0, 0).add(x * to.pixel_stride);
                        write(V::splat((100 * x + c) as f32), &to, pixel, c);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_written_past_the_caches_is_the_row_written_through_them() {
        let (width, channels) = (5, 32);
        let [through, past] = [false, true].map(|streams| {
            let arena = Arena::new(width * channels);
            dispatch(Fill(Dense {
                view: arena.view(0, width * channels),
                height: 1,
                width,
                channels,
                pixel_stride: channels,
                streams,
            }));
            arena.view(0, width * channels).read().to_vec()
        });
        assert_eq!(through, past);
        assert_eq!(past[4 * channels + 31], 416.0);
    }
}
