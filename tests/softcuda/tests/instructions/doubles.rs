//! Double-precision arithmetic.

use super::*;

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
