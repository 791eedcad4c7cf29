//! Seeded permutations: the halves of the training set, the order of an epoch.

use anyhow::{Result, ensure};
use rand::Rng;

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

/// Checks that whole batches can be drawn from either half: 1 ≤ `batch` ≤ `half_len`.
///
/// # Errors
/// Names `--batch`, the range and what was found.
pub fn check_batch(batch: usize, half_len: usize) -> Result<()> {
    ensure!(
        (1..=half_len).contains(&batch),
        "--batch: expected 1 to {half_len} images (half of the training set), found {batch}; {}",
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
            "--batch: expected 1 to 721 images (half of the training set), found 722; lower --batch"
        );
        assert!(check_batch(0, 721).is_err());
    }
}
