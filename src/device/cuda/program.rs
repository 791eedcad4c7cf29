//! A recording on its device: functions resolved, tables uploaded, captured as a graph, replayed.

use super::gpu::{Buffer, Gpu};
use super::hash::fnv128;
use super::launch::{Header, Recording, Step};
use super::ranges::range;
use cudarc::driver::sys::{
    CUevent_flags, CUfunction_attribute_enum, CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use cudarc::driver::{CudaFunction, CudaGraph, DriverError, result};
use std::collections::HashMap;

/// Dynamic shared memory that needs no leave, in bytes: 48 KiB less what a kernel declares itself.
const SHARED_WITHOUT_LEAVE: u32 = 32 << 10;

enum Ready {
    Launch {
        function: CudaFunction,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        parameters: Vec<u8>,
        name: String,
        op: &'static str,
    },
    Zero {
        address: u64,
        bytes: usize,
    },
}

/// See the module.
pub struct Program {
    name: &'static str,
    steps: Vec<Ready>,
    graph: Option<CudaGraph>,
    // Read by the launches.
    _constants: Option<Buffer>,
}

// SAFETY: a graph may be used by one thread at a time, and is used through `&mut` alone.
unsafe impl Send for Program {}

impl Program {
    /// Prepares `recording`; its tables, if it has any, go to `constants`, whose address it was
    /// encoded with.
    ///
    /// # Errors
    /// A kernel that does not compile or load, or the driver's.
    pub fn load(
        gpu: &Gpu,
        recording: Recording,
        constants: Option<Buffer>,
    ) -> anyhow::Result<Program> {
        if let Some(constants) = &constants {
            assert!(recording.constants.len() <= constants.bytes());
            gpu.write(constants.address(), &recording.constants)?;
            // The host's copy goes when this returns.
            gpu.wait()?;
        }
        let mut functions = gpu.functions(&recording)?.into_iter();
        let mut steps = Vec::with_capacity(recording.steps.len());
        for step in recording.steps {
            steps.push(match step {
                Step::Zero { address, bytes } => Ready::Zero { address, bytes },
                Step::Launch(mut launch) => {
                    let (function, number) = functions.next().expect("one for each launch");
                    if launch.shared > SHARED_WITHOUT_LEAVE {
                        let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                        let bytes = i32::try_from(launch.shared).unwrap_or(i32::MAX);
                        let what = format!("{bytes} bytes of shared memory for {}", launch.kernel);
                        gpu.check(&what, function.set_attribute(attribute, bytes))?;
                    }
                    let header = Header {
                        progress: gpu.progress(),
                        launch: number,
                        unused: 0,
                    };
                    let bytes = bytemuck::bytes_of(&header);
                    launch.parameters[..bytes.len()].copy_from_slice(bytes);
                    Ready::Launch {
                        function,
                        grid: launch.grid,
                        threads: launch.threads,
                        shared: launch.shared,
                        parameters: launch.parameters,
                        name: launch.kernel.entry.to_owned(),
                        op: launch.op,
                    }
                }
            });
        }
        Ok(Program {
            name: recording.name,
            steps,
            graph: None,
            _constants: constants,
        })
    }

    /// Launches in it.
    pub fn launches(&self) -> usize {
        let launches = self.steps.iter();
        launches
            .filter(|step| matches!(step, Ready::Launch { .. }))
            .count()
    }

    /// Runs it: one call to the driver, after the first time.
    ///
    /// # Errors
    /// The driver's. A kernel's fault may show only in a later call.
    pub fn replay(&mut self, gpu: &Gpu) -> anyhow::Result<()> {
        if self.graph.is_none() {
            self.graph = Some(self.capture(gpu)?);
        }
        let _range = range(self.name);
        let graph = self.graph.as_ref().expect("captured above");
        gpu.check(self.name, graph.launch())
    }

    fn capture(&mut self, gpu: &Gpu) -> anyhow::Result<CudaGraph> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        gpu.check("capturing", gpu.stream().begin_capture(mode))?;
        let issued = self.issue(gpu);
        // The capture ends in any case, so that the stream can be used for the error's report.
        let graph = gpu.stream().end_capture(CUgraphInstantiate_flags(0));
        issued?;
        let graph = gpu.check("a graph", graph)?;
        graph.ok_or_else(|| anyhow::anyhow!("CUDA: {}: capturing gave no graph", self.name))
    }

    /// Runs it launch by launch, in ranges of their ops.
    ///
    /// # Errors
    /// The driver's.
    pub fn issue(&mut self, gpu: &Gpu) -> anyhow::Result<()> {
        for step in &mut self.steps {
            match step {
                Ready::Zero { address, bytes } => gpu.zero(*address, *bytes)?,
                Ready::Launch { op, .. } => {
                    let _range = range(op);
                    let name = *op;
                    gpu.check(name, step.launch(gpu))?;
                }
            }
        }
        Ok(())
    }
}

/// One launch, measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The kernel's entry.
    pub kernel: String,
    /// The op it belongs to.
    pub op: &'static str,
    /// Between events before and behind it.
    pub time_us: f64,
    /// Registers a thread.
    pub registers: u32,
    /// Local memory a thread: stack and spilled registers.
    pub local_bytes: u32,
    /// Warps that fit a multiprocessor, of those it has room for.
    pub occupancy: f64,
}

impl Program {
    /// Runs it launch by launch, each between two events.
    ///
    /// # Errors
    /// The driver's.
    pub fn measure(&mut self, gpu: &Gpu) -> anyhow::Result<Vec<Measured>> {
        let mut found = Vec::new();
        for step in &mut self.steps {
            if let Ready::Zero { address, bytes } = step {
                gpu.zero(*address, *bytes)?;
                continue;
            }
            let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
            let begin = gpu.stream().record_event(flags);
            let begin = gpu.check("an event", begin)?;
            let launched = step.launch(gpu);
            gpu.check("a launch", launched)?;
            let end = gpu.check("an event", gpu.stream().record_event(flags))?;
            gpu.wait()?;
            let Ready::Launch {
                function,
                threads,
                shared,
                name,
                op,
                ..
            } = step
            else {
                continue;
            };
            let blocks = function.occupancy_max_active_blocks_per_multiprocessor(
                *threads,
                *shared as usize,
                None,
            );
            let blocks = gpu.check("occupancy", blocks)?;
            let warps = f64::from(blocks * threads.div_ceil(32));
            let count = |value: i32| u32::try_from(value).unwrap_or(0);
            found.push(Measured {
                kernel: name.clone(),
                op,
                time_us: 1e3 * f64::from(gpu.check("a time", begin.elapsed_ms(&end))?),
                registers: count(gpu.check("registers", function.num_regs())?),
                local_bytes: count(gpu.check("local memory", function.local_size_bytes())?),
                occupancy: warps / f64::from(gpu.most_warps()?),
            });
        }
        Ok(found)
    }
}

impl Ready {
    fn launch(&mut self, gpu: &Gpu) -> Result<(), DriverError> {
        let Ready::Launch {
            function,
            grid,
            threads,
            shared,
            parameters,
            ..
        } = self
        else {
            return Ok(());
        };
        gpu.stream().context().bind_to_thread()?;
        let [x, y, z] = *grid;
        let mut arguments = [parameters.as_mut_ptr().cast()];
        // SAFETY: the kernel takes one struct, whose layout both sides state (`layout_test!`, LAYOUT), and
        // the driver copies it during the call; the addresses in it are of buffers that the executor or
        // the vectors' owner keeps while the recording may run.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (*threads, 1, 1),
                *shared,
                gpu.stream().cu_stream(),
                &mut arguments,
            )
        }
    }
}

/// Small programs by content, the most recently used ones.
#[derive(Default)]
pub(super) struct Programs {
    kept: HashMap<u128, (Program, u64)>,
    clock: u64,
}

/// Programs that are kept: a few updates, at the addresses and settings in use.
const KEPT: usize = 64;

impl Programs {
    pub(super) fn replay(&mut self, gpu: &Gpu, recording: Recording) -> anyhow::Result<()> {
        self.clock += 1;
        let key = key(&recording);
        if !self.kept.contains_key(&key) {
            if self.kept.len() >= KEPT {
                let oldest = self.kept.iter().min_by_key(|(_, (_, used))| *used);
                if let Some(oldest) = oldest.map(|(&key, _)| key) {
                    self.kept.remove(&oldest);
                }
            }
            let program = Program::load(gpu, recording, None)?;
            self.kept.insert(key, (program, self.clock));
        }
        let (program, used) = self.kept.get_mut(&key).expect("inserted above");
        *used = self.clock;
        program.replay(gpu)
    }
}

/// A hash of all that a recording does.
fn key(recording: &Recording) -> u128 {
    let mut text = Vec::new();
    for step in &recording.steps {
        match step {
            Step::Zero { address, bytes } => {
                text.extend(address.to_le_bytes());
                text.extend(bytes.to_le_bytes());
            }
            Step::Launch(launch) => {
                text.extend(launch.kernel.to_string().into_bytes());
                let sizes = launch.grid.iter().chain([&launch.threads, &launch.shared]);
                text.extend(sizes.flat_map(|n| n.to_le_bytes()));
                text.extend(&launch.parameters);
            }
        }
    }
    fnv128(&text)
}
