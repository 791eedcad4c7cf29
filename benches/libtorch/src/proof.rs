//! Proof that libtorch and `ndarts` compute the same: everything in an `ndarts probe` file, again.
//!
//! A probe file holds weights, batches and what the engine made of them in float32. Here libtorch
//! makes it anew from the same weights and batches: in float64, which is the truth, in both layouts, so
//! that all three programs are seen to compute one function; and in float32 in both layouts, which shows
//! what error is float32's own. That one is not judged: libtorch's channels-last kernels are off by up
//! to a per cent in a gradient on small batches.

use crate::parameters::{Layout, Parameters};
use crate::supernets::{Sizes, Space, logits};
use crate::works::{Batch, Network, along, cross_entropy, gradient, hypergradient};
use anyhow::{Context, Result, ensure};
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::Path;
use tch::{Kind, Tensor};

/// Most that the engine may differ from float64, norm-wise over all tensors of a quantity. Agreement is
/// far better where no sum lies near a kink of a relu or a tie of a maximum.
const TOLERANCE: f64 = 1e-2;
/// Most that the layouts may differ from each other in float64.
const TOLERANCE_FLOAT64: f64 = 1e-7;

/// A probe file.
struct Probe {
    sizes: Sizes,
    terms: usize,
    gamma: f64,
    tensors: HashMap<String, Tensor>,
    /// Names of ω and of α, in the file's order.
    names: [Vec<String>; 2],
}

impl Probe {
    fn read(path: &Path) -> Result<Probe> {
        let bytes = std::fs::read(path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let word = |key: &str| {
            let word = metadata.get(key);
            word.with_context(|| {
                format!("expected metadata `{key}` as `ndarts probe` writes it, found none")
            })
        };
        let whole = |key: &str| -> Result<i64> {
            let text = word(key)?;
            text.parse().with_context(|| {
                format!("metadata `{key}`: expected a whole number, found `{text}`")
            })
        };
        let space = word("space")?;
        let space =
            <Space as clap::ValueEnum>::from_str(space, false).map_err(anyhow::Error::msg)?;
        let tensors = Tensor::read_safetensors(path)?;
        let names = ["weights.", "arch."].map(|prefix| {
            let names = tensors
                .iter()
                .filter_map(|(name, _)| name.strip_prefix(prefix));
            names.map(String::from).collect()
        });
        Ok(Probe {
            sizes: Sizes {
                space,
                channels: whole("channels")?,
                cells: whole("cells")?,
                classes: whole("classes")?,
            },
            terms: usize::try_from(whole("neumann_terms")?)?,
            gamma: word("gamma")?
                .parse()
                .context("metadata `gamma`: expected a number")?,
            tensors: tensors.into_iter().collect(),
            names,
        })
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        let tensor = self.tensors.get(name);
        tensor.with_context(|| format!("expected a tensor `{name}`, found none"))
    }

    /// The tensors `<prefix>.<name>` of ω or α.
    fn all(&self, prefix: &str, alpha: bool) -> Result<Vec<Tensor>> {
        let names = self.names[usize::from(alpha)].iter();
        names
            .map(|name| Ok(self.tensor(&format!("{prefix}.{name}"))?.shallow_clone()))
            .collect()
    }

    fn network(&self, layout: Layout, kind: Kind) -> Result<Network> {
        let mut tensors = Vec::new();
        for (alpha, prefix) in [(false, "weights"), (true, "arch")] {
            let names = self.names[usize::from(alpha)].iter();
            for (name, tensor) in names.zip(self.all(prefix, alpha)?) {
                let tensor = layout.apply(&tensor.to_kind(kind)).set_requires_grad(true);
                tensors.push((name.clone(), tensor));
            }
        }
        Ok(Network {
            sizes: self.sizes,
            parameters: Parameters::stored(tensors),
        })
    }

    fn batch(&self, part: &str, layout: Layout, kind: Kind) -> Result<Batch> {
        let images = self.tensor(&format!("input_{part}"))?.to_kind(kind);
        Ok(Batch {
            images: layout.apply(&images),
            labels: self.tensor(&format!("target_{part}"))?.shallow_clone(),
        })
    }

    /// The file's own tensors of a quantity.
    fn quantity(&self, name: &str) -> Result<Vec<Tensor>> {
        match name {
            "loss_train" | "loss_val" | "logits_train" => {
                Ok(vec![self.tensor(name)?.shallow_clone()])
            }
            _ => self.all(
                name,
                name.ends_with("_arch") || name == "mixed" || name == "hypergrad",
            ),
        }
    }
}

/// Name and tensors of each quantity.
type Quantities = Vec<(&'static str, Vec<Tensor>)>;

fn recompute(probe: &Probe, layout: Layout, kind: Kind) -> Result<Quantities> {
    let network = probe.network(layout, kind)?;
    let training = probe.batch("train", layout, kind)?;
    let validation = probe.batch("val", layout, kind)?;
    let (omega, alpha) = (network.part(false), network.part(true));
    let both: Vec<Tensor> = omega
        .iter()
        .chain(&alpha)
        .map(Tensor::shallow_clone)
        .collect();
    let loss_val = network.loss(&validation)?;
    let mut grad_val = gradient(&loss_val, &both, false, false);
    let grad_val_arch = grad_val.split_off(omega.len());
    let logits = logits(&network.parameters, &training.images, probe.sizes)?;
    let loss = cross_entropy(&logits, &training.labels);
    let mut grad = gradient(&loss, &both, true, true);
    let vector = probe.all("vector", false)?;
    let vector: Vec<Tensor> = vector.iter().map(|v| v.to_kind(kind)).collect();
    let mut hvp = gradient(&along(&grad[..omega.len()], &vector), &both, false, false);
    let mixed = hvp.split_off(omega.len());
    let grad_arch = grad.split_off(omega.len());
    let detached = |tensors: &[Tensor]| tensors.iter().map(Tensor::detach).collect();
    let (grad, grad_arch): (Vec<_>, Vec<_>) = (detached(&grad), detached(&grad_arch));
    let hypergrad = hypergradient(&network, &training, &validation, probe.terms, probe.gamma)?;
    Ok(vec![
        ("loss_train", vec![loss.detach()]),
        ("loss_val", vec![loss_val.detach()]),
        ("logits_train", vec![logits.detach()]),
        ("grad", grad),
        ("grad_arch", grad_arch),
        ("grad_val", grad_val),
        ("grad_val_arch", grad_val_arch),
        ("hvp", hvp),
        ("mixed", mixed),
        ("hypergrad", hypergrad),
    ])
}

fn norm(tensors: &[Tensor]) -> Result<f64> {
    let mut squares = 0.0;
    for tensor in tensors {
        squares += f64::try_from(tensor.to_kind(Kind::Double).square().sum(None::<Kind>))?;
    }
    Ok(squares.sqrt())
}

/// ‖found − truth‖ / ‖truth‖ over all tensors together.
fn error(found: &[Tensor], truth: &[Tensor]) -> Result<f64> {
    ensure!(found.len() == truth.len(), "tensors of one network");
    let pairs = found.iter().zip(truth);
    let difference: Vec<Tensor> = pairs.map(|(a, b)| a.reshape(b.size()) - b).collect();
    Ok(norm(&difference)? / norm(truth)?.max(f64::MIN_POSITIVE))
}

/// Recomputes a probe file and prints, for each quantity, its norm by both programs and the errors
/// against float64 in NCHW.
///
/// # Errors
/// A file that `ndarts probe` did not write, or programs that differ.
pub fn prove(path: &Path) -> Result<()> {
    let probe = Probe::read(path)?;
    let sizes = probe.sizes;
    println!(
        "{}: C = {}, {} cells, images {:?}, K = {}; errors against float64, norm-wise",
        sizes.space.name(),
        sizes.channels,
        sizes.cells,
        probe.tensor("input_train")?.size(),
        probe.terms
    );
    println!(
        "{:<14} {:>12} {:>12} | {:>8} {:>14} | {:>9} {:>18}",
        "norm of",
        "libtorch f64",
        "ndarts",
        "ndarts",
        "ch.-last f64",
        "NCHW f32",
        "channels-last f32"
    );
    let truth = recompute(&probe, Layout::Nchw, Kind::Double)?;
    let float64 = recompute(&probe, Layout::ChannelsLast, Kind::Double)?;
    let nchw = recompute(&probe, Layout::Nchw, Kind::Float)?;
    let channels_last = recompute(&probe, Layout::ChannelsLast, Kind::Float)?;
    let (mut engine, mut layouts) = (Worst(0.0), Worst(0.0));
    for (i, (name, truth)) in truth.iter().enumerate() {
        let ours = probe.quantity(name)?;
        println!(
            "{name:<14} {:>12.6} {:>12.6} | {:>8.1e} {:>14.1e} | {:>9.1e} {:>18.1e}",
            norm(truth)?,
            norm(&ours)?,
            engine.see(error(&ours, truth)?),
            layouts.see(error(&float64[i].1, truth)?),
            error(&nchw[i].1, truth)?,
            error(&channels_last[i].1, truth)?
        );
    }
    println!();
    for (what, Worst(worst), most) in [
        ("ndarts to agree with float64", engine, TOLERANCE),
        (
            "both layouts to agree in float64",
            layouts,
            TOLERANCE_FLOAT64,
        ),
    ] {
        ensure!(
            worst <= most,
            "expected {what} to {most:e} norm-wise, found an error of {worst:.1e}"
        );
    }
    Ok(())
}

/// The largest error seen; one that is no number is no agreement.
struct Worst(f64);

impl Worst {
    fn see(&mut self, error: f64) -> f64 {
        self.0 = if error.is_nan() {
            f64::INFINITY
        } else {
            self.0.max(error)
        };
        error
    }
}
