//! The tabular benchmark over files: speed, isomorphic look-up, known facts of the real table.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ndarts::cli::query::QueryArgs;
use ndarts::space::table::Spelling;
use ndarts::space::{Nb201Genotype, Nb201Op, Space, Table};
use tempfile::NamedTempFile;

fn cell(text: &str) -> Nb201Genotype {
    text.parse().expect("a valid genotype")
}

fn all() -> impl Iterator<Item = Nb201Genotype> {
    (0..Nb201Genotype::COUNT).filter_map(Nb201Genotype::from_index)
}

/// A table of the given cells; the accuracy is the cell's number.
fn table_of(cells: impl Iterator<Item = Nb201Genotype>) -> NamedTempFile {
    let mut text = "arch,cifar10_val_12,cifar10_test_200\n".to_owned();
    for cell in cells {
        writeln!(text, "{cell},{}.25,{}", cell.index(), cell.index()).expect("memory");
    }
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

/// The shared table, where this checkout stands beside it.
fn real_table() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/nasbench201-cifar10.csv");
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is missing", path.display());
    None
}

fn value(table: &Table, genotype: &Nb201Genotype, column: &str) -> f64 {
    let entry = table.query(genotype).expect("in the table");
    let mut values = entry.values.iter();
    values.find(|(name, _)| name == column).expect("a column").1
}

/// The fastest of five, so that a busy machine does not decide.
fn fastest(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..5).map(time).min().expect("five runs")
}

#[test]
fn a_query_in_a_full_table_answers_quickly_with_opening_included() {
    let file = table_of(all().collect::<Vec<_>>().into_iter().rev());
    let genotype = cell("|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|none~0|none~1|skip_connect~2|");
    let literal = fastest(|| {
        let entry = Table::open(file.path()).unwrap().query(&genotype).unwrap();
        assert_eq!(entry.spelling, Spelling::Literal);
        assert_eq!(entry.values[1].1, genotype.index() as f64);
    });
    let file = table_of(all().filter(|cell| *cell != genotype));
    let isomorphic = fastest(|| {
        let entry = Table::open(file.path()).unwrap().query(&genotype).unwrap();
        assert_eq!(entry.spelling, Spelling::Isomorphic);
        assert_eq!(entry.genotype.unique_string(), genotype.unique_string());
    });
    println!("open and query: literal {literal:?}, isomorphic {isomorphic:?}");
    assert!(literal < Duration::from_millis(500) && isomorphic < Duration::from_millis(500));
}

#[test]
fn a_table_of_one_spelling_answers_for_every_isomorphic_one_and_no_other() {
    let held =
        cell("|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|");
    let file = table_of(std::iter::once(held));
    let table = Table::open(file.path()).unwrap();
    let exchanged =
        cell("|nor_conv_1x1~0|+|nor_conv_3x3~0|none~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|");
    let entry = table.query(&exchanged).unwrap();
    assert_eq!(entry.spelling, Spelling::Isomorphic);
    assert_eq!((entry.genotype, entry.line), (held, 2));
    for other in all().filter(|cell| cell.fingerprint() != held.fingerprint()) {
        assert_eq!(table.query(&other), None);
    }
}

#[test]
fn of_several_isomorphic_rows_the_official_unique_string_is_preferred() {
    // Same function as the query; the first by dropping a zero, the second by the official string.
    let query = cell("|skip_connect~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|avg_pool_3x3~2|");
    let dropped = cell("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|avg_pool_3x3~1|none~2|");
    let official = cell("|skip_connect~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|avg_pool_3x3~2|");
    let file = table_of([dropped, official].into_iter());
    let entry = Table::open(file.path()).unwrap().query(&query).unwrap();
    assert_eq!(entry.genotype, official);
    let file = table_of([dropped].into_iter());
    let entry = Table::open(file.path()).unwrap().query(&query).unwrap();
    assert_eq!(entry.genotype, dropped);
}

#[test]
fn tables_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("missing.csv")] {
        let error = format!("{:#}", Table::open(&path).unwrap_err());
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
    let mut junk = NamedTempFile::new().unwrap();
    junk.write_all(&[0xff; 4096]).unwrap();
    let error = format!("{:#}", Table::open(junk.path()).unwrap_err());
    assert!(error.contains("`arch`") && error.len() < 600, "{error}");
}

#[test]
fn a_query_that_has_no_answer_says_why() {
    let held = Nb201Genotype {
        ops: [Nb201Op::NorConv3x3; 6],
    };
    let file = table_of(std::iter::once(held));
    let query = |genotype: &str| {
        let answer = ndarts::cli::query::run(&QueryArgs {
            genotype: genotype.to_owned(),
            table: file.path().to_owned(),
            json: true,
        });
        answer.map_err(|error| format!("{error:#}"))
    };
    assert_eq!(query(&held.to_string()), Ok(()));
    let absent = held.to_string().replacen("3x3", "1x1", 1);
    let error = query(&absent).unwrap_err();
    assert!(
        error.contains(&absent) && error.contains("1 rows"),
        "{error}"
    );
    let alphas = [0.0f32; 14 * 8];
    let alphas: [(&str, &[f32]); 2] = [("alphas_normal", &alphas), ("alphas_reduce", &alphas)];
    let darts = ndarts::space::derive(Space::Darts, &alphas).unwrap();
    let error = query(&darts.to_string()).unwrap_err();
    assert!(
        error.contains("GENOTYPE: expected a NAS-Bench-201 cell"),
        "{error}"
    );
    assert!(query("|conv~0|").unwrap_err().contains("unknown op `conv`"));
}

#[test]
fn the_real_table_holds_its_known_facts() {
    let Some(path) = real_table() else { return };
    let table = Table::open(&path).unwrap();
    assert_eq!(table.len(), Nb201Genotype::COUNT);
    assert_eq!(
        table.column_names().collect::<Vec<_>>(),
        ["cifar10_val_12", "cifar10_test_200"]
    );
    let skips = Nb201Genotype {
        ops: [Nb201Op::SkipConnect; 6],
    };
    let percent = |accuracy: f64| format!("{accuracy:.2}");
    assert_eq!(percent(value(&table, &skips, "cifar10_test_200")), "54.30");
    let best = table.entries().map(|entry| entry.values[1].1);
    assert_eq!(percent(best.fold(0.0, f64::max)), "94.37");
    let example = cell(
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
    );
    assert_eq!(value(&table, &example, "cifar10_val_12"), 82.834);
    assert_eq!(value(&table, &example, "cifar10_test_200"), 93.66);
}
