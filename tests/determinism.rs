//! Same seed, same bits: at any number of threads, and through a snapshot.

use ndarts::search::settings::{Gamma, SearchSettings, StrategyKind, UnrolledProduct, Weights};
use ndarts::search::{Search, Snapshot};
use ndarts::space::Space;

fn settings(space: Space, strategy: StrategyKind) -> SearchSettings {
    SearchSettings {
        space,
        strategy,
        data: "digits".into(),
        device: "cpu".into(),
        weights: Weights::SgdEs,
        neumann_terms: 2,
        inner_steps: 2,
        gamma: Gamma::Auto,
        unrolled_product: UnrolledProduct::FiniteDifference,
        population: 3,
        sigma: 0.01,
        es_step: 0.01,
        es_literal: false,
        antithetic: true,
        channels: 4,
        cells: if space == Space::Darts { 3 } else { 1 },
        batch: 20,
        epochs: 1,
        warmup_epochs: 0,
        seed: 11,
        lr: 0.025,
        lr_min: 0.001,
        momentum: 0.9,
        weight_decay: 3e-4,
        clip: 5.0,
        arch_lr: 3e-3,
        arch_weight_decay: 1e-3,
        arch_beta1: 0.5,
        arch_beta2: 0.999,
        image_size: 0,
        crop_padding: 1,
        flip: true,
        cutout: 2,
        mean: vec![],
        std: vec![],
    }
}

/// The snapshot's bits, without the clock.
fn bits(snapshot: &Snapshot) -> Vec<(String, Vec<u32>)> {
    let tensors = snapshot.weights.iter().chain(&snapshot.optimizer);
    tensors
        .map(|t| (t.name.clone(), t.data.iter().map(|x| x.to_bits()).collect()))
        .collect()
}

fn with_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads")
        .install(run)
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
