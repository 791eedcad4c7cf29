//! The updates on a GPU: see `kernels/update.cu`. Launches that repeat are replayed as graphs.

use super::{Adam, Sgd};
use crate::device::cuda::Gpu;
use crate::device::cuda::gpu::{Flat, FlatResult};
use crate::device::cuda::launch::{Header, Kernel, Launch, Recording, Step};
use crate::device::vector::Part;
use crate::layout_test;
use crate::ops::cuda::{Floats, narrow};
use bytemuck::{Pod, Zeroable};

/// `Update` of `update.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    x: Floats,
    y: Floats,
    z: Floats,
    w: Floats,
    partials: u64,
    ticket: u64,
    result: u64,
    norm: u64,
    rate: f32,
    momentum: f32,
    weight_decay: f32,
    clip: f32,
    len: u32,
    aligned: u32,
    term: u32,
    guard: u32,
    stopped: u64,
    unused: u64,
}

/// `AdamStep` of `update.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct AdamParameters {
    header: Header,
    theta: Floats,
    gradient: Floats,
    m: Floats,
    v: Floats,
    lr: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    correct1: f64,
    correct2: f64,
    len: u32,
    unused: u32,
}

layout_test!(Parameters = 160, AdamParameters = 144);

/// THREADS of the kernel file.
const THREADS: usize = 256;
/// Elements a thread takes before the grid stops growing: enough loads under way to hide latency.
const ELEMENTS_A_THREAD: usize = 8;

/// A kernel of `update.cu`.
fn kernel(entry: &'static str) -> Kernel {
    Kernel::new("update", entry).define("STORAGE", "float")
}

/// Every entry of `update.cu`, for whoever lists kernels.
pub const ENTRIES: [&str; 9] = [
    "update_dot",
    "update_axpy",
    "update_divide",
    "update_sgd",
    "update_unrolled",
    "update_series_begin",
    "update_series_term",
    "update_series_end",
    "update_adam",
];

fn floats(part: Part) -> Floats {
    Floats {
        data: part.address,
        member: 0,
        len: narrow(part.len),
    }
}

/// A launch of `entry` over `vectors` x, y, z, w of one length.
fn over<const N: usize>(entry: &'static str, vectors: [Part; N], parameters: Parameters) -> Launch {
    let len = vectors[0].len;
    assert!(
        vectors.iter().all(|v| v.len == len),
        "vectors of one length"
    );
    let mut all = [Floats::default(); 4];
    for (to, &from) in all.iter_mut().zip(&vectors) {
        *to = floats(from);
    }
    let [x, y, z, w] = all;
    let Flat {
        partials, ticket, ..
    } = vectors[0].gpu.flat();
    let parameters = Parameters {
        x,
        y,
        z,
        w,
        partials,
        ticket,
        len: narrow(len),
        aligned: u32::from(vectors.iter().all(|v| v.address % 16 == 0)),
        ..parameters
    };
    let blocks = len.div_ceil(THREADS * ELEMENTS_A_THREAD);
    let blocks = narrow(blocks.clamp(1, Flat::PARTIALS));
    Launch::new(
        kernel(entry),
        [blocks, 1, 1],
        narrow(THREADS),
        0,
        &parameters,
    )
}

fn recording<const N: usize>(launches: [Launch; N]) -> Recording {
    let mut recording = Recording::new("update");
    recording.steps = launches.map(Step::Launch).to_vec();
    recording
}

/// Reads a result of a flat reduction.
pub(super) fn result(gpu: &Gpu, which: FlatResult) -> anyhow::Result<f64> {
    let mut value = [0.0f64];
    gpu.read(gpu.flat().result(which), &mut value)?;
    Ok(value[0])
}

/// The launch that leaves Σ a·b in `which`.
fn dot_launch(a: Part, b: Part, which: FlatResult) -> Launch {
    let parameters = Parameters {
        result: a.gpu.flat().result(which),
        ..Parameters::default()
    };
    over("update_dot", [a, b], parameters)
}

pub(super) fn dot(a: Part, b: Part) -> anyhow::Result<f64> {
    if a.len == 0 {
        return Ok(0.0);
    }
    a.gpu
        .replay(recording([dot_launch(a, b, FlatResult::Dot)]))?;
    result(a.gpu, FlatResult::Dot)
}

fn rate(rate: f32) -> Parameters {
    Parameters {
        rate,
        ..Parameters::default()
    }
}

pub(super) fn axpy(factor: f32, x: Part, y: Part) -> anyhow::Result<()> {
    y.gpu
        .issue(recording([over("update_axpy", [x, y], rate(factor))]))
}

pub(super) fn divide(x: Part, by: f32) -> anyhow::Result<()> {
    x.gpu
        .issue(recording([over("update_divide", [x], rate(by))]))
}

fn settings(step: Sgd) -> Parameters {
    Parameters {
        rate: step.lr,
        momentum: step.momentum,
        weight_decay: step.weight_decay,
        clip: step.clip,
        ..Parameters::default()
    }
}

pub(super) fn sgd(step: Sgd, gradient: Part, buffer: Part, theta: Part) -> anyhow::Result<()> {
    let norm = dot_launch(gradient, gradient, FlatResult::GradientNorm);
    let parameters = Parameters {
        norm: theta.gpu.flat().result(FlatResult::GradientNorm),
        ..settings(step)
    };
    let update = over("update_sgd", [theta, buffer, gradient], parameters);
    // The same in every step of an epoch.
    theta.gpu.replay(recording([norm, update]))
}

pub(super) fn unrolled(
    step: Sgd,
    theta: Part,
    gradient: Part,
    buffer: Part,
    moved: Part,
) -> anyhow::Result<()> {
    let vectors = [moved, theta, gradient, buffer];
    let launch = over("update_unrolled", vectors, settings(step));
    theta.gpu.replay(recording([launch]))
}

pub(super) fn adam(
    step: Adam,
    gradient: Part,
    m: Part,
    v: Part,
    theta: Part,
) -> anyhow::Result<()> {
    let power = i32::try_from(step.step).unwrap_or(i32::MAX);
    let parameters = AdamParameters {
        header: Header::default(),
        theta: floats(theta),
        gradient: floats(gradient),
        m: floats(m),
        v: floats(v),
        lr: step.lr,
        beta1: step.beta1,
        beta2: step.beta2,
        epsilon: step.epsilon,
        weight_decay: step.weight_decay,
        correct1: 1.0 - step.beta1.powi(power),
        correct2: 1.0 - step.beta2.powi(power),
        len: narrow(theta.len),
        unused: 0,
    };
    let blocks = narrow(theta.len.div_ceil(THREADS).max(1));
    let launch = Launch::new(
        kernel("update_adam"),
        [blocks, 1, 1],
        narrow(THREADS),
        0,
        &parameters,
    );
    // β₁ᵗ and β₂ᵗ change from step to step.
    theta.gpu.issue(recording([launch]))
}

/// Where a series leaves what the host reads after it.
#[derive(Clone, Copy, Debug)]
pub struct SeriesResults {
    /// ‖v_k‖, k = 0 … K, f64.
    pub norms: u64,
    /// The term at which the series stopped, or 0; u32.
    pub stopped: u64,
}

impl SeriesResults {
    fn parameters(self) -> Parameters {
        Parameters {
            result: self.norms,
            stopped: self.stopped,
            ..Parameters::default()
        }
    }

    /// p ← v, and ‖v₀‖.
    pub fn begin(self, v: Part, p: Part) -> Launch {
        over("update_series_begin", [v, p], self.parameters())
    }

    /// Term k: v ← v − γ·h, p ← p + v, ‖v_k‖, and the guard.
    pub fn term(self, k: usize, (gamma, guard): (f32, bool), [v, p, h]: [Part; 3]) -> Launch {
        let parameters = Parameters {
            rate: gamma,
            term: narrow(k),
            guard: u32::from(guard),
            ..self.parameters()
        };
        over("update_series_term", [v, p, h], parameters)
    }

    /// Drops the term that grew from p, if one did.
    pub fn end(self, v: Part, p: Part) -> Launch {
        over("update_series_end", [v, p], self.parameters())
    }
}
