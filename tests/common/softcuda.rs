//! Programs on softcuda, the CUDA driver in software.
//!
//! It is found in `target/softcuda` (`make softcuda`) or where `NDARTS_SOFTCUDA` says, NVRTC as `ndarts` finds it
//! or in `target/cuda-wheels` (`make wheels`); where one of them is missing, a test says so and is skipped.

use ndarts::device::cuda::nvrtc::nvrtc;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the libraries are.
pub struct Softcuda {
    libraries: Vec<PathBuf>,
}

impl Softcuda {
    /// Looks for softcuda and NVRTC; without them says that `what` was skipped.
    pub fn find(what: &str) -> Option<Softcuda> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let given = std::env::var_os("NDARTS_SOFTCUDA").map(PathBuf::from);
        let folder = given.unwrap_or_else(|| root.join("target/softcuda"));
        if !folder.join("libcuda.so.1").is_file() {
            println!("skipped: {what}: no softcuda in {}", folder.display());
            return None;
        }
        let mut libraries = vec![folder];
        let wheels = root.join("target/cuda-wheels/nvidia/cu13/lib");
        if wheels.is_dir() {
            libraries.push(wheels);
        } else if let Err(error) = nvrtc() {
            println!("skipped: {what}: {error:#}");
            return None;
        }
        Some(Softcuda { libraries })
    }

    /// The value of `LD_LIBRARY_PATH` that leads to it.
    pub fn library_path(&self) -> OsString {
        let inherited = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let inherited = std::env::split_paths(&inherited);
        let all = self.libraries.iter().cloned().chain(inherited);
        std::env::join_paths(all).expect("folders without colons")
    }

    /// `program` on softcuda. Kernels that it compiles are kept for the next test run.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", self.library_path());
        if std::env::var_os("NDARTS_CACHE").is_none() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
            command.env("NDARTS_CACHE", kept);
        }
        command
    }
}
