//! What the machine watches for, and how a finding reads.

use std::fmt;

/// What stopped a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Access outside every live allocation (`CUDA_ERROR_ILLEGAL_ADDRESS`).
    IllegalAddress,
    /// Access not aligned to its size (`CUDA_ERROR_MISALIGNED_ADDRESS`).
    MisalignedAddress,
    /// A device `assert` failed (`CUDA_ERROR_ASSERT`).
    Assert,
    /// The kernel executed `trap` (`CUDA_ERROR_LAUNCH_FAILED`).
    Trap,
    /// A read of memory that nothing has written (`CUDA_ERROR_LAUNCH_FAILED`).
    Uninitialised,
    /// Two accesses without an order (`CUDA_ERROR_LAUNCH_FAILED`).
    Race,
    /// A barrier or a `*.sync` instruction that not all its threads reach
    /// (`CUDA_ERROR_LAUNCH_FAILED`).
    Barrier,
    /// Local memory or call depth used up (`CUDA_ERROR_LAUNCH_FAILED`).
    StackOverflow,
    /// The launch ran past [`crate::Options::timeout`] (`CUDA_ERROR_LAUNCH_TIMEOUT`).
    Timeout,
    /// Grid, block, cluster, parameters or attributes that the device or the kernel cannot have
    /// (`CUDA_ERROR_INVALID_VALUE`).
    InvalidConfiguration,
    /// More registers or shared memory than a block can have
    /// (`CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES`).
    OutOfResources,
    /// A cooperative grid larger than what is resident at once
    /// (`CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE`).
    CooperativeTooLarge,
}

/// A launch that did not end well: what happened, where, and to whose memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// The class of the fault, which decides the driver's error code.
    pub kind: FaultKind,
    /// The finding, several lines for people: kernel, source line, block, thread, address,
    /// allocation, both parties of a race.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessKind {
    Read,
    Write,
    Atomic,
}

impl AccessKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            AccessKind::Read => "read",
            AccessKind::Write => "write",
            AccessKind::Atomic => "atomic",
        }
    }
}

mod race;
pub(crate) use race::{Order, Party, RaceShadow, Watch};
