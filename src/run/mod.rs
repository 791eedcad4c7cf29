//! A run directory and its life: settings, log, TensorBoard events, checkpoints, resume, report.
//!
//! [`drive`] carries a search or a training from round to round and keeps the directory such that a kill at any
//! moment loses at most the rounds since the last checkpoint.

pub mod ablation;
pub mod atomic;
pub mod bench;
pub mod checkpoint;
pub mod columns;
pub mod config;
pub mod directory;
pub mod drive;
pub mod evaluation;
pub mod events;
pub mod log;
pub mod paper;
pub mod probe;
pub mod profile;
pub mod report;
pub mod tabular;

/// A request that cannot be granted as it was put: the program exits with status 2, not 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadUsage(pub String);
