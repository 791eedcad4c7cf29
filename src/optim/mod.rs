//! Optimisers: SGD and Adam as PyTorch has them, the improved evolution strategy, schedules.

pub mod adam;
pub mod evolution;
pub mod population;
pub mod sgd;

use serde::{Deserialize, Serialize};

pub use adam::{Adam, SecondMoment};
pub use evolution::{Choice, Evolution};
pub use population::Population;
pub use sgd::Sgd;

/// How the weights ω are trained between two architecture steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Weights {
    /// Stochastic gradient descent with momentum (paper, section 2.2.1).
    #[serde(rename = "sgd")]
    #[value(name = "sgd")]
    Sgd,
    /// The improved evolution strategy alone (paper, section 2.3).
    #[serde(rename = "es")]
    #[value(name = "es")]
    Es,
    /// SGD steps, then one ES generation before each architecture step.
    #[serde(rename = "sgd+es")]
    #[value(name = "sgd+es")]
    SgdEs,
}
