//! Checks of settings: each bad value is named with its flag, or its file and line, what was
//! expected and what was found.

use std::fmt::Display;
use std::ops::RangeInclusive;

use anyhow::{Result, bail};

use super::flags::{Origins, named};
use crate::device::Device;
use crate::run::BadUsage;
use crate::search::settings::{Gamma, Precision, SearchSettings};

/// Checks every setting that can be checked without the data.
///
/// # Errors
///
/// [`BadUsage`] for the first bad value.
pub fn check(settings: &SearchSettings, origins: &Origins) -> Result<()> {
    let s = settings;
    let check = Check { origins };
    // First, because a device that a strategy does not run on may be one of this build.
    if let Err((key, problem)) = s.strategy.check(s) {
        bail!(BadUsage(format!("{}: {problem}", named(origins, key))));
    }
    check.device(&s.device)?;
    check.whole("neumann-terms", s.neumann_terms, 0..=10_000)?;
    check.whole("inner-steps", s.inner_steps, 1..=1_000_000)?;
    check.whole("population", s.population, 1..=65_536)?;
    check.whole("channels", s.channels, 1..=4096)?;
    check.whole("cells", s.cells, 1..=1000)?;
    check.whole("batch", s.batch, 1..=1_000_000)?;
    check.whole("epochs", s.epochs, 1..=1_000_000)?;
    check.whole("image-size", s.image_size, 0..=4096)?;
    check.whole("crop-padding", s.crop_padding, 0..=4096)?;
    check.whole("cutout", s.cutout, 0..=4096)?;
    if let Gamma::Fixed(gamma) = s.gamma {
        check.positive("gamma", gamma)?;
    }
    for (key, value) in [
        ("sigma", s.sigma),
        ("es-step", s.es_step),
        ("lr", s.lr),
        ("arch-lr", s.arch_lr),
    ] {
        check.positive(key, value)?;
    }
    for (key, value) in [
        ("lr-min", s.lr_min),
        ("weight-decay", s.weight_decay),
        ("clip", s.clip),
        ("arch-weight-decay", s.arch_weight_decay),
    ] {
        check.that(
            value.is_finite() && value >= 0.0,
            key,
            "a finite number of at least 0",
            value,
        )?;
    }
    for (key, value) in [
        ("momentum", s.momentum),
        ("arch-beta1", s.arch_beta1),
        ("arch-beta2", s.arch_beta2),
    ] {
        check.that(
            (0.0..1.0).contains(&value),
            key,
            "a number from 0 to below 1",
            value,
        )?;
    }
    check.that(
        s.subset.is_empty() || s.subset.len() == 2,
        "subset",
        "two shares",
        format!("{:?}", s.subset),
    )?;
    check.relations(s)
}

struct Check<'a> {
    origins: &'a Origins,
}

impl Check<'_> {
    fn that(&self, good: bool, key: &str, expected: &str, found: impl Display) -> Result<()> {
        if !good {
            bail!(BadUsage(format!(
                "{}: expected {expected}, found {found}",
                named(self.origins, key)
            )));
        }
        Ok(())
    }

    fn whole(&self, key: &str, value: usize, range: RangeInclusive<usize>) -> Result<()> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.that(range.contains(&value), key, &expected, value)
    }

    fn positive(&self, key: &str, value: f32) -> Result<()> {
        self.that(
            value.is_finite() && value > 0.0,
            key,
            "a finite number above 0",
            value,
        )
    }

    fn device(&self, device: &str) -> Result<()> {
        let expected = format!(
            "{}, the devices of this build (see `ndarts devices`)",
            Device::NAMES
        );
        let found = format_args!("`{device}`");
        self.that(Device::is_name(device), "device", &expected, found)
    }

    /// Settings that must fit each other.
    fn relations(&self, s: &SearchSettings) -> Result<()> {
        self.that(
            s.precision == Precision::F32 || s.device != "cpu",
            "precision",
            "f32 on the CPU, or --device cuda[:N]",
            format_args!("{} beside --device cpu", s.precision.name()),
        )?;
        self.that(
            s.lr_min <= s.lr,
            "lr-min",
            &format!("at most the first learning rate, --lr {}", s.lr),
            s.lr_min,
        )?;
        self.that(
            s.warmup_epochs < s.epochs,
            "warmup-epochs",
            &format!(
                "fewer than --epochs {}, or no architecture step is ever made",
                s.epochs
            ),
            s.warmup_epochs,
        )?;
        for (key, values) in [("mean", &s.mean), ("std", &s.std)] {
            let least = if key == "std" { f32::MIN_POSITIVE } else { 0.0 };
            let good = matches!(values.len(), 0 | 1 | 3)
                && values.iter().all(|value| (least..=1.0).contains(value));
            let expected =
                "one number for all channels or three, each from 0 (--std: above 0) to 1";
            self.that(good, key, expected, format_args!("{values:?}"))?;
        }
        Ok(())
    }
}

/// Checks a `--device` given on its own.
///
/// # Errors
///
/// [`BadUsage`] for a device that this build does not have.
pub fn check_device(device: &str) -> Result<()> {
    Check {
        origins: &Origins::new(),
    }
    .device(device)
}
