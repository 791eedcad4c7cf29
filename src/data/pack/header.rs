//! The header of a pack. All numbers are little-endian.
//!
//! | byte | type | what |
//! |---|---|---|
//! | 0 | 8 bytes | magic `ndpack\r\n` (a text-mode transfer damages it visibly) |
//! | 8 | u32 | version, 2 |
//! | 12 | u32 | CRC-32 (IEEE) of every byte of the file from byte 16 |
//! | 16 | u64 | length of the file in bytes |
//! | 24 | u64 | training images |
//! | 32 | u64 | test images |
//! | 40 | u32 | height, pixels |
//! | 44 | u32 | width, pixels |
//! | 48 | u32 | classes |
//! | 52 | u32 | bytes of the class names |
//! | 56 | | class names: for each its length in bytes (u32) and its UTF-8 text |
//!
//! Pixels follow at once, and then the labels (u32), without padding: how many images there are need not be known
//! before the last is decoded.

use crate::data::{MAX_SIDE, grouped};

const MAGIC: [u8; 8] = *b"ndpack\r\n";
const VERSION: u32 = 2;
const FIXED: usize = 56;
/// The checksum covers the file from this byte on.
pub const CHECKED_FROM: usize = 16;
/// Where the checksum stands.
pub const CHECKSUM_AT: u64 = 12;

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// CRC-32 of the file from [`CHECKED_FROM`].
    pub checksum: u32,
    /// Training images.
    pub train: usize,
    /// Test images.
    pub test: usize,
    /// \[H, W\].
    pub size: [usize; 2],
    /// Class names.
    pub classes: Vec<String>,
}

impl Header {
    /// Bytes of one image.
    pub fn image_bytes(&self) -> usize {
        self.size[0] * self.size[1] * 3
    }

    /// Where the pixels begin.
    pub fn pixels_at(&self) -> usize {
        FIXED + self.names_bytes()
    }

    /// Where the labels begin.
    pub fn labels_at(&self) -> usize {
        self.pixels_at() + (self.train + self.test) * self.image_bytes()
    }

    fn names_bytes(&self) -> usize {
        self.classes.iter().map(|name| 4 + name.len()).sum()
    }

    fn file_bytes(&self) -> u64 {
        (self.labels_at() + 4 * (self.train + self.test)) as u64
    }

    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.pixels_at());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.checksum.to_le_bytes());
        for number in [self.file_bytes(), self.train as u64, self.test as u64] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [
            self.size[0],
            self.size[1],
            self.classes.len(),
            self.names_bytes(),
        ] {
            bytes.extend((number as u32).to_le_bytes());
        }
        for name in &self.classes {
            bytes.extend((name.len() as u32).to_le_bytes());
            bytes.extend(name.as_bytes());
        }
        bytes
    }

    /// Reads the header of the pack whose bytes are `file`, and checks each field against their number.
    ///
    /// # Errors
    /// A sentence without the file's name.
    pub fn decode(file: &[u8]) -> Result<Header, String> {
        const AGAIN: &str = "import it again with `ndarts data import`";
        let found = grouped(file.len() as u64);
        if !file.starts_with(&MAGIC) {
            return Err(format!(
                "expected a pack, found other content ({found} bytes); {AGAIN}"
            ));
        }
        if file.len() < FIXED {
            return Err(format!(
                "expected a header of {FIXED} bytes, found {found}; the file is cut off, {AGAIN}"
            ));
        }
        let u32_at = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&file[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(8) != VERSION {
            return Err(format!(
                "expected pack version {VERSION}, found {}; {AGAIN}",
                u32_at(8)
            ));
        }
        if u64_at(16) != file.len() as u64 {
            return Err(format!(
                "expected {} bytes, as its header says, found {found}; {AGAIN}",
                grouped(u64_at(16))
            ));
        }
        let between = |what: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(value)
            } else {
                Err(format!(
                    "header: expected {what} from {low} to {high}, found {value}; {AGAIN}"
                ))
            }
        };
        let train = between("training images", u64_at(24), 1, u64::from(u32::MAX))?;
        let test = between("test images", u64_at(32), 1, u64::from(u32::MAX))?;
        let height = between("a height", u64::from(u32_at(40)), 1, MAX_SIDE as u64)?;
        let width = between("a width", u64::from(u32_at(44)), 1, MAX_SIDE as u64)?;
        let names_bytes = u64::from(u32_at(52));
        // A name takes four bytes at least.
        let classes = between(
            "a number of classes",
            u64::from(u32_at(48)),
            2,
            (names_bytes / 4).max(2),
        )?;
        // Each factor is bounded above, so this sum fits u128 with room to spare.
        let expected = FIXED as u128
            + u128::from(names_bytes)
            + u128::from(train + test) * u128::from(4 + height * width * 3);
        if expected != file.len() as u128 {
            return Err(format!(
                "header: expected {expected} bytes for {train} + {test} images of {width}×{height} pixels and {names_bytes} bytes of class names, found {found}; {AGAIN}"
            ));
        }
        let names = &file[FIXED..FIXED + names_bytes as usize];
        Ok(Header {
            checksum: u32_at(12),
            train: train as usize,
            test: test as usize,
            size: [height as usize, width as usize],
            classes: decode_names(names, classes as usize)
                .ok_or_else(|| format!("header: expected {classes} class names in {names_bytes} bytes, found other content; {AGAIN}"))?,
        })
    }
}

/// `count` names that fill `bytes` exactly; `count` ≤ `bytes.len() / 4` was checked, or the first read fails.
fn decode_names(mut bytes: &[u8], count: usize) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for _ in 0..count {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        names.push(std::str::from_utf8(name).ok()?.to_owned());
        bytes = rest;
    }
    bytes.is_empty().then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            checksum: 7,
            train: 3,
            test: 2,
            size: [2, 5],
            classes: vec!["cat".into(), "dög".into()],
        }
    }

    fn file() -> Vec<u8> {
        let mut bytes = header().encode();
        bytes.resize(header().file_bytes() as usize, 0);
        bytes
    }

    #[test]
    fn a_header_decodes_to_what_was_encoded() {
        assert_eq!(Header::decode(&file()).unwrap(), header());
        assert_eq!(header().encode().len(), header().pixels_at());
    }

    #[test]
    fn every_lying_field_is_found() {
        // At each offset a value that contradicts the length of the file.
        for (at, value) in [
            (0, 0),
            (8, 1),
            (16, 1),
            (24, 9),
            (28, 255),
            (32, 0),
            (40, 3),
            (44, 0),
            (48, 1),
            (48, 200),
            (52, 99),
            (55, 255),
            (56, 200),
        ] {
            let mut bytes = file();
            bytes[at] = value;
            assert!(Header::decode(&bytes).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn a_cut_off_file_is_refused_at_every_length() {
        let bytes = file();
        assert!((0..bytes.len()).all(|length| Header::decode(&bytes[..length]).is_err()));
    }
}
