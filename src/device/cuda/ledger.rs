//! What launches leave for people: copied in stream order to a ledger in device memory, and read together.
//!
//! A step that ends with a loss or a norm notes it and goes on. The first who asks for one of the notes
//! waits, and reads all of them; so does the note that no longer fits.

use super::gpu::{Buffer, Gpu};
use crate::device::Later;
use std::sync::{Arc, Mutex, OnceLock};

/// Bytes of the ledger: a hundred rounds of a search's notes.
const BYTES: usize = 1 << 18;

/// Bytes noted between two readings, from when they were read.
type Page = OnceLock<Vec<u8>>;

/// See the module.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Open>);

/// The page that is being written.
#[derive(Default)]
struct Open {
    buffer: Option<Buffer>,
    used: usize,
    page: Arc<Page>,
}

impl Open {
    /// Reads the page, and begins another.
    fn read(&mut self, gpu: &Gpu) -> anyhow::Result<()> {
        let mut bytes = vec![0u8; self.used];
        if let Some(buffer) = &self.buffer {
            gpu.read(buffer.address(), &mut bytes)?;
        }
        let page = std::mem::take(&mut self.page);
        page.set(bytes).expect("a page is read once");
        self.used = 0;
        Ok(())
    }
}

impl Gpu {
    /// Notes the `bytes` that lie at `from` when the launches so far are done; `of` makes of them what they mean.
    ///
    /// # Errors
    /// The driver's.
    pub fn note<T: 'static>(
        self: &Arc<Gpu>,
        from: u64,
        bytes: usize,
        of: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> anyhow::Result<Later<T>> {
        let mut open = self.ledger().0.lock().unwrap_or_else(|e| e.into_inner());
        // Notes begin at words of eight bytes.
        let room = bytes.next_multiple_of(8);
        let have = open.buffer.as_ref().map_or(0, Buffer::bytes);
        if open.used + room > have {
            open.read(self)?;
            if room > have {
                open.buffer = Some(self.buffer(room.max(BYTES))?);
            }
        }
        let at = open.used;
        let ledger = open.buffer.as_ref().expect("made above").address();
        self.copy(ledger + at as u64, from, bytes)?;
        open.used += room;
        let (gpu, page) = (Arc::clone(self), Arc::clone(&open.page));
        Ok(Later::asked(move || {
            if page.get().is_none() {
                let mut open = gpu.ledger().0.lock().unwrap_or_else(|e| e.into_inner());
                // Another thread may have read it meanwhile.
                if page.get().is_none() {
                    open.read(&gpu)?;
                }
            }
            let read = page.get().expect("read above");
            Ok(of(&read[at..at + bytes]))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::for_tests;

    #[test]
    fn notes_are_read_together_and_keep_what_was_there_when_they_were_made() {
        let Some(gpu) = for_tests() else { return };
        let buffer = gpu.buffer(8).unwrap();
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let note = |value: u32| {
            gpu.write(buffer.address(), &[value]).unwrap();
            gpu.note(buffer.address(), 4, number).unwrap()
        };
        note(0).value().unwrap();
        let before = gpu.waits_and_captures().0;
        let notes: Vec<_> = (1..5).map(note).collect();
        assert_eq!(gpu.waits_and_captures().0, before);
        for (i, note) in notes.into_iter().enumerate() {
            assert_eq!(note.value().unwrap(), i as u32 + 1);
            assert_eq!(gpu.waits_and_captures().0, before + 1);
        }
        // A full ledger is read, and so is a note that is larger than all before it.
        let many: Vec<_> = (0..BYTES as u32 / 8 + 3).map(note).collect();
        assert_eq!(gpu.waits_and_captures().0, before + 2);
        let large = gpu.buffer(BYTES + 8).unwrap();
        gpu.write(large.address() + BYTES as u64, &[9u32]).unwrap();
        let last = move |bytes: &[u8]| number(&bytes[BYTES..BYTES + 4]);
        let last = gpu.note(large.address(), BYTES + 8, last).unwrap();
        for (i, note) in many.into_iter().enumerate() {
            assert_eq!(note.value().unwrap(), i as u32);
        }
        assert_eq!(last.value().unwrap(), 9);
    }
}
