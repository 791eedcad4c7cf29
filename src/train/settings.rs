//! Every number a training depends on, in one serialisable struct with the names of the flags.

use serde::{Deserialize, Serialize};

/// All settings of a training. Field names are flag names with `_` for `-`, and keys of
/// `config.toml`; the genotype is the command's argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainSettings {
    /// Text of the genotype.
    pub genotype: String,
    /// Data SPEC (`digits`, `cifar10:DIR`, `cifar100:DIR`, `folder:DIR`, `pack:FILE`).
    pub data: String,
    /// Device (`cpu`).
    pub device: String,
    /// C, channels of the first stage.
    pub channels: usize,
    /// DARTS: number of cells; NAS-Bench-201: N, cells a stage.
    pub cells: usize,
    /// The ImageNet network of DARTS: a stem of three convolutions of stride 2.
    pub imagenet: bool,
    /// The auxiliary head.
    pub auxiliary: bool,
    /// Factor of the auxiliary head's loss.
    pub auxiliary_weight: f32,
    /// Probability of dropping a branch that the last epoch nears; rises linearly from 0.
    pub drop_path: f32,
    /// ε of label smoothing.
    pub label_smoothing: f32,
    /// Images a batch.
    pub batch: usize,
    /// Passes over the training set.
    pub epochs: usize,
    /// Epochs at the start over which the learning rate rises linearly.
    pub warmup_epochs: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// Initial SGD learning rate (cosine to `lr_min`).
    pub lr: f32,
    /// Final SGD learning rate.
    pub lr_min: f32,
    /// SGD momentum.
    pub momentum: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Global gradient norm at which gradients are clipped; 0 turns clipping off.
    pub clip: f32,
    /// Square image size in pixels; 0 keeps the data set's own.
    pub image_size: usize,
    /// Side of the squares that images are kept as, of which training takes random resized crops of
    /// `image_size` and evaluation the centre; 0 turns it off.
    pub resize: usize,
    /// Random crop: zero padding on each side, in pixels; 0 turns it off.
    pub crop_padding: usize,
    /// Random horizontal flip.
    pub flip: bool,
    /// Strengths of the changes of brightness, contrast, saturation and hue; none: colours stay.
    #[serde(default)]
    pub color_jitter: Vec<f32>,
    /// Cutout square, in pixels; 0 turns it off.
    pub cutout: usize,
    /// Normalisation mean per channel (pixels in 0..1); empty: computed from the training set.
    pub mean: Vec<f32>,
    /// Normalisation deviation per channel (pixels in 0..1); empty: computed from the training set.
    pub std: Vec<f32>,
    /// Steps whose mean makes a line of the log; an epoch's end closes one too.
    pub log_every: usize,
}
