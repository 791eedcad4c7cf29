//! Planted faults in CUDA C++ (`programs/faults.cu`), one for each check, each with a clean twin: the same
//! kernel with its switch off, which must stay silent.

#[path = "support/program.rs"]
mod program;
mod support;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{LaunchConfig, PushKernelArg};
use program::{Program, launch};
use support::{Run, can_compile, on_softcuda};

/// Where in `faults.cu` a piece of code is, as findings say it.
fn line_of(code: &str) -> String {
    let source = include_str!("../programs/faults.cu");
    let (before, _) = source
        .split_once(code)
        .unwrap_or_else(|| panic!("no {code}"));
    format!("faults.cu:{},", before.matches('\n').count() + 1)
}

/// Runs one kernel of `faults.cu` with its switch on (`wrong`) and off in two processes; the finding must
/// hold these words and point to the lines with this code.
fn planted(
    test: &str,
    variables: &[(&str, &str)],
    code: CUresult,
    words: &[&str],
    lines: &[&str],
    body: impl Fn(&Program, i32),
) {
    if !can_compile(test) {
        return;
    }
    let run = |wrong: &str| -> Run {
        let variables: Vec<_> = variables
            .iter()
            .copied()
            .chain([("PLANTED", wrong)])
            .collect();
        on_softcuda(test, &variables, || {
            let wrong: i32 = std::env::var("PLANTED").unwrap().parse().unwrap();
            let program = Program::load("faults.cu");
            body(&program, wrong);
            let outcome = program.stream.synchronize();
            if wrong == 0 {
                outcome.unwrap();
            } else {
                assert_eq!(outcome.expect_err("the fault was not found").0, code);
                // What follows a fault cannot be freed, so it is no leak of this program's.
                std::process::exit(0);
            }
        })
    };
    run("0").silent();
    let found = run("1");
    found.says(words);
    for code in lines {
        found.says(&[&line_of(code)]);
    }
}

#[test]
fn an_access_out_of_bounds_is_found() {
    let words = ["out_of_bounds", "cuMemAllocAsync", "block", "thread"];
    let lines = ["if (i < n + wrong) x[i] = i;"];
    planted(
        "an_access_out_of_bounds_is_found",
        &[],
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &words,
        &lines,
        |program, wrong| {
            let mut x = program.room::<i32>(100);
            launch!(
                program,
                "out_of_bounds",
                (1, 1, 1),
                (128, 1, 1),
                &mut x,
                &100i32,
                &wrong
            );
        },
    );
}

#[test]
fn a_misaligned_access_is_found() {
    let words = ["misaligned"];
    let lines = ["+ wrong) = 1;"];
    planted(
        "a_misaligned_access_is_found",
        &[],
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        &words,
        &lines,
        |program, wrong| {
            let mut x = program.room::<u8>(256);
            launch!(program, "misaligned", (1, 1, 1), (32, 1, 1), &mut x, &wrong);
        },
    );
}

#[test]
fn a_use_after_free_is_found() {
    let words = ["freed"];
    let lines = ["if (i < n + wrong) x[i] = i;"];
    planted(
        "a_use_after_free_is_found",
        &[],
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &words,
        &lines,
        |program, wrong| {
            let x = program.room::<i32>(128);
            let address = cudarc::driver::DevicePtr::device_ptr(&x, &program.stream).0;
            let kept = if wrong == 0 {
                Some(x)
            } else {
                drop(x);
                None
            };
            launch!(
                program,
                "out_of_bounds",
                (1, 1, 1),
                (128, 1, 1),
                &address,
                &128i32,
                &0i32
            );
            drop(kept);
        },
    );
}

#[test]
fn a_read_of_uninitialised_global_memory_is_found() {
    let words = ["uninitialised"];
    let lines = ["y[threadIdx.x] = x[threadIdx.x]; }"];
    let test = "a_read_of_uninitialised_global_memory_is_found";
    planted(
        test,
        &[],
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &words,
        &lines,
        |program, wrong| {
            let x = if wrong == 0 {
                program.put(&[1.0f32; 32])
            } else {
                program.room::<f32>(32)
            };
            let mut y = program.room::<f32>(32);
            launch!(program, "uninitialised", (1, 1, 1), (32, 1, 1), &mut y, &x);
        },
    );
}

#[test]
fn a_read_of_uninitialised_shared_memory_is_found() {
    let words = ["uninitialised_shared"];
    let lines = ["y[threadIdx.x] = buffer[threadIdx.x];"];
    let test = "a_read_of_uninitialised_shared_memory_is_found";
    planted(
        test,
        &[],
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &words,
        &lines,
        |program, wrong| {
            let mut y = program.room::<i32>(64);
            launch!(
                program,
                "uninitialised_shared",
                (1, 1, 1),
                (64, 1, 1),
                &mut y,
                &wrong
            );
        },
    );
}

#[test]
fn a_race_in_shared_memory_is_found_with_both_parties() {
    let words = ["race", "shared_race"];
    let lines = [
        "buffer[threadIdx.x] = threadIdx.x;\n    if (!wrong)",
        "y[threadIdx.x] = buffer[63 - threadIdx.x];",
    ];
    let test = "a_race_in_shared_memory_is_found_with_both_parties";
    planted(
        test,
        &[],
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &words,
        &lines,
        |program, wrong| {
            let mut y = program.room::<i32>(64);
            launch!(
                program,
                "shared_race",
                (1, 1, 1),
                (64, 1, 1),
                &mut y,
                &wrong
            );
        },
    );
}

#[test]
fn an_access_past_dynamic_shared_memory_is_found() {
    let words = ["shared_bounds"];
    let lines = ["dynamic[threadIdx.x + wrong] = threadIdx.x;"];
    let test = "an_access_past_dynamic_shared_memory_is_found";
    planted(
        test,
        &[],
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &words,
        &lines,
        |program, wrong| {
            let mut y = program.room::<i32>(64);
            let function = program.function("shared_bounds");
            let shape = LaunchConfig {
                grid_dim: (1, 1, 1),
                block_dim: (64, 1, 1),
                shared_mem_bytes: 256,
            };
            // SAFETY: the kernel's parameters; a wrong access is the test.
            unsafe {
                program
                    .stream
                    .launch_builder(&function)
                    .arg(&mut y)
                    .arg(&wrong)
                    .launch(shape)
            }
            .unwrap();
        },
    );
}

#[test]
fn a_race_between_blocks_is_found() {
    let words = ["global_race"];
    let lines = ["x[wrong ? 0 : blockIdx.x]"];
    planted(
        "a_race_between_blocks_is_found",
        &[],
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &words,
        &lines,
        |program, wrong| {
            let mut x = program.room::<i32>(4);
            launch!(
                program,
                "global_race",
                (4, 1, 1),
                (32, 1, 1),
                &mut x,
                &wrong
            );
        },
    );
}

#[test]
fn a_divergent_barrier_is_found() {
    let words = ["divergent_barrier"];
    let lines = ["if (threadIdx.x < 16 || !wrong) __syncthreads();"];
    planted(
        "a_divergent_barrier_is_found",
        &[],
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &words,
        &lines,
        |program, wrong| {
            let mut x = program.room::<i32>(64);
            launch!(
                program,
                "divergent_barrier",
                (1, 1, 1),
                (64, 1, 1),
                &mut x,
                &wrong
            );
        },
    );
}

#[test]
fn a_wrong_mask_is_found() {
    let words = ["wrong_mask"];
    let lines = ["__shfl_sync(mask"];
    planted(
        "a_wrong_mask_is_found",
        &[],
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &words,
        &lines,
        |program, wrong| {
            let mut x = program.room::<i32>(32);
            launch!(program, "wrong_mask", (1, 1, 1), (32, 1, 1), &mut x, &wrong);
        },
    );
}

#[test]
fn a_failed_assertion_is_said_and_returned() {
    let words = ["threadIdx.x != 5 || !wrong"];
    let lines = ["assert(threadIdx.x != 5 || !wrong);"];
    planted(
        "a_failed_assertion_is_said_and_returned",
        &[],
        CUresult::CUDA_ERROR_ASSERT,
        &words,
        &lines,
        |program, wrong| {
            let mut x = program.room::<i32>(32);
            launch!(
                program,
                "failed_assertion",
                (1, 1, 1),
                (32, 1, 1),
                &mut x,
                &wrong
            );
        },
    );
}

#[test]
fn a_trap_fails_the_launch() {
    planted(
        "a_trap_fails_the_launch",
        &[],
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &["trapped"],
        &[],
        |program, wrong| {
            let mut x = program.room::<i32>(32);
            launch!(program, "trapped", (1, 1, 1), (32, 1, 1), &mut x, &wrong);
        },
    );
}

#[test]
fn a_kernel_that_never_ends_is_stopped_and_its_line_named() {
    let words = ["endless"];
    let lines = ["while (wrong) x[0] = 1;"];
    let test = "a_kernel_that_never_ends_is_stopped_and_its_line_named";
    let limit = [("SOFTCUDA_TIMEOUT", "1")];
    planted(
        test,
        &limit,
        CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
        &words,
        &lines,
        |program, wrong| {
            let mut x = program.room::<i32>(1);
            launch!(program, "endless", (1, 1, 1), (32, 1, 1), &mut x, &wrong);
        },
    );
}
