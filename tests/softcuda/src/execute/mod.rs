//! Runs a launch: blocks over the cores, warps within a block, lanes as vectors.
//!
//! [`Machine::launch`] checks the configuration and spreads blocks over worker threads. Blocks that can't
//! see each other run in parallel; where they can (atomics whose order shows, fences, volatile accesses) they
//! run in the order of their numbers on one thread, so the result is the same at any number of cores.
//! A [`block`] gives its [`warp`]s turns; [`run`] is the interpreter, whose operations are in the other
//! files: [`integer`], [`float`], [`half`], [`convert`], [`compare`]; [`access`] and [`transfer`] for memory;
//! [`collective`] and those it names for what lanes, warps and blocks do together; [`matrix`] and [`builtin`].

mod access;
mod asynchronous;
mod barrier;
mod block;
mod builtin;
mod cluster;
mod collective;
mod compare;
mod convert;
mod exchange;
mod float;
mod half;
mod integer;
mod lanes;
mod matrix;
mod run;
mod soft;
mod transfer;
mod warp;

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub(crate) use access::{At, Run};
pub(crate) use block::BlockState;
use block::{Block, Env};
pub(crate) use warp::Warp;

use crate::check::{FaultKind, RaceShadow};
use crate::target::{BLOCK_LIMITS, GRID_LIMITS, THREADS_PER_BLOCK};
use crate::{Counters, Fault, Kernel, Memory, Options, Target};

/// A launch's shape and arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster along x, y, z; all 1 without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// The parameter block: every [`crate::Param`] at its offset.
    pub params: Vec<u8>,
    /// Whether all blocks have to be resident at once.
    pub cooperative: bool,
}

/// Where what kernels print goes.
pub type Output = Box<dyn Fn(&[u8]) + Send + Sync>;

/// A device that runs kernels.
pub struct Machine {
    /// The pretended device.
    pub target: Target,
    /// Its memory.
    pub memory: Arc<Memory>,
    /// Its settings.
    pub options: Options,
    /// Where what kernels print goes; standard output at first.
    pub output: Output,
    launches: AtomicU64,
    pub(crate) race_shadow: RaceShadow,
    /// Turns of a block before another one runs, where all are resident at once.
    workspace: Mutex<Option<u64>>,
}

/// Turns that a block of a cooperative grid has before the next one runs.
const COOPERATIVE_TURNS: u64 = 4;
/// Turns that a block has before another one is started beside it.
const TURNS: u64 = 256;
/// Bytes of the workspace that cooperative grids synchronise in.
const WORKSPACE_BYTES: u64 = 512;

impl Machine {
    /// A machine over `memory`.
    pub fn new(target: Target, memory: Arc<Memory>, options: Options) -> Machine {
        Machine {
            target,
            race_shadow: RaceShadow::new(memory.region()),
            memory,
            options,
            output: Box::new(|bytes| {
                use std::io::Write;
                let mut stdout = std::io::stdout().lock();
                // A closed standard output is no reason for a kernel to fail.
                let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
            }),
            launches: AtomicU64::new(0),
            workspace: Mutex::new(None),
        }
    }

    /// Runs a launch to its end. What the kernel prints goes to [`Machine::output`].
    ///
    /// # Errors
    /// The first finding of the launch, that of the lowest block at any number of cores.
    pub fn launch(&self, kernel: &Kernel, launch: &Launch) -> Result<Counters, Fault> {
        self.validate(kernel, launch)?;
        let Some(level) = lanes::Level::detect() else {
            return Err(Fault {
                kind: FaultKind::OutOfResources,
                text: "softcuda needs a processor with AVX2, FMA and BMI".to_string(),
            });
        };
        let dynamic_base = kernel.static_shared.next_multiple_of(kernel.dynamic_align);
        let shared_bytes = if launch.dynamic_shared > 0 {
            dynamic_base + launch.dynamic_shared
        } else {
            kernel.static_shared
        };
        let env = Env {
            machine: self,
            kernel,
            launch,
            level,
            region: self.memory.region(),
            shared_bytes,
            dynamic_base,
            threads: launch.block.iter().product(),
            deadline: self.options.timeout.map(|timeout| Instant::now() + timeout),
            grid_workspace: if launch.cooperative {
                self.grid_workspace()?
            } else {
                0
            },
            grid_id: self.launches.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let blocks = launch.grid.iter().map(|&n| u64::from(n)).product();
        self.race_shadow.start(self.options.checks.races, blocks);
        let done = if launch.cooperative {
            self.run_ordered(&env, blocks, COOPERATIVE_TURNS, true)
        } else if env.in_clusters() {
            self.run_ordered(&env, blocks, COOPERATIVE_TURNS, false)
        } else if kernel.traits.ordered {
            self.run_ordered(&env, blocks, TURNS, false)
        } else {
            self.run_parallel(&env, blocks)
        };
        if !done.output.is_empty() {
            (self.output)(&done.output);
        }
        if let Some(fault) = done.fault {
            return Err(*fault);
        }
        Ok(done.tally.map_or_else(Counters::default, |tally| {
            tally.finish(self, kernel, launch)
        }))
    }

    /// The workspace of cooperative grids, zeroed.
    fn grid_workspace(&self) -> Result<u64, Fault> {
        let mut workspace = self.workspace.lock().unwrap_or_else(|e| e.into_inner());
        let address = match *workspace {
            Some(address) => address,
            None => self
                .memory
                .allocate(WORKSPACE_BYTES, "workspace of cooperative grids")
                .map_err(|e| Fault {
                    kind: FaultKind::OutOfResources,
                    text: e.to_string(),
                })?,
        };
        *workspace = Some(address);
        if let Ok(pointer) = self.memory.slice(address, WORKSPACE_BYTES) {
            // SAFETY: the range is one live allocation that only grids in flight use.
            unsafe { std::ptr::write_bytes(pointer, 0, WORKSPACE_BYTES as usize) };
            self.memory.mark_written(address, WORKSPACE_BYTES);
        }
        Ok(address)
    }

    fn validate(&self, kernel: &Kernel, launch: &Launch) -> Result<(), Fault> {
        let fail = |kind: FaultKind, what: String| {
            Err(Fault {
                kind,
                text: format!("launch of `{}`: {what}", kernel.name),
            })
        };
        use FaultKind::{CooperativeTooLarge, InvalidConfiguration as Invalid, OutOfResources};
        for (what, sizes, limits) in [
            ("grid", launch.grid, GRID_LIMITS),
            ("block", launch.block, BLOCK_LIMITS),
        ] {
            for axis in 0..3 {
                if sizes[axis] == 0 || sizes[axis] > limits[axis] {
                    return fail(
                        Invalid,
                        format!("{what} {sizes:?}: expected 1 to {limits:?} along each axis"),
                    );
                }
            }
        }
        let threads: u32 = launch.block.iter().product();
        if threads > THREADS_PER_BLOCK {
            return fail(
                Invalid,
                format!("{threads} threads a block: at most {THREADS_PER_BLOCK}"),
            );
        }
        if threads > kernel.max_threads {
            let most = kernel.max_threads;
            return fail(
                Invalid,
                format!("{threads} threads a block: its `.maxntid` is {most}"),
            );
        }
        if let Some(shape) = kernel.required_block
            && shape != launch.block
        {
            return fail(
                Invalid,
                format!("block {:?}: it requires {shape:?}", launch.block),
            );
        }
        for axis in 0..3 {
            if launch.cluster[axis] == 0 || !launch.grid[axis].is_multiple_of(launch.cluster[axis])
            {
                return fail(
                    Invalid,
                    format!(
                        "grid {:?} isn't a multiple of cluster {:?}",
                        launch.grid, launch.cluster
                    ),
                );
            }
        }
        if launch.cluster != [1; 3] {
            let size: u32 = launch.cluster.iter().product();
            if self.target.sm < 90 || size > 16 {
                return fail(
                    Invalid,
                    format!("clusters of {size} blocks on sm_{}", self.target.sm),
                );
            }
        }
        let params = kernel.params.last().map_or(0, |p| p.offset + p.size) as usize;
        if launch.params.len() < params {
            let found = launch.params.len();
            return fail(
                Invalid,
                format!("{found} bytes of parameters: it takes {params}"),
            );
        }
        let shared = u64::from(kernel.static_shared) + u64::from(launch.dynamic_shared);
        let limit = self.target.shared_per_block_optin;
        if shared > u64::from(limit) {
            let what = format!("{shared} bytes of shared memory: at most {limit} on this device");
            return fail(Invalid, what);
        }
        let resident = self
            .target
            .occupancy(threads, kernel.registers, shared as u32);
        if resident == 0 {
            let registers = kernel.registers;
            return fail(
                OutOfResources,
                format!("a block of {threads} threads with {registers} registers doesn't fit"),
            );
        }
        let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
        let most = u64::from(resident) * u64::from(self.target.multiprocessors);
        if launch.cooperative && blocks > most {
            return fail(
                CooperativeTooLarge,
                format!("{blocks} blocks of a cooperative grid: at most {most} are resident"),
            );
        }
        Ok(())
    }

    /// Independent blocks, over the cores.
    fn run_parallel(&self, env: &Env, blocks: u64) -> Done {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let asked = if self.options.threads == 0 {
            cores
        } else {
            self.options.threads
        };
        let workers = (asked as u64).min(blocks).max(1);
        let order = self.options.schedule.map(|_| {
            schedule(
                self.options.schedule,
                usize::try_from(blocks).unwrap_or(0),
                env.grid_id,
            )
        });
        let next = AtomicU64::new(0);
        let first_fault = AtomicU64::new(u64::MAX);
        let work = || {
            let mut done = Done::default();
            let mut block = Block::new(env);
            loop {
                let position = next.fetch_add(1, Ordering::Relaxed);
                if position >= blocks {
                    break;
                }
                let index = match &order {
                    Some(order) => order.get(position as usize).map_or(position, |&i| i as u64),
                    None => position,
                };
                // Blocks behind a fault need not run; those before it decide which fault is reported.
                if index > first_fault.load(Ordering::Relaxed) {
                    continue;
                }
                if let Err(fault) = run_to_end(&mut block, index) {
                    first_fault.fetch_min(index, Ordering::Relaxed);
                    done.take_fault(index, fault);
                }
                let output = std::mem::take(&mut block.state.output);
                if !output.is_empty() {
                    done.outputs.push((index, output));
                }
            }
            done.tally = Some(block.state.tally);
            done
        };
        let results: Vec<Done> = if workers == 1 {
            vec![work()]
        } else {
            std::thread::scope(|scope| {
                let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
                handles
                    .into_iter()
                    .map(|handle| match handle.join() {
                        Ok(done) => done,
                        Err(panic) => std::panic::resume_unwind(panic),
                    })
                    .collect()
            })
        };
        results
            .into_iter()
            .fold(Done::default(), Done::merge)
            .finish()
    }

    /// Blocks that may wait for each other, on one thread: each runs to its end unless it spins, in which
    /// case others run beside it, as many as are resident on the device.
    fn run_ordered(&self, env: &Env, blocks: u64, turns: u64, all: bool) -> Done {
        let resident = u64::from(self.target.occupancy(
            env.threads,
            env.kernel.registers,
            env.shared_bytes,
        )) * u64::from(self.target.multiprocessors);
        // Blocks of a cluster start together.
        let together: u32 = env.launch.cluster.iter().product();
        let resident = resident.max(u64::from(together));
        let units = blocks / u64::from(together);
        let order = schedule(
            self.options.schedule,
            usize::try_from(units).unwrap_or(0),
            env.grid_id,
        );
        let mut next = order.into_iter();
        let mut running: Vec<Block> = Vec::new();
        let mut spare: Vec<Block> = Vec::new();
        let mut done = Done::default();
        let mut exhausted = false;
        let mut idle = 0;
        let mut order_between = self.options.checks.races.then(crate::check::Order::default);
        loop {
            let want = if all {
                resident
            } else {
                (running.len() as u64 + 1).min(resident)
            };
            while !exhausted && (running.len() as u64) < want {
                let Some(index) = next.next() else {
                    exhausted = true;
                    break;
                };
                let cluster = env.in_clusters().then(|| {
                    let threads = env.threads * together;
                    Rc::new(cluster::Cluster::new(index as u64, threads))
                });
                for rank in 0..together {
                    let number = member_of_cluster(env.launch, index as u64, rank);
                    let mut block = spare.pop().unwrap_or_else(|| Block::new(env));
                    if let Err(fault) = block.start(number) {
                        done.take_fault(number, fault);
                        return done.finish();
                    }
                    if let Some(cluster) = &cluster {
                        block.join(cluster);
                    }
                    running.push(block);
                }
            }
            if running.is_empty() {
                break;
            }
            // A round: every running block has its turns. Two in which all only wait end nowhere.
            idle = if running.iter().all(|block| block.state.waits) {
                idle + 1
            } else {
                0
            };
            if idle > 2 {
                done.take_fault(running[0].state.index, running[0].deadlock());
                return done.finish();
            }
            let mut index = 0;
            while index < running.len() {
                let block = &mut running[index];
                let number = block.state.index;
                block.state.order = order_between.take();
                let result = block.run(turns);
                order_between = block.state.order.take();
                match result {
                    Ok(ended) => {
                        let output = std::mem::take(&mut block.state.output);
                        if !output.is_empty() {
                            done.outputs.push((number, output));
                        }
                        if ended {
                            let block = running.remove(index);
                            spare.push(block);
                            continue;
                        }
                    }
                    Err(fault) => {
                        done.outputs
                            .push((number, std::mem::take(&mut block.state.output)));
                        done.take_fault(number, fault);
                        return done.finish();
                    }
                }
                index += 1;
            }
        }
        for block in spare {
            let other = Done {
                tally: Some(block.state.tally),
                ..Done::default()
            };
            done = done.merge(other);
        }
        done.finish()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(address) = self
            .workspace
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .take()
        {
            // Only this machine knows the workspace, so this can't fail.
            let _ = self.memory.free(address);
        }
    }
}

fn run_to_end(block: &mut Block, index: u64) -> Result<(), Box<Fault>> {
    block.start(index)?;
    while !block.run(u64::MAX)? {}
    Ok(())
}

/// The number in the grid of the block of that rank in a cluster.
fn member_of_cluster(launch: &Launch, cluster: u64, rank: u32) -> u64 {
    let shape = launch.cluster.map(u64::from);
    let grid = launch.grid.map(u64::from);
    let clusters: [u64; 3] = std::array::from_fn(|i| grid[i] / shape[i]);
    let place = |index: u64, [x, y, _]: [u64; 3]| [index % x, index / x % y, index / x / y];
    let (base, inner) = (place(cluster, clusters), place(u64::from(rank), shape));
    let at: [u64; 3] = std::array::from_fn(|i| base[i] * shape[i] + inner[i]);
    at[0] + grid[0] * (at[1] + grid[1] * at[2])
}

/// What workers bring back.
#[derive(Default)]
struct Done {
    tally: Option<crate::count::Tally>,
    fault: Option<Box<Fault>>,
    fault_block: u64,
    outputs: Vec<(u64, Vec<u8>)>,
    output: Vec<u8>,
}

impl Done {
    fn take_fault(&mut self, block: u64, fault: Box<Fault>) {
        if self.fault.is_none() || block < self.fault_block {
            self.fault = Some(fault);
            self.fault_block = block;
        }
    }

    fn merge(mut self, other: Done) -> Done {
        if let Some(fault) = other.fault {
            self.take_fault(other.fault_block, fault);
        }
        self.outputs.extend(other.outputs);
        self.tally = match (self.tally, other.tally) {
            (Some(a), Some(b)) => Some(a.merge(b)),
            (a, b) => a.or(b),
        };
        self
    }

    /// What was printed, in the order of the blocks.
    fn finish(mut self) -> Done {
        self.outputs.sort_by_key(|(block, _)| *block);
        self.output = self
            .outputs
            .drain(..)
            .flat_map(|(_, bytes)| bytes)
            .collect();
        self
    }
}

/// The numbers below `count`, shuffled where a seed is given.
pub(crate) fn schedule(seed: Option<u64>, count: usize, salt: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let Some(seed) = seed else { return order };
    // SplitMix64 and Fisher–Yates.
    let mut state = seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for last in (1..count).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        order.swap(last, (z % (last as u64 + 1)) as usize);
    }
    order
}
