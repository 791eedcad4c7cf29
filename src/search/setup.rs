//! What a search and a probe start from: the data in two halves, and the supernet that fits it.

use super::settings::SearchSettings;
use crate::data::{Augment, Dataset, Loader, Stream, balanced, check_batch, halves};
use crate::network::{Supernet, Variant};
use std::sync::Arc;

/// Records the supernet of `cells` cells that fits the data.
///
/// # Errors
/// As [`Supernet::record`].
pub fn record(
    s: &SearchSettings,
    data: &Dataset,
    cells: usize,
    variant: &Variant,
) -> anyhow::Result<Supernet> {
    let (classes, size) = (data.classes.len(), data.train.size());
    Supernet::record_variant(s.space, s.channels, cells, classes, s.batch, size, variant)
}

/// Data, split and supernet of some settings.
pub struct Setup {
    /// The data set.
    pub data: Dataset,
    /// Images that the weights are trained on.
    pub train_half: Vec<u32>,
    /// Images that the architecture is trained on.
    pub validation_half: Vec<u32>,
    /// The recorded supernet.
    pub supernet: Supernet,
    augment: Augment,
    batch: usize,
    seed: u64,
}

impl Setup {
    /// Opens the data, splits it by the seed and records the supernet.
    ///
    /// # Errors
    /// Data that cannot be read, or settings that do not fit it; the message names the flag or file.
    pub fn new(s: &SearchSettings) -> anyhow::Result<Setup> {
        Setup::with(s, s.cells, &Variant::default())
    }

    /// As [`Setup::new`], with as many `cells` and what a search changes about the supernet.
    ///
    /// # Errors
    /// As [`Setup::new`].
    pub fn with(s: &SearchSettings, cells: usize, variant: &Variant) -> anyhow::Result<Setup> {
        let data = Dataset::open(&s.data, s.image_size, &s.mean, &s.std)?;
        let (train_half, validation_half) = match s.subset[..] {
            [first, second] => {
                let shares = [first, second];
                let [first, second] = balanced(&*data.train, &data.classes, shares, s.seed)?;
                (first, second)
            }
            _ => halves(data.train.len(), s.seed),
        };
        check_batch(s.batch, train_half.len().min(validation_half.len()))?;
        let augment = Augment {
            resized_crop: 0,
            jitter: [0.0; 4],
            crop_padding: s.crop_padding,
            flip: s.flip,
            cutout: s.cutout,
        };
        let size = data.train.size();
        augment.check(size)?;
        let supernet = record(s, &data, cells, variant)?;
        Ok(Setup {
            data,
            train_half,
            validation_half,
            supernet,
            augment,
            batch: s.batch,
            seed: s.seed,
        })
    }

    /// A loader of augmented batches of the half that `stream` draws from.
    pub fn loader(&self, stream: Stream) -> Loader {
        let half = match stream {
            Stream::Validation => &self.validation_half,
            Stream::Train | Stream::ArchTrain | Stream::Evolution => &self.train_half,
        };
        let (images, augment) = (Arc::clone(&self.data.train), Some(self.augment));
        let (mean, std) = (self.data.mean, self.data.std);
        let (half, seed) = (half.clone(), self.seed);
        Loader::new(images, half, self.batch, augment, mean, std, seed, stream)
    }
}
