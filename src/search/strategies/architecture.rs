//! Op weights as a strategy gives them, and architectures: an op, or none of them, on every edge.

use crate::autograd::Executor;
use crate::device::Vector;
use crate::device::random::PhiloxRng;
use crate::ops::dropout::Draw;
use crate::space::genotype::darts::EDGES_PER_NODE;
use crate::space::{
    DartsGenotype, DartsOp, Edge, Genotype, GenotypeOp, NB201_EDGES, NasnetOp, Nb201Genotype,
    Nb201Op, Space,
};
use anyhow::ensure;
use rand::RngExt;
use std::ops::Range;

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

/// A choice for each row: an op by its column, or no op. A row is an edge of an α matrix; in the DARTS space
/// two rows into each node have an op, in NAS-Bench-201 all six have. In the NASNet space a node may read one
/// state twice, so each matrix has its edges twice, for the first op of a node and for the second, and one row
/// of either has an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    space: Space,
    ops: Vec<Option<usize>>,
}

/// The edges of a DARTS or NASNet matrix that lead into each node, whose states are counted from 0.
fn edges_into(node: usize) -> Range<usize> {
    let first = node * (node + 3) / 2;
    first..first + node + 2
}

/// How often the edges of each α matrix stand among the rows.
fn copies(space: Space) -> usize {
    match space {
        Space::Darts | Space::NasBench201 => 1,
        Space::Nasnet => EDGES_PER_NODE,
    }
}

/// Rows of which as many as said have an op, in the order in which they are drawn. DARTS and NASNet: those of
/// each node of each cell, in NASNet of its first op and then of its second.
fn groups(space: Space) -> Vec<(Range<usize>, usize)> {
    let edges = space.edges().len();
    if space == Space::NasBench201 {
        return (0..edges).map(|row| (row..row + 1, 1)).collect();
    }
    let copies = copies(space);
    let mut groups = Vec::new();
    for cell in 0..space.alphas().len() {
        for node in 0..space.nodes() {
            for copy in 0..copies {
                let first = (cell * copies + copy) * edges;
                let rows = edges_into(node);
                let rows = first + rows.start..first + rows.end;
                groups.push((rows, EDGES_PER_NODE / copies));
            }
        }
    }
    groups
}

/// Two different numbers below `count`, drawn uniformly.
fn two_of(count: usize, rng: &mut PhiloxRng) -> [usize; 2] {
    let first = rng.random_range(0..count);
    let second = rng.random_range(0..count - 1);
    [first, second + usize::from(second >= first)]
}

impl Architecture {
    /// Drawn uniformly: op by op, and in the DARTS and NASNet spaces the edges into each node first. `none` is
    /// an op like the others, as in the official code of random search and of NAS-Bench-201.
    pub fn random(space: Space, rng: &mut PhiloxRng) -> Architecture {
        let ops = space.op_names().len();
        let mut chosen = vec![None; Architecture::state_len(space)];
        for (rows, count) in groups(space) {
            let picked = match (count, rows.len()) {
                (2, len) => two_of(len, rng).to_vec(),
                (_, 1) => vec![0],
                (_, len) => vec![rng.random_range(0..len)],
            };
            for row in picked {
                chosen[rows.start + row] = Some(rng.random_range(0..ops));
            }
        }
        Architecture { space, ops: chosen }
    }

    /// That of two (state, op) for each node of each cell in turn, in the DARTS or the NASNet space.
    pub(super) fn of_pairs(
        space: Space,
        pairs: impl Iterator<Item = (usize, usize)>,
    ) -> Architecture {
        let mut ops = vec![None; Architecture::state_len(space)];
        let groups = groups(space);
        for (number, (state, op)) in pairs.enumerate() {
            // Two ops a node, and as many groups as each has copies of its edges.
            let (rows, _) = &groups[number * copies(space) / EDGES_PER_NODE];
            ops[rows.start + state] = Some(op);
        }
        Architecture::of(space, ops)
    }

    /// That of a choice for each edge, which is one of the space's.
    pub(super) fn of(space: Space, ops: Vec<Option<usize>>) -> Architecture {
        debug_assert_eq!(ops.len(), Architecture::state_len(space));
        Architecture { space, ops }
    }

    /// A copy with one change. In NAS-Bench-201 another op on an edge: a node is drawn first and then one of
    /// its edges, as the official code draws. In the DARTS and NASNet spaces, for a node of either cell,
    /// another op on one of its two edges or another state for it, equally likely where there is another (Real
    /// et al. 2019).
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
            Space::Darts | Space::Nasnet => {
                let (nodes, copies) = (self.space.nodes(), copies(self.space));
                let cell = rng.random_range(0..2) * nodes;
                let node = cell + rng.random_range(0..nodes);
                let place = rng.random_range(0..EDGES_PER_NODE);
                // A node's two ops share a group, or have one each.
                let (copy, place) = (place % copies, place / copies);
                let (rows, _) = groups(self.space).swap_remove(node * copies + copy);
                let of = |chosen: bool| {
                    let rows = rows.clone();
                    rows.filter(move |&row| self.ops[row].is_some() == chosen)
                };
                let edge = of(true).nth(place).expect("two edges into each node");
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

    /// The choice for each row.
    pub fn ops(&self) -> &[Option<usize>] {
        &self.ops
    }

    /// The part of some architectures, at least one, that has each op, in α's order.
    pub(super) fn shares<'a>(
        architectures: impl ExactSizeIterator<Item = &'a Architecture>,
    ) -> Vec<f32> {
        let part = 1.0 / architectures.len() as f32;
        let mut shares = Vec::new();
        for architecture in architectures {
            let active = architecture.weighting().active;
            shares.resize(active.len(), 0.0);
            for (share, _) in shares.iter_mut().zip(active).filter(|(_, active)| *active) {
                *share += part;
            }
        }
        shares.iter().map(|share: &f32| share.min(1.0)).collect()
    }

    /// Its ops at weight one, the others off; an op that both of a node's are, on one state, at two.
    pub fn weighting(&self) -> Weighting {
        let ops = self.space.op_names().len();
        let matrices = self.ops.chunks(self.ops.len() / self.space.alphas().len());
        let edges = self.space.edges().len();
        let mut whole = Weighting::of_all(Vec::new());
        for rows in matrices {
            let mut copies = rows.chunks(edges);
            let mut sum = Weighting::of_chosen(copies.next().unwrap_or_default(), ops);
            for copy in copies {
                let other = Weighting::of_chosen(copy, ops);
                for (value, add) in sum.values.iter_mut().zip(other.values) {
                    *value += add;
                }
            }
            whole
                .active
                .extend(sum.values.iter().map(|&value| value > 0.0));
            whole.values.extend(sum.values);
        }
        whole
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
                let [normal, reduce] = self.cells(|op| DartsOp::ALL[op].into());
                Genotype::Darts(DartsGenotype::of_cells(normal, reduce))
            }
            Space::Nasnet => {
                let [normal, reduce] = self.cells(|op| NasnetOp::ALL[op].into());
                Genotype::Darts(DartsGenotype::of_unread(normal, reduce))
            }
        }
    }

    /// (op, state) of each node in turn, of the normal and the reduction cell; `named` names a column.
    fn cells(&self, named: impl Fn(usize) -> GenotypeOp) -> [Vec<(GenotypeOp, usize)>; 2] {
        let mut cells = [Vec::new(), Vec::new()];
        for (rows, _) in groups(self.space) {
            let cell = rows.start * cells.len() / self.ops.len();
            for (state, op) in self.ops[rows].iter().enumerate() {
                cells[cell].extend(op.map(|op| (named(op), state)));
            }
        }
        cells
    }

    /// Numbers to keep in a checkpoint: the column of each edge's op, −1 for no op.
    pub fn to_state(&self) -> impl Iterator<Item = f32> {
        let number = |op: &Option<usize>| op.map_or(-1.0, |op| op as f32);
        self.ops.iter().map(number)
    }

    /// Numbers that [`Architecture::to_state`] gives.
    pub fn state_len(space: Space) -> usize {
        let edges: usize = space.alphas().iter().map(|matrix| matrix.edges).sum();
        copies(space) * edges
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
        let whole = groups(space).into_iter().all(|(rows, count)| {
            let chosen = found.ops.get(rows).unwrap_or_default();
            chosen.iter().flatten().count() == count
        });
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
                let chosen = drawn.ops.iter().flatten().count();
                assert_eq!(weighting.values.iter().sum::<f32>(), chosen as f32);
                assert_eq!(weighting.values.len(), weighting.active.len());
                for (value, active) in weighting.values.iter().zip(weighting.active) {
                    assert_eq!(*value > 0.0, active);
                }
            }
            assert!(Architecture::from_state(space, &[0.0; 3]).is_err());
        }
        assert!(Architecture::from_state(Space::NasBench201, &[5.0; 6]).is_err());
        assert!(Architecture::from_state(Space::Darts, &[1.0; 28]).is_err());
    }

    #[test]
    fn both_ops_of_a_nasnet_node_may_read_one_state_and_be_one_op() {
        let pairs = |ops: [usize; 2]| {
            (0..10)
                .map(move |_| (0, ops[0]))
                .zip((0..10).map(move |_| (0, ops[1])))
        };
        let of = |ops| {
            let pairs = pairs(ops).flat_map(|(first, second)| [first, second]);
            Architecture::of_pairs(Space::Nasnet, pairs)
        };
        let same = of([4, 4]).weighting();
        assert_eq!(same.active.iter().filter(|&&active| active).count(), 10);
        assert_eq!(same.values[4], 2.0);
        let two = of([4, 7]).weighting();
        assert_eq!([two.values[4], two.values[7]], [1.0; 2]);
        let Genotype::Darts(genotype) = of([4, 7]).genotype() else {
            unreachable!("NASNet has DARTS genotypes")
        };
        let node = [(GenotypeOp::AvgPool3x3, 0), (GenotypeOp::MaxPool7x7, 0)];
        assert_eq!(genotype.normal, node.repeat(5));
        assert_eq!(genotype.reduce_concat, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_published_nasnet_is_an_architecture_of_its_space() {
        let Genotype::Darts(published) = "NASNet".parse().unwrap() else {
            unreachable!("of DARTS' kind")
        };
        let column = |op: GenotypeOp| {
            let mut ops = NasnetOp::ALL.into_iter();
            ops.position(|own| GenotypeOp::from(own) == op).unwrap()
        };
        let pairs = published.normal.iter().chain(&published.reduce);
        let pairs = pairs.map(|&(op, state)| (state, column(op)));
        let found = Architecture::of_pairs(Space::Nasnet, pairs);
        // What no node reads is what the paper's cells concatenate.
        assert_eq!(found.genotype(), Genotype::Darts(published));
        let state: Vec<f32> = found.to_state().collect();
        assert_eq!(
            Architecture::from_state(Space::Nasnet, &state).unwrap(),
            found
        );
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
            for (count, op) in edges.iter_mut().zip(&cells.ops[edges_into(3)]) {
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
