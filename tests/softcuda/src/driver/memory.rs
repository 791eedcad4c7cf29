//! Memory: plain, pitched, in stream order from pools, page-locked, registered, managed; what an address is.
//!
//! All addresses are host addresses, so host and device see page-locked and managed memory under one
//! pointer, as with unified addressing on a real system.

use std::ffi::{c_int, c_void};

use super::capture;
use super::entry::{Handle, Outcome, entries, put, put_if_wanted, say, take};
use super::errors::Code;
use super::state::{Block, Driver, Guard, Kind, Pool, current, lock};
use super::stream::submit;
use super::types::{MemLocation, MemPoolProps};
use super::work::Work;

/// Bytes that pitches are multiples of.
const PITCH: usize = 512;

entries! {
    fn cuMemGetInfo(free: *mut usize, total: *mut usize) {
        info(free, total)
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        info(free, total)
    }

    fn cuMemAlloc(address: *mut u64, bytes: usize) {
        allocate(address, bytes, "cuMemAlloc")
    }

    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        allocate(address, bytes, "cuMemAlloc")
    }

    fn cuMemAllocPitch(address: *mut u64, pitch: *mut usize, width: usize, height: usize, element: u32) {
        allocate_pitched(address, pitch, width, height, element)
    }

    fn cuMemAllocPitch_v2(address: *mut u64, pitch: *mut usize, width: usize, height: usize, element: u32) {
        allocate_pitched(address, pitch, width, height, element)
    }

    fn cuMemFree(address: u64) {
        free(address)
    }

    fn cuMemFree_v2(address: u64) {
        free(address)
    }

    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) {
        let (driver, context) = current()?;
        let pool = driver.current_pool.ok_or(Code::INVALID_VALUE)?;
        allocate_async(driver, context, address, bytes, pool, stream)
    }

    fn cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: Handle, stream: Handle) {
        let (driver, context) = current()?;
        driver.pools.get(pool).map_err(|_| Code::INVALID_VALUE)?;
        allocate_async(driver, context, address, bytes, pool, stream)
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
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

    fn cuMemAllocHost(address: *mut u64, bytes: usize) {
        allocate_host(address, bytes, 0)
    }

    fn cuMemAllocHost_v2(address: *mut u64, bytes: usize) {
        allocate_host(address, bytes, 0)
    }

    fn cuMemHostAlloc(address: *mut u64, bytes: usize, flags: u32) {
        allocate_host(address, bytes, flags)
    }

    fn cuMemFreeHost(address: u64) {
        let (mut driver, context) = current()?;
        if address == 0 {
            return Ok(());
        }
        if !driver.blocks.get(&address).is_some_and(|block| block.kind == Kind::Pinned) {
            driver.explain_bad_free("cuMemFreeHost", address);
            return Err(Code::INVALID_VALUE);
        }
        driver.wait_for_context(context);
        driver.release_block(address);
        Ok(())
    }

    fn cuMemHostRegister(address: u64, bytes: usize, flags: u32) {
        register(address, bytes, flags)
    }

    fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: u32) {
        register(address, bytes, flags)
    }

    fn cuMemHostUnregister(address: u64) {
        let (mut driver, context) = current()?;
        if !driver.blocks.get(&address).is_some_and(|block| block.kind == Kind::Registered) {
            return Err(Code::HOST_MEMORY_NOT_REGISTERED);
        }
        driver.wait_for_context(context);
        driver.release_block(address);
        Ok(())
    }

    fn cuMemHostGetDevicePointer(device: *mut u64, host: u64, flags: u32) {
        device_pointer(device, host, flags)
    }

    fn cuMemHostGetDevicePointer_v2(device: *mut u64, host: u64, flags: u32) {
        device_pointer(device, host, flags)
    }

    fn cuMemHostGetFlags(flags: *mut u32, address: u64) {
        let (driver, _) = current()?;
        let (_, block) = driver.block_at(address).ok_or(Code::INVALID_VALUE)?;
        if !matches!(block.kind, Kind::Pinned | Kind::Registered) {
            return Err(Code::INVALID_VALUE);
        }
        put(flags, block.flags)
    }

    fn cuMemAllocManaged(address: *mut u64, bytes: usize, flags: u32) {
        let (mut driver, context) = current()?;
        // Attached to all streams, or to the host.
        if address.is_null() || bytes == 0 || !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE);
        }
        capture::forbid(&mut driver, context)?;
        let block = driver.allocate_block(context, bytes, Kind::Managed, flags, "cuMemAllocManaged")?;
        // The host writes it unseen, so all of it counts as written.
        driver.memory.mark_written(block, bytes as u64);
        put(address, block)
    }

    fn cuMemAdvise(address: u64, bytes: usize, _advice: u32, _device: c_int) {
        managed(address, bytes)
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, _advice: u32, _location: MemLocation) {
        managed(address, bytes)
    }

    fn cuMemPrefetchAsync(address: u64, bytes: usize, _device: c_int, _stream: Handle) {
        managed(address, bytes)
    }

    fn cuMemPrefetchAsync_v2(
        address: u64,
        bytes: usize,
        _location: MemLocation,
        _flags: u32,
        _stream: Handle,
    ) {
        managed(address, bytes)
    }

    fn cuMemGetAddressRange(start: *mut u64, bytes: *mut usize, address: u64) {
        address_range(start, bytes, address)
    }

    fn cuMemGetAddressRange_v2(start: *mut u64, bytes: *mut usize, address: u64) {
        address_range(start, bytes, address)
    }

    fn cuPointerGetAttribute(value: *mut c_void, attribute: u32, address: u64) {
        let (driver, _) = current()?;
        let found = driver.what_is(address).ok_or(Code::INVALID_VALUE)?;
        put_attribute(&found, value, attribute, address)
    }

    fn cuPointerGetAttributes(
        count: u32,
        attributes: *const u32,
        values: *const *mut c_void,
        address: u64,
    ) {
        let (driver, _) = current()?;
        if attributes.is_null() || values.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let found = driver.what_is(address);
        for index in 0..count as usize {
            let attribute = attributes.add(index).read_unaligned();
            let value = values.add(index).read_unaligned();
            match &found {
                Some(found) => put_attribute(found, value, attribute, address)?,
                // An unknown pointer is no error here: it is ordinary host memory, all zeros.
                None => put_zero(value, attribute)?,
            }
        }
        Ok(())
    }

    fn cuPointerSetAttribute(value: *const c_void, attribute: u32, address: u64) {
        let (driver, _) = current()?;
        driver.what_is(address).ok_or(Code::INVALID_VALUE)?;
        take(value.cast::<u32>())?;
        // CU_POINTER_ATTRIBUTE_SYNC_MEMOPS: memory operations are synchronous here anyway.
        if attribute == 6 { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }
}

/// # Safety
/// Both pointers must be null or writable.
unsafe fn info(free: *mut usize, total: *mut usize) -> Outcome {
    let (driver, _) = current()?;
    let (limit, used) = (driver.memory.limit(), driver.memory.used());
    // SAFETY: this function's contract.
    unsafe {
        put(free, limit.saturating_sub(used) as usize)?;
        put(total, limit as usize)
    }
}

/// # Safety
/// `address` must be null or writable.
unsafe fn allocate(address: *mut u64, bytes: usize, label: &str) -> Outcome {
    let (mut driver, context) = current()?;
    if address.is_null() || bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    capture::forbid(&mut driver, context)?;
    let block = driver.allocate_block(context, bytes, Kind::Device, 0, label)?;
    // SAFETY: not null; writable by the contract.
    unsafe { put(address, block) }
}

/// # Safety
/// Both pointers must be null or writable.
unsafe fn allocate_pitched(
    address: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> Outcome {
    if pitch.is_null() || width == 0 || height == 0 || !matches!(element, 4 | 8 | 16) {
        return Err(Code::INVALID_VALUE);
    }
    let row = width
        .checked_next_multiple_of(PITCH)
        .ok_or(Code::INVALID_VALUE)?;
    let bytes = row.checked_mul(height).ok_or(Code::INVALID_VALUE)?;
    // SAFETY: this function's contract.
    unsafe {
        allocate(address, bytes, "cuMemAllocPitch")?;
        put(pitch, row)
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

/// Frees at once; the host waits for all that may still use the memory.
fn free(address: u64) -> Outcome {
    let (mut driver, context) = current()?;
    if address == 0 {
        return Ok(());
    }
    let freeable = |block: &Block| !matches!(block.kind, Kind::Pinned | Kind::Registered);
    if !driver.blocks.get(&address).is_some_and(freeable) {
        driver.explain_bad_free("cuMemFree", address);
        return Err(Code::INVALID_VALUE);
    }
    capture::forbid(&mut driver, context)?;
    driver.wait_for_context(context);
    driver.release_block(address);
    Ok(())
}

/// # Safety
/// `address` must be null or writable.
unsafe fn allocate_host(address: *mut u64, bytes: usize, flags: u32) -> Outcome {
    let (mut driver, context) = current()?;
    // Portable, mapped, write-combined.
    if address.is_null() || bytes == 0 || flags & !7 != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let block = driver.allocate_block(context, bytes, Kind::Pinned, flags, "cuMemHostAlloc")?;
    // SAFETY: not null; writable by the contract.
    unsafe { put(address, block) }
}

fn register(address: u64, bytes: usize, flags: u32) -> Outcome {
    let (mut driver, context) = current()?;
    let end = address
        .checked_add(bytes as u64)
        .ok_or(Code::INVALID_VALUE)?;
    // Portable, device map, I/O memory (which nothing here is), read-only.
    if address == 0 || bytes == 0 || flags & !0xb != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let before = driver.blocks.range(..end).next_back();
    if before.is_some_and(|(&start, block)| start + block.bytes > address) {
        return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
    }
    driver
        .memory
        .adopt(address, bytes as u64, "cuMemHostRegister")
        .map_err(|reason| {
            say(&format!("cuMemHostRegister: {reason}"));
            Code::INVALID_VALUE
        })?;
    let number = driver.number();
    let block = Block {
        bytes: bytes as u64,
        kind: Kind::Registered,
        context,
        flags,
        number,
    };
    driver.blocks.insert(address, block);
    Ok(())
}

/// # Safety
/// `device` must be null or writable.
unsafe fn device_pointer(device: *mut u64, host: u64, flags: u32) -> Outcome {
    let (driver, _) = current()?;
    let (_, block) = driver.block_at(host).ok_or(Code::INVALID_VALUE)?;
    if flags != 0 || !matches!(block.kind, Kind::Pinned | Kind::Registered | Kind::Managed) {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: this function's contract.
    unsafe { put(device, host) }
}

/// Advice and prefetching change nothing here, but only managed memory may be given.
fn managed(address: u64, bytes: usize) -> Outcome {
    let (driver, _) = current()?;
    let (start, block) = driver.block_at(address).ok_or(Code::INVALID_VALUE)?;
    let inside = address - start <= block.bytes && bytes as u64 <= block.bytes - (address - start);
    if block.kind == Kind::Managed && bytes > 0 && inside {
        Ok(())
    } else {
        Err(Code::INVALID_VALUE)
    }
}

/// # Safety
/// Both pointers must be null or writable.
unsafe fn address_range(start: *mut u64, bytes: *mut usize, address: u64) -> Outcome {
    let (driver, _) = current()?;
    let found = driver.what_is(address).ok_or(Code::NOT_FOUND)?;
    // SAFETY: this function's contract.
    unsafe {
        put_if_wanted(start, found.start);
        put_if_wanted(bytes, found.bytes as usize);
    }
    Ok(())
}

/// What is known of an address.
struct What {
    start: u64,
    bytes: u64,
    kind: Kind,
    context: Handle,
    number: u64,
}

/// # Safety
/// `value` must be null or writable as the attribute's type.
unsafe fn put_attribute(found: &What, value: *mut c_void, attribute: u32, address: u64) -> Outcome {
    let host = matches!(found.kind, Kind::Pinned | Kind::Registered);
    // SAFETY: this function's contract, for each attribute with the type that cuda.h gives it.
    unsafe {
        match attribute {
            1 => put(value.cast::<Handle>(), found.context),
            2 => put(value.cast::<u32>(), if host { 1 } else { 2 }),
            3 => put(value.cast::<u64>(), address),
            4 if host || found.kind == Kind::Managed => put(value.cast::<u64>(), address),
            4 => Err(Code::INVALID_VALUE),
            6 => put(value.cast::<u32>(), 0),
            7 => put(value.cast::<u64>(), found.number),
            8 => put(value.cast::<u32>(), u32::from(found.kind == Kind::Managed)),
            9 => put(value.cast::<c_int>(), 0),
            10 | 15 => put(value.cast::<u8>(), 0),
            11 => put(value.cast::<u64>(), found.start),
            12 => put(value.cast::<usize>(), found.bytes as usize),
            13 => put(value.cast::<u8>(), 1),
            14 => put(value.cast::<u64>(), 0),
            16 => put(value.cast::<u64>(), 3),
            17 => match found.kind {
                Kind::Pool(pool) => put(value.cast::<Handle>(), pool),
                _ => put(value.cast::<Handle>(), 0),
            },
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

/// Zero, in the width of the attribute.
///
/// # Safety
/// `value` must be null or writable as the attribute's type.
unsafe fn put_zero(value: *mut c_void, attribute: u32) -> Outcome {
    // SAFETY: this function's contract.
    unsafe {
        match attribute {
            2 | 6 | 8 => put(value.cast::<u32>(), 0),
            9 => put(value.cast::<c_int>(), -2),
            10 | 13 | 15 => put(value.cast::<u8>(), 0),
            1 | 3 | 4 | 7 | 11 | 12 | 14 | 16 | 17 => put(value.cast::<u64>(), 0),
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

impl Driver {
    /// Allocates, and remembers who did.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`, when it is, or when `SOFTCUDA_FAIL=alloc@N` says so.
    pub fn allocate_block(
        &mut self,
        context: Handle,
        bytes: usize,
        kind: Kind,
        flags: u32,
        label: &str,
    ) -> Result<u64, Code> {
        let device = !matches!(kind, Kind::Pinned);
        if device {
            self.allocations += 1;
            if self
                .settings
                .failures
                .allocations
                .contains(&self.allocations)
            {
                say(&format!(
                    "planted failure of allocation {} ({label}, {bytes} bytes; SOFTCUDA_FAIL=alloc@{0})",
                    self.allocations
                ));
                return Err(Code::OUT_OF_MEMORY);
            }
        }
        let placed = if device {
            self.memory.allocate(bytes as u64, label)
        } else {
            self.memory.allocate_host(bytes as u64, label)
        };
        // No message: programs probe for memory, and the code says it all.
        let address = placed.map_err(|_| Code::OUT_OF_MEMORY)?;
        let number = self.number();
        self.order.forget(address);
        self.blocks.insert(
            address,
            Block {
                bytes: bytes as u64,
                kind,
                context,
                flags,
                number,
            },
        );
        if let Kind::Pool(pool) = kind
            && let Ok(pool) = self.pools.get_mut(pool)
        {
            pool.used += bytes as u64;
            pool.high = pool.high.max(pool.used);
        }
        Ok(address)
    }

    /// Ends the life of a block.
    pub fn release_block(&mut self, address: u64) {
        let Some(block) = self.blocks.remove(&address) else {
            return;
        };
        match block.kind {
            Kind::Registered => drop(self.memory.release(address)),
            _ => drop(self.memory.free(address)),
        }
        if let Kind::Pool(pool) = block.kind
            && let Ok(pool) = self.pools.get_mut(pool)
        {
            pool.used -= block.bytes;
        }
    }

    /// Says why an address cannot be freed.
    fn explain_bad_free(&self, function: &str, address: u64) {
        say(&format!(
            "{function} of {address:#x}: {}",
            match self.blocks.get(&address) {
                Some(block) => format!(
                    "it is {:?} memory, which has a free function of its own",
                    block.kind
                ),
                None => self.memory.describe(address, 1),
            }
        ));
    }

    /// What an address is: a block of the program's, or a variable of a module.
    fn what_is(&self, address: u64) -> Option<What> {
        if let Some((start, block)) = self.block_at(address) {
            let &Block {
                bytes,
                kind,
                context,
                number,
                ..
            } = block;
            return Some(What {
                start,
                bytes,
                kind,
                context,
                number,
            });
        }
        let found = self
            .memory
            .find(address)
            .filter(|found| found.freed.is_none())?;
        let context = super::state::with_stack(|stack| stack.last().copied())?;
        Some(What {
            start: found.address,
            bytes: found.bytes,
            kind: Kind::Device,
            context,
            number: found.serial,
        })
    }
}
