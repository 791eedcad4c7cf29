//! REINFORCE (Williams 1992; as Zoph & Le, ICLR 2017, search, without the recurrent controller) over weights
//! that are shared.
//!
//! The policy π is the softmax of α, an op an edge and independent of the others. A weight step trains what
//! the policy draws. An architecture step draws again, takes the accuracy on the validation batch, by the
//! shared weights, as reward R, and follows
//!
//! ```text
//! ᾱ = (R − b)·(π − onehot(drawn))        b: moving average of the rewards
//! ```
//!
//! Adam at 0.01 without decay and momentum 0.9 of the baseline are those of Dong & Yang 2020, whose REINFORCE
//! searches a table (`--table`); there is no published one over shared weights.

use super::{
    Draw, Method, Moment, OwnSetting, Step, Stepped, Strategy, StrategyKind, Weighting,
    check_state, first_maximum, rng, softmax_rows, take_turns,
};
use crate::device::random::PhiloxRng;
use crate::device::{Device, SliceMut};
use crate::ops::relax::Relaxation;
use crate::search::settings::SearchSettings;
use crate::search::tabular::reinforce::{Baseline, draw};
use crate::space::Space;

/// REINFORCE as published on the benchmark.
pub const METHOD: Method = Method {
    spaces: &[Space::Darts, Space::NasBench201],
    relaxation: Relaxation::Given,
    options: &[
        OwnSetting {
            name: "baseline-momentum",
            about: "momentum of the moving average of rewards",
            default: [0.9; 2],
            range: [0.0, 0.999_999],
            whole: false,
        },
        OwnSetting {
            name: "samples",
            about: "architectures drawn in an architecture step",
            default: [1.0; 2],
            range: [1.0, 1e4],
            whole: true,
        },
    ],
    defaults: |settings: &mut SearchSettings| {
        take_turns(settings);
        settings.arch_lr = 0.01;
        settings.arch_beta1 = 0.9;
        settings.arch_weight_decay = 0.0;
    },
    make: |settings| {
        let own = |name| StrategyKind::Reinforce.option(settings, name);
        Box::new(Reinforce {
            ops: settings.space.op_names().len(),
            seed: settings.seed,
            samples: own("samples") as usize,
            baseline: Baseline::new(own("baseline-momentum")),
        })
    },
};

/// See the module.
struct Reinforce {
    ops: usize,
    seed: u64,
    samples: usize,
    baseline: Baseline,
}

/// An op an edge, drawn from the policy.
fn draw_all(policy: &[f32], ops: usize, rng: &mut PhiloxRng) -> Vec<Option<usize>> {
    let rows = policy.chunks_exact(ops);
    rows.map(|row| Some(draw(row, rng))).collect()
}

/// Adds (π − onehot)·`advantage` to `gradient`.
fn add_gradient(
    gradient: &mut [f32],
    policy: &[f32],
    chosen: &[Option<usize>],
    ops: usize,
    advantage: f64,
) {
    for (i, (gradient, &p)) in gradient.iter_mut().zip(policy).enumerate() {
        let hit = f64::from(u8::from(chosen[i / ops] == Some(i % ops)));
        *gradient += ((f64::from(p) - hit) * advantage) as f32;
    }
}

/// Mean entropy of the rows, in nats.
fn entropy(policy: &[f32], ops: usize) -> f64 {
    let term = |&p: &f32| match f64::from(p) {
        p if p > 0.0 => -p * p.ln(),
        _ => 0.0,
    };
    policy.iter().map(term).sum::<f64>() / (policy.len() / ops) as f64
}

impl Strategy for Reinforce {
    fn weigh(&mut self, moment: Moment, alpha: &[f32]) -> Option<Weighting> {
        let policy = softmax_rows(self.ops, alpha);
        let mut rng = rng(self.seed, Draw::Weights, moment.number);
        let chosen = draw_all(&policy, self.ops, &mut rng);
        Some(Weighting::of_chosen(&chosen, self.ops))
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
        let (ops, batch) = (self.ops, step.validation.labels.len() as f64);
        let policy = softmax_rows(ops, step.alpha);
        let mut rng = rng(self.seed, Draw::Architecture, step.moment.number);
        let mut gradient = vec![0.0; policy.len()];
        let mut validation = Default::default();
        for _ in 0..self.samples {
            let chosen = draw_all(&policy, ops, &mut rng);
            validation = step.loss(&Weighting::of_chosen(&chosen, ops))?;
            let reward = validation.top1 as f64 / batch;
            let advantage = (reward - self.baseline.update(reward)) / self.samples as f64;
            add_gradient(&mut gradient, &policy, &chosen, ops, advantage);
        }
        self.baseline.round();
        Stepped::following(
            &gradient,
            alpha_gradient,
            validation,
            vec![
                ("policy-entropy", entropy(&policy, ops)),
                ("baseline", self.baseline.value()),
            ],
        )
    }

    fn state(&self) -> anyhow::Result<Vec<f32>> {
        Ok(self.baseline.to_state().to_vec())
    }

    fn restore(&mut self, _: &Device, state: &[f32]) -> anyhow::Result<()> {
        check_state(state, 2)?;
        self.baseline.restore([state[0], state[1]]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_expected_reward() {
        // Two edges of three ops, every pair of ops with a reward of its own: the mean of the gradient over
        // the policy is minus the derivative of the mean reward.
        let alpha = [0.3f32, -0.5, 0.1, 0.7, 0.2, -0.4];
        let reward =
            |a: usize, b: usize| (1.0 + 2.0 * a as f64) * (0.5 + b as f64) - 0.3 * b as f64;
        let pairs = || (0..9).map(|i| (i / 3, i % 3));
        let mean_reward = |alpha: &[f32]| -> f64 {
            let policy = softmax_rows(3, alpha);
            let of = |(a, b)| f64::from(policy[a]) * f64::from(policy[3 + b]) * reward(a, b);
            pairs().map(of).sum()
        };
        let policy = softmax_rows(3, &alpha);
        let mut gradient = [0.0f32; 6];
        for (a, b) in pairs() {
            let probability = f64::from(policy[a]) * f64::from(policy[3 + b]);
            let advantage = probability * (reward(a, b) - 1.7);
            add_gradient(&mut gradient, &policy, &[Some(a), Some(b)], 3, advantage);
        }
        for (i, found) in gradient.iter().enumerate() {
            let at = |step: f32| {
                let mut moved = alpha;
                moved[i] += step;
                mean_reward(&moved)
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!(
                (slope + f64::from(*found)).abs() < 1e-3,
                "{i}: {slope}, {found}"
            );
        }
    }

    #[test]
    fn entropy_is_largest_where_nothing_is_preferred() {
        assert!((entropy(&[0.25; 8], 4) - 4f64.ln()).abs() < 1e-12);
        assert_eq!(entropy(&[0.0, 1.0, 1.0, 0.0], 2), 0.0);
    }
}
