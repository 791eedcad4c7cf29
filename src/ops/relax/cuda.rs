//! The four passes on CUDA: one launch each, a thread an edge. See `kernels/relax.cu`.

use super::Relax;
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
    unused: [u32; 2],
}

layout_test!(Parameters = 144);

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
