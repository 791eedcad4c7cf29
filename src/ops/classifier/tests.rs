//! The classifier alone: every chain of the other ops' tests ends in one; here are its edge cases.

use crate::autograd::{Executor, Mode, Tape};
use crate::device::Device;

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
