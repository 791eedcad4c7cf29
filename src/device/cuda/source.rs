//! The kernels' text, embedded by `build.rs`.

/// One `kernels/<name>.cu`, its includes flattened.
#[derive(Debug)]
pub struct Source {
    /// File stem.
    pub name: &'static str,
    /// CUDA C++.
    pub text: &'static str,
    /// Hash of the text.
    pub hash: u128,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The source `kernels/<name>.cu`.
///
/// # Panics
/// A name that is no file: a mistake in an op's launch code.
pub fn source(name: &str) -> &'static Source {
    let found = SOURCES.iter().find(|source| source.name == name);
    found.unwrap_or_else(|| panic!("kernels/{name}.cu is not embedded"))
}
