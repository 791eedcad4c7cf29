//! Adam with L2 decay: the optimiser of α.

use crate::device::{Device, Slice, SliceMut, Vector};
use crate::ops::update;

/// The optimiser of α (Kingma & Ba 2015).
pub struct Adam {
    /// Learning rate.
    pub lr: f32,
    /// β₁, β₂
    pub betas: [f32; 2],
    /// L2 decay.
    pub weight_decay: f32,
    /// First moment.
    pub m: Vector,
    /// Second moment.
    pub v: Vector,
    /// Steps done.
    pub steps: u64,
}

impl Adam {
    /// An optimiser of `len` parameters on `device`, at rest.
    ///
    /// # Errors
    /// Device memory that ran out.
    pub fn new(
        device: &Device,
        len: usize,
        lr: f32,
        betas: [f32; 2],
        weight_decay: f32,
    ) -> anyhow::Result<Adam> {
        Ok(Adam {
            lr,
            betas,
            weight_decay,
            m: Vector::zeros(device, len)?,
            v: Vector::zeros(device, len)?,
            steps: 0,
        })
    }

    /// One step.
    ///
    /// # Errors
    /// The device's.
    pub fn step<'a>(
        &mut self,
        gradient: impl Into<Slice<'a>>,
        alpha: impl Into<SliceMut<'a>>,
    ) -> anyhow::Result<()> {
        self.steps += 1;
        let step = update::Adam {
            lr: f64::from(self.lr),
            beta1: f64::from(self.betas[0]),
            beta2: f64::from(self.betas[1]),
            epsilon: 1e-8,
            weight_decay: f64::from(self.weight_decay),
            step: self.steps,
        };
        let (gradient, alpha) = (gradient.into(), alpha.into());
        update::adam(
            step,
            gradient,
            self.m.slice_mut(),
            self.v.slice_mut(),
            alpha,
        )
    }
}
