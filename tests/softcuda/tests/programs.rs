//! Programs of the field in CUDA C++ (`programs/*.cu`), compiled by NVRTC, run on softcuda with all checks on:
//! each against a plain CPU result, some against the memory traffic that theory foretells.

#[path = "support/program.rs"]
mod program;
mod support;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use half::{bf16, f16};
use program::{Program, launch};
use serde_json::Value;
use support::{can_compile, on_softcuda};

/// Numbers in [-1, 1), the same each time.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Norm-wise relative error.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f) - e).powi(2))
        .sum();
    let norm: f64 = expected.iter().map(|e| e * e).sum();
    (difference / norm.max(1e-30)).sqrt()
}

/// Runs a test's body on softcuda with all checks; it must stay silent.
fn clean(test: &str, body: impl FnOnce()) {
    if can_compile(test) {
        on_softcuda(test, &[], body).silent();
    }
}

/// As [`clean`], with counters: one object a launch.
fn counted(test: &str, body: impl FnOnce()) -> Option<Vec<Value>> {
    if !can_compile(test) {
        return None;
    }
    let file = format!("{}/{test}.jsonl", env!("CARGO_TARGET_TMPDIR"));
    let run = on_softcuda(test, &[("SOFTCUDA_PROFILE", &file)], body);
    run.silent();
    let lines = std::fs::read_to_string(&file).unwrap();
    Some(
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    )
}

/// A counter of a launch.
fn counter(launch: &Value, name: &str) -> f64 {
    launch[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no counter {name} in {launch}"))
}

const LOAD_SECTORS: &str = "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum";
const STORE_SECTORS: &str = "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum";
const LOAD_EFFICIENCY: &str = "smsp__sass_average_data_bytes_per_sector_mem_global_op_ld.pct";
const STORE_EFFICIENCY: &str = "smsp__sass_average_data_bytes_per_sector_mem_global_op_st.pct";
const CONFLICT_FACTOR: &str = "shared_bank_conflict_factor";

#[test]
fn a_coalesced_copy_moves_n_eighths_sectors_each_way_at_full_efficiency() {
    let test = "a_coalesced_copy_moves_n_eighths_sectors_each_way_at_full_efficiency";
    let n = 1 << 16;
    let launches = counted(test, || {
        let program = Program::load("copy.cu");
        let host = noise(n, 1);
        let x = program.put(&host);
        let (mut y, mut z) = (program.room::<f32>(n), program.room::<f32>(n));
        launch!(
            program,
            "copy",
            (n as u32 / 256, 1, 1),
            (256, 1, 1),
            &mut y,
            &x,
            &(n as i32)
        );
        launch!(
            program,
            "copy_vector",
            (n as u32 / 1024, 1, 1),
            (256, 1, 1),
            &mut z,
            &x,
            &(n as i32 / 4)
        );
        assert!(program.get(&y) == host && program.get(&z) == host);
    });
    for launch in launches.iter().flatten() {
        assert_eq!(counter(launch, LOAD_SECTORS), n as f64 / 8.0);
        assert_eq!(counter(launch, STORE_SECTORS), n as f64 / 8.0);
        assert_eq!(counter(launch, LOAD_EFFICIENCY), 100.0);
        assert_eq!(counter(launch, STORE_EFFICIENCY), 100.0);
        assert_eq!(counter(launch, "unique_sectors_read"), n as f64 / 8.0);
        assert_eq!(counter(launch, "unique_sectors_written"), n as f64 / 8.0);
    }
}

#[test]
fn a_stride_of_two_wastes_half_of_each_sector() {
    let n = 1 << 14;
    let launches = counted("a_stride_of_two_wastes_half_of_each_sector", || {
        let program = Program::load("copy.cu");
        let host = noise(8 * n, 2);
        let x = program.put(&host);
        for stride in [2, 8] {
            let mut y = program.room::<f32>(n);
            let grid = (n as u32 / 128, 1, 1);
            launch!(
                program,
                "gather_stride",
                grid,
                (128, 1, 1),
                &mut y,
                &x,
                &(n as i32),
                &(stride as i32)
            );
            let expected: Vec<f32> = (0..n).map(|i| host[i * stride]).collect();
            assert!(program.get(&y) == expected);
        }
    });
    let Some(launches) = launches else { return };
    assert_eq!(counter(&launches[0], LOAD_EFFICIENCY), 50.0);
    assert_eq!(counter(&launches[0], LOAD_SECTORS), n as f64 / 4.0);
    assert_eq!(counter(&launches[1], LOAD_EFFICIENCY), 12.5);
    assert_eq!(counter(&launches[1], STORE_EFFICIENCY), 100.0);
}

#[test]
fn shared_strides_conflict_as_often_as_theory_says() {
    let strides = [1, 2, 3, 4, 8, 16, 31, 32];
    let launches = counted("shared_strides_conflict_as_often_as_theory_says", || {
        let program = Program::load("copy.cu");
        let host = noise(32, 3);
        let x = program.put(&host);
        for stride in strides {
            let mut y = program.room::<f32>(32);
            launch!(
                program,
                "shared_stride",
                (1, 1, 1),
                (32, 1, 1),
                &mut y,
                &x,
                &stride
            );
            assert!(program.get(&y) == host);
        }
    });
    for (launch, stride) in launches.iter().flatten().zip(strides) {
        // Lanes that share a bank: the greatest common divisor of stride and banks.
        let factor = (1..=32)
            .rev()
            .find(|d| stride % d == 0 && 32 % d == 0)
            .unwrap();
        assert_eq!(
            counter(launch, CONFLICT_FACTOR),
            f64::from(factor),
            "stride {stride}"
        );
    }
}

#[test]
fn tiled_matrix_product_is_right_at_sizes_that_are_no_multiple_of_the_tile() {
    clean(
        "tiled_matrix_product_is_right_at_sizes_that_are_no_multiple_of_the_tile",
        || {
            let program = Program::load("matmul.cu");
            for n in [1usize, 16, 50] {
                let (a, b) = (noise(n * n, 4), noise(n * n, 5));
                let mut c = program.room::<f32>(n * n);
                let tiles = n.div_ceil(16) as u32;
                let (da, db) = (program.put(&a), program.put(&b));
                launch!(
                    program,
                    "matmul",
                    (tiles, tiles, 1),
                    (16, 16, 1),
                    &mut c,
                    &da,
                    &db,
                    &(n as i32)
                );
                let expected = product(&a, &b, n);
                assert!(error(&program.get(&c), &expected) < 1e-6);
            }
        },
    );
}

fn product(a: &[f32], b: &[f32], n: usize) -> Vec<f64> {
    let at = |x: &[f32], row: usize, column: usize| f64::from(x[row * n + column]);
    (0..n * n)
        .map(|i| (0..n).map(|k| at(a, i / n, k) * at(b, k, i % n)).sum())
        .collect()
}

#[test]
fn reductions_of_warp_block_group_and_grid_add_up() {
    clean("reductions_of_warp_block_group_and_grid_add_up", || {
        let program = Program::load("reduce.cu");
        let n = 10_000usize;
        let host: Vec<f32> = (0..n).map(|i| (i % 17) as f32).collect();
        let x = program.put(&host);
        let total: f32 = host.iter().sum();

        let mut warps = program.room::<f32>(256 / 32);
        launch!(program, "warp_sums", (1, 1, 1), (256, 1, 1), &mut warps, &x);
        let expected: Vec<f32> = host[..256]
            .chunks(32)
            .map(|warp| warp.iter().sum())
            .collect();
        assert_eq!(program.get(&warps), expected);

        let mut blocks = program.room::<f32>(8);
        launch!(
            program,
            "block_sums",
            (8, 1, 1),
            (256, 1, 1),
            &mut blocks,
            &x,
            &(n as i32)
        );
        assert_eq!(program.get(&blocks).iter().sum::<f32>(), total);

        let integers = program.put(&host.iter().map(|&v| v as i32).collect::<Vec<_>>());
        let mut sum = program.put(&[0i32]);
        launch!(
            program,
            "group_sums",
            (n.div_ceil(128) as u32, 1, 1),
            (128, 1, 1),
            &mut sum,
            &integers,
            &(n as i32)
        );
        assert_eq!(program.get(&sum), [total as i32]);

        let values: Vec<u32> = (0..256u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        let unsigned = program.put(&values);
        let mut maxima = program.room::<u32>(8);
        launch!(
            program,
            "warp_maxima",
            (1, 1, 1),
            (256, 1, 1),
            &mut maxima,
            &unsigned
        );
        let expected: Vec<u32> = values
            .chunks(32)
            .map(|warp| *warp.iter().max().unwrap())
            .collect();
        assert_eq!(program.get(&maxima), expected);

        let (mut out, mut sums) = (program.room::<f32>(1), program.room::<f32>(16));
        let function = program.function("grid_sum");
        let shape = LaunchConfig {
            grid_dim: (16, 1, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: 0,
        };
        let n = n as i32;
        let mut builder = program.stream.launch_builder(&function);
        builder.arg(&mut out).arg(&mut sums).arg(&x).arg(&n);
        // SAFETY: the kernel's parameters.
        unsafe { builder.launch_cooperative(shape) }.unwrap();
        assert_eq!(program.get(&out), [total]);
    });
}

#[test]
fn prefix_sums_over_several_blocks_are_exact() {
    clean("prefix_sums_over_several_blocks_are_exact", || {
        let program = Program::load("scan.cu");
        let n = 5_000usize;
        let host: Vec<i32> = (0..n as i32).map(|i| (i * 7919) % 101 - 50).collect();
        let x = program.put(&host);
        let blocks = n.div_ceil(1024) as u32;
        let (mut y, mut totals) = (program.room::<i32>(n), program.room::<i32>(blocks as usize));
        let (mut scanned, mut rest) =
            (program.room::<i32>(blocks as usize), program.room::<i32>(1));
        launch!(
            program,
            "scan_blocks",
            (blocks, 1, 1),
            (1024, 1, 1),
            &mut y,
            &mut totals,
            &x,
            &(n as i32)
        );
        launch!(
            program,
            "scan_blocks",
            (1, 1, 1),
            (1024, 1, 1),
            &mut scanned,
            &mut rest,
            &totals,
            &(blocks as i32)
        );
        launch!(
            program,
            "add_totals",
            (blocks, 1, 1),
            (1024, 1, 1),
            &mut y,
            &scanned,
            &(n as i32)
        );
        let mut sum = 0;
        let expected: Vec<i32> = host
            .iter()
            .map(|v| {
                sum += v;
                sum
            })
            .collect();
        assert!(program.get(&y) == expected);
    });
}

#[test]
fn bitonic_sort_sorts() {
    clean("bitonic_sort_sorts", || {
        let program = Program::load("sort.cu");
        let n = 4096u32;
        let mut host: Vec<u32> = (0..n).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        let mut x = program.put(&host);
        launch!(
            program,
            "bitonic_block",
            (n / 1024, 1, 1),
            (512, 1, 1),
            &mut x
        );
        let mut run = 2048;
        while run <= n {
            let mut distance = run / 2;
            while distance > 0 {
                let (r, d) = (run as i32, distance as i32);
                launch!(
                    program,
                    "bitonic_step",
                    (n / 512, 1, 1),
                    (256, 1, 1),
                    &mut x,
                    &r,
                    &d
                );
                distance /= 2;
            }
            run *= 2;
        }
        host.sort_unstable();
        assert!(program.get(&x) == host);
    });
}

#[test]
fn histograms_by_shared_atomics_and_by_matching_lanes_agree() {
    clean(
        "histograms_by_shared_atomics_and_by_matching_lanes_agree",
        || {
            let program = Program::load("histogram.cu");
            let host: Vec<u8> = (0..20_000u32)
                .map(|i| (i.wrapping_mul(i) >> 3) as u8)
                .collect();
            let mut expected = vec![0u32; 256];
            host.iter().for_each(|&byte| expected[byte as usize] += 1);
            let (x, n) = (program.put(&host), host.len() as i32);
            for (kernel, grid) in [
                ("histogram", 8),
                ("histogram_matched", 20_000u32.div_ceil(256)),
            ] {
                let mut bins = program.put(&[0u32; 256]);
                launch!(
                    program,
                    kernel,
                    (grid, 1, 1),
                    (256, 1, 1),
                    &mut bins,
                    &x,
                    &n
                );
                assert!(program.get(&bins) == expected, "{kernel}");
            }
        },
    );
}

#[test]
fn a_stencil_with_halo_is_right_up_to_the_border() {
    clean("a_stencil_with_halo_is_right_up_to_the_border", || {
        let program = Program::load("stencil.cu");
        let n = 50i32;
        let host = noise((n * n) as usize, 6);
        let x = program.put(&host);
        let mut y = program.room::<f32>((n * n) as usize);
        let tiles = (n as u32).div_ceil(16);
        launch!(
            program,
            "stencil",
            (tiles, tiles, 1),
            (16, 16, 1),
            &mut y,
            &x,
            &n
        );
        let at = |r: i32, c: i32| {
            let inside = (0..n).contains(&r) && (0..n).contains(&c);
            if inside {
                f64::from(host[(r * n + c) as usize])
            } else {
                0.0
            }
        };
        let expected: Vec<f64> = (0..n * n)
            .map(|i| (i / n, i % n))
            .map(|(r, c)| {
                at(r - 1, c) + at(r + 1, c) + at(r, c - 1) + at(r, c + 1) - 4.0 * at(r, c)
            })
            .collect();
        assert!(error(&program.get(&y), &expected) < 1e-6);
    });
}

#[test]
fn softmax_of_rows_sums_to_one_and_survives_large_values() {
    clean(
        "softmax_of_rows_sums_to_one_and_survives_large_values",
        || {
            let program = Program::load("softmax.cu");
            let (rows, columns) = (7usize, 300usize);
            let host: Vec<f32> = noise(rows * columns, 7).iter().map(|v| v * 500.0).collect();
            let x = program.put(&host);
            let mut y = program.room::<f32>(rows * columns);
            launch!(
                program,
                "softmax",
                (rows as u32, 1, 1),
                (128, 1, 1),
                &mut y,
                &x,
                &(columns as i32)
            );
            let mut expected = Vec::new();
            for row in host.chunks(columns) {
                let most = row.iter().fold(f64::MIN, |m, &v| m.max(f64::from(v)));
                let powers: Vec<f64> = row.iter().map(|&v| (f64::from(v) - most).exp()).collect();
                let sum: f64 = powers.iter().sum();
                expected.extend(powers.iter().map(|p| p / sum));
            }
            assert!(error(&program.get(&y), &expected) < 1e-5);
        },
    );
}

#[test]
fn layer_norm_and_its_gradients_match_the_formulas() {
    clean("layer_norm_and_its_gradients_match_the_formulas", || {
        let program = Program::load("layernorm.cu");
        let (rows, c) = (10usize, 70usize);
        let (x, dy) = (noise(rows * c, 8), noise(rows * c, 9));
        let (gain, bias) = (noise(c, 10), noise(c, 11));
        let (dx_in, dy_in) = (program.put(&x), program.put(&dy));
        let (gains, biases) = (program.put(&gain), program.put(&bias));
        let (mut mean, mut rstd) = (program.room::<f32>(rows), program.room::<f32>(rows));
        let (mut y, mut dx) = (program.room::<f32>(rows * c), program.room::<f32>(rows * c));
        let (mut dgain, mut dbias) = (program.room::<f32>(c), program.room::<f32>(c));
        let (r, n) = (rows as i32, c as i32);
        let (grid, block) = ((rows.div_ceil(4) as u32, 1, 1), (32, 4, 1));
        launch!(
            program,
            "layernorm_forward",
            grid,
            block,
            &mut y,
            &mut mean,
            &mut rstd,
            &dx_in,
            &gains,
            &biases,
            &r,
            &n
        );
        launch!(
            program,
            "layernorm_backward",
            grid,
            block,
            &mut dx,
            &dy_in,
            &dx_in,
            &mean,
            &rstd,
            &gains,
            &r,
            &n
        );
        let columns = ((c.div_ceil(64)) as u32, 1, 1);
        launch!(
            program,
            "layernorm_parameters",
            columns,
            (64, 1, 1),
            &mut dgain,
            &mut dbias,
            &dy_in,
            &dx_in,
            &mean,
            &rstd,
            &r,
            &n
        );

        let (mut ey, mut edx) = (Vec::new(), Vec::new());
        let (mut eg, mut eb) = (vec![0.0; c], vec![0.0; c]);
        for (x, dy) in x.chunks(c).zip(dy.chunks(c)) {
            let x: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            let m = x.iter().sum::<f64>() / c as f64;
            let variance = x.iter().map(|v| (v - m).powi(2)).sum::<f64>() / c as f64;
            let rstd = 1.0 / (variance + 1e-5).sqrt();
            let hat: Vec<f64> = x.iter().map(|v| (v - m) * rstd).collect();
            let d: Vec<f64> = (0..c)
                .map(|i| f64::from(dy[i]) * f64::from(gain[i]))
                .collect();
            let sum = d.iter().sum::<f64>() / c as f64;
            let product = d.iter().zip(&hat).map(|(d, h)| d * h).sum::<f64>() / c as f64;
            for i in 0..c {
                ey.push(hat[i] * f64::from(gain[i]) + f64::from(bias[i]));
                edx.push(rstd * (d[i] - sum - hat[i] * product));
                eg[i] += f64::from(dy[i]) * hat[i];
                eb[i] += f64::from(dy[i]);
            }
        }
        for (found, expected) in [(&y, &ey), (&dx, &edx), (&dgain, &eg), (&dbias, &eb)] {
            assert!(error(&program.get(found), expected) < 1e-5);
        }
    });
}

#[test]
fn depthwise_convolution_in_bf16_matches_to_its_precision() {
    clean(
        "depthwise_convolution_in_bf16_matches_to_its_precision",
        || {
            let program = Program::load("depthwise.cu");
            let (batch, h, w, c) = (2usize, 5i32, 7i32, 12usize);
            let image = (h * w) as usize * c;
            let host: Vec<bf16> = noise(batch * image, 12)
                .iter()
                .map(|&v| bf16::from_f32(v))
                .collect();
            let weight = noise(9 * c, 13);
            let x = program.put(&host.iter().map(|v| v.to_bits()).collect::<Vec<u16>>());
            let weights = program.put(&weight);
            let mut y = program.room::<u16>(batch * image);
            let threads = (h * w) as u32 * (c as u32 / 4);
            let grid = (threads.div_ceil(64), batch as u32, 1);
            launch!(
                program,
                "depthwise",
                grid,
                (64, 1, 1),
                &mut y,
                &x,
                &weights,
                &h,
                &w,
                &(c as i32)
            );
            let mut expected = Vec::new();
            for b in 0..batch {
                for (row, column, ch) in
                    (0..h).flat_map(|r| (0..w).flat_map(move |s| (0..c).map(move |k| (r, s, k))))
                {
                    let mut sum = 0.0f64;
                    for (dy, dx) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dy, dx))) {
                        let (r, s) = (row + dy, column + dx);
                        if (0..h).contains(&r) && (0..w).contains(&s) {
                            let value = host[b * image + (r * w + s) as usize * c + ch];
                            sum += value.to_f64()
                                * f64::from(weight[((dy + 1) * 3 + dx + 1) as usize * c + ch]);
                        }
                    }
                    expected.push(sum);
                }
            }
            let found: Vec<f32> = program
                .get(&y)
                .iter()
                .map(|&bits| bf16::from_bits(bits).to_f32())
                .collect();
            assert!(error(&found, &expected) < 4e-3);
        },
    );
}

#[test]
fn a_padded_transpose_has_no_conflicts_and_a_plain_one_has_them_all() {
    let n = 128usize;
    let launches = counted(
        "a_padded_transpose_has_no_conflicts_and_a_plain_one_has_them_all",
        || {
            let program = Program::load("transpose.cu");
            let host = noise(n * n, 14);
            let x = program.put(&host);
            let expected: Vec<f32> = (0..n * n).map(|i| host[i % n * n + i / n]).collect();
            for kernel in ["transpose_padded", "transpose_plain"] {
                let mut y = program.room::<f32>(n * n);
                let tiles = n as u32 / 32;
                launch!(
                    program,
                    kernel,
                    (tiles, tiles, 1),
                    (32, 8, 1),
                    &mut y,
                    &x,
                    &(n as i32)
                );
                assert!(program.get(&y) == expected, "{kernel}");
            }
        },
    );
    let Some(launches) = launches else { return };
    assert_eq!(counter(&launches[0], CONFLICT_FACTOR), 1.0);
    // Stores have none, loads a 32-way one: 1 and 32 passes for as many requests of each.
    assert_eq!(counter(&launches[1], CONFLICT_FACTOR), 16.5);
    for launch in &launches {
        assert_eq!(counter(launch, LOAD_EFFICIENCY), 100.0);
        assert_eq!(counter(launch, STORE_EFFICIENCY), 100.0);
    }
}

#[test]
fn tensor_core_products_match_in_every_type() {
    clean("tensor_core_products_match_in_every_type", || {
        let program = Program::load("tensor_core.cu");
        let n = 64usize;
        let (a, b) = (noise(n * n, 15), noise(n * n, 16));
        let size = n as i32;
        let halves = |x: &[f32]| {
            x.iter()
                .map(|&v| f16::from_f32(v).to_bits())
                .collect::<Vec<u16>>()
        };
        let brains = |x: &[f32]| {
            x.iter()
                .map(|&v| bf16::from_f32(v).to_bits())
                .collect::<Vec<u16>>()
        };
        // tf32 keeps ten bits of mantissa; wmma takes what is loaded as rounded already.
        let tens = |x: &[f32]| {
            x.iter()
                .map(|&v| f32::from_bits(v.to_bits() & !0x1fff))
                .collect::<Vec<f32>>()
        };
        let back16 = |x: &[u16]| {
            x.iter()
                .map(|&v| f16::from_bits(v).to_f32())
                .collect::<Vec<f32>>()
        };
        let back_brain = |x: &[u16]| {
            x.iter()
                .map(|&v| bf16::from_bits(v).to_f32())
                .collect::<Vec<f32>>()
        };
        let tiles = n as u32 / 16;

        let (x, y) = (halves(&a), halves(&b));
        let expected = product(&back16(&x), &back16(&y), n);
        let (dx, dy) = (program.put(&x), program.put(&y));
        let mut c = program.room::<f32>(n * n);
        launch!(
            program,
            "product",
            (tiles / 2, tiles / 2, 1),
            (128, 1, 1),
            &mut c,
            &dx,
            &dy,
            &size
        );
        assert!(error(&program.get(&c), &expected) < 1e-6);
        launch!(
            program,
            "product_f16",
            (tiles, tiles, 1),
            (32, 1, 1),
            &mut c,
            &dx,
            &dy,
            &size
        );
        assert!(error(&program.get(&c), &expected) < 1e-6);

        let (x, y) = (brains(&a), brains(&b));
        let expected = product(&back_brain(&x), &back_brain(&y), n);
        let (dx, dy) = (program.put(&x), program.put(&y));
        launch!(
            program,
            "product_bf16",
            (tiles, tiles, 1),
            (32, 1, 1),
            &mut c,
            &dx,
            &dy,
            &size
        );
        assert!(error(&program.get(&c), &expected) < 1e-6);

        let (x, y) = (tens(&a), tens(&b));
        let expected = product(&x, &y, n);
        let (dx, dy) = (program.put(&x), program.put(&y));
        launch!(
            program,
            "product_tf32",
            (tiles, tiles, 1),
            (32, 1, 1),
            &mut c,
            &dx,
            &dy,
            &size
        );
        assert!(error(&program.get(&c), &expected) < 1e-6);
    });
}

#[test]
fn a_persistent_kernel_with_a_last_block_reduction_is_no_race() {
    clean(
        "a_persistent_kernel_with_a_last_block_reduction_is_no_race",
        || {
            let program = Program::load("persistent.cu");
            let tiles = 37i32;
            let host: Vec<f32> = (0..tiles * 256).map(|i| (i % 13) as f32).collect();
            let x = program.put(&host);
            for _ in 0..2 {
                let (mut out, mut partial) = (program.room::<f32>(1), program.room::<f32>(12));
                launch!(
                    program,
                    "persistent_sum",
                    (12, 1, 1),
                    (256, 1, 1),
                    &mut out,
                    &mut partial,
                    &x,
                    &tiles
                );
                assert_eq!(program.get(&out), [host.iter().sum::<f32>()]);
            }
        },
    );
}

#[test]
fn divergent_recursion_ends_where_each_lane_wants() {
    clean("divergent_recursion_ends_where_each_lane_wants", || {
        let program = Program::load("recursion.cu");
        let mut y = program.room::<i32>(64);
        launch!(program, "fibonacci_of_lane", (1, 1, 1), (64, 1, 1), &mut y);
        let numbers = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
        let expected: Vec<i32> = (0..64).map(|lane| numbers[lane % 12]).collect();
        assert_eq!(program.get(&y), expected);

        let (rows, n) = (64usize, 16usize);
        let mut host: Vec<i32> = (0..(rows * n) as i32).map(|i| (i * 7919) % 1009).collect();
        let mut x = program.put(&host);
        launch!(
            program,
            "sort_rows",
            (2, 1, 1),
            (32, 1, 1),
            &mut x,
            &(n as i32)
        );
        host.chunks_mut(n).for_each(<[i32]>::sort_unstable);
        assert!(program.get(&x) == host);
    });
}

#[test]
fn the_order_of_blocks_and_warps_changes_no_result() {
    let test = "the_order_of_blocks_and_warps_changes_no_result";
    if !can_compile(test) {
        return;
    }
    for (seed, threads) in [("1", "1"), ("2", "2"), ("3", "5")] {
        on_softcuda(
            test,
            &[("SOFTCUDA_SCHEDULE", seed), ("SOFTCUDA_THREADS", threads)],
            || {
                let program = Program::load("reduce.cu");
                let n = 4096;
                let x = program.put(&noise(n, 17));
                let mut sums = program.room::<f32>(8);
                launch!(
                    program,
                    "block_sums",
                    (8, 1, 1),
                    (256, 1, 1),
                    &mut sums,
                    &x,
                    &(n as i32)
                );
                let bits: Vec<u32> = program.get(&sums).iter().map(|v| v.to_bits()).collect();
                println!("bits {bits:?}");
            },
        )
        .silent();
    }
}

#[test]
fn printf_prints_what_c_would() {
    let test = "printf_prints_what_c_would";
    if !can_compile(test) {
        return;
    }
    let run = on_softcuda(test, &[], || {
        let program = Program::load("faults.cu");
        launch!(program, "prints", (1, 1, 1), (32, 1, 1), &3i32);
        program.stream.synchronize().unwrap();
    });
    run.silent();
    for line in [
        "thread 0 of block: 0.00, 1099511627776",
        "thread 2 of block: 1.00, 1099511627776",
    ] {
        assert!(run.stdout.contains(line), "{}", run.stdout);
    }
}

#[test]
fn a_cubin_that_carries_its_ptx_runs_on_an_old_driver_and_one_that_does_not_is_refused() {
    let test =
        "a_cubin_that_carries_its_ptx_runs_on_an_old_driver_and_one_that_does_not_is_refused";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[("SOFTCUDA_DRIVER_VERSION", "12.2")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let source =
            std::fs::read_to_string(format!("{}/programs/copy.cu", env!("CARGO_MANIFEST_DIR")))
                .unwrap();
        let load = |options: &[&str]| {
            let cubin = cubin(&source, options);
            let mut module = std::ptr::null_mut();
            // SAFETY: a whole cubin, and room for a handle.
            let code = unsafe { sys::cuModuleLoadData(&mut module, cubin.as_ptr().cast()) };
            (code, module)
        };
        assert_eq!(
            load(&["--gpu-architecture=sm_90"]).0,
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        );
        let lines = "--generate-line-info";
        assert_eq!(
            load(&["--gpu-architecture=sm_80", lines]).0,
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        );
        let (code, module) = load(&["--gpu-architecture=sm_90", lines]);
        assert_eq!(code, CUresult::CUDA_SUCCESS);
        let host = noise(64, 18);
        let (x, mut y) = (
            stream.clone_htod(&host).unwrap(),
            stream.alloc_zeros::<f32>(64).unwrap(),
        );
        // SAFETY: a loaded module with that kernel; its three parameters.
        unsafe {
            let mut function = std::ptr::null_mut();
            sys::cuModuleGetFunction(&mut function, module, c"copy".as_ptr())
                .result()
                .unwrap();
            use cudarc::driver::{DevicePtr, DevicePtrMut};
            let (mut to, mut from, mut n) =
                (y.device_ptr_mut(&stream).0, x.device_ptr(&stream).0, 64i32);
            let mut parameters = [
                (&raw mut to).cast(),
                (&raw mut from).cast(),
                (&raw mut n).cast(),
            ];
            use std::ptr::null_mut as null;
            sys::cuLaunchKernel(
                function,
                1,
                1,
                1,
                64,
                1,
                1,
                0,
                null(),
                parameters.as_mut_ptr(),
                null(),
            )
            .result()
            .unwrap();
        }
        assert!(stream.clone_dtoh(&y).unwrap() == host);
    })
    .says(&[
        "compile it with -lineinfo",
        "a cubin for sm_80 does not run on sm_90",
    ]);
}

/// Compiles CUDA C++ to machine code.
fn cubin(source: &str, options: &[&str]) -> Vec<u8> {
    use cudarc::nvrtc::{result, sys};
    let source = std::ffi::CString::new(source).unwrap();
    let program = result::create_program(&source, Some(c"copy.cu")).unwrap();
    // SAFETY: a live program, and a buffer of the size that NVRTC says.
    unsafe {
        result::compile_program(program, options).unwrap();
        let mut size = 0;
        sys::nvrtcGetCUBINSize(program, &mut size).result().unwrap();
        let mut cubin = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast())
            .result()
            .unwrap();
        cubin
    }
}
