//! GDAS: "Searching for a robust neural architecture in four GPU hours" (Dong & Yang, CVPR 2019).
//!
//! Every forward pass draws one op an edge by the Gumbel-max trick and runs that op alone; the gradient
//! goes straight through to the relaxed choice, a Gumbel softmax of temperature τ:
//!
//! ```text
//! p = softmax((α + g)/τ)     g = −ln(−ln u), u ~ U(0, 1)     c = onehot(argmax p)
//! ᾱ = p ∘ (c̄ − Σ p·c̄)/τ
//! ```
//!
//! (The paper's log softmax of α differs from α by a constant of the edge, which softmax does not see.)
//! τ falls from 10 to 0.1 over the epochs, linearly. The adjoint c̄ of an op that did not run is zero; the
//! official code adds such an op's weight as a bare number, so that its c̄ is Σ ȳ, which the paper does not
//! have.

use super::{
    Draw, Method, Moment, Numbers, OwnSetting, Step, Stepped, Strategy, StrategyKind, Weighting,
    first_maximum, rng, take_turns,
};
use crate::device::random::PhiloxRng;
use crate::device::{SliceMut, Vector};
use crate::ops::relax::{Relaxation, softmax};
use crate::space::Space;
use rand::RngExt;

/// GDAS as published.
pub const METHOD: Method = Method {
    spaces: &[Space::Darts, Space::NasBench201],
    relaxation: Relaxation::Given,
    options: &[
        OwnSetting {
            name: "tau-start",
            about: "temperature of the Gumbel softmax in the first epoch",
            default: [10.0; 2],
            range: [1e-3, 1e3],
            whole: false,
        },
        OwnSetting {
            name: "tau-end",
            about: "temperature in the last epoch",
            default: [0.1; 2],
            range: [1e-3, 1e3],
            whole: false,
        },
    ],
    defaults: take_turns,
    make: |settings| {
        let own = |name| StrategyKind::Gdas.option(settings, name);
        Box::new(Gdas {
            ops: settings.space.op_names().len(),
            seed: settings.seed,
            tau: [own("tau-start"), own("tau-end")],
            gradient: Vector::empty(),
        })
    },
};

/// See the module.
struct Gdas {
    ops: usize,
    seed: u64,
    tau: [f64; 2],
    gradient: Vector,
}

/// One draw: p, and the op of each edge.
struct Sample {
    soft: Vec<f32>,
    chosen: Vec<Option<usize>>,
}

impl Gdas {
    /// τ of an epoch.
    fn tau(&self, moment: Moment) -> f64 {
        let [start, end] = self.tau;
        start + (end - start) * moment.progress()
    }

    fn draw(&self, draw: Draw, moment: Moment, alpha: &[f32]) -> Sample {
        let mut rng = rng(self.seed, draw, moment.number);
        sample(alpha, self.ops, self.tau(moment), || gumbel(&mut rng))
    }
}

/// A number of the standard Gumbel distribution.
fn gumbel(rng: &mut PhiloxRng) -> f64 {
    let u: f64 = rng.random();
    // 1 − u lies in (0, 1]; its logarithm is zero once in 2⁵³ draws.
    let exponential = -(1.0 - u).ln();
    -exponential.max(f64::MIN_POSITIVE).ln()
}

/// p and its largest elements, for the Gumbel numbers that `gumbel` gives.
fn sample(alpha: &[f32], ops: usize, tau: f64, mut gumbel: impl FnMut() -> f64) -> Sample {
    let mut soft = vec![0.0; alpha.len()];
    let mut chosen = Vec::with_capacity(alpha.len() / ops);
    for (row, alpha) in soft.chunks_exact_mut(ops).zip(alpha.chunks_exact(ops)) {
        let noisy: Vec<f64> = alpha.iter().map(|&a| f64::from(a) + gumbel()).collect();
        let cold: Vec<f32> = noisy.iter().map(|&a| (a / tau) as f32).collect();
        softmax(&cold, row);
        // The largest before softmax rounds: the same, but without ties.
        chosen.push(Some(first_maximum(&noisy)));
    }
    Sample { soft, chosen }
}

/// ᾱ of c̄, through the softmax p of temperature τ.
pub(super) fn straight_through(soft: &[f32], bar: &[f32], ops: usize, tau: f64) -> Vec<f32> {
    let rows = soft.chunks_exact(ops).zip(bar.chunks_exact(ops));
    let row = |(p, bar): (&[f32], &[f32])| -> Vec<f32> {
        let pairs = p.iter().zip(bar);
        let mean: f64 = pairs.map(|(&p, &c)| f64::from(p) * f64::from(c)).sum();
        let of = |(&p, &c): (&f32, &f32)| (f64::from(p) * (f64::from(c) - mean) / tau) as f32;
        p.iter().zip(bar).map(of).collect()
    };
    rows.flat_map(row).collect()
}

impl Strategy for Gdas {
    fn weigh(&mut self, moment: Moment, alpha: &[f32]) -> Option<Weighting> {
        let sample = self.draw(Draw::Weights, moment, alpha);
        Some(Weighting::of_chosen(&sample.chosen, self.ops))
    }

    /// The likeliest op of each edge.
    fn shown(&self, alpha: &[f32]) -> Option<Weighting> {
        let rows = alpha.chunks_exact(self.ops);
        let chosen: Vec<_> = rows.map(|row| Some(first_maximum(row))).collect();
        Some(Weighting::of_chosen(&chosen, self.ops))
    }

    fn architecture_step(
        &mut self,
        mut step: Step,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Stepped> {
        let (moment, ops) = (step.moment, self.ops);
        let sample = self.draw(Draw::Architecture, moment, step.alpha);
        let weighting = Weighting::of_chosen(&sample.chosen, ops);
        let (validation, bar) = step.loss_and_adjoint(&weighting, &mut self.gradient)?;
        let tau = self.tau(moment);
        let (running, entries) = step.executor.entries();
        let numbers: Numbers = vec![
            ("tau", tau),
            ("entries-run", running as f64 / entries as f64),
        ];
        Stepped::following(
            &straight_through(&sample.soft, &bar, ops, tau),
            alpha_gradient,
            validation,
            numbers,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gdas() -> Gdas {
        Gdas {
            ops: 4,
            seed: 3,
            tau: [10.0, 0.1],
            gradient: Vector::empty(),
        }
    }

    fn moment(number: u64, epoch: usize) -> Moment {
        Moment {
            number,
            epoch,
            epochs: 5,
        }
    }

    #[test]
    fn a_draw_runs_exactly_one_op_an_edge_at_weight_one() {
        let alpha = [0.3, -0.2, 0.1, 0.9, 0.0, 0.0, 5.0, 0.0];
        for number in 0..100 {
            let weighting = gdas().weigh(moment(number, 0), &alpha).unwrap();
            for (values, active) in weighting.values.chunks(4).zip(weighting.active.chunks(4)) {
                assert_eq!(values.iter().sum::<f32>(), 1.0);
                assert_eq!(active.iter().filter(|&&active| active).count(), 1);
                assert!(values.iter().zip(active).all(|(&v, &a)| a == (v == 1.0)));
            }
        }
    }

    #[test]
    fn ops_are_drawn_as_often_as_their_softmax_says_whatever_the_temperature() {
        let alpha = [0.0, 1.0, 2.0, -1.0];
        let mut expected = [0.0; 4];
        softmax(&alpha, &mut expected);
        for epoch in [0, 4] {
            let mut counts = [0.0f32; 4];
            for number in 0..4000 {
                let sample = gdas().draw(Draw::Weights, moment(number, epoch), &alpha);
                counts[sample.chosen[0].unwrap()] += 1.0 / 4000.0;
            }
            for (count, expected) in counts.iter().zip(expected) {
                assert!((count - expected).abs() < 0.03, "{counts:?}");
            }
        }
    }

    #[test]
    fn the_temperature_falls_from_ten_to_a_tenth_linearly() {
        let tau = |epoch| gdas().tau(moment(0, epoch));
        assert!((tau(0) - 10.0).abs() < 1e-12 && (tau(4) - 0.1).abs() < 1e-12);
        assert!((tau(2) - 5.05).abs() < 1e-12);
    }

    #[test]
    fn the_gradient_is_that_of_the_relaxed_choice_at_the_same_noise() {
        let alpha = [0.3f32, -0.2, 0.1, 0.9, 0.4, 0.0, -1.0, 0.2];
        // As c̄ is after a pass: zero but for the op that ran.
        let bar = [0.0f32, 0.7, 0.0, 0.0, 0.0, 0.0, 0.0, -1.3];
        let tau = 0.7;
        let value = |alpha: &[f32]| -> f64 {
            let mut rng = rng(5, Draw::Weights, 0);
            let soft = sample(alpha, 4, tau, || gumbel(&mut rng)).soft;
            let pairs = soft.iter().zip(&bar);
            pairs.map(|(&p, &c)| f64::from(p) * f64::from(c)).sum()
        };
        let mut draw = rng(5, Draw::Weights, 0);
        let soft = sample(&alpha, 4, tau, || gumbel(&mut draw)).soft;
        let gradient = straight_through(&soft, &bar, 4, tau);
        for (i, &found) in gradient.iter().enumerate() {
            let at = |step: f32| {
                let mut moved = alpha;
                moved[i] += step;
                value(&moved)
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!(
                (slope - f64::from(found)).abs() < 2e-4,
                "{i}: {slope} and {found}"
            );
        }
    }
}
