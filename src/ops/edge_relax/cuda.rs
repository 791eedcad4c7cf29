//! The four passes on CUDA: one launch each, a thread a node. See `kernels/edge_relax.cu`.

use super::EdgeRelax;
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{Encoder, Floats, Header, narrow};
use crate::ops::{Pass, Role};
use bytemuck::{Pod, Zeroable};

/// `EdgeRelax` of `edge_relax.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    alpha: Floats,
    beta: Floats,
    alpha_gradient: Floats,
    beta_gradient: Floats,
    value: Floats,
    adjoint: Floats,
    tangent: Floats,
    adjoint_tangent: Floats,
    ops: u32,
    nodes: u32,
    first: [u32; MOST_NODES + 1],
    unused: u32,
}

layout_test!(Parameters = 192);

/// MOST_NODES of the kernel file.
const MOST_NODES: usize = 8;
/// Threads a block: the nodes of a cell, and a warp is the least.
const THREADS: usize = 32;

pub(super) fn encode(op: &EdgeRelax, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
    let nodes = op.first.len() - 1;
    anyhow::ensure!(
        nodes <= MOST_NODES,
        "a cell of {nodes} nodes, and edge_relax takes {MOST_NODES}; use --device cpu"
    );
    let of = |role| encoder.weights(op.weights, role);
    let mut parameters = Parameters {
        value: of(Role::Value),
        adjoint: of(Role::Adjoint),
        tangent: of(Role::Tangent),
        adjoint_tangent: of(Role::AdjointTangent),
        ops: narrow(op.ops),
        nodes: narrow(nodes),
        ..Parameters::default()
    };
    for (to, &first) in parameters.first.iter_mut().zip(&op.first) {
        *to = narrow(first);
    }
    let entry = match pass {
        Pass::Forward => {
            parameters.alpha = encoder.parameter(op.alpha);
            parameters.beta = encoder.parameter(op.beta);
            "edge_relax_forward"
        }
        Pass::Tangent => {
            parameters.alpha = encoder.parameter_tangent(op.alpha);
            parameters.beta = encoder.parameter_tangent(op.beta);
            "edge_relax_tangent"
        }
        Pass::Backward | Pass::TangentBackward => {
            parameters.alpha_gradient = encoder.parameter_gradient(op.alpha);
            parameters.beta_gradient = encoder.parameter_gradient(op.beta);
            if pass == Pass::Backward {
                "edge_relax_backward"
            } else {
                "edge_relax_tangent_backward"
            }
        }
    };
    let kernel = Kernel::new("edge_relax", entry);
    encoder.launch(kernel, [1, 1], THREADS, 0, &parameters);
    Ok(())
}
