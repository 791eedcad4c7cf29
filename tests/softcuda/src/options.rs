//! What a user may set: the checks, the schedule, the time limit, the counters.

use std::time::Duration;

/// Which checks run. Each is independent of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Out-of-bounds, misaligned and use-after-free accesses, in every state space.
    pub memory: bool,
    /// Reads of memory that nothing has written.
    pub uninitialised: bool,
    /// Shared-memory races between barriers and global races between the blocks of a launch.
    pub races: bool,
    /// Divergent barriers and wrong masks of `*.sync` instructions.
    pub barriers: bool,
    /// Memory that is still allocated at exit. The driver looks.
    pub leaks: bool,
    /// Work on different streams that touches the same memory without an event between. The driver
    /// looks.
    pub streams: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Checks = Checks {
        memory: true,
        uninitialised: true,
        races: true,
        barriers: true,
        leaks: true,
        streams: true,
    };
    /// No check. An access outside the device's memory is still a fault.
    pub const NONE: Checks = Checks {
        memory: false,
        uninitialised: false,
        races: false,
        barriers: false,
        leaks: false,
        streams: false,
    };

    /// Parses a `SOFTCUDA_CHECKS` value: `on`, `off`, or a comma-separated list of `memory`,
    /// `uninitialised`, `races`, `barriers`, `leaks`, `streams`.
    ///
    /// # Errors
    /// An unknown word; the message names the known ones.
    pub fn parse(text: &str) -> Result<Checks, String> {
        match text {
            "on" | "all" | "" => return Ok(Checks::ALL),
            "off" | "none" => return Ok(Checks::NONE),
            _ => {}
        }
        let mut checks = Checks::NONE;
        for word in text.split(',') {
            match word.trim() {
                "memory" => checks.memory = true,
                "uninitialised" => checks.uninitialised = true,
                "races" => checks.races = true,
                "barriers" => checks.barriers = true,
                "leaks" => checks.leaks = true,
                "streams" => checks.streams = true,
                other => {
                    return Err(format!(
                        "SOFTCUDA_CHECKS: expected `on`, `off` or a list of memory, uninitialised, \
                         races, barriers, leaks, streams, found `{other}`"
                    ));
                }
            }
        }
        Ok(checks)
    }

    /// Whether any check is on.
    pub fn any(self) -> bool {
        self != Checks::NONE
    }
}

/// The settings of a machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which checks run.
    pub checks: Checks,
    /// Shuffles the order of blocks and warps where set; the natural order otherwise.
    pub schedule: Option<u64>,
    /// A launch that takes longer is stopped with [`crate::FaultKind::Timeout`].
    pub timeout: Option<Duration>,
    /// Whether launches count what costs time to count (sectors, bank conflicts, classes).
    pub profile: bool,
    /// Whether launches report the ranges of memory they touch, [`crate::Counters::reads`] and `writes`.
    pub track: bool,
    /// Worker threads of a launch; 0 means one for each processor.
    pub threads: usize,
    /// The newest PTX version that the pretended driver accepts, as (major, minor).
    pub ptx_version: (u32, u32),
}

impl Default for Options {
    fn default() -> Options {
        Options {
            checks: Checks::ALL,
            schedule: None,
            timeout: None,
            profile: false,
            track: false,
            threads: 0,
            ptx_version: (9, 9),
        }
    }
}
