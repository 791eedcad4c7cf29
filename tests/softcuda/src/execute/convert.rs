//! `cvt`, packing and unpacking. Frequent conversions run as vector code, all others lane by lane through
//! [`super::soft`].

use super::lanes::{Lane, Slot, leveled, map1, map2};
use super::soft::{self, Number};
use crate::lower::inst::{Inst, NONE};
use crate::lower::types::{Mode, Rounding, Type, Width};

leveled!(
    /// Runs a conversion on the active lanes.
    run = body(
        to: Type,
        from: Type,
        to_width: Width,
        mode: Mode,
        base: *mut Slot,
        inst: &Inst,
        mask: u32
    )
);

/// Reads a lane of a register as bits of type `ty`.
#[inline(always)]
unsafe fn read(base: *const Slot, slot: u32, lane: usize, ty: Type) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match ty.bytes() {
            8 => u64::get(base, slot, lane),
            1 => u64::from(u8::get(base, slot, lane)),
            2 => u64::from(u16::get(base, slot, lane)),
            _ => u64::from(u32::get(base, slot, lane)),
        }
    }
}

fn integer_value(bits: u64, ty: Type) -> i128 {
    match ty {
        Type::S8 => i128::from(bits as i8),
        Type::S16 => i128::from(bits as i16),
        Type::S32 => i128::from(bits as i32),
        Type::S64 => i128::from(bits as i64),
        _ => i128::from(bits),
    }
}

fn integer_range(ty: Type) -> (i128, i128) {
    let bits = ty.bytes() * 8;
    if ty.signed() {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

/// The low `bytes` of a value, extended to 64 bits as the type says.
fn extend(value: u64, ty: Type) -> u64 {
    integer_value(
        match ty.bytes() {
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        },
        ty,
    ) as u64
}

/// One conversion, any types.
pub(super) fn scalar(bits: u64, from: Type, to: Type, mode: Mode) -> u64 {
    match (from.integer(), to.integer()) {
        (true, true) => {
            let mut value = integer_value(bits, from);
            if mode.sat {
                let (low, high) = integer_range(to);
                value = value.clamp(low, high);
            }
            extend(value as u64, to)
        }
        (true, false) => {
            let number = soft::of_integer(integer_value(bits, from));
            finish_float(soft::pack(number, to, mode.rounding, false), to, mode)
        }
        (false, true) => {
            let number = flush(soft::unpack(bits, from), from, mode.ftz);
            let (low, high) = integer_range(to);
            match soft::to_integer(number, mode.rounding) {
                Some(value) => extend(value.clamp(low, high) as u64, to),
                // NaN is 0 unless one side has 64 bits.
                None if from != Type::F64 && to.bytes() < 8 => 0,
                None => extend(1 << (to.bytes() * 8 - 1), to),
            }
        }
        (false, false) => {
            let mut number = flush(soft::unpack(bits, from), from, mode.ftz);
            if mode.relu
                && matches!(
                    number,
                    Number::Finite { negative: true, .. } | Number::Infinite { negative: true }
                )
            {
                number = soft::of_integer(0);
            }
            if mode.integral {
                number = soft::integral(number, mode.rounding);
            }
            let rounding = if mode.integral {
                Rounding::Nearest
            } else {
                mode.rounding
            };
            finish_float(soft::pack(number, to, rounding, mode.satfinite), to, mode)
        }
    }
}

fn flush(number: Number, ty: Type, ftz: bool) -> Number {
    if let (
        Number::Finite {
            negative,
            significand,
            ..
        },
        Type::F32,
        true,
    ) = (number, ty, ftz)
        && significand < 1 << 23
    {
        return Number::Finite {
            negative,
            significand: 0,
            exponent: 0,
        };
    }
    number
}

/// Saturation to [0, 1] and flushing of a float result.
fn finish_float(bits: u64, ty: Type, mode: Mode) -> u64 {
    let mut bits = bits;
    if mode.ftz && ty == Type::F32 && bits & 0x7f80_0000 == 0 {
        bits &= 0x8000_0000;
    }
    if mode.sat {
        let one = soft::pack(soft::of_integer(1), ty, Rounding::Nearest, false);
        bits = match soft::unpack(bits, ty) {
            Number::NaN | Number::Infinite { negative: true } => 0,
            Number::Infinite { negative: false } => one,
            Number::Finite { negative: true, .. } => 0,
            Number::Finite { .. } => bits.min(one),
        };
    }
    bits
}

/// # Safety
/// The registers of `inst` are in the frame at `base`, as wide as the types and `to_width` say.
#[inline(always)]
unsafe fn body(
    to: Type,
    from: Type,
    to_width: Width,
    mode: Mode,
    base: *mut Slot,
    inst: &Inst,
    mask: u32,
) {
    let wide = to_width == Width::Double;
    // SAFETY: the caller's promise.
    unsafe {
        if mode.plain() && !wide {
            match (to, from) {
                (Type::U32 | Type::S32, Type::U64 | Type::S64) => {
                    return map1::<u64, u32>(base, inst, mask, |a| a as u32);
                }
                (Type::U32 | Type::S32, Type::U16) => {
                    return map1::<u16, u32>(base, inst, mask, u32::from);
                }
                (Type::U32 | Type::S32, Type::S16) => {
                    return map1::<i16, i32>(base, inst, mask, i32::from);
                }
                (Type::U16 | Type::S16, Type::U32 | Type::S32) => {
                    return map1::<u32, u32>(base, inst, mask, |a| a & 0xffff);
                }
                (Type::F32, Type::S32) => {
                    return map1::<i32, f32>(base, inst, mask, |a| a as f32);
                }
                (Type::F32, Type::U32) => {
                    return map1::<u32, f32>(base, inst, mask, |a| a as f32);
                }
                (Type::F32, Type::F64) => {
                    return map1::<f64, f32>(base, inst, mask, |a| {
                        super::float::canonical(a as f32)
                    });
                }
                (Type::F32, Type::F16) => {
                    return map1::<u16, f32>(base, inst, mask, |a| {
                        super::float::canonical(soft::f16_to_f32(a))
                    });
                }
                (Type::F32, Type::BF16) => {
                    return map1::<u16, f32>(base, inst, mask, |a| {
                        super::float::canonical(soft::bf16_to_f32(a))
                    });
                }
                (Type::F16, Type::F32) => {
                    return map1::<f32, u16>(base, inst, mask, soft::f32_to_f16);
                }
                (Type::BF16, Type::F32) => {
                    return map1::<f32, u16>(base, inst, mask, soft::f32_to_bf16);
                }
                (Type::F16x2, Type::F32) => {
                    return map2::<f32, f32, u32>(base, inst, mask, |a, b| {
                        u32::from(soft::f32_to_f16(a)) << 16 | u32::from(soft::f32_to_f16(b))
                    });
                }
                (Type::BF16x2, Type::F32) => {
                    return map2::<f32, f32, u32>(base, inst, mask, |a, b| {
                        u32::from(soft::f32_to_bf16(a)) << 16 | u32::from(soft::f32_to_bf16(b))
                    });
                }
                _ => {}
            }
        }
        if mode.plain() && wide {
            match (to, from) {
                (_, Type::U32) if to.integer() => {
                    return map1::<u32, u64>(base, inst, mask, u64::from);
                }
                (Type::U64 | Type::S64, Type::S32) => {
                    return map1::<i32, i64>(base, inst, mask, i64::from);
                }
                (Type::F64, Type::F32) => {
                    return map1::<f32, f64>(base, inst, mask, f64::from);
                }
                (Type::F64, Type::S32) => {
                    return map1::<i32, f64>(base, inst, mask, f64::from);
                }
                _ => {}
            }
        }
        if (Mode { ftz: false, ..mode })
            == (Mode {
                rounding: Rounding::Zero,
                integral: true,
                ..Mode::PLAIN
            })
            && (to, from, wide) == (Type::S32, Type::F32, false)
        {
            // `as` truncates, saturates and sends NaN to 0, as PTX does.
            return map1::<f32, i32>(base, inst, mask, |a| a as i32);
        }
        general(to, from, to_width, mode, base, inst, mask);
    }
}

/// # Safety
/// As [`body`].
#[inline(never)]
unsafe fn general(
    to: Type,
    from: Type,
    to_width: Width,
    mode: Mode,
    base: *mut Slot,
    inst: &Inst,
    mask: u32,
) {
    let element = |ty: Type| match ty {
        Type::F16x2 => Type::F16,
        Type::BF16x2 => Type::BF16,
        Type::E4M3x2 => Type::E4M3,
        Type::E5M2x2 => Type::E5M2,
        other => other,
    };
    let packed = element(to) != to;
    let (to_one, from_one) = (element(to), element(from));
    for lane in 0..32 {
        if mask >> lane & 1 == 0 {
            continue;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let a = read(base, inst.a, lane, from);
            let value = if packed {
                let bits = to_one.bytes() * 8;
                // Either two sources, or one with two elements of which the upper stays the upper.
                let (high, low) = if inst.b != NONE {
                    (a, read(base, inst.b, lane, from))
                } else {
                    let half = from_one.bytes() * 8;
                    (a >> half, a & ((1 << half) - 1))
                };
                scalar(high, from_one, to_one, mode) << bits | scalar(low, from_one, to_one, mode)
            } else {
                scalar(a, from_one, to_one, mode)
            };
            if to_width == Width::Double {
                u64::put(base, inst.dst, lane, value);
            } else {
                u32::put(base, inst.dst, lane, value as u32);
            }
        }
    }
}

/// `dst ← pack(list)`.
///
/// # Safety
/// The registers are in the frame at `base`.
pub(crate) unsafe fn pack(bits: u8, to: Width, list: &[u32], base: *mut Slot, dst: u32, mask: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        if (bits, to, mask) == (32, Width::Double, u32::MAX) {
            let (mut low, mut high) = ([0u32; 32], [0u32; 32]);
            for lane in 0..32 {
                low[lane] = u32::get(base, list[0], lane);
                high[lane] = u32::get(base, list[1], lane);
            }
            for lane in 0..32 {
                u64::put(
                    base,
                    dst,
                    lane,
                    u64::from(high[lane]) << 32 | u64::from(low[lane]),
                );
            }
            return;
        }
        for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
            let mut value = 0u128;
            for (i, &slot) in list.iter().enumerate() {
                let part = if bits == 64 {
                    u128::from(u64::get(base, slot, lane))
                } else {
                    u128::from(u32::get(base, slot, lane)) & ((1 << bits) - 1)
                };
                value |= part << (usize::from(bits) * i);
            }
            match to {
                Width::Double => u64::put(base, dst, lane, value as u64),
                Width::Quad => put128(base, dst, lane, value),
                _ => u32::put(base, dst, lane, value as u32),
            }
        }
    }
}

/// `list ← parts of src`.
///
/// # Safety
/// The registers are in the frame at `base`.
pub(crate) unsafe fn unpack(
    bits: u8,
    from: Width,
    list: &[u32],
    base: *mut Slot,
    src: u32,
    mask: u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
            let value = match from {
                Width::Double => u128::from(u64::get(base, src, lane)),
                Width::Quad => get128(base, src, lane),
                _ => u128::from(u32::get(base, src, lane)),
            };
            for (i, &slot) in list.iter().enumerate() {
                let part = value >> (usize::from(bits) * i);
                match bits {
                    64 => u64::put(base, slot, lane, part as u64),
                    32 => u32::put(base, slot, lane, part as u32),
                    _ => u32::put(base, slot, lane, part as u32 & ((1 << bits) - 1)),
                }
            }
        }
    }
}

/// Reads a lane of a 128-bit register: two 64-bit halves in consecutive registers.
///
/// # Safety
/// As [`pack`].
pub(crate) unsafe fn get128(base: *const Slot, slot: u32, lane: usize) -> u128 {
    // SAFETY: the caller's promise.
    unsafe {
        u128::from(u64::get(base, slot, lane)) | u128::from(u64::get(base, slot + 2, lane)) << 64
    }
}

/// Writes a lane of a 128-bit register.
///
/// # Safety
/// As [`pack`].
pub(crate) unsafe fn put128(base: *mut Slot, slot: u32, lane: usize, value: u128) {
    // SAFETY: the caller's promise.
    unsafe {
        u64::put(base, slot, lane, value as u64);
        u64::put(base, slot + 2, lane, (value >> 64) as u64);
    }
}
