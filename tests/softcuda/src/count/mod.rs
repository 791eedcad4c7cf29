//! The counters of a launch.

use crate::check::AccessKind;
use crate::execute::{At, Launch, Machine};
use crate::lower::Kernel;
use crate::lower::inst::MmaShape;
use crate::memory::Memory;

/// What a launch did. Names follow Nsight Compute where it has one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Global memory read by the launch: sorted, disjoint ranges `(first address, bytes)`,
    /// one or a few for each allocation.
    pub reads: Vec<(u64, u64)>,
    /// Global memory written by the launch, as `reads`.
    pub writes: Vec<(u64, u64)>,
    /// Warp instructions.
    pub instructions: u64,
    /// Thread instructions.
    pub thread_instructions: u64,
}

/// What of an allocation a launch has touched.
#[derive(Clone, Copy, Debug)]
struct Touched {
    first: u64,
    end: u64,
    read: (u64, u64),
    write: (u64, u64),
}

/// Counts of one worker.
pub(crate) struct Tally {
    instructions: u64,
    thread_instructions: u64,
    touched: Vec<Touched>,
    hint: usize,
    hits: Vec<Vec<(u64, u64)>>,
}

impl Tally {
    pub(crate) fn new(kernel: &Kernel, profile: bool) -> Tally {
        let hits = if profile {
            kernel.program.iter().map(|f| vec![(0, 0); f.code.len()]).collect()
        } else {
            Vec::new()
        };
        Tally { instructions: 0, thread_instructions: 0, touched: Vec::new(), hint: 0, hits }
    }

    #[inline(always)]
    pub(crate) fn instruction(&mut self, profile: bool, function: u32, pc: u32, active: u32) {
        self.instructions += 1;
        self.thread_instructions += u64::from(active.count_ones());
        if profile {
            let hit = &mut self.hits[function as usize][pc as usize];
            hit.0 += 1;
            hit.1 += u64::from(active.count_ones());
        }
    }

    pub(crate) fn divergent(&mut self, _profile: bool) {}
    pub(crate) fn barrier(&mut self) {}
    pub(crate) fn matrix(&mut self, _shape: MmaShape) {}

    /// Whether `min..max+bytes` is inside one live allocation; remembers what of it was touched.
    #[inline(always)]
    pub(crate) fn touch(
        &mut self,
        memory: &Memory,
        min: u64,
        max: u64,
        bytes: u64,
        kind: AccessKind,
    ) -> bool {
        let inside =
            |t: &Touched| min >= t.first && max < t.end && bytes <= t.end - max;
        if !self.touched.get(self.hint).is_some_and(inside) {
            match self.touched.iter().position(inside) {
                Some(index) => self.hint = index,
                None => {
                    let Some(found) = memory.find(min).filter(|a| a.freed.is_none()) else {
                        return false;
                    };
                    let touched = Touched {
                        first: found.address,
                        end: found.address + found.bytes,
                        read: (u64::MAX, 0),
                        write: (u64::MAX, 0),
                    };
                    if !inside(&touched) {
                        return false;
                    }
                    self.touched.push(touched);
                    self.hint = self.touched.len() - 1;
                }
            }
        }
        let touched = &mut self.touched[self.hint];
        if kind != AccessKind::Write {
            touched.read = (touched.read.0.min(min), touched.read.1.max(max + bytes));
        }
        if kind != AccessKind::Read {
            touched.write = (touched.write.0.min(min), touched.write.1.max(max + bytes));
        }
        true
    }

    /// Allocations may have gone.
    pub(crate) fn forget(&mut self) {
        self.touched.clear();
        self.hint = 0;
    }

    pub(crate) fn global(&mut self, _at: At, _list: &[u64; 32], _mask: u32, _bytes: u64, _kind: AccessKind) {}
    pub(crate) fn shared(&mut self, _at: At, _list: &[u64; 32], _mask: u32, _bytes: u64, _kind: AccessKind) {}
    pub(crate) fn local(&mut self, _at: At, _mask: u32, _bytes: u64, _kind: AccessKind) {}

    pub(crate) fn merge(mut self, other: Tally) -> Tally {
        self.instructions += other.instructions;
        self.thread_instructions += other.thread_instructions;
        for theirs in other.touched {
            match self.touched.iter_mut().find(|t| t.first == theirs.first) {
                Some(ours) => {
                    ours.read.0 = ours.read.0.min(theirs.read.0);
                    ours.read.1 = ours.read.1.max(theirs.read.1);
                    ours.write.0 = ours.write.0.min(theirs.write.0);
                    ours.write.1 = ours.write.1.max(theirs.write.1);
                }
                None => self.touched.push(theirs),
            }
        }
        self
    }

    pub(crate) fn finish(mut self, _machine: &Machine, _kernel: &Kernel, _launch: &Launch) -> Counters {
        self.touched.sort_by_key(|t| t.first);
        let ranges = |pick: fn(&Touched) -> (u64, u64)| {
            self.touched
                .iter()
                .map(pick)
                .filter(|(from, to)| from < to)
                .map(|(from, to)| (from, to - from))
                .collect()
        };
        Counters {
            reads: ranges(|t| t.read),
            writes: ranges(|t| t.write),
            instructions: self.instructions,
            thread_instructions: self.thread_instructions,
        }
    }
}
