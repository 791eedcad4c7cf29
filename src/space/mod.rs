//! Search spaces as data, genotypes, tabular benchmark.
use serde::{Deserialize, Serialize};
/// The search spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
pub enum Space {
    /// DARTS: normal and reduction cells of four nodes and eight ops (Liu et al. 2019).
    #[serde(rename = "darts")]
    Darts,
    /// NAS-Bench-201: one cell of six edges and five ops (Dong & Yang 2020).
    #[serde(rename = "nb201")]
    #[value(name = "nb201")]
    NasBench201,
}
