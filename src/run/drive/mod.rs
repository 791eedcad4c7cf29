//! Carries a search or a training from its first round, or its last checkpoint, to its end.
//!
//! What is carried is a [`Work`]: [`search`] and [`train`] say how each makes rounds, what it logs
//! and which results it leaves; everything about files, checkpoints and stops is here once.

pub mod search;
pub mod train;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};

use super::checkpoint::{self, Position};
use super::directory::{self, RunDir};
use super::events::Events;
use super::log::{self, History, Line, Log};
use super::{BadUsage, atomic};
use crate::network::state_dict::Snapshot;

/// What a sitting carries on: rounds in epochs, that can be frozen after any round.
pub trait Work {
    /// What a round reports.
    type Round;
    /// What an epoch reports.
    type Epoch;
    /// Rounds in an epoch.
    fn rounds_per_epoch(&self) -> u64;
    /// Rounds in all.
    fn rounds_total(&self) -> u64;
    /// Rounds done.
    fn rounds_done(&self) -> u64;
    /// Where it computes, in a line.
    fn device(&self) -> String;
    /// Whether it is over; it may be before all rounds are done.
    fn finished(&self) -> bool {
        self.rounds_done() >= self.rounds_total()
    }
    /// Makes a round. Gives what it found, if it is known: a GPU may still be at it.
    ///
    /// # Errors
    /// A number that went astray.
    fn round(&mut self) -> Result<Option<Self::Round>>;
    /// What the oldest round found that was not known then; waits for it. None when all is told.
    ///
    /// # Errors
    /// A number that went astray.
    fn settle(&mut self) -> Result<Option<Self::Round>> {
        Ok(None)
    }
    /// Ends an epoch.
    ///
    /// # Errors
    /// A number that went astray.
    fn finish_epoch(&mut self) -> Result<Self::Epoch>;
    /// The state to go on from.
    ///
    /// # Errors
    /// The device's.
    fn snapshot(&self) -> Result<Snapshot>;
    /// Goes on from a state.
    ///
    /// # Errors
    /// A state of another network.
    fn restore(&mut self, snapshot: &Snapshot) -> Result<()>;
    /// What the log says of a round; none where it says nothing.
    fn round_entry(record: &Self::Round) -> Option<Entry<'_>>;
    /// What the log says of an epoch.
    fn epoch_entry(record: &Self::Epoch) -> Entry<'_>;
    /// Notes the seconds since the work began, over all sittings.
    fn set_seconds(record: &mut Self::Epoch, seconds: f64);
    /// Leaves the results of an epoch in the run directory, the report among them.
    ///
    /// # Errors
    /// A full disk.
    fn write_results(&self, dir: &RunDir, record: &Self::Epoch) -> Result<()>;
    /// The last epoch of a log.
    fn last_epoch(history: History) -> Option<Self::Epoch>;
    /// Whether an error is a number that went astray, and what the last round knows of it.
    fn astray(error: &anyhow::Error, last: Option<&Self::Round>) -> Option<String>;
}

/// A line of the log, and what TensorBoard plots of it.
pub struct Entry<'a> {
    /// The line.
    pub line: Line,
    /// Tags and values.
    pub scalars: Vec<(&'a str, f64)>,
}

/// Told of the work's progress as it goes.
pub trait Observer<W: Work> {
    /// Where the work computes, in a line.
    fn device(&mut self, _line: &str) {}
    /// Rounds done before this sitting, and rounds in all.
    fn begin(&mut self, done: u64, total: u64);
    /// A finished round, and the work as it stands.
    fn round(&mut self, record: &W::Round, work: &W);
    /// A finished epoch.
    fn epoch(&mut self, record: &W::Epoch);
}

/// How a sitting ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<E> {
    /// The work is done; its last epoch.
    Finished(Box<E>),
    /// Stopped as asked, with a checkpoint.
    Interrupted {
        /// Rounds done.
        round: u64,
    },
}

/// Starts a run in `out`, which must be free, with `config` as its `config.toml`. Nothing is written
/// before `work` has found the data, device and settings good.
///
/// # Errors
///
/// Bad settings or data, a directory in use, a full disk, or a loss that is no number.
pub fn start<W: Work>(
    work: impl FnOnce() -> Result<W>,
    (config, checkpoint_every): (&str, u64),
    out: &Path,
    observer: &mut dyn Observer<W>,
    stop: &AtomicBool,
) -> Result<Outcome<W::Epoch>> {
    RunDir::check_free(out)?;
    let work = work()?;
    let dir = RunDir::create(out, config)?;
    Sitting::fresh(dir, work, checkpoint_every)?.run(observer, stop)
}

/// Goes on with the run in `path` from its last checkpoint; `work` makes it anew, and says how many
/// rounds lie between checkpoints, from the run's own settings.
///
/// # Errors
///
/// As [`start`]; also a directory that is no run, or a damaged checkpoint.
pub fn resume<W: Work>(
    path: &Path,
    work: impl FnOnce(&RunDir) -> Result<(W, u64)>,
    observer: &mut dyn Observer<W>,
    stop: &AtomicBool,
) -> Result<Outcome<W::Epoch>> {
    let dir = RunDir::open(path).map_err(|error| match error.downcast::<BadUsage>() {
        Ok(BadUsage(message)) => BadUsage(format!("--resume: {message}")).into(),
        Err(error) => error,
    })?;
    let (mut work, checkpoint_every) = work(&dir)?;
    let Some(saved) = checkpoint::load(&dir.checkpoint())? else {
        dir.clear_records()?;
        return Sitting::fresh(dir, work, checkpoint_every)?.run(observer, stop);
    };
    let folder = dir.checkpoint();
    work.restore(&saved.snapshot)
        .with_context(|| format!("{}: cannot go on from this checkpoint", folder.display()))?;
    ensure!(
        work.rounds_done() == saved.round,
        "{}: expected a checkpoint of round {}, found the state of round {}",
        folder.display(),
        saved.round,
        work.rounds_done()
    );
    Sitting::resumed(dir, work, checkpoint_every, &saved.position)?.run(observer, stop)
}

/// A run in progress in this process.
struct Sitting<W: Work> {
    dir: RunDir,
    work: W,
    checkpoint_every: u64,
    log: Log,
    events: Events,
    events_file: String,
    began: Instant,
    /// Seconds of earlier sittings.
    seconds_before: f64,
    saved_round: Option<u64>,
    /// Rounds whose record is in the log.
    told: u64,
    last_round: Option<W::Round>,
}

/// Rounds that may run before the host looks at what they found: to look is to wait for the device.
const UNTOLD: u64 = 10;

impl<W: Work> Sitting<W> {
    fn fresh(dir: RunDir, work: W, checkpoint_every: u64) -> Result<Sitting<W>> {
        let events_file = directory::new_events_name();
        let mut log = Log::open(&dir.log_file())?;
        log.append(&Line::Start(log::Start {
            version: env!("CARGO_PKG_VERSION").into(),
            device: work.device(),
            time: directory::unix_seconds(),
            rounds_per_epoch: work.rounds_per_epoch(),
            rounds_total: work.rounds_total(),
        }))?;
        Sitting::open(dir, work, checkpoint_every, log, events_file, 0.0)
    }

    fn resumed(
        dir: RunDir,
        work: W,
        checkpoint_every: u64,
        position: &Position,
    ) -> Result<Sitting<W>> {
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
        let round = work.rounds_done();
        let mut sitting = Sitting::open(dir, work, checkpoint_every, log, name, position.seconds)?;
        sitting.saved_round = Some(round);
        Ok(sitting)
    }

    fn open(
        dir: RunDir,
        work: W,
        checkpoint_every: u64,
        log: Log,
        events_file: String,
        seconds_before: f64,
    ) -> Result<Sitting<W>> {
        let events = Events::open(&dir.file(&events_file))?;
        Ok(Sitting {
            told: work.rounds_done(),
            dir,
            work,
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

    fn run(
        mut self,
        observer: &mut dyn Observer<W>,
        stop: &AtomicBool,
    ) -> Result<Outcome<W::Epoch>> {
        let total = self.work.rounds_total();
        observer.device(&self.work.device());
        observer.begin(self.work.rounds_done(), total);
        let mut last_epoch = None;
        while !self.work.finished() {
            self.round(observer)?;
            let done = self.work.rounds_done();
            let epoch_ends = done.is_multiple_of(self.work.rounds_per_epoch());
            if epoch_ends {
                self.settle(observer)?;
                last_epoch = Some(self.end_epoch(observer)?);
            }
            let stopping = stop.load(Ordering::SeqCst);
            let due = self.checkpoint_every > 0 && done.is_multiple_of(self.checkpoint_every);
            if epoch_ends || stopping || due {
                self.settle(observer)?;
                self.checkpoint()?;
            } else if done - self.told >= UNTOLD {
                self.settle(observer)?;
            }
            if stopping && !self.work.finished() {
                return Ok(Outcome::Interrupted { round: done });
            }
        }
        let last = match last_epoch {
            Some(epoch) => epoch,
            None => self.finished_before()?,
        };
        Ok(Outcome::Finished(Box::new(last)))
    }

    fn round(&mut self, observer: &mut dyn Observer<W>) -> Result<()> {
        match self.work.round().map_err(|error| self.explain(error))? {
            Some(record) => self.tell(record, observer),
            None => Ok(()),
        }
    }

    /// Tells of all rounds that have been made.
    fn settle(&mut self, observer: &mut dyn Observer<W>) -> Result<()> {
        while let Some(record) = self.work.settle().map_err(|error| self.explain(error))? {
            self.tell(record, observer)?;
        }
        Ok(())
    }

    fn tell(&mut self, record: W::Round, observer: &mut dyn Observer<W>) -> Result<()> {
        self.told += 1;
        if let Some(entry) = W::round_entry(&record) {
            self.note(&entry)?;
        }
        observer.round(&record, &self.work);
        self.last_round = Some(record);
        Ok(())
    }

    fn note(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.log.append(&entry.line)?;
        self.events.scalars(self.told, &entry.scalars)
    }

    fn end_epoch(&mut self, observer: &mut dyn Observer<W>) -> Result<W::Epoch> {
        let mut record = self
            .work
            .finish_epoch()
            .map_err(|error| self.explain(error))?;
        W::set_seconds(&mut record, self.seconds());
        self.note(&W::epoch_entry(&record))?;
        self.work.write_results(&self.dir, &record)?;
        observer.epoch(&record);
        Ok(record)
    }

    fn checkpoint(&mut self) -> Result<()> {
        let round = self.work.rounds_done();
        if self.saved_round == Some(round) {
            return Ok(());
        }
        let position = Position {
            log_bytes: self.log.sync()?,
            events_file: self.events_file.clone(),
            events_bytes: self.events.sync()?,
            seconds: self.seconds(),
        };
        let snapshot = self.work.snapshot()?;
        checkpoint::save(&self.dir.checkpoint(), round, &snapshot, &position)?;
        self.saved_round = Some(round);
        Ok(())
    }

    /// A resume of a run that had ended: its last epoch, and the files that a kill may have spared.
    fn finished_before(&self) -> Result<W::Epoch> {
        let path = self.dir.log_file();
        let last = W::last_epoch(log::read(&path)?).with_context(|| {
            format!(
                "{}: expected the epochs of a finished run, found none",
                path.display()
            )
        })?;
        self.work.write_results(&self.dir, &last)?;
        Ok(last)
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.began.elapsed().as_secs_f64()
    }

    /// Adds where to go on from, and to a number that went astray what the last round knows.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let known = W::astray(&error, self.last_round.as_ref()).unwrap_or_default();
        let checkpoint = match self.saved_round {
            Some(round) => format!(
                "the checkpoint of round {round} stays in {}",
                self.dir.checkpoint().display()
            ),
            None => "no checkpoint was written yet".into(),
        };
        anyhow!("{error:#}{known}; {checkpoint}")
    }
}

/// The word that stands for a setting on the command line and in files.
pub(super) fn word(setting: &impl serde::Serialize) -> String {
    match serde_json::to_value(setting) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
