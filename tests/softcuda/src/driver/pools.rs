//! Memory in the order of a stream, from pools.

use std::ffi::{c_int, c_void};

use super::entry::{Handle, Outcome, entries, put, take};
use super::errors::Code;
use super::state::{Block, Guard, Kind, Pool, current, lock};
use super::stream::submit;
use super::types::{MemLocation, MemPoolProps};
use super::work::Work;

entries! {
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) [cuMemAllocAsync_ptsz] {
        let (driver, context) = current()?;
        let pool = driver.current_pool.ok_or(Code::INVALID_VALUE)?;
        allocate_async(driver, context, address, bytes, pool, stream)
    }

    fn cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: Handle, stream: Handle) [cuMemAllocFromPoolAsync_ptsz] {
        let (driver, context) = current()?;
        driver.pools.get(pool).map_err(|_| Code::INVALID_VALUE)?;
        allocate_async(driver, context, address, bytes, pool, stream)
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) [cuMemFreeAsync_ptsz] {
        let (mut driver, context) = current()?;
        if address == 0 {
            return Ok(());
        }
        let stream = driver.stream(context, stream)?;
        let freeable = |block: &Block| matches!(block.kind, Kind::Device | Kind::Pool(_) | Kind::Graph);
        if !driver.blocks.get(&address).is_some_and(freeable) {
            driver.explain_bad_free("cuMemFreeAsync", address);
            return Err(Code::INVALID_VALUE);
        }
        let captures = driver.streams.get(stream)?.capture.is_some();
        submit(driver, context, stream, Work::Free(address))?;
        if !captures {
            lock()?.release_block(address);
        }
        Ok(())
    }

    fn cuMemPoolCreate(pool: *mut Handle, properties: *const MemPoolProps) {
        let mut driver = lock()?;
        let properties = take(properties)?;
        if pool.is_null() || properties.alloc_type != 1 || properties.location.kind != 1 {
            return Err(Code::INVALID_VALUE);
        }
        super::device::check(properties.location.id)?;
        if properties.handle_types != 0 {
            return super::unsupported::refuse("cuMemPoolCreate with handles to export");
        }
        let max_size = properties.max_size as u64;
        let handle = driver.pools.add(Pool { reuse: [1; 3], max_size, ..Pool::default() });
        put(pool, handle)
    }

    fn cuMemPoolDestroy(pool: Handle) {
        let mut driver = lock()?;
        if driver.default_pool == Some(pool) {
            return Err(Code::INVALID_VALUE);
        }
        driver.pools.remove(pool).map_err(|_| Code::INVALID_VALUE)?;
        if driver.current_pool == Some(pool) {
            driver.current_pool = driver.default_pool;
        }
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: Handle, _keep: usize) {
        // Nothing is held back: freed memory goes to the operating system at once.
        lock()?.pools.get(pool).map(drop).map_err(|_| Code::INVALID_VALUE)
    }

    fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: *mut c_void) {
        let driver = lock()?;
        let pool = driver.pools.get(pool).map_err(|_| Code::INVALID_VALUE)?;
        match attribute {
            1..=3 => put(value.cast::<c_int>(), pool.reuse[attribute as usize - 1]),
            4 => put(value.cast::<u64>(), pool.release_threshold),
            5 | 7 => put(value.cast::<u64>(), pool.used),
            6 | 8 => put(value.cast::<u64>(), pool.high),
            9 => put(value.cast::<c_int>(), 1),
            10 | 11 | 14 => put(value.cast::<c_int>(), 0),
            12 => put(value.cast::<c_int>(), 1),
            13 => put(value.cast::<u64>(), pool.max_size),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    fn cuMemPoolSetAttribute(pool: Handle, attribute: u32, value: *const c_void) {
        let mut driver = lock()?;
        let pool = driver.pools.get_mut(pool).map_err(|_| Code::INVALID_VALUE)?;
        match attribute {
            1..=3 => pool.reuse[attribute as usize - 1] = take(value.cast::<c_int>())?,
            4 => pool.release_threshold = take(value.cast::<u64>())?,
            // The high-water marks can only be reset.
            6 | 8 if take(value.cast::<u64>())? == 0 => pool.high = pool.used,
            _ => return Err(Code::INVALID_VALUE),
        }
        Ok(())
    }

    fn cuMemPoolSetAccess(pool: Handle, _access: *const c_void, _count: usize) {
        lock()?.pools.get(pool).map(drop).map_err(|_| Code::INVALID_VALUE)
    }

    fn cuMemPoolGetAccess(flags: *mut u32, pool: Handle, location: *mut MemLocation) {
        lock()?.pools.get(pool).map_err(|_| Code::INVALID_VALUE)?;
        let location = take(location)?;
        // Read and write for the device itself, nothing for others.
        put(flags, if location.kind == 1 && location.id == 0 { 3 } else { 0 })
    }
}

/// # Safety
/// `address` must be null or writable.
unsafe fn allocate_async(
    mut driver: Guard,
    context: Handle,
    address: *mut u64,
    bytes: usize,
    pool: Handle,
    stream: Handle,
) -> Outcome {
    if address.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let stream = driver.stream(context, stream)?;
    if bytes == 0 {
        // SAFETY: not null; writable by the contract.
        return unsafe { put(address, 0) };
    }
    let captures = driver.streams.get(stream)?.capture.is_some();
    let kind = if captures {
        Kind::Graph
    } else {
        Kind::Pool(pool)
    };
    let room = driver.pools.get(pool).map_err(|_| Code::INVALID_VALUE)?;
    if room.max_size != 0 && room.used + bytes as u64 > room.max_size {
        return Err(Code::OUT_OF_MEMORY);
    }
    let block = driver.allocate_block(context, bytes, kind, 0, "cuMemAllocAsync")?;
    submit(
        driver,
        context,
        stream,
        Work::Allocate {
            address: block,
            bytes: bytes as u64,
        },
    )?;
    // SAFETY: not null; writable by the contract.
    unsafe { put(address, block) }
}
