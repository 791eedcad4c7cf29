//! Progressive search with a surrogate (PNAS; Liu et al. 2018, "Progressive Neural Architecture
//! Search"), on the NAS-Bench-201 cell.
//!
//! Cells grow from simple to complex. A level adds a node: its incoming edges get every
//! combination of ops, the surrogate ranks the grown cells, the best are trained and are what the
//! next level grows; the surrogate is fitted to all that was trained so far. A cell of one or two
//! nodes is the full cell whose output is a skip from its last node.
//!
//! Published: first level trained whole; ensemble of five; L1 loss; Adam at 0.01 on the first level
//! and 0.002 after it; no cell twice, up to isomorphism. Theirs is a beam of K = 256 over five
//! levels, 1,160 trainings; the budget here is a tenth of that, so K is what the budget pays for:
//! the second level takes half of what the first left, the last level the rest.

use std::collections::HashSet;

use super::{Spent, TabularStrategy, Trials};
use crate::device::random::PhiloxRng;
use crate::search::progressive::{FIRST_LR, LR, Partial, levels, ranked};
use crate::search::surrogate::Example;
use crate::space::{Nb201Genotype, Nb201Op, Space};

/// Progressive search.
pub struct Pnas {
    /// Part of the remaining budget that a level before the last may spend.
    share: f64,
}

impl Pnas {
    /// The published settings, with half of the remaining budget for the second level.
    pub const PUBLISHED: Pnas = Pnas { share: 0.5 };
}

/// The full cell that computes a partial one.
fn cell(partial: &Partial) -> Nb201Genotype {
    let whole = partial.whole();
    Nb201Genotype {
        ops: std::array::from_fn(|edge| whole[edge].map_or(Nb201Op::None, |op| Nb201Op::ALL[op])),
    }
}

impl TabularStrategy for Pnas {
    fn name(&self) -> &'static str {
        "pnas"
    }

    fn about(&self) -> &'static str {
        "Progressive search with a surrogate ensemble (Liu et al. 2018)"
    }

    fn settings(&self) -> Vec<(&'static str, f64)> {
        let decimal = |value: f32| (f64::from(value) * 1e6).round() / 1e6;
        vec![
            ("first-lr", decimal(FIRST_LR)),
            ("lr", decimal(LR)),
            ("share", self.share),
        ]
    }

    fn search(&self, trials: &mut Trials<'_>, rng: &mut PhiloxRng) -> Result<(), Spent> {
        let mut examples = Vec::new();
        let mut seen = HashSet::new();
        let nodes = levels(Space::NasBench201);
        let mut candidates = Partial::nothing(Space::NasBench201).grown();
        for level in 1..=nodes {
            let limit = if level == 1 || level == nodes {
                f64::INFINITY
            } else {
                trials.spent() + self.share * (1.0 - trials.spent())
            };
            let mut beam = Vec::new();
            for candidate in candidates {
                // One at least, or there is nothing to grow.
                if trials.spent() >= limit && !beam.is_empty() {
                    break;
                }
                let reward = trials.train(cell(&candidate))?;
                seen.insert(cell(&candidate).fingerprint());
                examples.push(Example {
                    tokens: candidate.tokens(),
                    accuracy: (reward / 100.0) as f32,
                });
                beam.push(candidate);
            }
            candidates = if level < nodes {
                let mut fresh = seen.clone();
                ranked(&beam, &examples, rng, |candidate| {
                    fresh.insert(cell(candidate).fingerprint())
                })
            } else {
                Vec::new()
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Budget;
    use super::super::benchmark::tests::synthetic;
    use super::*;
    use crate::device::random::{Philox, Purpose};

    #[test]
    fn a_partial_cell_is_the_full_cell_that_passes_its_last_node_on() {
        let one = &Partial::nothing(Space::NasBench201).grown()[Nb201Op::NorConv3x3.index()];
        assert_eq!(
            cell(one).to_string(),
            "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
        );
    }

    #[test]
    fn levels_are_trained_from_simple_to_complex_and_no_network_twice() {
        let benchmark = synthetic();
        let mut trials = Trials::new(&benchmark, Budget::Trainings(100));
        let mut rng = Philox::new(0, Purpose::TabularSearch).rng(0);
        assert_eq!(Pnas::PUBLISHED.search(&mut trials, &mut rng), Err(Spent));
        let history = trials.history();
        let distinct: HashSet<u64> = history.iter().map(|t| t.cell.fingerprint()).collect();
        assert_eq!(distinct.len(), history.len());
        let nodes_used = |cell: &Nb201Genotype| {
            let none = |edges: &[usize]| edges.iter().all(|&e| cell.ops[e] == Nb201Op::None);
            if none(&[1, 2, 3, 5]) && cell.ops[4] == Nb201Op::SkipConnect {
                1
            } else if none(&[3, 4]) && cell.ops[5] == Nb201Op::SkipConnect {
                2
            } else {
                3
            }
        };
        assert!(history[..5].iter().all(|t| nodes_used(&t.cell) == 1));
        assert!(history[5..52].iter().all(|t| nodes_used(&t.cell) <= 2));
        assert!(history[53..].iter().any(|t| nodes_used(&t.cell) == 3));
    }

    #[test]
    fn a_budget_beyond_the_space_ends_with_nothing_left_to_try() {
        let benchmark = synthetic();
        let mut trials = Trials::new(&benchmark, Budget::Trainings(50_000));
        let mut rng = Philox::new(0, Purpose::TabularSearch).rng(0);
        assert_eq!(Pnas::PUBLISHED.search(&mut trials, &mut rng), Ok(()));
        assert!(trials.history().len() > 1000);
        let best = benchmark.best().0;
        let found = benchmark.measured(&trials.best().unwrap().cell).test;
        assert_eq!(found, best);
    }
}
