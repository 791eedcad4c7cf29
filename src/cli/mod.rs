//! The command line: one file a subcommand. Parses, calls, prints; no numerics.
//!
//! Exit status: 0 done, 1 failed, 2 bad usage, 130 interrupted with a checkpoint. An error is one
//! sentence on standard error.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::device::Device;
use crate::run::BadUsage;

mod ablate;
mod bench;
mod completions;
mod config;
mod data;
mod defaults;
mod devices;
mod evaluate;
mod flags;
mod genotype;
mod inspect;
mod probe;
mod profile;
mod progress;
pub mod query;
mod report;
mod search;
mod table;
mod tabular;
mod train;
mod validate;

/// Exit status of bad usage.
const BAD_USAGE: u8 = 2;
/// Exit status of a run stopped by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Neural architecture search by the NDARTS method.
#[derive(Parser)]
#[command(name = "ndarts", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Search(Box<search::Command>),
    Ablate(Box<ablate::Command>),
    Probe(Box<probe::Command>),
    Train(Box<train::Command>),
    Evaluate(Box<evaluate::Command>),
    Bench(bench::Command),
    Profile(Box<profile::Command>),
    Data(data::Command),
    Query(query::QueryArgs),
    Inspect(inspect::Command),
    Report(report::Command),
    Table(table::Command),
    Devices(devices::Command),
    Completions(completions::Command),
}

/// Flags of every command that computes.
#[derive(Args, Clone, Debug, Default)]
struct Threads {
    /// CPU threads; 0 takes all cores [default: RAYON_NUM_THREADS, else all cores]
    #[arg(long, value_name = "N", value_parser = flags::whole, allow_negative_numbers = true)]
    threads: Option<usize>,
}

/// What a subcommand ends with when it does not fail.
enum End {
    Done,
    Interrupted,
}

/// The whole program: parses the arguments, runs the command, reports its error.
pub fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ended = match cli.command {
        Command::Search(command) => command.run(),
        Command::Ablate(command) => command.run(),
        Command::Probe(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Evaluate(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Profile(command) => command.run(),
        Command::Data(command) => command.run(),
        Command::Query(args) => query::run(&args).map(|()| End::Done),
        Command::Inspect(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Table(command) => command.run(),
        Command::Devices(command) => command.run(),
        Command::Completions(command) => command.run(),
    };
    match ended {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(if error.is::<BadUsage>() { BAD_USAGE } else { 1 })
        }
    }
}

/// The parser, with the defaults of the settings written into its help.
fn command() -> clap::Command {
    defaults::document(Cli::command())
}

/// Help and version as clap prints them; an error as one sentence.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe (`ndarts --help | head`) is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(BAD_USAGE);
    }
    let text = error.to_string();
    let cut = text
        .find("\n\nUsage:")
        .or_else(|| text.find("\n\nFor more"))
        .unwrap_or(text.len());
    let sentence: Vec<&str> = text[..cut].split_whitespace().collect();
    let sentence = sentence.join(" ");
    complain(&format!(
        "{} (see --help)",
        sentence.trim_start_matches("error: ")
    ));
    ExitCode::from(BAD_USAGE)
}

fn complain(sentence: &str) {
    let sentence = sentence.replace('\n', " ");
    let _ = writeln!(std::io::stderr(), "error: {sentence}");
}

/// Prints to standard output; a reader that has gone away is no failure.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Opens what `--device` names; of `auto` a line on standard error says what it took.
fn device(name: &str) -> anyhow::Result<Device> {
    let (device, line) = Device::choose(name)?;
    if name == "auto" {
        eprintln!("device: {line}");
    }
    Ok(device)
}

/// Sizes the thread pool, before its first use. The main thread is one of its threads: a loop that
/// it starts needs no hand-over, and so neither a wait nor an entry in a queue.
fn start_threads(threads: Option<usize>) -> anyhow::Result<()> {
    let threads = threads.unwrap_or(0);
    if threads > 1024 {
        anyhow::bail!(BadUsage(format!(
            "--threads: expected at most 1024, found {threads}"
        )));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .use_current_thread()
        .build_global()
        .map_err(|error| anyhow::anyhow!("--threads {threads}: cannot start them: {error}"))
}

/// The first Ctrl-C asks for a stop after the round (or step); the second ends the process at once.
fn catch_interrupts(quiet: bool, unit: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        if !quiet {
            eprintln!(
                "\nstopping after this {unit}, with a checkpoint; Ctrl-C again stops at once"
            );
        }
    })
    .context("Ctrl-C cannot be caught")?;
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_sound() {
        command().debug_assert();
    }
}
