//! What lanes and warps do together: which file does what. `*.sync` instructions are in [`super::exchange`], block
//! barriers in [`super::barrier`], clusters in [`super::cluster`], asynchronous copies and mbarriers in
//! [`super::asynchronous`], matrices in [`super::matrix`].

use super::access::{At, lanes};
use super::block::BlockState;
use super::exchange::{exchange, mask_slot};
use super::lanes::{Lane, Slot};
use super::run::Next;
use super::warp::Warp;
use crate::check::{Fault, FaultKind};
use crate::lower::inst::{Inst, MbarrierOp, MemSpace, NONE, Op};

impl Warp {
    /// Executes an instruction that isn't elementwise, a memory access or control flow.
    ///
    /// # Safety
    /// Registers, predicates and lists are those of the fragment's frame and function.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn collective(
        &mut self,
        block: &mut BlockState,
        index: usize,
        inst: &Inst,
        lists: &[u32],
        regs: *mut Slot,
        preds: *mut u32,
        active: u32,
        at: At,
    ) -> Result<Next, Box<Fault>> {
        // SAFETY: the caller's promise throughout.
        unsafe {
            if let Some(slot) = mask_slot(inst) {
                return self.synchronous(block, index, inst, slot, regs, preds, active, at);
            }
            match inst.op {
                // The forms without `.sync` work on the lanes that are here.
                Op::Shuffle(_) | Op::Vote(_) => {
                    exchange(inst, regs, preds, active, &|_| active);
                }
                Op::ActiveMask => {
                    for lane in lanes(active) {
                        u32::put(regs, inst.dst, lane, active);
                    }
                }
                Op::Barrier { op, aligned } => {
                    return self.barrier(block, index, op, aligned, inst, regs, preds, active, at);
                }
                Op::CpAsync {
                    wide_address,
                    bytes,
                } => {
                    self.start_copies(block, inst, wide_address, bytes, regs, active, at)?;
                }
                Op::CpAsyncCommit => {
                    for lane in lanes(active) {
                        self.committed[lane] += 1;
                    }
                }
                Op::CpAsyncWait => {
                    self.finish_copies(block, active, inst.imm.max(0) as u32)?;
                    if inst.imm < 0 {
                        for lane in lanes(active) {
                            self.committed[lane] += 1;
                        }
                        self.finish_copies(block, active, 0)?;
                    }
                }
                Op::CpAsyncMbarrier {
                    noinc,
                    wide_address,
                } => {
                    for lane in lanes(active) {
                        self.committed[lane] += 1;
                    }
                    self.finish_copies(block, active, 0)?;
                    // The copies are done when they are started, so the arrival is immediate. Without
                    // `noinc` the pending count was raised first, which cancels out.
                    if noinc {
                        let arrive = Inst {
                            b: NONE,
                            dst: NONE,
                            ..*inst
                        };
                        self.mbarrier(
                            block,
                            MbarrierOp::Arrive,
                            &arrive,
                            wide_address,
                            MemSpace::Generic,
                            regs,
                            preds,
                            active,
                            at,
                        )?;
                    }
                }
                Op::CpBulk {
                    to_shared,
                    wide_address,
                } => {
                    self.bulk(
                        block,
                        inst,
                        to_shared,
                        wide_address,
                        regs,
                        preds,
                        active,
                        at,
                    )?;
                }
                Op::Mbarrier {
                    op,
                    wide_address,
                    space,
                } => {
                    let failed = self.mbarrier(
                        block,
                        op,
                        inst,
                        wide_address,
                        space,
                        regs,
                        preds,
                        active,
                        at,
                    )?;
                    if failed {
                        // A wait that fails is about to be tried again: let the others work first.
                        self.fragments[index].spins = u32::MAX / 2;
                    }
                }
                Op::Mapa { wide } => {
                    self.map_address(block, inst, wide, regs, active, at)?;
                }
                Op::CtaRank { wide } => self.rank_of_address(block, inst, wide, regs, active),
                Op::ClusterArrive => self.cluster_arrive(block, active, at)?,
                Op::ClusterWait => return self.cluster_wait(block, index, active, at),
                Op::LdMatrix { .. } | Op::StMatrix { .. } => {
                    self.matrix_move(block, inst, lists, regs, active, at)?;
                }
                Op::MovMatrix => super::matrix::transpose(inst, regs),
                Op::Mma(shape) => {
                    super::matrix::product(block.env.level, shape, inst, lists, regs);
                    block.tally.matrix(shape);
                }
                Op::WmmaLoad(access) | Op::WmmaStore(access) => {
                    self.wmma_access(block, inst, access, lists, regs, active, at)?;
                }
                _ => return Err(self.unsupported(block, at, active, &format!("{:?}", inst.op))),
            }
        }
        Ok(Next::On)
    }

    fn unsupported(&self, block: &BlockState, at: At, active: u32, what: &str) -> Box<Fault> {
        block.fault(
            FaultKind::Trap,
            self,
            at.function,
            at.pc,
            active.trailing_zeros(),
            &format!("{what} is not supported"),
        )
    }
}
