//! Stream capture: work becomes nodes of a graph instead of being done.
//!
//! A capture begins in one stream and spreads to those that wait for its events. For each stream it keeps
//! the nodes that the stream's next node depends on, its *tips*.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::thread::ThreadId;

use super::entry::{Handle, Outcome, entries, put, put_if_wanted, take};
use super::errors::Code;
use super::state::{Driver, Guard, current, started};
use super::types::EdgeData;
use super::work::Work;

/// Modes: which calls that could break a capture are refused, and on which threads.
const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

/// `CU_STREAM_CAPTURE_STATUS_…`.
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

/// A capture in progress.
pub struct Capture {
    /// Its context.
    pub context: Handle,
    /// The graph it fills.
    pub graph: Handle,
    mode: u32,
    thread: ThreadId,
    origin: Handle,
    tips: HashMap<Handle, Vec<Handle>>,
    invalid: bool,
    /// Whether the graph was the caller's before, and stays theirs whatever happens.
    borrowed: bool,
}

thread_local! {
    /// How calls of this thread interact with captures.
    static THREAD_MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

entries! {
    fn cuStreamBeginCapture(stream: Handle) [cuStreamBeginCapture_ptsz] {
        begin(stream, GLOBAL, None)
    }

    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) [cuStreamBeginCapture_v2_ptsz] {
        begin(stream, mode, None)
    }

    fn cuStreamBeginCaptureToGraph(
        stream: Handle,
        graph: Handle,
        dependencies: *const Handle,
        _edges: *const EdgeData,
        count: usize,
        mode: u32,
    ) [cuStreamBeginCaptureToGraph_ptsz] {
        let tips = handles(dependencies, count)?;
        begin(stream, mode, Some((graph, tips)))
    }

    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) [cuStreamEndCapture_ptsz] {
        let (mut driver, context) = current()?;
        if graph.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let stream = driver.stream(context, stream)?;
        let ended = end(&mut driver, stream);
        put(graph, *ended.as_ref().unwrap_or(&0))?;
        ended.map(drop)
    }

    fn cuStreamIsCapturing(stream: Handle, status: *mut u32) [cuStreamIsCapturing_ptsz] {
        let (mut driver, context) = current()?;
        let stream = driver.stream(context, stream)?;
        forbid_legacy(&mut driver, context, stream)?;
        put(status, status_of(&driver, stream)?.0)
    }

    fn cuStreamGetCaptureInfo(stream: Handle, status: *mut u32, number: *mut u64) [cuStreamGetCaptureInfo_ptsz] {
        let (mut driver, context) = current()?;
        info(&mut driver, context, stream, status, number).map(drop)
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: Handle,
        status: *mut u32,
        number: *mut u64,
        graph: *mut Handle,
        dependencies: *mut *const Handle,
        count: *mut usize,
    ) [cuStreamGetCaptureInfo_v2_ptsz] {
        let (mut driver, context) = current()?;
        let capture = info(&mut driver, context, stream, status, number)?;
        tips_out(&mut driver, context, stream, capture, graph, dependencies, count)
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle,
        status: *mut u32,
        number: *mut u64,
        graph: *mut Handle,
        dependencies: *mut *const Handle,
        edges: *mut *const EdgeData,
        count: *mut usize,
    ) [cuStreamGetCaptureInfo_v3_ptsz] {
        let (mut driver, context) = current()?;
        put_if_wanted(edges, std::ptr::null());
        let capture = info(&mut driver, context, stream, status, number)?;
        tips_out(&mut driver, context, stream, capture, graph, dependencies, count)
    }

    fn cuStreamUpdateCaptureDependencies(
        stream: Handle,
        dependencies: *const Handle,
        count: usize,
        flags: u32,
    ) [cuStreamUpdateCaptureDependencies_ptsz] {
        update_tips(stream, handles(dependencies, count)?, flags)
    }

    fn cuStreamUpdateCaptureDependencies_v2(
        stream: Handle,
        dependencies: *const Handle,
        _edges: *const EdgeData,
        count: usize,
        flags: u32,
    ) [cuStreamUpdateCaptureDependencies_v2_ptsz] {
        update_tips(stream, handles(dependencies, count)?, flags)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) {
        started()?;
        let new = take(mode)?;
        if new > RELAXED {
            return Err(Code::INVALID_VALUE);
        }
        put(mode, THREAD_MODE.replace(new))
    }
}

/// An array of handles that a caller passes.
///
/// # Safety
/// `array` must be null or hold `count` handles.
pub(super) unsafe fn handles(array: *const Handle, count: usize) -> Result<Vec<Handle>, Code> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if array.is_null() || count > 1 << 24 {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: this function's contract.
    Ok((0..count)
        .map(|index| unsafe { array.add(index).read_unaligned() })
        .collect())
}

fn begin(stream: Handle, mode: u32, into: Option<(Handle, Vec<Handle>)>) -> Outcome {
    let (mut driver, context) = current()?;
    if mode > RELAXED {
        return Err(Code::INVALID_VALUE);
    }
    let stream = driver.stream(context, stream)?;
    if stream == driver.contexts.get(context)?.legacy {
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
    }
    if driver.streams.get(stream)?.capture.is_some() {
        return Err(Code::ILLEGAL_STATE);
    }
    let borrowed = into.is_some();
    let (graph, tips) = match into {
        None => (driver.new_graph(), Vec::new()),
        Some((graph, tips)) => {
            driver.graphs.get(graph)?;
            for tip in &tips {
                if driver.nodes.get(*tip)?.graph != graph {
                    return Err(Code::INVALID_VALUE);
                }
            }
            (graph, tips)
        }
    };
    let number = driver.number();
    driver.captures.insert(
        number,
        Capture {
            context,
            graph,
            mode,
            thread: std::thread::current().id(),
            origin: stream,
            tips: HashMap::from([(stream, tips)]),
            invalid: false,
            borrowed,
        },
    );
    driver.streams.get_mut(stream)?.capture = Some(number);
    Ok(())
}

/// Ends the capture that began in `stream`; its graph.
fn end(driver: &mut Guard, stream: Handle) -> Result<Handle, Code> {
    let number = driver
        .streams
        .get(stream)?
        .capture
        .ok_or(Code::ILLEGAL_STATE)?;
    let capture = driver.captures.get(&number).ok_or(Code::ILLEGAL_STATE)?;
    if capture.origin != stream {
        return Err(Code::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
        return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
    }
    let failure = if capture.invalid {
        Some(Code::STREAM_CAPTURE_INVALIDATED)
    } else if unjoined(driver, capture) {
        Some(Code::STREAM_CAPTURE_UNJOINED)
    } else {
        None
    };
    let Some(capture) = driver.captures.remove(&number) else {
        return Err(Code::ILLEGAL_STATE);
    };
    for (_, stream) in driver.streams.iter_mut() {
        if stream.capture == Some(number) {
            stream.capture = None;
        }
    }
    match failure {
        None => Ok(capture.graph),
        Some(code) => {
            if !capture.borrowed {
                driver.drop_graph(capture.graph);
            }
            Err(code)
        }
    }
}

/// Whether some stream's last work is not before the origin's.
fn unjoined(driver: &Driver, capture: &Capture) -> bool {
    let mut seen = HashSet::new();
    let mut open: Vec<Handle> = capture
        .tips
        .get(&capture.origin)
        .cloned()
        .unwrap_or_default();
    while let Some(node) = open.pop() {
        if seen.insert(node)
            && let Ok(node) = driver.nodes.get(node)
        {
            open.extend(&node.dependencies);
        }
    }
    capture
        .tips
        .values()
        .flatten()
        .any(|tip| !seen.contains(tip))
}

/// Puts work of a capturing stream into its graph.
pub(super) fn add(driver: &mut Guard, number: u64, stream: Handle, work: Work) -> Outcome {
    valid(driver, number)?;
    match work {
        Work::Record(event) => {
            let tips = driver
                .captures
                .get(&number)
                .and_then(|capture| capture.tips.get(&stream));
            let tips = tips.cloned().unwrap_or_default();
            let event = driver.events.get_mut(event)?;
            event.recorded = None;
            event.captured = Some((number, tips));
            Ok(())
        }
        Work::Wait(event) => join(driver, stream, event),
        Work::Graph(exec) => {
            let child = driver.graph_of_exec(exec)?;
            add_node(driver, number, stream, Work::Child(child))
        }
        work => add_node(driver, number, stream, work),
    }
}

/// Appends a node to a capturing stream.
pub(super) fn add_node(driver: &mut Guard, number: u64, stream: Handle, work: Work) -> Outcome {
    valid(driver, number)?;
    let capture = driver.captures.get(&number).ok_or(Code::ILLEGAL_STATE)?;
    let (graph, tips) = (
        capture.graph,
        capture.tips.get(&stream).cloned().unwrap_or_default(),
    );
    let node = driver.new_node(graph, tips, work)?;
    if let Some(capture) = driver.captures.get_mut(&number) {
        capture.tips.insert(stream, vec![node]);
    }
    Ok(())
}

/// Makes a stream wait for an event of a capture, and so take part in it.
pub(super) fn join(driver: &mut Guard, stream: Handle, event: Handle) -> Outcome {
    let mine = driver.streams.get(stream)?.capture;
    let event = driver.events.get(event)?;
    let Some((theirs, nodes)) = event.captured.clone() else {
        // Never recorded: nothing to wait for. Recorded outside: the graph could not know it.
        if event.recorded.is_none() {
            return Ok(());
        }
        if let Some(mine) = mine {
            invalidate(driver, mine);
        }
        return Err(Code::STREAM_CAPTURE_ISOLATION);
    };
    let Some(context) = driver.captures.get(&theirs).map(|capture| capture.context) else {
        // That capture is over.
        return Err(Code::CAPTURED_EVENT);
    };
    valid(driver, theirs)?;
    if mine.is_some_and(|mine| mine != theirs) {
        invalidate(driver, theirs);
        return Err(Code::STREAM_CAPTURE_MERGE);
    }
    if driver.contexts.get(context)?.legacy == stream {
        invalidate(driver, theirs);
        return Err(Code::STREAM_CAPTURE_IMPLICIT);
    }
    driver.streams.get_mut(stream)?.capture = Some(theirs);
    if let Some(capture) = driver.captures.get_mut(&theirs) {
        let tips = capture.tips.entry(stream).or_default();
        tips.extend(nodes);
        tips.sort_unstable();
        tips.dedup();
    }
    Ok(())
}

fn valid(driver: &Guard, number: u64) -> Outcome {
    match driver.captures.get(&number) {
        Some(capture) if !capture.invalid => Ok(()),
        _ => Err(Code::STREAM_CAPTURE_INVALIDATED),
    }
}

/// Breaks a capture: all that is left is to end it.
pub(super) fn invalidate(driver: &mut Guard, number: u64) {
    if let Some(capture) = driver.captures.get_mut(&number) {
        capture.invalid = true;
    }
}

/// Refuses a call that waits for the device or changes its memory while a capture that this thread must
/// respect is in progress; the capture breaks.
pub(super) fn forbid(driver: &mut Guard, context: Handle) -> Outcome {
    let (mode, thread) = (THREAD_MODE.get(), std::thread::current().id());
    let mut broken = false;
    for capture in driver
        .captures
        .values_mut()
        .filter(|capture| capture.context == context)
    {
        let own = capture.thread == thread && capture.mode != RELAXED;
        let foreign = capture.mode == GLOBAL;
        if mode == GLOBAL && (own || foreign) || mode == THREAD_LOCAL && own {
            capture.invalid = true;
            broken = true;
        }
    }
    if broken {
        Err(Code::STREAM_CAPTURE_UNSUPPORTED)
    } else {
        Ok(())
    }
}

/// Refuses to wait for a stream that captures; the capture breaks.
pub(super) fn forbid_on(driver: &mut Guard, stream: Handle) -> Outcome {
    let context = driver.streams.get(stream)?.context;
    forbid_legacy(driver, context, stream)?;
    match driver.streams.get(stream)?.capture {
        None => Ok(()),
        Some(capture) => {
            invalidate(driver, capture);
            Err(Code::STREAM_CAPTURE_UNSUPPORTED)
        }
    }
}

/// The legacy default stream would wait for blocking streams, which it must not while they capture.
pub(super) fn forbid_legacy(driver: &mut Guard, context: Handle, stream: Handle) -> Outcome {
    if driver.contexts.get(context)?.legacy != stream {
        return Ok(());
    }
    let blocking = |stream: &super::state::Stream| stream.context == context && stream.flags == 0;
    let captures: Vec<u64> = driver
        .streams
        .iter()
        .filter(|(_, stream)| blocking(stream))
        .filter_map(|(_, stream)| stream.capture)
        .collect();
    for &capture in &captures {
        invalidate(driver, capture);
    }
    if captures.is_empty() {
        Ok(())
    } else {
        Err(Code::STREAM_CAPTURE_IMPLICIT)
    }
}

/// Status and number of a stream's capture.
fn status_of(driver: &Guard, stream: Handle) -> Result<(u32, u64), Code> {
    let Some(number) = driver.streams.get(stream)?.capture else {
        return Ok((NONE, 0));
    };
    let valid = driver
        .captures
        .get(&number)
        .is_some_and(|capture| !capture.invalid);
    Ok((if valid { ACTIVE } else { INVALIDATED }, number))
}

/// # Safety
/// The output pointers must be null or writable.
unsafe fn info(
    driver: &mut Guard,
    context: Handle,
    stream: Handle,
    status: *mut u32,
    number: *mut u64,
) -> Result<u64, Code> {
    let stream = driver.stream(context, stream)?;
    forbid_legacy(driver, context, stream)?;
    let (state, capture) = status_of(driver, stream)?;
    // SAFETY: this function's contract.
    unsafe {
        put(status, state)?;
        put_if_wanted(number, capture);
    }
    Ok(capture)
}

/// # Safety
/// The output pointers must be null or writable.
unsafe fn tips_out(
    driver: &mut Guard,
    context: Handle,
    stream: Handle,
    capture: u64,
    graph: *mut Handle,
    dependencies: *mut *const Handle,
    count: *mut usize,
) -> Outcome {
    let stream = driver.stream(context, stream)?;
    let capture = driver.captures.get(&capture);
    let tips = capture.and_then(|capture| capture.tips.get(&stream));
    // SAFETY: this function's contract. The array lives until the stream's next call, as the interface says.
    unsafe {
        put_if_wanted(graph, capture.map_or(0, |capture| capture.graph));
        put_if_wanted(
            dependencies,
            tips.map_or(std::ptr::null(), |tips| tips.as_ptr()),
        );
        put_if_wanted(count, tips.map_or(0, Vec::len));
    }
    Ok(())
}

/// Adds to (0) or replaces (1) what a capturing stream's next node depends on.
fn update_tips(stream: Handle, nodes: Vec<Handle>, flags: u32) -> Outcome {
    let (mut driver, context) = current()?;
    let stream = driver.stream(context, stream)?;
    let number = driver
        .streams
        .get(stream)?
        .capture
        .ok_or(Code::ILLEGAL_STATE)?;
    valid(&driver, number)?;
    let graph = driver
        .captures
        .get(&number)
        .map_or(0, |capture| capture.graph);
    for node in &nodes {
        if driver.nodes.get(*node)?.graph != graph {
            return Err(Code::INVALID_VALUE);
        }
    }
    let capture = driver
        .captures
        .get_mut(&number)
        .ok_or(Code::ILLEGAL_STATE)?;
    let tips = capture.tips.entry(stream).or_default();
    match flags {
        0 => tips.extend(nodes),
        1 => *tips = nodes,
        _ => return Err(Code::INVALID_VALUE),
    }
    tips.sort_unstable();
    tips.dedup();
    Ok(())
}
