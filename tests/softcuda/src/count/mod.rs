//! The counters of a launch: what a profiler would say of it.
//!
//! [`tally`] counts while blocks run, one tally a worker; [`classes`] turns how often each instruction ran
//! into instruction classes and floating-point operations when the launch is over; [`footprint`] remembers
//! which memory was touched. What is counted are PTX instructions: machine code differs from them by what
//! `ptxas` fuses, splits and hoists. Memory is counted as the hardware counts it, by requests of a warp,
//! sectors of 32 bytes and wavefronts of 32 banks; caches are not modelled.

mod classes;
mod footprint;
mod tally;

use std::sync::Arc;

pub use classes::{Class, Floats};
pub use footprint::Footprint;
pub(crate) use tally::Tally;

/// Bytes of a sector.
pub const SECTOR: u64 = 32;

/// Traffic of one kind with global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Warp instructions.
    pub requests: u64,
    /// Bytes that the threads asked for, each thread's counted.
    pub asked: u64,
    /// Bytes of the fetched sectors that some thread of the warp asked for.
    pub used: u64,
    /// Sectors, counted once a request.
    pub sectors: u64,
}

impl Traffic {
    /// Share of the fetched bytes that were asked for, in percent; 100 where nothing was fetched.
    pub fn efficiency(&self) -> f64 {
        percent(self.used, self.sectors * SECTOR)
    }

    fn add(&mut self, other: &Traffic) {
        self.requests += other.requests;
        self.asked += other.asked;
        self.used += other.used;
        self.sectors += other.sectors;
    }
}

/// Traffic of one kind with shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Banks {
    /// Warp instructions.
    pub requests: u64,
    /// Passes over the banks that they took.
    pub wavefronts: u64,
    /// Passes that they would have taken without conflicts.
    pub ideal: u64,
}

impl Banks {
    fn add(&mut self, other: &Banks) {
        self.requests += other.requests;
        self.wavefronts += other.wavefronts;
        self.ideal += other.ideal;
    }
}

/// What a launch did. [`Counters::metrics`] gives the names that Nsight Compute has for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Global memory read by the launch: sorted, disjoint ranges `(first address, bytes)`. Only where
    /// [`crate::Options::track`] is set.
    pub reads: Vec<(u64, u64)>,
    /// Global memory written by the launch, as `reads`.
    pub writes: Vec<(u64, u64)>,
    /// Global memory that the launch's atomics touched, as `reads`.
    pub atomics: Vec<(u64, u64)>,
    /// The words inside `reads`, `writes` and `atomics`: ranges join what lies closely together.
    pub footprints: [Arc<Footprint>; 3],
    /// Warp instructions.
    pub instructions: u64,
    /// Thread instructions.
    pub thread_instructions: u64,
    /// Thread instructions by [`Class`].
    pub classes: [u64; Class::ALL.len()],
    /// Floating-point operations.
    pub floats: Floats,
    /// Loads from global memory.
    pub global_loads: Traffic,
    /// Stores to global memory.
    pub global_stores: Traffic,
    /// Atomics and reductions on global memory.
    pub global_atomics: Traffic,
    /// Different sectors that the launch read: what DRAM must deliver at least.
    pub unique_sectors_read: u64,
    /// Different sectors that the launch wrote.
    pub unique_sectors_written: u64,
    /// Loads from shared memory.
    pub shared_loads: Banks,
    /// Stores to shared memory.
    pub shared_stores: Banks,
    /// Atomics on shared memory, as warp instructions.
    pub shared_atomics: u64,
    /// Bytes that threads loaded from local memory.
    pub local_bytes_loaded: u64,
    /// Bytes that threads stored to local memory.
    pub local_bytes_stored: u64,
    /// Branches, as warp instructions.
    pub branches: u64,
    /// Branches at which lanes went different ways.
    pub divergent_branches: u64,
    /// Barriers that warps arrived at.
    pub barriers: u64,
}

impl Counters {
    /// Threads active in the average instruction, of 32.
    pub fn active_threads(&self) -> f64 {
        self.thread_instructions as f64 / (self.instructions.max(1)) as f64
    }

    /// How many times longer shared memory took than without bank conflicts, loads and stores together; 1
    /// where there were none, or no access.
    pub fn bank_conflict_factor(&self) -> f64 {
        let wavefronts = self.shared_loads.wavefronts + self.shared_stores.wavefronts;
        let ideal = self.shared_loads.ideal + self.shared_stores.ideal;
        if ideal == 0 {
            1.0
        } else {
            wavefronts as f64 / ideal as f64
        }
    }

    /// Adds another launch of the same kernel. The ranges stay those of the first.
    pub fn add(&mut self, other: &Counters) {
        self.instructions += other.instructions;
        self.thread_instructions += other.thread_instructions;
        self.classes
            .iter_mut()
            .zip(other.classes)
            .for_each(|(ours, theirs)| *ours += theirs);
        self.floats.add(&other.floats);
        self.global_loads.add(&other.global_loads);
        self.global_stores.add(&other.global_stores);
        self.global_atomics.add(&other.global_atomics);
        self.unique_sectors_read += other.unique_sectors_read;
        self.unique_sectors_written += other.unique_sectors_written;
        self.shared_loads.add(&other.shared_loads);
        self.shared_stores.add(&other.shared_stores);
        self.shared_atomics += other.shared_atomics;
        self.local_bytes_loaded += other.local_bytes_loaded;
        self.local_bytes_stored += other.local_bytes_stored;
        self.branches += other.branches;
        self.divergent_branches += other.divergent_branches;
        self.barriers += other.barriers;
    }

    /// Every counter under its name: Nsight Compute's where it has one, else ours in plain words.
    pub fn metrics(&self) -> Vec<(&'static str, f64)> {
        let mut metrics = vec![
            ("smsp__inst_executed.sum", self.instructions as f64),
            (
                "smsp__thread_inst_executed.sum",
                self.thread_instructions as f64,
            ),
            (
                "smsp__thread_inst_executed_per_inst_executed.ratio",
                self.active_threads(),
            ),
            (
                "smsp__thread_inst_executed_per_inst_executed.pct",
                self.active_threads() / 0.32,
            ),
        ];
        let classes = Class::ALL.iter().zip(self.classes);
        metrics.extend(classes.map(|(class, count)| (class.metric(), count as f64)));
        metrics.extend(self.floats.metrics());
        let loads = &self.global_loads;
        let stores = &self.global_stores;
        metrics.extend([
            (
                "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",
                loads.requests as f64,
            ),
            (
                "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
                loads.sectors as f64,
            ),
            (
                "l1tex__t_bytes_pipe_lsu_mem_global_op_ld.sum",
                (loads.sectors * SECTOR) as f64,
            ),
            (
                "smsp__sass_data_bytes_mem_global_op_ld.sum",
                loads.asked as f64,
            ),
            (
                "smsp__sass_average_data_bytes_per_sector_mem_global_op_ld.pct",
                loads.efficiency(),
            ),
            (
                "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum",
                stores.requests as f64,
            ),
            (
                "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum",
                stores.sectors as f64,
            ),
            (
                "l1tex__t_bytes_pipe_lsu_mem_global_op_st.sum",
                (stores.sectors * SECTOR) as f64,
            ),
            (
                "smsp__sass_data_bytes_mem_global_op_st.sum",
                stores.asked as f64,
            ),
            (
                "smsp__sass_average_data_bytes_per_sector_mem_global_op_st.pct",
                stores.efficiency(),
            ),
            (
                "l1tex__t_requests_pipe_lsu_mem_global_op_atom.sum",
                self.global_atomics.requests as f64,
            ),
            (
                "l1tex__t_sectors_pipe_lsu_mem_global_op_atom.sum",
                self.global_atomics.sectors as f64,
            ),
            ("unique_sectors_read", self.unique_sectors_read as f64),
            ("unique_sectors_written", self.unique_sectors_written as f64),
        ]);
        metrics.extend(self.shared_metrics());
        metrics.extend([
            (
                "smsp__sass_data_bytes_mem_local_op_ld.sum",
                self.local_bytes_loaded as f64,
            ),
            (
                "smsp__sass_data_bytes_mem_local_op_st.sum",
                self.local_bytes_stored as f64,
            ),
            ("smsp__inst_executed_op_branch.sum", self.branches as f64),
            ("divergent_branches", self.divergent_branches as f64),
            ("barriers", self.barriers as f64),
        ]);
        metrics
    }

    fn shared_metrics(&self) -> [(&'static str, f64); 8] {
        let (loads, stores) = (&self.shared_loads, &self.shared_stores);
        let conflicts = |banks: &Banks| (banks.wavefronts - banks.ideal) as f64;
        [
            (
                "smsp__inst_executed_op_shared_ld.sum",
                loads.requests as f64,
            ),
            (
                "smsp__inst_executed_op_shared_st.sum",
                stores.requests as f64,
            ),
            (
                "smsp__inst_executed_op_shared_atom.sum",
                self.shared_atomics as f64,
            ),
            (
                "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ld.sum",
                loads.wavefronts as f64,
            ),
            (
                "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_st.sum",
                stores.wavefronts as f64,
            ),
            (
                "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
                conflicts(loads),
            ),
            (
                "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
                conflicts(stores),
            ),
            ("shared_bank_conflict_factor", self.bank_conflict_factor()),
        ]
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        100.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}
