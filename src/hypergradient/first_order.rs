//! DARTS, first order (Liu et al. 2019, section 2.3 with ξ = 0): dα = ∂L2/∂α at the current ω.

use super::{Hypergradient, InnerStep, Level, Losses, Report};
use crate::device::{Later, Slice, SliceMut, Vector};
use crate::ops::update::norm_later;

/// See the module.
pub struct FirstOrder {
    gradient: Vector,
}

impl Default for FirstOrder {
    fn default() -> FirstOrder {
        FirstOrder {
            gradient: Vector::empty(),
        }
    }
}

impl Hypergradient for FirstOrder {
    fn compute(
        &mut self,
        losses: &mut dyn Losses,
        theta: Slice,
        _: InnerStep,
        mut alpha_gradient: SliceMut,
    ) -> anyhow::Result<Later<Report>> {
        self.gradient.fit(theta)?;
        let validation = losses.gradient(Level::Validation, theta, self.gradient.slice_mut())?;
        let alpha = self.gradient.part(losses.omega_len()..theta.len());
        alpha_gradient.copy_from(alpha)?;
        let found = validation.and(norm_later(alpha)?);
        Ok(found.map(|(validation, direct_norm)| Report {
            validation,
            direct_norm,
            ..Report::default()
        }))
    }
}
