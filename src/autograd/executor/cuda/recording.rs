//! A tape's passes as recordings of launches: encoded for addresses that a device has, or for none, to list,
//! count and compile what they take.

use crate::autograd::plan::{Mode, Plan};
use crate::autograd::tape::Tape;
use crate::device::cuda::launch::{Recording, SHARED_EVERYWHERE, Specialisation};
use crate::ops::Pass;
use crate::ops::cuda::{Encoder, Precision, Region, Regions, SmallBuffers, Wants};
use crate::ops::perturb::cuda::stride;
use std::collections::BTreeSet;

/// A mode's plan, what its passes want beside it, and the kernels they take.
pub(super) struct Planned {
    pub plan: Plan,
    pub wants: Wants,
    pub kernels: BTreeSet<Specialisation>,
}

impl Planned {
    pub fn new(
        tape: &Tape,
        mode: Mode,
        small: &SmallBuffers,
        (precision, shared): (Precision, usize),
    ) -> anyhow::Result<Planned> {
        let plan = Plan::new(tape, mode);
        let mut wants = Wants::default();
        let mut kernels = BTreeSet::new();
        for &pass in mode.passes() {
            let kind = (precision, 1, shared);
            let (recording, of_pass) =
                encode(tape, (&plan, small), pass, Regions::default(), kind)?;
            wants = wants.max(of_pass);
            kernels.extend(recording.launches().map(|l| l.kernel.specialisation()));
        }
        Ok(Planned {
            plan,
            wants,
            kernels,
        })
    }
}

/// A pass encoded without a device; see [`record`].
pub struct Recorded {
    /// The launches; addresses in it are no memory.
    pub recording: Recording,
    /// What they want beside the plan.
    pub wants: Wants,
}

/// Encodes `pass` of `tape` in `mode` for `members` members, at addresses that are no memory: which
/// kernels it takes, how often, and what it wants.
///
/// # Errors
/// An op that has no kernels, or not for its size.
pub fn record(
    tape: &Tape,
    mode: Mode,
    pass: Pass,
    (precision, members): (Precision, usize),
) -> anyhow::Result<Recorded> {
    let (plan, small) = (Plan::new(tape, mode), SmallBuffers::new(&tape.graph));
    let mut next = 0;
    let mut place = || {
        next += 1u64 << 44;
        next
    };
    let mut region = |member| Region {
        base: place(),
        member,
    };
    let regions = Regions {
        arena: region(plan.workspace),
        theta: region(stride(tape.theta_len())),
        moments: region(4 * small.moments_len),
        weights: region(4 * small.weights_len),
        workspace: region(0),
        tickets: region(0),
        logits: region(tape.graph.batch * tape.classes),
        direction: region(0).base,
        gradient: region(0).base,
        labels: region(0).base,
        outcome: region(0).base,
        constants: region(0).base,
    };
    let kind = (precision, members, SHARED_EVERYWHERE);
    let (recording, wants) = encode(tape, (&plan, &small), pass, regions, kind)?;
    Ok(Recorded { recording, wants })
}

/// What is compiled for `tape` in `precision`: every kernel of its passes.
///
/// # Errors
/// An op that has no kernels, or not for its size.
pub fn specialisations(
    tape: &Tape,
    precision: Precision,
) -> anyhow::Result<BTreeSet<Specialisation>> {
    let mode = Mode::Products;
    let (plan, small) = (Plan::new(tape, mode), SmallBuffers::new(&tape.graph));
    let mut found = BTreeSet::new();
    for &pass in mode.passes() {
        for op in &tape.ops {
            let layout = (plan.offsets.as_slice(), &small);
            let regions = Regions::default();
            let mut encoder = Encoder::new(&tape.graph, layout, regions, (precision, 1), "");
            encoder.op(op.as_ref(), pass)?;
            let (recording, _) = encoder.finish();
            found.extend(recording.launches().map(|l| l.kernel.specialisation()));
        }
    }
    Ok(found)
}

/// The recording of one pass, and what it wants.
pub(super) fn encode(
    tape: &Tape,
    (plan, small): (&Plan, &SmallBuffers),
    pass: Pass,
    regions: Regions,
    (precision, members, shared): (Precision, usize, usize),
) -> anyhow::Result<(Recording, Wants)> {
    let name = match pass {
        Pass::Forward => "forward",
        Pass::Backward => "backward",
        Pass::Tangent => "tangent",
        Pass::TangentBackward => "tangent_backward",
    };
    let layout = (plan.offsets.as_slice(), small);
    let encoder = Encoder::new(&tape.graph, layout, regions, (precision, members), name);
    let mut encoder = encoder.with_shared(shared);
    encoder.clear_sums(pass);
    let mut each = |op: &dyn crate::ops::Op| encoder.op(op, pass);
    match pass {
        Pass::Forward | Pass::Tangent => {
            tape.ops.iter().try_for_each(|op| each(op.as_ref()))?;
        }
        Pass::Backward | Pass::TangentBackward => {
            tape.ops.iter().rev().try_for_each(|op| each(op.as_ref()))?;
        }
    }
    Ok(encoder.finish())
}
