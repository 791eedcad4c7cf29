//! Copies that run beside the threads, and the mbarriers that count them. `cp.async` is checked where it starts and
//! copied where it is waited for, so that a missing wait shows; bulk copies are done at once.

use super::access::{At, lanes, survey};
use super::block::{BlockState, SHARED_BASE};
use super::lanes::{Lane, Slot};
use super::run::set_pred;
use super::warp::{PendingCopy, Warp};
use crate::check::{AccessKind, Fault, FaultKind, Party};
use crate::lower::inst::{Inst, MbarrierOp, MemSpace, NONE};

impl Warp {
    /// `cp.async`: checked now, copied when it is waited for.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn start_copies(
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

    pub(super) fn fail_on_race(
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

    pub(super) fn fail_on_global_race(
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
    pub(super) unsafe fn bulk(
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
    pub(super) unsafe fn mbarrier(
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
