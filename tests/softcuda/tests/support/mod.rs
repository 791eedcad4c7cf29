//! Runs the body of a test in a process of its own, with softcuda as the only `libcuda.so`.
//!
//! A loader reads `LD_LIBRARY_PATH` once, when a process starts, so a test starts itself again: the parent
//! links the freshly built library under the names that programs look for, sets the variables, runs the one
//! test in a child and looks at what the child printed. Each test also gets a driver of its own that way.

#![allow(dead_code)] // each test binary uses its part

use std::path::{Path, PathBuf};
use std::process::Command;

use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};

/// Set in the child.
const CHILD: &str = "TEST_RUNS_ON_SOFTCUDA";

/// What the child printed.
pub struct Run {
    /// Standard output, libtest's own lines included.
    pub stdout: String,
    /// Standard error: softcuda's findings.
    pub stderr: String,
}

impl Run {
    /// Asserts that softcuda had nothing to say.
    pub fn silent(&self) {
        let said: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("softcuda: "))
            .collect();
        assert!(
            said.is_empty(),
            "softcuda found something in a clean program:\n{}",
            self.stderr
        );
    }

    /// Asserts that softcuda said all of these on standard error.
    pub fn says(&self, words: &[&str]) {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "expected `{word}` in:\n{}",
                self.stderr
            );
        }
    }
}

/// In the parent: runs `test` again in a child with these variables; panics unless it passes there. In the
/// child: runs `body` and ends the process.
pub fn on_softcuda(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) -> Run {
    if std::env::var_os(CHILD).is_some() {
        body();
        std::process::exit(0);
    }
    let mut child = Command::new(std::env::current_exe().expect("this test's own path"));
    child
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1");
    run(&mut child, variables)
}

/// Runs a command on softcuda; panics unless it succeeds.
pub fn run(command: &mut Command, variables: &[(&str, &str)]) -> Run {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SOFTCUDA_")) {
        command.env_remove(name);
    }
    command
        .env("LD_LIBRARY_PATH", library_path())
        .envs(variables.iter().copied());
    let output = command.output().expect("the test can start itself");
    let run = Run {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(
        output.status.success(),
        "the program failed on softcuda ({})\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        run.stdout,
        run.stderr
    );
    run
}

/// A folder with softcuda as `libcuda.so` and NVRTC, where it is there, as `libnvrtc.so`; then NVRTC's own.
fn library_path() -> String {
    let test = std::env::current_exe().expect("this test's own path");
    let built = test
        .parent()
        .expect("a test lies in a folder")
        .join("libsoftcuda.so");
    assert!(
        built.exists(),
        "{} is not there; cargo builds it with the tests",
        built.display()
    );
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("softcuda");
    std::fs::create_dir_all(&folder).expect("the test's temporary folder can be written");
    link(&built, &folder.join("libcuda.so.1"));
    link(&built, &folder.join("libcuda.so"));
    let mut path = folder.display().to_string();
    if let Some(toolkit) = toolkit() {
        let libraries = toolkit.join("lib");
        let files = std::fs::read_dir(&libraries)
            .into_iter()
            .flatten()
            .flatten();
        for file in files.filter(|file| {
            file.file_name()
                .to_string_lossy()
                .starts_with("libnvrtc.so")
        }) {
            link(&file.path(), &folder.join("libnvrtc.so"));
        }
        path = format!("{path}:{}", libraries.display());
    }
    path
}

/// A symbolic link that replaces another at once: tests run side by side.
fn link(target: &Path, name: &Path) {
    if std::fs::read_link(name).is_ok_and(|old| old == target) {
        return;
    }
    let new = name.with_extension(format!(
        "new-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::os::unix::fs::symlink(target, &new).expect("the test's temporary folder can be written");
    std::fs::rename(&new, name).expect("the test's temporary folder can be written");
}

/// The CUDA toolkit that `make wheels` installed.
pub fn toolkit() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cuda-wheels/nvidia/cu13");
    folder.join("lib").is_dir().then_some(folder)
}

/// Whether CUDA C++ can be compiled; says so where it cannot.
pub fn can_compile(test: &str) -> bool {
    let can = toolkit().is_some();
    if !can {
        println!("skipped: {test}: NVRTC is not installed; `make wheels` does that");
    }
    can
}

/// Compiles CUDA C++ for the H100, with line numbers and the toolkit's headers.
pub fn compile(file: &str, source: &str, options: &[&str]) -> Ptx {
    let include = toolkit().expect("asked before").join("include");
    let folder = |path: PathBuf| path.display().to_string();
    let options = CompileOptions {
        name: Some(file.to_owned()),
        arch: Some("compute_90"),
        include_paths: vec![folder(include.clone()), folder(include.join("cccl"))],
        options: ["--std=c++17", "--generate-line-info"]
            .iter()
            .chain(options)
            .map(|o| o.to_string())
            .collect(),
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(source, options).unwrap_or_else(|reason| panic!("{file}: {reason}"))
}
