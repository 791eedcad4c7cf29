//! The CUDA device: recordings of launches, compiled on the user's machine, replayed as graphs.
//!
//! How a pass gets to the GPU, from top to bottom:
//!
//! 1. **Encode.** The executor walks the tape once and every op appends its launches to a
//!    [`Recording`](launch::Recording) (`crate::ops::cuda::Encoder`). A launch is data: a kernel by
//!    file, entry and definitions, a grid, and one parameter struct by value. Addresses are numbers
//!    out of the memory plan. One op takes one launch a pass where it can, and serves all its branches
//!    with it: lists go into the struct, or into a device table.
//! 2. **Compile.** The distinct (file, definitions) of a recording go through NVRTC in parallel
//!    ([`nvrtc`]), or come from the disk ([`cache`]).
//! 3. **Capture.** The launches are issued once into a capturing stream and become a graph
//!    ([`program`]). A step is then one call a pass; nothing is allocated and nobody waits.
//!
//! Recordings are keyed by the vectors they run on, so a θ, a gradient and a direction never have to
//! be copied to a fixed place. The conventions of the kernels themselves are in `kernels/common.cuh`.
//!
//! **Who may write what.** One stream runs all launches in order, so launches of a pass see each
//! other's writes and share one workspace. A second stream copies the next batch from pinned memory.
//!
//! **Faults.** Every launch writes its number to a word of host memory as it begins. When the device
//! faults, the context is lost, but the word still tells which kernel it was.

pub mod cache;
pub mod compile;
pub mod gpu;
mod hash;
pub mod launch;
pub mod ledger;
pub mod nvrtc;
pub mod program;
mod ranges;
pub mod source;
pub mod staging;
pub mod tables;

pub use gpu::{Buffer, Gpu};
pub use program::{Measured, Program};
pub use staging::Staging;
pub use tables::Tables;

/// The device that tests run kernels on, for one test at a time: they share its stream, and a launch of one
/// would be captured into another's graph.
#[cfg(test)]
pub struct Turn {
    gpu: std::sync::Arc<Gpu>,
    _turn: std::sync::MutexGuard<'static, ()>,
}

#[cfg(test)]
impl std::ops::Deref for Turn {
    type Target = std::sync::Arc<Gpu>;

    fn deref(&self) -> &Self::Target {
        &self.gpu
    }
}

/// A turn on a GPU, or on softcuda by `LD_LIBRARY_PATH=target/softcuda`. None, said once, where there is
/// neither or no NVRTC.
#[cfg(test)]
pub fn for_tests() -> Option<Turn> {
    use std::sync::{Arc, Mutex, OnceLock, PoisonError};
    static OPENED: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let open = || match nvrtc::nvrtc().and_then(|_| Gpu::open(0)) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            println!("skipped: kernels against the CPU: {error:#}");
            None
        }
    };
    let gpu = OPENED.get_or_init(open).clone()?;
    // A test that failed does not fail the next.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Some(Turn { gpu, _turn: turn })
}
