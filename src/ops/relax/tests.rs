//! The kernels against the CPU, on a GPU or on softcuda.

use crate::oracle::engine::chain::{Chain, Term};
use crate::oracle::engine::ops::check_kernels;

#[test]
fn four_passes_of_relax_on_the_device_match_the_cpu() {
    let term = |kernel| Term::Conv { kernel };
    let chain = Chain {
        size: [2, 3, 4],
        cin: 5,
        cout: 5,
        stride: 1,
        normalised_input: false,
        terms: vec![term(1), term(3), Term::Skip],
        normalised_output: false,
        classes: 4,
    };
    check_kernels(&chain, 1, "relax").unwrap();
}
