//! The objects behind the driver's handles, in one place and behind one lock.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::capture::Capture;
use super::entry::Handle;
use super::errors::Code;
use super::graph::{Graph, Node};
use super::graph_exec::Exec;
use super::link::Link;
use super::order::{Clock, Order};
use super::profile::Profile;
use super::settings::Settings;
use crate::{Kernel, Machine, Memory, Module};

/// The driver, locked.
pub type Guard = MutexGuard<'static, Driver>;

static DRIVER: OnceLock<Mutex<Driver>> = OnceLock::new();

/// Everything the driver knows.
pub struct Driver {
    /// What the environment asked for.
    pub settings: &'static Settings,
    /// The device's memory.
    pub memory: Arc<Memory>,
    /// What runs kernels.
    pub machine: Machine,
    /// The primary context, while retained.
    pub primary: Primary,
    /// `CUcontext`.
    pub contexts: Table<Context>,
    /// `CUstream`.
    pub streams: Table<Stream>,
    /// `CUevent`.
    pub events: Table<Event>,
    /// `CUmodule` and `CUlibrary`.
    pub modules: Table<LoadedModule>,
    /// `CUfunction` and `CUkernel`.
    pub functions: Table<Function>,
    /// `CUlinkState`.
    pub links: Table<Link>,
    /// `CUmemoryPool`.
    pub pools: Table<Pool>,
    /// The pools `cuMemAllocAsync` takes from: the default one, and the one in force.
    pub default_pool: Option<Handle>,
    /// The pool `cuDeviceSetMemPool` chose.
    pub current_pool: Option<Handle>,
    /// Captures in progress, by number.
    pub captures: BTreeMap<u64, Capture>,
    /// `CUgraph`.
    pub graphs: Table<Graph>,
    /// `CUgraphNode`.
    pub nodes: Table<Node>,
    /// `CUgraphExec`.
    pub execs: Table<Exec>,
    /// Memory the program allocated, by address.
    pub blocks: BTreeMap<u64, Block>,
    /// What is ordered before what.
    pub order: Order,
    /// The counters of every launch.
    pub profile: Profile,
    /// Launches so far.
    pub launches: u64,
    /// Launches so far, by kernel; kept only while some are to fail.
    pub launches_of: HashMap<String, u64>,
    /// Allocations so far.
    pub allocations: u64,
    /// Numbers for streams, contexts, captures and graphs.
    pub next_number: u64,
}

/// The primary context of the device.
#[derive(Default)]
pub struct Primary {
    /// The context, once retained.
    pub handle: Option<Handle>,
    /// How often it is retained.
    pub retained: usize,
    /// Its scheduling flags.
    pub flags: u32,
}

/// A `CUcontext`.
pub struct Context {
    /// Scheduling flags.
    pub flags: u32,
    /// The error that every call returns from the first fault on.
    pub error: Option<Code>,
    /// `cuCtxGetId`.
    pub number: u64,
    /// The legacy default stream.
    pub legacy: Handle,
    /// The per-thread default streams, by thread.
    pub per_thread: HashMap<std::thread::ThreadId, Handle>,
    /// `cuCtxSetLimit`.
    pub limits: HashMap<u32, usize>,
    /// `cuCtxSetCacheConfig`.
    pub cache_config: u32,
    /// `cuCtxSetSharedMemConfig`.
    pub shared_config: u32,
}

/// A `CUstream`.
pub struct Stream {
    /// Its context.
    pub context: Handle,
    /// `CU_STREAM_NON_BLOCKING` or 0.
    pub flags: u32,
    /// Its priority.
    pub priority: i32,
    /// Its number in findings: 0 is the legacy default stream.
    pub number: u64,
    /// Its lane of the order.
    pub lane: usize,
    /// What its next work is ordered after.
    pub clock: Clock,
    /// The capture it takes part in.
    pub capture: Option<u64>,
    /// `cuStreamSetAttribute`, raw unions by attribute.
    pub attributes: HashMap<u32, [u32; 16]>,
}

/// A `CUevent`.
#[derive(Default)]
pub struct Event {
    /// Its context.
    pub context: Handle,
    /// Its flags.
    pub flags: u32,
    /// When it was last recorded, and what was ordered before that.
    pub recorded: Option<(Instant, Clock)>,
    /// The capture and its nodes, if it was last recorded in one.
    pub captured: Option<(u64, Vec<Handle>)>,
}

/// A `CUmodule` or `CUlibrary`.
pub struct LoadedModule {
    /// Its context; 0 for a library, which belongs to none.
    pub context: Handle,
    /// The code.
    pub module: Module,
    /// Handles given out, by kernel name.
    pub functions: HashMap<String, Handle>,
}

/// A `CUfunction` or `CUkernel`.
#[derive(Clone)]
pub struct Function {
    /// The module it comes from.
    pub module: Handle,
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// The kernel's name as C sees it.
    pub name: Arc<std::ffi::CStr>,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    pub max_dynamic_shared: u32,
    /// The attributes that change nothing here, kept for whoever asks.
    pub attributes: HashMap<u32, i32>,
}

/// A `CUmemoryPool`.
#[derive(Default)]
pub struct Pool {
    /// Bytes given out.
    pub used: u64,
    /// The most that was given out.
    pub high: u64,
    /// `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`.
    pub release_threshold: u64,
    /// The three reuse switches, attributes 1 to 3.
    pub reuse: [i32; 3],
    /// The most it may give out; 0 for no limit.
    pub max_size: u64,
}

/// What a piece of memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `cuMemAlloc` and its relatives.
    Device,
    /// From a pool, in the order of a stream.
    Pool(Handle),
    /// Page-locked host memory.
    Pinned,
    /// Memory of the program that it registered.
    Registered,
    /// Unified memory.
    Managed,
    /// Owned by a graph's allocation node.
    Graph,
}

/// Memory the program allocated or registered.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its length in bytes.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// The context it belongs to.
    pub context: Handle,
    /// The flags it was made with.
    pub flags: u32,
    /// `CU_POINTER_ATTRIBUTE_BUFFER_ID`.
    pub number: u64,
}

/// Objects by handle. No handle is ever used twice, in this table or another.
pub struct Table<T>(BTreeMap<Handle, T>);

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table(BTreeMap::new())
    }
}

/// A handle nobody has: never null, never one of the special streams 1 and 2, aligned like a pointer.
pub fn new_handle() -> Handle {
    static NEXT: AtomicUsize = AtomicUsize::new(0x5cda_0000_0010);
    NEXT.fetch_add(0x10, Ordering::Relaxed)
}

impl<T> Table<T> {
    /// Files `object` under a new handle.
    pub fn add(&mut self, object: T) -> Handle {
        let handle = new_handle();
        self.0.insert(handle, object);
        handle
    }

    /// Files `object` under a handle from [`new_handle`].
    pub fn insert(&mut self, handle: Handle, object: T) {
        self.0.insert(handle, object);
    }

    /// Takes out all objects that `which` says.
    pub fn take_all(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let taken: Vec<Handle> = self
            .0
            .iter()
            .filter(|(_, object)| which(object))
            .map(|(&handle, _)| handle)
            .collect();
        taken
            .iter()
            .filter_map(|handle| self.0.remove(handle))
            .collect()
    }

    /// The object of `handle`.
    ///
    /// # Errors
    /// `INVALID_HANDLE`, also for null, as the driver does for the handles it can check.
    pub fn get(&self, handle: Handle) -> Result<&T, Code> {
        self.0.get(&handle).ok_or(Code::INVALID_HANDLE)
    }

    /// The object of `handle`, to change.
    ///
    /// # Errors
    /// `INVALID_HANDLE`.
    pub fn get_mut(&mut self, handle: Handle) -> Result<&mut T, Code> {
        self.0.get_mut(&handle).ok_or(Code::INVALID_HANDLE)
    }

    /// Takes the object out; its handle is stale from now on.
    ///
    /// # Errors
    /// `INVALID_HANDLE`.
    pub fn remove(&mut self, handle: Handle) -> Result<T, Code> {
        self.0.remove(&handle).ok_or(Code::INVALID_HANDLE)
    }

    /// Whether the handle is known.
    pub fn contains(&self, handle: Handle) -> bool {
        self.0.contains_key(&handle)
    }

    /// All objects, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.0.iter().map(|(&handle, object)| (handle, object))
    }

    /// All objects, to change, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut T)> {
        self.0.iter_mut().map(|(&handle, object)| (handle, object))
    }
}

/// Makes the driver; whether it was not there before.
pub fn start(settings: &'static Settings) -> bool {
    let mut made = false;
    DRIVER.get_or_init(|| {
        made = true;
        Mutex::new(Driver::new(settings))
    });
    made
}

/// The driver, locked.
///
/// # Errors
/// `NOT_INITIALIZED` before `cuInit`.
pub fn lock() -> Result<Guard, Code> {
    let driver = DRIVER.get().ok_or(Code::NOT_INITIALIZED)?;
    // A panic inside was reported where it happened; the tables stay usable.
    Ok(driver.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The driver, if nobody is using it: for the end of the process.
pub fn try_lock() -> Option<Guard> {
    DRIVER.get()?.try_lock().ok()
}

thread_local! {
    /// The contexts pushed on this thread; the last one is current.
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// Reads or changes this thread's stack of contexts.
pub fn with_stack<R>(change: impl FnOnce(&mut Vec<Handle>) -> R) -> R {
    STACK.with_borrow_mut(change)
}

/// The driver and the current context.
///
/// # Errors
/// `INVALID_CONTEXT` without one, `CONTEXT_IS_DESTROYED` for a dead one, and from its first fault on that
/// fault's error.
pub fn current() -> Result<(Guard, Handle), Code> {
    let driver = lock()?;
    let handle = with_stack(|stack| stack.last().copied()).ok_or(Code::INVALID_CONTEXT)?;
    driver.healthy(handle)?;
    Ok((driver, handle))
}

/// Whether `cuInit` was called.
///
/// # Errors
/// `NOT_INITIALIZED`.
pub fn started() -> Result<(), Code> {
    lock().map(drop)
}

/// Whether there is a current context without a fault.
///
/// # Errors
/// As [`current`].
pub fn ready() -> Result<(), Code> {
    current().map(drop)
}

impl Driver {
    fn new(settings: &'static Settings) -> Driver {
        let memory = Memory::new(settings.target.memory, &settings.checks);
        let options = crate::Options {
            checks: settings.checks,
            schedule: settings.schedule,
            timeout: settings.timeout,
            profile: settings.profile.is_some(),
            track: false,
            threads: settings.threads,
            ptx_version: settings.newest_ptx(),
        };
        let mut driver = Driver {
            settings,
            machine: Machine::new(settings.target.clone(), Arc::clone(&memory), options),
            memory,
            primary: Primary::default(),
            contexts: Table::default(),
            streams: Table::default(),
            events: Table::default(),
            modules: Table::default(),
            functions: Table::default(),
            links: Table::default(),
            pools: Table::default(),
            default_pool: None,
            current_pool: None,
            captures: BTreeMap::new(),
            graphs: Table::default(),
            nodes: Table::default(),
            execs: Table::default(),
            blocks: BTreeMap::new(),
            order: Order::default(),
            profile: Profile::new(settings),
            launches: 0,
            launches_of: HashMap::new(),
            allocations: 0,
            next_number: 1,
        };
        let pool = driver.pools.add(Pool {
            reuse: [1; 3],
            ..Pool::default()
        });
        driver.default_pool = Some(pool);
        driver.current_pool = Some(pool);
        driver
    }

    /// The next number for a stream, context, capture or graph.
    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// Whether `context` lives and has seen no fault.
    ///
    /// # Errors
    /// `CONTEXT_IS_DESTROYED`, or the fault's error.
    pub fn healthy(&self, context: Handle) -> Result<(), Code> {
        let context = self
            .contexts
            .get(context)
            .map_err(|_| Code::CONTEXT_IS_DESTROYED)?;
        context.error.map_or(Ok(()), Err)
    }

    /// Makes `code` the answer to every further call in `context`; the first fault stays.
    pub fn fail(&mut self, context: Handle, code: Code) {
        if let Ok(context) = self.contexts.get_mut(context) {
            context.error.get_or_insert(code);
        }
    }

    /// The memory the program allocated that holds `address`: its first byte and what is known of it.
    pub fn block_at(&self, address: u64) -> Option<(u64, &Block)> {
        let (&start, block) = self.blocks.range(..=address).next_back()?;
        (address - start < block.bytes.max(1)).then_some((start, block))
    }
}
