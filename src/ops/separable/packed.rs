//! What a CPU pass reads beside the images, laid out before it starts: weights padded to whole
//! vectors, their transposes and tangents, and the coefficients of the adjoints.

use super::{PlannedBranch, Separable};
use crate::device::View;
use crate::device::simd::padded;
use crate::ops::adjoint::AdjointReader;
use crate::ops::rows::{pack, pack_transposed};
use crate::ops::{Context, Pass};

/// Packed weights of a branch, padded to whole vectors.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    pub(super) depthwise: *const f32,
    pub(super) pointwise: *const f32,
    pub(super) transposed: *const f32,
}

impl Packed {
    pub(super) fn at(branch: &PlannedBranch, cin: usize, workspace: View, tangent: bool) -> Packed {
        let start = branch.packed + usize::from(tangent) * branch.packed_len(cin);
        let part = |from, len| workspace.part(start + from, len).pointer().cast_const();
        let (dw, pw) = (branch.depthwise_len(cin), branch.pointwise_len(cin));
        Packed {
            depthwise: part(0, dw),
            pointwise: part(dw, pw),
            transposed: part(dw + pw, branch.channels_out * padded(cin)),
        }
    }
}

/// Packs the weights (and in the tangent passes their tangents), and the adjoint coefficients.
pub(super) fn prepare(op: &Separable, cx: &Context, pass: Pass) {
    let tangents = matches!(pass, Pass::Tangent | Pass::TangentBackward);
    for group in &op.groups {
        for branch in group.live(cx.graph) {
            let cin = group.channels;
            for tangent in [false, true] {
                if tangent && !tangents {
                    continue;
                }
                let of = |id| {
                    if tangent {
                        cx.parameter_tangent(id)
                    } else {
                        cx.parameter(id)
                    }
                };
                let (dw, pw) = (branch.depthwise_len(cin), branch.pointwise_len(cin));
                let start = branch.packed + usize::from(tangent) * branch.packed_len(cin);
                let pointwise = of(branch.branch.pointwise).read();
                let part = |from, len| cx.workspace.part(start + from, len).write();
                pack(of(branch.branch.depthwise).read(), cin, part(0, dw));
                pack(pointwise, branch.channels_out, part(dw, pw));
                let transposed = part(dw + pw, branch.channels_out * padded(cin));
                pack_transposed(pointwise, cin, branch.channels_out, transposed);
            }
            if matches!(pass, Pass::Backward | Pass::TangentBackward) {
                AdjointReader::prepare(
                    cx,
                    branch.branch.output,
                    coefficients(branch, cx),
                    pass == Pass::TangentBackward,
                );
            }
        }
    }
}

pub(super) fn coefficients(branch: &PlannedBranch, cx: &Context) -> View {
    cx.workspace.part(
        branch.coefficients,
        cx.workspace.len() - branch.coefficients,
    )
}
