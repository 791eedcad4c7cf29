//! A round: started, and settled when somebody wants to know what it found.
//!
//! Nothing in a round waits for a GPU. What it finds (losses, norms, choices, α) is noted there, in order
//! ([`Later`]); settling a round waits for its notes and makes a record of them. On the CPU everything is known at
//! once, and so is a number that went astray.

use super::record::RoundRecord;
use super::strategies::{Moment, Numbers, Step, Stepped};
use super::{Search, SearchError};
use crate::device::{Later, SliceMut};
use crate::hypergradient::Report;
use crate::ops::Outcome;
use crate::ops::relax::Relaxation;
use crate::ops::update::norm_later;
use crate::optim::evolution::Generation;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// What a part of a round found.
pub(super) enum Found {
    /// An SGD step: its outcome, and ‖∂L1/∂ω‖.
    Step(Later<(Outcome, f64)>),
    /// A generation, and the images that ω had right before it.
    Generation {
        found: Later<(Generation, usize)>,
        /// It is one of the round's weight steps.
        step: bool,
    },
    /// The architecture step.
    Report(Later<Report>),
    /// ‖dα‖
    ArchitectureNorm(Later<f64>),
    /// α behind the step, from the device.
    Alpha(Later<Vec<f32>>),
}

impl Found {
    fn is_known(&self) -> bool {
        match self {
            Found::Step(found) => found.known().is_some(),
            Found::Generation { found, .. } => found.known().is_some(),
            Found::Report(found) => found.known().is_some(),
            Found::ArchitectureNorm(found) => found.known().is_some(),
            Found::Alpha(found) => found.known().is_some(),
        }
    }
}

/// A round that was started.
#[derive(Default)]
pub(super) struct Started {
    pub record: RoundRecord,
    /// What has not been taken up into the record.
    found: VecDeque<Found>,
}

/// Rounds that were started, oldest first.
#[derive(Default)]
pub(super) struct Rounds {
    owed: VecDeque<Started>,
    /// When the oldest began.
    began: Option<Instant>,
    /// Seconds of each of those that are settled together.
    share: Option<f64>,
    /// One that is settled, for its memory.
    spare: Option<Started>,
}

impl Rounds {
    /// True if none waits to be settled.
    pub fn settled(&self) -> bool {
        self.owed.is_empty()
    }
}

impl Search {
    /// One round: T weight steps, and after the warm-up one architecture step. Rounds that were started before
    /// it are settled with it.
    ///
    /// # Errors
    /// [`SearchError::NotFinite`] when a loss or a norm is no number.
    pub fn round(&mut self) -> anyhow::Result<RoundRecord> {
        let mut record = self.start_round()?;
        while let Some(next) = self.settle_round()? {
            record = Some(next);
        }
        Ok(record.expect("a round was started"))
    }

    /// One round, without waiting for a GPU: its record where everything is known, else
    /// [`Search::settle_round`] has it.
    ///
    /// # Errors
    /// As [`Search::round`], where it is known; or the device's.
    pub fn start_round(&mut self) -> anyhow::Result<Option<RoundRecord>> {
        self.rounds.began.get_or_insert_with(Instant::now);
        let epoch = (self.progress.rounds / self.rounds_per_epoch()) as usize;
        if self.progress.rounds.is_multiple_of(self.rounds_per_epoch()) {
            self.strategy.begin_epoch(epoch, &self.alpha);
            self.follow_design()?;
        }
        let lr = self.strategy.rate(&self.settings, epoch);
        let mut started = self.rounds.spare.take().unwrap_or_default();
        started.record = RoundRecord {
            round: self.progress.rounds + 1,
            epoch,
            lr: f64::from(lr),
            ..RoundRecord::default()
        };
        self.train_weights(lr, &mut started)?;
        if self.is_warm(epoch) && self.strategy.steps() {
            self.architecture_step(lr, &mut started)?;
        }
        self.progress.rounds += 1;
        let known = self.rounds.settled() && started.found.is_empty();
        self.rounds.owed.push_back(started);
        if known { self.settle_round() } else { Ok(None) }
    }

    /// The record of the oldest round that was started and not settled; waits for it. None when all are.
    ///
    /// # Errors
    /// As [`Search::round`]; later rounds are given up then.
    pub fn settle_round(&mut self) -> anyhow::Result<Option<RoundRecord>> {
        let Some(mut started) = self.rounds.owed.pop_front() else {
            return Ok(None);
        };
        if let Err(error) = self.take_up(&mut started, true) {
            self.rounds = Rounds::default();
            return Err(error);
        }
        // All that are owed were waited for together.
        let count = self.rounds.owed.len() + 1;
        let began = self.rounds.began;
        let elapsed = || began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let share = *self
            .rounds
            .share
            .get_or_insert_with(|| elapsed() / count as f64);
        if self.rounds.settled() {
            (self.rounds.began, self.rounds.share) = (None, None);
        }
        let mut record = std::mem::take(&mut started.record);
        self.rounds.spare = Some(started);
        record.seconds = share;
        self.progress.seconds += share;
        Ok(Some(record))
    }

    fn architecture_step(&mut self, lr: f32, started: &mut Started) -> anyhow::Result<()> {
        let weighs = self.weighs();
        let training = self.arch_train.batch(self.progress.rounds);
        let validation = self.validation.batch(self.progress.rounds);
        let omega = self.executor.tape().omega_len;
        let alpha = omega..self.theta.len();
        let moment = Moment {
            number: self.progress.rounds,
            epoch: started.record.epoch,
            epochs: self.settings.epochs,
        };
        let step = Step {
            executor: &mut self.executor,
            theta: &mut self.theta,
            alpha: &self.alpha,
            training,
            validation,
            sgd: &self.sgd,
            lr,
            moment,
        };
        let gradient = if weighs {
            SliceMut::Host(&mut self.alpha_gradient)
        } else {
            self.gradient.part_mut(alpha.clone())
        };
        let Stepped {
            report,
            follow,
            numbers,
        } = self.strategy.architecture_step(step, gradient)?;
        started.record.strategy = named(numbers);
        self.note(started, Found::Report(report))?;
        if !follow {
            return Ok(());
        }
        if weighs {
            let norm = norm_later(self.alpha_gradient.as_slice())?;
            self.note(started, Found::ArchitectureNorm(norm))?;
            let to = SliceMut::Host(&mut self.alpha);
            return self.adam.step(self.alpha_gradient.as_slice(), to);
        }
        let norm = norm_later(self.gradient.part(alpha.clone()))?;
        self.note(started, Found::ArchitectureNorm(norm))?;
        let gradient = self.gradient.part(alpha.clone());
        self.adam
            .step(gradient, self.theta.part_mut(alpha.clone()))?;
        match self.theta.part(alpha.clone()).note()? {
            Some(alpha) => self.note(started, Found::Alpha(alpha)),
            None => self.theta.part(alpha).copy_to(&mut self.alpha),
        }
    }

    /// True where the strategy weighs ops itself, and the end of θ is op weights.
    pub(super) fn weighs(&self) -> bool {
        self.settings.strategy.method().relaxation == Relaxation::Given
    }

    /// Adds to what a round found, and takes up what is known.
    pub(super) fn note(&mut self, started: &mut Started, found: Found) -> anyhow::Result<()> {
        started.found.push_back(found);
        self.take_up(started, false)
    }

    /// Takes up into the record what a round found, in order: all of it, or only what needs no waiting.
    fn take_up(&mut self, started: &mut Started, wait: bool) -> anyhow::Result<()> {
        while let Some(found) = started.found.pop_front() {
            if !wait && !found.is_known() {
                started.found.push_front(found);
                break;
            }
            self.write_down(found, &mut started.record)?;
        }
        Ok(())
    }

    fn write_down(&mut self, found: Found, record: &mut RoundRecord) -> anyhow::Result<()> {
        let round = record.round;
        let batch = self.settings.batch as f64;
        let mut trained = |loss: f64, right: usize| {
            let steps = self.settings.inner_steps as f64;
            record.loss_train += loss / steps;
            record.accuracy_train += right as f64 / batch / steps;
        };
        match found {
            Found::Step(found) => {
                let (outcome, norm) = found.value()?;
                self.finite(round, "the training loss", outcome.loss)?;
                trained(outcome.loss, outcome.top1);
                self.finite(round, "the norm of the weight gradient", norm)?;
                record.grad_norm = Some(norm);
                (self.progress.last_loss, self.progress.last_norm) = (outcome.loss, norm);
            }
            Found::Generation { found, step } => {
                let (generation, right) = found.value()?;
                self.finite(round, "the training loss", generation.loss)?;
                if step {
                    trained(generation.loss_before, right);
                }
                record.es_choice = Some(generation.choice);
                record.es_loss = Some(generation.loss);
                self.progress.last_loss = generation.loss;
            }
            Found::Report(report) => {
                let report = report.value()?;
                record.loss_val = Some(report.validation.loss);
                record.accuracy_val = Some(report.validation.top1 as f64 / batch);
                record.gamma = report.gamma;
                record.correction_ratio = report.correction_norm.map(|c| c / report.direct_norm);
                record.neumann_stopped = report.stopped;
                record.neumann_norms = report.norms;
                self.finite(round, "the validation loss", report.validation.loss)?;
                for &norm in &record.neumann_norms {
                    self.finite(round, "a norm of the hypergradient's series", norm)?;
                }
            }
            Found::ArchitectureNorm(norm) => {
                self.finite(round, "the architecture gradient", norm.value()?)?;
            }
            Found::Alpha(alpha) => self.alpha = alpha.value()?,
        }
        Ok(())
    }

    pub(super) fn finite(
        &self,
        round: u64,
        what: &'static str,
        value: f64,
    ) -> Result<(), SearchError> {
        if value.is_finite() {
            return Ok(());
        }
        let (last_loss, last_norm) = (self.progress.last_loss, self.progress.last_norm);
        Err(SearchError::NotFinite {
            round,
            what,
            value,
            last_loss,
            last_norm,
        })
    }
}

/// A strategy's numbers by name.
pub(super) fn named(numbers: Numbers) -> BTreeMap<String, f64> {
    let named = |(name, value): (&str, f64)| (name.to_owned(), value);
    numbers.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::settings;
    use crate::device::Device;
    use crate::search::settings::{Gamma, SearchSettings, StrategyKind, UnrolledProduct, Weights};
    use crate::space::Space;

    /// Rounds that run before the host looks at them.
    const AHEAD: usize = 2;

    fn search(settings: &SearchSettings) -> Search {
        Search::new(settings.clone()).expect("a GPU and digits")
    }

    fn timeless(record: RoundRecord) -> RoundRecord {
        RoundRecord {
            seconds: 0.0,
            ..record
        }
    }

    /// Every kind of step: the host waits once for all rounds that it settles together, and they are those that
    /// it would have seen one by one.
    #[test]
    fn rounds_on_a_gpu_wait_for_it_when_they_are_settled_and_not_before() {
        let Some(_turn) = crate::device::cuda::for_tests() else {
            return;
        };
        use StrategyKind::{DartsV1, DartsV2, Ndarts};
        use UnrolledProduct::{Exact, FiniteDifference};
        for (strategy, weights, gamma, unrolled_product) in [
            (Ndarts, Weights::Sgd, Gamma::Fixed(0.1), Exact),
            (Ndarts, Weights::SgdEs, Gamma::Auto, Exact),
            (DartsV1, Weights::Es, Gamma::Auto, Exact),
            (DartsV2, Weights::Sgd, Gamma::Auto, FiniteDifference),
        ] {
            let settings = SearchSettings {
                device: "cuda".into(),
                weights,
                gamma,
                unrolled_product,
                channels: 2,
                batch: 4,
                image_size: 4,
                crop_padding: 0,
                cutout: 0,
                ..settings(Space::NasBench201, strategy)
            };
            let what = format!("{strategy:?}, {weights:?}, {gamma:?}");
            let mut one_by_one = search(&settings);
            let mut ahead = search(&settings);
            let Device::Cuda(gpu) = ahead.device.clone() else {
                panic!("--device cuda");
            };
            // The first round plans, compiles and captures; the second captures again what it had captured
            // before it knew all the memory it needs.
            for _ in 0..2 {
                let expected = timeless(one_by_one.round().unwrap());
                assert_eq!(timeless(ahead.round().unwrap()), expected, "{what}");
            }
            let before = gpu.waits_and_captures();
            for _ in 0..AHEAD {
                assert_eq!(ahead.start_round().unwrap(), None, "{what}");
            }
            assert_eq!(gpu.waits_and_captures(), before, "{what}");
            for _ in 0..AHEAD {
                let found = ahead.settle_round().unwrap().expect("rounds were started");
                let expected = one_by_one.round().unwrap();
                assert_eq!(timeless(found), timeless(expected), "{what}");
                assert_eq!(ahead.alpha, one_by_one.alpha, "{what}");
            }
            assert_eq!(ahead.settle_round().unwrap(), None);
            assert_eq!(gpu.waits_and_captures(), (before.0 + 1, before.1), "{what}");
        }
    }
}
