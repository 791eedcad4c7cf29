//! Hypergradients on bilevel problems whose answer is known in closed form.
//!
//! L1 = ½ωᵀHω − ωᵀBα with H symmetric positive definite, L2 = ½‖ω − t‖² + ½‖α‖²: then
//! ω*(α) = H⁻¹Bα, ∂²L1/∂α∂ω = −Bᵀ, and at ω the implicit hypergradient is α + BᵀH⁻¹(ω − t).

use super::neumann::Gamma;
use super::unrolled::UnrolledProduct;
use super::*;

const N: usize = 3;
const M: usize = 2;
const H: [[f64; N]; N] = [[2.0, 0.3, 0.1], [0.3, 1.0, -0.2], [0.1, -0.2, 0.7]];
const B: [[f64; M]; N] = [[1.0, -0.5], [0.2, 0.8], [-0.3, 0.4]];
const T: [f64; N] = [1.0, -1.0, 0.5];

struct Quadratic;

fn split(theta: Slice) -> (Vec<f64>, Vec<f64>) {
    let theta = theta.to_vec().unwrap();
    let wide: Vec<f64> = theta.iter().map(|&x| f64::from(x)).collect();
    (wide[..N].to_vec(), wide[N..].to_vec())
}

impl Losses for Quadratic {
    fn omega_len(&self) -> usize {
        N
    }

    fn gradient(
        &mut self,
        level: Level,
        theta: Slice,
        mut gradient: SliceMut,
    ) -> anyhow::Result<Later<Outcome>> {
        let (w, a) = split(theta);
        let mut out = [0.0; N + M];
        for i in 0..N {
            out[i] = match level {
                Level::Training => {
                    let hw: f64 = (0..N).map(|j| H[i][j] * w[j]).sum();
                    (hw - (0..M).map(|j| B[i][j] * a[j]).sum::<f64>()) as f32
                }
                Level::Validation => (w[i] - T[i]) as f32,
            };
        }
        for j in 0..M {
            out[N + j] = match level {
                Level::Training => -(0..N).map(|i| B[i][j] * w[i]).sum::<f64>() as f32,
                Level::Validation => a[j] as f32,
            };
        }
        gradient.write(&out)?;
        Ok(Outcome::default().into())
    }

    fn linearise(&mut self, theta: Slice, gradient: SliceMut) -> anyhow::Result<Later<Outcome>> {
        self.gradient(Level::Training, theta, gradient)
    }

    fn product(&mut self, _: Slice, direction: Slice, product: SliceMut) -> anyhow::Result<()> {
        // L1 is quadratic without linear part: its gradient map is its own derivative.
        self.gradient(Level::Training, direction, product)?;
        Ok(())
    }

    fn series(
        &mut self,
        theta: Slice,
        settings: Terms,
        vectors: [&mut Vector; 3],
    ) -> anyhow::Result<Later<Series>> {
        Ok(neumann::terms(self, theta, settings, vectors)?.into())
    }
}

/// H⁻¹x by Gaussian elimination.
fn solve(x: [f64; N]) -> [f64; N] {
    let mut a = H;
    let mut x = x;
    for i in 0..N {
        for j in i + 1..N {
            let f = a[j][i] / a[i][i];
            let pivot = a[i];
            for (x, p) in a[j].iter_mut().zip(pivot) {
                *x -= f * p;
            }
            x[j] -= f * x[i];
        }
    }
    for i in (0..N).rev() {
        for k in i + 1..N {
            x[i] -= a[i][k] * x[k];
        }
        x[i] /= a[i][i];
    }
    x
}

const THETA: [f32; N + M] = [0.4, -0.2, 0.9, 0.7, -1.1];
const BUFFER: [f32; N] = [0.5, -0.1, 0.2];
const INNER: InnerStep<'static> = InnerStep {
    lr: 0.1,
    momentum: 0.9,
    weight_decay: 0.01,
    buffer: Slice::Host(&BUFFER),
};

fn close(found: &[f32], expected: [f64; M], within: f64) {
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f64::from(*f) - e).abs() < within,
            "{found:?} and {expected:?}"
        );
    }
}

fn compute(method: &mut dyn Hypergradient) -> (Vec<f32>, Report) {
    let mut alpha_gradient = vec![0.0; M];
    let alpha = SliceMut::from(&mut alpha_gradient);
    let report = method.compute(&mut Quadratic, (&THETA).into(), INNER, alpha);
    (alpha_gradient, report.unwrap().value().unwrap())
}

#[test]
fn a_long_series_reaches_the_dense_inverse() {
    let (w, a) = split((&THETA).into());
    let solved = solve(std::array::from_fn(|i| w[i] - T[i]));
    let expected = std::array::from_fn(|j| a[j] + (0..N).map(|i| B[i][j] * solved[i]).sum::<f64>());
    for gamma in [Gamma::Fixed(0.5), Gamma::Auto] {
        let (found, report) = compute(&mut Neumann::new(200, gamma, true, 1));
        close(&found, expected, 1e-4);
        assert!(report.norms.windows(2).all(|n| n[1] <= n[0]) && report.norms.len() > 100);
    }
}

#[test]
fn each_truncation_matches_the_recursion() {
    let (w, a) = split((&THETA).into());
    let gamma = 0.25;
    let mut v: [f64; N] = std::array::from_fn(|i| w[i] - T[i]);
    let mut p = v;
    for terms in 0..4 {
        let expected =
            std::array::from_fn(|j| a[j] + gamma * (0..N).map(|i| B[i][j] * p[i]).sum::<f64>());
        let (found, report) = compute(&mut Neumann::new(terms, Gamma::Fixed(0.25), true, 1));
        close(&found, expected, 1e-5);
        assert_eq!(report.norms.len(), terms + 1);
        v = std::array::from_fn(|i| v[i] - gamma * (0..N).map(|j| H[i][j] * v[j]).sum::<f64>());
        p = std::array::from_fn(|i| p[i] + v[i]);
    }
}

#[test]
fn automatic_gamma_is_one_over_the_largest_eigenvalue() {
    let (_, report) = compute(&mut Neumann::new(0, Gamma::Auto, true, 1));
    // The largest eigenvalue of H, from its characteristic polynomial.
    assert!(
        (report.gamma.unwrap() - 1.0 / 2.086).abs() < 2e-3,
        "{:?}",
        report.gamma
    );
}

#[test]
fn a_growing_term_stops_the_series_and_leaves_the_sum_before_it() {
    let (stopped, report) = compute(&mut Neumann::new(5, Gamma::Fixed(3.0), true, 1));
    assert!(report.stopped && report.norms.len() < 6);
    let kept = report.norms.len() - 2;
    let (expected, _) = compute(&mut Neumann::new(kept, Gamma::Fixed(3.0), false, 1));
    for (s, e) in stopped.iter().zip(expected) {
        assert!((s - e).abs() < 1e-4);
    }
}

#[test]
fn first_order_is_the_direct_gradient() {
    let (found, report) = compute(&mut FirstOrder::default());
    close(&found, [0.7, -1.1], 1e-6);
    assert_eq!(report.correction_norm, None);
}

#[test]
fn unrolled_step_differentiates_the_sgd_update_exactly_and_by_differences() {
    let (w, a) = split((&THETA).into());
    let step = |i: usize| {
        let hw: f64 = (0..N).map(|j| H[i][j] * w[j]).sum();
        let g = hw - (0..M).map(|j| B[i][j] * a[j]).sum::<f64>();
        w[i] - 0.1 * (0.9 * f64::from(BUFFER[i]) + g + 0.01 * w[i])
    };
    let v: [f64; N] = std::array::from_fn(|i| step(i) - T[i]);
    let expected =
        std::array::from_fn(|j| a[j] + 0.1 * (0..N).map(|i| B[i][j] * v[i]).sum::<f64>());
    for product in [UnrolledProduct::Exact, UnrolledProduct::FiniteDifference] {
        let (found, _) = compute(&mut Unrolled::new(product));
        close(&found, expected, 1e-3);
    }
}
