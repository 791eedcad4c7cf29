//! Writes that are there whole or not at all: a temporary file in the same folder, fsync, rename,
//! fsync of the folder. A process killed at any moment leaves the old file or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What every temporary file here starts with; a kill can leave one, and [`sweep`] removes it.
const TEMPORARY: &str = ".ndarts-tmp-";

/// Replaces `path` by `bytes`, durably.
///
/// # Errors
///
/// The folder cannot be written or the disk is full; the message names `path`, and what was there
/// before is still there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |file| file.write_all(bytes))
}

/// Shortens `path` to its first `length` bytes, durably.
///
/// # Errors
///
/// As [`write`]; also a file that is shorter than `length`.
pub fn truncate(path: &Path, length: u64) -> Result<()> {
    let mut source =
        File::open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
    let present = source.metadata()?.len();
    ensure!(
        present >= length,
        "{}: expected at least the {length} bytes that the checkpoint counted, found {present}; \
         the file was changed after the run wrote it",
        path.display()
    );
    if present == length {
        return Ok(());
    }
    replace(path, |file| {
        io::copy(&mut io::Read::take(&mut source, length), file).map(|_| ())
    })
}

/// Removes the temporary files that a killed process left in `folder`.
///
/// # Errors
///
/// The folder cannot be listed or a file not be removed.
pub fn sweep(folder: &Path) -> Result<()> {
    let listing =
        fs::read_dir(folder).with_context(|| format!("{}: cannot be listed", folder.display()))?;
    for entry in listing {
        let entry = entry?;
        if is_temporary(&entry.file_name()) {
            fs::remove_file(entry.path())
                .with_context(|| format!("{}: cannot be removed", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Whether a file of this name is one of ours that a kill left behind.
pub fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with(TEMPORARY)
}

/// Makes the entries of `folder` durable: a rename is on disk only once its folder is.
///
/// # Errors
///
/// The folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("{}: cannot be synced to disk", folder.display()))
}

/// The folder that holds `path`; `.` for a bare file name.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn replace(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let folder = folder_of(path);
    let place = || format!("{}: cannot be written; nothing was changed", path.display());
    let mut temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(permissions())
        .tempfile_in(&folder)
        .with_context(place)?;
    fill(temporary.as_file_mut()).with_context(place)?;
    temporary.as_file().sync_all().with_context(place)?;
    temporary
        .persist(path)
        .map_err(|failure| failure.error)
        .with_context(place)?;
    sync_folder(&folder)
}

/// `tempfile` makes private files; a run directory is meant to be read like any other output.
fn permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"long old content").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn truncation_keeps_the_first_bytes_and_refuses_to_lengthen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        write(&path, b"one\ntwo\nthr").unwrap();
        truncate(&path, 8).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        assert!(
            truncate(&path, 9)
                .unwrap_err()
                .to_string()
                .contains("found 8")
        );
    }

    #[test]
    fn a_sweep_removes_only_our_temporaries() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".ndarts-tmp-x"), b"").unwrap();
        fs::write(folder.path().join("kept"), b"").unwrap();
        sweep(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let message = format!(
            "{:#}",
            write(Path::new("/nonexistent-folder/x"), b"").unwrap_err()
        );
        assert!(
            message.starts_with("/nonexistent-folder/x: cannot be written"),
            "{message}"
        );
    }
}
