//! Devices: where buffers live and kernels run.
//!
//! Today there is one, the CPU: an aligned [`Arena`] for the memory plan, [`simd`] dispatch chosen
//! once per process, and [`parallel`] loops whose partition never depends on the thread count.
//! This is the only floor, besides the SIMD kernels of the ops, where `unsafe` is allowed.

pub mod memory;
pub mod parallel;
pub mod random;
pub mod simd;

pub use memory::{Arena, View};

/// A device that a tape can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The host's processors, with the SIMD level found at run time.
    Cpu,
}

impl Device {
    /// Parses a `--device` value: `auto` or `cpu`.
    ///
    /// # Errors
    /// Any other word; the message names the flag and the known values.
    pub fn parse(text: &str) -> anyhow::Result<Device> {
        match text {
            "auto" | "cpu" => Ok(Device::Cpu),
            _ => anyhow::bail!(
                "--device: expected `auto` or `cpu`, found `{text}`; this build has no other device"
            ),
        }
    }

    /// Its name, as `--device` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
        }
    }

    /// One line for people: name, SIMD level, threads.
    pub fn describe(self) -> String {
        match self {
            Device::Cpu => format!(
                "cpu: {} SIMD, {} threads",
                simd::level().name(),
                rayon::current_num_threads()
            ),
        }
    }
}
