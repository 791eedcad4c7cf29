//! Each instruction and type against a computation on the CPU, over edge values and random ones.
//!
//! A case is a line of PTX, the types of its result and operands, and a closure that computes the result in
//! another way than the machine does. All cases are kernels of one module; each runs every combination of edge
//! values of its operands and as many random ones.

mod common;

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

#[test]
fn integer_arithmetic_matches() {
    let mut l = Vec::new();
    case!(l, "u32", ["u32", "u32"], "add.u32 d, a, b;", |x| x[0]
        .wrapping_add(x[1]));
    case!(l, "s32", ["s32", "s32"], "add.sat.s32 d, a, b;", |x| {
        (x[0] as i32).saturating_add(x[1] as i32) as u64
    });
    case!(l, "s32", ["s32", "s32"], "sub.sat.s32 d, a, b;", |x| {
        (x[0] as i32).saturating_sub(x[1] as i32) as u64
    });
    case!(l, "u16", ["u16", "u16"], "sub.u16 d, a, b;", |x| x[0]
        .wrapping_sub(x[1]));
    case!(l, "u64", ["u64", "u64"], "sub.s64 d, a, b;", |x| x[0]
        .wrapping_sub(x[1]));
    case!(l, "u32", ["u32", "u32"], "mul.lo.u32 d, a, b;", |x| x[0]
        .wrapping_mul(x[1]));
    case!(l, "u32", ["u32", "u32"], "mul.hi.u32 d, a, b;", |x| (x[0]
        * x[1])
        >> 32);
    case!(l, "s32", ["s32", "s32"], "mul.hi.s32 d, a, b;", |x| {
        ((x[0] as i32 as i64 * x[1] as i32 as i64) >> 32) as u64
    });
    case!(l, "u64", ["u64", "u64"], "mul.hi.u64 d, a, b;", |x| {
        ((u128::from(x[0]) * u128::from(x[1])) >> 64) as u64
    });
    case!(l, "s64", ["s64", "s64"], "mul.hi.s64 d, a, b;", |x| {
        ((i128::from(x[0] as i64) * i128::from(x[1] as i64)) >> 64) as u64
    });
    case!(l, "s16", ["s16", "s16"], "mul.hi.s16 d, a, b;", |x| {
        ((x[0] as i16 as i32 * x[1] as i16 as i32) >> 16) as u64
    });
    case!(l, "u64", ["u32", "u32"], "mul.wide.u32 d, a, b;", |x| x[0]
        * x[1]);
    case!(l, "s64", ["s32", "s32"], "mul.wide.s32 d, a, b;", |x| {
        (x[0] as i32 as i64 * x[1] as i32 as i64) as u64
    });
    case!(l, "s32", ["s16", "s16"], "mul.wide.s16 d, a, b;", |x| {
        (x[0] as i16 as i32 * x[1] as i16 as i32) as u64
    });
    case!(
        l,
        "u32",
        ["u32", "u32", "u32"],
        "mad.lo.u32 d, a, b, c;",
        |x| { x[0].wrapping_mul(x[1]).wrapping_add(x[2]) }
    );
    case!(
        l,
        "s32",
        ["s32", "s32", "s32"],
        "mad.hi.s32 d, a, b, c;",
        |x| { (((x[0] as i32 as i64 * x[1] as i32 as i64) >> 32) as u64).wrapping_add(x[2]) }
    );
    case!(
        l,
        "s32",
        ["s32", "s32", "s32"],
        "mad.hi.sat.s32 d, a, b, c;",
        |x| {
            (((x[0] as i32 as i64 * x[1] as i32 as i64) >> 32) as i32).saturating_add(x[2] as i32)
                as u64
        }
    );
    case!(
        l,
        "u64",
        ["u32", "u32", "u64"],
        "mad.wide.u32 d, a, b, c;",
        |x| { (x[0] * x[1]).wrapping_add(x[2]) }
    );
    case!(l, "u32", ["u32", "u32"], "mul24.lo.u32 d, a, b;", |x| {
        (x[0] & 0xff_ffff) * (x[1] & 0xff_ffff)
    });
    case!(l, "u32", ["u32", "u32"], "mul24.hi.u32 d, a, b;", |x| {
        ((x[0] & 0xff_ffff) * (x[1] & 0xff_ffff)) >> 16
    });
    case!(
        l,
        "s32",
        ["s32", "s32", "s32"],
        "mad24.lo.s32 d, a, b, c;",
        |x| {
            let low = |v: u64| i64::from((v as i32) << 8 >> 8);
            ((low(x[0]) * low(x[1])) as u64).wrapping_add(x[2])
        }
    );
    case!(
        l,
        "u32",
        ["u32", "u32", "u32"],
        "sad.u32 d, a, b, c;",
        |x| { x[0].abs_diff(x[1]).wrapping_add(x[2]) }
    );
    case!(
        l,
        "s32",
        ["s32", "s32", "s32"],
        "sad.s32 d, a, b, c;",
        |x| { u64::from((x[0] as i32).abs_diff(x[1] as i32)).wrapping_add(x[2]) }
    );
    case!(l, "u32", ["u32", "u32"], "div.u32 d, a, b;", |x| {
        x[0].checked_div(x[1]).unwrap_or(u64::MAX)
    });
    case!(l, "s32", ["s32", "s32"], "div.s32 d, a, b;", |x| {
        let (a, b) = (x[0] as i32, x[1] as i32);
        (if b == 0 { -1 } else { a.wrapping_div(b) }) as u64
    });
    case!(l, "s64", ["s64", "s64"], "rem.s64 d, a, b;", |x| {
        let (a, b) = (x[0] as i64, x[1] as i64);
        (if b == 0 { a } else { a.wrapping_rem(b) }) as u64
    });
    case!(l, "u16", ["u16", "u16"], "rem.u16 d, a, b;", |x| x[0]
        .checked_rem(x[1])
        .unwrap_or(x[0]));
    case!(
        l,
        "s32",
        ["s32"],
        "abs.s32 d, a;",
        |x| (x[0] as i32).wrapping_abs() as u64
    );
    case!(
        l,
        "s16",
        ["s16"],
        "neg.s16 d, a;",
        |x| (x[0] as i16).wrapping_neg() as u64
    );
    case!(
        l,
        "s64",
        ["s64"],
        "neg.s64 d, a;",
        |x| (x[0] as i64).wrapping_neg() as u64
    );
    case!(
        l,
        "s32",
        ["s32", "s32"],
        "min.s32 d, a, b;",
        |x| (x[0] as i32).min(x[1] as i32) as u64
    );
    case!(l, "u32", ["u32", "u32"], "max.u32 d, a, b;", |x| x[0]
        .max(x[1]));
    case!(
        l,
        "s64",
        ["s64", "s64"],
        "max.s64 d, a, b;",
        |x| (x[0] as i64).max(x[1] as i64) as u64
    );
    case!(
        l,
        "s16",
        ["s16", "s16"],
        "min.s16 d, a, b;",
        |x| (x[0] as i16).min(x[1] as i16) as u64
    );
    case!(l, "s32", ["s32", "s32"], "max.relu.s32 d, a, b;", |x| {
        (x[0] as i32).max(x[1] as i32).max(0) as u64
    });
    case!(l, "u32", ["u32", "u32"], "add.u16x2 d, a, b;", |x| {
        u64::from((x[0] as u16).wrapping_add(x[1] as u16))
            | u64::from(((x[0] >> 16) as u16).wrapping_add((x[1] >> 16) as u16)) << 16
    });
    case!(l, "u32", ["u32", "u32"], "min.s16x2 d, a, b;", |x| {
        let low = (x[0] as i16).min(x[1] as i16) as u16;
        let high = ((x[0] >> 16) as i16).min((x[1] >> 16) as i16) as u16;
        u64::from(low) | u64::from(high) << 16
    });
    case!(
        l,
        "u64",
        ["u64", "u64"],
        "{.reg .u32 a0,a1,b0,b1; mov.b64 {a0,a1}, a; mov.b64 {b0,b1}, b; \
         add.cc.u32 a0, a0, b0; addc.u32 a1, a1, b1; mov.b64 d, {a0,a1};}",
        |x| x[0].wrapping_add(x[1])
    );
    case!(
        l,
        "u64",
        ["u64", "u64"],
        "{.reg .u32 a0,a1,b0,b1; mov.b64 {a0,a1}, a; mov.b64 {b0,b1}, b; \
         sub.cc.u32 a0, a0, b0; subc.u32 a1, a1, b1; mov.b64 d, {a0,a1};}",
        |x| x[0].wrapping_sub(x[1])
    );
    case!(
        l,
        "u64",
        ["u32", "u32", "u64"],
        "{.reg .u32 c0,c1; mov.b64 {c0,c1}, c; \
         mad.lo.cc.u32 c0, a, b, c0; madc.hi.u32 c1, a, b, c1; mov.b64 d, {c0,c1};}",
        |x| (x[0] * x[1]).wrapping_add(x[2])
    );
    run(l);
}

#[test]
fn bit_operations_match() {
    let mut l = Vec::new();
    case!(l, "b32", ["b32", "b32"], "and.b32 d, a, b;", |x| x[0]
        & x[1]);
    case!(l, "b64", ["b64", "b64"], "or.b64 d, a, b;", |x| x[0] | x[1]);
    case!(l, "b16", ["b16", "b16"], "xor.b16 d, a, b;", |x| x[0]
        ^ x[1]);
    case!(l, "b64", ["b64"], "not.b64 d, a;", |x| !x[0]);
    case!(l, "b32", ["b32"], "cnot.b32 d, a;", |x| u64::from(
        x[0] == 0
    ));
    case!(l, "b32", ["b32", "shift"], "shl.b32 d, a, b;", |x| {
        if x[1] > 31 { 0 } else { x[0] << x[1] }
    });
    case!(l, "b64", ["b64", "shift"], "shl.b64 d, a, b;", |x| {
        if x[1] > 63 { 0 } else { x[0] << x[1] }
    });
    case!(l, "b16", ["b16", "shift"], "shl.b16 d, a, b;", |x| {
        if x[1] > 15 { 0 } else { x[0] << x[1] }
    });
    case!(l, "u32", ["u32", "shift"], "shr.u32 d, a, b;", |x| {
        if x[1] > 31 { 0 } else { x[0] >> x[1] }
    });
    case!(l, "s32", ["s32", "shift"], "shr.s32 d, a, b;", |x| {
        ((x[0] as i32) >> x[1].min(31)) as u64
    });
    case!(l, "s64", ["s64", "shift"], "shr.s64 d, a, b;", |x| {
        ((x[0] as i64) >> x[1].min(63)) as u64
    });
    case!(l, "u16", ["u16", "shift"], "shr.u16 d, a, b;", |x| {
        if x[1] > 15 { 0 } else { x[0] >> x[1] }
    });
    case!(l, "s16", ["s16", "shift"], "shr.s16 d, a, b;", |x| {
        ((x[0] as i16) >> x[1].min(15)) as u64
    });
    let funnel = |x: &[u64]| x[1] << 32 | x[0];
    case!(
        l,
        "b32",
        ["b32", "b32", "shift"],
        "shf.l.clamp.b32 d, a, b, c;",
        move |x| { (u128::from(funnel(x)) << x[2].min(32) >> 32) as u64 }
    );
    case!(
        l,
        "b32",
        ["b32", "b32", "shift"],
        "shf.l.wrap.b32 d, a, b, c;",
        move |x| { funnel(x) << (x[2] & 31) >> 32 }
    );
    case!(
        l,
        "b32",
        ["b32", "b32", "shift"],
        "shf.r.clamp.b32 d, a, b, c;",
        move |x| { funnel(x) >> x[2].min(32) }
    );
    case!(
        l,
        "b32",
        ["b32", "b32", "shift"],
        "shf.r.wrap.b32 d, a, b, c;",
        move |x| { funnel(x) >> (x[2] & 31) }
    );
    for (table, ptx) in [
        (0x80u64, "lop3.b32 d, a, b, c, 0x80;"),
        (0x96, "lop3.b32 d, a, b, c, 0x96;"),
        (0xe8, "lop3.b32 d, a, b, c, 232;"),
        (0x1b, "lop3.b32 d, a, b, c, 0x1b;"),
    ] {
        case!(l, "b32", ["b32", "b32", "b32"], ptx, move |x| {
            (0..32).fold(0, |r, i| {
                let row = (x[0] >> i & 1) << 2 | (x[1] >> i & 1) << 1 | (x[2] >> i & 1);
                r | (table >> row & 1) << i
            })
        });
    }
    case!(l, "u32", ["b32"], "popc.b32 d, a;", |x| u64::from(
        x[0].count_ones()
    ));
    case!(l, "u32", ["b64"], "popc.b64 d, a;", |x| u64::from(
        x[0].count_ones()
    ));
    case!(l, "u32", ["b32"], "clz.b32 d, a;", |x| u64::from(
        (x[0] as u32).leading_zeros()
    ));
    case!(l, "u32", ["b64"], "clz.b64 d, a;", |x| u64::from(
        x[0].leading_zeros()
    ));
    case!(l, "b32", ["b32"], "brev.b32 d, a;", |x| {
        (0..32).fold(0, |r, i| r | (x[0] >> i & 1) << (31 - i))
    });
    case!(l, "b64", ["b64"], "brev.b64 d, a;", |x| {
        (0..64).fold(0, |r, i| r | (x[0] >> i & 1) << (63 - i))
    });
    let top = |v: u64| (0..64).rev().find(|i| v >> i & 1 == 1);
    case!(l, "u32", ["u32"], "bfind.u32 d, a;", move |x| top(x[0])
        .unwrap_or(u64::MAX));
    case!(l, "u32", ["s32"], "bfind.s32 d, a;", move |x| {
        let v = x[0] as u32;
        top(u64::from(if (v as i32) < 0 { !v } else { v })).unwrap_or(u64::MAX)
    });
    case!(l, "u32", ["s64"], "bfind.s64 d, a;", move |x| {
        top(if (x[0] as i64) < 0 { !x[0] } else { x[0] }).unwrap_or(u64::MAX)
    });
    case!(l, "u32", ["u32"], "bfind.shiftamt.u32 d, a;", move |x| {
        top(x[0]).map_or(u64::MAX, |i| 31 - i)
    });
    // The definitions of the PTX documentation, bit by bit.
    let bfe = |a: u64, pos: u64, len: u64, msb: u64, signed: bool| {
        let (pos, len) = (pos & 0xff, len & 0xff);
        let sign = if !signed || len == 0 {
            0
        } else {
            a >> (pos + len - 1).min(msb) & 1
        };
        (0..=msb).fold(0, |d, i| {
            let bit = if i < len && pos + i <= msb {
                a >> (pos + i) & 1
            } else {
                sign
            };
            d | bit << i
        })
    };
    case!(
        l,
        "u32",
        ["u32", "shift", "shift"],
        "bfe.u32 d, a, b, c;",
        move |x| { bfe(x[0], x[1], x[2], 31, false) }
    );
    case!(
        l,
        "s32",
        ["s32", "shift", "shift"],
        "bfe.s32 d, a, b, c;",
        move |x| { bfe(x[0], x[1], x[2], 31, true) }
    );
    case!(
        l,
        "s64",
        ["s64", "shift", "shift"],
        "bfe.s64 d, a, b, c;",
        move |x| { bfe(x[0], x[1], x[2], 63, true) }
    );
    let bfi = |a: u64, b: u64, pos: u64, len: u64, msb: u64| {
        let mut d = b;
        for i in 0..len & 0xff {
            let at = (pos & 0xff) + i;
            if at <= msb {
                d = d & !(1 << at) | (a >> i & 1) << at;
            }
        }
        d
    };
    case!(
        l,
        "b32",
        ["b32", "b32", "shift"],
        "bfi.b32 d, a, b, c, 7;",
        move |x| { bfi(x[0], x[1], x[2], 7, 31) }
    );
    case!(
        l,
        "b64",
        ["b64", "b64", "shift"],
        "bfi.b64 d, a, b, 9, c;",
        move |x| { bfi(x[0], x[1], 9, x[2], 63) }
    );
    case!(
        l,
        "b32",
        ["b32", "b32", "b32"],
        "prmt.b32 d, a, b, c;",
        |x| {
            let bytes = x[1] << 32 | x[0];
            (0..4).fold(0, |d, i| {
                let select = x[2] >> (4 * i) & 15;
                let byte = bytes >> (8 * (select & 7)) & 0xff;
                let byte = if select & 8 == 0 {
                    byte
                } else if byte > 127 {
                    0xff
                } else {
                    0
                };
                d | byte << (8 * i)
            })
        }
    );
    case!(
        l,
        "b32",
        ["b32", "b32", "shift"],
        "prmt.b32.f4e d, a, b, c;",
        |x| { (x[1] << 32 | x[0]) >> (8 * (x[2] & 3)) }
    );
    case!(
        l,
        "b32",
        ["b32", "b32", "shift"],
        "prmt.b32.rc8 d, a, b, c;",
        |x| { (x[0] >> (8 * (x[2] & 3)) & 0xff) * 0x0101_0101 }
    );
    case!(
        l,
        "b32",
        ["b32", "b32", "shift"],
        "prmt.b32.rc16 d, a, b, c;",
        |x| { (x[0] >> (16 * (x[2] & 1)) & 0xffff) * 0x1_0001 }
    );
    case!(
        l,
        "s32",
        ["b32", "b32", "s32"],
        "dp4a.s32.s32 d, a, b, c;",
        |x| {
            (0..4).fold(x[2], |s, i| {
                s.wrapping_add(
                    ((x[0] >> (8 * i)) as i8 as i64 * (x[1] >> (8 * i)) as i8 as i64) as u64,
                )
            })
        }
    );
    case!(
        l,
        "u32",
        ["b32", "b32", "u32"],
        "dp4a.u32.u32 d, a, b, c;",
        |x| {
            (0..4).fold(x[2], |s, i| {
                s.wrapping_add((x[0] >> (8 * i) & 255) * (x[1] >> (8 * i) & 255))
            })
        }
    );
    case!(
        l,
        "s32",
        ["b32", "b32", "s32"],
        "dp2a.lo.s32.u32 d, a, b, c;",
        |x| {
            (0..2).fold(x[2], |s, i| {
                let product = (x[0] >> (16 * i)) as i16 as i64 * (x[1] >> (8 * i) & 255) as i64;
                s.wrapping_add(product as u64)
            })
        }
    );
    case!(
        l,
        "b32",
        ["b32", "shift"],
        "szext.clamp.s32 d, a, b;",
        |x| match x[1] {
            0 => 0,
            n if n >= 32 => x[0],
            n => ((x[0] as i32) << (32 - n) >> (32 - n)) as u64,
        }
    );
    case!(
        l,
        "b32",
        ["shift", "shift"],
        "bmsk.clamp.b32 d, a, b;",
        |x| {
            (0..32)
                .filter(|i| *i >= x[0] && *i < x[0] + x[1])
                .fold(0, |m, i| m | 1 << i)
        }
    );
    case!(
        l,
        "u32",
        ["u32", "u32", "s32"],
        "slct.u32.s32 d, a, b, c;",
        |x| { if (x[2] as i32) < 0 { x[1] } else { x[0] } }
    );
    case!(
        l,
        "u64",
        ["u64", "u64", "f32"],
        "slct.u64.f32 d, a, b, c;",
        |x| { if f32_of(x[2]) >= 0.0 { x[0] } else { x[1] } }
    );
    case!(l, "b32", ["b32"], "fns.b32 d, a, 3, 2;", |x| {
        (3..32)
            .filter(|i| x[0] >> i & 1 == 1)
            .nth(1)
            .map_or(u64::MAX, |i| i)
    });
    run(l);
}

#[test]
fn comparisons_and_selections_match() {
    let mut l = Vec::new();
    const YES: &str = "selp.u32 d, 1, 0, p;";
    let _ = YES;
    macro_rules! compare {
        ($ty:literal, $ptx:literal, $f:expr) => {
            case!(
                l,
                "u32",
                [$ty, $ty],
                concat!($ptx, " selp.u32 d, 1, 0, p;"),
                move |x| { u64::from($f(x[0], x[1])) }
            );
        };
    }
    compare!("u32", "setp.lt.u32 p, a, b;", |a: u64, b: u64| a < b);
    compare!("u32", "setp.hi.u32 p, a, b;", |a: u64, b: u64| a > b);
    compare!("u32", "setp.ls.u32 p, a, b;", |a: u64, b: u64| a <= b);
    compare!("s32", "setp.ge.s32 p, a, b;", |a: u64, b: u64| a as i32
        >= b as i32);
    compare!("s64", "setp.gt.s64 p, a, b;", |a: u64, b: u64| a as i64
        > b as i64);
    compare!("b64", "setp.ne.b64 p, a, b;", |a: u64, b: u64| a != b);
    compare!("s16", "setp.le.s16 p, a, b;", |a: u64, b: u64| a as i16
        <= b as i16);
    compare!("u16", "setp.eq.u16 p, a, b;", |a: u64, b: u64| a == b);
    compare!("f32", "setp.eq.f32 p, a, b;", |a, b| f32_of(a) == f32_of(b));
    compare!("f32", "setp.ne.f32 p, a, b;", |a, b| {
        let (a, b) = (f32_of(a), f32_of(b));
        !a.is_nan() && !b.is_nan() && a != b
    });
    compare!("f32", "setp.neu.f32 p, a, b;", |a, b| f32_of(a)
        != f32_of(b));
    compare!("f32", "setp.ltu.f32 p, a, b;", |a, b| {
        f32_of(a).is_nan() || f32_of(b).is_nan() || f32_of(a) < f32_of(b)
    });
    compare!("f32", "setp.equ.f32 p, a, b;", |a, b| {
        f32_of(a).is_nan() || f32_of(b).is_nan() || f32_of(a) == f32_of(b)
    });
    compare!("f32", "setp.num.f32 p, a, b;", |a, b| {
        !f32_of(a).is_nan() && !f32_of(b).is_nan()
    });
    compare!("f32", "setp.nan.f32 p, a, b;", |a, b| f32_of(a).is_nan()
        || f32_of(b).is_nan());
    compare!("f64", "setp.geu.f64 p, a, b;", |a, b| {
        f64_of(a).is_nan() || f64_of(b).is_nan() || f64_of(a) >= f64_of(b)
    });
    compare!("f16", "setp.lt.f16 p, a, b;", |a, b| half_of(a).to_f32()
        < half_of(b).to_f32());
    compare!("bf16", "setp.gt.bf16 p, a, b;", |a, b| brain_of(a).to_f32()
        > brain_of(b).to_f32());
    case!(
        l,
        "u32",
        ["u32", "u32"],
        "setp.lt.u32 q, a, 100; setp.eq.and.u32 p|q, a, b, !q; selp.u32 w0, 1, 0, p; \
         selp.u32 w1, 2, 0, q; or.b32 d, w0, w1;",
        |x| {
            let c = x[0] >= 100;
            u64::from(x[0] == x[1] && c) | u64::from(x[0] != x[1] && c) << 1
        }
    );
    case!(
        l,
        "u32",
        ["u32", "u32"],
        "setp.lt.u32 q, a, 100; setp.eq.xor.u32 p, a, b, q; not.pred p, p; selp.u32 d, 1, 0, p;",
        |x| u64::from((x[0] == x[1]) == (x[0] < 100))
    );
    case!(l, "u32", ["s32", "s32"], "set.lt.u32.s32 d, a, b;", |x| {
        if (x[0] as i32) < (x[1] as i32) {
            u64::MAX
        } else {
            0
        }
    });
    case!(l, "f32", ["f32", "f32"], "set.gt.f32.f32 d, a, b;", |x| {
        u64::from(
            (if f32_of(x[0]) > f32_of(x[1]) {
                1.0f32
            } else {
                0.0
            })
            .to_bits(),
        )
    });
    case!(
        l,
        "u32",
        ["f32"],
        "testp.subnormal.f32 p, a; selp.u32 d, 1, 0, p;",
        |x| { u64::from(f32_of(x[0]).is_subnormal()) }
    );
    case!(
        l,
        "u32",
        ["f64"],
        "testp.finite.f64 p, a; selp.u32 d, 1, 0, p;",
        |x| { u64::from(f64_of(x[0]).is_finite()) }
    );
    case!(
        l,
        "b64",
        ["b64", "b64", "u32"],
        "setp.ne.u32 p, c, 0; selp.b64 d, a, b, p;",
        |x| if x[2] != 0 { x[0] } else { x[1] }
    );
    run(l);
}

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

#[test]
fn single_precision_arithmetic_matches_in_every_rounding() {
    let mut l = Vec::new();
    let bits = |x: f32| u64::from(x.to_bits());
    macro_rules! two {
        ($ptx:literal, $f:expr) => {
            case!(l, "f32", ["f32", "f32"], $ptx, move |x| bits($f(
                f32_of(x[0]),
                f32_of(x[1])
            )));
        };
    }
    two!("add.f32 d, a, b;", |a: f32, b: f32| a + b);
    two!("sub.rn.f32 d, a, b;", |a: f32, b: f32| a - b);
    two!("mul.f32 d, a, b;", |a: f32, b: f32| a * b);
    two!("div.rn.f32 d, a, b;", |a: f32, b: f32| a / b);
    let flush = |x: f32| {
        if x.is_subnormal() {
            0f32.copysign(x)
        } else {
            x
        }
    };
    two!("add.ftz.f32 d, a, b;", move |a: f32, b: f32| flush(
        flush(a) + flush(b)
    ));
    two!("mul.rn.ftz.f32 d, a, b;", move |a: f32, b: f32| flush(
        flush(a) * flush(b)
    ));
    let clamp = |x: f32| {
        if x.is_nan() {
            0.0
        } else {
            x.clamp(0.0, 1.0) + 0.0
        }
    };
    two!("add.sat.f32 d, a, b;", move |a: f32, b: f32| clamp(a + b));
    two!("mul.ftz.sat.f32 d, a, b;", move |a: f32, b: f32| clamp(
        flush(flush(a) * flush(b))
    ));
    two!("copysign.f32 d, a, b;", |a: f32, b: f32| b.copysign(a));
    two!("min.f32 d, a, b;", |a: f32, b: f32| {
        if a == b && a == 0.0 {
            f32::from_bits(a.to_bits() | b.to_bits())
        } else {
            a.min(b)
        }
    });
    two!("max.f32 d, a, b;", |a: f32, b: f32| {
        if a == b && a == 0.0 {
            f32::from_bits(a.to_bits() & b.to_bits())
        } else {
            a.max(b)
        }
    });
    two!("min.NaN.f32 d, a, b;", |a: f32, b: f32| {
        if a.is_nan() || b.is_nan() {
            f32::NAN
        } else if a == b && a == 0.0 {
            f32::from_bits(a.to_bits() | b.to_bits())
        } else {
            a.min(b)
        }
    });
    case!(
        l,
        "f32",
        ["f32", "f32", "f32"],
        "fma.rn.f32 d, a, b, c;",
        move |x| { bits(f32_of(x[0]).mul_add(f32_of(x[1]), f32_of(x[2]))) }
    );
    case!(
        l,
        "f32",
        ["f32", "f32", "f32"],
        "fma.rn.ftz.f32 d, a, b, c;",
        move |x| {
            let [a, b, c] = [0, 1, 2].map(|i| flush(f32_of(x[i])));
            bits(flush(a.mul_add(b, c)))
        }
    );
    // Sums and products are exact in f64, or their error is known.
    for (ptx, direction) in [
        ("add.rz.f32 d, a, b;", 0),
        ("add.rm.f32 d, a, b;", -1),
        ("add.rp.f32 d, a, b;", 1),
    ] {
        case!(l, "f32", ["f32", "f32"], ptx, move |x| {
            let (a, b) = (f64::from(f32_of(x[0])), f64::from(f32_of(x[1])));
            let sum = a + b;
            let t = sum - a;
            let error = (a - (sum - t)) + (b - t);
            if sum == 0.0 && (a != 0.0 || a.is_sign_negative() != b.is_sign_negative()) {
                return if direction < 0 { 0x8000_0000 } else { 0 };
            }
            directed(sum, if error.is_nan() { 0.0 } else { error }, direction)
        });
    }
    for (ptx, direction) in [
        ("mul.rz.f32 d, a, b;", 0),
        ("mul.rm.f32 d, a, b;", -1),
        ("mul.rp.f32 d, a, b;", 1),
    ] {
        case!(l, "f32", ["f32", "f32"], ptx, move |x| {
            directed(
                f64::from(f32_of(x[0])) * f64::from(f32_of(x[1])),
                0.0,
                direction,
            )
        });
    }
    case!(
        l,
        "f32",
        ["f32", "f32", "f32"],
        "fma.rz.f32 d, a, b, c;",
        move |x| {
            let product = f64::from(f32_of(x[0])) * f64::from(f32_of(x[1]));
            let c = f64::from(f32_of(x[2]));
            let sum = product + c;
            let t = sum - product;
            let error = (product - (sum - t)) + (c - t);
            directed(sum, if error.is_nan() { 0.0 } else { error }, 0)
        }
    );
    case!(l, "f32", ["f32"], "sqrt.rn.f32 d, a;", move |x| bits(
        f32_of(x[0]).sqrt()
    ));
    case!(l, "f32", ["f32"], "rcp.rn.f32 d, a;", move |x| bits(
        1.0 / f32_of(x[0])
    ));
    case!(l, "f32", ["f32"], "neg.f32 d, a;", |x| x[0] ^ 0x8000_0000);
    case!(l, "f32", ["f32"], "abs.f32 d, a;", |x| x[0] & 0x7fff_ffff);
    // Half-precision bounds: far inside those of the PTX documentation.
    case!(
        l,
        "f32",
        ["f32"],
        "rcp.approx.f32 d, a;",
        move |x| bits(1.0 / f32_of(x[0])),
        Match::Relative(1e-6)
    );
    case!(
        l,
        "f32",
        ["f32"],
        "ex2.approx.f32 d, a;",
        move |x| bits(f64::from(f32_of(x[0])).exp2() as f32),
        Match::Relative(3e-7)
    );
    case!(
        l,
        "f32",
        ["f32"],
        "lg2.approx.f32 d, a;",
        move |x| bits(f64::from(f32_of(x[0])).log2() as f32),
        Match::Relative(3e-7)
    );
    case!(
        l,
        "f32",
        ["f32"],
        "rsqrt.approx.f32 d, a;",
        move |x| bits((1.0 / f64::from(f32_of(x[0])).sqrt()) as f32),
        Match::Relative(3e-7)
    );
    case!(
        l,
        "f32",
        ["f32"],
        "tanh.approx.f32 d, a;",
        move |x| bits(f64::from(f32_of(x[0])).tanh() as f32),
        Match::Relative(1e-6)
    );
    case!(
        l,
        "f32",
        ["f32"],
        "{mul.f32 a, a, 0f00000000; sin.approx.f32 d, a;}",
        move |x| { bits(f32_of(x[0]) * 0.0) }
    );
    case!(
        l,
        "f32",
        ["s16"],
        "cvt.rn.f32.s16 d, a; mul.f32 d, d, 0f3A800000; sin.approx.f32 d, d;",
        move |x| bits((f64::from(x[0] as i16) / 1024.0).sin() as f32),
        Match::Relative(1e-5)
    );
    case!(
        l,
        "f32",
        ["s16"],
        "cvt.rn.f32.s16 d, a; mul.f32 d, d, 0f3A800000; cos.approx.f32 d, d;",
        move |x| bits((f64::from(x[0] as i16) / 1024.0).cos() as f32),
        Match::Relative(1e-5)
    );
    run(l);
}

#[test]
fn double_precision_arithmetic_matches() {
    let mut l = Vec::new();
    macro_rules! two {
        ($ptx:literal, $f:expr) => {
            case!(l, "f64", ["f64", "f64"], $ptx, move |x| {
                $f(f64_of(x[0]), f64_of(x[1])).to_bits()
            });
        };
    }
    two!("add.f64 d, a, b;", |a: f64, b: f64| a + b);
    two!("sub.f64 d, a, b;", |a: f64, b: f64| a - b);
    two!("mul.f64 d, a, b;", |a: f64, b: f64| a * b);
    two!("div.rn.f64 d, a, b;", |a: f64, b: f64| a / b);
    two!("min.f64 d, a, b;", |a: f64, b: f64| {
        if a == b && a == 0.0 {
            f64::from_bits(a.to_bits() | b.to_bits())
        } else {
            a.min(b)
        }
    });
    case!(
        l,
        "f64",
        ["f64", "f64", "f64"],
        "fma.rn.f64 d, a, b, c;",
        |x| { f64_of(x[0]).mul_add(f64_of(x[1]), f64_of(x[2])).to_bits() }
    );
    case!(l, "f64", ["f64"], "sqrt.rn.f64 d, a;", |x| f64_of(x[0])
        .sqrt()
        .to_bits());
    case!(l, "f64", ["f64"], "rcp.rn.f64 d, a;", |x| (1.0
        / f64_of(x[0]))
    .to_bits());
    case!(l, "f64", ["f64"], "neg.f64 d, a;", |x| x[0] ^ 1 << 63);
    case!(l, "f64", ["f64"], "abs.f64 d, a;", |x| x[0] & !(1 << 63));
    // Truncation differs from nearest by at most the last place, towards zero.
    case!(l, "f64", ["f64", "f64"], "add.rz.f64 d, a, b;", |x| {
        let (a, b) = (f64_of(x[0]), f64_of(x[1]));
        let sum = a + b;
        if sum.is_nan() || a.is_infinite() || b.is_infinite() {
            return sum.to_bits();
        }
        if sum.is_infinite() {
            return f64::MAX.copysign(sum).to_bits();
        }
        let t = sum - a;
        let error = (a - (sum - t)) + (b - t);
        let past = error != 0.0 && (error < 0.0) == (sum > 0.0);
        if past {
            sum.to_bits() - 1
        } else {
            sum.to_bits()
        }
    });
    run(l);
}

#[test]
fn half_and_brain_float_arithmetic_matches() {
    let mut l = Vec::new();
    macro_rules! half {
        ($ty:literal, $of:ident, $kind:ty, $ptx:literal, $f:expr) => {
            case!(l, $ty, [$ty, $ty], $ptx, move |x| {
                let (a, b) = (f64::from($of(x[0]).to_f32()), f64::from($of(x[1]).to_f32()));
                u64::from(<$kind>::from_f64($f(a, b)).to_bits())
            });
        };
    }
    half!(
        "f16",
        half_of,
        half::f16,
        "add.f16 d, a, b;",
        |a: f64, b: f64| a + b
    );
    half!(
        "f16",
        half_of,
        half::f16,
        "sub.rn.f16 d, a, b;",
        |a: f64, b: f64| a - b
    );
    half!(
        "f16",
        half_of,
        half::f16,
        "mul.f16 d, a, b;",
        |a: f64, b: f64| a * b
    );
    half!(
        "bf16",
        brain_of,
        half::bf16,
        "mul.bf16 d, a, b;",
        |a: f64, b: f64| a * b
    );
    // Sums of bf16 can need more bits than f64 has; the machine rounds through f32, which is also exact
    // enough, so compare through f32.
    case!(l, "bf16", ["bf16", "bf16"], "add.bf16 d, a, b;", |x| {
        u64::from(half::bf16::from_f32(brain_of(x[0]).to_f32() + brain_of(x[1]).to_f32()).to_bits())
    });
    case!(
        l,
        "f16",
        ["f16", "f16", "f16"],
        "fma.rn.f16 d, a, b, c;",
        |x| {
            let [a, b, c] = [0, 1, 2].map(|i| f64::from(half_of(x[i]).to_f32()));
            u64::from(half::f16::from_f64(a.mul_add(b, c)).to_bits())
        }
    );
    case!(
        l,
        "f16",
        ["f16", "f16", "f16"],
        "fma.rn.relu.f16 d, a, b, c;",
        |x| {
            let [a, b, c] = [0, 1, 2].map(|i| f64::from(half_of(x[i]).to_f32()));
            let value = half::f16::from_f64(a.mul_add(b, c));
            u64::from(if value.to_f32() <= 0.0 {
                0
            } else {
                value.to_bits()
            })
        }
    );
    case!(l, "f16x2", ["f16x2", "f16x2"], "add.f16x2 d, a, b;", |x| {
        let one = |shift: u64| {
            let sum = half_of(x[0] >> shift).to_f32() + half_of(x[1] >> shift).to_f32();
            u64::from(half::f16::from_f32(sum).to_bits())
        };
        one(0) | one(16) << 16
    });
    case!(
        l,
        "bf16x2",
        ["bf16x2", "bf16x2"],
        "mul.bf16x2 d, a, b;",
        |x| {
            let one = |shift: u64| {
                let product = brain_of(x[0] >> shift).to_f32() * brain_of(x[1] >> shift).to_f32();
                u64::from(half::bf16::from_f32(product).to_bits())
            };
            one(0) | one(16) << 16
        }
    );
    case!(l, "f16", ["f16", "f16"], "max.f16 d, a, b;", |x| {
        let (a, b) = (half_of(x[0]), half_of(x[1]));
        let value = match (a.is_nan(), b.is_nan()) {
            (true, true) => half::f16::NAN,
            (true, false) => b,
            (false, true) => a,
            _ if a.to_f32() == 0.0 && b.to_f32() == 0.0 => {
                half::f16::from_bits(a.to_bits() & b.to_bits())
            }
            _ if a.to_f32() > b.to_f32() => a,
            _ => b,
        };
        u64::from(value.to_bits())
    });
    case!(l, "f16", ["f16"], "neg.f16 d, a;", |x| x[0] ^ 0x8000);
    case!(l, "bf16", ["bf16"], "abs.bf16 d, a;", |x| x[0] & 0x7fff);
    case!(
        l,
        "f16",
        ["f16"],
        "ex2.approx.f16 d, a;",
        |x| { u64::from(half::f16::from_f64(f64::from(half_of(x[0]).to_f32()).exp2()).to_bits()) },
        Match::Relative(2e-3)
    );
    case!(
        l,
        "f16",
        ["f16"],
        "tanh.approx.f16 d, a;",
        |x| { u64::from(half::f16::from_f64(f64::from(half_of(x[0]).to_f32()).tanh()).to_bits()) },
        Match::Relative(2e-3)
    );
    run(l);
}

#[test]
fn conversions_match() {
    let mut l = Vec::new();
    let bits = |x: f32| u64::from(x.to_bits());
    case!(l, "u64", ["u32"], "cvt.u64.u32 d, a;", |x| x[0]);
    case!(l, "s64", ["s32"], "cvt.s64.s32 d, a;", |x| x[0] as i32
        as u64);
    case!(l, "u32", ["u64"], "cvt.u32.u64 d, a;", |x| x[0]);
    case!(l, "s32", ["s16"], "cvt.s32.s16 d, a;", |x| x[0] as i16
        as u64);
    case!(l, "s32", ["u32"], "cvt.s32.s8 d, a;", |x| x[0] as i8 as u64);
    case!(l, "u16", ["u32"], "cvt.u16.u32 d, a;", |x| x[0]);
    case!(l, "s32", ["s64"], "cvt.sat.s32.s64 d, a;", |x| {
        (x[0] as i64).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u64
    });
    case!(
        l,
        "u32",
        ["s32"],
        "cvt.sat.u8.s32 d, a;",
        |x| (x[0] as i32).clamp(0, 255) as u64
    );
    case!(l, "f32", ["s32"], "cvt.rn.f32.s32 d, a;", move |x| bits(
        x[0] as i32 as f32
    ));
    case!(l, "f32", ["u32"], "cvt.rn.f32.u32 d, a;", move |x| bits(
        x[0] as u32 as f32
    ));
    case!(l, "f32", ["u64"], "cvt.rn.f32.u64 d, a;", move |x| bits(
        x[0] as f32
    ));
    case!(l, "f32", ["s64"], "cvt.rn.f32.s64 d, a;", move |x| bits(
        x[0] as i64 as f32
    ));
    case!(
        l,
        "f32",
        ["u32"],
        "cvt.rz.f32.u32 d, a;",
        move |x| directed(x[0] as f64, 0.0, 0)
    );
    case!(l, "f64", ["s64"], "cvt.rn.f64.s64 d, a;", |x| (x[0] as i64
        as f64)
        .to_bits());
    case!(l, "f64", ["u64"], "cvt.rn.f64.u64 d, a;", |x| (x[0] as f64)
        .to_bits());
    case!(l, "f64", ["f32"], "cvt.f64.f32 d, a;", |x| f64::from(
        f32_of(x[0])
    )
    .to_bits());
    case!(l, "f32", ["f64"], "cvt.rn.f32.f64 d, a;", move |x| bits(
        f64_of(x[0]) as f32
    ));
    case!(l, "f32", ["f64"], "cvt.rm.f32.f64 d, a;", |x| {
        let value = f64_of(x[0]);
        if value > f64::from(f32::MAX) && value.is_finite() {
            return u64::from(f32::MAX.to_bits());
        }
        directed(value, 0.0, -1)
    });
    case!(
        l,
        "s32",
        ["f32"],
        "cvt.rzi.s32.f32 d, a;",
        |x| f32_of(x[0]) as i32 as u64
    );
    case!(l, "u32", ["f32"], "cvt.rzi.u32.f32 d, a;", |x| u64::from(
        f32_of(x[0]) as u32
    ));
    case!(l, "s32", ["f32"], "cvt.rni.s32.f32 d, a;", |x| {
        f32_of(x[0]).round_ties_even() as i32 as u64
    });
    case!(
        l,
        "s32",
        ["f32"],
        "cvt.rmi.s32.f32 d, a;",
        |x| f32_of(x[0]).floor() as i32 as u64
    );
    case!(l, "u32", ["f32"], "cvt.rpi.u32.f32 d, a;", |x| u64::from(
        f32_of(x[0]).ceil() as u32
    ));
    case!(
        l,
        "s32",
        ["f32"],
        "cvt.rzi.s8.f32 d, a;",
        |x| f32_of(x[0]) as i8 as i32 as u64
    );
    case!(l, "s64", ["f64"], "cvt.rzi.s64.f64 d, a;", |x| {
        let value = f64_of(x[0]);
        if value.is_nan() {
            1 << 63
        } else {
            value as i64 as u64
        }
    });
    case!(l, "u64", ["f32"], "cvt.rzi.u64.f32 d, a;", |x| {
        let value = f32_of(x[0]);
        if value.is_nan() {
            1 << 63
        } else {
            value as u64
        }
    });
    case!(l, "f32", ["f32"], "cvt.rni.f32.f32 d, a;", move |x| bits(
        f32_of(x[0]).round_ties_even()
    ));
    case!(l, "f32", ["f32"], "cvt.rzi.f32.f32 d, a;", move |x| bits(
        f32_of(x[0]).trunc()
    ));
    case!(l, "f64", ["f64"], "cvt.rpi.f64.f64 d, a;", |x| f64_of(x[0])
        .ceil()
        .to_bits());
    case!(l, "f32", ["f32"], "cvt.sat.f32.f32 d, a;", move |x| {
        let value = f32_of(x[0]);
        bits(if value.is_nan() {
            0.0
        } else {
            value.clamp(0.0, 1.0) + 0.0
        })
    });
    case!(l, "f16", ["f32"], "cvt.rn.f16.f32 d, a;", |x| {
        u64::from(half::f16::from_f32(f32_of(x[0])).to_bits())
    });
    case!(l, "f16", ["f64"], "cvt.rn.f16.f64 d, a;", |x| {
        u64::from(half::f16::from_f64(f64_of(x[0])).to_bits())
    });
    case!(l, "f16", ["f32"], "cvt.rz.f16.f32 d, a;", |x| {
        let value = f32_of(x[0]);
        let near = half::f16::from_f32(value);
        let past = near.to_f32().abs() > value.abs();
        u64::from(if past {
            near.to_bits() - 1
        } else {
            near.to_bits()
        })
    });
    case!(l, "bf16", ["f32"], "cvt.rn.bf16.f32 d, a;", |x| {
        u64::from(half::bf16::from_f32(f32_of(x[0])).to_bits())
    });
    case!(l, "bf16", ["f32"], "cvt.rn.relu.bf16.f32 d, a;", |x| {
        let value = f32_of(x[0]);
        u64::from(if value < 0.0 || value == 0.0 {
            0
        } else {
            half::bf16::from_f32(value).to_bits()
        })
    });
    case!(l, "f32", ["f16"], "cvt.f32.f16 d, a;", move |x| bits(
        half_of(x[0]).to_f32()
    ));
    case!(l, "f32", ["bf16"], "cvt.f32.bf16 d, a;", move |x| bits(
        brain_of(x[0]).to_f32()
    ));
    case!(
        l,
        "f16x2",
        ["f32", "f32"],
        "cvt.rn.f16x2.f32 d, a, b;",
        |x| {
            let one = |v: u64| u64::from(half::f16::from_f32(f32_of(v)).to_bits());
            one(x[0]) << 16 | one(x[1])
        }
    );
    case!(
        l,
        "bf16x2",
        ["f32", "f32"],
        "cvt.rn.bf16x2.f32 d, a, b;",
        |x| {
            let one = |v: u64| u64::from(half::bf16::from_f32(f32_of(v)).to_bits());
            one(x[0]) << 16 | one(x[1])
        }
    );
    case!(l, "u32", ["f32"], "cvt.rna.tf32.f32 d, a;", |x| {
        let value = f32_of(x[0]);
        if value.is_nan() {
            0x7fff_ffff
        } else if value.is_infinite() {
            x[0]
        } else {
            (x[0] + 0x1000) & 0xffff_e000
        }
    });
    case!(l, "s32", ["f16"], "cvt.rni.s32.f16 d, a;", |x| {
        half_of(x[0]).to_f32().round_ties_even() as i32 as u64
    });
    case!(l, "f16", ["s32"], "cvt.rn.f16.s32 d, a;", |x| {
        u64::from(half::f16::from_f64(f64::from(x[0] as i32)).to_bits())
    });
    case!(
        l,
        "u32",
        ["f32", "f32"],
        "cvt.rn.satfinite.e4m3x2.f32 h0, a, b; cvt.rn.f16x2.e4m3x2 d, h0;",
        |x| {
            // Nearest of the 127 finite magnitudes, ties to even.
            let one = |v: u64| {
                let value = f32_of(v);
                if value.is_nan() {
                    return 0x7fff;
                }
                let decode = |code: u32| {
                    let (e, m) = (code >> 3, code & 7);
                    let m = f64::from(m);
                    if e == 0 {
                        m / 512.0
                    } else {
                        (8.0 + m) * 2f64.powi(e as i32 - 10)
                    }
                };
                let magnitude = f64::from(value).abs().min(448.0);
                let code = (0..0x7f)
                    .min_by(|&p, &q| {
                        let (dp, dq) =
                            ((decode(p) - magnitude).abs(), (decode(q) - magnitude).abs());
                        dp.total_cmp(&dq).then((p & 1).cmp(&(q & 1)))
                    })
                    .unwrap_or(0);
                let result = decode(code).copysign(f64::from(value));
                u64::from(half::f16::from_f64(result).to_bits())
            };
            one(x[0]) << 16 | one(x[1])
        }
    );
    run(l);
}
