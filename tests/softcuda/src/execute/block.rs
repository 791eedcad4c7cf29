//! A block: its shared memory, its barriers, and the order in which its warps run.

use std::rc::Rc;

use super::cluster::{Cluster, Member};
use super::lanes::Level;
use super::warp::{State, Warp};
use super::{Launch, Machine};
use crate::check::{Fault, FaultKind};
use crate::lower::Kernel;
use crate::lower::inst::Special;

/// First generic address of the shared-memory window.
pub(crate) const SHARED_BASE: u64 = 0x1000_0000_0000;
/// Distance between the windows of a cluster's blocks.
pub(crate) const SHARED_WINDOW: u64 = 1 << 24;
/// First generic address of the local-memory window.
pub(crate) const LOCAL_BASE: u64 = 0x1800_0000_0000;
/// First generic address of the parameter window.
pub(crate) const PARAM_BASE: u64 = 0x1c00_0000_0000;
/// Length of the local and parameter windows.
pub(crate) const WINDOW: u64 = 1 << 32;

/// Warp instructions that a warp runs before others have a turn.
const SLICE: u64 = 1 << 16;

/// What is the same for all blocks of a launch.
pub(crate) struct Env<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) kernel: &'m Kernel,
    pub(crate) launch: &'m Launch,
    pub(crate) level: Level,
    /// The address region of the device's memory.
    pub(crate) region: (u64, u64),
    /// Static and dynamic shared memory in bytes.
    pub(crate) shared_bytes: u32,
    /// Where dynamic shared memory starts.
    pub(crate) dynamic_base: u32,
    pub(crate) threads: u32,
    pub(crate) deadline: Option<std::time::Instant>,
    /// Address of the workspace that cooperative grids synchronise in, or 0.
    pub(crate) grid_workspace: u64,
    /// Number of the launch on this device.
    pub(crate) grid_id: u64,
}

impl Env<'_> {
    /// Whether blocks have to run in clusters: side by side, with what they share.
    pub(crate) fn in_clusters(&self) -> bool {
        self.launch.cluster != [1; 3] || self.kernel.traits.cluster
    }
}

/// A block barrier.
#[derive(Clone, Copy, Default)]
pub(crate) struct Barrier {
    /// Threads that have arrived.
    pub(crate) arrived: u32,
    /// Threads that have to arrive, where the instruction says; else all that haven't exited.
    pub(crate) expected: Option<u32>,
    /// Counts completions.
    pub(crate) generation: u32,
    /// Threads whose predicate was true.
    pub(crate) count: u32,
    /// `count` and arrivals of the completed generation.
    pub(crate) result: (u32, u32),
    /// Where a thread arrived first, for findings: function, instruction.
    pub(crate) at: (u32, u32),
    /// Warps that have arrived.
    pub(crate) warps: u32,
}

/// How far a turn of a warp went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All lanes have exited.
    Exited,
    /// Every fragment waits for another warp.
    Blocked,
    /// The slice is used up, or the warp spins.
    Yielded,
}

/// What of a block isn't warps.
pub(crate) struct BlockState<'m> {
    pub(crate) env: &'m Env<'m>,
    /// Number of the block in the grid.
    pub(crate) index: u64,
    pub(crate) id: [u32; 3],
    /// Shared memory; 128-byte aligned.
    pub(crate) shared: Vec<u128>,
    /// One bit for each byte of shared memory that was written.
    pub(crate) shared_written: Vec<u64>,
    pub(crate) barriers: [Barrier; 16],
    /// Threads that haven't exited.
    pub(crate) alive: u32,
    /// The last instruction of the kernel that a thread has exited at.
    pub(crate) last_exit: u32,
    /// An uninitialised read of shared memory, and how often barriers had completed by then: where another
    /// thread writes the word before the next barrier, the finding is that race instead.
    pub(crate) suspect: Option<(Box<Fault>, u32)>,
    /// What it shares with the other blocks of its cluster, where it has one.
    pub(crate) cluster: Option<Rc<Cluster>>,
    /// The generation of the cluster's barrier that the block has seen.
    pub(crate) cluster_seen: u32,
    /// Whether all its warps wait for the cluster's barrier.
    pub(crate) waits: bool,
    /// What the block has printed.
    pub(crate) output: Vec<u8>,
    /// Orders between the blocks of the launch, where they can have any; it is lent to the block that
    /// runs.
    pub(crate) order: Option<crate::check::Order>,
    pub(crate) tally: crate::count::Tally,
    pub(crate) watch: crate::check::Watch,
}

impl<'m> BlockState<'m> {
    pub(crate) fn shared_pointer(&mut self) -> *mut u8 {
        self.shared.as_mut_ptr().cast()
    }

    /// Whether everything from the lowest to the highest byte of an access to shared memory was written;
    /// gives up on long ranges.
    pub(crate) fn all_written(&self, found: super::access::Survey, bytes: u64) -> bool {
        let (first, last) = (found.min / 64, (found.max + bytes - 1) / 64);
        if last - first > 64 {
            return false;
        }
        (first..=last).all(|word| {
            let mut bits = u64::MAX;
            if word == first {
                bits &= u64::MAX << (found.min % 64);
            }
            if word == last {
                bits &= u64::MAX >> (63 - (found.max + bytes - 1) % 64);
            }
            self.shared_written[word as usize] & bits == bits
        })
    }

    /// A few bytes of shared memory.
    pub(crate) fn shared_bytes_at(&self, offset: u64, bytes: u64) -> Vec<u8> {
        (offset..offset + bytes)
            .map(|at| {
                let word = self.shared.get(at as usize / 16).copied().unwrap_or(0);
                word.to_le_bytes()[at as usize % 16]
            })
            .collect()
    }

    /// Number of the block in its cluster.
    pub(crate) fn rank(&self) -> u32 {
        let cluster = self.env.launch.cluster;
        let at: [u32; 3] = std::array::from_fn(|i| self.id[i] % cluster[i]);
        at[0] + cluster[0] * (at[1] + cluster[1] * at[2])
    }

    /// The value of a special register.
    pub(crate) fn special(&self, warp: u32, special: Special, lane: usize) -> u64 {
        let launch = self.env.launch;
        let [x, y, _] = launch.block;
        let thread = warp * 32 + lane as u32;
        let axis3 = |values: [u32; 3], axis: u8| {
            u64::from(values.get(usize::from(axis)).copied().unwrap_or(0))
        };
        let cluster = launch.cluster;
        let in_cluster: [u32; 3] = std::array::from_fn(|i| self.id[i] % cluster[i]);
        let target = &self.env.machine.target;
        let value = match special {
            Special::Tid(axis) => {
                return axis3([thread % x, thread / x % y, thread / x / y], axis);
            }
            Special::Ntid(axis) => return axis3(launch.block, axis),
            Special::Ctaid(axis) => return axis3(self.id, axis),
            Special::Nctaid(axis) => return axis3(launch.grid, axis),
            Special::LaneId => lane as u32,
            Special::WarpId => warp,
            Special::NwarpId => self.env.threads.div_ceil(32),
            Special::SmId => (self.index % u64::from(target.multiprocessors)) as u32,
            Special::NsmId => target.multiprocessors,
            Special::GridId => return self.env.grid_id,
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLt => (1u32 << lane) - 1,
            Special::LaneMaskLe => u32::MAX >> (31 - lane),
            Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
            Special::LaneMaskGe => u32::MAX << lane,
            // Cooperative groups read their workspace's address here: high word, low word.
            Special::EnvReg(1) => (self.env.grid_workspace >> 32) as u32,
            Special::EnvReg(2) => self.env.grid_workspace as u32,
            Special::EnvReg(_) => 0,
            Special::DynamicShared => self.env.dynamic_base,
            Special::DynamicSharedSize => launch.dynamic_shared,
            Special::TotalShared => self.env.shared_bytes,
            Special::ClusterId(axis) => {
                let ids = std::array::from_fn(|i| self.id[i] / cluster[i]);
                return axis3(ids, axis);
            }
            Special::NclusterId(axis) => {
                let counts = std::array::from_fn(|i| launch.grid[i].div_ceil(cluster[i]));
                return axis3(counts, axis);
            }
            Special::ClusterCtaid(axis) => return axis3(in_cluster, axis),
            Special::ClusterNctaid(axis) => return axis3(cluster, axis),
            Special::ClusterCtaRank => self.rank(),
            Special::ClusterNctaRank => cluster.iter().product(),
            Special::IsExplicitCluster => u32::from(cluster != [1; 3]),
            Special::FrameBase => 0,
        };
        u64::from(value)
    }

    /// A finding at an instruction, for people.
    pub(crate) fn fault(
        &self,
        kind: FaultKind,
        warp: &Warp,
        function: u32,
        pc: u32,
        lane: u32,
        message: &str,
    ) -> Box<Fault> {
        let thread = self.thread(warp.index * 32 + lane);
        let [bx, by, bz] = self.id;
        let text = format!(
            "{message}\n    at {}\n    in block ({bx},{by},{bz}), thread {thread}",
            self.place(function, pc)
        );
        Box::new(Fault { kind, text })
    }

    /// `(x,y,z)` of a thread.
    pub(crate) fn thread(&self, thread: u32) -> String {
        let [x, y, _] = self.env.launch.block;
        format!("({},{},{})", thread % x, thread / x % y, thread / x / y)
    }

    /// Kernel, function, source line of an instruction.
    pub(crate) fn place(&self, function: u32, pc: u32) -> String {
        self.env.kernel.place(function, pc)
    }

    /// Of a fault and an uninitialised read before it, the one to report.
    fn first_cause(&mut self, fault: Box<Fault>) -> Box<Fault> {
        match self.suspect.take() {
            Some((suspect, _)) if fault.kind != FaultKind::Race => suspect,
            _ => fault,
        }
    }

    /// Completes barriers that wait only for threads that have exited. Returns whether any did.
    pub(crate) fn complete_barriers(&mut self) -> bool {
        let mut any = false;
        for id in 0..self.barriers.len() {
            let barrier = &self.barriers[id];
            let expected = barrier.expected.unwrap_or(self.alive);
            if barrier.arrived > 0 && barrier.arrived >= expected {
                self.complete(id);
                any = true;
            }
        }
        any
    }

    /// How often barriers of the block have completed.
    pub(crate) fn barriers_completed(&self) -> u32 {
        self.barriers
            .iter()
            .fold(0, |sum, barrier| sum.wrapping_add(barrier.generation))
    }

    /// With the check on: threads have exited behind a barrier that others still come to, so they went
    /// round it. Threads that return before it are no matter.
    pub(crate) fn went_round(&self, id: usize) -> bool {
        let barrier = &self.barriers[id];
        self.env.machine.options.checks.barriers
            && barrier.expected.is_none()
            && barrier.arrived > 0
            && self.alive < self.env.threads
            && barrier.at.0 == 0
            && self.last_exit > barrier.at.1
    }

    /// All threads have come to the barrier.
    pub(crate) fn complete(&mut self, id: usize) {
        let barrier = &mut self.barriers[id];
        let warps = barrier.warps;
        barrier.result = (barrier.count, barrier.arrived);
        barrier.generation = barrier.generation.wrapping_add(1);
        (
            barrier.arrived,
            barrier.count,
            barrier.expected,
            barrier.warps,
        ) = (0, 0, None, 0);
        self.watch.barrier(warps);
    }
}

/// A block and its warps.
pub(crate) struct Block<'m> {
    pub(crate) state: BlockState<'m>,
    pub(crate) warps: Vec<Warp>,
    order: Vec<usize>,
    /// Nothing has been run since it was started.
    live: usize,
}

impl<'m> Block<'m> {
    pub(crate) fn new(env: &'m Env<'m>) -> Block<'m> {
        let warps = env.threads.div_ceil(32);
        let checks = env.machine.options.checks;
        let words = (env.shared_bytes as usize).div_ceil(128) * 8 + 8;
        Block {
            state: BlockState {
                env,
                index: 0,
                id: [0; 3],
                shared: vec![0; words],
                shared_written: vec![0; (env.shared_bytes as usize).div_ceil(64) + 1],
                barriers: [Barrier::default(); 16],
                alive: env.threads,
                last_exit: 0,
                suspect: None,
                cluster: None,
                cluster_seen: 0,
                waits: false,
                output: Vec::new(),
                order: None,
                tally: crate::count::Tally::new(env.kernel, &env.machine.options),
                watch: crate::check::Watch::new(checks, warps, env.shared_bytes),
            },
            warps: (0..warps).map(Warp::new).collect(),
            order: Vec::new(),
            live: 0,
        }
    }

    /// Puts the block at the start of block `index` of the grid.
    pub(crate) fn start(&mut self, index: u64) -> Result<(), Box<Fault>> {
        let env = self.state.env;
        let [gx, gy, _] = env.launch.grid.map(u64::from);
        let state = &mut self.state;
        state.index = index;
        state.id = [
            (index % gx) as u32,
            (index / gx % gy) as u32,
            (index / gx / gy) as u32,
        ];
        state.shared_written.fill(0);
        if !env.machine.options.checks.uninitialised {
            // What shared memory holds at first is undefined, but the same at any number of cores.
            state.shared.fill(0);
        }
        state.barriers = [Barrier::default(); 16];
        state.alive = env.threads;
        (state.last_exit, state.suspect) = (0, None);
        let ordered = env.launch.cooperative || env.kernel.traits.ordered || env.in_clusters();
        (state.cluster, state.cluster_seen, state.waits) = (None, 0, false);
        state
            .watch
            .start_block(index, &env.machine.race_shadow, ordered);
        for warp in &mut self.warps {
            let threads = env.threads - warp.index * 32;
            let lanes = if threads >= 32 {
                u32::MAX
            } else {
                (1 << threads) - 1
            };
            let state = &self.state;
            let index = warp.index;
            let special = |special, lane| state.special(index, special, lane);
            if warp.start(env.kernel, lanes, &special).is_err() {
                return Err(Box::new(Fault {
                    kind: FaultKind::StackOverflow,
                    text: format!("kernel `{}`: not enough local memory", env.kernel.name),
                }));
            }
        }
        self.live = self.warps.len();
        self.order = super::schedule(
            env.machine.options.schedule,
            self.warps.len(),
            index ^ 0x9e37_79b9_7f4a_7c15,
        );
        Ok(())
    }

    /// Makes the block the next of a cluster.
    pub(crate) fn join(&mut self, cluster: &Rc<Cluster>) {
        let state = &mut self.state;
        cluster.join(Member {
            shared: state.shared.as_mut_ptr().cast(),
            written: state.shared_written.as_mut_ptr(),
            ended: false,
        });
        state.cluster = Some(Rc::clone(cluster));
    }

    /// Runs the warps in turns, each at most `turns` times. Returns whether the block has ended.
    pub(crate) fn run(&mut self, turns: u64) -> Result<bool, Box<Fault>> {
        self.state.waits = false;
        for _ in 0..turns {
            let mut progress = false;
            let mut spinning = false;
            for position in 0..self.order.len() {
                let warp = &mut self.warps[self.order[position]];
                if warp.alive() == 0 {
                    continue;
                }
                let before = warp.clock;
                let stop = match warp.run(&mut self.state, SLICE) {
                    Ok(stop) => stop,
                    Err(fault) => return Err(self.state.first_cause(fault)),
                };
                progress |= warp.clock != before;
                match stop {
                    Stop::Exited => {
                        self.live -= 1;
                        progress = true;
                    }
                    Stop::Blocked => {}
                    Stop::Yielded => spinning = true,
                }
            }
            let completed = self.state.barriers_completed();
            if let Some((fault, _)) = self
                .state
                .suspect
                .take_if(|(_, at)| *at != completed || self.live == 0)
            {
                return Err(fault);
            }
            if self.live == 0 {
                if let Some(cluster) = &self.state.cluster {
                    cluster.end(self.state.rank());
                }
                return Ok(true);
            }
            for id in 0..16 {
                if self.state.went_round(id) {
                    return Err(self.went_round(id));
                }
            }
            if self.state.complete_barriers() {
                continue;
            }
            if !progress && !spinning {
                let mut fragments = self.warps.iter().flat_map(|warp| &warp.fragments);
                if fragments.any(|f| matches!(f.state, State::Cluster { .. })) {
                    self.state.waits = true;
                    return Ok(false);
                }
                return Err(self.deadlock());
            }
            if let Some(deadline) = self.state.env.deadline
                && std::time::Instant::now() > deadline
            {
                return Err(self.timeout());
            }
        }
        Ok(false)
    }

    /// Where some fragment is: warp, function, pc, lane.
    fn somewhere(&self) -> Option<(usize, u32, u32, u32)> {
        self.warps.iter().enumerate().find_map(|(index, warp)| {
            let fragment = warp.fragments.last()?;
            let function = warp.frames[fragment.frame as usize].function;
            Some((index, function, fragment.pc, fragment.mask.trailing_zeros()))
        })
    }

    fn went_round(&self, id: usize) -> Box<Fault> {
        let (function, pc) = self.state.barriers[id].at;
        let waits = |fragment: &super::warp::Fragment| matches!(fragment.state, State::Barrier { id: at, .. } if at as usize == id);
        let found = self.warps.iter().find_map(|warp| {
            warp.fragments
                .iter()
                .find(|f| waits(f))
                .map(|f| (warp, f.mask.trailing_zeros()))
        });
        let (warp, lane) = found.unwrap_or((&self.warps[0], 0));
        let message = format!(
            "divergent barrier: {} threads of the block reach barrier {id}, {} have gone round it and              exited at {}",
            self.state.barriers[id].arrived,
            self.state.env.threads - self.state.alive,
            self.state.place(0, self.state.last_exit)
        );
        self.state
            .fault(FaultKind::Barrier, warp, function, pc, lane, &message)
    }

    pub(crate) fn timeout(&self) -> Box<Fault> {
        let Some((warp, function, pc, lane)) = self.somewhere() else {
            return Box::new(Fault {
                kind: FaultKind::Timeout,
                text: "the launch ran out of time".to_string(),
            });
        };
        self.state.fault(
            FaultKind::Timeout,
            &self.warps[warp],
            function,
            pc,
            lane,
            "the launch ran past its time limit and was stopped",
        )
    }

    pub(crate) fn deadlock(&self) -> Box<Fault> {
        let Some((warp, function, pc, lane)) = self.somewhere() else {
            return Box::new(Fault {
                kind: FaultKind::Barrier,
                text: "the block waits for ever".to_string(),
            });
        };
        let mut message = String::from("deadlock: every warp of the block waits");
        for warp in &self.warps {
            for fragment in &warp.fragments {
                let function = warp.frames[fragment.frame as usize].function;
                let what = match fragment.state {
                    State::Barrier { id, .. } => {
                        let barrier = &self.state.barriers[id as usize];
                        format!(
                            "barrier {id}, which {} of {} threads have reached",
                            barrier.arrived,
                            barrier.expected.unwrap_or(self.state.alive)
                        )
                    }
                    State::Sync { members } => {
                        format!("lanes of mask {members:#010x} that never come")
                    }
                    State::Cluster { .. } => "the cluster's barrier".to_string(),
                    State::Ready => "a turn".to_string(),
                };
                message += &format!(
                    "\n    warp {} (lanes {:#010x}) waits for {what}, at {}",
                    warp.index,
                    fragment.mask,
                    self.state.place(function, fragment.pc)
                );
                if message.len() > 2000 {
                    break;
                }
            }
        }
        self.state.fault(
            FaultKind::Barrier,
            &self.warps[warp],
            function,
            pc,
            lane,
            &message,
        )
    }
}
