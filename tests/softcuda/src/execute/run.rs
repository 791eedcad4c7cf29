//! The interpreter: fetch, guard, dispatch.

use super::access::{At, Run};
use super::block::{BlockState, LOCAL_BASE, PARAM_BASE, SHARED_BASE, Stop, WINDOW};
use super::lanes::{Lane, Slot};
use super::warp::{State, Warp};
use super::{compare, convert, float, half, integer};
use crate::check::{AccessKind, Fault, FaultKind};
use crate::lower::inst::{CARRY, Callee, Clock, Inst, MemSpace, NONE, Op};
use crate::lower::types::{Type, Width};

/// Spins round a loop that looks at others' memory, before others have a turn.
const SPINS: u32 = 64;
/// Jumps backwards in any loop, before lanes that wait for it go on alone.
const JUMPS: u32 = 1 << 22;

/// What the interpreter does after an instruction that may change the fragment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The fragment goes on at the following instruction.
    On,
    /// The fragments have changed: choose again.
    Choose,
    /// The fragment waits; its state says for what.
    Wait,
    /// The warp's turn is over.
    Turn,
}

impl Warp {
    /// Runs fragments until all have exited, all wait, or the slice is used up.
    pub(crate) fn run(&mut self, block: &mut BlockState, slice: u64) -> Result<Stop, Box<Fault>> {
        let end = self.clock + slice;
        loop {
            if self.fragments.is_empty() {
                return Ok(Stop::Exited);
            }
            let Some(index) = self.choose(block) else {
                // Lanes that wait at joins may be those that a `*.sync` waits for.
                self.check_divergence(block)?;
                if self.release() {
                    continue;
                }
                return Ok(Stop::Blocked);
            };
            if self.clock >= end {
                return Ok(Stop::Yielded);
            }
            if self.step(block, index, end)? == Next::Turn {
                return Ok(Stop::Yielded);
            }
        }
    }

    /// The fragment to run: the newest that can.
    fn choose(&mut self, block: &BlockState) -> Option<usize> {
        for index in (0..self.fragments.len()).rev() {
            match self.fragments[index].state {
                State::Ready => return Some(index),
                State::Barrier { id, generation } => {
                    if block.barriers[id as usize].generation != generation {
                        return Some(index);
                    }
                }
                State::Cluster { generation } => {
                    let now = block.cluster.as_ref().map(|c| c.generation.get());
                    if now != Some(generation) {
                        return Some(index);
                    }
                }
                State::Sync { .. } => {}
            }
        }
        None
    }

    /// Runs one fragment until it has to be chosen again.
    fn step(&mut self, block: &mut BlockState, index: usize, end: u64) -> Result<Next, Box<Fault>> {
        let kernel = block.env.kernel;
        let level = block.env.level;
        let profile = block.env.machine.options.profile;
        let fragment = self.fragments[index];
        let frame = &mut self.frames[fragment.frame as usize];
        let function_index = frame.function;
        let function = &kernel.program[function_index as usize];
        let code = function.code.as_slice();
        let lists = function.lists.as_slice();
        let regs: *mut Slot = frame.regs.as_mut_ptr();
        let preds: *mut u32 = frame.preds.as_mut_ptr();
        let (mask, mut pc) = (fragment.mask, fragment.pc);
        if let State::Cluster { .. } = fragment.state {
            self.passed_cluster_barrier(block, mask);
        }
        if fragment.state != State::Ready {
            // A barrier that has let its threads go: the instruction's result, then onwards.
            // SAFETY: registers and predicates are those of the fragment's frame.
            unsafe { self.finish_barrier(block, &code[pc as usize], regs, preds, mask) };
            self.fragments[index].state = State::Ready;
            pc += 1;
        }
        loop {
            let inst = &code[pc as usize];
            // SAFETY: lowering numbers predicates below the frame's count.
            let guard = unsafe { *preds.add((inst.guard >> 1) as usize) };
            let active = mask & (guard ^ (inst.guard & 1).wrapping_neg());
            if active == 0 {
                pc += 1;
                continue;
            }
            self.clock += 1;
            block.tally.instruction(profile, function_index, pc, active);
            let at = At {
                function: function_index,
                pc,
            };
            // SAFETY: lowering made every slot and predicate number one of the frame's, as wide as the
            // operation needs; the level is the processor's.
            unsafe {
                match inst.op {
                    Op::Int(op, ty) => integer::run(level, op, ty, regs, inst, active),
                    Op::F32(op, mode) => float::run_f32(level, op, mode, regs, inst, active),
                    Op::F64(op, mode) => float::run_f64(level, op, mode, regs, inst, active),
                    Op::Half(op, ty, mode) => half::run(level, op, ty, mode, regs, inst, active),
                    Op::Mixed(op, ty, mode) => half::mixed(op, ty, mode, regs, inst, active),
                    Op::Convert {
                        to,
                        from,
                        to_width,
                        mode,
                    } => {
                        convert::run(level, to, from, to_width, mode, regs, inst, active);
                    }
                    Op::Carry(op, ty) => {
                        let flag = preds.add(CARRY as usize);
                        *flag = integer::carry(op, ty, regs, inst, active, *flag);
                    }
                    Op::Mov(width) => mov(width, regs, inst, active),
                    Op::Pack { bits, to } => {
                        let list = &lists[inst.d as usize..][..inst.imm as usize];
                        convert::pack(bits, to, list, regs, inst.dst, active);
                    }
                    Op::Unpack { bits, from } => {
                        let list = &lists[inst.d as usize..][..inst.imm as usize];
                        convert::unpack(bits, from, list, regs, inst.a, active);
                    }
                    Op::Select(width) => {
                        let taken = source(preds, inst.c);
                        compare::select(level, width, taken, regs, inst, active);
                    }
                    Op::Setp(compare, ty, op, ftz) => {
                        let (first, second) = if matches!(ty, Type::F16x2 | Type::BF16x2) {
                            let low = compare::half(compare, ty, ftz, regs, inst, 0);
                            (low, compare::half(compare, ty, ftz, regs, inst, 16))
                        } else {
                            let holds = compare::compare(level, compare, ty, ftz, regs, inst);
                            (holds, !holds)
                        };
                        let other = source(preds, inst.c);
                        set_pred(preds, inst.dst, compare::combine(op, first, other), active);
                        if inst.d != NONE {
                            set_pred(preds, inst.d, compare::combine(op, second, other), active);
                        }
                    }
                    Op::Set(compare, to, from, op, ftz) => {
                        let other = source(preds, inst.c);
                        let (low, high) = if matches!(from, Type::F16x2 | Type::BF16x2) {
                            let low = compare::half(compare, from, ftz, regs, inst, 0);
                            (low, compare::half(compare, from, ftz, regs, inst, 16))
                        } else {
                            let holds = compare::compare(level, compare, from, ftz, regs, inst);
                            (holds, 0)
                        };
                        let low = compare::combine(op, low, other);
                        let high = compare::combine(op, high, other);
                        compare::set(to, low, high, regs, inst.dst, active);
                    }
                    Op::Testp(class, ty) => {
                        let holds = compare::testp(class, ty, regs, inst.a);
                        set_pred(preds, inst.dst, holds, active);
                    }
                    Op::PredBool(op) => {
                        let (a, b) = (source(preds, inst.a), source(preds, inst.b));
                        set_pred(preds, inst.dst, compare::combine(op, a, b), active);
                    }
                    Op::PredMov => set_pred(preds, inst.dst, source(preds, inst.a), active),
                    Op::ReadClock(clock) => self.read_clock(clock, regs, inst, active),
                    Op::Nop => {}
                    Op::LoadParam { ty, width } => {
                        self.load_param(block, inst, ty, width, regs, active, at)?;
                    }
                    Op::Load(access) => {
                        self.note_spin(index, access.order.strong);
                        let run = Run {
                            inst,
                            access,
                            lists,
                            regs,
                            mask: active,
                            at,
                        };
                        self.access(block, &run, AccessKind::Read)?;
                    }
                    Op::Store(access) => {
                        let run = Run {
                            inst,
                            access,
                            lists,
                            regs,
                            mask: active,
                            at,
                        };
                        self.access(block, &run, AccessKind::Write)?;
                    }
                    Op::Atom(_, access) => {
                        self.note_spin(index, inst.dst != NONE);
                        let run = Run {
                            inst,
                            access,
                            lists,
                            regs,
                            mask: active,
                            at,
                        };
                        self.access(block, &run, AccessKind::Atomic)?;
                    }
                    Op::Cvta {
                        space,
                        to_generic,
                        wide,
                    } => {
                        cvta(space, to_generic, wide, regs, inst, active);
                    }
                    Op::IsSpace { space, wide } => {
                        let holds = is_space(space, wide, regs, inst, block.env.region);
                        set_pred(preds, inst.dst, holds, active);
                    }
                    Op::Fence { wide } => {
                        if wide {
                            block.watch.fence();
                        }
                    }
                    Op::Join => {
                        self.fragments[index].pc = pc;
                        if self.at_join(index) {
                            // Whoever goes on comes here again: the join outwards may be here too.
                            self.arrive(index);
                            return Ok(Next::Choose);
                        }
                    }
                    Op::Branch => {
                        let target = inst.imm as u32;
                        if active == mask {
                            if target <= pc {
                                let turn = self.backward(index, target);
                                if turn || self.clock >= end {
                                    self.fragments[index].pc = target;
                                    return Ok(self.yield_fragment(index, turn));
                                }
                            }
                            pc = target;
                            continue;
                        }
                        if target <= pc && self.backward(index, target) {
                            // Lanes that wait at joins go on without this loop.
                            self.release_below(index);
                        }
                        block.tally.divergent();
                        let index = self.find_again(index, mask, fragment.frame);
                        self.split(index, active, target, pc + 1, inst.d);
                        return Ok(Next::Choose);
                    }
                    Op::BranchTable => {
                        self.fragments[index].pc = pc;
                        self.branch_table(block, index, inst, lists, regs, active)?;
                        return Ok(Next::Choose);
                    }
                    Op::Call => {
                        self.fragments[index].pc = pc;
                        if self.call_site(block, index, inst.imm as u32)? {
                            return Ok(Next::Choose);
                        }
                    }
                    Op::Ret => {
                        self.fragments[index].pc = pc;
                        self.copy_results(kernel, fragment.frame, active);
                        self.ret(index, active);
                        return Ok(Next::Choose);
                    }
                    Op::Exit => {
                        self.finish_copies(block, active, 0)?;
                        self.fragments[index].pc = pc + 1;
                        block.alive -= active.count_ones();
                        self.leave_cluster(block, active);
                        if function_index == 0 {
                            block.last_exit = block.last_exit.max(pc);
                        }
                        self.exit(index, active, pc);
                        return Ok(Next::Choose);
                    }
                    Op::Trap => {
                        let lane = active.trailing_zeros();
                        return Err(block.fault(
                            FaultKind::Trap,
                            self,
                            function_index,
                            pc,
                            lane,
                            "the kernel executed `trap`",
                        ));
                    }
                    Op::Yield => {
                        self.fragments[index].pc = pc + 1;
                        return Ok(self.yield_fragment(index, true));
                    }
                    _ => {
                        self.fragments[index].pc = pc;
                        match self.collective(block, index, inst, lists, regs, preds, active, at)? {
                            Next::On => {}
                            Next::Wait => return Ok(Next::Choose),
                            other => return Ok(other),
                        }
                    }
                }
            }
            pc += 1;
        }
    }

    /// Counts a jump backwards; whether others should have a turn.
    fn backward(&mut self, index: usize, target: u32) -> bool {
        let _ = target;
        let fragment = &mut self.fragments[index];
        fragment.jumps += 1;
        if fragment.spins >= SPINS || fragment.jumps >= JUMPS {
            (fragment.spins, fragment.jumps) = (0, 0);
            return true;
        }
        false
    }

    /// The loop looks at memory that others write.
    fn note_spin(&mut self, index: usize, strong: bool) {
        if strong {
            self.fragments[index].spins += 1;
        }
    }

    /// Gives other fragments of the warp a turn, else other warps.
    pub(super) fn yield_fragment(&mut self, index: usize, spinning: bool) -> Next {
        if !spinning {
            return Next::Turn;
        }
        let fragment = self.fragments.remove(index);
        let other = self.fragments.iter().any(|f| f.state == State::Ready);
        self.fragments.insert(0, fragment);
        if self.release() || other {
            return Next::Choose;
        }
        Next::Turn
    }

    /// Releases waiting lanes below a fragment that is about to split.
    fn release_below(&mut self, index: usize) {
        let fragment = self.fragments.remove(index);
        self.release();
        self.fragments.push(fragment);
    }

    /// Where the fragment with these lanes is now.
    fn find_again(&self, index: usize, mask: u32, frame: u32) -> usize {
        let is = |f: &super::warp::Fragment| f.mask == mask && f.frame == frame;
        if self.fragments.get(index).is_some_and(is) {
            return index;
        }
        self.fragments.iter().position(is).unwrap_or(index)
    }

    unsafe fn read_clock(&self, clock: Clock, regs: *mut Slot, inst: &Inst, active: u32) {
        // Deterministic clocks: what the warp has executed, at one instruction a cycle.
        let cycles = self.clock * 4 + u64::from(self.index);
        let nanoseconds = cycles / 2;
        for lane in (0..32).filter(|lane| active >> lane & 1 == 1) {
            // SAFETY: lowering made the destination as wide as the clock.
            unsafe {
                match clock {
                    Clock::Clock => u32::put(regs, inst.dst, lane, cycles as u32),
                    Clock::ClockHi => u32::put(regs, inst.dst, lane, (cycles >> 32) as u32),
                    Clock::Clock64 => u64::put(regs, inst.dst, lane, cycles),
                    Clock::GlobalTimer => u64::put(regs, inst.dst, lane, nanoseconds),
                    Clock::GlobalTimerLo => u32::put(regs, inst.dst, lane, nanoseconds as u32),
                    Clock::GlobalTimerHi => {
                        u32::put(regs, inst.dst, lane, (nanoseconds >> 32) as u32);
                    }
                }
            }
        }
    }

    /// Sends lanes to the entries of a table: one split after the other.
    unsafe fn branch_table(
        &mut self,
        block: &BlockState,
        index: usize,
        inst: &Inst,
        lists: &[u32],
        regs: *mut Slot,
        active: u32,
    ) -> Result<(), Box<Fault>> {
        let targets = &lists[inst.d as usize..(inst.d + inst.b) as usize];
        let fragment = self.fragments[index];
        let mut left = active;
        let mut index = index;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            // SAFETY: the index is a word register of the frame.
            let chosen = unsafe { u32::get(regs, inst.a, lane) };
            let Some(&target) = targets.get(chosen as usize) else {
                let function = self.frames[fragment.frame as usize].function;
                let message = format!(
                    "`brx.idx` with index {chosen} into a table of {} targets",
                    targets.len()
                );
                return Err(block.fault(
                    FaultKind::Trap,
                    self,
                    function,
                    fragment.pc,
                    lane as u32,
                    &message,
                ));
            };
            let mut same = 0u32;
            for lane in 0..32 {
                // SAFETY: as above.
                let to = unsafe { u32::get(regs, inst.a, lane) };
                let goes = targets.get(to as usize) == Some(&target);
                same |= u32::from(goes && left >> lane & 1 == 1) << lane;
            }
            left &= !same;
            let here = self.fragments[index];
            if same == here.mask {
                self.fragments[index].pc = target;
                return Ok(());
            }
            let rest = here.mask & !same;
            // The rest stays at the table and is split again.
            self.split(index, same, target, fragment.pc, inst.c);
            index = self
                .fragments
                .iter()
                .position(|f| f.mask == rest && f.frame == here.frame && f.pc == fragment.pc)
                .unwrap_or(index);
        }
        // Lanes whose guard was false go on behind the table.
        if self.fragments[index].pc == fragment.pc {
            self.fragments[index].pc += 1;
        }
        Ok(())
    }

    /// A call: of a function (true: the fragment is there now) or of something built in (false: done).
    unsafe fn call_site(
        &mut self,
        block: &mut BlockState,
        index: usize,
        site: u32,
    ) -> Result<bool, Box<Fault>> {
        let kernel = block.env.kernel;
        let fragment = self.fragments[index];
        let frame = &self.frames[fragment.frame as usize];
        let (function, caller_base) = (frame.function, frame.local_base);
        let call = &kernel.program[function as usize].calls[site as usize];
        let callee = match call.callee {
            Callee::Function(callee) => callee,
            Callee::Indirect(slot) => {
                // All lanes that call the same function go together; others wait for their turn.
                let lane = fragment.mask.trailing_zeros() as usize;
                let regs = frame.regs.as_ptr();
                // SAFETY: the slot is a 64-bit register of the frame.
                let address = unsafe { u64::get(regs, slot, lane) };
                let same = (0..32)
                    // SAFETY: as above.
                    .filter(|&l| unsafe { u64::get(regs, slot, l) } == address)
                    .fold(0u32, |mask, lane| mask | 1 << lane)
                    & fragment.mask;
                let module_index = address.wrapping_sub(crate::lower::FUNCTION_BASE) / 16;
                let found = kernel
                    .function_index
                    .iter()
                    .position(|&f| u64::from(f) == module_index);
                let Some(callee) = found else {
                    let message =
                        format!("call of {address:#x}, which is no function of the module");
                    let kind = FaultKind::IllegalAddress;
                    return Err(block.fault(
                        kind,
                        self,
                        function,
                        fragment.pc,
                        lane as u32,
                        &message,
                    ));
                };
                if same != fragment.mask {
                    // Both parts are at the call; they meet after it.
                    self.split(index, same, fragment.pc, fragment.pc, NONE);
                    return Ok(true);
                }
                callee as u32
            }
            _ => {
                self.built_in(block, index, site)?;
                return Ok(false);
            }
        };
        let program = &kernel.program[callee as usize];
        let state = &*block;
        let warp = self.index;
        let special = |special, lane| state.special(warp, special, lane);
        if self.call(kernel, index, callee, &special).is_err() {
            let lane = fragment.mask.trailing_zeros();
            return Err(block.fault(
                FaultKind::StackOverflow,
                self,
                function,
                fragment.pc,
                lane,
                "the thread's local memory is used up by this call; is the recursion endless?",
            ));
        }
        let callee_base = self.frames[self.fragments[index].frame as usize].local_base;
        for (&(from, bytes), &(to, room)) in call.arguments.iter().zip(&program.params) {
            let (from, to) = (caller_base + from, callee_base + to);
            self.copy_local(fragment.mask, from, to, bytes.min(room) as usize);
        }
        Ok(true)
    }

    /// Copies a function's results to its caller's frame.
    fn copy_results(&mut self, kernel: &crate::lower::Kernel, frame: u32, lanes: u32) {
        let callee = &self.frames[frame as usize];
        let Some(caller) = self.frames.get(callee.caller as usize) else {
            return;
        };
        let program = &kernel.program[callee.function as usize];
        let call = &kernel.program[caller.function as usize].calls[callee.site as usize];
        let (callee_base, caller_base) = (callee.local_base, caller.local_base);
        for (&(to, room), &(from, bytes)) in call.results.iter().zip(&program.returns) {
            let (from, to) = (callee_base + from, caller_base + to);
            self.copy_local(lanes, from, to, bytes.min(room) as usize);
        }
    }

    /// Copies local memory of lanes, initialised bits included.
    fn copy_local(&mut self, mask: u32, from: u32, to: u32, bytes: usize) {
        for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
            for offset in 0..bytes as u64 {
                let (from, to) = (u64::from(from) + offset, u64::from(to) + offset);
                let Some(value) = self.local.get(lane, from, 1).map(|b| b[0]) else {
                    return;
                };
                if let Some(byte) = self.local.get(lane, to, 1) {
                    byte[0] = value;
                }
                if self.local.is_written(lane, from, 1) {
                    self.local.mark(lane, to, 1);
                }
            }
        }
    }
}

/// A predicate source: number × 2 + negated.
///
/// # Safety
/// The number is below the frame's count.
#[inline(always)]
pub(super) unsafe fn source(preds: *const u32, operand: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { *preds.add((operand >> 1) as usize) ^ (operand & 1).wrapping_neg() }
}

/// Sets the active lanes of a predicate.
///
/// # Safety
/// As [`source`].
#[inline(always)]
pub(super) unsafe fn set_pred(preds: *mut u32, pred: u32, value: u32, active: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let cell = preds.add(pred as usize);
        *cell = *cell & !active | value & active;
    }
}

/// # Safety
/// The registers of `inst` are of the frame at `regs` and of that width.
#[inline(always)]
unsafe fn mov(width: Width, regs: *mut Slot, inst: &Inst, active: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (from, to) = (regs.add(inst.a as usize), regs.add(inst.dst as usize));
        if active == u32::MAX {
            std::ptr::copy(from, to, width.slots() as usize);
            return;
        }
        for lane in (0..32).filter(|lane| active >> lane & 1 == 1) {
            match width {
                Width::Quad => {
                    let value = convert::get128(regs, inst.a, lane);
                    convert::put128(regs, inst.dst, lane, value);
                }
                Width::Double => u64::put(regs, inst.dst, lane, u64::get(regs, inst.a, lane)),
                _ => u32::put(regs, inst.dst, lane, u32::get(regs, inst.a, lane)),
            }
        }
    }
}

fn window(space: MemSpace) -> Option<u64> {
    match space {
        MemSpace::Shared => Some(SHARED_BASE),
        MemSpace::Local => Some(LOCAL_BASE),
        MemSpace::Param => Some(PARAM_BASE),
        MemSpace::Global | MemSpace::Generic => None,
    }
}

/// # Safety
/// The registers of `inst` are of the frame at `regs`.
unsafe fn cvta(
    space: MemSpace,
    to_generic: bool,
    wide: bool,
    regs: *mut Slot,
    inst: &Inst,
    active: u32,
) {
    let base = window(space).unwrap_or(0);
    for lane in (0..32).filter(|lane| active >> lane & 1 == 1) {
        // SAFETY: the caller's promise.
        unsafe {
            if wide {
                let value = u64::get(regs, inst.a, lane);
                let moved = if to_generic {
                    value.wrapping_add(base)
                } else {
                    value.wrapping_sub(base)
                };
                u64::put(regs, inst.dst, lane, moved);
            } else {
                u32::put(regs, inst.dst, lane, u32::get(regs, inst.a, lane));
            }
        }
    }
}

/// # Safety
/// As [`cvta`].
unsafe fn is_space(
    space: MemSpace,
    wide: bool,
    regs: *const Slot,
    inst: &Inst,
    region: (u64, u64),
) -> u32 {
    let mut mask = 0;
    for lane in 0..32 {
        // SAFETY: the caller's promise.
        let address = unsafe {
            if wide {
                u64::get(regs, inst.a, lane)
            } else {
                u64::from(u32::get(regs, inst.a, lane))
            }
        };
        let inside = match window(space) {
            Some(base) => (base..base + WINDOW).contains(&address),
            None => address >= region.0 && address - region.0 < region.1,
        };
        mask |= u32::from(inside) << lane;
    }
    mask
}
