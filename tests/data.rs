//! Data sets from files: what is read, what is refused and in which words.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::{GrayImage, Luma, Rgb, RgbImage};
use ndarts::data::pack::{ImportOptions, import};
use ndarts::data::{Dataset, info};
use proptest::prelude::*;
use tempfile::TempDir;

fn error(spec: &str, image_size: usize) -> String {
    match Dataset::open(spec, image_size, &[0.5], &[0.5]) {
        Ok(_) => panic!("{spec} was opened"),
        Err(error) => format!("{error:#}"),
    }
}

fn spec(kind: &str, path: &Path) -> String {
    format!("{kind}:{}", path.display())
}

/// Asserts that `text` holds `part`, and prints `text` when it does not.
fn assert_says(text: &str, part: &str) {
    assert!(text.contains(part), "{text}");
}

/// Full-size CIFAR-10 files of zeros, sparse on disk.
fn zero_cifar10() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for number in 1..=5 {
        sparse(&dir.path().join(format!("data_batch_{number}.bin")));
    }
    sparse(&dir.path().join("test_batch.bin"));
    dir
}

fn sparse(path: &Path) {
    File::create(path).unwrap().set_len(30_730_000).unwrap();
}

/// Two classes, two training images and one test image each, of 6×4 pixels (width × height).
fn image_folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (class, red) in [("cat", 200), ("dog", 20)] {
        for (part, count) in [("train", 2), ("test", 1)] {
            let folder = dir.path().join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            for number in 0..count {
                let image =
                    RgbImage::from_fn(6, 4, |x, y| Rgb([red + number, x as u8 * 40, y as u8 * 60]));
                image.save(folder.join(format!("{number}.png"))).unwrap();
            }
        }
    }
    dir
}

fn imported() -> (TempDir, PathBuf) {
    let dir = image_folder();
    let out = dir.path().join("small.pack");
    import(dir.path(), &out, 0, &ImportOptions::default()).unwrap();
    (dir, out)
}

#[test]
fn a_truncated_or_missing_cifar_batch_is_named_with_its_length() {
    let dir = zero_cifar10();
    let path = dir.path().join("data_batch_3.bin");
    fs::write(&path, [0; 1000]).unwrap();
    assert_says(
        &error(&spec("cifar10", dir.path()), 0),
        "data_batch_3.bin: expected 30,730,000 bytes (10,000 records of 3,073), found 1,000;",
    );
    fs::remove_file(&path).unwrap();
    assert_says(
        &error(&spec("cifar10", dir.path()), 0),
        "data_batch_3.bin: expected a file of 30,730,000 bytes, found none;",
    );
}

#[test]
fn a_cifar_label_out_of_range_is_named_with_its_record() {
    let dir = zero_cifar10();
    let path = dir.path().join("data_batch_4.bin");
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(7 * 3073)).unwrap();
    file.write_all(&[77]).unwrap();
    assert_says(
        &error(&spec("cifar10", dir.path()), 0),
        "data_batch_4.bin: record 7: expected a label of 0 to 9, found 77",
    );
}

#[test]
fn cifar_images_without_contrast_ask_for_a_stated_deviation() {
    let dir = zero_cifar10();
    let spec = spec("cifar10", dir.path());
    let error = Dataset::open(&spec, 0, &[], &[]).err().unwrap();
    assert_says(&error.to_string(), "state --std");
    let data = Dataset::open(&spec, 0, &[], &[1.0]).unwrap();
    assert_eq!((data.train.len(), data.test.len()), (50_000, 10_000));
    assert_eq!(data.mean, [0.0; 3]);
}

#[test]
fn a_cifar_folder_that_is_not_there_is_named() {
    assert_says(
        &error("cifar100:/no/such/folder", 0),
        "cifar100:/no/such/folder: expected a folder",
    );
}

#[test]
fn a_folder_is_read_class_by_class() {
    let dir = image_folder();
    fs::write(dir.path().join("train/cat/.DS_Store"), "junk").unwrap();
    let data = Dataset::open(&spec("folder", dir.path()), 0, &[], &[]).unwrap();
    assert_eq!(data.classes, ["cat", "dog"]);
    assert_eq!((data.train.len(), data.test.len()), (4, 2));
    assert_eq!(data.train.size(), [4, 6]);
    let labels: Vec<u32> = (0..4).map(|i| data.train.label(i)).collect();
    assert_eq!(labels, [0, 0, 1, 1]);
    let mut pixels = vec![0; 72];
    data.train.pixels(3, &mut pixels);
    assert_eq!(pixels[..6], [21, 0, 0, 21, 40, 0]);
    assert_eq!(pixels[69..], [21, 200, 180]);
}

#[test]
fn grey_images_become_three_equal_channels() {
    let dir = image_folder();
    let grey = GrayImage::from_pixel(6, 4, Luma([99]));
    grey.save(dir.path().join("train/cat/0.png")).unwrap();
    let data = Dataset::open(&spec("folder", dir.path()), 0, &[], &[]).unwrap();
    let mut pixels = vec![0; 72];
    data.train.pixels(0, &mut pixels);
    assert!(pixels.iter().all(|&value| value == 99));
}

#[test]
fn images_of_different_sizes_need_an_image_size() {
    let dir = image_folder();
    let odd = RgbImage::new(9, 9);
    odd.save(dir.path().join("train/dog/9.jpg")).unwrap();
    let text = error(&spec("folder", dir.path()), 0);
    assert_says(&text, "9.jpg: expected 6×4 pixels");
    assert_says(&text, "found 9×9; state one size for all with --image-size");
    let data = Dataset::open(&spec("folder", dir.path()), 5, &[], &[]).unwrap();
    assert_eq!((data.train.len(), data.train.size()), (5, [5, 5]));
}

#[test]
fn files_that_are_no_images_are_named() {
    let dir = image_folder();
    let path = dir.path().join("test/dog/notes.txt");
    fs::write(&path, "no image").unwrap();
    for image_size in [0, 8] {
        assert_says(
            &error(&spec("folder", dir.path()), image_size),
            "notes.txt: expected a JPEG or PNG image",
        );
    }
    fs::remove_file(path).unwrap();
    // A file whose head is whole and whose end is cut off.
    let path = dir.path().join("train/cat/1.png");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_says(
        &error(&spec("folder", dir.path()), 0),
        "1.png: expected a JPEG or PNG image",
    );
}

#[test]
fn folders_without_the_right_classes_are_refused() {
    let dir = image_folder();
    let refused = |part: &str| assert_says(&error(&spec("folder", dir.path()), 0), part);
    let at = |path: &str| dir.path().join(path);
    fs::create_dir(at("train/empty")).unwrap();
    refused("train/empty: expected JPEG or PNG images, found none");
    fs::remove_dir(at("train/empty")).unwrap();
    fs::remove_dir_all(at("train/dog")).unwrap();
    refused("train: expected at least two class folders, found 1");
    fs::create_dir(at("train/bird")).unwrap();
    RgbImage::new(6, 4).save(at("train/bird/0.png")).unwrap();
    refused("test/dog: expected one of the 2 classes in train/, found `dog`");
    fs::remove_dir_all(at("test")).unwrap();
    refused("test: expected a folder");
    fs::remove_dir_all(at("train")).unwrap();
    refused("found no train/");
}

#[test]
fn a_pack_holds_what_the_folder_held() {
    let (dir, out) = imported();
    let folder = Dataset::open(&spec("folder", dir.path()), 0, &[], &[]).unwrap();
    let pack = Dataset::open(&spec("pack", &out), 0, &[], &[]).unwrap();
    assert_eq!(pack.classes, folder.classes);
    assert_eq!((pack.mean, pack.std), (folder.mean, folder.std));
    assert_eq!(pack.name, "small");
    for (a, b) in [(&pack.train, &folder.train), (&pack.test, &folder.test)] {
        assert_eq!((a.len(), a.size()), (b.len(), b.size()));
        let (mut left, mut right) = (vec![0; 72], vec![0; 72]);
        for i in 0..a.len() {
            assert_eq!(a.label(i), b.label(i));
            a.pixels(i, &mut left);
            b.pixels(i, &mut right);
            assert_eq!(left, right);
        }
    }
    let scaled = Dataset::open(&spec("pack", &out), 3, &[], &[]).unwrap();
    assert_eq!(scaled.test.size(), [3, 3]);
}

#[test]
fn importing_over_a_file_needs_to_be_asked_for() {
    let (dir, out) = imported();
    let before = fs::read(&out).unwrap();
    let refused = import(dir.path(), &out, 0, &ImportOptions::default());
    assert_says(
        &refused.unwrap_err().to_string(),
        "small.pack: expected a name that is free",
    );
    assert_eq!(fs::read(&out).unwrap(), before);
    let options = ImportOptions {
        overwrite: true,
        ..ImportOptions::default()
    };
    let summary = import(dir.path(), &out, 2, &options).unwrap().summary;
    assert_eq!(summary.size, [2, 2]);
    assert_eq!((summary.train, summary.test), (4, 2));
}

#[test]
fn images_that_cannot_be_decoded_are_all_listed_and_left_out_if_asked() {
    let dir = image_folder();
    let target = tempfile::tempdir().unwrap();
    let whole = dir.path().join("train/cat/2.png");
    fs::copy(dir.path().join("train/cat/0.png"), whole).unwrap();
    for bad in ["train/cat/1.png", "train/dog/1.png"] {
        let path = dir.path().join(bad);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    fs::write(dir.path().join("test/dog/1.png"), "no image").unwrap();
    let out = target.path().join("a.pack");
    let failed = import(dir.path(), &out, 0, &ImportOptions::default());
    let text = failed.unwrap_err().to_string();
    assert_says(
        &text,
        "expected 8 JPEG or PNG images, found 3 that cannot be decoded",
    );
    for bad in ["cat/1.png", "dog/1.png", "test/dog/1.png", "--skip-bad"] {
        assert_says(&text, bad);
    }
    assert!(!out.exists());
    let options = ImportOptions {
        skip_bad: true,
        ..ImportOptions::default()
    };
    let imported = import(dir.path(), &out, 0, &options).unwrap();
    assert_eq!((imported.skipped.len(), imported.resumed), (3, 8));
    assert_eq!((imported.summary.train, imported.summary.test), (3, 2));
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1);
    let pack = Dataset::open(&spec("pack", &out), 0, &[], &[]).unwrap();
    let labels: Vec<u32> = (0..3).map(|i| pack.train.label(i)).collect();
    assert_eq!(labels, [0, 0, 1]);
    let mut pixels = vec![0; 72];
    pack.train.pixels(1, &mut pixels);
    assert_eq!(pixels[0], 200, "the copy of 0.png behind what was left out");
    pack.train.pixels(2, &mut pixels);
    assert_eq!(pixels[0], 20);
    let out = target.path().join("no/a.pack");
    let failed = import(dir.path(), &out, 0, &ImportOptions::default());
    assert_says(
        &failed.unwrap_err().to_string(),
        "no/a.pack: the pack cannot be written, nothing was changed",
    );
}

#[test]
fn an_interrupted_import_goes_on_where_it_was() {
    let (dir, whole) = imported();
    let target = tempfile::tempdir().unwrap();
    let out = target.path().join("small.pack");
    let part = target.path().join("small.pack.part");
    let journal = target.path().join("small.pack.part.journal");
    // What a bad image left behind is what an interruption at its end leaves.
    let bad = dir.path().join("test/dog/0.png");
    let bytes = fs::read(&bad).unwrap();
    let modified = fs::metadata(&bad).unwrap().modified().unwrap();
    let damaged = vec![0; bytes.len()];
    let put = |bytes: &[u8]| {
        fs::write(&bad, bytes).unwrap();
        let file = File::options().write(true).open(&bad).unwrap();
        file.set_modified(modified).unwrap();
    };
    put(&damaged);
    import(dir.path(), &out, 0, &ImportOptions::default()).unwrap_err();
    let lines = fs::read_to_string(&journal).unwrap();
    assert_eq!(lines.lines().count(), 2);
    // As if it had been killed before the first chunk was on disk: from the start, with the image repaired.
    put(&bytes);
    let first = lines.lines().next().unwrap();
    fs::write(&journal, format!("{first}\n{{\"seen\":3")).unwrap();
    let imported = import(dir.path(), &out, 0, &ImportOptions::default()).unwrap();
    assert_eq!(imported.resumed, 0);
    assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap());
    assert!(!part.exists() && !journal.exists());
    // A journal that claims more than there is.
    fs::remove_file(&out).unwrap();
    fs::write(&journal, &lines).unwrap();
    let refused = import(dir.path(), &out, 0, &ImportOptions::default());
    assert_says(
        &refused.unwrap_err().to_string(),
        "as its journal says, found fewer",
    );
}

#[test]
fn junk_and_damaged_packs_are_refused() {
    let (_dir, out) = imported();
    let bytes = fs::read(&out).unwrap();
    let refused = |bytes: &[u8], part: &str| {
        fs::write(&out, bytes).unwrap();
        assert_says(&error(&spec("pack", &out), 0), part);
    };
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    refused(&damaged, "small.pack: expected checksum");
    refused(&bytes[..bytes.len() - 1], "as its header says");
    for junk in [&b""[..], b"hello", b"ndpack\r\n", &[255; 200]] {
        refused(junk, "small.pack: expected a ");
    }
    assert_says(
        &error("pack:/no/such.pack", 0),
        "/no/such.pack: expected a readable file",
    );
    let folder = out.parent().unwrap();
    assert_says(
        &error(&spec("pack", folder), 0),
        "expected a file, found something else",
    );
}

#[test]
fn a_summary_of_a_pack_counts_its_classes() {
    let (_dir, out) = imported();
    let summary = info(&spec("pack", &out), 0).unwrap();
    assert_eq!(
        summary.classes,
        [("cat".into(), 2, 1), ("dog".into(), 2, 1)]
    );
    assert_eq!(summary.bytes, 6 * 72);
    assert_says(&summary.to_string(), "6×4 pixels");
}

#[test]
fn real_cifar10_photographs_have_the_known_moments() {
    let Some(dir) = std::env::var_os("NDARTS_CIFAR10") else {
        eprintln!("skipped: NDARTS_CIFAR10 names no folder with the CIFAR-10 binary files");
        return;
    };
    let data = Dataset::open(&spec("cifar10", Path::new(&dir)), 0, &[], &[]).unwrap();
    assert_eq!((data.train.len(), data.test.len()), (50_000, 10_000));
    // As published with many reference implementations.
    let known = [[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]];
    for (found, known) in [data.mean, data.std]
        .iter()
        .flatten()
        .zip(known.as_flattened())
    {
        assert!((found - known).abs() < 2e-3, "{found} {known}");
    }
}

/// One pack for all cases of the property test.
fn shared_pack() -> &'static [u8] {
    static PACK: OnceLock<Vec<u8>> = OnceLock::new();
    PACK.get_or_init(|| fs::read(imported().1).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// With `repair`, length and checksum are made true again, so that the other checks are reached.
    #[test]
    fn mutated_packs_are_refused_or_read_without_a_panic(
        changes in prop::collection::vec((0..130usize, any::<u8>()), 1..4),
        length in prop::option::of(0..700usize),
        repair: bool,
    ) {
        let mut bytes = shared_pack().to_vec();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.resize(length.unwrap_or(bytes.len()), 0);
        if repair && bytes.len() > 24 {
            let length = bytes.len() as u64;
            bytes[16..24].copy_from_slice(&length.to_le_bytes());
            let checksum = crc32fast::hash(&bytes[16..]);
            bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        match Dataset::open(&spec("pack", file.path()), 0, &[0.5], &[0.5]) {
            Err(error) => {
                let name = file.path().display().to_string();
                prop_assert!(error.to_string().starts_with(&name));
            }
            Ok(data) => {
                prop_assert!(repair || bytes == shared_pack());
                let [height, width] = data.train.size();
                let mut pixels = vec![0; height * width * 3];
                for images in [&data.train, &data.test] {
                    for i in 0..images.len() {
                        prop_assert!((images.label(i) as usize) < data.classes.len());
                        images.pixels(i, &mut pixels);
                    }
                }
            }
        }
    }
}
