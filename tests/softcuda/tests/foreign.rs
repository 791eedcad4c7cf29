//! Programs as people write them elsewhere, in Python: ctypes on `libcuda.so.1`, kernels compiled by NVRTC with
//! NVIDIA's C++ headers. They know nothing of softcuda; each checks its own results.

mod support;

use std::process::Command;

/// Runs `foreign/NAME.py`, which has to succeed; `None` where it can't be run.
fn program(name: &str, variables: &[(&str, &str)]) -> Option<support::Run> {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        println!("skipped: {name}: python3 is not installed");
        return None;
    }
    if !support::can_compile(name) {
        return None;
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign");
    let wheels = support::toolkit()?.display().to_string();
    let mut command = Command::new("python3");
    command.arg("-B").arg(format!("{folder}/{name}.py"));
    let mut all = vec![("WHEELS", wheels.as_str())];
    all.extend(variables);
    Some(support::run(&mut command, &all))
}

fn runs_without_a_finding(name: &str) {
    if let Some(run) = program(name, &[]) {
        run.silent();
    }
}

#[test]
fn cooperative_groups_tile_reduce_partition_and_synchronise_the_grid() {
    runs_without_a_finding("groups");
}

#[test]
fn pipelines_barriers_and_atomics_of_libcudacxx_work() {
    runs_without_a_finding("libcudacxx");
}

#[test]
fn intrinsics_of_integers_floats_and_halves_give_what_python_computes() {
    runs_without_a_finding("arithmetic");
}

#[test]
fn wmma_and_mma_multiply_matrices_of_every_type() {
    runs_without_a_finding("tensor_cores");
}

#[test]
fn kernels_use_constants_recursion_printf_flags_and_large_shared_memory() {
    if let Some(run) = program("kernels", &[]) {
        // Its one mistake is meant.
        assert_eq!(
            run.stderr.matches("softcuda: ").count(),
            1,
            "{}",
            run.stderr
        );
        run.says(&["102400 bytes of dynamic shared memory; without CU_FUNC_ATTRIBUTE"]);
    }
}

#[test]
fn graphs_pools_copies_libraries_and_default_streams_do_what_frameworks_need() {
    runs_without_a_finding("driver");
}

#[test]
fn clusters_share_their_blocks_memory() {
    runs_without_a_finding("clusters");
}

#[test]
fn a_planted_kernel_fault_comes_after_the_kernels_work() {
    if let Some(run) = program("planted", &[("SOFTCUDA_FAIL", "kernel:fill")]) {
        run.says(&["planted fault in kernel `fill` (launch 1)"]);
    }
}
