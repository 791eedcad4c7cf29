//! Writing a pack from a folder of images.
//!
//! Images are decoded a chunk at a time and written as they come, so that the size of a data set is
//! bounded by the disk and not by memory. What is unfinished lies beside the pack in `OUT.part`, and how far it has come
//! in `OUT.part.journal` ([`super::journal`]): an import that was interrupted goes on there.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempPath;

use super::header::{CHECKED_FROM, CHECKSUM_AT, Header};
use super::journal::{Done, Journal, Source};
use crate::data::folder::{self, Item, Listing};
use crate::data::{Summary, check_image_size, info};

/// Decoded bytes held at once.
const CHUNK_BYTES: usize = 64 << 20;
/// Bad images that an error lists; of more it says how many.
const MOST_LISTED: usize = 20;

/// How to import.
#[derive(Clone, Copy, Default)]
pub struct ImportOptions<'a> {
    /// Replace the pack when there is one of that name.
    pub overwrite: bool,
    /// Leave out images that cannot be decoded.
    pub skip_bad: bool,
    /// Called with the images done and the images in all, at the start and after each chunk.
    pub progress: Option<&'a dyn Fn(u64, u64)>,
}

/// What an import made.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The pack.
    pub summary: Summary,
    /// Images that were left out, and why.
    pub skipped: Vec<String>,
    /// Images that an interrupted import had done.
    pub resumed: usize,
}

/// Writes the images of `folder` (`train/` and `test/`, a folder a class) to the pack `out`, or goes on where an
/// import of the same files was interrupted.
///
/// `image_size` 0 asks that all images have one size; any other scales the central square of each image.
/// The pack appears under its name only when it is whole and on disk.
///
/// # Errors
/// Those of a `folder:` data set, but all images that cannot be decoded are looked for and listed; `out` exists and is not
/// to be overwritten; another import of it runs; a failed write. Nothing that was on disk is changed then.
pub fn import(
    folder: &Path,
    out: &Path,
    image_size: usize,
    options: &ImportOptions<'_>,
) -> Result<Imported> {
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
    let [part, journal] = [".part", ".part.journal"].map(|ending| beside(out, ending));
    let (done, resumed) = write(&listing, (&part, &journal), options, &failed)?;
    if !done.bad.is_empty() && !options.skip_bad {
        bail!(refusal(&done.bad, listing.train.len() + listing.test.len()));
    }
    // Dropped on an error, it would take the file with it.
    let whole = TempPath::try_from_path(&part).with_context(failed)?;
    let kept = if options.overwrite {
        whole.persist(out)
    } else {
        whole.persist_noclobber(out)
    };
    if let Err(error) = kept {
        error
            .path
            .keep()
            .map_err(|e| e.error)
            .with_context(failed)?;
        return Err(error.error).with_context(failed);
    }
    std::fs::remove_file(&journal).with_context(failed)?;
    #[cfg(unix)]
    File::open(&parent)
        .and_then(|parent| parent.sync_all())
        .with_context(|| format!("{}: the folder cannot be flushed to disk", parent.display()))?;
    Ok(Imported {
        summary: info(&format!("pack:{}", out.display()), 0)?,
        skipped: done.bad.into_iter().map(|(_, why)| why).collect(),
        resumed,
    })
}

/// The path with `ending` behind the file's name.
fn beside(out: &Path, ending: &str) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    out.with_file_name(name)
}

fn refusal(bad: &[(usize, String)], images: usize) -> String {
    let listed = bad.iter().take(MOST_LISTED);
    let listed: Vec<String> = listed.map(|(_, why)| format!("  {why}")).collect();
    let more = match bad.len().saturating_sub(MOST_LISTED) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    format!(
        "expected {images} JPEG or PNG images, found {} that cannot be decoded; repair them, or leave them out with \
         --skip-bad:\n{}{more}",
        bad.len(),
        listed.join("\n")
    )
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

/// Writes the pack to `part`, from where an earlier import ended; how many images that had done, and what is done.
fn write(
    listing: &Listing,
    (part, journal): (&Path, &Path),
    options: &ImportOptions<'_>,
    failed: &dyn Fn() -> String,
) -> Result<(Done, usize)> {
    let mut header = Header {
        checksum: 0,
        train: 0,
        test: 0,
        size: listing.size,
        classes: listing.classes.clone(),
    };
    let items: Vec<&Item> = listing.train.iter().chain(&listing.test).collect();
    let (first, image_bytes) = (header.pixels_at() as u64, header.image_bytes());
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(part);
    let mut file = opened.with_context(failed)?;
    if file.try_lock().is_err() {
        bail!(
            "{}: expected one import at a time, found another that writes it; wait for it",
            part.display()
        );
    }
    let source = Source::of(listing, &items)?;
    let (mut journal, mut done) = Journal::open(journal, &source).with_context(failed)?;
    let written = |done: &Done| (done.written * image_bytes) as u64;
    if done.seen > 0 && file.metadata().with_context(failed)?.len() < first + written(&done) {
        bail!(
            "{}: expected {} bytes, as its journal says, found fewer; remove it and its journal, and import again",
            part.display(),
            first + written(&done)
        );
    }
    let resumed = done.seen;
    let mut hasher = crc32fast::Hasher::new_with_initial_len(done.checksum, written(&done));
    file.set_len(first + written(&done)).with_context(failed)?;
    file.seek(SeekFrom::End(0)).with_context(failed)?;
    let tell = |done: &Done| {
        if let Some(progress) = options.progress {
            progress(done.seen as u64, items.len() as u64);
        }
    };
    tell(&done);
    let per_chunk = (CHUNK_BYTES / image_bytes).max(1);
    let mut pixels = vec![0; per_chunk.min(items.len()) * image_bytes];
    for chunk in items[done.seen..].chunks(per_chunk) {
        let pixels = &mut pixels[..chunk.len() * image_bytes];
        let bad = folder::decode_each(chunk, listing, pixels);
        let good = close_up(pixels, image_bytes, &bad);
        hasher.update(good);
        file.write_all(good).with_context(failed)?;
        file.sync_data().with_context(failed)?;
        let of_train = |seen: usize| seen.min(listing.train.len());
        let bad_of_train = bad
            .iter()
            .filter(|(i, _)| done.seen + i < listing.train.len());
        let train = of_train(done.seen + chunk.len()) - of_train(done.seen) - bad_of_train.count();
        let bad = bad.into_iter();
        let step = Done {
            seen: done.seen + chunk.len(),
            written: done.written + good.len() / image_bytes,
            train: done.train + train,
            checksum: hasher.clone().finalize(),
            bad: bad
                .map(|(i, why)| (done.seen + i, format!("{why:#}")))
                .collect(),
        };
        journal.add(&step).with_context(failed)?;
        let before = std::mem::take(&mut done.bad);
        done = step;
        done.bad.splice(0..0, before);
        tell(&done);
    }
    (header.train, header.test) = (done.train, done.written - done.train);
    ensure!(
        header.train > 0 && header.test > 0 || !options.skip_bad,
        "expected images to train and to test with, found {} and {} that can be decoded",
        header.train,
        header.test
    );
    let mut next_bad = done.bad.iter().map(|(i, _)| *i).peekable();
    let good = items.iter().enumerate();
    let good = good.filter(|(i, _)| next_bad.next_if_eq(i).is_none());
    let labels: Vec<u8> = good
        .flat_map(|(_, item)| item.label.to_le_bytes())
        .collect();
    file.write_all(&labels).with_context(failed)?;
    hasher.update(&labels);
    let head = header.encode();
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&head[CHECKED_FROM..]);
    checksum.combine(&hasher);
    file.seek(SeekFrom::Start(0)).with_context(failed)?;
    file.write_all(&head).with_context(failed)?;
    file.seek(SeekFrom::Start(CHECKSUM_AT))
        .with_context(failed)?;
    file.write_all(&checksum.finalize().to_le_bytes())
        .with_context(failed)?;
    file.sync_all().with_context(failed)?;
    Ok((done, resumed))
}

/// Moves the images that are not `bad` (places in order) together, and returns them.
fn close_up<'a>(
    pixels: &'a mut [u8],
    image_bytes: usize,
    bad: &[(usize, anyhow::Error)],
) -> &'a [u8] {
    let mut next_bad = bad.iter().map(|(i, _)| *i).peekable();
    let mut kept = 0;
    for i in 0..pixels.len() / image_bytes {
        if next_bad.next_if_eq(&i).is_some() {
            continue;
        }
        if kept != i {
            pixels.copy_within(i * image_bytes..(i + 1) * image_bytes, kept * image_bytes);
        }
        kept += 1;
    }
    &pixels[..kept * image_bytes]
}
