//! The record of searches against a table: `tabular.json` with the summary, `runs.csv` with a line
//! a run. `runs.csv` is written first, so a directory with a `tabular.json` is whole.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::atomic;
use super::directory::RunDir;
use super::paper::Dataset;
use crate::search::tabular::{Benchmark, Budget, Found, TabularStrategy};

/// File name of the summary.
pub const RECORD: &str = "tabular.json";
/// File name of the table of runs.
const RUNS: &str = "runs.csv";
/// Largest summary that is read, bytes; a full one has about a thousand.
const LARGEST_RECORD: u64 = 1 << 20;

/// How a number spreads over the runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation (n − 1); 0 for a single run.
    pub deviation: f64,
    /// Lowest.
    pub lowest: f64,
    /// Median.
    pub median: f64,
    /// Highest.
    pub highest: f64,
}

impl std::fmt::Display for Spread {
    /// `93.92 ± 0.30`, or the one value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.deviation > 0.0 {
            write!(f, "{:.2} ± {:.2}", self.mean, self.deviation)
        } else {
            write!(f, "{:.2}", self.mean)
        }
    }
}

impl Spread {
    /// Of at least one value; none of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&lowest, &highest) = (values.first()?, values.last()?);
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Spread {
            mean,
            deviation: (squares / count.saturating_sub(1).max(1) as f64).sqrt(),
            lowest,
            median: (values[(count - 1) / 2] + values[count / 2]) / 2.0,
            highest,
        })
    }
}

/// What `tabular.json` holds. Accuracies are in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TabularRecord {
    /// Version of `ndarts` that made it.
    pub version: String,
    /// The strategy.
    pub strategy: String,
    /// Its own settings.
    pub settings: BTreeMap<String, f64>,
    /// The table, as it was named.
    pub table: String,
    /// Column that the searches saw.
    pub reward_column: String,
    /// Column that is reported.
    pub test_column: String,
    /// Budget of a run in trainings, where it is one.
    pub budget_trainings: Option<usize>,
    /// Budget of a run in simulated seconds, where it is one.
    pub budget_seconds: Option<f64>,
    /// Seed.
    pub seed: u64,
    /// Number of runs.
    pub runs: usize,
    /// Trainings of a run.
    pub trainings: Spread,
    /// Validation accuracy of the found cells.
    pub reward: Spread,
    /// Test accuracy of the found cells.
    pub test: Spread,
    /// Parameters of the found cells' networks (16 channels, 5 cells a stage), millions.
    pub params: Spread,
    /// Test accuracy of the cell with the best reward of all: where a perfect search ends.
    pub test_of_best_reward: f64,
    /// Best test accuracy of all cells.
    pub best_test: f64,
    /// The found cell of best validation accuracy.
    pub genotype: String,
    /// Wall-clock seconds of all runs together.
    pub wall_seconds: f64,
}

impl TabularRecord {
    /// Sums `found` up.
    ///
    /// # Errors
    /// No run at all; a network that cannot be described.
    pub fn new(
        strategy: &dyn TabularStrategy,
        (table, benchmark): (&Path, &Benchmark),
        budget: Budget,
        seed: u64,
        found: &[Found],
        wall_seconds: f64,
    ) -> Result<TabularRecord> {
        let spread = |of: fn(&Found) -> f64| {
            Spread::of(found.iter().map(of))
                .context("expected at least one run to sum up, found none")
        };
        let best = found
            .iter()
            .max_by(|a, b| a.reward.total_cmp(&b.reward))
            .context("expected at least one run to sum up, found none")?;
        let (test_of_best_reward, best_test) = benchmark.best();
        let columns = benchmark.columns();
        let (budget_trainings, budget_seconds) = match budget {
            Budget::Trainings(trainings) => (Some(trainings), None),
            Budget::Seconds(seconds) => (None, Some(seconds)),
        };
        let settings = strategy.settings();
        Ok(TabularRecord {
            version: env!("CARGO_PKG_VERSION").into(),
            strategy: strategy.name().into(),
            settings: settings
                .into_iter()
                .map(|(key, value)| (key.into(), value))
                .collect(),
            table: table.display().to_string(),
            reward_column: columns.reward.clone(),
            test_column: columns.test.clone(),
            budget_trainings,
            budget_seconds,
            seed,
            runs: found.len(),
            trainings: spread(|found| found.trainings as f64)?,
            reward: spread(|found| found.reward)?,
            test: spread(|found| found.test)?,
            params: parameters(found, &columns.test)?,
            test_of_best_reward,
            best_test,
            genotype: best.cell.to_string(),
            wall_seconds,
        })
    }

    /// Reads a `tabular.json`.
    ///
    /// # Errors
    /// The file cannot be read or is none of ours; the message names it.
    pub fn read(path: &Path) -> Result<TabularRecord> {
        let shown = path.display();
        let expected = || format!("{shown}: expected the record of a search in a table");
        let length = fs::metadata(path).with_context(expected)?.len();
        ensure!(
            length <= LARGEST_RECORD,
            "{shown}: expected a record of at most {LARGEST_RECORD} bytes, found {length}"
        );
        let text = fs::read_to_string(path).with_context(expected)?;
        serde_json::from_str(&text).map_err(|error| anyhow!("{}, found this: {error}", expected()))
    }
}

/// Parameters of the networks of the found cells, in millions. Searches find the same cells again
/// and again, so each is counted once.
fn parameters(found: &[Found], test_column: &str) -> Result<Spread> {
    let dataset = Dataset::of_column(test_column).unwrap_or(Dataset::Cifar10);
    let mut known = HashMap::new();
    let mut millions = Vec::with_capacity(found.len());
    for found in found {
        let count = match known.get(&found.cell) {
            Some(&count) => count,
            None => dataset.parameters(&found.cell.into())?,
        };
        known.insert(found.cell, count);
        millions.push(count as f64 / 1e6);
    }
    Spread::of(millions).context("expected at least one run to sum up, found none")
}

/// Writes both files into `out`, which is made if it is not there.
///
/// # Errors
/// `out` holds something already, or cannot be written.
pub fn write(out: &Path, record: &TabularRecord, found: &[Found]) -> Result<()> {
    RunDir::check_free(out)?;
    let runs = runs(found)?;
    let mut summary = serde_json::to_vec_pretty(record).context("the record cannot be formed")?;
    summary.push(b'\n');
    fs::create_dir_all(out).with_context(|| {
        format!(
            "--out: expected a place to make {} in, but it cannot be made",
            out.display()
        )
    })?;
    atomic::write(&out.join(RUNS), &runs)?;
    atomic::write(&out.join(RECORD), &summary)
}

fn runs(found: &[Found]) -> Result<Vec<u8>> {
    let formed = "the table of runs cannot be formed";
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer
        .write_record(["run", "arch", "reward", "test", "trainings", "seconds"])
        .context(formed)?;
    for (run, found) in found.iter().enumerate() {
        let seconds = found.seconds.map_or_else(String::new, |s| s.to_string());
        writer
            .write_record([
                run.to_string(),
                found.cell.to_string(),
                found.reward.to_string(),
                found.test.to_string(),
                found.trainings.to_string(),
                seconds,
            ])
            .context(formed)?;
    }
    writer
        .into_inner()
        .map_err(|error| anyhow!("{formed}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_sample_deviation_and_the_middle_of_even_counts() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.mean, spread.median), (2.5, 2.5));
        assert!((spread.deviation - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!((spread.lowest, spread.highest), (1.0, 4.0));
        assert_eq!(Spread::of([7.0]).unwrap().deviation, 0.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn junk_is_no_record_and_the_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RECORD);
        fs::write(&path, "{\"version\": 1}").unwrap();
        let message = format!("{:#}", TabularRecord::read(&path).unwrap_err());
        assert!(
            message.contains("tabular.json: expected the record"),
            "{message}"
        );
    }
}
