//! DARTS, first order (Liu et al. 2019, section 2.3 with ξ = 0): dα = ∂L2/∂α at the current ω.

use super::{Hypergradient, InnerStep, Level, Losses, Report};
use crate::ops::update::norm;

/// See the module.
#[derive(Default)]
pub struct FirstOrder {
    gradient: Vec<f32>,
}

impl Hypergradient for FirstOrder {
    fn compute(
        &mut self,
        losses: &mut dyn Losses,
        theta: &[f32],
        _: InnerStep,
        alpha_gradient: &mut [f32],
    ) -> Report {
        self.gradient.resize(theta.len(), 0.0);
        let validation = losses.gradient(Level::Validation, theta, &mut self.gradient);
        alpha_gradient.copy_from_slice(&self.gradient[losses.omega_len()..]);
        Report {
            validation,
            direct_norm: norm(alpha_gradient),
            ..Report::default()
        }
    }
}
