//! SETN: "One-shot neural architecture search via self-evaluated template network" (Dong & Yang, ICCV 2019), as
//! the official code of NAS-Bench-201 searches.
//!
//! A weight step trains one architecture, drawn uniformly, so that every op is trained alike. An architecture
//! step takes the loss of the whole supernet, each op weighed by softmax(α), and its gradient in α. At the
//! end of the search a hundred architectures are drawn from softmax(α) and judged with the shared weights on
//! one validation batch; the best is the answer. (After every other epoch ten are, for an answer to show.)

use super::gdas::straight_through;
use super::random::{BATCHES, CANDIDATES, FINALISTS, Selection};
use super::{
    Architecture, Draw, Judge, Method, Moment, Numbers, Step, Stepped, Strategy, StrategyKind,
    Weighting, check_state, rng, softmax_rows, take_turns,
};
use crate::device::{Device, SliceMut, Vector};
use crate::ops::relax::Relaxation;
use crate::search::tabular::reinforce::draw;
use crate::space::{Genotype, Space};

/// SETN as published.
pub const METHOD: Method = Method {
    spaces: &[Space::NasBench201],
    relaxation: Relaxation::Given,
    options: &[
        CANDIDATES.published(100.0),
        BATCHES.published(1.0),
        FINALISTS.published(0.0),
    ],
    defaults: take_turns,
    make: |settings| {
        Box::new(Setn {
            ops: settings.space.op_names().len(),
            selection: Selection::new(settings, StrategyKind::Setn),
            gradient: Vector::empty(),
        })
    },
};

/// See the module.
struct Setn {
    ops: usize,
    selection: Selection,
    gradient: Vector,
}

impl Strategy for Setn {
    fn weigh(&mut self, moment: Moment, _: &[f32]) -> Option<Weighting> {
        Some(self.selection.uniform(moment))
    }

    fn shown(&self, _: &[f32]) -> Option<Weighting> {
        Some(self.selection.chosen.weighting())
    }

    fn architecture_step(
        &mut self,
        mut step: Step,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Stepped> {
        let soft = softmax_rows(self.ops, step.alpha);
        let weighting = Weighting::of_all(soft.clone());
        let (validation, bar) = step.loss_and_adjoint(&weighting, &mut self.gradient)?;
        Stepped::following(
            &straight_through(&soft, &bar, self.ops, 1.0),
            alpha_gradient,
            validation,
            Numbers::new(),
        )
    }

    fn end_epoch(
        &mut self,
        judge: &mut Judge,
        moment: Moment,
        alpha: &[f32],
    ) -> anyhow::Result<Numbers> {
        let Selection { space, seed, .. } = self.selection;
        let policy = softmax_rows(self.ops, alpha);
        let mut rng = rng(seed, Draw::Selection, moment.number);
        let ops = self.ops;
        let drawn = || {
            let rows = policy.chunks_exact(ops);
            let chosen = rows.map(|row| Some(draw(row, &mut rng)));
            Architecture::of(space, chosen.collect())
        };
        let score = self.selection.choose(judge, moment, drawn)?;
        Ok(vec![("accuracy-of-chosen", score.accuracy)])
    }

    fn genotype(&self, _: Space, _: &[(&str, &[f32])]) -> Genotype {
        self.selection.chosen.genotype()
    }

    fn state(&self) -> anyhow::Result<Vec<f32>> {
        Ok(self.selection.chosen.to_state().collect())
    }

    fn restore(&mut self, _: &Device, state: &[f32]) -> anyhow::Result<()> {
        let space = self.selection.space;
        check_state(state, Architecture::state_len(space))?;
        self.selection.chosen = Architecture::from_state(space, state)?;
        Ok(())
    }
}
