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

use super::surrogate::{Example, Surrogate};
use super::{Spent, TabularStrategy, Trials};
use crate::device::random::PhiloxRng;
use crate::space::{NB201_EDGES, Nb201Genotype, Nb201Op};

/// Nodes of a full cell.
const NODES: usize = 3;

/// Progressive search.
pub struct Pnas {
    /// Learning rate of the surrogate fitted to the first level.
    first_lr: f32,
    /// Learning rate of the surrogate after that.
    lr: f32,
    /// Part of the remaining budget that a level before the last may spend.
    share: f64,
}

impl Pnas {
    /// The published settings, with half of the remaining budget for the second level.
    pub const PUBLISHED: Pnas = Pnas {
        first_lr: 0.01,
        lr: 0.002,
        share: 0.5,
    };
}

/// A cell of the first `nodes` nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partial {
    ops: [Nb201Op; NB201_EDGES.len()],
    nodes: usize,
}

impl Partial {
    /// The numbers of the edges that it has.
    fn edges(&self) -> impl Iterator<Item = usize> {
        let nodes = self.nodes;
        (0..NB201_EDGES.len()).filter(move |&edge| NB201_EDGES[edge].to <= nodes)
    }

    /// The full cell that computes it: its last node, passed on unchanged.
    fn cell(&self) -> Nb201Genotype {
        let mut ops = self.ops;
        for (op, edge) in ops.iter_mut().zip(NB201_EDGES) {
            if edge.to > self.nodes {
                let passes_on = (edge.from, edge.to) == (self.nodes, NODES);
                *op = if passes_on {
                    Nb201Op::SkipConnect
                } else {
                    Nb201Op::None
                };
            }
        }
        Nb201Genotype { ops }
    }

    /// All cells of one node more.
    fn grown(&self) -> Vec<Partial> {
        let mut grown = vec![Partial {
            nodes: self.nodes + 1,
            ..*self
        }];
        for edge in (0..NB201_EDGES.len()).filter(|&e| NB201_EDGES[e].to == self.nodes + 1) {
            grown = grown
                .into_iter()
                .flat_map(|partial| {
                    Nb201Op::ALL.map(|op| {
                        let mut ops = partial.ops;
                        ops[edge] = op;
                        Partial { ops, ..partial }
                    })
                })
                .collect();
        }
        grown
    }

    /// Its (edge, op) pairs for the surrogate.
    fn tokens(&self) -> Vec<usize> {
        let token = |edge: usize| edge * Nb201Op::ALL.len() + self.ops[edge].index();
        self.edges().map(token).collect()
    }
}

impl Pnas {
    /// The grown cells that compute something new, the most promising first.
    fn ranked(
        &self,
        beam: &[Partial],
        seen: &HashSet<u64>,
        examples: &[Example],
        rng: &mut PhiloxRng,
    ) -> Vec<Partial> {
        let mut fresh = seen.clone();
        let candidates = beam.iter().flat_map(Partial::grown);
        let candidates: Vec<Partial> = candidates
            .filter(|candidate| fresh.insert(candidate.cell().fingerprint()))
            .collect();
        let first = candidates
            .first()
            .is_some_and(|candidate| candidate.nodes == 2);
        let lr = if first { self.first_lr } else { self.lr };
        let vocabulary = NB201_EDGES.len() * Nb201Op::ALL.len();
        let surrogate = Surrogate::fit(examples, vocabulary, lr, rng);
        let mut scored: Vec<(f32, Partial)> = candidates
            .into_iter()
            .map(|candidate| (surrogate.predict(&candidate.tokens()), candidate))
            .collect();
        // Stable: equals keep the order in which they grew.
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().map(|(_, candidate)| candidate).collect()
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
            ("first-lr", decimal(self.first_lr)),
            ("lr", decimal(self.lr)),
            ("share", self.share),
        ]
    }

    fn search(&self, trials: &mut Trials<'_>, rng: &mut PhiloxRng) -> Result<(), Spent> {
        let mut examples = Vec::new();
        let mut seen = HashSet::new();
        let nothing = Partial {
            ops: [Nb201Op::None; NB201_EDGES.len()],
            nodes: 0,
        };
        let mut candidates = nothing.grown();
        for level in 1..=NODES {
            let limit = match level {
                1 | NODES => f64::INFINITY,
                _ => trials.spent() + self.share * (1.0 - trials.spent()),
            };
            let mut beam = Vec::new();
            for candidate in candidates {
                // One at least, or there is nothing to grow.
                if trials.spent() >= limit && !beam.is_empty() {
                    break;
                }
                let reward = trials.train(candidate.cell())?;
                seen.insert(candidate.cell().fingerprint());
                examples.push(Example {
                    tokens: candidate.tokens(),
                    accuracy: (reward / 100.0) as f32,
                });
                beam.push(candidate);
            }
            candidates = if level < NODES {
                self.ranked(&beam, &seen, &examples, rng)
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
        let one = Partial {
            ops: [Nb201Op::NorConv3x3; 6],
            nodes: 1,
        };
        assert_eq!(
            one.cell().to_string(),
            "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
        );
        assert_eq!(one.tokens(), [3]);
        let grown = one.grown();
        assert_eq!((grown.len(), grown[0].nodes), (25, 2));
        assert_eq!(grown[24].grown().len(), 125);
        assert_eq!(grown[24].grown()[7].edges().count(), 6);
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
