//! The supernet over the NASNet space (Zoph et al. 2018): cells of five nodes, each edge a mixed op of
//! thirteen; all nodes concatenated; batch norms in cells have no affine part.

use super::cells::{self, Place, separated, skipped, weighed};
use super::layers::{conv, conv_along};
use super::{Supernet, Weights};
use crate::oracle::derivative::Scalar;
use crate::oracle::ops::{Pool, Window, norm, pool, relax};
use crate::oracle::tensor::Tensor;

const NODES: usize = 5;
/// skip_connect, conv_3x1_1x3, conv_7x1_1x7, dil_conv_3x3, avg_pool_3x3, max_pool_3x3, max_pool_5x5,
/// max_pool_7x7, conv_1x1, conv_3x3, sep_conv_3x3, sep_conv_5x5, sep_conv_7x7
const OPS: usize = 13;
const EDGES: usize = 20;

/// Loss and logits of a batch.
pub fn forward<T: Scalar>(net: &Supernet, weights: &mut impl Weights<T>) -> (T, Vec<T>) {
    let mut op_weights = |name| relax(&weights.tensor(name, &[EDGES, OPS]), OPS);
    let (normal, reduce) = (op_weights("alphas_normal"), op_weights("alphas_reduce"));
    cells::forward(net, weights, |weights, place, mut states| {
        let op_weights = if place.reduces { &reduce } else { &normal };
        let mut rows = op_weights.chunks(OPS).enumerate();
        for node in 0..NODES {
            let mut mixed = Vec::new();
            for (source, state) in states.iter().enumerate().take(2 + node) {
                let (edge, row) = rows.next().expect("twenty edges");
                let results = edge_results(weights, place, edge, (state, source));
                mixed.push(weighed(results, row));
            }
            let ones = vec![T::from(1.0); mixed.len()];
            states.push(weighed(mixed, &ones));
        }
        Tensor::concatenate(&states[2..])
    })
}

/// What each op of an edge makes.
fn edge_results<T: Scalar>(
    weights: &mut impl Weights<T>,
    place: &Place,
    edge: usize,
    (x, source): (&Tensor<T>, usize),
) -> Vec<Tensor<T>> {
    let (channels, stride) = (x.shape[3], place.stride(source));
    let name = |op: usize| format!("{}._ops.{edge}._ops.{op}", place.name);
    let mut results = vec![skipped(weights, &name(0), x, stride)];
    for (op, kernel) in [(1, 3), (2, 7)] {
        let window = |stride| Window::dense(kernel, stride);
        let row = conv_along(
            weights,
            &format!("{}.1", name(op)),
            x,
            (true, false),
            window(1),
        );
        let column = format!("{}.2", name(op));
        let z = conv_along(weights, &column, &row, (false, true), window(stride));
        results.push(norm(&z, None));
    }
    let dilated = Window {
        kernel: 3,
        stride,
        dilation: 2,
    };
    results.push(separated(weights, &name(3), x, dilated, None));
    let pools = [Pool::Average3, Pool::Max3, Pool::Max5, Pool::Max7];
    results.extend(pools.map(|kind| norm(&pool(x, kind, stride), None)));
    for (op, kernel) in [(8, 1), (9, 3)] {
        let layer = format!("{}.op.1", name(op));
        let window = Window::dense(kernel, stride);
        let z = conv(weights, &layer, x, channels, window, (true, false));
        results.push(norm(&z, None));
    }
    for (op, kernel) in [(10, 3), (11, 5), (12, 7)] {
        results.push(separated(
            weights,
            &name(op),
            x,
            Window::dense(kernel, stride),
            Some(channels),
        ));
    }
    results
}
