//! All four passes of a mix of every op, by relaxed α: on the CPU against the oracle, on the device
//! against the CPU.

use crate::oracle::engine::chain::{Chain, Term};
use crate::oracle::engine::ops::{
    check, check_kernels, check_supernet_kernels, config, conv_term, halved, pool_term,
    separable_term, sizes, squared,
};
use crate::oracle::ops::Pool;
use crate::space::Space;
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

    #[test]
    fn four_passes_of_mix_on_the_device_match_the_cpu(
        chain in sizes(),
        pools in prop::collection::vec(pool_term(), 0..=3),
        conv in conv_term(),
        salt in 0..1000u32,
    ) {
        let last = if chain.stride == 1 { Term::Skip } else { Term::Reduce };
        let terms = [vec![conv], pools, vec![last]].concat();
        let chain = squared(Chain { terms, cin: chain.cin.max(2), ..chain });
        check_kernels(&if chain.stride == 1 { chain } else { halved(chain) }, salt, "mix")?;
    }
}

/// Sizes at which blocks take several pixels a thread, several slabs, and several groups of sums.
#[test]
fn mix_on_the_device_matches_the_cpu_where_blocks_are_full() {
    let pool = |kind, normalised| Term::Pool { kind, normalised };
    for (size, channels, normalised_output) in [
        ([3, 33, 31], 24, false), // two slabs, the second half empty
        ([4, 48, 48], 33, false), // single channels, three slabs, four pixels a thread
        ([2, 80, 81], 36, true),  // vectors of four, two pixels a thread
        ([2, 64, 64], 34, true),  // pairs
    ] {
        let chain = Chain {
            size,
            cin: channels,
            cout: channels,
            stride: 1,
            normalised_input: false,
            terms: vec![
                Term::Conv { kernel: 1 },
                pool(Pool::Average3, true),
                pool(Pool::Average3, false),
                Term::Skip,
            ],
            normalised_output,
            classes: 3,
        };
        check_kernels(&chain, 5, "mix").unwrap();
    }
}

#[test]
fn every_mix_of_both_supernets_on_the_device_matches_the_cpu() {
    check_supernet_kernels(Space::Darts, 4, "mix");
    check_supernet_kernels(Space::NasBench201, 3, "mix");
}
