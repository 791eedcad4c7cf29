//! All four passes of a mix of every op, by relaxed α, against the oracle.

use crate::oracle::engine::chain::{Chain, Term};
use crate::oracle::engine::ops::{
    check, config, conv_term, halved, pool_term, separable_term, sizes, squared,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn four_passes_of_a_mix_of_all_ops_match_the_oracle(
        chain in sizes(),
        separable in separable_term(),
        conv in conv_term(),
        pools in prop::collection::vec(pool_term(), 0..=2),
        salt in 0..1000u32,
    ) {
        let last = if chain.stride == 1 { Term::Skip } else { Term::Reduce };
        let terms = [vec![separable, conv], pools, vec![last]].concat();
        let chain = squared(Chain { terms, cin: chain.cin.max(2), ..chain });
        check(&if chain.stride == 1 { chain } else { halved(chain) }, salt)?;
    }
}
