//! Published genotypes of the DARTS kind by name, so that no one has to paste them.
//!
//! Texts as in `genotypes.py` of the official code of each paper: NASNet (Zoph et al. 2018),
//! AmoebaNet (Real et al. 2019) and DARTS (Liu et al. 2019) from DARTS, P-DARTS (Chen et al. 2019),
//! PC-DARTS (Xu et al. 2020), sharpDARTS (Hundt et al. 2019). Case, `-` and `_` of a name do not matter; the aliases
//! `DARTS` and `PCDARTS` are those of the official files, NASNet-A is what its paper calls the cell. (Its cells B and C
//! are of other search spaces, with four input states or normalising combinations.)

use anyhow::{Result, bail};

use super::super::quoted;
use super::DartsGenotype;

/// Names and texts.
const GENOTYPES: [(&str, &str); 8] = [
    (
        "NASNet",
        "Genotype(normal=[('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 0), ('sep_conv_3x3', 0), ('avg_pool_3x3', 1), ('skip_connect', 0), ('avg_pool_3x3', 0), ('avg_pool_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 1)], normal_concat=[2, 3, 4, 5, 6], reduce=[('sep_conv_5x5', 1), ('sep_conv_7x7', 0), ('max_pool_3x3', 1), ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('sep_conv_5x5', 0), ('skip_connect', 3), ('avg_pool_3x3', 2), ('sep_conv_3x3', 2), ('max_pool_3x3', 1)], reduce_concat=[4, 5, 6])",
    ),
    (
        "AmoebaNet",
        "Genotype(normal=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 2), ('sep_conv_3x3', 0), ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('skip_connect', 1), ('skip_connect', 0), ('avg_pool_3x3', 1)], normal_concat=[4, 5, 6], reduce=[('avg_pool_3x3', 0), ('sep_conv_3x3', 1), ('max_pool_3x3', 0), ('sep_conv_7x7', 2), ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1), ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5)], reduce_concat=[3, 4, 6])",
    ),
    (
        "DARTS_V1",
        "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])",
    ),
    (
        "DARTS_V2",
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])",
    ),
    (
        "PDARTS",
        "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)], normal_concat=range(2, 6), reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2), ('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], reduce_concat=range(2, 6))",
    ),
    (
        "PC_DARTS_cifar",
        "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], normal_concat=range(2, 6), reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2), ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], reduce_concat=range(2, 6))",
    ),
    (
        "PC_DARTS_image",
        "Genotype(normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)], normal_concat=range(2, 6), reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1), ('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)], reduce_concat=range(2, 6))",
    ),
    (
        "SHARP_DARTS",
        "Genotype(normal=[('choke_conv_3x3', 0), ('choke_conv_3x3', 1), ('skip_connect', 0), ('choke_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 0), ('skip_connect', 1)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('skip_connect', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('flood_conv_3x3', 0)], reduce_concat=range(2, 6))",
    ),
];

/// Second names.
const ALIASES: [(&str, &str); 3] = [
    ("DARTS", "DARTS_V2"),
    ("PCDARTS", "PC_DARTS_cifar"),
    ("NASNet_A", "NASNet"),
];

/// Every name, aliases last.
pub fn names() -> impl Iterator<Item = &'static str> {
    let own = GENOTYPES.iter().map(|(name, _)| *name);
    own.chain(ALIASES.iter().map(|(alias, _)| *alias))
}

/// Whether `text` is a single word that can only be a name.
pub(super) fn looks_like_a_name(text: &str) -> bool {
    let word = text.trim();
    word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// The genotype of a name.
///
/// # Errors
/// An unknown name; the message lists the known ones.
pub fn named(name: &str) -> Result<DartsGenotype> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let wanted = plain(name);
    let wanted = match ALIASES.iter().find(|(alias, _)| plain(alias) == wanted) {
        Some((_, own)) => plain(own),
        None => wanted,
    };
    match GENOTYPES.iter().find(|(own, _)| plain(own) == wanted) {
        Some((_, text)) => text.parse(),
        None => bail!(
            "genotype: expected `Genotype(normal=[…], …)` or the name of a published one ({}), found {}",
            names().collect::<Vec<_>>().join(", "),
            quoted(name)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Genotype;
    use super::*;

    #[test]
    fn every_published_genotype_is_found_by_its_name_in_any_spelling() {
        for name in names() {
            let genotype = named(name).unwrap();
            genotype.validate().unwrap();
            for spelling in [
                name.to_lowercase(),
                name.replace('_', "-"),
                format!(" {name}\n"),
            ] {
                let found: Genotype = spelling.parse().unwrap();
                assert_eq!(found, Genotype::Darts(genotype.clone()), "{spelling}");
            }
            assert_eq!(
                genotype.to_string().parse::<DartsGenotype>().unwrap(),
                genotype
            );
        }
        assert_eq!(named("darts").unwrap(), named("DARTS_V2").unwrap());
        assert_eq!(named("PC-DARTS").unwrap(), named("PC_DARTS_cifar").unwrap());
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = "DARTS_V3".parse::<Genotype>().unwrap_err().to_string();
        assert!(
            error.contains("`DARTS_V3`") && error.contains("AmoebaNet"),
            "{error}"
        );
        assert!(!looks_like_a_name("Genotype(") && !looks_like_a_name("DARTS = 1"));
    }

    #[test]
    fn cells_of_five_nodes_draw_their_nodes_and_what_they_concatenate() {
        let cells = Genotype::Darts(named("AmoebaNet").unwrap()).cells();
        assert_eq!(cells[1].nodes.len(), 2 + 5 + 1);
        assert_eq!(cells[1].edges.len(), 10 + 3);
        assert_eq!(cells[1].edges[8], (0, 6, "conv_7x1_1x7".to_owned()));
        assert_eq!(cells[1].edges[12], (6, 7, String::new()));
    }
}
