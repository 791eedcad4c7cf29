//! The search: rounds of weight steps and one architecture step, on two halves of the training set.
//!
//! [`Search`] owns the supernet, the data and the optimisers, makes rounds ([`round`]), and can be frozen into a
//! [`Snapshot`] after any of them; everything random is drawn from counters, so a restored search continues with
//! the same bits. How ops are weighed and what an architecture step does is the [`strategies`]'.

mod progressive;
pub mod record;
mod round;
pub mod settings;
pub mod setup;
pub mod strategies;
mod surrogate;
pub mod tabular;
mod weights;

use crate::autograd::{Executor, Mode};
use crate::data::{Batch, Dataset, Loader, Stream, evaluation_batch};
use crate::device::{Device, Vector};
use crate::network::Supernet;
use crate::network::parameters::{Parameter, initial_theta_of_stage};
use crate::network::state_dict::NamedTensor;
pub use crate::network::state_dict::{Snapshot, load_tensors, state_tensors};
use crate::ops::relax::Relaxation;
use crate::optim::{Adam, Population, SecondMoment, Sgd, evolution};
use crate::space::Genotype;
use anyhow::{Context, ensure};
use record::{EpochRecord, OpWeights};
use round::Rounds;
use settings::SearchSettings;
use setup::Setup;
use std::time::Instant;
use strategies::{Design, Judge, Moment, Numbers, Strategy, strategy};

/// A failure that a caller tells apart.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A loss or a norm is not a finite number any more.
    #[error(
        "round {round}: {what} is {value}, expected a finite number (last finite loss {last_loss:.4}, \
         gradient norm {last_norm:.4}); try a smaller --lr, a --clip, or a smaller --gamma"
    )]
    NotFinite {
        /// The round, from 1.
        round: u64,
        /// What is not finite.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The last finite training loss.
        last_loss: f64,
        /// The last finite gradient norm.
        last_norm: f64,
    },
}

/// Counters of a search; the rest follows from them and the seed.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    rounds: u64,
    adam_steps: u64,
    seconds: f64,
    last_loss: f64,
    last_norm: f64,
    /// Of the last epoch after the warm-up.
    genotype: Option<String>,
    /// Epochs before that one with the same genotype, in a row.
    stable: usize,
}

/// A running search.
pub struct Search {
    settings: SearchSettings,
    data: Dataset,
    validation_half: Vec<u32>,
    train: Loader,
    validation: Loader,
    arch_train: Loader,
    evolution: Loader,
    device: Device,
    device_line: String,
    executor: Executor,
    parameters: Vec<Parameter>,
    theta: Vector,
    /// α on the host, as of the last round that was settled; the end of θ, too, where the tape relaxes it.
    alpha: Vec<f32>,
    gradient: Vector,
    /// dα where a strategy weighs ops itself: α is the host's then.
    alpha_gradient: Vec<f32>,
    evolution_scratch: evolution::Scratch,
    population: Population,
    rounds: Rounds,
    sgd: Sgd,
    adam: Adam,
    strategy: Box<dyn Strategy>,
    /// The supernet that is recorded.
    design: Design,
    progress: Progress,
}

/// What begins with a supernet: its vectors and optimisers.
struct Begun {
    executor: Executor,
    parameters: Vec<Parameter>,
    theta: Vector,
    alpha: Vec<f32>,
    gradient: Vector,
    alpha_gradient: Vec<f32>,
    sgd: Sgd,
    adam: Adam,
}

impl Begun {
    fn new(
        s: &SearchSettings,
        device: &Device,
        supernet: Supernet,
        design: &Design,
    ) -> anyhow::Result<Begun> {
        let omega = supernet.tape.omega_len;
        let theta = initial_theta_of_stage(&supernet.parameters, s.seed, design.stage);
        let betas = [s.arch_beta1, s.arch_beta2];
        let len = theta.len() - omega;
        // Who weighs ops draws by α on the host.
        let weighs = s.strategy.method().relaxation == Relaxation::Given;
        let adam = Adam::new(
            if weighs { &Device::Cpu } else { device },
            len,
            s.arch_lr,
            betas,
            s.arch_weight_decay,
        )?;
        Ok(Begun {
            gradient: Vector::zeros(device, theta.len())?,
            alpha_gradient: vec![0.0; if weighs { len } else { 0 }],
            sgd: Sgd::new(device, omega, s.momentum, s.weight_decay, s.clip)?,
            adam: adam.grouped(match s.arch_second_moment {
                SecondMoment::Element => 1,
                SecondMoment::Edge => design.variant.op_names(s.space).len(),
            }),
            executor: Executor::with_precision(supernet.tape, device.clone(), s.precision)?,
            parameters: supernet.parameters,
            alpha: theta[omega..].to_vec(),
            theta: Vector::new(device, theta)?,
        })
    }
}

impl Search {
    /// Opens the data, records the supernet and draws the initial weights.
    ///
    /// # Errors
    /// Data that cannot be read, or settings that do not fit it; the message names the flag or file.
    pub fn new(settings: SearchSettings) -> anyhow::Result<Search> {
        let s = &settings;
        if let Err((setting, problem)) = s.strategy.check(s) {
            anyhow::bail!("--{setting}: {problem}");
        }
        let asked = strategies::device(s.space, &s.device).map_err(anyhow::Error::msg)?;
        let (device, device_line) = Device::choose(asked)?;
        let strategy = strategy(s);
        let design = strategy.design(s);
        let setup = Setup::with(s, design.cells, &design.variant)?;
        let [train, validation, arch_train, evolution] = [
            Stream::Train,
            Stream::Validation,
            Stream::ArchTrain,
            Stream::Evolution,
        ]
        .map(|stream| setup.loader(stream));
        let begun = Begun::new(s, &device, setup.supernet, &design)?;
        Ok(Search {
            train,
            validation,
            arch_train,
            evolution,
            evolution_scratch: evolution::Scratch::default(),
            population: Population::default(),
            rounds: Rounds::default(),
            strategy,
            design,
            executor: begun.executor,
            parameters: begun.parameters,
            theta: begun.theta,
            alpha: begun.alpha,
            gradient: begun.gradient,
            alpha_gradient: begun.alpha_gradient,
            sgd: begun.sgd,
            adam: begun.adam,
            device,
            device_line,
            progress: Progress {
                last_loss: f64::NAN,
                last_norm: f64::NAN,
                ..Progress::default()
            },
            validation_half: setup.validation_half,
            data: setup.data,
            settings,
        })
    }

    /// Records the supernet that the strategy wants now, if it is another one. Weights, α and optimisers begin
    /// anew.
    fn follow_design(&mut self) -> anyhow::Result<()> {
        let s = &self.settings;
        let design = self.strategy.design(s);
        if design == self.design {
            return Ok(());
        }
        let supernet = setup::record(s, &self.data, design.cells, &design.variant)?;
        let begun = Begun::new(s, &self.device, supernet, &design)?;
        self.executor = begun.executor;
        self.parameters = begun.parameters;
        self.theta = begun.theta;
        self.alpha = begun.alpha;
        self.gradient = begun.gradient;
        self.alpha_gradient = begun.alpha_gradient;
        self.sgd = begun.sgd;
        self.adam = begun.adam;
        self.evolution_scratch = evolution::Scratch::default();
        self.population = Population::default();
        self.design = design;
        Ok(())
    }

    /// The settings.
    pub fn settings(&self) -> &SearchSettings {
        &self.settings
    }

    /// One line: where it computes, and of a GPU that was not taken, why.
    pub fn device_line(&self) -> &str {
        &self.device_line
    }

    /// Rounds in a pass over the training half: T batches each, at least one.
    pub fn rounds_per_epoch(&self) -> u64 {
        (self.train.batches_per_epoch() / self.settings.inner_steps).max(1) as u64
    }

    /// True when all rounds are done, or the genotype has been stable for as long as the settings ask.
    pub fn finished(&self) -> bool {
        let epochs = self.progress.rounds / self.rounds_per_epoch();
        self.settings
            .end_after(epochs as usize, self.progress.stable)
    }

    /// Rounds of the whole search, unless a stable genotype ends it before.
    pub fn rounds_total(&self) -> u64 {
        self.rounds_per_epoch() * self.settings.epochs as u64
    }

    /// Rounds done.
    pub fn rounds_done(&self) -> u64 {
        self.progress.rounds
    }

    fn omega(&self) -> usize {
        self.executor.tape().omega_len
    }

    /// Whether the architecture is trained in an epoch.
    fn is_warm(&self, epoch: usize) -> bool {
        let s = &self.settings;
        epoch >= s.warmup_epochs && !self.strategy.holds(epoch, s.epochs)
    }

    /// The supernet's loss and accuracy over whole batches of the validation half, with each batch's
    /// own statistics in batch norm (the search network keeps no running ones).
    fn evaluate(&mut self) -> anyhow::Result<(f64, f64)> {
        if let Some(weighting) = self.strategy.shown(&self.alpha) {
            weighting.apply(&mut self.executor, &mut self.theta)?;
        }
        let batch = self.settings.batch;
        let mut outcomes = Vec::new();
        let half = std::mem::take(&mut self.validation_half);
        for indices in half.chunks_exact(batch) {
            let images = self.data.train.as_ref();
            let Batch { images, labels } =
                evaluation_batch(images, indices, self.data.mean, self.data.std);
            self.executor.load(&images, &labels)?;
            let outcome = self.executor.start_forward(Mode::Evaluate, &self.theta)?;
            outcomes.push(outcome);
        }
        self.validation_half = half;
        let count = outcomes.len() as f64;
        let (mut loss, mut hits) = (0.0, 0);
        for outcome in outcomes {
            let outcome = outcome.value()?;
            loss += outcome.loss;
            hits += outcome.top1;
        }
        Ok((loss / count, hits as f64 / (count * batch as f64)))
    }

    /// Evaluates the supernet and derives the genotype, at the end of an epoch.
    ///
    /// # Errors
    /// [`SearchError::NotFinite`] when the loss is no number.
    ///
    /// # Panics
    /// A round that is not settled.
    pub fn finish_epoch(&mut self) -> anyhow::Result<EpochRecord> {
        assert!(self.rounds.settled(), "rounds are settled first");
        let start = Instant::now();
        let epoch = (self.progress.rounds / self.rounds_per_epoch()).saturating_sub(1) as usize;
        let numbers = self.end_epoch(epoch)?;
        let (loss_val, accuracy_val) = self.evaluate()?;
        self.finite(self.progress.rounds + 1, "the validation loss", loss_val)?;
        let genotype = self.genotype().to_string();
        if self.is_warm(epoch) {
            let same = self.progress.genotype.as_ref() == Some(&genotype);
            self.progress.stable = if same { self.progress.stable + 1 } else { 0 };
            self.progress.genotype = Some(genotype.clone());
        }
        self.progress.seconds += start.elapsed().as_secs_f64();
        Ok(EpochRecord {
            epoch,
            loss_val,
            accuracy_val,
            genotype,
            op_weights: self.op_weights(),
            stable: self.progress.stable,
            strategy: round::named(numbers),
            seconds: self.progress.seconds,
        })
    }

    fn end_epoch(&mut self, epoch: usize) -> anyhow::Result<Numbers> {
        let moment = Moment {
            number: epoch as u64,
            epoch,
            epochs: self.settings.epochs,
        };
        let mut judge = Judge {
            executor: &mut self.executor,
            theta: &mut self.theta,
            data: &self.data,
            half: &self.validation_half,
            batch: self.settings.batch,
        };
        self.strategy.end_epoch(&mut judge, moment, &self.alpha)
    }

    fn alphas(&self) -> impl Iterator<Item = (&Parameter, &[f32])> {
        self.parameters.iter().filter(|p| p.is_alpha()).map(|p| {
            let span = p.span();
            let first = span.offset - self.omega();
            (p, &self.alpha[first..first + span.len])
        })
    }

    /// The genotype that the search would end with now, by the strategy's published rule.
    pub fn genotype(&self) -> Genotype {
        let alphas: Vec<_> = self.alphas().map(|(p, a)| (p.name.as_str(), a)).collect();
        self.strategy.genotype(self.settings.space, &alphas)
    }

    /// What the strategy weighs the ops by, for each α.
    pub fn op_weights(&self) -> Vec<OpWeights> {
        let ops = self.design.variant.op_names(self.settings.space).len();
        let weights = self.strategy.op_weights(ops, &self.alpha);
        let omega = self.omega();
        let of = |p: &Parameter| {
            let span = p.span();
            let first = span.offset - omega;
            let rows = weights[first..first + span.len].chunks_exact(ops);
            OpWeights {
                name: p.name.clone(),
                rows: rows.map(<[f32]>::to_vec).collect(),
            }
        };
        let matrices = self.settings.space.alphas().iter();
        let recorded = matrices.filter_map(|m| self.parameters.iter().find(|p| p.name == m.name));
        recorded.map(of).collect()
    }

    /// Freezes the search between rounds.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Panics
    /// A round that is not settled.
    pub fn snapshot(&self) -> anyhow::Result<Snapshot> {
        assert!(self.rounds.settled(), "rounds are settled first");
        let vector = |name: &str, data: Vec<f32>| NamedTensor {
            name: name.to_owned(),
            shape: vec![data.len()],
            data,
        };
        let mut theta = self.theta.slice().to_vec()?;
        theta[self.omega()..].copy_from_slice(&self.alpha);
        Ok(Snapshot {
            weights: state_tensors(&self.parameters, &theta),
            integers: Vec::new(),
            optimizer: vec![
                vector("sgd.momentum", self.sgd.buffer.slice().to_vec()?),
                vector("adam.m", self.adam.m.slice().to_vec()?),
                vector("adam.v", self.adam.v.slice().to_vec()?),
                vector("strategy", self.strategy.state()?),
            ],
            state: serde_json::to_value(Progress {
                adam_steps: self.adam.steps,
                // JSON has no NaN: before the first loss, zero.
                last_loss: finite_or_zero(self.progress.last_loss),
                last_norm: finite_or_zero(self.progress.last_norm),
                ..self.progress.clone()
            })
            .expect("numbers serialise"),
        })
    }

    /// Continues from a snapshot of a search with the same settings.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; the message names it.
    pub fn restore(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        self.rounds = Rounds::default();
        let find = |name: &str| {
            let found = snapshot.optimizer.iter().find(|t| t.name == name);
            found.with_context(|| format!("checkpoint: optimizer tensor `{name}` is missing"))
        };
        // First, because the strategy says which supernet the other tensors are of.
        let state = &find("strategy")?.data;
        ensure!(
            self.weighs() || state.is_empty() || state.len() == self.theta.len(),
            "checkpoint: optimizer tensor `strategy`: expected 0 or {} elements, found {}",
            self.theta.len(),
            state.len()
        );
        self.strategy.restore(&self.device, state)?;
        self.follow_design()?;
        let mut theta = vec![0.0; self.theta.len()];
        load_tensors(&self.parameters, &snapshot.weights, &mut theta)?;
        self.theta.slice_mut().write(&theta)?;
        self.alpha = theta[self.omega()..].to_vec();
        for (name, to) in [
            ("sgd.momentum", &mut self.sgd.buffer),
            ("adam.m", &mut self.adam.m),
            ("adam.v", &mut self.adam.v),
        ] {
            let data = &find(name)?.data;
            ensure!(
                data.len() == to.len(),
                "checkpoint: optimizer tensor `{name}`: expected {} elements, found {}; it belongs to \
                 another network",
                to.len(),
                data.len()
            );
            to.slice_mut().write(data)?;
        }
        self.progress = serde_json::from_value(snapshot.state.clone()).context(
            "checkpoint: the counters cannot be read; it was not written by this program",
        )?;
        self.adam.steps = self.progress.adam_steps;
        Ok(())
    }
}

fn finite_or_zero(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}
