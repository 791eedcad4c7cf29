//! All four passes against the oracle, over drawn shapes, kernels, strides and dilations.

use crate::oracle::engine::chain::Chain;
use crate::oracle::engine::ops::{check, config, separable_term, sizes};
use proptest::prelude::*;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn four_passes_of_separable_match_the_oracle(
        chain in sizes(), terms in prop::collection::vec(separable_term(), 1..=3), salt in 0..1000u32,
    ) {
        check(&Chain { terms, ..chain }, salt)?;
    }
}
