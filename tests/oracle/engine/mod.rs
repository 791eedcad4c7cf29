//! The engine against the oracle.
//!
//! An engine's gradient or product g of a tensor is compared with the oracle's h through random sign
//! vectors s: the expectation of (s·g − s·h)² is ‖g − h‖², and s·h is one evaluation on dual
//! (s·∇²L·v: hyper-dual) numbers whatever the tensor's size. [`SIGNS`] vectors a tensor estimate its error.

pub mod chain;
pub mod ops;
mod supernets;

use crate::autograd::{Executor, Mode, Tape};
use crate::device::Device;
use crate::ops::Span;
use crate::oracle::derivative::{dot, relative_error};
use crate::oracle::draw::uniform;
use rayon::prelude::*;

/// Norm-wise relative errors allowed to f32.
const VALUE_TOLERANCE: f64 = 1e-5;
const GRADIENT_TOLERANCE: f64 = 1e-4;
const PRODUCT_TOLERANCE: f64 = 1e-4;

/// Sign vectors a tensor.
const SIGNS: usize = 3;

/// How many times the effect of rounding θ an engine may be off where that effect is large: over
/// two pixels batch norm divides one rounding error by a nearly vanishing deviation, and no f32
/// code can do better.
const ROUNDING: f64 = 32.0;

/// A tensor smaller than this part of the whole gradient is judged by that part. Batch norm makes
/// the loss blind to the scale of the weights before it; where that cancels a tensor's gradient or
/// product nearly away, rounding is left: up to 2e-5 of the whole for one input channel, in PyTorch's
/// f32 as in any.
const SMALL: f64 = 0.3;

/// What the four passes of the engine left.
struct Passes {
    loss: f64,
    logits: Vec<f64>,
    gradient: Vec<f64>,
    product: Vec<f64>,
}

/// Runs the four passes, and checks on the way that every mode gives the same bits.
fn run(tape: Tape, images: &[f64], labels: &[usize], theta: &[f64], v: &[f64]) -> Passes {
    let single = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let double = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (theta, v) = (single(theta), single(v));
    let labels: Vec<u32> = labels.iter().map(|&label| label as u32).collect();
    let mut executor = Executor::new(tape, Device::Cpu);
    executor.load(&single(images), &labels).unwrap();
    let (mut gradient, mut again) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
    let evaluated = executor.forward(Mode::Evaluate, &theta).unwrap();
    let recorded = executor.forward(Mode::Gradient, &theta).unwrap();
    executor.backward(&theta, &mut gradient).unwrap();
    let outcome = executor.forward(Mode::Products, &theta).unwrap();
    executor.backward(&theta, &mut again).unwrap();
    assert_eq!(
        (evaluated, recorded),
        (outcome, outcome),
        "every mode computes the same loss"
    );
    assert_eq!(
        gradient, again,
        "both modes with a backward pass give the same gradient"
    );
    let mut product = vec![0.0; theta.len()];
    executor.product(&theta, &v, &mut product).unwrap();
    executor.product(&theta, &v, &mut again).unwrap();
    assert_eq!(
        product, again,
        "a second product along one direction is the first"
    );
    Passes {
        loss: outcome.loss,
        logits: double(&executor.logits().unwrap()),
        gradient: double(&gradient),
        product: double(&product),
    }
}

/// Points at which a [`Truth`] answers: θ, and θ with each element moved by one f32 rounding.
const POINTS: usize = 3;

/// Point `index` of [`POINTS`], for the elements of a part of θ called `name`.
fn nudged(name: &str, values: &[f64], index: usize) -> Vec<f64> {
    if index == 0 {
        return values.to_vec();
    }
    let signs = uniform(&format!("nudge {index} of {name}"), values.len());
    let rounding = f64::from(f32::EPSILON);
    values
        .iter()
        .zip(signs)
        .map(|(x, sign)| x * (1.0 + sign.signum() * rounding))
        .collect()
}

/// The oracle's side of a comparison, at one of the [`POINTS`].
trait Truth: Sync {
    /// Loss and logits at θ.
    fn value(&self) -> (f64, Vec<f64>);
    /// ∇L·u for a `u` that is zero outside tensor `index`.
    fn slope(&self, point: usize, index: usize, u: &[f64]) -> f64;
    /// uᵀ∇²L·v for the comparison's v.
    fn curvature(&self, point: usize, index: usize, u: &[f64]) -> f64;
}

/// Compares loss, logits, and each tensor of the gradient and the product.
fn compare(passes: &Passes, tensors: &[(String, Span)], truth: &impl Truth) -> Result<(), String> {
    let (loss, logits) = truth.value();
    let error = relative_error(&passes.logits, &logits).max((passes.loss - loss).abs() / loss);
    if error.is_nan() || error > VALUE_TOLERANCE {
        return Err(format!(
            "loss {} and logits differ by {error:.2e} from {loss}",
            passes.loss
        ));
    }
    let slope = |point, index, u: &[f64]| truth.slope(point, index, u);
    judge(
        "gradient",
        &passes.gradient,
        tensors,
        slope,
        GRADIENT_TOLERANCE,
    )?;
    let curvature = |point, index, u: &[f64]| truth.curvature(point, index, u);
    judge(
        "product",
        &passes.product,
        tensors,
        curvature,
        PRODUCT_TOLERANCE,
    )
}

fn judge(
    what: &str,
    engine: &[f64],
    tensors: &[(String, Span)],
    along: impl Fn(usize, usize, &[f64]) -> f64 + Sync,
    tolerance: f64,
) -> Result<(), String> {
    let part = |span: &Span| &engine[span.offset..span.offset + span.len];
    let along = |point, index, signs: &[f64]| along(point, index, signs);
    let errors = measure(tensors, |index, signs| {
        dot(part(&tensors[index].1), signs) - along(0, index, signs)
    });
    let whole = dot(engine, engine).sqrt();
    let joint = dot(&errors, &errors).sqrt() / whole;
    let relative = |(error, (_, span)): (&f64, &(String, Span))| {
        error / dot(part(span), part(span)).sqrt().max(SMALL * whole)
    };
    let worst = errors.iter().zip(tensors).map(relative).fold(0.0, f64::max);
    if joint <= tolerance && worst <= tolerance {
        return Ok(());
    }
    let mut rounding = vec![0.0f64; tensors.len()];
    for point in 1..POINTS {
        let moved = measure(tensors, |index, signs| {
            along(point, index, signs) - along(0, index, signs)
        });
        rounding
            .iter_mut()
            .zip(moved)
            .for_each(|(most, moved)| *most = most.max(moved));
    }
    let floor = ROUNDING * dot(&rounding, &rounding).sqrt() / whole;
    if joint.is_nan() || joint > tolerance + floor {
        let allowed = tolerance + floor;
        return Err(format!(
            "the {what} differs by {joint:.2e}, more than {allowed:.2e}"
        ));
    }
    for (((name, span), error), rounding) in tensors.iter().zip(&errors).zip(rounding) {
        let scale = dot(part(span), part(span)).sqrt().max(SMALL * whole);
        let allowed = tolerance * scale + ROUNDING * rounding;
        if error.is_nan() || *error > allowed {
            return Err(format!(
                "the {what} of {name} differs by {error:.2e}, over {allowed:.2e}"
            ));
        }
    }
    Ok(())
}

/// Root mean square of `difference(tensor, signs)` over the sign vectors, for each tensor.
fn measure(
    tensors: &[(String, Span)],
    difference: impl Fn(usize, &[f64]) -> f64 + Sync,
) -> Vec<f64> {
    let of_tensor = |index: usize| {
        let (name, span) = &tensors[index];
        let squares = (0..SIGNS).map(|sign| {
            let signs = uniform(&format!("sign {sign} of {name}"), span.len);
            let signs: Vec<f64> = signs.iter().map(|x| x.signum()).collect();
            difference(index, &signs).powi(2)
        });
        (squares.sum::<f64>() / SIGNS as f64).sqrt()
    };
    (0..tensors.len()).into_par_iter().map(of_tensor).collect()
}
