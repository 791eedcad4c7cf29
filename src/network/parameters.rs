//! The parameters of a network: names and shapes of the reference PyTorch code, layouts in θ, and
//! initial values.

use crate::device::random::{Philox, Purpose, uniform};
use crate::ops::{ParameterId, Span};

/// How a PyTorch tensor lies in θ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In the same order.
    Same,
    /// `[Cout, Cin, k, k]` as `[k, k, Cin, Cout]`; `[C, 1, k, k]` as `[k, k, C]`.
    Conv,
    /// `[classes, F]` as `[F, classes]`.
    Linear,
}

/// Distribution of a parameter's initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialisation {
    /// U(−bound, bound)
    Uniform {
        /// bound
        bound: f32,
    },
    /// The same value everywhere.
    Constant(f32),
    /// 10⁻³·N(0, 1), as DARTS and NAS-Bench-201 start α.
    Alpha,
}

/// One tensor of θ.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name in the reference `state_dict`.
    pub name: String,
    /// Its PyTorch shape.
    pub shape: Vec<usize>,
    /// How it lies in θ.
    pub layout: Layout,
    /// Its initial values.
    pub initialisation: Initialisation,
    /// Its number on the tape.
    pub id: ParameterId,
    pub(super) span: Option<Span>,
}

impl Parameter {
    /// Where it lies in θ.
    pub fn span(&self) -> Span {
        self.span.expect("set when recording finishes")
    }

    /// True for α.
    pub fn is_alpha(&self) -> bool {
        self.initialisation == Initialisation::Alpha
    }

    /// The index in PyTorch order of each element in θ order.
    fn order(&self) -> Vec<usize> {
        let len = self.shape.iter().product();
        match (self.layout, self.shape.as_slice()) {
            (Layout::Conv, &[cout, cin, kh, kw]) => {
                let mut order = Vec::with_capacity(len);
                for tap in 0..kh * kw {
                    for i in 0..cin {
                        order.extend((0..cout).map(|o| (o * cin + i) * kh * kw + tap));
                    }
                }
                order
            }
            (Layout::Linear, &[rows, columns]) => (0..columns)
                .flat_map(|c| (0..rows).map(move |r| r * columns + c))
                .collect(),
            _ => (0..len).collect(),
        }
    }

    /// Reads the tensor out of a vector laid out like θ, in PyTorch order.
    pub fn to_torch(&self, theta: &[f32]) -> Vec<f32> {
        let span = self.span();
        let mut out = vec![0.0; span.len];
        let part = &theta[span.offset..span.offset + span.len];
        for (&value, at) in part.iter().zip(self.order()) {
            out[at] = value;
        }
        out
    }

    /// Writes a tensor in PyTorch order into a vector laid out like θ.
    pub fn from_torch(&self, tensor: &[f32], theta: &mut [f32]) {
        let span = self.span();
        let part = &mut theta[span.offset..span.offset + span.len];
        for (value, at) in part.iter_mut().zip(self.order()) {
            *value = tensor[at];
        }
    }
}

/// θ at the start: each parameter drawn by itself, indexed by its element's place in θ.
pub fn initial_theta(parameters: &[Parameter], seed: u64) -> Vec<f32> {
    initial_theta_of_stage(parameters, seed, 0)
}

/// As [`initial_theta`], drawn anew for each stage of a search that has several.
pub fn initial_theta_of_stage(parameters: &[Parameter], seed: u64, stage: u64) -> Vec<f32> {
    let len = parameters
        .iter()
        .map(|p| p.span().offset + p.span().len)
        .max()
        .unwrap_or(0);
    let mut theta = vec![0.0; len];
    let weights = Philox::new(seed, Purpose::WeightInit);
    let arch = Philox::new(seed, Purpose::ArchInit);
    for parameter in parameters {
        let span = parameter.span();
        for (i, value) in theta[span.offset..span.offset + span.len]
            .iter_mut()
            .enumerate()
        {
            let element = (span.offset + i) as u64;
            let (block, lane) = (element / 4, (element % 4) as usize);
            *value = match parameter.initialisation {
                Initialisation::Uniform { bound } => {
                    bound * (2.0 * uniform(weights.block(block, stage)[lane]) - 1.0)
                }
                Initialisation::Constant(constant) => constant,
                Initialisation::Alpha => 1e-3 * arch.normal4(block, stage)[lane],
            };
        }
    }
    theta
}
