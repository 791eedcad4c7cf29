//! NAS-Bench-201's derived network (Dong & Yang 2020; `TinyNetwork` of the official code).
//!
//! Stem 3×3 to C; N cells of C, a residual block of stride 2, N cells of 2C, a block, N cells of 4C;
//! batch norm, relu, global average, linear. A cell is its six edges; unlike in the supernet, batch
//! norm has γ and β and convolutions have no bias.

use super::layers::{Builder, TensorId, Window};
use super::{Derived, Design};
use crate::space::{NB201_EDGES, Nb201Genotype, Nb201Op};

const NODES: usize = 3;
const STAGES: usize = 3;

pub(super) fn describe(genotype: &Nb201Genotype, design: &Design) -> Derived {
    let (mut b, images) = Builder::new(design.image_size);
    let x = b.conv("stem.0", images, design.channels, Window::same(3, 1, 1));
    let mut state = b.norm("stem.1", x);
    let mut index = 0;
    for stage in 0..STAGES {
        if stage > 0 {
            state = block(
                &mut b,
                &format!("cells.{index}"),
                state,
                design.channels << stage,
            );
            index += 1;
        }
        for _ in 0..design.cells {
            state = cell(&mut b, &format!("cells.{index}"), state, genotype);
            index += 1;
        }
    }
    let x = b.norm("lastact.0", state);
    let x = b.relu("lastact.1", x);
    let features = b.global_average("global_pooling", x);
    let logits = b.linear("classifier", features, design.classes);
    Derived {
        tensors: b.tensors,
        layers: b.layers,
        logits,
        auxiliary_logits: None,
    }
}

/// The residual block between stages.
fn block(b: &mut Builder, name: &str, input: TensorId, channels: usize) -> TensorId {
    let x = b.relu_conv_norm(
        &format!("{name}.conv_a"),
        input,
        channels,
        Window::same(3, 2, 1),
    );
    let x = b.relu_conv_norm(
        &format!("{name}.conv_b"),
        x,
        channels,
        Window::same(3, 1, 1),
    );
    let pooled = b.average_pool(&format!("{name}.downsample.0"), input, Window::valid(2, 2));
    let shortcut = b.conv(
        &format!("{name}.downsample.1"),
        pooled,
        channels,
        Window::valid(1, 1),
    );
    b.sum(name, &[(shortcut, false), (x, false)])
}

fn cell(b: &mut Builder, name: &str, input: TensorId, genotype: &Nb201Genotype) -> TensorId {
    let channels = b.channels(input);
    let mut states = vec![input];
    for node in 1..=NODES {
        let mut terms = Vec::new();
        for (number, (edge, op)) in NB201_EDGES.iter().zip(genotype.ops).enumerate() {
            if edge.to != node {
                continue;
            }
            let state = states[edge.from];
            let layer = format!("{name}.layers.{number}");
            let conv = |b: &mut Builder, kernel: usize| {
                b.relu_conv_norm(&layer, state, channels, Window::same(kernel, 1, 1))
            };
            let result = match op {
                Nb201Op::None => b.zero(&layer, state, 1),
                Nb201Op::SkipConnect => state,
                Nb201Op::NorConv1x1 => conv(b, 1),
                Nb201Op::NorConv3x3 => conv(b, 3),
                Nb201Op::AvgPool3x3 => {
                    b.average_pool(&format!("{layer}.op"), state, Window::same(3, 1, 1))
                }
            };
            terms.push((result, false));
        }
        states.push(b.sum(name, &terms));
    }
    states[NODES]
}
