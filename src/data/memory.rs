//! Images held in memory as u8, and scaling to a square.

use std::sync::Arc;

use anyhow::{Result, ensure};
use image::RgbImage;
use image::imageops::{self, FilterType};
use rayon::prelude::*;

use super::{Images, Spec};

/// The most bytes of decoded pixels that a data set holds in memory: 8 GiB.
pub const MEMORY_LIMIT: u64 = 8 << 30;

/// Images in one buffer, \[N, H, W, 3\].
pub struct InMemory {
    /// \[H, W\].
    pub size: [usize; 2],
    /// N·H·W·3 bytes.
    pub pixels: Vec<u8>,
    /// N labels.
    pub labels: Vec<u32>,
}

impl Images for InMemory {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn label(&self, i: usize) -> u32 {
        self.labels[i]
    }

    fn pixels(&self, i: usize, out: &mut [u8]) {
        let bytes = self.size[0] * self.size[1] * 3;
        out.copy_from_slice(&self.pixels[i * bytes..][..bytes]);
    }
}

/// The middle of larger images.
pub struct Centre {
    images: Arc<dyn Images>,
    side: usize,
}

impl Centre {
    /// The central `side` × `side` pixels of `images`.
    ///
    /// # Errors
    /// Images that are smaller; the message names `--resize`.
    pub fn new(images: Arc<dyn Images>, side: usize) -> Result<Centre> {
        let [height, width] = images.size();
        ensure!(
            side <= height.min(width),
            "--resize: expected at least --image-size {side}, found images of {height}x{width}"
        );
        Ok(Centre { images, side })
    }
}

impl Images for Centre {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn size(&self) -> [usize; 2] {
        [self.side; 2]
    }

    fn label(&self, i: usize) -> u32 {
        self.images.label(i)
    }

    fn pixels(&self, i: usize, out: &mut [u8]) {
        let [height, width] = self.images.size();
        let (top, left) = ((height - self.side) / 2, (width - self.side) / 2);
        let mut whole = vec![0; height * width * 3];
        self.images.pixels(i, &mut whole);
        let rows = whole.chunks_exact(width * 3).skip(top);
        for (to, from) in out.chunks_exact_mut(self.side * 3).zip(rows) {
            to.copy_from_slice(&from[3 * left..3 * (left + self.side)]);
        }
    }
}

/// `images` scaled to `side` × `side` ([`fit`]), or themselves when they have that size.
///
/// # Errors
/// When the scaled images are beyond [`MEMORY_LIMIT`].
pub fn resized(images: Arc<dyn Images>, side: usize, spec: &Spec) -> Result<Arc<dyn Images>> {
    let [height, width] = images.size();
    if [height, width] == [side, side] {
        return Ok(images);
    }
    let bytes = side * side * 3;
    let remedy = || {
        format!(
            "lower --image-size, or import the images to a pack of that size: \
             `ndarts data import FOLDER -o FILE.pack --image-size {side}`"
        )
    };
    let mut pixels = allocate(
        images.len(),
        bytes,
        &format!("{spec} at --image-size {side}"),
        remedy,
    )?;
    pixels
        .par_chunks_exact_mut(bytes)
        .enumerate()
        .for_each(|(i, out)| {
            let mut image = RgbImage::new(width as u32, height as u32);
            images.pixels(i, &mut image);
            out.copy_from_slice(&fit(&image, side));
        });
    Ok(Arc::new(InMemory {
        size: [side, side],
        pixels,
        labels: (0..images.len()).map(|i| images.label(i)).collect(),
    }))
}

/// A zeroed buffer for `count` images of `bytes` bytes each.
///
/// # Errors
/// Beyond [`MEMORY_LIMIT`], or more than the machine gives: names `what` and says what to do (`remedy`).
pub fn allocate(
    count: usize,
    bytes: usize,
    what: &str,
    remedy: impl Fn() -> String,
) -> Result<Vec<u8>> {
    let total = (count as u64).saturating_mul(bytes as u64);
    let gib = total as f64 / f64::from(1 << 30);
    ensure!(
        total <= MEMORY_LIMIT,
        "{what}: expected at most 8 GiB of decoded pixels in memory, found {gib:.1} GiB; {}",
        remedy()
    );
    let mut pixels = Vec::new();
    ensure!(
        pixels.try_reserve_exact(total as usize).is_ok(),
        "{what}: {gib:.1} GiB of memory for the decoded pixels are not to be had; {}",
        remedy()
    );
    pixels.resize(total as usize, 0);
    Ok(pixels)
}

/// The central square of `image`, scaled to `side` × `side` with an antialiased triangle filter.
///
/// This is "scale the shorter side to `side`, then crop the centre" with the crop first, so that no
/// long, thin image makes a huge intermediate one.
pub fn fit(image: &RgbImage, side: usize) -> RgbImage {
    let (width, height) = image.dimensions();
    let square = width.min(height);
    let (left, top) = ((width - square) / 2, (height - square) / 2);
    let centre = imageops::crop_imm(image, left, top, square, square);
    if square as usize == side {
        centre.to_image()
    } else {
        imageops::resize(&*centre, side as u32, side as u32, FilterType::Triangle)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::counting;
    use super::*;

    #[test]
    fn fit_keeps_the_centre_of_a_wide_image() {
        let mut image = RgbImage::new(6, 2);
        image.put_pixel(2, 1, image::Rgb([9, 8, 7]));
        let fitted = fit(&image, 2);
        assert_eq!(fitted.dimensions(), (2, 2));
        assert_eq!(fitted.get_pixel(0, 1).0, [9, 8, 7]);
    }

    #[test]
    fn fit_of_a_plain_image_is_plain_at_any_size() {
        let image = RgbImage::from_pixel(5, 9, image::Rgb([10, 200, 30]));
        for side in [1, 3, 8, 20] {
            assert!(fit(&image, side).pixels().all(|p| p.0 == [10, 200, 30]));
        }
    }

    #[test]
    fn resized_images_keep_their_labels_and_order() {
        let images: Arc<dyn Images> = Arc::new(counting(5, [4, 4], 3));
        let scaled = resized(images.clone(), 2, &Spec::Digits).unwrap();
        assert_eq!(scaled.len(), 5);
        assert_eq!(scaled.size(), [2, 2]);
        assert!((0..5).all(|i| scaled.label(i) == images.label(i)));
        let same = resized(images.clone(), 4, &Spec::Digits).unwrap();
        assert!(Arc::ptr_eq(&same, &images));
    }

    #[test]
    fn more_than_eight_gib_is_refused_before_it_is_allocated() {
        let error = allocate(100_000, 1 << 20, "folder:x", || "do this".into()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("at most 8 GiB") && text.contains("97.7 GiB; do this"),
            "{text}"
        );
    }
}
