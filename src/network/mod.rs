//! Networks on a tape: the supernets of the spaces, and their parameters under PyTorch's names.
//!
//! [`Supernet::record`] builds the tape; [`derived`] describes the network that a found genotype
//! becomes; [`parameters`] knows each tensor's name, PyTorch shape and layout in θ, so that weights
//! move both ways; [`state_dict`] is the safetensors file of them.

mod darts;
pub mod derived;
mod nasnet;
mod nb201;
pub mod parameters;
mod skeleton;
pub mod state_dict;
#[cfg(test)]
mod tests;

use crate::autograd::Tape;
use crate::ops::relax::Relaxation;
use crate::space::{GenotypeOp, Space};
use parameters::{Initialisation, Layout, Parameter};

/// What a search changes about the supernet of its space.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variant {
    /// The way from α to op weights.
    pub relaxation: Relaxation,
    /// Candidates of an edge, by column of α, `none` first; empty: those of the space. DARTS only.
    pub ops: &'static [GenotypeOp],
    /// Which ops of each edge there are, in α's order; empty: all. DARTS only.
    pub kept: Vec<bool>,
    /// Dropout behind each skip connection of stride 1 (see [`crate::ops::dropout`]). DARTS only.
    pub dropout: bool,
    /// PC-DARTS' K: one channel in K goes through the ops, the others by them, edges are normalised by β and
    /// each node's channels shuffled. It divides C. With [`Relaxation::Softmax`]; DARTS only.
    pub partial: Option<usize>,
}

impl Variant {
    /// Names of the candidates of an edge, by column of α.
    pub fn op_names(&self, space: Space) -> Vec<&'static str> {
        if self.ops.is_empty() {
            return space.op_names().to_vec();
        }
        self.ops.iter().map(|op| op.name()).collect()
    }
}

/// A recorded supernet and the table of its parameters.
pub struct Supernet {
    /// The tape.
    pub tape: Tape,
    /// Every tensor of θ, ω first in the order of the reference's `state_dict`, then α.
    pub parameters: Vec<Parameter>,
}

impl Supernet {
    /// Records the supernet of `space`: C `channels` in the first stage, `cells` cells (DARTS, NASNet) or
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
        let variant = Variant::default();
        Supernet::record_variant(space, channels, cells, classes, batch, size, &variant)
    }

    /// As [`Supernet::record`], with what a search changes about it.
    ///
    /// # Errors
    /// As [`Supernet::record`].
    ///
    /// # Panics
    /// A variant of the DARTS supernet in another space.
    pub fn record_variant(
        space: Space,
        channels: usize,
        cells: usize,
        classes: usize,
        batch: usize,
        size: [usize; 2],
        variant: &Variant,
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
        recorder.tape.relaxation = variant.relaxation;
        match space {
            Space::Darts => darts::record(&mut recorder, channels, cells, classes, variant),
            Space::NasBench201 | Space::Nasnet => {
                let plain = Variant {
                    relaxation: variant.relaxation,
                    ..Variant::default()
                };
                assert!(*variant == plain, "a variant of DARTS");
                let record = match space {
                    Space::Nasnet => nasnet::record,
                    _ => nb201::record,
                };
                record(&mut recorder, channels, cells, classes);
            }
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

    /// `[C, C, 1, k]`, or `[C, C, k, 1]` where `vertical`
    fn conv_along_weight(
        &mut self,
        name: String,
        c: usize,
        k: usize,
        vertical: bool,
    ) -> ParameterId {
        let shape = if vertical {
            vec![c, c, k, 1]
        } else {
            vec![c, c, 1, k]
        };
        self.add(name, shape, Layout::Conv, Self::uniform(c * k))
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
        self.note_alpha(name.to_owned(), vec![edges, ops], id);
        weights
    }

    fn note_alpha(&mut self, name: String, shape: Vec<usize>, id: ParameterId) {
        self.parameters.push(Parameter {
            name,
            shape,
            layout: Layout::Same,
            initialisation: Initialisation::Alpha,
            id,
            span: None,
        });
    }

    /// `alphas_<kind>` and `betas_<kind>` of two kinds of cells, relaxed edge by edge and node by node, as
    /// PC-DARTS has them; node i has `into[i]` edges.
    fn edge_alphas(&mut self, kinds: [&str; 2], into: &[usize], ops: usize) -> [WeightsId; 2] {
        let edges: usize = into.iter().sum();
        let mut add = |what: &str, shape: Vec<usize>| {
            kinds.map(|kind| {
                let id = self.tape.architecture(shape.iter().product());
                self.note_alpha(format!("{what}_{kind}"), shape.clone(), id);
                id
            })
        };
        let alphas = add("alphas", vec![edges, ops]);
        let betas = add("betas", vec![edges]);
        [0, 1].map(|kind| {
            let both = (alphas[kind], betas[kind]);
            self.tape.edge_relax(both, into, ops)
        })
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
