//! A warp: its frames, and the groups of lanes that run together.
//!
//! Lanes that share a program counter are a *fragment*. A branch that splits a fragment makes a *join* at the
//! place where the paths meet again (the immediate post-dominator): fragments that arrive there wait until
//! all their lanes have come, and go on as one. A call is a join too, at the instruction after it. Lanes that
//! exit leave the joins they would have come to.
//!
//! A fragment that waits for others of its warp (a spin lock, a `*.sync` with lanes that are elsewhere) must
//! not wait for ever: a join gives up on the lanes that are still away, the ones that have arrived go on
//! alone, and all meet again at the next join outwards. That is the forward progress that Volta and later
//! promise.

use super::lanes::Slot;
use crate::lower::Kernel;
use crate::lower::inst::{Function, NONE, Special};
use crate::lower::types::Width;

/// No frame, no join.
pub(crate) const NOTHING: u32 = u32::MAX;

/// What a fragment is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Can run.
    Ready,
    /// At a `*.sync` instruction whose member mask names lanes that are elsewhere.
    Sync { members: u32 },
    /// At a block barrier, until its generation changes.
    Barrier { id: u32, generation: u32 },
    /// At the cluster's barrier, until its generation changes.
    Cluster { generation: u32 },
}

/// Lanes at one program counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) frame: u32,
    /// The innermost join that its lanes are expected at.
    pub(crate) join: u32,
    pub(crate) state: State,
    /// Backward jumps since something else of the warp had a turn.
    pub(crate) jumps: u32,
    /// Such jumps round a loop that looks at memory others write.
    pub(crate) spins: u32,
}

/// A place where fragments meet.
#[derive(Clone, Copy, Debug)]
struct Join {
    pc: u32,
    frame: u32,
    parent: u32,
    expected: u32,
    arrived: u32,
    /// The frame that ends when all have arrived, for a call.
    callee: u32,
    used: bool,
}

/// One activation of a function.
pub(crate) struct Frame {
    pub(crate) function: u32,
    pub(crate) regs: Box<[Slot]>,
    pub(crate) preds: Box<[u32]>,
    /// Where its local memory starts.
    pub(crate) local_base: u32,
    /// The calling frame, and the call site there.
    pub(crate) caller: u32,
    pub(crate) site: u32,
    /// The join of the call.
    pub(crate) join: u32,
    pub(crate) used: bool,
}

/// Local memory of the 32 lanes: each has its own stretch, and they grow together.
#[derive(Default)]
pub(crate) struct Local {
    bytes: Vec<u8>,
    /// One bit a byte.
    written: Vec<u8>,
    stride: usize,
}

/// Local memory of a thread, at most.
pub(crate) const LOCAL_LIMIT: usize = 512 << 10;

impl Local {
    /// Makes room for `bytes` bytes a lane; whether the limit allows it.
    fn reserve(&mut self, bytes: usize) -> bool {
        if bytes <= self.stride {
            return true;
        }
        if bytes > LOCAL_LIMIT {
            return false;
        }
        let stride = bytes.next_power_of_two().max(256);
        let mut grown = vec![0; stride * 32];
        let mut written = vec![0; stride * 4];
        for lane in 0..32 {
            let old = &self.bytes[lane * self.stride..(lane + 1) * self.stride];
            grown[lane * stride..][..self.stride].copy_from_slice(old);
            let old = &self.written[lane * self.stride / 8..(lane + 1) * self.stride / 8];
            written[lane * stride / 8..][..self.stride / 8].copy_from_slice(old);
        }
        (self.bytes, self.written, self.stride) = (grown, written, stride);
        true
    }

    /// The bytes of a lane, where they are inside.
    pub(crate) fn get(&mut self, lane: usize, offset: u64, bytes: usize) -> Option<&mut [u8]> {
        let offset = usize::try_from(offset).ok()?;
        if offset > self.stride || bytes > self.stride - offset {
            return None;
        }
        Some(&mut self.bytes[lane * self.stride + offset..][..bytes])
    }

    /// Marks bytes as written.
    pub(crate) fn mark(&mut self, lane: usize, offset: u64, bytes: usize) {
        let first = lane * self.stride + offset as usize;
        for bit in first..first + bytes {
            self.written[bit / 8] |= 1 << (bit % 8);
        }
    }

    /// Whether all the bytes were written.
    pub(crate) fn is_written(&self, lane: usize, offset: u64, bytes: usize) -> bool {
        let first = lane * self.stride + offset as usize;
        (first..first + bytes).all(|bit| self.written[bit / 8] >> (bit % 8) & 1 == 1)
    }

    /// Forgets what lanes have written in a range, as a new frame does.
    fn forget(&mut self, mask: u32, offset: usize, bytes: usize) {
        for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
            let first = lane * self.stride + offset;
            for bit in first..first + bytes {
                self.written[bit / 8] &= !(1 << (bit % 8));
            }
        }
    }
}

/// A copy that `cp.async` has started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingCopy {
    pub(crate) lane: u32,
    pub(crate) to: u32,
    pub(crate) from: u64,
    pub(crate) bytes: u32,
    /// Bytes that are read; the rest is zero.
    pub(crate) source_bytes: u32,
    /// Number of the group that it was or will be committed to.
    pub(crate) group: u32,
}

/// Frames between which the machine gives up on a recursion.
const MAX_FRAMES: usize = 1 << 14;

/// A warp.
pub(crate) struct Warp {
    /// Its number in the block.
    pub(crate) index: u32,
    /// Lanes that are threads of the block.
    pub(crate) lanes: u32,
    /// Lanes that have exited.
    pub(crate) exited: u32,
    /// For each lane, where it exited.
    pub(crate) exit_pc: [u32; 32],
    pub(crate) fragments: Vec<Fragment>,
    joins: Vec<Join>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) local: Local,
    pub(crate) copies: Vec<PendingCopy>,
    /// For each lane that has arrived at the cluster's barrier, in which generation.
    pub(crate) cluster_at: [Option<u32>; 32],
    /// Groups of copies that each lane has committed.
    pub(crate) committed: [u32; 32],
    /// Warp instructions it has executed in this block: its clock.
    pub(crate) clock: u64,
    /// Counts `*.sync` instructions, which order the accesses of its lanes.
    pub(crate) sync_epoch: u32,
}

/// The call chain was too deep or local memory is used up.
pub(crate) struct StackOverflow;

impl Warp {
    pub(crate) fn new(index: u32) -> Warp {
        Warp {
            index,
            lanes: 0,
            exited: 0,
            exit_pc: [0; 32],
            fragments: Vec::new(),
            joins: Vec::new(),
            frames: Vec::new(),
            local: Local::default(),
            copies: Vec::new(),
            cluster_at: [None; 32],
            committed: [0; 32],
            clock: 0,
            sync_epoch: 0,
        }
    }

    /// Puts the lanes at the start of the kernel. Registers of an earlier block are used again.
    pub(crate) fn start(
        &mut self,
        kernel: &Kernel,
        lanes: u32,
        special: &dyn Fn(Special, usize) -> u64,
    ) -> Result<(), StackOverflow> {
        (self.lanes, self.exited) = (lanes, 0);
        self.exit_pc = [0; 32];
        self.fragments.clear();
        self.joins.clear();
        for frame in &mut self.frames {
            frame.used = false;
        }
        self.copies.clear();
        self.cluster_at = [None; 32];
        self.committed = [0; 32];
        (self.clock, self.sync_epoch) = (0, 0);
        let frame = self.enter(kernel, 0, NOTHING, 0, lanes, special)?;
        self.fragments.push(Fragment {
            pc: 0,
            mask: lanes,
            frame,
            join: NOTHING,
            state: State::Ready,
            jumps: 0,
            spins: 0,
        });
        Ok(())
    }

    /// A frame of `function` above `caller`.
    fn enter(
        &mut self,
        kernel: &Kernel,
        function: u32,
        caller: u32,
        site: u32,
        mask: u32,
        special: &dyn Fn(Special, usize) -> u64,
    ) -> Result<u32, StackOverflow> {
        let code = &kernel.program[function as usize];
        let local_base = match self.frames.get(caller as usize) {
            Some(frame) => {
                let bytes = kernel.program[frame.function as usize].frame_bytes;
                (frame.local_base + bytes).next_multiple_of(16)
            }
            None => 0,
        };
        let free = self
            .frames
            .iter()
            .position(|f| !f.used && f.function == function);
        let index = match free {
            Some(index) => index,
            None => {
                if self.frames.len() >= MAX_FRAMES {
                    return Err(StackOverflow);
                }
                self.frames.push(new_frame(code, function));
                self.frames.len() - 1
            }
        };
        if !self.local.reserve((local_base + code.frame_bytes) as usize) {
            return Err(StackOverflow);
        }
        if code.frame_bytes > 0 {
            self.local
                .forget(mask, local_base as usize, code.frame_bytes as usize);
        }
        let frame = &mut self.frames[index];
        (frame.local_base, frame.caller, frame.site) = (local_base, caller, site);
        (frame.join, frame.used) = (NOTHING, true);
        for &(slot, register, width) in &code.specials {
            let value = |lane: usize| match register {
                Special::FrameBase => u64::from(local_base),
                other => special(other, lane),
            };
            if register.differs_by_lane() {
                for lane in 0..32 {
                    fill(&mut frame.regs, slot, width, lane, value(lane));
                }
                continue;
            }
            let value = value(0);
            for lane in 0..32 {
                fill(&mut frame.regs, slot, width, lane, value);
            }
        }
        Ok(index as u32)
    }

    /// Calls a function with all lanes of the fragment, which then is at its start.
    pub(crate) fn call(
        &mut self,
        kernel: &Kernel,
        fragment: usize,
        function: u32,
        special: &dyn Fn(Special, usize) -> u64,
    ) -> Result<(), StackOverflow> {
        let Fragment {
            pc,
            mask,
            frame,
            join,
            ..
        } = self.fragments[fragment];
        let site = kernel.program[self.frames[frame as usize].function as usize].code[pc as usize]
            .imm as u32;
        let callee = self.enter(kernel, function, frame, site, mask, special)?;
        let meet = self.new_join(Join {
            pc: pc + 1,
            frame,
            parent: join,
            expected: mask,
            arrived: 0,
            callee,
            used: true,
        });
        self.frames[callee as usize].join = meet;
        let fragment = &mut self.fragments[fragment];
        (fragment.pc, fragment.frame, fragment.join) = (0, callee, meet);
        Ok(())
    }

    fn new_join(&mut self, join: Join) -> u32 {
        match self.joins.iter().position(|j| !j.used) {
            Some(index) => {
                self.joins[index] = join;
                index as u32
            }
            None => {
                self.joins.push(join);
                self.joins.len() as u32 - 1
            }
        }
    }

    /// Whether the fragment's next join is at its program counter.
    pub(crate) fn at_join(&self, fragment: usize) -> bool {
        let f = &self.fragments[fragment];
        self.joins
            .get(f.join as usize)
            .is_some_and(|join| join.pc == f.pc && join.frame == f.frame && join.callee == NOTHING)
    }

    /// The fragment's lanes have come to its join. It goes on with all lanes if they were the last, else
    /// it is gone. Returns whether it goes on.
    pub(crate) fn arrive(&mut self, fragment: usize) -> bool {
        let Fragment { mask, join, .. } = self.fragments[fragment];
        let meet = &mut self.joins[join as usize];
        meet.arrived |= mask;
        if meet.arrived != meet.expected {
            self.fragments.remove(fragment);
            return false;
        }
        let done = *meet;
        self.close(join);
        let f = &mut self.fragments[fragment];
        (f.pc, f.frame, f.mask, f.join) = (done.pc, done.frame, done.arrived, done.parent);
        true
    }

    fn close(&mut self, join: u32) {
        let meet = &mut self.joins[join as usize];
        meet.used = false;
        if let Some(frame) = self.frames.get_mut(meet.callee as usize) {
            frame.used = false;
        }
    }

    /// Splits a fragment at a branch: `taken` lanes go to `target`, the others to `next`; they meet at
    /// `meet`. The fragment that goes on is the one with the lower program counter.
    pub(crate) fn split(&mut self, fragment: usize, taken: u32, target: u32, next: u32, meet: u32) {
        let f = self.fragments[fragment];
        let rest = f.mask & !taken;
        let mut join = f.join;
        if meet != NONE {
            let same = self
                .joins
                .get(join as usize)
                .is_some_and(|j| j.pc == meet && j.frame == f.frame && j.callee == NOTHING);
            if !same {
                join = self.new_join(Join {
                    pc: meet,
                    frame: f.frame,
                    parent: f.join,
                    expected: f.mask,
                    arrived: 0,
                    callee: NOTHING,
                    used: true,
                });
            }
        }
        let mut parts = [
            Fragment {
                pc: target,
                mask: taken,
                join,
                ..f
            },
            Fragment {
                pc: next,
                mask: rest,
                join,
                ..f
            },
        ];
        // The lower program counter runs first: it is the loop that goes on, or the branch whose code
        // comes before the join.
        if parts[0].pc > parts[1].pc {
            parts.swap(0, 1);
        }
        // A part that is at the join already waits there.
        let waits = |part: &Fragment| part.pc == meet && meet != NONE;
        if waits(&parts[1]) {
            self.joins[join as usize].arrived |= parts[1].mask;
            self.fragments[fragment] = parts[0];
        } else if waits(&parts[0]) {
            self.joins[join as usize].arrived |= parts[0].mask;
            self.fragments[fragment] = parts[1];
        } else {
            self.fragments[fragment] = parts[0];
            // Below the one that runs, so that it runs next.
            self.fragments.insert(fragment, parts[1]);
        }
    }

    /// Takes lanes out of every join from `join` outwards up to `until`; those that only waited for them
    /// let their lanes go.
    fn leave(&mut self, lanes: u32, mut join: u32, until: u32) {
        while join != until && join != NOTHING {
            let meet = &mut self.joins[join as usize];
            meet.expected &= !lanes;
            let done = *meet;
            if done.expected == done.arrived {
                self.close(join);
                if done.arrived != 0 {
                    self.fragments.push(released(&done, done.arrived));
                }
            }
            join = done.parent;
        }
    }

    /// Lanes of the fragment exit. Returns whether some are left in it.
    pub(crate) fn exit(&mut self, fragment: usize, lanes: u32, pc: u32) -> bool {
        self.exited |= lanes;
        for lane in (0..32).filter(|lane| lanes >> lane & 1 == 1) {
            self.exit_pc[lane] = pc;
        }
        self.leave(lanes, self.fragments[fragment].join, NOTHING);
        self.fragments[fragment].mask &= !lanes;
        let left = self.fragments[fragment].mask != 0;
        if !left {
            self.fragments.remove(fragment);
        }
        left
    }

    /// Lanes of the fragment return from their function.
    pub(crate) fn ret(&mut self, fragment: usize, lanes: u32) {
        let f = self.fragments[fragment];
        let join = self.frames[f.frame as usize].join;
        // A return out of the middle of a split: joins inside the function stop waiting.
        self.leave(lanes, f.join, join);
        let part = Fragment {
            mask: lanes,
            join,
            ..f
        };
        let rest = f.mask & !lanes;
        if rest == 0 {
            self.fragments[fragment] = part;
            self.arrive(fragment);
        } else {
            self.fragments[fragment].mask = rest;
            self.fragments[fragment].pc += 1;
            self.fragments.push(part);
            self.arrive(self.fragments.len() - 1);
        }
    }

    /// Lets the lanes that wait at joins go on without those that are away. Returns whether any did.
    pub(crate) fn release(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.joins.len() {
            let join = self.joins[index];
            if !join.used || join.arrived == 0 {
                continue;
            }
            any = true;
            self.joins[index].expected &= !join.arrived;
            self.joins[index].arrived = 0;
            self.fragments.push(released(&join, join.arrived));
        }
        any
    }

    /// A join where lanes wait: function, place, lanes.
    pub(crate) fn waiting_at_join(&self) -> Option<(u32, u32, u32)> {
        let join = self.joins.iter().find(|j| j.used && j.arrived != 0)?;
        Some((
            self.frames[join.frame as usize].function,
            join.pc,
            join.arrived,
        ))
    }

    /// Lanes that are threads and have not exited.
    pub(crate) fn alive(&self) -> u32 {
        self.lanes & !self.exited
    }
}

fn released(join: &Join, lanes: u32) -> Fragment {
    Fragment {
        pc: join.pc,
        mask: lanes,
        frame: join.frame,
        join: join.parent,
        state: State::Ready,
        jumps: 0,
        spins: 0,
    }
}

fn fill(regs: &mut [Slot], slot: u32, width: Width, lane: usize, value: u64) {
    let slot = slot as usize;
    match width {
        Width::Double => {
            // Two slots hold 32 values of 64 bits in lane order.
            let (index, at) = (slot + lane / 16, lane % 16 * 2);
            regs[index].0[at] = value as u32;
            regs[index].0[at + 1] = (value >> 32) as u32;
        }
        _ => regs[slot].0[lane] = value as u32,
    }
}

fn new_frame(code: &Function, function: u32) -> Frame {
    let mut regs = vec![Slot([0; 32]); code.slots.max(1) as usize].into_boxed_slice();
    let mut preds = vec![0; code.preds.max(2) as usize].into_boxed_slice();
    preds[0] = u32::MAX;
    for &(slot, value, width) in &code.constants {
        for lane in 0..32 {
            fill(&mut regs, slot, width, lane, value);
        }
    }
    Frame {
        function,
        regs,
        preds,
        local_base: 0,
        caller: NOTHING,
        site: 0,
        join: NOTHING,
        used: true,
    }
}
