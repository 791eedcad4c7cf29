//! Modules that are mutated, truncated or made of the grammar's words: an error or a module, never a crash.

use proptest::prelude::*;
use softcuda::{Checks, Memory, Module, Options, Target};

const SEEDS: [&str; 2] = [
    include_str!("fixtures/basics.ptx"),
    include_str!("fixtures/faults.ptx"),
];

const WORDS: &[&str] = &[
    ".version 8.0\n",
    ".target sm_80\n",
    ".address_size 64\n",
    ".visible ",
    ".entry k",
    ".func f",
    "(",
    ")",
    "{",
    "}",
    ";",
    ",",
    ":",
    "[",
    "]",
    "<",
    ">",
    "|",
    "!",
    "@",
    "-",
    "+",
    "=",
    ".param .u64 p",
    ".reg .b32 %r<5>",
    ".reg .pred p",
    "%r1",
    "%r99999999",
    "%p",
    "%tid.x",
    "add.u32 ",
    "mov.b64 ",
    "ld.global.v4.f32 ",
    "st.shared.b32 ",
    "bra L",
    "L:",
    "call ",
    "brx.idx ",
    ".shared .align 16 .b8 s[4294967295]",
    ".global .b8 g[18446744073709551615]",
    ".const .f32 c = {1, 2}",
    "0f3F800000",
    "0x",
    "1e999",
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 ",
    "wmma.load.a.sync.aligned.row.m16n16k16.f16 ",
    "cvt.rn.f16x2.f32 ",
    "generic(",
    ".loc 1 2 3\n",
    ".file 1 \"x\"\n",
    "/*",
    "//",
    "\"",
    "setp.eq.u32 p|q, ",
    "cp.async.ca.shared.global ",
    "mbarrier.init.b64 ",
    "bar.sync ",
    "shfl.sync.idx.b32 ",
    "lop3.b32 ",
];

fn load(text: &[u8]) {
    let memory = Memory::new(1 << 24, &Checks::NONE);
    // Whatever comes out, nothing may crash, and what a module takes must be within the device's memory.
    let _ = Module::load(text, &Target::default(), &memory, &Options::default());
    assert!(memory.used() <= memory.limit());
}

/// A part of a seed module that starts with its header.
fn piece(seed: usize, from: usize, length: usize) -> String {
    let text = SEEDS[seed % SEEDS.len()];
    let mut start = from % text.len();
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = (start + length).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[start..end].to_string()
}

/// Cases of each test: `PROPTEST_CASES`, for a longer run, or as many as a test run has time for.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(160)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn truncated_modules_are_refused_or_loaded(seed in 0usize..2, length in 0usize..120_000) {
        load(piece(seed, 0, length).as_bytes());
    }

    #[test]
    fn mutated_modules_are_refused_or_loaded(
        seed in 0usize..2,
        start in 0usize..20_000,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..12),
    ) {
        let mut text = b".version 8.0\n.target sm_80\n.address_size 64\n".to_vec();
        text.extend_from_slice(piece(seed, start, 12_000).as_bytes());
        for (index, byte, kind) in edits {
            let at = index.index(text.len());
            match kind {
                0 => text[at] = byte & 0x7f,
                1 => { text.remove(at); }
                2 => text.insert(at, b"0123456789{};,.%@<>[]-"[usize::from(byte) % 22]),
                _ => {
                    let end = (at + usize::from(byte)).min(text.len());
                    let copy = text[at..end].to_vec();
                    text.splice(at..at, copy);
                }
            }
        }
        load(&text);
    }

    #[test]
    fn words_of_the_grammar_in_any_order_are_refused_or_loaded(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..60),
    ) {
        let mut text = String::from(".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {");
        text.extend(words);
        load(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        load(&bytes);
    }
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [
        ("{", "}"),
        ("mov.b32 {", "}"),
        (".global .b8 g = {", "}"),
        ("call (", ")"),
    ] {
        let header = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {";
        load(format!("{header}{}{}", open.repeat(100_000), close.repeat(100_000)).as_bytes());
    }
}
