//! `ndarts search --table FILE`: a strategy straight against a tabular benchmark, hundreds of runs.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::flags;
use super::{End, say};
use crate::run::BadUsage;
use crate::run::directory::RunDir;
use crate::run::tabular::{self, Spread, TabularRecord};
use crate::search::tabular::{
    Benchmark, Budget, ColumnNames, STRATEGIES, TabularStrategy, run, strategy,
};
use crate::space::{Space, Table};

/// Runs of the published comparison.
const RUNS: usize = 500;
/// Most runs: their answers are kept in memory.
const MOST_RUNS: usize = 1_000_000;
/// Simulated seconds of the published comparison.
const SECONDS: f64 = 12_000.0;
/// What they pay for where the table has no times: about 120 seconds a training.
const TRAININGS: usize = 100;
/// Flags of a search that mean something here too.
const SHARED: [&str; 3] = ["strategy", "seed", "space"];

/// The flags of a search in a table.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Tabular benchmark")]
pub struct TabularFlags {
    /// Search this NAS-Bench-201 table (CSV) and train nothing; takes --strategy, --seed, --out,
    /// --quiet, --threads and the flags of this group
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Searches to make, each with random numbers of its own [default: 500]
    #[arg(long, value_name = "N", value_parser = flags::whole, allow_negative_numbers = true, requires = "table")]
    runs: Option<usize>,
    /// Budget of a search: cells trained [default: 100, where the table has no training times]
    #[arg(long, value_name = "N", value_parser = flags::whole, allow_negative_numbers = true, requires = "table", conflicts_with = "budget_seconds")]
    budget_trainings: Option<usize>,
    /// Budget of a search: simulated training time, seconds [default: 12000, where the table has it]
    #[arg(
        long,
        value_name = "S",
        allow_negative_numbers = true,
        requires = "table"
    )]
    budget_seconds: Option<f64>,
    /// Column of the validation accuracies that a search sees [default: found by its name]
    #[arg(long, value_name = "NAME", requires = "table")]
    reward_column: Option<String>,
    /// Column of the test accuracies that are reported [default: found by its name]
    #[arg(long, value_name = "NAME", requires = "table")]
    test_column: Option<String>,
    /// Column of the training times, seconds [default: found by its name, if there]
    #[arg(long, value_name = "NAME", requires = "table")]
    seconds_column: Option<String>,
}

/// What stands beside the flags of the group.
pub struct Beside<'a> {
    /// Settings of a search that were given.
    pub given: &'a toml::Table,
    /// Flags without a meaning here that were given: `--config`, `--resume`, …
    pub run_flags: Vec<&'static str>,
    /// Directory for the record.
    pub out: Option<&'a Path>,
    /// Print mean and deviation only.
    pub quiet: bool,
}

impl TabularFlags {
    /// Makes the runs, prints their summary, and writes the record where `--out` says so.
    ///
    /// # Errors
    /// [`BadUsage`] for a flag that means nothing here or has a bad value; a table that cannot be
    /// searched; a directory that cannot be written.
    pub fn run(&self, table: &Path, beside: &Beside) -> Result<End> {
        refuse_meaningless(beside)?;
        let strategy = named_strategy(beside.given)?;
        let seed = beside.given.get("seed").and_then(toml::Value::as_integer);
        let seed = seed.unwrap_or(0).unsigned_abs();
        let runs = self.runs.unwrap_or(RUNS);
        if !(1..=MOST_RUNS).contains(&runs) {
            bail!(BadUsage(format!(
                "--runs: expected a whole number from 1 to {MOST_RUNS}, found {runs}"
            )));
        }
        if let Some(out) = beside.out {
            RunDir::check_free(out)?;
        }
        let names = ColumnNames {
            reward: self.reward_column.clone(),
            test: self.test_column.clone(),
            seconds: self.seconds_column.clone(),
        };
        let benchmark = Benchmark::new(&Table::open(table)?, &names)
            .map_err(|error| anyhow!("table {}: {error:#}", table.display()))?;
        let budget = self.budget(&benchmark)?;
        let began = Instant::now();
        let found = run(strategy, &benchmark, budget, runs, seed);
        let seconds = began.elapsed().as_secs_f64();
        let record =
            TabularRecord::new(strategy, (table, &benchmark), budget, seed, &found, seconds)?;
        if let Some(out) = beside.out {
            tabular::write(out, &record, &found)?;
        }
        if beside.quiet {
            say(&format!("{}\n", mean_and_deviation(&record.test)));
        } else {
            say(&text(&record).context("the summary cannot be formed")?);
            eprintln!(
                "{:.1} s{}",
                seconds,
                match beside.out {
                    Some(out) => format!("; record: {}/{}", out.display(), tabular::RECORD),
                    None => String::new(),
                }
            );
        }
        Ok(End::Done)
    }

    fn budget(&self, benchmark: &Benchmark) -> Result<Budget> {
        let (flag, budget) = match (self.budget_trainings, self.budget_seconds) {
            (Some(trainings), _) => ("--budget-trainings", Budget::Trainings(trainings)),
            (None, Some(seconds)) => ("--budget-seconds", Budget::Seconds(seconds)),
            (None, None) if benchmark.columns().seconds.is_some() => {
                ("--budget-seconds", Budget::Seconds(SECONDS))
            }
            (None, None) => ("--budget-trainings", Budget::Trainings(TRAININGS)),
        };
        benchmark
            .check_budget(budget)
            .map_err(|error| BadUsage(format!("{flag}: {error}")))?;
        Ok(budget)
    }
}

/// Refuses what a search with a supernet takes and a search in a table does not.
fn refuse_meaningless(beside: &Beside) -> Result<()> {
    let settings = beside
        .given
        .keys()
        .filter(|key| !SHARED.contains(&key.as_str()));
    let mut meaningless: Vec<String> = settings.map(|key| format!("--{key}")).collect();
    meaningless.extend(beside.run_flags.iter().map(|flag| format!("--{flag}")));
    if !meaningless.is_empty() {
        bail!(BadUsage(format!(
            "--table: expected beside it only flags of a search that trains nothing (--strategy, \
             --seed, --out, --quiet, --threads, --runs, the budget and the columns), found {}; \
             leave {} out",
            meaningless.join(", "),
            if meaningless.len() == 1 { "it" } else { "them" }
        )));
    }
    let space = beside.given.get("space").and_then(toml::Value::as_str);
    if let Some(space) = space.filter(|space| *space != Space::NasBench201.name()) {
        bail!(BadUsage(format!(
            "--space: expected nb201, the space of every table, found {space}"
        )));
    }
    Ok(())
}

fn named_strategy(given: &toml::Table) -> Result<&'static dyn TabularStrategy> {
    let named = given.get("strategy").and_then(toml::Value::as_str);
    named.and_then(strategy).ok_or_else(|| {
        let names: Vec<&str> = STRATEGIES.iter().map(|strategy| strategy.name()).collect();
        let found = named.map_or_else(|| "none".into(), |name| format!("`{name}`"));
        anyhow!(BadUsage(format!(
            "--strategy: expected one that can search a table ({}), found {found}",
            names.join(", ")
        )))
    })
}

fn mean_and_deviation(spread: &Spread) -> String {
    format!("{:.2} ± {:.2}", spread.mean, spread.deviation)
}

fn text(record: &TabularRecord) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let budget = match (record.budget_trainings, record.budget_seconds) {
        (Some(trainings), _) => format!("{trainings} trainings"),
        (None, Some(seconds)) => format!(
            "{seconds} simulated seconds ({:.1} trainings)",
            record.trainings.mean
        ),
        (None, None) => "an unknown budget".into(),
    };
    writeln!(
        text,
        "{} in {}: runs {}, each of {budget}, seed {}",
        record.strategy, record.table, record.runs, record.seed
    )?;
    let rows = [
        ("found by", &record.reward_column, &record.reward),
        ("test", &record.test_column, &record.test),
    ];
    let width = rows
        .iter()
        .map(|(_, column, _)| column.chars().count())
        .max()
        .unwrap_or(0);
    for (name, column, spread) in rows {
        writeln!(
            text,
            "{name:<8}  {column:<width$}  {} %  (lowest {:.2}, median {:.2}, highest {:.2})",
            mean_and_deviation(spread),
            spread.lowest,
            spread.median,
            spread.highest
        )?;
    }
    writeln!(
        text,
        "test accuracy of the cell with the best {}: {:.2} %; best of all cells: {:.2} %",
        record.reward_column, record.test_of_best_reward, record.best_test
    )?;
    writeln!(text, "{}", record.genotype)?;
    Ok(text)
}
