//! Regularised (aging) evolution: algorithm 1 of Real et al. 2019, "Regularized Evolution for Image
//! Classifier Architecture Search".
//!
//! A queue of the youngest cells; each cycle draws a sample of them with replacement, mutates the
//! best of the sample by another op on one edge, and lets the oldest die, however good it is.
//! Population 10 and sample 3 are those of Dong & Yang 2020, section 5.

use std::collections::VecDeque;

use rand::RngExt;

use super::{Spent, TabularStrategy, Trial, Trials, random_cell};
use crate::device::random::PhiloxRng;
use crate::space::{NB201_EDGES, Nb201Genotype, Nb201Op};

/// Aging evolution.
pub struct Evolution {
    /// Cells alive.
    population: usize,
    /// Cells that compete to be a parent.
    sample: usize,
}

impl Evolution {
    /// The settings of the NAS-Bench-201 paper.
    pub const PUBLISHED: Evolution = Evolution {
        population: 10,
        sample: 3,
    };
}

/// Another op on one edge. The official code draws the node first and then one of its edges, so
/// that the single edge of node 1 changes as often as the three of node 3 together.
fn mutate(mut cell: Nb201Genotype, rng: &mut PhiloxRng) -> Nb201Genotype {
    let node = rng.random_range(1..=3);
    let into = rng.random_range(0..node);
    let edge = NB201_EDGES
        .iter()
        .position(|edge| (edge.from, edge.to) == (into, node))
        .expect("every node reads all below it");
    let others = Nb201Op::ALL.len() - 1;
    let step = rng.random_range(1..=others);
    cell.ops[edge] = Nb201Op::ALL[(cell.ops[edge].index() + step) % Nb201Op::ALL.len()];
    cell
}

impl TabularStrategy for Evolution {
    fn name(&self) -> &'static str {
        "evolution"
    }

    fn about(&self) -> &'static str {
        "Regularised evolution, population 10, sample 3 (Real et al. 2019)"
    }

    fn settings(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("population", self.population as f64),
            ("sample", self.sample as f64),
        ]
    }

    fn search(&self, trials: &mut Trials<'_>, rng: &mut PhiloxRng) -> Result<(), Spent> {
        let mut alive = VecDeque::with_capacity(self.population + 1);
        for _ in 0..self.population {
            let cell = random_cell(rng);
            let reward = trials.train(cell)?;
            alive.push_back(Trial { cell, reward });
        }
        loop {
            let mut parent: Trial = alive[rng.random_range(0..alive.len())];
            for _ in 1..self.sample {
                let rival = alive[rng.random_range(0..alive.len())];
                if rival.reward > parent.reward {
                    parent = rival;
                }
            }
            let cell = mutate(parent.cell, rng);
            let reward = trials.train(cell)?;
            alive.push_back(Trial { cell, reward });
            alive.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Budget;
    use super::super::benchmark::tests::synthetic;
    use super::*;
    use crate::device::random::{Philox, Purpose};

    #[test]
    fn a_mutation_changes_exactly_one_edge_and_every_edge_in_turn() {
        let mut rng = Philox::new(0, Purpose::TabularSearch).rng(0);
        let cell = Nb201Genotype::from_index(4_321).unwrap();
        let mut changed = [0; 6];
        for _ in 0..600 {
            let child = mutate(cell, &mut rng);
            let edges: Vec<usize> = (0..6).filter(|&e| child.ops[e] != cell.ops[e]).collect();
            assert_eq!(edges.len(), 1);
            changed[edges[0]] += 1;
        }
        assert!(changed.iter().all(|&count| count > 30), "{changed:?}");
        assert!(
            changed[0] > 140,
            "node 1 is drawn a third of the time: {changed:?}"
        );
    }

    #[test]
    fn children_differ_by_one_edge_from_one_of_the_ten_cells_before_them() {
        let benchmark = synthetic();
        let mut trials = Trials::new(&benchmark, Budget::Trainings(60));
        let mut rng = Philox::new(3, Purpose::TabularSearch).rng(0);
        let _ = Evolution::PUBLISHED.search(&mut trials, &mut rng);
        for (index, child) in trials.history().iter().enumerate().skip(10) {
            let alive = &trials.history()[index - 10..index];
            let apart = |other: &Trial| {
                let pairs = other.cell.ops.iter().zip(child.cell.ops);
                pairs.filter(|(a, b)| **a != *b).count()
            };
            assert!(alive.iter().any(|other| apart(other) == 1), "child {index}");
        }
    }
}
