//! What a search reports: one record a round, one an epoch. These are the lines of `log.jsonl`.

use crate::optim::Choice;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One round: T weight steps and, after the warm-up, one architecture step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// Rounds done, counted from 1.
    pub round: u64,
    /// Epoch, counted from 0.
    pub epoch: usize,
    /// Mean L1 over the round's training batches.
    pub loss_train: f64,
    /// Top-1 accuracy on the round's training batches, 0..1.
    pub accuracy_train: f64,
    /// L2 on the architecture step's validation batch.
    pub loss_val: Option<f64>,
    /// Top-1 accuracy on the architecture step's validation batch, 0..1.
    pub accuracy_val: Option<f64>,
    /// SGD learning rate of the round.
    pub lr: f64,
    /// Norm of ∂L1/∂ω before clipping, last weight step.
    pub grad_norm: Option<f64>,
    /// γ that the series used.
    pub gamma: Option<f64>,
    /// ‖v_k‖ for k = 0..=K.
    pub neumann_norms: Vec<f64>,
    /// True when the series was stopped because ‖v_k‖ grew.
    pub neumann_stopped: bool,
    /// ‖correction‖ / ‖∂L2/∂α‖.
    pub correction_ratio: Option<f64>,
    /// The ES choice: "current", "recombined" or "member i".
    pub es_choice: Option<Choice>,
    /// L1 of the choice.
    pub es_loss: Option<f64>,
    /// Numbers of the strategy's own, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub strategy: BTreeMap<String, f64>,
    /// Seconds this round took; an equal share where a GPU ran several without the host looking.
    pub seconds: f64,
}

/// The end of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epoch just finished, counted from 0.
    pub epoch: usize,
    /// Supernet loss over the validation half.
    pub loss_val: f64,
    /// Supernet top-1 accuracy over the validation half, 0..1.
    pub accuracy_val: f64,
    /// Genotype text as PyTorch users paste it.
    pub genotype: String,
    /// Op weights per α matrix: name, rows (edges), columns (ops).
    pub op_weights: Vec<OpWeights>,
    /// Epochs before this one that ended with the same genotype, in a row, after the warm-up.
    #[serde(default)]
    pub stable: usize,
    /// Numbers of the strategy's own, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub strategy: BTreeMap<String, f64>,
    /// Seconds since the search began, over all its sittings.
    pub seconds: f64,
}

/// Op weights of one α matrix: softmax, or what the strategy has in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpWeights {
    /// `alphas_normal`, `alphas_reduce` or `arch_parameters`.
    pub name: String,
    /// `[edges][ops]`; of a softmax each row sums to one.
    pub rows: Vec<Vec<f32>>,
}
