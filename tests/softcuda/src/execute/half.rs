//! f16 and bf16 operations, scalar and packed by two, and mixed-precision operations.
//!
//! A product or sum of two f16 values is exact enough in f32 for one more rounding to be the right one
//! (24 ≥ 2·11 + 2 bits). A fused product and sum is taken in f64 and rounded to odd before it is
//! narrowed, which makes the second rounding harmless.

use super::float;
use super::lanes::{Lane, Slot, leveled};
use super::soft;
use crate::lower::inst::{FloatOp, Inst, NONE};
use crate::lower::types::{Mode, Rounding, Type};

leveled!(
    /// Runs an f16, f16x2, bf16 or bf16x2 operation on the active lanes.
    run = body(op: FloatOp, ty: Type, mode: Mode, base: *mut Slot, inst: &Inst, mask: u32)
);

/// a·b + c in f64, rounded to odd.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f64 {
    let product = f64::from(a) * f64::from(b);
    let c = f64::from(c);
    let sum = product + c;
    // Knuth's two-sum: what the addition lost.
    let t = sum - product;
    let lost = (product - (sum - t)) + (c - t);
    let bits = sum.to_bits();
    let inexact = lost != 0.0 && sum.is_finite() && bits & 1 == 0;
    // Towards what was lost: away from zero where it has the sum's sign, else towards it.
    let away = (lost > 0.0) == (sum > 0.0);
    let odd = if away { bits + 1 } else { bits.wrapping_sub(1) };
    f64::from_bits(if inexact { odd } else { bits })
}

/// f64, already rounded to odd, to f16 or bf16 bits.
#[inline(always)]
fn narrow(value: f64, bf16: bool) -> u16 {
    // Rounding to odd again at f32's precision keeps the information that the last rounding needs.
    let near = value as f32;
    let back = f64::from(near);
    let bits = near.to_bits();
    let inexact = back != value && near.is_finite() && bits & 1 == 0;
    let away = (value > back) == (value > 0.0);
    let odd = if away {
        bits.wrapping_add(1)
    } else {
        bits.wrapping_sub(1)
    };
    let value = f32::from_bits(if inexact { odd } else { bits });
    // An f32 that overflowed to infinity is past the largest narrow value as well.
    if bf16 {
        soft::f32_to_bf16(value)
    } else {
        soft::f32_to_f16(value)
    }
}

#[inline(always)]
fn widen(bits: u16, bf16: bool) -> f32 {
    if bf16 {
        soft::bf16_to_f32(bits)
    } else {
        soft::f16_to_f32(bits)
    }
}

#[inline(always)]
fn narrow_f32(value: f32, bf16: bool) -> u16 {
    if bf16 {
        soft::f32_to_bf16(value)
    } else {
        soft::f32_to_f16(value)
    }
}

/// Subnormal f16 become zero; bf16 flushes as f32 does.
#[inline(always)]
fn flush(bits: u16, bf16: bool) -> u16 {
    let exponent = if bf16 { 0x7f80 } else { 0x7c00 };
    if bits & exponent == 0 {
        bits & 0x8000
    } else {
        bits
    }
}

/// One operation on 16-bit operands.
#[inline(always)]
fn scalar(op: FloatOp, bf16: bool, mode: Mode, a: u16, b: u16, c: u16) -> u16 {
    let z = |bits: u16| if mode.ftz { flush(bits, bf16) } else { bits };
    let (a, b, c) = (z(a), z(b), z(c));
    match op {
        FloatOp::Abs => return a & 0x7fff,
        FloatOp::Neg => return a ^ 0x8000,
        FloatOp::Copysign => return b & 0x7fff | a & 0x8000,
        _ => {}
    }
    let (x, y, w) = (widen(a, bf16), widen(b, bf16), widen(c, bf16));
    let plain = Mode {
        ftz: false,
        sat: false,
        relu: false,
        rounding: Rounding::Nearest,
        ..mode
    };
    let value = match op {
        FloatOp::Add => narrow_f32(x + y, bf16),
        FloatOp::Sub => narrow_f32(x - y, bf16),
        FloatOp::Mul => narrow_f32(x * y, bf16),
        FloatOp::Fma => narrow(fused(x, y, w), bf16),
        FloatOp::Min if !mode.nan && !mode.xorsign => narrow_f32(float::min(x, y), bf16),
        FloatOp::Max if !mode.nan && !mode.xorsign => narrow_f32(float::max(x, y), bf16),
        FloatOp::Tanh => narrow_f32(float::tanh(x), bf16),
        FloatOp::Ex2 => narrow_f32(float::ex2(x), bf16),
        _ => narrow_f32(float::scalar_f32(op, plain, x, y, w), bf16),
    };
    let magnitude = value & 0x7fff;
    let nan = magnitude > if bf16 { 0x7f80 } else { 0x7c00 };
    let negative = value & 0x8000 != 0;
    let value = if mode.relu && !nan && negative {
        0
    } else {
        value
    };
    let one = if bf16 { 0x3f80 } else { 0x3c00 };
    let value = if mode.sat {
        if nan || negative { 0 } else { value.min(one) }
    } else {
        value
    };
    z(value)
}

/// # Safety
/// The registers of `inst` are in the frame at `base`.
#[inline(always)]
unsafe fn body(op: FloatOp, ty: Type, mode: Mode, base: *mut Slot, inst: &Inst, mask: u32) {
    let packed = matches!(ty, Type::F16x2 | Type::BF16x2);
    let bf16 = matches!(ty, Type::BF16 | Type::BF16x2);
    macro_rules! lanes {
        ($op:expr, $bf16:expr, $mode:expr) => {{
            let mut out = [0u32; 32];
            for (lane, out) in out.iter_mut().enumerate() {
                let get = |slot: u32| {
                    if slot == NONE {
                        0
                    } else {
                        u32::get(base, slot, lane)
                    }
                };
                let (a, b, c) = (get(inst.a), get(inst.b), get(inst.c));
                let low = scalar($op, $bf16, $mode, a as u16, b as u16, c as u16);
                let high = if packed {
                    let (a, b, c) = (a >> 16, b >> 16, c >> 16);
                    u32::from(scalar($op, $bf16, $mode, a as u16, b as u16, c as u16))
                } else {
                    0
                };
                *out = u32::from(low) | high << 16;
            }
            super::lanes::write(base, inst.dst, &out, mask);
        }};
    }
    // The common operations get loops of their own, with everything but the lanes constant.
    // SAFETY: the caller's promise.
    unsafe {
        match (op, mode.plain(), bf16) {
            (FloatOp::Add, true, false) => lanes!(FloatOp::Add, false, Mode::PLAIN),
            (FloatOp::Mul, true, false) => lanes!(FloatOp::Mul, false, Mode::PLAIN),
            (FloatOp::Fma, true, false) => lanes!(FloatOp::Fma, false, Mode::PLAIN),
            (FloatOp::Add, true, true) => lanes!(FloatOp::Add, true, Mode::PLAIN),
            (FloatOp::Mul, true, true) => lanes!(FloatOp::Mul, true, Mode::PLAIN),
            (FloatOp::Fma, true, true) => lanes!(FloatOp::Fma, true, Mode::PLAIN),
            _ => lanes!(op, bf16, mode),
        }
    }
}

/// `add`, `sub`, `fma` with f16 or bf16 sources and an f32 result.
///
/// # Safety
/// The registers of `inst` are in the frame at `base`.
pub(crate) unsafe fn mixed(
    op: FloatOp,
    ty: Type,
    mode: Mode,
    base: *mut Slot,
    inst: &Inst,
    mask: u32,
) {
    let bf16 = ty == Type::BF16;
    for lane in 0..32 {
        if mask >> lane & 1 == 0 {
            continue;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let a = widen(u16::get(base, inst.a, lane), bf16);
            let value = if op == FloatOp::Fma {
                let b = widen(u16::get(base, inst.b, lane), bf16);
                float::scalar_f32(op, mode, a, b, f32::get(base, inst.c, lane))
            } else {
                float::scalar_f32(op, mode, a, f32::get(base, inst.b, lane), 0.0)
            };
            f32::put(base, inst.dst, lane, value);
        }
    }
}
