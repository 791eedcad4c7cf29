//! `ndarts search`: a search, from its first round or from the checkpoint of an earlier one.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::config::{ConfigFile, RunKeys};
use super::flags::{self, SearchFlags};
use super::progress::Progress;
use super::tabular::{Beside, TabularFlags};
use super::{End, Threads, say};
use crate::run::config::RunConfig;
use crate::run::drive::search::{self as drive, Outcome};

/// Search for an architecture.
///
/// Flags win over the config file, which wins over the defaults.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ndarts search --space nb201 --data cifar10:cifar-10-batches-bin --epochs 5 --out runs/first\n  ndarts search --strategy evolution --table nasbench201-cifar10.csv --runs 500"
)]
pub struct Command {
    #[command(flatten)]
    settings: SearchFlags,
    #[command(flatten)]
    tabular: TabularFlags,
    #[command(flatten)]
    run: RunFlags,
}

#[derive(Args)]
#[command(next_help_heading = "Run")]
struct RunFlags {
    /// Run directory to make [default: runs/<space>-<strategy>-<data>-s<seed>; with --table: none]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in DIR from its last checkpoint, with that run's settings
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Settings in TOML, under the flags' names without dashes
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Rounds between checkpoints, besides the one at the end of each epoch; 0: only those [default: 0]
    #[arg(long, value_name = "ROUNDS", value_parser = flags::whole, allow_negative_numbers = true)]
    checkpoint_every: Option<usize>,
    /// Print the found genotype and nothing else; with --table, mean and deviation
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    threads: Threads,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let given = self.settings.given()?;
        if let Some(table) = &self.tabular.table {
            return self.run.search_table(&self.tabular, table, &given);
        }
        if self.run.resume.is_some() {
            return self.run.resume(&given);
        }
        let file = flags::config_file(self.run.config.as_deref())?;
        let keys = file.as_ref().map(ConfigFile::run_keys).unwrap_or_default();
        let config = RunConfig {
            search: flags::resolve(given, file.as_ref())?,
            checkpoint_every: match self.run.checkpoint_every {
                Some(rounds) => rounds as u64,
                None => keys.checkpoint_every.unwrap_or(0),
            },
        };
        self.run.start(&config, keys)
    }
}

impl RunFlags {
    fn search_table(self, flags: &TabularFlags, table: &Path, given: &toml::Table) -> Result<End> {
        let without_meaning = [
            ("config", self.config.is_some()),
            ("resume", self.resume.is_some()),
            ("checkpoint-every", self.checkpoint_every.is_some()),
        ];
        let beside = Beside {
            given,
            run_flags: without_meaning
                .into_iter()
                .filter_map(|(flag, present)| present.then_some(flag))
                .collect(),
            out: self.out.as_deref(),
            quiet: self.quiet,
        };
        super::start_threads(self.threads.threads)?;
        flags.run(table, &beside)
    }

    fn start(self, config: &RunConfig, keys: RunKeys) -> Result<End> {
        super::start_threads(self.threads.threads.or(keys.threads))?;
        let out = self
            .out
            .or(keys.out)
            .unwrap_or_else(|| drive::default_out(config));
        let quiet = self.quiet || keys.quiet.unwrap_or(false);
        let stop = super::catch_interrupts(quiet, "round")?;
        let mut progress = Progress::new(quiet);
        let outcome = drive::start(config, &out, &mut progress, &stop);
        progress.close();
        Ok(conclude(outcome?, &out, quiet))
    }

    fn resume(self, given: &toml::Table) -> Result<End> {
        let mut beside: Vec<String> = given
            .keys()
            .filter(|key| *key != "device")
            .cloned()
            .collect();
        for (key, present) in [
            ("out", self.out.is_some()),
            ("config", self.config.is_some()),
            ("checkpoint-every", self.checkpoint_every.is_some()),
        ] {
            if present {
                beside.push(key.into());
            }
        }
        flags::refuse_beside_resume(&beside)?;
        let device = given
            .get("device")
            .and_then(|device| device.as_str())
            .map(String::from);
        if let Some(device) = &device {
            super::validate::check_device(device)?;
        }
        super::start_threads(self.threads.threads)?;
        let path = self.resume.unwrap_or_default();
        let stop = super::catch_interrupts(self.quiet, "round")?;
        let mut progress = Progress::new(self.quiet);
        let outcome = drive::resume(&path, device, &mut progress, &stop);
        progress.close();
        Ok(conclude(outcome?, &path, self.quiet))
    }
}

fn conclude(outcome: Outcome, out: &Path, quiet: bool) -> End {
    let shown = out.display();
    match outcome {
        Outcome::Finished(epoch) => {
            say(&format!("{}\n", epoch.genotype));
            if !quiet {
                eprintln!(
                    "validation accuracy {:.2} %, loss {:.4}, {:.1} s; report: {shown}/report.html",
                    100.0 * epoch.accuracy_val,
                    epoch.loss_val,
                    epoch.seconds
                );
            }
            End::Done
        }
        Outcome::Interrupted { round } => {
            if !quiet {
                eprintln!("interrupted after round {round}; go on: ndarts search --resume {shown}");
            }
            End::Interrupted
        }
    }
}
