//! Where a k×k window reads: taps of the forward direction, and of its transpose.
//!
//! Kernels read an image copied into scratch with a border of zeros, so a tap is one offset and
//! there is no edge case. The transpose of a stride-s window is s² interleaved windows of stride
//! one, each with the taps of its parity: no zero is ever multiplied.

/// One tap of a window, in f32 from the window's origin pixel and in f32 into the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Offset into the padded image.
    pub input: usize,
    /// Offset into the packed weights.
    pub weight: usize,
}

/// Size, stride and reach of a window over an H×W image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// k
    pub kernel: usize,
    /// s
    pub stride: usize,
    /// d
    pub dilation: usize,
    /// Input H, W.
    pub input: [usize; 2],
}

/// The transpose's taps for the input pixels (y, x) ≡ (`row`, `column`) mod stride.
#[derive(Clone, Debug)]
pub struct ParityClass {
    /// y mod stride.
    pub row: usize,
    /// x mod stride.
    pub column: usize,
    /// Taps into the padded output adjoint.
    pub taps: Vec<Tap>,
}

impl Window {
    /// Zeros on each side of the input: d·(k−1)/2.
    pub fn padding(&self) -> usize {
        self.dilation * (self.kernel - 1) / 2
    }

    /// Output H, W: ⌈H/s⌉, as PyTorch's floor((H + 2p − d(k−1) − 1)/s) + 1.
    pub fn output(&self) -> [usize; 2] {
        self.input.map(|size| size.div_ceil(self.stride))
    }

    /// Border that the transpose needs around the output adjoint.
    pub fn transpose_border(&self) -> usize {
        self.padding() + 1
    }

    /// Taps into an image with `border` zeros around it and `channels` f32 a pixel; the weights
    /// hold `weight` f32 a tap, k×k taps in row-major order.
    pub fn taps(&self, border: usize, channels: usize, weight: usize) -> Vec<Tap> {
        let row = (self.input[1] + 2 * border) * channels;
        let first = border - self.padding();
        let mut taps = Vec::with_capacity(self.kernel * self.kernel);
        for ky in 0..self.kernel {
            for kx in 0..self.kernel {
                taps.push(Tap {
                    input: (first + ky * self.dilation) * row
                        + (first + kx * self.dilation) * channels,
                    weight: (ky * self.kernel + kx) * weight,
                });
            }
        }
        taps
    }

    /// The transpose: input pixel s·m + a gathers outputs m + (a + p − k·d)/s where that is
    /// whole, from an output adjoint with `border` zeros around it.
    pub fn transposed(&self, border: usize, channels: usize, weight: usize) -> Vec<ParityClass> {
        let width = self.output()[1] + 2 * border;
        let s = self.stride as isize;
        let reach = |a: usize, k: usize| {
            let from = (a + self.padding()) as isize - (k * self.dilation) as isize;
            (from.rem_euclid(s) == 0).then(|| from.div_euclid(s) + border as isize)
        };
        let mut classes = Vec::with_capacity(self.stride * self.stride);
        for row in 0..self.stride {
            for column in 0..self.stride {
                let mut taps = Vec::new();
                for ky in 0..self.kernel {
                    for kx in 0..self.kernel {
                        if let (Some(y), Some(x)) = (reach(row, ky), reach(column, kx)) {
                            taps.push(Tap {
                                input: (y as usize * width + x as usize) * channels,
                                weight: (ky * self.kernel + kx) * weight,
                            });
                        }
                    }
                }
                classes.push(ParityClass { row, column, taps });
            }
        }
        classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn transpose_reaches_exactly_the_outputs_that_read_a_pixel(
            kernel in prop::sample::select(vec![1usize, 3, 5, 7]), stride in 1usize..3,
            dilation in 1usize..3, h in 1usize..9, w in 1usize..9,
        ) {
            let window = Window { kernel, stride, dilation, input: [h, w] };
            let [oh, ow] = window.output();
            let border = window.transpose_border();
            let width = ow + 2 * border;
            let mut forward = Vec::new();
            for oy in 0..oh { for ox in 0..ow { for ky in 0..kernel { for kx in 0..kernel {
                let y = (oy * stride + ky * dilation) as isize - window.padding() as isize;
                let x = (ox * stride + kx * dilation) as isize - window.padding() as isize;
                if (0..h as isize).contains(&y) && (0..w as isize).contains(&x) {
                    forward.push((y as usize, x as usize, oy, ox, ky * kernel + kx));
                }
            }}}}
            let mut backward = Vec::new();
            for class in window.transposed(border, 1, 1) {
                for (m, y) in (class.row..h).step_by(stride).enumerate() {
                    for (n, x) in (class.column..w).step_by(stride).enumerate() {
                        for tap in &class.taps {
                            let at = tap.input + m * width + n;
                            let (py, px) = (at / width, at % width);
                            prop_assert!(py < oh + 2 * border);
                            if (border..border + oh).contains(&py) && (border..border + ow).contains(&px) {
                                backward.push((y, x, py - border, px - border, tap.weight));
                            }
                        }
                    }
                }
            }
            forward.sort_unstable();
            backward.sort_unstable();
            prop_assert_eq!(forward, backward);
        }
    }
}
