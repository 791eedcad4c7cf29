//! Seeded permutations: the halves of the training set, the order of an epoch.

use anyhow::{Result, ensure};
use rand::Rng;

use super::Images;
use crate::device::random::{Philox, PhiloxRng, Purpose};

/// A seeded permutation of `0..len`, cut in two: L1 is taken on the first half, L2 on the second.
///
/// The halves are disjoint, cover `0..len` and have `len / 2` and `len - len / 2` elements.
///
/// # Panics
/// When `len` does not fit u32; opened data sets always do.
pub fn halves(len: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let len = u32::try_from(len).expect("a data set has at most 2^32 - 1 images");
    let mut first: Vec<u32> = (0..len).collect();
    shuffle(&mut first, &mut Philox::new(seed, Purpose::Split).rng(0));
    let second = first.split_off(first.len() / 2);
    (first, second)
}

/// Two disjoint seeded draws of the images, each with the same share of every class: L1 is taken on the first, L2 on
/// the second. PC-DARTS searches on 10 % and 2.5 % of ImageNet so (Xu et al. 2020).
///
/// # Errors
/// Shares (in 0..1) that are not positive or sum to more than 1, or a share of a class that is no image.
pub fn balanced(
    images: &dyn Images,
    classes: &[String],
    shares: [f32; 2],
    seed: u64,
) -> Result<[Vec<u32>; 2]> {
    ensure!(
        shares.iter().all(|share| *share > 0.0) && shares[0] + shares[1] <= 1.0,
        "--subset: expected two shares above 0 that sum to at most 1, found {} and {}",
        shares[0],
        shares[1]
    );
    let len = u32::try_from(images.len()).expect("a data set has at most 2^32 - 1 images");
    let mut order: Vec<u32> = (0..len).collect();
    shuffle(&mut order, &mut Philox::new(seed, Purpose::Split).rng(1));
    let mut counts = vec![0usize; classes.len()];
    (0..images.len()).for_each(|i| counts[images.label(i) as usize] += 1);
    let whole = |share: f32, count: usize| (f64::from(share) * count as f64).round() as usize;
    let mut left = Vec::with_capacity(classes.len());
    for (class, &count) in classes.iter().zip(&counts) {
        let [first, second] = shares.map(|share| whole(share, count));
        ensure!(
            first > 0 && second > 0,
            "--subset: expected shares that are an image of every class, found {} and {} of {count} images of class \
             `{class}`; raise the shares",
            shares[0],
            shares[1]
        );
        // Halves of an odd number round up, both of them.
        left.push([first, second.min(count - first)]);
    }
    let mut found = [Vec::new(), Vec::new()];
    for image in order {
        let left = &mut left[images.label(image as usize) as usize];
        if let Some(part) = left.iter().position(|&left| left > 0) {
            left[part] -= 1;
            found[part].push(image);
        }
    }
    Ok(found)
}

/// Checks that whole batches can be drawn from either half: 1 ≤ `batch` ≤ `half_len`.
///
/// # Errors
/// Names `--batch`, the range and what was found.
pub fn check_batch(batch: usize, half_len: usize) -> Result<()> {
    ensure!(
        (1..=half_len).contains(&batch),
        "--batch: expected 1 to {half_len} images (the part of the training set that is drawn from), found {batch}; {}",
        if batch == 0 {
            "raise --batch"
        } else {
            "lower --batch"
        }
    );
    Ok(())
}

/// Fisher–Yates shuffle. Written out, because the order is part of what a seed means and `rand` does
/// not promise that of its own shuffle from one version to the next.
pub fn shuffle(elements: &mut [u32], rng: &mut PhiloxRng) {
    for last in (1..elements.len()).rev() {
        // ⌊random · (last + 1) / 2⁶⁴⌋: uniform to within 2⁻³².
        let draw = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        elements.swap(last, draw as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_disjoint_and_cover_the_set() {
        for len in [0, 1, 2, 7, 1442] {
            let (first, second) = halves(len, 3);
            assert_eq!((first.len(), second.len()), (len / 2, len - len / 2));
            let mut all = [first, second].concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..len as u32));
        }
    }

    #[test]
    fn halves_depend_on_the_seed_alone() {
        assert_eq!(halves(100, 1), halves(100, 1));
        assert_ne!(halves(100, 1), halves(100, 2));
    }

    #[test]
    fn a_subset_has_its_share_of_every_class_and_no_image_twice() {
        let images = crate::data::testing::counting(1000, [1, 1], 4);
        let classes = ["a", "b", "c", "d"].map(String::from);
        let [first, second] = balanced(&images, &classes, [0.1, 0.025], 3).unwrap();
        let of_class = |part: &[u32], class| part.iter().filter(|&&i| i % 4 == class).count();
        for class in 0..4 {
            assert_eq!((of_class(&first, class), of_class(&second, class)), (25, 6));
        }
        let mut all = [first.clone(), second].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 124);
        let whole = balanced(&images, &classes, [0.5, 0.5], 3).unwrap();
        assert_eq!(whole.map(|part| part.len()), [500, 500]);
        let other = balanced(&images, &classes, [0.1, 0.025], 4).unwrap();
        assert_ne!(other[0], first);
        for bad in [[0.6, 0.5], [0.0, 0.5], [0.1, 0.001]] {
            let error = balanced(&images, &classes, bad, 3).unwrap_err().to_string();
            assert!(error.starts_with("--subset: expected"), "{error}");
        }
    }

    #[test]
    fn every_order_of_three_is_about_equally_frequent() {
        let philox = Philox::new(1, Purpose::Shuffle);
        let mut counts = std::collections::HashMap::new();
        for stream in 0..6000 {
            let mut order = [0, 1, 2];
            shuffle(&mut order, &mut philox.rng(stream));
            *counts.entry(order).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(
            counts.values().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_batch_beyond_half_the_set_names_the_flag() {
        assert!(check_batch(721, 721).is_ok());
        let error = check_batch(722, 721).unwrap_err().to_string();
        assert_eq!(
            error,
            "--batch: expected 1 to 721 images (the part of the training set that is drawn from), found 722; lower --batch"
        );
        assert!(check_batch(0, 721).is_err());
    }
}
