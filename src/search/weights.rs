//! The weight steps of a round: SGD, the evolution strategy, or both.

use super::Search;
use super::record::RoundRecord;
use super::strategies::Moment;
use crate::autograd::Mode;
use crate::device::Device;
use crate::optim::{Evolution, Weights};

impl Search {
    /// Trains ω for one round and fills in what the record says of it.
    pub(super) fn train_weights(
        &mut self,
        lr: f32,
        record: &mut RoundRecord,
    ) -> anyhow::Result<()> {
        let steps = self.settings.inner_steps as u64;
        let weights = self.settings.weights;
        let mut trained = Trained::default();
        for inner in 0..steps {
            let number = self.progress.rounds * steps + inner;
            self.weigh(number, record.epoch)?;
            let batch = self.train.batch(number);
            self.executor.load(&batch.images, &batch.labels)?;
            match weights {
                Weights::Sgd | Weights::SgdEs => {
                    self.sgd_step(lr)?;
                    // A GPU goes on while the host prepares the next batch: it is asked once a round.
                    if matches!(self.device, Device::Cpu) || inner + 1 == steps {
                        self.settle(record, &mut trained)?;
                    }
                }
                Weights::Es => {
                    let (loss, hits) = self.generation(number, record)?;
                    trained.add(loss, hits, self.settings.inner_steps);
                }
            }
        }
        record.loss_train = trained.loss;
        record.accuracy_train = trained.accuracy;
        let warm = self.is_warm(record.epoch);
        if weights == Weights::SgdEs && warm {
            let batch = self.evolution.batch(self.progress.rounds);
            self.executor.load(&batch.images, &batch.labels)?;
            self.generation(self.progress.rounds, record)?;
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

    /// Starts one SGD step on the loaded batch.
    fn sgd_step(&mut self, lr: f32) -> anyhow::Result<()> {
        let omega = self.omega();
        self.executor.start_forward(Mode::Gradient, &self.theta)?;
        self.executor.backward(&self.theta, &mut self.gradient)?;
        let gradient = self.gradient.part(0..omega);
        let norm = self.sgd.step(lr, gradient, self.theta.part_mut(0..omega))?;
        self.norm = Some(norm);
        Ok(())
    }

    /// Takes up the outcomes of the steps since it was last called.
    fn settle(&mut self, record: &mut RoundRecord, trained: &mut Trained) -> anyhow::Result<()> {
        let mut last = None;
        while let Some(outcome) = self.executor.outcome()? {
            self.finite("the training loss", outcome.loss)?;
            let hits = outcome.top1 as f64 / self.settings.batch as f64;
            trained.add(outcome.loss, hits, self.settings.inner_steps);
            last = Some(outcome.loss);
        }
        if let (Some(loss), Some(norm)) = (last, self.norm.take()) {
            let norm = norm.value()?;
            self.finite("the norm of the weight gradient", norm)?;
            record.grad_norm = Some(norm);
            (self.progress.last_loss, self.progress.last_norm) = (loss, norm);
        }
        Ok(())
    }

    /// One ES generation on the loaded batch; returns loss and accuracy of ω as it was.
    fn generation(&mut self, number: u64, record: &mut RoundRecord) -> anyhow::Result<(f64, f64)> {
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
        let (generation, right) = match self.theta.host_mut() {
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
                (generation, first.unwrap_or(0))
            }
            None => {
                let theta = &mut self.theta;
                let found = self
                    .population
                    .generation(&evolution, number, executor, theta)?;
                found.expect("a vector that is not on the host is on the executor's GPU")
            }
        };
        self.finite("the training loss", generation.loss)?;
        record.es_choice = Some(generation.choice);
        record.es_loss = Some(generation.loss);
        self.progress.last_loss = generation.loss;
        let hits = right as f64 / self.settings.batch as f64;
        Ok((generation.loss_before, hits))
    }
}

/// Means over the steps of a round.
#[derive(Default)]
struct Trained {
    loss: f64,
    accuracy: f64,
}

impl Trained {
    fn add(&mut self, loss: f64, accuracy: f64, steps: usize) {
        self.loss += loss / steps as f64;
        self.accuracy += accuracy / steps as f64;
    }
}
