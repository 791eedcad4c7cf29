//! Floating-point formats bit by bit: unpack, round, pack. Every conversion that the processor doesn't do by
//! itself goes through here, and every rounding mode of it.

use crate::lower::types::{Rounding, Type};

/// A number taken apart: (−1)^negative · significand · 2^exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    NaN,
    Infinite {
        negative: bool,
    },
    /// `significand` 0 is a signed zero.
    Finite {
        negative: bool,
        significand: u128,
        exponent: i32,
    },
}

/// A binary interchange format.
#[derive(Clone, Copy)]
struct Format {
    /// Stored bits of the significand.
    fraction: u32,
    /// Bits of the exponent.
    exponent: u32,
    /// The top exponent codes infinities and NaN; without, it codes numbers and NaN alone.
    infinite: bool,
}

fn format(ty: Type) -> Format {
    match ty {
        Type::F16 | Type::F16x2 => Format {
            fraction: 10,
            exponent: 5,
            infinite: true,
        },
        Type::BF16 | Type::BF16x2 => Format {
            fraction: 7,
            exponent: 8,
            infinite: true,
        },
        Type::TF32 => Format {
            fraction: 10,
            exponent: 8,
            infinite: true,
        },
        Type::F64 => Format {
            fraction: 52,
            exponent: 11,
            infinite: true,
        },
        Type::E4M3 | Type::E4M3x2 => Format {
            fraction: 3,
            exponent: 4,
            infinite: false,
        },
        Type::E5M2 | Type::E5M2x2 => Format {
            fraction: 2,
            exponent: 5,
            infinite: true,
        },
        _ => Format {
            fraction: 23,
            exponent: 8,
            infinite: true,
        },
    }
}

/// Takes a floating-point value of type `ty` apart.
pub(crate) fn unpack(bits: u64, ty: Type) -> Number {
    // TF32 values are held as f32.
    let f = format(if ty == Type::TF32 { Type::F32 } else { ty });
    let negative = bits >> (f.fraction + f.exponent) & 1 == 1;
    let fraction = bits & ((1 << f.fraction) - 1);
    let top = (1u64 << f.exponent) - 1;
    let exponent = bits >> f.fraction & top;
    let bias = (1i32 << (f.exponent - 1)) - 1;
    if exponent == top {
        if f.infinite {
            return if fraction == 0 {
                Number::Infinite { negative }
            } else {
                Number::NaN
            };
        }
        if fraction == (1 << f.fraction) - 1 {
            return Number::NaN;
        }
    }
    let (significand, exponent) = if exponent == 0 {
        (fraction, 1)
    } else {
        (fraction | 1 << f.fraction, exponent as i32)
    };
    Number::Finite {
        negative,
        significand: u128::from(significand),
        exponent: exponent - bias - f.fraction as i32,
    }
}

/// `significand >> shift`, rounded.
fn round_shift(negative: bool, significand: u128, shift: u32, rounding: Rounding) -> u128 {
    if shift == 0 {
        return significand;
    }
    let (kept, lost, half) = if shift > 127 {
        (0, significand, 0)
    } else {
        (
            significand >> shift,
            significand & ((1 << shift) - 1),
            1u128 << (shift - 1),
        )
    };
    let up = match rounding {
        Rounding::Zero => false,
        Rounding::Down => negative && lost != 0,
        Rounding::Up => !negative && lost != 0,
        Rounding::Nearest => half != 0 && (lost > half || lost == half && kept & 1 == 1),
        Rounding::NearestAway => half != 0 && lost >= half,
    };
    kept + u128::from(up)
}

/// The canonical NaN of a type.
pub(crate) fn canonical_nan(ty: Type) -> u64 {
    match ty {
        Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2 => 0x7fff,
        Type::F64 => 0x7ff8_0000_0000_0000,
        Type::E4M3 | Type::E4M3x2 | Type::E5M2 | Type::E5M2x2 => 0x7f,
        _ => 0x7fff_ffff,
    }
}

/// Packs a number into type `ty`; `finite` clamps to the largest finite value.
pub(crate) fn pack(number: Number, ty: Type, rounding: Rounding, finite: bool) -> u64 {
    let f = format(ty);
    // TF32 keeps f32's place of the bits.
    let place = if ty == Type::TF32 { 13 } else { 0 };
    let sign = |negative: bool| u64::from(negative) << (f.fraction + f.exponent + place);
    let top = (1u64 << f.exponent) - 1;
    let largest = if f.infinite {
        ((top << f.fraction) - 1) << place
    } else {
        (top << f.fraction) | ((1 << f.fraction) - 2)
    };
    let infinity = if f.infinite {
        top << (f.fraction + place)
    } else {
        canonical_nan(ty)
    };
    let (negative, significand, exponent) = match number {
        Number::NaN => return canonical_nan(ty),
        Number::Infinite { negative } => {
            return sign(negative) | if finite { largest } else { infinity };
        }
        Number::Finite {
            negative,
            significand: 0,
            ..
        } => return sign(negative),
        Number::Finite {
            negative,
            significand,
            exponent,
        } => (negative, significand, exponent),
    };
    let bias = (1i32 << (f.exponent - 1)) - 1;
    // The exponent of the last place that is kept: that of the leading bit, or of subnormals.
    let leading = exponent + 127 - significand.leading_zeros() as i32;
    let last = (leading - f.fraction as i32).max(1 - bias - f.fraction as i32);
    let shift = last - exponent;
    let rounded = if shift > 0 {
        round_shift(negative, significand, shift as u32, rounding)
    } else {
        significand << (-shift) as u32
    };
    // Rounding may have carried into one bit more; the addition below carries into the exponent.
    let hidden = 1u128 << f.fraction;
    let bits = if rounded < hidden {
        rounded as u64
    } else {
        let code = (last + f.fraction as i32 + bias) as u64;
        ((code - 1) << f.fraction) + rounded as u64
    };
    let bits = bits << place;
    if bits <= largest {
        return sign(negative) | bits;
    }
    let to_infinity = match rounding {
        Rounding::Nearest | Rounding::NearestAway => true,
        Rounding::Zero => false,
        Rounding::Down => negative,
        Rounding::Up => !negative,
    };
    sign(negative)
        | if to_infinity && !finite {
            infinity
        } else {
            largest
        }
}

/// Rounds to an integer; infinities and what is too large become the largest magnitude.
pub(crate) fn to_integer(number: Number, rounding: Rounding) -> Option<i128> {
    match number {
        Number::NaN => None,
        Number::Infinite { negative } => Some(if negative { i128::MIN } else { i128::MAX }),
        Number::Finite {
            negative,
            significand,
            exponent,
        } => {
            let magnitude = if exponent < 0 {
                round_shift(negative, significand, exponent.unsigned_abs(), rounding)
            } else if significand == 0 {
                0
            } else if exponent > 63 {
                return Some(if negative { i128::MIN } else { i128::MAX });
            } else {
                significand << exponent
            };
            let magnitude = magnitude.min(i128::MAX as u128) as i128;
            Some(if negative { -magnitude } else { magnitude })
        }
    }
}

/// An integer as a number.
pub(crate) fn of_integer(value: i128) -> Number {
    Number::Finite {
        negative: value < 0,
        significand: value.unsigned_abs(),
        exponent: 0,
    }
}

/// Rounds to an integral value of the same kind.
pub(crate) fn integral(number: Number, rounding: Rounding) -> Number {
    match number {
        Number::Finite {
            negative,
            significand,
            exponent,
        } if exponent < 0 => Number::Finite {
            negative,
            significand: round_shift(negative, significand, exponent.unsigned_abs(), rounding),
            exponent: 0,
        },
        other => other,
    }
}

/// f16 bits to f32, exactly; the compiler vectorises it.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    // Shift into f32's place and multiply by 2^112 to correct the bias; subnormals come out right.
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = magnitude >= 0x0f80_0000;
    let value = if special {
        magnitude | 0x7f80_0000
    } else {
        scaled.to_bits()
    };
    f32::from_bits(value | u32::from(bits & 0x8000) << 16)
}

/// f32 to f16 bits, to nearest even; NaN becomes canonical. The compiler vectorises it.
#[inline(always)]
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Subnormal results: adding 0.5 makes the processor round at the right place.
    let small = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3f00_0000) as u16;
    let odd = magnitude >> 13 & 1;
    let normal = (magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13) as u16;
    let large = if magnitude > 0x7f80_0000 {
        0x7fff
    } else {
        0x7c00
    };
    // 65520 is the first value that rounds past the largest f16.
    let result = if magnitude >= 0x477f_f000 {
        large
    } else if magnitude < 0x3880_0000 {
        small
    } else {
        normal
    };
    if large == 0x7fff {
        0x7fff
    } else {
        result | sign
    }
}

/// bf16 bits to f32, exactly.
#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// f32 to bf16 bits, to nearest even; NaN becomes canonical.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        0x7fff
    } else {
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_survives_the_way_through_f32_and_matches_the_slow_path() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits);
            let slow = pack(
                unpack(u64::from(bits), Type::F16),
                Type::F32,
                Rounding::Nearest,
                false,
            );
            if value.is_nan() {
                assert_eq!(f32_to_f16(value), 0x7fff);
            } else {
                assert_eq!(value.to_bits(), slow as u32);
                assert_eq!(f32_to_f16(value), bits);
                assert_eq!(value, half::f16::from_bits(bits).to_f32());
            }
        }
    }

    #[test]
    fn f32_rounds_to_f16_and_bf16_as_the_slow_path_and_the_half_crate_do() {
        let mut state = 1u32;
        for i in 0..200_000u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bits = if i % 2 == 0 {
                state
            } else {
                state & 0x0fff_ffff | 0x3000_0000
            };
            let value = f32::from_bits(bits);
            if value.is_nan() {
                continue;
            }
            let number = unpack(u64::from(bits), Type::F32);
            assert_eq!(
                f32_to_f16(value),
                half::f16::from_f32(value).to_bits(),
                "{value:e}"
            );
            assert_eq!(
                u64::from(f32_to_f16(value)),
                pack(number, Type::F16, Rounding::Nearest, false)
            );
            assert_eq!(
                u64::from(f32_to_bf16(value)),
                pack(number, Type::BF16, Rounding::Nearest, false)
            );
        }
    }

    #[test]
    fn f64_rounds_to_f32_as_the_processor_does() {
        let mut state = 7u64;
        for _ in 0..100_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let exponent = 0x380 - 30 + (state >> 50) % 320;
            let value = f64::from_bits(state & 0x800f_ffff_ffff_ffff | exponent << 52);
            let number = unpack(value.to_bits(), Type::F64);
            let packed = pack(number, Type::F32, Rounding::Nearest, false) as u32;
            assert_eq!(packed, (value as f32).to_bits(), "{value:e}");
        }
    }
}
