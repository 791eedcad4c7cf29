//! Turns the bytes of a CSV file into a [`Table`], row by row; every refusal names the line.

use anyhow::{Result, bail};
use csv::ByteRecord;

use super::super::{Nb201Genotype, quoted};
use super::{ABSENT, Column, Table};

/// Most columns a table may have.
const MOST_COLUMNS: usize = 1024;
/// The column of genotype texts.
const ARCH: &str = "arch";
/// Words that mark a column as an accuracy: `cifar10_test_200`, `val-acc`, …
const ACCURACY_WORDS: [&str; 10] = [
    "acc",
    "accuracy",
    "eval",
    "test",
    "top1",
    "top5",
    "train",
    "val",
    "valid",
    "validation",
];

/// The header: where the genotype stands and what the other fields are called.
struct Header {
    names: Vec<String>,
    arch: usize,
}

/// Reads a whole table.
pub(super) fn parse(bytes: &[u8]) -> Result<Table> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(bytes);
    let header = header(reader.byte_headers()?)?;
    let mut table = Table {
        columns: Vec::new(),
        rows: Vec::new(),
        row_of: vec![ABSENT; Nb201Genotype::COUNT],
    };
    let mut record = ByteRecord::new();
    let mut lines = Lines {
        bytes,
        at: 0,
        line: 1,
    };
    while reader.read_byte_record(&mut record)? {
        let start = record.position().map_or(0, csv::Position::byte);
        let line = lines.line_of_record(start as usize);
        if record.len() != header.names.len() {
            bail!(
                "line {line} has {} fields, expected {} as in the header",
                record.len(),
                header.names.len()
            );
        }
        if table.rows.is_empty() {
            table.columns = columns(&header, &record);
        }
        row(&mut table, &header, &record, line)?;
    }
    if table.rows.is_empty() {
        bail!("expected rows below the header, found none");
    }
    Ok(table)
}

/// Counts lines up to rising offsets. The reader's own count is of no use here: it is taken before
/// the second half of a CR LF and before blank lines are skipped.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// Line, from 1, of the first record at or behind byte `start`.
    fn line_of_record(&mut self, start: usize) -> u64 {
        while let Some(&byte) = self.bytes.get(self.at) {
            let ends_line = match byte {
                b'\n' => true,
                // A lone CR ends a line too.
                b'\r' => self.bytes.get(self.at + 1) != Some(&b'\n'),
                _ if self.at >= start => break,
                _ => false,
            };
            self.at += 1;
            self.line += u64::from(ends_line);
        }
        self.line
    }
}

fn header(record: &ByteRecord) -> Result<Header> {
    if record.len() > MOST_COLUMNS {
        bail!(
            "expected at most {MOST_COLUMNS} columns, found {}",
            record.len()
        );
    }
    let names: Vec<String> = record
        .iter()
        .map(|field| String::from_utf8_lossy(field).trim().to_owned())
        .collect();
    for (position, name) in names.iter().enumerate() {
        if names[..position].contains(name) {
            bail!("column {} stands twice in the header", quoted(name));
        }
    }
    let found = || {
        if names.is_empty() {
            "an empty file".to_owned()
        } else {
            quoted(&names.join(","))
        }
    };
    let Some(arch) = names.iter().position(|name| name == ARCH) else {
        bail!(
            "expected a header with the column `{ARCH}` and an accuracy column, found {}",
            found()
        );
    };
    if !names.iter().any(|name| is_accuracy(name)) {
        bail!(
            "expected an accuracy column beside `{ARCH}` (a name with one of {} in it, such as `cifar10_test_200`), found {}",
            ACCURACY_WORDS.join(", "),
            found()
        );
    }
    Ok(Header { names, arch })
}

fn is_accuracy(name: &str) -> bool {
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| ACCURACY_WORDS.contains(&word.to_ascii_lowercase().as_str()))
}

/// The numeric columns: those that must be, and those that the first row shows to be.
fn columns(header: &Header, first: &ByteRecord) -> Vec<Column> {
    let numeric = |(field, name): &(usize, &String)| {
        *field != header.arch && (is_accuracy(name) || number(&first[*field]).is_some())
    };
    let columns = header.names.iter().enumerate().filter(numeric);
    columns
        .map(|(field, name)| Column {
            name: name.clone(),
            field,
            values: Vec::new(),
        })
        .collect()
}

fn row(table: &mut Table, header: &Header, record: &ByteRecord, line: u64) -> Result<()> {
    let text = &record[header.arch];
    let genotype: Nb201Genotype = match std::str::from_utf8(text).map(str::parse) {
        Ok(Ok(genotype)) => genotype,
        Ok(Err(error)) => bail!("line {line}: {error}"),
        Err(_) => bail!(
            "line {line}: expected a genotype in UTF-8, found {}",
            quoted(&String::from_utf8_lossy(text))
        ),
    };
    let place = &mut table.row_of[genotype.index()];
    if *place != ABSENT {
        let (_, first) = table.rows[*place as usize];
        bail!("line {line} repeats the genotype {genotype} of line {first}, expected each once");
    }
    *place = table.rows.len() as u32;
    table.rows.push((genotype, line));
    for column in &mut table.columns {
        let field = &record[column.field];
        match number(field) {
            Some(value) => column.values.push(value),
            None => bail!(
                "line {line}: expected a finite number in column {}, found {}",
                quoted(&column.name),
                quoted(&String::from_utf8_lossy(field))
            ),
        }
    }
    Ok(())
}

fn number(field: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(field).ok()?.trim().parse().ok()?;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Spelling;
    use super::*;

    const SKIPS: &str = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|";
    const ZEROS: &str = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|";

    fn error_of(text: impl AsRef<[u8]>) -> String {
        parse(text.as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn numeric_columns_are_returned_by_name_and_text_columns_left_out() {
        let text = format!(
            "\u{feff}note, arch ,val_acc,seconds\r\nfirst,{SKIPS},54.5,12\r\n\r\n\"a \"\"b\"\",\",\"{ZEROS}\", 1e1 ,13.5\r\n"
        );
        let table = parse(text.as_bytes()).unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!(
            table.column_names().collect::<Vec<_>>(),
            ["val_acc", "seconds"]
        );
        let entry = table.query(&ZEROS.parse().unwrap()).unwrap();
        assert_eq!((entry.spelling, entry.line), (Spelling::Literal, 4));
        assert_eq!(
            entry.values,
            [("val_acc".to_owned(), 10.0), ("seconds".to_owned(), 13.5)]
        );
    }

    #[test]
    fn missing_and_repeated_columns_are_named() {
        let error = error_of("cell,cifar10_test\n");
        assert!(
            error.contains("`arch`") && error.contains("`cell,cifar10_test`"),
            "{error}"
        );
        let error = error_of("arch,latency\n");
        assert!(
            error.contains("accuracy column") && error.contains("`arch,latency`"),
            "{error}"
        );
        assert!(error_of("arch,test,test\n").contains("`test` stands twice"));
        assert!(error_of("").contains("found an empty file"));
        assert!(error_of("arch,test\n").contains("found none"));
        let wide = vec!["x"; 5000].join(",");
        assert!(error_of(&wide).contains("at most 1024 columns"));
    }

    #[test]
    fn bad_rows_are_refused_with_their_line() {
        let with = |rows: &str| error_of(format!("arch,test\n{SKIPS},54.3\n{rows}\n"));
        let error = with(ZEROS);
        assert!(error.contains("line 3 has 1 fields, expected 2"), "{error}");
        let error = with(&format!("{ZEROS},abc"));
        assert!(
            error.contains("line 3") && error.contains("`test`, found `abc`"),
            "{error}"
        );
        assert!(with(&format!("{ZEROS},nan")).contains("finite number"));
        assert!(with(&format!("{ZEROS},")).contains("finite number"));
        let error = with("|conv~0|,1");
        assert!(
            error.contains("line 3: genotype: unknown op `conv`"),
            "{error}"
        );
        let error = with(&format!("{ZEROS},10\n{SKIPS},54.3"));
        assert!(
            error.contains("line 4 repeats") && error.contains("of line 2"),
            "{error}"
        );
        let mut bytes = format!("arch,test\n{SKIPS},54.3\n").into_bytes();
        bytes.extend(b"|\xff~0|,10\n");
        assert!(error_of(bytes).contains("line 3: expected a genotype in UTF-8"));
    }

    #[test]
    fn lines_are_counted_through_every_line_end_blank_lines_and_quotes() {
        for end in ["\n", "\r\n", "\r"] {
            let blank_and_quoted = ["", "note,arch,test", "", "\"a", "", "b\",|x,1"].join(end);
            assert!(error_of(&blank_and_quoted).contains("line 4:"), "{end:?}");
            let marked = ["\u{feff}note,arch,test", ",|x,1"].join(end);
            assert!(error_of(&marked).contains("line 2:"), "{end:?}");
        }
    }

    #[test]
    fn a_bad_first_row_does_not_turn_an_accuracy_column_into_text() {
        let error = error_of(format!("arch,test,val\n{SKIPS},oops,1\n"));
        assert!(
            error.contains("line 2") && error.contains("`oops`"),
            "{error}"
        );
    }

    #[test]
    fn accuracy_columns_are_told_by_whole_words() {
        assert!(is_accuracy("cifar10_val_12") && is_accuracy("Test-Acc") && is_accuracy("top1"));
        assert!(!is_accuracy("interval") && !is_accuracy("latest") && !is_accuracy("arch"));
    }

    proptest! {
        #[test]
        fn mutated_tables_never_panic_and_give_a_short_error(
            edits in proptest::collection::vec((0.0f64..1.0, 0..3u8, any::<u8>()), 1..8),
        ) {
            let mut bytes = format!("arch,val,test\n{SKIPS},50.1,54.3\n{ZEROS},10,10\n").into_bytes();
            for (place, kind, with) in edits {
                let at = (bytes.len() as f64 * place) as usize;
                match kind {
                    0 => bytes[at] = with,
                    1 => bytes.insert(at, with),
                    _ => { bytes.remove(at); }
                }
            }
            match parse(&bytes) {
                Ok(table) => prop_assert!(table.len() <= 2),
                Err(error) => {
                    let message = error.to_string();
                    prop_assert!(message.len() < 700 && !message.contains('\n'), "{}", message);
                }
            }
        }
    }
}
