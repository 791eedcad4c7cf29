//! An NHWC array. Reads outside the image are zero or absent, as the reader asks.

use crate::oracle::derivative::Scalar;

/// `[N, H, W, C]`, channels contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    /// N, H, W, C
    pub shape: [usize; 4],
    /// Elements, row-major.
    pub data: Vec<T>,
}

impl<T: Scalar> Tensor<T> {
    /// Wraps `data`, whose length must be the product of `shape`.
    pub fn new(shape: [usize; 4], data: Vec<T>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "shape {shape:?}"
        );
        Tensor { shape, data }
    }

    /// Each element from its indices (image, row, column, channel).
    pub fn build(shape: [usize; 4], element: impl Fn([usize; 4]) -> T) -> Self {
        let [n, h, w, c] = shape;
        let mut data = Vec::with_capacity(n * h * w * c);
        for image in 0..n {
            for y in 0..h {
                for x in 0..w {
                    data.extend((0..c).map(|channel| element([image, y, x, channel])));
                }
            }
        }
        Tensor { shape, data }
    }

    /// The element at (image, row, column, channel).
    pub fn at(&self, [n, y, x, c]: [usize; 4]) -> T {
        let [_, height, width, channels] = self.shape;
        assert!(y < height && x < width && c < channels);
        self.data[((n * height + y) * width + x) * channels + c]
    }

    /// The element, or `None` when row or column lie outside the image.
    pub fn inside(&self, n: usize, y: isize, x: isize, c: usize) -> Option<T> {
        let [_, height, width, _] = self.shape;
        let (y, x) = (usize::try_from(y).ok()?, usize::try_from(x).ok()?);
        (y < height && x < width).then(|| self.at([n, y, x, c]))
    }

    /// Applies `f` to each element.
    pub fn map(&self, f: impl Fn(T) -> T) -> Self {
        Tensor {
            shape: self.shape,
            data: self.data.iter().map(|&x| f(x)).collect(),
        }
    }

    /// Elementwise sum of two arrays of one shape.
    pub fn plus(&self, other: &Self) -> Self {
        assert_eq!(self.shape, other.shape);
        let data = self
            .data
            .iter()
            .zip(&other.data)
            .map(|(&a, &b)| a + b)
            .collect();
        Tensor {
            shape: self.shape,
            data,
        }
    }

    /// The arrays one after another on the channel axis.
    pub fn concatenate(parts: &[Self]) -> Self {
        let [n, h, w, _] = parts[0].shape;
        assert!(parts.iter().all(|part| part.shape[..3] == [n, h, w]));
        let channels = parts.iter().map(|part| part.shape[3]).sum();
        let mut data = Vec::with_capacity(n * h * w * channels);
        for pixel in 0..n * h * w {
            for part in parts {
                let c = part.shape[3];
                data.extend_from_slice(&part.data[pixel * c..(pixel + 1) * c]);
            }
        }
        Tensor {
            shape: [n, h, w, channels],
            data,
        }
    }
}
