//! Colour jitter: brightness, contrast, saturation and hue of an image, in an order drawn with them.
//!
//! As torchvision's `ColorJitter` on floats: with x in 0..1 and g = 0.2989 R + 0.587 G + 0.114 B,
//!
//! ```text
//! brightness: f·x      contrast: f·x + (1 − f)·mean g      saturation: f·x + (1 − f)·g      hue: h + δ in HSV
//! ```
//!
//! each clamped to 0..1, with f uniform in 1 ± strength (not below 0) and δ uniform in ± strength of a turn.

use anyhow::{Result, ensure};

use crate::device::random::{Philox, uniform};

/// Where a slot's blocks begin in the Philox counter: behind those of all other draws.
const BLOCKS: u64 = 1 << 50;

/// The strengths of `--color-jitter`: brightness, contrast, saturation, hue; 0 leaves one out.
pub type Strengths = [f32; 4];

/// Checks what `--color-jitter` was given: nothing, or four strengths.
///
/// # Errors
/// Another number of them, one below 0, or a hue above half a turn.
pub fn strengths(given: &[f32]) -> Result<Strengths> {
    let expected = "--color-jitter: expected strengths of brightness, contrast, saturation (each at least 0) and hue \
                    (0 to 0.5)";
    if given.is_empty() {
        return Ok([0.0; 4]);
    }
    let Ok(strengths) = Strengths::try_from(given) else {
        anyhow::bail!("{expected}, found {} numbers", given.len());
    };
    let [colours @ .., hue] = strengths;
    ensure!(
        colours.iter().all(|s| s.is_finite() && *s >= 0.0) && (0.0..=0.5).contains(&hue),
        "{expected}, found {given:?}"
    );
    Ok(strengths)
}

/// What is done to the colours of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Jitter {
    /// Of brightness, contrast and saturation.
    factors: [f32; 3],
    /// Turns.
    hue: f32,
    /// 0 to 3, as in [`Strengths`].
    order: [u8; 4],
}

impl Jitter {
    /// The draws for slot `slot` of `stream`; none where nothing is to change.
    pub fn draw(strengths: Strengths, philox: &Philox, stream: u64, slot: u64) -> Option<Jitter> {
        if strengths == [0.0; 4] {
            return None;
        }
        let words = philox.block(BLOCKS + 2 * slot, stream);
        let [order, ..] = philox.block(BLOCKS + 2 * slot + 1, stream);
        let within = |i: usize, low: f32, high: f32| low + (high - low) * uniform(words[i]);
        let factor = |i: usize| within(i, (1.0 - strengths[i]).max(0.0), 1.0 + strengths[i]);
        Some(Jitter {
            factors: std::array::from_fn(factor),
            hue: within(3, -strengths[3], strengths[3]),
            order: permutation(order),
        })
    }

    /// Changes `pixels` \[·, 3\] in 0..1.
    pub fn apply(&self, pixels: &mut [f32]) {
        for change in self.order {
            match change {
                0 => blend(pixels, self.factors[0], |_| 0.0),
                1 => {
                    let mean = grey_mean(pixels);
                    blend(pixels, self.factors[1], |_| mean);
                }
                2 => blend(pixels, self.factors[2], grey),
                _ if self.hue == 0.0 => {}
                _ => {
                    for rgb in pixels.as_chunks_mut::<3>().0 {
                        *rgb = turned(*rgb, self.hue);
                    }
                }
            }
        }
    }
}

/// One of the 24 orders of four things.
fn permutation(word: u32) -> [u8; 4] {
    let mut left = vec![0u8, 1, 2, 3];
    let mut number = (u64::from(word) * 24) >> 32;
    std::array::from_fn(|place| {
        let count = 4 - place as u64;
        let taken = left.remove((number % count) as usize);
        number /= count;
        taken
    })
}

fn grey([r, g, b]: [f32; 3]) -> f32 {
    0.2989 * r + 0.587 * g + 0.114 * b
}

fn grey_mean(pixels: &[f32]) -> f32 {
    let pixels = pixels.as_chunks::<3>().0;
    let sum: f64 = pixels.iter().map(|&rgb| f64::from(grey(rgb))).sum();
    (sum / pixels.len() as f64) as f32
}

/// f·x + (1 − f)·other
fn blend(pixels: &mut [f32], factor: f32, other: impl Fn([f32; 3]) -> f32) {
    for rgb in pixels.as_chunks_mut::<3>().0 {
        let other = (1.0 - factor) * other(*rgb);
        *rgb = rgb.map(|x| (factor * x + other).clamp(0.0, 1.0));
    }
}

/// The colour with its hue turned by `turn`, at the same saturation and value.
fn turned([r, g, b]: [f32; 3], turn: f32) -> [f32; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range == 0.0 {
        return [r, g, b];
    }
    // Sixths of a turn.
    let hue = if most == r {
        (g - b) / range
    } else if most == g {
        2.0 + (b - r) / range
    } else {
        4.0 + (r - g) / range
    };
    let hue = (hue + 6.0 * turn).rem_euclid(6.0);
    let channel = |from: f32| {
        let k = (from + hue).rem_euclid(6.0);
        most - range * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    [5.0, 3.0, 1.0].map(channel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::Purpose;

    fn only(change: u8, value: f32) -> Jitter {
        let mut jitter = Jitter {
            factors: [1.0; 3],
            hue: 0.0,
            order: [0, 1, 2, 3],
        };
        match change {
            3 => jitter.hue = value,
            i => jitter.factors[usize::from(i)] = value,
        }
        jitter
    }

    fn close(found: &[f32], expected: &[f32]) {
        let off = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
        assert!(
            off.fold(0.0, f32::max) < 1e-5,
            "{found:?}, expected {expected:?}"
        );
    }

    /// Expected values by Python's `colorsys` and torchvision's formulas.
    #[test]
    fn each_change_is_that_of_torchvision() {
        let image = [0.2f32, 0.4, 0.6, 0.9, 0.5, 0.1];
        let changed = |change, value| {
            let mut pixels = image;
            only(change, value).apply(&mut pixels);
            pixels
        };
        close(&changed(0, 1.5), &[0.3, 0.6, 0.9, 1.0, 0.75, 0.15]);
        // The pixels' grey values are 0.36298 and 0.57391, their mean 0.468445.
        let mean = 0.468_445;
        close(&changed(1, 0.5), &image.map(|x| 0.5 * x + 0.5 * mean));
        let [a, b] = [0.362_98, 0.573_91];
        let faded = [0.1 + a / 2.0, 0.2 + a / 2.0, 0.3 + a / 2.0];
        close(&changed(2, 0.5)[..3], &faded);
        close(&changed(2, 0.0)[3..], &[b; 3]);
        // (0.2, 0.4, 0.6) has hue 7/12, (0.9, 0.5, 0.1) 1/12.
        close(&changed(3, 0.5), &[0.6, 0.4, 0.2, 0.1, 0.5, 0.9]);
        close(&changed(3, 1.0 / 3.0), &[0.6, 0.2, 0.4, 0.1, 0.9, 0.5]);
        close(&changed(3, -1.0), &image);
    }

    #[test]
    fn draws_keep_to_their_strengths_and_reach_every_order() {
        let philox = Philox::new(1, Purpose::Augment);
        let mut orders = std::collections::HashSet::new();
        for slot in 0..2000 {
            let drawn = Jitter::draw([0.4, 2.0, 0.0, 0.2], &philox, 3, slot).unwrap();
            let [brightness, contrast, saturation] = drawn.factors;
            assert!((0.6..=1.4).contains(&brightness));
            assert!((0.0..=3.0).contains(&contrast));
            assert_eq!(saturation, 1.0);
            assert!((-0.2..=0.2).contains(&drawn.hue));
            orders.insert(drawn.order);
        }
        assert_eq!(orders.len(), 24);
        assert_eq!(Jitter::draw([0.0; 4], &philox, 3, 0), None);
    }

    #[test]
    fn strengths_that_are_none_name_the_flag() {
        assert_eq!(strengths(&[]).unwrap(), [0.0; 4]);
        for bad in [&[0.4f32][..], &[0.4, 0.4, 0.4, 0.6], &[-1.0, 0.0, 0.0, 0.0]] {
            let error = strengths(bad).unwrap_err().to_string();
            assert!(error.starts_with("--color-jitter: expected"), "{error}");
        }
    }
}
