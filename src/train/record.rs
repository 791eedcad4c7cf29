//! What a training reports: the lines of its `log.jsonl`.

use serde::{Deserialize, Serialize};

/// The mean of a few steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, counted from 1.
    pub step: u64,
    /// Epoch, counted from 0.
    pub epoch: usize,
    /// Mean loss of the steps' batches, the auxiliary head's share included.
    pub loss_train: f64,
    /// Mean top-1 accuracy on them, 0..1.
    pub accuracy_train: f64,
    /// Learning rate.
    pub lr: f64,
    /// Probability of dropping a branch.
    pub drop_path: f64,
    /// Norm of the gradient before clipping, last step.
    pub grad_norm: f64,
    /// Seconds the steps took.
    pub seconds: f64,
    /// Whether this record is complete: the next step begins a new one.
    #[serde(skip)]
    pub complete: bool,
}

/// The end of an epoch: the network on the test set, with its running statistics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainEpochRecord {
    /// Epoch just finished, counted from 0.
    pub epoch: usize,
    /// Mean loss over the epoch's training batches.
    pub loss_train: f64,
    /// Top-1 accuracy over them, 0..1.
    pub accuracy_train: f64,
    /// Loss over the test set.
    pub loss_test: f64,
    /// Top-1 accuracy over the test set, 0..1.
    pub accuracy_test: f64,
    /// Top-5 accuracy over the test set, 0..1.
    pub top5_test: f64,
    /// Best top-1 accuracy over the test set of any epoch so far.
    pub best_accuracy_test: f64,
    /// Seconds since the training began, over all its sittings.
    pub seconds: f64,
}
