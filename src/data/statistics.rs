//! Mean and standard deviation per channel, stated or computed from histograms.
//!
//! Pixels are bytes, so a histogram per channel holds everything: it is summed in integers, which gives
//! the same bits at any thread count, and the moments follow from 256 counts in f64.

use anyhow::{Result, bail, ensure};
use rayon::prelude::*;

use super::{Images, Spec};

/// Moments of the pixels (in 0..1) of one part of a data set.
pub struct Moments {
    /// Mean per channel.
    pub mean: [f32; 3],
    /// Standard deviation per channel (population).
    pub std: [f32; 3],
}

impl Moments {
    /// The deviations, to be divided by.
    ///
    /// # Errors
    /// When a channel is constant.
    pub fn usable_std(&self, spec: &Spec) -> Result<[f32; 3]> {
        ensure!(
            self.std.iter().all(|&std| std > 0.0),
            "{spec}: expected pixels that differ, found deviations {:?} per channel; state --std, or check the images",
            self.std
        );
        Ok(self.std)
    }
}

type Histogram = [[u64; 256]; 3];

/// Moments of all pixels of `images`.
pub fn of(images: &dyn Images) -> Moments {
    let [height, width] = images.size();
    let counts: Box<Histogram> = (0..images.len())
        .into_par_iter()
        .with_min_len(256)
        .fold(
            || (Box::new([[0; 256]; 3]), vec![0; height * width * 3]),
            |(mut counts, mut pixels): (Box<Histogram>, Vec<u8>), i| {
                images.pixels(i, &mut pixels);
                for rgb in pixels.chunks_exact(3) {
                    for (channel, &value) in counts.iter_mut().zip(rgb) {
                        channel[usize::from(value)] += 1;
                    }
                }
                (counts, pixels)
            },
        )
        .map(|(counts, _)| counts)
        .reduce(
            || Box::new([[0; 256]; 3]),
            |mut a, b| {
                for (a, b) in a.iter_mut().flatten().zip(b.iter().flatten()) {
                    *a += b;
                }
                a
            },
        );
    let (mut mean, mut std) = ([0.0; 3], [0.0; 3]);
    for channel in 0..3 {
        let total = counts[channel].iter().sum::<u64>().max(1) as f64;
        let moment = |centre: f64, power: i32| {
            counts[channel]
                .iter()
                .enumerate()
                .map(|(value, &count)| count as f64 * (value as f64 / 255.0 - centre).powi(power))
                .sum::<f64>()
                / total
        };
        let centre = moment(0.0, 1);
        mean[channel] = centre as f32;
        std[channel] = moment(centre, 2).sqrt() as f32;
    }
    Moments { mean, std }
}

/// `--mean` as three values in 0..1; none when it is empty.
pub fn stated_mean(values: &[f32]) -> Result<Option<[f32; 3]>> {
    stated("--mean", values, "from 0 to 1", |mean| {
        (0.0..=1.0).contains(&mean)
    })
}

/// `--std` as three values above 0 and up to 1; none when it is empty.
pub fn stated_std(values: &[f32]) -> Result<Option<[f32; 3]>> {
    stated("--std", values, "above 0 and up to 1", |std| {
        std > 0.0 && std <= 1.0
    })
}

fn stated(
    flag: &str,
    values: &[f32],
    range: &str,
    fits: impl Fn(f32) -> bool,
) -> Result<Option<[f32; 3]>> {
    let three = match *values {
        [] => return Ok(None),
        [one] => [one; 3],
        [red, green, blue] => [red, green, blue],
        _ => bail!(
            "{flag}: expected one value for all channels or three, found {}; pixels have red, green and blue",
            values.len()
        ),
    };
    ensure!(
        three.iter().all(|&value| fits(value)),
        "{flag}: expected values {range} (pixels are in 0 to 1), found {values:?}; divide values for 0 to 255 by 255"
    );
    Ok(Some(three))
}

#[cfg(test)]
mod tests {
    use super::super::memory::InMemory;
    use super::super::testing::counting;
    use super::*;

    #[test]
    fn moments_agree_with_the_plain_sum() {
        let images = counting(300, [3, 5], 2);
        let moments = of(&images);
        let red: Vec<f64> = images
            .pixels
            .iter()
            .step_by(3)
            .map(|&v| f64::from(v) / 255.0)
            .collect();
        let mean = red.iter().sum::<f64>() / red.len() as f64;
        let variance = red.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / red.len() as f64;
        assert!((f64::from(moments.mean[0]) - mean).abs() < 1e-7);
        assert!((f64::from(moments.std[0]) - variance.sqrt()).abs() < 1e-7);
    }

    #[test]
    fn constant_images_ask_for_a_stated_deviation() {
        let images = InMemory {
            size: [1, 1],
            pixels: vec![7; 6],
            labels: vec![0, 1],
        };
        let error = of(&images)
            .usable_std(&Spec::Digits)
            .unwrap_err()
            .to_string();
        assert!(error.contains("state --std"), "{error}");
    }

    #[test]
    fn stated_values_are_one_or_three_within_range() {
        assert_eq!(stated_mean(&[]).unwrap(), None);
        assert_eq!(stated_mean(&[0.25]).unwrap(), Some([0.25; 3]));
        assert_eq!(stated_std(&[0.1, 0.2, 0.3]).unwrap(), Some([0.1, 0.2, 0.3]));
        for bad in [&[0.1, 0.2][..], &[125.0], &[f32::NAN], &[-0.1]] {
            assert!(
                stated_mean(bad)
                    .unwrap_err()
                    .to_string()
                    .starts_with("--mean: expected")
            );
        }
        for bad in [0.0, f32::NAN, f32::INFINITY, -1.0] {
            assert!(
                stated_std(&[bad])
                    .unwrap_err()
                    .to_string()
                    .starts_with("--std: expected")
            );
        }
    }
}
