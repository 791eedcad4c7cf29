//! Search strategies behind one trait: what an architecture step does.

use super::settings::{SearchSettings, StrategyKind};
use crate::autograd::Executor;
use crate::data::Batch;
use crate::device::{Device, Slice, SliceMut};
use crate::hypergradient::{
    FirstOrder, Hypergradient, InnerStep, Neumann, Report, TapeLosses, Unrolled,
};
use crate::optim::Sgd;

/// What a strategy sees in an architecture step.
pub struct Step<'a> {
    /// The supernet.
    pub executor: &'a mut Executor,
    /// (ω, α)
    pub theta: Slice<'a>,
    /// A fresh training batch, of L1.
    pub training: &'a Batch,
    /// A fresh validation batch, of L2.
    pub validation: &'a Batch,
    /// The optimiser of ω.
    pub sgd: &'a Sgd,
    /// Its learning rate in this epoch.
    pub lr: f32,
}

/// A way to search: the gradient it follows in α, and what it must keep between steps.
pub trait Strategy: Send {
    /// Writes dα and reports how it came about.
    ///
    /// # Errors
    /// The device's.
    fn architecture_gradient(
        &mut self,
        step: Step,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Report>;
    /// A vector to keep in checkpoints.
    ///
    /// # Errors
    /// The device's.
    fn state(&self) -> anyhow::Result<Vec<f32>>;
    /// Restores [`Strategy::state`] on `device`.
    ///
    /// # Errors
    /// The device's.
    fn restore(&mut self, device: &Device, state: &[f32]) -> anyhow::Result<()>;
}

/// A differentiable strategy: a method for the hypergradient of the relaxed supernet.
struct Differentiable<H> {
    hypergradient: H,
}

impl<H: Hypergradient + Send> Strategy for Differentiable<H> {
    fn architecture_gradient(
        &mut self,
        step: Step,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Report> {
        let mut losses = TapeLosses {
            executor: step.executor,
            training: step.training,
            validation: step.validation,
        };
        let inner = InnerStep {
            lr: step.lr,
            momentum: step.sgd.momentum,
            weight_decay: step.sgd.weight_decay,
            buffer: step.sgd.buffer.slice(),
        };
        self.hypergradient
            .compute(&mut losses, step.theta, inner, alpha_gradient)
    }

    fn state(&self) -> anyhow::Result<Vec<f32>> {
        self.hypergradient.state()
    }

    fn restore(&mut self, device: &Device, state: &[f32]) -> anyhow::Result<()> {
        self.hypergradient.restore(device, state)
    }
}

/// The strategy that the settings name.
pub fn strategy(settings: &SearchSettings) -> Box<dyn Strategy> {
    match settings.strategy {
        StrategyKind::Ndarts => {
            let (terms, gamma) = (settings.neumann_terms, settings.gamma);
            let hypergradient = Neumann::new(terms, gamma, true, settings.seed);
            Box::new(Differentiable { hypergradient })
        }
        StrategyKind::DartsV1 => Box::new(Differentiable {
            hypergradient: FirstOrder::default(),
        }),
        StrategyKind::DartsV2 => {
            let hypergradient = Unrolled::new(settings.unrolled_product);
            Box::new(Differentiable { hypergradient })
        }
    }
}
