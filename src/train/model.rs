//! A derived network with its weights and running statistics, on a device.
//!
//! Batch norm keeps running statistics as PyTorch does: after each training batch
//! m ← 0.9·m + 0.1·μ and v ← 0.9·v + 0.1·σ²·n/(n−1), read off the executor after its forward pass.
//! Inference states them to the executor as μ = m and r = 1/√(v + ε).

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

use crate::autograd::{Executor, Mode};
use crate::data::Batch;
use crate::device::Device;
use crate::device::simd::padded;
use crate::network::derived::{Derived, Design, Norm, Recording};
use crate::network::parameters::{Parameter, initial_theta};
use crate::network::state_dict::{
    NamedIntegers, NamedTensor, find_tensor, load_tensors, state_tensors,
};
use crate::ops::{NORM_EPSILON, Outcome};
use crate::space::Genotype;

/// Share of a new batch in the running statistics: PyTorch's default.
const NORM_MOMENTUM: f64 = 0.1;
/// How every tensor of an auxiliary head begins.
pub const AUXILIARY: &str = "auxiliary_head.";

/// A derived network that can be trained and asked.
pub struct Model {
    /// Its layers.
    pub derived: Derived,
    /// Its weights.
    pub theta: Vec<f32>,
    executor: Executor,
    parameters: Vec<Parameter>,
    norms: Vec<Norm>,
    running: Vec<Running>,
    /// Batches that the running statistics have seen.
    pub batches: u64,
}

/// Running statistics of one batch norm.
#[derive(Clone, Debug, PartialEq)]
struct Running {
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Model {
    /// Records the network of `genotype` and draws its weights.
    ///
    /// # Errors
    /// A design that the genotype or the images do not fit; the message names the flag.
    pub fn new(
        genotype: &Genotype,
        design: &Design,
        recording: &Recording,
        device: Device,
        seed: u64,
    ) -> Result<Model> {
        let derived = Derived::new(genotype, design)?;
        let network = derived.record(recording);
        let theta = initial_theta(&network.parameters, seed);
        let start = |norm: &Norm| Running {
            mean: vec![0.0; norm.channels],
            variance: vec![1.0; norm.channels],
        };
        Ok(Model {
            running: network.norms.iter().map(start).collect(),
            derived,
            theta,
            executor: Executor::new(network.tape, device),
            parameters: network.parameters,
            norms: network.norms,
            batches: 0,
        })
    }

    /// Rows of drop-path factors that [`Self::train`] takes.
    pub fn factors(&self) -> usize {
        self.executor.tape().factors
    }

    /// Forward and backward over a training batch: the loss, and its gradient by the weights. Moves
    /// the running statistics. `factors` is `[factors, N]`.
    ///
    /// # Errors
    /// The device's.
    pub fn train(
        &mut self,
        batch: &Batch,
        factors: &[f32],
        gradient: &mut [f32],
    ) -> Result<Outcome> {
        self.executor.load(&batch.images, &batch.labels)?;
        self.executor.set_factors(factors)?;
        let outcome = self.executor.forward(Mode::Gradient, &self.theta)?;
        self.executor.backward(&self.theta, gradient)?;
        self.track()?;
        Ok(outcome)
    }

    fn track(&mut self) -> Result<()> {
        self.batches += 1;
        let mix = |old: &mut f32, new: f64| {
            *old = ((1.0 - NORM_MOMENTUM) * f64::from(*old) + NORM_MOMENTUM * new) as f32;
        };
        for (norm, running) in self.norms.iter().zip(&mut self.running) {
            let Some(z) = norm.z else { continue };
            let statistics = self.executor.statistics(z)?;
            let (means, scales) = statistics.split_at(padded(norm.channels));
            let count = norm.count as f64;
            let unbiased = if norm.count > 1 {
                count / (count - 1.0)
            } else {
                1.0
            };
            for (old, &mean) in running.mean.iter_mut().zip(means) {
                mix(old, f64::from(mean));
            }
            for (old, &r) in running.variance.iter_mut().zip(scales) {
                let variance = (1.0 / f64::from(r).powi(2) - NORM_EPSILON).max(0.0);
                mix(old, variance * unbiased);
            }
        }
        Ok(())
    }

    /// Logits `[N, classes]` of a batch, by the running statistics.
    ///
    /// # Errors
    /// The device's.
    pub fn infer(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.executor.load(&batch.images, &batch.labels)?;
        let live = |norm: &Norm| norm.z;
        let ids: Vec<_> = self.norms.iter().filter_map(live).collect();
        let (len, starts) = self.executor.stated_layout(&ids)?;
        let mut stated = vec![0.0; len];
        let norms = self.norms.iter().zip(&self.running);
        let norms = norms.filter(|(norm, _)| norm.z.is_some());
        for ((norm, running), start) in norms.zip(starts) {
            let part = &mut stated[start..][..2 * padded(norm.channels)];
            let (means, scales) = part.split_at_mut(padded(norm.channels));
            means[..norm.channels].copy_from_slice(&running.mean);
            for (r, &variance) in scales.iter_mut().zip(&running.variance) {
                *r = (1.0 / (f64::from(variance) + NORM_EPSILON).sqrt()) as f32;
            }
        }
        self.executor.infer(&self.theta, &stated)?;
        let mut logits = self.executor.logits()?;
        logits.truncate(self.batch() * self.classes());
        Ok(logits)
    }

    /// Images a batch.
    pub fn batch(&self) -> usize {
        self.executor.tape().graph.batch
    }

    /// Classes.
    pub fn classes(&self) -> usize {
        self.executor.tape().classes
    }

    /// Parameters and running statistics under the official code's names.
    pub fn tensors(&self) -> Vec<NamedTensor> {
        let mut tensors = state_tensors(&self.parameters, &self.theta);
        for (norm, running) in self.norms.iter().zip(&self.running) {
            for (suffix, data) in [
                ("running_mean", &running.mean),
                ("running_var", &running.variance),
            ] {
                tensors.push(NamedTensor {
                    name: format!("{}.{suffix}", norm.name),
                    shape: vec![norm.channels],
                    data: data.clone(),
                });
            }
        }
        tensors
    }

    /// PyTorch's step counters, `num_batches_tracked` of each batch norm.
    pub fn integers(&self) -> Vec<NamedIntegers> {
        let counter = |norm: &Norm| NamedIntegers {
            name: format!("{}.num_batches_tracked", norm.name),
            shape: vec![],
            data: vec![self.batches as i64],
        };
        self.norms.iter().map(counter).collect()
    }

    /// Takes over parameters and running statistics.
    ///
    /// # Errors
    /// Tensors of another network: the message names the first that is missing, has another shape,
    /// or that this network has no place for.
    pub fn load(&mut self, tensors: &[NamedTensor]) -> Result<()> {
        let by_name: HashMap<_, _> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        // In `state_dict` order, so that the first difference is the one nearest the images.
        let expected: Vec<_> = self
            .derived
            .state_dict()
            .filter(|t| !t.name.ends_with(".num_batches_tracked"))
            .collect();
        for tensor in &expected {
            let data = find_tensor(&by_name, &tensor.name, &tensor.shape)?;
            ensure!(
                data.iter().all(|value| value.is_finite()),
                "checkpoint: tensor `{}`: expected finite numbers, found one that is not",
                tensor.name
            );
        }
        let names: std::collections::HashSet<&str> =
            expected.iter().map(|t| t.name.as_str()).collect();
        if let Some(extra) = tensors.iter().find(|t| !names.contains(t.name.as_str())) {
            anyhow::bail!(
                "checkpoint: expected no tensor `{}`, which this network has no place for, found one \
                 of shape {:?}; it belongs to another genotype, --channels, --cells or --auxiliary",
                extra.name,
                extra.shape
            );
        }
        load_tensors(&self.parameters, tensors, &mut self.theta)?;
        for (norm, running) in self.norms.iter().zip(&mut self.running) {
            let find = |suffix: &str| {
                find_tensor(
                    &by_name,
                    &format!("{}.{suffix}", norm.name),
                    &[norm.channels],
                )
                .context("checked above")
            };
            running.mean.copy_from_slice(find("running_mean")?);
            running.variance.copy_from_slice(find("running_var")?);
        }
        Ok(())
    }
}
