//! P-DARTS: "Progressive differentiable architecture search: bridging the depth gap between search and
//! evaluation" (Chen, Xie, Wu & Tian, ICCV 2019).
//!
//! Three stages. Each trains a deeper supernet than the one before, of ops that are fewer, with weights, α
//! and optimisers that begin anew:
//!
//! - **Depth.** 5, 11 and 17 cells: `--cells` L is the first stage's depth, and each stage adds 1.2·L
//!   (`depth-added`), so a small L keeps the published proportions: 3, 7 and 10.
//! - **Ops.** 8, 5 and 3 an edge: at the end of a stage an edge keeps the ops of the largest softmax(α). Of
//!   the others nothing is recorded.
//! - **Dropout** behind each skip connection of stride 1, lest shallow supernets prefer skips: in a stage of
//!   E epochs, of which α is held in the first F, the rate p falls in epoch e (of that stage, from 0) as
//!   p·(E − 1 − e)/E and then p·exp(−3·(e − F)/(E − F)). Published are E = 25, F = 10 and a decay of 0.2 an
//!   epoch, which is 3 over the last 15 epochs; shorter stages fall as far. p is 0, 0.4 and 0.7, the
//!   paper's for CIFAR-10 (the official code's example begins with 0.1).
//! - **At most two skip connections** in the normal cell: while it has more, the softmax of the weakest
//!   of them is set to zero and the cell derived again.
//!
//! dα is of first order, of the supernet with its dropout. `--epochs` are those of all stages together.

use super::{
    Design, Method, Moment, OwnSetting, Step, Stepped, Strategy, StrategyKind, Weighting,
    check_state, epochs_of, stage_of, take_turns,
};
use crate::device::random::{Philox, Purpose};
use crate::device::{Device, SliceMut, Vector};
use crate::network::Variant;
use crate::ops::dropout::Draw;
use crate::ops::relax::{Relaxation, softmax};
use crate::search::settings::SearchSettings;
use crate::space::{
    DARTS_CANDIDATES, DartsGenotype, DartsOp, Genotype, GenotypeOp, Space, strongest,
};
use anyhow::ensure;
use std::ops::Range;

const OPS: usize = DartsOp::ALL.len();
const STAGES: usize = 3;
/// Most cells of a supernet.
const MOST_CELLS: usize = 100;

/// A setting of numbers from 0 to `most`.
const fn own(name: &'static str, about: &'static str, default: f64, most: f64) -> OwnSetting {
    OwnSetting {
        name,
        about,
        default: [default; 2],
        range: [0.0, most],
        whole: false,
    }
}

/// A count of ops that an edge keeps: three at the least, so that one is neither `none` nor a skip.
const fn kept(name: &'static str, about: &'static str, default: f64) -> OwnSetting {
    OwnSetting {
        range: [3.0, OPS as f64],
        whole: true,
        ..own(name, about, default, 0.0)
    }
}

/// P-DARTS as published.
pub const METHOD: Method = Method {
    spaces: &[Space::Darts],
    relaxation: Relaxation::Given,
    options: &[
        own(
            "depth-added",
            "cells that each stage adds, in parts of --cells",
            1.2,
            10.0,
        ),
        kept("ops-2", "ops an edge of the second stage", 5.0),
        kept("ops-3", "ops an edge of the third stage", 3.0),
        own(
            "dropout-1",
            "first dropout rate of the first stage",
            0.0,
            0.95,
        ),
        own(
            "dropout-2",
            "first dropout rate of the second stage",
            0.4,
            0.95,
        ),
        own(
            "dropout-3",
            "first dropout rate of the third stage",
            0.7,
            0.95,
        ),
        own(
            "dropout-decay",
            "the rate ends a stage at exp(−decay) of its first",
            3.0,
            100.0,
        ),
        own("held", "part of a stage in which α is held", 0.4, 0.95),
        OwnSetting {
            whole: true,
            ..own(
                "skips",
                "most skip connections in the normal cell",
                2.0,
                8.0,
            )
        },
    ],
    defaults: |settings: &mut SearchSettings| {
        take_turns(settings);
        settings.epochs = settings.epochs * 3 / 2;
        settings.cells = settings.cells.min(5);
        settings.batch = settings.batch * 3 / 2;
        settings.lr_min = 0.0;
        settings.arch_lr = settings.arch_lr.max(6e-4);
    },
    make: |settings| {
        let own = |name| StrategyKind::PDarts.option(settings, name);
        let edges: usize = settings.space.alphas().iter().map(|m| m.edges).sum();
        Box::new(PDarts {
            depth_added: own("depth-added"),
            ops: [OPS, own("ops-2") as usize, own("ops-3") as usize],
            dropout: [own("dropout-1"), own("dropout-2"), own("dropout-3")],
            decay: own("dropout-decay"),
            held: own("held"),
            skips: own("skips") as usize,
            epochs: settings.epochs,
            philox: Philox::new(settings.seed, Purpose::Dropout),
            stage: 0,
            kept: vec![true; edges * OPS],
            gradient: Vector::empty(),
        })
    },
};

/// See the module.
struct PDarts {
    depth_added: f64,
    ops: [usize; STAGES],
    dropout: [f64; STAGES],
    decay: f64,
    held: f64,
    skips: usize,
    epochs: usize,
    philox: Philox,
    stage: usize,
    /// Ops that the stage's edges have, in α's order.
    kept: Vec<bool>,
    gradient: Vector,
}

/// Softmax of each edge's kept α; the others are zero.
fn kept_softmax(alpha: &[f32], kept: &[bool]) -> Vec<f32> {
    let mut weights = vec![0.0; alpha.len()];
    let edges = alpha.chunks_exact(OPS).zip(kept.chunks_exact(OPS));
    for (row, (alpha, kept)) in weights.chunks_exact_mut(OPS).zip(edges) {
        let masked = alpha.iter().zip(kept);
        let masked: Vec<f32> = masked
            .map(|(&a, &kept)| if kept { a } else { f32::NEG_INFINITY })
            .collect();
        softmax(&masked, row);
    }
    weights
}

/// The `count` ops of each edge whose weight is largest, of those that it has; of equals the first.
fn strongest_ops(weights: &[f32], kept: &[bool], count: usize) -> Vec<bool> {
    let mut still = vec![false; kept.len()];
    let edges = weights.chunks_exact(OPS).zip(kept.chunks_exact(OPS));
    for (still, (weights, kept)) in still.chunks_exact_mut(OPS).zip(edges) {
        let mut ops: Vec<usize> = (0..OPS).filter(|&op| kept[op]).collect();
        ops.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
        for &op in ops.iter().take(count) {
            still[op] = true;
        }
    }
    still
}

/// The normal cell of op weights `[14, 8]` with at most `most` skip connections.
fn with_few_skips(mut weights: Vec<f32>, most: usize) -> Vec<(GenotypeOp, usize)> {
    loop {
        let cell = strongest(&weights, &DARTS_CANDIDATES);
        let skips = cell
            .iter()
            .filter(|edge| edge.op == GenotypeOp::SkipConnect);
        let weakest = skips.clone().min_by(|a, b| a.weight.total_cmp(&b.weight));
        match weakest {
            Some(skip) if skips.count() > most => {
                weights[skip.edge * OPS + DartsOp::SkipConnect.index()] = 0.0;
            }
            _ => return cell.iter().map(|e| (e.op, e.from)).collect(),
        }
    }
}

/// ᾱ of c̄, through the softmax c.
fn alpha_gradient(weights: &[f32], bar: &[f32]) -> Vec<f32> {
    super::gdas::straight_through(weights, bar, OPS, 1.0)
}

impl PDarts {
    /// Epochs of α held in a stage of so many.
    fn held_of(&self, epochs: usize) -> usize {
        (self.held * epochs as f64) as usize
    }

    fn cells(&self, first: usize, stage: usize) -> usize {
        (first as f64 * (1.0 + self.depth_added * stage as f64)).round() as usize
    }

    /// The dropout rate of an epoch.
    fn rate(&self, epoch: usize) -> f64 {
        let stage = stage_of(epoch, STAGES, self.epochs);
        let of_stage = epochs_of(stage, STAGES, self.epochs);
        let (length, at) = (of_stage.len(), epoch - of_stage.start);
        let held = self.held_of(length);
        self.dropout[stage]
            * if at < held {
                (length - 1 - at) as f64 / length as f64
            } else {
                (-self.decay * (at - held) as f64 / (length - held) as f64).exp()
            }
    }

    /// What is dropped in a weight step, or in an architecture step (`odd`).
    fn draw(&self, moment: Moment, odd: u64) -> Option<Draw> {
        let rate = self.rate(moment.epoch) as f32;
        (rate > 0.0).then_some(Draw {
            rate,
            philox: self.philox,
            number: 2 * moment.number + odd,
        })
    }

    fn weights(&self, alpha: &[f32]) -> Vec<f32> {
        kept_softmax(alpha, &self.kept)
    }
}

impl Strategy for PDarts {
    fn check(&self, settings: &SearchSettings) -> Result<(), (&'static str, String)> {
        if settings.epochs < STAGES {
            let found = settings.epochs;
            return Err((
                "epochs",
                format!(
                    "expected at least {STAGES}, one for each stage of strategy p-darts, found {found}"
                ),
            ));
        }
        let deepest = self.cells(settings.cells, STAGES - 1);
        if deepest > MOST_CELLS {
            return Err((
                "cells",
                format!(
                    "expected so few that the last stage of strategy p-darts has at most {MOST_CELLS}, found \
                     {}, which makes {deepest}",
                    settings.cells
                ),
            ));
        }
        if self.ops[2] > self.ops[1] {
            return Err((
                "option",
                format!(
                    "expected ops-3 to be at most ops-2, {}, found {}",
                    self.ops[1], self.ops[2]
                ),
            ));
        }
        Ok(())
    }

    fn design(&self, settings: &SearchSettings) -> Design {
        Design {
            cells: self.cells(settings.cells, self.stage),
            variant: Variant {
                relaxation: METHOD.relaxation,
                kept: self.kept.clone(),
                dropout: self.dropout[self.stage] > 0.0,
                ..Variant::default()
            },
            stage: self.stage as u64,
        }
    }

    fn begin_epoch(&mut self, epoch: usize, alpha: &[f32]) {
        let stage = stage_of(epoch, STAGES, self.epochs);
        if stage > self.stage {
            self.kept = strongest_ops(&self.weights(alpha), &self.kept, self.ops[stage]);
            self.stage = stage;
        }
    }

    fn stage(&self, epoch: usize, epochs: usize) -> Range<usize> {
        epochs_of(stage_of(epoch, STAGES, epochs), STAGES, epochs)
    }

    fn holds(&self, epoch: usize, epochs: usize) -> bool {
        let stage = self.stage(epoch, epochs);
        epoch - stage.start < self.held_of(stage.len())
    }

    fn weigh(&mut self, moment: Moment, alpha: &[f32]) -> Option<Weighting> {
        Some(Weighting {
            dropout: self.draw(moment, 0),
            ..Weighting::of_all(self.weights(alpha))
        })
    }

    fn shown(&self, alpha: &[f32]) -> Option<Weighting> {
        Some(Weighting::of_all(self.weights(alpha)))
    }

    fn architecture_step(
        &mut self,
        mut step: Step,
        alpha_gradient_out: SliceMut,
    ) -> anyhow::Result<Stepped> {
        let values = self.weights(step.alpha);
        let weighting = Weighting {
            dropout: self.draw(step.moment, 1),
            ..Weighting::of_all(values.clone())
        };
        let (validation, bar) = step.loss_and_adjoint(&weighting, &mut self.gradient)?;
        let rate = self.rate(step.moment.epoch);
        Stepped::following(
            &alpha_gradient(&values, &bar),
            alpha_gradient_out,
            validation,
            vec![("stage", self.stage as f64 + 1.0), ("dropout", rate)],
        )
    }

    fn genotype(&self, _: Space, alphas: &[(&str, &[f32])]) -> Genotype {
        let [normal, reduce] = [0, 1].map(|matrix| {
            let edges = alphas[matrix].1.len();
            let kept = &self.kept[matrix * edges..(matrix + 1) * edges];
            kept_softmax(alphas[matrix].1, kept)
        });
        let reduce = strongest(&reduce, &DARTS_CANDIDATES).into_iter();
        Genotype::Darts(DartsGenotype::of_cells(
            with_few_skips(normal, self.skips),
            reduce.map(|edge| (edge.op, edge.from)).collect(),
        ))
    }

    fn op_weights(&self, _: usize, alpha: &[f32]) -> Vec<f32> {
        self.weights(alpha)
    }

    /// The stage, and a flag an op.
    fn state(&self) -> anyhow::Result<Vec<f32>> {
        let kept = self.kept.iter().map(|&kept| f32::from(kept));
        Ok([self.stage as f32].into_iter().chain(kept).collect())
    }

    fn restore(&mut self, _: &Device, state: &[f32]) -> anyhow::Result<()> {
        check_state(state, 1 + self.kept.len())?;
        let stage = (0..STAGES).find(|&stage| stage as f32 == state[0]);
        let rows = state[1..].chunks_exact(OPS);
        let whole = |ops: usize| {
            let flags = state[1..].iter().all(|&flag| flag == 0.0 || flag == 1.0);
            flags
                && rows
                    .clone()
                    .all(|row| row.iter().sum::<f32>() == ops as f32)
        };
        let stage = stage.filter(|&stage| whole(self.ops[stage]));
        ensure!(
            stage.is_some(),
            "checkpoint: optimizer tensor `strategy`: expected a stage of p-darts and the ops of each edge, \
             found other numbers"
        );
        self.stage = stage.unwrap_or_default();
        self.kept = state[1..].iter().map(|&flag| flag == 1.0).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: usize = 28;

    fn p_darts(epochs: usize) -> PDarts {
        PDarts {
            depth_added: 1.2,
            ops: [8, 5, 3],
            dropout: [0.0, 0.4, 0.7],
            decay: 3.0,
            held: 0.4,
            skips: 2,
            epochs,
            philox: Philox::new(1, Purpose::Dropout),
            stage: 0,
            kept: vec![true; EDGES * OPS],
            gradient: Vector::empty(),
        }
    }

    #[test]
    fn each_stage_is_deeper_and_keeps_the_strongest_ops_of_the_one_before() {
        let mut strategy = p_darts(75);
        assert_eq!([0, 1, 2].map(|stage| strategy.cells(5, stage)), [5, 11, 17]);
        let alpha: Vec<f32> = (0..EDGES * OPS).map(|i| (i as f32 * 0.7).sin()).collect();
        strategy.begin_epoch(24, &alpha);
        assert!(strategy.stage == 0 && strategy.kept.iter().all(|&kept| kept));
        strategy.begin_epoch(25, &alpha);
        assert_eq!(strategy.stage, 1);
        // The largest of the second stage is among those that the first one dropped: it stays away.
        let mut later = alpha.clone();
        let dropped = strategy.kept.iter().position(|&kept| !kept).unwrap();
        later[dropped] = 9.0;
        let before = strategy.kept.clone();
        strategy.begin_epoch(50, &later);
        assert_eq!(strategy.stage, 2);
        let stages = [(&before, 5), (&strategy.kept, 3)];
        for (kept, count) in stages {
            for (kept, alpha) in kept.chunks_exact(OPS).zip(alpha.chunks_exact(OPS)) {
                assert_eq!(kept.iter().filter(|&&kept| kept).count(), count);
                let of = |which: bool| {
                    let pairs = kept.iter().zip(alpha);
                    pairs
                        .filter(move |(kept, _)| **kept == which)
                        .map(|(_, a)| *a)
                };
                let least = of(true).fold(f32::INFINITY, f32::min);
                assert!(of(false).all(|a| a < least));
            }
        }
        assert!(!strategy.kept[dropped]);
        let weights = strategy.weights(&alpha);
        for (row, kept) in weights
            .chunks_exact(OPS)
            .zip(strategy.kept.chunks_exact(OPS))
        {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(row.iter().zip(kept).all(|(&c, &kept)| kept == (c > 0.0)));
        }
    }

    #[test]
    fn dropout_falls_as_in_the_official_code_and_alpha_is_held_meanwhile() {
        let strategy = p_darts(75);
        let official = |first: f64, epoch: usize| {
            if epoch < 10 {
                first * (25 - epoch - 1) as f64 / 25.0
            } else {
                first * (-0.2 * (epoch - 10) as f64).exp()
            }
        };
        for epoch in 0..75 {
            let expected = official([0.0, 0.4, 0.7][epoch / 25], epoch % 25);
            assert!((strategy.rate(epoch) - expected).abs() < 1e-12, "{epoch}");
            assert_eq!(strategy.holds(epoch, 75), epoch % 25 < 10, "{epoch}");
            let stage = epoch / 25 * 25;
            assert_eq!(strategy.stage(epoch, 75), stage..stage + 25);
        }
        // Stages of a length that three does not divide, and of a single epoch.
        let covered: Vec<_> = (0..3)
            .flat_map(|stage| epochs_of(stage, STAGES, 8))
            .collect();
        assert_eq!(covered, (0..8).collect::<Vec<_>>());
        assert!((0..3).all(|epoch| !p_darts(3).holds(epoch, 3)));
    }

    #[test]
    fn the_normal_cell_keeps_its_two_strongest_skips() {
        let mut weights = vec![0.01f32; 14 * OPS];
        // Skips win everywhere, and more clearly the later the edge; a pool comes second.
        for (edge, row) in weights.chunks_exact_mut(OPS).enumerate() {
            row[DartsOp::SkipConnect.index()] = 0.5 + 0.01 * edge as f32;
            row[DartsOp::AvgPool3x3.index()] = 0.2;
        }
        let skips = |cell: &[(GenotypeOp, usize)]| {
            let skip = |(op, _): &&(GenotypeOp, usize)| *op == GenotypeOp::SkipConnect;
            cell.iter().filter(skip).count()
        };
        assert_eq!(skips(&with_few_skips(weights.clone(), 8)), 8);
        let cell = with_few_skips(weights.clone(), 2);
        assert_eq!(skips(&cell), 2);
        let last = [(GenotypeOp::SkipConnect, 4), (GenotypeOp::SkipConnect, 3)];
        assert_eq!(cell[6..], last);
        assert!(
            cell[..6]
                .iter()
                .all(|(op, _)| *op == GenotypeOp::AvgPool3x3)
        );
        assert_eq!(skips(&with_few_skips(weights, 0)), 0);
    }

    #[test]
    fn a_checkpoint_of_other_ops_is_refused() {
        let mut strategy = p_darts(75);
        let alpha: Vec<f32> = (0..EDGES * OPS).map(|i| (i as f32 * 0.7).sin()).collect();
        strategy.begin_epoch(25, &alpha);
        let state = strategy.state().unwrap();
        let mut other = p_darts(75);
        other.restore(&Device::Cpu, &state).unwrap();
        assert!((other.stage, &other.kept) == (1, &strategy.kept));
        for (at, value) in [(0, 2.0), (0, 0.5), (1, 0.5), (0, f32::NAN)] {
            let mut bad = state.clone();
            bad[at] = value;
            assert!(other.restore(&Device::Cpu, &bad).is_err(), "{at} {value}");
        }
        assert!(other.restore(&Device::Cpu, &state[1..]).is_err());
    }
}
