//! What an address is, and advice about managed memory.

use std::ffi::{c_int, c_void};

use super::entry::{Handle, Outcome, entries, put, put_if_wanted, take};
use super::errors::Code;
use super::state::{Block, Driver, Kind, current};
use super::types::MemLocation;

entries! {
    fn cuMemAdvise(address: u64, bytes: usize, _advice: u32, _device: c_int) {
        managed(address, bytes)
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, _advice: u32, _location: MemLocation) {
        managed(address, bytes)
    }

    fn cuMemPrefetchAsync(address: u64, bytes: usize, _device: c_int, _stream: Handle) [cuMemPrefetchAsync_ptsz] {
        managed(address, bytes)
    }

    fn cuMemPrefetchAsync_v2(
        address: u64,
        bytes: usize,
        _location: MemLocation,
        _flags: u32,
        _stream: Handle,
    ) [cuMemPrefetchAsync_v2_ptsz] {
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
