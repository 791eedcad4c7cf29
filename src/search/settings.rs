//! Every number a search depends on, in one serialisable struct with the names of the flags.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use super::strategies::StrategyKind;
pub use crate::hypergradient::neumann::Gamma;
pub use crate::hypergradient::unrolled::UnrolledProduct;
pub use crate::ops::cuda::Precision;
pub use crate::optim::{SecondMoment, Weights};

/// All settings of a search. Field names are flag names with `_` for `-`, and keys of `config.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SearchSettings {
    /// Search space.
    pub space: crate::space::Space,
    /// Search strategy.
    pub strategy: StrategyKind,
    /// Data SPEC (`digits`, `cifar10:DIR`, `cifar100:DIR`, `folder:DIR`, `pack:FILE`).
    pub data: String,
    /// Device (`auto`, `cpu`, `cuda[:N]`).
    pub device: String,
    /// Element type of activations on a GPU.
    #[serde(default)]
    pub precision: Precision,
    /// Weight training.
    pub weights: Weights,
    /// K, terms of the Neumann series beyond the first.
    pub neumann_terms: usize,
    /// T, weight steps before each architecture step.
    pub inner_steps: usize,
    /// γ of the Neumann series.
    pub gamma: Gamma,
    /// Product of the second-order DARTS step.
    pub unrolled_product: UnrolledProduct,
    /// n, members of an ES population.
    pub population: usize,
    /// σ, standard deviation of the ES noise.
    pub sigma: f32,
    /// η, step size of the ES recombination.
    pub es_step: f32,
    /// The recombination as the paper prints it: plus sign, no mean subtracted.
    pub es_literal: bool,
    /// Antithetic pairs: member 2i+1 takes −ε of member 2i.
    pub antithetic: bool,
    /// C, channels of the first stage.
    pub channels: usize,
    /// DARTS, NASNet: number of cells; NAS-Bench-201: N, cells a stage.
    pub cells: usize,
    /// Images a batch.
    pub batch: usize,
    /// Passes over the training half.
    pub epochs: usize,
    /// Epochs at the start in which only the weights are trained.
    pub warmup_epochs: usize,
    /// The search ends early when the genotype has stayed the same for this many epochs, as DARTS+ ends
    /// where the ranking of the ops is stable (Liang et al. 2019); 0: never.
    pub stable_epochs: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// Initial SGD learning rate (cosine to `lr_min`).
    pub lr: f32,
    /// Final SGD learning rate.
    pub lr_min: f32,
    /// SGD momentum.
    pub momentum: f32,
    /// Weight decay of ω.
    pub weight_decay: f32,
    /// Global gradient norm at which gradients are clipped; 0 turns clipping off.
    pub clip: f32,
    /// Adam learning rate of α.
    pub arch_lr: f32,
    /// Weight decay of α.
    pub arch_weight_decay: f32,
    /// Adam β₁ of α.
    pub arch_beta1: f32,
    /// Adam β₂ of α.
    pub arch_beta2: f32,
    /// Which elements of α share Adam's second moment.
    pub arch_second_moment: SecondMoment,
    /// Square image size in pixels; 0 keeps the data set's own.
    pub image_size: usize,
    /// Shares of every class that L1 and L2 are taken on; none: halves of the training set.
    #[serde(default)]
    pub subset: Vec<f32>,
    /// Random crop: zero padding on each side, in pixels; 0 turns it off.
    pub crop_padding: usize,
    /// Random horizontal flip.
    pub flip: bool,
    /// Cutout square, in pixels; 0 turns it off.
    pub cutout: usize,
    /// Normalisation mean per channel (pixels in 0..1); empty: computed from the training set.
    pub mean: Vec<f32>,
    /// Normalisation deviation per channel (pixels in 0..1); empty: computed from the training set.
    pub std: Vec<f32>,
    /// The strategy's own settings, by name; those left out are as published.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub option: BTreeMap<String, f64>,
}

impl SearchSettings {
    /// Whether a search ends after so many epochs, of which the last `stable` changed nothing about the
    /// genotype.
    pub fn end_after(&self, epochs: usize, stable: usize) -> bool {
        epochs >= self.epochs || self.stable_epochs > 0 && stable >= self.stable_epochs
    }
}
