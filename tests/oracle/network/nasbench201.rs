//! `TinyNetworkDarts`, the supernet of NAS-Bench-201 (Dong & Yang 2020, official code).
//!
//! Stem 3×3 with affine batch norm; N cells of C, 2C and 4C channels with a residual block of
//! stride 2 between the stages; batch norm, relu and the head. The convolutions of an edge have a
//! bias and a batch norm without affine part; its average pool has none.

use super::layers::{affine_norm, classifier, conv};
use super::{Supernet, Weights};
use crate::oracle::derivative::Scalar;
use crate::oracle::ops::{Pool, Window, norm, pool, relax};
use crate::oracle::tensor::Tensor;

const NODES: usize = 4;
/// none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3
const OPS: usize = 5;
const EDGES: usize = 6;

/// Loss and logits of a batch.
pub fn forward<T: Scalar>(net: &Supernet, weights: &mut impl Weights<T>) -> (T, Vec<T>) {
    let op_weights = relax(&weights.tensor("arch_parameters", &[EDGES, OPS]), OPS);
    let images = Tensor::new(
        net.images.shape,
        net.images.data.iter().map(|&x| x.into()).collect(),
    );
    let stem = conv(
        weights,
        "stem.0",
        &images,
        net.channels,
        Window::dense(3, 1),
        (false, false),
    );
    let mut x = affine_norm(weights, "stem.1", &stem);
    let mut index = 0;
    for stage in 0..3 {
        if stage > 0 {
            x = residual_block(weights, &format!("cells.{index}"), &x);
            index += 1;
        }
        for _ in 0..net.cells {
            x = cell(weights, &format!("cells.{index}"), &x, &op_weights);
            index += 1;
        }
    }
    let x = affine_norm(weights, "lastact.0", &x);
    classifier(weights, &x, true, net.classes, &net.labels)
}

fn cell<T: Scalar>(
    weights: &mut impl Weights<T>,
    name: &str,
    x: &Tensor<T>,
    op_weights: &[T],
) -> Tensor<T> {
    let mut nodes = vec![x.clone()];
    let mut rows = op_weights.chunks(OPS);
    for node in 1..NODES {
        let mut sum: Option<Tensor<T>> = None;
        for (source, state) in nodes.iter().enumerate() {
            let row = rows.next().expect("six edges");
            let mixed = edge(
                weights,
                &format!("{name}.edges.{node}<-{source}"),
                state,
                row,
            );
            sum = Some(sum.map_or(mixed.clone(), |sum| sum.plus(&mixed)));
        }
        nodes.push(sum.expect("a node has inputs"));
    }
    nodes.pop().expect("four nodes")
}

fn edge<T: Scalar>(
    weights: &mut impl Weights<T>,
    name: &str,
    x: &Tensor<T>,
    op_weights: &[T],
) -> Tensor<T> {
    let mut convolved = |op: usize, kernel| {
        let layer = format!("{name}.{op}.op.1");
        let z = conv(
            weights,
            &layer,
            x,
            x.shape[3],
            Window::dense(kernel, 1),
            (true, true),
        );
        norm(&z, None)
    };
    // `none`, op 0, adds zero.
    let results = [
        x.clone(),
        convolved(2, 1),
        convolved(3, 3),
        pool(x, Pool::Average3, 1),
    ];
    let scaled = results
        .iter()
        .zip(&op_weights[1..])
        .map(|(y, &c)| y.map(|value| value * c));
    scaled
        .reduce(|sum, term| sum.plus(&term))
        .expect("an edge has ops")
}

/// Two 3×3 convolutions, the first of stride 2, beside a 2×2 average pool and a 1×1 convolution.
fn residual_block<T: Scalar>(
    weights: &mut impl Weights<T>,
    name: &str,
    x: &Tensor<T>,
) -> Tensor<T> {
    let channels = 2 * x.shape[3];
    let mut convolved = |part: &str, x: &Tensor<T>, stride| {
        let window = Window::dense(3, stride);
        let z = conv(
            weights,
            &format!("{name}.{part}.op.1"),
            x,
            channels,
            window,
            (true, false),
        );
        affine_norm(weights, &format!("{name}.{part}.op.2"), &z)
    };
    let residual = convolved("conv_a", x, 2);
    let residual = convolved("conv_b", &residual, 1);
    let pooled = pool(x, Pool::Average2, 2);
    let layer = format!("{name}.downsample.1");
    let short = conv(
        weights,
        &layer,
        &pooled,
        channels,
        Window::dense(1, 1),
        (false, false),
    );
    residual.plus(&short)
}
