//! The table as a search needs it: reward, test accuracy and cost of all 15,625 spellings.
//!
//! Exports name their columns as they like, so the three are found by the words in their names and
//! can be named outright. A table that holds each architecture once is filled up by isomorphism.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

use super::Budget;
use crate::space::table::Entry;
use crate::space::{Nb201Genotype, Table};

/// Most trainings that one search may make.
const MOST_TRAININGS: usize = 1_000_000;

/// Names of the columns to use; where none is given, it is found by its words.
#[derive(Clone, Debug, Default)]
pub struct ColumnNames {
    /// Validation accuracy after a short training: what a search sees.
    pub reward: Option<String>,
    /// Test accuracy after the full training: what is reported.
    pub test: Option<String>,
    /// Seconds that the short training took.
    pub seconds: Option<String>,
}

/// The columns that were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Validation accuracy after a short training.
    pub reward: String,
    /// Test accuracy after the full training.
    pub test: String,
    /// Seconds that the short training took, where the table tells.
    pub seconds: Option<String>,
}

/// What the table says of one cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Validation accuracy after a short training, percent.
    pub reward: f64,
    /// Test accuracy after the full training, percent.
    pub test: f64,
    /// Seconds of the short training; 0 where the table does not tell.
    pub seconds: f64,
}

/// A whole NAS-Bench-201 table.
#[derive(Clone, Debug)]
pub struct Benchmark {
    columns: Columns,
    /// By [`Nb201Genotype::index`].
    cells: Vec<Measured>,
}

impl Benchmark {
    /// Picks the columns out of `table` and fills in the spellings that it does not hold.
    ///
    /// # Errors
    /// A column that is missing or cannot be told from another, a training that took no time, and
    /// a cell of which the table holds no spelling.
    pub fn new(table: &Table, names: &ColumnNames) -> Result<Self> {
        let columns = columns(table, names)?;
        let place = |wanted: &str| table.column_names().position(|name| name == wanted);
        let missing = "the column was found above";
        let reward = place(&columns.reward).context(missing)?;
        let test = place(&columns.test).context(missing)?;
        let seconds = columns.seconds.as_deref().and_then(place);
        let mut cells = vec![None; Nb201Genotype::COUNT];
        let mut by_string = HashMap::new();
        let mut by_function = HashMap::new();
        for entry in table.entries() {
            let measured = Measured {
                reward: entry.values[reward].1,
                test: entry.values[test].1,
                seconds: seconds.map_or(0.0, |column| entry.values[column].1),
            };
            check_seconds(&columns, &entry, measured.seconds)?;
            cells[entry.genotype.index()] = Some(measured);
            if table.len() < Nb201Genotype::COUNT {
                by_string
                    .entry(entry.genotype.unique_string())
                    .or_insert(measured);
                by_function
                    .entry(entry.genotype.fingerprint())
                    .or_insert(measured);
            }
        }
        let complete = |(index, measured): (usize, Option<Measured>)| {
            let cell = Nb201Genotype::from_index(index).context("an index below COUNT")?;
            let same_network = || {
                let same = by_string.get(&cell.unique_string());
                same.or_else(|| by_function.get(&cell.fingerprint()))
                    .copied()
            };
            measured.or_else(same_network).with_context(|| {
                format!(
                    "expected every cell of the space, so that a search may go anywhere, but no \
                     spelling of {cell} is among its {} rows",
                    table.len()
                )
            })
        };
        Ok(Benchmark {
            columns,
            cells: cells
                .into_iter()
                .enumerate()
                .map(complete)
                .collect::<Result<_>>()?,
        })
    }

    /// The columns that were taken.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// What the table says of a cell.
    pub fn measured(&self, cell: &Nb201Genotype) -> Measured {
        self.cells[cell.index()]
    }

    /// Test accuracy of the cell with the best reward, and the best test accuracy of all, percent:
    /// what a search can at most reach, and what it would reach if the reward told the truth.
    pub fn best(&self) -> (f64, f64) {
        let by_reward = self
            .cells
            .iter()
            .max_by(|a, b| a.reward.total_cmp(&b.reward));
        let by_test = self
            .cells
            .iter()
            .map(|cell| cell.test)
            .fold(f64::MIN, f64::max);
        (by_reward.map_or(by_test, |cell| cell.test), by_test)
    }

    /// Checks that `budget` pays for any single training, and not for too many.
    ///
    /// # Errors
    /// A sentence without a flag's name: what was expected and what was found.
    pub fn check_budget(&self, budget: Budget) -> Result<()> {
        match budget {
            Budget::Trainings(trainings) => ensure!(
                (1..=MOST_TRAININGS).contains(&trainings),
                "expected 1 to {MOST_TRAININGS} trainings, found {trainings}"
            ),
            Budget::Seconds(seconds) => {
                let Some(column) = &self.columns.seconds else {
                    bail!(
                        "expected a table with a column of training seconds (a name with `seconds` \
                         or `time` in it), found none; give the budget in trainings"
                    );
                };
                let of = |fold: fn(f64, f64) -> f64| {
                    self.cells
                        .iter()
                        .map(|cell| cell.seconds)
                        .reduce(fold)
                        .unwrap_or(0.0)
                };
                let (shortest, longest) = (of(f64::min), of(f64::max));
                let most = shortest * MOST_TRAININGS as f64;
                ensure!(
                    (longest..=most).contains(&seconds),
                    "expected from {longest:.1} seconds, the longest training in `{column}`, to \
                     {most:.0}, found {seconds}"
                );
            }
        }
        Ok(())
    }
}

fn check_seconds(columns: &Columns, entry: &Entry, seconds: f64) -> Result<()> {
    if let Some(column) = &columns.seconds {
        ensure!(
            seconds > 0.0,
            "line {}: expected a training time above 0 in column `{column}`, found {seconds}",
            entry.line
        );
    }
    Ok(())
}

fn columns(table: &Table, names: &ColumnNames) -> Result<Columns> {
    let find = |given: &Option<String>, wanted: &Wanted| -> Result<Option<String>> {
        match given {
            Some(name) if table.column_names().any(|column| column == name) => {
                Ok(Some(name.clone()))
            }
            Some(name) => bail!(
                "expected the column `{name}` that {} names, found {}",
                wanted.flag,
                listed(table.column_names())
            ),
            None => by_words(table, wanted),
        }
    };
    let needed = |given: &Option<String>, wanted: &Wanted| {
        find(given, wanted)?.with_context(|| {
            format!(
                "expected a column of {} (a name with {} in it), found {}; name it by {}",
                wanted.what,
                wanted.words.join(" or "),
                listed(table.column_names()),
                wanted.flag
            )
        })
    };
    Ok(Columns {
        reward: needed(&names.reward, &REWARD)?,
        test: needed(&names.test, &TEST)?,
        seconds: find(&names.seconds, &SECONDS)?,
    })
}

/// How a column is recognised.
struct Wanted {
    what: &'static str,
    words: &'static [&'static str],
    /// A word that decides between several: the epochs of the published comparison.
    prefer: &'static str,
    flag: &'static str,
}

const REWARD: Wanted = Wanted {
    what: "validation accuracies",
    words: &["val", "valid", "validation"],
    prefer: "12",
    flag: "--reward-column",
};
const TEST: Wanted = Wanted {
    what: "test accuracies",
    words: &["test"],
    prefer: "200",
    flag: "--test-column",
};
const SECONDS: Wanted = Wanted {
    what: "training seconds",
    words: &["seconds", "time"],
    prefer: "12",
    flag: "--seconds-column",
};

/// The one column with such a word in its name; none where there is none.
fn by_words(table: &Table, wanted: &Wanted) -> Result<Option<String>> {
    let has = |name: &str, word: &str| {
        let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|found| found.eq_ignore_ascii_case(word))
    };
    let mut fitting: Vec<&str> = table
        .column_names()
        .filter(|name| wanted.words.iter().any(|word| has(name, word)))
        .collect();
    if fitting.len() > 1 && fitting.iter().any(|name| has(name, wanted.prefer)) {
        fitting.retain(|name| has(name, wanted.prefer));
    }
    match fitting[..] {
        [] => Ok(None),
        [name] => Ok(Some(name.to_owned())),
        _ => bail!(
            "expected one column of {}, found {}; name the one to use by {}",
            wanted.what,
            listed(fitting.into_iter()),
            wanted.flag
        ),
    }
}

/// The first names of a list, for a message that stays one line.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<&str> = names.collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    let shown = &names[..names.len().min(SHOWN)];
    format!("`{}`{more}", shown.join("`, `"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::space::Nb201Op;

    /// A made-up accuracy: good ops add up, and a cell whose output is cut off is at chance.
    fn accuracy(cell: &Nb201Genotype) -> f64 {
        let worth = |op: Nb201Op| match op {
            Nb201Op::None => 0.0,
            Nb201Op::AvgPool3x3 => 2.0,
            Nb201Op::SkipConnect => 5.0,
            Nb201Op::NorConv1x1 => 9.0,
            Nb201Op::NorConv3x3 => 13.0,
        };
        if cell.fingerprint() == 0 {
            return 10.0;
        }
        10.0 + cell.ops.iter().map(|&op| worth(op)).sum::<f64>()
    }

    fn all() -> impl Iterator<Item = Nb201Genotype> {
        (0..Nb201Genotype::COUNT).filter_map(Nb201Genotype::from_index)
    }

    fn opened(text: &str) -> Table {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Table::open(file.path()).unwrap()
    }

    fn csv(header: &str, row: impl Fn(&Nb201Genotype) -> String) -> String {
        let mut text = format!("arch,{header}\n");
        for cell in all() {
            writeln!(text, "{cell},{}", row(&cell)).unwrap();
        }
        text
    }

    /// A full table of made-up accuracies without a column of seconds.
    pub(in crate::search::tabular) fn synthetic() -> Benchmark {
        let text = csv("val_12,test_200", |cell| {
            format!("{},{}", accuracy(cell), accuracy(cell) + 5.0)
        });
        Benchmark::new(&opened(&text), &ColumnNames::default()).unwrap()
    }

    fn error(text: &str, names: ColumnNames) -> String {
        format!("{:#}", Benchmark::new(&opened(text), &names).unwrap_err())
    }

    #[test]
    fn columns_are_found_by_their_words_and_the_published_epochs_decide() {
        let text = csv("c10_val_12,c10_val_200,c10_test_200,train_time_12", |_| {
            "1,2,3,4".to_owned()
        });
        let benchmark = Benchmark::new(&opened(&text), &ColumnNames::default()).unwrap();
        assert_eq!(benchmark.columns().reward, "c10_val_12");
        assert_eq!(benchmark.columns().test, "c10_test_200");
        assert_eq!(
            benchmark.columns().seconds.as_deref(),
            Some("train_time_12")
        );
        let names = ColumnNames {
            reward: Some("c10_val_200".into()),
            ..ColumnNames::default()
        };
        let benchmark = Benchmark::new(&opened(&text), &names).unwrap();
        let cell = Nb201Genotype::from_index(77).unwrap();
        assert_eq!(benchmark.measured(&cell).reward, 2.0);
    }

    #[test]
    fn missing_and_ambiguous_columns_are_named_with_the_flag_that_decides() {
        let row = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,1,2\n";
        let text = format!("arch,test_a,test_b\n{row}");
        let message = error(&text, ColumnNames::default());
        assert!(
            message.contains("validation") && message.contains("--reward-column"),
            "{message}"
        );
        let text = format!("arch,val_a,val_b\n{row}");
        let message = error(&text, ColumnNames::default());
        assert!(message.contains("`val_a`, `val_b`"), "{message}");
        let names = ColumnNames {
            test: Some("accuracy".into()),
            reward: Some("val_a".into()),
            ..ColumnNames::default()
        };
        let message = error(&text, names);
        assert!(
            message.contains("`accuracy`") && message.contains("--test-column"),
            "{message}"
        );
    }

    #[test]
    fn a_table_of_one_spelling_each_is_filled_up_and_one_with_a_hole_is_refused() {
        let mut seen = std::collections::HashSet::new();
        let mut text = "arch,val,test\n".to_owned();
        for cell in all().filter(|cell| seen.insert(cell.unique_string())) {
            writeln!(text, "{cell},{},{}", cell.index(), cell.index()).unwrap();
        }
        let table = opened(&text);
        let benchmark = Benchmark::new(&table, &ColumnNames::default()).unwrap();
        for cell in all().step_by(97) {
            let entry = table.query(&cell).unwrap();
            assert_eq!(
                benchmark.measured(&cell).reward,
                entry.values[0].1,
                "{cell}"
            );
        }
        let short: Vec<&str> = text.lines().take(1000).collect();
        let message = error(&short.join("\n"), ColumnNames::default());
        assert!(message.contains("no spelling of"), "{message}");
    }

    #[test]
    fn budgets_that_pay_for_nothing_or_have_no_column_are_refused() {
        let benchmark = synthetic();
        assert!(benchmark.check_budget(Budget::Trainings(100)).is_ok());
        assert!(benchmark.check_budget(Budget::Trainings(0)).is_err());
        let message = benchmark.check_budget(Budget::Seconds(10.0)).unwrap_err();
        assert!(message.to_string().contains("column of training seconds"));
        let text = csv("val,test,seconds", |cell| {
            format!("1,2,{}", 10 + cell.index() % 7)
        });
        let timed = Benchmark::new(&opened(&text), &ColumnNames::default()).unwrap();
        for (seconds, good) in [
            (15.9, false),
            (16.0, true),
            (f64::NAN, false),
            (1e300, false),
        ] {
            let answer = timed.check_budget(Budget::Seconds(seconds));
            assert_eq!(answer.is_ok(), good, "{seconds}");
        }
        let found = super::super::run(&super::super::Random, &timed, Budget::Seconds(100.0), 4, 0);
        for found in found {
            let seconds = found.seconds.unwrap();
            assert!(seconds <= 100.0 && seconds > 100.0 - 16.0, "{seconds}");
        }
        let message = error(
            &csv("val,test,seconds", |_| "1,2,0".into()),
            ColumnNames::default(),
        );
        assert!(
            message.contains("line 2") && message.contains("above 0"),
            "{message}"
        );
    }
}
