//! The flags of a search, in groups that commands share, and their layers:
//! defaults ← `--config` file ← flags.
//!
//! A flag left out is absent, not its default, so that layers can be told apart. Each group turns
//! into a table whose keys are the flags' names, which are also those of `config.toml`; a layer is
//! then laid over another key by key, and the origin of every value is remembered for messages.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::config::ConfigFile;
use super::{defaults, validate};
use crate::data::Spec;
use crate::run::BadUsage;
use crate::search::settings::{
    Gamma, Precision, SearchSettings, SecondMoment, StrategyKind, UnrolledProduct, Weights,
};
use crate::search::tabular;
use crate::space::Space;

/// Which network.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Network")]
pub struct NetworkFlags {
    /// Search space
    #[arg(long, value_enum, value_name = "SPACE")]
    space: Option<Space>,
    /// Channels of the first stage
    #[arg(long, value_name = "C", value_parser = whole, allow_negative_numbers = true)]
    channels: Option<usize>,
    /// DARTS: cells of the network; NAS-Bench-201: cells of each of its three stages
    #[arg(long, value_name = "L", value_parser = whole, allow_negative_numbers = true)]
    cells: Option<usize>,
    /// Where to compute: `cpu`, `cuda`, `cuda:N`, or `auto` for a GPU if there is one
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Element type of activations on a GPU
    #[arg(long, value_enum, value_name = "TYPE")]
    precision: Option<Precision>,
}

/// Which images, and how they are altered.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct DataFlags {
    /// Images: `digits`, `cifar10:DIR`, `cifar100:DIR`, `folder:DIR` or `pack:FILE`
    #[arg(long, value_name = "SPEC")]
    data: Option<String>,
    /// Images a batch
    #[arg(long, value_name = "B", value_parser = whole, allow_negative_numbers = true)]
    batch: Option<usize>,
    /// Side of the square images, pixels; 0 keeps the data's own
    #[arg(long, value_name = "PIXELS", value_parser = whole, allow_negative_numbers = true)]
    image_size: Option<usize>,
    /// Random crop: zero padding on each side, pixels; 0 turns it off
    #[arg(long, value_name = "PIXELS", value_parser = whole, allow_negative_numbers = true)]
    crop_padding: Option<usize>,
    /// Random horizontal flip
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flip: Option<bool>,
    /// Cutout: side of the square that is blanked, pixels; 0 turns it off
    #[arg(long, value_name = "PIXELS", value_parser = whole, allow_negative_numbers = true)]
    cutout: Option<usize>,
    /// Normalisation: mean of each channel, pixels in 0..1, separated by commas
    #[arg(long, value_name = "M,…", value_parser = number, value_delimiter = ',', allow_negative_numbers = true)]
    mean: Option<Vec<f32>>,
    /// Normalisation: standard deviation of each channel, pixels in 0..1, separated by commas
    #[arg(long, value_name = "S,…", value_parser = number, value_delimiter = ',', allow_negative_numbers = true)]
    std: Option<Vec<f32>>,
    /// Seed of every random choice
    #[arg(long, value_name = "S", value_parser = seed, allow_negative_numbers = true)]
    seed: Option<u64>,
}

/// The Neumann series.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Hypergradient")]
pub struct NeumannFlags {
    /// K, terms of the Neumann series beyond the first
    #[arg(long, value_name = "K", value_parser = whole, allow_negative_numbers = true)]
    neumann_terms: Option<usize>,
    /// Inner learning rate of the series: a number, or `auto` for 1/λ_max of the Hessian
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    gamma: Option<Gamma>,
}

/// How weights and architecture are trained.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Search")]
pub struct TrainingFlags {
    /// Search strategy
    #[arg(long, value_name = "STRATEGY", value_parser = strategies())]
    strategy: Option<String>,
    /// A setting that only the strategy has (they stand beside its name above); may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = own_setting, allow_hyphen_values = true)]
    #[serde(serialize_with = "as_table", skip_serializing_if = "Vec::is_empty")]
    option: Vec<(String, f64)>,
    /// Shares of every class of the training set that weights and architecture are trained on; halves if it is not given.
    /// PC-DARTS takes 0.1,0.025 of ImageNet
    #[arg(long, value_name = "W,A", value_parser = number, value_delimiter = ',', allow_negative_numbers = true)]
    subset: Option<Vec<f32>>,
    /// How the weights are trained
    #[arg(long, value_enum, value_name = "METHOD")]
    weights: Option<Weights>,
    /// Passes over the training half
    #[arg(long, value_name = "E", value_parser = whole, allow_negative_numbers = true)]
    epochs: Option<usize>,
    /// Epochs at the start that train the weights only
    #[arg(long, value_name = "E", value_parser = whole, allow_negative_numbers = true)]
    warmup_epochs: Option<usize>,
    /// End the search when the genotype has stayed the same for so many epochs; 0: never
    #[arg(long, value_name = "E", value_parser = whole, allow_negative_numbers = true)]
    stable_epochs: Option<usize>,
    /// T, weight steps before each architecture step
    #[arg(long, value_name = "T", value_parser = whole, allow_negative_numbers = true)]
    inner_steps: Option<usize>,
    /// Second product of darts-v2
    #[arg(long, value_enum, value_name = "PRODUCT")]
    unrolled_product: Option<UnrolledProduct>,
    /// Learning rate of the architecture (Adam)
    #[arg(long, value_name = "RATE", value_parser = number, allow_negative_numbers = true)]
    arch_lr: Option<f32>,
    /// Weight decay of the architecture
    #[arg(long, value_name = "DECAY", value_parser = number, allow_negative_numbers = true)]
    arch_weight_decay: Option<f32>,
    /// Adam's first decay rate
    #[arg(long, value_name = "BETA", value_parser = number, allow_negative_numbers = true)]
    arch_beta1: Option<f32>,
    /// Adam's second decay rate
    #[arg(long, value_name = "BETA", value_parser = number, allow_negative_numbers = true)]
    arch_beta2: Option<f32>,
    /// Which elements of α share Adam's second moment: each its own, or the ops of an edge one
    #[arg(long, value_enum, value_name = "WHICH")]
    arch_second_moment: Option<SecondMoment>,
    /// First learning rate of the weights (SGD, cosine schedule)
    #[arg(long, help_heading = "SGD", value_name = "RATE", value_parser = number, allow_negative_numbers = true)]
    lr: Option<f32>,
    /// Last learning rate of the weights
    #[arg(long, help_heading = "SGD", value_name = "RATE", value_parser = number, allow_negative_numbers = true)]
    lr_min: Option<f32>,
    /// Momentum
    #[arg(long, help_heading = "SGD", value_name = "M", value_parser = number, allow_negative_numbers = true)]
    momentum: Option<f32>,
    /// Weight decay
    #[arg(long, help_heading = "SGD", value_name = "DECAY", value_parser = number, allow_negative_numbers = true)]
    weight_decay: Option<f32>,
    /// Gradient norm at which gradients are clipped; 0 turns it off
    #[arg(long, help_heading = "SGD", value_name = "NORM", value_parser = number, allow_negative_numbers = true)]
    clip: Option<f32>,
    /// n, members of a population
    #[arg(long, help_heading = "Evolution strategy", value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    population: Option<usize>,
    /// σ, standard deviation of the noise, in units of the weights
    #[arg(long, help_heading = "Evolution strategy", value_name = "S", value_parser = number, allow_negative_numbers = true)]
    sigma: Option<f32>,
    /// η, step size of the recombination
    #[arg(long, help_heading = "Evolution strategy", value_name = "E", value_parser = number, allow_negative_numbers = true)]
    es_step: Option<f32>,
    /// Recombine as the paper prints it: plus sign, no mean subtracted
    #[arg(long, help_heading = "Evolution strategy", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    es_literal: Option<bool>,
    /// Draw the noise in pairs of opposite sign
    #[arg(long, help_heading = "Evolution strategy", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    antithetic: Option<bool>,
}

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// A line of a config file: file and line, counted from 1.
    File(String, usize),
}

/// Origins by key; a key that is missing has its default.
pub type Origins = BTreeMap<String, Origin>;

/// How a message names the setting `key`: `--sigma`, or `my.toml:3: sigma`.
pub fn named(origins: &Origins, key: &str) -> String {
    match origins.get(key) {
        Some(Origin::File(file, line)) => format!("{file}:{line}: {key}"),
        Some(Origin::Flag) | None => format!("--{key}"),
    }
}

/// The flags that were given, as a table.
///
/// # Errors
///
/// [`BadUsage`] for a seed that TOML cannot hold.
pub fn table(group: &impl Serialize) -> Result<toml::Table> {
    toml::Table::try_from(group).map_err(|error| {
        anyhow!(BadUsage(format!(
            "expected flags that a config.toml can hold, found: {error}"
        )))
    })
}

/// Lays defaults, config file and flags over one another and checks the result.
///
/// # Errors
///
/// [`BadUsage`], naming the flag, or the config file's line, whose value is not good.
pub fn resolve(flags: toml::Table, file: Option<&ConfigFile>) -> Result<SearchSettings> {
    let mut given = toml::Table::new();
    let mut origins = Origins::new();
    if let Some(file) = file {
        for (key, line, value) in file.settings() {
            given.insert(key.into(), value.clone());
            origins.insert(key.into(), Origin::File(file.name().into(), line));
        }
    }
    for (key, value) in flags {
        origins.insert(key.clone(), Origin::Flag);
        match (given.get_mut(&key), value) {
            // Of the strategy's own settings each is laid over by itself.
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => below.extend(above),
            (_, value) => drop(given.insert(key, value)),
        }
    }
    let data = given
        .get("data")
        .and_then(toml::Value::as_str)
        .unwrap_or(defaults::DATA);
    let spec: Spec = data.parse().map_err(|error| {
        let at = match origins.get("data") {
            Some(Origin::File(file, line)) => format!("{file}:{line}: "),
            _ => String::new(),
        };
        BadUsage(format!("{at}{error:#}"))
    })?;
    resolve_for(defaults::DataKind::of(&spec), given, &origins)
}

/// Lays the `given` settings over the defaults for images of `kind` and checks the result.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_for(
    kind: defaults::DataKind,
    given: toml::Table,
    origins: &Origins,
) -> Result<SearchSettings> {
    let space = match given.get("space") {
        None => defaults::SPACE,
        Some(space) => space.clone().try_into().map_err(|_| {
            BadUsage(format!(
                "{}: expected {}, found {space}",
                named(origins, "space"),
                Space::names()
            ))
        })?,
    };
    let strategy: StrategyKind = match given.get("strategy") {
        None => defaults::STRATEGY,
        Some(strategy) => strategy.clone().try_into().map_err(|_| {
            BadUsage(format!(
                "{}: expected a strategy that trains a supernet (see --help), found {strategy}",
                named(origins, "strategy")
            ))
        })?,
    };
    let mut settings = defaults::defaults_for(kind, space);
    (strategy.method().defaults)(&mut settings);
    let mut settings = toml::Table::try_from(settings)?;
    settings.extend(given);
    let settings: SearchSettings = settings.try_into().map_err(|error: toml::de::Error| {
        BadUsage(format!(
            "expected good settings, found: {}",
            error.message()
        ))
    })?;
    validate::check(&settings, origins)?;
    Ok(settings)
}

/// Every setting of a search.
#[derive(Args, Clone, Debug, Default)]
pub struct SearchFlags {
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    neumann: NeumannFlags,
    #[command(flatten)]
    training: TrainingFlags,
}

impl SearchFlags {
    /// Those that were given, by name.
    ///
    /// # Errors
    ///
    /// A value that TOML cannot hold.
    pub fn given(&self) -> Result<toml::Table> {
        let mut given = table(&self.network)?;
        given.extend(table(&self.data)?);
        given.extend(table(&self.neumann)?);
        given.extend(table(&self.training)?);
        Ok(given)
    }
}

/// Reads the file of `--config`, if one is given.
///
/// # Errors
///
/// See [`ConfigFile::read`].
pub fn config_file(path: Option<&Path>) -> Result<Option<ConfigFile>> {
    path.map(ConfigFile::read).transpose()
}

/// Every name that `--strategy` takes; those that search a table train a supernet, too.
fn strategies() -> PossibleValuesParser {
    let values = StrategyKind::ALL.iter().map(supernet_strategy);
    PossibleValuesParser::new(values.collect::<Vec<PossibleValue>>())
}

/// Name and help of a strategy that trains a supernet, with its own settings.
fn supernet_strategy(kind: &StrategyKind) -> PossibleValue {
    let value = kind.to_possible_value().expect("no strategy is hidden");
    let mut help = value
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let number = |[darts, nb201]: [f64; 2]| match darts == nb201 {
        true => darts.to_string(),
        false => format!("{darts}; nb201: {nb201}"),
    };
    for own in kind.method().options {
        help += &format!(
            "; {}: {} [default: {}]",
            own.name,
            own.about,
            number(own.default)
        );
    }
    if tabular::strategy(value.get_name()).is_some() {
        help += "; also with --table";
    }
    value.help(help)
}

/// NAME=VALUE
fn own_setting(text: &str) -> Result<(String, f64), String> {
    let expected = "expected NAME=VALUE with a number for the value";
    let (name, value) = text.split_once('=').ok_or(expected)?;
    let value: f64 = value.parse().map_err(|_| expected)?;
    Ok((name.to_owned(), value))
}

fn as_table<S: serde::Serializer>(pairs: &[(String, f64)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// A whole number of at least 0.
pub fn whole(text: &str) -> Result<usize, String> {
    text.parse()
        .map_err(|_| "expected a whole number of at least 0".into())
}

fn seed(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seed) if seed <= i64::MAX as u64 => Ok(seed),
        _ => Err("expected a whole number from 0 to 9223372036854775807".into()),
    }
}

/// A number.
pub fn number(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "expected a number".into())
}

/// Refuses flags beside `--resume`, which goes on with the run's own settings.
///
/// # Errors
///
/// [`BadUsage`] naming the flags.
pub fn refuse_beside_resume(given: &[String]) -> Result<()> {
    if given.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = given.iter().map(|key| format!("--{key}")).collect();
    bail!(BadUsage(format!(
        "--resume: expected at most --device, --threads and --quiet beside it, as the run keeps its \
         own settings, found {}",
        list.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: SearchFlags,
    }

    fn resolved(arguments: &str, config: &str) -> Result<SearchSettings> {
        let line = Line::try_parse_from(["x"].into_iter().chain(arguments.split_whitespace()))?;
        let given = line.settings.given()?;
        let file = ConfigFile::parse("my.toml", config).map_err(BadUsage)?;
        resolve(given, Some(&file))
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let settings = resolved(
            "--sigma 0.5 --flip",
            "sigma = 0.25\nchannels = 7\nflip = false\n",
        )
        .unwrap();
        assert_eq!(
            (settings.sigma, settings.channels, settings.flip),
            (0.5, 7, true)
        );
        assert_eq!(settings.momentum, 0.9);
    }

    #[test]
    fn defaults_follow_the_space_and_data_that_were_given_anywhere() {
        let settings = resolved("--data cifar10:x", "space = \"nb201\"\n").unwrap();
        assert_eq!(
            (settings.cells, settings.crop_padding, settings.flip),
            (5, 4, true)
        );
        assert_eq!(settings.space, Space::NasBench201);
    }

    #[test]
    fn every_setting_has_a_flag_that_gives_it_exactly() {
        let arguments = "--space nb201 --strategy darts-v2 --data pack:x --device cuda:1 --precision bf16 --weights sgd+es \
            --neumann-terms 3 --inner-steps 4 --gamma auto --unrolled-product exact --population 6 \
            --sigma 0.3 --es-step 0.7 --es-literal --antithetic --channels 5 --cells 2 --batch 9 \
            --epochs 11 --warmup-epochs 1 --stable-epochs 2 --seed 12 --lr 0.1 --lr-min 0.01 --momentum 0.8 \
            --weight-decay 0.002 --clip 3 --arch-lr 0.004 --arch-weight-decay 0.005 --arch-beta1 0.6 \
            --arch-beta2 0.99 --arch-second-moment edge --image-size 24 --subset 0.2,0.1 --crop-padding 2 --flip=true --cutout 8 \
            --mean 0.1,0.2,0.3 --std 0.4";
        let settings = resolved(arguments, "").unwrap();
        assert_eq!(settings.gamma, Gamma::Auto);
        assert_eq!(
            (settings.mean.as_slice(), settings.lr),
            ([0.1, 0.2, 0.3].as_slice(), 0.1)
        );
        let digits = defaults::defaults_for(defaults::DataKind::Digits, defaults::SPACE);
        let changed = toml::Table::try_from(&settings).unwrap();
        for (key, value) in toml::Table::try_from(digits).unwrap() {
            assert_ne!(changed[&key], value, "{key} was not taken from its flag");
        }
    }

    #[test]
    fn every_strategy_that_searches_a_table_trains_a_supernet_too() {
        for strategy in tabular::STRATEGIES {
            assert!(<StrategyKind as ValueEnum>::from_str(strategy.name(), false).is_ok());
        }
    }

    #[test]
    fn a_strategys_own_settings_are_laid_over_one_by_one() {
        let file = "strategy = \"gdas\"\n[option]\ntau-start = 5.0\ntau-end = 0.5\n";
        let settings = resolved("--option tau-end=0.25", file).unwrap();
        let own = |name| StrategyKind::Gdas.option(&settings, name);
        assert_eq!((own("tau-start"), own("tau-end")), (5.0, 0.25));
        assert_eq!(settings.inner_steps, 1, "as published");
        let other = resolved("--strategy ndarts", file).unwrap_err().to_string();
        assert!(other.contains("strategy ndarts"), "{other}");
    }

    #[test]
    fn a_bad_value_is_named_by_where_it_stands() {
        let message = |arguments, config| resolved(arguments, config).unwrap_err().to_string();
        assert!(message("--sigma 0", "").starts_with("--sigma: expected"));
        assert!(message("", "\nsigma = 0.0").starts_with("my.toml:2: sigma: expected"));
        assert!(message("", "data = \"x\"").starts_with("my.toml:1: "));
    }
}
