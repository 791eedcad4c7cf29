//! A tape's passes as recordings of launches: encoded for addresses that a device has, or for none, to list,
//! count and compile what they take.

use super::super::active::Active;
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
    /// Bytes of a pass's tables, at most.
    pub tables: usize,
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
        let mut tables = 0;
        for &pass in mode.passes() {
            let kind = (precision, 1, shared);
            let (recording, of_pass) =
                encode((tape, None), (&plan, small), pass, Regions::default(), kind)?;
            wants = wants.max(of_pass);
            tables = tables.max(recording.constants.len());
            kernels.extend(recording.launches().map(|l| l.kernel.specialisation()));
        }
        Ok(Planned {
            plan,
            wants,
            kernels,
            tables,
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
        draw: region(0).base,
    };
    let kind = (precision, members, SHARED_EVERYWHERE);
    let (recording, wants) = encode((tape, None), (&plan, &small), pass, regions, kind)?;
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

/// The recording of one pass, of all of the tape or of a part of it, and what it wants.
pub(super) fn encode(
    (tape, part): (&Tape, Option<&Active>),
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
    let backward = matches!(pass, Pass::Backward | Pass::TangentBackward);
    if let Some(part) = part {
        encoder = encoder.of_part(&part.graph);
        if backward {
            encoder.clear_gradient(tape.theta_len());
        }
    }
    encoder.clear_sums(pass);
    let runs = |index: &usize| part.is_none_or(|part| part.entries[*index]);
    let each = |index: usize| encoder.op(tape.ops[index].as_ref(), pass);
    let mut running = (0..tape.ops.len()).filter(runs);
    if backward {
        running.rev().try_for_each(each)?;
    } else {
        running.try_for_each(each)?;
    }
    Ok(encoder.finish())
}
