//! Writing a pack from a folder of images.
//!
//! Images are decoded a chunk at a time and written as they come, so that the size of a data set is
//! bounded by the disk and not by memory.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;

use super::header::{CHECKED_FROM, CHECKSUM_AT, Header};
use crate::data::folder::{self, Item, Listing};
use crate::data::{Summary, check_image_size, info};

/// Decoded bytes held at once.
const CHUNK_BYTES: usize = 64 << 20;

/// How to import.
#[derive(Clone, Copy, Default)]
pub struct ImportOptions<'a> {
    /// Replace the pack when there is one of that name.
    pub overwrite: bool,
    /// Called with the images written and the images in all, after each chunk.
    pub progress: Option<&'a dyn Fn(u64, u64)>,
}

/// Writes the images of `folder` (`train/` and `test/`, a folder a class) to the pack `out`.
///
/// `image_size` 0 asks that all images have one size; any other scales the central square of each image.
/// The pack appears under its name only when it is whole and on disk.
///
/// # Errors
/// Those of a `folder:` data set; `out` exists and is not to be overwritten; a failed write. Nothing that
/// was on disk is changed then.
pub fn import(
    folder: &Path,
    out: &Path,
    image_size: usize,
    options: &ImportOptions<'_>,
) -> Result<Summary> {
    check_image_size(image_size)?;
    check_target(out, options.overwrite)?;
    let listing = folder::list(folder, image_size)?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let failed = || {
        format!(
            "{}: the pack cannot be written, nothing was changed; check space and permissions",
            out.display()
        )
    };
    let mut file = temporary_in(&parent).with_context(failed)?;
    write(&listing, file.as_file_mut(), options, &failed)?;
    file.as_file().sync_all().with_context(failed)?;
    if options.overwrite {
        file.persist(out)
            .map_err(|e| e.error)
            .with_context(failed)?;
    } else {
        file.persist_noclobber(out)
            .map_err(|e| e.error)
            .with_context(failed)?;
    }
    #[cfg(unix)]
    File::open(&parent)
        .and_then(|parent| parent.sync_all())
        .with_context(|| format!("{}: the folder cannot be flushed to disk", parent.display()))?;
    info(&format!("pack:{}", out.display()), 0)
}

fn check_target(out: &Path, overwrite: bool) -> Result<()> {
    let name = out.display();
    ensure!(
        out.file_name().is_some() && !out.is_dir(),
        "{name}: expected the name of a file to write, found a folder; add a file name such as data.pack"
    );
    if out.exists() && !overwrite {
        bail!(
            "{name}: expected a name that is free, found a file; choose another name or remove the file"
        );
    }
    Ok(())
}

/// A temporary file that gets the permissions of an ordinary new file.
fn temporary_in(parent: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".ndarts-import-");
    #[cfg(unix)]
    let builder = {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666))
    };
    builder.tempfile_in(parent)
}

fn write(
    listing: &Listing,
    file: &mut File,
    options: &ImportOptions<'_>,
    failed: &dyn Fn() -> String,
) -> Result<()> {
    let header = Header {
        checksum: 0,
        train: listing.train.len(),
        test: listing.test.len(),
        size: listing.size,
        classes: listing.classes.clone(),
    };
    let items: Vec<&Item> = listing.train.iter().chain(&listing.test).collect();
    let mut output = Checked {
        file: BufWriter::new(file),
        hasher: crc32fast::Hasher::new(),
    };
    let head = header.encode();
    output
        .file
        .write_all(&head[..CHECKED_FROM])
        .with_context(failed)?;
    output
        .write_all(&head[CHECKED_FROM..])
        .with_context(failed)?;
    for item in &items {
        output
            .write_all(&item.label.to_le_bytes())
            .with_context(failed)?;
    }
    let image_bytes = header.image_bytes();
    let per_chunk = (CHUNK_BYTES / image_bytes).max(1);
    let mut pixels = vec![0; per_chunk.min(items.len()) * image_bytes];
    for (number, chunk) in items.chunks(per_chunk).enumerate() {
        let pixels = &mut pixels[..chunk.len() * image_bytes];
        folder::decode(chunk, listing, pixels)?;
        output.write_all(pixels).with_context(failed)?;
        if let Some(progress) = options.progress {
            progress(
                (number * per_chunk + chunk.len()) as u64,
                items.len() as u64,
            );
        }
    }
    let checksum = output.hasher.finalize();
    let mut file = output.file;
    file.seek(SeekFrom::Start(CHECKSUM_AT))
        .with_context(failed)?;
    file.write_all(&checksum.to_le_bytes())
        .with_context(failed)?;
    file.flush().with_context(failed)
}

/// Writes and keeps the checksum of what was written.
struct Checked<'a> {
    file: BufWriter<&'a mut File>,
    hasher: crc32fast::Hasher,
}

impl Checked<'_> {
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }
}
