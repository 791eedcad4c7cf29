//! `ndarts profile`: launches, bytes and times of every kernel, against the floor.

use anyhow::Result;
use clap::Args;

use super::{End, Threads, flags, say};
use crate::device::Device;
use crate::ops::cuda::Precision;
use crate::run::BadUsage;
use crate::run::profile::{self, Profile, Setting};
use crate::space::Space;

/// Profile the kernels of the four passes on a GPU.
///
/// On softcuda, with SOFTCUDA_PROFILE=FILE, bytes, sector efficiency and bank conflicts are counted; on a
/// GPU, times are measured. For Nsight, passes and ops are NVTX ranges.
#[derive(Args)]
#[command(after_help = "Example:\n  ndarts profile --space darts --batch 64 --device cuda --json")]
pub struct Command {
    /// Search space
    #[arg(long, value_enum, value_name = "SPACE", default_value = "darts")]
    space: Space,
    /// Channels of the first stage
    #[arg(long, value_name = "C", value_parser = flags::whole, default_value = "16")]
    channels: usize,
    /// DARTS: cells of the network [default: 8]; NAS-Bench-201: cells of each stage [default: 5]
    #[arg(long, value_name = "L", value_parser = flags::whole)]
    cells: Option<usize>,
    /// Images a batch
    #[arg(long, value_name = "B", value_parser = flags::whole, default_value = "64")]
    batch: usize,
    /// Side of the square images, pixels
    #[arg(long, value_name = "PIXELS", value_parser = flags::whole, default_value = "32")]
    image_size: usize,
    /// Where to compute: `cuda` or `cuda:N`
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    device: String,
    /// Element type of activations
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f32")]
    precision: Precision,
    /// Seed of weights and images
    #[arg(long, value_name = "SEED", default_value = "0")]
    seed: u64,
    /// One JSON line a kernel, then one a pass
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

impl Command {
    pub(super) fn run(self) -> Result<End> {
        super::start_threads(self.threads.threads)?;
        if !Device::is_name(&self.device) {
            return Err(BadUsage(format!(
                "--device: expected {}, found `{}`",
                Device::NAMES,
                self.device
            ))
            .into());
        }
        let device = Device::parse(&self.device)?;
        let cells = match self.space {
            Space::Darts | Space::Nasnet => 8,
            Space::NasBench201 => 5,
        };
        let setting = Setting {
            space: self.space,
            channels: self.channels,
            cells: self.cells.unwrap_or(cells),
            batch: self.batch,
            image_size: self.image_size,
            classes: 10,
            precision: self.precision,
            seed: self.seed,
        };
        if matches!(device, Device::Cpu) {
            return Err(BadUsage(format!(
                "--device {}: expected cuda[:N], as the CPU launches no kernels",
                self.device
            ))
            .into());
        }
        let profile = profile::run(&setting, device)?;
        say(&if self.json {
            lines(&profile)?
        } else {
            table(&profile)
        });
        Ok(End::Done)
    }
}

fn lines(profile: &Profile) -> Result<String> {
    let mut text = String::new();
    for line in &profile.kernels {
        text += &serde_json::to_string(line)?;
        text.push('\n');
    }
    for line in &profile.passes {
        text += &serde_json::to_string(line)?;
        text.push('\n');
    }
    text += &format!(
        "{{\"step_bytes\":{},\"device_bytes\":{}}}\n",
        profile.step_bytes, profile.device_bytes
    );
    Ok(text)
}

fn table(profile: &Profile) -> String {
    let mega = |bytes: u64| format!("{:.2}", bytes as f64 * 1e-6);
    let optional = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
    let mut text = format!(
        "{:<16} {:<28} {:>8} {:>10} {:>10} {:>7} {:>6} {:>5} {:>6} {:>5} {:>10} {:>7}\n",
        "pass",
        "kernel",
        "launches",
        "MB",
        "floor MB",
        "sector",
        "banks",
        "regs",
        "spill",
        "occ",
        "time us",
        "GB/s"
    );
    for line in &profile.kernels {
        text += &format!(
            "{:<16} {:<28} {:>8} {:>10} {:>10} {:>7} {:>6} {:>5} {:>6} {:>5.2} {:>10} {:>7}\n",
            line.pass,
            line.kernel,
            line.launches,
            line.bytes.map_or("-".to_owned(), mega),
            mega(line.floor_bytes),
            optional(line.sector_efficiency),
            optional(line.bank_conflict_factor),
            line.registers,
            line.spill_bytes,
            line.occupancy,
            optional(line.time_us),
            optional(line.floor_gb_per_s)
        );
    }
    for line in &profile.passes {
        text += &format!(
            "{:<16} {} launches in {} graph, {} MB, floor {} MB\n",
            line.pass,
            line.launches,
            line.graph_launches,
            line.bytes.map_or("-".to_owned(), mega),
            mega(line.floor_bytes)
        );
    }
    text + &format!(
        "device memory    {} MB by the plan of a weight step, {} MB with all that products keep\n",
        mega(profile.step_bytes as u64),
        mega(profile.device_bytes as u64)
    )
}
