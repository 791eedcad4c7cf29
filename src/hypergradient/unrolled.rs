//! DARTS, second order (Liu et al. 2019, section 2.3): the gradient through one unrolled SGD step.
//!
//! ```text
//! ω′ = ω − ξ·(μ·b + ∂L1/∂ω + decay·ω)
//! dα = ∂L2(ω′, α)/∂α − ξ·(∂²L1/∂α∂ω)·∂L2(ω′, α)/∂ω′
//! ```
//!
//! The product is a central difference of ∂L1/∂α with ε = 0.01/‖∂L2/∂ω′‖, as published, or exact.

use super::{Hypergradient, InnerStep, Level, Losses, Report, clear_alpha};
use crate::ops::update::{axpy, norm};
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
    gradient: Vec<f32>,
    moved: Vec<f32>,
    vector: Vec<f32>,
    /// ∂L1/∂α on one side of a central difference.
    side: Vec<f32>,
}

impl Unrolled {
    /// The method with the given kind of product.
    pub fn new(product: UnrolledProduct) -> Unrolled {
        Unrolled {
            product,
            gradient: Vec::new(),
            moved: Vec::new(),
            vector: Vec::new(),
            side: Vec::new(),
        }
    }

    /// `gradient[α]` = (∂²L1/∂α∂ω)·vector by a central difference along `vector`.
    fn difference(&mut self, losses: &mut dyn Losses, theta: &[f32], length: f64) {
        let omega = losses.omega_len();
        let step = (0.01 / length) as f32;
        for sign in [1.0, -1.0] {
            self.moved.copy_from_slice(theta);
            axpy(sign * step, &self.vector[..omega], &mut self.moved[..omega]);
            losses.gradient(Level::Training, &self.moved, &mut self.gradient);
            if sign > 0.0 {
                self.side.clear();
                self.side.extend_from_slice(&self.gradient[omega..]);
            }
        }
        for (down, up) in self.gradient[omega..].iter_mut().zip(&self.side) {
            *down = (up - *down) / (2.0 * step);
        }
    }
}

impl Hypergradient for Unrolled {
    fn compute(
        &mut self,
        losses: &mut dyn Losses,
        theta: &[f32],
        inner: InnerStep,
        alpha_gradient: &mut [f32],
    ) -> Report {
        let omega = losses.omega_len();
        for vector in [&mut self.gradient, &mut self.moved, &mut self.vector] {
            vector.resize(theta.len(), 0.0);
        }
        losses.gradient(Level::Training, theta, &mut self.gradient);
        self.moved.copy_from_slice(theta);
        for (i, w) in self.moved[..omega].iter_mut().enumerate() {
            let moment = inner.momentum * inner.buffer[i];
            *w -= inner.lr * (moment + self.gradient[i] + inner.weight_decay * *w);
        }
        let validation = losses.gradient(Level::Validation, &self.moved, &mut self.vector);
        alpha_gradient.copy_from_slice(&self.vector[omega..]);
        clear_alpha(&mut self.vector, omega);
        let length = norm(&self.vector);
        let direct_norm = norm(alpha_gradient);
        match self.product {
            // A zero vector has a zero product, and no step length.
            _ if length == 0.0 => self.gradient[omega..].fill(0.0),
            UnrolledProduct::FiniteDifference => self.difference(losses, theta, length),
            UnrolledProduct::Exact => {
                losses.linearise(theta, &mut self.gradient);
                losses.product(theta, &self.vector, &mut self.gradient);
            }
        }
        let mixed = &self.gradient[omega..];
        axpy(-inner.lr, mixed, alpha_gradient);
        Report {
            validation,
            norms: vec![length],
            direct_norm,
            correction_norm: Some(f64::from(inner.lr) * norm(mixed)),
            ..Report::default()
        }
    }
}
