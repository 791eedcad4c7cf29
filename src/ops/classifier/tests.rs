//! The classifier alone: every chain of the other ops' tests ends in one; here are its edge cases.

use crate::autograd::executor::parity;
use crate::autograd::{Executor, Mode, Tape};
use crate::device::Device;
use crate::ops::cuda::Precision;

/// images → classifier with the given weights; loss, hits and logits.
fn classify(images: &[f32], labels: &[u32], theta: &[f32]) -> (crate::ops::Outcome, Vec<f32>) {
    let mut tape = Tape::new(labels.len(), 2, 2);
    let (weight, bias) = (tape.weight(3 * 6), tape.weight(6));
    let images_id = tape.images;
    tape.classifier(images_id, true, weight, bias);
    tape.finish();
    let mut executor = Executor::new(tape, Device::Cpu);
    executor.load(images, labels).unwrap();
    let outcome = executor.forward(Mode::Evaluate, theta).unwrap();
    (outcome, executor.logits().unwrap())
}

#[test]
fn zero_weights_give_the_loss_of_a_guess() {
    let (outcome, logits) = classify(&[1.0; 24], &[0, 5], &[0.0; 24]);
    assert!((outcome.loss - 6.0f64.ln()).abs() < 1e-6);
    assert_eq!(logits, [0.0; 12]);
    // All logits tie: the label is not below any other, so it counts as a hit.
    assert_eq!((outcome.top1, outcome.top5), (2, 2));
}

#[test]
fn huge_logits_do_not_overflow_the_loss() {
    let mut theta = [0.0; 24];
    theta[18] = 1e30;
    let (outcome, _) = classify(&[1.0; 24], &[0, 0], &theta);
    assert_eq!((outcome.loss, outcome.top1), (0.0, 2));
}

#[test]
fn a_pixel_that_is_no_number_makes_the_loss_none_and_misses() {
    let mut images = [1.0f32; 24];
    images[0] = f32::NAN;
    let mut theta = [0.0; 24];
    theta[0] = 1.0;
    let (outcome, _) = classify(&images, &[0, 1], &theta);
    assert!(outcome.loss.is_nan());
    assert_eq!(outcome.top1, 0);
}

/// images → conv 1×1 → classifier on a device, against the CPU.
fn check_kernels(size: [usize; 3], channels: usize, classes: usize, relu: bool) {
    let Some(gpu) = crate::device::cuda::for_tests() else {
        return;
    };
    let [n, h, w] = size;
    let mut tape = Tape::new(n, h, w);
    let (first, weight) = (tape.weight(3 * channels), tape.weight(channels * classes));
    let bias = tape.weight(classes);
    let images_id = tape.images;
    let x = tape.conv(images_id, (1, 1), channels, false, false, (first, None));
    tape.classifier(x, relu, weight, bias);
    tape.finish();
    let spread = |step: usize, len: usize| -> Vec<f32> {
        (0..len)
            .map(|i| (i * step % 211) as f32 / 211.0 - 0.5)
            .collect()
    };
    let labels: Vec<u32> = (0..n).map(|i| (i * 5 % classes) as u32).collect();
    let case = parity::Case {
        tape: &tape,
        images: &spread(53, n * h * w * 3),
        labels: &labels,
        theta: &spread(89, tape.theta_len()),
        direction: &spread(131, tape.theta_len()),
    };
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        parity::check(&gpu, &case, "classifier", precision).unwrap();
    }
}

#[test]
fn few_classes_of_whole_vectors_on_the_device_match_the_cpu() {
    check_kernels([4, 3, 5], 64, 10, true);
}

#[test]
fn more_classes_and_features_than_threads_on_the_device_match_the_cpu() {
    check_kernels([2, 2, 1], 1029, 301, false);
}
