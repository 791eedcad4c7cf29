//! Batch norm with batch statistics, and the mixed op's weighted sum.

use crate::oracle::derivative::Scalar;
use crate::oracle::tensor::Tensor;

/// Added to the biased variance.
const EPSILON: f64 = 1e-5;

/// (x − mean) / √(biased variance + 1e-5) per channel over N, H, W; then γ·x̂ + β when given.
pub fn norm<T: Scalar>(x: &Tensor<T>, affine: Option<(&[T], &[T])>) -> Tensor<T> {
    let channels = x.shape[3];
    let count = (x.data.len() / channels) as f64;
    let mut data = x.data.clone();
    for channel in 0..channels {
        let values = || x.data.iter().copied().skip(channel).step_by(channels);
        let mean = values().sum::<T>() / count;
        let variance = values().map(|x| (x - mean) * (x - mean)).sum::<T>() / count;
        let scale = (variance + EPSILON).sqrt().recip();
        for (out, x) in data
            .iter_mut()
            .skip(channel)
            .step_by(channels)
            .zip(values())
        {
            let normalised = (x - mean) * scale;
            *out = affine.map_or(normalised, |(gain, shift)| {
                normalised * gain[channel] + shift[channel]
            });
        }
    }
    Tensor::new(x.shape, data)
}

/// A branch of a mix: its raw result z, read through batch norm.
#[derive(Clone, Copy)]
pub struct Branch<'a, T> {
    /// z
    pub z: &'a Tensor<T>,
    /// γ and β
    pub affine: Option<(&'a [T], &'a [T])>,
    /// c
    pub weight: T,
}

/// y = Σ_b c_b·batchnorm(z_b) + Σ_j c_j·x_j, over arrays of one shape.
pub fn mix<T: Scalar>(branches: &[Branch<T>], plain: &[(&Tensor<T>, T)]) -> Tensor<T> {
    let normalised = branches.iter().map(|b| (norm(b.z, b.affine), b.weight));
    let scaled = normalised.chain(plain.iter().map(|&(x, weight)| (x.clone(), weight)));
    scaled
        .map(|(x, weight)| x.map(|value| value * weight))
        .reduce(|sum, term| sum.plus(&term))
        .expect("a mix has at least one term")
}
