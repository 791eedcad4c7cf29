//! The counters of every launch, as JSON lines and as a table at exit; memory that was never freed.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::entry::say;
use super::ptxas::{self, Usage};
use super::settings::Settings;
use super::state::{Driver, Kind, try_lock};
use super::work::KernelWork;
use crate::count::Counters;
use crate::{Module, Target};

/// Where counters go, and what the table at exit will say.
#[derive(Default)]
pub struct Profile {
    file: Option<File>,
    rows: BTreeMap<String, Row>,
    /// What ptxas says of each kernel, by the address of the kernel.
    usage: HashMap<usize, Usage>,
}

/// All launches of one kernel.
#[derive(Default)]
struct Row {
    launches: u64,
    counters: Counters,
    occupancy: f64,
    registers: u32,
    usage: Option<Usage>,
}

impl Profile {
    /// Opens `SOFTCUDA_PROFILE`, cutting what was there.
    pub fn new(settings: &Settings) -> Profile {
        let Some(path) = &settings.profile else {
            return Profile::default();
        };
        match File::create(path) {
            Ok(file) => Profile {
                file: Some(file),
                ..Profile::default()
            },
            Err(reason) => {
                say(&format!(
                    "SOFTCUDA_PROFILE is \"{}\", which cannot be written ({reason}); launches are not profiled",
                    path.display()
                ));
                Profile::default()
            }
        }
    }

    /// Asks ptxas about the kernels of a module, where launches are profiled and ptxas is there.
    pub fn examine(&mut self, settings: &Settings, module: &Module, ptx: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let usage = ptxas::usage(ptx, settings.target.sm);
        for kernel in module.kernels() {
            if let Some(usage) = usage.get(&kernel.name) {
                self.usage.insert(Arc::as_ptr(kernel) as usize, *usage);
            }
        }
    }

    /// Files one launch.
    pub fn record(
        &mut self,
        target: &Target,
        launch: u64,
        work: &KernelWork,
        counters: &Counters,
        time: Duration,
    ) {
        let Some(file) = &mut self.file else { return };
        let usage = self
            .usage
            .get(&(Arc::as_ptr(&work.kernel) as usize))
            .copied();
        let registers = usage.map_or(work.kernel.registers, |usage| usage.registers);
        let occupancy = occupancy(target, work, registers);
        let mut line = header(launch, work, time);
        let mut metric = |name: &str, value: f64| write!(line, ",\"{name}\":{value}").ok();
        metric("launch__registers_per_thread", f64::from(registers));
        metric("sm__maximum_warps_per_active_cycle_pct", occupancy);
        for (name, value) in counters.metrics() {
            metric(name, value);
        }
        if let Some(usage) = usage {
            metric("ptxas_stack_bytes", f64::from(usage.stack));
            metric("ptxas_spill_store_bytes", f64::from(usage.spill_stores));
            metric("ptxas_spill_load_bytes", f64::from(usage.spill_loads));
        }
        if let Err(reason) = writeln!(file, "{line}}}") {
            say(&format!(
                "the profile could not be written ({reason}); launches are no longer profiled"
            ));
            self.file = None;
        }
        let row = self.rows.entry(work.kernel.name.clone()).or_default();
        row.launches += 1;
        row.counters.add(counters);
        row.occupancy = occupancy;
        row.registers = registers;
        row.usage = usage;
    }

    /// The table at exit: a row a kernel, sums over its launches.
    fn table(&self) -> String {
        let mut table = format!(
            "{:<32} {:>8} {:>5} {:>6} {:>6} {:>12} {:>7} {:>10} {:>10} {:>10} {:>7} {:>7} {:>7}\n",
            "kernel",
            "launches",
            "regs",
            "spill",
            "occ %",
            "warp inst",
            "threads",
            "MFLOP",
            "read MB",
            "write MB",
            "ld eff%",
            "st eff%",
            "banks x"
        );
        for (name, row) in &self.rows {
            let counters = &row.counters;
            let megabytes = |traffic: &crate::count::Traffic| traffic.sectors as f64 * 32e-6;
            let spill = row.usage.map_or("-".to_owned(), |u| {
                (u.spill_stores + u.spill_loads).to_string()
            });
            // Writing to a string cannot fail.
            writeln!(
                table,
                "{:<32} {:>8} {:>5} {:>6} {:>6.1} {:>12} {:>7.2} {:>10.3} {:>10.3} {:>10.3} {:>7.1} {:>7.1} {:>7.2}",
                shortened(name, 32),
                row.launches,
                row.registers,
                spill,
                row.occupancy,
                counters.instructions,
                counters.active_threads(),
                counters.floats.flops() as f64 * 1e-6,
                megabytes(&counters.global_loads),
                megabytes(&counters.global_stores),
                counters.global_loads.efficiency(),
                counters.global_stores.efficiency(),
                counters.bank_conflict_factor(),
            )
            .ok();
        }
        table
    }
}

/// The beginning of a JSON line: what was launched.
fn header(launch: u64, work: &KernelWork, time: Duration) -> String {
    let KernelWork {
        kernel,
        launch: shape,
        ..
    } = work;
    format!(
        "{{\"launch\":{launch},\"kernel\":{:?},\"grid\":{:?},\"block\":{:?},\"cluster\":{:?},\
         \"launch__shared_mem_per_block_static\":{},\"launch__shared_mem_per_block_dynamic\":{},\
         \"seconds_on_this_cpu\":{}",
        kernel.name,
        shape.grid,
        shape.block,
        shape.cluster,
        kernel.static_shared,
        shape.dynamic_shared,
        time.as_secs_f64()
    )
}

/// Warps resident at once, in percent of what the device can hold.
fn occupancy(target: &Target, work: &KernelWork, registers: u32) -> f64 {
    let threads: u32 = work.launch.block.iter().product();
    let shared = work.kernel.static_shared + work.launch.dynamic_shared;
    let blocks = target.occupancy(threads, registers, shared);
    let warps = blocks * threads.div_ceil(32);
    100.0 * f64::from(warps) / f64::from(target.threads_per_multiprocessor / 32)
}

/// A name cut to a width; the cut is shown.
fn shortened(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    name.chars().take(width - 1).chain(['…']).collect()
}

/// Allocations that a leak report lists one by one.
const LISTED_LEAKS: usize = 10;

impl Driver {
    /// Says which of these blocks were never freed.
    pub fn report_leaks(&self, addresses: &[u64]) {
        let leaks: Vec<_> = addresses
            .iter()
            .filter_map(|address| Some((address, self.blocks.get(address)?)))
            .filter(|(_, block)| !matches!(block.kind, Kind::Registered | Kind::Graph))
            // After a fault nothing can be freed any more.
            .filter(|(_, block)| self.healthy(block.context).is_ok())
            .collect();
        if leaks.is_empty() || !self.settings.checks.leaks {
            return;
        }
        let bytes: u64 = leaks.iter().map(|(_, block)| block.bytes).sum();
        let mut text = format!(
            "leak: {} allocations of {bytes} bytes were never freed",
            leaks.len()
        );
        for (address, _) in leaks.iter().take(LISTED_LEAKS) {
            text.push_str("\n  ");
            text.push_str(&self.memory.describe(**address, 1));
        }
        if leaks.len() > LISTED_LEAKS {
            text.push_str(&format!("\n  and {} more", leaks.len() - LISTED_LEAKS));
        }
        say(&text);
    }
}

/// Whether what a kernel touches must be known exactly: only with more than one stream or with graphs can
/// work be unordered.
pub fn must_track(driver: &Driver) -> bool {
    driver.settings.checks.streams
        && (driver.streams.iter().count() > driver.contexts.iter().count()
            || driver.execs.iter().next().is_some())
}

/// Arranges for leaks and the table of counters to be printed when the process ends.
pub fn report_at_exit() {
    // SAFETY: registers a function without arguments that lives as long as the library; if it cannot
    // be registered, the report is lost and nothing else.
    unsafe { libc::atexit(at_exit) };
}

extern "C" fn at_exit() {
    // A panic must not leave this function; a report is not worth one.
    std::panic::catch_unwind(|| {
        let Some(driver) = try_lock() else { return };
        driver.report_leaks(&driver.blocks.keys().copied().collect::<Vec<u64>>());
        if !driver.profile.rows.is_empty() {
            eprint!("{}", driver.profile.table());
        }
    })
    .ok();
}
