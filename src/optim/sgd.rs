//! SGD with momentum, weight decay, clipping by the global norm, and a cosine schedule.

use crate::ops::update::{self, norm};

/// The optimiser of ω.
pub struct Sgd {
    /// Momentum μ.
    pub momentum: f32,
    /// L2 decay.
    pub weight_decay: f32,
    /// Norm at which gradients are clipped; 0: never.
    pub clip: f32,
    /// Momentum buffer b, as long as ω.
    pub buffer: Vec<f32>,
}

impl Sgd {
    /// An optimiser of `len` weights, at rest.
    pub fn new(len: usize, momentum: f32, weight_decay: f32, clip: f32) -> Sgd {
        Sgd {
            momentum,
            weight_decay,
            clip,
            buffer: vec![0.0; len],
        }
    }

    /// One step; returns the gradient's norm before clipping. As PyTorch's `clip_grad_norm_`, the
    /// factor is clip/(norm + 10⁻⁶), at most 1.
    pub fn step(&mut self, lr: f32, gradient: &[f32], omega: &mut [f32]) -> f64 {
        let length = norm(gradient);
        let clipped = (f64::from(self.clip) / (length + 1e-6)).min(1.0) as f32;
        let step = update::Sgd {
            lr,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            clip_factor: if self.clip > 0.0 { clipped } else { 1.0 },
        };
        update::sgd(step, gradient, &mut self.buffer, omega);
        length
    }
}

/// Cosine annealing (Loshchilov & Hutter 2017) from `lr` at epoch 0 to `lr_min` at epoch `epochs`,
/// constant within an epoch, as DARTS steps it.
pub fn cosine(lr: f32, lr_min: f32, epoch: usize, epochs: usize) -> f32 {
    let turn = std::f64::consts::PI * epoch as f64 / epochs.max(1) as f64;
    let (lr, lr_min) = (f64::from(lr), f64::from(lr_min));
    (lr_min + 0.5 * (lr - lr_min) * (1.0 + turn.cos())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_scales_the_gradient_to_the_norm() {
        let mut sgd = Sgd::new(2, 0.0, 0.0, 5.0);
        let mut omega = [0.0, 0.0];
        assert_eq!(sgd.step(1.0, &[6.0, 8.0], &mut omega), 10.0);
        assert!((omega[0] + 3.0).abs() < 1e-5 && (omega[1] + 4.0).abs() < 1e-5);
    }

    #[test]
    fn cosine_goes_from_the_first_rate_to_the_last() {
        assert_eq!(cosine(0.025, 0.001, 0, 50), 0.025);
        assert!((cosine(0.025, 0.001, 50, 50) - 0.001).abs() < 1e-9);
        assert!((cosine(0.025, 0.001, 25, 50) - 0.013).abs() < 1e-6);
    }
}
