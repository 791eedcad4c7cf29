//! What the runs in a folder have measured.
//!
//! A folder is walked for run directories (`config.toml` and `log.jsonl`) and for records of
//! searches in a table (`tabular.json`). A finished run gives its genotype, hence the parameters of
//! the network that the paper would train from it, and, for a NAS-Bench-201 cell, its accuracies in
//! a tabular benchmark. Settings are read leniently, key by key: a run of another version counts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};

use super::{Dataset, PaperTable};
use crate::run::config;
use crate::run::tabular::{RECORD, Spread, TabularRecord};
use crate::space::table::Entry;
use crate::space::{Genotype, Table};

/// How deep run directories may lie below the folder.
const DEEPEST: usize = 6;
/// Most directories that are looked at.
const MOST_DIRECTORIES: usize = 100_000;
/// Largest file that is read, bytes: the log of a long search.
const LARGEST_FILE: u64 = 256 << 20;

/// A finished search.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its strategy.
    pub strategy: String,
    /// Its space.
    pub space: String,
    /// What it searched on, where a table of the paper has that data set.
    pub dataset: Option<Dataset>,
    /// What it found.
    pub genotype: Genotype,
}

/// Everything found in a folder.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// Finished searches.
    pub runs: Vec<Run>,
    /// Searches in tables.
    pub records: Vec<TabularRecord>,
    /// Directories that were left out, each with the reason in one sentence.
    pub left_out: Vec<String>,
}

/// One measured line beside a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The strategy.
    pub strategy: String,
    /// By what: `3 runs`, or `500 runs in a table`.
    pub by: String,
    /// In the columns of the table; none where nothing was measured.
    pub values: [Option<Spread>; 3],
}

impl Runs {
    /// Walks `folder`.
    ///
    /// # Errors
    /// The folder cannot be listed, or holds too many directories.
    pub fn find(folder: &Path) -> Result<Runs> {
        let mut found = Runs::default();
        let mut open = vec![(folder.to_path_buf(), 0)];
        let mut seen = 0;
        while let Some((directory, depth)) = open.pop() {
            seen += 1;
            ensure!(
                seen <= MOST_DIRECTORIES,
                "--runs-dir {}: expected at most {MOST_DIRECTORIES} directories, found more; name \
                 the folder of the runs",
                folder.display()
            );
            if directory.join(RECORD).is_file() {
                match read_record(&directory.join(RECORD)) {
                    Ok(record) => found.records.push(record),
                    Err(error) => found.left_out.push(format!("{error:#}")),
                }
            } else if config::is_training(&directory.join("config.toml")) {
                // Trains what a search found; the tables are about searches.
            } else if directory.join("config.toml").is_file() {
                match read_run(&directory) {
                    Ok(run) => found.runs.push(run),
                    Err(error) => found.left_out.push(format!("{error:#}")),
                }
            } else if depth < DEEPEST {
                match subdirectories(&directory) {
                    Ok(below) => open.extend(below.into_iter().map(|path| (path, depth + 1))),
                    Err(error) if depth == 0 => return Err(error),
                    Err(error) => found.left_out.push(format!("{error:#}")),
                }
            }
        }
        Ok(found)
    }

    /// The measured lines of each row of `paper`, and below them those of no row. `benchmark` gives
    /// the accuracies of NAS-Bench-201 cells.
    ///
    /// # Errors
    /// A benchmark without a column of test accuracies on the table's data set, and a genotype whose
    /// network cannot be described.
    pub fn beside(
        &self,
        paper: &PaperTable,
        benchmark: Option<&Table>,
    ) -> Result<(Vec<Vec<Measured>>, Vec<Measured>)> {
        let nb201 = paper.rows.iter().any(|row| row.space_name() == "nb201");
        if let Some(table) = benchmark {
            ensure!(
                Columns::of(table, paper.dataset).test.is_some(),
                "--table: expected a column of test accuracies on {} (a name with `{}` and `test` in it), \
                 found {}",
                paper.dataset.name(),
                paper.dataset.word(),
                table.column_names().collect::<Vec<_>>().join(", ")
            );
        }
        let in_table = |run: &&Run| {
            // A cell found on CIFAR-10 is carried over to the other sets, as in the paper.
            let dataset =
                run.dataset == Some(paper.dataset) || run.dataset == Some(Dataset::Cifar10);
            dataset && (run.space == "nb201") == nb201
        };
        let mut lines: Vec<(String, Measured)> = Vec::new();
        let mut groups: Vec<(&str, &str)> = Vec::new();
        for run in self.runs.iter().filter(in_table) {
            let group = (run.strategy.as_str(), run.space.as_str());
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups.sort_unstable();
        for (strategy, space) in groups {
            let of_group = |run: &&Run| run.strategy == strategy && run.space == space;
            let group: Vec<&Run> = self.runs.iter().filter(in_table).filter(of_group).collect();
            lines.push((
                space.to_owned(),
                of_runs(strategy, &group, paper, benchmark)?,
            ));
        }
        for record in self.records.iter().filter(|_| nb201) {
            if Dataset::of_column(&record.test_column) == Some(paper.dataset) {
                lines.push(("nb201".to_owned(), of_record(record)));
            }
        }
        let mut rows = vec![Vec::new(); paper.rows.len()];
        let mut others = Vec::new();
        for (space, line) in lines {
            let fits = |row: &super::Row| {
                // `random` in a table trains every cell; RandomNAS shares weights.
                let same = !(line.strategy == "random" && line.by.contains("table"));
                same && row.space_name() == space
                    && row.strategies.contains(&line.strategy.as_str())
            };
            match paper.rows.iter().position(fits) {
                Some(row) => rows[row].push(line),
                None => others.push(line),
            }
        }
        Ok((rows, others))
    }
}

fn subdirectories(directory: &Path) -> Result<Vec<PathBuf>> {
    let listing = fs::read_dir(directory).map_err(|error| {
        anyhow!(
            "{}: expected a folder of run directories, but it cannot be listed: {error}",
            directory.display()
        )
    })?;
    let mut below: Vec<PathBuf> = listing
        .flatten()
        // Not through links: they may lead back up.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    // The last is walked first.
    below.sort_unstable_by(|a, b| b.cmp(a));
    Ok(below)
}

fn bounded(path: &Path) -> Result<String> {
    let shown = path.display();
    let expected = || format!("{shown}: expected the file of a finished run");
    let length = fs::metadata(path).with_context(expected)?.len();
    ensure!(
        length <= LARGEST_FILE,
        "{shown}: expected at most {} MiB, found {length} bytes",
        LARGEST_FILE >> 20
    );
    fs::read_to_string(path).with_context(expected)
}

fn read_run(directory: &Path) -> Result<Run> {
    let path = directory.join("config.toml");
    let settings: toml::Table = bounded(&path)?.parse().map_err(|error: toml::de::Error| {
        let error = error.message().replace('\n', " ");
        anyhow!(
            "{}: expected the settings of a run, found this: {error}",
            path.display()
        )
    })?;
    let word = |key: &str| {
        settings
            .get(key)
            .and_then(toml::Value::as_str)
            .with_context(|| {
                format!(
                    "{}: expected the setting `{key}`, found none",
                    path.display()
                )
            })
    };
    let number = |key| settings.get(key).and_then(toml::Value::as_integer);
    let (epochs, stable) = (number("epochs"), number("stable-epochs").unwrap_or(0));
    check_finished(&directory.join("log.jsonl"), epochs, stable)?;
    let text = directory.join("genotype.txt");
    let genotype = bounded(&text)?
        .parse()
        .map_err(|error| anyhow!("{}: {error}", text.display()))?;
    Ok(Run {
        strategy: word("strategy")?.to_owned(),
        space: word("space")?.to_owned(),
        dataset: Dataset::of_spec(word("data")?),
        genotype,
    })
}

/// Refuses a run whose log has fewer epochs than its settings ask for, unless its genotype had been
/// the same for `stable` epochs (0: that ends no run).
fn check_finished(log: &Path, epochs: Option<i64>, stable: i64) -> Result<()> {
    let text = bounded(log)?;
    let number = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        let integer = |key| record.get(key).and_then(serde_json::Value::as_i64);
        let epoch = record.get("kind").and_then(serde_json::Value::as_str) == Some("epoch");
        epoch.then_some((integer("epoch")?, integer("stable").unwrap_or(0)))
    };
    // Only epochs are parsed: rounds are thousands.
    let done = text
        .lines()
        .filter(|line| line.contains("\"epoch\"") && line.contains("genotype"))
        .filter_map(number)
        .max();
    let (done, unchanged) = done.map_or((0, 0), |(last, unchanged)| (last + 1, unchanged));
    let wanted = epochs.with_context(|| {
        format!(
            "{}: expected `epochs` in config.toml, found none",
            log.display()
        )
    })?;
    ensure!(
        done >= wanted || stable > 0 && unchanged >= stable,
        "{}: expected a finished run of {wanted} epochs, found {done}; go on with it by --resume",
        log.display()
    );
    Ok(())
}

fn of_runs(
    strategy: &str,
    group: &[&Run],
    paper: &PaperTable,
    benchmark: Option<&Table>,
) -> Result<Measured> {
    let mut validation = Vec::new();
    let mut test = Vec::new();
    let mut millions = Vec::new();
    for run in group {
        millions.push(paper.dataset.parameters(&run.genotype)? as f64 / 1e6);
        if let (Genotype::Nb201(cell), Some(table)) = (&run.genotype, benchmark)
            && let Some(entry) = table.query(cell)
        {
            let columns = Columns::of(table, paper.dataset);
            validation.extend(value(&entry, columns.validation));
            test.extend(value(&entry, columns.test));
        }
    }
    Ok(Measured {
        strategy: strategy.to_owned(),
        by: format!(
            "{} run{}",
            group.len(),
            if group.len() == 1 { "" } else { "s" }
        ),
        values: [
            Spread::of(validation),
            Spread::of(test),
            Spread::of(millions),
        ],
    })
}

/// Columns of a tabular benchmark that hold the accuracies of a data set after the full training.
pub struct Columns<'a> {
    /// On the validation images.
    pub validation: Option<&'a str>,
    /// On the test images.
    pub test: Option<&'a str>,
}

impl<'a> Columns<'a> {
    /// Those of `table`, found by their names.
    pub fn of(table: &'a Table, dataset: Dataset) -> Columns<'a> {
        let find = |wanted: &[&str]| {
            table.column_names().find(|name| {
                let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
                let word = words.any(|word| wanted.iter().any(|w| word.eq_ignore_ascii_case(w)));
                // After 12 epochs is another number than the paper's.
                let mut numbers = name.split(|c: char| !c.is_ascii_digit());
                let full = !numbers.any(|number| number == "12");
                word && full && Dataset::of_column(name) == Some(dataset)
            })
        };
        Columns {
            validation: find(&["val", "valid", "validation"]),
            test: find(&["test"]),
        }
    }
}

/// What an entry has in a column.
pub fn value(entry: &Entry, column: Option<&str>) -> Option<f64> {
    let found = entry
        .values
        .iter()
        .find(|(name, _)| Some(name.as_str()) == column);
    found.map(|(_, value)| *value)
}

/// Reads the record of a search in a table whose columns tell the data set.
fn read_record(path: &Path) -> Result<TabularRecord> {
    let record = TabularRecord::read(path)?;
    ensure!(
        Dataset::of_column(&record.test_column).is_some(),
        "{}: expected a search in a column that names its data set (cifar10, cifar100 or imagenet), \
         found `{}`",
        path.display(),
        record.test_column
    );
    Ok(record)
}

fn of_record(record: &TabularRecord) -> Measured {
    Measured {
        strategy: record.strategy.clone(),
        by: format!("{} runs in a table", record.runs),
        values: [None, Some(record.test), Some(record.params)],
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::table;
    use super::*;

    const CELL: &str =
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|avg_pool_3x3~1|none~2|";

    /// A finished run of one epoch, as far as it is read here.
    pub(in crate::run::paper) fn finished(
        directory: &Path,
        (strategy, space, data): (&str, &str, &str),
        genotype: &str,
    ) {
        fs::create_dir_all(directory).unwrap();
        let config = format!(
            "strategy = \"{strategy}\"\nspace = \"{space}\"\ndata = \"{data}\"\nepochs = 1\nlater = 3\n"
        );
        fs::write(directory.join("config.toml"), config).unwrap();
        let log = "{\"kind\":\"round\",\"epoch\":0}\n{\"kind\":\"epoch\",\"epoch\":0,\"genotype\":\"g\"}\n";
        fs::write(directory.join("log.jsonl"), log).unwrap();
        fs::write(directory.join("genotype.txt"), genotype).unwrap();
    }

    #[test]
    fn runs_of_a_strategy_are_summed_up_beside_its_row_and_others_below() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join("deep").join(name);
        finished(&at("a"), ("ndarts", "darts", "cifar10:x"), "DARTS_V1");
        finished(&at("b"), ("ndarts", "darts", "cifar10:x"), "DARTS_V2");
        finished(&at("c"), ("darts-v2", "darts", "cifar10:x"), "DARTS_V2");
        finished(&at("d"), ("luck", "darts", "cifar10:x"), "DARTS_V2");
        finished(&at("e"), ("ndarts", "darts", "digits"), "DARTS_V2");
        finished(&at("f"), ("ndarts", "nb201", "cifar10:x"), CELL);
        let runs = Runs::find(folder.path()).unwrap();
        assert_eq!((runs.runs.len(), runs.left_out.len()), (6, 0));
        let (rows, others) = runs.beside(table(1).unwrap(), None).unwrap();
        let ndarts = &rows[11][0];
        assert_eq!(ndarts.by, "2 runs");
        let millions = ndarts.values[2].unwrap();
        assert!((millions.mean - (3.349_342 + 3.169_414) / 2.0).abs() < 1e-9);
        assert_eq!(ndarts.values[..2], [None, None]);
        assert_eq!(rows[10][0].strategy, "darts-v2");
        assert_eq!(others.len(), 1);
        assert_eq!(others[0].strategy, "luck");
        let (rows, _) = runs.beside(table(3).unwrap(), None).unwrap();
        let millions = rows[10][0].values[2].unwrap();
        assert!(
            (millions.highest - 4.718_752).abs() < 1e-9,
            "the ImageNet network"
        );
    }

    #[test]
    fn nb201_cells_are_looked_up_in_the_column_of_the_tables_data_set() {
        let folder = tempfile::tempdir().unwrap();
        finished(
            &folder.path().join("a"),
            ("gdas", "nb201", "cifar10:x"),
            CELL,
        );
        let csv = folder.path().join("t.csv");
        let header = "arch,cifar10_val_12,cifar10_test_200,cifar100_test_200,cifar100_val_200";
        fs::write(&csv, format!("{header}\n{CELL},60,90,70,69\n")).unwrap();
        let benchmark = Table::open(&csv).unwrap();
        let runs = Runs::find(folder.path()).unwrap();
        let of = |number| {
            let (rows, _) = runs
                .beside(table(number).unwrap(), Some(&benchmark))
                .unwrap();
            rows[4][0]
                .values
                .map(|spread| spread.map(|spread| spread.mean))
        };
        // A validation accuracy after 12 epochs is none of the paper's.
        assert_eq!(of(4)[..2], [None, Some(90.0)]);
        assert_eq!(of(5)[..2], [Some(69.0), Some(70.0)]);
        let error = runs
            .beside(table(6).unwrap(), Some(&benchmark))
            .unwrap_err();
        assert!(error.to_string().contains("`imagenet`"), "{error}");
    }

    #[test]
    fn unfinished_and_damaged_runs_are_left_out_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "b", "c", "d"] {
            finished(&at(name), ("ndarts", "darts", "cifar10:x"), "DARTS_V1");
        }
        fs::write(
            at("a").join("log.jsonl"),
            "{\"kind\":\"epoch\",\"epoch\":0,\"geno",
        )
        .unwrap();
        fs::write(at("b").join("config.toml"), "strategy = ").unwrap();
        fs::write(at("c").join("genotype.txt"), "Genotype(").unwrap();
        fs::remove_file(at("d").join("log.jsonl")).unwrap();
        fs::create_dir(at("e")).unwrap();
        fs::write(at("e").join(RECORD), "{}").unwrap();
        let runs = Runs::find(folder.path()).unwrap();
        assert!(runs.runs.is_empty() && runs.records.is_empty());
        let said = runs.left_out.join("\n");
        for word in [
            "finished run of 1 epochs, found 0",
            "settings",
            "genotype.txt",
            "log.jsonl",
            RECORD,
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let missing = Runs::find(&at("nothing")).unwrap_err().to_string();
        assert!(
            missing.contains("expected a folder of run directories"),
            "{missing}"
        );
    }
}
