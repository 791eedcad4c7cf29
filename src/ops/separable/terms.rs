//! What the terms of the weights' gradients amount to where they do not cancel: Σ|terms|, naive, for the comparison
//! of the kernels with the CPU.
//!
//! Batch norm makes a gradient cancel: with one channel in, z is d times a number, x̂ does not depend on that
//! number, and its gradient is what ε and rounding leave of sums that are not small.

use super::{PlannedBranch, PlannedGroup, Separable};
use crate::autograd::executor::parity::Snapshot;
use crate::ops::{ActivationId, Moments, ParameterId, Role};
use num_dual::Dual64;

/// |value| and |tangent|: sums of products of these are sums of absolute values of terms, the product rule's too.
fn absolute(x: Dual64) -> Dual64 {
    Dual64::new(x.re.abs(), x.eps.abs())
}

/// Σ|terms| of P̄ and w̄ of all branches, and in the tangents' part those of P̄˙ and w̄˙.
pub(crate) fn gradient_terms(op: &Separable, at: &Snapshot) -> Vec<(ParameterId, Vec<Dual64>)> {
    let mut found = Vec::new();
    for group in &op.groups {
        for planned in &group.branches {
            let (depthwise, pointwise) = branch(op.batch, group, planned, at);
            found.push((planned.branch.depthwise, depthwise));
            found.push((planned.branch.pointwise, pointwise));
        }
    }
    found
}

fn branch(
    batch: usize,
    group: &PlannedGroup,
    planned: &PlannedBranch,
    at: &Snapshot,
) -> (Vec<Dual64>, Vec<Dual64>) {
    let (window, cin, cout) = (&planned.window, group.channels, planned.channels_out);
    let ([height, width], [rows, columns]) = (group.size, window.output());
    let k = window.kernel;
    let w: Vec<Dual64> = at.parameter(planned.branch.depthwise);
    let p: Vec<Dual64> = at.parameter(planned.branch.pointwise);
    let a = state(group.input, batch * height * width, cin, at);
    let bar = adjoint(planned.branch.output, batch * rows * columns, cout, at);
    // The state's pixel under a tap, or none.
    let under = |pixel: usize, tap: usize| {
        let (image, y, x) = (
            pixel / (rows * columns),
            pixel / columns % rows,
            pixel % columns,
        );
        let from = |o: usize, tap: usize| {
            (o * window.stride + tap * window.dilation).checked_sub(window.padding())
        };
        let (y, x) = (from(y, tap / k)?, from(x, tap % k)?);
        (y < height && x < width).then_some((image * height + y) * width + x)
    };
    let zero = Dual64::new(0.0, 0.0);
    let (mut depthwise, mut pointwise) = (vec![zero; k * k * cin], vec![zero; cin * cout]);
    for pixel in 0..batch * rows * columns {
        let bars = &bar[pixel * cout..][..cout];
        for c in 0..cin {
            let d = (0..k * k)
                .filter_map(|tap| Some(a[under(pixel, tap)? * cin + c] * w[tap * cin + c]));
            let d = absolute(d.fold(zero, |sum, term| sum + term));
            let mut back = zero;
            for (o, &bar) in bars.iter().enumerate() {
                pointwise[c * cout + o] += d * absolute(bar);
                back += absolute(bar) * absolute(p[c * cout + o]);
            }
            for tap in 0..k * k {
                if let Some(from) = under(pixel, tap) {
                    depthwise[tap * cin + c] += back * absolute(a[from * cin + c]);
                }
            }
        }
    }
    (depthwise, pointwise)
}

/// μ and r of channel c, with their tangents.
fn statistics(id: ActivationId, c: usize, at: &Snapshot) -> [Dual64; 2] {
    let [mean, r] = [0, 1].map(|row| at.moment(id, Moments::Statistics, row, c));
    let [mean_dot, t] = [0, 1].map(|row| at.moment(id, Moments::StatisticsTangent, row, c));
    [Dual64::new(mean, mean_dot), Dual64::new(r, -r * r * t)]
}

/// a = relu(x or x̂)
fn state(id: ActivationId, pixels: usize, channels: usize, at: &Snapshot) -> Vec<Dual64> {
    let normalised = at.graph().activation(id).normalised;
    let of = |i: usize| {
        let (pixel, c) = (i / channels, i % channels);
        let mut x = at.activation(id, [Role::Value, Role::Tangent], pixel, c);
        if normalised {
            let [mean, r] = statistics(id, c, at);
            x = (x - mean) * r;
        }
        if x.re > 0.0 { x } else { Dual64::new(0.0, 0.0) }
    };
    (0..pixels * channels).map(of).collect()
}

/// z̄, see `ops/adjoint.rs`.
fn adjoint(id: ActivationId, pixels: usize, channels: usize, at: &Snapshot) -> Vec<Dual64> {
    let activation = at.graph().activation(id);
    let roles = [Role::Adjoint, Role::AdjointTangent];
    let of = |i: usize| {
        let (pixel, c) = (i / channels, i % channels);
        if !activation.normalised {
            return at.activation(id, roles, pixel, c);
        }
        let [mean, r] = statistics(id, c, at);
        let x = (at.activation(id, [Role::Value, Role::Tangent], pixel, c) - mean) * r;
        let [s1, s2] = [0, 1].map(|row| {
            let of = |kind| at.moment(id, kind, row, c) / pixels as f64;
            Dual64::new(of(Moments::AdjointSums), of(Moments::AdjointSumsTangent))
        });
        let sources = activation.sources.iter();
        let sources = sources.map(|s| at.scale(s.scale, c) * at.activation(s.at, roles, pixel, c));
        r * (sources.fold(-s1, |sum, term| sum + term) - x * s2)
    };
    (0..pixels * channels).map(of).collect()
}
