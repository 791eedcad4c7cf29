//! Devices: where buffers live and kernels run.
//!
//! On the CPU: an aligned [`Arena`] for the memory plan, [`simd`] dispatch chosen once per process, and
//! [`parallel`] loops whose partition never depends on the thread count. On a GPU: [`cuda`]. What the
//! floors above hand around is a [`Vector`], on either.
//! This is the only floor, besides the SIMD kernels of the ops, where `unsafe` is allowed.

pub mod cuda;
pub mod memory;
pub mod parallel;
pub mod random;
pub mod simd;
pub mod vector;

pub use memory::{Arena, View};
use std::sync::Arc;
pub use vector::{Slice, SliceMut, Vector};

/// A device that a tape can run on.
#[derive(Clone)]
pub enum Device {
    /// The host's processors, with the SIMD level found at run time.
    Cpu,
    /// A GPU.
    Cuda(Arc<cuda::Gpu>),
}

impl Device {
    /// Parses a `--device` value: `auto` or `cpu`.
    ///
    /// # Errors
    /// Any other word; the message names the flag and the known values.
    pub fn parse(text: &str) -> anyhow::Result<Device> {
        match text {
            "auto" | "cpu" => Ok(Device::Cpu),
            _ if cuda_ordinal(text).is_some() => anyhow::bail!(
                "--device: expected `auto` or `cpu`, found `{text}`; this build does not have CUDA kernels \
                 for every op yet"
            ),
            _ => anyhow::bail!(
                "--device: expected `auto` or `cpu`, found `{text}`; this build has no other device"
            ),
        }
    }

    /// GPU number `ordinal`.
    ///
    /// # Errors
    /// See [`cuda::Gpu::open`].
    pub fn cuda(ordinal: usize) -> anyhow::Result<Device> {
        Ok(Device::Cuda(cuda::Gpu::open(ordinal)?))
    }

    /// One line for people: name, SIMD level and threads, or memory.
    pub fn describe(&self) -> String {
        match self {
            Device::Cpu => format!(
                "cpu: {} SIMD, {} threads",
                simd::level().name(),
                rayon::current_num_threads()
            ),
            Device::Cuda(gpu) => gpu.describe(),
        }
    }
}

/// N of `cuda:N`, and 0 of `cuda`.
fn cuda_ordinal(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("cuda")?;
    if rest.is_empty() {
        return Some(0);
    }
    rest.strip_prefix(':')?.parse().ok()
}
