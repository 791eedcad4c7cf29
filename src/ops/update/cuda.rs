//! The updates on a GPU: see `kernels/update.cu`. Launches that repeat are replayed as graphs.

use super::{Adam, Factor, OverNorm, Sgd};
use crate::device::Later;
use crate::device::cuda::Gpu;
use crate::device::cuda::gpu::{Flat, FlatResult};
use crate::device::cuda::launch::{Header, Kernel, Launch, Recording, Step};
use crate::device::vector::Part;
use crate::layout_test;
use crate::ops::cuda::{Floats, narrow};
use bytemuck::{Pod, Zeroable};
use std::sync::Arc;

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
    factor: u64,
    numerator: f64,
    otherwise: f64,
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
    group: u32,
}

layout_test!(Parameters = 176, AdamParameters = 144);

/// THREADS of the kernel file.
const THREADS: usize = 256;
/// Elements a thread takes before the grid stops growing: enough loads under way to hide latency.
const ELEMENTS_A_THREAD: usize = 8;

/// A kernel of `update.cu`.
fn kernel(entry: &'static str) -> Kernel {
    Kernel::new("update", entry).define("STORAGE", "float")
}

/// Every entry of `update.cu`, for whoever lists kernels.
pub const ENTRIES: [&str; 12] = [
    "update_dot",
    "update_over_norm",
    "update_axpy",
    "update_normalise",
    "update_replace",
    "update_difference",
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
    let mut value = [0.0f64];
    a.gpu
        .read(a.gpu.flat().result(FlatResult::Dot), &mut value)?;
    Ok(value[0])
}

pub(super) fn norm(a: Part) -> anyhow::Result<Later<f64>> {
    if a.len == 0 {
        return Ok(0.0.into());
    }
    a.gpu
        .replay(recording([dot_launch(a, a, FlatResult::Dot)]))?;
    Ok(number(a.gpu, FlatResult::Dot)?.map(f64::sqrt))
}

/// Notes a result.
fn number(gpu: &Arc<Gpu>, which: FlatResult) -> anyhow::Result<Later<f64>> {
    let number = |bytes: &[u8]| bytemuck::pod_read_unaligned::<f64>(bytes);
    gpu.note(gpu.flat().result(which), size_of::<f64>(), number)
}

/// The parameters of a launch on `gpu` whose rate is `factor`.
fn rate(gpu: &Gpu, factor: Factor) -> Parameters {
    let (rate, on_device) = match factor {
        Factor::Known(factor) => (factor, false),
        Factor::OnDevice { negative } => (if negative { -1.0 } else { 1.0 }, true),
    };
    Parameters {
        rate,
        factor: if on_device {
            gpu.flat().result(FlatResult::Factor)
        } else {
            0
        },
        ..Parameters::default()
    }
}

pub(super) fn over_norm(numerator: f64, otherwise: f64, x: Part) -> anyhow::Result<OverNorm> {
    let flat = x.gpu.flat();
    let parameters = Parameters {
        norm: flat.result(FlatResult::Dot),
        result: flat.result(FlatResult::Factor),
        numerator,
        otherwise,
        ..Parameters::default()
    };
    let kernel = kernel("update_over_norm");
    let launch = Launch::new(kernel, [1; 3], 32, 0, &parameters);
    let norm = dot_launch(x, x, FlatResult::Dot);
    x.gpu.replay(recording([norm, launch]))?;
    Ok(OverNorm {
        factor: Factor::OnDevice { negative: false },
        value: number(x.gpu, FlatResult::Factor)?,
        norm: number(x.gpu, FlatResult::Dot)?.map(f64::sqrt),
    })
}

pub(super) fn axpy(factor: Factor, x: Part, y: Part) -> anyhow::Result<()> {
    let launch = over("update_axpy", [x, y], rate(y.gpu, factor));
    y.gpu.issue(recording([launch]))
}

/// Launches `entry`, which wants ‖y‖², over x and y.
fn by_norm<const N: usize>(entry: &'static str, y: Part, all: [Part; N]) -> anyhow::Result<()> {
    let parameters = Parameters {
        norm: y.gpu.flat().result(FlatResult::Dot),
        ..Parameters::default()
    };
    let norm = dot_launch(y, y, FlatResult::Dot);
    let launch = over(entry, all, parameters);
    y.gpu.replay(recording([norm, launch]))
}

pub(super) fn normalise(x: Part) -> anyhow::Result<()> {
    by_norm("update_normalise", x, [x])
}

pub(super) fn replace(x: Part, y: Part) -> anyhow::Result<()> {
    by_norm("update_replace", y, [x, y])
}

pub(super) fn difference(step: Factor, [x, up, down]: [Part; 3]) -> anyhow::Result<()> {
    let launch = over("update_difference", [x, up, down], rate(x.gpu, step));
    x.gpu.issue(recording([launch]))
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

pub(super) fn sgd(
    step: Sgd,
    gradient: Part,
    buffer: Part,
    theta: Part,
) -> anyhow::Result<Later<f64>> {
    let norm = dot_launch(gradient, gradient, FlatResult::GradientNorm);
    let parameters = Parameters {
        norm: theta.gpu.flat().result(FlatResult::GradientNorm),
        ..settings(step)
    };
    let update = over("update_sgd", [theta, buffer, gradient], parameters);
    // The same in every step of an epoch.
    theta.gpu.replay(recording([norm, update]))?;
    Ok(number(theta.gpu, FlatResult::GradientNorm)?.map(f64::sqrt))
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
        group: narrow(step.group),
    };
    let blocks = narrow(theta.len.div_ceil(THREADS * step.group).max(1));
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
    pub fn term(self, k: usize, (gamma, guard): (Factor, bool), [v, p, h]: [Part; 3]) -> Launch {
        let Parameters { rate, factor, .. } = rate(v.gpu, gamma);
        let parameters = Parameters {
            rate,
            factor,
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

#[cfg(test)]
mod tests {
    use super::super::{self as update, cpu};
    use super::*;
    use crate::device::cuda::for_tests;
    use crate::device::random::{Philox, Purpose};
    use crate::device::{Device, Slice, Vector};

    /// Lengths around a vector, a block and the grid.
    const LENGTHS: [usize; 6] = [1, 3, 8, 1000, 4099, 70_003];

    fn normal(len: usize, stream: u64) -> Vec<f32> {
        let mut values = vec![0.0; len];
        Philox::new(3, Purpose::Bench).fill_normal(0, stream, &mut values);
        values
    }

    fn error(expected: &[f32], found: &Vector) -> f64 {
        let found = found.slice().to_vec().unwrap();
        let mut difference = expected.to_vec();
        cpu::axpy(-1.0, &found, &mut difference);
        cpu::norm(&difference) / cpu::norm(expected).max(1e-30)
    }

    fn on(gpu: &Arc<Gpu>, values: &[f32]) -> Vector {
        Vector::new(&Device::Cuda(Arc::clone(gpu)), values.to_vec()).unwrap()
    }

    fn part(vector: &Vector) -> Part<'_> {
        match vector.slice() {
            Slice::Cuda(part) => part,
            Slice::Host(_) => panic!("a vector on the device"),
        }
    }

    #[test]
    fn sums_and_steps_on_the_device_match_the_cpu() {
        let Some(gpu) = for_tests() else { return };
        let step = Sgd {
            lr: 0.1,
            momentum: 0.9,
            weight_decay: 0.01,
            clip: 2.0,
        };
        for len in LENGTHS {
            let [g, mut b, mut t] = [1, 2, 3].map(|stream| normal(len, stream));
            let (dg, mut db, mut dt) = (on(&gpu, &g), on(&gpu, &b), on(&gpu, &t));
            let expected = cpu::dot(&g, &b);
            let found = update::dot(&dg, &db).unwrap();
            assert!(
                (found - expected).abs() < 1e-9 * cpu::norm(&g) * cpu::norm(&b),
                "{len}"
            );
            assert_eq!(found.to_bits(), update::dot(&dg, &db).unwrap().to_bits());
            for _ in 0..2 {
                let expected = update::sgd(step, &g, &mut b, &mut t).unwrap();
                let found = update::sgd(step, &dg, &mut db, &mut dt).unwrap();
                let (expected, found) = (expected.value().unwrap(), found.value().unwrap());
                assert!(
                    (found / expected - 1.0).abs() < 1e-9,
                    "{found} and {expected}"
                );
            }
            assert!(error(&b, &db).max(error(&t, &dt)) < 1e-6, "sgd of {len}");
            update::axpy(-0.3, &g, &mut t).unwrap();
            update::axpy(-0.3, &dg, &mut dt).unwrap();
            assert!(error(&t, &dt) < 1e-6, "axpy of {len}");
            update::normalise(&mut t).unwrap();
            update::normalise(&mut dt).unwrap();
            assert!(error(&t, &dt) < 1e-6, "a vector of {len} by its norm");
            let (mut moved, mut dmoved) = (vec![0.0; len], on(&gpu, &vec![0.0; len]));
            let host = [&t, &g, &b].map(Slice::from);
            update::unrolled(step, host[0], host[1], host[2], (&mut moved).into()).unwrap();
            let device = [&dt, &dg, &db].map(|v| v.slice());
            let to = dmoved.slice_mut();
            update::unrolled(step, device[0], device[1], device[2], to).unwrap();
            assert!(error(&moved, &dmoved) < 1e-6, "unrolled of {len}");
        }
    }

    #[test]
    fn a_factor_that_stays_on_the_device_is_the_one_of_the_cpu() {
        let Some(gpu) = for_tests() else { return };
        for x in [normal(300, 1), vec![0.0; 300]] {
            let (up, down) = (normal(300, 2), normal(300, 3));
            let [dx, dup, ddown] = [&x, &up, &down].map(|v| on(&gpu, v));
            for (numerator, otherwise) in [(1.0, 1.0), (0.01, 0.0)] {
                let host = update::over_norm(numerator, otherwise, &x).unwrap();
                let device = update::over_norm(numerator, otherwise, &dx).unwrap();
                for (sign, y) in [(false, &up), (true, &down)] {
                    let (mut y, mut dy) = (y.clone(), on(&gpu, y));
                    let [host, device] = [host.factor, device.factor].map(|factor| match sign {
                        true => -factor,
                        false => factor,
                    });
                    update::axpy(host, &up, &mut y).unwrap();
                    update::axpy(device, &dup, &mut dy).unwrap();
                    assert!(error(&y, &dy) < 1e-6);
                }
                let (mut d, mut dd) = (vec![7.0; 300], on(&gpu, &x));
                let all = (Slice::from(&up), Slice::from(&down));
                update::difference(host.factor, all, &mut d).unwrap();
                let all = (dup.slice(), ddown.slice());
                update::difference(device.factor, all, &mut dd).unwrap();
                assert!(error(&d, &dd) < 1e-6);
                let [host, device] = [host, device].map(|over| {
                    let both = over.value.and(over.norm).value();
                    both.unwrap()
                });
                assert!((host.0 - device.0).abs() <= 1e-6 * host.0);
                assert!((host.1 - device.1).abs() <= 1e-9 * host.1);
            }
            let (mut y, mut dy) = (up.clone(), on(&gpu, &up));
            update::replace(&mut y, &x).unwrap();
            update::replace(&mut dy, &dx).unwrap();
            assert_eq!(y, dy.slice().to_vec().unwrap());
            assert_eq!(y == up, x[0] == 0.0);
        }
    }

    #[test]
    fn parts_that_begin_anywhere_are_updated_and_nothing_beside_them() {
        let Some(gpu) = for_tests() else { return };
        let (x, mut y) = (normal(64, 1), normal(64, 2));
        let (dx, mut dy) = (on(&gpu, &x), on(&gpu, &y));
        for (from, to) in [(1, 2), (3, 64), (5, 38)] {
            cpu::axpy(2.0, &x[from..to], &mut y[from..to]);
            update::axpy(2.0, dx.part(from..to), dy.part_mut(from..to)).unwrap();
        }
        assert!(error(&y, &dy) < 1e-6);
    }

    #[test]
    fn adam_on_the_device_matches_the_cpu() {
        let Some(gpu) = for_tests() else { return };
        let [g, mut m, mut v, mut t] = [1, 2, 3, 4].map(|stream| normal(300, stream));
        v.iter_mut().for_each(|v| *v = v.abs());
        let dg = on(&gpu, &g);
        let [mut dm, mut dv, mut dt] = [&m, &v, &t].map(|x| on(&gpu, x));
        for count in 1..4 {
            let step = Adam {
                lr: 0.01,
                beta1: 0.5,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 1e-3,
                // Groups of one and, in the last step, of five.
                group: if count < 3 { 1 } else { 5 },
                step: count,
            };
            update::adam(step, &g, &mut m, &mut v, &mut t).unwrap();
            update::adam(step, &dg, &mut dm, &mut dv, &mut dt).unwrap();
        }
        for (host, device) in [(&m, &dm), (&v, &dv), (&t, &dt)] {
            assert!(error(host, device) < 1e-7);
        }
    }

    #[test]
    fn a_series_adds_its_terms_and_drops_the_one_that_grew() {
        let Some(gpu) = for_tests() else { return };
        // H·v is replaced by a fixed vector: v_k = v₀ − k·γ·h, which shrinks first and then grows.
        let (v0, noise) = (normal(4099, 1), normal(4099, 2));
        let mut h = v0.clone();
        cpu::axpy(0.01, &noise, &mut h);
        let gamma = 0.6f32;
        for (guard, terms) in [(false, 3), (true, 5), (true, 1), (false, 0)] {
            let (mut v, mut p) = (v0.clone(), v0.clone());
            let mut norms = vec![cpu::norm(&v)];
            let mut stopped = 0;
            for k in 1..=terms {
                norms.push(cpu::neumann_step(gamma, &h, &mut v, &mut p));
                if guard && norms[k] > norms[k - 1] {
                    cpu::axpy(-1.0, &v, &mut p);
                    stopped = k;
                    break;
                }
            }
            let (dv, dp, dh) = (on(&gpu, &v0), on(&gpu, &vec![7.0; 4099]), on(&gpu, &h));
            let room = gpu.buffer(8 * (terms + 2)).unwrap();
            let results = SeriesResults {
                norms: room.address(),
                stopped: room.address() + 8 * (terms as u64 + 1),
            };
            let (pv, pp, ph) = (part(&dv), part(&dp), part(&dh));
            let mut recording = Recording::new("series");
            recording.steps.push(Step::Launch(results.begin(pv, pp)));
            for k in 1..=terms {
                let gamma = Factor::Known(gamma);
                let launch = results.term(k, (gamma, guard), [pv, pp, ph]);
                recording.steps.push(Step::Launch(launch));
            }
            recording.steps.push(Step::Launch(results.end(pv, pp)));
            gpu.replay(recording).unwrap();
            let mut found = vec![0.0f64; norms.len()];
            let mut at = [0u32];
            gpu.read(results.norms, &mut found).unwrap();
            gpu.read(results.stopped, &mut at).unwrap();
            assert_eq!(at[0] as usize, stopped);
            for (found, expected) in found.iter().zip(&norms) {
                assert!(
                    (found / expected - 1.0).abs() < 1e-6,
                    "{found} and {expected}"
                );
            }
            assert!(error(&p, &dp) < 1e-6);
        }
    }
}
