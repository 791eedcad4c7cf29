//! The pretended devices: their limits, and how many blocks fit on a multiprocessor.
//!
//! Numbers are those of the CUDA programming guide's table of compute capabilities and of one
//! well-known product for each.

/// A device that the machine pretends to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The product's name.
    pub name: &'static str,
    /// Compute capability, as in `sm_90`.
    pub sm: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Device memory in bytes.
    pub memory: u64,
    /// Resident threads of a multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// Resident blocks of a multiprocessor.
    pub blocks_per_multiprocessor: u32,
    /// Registers of a multiprocessor, and the most a block can use.
    pub registers_per_multiprocessor: u32,
    /// Shared memory of a multiprocessor in bytes.
    pub shared_per_multiprocessor: u32,
    /// Shared memory of a block in bytes without asking for more.
    pub shared_per_block: u32,
    /// Shared memory of a block in bytes after asking for more.
    pub shared_per_block_optin: u32,
    /// Shared memory that the system keeps of each block, in bytes.
    pub shared_reserved: u32,
    /// Granularity of shared-memory allocation in bytes.
    pub shared_granularity: u32,
    /// L2 cache in bytes.
    pub l2: u32,
    /// Core clock in kHz.
    pub clock_khz: u32,
    /// Memory clock in kHz.
    pub memory_clock_khz: u32,
    /// Width of the memory bus in bits.
    pub memory_bus_bits: u32,
}

/// Threads of a block, at most, on every device.
pub const THREADS_PER_BLOCK: u32 = 1024;
/// Threads of a block along x, y, z, at most.
pub const BLOCK_LIMITS: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid along x, y, z, at most.
pub const GRID_LIMITS: [u32; 3] = [0x7fff_ffff, 65535, 65535];
/// Registers of a thread, at most.
pub const REGISTERS_PER_THREAD: u32 = 255;
/// Lanes of a warp.
pub const WARP: u32 = 32;

const KIB: u32 = 1024;
const GIB: u64 = 1 << 30;

const TARGETS: [Target; 7] = [
    Target {
        name: "Tesla T4",
        sm: 75,
        multiprocessors: 40,
        memory: 15 * GIB,
        threads_per_multiprocessor: 1024,
        blocks_per_multiprocessor: 16,
        registers_per_multiprocessor: 65536,
        shared_per_multiprocessor: 64 * KIB,
        shared_per_block: 48 * KIB,
        shared_per_block_optin: 64 * KIB,
        shared_reserved: 0,
        shared_granularity: 256,
        l2: 4 << 20,
        clock_khz: 1_590_000,
        memory_clock_khz: 5_001_000,
        memory_bus_bits: 256,
    },
    Target {
        name: "NVIDIA A100-SXM4-80GB",
        sm: 80,
        multiprocessors: 108,
        memory: 80 * GIB,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        registers_per_multiprocessor: 65536,
        shared_per_multiprocessor: 164 * KIB,
        shared_per_block: 48 * KIB,
        shared_per_block_optin: 163 * KIB,
        shared_reserved: KIB,
        shared_granularity: 128,
        l2: 40 << 20,
        clock_khz: 1_410_000,
        memory_clock_khz: 1_593_000,
        memory_bus_bits: 5120,
    },
    Target {
        name: "NVIDIA GeForce RTX 3090",
        sm: 86,
        multiprocessors: 82,
        memory: 24 * GIB,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 16,
        registers_per_multiprocessor: 65536,
        shared_per_multiprocessor: 100 * KIB,
        shared_per_block: 48 * KIB,
        shared_per_block_optin: 99 * KIB,
        shared_reserved: KIB,
        shared_granularity: 128,
        l2: 6 << 20,
        clock_khz: 1_695_000,
        memory_clock_khz: 9_751_000,
        memory_bus_bits: 384,
    },
    Target {
        name: "NVIDIA GeForce RTX 4090",
        sm: 89,
        multiprocessors: 128,
        memory: 24 * GIB,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 24,
        registers_per_multiprocessor: 65536,
        shared_per_multiprocessor: 100 * KIB,
        shared_per_block: 48 * KIB,
        shared_per_block_optin: 99 * KIB,
        shared_reserved: KIB,
        shared_granularity: 128,
        l2: 72 << 20,
        clock_khz: 2_520_000,
        memory_clock_khz: 10_501_000,
        memory_bus_bits: 384,
    },
    Target {
        name: "NVIDIA H100 80GB HBM3",
        sm: 90,
        multiprocessors: 132,
        memory: 80 * GIB,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        registers_per_multiprocessor: 65536,
        shared_per_multiprocessor: 228 * KIB,
        shared_per_block: 48 * KIB,
        shared_per_block_optin: 227 * KIB,
        shared_reserved: KIB,
        shared_granularity: 128,
        l2: 50 << 20,
        clock_khz: 1_980_000,
        memory_clock_khz: 2_619_000,
        memory_bus_bits: 5120,
    },
    Target {
        name: "NVIDIA B200",
        sm: 100,
        multiprocessors: 148,
        memory: 180 * GIB,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        registers_per_multiprocessor: 65536,
        shared_per_multiprocessor: 228 * KIB,
        shared_per_block: 48 * KIB,
        shared_per_block_optin: 227 * KIB,
        shared_reserved: KIB,
        shared_granularity: 128,
        l2: 126 << 20,
        clock_khz: 1_965_000,
        memory_clock_khz: 3_996_000,
        memory_bus_bits: 8192,
    },
    Target {
        name: "NVIDIA GeForce RTX 5090",
        sm: 120,
        multiprocessors: 170,
        memory: 32 * GIB,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 24,
        registers_per_multiprocessor: 65536,
        shared_per_multiprocessor: 100 * KIB,
        shared_per_block: 48 * KIB,
        shared_per_block_optin: 99 * KIB,
        shared_reserved: KIB,
        shared_granularity: 128,
        l2: 96 << 20,
        clock_khz: 2_407_000,
        memory_clock_khz: 14_001_000,
        memory_bus_bits: 512,
    },
];

impl Default for Target {
    fn default() -> Target {
        TARGETS[4].clone()
    }
}

impl Target {
    /// The device of compute capability `sm` (75, 80, 86, 89, 90, 100 or 120).
    pub fn of(sm: u32) -> Option<Target> {
        TARGETS.iter().find(|target| target.sm == sm).cloned()
    }

    /// Parses a `SOFTCUDA_DEVICE` value, `sm_90` or `90`.
    ///
    /// # Errors
    /// An unknown device; the message names the known ones.
    pub fn parse(text: &str) -> Result<Target, String> {
        let number = text.strip_prefix("sm_").unwrap_or(text);
        number.parse().ok().and_then(Target::of).ok_or_else(|| {
            format!(
                "SOFTCUDA_DEVICE: expected sm_75, sm_80, sm_86, sm_89, sm_90, sm_100 or sm_120, \
                 found `{text}`"
            )
        })
    }

    /// Compute capability as (major, minor).
    pub fn capability(&self) -> (u32, u32) {
        (self.sm / 10, self.sm % 10)
    }

    /// Blocks that are resident on a multiprocessor at once, for blocks of `threads` threads with
    /// `registers` registers a thread and `shared` bytes of static and dynamic shared memory.
    /// 0 where one block does not fit.
    pub fn occupancy(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        if threads == 0 || threads > THREADS_PER_BLOCK || shared > self.shared_per_block_optin {
            return 0;
        }
        let warps = threads.div_ceil(WARP);
        let by_threads = self.threads_per_multiprocessor / WARP / warps;
        // Registers are given to a warp in units of 256; each of the four schedulers has a quarter.
        let warp_registers = (registers.max(1) * WARP).next_multiple_of(256);
        let by_registers = self.registers_per_multiprocessor / 4 / warp_registers * 4 / warps;
        let block_shared =
            (shared + self.shared_reserved).next_multiple_of(self.shared_granularity);
        let by_shared = self.shared_per_multiprocessor.checked_div(block_shared);
        self.blocks_per_multiprocessor
            .min(by_threads)
            .min(by_registers)
            .min(by_shared.unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_follows_the_scarcest_resource() {
        let h100 = Target::default();
        assert_eq!(h100.occupancy(256, 32, 0), 8);
        assert_eq!(h100.occupancy(1024, 64, 0), 1);
        assert_eq!(h100.occupancy(128, 32, 100 * 1024), 2);
        assert_eq!(h100.occupancy(32, 16, 0), 32);
        assert_eq!(h100.occupancy(32, 16, 228 * 1024), 0);
    }

    #[test]
    fn every_known_device_is_found_by_name() {
        for sm in [75, 80, 86, 89, 90, 100, 120] {
            assert_eq!(Target::parse(&format!("sm_{sm}")).unwrap().sm, sm);
        }
        assert!(Target::parse("sm_61").is_err());
    }
}
