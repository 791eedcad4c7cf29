//! TensorBoard event files: scalars over rounds.
//!
//! Written here because the crates that do it are no longer kept (`tensorboard-rs` last moved with
//! `image` 0.23 and `protobuf` 2; `tfrecord` asks for forty dependencies), and a scalar needs little:
//! a record is `length u64 | masked CRC-32C of the length | payload | masked CRC-32C of the payload`,
//! all little-endian, and the payload a protobuf `Event` of a few fields. Field numbers are those of
//! TensorFlow's `event.proto` and `summary.proto`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// What the first event of a file must say for TensorBoard to read the rest.
const FILE_VERSION: &[u8] = b"brain.Event:2";

/// An event file open at its end.
pub struct Events {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Events {
    /// Opens an event file at its end; a new one gets its version record.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or written.
    pub fn open(path: &Path) -> Result<Events> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("{}: cannot be opened for appending", path.display()))?;
        let length = file.metadata()?.len();
        let mut events = Events {
            path: path.to_path_buf(),
            file,
            length,
        };
        if length == 0 {
            let mut event = wall_time();
            bytes_field(&mut event, 3, FILE_VERSION);
            events.append(&record(&event))?;
        }
        Ok(events)
    }

    /// Appends the scalars of one step, as one event.
    ///
    /// # Errors
    ///
    /// The disk is full or the file cannot be written.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend_from_slice(&(*value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        let mut event = wall_time();
        event.push(2 << 3);
        varint(&mut event, step);
        bytes_field(&mut event, 5, &summary);
        self.append(&record(&event))
    }

    /// Makes what was appended durable, and returns the length in bytes.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn sync(&mut self) -> Result<u64> {
        self.file
            .sync_data()
            .with_context(|| format!("{}: cannot be synced to disk", self.path.display()))?;
        Ok(self.length)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("{}: cannot be appended to", self.path.display()))?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// The start of an event: `wall_time`, a double of seconds since 1970 in field 1.
fn wall_time() -> Vec<u8> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |t| t.as_secs_f64());
    let mut event = vec![1 << 3 | 1];
    event.extend_from_slice(&seconds.to_le_bytes());
    event
}

/// A length-delimited protobuf field.
fn bytes_field(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// A protobuf varint: seven bits a byte, lowest first, the top bit set on all but the last.
fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(payload);
    record.extend_from_slice(&masked_crc(payload).to_le_bytes());
    record
}

/// CRC-32C, rotated and offset as TFRecord does so that a CRC of data with CRCs in it stays sound.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_published_check_string_is_the_published_value() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_file_is_a_chain_of_records_whose_lengths_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.out.tfevents.1.ndarts");
        let mut events = Events::open(&path).unwrap();
        events
            .scalars(300, &[("loss/train", 0.5), ("loss/val", 0.75)])
            .unwrap();
        let length = events.sync().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, length);
        let (mut at, mut records) = (0, 0);
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let payload = &bytes[at + 12..at + 12 + length];
            let crc = u32::from_le_bytes(bytes[at + 12 + length..][..4].try_into().unwrap());
            assert_eq!(crc, masked_crc(payload));
            at += 16 + length;
            records += 1;
        }
        assert_eq!((at, records), (bytes.len(), 2));
        assert_eq!(Events::open(&path).unwrap().length, length);
    }
}
