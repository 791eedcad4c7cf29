//! `--config FILE`: settings in TOML under the flags' names, each remembered with its line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::de::DeserializeOwned;
use toml::Value;

use super::defaults::{self, DataKind};
use crate::run::BadUsage;
use crate::search::settings::SearchSettings;

/// Largest config file that is read, bytes; a full one has about a thousand.
const LARGEST_FILE: u64 = 1 << 20;
/// Keys beside the search's own settings.
const RUN_KEYS: [&str; 4] = ["out", "threads", "quiet", "checkpoint-every"];

/// A config file whose keys are known and whose values have the right types.
#[derive(Debug)]
pub struct ConfigFile {
    name: String,
    entries: Vec<(String, usize, Value)>,
}

/// The settings of a file that are not the search's own.
#[derive(Debug, Default, PartialEq)]
pub struct RunKeys {
    /// Run directory.
    pub out: Option<PathBuf>,
    /// CPU threads.
    pub threads: Option<usize>,
    /// Print the result only.
    pub quiet: Option<bool>,
    /// Rounds between checkpoints.
    pub checkpoint_every: Option<u64>,
}

impl ConfigFile {
    /// Reads a config file.
    ///
    /// # Errors
    ///
    /// [`BadUsage`] naming file and line: no TOML, an unknown key, or a value of another type.
    pub fn read(path: &Path) -> Result<ConfigFile> {
        let name = path.display().to_string();
        let bad = |what: String| BadUsage(format!("--config {name}: {what}"));
        let length = std::fs::metadata(path)
            .map_err(|error| {
                bad(format!(
                    "expected a TOML file, but it cannot be read: {error}"
                ))
            })?
            .len();
        if length > LARGEST_FILE {
            return Err(bad(format!(
                "expected at most {LARGEST_FILE} bytes, found {length}"
            ))
            .into());
        }
        let text = std::fs::read_to_string(path).map_err(|error| {
            bad(format!(
                "expected a TOML file, but it cannot be read: {error}"
            ))
        })?;
        ConfigFile::parse(&name, &text).map_err(|message| BadUsage(message).into())
    }

    /// Reads the text of a config file that is called `name`.
    ///
    /// # Errors
    ///
    /// As [`ConfigFile::read`].
    pub fn parse(name: &str, text: &str) -> Result<ConfigFile, String> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let parsed = toml::de::DeTable::parse(text).map_err(|error| {
            let line = line_of(error.span().map_or(0, |span| span.start));
            format!("{name}:{line}: expected TOML, found: {}", one_line(&error))
        })?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            format!("{name}: expected TOML, found: {}", one_line(&error))
        })?;
        let mut entries = Vec::new();
        for key in parsed.get_ref().keys() {
            let line = line_of(key.span().start);
            let key = key.get_ref().to_string();
            let Some(value) = table.get(&key) else {
                continue;
            };
            check(&key, value).map_err(|problem| format!("{name}:{line}: {key}: {problem}"))?;
            entries.push((key, line, value.clone()));
        }
        Ok(ConfigFile {
            name: name.into(),
            entries,
        })
    }

    /// The file, as it was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The search's settings: key, line counted from 1, value.
    pub fn settings(&self) -> impl Iterator<Item = (&str, usize, &Value)> {
        self.entries
            .iter()
            .filter(|(key, ..)| !RUN_KEYS.contains(&key.as_str()))
            .map(|(key, line, value)| (key.as_str(), *line, value))
    }

    /// The settings of the run around the search.
    pub fn run_keys(&self) -> RunKeys {
        RunKeys {
            out: self.get("out"),
            threads: self.get("threads"),
            quiet: self.get("quiet"),
            checkpoint_every: self.get("checkpoint-every"),
        }
    }

    /// A run key; its type was checked when the file was read.
    fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let (_, _, value) = self.entries.iter().find(|(name, ..)| name == key)?;
        value.clone().try_into().ok()
    }
}

/// Whether `key` is known and takes such a value; a setting is tried among good ones.
fn check(key: &str, value: &Value) -> Result<(), String> {
    fn typed<T: DeserializeOwned>(value: &Value) -> Result<(), toml::de::Error> {
        value.clone().try_into::<T>().map(|_| ())
    }
    let outcome = match key {
        "out" => typed::<PathBuf>(value),
        "threads" => typed::<usize>(value),
        "quiet" => typed::<bool>(value),
        "checkpoint-every" => typed::<u64>(value),
        // Which names a strategy has is checked when the strategy is known.
        "option" => typed::<BTreeMap<String, f64>>(value),
        _ => {
            let good = defaults::defaults_for(DataKind::Digits, defaults::SPACE);
            let mut table = toml::Table::try_from(good).map_err(|error| error.to_string())?;
            if table.insert(key.into(), value.clone()).is_none() {
                return Err(format!(
                    "expected the name of a flag without its dashes, found `{key}`, which is none; \
                     see `ndarts search --help`"
                ));
            }
            table.try_into::<SearchSettings>().map(|_| ())
        }
    };
    outcome.map_err(|error| one_line(&error))
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(text: &str) -> String {
        ConfigFile::parse("my.toml", text).unwrap_err()
    }

    #[test]
    fn keys_are_split_into_the_search_and_the_run_around_it() {
        let file =
            ConfigFile::parse("my.toml", "sigma = 0.5\n\nquiet = true\nthreads = 2\n").unwrap();
        let settings: Vec<_> = file.settings().map(|(key, line, _)| (key, line)).collect();
        assert_eq!(settings, [("sigma", 1)]);
        let keys = file.run_keys();
        assert_eq!(
            (keys.quiet, keys.threads, keys.out),
            (Some(true), Some(2), None)
        );
    }

    #[test]
    fn a_wrong_type_names_file_line_and_key() {
        let text = message("seed = 1\nsigma = \"much\"\n");
        assert!(
            text.starts_with("my.toml:2: sigma: ") && text.contains("much"),
            "{text}"
        );
        assert!(message("\nneumann-terms = -1").starts_with("my.toml:2: neumann-terms: "));
        assert!(message("gamma = nan").starts_with("my.toml:1: gamma: "));
        assert!(message("quiet = 3").starts_with("my.toml:1: quiet: "));
    }

    #[test]
    fn an_unknown_key_and_broken_toml_name_their_line() {
        assert!(
            message("seed = 1\ncolour = 2").starts_with("my.toml:2: colour: expected the name")
        );
        assert!(message("seed = 1\nx = = 2").starts_with("my.toml:2: expected TOML"));
    }

    proptest! {
        #[test]
        fn mutated_configs_never_panic(at in 0usize..60, with in "\\PC{0,3}") {
            let good = "seed = 1\ngamma = \"auto\"\nmean = [0.5, 0.25]\nflip = true\n";
            let at = at.min(good.len());
            let _ = ConfigFile::parse("my.toml", &format!("{}{with}{}", &good[..at], &good[at..]));
        }
    }
}
