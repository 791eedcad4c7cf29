//! All four passes of dense convolution and factorized reduction against the oracle.

use crate::ops::cuda::Precision;
use crate::oracle::engine::chain::{Chain, Term};
use crate::oracle::engine::ops::{
    axis_term, check, check_kernels, check_kernels_in, config, conv_term, halved, sizes, squared,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn four_passes_of_conv_match_the_oracle(
        chain in sizes(), terms in prop::collection::vec(conv_term(), 1..=2), salt in 0..1000u32,
    ) {
        check(&Chain { terms, normalised_input: false, ..chain }, salt)?;
    }

    #[test]
    fn four_passes_of_convolutions_along_both_axes_match_the_oracle(
        chain in sizes(), terms in prop::collection::vec(axis_term(), 1..=2), salt in 0..1000u32,
    ) {
        check(&squared(Chain { terms, ..chain }), salt)?;
    }

    #[test]
    fn four_passes_of_factorized_reduce_match_the_oracle(chain in sizes(), salt in 0..1000u32) {
        let terms = vec![Term::Reduce; 1 + usize::from(chain.normalised_input)];
        check(&halved(Chain { terms, cout: chain.cout.max(2), ..chain }), salt)?;
    }
}

proptest! {
    // Each case compiles its kernels.
    #![proptest_config(ProptestConfig { cases: 8, ..config() })]

    #[test]
    fn convolutions_of_drawn_sizes_on_the_device_match_the_cpu_in_every_precision(
        chain in sizes(), term in conv_term(), precision in prop::sample::select(&Precision::ALL), salt in 0..1000u32,
    ) {
        let drawn = Chain { terms: vec![term], normalised_input: false, ..chain };
        check_kernels_in(&[precision], &drawn, salt, "conv")?;
    }

    #[test]
    fn convolutions_along_axes_of_drawn_sizes_on_the_device_match_the_cpu_in_every_precision(
        chain in sizes(), term in axis_term(), precision in prop::sample::select(&Precision::ALL), salt in 0..1000u32,
    ) {
        let drawn = squared(Chain { terms: vec![term], ..chain });
        check_kernels_in(&[precision], &drawn, salt, "conv")?;
    }

    #[test]
    fn factorized_reductions_of_drawn_sizes_on_the_device_match_the_cpu_in_every_precision(
        chain in sizes(), precision in prop::sample::select(&Precision::ALL), salt in 0..1000u32,
    ) {
        let drawn = Chain { terms: vec![Term::Reduce], cout: chain.cout.max(2), ..chain };
        check_kernels_in(&[precision], &halved(drawn), salt, "factorized_reduce")?;
    }
}

/// A chain of the given sizes, with a raw output behind its mix.
fn chain(size: [usize; 3], (cin, cout): (usize, usize), stride: usize, terms: Vec<Term>) -> Chain {
    Chain {
        size,
        cin,
        cout,
        stride,
        normalised_input: false,
        terms,
        normalised_output: false,
        classes: 3,
    }
}

const ONE: Term = Term::Conv { kernel: 1 };
const THREE: Term = Term::Conv { kernel: 3 };

#[test]
fn convolutions_of_whole_vectors_on_the_device_match_the_cpu() {
    check_kernels(&chain([2, 8, 8], (16, 16), 1, vec![ONE, THREE]), 1, "conv").unwrap();
}

#[test]
fn strided_convolutions_of_odd_sizes_on_the_device_match_the_cpu() {
    check_kernels(&chain([3, 7, 5], (5, 17), 2, vec![ONE, THREE]), 2, "conv").unwrap();
}

#[test]
fn rows_wider_than_a_tile_on_the_device_match_the_cpu() {
    check_kernels(&chain([1, 9, 33], (20, 33), 1, vec![THREE]), 3, "conv").unwrap();
}

#[test]
fn several_blocks_of_channels_on_the_device_match_the_cpu() {
    check_kernels(&chain([2, 3, 4], (68, 136), 1, vec![ONE, THREE]), 4, "conv").unwrap();
}

#[test]
fn rows_and_columns_of_windows_over_several_blocks_of_channels_on_the_device_match_the_cpu() {
    let terms = vec![Term::Along { kernel: 3 }, Term::Along { kernel: 7 }];
    for (salt, channels, stride) in [(9, 16, 1), (10, 72, 2)] {
        let chain = chain([2, 9, 11], (channels, channels), stride, terms.clone());
        check_kernels(&chain, salt, "conv").unwrap();
    }
}

#[test]
fn images_of_one_pixel_on_the_device_match_the_cpu() {
    check_kernels(&chain([5, 1, 1], (8, 2), 1, vec![ONE, THREE]), 5, "conv").unwrap();
}

#[test]
fn factorized_reduction_on_the_device_matches_the_cpu() {
    // Halves that end within a thread's four channels, and whole ones; two blocks of channels.
    for (salt, channels) in [(6, (6, 10)), (7, (16, 16)), (8, (20, 72))] {
        let terms = vec![Term::Reduce];
        check_kernels(
            &chain([2, 6, 8], channels, 2, terms),
            salt,
            "factorized_reduce",
        )
        .unwrap();
    }
}
