//! Which memory a launch touched: which sectors, and which ranges of bytes.

use std::collections::HashMap;

use super::SECTOR;

/// Bytes of address space that one entry of a map covers.
const CHUNK: u64 = 1 << 16;
/// Bytes of a granule of [`Ranges`].
const GRANULE: u64 = 512;
const SECTORS: usize = (CHUNK / SECTOR) as usize;
const GRANULES: usize = (CHUNK / GRANULE) as usize;

/// Pieces of address space, found by their number; the one used last is found without looking.
#[derive(Debug)]
struct Chunks<T> {
    places: HashMap<u64, usize>,
    chunks: Vec<(u64, Box<T>)>,
    last: usize,
}

impl<T: Copy> Chunks<T> {
    fn new() -> Chunks<T> {
        Chunks {
            places: HashMap::new(),
            chunks: Vec::new(),
            last: usize::MAX,
        }
    }

    #[inline(always)]
    fn at(&mut self, number: u64, empty: T) -> &mut T {
        if self
            .chunks
            .get(self.last)
            .is_none_or(|chunk| chunk.0 != number)
        {
            let next = self.chunks.len();
            self.last = *self.places.entry(number).or_insert(next);
            if self.last == next {
                self.chunks.push((number, Box::new(empty)));
            }
        }
        &mut self.chunks[self.last].1
    }
}

/// A set of sectors.
#[derive(Debug)]
pub(super) struct Sectors(Chunks<[u64; SECTORS / 64]>);

impl Sectors {
    pub(super) fn new() -> Sectors {
        Sectors(Chunks::new())
    }

    /// Adds sectors `first..=last`.
    pub(super) fn add(&mut self, first: u64, last: u64) {
        for sector in first..=last {
            let place = (sector % SECTORS as u64) as usize;
            let bits = self.0.at(sector / SECTORS as u64, [0; SECTORS / 64]);
            bits[place / 64] |= 1 << (place % 64);
        }
    }

    pub(super) fn merge(&mut self, other: Sectors) {
        for (number, theirs) in other.0.chunks {
            let ours = self.0.at(number, [0; SECTORS / 64]);
            ours.iter_mut()
                .zip(*theirs)
                .for_each(|(ours, theirs)| *ours |= theirs);
        }
    }

    pub(super) fn count(&self) -> u64 {
        let words = self.0.chunks.iter().flat_map(|chunk| chunk.1.iter());
        words.map(|word| u64::from(word.count_ones())).sum()
    }
}

/// Lowest byte and end of what was touched of a granule; nothing where the end is 0.
type Extent = (u16, u16);

/// What was touched of a piece of address space.
#[derive(Clone, Copy, Debug)]
struct Touched {
    extents: [Extent; GRANULES],
    words: [u64; WORDS / 64],
}

const UNTOUCHED: Touched = Touched {
    extents: [(u16::MAX, 0); GRANULES],
    words: [0; WORDS / 64],
};

/// Words of 4 bytes of a chunk.
const WORDS: usize = (CHUNK / 4) as usize;

/// Ranges of bytes, exact but for holes inside a granule; the words touched tell those.
#[derive(Debug)]
pub(super) struct Ranges(Chunks<Touched>);

/// The words of 4 bytes that a launch touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint(HashMap<u64, Box<[u64; WORDS / 64]>>);

impl Footprint {
    /// The bits of words `64·index .. 64·index + 64`, counted from address 0.
    fn bits(&self, index: u64) -> u64 {
        let per_chunk = (WORDS / 64) as u64;
        let chunk = self.0.get(&(index / per_chunk));
        chunk.map_or(0, |bits| bits[(index % per_chunk) as usize])
    }

    /// Whether some word of `start..end` is touched by both; where one is unknown, all of it counts.
    pub fn meet(a: Option<&Footprint>, b: Option<&Footprint>, start: u64, end: u64) -> bool {
        let (first, last) = (start / 4, (end - 1) / 4);
        (first / 64..=last / 64).any(|index| {
            let bits = |footprint: Option<&Footprint>| footprint.map_or(!0, |f| f.bits(index));
            bits(a) & bits(b) & mask(index, first, last) != 0
        })
    }
}

/// Of words `64·index .. 64·index + 64`, those in `first..=last`.
fn mask(index: u64, first: u64, last: u64) -> u64 {
    let low = first.saturating_sub(64 * index);
    let high = (last - 64 * index).min(63);
    (!0 << low) & (!0 >> (63 - high))
}

impl Ranges {
    pub(super) fn new() -> Ranges {
        Ranges(Chunks::new())
    }

    /// Adds bytes `start..end`.
    #[inline(always)]
    pub(super) fn add(&mut self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let granule = at / GRANULE;
            let until = end.min((granule + 1) * GRANULE);
            let touched = self.0.at(granule / GRANULES as u64, UNTOUCHED);
            let extent = &mut touched.extents[(granule % GRANULES as u64) as usize];
            extent.0 = extent.0.min((at % GRANULE) as u16);
            extent.1 = extent.1.max((until - granule * GRANULE) as u16);
            let (first, last) = (at / 4, (until - 1) / 4);
            for index in first / 64..=last / 64 {
                let bits = &mut touched.words[(index % (WORDS as u64 / 64)) as usize];
                *bits |= mask(index, first, last);
            }
            at = until;
        }
    }

    pub(super) fn merge(&mut self, other: Ranges) {
        for (number, theirs) in other.0.chunks {
            let ours = self.0.at(number, UNTOUCHED);
            for (ours, theirs) in ours.extents.iter_mut().zip(theirs.extents) {
                *ours = (ours.0.min(theirs.0), ours.1.max(theirs.1));
            }
            for (ours, theirs) in ours.words.iter_mut().zip(theirs.words) {
                *ours |= theirs;
            }
        }
    }

    /// The words touched.
    pub(super) fn footprint(&self) -> Footprint {
        let chunks = self.0.chunks.iter();
        Footprint(
            chunks
                .map(|(number, touched)| (*number, Box::new(touched.words)))
                .collect(),
        )
    }

    /// The ranges `(first byte, bytes)`, sorted, those that meet joined.
    pub(super) fn list(mut self) -> Vec<(u64, u64)> {
        self.0.chunks.sort_unstable_by_key(|chunk| chunk.0);
        let mut list: Vec<(u64, u64)> = Vec::new();
        for (number, touched) in &self.0.chunks {
            for (index, &(low, end)) in touched
                .extents
                .iter()
                .enumerate()
                .filter(|(_, extent)| extent.1 > 0)
            {
                let base = number * CHUNK + index as u64 * GRANULE;
                let (start, bytes) = (base + u64::from(low), u64::from(end - low));
                match list.last_mut() {
                    Some(last) if last.0 + last.1 == start => last.1 += bytes,
                    _ => list.push((start, bytes)),
                }
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_exact_at_their_ends_and_join_over_granules_and_chunks() {
        let mut ranges = Ranges::new();
        ranges.add(CHUNK - 700, CHUNK + 700);
        ranges.add(CHUNK + 5000, CHUNK + 5004);
        ranges.add(100, 104);
        assert_eq!(
            ranges.list(),
            [(100, 4), (CHUNK - 700, 1400), (CHUNK + 5000, 4)]
        );
    }

    #[test]
    fn footprints_tell_interleaved_rows_apart() {
        let (mut even, mut odd) = (Ranges::new(), Ranges::new());
        for row in 0..100 {
            let rows = if row % 2 == 0 { &mut even } else { &mut odd };
            rows.add(CHUNK - 800 + 16 * row, CHUNK - 800 + 16 * row + 16);
        }
        let (even, odd) = (even.footprint(), odd.footprint());
        let meet = |a, b| Footprint::meet(a, b, CHUNK - 800, CHUNK + 800);
        assert!(!meet(Some(&even), Some(&odd)));
        assert!(meet(Some(&even), Some(&even)) && meet(None, Some(&odd)) && meet(None, None));
        assert!(!Footprint::meet(
            Some(&even),
            None,
            CHUNK - 784,
            CHUNK - 768
        ));
    }

    #[test]
    fn sectors_count_once_however_often_they_are_touched() {
        let (mut a, mut b) = (Sectors::new(), Sectors::new());
        a.add(0, 9);
        a.add(5, 14);
        b.add(10, 19);
        b.add(1 << 30, 1 << 30);
        a.merge(b);
        assert_eq!(a.count(), 21);
    }
}
