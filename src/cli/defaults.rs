//! The defaults of a search, in one table, and the help that states them.
//!
//! They are DARTS's (Liu et al. 2019) and NAS-Bench-201's; on the bundled digits a search is to end
//! within a minute on two cores, so there the network and the number of epochs are smaller.

use crate::data::Spec;
use crate::search::settings::{
    Gamma, Precision, SearchSettings, SecondMoment, StrategyKind, UnrolledProduct, Weights,
};
use crate::space::Space;

/// The data of a search that names none.
pub const DATA: &str = "digits";
/// The strategy of a search that names none.
pub const STRATEGY: StrategyKind = StrategyKind::Ndarts;
/// The space of a search that names none.
pub const SPACE: Space = Space::Darts;

/// Kinds of data, as far as defaults differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// The bundled digits: 8×8 pixels, grey, left and right not alike.
    Digits,
    /// CIFAR-10 or CIFAR-100.
    Cifar,
    /// A folder or a pack of any images.
    Images,
}

impl DataKind {
    /// The kind of a data set.
    pub fn of(spec: &Spec) -> DataKind {
        match spec {
            Spec::Digits => DataKind::Digits,
            Spec::Cifar10(_) | Spec::Cifar100(_) => DataKind::Cifar,
            Spec::Folder(_) | Spec::Pack(_) => DataKind::Images,
        }
    }
}

/// All defaults: first what every search shares, then what the space changes, then what the data
/// changes.
pub fn defaults_for(data: DataKind, space: Space) -> SearchSettings {
    let mut settings = SearchSettings {
        space,
        strategy: STRATEGY,
        data: DATA.into(),
        device: "auto".into(),
        precision: Precision::F32,
        weights: Weights::Sgd,
        neumann_terms: 1,
        inner_steps: 2,
        gamma: Gamma::Fixed(0.025),
        unrolled_product: UnrolledProduct::FiniteDifference,
        population: 8,
        sigma: 0.01,
        es_step: 0.01,
        es_literal: false,
        antithetic: false,
        channels: 16,
        cells: 8,
        batch: 64,
        epochs: 50,
        warmup_epochs: 0,
        stable_epochs: 0,
        seed: 0,
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
        subset: Vec::new(),
        crop_padding: 4,
        flip: true,
        cutout: 0,
        mean: Vec::new(),
        std: Vec::new(),
        option: Default::default(),
    };
    if space == Space::NasBench201 {
        settings.cells = 5;
        settings.stable_epochs = 1;
        // What a step of SGD with momentum μ moves ω by in the long run: lr/(1 − μ).
        settings.gamma = Gamma::Fixed(0.25);
        // The genotype is an argmax with `none` in it: see `SecondMoment`.
        settings.arch_second_moment = SecondMoment::Edge;
    }
    match (data, space) {
        (DataKind::Cifar, _) => {}
        (DataKind::Images, _) => {
            settings.crop_padding = 0;
        }
        (DataKind::Digits, _) => {
            settings.channels = 8;
            settings.cells = if space == Space::NasBench201 { 1 } else { 3 };
            settings.batch = 32;
            settings.epochs = 16;
            settings.arch_lr = 1e-2;
            settings.crop_padding = 0;
            settings.flip = false;
        }
    }
    settings
}

/// Writes the default of every setting into the help of its flag, so that help cannot go stale.
pub fn document(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|subcommand| {
        let text: fn(&str) -> Option<String> = match subcommand.get_name() {
            "search" | "ablate" | "probe" => default_text,
            "bench" => bench_default_text,
            _ => return subcommand,
        };
        subcommand.mut_args(|argument| {
            let key = argument.get_id().as_str().replace('_', "-");
            match (text(&key), argument.get_help()) {
                (Some(default), Some(help)) => {
                    let help = format!("{help} [default: {default}]");
                    argument.help(help)
                }
                _ => argument,
            }
        })
    })
}

/// The default of `key` for one kind of data and space; none for other flags.
fn default_of(key: &str, data: DataKind, space: Space) -> Option<String> {
    let table = toml::Table::try_from(defaults_for(data, space)).ok()?;
    let value = table.get(key)?;
    Some(match value {
        toml::Value::String(word) => word.clone(),
        // Settings are f32; their shortest decimal is the one to show.
        toml::Value::Float(number) => (*number as f32).to_string(),
        toml::Value::Array(values) if values.is_empty() => "computed from the data".into(),
        other => other.to_string(),
    })
}

/// The default of `key` in words for `bench`, whose images are made up in CIFAR's size.
fn bench_default_text(key: &str) -> Option<String> {
    if key == "space" {
        return Some(SPACE.name().into());
    }
    let mut text = default_of(key, DataKind::Cifar, Space::Darts)?;
    let nb201 = default_of(key, DataKind::Cifar, Space::NasBench201)?;
    if nb201 != text {
        text += &format!("; nb201: {nb201}");
    }
    Some(text)
}

/// The default of `key` in words, with what differs by data or space; none for other flags.
fn default_text(key: &str) -> Option<String> {
    let of = |data, space| default_of(key, data, space);
    let mut text = bench_default_text(key)?;
    if key == "space" {
        return Some(text);
    }
    let base = of(DataKind::Cifar, Space::Darts)?;
    let digits = of(DataKind::Digits, Space::Darts)?;
    let digits_nb201 = of(DataKind::Digits, Space::NasBench201)?;
    if digits != digits_nb201 {
        text += &format!("; on digits: {digits}, nb201: {digits_nb201}");
    } else if digits != base {
        text += &format!("; on digits: {digits}");
    }
    let images = of(DataKind::Images, Space::Darts)?;
    if images != base {
        text += &format!("; on folders and packs: {images}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_good_setting() {
        for space in Space::ALL {
            for data in [DataKind::Digits, DataKind::Cifar, DataKind::Images] {
                let settings = defaults_for(data, space);
                super::super::validate::check(&settings, &Default::default()).unwrap();
            }
        }
    }

    #[test]
    fn help_states_defaults_with_what_space_and_data_change() {
        assert_eq!(default_text("momentum").unwrap(), "0.9");
        assert_eq!(default_text("weight-decay").unwrap(), "0.0003");
        assert!(
            default_text("cells")
                .unwrap()
                .starts_with("8; nb201: 5; on digits: ")
        );
        assert_eq!(default_text("mean").unwrap(), "computed from the data");
        assert_eq!(default_text("resume"), None);
    }
}
