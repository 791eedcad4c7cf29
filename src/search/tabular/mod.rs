//! Searches straight against a NAS-Bench-201 table: no weights, no images, thousands of runs a minute.
//!
//! The published comparison (Dong & Yang 2020, section 5) gives every strategy the same simulated
//! budget. Training a cell for 12 epochs is a look at the table that costs what the training would
//! have cost; its validation accuracy is all that a strategy sees. When the budget is spent, the
//! cell with the best validation accuracy is the answer, and its test accuracy after 200 epochs,
//! never seen by the search, is the result. One run says little, so hundreds are made.
//!
//! [`Benchmark`] is the table with its three columns picked out, [`Trials`] what a strategy may do
//! with it under a [`Budget`], and [`run`] makes the runs. A strategy is a file of its own and a
//! line in [`STRATEGIES`].

mod benchmark;
mod evolution;
mod pnas;
mod random;
pub(super) mod reinforce;

use rand::RngExt;
use rayon::prelude::*;

use crate::device::random::{Philox, PhiloxRng, Purpose};
use crate::space::{Nb201Genotype, Nb201Op};

pub use benchmark::{Benchmark, ColumnNames, Columns, Measured};
pub use evolution::Evolution;
pub use pnas::Pnas;
pub use random::Random;
pub use reinforce::Reinforce;

/// A way to search a table.
pub trait TabularStrategy: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// One line for `--help`: what it does and whose it is.
    fn about(&self) -> &'static str;

    /// Its own settings by name, for the record of a run.
    fn settings(&self) -> Vec<(&'static str, f64)>;

    /// One search: trains cells until the budget is spent, or until it has nothing left to try.
    ///
    /// # Errors
    /// [`Spent`], passed on from [`Trials::train`]: the usual end of a search.
    fn search(&self, trials: &mut Trials<'_>, rng: &mut PhiloxRng) -> Result<(), Spent>;
}

/// Every strategy, with its published settings, in the order of `--help`.
pub static STRATEGIES: [&dyn TabularStrategy; 4] = [
    &Random,
    &Evolution::PUBLISHED,
    &Reinforce::PUBLISHED,
    &Pnas::PUBLISHED,
];

/// The strategy of a name.
pub fn strategy(name: &str) -> Option<&'static dyn TabularStrategy> {
    STRATEGIES.into_iter().find(|known| known.name() == name)
}

/// What a search may spend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Cells trained; training one twice counts twice.
    Trainings(usize),
    /// Simulated seconds, by the table's own column of training times.
    Seconds(f64),
}

/// The budget does not pay for another training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent;

/// A cell that was trained, and the validation accuracy that the search saw, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// The cell.
    pub cell: Nb201Genotype,
    /// Its validation accuracy.
    pub reward: f64,
}

/// The trainings of one search: what was spent, what was seen.
pub struct Trials<'a> {
    benchmark: &'a Benchmark,
    budget: Budget,
    seconds: f64,
    history: Vec<Trial>,
}

impl<'a> Trials<'a> {
    /// A search that has not begun.
    pub fn new(benchmark: &'a Benchmark, budget: Budget) -> Self {
        Trials {
            benchmark,
            budget,
            seconds: 0.0,
            history: Vec::new(),
        }
    }

    /// Trains `cell` for 12 simulated epochs and returns its validation accuracy in percent.
    ///
    /// # Errors
    /// [`Spent`] where the budget does not pay for this training; it then did not happen.
    pub fn train(&mut self, cell: Nb201Genotype) -> Result<f64, Spent> {
        let measured = self.benchmark.measured(&cell);
        let seconds = self.seconds + measured.seconds;
        let affordable = match self.budget {
            Budget::Trainings(most) => self.history.len() < most,
            Budget::Seconds(most) => seconds <= most,
        };
        if !affordable {
            return Err(Spent);
        }
        self.seconds = seconds;
        let reward = measured.reward;
        self.history.push(Trial { cell, reward });
        Ok(reward)
    }

    /// The part of the budget that is spent, 0..1.
    pub fn spent(&self) -> f64 {
        match self.budget {
            Budget::Trainings(most) => self.history.len() as f64 / most.max(1) as f64,
            Budget::Seconds(most) => self.seconds / most,
        }
    }

    /// Every training so far, in order.
    pub fn history(&self) -> &[Trial] {
        &self.history
    }

    /// The training with the best validation accuracy, the first of equals.
    pub fn best(&self) -> Option<Trial> {
        let better = |best: Trial, next: &Trial| {
            if next.reward > best.reward {
                *next
            } else {
                best
            }
        };
        let (first, rest) = self.history.split_first()?;
        Some(rest.iter().fold(*first, better))
    }
}

/// What one search ended with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The cell of best validation accuracy.
    pub cell: Nb201Genotype,
    /// Its validation accuracy after 12 epochs, percent.
    pub reward: f64,
    /// Its test accuracy, percent.
    pub test: f64,
    /// Cells trained.
    pub trainings: usize,
    /// Simulated seconds spent; none where the table has no such column.
    pub seconds: Option<f64>,
}

/// Makes `runs` searches, each with a random stream of its own under `seed`, on all threads. The
/// same seed gives the same answers at any number of threads.
///
/// # Panics
/// Where `budget` does not pay for a single training; [`Benchmark::check_budget`] says so before.
pub fn run(
    strategy: &dyn TabularStrategy,
    benchmark: &Benchmark,
    budget: Budget,
    runs: usize,
    seed: u64,
) -> Vec<Found> {
    let philox = Philox::new(seed, Purpose::TabularSearch);
    let search = |run: usize| {
        let mut trials = Trials::new(benchmark, budget);
        // Both ends are good ones: nothing left to spend, nothing left to try.
        let (Ok(()) | Err(Spent)) = strategy.search(&mut trials, &mut philox.rng(run as u64));
        let best = trials
            .best()
            .expect("the budget was checked to pay for one training");
        Found {
            cell: best.cell,
            reward: best.reward,
            test: benchmark.measured(&best.cell).test,
            trainings: trials.history.len(),
            seconds: benchmark
                .columns()
                .seconds
                .is_some()
                .then_some(trials.seconds),
        }
    };
    (0..runs).into_par_iter().map(search).collect()
}

/// A cell drawn uniformly from all 15,625 spellings, as the official code draws: op by op.
fn random_cell(rng: &mut PhiloxRng) -> Nb201Genotype {
    Nb201Genotype {
        ops: std::array::from_fn(|_| Nb201Op::ALL[rng.random_range(0..Nb201Op::ALL.len())]),
    }
}

#[cfg(test)]
mod tests {
    use super::benchmark::tests::synthetic;
    use super::*;

    #[test]
    fn every_strategy_has_a_name_of_its_own_and_spends_exactly_its_trainings() {
        let benchmark = synthetic();
        for (index, strategy) in STRATEGIES.into_iter().enumerate() {
            let earlier = STRATEGIES[..index].iter().map(|other| other.name());
            assert!(!earlier.into_iter().any(|name| name == strategy.name()));
            for budget in [1, 7, 40] {
                for found in run(strategy, &benchmark, Budget::Trainings(budget), 3, 5) {
                    assert_eq!(found.trainings, budget, "{}", strategy.name());
                    assert_eq!(found.seconds, None);
                }
            }
        }
    }

    #[test]
    fn the_answer_is_the_best_reward_seen_and_carries_its_own_test_accuracy() {
        let benchmark = synthetic();
        let mut trials = Trials::new(&benchmark, Budget::Trainings(50));
        let mut rng = Philox::new(1, Purpose::TabularSearch).rng(0);
        assert_eq!(Random.search(&mut trials, &mut rng), Err(Spent));
        let best = trials.best().unwrap();
        assert!(
            trials
                .history()
                .iter()
                .all(|trial| trial.reward <= best.reward)
        );
        let found = run(&Random, &benchmark, Budget::Trainings(50), 1, 1)[0];
        assert_eq!((found.cell, found.reward), (best.cell, best.reward));
        assert_eq!(found.test, benchmark.measured(&best.cell).test);
    }

    #[test]
    fn a_seed_gives_the_same_runs_at_any_number_of_threads_and_runs_differ() {
        let benchmark = synthetic();
        for strategy in STRATEGIES {
            let at = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let pool = pool.build().unwrap();
                pool.install(|| run(strategy, &benchmark, Budget::Trainings(30), 6, 9))
            };
            let found = at(1);
            assert_eq!(found, at(3), "{}", strategy.name());
            assert!(found.iter().any(|other| other.cell != found[0].cell));
        }
    }

    #[test]
    fn guided_strategies_beat_random_search_on_a_table_with_structure() {
        let benchmark = synthetic();
        let mean = |strategy: &dyn TabularStrategy| {
            let found = run(strategy, &benchmark, Budget::Trainings(150), 20, 2);
            found.iter().map(|found| found.reward).sum::<f64>() / 20.0
        };
        let random = mean(&Random);
        for strategy in &STRATEGIES[1..] {
            assert!(mean(*strategy) > random, "{}", strategy.name());
        }
    }
}
