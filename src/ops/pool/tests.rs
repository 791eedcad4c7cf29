//! All four passes of each pool, with and without batch norm behind it: on the CPU against the oracle,
//! on the device against the CPU.

use crate::oracle::engine::chain::{Chain, Term};
use crate::oracle::engine::ops::{
    check, check_kernels, check_supernet_kernels, config, halved, pool_term, sizes, squared,
};
use crate::oracle::ops::Pool;
use crate::space::Space;
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

    #[test]
    fn four_passes_of_pool_on_the_device_match_the_cpu(
        chain in sizes(), terms in prop::collection::vec(pool_term(), 1..=3), salt in 0..1000u32,
    ) {
        check_kernels(&squared(Chain { terms, ..chain }), salt, "pool")?;
    }

    #[test]
    fn four_passes_of_halving_average_pool_on_the_device_match_the_cpu(
        chain in sizes(), normalised in any::<bool>(), salt in 0..1000u32,
    ) {
        let terms = vec![Term::Pool { kind: Pool::Average2, normalised }];
        check_kernels(&squared(halved(Chain { terms, ..chain })), salt, "pool")?;
    }
}

/// Images that are cut into bands and columns, and several small ones to a tile.
#[test]
fn pool_on_the_device_matches_the_cpu_where_tiles_have_borders() {
    for (size, channels, stride) in [
        ([3, 70, 66], 4, 1),
        ([2, 67, 65], 4, 2),
        ([40, 8, 8], 12, 1),
        ([2, 40, 33], 5, 2),
    ] {
        let pool = |kind, normalised| Term::Pool { kind, normalised };
        let chain = Chain {
            size,
            cin: channels,
            cout: channels,
            stride,
            normalised_input: false,
            terms: vec![pool(Pool::Max3, true), pool(Pool::Average3, false)],
            normalised_output: false,
            classes: 3,
        };
        check_kernels(&chain, 7, "pool").unwrap();
    }
}

#[test]
fn every_pool_of_both_supernets_on_the_device_matches_the_cpu() {
    check_supernet_kernels(Space::Darts, 4, "pool");
    check_supernet_kernels(Space::NasBench201, 3, "pool");
}
