//! Hypergradients dα of the bilevel problem min_α L2(ω*(α), α), behind one trait.
//!
//! - [`neumann`]: the implicit function theorem with the inverse Hessian as a Neumann series (NDARTS).
//! - [`first_order`]: dα = ∂L2/∂α (DARTS, first order).
//! - [`unrolled`]: one unrolled SGD step (DARTS, second order), by a finite difference as
//!   published, or exactly.
//!
//! All work on [`Losses`], which a tape implements and so does a closed-form problem in a test.

pub mod first_order;
pub mod gamma;
pub mod neumann;
pub mod tape;
#[cfg(test)]
mod tests;
pub mod unrolled;

use crate::autograd::Series;
use crate::device::{Device, Later, Slice, SliceMut, Vector};
use crate::ops::Outcome;
use crate::ops::update::Factor;

pub use first_order::FirstOrder;
pub use neumann::Neumann;
pub use tape::TapeLosses;
pub use unrolled::Unrolled;

/// Which of the two losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// L1, on the training batch.
    Training,
    /// L2, on the validation batch.
    Validation,
}

/// The two losses of a bilevel problem over θ = (ω, α), with exact derivatives.
pub trait Losses {
    /// Length of ω.
    fn omega_len(&self) -> usize;
    /// The loss and its gradient by θ.
    ///
    /// # Errors
    /// The device's.
    fn gradient(
        &mut self,
        level: Level,
        theta: Slice,
        gradient: SliceMut,
    ) -> anyhow::Result<Later<Outcome>>;
    /// L1 and its gradient by θ, kept for [`Losses::product`].
    ///
    /// # Errors
    /// The device's.
    fn linearise(&mut self, theta: Slice, gradient: SliceMut) -> anyhow::Result<Later<Outcome>>;

    /// ∂(∇L1)/∂θ · `direction` at the θ that was linearised: for (v, 0) that is
    /// (H·v, ∂²L1/∂α∂ω·v).
    ///
    /// # Errors
    /// The device's.
    fn product(&mut self, theta: Slice, direction: Slice, product: SliceMut) -> anyhow::Result<()>;
    /// The Neumann series from v = (v, 0) at the θ that was linearised; see [`neumann::terms`], which it
    /// is unless the device has a better way.
    ///
    /// # Errors
    /// The device's.
    fn series(
        &mut self,
        theta: Slice,
        settings: Terms,
        vectors: [&mut Vector; 3],
    ) -> anyhow::Result<Later<Series>>;
}

/// γ, K and the guard of a Neumann series.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// γ
    pub gamma: Factor,
    /// K
    pub count: usize,
    /// Stop where a term grows.
    pub guard: bool,
}

/// How the inner problem takes its SGD step; what the unrolled method differentiates.
#[derive(Clone, Copy)]
pub struct InnerStep<'a> {
    /// Learning rate.
    pub lr: f32,
    /// Momentum μ.
    pub momentum: f32,
    /// L2 decay.
    pub weight_decay: f32,
    /// Momentum buffer, as long as ω.
    pub buffer: Slice<'a>,
}

/// What a hypergradient's computation showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// L2 and its accuracy on the validation batch.
    pub validation: Outcome,
    /// γ of the series.
    pub gamma: Option<f64>,
    /// ‖v_k‖, k = 0 … the last term computed.
    pub norms: Vec<f64>,
    /// The series was stopped because ‖v_k‖ grew; the term that grew is not in the sum.
    pub stopped: bool,
    /// ‖∂L2/∂α‖
    pub direct_norm: f64,
    /// ‖dα − ∂L2/∂α‖; none for a first-order method.
    pub correction_norm: Option<f64>,
}

/// A method for dα.
pub trait Hypergradient {
    /// Writes dα `[α]` at `theta`. On a GPU it may still be on its way, and so is the report.
    ///
    /// # Errors
    /// The device's.
    fn compute(
        &mut self,
        losses: &mut dyn Losses,
        theta: Slice,
        inner: InnerStep,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Later<Report>>;

    /// A vector that the method carries from one step to the next, to be kept in checkpoints.
    ///
    /// # Errors
    /// The device's.
    fn state(&self) -> anyhow::Result<Vec<f32>> {
        Ok(Vec::new())
    }

    /// Restores [`Hypergradient::state`] on `device`.
    ///
    /// # Errors
    /// The device's.
    fn restore(&mut self, _device: &Device, _state: &[f32]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Sets everything from `from` on to zero: a direction in ω alone.
fn clear_alpha(vector: &mut Vector, from: usize) -> anyhow::Result<()> {
    vector.part_mut(from..vector.len()).zero()
}
