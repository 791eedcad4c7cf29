//! Launches as data: what a pass will do on the device, before any device is touched.
//!
//! Ops encode a pass into a [`Recording`]; a [`super::Gpu`] compiles what it names, captures it as a
//! graph and replays it. Because a recording is plain data, the kernels of a network can be listed,
//! compiled and counted on a machine without a GPU.

use bytemuck::Pod;
use std::collections::BTreeMap;

/// Most bytes of a launch's parameter struct: what every supported driver takes.
pub const MAX_PARAMETERS: usize = 4096;

/// Shared memory that a block may use on every supported GPU, in bytes.
pub const SHARED_EVERYWHERE: usize = 64 << 10;

/// An entry of a kernel file, specialised by definitions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kernel {
    /// `kernels/<file>.cu`
    pub file: &'static str,
    /// Its `extern "C" __global__` function.
    pub entry: &'static str,
    /// `-D NAME=VALUE`
    pub definitions: BTreeMap<&'static str, String>,
}

impl Kernel {
    /// `entry` of `kernels/<file>.cu`, with nothing defined.
    pub fn new(file: &'static str, entry: &'static str) -> Kernel {
        Kernel {
            file,
            entry,
            definitions: BTreeMap::new(),
        }
    }

    /// Adds `-D name=value`.
    #[must_use]
    pub fn define(mut self, name: &'static str, value: impl ToString) -> Kernel {
        self.definitions.insert(name, value.to_string());
        self
    }

    /// What is compiled for it: the file under its definitions, with all its entries.
    pub fn specialisation(&self) -> Specialisation {
        Specialisation {
            file: self.file,
            definitions: self.definitions.clone(),
        }
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.entry)?;
        let definitions = self.definitions.iter().map(|(n, v)| format!("{n}={v}"));
        let definitions: Vec<_> = definitions.collect();
        if definitions.is_empty() {
            return Ok(());
        }
        write!(f, "<{}>", definitions.join(","))
    }
}

/// A kernel file under definitions: the unit of compilation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Specialisation {
    /// `kernels/<file>.cu`
    pub file: &'static str,
    /// `-D NAME=VALUE`
    pub definitions: BTreeMap<&'static str, String>,
}

/// The first field of every parameter struct; filled in when the recording is loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Header {
    /// Address of the word that says which launch began last.
    pub progress: u64,
    /// This launch's number.
    pub launch: u32,
    /// Zero.
    pub unused: u32,
}

/// One launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What runs.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block, one-dimensional.
    pub threads: u32,
    /// Dynamic shared memory, bytes a block.
    pub shared: u32,
    /// The parameter struct's bytes; the first sixteen are its [`Header`].
    pub parameters: Vec<u8>,
    /// The op it belongs to.
    pub op: &'static str,
}

impl Launch {
    /// A launch of `kernel` with `parameters`, which begins with a [`Header`].
    ///
    /// # Panics
    /// An empty grid, a block of more than 1024 threads, or too large a struct: each is a mistake in
    /// the op's launch code.
    pub fn new<P: Pod>(
        kernel: Kernel,
        grid: [u32; 3],
        threads: u32,
        shared: usize,
        parameters: &P,
    ) -> Launch {
        let parameters = bytemuck::bytes_of(parameters).to_vec();
        let name = kernel.entry;
        assert!(grid.iter().all(|&g| g > 0), "{name}: a grid of blocks");
        assert!(
            grid[1..].iter().all(|&g| g <= 65_535),
            "{name}: grid limits"
        );
        assert!((1..=1024).contains(&threads), "{name}: 1 to 1024 threads");
        assert!(
            (size_of::<Header>()..=MAX_PARAMETERS).contains(&parameters.len()),
            "{name}: parameters of {} bytes",
            parameters.len()
        );
        Launch {
            op: kernel.file,
            kernel,
            grid,
            threads,
            shared: u32::try_from(shared).expect("shared memory of a block"),
            parameters,
        }
    }
}

/// One step of a recording.
#[derive(Clone, Debug)]
pub enum Step {
    /// A kernel.
    Launch(Launch),
    /// Zeroes device memory.
    Zero {
        /// First byte.
        address: u64,
        /// Bytes.
        bytes: usize,
    },
}

/// What one pass does, in order.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// For messages and profiles: the pass.
    pub name: &'static str,
    /// The steps.
    pub steps: Vec<Step>,
    /// Device tables that launches read; see [`Recording::table`].
    pub constants: Vec<u8>,
}

impl Recording {
    /// An empty recording.
    pub fn new(name: &'static str) -> Recording {
        Recording {
            name,
            ..Recording::default()
        }
    }

    /// Places `rows` among the constants, aligned to 16 bytes; returns their offset.
    pub fn table<T: Pod>(&mut self, rows: &[T]) -> u64 {
        self.constants
            .resize(self.constants.len().next_multiple_of(16), 0);
        let offset = self.constants.len();
        self.constants.extend_from_slice(bytemuck::cast_slice(rows));
        offset as u64
    }

    /// The launches, in order.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.steps.iter().filter_map(|step| match step {
            Step::Launch(launch) => Some(launch),
            Step::Zero { .. } => None,
        })
    }
}

/// States the size of a parameter struct that a kernel shares, and tests it; the kernel's `LAYOUT`
/// states the same number. `bytemuck::Pod` sees to it that there is no padding.
#[macro_export]
macro_rules! layout_test {
    ($($kind:ty = $size:literal),+ $(,)?) => {
        const _: () = {
            $(assert!(size_of::<$kind>() == $size, "a struct as its kernel has it");)+
        };
    };
}
