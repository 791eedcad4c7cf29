//! Strategies that follow a hypergradient of the supernet that the tape relaxes: NDARTS, and DARTS of
//! both orders. What sets them apart is in [`crate::hypergradient`].

use super::{Method, Step, Stepped, Strategy};
use crate::device::{Device, SliceMut};
use crate::hypergradient::{FirstOrder, Hypergradient, InnerStep, Neumann, TapeLosses, Unrolled};
use crate::ops::relax::Relaxation;
use crate::search::settings::SearchSettings;
use crate::space::Space;

/// All three: every space, the tape's softmax, nothing of their own.
const fn method(make: fn(&SearchSettings) -> Box<dyn Strategy>) -> Method {
    Method {
        spaces: &Space::ALL,
        relaxation: Relaxation::Softmax,
        options: &[],
        defaults: |_| {},
        make,
    }
}

/// The implicit hypergradient.
pub const NDARTS: Method = method(|settings| {
    let (terms, gamma) = (settings.neumann_terms, settings.gamma);
    let hypergradient = Neumann::new(terms, gamma, true, settings.seed);
    Box::new(Differentiable { hypergradient })
});

/// DARTS, first order.
pub const DARTS_V1: Method = method(|_| first_order());

/// The step of DARTS, first order, for strategies that differ elsewhere.
pub(super) fn first_order() -> Box<dyn Strategy> {
    Box::new(Differentiable {
        hypergradient: FirstOrder::default(),
    })
}

/// DARTS, second order.
pub const DARTS_V2: Method = method(|settings| {
    let hypergradient = Unrolled::new(settings.unrolled_product);
    Box::new(Differentiable { hypergradient })
});

/// A method for the hypergradient of the relaxed supernet.
struct Differentiable<H> {
    hypergradient: H,
}

impl<H: Hypergradient + Send> Strategy for Differentiable<H> {
    fn architecture_step(
        &mut self,
        step: Step,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Stepped> {
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
        let theta = step.theta.slice();
        let report = self
            .hypergradient
            .compute(&mut losses, theta, inner, alpha_gradient)?;
        Ok(Stepped {
            report,
            follow: true,
            ..Stepped::default()
        })
    }

    fn state(&self) -> anyhow::Result<Vec<f32>> {
        self.hypergradient.state()
    }

    fn restore(&mut self, device: &Device, state: &[f32]) -> anyhow::Result<()> {
        self.hypergradient.restore(device, state)
    }
}
