//! What several test files need: a small search on the bundled digits, and a pool of so many threads.

use ndarts::search::settings::{
    Gamma, Precision, SearchSettings, SecondMoment, StrategyKind, UnrolledProduct, Weights,
};
use ndarts::space::Space;

/// A search of a few seconds, with every augmentation on.
pub fn settings(space: Space, strategy: StrategyKind) -> SearchSettings {
    SearchSettings {
        space,
        strategy,
        data: "digits".into(),
        device: "cpu".into(),
        precision: Precision::F32,
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
        cells: if space == Space::NasBench201 { 1 } else { 3 },
        batch: 20,
        epochs: 1,
        warmup_epochs: 0,
        stable_epochs: 0,
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
        arch_second_moment: SecondMoment::Element,
        image_size: 0,
        subset: vec![],
        crop_padding: 1,
        flip: true,
        cutout: 2,
        mean: vec![],
        std: vec![],
        option: Default::default(),
    }
}

/// Runs `run` on a pool of `threads` threads.
#[allow(dead_code, reason = "not every file that shares this module needs it")]
pub fn with_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads")
        .install(run)
}
