//! The search network of DARTS (Liu et al. 2019, official code, search mode), and what PC-DARTS and sharpDARTS make
//! of it.
//!
//! Stem 3×3 3 → 3C with affine batch norm; cells of four nodes over two preprocessed inputs, each
//! edge a mixed op; reduction cells at one and two thirds double C; batch norms in cells have no
//! affine part.

use super::layers::{affine_norm, classifier, conv, factorized_reduce, separable};
use super::{Supernet, Weights};
use crate::oracle::derivative::Scalar;
use crate::oracle::ops::{Pool, Window, max_w, norm, pool, relax};
use crate::oracle::tensor::Tensor;

const NODES: usize = 4;
const STEM_MULTIPLIER: usize = 3;
/// none, max_pool_3x3, avg_pool_3x3, skip_connect, sep_conv_3x3, sep_conv_5x5, dil_conv_3x3, dil_conv_5x5
const OPS: usize = 8;
/// none, max_pool_3x3, skip_connect, sep_conv_3x3, dil_conv_3x3, flood_conv_3x3, dil_flood_conv_3x3, choke_conv_3x3,
/// dil_choke_conv_3x3, of sharpDARTS
const SHARP_OPS: usize = 9;
const EDGES: usize = 14;

/// Loss and logits of a batch.
pub fn forward<T: Scalar>(net: &Supernet, weights: &mut impl Weights<T>) -> (T, Vec<T>) {
    let mut op_weights = |name| {
        if net.sharp {
            max_w(&weights.tensor(name, &[EDGES, SHARP_OPS]), SHARP_OPS)
        } else {
            relax(&weights.tensor(name, &[EDGES, OPS]), OPS)
        }
    };
    let (normal, reduce) = (op_weights("alphas_normal"), op_weights("alphas_reduce"));
    // Of DARTS every edge has weight one.
    let mut edge_weights = |name| match net.partial {
        None => vec![T::from(1.0); EDGES],
        Some(_) => {
            let beta = weights.tensor(name, &[EDGES]);
            let into = |node: usize| &beta[node * (node + 3) / 2..(node + 1) * (node + 4) / 2];
            (0..NODES)
                .flat_map(|node| relax(into(node), node + 2))
                .collect()
        }
    };
    let edges = [edge_weights("betas_normal"), edge_weights("betas_reduce")];
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
        let cell = Cell {
            name: format!("cells.{index}"),
            channels,
            reduces,
            partial: net.partial.unwrap_or(1),
            sharp: net.sharp,
        };
        let op_weights = if reduces { &reduce } else { &normal };
        let both = [op_weights.as_slice(), &edges[usize::from(reduces)]];
        let output = cell.forward(weights, [&before, &last], reduced_before, both);
        (before, last, reduced_before) = (last, output, reduces);
    }
    classifier(weights, &last, false, net.classes, &net.labels)
}

struct Cell {
    name: String,
    channels: usize,
    reduces: bool,
    /// One channel in so many goes through the ops.
    partial: usize,
    sharp: bool,
}

impl Cell {
    fn forward<T: Scalar>(
        &self,
        weights: &mut impl Weights<T>,
        inputs: [&Tensor<T>; 2],
        reduced_before: bool,
        [op_weights, edge_weights]: [&[T]; 2],
    ) -> Tensor<T> {
        let mut states: Vec<Tensor<T>> = Vec::new();
        for (i, input) in inputs.into_iter().enumerate() {
            let name = format!("{}.preprocess{i}", self.name);
            let raw = if i == 0 && reduced_before {
                factorized_reduce(weights, &name, input, self.channels)
            } else {
                let point = Window::dense(1, 1);
                conv(
                    weights,
                    &format!("{name}.op.1"),
                    input,
                    self.channels,
                    point,
                    (true, false),
                )
            };
            states.push(norm(&raw, None));
        }
        let mut edge = 0;
        for node in 0..NODES {
            let mut sum: Option<Tensor<T>> = None;
            for (source, state) in states.iter().enumerate().take(2 + node) {
                let stride = if self.reduces && source < 2 { 2 } else { 1 };
                let ops = op_weights.len() / EDGES;
                let row = &op_weights[edge * ops..(edge + 1) * ops];
                let mixed = self.partial_op(weights, edge, state, stride, row);
                let mixed = mixed.map(|value| value * edge_weights[edge]);
                sum = Some(sum.map_or(mixed.clone(), |sum| sum.plus(&mixed)));
                edge += 1;
            }
            states.push(sum.expect("a node has inputs"));
        }
        Tensor::concatenate(&states[2..])
    }

    /// The mixed op of the first channels beside the others (at stride 2 their maxima of 2×2), shuffled.
    fn partial_op<T: Scalar>(
        &self,
        weights: &mut impl Weights<T>,
        edge: usize,
        x: &Tensor<T>,
        stride: usize,
        op_weights: &[T],
    ) -> Tensor<T> {
        if self.partial == 1 {
            return self.mixed_op(weights, edge, x, stride, op_weights);
        }
        let (groups, width) = (self.partial, self.channels / self.partial);
        let part = |first: usize, channels: usize| {
            let [n, h, w, _] = x.shape;
            Tensor::build([n, h, w, channels], |[n, y, column, c]| {
                x.at([n, y, column, first + c])
            })
        };
        let mixed = self.mixed_op(weights, edge, &part(0, width), stride, op_weights);
        let rest = part(width, self.channels - width);
        let rest = match stride {
            1 => rest,
            _ => pool(&rest, Pool::Max2, stride),
        };
        let both = Tensor::concatenate(&[mixed, rest]);
        Tensor::build(both.shape, |[n, y, column, c]| {
            both.at([n, y, column, c % groups * width + c / groups])
        })
    }

    fn mixed_op<T: Scalar>(
        &self,
        weights: &mut impl Weights<T>,
        edge: usize,
        x: &Tensor<T>,
        stride: usize,
        op_weights: &[T],
    ) -> Tensor<T> {
        let prefix = format!("{}._ops.{edge}._ops", self.name);
        let channels = x.shape[3];
        // Relu, depthwise, pointwise, batch norm; with a width between, and again.
        let mut separated = |op: usize, window: Window, width: Option<usize>| {
            let name = |layer| format!("{prefix}.{op}.op.{layer}");
            let first = width.unwrap_or(channels);
            let z = separable(weights, [&name(1), &name(2)], x, first, window, false);
            if width.is_none() {
                return norm(&z, None);
            }
            let second = Window::dense(window.kernel, 1);
            let names = [&*name(5), &*name(6)];
            norm(&separable(weights, names, &z, channels, second, true), None)
        };
        let dilated = |kernel| Window {
            kernel,
            stride,
            dilation: 2,
        };
        let plain = |kernel| Window::dense(kernel, stride);
        let convolved = if self.sharp {
            let widths = [channels, 4 * channels, 32].into_iter().enumerate();
            widths
                .flat_map(|(i, width)| {
                    let windows = [plain(3), dilated(3)].into_iter().enumerate();
                    windows.map(move |(j, window)| (3 + 2 * i + j, window, width))
                })
                .map(|(op, window, width)| separated(op, window, Some(width)))
                .collect::<Vec<_>>()
        } else {
            vec![
                separated(4, plain(3), Some(channels)),
                separated(5, plain(5), Some(channels)),
                separated(6, dilated(3), None),
                separated(7, dilated(5), None),
            ]
        };
        let pools: &[Pool] = if self.sharp {
            &[Pool::Max3]
        } else {
            &[Pool::Max3, Pool::Average3]
        };
        let skip = if stride == 1 {
            x.clone()
        } else {
            let name = format!("{prefix}.{}", 1 + pools.len());
            norm(&factorized_reduce(weights, &name, x, channels), None)
        };
        let pooled = pools.iter().map(|&kind| norm(&pool(x, kind, stride), None));
        // `none`, op 0, adds zero.
        let results = pooled.chain([skip]).chain(convolved);
        let scaled = results
            .zip(&op_weights[1..])
            .map(|(y, &c)| y.map(|value| value * c));
        scaled
            .reduce(|sum, term| sum.plus(&term))
            .expect("an edge has ops")
    }
}
