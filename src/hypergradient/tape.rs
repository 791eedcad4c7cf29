//! The two losses of a supernet: one tape, a training and a validation batch.

use super::neumann::terms;
use super::{Level, Losses, Terms};
use crate::autograd::{Executor, Mode, Series};
use crate::data::Batch;
use crate::device::{Later, Slice, SliceMut, Vector};
use crate::ops::Outcome;

/// L1 on `training`, L2 on `validation`, over one executor.
pub struct TapeLosses<'a> {
    /// The executor.
    pub executor: &'a mut Executor,
    /// Batch of L1.
    pub training: &'a Batch,
    /// Batch of L2.
    pub validation: &'a Batch,
}

impl TapeLosses<'_> {
    fn load(&mut self, level: Level) -> anyhow::Result<()> {
        let batch = match level {
            Level::Training => self.training,
            Level::Validation => self.validation,
        };
        self.executor.load(&batch.images, &batch.labels)
    }
}

impl Losses for TapeLosses<'_> {
    fn omega_len(&self) -> usize {
        self.executor.tape().omega_len
    }

    fn gradient(
        &mut self,
        level: Level,
        theta: Slice,
        gradient: SliceMut,
    ) -> anyhow::Result<Later<Outcome>> {
        self.load(level)?;
        let outcome = self.executor.start_forward(Mode::Gradient, theta)?;
        self.executor.backward(theta, gradient)?;
        Ok(outcome)
    }

    fn linearise(&mut self, theta: Slice, gradient: SliceMut) -> anyhow::Result<Later<Outcome>> {
        self.load(Level::Training)?;
        let outcome = self.executor.start_forward(Mode::Products, theta)?;
        self.executor.backward(theta, gradient)?;
        Ok(outcome)
    }

    fn product(&mut self, theta: Slice, direction: Slice, product: SliceMut) -> anyhow::Result<()> {
        self.executor.product(theta, direction, product)
    }

    fn series(
        &mut self,
        theta: Slice,
        settings: Terms,
        [v, p, product]: [&mut Vector; 3],
    ) -> anyhow::Result<Later<Series>> {
        let Terms {
            gamma,
            count,
            guard,
        } = settings;
        let vectors = [&mut *v, &mut *p, &mut *product];
        let series = self
            .executor
            .series(theta, (gamma, count, guard), vectors)?;
        match series {
            Some(series) => Ok(series),
            None => Ok(terms(self, theta, settings, [v, p, product])?.into()),
        }
    }
}
