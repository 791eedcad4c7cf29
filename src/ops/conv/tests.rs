//! All four passes of dense convolution and factorized reduction against the oracle.

use crate::oracle::engine::chain::{Chain, Term};
use crate::oracle::engine::ops::{check, config, conv_term, halved, sizes};
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
    fn four_passes_of_factorized_reduce_match_the_oracle(chain in sizes(), salt in 0..1000u32) {
        let terms = vec![Term::Reduce; 1 + usize::from(chain.normalised_input)];
        check(&halved(Chain { terms, cout: chain.cout.max(2), ..chain }), salt)?;
    }
}
