//! The two losses of a supernet: one tape, a training and a validation batch.

use super::{Level, Losses};
use crate::autograd::{Executor, Mode};
use crate::data::Batch;
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
    fn load(&mut self, level: Level) {
        let batch = match level {
            Level::Training => self.training,
            Level::Validation => self.validation,
        };
        self.executor.load(&batch.images, &batch.labels);
    }
}

impl Losses for TapeLosses<'_> {
    fn omega_len(&self) -> usize {
        self.executor.tape().omega_len
    }

    fn gradient(&mut self, level: Level, theta: &[f32], gradient: &mut [f32]) -> Outcome {
        self.load(level);
        let outcome = self.executor.forward(Mode::Gradient, theta);
        self.executor.backward(theta, gradient);
        outcome
    }

    fn linearise(&mut self, theta: &[f32], gradient: &mut [f32]) -> Outcome {
        self.load(Level::Training);
        let outcome = self.executor.forward(Mode::Products, theta);
        self.executor.backward(theta, gradient);
        outcome
    }

    fn product(&mut self, theta: &[f32], direction: &[f32], product: &mut [f32]) {
        self.executor.product(theta, direction, product);
    }
}
