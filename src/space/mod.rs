//! Search spaces as data: which ops, which edges, which α matrices; genotypes; tabular benchmark.
//!
//! A cell is a small directed graph over numbered *states*. In DARTS states 0 and 1 are the outputs
//! of the two cells before (`c_{k-2}`, `c_{k-1}`) and states 2 to 5 are the cell's own nodes 0 to 3;
//! NASNet has one node more, which its paper calls blocks; in NAS-Bench-201 state 0 is the cell's input and states 1 to 3 are its nodes. Every edge goes
//! from a lower state to a higher one. Row r of an α matrix belongs to edge r of [`Space::edges`],
//! column c to op c of [`Space::op_names`]; both orders are those of the official code, so α moves
//! between the two without a permutation.

use anyhow::bail;
use serde::{Deserialize, Serialize};

pub mod derive;
pub mod genotype;
pub mod ops;
pub mod table;

pub use derive::{Strongest, derive, softmax_cell, strongest};
pub use genotype::{CellGraph, DartsGenotype, Genotype, Nb201Genotype};
pub use ops::{DARTS_CANDIDATES, DartsOp, GenotypeOp, NasnetOp, Nb201Op, SHARP_CANDIDATES};
pub use table::Table;

/// The search spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
pub enum Space {
    /// DARTS: normal and reduction cells of four nodes and eight ops (Liu et al. 2019).
    #[serde(rename = "darts")]
    Darts,
    /// NAS-Bench-201: one cell of six edges and five ops (Dong & Yang 2020).
    #[serde(rename = "nb201")]
    #[value(name = "nb201")]
    NasBench201,
    /// NASNet: normal and reduction cells of five nodes and thirteen ops; a node adds up two of them, which
    /// may read one state (Zoph et al. 2018; of its ways to combine two results addition alone, as the
    /// published cells do).
    #[serde(rename = "nasnet")]
    Nasnet,
}

/// An edge of a cell, between two states (see the module's first paragraph for their numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// State the edge reads.
    pub from: usize,
    /// State (a node) the edge's op result is added to.
    pub to: usize,
}

/// Name and shape of one matrix of architecture parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlphaMatrix {
    /// Name in the reference PyTorch supernet.
    pub name: &'static str,
    /// Rows: one an edge.
    pub edges: usize,
    /// Columns: one an op.
    pub ops: usize,
}

const fn edge(from: usize, to: usize) -> Edge {
    Edge { from, to }
}

/// The edges of as many nodes as `EDGES` suffices for: node i (state i + 2) reads states 0 to i + 1, in this
/// order.
const fn of_two_inputs<const EDGES: usize>() -> [Edge; EDGES] {
    let mut edges = [edge(0, 0); EDGES];
    let (mut next, mut to) = (0, 2);
    while next < EDGES {
        let mut from = 0;
        while from < to {
            edges[next] = edge(from, to);
            next += 1;
            from += 1;
        }
        to += 1;
    }
    edges
}

/// DARTS: four nodes, each reads every state below it.
pub const DARTS_EDGES: [Edge; 14] = of_two_inputs();

/// NASNet: five such nodes.
pub const NASNET_EDGES: [Edge; 20] = of_two_inputs();

/// NAS-Bench-201: 1←0, 2←0, 2←1, 3←0, 3←1, 3←2.
pub const NB201_EDGES: [Edge; 6] = [
    edge(0, 1),
    edge(0, 2),
    edge(1, 2),
    edge(0, 3),
    edge(1, 3),
    edge(2, 3),
];

/// Names of the DARTS ops, in the column order of `alphas_normal` and `alphas_reduce`.
pub const DARTS_OPS: [&str; 8] = DartsOp::NAMES;

/// Names of the NAS-Bench-201 ops, in the column order of `arch_parameters`.
pub const NB201_OPS: [&str; 5] = Nb201Op::NAMES;

/// Names of the NASNet ops, in the column order of its `alphas_normal` and `alphas_reduce`.
pub const NASNET_OPS: [&str; 13] = NasnetOp::NAMES;

const fn of_two_cells(edges: usize, ops: usize) -> [AlphaMatrix; 2] {
    let name = "alphas_normal";
    let normal = AlphaMatrix { name, edges, ops };
    let reduce = AlphaMatrix {
        name: "alphas_reduce",
        ..normal
    };
    [normal, reduce]
}

const DARTS_ALPHAS: [AlphaMatrix; 2] = of_two_cells(DARTS_EDGES.len(), DARTS_OPS.len());
const NASNET_ALPHAS: [AlphaMatrix; 2] = of_two_cells(NASNET_EDGES.len(), NASNET_OPS.len());

const NB201_ALPHAS: [AlphaMatrix; 1] = [AlphaMatrix {
    name: "arch_parameters",
    edges: NB201_EDGES.len(),
    ops: NB201_OPS.len(),
}];

impl Space {
    /// All of them.
    pub const ALL: [Space; 3] = [Space::Darts, Space::NasBench201, Space::Nasnet];

    /// The name on the command line and in files: `darts`, `nb201` or `nasnet`.
    pub fn name(self) -> &'static str {
        match self {
            Space::Darts => "darts",
            Space::NasBench201 => "nb201",
            Space::Nasnet => "nasnet",
        }
    }

    /// All names, for a message: "`darts`, `nb201` or `nasnet`".
    pub fn names() -> String {
        let [first, middle, last] = Space::ALL.map(Space::name);
        format!("`{first}`, `{middle}` or `{last}`")
    }

    /// Candidate ops of an edge, in the column order of the α matrices.
    pub fn op_names(self) -> &'static [&'static str] {
        match self {
            Space::Darts => &DARTS_OPS,
            Space::NasBench201 => &NB201_OPS,
            Space::Nasnet => &NASNET_OPS,
        }
    }

    /// The matrices of architecture parameters.
    pub fn alphas(self) -> &'static [AlphaMatrix] {
        match self {
            Space::Darts => &DARTS_ALPHAS,
            Space::NasBench201 => &NB201_ALPHAS,
            Space::Nasnet => &NASNET_ALPHAS,
        }
    }

    /// Edges of a cell, in the row order of the α matrices.
    pub fn edges(self) -> &'static [Edge] {
        match self {
            Space::Darts => &DARTS_EDGES,
            Space::NasBench201 => &NB201_EDGES,
            Space::Nasnet => &NASNET_EDGES,
        }
    }

    /// Nodes of a cell: the states that it computes.
    pub fn nodes(self) -> usize {
        match self {
            Space::Darts => 4,
            Space::NasBench201 => 3,
            Space::Nasnet => 5,
        }
    }

    /// Names of a cell's states by number; DARTS nodes are `0` to `3` as in the official drawings.
    pub fn state_names(self) -> &'static [&'static str] {
        match self {
            Space::Darts => &["c_{k-2}", "c_{k-1}", "0", "1", "2", "3"],
            Space::NasBench201 => &["0", "1", "2", "3"],
            Space::Nasnet => &["c_{k-2}", "c_{k-1}", "0", "1", "2", "3", "4"],
        }
    }

    /// A label for each edge, such as `c_{k-2} → 0`, in the order of [`Space::edges`].
    pub fn edge_labels(self) -> Vec<String> {
        let names = self.state_names();
        self.edges()
            .iter()
            .map(|edge| format!("{} → {}", names[edge.from], names[edge.to]))
            .collect()
    }
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Space {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Space::ALL.into_iter().find(|space| space.name() == text) {
            Some(space) => Ok(space),
            None => bail!(
                "expected the search space {}, found {}",
                Space::names(),
                quoted(text)
            ),
        }
    }
}

/// The first characters of outside text, quoted and with control characters escaped, for an error
/// message that stays one short line whatever was found.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 48;
    let head: String = text.chars().take(LONGEST).collect();
    let more = if head.len() < text.len() { "…" } else { "" };
    format!("`{}{more}`", head.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_agree_with_serde_and_clap() {
        for space in Space::ALL {
            assert_eq!(space.to_string().parse::<Space>().unwrap(), space);
            assert_eq!(serde_json::to_value(space).unwrap(), space.name());
            let value = clap::ValueEnum::to_possible_value(&space).unwrap();
            assert_eq!(value.get_name(), space.name());
        }
        let error = "nb301".parse::<Space>().unwrap_err().to_string();
        assert!(error.contains("`nb301`") && error.contains("nb201"));
    }

    #[test]
    fn a_node_of_darts_and_nasnet_reads_every_state_below_it_in_order() {
        for space in [Space::Darts, Space::Nasnet] {
            let mut edges = Vec::new();
            for node in 0..space.nodes() {
                edges.extend((0..node + 2).map(|from| edge(from, node + 2)));
            }
            assert_eq!(space.edges(), edges);
            assert_eq!(space.state_names().len(), 2 + space.nodes());
        }
        assert_eq!(Space::Darts.edge_labels()[0], "c_{k-2} → 0");
        assert_eq!(Space::Darts.edge_labels()[13], "2 → 3");
        assert_eq!(
            Space::NasBench201.edge_labels(),
            ["0 → 1", "0 → 2", "1 → 2", "0 → 3", "1 → 3", "2 → 3"]
        );
    }

    #[test]
    fn alpha_matrices_have_the_shapes_of_the_reference_supernets() {
        let shapes = |space: Space| -> Vec<_> {
            let alphas = space.alphas().iter();
            alphas.map(|a| (a.name, a.edges, a.ops)).collect()
        };
        assert_eq!(
            shapes(Space::Darts),
            [("alphas_normal", 14, 8), ("alphas_reduce", 14, 8)]
        );
        assert_eq!(shapes(Space::NasBench201), [("arch_parameters", 6, 5)]);
        assert_eq!(
            shapes(Space::Nasnet),
            [("alphas_normal", 20, 13), ("alphas_reduce", 20, 13)]
        );
    }

    #[test]
    fn quoted_text_is_short_and_has_no_control_characters() {
        assert_eq!(quoted("a\nb"), "`a\\nb`");
        assert!(quoted(&"é".repeat(1000)).chars().count() < 60);
    }
}
