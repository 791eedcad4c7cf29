//! Training of a derived network: the published recipe of DARTS (Liu et al. 2019, section 3.2) on
//! the whole training set, judged on the test set after every epoch.
//!
//! SGD with momentum, a cosine schedule by epochs after an optional linear warm-up, weight decay and
//! clipping; an auxiliary head and drop path while training. [`Trainer`] can be frozen into a
//! [`Snapshot`] after any step; everything random is drawn from counters, so a restored training
//! goes on with the same bits.

pub mod evaluation;
pub mod export;
pub mod model;
pub mod record;
pub mod settings;

use crate::data::{Augment, Dataset, Loader, Stream, jitter_strengths};
use crate::device::Device;
use crate::device::random::{Philox, Purpose};
use crate::network::derived::{Derived, Design, Part, Recording};
use crate::network::state_dict::{NamedTensor, Snapshot};
use crate::optim::{Sgd, sgd::cosine};
use crate::space::Genotype;
use anyhow::{Context, ensure};
use evaluation::{Evaluation, evaluate};
use model::Model;
use record::{StepRecord, TrainEpochRecord};
use settings::TrainSettings;
use std::sync::Arc;
use std::time::Instant;

/// A failure that a caller tells apart.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss or a norm is not a finite number any more.
    #[error(
        "step {step}: {what} is {value}, expected a finite number (last finite loss {last_loss:.4}); \
         try a smaller --lr, a --clip, or --warmup-epochs"
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// What is not finite.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The last finite training loss.
        last_loss: f64,
    },
}

/// Sums over steps, for the means that records hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Sums {
    steps: u64,
    loss: f64,
    hits: u64,
    seconds: f64,
}

impl Sums {
    fn add(&mut self, loss: f64, hits: usize, seconds: f64) {
        self.steps += 1;
        self.loss += loss;
        self.hits += hits as u64;
        self.seconds += seconds;
    }

    fn loss(&self) -> f64 {
        self.loss / self.steps.max(1) as f64
    }

    fn accuracy(&self, batch: usize) -> f64 {
        self.hits as f64 / (self.steps.max(1) * batch as u64) as f64
    }
}

/// Counters of a training; the rest follows from them and the seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    steps: u64,
    line: Sums,
    epoch: Sums,
    best: f64,
    last_loss: f64,
}

/// A running training.
pub struct Trainer {
    settings: TrainSettings,
    data: Dataset,
    loader: Loader,
    model: Model,
    gradient: Vec<f32>,
    factors: Vec<f32>,
    sgd: Sgd,
    progress: Progress,
    last: Option<Evaluation>,
}

/// The device that a derived network runs on: the CPU, as drop path, running statistics and auxiliary
/// heads have no CUDA kernels.
///
/// # Errors
/// Any other word.
pub fn parse_device(name: &str) -> anyhow::Result<Device> {
    ensure!(
        name == "cpu",
        "--device: expected cpu, found `{name}`; drop path, running statistics and auxiliary heads have no \
         CUDA kernels in this build, so derived networks run on the CPU alone"
    );
    Ok(Device::Cpu)
}

/// The network that `settings` ask for on `data`.
///
/// # Errors
/// A genotype that is none, or images that are not square.
pub fn design(settings: &TrainSettings, data: &Dataset) -> anyhow::Result<(Genotype, Design)> {
    let genotype: Genotype = settings.genotype.parse()?;
    let [height, width] = data.test.size();
    ensure!(
        height == width,
        "--image-size: expected square images, found {height}x{width}; state a size to scale to"
    );
    let design = Design {
        channels: settings.channels,
        cells: settings.cells,
        classes: data.classes.len(),
        image_size: height,
        imagenet: settings.imagenet,
        auxiliary: settings.auxiliary,
    };
    Ok((genotype, design))
}

impl Trainer {
    /// Opens the data, records the network and draws its weights.
    ///
    /// # Errors
    /// Data that cannot be read, or settings that do not fit it or the genotype; the message names
    /// the flag or file.
    pub fn new(settings: TrainSettings) -> anyhow::Result<Trainer> {
        let device = parse_device(&settings.device)?;
        let s = &settings;
        let data = Dataset::open_resized(&s.data, [s.resize, s.image_size], &s.mean, &s.std)?;
        ensure!(
            (1..=data.train.len()).contains(&s.batch),
            "--batch: expected 1 to {} images (the training set), found {}",
            data.train.len(),
            s.batch
        );
        ensure!(
            !data.test.is_empty(),
            "--data {}: expected images in the test part, found none",
            s.data
        );
        let augment = Augment {
            resized_crop: if s.resize > 0 { s.image_size } else { 0 },
            crop_padding: s.crop_padding,
            flip: s.flip,
            jitter: jitter_strengths(&s.color_jitter)?,
            cutout: s.cutout,
        };
        augment.check(data.train.size())?;
        let (genotype, design) = design(s, &data)?;
        let recording = Recording {
            batch: s.batch,
            drop_path: s.drop_path > 0.0,
            auxiliary_weight: s.auxiliary_weight,
            smoothing: s.label_smoothing,
        };
        let model = Model::new(&genotype, &design, &recording, device.clone(), s.seed)?;
        let indices = (0..data.train.len() as u32).collect();
        let (images, augment) = (Arc::clone(&data.train), Some(augment));
        let loader = Loader::new(
            images,
            indices,
            s.batch,
            augment,
            data.mean,
            data.std,
            s.seed,
            Stream::Train,
        );
        let len = model.theta.len();
        Ok(Trainer {
            gradient: vec![0.0; len],
            factors: vec![1.0; model.factors() * s.batch],
            sgd: Sgd::new(&device, len, s.momentum, s.weight_decay, s.clip)?,
            progress: Progress::default(),
            last: None,
            loader,
            model,
            data,
            settings,
        })
    }

    /// The settings.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// The network's layers.
    pub fn derived(&self) -> &Derived {
        &self.model.derived
    }

    /// Trainable numbers of the network, without the auxiliary head's.
    pub fn parameters(&self) -> u64 {
        self.model.derived.parameter_count(Part::Body)
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.data.classes
    }

    /// Steps in a pass over the training set; images that fill no batch wait for another epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.loader.batches_per_epoch() as u64
    }

    /// Steps of the whole training.
    pub fn steps_total(&self) -> u64 {
        self.steps_per_epoch() * self.settings.epochs as u64
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.progress.steps
    }

    /// Learning rate of an epoch: linear from lr/W to lr over the W warm-up epochs, then a cosine
    /// over the others.
    fn learning_rate(&self, epoch: usize) -> f32 {
        let s = &self.settings;
        if epoch < s.warmup_epochs {
            return s.lr * (epoch + 1) as f32 / s.warmup_epochs as f32;
        }
        let rest = s.epochs - s.warmup_epochs;
        cosine(s.lr, s.lr_min, epoch - s.warmup_epochs, rest)
    }

    /// One step; the record is the mean over the steps since the last complete one.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] when the loss or the gradient's norm is no number.
    pub fn step(&mut self) -> anyhow::Result<StepRecord> {
        let start = Instant::now();
        let step = self.progress.steps;
        let epoch = (step / self.steps_per_epoch()) as usize;
        let drop_path = self.settings.drop_path * epoch as f32 / self.settings.epochs as f32;
        draw_factors(self.settings.seed, step, drop_path, &mut self.factors);
        let lr = self.learning_rate(epoch);
        let batch = self.loader.batch(step);
        let outcome = self.model.train(batch, &self.factors, &mut self.gradient)?;
        self.finite("the training loss", outcome.loss)?;
        let norm = self.sgd.step(lr, &self.gradient, &mut self.model.theta)?;
        let norm = norm.value()?;
        self.finite("the norm of the gradient", norm)?;
        let progress = &mut self.progress;
        progress.steps += 1;
        progress.last_loss = outcome.loss;
        let seconds = start.elapsed().as_secs_f64();
        progress.line.add(outcome.loss, outcome.top1, seconds);
        progress.epoch.add(outcome.loss, outcome.top1, seconds);
        let line = progress.line;
        let complete = line.steps >= self.settings.log_every as u64
            || self.progress.steps.is_multiple_of(self.steps_per_epoch());
        if complete {
            self.progress.line = Sums::default();
        }
        Ok(StepRecord {
            step: self.progress.steps,
            epoch,
            loss_train: line.loss(),
            accuracy_train: line.accuracy(self.settings.batch),
            lr: f64::from(lr),
            drop_path: f64::from(drop_path),
            grad_norm: norm,
            seconds: line.seconds,
            complete,
        })
    }

    fn finite(&self, what: &'static str, value: f64) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        Err(TrainError::NotFinite {
            step: self.progress.steps + 1,
            what,
            value,
            last_loss: self.progress.last_loss,
        })
    }

    /// The network on the test set, by its running statistics.
    ///
    /// # Errors
    /// The device's.
    pub fn evaluate(&mut self) -> anyhow::Result<&Evaluation> {
        let images = Arc::clone(&self.data.test);
        let found = evaluate(&mut self.model, &*images, self.data.mean, self.data.std)?;
        Ok(self.last.insert(found))
    }

    /// What the last [`Self::evaluate`] found.
    pub fn evaluation(&self) -> Option<&Evaluation> {
        self.last.as_ref()
    }

    /// Judges the network at the end of an epoch.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] when the test loss is no number.
    pub fn finish_epoch(&mut self) -> anyhow::Result<TrainEpochRecord> {
        let (loss_test, accuracy_test, top5_test) = {
            let found = self.evaluate()?;
            (found.loss, found.top1, found.top5)
        };
        self.finite("the test loss", loss_test)?;
        let sums = std::mem::take(&mut self.progress.epoch);
        self.progress.best = self.progress.best.max(accuracy_test);
        Ok(TrainEpochRecord {
            epoch: (self.progress.steps / self.steps_per_epoch()).saturating_sub(1) as usize,
            loss_train: sums.loss(),
            accuracy_train: sums.accuracy(self.settings.batch),
            loss_test,
            accuracy_test,
            top5_test,
            best_accuracy_test: self.progress.best,
            seconds: 0.0,
        })
    }

    /// Freezes the training between steps.
    ///
    /// # Errors
    /// The device's.
    pub fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let momentum = self.sgd.buffer.slice().to_vec()?;
        Ok(Snapshot {
            weights: self.model.tensors(),
            integers: self.model.integers(),
            optimizer: vec![NamedTensor {
                name: "sgd.momentum".into(),
                shape: vec![momentum.len()],
                data: momentum,
            }],
            state: serde_json::to_value(self.progress).expect("finite numbers serialise"),
        })
    }

    /// Continues from a snapshot of a training with the same settings.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; the message names it.
    pub fn restore(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        self.model.load(&snapshot.weights)?;
        let found = snapshot.optimizer.iter().find(|t| t.name == "sgd.momentum");
        let momentum = found.context("checkpoint: optimizer tensor `sgd.momentum` is missing")?;
        ensure!(
            momentum.data.len() == self.sgd.buffer.len(),
            "checkpoint: optimizer tensor `sgd.momentum`: expected {} elements, found {}; it belongs \
             to another network",
            self.sgd.buffer.len(),
            momentum.data.len()
        );
        self.sgd.buffer.slice_mut().write(&momentum.data)?;
        self.progress = serde_json::from_value(snapshot.state.clone()).context(
            "checkpoint: the counters cannot be read; it was not written by this program",
        )?;
        self.model.batches = self.progress.steps;
        Ok(())
    }
}

/// Drop path's factors of a step: 0 with probability `drop`, else 1/(1 − `drop`), so that the
/// expectation is 1. Element i is lane i % 4 of block i / 4 of the step's stream.
fn draw_factors(seed: u64, step: u64, drop: f32, factors: &mut [f32]) {
    if drop <= 0.0 {
        factors.fill(1.0);
        return;
    }
    let philox = Philox::new(seed, Purpose::DropPath);
    let kept = 1.0 / (1.0 - drop);
    for (block, four) in factors.chunks_mut(4).enumerate() {
        let draws = philox.uniform4(block as u64, step);
        for (factor, draw) in four.iter_mut().zip(draws) {
            *factor = if draw <= drop { 0.0 } else { kept };
        }
    }
}

#[cfg(test)]
mod tests;
