//! Same seed, same bits: at any number of threads, and through a snapshot.

mod common;

use common::{settings, with_threads};
use ndarts::search::settings::{StrategyKind, Weights};
use ndarts::search::{Search, Snapshot};
use ndarts::space::Space;

/// The snapshot's bits, without the clock.
fn bits(snapshot: &Snapshot) -> Vec<(String, Vec<u32>)> {
    let tensors = snapshot.weights.iter().chain(&snapshot.optimizer);
    tensors
        .map(|t| (t.name.clone(), t.data.iter().map(|x| x.to_bits()).collect()))
        .collect()
}

#[test]
fn one_two_and_five_threads_give_the_same_bits() {
    for space in Space::ALL {
        for strategy in [StrategyKind::Ndarts, StrategyKind::DartsV2] {
            let run = |threads| {
                with_threads(threads, || {
                    let mut search = Search::new(settings(space, strategy)).expect("digits");
                    for _ in 0..3 {
                        search.round().expect("finite");
                    }
                    (
                        bits(&search.snapshot().expect("on the host")),
                        search.finish_epoch().expect("finite").loss_val,
                    )
                })
            };
            let one = run(1);
            assert!(
                one == run(2),
                "{space:?} {strategy:?}: two threads differ from one"
            );
            assert!(
                one == run(5),
                "{space:?} {strategy:?}: five threads differ from one"
            );
        }
    }
}

#[test]
fn a_restored_search_continues_with_the_same_bits() {
    for strategy in [
        StrategyKind::Ndarts,
        StrategyKind::DartsV1,
        StrategyKind::DartsV2,
    ] {
        let mut unbroken = Search::new(settings(Space::Darts, strategy)).expect("digits");
        unbroken.round().expect("finite");
        let snapshot = unbroken.snapshot().expect("on the host");
        unbroken.round().expect("finite");
        let mut restored = Search::new(settings(Space::Darts, strategy)).expect("digits");
        restored.restore(&snapshot).expect("the same settings");
        assert_eq!(restored.rounds_done(), 1);
        restored.round().expect("finite");
        assert!(
            bits(&unbroken.snapshot().expect("on the host"))
                == bits(&restored.snapshot().expect("on the host")),
            "{strategy:?}"
        );
    }
}

#[test]
fn a_snapshot_of_another_network_is_refused_by_its_first_tensor() {
    let small = Search::new(settings(Space::Darts, StrategyKind::Ndarts)).expect("digits");
    let mut wide = settings(Space::Darts, StrategyKind::Ndarts);
    wide.channels = 6;
    let error = Search::new(wide)
        .expect("digits")
        .restore(&small.snapshot().expect("on the host"))
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("stem.0.weight") && text.contains("--channels"),
        "{text}"
    );
}

#[test]
fn a_learning_rate_that_explodes_stops_the_search_with_advice() {
    let mut wild = settings(Space::Darts, StrategyKind::Ndarts);
    (wild.lr, wild.clip, wild.weights) = (1e30, 0.0, Weights::Sgd);
    let mut search = Search::new(wild).expect("digits");
    let error = (0..5)
        .find_map(|_| search.round().err())
        .expect("it cannot stay finite");
    let text = error.to_string();
    assert!(text.contains("round") && text.contains("--lr"), "{text}");
}
