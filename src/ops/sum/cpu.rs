//! The passes on the CPU: all four are scaled copies of an image, a task an image. Roofline: bound
//! by memory, one load and one store (two loads where it adds) an element.

use super::Sum;
use crate::device::parallel::for_each;
use crate::device::simd::{Kernel, LANES, Lanes, dispatch, padded};
use crate::ops::rows::{load, store};
use crate::ops::{Context, Dense, Role};

/// to (+)= factor · from for one image.
struct ScaledCopy {
    from: Dense,
    to: Dense,
    image: usize,
    factor: f32,
    add: bool,
}

impl Kernel for ScaledCopy {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let ScaledCopy {
            from,
            to,
            image,
            factor,
            add,
        } = self;
        let factor = V::splat(factor);
        for y in 0..to.height {
            let (source, target) = (from.row(image, y).cast_const(), to.row(image, y));
            for c in (0..padded(to.channels)).step_by(LANES) {
                for x in 0..to.width {
                    // SAFETY: both rows have `width` pixels of `channels`; the task owns the image
                    // of `to`.
                    unsafe {
                        let pixel = target.add(x * to.pixel_stride);
                        let value: V = load(source.add(x * from.pixel_stride), to.channels, c);
                        let value = if add {
                            value.mul_add(factor, load(pixel, to.channels, c))
                        } else {
                            value.mul(factor)
                        };
                        store(value, pixel, to.channels, c);
                    }
                }
            }
        }
    }
}

/// y from the terms, or ẏ from their tangents.
pub(super) fn gather(op: &Sum, cx: &Context, role: Role) {
    let to = cx.dense(op.output, role);
    let moving = |id| role == Role::Value || cx.graph.activation(id).differentiable;
    for_each(op.batch, |image| {
        let mut add = false;
        for term in op.terms.iter().filter(|term| moving(term.input)) {
            dispatch(ScaledCopy {
                from: cx.dense(term.input, role),
                to,
                image,
                factor: term.factor.map_or(1.0, |row| cx.factor(row, image)),
                add,
            });
            add = true;
        }
        if !add {
            zero(to, image);
        }
    });
}

fn zero(to: Dense, image: usize) {
    for pixel in 0..to.height * to.width {
        let at = (image * to.height * to.width + pixel) * to.pixel_stride;
        to.view.part(at, to.channels).write().fill(0.0);
    }
}

/// The terms' adjoints from that of y.
pub(super) fn scatter(op: &Sum, cx: &Context, role: Role) {
    let from = cx.dense(op.output, role);
    for_each(op.batch, |image| {
        for (t, term) in op.terms.iter().enumerate() {
            if !cx.graph.activation(term.input).differentiable {
                continue;
            }
            let again = op.terms[..t]
                .iter()
                .any(|before| before.input == term.input);
            dispatch(ScaledCopy {
                from,
                to: cx.dense(term.input, role),
                image,
                factor: term.factor.map_or(1.0, |row| cx.factor(row, image)),
                add: again || cx.adds_to(term.input),
            });
        }
    });
}
