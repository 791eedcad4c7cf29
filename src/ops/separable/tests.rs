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

mod kernels {
    //! The kernels against the CPU, on a GPU or on softcuda.

    use super::*;
    use crate::autograd::executor::record;
    use crate::autograd::{Mode, Tape};
    use crate::network::Supernet;
    use crate::ops::Pass;
    use crate::ops::cuda::Precision;
    use crate::oracle::engine::chain::Term;
    use crate::oracle::engine::ops::{check_kernels, check_variant_kernels, sharp_variant};
    use crate::space::Space;

    fn term(kernel: usize, dilation: usize, twice: bool) -> Term {
        Term::Separable {
            kernel,
            dilation,
            twice,
        }
    }

    fn chain(size: [usize; 3], (cin, cout): (usize, usize), stride: usize) -> Chain {
        Chain {
            size,
            cin,
            cout,
            stride,
            normalised_input: false,
            terms: vec![term(3, 1, true), term(5, 1, true), term(5, 2, false)],
            normalised_output: true,
            classes: 3,
        }
    }

    #[test]
    fn four_passes_of_the_branches_of_a_state_match_the_cpu() {
        check_kernels(&chain([2, 6, 10], (16, 16), 1), 1, "separable").unwrap();
    }

    #[test]
    fn four_passes_at_stride_2_and_odd_sides_match_the_cpu() {
        check_kernels(&chain([2, 7, 9], (8, 12), 2), 2, "separable").unwrap();
    }

    #[test]
    fn channels_that_are_no_whole_vectors_match_the_cpu() {
        for (cin, cout) in [(5, 3), (6, 10)] {
            check_kernels(&chain([2, 5, 4], (cin, cout), 1), 3, "separable").unwrap();
        }
    }

    #[test]
    fn seven_by_seven_windows_over_a_normalised_state_match_the_cpu() {
        let chain = Chain {
            normalised_input: true,
            terms: vec![term(7, 2, false), term(3, 2, true)],
            ..chain([1, 9, 5], (4, 4), 1)
        };
        check_kernels(&chain, 4, "separable").unwrap();
    }

    #[test]
    fn more_channels_than_a_block_holds_at_once_match_the_cpu() {
        let chain = Chain {
            terms: vec![term(3, 1, false), term(7, 2, false)],
            ..chain([1, 13, 14], (132, 20), 1)
        };
        check_kernels(&chain, 5, "separable").unwrap();
    }

    #[test]
    fn one_row_of_an_image_matches_the_cpu() {
        let chain = Chain {
            normalised_input: true,
            terms: vec![term(5, 1, true), term(3, 2, false)],
            ..chain([8, 1, 3], (15, 33), 2)
        };
        check_kernels(&chain, 6, "separable").unwrap();
    }

    #[test]
    fn branches_of_one_state_and_different_widths_match_the_cpu() {
        check_variant_kernels(&sharp_variant(), 2, "separable");
    }

    #[test]
    fn the_supernet_of_sharp_darts_fits_every_gpu() {
        let size = [32, 32];
        let supernet =
            Supernet::record_variant(Space::Darts, 16, 8, 10, 64, size, &sharp_variant()).unwrap();
        records_every_pass(&supernet.tape, &Precision::ALL);
    }

    fn records_every_pass(tape: &Tape, precisions: &[Precision]) {
        for pass in [
            Pass::Forward,
            Pass::Backward,
            Pass::Tangent,
            Pass::TangentBackward,
        ] {
            for &precision in precisions {
                let recorded = record(tape, Mode::Products, pass, (precision, 1));
                assert!(recorded.is_ok(), "{precision:?}: {:?}", recorded.err());
            }
        }
    }

    #[test]
    fn hundreds_of_channels_fit_every_gpu() {
        for (cin, cout) in [(300, 200), (7, 256), (512, 256)] {
            let chain = Chain {
                terms: vec![term(3, 1, true), term(5, 2, false), term(7, 1, false)],
                ..chain([2, 33, 40], (cin, cout), 1)
            };
            let (tape, _) = chain.record();
            records_every_pass(&tape, &[Precision::F32]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..config() })]

        #[test]
        fn four_passes_of_drawn_branches_match_the_cpu(
            chain in sizes(), terms in prop::collection::vec(separable_term(), 1..=3),
            salt in 0..1000u32,
        ) {
            check_kernels(&Chain { terms, ..chain }, salt, "separable")?;
        }
    }
}
