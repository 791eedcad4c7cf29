//! Genotypes: the discrete architecture that a search ends with, as text, as JSON and as a graph.
//!
//! The text is the one PyTorch users paste: `Genotype(normal=[…], …)` for DARTS ([`darts`]) or
//! `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|` for NAS-Bench-201 ([`nb201`]). The JSON of
//! `genotype.json` carries the same text beside a structured copy; reading it back checks that the
//! two agree, so an edit of one alone is noticed.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{GenotypeOp, Space, quoted};

pub mod darts;
mod darts_text;
pub mod known;
pub mod nb201;

pub use darts::DartsGenotype;
pub use nb201::Nb201Genotype;

/// Longest genotype text that is read, in bytes; a genotype needs under 1 kB.
pub const LONGEST_TEXT: usize = 64 * 1024;

/// A discrete architecture of either space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Genotype {
    /// A pair of DARTS cells.
    Darts(DartsGenotype),
    /// A NAS-Bench-201 cell.
    Nb201(Nb201Genotype),
}

/// A cell as a drawing needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellGraph {
    /// `normal`, `reduction` or `cell`.
    pub name: String,
    /// Node labels. DARTS: `c_{k-2}`, `c_{k-1}`, `0`, `1`, …, `c_{k}`; NAS-Bench-201: `0` … `3`.
    pub nodes: Vec<String>,
    /// (from, to, op name) by index into `nodes`. `none` is no edge; the edges into `c_{k}`, which
    /// concatenate, have an empty label.
    pub edges: Vec<(usize, usize, String)>,
}

/// One cell in `genotype.json`, over the states of [`crate::space`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CellDocument {
    name: String,
    edges: Vec<EdgeDocument>,
    /// States whose concatenation (one state: which itself) is the cell's output.
    output: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeDocument {
    from: usize,
    to: usize,
    op: String,
}

/// All of `genotype.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    space: Space,
    text: String,
    cells: Vec<CellDocument>,
}

impl Genotype {
    /// The space whose kind of genotype it is: DARTS' for the cells of the NASNet space too.
    pub fn space(&self) -> Space {
        match self {
            Genotype::Darts(_) => Space::Darts,
            Genotype::Nb201(_) => Space::NasBench201,
        }
    }

    /// The cells as graphs to draw: `normal` and `reduction`, or `cell`.
    pub fn cells(&self) -> Vec<CellGraph> {
        let draw = |cell: CellDocument| {
            let mut nodes: Vec<String> = match self {
                Genotype::Darts(_) => {
                    let own = cell.edges.len() / darts::EDGES_PER_NODE;
                    let inputs = ["c_{k-2}", "c_{k-1}"].map(str::to_owned);
                    inputs
                        .into_iter()
                        .chain((0..own).map(|node| node.to_string()))
                        .collect()
                }
                Genotype::Nb201(_) => (0..=3).map(|node| node.to_string()).collect(),
            };
            let mut edges: Vec<_> = cell
                .edges
                .into_iter()
                .filter(|edge| edge.op != "none")
                .map(|edge| (edge.from, edge.to, edge.op))
                .collect();
            if self.space() == Space::Darts {
                let output = nodes.len();
                nodes.push("c_{k}".to_owned());
                edges.extend(
                    cell.output
                        .into_iter()
                        .map(|from| (from, output, String::new())),
                );
            }
            CellGraph {
                name: cell.name,
                nodes,
                edges,
            }
        };
        self.cell_documents().into_iter().map(draw).collect()
    }

    fn cell_documents(&self) -> Vec<CellDocument> {
        match self {
            Genotype::Darts(genotype) => {
                let cell = |name: &str, edges: &[(GenotypeOp, usize)], concat: &[usize]| {
                    let edge =
                        |(position, &(op, from)): (usize, &(GenotypeOp, usize))| EdgeDocument {
                            from,
                            to: position / 2 + 2,
                            op: op.name().to_owned(),
                        };
                    CellDocument {
                        name: name.to_owned(),
                        edges: edges.iter().enumerate().map(edge).collect(),
                        output: concat.to_vec(),
                    }
                };
                vec![
                    cell("normal", &genotype.normal, &genotype.normal_concat),
                    cell("reduction", &genotype.reduce, &genotype.reduce_concat),
                ]
            }
            Genotype::Nb201(genotype) => {
                let edges = Space::NasBench201.edges().iter().zip(genotype.ops);
                vec![CellDocument {
                    name: "cell".to_owned(),
                    edges: edges
                        .map(|(edge, op)| EdgeDocument {
                            from: edge.from,
                            to: edge.to,
                            op: op.name().to_owned(),
                        })
                        .collect(),
                    output: vec![3],
                }]
            }
        }
    }

    fn document(&self) -> Document {
        Document {
            space: self.space(),
            text: self.to_string(),
            cells: self.cell_documents(),
        }
    }
}

impl fmt::Display for Genotype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Genotype::Darts(genotype) => genotype.fmt(f),
            Genotype::Nb201(genotype) => genotype.fmt(f),
        }
    }
}

impl FromStr for Genotype {
    type Err = anyhow::Error;

    /// Reads either text: one that starts with `|` is a NAS-Bench-201 cell, one that starts with a
    /// name is DARTS; a name alone is that of a published genotype ([`known`]).
    fn from_str(text: &str) -> Result<Self> {
        if known::looks_like_a_name(text) {
            return Ok(Genotype::Darts(known::named(text.trim())?));
        }
        match text.trim_start().chars().next() {
            Some('|') => Ok(Genotype::Nb201(text.parse()?)),
            Some(first) if first.is_ascii_alphabetic() || first == '_' => {
                Ok(Genotype::Darts(text.parse()?))
            }
            _ => bail!(
                "genotype: expected `Genotype(normal=[…], …)`, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|` or the name of a published genotype, found {}",
                if text.trim().is_empty() {
                    "an empty text".to_owned()
                } else {
                    quoted(text)
                }
            ),
        }
    }
}

impl From<DartsGenotype> for Genotype {
    fn from(genotype: DartsGenotype) -> Self {
        Genotype::Darts(genotype)
    }
}

impl From<Nb201Genotype> for Genotype {
    fn from(genotype: Nb201Genotype) -> Self {
        Genotype::Nb201(genotype)
    }
}

impl Serialize for Genotype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Genotype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let found = Document::deserialize(deserializer)?;
        let genotype: Genotype = found.text.parse().map_err(D::Error::custom)?;
        if genotype.space() != found.space {
            return Err(D::Error::custom(format!(
                "genotype: `space` says {} but `text` is a genotype of {}",
                found.space,
                genotype.space()
            )));
        }
        if genotype.cell_documents() != found.cells {
            return Err(D::Error::custom(
                "genotype: `cells` and `text` describe different architectures",
            ));
        }
        Ok(genotype)
    }
}

/// Refuses a text that is too long to be a genotype before it is looked at.
fn check_length(text: &str) -> Result<()> {
    if text.len() > LONGEST_TEXT {
        bail!(
            "genotype: expected a text of at most {LONGEST_TEXT} bytes, found {} bytes that start {}",
            text.len(),
            quoted(text)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Nb201Op;
    use super::*;

    fn darts() -> DartsGenotype {
        let edges = vec![
            (GenotypeOp::SepConv3x3, 1),
            (GenotypeOp::SkipConnect, 0),
            (GenotypeOp::DilConv5x5, 2),
            (GenotypeOp::MaxPool3x3, 0),
            (GenotypeOp::SepConv5x5, 3),
            (GenotypeOp::AvgPool3x3, 1),
            (GenotypeOp::SkipConnect, 4),
            (GenotypeOp::None, 0),
        ];
        DartsGenotype {
            normal: edges.clone(),
            normal_concat: (2..6).collect(),
            reduce: edges,
            reduce_concat: vec![3, 5],
        }
    }

    #[test]
    fn the_text_tells_its_space_by_its_look() {
        let genotype: Genotype = darts().into();
        assert_eq!(genotype.to_string().parse::<Genotype>().unwrap(), genotype);
        let cell = Genotype::Nb201(Nb201Genotype::from_index(12_345).unwrap());
        assert_eq!(cell.to_string().parse::<Genotype>().unwrap(), cell);
        for text in ["", "  ", "42", "(normal)"] {
            let error = text.parse::<Genotype>().unwrap_err().to_string();
            assert!(error.contains("Genotype(normal="), "{error}");
        }
    }

    #[test]
    fn json_round_trips_and_notices_an_edit_of_one_copy() {
        for genotype in [
            Genotype::from(darts()),
            Genotype::from(Nb201Genotype::from_index(7_001).unwrap()),
        ] {
            let json = serde_json::to_string_pretty(&genotype).unwrap();
            assert_eq!(serde_json::from_str::<Genotype>(&json).unwrap(), genotype);
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value["text"], genotype.to_string());
            let mut edited = value.clone();
            edited["cells"][0]["edges"][0]["op"] = "dil_conv_3x3".into();
            let error = serde_json::from_value::<Genotype>(edited).unwrap_err();
            assert!(
                error.to_string().contains("different architectures"),
                "{error}"
            );
            let mut edited = value;
            edited["space"] = if genotype.space() == Space::Darts {
                "nb201"
            } else {
                "darts"
            }
            .into();
            let error = serde_json::from_value::<Genotype>(edited).unwrap_err();
            assert!(error.to_string().contains("`space` says"), "{error}");
        }
    }

    #[test]
    fn cell_graphs_name_their_nodes_and_leave_out_none() {
        let cells = Genotype::from(darts()).cells();
        assert_eq!(cells.len(), 2);
        assert_eq!(cells[0].name, "normal");
        assert_eq!(cells[1].name, "reduction");
        assert_eq!(
            cells[0].nodes,
            ["c_{k-2}", "c_{k-1}", "0", "1", "2", "3", "c_{k}"]
        );
        assert_eq!(cells[0].edges.len(), 7 + 4);
        assert_eq!(cells[1].edges.len(), 7 + 2);
        assert_eq!(cells[0].edges[0], (1, 2, "sep_conv_3x3".to_owned()));
        assert_eq!(cells[1].edges[8], (5, 6, String::new()));

        let mut ops = [Nb201Op::NorConv3x3; 6];
        ops[2] = Nb201Op::None;
        let cells = Genotype::from(Nb201Genotype { ops }).cells();
        assert_eq!(cells[0].name, "cell");
        assert_eq!(cells[0].nodes, ["0", "1", "2", "3"]);
        assert_eq!(cells[0].edges.len(), 5);
        assert!(
            !cells[0]
                .edges
                .iter()
                .any(|(from, to, _)| (*from, *to) == (1, 2))
        );
    }
}
