//! Files of a trained network for other programs: safetensors under the official code's names, and
//! ONNX ([`onnx`]).

pub mod onnx;
mod proto;

use std::path::Path;

use anyhow::{Result, bail};

use super::model::Model;
use crate::network::state_dict;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.safetensors`
    Safetensors,
    /// `.onnx`
    Onnx,
}

impl Format {
    /// The format that a file's name asks for.
    ///
    /// # Errors
    /// Another ending; the message names the flag and the known ones.
    pub fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Ok(Format::Safetensors),
            Some("onnx") => Ok(Format::Onnx),
            _ => bail!(
                "--export: expected a file that ends in .safetensors or .onnx, found {}",
                path.display()
            ),
        }
    }
}

/// How images become the network's input: stated in the file, since the network cannot tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    /// Mean per channel, of pixels in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel.
    pub std: [f32; 3],
}

/// The bytes of a trained network in a format.
///
/// # Errors
/// A network too large for the format.
pub fn encode(
    model: &Model,
    format: Format,
    genotype: &str,
    normalisation: &Normalisation,
) -> Result<Vec<u8>> {
    match format {
        Format::Safetensors => state_dict::encode(
            &model.tensors(),
            &model.integers(),
            &[("genotype", genotype)],
        ),
        Format::Onnx => onnx::encode(&model.derived, &model.tensors(), genotype, normalisation),
    }
}
