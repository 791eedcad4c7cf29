//! Drawn shapes for the tests in each op's folder, and the comparison they make: all four passes of
//! the engine against the oracle.

use super::chain::{Chain, ChainTruth, Term};
use super::{Passes, compare, run};
use crate::autograd::Tape;
use crate::autograd::executor::parity;
use crate::network::{Supernet, Variant};
use crate::ops::cuda::Precision;
use crate::ops::relax::Relaxation;
use crate::oracle::draw::uniform;
use crate::oracle::ops::Pool;
use crate::space::{SHARP_CANDIDATES, Space};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// θ and v rounded to f32, so that engine and oracle stand at the same point.
fn drawn(name: &str, len: usize) -> Vec<f64> {
    uniform(name, len)
        .iter()
        .map(|&x| f64::from(x as f32))
        .collect()
}

pub fn check(chain: &Chain, salt: u32) -> Result<(), TestCaseError> {
    check_spoiled(chain, salt, |_| ())
        .map_err(|message| TestCaseError::fail(format!("{message}\n{chain:?}")))
}

/// Every op called `name` of the chain, on a GPU or softcuda, against the same op on the CPU; in
/// all three precisions. Does nothing, and says so, where there is neither. The batch is made large enough for
/// sixteen values a channel: over two or three, an adjoint through batch norm is what rounding left.
pub fn check_kernels(chain: &Chain, salt: u32, name: &str) -> Result<(), TestCaseError> {
    check_kernels_in(&Precision::ALL, chain, salt, name)
}

/// As [`check_kernels`], in these precisions.
pub fn check_kernels_in(
    precisions: &[Precision],
    chain: &Chain,
    salt: u32,
    name: &str,
) -> Result<(), TestCaseError> {
    let [batch, height, width] = chain.size;
    let pixels = height.div_ceil(chain.stride) * width.div_ceil(chain.stride);
    let chain = &Chain {
        size: [batch.max(16usize.div_ceil(pixels)), height, width],
        ..chain.clone()
    };
    let (tape, _) = chain.record();
    let labels: Vec<u32> = chain.labels().iter().map(|&label| label as u32).collect();
    let images = chain.images().data;
    check_tape_kernels(precisions, &tape, (&images, &labels), salt, name)
        .map_err(|e| TestCaseError::fail(format!("{e}\n{chain:?}")))
}

/// As [`check_kernels`], of a whole small supernet: cells of both kinds, every op of the space.
pub fn check_supernet_kernels(space: Space, channels: usize, name: &str) {
    let (batch, side, classes) = (2, 8, 4);
    let cells = if space == Space::NasBench201 { 1 } else { 3 };
    let supernet = Supernet::record(space, channels, cells, classes, batch, [side; 2])
        .expect("the sizes are allowed");
    check_tape_of(&supernet, name).unwrap_or_else(|e| panic!("{space:?}: {e}"));
}

/// What PC-DARTS with a quarter of the channels makes of the DARTS supernet.
pub fn partial_variant() -> Variant {
    Variant {
        partial: Some(4),
        ..Variant::default()
    }
}

/// What sharpDARTS makes of it.
pub fn sharp_variant() -> Variant {
    Variant {
        relaxation: Relaxation::MaxW,
        ops: &SHARP_CANDIDATES,
        ..Variant::default()
    }
}

/// As [`check_supernet_kernels`], of a DARTS supernet that a search changed.
pub fn check_variant_kernels(variant: &Variant, channels: usize, name: &str) {
    let supernet = Supernet::record_variant(Space::Darts, channels, 3, 4, 2, [8; 2], variant)
        .expect("the sizes are allowed");
    let runs = supernet.tape.ops.iter().any(|op| op.name() == name);
    assert!(runs, "the supernet has {name}");
    check_tape_of(&supernet, name).unwrap_or_else(|e| panic!("{variant:?}: {e}"));
}

/// As [`check_tape_kernels`], of a supernet on two images of 8×8.
fn check_tape_of(supernet: &Supernet, name: &str) -> Result<(), String> {
    let images = drawn("supernet images", 2 * 8 * 8 * 3);
    check_tape_kernels(&Precision::ALL, &supernet.tape, (&images, &[1, 3]), 0, name)
}

/// As [`check_kernels`], of any tape.
///
/// # Errors
/// What differs.
pub fn check_tape_kernels(
    precisions: &[Precision],
    tape: &Tape,
    (images, labels): (&[f64], &[u32]),
    salt: u32,
    name: &str,
) -> Result<(), String> {
    let Some(gpu) = crate::device::cuda::for_tests() else {
        return Ok(());
    };
    let single = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let case = parity::Case {
        tape,
        images: &single(images),
        labels,
        theta: &single(&drawn(&format!("theta {salt}"), tape.theta_len())),
        direction: &single(&drawn(&format!("direction {salt}"), tape.theta_len())),
    };
    for &precision in precisions {
        let checked = parity::check(&gpu, &case, name, precision);
        checked.map_err(|e| format!("{precision:?}: {e}"))?;
    }
    Ok(())
}

/// The comparison, after `spoil` had its way with the engine's results.
fn check_spoiled(chain: &Chain, salt: u32, spoil: impl Fn(&mut Passes)) -> Result<(), String> {
    let (tape, tensors) = chain.record();
    let theta = drawn(&format!("theta {salt}"), tape.theta_len());
    let direction = drawn(&format!("direction {salt}"), tape.theta_len());
    let mut passes = run(
        tape,
        &chain.images().data,
        &chain.labels(),
        &theta,
        &direction,
    );
    let truth = ChainTruth::new(chain, &theta, direction, &tensors);
    spoil(&mut passes);
    compare(&passes, &tensors, &truth)
}

/// Images of odd and even sides down to one pixel, channels around and off the vector width, and
/// at least two pixels for the batch statistics: over one pixel relu stands exactly at its kink.
pub fn sizes() -> impl Strategy<Value = Chain> {
    let size = (1..=4usize, 1..=7usize, 1..=7usize);
    let channels = prop::sample::select(vec![1usize, 2, 3, 5, 8, 15, 16, 17, 20, 33]);
    let flags = (any::<bool>(), any::<bool>());
    (
        size,
        (channels.clone(), channels),
        1..=2usize,
        flags,
        2..=6usize,
    )
        .prop_map(
            |((n, h, w), (cin, cout), stride, (input, output), classes)| Chain {
                size: [n, h, w],
                cin,
                cout,
                stride,
                normalised_input: input,
                normalised_output: output,
                terms: Vec::new(),
                classes,
            },
        )
        .prop_filter("two pixels", |c| {
            c.size[0] * c.size[1].div_ceil(c.stride) * c.size[2].div_ceil(c.stride) > 1
        })
}

pub fn separable_term() -> impl Strategy<Value = Term> {
    let kernel = prop::sample::select(vec![3usize, 5, 7]);
    (kernel, 1..=2usize, any::<bool>()).prop_map(|(kernel, dilation, twice)| Term::Separable {
        kernel,
        dilation,
        twice,
    })
}

pub fn conv_term() -> impl Strategy<Value = Term> {
    prop::sample::select(vec![1usize, 3]).prop_map(|kernel| Term::Conv { kernel })
}

pub fn axis_term() -> impl Strategy<Value = Term> {
    prop::sample::select(vec![3usize, 7]).prop_map(|kernel| Term::Along { kernel })
}

pub fn wide_pool_term() -> impl Strategy<Value = Term> {
    let kind = prop::sample::select(vec![Pool::Max3, Pool::Max5, Pool::Max7]);
    (kind, any::<bool>()).prop_map(|(kind, normalised)| Term::Pool { kind, normalised })
}

pub fn pool_term() -> impl Strategy<Value = Term> {
    let kind = prop::sample::select(vec![Pool::Average3, Pool::Max3]);
    (kind, any::<bool>()).prop_map(|(kind, normalised)| Term::Pool { kind, normalised })
}

/// Equal channels and a plain input, as pools and skips need.
pub fn squared(chain: Chain) -> Chain {
    Chain {
        cout: chain.cin,
        normalised_input: false,
        ..chain
    }
}

/// Even sides and stride 2.
pub fn halved(chain: Chain) -> Chain {
    let [n, h, w] = chain.size;
    let size = [n.max(2), h.next_multiple_of(2), w.next_multiple_of(2)];
    Chain {
        size,
        stride: 2,
        normalised_input: false,
        ..chain
    }
}

/// A fixed seed: f32 and f64 may stand on two sides of a kink, and must then do so always.
pub fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 24,
        max_shrink_iters: 0,
        rng_seed: RngSeed::Fixed(0x000D_AC1E),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn an_error_of_a_thousandth_in_any_result_is_noticed() {
    let chain = Chain {
        size: [2, 4, 4],
        cin: 3,
        cout: 3,
        stride: 1,
        normalised_input: false,
        terms: vec![Term::Skip, Term::Conv { kernel: 3 }],
        normalised_output: true,
        classes: 3,
    };
    assert_eq!(check_spoiled(&chain, 0, |_| ()), Ok(()));
    let spoiled: [fn(&mut Passes); 4] = [
        |passes| passes.loss *= 1.001,
        |passes| passes.logits[0] *= 1.001,
        |passes| passes.gradient.iter_mut().for_each(|x| *x *= 1.001),
        |passes| passes.product.iter_mut().for_each(|x| *x *= 1.001),
    ];
    for spoil in spoiled {
        assert!(check_spoiled(&chain, 0, spoil).is_err());
    }
}
