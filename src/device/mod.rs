//! (being built)

pub mod random;
