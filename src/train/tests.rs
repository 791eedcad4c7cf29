//! Training of tiny networks on the bundled digits.

use super::settings::TrainSettings;
use super::{Trainer, draw_factors};

fn settings(genotype: &str) -> TrainSettings {
    TrainSettings {
        genotype: genotype.into(),
        data: "digits".into(),
        device: "cpu".into(),
        channels: 4,
        cells: 3,
        imagenet: false,
        auxiliary: false,
        auxiliary_weight: 0.4,
        drop_path: 0.3,
        label_smoothing: 0.0,
        batch: 32,
        epochs: 2,
        warmup_epochs: 0,
        seed: 5,
        lr: 0.025,
        lr_min: 0.0,
        momentum: 0.9,
        weight_decay: 3e-4,
        clip: 5.0,
        image_size: 0,
        resize: 0,
        crop_padding: 0,
        flip: false,
        color_jitter: vec![],
        cutout: 2,
        mean: vec![],
        std: vec![],
        log_every: 4,
    }
}

const CELL: &str = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|";

#[test]
fn drop_path_keeps_the_expectation_and_drops_as_often_as_it_says() {
    let mut factors = vec![0.0; 40_000];
    draw_factors(1, 7, 0.2, &mut factors);
    let mean: f32 = factors.iter().sum::<f32>() / factors.len() as f32;
    assert!((mean - 1.0).abs() < 0.02, "{mean}");
    let dropped = factors.iter().filter(|&&f| f == 0.0).count();
    assert!((7_600..8_400).contains(&dropped), "{dropped}");
    assert!(factors.iter().all(|&f| f == 0.0 || (f - 1.25).abs() < 1e-6));
    let first = factors.clone();
    draw_factors(1, 8, 0.2, &mut factors);
    assert_ne!(first, factors);
    draw_factors(1, 7, 0.0, &mut factors);
    assert!(factors.iter().all(|&f| f == 1.0));
}

#[test]
fn a_few_epochs_teach_a_cell_the_digits() {
    let mut trainer = Trainer::new(TrainSettings {
        cells: 1,
        epochs: 3,
        lr: 0.1,
        ..settings(CELL)
    })
    .unwrap();
    let mut records = Vec::new();
    for _ in 0..trainer.steps_total() {
        records.push(trainer.step().unwrap());
    }
    let epoch = trainer.finish_epoch().unwrap();
    assert!(epoch.accuracy_test > 0.8, "{epoch:?}");
    let confusion = &trainer.evaluation().unwrap().confusion;
    let images: u32 = confusion.iter().flatten().sum();
    assert_eq!(images as usize, trainer.data.test.len());
    let hits: u32 = (0..confusion.len()).map(|c| confusion[c][c]).sum();
    assert!((f64::from(hits) / f64::from(images) - epoch.accuracy_test).abs() < 1e-12);
    assert!(records.iter().filter(|r| r.complete).count() < records.len());
}

#[test]
fn a_restored_training_goes_on_with_the_same_bits() {
    let run = |genotype: &str| Trainer::new(settings(genotype)).unwrap();
    for genotype in ["PDARTS", CELL] {
        let mut unbroken = run(genotype);
        let mut broken = run(genotype);
        for _ in 0..3 {
            unbroken.step().unwrap();
            broken.step().unwrap();
        }
        let mut resumed = run(genotype);
        resumed.restore(&broken.snapshot().unwrap()).unwrap();
        for _ in 0..3 {
            let (a, b) = (unbroken.step().unwrap(), resumed.step().unwrap());
            assert_eq!(
                (a.loss_train, a.step, a.complete),
                (b.loss_train, b.step, b.complete)
            );
        }
        assert_eq!(unbroken.model.tensors(), resumed.model.tensors());
        assert_eq!(unbroken.model.integers()[0].data, [6]);
    }
}

#[test]
fn a_checkpoint_of_another_network_is_refused_by_its_first_tensor() {
    let small = Trainer::new(settings("DARTS_V1")).unwrap();
    let message = |settings: TrainSettings| {
        let mut other = Trainer::new(settings).unwrap();
        other
            .restore(&small.snapshot().unwrap())
            .unwrap_err()
            .to_string()
    };
    let wider = TrainSettings {
        channels: 8,
        ..settings("DARTS_V1")
    };
    let error = message(wider);
    assert!(
        error.contains("`stem.0.weight`") && error.contains("[24, 3, 3, 3]"),
        "{error}"
    );
    let error = message(settings("DARTS_V2"));
    assert!(error.contains("`cells."), "{error}");
    let shallower = TrainSettings {
        cells: 2,
        ..settings("DARTS_V1")
    };
    assert!(message(shallower).contains("cells."));
}
