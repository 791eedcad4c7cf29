//! `ndarts bench`: the engine's units of work, timed on random images and weights.
//!
//! The work is what it is in a search, by the same code: only loading the data is left out. Images
//! are 32×32 of 10 classes, as CIFAR-10's. A measurement is one warm-up, in which memory is planned
//! and touched, and then the repetitions whose median counts. Peak memory is the process's, so each
//! measurement belongs in a process of its own: what an allocator or a thread keeps from the one
//! before would count otherwise.

use crate::autograd::{Executor, Mode};
use crate::data::Batch;
use crate::device::random::{Philox, Purpose};
use crate::device::{Device, Vector};
use crate::hypergradient::neumann::Gamma;
use crate::hypergradient::{Hypergradient, InnerStep, Neumann, TapeLosses};
use crate::network::Supernet;
use crate::network::parameters::initial_theta;
use crate::ops::update::norm;
use crate::optim::{Evolution, Population, Sgd, evolution};
use crate::search::settings::{Precision, SearchSettings};
use crate::space::Space;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// H and W of the images.
const SIDE: usize = 32;
/// Classes.
const CLASSES: usize = 10;
/// γ of the series: small enough that three terms of random weights stay finite. The work does not
/// depend on it.
const GAMMA: f32 = 1e-3;

/// A unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Weight step: forward, backward, gradient clipped to norm 5, SGD with momentum 0.9 and decay 3e-4.
    Step,
    /// One forward pass and loss in train mode, nothing kept.
    Forward,
    /// Forward, backward and one exact Hessian-vector product over all weights.
    Hvp,
    /// Hypergradient: forward and backward on a validation and on a training batch, K products, one mixed product.
    Hypergrad,
    /// ES generation: n member forwards, the recombination, one forward of ω₀.
    Es,
}

impl What {
    /// All, in the order of their size.
    pub const ALL: [What; 5] = [
        What::Step,
        What::Forward,
        What::Hvp,
        What::Hypergrad,
        What::Es,
    ];

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

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One measurement: a line of `ndarts bench --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The work.
    pub what: What,
    /// Search space.
    pub space: Space,
    /// C
    pub channels: usize,
    /// L, or N of NAS-Bench-201.
    pub cells: usize,
    /// Images a batch.
    pub batch: usize,
    /// Where it ran.
    pub device: String,
    /// Element type of activations.
    pub precision: Precision,
    /// Median of the repetitions, seconds.
    pub median_s: f64,
    /// The fastest, seconds.
    pub min_s: f64,
    /// The slowest, seconds.
    pub max_s: f64,
    /// Most resident memory of the process so far, MiB; none where the system does not tell.
    pub peak_rss_mb: Option<f64>,
}

/// Times `iters` repetitions of `what` on `device` at the sizes of `settings`: space, channels, cells, batch,
/// Neumann terms, population, precision and seed.
///
/// # Errors
/// Sizes that make no network; the message names the flag.
pub fn measure(
    what: What,
    settings: &SearchSettings,
    device: &Device,
    iters: usize,
) -> anyhow::Result<Measurement> {
    let mut seconds = Bench::new(settings, device)?.time(what, iters)?;
    seconds.sort_by(f64::total_cmp);
    Ok(Measurement {
        what,
        space: settings.space,
        channels: settings.channels,
        cells: settings.cells,
        batch: settings.batch,
        device: device.name(),
        precision: settings.precision,
        median_s: median(&seconds),
        min_s: seconds[0],
        max_s: seconds[seconds.len() - 1],
        peak_rss_mb: peak_rss_mb(),
    })
}

/// Of an ascending list.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        0.5 * (sorted[middle - 1] + sorted[middle])
    }
}

/// The kernel's high-water mark of this process's resident memory, MiB.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// The supernet with random weights, and two random batches.
struct Bench<'a> {
    settings: &'a SearchSettings,
    device: Device,
    executor: Executor,
    theta: Vector,
    training: Batch,
    validation: Batch,
}

impl<'a> Bench<'a> {
    fn new(settings: &'a SearchSettings, device: &Device) -> anyhow::Result<Bench<'a>> {
        let s = settings;
        let size = [SIDE, SIDE];
        let supernet = Supernet::record(s.space, s.channels, s.cells, CLASSES, s.batch, size)?;
        Ok(Bench {
            theta: Vector::new(device, initial_theta(&supernet.parameters, s.seed))?,
            executor: Executor::with_precision(supernet.tape, device.clone(), s.precision)?,
            device: device.clone(),
            training: random_batch(s, 0),
            validation: random_batch(s, 1),
            settings,
        })
    }

    /// Seconds of each of `iters` repetitions, after one that is not timed.
    fn time(mut self, what: What, iters: usize) -> anyhow::Result<Vec<f64>> {
        self.executor
            .load(&self.training.images, &self.training.labels)?;
        match what {
            What::Step => self.step(iters),
            What::Forward => timed(iters, || {
                self.executor.forward(Mode::Evaluate, &self.theta)?;
                Ok(())
            }),
            What::Hvp => self.product(iters),
            What::Hypergrad => self.hypergradient(iters),
            What::Es => self.generation(iters),
        }
    }

    fn omega(&self) -> usize {
        self.executor.tape().omega_len
    }

    fn vector(&self) -> anyhow::Result<Vector> {
        Vector::zeros(&self.device, self.theta.len())
    }

    fn step(mut self, iters: usize) -> anyhow::Result<Vec<f64>> {
        let omega = self.omega();
        let mut sgd = Sgd::new(&self.device, omega, 0.9, 3e-4, 5.0)?;
        let mut gradient = self.vector()?;
        let (executor, theta) = (&mut self.executor, &mut self.theta);
        timed(iters, || {
            let outcome = executor.start_forward(Mode::Gradient, &*theta)?;
            executor.backward(&*theta, &mut gradient)?;
            let gradient = gradient.part(0..omega);
            let norm = sgd.step(self.settings.lr, gradient, theta.part_mut(0..omega))?;
            // Waits for a GPU, once as a search does.
            outcome.and(norm).value()?;
            Ok(())
        })
    }

    fn product(mut self, iters: usize) -> anyhow::Result<Vec<f64>> {
        let [mut gradient, mut product] = [self.vector()?, self.vector()?];
        let direction = random_direction(self.settings.seed, self.omega(), self.theta.len());
        let direction = Vector::new(&self.device, direction)?;
        let (executor, theta) = (&mut self.executor, &self.theta);
        timed(iters, || {
            executor.forward(Mode::Products, theta)?;
            executor.backward(theta, &mut gradient)?;
            executor.product(theta, &direction, &mut product)?;
            // Waits for a GPU.
            norm(product.slice())?;
            Ok(())
        })
    }

    fn hypergradient(mut self, iters: usize) -> anyhow::Result<Vec<f64>> {
        let (terms, seed) = (self.settings.neumann_terms, self.settings.seed);
        let mut method = Neumann::new(terms, Gamma::Fixed(GAMMA), false, seed);
        let mut alpha_gradient = Vector::zeros(&self.device, self.theta.len() - self.omega())?;
        let mut losses = TapeLosses {
            executor: &mut self.executor,
            training: &self.training,
            validation: &self.validation,
        };
        timed(iters, || {
            // The implicit method takes no inner step.
            let inner = InnerStep {
                lr: 0.0,
                momentum: 0.0,
                weight_decay: 0.0,
                buffer: (&[]).into(),
            };
            let to = alpha_gradient.slice_mut();
            method.compute(&mut losses, self.theta.slice(), inner, to)?;
            norm(alpha_gradient.slice())?;
            Ok(())
        })
    }

    fn generation(mut self, iters: usize) -> anyhow::Result<Vec<f64>> {
        let settings = self.settings;
        let evolution = Evolution {
            population: settings.population,
            sigma: settings.sigma,
            step: settings.es_step,
            literal: settings.es_literal,
            antithetic: settings.antithetic,
            seed: settings.seed,
        };
        let omega = self.omega();
        let (mut scratch, mut number) = (evolution::Scratch::default(), 0);
        let mut population = Population::default();
        timed(iters, || {
            number += 1;
            let executor = &mut self.executor;
            let Some(theta) = self.theta.host_mut() else {
                let found = population.generation(&evolution, number, executor, &mut self.theta)?;
                return found.map_or(Ok(()), |found| found.value().map(drop));
            };
            let mut failed = None;
            evolution.explore(number, theta, omega, &mut scratch, |theta| {
                match executor.forward(Mode::Evaluate, theta) {
                    Ok(outcome) => outcome.loss,
                    Err(error) => {
                        failed = Some(error);
                        f64::NAN
                    }
                }
            });
            failed.map_or(Ok(()), Err)
        })
    }
}

fn timed(iters: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    work()?;
    let time = |_| {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    };
    (0..iters).map(time).collect()
}

/// Images of N(0, 1) and labels in turn.
fn random_batch(settings: &SearchSettings, stream: u64) -> Batch {
    let mut images = vec![0.0; settings.batch * SIDE * SIDE * 3];
    Philox::new(settings.seed, Purpose::Bench).fill_normal(0, stream, &mut images);
    let labels = (0..settings.batch).map(|i| (i % CLASSES) as u32).collect();
    Batch { images, labels }
}

/// N(0, 1) in ω, zero in α.
fn random_direction(seed: u64, omega: usize, len: usize) -> Vec<f32> {
    let mut direction = vec![0.0; len];
    Philox::new(seed, Purpose::Bench).fill_normal(0, 2, &mut direction[..omega]);
    direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(&[1.0]), 1.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    #[test]
    fn a_measurement_is_a_line_of_the_documented_keys() {
        let measurement = Measurement {
            what: What::Step,
            space: Space::Darts,
            channels: 16,
            cells: 8,
            batch: 64,
            device: "cpu".into(),
            precision: Precision::F32,
            median_s: 0.5,
            min_s: 0.25,
            max_s: 1.5,
            peak_rss_mb: Some(1024.0),
        };
        assert_eq!(
            serde_json::to_string(&measurement).unwrap(),
            r#"{"what":"step","space":"darts","channels":16,"cells":8,"batch":64,"device":"cpu","precision":"f32","median_s":0.5,"min_s":0.25,"max_s":1.5,"peak_rss_mb":1024.0}"#
        );
    }
}
