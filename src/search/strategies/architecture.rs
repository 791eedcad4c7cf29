//! Op weights as a strategy gives them, and architectures: an op, or none of them, on every edge.

use crate::autograd::Executor;
use crate::device::Vector;
use crate::device::random::PhiloxRng;
use crate::ops::dropout::Draw;
use crate::space::genotype::darts::{EDGES_PER_NODE, NODES};
use crate::space::{
    DARTS_EDGES, DartsGenotype, DartsOp, Edge, Genotype, GenotypeOp, NB201_EDGES, Nb201Genotype,
    Nb201Op, Space,
};
use anyhow::ensure;
use rand::RngExt;

/// What each op of each edge is multiplied with, and which ops take part; both in α's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighting {
    /// c
    pub values: Vec<f32>,
    /// False for an op that does not run.
    pub active: Vec<bool>,
    /// What dropout drops, where the supernet has any.
    pub dropout: Option<Draw>,
}

impl Weighting {
    /// Weights of ops that all run.
    pub fn of_all(values: Vec<f32>) -> Weighting {
        let active = vec![true; values.len()];
        Weighting {
            values,
            active,
            dropout: None,
        }
    }

    /// Weight one for an op an edge, where one is chosen; the others do not run.
    pub fn of_chosen(chosen: &[Option<usize>], ops: usize) -> Weighting {
        let mut active = vec![false; chosen.len() * ops];
        for (row, op) in active.chunks_exact_mut(ops).zip(chosen) {
            if let Some(op) = op {
                row[*op] = true;
            }
        }
        let values = active.iter().map(|&active| f32::from(active)).collect();
        Weighting {
            values,
            active,
            dropout: None,
        }
    }

    /// Puts the weights behind ω in θ, and switches the ops on and off.
    pub(in crate::search) fn apply(
        &self,
        executor: &mut Executor,
        theta: &mut Vector,
    ) -> anyhow::Result<()> {
        if self.active.iter().all(|&active| active) {
            executor.activate_all();
        } else {
            executor.activate(&self.active);
        }
        executor.set_dropout(self.dropout)?;
        let omega = executor.tape().omega_len;
        let len = theta.len();
        theta.part_mut(omega..len).write(&self.values)
    }
}

/// A choice for each edge of each α matrix: an op by its column, or no op. In the DARTS space two edges
/// into each node have one; in NAS-Bench-201 all six have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    space: Space,
    ops: Vec<Option<usize>>,
}

/// The rows of a DARTS matrix that lead into each node.
fn rows_into(node: usize) -> std::ops::Range<usize> {
    let first = DARTS_EDGES.iter().position(|edge| edge.to == node + 2);
    let first = first.expect("every node has edges");
    first..first + node + 2
}

/// Two different numbers below `count`, drawn uniformly.
fn two_of(count: usize, rng: &mut PhiloxRng) -> [usize; 2] {
    let first = rng.random_range(0..count);
    let second = rng.random_range(0..count - 1);
    [first, second + usize::from(second >= first)]
}

impl Architecture {
    /// Drawn uniformly: op by op, and in the DARTS space the two edges into each node first. `none` is an
    /// op like the others, as in the official code of random search and of NAS-Bench-201.
    pub fn random(space: Space, rng: &mut PhiloxRng) -> Architecture {
        let ops = space.op_names().len();
        let mut chosen = Vec::new();
        for matrix in space.alphas() {
            let first = chosen.len();
            match space {
                Space::NasBench201 => {
                    chosen.extend((0..matrix.edges).map(|_| Some(rng.random_range(0..ops))));
                }
                Space::Darts => {
                    chosen.resize(first + matrix.edges, None);
                    for node in 0..NODES {
                        let rows = rows_into(node);
                        for edge in two_of(rows.len(), rng) {
                            chosen[first + rows.start + edge] = Some(rng.random_range(0..ops));
                        }
                    }
                }
            }
        }
        Architecture { space, ops: chosen }
    }

    /// That of a choice for each edge, which is one of the space's.
    pub(super) fn of(space: Space, ops: Vec<Option<usize>>) -> Architecture {
        debug_assert_eq!(ops.len(), Architecture::state_len(space));
        Architecture { space, ops }
    }

    /// A copy with one change. In NAS-Bench-201 another op on an edge: a node is drawn first and then one of
    /// its edges, as the official code draws. In the DARTS space, for a node of either cell, another op on one
    /// of its two edges or another state for it, equally likely where there is another (Real et al. 2019).
    #[must_use]
    pub(super) fn mutated(&self, rng: &mut PhiloxRng) -> Architecture {
        let mut child = self.clone();
        let edge = match self.space {
            Space::NasBench201 => {
                let node = rng.random_range(1..=3);
                let from = rng.random_range(0..node);
                let place = |edge: &Edge| (edge.from, edge.to) == (from, node);
                let found = NB201_EDGES.iter().position(place);
                found.expect("every node reads all below it")
            }
            Space::Darts => {
                let cell = rng.random_range(0..2) * DARTS_EDGES.len();
                let rows = rows_into(rng.random_range(0..NODES));
                let rows = cell + rows.start..cell + rows.end;
                let of = |chosen: bool| {
                    let rows = rows.clone();
                    rows.filter(move |&row| self.ops[row].is_some() == chosen)
                };
                let edge = of(true).nth(rng.random_range(0..EDGES_PER_NODE));
                let edge = edge.expect("two edges into each node");
                let free = of(false).count();
                if free > 0 && rng.random_range(0..2) == 0 {
                    let to = of(false).nth(rng.random_range(0..free));
                    child.ops.swap(edge, to.expect("counted"));
                    return child;
                }
                edge
            }
        };
        let count = self.space.op_names().len();
        let step = rng.random_range(1..count);
        child.ops[edge] = self.ops[edge].map(|op| (op + step) % count);
        child
    }

    /// The choice for each edge.
    pub fn ops(&self) -> &[Option<usize>] {
        &self.ops
    }

    /// The part of some architectures, at least one, that has each op, in α's order; `ops` an edge.
    pub(super) fn shares<'a>(
        architectures: impl ExactSizeIterator<Item = &'a Architecture>,
        ops: usize,
    ) -> Vec<f32> {
        let part = 1.0 / architectures.len() as f32;
        let mut shares = Vec::new();
        for architecture in architectures {
            shares.resize(architecture.ops.len() * ops, 0.0);
            for (edge, op) in architecture.ops.iter().enumerate() {
                if let Some(op) = op {
                    shares[edge * ops + op] += part;
                }
            }
        }
        shares.iter().map(|share: &f32| share.min(1.0)).collect()
    }

    /// Its ops at weight one, the others off.
    pub fn weighting(&self) -> Weighting {
        Weighting::of_chosen(&self.ops, self.space.op_names().len())
    }

    /// The genotype that it is.
    pub fn genotype(&self) -> Genotype {
        match self.space {
            Space::NasBench201 => {
                let op = |edge: usize| Nb201Op::ALL[self.ops[edge].unwrap_or_default()];
                Genotype::Nb201(Nb201Genotype {
                    ops: std::array::from_fn(op),
                })
            }
            Space::Darts => {
                let cell = |first: usize| -> Vec<(GenotypeOp, usize)> {
                    let edges = DARTS_EDGES.iter().zip(&self.ops[first..]);
                    let chosen = edges.filter_map(|(edge, op)| {
                        op.map(|op| (GenotypeOp::from(DartsOp::ALL[op]), edge.from))
                    });
                    chosen.collect()
                };
                let cells = DartsGenotype::of_cells(cell(0), cell(DARTS_EDGES.len()));
                Genotype::Darts(cells)
            }
        }
    }

    /// Numbers to keep in a checkpoint: the column of each edge's op, −1 for no op.
    pub fn to_state(&self) -> impl Iterator<Item = f32> {
        let number = |op: &Option<usize>| op.map_or(-1.0, |op| op as f32);
        self.ops.iter().map(number)
    }

    /// Numbers that [`Architecture::to_state`] gives.
    pub fn state_len(space: Space) -> usize {
        space.alphas().iter().map(|matrix| matrix.edges).sum()
    }

    /// Reads [`Architecture::to_state`] back.
    ///
    /// # Errors
    /// Numbers that are no architecture of the space.
    pub fn from_state(space: Space, state: &[f32]) -> anyhow::Result<Architecture> {
        let ops = space.op_names().len();
        let good = |op: &f32| *op == -1.0 || op.fract() == 0.0 && (0.0..ops as f32).contains(op);
        let chosen = state.iter().map(|&op| (op >= 0.0).then_some(op as usize));
        let found = Architecture {
            space,
            ops: chosen.collect(),
        };
        let whole = match space {
            Space::NasBench201 => found.ops.iter().all(Option::is_some),
            Space::Darts => found.ops.chunks(DARTS_EDGES.len()).all(|cell| {
                (0..NODES).all(|node| {
                    let chosen = cell.get(rows_into(node)).unwrap_or_default();
                    chosen.iter().flatten().count() == EDGES_PER_NODE
                })
            }),
        };
        ensure!(
            state.len() == Architecture::state_len(space) && state.iter().all(good) && whole,
            "checkpoint: optimizer tensor `strategy`: expected architectures of space {space}, found other \
             numbers"
        );
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Draw, rng};
    use super::*;

    #[test]
    fn a_drawn_architecture_is_a_genotype_and_survives_a_checkpoint() {
        for space in Space::ALL {
            for number in 0..50 {
                let drawn = Architecture::random(space, &mut rng(1, Draw::Weights, number));
                match drawn.genotype() {
                    Genotype::Darts(genotype) => genotype.validate().unwrap(),
                    Genotype::Nb201(genotype) => assert_eq!(genotype.ops.len(), drawn.ops.len()),
                }
                let state: Vec<f32> = drawn.to_state().collect();
                assert_eq!(Architecture::from_state(space, &state).unwrap(), drawn);
                let weighting = drawn.weighting();
                let running = weighting.active.iter().filter(|&&active| active).count();
                assert_eq!(running, drawn.ops.iter().flatten().count());
            }
            assert!(Architecture::from_state(space, &[0.0; 3]).is_err());
        }
        assert!(Architecture::from_state(Space::NasBench201, &[5.0; 6]).is_err());
        assert!(Architecture::from_state(Space::Darts, &[1.0; 28]).is_err());
    }

    #[test]
    fn every_edge_and_op_is_drawn_about_equally_often() {
        let mut rng = rng(2, Draw::Weights, 0);
        let mut ops = [0usize; 5];
        let mut edges = [0usize; 5];
        for _ in 0..1000 {
            let cell = Architecture::random(Space::NasBench201, &mut rng);
            ops[cell.ops[3].unwrap()] += 1;
            let cells = Architecture::random(Space::Darts, &mut rng);
            for (count, op) in edges.iter_mut().zip(&cells.ops[rows_into(3)]) {
                *count += usize::from(op.is_some());
            }
        }
        assert!(
            ops.iter().all(|count| (150..250).contains(count)),
            "{ops:?}"
        );
        assert!(
            edges.iter().all(|count| (340..460).contains(count)),
            "{edges:?}"
        );
    }
}
