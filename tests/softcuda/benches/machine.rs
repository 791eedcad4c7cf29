//! Lane-instructions a second of the machine, without and with all checks, and the time to load a module.
//!
//! `threads: 1`, so the numbers are for one core. Throughput is in lane-instructions.

#[path = "../tests/common/mod.rs"]
mod common;

use common::Argument::{Int, Pointer};
use common::Device;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use softcuda::{Checks, Memory, Module, Options, Target};

const PTX: &str = include_str!("../tests/fixtures/basics.ptx");

fn device(checks: Checks) -> Device {
    Device::new(
        PTX,
        Options {
            checks,
            threads: 1,
            ..Options::default()
        },
    )
}

fn launches(c: &mut Criterion) {
    for (name, checks) in [("unchecked", Checks::NONE), ("checked", Checks::ALL)] {
        let mut group = c.benchmark_group(name);
        group.sample_size(10);
        let d = device(checks);
        let out = d.empty(4 * 64 * 256);
        let arithmetic = || {
            d.launch(
                "arithmetic",
                [64, 1, 1],
                [256, 1, 1],
                0,
                &[Pointer(out), Int(64)],
            )
            .unwrap()
        };
        group.throughput(Throughput::Elements(arithmetic().thread_instructions));
        group.bench_function("arithmetic", |b| b.iter(arithmetic));

        let n = 1 << 20;
        let (x, y) = (d.buffer(&vec![1f32; n]), d.buffer(&vec![2f32; n]));
        let z = d.empty(4 * n);
        let args = [Pointer(x), Pointer(y), Pointer(z), Int(n as i32)];
        let copy = || {
            d.launch(
                "vector_add",
                [(n / 256) as u32, 1, 1],
                [256, 1, 1],
                0,
                &args,
            )
            .unwrap()
        };
        group.throughput(Throughput::Elements(copy().thread_instructions));
        group.bench_function("memory", |b| b.iter(copy));

        let args = [Pointer(x), Pointer(y), Pointer(z), Int(256)];
        let product = || {
            d.launch("matmul", [16, 16, 1], [16, 16, 1], 0, &args)
                .unwrap()
        };
        group.throughput(Throughput::Elements(product().thread_instructions));
        group.bench_function("shared memory", |b| b.iter(product));
        group.finish();
    }
}

fn load(c: &mut Criterion) {
    let lines = PTX.lines().count() as u64;
    let target = Target::default();
    let options = Options::default();
    let memory = Memory::new(1 << 30, &options.checks);
    let mut group = c.benchmark_group("load");
    group.throughput(Throughput::Elements(lines));
    group.bench_function(format!("{lines} lines of PTX"), |b| {
        b.iter(|| {
            Module::load(PTX.as_bytes(), &target, &memory, &options).map(|m| m.kernels().len())
        })
    });
    group.finish();
}

criterion_group!(benches, launches, load);
criterion_main!(benches);
