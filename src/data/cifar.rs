//! CIFAR-10 and CIFAR-100 in their official binary files, memory-mapped.
//!
//! A record is one label byte (CIFAR-100: a coarse, then a fine label; the fine one is used) and 3,072
//! pixel bytes: three planes of 32×32, red, green, blue (<https://www.cs.toronto.edu/~kriz/cifar.html>).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use memmap2::Mmap;

use super::map::map;
use super::{Images, Parts, grouped};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// What differs between the two data sets.
pub struct Layout {
    name: &'static str,
    /// The folder inside the official archive.
    archive_folder: &'static str,
    train_files: &'static [&'static str],
    train_records: usize,
    test_file: &'static str,
    test_records: usize,
    /// Label bytes of a record; the last one counts.
    label_bytes: usize,
    classes: usize,
    names_file: &'static str,
}

/// CIFAR-10: five training files and one test file of 10,000 records each.
pub const CIFAR10: Layout = Layout {
    name: "cifar10",
    archive_folder: "cifar-10-batches-bin",
    train_files: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    train_records: 10_000,
    test_file: "test_batch.bin",
    test_records: 10_000,
    label_bytes: 1,
    classes: 10,
    names_file: "batches.meta.txt",
};

/// CIFAR-100: 50,000 training and 10,000 test records.
pub const CIFAR100: Layout = Layout {
    name: "cifar100",
    archive_folder: "cifar-100-binary",
    train_files: &["train.bin"],
    train_records: 50_000,
    test_file: "test.bin",
    test_records: 10_000,
    label_bytes: 2,
    classes: 100,
    names_file: "fine_label_names.txt",
};

impl Layout {
    fn record_bytes(&self) -> usize {
        self.label_bytes + 3 * PLANE
    }
}

/// Opens the files in `dir`, or in the official archive's folder inside it.
pub fn open(layout: &Layout, dir: &Path) -> Result<Parts> {
    ensure!(
        dir.is_dir(),
        "{}:{}: expected a folder with the official binary files, found none; check the path",
        layout.name,
        dir.display()
    );
    let inner = dir.join(layout.archive_folder);
    let dir = if !dir.join(layout.train_files[0]).exists() && inner.is_dir() {
        inner
    } else {
        dir.to_path_buf()
    };
    let part = |files: &[&str], records| -> Result<Arc<dyn Images>> {
        let files = files
            .iter()
            .map(|file| open_file(layout, &dir.join(file), records))
            .collect::<Result<Vec<Mmap>>>()?;
        Ok(Arc::new(Cifar {
            files,
            records,
            label_bytes: layout.label_bytes,
        }))
    };
    Ok(Parts {
        name: layout.name.into(),
        train: part(layout.train_files, layout.train_records)?,
        test: part(&[layout.test_file], layout.test_records)?,
        classes: class_names(layout, &dir.join(layout.names_file))?,
    })
}

/// Maps one file and checks its length and every label in it.
fn open_file(layout: &Layout, path: &Path, records: usize) -> Result<Mmap> {
    let name = path.display();
    let expected = records * layout.record_bytes();
    let remedy = "unpack the official binary archive again";
    ensure!(
        path.exists(),
        "{name}: expected a file of {} bytes, found none; {remedy}",
        grouped(expected as u64)
    );
    let bytes = map(path)?;
    ensure!(
        bytes.len() == expected,
        "{name}: expected {} bytes ({} records of {}), found {}; {remedy}",
        grouped(expected as u64),
        grouped(records as u64),
        grouped(layout.record_bytes() as u64),
        grouped(bytes.len() as u64)
    );
    for (number, record) in bytes.chunks_exact(layout.record_bytes()).enumerate() {
        let label = record[layout.label_bytes - 1];
        ensure!(
            usize::from(label) < layout.classes,
            "{name}: record {number}: expected a label of 0 to {}, found {label}; {remedy}",
            layout.classes - 1
        );
    }
    Ok(bytes)
}

/// The names file's lines, or numbers when there is no such file.
fn class_names(layout: &Layout, path: &Path) -> Result<Vec<String>> {
    if !path.exists() {
        return Ok((0..layout.classes).map(|class| class.to_string()).collect());
    }
    let name = path.display();
    let bytes = map(path)?;
    let text = std::str::from_utf8(&bytes).with_context(|| {
        format!("{name}: expected text in UTF-8; remove the file to number the classes")
    })?;
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    ensure!(
        lines().count() == layout.classes,
        "{name}: expected {} class names, one a line, found {}; remove the file to number the classes",
        layout.classes,
        lines().count()
    );
    Ok(lines().map(String::from).collect())
}

/// One part of a CIFAR data set: files of equally many records.
struct Cifar {
    files: Vec<Mmap>,
    records: usize,
    label_bytes: usize,
}

impl Cifar {
    fn record(&self, i: usize) -> &[u8] {
        let bytes = self.label_bytes + 3 * PLANE;
        &self.files[i / self.records][i % self.records * bytes..][..bytes]
    }
}

impl Images for Cifar {
    fn len(&self) -> usize {
        self.files.len() * self.records
    }

    fn size(&self) -> [usize; 2] {
        [SIDE, SIDE]
    }

    fn label(&self, i: usize) -> u32 {
        u32::from(self.record(i)[self.label_bytes - 1])
    }

    fn pixels(&self, i: usize, out: &mut [u8]) {
        assert_eq!(out.len(), 3 * PLANE, "a CIFAR image has 32·32·3 bytes");
        let planes = &self.record(i)[self.label_bytes..];
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        for (i, rgb) in out.chunks_exact_mut(3).enumerate() {
            rgb.copy_from_slice(&[red[i], green[i], blue[i]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// CIFAR-10 and CIFAR-100 with two records a file.
    const SMALL10: Layout = Layout {
        train_records: 2,
        test_records: 2,
        ..CIFAR10
    };
    const SMALL100: Layout = Layout {
        train_records: 2,
        test_records: 2,
        ..CIFAR100
    };

    fn write(layout: &Layout, dir: &Path) {
        let files = layout.train_files.iter().chain([&layout.test_file]);
        for (number, file) in files.enumerate() {
            let mut bytes = Vec::new();
            for record in 0..2 {
                bytes.extend(vec![(2 * number + record) as u8 % 10; layout.label_bytes]);
                bytes.extend((0..3 * PLANE).map(|i| (i / PLANE * 80 + i % 71 + record) as u8));
            }
            fs::write(dir.join(file), bytes).unwrap();
        }
    }

    fn error(layout: &Layout, dir: &Path) -> String {
        open(layout, dir)
            .err()
            .expect("expected an error")
            .to_string()
    }

    #[test]
    fn records_are_read_in_order_and_planes_interleaved() {
        let dir = tempfile::tempdir().unwrap();
        write(&SMALL10, dir.path());
        let parts = open(&SMALL10, dir.path()).unwrap();
        assert_eq!((parts.train.len(), parts.test.len()), (10, 2));
        assert_eq!(parts.train.label(7), 7);
        let mut pixels = vec![0; 3 * PLANE];
        parts.train.pixels(1, &mut pixels);
        assert_eq!(
            pixels[3..6],
            [1, 1025, 2049].map(|i| (i / PLANE * 80 + i % 71 + 1) as u8)
        );
        assert_eq!(parts.classes[9], "9");
    }

    #[test]
    fn cifar100_takes_the_fine_label_and_the_names_file() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("cifar-100-binary");
        fs::create_dir(&inner).unwrap();
        write(&SMALL100, &inner);
        let mut bytes = fs::read(inner.join("train.bin")).unwrap();
        bytes[..2].copy_from_slice(&[255, 99]);
        fs::write(inner.join("train.bin"), bytes).unwrap();
        let names: String = (0..100).map(|i| format!("name {i}\n")).collect();
        fs::write(inner.join("fine_label_names.txt"), names + "\n").unwrap();
        let parts = open(&SMALL100, dir.path()).unwrap();
        assert_eq!(parts.train.label(0), 99);
        assert_eq!(parts.classes[99], "name 99");
    }

    #[test]
    fn a_label_out_of_range_names_file_and_record() {
        let dir = tempfile::tempdir().unwrap();
        write(&SMALL10, dir.path());
        let path = dir.path().join("data_batch_2.bin");
        let mut bytes = fs::read(&path).unwrap();
        bytes[3073] = 10;
        fs::write(&path, bytes).unwrap();
        let text = error(&SMALL10, dir.path());
        assert!(
            text.contains("data_batch_2.bin: record 1: expected a label of 0 to 9, found 10"),
            "{text}"
        );
    }

    #[test]
    fn a_names_file_of_wrong_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(&SMALL10, dir.path());
        fs::write(dir.path().join("batches.meta.txt"), "cat\ndog\n").unwrap();
        let text = error(&SMALL10, dir.path());
        assert!(
            text.contains("batches.meta.txt: expected 10 class names, one a line, found 2"),
            "{text}"
        );
    }

    #[test]
    fn a_folder_in_place_of_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(&SMALL10, dir.path());
        fs::remove_file(dir.path().join("test_batch.bin")).unwrap();
        fs::create_dir(dir.path().join("test_batch.bin")).unwrap();
        assert!(error(&SMALL10, dir.path()).contains("test_batch.bin: expected a file"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn mutated_files_open_with_valid_labels_or_fail_with_their_name(
            file in 0..6usize,
            at in 0..6146usize,
            value: u8,
            length in prop::option::of(0..7000usize),
        ) {
            let dir = tempfile::tempdir().unwrap();
            write(&SMALL10, dir.path());
            let name = [SMALL10.train_files, &[SMALL10.test_file]].concat()[file];
            let mut bytes = fs::read(dir.path().join(name)).unwrap();
            bytes[at] = value;
            bytes.resize(length.unwrap_or(bytes.len()), 0);
            fs::write(dir.path().join(name), bytes).unwrap();
            match open(&SMALL10, dir.path()) {
                Ok(parts) => {
                    prop_assert!((0..10).all(|i| parts.train.label(i) < 10));
                    let mut pixels = vec![0; 3072];
                    (0..10).for_each(|i| parts.train.pixels(i, &mut pixels));
                }
                Err(error) => prop_assert!(error.to_string().contains(name)),
            }
        }
    }
}
