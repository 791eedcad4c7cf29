//! The NAS-Bench-201 cell: one op on each of six edges, 5⁶ = 15,625 spellings.
//!
//! Many spellings are one network. Two notions of sameness are computed here:
//!
//! - [`Nb201Genotype::unique_string`] is the official one (`Structure.to_unique_str` with
//!   `consider_zero=True`): expand the output node into an expression of the input, sort each sum.
//!   It counts 6,466 architectures, the number the benchmark's paper states.
//! - [`Nb201Genotype::fingerprint`] goes further where the official string stops short: it drops
//!   zeros inside a sum and flattens a sum that a skip passes on, so it also equates cells that
//!   differ only in the numbering of nodes 1 and 2. As sums commute, a node is fingerprinted by
//!   *adding* the hashes of its terms: zero is 0, a skip adds its node's whole sum, and no sorting
//!   or allocation is needed, which lets a table of all spellings be searched in under a
//!   millisecond.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

use super::super::{NB201_EDGES, Nb201Op, quoted};
use super::check_length;

/// Nodes 1 to 3 of the cell receive edges.
const NODES: usize = 3;

/// A NAS-Bench-201 cell; ops in the order of [`NB201_EDGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nb201Genotype {
    /// Ops of edges 1←0, 2←0, 2←1, 3←0, 3←1, 3←2.
    pub ops: [Nb201Op; NB201_EDGES.len()],
}

impl Nb201Genotype {
    /// Spellings in the space.
    pub const COUNT: usize = 15_625;

    /// The spelling's number, 0..[`Self::COUNT`]: its ops as digits to base five, first edge first.
    pub fn index(&self) -> usize {
        let base = Nb201Op::ALL.len();
        self.ops
            .iter()
            .fold(0, |index, op| index * base + op.index())
    }

    /// The spelling of a number; `None` from [`Self::COUNT`] on.
    pub fn from_index(index: usize) -> Option<Self> {
        if index >= Self::COUNT {
            return None;
        }
        let mut ops = [Nb201Op::None; NB201_EDGES.len()];
        let mut rest = index;
        for op in ops.iter_mut().rev() {
            *op = Nb201Op::ALL[rest % Nb201Op::ALL.len()];
            rest /= Nb201Op::ALL.len();
        }
        Some(Self { ops })
    }

    /// The official isomorphism-aware string of the cell; equal strings are equal networks.
    pub fn unique_string(&self) -> String {
        let mut nodes = vec!["0".to_owned()];
        for node in 1..=NODES {
            let mut terms: Vec<String> = self
                .edges_into(node)
                .map(|(op, from)| match op {
                    Nb201Op::None => "#".to_owned(),
                    _ if nodes[from] == "#" => "#".to_owned(),
                    Nb201Op::SkipConnect => nodes[from].clone(),
                    op => format!("({})@{op}", nodes[from]),
                })
                .collect();
            terms.sort_unstable();
            nodes.push(terms.join("+"));
        }
        nodes.swap_remove(NODES)
    }

    /// A number equal for cells that compute the same function of their input and weights, up to
    /// the order of sums. That no two other cells of the space share one is checked by a test over
    /// all 15,625.
    pub fn fingerprint(&self) -> u64 {
        let mut sums = [0u64; NODES + 1];
        sums[0] = 1;
        for node in 1..=NODES {
            sums[node] = self.edges_into(node).fold(0, |sum: u64, (op, from)| {
                sum.wrapping_add(match op {
                    Nb201Op::None => 0,
                    Nb201Op::SkipConnect => sums[from],
                    // Pooling or convolving zero gives zero (batch norm takes a bias away).
                    _ if sums[from] == 0 => 0,
                    op => mix(sums[from] ^ ((op.index() as u64) << 56)),
                })
            });
        }
        sums[NODES]
    }

    fn edges_into(&self, node: usize) -> impl Iterator<Item = (Nb201Op, usize)> {
        let edges = NB201_EDGES.iter().zip(self.ops);
        edges
            .filter(move |(edge, _)| edge.to == node)
            .map(|(edge, op)| (op, edge.from))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea & Flood 2014), a bijection with good avalanche.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Display for Nb201Genotype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (edge, op) in NB201_EDGES.iter().zip(self.ops) {
            let open = match (edge.from, edge.to) {
                (0, 1) => "|",
                (0, _) => "+|",
                _ => "",
            };
            write!(f, "{open}{op}~{}|", edge.from)?;
        }
        Ok(())
    }
}

impl FromStr for Nb201Genotype {
    type Err = anyhow::Error;

    /// Reads `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`; the edges of a node may stand in any order and
    /// white space around any name or sign.
    fn from_str(text: &str) -> Result<Self> {
        check_length(text)?;
        let mut ops = [None; NB201_EDGES.len()];
        let mut nodes = 0;
        for group in text.split('+') {
            nodes += 1;
            if nodes > NODES {
                bail!("genotype: expected {NODES} nodes separated by `+`, found more");
            }
            node(group, nodes, &mut ops)?;
        }
        if nodes != NODES {
            bail!("genotype: expected {NODES} nodes separated by `+`, found {nodes}");
        }
        let mut found = [Nb201Op::None; NB201_EDGES.len()];
        for ((edge, op), found) in NB201_EDGES.iter().zip(ops).zip(&mut found) {
            match op {
                Some(op) => *found = op,
                None => bail!(
                    "genotype: node {} has no op on its edge from {} (`|op~{}|` is missing)",
                    edge.to,
                    edge.from,
                    edge.from
                ),
            }
        }
        Ok(Self { ops: found })
    }
}

/// Reads one `|op~0|op~1|` group into the ops of `node`.
fn node(group: &str, node: usize, ops: &mut [Option<Nb201Op>; NB201_EDGES.len()]) -> Result<()> {
    let inside = group
        .trim()
        .strip_prefix('|')
        .and_then(|rest| rest.strip_suffix('|'));
    let Some(inside) = inside else {
        bail!(
            "genotype: expected node {node} between two `|`, such as `|op~0|`, found {}",
            quoted(group)
        );
    };
    for edge_text in inside.split('|') {
        let Some((op, from)) = edge_text.split_once('~') else {
            bail!(
                "genotype: expected `op~input` for an edge of node {node}, found {}",
                quoted(edge_text)
            );
        };
        let op: Nb201Op = match op.trim().parse() {
            Ok(op) => op,
            Err(error) => bail!("genotype: {error}"),
        };
        let input = from.trim();
        let edge = NB201_EDGES.iter().position(|edge| {
            edge.to == node && input.len() == 1 && input.as_bytes()[0] == b'0' + edge.from as u8
        });
        let Some(edge) = edge else {
            bail!(
                "genotype: edge {} into node {node} does not exist: node {node} reads nodes 0 to {}",
                quoted(edge_text),
                node - 1
            );
        };
        if ops[edge].replace(op).is_some() {
            bail!(
                "genotype: node {node} has two ops on its edge from {}, expected one",
                NB201_EDGES[edge].from
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|";

    fn all() -> impl Iterator<Item = Nb201Genotype> {
        (0..Nb201Genotype::COUNT).map(|index| Nb201Genotype::from_index(index).unwrap())
    }

    fn error_of(text: &str) -> String {
        text.parse::<Nb201Genotype>().unwrap_err().to_string()
    }

    /// The exact form that the fingerprint hashes: the output as a sorted multiset of terms, each a
    /// composed op over such a multiset.
    fn function_form(cell: &Nb201Genotype) -> Vec<String> {
        let mut nodes = vec![vec!["0".to_owned()]];
        for node in 1..=NODES {
            let mut terms = Vec::new();
            for (op, from) in cell.edges_into(node) {
                match op {
                    Nb201Op::None => {}
                    Nb201Op::SkipConnect => terms.extend(nodes[from].iter().cloned()),
                    _ if nodes[from].is_empty() => {}
                    op => terms.push(format!("({})@{op}", nodes[from].join("+"))),
                }
            }
            terms.sort();
            nodes.push(terms);
        }
        nodes.swap_remove(NODES)
    }

    #[test]
    fn every_spelling_round_trips_through_text_and_number() {
        for (index, cell) in all().enumerate() {
            assert_eq!(cell.index(), index);
            assert_eq!(cell.to_string().parse::<Nb201Genotype>().unwrap(), cell);
        }
        assert_eq!(Nb201Genotype::from_index(Nb201Genotype::COUNT), None);
        assert_eq!(
            EXAMPLE.parse::<Nb201Genotype>().unwrap().to_string(),
            EXAMPLE
        );
    }

    #[test]
    fn unique_string_is_the_official_one_and_counts_6466_architectures() {
        assert_eq!(
            EXAMPLE.parse::<Nb201Genotype>().unwrap().unique_string(),
            "((0)@nor_conv_3x3)@avg_pool_3x3+(0)@nor_conv_3x3+((0)@nor_conv_3x3)@nor_conv_3x3+0"
        );
        let distinct: BTreeSet<String> = all().map(|cell| cell.unique_string()).collect();
        assert_eq!(distinct.len(), 6_466);
    }

    #[test]
    fn fingerprints_collide_exactly_where_the_functions_are_equal() {
        let mut form_of = HashMap::new();
        let mut fingerprint_of = BTreeMap::new();
        for cell in all() {
            let (fingerprint, form) = (cell.fingerprint(), function_form(&cell));
            assert_eq!(
                *form_of.entry(fingerprint).or_insert(form.clone()),
                form,
                "{cell}"
            );
            assert_eq!(
                *fingerprint_of.entry(form).or_insert(fingerprint),
                fingerprint,
                "{cell}"
            );
        }
    }

    #[test]
    fn cells_with_one_unique_string_share_a_fingerprint() {
        let mut fingerprint_of = HashMap::new();
        for cell in all() {
            let fingerprint = cell.fingerprint();
            let first = *fingerprint_of
                .entry(cell.unique_string())
                .or_insert(fingerprint);
            assert_eq!(first, fingerprint, "{cell}");
        }
    }

    #[test]
    fn exchanging_nodes_1_and_2_keeps_the_fingerprint() {
        for mut cell in all().filter(|cell| cell.ops[2] == Nb201Op::None) {
            let fingerprint = cell.fingerprint();
            cell.ops.swap(0, 1);
            cell.ops.swap(4, 5);
            assert_eq!(cell.fingerprint(), fingerprint);
        }
    }

    #[test]
    fn edges_of_a_node_may_stand_in_any_order_with_white_space() {
        let loose = " |nor_conv_3x3 ~ 0|\n+ |avg_pool_3x3~1|nor_conv_3x3~0| +|skip_connect~2|skip_connect~0| nor_conv_3x3~1|\n";
        assert_eq!(
            loose.parse::<Nb201Genotype>().unwrap(),
            EXAMPLE.parse().unwrap()
        );
    }

    #[test]
    fn unknown_ops_and_missing_edges_are_named() {
        let error = error_of(&EXAMPLE.replacen("avg_pool_3x3", "max_pool_3x3", 1));
        assert!(
            error.contains("`max_pool_3x3`") && error.contains("nor_conv_1x1"),
            "{error}"
        );
        let error = error_of(&EXAMPLE.replacen("avg_pool_3x3~1", "avg_pool_3x3~2", 1));
        assert!(error.contains("`avg_pool_3x3~2` into node 2"), "{error}");
        let error = error_of(&EXAMPLE.replacen("avg_pool_3x3~1|", "", 1));
        assert!(
            error.contains("node 2 has no op on its edge from 1"),
            "{error}"
        );
        let error = error_of(&EXAMPLE.replacen("avg_pool_3x3~1", "none~0", 1));
        assert!(error.contains("two ops on its edge from 0"), "{error}");
        assert!(error_of(&format!("{EXAMPLE}+|none~0|")).contains("found more"));
        assert!(error_of("|none~0|").contains("found 1"));
        assert!(error_of("").contains("between two `|`"));
        assert!(error_of("|").contains("between two `|`"));
    }

    proptest! {
        #[test]
        fn truncated_text_is_an_error(index in 0..Nb201Genotype::COUNT, cut in 0.0f64..1.0) {
            let text = Nb201Genotype::from_index(index).unwrap().to_string();
            let end = (text.len() as f64 * cut) as usize;
            prop_assert!(text[..end].parse::<Nb201Genotype>().is_err());
        }

        #[test]
        fn mutated_text_never_panics_and_gives_a_short_error(
            index in 0..Nb201Genotype::COUNT,
            edits in proptest::collection::vec((0.0f64..1.0, 0..3u8, any::<char>()), 1..6),
        ) {
            let text = Nb201Genotype::from_index(index).unwrap().to_string();
            let mut text: Vec<char> = text.chars().collect();
            for (place, kind, with) in edits {
                let at = (text.len() as f64 * place) as usize;
                match kind {
                    0 => text[at] = with,
                    1 => text.insert(at, with),
                    _ => { text.remove(at); }
                }
            }
            let text: String = text.into_iter().collect();
            if let Err(error) = text.parse::<Nb201Genotype>() {
                let message = error.to_string();
                prop_assert!(message.starts_with("genotype"), "{}", message);
                prop_assert!(message.len() < 500 && !message.contains('\n'), "{}", message);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = text.parse::<Nb201Genotype>();
            let _ = format!("|{text}|").parse::<Nb201Genotype>();
        }
    }
}
