//! `ndarts table`: a table of the paper, and beside each row what was measured here.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::{End, say};
use crate::run::paper::page::Page;
use crate::run::paper::{Runs, table};
use crate::run::{BadUsage, atomic};
use crate::space::Table;

/// Print a table of the NDARTS paper, its rows as printed, beside what runs here have measured.
///
/// Runs are matched to rows by strategy and space, and count where they searched on the table's data
/// set or on CIFAR-10. Parameters are those of the network that the paper trains from the found
/// cells; accuracies of NAS-Bench-201 cells come from --table and from searches in a table. What was
/// not measured stays empty.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ndarts table 4 --runs-dir runs --table nasbench201-cifar10.csv --format html --out table4.html"
)]
pub struct Command {
    /// Number of the table: 1 to 3 the DARTS space, 4 to 6 NAS-Bench-201; each on CIFAR-10,
    /// CIFAR-100 and ImageNet
    #[arg(value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=6), allow_negative_numbers = true)]
    number: u8,
    /// Folder of run directories, at any depth; without it only what the paper printed
    #[arg(long, value_name = "DIR")]
    runs_dir: Option<PathBuf>,
    /// Tabular benchmark (CSV) to look found NAS-Bench-201 cells up in
    #[arg(long, value_name = "FILE", requires = "runs_dir")]
    table: Option<PathBuf>,
    /// How to write it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    format: Format,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Columns set below each other
    Text,
    /// Comma-separated values
    Csv,
    /// A page like the report
    Html,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let number = usize::from(self.number);
        let paper = table(number)
            .with_context(|| BadUsage(format!("NUMBER: expected 1 to 6, found {number}")))?;
        if self.table.is_some() && number < 4 {
            return Err(BadUsage(format!(
                "--table: expected with tables 4 to 6, whose cells a NAS-Bench-201 table can hold, \
                 found with table {number}; leave it out"
            ))
            .into());
        }
        let runs = match &self.runs_dir {
            Some(folder) => Runs::find(folder)?,
            None => Runs::default(),
        };
        let benchmark = self.table.as_deref().map(Table::open).transpose()?;
        let (rows, others) = runs.beside(paper, benchmark.as_ref())?;
        let page = Page {
            paper,
            rows,
            others,
        };
        let written = match self.format {
            Format::Text => page.text(),
            Format::Csv => page.csv()?,
            Format::Html => page.html(),
        };
        for reason in &runs.left_out {
            eprintln!("left out: {}", reason.replace('\n', " "));
        }
        match &self.out {
            Some(path) => atomic::write(path, written.as_bytes()).context("--out")?,
            None => say(&written),
        }
        Ok(End::Done)
    }
}
