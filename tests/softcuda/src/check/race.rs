//! Races: two accesses to the same bytes, at least one a write, without an order between them.
//!
//! **Within a block**, shared memory: each warp has a vector clock; barriers and atomics join clocks, `*.sync`
//! instructions order the lanes of a warp. Every word of shared memory remembers its last writer and two
//! readers.
//!
//! **Between blocks**, device memory: a kernel without fences or ordering atomics has no order between blocks
//! at all, so any two that touch the same word, one writing, race. A line of 64 bytes has one owner and a mask of
//! words read and written; when a second block comes, its words get stamps of their own. In a kernel whose
//! blocks do talk, every word is stamped with the block and its epoch, which a release ends, and a
//! conflict is a race unless a chain of releases and acquires leads from one to the other.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::check::{AccessKind, Fault, FaultKind};
use crate::execute::{At, BlockState, Run, Warp};
use crate::options::Checks;

/// Nodes that a search for an order visits before it takes the accesses for ordered.
const SEARCH_LIMIT: u32 = 20_000;

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

/// Who touched which word of device memory. Stamps grow from launch to launch, so that what an earlier launch
/// left is recognised and nothing has to be cleared.
pub(crate) struct RaceShadow {
    lines: Table,
    words: Table,
    base: u64,
    /// Bytes that share a word with bytes of other blocks: word → reader and writer of each byte.
    partial: Mutex<HashMap<u64, [(u32, u32); 4]>>,
    /// First stamp of the launch: "many readers". Block b is `first + 1 + b`.
    first: AtomicU32,
    /// First stamp that no launch has used.
    next: AtomicU32,
}

/// 64-bit cells in a reservation whose pages appear when touched.
struct Table {
    _map: Option<memmap2::MmapRaw>,
    cells: *const AtomicU64,
}

// SAFETY: the cells are only touched by atomic operations.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    fn new(cells: u64) -> Table {
        let map = crate::memory::reserve(cells * 8 + 64);
        let pointer = map
            .as_ref()
            .map_or(std::ptr::null(), |m| m.as_mut_ptr().cast_const());
        Table {
            _map: map,
            cells: pointer.cast(),
        }
    }

    #[inline(always)]
    fn get(&self, index: u64) -> &AtomicU64 {
        // SAFETY: the table covers the device's region, and addresses are checked to be inside it; the
        // mapping is page aligned and zero is a valid value.
        unsafe { &*self.cells.add(index as usize) }
    }
}

/// Owner of a line whose words have stamps of their own.
const DETAILED: u32 = u32::MAX;

/// A line's cell: owner, words read, words written.
fn line_cell(owner: u32, read: u16, write: u16) -> u64 {
    u64::from(owner) | u64::from(read) << 32 | u64::from(write) << 48
}

impl RaceShadow {
    /// For a region `(first address, length)`.
    pub(crate) fn new((base, size): (u64, u64)) -> RaceShadow {
        RaceShadow {
            lines: Table::new(size / 64 + 1),
            words: Table::new(size / 4 + 16),
            base,
            partial: Mutex::new(HashMap::new()),
            first: AtomicU32::new(0),
            next: AtomicU32::new(1),
        }
    }

    /// Begins a launch of `blocks` blocks.
    pub(crate) fn start(&self, on: bool, blocks: u64) {
        if !on {
            return;
        }
        self.partial
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clear();
        // Stamps of a launch: one for "many", one a block, and room for epochs. When they run out, start
        // from the beginning; what is left of old launches may then hide a race, never invent one.
        let room = u32::try_from(blocks)
            .unwrap_or(1 << 29)
            .min(1 << 29)
            .saturating_mul(2)
            .max(1 << 20);
        let next = self.next.load(Relaxed);
        let first = if next > (1 << 31) - room.min(1 << 30) {
            1
        } else {
            next
        };
        self.first.store(first, Relaxed);
        self.next.store(first.saturating_add(room), Relaxed);
    }

    /// A block without order to others touches words `mask` of a line. Returns the other party.
    fn touch(&self, line: u64, mask: u16, me: u32, first: u32, write: bool) -> Option<(u32, bool)> {
        let cell = self.lines.get(line);
        let mut old = cell.load(Relaxed);
        loop {
            let owner = old as u32;
            let (read, written) = ((old >> 32) as u16, (old >> 48) as u16);
            let fresh = owner < first;
            let new = if fresh {
                line_cell(
                    me,
                    if write { 0 } else { mask },
                    if write { mask } else { 0 },
                )
            } else if owner == me {
                let (r, w) = if write {
                    (read, written | mask)
                } else {
                    (read | mask, written)
                };
                line_cell(me, r, w)
            } else if owner == DETAILED {
                return self.touch_words(line, mask, me, first, write);
            } else if !write && written == 0 && read & mask == mask && owner == first {
                // One more of many readers.
                return None;
            } else if !write && written == 0 && read == mask {
                line_cell(first, read, 0)
            } else {
                // From now on word by word.
                for word in 0..16 {
                    let (r, w) = (read >> word & 1 == 1, written >> word & 1 == 1);
                    if r || w {
                        let stamp = (if r { u64::from(owner) } else { 0 })
                            | (if w { u64::from(owner) << 32 } else { 0 });
                        self.words.get(line * 16 + word).store(stamp, Relaxed);
                    } else {
                        self.words.get(line * 16 + word).store(0, Relaxed);
                    }
                }
                line_cell(DETAILED, 0, 0)
            };
            if new == old {
                return None;
            }
            match cell.compare_exchange(old, new, Relaxed, Relaxed) {
                Ok(_) if new as u32 == DETAILED => {
                    return self.touch_words(line, mask, me, first, write);
                }
                Ok(_) => return None,
                Err(now) => old = now,
            }
        }
    }

    fn touch_words(
        &self,
        line: u64,
        mask: u16,
        me: u32,
        first: u32,
        write: bool,
    ) -> Option<(u32, bool)> {
        for word in (0..16).filter(|word| mask >> word & 1 == 1) {
            let cell = self.words.get(line * 16 + word);
            let mut old = cell.load(Relaxed);
            loop {
                let (reader, writer) = (old as u32, (old >> 32) as u32);
                if writer >= first && writer != me {
                    return Some((writer, true));
                }
                if write && reader >= first && reader != me {
                    return Some((reader, false));
                }
                let new = if write {
                    u64::from(me) << 32 | u64::from(reader)
                } else if reader < first || reader == me {
                    u64::from(writer) << 32 | u64::from(me)
                } else {
                    u64::from(writer) << 32 | u64::from(first)
                };
                if new == old {
                    break;
                }
                match cell.compare_exchange(old, new, Relaxed, Relaxed) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
        }
        None
    }

    /// Bytes of a word that isn't accessed as a whole.
    fn touch_bytes(
        &self,
        word: u64,
        bytes: u8,
        me: u32,
        first: u32,
        write: bool,
    ) -> Option<(u32, bool)> {
        let mut partial = self.partial.lock().unwrap_or_else(|e| e.into_inner());
        let cell = partial.entry(word).or_default();
        for byte in (0..4).filter(|byte| bytes >> byte & 1 == 1) {
            let (reader, writer) = &mut cell[byte];
            if *writer >= first && *writer != me {
                return Some((*writer, true));
            }
            if write && *reader >= first && *reader != me {
                return Some((*reader, false));
            }
            if write {
                *writer = me;
            } else {
                *reader = if *reader < first || *reader == me {
                    me
                } else {
                    first
                };
            }
        }
        None
    }
}

/// An access to a word of shared memory.
#[derive(Clone, Copy)]
struct Stamp {
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

const NO_STAMP: Stamp = Stamp {
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
struct SharedWord {
    write: Stamp,
    reads: [Stamp; 2],
}

/// What a block has acquired: where, and how many releases there were by then.
struct Acquired {
    location: u64,
    version: u32,
    before: Option<Rc<Acquired>>,
}

/// A release at a location: by which block, at the end of which epoch, after having acquired what.
struct Release {
    block: u64,
    epoch: u32,
    acquired: Option<Rc<Acquired>>,
}

/// Orders between blocks. All blocks of such a launch run on one thread; it travels with the block that
/// runs.
#[derive(Default)]
pub(crate) struct Order {
    locations: HashMap<u64, Vec<Release>>,
    /// For each stamp from the launch's first on: block and epoch.
    stamps: Vec<(u64, u32)>,
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
            .saturating_add(1)
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
        let mut touched = 0u64;
        let mut line_lane = 0;
        let me = self.stamp;
        let mut order = order;
        let mut step = |watch: &mut Watch, line: u64, touched: u64, lane: u32| {
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
            let all = touched & touched >> 1 & touched >> 2 & touched >> 3 & 0x1111_1111_1111_1111;
            let mut words = 0u16;
            for word in 0..16 {
                words |= ((all >> (4 * word) & 1) as u16) << word;
            }
            if words != 0 {
                race = shadow
                    .touch(line, words, me, first, write)
                    .map(|f| (lane, f.0, f.1));
            }
            if all.wrapping_mul(15) != touched && race.is_none() {
                for word in 0..16u64 {
                    let part = (touched >> (4 * word) & 15) as u8;
                    if part != 0 && part != 15 && race.is_none() {
                        race = shadow
                            .touch_bytes(line * 16 + word, part, me, first, write)
                            .map(|f| (lane, f.0, f.1));
                    }
                }
            }
        };
        for lane in 0..32usize {
            if mask >> lane & 1 == 0 {
                continue;
            }
            let address = list[lane];
            (from, to) = (from.min(address), to.max(address + bytes));
            let offset = address - shadow.base;
            if offset / 64 != line {
                step(self, line, touched, line_lane);
                (line, touched, line_lane) = (offset / 64, 0, lane as u32);
            }
            touched |= (u64::MAX >> (64 - bytes)) << (offset % 64);
        }
        step(self, line, touched, line_lane);
        self.note_site(at, write, from, to);
        let (lane, stamp, other_write) = race?;
        let block = match self.ordered {
            true => Some(u64::from(stamp)),
            false => (stamp > first).then(|| u64::from(stamp - first - 1)),
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

    /// Words of a line in a launch whose blocks are ordered by releases and acquires. Returns the block of
    /// the other party and whether it wrote.
    #[allow(
        clippy::too_many_arguments,
        reason = "an access as the machine has it, by its parts"
    )]
    fn ordered_line(
        &mut self,
        shadow: &RaceShadow,
        order: &mut Order,
        line: u64,
        touched: u64,
        write: bool,
        kind: AccessKind,
        strong: bool,
    ) -> Option<(u32, bool)> {
        let first = shadow.first.load(Relaxed);
        let me = order.stamp(first, self.block, self.epoch)?;
        // The top bit of a stamp says that the access was strong.
        const STRONG: u32 = 1 << 31;
        let flag = if strong || kind == AccessKind::Atomic {
            STRONG
        } else {
            0
        };
        let stamps = &order.stamps;
        let conflict = |stamp: u32, other_write: bool| {
            if stamp & !STRONG < first || stamp & flag & STRONG != 0 {
                return None;
            }
            let (block, epoch) = *stamps.get((stamp & !STRONG) as usize - first as usize)?;
            let mut budget = SEARCH_LIMIT;
            let races = block != self.block
                && !order.before(block, epoch, self.acquired.clone(), &mut budget);
            races.then_some((block as u32, other_write))
        };
        // The new reader and writer of a place, or the other party of a race.
        let step = |reader: u32, writer: u32| {
            if let Some(found) = conflict(writer, true) {
                return Err(found);
            }
            if write && let Some(found) = conflict(reader, false) {
                return Err(found);
            }
            Ok(if write {
                (reader, me | flag)
            } else {
                (me | flag, writer)
            })
        };
        for word in 0..16u64 {
            let bytes = touched >> (4 * word) & 15;
            if bytes == 15 {
                let cell = shadow.words.get(line * 16 + word);
                let old = cell.load(Relaxed);
                match step(old as u32, (old >> 32) as u32) {
                    Ok((reader, writer)) => {
                        cell.store(u64::from(writer) << 32 | u64::from(reader), Relaxed);
                    }
                    Err(found) => return Some(found),
                }
            } else if bytes != 0 {
                // Other blocks may have the other bytes of the word.
                let mut partial = shadow.partial.lock().unwrap_or_else(|e| e.into_inner());
                let cell = partial.entry(line * 16 + word).or_default();
                for byte in (0..4).filter(|byte| bytes >> byte & 1 == 1) {
                    match step(cell[byte].0, cell[byte].1) {
                        Ok(new) => cell[byte] = new,
                        Err(found) => return Some(found),
                    }
                }
            }
        }
        None
    }

    /// A strong access by this block at a location: acquires what was released there, and releases what the
    /// block did before where that is fenced.
    pub(crate) fn strong_access(
        &mut self,
        order: &mut Order,
        location: u64,
        kind: AccessKind,
        release: bool,
    ) {
        let releases = order.locations.get(&location).map_or(0, Vec::len) as u32;
        if kind != AccessKind::Write && releases > 0 {
            let known = self
                .acquired
                .as_ref()
                .is_some_and(|a| a.location == location && a.version == releases);
            if !known {
                let before = self.acquired.take();
                self.acquired = Some(Rc::new(Acquired {
                    location,
                    version: releases,
                    before,
                }));
            }
        }
        if kind != AccessKind::Read && (release || self.fenced) {
            self.epoch += 1;
            order.locations.entry(location).or_default().push(Release {
                block: self.block,
                epoch: self.epoch,
                acquired: self.acquired.clone(),
            });
        }
    }

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

impl Order {
    /// The stamp of a block's epoch.
    fn stamp(&mut self, first: u32, block: u64, epoch: u32) -> Option<u32> {
        if self.stamps.last() != Some(&(block, epoch)) {
            self.stamps.push((block, epoch));
        }
        let stamp = first.checked_add(self.stamps.len() as u32 - 1)?;
        (stamp < 1 << 31).then_some(stamp)
    }

    /// Whether the end of `epoch` of `block` is among what was acquired, directly or through others.
    fn before(
        &self,
        block: u64,
        epoch: u32,
        acquired: Option<Rc<Acquired>>,
        budget: &mut u32,
    ) -> bool {
        let mut stack = vec![acquired];
        while let Some(next) = stack.pop() {
            let mut node = next;
            while let Some(acquired) = node {
                let releases = self.locations.get(&acquired.location);
                for release in releases
                    .into_iter()
                    .flatten()
                    .take(acquired.version as usize)
                {
                    if *budget == 0 || release.block == block && release.epoch > epoch {
                        return true;
                    }
                    *budget -= 1;
                    if release.acquired.is_some() && release.block != self.current() {
                        stack.push(release.acquired.clone());
                    }
                }
                node = acquired.before.clone();
            }
        }
        false
    }

    /// The block that ran last.
    fn current(&self) -> u64 {
        self.stamps.last().map_or(u64::MAX, |(block, _)| *block)
    }
}

impl Warp {
    /// Orders between blocks that a strong access to device memory makes.
    pub(crate) fn order_global(&mut self, block: &mut BlockState, run: &Run, list: &[u64; 32]) {
        if !block.watch.on || !block.watch.ordered || !run.access.order.wide {
            return;
        }
        let kind = match run.inst.op {
            crate::lower::inst::Op::Load(_) => AccessKind::Read,
            crate::lower::inst::Op::Store(_) => AccessKind::Write,
            _ => AccessKind::Atomic,
        };
        let Some(order) = block.order.as_mut() else {
            return;
        };
        for lane in (0..32).filter(|lane| run.mask >> lane & 1 == 1) {
            block
                .watch
                .strong_access(order, list[lane], kind, run.access.order.release);
        }
    }

    /// The finding of a race between blocks.
    #[allow(
        clippy::too_many_arguments,
        reason = "an access as the machine has it, by its parts"
    )]
    #[cold]
    pub(crate) fn global_race(
        &self,
        block: &BlockState,
        at: At,
        lane: u32,
        address: u64,
        bytes: u64,
        kind: AccessKind,
        other: Party,
    ) -> Box<Fault> {
        let who = match other.block {
            Some(index) => {
                let [gx, gy, _] = block.env.launch.grid.map(u64::from);
                format!(
                    "block ({},{},{})",
                    index % gx,
                    index / gx % gy,
                    index / gx / gy
                )
            }
            None => "several other blocks".to_string(),
        };
        let place = other.at.map_or(String::new(), |at| {
            format!(" at {}", block.place(at.function, at.pc))
        });
        let message = format!(
            "race: {} of {bytes} bytes at {address:#x} and {} by {who}{place}, without an order \
             between them; it is {}",
            kind.name(),
            other.kind.name(),
            block.env.machine.memory.describe(address, bytes)
        );
        block.fault(FaultKind::Race, self, at.function, at.pc, lane, &message)
    }

    /// The finding of a race within a block.
    #[allow(
        clippy::too_many_arguments,
        reason = "an access as the machine has it, by its parts"
    )]
    #[cold]
    pub(crate) fn shared_race(
        &self,
        block: &BlockState,
        at: At,
        lane: u32,
        address: u64,
        bytes: u64,
        kind: AccessKind,
        other: Party,
    ) -> Box<Fault> {
        let place = other.at.map_or(String::new(), |at| {
            format!(" at {}", block.place(at.function, at.pc))
        });
        let message = format!(
            "race: {} of {bytes} bytes at {address:#x} of shared memory and {} by thread {}{place}, \
             without a barrier between them",
            kind.name(),
            other.kind.name(),
            block.thread(other.thread),
        );
        block.fault(FaultKind::Race, self, at.function, at.pc, lane, &message)
    }
}
