//! CUDA C++ kernels, compiled by NVRTC beforehand, against plain results.

mod common;

use common::Argument::{Double, Int, Pointer};
use common::{Device, Numbers, options};
use softcuda::{Checks, FaultKind, Options};

const PTX: &str = include_str!("fixtures/basics.ptx");

fn device() -> Device {
    Device::new(PTX, Options::default())
}

fn random(count: usize) -> Vec<f32> {
    let mut numbers = Numbers(count as u64);
    (0..count).map(|_| numbers.unit()).collect()
}

#[test]
fn vectors_are_added_also_at_a_ragged_end() {
    let d = device();
    let (a, b) = (random(1000), random(1000));
    let (pa, pb, pc) = (d.buffer(&a), d.buffer(&b), d.empty(4000));
    let args = [Pointer(pa), Pointer(pb), Pointer(pc), Int(1000)];
    d.launch("vector_add", [8, 1, 1], [128, 1, 1], 0, &args)
        .unwrap();
    let c: Vec<f32> = d.read(pc, 1000);
    for i in 0..1000 {
        assert_eq!(c[i], a[i] + b[i]);
    }
}

#[test]
fn tiled_matrix_product_matches_a_plain_one() {
    let d = device();
    let n = 64;
    let (a, b) = (random(n * n), random(n * n));
    let (pa, pb, pc) = (d.buffer(&a), d.buffer(&b), d.empty(4 * n * n));
    let args = [Pointer(pa), Pointer(pb), Pointer(pc), Int(n as i32)];
    d.launch("matmul", [4, 4, 1], [16, 16, 1], 0, &args)
        .unwrap();
    let c: Vec<f32> = d.read(pc, n * n);
    for row in 0..n {
        for column in 0..n {
            let sum = (0..n).fold(0f32, |s, k| a[row * n + k].mul_add(b[k * n + column], s));
            assert_eq!(c[row * n + column], sum);
        }
    }
}

#[test]
fn block_reduction_by_shuffles_and_atomics_gives_the_sum_at_any_number_of_cores() {
    let x = random(10_000);
    let mut results = Vec::new();
    for threads in [1, 2, 5] {
        let d = Device::new(
            PTX,
            Options {
                threads,
                ..Options::default()
            },
        );
        let (px, out) = (d.buffer(&x), d.buffer(&[0f32]));
        let args = [Pointer(px), Pointer(out), Int(10_000)];
        d.launch("reduce", [7, 1, 1], [256, 1, 1], 0, &args)
            .unwrap();
        results.push(d.read::<f32>(out, 1)[0].to_bits());
    }
    let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
    assert!((f64::from(f32::from_bits(results[0])) - sum).abs() < 1e-3);
    assert!(results.iter().all(|r| *r == results[0]));
}

#[test]
fn last_block_done_reduction_is_no_race() {
    let d = device();
    let x = random(5000);
    let (px, partial, out) = (d.buffer(&x), d.empty(4 * 9), d.empty(4));
    let args = [Pointer(px), Pointer(partial), Pointer(out), Int(5000)];
    for _ in 0..2 {
        d.launch("reduce_last_block", [9, 1, 1], [128, 1, 1], 512, &args)
            .unwrap();
    }
    let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
    assert!((f64::from(d.read::<f32>(out, 1)[0]) - sum).abs() < 1e-3);
}

#[test]
fn printf_formats_as_c_does_and_a_failed_assertion_stops_the_launch() {
    let d = device();
    let args = [Int(-2), Double(1.5)];
    d.launch("print_and_assert", [1, 1, 1], [2, 1, 1], 0, &args)
        .unwrap();
    let text = String::from_utf8(d.printed.lock().unwrap().clone()).unwrap();
    assert_eq!(text, "k=-2 d=1.500 s=abc     7|ff  |%\n".repeat(2));
    let fault = d
        .launch(
            "print_and_assert",
            [1, 1, 1],
            [1, 1, 1],
            0,
            &[Int(3), Double(0.0)],
        )
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::Assert);
    assert!(fault.text.contains("k != 3"), "{fault}");
}

#[test]
fn divergent_recursion_returns_each_lane_its_own_result() {
    let d = device();
    let out = d.empty(4 * 64);
    d.launch("recursion", [1, 1, 1], [64, 1, 1], 0, &[Pointer(out)])
        .unwrap();
    let expected = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    for (i, value) in d.read::<i32>(out, 64).into_iter().enumerate() {
        assert_eq!(value, expected[i % 12]);
    }
}

#[test]
fn histogram_by_shared_and_global_atomics_counts_everything() {
    let d = device();
    let mut numbers = Numbers(3);
    let x: Vec<u8> = (0..20_000).map(|_| (numbers.bits() & 127) as u8).collect();
    let (px, bins) = (d.buffer(&x), d.buffer(&[0u32; 256]));
    let args = [Pointer(px), Pointer(bins), Int(20_000)];
    d.launch("histogram", [6, 1, 1], [192, 1, 1], 0, &args)
        .unwrap();
    let found: Vec<u32> = d.read(bins, 256);
    for value in 0..256 {
        let count = x.iter().filter(|&&b| usize::from(b) == value).count();
        assert_eq!(found[value] as usize, count);
    }
}

#[test]
fn spin_locks_within_a_warp_make_progress() {
    for kernel in ["spin_lock", "naive_spin_lock"] {
        let d = device();
        let counter = d.buffer(&[0i32]);
        d.launch(kernel, [3, 1, 1], [64, 1, 1], 0, &[Pointer(counter)])
            .unwrap();
        assert_eq!(d.read::<i32>(counter, 1), [192]);
    }
}

#[test]
fn local_arrays_and_switches_work() {
    for k in [0, 1, 2, 3, 4, 5, 20] {
        let d = device();
        let x: Vec<i32> = (0..64).map(|i| i * 3).collect();
        let p = d.buffer(&x);
        d.launch(
            "local_array",
            [1, 1, 1],
            [1, 1, 1],
            0,
            &[Pointer(p), Int(k)],
        )
        .unwrap();
        let mut expected = x.clone();
        match k {
            0 => expected[0] = 30,
            1 => expected[1] = 7,
            2 => expected[2] = 0,
            3 => expected[0] = 9,
            4 => expected[9] = 9,
            5 => expected[8] = 1,
            _ => expected[20] = 120,
        }
        assert_eq!(d.read::<i32>(p, 64), expected);
    }
}

#[test]
fn wmma_multiplies_a_tile() {
    let d = device();
    let (a, b) = (random(256), random(256));
    let narrow = |x: &[f32]| {
        x.iter()
            .map(|&v| half::f16::from_f32(v))
            .collect::<Vec<_>>()
    };
    let (ha, hb) = (narrow(&a), narrow(&b));
    let (pa, pb, pc) = (d.buffer(&ha), d.buffer(&hb), d.empty(1024));
    d.launch(
        "wmma_product",
        [1, 1, 1],
        [32, 1, 1],
        0,
        &[Pointer(pa), Pointer(pb), Pointer(pc)],
    )
    .unwrap();
    let c: Vec<f32> = d.read(pc, 256);
    for row in 0..16 {
        for column in 0..16 {
            // b is column-major.
            let sum: f32 = (0..16)
                .map(|k| ha[row * 16 + k].to_f32() * hb[column * 16 + k].to_f32())
                .sum();
            assert!((c[row * 16 + column] - sum).abs() < 1e-5);
        }
    }
}

#[test]
fn a_cooperative_grid_synchronises() {
    let d = device();
    let (x, out) = (d.empty(4 * 40), d.empty(4 * 40));
    d.launch_with(
        "grid_sync",
        [40, 1, 1],
        [64, 1, 1],
        0,
        &[Pointer(x), Pointer(out)],
        true,
    )
    .unwrap();
    assert_eq!(d.read::<i32>(out, 40), vec![820; 40]);
}

#[test]
fn asynchronous_copies_arrive_group_by_group() {
    let d = device();
    let x = random(512);
    let (px, out) = (d.buffer(&x), d.empty(256));
    d.launch(
        "async_copy",
        [1, 1, 1],
        [64, 1, 1],
        0,
        &[Pointer(px), Pointer(out)],
    )
    .unwrap();
    for (t, value) in d.read::<f32>(out, 64).into_iter().enumerate() {
        assert_eq!(value, x[(63 - t) * 4] + x[(64 + 63 - t) * 4 + 1]);
    }
}

#[test]
fn tiles_and_coalesced_groups_see_their_members() {
    let d = device();
    let out = d.empty(4 * 64);
    d.launch("tiles", [1, 1, 1], [64, 1, 1], 0, &[Pointer(out)])
        .unwrap();
    for (t, value) in d.read::<i32>(out, 64).into_iter().enumerate() {
        let first = t / 8 * 8;
        let mut expected = (first..first + 8).sum::<usize>();
        if t % 3 == 0 {
            let warp = t / 32 * 32;
            let group: Vec<usize> = (warp..warp + 32).filter(|i| i % 3 == 0).collect();
            expected += 1000 * group.len() + group.iter().filter(|&&i| i < t).count();
        }
        assert_eq!(value as usize, expected, "thread {t}");
    }
}

#[test]
fn threads_that_return_early_are_not_waited_for() {
    let d = device();
    let x = random(100);
    let p = d.buffer(&x);
    d.launch(
        "early_return",
        [1, 1, 1],
        [128, 1, 1],
        0,
        &[Pointer(p), Int(100)],
    )
    .unwrap();
    let reversed: Vec<f32> = x.iter().rev().copied().collect();
    assert_eq!(d.read::<f32>(p, 100), reversed);
}

#[test]
fn a_shuffled_schedule_changes_nothing_where_nothing_races() {
    let x = random(5000);
    for seed in [1, 2, 3] {
        let d = Device::new(
            PTX,
            Options {
                schedule: Some(seed),
                ..options(Checks::ALL)
            },
        );
        let (px, partial, out) = (d.buffer(&x), d.empty(4 * 9), d.empty(4));
        let args = [Pointer(px), Pointer(partial), Pointer(out), Int(5000)];
        d.launch("reduce_last_block", [9, 1, 1], [128, 1, 1], 512, &args)
            .unwrap();
        let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
        assert!((f64::from(d.read::<f32>(out, 1)[0]) - sum).abs() < 1e-3);
    }
}
