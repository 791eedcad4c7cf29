//! All four passes of each pool against the oracle, with and without batch norm behind it.

use crate::oracle::engine::chain::{Chain, Term};
use crate::oracle::engine::ops::{check, config, halved, pool_term, sizes, squared};
use crate::oracle::ops::Pool;
use proptest::prelude::*;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn four_passes_of_pool_match_the_oracle(
        chain in sizes(), terms in prop::collection::vec(pool_term(), 1..=3), salt in 0..1000u32,
    ) {
        check(&squared(Chain { terms, ..chain }), salt)?;
    }

    #[test]
    fn four_passes_of_halving_average_pool_match_the_oracle(
        chain in sizes(), normalised in any::<bool>(), salt in 0..1000u32,
    ) {
        let terms = vec![Term::Pool { kind: Pool::Average2, normalised }];
        check(&squared(halved(Chain { terms, ..chain })), salt)?;
    }
}
