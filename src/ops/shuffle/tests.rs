//! The order of the channels; the passes are those of whole PC-DARTS supernets, on the CPU against the
//! oracle (`tests/oracle/engine/supernets.rs`) and here on the device against the CPU.

use crate::autograd::{Executor, Mode, Tape};
use crate::device::Device;
use crate::oracle::engine::ops::{check_variant_kernels, partial_variant};

#[test]
fn channels_of_the_groups_take_turns_and_gradients_find_the_way_back() {
    // A pixel an image, so that logits are the shuffled channels times the last weights.
    let mut tape = Tape::new(2, 1, 1);
    let weight = tape.weight(3 * 6);
    let images = tape.images;
    let x = tape.conv(images, (1, 1), 6, false, false, (weight, None));
    let y = tape.activation([1, 1], 6, false);
    tape.shuffle(x, 3, y);
    let (last, bias) = (tape.weight(6 * 6), tape.weight(6));
    tape.classifier(y, false, last, bias);
    tape.finish();
    let mut executor = Executor::new(tape, Device::Cpu);
    executor
        .load(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], &[1, 4])
        .unwrap();
    // x of the images is rows 0 and 1 of the first weights; the last ones are the identity.
    let mut theta = vec![0.0; 18 + 36 + 6];
    for c in 0..6 {
        (theta[c], theta[6 + c]) = (c as f32, 10.0 + c as f32);
        theta[18 + 7 * c] = 1.0;
    }
    executor.forward(Mode::Gradient, &theta).unwrap();
    let logits = executor.logits().unwrap();
    assert_eq!(logits[..6], [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    assert_eq!(logits[6..], [10.0, 12.0, 14.0, 11.0, 13.0, 15.0]);
    let mut gradient = vec![0.0; theta.len()];
    executor.backward(&theta, &mut gradient).unwrap();
    // Of the label's channel alone the adjoint is negative: 1 is x's channel 2, 4 its channel 3.
    for (image, label) in [(0, 2), (1, 3)] {
        let row = &gradient[6 * image..6 * image + 6];
        assert!(
            row.iter()
                .enumerate()
                .all(|(c, &bar)| (bar < 0.0) == (c == label))
        );
    }
}

#[test]
fn four_passes_of_shuffle_on_the_device_match_the_cpu() {
    for channels in [4, 8] {
        check_variant_kernels(&partial_variant(), channels, "shuffle");
    }
}
