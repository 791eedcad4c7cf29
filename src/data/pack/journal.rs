//! How far an import has come, beside the unfinished pack: a line of JSON for each chunk that is on disk.
//!
//! The first line says of which files the pack is made. A line is written when its chunk has been flushed, so the last
//! whole line is true whatever ended the import.

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::data::folder::{Item, Listing};

/// Longest line that is read: one with many bad images.
const LONGEST: u64 = 1 << 24;

/// What the pack is made of. Another listing, or a file that was written to, makes another source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Of names, lengths, times and labels of all files.
    files: u64,
    images: usize,
    size: [usize; 2],
}

impl Source {
    /// That of `listing`, whose files are `items`.
    ///
    /// # Errors
    /// A file that is gone.
    pub fn of(listing: &Listing, items: &[&Item]) -> Result<Source> {
        let mut hasher = DefaultHasher::new();
        listing.classes.hash(&mut hasher);
        listing.train.len().hash(&mut hasher);
        for item in items {
            let name = || format!("{}: expected a readable file", item.path.display());
            let about = std::fs::metadata(&item.path).with_context(name)?;
            let modified = about.modified().ok();
            let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            (&item.path, item.label, about.len(), modified).hash(&mut hasher);
        }
        Ok(Source {
            files: hasher.finish(),
            images: items.len(),
            size: listing.size,
        })
    }
}

/// What is on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Files that were looked at.
    pub seen: usize,
    /// Images that were written, of which `train` to train on.
    pub written: usize,
    /// See `written`.
    pub train: usize,
    /// Checksum of the pixels written.
    pub checksum: u32,
    /// Places of the files that could not be decoded in this chunk, and why.
    pub bad: Vec<(usize, String)>,
}

/// A journal that is written to.
pub struct Journal(File);

impl Journal {
    /// Opens the journal at `path`: as it stands, if it is of `source`, else anew. Returns what is on disk, with all that was
    /// bad so far.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(path: &Path, source: &Source) -> std::io::Result<(Journal, Done)> {
        if let Some((done, bytes)) = read(path, source)? {
            let file = OpenOptions::new().append(true).open(path)?;
            // A line that was cut off goes.
            file.set_len(bytes)?;
            return Ok((Journal(file), done));
        }
        let mut journal = Journal(File::create(path)?);
        journal.line(source)?;
        Ok((journal, Done::default()))
    }

    /// Adds what is on disk now; `bad` of this chunk alone.
    ///
    /// # Errors
    /// A failed write.
    pub fn add(&mut self, done: &Done) -> std::io::Result<()> {
        self.line(done)
    }

    fn line(&mut self, line: &impl Serialize) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.0.write_all(&text)
    }
}

/// What the journal at `path` says, and how many of its bytes do; none, if it is not there or of another source.
fn read(path: &Path, source: &Source) -> std::io::Result<Option<(Done, u64)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file);
    let mut text = String::new();
    let mut next = |text: &mut String| -> std::io::Result<bool> {
        text.clear();
        let read = std::io::Read::take(&mut reader, LONGEST).read_line(text);
        // What is no text was not written here.
        Ok(read.is_ok() && text.ends_with('\n'))
    };
    if !next(&mut text)? || serde_json::from_str::<Source>(&text).ok().as_ref() != Some(source) {
        return Ok(None);
    }
    let (mut bytes, mut done) = (text.len() as u64, Done::default());
    while next(&mut text)? {
        let Ok(mut line) = serde_json::from_str::<Done>(&text) else {
            break;
        };
        let plausible = line.train <= line.written
            && line.written + done.bad.len() + line.bad.len() == line.seen
            && (done.seen..=source.images).contains(&line.seen)
            && line.bad.iter().all(|(i, _)| *i < source.images);
        if !plausible {
            break;
        }
        bytes += text.len() as u64;
        line.bad.splice(0..0, std::mem::take(&mut done.bad));
        done = line;
    }
    Ok(Some((done, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(files: u64) -> Source {
        Source {
            files,
            images: 10,
            size: [2, 3],
        }
    }

    fn done(seen: usize, bad: &[usize]) -> Done {
        Done {
            seen,
            written: seen - bad.len(),
            train: 1,
            checksum: 7,
            bad: bad.iter().map(|&i| (i, "x".into())).collect(),
        }
    }

    #[test]
    fn the_last_whole_line_of_the_same_source_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, found) = Journal::open(&path, &source(1)).unwrap();
        assert_eq!(found, Done::default());
        journal.add(&done(4, &[2])).unwrap();
        let second = Done {
            seen: 7,
            written: 5,
            ..done(7, &[5])
        };
        journal.add(&second).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let all = Done {
            bad: vec![(2, "x".into()), (5, "x".into())],
            ..second
        };
        assert_eq!(Journal::open(&path, &source(1)).unwrap().1, all);
        // Cut off anywhere, and with junk behind.
        for cut in 0..whole.len() {
            let text = [&whole[..cut], b"{\"seen\":99"].concat();
            std::fs::write(&path, text).unwrap();
            let (_, found) = Journal::open(&path, &source(1)).unwrap();
            assert!(
                found == Done::default() || found == done(4, &[2]),
                "{cut}: {found:?}"
            );
            let left = std::fs::read(&path).unwrap();
            assert!(left.ends_with(b"\n"));
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(Journal::open(&path, &source(2)).unwrap().1, Done::default());
    }
}
