//! The 32 lanes as vectors: how a register's values are read and written, and the loops that the compiler
//! turns into SIMD code.
//!
//! Everything elementwise is written once as a closure over one lane; [`map1`], [`map2`] and [`map3`] make
//! the loop over lanes, and `leveled!` compiles each loop for AVX2 and for AVX-512.

use crate::lower::inst::Inst;

/// 32-bit values of the 32 lanes.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub(crate) struct Slot(pub(crate) [u32; 32]);

/// The instruction sets that the machine's loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX2, FMA, BMI, F16C: what the machine needs at least.
    V3,
    /// AVX-512.
    V4,
}

impl Level {
    /// The best that this processor has; `None` where it doesn't even have AVX2 and FMA.
    pub(crate) fn detect() -> Option<Level> {
        let v3 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        let v4 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512cd");
        match (v3, v4) {
            (true, true) => Some(Level::V4),
            (true, false) => Some(Level::V3),
            _ => None,
        }
    }
}

/// Compiles `$body`, an `#[inline(always)]` function, once for each [`Level`].
macro_rules! leveled {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `level` is one that the processor has; see the body for the rest.
        #[inline]
        #[allow(clippy::too_many_arguments)]
        pub(crate) unsafe fn $name(level: crate::execute::lanes::Level, $($arg: $ty),*) $(-> $ret)? {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn v4($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's promise is handed on.
                unsafe { $body($($arg),*) }
            }
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn v3($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's promise is handed on.
                unsafe { $body($($arg),*) }
            }
            // SAFETY: the level says that the processor has these instructions.
            unsafe {
                match level {
                    crate::execute::lanes::Level::V4 => v4($($arg),*),
                    crate::execute::lanes::Level::V3 => v3($($arg),*),
                }
            }
        }
    };
}
pub(crate) use leveled;

/// A type that a lane of a register can be read as.
pub(crate) trait Lane: Copy {
    /// Any value.
    const ZERO: Self;
    /// Reads lane `lane` of the register that starts at `slot`.
    ///
    /// # Safety
    /// `base` points to a frame's slots, `slot` is one of them, and `lane < 32`.
    unsafe fn get(base: *const Slot, slot: u32, lane: usize) -> Self;
    /// Writes it, as `get`.
    ///
    /// # Safety
    /// As `get`.
    unsafe fn put(base: *mut Slot, slot: u32, lane: usize, value: Self);
}

macro_rules! word_lane {
    ($($ty:ty: $from:expr, $to:expr;)*) => {$(
        impl Lane for $ty {
            const ZERO: $ty = 0 as $ty;
            #[inline(always)]
            unsafe fn get(base: *const Slot, slot: u32, lane: usize) -> $ty {
                // SAFETY: the caller's promise.
                $from(unsafe { *base.add(slot as usize).cast::<u32>().add(lane) })
            }
            #[inline(always)]
            unsafe fn put(base: *mut Slot, slot: u32, lane: usize, value: $ty) {
                // SAFETY: the caller's promise.
                unsafe { *base.add(slot as usize).cast::<u32>().add(lane) = $to(value) }
            }
        }
    )*};
}
word_lane! {
    u8: |x: u32| x as u8, u32::from;
    i8: |x: u32| x as i8, |x: i8| x as u8 as u32;
    u16: |x: u32| x as u16, u32::from;
    i16: |x: u32| x as i16, |x: i16| x as u16 as u32;
    u32: |x: u32| x, |x: u32| x;
    i32: |x: u32| x as i32, |x: i32| x as u32;
    f32: f32::from_bits, f32::to_bits;
}

macro_rules! double_lane {
    ($($ty:ty: $from:expr, $to:expr;)*) => {$(
        impl Lane for $ty {
            const ZERO: $ty = 0 as $ty;
            #[inline(always)]
            unsafe fn get(base: *const Slot, slot: u32, lane: usize) -> $ty {
                // SAFETY: the caller's promise; a 64-bit register is two slots.
                $from(unsafe { *base.add(slot as usize).cast::<u64>().add(lane) })
            }
            #[inline(always)]
            unsafe fn put(base: *mut Slot, slot: u32, lane: usize, value: $ty) {
                // SAFETY: the caller's promise.
                unsafe { *base.add(slot as usize).cast::<u64>().add(lane) = $to(value) }
            }
        }
    )*};
}
double_lane! {
    u64: |x: u64| x, |x: u64| x;
    i64: |x: u64| x as i64, |x: i64| x as u64;
    f64: f64::from_bits, f64::to_bits;
}

/// Writes the active lanes of a result.
///
/// # Safety
/// `dst` is a register of the frame at `base` and holds values of type `D`.
#[inline(always)]
pub(crate) unsafe fn write<D: Lane>(base: *mut Slot, dst: u32, values: &[D; 32], mask: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        if mask == u32::MAX {
            for (lane, value) in values.iter().enumerate() {
                D::put(base, dst, lane, *value);
            }
        } else {
            for (lane, value) in values.iter().enumerate() {
                // Read, select, write: no branch, so a vector blend.
                let old = D::get(base, dst, lane);
                D::put(
                    base,
                    dst,
                    lane,
                    if mask >> lane & 1 == 1 { *value } else { old },
                );
            }
        }
    }
}

/// `dst ← f(a)` in the active lanes.
///
/// # Safety
/// The registers of `inst` are in the frame at `base` and hold these types.
#[inline(always)]
pub(crate) unsafe fn map1<A: Lane, D: Lane>(
    base: *mut Slot,
    inst: &Inst,
    mask: u32,
    f: impl Fn(A) -> D,
) {
    let mut out = [D::ZERO; 32];
    // SAFETY: the caller's promise.
    unsafe {
        for (lane, out) in out.iter_mut().enumerate() {
            *out = f(A::get(base, inst.a, lane));
        }
        write(base, inst.dst, &out, mask);
    }
}

/// `dst ← f(a, b)` in the active lanes.
///
/// # Safety
/// As [`map1`].
#[inline(always)]
pub(crate) unsafe fn map2<A: Lane, B: Lane, D: Lane>(
    base: *mut Slot,
    inst: &Inst,
    mask: u32,
    f: impl Fn(A, B) -> D,
) {
    let mut out = [D::ZERO; 32];
    // SAFETY: the caller's promise.
    unsafe {
        for (lane, out) in out.iter_mut().enumerate() {
            *out = f(A::get(base, inst.a, lane), B::get(base, inst.b, lane));
        }
        write(base, inst.dst, &out, mask);
    }
}

/// `dst ← f(a, b, c)` in the active lanes.
///
/// # Safety
/// As [`map1`].
#[inline(always)]
pub(crate) unsafe fn map3<A: Lane, B: Lane, C: Lane, D: Lane>(
    base: *mut Slot,
    inst: &Inst,
    mask: u32,
    f: impl Fn(A, B, C) -> D,
) {
    let mut out = [D::ZERO; 32];
    // SAFETY: the caller's promise.
    unsafe {
        for (lane, out) in out.iter_mut().enumerate() {
            *out = f(
                A::get(base, inst.a, lane),
                B::get(base, inst.b, lane),
                C::get(base, inst.c, lane),
            );
        }
        write(base, inst.dst, &out, mask);
    }
}

/// The lane mask of `f(a, b)`.
///
/// # Safety
/// As [`map1`].
#[inline(always)]
pub(crate) unsafe fn test2<A: Lane, B: Lane>(
    base: *mut Slot,
    inst: &Inst,
    f: impl Fn(A, B) -> bool,
) -> u32 {
    let mut mask = 0;
    for lane in 0..32 {
        // SAFETY: the caller's promise.
        let holds = unsafe { f(A::get(base, inst.a, lane), B::get(base, inst.b, lane)) };
        mask |= u32::from(holds) << lane;
    }
    mask
}
