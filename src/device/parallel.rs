//! Parallel loops with a partition that depends on the problem alone, and per-thread scratch.
//!
//! Work is cut into chunks by [`chunks`]; each chunk reduces in a fixed order and the chunks'
//! partial results are combined in order. The same seed therefore gives the same bits at any
//! number of threads.

use super::memory::Arena;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Most chunks a batch is cut into: enough to balance 16 threads, few enough that partial weight
/// gradients stay small.
pub const MAX_CHUNKS: usize = 16;

/// Number of chunks for a batch of `images`.
pub fn chunks(images: usize) -> usize {
    images.clamp(1, MAX_CHUNKS)
}

/// The images of chunk `index`: sizes differ by at most one.
pub fn chunk_range(images: usize, index: usize) -> Range<usize> {
    let count = chunks(images);
    (images * index / count)..(images * (index + 1) / count)
}

/// Runs `task(0)` … `task(count − 1)`, each once, on the current rayon pool.
pub fn for_each(count: usize, task: impl Fn(usize) + Sync + Send) {
    (0..count).into_par_iter().with_max_len(1).for_each(task);
}

thread_local! {
    static SCRATCH: RefCell<Arena> = RefCell::new(Arena::new(1));
}

/// The longest scratch that any thread was asked for.
static LONGEST: AtomicUsize = AtomicUsize::new(0);
/// A thread's scratch grew since the last [`level_scratch`].
static GREW: AtomicBool = AtomicBool::new(false);

/// Lends `len` f32 of this thread's scratch, cache-line aligned, with whatever it held before.
/// It grows on first use and is kept ([`level_scratch`]), so a step allocates nothing after the
/// first. `body` must not run a parallel loop: a task stolen meanwhile may want the same scratch.
pub fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|arena| {
        if arena.len() < len {
            LONGEST.fetch_max(len, Ordering::Relaxed);
            GREW.store(true, Ordering::Release);
            *arena = Arena::new(len);
        }
        body(&mut arena.as_mut_slice()[..len])
    })
}

/// Gives every thread of the pool the longest scratch that one of them was asked for, if one grew.
///
/// Which thread runs which task changes from step to step; without this, a thread that was handed
/// only small tasks in the first step would still allocate in a later one.
/// Waits for every thread of the pool, so call it from one of them or while none is busy elsewhere.
pub fn level_scratch() {
    if !GREW.swap(false, Ordering::AcqRel) {
        return;
    }
    let len = LONGEST.load(Ordering::Relaxed);
    rayon::broadcast(|_| {
        SCRATCH.with_borrow_mut(|arena| {
            if arena.len() < len {
                *arena = Arena::new(len);
            }
        });
    });
}

/// Number of partial sums of a flat reduction.
const PARTS: usize = 64;

/// Σ over `0..len` of a function of ranges, by a fixed tree: 64 ranges summed in order.
pub fn sum(len: usize, part: impl Fn(Range<usize>) -> f64 + Sync + Send) -> f64 {
    let mut partial = [0.0f64; PARTS];
    partial
        .par_iter_mut()
        .with_min_len(if len < 1 << 16 { PARTS } else { 1 })
        .enumerate()
        .for_each(|(index, sum)| *sum = part(len * index / PARTS..len * (index + 1) / PARTS));
    partial.iter().sum()
}

/// Splits a flat vector into at most 64 ranges and runs `body` on each.
pub fn for_ranges(len: usize, body: impl Fn(Range<usize>) + Sync + Send) {
    (0..PARTS)
        .into_par_iter()
        .with_min_len(if len < 1 << 16 { PARTS } else { 1 })
        // Bounds on multiples of four, so that one counter block never straddles two ranges.
        .for_each(|index| {
            let bound = |i: usize| ((len * i / PARTS) + 3) & !3;
            body(bound(index).min(len)..bound(index + 1).min(len));
        });
}
