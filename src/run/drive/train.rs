//! A training as the work of a run.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};

use super::{Entry, Observer, Work};
use crate::device::Device;
use crate::network::state_dict::Snapshot;
use crate::run::config::TrainConfig;
use crate::run::directory::RunDir;
use crate::run::log::{History, Line};
use crate::run::{atomic, evaluation, report};
use crate::train::record::{StepRecord, TrainEpochRecord};
use crate::train::{TrainError, Trainer};

/// How a sitting of a training ended.
pub type Outcome = super::Outcome<TrainEpochRecord>;

/// Starts a training in `out`; see [`super::start`].
///
/// # Errors
///
/// As there.
pub fn start(
    config: &TrainConfig,
    out: &Path,
    observer: &mut dyn Observer<Trainer>,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let text = config.to_toml()?;
    let work = || Trainer::new(config.train.clone());
    super::start(work, (&text, config.checkpoint_every), out, observer, stop)
}

/// Goes on with the training in `path`; `device` replaces the run's own. See [`super::resume`].
///
/// # Errors
///
/// As there.
pub fn resume(
    path: &Path,
    device: Option<String>,
    observer: &mut dyn Observer<Trainer>,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let work = |dir: &RunDir| {
        let mut config = TrainConfig::read(&dir.config_file())?;
        if let Some(device) = device {
            config.train.device = device;
        }
        Ok((Trainer::new(config.train)?, config.checkpoint_every))
    };
    super::resume(path, work, observer, stop)
}

/// Where a training goes when `--out` is not given: `runs/train-<space>-<data>-s<seed>`.
pub fn default_out(config: &TrainConfig, space: &str) -> PathBuf {
    let data = config.train.data.split(':').next().unwrap_or_default();
    PathBuf::from("runs").join(format!("train-{space}-{data}-s{}", config.train.seed))
}

impl Work for Trainer {
    type Round = StepRecord;
    type Epoch = TrainEpochRecord;

    fn rounds_per_epoch(&self) -> u64 {
        self.steps_per_epoch()
    }

    fn rounds_total(&self) -> u64 {
        self.steps_total()
    }

    /// Networks are trained on the CPU.
    fn device(&self) -> String {
        Device::Cpu.describe()
    }

    fn rounds_done(&self) -> u64 {
        self.steps_done()
    }

    fn round(&mut self) -> Result<Option<StepRecord>> {
        self.step().map(Some)
    }

    fn finish_epoch(&mut self) -> Result<TrainEpochRecord> {
        Trainer::finish_epoch(self)
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Trainer::snapshot(self)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        Trainer::restore(self, snapshot)
    }

    fn round_entry(record: &StepRecord) -> Option<Entry<'_>> {
        record.complete.then(|| Entry {
            line: Line::Step(record.clone()),
            scalars: vec![
                ("loss/train", record.loss_train),
                ("accuracy/train", record.accuracy_train),
                ("lr", record.lr),
                ("drop_path", record.drop_path),
                ("grad_norm", record.grad_norm),
            ],
        })
    }

    fn epoch_entry(record: &TrainEpochRecord) -> Entry<'_> {
        Entry {
            line: Line::TrainEpoch(record.clone()),
            scalars: vec![
                ("epoch/loss_train", record.loss_train),
                ("epoch/accuracy_train", record.accuracy_train),
                ("epoch/loss_test", record.loss_test),
                ("epoch/accuracy_test", record.accuracy_test),
                ("epoch/top5_test", record.top5_test),
            ],
        }
    }

    fn set_seconds(record: &mut TrainEpochRecord, seconds: f64) {
        record.seconds = seconds;
    }

    /// The genotype, what the test set says, and the report.
    fn write_results(&self, dir: &RunDir, _: &TrainEpochRecord) -> Result<()> {
        let text = format!("{}\n", self.settings().genotype);
        atomic::write(&dir.file("genotype.txt"), text.as_bytes())?;
        // After a resume of a finished run nothing was evaluated; the file of that epoch stands.
        if let Some(found) = self.evaluation() {
            evaluation::write(dir.path(), self.classes(), found)
                .context("the evaluation cannot be written")?;
        }
        report::write(dir.path()).map(|_| ())
    }

    fn last_epoch(history: History) -> Option<TrainEpochRecord> {
        history.train_epochs.into_iter().next_back()
    }

    fn astray(error: &anyhow::Error, _: Option<&StepRecord>) -> Option<String> {
        let TrainError::NotFinite { .. } = error.downcast_ref()?;
        Some(String::new())
    }
}
