//! Every number a search depends on, in one serialisable struct with the names of the flags.

use serde::{Deserialize, Serialize};

/// How the weights ω are trained between two architecture steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Weights {
    /// Stochastic gradient descent with momentum (paper, section 2.2.1).
    #[serde(rename = "sgd")]
    #[value(name = "sgd")]
    Sgd,
    /// The improved evolution strategy alone (paper, section 2.3).
    #[serde(rename = "es")]
    #[value(name = "es")]
    Es,
    /// SGD steps, then one ES generation before each architecture step.
    #[serde(rename = "sgd+es")]
    #[value(name = "sgd+es")]
    SgdEs,
}

/// The search strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum StrategyKind {
    /// Implicit hypergradient by a Neumann series (Han et al. 2023).
    Ndarts,
    /// DARTS, first order: dα = ∂L2/∂α (Liu et al. 2019).
    DartsV1,
    /// DARTS, second order: one unrolled step (Liu et al. 2019).
    DartsV2,
}

/// The inner learning rate γ of the Neumann series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gamma {
    /// γ = 1/λ_max(H), λ_max by power iteration on the exact product.
    Auto,
    /// A fixed positive number.
    Fixed(f32),
}

/// How DARTS second order forms the product (∂²L1/∂α∂ω)·∂L2/∂ω.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum UnrolledProduct {
    /// Central difference of ∂L1/∂α with ε = 0.01/‖∂L2/∂ω′‖, as published.
    FiniteDifference,
    /// The exact product by the tangent passes.
    Exact,
}

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
    /// Device (`auto`, `cpu`).
    pub device: String,
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
    /// DARTS: number of cells; NAS-Bench-201: N, cells a stage.
    pub cells: usize,
    /// Images a batch.
    pub batch: usize,
    /// Passes over the training half.
    pub epochs: usize,
    /// Epochs at the start in which only the weights are trained.
    pub warmup_epochs: usize,
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
    /// Square image size in pixels; 0 keeps the data set's own.
    pub image_size: usize,
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
}

impl Serialize for Gamma {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Gamma::Auto => serializer.serialize_str("auto"),
            // Through the shortest decimal that gives the same f32, so that 0.025 stays 0.025.
            Gamma::Fixed(gamma) => {
                serializer.serialize_f64(gamma.to_string().parse().unwrap_or(f64::from(*gamma)))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Gamma {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Number(f64),
            Word(String),
        }
        let text = match Text::deserialize(deserializer)? {
            Text::Number(number) => number.to_string(),
            Text::Word(word) => word,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for Gamma {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Gamma::Auto);
        }
        match text.parse::<f32>() {
            Ok(gamma) if gamma > 0.0 && gamma.is_finite() => Ok(Gamma::Fixed(gamma)),
            _ => Err(format!(
                "expected `auto` or a positive finite number, found `{text}`"
            )),
        }
    }
}
