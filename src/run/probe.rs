//! `ndarts probe`: one hypergradient and everything that goes into it, in one safetensors file.
//!
//! Anyone can recompute it from the file alone: batches (NCHW), weights and α, both losses with
//! their gradients, one Hessian-vector and mixed product for a random vector, and the hypergradient
//! with K Neumann terms. Names and shapes are PyTorch's. Unlike in a search, the series is never cut
//! short here: the file holds exactly the formula's K terms.

use crate::autograd::Executor;
use crate::data::{Batch, Stream};
use crate::device::random::{Philox, Purpose};
use crate::device::{Device, Vector};
use crate::hypergradient::{Hypergradient, InnerStep, Level, Losses, Neumann, Report, TapeLosses};
use crate::network::parameters::{Parameter, initial_theta};
use crate::network::state_dict::{NamedIntegers, NamedTensor, encode, read};
use crate::search::load_tensors;
use crate::search::settings::SearchSettings;
use crate::search::setup::Setup;
use anyhow::Context;
use std::path::Path;

/// Computes one hypergradient under `settings` on `device`, with weights from `checkpoint` or drawn by the
/// seed, and writes it to `out`; returns the series' report.
///
/// # Errors
/// Data or a checkpoint that cannot be read or does not fit, or a file that cannot be written.
pub fn run(
    settings: SearchSettings,
    device: Device,
    checkpoint: Option<&Path>,
    out: &Path,
) -> anyhow::Result<Report> {
    let s = &settings;
    let setup = Setup::new(s)?;
    let training = setup.loader(Stream::ArchTrain).batch(0).clone();
    let validation = setup.loader(Stream::Validation).batch(0).clone();
    let (size, classes) = (setup.data.train.size(), setup.data.classes.len());
    let supernet = setup.supernet;
    let mut theta = initial_theta(&supernet.parameters, s.seed);
    if let Some(path) = checkpoint {
        let state = read(path)?;
        load_tensors(&supernet.parameters, &state.tensors, &mut theta)
            .with_context(|| format!("{}", path.display()))?;
    }
    let mut probe = Probe {
        executor: Executor::with_precision(supernet.tape, device.clone(), s.precision)?,
        device,
        parameters: supernet.parameters,
        theta,
        tensors: Vec::new(),
    };
    probe.add_batches(&training, &validation, size);
    let report = probe.fill(&training, &validation, s)?;
    let gamma = report.gamma.unwrap_or_default() as f32;
    let metadata = [
        ("space", s.space.name().to_owned()),
        ("channels", s.channels.to_string()),
        ("cells", s.cells.to_string()),
        ("classes", classes.to_string()),
        ("neumann_terms", s.neumann_terms.to_string()),
        ("gamma", gamma.to_string()),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let labels = |name: &str, batch: &Batch| NamedIntegers {
        name: name.to_owned(),
        shape: vec![batch.labels.len()],
        data: batch.labels.iter().map(|&l| i64::from(l)).collect(),
    };
    let integers = [
        labels("target_train", &training),
        labels("target_val", &validation),
    ];
    super::atomic::write(out, &encode(&probe.tensors, &integers, &metadata)?)?;
    Ok(report)
}

struct Probe {
    device: Device,
    executor: Executor,
    parameters: Vec<Parameter>,
    theta: Vec<f32>,
    tensors: Vec<NamedTensor>,
}

/// Which parameters of a vector laid out like θ to write.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Omega,
    Alpha,
}

impl Probe {
    fn add(&mut self, name: &str, shape: Vec<usize>, data: Vec<f32>) {
        self.tensors.push(NamedTensor {
            name: name.to_owned(),
            shape,
            data,
        });
    }

    fn add_batches(&mut self, training: &Batch, validation: &Batch, [h, w]: [usize; 2]) {
        for (name, batch) in [("input_train", training), ("input_val", validation)] {
            let images = batch.images.chunks_exact(h * w * 3);
            let planes = images.flat_map(|image| {
                (0..3).flat_map(move |c| image.iter().skip(c).step_by(3).copied())
            });
            self.add(name, vec![batch.labels.len(), 3, h, w], planes.collect());
        }
    }

    /// Writes a vector's tensors as `<prefix>.<name>`.
    fn add_vector(&mut self, prefix: &str, part: Part, vector: &[f32]) {
        let alpha = part == Part::Alpha;
        let named = self
            .parameters
            .iter()
            .filter(|p| p.is_alpha() == alpha)
            .map(|p| NamedTensor {
                name: format!("{prefix}.{}", p.name),
                shape: p.shape.clone(),
                data: p.to_torch(vector),
            });
        self.tensors.extend(named);
    }

    fn fill(
        &mut self,
        training: &Batch,
        validation: &Batch,
        settings: &SearchSettings,
    ) -> anyhow::Result<Report> {
        let device = self.device.clone();
        let drawn = self.theta.clone();
        let (omega, len) = (self.executor.tape().omega_len, drawn.len());
        let classes = self.executor.tape().classes;
        self.add_vector("weights", Part::Omega, &drawn);
        self.add_vector("arch", Part::Alpha, &drawn);
        let theta = Vector::new(&device, drawn)?;
        let theta = theta.slice();
        let mut gradient = Vector::zeros(&device, len)?;
        let mut losses = TapeLosses {
            executor: &mut self.executor,
            training,
            validation,
        };
        let loss_val = losses
            .gradient(Level::Validation, theta, gradient.slice_mut())?
            .value()?;
        self.add("loss_val", vec![], vec![loss_val.loss as f32]);
        let on_host = gradient.slice().to_vec()?;
        self.add_vector("grad_val", Part::Omega, &on_host);
        self.add_vector("grad_val_arch", Part::Alpha, &on_host);

        let mut losses = TapeLosses {
            executor: &mut self.executor,
            training,
            validation,
        };
        let loss_train = losses.linearise(theta, gradient.slice_mut())?;
        let loss_train = loss_train.value()?.loss;
        let philox = Philox::new(settings.seed, Purpose::ProbeVector);
        let mut vector = vec![0.0; len];
        philox.fill_normal(0, 0, &mut vector[..omega]);
        let direction = Vector::new(&device, vector.clone())?;
        let mut product = Vector::zeros(&device, len)?;
        losses.product(theta, direction.slice(), product.slice_mut())?;
        let logits = self.executor.logits()?;
        self.add("loss_train", vec![], vec![loss_train as f32]);
        self.add("logits_train", vec![training.labels.len(), classes], logits);
        let (gradient, product) = (gradient.slice().to_vec()?, product.slice().to_vec()?);
        self.add_vector("grad", Part::Omega, &gradient);
        self.add_vector("grad_arch", Part::Alpha, &gradient);
        self.add_vector("vector", Part::Omega, &vector);
        self.add_vector("hvp", Part::Omega, &product);
        self.add_vector("mixed", Part::Alpha, &product);

        let (terms, gamma) = (settings.neumann_terms, settings.gamma);
        let mut neumann = Neumann::new(terms, gamma, false, settings.seed);
        let mut losses = TapeLosses {
            executor: &mut self.executor,
            training,
            validation,
        };
        // The implicit method takes no inner step.
        let nothing = Vector::empty();
        let inner = InnerStep {
            lr: 0.0,
            momentum: 0.0,
            weight_decay: 0.0,
            buffer: nothing.slice(),
        };
        let mut alpha_gradient = Vector::zeros(&device, len - omega)?;
        let report = neumann.compute(&mut losses, theta, inner, alpha_gradient.slice_mut())?;
        let mut hypergradient = vec![0.0; len];
        hypergradient[omega..].copy_from_slice(&alpha_gradient.slice().to_vec()?);
        self.add_vector("hypergrad", Part::Alpha, &hypergradient);
        report.value()
    }
}
