//! `ndarts probe`: one hypergradient and everything it is made of, in a file.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::flags::{self, DataFlags, NetworkFlags, NeumannFlags};
use super::{End, Threads, say};

/// Write one hypergradient, with all it is made of, to a safetensors file.
///
/// The file holds batches, weights, losses, gradients, a Hessian-vector product and the
/// hypergradient, under PyTorch's names and in its layouts, so that anyone can recompute them.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ndarts probe --space nb201 --neumann-terms 3 --batch 16 --out probe.safetensors"
)]
pub struct Command {
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    neumann: NeumannFlags,
    #[command(flatten)]
    files: FileFlags,
}

#[derive(Args)]
#[command(next_help_heading = "Files")]
struct FileFlags {
    /// Safetensors file to take weights and architecture from; without it they are drawn by --seed
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Settings in TOML, under the flags' names without dashes
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let mut given = flags::table(&self.network)?;
        given.extend(flags::table(&self.data)?);
        given.extend(flags::table(&self.neumann)?);
        let file = flags::config_file(self.files.config.as_deref())?;
        let settings = flags::resolve(given, file.as_ref())?;
        let keys = file.map(|file| file.run_keys()).unwrap_or_default();
        super::start_threads(self.files.threads.threads.or(keys.threads))?;
        let device = super::device(&settings.device)?;
        let checkpoint = self.files.checkpoint.as_deref();
        let report = crate::run::probe::run(settings, device, checkpoint, &self.files.out)?;
        let norms: Vec<String> = report.norms.iter().map(f64::to_string).collect();
        say(&format!(
            "{}\n‖v_k‖ {}\n",
            self.files.out.display(),
            norms.join(" ")
        ));
        Ok(End::Done)
    }
}
