//! One piece of work of a stream or a graph: what it is, how it is done, which memory it touches.

use std::sync::Arc;
use std::time::Instant;

use super::entry::{Handle, say};
use super::errors::Code;
use super::order::{Access, Clock, Conflict, Label, Touch};
use super::profile::must_track;
use super::state::Driver;
use super::types::HostFunction;
use crate::count::{Counters, Footprint};
use crate::{Fault, FaultKind, Kernel, Launch};

/// A piece of work, complete: parameters are copied when it is submitted.
#[derive(Clone, Debug)]
pub enum Work {
    /// A kernel launch.
    Kernel(KernelWork),
    /// A copy of a box of bytes.
    Copy(Copy),
    /// A fill of a rectangle of elements.
    Fill(Fill),
    /// A call of a host function.
    Host(HostWork),
    /// Records an event.
    Record(Handle),
    /// Waits for an event.
    Wait(Handle),
    /// A launch of an executable graph.
    Graph(Handle),
    /// A node that is a whole graph, by the handle of the copy that the node owns.
    Child(Handle),
    /// Allocates memory that a graph owns.
    Allocate {
        /// Where, fixed when the node was made.
        address: u64,
        /// How much.
        bytes: u64,
    },
    /// Ends the life of such memory.
    Free(u64),
    /// Nothing; orders what is before it before what is after it.
    Empty,
}

/// A kernel launch.
#[derive(Clone, Debug)]
pub struct KernelWork {
    /// The handle it was launched by.
    pub function: Handle,
    /// The kernel, which outlives its module here.
    pub kernel: Arc<Kernel>,
    /// Shape and arguments.
    pub launch: Launch,
}

/// A call of a host function.
#[derive(Clone, Copy, Debug)]
pub struct HostWork {
    /// The function.
    pub function: HostFunction,
    /// Its argument.
    pub data: usize,
}

/// One side of a copy: where its box begins, and the distance of its rows and slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// First byte.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// Bytes from slice to slice.
    pub slice: u64,
    /// Whether it is device memory, to be checked as such.
    pub device: bool,
}

/// A copy of a box of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Where from.
    pub from: Side,
    /// Where to.
    pub to: Side,
    /// Bytes of a row.
    pub width: u64,
    /// Rows of a slice.
    pub height: u64,
    /// Slices.
    pub depth: u64,
}

/// A fill of a rectangle of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// First byte.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// The element, in its low bytes.
    pub value: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub element: u64,
    /// Elements of a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
}

/// Where a piece of work runs.
pub struct Place<'a> {
    /// The context whose error a fault becomes.
    pub context: Handle,
    /// Its lane of the order.
    pub lane: usize,
    /// What it is ordered after, itself included.
    pub clock: &'a Clock,
    /// For findings: "stream 3".
    pub name: &'a str,
}

/// Rows of a strided box that the order of streams keeps apart; boxes with more are not tracked, rather
/// than taken for the whole range and blamed for bytes between their rows.
const TRACKED_ROWS: u64 = 256;

impl Side {
    /// Bytes from the first to the last of the box, or nothing where that overflows.
    fn extent(&self, width: u64, height: u64, depth: u64) -> Option<u64> {
        let rows = (height - 1).checked_mul(self.pitch)?;
        let slices = (depth - 1).checked_mul(self.slice)?;
        rows.checked_add(slices)?.checked_add(width)
    }

    fn row(&self, y: u64, z: u64) -> u64 {
        self.address + y * self.pitch + z * self.slice
    }
}

impl Copy {
    /// `bytes` bytes in one piece.
    pub fn flat(from: (u64, bool), to: (u64, bool), bytes: u64) -> Copy {
        let side = |(address, device)| Side {
            address,
            pitch: bytes,
            slice: bytes,
            device,
        };
        Copy {
            from: side(from),
            to: side(to),
            width: bytes,
            height: 1,
            depth: 1,
        }
    }

    /// Whether nothing is to be copied.
    pub fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }

    /// What of device memory is touched.
    fn touches(&self) -> Vec<Touch> {
        let (rows, slices) = (self.height, self.depth);
        let side = |side: &Side, access| {
            let flat = (rows == 1 || side.pitch == self.width)
                && (slices == 1 || side.slice == self.width * rows);
            if flat {
                return vec![Touch {
                    start: side.address,
                    end: side.address + self.width * rows * slices,
                    access,
                    exact: None,
                }];
            }
            if rows.saturating_mul(slices) > TRACKED_ROWS {
                return Vec::new();
            }
            (0..slices)
                .flat_map(|z| (0..rows).map(move |y| (y, z)))
                .map(|(y, z)| {
                    let start = side.row(y, z);
                    Touch {
                        start,
                        end: start + self.width,
                        access,
                        exact: None,
                    }
                })
                .collect()
        };
        let mut touches = side(&self.from, Access::Read);
        touches.extend(side(&self.to, Access::Write));
        touches
    }
}

impl Fill {
    /// The bytes of a row.
    fn row_bytes(&self) -> Option<u64> {
        self.width.checked_mul(self.element)
    }

    fn touches(&self) -> Vec<Touch> {
        let bytes = self.width * self.element;
        if self.height == 1 || self.pitch == bytes {
            let end = self.address + bytes * self.height;
            return vec![Touch {
                start: self.address,
                end,
                access: Access::Write,
                exact: None,
            }];
        }
        if self.height > TRACKED_ROWS {
            return Vec::new();
        }
        (0..self.height)
            .map(|y| {
                let start = self.address + y * self.pitch;
                Touch {
                    start,
                    end: start + bytes,
                    access: Access::Write,
                    exact: None,
                }
            })
            .collect()
    }
}

impl Driver {
    /// Whether work can be done at all: what it names exists and is large enough.
    ///
    /// # Errors
    /// `INVALID_VALUE`, `INVALID_HANDLE`, before anything happens.
    pub fn check_work(&self, work: &Work) -> Result<(), Code> {
        match work {
            Work::Copy(copy) => self.check_copy(copy),
            Work::Fill(fill) => self.check_fill(fill),
            Work::Record(event) | Work::Wait(event) => self.events.get(*event).map(drop),
            _ => Ok(()),
        }
    }

    fn check_copy(&self, copy: &Copy) -> Result<(), Code> {
        if copy.is_empty() {
            return Ok(());
        }
        for side in [&copy.from, &copy.to] {
            let strided = copy.height > 1 && side.pitch < copy.width
                || copy.depth > 1 && side.slice < side.pitch.saturating_mul(copy.height);
            let extent = side.extent(copy.width, copy.height, copy.depth);
            let extent = extent.filter(|_| !strided).ok_or(Code::INVALID_VALUE)?;
            self.check_range(side.address, extent, side.device)?;
        }
        Ok(())
    }

    fn check_fill(&self, fill: &Fill) -> Result<(), Code> {
        if fill.width == 0 || fill.height == 0 {
            return Ok(());
        }
        let row = fill.row_bytes().ok_or(Code::INVALID_VALUE)?;
        if !matches!(fill.element, 1 | 2 | 4)
            || !fill.address.is_multiple_of(fill.element)
            || fill.height > 1 && (fill.pitch < row || !fill.pitch.is_multiple_of(fill.element))
        {
            return Err(Code::INVALID_VALUE);
        }
        let rows = (fill.height - 1)
            .checked_mul(fill.pitch)
            .ok_or(Code::INVALID_VALUE)?;
        self.check_range(
            fill.address,
            rows.checked_add(row).ok_or(Code::INVALID_VALUE)?,
            true,
        )
    }

    /// A range of device memory must lie in one allocation; of host memory, it must not be null.
    fn check_range(&self, address: u64, bytes: u64, device: bool) -> Result<(), Code> {
        if address == 0 || address.checked_add(bytes).is_none() {
            return Err(Code::INVALID_VALUE);
        }
        if device || self.memory.contains(address, 1) {
            self.memory.slice(address, bytes).map_err(|reason| {
                say(&format!("a copy or fill of {reason}"));
                Code::INVALID_VALUE
            })?;
        }
        Ok(())
    }

    /// Does a piece of work that was checked. Host functions, waits and child graphs are the caller's.
    /// A fault is printed and becomes the context's error.
    pub fn perform(&mut self, place: &Place, work: &Work) {
        let (touches, label) = match work {
            Work::Kernel(kernel) => match self.run_kernel(place, kernel) {
                Some(done) => done,
                None => return,
            },
            Work::Copy(copy) if !copy.is_empty() => {
                self.run_copy(copy);
                let side = |side: &Side| if side.device { "device" } else { "host" };
                let label = format!(
                    "copy of {} bytes from {} to {} on {}",
                    copy.width * copy.height * copy.depth,
                    side(&copy.from),
                    side(&copy.to),
                    place.name
                );
                (copy.touches(), label)
            }
            Work::Fill(fill) if fill.width > 0 && fill.height > 0 => {
                self.run_fill(fill);
                let bytes = fill.width * fill.element * fill.height;
                (
                    fill.touches(),
                    format!("fill of {bytes} bytes on {}", place.name),
                )
            }
            Work::Allocate { address, bytes } => {
                let touch = Touch {
                    start: *address,
                    end: address + bytes,
                    access: Access::Write,
                    exact: None,
                };
                (
                    vec![touch],
                    format!("allocation of {bytes} bytes on {}", place.name),
                )
            }
            Work::Free(address) => {
                let bytes = self.blocks.get(address).map_or(0, |block| block.bytes);
                let touch = Touch {
                    start: *address,
                    end: address + bytes,
                    access: Access::Write,
                    exact: None,
                };
                (
                    vec![touch],
                    format!("free of {bytes} bytes on {}", place.name),
                )
            }
            _ => return,
        };
        self.order_touches(place, touches, &label.into());
    }

    /// Launches; what it touched and its name, or nothing after a fault.
    fn run_kernel(&mut self, place: &Place, work: &KernelWork) -> Option<(Vec<Touch>, String)> {
        self.launches += 1;
        let name = &work.kernel.name;
        let label = format!(
            "kernel `{name}` (launch {}) on {}",
            self.launches, place.name
        );
        self.machine.options.track = must_track(self);
        let begun = Instant::now();
        let result = self.machine.launch(&work.kernel, &work.launch);
        match result {
            Ok(counters) => {
                // A kernel that faults on a GPU has done part of its work by then: so has this one.
                if let Some(planted) = self.planted_fault(name) {
                    say(&format!("planted fault in {label} ({planted})"));
                    self.fail(place.context, Code::ILLEGAL_ADDRESS);
                    return None;
                }
                self.profile.record(
                    &self.settings.target,
                    self.launches,
                    work,
                    &counters,
                    begun.elapsed(),
                );
                Some((touches_of(&counters), label))
            }
            Err(fault) => {
                say(&format!("fault in {label}\n{}", fault.text.trim_end()));
                self.fail(place.context, code_of(&fault));
                None
            }
        }
    }

    /// Which item of `SOFTCUDA_FAIL` makes this launch of `name` fault.
    fn planted_fault(&mut self, name: &str) -> Option<String> {
        let plan = &self.settings.failures.kernels;
        if !plan.iter().any(|planned| planned.kernel == name) {
            return None;
        }
        let count = self.launches_of.entry(name.to_owned()).or_insert(0);
        *count += 1;
        let mut hits = plan.iter().filter(|planned| planned.kernel == name);
        let hit = hits.find(|planned| planned.nth.is_none_or(|nth| nth == *count))?;
        Some(match hit.nth {
            None => format!("SOFTCUDA_FAIL=kernel:{name}"),
            Some(nth) => format!("SOFTCUDA_FAIL=kernel:{name}@{nth}"),
        })
    }

    fn run_copy(&self, copy: &Copy) {
        for z in 0..copy.depth {
            for y in 0..copy.height {
                let (from, to) = (copy.from.row(y, z), copy.to.row(y, z));
                // SAFETY: device sides lie in live allocations (checked at submission; frees wait for
                // the driver's lock, which is held); host sides are the program's word.
                unsafe {
                    std::ptr::copy(from as *const u8, to as *mut u8, copy.width as usize);
                }
                if self.memory.contains(to, copy.width) {
                    if self.memory.contains(from, copy.width) {
                        self.memory.copy_initialised(to, from, copy.width);
                    } else {
                        self.memory.mark_written(to, copy.width);
                    }
                }
            }
        }
    }

    fn run_fill(&self, fill: &Fill) {
        let bytes = fill.width * fill.element;
        for y in 0..fill.height {
            let row = fill.address + y * fill.pitch;
            // SAFETY: the row lies in a live allocation, checked at submission under the same lock, and
            // its address is a multiple of the element.
            unsafe {
                match fill.element {
                    1 => std::ptr::write_bytes(row as *mut u8, fill.value as u8, bytes as usize),
                    2 => std::slice::from_raw_parts_mut(row as *mut u16, fill.width as usize)
                        .fill(fill.value as u16),
                    _ => std::slice::from_raw_parts_mut(row as *mut u32, fill.width as usize)
                        .fill(fill.value),
                }
            }
            self.memory.mark_written(row, bytes);
        }
    }

    /// Files what a piece of work touched, and reports what it was not ordered after.
    pub fn order_touches(&mut self, place: &Place, touches: Vec<Touch>, label: &Label) {
        if !self.settings.checks.streams {
            return;
        }
        let mut first = None;
        for touch in touches.into_iter().filter(|touch| touch.start < touch.end) {
            let Some(allocation) = self.memory.find(touch.start) else {
                continue;
            };
            let result =
                self.order
                    .access(place.lane, place.clock, allocation.address, touch, label);
            first = first.or(result.err().map(|conflict| (allocation, conflict)));
        }
        if let Some((allocation, conflict)) = first {
            say(&render(&conflict, label, &allocation));
            self.fail(place.context, Code::LAUNCH_FAILED);
        }
    }
}

/// The finding of two pieces of work without an order.
fn render(conflict: &Conflict, later: &Label, allocation: &crate::memory::Allocation) -> String {
    let offset = conflict.start - allocation.address;
    format!(
        "race between streams: two pieces of work touch the same memory and no event, synchronisation or \
         common stream orders them\n  \
         memory   bytes {offset}..{} of `{}` ({} bytes at {:#x})\n  \
         earlier  {} {} it\n  \
         later    {later} {} it\n  \
         remedy   record an event after the earlier one and make the later one's stream wait for it",
        offset + (conflict.end - conflict.start),
        allocation.label,
        allocation.bytes,
        allocation.address,
        conflict.earlier,
        conflict.earlier_access.verb(),
        conflict.later_access.verb(),
    )
}

fn touches_of(counters: &Counters) -> Vec<Touch> {
    let [reads, writes, atomics] = &counters.footprints;
    let touches = |ranges: &[(u64, u64)], access, words: &Arc<Footprint>| -> Vec<Touch> {
        let touch = |&(start, bytes): &(u64, u64)| Touch {
            start,
            end: start + bytes,
            access,
            exact: Some(Arc::clone(words)),
        };
        ranges.iter().map(touch).collect()
    };
    // Written ranges first: of a range that is read and written, the write is the one to report.
    let mut all = touches(&counters.writes, Access::Write, writes);
    all.extend(touches(&counters.atomics, Access::Atomic, atomics));
    all.extend(touches(&counters.reads, Access::Read, reads));
    all
}

/// The driver's error for a fault of the machine.
pub fn code_of(fault: &Fault) -> Code {
    match fault.kind {
        FaultKind::IllegalAddress => Code::ILLEGAL_ADDRESS,
        FaultKind::MisalignedAddress => Code::MISALIGNED_ADDRESS,
        FaultKind::Assert => Code::ASSERT,
        FaultKind::Trap
        | FaultKind::Uninitialised
        | FaultKind::Race
        | FaultKind::Barrier
        | FaultKind::StackOverflow => Code::LAUNCH_FAILED,
        FaultKind::Timeout => Code::LAUNCH_TIMEOUT,
        FaultKind::InvalidConfiguration => Code::INVALID_VALUE,
        FaultKind::OutOfResources => Code::LAUNCH_OUT_OF_RESOURCES,
        FaultKind::CooperativeTooLarge => Code::COOPERATIVE_LAUNCH_TOO_LARGE,
    }
}
