//! The four passes on CUDA: one launch each, a thread an edge. See `kernels/relax.cu`.

use super::{Relax, Relaxation};
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{Encoder, Floats, Header, narrow};
use crate::ops::{Pass, Role};
use bytemuck::{Pod, Zeroable};

/// `Relax` of `relax.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    alpha: Floats,
    alpha_tangent: Floats,
    gradient: Floats,
    value: Floats,
    adjoint: Floats,
    tangent: Floats,
    adjoint_tangent: Floats,
    edges: u32,
    ops: u32,
    max_w: u32,
    unused: u32,
}

/// `Given` of `relax.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Given {
    header: Header,
    from: Floats,
    to: Floats,
}

layout_test!(Parameters = 144, Given = 48);

/// Threads a block: two warps hold the 14 edges of a DARTS cell, and the grid the rest.
const THREADS: usize = 64;

pub(super) fn encode(op: &Relax, pass: Pass, encoder: &mut Encoder) {
    let of = |role| encoder.weights(op.weights, role);
    let edges = encoder.graph().weights[op.weights.0] / op.ops;
    let mut parameters = Parameters {
        alpha: encoder.parameter(op.alpha),
        value: of(Role::Value),
        adjoint: of(Role::Adjoint),
        tangent: of(Role::Tangent),
        adjoint_tangent: of(Role::AdjointTangent),
        edges: narrow(edges),
        ops: narrow(op.ops),
        max_w: u32::from(op.relaxation == Relaxation::MaxW),
        ..Parameters::default()
    };
    if matches!(pass, Pass::Tangent | Pass::TangentBackward) {
        parameters.alpha_tangent = encoder.parameter_tangent(op.alpha);
    }
    if matches!(pass, Pass::Backward | Pass::TangentBackward) {
        parameters.gradient = encoder.parameter_gradient(op.alpha);
    }
    let entry = match pass {
        Pass::Forward => "relax_forward",
        Pass::Backward => "relax_backward",
        Pass::Tangent => "relax_tangent",
        Pass::TangentBackward => "relax_tangent_backward",
    };
    let grid = [edges.div_ceil(THREADS), 1];
    encoder.launch(Kernel::new("relax", entry), grid, THREADS, 0, &parameters);
}

/// Op weights that are given: a copy, of what the pass is about.
pub(super) fn encode_given(op: &Relax, pass: Pass, encoder: &mut Encoder) {
    let of = |role| encoder.weights(op.weights, role);
    let (from, to) = match pass {
        Pass::Forward => (encoder.parameter(op.alpha), of(Role::Value)),
        Pass::Tangent => (encoder.parameter_tangent(op.alpha), of(Role::Tangent)),
        Pass::Backward => (of(Role::Adjoint), encoder.parameter_gradient(op.alpha)),
        Pass::TangentBackward => (
            of(Role::AdjointTangent),
            encoder.parameter_gradient(op.alpha),
        ),
    };
    let parameters = Given {
        from,
        to,
        ..Given::default()
    };
    let grid = [(to.len as usize).div_ceil(THREADS), 1];
    let kernel = Kernel::new("relax", "relax_given");
    encoder.launch(kernel, grid, THREADS, 0, &parameters);
}
