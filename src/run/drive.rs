//! Carries a search from its first round, or its last checkpoint, to its end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};

use super::checkpoint::{self, Position};
use super::config::RunConfig;
use super::directory::{self, RunDir};
use super::events::Events;
use super::log::{self, Line, Log};
use super::{BadUsage, atomic, report};
use crate::search::record::{EpochRecord, RoundRecord};
use crate::search::{Search, SearchError};
use crate::space::Genotype;

/// Told of a search's progress as it goes.
pub trait Observer {
    /// Rounds done before this sitting, and rounds in all.
    fn begin(&mut self, done: u64, total: u64);
    /// A finished round, and the genotype that α says now.
    fn round(&mut self, record: &RoundRecord, genotype: &Genotype);
    /// A finished epoch.
    fn epoch(&mut self, record: &EpochRecord);
}

/// How a sitting ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The search is done; its last epoch.
    Finished(Box<EpochRecord>),
    /// Stopped as asked, with a checkpoint.
    Interrupted {
        /// Rounds done.
        round: u64,
    },
}

/// Starts a run in `out`, which must be free. Nothing is written before the data, device and
/// settings have proven good.
///
/// # Errors
///
/// Bad settings or data, a directory in use, a full disk, or a loss that is no number.
pub fn start(
    config: &RunConfig,
    out: &Path,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome> {
    RunDir::check_free(out)?;
    let search = Search::new(config.search.clone())?;
    let dir = RunDir::create(out, config)?;
    Sitting::fresh(dir, search, config.checkpoint_every)?.run(observer, stop)
}

/// Goes on with the run in `path` from its last checkpoint; `device` replaces the run's own.
///
/// # Errors
///
/// As [`start`]; also a directory that is no run, or a damaged checkpoint.
pub fn resume(
    path: &Path,
    device: Option<String>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let dir = RunDir::open(path).map_err(|error| match error.downcast::<BadUsage>() {
        Ok(BadUsage(message)) => BadUsage(format!("--resume: {message}")).into(),
        Err(error) => error,
    })?;
    let mut config = RunConfig::read(&dir.config_file())?;
    if let Some(device) = device {
        config.search.device = device;
    }
    let mut search = Search::new(config.search)?;
    let Some(saved) = checkpoint::load(&dir.checkpoint())? else {
        dir.clear_records()?;
        return Sitting::fresh(dir, search, config.checkpoint_every)?.run(observer, stop);
    };
    let folder = dir.checkpoint();
    search
        .restore(&saved.snapshot)
        .with_context(|| format!("{}: cannot go on from this checkpoint", folder.display()))?;
    ensure!(
        search.rounds_done() == saved.round,
        "{}: expected a checkpoint of round {}, found the state of round {}",
        folder.display(),
        saved.round,
        search.rounds_done()
    );
    Sitting::resumed(dir, search, config.checkpoint_every, &saved.position)?.run(observer, stop)
}

/// A run in progress in this process.
struct Sitting {
    dir: RunDir,
    search: Search,
    checkpoint_every: u64,
    log: Log,
    events: Events,
    events_file: String,
    began: Instant,
    /// Seconds of earlier sittings.
    seconds_before: f64,
    saved_round: Option<u64>,
    last_round: Option<RoundRecord>,
}

impl Sitting {
    fn fresh(dir: RunDir, search: Search, checkpoint_every: u64) -> Result<Sitting> {
        let events_file = directory::new_events_name();
        let mut log = Log::open(&dir.log_file())?;
        log.append(&Line::Start(log::Start {
            version: env!("CARGO_PKG_VERSION").into(),
            time: directory::unix_seconds(),
            rounds_per_epoch: search.rounds_per_epoch(),
            rounds_total: search.rounds_total(),
        }))?;
        Sitting::open(dir, search, checkpoint_every, log, events_file, 0.0)
    }

    fn resumed(
        dir: RunDir,
        search: Search,
        checkpoint_every: u64,
        position: &Position,
    ) -> Result<Sitting> {
        ensure!(
            directory::is_events_name(&position.events_file),
            "{}: expected the name of an event file, found `{}`",
            dir.checkpoint().display(),
            position.events_file
        );
        atomic::truncate(&dir.log_file(), position.log_bytes)?;
        let events = dir.file(&position.events_file);
        // Event files only mirror the log, and people delete them: then a new one begins here.
        if events.exists() {
            atomic::truncate(&events, position.events_bytes)?;
        }
        let log = Log::open(&dir.log_file())?;
        let name = position.events_file.clone();
        let round = search.rounds_done();
        let mut sitting =
            Sitting::open(dir, search, checkpoint_every, log, name, position.seconds)?;
        sitting.saved_round = Some(round);
        Ok(sitting)
    }

    fn open(
        dir: RunDir,
        search: Search,
        checkpoint_every: u64,
        log: Log,
        events_file: String,
        seconds_before: f64,
    ) -> Result<Sitting> {
        let events = Events::open(&dir.file(&events_file))?;
        Ok(Sitting {
            dir,
            search,
            checkpoint_every,
            log,
            events,
            events_file,
            began: Instant::now(),
            seconds_before,
            saved_round: None,
            last_round: None,
        })
    }

    fn run(mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
        let total = self.search.rounds_total();
        observer.begin(self.search.rounds_done(), total);
        let mut last_epoch = None;
        while self.search.rounds_done() < total {
            self.round(observer)?;
            let done = self.search.rounds_done();
            let epoch_ends = done.is_multiple_of(self.search.rounds_per_epoch());
            if epoch_ends {
                last_epoch = Some(self.end_epoch(observer)?);
            }
            let stopping = stop.load(Ordering::SeqCst);
            let due = self.checkpoint_every > 0 && done.is_multiple_of(self.checkpoint_every);
            if epoch_ends || stopping || due {
                self.checkpoint()?;
            }
            if stopping && done < total {
                return Ok(Outcome::Interrupted { round: done });
            }
        }
        let last = match last_epoch {
            Some(epoch) => epoch,
            None => self.finished_before()?,
        };
        Ok(Outcome::Finished(Box::new(last)))
    }

    fn round(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let record = self.search.round().map_err(|error| self.explain(error))?;
        self.log.append(&Line::Round(record.clone()))?;
        self.events.scalars(record.round, &round_scalars(&record))?;
        observer.round(&record, &self.search.genotype());
        self.last_round = Some(record);
        Ok(())
    }

    fn end_epoch(&mut self, observer: &mut dyn Observer) -> Result<EpochRecord> {
        let mut record = self
            .search
            .finish_epoch()
            .map_err(|error| self.explain(error))?;
        record.seconds = self.seconds();
        self.log.append(&Line::Epoch(record.clone()))?;
        let scalars = [
            ("epoch/loss_val", record.loss_val),
            ("epoch/accuracy_val", record.accuracy_val),
        ];
        self.events.scalars(self.search.rounds_done(), &scalars)?;
        self.write_results(&record)?;
        observer.epoch(&record);
        Ok(record)
    }

    /// The genotype in both forms, and the report.
    fn write_results(&self, record: &EpochRecord) -> Result<()> {
        let genotype = self.search.genotype();
        let mut json = serde_json::to_vec_pretty(&genotype)?;
        json.push(b'\n');
        atomic::write(&self.dir.file("genotype.json"), &json)?;
        let text = format!("{}\n", record.genotype);
        atomic::write(&self.dir.file("genotype.txt"), text.as_bytes())?;
        report::write(self.dir.path()).map(|_| ())
    }

    fn checkpoint(&mut self) -> Result<()> {
        let round = self.search.rounds_done();
        if self.saved_round == Some(round) {
            return Ok(());
        }
        let position = Position {
            log_bytes: self.log.sync()?,
            events_file: self.events_file.clone(),
            events_bytes: self.events.sync()?,
            seconds: self.seconds(),
        };
        let snapshot = self.search.snapshot()?;
        checkpoint::save(&self.dir.checkpoint(), round, &snapshot, &position)?;
        self.saved_round = Some(round);
        Ok(())
    }

    /// A resume of a run that had ended: its last epoch, and the files that a kill may have spared.
    fn finished_before(&self) -> Result<EpochRecord> {
        let path = self.dir.log_file();
        let epochs = log::read(&path)?.epochs;
        let last = epochs.into_iter().next_back().with_context(|| {
            format!(
                "{}: expected the epochs of a finished run, found none",
                path.display()
            )
        })?;
        self.write_results(&last)?;
        Ok(last)
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.began.elapsed().as_secs_f64()
    }

    /// Adds to a number that went astray the last norms of the series, and where to go on from.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        if !matches!(error.downcast_ref(), Some(SearchError::NotFinite { .. })) {
            return error;
        }
        let norms = match &self.last_round {
            Some(record) if !record.neumann_norms.is_empty() => {
                format!("; last ‖v_k‖ {:.4?}", record.neumann_norms)
            }
            _ => String::new(),
        };
        let checkpoint = match self.saved_round {
            Some(round) => format!(
                "the checkpoint of round {round} stays in {}",
                self.dir.checkpoint().display()
            ),
            None => "no checkpoint was written yet".into(),
        };
        anyhow!("{error}{norms}; {checkpoint}")
    }
}

/// What TensorBoard plots of a round.
fn round_scalars(record: &RoundRecord) -> Vec<(&'static str, f64)> {
    let mut scalars = vec![
        ("loss/train", record.loss_train),
        ("accuracy/train", record.accuracy_train),
        ("lr", record.lr),
        ("seconds_per_round", record.seconds),
    ];
    let optional = [
        ("loss/val", record.loss_val),
        ("accuracy/val", record.accuracy_val),
        ("grad_norm", record.grad_norm),
        ("neumann/gamma", record.gamma),
        ("neumann/norm_first", record.neumann_norms.first().copied()),
        ("neumann/norm_last", record.neumann_norms.last().copied()),
        ("neumann/correction_ratio", record.correction_ratio),
        ("es/loss", record.es_loss),
    ];
    scalars.extend(
        optional
            .into_iter()
            .filter_map(|(tag, value)| Some((tag, value?))),
    );
    scalars
}

/// Where a run goes when `--out` is not given: `runs/<space>-<strategy>-<data>-s<seed>`.
pub fn default_out(config: &RunConfig) -> PathBuf {
    let settings = &config.search;
    let data = settings.data.split(':').next().unwrap_or_default();
    PathBuf::from("runs").join(format!(
        "{}-{}-{data}-s{}",
        settings.space,
        word(&settings.strategy),
        settings.seed
    ))
}

/// The word that stands for a setting on the command line and in files.
pub(super) fn word(setting: &impl serde::Serialize) -> String {
    match serde_json::to_value(setting) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
