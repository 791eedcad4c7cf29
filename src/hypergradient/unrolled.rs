//! DARTS, second order (Liu et al. 2019, section 2.3): the gradient through one unrolled SGD step.
//!
//! ```text
//! ω′ = ω − ξ·(μ·b + ∂L1/∂ω + decay·ω)
//! dα = ∂L2(ω′, α)/∂α − ξ·(∂²L1/∂α∂ω)·∂L2(ω′, α)/∂ω′
//! ```
//!
//! The product is a central difference of ∂L1/∂α with ε = 0.01/‖∂L2/∂ω′‖, as published, or exact.

use super::{Hypergradient, InnerStep, Level, Losses, Report, clear_alpha};
use crate::device::{Slice, SliceMut, Vector};
use crate::ops::update::{Sgd, axpy, norm, unrolled};
use serde::{Deserialize, Serialize};

/// How DARTS second order forms the product (∂²L1/∂α∂ω)·∂L2/∂ω.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum UnrolledProduct {
    /// Central difference of ∂L1/∂α with ε = 0.01/‖∂L2/∂ω′‖, as published.
    FiniteDifference,
    /// The exact product by the tangent passes.
    Exact,
}

/// See the module.
pub struct Unrolled {
    product: UnrolledProduct,
    gradient: Vector,
    moved: Vector,
    vector: Vector,
    /// ∂L1/∂α on both sides of a central difference.
    sides: [Vec<f32>; 2],
}

impl Unrolled {
    /// The method with the given kind of product.
    pub fn new(product: UnrolledProduct) -> Unrolled {
        Unrolled {
            product,
            gradient: Vector::empty(),
            moved: Vector::empty(),
            vector: Vector::empty(),
            sides: Default::default(),
        }
    }

    /// `gradient[α]` = (∂²L1/∂α∂ω)·vector by a central difference along `vector`.
    fn difference(
        &mut self,
        losses: &mut dyn Losses,
        theta: Slice,
        length: f64,
    ) -> anyhow::Result<()> {
        let omega = losses.omega_len();
        let step = (0.01 / length) as f32;
        for (side, sign) in self.sides.iter_mut().zip([1.0, -1.0]) {
            self.moved.slice_mut().copy_from(theta)?;
            axpy(
                sign * step,
                self.vector.part(0..omega),
                self.moved.part_mut(0..omega),
            )?;
            let (moved, gradient) = (self.moved.slice(), self.gradient.slice_mut());
            losses.gradient(Level::Training, moved, gradient)?;
            side.resize(theta.len() - omega, 0.0);
            self.gradient.part(omega..theta.len()).copy_to(side)?;
        }
        let [up, down] = &mut self.sides;
        for (up, down) in up.iter_mut().zip(down) {
            *up = (*up - *down) / (2.0 * step);
        }
        self.gradient
            .part_mut(omega..theta.len())
            .write(&self.sides[0])
    }
}

impl Hypergradient for Unrolled {
    fn compute(
        &mut self,
        losses: &mut dyn Losses,
        theta: Slice,
        inner: InnerStep,
        mut alpha_gradient: SliceMut,
    ) -> anyhow::Result<Report> {
        let omega = losses.omega_len();
        let alpha = omega..theta.len();
        for vector in [&mut self.gradient, &mut self.moved, &mut self.vector] {
            vector.fit(theta)?;
        }
        losses.gradient(Level::Training, theta, self.gradient.slice_mut())?;
        self.moved.slice_mut().copy_from(theta)?;
        let step = Sgd {
            lr: inner.lr,
            momentum: inner.momentum,
            weight_decay: inner.weight_decay,
            clip: 0.0,
        };
        unrolled(
            step,
            theta.part(0..omega),
            self.gradient.part(0..omega),
            inner.buffer,
            self.moved.part_mut(0..omega),
        )?;
        let (moved, vector) = (self.moved.slice(), self.vector.slice_mut());
        let validation = losses.gradient(Level::Validation, moved, vector)?;
        alpha_gradient.copy_from(self.vector.part(alpha.clone()))?;
        clear_alpha(&mut self.vector, omega)?;
        let length = norm(&self.vector)?;
        let direct_norm = norm(alpha_gradient.as_slice())?;
        match self.product {
            // A zero vector has a zero product, and no step length.
            _ if length == 0.0 => clear_alpha(&mut self.gradient, omega)?,
            UnrolledProduct::FiniteDifference => self.difference(losses, theta, length)?,
            UnrolledProduct::Exact => {
                losses.linearise(theta, self.gradient.slice_mut())?;
                losses.product(theta, self.vector.slice(), self.gradient.slice_mut())?;
            }
        }
        let mixed = self.gradient.part(alpha);
        axpy(-inner.lr, mixed, alpha_gradient)?;
        Ok(Report {
            validation,
            norms: vec![length],
            direct_norm,
            correction_norm: Some(f64::from(inner.lr) * norm(mixed)?),
            ..Report::default()
        })
    }
}
