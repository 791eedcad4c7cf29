//! Whole supernets: sizes, derivatives against differences, symmetry of the Hessian.

use super::parameters::initial_theta;
use super::state_dict::{load_tensors, state_tensors};
use super::{Supernet, Variant};
use crate::autograd::plan::{Buffer, Plan, lifetimes};
use crate::autograd::{Executor, Mode};
use crate::device::cuda::{Turn, for_tests};
use crate::device::random::{Philox, Purpose};
use crate::device::{Device, Vector};
use crate::ops::relax::Relaxation;
use crate::ops::update::cpu::{axpy, dot, neumann_step, norm};
use crate::space::Space;
use std::ops::Range;

/// A mix of all the ops into a NASNet node wants more shared memory than a GPU's block has.
const ON_GPUS: [Space; 2] = [Space::Darts, Space::NasBench201];

fn normal(len: usize, stream: u64) -> Vec<f32> {
    let philox = Philox::new(3, Purpose::ProbeVector);
    (0..len as u64)
        .map(|i| philox.normal4(i / 4, stream)[(i % 4) as usize])
        .collect()
}

fn tiny(space: Space, device: Device) -> (Executor, Vec<f32>) {
    let cells = if space == Space::NasBench201 { 1 } else { 3 };
    let supernet = Supernet::record(space, 4, cells, 5, 3, [8, 8]).unwrap();
    let mut theta = initial_theta(&supernet.parameters, 1);
    let omega = supernet.tape.omega_len;
    // α far from uniform, so that its derivatives matter.
    for (a, n) in theta[omega..]
        .iter_mut()
        .zip(normal(supernet.tape.alpha_len, 9))
    {
        *a = n;
    }
    let mut executor = Executor::new(supernet.tape, device);
    executor
        .load(&normal(3 * 8 * 8 * 3, 1), &[0, 3, 4])
        .unwrap();
    (executor, theta)
}

#[test]
fn supernets_have_the_published_number_of_weights() {
    let darts = Supernet::record(Space::Darts, 16, 8, 10, 1, [32, 32]).unwrap();
    assert_eq!(darts.tape.omega_len, 1_930_618);
    assert_eq!(darts.tape.alpha_len, 2 * 14 * 8);
    let nb201 = Supernet::record(Space::NasBench201, 16, 5, 10, 1, [32, 32]).unwrap();
    assert_eq!(nb201.tape.omega_len, 1_692_826);
    assert_eq!(nb201.tape.alpha_len, 6 * 5);
}

#[test]
fn gradient_predicts_the_change_of_the_loss() {
    for space in Space::ALL {
        let (mut executor, theta) = tiny(space, Device::Cpu);
        let mut gradient = vec![0.0; theta.len()];
        executor.forward(Mode::Gradient, &theta).unwrap();
        executor.backward(&theta, &mut gradient).unwrap();
        let direction = gradient.clone();
        let expected = dot(&gradient, &direction);
        let mut best = f64::INFINITY;
        for length in [3e-3, 1e-3, 3e-4] {
            let step = (length / norm(&direction)) as f32;
            let mut at = |sign: f32| {
                let mut moved = theta.clone();
                axpy(sign * step, &direction, &mut moved);
                executor.forward(Mode::Evaluate, &moved).unwrap().loss
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
            best = best.min((slope / expected - 1.0).abs());
        }
        assert!(best < 0.02, "{space:?}: {best}");
    }
}

#[test]
fn product_matches_the_change_of_the_gradient() {
    for space in Space::ALL {
        let (mut executor, theta) = tiny(space, Device::Cpu);
        let direction = normal(theta.len(), 5);
        let mut product = vec![0.0; theta.len()];
        let mut gradient = vec![0.0; theta.len()];
        executor.forward(Mode::Products, &theta).unwrap();
        executor.backward(&theta, &mut gradient).unwrap();
        executor.product(&theta, &direction, &mut product).unwrap();
        // Across a kink of relu or max the difference is far off: one step of several must fit.
        let mut best = f64::INFINITY;
        for step in [1e-5f32, 3e-6, 1e-6, 5e-7] {
            let mut at = |sign: f32| {
                let mut moved = theta.clone();
                axpy(sign * step, &direction, &mut moved);
                executor.forward(Mode::Gradient, &moved).unwrap();
                let mut gradient = vec![0.0; theta.len()];
                executor.backward(&moved, &mut gradient).unwrap();
                gradient
            };
            let (up, down) = (at(1.0), at(-1.0));
            let mut error = product.clone();
            axpy(-0.5 / step, &up, &mut error);
            axpy(0.5 / step, &down, &mut error);
            best = best.min(norm(&error) / norm(&product));
        }
        assert!(best < 0.03, "{space:?}: {best}");
    }
}

#[test]
fn hessian_is_symmetric() {
    for space in Space::ALL {
        let (mut executor, theta) = tiny(space, Device::Cpu);
        let (u, v) = (normal(theta.len(), 5), normal(theta.len(), 6));
        let mut gradient = vec![0.0; theta.len()];
        executor.forward(Mode::Products, &theta).unwrap();
        executor.backward(&theta, &mut gradient).unwrap();
        let (mut hu, mut hv) = (gradient.clone(), gradient.clone());
        executor.product(&theta, &u, &mut hu).unwrap();
        executor.product(&theta, &v, &mut hv).unwrap();
        let (left, right) = (dot(&u, &hv), dot(&v, &hu));
        assert!(
            (left - right).abs() < 1e-3 * norm(&u) * norm(&hv) / 10.0,
            "{left} and {right}"
        );
    }
}

#[test]
fn buffers_alive_together_never_overlap() {
    for space in [Space::Darts, Space::NasBench201] {
        let cells = if space == Space::NasBench201 { 1 } else { 3 };
        let tape = Supernet::record(space, 4, cells, 10, 2, [8, 8])
            .expect("valid shapes")
            .tape;
        for mode in [Mode::Evaluate, Mode::Gradient, Mode::Products] {
            let plan = Plan::new(&tape, mode);
            let (buffers, _) = lifetimes(&tape, mode);
            let at = |b: &Buffer| plan.offsets[b.owner.0][b.role as usize];
            for (i, a) in buffers.iter().enumerate() {
                assert!(at(a) + a.len <= plan.workspace);
                for b in &buffers[..i] {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = at(a) + a.len <= at(b) || at(b) + b.len <= at(a);
                    assert!(!together || apart, "{a:?} and {b:?}");
                }
            }
        }
    }
}

/// ‖found − expected‖ / ‖expected‖.
fn off(expected: &[f32], found: &[f32]) -> f64 {
    let mut difference = expected.to_vec();
    axpy(-1.0, found, &mut difference);
    norm(&difference) / norm(expected)
}

/// An executor of the tiny supernet and θ on the test device.
fn tiny_on_device(space: Space) -> Option<(Turn, Executor, Vector)> {
    let turn = for_tests()?;
    let device = Device::Cuda(turn.clone());
    let (executor, theta) = tiny(space, device.clone());
    Some((turn, executor, Vector::new(&device, theta).unwrap()))
}

#[test]
fn supernets_on_the_device_match_the_cpu_and_repeat_their_bits() {
    for space in ON_GPUS {
        let Some((_turn, mut device, theta)) = tiny_on_device(space) else {
            return;
        };
        let (mut cpu, host) = tiny(space, Device::Cpu);
        let len = host.len();
        let direction = normal(len, 5);
        let zeros = || Vector::zeros(&device_of(&theta), len).unwrap();
        let (mut gradient, mut product, mut again) = (zeros(), zeros(), zeros());
        let on_device = Vector::new(&device_of(&theta), direction.clone()).unwrap();
        let (mut g, mut h) = (vec![0.0; len], vec![0.0; len]);
        let expected = cpu.forward(Mode::Products, &host).unwrap();
        cpu.backward(&host, &mut g).unwrap();
        cpu.product(&host, &direction, &mut h).unwrap();
        let evaluated = device.forward(Mode::Evaluate, &theta).unwrap();
        let found = device.forward(Mode::Products, &theta).unwrap();
        device.backward(&theta, &mut gradient).unwrap();
        device.product(&theta, &on_device, &mut product).unwrap();
        device.product(&theta, &on_device, &mut again).unwrap();
        assert_eq!(evaluated, found, "every mode computes the same");
        assert!((found.loss / expected.loss - 1.0).abs() < 1e-5);
        assert_eq!((found.top1, found.top5), (expected.top1, expected.top5));
        let read = |vector: &Vector| vector.slice().to_vec().unwrap();
        assert_eq!(read(&product), read(&again));
        let (g_off, h_off) = (off(&g, &read(&gradient)), off(&h, &read(&product)));
        assert!(
            g_off < 1e-3 && h_off < 1e-3,
            "{space:?}: {g_off:.1e}, {h_off:.1e}"
        );
    }
}

#[test]
fn a_series_on_the_device_matches_the_cpu() {
    for space in ON_GPUS {
        let Some((_turn, mut device, theta)) = tiny_on_device(space) else {
            return;
        };
        let (mut cpu, host) = tiny(space, Device::Cpu);
        let (omega, len) = (cpu.tape().omega_len, host.len());
        let (gamma, terms) = (0.01, 2);
        let mut v0 = vec![0.0; len];
        cpu.forward(Mode::Products, &host).unwrap();
        cpu.backward(&host, &mut v0).unwrap();
        v0[omega..].fill(0.0);
        let (mut v, mut p, mut h) = (v0.clone(), v0.clone(), v0.clone());
        let mut norms = vec![norm(&v)];
        for _ in 0..terms {
            cpu.product(&host, &v, &mut h).unwrap();
            h[omega..].fill(0.0);
            norms.push(neumann_step(gamma, &h, &mut v, &mut p));
        }
        let on = |values: &[f32]| Vector::new(&device_of(&theta), values.to_vec()).unwrap();
        let (mut dv, mut dp, mut dh) = (on(&v0), on(&v0), on(&v0));
        device.forward(Mode::Products, &theta).unwrap();
        device.backward(&theta, &mut dh).unwrap();
        let vectors = [&mut dv, &mut dp, &mut dh];
        let series = device.series(theta.slice(), (gamma.into(), terms, false), vectors);
        let series = series.unwrap().expect("a GPU has a series of its own");
        let series = series.value().unwrap();
        for (found, expected) in series.norms.iter().zip(&norms) {
            assert!(
                (found / expected - 1.0).abs() < 1e-4,
                "{found} and {expected}"
            );
        }
        assert!(off(&p, &dp.slice().to_vec().unwrap()) < 1e-4);
    }
}

fn device_of(vector: &Vector) -> Device {
    vector.slice().device()
}

/// A supernet whose α part holds op weights, and the length of ω.
fn given(space: Space, device: Device) -> (Executor, usize) {
    let cells = if space == Space::NasBench201 { 2 } else { 4 };
    let size = [8, 8];
    let variant = Variant {
        relaxation: Relaxation::Given,
        ..Variant::default()
    };
    let supernet = Supernet::record_variant(space, 4, cells, 5, 3, size, &variant);
    let tape = supernet.unwrap().tape;
    let omega = tape.omega_len;
    let mut executor = Executor::new(tape, device);
    executor
        .load(&normal(3 * 8 * 8 * 3, 1), &[0, 3, 4])
        .unwrap();
    (executor, omega)
}

#[test]
fn a_supernet_of_fewer_ops_is_the_whole_one_with_the_others_at_weight_zero() {
    let (mut whole, omega) = given(Space::Darts, Device::Cpu);
    let names = Supernet::record(Space::Darts, 4, 4, 5, 3, [8, 8])
        .unwrap()
        .parameters;
    let len = whole.tape().theta_len();
    let philox = Philox::new(21, Purpose::Architectures);
    for share in [0.7f32, 0.3] {
        let mut kept: Vec<bool> = (0..len - omega)
            .map(|i| philox.uniform4(i as u64, 0)[0] <= share)
            .collect();
        // Every node has something to sum.
        for row in kept.chunks_exact_mut(8) {
            row[3] |= row.iter().all(|&kept| !kept);
        }
        let mut theta = normal(len, 4);
        for (c, &kept) in theta[omega..].iter_mut().zip(&kept) {
            *c = if kept { *c } else { 0.0 };
        }
        let variant = Variant {
            relaxation: Relaxation::Given,
            kept,
            dropout: true,
            ..Variant::default()
        };
        let size = [8, 8];
        let few = Supernet::record_variant(Space::Darts, 4, 4, 5, 3, size, &variant).unwrap();
        let mut few_theta = vec![0.0; few.tape.theta_len()];
        load_tensors(
            &few.parameters,
            &state_tensors(&names, &theta),
            &mut few_theta,
        )
        .unwrap();
        assert!(few_theta.len() < theta.len());
        let few_omega = few.tape.omega_len;
        let mut few_executor = Executor::new(few.tape, Device::Cpu);
        few_executor
            .load(&normal(3 * 8 * 8 * 3, 1), &[0, 3, 4])
            .unwrap();
        let gradient = |executor: &mut Executor, theta: &[f32]| {
            let mut gradient = vec![0.0; theta.len()];
            let outcome = executor.forward(Mode::Gradient, theta).unwrap();
            executor.backward(theta, &mut gradient).unwrap();
            (outcome.loss, gradient)
        };
        let (expected, of_whole) = gradient(&mut whole, &theta);
        let (found, of_few) = gradient(&mut few_executor, &few_theta);
        assert!((found - expected).abs() < 1e-5 * expected);
        let mut expected = vec![0.0; few_theta.len()];
        load_tensors(
            &few.parameters,
            &state_tensors(&names, &of_whole),
            &mut expected,
        )
        .unwrap();
        for (bar, c) in expected[few_omega..]
            .iter_mut()
            .zip(&few_theta[few_omega..])
        {
            *bar = if *c == 0.0 { 0.0 } else { *bar };
        }
        assert!(off(&expected, &of_few) < 1e-4);
    }
}

#[test]
fn pc_darts_takes_less_than_two_fifths_of_the_memory_of_darts() {
    let bytes = |partial| {
        let variant = Variant {
            partial,
            ..Variant::default()
        };
        let supernet =
            Supernet::record_variant(Space::Darts, 16, 8, 10, 64, [32, 32], &variant).unwrap();
        4.0 * Plan::new(&supernet.tape, Mode::Gradient).len as f64
    };
    let (whole, partial) = (bytes(None), bytes(Some(4)));
    println!(
        "DARTS {:.0} MB, PC-DARTS {:.0} MB",
        whole / 1e6,
        partial / 1e6
    );
    assert!(partial < 0.4 * whole, "{partial} of {whole}");
}

/// Which ops are on, a `share` of all, drawn; and θ and a direction with zeros where the others' weights are.
fn some_ops(alpha: Range<usize>, salt: u64, share: f32) -> (Vec<bool>, [Vec<f32>; 2]) {
    let philox = Philox::new(salt, Purpose::Architectures);
    let drawn = |i: usize| philox.uniform4(i as u64, 0)[0] <= share;
    let active: Vec<bool> = (0..alpha.len()).map(drawn).collect();
    let vectors = [salt, salt + 50].map(|salt| {
        let mut vector = normal(alpha.end, salt);
        for (x, &on) in vector[alpha.start..].iter_mut().zip(&active) {
            *x = if on { *x } else { 0.0 };
        }
        vector
    });
    (active, vectors)
}

#[test]
fn ops_that_are_off_change_nothing_but_the_work() {
    for space in Space::ALL {
        let (mut whole, omega) = given(space, Device::Cpu);
        let (mut part, _) = given(space, Device::Cpu);
        let len = whole.tape().theta_len();
        // Every share of ops on, from all to one op in eight, and all of them off.
        for (salt, share) in [(11, 0.9f32), (12, 0.5), (13, 0.125), (14, 0.125), (15, 0.0)] {
            // Leaves buffers of another point behind.
            part.activate_all();
            let (noise, mut scratch) = (normal(len, salt + 100), vec![0.0; len]);
            part.forward(Mode::Products, &noise).unwrap();
            part.backward(&noise, &mut scratch).unwrap();
            part.product(&noise, &noise, &mut scratch).unwrap();

            let (active, [theta, direction]) = some_ops(omega..len, salt, share);
            let passes = |executor: &mut Executor| {
                // Neither is cleared by the caller.
                let (mut gradient, mut product) = (normal(len, 1), normal(len, 2));
                let outcome = executor.forward(Mode::Products, &theta).unwrap();
                executor.backward(&theta, &mut gradient).unwrap();
                executor.product(&theta, &direction, &mut product).unwrap();
                (outcome, gradient, product)
            };
            let (expected, mut g, mut h) = passes(&mut whole);
            part.activate(&active);
            let (found, gradient, product) = passes(&mut part);
            for (i, &on) in active.iter().enumerate() {
                if !on {
                    (g[omega + i], h[omega + i]) = (0.0, 0.0);
                }
            }
            assert_eq!(found, expected, "{space:?}, {share}");
            assert!(off(&g, &gradient) < 1e-6, "{space:?}, {share}");
            assert!(off(&h, &product) < 1e-6, "{space:?}, {share}");
            assert_eq!(part.forward(Mode::Evaluate, &theta).unwrap(), expected);
            let (running, entries) = part.entries();
            assert!(running < entries || share > 0.4, "{running} of {entries}");
        }
    }
}

/// One architecture after the other over the same buffers, as a strategy draws them.
#[test]
fn a_part_of_a_supernet_is_on_the_device_what_it_is_on_the_cpu() {
    for space in ON_GPUS {
        let Some(turn) = for_tests() else {
            return;
        };
        let device = Device::Cuda(turn.clone());
        let (mut on_device, omega) = given(space, device.clone());
        let (mut cpu, _) = given(space, Device::Cpu);
        let len = cpu.tape().theta_len();
        let vector = |values: Vec<f32>| Vector::new(&device, values).unwrap();
        let (mut g, mut h) = (vec![0.0; len], vec![0.0; len]);
        // Neither is cleared by the caller.
        let (mut gradient, mut product) = (vector(normal(len, 1)), vector(normal(len, 2)));
        let mut captures = None;
        for (salt, share) in [(21, 1.0f32), (22, 0.5), (23, 0.125), (24, 0.125), (25, 0.0)] {
            let (active, [theta, direction]) = some_ops(omega..len, salt, share);
            for executor in [&mut cpu, &mut on_device] {
                if share == 1.0 {
                    executor.activate_all();
                } else {
                    executor.activate(&active);
                }
            }
            let expected = cpu.forward(Mode::Products, &theta).unwrap();
            cpu.backward(&theta, &mut g).unwrap();
            cpu.product(&theta, &direction, &mut h).unwrap();
            let (theta, direction) = (vector(theta), vector(direction));
            let found = on_device.forward(Mode::Products, &theta).unwrap();
            on_device.backward(&theta, &mut gradient).unwrap();
            on_device.product(&theta, &direction, &mut product).unwrap();
            let what = format!("{space:?}, {share}");
            assert!((found.loss / expected.loss - 1.0).abs() < 1e-5, "{what}");
            assert_eq!((found.top1, found.top5), (expected.top1, expected.top5));
            let read = |vector: &Vector| vector.slice().to_vec().unwrap();
            let (g_off, h_off) = (off(&g, &read(&gradient)), off(&h, &read(&product)));
            assert!(
                g_off < 1e-3 && h_off < 1e-3,
                "{what}: {g_off:.1e}, {h_off:.1e}"
            );
            assert_eq!(on_device.forward(Mode::Evaluate, &theta).unwrap(), found);
            assert_eq!(on_device.entries(), cpu.entries());
            // Only the whole is captured.
            let (_, count) = turn.waits_and_captures();
            assert_eq!(*captures.get_or_insert(count), count, "{what}");
        }
    }
}
