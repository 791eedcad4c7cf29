//! Events: marks in streams that other streams and the host wait for, and that tell time.

use std::time::Instant;

use super::entry::{Handle, Outcome, entries, put};
use super::errors::Code;
use super::state::{Event, current};
use super::stream::{submit, wait_or_record};
use super::work::Work;

/// `CU_EVENT_BLOCKING_SYNC`, `CU_EVENT_DISABLE_TIMING`, `CU_EVENT_INTERPROCESS`.
const FLAGS: u32 = 7;
const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;

entries! {
    fn cuEventCreate(event: *mut Handle, flags: u32) {
        let (mut driver, context) = current()?;
        // An event for other processes cannot keep time, says the interface.
        let sharable = flags & INTERPROCESS == 0 || flags & DISABLE_TIMING != 0;
        if event.is_null() || flags & !FLAGS != 0 || !sharable {
            return Err(Code::INVALID_VALUE);
        }
        let handle = driver.events.add(Event { context, flags, ..Event::default() });
        put(event, handle)
    }

    fn cuEventDestroy(event: Handle) {
        let (mut driver, _) = current()?;
        driver.events.remove(event).map(drop)
    }

    fn cuEventDestroy_v2(event: Handle) {
        let (mut driver, _) = current()?;
        driver.events.remove(event).map(drop)
    }

    fn cuEventRecord(event: Handle, stream: Handle) [cuEventRecord_ptsz] {
        let (driver, context) = current()?;
        submit(driver, context, stream, Work::Record(event))
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) [cuEventRecordWithFlags_ptsz] {
        wait_or_record(stream, Work::Record(event), flags)
    }

    fn cuEventQuery(event: Handle) {
        wait(event)
    }

    fn cuEventSynchronize(event: Handle) {
        wait(event)
    }

    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }
}

/// Everything before the event has run already; the host knows it from now on.
fn wait(event: Handle) -> Outcome {
    let (mut driver, context) = current()?;
    let event = driver.events.get(event)?;
    if event.captured.is_some() {
        return Err(Code::CAPTURED_EVENT);
    }
    // An event that was never recorded is complete.
    if let Some((_, clock)) = event.recorded.clone() {
        driver.order.host_waited(&clock);
    }
    driver.healthy(context)
}

/// # Safety
/// `milliseconds` must be null or writable.
unsafe fn elapsed(milliseconds: *mut f32, start: Handle, end: Handle) -> Outcome {
    let (driver, _) = current()?;
    let time = |event: Handle| -> Result<Instant, Code> {
        let event = driver.events.get(event)?;
        let timed = event.flags & DISABLE_TIMING == 0 && event.captured.is_none();
        event
            .recorded
            .as_ref()
            .filter(|_| timed)
            .map(|(time, _)| *time)
            .ok_or(Code::INVALID_HANDLE)
    };
    let (start, end) = (time(start)?, time(end)?);
    let signed = match end.checked_duration_since(start) {
        Some(after) => after.as_secs_f64(),
        None => -start.duration_since(end).as_secs_f64(),
    };
    // SAFETY: this function's contract.
    unsafe { put(milliseconds, (signed * 1e3) as f32) }
}
