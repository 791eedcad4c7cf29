//! Bit operations: logic, shifts, fields, permutations.

use super::*;

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
