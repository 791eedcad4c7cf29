//! Pooling.

use super::Window;
use crate::oracle::derivative::Scalar;
use crate::oracle::tensor::Tensor;

/// The pools of the search spaces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pool {
    /// Mean of 3×3, padding 1 that is not counted.
    Average3,
    /// Maximum of 3×3, padding 1; among equals the first in row-major order.
    Max3,
    /// Maximum of 5×5, padding 2; among equals the first in row-major order.
    Max5,
    /// Maximum of 7×7, padding 3; among equals the first in row-major order.
    Max7,
    /// Mean of 2×2, stride 2, no padding.
    Average2,
    /// Maximum of 2×2, stride 2, no padding; among equals the first in row-major order.
    Max2,
}

/// Pools each channel; `stride` is 2 for the pools of 2×2.
pub fn pool<T: Scalar>(x: &Tensor<T>, kind: Pool, stride: usize) -> Tensor<T> {
    let [n, h, w, c] = x.shape;
    if matches!(kind, Pool::Average2 | Pool::Max2) {
        assert_eq!(stride, 2);
        return Tensor::build([n, h / 2, w / 2, c], |[image, row, column, channel]| {
            let corner = |dy, dx| x.at([image, 2 * row + dy, 2 * column + dx, channel]);
            let corners = [corner(0, 0), corner(0, 1), corner(1, 0), corner(1, 1)];
            match kind {
                Pool::Max2 => first_maximum(&corners),
                _ => corners.iter().copied().sum::<T>() * 0.25,
            }
        });
    }
    let side = match kind {
        Pool::Max5 => 5,
        Pool::Max7 => 7,
        _ => 3,
    };
    let window = Window::dense(side, stride);
    Tensor::build(
        [n, window.output(h), window.output(w), c],
        |[image, row, column, channel]| {
            let values = (0..side * side).filter_map(|tap| {
                let (y, x_source) = (
                    window.source(row, tap / side),
                    window.source(column, tap % side),
                );
                x.inside(image, y, x_source, channel)
            });
            let values: Vec<T> = values.collect();
            match kind {
                Pool::Average3 => values.iter().copied().sum::<T>() / values.len() as f64,
                _ => first_maximum(&values),
            }
        },
    )
}

fn first_maximum<T: Scalar>(values: &[T]) -> T {
    values.iter().skip(1).fold(
        values[0],
        |best, &x| if x.re() > best.re() { x } else { best },
    )
}
