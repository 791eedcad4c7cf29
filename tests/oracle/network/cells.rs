//! The row of cells that DARTS and NASNet share (Liu et al. 2019, official code, search mode): stem 3×3
//! 3 → 3C with affine batch norm; cells over two preprocessed inputs; reduction cells at one and two thirds
//! double C; classifier.

use super::layers::{affine_norm, classifier, conv, factorized_reduce, separable};
use super::{Supernet, Weights};
use crate::oracle::derivative::Scalar;
use crate::oracle::ops::{Window, norm};
use crate::oracle::tensor::Tensor;

const STEM_MULTIPLIER: usize = 3;

/// Where a cell stands.
pub struct Place {
    pub name: String,
    pub channels: usize,
    pub reduces: bool,
}

impl Place {
    /// Stride of the edges that read state `source`.
    pub fn stride(&self, source: usize) -> usize {
        if self.reduces && source < 2 { 2 } else { 1 }
    }
}

/// Loss and logits; `cell` makes the output of the cell at a place from its two inputs.
pub fn forward<T: Scalar, W: Weights<T>>(
    net: &Supernet,
    weights: &mut W,
    mut cell: impl FnMut(&mut W, &Place, Vec<Tensor<T>>) -> Tensor<T>,
) -> (T, Vec<T>) {
    let images = Tensor::new(
        net.images.shape,
        net.images.data.iter().map(|&x| x.into()).collect(),
    );
    let window = Window::dense(3, 1);
    let stem = conv(
        weights,
        "stem.0",
        &images,
        STEM_MULTIPLIER * net.channels,
        window,
        (false, false),
    );
    let stem = affine_norm(weights, "stem.1", &stem);
    let (mut before, mut last) = (stem.clone(), stem);
    let (mut channels, mut reduced_before) = (net.channels, false);
    for index in 0..net.cells {
        let reduces = index == net.cells / 3 || index == 2 * net.cells / 3;
        channels *= if reduces { 2 } else { 1 };
        let place = Place {
            name: format!("cells.{index}"),
            channels,
            reduces,
        };
        let inputs = preprocessed(weights, &place, [&before, &last], reduced_before);
        let output = cell(weights, &place, inputs);
        (before, last, reduced_before) = (last, output, reduces);
    }
    classifier(weights, &last, false, net.classes, &net.labels)
}

fn preprocessed<T: Scalar>(
    weights: &mut impl Weights<T>,
    place: &Place,
    inputs: [&Tensor<T>; 2],
    reduced_before: bool,
) -> Vec<Tensor<T>> {
    let mut states: Vec<Tensor<T>> = Vec::new();
    for (i, input) in inputs.into_iter().enumerate() {
        let name = format!("{}.preprocess{i}", place.name);
        let raw = if i == 0 && reduced_before {
            factorized_reduce(weights, &name, input, place.channels)
        } else {
            conv(
                weights,
                &format!("{name}.op.1"),
                input,
                place.channels,
                Window::dense(1, 1),
                (true, false),
            )
        };
        states.push(norm(&raw, None));
    }
    states
}

/// The separable convolution `name`, and batch norm; with a `width` between, another one of stride 1 behind it.
pub fn separated<T: Scalar>(
    weights: &mut impl Weights<T>,
    name: &str,
    x: &Tensor<T>,
    window: Window,
    width: Option<usize>,
) -> Tensor<T> {
    let layer = |module| format!("{name}.op.{module}");
    let (channels, first) = (x.shape[3], [&*layer(1), &layer(2)]);
    let z = separable(weights, first, x, width.unwrap_or(channels), window, false);
    if width.is_none() {
        return norm(&z, None);
    }
    let (second, names) = (Window::dense(window.kernel, 1), [&*layer(5), &layer(6)]);
    norm(&separable(weights, names, &z, channels, second, true), None)
}

/// The state itself; where its size changes its factorized reduction `name`, and batch norm.
pub fn skipped<T: Scalar>(
    weights: &mut impl Weights<T>,
    name: &str,
    x: &Tensor<T>,
    stride: usize,
) -> Tensor<T> {
    if stride == 1 {
        return x.clone();
    }
    norm(&factorized_reduce(weights, name, x, x.shape[3]), None)
}

/// Σ c·y
pub fn weighed<T: Scalar>(results: Vec<Tensor<T>>, op_weights: &[T]) -> Tensor<T> {
    assert_eq!(results.len(), op_weights.len());
    let scaled = results.into_iter().zip(op_weights);
    let scaled = scaled.map(|(y, &c)| y.map(|value| value * c));
    scaled
        .reduce(|sum, term| sum.plus(&term))
        .expect("an edge has ops")
}
