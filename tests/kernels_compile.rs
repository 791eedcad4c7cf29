//! Every kernel that the two spaces use compiles for every supported GPU, and none spills registers; what should
//! multiply on tensor cores does.
//!
//! Every test run takes a part of them, `make counts` all. NVRTC compiles on any machine; where it is not installed the tests say that they were skipped.

use ndarts::autograd::executor::specialisations;
use ndarts::device::cuda::cache::Cache;
use ndarts::device::cuda::compile::compile;
use ndarts::device::cuda::launch::{Kernel, Specialisation};
use ndarts::device::cuda::nvrtc::{Nvrtc, Target, nvrtc};
use ndarts::network::{Supernet, Variant};
use ndarts::ops::cuda::Precision;
use ndarts::ops::relax::Relaxation;
use ndarts::space::{SHARP_CANDIDATES, Space};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Architectures of the GPUs that are supported.
const ARCHITECTURES: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];
/// The first whose tensor cores multiply bf16 and TF32.
const FIRST_TENSOR_CORES: u32 = 80;

fn installed() -> Option<&'static Nvrtc> {
    match nvrtc() {
        Ok(nvrtc) => Some(nvrtc),
        Err(error) => {
            println!("skipped: compiling kernels: {error:#}");
            None
        }
    }
}

/// Channels that are whole vectors, pairs, and odd: what kernels are specialised for.
const ALL_CHANNELS: [usize; 3] = [16, 6, 5];
/// In every test run.
const FEW_CHANNELS: [usize; 1] = [6];

/// Everything compiled for both spaces at these channels.
fn specialised(precision: Precision, channels: &[usize]) -> Vec<Specialisation> {
    let mut found = BTreeSet::new();
    // A mix of all the ops into a NASNet node wants more shared memory than there is.
    for space in [Space::Darts, Space::NasBench201] {
        for &channels in channels {
            let cells = if space == Space::NasBench201 { 1 } else { 3 };
            let supernet =
                Supernet::record(space, channels, cells, 10, 4, [32, 32]).expect("sizes");
            found.extend(specialisations(&supernet.tape, precision).expect("kernels"));
        }
    }
    // PC-DARTS', whose ops see so many channels, and sharpDARTS'.
    let partial = Variant {
        partial: Some(4),
        ..Variant::default()
    };
    let sharp = Variant {
        relaxation: Relaxation::MaxW,
        ops: &SHARP_CANDIDATES,
        ..Variant::default()
    };
    for (variant, factor) in [(partial, 4), (sharp, 1)] {
        for &channels in channels {
            let (channels, size) = (factor * channels, [32, 32]);
            let supernet =
                Supernet::record_variant(Space::Darts, channels, 3, 10, 4, size, &variant)
                    .expect("sizes");
            found.extend(specialisations(&supernet.tape, precision).expect("kernels"));
        }
    }
    for file in ["update", "perturb"] {
        found.insert(
            Kernel::new(file, "")
                .define("STORAGE", "float")
                .specialisation(),
        );
    }
    found.into_iter().collect()
}

fn compiles(architectures: &[u32], channels: &[usize]) {
    let Some(nvrtc) = installed() else { return };
    for &arch in architectures {
        if !nvrtc.architectures.contains(&arch) {
            let (major, minor) = nvrtc.version;
            println!("skipped: kernels for sm_{arch}, which NVRTC {major}.{minor} does not know");
            continue;
        }
        for precision in Precision::ALL {
            if precision == Precision::F32 || arch >= FIRST_TENSOR_CORES {
                let wanted = specialised(precision, channels);
                let images = compile(&wanted, Target::Ptx(arch), Cache::of_user().as_ref());
                let images = images.unwrap_or_else(|e| panic!("sm_{arch}, {precision:?}: {e:#}"));
                assert!(images.iter().all(|image| !image.is_empty()));
                println!(
                    "{} kernels compile for sm_{arch} in {precision:?}",
                    images.len()
                );
            }
        }
    }
}

#[test]
fn specialisations_compile_for_the_oldest_and_the_newest_gpu() {
    compiles(&[75, 120], &FEW_CHANNELS);
}

#[test]
#[ignore = "minutes; `make counts` runs it"]
fn every_specialisation_compiles_for_every_supported_gpu() {
    compiles(&ARCHITECTURES, &ALL_CHANNELS);
}

/// A tool of the CUDA toolkit beside NVRTC, or on the path.
fn tool(nvrtc: &Nvrtc, name: &str) -> Option<PathBuf> {
    let beside = nvrtc.path.parent()?.join("../bin").join(name);
    if beside.is_file() {
        return Some(beside);
    }
    let on_path = Command::new(name).arg("--version").output();
    on_path.ok().map(|_| name.into())
}

#[test]
fn kernels_of_few_channels_spill_no_registers_on_sm_90() {
    spill_nothing(&FEW_CHANNELS);
}

#[test]
#[ignore = "minutes; `make counts` runs it"]
fn no_kernel_spills_registers_on_sm_90() {
    spill_nothing(&ALL_CHANNELS);
}

/// Machine code of everything at these channels for sm_90: `each(specialisation, what ptxas said, the file)`.
/// Nothing where NVRTC or ptxas is missing.
fn assembled(channels: &[usize], mut each: impl FnMut(&Specialisation, &str, &Path)) {
    let Some(nvrtc) = installed() else { return };
    let Some(ptxas) = tool(nvrtc, "ptxas") else {
        println!("skipped: machine code: ptxas was not found; `pip install nvidia-cuda-nvcc`");
        return;
    };
    for precision in Precision::ALL {
        let all = specialised(precision, channels);
        let images = compile(&all, Target::Ptx(90), Cache::of_user().as_ref());
        let images = images.expect("kernels compile");
        for (specialisation, image) in all.iter().zip(images) {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("kernel.ptx");
            let code = folder.path().join("kernel.cubin");
            let text = image.strip_suffix(&[0]).unwrap_or(&image);
            std::fs::write(&file, text).expect("a file");
            let out = Command::new(&ptxas)
                .args(["-arch=sm_90", "-v", "-o"])
                .args([&code, &file])
                .output()
                .expect("ptxas runs");
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{specialisation:?}: {said}");
            each(specialisation, &said, &code);
        }
    }
}

fn spill_nothing(channels: &[usize]) {
    let mut spilling = Vec::new();
    assembled(channels, |specialisation, said, _| {
        let kernels = said.split("Function properties for ").skip(1);
        // As a word, so that "10 bytes" is none.
        let clean = |of: &&str| of.contains(" 0 bytes spill stores, 0 bytes spill loads");
        for kernel in kernels.filter(|kernel| !clean(kernel)) {
            let mut lines = kernel.lines().map(str::trim);
            let (name, frame) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
            spilling.push(format!("{name}: {frame} ({specialisation:?})"));
        }
    });
    assert!(spilling.is_empty(), "{}", spilling.join("\n"));
}

/// Whether its kernels are asked to multiply on tensor cores.
fn on_tensor_cores(specialisation: &Specialisation) -> bool {
    let defined = |name: &str| specialisation.definitions.get(name);
    defined("TENSOR").is_some() || defined("OPERAND").is_some_and(|operand| operand != "float")
}

#[test]
fn products_are_on_tensor_cores_in_tf32_and_bf16_and_exact_in_f32() {
    let Some(nvdisasm) = installed().and_then(|nvrtc| tool(nvrtc, "nvdisasm")) else {
        println!(
            "skipped: tensor cores: nvdisasm was not found; `pip install nvidia-cuda-nvdisasm`"
        );
        return;
    };
    let mut wrong = Vec::new();
    // Of conv: with tensor cores, and without.
    let mut dense = [0, 0];
    assembled(&FEW_CHANNELS, |specialisation, _, code| {
        if !["conv", "separable"].contains(&specialisation.file) {
            return;
        }
        let out = Command::new(&nvdisasm).arg("-c").arg(code).output();
        let out = out.expect("nvdisasm runs");
        let text = String::from_utf8_lossy(&out.stdout);
        let expected = on_tensor_cores(specialisation);
        if specialisation.file == "conv" {
            dense[usize::from(!expected)] += 1;
        }
        let kernels: Vec<&str> = text.split("\n.text.").skip(1).collect();
        assert!(!kernels.is_empty(), "{specialisation:?}: no code");
        for kernel in kernels {
            if kernel.contains("HMMA") != expected {
                let name = kernel.split(':').next().unwrap_or("");
                wrong.push(format!("{name} of {specialisation:?}"));
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(dense.iter().all(|&count| count > 0), "{dense:?}");
}
