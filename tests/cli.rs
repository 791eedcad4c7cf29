//! The binary under bad input: exit status, one sentence that says what to do, nothing changed.

use std::path::Path;
use std::process::{Command, Output};

/// Runs `ndarts` in `folder`.
fn ndarts(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ndarts"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the binary starts")
}

/// Every path below `folder`, with file contents.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let bytes = if path.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).unwrap()
            };
            found.push((path.display().to_string(), bytes));
        }
    }
    found.sort();
    found
}

/// Asserts that the command fails with `status`, says all of `words` in one sentence, and leaves
/// `folder` as it was.
fn refused(folder: &Path, arguments: &[&str], status: i32, words: &[&str]) {
    let before = contents(folder);
    let output = ndarts(folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
    assert_eq!(said.trim_end().lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.starts_with("error: "), "{arguments:?}: {said}");
    assert!(
        !said.contains("panicked") && !said.contains("backtrace"),
        "{said}"
    );
    for word in words {
        assert!(said.contains(word), "{arguments:?}: no `{word}` in: {said}");
    }
    assert_eq!(contents(folder), before, "{arguments:?} changed the disk");
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_bad_flag_value_is_named_with_what_was_expected_and_found() {
    let folder = folder();
    for (flag, value, expected) in [
        ("--neumann-terms", "-1", "whole number"),
        ("--sigma", "0", "above 0"),
        ("--sigma", "NaN", "finite"),
        ("--population", "0", "from 1"),
        ("--batch", "0", "from 1"),
        ("--channels", "0", "from 1"),
        ("--cells", "0", "from 1"),
        ("--epochs", "0", "from 1"),
        ("--inner-steps", "0", "from 1"),
        ("--channels", "99999999999999999999999", "whole number"),
        ("--gamma", "nan", "positive finite number"),
        ("--gamma", "-1", "positive finite number"),
        ("--space", "mars", "darts"),
        ("--strategy", "luck", "ndarts"),
        ("--weights", "adam", "sgd+es"),
        ("--device", "tpu", "`auto`, `cpu` or `cuda[:N]`"),
        ("--precision", "f16", "bf16"),
        ("--data", "mnist", "digits"),
        ("--data", "cifar10:", "path"),
        ("--momentum", "1", "below 1"),
        ("--arch-beta1", "-0.5", "below 1"),
        ("--lr", "inf", "finite"),
        ("--lr-min", "1", "--lr"),
        ("--warmup-epochs", "1000", "--epochs"),
        ("--mean", "x", "number"),
        ("--std", "0", "above 0"),
        ("--seed", "-1", "whole number"),
        ("--flip=maybe", "", "true"),
        ("--threads", "-2", "whole number"),
        ("--checkpoint-every", "never", "whole number"),
    ] {
        let flag_name = flag.split('=').next().unwrap();
        let mut arguments = vec!["search", flag];
        if !value.is_empty() {
            arguments.push(value);
        }
        refused(folder.path(), &arguments, 2, &[flag_name, expected, value]);
    }
}

#[test]
fn an_unknown_flag_or_command_is_named() {
    let folder = folder();
    refused(
        folder.path(),
        &["search", "--colour", "red"],
        2,
        &["--colour"],
    );
    refused(folder.path(), &["find"], 2, &["find"]);
    refused(folder.path(), &["report"], 2, &["RUN_DIR"]);
}

#[test]
fn a_bad_config_names_file_and_line() {
    let folder = folder();
    let config = folder.path().join("my.toml");
    for (text, words) in [
        ("seed = 1\nsigma = \"much\"\n", ["my.toml:2", "sigma"]),
        ("\n\nneumann-terms = -1\n", ["my.toml:3", "neumann-terms"]),
        ("colour = 1\n", ["my.toml:1", "colour"]),
        ("seed = = 1\n", ["my.toml:1", "TOML"]),
        ("seed = 1\nsigma = 0.0\n", ["my.toml:2", "sigma"]),
        ("gamma = nan\n", ["my.toml:1", "gamma"]),
        ("space = \"mars\"\n", ["my.toml:1", "space"]),
        ("data = \"mnist\"\n", ["my.toml:1", "digits"]),
        ("threads = \"two\"\n", ["my.toml:1", "threads"]),
    ] {
        std::fs::write(&config, text).unwrap();
        refused(folder.path(), &["search", "--config", "my.toml"], 2, &words);
    }
    std::fs::write(&config, [0xff, 0xfe, 0x00]).unwrap();
    refused(
        folder.path(),
        &["search", "--config", "my.toml"],
        2,
        &["my.toml"],
    );
    refused(
        folder.path(),
        &["search", "--config", "none.toml"],
        2,
        &["none.toml"],
    );
}

#[test]
fn an_out_directory_that_is_not_free_is_refused() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("taken")).unwrap();
    std::fs::write(folder.path().join("taken/thesis.txt"), "mine").unwrap();
    std::fs::write(folder.path().join("file"), "mine").unwrap();
    let words = ["--out", "taken", "thesis.txt", "--resume"];
    refused(folder.path(), &["search", "--out", "taken"], 2, &words);
    refused(
        folder.path(),
        &["search", "--out", "file"],
        2,
        &["--out", "file", "directory"],
    );
}

#[test]
fn an_out_directory_that_cannot_be_made_is_refused() {
    let folder = folder();
    // /proc refuses even root.
    refused(
        folder.path(),
        &["search", "--device", "cpu", "--out", "/proc/ndarts"],
        1,
        &["--out", "/proc/ndarts"],
    );
}

#[test]
fn resume_of_what_is_no_run_and_flags_beside_it_are_refused() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    refused(
        folder.path(),
        &["search", "--resume", "empty"],
        2,
        &["--resume", "config.toml"],
    );
    refused(
        folder.path(),
        &["search", "--resume", "none"],
        2,
        &["--resume", "none"],
    );
    let arguments = ["search", "--resume", "empty", "--sigma", "1", "--out", "x"];
    refused(
        folder.path(),
        &arguments,
        2,
        &["--resume", "--sigma", "--out"],
    );
}

#[test]
fn a_report_on_nothing_is_refused() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    refused(
        folder.path(),
        &["report", "empty"],
        2,
        &["empty", "config.toml"],
    );
    refused(
        folder.path(),
        &["report", "none"],
        2,
        &["none", "run directory"],
    );
}

#[test]
fn data_that_is_none_is_refused() {
    let folder = folder();
    std::fs::write(folder.path().join("junk.pack"), vec![7; 4096]).unwrap();
    std::fs::create_dir(folder.path().join("cifar")).unwrap();
    refused(
        folder.path(),
        &["data", "info", "pack:junk.pack"],
        1,
        &["junk.pack"],
    );
    refused(
        folder.path(),
        &["data", "info", "cifar10:cifar"],
        1,
        &["data_batch_1.bin"],
    );
    refused(
        folder.path(),
        &["data", "info", "mnist"],
        2,
        &["mnist", "digits"],
    );
    refused(
        folder.path(),
        &["data", "import", "none", "-o", "x.pack"],
        1,
        &["none"],
    );
}

#[test]
fn a_bad_genotype_or_table_is_refused() {
    let folder = folder();
    std::fs::write(folder.path().join("t.csv"), "a,b\n1,2\n").unwrap();
    let cell = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|";
    let query = |genotype: &str, table: &str, status: i32, words: &[&str]| {
        refused(
            folder.path(),
            &["query", genotype, "--table", table],
            status,
            words,
        );
    };
    query(
        "|fly~0|+|none~0|none~1|+|none~0|none~1|none~2|",
        "t.csv",
        2,
        &["fly"],
    );
    query(
        "|none~3|+|none~0|none~1|+|none~0|none~1|none~2|",
        "t.csv",
        2,
        &["genotype"],
    );
    query("", "t.csv", 2, &["genotype"]);
    query(cell, "t.csv", 1, &["t.csv", "arch"]);
    query(cell, "none.csv", 1, &["none.csv"]);
}

#[test]
fn a_query_finds_a_cell_by_another_spelling_of_the_same_network() {
    let folder = folder();
    let table = "arch,test-accuracy\n\
                 |nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|,90.5\n";
    std::fs::write(folder.path().join("t.csv"), table).unwrap();
    let same = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|";
    let output = ndarts(folder.path(), &["query", same, "--table", "t.csv"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("90.5") && said.contains("isomorphic"),
        "{said}"
    );
}

#[test]
fn help_gives_defaults_and_an_example_and_a_bare_call_is_bad_usage() {
    let folder = folder();
    for command in [
        "search",
        "probe",
        "profile",
        "query",
        "report",
        "devices",
        "completions",
    ] {
        let output = ndarts(folder.path(), &[command, "--help"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && said.contains("Example:"),
            "{command}: {said}"
        );
    }
    let search = ndarts(folder.path(), &["search", "--help"]);
    assert!(String::from_utf8_lossy(&search.stdout).contains("[default: 0.9]"));
    assert_eq!(ndarts(folder.path(), &[]).status.code(), Some(2));
}

#[test]
fn a_probe_refuses_what_it_cannot_use() {
    let folder = folder();
    std::fs::write(folder.path().join("junk.safetensors"), vec![7; 64]).unwrap();
    let probe = |more: &[&str], status: i32, words: &[&str]| {
        let mut arguments = vec![
            "probe", "--space", "nb201", "--batch", "4", "--device", "cpu",
        ];
        arguments.extend_from_slice(more);
        refused(folder.path(), &arguments, status, words);
    };
    probe(&[], 2, &["--out"]);
    probe(&["--out", "x", "--gamma", "0"], 2, &["--gamma"]);
    let junk = ["--out", "x", "--checkpoint", "junk.safetensors"];
    probe(&junk, 1, &["junk.safetensors"]);
    probe(&["--out", "none/x"], 1, &["none/x"]);
}

#[test]
fn completions_and_devices_print_something() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish"] {
        let output = ndarts(folder.path(), &["completions", shell]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("neumann-terms"));
    }
    let output = ndarts(folder.path(), &["devices"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("cpu "));
}
