//! Counting while blocks run. Each worker has a tally of its own; they are added up at the end.

use std::sync::Arc;

use super::footprint::{Ranges, Sectors};
use super::{Banks, Class, Counters, Floats, SECTOR, Traffic};
use crate::Options;
use crate::check::AccessKind;
use crate::execute::{At, Launch, Machine};
use crate::lower::Kernel;
use crate::lower::inst::{MmaShape, Op};
use crate::memory::Memory;

/// Banks of shared memory, of 4 bytes each.
const BANKS: usize = 32;

/// A live allocation that accesses were found in: first byte and end.
type Known = (u64, u64);

/// Counts of one worker.
pub(crate) struct Tally {
    instructions: u64,
    thread_instructions: u64,
    known: Vec<Known>,
    hint: usize,
    profile: bool,
    track: bool,
    /// For each function and instruction: how often it ran, in warps and in threads.
    hits: Vec<Vec<(u64, u64)>>,
    /// Ranges read, written and touched by atomics.
    ranges: [Ranges; 3],
    global: [Traffic; 3],
    sectors_read: Sectors,
    sectors_written: Sectors,
    shared: [Banks; 3],
    local: [u64; 2],
    divergent: u64,
    barriers: u64,
    matrix: Floats,
}

impl Tally {
    pub(crate) fn new(kernel: &Kernel, options: &Options) -> Tally {
        let hits = if options.profile {
            kernel
                .program
                .iter()
                .map(|f| vec![(0, 0); f.code.len()])
                .collect()
        } else {
            Vec::new()
        };
        Tally {
            instructions: 0,
            thread_instructions: 0,
            known: Vec::new(),
            hint: 0,
            profile: options.profile,
            track: options.track,
            hits,
            ranges: [Ranges::new(), Ranges::new(), Ranges::new()],
            global: [Traffic::default(); 3],
            sectors_read: Sectors::new(),
            sectors_written: Sectors::new(),
            shared: [Banks::default(); 3],
            local: [0; 2],
            divergent: 0,
            barriers: 0,
            matrix: Floats::default(),
        }
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

    pub(crate) fn divergent(&mut self) {
        self.divergent += 1;
    }

    pub(crate) fn barrier(&mut self) {
        self.barriers += 1;
    }

    pub(crate) fn matrix(&mut self, shape: MmaShape) {
        self.matrix.product(shape);
    }

    /// Whether `min..max+bytes` is inside one live allocation.
    #[inline(always)]
    pub(crate) fn touch(&mut self, memory: &Memory, min: u64, max: u64, bytes: u64) -> bool {
        let inside = |known: &Known| min >= known.0 && max < known.1 && bytes <= known.1 - max;
        if self.known.get(self.hint).is_some_and(inside) {
            return true;
        }
        if let Some(index) = self.known.iter().position(inside) {
            self.hint = index;
            return true;
        }
        let Some(found) = memory.find(min).filter(|found| found.freed.is_none()) else {
            return false;
        };
        let known = (found.address, found.address + found.bytes);
        if !inside(&known) {
            return false;
        }
        self.hint = self.known.len();
        self.known.push(known);
        true
    }

    /// Allocations may have gone.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
        self.hint = 0;
    }

    /// A warp's access to global memory: each active lane's `bytes` bytes at its address.
    #[inline(always)]
    pub(crate) fn global(
        &mut self,
        _at: At,
        list: &[u64; 32],
        mask: u32,
        bytes: u64,
        kind: AccessKind,
    ) {
        if self.profile || self.track {
            self.count_global(list, mask, bytes, kind);
        }
    }

    fn count_global(&mut self, list: &[u64; 32], mask: u32, bytes: u64, kind: AccessKind) {
        let mut ranges = [(0, 0); 32];
        let count = union(list, mask, bytes, &mut ranges);
        let ranges = &ranges[..count];
        if self.track {
            let touched = &mut self.ranges[kind as usize];
            ranges
                .iter()
                .for_each(|&(start, end)| touched.add(start, end));
        }
        if !self.profile {
            return;
        }
        let traffic = &mut self.global[kind as usize];
        traffic.requests += 1;
        traffic.asked += bytes * u64::from(mask.count_ones());
        let mut next = 0;
        for &(start, end) in ranges {
            let (first, last) = (start / SECTOR, (end - 1) / SECTOR);
            traffic.used += end - start;
            traffic.sectors += (last + 1).saturating_sub(first.max(next));
            next = last + 1;
            if kind != AccessKind::Write {
                self.sectors_read.add(first, last);
            }
            if kind != AccessKind::Read {
                self.sectors_written.add(first, last);
            }
        }
    }

    /// A warp's access to shared memory: each active lane's `bytes` bytes at its offset.
    #[inline(always)]
    pub(crate) fn shared(
        &mut self,
        _at: At,
        list: &[u64; 32],
        mask: u32,
        bytes: u64,
        kind: AccessKind,
    ) {
        if self.profile {
            let (wavefronts, ideal) = wavefronts(list, mask, bytes);
            let banks = &mut self.shared[kind as usize];
            banks.requests += 1;
            banks.wavefronts += wavefronts;
            banks.ideal += ideal;
        }
    }

    pub(crate) fn local(&mut self, _at: At, mask: u32, bytes: u64, kind: AccessKind) {
        let bytes = bytes * u64::from(mask.count_ones());
        self.local[usize::from(kind == AccessKind::Write)] += bytes;
    }

    pub(crate) fn merge(mut self, other: Tally) -> Tally {
        self.instructions += other.instructions;
        self.thread_instructions += other.thread_instructions;
        for (ours, theirs) in self
            .hits
            .iter_mut()
            .flatten()
            .zip(other.hits.iter().flatten())
        {
            ours.0 += theirs.0;
            ours.1 += theirs.1;
        }
        self.ranges
            .iter_mut()
            .zip(other.ranges)
            .for_each(|(ours, theirs)| ours.merge(theirs));
        self.global
            .iter_mut()
            .zip(&other.global)
            .for_each(|(ours, theirs)| ours.add(theirs));
        self.sectors_read.merge(other.sectors_read);
        self.sectors_written.merge(other.sectors_written);
        self.shared
            .iter_mut()
            .zip(&other.shared)
            .for_each(|(ours, theirs)| ours.add(theirs));
        self.local
            .iter_mut()
            .zip(other.local)
            .for_each(|(ours, theirs)| *ours += theirs);
        self.divergent += other.divergent;
        self.barriers += other.barriers;
        self.matrix.add(&other.matrix);
        self
    }

    pub(crate) fn finish(self, _machine: &Machine, kernel: &Kernel, _launch: &Launch) -> Counters {
        let mut classes = [0; Class::ALL.len()];
        let mut floats = self.matrix;
        let mut branches = 0;
        let code = kernel.program.iter().flat_map(|function| &function.code);
        for (inst, &(warps, threads)) in code.zip(self.hits.iter().flatten()) {
            classes[Class::of(&inst.op) as usize] += threads;
            floats.instruction(&inst.op, threads);
            if matches!(inst.op, Op::Branch | Op::BranchTable) {
                branches += warps;
            }
        }
        let footprints = self
            .ranges
            .each_ref()
            .map(|ranges| Arc::new(ranges.footprint()));
        let [reads, writes, atomics] = self.ranges;
        let [global_loads, global_stores, global_atomics] = self.global;
        let [shared_loads, shared_stores, shared_atomics] = self.shared;
        Counters {
            reads: reads.list(),
            writes: writes.list(),
            atomics: atomics.list(),
            footprints,
            instructions: self.instructions,
            thread_instructions: self.thread_instructions,
            classes,
            floats,
            global_loads,
            global_stores,
            global_atomics,
            unique_sectors_read: self.sectors_read.count(),
            unique_sectors_written: self.sectors_written.count(),
            shared_loads,
            shared_stores,
            shared_atomics: shared_atomics.requests,
            local_bytes_loaded: self.local[0],
            local_bytes_stored: self.local[1],
            branches,
            divergent_branches: self.divergent,
            barriers: self.barriers,
        }
    }
}

/// The bytes that the active lanes touch, as sorted, disjoint ranges; how many.
fn union(list: &[u64; 32], mask: u32, bytes: u64, ranges: &mut [(u64, u64); 32]) -> usize {
    let mut starts = [0; 32];
    let mut active = 0;
    let mut sorted = true;
    for (lane, &address) in list.iter().enumerate() {
        if mask >> lane & 1 != 0 {
            sorted &= active == 0 || starts[active - 1] <= address;
            starts[active] = address;
            active += 1;
        }
    }
    if !sorted {
        starts[..active].sort_unstable();
    }
    let mut count = 0;
    for &start in &starts[..active] {
        if count > 0 && start <= ranges[count - 1].1 {
            ranges[count - 1].1 = start + bytes;
        } else {
            ranges[count] = (start, start + bytes);
            count += 1;
        }
    }
    count
}

/// Passes over the banks that an access takes, and those it would take without conflicts. Lanes that touch
/// the same word share a pass. Accesses of 8 bytes are served by halves of the warp, of 16 by quarters.
fn wavefronts(list: &[u64; 32], mask: u32, bytes: u64) -> (u64, u64) {
    let words = (bytes as usize).div_ceil(4).max(1);
    let lanes = (BANKS / words).max(1);
    let (mut total, mut ideal) = (0, 0);
    for group in (0..32).step_by(lanes) {
        let mut seen = [[0u64; 32]; BANKS];
        let mut depth = [0usize; BANKS];
        let mut most = 0;
        for lane in (group..group + lanes).filter(|lane| mask >> lane & 1 != 0) {
            for word in 0..words as u64 {
                let word = list[lane] / 4 + word;
                let bank = (word % BANKS as u64) as usize;
                if !seen[bank][..depth[bank]].contains(&word) {
                    // At most 32 words of a group lie in one bank: one a lane, and a lane's differ.
                    seen[bank][depth[bank]] = word;
                    depth[bank] += 1;
                    most = most.max(depth[bank]);
                }
            }
        }
        total += most as u64;
        ideal += u64::from(most > 0);
    }
    (total, ideal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stride(bytes: u64) -> [u64; 32] {
        std::array::from_fn(|lane| lane as u64 * bytes)
    }

    #[test]
    fn bank_conflicts_follow_the_stride() {
        for (step, factor) in [(4, 1), (8, 2), (12, 1), (64, 16), (128, 32), (0, 1)] {
            assert_eq!(
                wavefronts(&stride(step), u32::MAX, 4),
                (factor, 1),
                "stride {step}"
            );
        }
        assert_eq!(wavefronts(&stride(8), u32::MAX, 8), (2, 2));
        assert_eq!(wavefronts(&stride(16), u32::MAX, 16), (4, 4));
        assert_eq!(wavefronts(&stride(256), u32::MAX, 8), (32, 2));
        assert_eq!(wavefronts(&stride(4), 0, 4), (0, 0));
    }

    #[test]
    fn the_union_of_lanes_is_sorted_and_counts_shared_bytes_once() {
        let mut ranges = [(0, 0); 32];
        assert_eq!(union(&stride(4), u32::MAX, 4, &mut ranges), 1);
        assert_eq!(ranges[0], (0, 128));
        assert_eq!(union(&[64; 32], u32::MAX, 4, &mut ranges), 1);
        assert_eq!(ranges[0], (64, 68));
        let backwards = std::array::from_fn(|lane| 1000 - 8 * lane as u64);
        assert_eq!(union(&backwards, 0b1011, 4, &mut ranges), 3);
        assert_eq!(ranges[..3], [(976, 980), (992, 996), (1000, 1004)]);
    }
}
