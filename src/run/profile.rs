//! `ndarts profile`: what each kernel of the four passes launches, moves and takes, against the floor.
//!
//! Times, registers and occupancy come from the driver. Bytes, sector efficiency and bank conflicts are
//! counted where the driver is softcuda: it writes a JSON line a launch to `SOFTCUDA_PROFILE`, and the
//! lines of a pass are those that its launches added.

use crate::autograd::executor::planned_bytes;
use crate::autograd::floor::{floor_bytes, floor_of_ops};
use crate::autograd::{Executor, Mode};
use crate::device::cuda::Measured;
use crate::device::random::{Philox, Purpose};
use crate::device::{Device, Vector};
use crate::network::Supernet;
use crate::network::parameters::initial_theta;
use crate::ops::Pass;
use crate::ops::cuda::Precision;
use crate::space::Space;
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What to profile.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The space whose supernet runs.
    pub space: Space,
    /// Channels of the first stage.
    pub channels: usize,
    /// Cells (DARTS), or cells a stage.
    pub cells: usize,
    /// Images a batch.
    pub batch: usize,
    /// Side of the images.
    pub image_size: usize,
    /// Classes.
    pub classes: usize,
    /// Element type of activations.
    pub precision: Precision,
    /// Seed of weights and images.
    pub seed: u64,
}

/// All launches of one kernel in one pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KernelLine {
    /// The pass.
    pub pass: &'static str,
    /// The kernel's entry.
    pub kernel: String,
    /// Launches.
    pub launches: usize,
    /// Bytes of device memory touched: distinct sectors of each launch. Counted on softcuda.
    pub bytes: Option<u64>,
    /// The floor of the ops that the kernel belongs to; kernels of one op show the same.
    pub floor_bytes: u64,
    /// Bytes that some thread of the warp asked for, of those in the sectors fetched. Counted on softcuda.
    pub sector_efficiency: Option<f64>,
    /// Shared-memory accesses, of those without conflicts. Counted on softcuda.
    pub bank_conflict_factor: Option<f64>,
    /// Registers a thread, the most of its specialisations.
    pub registers: u32,
    /// Bytes a thread that registers spill to; local memory where the driver does not tell them apart.
    pub spill_bytes: u32,
    /// Warps that fit a multiprocessor, of those it has room for; the least of its launches.
    pub occupancy: f64,
    /// On a GPU: microseconds of all launches.
    pub time_us: Option<f64>,
    /// On a GPU: floor bytes over time, GB/s.
    pub floor_gb_per_s: Option<f64>,
}

/// One pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassLine {
    /// The pass.
    pub pass: &'static str,
    /// Kernel launches.
    pub launches: usize,
    /// Calls to the driver when it is replayed.
    pub graph_launches: usize,
    /// See [`KernelLine::bytes`].
    pub bytes: Option<u64>,
    /// Each op's inputs read once and its outputs written once, parameters included.
    pub floor_bytes: u64,
}

/// A profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// A line a kernel and pass.
    pub kernels: Vec<KernelLine>,
    /// A line a pass.
    pub passes: Vec<PassLine>,
    /// Bytes of device memory that a weight step takes by its plan.
    pub step_bytes: usize,
    /// Bytes of device memory that the four passes take, which keep everything for products.
    pub device_bytes: usize,
}

/// Profiles the four passes of the supernet of `setting` on `device`.
///
/// # Errors
/// A device without kernels, sizes out of range, or the device's.
pub fn run(setting: &Setting, device: Device) -> anyhow::Result<Profile> {
    let size = [setting.image_size; 2];
    let supernet = Supernet::record(
        setting.space,
        setting.channels,
        setting.cells,
        setting.classes,
        setting.batch,
        size,
    )?;
    let theta = initial_theta(&supernet.parameters, setting.seed);
    let philox = Philox::new(setting.seed, Purpose::Bench);
    let mut images = vec![0.0; setting.batch * size[0] * size[1] * 3];
    philox.fill_normal(0, 0, &mut images);
    let labels: Vec<u32> = (0..setting.batch)
        .map(|i| (i % setting.classes) as u32)
        .collect();
    let mut direction = vec![0.0; theta.len()];
    philox.fill_normal(0, 1, &mut direction);
    let direction = Vector::new(&device, direction)?;
    let gradient = Vector::zeros(&device, theta.len())?;
    let theta = Vector::new(&device, theta)?;
    let vectors = [&theta, &direction, &gradient];
    let mut executor = Executor::with_precision(supernet.tape, device, setting.precision)?;
    executor.load(&images, &labels)?;
    let mut counts = Counts::open();
    let mut profile = Profile {
        kernels: Vec::new(),
        passes: Vec::new(),
        step_bytes: planned_bytes(executor.tape(), Mode::Gradient, setting.precision)?,
        device_bytes: 0,
    };
    for (pass, name) in [
        (Pass::Forward, "forward"),
        (Pass::Backward, "backward"),
        (Pass::Tangent, "tangent"),
        (Pass::TangentBackward, "tangent_backward"),
    ] {
        counts.skip()?;
        let Some(measured) = executor.measure(pass, vectors)? else {
            bail!("--device cpu: expected cuda[:N], as the CPU launches no kernels");
        };
        let counted = counts.next(measured.len())?;
        let bytes = setting.precision.bytes();
        let lines = kernel_lines(
            &executor,
            (pass, name),
            bytes,
            &measured,
            counted.as_deref(),
        );
        profile.passes.push(PassLine {
            pass: name,
            launches: measured.len(),
            graph_launches: 1,
            bytes: lines.iter().map(|line| line.bytes).sum(),
            floor_bytes: floor_bytes(executor.tape(), pass, bytes),
        });
        profile.kernels.extend(lines);
    }
    profile.device_bytes = executor.device_bytes().unwrap_or(0);
    Ok(profile)
}

/// Sums the launches of each kernel.
fn kernel_lines(
    executor: &Executor,
    (pass, name): (Pass, &'static str),
    storage: usize,
    measured: &[Measured],
    counted: Option<&[Count]>,
) -> Vec<KernelLine> {
    let tape = executor.tape();
    let floors = floor_of_ops(tape, pass, storage);
    let floor_of = |op: &str| -> u64 {
        let ops = tape.ops.iter().zip(&floors);
        ops.filter(|(of, _)| of.name() == op).map(|(_, f)| f).sum()
    };
    let mut kernels: Vec<&str> = Vec::new();
    for launch in measured {
        if !kernels.contains(&launch.kernel.as_str()) {
            kernels.push(&launch.kernel);
        }
    }
    let line = |kernel: &str| {
        let own = || {
            measured
                .iter()
                .enumerate()
                .filter(|(_, m)| m.kernel == kernel)
        };
        let op = own().next().map_or("", |(_, m)| m.op);
        let floor = floor_of(op);
        let mut line = KernelLine {
            pass: name,
            kernel: kernel.to_owned(),
            launches: own().count(),
            floor_bytes: floor,
            registers: own().map(|(_, m)| m.registers).max().unwrap_or(0),
            spill_bytes: own().map(|(_, m)| m.local_bytes).max().unwrap_or(0),
            occupancy: own().map(|(_, m)| m.occupancy).fold(1.0, f64::min),
            ..KernelLine::default()
        };
        match counted {
            Some(counts) => {
                let counts = || own().map(|(i, _)| &counts[i]);
                let sum = |of: fn(&Count) -> f64| counts().map(of).sum::<f64>();
                line.bytes = Some(sum(|c| c.touched) as u64);
                line.sector_efficiency = ratio(sum(|c| c.asked), sum(|c| c.fetched));
                line.bank_conflict_factor = ratio(sum(|c| c.wavefronts), sum(|c| c.ideal));
                let most = |of: fn(&Count) -> f64| counts().map(of).fold(0.0, f64::max);
                // The driver's own occupancy is of registers that it estimates, these of ptxas's.
                line.occupancy = counts().map(|c| c.occupancy).fold(1.0, f64::min);
                line.registers = most(|c| c.registers) as u32;
                line.spill_bytes = most(|c| c.spill) as u32;
            }
            None => {
                let time = own().map(|(_, m)| m.time_us).sum::<f64>();
                line.time_us = Some(time);
                line.floor_gb_per_s = ratio(floor as f64 * 1e-3, time);
            }
        }
        line
    };
    kernels.into_iter().map(line).collect()
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// What softcuda counted of one launch.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    touched: f64,
    asked: f64,
    fetched: f64,
    wavefronts: f64,
    ideal: f64,
    registers: f64,
    spill: f64,
    occupancy: f64,
}

/// Bytes of a sector.
const SECTOR: f64 = 32.0;

impl Count {
    fn of(line: &Value) -> Count {
        let number = |name: &str| line.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let both =
            |name: &str| number(&format!("{name}_ld.sum")) + number(&format!("{name}_st.sum"));
        // Bytes of fetched sectors that some thread of the warp asked for; not all that threads ask for, as
        // many may ask for the same.
        let asked = |op: &str| {
            let name = "smsp__sass_average_data_bytes_per_sector_mem_global_op";
            let part = number(&format!("{name}_{op}.pct")) / 100.0;
            part * number(&format!("l1tex__t_bytes_pipe_lsu_mem_global_op_{op}.sum"))
        };
        let wavefronts = both("l1tex__data_pipe_lsu_wavefronts_mem_shared_op");
        Count {
            touched: SECTOR * (number("unique_sectors_read") + number("unique_sectors_written")),
            asked: asked("ld") + asked("st"),
            fetched: both("l1tex__t_bytes_pipe_lsu_mem_global_op"),
            wavefronts,
            ideal: wavefronts - both("l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op"),
            registers: number("launch__registers_per_thread"),
            occupancy: number("sm__maximum_warps_per_active_cycle_pct") / 100.0,
            spill: number("ptxas_spill_store_bytes") + number("ptxas_spill_load_bytes"),
        }
    }
}

/// The file that softcuda writes, and how far it was read.
struct Counts {
    path: Option<PathBuf>,
    read: usize,
}

impl Counts {
    fn open() -> Counts {
        Counts {
            path: std::env::var_os("SOFTCUDA_PROFILE").map(PathBuf::from),
            read: 0,
        }
    }

    fn lines(path: &Path) -> anyhow::Result<Vec<String>> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("SOFTCUDA_PROFILE: {shown} cannot be read"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Leaves out the launches so far.
    fn skip(&mut self) -> anyhow::Result<()> {
        if let Some(path) = &self.path {
            self.read = Counts::lines(path)?.len();
        }
        Ok(())
    }

    /// Counts of the `launches` since.
    fn next(&mut self, launches: usize) -> anyhow::Result<Option<Vec<Count>>> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let lines = Counts::lines(path)?;
        let new = lines.get(self.read..).unwrap_or_default();
        ensure!(
            new.len() == launches,
            "SOFTCUDA_PROFILE: {}: expected {launches} launches of the pass, found {}",
            path.display(),
            new.len()
        );
        let parse = |line: &String| Ok(Count::of(&serde_json::from_str(line)?));
        let counts: anyhow::Result<Vec<Count>> = new.iter().map(parse).collect();
        let counts = counts.with_context(|| format!("SOFTCUDA_PROFILE: {}", path.display()))?;
        self.read = lines.len();
        Ok(Some(counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_softcuda_becomes_bytes_efficiency_and_conflicts() {
        let line = serde_json::json!({
            "unique_sectors_read": 10, "unique_sectors_written": 5,
            "smsp__sass_average_data_bytes_per_sector_mem_global_op_ld.pct": 75.0,
            "smsp__sass_average_data_bytes_per_sector_mem_global_op_st.pct": 100.0,
            "l1tex__t_bytes_pipe_lsu_mem_global_op_ld.sum": 320,
            "l1tex__t_bytes_pipe_lsu_mem_global_op_st.sum": 160,
            "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ld.sum": 30,
            "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum": 10,
        });
        let count = Count::of(&line);
        assert_eq!(count.touched, 480.0);
        assert_eq!(ratio(count.asked, count.fetched), Some(400.0 / 480.0));
        assert_eq!(ratio(count.wavefronts, count.ideal), Some(1.5));
    }
}
