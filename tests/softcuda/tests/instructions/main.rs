//! Each instruction and type against a computation on the CPU, over edge values and random ones.
//!
//! A case is a line of PTX, the types of its result and operands, and a closure that computes the result in
//! another way than the machine does. All cases are kernels of one module; each runs every combination of edge
//! values of its operands and as many random ones.

#[path = "../common/mod.rs"]
mod common;

mod bits;
mod comparisons;
mod conversions;
mod doubles;
mod halves;
mod integers;
mod singles;

use common::Argument::{Int, Pointer};
use common::{Device, Numbers};
use softcuda::{Checks, Options};

/// How a result is compared.
#[derive(Clone, Copy)]
enum Match {
    /// Bit for bit; any NaN for a NaN.
    Bits,
    /// Relative error of a float, or absolute below 1e-6.
    Relative(f64),
}

/// The result's bits from the operands' bits.
type Expected = Box<dyn Fn(&[u64]) -> u64>;

struct Case {
    ptx: &'static str,
    result: &'static str,
    operands: &'static [&'static str],
    expected: Expected,
    compare: Match,
}

fn bytes(ty: &str) -> usize {
    match ty {
        "u16" | "s16" | "b16" | "f16" | "bf16" => 2,
        "u64" | "s64" | "b64" | "f64" => 8,
        _ => 4,
    }
}

fn f32_of(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn f64_of(x: u64) -> f64 {
    f64::from_bits(x)
}

fn half_of(x: u64) -> half::f16 {
    half::f16::from_bits(x as u16)
}

fn brain_of(x: u64) -> half::bf16 {
    half::bf16::from_bits(x as u16)
}

fn edges(ty: &str) -> Vec<u64> {
    match ty {
        "f32" => [
            0.0f32,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            -2.5,
            3.0e38,
            -3.0e38,
            1e-38,
            1e-40,
            -1e-40,
            1e-45,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MAX,
            2147483648.0,
            4294967296.0,
            1.0000001,
            0.1,
            65504.0,
            65520.0,
            1e-8,
        ]
        .iter()
        .map(|x| u64::from(x.to_bits()))
        .collect(),
        "f64" => [
            0.0f64,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            1e308,
            -1e308,
            1e-308,
            5e-324,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            f64::MAX,
            1e39,
            1e-46,
            0.1,
            1e-39,
        ]
        .iter()
        .map(|x| x.to_bits())
        .collect(),
        "f16" => vec![
            0, 0x8000, 0x3c00, 0xbc00, 0x3800, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 1, 0x8001,
            0x3ff, 0x400, 0x3555, 0x6400, 0x3c01,
        ],
        "bf16" => vec![
            0, 0x8000, 0x3f80, 0xbf80, 0x3f00, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 1, 0x8001,
            0x7f, 0x80, 0x3eab, 0x3f81,
        ],
        "f16x2" | "bf16x2" => {
            let one = edges(if ty == "f16x2" { "f16" } else { "bf16" });
            (0..one.len())
                .map(|i| one[i] | one[(i * 5 + 3) % one.len()] << 16)
                .collect()
        }
        "u64" | "s64" | "b64" => vec![
            0,
            1,
            2,
            u64::MAX,
            i64::MAX as u64,
            i64::MIN as u64,
            0xffff_ffff,
            0x1_0000_0000,
            0x8000_0000,
            0x1234_5678_9abc_def0,
            63,
            64,
        ],
        "u16" | "s16" | "b16" => vec![0, 1, 2, 0xffff, 0x7fff, 0x8000, 15, 16, 255, 0x1234],
        "shift" => vec![
            0,
            1,
            5,
            15,
            16,
            31,
            32,
            33,
            63,
            64,
            65,
            200,
            u64::from(u32::MAX),
        ],
        _ => vec![
            0,
            1,
            2,
            0xffff_ffff,
            0x7fff_ffff,
            0x8000_0000,
            31,
            32,
            0xffff,
            0x1_0000,
            0x1234_5678,
            255,
            0x80,
            0xff80_7f01,
        ],
    }
}

fn random(ty: &str, numbers: &mut Numbers) -> u64 {
    let bits = numbers.bits();
    match ty {
        // Half of them of ordinary size, half any bits.
        "f32" if bits >> 63 == 0 => u64::from((numbers.unit() * 100.0).to_bits()),
        "f64" if bits >> 63 == 0 => (f64::from(numbers.unit()) * 100.0).to_bits(),
        "f16" if bits >> 63 == 0 => u64::from(half::f16::from_f32(numbers.unit() * 8.0).to_bits()),
        "bf16" if bits >> 63 == 0 => {
            u64::from(half::bf16::from_f32(numbers.unit() * 8.0).to_bits())
        }
        "shift" => bits % 70,
        _ if bytes(ty) == 8 => bits,
        _ => bits & ((1u64 << (8 * bytes(ty))) - 1),
    }
}

fn register_type(ty: &str) -> &str {
    match ty {
        "shift" | "f16x2" | "bf16x2" => "b32",
        "f16" | "bf16" | "u16" | "s16" => "b16",
        other => other,
    }
}

fn kernel(index: usize, case: &Case) -> String {
    let mut text = format!(
        ".visible .entry k{index}(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd, \
         .param .u32 pn)\n{{\n.reg .pred p, q, out; .reg .b64 base, at, i64; .reg .b32 i, n;\n\
         .reg .b16 h0, h1, h2, h3; .reg .b32 w0, w1, w2, w3;\n"
    );
    for (name, ty) in ["a", "b", "c"].iter().zip(case.operands) {
        text += &format!(".reg .{} {name};\n", register_type(ty));
    }
    text += &format!(
        ".reg .{} d;\nmov.u32 i, %ctaid.x; mov.u32 n, %ntid.x; mad.lo.u32 i, i, n, %tid.x;\n\
         ld.param.u32 n, [pn]; setp.ge.u32 out, i, n; @out bra END; cvt.u64.u32 i64, i;\n",
        register_type(case.result)
    );
    for (name, ty) in ["a", "b", "c"].iter().zip(case.operands) {
        let ty = register_type(ty);
        text += &format!(
            "ld.param.u64 base, [p{name}]; mad.lo.u64 at, i64, {}, base; ld.global.{ty} {name}, [at];\n",
            bytes(ty)
        );
    }
    text += &format!(
        "{}\nld.param.u64 base, [pd]; mad.lo.u64 at, i64, {}, base; st.global.{} [at], d;\nEND: ret;\n}}\n",
        case.ptx,
        bytes(case.result),
        register_type(case.result)
    );
    text
}

fn store(bytes_each: usize, values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|v| v.to_le_bytes()[..bytes_each].to_vec())
        .collect()
}

fn same(found: u64, expected: u64, ty: &str, compare: Match) -> bool {
    let (x, y) = match ty {
        "f32" => (f64::from(f32_of(found)), f64::from(f32_of(expected))),
        "f64" => (f64_of(found), f64_of(expected)),
        "f16" => (
            f64::from(half_of(found).to_f32()),
            f64::from(half_of(expected).to_f32()),
        ),
        "bf16" => (
            f64::from(brain_of(found).to_f32()),
            f64::from(brain_of(expected).to_f32()),
        ),
        "f16x2" | "bf16x2" => {
            let one = if ty == "f16x2" { "f16" } else { "bf16" };
            return same(found & 0xffff, expected & 0xffff, one, compare)
                && same(found >> 16, expected >> 16, one, compare);
        }
        _ => return found == expected,
    };
    if found == expected || x.is_nan() && y.is_nan() {
        return true;
    }
    match compare {
        Match::Bits => false,
        Match::Relative(limit) => {
            x == y || (x - y).abs() <= limit * y.abs() || (x - y).abs() < 1e-6 && y.abs() < 1e-2
        }
    }
}

fn run(cases: Vec<Case>) {
    let mut module = String::from(".version 8.7\n.target sm_90\n.address_size 64\n");
    for (index, case) in cases.iter().enumerate() {
        module += &kernel(index, case);
    }
    let checks = Checks {
        races: false,
        ..Checks::ALL
    };
    let d = Device::new(
        &module,
        Options {
            checks,
            ..Options::default()
        },
    );
    let mut numbers = Numbers(42);
    let mut failures = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let lists: Vec<Vec<u64>> = case.operands.iter().map(|ty| edges(ty)).collect();
        let combinations: usize = lists.iter().map(Vec::len).product();
        let count = combinations + 300;
        let mut columns = vec![Vec::with_capacity(count); lists.len()];
        for at in 0..count {
            let mut rest = at;
            for (column, (list, ty)) in columns.iter_mut().zip(lists.iter().zip(case.operands)) {
                column.push(if at < combinations {
                    list[rest % list.len()]
                } else {
                    random(ty, &mut numbers)
                });
                rest /= list.len();
            }
        }
        let mut pointers = [0; 3];
        for (i, (column, ty)) in columns.iter().zip(case.operands).enumerate() {
            pointers[i] = d.buffer(&store(bytes(register_type(ty)), column));
        }
        let size = bytes(case.result);
        let out = d.empty(size * count);
        let args = [
            Pointer(pointers[0]),
            Pointer(pointers[1]),
            Pointer(pointers[2]),
            Pointer(out),
            Int(count as i32),
        ];
        let blocks = count.div_ceil(128) as u32;
        if let Err(fault) = d.launch(&format!("k{index}"), [blocks, 1, 1], [128, 1, 1], 0, &args) {
            panic!("{}: {fault}", case.ptx);
        }
        let raw: Vec<u8> = d.read(out, size * count);
        for at in 0..count {
            let operands: Vec<u64> = columns.iter().map(|c| c[at]).collect();
            let mut word = [0; 8];
            word[..size].copy_from_slice(&raw[at * size..][..size]);
            let found = u64::from_le_bytes(word);
            let mask = if size == 8 {
                u64::MAX
            } else {
                (1 << (8 * size)) - 1
            };
            let expected = (case.expected)(&operands) & mask;
            if !same(found, expected, case.result, case.compare) {
                failures.push(format!(
                    "{}: {operands:x?} gives {found:#x}, expected {expected:#x}",
                    case.ptx
                ));
                break;
            }
        }
        for address in pointers.into_iter().filter(|p| *p != 0).chain([out]) {
            d.memory.free(address).unwrap();
        }
    }
    assert!(
        failures.is_empty(),
        "{} cases fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// `case!(result; operands; "ptx" => closure)`
macro_rules! case {
    ($list:ident, $result:literal, [$($operand:literal),*], $ptx:expr, $f:expr) => {
        case!($list, $result, [$($operand),*], $ptx, $f, Match::Bits)
    };
    ($list:ident, $result:literal, [$($operand:literal),*], $ptx:expr, $f:expr, $compare:expr) => {
        $list.push(Case {
            ptx: $ptx,
            result: $result,
            operands: &[$($operand),*],
            expected: Box::new($f),
            compare: $compare,
        })
    };
}
use case;

/// `value`, exactly a + b or a·b or …, rounded to f32 towards `direction`: −1 down, 1 up, 0 to zero.
fn directed(exact: f64, error: f64, direction: i32) -> u64 {
    // `exact + error` is the result; `exact` its nearest f64.
    let near = exact as f32;
    if near.is_nan() || exact.is_infinite() {
        return u64::from(near.to_bits());
    }
    let above = |x: f32| {
        let x = f64::from(x);
        x > exact || x == exact && error < 0.0
    };
    let below = |x: f32| {
        let x = f64::from(x);
        x < exact || x == exact && error > 0.0
    };
    let direction = if direction == 0 {
        if exact < 0.0 { 1 } else { -1 }
    } else {
        direction
    };
    let mut result = near;
    if direction < 0 && above(result) {
        result = result.next_down();
    }
    if direction > 0 && below(result) {
        result = result.next_up();
    }
    if result == 0.0 && exact != 0.0 {
        result = result.copysign(exact as f32);
    }
    u64::from(result.to_bits())
}
