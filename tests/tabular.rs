//! Searches in a table, `inspect` and `table` through the real binary.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ndarts::space::{Nb201Genotype, Nb201Op};

fn ndarts(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ndarts"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the binary starts")
}

fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = ndarts(folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// Asserts a refusal in one sentence with all of `words`, and no change in `folder`.
fn refused(folder: &Path, arguments: &[&str], status: i32, words: &[&str]) {
    let entries = || std::fs::read_dir(folder).expect("a folder").count();
    let before = entries();
    let output = ndarts(folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.starts_with("error: "), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: no `{word}` in: {said}");
    }
    assert_eq!(entries(), before, "{arguments:?} changed the disk");
}

/// A full table of made-up accuracies: convolutions are good.
fn table(folder: &Path) -> PathBuf {
    let worth = |op: &Nb201Op| match op {
        Nb201Op::NorConv3x3 => 12,
        Nb201Op::NorConv1x1 => 8,
        Nb201Op::SkipConnect => 5,
        Nb201Op::AvgPool3x3 => 2,
        Nb201Op::None => 0,
    };
    let mut text = "arch,cifar10_val_12,cifar10_test_200\n".to_owned();
    for cell in (0..Nb201Genotype::COUNT).filter_map(Nb201Genotype::from_index) {
        let sum: usize = cell.ops.iter().map(worth).sum();
        writeln!(text, "{cell},{},{}", 10 + sum, 15 + sum).expect("memory");
    }
    let path = folder.join("t.csv");
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn a_search_in_a_table_prints_a_summary_and_leaves_a_record_that_table_4_shows() {
    let folder = tempfile::tempdir().unwrap();
    table(folder.path());
    let search = |strategy: &str, out: &str| {
        let arguments = [
            "search",
            "--strategy",
            strategy,
            "--table",
            "t.csv",
            "--runs",
            "20",
            "--seed",
            "3",
            "--out",
            out,
        ];
        succeeds(folder.path(), &arguments)
    };
    let said = search("evolution", "runs/ea");
    assert!(
        said.contains("runs 20, each of 100 trainings, seed 3"),
        "{said}"
    );
    assert!(said.contains("cifar10_test_200"), "{said}");
    search("random", "runs/random");
    let record = std::fs::read_to_string(folder.path().join("runs/ea/tabular.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["strategy"], "evolution");
    assert_eq!(record["settings"]["population"], 10.0);
    assert_eq!(record["budget-trainings"], 100);
    let millions = record["params"]["highest"].as_f64().unwrap();
    assert!((0.07..1.6).contains(&millions), "{millions}");
    let runs = std::fs::read_to_string(folder.path().join("runs/ea/runs.csv")).unwrap();
    assert_eq!(runs.lines().count(), 21);
    let mean = record["test"]["mean"].as_f64().unwrap();
    let sum: f64 = runs
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(3).unwrap().parse::<f64>().unwrap())
        .sum();
    assert!((mean - sum / 20.0).abs() < 1e-9);

    let text = succeeds(folder.path(), &["table", "4", "--runs-dir", "runs"]);
    let of = |start: &str| {
        text.lines()
            .find(|line| line.starts_with(start))
            .unwrap()
            .to_owned()
    };
    assert!(of("EA ").contains(&format!("{mean:.2} ±")), "{text}");
    assert!(
        of("EA ").ends_with("evolution, 20 runs in a table"),
        "{text}"
    );
    assert!(
        of("RandomNAS").ends_with("Random"),
        "it shares weights: {text}"
    );
    assert!(
        text.trim_end().ends_with("random, 20 runs in a table"),
        "{text}"
    );
    let html = [
        "table",
        "4",
        "--runs-dir",
        "runs",
        "--format",
        "html",
        "--out",
        "t4.html",
    ];
    assert_eq!(succeeds(folder.path(), &html), "");
    let page = std::fs::read_to_string(folder.path().join("t4.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("evolution, 20 runs"));
    // A directory with a record is in use, and says what it found.
    let again = [
        "search",
        "--strategy",
        "random",
        "--table",
        "t.csv",
        "--out",
        "runs/ea",
    ];
    refused(folder.path(), &again, 2, &["--out", "new or empty"]);
    let cell = succeeds(folder.path(), &["query", "runs/ea", "--table", "t.csv"]);
    assert!(
        cell.contains(record["genotype"].as_str().unwrap()),
        "{cell}"
    );
}

#[test]
fn quiet_prints_mean_and_deviation_and_a_seed_repeats_them() {
    let folder = tempfile::tempdir().unwrap();
    table(folder.path());
    for strategy in ["random", "evolution", "reinforce", "pnas"] {
        let line = |threads: &str| {
            let arguments = [
                "search",
                "--strategy",
                strategy,
                "--table",
                "t.csv",
                "--runs",
                "6",
                "--quiet",
                "--budget-trainings",
                "40",
                "--threads",
                threads,
                "--space",
                "nb201",
            ];
            succeeds(folder.path(), &arguments)
        };
        let said = line("1");
        assert_eq!(said, line("2"), "{strategy}");
        let (mean, deviation) = said.trim_end().split_once(" ± ").unwrap();
        assert!(
            mean.parse::<f64>().is_ok() && deviation.parse::<f64>().is_ok(),
            "{said}"
        );
    }
}

#[test]
fn flags_that_mean_nothing_with_a_table_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    table(folder.path());
    let with = |more: &[&str], words: &[&str]| {
        let mut arguments = vec!["search", "--table", "t.csv"];
        arguments.extend(more);
        refused(folder.path(), &arguments, 2, words);
    };
    with(
        &["--strategy", "random", "--channels", "8"],
        &["--table", "--channels"],
    );
    with(
        &["--strategy", "random", "--data", "digits", "--epochs", "3"],
        &["--data", "--epochs", "leave them out"],
    );
    with(
        &["--strategy", "random", "--config", "x.toml"],
        &["--config"],
    );
    with(&["--strategy", "random", "--resume", "x"], &["--resume"]);
    with(
        &["--strategy", "random", "--checkpoint-every", "3"],
        &["--checkpoint-every"],
    );
    with(
        &["--strategy", "random", "--space", "darts"],
        &["--space", "nb201"],
    );
    with(&[], &["--strategy", "evolution", "found none"]);
    with(&["--strategy", "darts-v2"], &["--strategy", "`darts-v2`"]);
    with(
        &["--strategy", "random", "--runs", "0"],
        &["--runs", "from 1"],
    );
    with(
        &["--strategy", "random", "--budget-trainings", "0"],
        &["--budget-trainings", "1 to"],
    );
    with(
        &["--strategy", "random", "--budget-seconds", "9"],
        &["--budget-seconds", "column"],
    );
    let both = [
        "--strategy",
        "random",
        "--budget-seconds",
        "9",
        "--budget-trainings",
        "9",
    ];
    with(&both, &["--budget-seconds", "--budget-trainings"]);
    refused(folder.path(), &["search", "--runs", "3"], 2, &["--table"]);
    let column = [
        "search",
        "--strategy",
        "random",
        "--table",
        "t.csv",
        "--test-column",
        "x",
    ];
    refused(
        folder.path(),
        &column,
        1,
        &["t.csv", "`x`", "--test-column"],
    );
    std::fs::write(folder.path().join("short.csv"), "arch,val,test\n").unwrap();
    let short = ["search", "--strategy", "random", "--table", "short.csv"];
    refused(folder.path(), &short, 1, &["short.csv"]);
}

#[test]
fn inspect_counts_draws_and_lists_and_names_what_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&succeeds(folder.path(), arguments)).unwrap()
    };
    let found = json(&[
        "inspect",
        "DARTS_V2",
        "--channels",
        "36",
        "--cells",
        "20",
        "--auxiliary",
        "--json",
    ]);
    assert_eq!(
        (found["params"].as_u64(), found["macs"].as_u64()),
        (Some(3_349_342), Some(528_359_040))
    );
    assert_eq!(found["params_auxiliary"], 476_426);
    let found = json(&[
        "inspect",
        "darts-v1",
        "--imagenet",
        "--json",
        "--drawing",
        "c.svg",
    ]);
    assert_eq!(found["params"], 4_510_432);
    let drawing = std::fs::read_to_string(folder.path().join("c.svg")).unwrap();
    assert!(drawing.contains("max 3×3") && drawing.ends_with("</svg>\n"));
    let list = succeeds(folder.path(), &["inspect", "PDARTS", "--state-dict"]);
    assert!(
        list.starts_with("stem.0.weight\t[108, 3, 3, 3]\n"),
        "{list}"
    );
    assert!(list.ends_with("classifier.weight\t[10, 576]\nclassifier.bias\t[10]\n"));
    assert!(succeeds(folder.path(), &["inspect", "NASNet"]).contains("3,830,950"));

    refused(
        folder.path(),
        &["inspect", "DARTS_V9"],
        2,
        &["`DARTS_V9`", "AmoebaNet"],
    );
    refused(
        folder.path(),
        &["inspect", "PDARTS", "--channels", "0"],
        2,
        &["--channels", "1 to"],
    );
    let small = ["inspect", "PDARTS", "--auxiliary", "--image-size", "16"];
    refused(folder.path(), &small, 2, &["--auxiliary"]);
    let cell = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|";
    refused(
        folder.path(),
        &["inspect", cell, "--imagenet"],
        2,
        &["--imagenet", "DARTS genotype"],
    );
    let nowhere = ["inspect", "PDARTS", "--drawing", "none/c.svg"];
    refused(folder.path(), &nowhere, 1, &["--drawing", "none/c.svg"]);
    refused(folder.path(), &["table", "7"], 2, &["7"]);
    refused(
        folder.path(),
        &["table", "1", "--runs-dir", "none"],
        1,
        &["none", "folder"],
    );
    let darts = ["table", "1", "--runs-dir", ".", "--table", "t.csv"];
    refused(folder.path(), &darts, 2, &["--table", "tables 4 to 6"]);
}

/// The published comparison, where the real table stands beside this checkout.
#[test]
fn on_the_real_table_random_and_evolution_reach_the_published_means() {
    let table =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/nasbench201-cifar10.csv");
    if !table.exists() {
        println!("skipped: {} is missing", table.display());
        return;
    }
    let table = table.display().to_string();
    for (strategy, published, within) in [
        ("random", 93.70, 0.1),
        ("evolution", 93.92, 0.15),
        ("reinforce", 93.85, 0.2),
    ] {
        let arguments = [
            "search",
            "--strategy",
            strategy,
            "--table",
            &table,
            "--quiet",
        ];
        let said = succeeds(Path::new("."), &arguments);
        let mean: f64 = said.split(' ').next().unwrap().parse().unwrap();
        assert!((mean - published).abs() < within, "{strategy}: {said}");
    }
}
