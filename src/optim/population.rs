//! A generation of the evolution strategy on a GPU: its members are one batch, and so many launches
//! whatever their number; see [`Evolution`] for what it computes.

use super::evolution::{Choice, Evolution, Generation};
use crate::autograd::Executor;
use crate::device::Vector;
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
    /// moves to the best candidate. Returns the generation and how many images ω had right before it.
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
    ) -> anyhow::Result<Option<(Generation, usize)>> {
        let n = evolution.population;
        let noise = Noise::new(evolution.seed, number, n, evolution.antithetic);
        let recombination = Recombination {
            sigma: evolution.sigma,
            factor: f64::from(evolution.step) / (n as f64 * f64::from(evolution.sigma)),
            literal: evolution.literal,
        };
        let vectors = [&mut self.members, &mut self.recombined];
        let found = executor.generation((&noise, n), recombination, theta, vectors)?;
        Ok(found.map(|(outcomes, kept)| {
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
        }))
    }
}
