//! The order between the blocks of a launch that talk to each other: what a block does after it has acquired
//! comes after what others did before they released there, directly or by way of a chain of blocks.
//!
//! A stamp stands for a block and its epoch, which a release ends. All blocks of such a launch run on one thread.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use super::lines::{DETAILED, RESERVED, RaceShadow, STRONG, UNKNOWN};
use super::{Watch, parts_of_words, whole_words};
use crate::check::AccessKind;
use crate::execute::{BlockState, Run, Warp};

/// Nodes that a search for an order visits before it takes the accesses for ordered.
const SEARCH_LIMIT: u32 = 20_000;

/// What a block has acquired: where, and how many releases there were by then.
pub(super) struct Acquired {
    location: u64,
    version: u32,
    before: Option<Rc<Acquired>>,
}

/// A release at a location: by which block, at the end of which epoch, after having acquired what.
pub(super) struct Release {
    block: u64,
    epoch: u32,
    acquired: Option<Rc<Acquired>>,
}

/// Orders between blocks. All blocks of such a launch run on one thread; it travels with the block that
/// runs.
#[derive(Default)]
pub(crate) struct Order {
    locations: HashMap<u64, Vec<Release>>,
    /// For each stamp from the launch's first on: block and epoch.
    stamps: Vec<(u64, u32)>,
}

impl Watch {
    /// Words of a line in a launch whose blocks are ordered by releases and acquires. Returns the block of
    /// the other party and whether it wrote.
    #[allow(
        clippy::too_many_arguments,
        reason = "an access as the machine has it, by its parts"
    )]
    pub(super) fn ordered_line(
        &mut self,
        shadow: &RaceShadow,
        order: &mut Order,
        line: u64,
        touched: u128,
        write: bool,
        kind: AccessKind,
        strong: bool,
    ) -> Option<(u32, bool)> {
        let first = shadow.first.load(Relaxed);
        let me = order.stamp(first, self.block, self.epoch)?;
        let flag = if strong || kind == AccessKind::Atomic {
            STRONG
        } else {
            0
        };
        let stamps = &order.stamps;
        let conflict = |stamp: u32, other_write: bool| {
            if stamp & !STRONG < first || stamp & flag & STRONG != 0 {
                return None;
            }
            let (block, epoch) =
                *stamps.get((stamp & !STRONG).checked_sub(first + RESERVED)? as usize)?;
            let mut budget = SEARCH_LIMIT;
            let races = block != self.block
                && !order.before(block, epoch, self.acquired.clone(), &mut budget);
            races.then_some((block as u32, other_write))
        };
        // The new reader and writer of a place, or the other party of a race.
        let step = |reader: u32, writer: u32| {
            if let Some(found) = conflict(writer, true) {
                return Err(found);
            }
            if write && let Some(found) = conflict(reader, false) {
                return Err(found);
            }
            Ok(if write {
                (reader, me | flag)
            } else {
                (me | flag, writer)
            })
        };
        let parts = |(word, bytes): (u64, u8)| {
            shadow.each_byte(line * 32 + word, bytes, |cell| {
                *cell = step(cell.0, cell.1)?;
                Ok(())
            })
        };
        if let Some(found) = parts_of_words(touched).find_map(parts) {
            return Some(found);
        }
        let mask = whole_words(touched);
        let stamp = me | flag;
        if mask == 0 || shadow.has(line, stamp, mask, write) {
            return None;
        }
        let each_word = || {
            let mut shard = shadow.shard(line);
            let words = shard.get_mut(&line)?;
            (0..32)
                .filter(|word| mask >> word & 1 == 1)
                .find_map(|word| match step(words[word].0, words[word].1) {
                    Ok(new) => {
                        words[word] = new;
                        None
                    }
                    Err(found) => Some(found),
                })
        };
        let found = shadow.lock(line);
        let (owner, read, written) = (found.owner, found.read, found.written);
        let mine = if write { (0, mask) } else { (mask, 0) };
        // All that the owner touched is touched again, by one that comes after it.
        let covers = (read | written) & !mask == 0 && (write || written == 0);
        if owner & !STRONG < first {
            found.change(stamp, mine.0, mine.1);
        } else if owner == stamp {
            found.change(stamp, read | mine.0, written | mine.1);
        } else if owner == first + UNKNOWN {
            found.stay();
        } else if owner == first + DETAILED {
            let race = each_word();
            found.stay();
            return race;
        } else {
            let race = (written & mask != 0)
                .then(|| conflict(owner, true))
                .or_else(|| (write && read & mask != 0).then(|| conflict(owner, false)))
                .flatten();
            if race.is_some() {
                found.stay();
                return race;
            }
            if covers {
                found.change(stamp, mine.0, mine.1);
            } else if found.detail() {
                let race = each_word();
                found.change(first + DETAILED, 0, 0);
                return race;
            } else {
                found.change(first + UNKNOWN, 0, 0);
            }
        }
        None
    }

    /// A strong access by this block at a location: acquires what was released there, and releases what the
    /// block did before where that is fenced.
    pub(crate) fn strong_access(
        &mut self,
        order: &mut Order,
        location: u64,
        kind: AccessKind,
        release: bool,
    ) {
        let releases = order.locations.get(&location).map_or(0, Vec::len) as u32;
        if kind != AccessKind::Write && releases > 0 {
            let known = self
                .acquired
                .as_ref()
                .is_some_and(|a| a.location == location && a.version == releases);
            if !known {
                let before = self.acquired.take();
                self.acquired = Some(Rc::new(Acquired {
                    location,
                    version: releases,
                    before,
                }));
            }
        }
        if kind != AccessKind::Read && (release || self.fenced) {
            self.epoch += 1;
            order.locations.entry(location).or_default().push(Release {
                block: self.block,
                epoch: self.epoch,
                acquired: self.acquired.clone(),
            });
        }
    }
}

impl Order {
    /// The stamp of a block's epoch.
    fn stamp(&mut self, first: u32, block: u64, epoch: u32) -> Option<u32> {
        if self.stamps.last() != Some(&(block, epoch)) {
            self.stamps.push((block, epoch));
        }
        let stamp = first.checked_add(RESERVED + self.stamps.len() as u32 - 1)?;
        (stamp < STRONG).then_some(stamp)
    }

    /// Whether the end of `epoch` of `block` is among what was acquired, directly or through others.
    fn before(
        &self,
        block: u64,
        epoch: u32,
        acquired: Option<Rc<Acquired>>,
        budget: &mut u32,
    ) -> bool {
        let mut stack = vec![acquired];
        while let Some(next) = stack.pop() {
            let mut node = next;
            while let Some(acquired) = node {
                let releases = self.locations.get(&acquired.location);
                for release in releases
                    .into_iter()
                    .flatten()
                    .take(acquired.version as usize)
                {
                    if *budget == 0 || release.block == block && release.epoch > epoch {
                        return true;
                    }
                    *budget -= 1;
                    if release.acquired.is_some() && release.block != self.current() {
                        stack.push(release.acquired.clone());
                    }
                }
                node = acquired.before.clone();
            }
        }
        false
    }

    /// The block that ran last.
    fn current(&self) -> u64 {
        self.stamps.last().map_or(u64::MAX, |(block, _)| *block)
    }
}

impl Warp {
    /// Orders between blocks that a strong access to device memory makes.
    pub(crate) fn order_global(&mut self, block: &mut BlockState, run: &Run, list: &[u64; 32]) {
        if !block.watch.on || !block.watch.ordered || !run.access.order.wide {
            return;
        }
        let kind = match run.inst.op {
            crate::lower::inst::Op::Load(_) => AccessKind::Read,
            crate::lower::inst::Op::Store(_) => AccessKind::Write,
            _ => AccessKind::Atomic,
        };
        let Some(order) = block.order.as_mut() else {
            return;
        };
        for lane in (0..32).filter(|lane| run.mask >> lane & 1 == 1) {
            block
                .watch
                .strong_access(order, list[lane], kind, run.access.order.release);
        }
    }
}
