//! `ndarts query`: measured accuracy of a NAS-Bench-201 cell, from a table.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::{End, say};
use crate::run::BadUsage;
use crate::space::table::Spelling;
use crate::space::{Genotype, Table};

/// Look a NAS-Bench-201 cell up in a table of measured accuracies.
///
/// A cell is found under its own spelling or any spelling of the same network.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ndarts query \"$(cat runs/first/genotype.txt)\" --table nasbench201-cifar10.csv"
)]
pub struct Command {
    /// The cell: `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`
    #[arg(value_name = "GENOTYPE")]
    genotype: String,
    /// CSV file with a column `arch` and columns of accuracies, percent
    #[arg(long, value_name = "FILE")]
    table: PathBuf,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let genotype = self
            .genotype
            .trim()
            .parse()
            .map_err(|error: anyhow::Error| BadUsage(format!("GENOTYPE: {error:#}")))?;
        let Genotype::Nb201(genotype) = genotype else {
            bail!(BadUsage(
                "GENOTYPE: expected a NAS-Bench-201 cell, the only ones a table holds, found a \
                 DARTS genotype; train it to learn its accuracy"
                    .into()
            ));
        };
        let table = Table::open(&self.table)?;
        let Some(entry) = table.query(&genotype) else {
            bail!(
                "{}: expected a row for {genotype} or another spelling of it, found none among {} rows",
                self.table.display(),
                table.len()
            );
        };
        let mut text = format!("{}\n", entry.genotype);
        if entry.spelling == Spelling::Isomorphic {
            text += &format!("(line {}: the same network as {genotype})\n", entry.line);
        }
        for (name, value) in &entry.values {
            text += &format!("{name}: {value}\n");
        }
        say(&text);
        Ok(End::Done)
    }
}
