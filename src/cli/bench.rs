//! `ndarts bench`: times the engine's units of work.
//!
//! Peak memory is a process's, so several measurements run in a process each: this program again,
//! asked for one of them.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::defaults::DataKind;
use super::flags::{self, NetworkFlags, Origins};
use super::{End, Threads, say};
use crate::device::Device;
use crate::run::BadUsage;
use crate::run::bench::{Measurement, What, measure};
use crate::search::settings::SearchSettings;

/// Time the engine's units of work on random images and weights.
///
/// Images are 32×32 of 10 classes. Each work is done once unmeasured, then --iters times. Peak
/// memory is that of the measurement alone.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ndarts bench --what step,hypergrad --batch 16 --neumann-terms 3 --json"
)]
pub struct Command {
    /// Works to time, in this order
    #[arg(long, value_enum, value_name = "WORK,…", value_delimiter = ',', default_values_t = What::ALL)]
    what: Vec<What>,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    sizes: SizeFlags,
    /// Timed repetitions of each
    #[arg(long, value_name = "N", value_parser = flags::whole, allow_negative_numbers = true, default_value_t = 3)]
    iters: usize,
    /// One line of JSON a measurement instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Args, Serialize)]
#[serde(rename_all = "kebab-case")]
struct SizeFlags {
    /// Images a batch
    #[arg(long, value_name = "B", value_parser = flags::whole, allow_negative_numbers = true)]
    batch: Option<usize>,
    /// hypergrad: K, terms of the Neumann series beyond the first
    #[arg(long, value_name = "K", value_parser = flags::whole, allow_negative_numbers = true)]
    neumann_terms: Option<usize>,
    /// es: n, members of the population
    #[arg(long, value_name = "N", value_parser = flags::whole, allow_negative_numbers = true)]
    population: Option<usize>,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let mut given = flags::table(&self.network)?;
        given.extend(flags::table(&self.sizes)?);
        let settings = flags::resolve_for(DataKind::Cifar, given, &Origins::new())?;
        if !(1..=1_000_000).contains(&self.iters) {
            bail!(BadUsage(format!(
                "--iters: expected a whole number from 1 to 1000000, found {}",
                self.iters
            )));
        }
        super::start_threads(self.threads.threads)?;
        let (device, line) = Device::choose(&settings.device)?;
        if self.json && settings.device == "auto" {
            eprintln!("device: {line}");
        } else if !self.json {
            say(&self.heading(&settings, &line));
        }
        for &what in &self.what {
            let measurement = match self.what[..] {
                [_] => measure(what, &settings, &device, self.iters)?,
                _ => self.measure_in_child(what, &settings, &device)?,
            };
            if self.json {
                say(&format!("{}\n", serde_json::to_string(&measurement)?));
            } else {
                say(&row(&measurement));
            }
        }
        Ok(End::Done)
    }

    fn heading(&self, s: &SearchSettings, device: &str) -> String {
        format!(
            "{}, {} channels, {} cells, batch {}, K = {}, n = {}; {device}\nmedian of {} after a warm-up\n\n\
             {:<10} {:>10} {:>10} {:>10} {:>9}\n",
            s.space.name(),
            s.channels,
            s.cells,
            s.batch,
            s.neumann_terms,
            s.population,
            self.iters,
            "work",
            "median s",
            "min s",
            "max s",
            "peak MiB"
        )
    }

    /// One measurement by this program in a process of its own.
    fn measure_in_child(
        &self,
        what: What,
        s: &SearchSettings,
        device: &Device,
    ) -> Result<Measurement> {
        let program = std::env::current_exe().context("bench: this program cannot find itself")?;
        let mut child = std::process::Command::new(program);
        child.args(["bench", "--json", "--what", what.name()]);
        child.args(["--space", s.space.name(), "--device", &device.name()]);
        child.args(["--precision", s.precision.name()]);
        for (flag, value) in [
            ("--channels", s.channels),
            ("--cells", s.cells),
            ("--batch", s.batch),
            ("--neumann-terms", s.neumann_terms),
            ("--population", s.population),
            ("--iters", self.iters),
        ] {
            child.args([flag, &value.to_string()]);
        }
        if let Some(threads) = self.threads.threads {
            child.args(["--threads", &threads.to_string()]);
        }
        let output = child
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("bench: cannot start a process for `{what}`"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            match complaint.trim().strip_prefix("error: ") {
                Some(sentence) => bail!("{sentence}"),
                None => bail!(
                    "bench: expected the process that measures `{what}` to end well, found {}; if \
                     memory ran out, lower --batch",
                    output.status
                ),
            }
        }
        eprint!("{complaint}");
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "bench: expected one measurement of `{what}` from its process, found no such line"
            )
        })
    }
}

fn row(m: &Measurement) -> String {
    let memory = m
        .peak_rss_mb
        .map_or_else(|| "unknown".into(), |mib| format!("{mib:.0}"));
    format!(
        "{:<10} {:>10.4} {:>10.4} {:>10.4} {memory:>9}\n",
        m.what.name(),
        m.median_s,
        m.min_s,
        m.max_s
    )
}
