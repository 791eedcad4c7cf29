//! From architecture parameters α to a genotype, as published.
//!
//! DARTS (Liu et al. 2019, section 2.4; `_parse` of the official code): softmax each edge's row;
//! a node keeps the two edges whose strongest op other than `none` is strongest, strongest first,
//! and that op on each. NAS-Bench-201 (Dong & Yang 2020): the strongest op of every edge, `none`
//! included. The NASNet space has no published way from α; here it goes as DARTS does, over all thirteen
//! ops, and a cell concatenates the nodes that none reads. Ties go to the lower edge or op, as Python's stable `sorted` and strict `>` do.

use anyhow::{Result, bail};

use super::genotype::darts::{EDGES_PER_NODE, NODES};
use super::{
    AlphaMatrix, DARTS_CANDIDATES, DartsGenotype, Genotype, GenotypeOp, NasnetOp, Nb201Genotype,
    Nb201Op, Space, quoted,
};

/// Derives the genotype of α matrices given by name, each row-major [edges, ops].
///
/// # Errors
/// A matrix of the space that is missing, given twice, of another size or not finite, and a name
/// the space does not have.
pub fn derive(space: Space, alphas: &[(&str, &[f32])]) -> Result<Genotype> {
    for (name, _) in alphas {
        if !space.alphas().iter().any(|matrix| matrix.name == *name) {
            bail!(
                "genotype derivation: {} is no α matrix of space {space} (expected {})",
                quoted(name),
                matrix_names(space)
            );
        }
    }
    match space {
        Space::Darts => {
            let [normal, reduce] = [0, 1].map(|index| find(&space.alphas()[index], alphas));
            let [normal, reduce] =
                [normal?, reduce?].map(|alphas| softmax_cell(alphas, &DARTS_CANDIDATES));
            Ok(Genotype::Darts(DartsGenotype::of_cells(normal, reduce)))
        }
        Space::Nasnet => {
            let [normal, reduce] = [0, 1].map(|index| find(&space.alphas()[index], alphas));
            let (normal, reduce) = (nasnet_cell(normal?), nasnet_cell(reduce?));
            Ok(Genotype::Darts(DartsGenotype::of_unread(normal, reduce)))
        }
        Space::NasBench201 => {
            let matrix = find(&space.alphas()[0], alphas)?;
            let mut ops = [Nb201Op::None; super::NB201_EDGES.len()];
            for (op, row) in ops.iter_mut().zip(matrix.chunks_exact(Nb201Op::ALL.len())) {
                *op = Nb201Op::ALL[first_maximum(row)];
            }
            Ok(Genotype::Nb201(Nb201Genotype { ops }))
        }
    }
}

fn matrix_names(space: Space) -> String {
    let names: Vec<&str> = space.alphas().iter().map(|matrix| matrix.name).collect();
    names.join(", ")
}

/// Finds a matrix by name and checks its size and that it is finite.
fn find<'a>(matrix: &AlphaMatrix, alphas: &[(&str, &'a [f32])]) -> Result<&'a [f32]> {
    let AlphaMatrix { name, edges, ops } = *matrix;
    let mut found = alphas.iter().filter(|(given, _)| *given == name);
    let Some((_, values)) = found.next() else {
        bail!("genotype derivation: α matrix `{name}` [{edges}, {ops}] is missing");
    };
    if found.next().is_some() {
        bail!("genotype derivation: α matrix `{name}` is given twice, expected it once");
    }
    if values.len() != edges * ops {
        bail!(
            "genotype derivation: expected {} values in α matrix `{name}` [{edges}, {ops}], found {}",
            edges * ops,
            values.len()
        );
    }
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        bail!(
            "genotype derivation: expected finite numbers in α matrix `{name}`, found {} at [{}, {}]",
            values[at],
            at / ops,
            at % ops
        );
    }
    Ok(values)
}

/// The cell of α `[14, ops]` that DARTS derives, by softmax and [`strongest`].
pub fn softmax_cell(alphas: &[f32], ops: &[GenotypeOp]) -> Vec<(GenotypeOp, usize)> {
    let rows = alphas.chunks_exact(ops.len());
    let weights: Vec<f32> = rows.flat_map(softmax).collect();
    let chosen = strongest(&weights, ops).into_iter();
    chosen.map(|edge| (edge.op, edge.from)).collect()
}

fn nasnet_cell(alphas: &[f32]) -> Vec<(GenotypeOp, usize)> {
    let ops = NasnetOp::ALL.map(GenotypeOp::from);
    let rows = alphas.chunks_exact(ops.len());
    let weights: Vec<f32> = rows.flat_map(softmax).collect();
    let chosen = strongest_edges(&weights, &ops, 0).into_iter();
    chosen.map(|edge| (edge.op, edge.from)).collect()
}

/// An edge that a node keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strongest {
    /// The weight of its op.
    pub weight: f32,
    /// Its strongest op other than `none`.
    pub op: GenotypeOp,
    /// The state that it reads.
    pub from: usize,
    /// Its row.
    pub edge: usize,
}

/// The two edges that each node of a DARTS cell keeps by the weights of the candidates `ops`, `[14, ops]`: those
/// whose strongest op other than `none`, the first, is strongest, in order of falling strength.
pub fn strongest(weights: &[f32], ops: &[GenotypeOp]) -> Vec<Strongest> {
    strongest_edges(weights, ops, 1)
}

/// As [`strongest`] over any `ops` but those before `first`, of a cell of as many nodes as have op weights.
fn strongest_edges(weights: &[f32], ops: &[GenotypeOp], first: usize) -> Vec<Strongest> {
    let mut cell = Vec::with_capacity(NODES * EDGES_PER_NODE);
    let mut rows = weights.chunks_exact(ops.len()).enumerate();
    for node in 0.. {
        let mut candidates: Vec<Strongest> = rows
            .by_ref()
            .take(node + 2)
            .enumerate()
            .map(|(from, (edge, row))| {
                let op = first + first_maximum(&row[first..]);
                Strongest {
                    weight: row[op],
                    op: ops[op],
                    from,
                    edge,
                }
            })
            .collect();
        if candidates.is_empty() {
            break;
        }
        // Stable, so equal strengths keep the lower state first.
        candidates.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        cell.extend(candidates.iter().take(EDGES_PER_NODE));
    }
    cell
}

/// Softmax in f32, as the official code computes it, so that ties after rounding are its ties.
fn softmax(row: &[f32]) -> Vec<f32> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = row.iter().map(|value| (value - largest).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.iter().map(|value| value / sum).collect()
}

/// Index of the largest value, the lowest of equals.
fn first_maximum(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{DartsOp, SHARP_CANDIDATES};
    use super::*;

    fn darts(normal: &[f32], reduce: &[f32]) -> DartsGenotype {
        let alphas = [("alphas_reduce", reduce), ("alphas_normal", normal)];
        match derive(Space::Darts, &alphas).unwrap() {
            Genotype::Darts(genotype) => genotype,
            Genotype::Nb201(_) => unreachable!("the space is DARTS"),
        }
    }

    #[test]
    fn equal_alphas_tie_to_the_lowest_edges_and_the_first_op_behind_none() {
        let genotype = darts(&[0.0; 14 * 8], &[0.5; 14 * 8]);
        let first = [(GenotypeOp::MaxPool3x3, 0), (GenotypeOp::MaxPool3x3, 1)];
        assert_eq!(genotype.normal, first.repeat(4));
        assert_eq!(genotype.reduce, first.repeat(4));
        assert_eq!(genotype.normal_concat, [2, 3, 4, 5]);
        genotype.validate().unwrap();
    }

    #[test]
    fn darts_keeps_the_two_strongest_edges_strongest_first_and_never_none() {
        let mut alphas = vec![0.0; 14 * 8];
        // Node 3 has rows 9 to 13; `none` is strongest everywhere and must not count.
        for row in 9..14 {
            alphas[row * 8] = 2.0;
        }
        alphas[13 * 8 + DartsOp::DilConv5x5.index()] = 1.5;
        alphas[11 * 8 + DartsOp::SkipConnect.index()] = 1.0;
        let genotype = darts(&alphas, &vec![0.0; 14 * 8]);
        assert_eq!(
            genotype.normal[6..],
            [(GenotypeOp::DilConv5x5, 4), (GenotypeOp::SkipConnect, 2)]
        );
    }

    #[test]
    fn a_strong_none_weakens_its_edge_through_the_softmax() {
        let mut alphas = vec![0.0; 14 * 8];
        // Node 1 has rows 2 to 4. Edge 0 has the largest α, but `none` takes its weight away.
        alphas[2 * 8] = 10.0;
        alphas[2 * 8 + 4] = 1.2;
        alphas[3 * 8 + 5] = 1.0;
        alphas[4 * 8 + 6] = 1.1;
        let genotype = darts(&alphas, &vec![0.0; 14 * 8]);
        assert_eq!(
            genotype.normal[2..4],
            [(GenotypeOp::DilConv3x3, 2), (GenotypeOp::SepConv5x5, 1)]
        );
    }

    #[test]
    fn a_cell_of_other_candidates_is_derived_by_their_columns() {
        let ops = SHARP_CANDIDATES.len();
        let mut alphas = vec![0.0; 14 * ops];
        let mut set = |row: usize, op: GenotypeOp, value| {
            let column = SHARP_CANDIDATES.iter().position(|&known| known == op);
            alphas[row * ops + column.unwrap()] = value;
        };
        set(13, GenotypeOp::DilChokeConv3x3, 1.5);
        set(11, GenotypeOp::FloodConv3x3, 1.0);
        set(9, GenotypeOp::None, 9.0);
        let cell = softmax_cell(&alphas, &SHARP_CANDIDATES);
        let expected = [
            (GenotypeOp::DilChokeConv3x3, 4),
            (GenotypeOp::FloodConv3x3, 2),
        ];
        assert_eq!(cell[6..], expected);
    }

    #[test]
    fn nasnet_keeps_two_edges_a_node_and_concatenates_the_nodes_that_none_reads() {
        let mut alphas = vec![0.0; 20 * 13];
        // Node 4 has rows 14 to 19: of its states the last two are strongest, nodes 2 and 3.
        alphas[18 * 13 + NasnetOp::MaxPool7x7.index()] = 1.0;
        alphas[19 * 13 + NasnetOp::SkipConnect.index()] = 2.0;
        let even = vec![0.0; 20 * 13];
        let alphas = [
            ("alphas_normal", alphas.as_slice()),
            ("alphas_reduce", &even),
        ];
        let Genotype::Darts(found) = derive(Space::Nasnet, &alphas).unwrap() else {
            unreachable!("NASNet has DARTS genotypes")
        };
        found.validate().unwrap();
        // Equal weights tie to the first op, which counts here: there is no `none`.
        let first = [(GenotypeOp::SkipConnect, 0), (GenotypeOp::SkipConnect, 1)];
        assert_eq!(found.normal[..8], first.repeat(4));
        let last = [(GenotypeOp::SkipConnect, 5), (GenotypeOp::MaxPool7x7, 4)];
        assert_eq!(found.normal[8..], last);
        assert_eq!(found.normal_concat, [2, 3, 6]);
        assert_eq!(found.reduce, first.repeat(5));
        assert_eq!(found.reduce_concat, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn nb201_takes_the_strongest_op_of_each_edge_none_included() {
        let mut alphas = [0.0f32; 30];
        for (edge, op) in [3, 2, 4, 1, 0, 3].into_iter().enumerate() {
            alphas[edge * 5 + op] = 0.1;
        }
        let genotype = derive(Space::NasBench201, &[("arch_parameters", &alphas)]).unwrap();
        assert_eq!(
            genotype.to_string(),
            "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
        );
    }

    #[test]
    fn wrong_matrices_are_named() {
        let good = [0.0f32; 30];
        let mut bad = good;
        bad[7] = f32::NAN;
        let error =
            |alphas: &[(&str, &[f32])]| derive(Space::NasBench201, alphas).unwrap_err().to_string();
        assert!(error(&[]).contains("`arch_parameters` [6, 5] is missing"));
        assert!(error(&[("alpha", &good)]).contains("`alpha` is no α matrix"));
        assert!(error(&[("arch_parameters", &good[..29])]).contains("found 29"));
        assert!(error(&[("arch_parameters", &bad)]).contains("NaN at [1, 2]"));
        let twice: [(&str, &[f32]); 2] = [("arch_parameters", &good); 2];
        assert!(error(&twice).contains("twice"));
    }

    proptest! {
        #[test]
        fn every_finite_alpha_derives_a_valid_genotype(
            normal in proptest::collection::vec(proptest::num::f32::NORMAL, 14 * 8),
            reduce in proptest::collection::vec(-3.0f32..3.0, 14 * 8),
        ) {
            let genotype = darts(&normal, &reduce);
            genotype.validate().unwrap();
            let kept = genotype.normal.iter().chain(&genotype.reduce);
            prop_assert!(kept.clone().all(|(op, _)| *op != GenotypeOp::None));
            for pair in genotype.normal.chunks_exact(2).chain(genotype.reduce.chunks_exact(2)) {
                prop_assert!(pair[0].1 != pair[1].1);
            }
        }
    }
}
