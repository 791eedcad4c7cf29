//! The weight steps of a round: SGD, the evolution strategy, or both.

use super::Search;
use super::record::RoundRecord;
use crate::autograd::Mode;
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
        let (mut loss, mut hits) = (0.0, 0.0);
        for inner in 0..steps {
            let number = self.progress.rounds * steps + inner;
            let batch = self.train.batch(number);
            self.executor.load(&batch.images, &batch.labels);
            let outcome = match weights {
                Weights::Sgd | Weights::SgdEs => self.sgd_step(lr, record)?,
                Weights::Es => self.generation(number, record)?,
            };
            loss += outcome.0 / steps as f64;
            hits += outcome.1 / steps as f64;
        }
        record.loss_train = loss;
        record.accuracy_train = hits;
        let warm = record.epoch >= self.settings.warmup_epochs;
        if weights == Weights::SgdEs && warm {
            let batch = self.evolution.batch(self.progress.rounds);
            self.executor.load(&batch.images, &batch.labels);
            self.generation(self.progress.rounds, record)?;
        }
        Ok(())
    }

    /// One SGD step on the loaded batch; returns its loss and accuracy.
    fn sgd_step(&mut self, lr: f32, record: &mut RoundRecord) -> anyhow::Result<(f64, f64)> {
        let omega = self.omega();
        let outcome = self.executor.forward(Mode::Gradient, &self.theta);
        self.finite("the training loss", outcome.loss)?;
        self.executor.backward(&self.theta, &mut self.gradient);
        let norm = self
            .sgd
            .step(lr, &self.gradient[..omega], &mut self.theta[..omega]);
        self.finite("the norm of the weight gradient", norm)?;
        record.grad_norm = Some(norm);
        (self.progress.last_loss, self.progress.last_norm) = (outcome.loss, norm);
        let accuracy = outcome.top1 as f64 / self.settings.batch as f64;
        Ok((outcome.loss, accuracy))
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
        let (executor, scratch) = (&mut self.executor, &mut self.evolution_scratch);
        let mut first = None;
        let generation = evolution.generation(number, &mut self.theta, omega, scratch, |theta| {
            let outcome = executor.forward(Mode::Evaluate, theta);
            first.get_or_insert(outcome.top1);
            outcome.loss
        });
        self.finite("the training loss", generation.loss)?;
        record.es_choice = Some(generation.choice);
        record.es_loss = Some(generation.loss);
        self.progress.last_loss = generation.loss;
        let hits = first.unwrap_or(0) as f64 / self.settings.batch as f64;
        Ok((generation.loss_before, hits))
    }
}
