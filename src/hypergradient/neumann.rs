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

use super::{Hypergradient, InnerStep, Level, Losses, Report, clear_alpha};
use crate::device::random::{Philox, Purpose};
use crate::ops::update::{axpy, neumann_step, norm};

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
    eigenvector: Vec<f32>,
    v: Vec<f32>,
    p: Vec<f32>,
    product: Vec<f32>,
}

impl Neumann {
    /// K = `terms` ≥ 0. `guard` stops the series when a term grows.
    pub fn new(terms: usize, gamma: Gamma, guard: bool, seed: u64) -> Neumann {
        Neumann {
            terms,
            gamma,
            guard,
            seed,
            eigenvector: Vec::new(),
            v: Vec::new(),
            p: Vec::new(),
            product: Vec::new(),
        }
    }

    /// λ_max of H by power iteration, at the linearised θ.
    fn largest_eigenvalue(&mut self, losses: &mut dyn Losses, theta: &[f32]) -> f64 {
        let omega = losses.omega_len();
        let mut iterations = WARM_ITERATIONS;
        if self.eigenvector.is_empty() {
            let philox = Philox::new(self.seed, Purpose::PowerIteration);
            let element = |i: usize| philox.normal4((i / 4) as u64, 0)[i % 4];
            self.eigenvector = (0..theta.len()).map(element).collect();
            clear_alpha(&mut self.eigenvector, omega);
            iterations = COLD_ITERATIONS;
        }
        let mut eigenvalue = 0.0;
        for _ in 0..iterations {
            let length = norm(&self.eigenvector);
            self.eigenvector
                .iter_mut()
                .for_each(|x| *x /= length as f32);
            losses.product(theta, &self.eigenvector, &mut self.product);
            clear_alpha(&mut self.product, omega);
            eigenvalue = norm(&self.product);
            if eigenvalue == 0.0 {
                break;
            }
            self.eigenvector.copy_from_slice(&self.product);
        }
        eigenvalue
    }
}

impl Hypergradient for Neumann {
    fn compute(
        &mut self,
        losses: &mut dyn Losses,
        theta: &[f32],
        _: InnerStep,
        alpha_gradient: &mut [f32],
    ) -> Report {
        let omega = losses.omega_len();
        for vector in [&mut self.v, &mut self.p, &mut self.product] {
            vector.resize(theta.len(), 0.0);
        }
        let validation = losses.gradient(Level::Validation, theta, &mut self.v);
        alpha_gradient.copy_from_slice(&self.v[omega..]);
        clear_alpha(&mut self.v, omega);
        self.p.copy_from_slice(&self.v);
        // The list is the record's to keep: the one allocation of the step, made in one piece.
        let mut norms = Vec::with_capacity(self.terms + 1);
        norms.push(norm(&self.v));
        let mut report = Report {
            validation,
            norms,
            direct_norm: norm(alpha_gradient),
            ..Report::default()
        };
        losses.linearise(theta, &mut self.product);
        let gamma = match self.gamma {
            Gamma::Fixed(gamma) => gamma,
            Gamma::Auto => {
                let eigenvalue = self.largest_eigenvalue(losses, theta);
                // A flat L1 has no curvature to invert: any γ leaves v as it is.
                if eigenvalue > 0.0 {
                    (1.0 / eigenvalue) as f32
                } else {
                    1.0
                }
            }
        };
        report.gamma = Some(f64::from(gamma));
        for term in 1..=self.terms {
            losses.product(theta, &self.v, &mut self.product);
            clear_alpha(&mut self.product, omega);
            let length = neumann_step(gamma, &self.product, &mut self.v, &mut self.p);
            report.norms.push(length);
            if self.guard && length > report.norms[term - 1] {
                axpy(-1.0, &self.v, &mut self.p);
                report.stopped = true;
                break;
            }
        }
        losses.product(theta, &self.p, &mut self.product);
        let mixed = &self.product[omega..];
        report.correction_norm = Some(f64::from(gamma) * norm(mixed));
        axpy(-gamma, mixed, alpha_gradient);
        report
    }

    fn state(&self) -> &[f32] {
        &self.eigenvector
    }

    fn restore(&mut self, state: &[f32]) {
        self.eigenvector = state.to_vec();
    }
}
