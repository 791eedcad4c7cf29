//! The four passes on CUDA: one launch each, a thread four elements. See `kernels/dropout.cu`.

use super::{Draw, Dropout, ENTRIES};
use crate::device::cuda::launch::Kernel;
use crate::layout_test;
use crate::ops::cuda::{Encoder, Header, Pixels, narrow};
use crate::ops::{Pass, Role};
use bytemuck::{Pod, Zeroable};

/// `Draw` of `dropout.cu`: what is dropped, as launches read it from device memory. Zeros drop nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct DeviceDraw {
    key: [u32; 2],
    stream: u64,
    rate: f32,
    kept: f32,
}

impl DeviceDraw {
    /// Of `draw`; none drops nothing.
    pub fn new(draw: Option<Draw>) -> DeviceDraw {
        draw.map_or_else(DeviceDraw::default, |draw| DeviceDraw {
            key: draw.philox.key(),
            stream: draw.number * ENTRIES,
            rate: draw.rate,
            kept: 1.0 / (1.0 - draw.rate),
        })
    }
}

/// `Dropout` of `dropout.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    from: Pixels,
    to: Pixels,
    draw: u64,
    entry: u64,
    elements: u32,
    channels: u32,
    adds: u32,
    unused: u32,
}

layout_test!(DeviceDraw = 24, Parameters = 80);

/// Threads a block: enough warps for full occupancy.
const THREADS: usize = 256;

pub(super) fn encode(op: &Dropout, pass: Pass, encoder: &mut Encoder) {
    let (entry, from, to, role) = match pass {
        Pass::Forward => ("dropout_forward", op.input, op.output, Role::Value),
        Pass::Tangent => ("dropout_tangent", op.input, op.output, Role::Tangent),
        Pass::Backward => ("dropout_backward", op.output, op.input, Role::Adjoint),
        Pass::TangentBackward => (
            "dropout_tangent_backward",
            op.output,
            op.input,
            Role::AdjointTangent,
        ),
    };
    let back = matches!(pass, Pass::Backward | Pass::TangentBackward);
    let activation = encoder.graph().activation(op.input);
    let elements = op.batch * activation.height * activation.width * activation.channels;
    let parameters = Parameters {
        from: encoder.pixels(from, role),
        to: encoder.pixels(to, role),
        draw: encoder.draw(),
        entry: op.entry,
        elements: narrow(elements),
        channels: narrow(activation.channels),
        adds: u32::from(back && encoder.adds_to(op.input)),
        ..Parameters::default()
    };
    let grid = [elements.div_ceil(4 * THREADS), 1];
    let kernel =
        Kernel::new("dropout", entry).define("VECTOR", encoder.vector(&[op.input, op.output]));
    encoder.launch(kernel, grid, THREADS, 0, &parameters);
}
