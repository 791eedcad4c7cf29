//! Who touched which word of device memory in a launch, in as little memory as will do.
//!
//! A line of 128 bytes has one owner (a stamp: a block, or a block's epoch) and two masks, of the words that it
//! read and wrote: 12 bytes, three thirty-seconds of what the launch touches. Only where a second party
//! comes to other words of the line do the words get stamps of their own, and no more than [`MOST_DETAILED`] lines
//! at a time: past that, a line is given up for the rest of the launch, which may hide a race but never
//! invents one. Stamps grow from launch to launch, so that what an earlier launch left is recognised and nothing
//! has to be cleared.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard};

/// Bytes of a line.
pub(super) const LINE: u64 = 128;
/// Stamps at the start of a launch's that are no block's: [`MANY`], [`DETAILED`], [`UNKNOWN`].
pub(super) const RESERVED: u32 = 3;
/// Added to a launch's first stamp: several blocks have read the same words of the line.
const MANY: u32 = 0;
/// Added to a launch's first stamp: the line's words have stamps of their own.
pub(super) const DETAILED: u32 = 1;
/// Added to a launch's first stamp: nothing is known of the line.
pub(super) const UNKNOWN: u32 = 2;
/// The top bit of a stamp says that the access was strong.
pub(super) const STRONG: u32 = 1 << 31;
/// Somebody is changing the line.
const BUSY: u32 = u32::MAX;
/// Lines whose words have stamps of their own, at most: 9 MiB.
const MOST_DETAILED: u32 = 1 << 15;
/// Words of which single bytes have stamps, at most.
const MOST_PARTIAL: usize = 1 << 16;
const SHARDS: usize = 16;

/// Reader and writer of each word of a line.
pub(super) type Words = [(u32, u32); 32];

/// Masks of a line's words: read in the low half, written in the high one.
pub(super) fn merge(read: u32, written: u32) -> u64 {
    u64::from(read) | u64::from(written) << 32
}

/// Words read and words written.
pub(super) fn split(masks: u64) -> (u32, u32) {
    (masks as u32, (masks >> 32) as u32)
}

/// Who touched which word of device memory.
pub(crate) struct RaceShadow {
    owners: Table<AtomicU32>,
    masks: Table<AtomicU64>,
    pub(super) base: u64,
    details: [Mutex<HashMap<u64, Box<Words>>>; SHARDS],
    /// Lines in `details`.
    detailed: AtomicU32,
    /// Bytes that share a word with bytes of other blocks: word → reader and writer of each byte.
    partial: Mutex<HashMap<u64, [(u32, u32); 4]>>,
    /// First stamp of the launch. Block b is `first + RESERVED + b`.
    pub(super) first: AtomicU32,
    /// First stamp that no launch has used.
    next: AtomicU32,
}

/// Cells in a reservation whose pages appear when touched.
struct Table<T> {
    map: Option<memmap2::MmapRaw>,
    cells: *const T,
}

// SAFETY: the cells are only touched by atomic operations.
unsafe impl<T> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Table<T> {}

impl<T> Table<T> {
    fn new(cells: u64) -> Table<T> {
        let map = crate::memory::reserve(cells * size_of::<T>() as u64 + 64);
        let pointer = map
            .as_ref()
            .map_or(std::ptr::null(), |m| m.as_mut_ptr().cast_const());
        Table {
            map,
            cells: pointer.cast(),
        }
    }

    #[inline(always)]
    fn get(&self, index: u64) -> &T {
        // SAFETY: the table covers the device's region, and addresses are checked to be inside it; the
        // mapping is page aligned and zero is a valid value.
        unsafe { &*self.cells.add(index as usize) }
    }

    /// Gives the memory back; every cell is zero then.
    fn forget(&self) {
        if let Some(map) = &self.map {
            crate::memory::discard(map.as_ptr() as u64, map.len() as u64);
        }
    }
}

/// A line that nobody else can change until it is let go.
pub(super) struct Line<'s> {
    shadow: &'s RaceShadow,
    line: u64,
    pub(super) owner: u32,
    pub(super) read: u32,
    pub(super) written: u32,
}

impl Line<'_> {
    /// Lets the line go with this owner and these words.
    pub(super) fn change(self, owner: u32, read: u32, written: u32) {
        let masks = self.shadow.masks.get(self.line);
        masks.store(merge(read, written), Relaxed);
        self.shadow.owners.get(self.line).store(owner, Release);
    }

    /// Lets the line go as it was.
    pub(super) fn stay(self) {
        self.shadow.owners.get(self.line).store(self.owner, Release);
    }

    /// Gives the words stamps of their own; whether there was room for that.
    pub(super) fn detail(&self) -> bool {
        if self.shadow.detailed.fetch_add(1, Relaxed) >= MOST_DETAILED {
            self.shadow.detailed.fetch_sub(1, Relaxed);
            return false;
        }
        let stamp = |mask: u32, word: usize| if mask >> word & 1 == 1 { self.owner } else { 0 };
        let words = std::array::from_fn(|w| (stamp(self.read, w), stamp(self.written, w)));
        self.shadow
            .shard(self.line)
            .insert(self.line, Box::new(words));
        true
    }
}

impl RaceShadow {
    /// For a region `(first address, length)`.
    pub(crate) fn new((base, size): (u64, u64)) -> RaceShadow {
        RaceShadow {
            owners: Table::new(size / LINE + 1),
            masks: Table::new(size / LINE + 1),
            base,
            details: Default::default(),
            detailed: AtomicU32::new(0),
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
        self.bytes().clear();
        if self.detailed.swap(0, Relaxed) > 0 {
            for shard in &self.details {
                *shard.lock().unwrap_or_else(|e| e.into_inner()) = HashMap::new();
            }
        }
        // Stamps of a launch: the reserved ones, one a block, and room for epochs. When they run out, all
        // that is left of old launches goes and they start from the beginning.
        let room = u32::try_from(blocks)
            .unwrap_or(1 << 29)
            .min(1 << 29)
            .saturating_mul(2)
            .max(1 << 20);
        let mut first = self.next.load(Relaxed);
        if first > (1 << 31) - room.min(1 << 30) {
            self.owners.forget();
            self.masks.forget();
            first = 1;
        }
        self.first.store(first, Relaxed);
        self.next.store(first.saturating_add(room), Relaxed);
    }

    /// Words of lines that have stamps of their own.
    pub(super) fn shard(&self, line: u64) -> MutexGuard<'_, HashMap<u64, Box<Words>>> {
        let shard = &self.details[line as usize % SHARDS];
        shard.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Single bytes that have stamps of their own.
    fn bytes(&self) -> MutexGuard<'_, HashMap<u64, [(u32, u32); 4]>> {
        self.partial.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes a line for a change.
    pub(super) fn lock(&self, line: u64) -> Line<'_> {
        let cell = self.owners.get(line);
        let mut owner = cell.load(Relaxed);
        loop {
            if owner == BUSY {
                std::hint::spin_loop();
                owner = cell.load(Relaxed);
                continue;
            }
            match cell.compare_exchange_weak(owner, BUSY, Acquire, Relaxed) {
                Ok(_) => break,
                Err(now) => owner = now,
            }
        }
        let (read, written) = split(self.masks.get(line).load(Relaxed));
        Line {
            shadow: self,
            line,
            owner,
            read,
            written,
        }
    }

    /// Whether an owner has all of `mask` in the line already, so that nothing changes.
    #[inline(always)]
    pub(super) fn has(&self, line: u64, owner: u32, mask: u32, write: bool) -> bool {
        if self.owners.get(line).load(Acquire) != owner {
            return false;
        }
        // Masks only grow while an owner has a line, and it takes its words along where it loses it.
        let (read, written) = split(self.masks.get(line).load(Relaxed));
        mask & !(if write { written } else { read }) == 0
    }

    /// A block without order to others touches words `mask` of a line. Returns the other party's stamp, and
    /// whether it wrote.
    pub(super) fn touch(
        &self,
        line: u64,
        mask: u32,
        me: u32,
        first: u32,
        write: bool,
    ) -> Option<(u32, bool)> {
        let many = first + MANY;
        if self.has(line, me, mask, write) || !write && self.has(line, many, mask, write) {
            return None;
        }
        let found = self.lock(line);
        let (owner, read, written) = (found.owner, found.read, found.written);
        let mine = if write { (0, mask) } else { (mask, 0) };
        if owner & !STRONG < first {
            found.change(me, mine.0, mine.1);
        } else if owner == me {
            found.change(me, read | mine.0, written | mine.1);
        } else if owner == first + UNKNOWN {
            found.stay();
        } else if owner == first + DETAILED {
            let race = self.touch_words(line, mask, me, first, write);
            found.stay();
            return race;
        } else if written & mask != 0 || write && read & mask != 0 {
            found.stay();
            return Some((owner, written & mask != 0));
        } else if !write && written == 0 && (read == mask || owner == many && mask & !read == 0) {
            found.change(many, read, 0);
        } else if found.detail() {
            let race = self.touch_words(line, mask, me, first, write);
            found.change(first + DETAILED, 0, 0);
            return race;
        } else {
            found.change(first + UNKNOWN, 0, 0);
        }
        None
    }

    /// Words of a line that have stamps of their own.
    fn touch_words(
        &self,
        line: u64,
        mask: u32,
        me: u32,
        first: u32,
        write: bool,
    ) -> Option<(u32, bool)> {
        let mut shard = self.shard(line);
        let words = shard.get_mut(&line)?;
        for (word, cell) in words.iter_mut().enumerate() {
            if mask >> word & 1 == 1
                && let Some(race) = touch_one(cell, me, first, write)
            {
                return Some(race);
            }
        }
        None
    }

    /// Bytes of a word that isn't accessed as a whole.
    pub(super) fn touch_bytes(
        &self,
        word: u64,
        bytes: u8,
        me: u32,
        first: u32,
        write: bool,
    ) -> Option<(u32, bool)> {
        self.each_byte(word, bytes, |cell| {
            match touch_one(cell, me, first, write) {
                Some(race) => Err(race),
                None => Ok(()),
            }
        })
    }

    /// Visits the reader and writer of bytes of a word; stops at the first race.
    pub(super) fn each_byte(
        &self,
        word: u64,
        bytes: u8,
        mut visit: impl FnMut(&mut (u32, u32)) -> Result<(), (u32, bool)>,
    ) -> Option<(u32, bool)> {
        let mut partial = self.bytes();
        if partial.len() >= MOST_PARTIAL && !partial.contains_key(&word) {
            return None;
        }
        let cell = partial.entry(word).or_default();
        (0..4)
            .filter(|byte| bytes >> byte & 1 == 1)
            .find_map(|byte| visit(&mut cell[byte]).err())
    }
}

/// One word or byte, `(reader, writer)`, touched by `me`: the other party of a race, and whether it wrote.
fn touch_one(cell: &mut (u32, u32), me: u32, first: u32, write: bool) -> Option<(u32, bool)> {
    let (reader, writer) = *cell;
    if writer >= first && writer != me {
        return Some((writer, true));
    }
    if write && reader >= first && reader != me {
        return Some((reader, false));
    }
    if write {
        cell.1 = me;
    } else {
        cell.0 = if reader < first || reader == me {
            me
        } else {
            first + MANY
        };
    }
    None
}
