//! Integer arithmetic.

use super::*;

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
