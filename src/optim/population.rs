//! A generation of the evolution strategy on a GPU: its members are one batch, and so many launches
//! whatever their number; see [`Evolution`] for what it computes.

use super::evolution::{Choice, Evolution, Generation};
use crate::autograd::{Candidates, Executor};
use crate::device::{Later, Vector};
use crate::ops::perturb::Noise;
use crate::ops::perturb::cuda::Recombination;

/// The vectors of a population, allocated when the first generation runs.
pub struct Population {
    members: Vector,
    recombined: Vector,
}

impl Default for Population {
    fn default() -> Population {
        Population {
            members: Vector::empty(),
            recombined: Vector::empty(),
        }
    }
}

impl Population {
    /// Runs generation number `number` of `evolution` on the batch that `executor` has loaded; ω of `theta`
    /// moves to the best candidate. Gives the generation and how many images ω had right before it.
    /// None on the CPU, where candidates take turns ([`Evolution::generation`]).
    ///
    /// # Errors
    /// The device's.
    pub fn generation(
        &mut self,
        evolution: &Evolution,
        number: u64,
        executor: &mut Executor,
        theta: &mut Vector,
    ) -> anyhow::Result<Option<Later<(Generation, usize)>>> {
        let n = evolution.population;
        let noise = Noise::new(evolution.seed, number, n, evolution.antithetic);
        let recombination = Recombination {
            sigma: evolution.sigma,
            factor: f64::from(evolution.step) / (n as f64 * f64::from(evolution.sigma)),
            literal: evolution.literal,
        };
        let vectors = [&mut self.members, &mut self.recombined];
        let found = executor.generation((&noise, n), recombination, theta, vectors)?;
        let chosen = move |Candidates { outcomes, kept }| {
            let generation = Generation {
                choice: match kept {
                    0 => Choice::Current,
                    _ if kept > n => Choice::Recombined,
                    _ => Choice::Member(kept - 1),
                },
                loss: outcomes[kept].loss,
                loss_before: outcomes[0].loss,
            };
            (generation, outcomes[0].top1)
        };
        Ok(found.map(|found| found.map(chosen)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::evolution::Scratch;
    use super::*;
    use crate::autograd::Mode;
    use crate::device::Device;
    use crate::network::Supernet;
    use crate::network::parameters::initial_theta;
    use crate::space::Space;

    #[test]
    fn a_generation_on_the_device_chooses_as_the_cpu_does() {
        let Some(gpu) = crate::device::cuda::for_tests() else {
            return;
        };
        for (space, cells) in [(Space::Darts, 3), (Space::NasBench201, 1)] {
            let images: Vec<f32> = (0..3 * 64 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
            let start = |device: Device| {
                let supernet = Supernet::record(space, 4, cells, 5, 3, [8, 8]).unwrap();
                let theta = initial_theta(&supernet.parameters, 1);
                let mut executor = Executor::new(supernet.tape, device);
                executor.load(&images, &[0, 3, 4]).unwrap();
                (executor, theta)
            };
            let evolution = Evolution {
                population: 3,
                sigma: 0.01,
                step: 0.01,
                literal: false,
                antithetic: true,
                seed: 2,
            };
            let (mut cpu, mut host) = start(Device::Cpu);
            let omega = cpu.tape().omega_len;
            let device = Device::Cuda(gpu.clone());
            let (mut executor, theta) = start(device.clone());
            let mut theta = Vector::new(&device, theta).unwrap();
            let mut population = Population::default();
            for number in 0..2 {
                let loss = |theta: &[f32]| cpu.forward(Mode::Evaluate, theta).unwrap().loss;
                let mut scratch = Scratch::default();
                let expected = evolution.generation(number, &mut host, omega, &mut scratch, loss);
                let found = population.generation(&evolution, number, &mut executor, &mut theta);
                let found = found.unwrap().expect("a GPU evaluates a population");
                let (found, _) = found.value().unwrap();
                assert_eq!(found.choice, expected.choice);
                assert!((found.loss / expected.loss - 1.0).abs() < 1e-5);
                let theta = theta.slice().to_vec().unwrap();
                for (found, expected) in theta.iter().zip(&host) {
                    assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
                }
            }
        }
    }
}
