//! Rows of cells as text and as CSV.

use std::fmt::Write;

use anyhow::{Context, Result, anyhow};

/// Columns set below each other, two spaces apart.
pub fn text<R: AsRef<[String]>>(rows: &[R]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.as_ref().len()), 0);
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}

/// A record a row.
///
/// # Errors
/// The CSV writer refuses, as for rows of different lengths.
pub fn csv<R: AsRef<[String]>>(rows: impl IntoIterator<Item = R>) -> Result<String> {
    let formed = "the CSV cannot be formed";
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(row.as_ref()).context(formed)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|error| anyhow!("{formed}: {error}"))?;
    String::from_utf8(bytes).context(formed)
}
