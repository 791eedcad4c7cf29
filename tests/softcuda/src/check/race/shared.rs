//! Races within a block, on shared memory. Each word remembers its last writer and two readers; whether one of
//! them comes before an access is a matter of the warps' vector clocks, and within a warp of its count of `*.sync`
//! instructions.

use super::{Party, Watch};
use crate::check::AccessKind;
use crate::execute::{At, Warp};

/// An access to a word of shared memory.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    /// Its warp's epoch, from 1; 0: none.
    epoch: u32,
    /// Its warp's count of `*.sync` instructions.
    sync: u32,
    /// Its warp's clock: lanes of one instruction have the same.
    tick: u32,
    thread: u16,
    function: u16,
    pc: u32,
    kind: AccessKind,
    strong: bool,
    /// Bytes of the word.
    bytes: u8,
}

pub(super) const NO_STAMP: Stamp = Stamp {
    epoch: 0,
    sync: 0,
    tick: 0,
    thread: 0,
    function: 0,
    pc: 0,
    kind: AccessKind::Read,
    strong: false,
    bytes: 0,
};

#[derive(Clone, Copy)]
pub(super) struct SharedWord {
    pub(super) write: Stamp,
    pub(super) reads: [Stamp; 2],
}

impl Watch {
    /// An access to shared memory; the lane and the party that it races with.
    #[allow(
        clippy::too_many_arguments,
        reason = "an access as the machine has it, by its parts"
    )]
    pub(crate) fn shared(
        &mut self,
        warp: &Warp,
        list: &[u64; 32],
        mask: u32,
        bytes: u64,
        kind: AccessKind,
        at: At,
        strong: bool,
    ) -> Option<(u32, Party)> {
        let w = warp.index as usize;
        let strong = strong || kind == AccessKind::Atomic;
        if strong {
            self.join_shared(w, list, mask, kind);
        }
        let clock = &self.clocks[w];
        let stamp = Stamp {
            epoch: self.epochs[w],
            sync: warp.sync_epoch,
            tick: warp.clock as u32,
            thread: 0,
            function: at.function as u16,
            pc: at.pc,
            kind,
            strong,
            bytes: 0,
        };
        let conflict = |old: &Stamp, new: &Stamp| -> bool {
            if old.epoch == 0 || old.thread == new.thread || old.bytes & new.bytes == 0 {
                return false;
            }
            let other = usize::from(old.thread) / 32;
            if other == w {
                let same_time = old.epoch == new.epoch && old.sync == new.sync;
                // Volatile accesses of one warp are the old way to synchronise it.
                return same_time && old.tick != new.tick && !(old.strong || new.strong);
            }
            old.epoch >= clock[other] && !(old.strong && new.strong)
        };
        for lane in (0..32usize).filter(|lane| mask >> lane & 1 == 1) {
            let thread = (warp.index * 32 + lane as u32) as u16;
            let (first, last) = (list[lane] / 4, (list[lane] + bytes - 1) / 4);
            for word in first..=last {
                let from = list[lane].max(word * 4) - word * 4;
                let to = (list[lane] + bytes).min(word * 4 + 4) - word * 4;
                let covered = ((1u32 << to) - (1 << from)) as u8;
                let new = Stamp {
                    thread,
                    bytes: covered,
                    ..stamp
                };
                let cell = &mut self.words[word as usize];
                let mut found = conflict(&cell.write, &new).then_some(cell.write);
                if kind != AccessKind::Read && found.is_none() {
                    found = cell.reads.iter().find(|read| conflict(read, &new)).copied();
                }
                if let Some(other) = found {
                    let party = Party {
                        thread: u32::from(other.thread),
                        block: None,
                        kind: other.kind,
                        at: Some(At {
                            function: u32::from(other.function),
                            pc: other.pc,
                        }),
                    };
                    // The write happens all the same, where it turns out to change nothing.
                    cell.write = if kind == AccessKind::Read {
                        cell.write
                    } else {
                        new
                    };
                    return Some((lane as u32, party));
                }
                if kind == AccessKind::Read {
                    let slot = usize::from(cell.reads[0].thread / 32 != thread / 32);
                    if slot == 1 && cell.reads[0].epoch == 0 {
                        cell.reads[0] = new;
                    } else {
                        cell.reads[slot] = new;
                    }
                } else {
                    cell.write = new;
                    if kind == AccessKind::Write {
                        cell.reads = [NO_STAMP; 2];
                    }
                }
            }
        }
        None
    }

    /// Strong accesses at an address of shared memory order the warps that make them.
    fn join_shared(&mut self, w: usize, list: &[u64; 32], mask: u32, kind: AccessKind) {
        let mut last = u64::MAX;
        for lane in (0..32usize).filter(|lane| mask >> lane & 1 == 1) {
            let location = list[lane] / 4;
            if location == last {
                continue;
            }
            last = location;
            if kind != AccessKind::Write
                && let Some(clock) = self.locations.get(&location)
            {
                for (to, &from) in self.clocks[w].iter_mut().zip(clock) {
                    *to = from.max(*to);
                }
            }
            if kind != AccessKind::Read {
                let mine = self.clocks[w].clone();
                let clock = self
                    .locations
                    .entry(location)
                    .or_insert_with(|| vec![0; mine.len()]);
                for (to, from) in clock.iter_mut().zip(mine) {
                    *to = from.max(*to);
                }
                clock[w] = self.epochs[w] + 1;
            }
        }
        if kind != AccessKind::Read {
            self.epochs[w] += 1;
            self.clocks[w][w] = self.epochs[w];
        }
    }
}
