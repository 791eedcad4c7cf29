//! Adam with L2 decay: the optimiser of α.

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
    pub m: Vec<f32>,
    /// Second moment.
    pub v: Vec<f32>,
    /// Steps done.
    pub steps: u64,
}

impl Adam {
    /// An optimiser of `len` parameters, at rest.
    pub fn new(len: usize, lr: f32, betas: [f32; 2], weight_decay: f32) -> Adam {
        Adam {
            lr,
            betas,
            weight_decay,
            m: vec![0.0; len],
            v: vec![0.0; len],
            steps: 0,
        }
    }

    /// One step.
    pub fn step(&mut self, gradient: &[f32], alpha: &mut [f32]) {
        self.steps += 1;
        let step = update::Adam {
            lr: f64::from(self.lr),
            beta1: f64::from(self.betas[0]),
            beta2: f64::from(self.betas[1]),
            epsilon: 1e-8,
            weight_decay: f64::from(self.weight_decay),
            step: self.steps,
        };
        update::adam(step, gradient, &mut self.m, &mut self.v, alpha);
    }
}
