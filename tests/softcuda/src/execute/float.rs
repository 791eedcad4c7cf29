//! f32 and f64 operations, elementwise.
//!
//! Rounding to nearest runs as vector code. The other rounding modes set the processor's rounding control
//! around the one instruction. Approximate functions are polynomials in f64, well inside the documented
//! error, and compile to vector code too.

use std::arch::asm;

use super::lanes::{Lane, Slot, leveled, map1, map2, map3};
use crate::lower::inst::{FloatOp, Inst};
use crate::lower::types::{Mode, Rounding};

leveled!(
    /// Runs an f32 operation on the active lanes.
    run_f32 = body_f32(op: FloatOp, mode: Mode, base: *mut Slot, inst: &Inst, mask: u32)
);
leveled!(
    /// Runs an f64 operation on the active lanes.
    run_f64 = body_f64(op: FloatOp, mode: Mode, base: *mut Slot, inst: &Inst, mask: u32)
);

/// NaN results have one pattern, 0x7fffffff.
#[inline(always)]
pub(super) fn canonical(value: f32) -> f32 {
    if value.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else {
        value
    }
}

/// Subnormals become zero of the same sign.
#[inline(always)]
pub(super) fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    let flushed = if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    };
    f32::from_bits(flushed)
}

/// The smaller: −0 below +0; a number before NaN.
#[inline(always)]
pub(super) fn min(a: f32, b: f32) -> f32 {
    let below = a < b || a == b && a.to_bits() >> 31 == 1;
    let least = if below || b.is_nan() { a } else { b };
    if a.is_nan() { b } else { least }
}

/// The larger, as [`min`].
#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    let above = a > b || a == b && a.to_bits() >> 31 == 0;
    let largest = if above || b.is_nan() { a } else { b };
    if a.is_nan() { b } else { largest }
}

#[inline(always)]
fn min64(a: f64, b: f64) -> f64 {
    let below = a < b || a == b && a.is_sign_negative();
    let least = if below || b.is_nan() { a } else { b };
    if a.is_nan() { b } else { least }
}

#[inline(always)]
fn max64(a: f64, b: f64) -> f64 {
    let above = a > b || a == b && a.is_sign_positive();
    let largest = if above || b.is_nan() { a } else { b };
    if a.is_nan() { b } else { largest }
}

/// The nearest integer, by the trick of adding 1.5·2^52.
#[inline(always)]
fn nearest(value: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    (value + MAGIC) - MAGIC
}

/// 2^x for |x| < 1000, relative error below 1e-10.
#[inline(always)]
pub(super) fn exp2(x: f64) -> f64 {
    const C: [f64; 9] = [
        1.0,
        std::f64::consts::LN_2,
        0.240_226_506_959_100_7,
        0.055_504_108_664_821_58,
        0.009_618_129_107_628_477,
        0.001_333_355_814_642_844_3,
        0.000_154_035_303_933_816_1,
        0.000_015_252_733_804_059_84,
        0.000_001_321_548_679_014_431,
    ];
    let whole = nearest(x);
    let part = x - whole;
    let mut sum = C[8];
    let mut i = 8;
    while i > 0 {
        i -= 1;
        sum = sum.mul_add(part, C[i]);
    }
    // `whole` is small, so the low bits of whole + 1.5·2^52 are the integer itself.
    let bits = (whole + 6_755_399_441_055_744.0).to_bits();
    sum * f64::from_bits(bits.wrapping_add(1023) << 52)
}

/// 2^x as f32, for every x.
#[inline(always)]
pub(super) fn ex2(x: f32) -> f32 {
    let clamped = f64::from(x).clamp(-200.0, 200.0);
    if x.is_nan() {
        canonical(x)
    } else {
        exp2(clamped) as f32
    }
}

/// log₂ x as f32, for every x.
#[inline(always)]
pub(super) fn lg2(x: f32) -> f32 {
    let wide = f64::from(x);
    let bits = wide.to_bits();
    let exponent = ((bits >> 52) as i32 & 0x7ff) - 1023;
    let mantissa = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    let high = mantissa > std::f64::consts::SQRT_2;
    let m = if high { mantissa * 0.5 } else { mantissa };
    let e = f64::from(exponent + i32::from(high));
    // log2 m = 2/ln 2 · artanh((m − 1)/(m + 1))
    let t = (m - 1.0) / (m + 1.0);
    let t2 = t * t;
    let mut sum = 1.0 / 13.0;
    sum = t2.mul_add(sum, 1.0 / 11.0);
    sum = t2.mul_add(sum, 1.0 / 9.0);
    sum = t2.mul_add(sum, 1.0 / 7.0);
    sum = t2.mul_add(sum, 1.0 / 5.0);
    sum = t2.mul_add(sum, 1.0 / 3.0);
    sum = t2.mul_add(sum, 1.0);
    let value = (2.0 * std::f64::consts::LOG2_E * t * sum + e) as f32;
    if x == 0.0 {
        f32::NEG_INFINITY
    } else if x < 0.0 || x.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else if x == f32::INFINITY {
        x
    } else {
        value
    }
}

/// sin(x + quarter·π/2) as f32.
#[inline(always)]
pub(super) fn sine(x: f32, quarter: i64) -> f32 {
    let wide = f64::from(x);
    let turns = nearest(wide * std::f64::consts::FRAC_2_PI);
    // π/2 in two parts: exact for the magnitudes that the approximation is specified for.
    let r = (-turns).mul_add(std::f64::consts::FRAC_PI_2, wide);
    let r = (-turns).mul_add(6.123_233_995_736_766e-17, r);
    let n = (turns + 6_755_399_441_055_744.0).to_bits() as i64 + quarter;
    let r2 = r * r;
    let mut s = -1.0 / 39_916_800.0;
    s = r2.mul_add(s, 1.0 / 362_880.0);
    s = r2.mul_add(s, -1.0 / 5040.0);
    s = r2.mul_add(s, 1.0 / 120.0);
    s = r2.mul_add(s, -1.0 / 6.0);
    s = r2.mul_add(s, 1.0) * r;
    let mut c = -1.0 / 3_628_800.0;
    c = r2.mul_add(c, 1.0 / 40320.0);
    c = r2.mul_add(c, -1.0 / 720.0);
    c = r2.mul_add(c, 1.0 / 24.0);
    c = r2.mul_add(c, -0.5);
    c = r2.mul_add(c, 1.0);
    let value = if n & 1 == 1 { c } else { s };
    let value = if n & 2 == 2 { -value } else { value };
    // A zero keeps its sign; past 2^52 the reduction means nothing, the range must still hold.
    let value = value.clamp(-1.0, 1.0);
    if x.is_nan() || x.is_infinite() {
        f32::from_bits(0x7fff_ffff)
    } else if quarter == 0 && x == 0.0 {
        x
    } else {
        value as f32
    }
}

/// tanh x as f32.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let wide = f64::from(x);
    let clamped = wide.clamp(-40.0, 40.0);
    let e = exp2(clamped * (2.0 * std::f64::consts::LOG2_E));
    let large = 1.0 - 2.0 / (e + 1.0);
    let small = clamped - clamped * clamped * clamped / 3.0;
    let value = if wide.abs() < 0.01 { small } else { large };
    if x.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else {
        value as f32
    }
}

/// # Safety
/// The registers of `inst` are in the frame at `base` and hold f32.
#[inline(always)]
unsafe fn body_f32(op: FloatOp, mode: Mode, base: *mut Slot, inst: &Inst, mask: u32) {
    let flushing = Mode {
        ftz: true,
        ..Mode::PLAIN
    };
    // SAFETY: the caller's promise.
    unsafe {
        if mode.plain() {
            plain_f32::<false>(op, base, inst, mask);
        } else if (Mode {
            approx: false,
            ..mode
        }) == flushing
        {
            plain_f32::<true>(op, base, inst, mask);
        } else {
            general_f32(op, mode, base, inst, mask);
        }
    }
}

/// Rounding to nearest; `FTZ` flushes subnormals.
///
/// # Safety
/// As [`body_f32`].
#[inline(always)]
unsafe fn plain_f32<const FTZ: bool>(op: FloatOp, base: *mut Slot, inst: &Inst, mask: u32) {
    let z = |x: f32| if FTZ { flush(x) } else { x };
    macro_rules! un {
        ($f:expr) => {{
            let f = $f;
            map1::<f32, f32>(base, inst, mask, |a| z(canonical(f(z(a)))))
        }};
    }
    macro_rules! bin {
        ($f:expr) => {{
            let f = $f;
            map2::<f32, f32, f32>(base, inst, mask, |a, b| z(canonical(f(z(a), z(b)))))
        }};
    }
    macro_rules! tri {
        ($f:expr) => {{
            let f = $f;
            map3::<f32, f32, f32, f32>(base, inst, mask, |a, b, c| {
                z(canonical(f(z(a), z(b), z(c))))
            })
        }};
    }
    // SAFETY: the caller's promise.
    unsafe {
        match op {
            FloatOp::Add => bin!(|a: f32, b: f32| a + b),
            FloatOp::Sub => bin!(|a: f32, b: f32| a - b),
            FloatOp::Mul => bin!(|a: f32, b: f32| a * b),
            FloatOp::Fma => tri!(|a: f32, b: f32, c: f32| a.mul_add(b, c)),
            FloatOp::Div => bin!(|a: f32, b: f32| a / b),
            FloatOp::Abs => map1::<f32, f32>(base, inst, mask, |a| z(a).abs()),
            FloatOp::Neg => map1::<f32, f32>(base, inst, mask, |a| -z(a)),
            FloatOp::Min => bin!(min),
            FloatOp::Max => bin!(max),
            FloatOp::Min3 => tri!(|a, b, c| min(min(a, b), c)),
            FloatOp::Max3 => tri!(|a, b, c| max(max(a, b), c)),
            FloatOp::Rcp => un!(|a: f32| 1.0 / a),
            FloatOp::Sqrt => un!(|a: f32| a.sqrt()),
            FloatOp::Rsqrt => un!(|a: f32| (1.0 / f64::from(a).sqrt()) as f32),
            FloatOp::Sin => un!(|a| sine(a, 0)),
            FloatOp::Cos => un!(|a| sine(a, 1)),
            FloatOp::Lg2 => un!(lg2),
            FloatOp::Ex2 => un!(ex2),
            FloatOp::Tanh => un!(tanh),
            FloatOp::Copysign => map2::<f32, f32, f32>(base, inst, mask, |a, b| b.copysign(a)),
        }
    }
}

/// The control word of a rounding mode: all exceptions masked.
fn control(rounding: Rounding) -> u32 {
    0x1f80
        | match rounding {
            Rounding::Nearest | Rounding::NearestAway => 0,
            Rounding::Down => 0x2000,
            Rounding::Up => 0x4000,
            Rounding::Zero => 0x6000,
        }
}

macro_rules! rounded {
    ($name:ident, $ty:ty, $($instruction:literal),*) => {
        /// One arithmetic instruction under a rounding mode: `op(a, b, c)`.
        fn $name(op: FloatOp, rounding: Rounding, a: $ty, b: $ty, c: $ty) -> $ty {
            let set = control(rounding);
            let reset = control(Rounding::Nearest);
            let mut x = a;
            macro_rules! one {
                ($text:literal) => {
                    // SAFETY: the control word is set and set back around one instruction of
                    // registers; the machine runs only where FMA exists.
                    unsafe {
                        asm!(
                            "ldmxcsr [{set}]",
                            $text,
                            "ldmxcsr [{reset}]",
                            set = in(reg) &set,
                            reset = in(reg) &reset,
                            x = inout(xmm_reg) x,
                            y = in(xmm_reg) b,
                            z = in(xmm_reg) c,
                            options(nostack)
                        )
                    }
                };
            }
            rounded!(@arms op, one, $($instruction),*);
            x
        }
    };
    (@arms $op:ident, $one:ident, $add:literal, $sub:literal, $mul:literal, $div:literal, $sqrt:literal, $fma:literal) => {
        match $op {
            FloatOp::Add => $one!($add),
            FloatOp::Sub => $one!($sub),
            FloatOp::Mul => $one!($mul),
            FloatOp::Div => $one!($div),
            FloatOp::Sqrt => $one!($sqrt),
            _ => $one!($fma),
        }
    };
}
rounded!(
    rounded_f32,
    f32,
    "addss {x}, {y} /* {z} */",
    "subss {x}, {y} /* {z} */",
    "mulss {x}, {y} /* {z} */",
    "divss {x}, {y} /* {z} */",
    "sqrtss {x}, {x} /* {y} {z} */",
    "vfmadd213ss {x}, {y}, {z}"
);
rounded!(
    rounded_f64,
    f64,
    "addsd {x}, {y} /* {z} */",
    "subsd {x}, {y} /* {z} */",
    "mulsd {x}, {y} /* {z} */",
    "divsd {x}, {y} /* {z} */",
    "sqrtsd {x}, {x} /* {y} {z} */",
    "vfmadd213sd {x}, {y}, {z}"
);

/// One f32 result under any combination of modifiers.
pub(super) fn scalar_f32(op: FloatOp, mode: Mode, a: f32, b: f32, c: f32) -> f32 {
    let z = |x: f32| if mode.ftz { flush(x) } else { x };
    let (a, b, c) = (z(a), z(b), z(c));
    let nan = a.is_nan() || b.is_nan();
    let value = match op {
        FloatOp::Min | FloatOp::Max | FloatOp::Min3 | FloatOp::Max3 => {
            let three = matches!(op, FloatOp::Min3 | FloatOp::Max3);
            let pick = if matches!(op, FloatOp::Min | FloatOp::Min3) {
                min
            } else {
                max
            };
            let (x, y) = if mode.xorsign {
                (a.abs(), b.abs())
            } else {
                (a, b)
            };
            let mut value = pick(x, y);
            if three {
                value = pick(value, c);
            }
            if mode.nan && (nan || three && c.is_nan()) {
                f32::NAN
            } else if mode.xorsign {
                let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
                f32::from_bits(value.to_bits() | sign)
            } else {
                value
            }
        }
        FloatOp::Abs => a.abs(),
        FloatOp::Neg => -a,
        FloatOp::Rcp => rounded_f32(FloatOp::Div, mode.rounding, 1.0, a, 0.0),
        FloatOp::Rsqrt => (1.0 / f64::from(a).sqrt()) as f32,
        FloatOp::Sin => sine(a, 0),
        FloatOp::Cos => sine(a, 1),
        FloatOp::Lg2 => lg2(a),
        FloatOp::Ex2 => ex2(a),
        FloatOp::Tanh => tanh(a),
        FloatOp::Copysign => b.copysign(a),
        _ => rounded_f32(op, mode.rounding, a, b, c),
    };
    let value = if matches!(op, FloatOp::Abs | FloatOp::Neg | FloatOp::Copysign) {
        value
    } else {
        canonical(value)
    };
    let value = if mode.relu && value <= 0.0 {
        0.0
    } else {
        value
    };
    // Saturation sends NaN to 0.
    let value = if mode.sat {
        if value >= 1.0 {
            1.0
        } else if value > 0.0 {
            value
        } else {
            0.0
        }
    } else {
        value
    };
    z(value)
}

/// # Safety
/// As [`body_f32`].
#[inline(never)]
unsafe fn general_f32(op: FloatOp, mode: Mode, base: *mut Slot, inst: &Inst, mask: u32) {
    let operand = |slot: u32, lane: usize| {
        // SAFETY: the caller's promise; absent operands aren't read.
        if slot == crate::lower::inst::NONE {
            0.0
        } else {
            unsafe { f32::get(base, slot, lane) }
        }
    };
    for lane in 0..32 {
        if mask >> lane & 1 == 1 {
            let value = scalar_f32(
                op,
                mode,
                operand(inst.a, lane),
                operand(inst.b, lane),
                operand(inst.c, lane),
            );
            // SAFETY: the caller's promise.
            unsafe { f32::put(base, inst.dst, lane, value) };
        }
    }
}

/// Keeps the upper half of an f64, as the approximate f64 functions do.
fn upper(value: f64) -> f64 {
    f64::from_bits(value.to_bits() & 0xffff_ffff_0000_0000)
}

/// # Safety
/// The registers of `inst` are in the frame at `base` and hold f64.
#[inline(always)]
unsafe fn body_f64(op: FloatOp, mode: Mode, base: *mut Slot, inst: &Inst, mask: u32) {
    macro_rules! un {
        ($f:expr) => {
            map1::<f64, f64>(base, inst, mask, $f)
        };
    }
    macro_rules! bin {
        ($f:expr) => {
            map2::<f64, f64, f64>(base, inst, mask, $f)
        };
    }
    macro_rules! tri {
        ($f:expr) => {
            map3::<f64, f64, f64, f64>(base, inst, mask, $f)
        };
    }
    let rounding = mode.rounding;
    // SAFETY: the caller's promise.
    unsafe {
        if rounding != Rounding::Nearest
            && matches!(
                op,
                FloatOp::Add
                    | FloatOp::Sub
                    | FloatOp::Mul
                    | FloatOp::Div
                    | FloatOp::Fma
                    | FloatOp::Sqrt
                    | FloatOp::Rcp
            )
        {
            match op {
                FloatOp::Fma => tri!(|a, b, c| rounded_f64(op, rounding, a, b, c)),
                FloatOp::Sqrt => un!(|a| rounded_f64(op, rounding, a, 0.0, 0.0)),
                FloatOp::Rcp => un!(|a| rounded_f64(FloatOp::Div, rounding, 1.0, a, 0.0)),
                _ => bin!(|a, b| rounded_f64(op, rounding, a, b, 0.0)),
            }
            return;
        }
        match op {
            FloatOp::Add => bin!(|a: f64, b: f64| a + b),
            FloatOp::Sub => bin!(|a: f64, b: f64| a - b),
            FloatOp::Mul => bin!(|a: f64, b: f64| a * b),
            FloatOp::Fma => tri!(|a: f64, b: f64, c: f64| a.mul_add(b, c)),
            FloatOp::Div => bin!(|a: f64, b: f64| a / b),
            FloatOp::Abs => un!(f64::abs),
            FloatOp::Neg => un!(|a: f64| -a),
            FloatOp::Min => bin!(min64),
            FloatOp::Max => bin!(max64),
            FloatOp::Min3 => tri!(|a, b, c| min64(min64(a, b), c)),
            FloatOp::Max3 => tri!(|a, b, c| max64(max64(a, b), c)),
            FloatOp::Rcp if mode.approx => un!(|a: f64| upper(1.0 / a)),
            FloatOp::Rcp => un!(|a: f64| 1.0 / a),
            FloatOp::Sqrt => un!(f64::sqrt),
            FloatOp::Rsqrt if mode.ftz => un!(|a: f64| upper(1.0 / a.sqrt())),
            FloatOp::Rsqrt => un!(|a: f64| 1.0 / a.sqrt()),
            FloatOp::Copysign => bin!(|a: f64, b: f64| b.copysign(a)),
            // PTX has no f64 form of these; lowering's types let them through, so be exact.
            FloatOp::Sin => un!(f64::sin),
            FloatOp::Cos => un!(f64::cos),
            FloatOp::Lg2 => un!(f64::log2),
            FloatOp::Ex2 => un!(f64::exp2),
            FloatOp::Tanh => un!(f64::tanh),
        }
    }
}
