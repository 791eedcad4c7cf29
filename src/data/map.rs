//! Memory-mapped, read-only files.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use memmap2::Mmap;

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
