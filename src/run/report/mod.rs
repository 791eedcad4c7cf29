//! `report.html`: what a search found and how it went, in one file that needs no network.
//!
//! Built from the run directory alone, so that it can be made again at any time. Colours are CSS
//! variables: one drawing serves light and dark.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::config::{self, RunConfig, TrainConfig};
use super::log::{self, History};
use super::{BadUsage, atomic, evaluation};
use crate::search::record::EpochRecord;
use crate::search::strategies::strategy;
use crate::space::Genotype;

mod cells;
mod charts;
mod palette;
mod sections;
mod training;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Writes `report.html` into the run directory `dir` and returns its path.
///
/// # Errors
///
/// [`BadUsage`] where `dir` is no run directory; an error where its log holds nothing to report,
/// is damaged, or the disk is full.
pub fn write(dir: &Path) -> Result<PathBuf> {
    let settings = dir.join("config.toml");
    if !settings.is_file() {
        bail!(BadUsage(format!(
            "RUN_DIR: expected a run directory, found {} without a config.toml; name a directory \
             that `ndarts search --out` or `ndarts train --out` made",
            dir.display()
        )));
    }
    let log = dir.join("log.jsonl");
    let path = dir.join("report.html");
    if config::is_training(&settings) {
        let config = TrainConfig::read(&settings)?;
        let history = log::read(&log)?;
        let page = training::page(&config, &history, evaluation::read(dir)?.as_ref())
            .with_context(|| log.display().to_string())?;
        atomic::write(&path, page.as_bytes())?;
        return Ok(path);
    }
    let config = RunConfig::read(&settings)?;
    let history = log::read(&log)?;
    ensure!(
        !history.rounds.is_empty(),
        "{}: expected at least one finished round to report, found none; let the search run longer",
        log.display()
    );
    let page = page(&config, &history).with_context(|| log.display().to_string())?;
    atomic::write(&path, page.as_bytes())?;
    Ok(path)
}

pub use charts::{Spreads, spreads};
pub use palette::SERIES;
pub use sections::legend;
pub use training::evaluation as evaluation_page;

/// The whole page.
fn page(config: &RunConfig, history: &History) -> Result<String> {
    let space = config.search.space;
    let mut body = sections::summary(config, history);
    if let Some(epoch) = history.epochs.last() {
        let genotype = genotype(epoch)?;
        body += &sections::genotype("Found architecture", &genotype);
    }
    body += &sections::curves(history)?;
    let design = strategy(&config.search).design(&config.search);
    let ops = design.variant.op_names(space);
    body += &sections::op_weights(space, &ops, &history.epochs)?;
    body += &sections::settings(&config.to_toml()?);
    let title = format!(
        "ndarts: {} on {}",
        space.name(),
        escape(&config.search.data)
    );
    Ok(document(
        &title,
        &format!("{body}<script>\n{SCRIPT}</script>\n"),
    ))
}

/// A page in the report's style, of a title and a body that are HTML already.
pub(super) fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <style>\n{}{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        palette::style()
    )
}

/// The cells of a genotype as an SVG file that stands alone.
pub fn drawing(genotype: &Genotype) -> String {
    cells::file(&genotype.cells())
}

fn genotype(epoch: &EpochRecord) -> Result<Genotype> {
    epoch
        .genotype
        .parse()
        .with_context(|| format!("the genotype of epoch {} cannot be read", epoch.epoch))
}

/// Text as HTML shows it.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::config::tests::sample;
    use crate::run::log::tests::{epoch, round};

    const CELL: &str =
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|avg_pool_3x3~1|none~2|";

    fn history() -> History {
        History {
            start: None,
            rounds: (1..=6).map(round).collect(),
            epochs: (0..2).map(|number| epoch(number, CELL)).collect(),
            ..History::default()
        }
    }

    #[test]
    fn a_page_holds_cell_curves_settings_and_genotype_and_asks_for_nothing_else() {
        let page = page(&sample(), &history()).unwrap();
        for part in [
            "avg 3×3",
            "Loss",
            "‖v",
            "Op weights",
            "neumann-terms",
            "nor_conv_3x3~0",
        ] {
            assert!(page.contains(part), "no {part}");
        }
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http:") && !outside.contains("https:"));
    }

    #[test]
    fn a_run_without_an_epoch_still_shows_its_losses() {
        let page = page(
            &sample(),
            &History {
                epochs: Vec::new(),
                ..history()
            },
        )
        .unwrap();
        assert!(page.contains("Loss") && !page.contains("Op weights"));
    }

    #[test]
    fn op_weights_of_another_shape_are_refused_not_drawn() {
        let mut history = history();
        history.epochs[1].op_weights[0].rows.pop();
        assert!(
            page(&sample(), &history)
                .unwrap_err()
                .to_string()
                .contains("arch_parameters")
        );
    }

    #[test]
    fn a_report_on_nothing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write(folder.path()).unwrap_err().is::<BadUsage>());
        std::fs::write(
            folder.path().join("config.toml"),
            sample().to_toml().unwrap(),
        )
        .unwrap();
        std::fs::write(folder.path().join("log.jsonl"), "").unwrap();
        assert!(
            write(folder.path())
                .unwrap_err()
                .to_string()
                .contains("at least one finished round")
        );
    }
}
