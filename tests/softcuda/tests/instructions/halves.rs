//! Half and bfloat16 arithmetic, packed and not.

use super::*;

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
