//! The oracle: every op and both supernets written naively in f64, to check the engine against.
//!
//! Each forward is generic over the scalar. With `f64` it gives the value, with the dual and
//! hyper-dual numbers of `num-dual` exact first and second derivatives ([`derivative`]), so the
//! four passes of an op are checked without a second framework and without a step size.
//!
//! - [`tensor`]: an NHWC array with the bounds checks a naive loop wants.
//! - [`ops`]: the ops, in the engine's weight layouts.
//! - [`network`]: DARTS and NAS-Bench-201 supernets, in PyTorch's names and layouts.
//! - [`engine`]: the engine against all this. What an op's tests share is here; the tests themselves
//!   are in the op's folder, `src/ops/<op>/tests.rs`. Whole supernets are checked here.
//! - `ops_checks`, `network_checks`: the oracle against central differences, identities, hand
//!   computed values and values computed once with PyTorch (`tests/torch/oracle_values.py`).

mod derivative;
mod draw;
pub mod engine;
mod network;
mod network_checks;
pub mod ops;
mod ops_checks;
mod tensor;
