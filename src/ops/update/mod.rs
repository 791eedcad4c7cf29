//! Updates of flat parameter vectors: dot products, SGD, Adam, and the Neumann step.
//!
//! All are bound by memory; each is one pass over its vectors, on the device that holds them. Sums run
//! over a fixed tree, so they give the same bits at any number of threads, and in every run on a GPU.

pub mod cpu;
pub mod cuda;

use crate::device::{Later, Slice, SliceMut};

const ONE_DEVICE: &str = "vectors of one device";

/// Settings of one SGD step; PyTorch's semantics.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// Momentum μ.
    pub momentum: f32,
    /// L2 decay, added to the gradient.
    pub weight_decay: f32,
    /// Norm at which the gradient is clipped; 0: never.
    pub clip: f32,
}

/// Settings of one Adam step; PyTorch's semantics (L2 decay in the gradient).
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// ε in the denominator.
    pub epsilon: f64,
    /// L2 decay.
    pub weight_decay: f64,
    /// Neighbours that share a second moment, the mean of their squares; divides the length. 1: each
    /// element has its own.
    pub group: usize,
    /// Steps done, this one counted.
    pub step: u64,
}

/// Σ a·b in f64.
///
/// # Errors
/// The device's.
pub fn dot<'a>(a: impl Into<Slice<'a>>, b: impl Into<Slice<'a>>) -> anyhow::Result<f64> {
    match (a.into(), b.into()) {
        (Slice::Host(a), Slice::Host(b)) => Ok(cpu::dot(a, b)),
        (Slice::Cuda(a), Slice::Cuda(b)) => cuda::dot(a, b),
        _ => unreachable!("{ONE_DEVICE}"),
    }
}

/// ‖a‖₂ in f64.
///
/// # Errors
/// The device's.
pub fn norm<'a>(a: impl Into<Slice<'a>>) -> anyhow::Result<f64> {
    let a = a.into();
    Ok(dot(a, a)?.sqrt())
}

/// ‖a‖₂ in f64, for whoever can wait for it.
///
/// # Errors
/// The device's.
pub fn norm_later<'a>(a: impl Into<Slice<'a>>) -> anyhow::Result<Later<f64>> {
    match a.into() {
        Slice::Host(a) => Ok(cpu::norm(a).into()),
        Slice::Cuda(a) => cuda::norm(a),
    }
}

/// A factor of a vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Factor {
    /// A number.
    Known(f32),
    /// What [`over_norm`] last left on the device, or its negative.
    OnDevice {
        /// Its negative.
        negative: bool,
    },
}

impl Factor {
    /// The number, on the CPU.
    pub fn known(self) -> f32 {
        match self {
            Factor::Known(factor) => factor,
            Factor::OnDevice { .. } => unreachable!("{ONE_DEVICE}"),
        }
    }
}

impl From<f32> for Factor {
    fn from(factor: f32) -> Factor {
        Factor::Known(factor)
    }
}

impl std::ops::Neg for Factor {
    type Output = Factor;

    fn neg(self) -> Factor {
        match self {
            Factor::Known(factor) => Factor::Known(-factor),
            Factor::OnDevice { negative } => Factor::OnDevice {
                negative: !negative,
            },
        }
    }
}

/// What [`over_norm`] gives.
pub struct OverNorm {
    /// The factor.
    pub factor: Factor,
    /// Its number.
    pub value: Later<f64>,
    /// ‖x‖
    pub norm: Later<f64>,
}

/// numerator/‖x‖, rounded to f32, or `otherwise` where ‖x‖ is zero or no number. On a GPU it stays there, until
/// the next.
///
/// # Errors
/// The device's.
pub fn over_norm<'a>(
    numerator: f64,
    otherwise: f64,
    x: impl Into<Slice<'a>>,
) -> anyhow::Result<OverNorm> {
    match x.into() {
        Slice::Host(x) => {
            let norm = cpu::norm(x);
            let quotient = if norm > 0.0 {
                numerator / norm
            } else {
                otherwise
            };
            let factor = quotient as f32;
            Ok(OverNorm {
                factor: factor.into(),
                value: f64::from(factor).into(),
                norm: norm.into(),
            })
        }
        Slice::Cuda(x) => cuda::over_norm(numerator, otherwise, x),
    }
}

/// y += factor·x
///
/// # Errors
/// The device's.
pub fn axpy<'a>(
    factor: impl Into<Factor>,
    x: impl Into<Slice<'a>>,
    y: impl Into<SliceMut<'a>>,
) -> anyhow::Result<()> {
    match (x.into(), y.into()) {
        (Slice::Host(x), SliceMut::Host(y)) => cpu::axpy(factor.into().known(), x, y),
        (Slice::Cuda(x), SliceMut::Cuda(y)) => cuda::axpy(factor.into(), x, y)?,
        _ => unreachable!("{ONE_DEVICE}"),
    }
    Ok(())
}

/// x /= ‖x‖
///
/// # Errors
/// The device's.
pub fn normalise<'a>(x: impl Into<SliceMut<'a>>) -> anyhow::Result<()> {
    match x.into() {
        SliceMut::Host(x) => {
            let length = cpu::norm(x) as f32;
            x.iter_mut().for_each(|x| *x /= length);
        }
        SliceMut::Cuda(x) => cuda::normalise(x)?,
    }
    Ok(())
}

/// x ← y, unless ‖y‖ is zero.
///
/// # Errors
/// The device's.
pub fn replace<'a>(x: impl Into<SliceMut<'a>>, y: impl Into<Slice<'a>>) -> anyhow::Result<()> {
    match (x.into(), y.into()) {
        (SliceMut::Host(x), Slice::Host(y)) => {
            if cpu::norm(y) != 0.0 {
                x.copy_from_slice(y);
            }
        }
        (SliceMut::Cuda(x), Slice::Cuda(y)) => cuda::replace(x, y)?,
        _ => unreachable!("{ONE_DEVICE}"),
    }
    Ok(())
}

/// x ← (up − down)/(2·step), or zero where the step is.
///
/// # Errors
/// The device's.
pub fn difference<'a>(
    step: Factor,
    (up, down): (Slice, Slice),
    x: impl Into<SliceMut<'a>>,
) -> anyhow::Result<()> {
    match (x.into(), up, down) {
        (SliceMut::Host(x), Slice::Host(up), Slice::Host(down)) => {
            let apart = 2.0 * step.known();
            for ((x, up), down) in x.iter_mut().zip(up).zip(down) {
                *x = if apart == 0.0 {
                    0.0
                } else {
                    (up - down) / apart
                };
            }
        }
        (SliceMut::Cuda(x), Slice::Cuda(up), Slice::Cuda(down)) => {
            cuda::difference(step, [x, up, down])?;
        }
        _ => unreachable!("{ONE_DEVICE}"),
    }
    Ok(())
}

/// b ← μ·b + (clip·g + decay·θ); θ ← θ − lr·b; gives ‖g‖ before clipping. As PyTorch's
/// `clip_grad_norm_`, the factor is c/(‖g‖ + 10⁻⁶), at most 1.
///
/// # Errors
/// The device's.
pub fn sgd<'a>(
    step: Sgd,
    gradient: impl Into<Slice<'a>>,
    buffer: impl Into<SliceMut<'a>>,
    theta: impl Into<SliceMut<'a>>,
) -> anyhow::Result<Later<f64>> {
    match (gradient.into(), buffer.into(), theta.into()) {
        (Slice::Host(gradient), SliceMut::Host(buffer), SliceMut::Host(theta)) => {
            let length = cpu::norm(gradient);
            let clipped = (f64::from(step.clip) / (length + 1e-6)).min(1.0) as f32;
            let factor = if step.clip > 0.0 { clipped } else { 1.0 };
            cpu::sgd(step, factor, gradient, buffer, theta);
            Ok(length.into())
        }
        (Slice::Cuda(gradient), SliceMut::Cuda(buffer), SliceMut::Cuda(theta)) => {
            cuda::sgd(step, gradient, buffer, theta)
        }
        _ => unreachable!("{ONE_DEVICE}"),
    }
}

/// moved = θ − lr·(μ·b + g + decay·θ): an SGD step without clipping that leaves b and θ alone.
///
/// # Errors
/// The device's.
pub fn unrolled(
    step: Sgd,
    theta: Slice,
    gradient: Slice,
    buffer: Slice,
    moved: SliceMut,
) -> anyhow::Result<()> {
    match (theta, gradient, buffer, moved) {
        (Slice::Host(theta), Slice::Host(g), Slice::Host(b), SliceMut::Host(moved)) => {
            moved.copy_from_slice(theta);
            for ((w, g), b) in moved.iter_mut().zip(g).zip(b) {
                *w -= step.lr * (step.momentum * b + g + step.weight_decay * *w);
            }
            Ok(())
        }
        (Slice::Cuda(theta), Slice::Cuda(g), Slice::Cuda(b), SliceMut::Cuda(moved)) => {
            cuda::unrolled(step, theta, g, b, moved)
        }
        _ => unreachable!("{ONE_DEVICE}"),
    }
}

/// Kingma & Ba 2015, algorithm 1, in f64: α has a few hundred elements.
///
/// # Errors
/// The device's.
pub fn adam<'a>(
    step: Adam,
    gradient: impl Into<Slice<'a>>,
    m: impl Into<SliceMut<'a>>,
    v: impl Into<SliceMut<'a>>,
    theta: impl Into<SliceMut<'a>>,
) -> anyhow::Result<()> {
    match (gradient.into(), m.into(), v.into(), theta.into()) {
        (Slice::Host(g), SliceMut::Host(m), SliceMut::Host(v), SliceMut::Host(theta)) => {
            cpu::adam(step, g, m, v, theta);
            Ok(())
        }
        (Slice::Cuda(g), SliceMut::Cuda(m), SliceMut::Cuda(v), SliceMut::Cuda(theta)) => {
            cuda::adam(step, g, m, v, theta)
        }
        _ => unreachable!("{ONE_DEVICE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sgd_steps_match_pytorchs_formula() {
        let step = Sgd {
            lr: 0.1,
            momentum: 0.9,
            weight_decay: 0.01,
            clip: 0.0,
        };
        let (mut theta, mut buffer) = (vec![1.0f32, -2.0], vec![0.0f32; 2]);
        cpu::sgd(step, 0.5, &[4.0, 2.0], &mut buffer, &mut theta);
        assert_eq!(buffer, [2.01, 0.98]);
        cpu::sgd(step, 0.5, &[0.0, 0.0], &mut buffer, &mut theta);
        let first = [1.0 - 0.1 * 2.01f64, -2.0 - 0.1 * 0.98];
        let second = [0.9 * 2.01 + 0.01 * first[0], 0.9 * 0.98 + 0.01 * first[1]];
        for i in 0..2 {
            assert!((f64::from(theta[i]) - (first[i] - 0.1 * second[i])).abs() < 1e-6);
        }
    }

    #[test]
    fn first_adam_step_moves_by_the_learning_rate() {
        let step = Adam {
            lr: 0.01,
            beta1: 0.5,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            group: 1,
            step: 1,
        };
        let (mut m, mut v, mut theta) = ([0.0], [0.0], [0.5]);
        adam(step, &[-3.0], &mut m, &mut v, &mut theta).unwrap();
        assert!((theta[0] - 0.51).abs() < 1e-6);
    }

    #[test]
    fn elements_that_share_a_second_moment_keep_their_proportions() {
        let step = Adam {
            lr: 0.01,
            beta1: 0.5,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            group: 2,
            step: 1,
        };
        let (mut m, mut v, mut theta) = ([0.0; 4], [0.0; 4], [0.0; 4]);
        let gradient = [3.0, -1.0, 1e-6, 1e-6];
        adam(step, &gradient, &mut m, &mut v, &mut theta).unwrap();
        // √((9 + 1)/2) is the size of the first pair.
        let unit = 0.01 / 5f32.sqrt();
        for (found, wanted) in theta.iter().zip([-3.0 * unit, unit, -0.0099, -0.0099]) {
            assert!((found - wanted).abs() < 1e-4 * 0.01 + 1e-4, "{theta:?}");
        }
    }

    #[test]
    fn sums_do_not_depend_on_the_thread_count() {
        let a: Vec<f32> = (0..200_003).map(|i| (i as f32 * 0.37).sin()).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| norm(&a).unwrap().to_bits())
        };
        assert_eq!(with(1), with(2));
        assert_eq!(with(1), with(5));
    }
}
