//! `ndarts completions`: completion scripts for shells.

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use super::{End, say};

/// Print the completion script of a shell.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ndarts completions bash > ~/.local/share/bash-completion/completions/ndarts"
)]
pub struct Command {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "ndarts", &mut script);
        say(&String::from_utf8_lossy(&script));
        Ok(End::Done)
    }
}
