//! `ndarts bench` through the real binary: its lines, its table, and its refusals.

use std::process::{Command, Output};

/// The smallest work there is.
const TINY: &str =
    "--space nb201 --channels 2 --cells 1 --batch 2 --iters 1 --threads 1 --device cpu";

fn bench(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ndarts"))
        .arg("bench")
        .args(arguments.split_whitespace())
        .output()
        .expect("the binary starts")
}

#[test]
fn every_work_is_a_line_of_json_with_its_time_and_its_own_memory() {
    let works = ["step", "forward", "hvp", "hypergrad", "es"];
    let output = bench(&format!("{TINY} --neumann-terms 1 --population 2 --json"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let whats: Vec<_> = lines
        .iter()
        .map(|line| line["what"].as_str().unwrap())
        .collect();
    assert_eq!(whats, works);
    for line in lines {
        assert_eq!(line["space"], "nb201");
        assert_eq!(line["batch"], 2);
        assert!(line["min_s"].as_f64() > Some(0.0), "{line}");
        assert!(line["peak_rss_mb"].as_f64() > Some(1.0), "{line}");
    }
}

#[test]
fn without_json_it_prints_a_table() {
    let output = bench(&format!("{TINY} --what forward"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("median s") && said.contains("\nforward "),
        "{said}"
    );
}

#[test]
fn a_setting_that_makes_no_measurement_is_refused_in_one_sentence() {
    for (arguments, status, words) in [
        ("--iters 0", 2, "--iters: expected"),
        ("--what all", 2, "hypergrad"),
        ("--batch 0", 2, "--batch: expected"),
        ("--device tpu", 2, "--device: expected"),
        // Found by the process that measures, said by the one that was asked.
        (
            "--what step,forward --json --channels 2000 --device cpu",
            1,
            "--channels: expected 1 to 1024",
        ),
    ] {
        let output = bench(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments}: {said}");
        assert!(
            said.starts_with("error: ") && said.contains(words),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
