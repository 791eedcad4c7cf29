//! What goes wrong around a GPU, planted in softcuda: each gives one sentence that says what to do.
//!
//! `tests/cuda.rs` has those that a whole command meets.

#[path = "common/softcuda.rs"]
mod softcuda;

use ndarts::device::vector::Part;
use ndarts::device::{Device, Slice, Vector};
use ndarts::ops::update::{dot, norm, normalise};
use softcuda::Softcuda;

/// Runs `work` below in a process of its own, under softcuda with `variables`; what it printed.
fn child(work: &str, variables: &[(&str, &str)]) -> Option<String> {
    let softcuda = Softcuda::find("faults of a GPU")?;
    let cache = tempfile::tempdir().expect("a folder");
    let mut command = softcuda.command(std::env::current_exe().expect("this test"));
    command
        .args(["--exact", work, "--ignored", "--nocapture"])
        .env("NDARTS_CACHE", cache.path());
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.output().expect("this test runs again");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A norm on GPU 0: opens it, allocates, compiles, launches and reads.
fn norm_on_the_device() -> anyhow::Result<f64> {
    let device = Device::cuda(0)?;
    let vector = Vector::new(&device, vec![2.0; 1 << 20])?;
    norm(&vector)
}

#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn computes_a_norm() {
    match norm_on_the_device() {
        Ok(norm) => println!("norm {norm}"),
        Err(error) => println!("error: {error:#}"),
    }
}

#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn opens_gpu_seven() {
    println!(
        "error: {:#}",
        Device::cuda(7).err().expect("softcuda has one GPU")
    );
}

#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn reads_outside_of_memory() {
    let device = Device::cuda(0).expect("a GPU");
    let mut vector = Vector::new(&device, vec![2.0; 1000]).expect("memory");
    normalise(&mut vector).expect("a launch without a fault");
    let Slice::Cuda(part) = vector.slice() else {
        panic!("a vector on the GPU");
    };
    let outside = Slice::Cuda(Part {
        address: 64,
        ..part
    });
    let error = dot(outside, outside).expect_err("no memory there");
    println!("error: {error:#}");
    let later = norm(&vector).expect_err("the context is lost");
    println!("later: {later:#}");
}

/// The line of the error that `work` ends in under `variables`, with all of `expected` in it.
fn fails(work: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let Some(output) = child(work, variables) else {
        return;
    };
    let error = output.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("{variables:?}: no error:\n{output}"));
    for part in expected {
        assert!(error.contains(part), "{variables:?}: `{part}` in {error}");
    }
}

#[test]
fn without_a_fault_the_norm_is_right() {
    if let Some(output) = child("computes_a_norm", &[]) {
        assert!(output.contains("norm 2048"), "{output}");
    }
}

#[test]
fn no_gpu_is_said() {
    let variables = [("SOFTCUDA_FAIL", "no-device")];
    fails("computes_a_norm", &variables, &["no GPU", "--device cpu"]);
}

#[test]
fn no_driver_is_said() {
    let variables = [("LD_LIBRARY_PATH", "/nowhere")];
    // On a machine with NVIDIA's driver there is one anyway.
    if std::path::Path::new("/dev/nvidiactl").exists() {
        return;
    }
    fails(
        "computes_a_norm",
        &variables,
        &["libcuda.so.1", "--device cpu"],
    );
}

#[test]
fn no_nvrtc_is_said_with_what_to_install() {
    let variables = [("NDARTS_NVRTC", "/nowhere/libnvrtc.so")];
    let expected = ["/nowhere/libnvrtc.so", "pip install nvidia-cuda-nvrtc"];
    fails("computes_a_norm", &variables, &expected);
}

#[test]
fn too_old_a_driver_is_said_with_both_versions() {
    let variables = [("SOFTCUDA_DRIVER_VERSION", "11.4")];
    fails("computes_a_norm", &variables, &["too old", "12.0", "11.4"]);
}

#[test]
fn a_gpu_that_is_not_there_is_said_with_those_that_are() {
    fails(
        "opens_gpu_seven",
        &[],
        &["cuda:7", "cuda:0", "ndarts devices"],
    );
}

#[test]
fn too_little_memory_is_said_with_what_is_free() {
    let variables = [("SOFTCUDA_MEMORY", "2000000")];
    fails(
        "computes_a_norm",
        &variables,
        &["MB free", "expected at least 5 MB"],
    );
}

#[test]
fn a_fault_names_its_kernel() {
    let expected = ["kernel update_dot", "faulted"];
    fails("reads_outside_of_memory", &[], &expected);
}

#[test]
fn a_driver_older_than_nvrtc_gets_machine_code() {
    let variables = [("SOFTCUDA_FAIL", "old-driver")];
    let Some(output) = child("computes_a_norm", &variables) else {
        return;
    };
    // Softcuda takes a cubin by the PTX that it carries.
    assert!(output.contains("norm 2048"), "{output}");
}
