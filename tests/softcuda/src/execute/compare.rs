//! Comparisons: `setp`, `set`, `testp`, `selp`, and boolean operations on predicates.

use super::lanes::{Lane, Slot, leveled, test2, write};
use super::soft;
use crate::lower::inst::{BoolOp, Compare, FloatClass, Inst};
use crate::lower::types::{Type, Width};

leveled!(
    /// The lanes where `a cmp b` holds.
    compare = compare_body(compare: Compare, ty: Type, ftz: bool, base: *mut Slot, inst: &Inst) -> u32
);
leveled!(
    /// `dst ← taken ? a : b` in the active lanes.
    select = select_body(width: Width, taken: u32, base: *mut Slot, inst: &Inst, mask: u32)
);

/// # Safety
/// The registers of `inst` are in the frame at `base` and as wide as `ty`.
#[inline(always)]
unsafe fn compare_body(compare: Compare, ty: Type, ftz: bool, base: *mut Slot, inst: &Inst) -> u32 {
    macro_rules! ordered {
        ($t:ty) => {
            match compare {
                Compare::Eq => test2::<$t, $t>(base, inst, |a, b| a == b),
                Compare::Ne => test2::<$t, $t>(base, inst, |a, b| a != b),
                Compare::Lt => test2::<$t, $t>(base, inst, |a, b| a < b),
                Compare::Le => test2::<$t, $t>(base, inst, |a, b| a <= b),
                Compare::Gt => test2::<$t, $t>(base, inst, |a, b| a > b),
                _ => test2::<$t, $t>(base, inst, |a, b| a >= b),
            }
        };
    }
    macro_rules! float {
        ($t:ty, $z:expr) => {{
            let z = $z;
            match compare {
                Compare::Eq => test2::<$t, $t>(base, inst, |a, b| z(a) == z(b)),
                // Ordered: false where an operand is NaN.
                Compare::Ne => test2::<$t, $t>(base, inst, |a, b| z(a) < z(b) || z(a) > z(b)),
                Compare::Lt => test2::<$t, $t>(base, inst, |a, b| z(a) < z(b)),
                Compare::Le => test2::<$t, $t>(base, inst, |a, b| z(a) <= z(b)),
                Compare::Gt => test2::<$t, $t>(base, inst, |a, b| z(a) > z(b)),
                Compare::Ge => test2::<$t, $t>(base, inst, |a, b| z(a) >= z(b)),
                Compare::Equ => test2::<$t, $t>(base, inst, |a, b| !(z(a) < z(b) || z(a) > z(b))),
                Compare::Neu => test2::<$t, $t>(base, inst, |a, b| z(a) != z(b)),
                Compare::Ltu => test2::<$t, $t>(base, inst, |a, b| !(z(a) >= z(b))),
                Compare::Leu => test2::<$t, $t>(base, inst, |a, b| !(z(a) > z(b))),
                Compare::Gtu => test2::<$t, $t>(base, inst, |a, b| !(z(a) <= z(b))),
                Compare::Geu => test2::<$t, $t>(base, inst, |a, b| !(z(a) < z(b))),
                Compare::Num => test2::<$t, $t>(base, inst, |a, b| a == a && b == b),
                Compare::Nan => test2::<$t, $t>(base, inst, |a, b| a != a || b != b),
            }
        }};
    }
    // SAFETY: the caller's promise.
    unsafe {
        match ty {
            Type::F32 if ftz => float!(f32, super::float::flush),
            Type::F32 => float!(f32, |x: f32| x),
            Type::F64 => float!(f64, |x: f64| x),
            Type::F16 | Type::BF16 => half(compare, ty, ftz, base, inst, 0),
            Type::S32 => ordered!(i32),
            Type::S64 => ordered!(i64),
            Type::S16 | Type::S8 => ordered!(i16),
            Type::U64 => ordered!(u64),
            Type::U16 | Type::U8 => ordered!(u16),
            _ => ordered!(u32),
        }
    }
}

fn holds(compare: Compare, a: f32, b: f32) -> bool {
    match compare {
        Compare::Eq => a == b,
        Compare::Ne => a < b || a > b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
        Compare::Equ => !(a < b || a > b),
        Compare::Neu => a != b,
        Compare::Ltu => !(a >= b),
        Compare::Leu => !(a > b),
        Compare::Gtu => !(a <= b),
        Compare::Geu => !(a < b),
        Compare::Num => !a.is_nan() && !b.is_nan(),
        Compare::Nan => a.is_nan() || b.is_nan(),
    }
}

/// The lanes where the 16-bit halves at `shift` compare.
///
/// # Safety
/// As [`compare_body`].
pub(crate) unsafe fn half(
    compare: Compare,
    ty: Type,
    ftz: bool,
    base: *const Slot,
    inst: &Inst,
    shift: u32,
) -> u32 {
    let widen = |bits: u16| {
        let value = match ty {
            Type::BF16 | Type::BF16x2 => soft::bf16_to_f32(bits),
            _ => soft::f16_to_f32(bits),
        };
        let subnormal = value.abs() < 6.103_515_6e-5 && !matches!(ty, Type::BF16 | Type::BF16x2);
        if ftz && subnormal { 0.0 } else { value }
    };
    let mut mask = 0;
    for lane in 0..32 {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe {
            (
                widen((u32::get(base, inst.a, lane) >> shift) as u16),
                widen((u32::get(base, inst.b, lane) >> shift) as u16),
            )
        };
        mask |= u32::from(holds(compare, a, b)) << lane;
    }
    mask
}

/// Lane masks combined.
#[inline(always)]
pub(crate) fn combine(op: BoolOp, a: u32, b: u32) -> u32 {
    match op {
        BoolOp::And => a & b,
        BoolOp::Or => a | b,
        BoolOp::Xor => a ^ b,
    }
}

/// # Safety
/// The registers of `inst` are in the frame at `base` and of that width.
#[inline(always)]
unsafe fn select_body(width: Width, taken: u32, base: *mut Slot, inst: &Inst, mask: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        if width == Width::Double {
            let mut out = [0u64; 32];
            for (lane, out) in out.iter_mut().enumerate() {
                let (a, b) = (u64::get(base, inst.a, lane), u64::get(base, inst.b, lane));
                *out = if taken >> lane & 1 == 1 { a } else { b };
            }
            write(base, inst.dst, &out, mask);
        } else {
            let mut out = [0u32; 32];
            for (lane, out) in out.iter_mut().enumerate() {
                let (a, b) = (u32::get(base, inst.a, lane), u32::get(base, inst.b, lane));
                *out = if taken >> lane & 1 == 1 { a } else { b };
            }
            write(base, inst.dst, &out, mask);
        }
    }
}

/// `dst ← holds ? true value of type `to` : 0` in the active lanes.
///
/// # Safety
/// `dst` is a register of the frame at `base`.
pub(crate) unsafe fn set(to: Type, low: u32, high: u32, base: *mut Slot, dst: u32, mask: u32) {
    let yes = match to {
        Type::F32 => 0x3f80_0000,
        Type::F16 | Type::F16x2 => 0x3c00,
        Type::BF16 | Type::BF16x2 => 0x3f80,
        Type::U16 | Type::S16 | Type::B16 => 0xffff,
        _ => u32::MAX,
    };
    for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
        let one = |holds: u32| if holds >> lane & 1 == 1 { yes } else { 0 };
        let value = match to {
            Type::F16x2 | Type::BF16x2 => one(low) | one(high) << 16,
            _ => one(low),
        };
        // SAFETY: the caller's promise.
        unsafe { u32::put(base, dst, lane, value) };
    }
}

/// The lanes whose float is of a class.
///
/// # Safety
/// `a` is a register of the frame at `base` and holds values of type `ty`.
pub(crate) unsafe fn testp(class: FloatClass, ty: Type, base: *const Slot, a: u32) -> u32 {
    let mut mask = 0;
    for lane in 0..32 {
        // SAFETY: the caller's promise.
        let kind = unsafe {
            if ty == Type::F64 {
                f64::get(base, a, lane).classify()
            } else {
                f32::get(base, a, lane).classify()
            }
        };
        use std::num::FpCategory as C;
        let holds = match class {
            FloatClass::Finite => !matches!(kind, C::Nan | C::Infinite),
            FloatClass::Infinite => kind == C::Infinite,
            FloatClass::Number => kind != C::Nan,
            FloatClass::NotANumber => kind == C::Nan,
            FloatClass::Normal => kind == C::Normal,
            FloatClass::Subnormal => kind == C::Subnormal,
        };
        mask |= u32::from(holds) << lane;
    }
    mask
}
