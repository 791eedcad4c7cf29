//! A cluster: blocks that run side by side, reach each other's shared memory and meet at a barrier of their own.
//!
//! All blocks of a cluster run in turns on one thread. A shared-memory address is 24 bits of offset below the rank
//! of its block plus one; rank bits of zero mean the block's own memory. What other blocks of the cluster do to
//! shared memory is checked for bounds, for initialisation and for blocks that have ended, not for races.

use std::cell::{Cell, RefCell};

use super::access::{At, Run, lanes, survey};
use super::block::{BlockState, SHARED_BASE, SHARED_WINDOW};
use super::lanes::{Lane, Slot};
use super::run::Next;
use super::transfer::{atomic, load, store};
use super::warp::{State, Warp};
use crate::check::{AccessKind, Fault, FaultKind};
use crate::lower::inst::{Inst, NONE};

/// What the blocks of a cluster have in common.
pub(crate) struct Cluster {
    /// Its number in the grid.
    index: u64,
    /// Threads that haven't exited.
    alive: Cell<u32>,
    /// Threads that have arrived at the barrier.
    arrived: Cell<u32>,
    /// Counts completions of the barrier.
    pub(crate) generation: Cell<u32>,
    /// By rank.
    members: RefCell<Vec<Member>>,
}

/// A block's shared memory, and the bits of the bytes that were written.
#[derive(Clone, Copy)]
pub(crate) struct Member {
    pub(crate) shared: *mut u8,
    pub(crate) written: *mut u64,
    pub(crate) ended: bool,
}

impl Cluster {
    pub(crate) fn new(index: u64, threads: u32) -> Cluster {
        Cluster {
            index,
            alive: Cell::new(threads),
            arrived: Cell::new(0),
            generation: Cell::new(0),
            members: RefCell::default(),
        }
    }

    /// The next block by rank.
    pub(crate) fn join(&self, member: Member) {
        self.members.borrow_mut().push(member);
    }

    /// A block has run to its end.
    pub(crate) fn end(&self, rank: u32) {
        self.members.borrow_mut()[rank as usize].ended = true;
    }

    fn member(&self, rank: u32) -> Option<Member> {
        self.members.borrow().get(rank as usize).copied()
    }

    fn arrive(&self, threads: u32) {
        self.arrived.set(self.arrived.get() + threads);
        self.complete();
    }

    /// Threads exit, `arrived` of which had come to the barrier and not waited.
    pub(crate) fn exit(&self, threads: u32, arrived: u32) {
        self.alive.set(self.alive.get() - threads);
        self.arrived.set(self.arrived.get() - arrived);
        self.complete();
    }

    fn complete(&self) {
        if self.arrived.get() > 0 && self.arrived.get() >= self.alive.get() {
            self.arrived.set(0);
            self.generation.set(self.generation.get().wrapping_add(1));
        }
    }

    /// Where the barrier's order is kept, which no memory access reaches.
    fn location(&self) -> u64 {
        u64::MAX - self.index
    }
}

impl BlockState<'_> {
    /// The barrier has completed since this block looked: what its warps did before comes before what they do.
    fn see_cluster_barrier(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let (generation, location) = (cluster.generation.get(), cluster.location());
        if self.cluster_seen != generation {
            self.cluster_seen = generation;
            self.watch.barrier(u32::MAX);
            if let Some(order) = self.order.as_mut() {
                self.watch
                    .strong_access(order, location, AccessKind::Read, false);
            }
        }
    }
}

impl Warp {
    /// `barrier.cluster.arrive`
    pub(super) fn cluster_arrive(
        &mut self,
        block: &mut BlockState,
        active: u32,
        at: At,
    ) -> Result<(), Box<Fault>> {
        let Some(cluster) = block.cluster.clone() else {
            return Ok(());
        };
        let generation = cluster.generation.get();
        for lane in lanes(active) {
            if self.cluster_at[lane] == Some(generation) {
                let message =
                    "divergent barrier: the thread arrives at the cluster's barrier twice";
                let kind = FaultKind::Barrier;
                return Err(block.fault(kind, self, at.function, at.pc, lane as u32, message));
            }
            self.cluster_at[lane] = Some(generation);
        }
        if let Some(order) = block.order.as_mut() {
            let location = cluster.location();
            block
                .watch
                .strong_access(order, location, AccessKind::Write, true);
        }
        block.tally.barrier();
        cluster.arrive(active.count_ones());
        Ok(())
    }

    /// `barrier.cluster.wait`
    pub(super) fn cluster_wait(
        &mut self,
        block: &mut BlockState,
        index: usize,
        active: u32,
        at: At,
    ) -> Result<Next, Box<Fault>> {
        let Some(cluster) = block.cluster.clone() else {
            return Ok(Next::On);
        };
        let lane = active.trailing_zeros();
        let Some(generation) = self.cluster_at[lane as usize] else {
            let message = "divergent barrier: the thread waits for the cluster's barrier without having \
                           arrived at it";
            let kind = FaultKind::Barrier;
            return Err(block.fault(kind, self, at.function, at.pc, lane, message));
        };
        if cluster.generation.get() != generation {
            self.passed_cluster_barrier(block, active);
            return Ok(Next::On);
        }
        if self.fragments[index].mask != active {
            self.split(index, active, at.pc, at.pc + 1, NONE);
            return Ok(Next::Choose);
        }
        self.fragments[index].state = State::Cluster { generation };
        Ok(Next::Wait)
    }

    /// Lanes go on behind the cluster's barrier.
    pub(super) fn passed_cluster_barrier(&mut self, block: &mut BlockState, mask: u32) {
        for lane in lanes(mask) {
            self.cluster_at[lane] = None;
        }
        self.sync_epoch += 1;
        block.see_cluster_barrier();
    }

    /// Lanes exit: those that have arrived at the cluster's barrier are no longer waited for.
    pub(super) fn leave_cluster(&mut self, block: &BlockState, mask: u32) {
        let Some(cluster) = &block.cluster else {
            return;
        };
        let now = Some(cluster.generation.get());
        let arrived = lanes(mask).filter(|&lane| self.cluster_at[lane] == now);
        cluster.exit(mask.count_ones(), arrived.count() as u32);
    }

    /// `mapa`: the address of the same variable in another block of the cluster.
    ///
    /// # Safety
    /// Registers of `inst` are of the frame at `regs`, 64 bits wide where `wide`.
    pub(super) unsafe fn map_address(
        &self,
        block: &BlockState,
        inst: &Inst,
        wide: bool,
        regs: *mut Slot,
        active: u32,
        at: At,
    ) -> Result<(), Box<Fault>> {
        for lane in lanes(active) {
            // SAFETY: the caller's promise.
            let (address, rank) = unsafe {
                let address = if wide {
                    u64::get(regs, inst.a, lane)
                } else {
                    u64::from(u32::get(regs, inst.a, lane))
                };
                (address, u32::get(regs, inst.b, lane))
            };
            let size: u32 = block.env.launch.cluster.iter().product();
            if rank >= size {
                let message = format!("`mapa` to block {rank} of a cluster of {size} blocks");
                let kind = FaultKind::IllegalAddress;
                return Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message));
            }
            let base = if address >= SHARED_BASE {
                SHARED_BASE
            } else {
                0
            };
            let offset = (address - base) % SHARED_WINDOW;
            let mapped = base + u64::from(rank + 1) * SHARED_WINDOW + offset;
            // SAFETY: the caller's promise.
            unsafe {
                if wide {
                    u64::put(regs, inst.dst, lane, mapped);
                } else {
                    u32::put(regs, inst.dst, lane, mapped as u32);
                }
            }
        }
        Ok(())
    }

    /// `getctarank`: the rank of the block whose shared memory an address is in.
    ///
    /// # Safety
    /// As [`Warp::map_address`].
    pub(super) unsafe fn rank_of_address(
        &self,
        block: &BlockState,
        inst: &Inst,
        wide: bool,
        regs: *mut Slot,
        active: u32,
    ) {
        for lane in lanes(active) {
            // SAFETY: the caller's promise.
            unsafe {
                let address = if wide {
                    u64::get(regs, inst.a, lane).wrapping_sub(SHARED_BASE)
                } else {
                    u64::from(u32::get(regs, inst.a, lane))
                };
                let rank = match (address / SHARED_WINDOW) as u32 {
                    0 => block.rank(),
                    window => window - 1,
                };
                u32::put(regs, inst.dst, lane, rank);
            }
        }
    }

    /// Where an address of shared memory is: an offset in this block's own, or another block's memory and the
    /// offset there, whose bounds are checked.
    pub(super) fn resolve_shared(
        &self,
        block: &BlockState,
        at: At,
        lane: usize,
        address: u64,
        bytes: u64,
    ) -> Result<(Option<Member>, u64), Box<Fault>> {
        let (window, offset) = (address / SHARED_WINDOW, address % SHARED_WINDOW);
        if window == 0 || window == u64::from(block.rank()) + 1 {
            return Ok((None, offset));
        }
        let fail = |what: String| {
            let message = format!("out-of-bounds access: {bytes} bytes at {offset:#x} of {what}");
            let kind = FaultKind::IllegalAddress;
            Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message))
        };
        let member = u32::try_from(window - 1)
            .ok()
            .and_then(|rank| block.cluster.as_ref()?.member(rank));
        let size = u64::from(block.env.shared_bytes);
        match member {
            None => fail(format!(
                "shared memory of block {} of a cluster that has none such",
                window - 1
            )),
            Some(member) if member.ended => fail(format!(
                "shared memory of block {} of the cluster, which has exited; a barrier of the cluster at the \
                 kernel's end keeps it",
                window - 1
            )),
            Some(_) if offset + bytes > size => fail(format!(
                "shared memory of block {} of the cluster, which has {size} bytes",
                window - 1
            )),
            Some(member) => Ok((Some(member), offset)),
        }
    }

    /// An access to shared memory of which some lanes name the block: lane after lane.
    pub(super) fn distributed(
        &mut self,
        block: &mut BlockState,
        run: &Run,
        list: &[u64; 32],
        kind: AccessKind,
    ) -> Result<(), Box<Fault>> {
        let bytes = u64::from(run.access.ty.bytes()) * u64::from(run.access.count);
        let check = block.env.machine.options.checks.uninitialised;
        for lane in lanes(run.mask) {
            let (member, offset) = self.resolve_shared(block, run.at, lane, list[lane], bytes)?;
            let mut one = *list;
            one[lane] = offset;
            let part = Run {
                mask: 1 << lane,
                ..*run
            };
            // SAFETY: the level is the processor's.
            let found = unsafe { survey(block.env.level, &one, part.mask, bytes) };
            let Some(member) = member else {
                self.shared(block, &part, &one, found, kind)?;
                continue;
            };
            block.tally.shared(run.at, &one, part.mask, bytes, kind);
            let bits = (u64::MAX >> (64 - bytes)) << (offset % 64);
            // SAFETY: the offset is inside the block's shared memory, which lives as long as its cluster
            // runs, on this thread alone; its written bits cover all of it.
            unsafe {
                let written = member.written.add((offset / 64) as usize);
                if kind == AccessKind::Write {
                    *written |= bits;
                } else if check && *written & bits != bits {
                    let message = format!(
                        "uninitialised read: {bytes} bytes at {offset:#x} of another block's shared memory, \
                         which no thread has written"
                    );
                    let (what, at) = (FaultKind::Uninitialised, run.at);
                    return Err(block.fault(what, self, at.function, at.pc, lane as u32, &message));
                }
                match kind {
                    AccessKind::Read => load(&part, &one, found, member.shared),
                    AccessKind::Write => store(&part, &one, found, member.shared),
                    AccessKind::Atomic => atomic(&part, &one, member.shared, false, false),
                }
            }
        }
        Ok(())
    }
}
