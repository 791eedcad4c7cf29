//! Many searches that differ in a few settings: a grid, several seeds in turn, one run directory each.
//!
//! What has been done is what lies in the folder. A run that has ended is read, one that was cut off goes
//! on from its checkpoint, so the same command again carries the grid on; the seeds are the outermost
//! loop, so that a grid that is cut off is whole for its first seeds.

pub mod page;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::BadUsage;
use super::config::RunConfig;
use super::drive::{Observer, search as drive};
use super::log;
use super::paper::Dataset;
use super::paper::measured::{Columns, value};
use crate::search::Search;
use crate::search::record::EpochRecord;
use crate::search::settings::SearchSettings;
use crate::space::{Genotype, Table};

/// A setting that varies.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Its flag, without dashes.
    pub key: String,
    /// What it takes, as on the command line.
    pub values: Vec<String>,
}

/// All places of the grid in order, the last axis fastest: a value of each axis.
pub fn places(axes: &[Axis]) -> Vec<Vec<usize>> {
    let mut places = vec![Vec::new()];
    for axis in axes {
        let longer = |place: &Vec<usize>| {
            let place = place.clone();
            (0..axis.values.len()).map(move |value| [place.as_slice(), &[value]].concat())
        };
        places = places.iter().flat_map(longer).collect();
    }
    places
}

/// One search of the grid.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Which value of each axis.
    pub place: Vec<usize>,
    /// Its settings; with a time limit their epochs are found when it is begun.
    pub config: RunConfig,
}

/// A grid of searches in a folder.
#[derive(Debug)]
pub struct Ablation {
    /// What varies.
    pub axes: Vec<Axis>,
    /// The searches, in the order in which they are made.
    pub planned: Vec<Planned>,
    /// The folder.
    pub out: PathBuf,
    /// Seconds that every search may take; none: the epochs of its settings.
    pub seconds: Option<f64>,
}

/// How one search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// To its last epoch.
    Finished,
    /// It had ended before.
    Before,
    /// Stopped as asked, with a checkpoint.
    Interrupted,
}

/// What a finished search showed.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Which value of each axis.
    pub place: Vec<usize>,
    /// Its seed.
    pub seed: u64,
    /// Epochs made.
    pub epochs: usize,
    /// Accuracy of the supernet on the validation half, in percent.
    pub validation: f64,
    /// Test accuracy of the found cell in a tabular benchmark, in percent.
    pub test: Option<f64>,
    /// Seconds it took, over all sittings.
    pub seconds: f64,
    /// What was found.
    pub genotype: String,
}

impl Ablation {
    /// The name of a place: `inner-steps=2,neumann-terms=1`.
    pub fn name(&self, place: &[usize]) -> String {
        let parts = self.axes.iter().zip(place);
        let parts: Vec<String> = parts
            .map(|(axis, &value)| format!("{}={}", axis.key, axis.values[value]))
            .collect();
        parts.join(",")
    }

    /// The run directory of a search.
    pub fn directory(&self, planned: &Planned) -> PathBuf {
        let plain = |c: char| c.is_ascii_alphanumeric() || "=,.+-".contains(c);
        let name: String = self
            .name(&planned.place)
            .chars()
            .map(|c| if plain(c) { c } else { '_' })
            .collect();
        let seed = planned.config.search.seed;
        self.out.join(name).join(format!("seed-{seed}"))
    }

    /// Checks that no two searches would share a directory.
    ///
    /// # Errors
    /// [`BadUsage`] naming the values.
    pub fn check(&self) -> Result<()> {
        let mut known = std::collections::BTreeMap::new();
        for planned in &self.planned {
            let name = self.name(&planned.place);
            if let Some(other) = known.insert(self.directory(planned), name.clone()) {
                return Err(BadUsage(format!(
                    "--vary: expected values that tell directories apart, found {other} and {name}"
                ))
                .into());
            }
        }
        Ok(())
    }

    /// Makes a search, goes on with it, or finds it done.
    ///
    /// # Errors
    /// The search's own; a directory with other settings than this grid's.
    pub fn carry(
        &self,
        planned: &Planned,
        observer: &mut dyn Observer<Search>,
        stop: &AtomicBool,
    ) -> Result<Ended> {
        let directory = self.directory(planned);
        let outcome = if directory.join("config.toml").is_file() {
            let config = self.expect_same(planned, &directory)?;
            if finished(&config.search, &directory)?.is_some() {
                return Ok(Ended::Before);
            }
            let device = planned.config.search.device.clone();
            drive::resume(&directory, Some(device), observer, stop)
        } else {
            let mut config = planned.config.clone();
            if let Some(seconds) = self.seconds {
                let Some(epochs) = self.epochs(planned, seconds, stop)? else {
                    return Ok(Ended::Interrupted);
                };
                config.search.epochs = epochs;
            }
            drive::start(&config, &directory, observer, stop)
        };
        match outcome.with_context(|| directory.display().to_string())? {
            drive::Outcome::Finished(_) => Ok(Ended::Finished),
            drive::Outcome::Interrupted { .. } => Ok(Ended::Interrupted),
        }
    }

    /// The settings of the run in `directory`, which must be those that are planned.
    fn expect_same(&self, planned: &Planned, directory: &Path) -> Result<RunConfig> {
        let path = directory.join("config.toml");
        let found = RunConfig::read(&path)?;
        let mut expected = planned.config.search.clone();
        expected.device.clone_from(&found.search.device);
        if self.seconds.is_some() {
            expected.epochs = found.search.epochs;
        }
        let (expected, settings) = (
            toml::Table::try_from(&expected)?,
            toml::Table::try_from(&found.search)?,
        );
        for (key, value) in &expected {
            if settings.get(key) != Some(value) {
                let other = settings
                    .get(key)
                    .map_or("nothing".into(), toml::Value::to_string);
                return Err(BadUsage(format!(
                    "{}: expected {key} = {value}, as this grid has it, found {other}; give the grid another --out",
                    path.display()
                ))
                .into());
            }
        }
        Ok(found)
    }

    /// Epochs that fit `seconds`: those of another seed of the same place, else by the time of two epochs,
    /// the last of which selects whatever the strategy selects at the end. None when stopped.
    fn epochs(&self, planned: &Planned, seconds: f64, stop: &AtomicBool) -> Result<Option<usize>> {
        let siblings = self.planned.iter().filter(|p| p.place == planned.place);
        for sibling in siblings {
            let path = self.directory(sibling).join("config.toml");
            if path.is_file() {
                return Ok(Some(RunConfig::read(&path)?.search.epochs));
            }
        }
        let mut settings = planned.config.search.clone();
        settings.epochs = 2;
        settings.stable_epochs = 0;
        let mut search = Search::new(settings)?;
        let mut taken = [0.0; 2];
        for epoch in &mut taken {
            let began = Instant::now();
            for _ in 0..search.rounds_per_epoch() {
                if stop.load(Ordering::SeqCst) {
                    return Ok(None);
                }
                search.round()?;
            }
            search.finish_epoch()?;
            *epoch = began.elapsed().as_secs_f64();
        }
        let [first, last] = taken;
        Ok(Some(1 + ((seconds - last) / first).max(0.0) as usize))
    }

    /// What the finished searches of the grid showed, in the order of the plan; with `table` also the test
    /// accuracy of the cells.
    ///
    /// # Errors
    /// A directory whose files cannot be read.
    pub fn shown(&self, table: Option<&Table>) -> Result<Vec<Shown>> {
        let mut all = Vec::new();
        for planned in &self.planned {
            let directory = self.directory(planned);
            if !directory.join("config.toml").is_file() {
                continue;
            }
            let config = self.expect_same(planned, &directory)?;
            let Some(epoch) = finished(&config.search, &directory)? else {
                continue;
            };
            let test = match table {
                Some(table) => test_accuracy(table, &config.search.data, &epoch.genotype)?,
                None => None,
            };
            all.push(Shown {
                place: planned.place.clone(),
                seed: config.search.seed,
                epochs: epoch.epoch + 1,
                validation: 100.0 * epoch.accuracy_val,
                test,
                seconds: epoch.seconds,
                genotype: epoch.genotype,
            });
        }
        Ok(all)
    }
}

/// The last epoch of the search in `directory`, if it has ended.
fn finished(settings: &SearchSettings, directory: &Path) -> Result<Option<EpochRecord>> {
    let path = directory.join("log.jsonl");
    if !path.is_file() {
        return Ok(None);
    }
    let last = log::read(&path)?.epochs.into_iter().next_back();
    Ok(last.filter(|epoch| settings.end_after(epoch.epoch + 1, epoch.stable)))
}

/// The test accuracy of a cell on the data that it was found on.
fn test_accuracy(table: &Table, data: &str, genotype: &str) -> Result<Option<f64>> {
    let column = test_column(table, data)?;
    let Genotype::Nb201(cell) = genotype.parse()? else {
        return Ok(None);
    };
    let entry = table.query(&cell);
    Ok(entry.and_then(|entry| value(&entry, Some(column))))
}

/// The column of test accuracies on a data SPEC.
///
/// # Errors
/// [`BadUsage`] for data that the table has no such column of.
pub fn test_column<'a>(table: &'a Table, data: &str) -> Result<&'a str> {
    let dataset = Dataset::of_spec(data);
    let column = dataset.and_then(|dataset| Columns::of(table, dataset).test);
    column.with_context(|| {
        let names: Vec<&str> = table.column_names().collect();
        BadUsage(format!(
            "--table: expected a column of test accuracies on the data `{data}`, found {}",
            names.join(", ")
        ))
    })
}

/// Checks that a folder may take a grid: it is not there yet, or holds run directories and results only.
///
/// # Errors
/// [`BadUsage`] for a folder that is a run directory itself.
pub fn check_folder(out: &Path) -> Result<()> {
    ensure!(
        !out.join("config.toml").exists(),
        BadUsage(format!(
            "--out: expected a new folder or that of a grid, found the run directory {}",
            out.display()
        ))
    );
    Ok(())
}
