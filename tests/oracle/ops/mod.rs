//! The ops, one naive function each. Weight layouts are the engine's: depthwise `[k, k, C]`,
//! pointwise `[Cin, Cout]`, dense `[k, k, Cin, Cout]`, along an axis `[k, Cin, Cout]`, linear
//! `[Cin, classes]`.

mod classifier;
mod convolution;
mod norm;
mod pool;

pub use classifier::{classifier, max_w, relax};
pub use convolution::{Window, conv, conv_along, factorized_reduce, separable};
pub use norm::{Branch, mix, norm};
pub use pool::{Pool, pool};

use crate::oracle::derivative::Scalar;

/// max(x, 0), with derivative 0 at 0.
pub fn relu<T: Scalar>(x: T) -> T {
    if x.re() > 0.0 { x } else { T::zero() }
}
