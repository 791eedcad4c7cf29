//! Races: two accesses to the same bytes, at least one a write, without an order between them.
//!
//! **Within a block**, shared memory: each warp has a vector clock; barriers and atomics join clocks, `*.sync`
//! instructions order the lanes of a warp. Every word of shared memory remembers its last writer and two
//! readers.
//!
//! **Between blocks**, device memory: a kernel without fences or ordering atomics has no order between blocks
//! at all, so any two that touch the same word, one writing, race ([`lines`]). In a kernel whose blocks do talk, a
//! conflict is a race unless a chain of releases and acquires leads from one to the other ([`order`]).

mod lines;
mod order;
mod report;
mod shared;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use crate::check::AccessKind;
use crate::execute::At;
use crate::options::Checks;
pub(crate) use lines::RaceShadow;
use lines::{LINE, RESERVED};
use order::Acquired;
pub(crate) use order::Order;
use shared::{NO_STAMP, SharedWord};

/// The other party of a race.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party {
    /// Thread of the block, where it is known.
    pub(crate) thread: u32,
    /// Block of the grid, where it is known.
    pub(crate) block: Option<u64>,
    pub(crate) kind: AccessKind,
    pub(crate) at: Option<At>,
}

/// The races check of a block.
pub(crate) struct Watch {
    on: bool,
    block: u64,
    /// Shared memory, a cell a word.
    words: Vec<SharedWord>,
    epochs: Vec<u32>,
    /// `clocks[w][v]`: accesses of warp v below this epoch come before what warp w does now.
    clocks: Vec<Vec<u32>>,
    /// Clocks that strong accesses have left at addresses of shared memory.
    locations: HashMap<u64, Vec<u32>>,
    /// Stamp of this block in device memory.
    stamp: u32,
    ordered: bool,
    epoch: u32,
    fenced: bool,
    acquired: Option<Rc<Acquired>>,
    /// Address range that each instruction has touched: names the other party of a race.
    sites: HashMap<(u32, u32, bool), (u64, u64)>,
}

// SAFETY: the `Rc`s of a watch and of the order it works on are only reached by the one thread that runs the
// blocks of an ordered launch; blocks of other launches have none.
unsafe impl Send for Watch {}

impl Watch {
    pub(crate) fn new(checks: Checks, warps: u32, shared: u32) -> Watch {
        let on = checks.races;
        let words = if on {
            (shared as usize).div_ceil(4) + 8
        } else {
            0
        };
        let warps = warps as usize;
        Watch {
            on,
            block: 0,
            words: vec![
                SharedWord {
                    write: NO_STAMP,
                    reads: [NO_STAMP; 2]
                };
                words
            ],
            epochs: vec![1; warps],
            clocks: vec![vec![1; warps]; warps],
            locations: HashMap::new(),
            stamp: 0,
            ordered: false,
            epoch: 0,
            fenced: false,
            acquired: None,
            sites: HashMap::new(),
        }
    }

    pub(crate) fn start_block(&mut self, index: u64, shadow: &RaceShadow, ordered: bool) {
        self.block = index;
        if !self.on {
            return;
        }
        // The start is a barrier of all warps.
        self.barrier(u32::MAX);
        self.locations.clear();
        self.ordered = ordered;
        (self.epoch, self.fenced, self.acquired) = (0, false, None);
        self.stamp = shadow
            .first
            .load(Relaxed)
            .saturating_add(RESERVED)
            .saturating_add(index as u32);
    }

    /// These warps have met at a barrier.
    pub(crate) fn barrier(&mut self, warps: u32) {
        if !self.on {
            return;
        }
        let members: Vec<usize> = (0..self.epochs.len())
            .filter(|w| warps >> w & 1 == 1)
            .collect();
        let mut joined = vec![0; self.epochs.len()];
        for &warp in &members {
            for (to, &from) in joined.iter_mut().zip(&self.clocks[warp]) {
                *to = from.max(*to);
            }
        }
        for &warp in &members {
            self.epochs[warp] = self.epochs[warp].wrapping_add(1);
            joined[warp] = self.epochs[warp];
        }
        for &warp in &members {
            self.clocks[warp].copy_from_slice(&joined);
        }
    }

    /// A fence that reaches other blocks.
    pub(crate) fn fence(&mut self) {
        self.fenced = true;
    }

    fn note_site(&mut self, at: At, write: bool, from: u64, to: u64) {
        let range = self
            .sites
            .entry((at.function, at.pc, write))
            .or_insert((u64::MAX, 0));
        *range = (range.0.min(from), range.1.max(to));
    }

    /// The one instruction that this worker knows to have touched an address that way.
    fn site(&self, address: u64, write: bool, not: At) -> Option<At> {
        let covers = |&(&(_, _, w), &(from, to)): &(&(u32, u32, bool), &(u64, u64))| {
            w == write && (from..to).contains(&address)
        };
        let mut found: Vec<At> = self
            .sites
            .iter()
            .filter(covers)
            .map(|(&(function, pc, _), _)| At { function, pc })
            .collect();
        found.sort_by_key(|at| (at.function, at.pc));
        let others = found
            .iter()
            .filter(|at| (at.function, at.pc) != (not.function, not.pc));
        others.copied().next().or(found.first().copied())
    }

    /// An access to device memory; the party that it races with.
    #[allow(
        clippy::too_many_arguments,
        reason = "an access as the machine has it, by its parts"
    )]
    #[inline]
    pub(crate) fn global(
        &mut self,
        shadow: &RaceShadow,
        order: Option<&mut Order>,
        list: &[u64; 32],
        mask: u32,
        bytes: u64,
        kind: AccessKind,
        at: At,
        strong: bool,
    ) -> Option<(u32, Party)> {
        let first_lane = mask.trailing_zeros() as usize;
        let (mut from, mut to) = (list[first_lane], list[first_lane]);
        let write = kind != AccessKind::Read;
        let mut race = None;
        let first = shadow.first.load(Relaxed);
        // Neighbouring lanes that touch one line are one step.
        let mut line = u64::MAX;
        let mut touched = 0u128;
        let mut line_lane = 0;
        let me = self.stamp;
        let mut order = order;
        let mut step = |watch: &mut Watch, line: u64, touched: u128, lane: u32| {
            if touched == 0 || race.is_some() {
                return;
            }
            if let Some(order) = order.as_deref_mut() {
                race = watch
                    .ordered_line(shadow, order, line, touched, write, kind, strong)
                    .map(|found| (lane, found.0, found.1));
                return;
            }
            // Atomics that commute don't race with each other; with plain accesses they do.
            if kind == AccessKind::Atomic {
                return;
            }
            let words = whole_words(touched);
            if words != 0 {
                race = shadow
                    .touch(line, words, me, first, write)
                    .map(|f| (lane, f.0, f.1));
            }
            if race.is_none() {
                race = parts_of_words(touched)
                    .find_map(|(word, bytes)| {
                        shadow.touch_bytes(line * 32 + word, bytes, me, first, write)
                    })
                    .map(|f| (lane, f.0, f.1));
            }
        };
        for lane in 0..32usize {
            if mask >> lane & 1 == 0 {
                continue;
            }
            let address = list[lane];
            (from, to) = (from.min(address), to.max(address + bytes));
            let offset = address - shadow.base;
            if offset / LINE != line {
                step(self, line, touched, line_lane);
                (line, touched, line_lane) = (offset / LINE, 0, lane as u32);
            }
            touched |= ((1 << bytes) - 1) << (offset % LINE);
        }
        step(self, line, touched, line_lane);
        self.note_site(at, write, from, to);
        let (lane, stamp, other_write) = race?;
        let block = match self.ordered {
            true => Some(u64::from(stamp)),
            false => stamp.checked_sub(first + RESERVED).map(u64::from),
        };
        let address = list[lane as usize];
        let kind = if other_write {
            AccessKind::Write
        } else {
            AccessKind::Read
        };
        let party = Party {
            thread: u32::MAX,
            block,
            kind,
            at: self.site(address, other_write, at),
        };
        Some((lane, party))
    }
}

/// The words of a line whose bytes are all touched.
fn whole_words(touched: u128) -> u32 {
    if touched == u128::MAX {
        return u32::MAX;
    }
    (0..32).fold(0, |words, word| {
        words | u32::from(touched >> (4 * word) & 15 == 15) << word
    })
}

/// The words of a line of which only some bytes are touched, and those.
fn parts_of_words(touched: u128) -> impl Iterator<Item = (u64, u8)> {
    let words = if touched == u128::MAX { 0 } else { 32 };
    (0..words).filter_map(move |word| {
        let bytes = (touched >> (4 * word) & 15) as u8;
        (bytes != 0 && bytes != 15).then_some((word, bytes))
    })
}
