//! Dense and separable convolutions and the factorized reduction.

use super::{norm, relu};
use crate::oracle::derivative::Scalar;
use crate::oracle::tensor::Tensor;

/// A square window, centred: the zero padding is dilation·(kernel − 1)/2.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// k
    pub kernel: usize,
    /// s
    pub stride: usize,
    /// d
    pub dilation: usize,
}

impl Window {
    /// A window without dilation.
    pub fn dense(kernel: usize, stride: usize) -> Self {
        Window {
            kernel,
            stride,
            dilation: 1,
        }
    }

    /// ⌈size / s⌉
    pub fn output(&self, size: usize) -> usize {
        size.div_ceil(self.stride)
    }

    /// The input position under `tap` for output `position`; negative in the padding.
    pub fn source(&self, position: usize, tap: usize) -> isize {
        let padding = self.dilation * (self.kernel - 1) / 2;
        (position * self.stride + tap * self.dilation) as isize - padding as isize
    }
}

/// \[batch norm without γ and β] → relu → depthwise `[k, k, Cin]` → pointwise `[Cin, Cout]`.
pub fn separable<T: Scalar>(
    x: &Tensor<T>,
    normalised: bool,
    window: Window,
    depthwise: &[T],
    pointwise: &[T],
) -> Tensor<T> {
    let [n, h, w, channels] = x.shape;
    assert_eq!(depthwise.len(), window.kernel * window.kernel * channels);
    let x = if normalised { norm(x, None) } else { x.clone() }.map(relu);
    let shape = [n, window.output(h), window.output(w), channels];
    let filtered = Tensor::build(shape, |[image, row, column, channel]| {
        let mut sum = T::zero();
        for tap in 0..window.kernel * window.kernel {
            let y = window.source(row, tap / window.kernel);
            let x_source = window.source(column, tap % window.kernel);
            if let Some(value) = x.inside(image, y, x_source, channel) {
                sum += value * depthwise[tap * channels + channel];
            }
        }
        sum
    });
    conv(&filtered, false, Window::dense(1, 1), pointwise, None)
}

/// \[relu] → dense k×k, weight `[k, k, Cin, Cout]` → \[+ bias `[Cout]`].
pub fn conv<T: Scalar>(
    x: &Tensor<T>,
    rectified: bool,
    window: Window,
    weight: &[T],
    bias: Option<&[T]>,
) -> Tensor<T> {
    let [n, h, w, cin] = x.shape;
    let taps = window.kernel * window.kernel;
    let cout = weight.len() / (taps * cin);
    assert_eq!(weight.len(), taps * cin * cout);
    let x = if rectified { x.map(relu) } else { x.clone() };
    let shape = [n, window.output(h), window.output(w), cout];
    Tensor::build(shape, |[image, row, column, out]| {
        let mut sum = bias.map_or(T::zero(), |bias| bias[out]);
        for tap in 0..taps {
            let y = window.source(row, tap / window.kernel);
            let x_source = window.source(column, tap % window.kernel);
            for channel in 0..cin {
                if let Some(value) = x.inside(image, y, x_source, channel) {
                    sum += value * weight[(tap * cin + channel) * cout + out];
                }
            }
        }
        sum
    })
}

/// \[relu] → one row of a k×k window, or one column where `vertical`; weight `[k, Cin, Cout]`. The stride
/// is that of both axes.
pub fn conv_along<T: Scalar>(
    x: &Tensor<T>,
    rectified: bool,
    vertical: bool,
    window: Window,
    weight: &[T],
) -> Tensor<T> {
    let [n, h, w, cin] = x.shape;
    let cout = weight.len() / (window.kernel * cin);
    let x = if rectified { x.map(relu) } else { x.clone() };
    let middle = window.kernel / 2;
    let shape = [n, window.output(h), window.output(w), cout];
    Tensor::build(shape, |[image, row, column, out]| {
        let mut sum = T::zero();
        for tap in 0..window.kernel {
            let (down, across) = if vertical {
                (tap, middle)
            } else {
                (middle, tap)
            };
            let (y, x_source) = (window.source(row, down), window.source(column, across));
            for channel in 0..cin {
                if let Some(value) = x.inside(image, y, x_source, channel) {
                    sum += value * weight[(tap * cin + channel) * cout + out];
                }
            }
        }
        sum
    })
}

/// relu → two pointwise convolutions of stride 2, the second on the image moved by one pixel up and
/// left, their results one after another on the channels. Beyond an odd edge the image is zero.
pub fn factorized_reduce<T: Scalar>(x: &Tensor<T>, first: &[T], second: &[T]) -> Tensor<T> {
    let [n, h, w, cin] = x.shape;
    let halved = Window::dense(1, 2);
    let x = x.map(relu);
    let shifted = Tensor::build([n, h, w, cin], |[image, row, column, channel]| {
        let (y, x_source) = (row as isize + 1, column as isize + 1);
        x.inside(image, y, x_source, channel).unwrap_or(T::zero())
    });
    let halves = [
        conv(&x, false, halved, first, None),
        conv(&shifted, false, halved, second, None),
    ];
    Tensor::concatenate(&halves)
}
