//! Random search with weight sharing: "Random search and reproducibility for neural architecture search"
//! (Li & Talwalkar, UAI 2019).
//!
//! Every weight step trains the weights of one architecture, drawn uniformly. There are no architecture
//! steps. At the end architectures are drawn again and judged with the shared weights on part of the
//! validation half; the best are judged on all of it, and the best of those is the answer. In the DARTS space
//! 1000 are drawn, judged on 10 batches each, and 10 judged again, as published; in NAS-Bench-201 100 on one
//! batch each, as its official code does; NASNet's cells are chosen as those of DARTS. The epochs before the last draw a hundredth as many (and ten at
//! least), so that there is an answer to show.

use super::{
    Architecture, Draw, Judge, Method, Moment, Numbers, OwnSetting, Score, Step, Stepped, Strategy,
    StrategyKind, Weighting, check_state, rng, take_turns,
};
use crate::device::{Device, SliceMut};
use crate::ops::relax::Relaxation;
use crate::search::settings::SearchSettings;
use crate::space::{Genotype, Space};

/// Random search as published.
pub const METHOD: Method = Method {
    spaces: &Space::ALL,
    relaxation: Relaxation::Given,
    options: &[CANDIDATES, BATCHES, FINALISTS],
    defaults: take_turns,
    make: |settings| {
        let selection = Selection::new(settings, StrategyKind::Random);
        Box::new(Random { selection })
    },
};

/// Architectures drawn at the end.
pub(super) const CANDIDATES: OwnSetting = OwnSetting {
    name: "candidates",
    about: "architectures drawn at the end of the search and judged with its weights",
    default: [1000.0, 100.0],
    range: [1.0, 1e6],
    whole: true,
};

/// Batches that judge each.
pub(super) const BATCHES: OwnSetting = OwnSetting {
    name: "batches",
    about: "validation batches that judge each",
    default: [10.0, 1.0],
    range: [1.0, 1e6],
    whole: true,
};

/// How many are judged again.
pub(super) const FINALISTS: OwnSetting = OwnSetting {
    name: "finalists",
    about: "of them, how many are judged again on the whole validation half; 0: none",
    default: [10.0, 0.0],
    range: [0.0, 1e6],
    whole: true,
};

/// The choice of an architecture out of many drawn ones, by the shared weights; other strategies that end
/// this way use it too.
pub(super) struct Selection {
    pub space: Space,
    pub seed: u64,
    candidates: usize,
    batches: usize,
    finalists: usize,
    /// The chosen one; before the first epoch ends, one drawn.
    pub chosen: Architecture,
}

impl Selection {
    /// Of the settings [`CANDIDATES`], [`BATCHES`] and [`FINALISTS`], which `kind` has.
    pub fn new(settings: &SearchSettings, kind: StrategyKind) -> Selection {
        let own = |name| kind.option(settings, name) as usize;
        let (space, seed) = (settings.space, settings.seed);
        Selection {
            space,
            seed,
            candidates: own("candidates"),
            batches: own("batches"),
            finalists: own("finalists"),
            chosen: Architecture::random(space, &mut rng(seed, Draw::Start, 0)),
        }
    }

    /// A selection that never chooses, of a space.
    #[cfg(test)]
    pub fn of(space: Space, seed: u64) -> Selection {
        Selection {
            space,
            seed,
            candidates: 1,
            batches: 1,
            finalists: 0,
            chosen: Architecture::random(space, &mut rng(seed, Draw::Start, 0)),
        }
    }

    /// An architecture of a weight step, drawn uniformly.
    pub fn uniform(&self, moment: Moment) -> Weighting {
        let mut rng = rng(self.seed, Draw::Weights, moment.number);
        Architecture::random(self.space, &mut rng).weighting()
    }

    /// Chooses among architectures that `draw` gives; returns the score of the chosen one.
    pub fn choose(
        &mut self,
        judge: &mut Judge,
        moment: Moment,
        draw: impl FnMut() -> Architecture,
    ) -> anyhow::Result<Score> {
        let count = if moment.is_last() {
            self.candidates
        } else {
            (self.candidates / 100).max(10).min(self.candidates)
        };
        let mut drawn: Vec<Architecture> = std::iter::repeat_with(draw).take(count).collect();
        let scores = judge.scores(&drawn, self.batches)?;
        let finalists = if moment.is_last() { self.finalists } else { 0 };
        let (best, score) = judge.choose(&drawn, &scores, finalists)?;
        self.chosen = drawn.swap_remove(best);
        Ok(score)
    }

    /// One where an edge has the chosen op, else zero.
    pub fn op_weights(&self) -> Vec<f32> {
        let active = self.chosen.weighting().active;
        active.into_iter().map(f32::from).collect()
    }
}

/// See the module.
struct Random {
    selection: Selection,
}

impl Strategy for Random {
    fn weigh(&mut self, moment: Moment, _: &[f32]) -> Option<Weighting> {
        Some(self.selection.uniform(moment))
    }

    fn shown(&self, _: &[f32]) -> Option<Weighting> {
        Some(self.selection.chosen.weighting())
    }

    fn steps(&self) -> bool {
        false
    }

    fn architecture_step(&mut self, _: Step, _: SliceMut) -> anyhow::Result<Stepped> {
        Ok(Stepped::default())
    }

    fn end_epoch(
        &mut self,
        judge: &mut Judge,
        moment: Moment,
        _: &[f32],
    ) -> anyhow::Result<Numbers> {
        let Selection { space, seed, .. } = self.selection;
        let mut rng = rng(seed, Draw::Selection, moment.number);
        let draw = || Architecture::random(space, &mut rng);
        let score = self.selection.choose(judge, moment, draw)?;
        Ok(vec![("accuracy-of-chosen", score.accuracy)])
    }

    fn genotype(&self, _: Space, _: &[(&str, &[f32])]) -> Genotype {
        self.selection.chosen.genotype()
    }

    fn op_weights(&self, _: usize, _: &[f32]) -> Vec<f32> {
        self.selection.op_weights()
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
