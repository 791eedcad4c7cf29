//! The engine against the oracle.
//!
//! An engine's gradient or product g of a tensor is compared with the oracle's h through random sign
//! vectors s: the expectation of (s·g − s·h)² is ‖g − h‖², and s·h is one evaluation on dual
//! (s·∇²L·v: hyper-dual) numbers whatever the tensor's size. Four signs a tensor estimate its error.

mod chain;
mod ops;
mod supernets;

use crate::derivative::{dot, relative_error};
use crate::draw::uniform;
use ndarts::autograd::{Executor, Mode, Tape};
use ndarts::device::Device;
use ndarts::ops::Span;
use rayon::prelude::*;

/// Norm-wise relative errors allowed to f32.
const VALUE_TOLERANCE: f64 = 1e-5;
const GRADIENT_TOLERANCE: f64 = 1e-4;
const PRODUCT_TOLERANCE: f64 = 1e-4;

/// Sign vectors a tensor.
const SIGNS: usize = 4;

/// A tensor far smaller than the whole gradient is judged by this part of the whole: behind a
/// batch norm over two pixels a true gradient nearly vanishes and only rounding is left.
const SMALL: f64 = 1e-2;

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
    executor.load(&single(images), &labels);
    let (mut gradient, mut again) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
    let evaluated = executor.forward(Mode::Evaluate, &theta);
    let recorded = executor.forward(Mode::Gradient, &theta);
    executor.backward(&theta, &mut gradient);
    let outcome = executor.forward(Mode::Products, &theta);
    executor.backward(&theta, &mut again);
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
    executor.product(&theta, &v, &mut product);
    executor.product(&theta, &v, &mut again);
    assert_eq!(
        product, again,
        "a second product along one direction is the first"
    );
    Passes {
        loss: outcome.loss,
        logits: double(executor.logits()),
        gradient: double(&gradient),
        product: double(&product),
    }
}

/// The oracle's side of a comparison, at one point θ.
trait Truth: Sync {
    /// Loss and logits.
    fn value(&self) -> (f64, Vec<f64>);
    /// ∇L·u for a `u` that is zero outside tensor `index`.
    fn slope(&self, index: usize, u: &[f64]) -> f64;
    /// uᵀ∇²L·v for the comparison's v.
    fn curvature(&self, index: usize, u: &[f64]) -> f64;
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
    let slope = |index, u: &[f64]| truth.slope(index, u);
    judge(
        "gradient",
        &passes.gradient,
        tensors,
        slope,
        GRADIENT_TOLERANCE,
    )?;
    let curvature = |index, u: &[f64]| truth.curvature(index, u);
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
    along: impl Fn(usize, &[f64]) -> f64 + Sync,
    tolerance: f64,
) -> Result<(), String> {
    let errors: Vec<f64> = (0..tensors.len())
        .into_par_iter()
        .map(|index| {
            let (name, span) = &tensors[index];
            let part = &engine[span.offset..span.offset + span.len];
            let squares = (0..SIGNS).map(|sign| {
                let signs = uniform(&format!("sign {sign} of {name}"), span.len);
                let signs: Vec<f64> = signs.iter().map(|x| x.signum()).collect();
                (dot(part, &signs) - along(index, &signs)).powi(2)
            });
            (squares.sum::<f64>() / SIGNS as f64).sqrt()
        })
        .collect();
    let whole = dot(engine, engine).sqrt();
    let joint = dot(&errors, &errors).sqrt() / whole;
    if joint.is_nan() || joint > tolerance {
        return Err(format!(
            "the {what} differs by {joint:.2e}, more than {tolerance:e}"
        ));
    }
    for ((name, span), error) in tensors.iter().zip(errors) {
        let part = &engine[span.offset..span.offset + span.len];
        let scale = dot(part, part).sqrt().max(SMALL * whole);
        if error > tolerance * scale {
            let relative = error / scale;
            return Err(format!("the {what} of {name} differs by {relative:.2e}"));
        }
    }
    Ok(())
}
