//! `softcuda`: a CUDA device in software.
//!
//! PTX goes in, results come out, with the checks of compute-sanitizer and the counters of Nsight
//! Compute. It reads top to bottom:
//!
//! 1. [`ptx`] parses a module's text into a syntax tree;
//! 2. [`lower`] turns each function into a flat array of typed instructions over numbered registers;
//! 3. [`execute`] runs them warp by warp, the 32 lanes as SIMD vectors;
//! 4. [`check`] watches memory, races and barriers;
//! 5. [`count`] counts what a profiler counts.
//!
//! [`memory`] is the device's address space, [`target`] the pretended device.

pub mod check;
pub mod count;
pub mod driver;
pub mod execute;
pub mod lower;
pub mod memory;
pub mod options;
pub mod ptx;
pub mod target;

pub use check::Fault;
pub use check::FaultKind;
pub use count::Counters;
pub use execute::{Launch, Machine};
pub use lower::{Kernel, LoadError, Module, Param};
pub use memory::Memory;
pub use options::{Checks, Options};
pub use target::Target;
