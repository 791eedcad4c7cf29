//! `ndarts`: neural architecture search by the NDARTS method.
//!
//! A weight-sharing supernet is recorded once as a static tape ([`autograd`]); four passes over it
//! give the loss, its gradient, and exact Hessian-vector products. On top stand the hypergradient
//! by the implicit function theorem with a Neumann series ([`hypergradient`]), the improved
//! evolution strategy for the weights ([`optim`]) and the search itself ([`search`]). What a search
//! finds is trained as a network of its own ([`train`]).
//!
//! The modules are floors of a house, lowest first; each imports only from floors below it.

pub mod device;

pub mod ops;

pub mod autograd;

pub mod data;
pub mod space;

pub mod network;

pub mod hypergradient;
pub mod optim;

pub mod search;
pub mod train;

pub mod run;

pub mod cli;

// The settings that tests search with are shared with the files of `tests/`, which say `ndarts::`.
#[cfg(test)]
extern crate self as ndarts;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;

// The naive f64 reference that the tests of every floor are held to.
#[cfg(test)]
#[path = "../tests/oracle/mod.rs"]
mod oracle;
