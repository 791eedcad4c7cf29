//! `evaluation.json`: what a trained network does on the test set, with the names of the classes.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::atomic;
use crate::train::evaluation::Evaluation;

/// Name of the file in a run directory.
pub const FILE: &str = "evaluation.json";
/// Largest file that is read: a thousand classes take a few MB.
const LARGEST: u64 = 256 << 20;

/// An evaluation and the classes it speaks of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// What was found.
    pub evaluation: Evaluation,
}

/// Writes the file into the run directory `dir`.
///
/// # Errors
/// A full disk.
pub fn write(dir: &Path, classes: &[String], found: &Evaluation) -> Result<()> {
    let judged = Judged {
        classes: classes.to_vec(),
        evaluation: found.clone(),
    };
    let mut json = serde_json::to_vec(&judged)?;
    json.push(b'\n');
    atomic::write(&dir.join(FILE), &json)
}

/// Reads the file of the run directory `dir`; none where there is none.
///
/// # Errors
/// A file that cannot be read or is none of ours.
pub fn read(dir: &Path) -> Result<Option<Judged>> {
    let path = dir.join(FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let expected = || format!("{}: expected the evaluation of a training", path.display());
    let length = std::fs::metadata(&path).with_context(expected)?.len();
    anyhow::ensure!(
        length <= LARGEST,
        "{}, found {length} bytes, which is too many",
        expected()
    );
    let text = std::fs::read_to_string(&path).with_context(expected)?;
    let judged: Judged = serde_json::from_str(&text).with_context(expected)?;
    let (classes, rows) = (judged.classes.len(), &judged.evaluation.confusion);
    anyhow::ensure!(
        rows.len() == classes && rows.iter().all(|row| row.len() == classes),
        "{}, found a confusion matrix that is not of its {classes} classes",
        expected()
    );
    Ok(Some(judged))
}
