//! Comparisons, selections, predicates.

use super::*;

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
