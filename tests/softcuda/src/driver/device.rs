//! The one pretended device: its name, memory, limits and attributes.

use std::ffi::{c_char, c_int};

use super::entry::{Handle, entries, put, put_if_wanted, put_text, text};
use super::errors::Code;
use super::state::{lock, started};
use super::types::DeviceProperties;
use crate::Target;
use crate::target::{BLOCK_LIMITS, GRID_LIMITS, THREADS_PER_BLOCK, WARP};

/// Where the device pretends to sit on the PCI bus.
const PCI: &str = "0000:01:00.0";

entries! {
    fn cuDeviceGetCount(count: *mut c_int) {
        started()?;
        put(count, 1)
    }

    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        started()?;
        check(ordinal)?;
        put(device, 0)
    }

    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) {
        let driver = lock()?;
        check(device)?;
        put_text(name, length, driver.settings.target.name)
    }

    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) {
        let driver = lock()?;
        check(device)?;
        put(uuid, uuid_of(&driver.settings.target))
    }

    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) {
        let driver = lock()?;
        check(device)?;
        put(uuid, uuid_of(&driver.settings.target))
    }

    fn cuDeviceGetLuid(_luid: *mut c_char, _mask: *mut u32, device: c_int) {
        // A Windows notion; the driver of other systems says so.
        started()?;
        check(device)?;
        Err(Code::NOT_SUPPORTED)
    }

    fn cuDeviceTotalMem(bytes: *mut usize, device: c_int) {
        let driver = lock()?;
        check(device)?;
        put(bytes, driver.memory.limit() as usize)
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        let driver = lock()?;
        check(device)?;
        put(bytes, driver.memory.limit() as usize)
    }

    fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, device: c_int) {
        let driver = lock()?;
        check(device)?;
        let capability = driver.settings.target.capability();
        put(major, capability.0 as c_int)?;
        put(minor, capability.1 as c_int)
    }

    fn cuDeviceGetAttribute(value: *mut c_int, attribute: u32, device: c_int) {
        let driver = lock()?;
        check(device)?;
        put(value, self::attribute(&driver.settings.target, attribute)?)
    }

    fn cuDeviceGetProperties(properties: *mut DeviceProperties, device: c_int) {
        let driver = lock()?;
        check(device)?;
        let target = &driver.settings.target;
        put(properties, DeviceProperties {
            max_threads_per_block: THREADS_PER_BLOCK as i32,
            max_threads_dim: BLOCK_LIMITS.map(|limit| limit as i32),
            max_grid_size: GRID_LIMITS.map(|limit| limit as i32),
            shared_mem_per_block: target.shared_per_block as i32,
            total_constant_memory: 65536,
            simd_width: WARP as i32,
            mem_pitch: i32::MAX,
            regs_per_block: target.registers_per_multiprocessor as i32,
            clock_rate: target.clock_khz as i32,
            texture_align: 512,
        })
    }

    fn cuDeviceGetPCIBusId(name: *mut c_char, length: c_int, device: c_int) {
        started()?;
        check(device)?;
        put_text(name, length, PCI)
    }

    fn cuDeviceGetByPCIBusId(device: *mut c_int, name: *const c_char) {
        started()?;
        let name = text(name)?.to_lowercase();
        if !matches!(name.as_str(), PCI | "0000:01:00" | "01:00.0" | "01:00") {
            return Err(Code::INVALID_DEVICE);
        }
        put(device, 0)
    }

    fn cuDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) {
        started()?;
        check(device)?;
        check(peer)?;
        put(can, 0)
    }

    fn cuDeviceGetP2PAttribute(_value: *mut c_int, _attribute: u32, source: c_int, target: c_int) {
        started()?;
        check(source)?;
        check(target)?;
        // The two must differ, and there is only one device.
        Err(Code::INVALID_DEVICE)
    }

    fn cuDeviceGetExecAffinitySupport(supported: *mut c_int, _kind: u32, device: c_int) {
        started()?;
        check(device)?;
        put(supported, 0)
    }

    fn cuDeviceGetTexture1DLinearMaxWidth(
        _width: *mut usize,
        _format: u32,
        _channels: u32,
        device: c_int,
    ) {
        check(device)?;
        super::unsupported::refuse("cuDeviceGetTexture1DLinearMaxWidth")
    }

    fn cuDeviceGetDefaultMemPool(pool: *mut Handle, device: c_int) {
        let driver = lock()?;
        check(device)?;
        put(pool, driver.default_pool.unwrap_or(0))
    }

    fn cuDeviceGetMemPool(pool: *mut Handle, device: c_int) {
        let driver = lock()?;
        check(device)?;
        put(pool, driver.current_pool.unwrap_or(0))
    }

    fn cuDeviceSetMemPool(device: c_int, pool: Handle) {
        let mut driver = lock()?;
        check(device)?;
        driver.pools.get(pool).map_err(|_| Code::INVALID_VALUE)?;
        driver.current_pool = Some(pool);
        Ok(())
    }

    fn cuDeviceGraphMemTrim(device: c_int) {
        started()?;
        check(device)
    }

    fn cuDeviceGetGraphMemAttribute(device: c_int, attribute: u32, value: *mut u64) {
        let driver = lock()?;
        check(device)?;
        if attribute > 3 {
            return Err(Code::INVALID_VALUE);
        }
        let bytes = driver.blocks.values().filter(|block| block.kind == super::state::Kind::Graph);
        put(value, bytes.map(|block| block.bytes).sum())
    }

    fn cuDeviceSetGraphMemAttribute(device: c_int, attribute: u32, _value: *mut u64) {
        started()?;
        check(device)?;
        // Only the two high-water marks can be reset; they follow the present value here.
        if matches!(attribute, 1 | 3) { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    fn cuFlushGPUDirectRDMAWrites(_target: u32, _scope: u32) {
        super::unsupported::refuse("cuFlushGPUDirectRDMAWrites")
    }

    fn cuDeviceGetHostAtomicCapabilities(
        capabilities: *mut u32,
        _operations: *const u32,
        count: u32,
        device: c_int,
    ) {
        started()?;
        check(device)?;
        for index in 0..count as usize {
            put_if_wanted(capabilities.wrapping_add(index), 0);
        }
        Ok(())
    }
}

/// Only device 0 exists.
///
/// # Errors
/// `INVALID_DEVICE`.
pub(super) fn check(device: c_int) -> super::entry::Outcome {
    if device == 0 {
        Ok(())
    } else {
        Err(Code::INVALID_DEVICE)
    }
}

/// The same for every run of the same device, and never that of a real one.
fn uuid_of(target: &Target) -> [u8; 16] {
    let mut uuid = *b"softcuda\0\0\0\0\0\0\0\0";
    uuid[8..12].copy_from_slice(&target.sm.to_be_bytes());
    uuid
}

/// The value of a `CUdevice_attribute`; what the device does not have is 0.
fn attribute(target: &Target, attribute: u32) -> Result<c_int, Code> {
    let hopper = target.sm >= 90;
    let value = match attribute {
        1 => THREADS_PER_BLOCK,
        2..=4 => BLOCK_LIMITS[attribute as usize - 2],
        5..=7 => GRID_LIMITS[attribute as usize - 5],
        8 => target.shared_per_block,
        9 => 65536,
        10 => WARP,
        11 => 0x7fff_ffff,
        12 | 82 => target.registers_per_multiprocessor,
        13 => target.clock_khz,
        14 | 30 => 512,
        15 => 1,
        16 => target.multiprocessors,
        // No watchdog, a board of its own, default compute mode.
        17 | 18 | 20 => 0,
        19 => 1,
        21..=29 | 42 | 43 | 45..=49 | 52..=74 | 77 => texture_limit(attribute),
        31 => 1,
        32 | 35 => 0,
        33 => 1,
        34 | 50 => 0,
        36 => target.memory_clock_khz,
        37 => target.memory_bus_bits,
        38 => target.l2,
        39 => target.threads_per_multiprocessor,
        40 => 3,
        41 => 1,
        44 => 1,
        51 => 32,
        75 => target.capability().0,
        76 => target.capability().1,
        78..=80 => 1,
        81 => target.shared_per_multiprocessor,
        83 => 1,
        84 | 85 => 0,
        86 => 0,
        87 => {
            if matches!(target.sm, 80 | 90 | 100) {
                2
            } else {
                64
            }
        }
        // Pageable memory is not accessible from kernels; managed memory is, at any time.
        88 => 0,
        89 | 90 => 1,
        // Registered memory has the same address on both sides.
        91 => 1,
        92..=94 => 0,
        95 => 1,
        96 => 0,
        97 => target.shared_per_block_optin,
        98 => 0,
        99 => 1,
        100..=105 => 0,
        106 => target.blocks_per_multiprocessor,
        107 => 0,
        108 | 109 => 0,
        110 => 0,
        111 => target.shared_reserved,
        112..=114 => 0,
        115 => 1,
        116..=119 => 0,
        // Clusters are what Hopper brought.
        120 => u32::from(hopper),
        121..=124 => 0,
        // Host NUMA and the rest of the list: not there.
        126 => 1,
        125 | 127..=161 => 0,
        _ => return Err(Code::INVALID_VALUE),
    };
    Ok(value as c_int)
}

/// Texture limits are the same on all these devices. Textures themselves are not supported.
fn texture_limit(attribute: u32) -> u32 {
    match attribute {
        21 | 22 | 23 | 42 | 77 => 32768,
        24..=26 => 16384,
        27 | 28 => 32768,
        29 | 43 | 62 | 65 => 2048,
        45 | 46 => 32768,
        47 | 48 => 8192,
        49 => 32768,
        52 | 53 | 56 | 57 | 61 | 63 | 64 | 66 | 67 | 73 | 74 => 32768,
        54 | 68 => 2046,
        55 => 32768,
        58..=60 => 16384,
        69 => 1 << 28,
        70 | 71 => 131_072,
        72 => 2_097_120,
        _ => 0,
    }
}
