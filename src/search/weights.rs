//! The weight steps of a round: SGD, the evolution strategy, or both.

use super::Search;
use super::round::{Found, Started};
use super::strategies::Moment;
use crate::autograd::Mode;
use crate::device::Later;
use crate::optim::evolution::Generation;
use crate::optim::{Evolution, Weights};

impl Search {
    /// Trains ω for one round and notes what that found.
    pub(super) fn train_weights(&mut self, lr: f32, started: &mut Started) -> anyhow::Result<()> {
        let steps = self.settings.inner_steps as u64;
        let weights = self.settings.weights;
        let epoch = started.record.epoch;
        for inner in 0..steps {
            let number = self.progress.rounds * steps + inner;
            self.weigh(number, epoch)?;
            let batch = self.train.batch(number);
            self.executor.load(&batch.images, &batch.labels)?;
            let found = match weights {
                Weights::Sgd | Weights::SgdEs => self.sgd_step(lr)?,
                Weights::Es => Found::Generation {
                    found: self.generation(number)?,
                    step: true,
                },
            };
            self.note(started, found)?;
        }
        if weights == Weights::SgdEs && self.is_warm(epoch) {
            let batch = self.evolution.batch(self.progress.rounds);
            self.executor.load(&batch.images, &batch.labels)?;
            let found = Found::Generation {
                found: self.generation(self.progress.rounds)?,
                step: false,
            };
            self.note(started, found)?;
        }
        Ok(())
    }

    /// Weighs the ops for weight step `number`, where that is the strategy's to do.
    fn weigh(&mut self, number: u64, epoch: usize) -> anyhow::Result<()> {
        let moment = Moment {
            number,
            epoch,
            epochs: self.settings.epochs,
        };
        match self.strategy.weigh(moment, &self.alpha) {
            Some(weighting) => weighting.apply(&mut self.executor, &mut self.theta),
            None => Ok(()),
        }
    }

    /// One SGD step on the loaded batch.
    fn sgd_step(&mut self, lr: f32) -> anyhow::Result<Found> {
        let omega = self.omega();
        let outcome = self.executor.start_forward(Mode::Gradient, &self.theta)?;
        self.executor.backward(&self.theta, &mut self.gradient)?;
        let gradient = self.gradient.part(0..omega);
        let norm = self.sgd.step(lr, gradient, self.theta.part_mut(0..omega))?;
        Ok(Found::Step(outcome.and(norm)))
    }

    /// One ES generation on the loaded batch, and the images that ω had right before it.
    fn generation(&mut self, number: u64) -> anyhow::Result<Later<(Generation, usize)>> {
        let s = &self.settings;
        let evolution = Evolution {
            population: s.population,
            sigma: s.sigma,
            step: s.es_step,
            literal: s.es_literal,
            antithetic: s.antithetic,
            seed: s.seed,
        };
        let omega = self.omega();
        let executor = &mut self.executor;
        match self.theta.host_mut() {
            Some(theta) => {
                let (mut first, mut failed) = (None, None);
                let scratch = &mut self.evolution_scratch;
                let generation = evolution.generation(number, theta, omega, scratch, |theta| {
                    match executor.forward(Mode::Evaluate, theta) {
                        Ok(outcome) => {
                            first.get_or_insert(outcome.top1);
                            outcome.loss
                        }
                        Err(error) => {
                            failed = Some(error);
                            f64::NAN
                        }
                    }
                });
                if let Some(error) = failed {
                    return Err(error);
                }
                Ok((generation, first.unwrap_or(0)).into())
            }
            None => {
                let theta = &mut self.theta;
                let found = self
                    .population
                    .generation(&evolution, number, executor, theta)?;
                Ok(found.expect("a vector that is not on the host is on the executor's GPU"))
            }
        }
    }
}
