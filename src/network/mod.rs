//! Networks on a tape: the supernets of the two spaces, and their parameters under PyTorch's names.
//!
//! [`Supernet::record`] builds the tape; [`derived`] describes the network that a found genotype
//! becomes; [`parameters`] knows each tensor's name, PyTorch shape and layout in θ, so that weights
//! move both ways; [`state_dict`] is the safetensors file of them.

mod darts;
pub mod derived;
mod nb201;
pub mod parameters;
pub mod state_dict;
#[cfg(test)]
mod tests;

use crate::autograd::Tape;
use crate::ops::relax::Relaxation;
use crate::space::Space;
use parameters::{Initialisation, Layout, Parameter};

/// A recorded supernet and the table of its parameters.
pub struct Supernet {
    /// The tape.
    pub tape: Tape,
    /// Every tensor of θ, ω first in the order of the reference's `state_dict`, then α.
    pub parameters: Vec<Parameter>,
}

impl Supernet {
    /// Records the supernet of `space`: C `channels` in the first stage, `cells` cells (DARTS) or
    /// cells a stage (NAS-Bench-201), for batches of `batch` images of `[height, width]`.
    ///
    /// # Errors
    /// Zero or too many channels, cells or images; a size that two reductions cannot halve.
    pub fn record(
        space: Space,
        channels: usize,
        cells: usize,
        classes: usize,
        batch: usize,
        size: [usize; 2],
    ) -> anyhow::Result<Supernet> {
        let relaxation = Relaxation::Softmax;
        Supernet::record_relaxed(space, channels, cells, classes, batch, size, relaxation)
    }

    /// As [`Supernet::record`], with another way from α to op weights.
    ///
    /// # Errors
    /// As [`Supernet::record`].
    pub fn record_relaxed(
        space: Space,
        channels: usize,
        cells: usize,
        classes: usize,
        batch: usize,
        size: [usize; 2],
        relaxation: Relaxation,
    ) -> anyhow::Result<Supernet> {
        let bounded = [
            ("--channels", channels, 1024),
            ("--cells", cells, 100),
            ("--batch", batch, 1 << 16),
        ];
        for (flag, value, most) in bounded {
            anyhow::ensure!(
                (1..=most).contains(&value),
                "{flag}: expected 1 to {most}, found {value}"
            );
        }
        anyhow::ensure!(
            size.iter().all(|s| s % 4 == 0 && (4..=1024).contains(s)),
            "--image-size: expected a multiple of 4 from 4 to 1024 (two reductions halve it), \
             found {}x{}",
            size[0],
            size[1]
        );
        let mut recorder = Recorder {
            tape: Tape::new(batch, size[0], size[1]),
            parameters: vec![],
        };
        recorder.tape.relaxation = relaxation;
        match space {
            Space::Darts => darts::record(&mut recorder, channels, cells, classes),
            Space::NasBench201 => nb201::record(&mut recorder, channels, cells, classes),
        }
        Ok(recorder.finish())
    }
}

/// A tape in the making, with the names of its parameters.
struct Recorder {
    tape: Tape,
    parameters: Vec<Parameter>,
}

use crate::ops::{ActivationId, ParameterId, WeightsId};

impl Recorder {
    fn add(
        &mut self,
        name: String,
        shape: Vec<usize>,
        layout: Layout,
        initialisation: Initialisation,
    ) -> ParameterId {
        let id = self.tape.weight(shape.iter().product());
        self.parameters.push(Parameter {
            name,
            shape,
            layout,
            initialisation,
            id,
            span: None,
        });
        id
    }

    /// PyTorch's default for convolutions and linear layers: U(−1/√fan_in, 1/√fan_in).
    fn uniform(fan_in: usize) -> Initialisation {
        Initialisation::Uniform {
            bound: 1.0 / (fan_in as f32).sqrt(),
        }
    }

    /// `[Cout, Cin, k, k]`
    fn conv_weight(&mut self, name: String, cout: usize, cin: usize, k: usize) -> ParameterId {
        self.add(
            name,
            vec![cout, cin, k, k],
            Layout::Conv,
            Self::uniform(cin * k * k),
        )
    }

    /// `[C, 1, k, k]`
    fn depthwise_weight(&mut self, name: String, channels: usize, k: usize) -> ParameterId {
        self.add(
            name,
            vec![channels, 1, k, k],
            Layout::Conv,
            Self::uniform(k * k),
        )
    }

    fn conv_bias(&mut self, name: String, cout: usize, fan_in: usize) -> ParameterId {
        self.add(name, vec![cout], Layout::Same, Self::uniform(fan_in))
    }

    /// γ and β of the batch norm `name`.
    fn affine(&mut self, name: &str, channels: usize) -> (ParameterId, ParameterId) {
        let gain = Initialisation::Constant(1.0);
        let shift = Initialisation::Constant(0.0);
        (
            self.add(format!("{name}.weight"), vec![channels], Layout::Same, gain),
            self.add(format!("{name}.bias"), vec![channels], Layout::Same, shift),
        )
    }

    /// The α `name`, relaxed.
    fn alpha(&mut self, name: &str, edges: usize, ops: usize) -> WeightsId {
        let (id, weights) = self.tape.alpha(edges, ops);
        self.parameters.push(Parameter {
            name: name.to_owned(),
            shape: vec![edges, ops],
            layout: Layout::Same,
            initialisation: Initialisation::Alpha,
            id,
            span: None,
        });
        weights
    }

    /// conv k×k → batch norm with γ and β, materialised: `conv` and `norm` are the PyTorch names.
    fn conv_norm(
        &mut self,
        input: ActivationId,
        (conv, norm): (String, &str),
        cout: usize,
        (k, stride): (usize, usize),
        relu: bool,
    ) -> ActivationId {
        let weight = self.conv_weight(conv, cout, self.tape.channels(input), k);
        let affine = self.affine(norm, cout);
        let z = self
            .tape
            .conv(input, (k, stride), cout, relu, true, (weight, None));
        self.tape.norm(z, Some(affine))
    }

    fn classifier(&mut self, features: ActivationId, relu: bool, classes: usize) {
        let channels = self.tape.channels(features);
        let init = Self::uniform(channels);
        let shape = vec![classes, channels];
        let weight = self.add("classifier.weight".into(), shape, Layout::Linear, init);
        let bias = self.conv_bias("classifier.bias".into(), classes, channels);
        self.tape.classifier(features, relu, weight, bias);
    }

    fn finish(mut self) -> Supernet {
        self.tape.finish();
        for parameter in &mut self.parameters {
            parameter.span = Some(self.tape.graph.parameters[parameter.id.0]);
        }
        // α was recorded first (its relaxation opens the tape) but comes last in θ.
        self.parameters.sort_by_key(|p| p.span().offset);
        Supernet {
            tape: self.tape,
            parameters: self.parameters,
        }
    }
}
