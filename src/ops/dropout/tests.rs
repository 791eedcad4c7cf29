//! A small tape around dropout: what it drops, and that the passes are those of the loss it makes.

use super::{Draw, Mask};
use crate::autograd::{Executor, Mode, Tape};
use crate::device::Device;
use crate::device::random::{Philox, Purpose};
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
    let mut tape = Tape::new(2, 2, 4);
    let weight = tape.weight(3 * 5);
    let images = tape.images;
    let x = tape.conv(images, (1, 1), 5, false, false, (weight, None));
    let dropped = tape.dropout(x);
    let y = tape.activation([2, 4], 5, false);
    let term = |input| Term {
        input,
        scale: Scale::One,
    };
    tape.mix(vec![term(x), term(dropped)], None, y);
    let (weight, bias) = (tape.weight(5 * 3), tape.weight(3));
    tape.classifier(y, true, weight, bias);
    tape.finish();
    let mut executor = Executor::new(tape, Device::Cpu);
    let images: Vec<f32> = (0..48).map(|i| (i as f32 * 0.7).sin()).collect();
    executor.load(&images, &[0, 2]).unwrap();
    executor
}

fn theta() -> Vec<f32> {
    (0..33).map(|i| (i as f32 * 1.3).cos()).collect()
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
    let theta = theta();
    let mut gradient = vec![0.0; theta.len()];
    executor.forward(Mode::Gradient, &theta).unwrap();
    executor.backward(&theta, &mut gradient).unwrap();
    for (i, &expected) in gradient.iter().enumerate() {
        let mut at = |step: f32| {
            let mut moved = theta.clone();
            moved[i] += step;
            executor.forward(Mode::Gradient, &moved).unwrap().loss
        };
        let slope = (at(5e-3) - at(-5e-3)) / 1e-2;
        assert!(
            (slope - f64::from(expected)).abs() < 2e-3,
            "{i}: {slope} and {expected}"
        );
    }
}

#[test]
fn the_product_is_the_derivative_of_the_gradient() {
    let mut executor = executor();
    executor.set_dropout(Some(draw(1))).unwrap();
    let (theta, direction) = (theta(), vec![0.5; 33]);
    let (mut gradient, mut product) = (vec![0.0; 33], vec![0.0; 33]);
    executor.forward(Mode::Products, &theta).unwrap();
    executor.backward(&theta, &mut gradient).unwrap();
    executor.product(&theta, &direction, &mut product).unwrap();
    let mut at = |step: f32| {
        let moved: Vec<f32> = theta.iter().map(|t| t + step * 0.5).collect();
        let mut gradient = vec![0.0; 33];
        executor.forward(Mode::Gradient, &moved).unwrap();
        executor.backward(&moved, &mut gradient).unwrap();
        gradient
    };
    let (up, down) = (at(5e-3), at(-5e-3));
    for (i, ((up, down), expected)) in up.iter().zip(&down).zip(&product).enumerate() {
        let slope = (up - down) / 1e-2;
        assert!(
            (slope - expected).abs() < 5e-3,
            "{i}: {slope} and {expected}"
        );
    }
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
