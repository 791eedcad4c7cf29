//! Memory: plain, pitched, page-locked, registered, managed.
//!
//! All addresses are host addresses, so host and device see page-locked and managed memory under one
//! pointer, as with unified addressing on a real system.

use super::capture;
use super::entry::{Handle, Outcome, entries, put, say};
use super::errors::Code;
use super::state::{Block, Driver, Kind, current};

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
    pub(super) fn explain_bad_free(&self, function: &str, address: u64) {
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
}
