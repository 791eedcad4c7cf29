//! Tables of passes that are encoded each time they run: from a ring of pinned memory to one place on the device.
//!
//! A copy takes its turn among the launches of the one stream, so that the next pass's tables cannot come before
//! the last launch has read those of the pass before; the host fills other pinned memory meanwhile.

use super::gpu::{Buffer, Gpu};
use cudarc::driver::PinnedHostSlice;

/// Passes whose tables may wait to be copied: a few steps.
const AHEAD: usize = 8;

/// See the module.
pub struct Tables {
    pinned: Vec<PinnedHostSlice<u8>>,
    next: usize,
    device: Buffer,
}

impl Tables {
    /// For tables of up to `bytes` a pass.
    ///
    /// # Errors
    /// No memory, or the driver's.
    pub fn new(gpu: &Gpu, bytes: usize) -> anyhow::Result<Tables> {
        let pinned = (0..AHEAD).map(|_| gpu.pinned(bytes));
        Ok(Tables {
            pinned: pinned.collect::<anyhow::Result<_>>()?,
            next: 0,
            device: gpu.buffer(bytes)?,
        })
    }

    /// Most bytes a pass.
    pub fn bytes(&self) -> usize {
        self.device.bytes()
    }

    /// Where the tables of a pass begin on the device.
    pub fn address(&self) -> u64 {
        self.device.address()
    }

    /// Copies a pass's tables, behind the launches so far. The host waits only for the copy of [`AHEAD`] passes ago.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// More bytes than there is room for.
    pub fn send(&mut self, gpu: &Gpu, tables: &[u8]) -> anyhow::Result<()> {
        let pinned = &mut self.pinned[self.next];
        gpu.check("tables", pinned.as_mut_slice())?[..tables.len()].copy_from_slice(tables);
        let to = self.device.slice_mut();
        gpu.check("tables", gpu.stream().memcpy_htod(&*pinned, to))?;
        self.next = (self.next + 1) % AHEAD;
        Ok(())
    }
}
