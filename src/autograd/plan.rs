//! The memory plan: lifetimes of all buffers over the passes of a mode, laid into one arena.
//!
//! Time is the sequence of (pass, op). A buffer lives from its first write to its last read; what
//! the tangent passes read from the earlier ones lives to the end, because a Neumann series runs
//! them again and again. Buffers are placed largest first at the lowest offset where nothing alive
//! at the same time lies.

use super::tape::Tape;
use crate::device::memory::ALIGNMENT;
use crate::ops::{ActivationId, Pass, Role};
use std::collections::BTreeMap;

/// Which passes will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Forward alone; nothing is kept.
    Evaluate,
    /// Forward and backward.
    Gradient,
    /// Forward and backward once, then tangent and tangent_backward any number of times.
    Products,
}

impl Mode {
    /// The passes that run, in order.
    pub fn passes(self) -> &'static [Pass] {
        match self {
            Mode::Evaluate => &[Pass::Forward],
            Mode::Gradient => &[Pass::Forward, Pass::Backward],
            Mode::Products => &[
                Pass::Forward,
                Pass::Backward,
                Pass::Tangent,
                Pass::TangentBackward,
            ],
        }
    }
}

/// Offsets in f32 for one mode.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Per activation and role; `usize::MAX` where there is no buffer.
    pub offsets: Vec<[usize; 4]>,
    /// Where the ops' workspace begins.
    pub workspace: usize,
    /// Its length: the most any op wants.
    pub workspace_len: usize,
    /// f32 in all.
    pub len: usize,
}

/// A buffer and the time it is alive, in steps of (pass, op), both ends included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub owner: ActivationId,
    pub role: Role,
    pub first: usize,
    pub last: usize,
    pub len: usize,
}

fn aligned(len: usize) -> usize {
    let unit = ALIGNMENT / size_of::<f32>();
    len.div_ceil(unit) * unit
}

/// Lifetimes of all buffers, and the largest workspace.
pub(crate) fn lifetimes(tape: &Tape, mode: Mode) -> (Vec<Buffer>, usize) {
    let count = tape.ops.len();
    let end = mode.passes().len() * count;
    let mut lives: BTreeMap<(ActivationId, Role), (usize, usize)> = BTreeMap::new();
    let mut workspace = 0;
    lives.insert((tape.images, Role::Value), (0, 0));
    for (p, &pass) in mode.passes().iter().enumerate() {
        for (i, op) in tape.ops.iter().enumerate() {
            let reversed = matches!(pass, Pass::Backward | Pass::TangentBackward);
            let time = p * count + if reversed { count - 1 - i } else { i };
            let uses = op.uses(&tape.graph, pass);
            workspace = workspace.max(uses.workspace);
            for &(id, role) in uses.reads.iter().chain(&uses.writes) {
                let key = (tape.graph.owner(id), role);
                let life = lives.entry(key).or_insert((time, time));
                *life = (life.0.min(time), life.1.max(time));
            }
        }
    }
    let repeated = 2 * count;
    let buffers = lives.into_iter().map(|((owner, role), (first, last))| {
        let whole = tape.graph.activation(owner);
        let len = tape.graph.batch * whole.height * whole.width * whole.channels;
        let kept = first < repeated && last >= repeated;
        Buffer {
            owner,
            role,
            first,
            last: if kept { end } else { last },
            len: aligned(len),
        }
    });
    (buffers.collect(), workspace)
}

impl Plan {
    /// Plans `tape` for `mode`.
    pub fn new(tape: &Tape, mode: Mode) -> Plan {
        let (mut buffers, workspace_len) = lifetimes(tape, mode);
        buffers.sort_by_key(|b| (std::cmp::Reverse(b.len), b.first, b.owner, b.role));
        let mut offsets = vec![[usize::MAX; 4]; tape.graph.activations.len()];
        let mut placed: Vec<(Buffer, usize)> = Vec::with_capacity(buffers.len());
        let mut len = 0;
        for buffer in buffers {
            let mut busy: Vec<(usize, usize)> = placed
                .iter()
                .filter(|(b, _)| b.first <= buffer.last && buffer.first <= b.last)
                .map(|(b, offset)| (*offset, offset + b.len))
                .collect();
            busy.sort_unstable();
            let mut offset = 0;
            for (start, stop) in busy {
                if offset + buffer.len <= start {
                    break;
                }
                offset = offset.max(stop);
            }
            offsets[buffer.owner.0][buffer.role as usize] = offset;
            len = len.max(offset + buffer.len);
            placed.push((buffer, offset));
        }
        Plan {
            offsets,
            workspace: len,
            workspace_len,
            len: len + aligned(workspace_len),
        }
    }
}
