//! NVTX ranges for Nsight: a pass, and outside of graphs each op within it.
//!
//! The library is there when a tool or a toolkit brought it (libnvToolsExt); otherwise ranges cost one
//! load of a flag.

use cudarc::nvtx::{safe, sys};
use std::sync::OnceLock;

/// A range that ends when it is dropped.
pub struct Range(#[expect(dead_code, reason = "held to be dropped")] Option<safe::Range>);

/// Begins a range called `name`.
pub fn range(name: &str) -> Range {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: loading runs the initialisers of NVIDIA's library, if the system has it.
    let present = *PRESENT.get_or_init(|| unsafe { sys::is_culib_present() });
    Range(present.then(|| safe::scoped_range(name)))
}
