//! NDARTS (Han et al. 2023): the implicit hypergradient with K + 1 Neumann terms.
//!
//! ```text
//! v₀ = ∂L2/∂ω      v_k = v_{k−1} − γ·H·v_{k−1}      p = Σ_{k=0..K} v_k      H = ∂²L1/∂ω∂ω
//! dα = ∂L2/∂α − γ·(∂²L1/∂α∂ω)·p
//! ```
//!
//! γ·Σ (I − γH)^k → H⁻¹ where ‖I − γH‖ < 1. One training batch is linearised once; each term is one
//! exact product. When ‖v_k‖ grows, the series does not converge at this γ: the term is dropped and
//! the report says so. [`Gamma::Auto`] takes γ = 1/λ_max(H) by power iteration on the same product.

use super::{Hypergradient, InnerStep, Level, Losses, Report, Terms, clear_alpha};
use crate::autograd::Series;
use crate::device::random::{Philox, Purpose};
use crate::device::{Device, Later, Slice, SliceMut, Vector};
use crate::ops::update::{OverNorm, axpy, cpu, norm, norm_later, normalise, over_norm, replace};

pub use super::gamma::Gamma;

/// Products of the first power iteration, from a random vector.
const COLD_ITERATIONS: usize = 12;
/// Products of each later one, from the last vector.
const WARM_ITERATIONS: usize = 2;

/// See the module.
pub struct Neumann {
    terms: usize,
    gamma: Gamma,
    guard: bool,
    seed: u64,
    /// The power iteration's vector; empty until it first ran.
    eigenvector: Vector,
    v: Vector,
    p: Vector,
    product: Vector,
}

impl Neumann {
    /// K = `terms` ≥ 0. `guard` stops the series when a term grows.
    pub fn new(terms: usize, gamma: Gamma, guard: bool, seed: u64) -> Neumann {
        Neumann {
            terms,
            gamma,
            guard,
            seed,
            eigenvector: Vector::empty(),
            v: Vector::empty(),
            p: Vector::empty(),
            product: Vector::empty(),
        }
    }

    /// γ = 1/λ_max(H) by power iteration, at the linearised θ; nothing is read back from a device for it.
    fn inverse_of_largest_eigenvalue(
        &mut self,
        losses: &mut dyn Losses,
        theta: Slice,
    ) -> anyhow::Result<OverNorm> {
        let omega = losses.omega_len();
        let mut iterations = WARM_ITERATIONS;
        if self.eigenvector.is_empty() {
            let philox = Philox::new(self.seed, Purpose::PowerIteration);
            let element = |i: usize| philox.normal4((i / 4) as u64, 0)[i % 4];
            let mut start: Vec<f32> = (0..theta.len()).map(element).collect();
            start[omega..].fill(0.0);
            self.eigenvector = Vector::new(&theta.device(), start)?;
            iterations = COLD_ITERATIONS;
        }
        for _ in 0..iterations {
            normalise(&mut self.eigenvector)?;
            losses.product(theta, self.eigenvector.slice(), self.product.slice_mut())?;
            clear_alpha(&mut self.product, omega)?;
            replace(&mut self.eigenvector, &self.product)?;
        }
        // A flat L1 has no curvature to invert: any γ leaves v as it is.
        over_norm(1.0, 1.0, &self.product)
    }
}

/// The series term by term, on the host: from v = (v, 0), v_k = v_{k−1} − γ·H·v_{k−1} and p = Σ v_k. A
/// term that grows ends it, if the guard is on, and is left out. `product` is scratch.
///
/// # Errors
/// What a product says.
///
/// # Panics
/// Vectors on a GPU, which has a series of its own.
pub fn terms(
    losses: &mut dyn Losses,
    theta: Slice,
    settings: Terms,
    [v, p, product]: [&mut Vector; 3],
) -> anyhow::Result<Series> {
    let omega = losses.omega_len();
    p.slice_mut().copy_from(v.slice())?;
    let mut series = Series {
        // The list is the record's to keep: the one allocation of the step, made in one piece.
        norms: Vec::with_capacity(settings.count + 1),
        stopped: false,
    };
    series.norms.push(norm(&*v)?);
    for term in 1..=settings.count {
        losses.product(theta, v.slice(), product.slice_mut())?;
        clear_alpha(product, omega)?;
        let (Some(v), Some(p), Some(product)) = (v.host_mut(), p.host_mut(), product.host_mut())
        else {
            unreachable!("a series term by term runs on the host");
        };
        let length = cpu::neumann_step(settings.gamma.known(), product, v, p);
        series.norms.push(length);
        if settings.guard && length > series.norms[term - 1] {
            cpu::axpy(-1.0, v, p);
            series.stopped = true;
            break;
        }
    }
    Ok(series)
}

impl Hypergradient for Neumann {
    fn compute(
        &mut self,
        losses: &mut dyn Losses,
        theta: Slice,
        _: InnerStep,
        mut alpha_gradient: SliceMut,
    ) -> anyhow::Result<Later<Report>> {
        let omega = losses.omega_len();
        let alpha = omega..theta.len();
        for vector in [&mut self.v, &mut self.p, &mut self.product] {
            vector.fit(theta)?;
        }
        let validation = losses.gradient(Level::Validation, theta, self.v.slice_mut())?;
        alpha_gradient.copy_from(self.v.part(alpha.clone()))?;
        clear_alpha(&mut self.v, omega)?;
        let direct_norm = norm_later(alpha_gradient.as_slice())?;
        losses.linearise(theta, self.product.slice_mut())?;
        let (gamma, value) = match self.gamma {
            Gamma::Fixed(gamma) => (gamma.into(), f64::from(gamma).into()),
            Gamma::Auto => {
                let found = self.inverse_of_largest_eigenvalue(losses, theta)?;
                (found.factor, found.value)
            }
        };
        let settings = Terms {
            gamma,
            count: self.terms,
            guard: self.guard,
        };
        let vectors = [&mut self.v, &mut self.p, &mut self.product];
        let series = losses.series(theta, settings, vectors)?;
        losses.product(theta, self.p.slice(), self.product.slice_mut())?;
        let mixed = self.product.part(alpha);
        let mixed_norm = norm_later(mixed)?;
        axpy(-gamma, mixed, alpha_gradient)?;
        let numbers = value.and(direct_norm.and(mixed_norm));
        let found = validation.and(series).and(numbers);
        Ok(found.map(
            |((validation, series), (gamma, (direct_norm, mixed_norm)))| Report {
                validation,
                gamma: Some(gamma),
                norms: series.norms,
                stopped: series.stopped,
                direct_norm,
                correction_norm: Some(gamma * mixed_norm),
            },
        ))
    }

    fn state(&self) -> anyhow::Result<Vec<f32>> {
        self.eigenvector.slice().to_vec()
    }

    fn restore(&mut self, device: &Device, state: &[f32]) -> anyhow::Result<()> {
        self.eigenvector = Vector::new(device, state.to_vec())?;
        Ok(())
    }
}
