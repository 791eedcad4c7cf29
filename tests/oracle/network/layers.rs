//! Layers by PyTorch name: fetch the tensor, bring it into the engine's layout, call the op.

use super::Weights;
use crate::oracle::derivative::Scalar;
use crate::oracle::ops::{self, Window};
use crate::oracle::tensor::Tensor;

/// Dense convolution `name.weight` `[Cout, Cin, k, k]`, and `name.bias` when `biased`.
pub fn conv<T: Scalar>(
    weights: &mut impl Weights<T>,
    name: &str,
    x: &Tensor<T>,
    channels_out: usize,
    window: Window,
    (rectified, biased): (bool, bool),
) -> Tensor<T> {
    let (cin, k) = (x.shape[3], window.kernel);
    let weight = weights.tensor(&format!("{name}.weight"), &[channels_out, cin, k, k]);
    let weight = transpose(&weight, channels_out);
    let weight = reorder_taps(&weight, k * k, cin, channels_out);
    let bias = biased.then(|| weights.tensor(&format!("{name}.bias"), &[channels_out]));
    ops::conv(x, rectified, window, &weight, bias.as_deref())
}

/// Convolution along one axis, `name.weight` `[C, C, k, 1]` where `vertical`, else `[C, C, 1, k]`.
pub fn conv_along<T: Scalar>(
    weights: &mut impl Weights<T>,
    name: &str,
    x: &Tensor<T>,
    (rectified, vertical): (bool, bool),
    window: Window,
) -> Tensor<T> {
    let (c, k) = (x.shape[3], window.kernel);
    let taps = if vertical { [k, 1] } else { [1, k] };
    let weight = weights.tensor(&format!("{name}.weight"), &[c, c, taps[0], taps[1]]);
    let weight = reorder_taps(&transpose(&weight, c), k, c, c);
    ops::conv_along(x, rectified, vertical, window, &weight)
}

/// relu → depthwise `depthwise` `[C, 1, k, k]` → pointwise `pointwise` `[Cout, C, 1, 1]`, of batch
/// norm of x when `normalised`.
pub fn separable<T: Scalar>(
    weights: &mut impl Weights<T>,
    [depthwise, pointwise]: [&str; 2],
    x: &Tensor<T>,
    channels_out: usize,
    window: Window,
    normalised: bool,
) -> Tensor<T> {
    let (c, k) = (x.shape[3], window.kernel);
    let taps = weights.tensor(&format!("{depthwise}.weight"), &[c, 1, k, k]);
    let point = weights.tensor(&format!("{pointwise}.weight"), &[channels_out, c, 1, 1]);
    ops::separable(
        x,
        normalised,
        window,
        &transpose(&taps, c),
        &transpose(&point, channels_out),
    )
}

/// relu → two stride-2 halves `name.conv_1` and `name.conv_2`, to `channels_out` together.
pub fn factorized_reduce<T: Scalar>(
    weights: &mut impl Weights<T>,
    name: &str,
    x: &Tensor<T>,
    channels_out: usize,
) -> Tensor<T> {
    let (cin, half) = (x.shape[3], channels_out / 2);
    let mut pointwise = |part: &str| {
        let weight = weights.tensor(&format!("{name}.{part}.weight"), &[half, cin, 1, 1]);
        transpose(&weight, half)
    };
    let (first, second) = (pointwise("conv_1"), pointwise("conv_2"));
    ops::factorized_reduce(x, &first, &second)
}

/// Batch norm with gain `name.weight` and shift `name.bias`.
pub fn affine_norm<T: Scalar>(
    weights: &mut impl Weights<T>,
    name: &str,
    x: &Tensor<T>,
) -> Tensor<T> {
    let channels = [x.shape[3]];
    let gain = weights.tensor(&format!("{name}.weight"), &channels);
    let shift = weights.tensor(&format!("{name}.bias"), &channels);
    ops::norm(x, Some((&gain, &shift)))
}

/// \[relu] → pooling → linear `classifier.weight` `[classes, C]`, `classifier.bias` → loss, logits.
pub fn classifier<T: Scalar>(
    weights: &mut impl Weights<T>,
    x: &Tensor<T>,
    rectified: bool,
    classes: usize,
    labels: &[usize],
) -> (T, Vec<T>) {
    let weight = weights.tensor("classifier.weight", &[classes, x.shape[3]]);
    let bias = weights.tensor("classifier.bias", &[classes]);
    ops::classifier(x, rectified, &transpose(&weight, classes), &bias, labels)
}

/// `[rows, columns]` → `[columns, rows]`
fn transpose<T: Scalar>(matrix: &[T], rows: usize) -> Vec<T> {
    let columns = matrix.len() / rows;
    (0..matrix.len())
        .map(|i| matrix[(i % rows) * columns + i / rows])
        .collect()
}

/// `[Cin, taps, Cout]` → `[taps, Cin, Cout]`
fn reorder_taps<T: Scalar>(weight: &[T], taps: usize, cin: usize, cout: usize) -> Vec<T> {
    let from = |tap, c, out| weight[(c * taps + tap) * cout + out];
    (0..weight.len())
        .map(|i| from(i / (cin * cout), i / cout % cin, i % cout))
        .collect()
}

#[test]
fn a_dense_weight_moves_from_pytorchs_layout_to_ours() {
    // [Cout 2, Cin 3, taps 4], each value telling its own indices.
    let weight: Vec<f64> = (0..24)
        .map(|i| f64::from(i / 12 * 100 + i / 4 % 3 * 10 + i % 4))
        .collect();
    let ours = reorder_taps(&transpose(&weight, 2), 4, 3, 2);
    let told = |tap: usize, c: usize, out: usize| (out * 100 + c * 10 + tap) as f64;
    let expected: Vec<f64> = (0..24).map(|i| told(i / 6, i / 2 % 3, i % 2)).collect();
    assert_eq!(ours, expected);
}
