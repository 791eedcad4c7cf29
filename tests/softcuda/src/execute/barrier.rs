//! Block barriers: arrival, waiting, their reductions, and who went round them.

use super::access::{At, lanes};
use super::block::BlockState;
use super::lanes::{Lane, Slot};
use super::run::{Next, set_pred, source};
use super::warp::{State, Warp};
use crate::check::{Fault, FaultKind};
use crate::lower::inst::{BarrierOp, Inst, NONE, Op};

impl Warp {
    /// A fragment comes to a block barrier.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn barrier(
        &mut self,
        block: &mut BlockState,
        index: usize,
        op: BarrierOp,
        aligned: bool,
        inst: &Inst,
        regs: *mut Slot,
        preds: *mut u32,
        active: u32,
        at: At,
    ) -> Result<Next, Box<Fault>> {
        let lane = active.trailing_zeros();
        // SAFETY: the caller's promise: `a` and `b` are word registers.
        let (id, count) = unsafe {
            let id = u32::get(regs, inst.a, lane as usize);
            let count = (inst.b != NONE).then(|| u32::get(regs, inst.b, lane as usize));
            (id, count)
        };
        let fail = |warp: &Warp, message: String| {
            Err(block.fault(FaultKind::Barrier, warp, at.function, at.pc, lane, &message))
        };
        if id > 15 {
            return fail(self, format!("barrier {id}: a block has barriers 0 to 15"));
        }
        if let Some(count) = count
            && (count == 0 || count % 32 != 0 || count > block.env.threads.next_multiple_of(32))
        {
            return fail(
                self,
                format!(
                    "barrier {id} for {count} threads: expected a multiple of 32 up to the block's {}",
                    block.env.threads
                ),
            );
        }
        if aligned && block.env.machine.options.checks.barriers {
            // Lanes whose barrier has completed are on their way, though they had no turn yet.
            let elsewhere = self.fragments.iter().find(|f| {
                matches!(f.state, State::Barrier { id, generation }
                    if block.barriers[id as usize].generation == generation)
                    && (f.pc != at.pc || f.frame != self.fragments[index].frame)
            });
            if let Some(other) = elsewhere {
                let function = self.frames[other.frame as usize].function;
                return fail(
                    self,
                    format!(
                        "divergent barrier: lanes {active:#010x} of the warp are at this barrier, \
                         lanes {:#010x} at the one at {}",
                        other.mask,
                        block.place(function, other.pc)
                    ),
                );
            }
        }
        if self.fragments[index].mask != active {
            self.split(index, active, at.pc, at.pc + 1, NONE);
            return Ok(Next::Choose);
        }
        block.tally.barrier();
        // With a count, whole warps arrive, exited lanes included.
        let arriving = if count.is_some() && active == self.alive() {
            32
        } else {
            active.count_ones()
        };
        // SAFETY: the caller's promise.
        let holds = unsafe { source(preds, inst.c) } & active;
        let barrier = &mut block.barriers[id as usize];
        if barrier.arrived == 0 {
            barrier.at = (at.function, at.pc);
        }
        let generation = barrier.generation;
        barrier.arrived += arriving;
        barrier.count += holds.count_ones();
        barrier.warps |= 1 << self.index;
        if count.is_some() {
            barrier.expected = count;
        }
        let expected = barrier.expected.unwrap_or(block.alive);
        if barrier.arrived >= expected && !block.went_round(id as usize) {
            block.complete(id as usize);
        }
        if op == BarrierOp::Arrive {
            return Ok(Next::On);
        }
        self.sync_epoch += 1;
        self.fragments[index].state = State::Barrier { id, generation };
        Ok(Next::Wait)
    }

    /// The barrier has let the fragment go: writes the instruction's result.
    pub(super) unsafe fn finish_barrier(
        &self,
        block: &BlockState,
        inst: &Inst,
        regs: *mut Slot,
        preds: *mut u32,
        mask: u32,
    ) {
        let Op::Barrier { op, .. } = inst.op else {
            return;
        };
        // SAFETY: the caller's promise: the barrier's number is a word register of the frame.
        unsafe {
            let id = u32::get(regs, inst.a, mask.trailing_zeros() as usize);
            let (count, arrived) = block.barriers[id as usize & 15].result;
            match op {
                BarrierOp::Popc => {
                    for lane in lanes(mask) {
                        u32::put(regs, inst.dst, lane, count);
                    }
                }
                BarrierOp::And | BarrierOp::Or => {
                    let holds = if op == BarrierOp::And {
                        count >= arrived
                    } else {
                        count > 0
                    };
                    set_pred(preds, inst.dst, if holds { u32::MAX } else { 0 }, mask);
                }
                BarrierOp::Sync | BarrierOp::Arrive => {}
            }
        }
    }
}
