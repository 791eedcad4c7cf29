//! `ndarts report`: writes `report.html` from what a run directory holds.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{End, say};

/// Write the report of a run: cells, op weights, losses, settings, in one HTML file.
#[derive(Args)]
#[command(after_help = "Example:\n  ndarts report runs/first")]
pub struct Command {
    /// The run directory
    #[arg(value_name = "RUN_DIR")]
    run_dir: PathBuf,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let path = crate::run::report::write(&self.run_dir)?;
        say(&format!("{}\n", path.display()));
        Ok(End::Done)
    }
}
