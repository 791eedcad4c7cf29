//! `ndarts devices`: what there is to compute on.

use std::thread;

use anyhow::Result;
use clap::Args;

use super::{End, say};
use crate::device::Device;
use crate::device::cuda::gpu::{Description, devices, driver_version};
use crate::device::cuda::nvrtc::nvrtc;

/// List the devices that `--device` can name.
#[derive(Args)]
#[command(after_help = "Example:\n  ndarts devices")]
pub struct Command {}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut text = format!("cpu    {}, {threads} threads", cpu_name());
        let features = vector_features();
        if !features.is_empty() {
            text += &format!(", {}", features.join(" "));
        }
        if let Some(gib) = memory_gib() {
            text += &format!(", {gib:.1} GiB memory");
        }
        text += "\n";
        text += &gpus();
        text += &match nvrtc() {
            Ok(nvrtc) => {
                let ((major, minor), path) = (nvrtc.version, nvrtc.path.display());
                format!("nvrtc  {major}.{minor}, {path}\n")
            }
            Err(error) => format!("nvrtc  none: {error:#}\n"),
        };
        let auto = Device::parse("auto")?.describe();
        let auto = auto.split(": ").next().unwrap_or_default();
        text += &format!("auto   takes {auto}\n");
        say(&text);
        Ok(End::Done)
    }
}

/// A line for each GPU, or one that says why there is none.
fn gpus() -> String {
    let (driver, gpus) = match (driver_version(), devices()) {
        (Ok(driver), Ok(gpus)) => (driver, gpus),
        (Err(error), _) | (_, Err(error)) => return format!("cuda   none: {error:#}\n"),
    };
    let line = |gpu: &Description| {
        let (major, minor) = (gpu.compute / 10, gpu.compute % 10);
        let memory = gpu.memory as f64 / (1024.0 * 1024.0 * 1024.0);
        format!(
            "cuda:{} {}, compute capability {major}.{minor}, {memory:.1} GiB memory, driver for CUDA {}.{}\n",
            gpu.ordinal,
            gpu.name,
            driver / 1000,
            driver % 1000 / 10
        )
    };
    gpus.iter().map(line).collect()
}

/// Model name of the processor, where the system tells it.
fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(
        || std::env::consts::ARCH.into(),
        |(_, name)| name.trim().into(),
    )
}

/// Installed memory, GiB, where the system tells it.
fn memory_gib() -> Option<f64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / (1024.0 * 1024.0))
}

/// Vector instructions that kernels are dispatched on.
fn vector_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let mut found = Vec::new();
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            found.push("AVX2");
        }
        if is_x86_feature_detected!("avx512f") {
            found.push("AVX-512");
        }
        found
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}
