//! How many blocks are resident at once, and which block size makes most of it.

use std::ffi::c_int;

use super::entry::{Handle, Outcome, entries, put, take};
use super::errors::Code;
use super::state::current;
use super::types::LaunchConfig;
use crate::target::{REGISTERS_PER_THREAD, WARP};
use crate::{Kernel, Target};
use std::sync::Arc;

/// `CUoccupancyB2DSize`: dynamic shared memory for a block size.
type SharedFor = Option<unsafe extern "C" fn(c_int) -> usize>;

entries! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int,
        function: Handle,
        block_size: c_int,
        shared: usize,
    ) {
        active_blocks(blocks, function, block_size, shared)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int,
        function: Handle,
        block_size: c_int,
        shared: usize,
        flags: u32,
    ) {
        if flags & !1 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        active_blocks(blocks, function, block_size, shared)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int,
        block: *mut c_int,
        function: Handle,
        shared_for: SharedFor,
        shared: usize,
        limit: c_int,
    ) {
        best_block(grid, block, function, shared_for, shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: *mut c_int,
        block: *mut c_int,
        function: Handle,
        shared_for: SharedFor,
        shared: usize,
        limit: c_int,
        flags: u32,
    ) {
        if flags & !1 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        best_block(grid, block, function, shared_for, shared, limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        shared: *mut usize,
        function: Handle,
        blocks: c_int,
        block_size: c_int,
    ) {
        let (target, kernel) = of(function)?;
        let blocks = u32::try_from(blocks).ok().filter(|&n| n > 0).ok_or(Code::INVALID_VALUE)?;
        let threads = threads(block_size)?;
        if occupancy(&target, &kernel, threads, 0) < blocks {
            return Err(Code::INVALID_VALUE);
        }
        let share = target.shared_per_multiprocessor / blocks;
        let granules = share / target.shared_granularity * target.shared_granularity;
        let most = granules.saturating_sub(target.shared_reserved).min(target.shared_per_block_optin);
        put(shared, most.saturating_sub(kernel.static_shared) as usize)
    }

    fn cuOccupancyMaxPotentialClusterSize(
        size: *mut c_int,
        function: Handle,
        config: *const LaunchConfig,
    ) {
        let (target, _) = of(function)?;
        take(config)?;
        put(size, if target.sm >= 90 { 8 } else { 1 })
    }

    fn cuOccupancyMaxActiveClusters(count: *mut c_int, function: Handle, config: *const LaunchConfig) {
        let (target, kernel) = of(function)?;
        let config = take(config)?;
        let threads = config.block.iter().try_fold(1u32, |all, &n| all.checked_mul(n));
        let threads = threads.ok_or(Code::INVALID_VALUE)?;
        let mut cluster = 1u64;
        for index in 0..config.attribute_count as usize {
            if config.attributes.is_null() {
                return Err(Code::INVALID_VALUE);
            }
            let attribute = config.attributes.add(index).read_unaligned();
            if attribute.id == 4 {
                cluster = attribute.value[..3].iter().map(|&n| u64::from(n)).product();
            }
        }
        if cluster == 0 || cluster > 16 {
            return Err(Code::INVALID_CLUSTER_SIZE);
        }
        let blocks = occupancy(&target, &kernel, threads, config.shared_mem_bytes as usize);
        put(count, (u64::from(blocks * target.multiprocessors) / cluster) as c_int)
    }
}

fn of(function: Handle) -> Result<(Target, Arc<Kernel>), Code> {
    let (driver, _) = current()?;
    let kernel = Arc::clone(&driver.functions.get(function)?.kernel);
    Ok((driver.settings.target.clone(), kernel))
}

fn threads(block_size: c_int) -> Result<u32, Code> {
    u32::try_from(block_size)
        .ok()
        .filter(|&threads| threads > 0)
        .ok_or(Code::INVALID_VALUE)
}

fn occupancy(target: &Target, kernel: &Kernel, threads: u32, dynamic: usize) -> u32 {
    let shared = (kernel.static_shared as usize).saturating_add(dynamic);
    let shared = u32::try_from(shared).unwrap_or(u32::MAX);
    if threads > kernel.max_threads || shared > target.shared_per_block_optin {
        return 0;
    }
    target.occupancy(threads, kernel.registers.min(REGISTERS_PER_THREAD), shared)
}

/// # Safety
/// `blocks` must be null or writable.
unsafe fn active_blocks(
    blocks: *mut c_int,
    function: Handle,
    size: c_int,
    shared: usize,
) -> Outcome {
    let (target, kernel) = of(function)?;
    let count = occupancy(&target, &kernel, threads(size)?, shared);
    // SAFETY: this function's contract.
    unsafe { put(blocks, count as c_int) }
}

/// The block size with the most resident threads, the largest of equals, and the grid that fills the device.
///
/// # Safety
/// Outputs must be null or writable, `shared_for` callable for block sizes.
unsafe fn best_block(
    grid: *mut c_int,
    block: *mut c_int,
    function: Handle,
    shared_for: SharedFor,
    shared: usize,
    limit: c_int,
) -> Outcome {
    // The lock is gone when `of` returns, so the callback may do as it likes.
    let (target, kernel) = of(function)?;
    let limit = u32::try_from(limit).map_err(|_| Code::INVALID_VALUE)?;
    let most = if limit == 0 {
        kernel.max_threads
    } else {
        limit.min(kernel.max_threads)
    };
    let mut best = (0, 0, 0);
    let mut size = most;
    while size > 0 {
        // SAFETY: a function of the program's that takes a block size.
        let dynamic = shared_for.map_or(shared, |f| unsafe { f(size as c_int) });
        let blocks = occupancy(&target, &kernel, size, dynamic);
        if blocks * size > best.0 {
            best = (blocks * size, size, blocks);
        }
        size = (size - 1) / WARP * WARP;
    }
    if best.0 == 0 {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: this function's contract.
    unsafe {
        put(grid, (best.2 * target.multiprocessors) as c_int)?;
        put(block, best.1 as c_int)
    }
}
