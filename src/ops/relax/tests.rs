//! The kernels against the CPU, on a GPU or on softcuda; Max-W by what it is for. The passes of Max-W on the CPU are
//! held to the oracle with the whole supernet of sharpDARTS (`tests/oracle/engine/supernets.rs`).

use super::{Relaxation, largest, softmax};
use crate::autograd::{Executor, Mode};
use crate::device::Device;
use crate::network::parameters::initial_theta;
use crate::network::{Supernet, Variant};
use crate::oracle::engine::chain::{Chain, Term};
use crate::oracle::engine::ops::{check_kernels, check_variant_kernels, sharp_variant};
use crate::space::{DARTS_EDGES, SHARP_CANDIDATES, Space};

#[test]
fn four_passes_of_relax_on_the_device_match_the_cpu() {
    let term = |kernel| Term::Conv { kernel };
    let chain = Chain {
        size: [2, 3, 4],
        cin: 5,
        cout: 5,
        stride: 1,
        normalised_input: false,
        terms: vec![term(1), term(3), Term::Skip],
        normalised_output: false,
        classes: 4,
    };
    check_kernels(&chain, 1, "relax").unwrap();
}

#[test]
fn four_passes_of_max_w_on_the_device_match_the_cpu() {
    check_variant_kernels(&sharp_variant(), 2, "relax");
}

/// A supernet of sharpDARTS, or one that takes its op weights as they are given; its loss and the α part of its gradient at
/// an ω that both share.
fn loss_and_alpha_gradient(relaxation: Relaxation, alpha: &[f32]) -> (f64, Vec<f32>) {
    let variant = Variant {
        relaxation,
        ..sharp_variant()
    };
    let supernet = Supernet::record_variant(Space::Darts, 2, 3, 4, 2, [8, 8], &variant).unwrap();
    let omega = supernet.tape.omega_len;
    let mut theta = initial_theta(&supernet.parameters, 5);
    theta[omega..].copy_from_slice(alpha);
    let mut executor = Executor::new(supernet.tape, Device::Cpu);
    let images: Vec<f32> = (0..2 * 64 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
    executor.load(&images, &[1, 3]).unwrap();
    let mut gradient = vec![0.0; theta.len()];
    let outcome = executor.forward(Mode::Gradient, &theta).unwrap();
    executor.backward(&theta, &mut gradient).unwrap();
    (outcome.loss, gradient[omega..].to_vec())
}

#[test]
fn under_max_w_the_strongest_op_passes_whole_and_its_own_weight_moves_no_alpha() {
    let ops = SHARP_CANDIDATES.len();
    let edges = 2 * DARTS_EDGES.len();
    let alpha: Vec<f32> = (0..edges * ops).map(|i| (i as f32 * 1.3).sin()).collect();
    let soft: Vec<f32> = alpha
        .chunks_exact(ops)
        .flat_map(|row| {
            let mut soft = vec![0.0; ops];
            softmax(row, &mut soft);
            soft
        })
        .collect();
    let tops: Vec<usize> = alpha.chunks_exact(ops).map(largest).collect();
    let weights: Vec<f32> = soft
        .chunks_exact(ops)
        .zip(&tops)
        .flat_map(|(row, &top)| row.iter().map(move |s| 1.0 - row[top] + s))
        .collect();
    for (row, &top) in weights.chunks_exact(ops).zip(&tops) {
        assert_eq!(row[top], 1.0);
        assert!(row.iter().all(|c| (0.0..=1.0).contains(c)));
    }
    let (expected, bar) = loss_and_alpha_gradient(Relaxation::Given, &weights);
    let (found, gradient) = loss_and_alpha_gradient(Relaxation::MaxW, &alpha);
    assert!(
        (found - expected).abs() < 1e-6 * expected,
        "{found} {expected}"
    );

    // ∂(s_o − s_m)/∂α_i, of every op but the strongest.
    let mut naive = vec![0.0f64; alpha.len()];
    for (edge, &top) in tops.iter().enumerate() {
        let s = |op: usize| f64::from(soft[edge * ops + op]);
        let slope = |op: usize, i: usize| s(op) * (f64::from(u8::from(op == i)) - s(i));
        for i in 0..ops {
            for op in (0..ops).filter(|&op| op != top) {
                let bar = f64::from(bar[edge * ops + op]);
                naive[edge * ops + i] += bar * (slope(op, i) - slope(top, i));
            }
        }
    }
    let scale = naive.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    assert!(
        tops.iter()
            .enumerate()
            .any(|(edge, top)| bar[edge * ops + top] != 0.0)
    );
    for (i, (found, expected)) in gradient.iter().zip(&naive).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(off < 1e-4 * scale, "{i}: {found} {expected}");
    }
}
