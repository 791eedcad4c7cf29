//! DARTS, second order (Liu et al. 2019, section 2.3): the gradient through one unrolled SGD step.
//!
//! ```text
//! ω′ = ω − ξ·(μ·b + ∂L1/∂ω + decay·ω)
//! dα = ∂L2(ω′, α)/∂α − ξ·(∂²L1/∂α∂ω)·∂L2(ω′, α)/∂ω′
//! ```
//!
//! The product is a central difference of ∂L1/∂α with ε = 0.01/‖∂L2/∂ω′‖, as published, or exact.

use super::{Hypergradient, InnerStep, Level, Losses, Report, clear_alpha};
use crate::device::{Later, Slice, SliceMut, Vector};
use crate::ops::update::{Factor, Sgd, axpy, difference, norm_later, over_norm, unrolled};
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
    sides: [Vector; 2],
}

impl Unrolled {
    /// The method with the given kind of product.
    pub fn new(product: UnrolledProduct) -> Unrolled {
        Unrolled {
            product,
            gradient: Vector::empty(),
            moved: Vector::empty(),
            vector: Vector::empty(),
            sides: [Vector::empty(), Vector::empty()],
        }
    }

    /// `gradient[α]` = (∂²L1/∂α∂ω)·vector by a central difference along `vector`, ± `step` times it.
    fn difference(
        &mut self,
        losses: &mut dyn Losses,
        theta: Slice,
        step: Factor,
    ) -> anyhow::Result<()> {
        let omega = losses.omega_len();
        let alpha = omega..theta.len();
        for (side, step) in self.sides.iter_mut().zip([step, -step]) {
            self.moved.slice_mut().copy_from(theta)?;
            axpy(
                step,
                self.vector.part(0..omega),
                self.moved.part_mut(0..omega),
            )?;
            let (moved, gradient) = (self.moved.slice(), self.gradient.slice_mut());
            losses.gradient(Level::Training, moved, gradient)?;
            side.fit(theta.part(alpha.clone()))?;
            side.slice_mut()
                .copy_from(self.gradient.part(alpha.clone()))?;
        }
        let [up, down] = &self.sides;
        difference(
            step,
            (up.slice(), down.slice()),
            self.gradient.part_mut(alpha),
        )
    }
}

impl Hypergradient for Unrolled {
    fn compute(
        &mut self,
        losses: &mut dyn Losses,
        theta: Slice,
        inner: InnerStep,
        mut alpha_gradient: SliceMut,
    ) -> anyhow::Result<Later<Report>> {
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
        // A zero vector has a zero product: no step is made along it.
        let step = over_norm(0.01, 0.0, &self.vector)?;
        let direct_norm = norm_later(alpha_gradient.as_slice())?;
        match self.product {
            UnrolledProduct::FiniteDifference => self.difference(losses, theta, step.factor)?,
            UnrolledProduct::Exact => {
                losses.linearise(theta, self.gradient.slice_mut())?;
                losses.product(theta, self.vector.slice(), self.gradient.slice_mut())?;
            }
        }
        let mixed = self.gradient.part(alpha);
        axpy(-inner.lr, mixed, alpha_gradient)?;
        let norms = step.norm.and(direct_norm.and(norm_later(mixed)?));
        let found = validation.and(norms);
        Ok(found.map(
            move |(validation, (length, (direct_norm, mixed_norm)))| Report {
                validation,
                norms: vec![length],
                direct_norm,
                correction_norm: Some(f64::from(inner.lr) * mixed_norm),
                ..Report::default()
            },
        ))
    }
}
