//! Embeds the CUDA kernels: each `kernels/*.cu` with its includes flattened, and a hash of the result.
//!
//! No CUDA is needed here; the program compiles the text with NVRTC on the user's machine. `#line`
//! directives keep the names and lines of the files, for compiler messages and profilers.

#[path = "src/device/cuda/hash.rs"]
mod hash;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let folder = Path::new("kernels");
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=src/device/cuda/hash.rs");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("kernels/ beside build.rs")
        .map(|entry| entry.expect("kernels/ can be listed").path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    files.sort();
    let mut out =
        String::from("/// All kernel files, by name.\npub static SOURCES: &[Source] = &[\n");
    for file in &files {
        let mut text = String::new();
        flatten(file, &mut BTreeSet::new(), &mut text);
        let name = file.file_stem().and_then(|n| n.to_str()).expect("a name");
        let hash = hash::fnv128(text.as_bytes());
        writeln!(
            out,
            "    Source {{ name: {name:?}, text: {text:?}, hash: {hash:#x} }},"
        )
        .expect("strings grow");
    }
    out.push_str("];\n");
    let to = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("kernels.rs");
    fs::write(to, out).expect("OUT_DIR can be written");
}

/// Appends `path` to `out`, each file it includes once, at its first `#include`.
fn flatten(path: &Path, seen: &mut BTreeSet<PathBuf>, out: &mut String) {
    let shown = path.display();
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{shown}: {e}"));
    writeln!(out, "#line 1 \"{shown}\"").expect("strings grow");
    for (number, line) in text.lines().enumerate() {
        let included = line
            .trim()
            .strip_prefix("#include \"")
            .and_then(|rest| rest.strip_suffix('"'));
        if line.trim() == "#pragma once" {
            out.push('\n');
        } else if let Some(name) = included {
            let path = path.parent().expect("a file in kernels/").join(name);
            if seen.insert(path.clone()) {
                flatten(&path, seen, out);
            }
            writeln!(out, "#line {} \"{shown}\"", number + 2).expect("strings grow");
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
}
