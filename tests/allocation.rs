//! A step allocates nothing after the first: counted by an allocator that counts for all threads.
//!
//! One test and no harness, because the count is the process's: a harness's own thread allocates when it
//! reports, also in the middle of a test that runs long. It runs inside a pool, as the program does (its main
//! thread is one of the pool's): a loop that enters a pool from outside goes through the pool's queue,
//! of which `rayon` allocates a block every 63 entries.

mod common;

use common::{settings, with_threads};
use ndarts::search::Search;
use ndarts::search::settings::{SearchSettings, StrategyKind, Weights};
use ndarts::space::Space;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    BYTES.fetch_add(bytes, Ordering::SeqCst);
}

// SAFETY: every call is handed to the system's allocator as it came, which keeps the contract;
// counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// (allocations, bytes) of `work`, on all threads.
fn counted(work: impl FnOnce()) -> (usize, usize) {
    let now = || {
        let bytes = BYTES.load(Ordering::SeqCst);
        (ALLOCATIONS.load(Ordering::SeqCst), bytes)
    };
    let before = now();
    work();
    let after = now();
    (after.0 - before.0, after.1 - before.1)
}

/// Rounds of a search: the first, and those counted after it.
const ROUNDS: usize = 4;

/// (allocations, bytes) of each round after the first.
fn rounds(settings: SearchSettings) -> Vec<(usize, usize)> {
    let mut search = Search::new(settings).expect("digits");
    search.round().expect("finite");
    let mut counts = Vec::with_capacity(ROUNDS);
    for _ in 1..ROUNDS {
        let mut round = None;
        counts.push(counted(|| round = Some(search.round().expect("finite"))));
    }
    counts
}

/// A search and the (allocations, bytes) that its rounds may make.
struct Case {
    settings: SearchSettings,
    allowed: (usize, usize),
}

fn cases(space: Space) -> Vec<Case> {
    let case = |weights, strategy, warmup_epochs, norms| Case {
        settings: SearchSettings {
            weights,
            warmup_epochs,
            ..settings(space, strategy)
        },
        // ‖v_k‖ of an architecture step goes to the log in the round's record: one list.
        allowed: (usize::from(norms > 0), norms * size_of::<f64>()),
    };
    let terms = settings(space, StrategyKind::Ndarts).neumann_terms;
    let all = [Weights::Sgd, Weights::Es, Weights::SgdEs];
    // Rounds of the warm-up train the weights alone.
    let mut cases: Vec<Case> = all.map(|w| case(w, StrategyKind::Ndarts, 1, 0)).into();
    cases.push(case(Weights::SgdEs, StrategyKind::Ndarts, 0, terms + 1));
    cases.push(case(Weights::Sgd, StrategyKind::DartsV1, 0, 0));
    cases.push(case(Weights::Sgd, StrategyKind::DartsV2, 0, 1));
    cases
}

const NAME: &str = "no_step_after_the_first_allocates";

fn main() {
    // As a harness would: a word on the command line picks tests by name.
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    if filter.is_some_and(|word| !NAME.contains(&word)) {
        return;
    }
    no_step_after_the_first_allocates();
    println!("test {NAME} ... ok");
}

fn no_step_after_the_first_allocates() {
    let mut wrong = Vec::new();
    for threads in [1, 2] {
        for Case { settings, allowed } in Space::ALL.into_iter().flat_map(cases) {
            let what = format!(
                "{:?}, {:?}, {:?}, warm-up {}, {threads} threads",
                settings.space, settings.strategy, settings.weights, settings.warmup_epochs
            );
            let counts = with_threads(threads, || rounds(settings));
            println!("{what}: {counts:?}");
            if counts.iter().any(|&count| count != allowed) {
                wrong.push(format!("{what}: allowed {allowed:?}, found {counts:?}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "(allocations, bytes) of each round after the first:\n{}",
        wrong.join("\n")
    );
}
