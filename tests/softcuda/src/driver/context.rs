//! Contexts: the primary one, those a program creates, each thread's stack of them, and their limits.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};

use super::entry::{Handle, Outcome, entries, put, put_if_wanted};
use super::errors::Code;
use super::state::{
    Context, Driver, Stream, current, lock, new_handle, ready, started, with_stack,
};
use super::{capture, stream};
use crate::driver::order::Clock;

/// The newest context API version.
const API_VERSION: u32 = 3020;

/// Limits a program may set, and what they are at first: stack, printf buffer, heap, device-side
/// synchronisation depth and pending launches, L2 fetch granularity, persisting L2 cache.
const LIMITS: &[(u32, usize)] = &[
    (0, 1024),
    (1, 1 << 20),
    (2, 8 << 20),
    (3, 2),
    (4, 2048),
    (5, 64),
    (6, 0),
];

entries! {
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) {
        let mut driver = lock()?;
        super::device::check(device)?;
        let handle = match driver.primary.handle {
            Some(handle) => handle,
            None => {
                let flags = driver.primary.flags;
                let handle = driver.open_context(flags);
                driver.primary.handle = Some(handle);
                handle
            }
        };
        put(context, handle)?;
        driver.primary.retained += 1;
        Ok(())
    }

    fn cuDevicePrimaryCtxRelease(device: c_int) {
        release_primary(device)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        release_primary(device)
    }

    fn cuDevicePrimaryCtxReset(device: c_int) {
        reset_primary(device)
    }

    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        reset_primary(device)
    }

    fn cuDevicePrimaryCtxSetFlags(device: c_int, flags: u32) {
        set_primary_flags(device, flags)
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: u32) {
        set_primary_flags(device, flags)
    }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut u32, active: *mut c_int) {
        let driver = lock()?;
        super::device::check(device)?;
        put(flags, driver.primary.flags)?;
        put(active, c_int::from(driver.primary.handle.is_some()))
    }

    fn cuCtxCreate(context: *mut Handle, flags: u32, device: c_int) {
        create(context, flags, device)
    }

    fn cuCtxCreate_v2(context: *mut Handle, flags: u32, device: c_int) {
        create(context, flags, device)
    }

    fn cuCtxCreate_v3(
        context: *mut Handle,
        _affinities: *mut c_void,
        count: c_int,
        flags: u32,
        device: c_int,
    ) {
        if count != 0 {
            return Err(Code::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(context, flags, device)
    }

    fn cuCtxCreate_v4(context: *mut Handle, parameters: *mut [usize; 3], flags: u32, device: c_int) {
        // Affinities, their number, and the parameters that tie a context to a graphics API.
        if !parameters.is_null() && *parameters != [0; 3] {
            return super::unsupported::refuse("cuCtxCreate_v4 with creation parameters");
        }
        create(context, flags, device)
    }

    fn cuCtxDestroy(context: Handle) {
        destroy(context)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        destroy(context)
    }

    fn cuCtxSetCurrent(context: Handle) {
        let driver = lock()?;
        if context != 0 {
            driver.contexts.get(context).map_err(|_| Code::INVALID_CONTEXT)?;
        }
        with_stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: *mut Handle) {
        started()?;
        put(context, with_stack(|stack| stack.last().copied().unwrap_or(0)))
    }

    fn cuCtxPushCurrent(context: Handle) {
        push(context)
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        push(context)
    }

    fn cuCtxPopCurrent(context: *mut Handle) {
        pop(context)
    }

    fn cuCtxPopCurrent_v2(context: *mut Handle) {
        pop(context)
    }

    fn cuCtxGetDevice(device: *mut c_int) {
        ready()?;
        put(device, 0)
    }

    fn cuCtxGetDevice_v2(device: *mut c_int, context: Handle) {
        of(context).map(drop)?;
        put(device, 0)
    }

    fn cuCtxGetFlags(flags: *mut u32) {
        let (driver, context) = current()?;
        put(flags, driver.contexts.get(context)?.flags)
    }

    fn cuCtxSetFlags(flags: u32) {
        let (mut driver, context) = current()?;
        driver.contexts.get_mut(context)?.flags = known_flags(flags)?;
        Ok(())
    }

    fn cuCtxGetId(context: Handle, number: *mut u64) {
        let (driver, context) = of(context)?;
        put(number, driver.contexts.get(context)?.number)
    }

    fn cuCtxGetApiVersion(context: Handle, version: *mut u32) {
        of(context).map(drop)?;
        put(version, API_VERSION)
    }

    fn cuCtxSynchronize() {
        let (driver, context) = current()?;
        synchronize(driver, context)
    }

    fn cuCtxSynchronize_v2(context: Handle) {
        let (driver, context) = of(context)?;
        synchronize(driver, context)
    }

    fn cuCtxGetLimit(value: *mut usize, limit: u32) {
        let (driver, context) = current()?;
        let first = LIMITS.iter().find(|row| row.0 == limit).ok_or(Code::UNSUPPORTED_LIMIT)?.1;
        let limits = &driver.contexts.get(context)?.limits;
        put(value, limits.get(&limit).copied().unwrap_or(first))
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let (mut driver, context) = current()?;
        if !LIMITS.iter().any(|row| row.0 == limit) {
            return Err(Code::UNSUPPORTED_LIMIT);
        }
        driver.contexts.get_mut(context)?.limits.insert(limit, value);
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: *mut u32) {
        let (driver, context) = current()?;
        put(config, driver.contexts.get(context)?.cache_config)
    }

    fn cuCtxSetCacheConfig(config: u32) {
        let (mut driver, context) = current()?;
        driver.contexts.get_mut(context)?.cache_config = at_most(config, 3)?;
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: *mut u32) {
        let (driver, context) = current()?;
        put(config, driver.contexts.get(context)?.shared_config)
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        let (mut driver, context) = current()?;
        driver.contexts.get_mut(context)?.shared_config = at_most(config, 2)?;
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        ready()?;
        put_if_wanted(least, stream::LEAST_PRIORITY);
        put_if_wanted(greatest, stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        ready()?;
        Ok(())
    }

    fn cuCtxEnablePeerAccess(peer: Handle, flags: u32) {
        let (driver, _) = current()?;
        driver.contexts.get(peer).map_err(|_| Code::INVALID_CONTEXT)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        // Every context is on the same device, which has no peers.
        Err(Code::PEER_ACCESS_UNSUPPORTED)
    }

    fn cuCtxDisablePeerAccess(peer: Handle) {
        let (driver, _) = current()?;
        driver.contexts.get(peer).map_err(|_| Code::INVALID_CONTEXT)?;
        Err(Code::PEER_ACCESS_NOT_ENABLED)
    }

    fn cuCtxRecordEvent(context: Handle, event: Handle) {
        let (mut driver, context) = of(context)?;
        let mut clock = Clock::default();
        for (_, stream) in driver.streams.iter().filter(|(_, stream)| stream.context == context) {
            clock.join(&stream.clock);
        }
        driver.events.get_mut(event)?.recorded = Some((std::time::Instant::now(), clock));
        Ok(())
    }

    fn cuCtxWaitEvent(context: Handle, event: Handle) {
        let (mut driver, context) = of(context)?;
        if let Some((_, clock)) = driver.events.get(event)?.recorded.clone() {
            let streams = driver.streams.iter_mut();
            for (_, stream) in streams.filter(|(_, stream)| stream.context == context) {
                stream.clock.join(&clock);
            }
        }
        Ok(())
    }
}

/// The driver and `context`, or the current one for null.
fn of(context: Handle) -> Result<(super::state::Guard, Handle), Code> {
    if context == 0 {
        return current();
    }
    let driver = lock()?;
    driver
        .contexts
        .get(context)
        .map_err(|_| Code::INVALID_CONTEXT)?;
    driver.healthy(context)?;
    Ok((driver, context))
}

fn at_most(value: u32, limit: u32) -> Result<u32, Code> {
    if value <= limit {
        Ok(value)
    } else {
        Err(Code::INVALID_VALUE)
    }
}

/// `CU_CTX_FLAGS_MASK`: scheduling, mapped host memory, local memory kept, coredumps, memory ordering.
fn known_flags(flags: u32) -> Result<u32, Code> {
    if flags & !0xff == 0 {
        Ok(flags)
    } else {
        Err(Code::INVALID_VALUE)
    }
}

fn release_primary(device: c_int) -> Outcome {
    let mut driver = lock()?;
    super::device::check(device)?;
    if driver.primary.retained == 0 {
        return Err(Code::INVALID_CONTEXT);
    }
    driver.primary.retained -= 1;
    if driver.primary.retained == 0
        && let Some(context) = driver.primary.handle.take()
    {
        driver.close_context(context);
    }
    Ok(())
}

/// Everything in the primary context goes, its error with it; it stays retained and current.
fn reset_primary(device: c_int) -> Outcome {
    let mut driver = lock()?;
    super::device::check(device)?;
    if let Some(context) = driver.primary.handle {
        let flags = driver.primary.flags;
        driver.close_context(context);
        driver.open_context_as(context, flags);
    }
    Ok(())
}

fn set_primary_flags(device: c_int, flags: u32) -> Outcome {
    let mut driver = lock()?;
    super::device::check(device)?;
    driver.primary.flags = known_flags(flags)?;
    if let Some(context) = driver.primary.handle {
        driver.contexts.get_mut(context)?.flags = flags;
    }
    Ok(())
}

/// # Safety
/// `context` must be null or writable.
unsafe fn create(context: *mut Handle, flags: u32, device: c_int) -> Outcome {
    let mut driver = lock()?;
    super::device::check(device)?;
    let flags = known_flags(flags)?;
    if context.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let handle = driver.open_context(flags);
    with_stack(|stack| stack.push(handle));
    // SAFETY: not null; writable by the contract.
    unsafe { put(context, handle) }
}

fn destroy(context: Handle) -> Outcome {
    let mut driver = lock()?;
    driver
        .contexts
        .get(context)
        .map_err(|_| Code::INVALID_CONTEXT)?;
    if driver.primary.handle == Some(context) {
        // The primary context is released, not destroyed.
        return Err(Code::INVALID_CONTEXT);
    }
    driver.close_context(context);
    with_stack(|stack| {
        if stack.last() == Some(&context) {
            stack.pop();
        }
    });
    Ok(())
}

fn push(context: Handle) -> Outcome {
    let driver = lock()?;
    driver
        .contexts
        .get(context)
        .map_err(|_| Code::INVALID_CONTEXT)?;
    with_stack(|stack| stack.push(context));
    Ok(())
}

/// # Safety
/// `context` must be null or writable.
unsafe fn pop(context: *mut Handle) -> Outcome {
    started()?;
    let popped = with_stack(Vec::pop).ok_or(Code::INVALID_CONTEXT)?;
    // SAFETY: the caller's contract.
    unsafe { put_if_wanted(context, popped) };
    Ok(())
}

/// The host waits for every stream of the context.
pub(super) fn synchronize(mut driver: super::state::Guard, context: Handle) -> Outcome {
    capture::forbid(&mut driver, context)?;
    driver.wait_for_context(context);
    driver.healthy(context)
}

impl Driver {
    /// A new context.
    fn open_context(&mut self, flags: u32) -> Handle {
        let handle = new_handle();
        self.open_context_as(handle, flags);
        handle
    }

    /// A new context under a handle that is known already, after a reset.
    fn open_context_as(&mut self, handle: Handle, flags: u32) {
        let number = self.number();
        let legacy = self.streams.add(Stream {
            context: handle,
            flags: 0,
            priority: 0,
            number: 0,
            lane: self.order.open_lane(),
            clock: Clock::default(),
            capture: None,
            attributes: HashMap::new(),
        });
        self.contexts.insert(
            handle,
            Context {
                flags,
                error: None,
                number,
                legacy,
                per_thread: HashMap::new(),
                limits: HashMap::new(),
                cache_config: 0,
                shared_config: 0,
            },
        );
    }

    /// Ends a context and everything that belongs to it.
    fn close_context(&mut self, context: Handle) {
        self.wait_for_context(context);
        self.captures
            .retain(|_, capture| capture.context != context);
        for stream in self.streams.take_all(|stream| stream.context == context) {
            self.order.close_lane(stream.lane);
        }
        self.events.take_all(|event| event.context == context);
        let modules: Vec<Handle> = self
            .modules
            .iter()
            .filter(|(_, module)| module.context == context)
            .map(|(handle, _)| handle)
            .collect();
        for module in modules {
            self.unload(module);
        }
        let blocks: Vec<u64> = self
            .blocks
            .iter()
            .filter(|(_, block)| block.context == context)
            .map(|(&address, _)| address)
            .collect();
        // The context's end frees them, but a program that relies on that has lost track of them.
        self.report_leaks(&blocks);
        for address in blocks {
            self.release_block(address);
        }
        self.contexts.remove(context).ok();
    }

    /// The host has waited for all streams of a context.
    pub fn wait_for_context(&mut self, context: Handle) {
        let mut clock = Clock::default();
        for (_, stream) in self
            .streams
            .iter()
            .filter(|(_, stream)| stream.context == context)
        {
            clock.join(&stream.clock);
        }
        self.order.host_waited(&clock);
    }
}
