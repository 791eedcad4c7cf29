//! From a u8 image to normalised f32: random crop with padding or random resized crop, horizontal flip,
//! colour jitter, cutout.
//!
//! The draws of an image are one pure function of (seed, stream, step, slot in the batch). As in the
//! reference code of DARTS, crop and flip act on pixels (the padding is black) and cutout acts on
//! normalised values (the square becomes 0, the mean).

use anyhow::{Result, ensure};
use std::sync::LazyLock;

use super::jitter::{Jitter, Strengths};
use crate::device::random::Philox;

/// Random changes to training images; all off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// Black pixels added on each side before a crop of the original size at a random place.
    pub crop_padding: usize,
    /// Mirror left and right with probability ½.
    pub flip: bool,
    /// Side of the square that a random part of the image is scaled to (see [`Part`]); 0 turns it off.
    pub resized_crop: usize,
    /// How much the colours change; zeros leave them.
    pub jitter: Strengths,
    /// Side of a square at a random centre that is set to the mean; clipped at the border.
    pub cutout: usize,
}

impl Augment {
    /// Checks padding and cutout against the size of the images, \[H, W\].
    ///
    /// # Errors
    /// Names `--crop-padding` or `--cutout` when it is beyond the shorter side.
    pub fn check(&self, size: [usize; 2]) -> Result<()> {
        ensure!(
            self.resized_crop == 0 || self.crop_padding == 0,
            "--crop-padding: expected 0 beside --resize, whose random crop it would be a second one to, found \
             {}; leave one of both out",
            self.crop_padding
        );
        let out = self.size(size);
        let side = out[0].min(out[1]);
        for (flag, pixels) in [
            ("--crop-padding", self.crop_padding),
            ("--cutout", self.cutout),
        ] {
            ensure!(
                pixels <= side,
                "{flag}: expected 0 to {side} pixels (the shorter side of the images), found {pixels}; lower {flag}"
            );
        }
        Ok(())
    }

    /// \[H, W\] of what images of `size` become.
    pub fn size(&self, size: [usize; 2]) -> [usize; 2] {
        match self.resized_crop {
            0 => size,
            side => [side; 2],
        }
    }

    /// The draws for slot `slot` of the batch of `stream`, which holds loader and step.
    pub(super) fn draw(
        &self,
        philox: &Philox,
        stream: u64,
        slot: u64,
        size: [usize; 2],
    ) -> Placement {
        let out = self.size(size);
        let [y, x, flip, _] = philox.block(2 * slot, stream);
        let [cut_y, cut_x, ..] = philox.block(2 * slot + 1, stream);
        let offset =
            |word| below(word, 2 * self.crop_padding + 1) as isize - self.crop_padding as isize;
        Placement {
            shift: [offset(y), offset(x)],
            flip: self.flip && flip >> 31 == 1,
            part: (self.resized_crop > 0).then(|| Part::draw(philox, stream, slot, size)),
            jitter: Jitter::draw(self.jitter, philox, stream, slot),
            cut: [
                square(below(cut_y, out[0]), self.cutout, out[0]),
                square(below(cut_x, out[1]), self.cutout, out[1]),
            ],
        }
    }
}

/// The rectangle of a random resized crop (Szegedy et al. 2015), as torchvision draws it: 8 to 100 % of
/// the area, width to height from 3/4 to 4/3, evenly in the logarithm; after ten that do not fit, the
/// whole image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

/// Where a slot's blocks of rectangles begin in the Philox counter: behind those of all other draws.
const PART_BLOCKS: u64 = 1 << 40;
const TRIES: u64 = 10;

impl Part {
    fn draw(philox: &Philox, stream: u64, slot: u64, [height, width]: [usize; 2]) -> Part {
        let unit = |word: u32| (f64::from(word) + 0.5) / f64::from(1u32 << 31) / 2.0;
        for attempt in 0..TRIES {
            let words = philox.block(PART_BLOCKS + slot * TRIES + attempt, stream);
            let area = (height * width) as f64 * (0.08 + 0.92 * unit(words[0]));
            let ratio = (4.0f64 / 3.0).powf(2.0 * unit(words[1]) - 1.0);
            let [w, h] = [area * ratio, area / ratio].map(|x| x.sqrt().round() as usize);
            if (1..=height).contains(&h) && (1..=width).contains(&w) {
                return Part {
                    top: below(words[2], height - h + 1),
                    left: below(words[3], width - w + 1),
                    height: h,
                    width: w,
                };
            }
        }
        Part {
            top: 0,
            left: 0,
            height,
            width,
        }
    }
}

/// Of output place `i` of `len` over `part` pixels from `first`: the two pixels around it, and the second's
/// weight. Pixels are areas: centres lie at halves.
fn between(i: usize, len: usize, first: usize, part: usize) -> ([usize; 2], f32) {
    let at = ((i as f32 + 0.5) * part as f32 / len as f32 - 0.5).clamp(0.0, (part - 1) as f32);
    let low = at as usize;
    let high = (low + 1).min(part - 1);
    ([first + low, first + high], at - low as f32)
}

/// ⌊word · n / 2³²⌋: uniform in 0..n to within n·2⁻³².
fn below(word: u32, n: usize) -> usize {
    ((u64::from(word) * n as u64) >> 32) as usize
}

/// `side` pixels around `centre`, clipped to 0..len.
fn square(centre: usize, side: usize, len: usize) -> [usize; 2] {
    [
        centre.saturating_sub(side / 2).min(len),
        (centre + side - side / 2).min(len),
    ]
}

/// What is done to one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Placement {
    /// What is scaled to the output; none: the image as it is.
    part: Option<Part>,
    /// The crop's top left corner relative to the image's, y and x.
    shift: [isize; 2],
    flip: bool,
    jitter: Option<Jitter>,
    /// First row and one past the last, first column and one past the last, of the cutout.
    cut: [[usize; 2]; 2],
}

/// (value / 255 − mean) / std per channel.
#[derive(Clone)]
pub(super) struct Normaliser {
    /// For all 256 values.
    table: Box<[[f32; 3]; 256]>,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Normaliser {
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Normaliser {
        let mut table = Box::new([[0.0; 3]; 256]);
        for (value, entry) in table.iter_mut().enumerate() {
            for channel in 0..3 {
                entry[channel] = (value as f32 / 255.0 - mean[channel]) / std[channel];
            }
        }
        Normaliser { table, mean, std }
    }

    /// Writes `pixels` \[H, W, 3\] normalised to `out`, of the same shape.
    pub fn plain(&self, pixels: &[u8], out: &mut [f32]) {
        for (out, rgb) in out.chunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
            self.pixel([rgb[0], rgb[1], rgb[2]], out);
        }
    }

    /// Writes `pixels` \[H, W, 3\] as `placement` says, normalised, to `out`: of the same shape, or the
    /// square that a part is scaled to.
    pub fn placed(&self, pixels: &[u8], size: [usize; 2], placement: &Placement, out: &mut [f32]) {
        match placement.jitter {
            None => self.moved(pixels, size, placement, out),
            // Colours are drawn in 0..1, and means are of what is looked at.
            Some(jitter) => {
                Normaliser::unit().moved(pixels, size, placement, out);
                jitter.apply(out);
                for pixel in out.chunks_exact_mut(3) {
                    for (channel, x) in pixel.iter_mut().enumerate() {
                        *x = (*x - self.mean[channel]) / self.std[channel];
                    }
                }
            }
        }
        let width = match placement.part {
            Some(_) => (out.len() / 3).isqrt(),
            None => size[1],
        };
        let [rows, columns] = placement.cut;
        for row in out.chunks_exact_mut(width * 3).take(rows[1]).skip(rows[0]) {
            row[3 * columns[0]..3 * columns[1]].fill(0.0);
        }
    }

    /// That of values in 0..1.
    fn unit() -> &'static Normaliser {
        static UNIT: LazyLock<Normaliser> = LazyLock::new(|| Normaliser::new([0.0; 3], [1.0; 3]));
        &UNIT
    }

    /// Crop and flip.
    fn moved(
        &self,
        pixels: &[u8],
        [height, width]: [usize; 2],
        placement: &Placement,
        out: &mut [f32],
    ) {
        let Placement {
            shift: [dy, dx],
            flip,
            part,
            ..
        } = *placement;
        if let Some(part) = part {
            let side = (out.len() / 3).isqrt();
            return self.scaled((pixels, width), part, flip, side, out);
        }
        for (y, row) in out.chunks_exact_mut(width * 3).enumerate() {
            let source = y.checked_add_signed(dy).filter(|&y| y < height);
            let source = source.map(|y| &pixels[y * width * 3..][..width * 3]);
            for (x, out) in row.chunks_exact_mut(3).enumerate() {
                let x = if flip { width - 1 - x } else { x };
                let x = x.checked_add_signed(dx).filter(|&x| x < width);
                let rgb = match (source, x) {
                    (Some(row), Some(x)) => [row[3 * x], row[3 * x + 1], row[3 * x + 2]],
                    _ => [0; 3],
                };
                self.pixel(rgb, out);
            }
        }
    }

    /// Writes `part` of `pixels` \[·, `width`, 3\], scaled bilinearly to the square `out` of `side` pixels
    /// and mirrored if `flip`, normalised.
    fn scaled(
        &self,
        (pixels, width): (&[u8], usize),
        part: Part,
        flip: bool,
        side: usize,
        out: &mut [f32],
    ) {
        for (y, row) in out.chunks_exact_mut(side * 3).enumerate() {
            let (rows, down) = between(y, side, part.top, part.height);
            for (x, out) in row.chunks_exact_mut(3).enumerate() {
                let x = if flip { side - 1 - x } else { x };
                let (columns, across) = between(x, side, part.left, part.width);
                for (channel, out) in out.iter_mut().enumerate() {
                    let at = |y: usize, x: usize| f32::from(pixels[(y * width + x) * 3 + channel]);
                    let [top, bottom] = rows.map(|y| {
                        let left = at(y, columns[0]);
                        left + across * (at(y, columns[1]) - left)
                    });
                    let value = top + down * (bottom - top);
                    *out = (value / 255.0 - self.mean[channel]) / self.std[channel];
                }
            }
        }
    }

    fn pixel(&self, rgb: [u8; 3], out: &mut [f32]) {
        for channel in 0..3 {
            out[channel] = self.table[usize::from(rgb[channel])][channel];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::Purpose;

    const STAY: Placement = Placement {
        shift: [0, 0],
        flip: false,
        part: None,
        jitter: None,
        cut: [[0, 0]; 2],
    };

    /// 2×3 image whose red channel is 1..=6, as 0..1 values times 255 after `Normaliser::new(0, 1)`.
    fn red(placement: Placement) -> Vec<u8> {
        let pixels: Vec<u8> = (1..=6).flat_map(|value| [value, 50, 60]).collect();
        let mut out = vec![0.0; 18];
        Normaliser::new([0.0; 3], [1.0; 3]).placed(&pixels, [2, 3], &placement, &mut out);
        out.iter()
            .step_by(3)
            .map(|value| (value * 255.0).round() as u8)
            .collect()
    }

    #[test]
    fn crop_flip_and_cutout_do_what_they_say() {
        assert_eq!(red(STAY), [1, 2, 3, 4, 5, 6]);
        assert_eq!(
            red(Placement {
                shift: [1, -1],
                ..STAY
            }),
            [0, 4, 5, 0, 0, 0]
        );
        assert_eq!(red(Placement { flip: true, ..STAY }), [3, 2, 1, 6, 5, 4]);
        // The flip mirrors the cropped image: crop gives 2 3 0 / 5 6 0.
        assert_eq!(
            red(Placement {
                shift: [0, 1],
                flip: true,
                ..STAY
            }),
            [0, 3, 2, 0, 6, 5]
        );
        assert_eq!(
            red(Placement {
                cut: [[1, 2], [0, 2]],
                ..STAY
            }),
            [1, 2, 3, 0, 0, 6]
        );
    }

    #[test]
    fn a_resized_crop_scales_its_part_and_takes_8_to_100_percent_of_the_image() {
        // A ramp over columns: any part stays one, and a part of the image's size is the image.
        let pixels: Vec<u8> = (0..64 * 64).flat_map(|i| [(i % 64) as u8; 3]).collect();
        let normaliser = Normaliser::new([0.0; 3], [1.0 / 255.0; 3]);
        let mut out = vec![0.0; 64 * 64 * 3];
        let whole = Part {
            top: 0,
            left: 0,
            height: 64,
            width: 64,
        };
        normaliser.scaled((&pixels, 64), whole, false, 64, &mut out);
        assert!(
            out.iter()
                .zip(&pixels)
                .all(|(&o, &p)| (o - f32::from(p)).abs() < 1e-3)
        );
        let mut small = vec![0.0; 16 * 16 * 3];
        let part = Part {
            top: 5,
            left: 8,
            height: 40,
            width: 32,
        };
        normaliser.scaled((&pixels, 64), part, false, 16, &mut small);
        let expected = |x: usize| 8.0 + (x as f32 + 0.5) * 2.0 - 0.5;
        assert!(
            (0..16).all(|x| (small[3 * x] - expected(x)).abs() < 1e-3),
            "{small:?}"
        );
        let philox = Philox::new(1, Purpose::Augment);
        for slot in 0..2000 {
            let part = Part::draw(&philox, 3, slot, [64, 64]);
            assert!(part.top + part.height <= 64 && part.left + part.width <= 64);
            let share = (part.height * part.width) as f64 / 4096.0;
            assert!((0.07..=1.0).contains(&share), "{part:?}");
            let ratio = part.width as f64 / part.height as f64;
            assert!((0.68..=1.47).contains(&ratio), "{part:?}");
        }
    }

    #[test]
    fn normalisation_is_value_over_255_minus_mean_over_std() {
        let mut out = [0.0; 3];
        Normaliser::new([0.5, 0.25, 0.0], [0.5, 0.25, 2.0]).plain(&[0, 255, 51], &mut out);
        assert_eq!(out, [-1.0, 3.0, 0.1]);
    }

    #[test]
    fn draws_reach_every_shift_and_stay_within_the_padding() {
        let augment = Augment {
            crop_padding: 2,
            flip: true,
            resized_crop: 0,
            jitter: [0.0; 4],
            cutout: 3,
        };
        let philox = Philox::new(1, Purpose::Augment);
        let mut shifts = std::collections::HashSet::new();
        let mut flips = 0;
        for slot in 0..1000 {
            let placement = augment.draw(&philox, 0, slot, [4, 6]);
            shifts.insert(placement.shift);
            flips += usize::from(placement.flip);
            let [[top, bottom], [left, right]] = placement.cut;
            assert!(top < bottom && bottom <= 4 && bottom - top <= 3);
            assert!(left < right && right <= 6 && right - left <= 3);
        }
        assert_eq!(shifts.len(), 25);
        assert!((430..570).contains(&flips));
    }

    #[test]
    fn padding_and_cutout_beyond_the_image_name_their_flag() {
        let check = |crop_padding, cutout| {
            Augment {
                crop_padding,
                flip: false,
                resized_crop: 0,
                jitter: [0.0; 4],
                cutout,
            }
            .check([8, 16])
            .map_err(|e| e.to_string())
        };
        assert!(check(8, 8).is_ok());
        assert!(
            check(9, 0)
                .unwrap_err()
                .starts_with("--crop-padding: expected 0 to 8")
        );
        assert!(
            check(0, usize::MAX)
                .unwrap_err()
                .starts_with("--cutout: expected 0 to 8")
        );
    }
}
