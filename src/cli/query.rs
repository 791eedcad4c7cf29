//! `ndarts query`: accuracies of a genotype from a tabular benchmark.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::run::BadUsage;
use crate::space::table::{Entry, Spelling};
use crate::space::{Genotype, Nb201Genotype, Table};

/// Looks a NAS-Bench-201 genotype up in a table of measured accuracies.
///
/// The table is a CSV file with a header, a column `arch` and at least one accuracy column. A
/// spelling the table does not hold is found by any other spelling of the same network.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ndarts query '|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|' --table nasbench201-cifar10.csv"
)]
pub struct QueryArgs {
    /// Genotype text, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|` (in quotes: the shell takes `|` for
    /// itself), a file that holds it, or a run directory
    #[arg(value_name = "GENOTYPE")]
    pub genotype: String,

    /// Tabular benchmark
    #[arg(long, value_name = "FILE")]
    pub table: PathBuf,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// The answer of `--json`.
#[derive(Serialize)]
struct Answer<'a> {
    genotype: String,
    spelling: &'static str,
    table_genotype: String,
    table: String,
    line: u64,
    #[serde(serialize_with = "in_order")]
    values: &'a [(String, f64)],
}

/// A map in the order of the table's columns.
fn in_order<S: Serializer>(values: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(values.len()))?;
    for (name, value) in values {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

/// Runs the command; prints to standard output.
///
/// # Errors
/// A bad genotype, one of the DARTS space, a bad table, or a cell that the table does not hold.
pub fn run(args: &QueryArgs) -> Result<()> {
    let genotype = match super::genotype::read(&args.genotype)? {
        Genotype::Nb201(genotype) => genotype,
        Genotype::Darts(_) => bail!(BadUsage(
            "GENOTYPE: expected a NAS-Bench-201 cell such as `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, found a DARTS genotype, which no table holds".into()
        )),
    };
    let table = Table::open(&args.table)?;
    let Some(entry) = table.query(&genotype) else {
        bail!(
            "table {}: expected the genotype {genotype} or another spelling of it, found neither in {} rows",
            args.table.display(),
            table.len()
        );
    };
    let mut output = std::io::stdout().lock();
    let printed = if args.json {
        json(&mut output, args, &genotype, &entry)
    } else {
        text(&mut output, args, &genotype, &entry)
    };
    printed.context("standard output: expected to write the answer")
}

fn json(
    output: &mut impl Write,
    args: &QueryArgs,
    genotype: &Nb201Genotype,
    entry: &Entry,
) -> Result<()> {
    let answer = Answer {
        genotype: genotype.to_string(),
        spelling: name(entry.spelling),
        table_genotype: entry.genotype.to_string(),
        table: args.table.display().to_string(),
        line: entry.line,
        values: &entry.values,
    };
    serde_json::to_writer(&mut *output, &answer)?;
    writeln!(output)?;
    Ok(())
}

fn text(
    output: &mut impl Write,
    args: &QueryArgs,
    genotype: &Nb201Genotype,
    entry: &Entry,
) -> Result<()> {
    let found = match entry.spelling {
        Spelling::Literal => "this spelling".to_owned(),
        Spelling::Isomorphic => format!("isomorphic spelling {}", entry.genotype),
    };
    let mut lines = vec![
        ("genotype", genotype.to_string()),
        ("found as", found),
        (
            "table",
            format!("{}, line {}", args.table.display(), entry.line),
        ),
    ];
    let numbers: Vec<String> = entry
        .values
        .iter()
        .map(|(_, value)| value.to_string())
        .collect();
    // Decimal points below each other: pad by the digits before the point.
    let whole = |number: &str| number.find('.').unwrap_or(number.len());
    let widest = numbers
        .iter()
        .map(|number| whole(number))
        .max()
        .unwrap_or(0);
    for ((name, _), number) in entry.values.iter().zip(&numbers) {
        let padding = " ".repeat(widest - whole(number));
        lines.push((name, format!("{padding}{number}")));
    }
    let width = lines
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    for (name, value) in lines {
        writeln!(output, "{name:<width$}  {value}")?;
    }
    Ok(())
}

fn name(spelling: Spelling) -> &'static str {
    match spelling {
        Spelling::Literal => "literal",
        Spelling::Isomorphic => "isomorphic",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(spelling: Spelling) -> (QueryArgs, Nb201Genotype, Entry) {
        let args = QueryArgs {
            genotype: String::new(),
            table: "t.csv".into(),
            json: false,
        };
        let genotype = Nb201Genotype::from_index(0).unwrap();
        let entry = Entry {
            genotype,
            spelling,
            line: 7,
            values: vec![
                ("val".to_owned(), 63.364),
                ("cifar10_test_200".to_owned(), 100.0),
            ],
        };
        (args, genotype, entry)
    }

    #[test]
    fn text_aligns_names_and_decimal_points() {
        let (args, genotype, entry) = answer(Spelling::Literal);
        let mut output = Vec::new();
        text(&mut output, &args, &genotype, &entry).unwrap();
        let output = String::from_utf8(output).unwrap();
        assert!(
            output.contains("\ntable             t.csv, line 7\n"),
            "{output}"
        );
        assert!(output.contains("\nval                63.364\n"), "{output}");
        assert!(output.contains("\ncifar10_test_200  100\n"), "{output}");
    }

    #[test]
    fn json_is_one_line_with_columns_in_table_order() {
        let (args, genotype, entry) = answer(Spelling::Isomorphic);
        let mut output = Vec::new();
        json(&mut output, &args, &genotype, &entry).unwrap();
        let output = String::from_utf8(output).unwrap();
        assert!(
            output.contains(r#""values":{"val":63.364,"cifar10_test_200":100.0}"#),
            "{output}"
        );
        assert!(
            output.contains(r#""spelling":"isomorphic""#) && output.ends_with("}\n"),
            "{output}"
        );
    }
}
