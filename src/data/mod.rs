//! Data sets of labelled images, and the shuffled, augmented, normalised batches made of them.
//!
//! A data set is opened from a SPEC by [`Dataset::open`] and presents its two parts as [`Images`]:
//! u8 pixels of one size with three channels (grey is replicated), random access, shared by threads.
//! [`Loader`] turns one part into an endless stream of training batches that is a pure function of
//! (seed, stream, step); [`evaluation_batch`] gives plain batches in a stated order.
//!
//! What comes from a file is checked against the file's length before it is used, and every label is
//! checked when the data set is opened, so that reading a batch cannot fail.

mod augment;
mod cifar;
mod digits;
mod folder;
mod info;
mod jitter;
mod loader;
mod map;
mod memory;
pub mod pack;
mod spec;
mod split;
mod statistics;

use std::sync::Arc;

use anyhow::{Result, ensure};

pub use augment::Augment;
pub use info::{Summary, info};
pub use jitter::strengths as jitter_strengths;
pub use loader::{Batch, Loader, Stream, evaluation_batch};
pub use spec::Spec;
pub use split::{balanced, check_batch, halves};

/// The largest side of an image, in pixels, that any reader accepts.
pub const MAX_SIDE: usize = 4096;

/// Labelled u8 images of one size with three channels, readable from any thread in any order.
pub trait Images: Send + Sync {
    /// Number of images N.
    fn len(&self) -> usize;

    /// True when there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// \[H, W\] in pixels.
    fn size(&self) -> [usize; 2];

    /// Class of image `i`, below the data set's number of classes.
    ///
    /// # Panics
    /// When `i >= len()`.
    fn label(&self, i: usize) -> u32;

    /// Writes image `i` as \[H, W, 3\], RGB interleaved.
    ///
    /// # Panics
    /// When `i >= len()` or `out` does not have H·W·3 elements.
    fn pixels(&self, i: usize, out: &mut [u8]);
}

/// A data set: two parts of images, the names of the classes and how to normalise.
#[derive(Clone)]
pub struct Dataset {
    /// Short name: `digits`, `cifar10`, `cifar100`, or the stem of the folder or pack.
    pub name: String,
    /// Class names; a label is an index into them.
    pub classes: Vec<String>,
    /// The training part.
    pub train: Arc<dyn Images>,
    /// The test part.
    pub test: Arc<dyn Images>,
    /// Mean per channel, of pixels in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel, of pixels in 0..1.
    pub std: [f32; 3],
}

/// What a reader returns: everything of a [`Dataset`] but the normalisation.
struct Parts {
    name: String,
    classes: Vec<String>,
    train: Arc<dyn Images>,
    test: Arc<dyn Images>,
}

impl Dataset {
    /// As [`Dataset::open`], but with squares of `resize` pixels to train on, and the central
    /// `image_size` pixels of such squares to test on; `resize` 0 is [`Dataset::open`] itself.
    ///
    /// # Errors
    /// As there; and a `resize` below `image_size`.
    pub fn open_resized(
        spec: &str,
        [resize, image_size]: [usize; 2],
        mean: &[f32],
        std: &[f32],
    ) -> Result<Dataset> {
        if resize == 0 {
            return Dataset::open(spec, image_size, mean, std);
        }
        let mut data = Dataset::open(spec, resize, mean, std)?;
        data.test = Arc::new(memory::Centre::new(data.test, image_size)?);
        Ok(data)
    }

    /// Opens the data set that `spec` names (see [`Spec`]).
    ///
    /// `image_size` 0 keeps the data set's own size; any other size scales the central square of each
    /// image to `image_size` × `image_size`, in memory. `mean` and `std` have one value for all channels, or
    /// three, of pixels in 0..1; an empty one is computed from the training part.
    ///
    /// # Errors
    /// An unknown SPEC, a missing or damaged file, a label out of range, a stated mean or deviation that
    /// is none, images too large to hold in memory.
    pub fn open(spec: &str, image_size: usize, mean: &[f32], std: &[f32]) -> Result<Dataset> {
        let spec: Spec = spec.parse()?;
        let stated_mean = statistics::stated_mean(mean)?;
        let stated_std = statistics::stated_std(std)?;
        let parts = open_parts(&spec, image_size)?;
        let (mean, std) = match (stated_mean, stated_std) {
            (Some(mean), Some(std)) => (mean, std),
            (mean, std) => {
                let computed = statistics::of(&*parts.train);
                (
                    mean.unwrap_or(computed.mean),
                    std.map_or_else(|| computed.usable_std(&spec), Ok)?,
                )
            }
        };
        Ok(Dataset {
            name: parts.name,
            classes: parts.classes,
            train: parts.train,
            test: parts.test,
            mean,
            std,
        })
    }
}

/// Opens the data set that `spec` names and scales it to `image_size`, unless that is 0.
fn open_parts(spec: &Spec, image_size: usize) -> Result<Parts> {
    check_image_size(image_size)?;
    let mut parts = match spec {
        Spec::Digits => digits::open(),
        Spec::Cifar10(dir) => cifar::open(&cifar::CIFAR10, dir)?,
        Spec::Cifar100(dir) => cifar::open(&cifar::CIFAR100, dir)?,
        // A folder is scaled while it is decoded: its images may differ in size.
        Spec::Folder(dir) => folder::open(dir, image_size)?,
        Spec::Pack(file) => pack::open(file)?,
    };
    if image_size != 0 {
        parts.train = memory::resized(parts.train, image_size, spec)?;
        parts.test = memory::resized(parts.test, image_size, spec)?;
    }
    Ok(parts)
}

/// Checks `--image-size`: 0 (the data set's own) to [`MAX_SIDE`].
fn check_image_size(image_size: usize) -> Result<()> {
    ensure!(
        image_size <= MAX_SIDE,
        "--image-size: expected 0 (the data set's own) to {MAX_SIDE} pixels, found {image_size}; choose a smaller size"
    );
    Ok(())
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Small data sets in memory for the tests of this module's files.
#[cfg(test)]
mod testing {
    use super::memory::InMemory;

    /// `n` images of H × W; pixel values count up, labels go round `classes`.
    pub fn counting(n: usize, size: [usize; 2], classes: u32) -> InMemory {
        let bytes = n * size[0] * size[1] * 3;
        InMemory {
            size,
            pixels: (0..bytes).map(|i| (i * 7 % 251) as u8).collect(),
            labels: (0..n).map(|i| i as u32 % classes).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grouped_puts_a_comma_before_each_third_digit() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(30_730_000), "30,730,000");
    }

    #[test]
    fn an_image_size_scales_both_parts_of_a_data_set() {
        let data = Dataset::open("digits", 16, &[0.5], &[0.25, 0.5, 1.0]).unwrap();
        assert_eq!(data.train.size(), [16, 16]);
        assert_eq!(data.test.size(), [16, 16]);
        assert_eq!(data.mean, [0.5; 3]);
        assert_eq!(data.std, [0.25, 0.5, 1.0]);
    }

    #[test]
    fn an_image_size_beyond_the_limit_names_the_flag() {
        let error = Dataset::open("digits", 5000, &[], &[]).err().unwrap();
        assert!(
            error.to_string().starts_with("--image-size: expected 0"),
            "{error}"
        );
    }
}
