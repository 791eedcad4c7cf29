//! Exact derivatives of a function written once for every scalar.
//!
//! A [`Function`] evaluated on dual numbers x + ε·v gives its directional derivative along v; on
//! hyper-dual numbers x + ε₁·u + ε₂·v the coefficient of ε₁ε₂ is uᵀ∇²f·v, free of any step size.

pub use num_dual::DualNum;
use num_dual::{Dual64, HyperDual64};

/// What the oracle computes with: `f64`, `Dual64`, `HyperDual64`.
pub trait Scalar: DualNum<Primitive = f64> + Copy {}

impl<T: DualNum<Primitive = f64> + Copy> Scalar for T {}

/// A map from a flat vector to a flat vector, generic over the scalar.
pub trait Function {
    /// f(x)
    fn call<T: Scalar>(&self, x: &[T]) -> Vec<T>;
}

/// Σ_i w_i·y_i + ½·m_i·y_i², y = f(x): a scalar function whose output adjoint is w + m∘y. The
/// square makes the adjoint's tangent m∘ẏ, which a linear loss would leave at zero.
pub struct Loss<'a, F> {
    /// f
    pub function: &'a F,
    /// w
    pub linear: &'a [f64],
    /// m
    pub square: &'a [f64],
}

impl<F: Function> Function for Loss<'_, F> {
    fn call<T: Scalar>(&self, x: &[T]) -> Vec<T> {
        let y = self.function.call(x);
        assert_eq!((y.len(), y.len()), (self.linear.len(), self.square.len()));
        let mut sum = T::zero();
        for ((&y, &w), &m) in y.iter().zip(self.linear).zip(self.square) {
            sum += y * w + y * y * (0.5 * m);
        }
        vec![sum]
    }
}

/// The directional derivative of every output along `v`.
pub fn tangent(f: &impl Function, x: &[f64], v: &[f64]) -> Vec<f64> {
    assert_eq!(x.len(), v.len());
    let point: Vec<_> = x.iter().zip(v).map(|(&x, &v)| Dual64::new(x, v)).collect();
    f.call(&point).iter().map(|y| y.eps).collect()
}

/// ∇f of a function with one output.
pub fn gradient(f: &impl Function, x: &[f64]) -> Vec<f64> {
    let mut point: Vec<_> = x.iter().map(|&x| Dual64::new(x, 0.0)).collect();
    (0..x.len())
        .map(|i| {
            point[i].eps = 1.0;
            let slope = single(f.call(&point)).eps;
            point[i].eps = 0.0;
            slope
        })
        .collect()
}

/// ∇²f·v of a function with one output: the derivative of its gradient along v.
pub fn hvp(f: &impl Function, x: &[f64], v: &[f64]) -> Vec<f64> {
    assert_eq!(x.len(), v.len());
    let start = x
        .iter()
        .zip(v)
        .map(|(&x, &v)| HyperDual64::new(x, 0.0, v, 0.0));
    let mut point: Vec<_> = start.collect();
    (0..x.len())
        .map(|i| {
            point[i].eps1 = 1.0;
            let curvature = single(f.call(&point)).eps1eps2;
            point[i].eps1 = 0.0;
            curvature
        })
        .collect()
}

/// uᵀ∇²f·v of a function with one output, by one evaluation.
pub fn second(f: &impl Function, x: &[f64], u: &[f64], v: &[f64]) -> f64 {
    assert_eq!((x.len(), x.len()), (u.len(), v.len()));
    let directions = x.iter().zip(u.iter().zip(v));
    let point: Vec<_> = directions
        .map(|(&x, (&u, &v))| HyperDual64::new(x, u, v, 0.0))
        .collect();
    single(f.call(&point)).eps1eps2
}

/// ‖a − b‖ / ‖b‖, the measure of every comparison; 0 when both vanish.
pub fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    if difference == 0.0 {
        0.0
    } else {
        difference / norm(&mut b.iter().copied())
    }
}

/// Σ a_i·b_i
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn single<T>(outputs: Vec<T>) -> T {
    let mut outputs = outputs.into_iter();
    match (outputs.next(), outputs.next()) {
        (Some(only), None) => only,
        _ => panic!("a gradient needs a function with exactly one output"),
    }
}

/// f(x, y) = x³y + sin x, whose derivatives are known.
struct Cubic;

impl Function for Cubic {
    fn call<T: Scalar>(&self, x: &[T]) -> Vec<T> {
        vec![x[0] * x[0] * x[0] * x[1] + x[0].sin()]
    }
}

#[test]
fn gradient_and_product_of_a_cubic_match_its_closed_form() {
    let ([x, y], [p, q]) = ([0.7f64, -1.3], [0.4, 2.0]);
    let product = [
        (6.0 * x * y - x.sin()) * p + 3.0 * x * x * q,
        3.0 * x * x * p,
    ];
    let slope = [3.0 * x * x * y + x.cos(), x * x * x];
    assert!(relative_error(&gradient(&Cubic, &[x, y]), &slope) < 1e-14);
    assert!(relative_error(&hvp(&Cubic, &[x, y], &[p, q]), &product) < 1e-14);
    let along = second(&Cubic, &[x, y], &[1.5, -0.5], &[p, q]);
    assert!((along - dot(&[1.5, -0.5], &product)).abs() < 1e-13);
    assert!((tangent(&Cubic, &[x, y], &[p, q])[0] - dot(&slope, &[p, q])).abs() < 1e-13);
}
