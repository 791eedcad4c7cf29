//! The four passes on CUDA: one launch each, a thread an element. See `kernels/shuffle.cu`.

use super::Shuffle;
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{Encoder, Header, Pixels, narrow};
use crate::ops::{Pass, Role};
use bytemuck::{Pod, Zeroable};

/// `Shuffle` of `shuffle.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    from: Pixels,
    to: Pixels,
    pixels: u32,
    channels: u32,
    groups: u32,
    adds: u32,
}

layout_test!(Parameters = 64);

/// Threads a block: enough warps for full occupancy, and no shared memory or barrier to prefer another.
const THREADS: usize = 256;

pub(super) fn encode(op: &Shuffle, pass: Pass, encoder: &mut Encoder) {
    let (entry, from, to, role) = match pass {
        Pass::Forward => ("shuffle_forward", op.input, op.output, Role::Value),
        Pass::Tangent => ("shuffle_tangent", op.input, op.output, Role::Tangent),
        Pass::Backward => ("shuffle_backward", op.output, op.input, Role::Adjoint),
        Pass::TangentBackward => (
            "shuffle_tangent_backward",
            op.output,
            op.input,
            Role::AdjointTangent,
        ),
    };
    let back = matches!(pass, Pass::Backward | Pass::TangentBackward);
    let parameters = Parameters {
        from: encoder.pixels(from, role),
        to: encoder.pixels(to, role),
        pixels: narrow(op.pixels()),
        channels: narrow(op.channels),
        groups: narrow(op.groups),
        adds: u32::from(back && encoder.adds_to(op.input)),
        ..Parameters::default()
    };
    let elements = op.pixels() * op.channels;
    let grid = [elements.div_ceil(THREADS), 1];
    let kernel = Kernel::new("shuffle", entry);
    encoder.launch(kernel, grid, THREADS, 0, &parameters);
}
