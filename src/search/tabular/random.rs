//! Random search (Bergstra & Bengio 2012; without weight sharing, as in Dong & Yang 2020): train
//! cells drawn uniformly, keep the best.

use super::{Spent, TabularStrategy, Trials, random_cell};
use crate::device::random::PhiloxRng;

/// Uniform draws.
pub struct Random;

impl TabularStrategy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn about(&self) -> &'static str {
        "Uniform draws, the best kept (Bergstra & Bengio 2012)"
    }

    fn settings(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    fn search(&self, trials: &mut Trials<'_>, rng: &mut PhiloxRng) -> Result<(), Spent> {
        loop {
            trials.train(random_cell(rng))?;
        }
    }
}
