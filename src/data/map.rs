//! Memory-mapped, read-only files.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use memmap2::{Mmap, UncheckedAdvice};

/// Maps the regular file at `path`.
///
/// # Errors
/// No such file, no permission, or not a regular file.
pub fn map(path: &Path) -> Result<Mmap> {
    let name = path.display();
    // A FIFO would block in `open`, so ask before opening.
    let metadata = std::fs::metadata(path)
        .with_context(|| format!("{name}: expected a readable file; check the path"))?;
    ensure!(
        metadata.is_file(),
        "{name}: expected a file, found something else; check the path"
    );
    let file = File::open(path)
        .with_context(|| format!("{name}: cannot be opened; check its permissions"))?;
    // SAFETY: the mapping is read-only and private to this process, and is only ever read as bytes, so
    // any content is valid. The one hazard is another program that changes or truncates the file while
    // it is mapped; data files are written once (a pack by rename over the old name, which leaves an
    // existing mapping whole), and the documentation asks users not to edit them in place.
    unsafe { Mmap::map(&file) }.with_context(|| format!("{name}: cannot be mapped into memory"))
}

/// Bytes of a [`Mapped`] file that may be resident for having been read.
const MOST_RESIDENT: usize = 256 << 20;

/// A file that is read piece by piece and may be larger than memory.
pub struct Mapped {
    map: Mmap,
    /// Bytes read since the pages were let go.
    read: AtomicUsize,
}

impl Mapped {
    /// Of a mapped file.
    pub fn new(map: Mmap) -> Mapped {
        Mapped {
            map,
            read: AtomicUsize::new(0),
        }
    }

    /// Bytes `range`. Now and then the pages that were read are let go, so that no more of the file stays resident than
    /// [`MOST_RESIDENT`] or so.
    pub fn read(&self, range: Range<usize>) -> &[u8] {
        if self.read.fetch_add(range.len(), Ordering::Relaxed) > MOST_RESIDENT {
            self.read.store(0, Ordering::Relaxed);
            // SAFETY: the mapping is of a file and read-only: pages that are let go come back from the file, with the
            // same content, when they are next looked at, also by somebody who is looking now. Where the system
            // refuses, they only stay.
            let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
        &self.map[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:"));
        let kb = line.and_then(|line| line.split_whitespace().nth(1));
        kb.unwrap().parse::<usize>().unwrap() << 10
    }

    #[test]
    fn what_was_read_of_a_large_file_does_not_stay_resident_and_reads_the_same_again() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let block = 1 << 20;
        let count = 2 * MOST_RESIDENT / block + 100;
        for number in 0..count {
            file.write_all(&vec![number as u8; block]).unwrap();
        }
        let mapped = Mapped::new(map(file.path()).unwrap());
        let before = resident();
        for number in (0..count).chain(0..count) {
            let bytes = mapped.read(number * block..(number + 1) * block);
            assert!(bytes.iter().all(|&byte| byte == number as u8));
            let grown = resident().saturating_sub(before);
            assert!(grown < MOST_RESIDENT + 64 * block, "{number}: {grown}");
        }
    }
}
