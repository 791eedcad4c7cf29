//! Packs: a data set in one memory-mapped file, written by `ndarts data import`.
//!
//! After the header (its table is in `pack/header.rs`) stand the labels (u32, little-endian; training part, then test part) and
//! the pixels in the same order, \[N, H, W, 3\]. Opening a pack checks every header field against the
//! file's length, then the checksum over the whole file, then every label; after that a read cannot fail.

mod header;
mod import;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use memmap2::Mmap;

use self::header::Header;
pub use self::import::{ImportOptions, import};
use super::map::map;
use super::{Images, Parts};

/// Opens the pack at `path`.
pub(super) fn open(path: &Path) -> Result<Parts> {
    let name = path.display();
    let bytes = map(path)?;
    let header = Header::decode(&bytes).map_err(|reason| anyhow!("{name}: {reason}"))?;
    let found = crc32fast::hash(&bytes[header::CHECKED_FROM..]);
    ensure!(
        found == header.checksum,
        "{name}: expected checksum {:08x}, found {found:08x}; the file is damaged, import it again",
        header.checksum
    );
    let bytes = Arc::new(bytes);
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

/// One part of a mapped pack.
struct Part {
    bytes: Arc<Mmap>,
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
        let bytes = &self.bytes[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn pixels(&self, i: usize, out: &mut [u8]) {
        assert!(i < self.count, "image {i} of {}", self.count);
        let image = self.size[0] * self.size[1] * 3;
        out.copy_from_slice(&self.bytes[self.pixels_at + i * image..][..image]);
    }
}
