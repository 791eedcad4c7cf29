//! Single-precision arithmetic, in each of its roundings.

use super::*;

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
