//! `log.jsonl`: one JSON object a line, tagged by `kind`: `start`, then a `round` each round and an
//! `epoch` each epoch of a search; a `step` every few steps and a `train-epoch` each epoch of a
//! training. Appended to as the search goes; the checkpoint records its length, and a
//! resume cuts it back to that, so the log of an interrupted run is the log of an unbroken one.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::search::record::{EpochRecord, RoundRecord};
use crate::train::record::{StepRecord, TrainEpochRecord};

/// What opens a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Version of `ndarts` that started the run.
    pub version: String,
    /// Where it computes, as `ndarts devices` describes it; empty in a log of an earlier version.
    #[serde(default)]
    pub device: String,
    /// Unix time of the start, seconds.
    pub time: u64,
    /// Rounds in an epoch.
    pub rounds_per_epoch: u64,
    /// Rounds of the whole search.
    pub rounds_total: u64,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Line {
    /// The first line.
    Start(Start),
    /// A finished round.
    Round(RoundRecord),
    /// A finished epoch.
    Epoch(EpochRecord),
    /// Steps of a training.
    Step(StepRecord),
    /// A finished epoch of a training.
    TrainEpoch(TrainEpochRecord),
}

/// The log of a run in progress.
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Opens `path` at its end, creating it if need be.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for appending.
    pub fn open(path: &Path) -> Result<Log> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("{}: cannot be opened for appending", path.display()))?;
        let length = file.metadata()?.len();
        Ok(Log {
            path: path.to_path_buf(),
            file,
            length,
        })
    }

    /// Appends one line.
    ///
    /// # Errors
    ///
    /// The disk is full or the file cannot be written.
    pub fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line).context("a log line cannot be formed")?;
        text.push(b'\n');
        self.file
            .write_all(&text)
            .with_context(|| format!("{}: cannot be appended to", self.path.display()))?;
        self.length += text.len() as u64;
        Ok(())
    }

    /// Makes what was appended durable, and returns the length in bytes.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn sync(&mut self) -> Result<u64> {
        self.file
            .sync_data()
            .with_context(|| format!("{}: cannot be synced to disk", self.path.display()))?;
        Ok(self.length)
    }
}

/// Rounds and epochs of a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// What opened the log.
    pub start: Option<Start>,
    /// Rounds, in order.
    pub rounds: Vec<RoundRecord>,
    /// Epochs, in order.
    pub epochs: Vec<EpochRecord>,
    /// Steps of a training, in order.
    pub steps: Vec<StepRecord>,
    /// Epochs of a training, in order.
    pub train_epochs: Vec<TrainEpochRecord>,
}

/// Reads a log. A last line without its newline is one that a kill cut short; it is left out.
///
/// # Errors
///
/// The file cannot be read, or a line is not one of ours; the message names file and line.
pub fn read(path: &Path) -> Result<History> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("{shown}: expected the log of a run, but it cannot be read as text")
    })?;
    parse(&text).with_context(|| format!("{shown}: expected the log of a run"))
}

/// Reads the lines of a log; see [`read`].
///
/// # Errors
///
/// A whole line that is none of [`Line`]'s; the message gives its number.
pub fn parse(text: &str) -> Result<History> {
    let mut history = History::default();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    for (index, text) in whole.lines().enumerate() {
        let broken = |error| {
            anyhow!(
                "found line {} that is no record of ours: {error}",
                index + 1
            )
        };
        let mut line: Value = serde_json::from_str(text).map_err(broken)?;
        if !drop_unwritable_numbers(&mut line) {
            continue;
        }
        match serde_json::from_value(line).map_err(broken)? {
            Line::Start(start) => history.start = Some(start),
            Line::Round(round) => history.rounds.push(round),
            Line::Epoch(epoch) => history.epochs.push(epoch),
            Line::Step(step) => history.steps.push(step),
            Line::TrainEpoch(epoch) => history.train_epochs.push(epoch),
        }
    }
    Ok(history)
}

/// JSON has no word for infinity: it stands as null. Norms that grew beyond all bounds are left
/// out; a record whose loss did is nothing to draw, and the answer is false.
fn drop_unwritable_numbers(line: &mut Value) -> bool {
    if let Some(norms) = line.get_mut("neumann_norms").and_then(Value::as_array_mut) {
        norms.retain(|norm| !norm.is_null());
    }
    let needed: &[&str] = match line.get("kind").and_then(Value::as_str) {
        Some("round") => &["loss_train", "accuracy_train"],
        Some("epoch") => &["loss_val", "accuracy_val"],
        _ => &[],
    };
    !needed
        .iter()
        .any(|key| line.get(key).is_some_and(Value::is_null))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::search::record::OpWeights;
    use proptest::prelude::*;

    pub(crate) fn round(number: u64) -> RoundRecord {
        RoundRecord {
            round: number,
            epoch: 0,
            loss_train: 1.0 / number as f64,
            accuracy_train: 0.5,
            loss_val: Some(1.2 / number as f64),
            accuracy_val: Some(0.4),
            lr: 0.025,
            grad_norm: Some(1.5),
            gamma: Some(0.025),
            neumann_norms: vec![1.0, 0.9],
            neumann_stopped: false,
            correction_ratio: Some(0.1),
            es_choice: None,
            es_loss: None,
            strategy: Default::default(),
            seconds: 0.25,
        }
    }

    pub(crate) fn epoch(number: usize, genotype: &str) -> EpochRecord {
        EpochRecord {
            epoch: number,
            loss_val: 1.0,
            accuracy_val: 0.5,
            genotype: genotype.into(),
            op_weights: vec![OpWeights {
                name: "arch_parameters".into(),
                rows: vec![vec![0.2; 5]; 6],
            }],
            stable: 0,
            strategy: Default::default(),
            seconds: 3.0,
        }
    }

    #[test]
    fn what_is_appended_is_read_back_and_a_torn_last_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path).unwrap();
        log.append(&Line::Round(round(1))).unwrap();
        log.append(&Line::Epoch(epoch(0, "g"))).unwrap();
        assert_eq!(log.sync().unwrap(), std::fs::metadata(&path).unwrap().len());
        log.file.write_all(b"{\"kind\":\"rou").unwrap();
        let history = read(&path).unwrap();
        assert_eq!(history.rounds, [round(1)]);
        assert_eq!(history.epochs, [epoch(0, "g")]);
    }

    #[test]
    fn a_line_of_junk_is_named_by_its_number() {
        let good = serde_json::to_string(&Line::Round(round(1))).unwrap();
        let message = parse(&format!("{good}\njunk\n")).unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn numbers_that_json_cannot_write_do_not_make_a_log_unreadable() {
        let mut record = round(1);
        record.neumann_norms = vec![1.0, f64::INFINITY];
        let norms = serde_json::to_string(&Line::Round(record)).unwrap();
        let lost = serde_json::to_string(&Line::Epoch(EpochRecord {
            loss_val: f64::NAN,
            ..epoch(0, "g")
        }));
        let history = parse(&format!("{norms}\n{}\n", lost.unwrap())).unwrap();
        assert_eq!(history.rounds[0].neumann_norms, [1.0]);
        assert!(history.epochs.is_empty());
    }

    proptest! {
        #[test]
        fn mutated_logs_never_panic(at in 0usize..300, with in "\\PC{0,3}") {
            let good = serde_json::to_string(&Line::Round(round(1))).unwrap() + "\n";
            let at = at % good.len();
            let _ = parse(&format!("{}{with}{}", &good[..at], &good[at..]));
        }
    }
}
