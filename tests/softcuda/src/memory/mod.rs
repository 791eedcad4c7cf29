//! The device's address space.
//!
//! A device address is a host address inside one big reserved region, so that a copy is a `memcpy`
//! after a range check. The operating system commits pages as they are touched. Allocations are 512-byte
//! aligned with red zones between them; a freed range stays out of use for as long as the region has
//! room elsewhere, so that a late access is recognised. One bit a byte says what has been written.

mod registry;
mod shadow;

pub use registry::Allocation;
use registry::Registry;
use shadow::Shadow;
use std::sync::{Arc, RwLock};

use crate::options::Checks;

/// Alignment of allocations in bytes, and the least distance between two of them.
pub const ALIGNMENT: u64 = 512;

/// Allocation failed: the device's memory is used up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "out of device memory: {requested} bytes asked for, {used} of {limit} bytes in use; free \
     something or raise the memory limit"
)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub requested: u64,
    /// Bytes in use.
    pub used: u64,
    /// The device's size in bytes.
    pub limit: u64,
}

/// [`Memory::free`] was given an address that no live allocation starts at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("free of {address:#x}: {what}")]
pub struct UnknownAddress {
    /// The address.
    pub address: u64,
    /// What is known of it: freed before, inside an allocation, or unknown.
    pub what: String,
}

/// A range that isn't wholly inside one live allocation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at {address:#x}: {what}")]
pub struct BadRange {
    /// First byte of the range.
    pub address: u64,
    /// Length of the range in bytes.
    pub bytes: u64,
    /// Whether the range belongs to memory that was freed.
    pub freed: bool,
    /// What is known of the range: how far outside which allocation.
    pub what: String,
}

/// The device's memory. Shared by the driver, the modules and the machine.
pub struct Memory {
    /// Keeps the reservation alive; accessed by raw pointers only.
    _region: memmap2::MmapRaw,
    base: u64,
    size: u64,
    limit: u64,
    registry: RwLock<Registry>,
    shadow: Option<Shadow>,
}

impl Memory {
    /// Reserves the address space of a device with `limit` bytes. Pages are committed when touched;
    /// the bits of initialised bytes exist where `checks.uninitialised` is set.
    ///
    /// # Panics
    /// Where the operating system refuses to reserve even the limit itself.
    pub fn new(limit: u64, checks: &Checks) -> Arc<Memory> {
        // More room than memory: freed addresses can then stay unused for long.
        let limit = limit.clamp(1 << 20, 1 << 42);
        let (region, size) = [limit * 4, limit * 2, limit + limit / 4 + (1 << 20)]
            .into_iter()
            .map(|size| size.next_multiple_of(1 << 20))
            .find_map(|size| Some((reserve(size)?, size)))
            .expect("the operating system refused to reserve the device's address space");
        let base = region.as_mut_ptr() as u64;
        let shadow = checks.uninitialised.then(|| Shadow::new(base, size));
        Arc::new(Memory {
            _region: region,
            base,
            size,
            limit,
            registry: RwLock::new(Registry::new(base, size)),
            shadow,
        })
    }

    /// Allocates `bytes` bytes, 512-byte aligned, uninitialised. `label` is what findings call it.
    ///
    /// # Errors
    /// When the device's limit would be passed.
    pub fn allocate(&self, bytes: u64, label: &str) -> Result<u64, OutOfMemory> {
        let mut registry = self.registry.write().unwrap_or_else(|e| e.into_inner());
        let out_of_memory = OutOfMemory {
            requested: bytes,
            used: registry.used(),
            limit: self.limit,
        };
        if bytes > self.limit.saturating_sub(registry.used()) {
            return Err(out_of_memory);
        }
        registry
            .allocate(bytes.max(1), label, false)
            .ok_or(out_of_memory)
    }

    /// Allocates host memory that kernels can access (pinned or managed): it doesn't count against the
    /// limit and is initialised. [`Memory::free`] frees it.
    ///
    /// # Errors
    /// When the address space is used up.
    pub fn allocate_host(&self, bytes: u64, label: &str) -> Result<u64, OutOfMemory> {
        let address = {
            let mut registry = self.registry.write().unwrap_or_else(|e| e.into_inner());
            let (used, limit) = (registry.used(), self.limit);
            registry
                .allocate(bytes.max(1), label, true)
                .ok_or(OutOfMemory {
                    requested: bytes,
                    used,
                    limit,
                })?
        };
        self.mark_written(address, bytes.max(1));
        Ok(address)
    }

    /// Lets kernels access a range of the host program's own memory, which is initialised. The range has
    /// to stay valid until [`Memory::release`].
    ///
    /// # Errors
    /// When the range overlaps an allocation or another adopted range.
    pub fn adopt(&self, address: u64, bytes: u64, label: &str) -> Result<(), BadRange> {
        let mut registry = self.registry.write().unwrap_or_else(|e| e.into_inner());
        if bytes == 0
            || self.overlaps_region(address, bytes)
            || !registry.adopt(address, bytes, label)
        {
            return Err(BadRange {
                address,
                bytes,
                freed: false,
                what: "overlaps memory that the device knows already".to_string(),
            });
        }
        Ok(())
    }

    /// Ends [`Memory::adopt`] of the range that starts at `address`.
    ///
    /// # Errors
    /// When no adopted range starts there.
    pub fn release(&self, address: u64) -> Result<(), UnknownAddress> {
        let mut registry = self.registry.write().unwrap_or_else(|e| e.into_inner());
        if !self.contains(address, 1) && registry.release(address) {
            return Ok(());
        }
        Err(UnknownAddress {
            address,
            what: "no adopted range starts here".to_string(),
        })
    }

    fn overlaps_region(&self, address: u64, bytes: u64) -> bool {
        address < self.base + self.size && self.base < address.saturating_add(bytes)
    }

    /// Frees the allocation that starts at `address` and gives its pages back.
    ///
    /// # Errors
    /// When no live allocation starts there.
    pub fn free(&self, address: u64) -> Result<(), UnknownAddress> {
        let mut registry = self.registry.write().unwrap_or_else(|e| e.into_inner());
        if !self.contains(address, 1) {
            let what = "not memory that the device allocated".to_string();
            return Err(UnknownAddress { address, what });
        }
        let freed = registry.free(address)?;
        discard(freed.address, freed.bytes);
        if let Some(shadow) = &self.shadow {
            shadow.clear(freed.address, freed.bytes);
        }
        Ok(())
    }

    /// A pointer to `bytes` bytes at `address`, checked to be inside one live allocation. Bytes that
    /// the host writes through it are to be reported by [`Memory::mark_written`].
    ///
    /// # Errors
    /// When the range isn't inside one live allocation.
    pub fn slice(&self, address: u64, bytes: u64) -> Result<*mut u8, BadRange> {
        let registry = self.registry.read().unwrap_or_else(|e| e.into_inner());
        match registry.find(address) {
            Some(found)
                if found.freed.is_none() && bytes <= found.bytes - (address - found.address) =>
            {
                Ok(address as *mut u8)
            }
            found => Err(BadRange {
                address,
                bytes,
                freed: found.as_ref().is_some_and(|a| a.freed.is_some()),
                what: registry.describe(address, bytes),
            }),
        }
    }

    /// Marks a range as initialised. No-op where that check is off.
    pub fn mark_written(&self, address: u64, bytes: u64) {
        if let Some(shadow) = &self.shadow
            && self.contains(address, bytes)
        {
            shadow.set(address, bytes);
        }
    }

    /// The first byte of the range that nothing has written, or `None` where all were or where the
    /// check is off.
    pub fn first_uninitialised(&self, address: u64, bytes: u64) -> Option<u64> {
        let shadow = self.shadow.as_ref()?;
        if self.contains(address, bytes) {
            shadow.first_clear(address, bytes)
        } else {
            None
        }
    }

    /// Copies the initialised bits of `from..from+bytes` to `to..to+bytes`, as a device-to-device
    /// copy does.
    pub fn copy_initialised(&self, to: u64, from: u64, bytes: u64) {
        if let Some(shadow) = &self.shadow
            && self.contains(to, bytes)
            && self.contains(from, bytes)
        {
            shadow.copy(to, from, bytes);
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.registry
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .used()
    }

    /// The device's size in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The allocation, live or freed and not yet reused, that `address` lies in.
    pub fn find(&self, address: u64) -> Option<Allocation> {
        self.registry
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .find(address)
    }

    /// One clause about a range: the allocation it lies in, or how far it is from the nearest one.
    pub fn describe(&self, address: u64, bytes: u64) -> String {
        self.registry
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .describe(address, bytes)
    }

    /// Every live allocation, by address. What is left at exit is a leak.
    pub fn live(&self) -> Vec<Allocation> {
        self.registry
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .live()
    }

    /// Whether the range lies inside the reserved region, allocated or not.
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address >= self.base && bytes <= self.size && address - self.base <= self.size - bytes
    }

    /// First address and length of the reserved region.
    pub(crate) fn region(&self) -> (u64, u64) {
        (self.base, self.size)
    }

    /// The initialised bits, where the check is on.
    pub(crate) fn shadow(&self) -> Option<&Shadow> {
        self.shadow.as_ref()
    }
}

/// Reserves `size` bytes of zero pages without swap being set aside for them.
pub(crate) fn reserve(size: u64) -> Option<memmap2::MmapRaw> {
    let size = usize::try_from(size).ok()?;
    let region = memmap2::MmapOptions::new()
        .len(size)
        .no_reserve_swap()
        .map_anon()
        .ok()?;
    Some(memmap2::MmapRaw::from(region))
}

/// Gives the whole pages inside a range back to the operating system; they read as zero afterwards.
pub(crate) fn discard(address: u64, bytes: u64) {
    const PAGE: u64 = 4096;
    let first = address.next_multiple_of(PAGE);
    let end = (address + bytes) / PAGE * PAGE;
    if first < end {
        // SAFETY: the range is inside an anonymous private mapping of this process, and what it held
        // belongs to nobody any more.
        unsafe {
            libc::madvise(
                first as *mut libc::c_void,
                (end - first) as usize,
                libc::MADV_DONTNEED,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<Memory> {
        Memory::new(1 << 24, &Checks::ALL)
    }

    #[test]
    fn a_range_past_an_allocation_is_refused_and_names_it() {
        let memory = memory();
        let address = memory.allocate(100, "weights").unwrap();
        assert!(memory.slice(address + 96, 4).is_ok());
        let error = memory.slice(address + 96, 8).unwrap_err();
        assert!(error.to_string().contains("weights"), "{error}");
    }

    #[test]
    fn freed_memory_is_remembered_and_its_bits_are_cleared() {
        let memory = memory();
        let address = memory.allocate(8192, "scratch").unwrap();
        memory.mark_written(address, 8192);
        memory.free(address).unwrap();
        let error = memory.slice(address, 1).unwrap_err();
        assert!(
            error.freed && error.to_string().contains("freed"),
            "{error}"
        );
        assert_eq!(memory.first_uninitialised(address, 8192), Some(address));
        assert!(memory.free(address).is_err());
    }

    #[test]
    fn addresses_come_back_only_when_the_region_is_used_up() {
        let memory = memory();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..8 {
            let address = memory.allocate(4 << 20, "step").unwrap();
            seen.insert(address);
            memory.free(address).unwrap();
        }
        assert!(seen.len() >= 3);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn the_limit_is_kept() {
        let memory = memory();
        let first = memory.allocate(12 << 20, "a").unwrap();
        let error = memory.allocate(8 << 20, "b").unwrap_err();
        assert_eq!((error.used, error.limit), (12 << 20, 1 << 24));
        memory.free(first).unwrap();
        assert!(memory.allocate(8 << 20, "b").is_ok());
    }
}
