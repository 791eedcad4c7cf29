//! Integer operations, elementwise.

use super::lanes::{Slot, leveled, map1, map2, map3};
use crate::lower::inst::{CarryOp, Inst, IntOp};
use crate::lower::types::Type;

leveled!(
    /// Runs an integer operation on the active lanes.
    run = body(op: IntOp, ty: Type, base: *mut Slot, inst: &Inst, mask: u32)
);

/// An integer type that the sign-agnostic operations are written over.
trait Bits: super::lanes::Lane {
    fn to64(self) -> u64;
    fn of64(value: u64) -> Self;
}
macro_rules! bits {
    ($($ty:ty;)*) => {$(
        impl Bits for $ty {
            #[inline(always)]
            fn to64(self) -> u64 { self as u64 }
            #[inline(always)]
            fn of64(value: u64) -> $ty { value as $ty }
        }
    )*};
}
bits! { u16; u32; u64; }

#[inline(always)]
fn bfe(value: u64, bits: u32, pos: u32, len: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let field = if pos >= bits { 0 } else { value >> pos };
    let top = (pos + len.max(1) - 1).min(bits - 1);
    let sign = signed && len != 0 && value >> top & 1 == 1;
    // Bits of the field that lie inside the value; the rest is the sign.
    let inside = len.min(bits.saturating_sub(pos));
    let keep = if inside >= 64 {
        u64::MAX
    } else {
        (1u64 << inside) - 1
    };
    if sign {
        field & keep | !keep
    } else {
        field & keep
    }
}

#[inline(always)]
fn bfi(a: u64, b: u64, bits: u32, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= bits || len == 0 {
        return b;
    }
    let len = len.min(bits - pos);
    let keep = if len >= 64 {
        u64::MAX
    } else {
        (1u64 << len) - 1
    };
    b & !(keep << pos) | (a & keep) << pos
}

#[inline(always)]
fn fns(mask: u32, start: u32, offset: i32) -> u32 {
    if start > 31 {
        return u32::MAX;
    }
    if offset == 0 {
        return if mask >> start & 1 == 1 {
            start
        } else {
            u32::MAX
        };
    }
    let step = offset.signum();
    let mut left = offset.unsigned_abs();
    let mut at = start as i32;
    while (0..32).contains(&at) {
        if mask >> at & 1 == 1 {
            left -= 1;
            if left == 0 {
                return at as u32;
            }
        }
        at += step;
    }
    u32::MAX
}

#[inline(always)]
fn szext(value: u32, bits: u32, signed: bool, clamp: bool) -> u32 {
    if clamp && bits >= 32 {
        return value;
    }
    let bits = bits & 31;
    let above = u32::MAX << bits;
    let sign = signed && bits > 0 && value >> ((bits + 31) & 31) & 1 == 1;
    if sign { value | above } else { value & !above }
}

#[inline(always)]
fn bmsk(start: u32, width: u32, clamp: bool) -> u32 {
    let low = if clamp && start >= 32 {
        0
    } else {
        u32::MAX << (start & 31)
    };
    let sum = (start & 31) + (width & 31);
    let overflow = sum >= 32 || clamp && (start >= 32 || width >= 32);
    let high = if overflow { 0 } else { u32::MAX << sum };
    low & !high
}

#[inline(always)]
fn byte(value: u32, index: u32, signed: bool) -> i64 {
    let byte = (value >> (index * 8)) as u8;
    if signed {
        i64::from(byte as i8)
    } else {
        i64::from(byte)
    }
}

#[inline(always)]
fn half(value: u32, index: u32, signed: bool) -> i64 {
    let half = (value >> (index * 16)) as u16;
    if signed {
        i64::from(half as i16)
    } else {
        i64::from(half)
    }
}

#[inline(always)]
fn permute(a: u32, b: u32, c: u32, mode: i64) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let pick = |index: u32| (bytes >> ((index & 7) * 8)) as u8 as u32;
    let low = c & 3;
    let select: [u32; 4] = match mode {
        1 => std::array::from_fn(|i| low + i as u32),
        2 => std::array::from_fn(|i| low.wrapping_sub(i as u32) & 7),
        3 => [low; 4],
        4 => std::array::from_fn(|i| low.max(i as u32)),
        5 => std::array::from_fn(|i| low.min(i as u32)),
        6 => std::array::from_fn(|i| (low & 1) * 2 + (i as u32 & 1)),
        _ => {
            let mut result = 0;
            for i in 0..4 {
                let nibble = c >> (i * 4) & 15;
                let mut byte = pick(nibble);
                if nibble & 8 != 0 {
                    byte = if byte & 0x80 != 0 { 0xff } else { 0 };
                }
                result |= byte << (i * 8);
            }
            return result;
        }
    };
    (0..4).fold(0, |result, i| result | pick(select[i]) << (i * 8))
}

/// `vadd4` and its kin; `code` is what lowering made of the opcode.
#[inline(always)]
fn video(a: u32, b: u32, c: u32, code: i64) -> u32 {
    let (parts, bits) = if code >> 3 & 1 == 1 { (4, 8) } else { (2, 16) };
    let flag = |bit: i64| code >> bit & 1 == 1;
    let (to_signed, sat, add) = (flag(4), flag(7), flag(8));
    let part = |value: u32, index: u32, signed: bool| -> i32 {
        let raw = value >> (index * bits) << (32 - bits);
        if signed {
            raw as i32 >> (32 - bits)
        } else {
            (raw >> (32 - bits)) as i32
        }
    };
    let mut result = if add { c } else { 0 };
    for index in 0..parts {
        let (x, y) = (part(a, index, flag(5)), part(b, index, flag(6)));
        let mut value = match code & 7 {
            0 => x + y,
            1 => x - y,
            // Rounds half away from zero.
            2 => (x + y + i32::from(x + y >= 0)) >> 1,
            3 => x.min(y),
            4 => x.max(y),
            _ => (x - y).abs(),
        };
        if sat {
            let (low, high) = if to_signed {
                (-1 << (bits - 1), (1 << (bits - 1)) - 1)
            } else {
                (0, (1 << bits) - 1)
            };
            value = value.clamp(low, high);
        }
        if add {
            result = result.wrapping_add(value as u32);
        } else {
            result |= (value as u32 & ((1 << bits) - 1)) << (index * bits);
        }
    }
    result
}

/// Applies `f` to both 16-bit halves.
#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

/// # Safety
/// The registers of `inst` are in the frame at `base` and as wide as `ty` says.
#[inline(always)]
unsafe fn body(op: IntOp, ty: Type, base: *mut Slot, inst: &Inst, mask: u32) {
    // Over the unsigned types.
    macro_rules! bits {
        ($t:ident => $e:expr) => {
            match ty.unsigned() {
                Type::U16 | Type::U8 => {
                    type $t = u16;
                    $e
                }
                Type::U64 => {
                    type $t = u64;
                    $e
                }
                _ => {
                    type $t = u32;
                    $e
                }
            }
        };
    }
    // Over signed and unsigned types.
    macro_rules! ints {
        ($t:ident => $e:expr) => {
            match ty {
                Type::S16 | Type::S8 => {
                    type $t = i16;
                    $e
                }
                Type::S32 => {
                    type $t = i32;
                    $e
                }
                Type::S64 => {
                    type $t = i64;
                    $e
                }
                Type::U16 | Type::B16 | Type::U8 | Type::B8 => {
                    type $t = u16;
                    $e
                }
                Type::U64 | Type::B64 => {
                    type $t = u64;
                    $e
                }
                _ => {
                    type $t = u32;
                    $e
                }
            }
        };
    }
    // Over 32 and 64 bits, unsigned.
    macro_rules! wide {
        ($t:ident => $e:expr) => {
            match ty.unsigned() {
                Type::U64 => {
                    type $t = u64;
                    $e
                }
                _ => {
                    type $t = u32;
                    $e
                }
            }
        };
    }
    macro_rules! un {
        ($a:ty, $d:ty, $f:expr) => {
            map1::<$a, $d>(base, inst, mask, $f)
        };
    }
    macro_rules! bin {
        ($t:ty, $f:expr) => {
            map2::<$t, $t, $t>(base, inst, mask, $f)
        };
    }
    macro_rules! tri {
        ($t:ty, $f:expr) => {
            map3::<$t, $t, $t, $t>(base, inst, mask, $f)
        };
    }
    let signed = ty.signed();
    let imm = inst.imm;
    // SAFETY: the caller's promise; lowering chose slots by these types.
    unsafe {
        match op {
            IntOp::Add if matches!(ty, Type::U16x2 | Type::S16x2) => {
                bin!(u32, |a, b| halves(a, b, u16::wrapping_add));
            }
            IntOp::Add => bits!(T => bin!(T, |a: T, b: T| a.wrapping_add(b))),
            IntOp::AddSat => ints!(T => bin!(T, |a: T, b: T| a.saturating_add(b))),
            IntOp::Sub => bits!(T => bin!(T, |a: T, b: T| a.wrapping_sub(b))),
            IntOp::SubSat => ints!(T => bin!(T, |a: T, b: T| a.saturating_sub(b))),
            IntOp::Mul => bits!(T => bin!(T, |a: T, b: T| a.wrapping_mul(b))),
            IntOp::Mad => {
                bits!(T => tri!(T, |a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c)));
            }
            IntOp::MulHi | IntOp::MadHi | IntOp::MadHiSat => mul_hi(op, ty, base, inst, mask),
            IntOp::MulWide => match ty {
                Type::U16 => map2(base, inst, mask, |a: u16, b: u16| {
                    u32::from(a) * u32::from(b)
                }),
                Type::S16 => map2(base, inst, mask, |a: i16, b: i16| {
                    i32::from(a) * i32::from(b)
                }),
                Type::S32 => map2(base, inst, mask, |a: i32, b: i32| {
                    i64::from(a) * i64::from(b)
                }),
                _ => map2(base, inst, mask, |a: u32, b: u32| {
                    u64::from(a) * u64::from(b)
                }),
            },
            IntOp::MadWide => match ty {
                Type::U16 => map3(base, inst, mask, |a: u16, b: u16, c: u32| {
                    (u32::from(a) * u32::from(b)).wrapping_add(c)
                }),
                Type::S16 => map3(base, inst, mask, |a: i16, b: i16, c: i32| {
                    (i32::from(a) * i32::from(b)).wrapping_add(c)
                }),
                Type::S32 => map3(base, inst, mask, |a: i32, b: i32, c: i64| {
                    (i64::from(a) * i64::from(b)).wrapping_add(c)
                }),
                _ => map3(base, inst, mask, |a: u32, b: u32, c: u64| {
                    (u64::from(a) * u64::from(b)).wrapping_add(c)
                }),
            },
            IntOp::Mul24 | IntOp::Mul24Hi | IntOp::Mad24 | IntOp::Mad24Hi | IntOp::Mad24HiSat => {
                mul24(op, signed, base, inst, mask)
            }
            IntOp::Sad => {
                ints!(T => tri!(T, |a: T, b: T, c: T| {
                    (if a > b { a.wrapping_sub(b) } else { b.wrapping_sub(a) }).wrapping_add(c)
                }));
            }
            // Division by zero gives all ones, as the hardware does; it never traps.
            IntOp::Div => ints!(T => bin!(T, |a: T, b: T| {
                if b == 0 { !0 } else { a.wrapping_div(b) }
            })),
            IntOp::Rem => ints!(T => bin!(T, |a: T, b: T| {
                if b == 0 { a } else { a.wrapping_rem(b) }
            })),
            IntOp::Abs => match ty {
                Type::S16 => un!(i16, i16, i16::wrapping_abs),
                Type::S64 => un!(i64, i64, i64::wrapping_abs),
                _ => un!(i32, i32, i32::wrapping_abs),
            },
            IntOp::Neg => bits!(T => un!(T, T, |a: T| a.wrapping_neg())),
            IntOp::Min | IntOp::Max | IntOp::MinRelu | IntOp::MaxRelu => {
                extremum(op, ty, base, inst, mask);
            }
            IntOp::Popc => wide!(T => un!(T, u32, |a: T| a.count_ones())),
            IntOp::Clz => wide!(T => un!(T, u32, |a: T| a.leading_zeros())),
            IntOp::Brev => wide!(T => un!(T, T, |a: T| a.reverse_bits())),
            IntOp::Bfind | IntOp::BfindShift => {
                wide!(T => un!(T, u32, move |a: T| {
                    let negative = signed && a >> (T::BITS - 1) == 1;
                    let zeros = (if negative { !a } else { a }).leading_zeros();
                    match (zeros == T::BITS, op) {
                        (true, _) => u32::MAX,
                        (false, IntOp::Bfind) => T::BITS - 1 - zeros,
                        (false, _) => zeros,
                    }
                }));
            }
            IntOp::Fns => {
                map3(base, inst, mask, |a: u32, b: u32, c: i32| fns(a, b, c));
            }
            IntOp::Bfe => wide!(T => map3(base, inst, mask, |a: T, b: u32, c: u32| {
                T::of64(bfe(a.to64(), T::BITS, b, c, signed))
            })),
            IntOp::Bfi => wide!(T => {
                let mut out = [0 as T; 32];
                for (lane, out) in out.iter_mut().enumerate() {
                    use super::lanes::Lane;
                    *out = T::of64(bfi(
                        T::get(base, inst.a, lane).to64(),
                        T::get(base, inst.b, lane).to64(),
                        T::BITS,
                        u32::get(base, inst.c, lane),
                        u32::get(base, inst.d, lane),
                    ));
                }
                super::lanes::write(base, inst.dst, &out, mask);
            }),
            IntOp::SzextClamp => bin!(u32, |a, b| szext(a, b, signed, true)),
            IntOp::SzextWrap => bin!(u32, |a, b| szext(a, b, signed, false)),
            IntOp::BmskClamp => bin!(u32, |a, b| bmsk(a, b, true)),
            IntOp::BmskWrap => bin!(u32, |a, b| bmsk(a, b, false)),
            IntOp::Dp4a => tri!(u32, |a, b, c: u32| {
                (0..4).fold(c, |sum, i| {
                    sum.wrapping_add((byte(a, i, imm & 1 == 1) * byte(b, i, imm & 2 == 2)) as u32)
                })
            }),
            IntOp::Dp2aLo | IntOp::Dp2aHi => {
                let first = if op == IntOp::Dp2aHi { 2 } else { 0 };
                tri!(u32, |a, b, c: u32| {
                    (0..2).fold(c, |sum, i| {
                        let product = half(a, i, imm & 1 == 1) * byte(b, first + i, imm & 2 == 2);
                        sum.wrapping_add(product as u32)
                    })
                });
            }
            IntOp::And => bits!(T => bin!(T, |a: T, b: T| a & b)),
            IntOp::Or => bits!(T => bin!(T, |a: T, b: T| a | b)),
            IntOp::Xor => bits!(T => bin!(T, |a: T, b: T| a ^ b)),
            IntOp::Not => bits!(T => un!(T, T, |a: T| !a)),
            IntOp::Cnot => bits!(T => un!(T, T, |a: T| (a == 0) as T)),
            IntOp::Lop3 => lop3(base, inst, mask),
            IntOp::Shl => bits!(T => map2(base, inst, mask, |a: T, b: u32| {
                if b >= T::BITS { 0 } else { a << b }
            })),
            IntOp::Shr => ints!(T => map2(base, inst, mask, |a: T, b: u32| {
                if b >= T::BITS { a >> (T::BITS - 1) >> 1 } else { a >> b }
            })),
            IntOp::ShfLeftClamp => tri!(u32, |a, b, c: u32| {
                ((u64::from(b) << 32 | u64::from(a)) << c.min(32) >> 32) as u32
            }),
            IntOp::ShfLeftWrap => tri!(u32, |a, b, c: u32| {
                ((u64::from(b) << 32 | u64::from(a)) << (c & 31) >> 32) as u32
            }),
            IntOp::ShfRightClamp => tri!(u32, |a, b, c: u32| {
                ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32
            }),
            IntOp::ShfRightWrap => tri!(u32, |a, b, c: u32| {
                ((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32
            }),
            IntOp::Prmt => tri!(u32, |a, b, c| permute(a, b, c, imm)),
            IntOp::Video => tri!(u32, |a, b, c| video(a, b, c, imm)),
            IntOp::Slct => {
                let choose = |c: u32| {
                    if imm & 2 == 0 {
                        return c as i32 >= 0;
                    }
                    let value = f32::from_bits(c);
                    let flushed = imm & 4 != 0 && value.is_subnormal();
                    flushed || value >= 0.0
                };
                if imm & 1 == 1 {
                    map3(
                        base,
                        inst,
                        mask,
                        |a: u64, b: u64, c: u32| if choose(c) { a } else { b },
                    );
                } else {
                    tri!(u32, |a, b, c| if choose(c) { a } else { b });
                }
            }
        }
    }
}

/// `>> (BITS − 1) >> 1` of an unsigned value must be 0 and of a signed one its sign.
///
/// # Safety
/// As [`body`].
#[inline(always)]
unsafe fn mul_hi(op: IntOp, ty: Type, base: *mut Slot, inst: &Inst, mask: u32) {
    macro_rules! hi {
        ($t:ty, $w:ty) => {{
            let hi = |a: $t, b: $t| ((<$w>::from(a) * <$w>::from(b)) >> <$t>::BITS) as $t;
            match op {
                IntOp::MulHi => map2::<$t, $t, $t>(base, inst, mask, hi),
                IntOp::MadHiSat => {
                    map3::<$t, $t, $t, $t>(base, inst, mask, |a, b, c| hi(a, b).saturating_add(c))
                }
                _ => map3::<$t, $t, $t, $t>(base, inst, mask, |a, b, c| hi(a, b).wrapping_add(c)),
            }
        }};
    }
    // SAFETY: the caller's promise.
    unsafe {
        match ty {
            Type::U16 => hi!(u16, u32),
            Type::S16 => hi!(i16, i32),
            Type::S32 => hi!(i32, i64),
            Type::U64 => hi!(u64, u128),
            Type::S64 => hi!(i64, i128),
            _ => hi!(u32, u64),
        }
    }
}

/// # Safety
/// As [`body`].
#[inline(always)]
unsafe fn mul24(op: IntOp, signed: bool, base: *mut Slot, inst: &Inst, mask: u32) {
    let product = move |a: u32, b: u32| -> i64 {
        if signed {
            i64::from((a << 8) as i32 >> 8) * i64::from((b << 8) as i32 >> 8)
        } else {
            (u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) as i64
        }
    };
    let high = matches!(op, IntOp::Mul24Hi | IntOp::Mad24Hi | IntOp::Mad24HiSat);
    let part = move |a, b| {
        (if high {
            product(a, b) >> 16
        } else {
            product(a, b)
        }) as u32
    };
    // SAFETY: the caller's promise.
    unsafe {
        match op {
            IntOp::Mul24 | IntOp::Mul24Hi => map2::<u32, u32, u32>(base, inst, mask, part),
            IntOp::Mad24HiSat => map3::<u32, u32, u32, u32>(base, inst, mask, |a, b, c| {
                (part(a, b) as i32).saturating_add(c as i32) as u32
            }),
            _ => map3::<u32, u32, u32, u32>(base, inst, mask, |a, b, c| part(a, b).wrapping_add(c)),
        }
    }
}

/// # Safety
/// As [`body`].
#[inline(always)]
unsafe fn extremum(op: IntOp, ty: Type, base: *mut Slot, inst: &Inst, mask: u32) {
    let least = matches!(op, IntOp::Min | IntOp::MinRelu);
    let relu = matches!(op, IntOp::MinRelu | IntOp::MaxRelu);
    macro_rules! pick {
        ($t:ty) => {
            if least {
                map2::<$t, $t, $t>(base, inst, mask, |a, b| if a < b { a } else { b })
            } else {
                map2::<$t, $t, $t>(base, inst, mask, |a, b| if a > b { a } else { b })
            }
        };
    }
    let signed_half = move |a: u16, b: u16| {
        let (a, b) = (a as i16, b as i16);
        let value = if least { a.min(b) } else { a.max(b) };
        (if relu { value.max(0) } else { value }) as u16
    };
    // SAFETY: the caller's promise.
    unsafe {
        match ty {
            Type::S16 => pick!(i16),
            Type::S32 if relu => map2::<i32, i32, i32>(base, inst, mask, |a, b| {
                (if least { a.min(b) } else { a.max(b) }).max(0)
            }),
            Type::S32 => pick!(i32),
            Type::S64 => pick!(i64),
            Type::U16 => pick!(u16),
            Type::U64 => pick!(u64),
            Type::S16x2 => {
                map2::<u32, u32, u32>(base, inst, mask, |a, b| halves(a, b, signed_half));
            }
            Type::U16x2 => map2::<u32, u32, u32>(base, inst, mask, |a, b| {
                halves(a, b, |a, b| if least { a.min(b) } else { a.max(b) })
            }),
            _ => pick!(u32),
        }
    }
}

/// Any function of three bits, by its truth table.
///
/// # Safety
/// As [`body`].
#[inline(always)]
unsafe fn lop3(base: *mut Slot, inst: &Inst, mask: u32) {
    let table = inst.imm as u32;
    // One all-ones or all-zeros word for each row of the table.
    let rows: [u32; 8] = std::array::from_fn(|row| (table >> row & 1).wrapping_neg());
    // SAFETY: the caller's promise.
    unsafe {
        map3::<u32, u32, u32, u32>(base, inst, mask, |a, b, c| {
            let low = !a & (!b & (!c & rows[0] | c & rows[1]) | b & (!c & rows[2] | c & rows[3]));
            let high = a & (!b & (!c & rows[4] | c & rows[5]) | b & (!c & rows[6] | c & rows[7]));
            low | high
        });
    }
}

/// Carry chains: the result in the active lanes, and the new carry mask.
///
/// # Safety
/// As [`body`].
pub(crate) unsafe fn carry(
    op: CarryOp,
    ty: Type,
    base: *mut Slot,
    inst: &Inst,
    mask: u32,
    flag: u32,
) -> u32 {
    use super::lanes::Lane;
    let wide = ty.bytes() == 8;
    let mut next = flag;
    for lane in 0..32 {
        if mask >> lane & 1 == 0 {
            continue;
        }
        // SAFETY: the caller's promise.
        let get = |slot| unsafe {
            if wide {
                u64::get(base, slot, lane)
            } else {
                u64::from(u32::get(base, slot, lane))
            }
        };
        let (mut a, mut b) = (u128::from(get(inst.a)), u128::from(get(inst.b)));
        if let Some(high) = op.multiply {
            // The product of signed types differs in its high half.
            let product = match ty {
                Type::S32 => (i64::from(a as i32) * i64::from(b as i32)) as u64 as u128,
                Type::S64 => (i128::from(a as i64) * i128::from(b as i64)) as u128,
                _ => a * b,
            };
            let bits = if wide { 64 } else { 32 };
            a = if high { product >> bits } else { product };
            a &= if wide {
                u128::from(u64::MAX)
            } else {
                u128::from(u32::MAX)
            };
            b = u128::from(get(inst.c));
        }
        let bits = if wide { 64 } else { 32 };
        let carry_in = u128::from(op.take && flag >> lane & 1 == 1);
        let sum = if op.subtract {
            a.wrapping_sub(b).wrapping_sub(carry_in)
        } else {
            a + b + carry_in
        };
        // Of a difference, the bit above the value is the borrow.
        let carry_out = (sum >> bits & 1) as u32;
        // SAFETY: the caller's promise.
        unsafe {
            if wide {
                u64::put(base, inst.dst, lane, sum as u64);
            } else {
                u32::put(base, inst.dst, lane, sum as u32);
            }
        }
        if op.give {
            next = next & !(1 << lane) | carry_out << lane;
        }
    }
    next
}
