//! Every strategy: a search on the digits from start to report, through a checkpoint, at any number of
//! threads; and what the command line says of what a strategy does not do.

mod common;

use common::{settings, with_threads};
use ndarts::search::settings::{SearchSettings, StrategyKind, Weights};
use ndarts::search::strategies::strategy;
use ndarts::search::{Search, Snapshot};
use ndarts::space::{Genotype, Space};
use std::path::Path;
use std::process::{Command, Output};

/// A tiny search of few draws.
fn tiny(space: Space, strategy: StrategyKind) -> SearchSettings {
    let few = [
        ("candidates", 4.0),
        ("batches", 1.0),
        ("finalists", 2.0),
        ("beam", 5.0),
    ];
    let own = |name: &str| strategy.method().options.iter().any(|own| own.name == name);
    let few = few.into_iter().filter(|(name, _)| own(name));
    SearchSettings {
        weights: Weights::Sgd,
        epochs: epochs(strategy),
        option: few.map(|(name, value)| (name.to_owned(), value)).collect(),
        ..settings(space, strategy)
    }
}

/// Epochs of a short search: two, or one a stage.
fn epochs(strategy: StrategyKind) -> usize {
    match strategy {
        StrategyKind::PDarts => 3,
        StrategyKind::Pnas => 4,
        _ => 2,
    }
}

/// Every strategy in every space that it is defined for.
fn all() -> impl Iterator<Item = (Space, StrategyKind)> {
    let kinds = StrategyKind::ALL.iter().copied();
    kinds.flat_map(|kind| kind.method().spaces.iter().map(move |&space| (space, kind)))
}

/// The snapshot's bits, without the clock.
fn bits(snapshot: &Snapshot) -> Vec<(String, Vec<u32>)> {
    let tensors = snapshot.weights.iter().chain(&snapshot.optimizer);
    tensors
        .map(|t| (t.name.clone(), t.data.iter().map(|x| x.to_bits()).collect()))
        .collect()
}

#[test]
fn every_strategy_goes_on_from_a_snapshot_with_the_same_bits_at_any_number_of_threads() {
    for (space, kind) in all() {
        let what = format!("{kind:?} in {space:?}");
        let whole = with_threads(1, || {
            let mut search = Search::new(tiny(space, kind)).expect("digits");
            for _ in 0..2 {
                search.round().expect("finite");
            }
            search.finish_epoch().expect("finite");
            let halfway = search.snapshot().expect("on the host");
            search.round().expect("finite");
            let epoch = search.finish_epoch().expect("finite");
            (halfway, bits(&search.snapshot().unwrap()), epoch.genotype)
        });
        let (halfway, expected, genotype) = whole;
        with_threads(3, || {
            let mut search = Search::new(tiny(space, kind)).expect("digits");
            search.restore(&halfway).expect("the same settings");
            search.round().expect("finite");
            let epoch = search.finish_epoch().expect("finite");
            assert!(bits(&search.snapshot().unwrap()) == expected, "{what}");
            assert_eq!(epoch.genotype, genotype, "{what}");
        });
    }
}

#[test]
fn weights_and_architecture_move_in_every_strategy_that_moves_them() {
    for (space, kind) in all() {
        let mut search = Search::new(tiny(space, kind)).expect("digits");
        let before = search.snapshot().unwrap().weights;
        // The first reward of a policy is its own baseline: it moves nothing yet.
        let mut record = search.round().expect("finite");
        for _ in 0..4 {
            record = search.round().expect("finite");
        }
        let after = search.snapshot().unwrap().weights;
        let moved = |alpha: bool| {
            let pairs = before.iter().zip(&after);
            let of_kind = |name: &str| {
                let arch = name.starts_with("alphas") || name.starts_with("arch_parameters");
                arch == alpha
            };
            pairs
                .filter(|(t, _)| of_kind(&t.name))
                .any(|(before, after)| before.data != after.data)
        };
        assert!(moved(false), "{kind:?} in {space:?}: weights");
        use StrategyKind::{Enas, Evolution, Nasnet, Pnas, Random};
        let has_alpha = !matches!(kind, Random | Evolution | Enas | Nasnet | Pnas);
        assert_eq!(moved(true), has_alpha, "{kind:?} in {space:?}: α");
        let steps = !matches!(kind, Random | Pnas);
        assert_eq!(record.loss_val.is_some(), steps, "{kind:?} in {space:?}");
    }
}

/// Rounds of a whole search in steps, each with the end of its epoch; a snapshot after each.
fn steps(mut search: Search) -> Vec<Snapshot> {
    let mut snapshots = Vec::new();
    while !search.finished() {
        search.round().expect("finite");
        if search
            .rounds_done()
            .is_multiple_of(search.rounds_per_epoch())
        {
            search.finish_epoch().expect("finite");
        }
        snapshots.push(search.snapshot().expect("on the host"));
    }
    snapshots
}

#[test]
fn a_search_in_stages_goes_on_from_any_round_of_any_stage_with_the_same_bits() {
    let cells = |snapshot: &Snapshot| {
        let of = |name: &str| name.split('.').nth(1)?.parse::<usize>().ok();
        let numbers = snapshot
            .weights
            .iter()
            .filter(|t| t.name.starts_with("cells."));
        numbers.filter_map(|t| of(&t.name)).max().unwrap() + 1
    };
    for (space, kind) in [
        (Space::Darts, StrategyKind::PDarts),
        (Space::Darts, StrategyKind::Pnas),
        (Space::NasBench201, StrategyKind::Pnas),
    ] {
        let new = || {
            let settings = SearchSettings {
                batch: 150,
                ..tiny(space, kind)
            };
            Search::new(settings).expect("digits")
        };
        let snapshots = steps(new());
        let found: Vec<usize> = snapshots.iter().map(cells).collect();
        if kind == StrategyKind::PDarts {
            assert_eq!(found, [3, 3, 7, 7, 10, 10]);
        }
        let (last, before) = snapshots.split_last().expect("rounds");
        for (number, snapshot) in before.iter().enumerate() {
            let mut search = new();
            search.restore(snapshot).expect("the same settings");
            let again = steps(search);
            let ended = bits(again.last().unwrap()) == bits(last);
            assert!(ended, "{kind:?} in {space:?} from round {}", number + 1);
        }
    }
}

#[test]
fn op_weights_have_the_shape_that_the_report_draws() {
    for (space, kind) in all() {
        let search = Search::new(tiny(space, kind)).expect("digits");
        for (matrix, weights) in space.alphas().iter().zip(search.op_weights()) {
            assert_eq!(
                (weights.name.as_str(), weights.rows.len()),
                (matrix.name, matrix.edges)
            );
            let good = |w: &f32| (0.0..=1.0).contains(w);
            let design = strategy(search.settings()).design(search.settings());
            let ops = design.variant.op_names(space).len();
            assert!(
                weights
                    .rows
                    .iter()
                    .all(|r| r.len() == ops && r.iter().all(good))
            );
        }
    }
}

fn ndarts(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ndarts"));
    command.arg("search").args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn run(space: Space, kind: StrategyKind, out: &Path) {
    let (name, epochs) = (kind.name(), epochs(kind).to_string());
    // PC-DARTS takes multiples of four.
    let channels = if kind == StrategyKind::PcDarts {
        "4"
    } else {
        "2"
    };
    let (cells, out) = (
        if space == Space::NasBench201 {
            "1"
        } else {
            "3"
        },
        out.to_str().unwrap(),
    );
    let mut arguments = vec![
        "--device",
        "cpu",
        "--strategy",
        &name,
        "--space",
        space.name(),
        "--channels",
        channels,
        "--cells",
        cells,
        "--batch",
        "64",
        "--epochs",
        &epochs,
        "--quiet",
        "--out",
        out,
    ];
    let own = |name: &str| kind.method().options.iter().any(|own| own.name == name);
    for few in ["candidates=5", "batches=2", "beam=6"] {
        if few.split_once('=').is_some_and(|(name, _)| own(name)) {
            arguments.extend(["--option", few]);
        }
    }
    let output = ndarts(&arguments);
    assert!(output.status.success(), "{name}: {}", said(&output));
}

#[test]
fn every_strategy_runs_from_start_to_report_on_the_digits() {
    for (space, kind) in all() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        run(space, kind, &out);
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        let genotype: Genotype = read("genotype.txt").trim().parse().unwrap();
        // Cells of the NASNet space are genotypes of DARTS' kind.
        let of_cells = genotype.space() == Space::Darts;
        assert_eq!(of_cells, space != Space::NasBench201, "{kind:?}");
        assert!(read("report.html").contains("Found architecture"));
        let config = read("config.toml");
        assert!(
            config.contains(&format!("strategy = \"{}\"", kind.name())),
            "{config}"
        );
        let again = out.join("config.toml");
        let second = folder.path().join("second");
        if kind == StrategyKind::Random {
            let output = ndarts(&[
                "--config",
                again.to_str().unwrap(),
                "--quiet",
                "--out",
                second.to_str().unwrap(),
            ]);
            assert!(output.status.success(), "{}", said(&output));
            let text = std::fs::read_to_string(second.join("genotype.txt")).unwrap();
            assert_eq!(text, read("genotype.txt"), "config.toml repeats the run");
        }
    }
}

#[test]
fn what_a_strategy_does_not_do_is_said_in_a_sentence() {
    let refused = |arguments: &[&str], words: &[&str]| {
        let output = ndarts(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            said(&output)
        );
        for word in words {
            assert!(
                said(&output).contains(word),
                "{arguments:?}: {}",
                said(&output)
            );
        }
    };
    refused(
        &["--strategy", "fair-darts", "--space", "nb201"],
        &["--space", "darts", "fair-darts", "found nb201"],
    );
    refused(
        &["--space", "nasnet", "--device", "cuda"],
        &["--device", "space nasnet runs on the CPU alone", "`cuda`"],
    );
    refused(
        &["--space", "nasnet", "--strategy", "gdas"],
        &["--space", "expected darts or nb201", "found nasnet"],
    );
    refused(
        &["--strategy", "gdas", "--option", "tau=3"],
        &["--option", "tau-start, tau-end", "`tau`"],
    );
    refused(
        &["--strategy", "p-darts", "--epochs", "2"],
        &["--epochs", "one for each stage", "found 2"],
    );
    refused(
        &["--strategy", "pnas", "--epochs", "3"],
        &["--epochs", "one for each size", "found 3"],
    );
    refused(
        &["--strategy", "sharp-darts", "--space", "nb201"],
        &["--space", "darts", "sharp-darts"],
    );
    refused(
        &["--strategy", "p-darts", "--cells", "40"],
        &["--cells", "found 40, which makes 136"],
    );
    refused(
        &["--strategy", "pc-darts", "--arch-second-moment", "edge"],
        &["--arch-second-moment", "expected `element`", "found `edge`"],
    );
    refused(
        &["--strategy", "pc-darts", "--channels", "6"],
        &["--channels", "multiple of 4", "found 6"],
    );
    refused(
        &["--strategy", "gdas", "--option", "tau-end=0"],
        &["--option", "tau-end", "found 0"],
    );
    refused(
        &["--strategy", "gdas", "--option", "tau-end"],
        &["NAME=VALUE"],
    );
    refused(
        &["--option", "tau-end=1"],
        &["--option", "strategy ndarts (it has none)"],
    );
    refused(
        &["--strategy", "random", "--option", "candidates=1.5"],
        &["candidates", "whole number"],
    );
}
