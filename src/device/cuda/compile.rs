//! From a specialisation to an image that a driver loads: through the cache, else through NVRTC.

use super::cache::Cache;
use super::launch::Specialisation;
use super::nvrtc::{Nvrtc, Target, nvrtc};
use super::source::source;
use rayon::prelude::*;

/// Options of every compilation. Line numbers are for profilers and sanitizers; they cost nothing.
const OPTIONS: [&str; 3] = [
    "--std=c++17",
    "--generate-line-info",
    "--device-as-default-execution-space",
];

/// A target of `nvrtc` for a device of compute capability `compute`: its own architecture, or, of a
/// device newer than NVRTC, the newest that NVRTC knows, as PTX.
///
/// # Errors
/// A device older than NVRTC supports, or a cubin for one newer.
pub fn target(nvrtc: &Nvrtc, compute: u32, cubin: bool) -> anyhow::Result<Target> {
    let known = nvrtc
        .architectures
        .iter()
        .copied()
        .filter(|&a| a <= compute);
    let (major, minor) = nvrtc.version;
    let newest = known.max();
    match newest {
        Some(arch) if arch == compute && cubin => Ok(Target::Cubin(arch)),
        Some(arch) if !cubin => Ok(Target::Ptx(arch)),
        _ => anyhow::bail!(
            "NVRTC {major}.{minor} ({}) does not compile for sm_{compute}: expected a version that \
             fits both the GPU and its driver; set NDARTS_NVRTC to one",
            nvrtc.path.display()
        ),
    }
}

/// Compiles each of `wanted` for `target`, in parallel.
///
/// # Errors
/// No NVRTC, or a kernel that does not compile.
pub fn compile(
    wanted: &[Specialisation],
    target: Target,
    cache: Option<&Cache>,
) -> anyhow::Result<Vec<Vec<u8>>> {
    let nvrtc = nvrtc()?;
    let one = |specialisation: &Specialisation| compile_one(nvrtc, specialisation, target, cache);
    wanted.par_iter().with_max_len(1).map(one).collect()
}

fn compile_one(
    nvrtc: &Nvrtc,
    specialisation: &Specialisation,
    target: Target,
    cache: Option<&Cache>,
) -> anyhow::Result<Vec<u8>> {
    let source = source(specialisation.file);
    let mut options: Vec<String> = OPTIONS.map(String::from).to_vec();
    let definitions = specialisation.definitions.iter();
    options.extend(definitions.map(|(name, value)| format!("--define-macro={name}={value}")));
    let (major, minor) = nvrtc.version;
    let key = format!(
        "{} {:032x} {} NVRTC {major}.{minor} {}",
        source.name,
        source.hash,
        target.option(),
        options.join(" ")
    );
    if let Some(image) = cache.and_then(|cache| cache.get(&key)) {
        return Ok(image);
    }
    let image = nvrtc.compile((source.name, source.text), target, &options)?;
    if let Some(Err(error)) = cache.map(|cache| cache.put(&key, &image)) {
        tracing::warn!("compiled kernels are not kept: {error}");
    }
    Ok(image)
}
