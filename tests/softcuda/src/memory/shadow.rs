//! One bit a byte of device memory: has anything written it? The bits live in a second reservation
//! of an eighth of the size, whose pages appear when first set.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The initialised bits of the region.
pub(crate) struct Shadow {
    _bits: memmap2::MmapRaw,
    words: *const AtomicU64,
    base: u64,
}

// SAFETY: the words are only touched by atomic operations.
unsafe impl Send for Shadow {}
// SAFETY: as above.
unsafe impl Sync for Shadow {}

impl Shadow {
    pub(super) fn new(base: u64, size: u64) -> Shadow {
        let bits = super::reserve(size / 8 + 64)
            .expect("the operating system refused to reserve the initialised bits");
        let words = bits.as_mut_ptr().cast::<AtomicU64>().cast_const();
        Shadow {
            _bits: bits,
            words,
            base,
        }
    }

    #[inline(always)]
    fn word(&self, index: u64) -> &AtomicU64 {
        // SAFETY: callers pass ranges inside the region, which the words cover; a mapping is page
        // aligned and zeroed, and zero is a valid value.
        unsafe { &*self.words.add(index as usize) }
    }

    /// Calls `f(word index, bits of the range in that word)`; stops where it says so.
    #[inline(always)]
    fn words(&self, address: u64, bytes: u64, mut f: impl FnMut(u64, u64) -> bool) {
        if bytes == 0 {
            return;
        }
        let first = address - self.base;
        let last = first + bytes - 1;
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

    /// Marks a range of the region as written.
    #[inline(always)]
    pub(crate) fn set(&self, address: u64, bytes: u64) {
        self.words(address, bytes, |index, bits| {
            let word = self.word(index);
            if bits == u64::MAX {
                word.store(bits, Relaxed);
            } else if word.load(Relaxed) & bits != bits {
                // Neighbouring bytes may be written by another core at the same time.
                word.fetch_or(bits, Relaxed);
            }
            true
        });
    }

    pub(super) fn clear(&self, address: u64, bytes: u64) {
        // Whole pages of bits go back to the operating system; the ends are cleared by hand.
        const SPAN: u64 = 4096 * 8;
        let first = (address - self.base).next_multiple_of(SPAN) + self.base;
        let end = (address + bytes - self.base) / SPAN * SPAN + self.base;
        let clear = |from: u64, to: u64| {
            self.words(from, to.saturating_sub(from), |index, bits| {
                self.word(index).fetch_and(!bits, Relaxed);
                true
            });
        };
        if first < end {
            super::discard(
                self.words as u64 + (first - self.base) / 8,
                (end - first) / 8,
            );
            clear(address, first);
            clear(end, address + bytes);
        } else {
            clear(address, address + bytes);
        }
    }

    /// The first byte of the range that isn't marked.
    #[inline(always)]
    pub(crate) fn first_clear(&self, address: u64, bytes: u64) -> Option<u64> {
        let mut found = None;
        self.words(address, bytes, |index, bits| {
            let missing = bits & !self.word(index).load(Relaxed);
            if missing != 0 {
                found = Some(self.base + index * 64 + u64::from(missing.trailing_zeros()));
            }
            missing == 0
        });
        found
    }

    pub(super) fn copy(&self, to: u64, from: u64, bytes: u64) {
        // Runs of equal bits, so that a wholly written source costs one range operation.
        let mut done = 0;
        while done < bytes {
            let chunk = (bytes - done).min(64 - (from + done - self.base) % 64);
            let at = from + done - self.base;
            let word = self.word(at / 64).load(Relaxed) >> (at % 64);
            let full = u64::MAX >> (64 - chunk);
            if word & full == full {
                self.set(to + done, chunk);
            } else {
                for bit in 0..chunk {
                    if word >> bit & 1 == 1 {
                        self.set(to + done + bit, 1);
                    } else {
                        self.clear(to + done + bit, 1);
                    }
                }
            }
            done += chunk;
        }
    }
}
