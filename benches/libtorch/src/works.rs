//! The works of `ndarts bench` in eager libtorch: what a user of PyTorch would write.
//!
//! Second derivatives are double backward, which `tch` gives: the gradient is taken with its own
//! graph, and the gradient of (gradient · v) is H·v. α takes no part where the work does not ask for
//! its derivative, which spares libtorch a little.

use crate::parameters::{Layout, Parameters};
use crate::supernets::{Sizes, logits};
use anyhow::Result;
use std::time::Instant;
use tch::{COptimizer, Device, Kind, Tensor, no_grad};

/// A unit of work; see `ndarts bench --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Weight step.
    Step,
    /// One forward pass and loss.
    Forward,
    /// Forward, backward, one Hessian-vector product.
    Hvp,
    /// Hypergradient with K Neumann terms.
    Hypergrad,
    /// ES generation.
    Es,
}

impl What {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            What::Step => "step",
            What::Forward => "forward",
            What::Hvp => "hvp",
            What::Hypergrad => "hypergrad",
            What::Es => "es",
        }
    }
}

/// Images and labels.
pub struct Batch {
    /// `[N, 3, H, W]`, in a layout.
    pub images: Tensor,
    /// `[N]`
    pub labels: Tensor,
}

/// A supernet and its parameters.
pub struct Network {
    /// Sizes.
    pub sizes: Sizes,
    /// ω and α.
    pub parameters: Parameters,
}

impl Network {
    /// Mean cross entropy of a batch.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape.
    pub fn loss(&self, batch: &Batch) -> Result<Tensor> {
        loss(&self.parameters, self.sizes, batch)
    }

    /// ω, or α.
    pub fn part(&self, alpha: bool) -> Vec<Tensor> {
        let part = self.parameters.part(alpha);
        part.into_iter().map(|(_, tensor)| tensor).collect()
    }
}

fn loss(parameters: &Parameters, sizes: Sizes, batch: &Batch) -> Result<Tensor> {
    let logits = logits(parameters, &batch.images, sizes)?;
    Ok(cross_entropy(&logits, &batch.labels))
}

/// Mean softmax cross entropy.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    logits.log_softmax(-1, None::<Kind>).nll_loss(labels)
}

/// ∂`of`/∂`by`, zero where `of` does not depend on it. `again` keeps the graph, `differentiable`
/// makes one of the result.
pub fn gradient(of: &Tensor, by: &[Tensor], again: bool, differentiable: bool) -> Vec<Tensor> {
    let found = Tensor::run_backward(&[of], by, again, differentiable);
    let found = found.into_iter().zip(by);
    found
        .map(|(g, x)| if g.defined() { g } else { x.zeros_like() })
        .collect()
}

/// Σ g·v over all tensors, as a scalar to differentiate.
pub fn along(gradient: &[Tensor], direction: &[Tensor]) -> Tensor {
    let products = gradient.iter().zip(direction);
    let products: Vec<Tensor> = products.map(|(g, v)| (g * v).sum(None::<Kind>)).collect();
    Tensor::stack(&products, 0).sum(None::<Kind>)
}

/// dα = ∂L2/∂α − γ·(∂²L1/∂α∂ω)·p with K = `terms` Neumann terms.
///
/// # Errors
/// A parameter that is missing or has another shape.
pub fn hypergradient(
    network: &Network,
    training: &Batch,
    validation: &Batch,
    terms: usize,
    gamma: f64,
) -> Result<Vec<Tensor>> {
    let (omega, alpha) = (network.part(false), network.part(true));
    let both: Vec<Tensor> = omega
        .iter()
        .chain(&alpha)
        .map(Tensor::shallow_clone)
        .collect();
    let mut v = gradient(&network.loss(validation)?, &both, false, false);
    let direct = v.split_off(omega.len());
    let first = gradient(&network.loss(training)?, &omega, true, true);
    let mut p: Vec<Tensor> = v.iter().map(Tensor::copy).collect();
    for _ in 0..terms {
        let curved = gradient(&along(&first, &v), &omega, true, false);
        for ((v, p), h) in v.iter_mut().zip(&mut p).zip(curved) {
            *v -= h * gamma;
            *p += &*v;
        }
    }
    let mixed = gradient(&along(&first, &p), &alpha, false, false);
    let pairs = direct.iter().zip(mixed);
    Ok(pairs
        .map(|(direct, mixed)| direct - mixed * gamma)
        .collect())
}

/// One weight step: clip to norm 5, SGD.
fn step(
    network: &Network,
    batch: &Batch,
    omega: &[Tensor],
    optimizer: &mut COptimizer,
) -> Result<()> {
    optimizer.zero_grad()?;
    network.loss(batch)?.backward();
    no_grad(|| -> Result<()> {
        let mut gradients: Vec<Tensor> = omega.iter().map(Tensor::grad).collect();
        let norms: Vec<Tensor> = gradients.iter().map(Tensor::norm).collect();
        let norm = f64::try_from(Tensor::stack(&norms, 0).norm())?;
        let factor = 5.0 / (norm + 1e-6);
        if factor < 1.0 {
            for gradient in &mut gradients {
                let _ = gradient.g_mul_scalar_(factor);
            }
        }
        Ok(())
    })?;
    Ok(optimizer.step()?)
}

/// σ and η of the evolution strategy.
const SIGMA: f64 = 0.01;

/// n member forwards, the recombination, one forward of ω₀.
fn generation(network: &Network, batch: &Batch, population: usize) -> Result<()> {
    let (omega, alpha) = (
        network.parameters.part(false),
        network.parameters.part(true),
    );
    let candidate = |change: &dyn Fn(usize, &Tensor) -> Tensor| {
        let changed = omega.iter().enumerate();
        let changed = changed.map(|(i, (name, w))| (name.clone(), change(i, w)));
        let alpha = alpha
            .iter()
            .map(|(name, a)| (name.clone(), a.shallow_clone()));
        Parameters::stored(changed.chain(alpha).collect())
    };
    let (mut noise, mut losses) = (Vec::new(), Vec::new());
    for _ in 0..population {
        let epsilon: Vec<Tensor> = omega.iter().map(|(_, w)| w.randn_like()).collect();
        let member = candidate(&|i, w| w + &epsilon[i] * SIGMA);
        losses.push(f64::try_from(loss(&member, network.sizes, batch)?)?);
        noise.push(epsilon);
    }
    let mean = losses.iter().sum::<f64>() / population as f64;
    let factor = |member: usize| -(losses[member] - mean) / population as f64;
    let recombined = candidate(&|i, w| {
        let mut moved = w.copy();
        for (member, epsilon) in noise.iter().enumerate() {
            moved += &epsilon[i] * factor(member);
        }
        moved
    });
    f64::try_from(loss(&recombined, network.sizes, batch)?)?;
    Ok(())
}

/// Settings of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The work.
    pub what: What,
    /// Sizes of the supernet.
    pub sizes: Sizes,
    /// Images a batch.
    pub batch: i64,
    /// K
    pub terms: usize,
    /// n
    pub population: usize,
    /// Layout.
    pub layout: Layout,
    /// Where it runs.
    pub device: Device,
}

fn random_batch(setting: Setting) -> Batch {
    let images = Tensor::randn([setting.batch, 3, 32, 32], (Kind::Float, setting.device));
    let labels = Tensor::arange(setting.batch, (Kind::Int64, setting.device));
    Batch {
        images: setting.layout.apply(&images),
        labels: labels.remainder(setting.sizes.classes),
    }
}

/// Seconds of each of `iters` repetitions of a work, after one that is not timed.
///
/// # Errors
/// Sizes that make no network.
pub fn time(setting: Setting, iters: usize) -> Result<Vec<f64>> {
    tch::manual_seed(0);
    let network = Network {
        sizes: setting.sizes,
        parameters: Parameters::drawn(setting.layout, setting.device),
    };
    let (training, validation) = (random_batch(setting), random_batch(setting));
    // Draws the parameters, on the smallest batch that has statistics.
    let _ = no_grad(|| {
        network.loss(&Batch {
            images: training.images.narrow(0, 0, setting.batch.min(2)),
            labels: training.labels.narrow(0, 0, setting.batch.min(2)),
        })
    })?;
    let differentiates_alpha = setting.what == What::Hypergrad;
    for tensor in network.part(true) {
        let _ = tensor.set_requires_grad(differentiates_alpha);
    }
    let omega = network.part(false);
    match setting.what {
        What::Step => {
            let mut optimizer = COptimizer::sgd(0.025, 0.9, 0.0, 3e-4, false)?;
            for tensor in &omega {
                optimizer.add_parameters(tensor, 0)?;
            }
            timed(setting.device, iters, || {
                step(&network, &training, &omega, &mut optimizer)
            })
        }
        What::Forward => timed(setting.device, iters, || {
            f64::try_from(no_grad(|| network.loss(&training))?)?;
            Ok(())
        }),
        What::Hvp => {
            let v: Vec<Tensor> = no_grad(|| omega.iter().map(Tensor::randn_like).collect());
            timed(setting.device, iters, || {
                let first = gradient(&network.loss(&training)?, &omega, true, true);
                gradient(&along(&first, &v), &omega, false, false);
                Ok(())
            })
        }
        What::Hypergrad => timed(setting.device, iters, || {
            hypergradient(&network, &training, &validation, setting.terms, 1e-3)?;
            Ok(())
        }),
        What::Es => timed(setting.device, iters, || {
            no_grad(|| generation(&network, &training, setting.population))
        }),
    }
}

fn timed(device: Device, iters: usize, mut work: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut work = || {
        work()?;
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(i64::try_from(index)?);
        }
        anyhow::Ok(())
    };
    work()?;
    (0..iters)
        .map(|_| {
            let start = Instant::now();
            work()?;
            Result::Ok(start.elapsed().as_secs_f64())
        })
        .collect()
}
