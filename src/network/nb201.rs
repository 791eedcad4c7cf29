//! The NAS-Bench-201 supernet (Dong & Yang 2020, `TinyNetworkDarts` of the official code).
//!
//! Stem 3×3; N cells of C, a ResNet block of stride 2, N cells of 2C, a block, N cells of 4C; batch
//! norm, relu, pool, linear. A node sums none, skip, relu-conv 1×1 and 3×3 with bias and batch norm
//! without γ and β, and an average pool without batch norm, over all states before it.

use super::Recorder;
use crate::ops::mix::Term;
use crate::ops::pool::Kind;
use crate::ops::{ActivationId, Scale, WeightsId};
use crate::space::{NB201_EDGES, NB201_OPS};

const NODES: usize = 4;

/// Columns of α.
const SKIP: usize = 1;
const CONV_1: usize = 2;
const CONV_3: usize = 3;
const AVG_POOL: usize = 4;

pub(super) fn record(r: &mut Recorder, channels: usize, cells: usize, classes: usize) {
    let weights = r.alpha("arch_parameters", NB201_EDGES.len(), NB201_OPS.len());
    let names = ("stem.0.weight".to_owned(), "stem.1");
    let mut state = r.conv_norm(r.tape.images, names, channels, (3, 1), false);
    let last = 3 * cells + 1;
    let mut index = 0;
    for stage in 0..3 {
        let channels = channels << stage;
        if stage > 0 {
            state = block(r, &format!("cells.{index}"), state, channels);
            index += 1;
        }
        for _ in 0..cells {
            state = cell(r, &format!("cells.{index}"), state, weights, index == last);
            index += 1;
        }
    }
    let affine = r.affine("lastact.0", channels * 4);
    let features = r.tape.norm(state, Some(affine));
    r.classifier(features, true, classes);
}

/// The residual block between stages: conv 3×3 of stride 2, conv 3×3, plus a pooled 1×1 shortcut.
fn block(r: &mut Recorder, name: &str, input: ActivationId, channels: usize) -> ActivationId {
    let conv = |part: &str| format!("{name}.{part}.op.1.weight");
    let norm = |part: &str| format!("{name}.{part}.op.2");
    let a = r.conv_norm(
        input,
        (conv("conv_a"), &norm("conv_a")),
        channels,
        (3, 2),
        true,
    );
    let b = r.conv_norm(a, (conv("conv_b"), &norm("conv_b")), channels, (3, 1), true);
    let cin = r.tape.channels(input);
    let weight = r.conv_weight(format!("{name}.downsample.1.weight"), channels, cin, 1);
    let pooled = r.tape.pool(input, 2, &[Kind::Average2], false)[0];
    let shortcut = r
        .tape
        .conv(pooled, (1, 1), channels, false, false, (weight, None));
    let output = r.tape.activation(r.tape.size(b), channels, false);
    let terms = [b, shortcut].map(|input| Term {
        input,
        scale: Scale::One,
    });
    r.tape.mix(terms.to_vec(), None, output);
    output
}

/// `last`: the network's last cell, whose result only batch norm reads.
fn cell(
    r: &mut Recorder,
    name: &str,
    input: ActivationId,
    weights: WeightsId,
    last: bool,
) -> ActivationId {
    let (channels, size) = (r.tape.channels(input), r.tape.size(input));
    let convs: Vec<_> = NB201_EDGES
        .iter()
        .map(|edge| {
            [(CONV_1, 1), (CONV_3, 3)].map(|(op, k)| {
                let at = format!("{name}.edges.{}<-{}.{op}.op.1", edge.to, edge.from);
                let weight = r.conv_weight(format!("{at}.weight"), channels, channels, k);
                let bias = r.conv_bias(format!("{at}.bias"), channels, channels * k * k);
                (op, k, weight, bias)
            })
        })
        .collect();
    let mut states = vec![input];
    let mut branches: Vec<Vec<(usize, ActivationId)>> = vec![Vec::new(); NB201_EDGES.len()];
    for node in 1..NODES {
        let state = states[node - 1];
        let pooled = r.tape.pool(state, 1, &[Kind::Average3], false)[0];
        for edge in (0..NB201_EDGES.len()).filter(|&e| NB201_EDGES[e].from == node - 1) {
            branches[edge].extend([(SKIP, state), (AVG_POOL, pooled)]);
            for (op, k, weight, bias) in convs[edge] {
                let parameters = (weight, Some(bias));
                let z = r.tape.conv(state, (k, 1), channels, true, true, parameters);
                branches[edge].push((op, z));
            }
        }
        let normalised = last && node + 1 == NODES;
        let output = r.tape.activation(size, channels, normalised);
        let mut terms = Vec::new();
        for (edge, _) in NB201_EDGES.iter().enumerate().filter(|(_, e)| e.to == node) {
            let scale = |op| Scale::OpWeight(weights, edge * NB201_OPS.len() + op);
            terms.extend(branches[edge].iter().map(|&(op, input)| Term {
                input,
                scale: scale(op),
            }));
        }
        r.tape.mix(terms, None, output);
        states.push(output);
    }
    states[NODES - 1]
}
