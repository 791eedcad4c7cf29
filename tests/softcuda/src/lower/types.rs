//! PTX types and modifiers as small enums.

/// A type that an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    U16x2,
    S16x2,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
    E4M3,
    E5M2,
    E4M3x2,
    E5M2x2,
}

/// How a register of a type is held: a mask, 32, 64 or 128 bits a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// One bit a lane.
    Pred,
    /// 32 bits a lane; narrower types use the low bits, what is above them is undefined.
    Word,
    /// 64 bits a lane.
    Double,
    /// 128 bits a lane.
    Quad,
}

impl Width {
    /// Slots of 32 × 32 bits that a register takes.
    pub fn slots(self) -> u32 {
        match self {
            Width::Pred => 0,
            Width::Word => 1,
            Width::Double => 2,
            Width::Quad => 4,
        }
    }
}

impl Type {
    /// The type that a word of an opcode names.
    pub fn parse(word: &str) -> Option<Type> {
        Some(match word {
            "pred" => Type::Pred,
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "u16x2" => Type::U16x2,
            "s16x2" => Type::S16x2,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::BF16,
            "bf16x2" => Type::BF16x2,
            "tf32" => Type::TF32,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "e4m3" => Type::E4M3,
            "e5m2" => Type::E5M2,
            "e4m3x2" => Type::E4M3x2,
            "e5m2x2" => Type::E5M2x2,
            _ => return None,
        })
    }

    /// Size of a value in bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Type::Pred | Type::B8 | Type::U8 | Type::S8 | Type::E4M3 | Type::E5M2 => 1,
            Type::B16
            | Type::U16
            | Type::S16
            | Type::F16
            | Type::BF16
            | Type::E4M3x2
            | Type::E5M2x2 => 2,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
            _ => 4,
        }
    }

    /// How a register of this type is held.
    pub fn width(self) -> Width {
        match self {
            Type::Pred => Width::Pred,
            _ => match self.bytes() {
                16 => Width::Quad,
                8 => Width::Double,
                _ => Width::Word,
            },
        }
    }

    /// Whether it is a signed integer.
    pub fn signed(self) -> bool {
        matches!(
            self,
            Type::S8 | Type::S16 | Type::S32 | Type::S64 | Type::S16x2
        )
    }

    /// Whether it is a floating-point type, packed or not.
    pub fn float(self) -> bool {
        matches!(self, Type::F32 | Type::F64 | Type::TF32) || self.half()
    }

    /// Whether it is a 16-bit floating-point type, packed or not.
    pub fn half(self) -> bool {
        matches!(self, Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2)
    }

    /// Whether it is an integer or bits.
    pub fn integer(self) -> bool {
        matches!(
            self,
            Type::B8
                | Type::B16
                | Type::B32
                | Type::B64
                | Type::U8
                | Type::U16
                | Type::U32
                | Type::U64
                | Type::S8
                | Type::S16
                | Type::S32
                | Type::S64
        )
    }

    /// The unsigned or bit type of the same width, the form in which sign-agnostic operations are
    /// executed.
    pub fn unsigned(self) -> Type {
        match self {
            Type::B8 | Type::S8 | Type::U8 => Type::U8,
            Type::B16 | Type::S16 | Type::U16 | Type::F16 | Type::BF16 => Type::U16,
            Type::B64 | Type::S64 | Type::U64 | Type::F64 => Type::U64,
            _ => Type::U32,
        }
    }
}

/// Rounding of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// Towards zero.
    Zero,
    /// Towards −∞.
    Down,
    /// Towards +∞.
    Up,
    /// To nearest, ties away from zero.
    NearestAway,
}

/// Modifiers of an arithmetic instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Rounding of the result.
    pub rounding: Rounding,
    /// Whether the result is rounded to an integral value (`.rni` and kin).
    pub integral: bool,
    /// Subnormal inputs and results become zero.
    pub ftz: bool,
    /// The result is clamped to [0, 1], or to the target's range for integers.
    pub sat: bool,
    /// `.satfinite`: the result is clamped to the largest finite value.
    pub satfinite: bool,
    /// `.NaN`: a NaN input makes a NaN result (`min`, `max`).
    pub nan: bool,
    /// `.relu`: negative results become +0.
    pub relu: bool,
    /// `.xorsign.abs`
    pub xorsign: bool,
    /// `.approx` or `.full`.
    pub approx: bool,
}

impl Mode {
    /// No modifier.
    pub const PLAIN: Mode = Mode {
        rounding: Rounding::Nearest,
        integral: false,
        ftz: false,
        sat: false,
        satfinite: false,
        nan: false,
        relu: false,
        xorsign: false,
        approx: false,
    };

    /// Whether the common path (nearest, no clamping) computes the result.
    pub fn plain(&self) -> bool {
        *self == Mode::PLAIN
            || *self
                == Mode {
                    approx: true,
                    ..Mode::PLAIN
                }
    }

    /// Takes up a modifier word; whether it was one.
    pub fn accept(&mut self, word: &str) -> bool {
        let (rounding, integral) = match word {
            "rn" => (Rounding::Nearest, false),
            "rz" => (Rounding::Zero, false),
            "rm" => (Rounding::Down, false),
            "rp" => (Rounding::Up, false),
            "rna" => (Rounding::NearestAway, false),
            "rni" => (Rounding::Nearest, true),
            "rzi" => (Rounding::Zero, true),
            "rmi" => (Rounding::Down, true),
            "rpi" => (Rounding::Up, true),
            _ => {
                match word {
                    "ftz" => self.ftz = true,
                    "sat" => self.sat = true,
                    "satfinite" => self.satfinite = true,
                    "NaN" => self.nan = true,
                    "relu" => self.relu = true,
                    "xorsign" => self.xorsign = true,
                    "approx" | "full" => self.approx = true,
                    _ => return false,
                }
                return true;
            }
        };
        self.rounding = rounding;
        self.integral = integral;
        true
    }
}
