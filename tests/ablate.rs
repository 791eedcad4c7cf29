//! Grids of searches: stopped and gone on with, read back, and refused.

use std::path::Path;
use std::process::{Command, Output};

fn ablate(out: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ndarts"));
    command
        .args(["ablate", "--device", "cpu", "--space", "nb201"])
        .args(["--channels", "2", "--cells", "1", "--batch", "128"])
        .args(arguments.split_whitespace())
        .arg("--out")
        .arg(out);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_grid_is_searched_once_seeds_outermost_and_goes_on_where_it_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("grid");
    let grid = "--vary inner-steps=1,2 --vary neumann-terms=0,1 --epochs 1";
    let first = ablate(&out, &format!("{grid} --seeds 1"));
    assert!(first.status.success(), "{}", text(&first.stderr));
    let one = std::fs::read(out.join("inner-steps=2,neumann-terms=1/seed-0/log.jsonl")).unwrap();
    // A search that was cut off before its end: its log and checkpoint are gone, its settings are not.
    let cut = out.join("inner-steps=1,neumann-terms=0/seed-0");
    std::fs::remove_dir_all(cut.join("checkpoint")).unwrap();
    std::fs::write(cut.join("log.jsonl"), "").unwrap();

    let second = ablate(&out, &format!("{grid} --seeds 2"));
    assert!(second.status.success(), "{}", text(&second.stderr));
    let again = std::fs::read(out.join("inner-steps=2,neumann-terms=1/seed-0/log.jsonl")).unwrap();
    assert_eq!(one, again, "a search that had ended was made again");
    let csv = std::fs::read_to_string(out.join("results.csv")).unwrap();
    let places: Vec<Vec<&str>> = csv
        .lines()
        .skip(1)
        .map(|line| line.split(',').take(3).collect())
        .collect();
    let grid = ["1,0,", "1,1,", "2,0,", "2,1,"];
    let expected = ["0", "1"].map(|seed| grid.map(|place| format!("{place}{seed}")));
    let expected: Vec<String> = expected.concat();
    let found: Vec<String> = places.iter().map(|place| place.join(",")).collect();
    assert_eq!(found, expected);
    let shown = text(&second.stdout);
    assert_eq!(shown.lines().count(), 5, "{shown}");
    let page = std::fs::read_to_string(out.join("ablation.html")).unwrap();
    assert!(page.contains("8 of 8 searches") && page.contains("<svg"));
    assert!(page.contains("inner-steps 2"), "the legend names the lines");
}

#[test]
fn minutes_choose_the_epochs_and_other_seeds_take_them_over() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("grid");
    let done = ablate(
        &out,
        "--vary strategy=ndarts,darts-v1 --minutes 0.05 --seeds 2 --stable-epochs 0",
    );
    assert!(done.status.success(), "{}", text(&done.stderr));
    for strategy in ["ndarts", "darts-v1"] {
        let epochs = [0, 1].map(|seed| {
            let path = out.join(format!("strategy={strategy}/seed-{seed}/config.toml"));
            let settings: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
            settings["epochs"].as_integer().unwrap()
        });
        assert!(epochs[0] >= 1 && epochs[0] == epochs[1], "{epochs:?}");
    }
}

#[test]
fn a_grid_that_cannot_be_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("grid");
    for (arguments, problem) in [
        ("--vary nonsense=1,2", "found `nonsense`"),
        (
            "--vary inner-steps=1,two",
            "--vary inner-steps: expected whole numbers, found `two`",
        ),
        ("--vary inner-steps=0,1", "inner-steps"),
        (
            "--vary sigma=0.1,0.2 --sigma 0.1",
            "--vary sigma: expected a setting that nothing else gives",
        ),
        ("--vary sigma=0.1,0.1", "expected values that differ"),
        ("--seeds 0", "--seeds: expected"),
        ("--minutes 0", "--minutes: expected"),
        ("--minutes 1 --epochs 2", "--epochs"),
    ] {
        let refused = ablate(&out, arguments);
        let message = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{arguments}: {message}");
        assert!(message.contains(problem), "{arguments}: {message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
    assert!(!out.exists());
}

#[test]
fn a_folder_with_searches_of_other_settings_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("grid");
    let grid = "--vary inner-steps=2 --seeds 1 --epochs 1";
    assert!(ablate(&out, grid).status.success());
    let refused = ablate(&out, &format!("{grid} --momentum 0.5"));
    let message = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains("expected momentum = 0.5"), "{message}");
    let settings = std::fs::read_to_string(out.join("inner-steps=2/seed-0/config.toml")).unwrap();
    assert!(settings.contains("momentum = 0.9"), "{settings}");
}
