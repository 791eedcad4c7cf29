//! Adam with L2 decay: the optimiser of α.

use crate::device::{Device, Slice, SliceMut, Vector};
use crate::ops::update;
use serde::{Deserialize, Serialize};

/// Which elements of α share a second moment.
///
/// Adam divides each element by the size of its own gradients. The gradient of a candidate op's α carries
/// the noise of that op's output, and `none` has none: its gradients are up to several times smaller than its
/// siblings', of one sign for longer, and divided by their own size they outrun them. Where the genotype is
/// an argmax with `none` in it, that decides edges for the wrong reason. One second moment an edge, as
/// Adam-mini has one a block (Zhang et al. 2024), keeps the proportions of dα on the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SecondMoment {
    /// Each element has its own, as published.
    Element,
    /// The ops of an edge share one.
    Edge,
}

/// The optimiser of α (Kingma & Ba 2015).
pub struct Adam {
    /// Learning rate.
    pub lr: f32,
    /// β₁, β₂
    pub betas: [f32; 2],
    /// L2 decay.
    pub weight_decay: f32,
    /// Neighbours that share a second moment.
    pub group: usize,
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
            group: 1,
            m: Vector::zeros(device, len)?,
            v: Vector::zeros(device, len)?,
            steps: 0,
        })
    }

    /// The same with one second moment for each `group` neighbours; `group` divides the length.
    pub fn grouped(mut self, group: usize) -> Adam {
        assert!(self.m.len().is_multiple_of(group), "whole groups");
        self.group = group;
        self
    }

    /// An optimiser of `len` numbers on the host, for models too small for a device.
    pub fn on_host(len: usize, lr: f32, betas: [f32; 2], weight_decay: f32) -> Adam {
        Adam::new(&Device::Cpu, len, lr, betas, weight_decay).expect("only a device's memory fails")
    }

    /// One step of an optimiser that is [`Adam::on_host`].
    pub fn step_on_host(&mut self, gradient: &[f32], parameters: &mut [f32]) {
        self.step(gradient, parameters)
            .expect("only a device's step fails");
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
            group: self.group,
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
