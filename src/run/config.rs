//! `config.toml`: the settings of a run, with the names of the flags, so that
//! `ndarts search --config RUN/config.toml`, or `ndarts train`, repeats it exactly.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::search::settings::SearchSettings;
use crate::train::settings::TrainSettings;

/// The one key beside the search's own.
const CHECKPOINT_EVERY: &str = "checkpoint-every";
/// The one setting that is a table.
const OPTION: &str = "option";

/// What a run is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// The search.
    pub search: SearchSettings,
    /// Rounds between checkpoints, besides the one at the end of each epoch; 0: only those.
    pub checkpoint_every: u64,
}

/// What a training is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// The training.
    pub train: TrainSettings,
    /// Steps between checkpoints, besides the one at the end of each epoch; 0: only those.
    pub checkpoint_every: u64,
}

/// The key that a training's settings have and a search's have not.
const GENOTYPE: &str = "genotype";

/// Whether the `config.toml` at `path` is a training's; what cannot be read is none.
pub fn is_training(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let table: toml::Table = text.parse().unwrap_or_default();
    table.contains_key(GENOTYPE)
}

impl RunConfig {
    /// The text of `config.toml`.
    ///
    /// # Errors
    ///
    /// A setting that TOML cannot hold, such as a seed above 2⁶³ − 1.
    pub fn to_toml(&self) -> Result<String> {
        // A table must stand behind every plain key.
        let mut plain = self.search.clone();
        let option = std::mem::take(&mut plain.option);
        let mut text = text("search", &plain, self.checkpoint_every)?;
        if !option.is_empty() {
            text += &format!("\n[{OPTION}]\n{}", toml::to_string(&option)?);
        }
        Ok(text)
    }

    /// Reads a `config.toml` back.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no TOML, or lacks a setting; the message names the file.
    pub fn read(path: &Path) -> Result<RunConfig> {
        let (search, checkpoint_every) = read(path, "a search")?;
        Ok(RunConfig {
            search,
            checkpoint_every,
        })
    }

    #[cfg(test)]
    fn parse(text: &str) -> Result<RunConfig, String> {
        let (search, checkpoint_every) = parse(text)?;
        Ok(RunConfig {
            search,
            checkpoint_every,
        })
    }
}

impl TrainConfig {
    /// The text of `config.toml`.
    ///
    /// # Errors
    ///
    /// As [`RunConfig::to_toml`].
    pub fn to_toml(&self) -> Result<String> {
        text("train", &self.train, self.checkpoint_every)
    }

    /// Reads a `config.toml` back.
    ///
    /// # Errors
    ///
    /// As [`RunConfig::read`].
    pub fn read(path: &Path) -> Result<TrainConfig> {
        let (train, checkpoint_every) = read(path, "a training")?;
        Ok(TrainConfig {
            train,
            checkpoint_every,
        })
    }
}

fn text(command: &str, settings: &impl Serialize, checkpoint_every: u64) -> Result<String> {
    let settings = toml::to_string(settings)
        .context("the settings cannot be written as TOML (a seed may be at most 2^63 - 1)")?;
    Ok(format!(
        "# Written by ndarts {}. Repeat this run: ndarts {command} --config THIS_FILE --out DIR\n\
         {settings}{CHECKPOINT_EVERY} = {checkpoint_every}\n",
        env!("CARGO_PKG_VERSION"),
    ))
}

fn read<S: DeserializeOwned>(path: &Path, of: &str) -> Result<(S, u64)> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{shown}: expected the settings of {of}"))?;
    parse(&text).map_err(|error| {
        anyhow::anyhow!("{shown}: expected the settings of {of}, found this: {error}")
    })
}

fn parse<S: DeserializeOwned>(text: &str) -> Result<(S, u64), String> {
    let one_line = |error: toml::de::Error| error.message().replace('\n', " ");
    let mut table: toml::Table = text.parse().map_err(one_line)?;
    let checkpoint_every = match table.remove(CHECKPOINT_EVERY) {
        None => 0,
        Some(value) => value.try_into().map_err(one_line)?,
    };
    Ok((table.try_into().map_err(one_line)?, checkpoint_every))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::search::settings::{
        Gamma, Precision, SecondMoment, StrategyKind, UnrolledProduct, Weights,
    };
    use crate::space::Space;

    pub(crate) fn sample() -> RunConfig {
        let search = SearchSettings {
            space: Space::NasBench201,
            strategy: StrategyKind::Ndarts,
            data: "digits".into(),
            device: "auto".into(),
            precision: Precision::F32,
            weights: Weights::SgdEs,
            neumann_terms: 1,
            inner_steps: 2,
            gamma: Gamma::Fixed(0.025),
            unrolled_product: UnrolledProduct::FiniteDifference,
            population: 8,
            sigma: 0.01,
            es_step: 0.1,
            es_literal: false,
            antithetic: true,
            channels: 8,
            cells: 1,
            batch: 64,
            epochs: 2,
            warmup_epochs: 0,
            stable_epochs: 0,
            seed: 3,
            lr: 0.025,
            lr_min: 0.001,
            momentum: 0.9,
            weight_decay: 3e-4,
            clip: 5.0,
            arch_lr: 3e-4,
            arch_weight_decay: 1e-3,
            arch_beta1: 0.5,
            arch_beta2: 0.999,
            arch_second_moment: SecondMoment::Element,
            image_size: 0,
            subset: vec![0.1, 0.025],
            crop_padding: 0,
            flip: false,
            cutout: 0,
            mean: vec![0.3],
            option: [("tau-end".to_owned(), 0.3)].into(),
            std: vec![],
        };
        RunConfig {
            search,
            checkpoint_every: 5,
        }
    }

    #[test]
    fn a_config_survives_its_text_and_keeps_short_decimals() {
        let text = sample().to_toml().unwrap();
        assert_eq!(RunConfig::parse(&text).unwrap(), sample(), "{text}");
        assert!(text.contains("weight-decay = 0.0003\n"), "{text}");
        assert!(text.contains("gamma = 0.025\n"), "{text}");
    }

    #[test]
    fn a_missing_or_unknown_key_is_named() {
        let text = sample().to_toml().unwrap().replace("sigma = 0.01\n", "");
        assert!(RunConfig::parse(&text).unwrap_err().contains("sigma"));
        assert!(
            RunConfig::parse("colour = 1")
                .unwrap_err()
                .contains("colour")
        );
    }
}
