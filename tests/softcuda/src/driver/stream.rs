//! Streams: creation, order, waiting, host functions, and the way of all work into them.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::entry::{
    Handle, Outcome, call_host, default_stream_is_own, entries, put, put_if_wanted, take,
};
use super::errors::Code;
use super::order::Clock;
use super::state::{Driver, Guard, Stream, current};
use super::types::HostFunction;
use super::work::{HostWork, Place, Work};
use super::{capture, graph_exec};

/// The least urgent priority.
pub const LEAST_PRIORITY: i32 = 0;
/// The most urgent one. Priorities change nothing here.
pub const GREATEST_PRIORITY: i32 = -5;
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;
/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`, handles that always exist.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;

entries! {
    fn cuStreamCreate(stream: *mut Handle, flags: u32) {
        create(stream, flags, 0)
    }

    fn cuStreamCreateWithPriority(stream: *mut Handle, flags: u32, priority: c_int) {
        create(stream, flags, priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY))
    }

    fn cuStreamDestroy(stream: Handle) {
        destroy(stream)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        destroy(stream)
    }

    fn cuStreamSynchronize(stream: Handle) [cuStreamSynchronize_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        capture::forbid_on(&mut driver, stream)?;
        driver.wait_for_stream(stream)?;
        driver.healthy(context)
    }

    fn cuStreamQuery(stream: Handle) [cuStreamQuery_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        capture::forbid_on(&mut driver, stream)?;
        driver.wait_for_stream(stream)
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) [cuStreamWaitEvent_ptsz] {
        wait_or_record(stream, Work::Wait(event), flags)
    }

    fn cuStreamGetFlags(stream: Handle, flags: *mut u32) [cuStreamGetFlags_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        put(flags, driver.streams.get(stream)?.flags)
    }

    fn cuStreamGetPriority(stream: Handle, priority: *mut c_int) [cuStreamGetPriority_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        put(priority, driver.streams.get(stream)?.priority)
    }

    fn cuStreamGetId(stream: Handle, number: *mut u64) [cuStreamGetId_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        put(number, driver.streams.get(stream)?.number)
    }

    fn cuStreamGetCtx(stream: Handle, out: *mut Handle) [cuStreamGetCtx_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        put(out, driver.streams.get(stream)?.context)
    }

    fn cuStreamGetCtx_v2(stream: Handle, out: *mut Handle, green: *mut Handle) [cuStreamGetCtx_v2_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        put_if_wanted(green, 0);
        put(out, driver.streams.get(stream)?.context)
    }

    fn cuStreamGetDevice(stream: Handle, device: *mut c_int) [cuStreamGetDevice_ptsz] {
        let (mut driver, context) = current()?;
        driver.stream(context, stream)?;
        put(device, 0)
    }

    fn cuStreamGetAttribute(stream: Handle, attribute: u32, value: *mut [u32; 16]) [cuStreamGetAttribute_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        let stream = driver.streams.get(stream)?;
        let first = if attribute == PRIORITY_ATTRIBUTE { stream.priority as u32 } else { 0 };
        let mut default = [0; 16];
        default[0] = first;
        put(value, *stream.attributes.get(&known_attribute(attribute)?).unwrap_or(&default))
    }

    fn cuStreamSetAttribute(stream: Handle, attribute: u32, value: *const [u32; 16]) [cuStreamSetAttribute_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        let value = take(value)?;
        let attribute = known_attribute(attribute)?;
        driver.streams.get_mut(stream)?.attributes.insert(attribute, value);
        Ok(())
    }

    fn cuStreamCopyAttributes(target: Handle, source: Handle) [cuStreamCopyAttributes_ptsz] {
        let (mut driver, context) = current()?;
        let (target, source) = (driver.stream(context, target)?, driver.stream(context, source)?);
        let attributes = driver.streams.get(source)?.attributes.clone();
        driver.streams.get_mut(target)?.attributes = attributes;
        Ok(())
    }

    fn cuLaunchHostFunc(stream: Handle, function: Option<HostFunction>, data: usize) [cuLaunchHostFunc_ptsz] {
        let (driver, context) = current()?;
        let function = function.ok_or(Code::INVALID_VALUE)?;
        submit(driver, context, stream, Work::Host(HostWork { function, data }))
    }

    fn cuLaunchHostFunc_v2(
        stream: Handle,
        function: Option<HostFunction>,
        data: usize,
        _sync_mode: u32,
    ) [cuLaunchHostFunc_v2_ptsz] {
        let (driver, context) = current()?;
        let function = function.ok_or(Code::INVALID_VALUE)?;
        submit(driver, context, stream, Work::Host(HostWork { function, data }))
    }

    fn cuStreamAddCallback(
        stream: Handle,
        callback: Option<unsafe extern "C" fn(Handle, u32, *mut c_void)>,
        data: *mut c_void,
        flags: u32,
    ) [cuStreamAddCallback_ptsz] {
        let (mut driver, context) = current()?;
        let callback = callback.ok_or(Code::INVALID_VALUE)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let resolved = driver.stream(context, stream)?;
        capture::forbid_on(&mut driver, resolved)?;
        let call = Box::new(Callback { callback, stream, data: data as usize });
        let function: HostFunction = call_callback;
        let data = Box::into_raw(call) as usize;
        submit(driver, context, stream, Work::Host(HostWork { function, data }))
    }

    fn cuStreamAttachMemAsync(stream: Handle, address: u64, _length: usize, flags: u32) [cuStreamAttachMemAsync_ptsz] {
        let (mut driver, context) = current()?;
        driver.stream(context, stream)?;
        let managed = driver
            .block_at(address)
            .is_some_and(|(_, block)| block.kind == super::state::Kind::Managed);
        // Attachment is a promise of the program's that changes nothing here.
        if managed && matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }
}

/// `CU_STREAM_ATTRIBUTE_PRIORITY`.
const PRIORITY_ATTRIBUTE: u32 = 8;

fn known_attribute(attribute: u32) -> Result<u32, Code> {
    if matches!(attribute, 1 | 3 | 8 | 9 | 10) {
        Ok(attribute)
    } else {
        Err(Code::INVALID_VALUE)
    }
}

/// What `cuStreamAddCallback` was given.
struct Callback {
    callback: unsafe extern "C" fn(Handle, u32, *mut c_void),
    stream: Handle,
    data: usize,
}

/// # Safety
/// `data` must come from `Box::into_raw` of a [`Callback`] and be used once.
unsafe extern "C" fn call_callback(data: *mut c_void) {
    // SAFETY: this function's contract.
    let call = unsafe { Box::from_raw(data.cast::<Callback>()) };
    // SAFETY: the program handed both over for this call.
    unsafe { (call.callback)(call.stream, 0, call.data as *mut c_void) };
}

/// # Safety
/// `stream` must be null or writable.
unsafe fn create(stream: *mut Handle, flags: u32, priority: i32) -> Outcome {
    let (mut driver, context) = current()?;
    if stream.is_null() || flags & !NON_BLOCKING != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let handle = driver.open_stream(context, flags, priority);
    // SAFETY: not null; writable by the contract.
    unsafe { put(stream, handle) }
}

fn destroy(stream: Handle) -> Outcome {
    let (mut driver, _) = current()?;
    if matches!(stream, 0 | LEGACY | PER_THREAD)
        || driver
            .contexts
            .iter()
            .any(|(_, context)| context.legacy == stream)
    {
        return Err(Code::INVALID_HANDLE);
    }
    let gone = driver.streams.remove(stream)?;
    if let Some(capture) = gone.capture {
        capture::invalidate(&mut driver, capture);
    }
    driver.order.close_lane(gone.lane);
    Ok(())
}

/// Puts work into a stream: into the graph if the stream captures, else it is done now.
///
/// # Errors
/// What is wrong with the work itself. A fault while it runs is the context's error, which the next call
/// returns; this one returns it only under `CUDA_LAUNCH_BLOCKING=1`.
pub(super) fn submit(mut driver: Guard, context: Handle, stream: Handle, work: Work) -> Outcome {
    let stream = driver.stream(context, stream)?;
    driver.check_work(&work)?;
    if let Some(capture) = driver.streams.get(stream)?.capture {
        return capture::add(&mut driver, capture, stream, work);
    }
    if let Work::Wait(event) = work
        && driver.events.get(event)?.captured.is_some()
    {
        return capture::join(&mut driver, stream, event);
    }
    capture::forbid_legacy(&mut driver, context, stream)?;
    let driver = run(driver, stream, work)?;
    if driver.settings.blocking {
        driver.healthy(context)
    } else {
        Ok(())
    }
}

/// Waits for or records an event. `CU_EVENT_WAIT_EXTERNAL` and `CU_EVENT_RECORD_EXTERNAL` (1) make a capturing
/// stream do so when the graph runs, rather than fork or join the capture.
pub(super) fn wait_or_record(stream: Handle, work: Work, flags: u32) -> Outcome {
    let (mut driver, context) = current()?;
    if flags & !1 != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let resolved = driver.stream(context, stream)?;
    if flags == 1
        && let Some(capture) = driver.streams.get(resolved)?.capture
    {
        driver.check_work(&work)?;
        return capture::add_node(&mut driver, capture, resolved, work);
    }
    submit(driver, context, stream, work)
}

/// Does work on a stream that doesn't capture.
fn run(mut driver: Guard, stream: Handle, work: Work) -> Result<Guard, Code> {
    let mut clock = driver.clock_of(stream)?;
    let (lane, context, number) = {
        let stream = driver.streams.get(stream)?;
        (stream.lane, stream.context, stream.number)
    };
    driver.order.begin(lane, &mut clock);
    match work {
        Work::Host(host) => {
            driver.streams.get_mut(stream)?.clock = clock;
            // The function may wait for other threads that call the driver.
            drop(driver);
            // SAFETY: the program vouched for function and argument when it submitted them.
            unsafe { call_host(host.function, host.data) };
            return super::state::lock();
        }
        Work::Wait(event) => {
            if let Some((_, recorded)) = &driver.events.get(event)?.recorded {
                clock.join(recorded);
            }
        }
        Work::Record(event) => {
            let now = (std::time::Instant::now(), clock.clone());
            let event = driver.events.get_mut(event)?;
            event.recorded = Some(now);
            event.captured = None;
        }
        Work::Graph(exec) => {
            driver.streams.get_mut(stream)?.clock = clock;
            return graph_exec::run(driver, stream, exec);
        }
        work => {
            let name = format!("stream {number}");
            driver.perform(
                &Place {
                    context,
                    lane,
                    clock: &clock,
                    name: &name,
                },
                &work,
            );
        }
    }
    driver.streams.get_mut(stream)?.clock = clock;
    Ok(driver)
}

impl Driver {
    /// A new stream.
    pub fn open_stream(&mut self, context: Handle, flags: u32, priority: i32) -> Handle {
        let (number, lane) = (self.number(), self.order.open_lane());
        self.streams.add(Stream {
            context,
            flags,
            priority,
            number,
            lane,
            clock: Clock::default(),
            capture: None,
            attributes: HashMap::new(),
        })
    }

    /// The stream behind a handle, null and the two special ones included.
    ///
    /// # Errors
    /// `INVALID_HANDLE`.
    pub fn stream(&mut self, context: Handle, stream: Handle) -> Result<Handle, Code> {
        match stream {
            0 if default_stream_is_own() => self.stream(context, PER_THREAD),
            0 | LEGACY => Ok(self.contexts.get(context)?.legacy),
            PER_THREAD => {
                let thread = std::thread::current().id();
                if let Some(&stream) = self.contexts.get(context)?.per_thread.get(&thread) {
                    return Ok(stream);
                }
                let stream = self.open_stream(context, 0, 0);
                self.contexts
                    .get_mut(context)?
                    .per_thread
                    .insert(thread, stream);
                Ok(stream)
            }
            stream => self.streams.get(stream).map(|_| stream),
        }
    }

    /// What the next work of a stream is ordered after: its own past, and between the legacy default
    /// stream and the blocking ones each other's.
    pub fn clock_of(&self, handle: Handle) -> Result<Clock, Code> {
        let stream = self.streams.get(handle)?;
        let mut clock = stream.clock.clone();
        let legacy = self.contexts.get(stream.context)?.legacy;
        if handle == legacy {
            for (_, other) in self.streams.iter() {
                if other.context == stream.context && other.flags & NON_BLOCKING == 0 {
                    clock.join(&other.clock);
                }
            }
        } else if stream.flags & NON_BLOCKING == 0 {
            clock.join(&self.streams.get(legacy)?.clock);
        }
        Ok(clock)
    }

    /// The host has waited for a stream.
    ///
    /// # Errors
    /// `INVALID_HANDLE`.
    pub fn wait_for_stream(&mut self, stream: Handle) -> Outcome {
        let clock = self.clock_of(stream)?;
        self.order.host_waited(&clock);
        Ok(())
    }

    /// How findings call a stream.
    pub fn stream_name(&self, stream: Handle) -> Arc<str> {
        self.streams
            .get(stream)
            .map_or("a stream that is gone".into(), |stream| {
                format!("stream {}", stream.number).into()
            })
    }
}
