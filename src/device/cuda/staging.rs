//! The next batch on its way: from pinned host memory to the device, while a step runs.
//!
//! Two pinned halves take turns, so that the host can fill one while the other is copied. The copy goes
//! through a stream of its own to a staging buffer; the forward pass takes it from there in stream
//! order. Two events keep the two streams apart: `copied` before the batch is taken, `taken` before
//! the next one is copied over it.

use super::gpu::{Buffer, Gpu};
use cudarc::driver::{CudaEvent, PinnedHostSlice};

/// See the module.
pub struct Staging {
    pinned: [PinnedHostSlice<u8>; 2],
    next: usize,
    device: Buffer,
    copied: CudaEvent,
    taken: CudaEvent,
    bytes: usize,
}

impl Staging {
    /// Staging for batches of `bytes`.
    ///
    /// # Errors
    /// No memory, or the driver's.
    pub fn new(gpu: &Gpu, bytes: usize) -> anyhow::Result<Staging> {
        let device = gpu.buffer(bytes)?;
        // The buffer was zeroed by the other stream.
        gpu.wait()?;
        Ok(Staging {
            pinned: [gpu.pinned(bytes)?, gpu.pinned(bytes)?],
            next: 0,
            device,
            copied: gpu.event()?,
            taken: gpu.event()?,
            bytes,
        })
    }

    /// Starts copying a batch that `fill` writes. Returns when `fill` has; the copy goes on.
    ///
    /// # Errors
    /// The driver's.
    pub fn send(&mut self, gpu: &Gpu, fill: impl FnOnce(&mut [u8])) -> anyhow::Result<()> {
        let pinned = &mut self.pinned[self.next];
        // Waits until the copy from this half, two batches ago, is done.
        fill(&mut gpu.check("a batch", pinned.as_mut_slice())?[..self.bytes]);
        let copies = gpu.copies();
        let mut send = || {
            copies.wait(&self.taken)?;
            copies.memcpy_htod(&*pinned, self.device.slice_mut())?;
            self.copied.record(copies)
        };
        let sent = send();
        gpu.check("copying a batch", sent)?;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Copies parts of the batch that was sent last, `(to, from byte, bytes)` each, in the order of the
    /// launches.
    ///
    /// # Errors
    /// The driver's.
    pub fn take(&mut self, gpu: &Gpu, parts: &[(u64, usize, usize)]) -> anyhow::Result<()> {
        gpu.check("a batch", gpu.stream().wait(&self.copied))?;
        for &(to, from, bytes) in parts {
            assert!(from + bytes <= self.bytes, "a part of the batch");
            gpu.copy(to, self.device.address() + from as u64, bytes)?;
        }
        gpu.check("a batch", self.taken.record(gpu.stream()))
    }
}
