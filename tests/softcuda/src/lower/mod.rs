//! A module of PTX made ready to run.
//!
//! [`module`] places variables and finds functions; [`function`] lowers one function, with its
//! instructions in [`arithmetic`], [`access`] and [`warp`], to the register form of [`inst`]; [`flow`]
//! finds where diverging lanes meet again. Each kernel has its own copy of the functions it calls, because
//! the place of shared memory differs from kernel to kernel.

mod access;
mod arithmetic;
mod flow;
mod function;
pub mod inst;
mod module;
mod pressure;
pub mod types;
mod warp;

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Memory, Options, Target};
pub(crate) use function::FUNCTION_BASE;
use inst::{Function, MemSpace, Op};

/// A module that could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The text isn't PTX, or uses an instruction that the machine doesn't know.
    #[error("line {line}: {message}")]
    Invalid {
        /// Line of the PTX text, from 1.
        line: u32,
        /// What was expected and what was found; names the instruction.
        message: String,
    },
    /// The PTX is newer than the pretended driver.
    #[error(
        "PTX version {}.{} is newer than the newest that this driver accepts, {}.{}",
        found.0, found.1, newest.0, newest.1
    )]
    UnsupportedVersion {
        /// The module's `.version`.
        found: (u32, u32),
        /// [`Options::ptx_version`].
        newest: (u32, u32),
    },
    /// The PTX is for a device that the pretended one isn't compatible with.
    #[error("PTX for {found} cannot run on sm_{device}")]
    WrongTarget {
        /// The module's `.target`.
        found: String,
        /// The pretended device.
        device: u32,
    },
    /// The image isn't text: a cubin or a fat binary.
    #[error("the image is not PTX text; only PTX can be run")]
    NotPtx,
    /// The module's variables don't fit into the device's memory.
    #[error(transparent)]
    OutOfMemory(#[from] crate::memory::OutOfMemory),
}

/// A kernel parameter's place in the parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Offset in bytes.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
}

/// A kernel, ready to launch.
#[derive(Debug)]
pub struct Kernel {
    /// Its (mangled) name.
    pub name: String,
    /// Its parameters in order.
    pub params: Vec<Param>,
    /// Static shared memory in bytes.
    pub static_shared: u32,
    /// Local memory of a thread in bytes.
    pub local_bytes: u32,
    /// Registers of a thread, estimated: the widest set of values that live at once.
    pub registers: u32,
    /// The most threads that a block may have (`.maxntid`, else 1024).
    pub max_threads: u32,
    /// `.reqntid`, where the kernel demands a block shape.
    pub required_block: Option<[u32; 3]>,
    /// `.reqnctapercluster`, where the kernel demands a cluster shape.
    pub required_cluster: Option<[u32; 3]>,
    /// Constant memory that the module uses, in bytes.
    pub const_bytes: u32,
    /// The module's PTX version, 10 × major + minor.
    pub ptx_version: u32,
    /// The module's target, as 90 for `sm_90`.
    pub binary_version: u32,
    /// Alignment of the dynamic shared memory in bytes.
    pub(crate) dynamic_align: u32,
    /// What decides how its blocks may be scheduled.
    pub(crate) traits: Traits,
    /// The kernel's function first, then those it calls.
    pub(crate) program: Vec<Function>,
    /// For each of `program`, its number among the module's functions, which makes its address.
    pub(crate) function_index: Vec<u32>,
    /// Source files by number.
    pub(crate) files: Arc<[(u32, String)]>,
}

impl Kernel {
    /// Where an instruction is, for people: kernel or function, source line, line of the PTX.
    pub(crate) fn place(&self, function: u32, pc: u32) -> String {
        let function = &self.program[function as usize];
        let (ptx, file, line) = function.lines.get(pc as usize).copied().unwrap_or_default();
        let kind = if function.name == self.name {
            "kernel"
        } else {
            "function"
        };
        let name = &function.name;
        match self.files.iter().find(|(number, _)| *number == file) {
            Some((_, path)) if line > 0 => {
                format!("{path}:{line}, {kind} `{name}` (PTX line {ptx})")
            }
            _ => format!("PTX line {ptx}, {kind} `{name}`"),
        }
    }
}

/// What of a kernel decides how its blocks may be scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Blocks talk to each other through global memory, so their order matters: they run one by one.
    pub(crate) ordered: bool,
    /// It uses what only blocks of a cluster have: their barrier, each other's shared memory.
    pub(crate) cluster: bool,
}

impl Traits {
    /// Blocks are independent unless one uses an atomic whose order shows (it returns the old value,
    /// rounds, or exchanges), or an access or fence that orders memory between blocks.
    fn of(program: &[Function]) -> Traits {
        let orders = |function: &Function| {
            let mut read = std::collections::HashSet::new();
            for inst in &function.code {
                read.extend([inst.a, inst.b, inst.c, inst.d]);
            }
            read.extend(function.lists.iter().copied());
            function.code.iter().any(|inst| match inst.op {
                Op::Atom(op, access) if access.space != MemSpace::Shared => {
                    use inst::AtomOp::*;
                    let commutes =
                        matches!(op, Add | Min | Max | And | Or | Xor) && access.ty.integer();
                    !commutes || inst.dst != inst::NONE && read.contains(&inst.dst)
                }
                Op::Load(access) | Op::Store(access) => {
                    access.order.wide
                        && matches!(access.space, MemSpace::Global | MemSpace::Generic)
                }
                Op::Fence { wide } => wide,
                _ => false,
            })
        };
        let clustered = |op: &Op| {
            matches!(
                op,
                Op::ClusterArrive | Op::ClusterWait | Op::Mapa { .. } | Op::CtaRank { .. }
            )
        };
        let mut ops = program.iter().flat_map(|function| &function.code);
        Traits {
            ordered: program.iter().any(orders),
            cluster: ops.any(|inst| clustered(&inst.op)),
        }
    }
}

/// A loaded module: kernels, and variables in device memory, which go when it is dropped.
pub struct Module {
    kernels: Vec<Arc<Kernel>>,
    globals: HashMap<String, (u64, u64)>,
    const_bytes: u32,
    memory: Arc<Memory>,
}

impl Module {
    fn empty(memory: Arc<Memory>) -> Module {
        Module {
            kernels: Vec::new(),
            globals: HashMap::new(),
            const_bytes: 0,
            memory,
        }
    }

    /// Parses and lowers PTX text (`image`, with or without a final NUL) for `target`, and places its
    /// variables in `memory`.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(
        image: &[u8],
        target: &Target,
        memory: &Arc<Memory>,
        options: &Options,
    ) -> Result<Module, LoadError> {
        module::load(image, target, memory, options)
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels
            .iter()
            .find(|kernel| kernel.name == name)
            .cloned()
    }

    /// Every kernel, in the module's order.
    pub fn kernels(&self) -> &[Arc<Kernel>] {
        &self.kernels
    }

    /// Address and size in bytes of a global or constant variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        for (address, _) in self.globals.values() {
            // Nothing else frees a module's variables, so this can't fail.
            let _ = self.memory.free(*address);
        }
    }
}
