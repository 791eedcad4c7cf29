//! All four passes of each pool, with and without batch norm behind it: on the CPU against the oracle,
//! on the device against the CPU.

use super::Kind;
use crate::autograd::Tape;
use crate::ops::cuda::Precision;
use crate::ops::{Scale, mix};
use crate::oracle::engine::chain::{Chain, Term};
use crate::oracle::engine::ops::{
    check, check_kernels, check_supernet_kernels, check_tape_kernels, config, halved, pool_term,
    sizes, squared, wide_pool_term,
};
use crate::oracle::ops::Pool;
use crate::space::Space;
use proptest::prelude::*;

fn halving() -> impl Strategy<Value = Pool> {
    prop::sample::select(vec![Pool::Average2, Pool::Max2])
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn four_passes_of_pool_match_the_oracle(
        chain in sizes(), terms in prop::collection::vec(pool_term(), 1..=3), salt in 0..1000u32,
    ) {
        check(&squared(Chain { terms, ..chain }), salt)?;
    }

    #[test]
    fn four_passes_of_wide_maxima_match_the_oracle(
        chain in sizes(), terms in prop::collection::vec(wide_pool_term(), 1..=3), salt in 0..1000u32,
    ) {
        check(&squared(Chain { terms, ..chain }), salt)?;
    }

    #[test]
    fn four_passes_of_halving_pools_match_the_oracle(
        chain in sizes(), kind in halving(), normalised in any::<bool>(), salt in 0..1000u32,
    ) {
        let terms = vec![Term::Pool { kind, normalised }];
        check(&squared(halved(Chain { terms, ..chain })), salt)?;
    }

    #[test]
    fn four_passes_of_pool_on_the_device_match_the_cpu(
        chain in sizes(), terms in prop::collection::vec(pool_term(), 1..=3), salt in 0..1000u32,
    ) {
        check_kernels(&squared(Chain { terms, ..chain }), salt, "pool")?;
    }

    #[test]
    fn four_passes_of_wide_maxima_on_the_device_match_the_cpu(
        chain in sizes(), terms in prop::collection::vec(wide_pool_term(), 1..=3), salt in 0..1000u32,
    ) {
        check_kernels(&squared(Chain { terms, ..chain }), salt, "pool")?;
    }

    #[test]
    fn four_passes_of_halving_pools_on_the_device_match_the_cpu(
        chain in sizes(), kind in halving(), normalised in any::<bool>(), salt in 0..1000u32,
    ) {
        let terms = vec![Term::Pool { kind, normalised }];
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
        let terms = vec![pool(Pool::Max5, true), pool(Pool::Max7, false)];
        check_kernels(&Chain { terms, ..chain }, 7, "pool").unwrap();
    }
}

#[test]
fn every_pool_of_the_supernets_on_the_device_matches_the_cpu() {
    check_supernet_kernels(Space::Darts, 4, "pool");
    check_supernet_kernels(Space::NasBench201, 3, "pool");
    check_supernet_kernels(Space::Nasnet, 4, "pool");
}

#[test]
fn more_pools_than_a_launch_takes_add_up_on_the_device() {
    let (batch, side, channels, classes) = (3, 6, 4, 2);
    let mut tape = Tape::new(batch, side, side);
    let first = tape.weight(3 * channels);
    let images = tape.images;
    let x = tape.conv(images, (1, 1), channels, false, false, (first, None));
    let kinds = [Kind::Maximum3, Kind::Average3, Kind::Maximum3];
    let pools = tape.pool(x, 1, &kinds, true);
    let terms = pools.into_iter().map(|input| mix::Term {
        input,
        scale: Scale::One,
    });
    let y = tape.activation([side; 2], channels, false);
    tape.mix(terms.collect(), None, y);
    let linear = tape.weight(channels * classes);
    let bias = tape.weight(classes);
    tape.classifier(y, true, linear, bias);
    tape.finish();
    let values = 0..batch * side * side * 3;
    let images: Vec<f64> = values.map(|i| (i * 37 % 101) as f64 / 50.0 - 1.0).collect();
    check_tape_kernels(&Precision::ALL, &tape, (&images, &[0, 1, 1]), 0, "pool").unwrap();
}
