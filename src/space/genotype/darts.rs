//! The DARTS genotype: a normal and a reduction cell.
//!
//! A cell is (op, state) pairs, two a node in node order, as in `genotypes.py` of the official code;
//! pair p is an edge from its state into node p / 2 (state p / 2 + 2). A search over the DARTS space
//! ends with four nodes, all concatenated, one over the NASNet space with five, of which those are
//! concatenated that none reads; a text may have any number of nodes up to [`MOST_NODES`], other
//! numbers in the two cells, any list of nodes to concatenate, and every op that the official code can
//! build or the NASNet space has. The order of the two pairs of a node carries no meaning for the network
//! but is kept, so that a pasted text prints as it came.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use super::super::GenotypeOp;
use super::{check_length, darts_text};

/// Nodes of a cell of the search space.
pub const NODES: usize = 4;
/// Most nodes of a cell that is read: many times those of any published one.
pub const MOST_NODES: usize = 32;
/// Edges into each node.
pub const EDGES_PER_NODE: usize = 2;

/// A pair of DARTS cells, with the field names of the official `Genotype` tuple.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DartsGenotype {
    /// Normal cell: (op, input state), two a node.
    pub normal: Vec<(GenotypeOp, usize)>,
    /// States of nodes (from 2) concatenated into the normal cell's output.
    pub normal_concat: Vec<usize>,
    /// Reduction cell: (op, input state), two a node.
    pub reduce: Vec<(GenotypeOp, usize)>,
    /// States of nodes (from 2) concatenated into the reduction cell's output.
    pub reduce_concat: Vec<usize>,
}

impl DartsGenotype {
    /// The genotype of two cells that each concatenate all of their nodes.
    pub fn of_cells(
        normal: Vec<(GenotypeOp, usize)>,
        reduce: Vec<(GenotypeOp, usize)>,
    ) -> DartsGenotype {
        let [normal_concat, reduce_concat] =
            [&normal, &reduce].map(|cell| (2..nodes(cell) + 2).collect());
        DartsGenotype {
            normal,
            normal_concat,
            reduce,
            reduce_concat,
        }
    }

    /// The genotype of two cells that each concatenate the nodes that none of their nodes reads, as those of
    /// the NASNet space do (Zoph et al. 2018, section 3.1).
    pub fn of_unread(
        normal: Vec<(GenotypeOp, usize)>,
        reduce: Vec<(GenotypeOp, usize)>,
    ) -> DartsGenotype {
        DartsGenotype {
            normal_concat: unread(&normal),
            reduce_concat: unread(&reduce),
            normal,
            reduce,
        }
    }

    /// Checks that both cells can be built.
    ///
    /// # Errors
    /// A cell without two edges for each node, or with too many; an edge from a state that its node
    /// cannot read; a concatenation that is empty, repeats a state or takes one that is no node.
    pub fn validate(&self) -> Result<()> {
        check_edges("normal", &self.normal)?;
        check_concat("normal_concat", &self.normal_concat, nodes(&self.normal))?;
        check_edges("reduce", &self.reduce)?;
        check_concat("reduce_concat", &self.reduce_concat, nodes(&self.reduce))
    }
}

/// Nodes of a cell of these edges.
pub fn nodes(edges: &[(GenotypeOp, usize)]) -> usize {
    edges.len() / EDGES_PER_NODE
}

/// Nodes of a cell of these edges that no edge reads; the last is always one.
fn unread(edges: &[(GenotypeOp, usize)]) -> Vec<usize> {
    let own = 2..nodes(edges) + 2;
    own.filter(|state| edges.iter().all(|(_, from)| from != state))
        .collect()
}

fn check_edges(field: &str, edges: &[(GenotypeOp, usize)]) -> Result<()> {
    let most = MOST_NODES * EDGES_PER_NODE;
    if !edges.len().is_multiple_of(EDGES_PER_NODE) || !(1..=most).contains(&edges.len()) {
        bail!(
            "genotype: expected {EDGES_PER_NODE} edges in `{field}` for each of 1 to {MOST_NODES} nodes, found {} edges",
            edges.len()
        );
    }
    for (position, &(op, from)) in edges.iter().enumerate() {
        let node = position / EDGES_PER_NODE;
        if from > node + 1 {
            bail!(
                "genotype: edge ('{op}', {from}) of `{field}` does not exist: node {node} reads states 0 to {}, not {from}",
                node + 1
            );
        }
    }
    Ok(())
}

fn check_concat(field: &str, states: &[usize], nodes: usize) -> Result<()> {
    if states.is_empty() {
        bail!("genotype: expected at least one state in `{field}`, found none");
    }
    for (position, &state) in states.iter().enumerate() {
        if !(2..nodes + 2).contains(&state) {
            bail!(
                "genotype: state {state} of `{field}` is no node of the cell (nodes are states 2 to {})",
                nodes + 1
            );
        }
        if states[..position].contains(&state) {
            bail!("genotype: state {state} stands twice in `{field}`, expected each state once");
        }
    }
    Ok(())
}

/// Python's text of a list of states: `range(2, 6)` where it is one, as the official code prints.
struct Concat<'a>(&'a [usize]);

impl fmt::Display for Concat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ascending = self
            .0
            .windows(2)
            .all(|pair| Some(pair[1]) == pair[0].checked_add(1));
        match self.0 {
            [first, .., last] if ascending => write!(f, "range({first}, {})", last + 1),
            states => write!(f, "{states:?}"),
        }
    }
}

struct Edges<'a>(&'a [(GenotypeOp, usize)]);

impl fmt::Display for Edges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (position, (op, from)) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}('{op}', {from})")?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for DartsGenotype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Genotype(normal={}, normal_concat={}, reduce={}, reduce_concat={})",
            Edges(&self.normal),
            Concat(&self.normal_concat),
            Edges(&self.reduce),
            Concat(&self.reduce_concat)
        )
    }
}

impl FromStr for DartsGenotype {
    type Err = anyhow::Error;

    /// Reads the official text: any white space, either quote, `range(2, 6)` or `[2, 3, 4, 5]`,
    /// and optionally `NAME = ` in front.
    fn from_str(text: &str) -> Result<Self> {
        check_length(text)?;
        let genotype = darts_text::parse(text)
            .context("genotype")
            .map_err(one_sentence)?;
        genotype.validate()?;
        Ok(genotype)
    }
}

/// Joins an error and its context into one message, so that printing either form shows all of it.
fn one_sentence(error: anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `DARTS_V1` and `DARTS_V2` as `genotypes.py` of the official code holds them.
    const DARTS_V1: &str = "DARTS_V1 = Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])";
    const DARTS_V2: &str = "DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])";

    fn any_cell() -> impl Strategy<Value = (Vec<(GenotypeOp, usize)>, Vec<usize>)> {
        (1..8usize).prop_flat_map(|nodes| {
            let edges = (0..2 * nodes)
                .map(|position| (0..GenotypeOp::ALL.len(), 0..position / 2 + 2))
                .collect::<Vec<_>>()
                .prop_map(|picks| {
                    let edge = |(op, from): (usize, usize)| (GenotypeOp::ALL[op], from);
                    picks.into_iter().map(edge).collect()
                });
            let states: Vec<usize> = (2..nodes + 2).collect();
            let concat = proptest::sample::subsequence(states, 1..=nodes).prop_shuffle();
            (edges, concat)
        })
    }

    fn any_genotype() -> impl Strategy<Value = DartsGenotype> {
        (any_cell(), any_cell()).prop_map(|((normal, normal_concat), (reduce, reduce_concat))| {
            DartsGenotype {
                normal,
                normal_concat,
                reduce,
                reduce_concat,
            }
        })
    }

    fn error_of(text: &str) -> String {
        text.parse::<DartsGenotype>().unwrap_err().to_string()
    }

    #[test]
    fn the_official_genotypes_are_read_and_print_as_the_official_code_prints() {
        for text in [DARTS_V1, DARTS_V2] {
            let genotype: DartsGenotype = text.parse().unwrap();
            let (_, body) = text.split_once(" = ").unwrap();
            assert_eq!(
                genotype.to_string(),
                body.replace("[2, 3, 4, 5]", "range(2, 6)")
            );
        }
    }

    #[test]
    fn white_space_quotes_and_trailing_commas_of_python_are_accepted() {
        let loose = DARTS_V2
            .replace('\'', "\"")
            .replace(", ", " ,\n\t")
            .replace('=', " =\r\n")
            .replace(")]", ") , ]");
        assert_eq!(
            loose.parse::<DartsGenotype>().unwrap(),
            DARTS_V2.parse().unwrap()
        );
    }

    #[test]
    fn an_unknown_op_is_named_with_the_known_ones() {
        let error = error_of(&DARTS_V1.replacen("sep_conv_3x3", "sep_conv_9x9", 1));
        assert!(
            error.contains("`sep_conv_9x9`") && error.contains("conv_7x1_1x7"),
            "{error}"
        );
    }

    #[test]
    fn an_edge_that_does_not_exist_is_named() {
        let error = error_of(&DARTS_V1.replacen("('sep_conv_3x3', 0)", "('sep_conv_3x3', 2)", 1));
        assert!(
            error.contains("('sep_conv_3x3', 2)") && error.contains("node 0"),
            "{error}"
        );
        let error = error_of(&DARTS_V1.replacen("('sep_conv_3x3', 1), ", "", 1));
        assert!(
            error.contains("expected 2 edges in `normal` for each") && error.contains("found 7"),
            "{error}"
        );
        let many = "('none', 0), ".repeat(66);
        let error = error_of(&format!(
            "Genotype(normal=[{many}], normal_concat=[2], reduce=[('none', 0), ('none', 1)], reduce_concat=[2])"
        ));
        assert!(error.contains("1 to 32 nodes"), "{error}");
    }

    #[test]
    fn a_concat_of_what_is_no_node_is_refused_without_making_it() {
        let range = |concat: &str| error_of(&DARTS_V1.replacen("[2, 3, 4, 5]", concat, 1));
        let error = range("range(2, 18446744073709551615)");
        assert!(error.contains("state 6 of `normal_concat`"), "{error}");
        assert!(range("range(2, 2)").contains("found none"));
        assert!(range("[2, 2]").contains("twice"));
        assert!(range("[0, 2]").contains("state 0"));
        assert!(range("[99999999999999999999999]").contains("too large"));
    }

    #[test]
    fn missing_repeated_and_unknown_fields_are_named() {
        let error = error_of("Genotype(normal=[], normal_concat=range(2, 6))");
        assert!(error.contains("`reduce`"), "{error}");
        let error = error_of("Genotype(normal=[], normal=[])");
        assert!(error.contains("`normal` stands twice"), "{error}");
        let error = error_of("Genotype(norm=[])");
        assert!(error.contains("`norm`"), "{error}");
        let error = error_of(&format!("{DARTS_V1} x"));
        assert!(
            error.contains("end of the text") && error.contains("`x`"),
            "{error}"
        );
        assert!(error_of(&" ".repeat(100_000)).contains("at most"));
    }

    proptest! {
        #[test]
        fn text_round_trips(genotype in any_genotype()) {
            genotype.validate().unwrap();
            prop_assert_eq!(genotype.to_string().parse::<DartsGenotype>().unwrap(), genotype);
        }

        #[test]
        fn truncated_text_is_an_error(genotype in any_genotype(), cut in 0.0f64..1.0) {
            let text = genotype.to_string();
            let end = (text.len() as f64 * cut) as usize;
            prop_assert!(text[..end].parse::<DartsGenotype>().is_err());
        }

        #[test]
        fn mutated_text_never_panics_and_gives_a_short_error(
            genotype in any_genotype(),
            edits in proptest::collection::vec((0.0f64..1.0, 0..3u8, any::<char>()), 1..6),
        ) {
            let mut text: Vec<char> = genotype.to_string().chars().collect();
            for (place, kind, with) in edits {
                let at = (text.len() as f64 * place) as usize;
                match kind {
                    0 => text[at] = with,
                    1 => text.insert(at, with),
                    _ => { text.remove(at); }
                }
            }
            let text: String = text.into_iter().collect();
            match text.parse::<DartsGenotype>() {
                Ok(read) => read.validate().unwrap(),
                Err(error) => {
                    let message = error.to_string();
                    prop_assert!(message.starts_with("genotype"), "{}", message);
                    prop_assert!(message.len() < 500 && !message.contains('\n'), "{}", message);
                }
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = text.parse::<DartsGenotype>();
            let _ = format!("Genotype({text}").parse::<DartsGenotype>();
        }
    }
}
