//! What NVIDIA's assembler makes of a module: registers, stack and spills of each kernel.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a kernel takes when it is machine code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread's stack frame.
    pub stack: u32,
    /// Bytes that are stored to local memory for want of registers, statically.
    pub spill_stores: u32,
    /// Bytes that are loaded back.
    pub spill_loads: u32,
}

/// What ptxas says of the kernels of `ptx` on a device; nothing where it is not there or refuses.
pub fn usage(ptx: &[u8], sm: u32) -> HashMap<String, Usage> {
    let Some(ptxas) = find() else {
        return HashMap::new();
    };
    assemble(&ptxas, ptx, sm).map_or_else(HashMap::new, |log| parse(&log))
}

/// The ptxas to ask: `SOFTCUDA_PTXAS`, the wheel in the project's `target/` that this library was built into,
/// or the one on `PATH`.
fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SOFTCUDA_PTXAS") {
        return Some(path.into());
    }
    let wheel = |folder: &Path| folder.join("cuda-wheels/nvidia/cu13/bin/ptxas");
    let library = library_path().and_then(|path| path.canonicalize().ok());
    if let Some(library) = library
        && let Some(found) = library.ancestors().map(wheel).find(|path| path.is_file())
    {
        return Some(found);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("ptxas"))
        .find(|path| path.is_file())
}

/// The file that this library was loaded from.
fn library_path() -> Option<PathBuf> {
    // SAFETY: all zeros is a valid value of this structure of pointers.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is one of this library's own; the structure is writable.
    let found = unsafe { libc::dladdr(usage as *const libc::c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's own string, which lives as long as the library.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(name.to_string_lossy().into_owned()))
}

/// The log of assembling `ptx`.
fn assemble(ptxas: &Path, ptx: &[u8], sm: u32) -> Option<String> {
    // PTX for an architecture's own features (`sm_90a`) is assembled for just that.
    let own = format!("sm_{sm}a");
    let found = ptx
        .windows(own.len())
        .take(4096)
        .any(|window| window == own.as_bytes());
    let target = if found { own } else { format!("sm_{sm}") };
    let mut child = Command::new(ptxas)
        .args(["-v", &format!("-arch={target}"), "-o", "/dev/null", "-"])
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let text: Vec<u8> = ptx.iter().copied().take_while(|&byte| byte != 0).collect();
    // ptxas reads all of it before it says anything, so this cannot block on its answer.
    child.stdin.take()?.write_all(&text).ok()?;
    let output = child.wait_with_output().ok()?;
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Reads lines such as these; the name comes first:
///
/// ```text
/// ptxas info    : Compiling entry function 'add' for 'sm_90'
/// ptxas info    : Function properties for add
///     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
/// ptxas info    : Used 10 registers, used 0 barriers, 376 bytes cmem[0]
/// ```
fn parse(log: &str) -> HashMap<String, Usage> {
    let mut all: HashMap<String, Usage> = HashMap::new();
    let mut name = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("entry function '") {
            name = rest.split('\'').next().map(str::to_owned);
        }
        let Some(name) = &name else { continue };
        let before = |words: &str| -> Option<u32> {
            let (left, _) = line.split_once(words)?;
            left.split([' ', ','])
                .rfind(|word| !word.is_empty())?
                .parse()
                .ok()
        };
        let usage = all.entry(name.clone()).or_default();
        usage.registers = before(" registers").unwrap_or(usage.registers);
        usage.stack = before(" bytes stack frame").unwrap_or(usage.stack);
        usage.spill_stores = before(" bytes spill stores").unwrap_or(usage.spill_stores);
        usage.spill_loads = before(" bytes spill loads").unwrap_or(usage.spill_loads);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_kernel_by_kernel() {
        let log = "ptxas info    : Compiling entry function 'a' for 'sm_90'\n\
                   ptxas info    : Function properties for a\n    \
                   8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
                   ptxas info    : Used 10 registers, used 0 barriers\n\
                   ptxas info    : Compiling entry function 'b' for 'sm_90'\n\
                   ptxas info    : Used 255 registers\n";
        let usage = parse(log);
        assert_eq!(
            usage["a"],
            Usage {
                registers: 10,
                stack: 8,
                spill_stores: 4,
                spill_loads: 12
            }
        );
        assert_eq!(usage["b"].registers, 255);
    }
}
