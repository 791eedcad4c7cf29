//! The passes on CUDA. See `kernels/classifier.cu`.
//!
//! A block an image, because all of an image's work but the pooling goes through one row of logits; then,
//! after backward, a thread for each element of W̄ and b̄. 256 threads pool 64 pixels of 256 channels in
//! quarters.

use super::{Classifier, Loss};
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{DeviceOutcome, Encoder, Floats, Header, Pixels, Tickets, narrow};
use crate::ops::{Pass, Role};
use bytemuck::{Pod, Zeroable};

/// `Classifier` of `classifier.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    features: Pixels,
    features_tangent: Pixels,
    adjoint: Pixels,
    weight: Floats,
    weight_tangent: Floats,
    bias: Floats,
    bias_tangent: Floats,
    weight_gradient: Floats,
    bias_gradient: Floats,
    logits: Floats,
    rows: Floats,
    tickets: Tickets,
    labels: u64,
    outcome: u64,
    images: u32,
    pixels: u32,
    channels: u32,
    classes: u32,
    relu: u32,
    adds: u32,
    unused: [u32; 2],
}

layout_test!(Parameters = 256);

const THREADS: usize = 256;
/// Bytes of shared memory that any GPU gives to a block.
const MOST_SHARED: usize = 48 << 10;

pub(super) fn encode(op: &Classifier, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
    anyhow::ensure!(
        op.loss == Loss::default(),
        "label smoothing and auxiliary heads have no CUDA kernels in this build; use --device cpu"
    );
    let vector = encoder.vector(&[op.features]);
    let shared = THREADS * (8 + 4 * vector) + 8 * (op.channels + op.classes);
    anyhow::ensure!(
        shared <= MOST_SHARED,
        "a classifier of {} features and {} classes needs {} KiB of shared memory: expected at most \
         {} KiB; use fewer channels or --device cpu",
        op.channels,
        op.classes,
        shared >> 10,
        MOST_SHARED >> 10
    );
    let features = encoder.graph().activation(op.features);
    let mut p = Parameters {
        features: encoder.pixels(op.features, Role::Value),
        weight: encoder.parameter(op.weight),
        bias: encoder.parameter(op.bias),
        logits: encoder.logits(op.classes),
        labels: encoder.labels(),
        outcome: encoder.outcome(),
        images: narrow(op.batch),
        pixels: narrow(features.height * features.width),
        channels: narrow(op.channels),
        classes: narrow(op.classes),
        relu: u32::from(op.relu),
        ..Parameters::default()
    };
    let kernel = |entry| Kernel::new("classifier", entry).define("VECTOR", vector);
    let (entry, gradient, role) = match pass {
        Pass::Tangent => return Ok(()),
        Pass::Forward => {
            p.rows = encoder.workspace(op.batch * size_of::<DeviceOutcome>() / size_of::<f32>());
            p.tickets = encoder.tickets(1);
            let kernel = kernel("classifier_forward");
            encoder.launch(kernel, [op.batch, 1], THREADS, shared, &p);
            return Ok(());
        }
        Pass::Backward => ("classifier_backward", "classifier_gradient", Role::Adjoint),
        Pass::TangentBackward => (
            "classifier_tangent_backward",
            "classifier_gradient_tangent",
            Role::AdjointTangent,
        ),
    };
    let tangents = pass == Pass::TangentBackward;
    if tangents {
        p.features_tangent = encoder.input(op.features, pass).tangent;
        p.weight_tangent = encoder.parameter_tangent(op.weight);
        p.bias_tangent = encoder.parameter_tangent(op.bias);
    }
    p.adjoint = encoder.pixels_if(features.differentiable, op.features, role);
    p.adds = u32::from(encoder.adds_to(op.features));
    p.weight_gradient = encoder.parameter_gradient(op.weight);
    p.bias_gradient = encoder.parameter_gradient(op.bias);
    let copies = 1 + usize::from(tangents);
    p.rows = encoder.workspace(copies * op.batch * (op.channels + op.classes));
    encoder.launch(kernel(entry), [op.batch, 1], THREADS, shared, &p);
    let elements = (op.channels + 1) * op.classes;
    encoder.launch(
        kernel(gradient),
        [elements.div_ceil(THREADS), 1],
        THREADS,
        0,
        &p,
    );
    Ok(())
}
