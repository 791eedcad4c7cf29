//! A module of PTX made ready to run.

use std::sync::Arc;

use crate::{Memory, Options, Target};

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
    /// Constant memory that the module uses, in bytes.
    pub const_bytes: u32,
    /// The module's PTX version, 10 × major + minor.
    pub ptx_version: u32,
    /// The module's target, as 90 for `sm_90`.
    pub binary_version: u32,
}

/// A loaded module: kernels, and variables in device memory.
pub struct Module {
    kernels: Vec<Arc<Kernel>>,
}

impl Module {
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
        let _ = (image, target, memory, options);
        Err(LoadError::NotPtx)
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels.iter().find(|kernel| kernel.name == name).cloned()
    }

    /// Every kernel, in the module's order.
    pub fn kernels(&self) -> &[Arc<Kernel>] {
        &self.kernels
    }

    /// Address and size in bytes of a global or constant variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        let _ = name;
        None
    }
}
