//! The driver API from Python by ctypes: `ctypes_driver.py`, on softcuda.

mod support;

use std::process::Command;

#[test]
fn a_ctypes_program_gets_what_the_driver_api_promises() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        println!(
            "skipped: a_ctypes_program_gets_what_the_driver_api_promises: python3 is not installed"
        );
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ctypes_driver.py");
    let run = support::run(Command::new("python3").arg(script), &[]);
    assert!(
        !run.stderr.contains("race between streams"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("leak:"), "{}", run.stderr);
    run.says(&[
        "host functions must not call CUDA",
        "a fat binary cannot be loaded",
    ]);
}
