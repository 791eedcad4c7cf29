//! The argument GENOTYPE of every command that takes one: a text, a name, or where one is written.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use crate::run::BadUsage;
use crate::run::tabular::{RECORD, TabularRecord};
use crate::space::Genotype;
use crate::space::genotype::LONGEST_TEXT;

/// The genotype that `argument` says: its text, the name of a published one, a file that holds the
/// text, or the directory of a run.
///
/// # Errors
/// [`BadUsage`] for what is none of these; an error where a file cannot be read as one.
pub fn read(argument: &str) -> Result<Genotype> {
    let not_a_text = match argument.parse() {
        Ok(genotype) => return Ok(genotype),
        Err(error) => error,
    };
    let path = Path::new(argument);
    if path.is_file() {
        return from_file(path);
    }
    if path.is_dir() {
        let text = path.join("genotype.txt");
        let record = path.join(RECORD);
        if text.is_file() {
            return from_file(&text);
        }
        if record.is_file() {
            return TabularRecord::read(&record)?
                .genotype
                .parse()
                .map_err(|error| anyhow!("{}: {error}", record.display()));
        }
        bail!(BadUsage(format!(
            "GENOTYPE: expected a run directory with a genotype, found {} without genotype.txt; let \
             the run finish an epoch, or name another",
            path.display()
        )));
    }
    bail!(BadUsage(format!("{not_a_text:#}")))
}

fn from_file(path: &Path) -> Result<Genotype> {
    let shown = path.display();
    let expected = || format!("{shown}: expected the text of a genotype, but it cannot be read");
    let file = std::fs::File::open(path).with_context(expected)?;
    let mut text = String::new();
    // One byte more than is allowed, so that the parser sees what is too long.
    file.take(LONGEST_TEXT as u64 + 1)
        .read_to_string(&mut text)
        .with_context(expected)?;
    text.parse().map_err(|error| anyhow!("{shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_genotype_is_read_from_a_text_a_name_a_file_or_a_run_directory() {
        let folder = tempfile::tempdir().unwrap();
        let by_name = read("DARTS_V2").unwrap();
        let file = folder.path().join("genotype.txt");
        std::fs::write(&file, format!("{by_name}\n")).unwrap();
        for argument in [
            by_name.to_string(),
            file.display().to_string(),
            folder.path().display().to_string(),
        ] {
            assert_eq!(read(&argument).unwrap(), by_name);
        }
        std::fs::write(&file, "junk(").unwrap();
        let message = format!("{:#}", read(&file.display().to_string()).unwrap_err());
        assert!(
            message.contains("genotype.txt: genotype: expected `Genotype(`"),
            "{message}"
        );
        std::fs::remove_file(&file).unwrap();
        let error = read(&folder.path().display().to_string()).unwrap_err();
        assert!(error.is::<BadUsage>() && error.to_string().contains("genotype.txt"));
        assert!(read("no_such_thing").unwrap_err().is::<BadUsage>());
    }
}
