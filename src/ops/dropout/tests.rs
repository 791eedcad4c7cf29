//! A small tape around dropout: what it drops, and that the passes are those of the loss it makes.

use super::{Draw, Mask};
use crate::autograd::{Executor, Mode, Tape};
use crate::device::cuda::for_tests;
use crate::device::random::{Philox, Purpose};
use crate::device::{Device, Vector};
use crate::ops::differences::{check_gradient, check_product};
use crate::ops::{Scale, mix::Term};

fn draw(number: u64) -> Draw {
    Draw {
        rate: 0.4,
        philox: Philox::new(5, Purpose::Dropout),
        number,
    }
}

/// images → conv (3 → 5) → x; y = x + dropout(x); classifier.
fn executor() -> Executor {
    executor_of(5, Device::Cpu)
}

/// The same of `channels` channels on `device`.
fn executor_of(channels: usize, device: Device) -> Executor {
    let mut tape = Tape::new(2, 2, 4);
    let weight = tape.weight(3 * channels);
    let images = tape.images;
    let x = tape.conv(images, (1, 1), channels, false, false, (weight, None));
    let dropped = tape.dropout(x);
    let y = tape.activation([2, 4], channels, false);
    let term = |input| Term {
        input,
        scale: Scale::One,
    };
    tape.mix(vec![term(x), term(dropped)], None, y);
    let (weight, bias) = (tape.weight(channels * 3), tape.weight(3));
    tape.classifier(y, true, weight, bias);
    tape.finish();
    let mut executor = Executor::new(tape, device);
    let images: Vec<f32> = (0..48).map(|i| (i as f32 * 0.7).sin()).collect();
    executor.load(&images, &[0, 2]).unwrap();
    executor
}

fn theta() -> Vec<f32> {
    wave(33)
}

fn wave(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 1.3).cos()).collect()
}

#[test]
fn a_mask_drops_its_share_keeps_the_mean_and_begins_anywhere() {
    let mut mask = Mask::new(draw(1), 3, 0);
    let all: Vec<f32> = (0..40_000).map(|_| mask.next()).collect();
    let dropped = all.iter().filter(|&&m| m == 0.0).count() as f64 / all.len() as f64;
    assert!((dropped - 0.4).abs() < 0.01, "{dropped}");
    let mean = all.iter().map(|&m| f64::from(m)).sum::<f64>() / all.len() as f64;
    assert!((mean - 1.0).abs() < 0.02, "{mean}");
    for first in [1, 2, 3, 7] {
        let mut mask = Mask::new(draw(1), 3, first);
        assert!(all[first..first + 50].iter().all(|&m| m == mask.next()));
    }
    let mut other = Mask::new(draw(2), 3, 0);
    assert!(all[..50].iter().any(|&m| m != other.next()));
}

#[test]
fn the_gradient_is_that_of_the_loss_with_the_same_elements_dropped() {
    let mut executor = executor();
    executor.set_dropout(Some(draw(1))).unwrap();
    check_gradient(&mut executor, &theta(), 5e-3, 2e-3);
}

#[test]
fn the_product_is_the_derivative_of_the_gradient() {
    let mut executor = executor();
    executor.set_dropout(Some(draw(1))).unwrap();
    check_product(&mut executor, &theta(), 5e-3, 5e-3);
}

#[test]
fn nothing_is_dropped_unless_it_is_asked_for_and_a_draw_is_the_same_twice() {
    let mut executor = executor();
    let theta = theta();
    let mut loss = |draw| {
        executor.set_dropout(draw).unwrap();
        executor.forward(Mode::Evaluate, &theta).unwrap().loss
    };
    let (plain, one, two) = (loss(None), loss(Some(draw(1))), loss(Some(draw(2))));
    assert!(plain != one && one != two);
    assert_eq!(loss(Some(draw(1))), one);
    let none = Draw {
        rate: 0.0,
        ..draw(1)
    };
    assert_eq!(loss(Some(none)), plain);
}

/// Draw after draw through the same recordings.
#[test]
fn the_kernels_drop_what_the_cpu_drops() {
    for channels in [5, 8] {
        let Some(turn) = for_tests() else {
            return;
        };
        let device = Device::Cuda(turn.clone());
        let mut on_device = executor_of(channels, device.clone());
        let mut cpu = executor_of(channels, Device::Cpu);
        let len = cpu.tape().theta_len();
        let (theta, direction) = (wave(len), wave(2 * len)[len..].to_vec());
        let vector = |values: &[f32]| Vector::new(&device, values.to_vec()).unwrap();
        let [t, d, mut g, mut h] = [&theta, &direction, &theta, &theta].map(|x| vector(x));
        let (mut gradient, mut product) = (vec![0.0; len], vec![0.0; len]);
        for draw in [None, Some(draw(1)), Some(draw(2)), None] {
            cpu.set_dropout(draw).unwrap();
            let expected = cpu.forward(Mode::Products, &theta).unwrap();
            cpu.backward(&theta, &mut gradient).unwrap();
            cpu.product(&theta, &direction, &mut product).unwrap();
            on_device.set_dropout(draw).unwrap();
            let found = on_device.forward(Mode::Products, &t).unwrap();
            on_device.backward(&t, &mut g).unwrap();
            on_device.product(&t, &d, &mut h).unwrap();
            assert!((found.loss / expected.loss - 1.0).abs() < 1e-5, "{draw:?}");
            for (expected, found) in [(&gradient, &g), (&product, &h)] {
                let found = found.slice().to_vec().unwrap();
                let off = found.iter().zip(expected).map(|(f, e)| (f - e).powi(2));
                let all = expected.iter().map(|e| e.powi(2)).sum::<f32>();
                assert!(off.sum::<f32>() < 1e-9 * all, "{draw:?}");
            }
        }
    }
}
