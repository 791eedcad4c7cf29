//! The adjoint of an op's output, evaluated as it is loaded.
//!
//! A raw output's adjoint is stored. A normalised output z is read through x̂ = (z − μ)·r by readers
//! j, each of which holds an adjoint u_j with ∂L/∂x̂ = Σ_j s_j·u_j (s_j an op weight, a gain, or 1)
//! and has added to S₁ = Σ ∂L/∂x̂ and S₂ = Σ x̂·∂L/∂x̂. With M values a channel, batch norm's
//! backward is affine per channel in what is loaded:
//!
//! ```text
//! z̄  = r·(Σ s_j u_j − S₁/M − x̂·S₂/M)
//! z̄˙ = r·(Σ (s_j u̇_j + ṡ_j u_j) − Ṡ₁/M − x̂˙·S₂/M − x̂·Ṡ₂/M) + (ṙ/r)·z̄
//! ```
//!
//! with x̂˙ and ṙ from [`super::statistics`].

use super::rows::{load, scale};
use super::{ActivationId, Context, Dense, MAX_SOURCES, Moments, Role};
use crate::device::View;
use crate::device::simd::{LANES, Lanes, padded, prefetch};

/// f32 of workspace for the coefficients of one output with `sources` readers.
pub const fn coefficients_len(channels: usize, sources: usize) -> usize {
    (5 + 2 * sources) * padded(channels)
}

/// Reads rows of z̄, and of z̄˙ in the tangent pass.
#[derive(Clone, Copy)]
pub struct AdjointReader {
    value: Option<Dense>,
    tangent: Option<Dense>,
    adjoints: [Option<Dense>; MAX_SOURCES],
    adjoint_tangents: [Option<Dense>; MAX_SOURCES],
    count: usize,
    /// μ, and mean(ż) in the tangent pass: subtracted as z and ż are loaded, because folded into the
    /// constant they would cancel where they are large beside the deviation.
    means: [Option<View>; 2],
    coefficients: View,
    channels: usize,
    width: usize,
}

/// Rows of the coefficient table.
const CONSTANT: usize = 0;
const VALUE: usize = 1;
const CONSTANT_DOT: usize = 2;
const VALUE_DOT: usize = 3;
const TANGENT_DOT: usize = 4;
const SOURCES: usize = 5;

impl AdjointReader {
    /// Fills the coefficients, once before the tasks of a pass read rows.
    pub fn prepare(cx: &Context, id: ActivationId, coefficients: View, tangent: bool) {
        if cx.graph.activation(id).normalised {
            Self::new(cx, id, coefficients, tangent).fill_coefficients(cx, id, tangent);
        }
    }

    /// A reader of the adjoint of output `id`; `coefficients` is workspace of
    /// [`coefficients_len`] that [`Self::prepare`] filled. In the tangent pass, `tangent` adds z̄˙.
    pub fn new(cx: &Context, id: ActivationId, coefficients: View, tangent: bool) -> AdjointReader {
        let activation = cx.graph.activation(id);
        let mut reader = AdjointReader {
            value: None,
            tangent: None,
            adjoints: [None; MAX_SOURCES],
            adjoint_tangents: [None; MAX_SOURCES],
            count: 0,
            means: [None; 2],
            coefficients,
            channels: activation.channels,
            width: activation.width,
        };
        if activation.normalised {
            reader.value = Some(cx.dense(id, Role::Value));
            reader.tangent = tangent.then(|| cx.dense(id, Role::Tangent));
            reader.means = [
                Some(cx.moments(id, Moments::Statistics)),
                tangent.then(|| cx.moments(id, Moments::StatisticsTangent)),
            ];
            for (j, source) in activation.sources.iter().enumerate() {
                reader.adjoints[j] = Some(cx.dense(source.at, Role::Adjoint));
                reader.adjoint_tangents[j] =
                    tangent.then(|| cx.dense(source.at, Role::AdjointTangent));
            }
            reader.count = activation.sources.len();
        } else {
            reader.adjoints[0] = Some(cx.dense(id, Role::Adjoint));
            reader.adjoint_tangents[0] = tangent.then(|| cx.dense(id, Role::AdjointTangent));
            reader.count = 1;
        }
        reader
    }

    fn fill_coefficients(&self, cx: &Context, id: ActivationId, tangent: bool) {
        let activation = cx.graph.activation(id);
        let step = padded(self.channels);
        let m = (cx.graph.batch * activation.height * activation.width) as f32;
        let table = self
            .coefficients
            .part(0, coefficients_len(self.channels, self.count))
            .write();
        table.fill(0.0);
        let statistics = cx.moments(id, Moments::Statistics).read();
        let sums = cx.moments(id, Moments::AdjointSums).read();
        let statistics_dot = cx.moments(id, Moments::StatisticsTangent).read();
        let sums_dot = cx.moments(id, Moments::AdjointSumsTangent).read();
        for c in 0..self.channels {
            let r = statistics[step + c];
            let (s1, s2) = (sums[c] / m, sums[step + c] / m);
            table[CONSTANT * step + c] = -r * s1;
            table[VALUE * step + c] = -r * r * s2;
            for (j, source) in activation.sources.iter().enumerate() {
                table[(SOURCES + 2 * j) * step + c] = r * scale(cx, source.scale, c, Role::Value);
            }
            if !tangent {
                continue;
            }
            let t2 = statistics_dot[step + c];
            let (s1_dot, s2_dot) = (sums_dot[c] / m, sums_dot[step + c] / m);
            let r_dot = -r * r * t2;
            // Coefficient of x̂ = r·(z − μ).
            let normed = r * (r * t2 * s2 - s2_dot) - r_dot * s2;
            table[CONSTANT_DOT * step + c] = -r * s1_dot - r_dot * s1;
            table[VALUE_DOT * step + c] = normed * r;
            table[TANGENT_DOT * step + c] = -r * r * s2;
            for (j, source) in activation.sources.iter().enumerate() {
                table[(SOURCES + 2 * j + 1) * step + c] =
                    r * scale(cx, source.scale, c, Role::Tangent)
                        + r_dot * scale(cx, source.scale, c, Role::Value);
            }
        }
    }

    /// Writes row `y` of z̄ to `out` `[W, padded(C)]`, and of z̄˙ to `out_dot` if given.
    ///
    /// # Safety
    /// The rows are as long as said; `out_dot` only for a reader made with `tangent`.
    #[inline(always)]
    pub unsafe fn row<V: Lanes>(
        &self,
        image: usize,
        y: usize,
        out: RowTarget,
        out_dot: Option<RowTarget>,
    ) {
        let step = padded(self.channels);
        let mut c = 0;
        while c < step {
            for (target, dot) in [(Some(out), false), (out_dot, true)] {
                let Some(target) = target else { continue };
                // SAFETY: the caller's promise; coefficients were filled for every source.
                unsafe {
                    self.start::<V>(image, y, c, target, dot);
                    for j in 0..self.count {
                        if dot {
                            self.accumulate::<V>(
                                image,
                                y,
                                c,
                                target,
                                self.adjoints[j],
                                SOURCES + 2 * j + 1,
                            );
                            self.accumulate::<V>(
                                image,
                                y,
                                c,
                                target,
                                self.adjoint_tangents[j],
                                SOURCES + 2 * j,
                            );
                        } else {
                            self.accumulate::<V>(
                                image,
                                y,
                                c,
                                target,
                                self.adjoints[j],
                                SOURCES + 2 * j,
                            );
                        }
                    }
                }
            }
            c += LANES;
        }
    }

    /// # Safety
    /// `row` is one of the table's; `c` lies below the padded channels.
    #[inline(always)]
    unsafe fn coefficient<V: Lanes>(&self, row: usize, c: usize) -> V {
        // SAFETY: the table has that row; channels are padded.
        unsafe {
            V::load(
                self.coefficients
                    .pointer()
                    .add(row * padded(self.channels) + c),
            )
        }
    }

    /// # Safety
    /// `target` has a row of the output's width; `c` lies below the padded channels.
    #[inline(always)]
    unsafe fn start<V: Lanes>(
        &self,
        image: usize,
        y: usize,
        c: usize,
        target: RowTarget,
        dot: bool,
    ) {
        let zero = V::splat(0.0);
        let Some(value) = self.value else {
            for x in 0..self.width {
                // SAFETY: the caller's promise.
                unsafe { zero.store(target.start.add(x * target.step + c)) };
            }
            return;
        };
        let z = value.row(image, y).cast_const();
        // SAFETY: the caller's promise.
        unsafe {
            let (constant, slope) = if dot {
                (
                    self.coefficient::<V>(CONSTANT_DOT, c),
                    self.coefficient::<V>(VALUE_DOT, c),
                )
            } else {
                (
                    self.coefficient::<V>(CONSTANT, c),
                    self.coefficient::<V>(VALUE, c),
                )
            };
            let mean = match self.means[0] {
                Some(moments) => V::load(moments.pointer().add(c)),
                None => zero,
            };
            let mean_dot = match self.means[1] {
                Some(moments) => V::load(moments.pointer().add(c)),
                None => zero,
            };
            let tangent = if dot {
                self.tangent.map(|t| {
                    (
                        t.row(image, y).cast_const(),
                        t.pixel_stride,
                        self.coefficient::<V>(TANGENT_DOT, c),
                    )
                })
            } else {
                None
            };
            for x in 0..self.width {
                prefetch(z.wrapping_add((self.width + x) * value.pixel_stride + c));
                let loaded: V = load(z.add(x * value.pixel_stride), self.channels, c);
                let mut sum = loaded.sub(mean).mul_add(slope, constant);
                if let Some((t, stride, slope)) = tangent {
                    prefetch(t.wrapping_add((self.width + x) * stride + c));
                    let loaded: V = load(t.add(x * stride), self.channels, c);
                    sum = loaded.sub(mean_dot).mul_add(slope, sum);
                }
                sum.store(target.start.add(x * target.step + c));
            }
        }
    }

    /// # Safety
    /// As for [`Self::start`].
    #[inline(always)]
    unsafe fn accumulate<V: Lanes>(
        &self,
        image: usize,
        y: usize,
        c: usize,
        target: RowTarget,
        from: Option<Dense>,
        coefficient: usize,
    ) {
        let Some(from) = from else { return };
        let u = from.row(image, y).cast_const();
        // SAFETY: the caller's promise.
        unsafe {
            // A raw output has one source with factor one, and none of mixed order.
            let factor = if self.value.is_some() {
                self.coefficient::<V>(coefficient, c)
            } else if coefficient == SOURCES {
                V::splat(1.0)
            } else {
                return;
            };
            for x in 0..self.width {
                let at = target.start.add(x * target.step + c);
                prefetch(u.wrapping_add((self.width + x) * from.pixel_stride + c));
                let loaded: V = load(u.add(x * from.pixel_stride), self.channels, c);
                loaded.mul_add(factor, V::load(at)).store(at);
            }
        }
    }
}

/// Where a row of adjoints goes: first pixel, and f32 to the next.
pub type RowTarget = super::micro::RowMut;
