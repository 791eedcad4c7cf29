//! `ndarts` against libtorch: the same work, proven to be the same, timed in turns.
//!
//! `make bench-libtorch` builds and runs all of it. `prove` recomputes a probe file; `measure` is one
//! measurement of libtorch; `compare` runs both programs and prints the table.

mod comparison;
mod parameters;
mod proof;
mod supernets;
mod works;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use comparison::{Measured, Plan, median};
use parameters::Layout;
use std::path::PathBuf;
use std::process::ExitCode;
use supernets::{Sizes, Space};
use tch::Device;
use works::{Setting, What};

#[derive(Parser)]
#[command(name = "ndarts-libtorch-bench", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Recompute files of `ndarts probe` in libtorch, in both layouts; fail where they differ
    Prove {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Threads within an op
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..=1024))]
        threads: i32,
    },
    /// Time one work in libtorch; print one line of JSON with the keys of `ndarts bench --json`
    Measure(Measure),
    /// Time all works by both programs, in turns, and print a table
    Compare(Compare),
}

#[derive(Args)]
struct Measure {
    /// The work
    #[arg(long, value_enum)]
    what: What,
    /// Search space
    #[arg(long, value_enum)]
    space: Space,
    /// Channels of the first stage
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..=1024))]
    channels: i64,
    /// Cells, or cells of a stage
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..=100))]
    cells: i64,
    /// Images a batch
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..=65536))]
    batch: i64,
    /// K of `hypergrad`
    #[arg(long, default_value_t = 3)]
    neumann_terms: usize,
    /// n of `es`
    #[arg(long, default_value_t = 8)]
    population: usize,
    /// Timed repetitions
    #[arg(long, default_value_t = 3)]
    iters: usize,
    /// Threads within an op
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=1024))]
    threads: i32,
    /// Layout of activations and of convolutions' weights
    #[arg(long, value_enum)]
    layout: Layout,
    /// Where to compute: `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "cpu", value_parser = device)]
    device: Device,
}

/// `cpu`, `cuda` or `cuda:N` of a GPU that libtorch sees.
fn device(text: &str) -> Result<Device, String> {
    let number = match text {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(0),
        _ => text.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
    };
    let seen = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    match number {
        Some(number) if number < seen => Ok(Device::Cuda(number)),
        Some(_) => Err(format!("libtorch sees {seen} GPUs")),
        None => Err("expected `cpu`, `cuda` or `cuda:N`".into()),
    }
}

#[derive(Args)]
struct Compare {
    /// The `ndarts` binary
    #[arg(long)]
    ndarts: PathBuf,
    /// Processes a program, layout and work
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Timed repetitions in each process
    #[arg(long, default_value_t = 3)]
    iters: usize,
    /// Threads of each
    #[arg(long)]
    threads: usize,
    /// Tiny networks, to try that everything runs
    #[arg(long)]
    small: bool,
}

impl Measure {
    fn run(self) -> Result<()> {
        ensure!(self.iters > 0, "--iters: expected at least 1, found 0");
        ensure!(
            self.population > 0,
            "--population: expected at least 1, found 0"
        );
        tch::set_num_threads(self.threads);
        let setting = Setting {
            what: self.what,
            sizes: Sizes {
                space: self.space,
                channels: self.channels,
                cells: self.cells,
                classes: 10,
            },
            batch: self.batch,
            terms: self.neumann_terms,
            population: self.population,
            layout: self.layout,
            device: self.device,
        };
        let mut seconds = works::time(setting, self.iters)?;
        seconds.sort_by(f64::total_cmp);
        let measured = Measured {
            median_s: median(&seconds),
            min_s: seconds[0],
            max_s: seconds[seconds.len() - 1],
            peak_rss_mb: peak_rss_mb(),
        };
        let mut line = serde_json::json!({
            "what": self.what.name(), "space": self.space.name(), "channels": self.channels,
            "cells": self.cells, "batch": self.batch,
            "device": match self.device {
                Device::Cuda(number) => format!("cuda:{number}"),
                _ => "cpu".into(),
            },
            "layout": self.layout.name(), "threads": self.threads,
        });
        let keys = line.as_object_mut().context("an object")?;
        if let serde_json::Value::Object(numbers) = serde_json::to_value(measured)? {
            keys.extend(numbers);
        }
        println!("{line}");
        Ok(())
    }
}

/// The kernel's high-water mark of this process's resident memory, MiB.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

fn run() -> Result<()> {
    match Cli::parse().command {
        Action::Prove { files, threads } => {
            tch::set_num_threads(threads);
            let prove = |file: &PathBuf| proof::prove(file).context(file.display().to_string());
            files.iter().try_for_each(prove)
        }
        Action::Measure(measure) => measure.run(),
        Action::Compare(compare) => {
            for (flag, value) in [("rounds", compare.rounds), ("iters", compare.iters)] {
                ensure!(value > 0, "--{flag}: expected at least 1, found 0");
            }
            let plan = Plan {
                ndarts: &compare.ndarts,
                rounds: compare.rounds,
                iters: compare.iters,
                threads: compare.threads,
                small: compare.small,
            };
            plan.run()
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
