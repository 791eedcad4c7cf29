//! The search network of DARTS (Liu et al. 2019, official code, search mode), and what PC-DARTS and sharpDARTS make
//! of it.
//!
//! Cells of four nodes in the row of [`super::cells`], each edge a mixed op; batch norms in cells have no
//! affine part.

use super::cells::{self, Place, separated, skipped, weighed};
use super::{Supernet, Weights};
use crate::oracle::derivative::Scalar;
use crate::oracle::ops::{Pool, Window, max_w, norm, pool, relax};
use crate::oracle::tensor::Tensor;

const NODES: usize = 4;
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
    cells::forward(net, weights, |weights, place, states| {
        let cell = Cell {
            place,
            partial: net.partial.unwrap_or(1),
            sharp: net.sharp,
        };
        let op_weights = if place.reduces { &reduce } else { &normal };
        let both = [op_weights.as_slice(), &edges[usize::from(place.reduces)]];
        cell.forward(weights, states, both)
    })
}

struct Cell<'a> {
    place: &'a Place,
    /// One channel in so many goes through the ops.
    partial: usize,
    sharp: bool,
}

impl Cell<'_> {
    fn forward<T: Scalar>(
        &self,
        weights: &mut impl Weights<T>,
        mut states: Vec<Tensor<T>>,
        [op_weights, edge_weights]: [&[T]; 2],
    ) -> Tensor<T> {
        let mut edge = 0;
        for node in 0..NODES {
            let mut sum: Option<Tensor<T>> = None;
            for (source, state) in states.iter().enumerate().take(2 + node) {
                let stride = self.place.stride(source);
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
        let (groups, width) = (self.partial, self.place.channels / self.partial);
        let part = |first: usize, channels: usize| {
            let [n, h, w, _] = x.shape;
            Tensor::build([n, h, w, channels], |[n, y, column, c]| {
                x.at([n, y, column, first + c])
            })
        };
        let mixed = self.mixed_op(weights, edge, &part(0, width), stride, op_weights);
        let rest = part(width, self.place.channels - width);
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
        let name = |op: usize| format!("{}._ops.{edge}._ops.{op}", self.place.name);
        let channels = x.shape[3];
        let window = |kernel, dilation| Window {
            kernel,
            stride,
            dilation,
        };
        let pools: &[Pool] = if self.sharp {
            &[Pool::Max3]
        } else {
            &[Pool::Max3, Pool::Average3]
        };
        // Kernel, dilation, and the width between two halves.
        let separables = if self.sharp {
            let widths = [channels, 4 * channels, 32].into_iter();
            widths
                .flat_map(|width| [1, 2].map(|dilation| (3, dilation, Some(width))))
                .collect()
        } else {
            let twice = [3, 5].map(|kernel| (kernel, 1, Some(channels)));
            let once = [3, 5].map(|kernel| (kernel, 2, None));
            [twice, once].concat()
        };
        let pooled = pools.iter().map(|&kind| norm(&pool(x, kind, stride), None));
        let mut results: Vec<_> = pooled.collect();
        // `none` is op 0.
        results.push(skipped(weights, &name(1 + pools.len()), x, stride));
        for (kernel, dilation, width) in separables {
            let name = name(1 + results.len());
            results.push(separated(
                weights,
                &name,
                x,
                window(kernel, dilation),
                width,
            ));
        }
        // `none` adds zero.
        weighed(results, &op_weights[1..])
    }
}
