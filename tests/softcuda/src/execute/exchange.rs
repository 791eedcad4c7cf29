//! `*.sync` instructions: lanes of a warp that wait for each other, then shuffle, vote, match, reduce or elect; and
//! what a wrong member mask looks like.

use super::access::{At, lanes};
use super::block::BlockState;
use super::lanes::{Lane, Slot};
use super::run::{Next, set_pred, source};
use super::warp::{State, Warp};
use crate::check::{Fault, FaultKind};
use crate::lower::inst::{AtomOp, Inst, NONE, Op, Shuffle, Vote};
use crate::lower::types::Type;

/// The member mask slot of a `*.sync` instruction.
pub(super) fn mask_slot(inst: &Inst) -> Option<u32> {
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
    /// A `*.sync` instruction: executed when every lane that its member mask names is there.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn synchronous(
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
}

/// Executes a shuffle, vote, match, reduction or election for the active lanes; `members` is each
/// lane's group.
///
/// # Safety
/// Registers and predicates of `inst` are of the frame.
pub(super) unsafe fn exchange(
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
                super::transfer::modify(op, ty, u64::from(old), u64::from(value(lane)), 0, false)
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
