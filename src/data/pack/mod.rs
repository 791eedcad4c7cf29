//! Packs: a data set in one memory-mapped file, written by `ndarts data import`.
//!
//! After the header (its table is in `pack/header.rs`) stand the pixels \[N, H, W, 3\], training part, then test part, and
//! the labels (u32, little-endian) in the same order. Opening a pack checks every header field against the
//! file's length, then the checksum over the whole file, then every label; after that a read cannot fail.

mod header;
mod import;
mod journal;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};

use self::header::Header;
pub use self::import::{ImportOptions, Imported, import};
use super::map::{Mapped, map};
use super::{Images, Parts};

/// Opens the pack at `path`.
pub(super) fn open(path: &Path) -> Result<Parts> {
    let name = path.display();
    let bytes = map(path)?;
    let header = Header::decode(&bytes).map_err(|reason| anyhow!("{name}: {reason}"))?;
    let found = checksum(path)?;
    ensure!(
        found == header.checksum,
        "{name}: expected checksum {:08x}, found {found:08x}; the file is damaged, import it again",
        header.checksum
    );
    let bytes = Arc::new(Mapped::new(bytes));
    let part = |first: usize, count: usize| Part {
        bytes: bytes.clone(),
        size: header.size,
        labels_at: header.labels_at() + 4 * first,
        pixels_at: header.pixels_at() + header.image_bytes() * first,
        count,
    };
    let (train, test) = (part(0, header.train), part(header.train, header.test));
    for (part, images) in [("training", &train), ("test", &test)] {
        let wrong = (0..images.count).find(|&i| images.label(i) as usize >= header.classes.len());
        if let Some(i) = wrong {
            return Err(anyhow!(
                "{name}: {part} image {i}: expected a label of 0 to {}, found {}; import it again",
                header.classes.len() - 1,
                images.label(i)
            ));
        }
    }
    Ok(Parts {
        name: path
            .file_stem()
            .map_or("pack".into(), |stem| stem.to_string_lossy().into_owned()),
        classes: header.classes,
        train: Arc::new(train) as Arc<dyn Images>,
        test: Arc::new(test),
    })
}

/// The checksum of the file, read piece by piece: through the mapping all of it would become resident.
fn checksum(path: &Path) -> Result<u32> {
    let unreadable = || format!("{}: the file cannot be read", path.display());
    let mut file = File::open(path).with_context(unreadable)?;
    file.seek(SeekFrom::Start(header::CHECKED_FROM as u64))
        .with_context(unreadable)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).with_context(unreadable)? {
            0 => return Ok(hasher.finalize()),
            bytes => hasher.update(&piece[..bytes]),
        }
    }
}

/// One part of a mapped pack.
struct Part {
    bytes: Arc<Mapped>,
    size: [usize; 2],
    labels_at: usize,
    pixels_at: usize,
    count: usize,
}

impl Images for Part {
    fn len(&self) -> usize {
        self.count
    }

    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn label(&self, i: usize) -> u32 {
        assert!(i < self.count, "image {i} of {}", self.count);
        let at = self.labels_at + 4 * i;
        let bytes = self.bytes.read(at..at + 4);
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn pixels(&self, i: usize, out: &mut [u8]) {
        assert!(i < self.count, "image {i} of {}", self.count);
        let image = self.size[0] * self.size[1] * 3;
        let first = self.pixels_at + i * image;
        out.copy_from_slice(self.bytes.read(first..first + image));
    }
}
