//! The tensors of a network under their `state_dict` names, and the two layouts of memory.

use anyhow::{Context, Result, ensure};
use std::cell::RefCell;
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

/// How 4-dimensional tensors lie in memory; their shape is NCHW in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// PyTorch's default.
    Nchw,
    /// `torch.channels_last`.
    ChannelsLast,
}

impl Layout {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Nchw => "nchw",
            Layout::ChannelsLast => "channels-last",
        }
    }

    /// `tensor` in this layout.
    pub fn apply(self, tensor: &Tensor) -> Tensor {
        if self == Layout::ChannelsLast && tensor.dim() == 4 {
            // A contiguous NHWC tensor seen as NCHW is what channels-last means.
            let nhwc = tensor.permute([0, 2, 3, 1]).contiguous();
            nhwc.permute([0, 3, 1, 2])
        } else {
            tensor.contiguous()
        }
    }
}

/// True for the names of α.
pub fn is_alpha(name: &str) -> bool {
    name.starts_with("alphas_") || name == "arch_parameters"
}

/// Tensors by name, in the order in which the network first asked for them.
pub struct Parameters {
    tensors: RefCell<Vec<(String, Tensor)>>,
    places: RefCell<HashMap<String, usize>>,
    /// Tensors that are asked for and missing are drawn in this layout on this device; else that is an error.
    draws: Option<(Layout, Device)>,
}

impl Parameters {
    /// The given tensors and no others.
    pub fn stored(tensors: Vec<(String, Tensor)>) -> Parameters {
        let names = tensors.iter().enumerate();
        Parameters {
            places: RefCell::new(names.map(|(i, (name, _))| (name.clone(), i)).collect()),
            tensors: RefCell::new(tensors),
            draws: None,
        }
    }

    /// Draws each tensor at random on first sight.
    pub fn drawn(layout: Layout, device: Device) -> Parameters {
        Parameters {
            draws: Some((layout, device)),
            ..Parameters::stored(Vec::new())
        }
    }

    /// The tensor `name`, which must have `shape`.
    ///
    /// # Errors
    /// A missing tensor, or one of another shape.
    pub fn get(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let place = self.places.borrow().get(name).copied();
        let Some(place) = place else {
            let (layout, device) = self.draws.with_context(|| {
                format!("the network needs a tensor `{name}` of shape {shape:?}, found none")
            })?;
            let drawn = draw(name, shape).to_device(device);
            let tensor = layout.apply(&drawn).set_requires_grad(true);
            let mut tensors = self.tensors.borrow_mut();
            self.places.borrow_mut().insert(name.into(), tensors.len());
            tensors.push((name.into(), tensor.shallow_clone()));
            return Ok(tensor);
        };
        let tensor = self.tensors.borrow()[place].1.shallow_clone();
        ensure!(
            tensor.size() == shape,
            "`{name}`: expected shape {shape:?}, found {:?}",
            tensor.size()
        );
        Ok(tensor)
    }

    /// Names and tensors of ω, or of α.
    pub fn part(&self, alpha: bool) -> Vec<(String, Tensor)> {
        let tensors = self.tensors.borrow();
        let part = tensors.iter().filter(|(name, _)| is_alpha(name) == alpha);
        part.map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect()
    }
}

/// He's normal for weights, around one or zero for γ and β, small α: all finite through the network.
fn draw(name: &str, shape: &[i64]) -> Tensor {
    let normal = Tensor::randn(shape, (Kind::Float, Device::Cpu));
    if is_alpha(name) {
        return normal * 1e-3;
    }
    match shape {
        [_] if name.ends_with("weight") => normal * 0.1 + 1.0,
        [_] => normal * 0.1,
        [_, inputs @ ..] => normal * (2.0 / inputs.iter().product::<i64>() as f64).sqrt(),
        [] => normal,
    }
}
