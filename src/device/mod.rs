//! Devices: where buffers live and kernels run.
//!
//! On the CPU: an aligned [`Arena`] for the memory plan, [`simd`] dispatch chosen once per process, and
//! [`parallel`] loops whose partition never depends on the thread count. On a GPU: [`cuda`]. What the
//! floors above hand around is a [`Vector`], on either.
//! This is the only floor, besides the SIMD kernels of the ops, where `unsafe` is allowed.

pub mod cache;
pub mod cuda;
pub mod later;
pub mod memory;
pub mod parallel;
pub mod random;
pub mod simd;
pub mod vector;

pub use later::Later;
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
    /// What a `--device` can be, for messages.
    pub const NAMES: &str = "`auto`, `cpu` or `cuda[:N]`";

    /// True for a word that [`Device::parse`] knows.
    pub fn is_name(text: &str) -> bool {
        matches!(text, "auto" | "cpu") || cuda_ordinal(text).is_some()
    }

    /// Opens what a `--device` names. `auto` takes GPU 0 if there is one that works, else the CPU;
    /// [`Device::choose`] also says which and why.
    ///
    /// # Errors
    /// Any other word, with the flag and the known values; or a GPU that cannot be had, and why.
    pub fn parse(text: &str) -> anyhow::Result<Device> {
        Ok(Device::choose(text)?.0)
    }

    /// As [`Device::parse`], with one line that says what was taken, and of a GPU that `auto` could not
    /// take, why.
    ///
    /// # Errors
    /// As [`Device::parse`].
    pub fn choose(text: &str) -> anyhow::Result<(Device, String)> {
        let mut note = String::new();
        let device = match (text, cuda_ordinal(text)) {
            ("cpu", _) => Device::Cpu,
            ("auto", _) => match Device::cuda(0) {
                Ok(device) => device,
                Err(error) => {
                    note = match cuda::gpu::devices() {
                        Ok(_) => format!("; the GPU cannot be used: {error:#}"),
                        Err(_) => "; no GPU".to_owned(),
                    };
                    Device::Cpu
                }
            },
            (_, Some(ordinal)) => Device::cuda(ordinal)?,
            _ => anyhow::bail!("--device: expected {}, found `{text}`", Self::NAMES),
        };
        let line = format!("{}{note}", device.describe());
        Ok((device, line))
    }

    /// GPU number `ordinal`.
    ///
    /// # Errors
    /// See [`cuda::Gpu::open`]; or no NVRTC.
    pub fn cuda(ordinal: usize) -> anyhow::Result<Device> {
        // Without a driver there is no use for NVRTC.
        cuda::gpu::driver_version()?;
        cuda::nvrtc::nvrtc()?;
        Ok(Device::Cuda(cuda::Gpu::open(ordinal)?))
    }

    /// Its name, as `--device` takes it.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda(gpu) => format!("cuda:{}", gpu.description().ordinal),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_gpu_is_read_from_its_name() {
        let cases = [
            ("cuda", Some(0)),
            ("cuda:0", Some(0)),
            ("cuda:7", Some(7)),
            ("cuda:", None),
            ("cuda:-1", None),
            ("cuda7", None),
            ("cpu", None),
        ];
        for (text, ordinal) in cases {
            assert_eq!(cuda_ordinal(text), ordinal, "{text}");
        }
    }

    #[test]
    fn an_unknown_device_is_refused_with_the_known_ones() {
        let error = Device::parse("tpu").err().unwrap().to_string();
        assert!(
            error.contains("--device") && error.contains("`tpu`"),
            "{error}"
        );
    }
}
