//! What lanes and warps do together: `*.sync` instructions, block barriers, asynchronous copies, mbarriers.

use super::access::{At, lanes, survey};
use super::block::{BlockState, SHARED_BASE};
use super::lanes::{Lane, Slot};
use super::run::{Next, set_pred, source};
use super::warp::{PendingCopy, State, Warp};
use crate::check::{AccessKind, Fault, FaultKind, Party};
use crate::lower::inst::{AtomOp, BarrierOp, Inst, MbarrierOp, MemSpace, NONE, Op, Shuffle, Vote};
use crate::lower::types::Type;

/// The member mask slot of a `*.sync` instruction.
fn mask_slot(inst: &Inst) -> Option<u32> {
    match inst.op {
        Op::WarpSync
        | Op::Shuffle(_)
        | Op::Vote(_)
        | Op::Match { .. }
        | Op::Redux(..)
        | Op::Elect => (inst.c != NONE).then_some(inst.c),
        _ => None,
    }
}

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

    /// A `*.sync` instruction: executed when every lane that its member mask names is there.
    #[allow(clippy::too_many_arguments)]
    unsafe fn synchronous(
        &mut self,
        block: &mut BlockState,
        index: usize,
        inst: &Inst,
        slot: u32,
        regs: *mut Slot,
        preds: *mut u32,
        active: u32,
        at: At,
    ) -> Result<Next, Box<Fault>> {
        let alive = self.alive();
        // SAFETY: the caller's promise: the slot is a word register of the frame.
        let members = |lane: usize| unsafe { u32::get(regs, slot, lane) };
        let first = active.trailing_zeros() as usize;
        let mut uniform = true;
        for lane in lanes(active) {
            let mask = members(lane);
            uniform &= mask == members(first);
            if mask >> lane & 1 == 0 && block.env.machine.options.checks.barriers {
                let message = format!(
                    "wrong mask: lane {lane} executes a `.sync` instruction with member mask \
                     {mask:#010x}, which doesn't name it"
                );
                let kind = FaultKind::Barrier;
                return Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message));
            }
        }
        let complete = lanes(active).all(|lane| members(lane) & alive & !active == 0);
        if complete {
            // SAFETY: the caller's promise.
            unsafe {
                self.check_shuffle(block, inst, regs, active, &members, at)?;
                exchange(inst, regs, preds, active, &members);
            }
            self.sync_epoch += 1;
            return Ok(Next::On);
        }
        if !uniform {
            // Lanes with different masks are different groups: each waits for its own.
            let mask = members(first);
            let group = lanes(active)
                .filter(|&l| members(l) == mask)
                .fold(0, |m, lane| m | 1 << lane);
            self.split(index, group, at.pc, at.pc, NONE);
            return Ok(Next::Choose);
        }
        // Others of the group may be waiting: at the same instruction, or for `bar.warp.sync` at any.
        let mask = members(first);
        let frame = self.fragments[index].frame;
        let mut together = active;
        let joins = |f: &super::warp::Fragment| {
            let same_place = f.frame == frame && f.pc == at.pc;
            f.state == (State::Sync { members: mask }) && (same_place || inst.op == Op::WarpSync)
        };
        for fragment in &self.fragments {
            if joins(fragment) {
                together |= fragment.mask;
            }
        }
        if mask & alive & !together != 0 {
            if self.fragments[index].mask != active {
                // Lanes whose guard was false don't wait.
                self.split(index, active, at.pc, at.pc + 1, NONE);
                return Ok(Next::Choose);
            }
            self.fragments[index].state = State::Sync { members: mask };
            return Ok(Next::Wait);
        }
        if inst.op != Op::WarpSync {
            // SAFETY: the caller's promise; the waiting fragments share the frame.
            unsafe {
                self.check_shuffle(block, inst, regs, together, &|_| mask, at)?;
                exchange(inst, regs, preds, together, &|_| mask);
            }
        }
        self.sync_epoch += 1;
        for fragment in &mut self.fragments {
            if joins(fragment) {
                fragment.state = State::Ready;
                fragment.pc += 1;
            }
        }
        Ok(Next::On)
    }

    /// With the check on: a lane reads from one that its mask names but that isn't there (it has exited, or
    /// the block is shorter). PTX lets a mask name exited lanes, since only non-exited ones are waited for;
    /// what such a lane would have given is undefined. A source outside the mask isn't reported: the last
    /// lanes of a reduction by `shfl.down` read such values, and drop them.
    ///
    /// # Safety
    /// As [`Warp::collective`].
    unsafe fn check_shuffle(
        &self,
        block: &BlockState,
        inst: &Inst,
        regs: *mut Slot,
        active: u32,
        members: &dyn Fn(usize) -> u32,
        at: At,
    ) -> Result<(), Box<Fault>> {
        let Op::Shuffle(mode) = inst.op else {
            return Ok(());
        };
        let alive = self.alive();
        if alive == u32::MAX || !block.env.machine.options.checks.barriers {
            return Ok(());
        }
        for lane in lanes(active) {
            // SAFETY: the caller's promise.
            let (from, inside) = unsafe { shuffle_source(mode, inst, regs, lane as u32) };
            let absent = members(lane) & !alive;
            if inside && absent >> from & 1 == 1 {
                let why = if self.exited >> from & 1 == 1 {
                    "has exited"
                } else {
                    "is no thread of the block"
                };
                let message = format!(
                    "wrong mask: lane {lane} shuffles with member mask {:#010x} and reads from lane {from}, \
                     which {why}",
                    members(lane)
                );
                let kind = FaultKind::Barrier;
                return Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message));
            }
        }
        Ok(())
    }

    /// With the check on: lanes that others wait for have gone round the instruction.
    pub(super) fn check_divergence(&self, block: &BlockState) -> Result<(), Box<Fault>> {
        if !block.env.machine.options.checks.barriers {
            return Ok(());
        }
        let Some((join_function, join_pc, away)) = self.waiting_at_join() else {
            return Ok(());
        };
        for fragment in &self.fragments {
            let function = self.frames[fragment.frame as usize].function;
            let lane = fragment.mask.trailing_zeros();
            let there = format!(
                "lanes {away:#010x} went round it and wait at {}",
                block.place(join_function, join_pc)
            );
            let message = match fragment.state {
                State::Sync { members } if members & away != 0 => format!(
                    "wrong mask: a `.sync` instruction names lanes {members:#010x}, only \
                     {:#010x} reach it; {there}",
                    fragment.mask
                ),
                State::Barrier { id, .. } => {
                    let code = &block.env.kernel.program[function as usize].code;
                    let Op::Barrier { aligned: true, .. } = code[fragment.pc as usize].op else {
                        continue;
                    };
                    format!(
                        "divergent barrier: only lanes {:#010x} of the warp reach barrier {id}; \
                         {there}",
                        fragment.mask
                    )
                }
                _ => continue,
            };
            let kind = FaultKind::Barrier;
            return Err(block.fault(kind, self, function, fragment.pc, lane, &message));
        }
        Ok(())
    }

    /// A fragment comes to a block barrier.
    #[allow(clippy::too_many_arguments)]
    unsafe fn barrier(
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

    /// `cp.async`: checked now, copied when it is waited for.
    #[allow(clippy::too_many_arguments)]
    unsafe fn start_copies(
        &mut self,
        block: &mut BlockState,
        inst: &Inst,
        wide_address: bool,
        bytes: u8,
        regs: *mut Slot,
        active: u32,
        at: At,
    ) -> Result<(), Box<Fault>> {
        let bytes = u32::from(bytes);
        let (mut to, mut from) = ([0u64; 32], [0u64; 32]);
        let mut sizes = [bytes; 32];
        for lane in 0..32 {
            // SAFETY: the caller's promise: address registers of the stated widths.
            unsafe {
                let base = if wide_address {
                    u64::get(regs, inst.a, lane)
                } else {
                    u64::from(u32::get(regs, inst.a, lane))
                };
                to[lane] = base.wrapping_add_signed(inst.imm);
                from[lane] = u64::get(regs, inst.b, lane);
                if inst.c != NONE {
                    sizes[lane] = u32::get(regs, inst.c, lane).min(bytes);
                }
            }
            if to[lane] >= SHARED_BASE {
                to[lane] -= SHARED_BASE;
            }
        }
        let reading = lanes(active)
            .filter(|&l| sizes[l] > 0)
            .fold(0, |m, lane| m | 1 << lane);
        for lane in lanes(active) {
            if to[lane] % u64::from(bytes) != 0
                || reading >> lane & 1 == 1 && from[lane] % u64::from(bytes) != 0
            {
                let message = format!(
                    "misaligned access: `cp.async` of {bytes} bytes from {:#x} to {:#x} of shared \
                     memory",
                    from[lane], to[lane]
                );
                return Err(block.fault(
                    FaultKind::MisalignedAddress,
                    self,
                    at.function,
                    at.pc,
                    lane as u32,
                    &message,
                ));
            }
        }
        let level = block.env.level;
        if reading != 0 {
            // Lanes that read fewer bytes are checked by themselves.
            let whole = lanes(reading).all(|lane| sizes[lane] == bytes);
            if whole {
                // SAFETY: the level is the processor's.
                let found = unsafe { survey(level, &from, reading, u64::from(bytes)) };
                let wide = u64::from(bytes);
                let read = AccessKind::Read;
                let race =
                    self.check_global(block, reading, at, &from, found, wide, read, false)?;
                self.fail_on_global_race(block, at, &from, wide, read, race)?;
                block
                    .tally
                    .global(at, &from, reading, wide, AccessKind::Read);
            } else {
                for lane in lanes(reading) {
                    let one = 1 << lane;
                    let size = u64::from(sizes[lane]);
                    // SAFETY: as above.
                    let found = unsafe { survey(level, &from, one, size) };
                    let read = AccessKind::Read;
                    let race =
                        self.check_global(block, one, at, &from, found, size, read, false)?;
                    self.fail_on_global_race(block, at, &from, size, read, race)?;
                }
                block
                    .tally
                    .global(at, &from, reading, u64::from(bytes), AccessKind::Read);
            }
        }
        // SAFETY: as above.
        let found = unsafe { survey(level, &to, active, u64::from(bytes)) };
        let wide = u64::from(bytes);
        let words = (found.min / 64) as usize..=(found.max.saturating_add(wide - 1) / 64) as usize;
        let written = block.shared_written.get(words.clone()).map(<[u64]>::to_vec);
        let race = self.check_shared(
            block,
            active,
            at,
            &to,
            found,
            wide,
            AccessKind::Write,
            false,
        )?;
        self.fail_on_race(block, at, &to, wide, AccessKind::Write, race)?;
        // What is on its way isn't there yet.
        if let (Some(now), Some(before)) = (block.shared_written.get_mut(words), written) {
            now.copy_from_slice(&before);
        }
        block
            .tally
            .shared(at, &to, active, u64::from(bytes), AccessKind::Write);
        for lane in lanes(active) {
            self.copies.push(PendingCopy {
                lane: lane as u32,
                to: to[lane] as u32,
                from: from[lane],
                bytes,
                source_bytes: sizes[lane],
                group: self.committed[lane],
            });
        }
        Ok(())
    }

    fn fail_on_race(
        &self,
        block: &BlockState,
        at: At,
        list: &[u64; 32],
        bytes: u64,
        kind: AccessKind,
        race: Option<(u32, Party)>,
    ) -> Result<(), Box<Fault>> {
        match race {
            Some((lane, other)) => {
                let address = list[lane as usize];
                Err(self.shared_race(block, at, lane, address, bytes, kind, other))
            }
            None => Ok(()),
        }
    }

    fn fail_on_global_race(
        &self,
        block: &BlockState,
        at: At,
        list: &[u64; 32],
        bytes: u64,
        kind: AccessKind,
        race: Option<(u32, Party)>,
    ) -> Result<(), Box<Fault>> {
        match race {
            Some((lane, other)) => {
                let address = list[lane as usize];
                Err(self.global_race(block, at, lane, address, bytes, kind, other))
            }
            None => Ok(()),
        }
    }

    /// Carries out the copies of lanes but for their newest `pending` groups.
    pub(super) fn finish_copies(
        &mut self,
        block: &mut BlockState,
        active: u32,
        pending: u32,
    ) -> Result<(), Box<Fault>> {
        if self.copies.is_empty() {
            return Ok(());
        }
        let copies = std::mem::take(&mut self.copies);
        let mut left = Vec::new();
        for copy in copies {
            let lane = copy.lane as usize;
            let done = active >> lane & 1 == 1
                && copy.group < self.committed[lane].saturating_sub(pending);
            if !done {
                left.push(copy);
                continue;
            }
            if block
                .env
                .machine
                .memory
                .contains(copy.from, u64::from(copy.source_bytes))
            {
                let base = block.shared_pointer();
                let (read, all) = (copy.source_bytes as usize, copy.bytes as usize);
                // SAFETY: both ranges were checked when the copy was started; the device's memory stays
                // mapped.
                unsafe {
                    let to = base.add(copy.to as usize);
                    if read > 0 {
                        std::ptr::copy_nonoverlapping(copy.from as *const u8, to, read);
                    }
                    std::ptr::write_bytes(to.add(read), 0, all - read);
                }
                for byte in copy.to..copy.to + copy.bytes {
                    block.shared_written[byte as usize / 64] |= 1 << (byte % 64);
                }
            }
        }
        self.copies = left;
        Ok(())
    }

    /// `cp.async.bulk` between global and shared memory, complete at once.
    #[allow(clippy::too_many_arguments)]
    unsafe fn bulk(
        &mut self,
        block: &mut BlockState,
        inst: &Inst,
        to_shared: bool,
        wide_address: bool,
        regs: *mut Slot,
        preds: *mut u32,
        active: u32,
        at: At,
    ) -> Result<(), Box<Fault>> {
        for lane in lanes(active) {
            // SAFETY: the caller's promise: address registers of the stated widths.
            let (shared, global, bytes) = unsafe {
                let shared = if wide_address {
                    u64::get(regs, inst.a, lane)
                } else {
                    u64::from(u32::get(regs, inst.a, lane))
                };
                (
                    shared,
                    u64::get(regs, inst.b, lane),
                    u32::get(regs, inst.c, lane),
                )
            };
            let shared = if shared >= SHARED_BASE {
                shared - SHARED_BASE
            } else {
                shared
            };
            if bytes % 16 != 0 || shared % 16 != 0 || global % 16 != 0 {
                let message = format!(
                    "misaligned access: bulk copy of {bytes} bytes between {global:#x} and \
                     {shared:#x} of shared memory; all must be multiples of 16"
                );
                let kind = FaultKind::MisalignedAddress;
                return Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message));
            }
            let (read, write) = if to_shared {
                (AccessKind::Read, AccessKind::Write)
            } else {
                (AccessKind::Write, AccessKind::Read)
            };
            for chunk in (0..u64::from(bytes)).step_by(16) {
                let (mut g, mut s) = ([0; 32], [0; 32]);
                (g[lane], s[lane]) = (global + chunk, shared + chunk);
                let level = block.env.level;
                // SAFETY: the level is the processor's.
                let (found_g, found_s) = unsafe {
                    (
                        survey(level, &g, 1 << lane, 16),
                        survey(level, &s, 1 << lane, 16),
                    )
                };
                let race =
                    self.check_shared(block, 1 << lane, at, &s, found_s, 16, write, false)?;
                self.fail_on_race(block, at, &s, 16, write, race)?;
                let race = self.check_global(block, 1 << lane, at, &g, found_g, 16, read, false)?;
                self.fail_on_global_race(block, at, &g, 16, read, race)?;
                block.tally.global(at, &g, 1 << lane, 16, read);
            }
            let pointer = block.shared_pointer().wrapping_add(shared as usize);
            // SAFETY: every 16 bytes of both ranges were checked above.
            unsafe {
                if to_shared {
                    let from = global as *const u8;
                    std::ptr::copy_nonoverlapping(from, pointer, bytes as usize);
                } else {
                    std::ptr::copy_nonoverlapping(pointer, global as *mut u8, bytes as usize);
                }
            }
            if to_shared {
                let complete = Inst {
                    a: inst.d,
                    b: inst.c,
                    imm: 0,
                    dst: NONE,
                    ..*inst
                };
                // SAFETY: the caller's promise.
                unsafe {
                    self.mbarrier(
                        block,
                        MbarrierOp::CompleteTx,
                        &complete,
                        wide_address,
                        MemSpace::Generic,
                        regs,
                        preds,
                        1 << lane,
                        at,
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Operations on an mbarrier, lane after lane. Returns whether a wait failed.
    ///
    /// The object's 64 bits: phase (1), threads expected in a phase (20), still pending (20), bytes
    /// still expected (23, signed).
    #[allow(clippy::too_many_arguments)]
    unsafe fn mbarrier(
        &mut self,
        block: &mut BlockState,
        op: MbarrierOp,
        inst: &Inst,
        wide_address: bool,
        space: MemSpace,
        regs: *mut Slot,
        preds: *mut u32,
        active: u32,
        at: At,
    ) -> Result<bool, Box<Fault>> {
        let _ = space;
        let mut failed = false;
        for lane in lanes(active) {
            // SAFETY: the caller's promise: address and count registers of the stated widths.
            let (address, operand) = unsafe {
                if op == MbarrierOp::PendingCount {
                    let state = Phase::of(u64::get(regs, inst.a, lane));
                    u32::put(regs, inst.dst, lane, state.pending as u32);
                    continue;
                }
                let base = if wide_address {
                    u64::get(regs, inst.a, lane)
                } else {
                    u64::from(u32::get(regs, inst.a, lane))
                };
                let operand = match (op, inst.b) {
                    (_, NONE) => 1,
                    (MbarrierOp::TestWait, slot) => u64::get(regs, slot, lane),
                    (_, slot) => u64::from(u32::get(regs, slot, lane)),
                };
                (base.wrapping_add_signed(inst.imm), operand)
            };
            let offset = if address >= SHARED_BASE {
                address - SHARED_BASE
            } else {
                address
            };
            let (member, offset) = self.resolve_shared(block, at, lane, offset, 8)?;
            let mut list = [0; 32];
            list[lane] = offset;
            // SAFETY: the level is the processor's.
            let found = unsafe { survey(block.env.level, &list, 1 << lane, 8) };
            let kind = if op == MbarrierOp::Init {
                AccessKind::Write
            } else {
                AccessKind::Atomic
            };
            if offset % 8 != 0 {
                let message = format!("misaligned access: mbarrier at {offset:#x}");
                let kind = FaultKind::MisalignedAddress;
                return Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message));
            }
            let base = match member {
                Some(member) => member.shared,
                None => {
                    let race =
                        self.check_shared(block, 1 << lane, at, &list, found, 8, kind, true)?;
                    self.fail_on_race(block, at, &list, 8, kind, race)?;
                    block.shared_pointer()
                }
            };
            // SAFETY: the 8 bytes were found inside shared memory, aligned.
            let cell = unsafe { &mut *base.add(offset as usize).cast::<u64>() };
            let before = *cell;
            let mut state = Phase::of(before);
            let n = operand as i64;
            let mut result = None;
            match op {
                MbarrierOp::Init => {
                    state = Phase {
                        phase: 0,
                        expected: n,
                        pending: n,
                        bytes: 0,
                    };
                }
                MbarrierOp::Inval => {
                    state = Phase {
                        phase: 0,
                        expected: 0,
                        pending: 0,
                        bytes: 0,
                    }
                }
                MbarrierOp::Arrive => state.pending -= n,
                MbarrierOp::ArriveDrop => {
                    state.pending -= n;
                    state.expected -= n;
                }
                MbarrierOp::ArriveExpectTx => {
                    state.bytes += n;
                    state.pending -= 1;
                }
                MbarrierOp::ExpectTx => state.bytes += n,
                MbarrierOp::CompleteTx => state.bytes -= n,
                MbarrierOp::TestWait => {
                    result = Some(Phase::of(operand).phase != state.phase);
                }
                MbarrierOp::TestWaitParity => result = Some(operand & 1 != state.phase),
                MbarrierOp::PendingCount => {}
            }
            if state.pending < 0 {
                let message = format!(
                    "mbarrier at {offset:#x}: more arrivals in a phase than the {} it was \
                     initialised for",
                    state.expected
                );
                let kind = FaultKind::Barrier;
                return Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message));
            }
            let moves = !matches!(
                op,
                MbarrierOp::Init
                    | MbarrierOp::Inval
                    | MbarrierOp::TestWait
                    | MbarrierOp::TestWaitParity
            );
            if moves && state.pending == 0 && state.bytes == 0 {
                state.phase ^= 1;
                state.pending = state.expected;
            }
            *cell = state.bits();
            // SAFETY: the caller's promise.
            unsafe {
                match result {
                    Some(done) => {
                        failed |= !done;
                        set_pred(preds, inst.dst, if done { u32::MAX } else { 0 }, 1 << lane);
                    }
                    None if inst.dst != NONE => u64::put(regs, inst.dst, lane, before),
                    None => {}
                }
            }
        }
        Ok(failed)
    }
}

/// The state of an mbarrier.
#[derive(Clone, Copy)]
struct Phase {
    phase: u64,
    expected: i64,
    pending: i64,
    bytes: i64,
}

impl Phase {
    fn of(bits: u64) -> Phase {
        Phase {
            phase: bits >> 63,
            expected: (bits >> 43 & 0xf_ffff) as i64,
            pending: (bits >> 23 & 0xf_ffff) as i64,
            bytes: (bits << 41) as i64 >> 41,
        }
    }

    fn bits(self) -> u64 {
        self.phase << 63
            | (self.expected as u64 & 0xf_ffff) << 43
            | (self.pending as u64 & 0xf_ffff) << 23
            | self.bytes as u64 & 0x7f_ffff
    }
}

/// Executes a shuffle, vote, match, reduction or election for the active lanes; `members` is each
/// lane's group.
///
/// # Safety
/// Registers and predicates of `inst` are of the frame.
unsafe fn exchange(
    inst: &Inst,
    regs: *mut Slot,
    preds: *mut u32,
    active: u32,
    members: &dyn Fn(usize) -> u32,
) {
    // SAFETY: the caller's promise throughout.
    unsafe {
        match inst.op {
            Op::Shuffle(mode) => shuffle(mode, inst, regs, preds, active),
            Op::Vote(mode) => {
                let holds = source(preds, inst.a);
                let mut result = 0;
                for lane in lanes(active) {
                    let group = members(lane) & active;
                    let yes = holds & group;
                    match mode {
                        Vote::Ballot => u32::put(regs, inst.dst, lane, yes),
                        Vote::All => result |= u32::from(yes == group) << lane,
                        Vote::Any => result |= u32::from(yes != 0) << lane,
                        Vote::Uniform => {
                            result |= u32::from(yes == 0 || yes == group) << lane;
                        }
                    }
                }
                if mode != Vote::Ballot {
                    set_pred(preds, inst.dst, result, active);
                }
            }
            Op::Match { all, wide } => {
                let value = |lane: usize| {
                    if wide {
                        u64::get(regs, inst.a, lane)
                    } else {
                        u64::from(u32::get(regs, inst.a, lane))
                    }
                };
                let values: [u64; 32] = std::array::from_fn(value);
                let mut flags = 0;
                for lane in lanes(active) {
                    let group = members(lane) & active;
                    let same = lanes(group)
                        .filter(|&other| values[other] == values[lane])
                        .fold(0u32, |mask, other| mask | 1 << other);
                    let result = if !all || same == group { same } else { 0 };
                    flags |= u32::from(same == group) << lane;
                    u32::put(regs, inst.dst, lane, result);
                }
                if inst.d != NONE {
                    set_pred(preds, inst.d, flags, active);
                }
            }
            Op::Redux(op, ty, abs) => {
                let values: [u32; 32] = std::array::from_fn(|lane| u32::get(regs, inst.a, lane));
                for lane in lanes(active) {
                    let group = members(lane) & active;
                    u32::put(
                        regs,
                        inst.dst,
                        lane,
                        reduce(op, ty, abs, inst.imm != 0, group, &values),
                    );
                }
            }
            Op::Elect => {
                let mut leaders = 0;
                for lane in lanes(active) {
                    let leader = (members(lane) & active).trailing_zeros();
                    leaders |= u32::from(leader == lane as u32) << lane;
                    u32::put(regs, inst.dst, lane, leader);
                }
                set_pred(preds, inst.d, leaders, active);
            }
            _ => {}
        }
    }
}

fn reduce(op: AtomOp, ty: Type, abs: bool, nan: bool, group: u32, values: &[u32; 32]) -> u32 {
    let mut result = None;
    let value = |lane: usize| {
        if abs {
            values[lane] & 0x7fff_ffff
        } else {
            values[lane]
        }
    };
    let mut poisoned = false;
    for lane in lanes(group) {
        poisoned |= ty == Type::F32 && f32::from_bits(values[lane]).is_nan();
        result = Some(match result {
            None => value(lane),
            Some(old) => {
                super::access::modify(op, ty, u64::from(old), u64::from(value(lane)), 0, false)
                    as u32
            }
        });
    }
    if poisoned && nan {
        0x7fff_ffff
    } else {
        result.unwrap_or(0)
    }
}

/// The lane that a lane of a shuffle reads, and whether it is in range.
///
/// # Safety
/// As [`exchange`].
#[inline(always)]
unsafe fn shuffle_source(mode: Shuffle, inst: &Inst, regs: *const Slot, lane: u32) -> (u32, bool) {
    // SAFETY: the caller's promise.
    let (b, packed) = unsafe {
        let b = u32::get(regs, inst.b, lane as usize) & 31;
        (b, u32::get(regs, inst.d, lane as usize))
    };
    let (clamp, segment) = (packed & 31, packed >> 8 & 31);
    let last = lane & segment | clamp & !segment;
    let (from, inside) = match mode {
        Shuffle::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= last as i32),
        Shuffle::Down => (lane + b, lane + b <= last),
        Shuffle::Butterfly => (lane ^ b, lane ^ b <= last),
        Shuffle::Index => {
            let from = lane & segment | b & !segment;
            (from, from <= last)
        }
    };
    (from & 31, inside)
}

/// # Safety
/// As [`exchange`].
unsafe fn shuffle(mode: Shuffle, inst: &Inst, regs: *mut Slot, preds: *mut u32, active: u32) {
    let mut flags = 0;
    // SAFETY: the caller's promise throughout.
    unsafe {
        let values: [u32; 32] = std::array::from_fn(|lane| u32::get(regs, inst.a, lane));
        let mut out = [0; 32];
        for lane in 0..32u32 {
            let (from, inside) = shuffle_source(mode, inst, regs, lane);
            flags |= u32::from(inside) << lane;
            out[lane as usize] = values[if inside { from } else { lane } as usize];
        }
        super::lanes::write(regs, inst.dst, &out, active);
    }
    if inst.imm >= 0 {
        // SAFETY: the caller's promise.
        unsafe { set_pred(preds, inst.imm as u32, flags, active) };
    }
}
