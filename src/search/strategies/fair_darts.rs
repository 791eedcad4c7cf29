//! Fair DARTS: "Eliminating unfair advantages in differentiable architecture search" (Chu et al., ECCV 2020).
//!
//! Ops do not compete: each has a sigmoid of its own. A zero–one loss, of weight w = 10 beside L2, drives the
//! sigmoids away from ½ to either end:
//!
//! ```text
//! c = σ(α)     L = L2 − w/N·Σ (σ(α) − ½)²     ᾱ = (c̄ − 2w/N·(c − ½)) ∘ c ∘ (1 − c)
//! ```
//!
//! The published space has no `none`: a small sigmoid says it already. Here its column stays, so that α keeps
//! its shape, but takes part in nothing; N counts the others. A node keeps the two edges whose strongest
//! op is strongest, as DARTS does, and of these only those above σ = 0.85 (`threshold_sparse` of the official
//! code); an edge that falls short is written as `none`.

use super::{
    Judge, Method, Moment, Numbers, OwnSetting, Step, Stepped, Strategy, StrategyKind, Weighting,
    take_turns,
};
use crate::device::{SliceMut, Vector};
use crate::ops::relax::Relaxation;
use crate::search::settings::SearchSettings;
use crate::space::{
    DARTS_CANDIDATES, DartsGenotype, DartsOp, Genotype, GenotypeOp, Space, Strongest, strongest,
};

const OPS: usize = DartsOp::ALL.len();
/// The column that takes no part.
const NONE: usize = DartsOp::None as usize;

/// Fair DARTS as published.
pub const METHOD: Method = Method {
    spaces: &[Space::Darts],
    relaxation: Relaxation::Given,
    options: &[
        OwnSetting {
            name: "zero-one-weight",
            about: "weight of the zero–one loss",
            default: [10.0; 2],
            range: [0.0, 1e6],
            whole: false,
        },
        OwnSetting {
            name: "threshold",
            about: "least sigmoid of an op that the genotype keeps",
            default: [0.85; 2],
            range: [0.0, 1.0],
            whole: false,
        },
    ],
    defaults: |settings: &mut SearchSettings| {
        take_turns(settings);
        settings.arch_lr = settings.arch_lr.max(3e-3);
        settings.arch_beta1 = 0.9;
    },
    make: |settings| {
        let own = |name| StrategyKind::FairDarts.option(settings, name);
        Box::new(FairDarts {
            zero_one_weight: own("zero-one-weight"),
            threshold: own("threshold"),
            gradient: Vector::empty(),
        })
    },
};

/// See the module.
struct FairDarts {
    zero_one_weight: f64,
    threshold: f64,
    gradient: Vector,
}

fn sigmoid(a: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(a)).exp())
}

/// σ of every α but those of `none`, which are zero.
fn sigmoids(alpha: &[f32]) -> Vec<f32> {
    let of = |(i, &a): (usize, &f32)| {
        if i % OPS == NONE {
            0.0
        } else {
            sigmoid(a) as f32
        }
    };
    alpha.iter().enumerate().map(of).collect()
}

/// Sigmoids that take part.
fn count(alpha: &[f32]) -> f64 {
    (alpha.len() / OPS * (OPS - 1)) as f64
}

/// −1/N·Σ (σ(α) − ½)²
fn zero_one_loss(alpha: &[f32]) -> f64 {
    let taking_part = alpha.iter().enumerate().filter(|(i, _)| i % OPS != NONE);
    let sum: f64 = taking_part.map(|(_, &a)| (sigmoid(a) - 0.5).powi(2)).sum();
    -sum / count(alpha)
}

/// ᾱ of c̄, with the zero–one loss of the given weight.
fn alpha_gradient_of(alpha: &[f32], bar: &[f32], weight: f64) -> Vec<f32> {
    let pull = 2.0 * weight / count(alpha);
    let of = |(i, (&a, &bar)): (usize, (&f32, &f32))| {
        if i % OPS == NONE {
            return 0.0;
        }
        let c = sigmoid(a);
        ((f64::from(bar) - pull * (c - 0.5)) * c * (1.0 - c)) as f32
    };
    alpha.iter().zip(bar).enumerate().map(of).collect()
}

impl Strategy for FairDarts {
    fn weigh(&mut self, _: Moment, alpha: &[f32]) -> Option<Weighting> {
        Some(Weighting::of_all(sigmoids(alpha)))
    }

    fn shown(&self, alpha: &[f32]) -> Option<Weighting> {
        Some(Weighting::of_all(sigmoids(alpha)))
    }

    fn architecture_step(
        &mut self,
        mut step: Step,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Stepped> {
        let weighting = Weighting::of_all(sigmoids(step.alpha));
        let (validation, bar) = step.loss_and_adjoint(&weighting, &mut self.gradient)?;
        let gradient = alpha_gradient_of(step.alpha, &bar, self.zero_one_weight);
        Stepped::following(
            &gradient,
            alpha_gradient,
            validation,
            vec![("zero-one-loss", zero_one_loss(step.alpha))],
        )
    }

    fn end_epoch(&mut self, _: &mut Judge, _: Moment, alpha: &[f32]) -> anyhow::Result<Numbers> {
        let above = |c: &&f32| f64::from(**c) >= self.threshold;
        let kept = sigmoids(alpha).iter().filter(above).count();
        Ok(vec![("ops-above-threshold", kept as f64)])
    }

    fn genotype(&self, _: Space, alphas: &[(&str, &[f32])]) -> Genotype {
        let of = |matrix: usize| cell(&sigmoids(alphas[matrix].1), self.threshold);
        Genotype::Darts(DartsGenotype::of_cells(of(0), of(1)))
    }

    fn op_weights(&self, _: usize, alpha: &[f32]) -> Vec<f32> {
        sigmoids(alpha)
    }
}

/// The cell of sigmoids `[14, 8]`: two edges a node, strongest first, each with its strongest op or, below the
/// threshold, with `none`.
fn cell(sigmoids: &[f32], threshold: f64) -> Vec<(GenotypeOp, usize)> {
    let keep = |edge: Strongest| {
        if f64::from(edge.weight) >= threshold {
            (edge.op, edge.from)
        } else {
            (GenotypeOp::None, edge.from)
        }
    };
    strongest(sigmoids, &DARTS_CANDIDATES)
        .into_iter()
        .map(keep)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALPHAS: usize = 14 * OPS;

    #[test]
    fn sigmoids_do_not_compete() {
        let mut alpha = vec![0.1f32; ALPHAS];
        let before = sigmoids(&alpha);
        alpha[3] = 9.0;
        let after = sigmoids(&alpha);
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!(i == 3, before != after, "{i}");
        }
        // And no gradient of one op's weight reaches another's α.
        let mut bar = vec![0.0; ALPHAS];
        bar[3] = 1.0;
        let gradient = alpha_gradient_of(&alpha, &bar, 0.0);
        assert!(
            gradient
                .iter()
                .enumerate()
                .all(|(i, &g)| (i == 3) == (g != 0.0))
        );
    }

    #[test]
    fn the_gradient_is_that_of_both_losses() {
        let alpha: Vec<f32> = (0..ALPHAS).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
        let bar: Vec<f32> = (0..ALPHAS).map(|i| (i as f32 * 1.3).cos()).collect();
        let weight = 10.0;
        let value = |alpha: &[f32]| -> f64 {
            let c = sigmoids(alpha);
            let pairs = c.iter().zip(&bar);
            let linear: f64 = pairs.map(|(&c, &b)| f64::from(c) * f64::from(b)).sum();
            linear + weight * zero_one_loss(alpha)
        };
        let gradient = alpha_gradient_of(&alpha, &bar, weight);
        for i in (0..ALPHAS).step_by(5) {
            let at = |step: f32| {
                let mut moved = alpha.clone();
                moved[i] += step;
                value(&moved)
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[i])).abs() < 1e-4, "{i}");
        }
    }

    #[test]
    fn the_zero_one_loss_drives_sigmoids_apart() {
        let alpha = [0.2f32, 0.2, -0.2, 3.0, -3.0, 0.0, 0.1, -0.1].repeat(14);
        let gradient = alpha_gradient_of(&alpha, &vec![0.0; ALPHAS], 10.0);
        assert_eq!(gradient[NONE], 0.0);
        // A step against the gradient moves α away from zero.
        let away = |i: usize| -gradient[i] * alpha[i] > 0.0;
        assert!([1, 2, 3, 4, 6, 7].into_iter().all(away) && gradient[5] == 0.0);
    }

    #[test]
    fn a_node_keeps_at_most_two_edges_and_none_below_the_threshold() {
        let mut sigmoids = vec![0.1f32; ALPHAS];
        // Node 1 has rows 2 to 4: three strong edges, of which the two strongest stay.
        sigmoids[2 * OPS + 4] = 0.9;
        sigmoids[3 * OPS + 5] = 0.99;
        sigmoids[4 * OPS + 6] = 0.95;
        // Node 2 has rows 5 to 8: one edge above the threshold, and a `none` that counts for nothing.
        sigmoids[5 * OPS + 3] = 0.86;
        sigmoids[6 * OPS + 4] = 0.84;
        sigmoids[7 * OPS + NONE] = 1.0;
        let cell = cell(&sigmoids, 0.85);
        assert_eq!(cell.len(), 8);
        let none = |from| (GenotypeOp::None, from);
        assert_eq!(cell[..2], [none(0), none(1)]);
        let expected = [(GenotypeOp::SepConv5x5, 1), (GenotypeOp::DilConv3x3, 2)];
        assert_eq!(cell[2..4], expected);
        assert_eq!(cell[4..6], [(GenotypeOp::SkipConnect, 0), none(1)]);
    }
}
