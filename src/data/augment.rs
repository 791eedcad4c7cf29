//! From a u8 image to normalised f32: random crop with padding, horizontal flip, cutout.
//!
//! The draws of an image are one pure function of (seed, stream, step, slot in the batch). As in the
//! reference code of DARTS, crop and flip act on pixels (the padding is black) and cutout acts on
//! normalised values (the square becomes 0, the mean).

use anyhow::{Result, ensure};

use crate::device::random::Philox;

/// Random changes to training images; all off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augment {
    /// Black pixels added on each side before a crop of the original size at a random place.
    pub crop_padding: usize,
    /// Mirror left and right with probability ½.
    pub flip: bool,
    /// Side of a square at a random centre that is set to the mean; clipped at the border.
    pub cutout: usize,
}

impl Augment {
    /// Checks padding and cutout against the size of the images, \[H, W\].
    ///
    /// # Errors
    /// Names `--crop-padding` or `--cutout` when it is beyond the shorter side.
    pub fn check(&self, size: [usize; 2]) -> Result<()> {
        let side = size[0].min(size[1]);
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

    /// The draws for slot `slot` of the batch of `stream`, which holds loader and step.
    pub(super) fn draw(
        &self,
        philox: &Philox,
        stream: u64,
        slot: u64,
        size: [usize; 2],
    ) -> Placement {
        let [y, x, flip, _] = philox.block(2 * slot, stream);
        let [cut_y, cut_x, ..] = philox.block(2 * slot + 1, stream);
        let offset =
            |word| below(word, 2 * self.crop_padding + 1) as isize - self.crop_padding as isize;
        Placement {
            shift: [offset(y), offset(x)],
            flip: self.flip && flip >> 31 == 1,
            cut: [
                square(below(cut_y, size[0]), self.cutout, size[0]),
                square(below(cut_x, size[1]), self.cutout, size[1]),
            ],
        }
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// The crop's top left corner relative to the image's, y and x.
    shift: [isize; 2],
    flip: bool,
    /// First row and one past the last, first column and one past the last, of the cutout.
    cut: [[usize; 2]; 2],
}

/// (value / 255 − mean) / std per channel, for all 256 values.
#[derive(Clone)]
pub(super) struct Normaliser {
    table: Box<[[f32; 3]; 256]>,
}

impl Normaliser {
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Normaliser {
        let mut table = Box::new([[0.0; 3]; 256]);
        for (value, entry) in table.iter_mut().enumerate() {
            for channel in 0..3 {
                entry[channel] = (value as f32 / 255.0 - mean[channel]) / std[channel];
            }
        }
        Normaliser { table }
    }

    /// Writes `pixels` \[H, W, 3\] normalised to `out`, of the same shape.
    pub fn plain(&self, pixels: &[u8], out: &mut [f32]) {
        for (out, rgb) in out.chunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
            self.pixel([rgb[0], rgb[1], rgb[2]], out);
        }
    }

    /// Writes `pixels` \[H, W, 3\] as `placement` says, normalised, to `out`, of the same shape.
    pub fn placed(
        &self,
        pixels: &[u8],
        [height, width]: [usize; 2],
        placement: &Placement,
        out: &mut [f32],
    ) {
        let Placement {
            shift: [dy, dx],
            flip,
            cut: [rows, columns],
        } = *placement;
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
            if (rows[0]..rows[1]).contains(&y) {
                row[3 * columns[0]..3 * columns[1]].fill(0.0);
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
