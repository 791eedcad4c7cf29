//! Has anything written this memory? One bit a word of four bytes, in a second reservation of a thirty-second
//! of the size whose pages appear when first set. Words that were written in part are kept apart, byte by byte, for
//! as long as they are: a kernel that writes single bytes fills them up soon.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// Bytes of memory whose partly written words are kept together.
const CHUNK: u64 = 256;
const SHARDS: usize = 16;

/// A bit for each byte of a chunk.
type Bytes = [u64; (CHUNK / 64) as usize];

/// What of the region has been written.
pub(crate) struct Shadow {
    _bits: memmap2::MmapRaw,
    words: *const AtomicU64,
    base: u64,
    /// Bytes of partly written words, by chunk.
    partial: [Mutex<HashMap<u64, Bytes>>; SHARDS],
    /// Chunks in `partial`.
    chunks: AtomicUsize,
}

// SAFETY: the words are only touched by atomic operations.
unsafe impl Send for Shadow {}
// SAFETY: as above.
unsafe impl Sync for Shadow {}

/// The part of a range that is whole words, and the bytes before and after it: `[start, end)` each.
#[inline(always)]
fn split(from: u64, bytes: u64) -> [(u64, u64); 3] {
    let to = from + bytes;
    let (first, last) = (from.next_multiple_of(4), to / 4 * 4);
    if first > last {
        // Inside one word.
        return [(from, to), (to, to), (to, to)];
    }
    [(from, first), (first, last), (last, to)]
}

impl Shadow {
    pub(super) fn new(base: u64, size: u64) -> Shadow {
        let bits = super::reserve(size / 32 + 64)
            .expect("the operating system refused to reserve the initialised bits");
        let words = bits.as_mut_ptr().cast::<AtomicU64>().cast_const();
        Shadow {
            _bits: bits,
            words,
            base,
            partial: Default::default(),
            chunks: AtomicUsize::new(0),
        }
    }

    #[inline(always)]
    fn cell(&self, index: u64) -> &AtomicU64 {
        // SAFETY: callers pass ranges inside the region, which the words cover; a mapping is page
        // aligned and zeroed, and zero is a valid value.
        unsafe { &*self.words.add(index as usize) }
    }

    fn chunk(&self, chunk: u64) -> MutexGuard<'_, HashMap<u64, Bytes>> {
        let shard = &self.partial[chunk as usize % SHARDS];
        shard.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Calls `f(cell, bits of the range in it)` for whole words from byte `first` to `last` of the region; stops
    /// where it says so.
    #[inline(always)]
    fn cells(&self, (first, last): (u64, u64), mut f: impl FnMut(u64, u64) -> bool) {
        if first >= last {
            return;
        }
        let (first, last) = (first / 4, last / 4 - 1);
        for index in first / 64..=last / 64 {
            let mut bits = u64::MAX;
            if index == first / 64 {
                bits &= u64::MAX << (first % 64);
            }
            if index == last / 64 {
                bits &= u64::MAX >> (63 - last % 64);
            }
            if !f(index, bits) {
                return;
            }
        }
    }

    #[inline(always)]
    fn is_set(&self, byte: u64) -> bool {
        self.cell(byte / 256).load(Relaxed) >> (byte / 4 % 64) & 1 == 1
    }

    /// Marks a range of the region as written.
    #[inline(always)]
    pub(crate) fn set(&self, address: u64, bytes: u64) {
        let [before, whole, after] = split(address - self.base, bytes);
        self.cells(whole, |index, bits| {
            let cell = self.cell(index);
            if bits == u64::MAX {
                cell.store(bits, Relaxed);
            } else if cell.load(Relaxed) & bits != bits {
                // Neighbouring words may be written by another core at the same time.
                cell.fetch_or(bits, Relaxed);
            }
            true
        });
        for (from, to) in [before, after] {
            if from < to {
                self.set_part(from, to);
            }
        }
    }

    /// Marks bytes of one word.
    #[cold]
    fn set_part(&self, from: u64, to: u64) {
        if self.is_set(from) {
            return;
        }
        let mut chunks = self.chunk(from / CHUNK);
        let known = chunks.len();
        let bytes = chunks.entry(from / CHUNK).or_default();
        let (cell, shift) = ((from % CHUNK / 64) as usize, from / 4 * 4 % 64);
        for byte in from..to {
            bytes[cell] |= 1 << (byte % 64);
        }
        if bytes[cell] >> shift & 15 == 15 {
            bytes[cell] &= !(15 << shift);
            let word = from / 4;
            self.cell(word / 64).fetch_or(1 << (word % 64), Relaxed);
            if bytes.iter().all(|&cell| cell == 0) {
                chunks.remove(&(from / CHUNK));
            }
        }
        self.count(known, chunks.len());
    }

    fn count(&self, before: usize, after: usize) {
        if after > before {
            self.chunks.fetch_add(after - before, Relaxed);
        } else {
            self.chunks.fetch_sub(before - after, Relaxed);
        }
    }

    /// Forgets a range, as where memory is freed.
    pub(super) fn clear(&self, address: u64, bytes: u64) {
        let [before, whole, after] = split(address - self.base, bytes);
        self.clear_words(whole);
        if self.chunks.load(Relaxed) > 0 {
            self.clear_partial(whole);
        }
        for (from, to) in [before, after] {
            (from..to).for_each(|byte| self.clear_byte(byte));
        }
    }

    fn clear_words(&self, (from, to): (u64, u64)) {
        // Whole pages of bits go back to the operating system; the ends are cleared by hand.
        const SPAN: u64 = 4096 * 32;
        let (first, end) = (from.next_multiple_of(SPAN), to / SPAN * SPAN);
        let clear = |range| {
            self.cells(range, |index, bits| {
                self.cell(index).fetch_and(!bits, Relaxed);
                true
            });
        };
        if first < end {
            super::discard(self.words as u64 + first / 32, (end - first) / 32);
            clear((from, first));
            clear((end, to));
        } else {
            clear((from, to));
        }
    }

    /// Forgets the partly written words of a range of whole words.
    fn clear_partial(&self, (from, to): (u64, u64)) {
        for shard in &self.partial {
            let mut chunks = shard.lock().unwrap_or_else(|e| e.into_inner());
            let known = chunks.len();
            chunks.retain(|chunk, bytes| {
                for byte in (chunk * CHUNK).max(from)..((chunk + 1) * CHUNK).min(to) {
                    bytes[(byte % CHUNK / 64) as usize] &= !(1 << (byte % 64));
                }
                bytes.iter().any(|&cell| cell != 0)
            });
            self.count(known, chunks.len());
        }
    }

    /// Forgets one byte; the others of its word stay as they are.
    fn clear_byte(&self, byte: u64) {
        // First apart, where it may also be left from before the word was written as a whole.
        if let Some(bytes) = self.chunk(byte / CHUNK).get_mut(&(byte / CHUNK)) {
            bytes[(byte % CHUNK / 64) as usize] &= !(1 << (byte % 64));
        }
        if self.is_set(byte) {
            let word = byte / 4;
            self.cell(word / 64).fetch_and(!(1 << (word % 64)), Relaxed);
            for other in (word * 4..word * 4 + 4).filter(|&other| other != byte) {
                self.set_part(other, other + 1);
            }
        }
    }

    /// The first byte of the range that isn't marked.
    #[inline(always)]
    pub(crate) fn first_clear(&self, address: u64, bytes: u64) -> Option<u64> {
        let from = address - self.base;
        let mut found = None;
        // Every word that the range touches; where one isn't wholly written, its bytes decide.
        let words = (from / 4 * 4, (from + bytes).next_multiple_of(4));
        self.cells(words, |index, bits| {
            let mut missing = bits & !self.cell(index).load(Relaxed);
            while missing != 0 && found.is_none() {
                let word = index * 64 + u64::from(missing.trailing_zeros());
                let (first, last) = ((word * 4).max(from), (word * 4 + 4).min(from + bytes));
                found = self.first_clear_byte(first, last);
                missing &= missing - 1;
            }
            found.is_none()
        });
        found.map(|byte| self.base + byte)
    }

    /// The first byte of a range in a partly written word that isn't marked.
    #[cold]
    fn first_clear_byte(&self, from: u64, to: u64) -> Option<u64> {
        if self.chunks.load(Relaxed) == 0 {
            return Some(from);
        }
        let chunks = self.chunk(from / CHUNK);
        let Some(bytes) = chunks.get(&(from / CHUNK)) else {
            return Some(from);
        };
        (from..to).find(|byte| bytes[(byte % CHUNK / 64) as usize] >> (byte % 64) & 1 == 0)
    }

    /// How many bytes from the start of a range aren't marked.
    fn unwritten(&self, address: u64, bytes: u64) -> u64 {
        let mut done = 0;
        while done < bytes {
            let byte = address + done - self.base;
            let untouched = byte.is_multiple_of(CHUNK)
                && self.cell(byte / 256).load(Relaxed) == 0
                && !self.chunk(byte / CHUNK).contains_key(&(byte / CHUNK));
            if untouched {
                done += CHUNK;
            } else if self.first_clear(address + done, 1).is_some() {
                done += 1;
            } else {
                return done;
            }
        }
        bytes
    }

    /// Makes the bytes at `to` written where those at `from` are.
    pub(super) fn copy(&self, to: u64, from: u64, bytes: u64) {
        // Runs of equal bits, so that a wholly written source costs one range operation a run.
        let mut done = 0;
        while done < bytes {
            let rest = bytes - done;
            let clear = self.first_clear(from + done, rest);
            let written = clear.map_or(rest, |at| at - from - done);
            self.set(to + done, written);
            done += written;
            let unwritten = self.unwritten(from + done, bytes - done);
            if unwritten > 0 {
                self.clear(to + done, unwritten);
            }
            done += unwritten;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_single_bytes_are_remembered_exactly() {
        let shadow = Shadow::new(0x1000, 1 << 20);
        let mut plain = vec![false; 600];
        let mut state = 7u64;
        for step in 0..4000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let (at, bytes) = ((state >> 33) % 580, 1 + (state >> 13) % 19);
            let range = at as usize..(at + bytes) as usize;
            if step % 3 == 0 {
                shadow.clear(0x1000 + at, bytes);
                plain[range].fill(false);
            } else if step % 7 == 0 {
                let to = (state >> 40) % 500;
                let source = plain[range].to_vec();
                if to + bytes <= at || at + bytes <= to {
                    shadow.copy(0x1000 + to, 0x1000 + at, bytes);
                    plain[to as usize..(to + bytes) as usize].copy_from_slice(&source);
                }
            } else {
                shadow.set(0x1000 + at, bytes);
                plain[range].fill(true);
            }
            let (from, length) = ((state >> 20) % 500, 1 + (state >> 50) % 90);
            let expected = (from..from + length).find(|&b| !plain[b as usize]);
            let found = shadow.first_clear(0x1000 + from, length);
            assert_eq!(found, expected.map(|b| 0x1000 + b), "step {step}");
        }
    }

    #[test]
    fn bytes_that_fill_a_word_leave_nothing_apart() {
        let shadow = Shadow::new(0, 1 << 16);
        for byte in 0..1024 {
            shadow.set(byte, 1);
        }
        assert_eq!(shadow.first_clear(0, 1024), None);
        assert_eq!(shadow.chunks.load(Relaxed), 0);
    }
}
