//! SGD with momentum, weight decay, clipping by the global norm, and a cosine schedule.

use crate::device::{Device, Later, Slice, SliceMut, Vector};
use crate::ops::update;

/// The optimiser of ω.
pub struct Sgd {
    /// Momentum μ.
    pub momentum: f32,
    /// L2 decay.
    pub weight_decay: f32,
    /// Norm at which gradients are clipped; 0: never.
    pub clip: f32,
    /// Momentum buffer b, as long as ω.
    pub buffer: Vector,
}

impl Sgd {
    /// An optimiser of `len` weights on `device`, at rest.
    ///
    /// # Errors
    /// Device memory that ran out.
    pub fn new(
        device: &Device,
        len: usize,
        momentum: f32,
        weight_decay: f32,
        clip: f32,
    ) -> anyhow::Result<Sgd> {
        Ok(Sgd {
            momentum,
            weight_decay,
            clip,
            buffer: Vector::zeros(device, len)?,
        })
    }

    /// One step; gives the gradient's norm before clipping.
    ///
    /// # Errors
    /// The device's.
    pub fn step<'a>(
        &mut self,
        lr: f32,
        gradient: impl Into<Slice<'a>>,
        omega: impl Into<SliceMut<'a>>,
    ) -> anyhow::Result<Later<f64>> {
        let step = update::Sgd {
            lr,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            clip: self.clip,
        };
        let (gradient, omega) = (gradient.into(), omega.into());
        update::sgd(step, gradient, self.buffer.slice_mut(), omega)
    }
}

/// Cosine annealing (Loshchilov & Hutter 2017) from `lr` at epoch 0 to `lr_min` at epoch `epochs`,
/// constant within an epoch, as DARTS steps it.
pub fn cosine(lr: f32, lr_min: f32, epoch: usize, epochs: usize) -> f32 {
    let turn = std::f64::consts::PI * epoch as f64 / epochs.max(1) as f64;
    let (lr, lr_min) = (f64::from(lr), f64::from(lr_min));
    (lr_min + 0.5 * (lr - lr_min) * (1.0 + turn.cos())) as f32
}

/// Cosine power annealing (Hundt et al. 2019; `cosine_power_annealing.py` of the official code): of W warm-up epochs
/// the rate climbs in steps of 1/(W + 1), and from then on, with n the epoch counted from 1,
///
/// ```text
/// c = (1 + cos(π·(n − W)/(E − W)))/2      lr_min + (lr − lr_min)·(pᶜ − 1)/(p − 1)
/// ```
///
/// so the larger `power`, p, the sooner it falls; p = 1 is the cosine. Without a warm-up the first epoch has `lr`. The last
/// has `lr_min`.
pub fn cosine_power(
    [lr, lr_min]: [f32; 2],
    power: f64,
    warmup: usize,
    epoch: usize,
    epochs: usize,
) -> f32 {
    let number = epoch + 1;
    let curve = |number: usize| {
        let turn = (number - warmup) as f64 / (epochs.max(warmup + 1) - warmup) as f64;
        let c = 0.5 * (1.0 + (std::f64::consts::PI * turn).cos());
        if power == 1.0 {
            c
        } else {
            (power.powf(c) - 1.0) / (power - 1.0)
        }
    };
    let part = if warmup == 0 && epoch == 0 {
        1.0
    } else if warmup == 0 {
        curve(number) / curve(1)
    } else if number <= warmup + 1 {
        number as f64 / (warmup + 1) as f64
    } else {
        curve(number)
    };
    let (lr, lr_min) = (f64::from(lr), f64::from(lr_min));
    (lr_min + (lr - lr_min) * part) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Executor, Mode};
    use crate::network::Supernet;
    use crate::network::parameters::initial_theta;
    use crate::space::Space;

    #[test]
    fn a_weight_step_that_is_repeated_on_a_gpu_neither_waits_nor_captures() {
        let Some(gpu) = crate::device::cuda::for_tests() else {
            return;
        };
        let device = Device::Cuda(std::sync::Arc::clone(&gpu));
        let supernet = Supernet::record(Space::NasBench201, 2, 1, 5, 2, [4, 4]).unwrap();
        let omega = supernet.tape.omega_len;
        let theta = initial_theta(&supernet.parameters, 1);
        let mut gradient = Vector::zeros(&device, theta.len()).unwrap();
        let mut theta = Vector::new(&device, theta).unwrap();
        let mut executor = Executor::new(supernet.tape, device.clone());
        let mut sgd = Sgd::new(&device, omega, 0.9, 3e-4, 5.0).unwrap();
        let images: Vec<f32> = (0..2 * 16 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut step = || {
            executor.load(&images, &[0, 3]).unwrap();
            executor.start_forward(Mode::Gradient, &theta).unwrap();
            executor.backward(&theta, &mut gradient).unwrap();
            let gradient = gradient.part(0..omega);
            let norm = sgd.step(0.1, gradient, theta.part_mut(0..omega));
            norm.unwrap().value().unwrap();
        };
        let start = gpu.waits_and_captures();
        step();
        let before = gpu.waits_and_captures();
        // Forward, backward, and the update with its norm.
        assert_eq!(before.1 - start.1, 3);
        for _ in 0..5 {
            step();
        }
        // Reading the norm is what waits, once a step here; a search reads it once a round.
        let after = gpu.waits_and_captures();
        assert_eq!((after.0 - before.0, after.1), (5, before.1));
    }

    #[test]
    fn clipping_scales_the_gradient_to_the_norm() {
        let mut sgd = Sgd::new(&Device::Cpu, 2, 0.0, 0.0, 5.0).unwrap();
        let mut omega = [0.0, 0.0];
        let norm = sgd.step(1.0, &[6.0, 8.0], &mut omega).unwrap();
        assert_eq!(norm.value().unwrap(), 10.0);
        assert!((omega[0] + 3.0).abs() < 1e-5 && (omega[1] + 4.0).abs() < 1e-5);
    }

    #[test]
    fn cosine_power_climbs_and_then_falls_as_in_the_official_code() {
        // cosine_power_annealing(epochs=10, max_lr=0.025, min_lr=1e-4, exponent_order=2, warmup_epochs=2)
        let official = [
            0.0084,
            0.0167,
            0.025,
            0.020_192_955,
            0.015_408_136,
            0.010_413_918,
            0.006_040_027,
            0.002_760_315,
            0.000_765_637,
            0.0001,
        ];
        for (epoch, expected) in official.into_iter().enumerate() {
            let found = cosine_power([0.025, 1e-4], 2.0, 2, epoch, 10);
            assert!((found - expected).abs() < 1e-7, "{epoch}: {found}");
        }
        let plain: Vec<f32> = (0..10)
            .map(|epoch| cosine_power([0.025, 1e-4], 2.0, 0, epoch, 10))
            .collect();
        assert!((plain[0] - 0.025).abs() < 1e-9 && (plain[9] - 1e-4).abs() < 1e-9);
        assert!(plain.is_sorted_by(|a, b| a > b));
        // A larger power falls sooner than the cosine.
        let middle = |power| cosine_power([1.0, 0.0], power, 0, 4, 10);
        assert!(middle(1.0) > middle(2.0) && middle(2.0) > middle(10.0));
        assert_eq!(cosine_power([1.0, 0.0], 2.0, 0, 0, 1), 1.0);
    }

    #[test]
    fn cosine_goes_from_the_first_rate_to_the_last() {
        assert_eq!(cosine(0.025, 0.001, 0, 50), 0.025);
        assert!((cosine(0.025, 0.001, 50, 50) - 0.001).abs() < 1e-9);
        assert!((cosine(0.025, 0.001, 25, 50) - 0.013).abs() < 1e-6);
    }
}
