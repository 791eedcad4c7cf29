//! Cells from simple to complex: what progressive search grows and ranks (PNAS; Liu et al. 2018, "Progressive Neural
//! Architecture Search").
//!
//! A level adds a node to the cells of the level before: to a NAS-Bench-201 cell one that reads every state, to a DARTS cell one
//! that reads any two, each through any op. The surrogate is fitted to all that was judged so far and ranks the grown
//! cells; the best of them, the beam, are judged next. Ensemble of five, L1 loss, Adam at 0.01 on the first level and 0.002
//! after it, as published. `none` is an op in NAS-Bench-201, whose cells need it, and not in DARTS: PNAS has none.

use super::surrogate::{Example, Surrogate};
use crate::device::random::PhiloxRng;
use crate::space::genotype::darts::EDGES_PER_NODE;
use crate::space::{Nb201Op, Space};

/// Adam's learning rate of the surrogate that is fitted to the first level.
pub const FIRST_LR: f32 = 0.01;
/// After that.
pub const LR: f32 = 0.002;

/// A cell of the first `nodes` nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    space: Space,
    /// Nodes that there are.
    pub nodes: usize,
    /// The op of each edge of the whole cell, by column of α; none where it has none.
    pub ops: Vec<Option<usize>>,
}

/// Nodes of a whole cell.
pub fn levels(space: Space) -> usize {
    let edges = space.edges();
    let last = edges.iter().map(|edge| edge.to).max().unwrap_or(0);
    last + 1 - first_node(space)
}

/// State of the first node.
fn first_node(space: Space) -> usize {
    space.edges()[0].to
}

/// Edges into a state.
fn into(space: Space, state: usize) -> Vec<usize> {
    let edges = space.edges().iter().enumerate();
    edges
        .filter(|(_, edge)| edge.to == state)
        .map(|(row, _)| row)
        .collect()
}

impl Partial {
    /// The cell of no nodes.
    pub fn nothing(space: Space) -> Partial {
        Partial {
            space,
            nodes: 0,
            ops: vec![None; space.edges().len()],
        }
    }

    /// The cell of these ops, where its edges are those of its first nodes.
    pub fn of(space: Space, ops: Vec<Option<usize>>) -> Option<Partial> {
        let counts: Vec<usize> = (0..levels(space))
            .map(|node| {
                let rows = into(space, first_node(space) + node);
                rows.iter().filter(|&&row| ops[row].is_some()).count()
            })
            .collect();
        let nodes = counts.iter().take_while(|&&count| count > 0).count();
        let whole = |node: usize| match space {
            Space::NasBench201 => node + 1,
            Space::Darts | Space::Nasnet => EDGES_PER_NODE,
        };
        let expected = (0..levels(space)).map(|node| if node < nodes { whole(node) } else { 0 });
        (counts == expected.collect::<Vec<_>>()).then_some(Partial { space, nodes, ops })
    }

    /// All cells of one node more, of which the first ops of the first edges come first.
    pub fn grown(&self) -> Vec<Partial> {
        let rows = into(self.space, first_node(self.space) + self.nodes);
        let chosen: Vec<Vec<usize>> = match self.space {
            Space::NasBench201 => vec![rows],
            Space::Darts | Space::Nasnet => pairs(&rows),
        };
        chosen
            .iter()
            .flat_map(|edges| self.with_ops_on(edges))
            .collect()
    }

    /// One node more, with every combination of ops on its `edges`.
    fn with_ops_on(&self, edges: &[usize]) -> Vec<Partial> {
        let first = match self.space {
            Space::NasBench201 | Space::Nasnet => 0,
            // Behind `none`.
            Space::Darts => 1,
        };
        let candidates = first..self.space.op_names().len();
        let mut grown = vec![Partial {
            nodes: self.nodes + 1,
            ..self.clone()
        }];
        for &edge in edges {
            let with = |partial: Partial| {
                candidates.clone().map(move |op| {
                    let mut next = partial.clone();
                    next.ops[edge] = Some(op);
                    next
                })
            };
            grown = grown.into_iter().flat_map(with).collect();
        }
        grown
    }

    /// Its (edge, op) pairs for the surrogate.
    pub fn tokens(&self) -> Vec<usize> {
        let ops = self.space.op_names().len();
        let edges = self.ops.iter().enumerate();
        edges
            .filter_map(|(edge, op)| op.map(|op| edge * ops + op))
            .collect()
    }

    /// The ops of the whole cell that computes it. In NAS-Bench-201 its last node is passed on unchanged to the cell's
    /// output; the concatenation of a DARTS cell takes the nodes that there are.
    pub fn whole(&self) -> Vec<Option<usize>> {
        let mut ops = self.ops.clone();
        if self.space == Space::NasBench201 {
            let passed = |edge: &crate::space::Edge| {
                (edge.from, edge.to) == (self.nodes, levels(self.space))
            };
            if let Some(edge) = self.space.edges().iter().position(passed) {
                ops[edge] = Some(Nb201Op::SkipConnect.index());
            }
        }
        ops
    }
}

/// Every two of the rows, in order.
fn pairs(rows: &[usize]) -> Vec<Vec<usize>> {
    let later = |(at, &first): (usize, &usize)| {
        let second = rows[at + 1..].iter();
        second.map(move |&second| vec![first, second])
    };
    rows.iter().enumerate().flat_map(later).collect()
}

/// The cells of one node more than those of the beam that `fresh` takes, by the surrogate that is fitted to `examples`, the most
/// promising first.
pub fn ranked(
    beam: &[Partial],
    examples: &[Example],
    rng: &mut PhiloxRng,
    fresh: impl FnMut(&Partial) -> bool,
) -> Vec<Partial> {
    let Some(first) = beam.first() else {
        return Vec::new();
    };
    let lr = if first.nodes == 1 { FIRST_LR } else { LR };
    let space = first.space;
    let vocabulary = space.edges().len() * space.op_names().len();
    let surrogate = Surrogate::fit(examples, vocabulary, lr, rng);
    let candidates = beam.iter().flat_map(Partial::grown).filter(fresh);
    let mut scored: Vec<(f32, Partial)> = candidates
        .map(|candidate| (surrogate.predict(&candidate.tokens()), candidate))
        .collect();
    // Stable: equals keep the order in which they grew.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::{Philox, Purpose};

    #[test]
    fn a_cell_grows_by_every_choice_of_edges_and_ops_of_its_next_node() {
        let one = Partial::nothing(Space::NasBench201).grown();
        assert_eq!((one.len(), one[3].tokens()), (5, vec![3]));
        let two = one[3].grown();
        assert_eq!((two.len(), two[24].grown().len()), (25, 125));
        assert_eq!(two[7].ops[..3], [Some(3), Some(1), Some(2)]);
        assert_eq!(two[24].grown()[7].tokens().len(), 6);
        assert_eq!(levels(Space::NasBench201), 3);

        assert_eq!(levels(Space::Darts), 4);
        let mut cell = Partial::nothing(Space::Darts);
        for (node, pairs) in [1, 3, 6, 10].into_iter().enumerate() {
            let grown = cell.grown();
            assert_eq!(grown.len(), pairs * 7 * 7);
            for (at, partial) in grown.iter().enumerate() {
                assert_eq!(partial.tokens().len(), 2 * (node + 1));
                assert!(!partial.ops.contains(&Some(0)), "PNAS has no `none`");
                assert!(!grown[..at].contains(partial));
                let read = Partial::of(Space::Darts, partial.ops.clone());
                assert_eq!(read.as_ref(), Some(partial));
            }
            cell = grown[grown.len() / 2].clone();
        }
        let mut broken = cell.ops.clone();
        broken[0] = None;
        assert_eq!(Partial::of(Space::Darts, broken), None);
    }

    #[test]
    fn the_whole_cell_of_a_partial_one_passes_its_last_node_on() {
        let one = &Partial::nothing(Space::NasBench201).grown()[3];
        let skip = Some(Nb201Op::SkipConnect.index());
        assert_eq!(one.whole(), [Some(3), None, None, None, skip, None]);
        let three = &one.grown()[0].grown()[0];
        assert_eq!(three.whole(), three.ops);
        let darts = &Partial::nothing(Space::Darts).grown()[9];
        assert_eq!(darts.whole(), darts.ops);
    }

    #[test]
    fn grown_cells_are_ranked_by_what_their_parts_were_worth() {
        // The op of column o on any edge is worth o.
        for space in Space::ALL {
            let beam = Partial::nothing(space).grown();
            let ops = space.op_names().len();
            let accuracy = |partial: &Partial| {
                let tokens = partial.tokens();
                let sum: usize = tokens.iter().map(|token| token % ops).sum();
                0.3 + 0.05 * sum as f32 / tokens.len() as f32
            };
            let example = |partial: &Partial| Example {
                tokens: partial.tokens(),
                accuracy: accuracy(partial),
            };
            // Both levels are known, so that every token is.
            let second = beam.iter().flat_map(Partial::grown).step_by(3);
            let all: Vec<Partial> = beam.iter().cloned().chain(second).collect();
            let examples: Vec<Example> = all.iter().map(example).collect();
            let mut rng = Philox::new(1, Purpose::Architectures).rng(0);
            let ranked = ranked(&beam, &examples, &mut rng, |_| true);
            let mean =
                |cells: &[Partial]| cells.iter().map(&accuracy).sum::<f32>() / cells.len() as f32;
            let tenth = ranked.len() / 10;
            let (best, worst) = (&ranked[..tenth], &ranked[ranked.len() - tenth..]);
            assert!(mean(best) > mean(&ranked) && mean(&ranked) > mean(worst));
            assert!(ranked.iter().all(|partial| partial.nodes == 2));
        }
    }
}
