//! Conversions between types, in each rounding.

use super::*;

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
