//! Which work on the device is ordered before which: vector clocks over streams, events and the host.
//!
//! Work is executed in the order in which the program submits it, so it never goes wrong by itself. What
//! would go wrong on a GPU is found here: each stream (and each parallel branch of a graph) is a *lane*
//! with a clock of all lanes, recording an event stores the stream's clock, waiting for it joins that
//! clock, synchronising joins it to the host's, and every submission starts from the host's. Two accesses
//! to one address range, one of them a write, must be ordered by these clocks; if they are not, only luck
//! orders them on a GPU.
//!
//! All host threads count as one: orders among threads by locks are invisible to a driver.

use std::collections::HashMap;
use std::sync::Arc;

use crate::count::Footprint;

/// For each lane, how much of its work is known to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clock(Vec<u64>);

impl Clock {
    /// Adds what `other` knows.
    pub fn join(&mut self, other: &Clock) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    fn at(&self, lane: usize) -> u64 {
        self.0.get(lane).copied().unwrap_or(0)
    }

    fn set(&mut self, lane: usize, time: u64) {
        if self.0.len() <= lane {
            self.0.resize(lane + 1, 0);
        }
        self.0[lane] = time;
    }
}

/// What a piece of work does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes it, or reads and writes.
    Write,
    /// Changes it by atomic operations only, which need no order among themselves.
    Atomic,
}

impl Access {
    /// Whether the order of the two matters.
    fn conflicts(self, other: Access) -> bool {
        self != other || self == Access::Write
    }

    /// As findings say it.
    pub fn verb(self) -> &'static str {
        match self {
            Access::Read => "reads",
            Access::Write => "writes",
            Access::Atomic => "changes by atomics",
        }
    }
}

/// A range of device memory that a piece of work reads or writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Touch {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What is done to it.
    pub access: Access,
    /// The words of it that are touched; all, where that isn't known.
    pub exact: Option<Arc<Footprint>>,
}

/// A piece of work as findings name it, such as "kernel `add` (launch 3) on stream 2".
pub type Label = Arc<str>;

#[derive(Clone, Debug)]
struct Past {
    lane: usize,
    time: u64,
    touch: Touch,
    label: Label,
}

/// Two pieces of work that touch the same bytes without an order.
#[derive(Debug)]
pub struct Conflict {
    /// The one submitted first.
    pub earlier: Label,
    /// What the earlier one does.
    pub earlier_access: Access,
    /// What the later one does.
    pub later_access: Access,
    /// First byte that both touch.
    pub start: u64,
    /// One past the last byte that both touch.
    pub end: u64,
}

/// The order of all work of the process.
#[derive(Debug, Default)]
pub struct Order {
    times: Vec<u64>,
    free_lanes: Vec<usize>,
    host: Clock,
    /// Accesses not yet known to be done to the host, by the allocation they touch.
    accesses: HashMap<u64, Vec<Past>>,
}

/// Accesses kept for one allocation; past it the oldest is forgotten, which can only lose a finding.
const KEPT: usize = 4096;

impl Order {
    /// A lane for a new stream or graph branch.
    pub fn open_lane(&mut self) -> usize {
        self.free_lanes.pop().unwrap_or_else(|| {
            self.times.push(0);
            self.times.len() - 1
        })
    }

    /// Gives a lane back. Its next owner counts as ordered after its past work.
    pub fn close_lane(&mut self, lane: usize) {
        self.free_lanes.push(lane);
    }

    /// Begins a piece of work on `lane`, after what `clock` and the host know; `clock` becomes its clock.
    pub fn begin(&mut self, lane: usize, clock: &mut Clock) {
        clock.join(&self.host);
        self.times[lane] += 1;
        clock.set(lane, self.times[lane]);
    }

    /// The host has waited for everything that `clock` knows.
    pub fn host_waited(&mut self, clock: &Clock) {
        self.host.join(clock);
        let host = &self.host;
        self.accesses.retain(|_, accesses| {
            accesses.retain(|access| access.time > host.at(access.lane));
            !accesses.is_empty()
        });
    }

    /// What the host knows to be done.
    pub fn host(&self) -> &Clock {
        &self.host
    }

    /// Records that the work that `clock` stands for, on `lane`, touches a range of `allocation`.
    ///
    /// # Errors
    /// The first earlier access that conflicts and isn't ordered before this one.
    pub fn access(
        &mut self,
        lane: usize,
        clock: &Clock,
        allocation: u64,
        touch: Touch,
        label: &Label,
    ) -> Result<(), Conflict> {
        let accesses = self.accesses.entry(allocation).or_default();
        let conflict = accesses.iter().find(|earlier| {
            earlier.touch.access.conflicts(touch.access)
                && earlier.touch.start < touch.end
                && touch.start < earlier.touch.end
                && earlier.time > clock.at(earlier.lane)
                && Footprint::meet(
                    earlier.touch.exact.as_deref(),
                    touch.exact.as_deref(),
                    earlier.touch.start.max(touch.start),
                    earlier.touch.end.min(touch.end),
                )
        });
        let conflict = conflict.map(|earlier| Conflict {
            earlier: Arc::clone(&earlier.label),
            earlier_access: earlier.touch.access,
            later_access: touch.access,
            start: earlier.touch.start.max(touch.start),
            end: earlier.touch.end.min(touch.end),
        });
        // A later access of the same lane to the same range stands for the earlier one: whatever is
        // ordered after it is ordered after both.
        accesses.retain(|earlier| earlier.lane != lane || earlier.touch != touch);
        if accesses.len() == KEPT {
            accesses.remove(0);
        }
        accesses.push(Past {
            lane,
            time: clock.at(lane),
            touch,
            label: Arc::clone(label),
        });
        conflict.map_or(Ok(()), Err)
    }

    /// Forgets an allocation: its addresses start a new life.
    pub fn forget(&mut self, allocation: u64) {
        self.accesses.remove(&allocation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stream {
        lane: usize,
        clock: Clock,
    }

    impl Stream {
        fn new(order: &mut Order) -> Stream {
            Stream {
                lane: order.open_lane(),
                clock: Clock::default(),
            }
        }

        fn touch(&mut self, order: &mut Order, range: std::ops::Range<u64>, write: bool) -> bool {
            order.begin(self.lane, &mut self.clock);
            let touch = Touch {
                start: range.start,
                end: range.end,
                access: if write { Access::Write } else { Access::Read },
                exact: None,
            };
            order
                .access(self.lane, &self.clock, 0, touch, &"work".into())
                .is_ok()
        }
    }

    #[test]
    fn unordered_write_and_read_conflict_and_an_event_orders_them() {
        let mut order = Order::default();
        let (mut a, mut b) = (Stream::new(&mut order), Stream::new(&mut order));
        assert!(a.touch(&mut order, 0..64, true));
        assert!(!b.touch(&mut order, 32..96, false));
        let mut c = Stream::new(&mut order);
        c.clock.join(&a.clock);
        c.clock.join(&b.clock);
        assert!(c.touch(&mut order, 0..96, true));
    }

    #[test]
    fn disjoint_ranges_and_two_readers_never_conflict() {
        let mut order = Order::default();
        let (mut a, mut b) = (Stream::new(&mut order), Stream::new(&mut order));
        assert!(a.touch(&mut order, 0..64, true));
        assert!(b.touch(&mut order, 64..128, true));
        let (mut a, mut b) = (Stream::new(&mut order), Stream::new(&mut order));
        assert!(a.touch(&mut order, 256..512, false));
        assert!(b.touch(&mut order, 256..512, false));
    }

    #[test]
    fn atomics_conflict_with_reads_and_writes_but_not_with_atomics() {
        use Access::{Atomic, Read, Write};
        for (a, b) in [(Read, Read), (Atomic, Atomic)] {
            assert!(!a.conflicts(b));
        }
        for (a, b) in [
            (Read, Write),
            (Write, Write),
            (Atomic, Read),
            (Write, Atomic),
        ] {
            assert!(a.conflicts(b) && b.conflicts(a));
        }
    }

    #[test]
    fn a_host_synchronise_orders_what_comes_after_it_and_forgets_what_came_before() {
        let mut order = Order::default();
        let (mut a, mut b) = (Stream::new(&mut order), Stream::new(&mut order));
        assert!(a.touch(&mut order, 0..64, true));
        order.host_waited(&a.clock);
        assert!(order.accesses.is_empty());
        assert!(b.touch(&mut order, 0..64, true));
    }

    #[test]
    fn work_after_the_recorded_event_is_not_ordered_by_it() {
        let mut order = Order::default();
        let (mut a, mut b) = (Stream::new(&mut order), Stream::new(&mut order));
        assert!(a.touch(&mut order, 0..64, true));
        let event = a.clock.clone();
        assert!(a.touch(&mut order, 0..64, true));
        b.clock.join(&event);
        assert!(!b.touch(&mut order, 0..64, false));
    }
}
