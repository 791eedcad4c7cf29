//! `ndarts train`: trains the network that a genotype becomes.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::defaults::{self, DataKind};
use super::flags::{self, DataFlags};
use super::progress::Progress;
use super::{End, Threads, genotype, say};
use crate::data::{Spec, jitter_strengths};
use crate::network::derived::Design;
use crate::run::BadUsage;
use crate::run::config::TrainConfig;
use crate::run::drive::train::{self as drive, Outcome};
use crate::space::Genotype;
use crate::train::settings::TrainSettings;

/// Largest config file that is read, bytes.
const LARGEST_FILE: u64 = 1 << 20;
/// Side of the squares that ImageNet's images are kept as, as everyone evaluates on their centre.
pub(super) const IMAGENET_RESIZE: usize = 256;
/// The colour jitter of DARTS on ImageNet.
const IMAGENET_JITTER: [f32; 4] = [0.4, 0.4, 0.4, 0.2];
/// The key of a config file beside the training's settings.
const CHECKPOINT_EVERY: &str = "checkpoint-every";

/// Train the network that a genotype becomes, and judge it on the test set after every epoch.
///
/// Defaults are those of DARTS: on CIFAR 36 channels, 20 cells, 600 epochs, batches of 96, drop path
/// 0.2; with --imagenet 48 channels, 14 cells, 250 epochs, batches of 128, label smoothing 0.1. Flags
/// win over the config file, which wins over the defaults.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ndarts train DARTS_V2 --data cifar10:cifar-10-batches-bin --auxiliary --cutout 16 --out runs/darts-v2\n  ndarts train --resume runs/darts-v2"
)]
pub struct Command {
    /// Genotype text, the name of a published one (DARTS_V1, DARTS_V2, PDARTS, …), a file that holds
    /// the text, or the directory of a search
    #[arg(value_name = "GENOTYPE|RUN_DIR")]
    genotype: Option<String>,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    run: RunFlags,
}

#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Network")]
struct NetworkFlags {
    /// Channels of the first stage [default: 36; with --imagenet: 48; NAS-Bench-201: 16; on digits: 8]
    #[arg(long, value_name = "C", value_parser = flags::whole, allow_negative_numbers = true)]
    channels: Option<usize>,
    /// Cells of the network; NAS-Bench-201: of each stage [default: 20; with --imagenet: 14;
    /// NAS-Bench-201: 5; on digits: 3, NAS-Bench-201: 1]
    #[arg(long, value_name = "L", value_parser = flags::whole, allow_negative_numbers = true)]
    cells: Option<usize>,
    /// The ImageNet network of DARTS: a stem of three convolutions of stride 2
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    imagenet: Option<bool>,
    /// Auxiliary head behind the second reduction, in training only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    auxiliary: Option<bool>,
    /// Factor of the auxiliary head's loss [default: 0.4]
    #[arg(long, value_name = "W", value_parser = flags::number, allow_negative_numbers = true)]
    auxiliary_weight: Option<f32>,
    /// Where to compute: `cpu` alone in this build [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Training")]
struct TrainingFlags {
    /// Passes over the training set [default: 600; with --imagenet: 250; on digits: 10]
    #[arg(long, value_name = "E", value_parser = flags::whole, allow_negative_numbers = true)]
    epochs: Option<usize>,
    /// Epochs at the start over which the learning rate rises [default: 0; with --imagenet: 5]
    #[arg(long, value_name = "E", value_parser = flags::whole, allow_negative_numbers = true)]
    warmup_epochs: Option<usize>,
    /// Probability of dropping a branch for an image; rises linearly from 0 over the epochs
    /// [default: 0.2; with --imagenet and for NAS-Bench-201: 0]
    #[arg(long, value_name = "P", value_parser = flags::number, allow_negative_numbers = true)]
    drop_path: Option<f32>,
    /// Label smoothing [default: 0; with --imagenet: 0.1]
    #[arg(long, value_name = "EPS", value_parser = flags::number, allow_negative_numbers = true)]
    label_smoothing: Option<f32>,
    /// First learning rate (SGD, cosine schedule) [default: 0.025; with --imagenet: 0.1]
    #[arg(long, value_name = "RATE", value_parser = flags::number, allow_negative_numbers = true)]
    lr: Option<f32>,
    /// Last learning rate [default: 0]
    #[arg(long, value_name = "RATE", value_parser = flags::number, allow_negative_numbers = true)]
    lr_min: Option<f32>,
    /// Momentum [default: 0.9]
    #[arg(long, value_name = "M", value_parser = flags::number, allow_negative_numbers = true)]
    momentum: Option<f32>,
    /// Weight decay [default: 0.0003; with --imagenet: 0.00003]
    #[arg(long, value_name = "DECAY", value_parser = flags::number, allow_negative_numbers = true)]
    weight_decay: Option<f32>,
    /// Gradient norm at which gradients are clipped; 0 turns it off [default: 5]
    #[arg(long, value_name = "NORM", value_parser = flags::number, allow_negative_numbers = true)]
    clip: Option<f32>,
    /// Side of the squares that images are kept as: training takes a random resized crop of --image-size
    /// of each (8 to 100 % of its area), evaluation its centre; 0 turns it off [default: 0; with
    /// --imagenet: 256]
    #[arg(long, value_name = "PIXELS", value_parser = flags::whole, allow_negative_numbers = true)]
    resize: Option<usize>,
    /// Colour jitter: most by which brightness, contrast and saturation change, and turns of hue [default: none;
    /// with --imagenet: 0.4,0.4,0.4,0.2]
    #[arg(long, value_name = "B,C,S,H", value_parser = flags::number, value_delimiter = ',', allow_negative_numbers = true)]
    color_jitter: Option<Vec<f32>>,
    /// Steps whose mean makes a line of the log [default: 10]
    #[arg(long, value_name = "STEPS", value_parser = flags::whole, allow_negative_numbers = true)]
    log_every: Option<usize>,
}

#[derive(Args)]
#[command(next_help_heading = "Run")]
struct RunFlags {
    /// Run directory to make [default: runs/train-<space>-<data>-s<seed>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the training in DIR from its last checkpoint, with that run's settings
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Settings in TOML, as a run directory's config.toml holds them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Steps between checkpoints, besides the one at the end of each epoch; 0: only those [default: 0]
    #[arg(long, value_name = "STEPS", value_parser = flags::whole, allow_negative_numbers = true)]
    checkpoint_every: Option<usize>,
    /// Print the test accuracy and nothing else
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    threads: Threads,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let mut given = flags::table(&self.network)?;
        given.extend(flags::table(&self.data)?);
        given.extend(flags::table(&self.training)?);
        if let Some(path) = &self.run.resume {
            return self.resume(path, &given);
        }
        let mut layered = match &self.run.config {
            Some(path) => config_file(path)?,
            None => toml::Table::new(),
        };
        layered.extend(given);
        if let Some(argument) = &self.genotype {
            let text = genotype::read(argument)?.to_string();
            layered.insert("genotype".into(), text.into());
        }
        let every = layered.remove(CHECKPOINT_EVERY);
        let config = TrainConfig {
            train: resolve(layered)?,
            checkpoint_every: match self.run.checkpoint_every {
                Some(steps) => steps as u64,
                None => every
                    .map_or(Ok(0), toml::Value::try_into)
                    .map_err(|_| bad("checkpoint-every: expected a whole number of at least 0"))?,
            },
        };
        super::start_threads(self.run.threads.threads)?;
        let parsed: Genotype = config.train.genotype.parse()?;
        let default = || drive::default_out(&config, parsed.space().name());
        let out = self.run.out.unwrap_or_else(default);
        let quiet = self.run.quiet;
        let stop = super::catch_interrupts(quiet, "step")?;
        let mut progress = Progress::new(quiet);
        let outcome = drive::start(&config, &out, &mut progress, &stop);
        progress.close();
        Ok(conclude(&outcome?, &out, quiet))
    }

    fn resume(&self, path: &Path, given: &toml::Table) -> Result<End> {
        let mut beside: Vec<String> = given
            .keys()
            .filter(|key| *key != "device")
            .cloned()
            .collect();
        for (key, present) in [
            ("out", self.run.out.is_some()),
            ("config", self.run.config.is_some()),
            ("checkpoint-every", self.run.checkpoint_every.is_some()),
        ] {
            if present {
                beside.push(key.into());
            }
        }
        flags::refuse_beside_resume(&beside)?;
        if self.genotype.is_some() {
            bail!(BadUsage(
                "GENOTYPE: expected none beside --resume, as the run keeps its own".into()
            ));
        }
        let device = self.network.device.clone();
        if let Some(device) = &device {
            check_device(device)?;
        }
        super::start_threads(self.run.threads.threads)?;
        let stop = super::catch_interrupts(self.run.quiet, "step")?;
        let mut progress = Progress::new(self.run.quiet);
        let outcome = drive::resume(path, device, &mut progress, &stop);
        progress.close();
        Ok(conclude(&outcome?, path, self.run.quiet))
    }
}

/// Refuses devices that derived networks do not run on.
///
/// # Errors
/// [`BadUsage`]
pub(super) fn check_device(name: &str) -> Result<()> {
    crate::train::parse_device(name)
        .map(|_| ())
        .map_err(|error| BadUsage(error.to_string()).into())
}

fn bad(message: &str) -> BadUsage {
    BadUsage(message.into())
}

/// The table of a config file.
fn config_file(path: &Path) -> Result<toml::Table> {
    let shown = path.display();
    let expected = |what: String| BadUsage(format!("--config {shown}: {what}"));
    let length = std::fs::metadata(path).map_or(0, |about| about.len());
    if length > LARGEST_FILE {
        bail!(expected(format!(
            "expected at most {LARGEST_FILE} bytes, found {length}"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        expected(format!(
            "expected a TOML file, but it cannot be read: {error}"
        ))
    })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        expected(format!(
            "expected TOML, found: {}",
            error.message().replace('\n', " ")
        ))
    })?;
    Ok(table)
}

/// Lays what was given over the defaults of its genotype and data, and checks the result.
fn resolve(given: toml::Table) -> Result<TrainSettings> {
    let word = |key: &str| given.get(key).and_then(toml::Value::as_str);
    let Some(text) = word("genotype") else {
        bail!(bad(
            "GENOTYPE: expected the genotype to train, found none; name one (DARTS_V2), a file, or \
             the directory of a search"
        ));
    };
    let genotype: Genotype = text
        .parse()
        .map_err(|error: anyhow::Error| BadUsage(format!("{error:#}")))?;
    let spec: Spec = word("data")
        .unwrap_or(defaults::DATA)
        .parse()
        .map_err(|error: anyhow::Error| BadUsage(format!("{error:#}")))?;
    let imagenet = given.get("imagenet").and_then(toml::Value::as_bool);
    let defaults = defaults_for(&genotype, DataKind::of(&spec), imagenet.unwrap_or(false));
    let drops = given.get("drop-path").is_some();
    let mut settings = toml::Table::try_from(defaults)?;
    settings.extend(given);
    let settings: TrainSettings = settings.try_into().map_err(|error: toml::de::Error| {
        BadUsage(format!(
            "expected good settings, found: {}",
            error.message().replace('\n', " ")
        ))
    })?;
    if drops && settings.drop_path > 0.0 && matches!(genotype, Genotype::Nb201(_)) {
        bail!(bad(
            "--drop-path: expected a DARTS genotype, as the network of NAS-Bench-201 drops no \
             branches, found a NAS-Bench-201 cell; leave the flag out"
        ));
    }
    check(&settings)?;
    Ok(settings)
}

fn defaults_for(genotype: &Genotype, data: DataKind, imagenet: bool) -> TrainSettings {
    let design = Design::published(genotype, imagenet);
    let darts = matches!(genotype, Genotype::Darts(_));
    let mut settings = TrainSettings {
        genotype: genotype.to_string(),
        data: defaults::DATA.into(),
        device: "cpu".into(),
        channels: design.channels,
        cells: design.cells,
        imagenet,
        auxiliary: false,
        auxiliary_weight: 0.4,
        drop_path: if darts { 0.2 } else { 0.0 },
        label_smoothing: 0.0,
        batch: 96,
        epochs: 600,
        warmup_epochs: 0,
        seed: 0,
        lr: 0.025,
        lr_min: 0.0,
        momentum: 0.9,
        weight_decay: 3e-4,
        clip: 5.0,
        image_size: 0,
        resize: 0,
        crop_padding: 4,
        flip: true,
        color_jitter: Vec::new(),
        cutout: 0,
        mean: Vec::new(),
        std: Vec::new(),
        log_every: 10,
    };
    if imagenet {
        settings = TrainSettings {
            drop_path: 0.0,
            label_smoothing: 0.1,
            batch: 128,
            epochs: 250,
            warmup_epochs: 5,
            lr: 0.1,
            weight_decay: 3e-5,
            image_size: design.image_size,
            resize: IMAGENET_RESIZE,
            crop_padding: 0,
            color_jitter: IMAGENET_JITTER.to_vec(),
            ..settings
        };
    }
    match data {
        DataKind::Cifar => {}
        DataKind::Images => settings.crop_padding = 0,
        DataKind::Digits => {
            settings.channels = 8;
            settings.cells = if darts { 3 } else { 1 };
            settings.batch = 32;
            settings.epochs = 10;
            settings.crop_padding = 0;
            settings.flip = false;
        }
    }
    settings
}

/// Checks every setting that can be checked without the data.
fn check(s: &TrainSettings) -> Result<()> {
    check_device(&s.device)?;
    for (flag, value, least, most) in [
        ("--batch", s.batch, 1, 65_536),
        ("--epochs", s.epochs, 1, 1_000_000),
        ("--log-every", s.log_every, 1, 1_000_000),
        ("--image-size", s.image_size, 0, 1024),
        ("--resize", s.resize, 0, 4096),
        ("--crop-padding", s.crop_padding, 0, 4096),
        ("--cutout", s.cutout, 0, 4096),
    ] {
        if !(least..=most).contains(&value) {
            bail!(BadUsage(format!(
                "{flag}: expected a whole number from {least} to {most}, found {value}"
            )));
        }
    }
    jitter_strengths(&s.color_jitter).map_err(|error| BadUsage(error.to_string()))?;
    if s.resize > 0 && !(1..=s.resize).contains(&s.image_size) {
        bail!(BadUsage(format!(
            "--image-size: expected 1 to --resize {}, found {}",
            s.resize, s.image_size
        )));
    }
    let at_least_0 = |value: f32| value.is_finite() && value >= 0.0;
    let share = |value: f32| (0.0..1.0).contains(&value);
    let finite = "a finite number of at least 0";
    let below_1 = "a number from 0 to below 1";
    for (flag, value, good, expected) in [
        (
            "--lr",
            s.lr,
            at_least_0(s.lr) && s.lr > 0.0,
            "a finite number above 0",
        ),
        (
            "--lr-min",
            s.lr_min,
            at_least_0(s.lr_min) && s.lr_min <= s.lr,
            "a number from 0 to --lr",
        ),
        (
            "--weight-decay",
            s.weight_decay,
            at_least_0(s.weight_decay),
            finite,
        ),
        ("--clip", s.clip, at_least_0(s.clip), finite),
        (
            "--auxiliary-weight",
            s.auxiliary_weight,
            at_least_0(s.auxiliary_weight),
            finite,
        ),
        ("--momentum", s.momentum, share(s.momentum), below_1),
        ("--drop-path", s.drop_path, share(s.drop_path), below_1),
        (
            "--label-smoothing",
            s.label_smoothing,
            share(s.label_smoothing),
            below_1,
        ),
    ] {
        if !good {
            bail!(BadUsage(format!(
                "{flag}: expected {expected}, found {value}"
            )));
        }
    }
    if s.warmup_epochs >= s.epochs {
        bail!(BadUsage(format!(
            "--warmup-epochs: expected fewer than --epochs {}, found {}",
            s.epochs, s.warmup_epochs
        )));
    }
    Ok(())
}

fn conclude(outcome: &Outcome, out: &Path, quiet: bool) -> End {
    let shown = out.display();
    match outcome {
        Outcome::Finished(epoch) => {
            say(&format!("{:.2}\n", 100.0 * epoch.accuracy_test));
            if !quiet {
                eprintln!(
                    "test accuracy {:.2} % (top-5 {:.2} %, best {:.2} %), loss {:.4}, {:.1} s; report: \
                     {shown}/report.html",
                    100.0 * epoch.accuracy_test,
                    100.0 * epoch.top5_test,
                    100.0 * epoch.best_accuracy_test,
                    epoch.loss_test,
                    epoch.seconds
                );
            }
            End::Done
        }
        Outcome::Interrupted { round } => {
            if !quiet {
                eprintln!("interrupted after step {round}; go on: ndarts train --resume {shown}");
            }
            End::Interrupted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<TrainSettings> {
        resolve(text.parse().unwrap())
    }

    #[test]
    fn defaults_are_the_published_ones_and_good() {
        let settings = resolved("genotype = \"DARTS_V2\"\ndata = \"cifar10:x\"").unwrap();
        let numbers = (
            settings.channels,
            settings.cells,
            settings.epochs,
            settings.batch,
        );
        assert_eq!(numbers, (36, 20, 600, 96));
        assert_eq!((settings.drop_path, settings.lr_min), (0.2, 0.0));
        let text = "genotype = \"DARTS_V1\"\ndata = \"pack:x\"\nimagenet = true";
        let settings = resolved(text).unwrap();
        assert_eq!(
            (settings.channels, settings.cells, settings.image_size),
            (48, 14, 224)
        );
        assert_eq!((settings.label_smoothing, settings.resize), (0.1, 256));
        assert_eq!(settings.color_jitter, IMAGENET_JITTER);
        resolved("genotype = \"|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|\"").unwrap();
    }

    #[test]
    fn bad_settings_name_their_flag() {
        let message = |line: &str| {
            let text = format!("genotype = \"DARTS_V2\"\n{line}");
            let error = resolved(&text).unwrap_err();
            assert!(error.is::<BadUsage>(), "{error}");
            error.to_string()
        };
        assert!(message("drop-path = 1.0").starts_with("--drop-path: expected"));
        assert!(message("epochs = 0").starts_with("--epochs: expected"));
        assert!(message("color-jitter = [0.4]").starts_with("--color-jitter: expected"));
        assert!(message("warmup-epochs = 10").starts_with("--warmup-epochs: expected"));
        assert!(message("colour = 1").contains("colour"));
        assert!(
            resolved("")
                .unwrap_err()
                .to_string()
                .starts_with("GENOTYPE")
        );
        let cell = "genotype = \"|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|\"";
        let error = resolved(&format!("{cell}\ndrop-path = 0.1")).unwrap_err();
        assert!(error.to_string().starts_with("--drop-path"));
    }
}
