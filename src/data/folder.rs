//! A folder of images: `train/` and `test/`, in each a folder a class, in these JPEG and PNG files.
//!
//! Everything is decoded once, in parallel, into u8 pixels in memory. The format of a file is told from
//! its first bytes, not its name. Names that begin with a dot are passed over (`.DS_Store` and the
//! like); any other file that is no image is an error.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use image::{ImageReader, RgbImage};
use rayon::prelude::*;

use super::memory::{InMemory, allocate, fit};
use super::{Images, MAX_SIDE, Parts};

/// The largest side of a file's image before it is scaled, in pixels.
const MAX_DECODED_SIDE: u32 = 16_384;

/// The files of a folder data set, in the order of their class and name.
pub struct Listing {
    /// Names of the folders in `train/`, sorted.
    pub classes: Vec<String>,
    /// The training part.
    pub train: Vec<Item>,
    /// The test part.
    pub test: Vec<Item>,
    /// \[H, W\] of every image once decoded.
    pub size: [usize; 2],
    /// True when images are scaled to `size`; otherwise they have it.
    pub scale: bool,
}

/// One file.
pub struct Item {
    /// Where it lies.
    pub path: PathBuf,
    /// Index into the classes.
    pub label: u32,
}

/// Opens the folder at `dir`; `image_size` 0 asks that all images have one size.
pub fn open(dir: &Path, image_size: usize) -> Result<Parts> {
    let listing = list(dir, image_size)?;
    let [height, width] = listing.size;
    let remedy = || {
        let flag = if image_size == 0 {
            String::new()
        } else {
            format!(" --image-size {image_size}")
        };
        format!(
            "run `ndarts data import {} -o FILE.pack{flag}` once and use `--data pack:FILE.pack`, or lower --image-size",
            dir.display()
        )
    };
    let bytes = height * width * 3;
    let what = format!("folder:{}", dir.display());
    // Both parts in one allocation check: the limit is on the data set.
    let mut pixels = allocate(
        listing.train.len() + listing.test.len(),
        bytes,
        &what,
        remedy,
    )?;
    let items: Vec<&Item> = listing.train.iter().chain(&listing.test).collect();
    decode(&items, &listing, &mut pixels)?;
    let test_pixels = pixels.split_off(listing.train.len() * bytes);
    let part = |items: &[Item], pixels| -> Arc<dyn Images> {
        Arc::new(InMemory {
            size: listing.size,
            pixels,
            labels: items.iter().map(|item| item.label).collect(),
        })
    };
    Ok(Parts {
        name: dir
            .file_name()
            .map_or("folder".into(), |name| name.to_string_lossy().into_owned()),
        train: part(&listing.train, pixels),
        test: part(&listing.test, test_pixels),
        classes: listing.classes,
    })
}

/// Finds the files of `dir` and the size of their images, without decoding them.
///
/// # Errors
/// A missing or empty part, fewer than two classes, a test class that is not among the training
/// classes, a file that is no image, images of different sizes with `image_size` 0.
pub fn list(dir: &Path, image_size: usize) -> Result<Listing> {
    let train_dir = dir.join("train");
    ensure!(
        train_dir.is_dir(),
        "{}: expected the folders train/ and test/ with a folder for each class, found no train/; check the path",
        dir.display()
    );
    let classes = entries(&train_dir)?
        .into_iter()
        .map(|path| {
            ensure!(
                path.is_dir(),
                "{}: expected only class folders in train/, found a file; move it away",
                path.display()
            );
            Ok(name_of(&path))
        })
        .collect::<Result<Vec<String>>>()?;
    ensure!(
        classes.len() >= 2,
        "{}: expected at least two class folders, found {}; a classifier needs two classes",
        train_dir.display(),
        classes.len()
    );
    let train = part(&train_dir, &classes)?;
    let test = part(&dir.join("test"), &classes)?;
    let all: Vec<&Item> = train.iter().chain(&test).collect();
    let size = if image_size != 0 {
        [image_size; 2]
    } else {
        common_size(&all)?
    };
    Ok(Listing {
        classes,
        train,
        test,
        size,
        scale: image_size != 0,
    })
}

/// The items of `dir/<class>/`, for every class folder that is there.
fn part(dir: &Path, classes: &[String]) -> Result<Vec<Item>> {
    ensure!(
        dir.is_dir(),
        "{}: expected a folder with a folder for each class, found none; make it and put images there",
        dir.display()
    );
    let mut items = Vec::new();
    for class_dir in entries(dir)? {
        let class = name_of(&class_dir);
        let label = classes.iter().position(|name| *name == class).with_context(|| {
            format!(
                "{}: expected one of the {} classes in train/, found `{class}`; rename or remove it",
                class_dir.display(),
                classes.len()
            )
        })?;
        let files = entries(&class_dir)?;
        ensure!(
            !files.is_empty(),
            "{}: expected JPEG or PNG images, found none; add some or remove the folder",
            class_dir.display()
        );
        items.extend(files.into_iter().map(|path| Item {
            path,
            label: label as u32,
        }));
    }
    ensure!(
        !items.is_empty(),
        "{}: expected class folders with images, found none; put images there",
        dir.display()
    );
    ensure!(
        u32::try_from(items.len()).is_ok(),
        "{}: expected at most {} images, found more; split the data set",
        dir.display(),
        u32::MAX
    );
    Ok(items)
}

/// The entries of a folder, sorted by name, without those that begin with a dot.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = || {
        format!(
            "{}: the folder cannot be read; check that it is one and its permissions",
            dir.display()
        )
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The one size of all images, from the heads of the files; those that have none are left for decoding to name.
///
/// # Errors
/// Images of different sizes, or of none; the first error of a head, where no file has one.
fn common_size(items: &[&Item]) -> Result<[usize; 2]> {
    let sizes = items
        .par_iter()
        .map(|item| {
            let (width, height) = reader(&item.path)?
                .into_dimensions()
                .map_err(|error| no_image(&item.path, &error))?;
            Ok([height as usize, width as usize])
        })
        .collect::<Vec<Result<[usize; 2]>>>();
    let mut first: Option<(&Item, [usize; 2])> = None;
    let mut unreadable = None;
    // In order, so that which of several bad files is named does not depend on the threads.
    for (&item, size) in items.iter().zip(sizes) {
        let size = match size {
            Ok(size) => size,
            Err(error) => {
                unreadable.get_or_insert(error);
                continue;
            }
        };
        let (like, expected) = *first.get_or_insert((item, size));
        ensure!(
            size == expected,
            "{}: expected {}×{} pixels (width × height) as in {}, found {}×{}; state one size for all with --image-size",
            item.path.display(),
            expected[1],
            expected[0],
            like.path.display(),
            size[1],
            size[0]
        );
        ensure!(
            size.into_iter().all(|side| (1..=MAX_SIDE).contains(&side)),
            "{}: expected sides of 1 to {MAX_SIDE} pixels, found {}×{}; state a smaller size with --image-size",
            item.path.display(),
            size[1],
            size[0]
        );
    }
    match (first, unreadable) {
        (Some((_, size)), _) => Ok(size),
        (None, Some(error)) => Err(error),
        (None, None) => bail!("expected images, found none"),
    }
}

/// Decodes `items` into `pixels`, \[N, H, W, 3\], in parallel.
///
/// # Errors
/// Names the first file, in order, that cannot be decoded.
pub fn decode(items: &[&Item], listing: &Listing, pixels: &mut [u8]) -> Result<()> {
    match decode_each(items, listing, pixels).into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// As [`decode`], and goes on behind a file that cannot be decoded: the places of those and why, in order. Their
/// pixels are garbage.
pub fn decode_each(
    items: &[&Item],
    listing: &Listing,
    pixels: &mut [u8],
) -> Vec<(usize, anyhow::Error)> {
    let [height, width] = listing.size;
    let mut failures: Vec<(usize, anyhow::Error)> = pixels
        .par_chunks_exact_mut(height * width * 3)
        .zip(items)
        .enumerate()
        .filter_map(|(i, (out, item))| {
            decode_one(&item.path, listing, out)
                .err()
                .map(|error| (i, error))
        })
        .collect();
    failures.sort_by_key(|(i, _)| *i);
    failures
}

fn decode_one(path: &Path, listing: &Listing, out: &mut [u8]) -> Result<()> {
    let mut reader = reader(path)?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_DECODED_SIDE);
    limits.max_image_height = Some(MAX_DECODED_SIDE);
    reader.limits(limits);
    let mut image: RgbImage = reader
        .decode()
        .map_err(|error| no_image(path, &error))?
        .to_rgb8();
    if listing.scale {
        image = fit(&image, listing.size[0]);
    }
    if image.len() != out.len() {
        bail!(
            "{}: the image's size changed while it was read; try again",
            path.display()
        );
    }
    out.copy_from_slice(&image);
    Ok(())
}

fn reader(path: &Path) -> Result<ImageReader<std::io::BufReader<fs::File>>> {
    ensure!(
        path.is_file(),
        "{}: expected a JPEG or PNG image, found no regular file; move it away",
        path.display()
    );
    ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .with_context(|| {
            format!(
                "{}: the file cannot be read; check its permissions",
                path.display()
            )
        })
}

fn no_image(path: &Path, error: &image::ImageError) -> anyhow::Error {
    anyhow::anyhow!(
        "{}: expected a JPEG or PNG image, found something else ({error}); repair or remove the file",
        path.display()
    )
}
