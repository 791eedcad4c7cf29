//! Which allocation an address belongs to. Live ones and the freed ones that are still in
//! quarantine share one ordered map; a third of the calls of a check end here, so it only reads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{ALIGNMENT, UnknownAddress};

/// A piece of device memory that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Its first byte.
    pub address: u64,
    /// Its length in bytes, as asked for.
    pub bytes: u64,
    /// What asked for it.
    pub label: Arc<str>,
    /// Position in the order of all allocations of this device.
    pub serial: u64,
    /// Host memory (pinned, managed or adopted), which doesn't count against the limit.
    pub host: bool,
    /// Where it was freed, the number of allocations made before that.
    pub freed: Option<u64>,
}

impl Allocation {
    /// Address space it occupies, red zone included.
    fn span(&self) -> u64 {
        (self.bytes + ALIGNMENT).next_multiple_of(ALIGNMENT)
    }

    fn describe(&self) -> String {
        format!(
            "`{}` (allocation {}, {} bytes at {:#x}{})",
            self.label,
            self.serial,
            self.bytes,
            self.address,
            match self.freed {
                Some(when) => format!(", freed after allocation {when}"),
                None => String::new(),
            }
        )
    }
}

pub(super) struct Registry {
    by_address: BTreeMap<u64, Allocation>,
    /// Freed allocations, oldest first: the order in which their addresses may be used again.
    quarantine: VecDeque<u64>,
    /// Address ranges that have left quarantine: first address → length.
    holes: BTreeMap<u64, u64>,
    next: u64,
    end: u64,
    used: u64,
    serial: u64,
}

impl Registry {
    pub(super) fn new(base: u64, size: u64) -> Registry {
        Registry {
            by_address: BTreeMap::new(),
            quarantine: VecDeque::new(),
            holes: BTreeMap::new(),
            // A red zone in front of the first allocation.
            next: base.next_multiple_of(ALIGNMENT) + ALIGNMENT,
            end: base + size,
            used: 0,
            serial: 0,
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn allocate(&mut self, bytes: u64, label: &str, host: bool) -> Option<u64> {
        let mut allocation = Allocation {
            address: 0,
            bytes,
            label: Arc::from(label),
            serial: self.serial,
            host,
            freed: None,
        };
        let span = allocation.span();
        let address = self.fresh(span).or_else(|| self.reuse(span))?;
        allocation.address = address;
        self.by_address.insert(address, allocation);
        self.serial += 1;
        if !host {
            self.used += bytes;
        }
        Some(address)
    }

    /// Enters a range of foreign memory; whether nothing else overlaps it.
    pub(super) fn adopt(&mut self, address: u64, bytes: u64, label: &str) -> bool {
        let below = self
            .by_address
            .range(..address.saturating_add(bytes))
            .next_back();
        if below.is_some_and(|(_, a)| a.address + a.bytes > address) {
            return false;
        }
        let (label, serial) = (Arc::from(label), self.serial);
        let adopted = Allocation {
            address,
            bytes,
            label,
            serial,
            host: true,
            freed: None,
        };
        self.by_address.insert(address, adopted);
        self.serial += 1;
        true
    }

    /// Forgets a range of foreign memory.
    pub(super) fn release(&mut self, address: u64) -> bool {
        self.by_address.remove(&address).is_some()
    }

    /// Address space that no allocation has used yet.
    fn fresh(&mut self, span: u64) -> Option<u64> {
        let address = self.next;
        if span > self.end.saturating_sub(address) {
            return None;
        }
        self.next += span;
        Some(address)
    }

    /// Address space of allocations freed longest ago; takes as many as it needs.
    fn reuse(&mut self, span: u64) -> Option<u64> {
        loop {
            if let Some((&address, &length)) =
                self.holes.iter().find(|&(_, &length)| length >= span)
            {
                self.holes.remove(&address);
                if length > span {
                    self.holes.insert(address + span, length - span);
                }
                return Some(address);
            }
            let oldest = self.quarantine.pop_front()?;
            let freed = self.by_address.remove(&oldest)?;
            self.add_hole(freed.address, freed.span());
        }
    }

    fn add_hole(&mut self, mut address: u64, mut length: u64) {
        if let Some(next) = self.holes.remove(&(address + length)) {
            length += next;
        }
        if let Some((&before, &before_length)) = self.holes.range(..address).next_back()
            && before + before_length == address
        {
            self.holes.remove(&before);
            address = before;
            length += before_length;
        }
        self.holes.insert(address, length);
    }

    pub(super) fn free(&mut self, address: u64) -> Result<Allocation, UnknownAddress> {
        let serial = self.serial;
        match self.by_address.get_mut(&address) {
            Some(found) if found.freed.is_none() => {
                found.freed = Some(serial);
                if !found.host {
                    self.used -= found.bytes;
                }
                self.quarantine.push_back(address);
                Ok(found.clone())
            }
            _ => Err(UnknownAddress {
                address,
                what: self.describe(address, 1),
            }),
        }
    }

    /// The allocation, live or in quarantine, that holds `address`.
    pub(super) fn find(&self, address: u64) -> Option<Allocation> {
        let (_, found) = self.by_address.range(..=address).next_back()?;
        (address - found.address < found.bytes).then(|| found.clone())
    }

    pub(super) fn live(&self) -> Vec<Allocation> {
        self.by_address
            .values()
            .filter(|a| a.freed.is_none())
            .cloned()
            .collect()
    }

    /// One clause about `bytes` bytes at `address`.
    pub(super) fn describe(&self, address: u64, bytes: u64) -> String {
        if let Some(found) = self.find(address) {
            let offset = address - found.address;
            if found.freed.is_some() || offset + bytes <= found.bytes {
                return format!("at byte {offset} of {}", found.describe());
            }
            return format!(
                "runs {} bytes past the end of {}",
                offset + bytes - found.bytes,
                found.describe()
            );
        }
        let below = self
            .by_address
            .range(..=address)
            .next_back()
            .map(|(_, a)| a);
        let above = self.by_address.range(address..).next().map(|(_, a)| a);
        let past = below.map(|a| (address - (a.address + a.bytes), a));
        let before = above.map(|a| (a.address - address, a));
        match (past, before) {
            (Some((past, a)), Some((before, _))) if past <= before => {
                format!("{past} bytes past the end of {}", a.describe())
            }
            (_, Some((before, a))) => format!("{before} bytes before {}", a.describe()),
            (Some((past, a)), None) => format!("{past} bytes past the end of {}", a.describe()),
            (None, None) => "there is no allocation on the device".to_string(),
        }
    }
}
