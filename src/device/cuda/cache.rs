//! Compiled kernels on disk, so that only the first run of a setting compiles.
//!
//! An entry's name is a hash of all that the image depends on (text, definitions, architecture, NVRTC's
//! version, options). The file repeats that as text, and carries a checksum: an entry that is torn,
//! mutated or of another program is compiled again and replaced. Entries are written to a temporary
//! file and renamed, so that runs side by side never see half of one. The folder is kept under
//! [`MOST_BYTES`] by dropping what was used longest ago.

use super::hash::fnv128;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes that all entries may take together.
pub const MOST_BYTES: u64 = 256 << 20;
/// Most bytes of one entry that are read.
const MOST_ENTRY: u64 = 64 << 20;
const MAGIC: &str = "ndarts kernel 1";

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    most_bytes: u64,
}

impl Cache {
    /// The user's: `NDARTS_CACHE`, else `ndarts` in `XDG_CACHE_HOME` or `~/.cache`. None where there is
    /// no such place.
    pub fn of_user() -> Option<Cache> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let folder = variable("NDARTS_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|x| x.join("ndarts")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/ndarts")))?;
        Some(Cache::at(&folder.join("kernels"), MOST_BYTES))
    }

    /// Entries in `folder`, at most `most_bytes` together.
    pub fn at(folder: &Path, most_bytes: u64) -> Cache {
        Cache {
            folder: folder.to_owned(),
            most_bytes,
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{:032x}", fnv128(key.as_bytes())))
    }

    /// The image stored for `key`, if there is one and it is whole.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let file = File::open(self.path(key)).ok()?;
        let mut bytes = Vec::new();
        (&file).take(MOST_ENTRY).read_to_end(&mut bytes).ok()?;
        let header = header(key);
        let body = bytes.strip_prefix(header.as_bytes())?;
        let (checksum, image) = body.split_first_chunk::<4>()?;
        if crc32c::crc32c(image) != u32::from_le_bytes(*checksum) {
            return None;
        }
        // Its age is the time since its last use. Where the time can't be set it only looks older.
        let _ = file.set_modified(SystemTime::now());
        Some(image.to_owned())
    }

    /// Stores `image` for `key`.
    ///
    /// # Errors
    /// A folder that cannot be written; nothing else depends on it.
    pub fn put(&self, key: &str, image: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(header(key).as_bytes())?;
        file.write_all(&crc32c::crc32c(image).to_le_bytes())?;
        file.write_all(image)?;
        file.persist(self.path(key)).map_err(|e| e.error)?;
        self.shrink()
    }

    /// Drops the entries used longest ago while all together are too large.
    fn shrink(&self) -> std::io::Result<()> {
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(&self.folder)?
            .flatten()
            .filter_map(|entry| {
                let data = entry.metadata().ok()?;
                Some((data.modified().ok()?, data.len(), entry.path()))
            })
            .collect();
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in entries {
            if total <= self.most_bytes {
                break;
            }
            // Another run may have dropped it already.
            let _ = fs::remove_file(path);
            total -= len;
        }
        Ok(())
    }
}

fn header(key: &str) -> String {
    format!("{MAGIC}\n{}\n{key}\n", key.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_and_a_mutated_or_torn_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path(), MOST_BYTES);
        assert_eq!(cache.get("a"), None);
        cache.put("a", b"image").unwrap();
        assert_eq!(cache.get("a").unwrap(), b"image");
        let path = cache.path("a");
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(&path, bytes).unwrap();
            assert_eq!(cache.get("a"), None, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(cache.get("a"), None, "cut at {at}");
        }
        cache.put("a", b"again").unwrap();
        assert_eq!(cache.get("a").unwrap(), b"again");
    }

    #[test]
    fn the_entry_used_longest_ago_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path(), 2500);
        let image = vec![7; 1000];
        let age = |key: &str, seconds| {
            let time = SystemTime::now() - std::time::Duration::from_secs(seconds);
            File::open(cache.path(key))
                .unwrap()
                .set_modified(time)
                .unwrap();
        };
        cache.put("a", &image).unwrap();
        cache.put("b", &image).unwrap();
        age("a", 50);
        age("b", 100);
        cache.put("c", &image).unwrap();
        assert!(cache.get("a").is_some() && cache.get("c").is_some());
        assert_eq!(cache.get("b"), None);
    }
}
