//! What lanes do together, matrix products, atomics and the constructs of modern CUDA C++.

mod common;

use common::Argument::{self, Pointer};
use common::{Device, Numbers};
use half::{bf16, f16};
use softcuda::Options;

const PTX: &str = include_str!("fixtures/collectives.ptx");

fn device() -> Device {
    Device::new(PTX, Options::default())
}

fn run(d: &Device, kernel: &str, threads: u32, pointers: &[u64]) {
    let args: Vec<Argument> = pointers.iter().map(|&p| Pointer(p)).collect();
    if let Err(fault) = d.launch(kernel, [1, 1, 1], [threads, 1, 1], 0, &args) {
        panic!("{fault}");
    }
}

fn random(count: usize) -> Vec<f32> {
    let mut numbers = Numbers(count as u64 + 5);
    (0..count).map(|_| numbers.unit()).collect()
}

#[test]
fn shuffles_votes_matches_and_reductions_match_their_definitions() {
    let d = device();
    let mut numbers = Numbers(9);
    let x: Vec<i32> = (0..32)
        .map(|_| (numbers.bits() & 0xff) as i32 + 1)
        .collect();
    let (px, out) = (d.buffer(&x), d.empty(4 * 32 * 12));
    run(&d, "shuffles", 32, &[px, out]);
    let found: Vec<i32> = d.read(out, 32 * 12);
    let ballot = (0..32).fold(0u32, |m, i| m | ((x[i] & 1) as u32) << i) as i32;
    for i in 0..32 {
        let expect = |row: usize, value: i32| assert_eq!(found[row * 32 + i], value, "{row} {i}");
        expect(0, x[3]);
        expect(1, if i < 2 { x[i] } else { x[i - 2] });
        expect(2, if i % 16 + 5 < 16 { x[i + 5] } else { x[i] });
        expect(3, x[i ^ 9]);
        expect(4, x[i / 8 * 8 + 5]);
        expect(5, ballot);
        let same = (0..32).fold(0u32, |m, j| m | u32::from(x[j] & 3 == x[i] & 3) << j);
        expect(6, same as i32);
        expect(7, -1i32 + 1);
        expect(8, x.iter().sum());
        expect(9, *x.iter().max().unwrap());
        expect(10, 3);
        expect(11, if i % 8 < 3 { x[i] } else { x[i - 3] });
    }
}

#[test]
fn block_wide_votes_count_every_thread() {
    let d = device();
    let x: Vec<i32> = (0..96).map(|i| i % 3 - 1).collect();
    let (px, out) = (d.buffer(&x), d.empty(4 * 96));
    run(&d, "block_votes", 96, &[px, out]);
    assert_eq!(d.read::<i32>(out, 96), vec![32 * 4 + 1; 96]);
}

#[test]
fn a_tile_scans() {
    let d = device();
    let x: Vec<i32> = (0..64).collect();
    let p = d.buffer(&x);
    run(&d, "scan", 64, &[p]);
    for (i, value) in d.read::<i32>(p, 64).into_iter().enumerate() {
        assert_eq!(value, (i as i32 / 32 * 32..=i as i32).sum::<i32>());
    }
}

fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for row in 0..m {
        for column in 0..n {
            for step in 0..k {
                c[row * n + column] +=
                    f64::from(a[row * k + step]) * f64::from(b[step * n + column]);
            }
        }
    }
    c
}

fn close(found: impl IntoIterator<Item = f64>, expected: &[f64], limit: f64) {
    for (i, (x, y)) in found.into_iter().zip(expected).enumerate() {
        assert!(
            (x - y).abs() <= limit * (1.0 + y.abs()),
            "{i}: {x} instead of {y}"
        );
    }
}

#[test]
fn mma_products_of_every_type_match() {
    let d = device();
    let narrow = |x: &[f32]| x.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>();
    let widen = |x: &[f16]| x.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    let (a, b) = (narrow(&random(256)), narrow(&random(128)));
    let out = d.empty(512);
    run(&d, "mma_f16", 32, &[d.buffer(&a), d.buffer(&b), out]);
    let expected = product(&widen(&a), &widen(&b), 16, 8, 16);
    close(
        d.read::<f32>(out, 128).into_iter().map(f64::from),
        &expected,
        1e-5,
    );

    let truncate = |x: Vec<f32>| {
        x.iter()
            .map(|v| f32::from_bits(v.to_bits() & 0xffff_e000))
            .collect::<Vec<_>>()
    };
    let (a, b) = (random(128), random(64));
    run(&d, "mma_tf32", 32, &[d.buffer(&a), d.buffer(&b), out]);
    let expected = product(&truncate(a), &truncate(b), 16, 8, 8);
    close(
        d.read::<f32>(out, 128).into_iter().map(f64::from),
        &expected,
        1e-5,
    );

    let mut numbers = Numbers(4);
    let a: Vec<i8> = (0..512).map(|_| numbers.bits() as i8).collect();
    let b: Vec<i8> = (0..256).map(|_| numbers.bits() as i8).collect();
    run(&d, "mma_s8", 32, &[d.buffer(&a), d.buffer(&b), out]);
    let found: Vec<i32> = d.read(out, 128);
    for row in 0..16 {
        for column in 0..8 {
            let sum: i32 = (0..32)
                .map(|k| i32::from(a[row * 32 + k]) * i32::from(b[column * 32 + k]))
                .sum();
            assert_eq!(found[row * 8 + column], sum);
        }
    }

    let a: Vec<f64> = random(32).into_iter().map(f64::from).collect();
    let b: Vec<f64> = random(33)[1..].iter().map(|&v| f64::from(v)).collect();
    run(&d, "mma_f64", 32, &[d.buffer(&a), d.buffer(&b), out]);
    let found: Vec<f64> = d.read(out, 64);
    for row in 0..8 {
        for column in 0..8 {
            let sum = (0..4).fold(0.0, |s, k| a[row * 4 + k].mul_add(b[k * 8 + column], s));
            assert_eq!(found[row * 8 + column], sum);
        }
    }
}

#[test]
fn wmma_products_of_every_shape_match() {
    let d = device();
    let out = d.empty(1024);
    let (a, b) = (random(256), random(257)[1..].to_vec());
    let brain = |x: &[f32]| x.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>();
    let wide = |x: &[bf16]| x.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    let (ba, bb) = (brain(&a), brain(&b));
    run(&d, "wmma_bf16", 32, &[d.buffer(&ba), d.buffer(&bb), out]);
    let expected = product(&wide(&ba), &wide(&bb), 16, 16, 16);
    close(
        d.read::<f32>(out, 256).into_iter().map(f64::from),
        &expected,
        1e-5,
    );

    let narrow = |x: &[f32]| x.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>();
    let widen = |x: &[f16]| x.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    let (ha, hb) = (narrow(&random(512)), narrow(&random(128)));
    run(&d, "wmma_half", 32, &[d.buffer(&ha), d.buffer(&hb), out]);
    let expected = product(&widen(&ha), &widen(&hb), 32, 8, 16);
    close(
        d.read::<f16>(out, 256)
            .into_iter()
            .map(|v| f64::from(v.to_f32())),
        &expected,
        1e-3,
    );

    let (ha, hb) = (narrow(&random(128)), narrow(&random(512)));
    run(&d, "wmma_wide", 32, &[d.buffer(&ha), d.buffer(&hb), out]);
    let expected = product(&widen(&ha), &widen(&hb), 8, 32, 16);
    close(
        d.read::<f32>(out, 256).into_iter().map(f64::from),
        &expected,
        1e-5,
    );
}

#[test]
fn atomics_of_every_kind_add_up() {
    let d = device();
    let i = d.buffer(&[0, 0, 0, 0, -1, 0, 0, 5, 0, 0i32]);
    let (u, q) = (d.buffer(&[0u32, 0]), d.buffer(&[0u64, 0]));
    let (f, g) = (d.buffer(&[0f32]), d.buffer(&[0f64]));
    let (h, b) = (d.buffer(&[f16::ZERO; 2]), d.buffer(&[bf16::ZERO; 2]));
    run(&d, "atomics", 32, &[i, u, q, f, g, h, b]);
    let xor = (0..32).fold(0u32, |mask, shift| mask ^ 3 << shift) as i32;
    assert_eq!(
        d.read::<i32>(i, 10),
        [64, -96, -31, 31, 0, -1, xor, 6, 77, 32]
    );
    assert_eq!(
        d.read::<u32>(u, 2),
        [32 % 5, {
            let mut value = 0;
            for _ in 0..32 {
                value = if value == 0 || value > 4 {
                    4
                } else {
                    value - 1
                };
            }
            value
        }]
    );
    assert_eq!(d.read::<u64>(q, 2), [32 << 33, 31 << 40]);
    assert_eq!(
        (d.read::<f32>(f, 1)[0], d.read::<f64>(g, 1)[0]),
        (16.0, 8.0)
    );
    assert_eq!(
        d.read::<f16>(h, 2),
        [f16::from_f32(32.0), f16::from_f32(64.0)]
    );
    assert_eq!(
        d.read::<bf16>(b, 2),
        [bf16::from_f32(32.0), bf16::from_f32(64.0)]
    );
}

#[test]
fn barrier_objects_pipelines_and_group_copies_work() {
    let d = device();
    let x = random(512);
    let (px, out) = (d.buffer(&x), d.empty(1024));
    run(&d, "block_barrier", 256, &[out, px]);
    for (t, value) in d.read::<f32>(out, 256).into_iter().enumerate() {
        assert_eq!(value, x[255 - t] + 2.0);
    }
    run(&d, "block_pipeline", 256, &[out, px]);
    for (t, value) in d.read::<f32>(out, 256).into_iter().enumerate() {
        assert_eq!(value, x[255 - t] + x[511 - t]);
    }
    run(&d, "group_copy", 256, &[out, px]);
    for (t, value) in d.read::<f32>(out, 256).into_iter().enumerate() {
        assert_eq!(value, x[255 - t]);
    }
}

#[test]
fn function_pointers_virtual_functions_and_the_heap_work() {
    let d = device();
    let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let p = d.buffer(&x);
    run(&d, "function_pointers", 64, &[p]);
    for (i, value) in d.read::<f32>(p, 64).into_iter().enumerate() {
        assert_eq!(value, if i % 2 == 0 { x[i] + 1.0 } else { x[i] * 2.0 });
    }
    d.write(p, &x);
    run(&d, "virtual_calls", 64, &[p]);
    for (i, value) in d.read::<f32>(p, 64).into_iter().enumerate() {
        assert_eq!(value, if i % 3 == 0 { x[i] * 3.0 } else { x[i] });
    }
    run(&d, "device_heap", 64, &[p]);
    for (i, value) in d.read::<i32>(p, 64).into_iter().enumerate() {
        assert_eq!(value, i as i32 + 1);
    }
}

#[test]
fn mathematical_functions_are_as_accurate_as_cuda_says() {
    let d = device();
    let x: Vec<f32> = random(64).iter().map(|v| v * 5.0).collect();
    let y: Vec<f64> = x.iter().map(|&v| f64::from(v) * 1.37).collect();
    let (f, g) = (d.empty(4 * 512), d.empty(8 * 320));
    run(&d, "math", 64, &[d.buffer(&x), f, d.buffer(&y), g]);
    let (f, g): (Vec<f32>, Vec<f64>) = (d.read(f, 512), d.read(g, 320));
    for i in 0..64 {
        let v = f64::from(x[i]);
        let a = v.abs();
        let expected = [
            v.sin(),
            v.exp(),
            a.ln(),
            v.tanh(),
            a.powf(f64::from(1.7f32)),
        ];
        for (row, expected) in expected.into_iter().enumerate() {
            let found = f64::from(f[row * 64 + i]);
            assert!(
                (found - expected).abs() <= 4e-7 * expected.abs().max(0.1),
                "{row} {v}: {found}"
            );
        }
        let root = 1.0 / a.sqrt();
        assert!((f64::from(f[384 + i]) - root).abs() <= 3e-7 * root);
        assert_eq!(f[448 + i], x[i] % 0.7);
        let w = y[i];
        let expected = [
            w.sin(),
            w.exp(),
            w.abs().ln(),
            w.abs().powf(1.7),
            (w * 1e9).sin(),
        ];
        for (row, expected) in expected.into_iter().enumerate() {
            let found = g[row * 64 + i];
            assert!(
                (found - expected).abs() <= 1e-14 * expected.abs().max(1.0),
                "{row} {w}: {found}"
            );
        }
    }
}

#[test]
fn packed_half_mathematics_is_accurate() {
    let d = device();
    let x: Vec<f16> = random(64).iter().map(|&v| f16::from_f32(v)).collect();
    let y: Vec<bf16> = random(64).iter().map(|&v| bf16::from_f32(v)).collect();
    let (out, z) = (d.empty(4 * 128), d.empty(4 * 64));
    run(&d, "half_math", 32, &[d.buffer(&x), out, d.buffer(&y), z]);
    let (out, z): (Vec<f16>, Vec<bf16>) = (d.read(out, 256), d.read(z, 128));
    for i in 0..64 {
        let v = f64::from(x[i].to_f32());
        let expected = [v.exp(), v * v + v, v.abs().sqrt(), v / 3.0];
        for (row, expected) in expected.into_iter().enumerate() {
            let found = f64::from(out[row * 64 + i].to_f32());
            assert!(
                (found - expected).abs() <= 1.1e-3 * expected.abs() + 1e-7,
                "{row} {v}: {found}"
            );
        }
        let w = f64::from(y[i].to_f32());
        for (row, expected) in [w * w + w, w.exp()].into_iter().enumerate() {
            let found = f64::from(z[row * 64 + i].to_f32());
            assert!(
                (found - expected).abs() <= 1e-2 * expected.abs(),
                "{row} {w}: {found}"
            );
        }
    }
}
