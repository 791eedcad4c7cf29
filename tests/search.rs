//! When a search ends.

mod common;

use common::settings;
use ndarts::search::Search;
use ndarts::search::settings::{SearchSettings, StrategyKind};
use ndarts::space::Space;

/// A search that makes no round, so that its genotype stays as it was drawn.
fn still(stable_epochs: usize, warmup_epochs: usize) -> Search {
    Search::new(SearchSettings {
        stable_epochs,
        warmup_epochs,
        ..settings(Space::NasBench201, StrategyKind::DartsV1)
    })
    .expect("digits")
}

#[test]
fn a_search_ends_when_its_genotype_has_been_stable_for_long_enough() {
    let mut search = still(2, 0);
    for (stable, finished) in [(0, false), (1, false), (2, true)] {
        assert_eq!(search.finish_epoch().expect("finite").stable, stable);
        assert_eq!(search.finished(), finished);
    }
    let snapshot = search.snapshot().expect("on the host");
    let mut restored = still(2, 0);
    restored.restore(&snapshot).expect("the same settings");
    assert!(restored.finished());
}

#[test]
fn a_stable_genotype_ends_no_search_that_does_not_ask_for_it_or_is_warming_up() {
    for mut search in [still(0, 0), still(1, 1)] {
        for _ in 0..3 {
            search.finish_epoch().expect("finite");
            assert!(!search.finished());
        }
    }
}
