//! A GPU: its context and streams, device memory, loaded kernels, and what its errors mean.

use super::cache::Cache;
use super::compile::{compile, target};
use super::launch::{Kernel, Recording, SHARED_EVERYWHERE, Specialisation};
use super::ledger::Ledger;
use super::nvrtc::nvrtc;
use super::program::{Program, Programs};
use anyhow::{Context as _, bail, ensure};
use bytemuck::Pod;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr,
    DriverError, PinnedHostSlice, result,
};
use cudarc::nvrtc::Ptx;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The oldest driver that works, as the CUDA version it supports.
const OLDEST_DRIVER: i32 = 12_000;
/// Compute capability below which nothing is compiled for.
const OLDEST_COMPUTE: u32 = 75;

/// Dynamic shared memory that needs no leave, in bytes: 48 KiB less what a kernel declares itself.
const SHARED_WITHOUT_LEAVE: u32 = 32 << 10;
const MOST_DYNAMIC_SHARED: sys::CUfunction_attribute =
    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

/// Device memory, freed in stream order when dropped.
pub struct Buffer {
    slice: CudaSlice<u8>,
    address: u64,
}

impl Buffer {
    fn of(slice: CudaSlice<u8>) -> Buffer {
        let address = {
            let stream = Arc::clone(slice.stream());
            let (address, _) = slice.device_ptr(&stream);
            address
        };
        Buffer { slice, address }
    }

    /// First byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.slice.num_bytes()
    }

    /// The memory, for cudarc's own calls.
    pub(super) fn slice_mut(&mut self) -> &mut CudaSlice<u8> {
        &mut self.slice
    }
}

/// Device memory ran out.
#[derive(Debug, thiserror::Error)]
#[error("the GPU has {free} of {total} MB free, expected at least {need} MB")]
pub struct OutOfMemory {
    /// MB wanted.
    pub need: u64,
    /// MB free.
    pub free: u64,
    /// MB in all.
    pub total: u64,
}

impl OutOfMemory {
    /// Bytes as whole MB that hold them.
    fn mega(bytes: usize) -> u64 {
        bytes.div_ceil(1_000_000) as u64
    }

    /// The same for buffers of `need` bytes together, of which `taken` had been given out.
    pub fn of_all(&self, taken: usize, need: usize) -> OutOfMemory {
        OutOfMemory {
            need: OutOfMemory::mega(need),
            free: self.free + taken as u64 / 1_000_000,
            total: self.total,
        }
    }
}

/// What there is to know of a GPU without computing on it.
#[derive(Clone, Debug)]
pub struct Description {
    /// Its number, N of `cuda:N`.
    pub ordinal: usize,
    /// Marketing name.
    pub name: String,
    /// Compute capability times ten.
    pub compute: u32,
    /// Bytes of memory.
    pub memory: usize,
}

/// The word that every launch writes its number to, in host memory that the device sees.
struct Progress {
    word: *mut u32,
    // Owns the word.
    _pinned: PinnedHostSlice<u32>,
}

// SAFETY: the word is read as volatile by the host, and written by the device alone.
unsafe impl Send for Progress {}
// SAFETY: as above.
unsafe impl Sync for Progress {}

#[derive(Default)]
struct Loaded {
    modules: HashMap<Specialisation, Arc<CudaModule>>,
    /// Functions, and the dynamic shared memory that each has leave for.
    functions: HashMap<Kernel, (CudaFunction, u32)>,
    /// The driver refused PTX of this NVRTC.
    cubin: bool,
    /// Launch numbers, and what they are called.
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

/// See the module.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    copies: Arc<CudaStream>,
    description: Description,
    driver: i32,
    cache: Option<Cache>,
    progress: Progress,
    loaded: Mutex<Loaded>,
    programs: Mutex<Programs>,
    flat: Buffer,
    ledger: Ledger,
    waits: AtomicU64,
    captures: AtomicU64,
}

/// Scratch of flat reductions, and results that later launches read: addresses within one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Flat {
    /// [`Flat::PARTIALS`] f64.
    pub partials: u64,
    /// A counter, zero between launches.
    pub ticket: u64,
    /// [`Flat::RESULTS`] f64, by [`FlatResult`].
    results: u64,
}

/// Who keeps a result of a flat reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlatResult {
    /// The last dot product.
    Dot,
    /// ‖∂L/∂ω‖² of the last weight step.
    GradientNorm,
    /// A factor of launches to come.
    Factor,
}

impl Flat {
    /// Most blocks of a flat reduction.
    pub const PARTIALS: usize = 1024;
    /// Results.
    pub const RESULTS: usize = 8;

    const BYTES: usize = 8 * (Self::PARTIALS + Self::RESULTS) + 16;

    /// Address of a result.
    pub fn result(&self, result: FlatResult) -> u64 {
        self.results + 8 * result as u64
    }
}

/// The driver's version: the CUDA version it supports, 1000·major + 10·minor.
///
/// # Errors
/// No driver, or one that is too old.
pub fn driver_version() -> anyhow::Result<i32> {
    // SAFETY: loading runs the initialisers of the system's CUDA driver.
    if !unsafe { sys::is_culib_present() } {
        bail!(
            "no CUDA driver (libcuda.so.1) was found: install NVIDIA's driver, or use --device cpu"
        );
    }
    let mut version = 0;
    // SAFETY: an integer to write to; the call needs no initialisation.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    code.result()
        .map_err(|e| explain("the driver's version", e))?;
    ensure!(
        version >= OLDEST_DRIVER,
        "the CUDA driver is too old: expected one for CUDA 12.0 or newer, found one for CUDA {}.{}; \
         update NVIDIA's driver, or use --device cpu",
        version / 1000,
        version % 1000 / 10
    );
    result::init().map_err(|e| match e.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => {
            anyhow::anyhow!(
                "the CUDA driver sees no GPU: expected at least one, or use --device cpu"
            )
        }
        _ => explain("the CUDA driver does not start", e),
    })?;
    Ok(version)
}

/// The GPUs that the driver sees.
///
/// # Errors
/// No driver that works, or no GPU.
pub fn devices() -> anyhow::Result<Vec<Description>> {
    driver_version()?;
    let count = result::device::get_count().map_err(|e| explain("counting GPUs", e))?;
    let describe = |ordinal: i32| -> Result<Description, DriverError> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let device = result::device::get(ordinal)?;
        // SAFETY: `device` was just returned by the driver.
        let (memory, major, minor) = unsafe {
            (
                result::device::total_mem(device)?,
                result::device::get_attribute(device, MAJOR)?,
                result::device::get_attribute(device, MINOR)?,
            )
        };
        Ok(Description {
            ordinal: usize::try_from(ordinal).unwrap_or(0),
            name: result::device::get_name(device)?,
            compute: u32::try_from(10 * major + minor).unwrap_or(0),
            memory,
        })
    };
    let all = (0..count).map(|ordinal| describe(ordinal).map_err(|e| explain("a GPU", e)));
    all.collect()
}

/// An error of the driver as a sentence.
fn explain(what: &str, error: DriverError) -> anyhow::Error {
    let name = error.error_name().map(|n| n.to_string_lossy().into_owned());
    let text = error
        .error_string()
        .map(|n| n.to_string_lossy().into_owned());
    match (name, text) {
        (Ok(name), Ok(text)) => anyhow::anyhow!("CUDA: {what}: {name} ({text})"),
        _ => anyhow::anyhow!("CUDA: {what}: error {:?}", error.0),
    }
}

/// True if the error means that a kernel went wrong, and the context with it.
fn is_fault(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
    )
}

impl Gpu {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// No driver, too old a driver, no such GPU, or one that is too old: a sentence each.
    pub fn open(ordinal: usize) -> anyhow::Result<Arc<Gpu>> {
        let driver = driver_version()?;
        let all = devices()?;
        let Some(description) = all.get(ordinal).cloned() else {
            bail!(
                "--device cuda:{ordinal}: expected cuda:0 to cuda:{}, as the driver sees {} GPU{}; \
                 `ndarts devices` lists them",
                all.len().saturating_sub(1),
                all.len(),
                if all.len() == 1 { "" } else { "s" }
            );
        };
        ensure!(
            description.compute >= OLDEST_COMPUTE,
            "--device cuda:{ordinal}: expected a GPU of compute capability 7.5 or newer, found {} of {}.{}",
            description.name,
            description.compute / 10,
            description.compute % 10
        );
        let open = || -> Result<Gpu, DriverError> {
            let context = CudaContext::new(ordinal)?;
            // SAFETY: all work goes through one stream, and copies from pinned memory through a second
            // with events of our own (`super::staging`); no buffer is used by another stream.
            unsafe { context.disable_event_tracking() };
            let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
            // SAFETY: the word is written before anyone reads it.
            let mut pinned = unsafe { context.alloc_pinned_with_flags::<u32>(1, flags) }?;
            let word = pinned.as_mut_ptr()?;
            let stream = context.new_stream()?;
            let flat = Buffer::of(stream.alloc_zeros::<u8>(Flat::BYTES)?);
            // SAFETY: one word of live host memory.
            unsafe { word.write_volatile(u32::MAX) };
            Ok(Gpu {
                copies: context.new_stream()?,
                stream,
                flat,
                context,
                driver,
                description,
                cache: Cache::of_user(),
                progress: Progress {
                    word,
                    _pinned: pinned,
                },
                loaded: Mutex::default(),
                programs: Mutex::default(),
                ledger: Ledger::default(),
                waits: AtomicU64::new(0),
                captures: AtomicU64::new(0),
            })
        };
        let gpu = open().map_err(|e| explain(&format!("cuda:{ordinal} cannot be opened"), e))?;
        Ok(Arc::new(gpu))
    }

    /// Its name, memory and compute capability.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let d = &self.description;
        format!(
            "cuda:{}: {}, compute capability {}.{}, {:.1} GiB, driver for CUDA {}.{}",
            d.ordinal,
            d.name,
            d.compute / 10,
            d.compute % 10,
            d.memory as f64 / f64::from(1 << 30),
            self.driver / 1000,
            self.driver % 1000 / 10
        )
    }

    /// The stream of all launches.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The stream of copies from pinned memory.
    pub(super) fn copies(&self) -> &Arc<CudaStream> {
        &self.copies
    }

    /// Shared memory, in bytes, of a block that shares its multiprocessor with another; all that a block
    /// may have, where half a multiprocessor's is little.
    pub fn shared_per_block(&self) -> usize {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as BLOCK,
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR as MULTIPROCESSOR,
        };
        let bytes = |attribute| self.context.attribute(attribute).ok();
        let bytes = |attribute| bytes(attribute).and_then(|b| usize::try_from(b).ok());
        let (Some(block), Some(multiprocessor)) = (bytes(BLOCK), bytes(MULTIPROCESSOR)) else {
            return SHARED_EVERYWHERE;
        };
        // The driver keeps 1 KiB of each block.
        let half = (multiprocessor / 2).saturating_sub(1 << 10);
        if half > SHARED_EVERYWHERE {
            half.min(block)
        } else {
            block
        }
    }

    /// Warps that a multiprocessor has room for.
    pub(super) fn most_warps(&self) -> anyhow::Result<u32> {
        use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR as THREADS;
        let threads = self.check("a limit", self.context.attribute(THREADS))?;
        Ok(u32::try_from(threads / 32).unwrap_or(1).max(1))
    }

    pub(super) fn event(&self) -> anyhow::Result<CudaEvent> {
        self.check("an event", self.context.new_event(None))
    }

    /// `bytes` of pinned memory; it holds anything.
    pub(super) fn pinned(&self, bytes: usize) -> anyhow::Result<PinnedHostSlice<u8>> {
        // SAFETY: any bytes are a u8; the owner writes before it copies.
        let pinned = unsafe { self.context.alloc_pinned::<u8>(bytes.max(1)) };
        self.check("pinned host memory", pinned)
    }

    /// Turns a result of the driver into ours. A kernel's fault is given the kernel's name.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn check<T>(&self, what: &str, result: Result<T, DriverError>) -> anyhow::Result<T> {
        result.map_err(|error| {
            if !is_fault(error.0) {
                return explain(what, error);
            }
            // SAFETY: one word of live host memory.
            let number = unsafe { self.progress.word.read_volatile() };
            let loaded = self.lock();
            let name = loaded.names.get(number as usize);
            let name = name.map_or("a kernel that did not begin", String::as_str);
            explain(&format!("{name} faulted; the run stops here"), error)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Notes that the host has not read.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Bytes of device memory that are free, and all.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory(&self) -> anyhow::Result<(usize, usize)> {
        self.check("free memory", self.context.mem_get_info())
    }

    /// Zeroed device memory.
    ///
    /// # Errors
    /// [`OutOfMemory`], or the driver's.
    pub fn buffer(&self, bytes: usize) -> anyhow::Result<Buffer> {
        let bytes = bytes.max(16);
        match self.stream.alloc_zeros::<u8>(bytes) {
            Ok(slice) => Ok(Buffer::of(slice)),
            Err(e) if e.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = self.memory()?;
                Err(OutOfMemory {
                    need: OutOfMemory::mega(bytes),
                    free: free as u64 / 1_000_000,
                    total: total as u64 / 1_000_000,
                }
                .into())
            }
            Err(e) => self.check("device memory", Err(e)),
        }
    }

    /// Scratch of flat reductions.
    pub fn flat(&self) -> Flat {
        let partials = self.flat.address();
        let results = partials + 8 * Flat::PARTIALS as u64;
        Flat {
            partials,
            results,
            ticket: results + 8 * Flat::RESULTS as u64,
        }
    }

    /// Waits until all launches are done.
    ///
    /// # Errors
    /// The driver's; a fault names the kernel.
    pub fn wait(&self) -> anyhow::Result<()> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.check("waiting", self.stream.synchronize())
    }

    /// How often the host waited for the device, and how many graphs were captured, so far: a step that is
    /// repeated adds to neither.
    pub fn waits_and_captures(&self) -> (u64, u64) {
        let [waits, captures] = [&self.waits, &self.captures].map(|n| n.load(Ordering::Relaxed));
        (waits, captures)
    }

    /// Counts a captured graph.
    pub(super) fn captured(&self) {
        self.captures.fetch_add(1, Ordering::Relaxed);
    }

    /// Copies from the host to device memory at `address`.
    ///
    /// # Errors
    /// The driver's.
    pub fn write<T: Pod>(&self, address: u64, from: &[T]) -> anyhow::Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(from);
        if bytes.is_empty() {
            return Ok(());
        }
        self.check("binding", self.context.bind_to_thread())?;
        // SAFETY: `address` begins as many bytes of a live buffer of the caller's; pageable memory is
        // staged before the call returns.
        let copied = unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) };
        self.check("a copy to the device", copied)
    }

    /// Copies device memory at `address` to the host, and waits for it.
    ///
    /// # Errors
    /// The driver's.
    pub fn read<T: Pod>(&self, address: u64, to: &mut [T]) -> anyhow::Result<()> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(to);
        if bytes.is_empty() {
            return Ok(());
        }
        self.check("binding", self.context.bind_to_thread())?;
        // SAFETY: as in `write`; the host waits before it looks.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) };
        self.check("a copy from the device", copied)?;
        self.wait()
    }

    /// Copies `bytes` within device memory.
    ///
    /// # Errors
    /// The driver's.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> anyhow::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.check("binding", self.context.bind_to_thread())?;
        // SAFETY: both addresses begin as many bytes of live buffers of the caller's.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) };
        self.check("a copy on the device", copied)
    }

    /// Zeroes `bytes` of device memory.
    ///
    /// # Errors
    /// The driver's.
    pub fn zero(&self, address: u64, bytes: usize) -> anyhow::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.check("binding", self.context.bind_to_thread())?;
        // SAFETY: `address` begins as many bytes of a live buffer of the caller's.
        let zeroed = unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) };
        self.check("zeroing", zeroed)
    }

    /// The number under which a launch called `name` announces itself.
    fn number(loaded: &mut Loaded, name: String) -> u32 {
        if let Some(&number) = loaded.numbers.get(&name) {
            return number;
        }
        let number = u32::try_from(loaded.names.len()).expect("launches of different names");
        loaded.numbers.insert(name.clone(), number);
        loaded.names.push(name);
        number
    }

    /// Address of the word that launches announce themselves in.
    pub(super) fn progress(&self) -> u64 {
        self.progress.word as u64
    }

    /// Compiles and loads what of `kernels` is not loaded yet.
    ///
    /// # Errors
    /// A kernel that does not compile or load.
    pub fn prepare(&self, kernels: &BTreeSet<Specialisation>) -> anyhow::Result<()> {
        let mut loaded = self.lock();
        let missing = kernels.iter().filter(|s| !loaded.modules.contains_key(s));
        let missing: Vec<_> = missing.cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.load_modules(&mut loaded, &missing)
    }

    /// The functions of a recording's launches, in order, with their numbers; compiles what is not
    /// loaded yet.
    pub(super) fn functions(
        &self,
        recording: &Recording,
    ) -> anyhow::Result<Vec<(CudaFunction, u32)>> {
        let kernels = recording.launches().map(|l| l.kernel.specialisation());
        self.prepare(&kernels.collect())?;
        let mut loaded = self.lock();
        let mut found = Vec::new();
        for launch in recording.launches() {
            let kernel = &launch.kernel;
            if !loaded.functions.contains_key(kernel) {
                let function = loaded.modules[&kernel.specialisation()].load_function(kernel.entry);
                let function = function
                    .map_err(|e| explain(&format!("kernel {kernel} cannot be loaded"), e))?;
                let new = (function, SHARED_WITHOUT_LEAVE);
                loaded.functions.insert(kernel.clone(), new);
            }
            let (function, leave) = loaded.functions.get_mut(kernel).expect("loaded above");
            if launch.shared > *leave {
                // Of all launches of a function the largest: each recording may bring another.
                let bytes = i32::try_from(launch.shared).unwrap_or(i32::MAX);
                let given = function.set_attribute(MOST_DYNAMIC_SHARED, bytes);
                given.map_err(|e| {
                    explain(&format!("{bytes} bytes of shared memory for {kernel}"), e)
                })?;
                *leave = launch.shared;
            }
            let function = function.clone();
            let name = format!("kernel {kernel} of {} in {}", launch.op, recording.name);
            found.push((function, Self::number(&mut loaded, name)));
        }
        Ok(found)
    }

    /// Loads `missing`, as PTX, or as machine code where the driver refuses this NVRTC's PTX.
    fn load_modules(&self, loaded: &mut Loaded, missing: &[Specialisation]) -> anyhow::Result<()> {
        let nvrtc = nvrtc()?;
        loop {
            let cubin = loaded.cubin;
            let target = target(nvrtc, self.description.compute, cubin)?;
            let images = compile(missing, target, self.cache.as_ref())?;
            let mut refused = false;
            for (specialisation, image) in missing.iter().zip(images) {
                let ptx = if cubin {
                    Ptx::from_binary(image)
                } else {
                    let text = String::from_utf8(image).context("PTX is text")?;
                    Ptx::from_src(text.trim_end_matches('\0'))
                };
                match self.context.load_module(ptx) {
                    Ok(module) => {
                        loaded.modules.insert(specialisation.clone(), module);
                    }
                    Err(e) if newer_than_driver(e.0) && !cubin => {
                        refused = true;
                        break;
                    }
                    Err(e) if newer_than_driver(e.0) => bail!(
                        "the CUDA driver is too old for NVRTC {}.{}: it supports CUDA {}.{}; update \
                         NVIDIA's driver, or set NDARTS_NVRTC to an older NVRTC",
                        nvrtc.version.0,
                        nvrtc.version.1,
                        self.driver / 1000,
                        self.driver % 1000 / 10
                    ),
                    Err(e) => {
                        // Not through `check`, which looks into what is locked here.
                        let what = format!("{}.cu cannot be loaded", specialisation.file);
                        return Err(explain(&what, e));
                    }
                }
            }
            if !refused {
                return Ok(());
            }
            tracing::info!("the driver is older than NVRTC's PTX: compiling to machine code");
            loaded.cubin = true;
        }
    }

    /// Runs a recording of a few launches as a graph, captured when its like first comes: the same
    /// launches with the same parameters.
    ///
    /// # Errors
    /// The driver's.
    pub fn replay(&self, recording: Recording) -> anyhow::Result<()> {
        let mut programs = self.programs.lock().unwrap_or_else(|e| e.into_inner());
        programs.replay(self, recording)
    }

    /// Runs a recording at once, without a graph: for launches whose parameters never repeat.
    ///
    /// # Errors
    /// The driver's.
    pub fn issue(&self, recording: Recording) -> anyhow::Result<()> {
        Program::load(self, recording, None)?.issue(self)
    }
}

fn newer_than_driver(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUresult::CUDA_ERROR_INVALID_IMAGE
            | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    )
}
