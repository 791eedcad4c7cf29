//! Shared settings and records of a search; the strategies behind one trait.

pub mod record;
pub mod settings;

mod toy;
pub use toy::{Search, SearchError, Snapshot};
