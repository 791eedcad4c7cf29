//! `ndarts inspect`: the network that a genotype becomes, in numbers and as a drawing.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::flags;
use super::{End, genotype, say};
use crate::network::derived::{Derived, Design, Part};
use crate::run::{BadUsage, atomic, report};
use crate::space::Genotype;

/// Bytes of an element: f32.
const ELEMENT: u64 = 4;

/// Count what a genotype costs as a network: parameters, multiply-accumulates, memory; draw its cells.
///
/// The network is that of the official code: DARTS on CIFAR or, with --imagenet, on ImageNet, or
/// NAS-Bench-201. Multiply-accumulates are those of convolutions and linear layers for one image,
/// forward. Memory of training is the result of every layer but ReLU, once, for one image; that of
/// inference is what is alive at once at most; both in f32.
#[derive(Args)]
#[command(after_help = "Example:\n  ndarts inspect DARTS_V2 --imagenet --drawing darts-v2.svg")]
pub struct Command {
    /// Genotype text, the name of a published one (DARTS_V1, DARTS_V2, PDARTS, PC_DARTS_cifar,
    /// PC_DARTS_image, SHARP_DARTS, NASNet, AmoebaNet), a file that holds the text, or a run directory
    #[arg(value_name = "GENOTYPE")]
    genotype: String,
    /// Channels of the first stage [default: 36; with --imagenet: 48; NAS-Bench-201: 16]
    #[arg(long, value_name = "C", value_parser = flags::whole, allow_negative_numbers = true)]
    channels: Option<usize>,
    /// Cells of the network; NAS-Bench-201: of each stage [default: 20; with --imagenet: 14;
    /// NAS-Bench-201: 5]
    #[arg(long, value_name = "L", value_parser = flags::whole, allow_negative_numbers = true)]
    cells: Option<usize>,
    /// Classes [default: 10; with --imagenet: 1000]
    #[arg(long, value_name = "N", value_parser = flags::whole, allow_negative_numbers = true)]
    classes: Option<usize>,
    /// Side of the images, pixels [default: 32; with --imagenet: 224]
    #[arg(long, value_name = "PIXELS", value_parser = flags::whole, allow_negative_numbers = true)]
    image_size: Option<usize>,
    /// The ImageNet network of DARTS: a stem of three convolutions of stride 2
    #[arg(long)]
    imagenet: bool,
    /// With the auxiliary head, counted by itself
    #[arg(long)]
    auxiliary: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Print name and shape of every tensor of the state_dict instead, separated by a tab
    #[arg(long, conflicts_with = "json")]
    state_dict: bool,
    /// Draw the cells to this SVG file
    #[arg(long, value_name = "FILE")]
    drawing: Option<PathBuf>,
}

/// The answer of `--json`.
#[derive(Serialize)]
struct Answer {
    genotype: String,
    space: &'static str,
    network: &'static str,
    channels: usize,
    cells: usize,
    classes: usize,
    image_size: usize,
    imagenet: bool,
    auxiliary: bool,
    params: u64,
    params_auxiliary: u64,
    macs: u64,
    macs_auxiliary: u64,
    memory: Memory,
    drawing: Option<String>,
}

/// Bytes in f32.
#[derive(Serialize)]
struct Memory {
    params_bytes: u64,
    training_bytes_per_image: u64,
    inference_bytes_per_image: u64,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let genotype = genotype::read(&self.genotype)?;
        let design = self.design(&genotype);
        let network =
            Derived::new(&genotype, &design).map_err(|error| BadUsage(format!("{error:#}")))?;
        if let Some(path) = &self.drawing {
            atomic::write(path, report::drawing(&genotype).as_bytes()).context("--drawing")?;
        }
        if self.state_dict {
            say(&state_dict(&network));
            return Ok(End::Done);
        }
        let answer = self.answer(&genotype, &design, &network);
        if self.json {
            let line = serde_json::to_string(&answer).context("the answer cannot be formed")?;
            say(&format!("{line}\n"));
        } else {
            say(&text(&answer));
        }
        Ok(End::Done)
    }

    fn design(&self, genotype: &Genotype) -> Design {
        let published = Design::published(genotype, self.imagenet);
        Design {
            channels: self.channels.unwrap_or(published.channels),
            cells: self.cells.unwrap_or(published.cells),
            classes: self.classes.unwrap_or(published.classes),
            image_size: self.image_size.unwrap_or(published.image_size),
            imagenet: self.imagenet,
            auxiliary: self.auxiliary,
        }
    }

    fn answer(&self, genotype: &Genotype, design: &Design, network: &Derived) -> Answer {
        let params = network.parameter_count(Part::Body);
        Answer {
            genotype: genotype.to_string(),
            space: genotype.space().name(),
            network: match (genotype, design.imagenet) {
                (Genotype::Nb201(_), _) => "TinyNetwork",
                (Genotype::Darts(_), false) => "NetworkCIFAR",
                (Genotype::Darts(_), true) => "NetworkImageNet",
            },
            channels: design.channels,
            cells: design.cells,
            classes: design.classes,
            image_size: design.image_size,
            imagenet: design.imagenet,
            auxiliary: design.auxiliary,
            params,
            params_auxiliary: network.parameter_count(Part::Auxiliary),
            macs: network.macs(Part::Body),
            macs_auxiliary: network.macs(Part::Auxiliary),
            memory: Memory {
                params_bytes: ELEMENT * params,
                training_bytes_per_image: ELEMENT * network.training_elements(),
                inference_bytes_per_image: ELEMENT * network.inference_elements(),
            },
            drawing: self.drawing.as_ref().map(|path| path.display().to_string()),
        }
    }
}

fn state_dict(network: &Derived) -> String {
    let mut text = String::new();
    for tensor in network.state_dict() {
        let _ = writeln!(text, "{}\t{:?}", tensor.name, tensor.shape);
    }
    text
}

fn text(answer: &Answer) -> String {
    let side = answer.image_size;
    let mut lines = vec![
        ("genotype", answer.genotype.clone()),
        (
            "network",
            format!(
                "{}: {} channels, {} cells{}, {} classes, images of {side}×{side}",
                answer.network,
                answer.channels,
                answer.cells,
                if answer.space == "nb201" {
                    " a stage"
                } else {
                    ""
                },
                answer.classes,
            ),
        ),
    ];
    lines.push(("parameters", grouped(answer.params)));
    if answer.auxiliary {
        lines.push(("  of the auxiliary head", grouped(answer.params_auxiliary)));
    }
    lines.push((
        "multiply-accumulates",
        format!("{:.2} M", answer.macs as f64 / 1e6),
    ));
    if answer.auxiliary {
        let millions = answer.macs_auxiliary as f64 / 1e6;
        lines.push(("  of the auxiliary head", format!("{millions:.2} M")));
    }
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let memory = &answer.memory;
    lines.push(("memory of parameters", megabytes(memory.params_bytes)));
    lines.push((
        "  of training, an image",
        megabytes(memory.training_bytes_per_image),
    ));
    lines.push((
        "  of inference, an image",
        megabytes(memory.inference_bytes_per_image),
    ));
    if let Some(path) = &answer.drawing {
        lines.push(("drawing", path.clone()));
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<width$}  {value}");
    }
    text
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(3_349_342), "3,349,342");
    }
}
