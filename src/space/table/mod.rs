//! The tabular benchmark: accuracies of NAS-Bench-201 cells, looked up in a CSV file.
//!
//! The file is read at once and every row is checked: 15,625 rows of 1.5 MB take a few
//! milliseconds, less than the bookkeeping of an on-disk index would, and a bad row is reported
//! before a number next to it is trusted. A cell is its base-five number
//! ([`Nb201Genotype::index`]), so the index over rows is a plain array of 15,625 places. Records
//! are split by the `csv` crate, as it knows quoting, both line ends and the byte order mark.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Result, anyhow, bail};

use super::Nb201Genotype;

mod rows;

/// Largest table that is read, in bytes.
const LARGEST_FILE: u64 = 256 << 20;
/// Place of a cell that has no row.
const ABSENT: u32 = u32::MAX;

/// A table of measured cells.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    /// Cell and line of each row, in file order.
    rows: Vec<(Nb201Genotype, u64)>,
    /// Row of each cell by [`Nb201Genotype::index`], or [`ABSENT`].
    row_of: Vec<u32>,
}

/// A numeric column.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// Field of a record.
    field: usize,
    values: Vec<f64>,
}

/// How the spelling that the table holds relates to the one asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// The same spelling.
    Literal,
    /// Another spelling of the same network.
    Isomorphic,
}

/// One row of a table, found by a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The spelling that the table holds.
    pub genotype: Nb201Genotype,
    /// Whether that is the spelling asked for.
    pub spelling: Spelling,
    /// Line of the file, counted from 1.
    pub line: u64,
    /// Every numeric column by name, in file order.
    pub values: Vec<(String, f64)>,
}

impl Table {
    /// Reads a CSV file with a header, a column `arch` and at least one accuracy column (a name
    /// with a word such as `acc`, `val` or `test`). Columns whose first value is no number are text
    /// and left out; an accuracy column must be numeric.
    ///
    /// # Errors
    /// An unreadable, overlong or empty file, missing or repeated columns, and, with its line, a
    /// row that has another number of fields, a bad genotype, a bad number, or a cell seen before.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read(path)?;
        rows::parse(&bytes).map_err(|error| anyhow!("table {}: {error:#}", path.display()))
    }

    /// Rows of the table.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never true for an opened table: one without rows is refused.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Names of the numeric columns, in file order.
    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// The rows in file order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        (0..self.rows.len()).map(|row| self.entry(row, Spelling::Literal))
    }

    /// Looks a cell up: its own spelling, else one with the same official unique string, else one
    /// that computes the same function; the first in file order. `None` where the table has none.
    pub fn query(&self, genotype: &Nb201Genotype) -> Option<Entry> {
        let row = self.row_of[genotype.index()];
        if row != ABSENT {
            return Some(self.entry(row as usize, Spelling::Literal));
        }
        let fingerprint = genotype.fingerprint();
        let same_function: Vec<usize> = (0..self.rows.len())
            .filter(|&row| self.rows[row].0.fingerprint() == fingerprint)
            .collect();
        let unique = genotype.unique_string();
        let same_string = same_function
            .iter()
            .find(|&&row| self.rows[row].0.unique_string() == unique);
        let row = *same_string.or(same_function.first())?;
        Some(self.entry(row, Spelling::Isomorphic))
    }

    fn entry(&self, row: usize, spelling: Spelling) -> Entry {
        let (genotype, line) = self.rows[row];
        let value = |column: &Column| (column.name.clone(), column.values[row]);
        Entry {
            genotype,
            spelling,
            line,
            values: self.columns.iter().map(value).collect(),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |error: std::io::Error| {
        anyhow!(
            "table {}: expected a readable CSV file, found: {error}",
            path.display()
        )
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    // `take` and not the file's stated length: a device or pipe states none.
    let mut bounded = file.take(LARGEST_FILE + 1);
    bounded.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        bail!(
            "table {}: expected a CSV file of at most {} MiB, found a larger one",
            path.display(),
            LARGEST_FILE >> 20
        );
    }
    Ok(bytes)
}
