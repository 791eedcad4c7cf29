//! The supernets, written naively over weights that are looked up by PyTorch's names.
//!
//! A network is one walk that asks a [`Weights`] for each tensor by name and shape. What answers
//! decides what the walk is: [`Draw`] invents the tensors (and so lists them), [`Stored`] returns
//! them as duals along chosen directions.

mod cells;
mod darts;
mod layers;
mod nasbench201;
mod nasnet;

use crate::oracle::derivative::Scalar;
use crate::oracle::draw::uniform;
use crate::oracle::tensor::Tensor;
use num_dual::{Dual64, HyperDual64};
use std::collections::BTreeMap;

/// PyTorch name → (PyTorch shape, values).
pub type Parameters = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// A direction in the space of all parameters; a name that is absent stands for zeros.
pub type Direction = BTreeMap<String, Vec<f64>>;

/// Answers a network's questions for its tensors.
pub trait Weights<T> {
    /// The tensor `name`, whose PyTorch shape must be `shape`.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Vec<T>;
}

/// Which supernet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Space {
    /// The search network of DARTS; `cells` is the number of cells.
    Darts,
    /// `TinyNetworkDarts` of NAS-Bench-201; `cells` is N, cells a stage.
    NasBench201,
    /// The NASNet space in the row of cells of DARTS; `cells` is the number of cells.
    Nasnet,
}

/// A supernet with a batch: a function of weights and α.
#[derive(Clone, Debug)]
pub struct Supernet {
    /// The search space.
    pub space: Space,
    /// C, channels of the first stage.
    pub channels: usize,
    /// Cells (DARTS) or cells a stage (NAS-Bench-201).
    pub cells: usize,
    /// PC-DARTS' K, where that is the supernet; of DARTS only.
    pub partial: Option<usize>,
    /// Whether it is the supernet of sharpDARTS; of DARTS only.
    pub sharp: bool,
    /// Classes of the linear layer.
    pub classes: usize,
    /// `[N, H, W, 3]`
    pub images: Tensor<f64>,
    /// `[N]`
    pub labels: Vec<usize>,
}

impl Supernet {
    /// Loss and logits `[N, classes]`.
    pub fn run<T: Scalar>(&self, weights: &mut impl Weights<T>) -> (T, Vec<T>) {
        match self.space {
            Space::Darts => darts::forward(self, weights),
            Space::NasBench201 => nasbench201::forward(self, weights),
            Space::Nasnet => nasnet::forward(self, weights),
        }
    }

    /// Every parameter of the network, drawn by name with `salt`.
    pub fn draw(&self, salt: &str) -> Parameters {
        let mut draw = Draw {
            salt,
            drawn: Parameters::new(),
        };
        self.run(&mut draw);
        draw.drawn
    }

    /// Loss and logits at `parameters`.
    pub fn value(&self, parameters: &Parameters) -> (f64, Vec<f64>) {
        self.run(&mut Stored {
            parameters,
            lift: |_: &str, _, x| x,
        })
    }

    /// ∇L·u
    pub fn slope(&self, parameters: &Parameters, u: &Direction) -> f64 {
        let lift = |name: &str, i, x| Dual64::new(x, component(u, name, i));
        self.run(&mut Stored { parameters, lift }).0.eps
    }

    /// uᵀ∇²L·v
    pub fn curvature(&self, parameters: &Parameters, u: &Direction, v: &Direction) -> f64 {
        let lift = |name: &str, i, x| {
            HyperDual64::new(x, component(u, name, i), component(v, name, i), 0.0)
        };
        self.run(&mut Stored { parameters, lift }).0.eps1eps2
    }
}

/// A direction with a uniform component for every element of every tensor that `keep` accepts.
pub fn draw_direction(
    parameters: &Parameters,
    salt: &str,
    keep: impl Fn(&str) -> bool,
) -> Direction {
    let kept = parameters.iter().filter(|(name, _)| keep(name));
    kept.map(|(name, (_, data))| (name.clone(), uniform(&format!("{salt}:{name}"), data.len())))
        .collect()
}

/// True for α, false for ω.
pub fn is_architecture(name: &str) -> bool {
    name.starts_with("alphas_") || name.starts_with("betas_") || name == "arch_parameters"
}

fn component(direction: &Direction, name: &str, index: usize) -> f64 {
    direction.get(name).map_or(0.0, |values| values[index])
}

/// Draws each tensor on first sight: convolutions and linear layers uniform with variance
/// 1/fan-in, gains 1 ± 0.2, shifts and biases ± 0.2, α ± 1.
struct Draw<'a> {
    salt: &'a str,
    drawn: Parameters,
}

impl Weights<f64> for Draw<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Vec<f64> {
        let len = shape.iter().product();
        let (centre, spread) = match shape {
            _ if is_architecture(name) => (0.0, 1.0),
            [_] if name.ends_with("weight") => (1.0, 0.2),
            [_] => (0.0, 0.2),
            [_, fan_in @ ..] => (0.0, (3.0 / fan_in.iter().product::<usize>() as f64).sqrt()),
            [] => panic!("{name} has no shape"),
        };
        let draws = uniform(&format!("{}:{name}", self.salt), len);
        let data: Vec<f64> = draws.iter().map(|x| centre + spread * x).collect();
        let twice = self
            .drawn
            .insert(name.to_string(), (shape.to_vec(), data.clone()));
        assert!(twice.is_none(), "the network asked for {name} twice");
        data
    }
}

/// Returns stored tensors, each element through `lift(name, index, value)`.
struct Stored<'a, L> {
    parameters: &'a Parameters,
    lift: L,
}

impl<T, L: Fn(&str, usize, f64) -> T> Weights<T> for Stored<'_, L> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Vec<T> {
        let (stored, data) = self
            .parameters
            .get(name)
            .unwrap_or_else(|| panic!("no parameter is named {name}"));
        assert_eq!(stored, shape, "shape of {name}");
        data.iter()
            .enumerate()
            .map(|(i, &x)| (self.lift)(name, i, x))
            .collect()
    }
}
