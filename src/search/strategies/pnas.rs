//! PNAS: "Progressive neural architecture search" (Liu et al., ECCV 2018), over weights that are shared.
//!
//! Cells grow by a node a level ([`progressive`](crate::search::progressive)), and the epochs are as many equal parts as
//! there are levels. The first level's candidates are all cells of one node; a later level's are the K, of all cells that
//! grow from the candidates before, whose accuracy the surrogate predicts highest. In a level's epochs each weight step trains
//! one candidate, drawn uniformly; nodes that are not there yet do not run. At the end of the level every candidate is judged
//! with the shared weights on the same validation batches, and the surrogate is fitted to all that was judged so far. The best
//! of the last level is the answer, its best few judged again on the whole validation half. In an epoch before that the
//! answer is the best of the last level that was judged, a smaller cell.
//!
//! K is 256, as published, and a tenth of that in NAS-Bench-201, as for a search in its table. As published, one cell is
//! grown, and is the reduction cell of the DARTS space too. Published cells have five nodes, and a node may read one state
//! twice; here the spaces say otherwise.

use super::random::{BATCHES, FINALISTS};
use super::{
    Architecture, Draw, Judge, Method, Moment, Numbers, OwnSetting, Step, Stepped, Strategy,
    StrategyKind, Weighting, check_state, epochs_of, rng, stage_of, take_turns,
};
use crate::device::{Device, SliceMut};
use crate::ops::relax::Relaxation;
use crate::search::progressive::{Partial, levels, ranked};
use crate::search::settings::SearchSettings;
use crate::search::surrogate::Example;
use crate::space::{Genotype, Space};
use anyhow::ensure;
use rand::RngExt;

/// Progressive search as published, with weights that are shared.
pub const METHOD: Method = Method {
    spaces: &[Space::Darts, Space::NasBench201],
    relaxation: Relaxation::Given,
    options: &[
        OwnSetting {
            name: "beam",
            about: "K: cells that the surrogate picks for each level after the first",
            default: [256.0, 25.0],
            range: [1.0, 1e4],
            whole: true,
        },
        BATCHES,
        FINALISTS,
    ],
    defaults: take_turns,
    make: |settings| {
        let own = |name| StrategyKind::Pnas.option(settings, name) as usize;
        let (space, seed) = (settings.space, settings.seed);
        let candidates = Partial::nothing(space).grown();
        let first = rng(seed, Draw::Start, 0).random_range(0..candidates.len());
        Box::new(Pnas {
            space,
            seed,
            epochs: settings.epochs,
            beam: own("beam"),
            batches: own("batches"),
            finalists: own("finalists"),
            chosen: candidates[first].clone(),
            candidates,
            judged: Vec::new(),
        })
    },
};

/// See the module.
struct Pnas {
    space: Space,
    seed: u64,
    epochs: usize,
    beam: usize,
    batches: usize,
    finalists: usize,
    /// The best of the last level that was judged; before that, one drawn.
    chosen: Partial,
    /// Of this level.
    candidates: Vec<Partial>,
    /// Cells of all levels, and their accuracies.
    judged: Vec<(Partial, f32)>,
}

/// The architecture that a cell is, in the DARTS space both of its cells.
fn architecture(space: Space, cell: &Partial) -> Architecture {
    let cells = vec![cell.whole(); space.alphas().len()];
    Architecture::of(space, cells.concat())
}

/// Numbers to keep in a checkpoint: the column of each edge's op, −1 for none.
fn to_state(cell: &Partial) -> impl Iterator<Item = f32> {
    let number = |op: &Option<usize>| op.map_or(-1.0, |op| op as f32);
    cell.ops.iter().map(number)
}

/// Reads [`to_state`] back; none where that is no cell of the space.
fn from_state(space: Space, state: &[f32]) -> Option<Partial> {
    let ops = space.op_names().len() as f32;
    let good = |op: &f32| *op == -1.0 || op.fract() == 0.0 && (0.0..ops).contains(op);
    if !state.iter().all(good) {
        return None;
    }
    let chosen = state.iter().map(|&op| (op >= 0.0).then_some(op as usize));
    Partial::of(space, chosen.collect()).filter(|cell| cell.nodes > 0)
}

impl Pnas {
    /// Nodes of this level's cells.
    fn nodes(&self) -> usize {
        self.candidates[0].nodes
    }

    fn levels(&self) -> usize {
        levels(self.space)
    }

    fn architectures(&self) -> Vec<Architecture> {
        let cells = self.candidates.iter();
        cells.map(|cell| architecture(self.space, cell)).collect()
    }

    /// Takes up what the candidates reached, and goes on to the next level if there is one.
    fn advance(&mut self, accuracies: impl Iterator<Item = f32>) {
        let pairs = self.candidates.iter().cloned().zip(accuracies);
        self.judged.extend(pairs);
        let nodes = self.nodes();
        if nodes == self.levels() {
            return;
        }
        let example = |(cell, accuracy): &(Partial, f32)| Example {
            tokens: cell.tokens(),
            accuracy: *accuracy,
        };
        let examples: Vec<Example> = self.judged.iter().map(example).collect();
        let mut rng = rng(self.seed, Draw::Selection, nodes as u64);
        let mut next = ranked(&self.candidates, &examples, &mut rng, |_| true);
        next.truncate(self.beam);
        self.candidates = next;
    }
}

impl Strategy for Pnas {
    fn check(&self, settings: &SearchSettings) -> Result<(), (&'static str, String)> {
        let (levels, found) = (self.levels(), settings.epochs);
        if found >= levels {
            return Ok(());
        }
        Err((
            "epochs",
            format!(
                "expected at least {levels}, one for each size of a cell that strategy pnas grows in space {}, \
                 found {found}",
                self.space
            ),
        ))
    }

    /// A cell that is not whole yet is no reason to end a search.
    fn holds(&self, epoch: usize, epochs: usize) -> bool {
        stage_of(epoch, self.levels(), epochs) + 1 < self.levels()
    }

    fn weigh(&mut self, moment: Moment, _: &[f32]) -> Option<Weighting> {
        let mut rng = rng(self.seed, Draw::Weights, moment.number);
        let one = rng.random_range(0..self.candidates.len());
        Some(architecture(self.space, &self.candidates[one]).weighting())
    }

    fn shown(&self, _: &[f32]) -> Option<Weighting> {
        Some(architecture(self.space, &self.chosen).weighting())
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
        let nodes = self.nodes();
        let level = epochs_of(nodes - 1, self.levels(), self.epochs);
        let count = self.candidates.len() as f64;
        let mut numbers = vec![("nodes", nodes as f64), ("candidates", count)];
        if moment.epoch + 1 < level.end {
            return Ok(numbers);
        }
        let architectures = self.architectures();
        let scores = judge.scores(&architectures, self.batches)?;
        let finalists = if nodes == self.levels() {
            self.finalists
        } else {
            0
        };
        let (best, score) = judge.choose(&architectures, &scores, finalists)?;
        self.chosen = self.candidates[best].clone();
        self.advance(scores.iter().map(|score| score.accuracy as f32));
        numbers.push(("accuracy-of-chosen", score.accuracy));
        Ok(numbers)
    }

    fn genotype(&self, _: Space, _: &[(&str, &[f32])]) -> Genotype {
        architecture(self.space, &self.chosen).genotype()
    }

    /// How often each op is among the candidates.
    fn op_weights(&self, _: usize, _: &[f32]) -> Vec<f32> {
        Architecture::shares(self.architectures().iter())
    }

    /// How many candidates there are, the chosen cell, the candidates, and those judged with their accuracies.
    fn state(&self) -> anyhow::Result<Vec<f32>> {
        let mut state = vec![self.candidates.len() as f32];
        for cell in [&self.chosen].into_iter().chain(&self.candidates) {
            state.extend(to_state(cell));
        }
        for (cell, accuracy) in &self.judged {
            state.extend(to_state(cell));
            state.push(*accuracy);
        }
        Ok(state)
    }

    fn restore(&mut self, _: &Device, state: &[f32]) -> anyhow::Result<()> {
        let len = self.space.edges().len();
        let count = state.first().map_or(0, |&count| count as usize);
        let cells = (1 + count).saturating_mul(len).saturating_add(1);
        let judged = state.len().saturating_sub(cells) / (len + 1);
        check_state(state, cells.saturating_add(judged * (len + 1)))?;
        let found: Option<Vec<Partial>> = state[1..cells]
            .chunks_exact(len)
            .map(|cell| from_state(self.space, cell))
            .collect();
        let accuracies: Option<Vec<(Partial, f32)>> = state[cells..]
            .chunks_exact(len + 1)
            .map(|cell| Some((from_state(self.space, &cell[..len])?, cell[len])))
            .collect();
        let one_size = |cells: &Vec<Partial>| {
            count > 0 && cells[1..].iter().all(|cell| cell.nodes == cells[1].nodes)
        };
        let read = found.filter(one_size).zip(accuracies);
        ensure!(
            read.is_some(),
            "checkpoint: optimizer tensor `strategy`: expected cells of pnas in space {}, found other numbers",
            self.space
        );
        if let Some((mut cells, judged)) = read {
            self.candidates = cells.split_off(1);
            self.chosen = cells.remove(0);
            self.judged = judged;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::DartsGenotype;

    fn pnas(space: Space, beam: usize) -> Pnas {
        let candidates = Partial::nothing(space).grown();
        Pnas {
            space,
            seed: 1,
            epochs: 12,
            beam,
            batches: 1,
            finalists: 0,
            chosen: candidates[0].clone(),
            candidates,
            judged: Vec::new(),
        }
    }

    /// The op of column o is worth o on any edge.
    fn worth(cell: &Partial) -> f32 {
        let ops: Vec<usize> = cell.ops.iter().flatten().copied().collect();
        0.2 + 0.1 * ops.iter().sum::<usize>() as f32 / ops.len() as f32
    }

    #[test]
    fn a_level_judges_only_cells_of_its_size_and_they_are_what_the_surrogate_ranks_best() {
        for &space in METHOD.spaces {
            let mut strategy = pnas(space, 20);
            for nodes in 1..=levels(space) {
                let before = strategy.candidates.clone();
                assert!(before.iter().all(|cell| cell.nodes == nodes));
                for step in 0..20 {
                    let moment = Moment {
                        number: step,
                        epoch: 0,
                        epochs: 12,
                    };
                    let weighting = strategy.weigh(moment, &[]).unwrap();
                    let drawn = before
                        .iter()
                        .map(|cell| architecture(space, cell).weighting());
                    assert!(drawn.into_iter().any(|known| known == weighting));
                }
                strategy.advance(before.iter().map(worth));
                if nodes == levels(space) {
                    assert_eq!(strategy.candidates, before);
                    continue;
                }
                let example = |(cell, accuracy): &(Partial, f32)| Example {
                    tokens: cell.tokens(),
                    accuracy: *accuracy,
                };
                let examples: Vec<_> = strategy.judged.iter().map(example).collect();
                let mut rng = rng(1, Draw::Selection, nodes as u64);
                let all = ranked(&before, &examples, &mut rng, |_| true);
                assert_eq!(strategy.candidates, all[..20]);
                // Better than what grew without being chosen.
                let mean =
                    |cells: &[Partial]| cells.iter().map(worth).sum::<f32>() / cells.len() as f32;
                assert!(mean(&strategy.candidates) > mean(&all), "{space:?} {nodes}");
            }
            let first = Partial::nothing(space).grown().len();
            assert_eq!(strategy.judged.len(), first + (levels(space) - 1) * 20);
        }
    }

    #[test]
    fn a_node_that_is_not_there_yet_does_not_run_and_is_not_in_the_genotype() {
        let cell = &Partial::nothing(Space::Darts).grown()[8];
        let found = architecture(Space::Darts, cell);
        let running = found.weighting().active;
        assert_eq!(running.iter().filter(|&&on| on).count(), 2 * 2);
        let Genotype::Darts(genotype) = found.genotype() else {
            unreachable!("the space is DARTS");
        };
        assert_eq!(
            (genotype.normal.len(), &*genotype.normal_concat),
            (2, &[2][..])
        );
        genotype.validate().unwrap();
        assert_eq!(genotype.normal, genotype.reduce);
        let text = genotype.to_string();
        assert_eq!(text.parse::<DartsGenotype>().unwrap(), genotype);

        let cell = &Partial::nothing(Space::NasBench201).grown()[3];
        let found = architecture(Space::NasBench201, cell);
        let text = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|";
        assert_eq!(found.genotype().to_string(), text);
    }

    #[test]
    fn levels_share_the_epochs_and_a_search_goes_on_until_the_last() {
        let strategy = pnas(Space::Darts, 4);
        let held: Vec<bool> = (0..12).map(|epoch| strategy.holds(epoch, 12)).collect();
        assert_eq!(held, (0..12).map(|epoch| epoch < 9).collect::<Vec<_>>());
        let settings = |epochs| SearchSettings {
            epochs,
            ..crate::common::settings(Space::Darts, StrategyKind::Pnas)
        };
        assert!(strategy.check(&settings(4)).is_ok());
        let (setting, problem) = strategy.check(&settings(3)).unwrap_err();
        assert_eq!(setting, "epochs");
        assert!(problem.contains("at least 4") && problem.contains("found 3"));
    }

    #[test]
    fn levels_survive_a_checkpoint_and_other_numbers_are_refused() {
        for &space in METHOD.spaces {
            let mut before = pnas(space, 7);
            before.advance(before.candidates.clone().iter().map(worth));
            before.chosen = before.candidates[3].clone();
            let state = before.state().unwrap();
            let mut after = pnas(space, 7);
            after.restore(&Device::Cpu, &state).unwrap();
            assert_eq!(after.candidates, before.candidates);
            assert_eq!(after.judged, before.judged);
            assert_eq!(after.chosen, before.chosen);
            for (at, value) in [(0, 1e9), (0, -1.0), (0, f32::NAN), (2, 99.0), (2, 0.5)] {
                let mut bad = state.clone();
                bad[at] = value;
                assert!(after.restore(&Device::Cpu, &bad).is_err(), "{at} {value}");
            }
            assert!(after.restore(&Device::Cpu, &state[1..]).is_err());
            assert!(after.restore(&Device::Cpu, &[]).is_err());
        }
    }
}
