//! The head of a network, and the relaxation of α.

use super::relu;
use crate::oracle::derivative::Scalar;
use crate::oracle::tensor::Tensor;

/// \[relu] → mean over the pixels → linear `[Cin, classes]` + bias → softmax cross entropy, mean over
/// the batch. Returns the loss and the logits `[N, classes]`.
pub fn classifier<T: Scalar>(
    x: &Tensor<T>,
    rectified: bool,
    weight: &[T],
    bias: &[T],
    labels: &[usize],
) -> (T, Vec<T>) {
    let [n, h, w, cin] = x.shape;
    let classes = bias.len();
    assert_eq!((weight.len(), labels.len()), (cin * classes, n));
    let x = if rectified { x.map(relu) } else { x.clone() };
    let (mut loss, mut logits) = (T::zero(), Vec::with_capacity(n * classes));
    for (image, &label) in labels.iter().enumerate() {
        let feature = |c| {
            let pixels = (0..h * w).map(|p| x.at([image, p / w, p % w, c]));
            pixels.sum::<T>() / (h * w) as f64
        };
        let features: Vec<T> = (0..cin).map(feature).collect();
        let row = |class| {
            let terms = features
                .iter()
                .enumerate()
                .map(|(c, &f)| f * weight[c * classes + class]);
            terms.sum::<T>() + bias[class]
        };
        let row: Vec<T> = (0..classes).map(row).collect();
        loss += log_sum_exp(&row) - row[label];
        logits.extend(row);
    }
    (loss / n as f64, logits)
}

/// Softmax of each row of `columns` numbers: α `[E, O]` → op weights `[E, O]`.
pub fn relax<T: Scalar>(alpha: &[T], columns: usize) -> Vec<T> {
    assert_eq!(alpha.len() % columns, 0);
    let soften = |row: &[T]| {
        let total = log_sum_exp(row);
        row.iter().map(|&x| (x - total).exp()).collect::<Vec<T>>()
    };
    alpha.chunks(columns).flat_map(soften).collect()
}

/// Max-W regularisation of each row of `columns`: 1 − max s + s of its softmax s.
pub fn max_w<T: Scalar>(alpha: &[T], columns: usize) -> Vec<T> {
    let raise = |row: &[T]| {
        let largest = |most: T, &s: &T| if s.re() > most.re() { s } else { most };
        let most = row.iter().fold(row[0], largest);
        row.iter().map(|&s| s - most + 1.0).collect::<Vec<T>>()
    };
    let soft = relax(alpha, columns);
    soft.chunks(columns).flat_map(raise).collect()
}

/// ln Σ eˣ, moved by the largest x so that nothing overflows; the shift is a constant.
fn log_sum_exp<T: Scalar>(row: &[T]) -> T {
    let largest = row.iter().map(|x| x.re()).fold(f64::NEG_INFINITY, f64::max);
    row.iter().map(|&x| (x - largest).exp()).sum::<T>().ln() + largest
}
