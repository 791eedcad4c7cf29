//! `ndarts ablate`: the same search over a grid of settings, several seeds in turn.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use toml::Value;

use super::config::ConfigFile;
use super::defaults::{self, DataKind};
use super::flags::{self, SearchFlags};
use super::progress::Progress;
use super::{End, Threads, say};
use crate::run::ablation::page::Page;
use crate::run::ablation::{self, Ablation, Axis, Ended, Planned, places};
use crate::run::config::RunConfig;
use crate::run::{BadUsage, atomic};
use crate::space::Table;

/// Most searches of a grid.
const MOST: usize = 100_000;
/// What has a flag of its own here.
const NOT_VARIED: [&str; 5] = ["seed", "device", "mean", "std", "option"];

/// Search over a grid of settings, several seeds in turn.
///
/// Every search has a run directory of its own in --out. The same command again skips what has ended and
/// goes on with what was cut off. After each search results.csv (a line a search) and ablation.html (a plot
/// of means and of how far the seeds reach) are written anew.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  ndarts ablate --out runs/steps\n  ndarts ablate --grid es --seeds 5 --out runs/es\n  ndarts ablate --vary strategy=ndarts,darts-v1,gdas --space nb201 --data cifar10:DIR --channels 8 --cells 1 \\\n    --minutes 10 --table nasbench201-cifar10.csv --out runs/methods"
)]
pub struct Command {
    #[command(flatten)]
    grid: GridFlags,
    #[command(flatten)]
    settings: SearchFlags,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Args)]
#[command(next_help_heading = "Grid")]
struct GridFlags {
    /// A grid of the paper [default: steps-terms, where nothing is given by --vary]
    #[arg(long, value_enum, value_name = "GRID", conflicts_with = "vary")]
    grid: Option<Grid>,
    /// A setting and its values, under its flag's name; may be repeated: all combinations are searched
    #[arg(long, value_name = "FLAG=V,…", value_parser = axis)]
    vary: Vec<Axis>,
    /// Seeds of each combination, from --seed on
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = flags::whole, allow_negative_numbers = true)]
    seeds: usize,
    /// Give every search about this long, in place of --epochs: as many epochs as fit, by the time of two
    #[arg(long, value_name = "M", conflicts_with = "epochs", value_parser = flags::number, allow_negative_numbers = true)]
    minutes: Option<f32>,
    /// Tabular benchmark (CSV) to look found NAS-Bench-201 cells up in
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Folder of the grid
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Settings in TOML, under the flags' names without dashes
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the results and nothing else
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Grid {
    /// Inner steps T = 1 to 4 by Neumann terms K = 0 to 3
    StepsTerms,
    /// Population 4, 8, 16 by σ = 0.003, 0.01, 0.03, with --weights sgd+es unless given
    Es,
}

impl Grid {
    fn axes(self) -> Vec<Axis> {
        let axis = |key: &str, values: &[&str]| Axis {
            key: key.into(),
            values: values.iter().map(|&value| value.into()).collect(),
        };
        match self {
            Grid::StepsTerms => vec![
                axis("inner-steps", &["1", "2", "3", "4"]),
                axis("neumann-terms", &["0", "1", "2", "3"]),
            ],
            Grid::Es => vec![
                axis("population", &["4", "8", "16"]),
                axis("sigma", &["0.003", "0.01", "0.03"]),
            ],
        }
    }
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let given = self.settings.given()?;
        let ablation = self.grid.plan(given)?;
        let table = self.grid.table.as_deref().map(Table::open).transpose()?;
        if let Some(table) = &table {
            for planned in &ablation.planned {
                ablation::test_column(table, &planned.config.search.data)?;
            }
        }
        super::start_threads(self.threads.threads)?;
        let stop = super::catch_interrupts(self.grid.quiet, "round")?;
        self.grid.carry(&ablation, table.as_ref(), &stop)
    }
}

impl GridFlags {
    /// Every search of the grid with its settings, all of them checked before the first begins.
    fn plan(&self, mut given: toml::Table) -> Result<Ablation> {
        ablation::check_folder(&self.out)?;
        let file = flags::config_file(self.config.as_deref())?;
        let axes = match (self.grid, self.vary.as_slice()) {
            (None, [_, ..]) => self.vary.clone(),
            (grid, _) => grid.unwrap_or(Grid::StepsTerms).axes(),
        };
        if matches!(self.grid, Some(Grid::Es)) && !in_file(file.as_ref(), "weights") {
            given.entry("weights").or_insert_with(|| "sgd+es".into());
        }
        for (index, axis) in axes.iter().enumerate() {
            let twice = axes[..index].iter().any(|other| other.key == axis.key);
            if twice || given.contains_key(&axis.key) {
                bail!(BadUsage(format!(
                    "--vary {}: expected a setting that nothing else gives, found it given again; leave one out",
                    axis.key
                )));
            }
        }
        let places = places(&axes);
        let count = places.len().saturating_mul(self.seeds);
        if count == 0 || count > MOST {
            bail!(BadUsage(format!(
                "--seeds: expected 1 to {MOST} searches, found {count}"
            )));
        }
        if let Some(minutes) = self.minutes
            && !(minutes > 0.0 && minutes.is_finite())
        {
            bail!(BadUsage(format!(
                "--minutes: expected a time above 0, found {minutes}"
            )));
        }
        let first = match given.get("seed") {
            Some(seed) => seed.as_integer().unwrap_or(0),
            None => 0,
        };
        let mut planned = Vec::new();
        for seed in 0..self.seeds as i64 {
            for place in &places {
                let mut given = given.clone();
                for (axis, &value) in axes.iter().zip(place) {
                    let text = &axis.values[value];
                    given.insert(axis.key.clone(), typed(&axis.key, text)?);
                }
                given.insert("seed".into(), first.saturating_add(seed).into());
                planned.push(Planned {
                    place: place.clone(),
                    config: RunConfig {
                        search: flags::resolve(given, file.as_ref())?,
                        checkpoint_every: 0,
                    },
                });
            }
        }
        let ablation = Ablation {
            axes,
            planned,
            out: self.out.clone(),
            seconds: self.minutes.map(|minutes| 60.0 * f64::from(minutes)),
        };
        ablation.check()?;
        Ok(ablation)
    }

    fn carry(&self, ablation: &Ablation, table: Option<&Table>, stop: &AtomicBool) -> Result<End> {
        let mut failed = 0;
        let count = ablation.planned.len();
        for (index, planned) in ablation.planned.iter().enumerate() {
            let mut progress = Progress::new(self.quiet);
            progress.line(format!(
                "search {} of {count}: {}, seed {}",
                index + 1,
                ablation.name(&planned.place),
                planned.config.search.seed
            ));
            let ended = ablation.carry(planned, &mut progress, stop);
            progress.close();
            match ended {
                Ok(Ended::Finished) => {
                    self.write(ablation, table)?;
                }
                Ok(Ended::Before) => {}
                Ok(Ended::Interrupted) => {
                    if !self.quiet {
                        eprintln!("interrupted; the same command goes on");
                    }
                    return Ok(End::Interrupted);
                }
                Err(error) if error.is::<BadUsage>() => return Err(error),
                Err(error) => {
                    failed += 1;
                    eprintln!("left out: {error:#}");
                }
            }
        }
        say(&self.write(ablation, table)?);
        if !self.quiet {
            eprintln!("plots: {}", self.out.join(PAGE).display());
        }
        if failed > 0 {
            bail!("expected {count} searches to end, found {failed} that failed, named above");
        }
        Ok(End::Done)
    }

    /// Writes what the finished searches showed; returns it as text.
    fn write(&self, ablation: &Ablation, table: Option<&Table>) -> Result<String> {
        let shown = ablation.shown(table)?;
        let page = Page {
            ablation,
            shown: &shown,
        };
        let file = |name: &str, text: &str| {
            atomic::write(&self.out.join(name), text.as_bytes()).context("--out")
        };
        file("results.csv", &page.csv()?)?;
        file(PAGE, &page.html()?)?;
        Ok(page.text())
    }
}

/// File name of the page.
const PAGE: &str = "ablation.html";

fn in_file(file: Option<&ConfigFile>, key: &str) -> bool {
    file.is_some_and(|file| file.settings().any(|(name, ..)| name == key))
}

/// FLAG=V,…
fn axis(text: &str) -> Result<Axis, String> {
    let (key, values) = text
        .split_once('=')
        .ok_or("expected FLAG=VALUE,VALUE,…, the flag without its dashes")?;
    if NOT_VARIED.contains(&key) {
        return Err(format!("expected a flag that can vary, found `{key}`"));
    }
    kind(key)?;
    let values: Vec<String> = values.split(',').map(str::to_owned).collect();
    for (index, value) in values.iter().enumerate() {
        if value.is_empty() || values[..index].contains(value) {
            return Err("expected values that differ, separated by commas".into());
        }
    }
    Ok(Axis {
        key: key.to_owned(),
        values,
    })
}

/// A good value of a setting.
fn kind(key: &str) -> Result<Value, String> {
    let good = defaults::defaults_for(DataKind::Digits, defaults::SPACE);
    let good = toml::Table::try_from(good).map_err(|error| error.to_string())?;
    good.get(key).cloned().ok_or_else(|| {
        format!("expected a flag of `ndarts search` without its dashes, found `{key}`")
    })
}

/// A value of a setting from its text, of the type that the setting has.
fn typed(key: &str, text: &str) -> Result<Value> {
    let bad =
        |expected: &str| BadUsage(format!("--vary {key}: expected {expected}, found `{text}`"));
    Ok(match kind(key).map_err(BadUsage)? {
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| bad("whole numbers"))?),
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| bad("true or false"))?),
        // `--gamma auto` is a word where others are numbers.
        Value::Float(_) => match text.parse() {
            Ok(number) => Value::Float(number),
            Err(_) if key == "gamma" => Value::String(text.into()),
            Err(_) => return Err(bad("numbers").into()),
        },
        _ => Value::String(text.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_names_a_setting_and_values_that_differ() {
        assert_eq!(axis("sigma=0.1,0.2").unwrap().values, ["0.1", "0.2"]);
        for bad in ["sigma", "sigma=", "sigma=1,1", "seed=1,2", "out=a,b"] {
            assert!(axis(bad).unwrap_err().starts_with("expected"), "{bad}");
        }
    }

    #[test]
    fn values_take_the_type_of_their_setting() {
        assert_eq!(typed("sigma", "1").unwrap(), Value::Float(1.0));
        assert_eq!(
            typed("gamma", "auto").unwrap(),
            Value::String("auto".into())
        );
        assert_eq!(typed("inner-steps", "2").unwrap(), Value::Integer(2));
        let error = typed("inner-steps", "two").unwrap_err().to_string();
        assert!(error.contains("--vary inner-steps: expected whole numbers, found `two`"));
    }

    #[test]
    fn the_papers_grids_name_settings() {
        for grid in Grid::value_variants() {
            for axis in grid.axes() {
                for value in &axis.values {
                    typed(&axis.key, value).unwrap();
                }
            }
        }
    }
}
