//! `checkpoint/`: everything a search needs to go on with the same bits.
//!
//! Two files, committed by one rename. `optimizer-<round>.safetensors` is written first; then the
//! rename of `weights.safetensors`, whose metadata names the optimizer file and the checksum of its
//! tensors, is the commit; then older optimizer files are removed. A kill before the rename leaves
//! the former pair, a kill after it the new one.
//!
//! `weights.safetensors` holds ω and α under PyTorch's names and nothing that depends on the clock,
//! so that equal runs end in equal files. What may depend on it (the search's counters, and the
//! lengths of the log and event files, whose lines hold times) is metadata of the optimizer file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::atomic;
use crate::network::state_dict::{self, NamedTensor, Snapshot, StateDict};

/// The file whose rename commits a checkpoint.
pub const WEIGHTS: &str = "weights.safetensors";
/// The one metadata key of both files; its value is JSON.
const METADATA: &str = "ndarts";

/// Where the files beside a checkpoint stood when it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Length of `log.jsonl`, bytes.
    pub log_bytes: u64,
    /// Name of the TensorBoard event file.
    pub events_file: String,
    /// Its length, bytes.
    pub events_bytes: u64,
    /// Seconds searched so far, over all sittings.
    pub seconds: f64,
}

/// A checkpoint read back.
pub struct Checkpoint {
    /// Rounds done.
    pub round: u64,
    /// The state of the search.
    pub snapshot: Snapshot,
    /// Where the other files stood.
    pub position: Position,
}

/// Metadata of `weights.safetensors`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Commit {
    round: u64,
    weights_crc32: u32,
    optimizer_file: String,
    optimizer_crc32: u32,
}

/// Metadata of the optimizer file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    state: serde_json::Value,
    position: Position,
}

/// Writes the checkpoint of `round` into `folder`, which exists.
///
/// # Errors
///
/// The disk is full or the folder cannot be written; the former checkpoint then still stands.
pub fn save(folder: &Path, round: u64, snapshot: &Snapshot, position: &Position) -> Result<()> {
    let optimizer_file = optimizer_name(round);
    let progress = serde_json::to_string(&Progress {
        state: snapshot.state.clone(),
        position: position.clone(),
    })?;
    let optimizer = state_dict::encode(&snapshot.optimizer, &[], &[(METADATA, &progress)])?;
    atomic::write(&folder.join(&optimizer_file), &optimizer)?;

    let commit = Commit {
        round,
        weights_crc32: checksum(&snapshot.weights),
        optimizer_file: optimizer_file.clone(),
        optimizer_crc32: checksum(&snapshot.optimizer),
    };
    let commit = serde_json::to_string(&commit)?;
    let weights = state_dict::encode(
        &snapshot.weights,
        &snapshot.integers,
        &[(METADATA, &commit)],
    )?;
    atomic::write(&folder.join(WEIGHTS), &weights)?;
    remove_others(folder, &optimizer_file)
}

/// Reads the checkpoint in `folder`; none where no checkpoint was ever committed.
///
/// # Errors
///
/// A file that is missing, damaged or not of this run; the message names it.
pub fn load(folder: &Path) -> Result<Option<Checkpoint>> {
    let path = folder.join(WEIGHTS);
    if !path.exists() {
        return Ok(None);
    }
    let weights = state_dict::read(&path)?;
    let commit: Commit = metadata(&path, &weights)?;
    check(&path, &weights.tensors, commit.weights_crc32)?;

    ensure!(
        commit.optimizer_file == optimizer_name(commit.round),
        "{}: expected it to name the optimizer file `{}`, found `{}`",
        path.display(),
        optimizer_name(commit.round),
        commit.optimizer_file
    );
    let path = folder.join(&commit.optimizer_file);
    let optimizer = state_dict::read(&path)?;
    let progress: Progress = metadata(&path, &optimizer)?;
    check(&path, &optimizer.tensors, commit.optimizer_crc32)?;

    Ok(Some(Checkpoint {
        round: commit.round,
        snapshot: Snapshot {
            weights: weights.tensors,
            integers: Vec::new(),
            optimizer: optimizer.tensors,
            state: progress.state,
        },
        position: progress.position,
    }))
}

fn optimizer_name(round: u64) -> String {
    format!("optimizer-{round:08}.safetensors")
}

/// CRC-32 of names, shapes and elements, in the order of names: the order that files keep.
fn checksum(tensors: &[NamedTensor]) -> u32 {
    let mut ordered: Vec<&NamedTensor> = tensors.iter().collect();
    ordered.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hasher = crc32fast::Hasher::new();
    for tensor in ordered {
        hasher.update(format!("{} {:?}", tensor.name, tensor.shape).as_bytes());
        hasher.update(bytemuck::cast_slice(&tensor.data));
    }
    hasher.finalize()
}

fn check(path: &Path, tensors: &[NamedTensor], expected: u32) -> Result<()> {
    let found = checksum(tensors);
    ensure!(
        found == expected,
        "{}: expected tensors with checksum {expected:08x}, found {found:08x}; the file is damaged \
         or belongs to another checkpoint",
        path.display()
    );
    Ok(())
}

fn metadata<T: DeserializeOwned>(path: &Path, file: &StateDict) -> Result<T> {
    let Some(text) = file.metadata.get(METADATA) else {
        bail!(
            "{}: expected the checkpoint of a run, found a safetensors file without `{METADATA}` metadata",
            path.display()
        );
    };
    serde_json::from_str(text).with_context(|| {
        format!(
            "{}: expected the checkpoint of a run, found other metadata",
            path.display()
        )
    })
}

/// Removes optimizer files of older checkpoints; a kill can have left more than one.
fn remove_others(folder: &Path, kept: &str) -> Result<()> {
    let outdated = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("optimizer-") && name.ends_with(".safetensors") && name != kept
    };
    let listing =
        fs::read_dir(folder).with_context(|| format!("{}: cannot be listed", folder.display()))?;
    for path in listing
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(outdated)
    {
        fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(value: f32) -> Snapshot {
        let tensor = |name: &str| NamedTensor {
            name: name.into(),
            shape: vec![2],
            data: vec![value; 2],
        };
        Snapshot {
            // Not in the order of names: a checksum must not depend on it.
            weights: vec![tensor("stem.0.weight"), tensor("alphas_normal")],
            integers: vec![],
            optimizer: vec![tensor("momentum.stem.0.weight")],
            state: serde_json::json!({ "counter": value }),
        }
    }

    fn position() -> Position {
        Position {
            log_bytes: 10,
            events_file: "events".into(),
            events_bytes: 20,
            seconds: 1.5,
        }
    }

    #[test]
    fn a_checkpoint_comes_back_whole_and_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).unwrap().is_none());
        save(folder.path(), 3, &snapshot(1.0), &position()).unwrap();
        save(folder.path(), 6, &snapshot(2.0), &position()).unwrap();
        let back = load(folder.path()).unwrap().unwrap();
        assert_eq!((back.round, back.position), (6, position()));
        assert_eq!(back.snapshot.state["counter"], 2.0);
        assert_eq!(back.snapshot.weights[0].name, "alphas_normal");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_kill_between_the_two_files_leaves_the_former_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 3, &snapshot(1.0), &position()).unwrap();
        fs::write(folder.path().join(optimizer_name(6)), b"half").unwrap();
        assert_eq!(load(folder.path()).unwrap().unwrap().round, 3);
    }

    #[test]
    fn an_optimizer_file_of_another_checkpoint_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 3, &snapshot(1.0), &position()).unwrap();
        let weights = fs::read(folder.path().join(WEIGHTS)).unwrap();
        save(folder.path(), 3, &snapshot(2.0), &position()).unwrap();
        fs::write(folder.path().join(WEIGHTS), weights).unwrap();
        let message = load(folder.path()).err().unwrap().to_string();
        assert!(message.contains("optimizer-00000003.safetensors") && message.contains("checksum"));
    }

    #[test]
    fn a_pytorch_file_in_place_of_a_checkpoint_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = state_dict::encode(&snapshot(1.0).weights, &[], &[]).unwrap();
        fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
        let message = load(folder.path()).err().unwrap().to_string();
        assert!(message.contains("without `ndarts` metadata"), "{message}");
    }

    #[test]
    fn equal_states_make_equal_weight_files_whatever_the_clock_says() {
        let one = tempfile::tempdir().unwrap();
        let two = tempfile::tempdir().unwrap();
        save(one.path(), 3, &snapshot(1.0), &position()).unwrap();
        let later = Position {
            seconds: 9.0,
            log_bytes: 11,
            ..position()
        };
        let state = serde_json::json!({ "seconds": 9.0 });
        save(
            two.path(),
            3,
            &Snapshot {
                state,
                ..snapshot(1.0)
            },
            &later,
        )
        .unwrap();
        let bytes = |folder: &tempfile::TempDir| fs::read(folder.path().join(WEIGHTS)).unwrap();
        assert_eq!(bytes(&one), bytes(&two));
    }
}
