//! SIMD dispatch: every CPU kernel is written once over sixteen [`Lanes`] and compiled three times.
//!
//! A kernel is a struct of its arguments with [`Kernel::run`] generic over the lanes. [`dispatch`]
//! calls the instance for the level found at run time, inside a function that enables the level's
//! instructions, so that everything inlined into it uses them. Sixteen f32 are one AVX-512 vector,
//! two AVX2 vectors, or an array that the compiler may vectorise as the target allows.

use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Lanes of a vector, at every level.
pub const LANES: usize = 16;

/// `channels` rounded up to whole vectors.
pub const fn padded(channels: usize) -> usize {
    channels.div_ceil(LANES) * LANES
}

/// Instruction sets a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// AVX-512 F/BW/DQ/VL.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// Whatever the target's baseline has.
    Portable,
}

impl Level {
    /// The name that `NDARTS_SIMD` takes.
    pub fn name(self) -> &'static str {
        match self {
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        }
    }

    fn available(self) -> bool {
        match self {
            Level::Avx512 => {
                Level::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Level::Portable => true,
        }
    }
}

/// The level in force: the best the processor has, or what `NDARTS_SIMD` says.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| choose(std::env::var("NDARTS_SIMD").ok().as_deref()).expect("checked"))
}

/// Checks `NDARTS_SIMD`, so that a program can refuse a bad value before any kernel runs.
///
/// # Errors
/// An unknown level, or one that this processor lacks.
pub fn check_environment() -> anyhow::Result<()> {
    choose(std::env::var("NDARTS_SIMD").ok().as_deref()).map(|_| ())
}

fn choose(wish: Option<&str>) -> anyhow::Result<Level> {
    let all = [Level::Avx512, Level::Avx2, Level::Portable];
    let Some(wish) = wish else {
        return Ok(all
            .into_iter()
            .find(|l| l.available())
            .unwrap_or(Level::Portable));
    };
    match all.into_iter().find(|l| l.name() == wish) {
        Some(level) if level.available() => Ok(level),
        Some(_) => anyhow::bail!(
            "NDARTS_SIMD={wish}: this processor lacks it; unset it to take the best level there is"
        ),
        None => anyhow::bail!("NDARTS_SIMD: expected avx512, avx2 or portable, found `{wish}`"),
    }
}

/// Sixteen f32 in registers.
///
/// # Safety
/// The unsafe methods read or write `LANES` (or `count`) f32 at the pointer; all methods must run
/// where the level's instructions are enabled, which [`dispatch`] guarantees.
pub trait Lanes: Copy {
    /// All lanes equal to `value`.
    fn splat(value: f32) -> Self;
    /// # Safety
    /// Sixteen f32 are readable at `from`.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `count` ≤ 16 f32 are readable at `from`; the other lanes are zero.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    /// # Safety
    /// Sixteen f32 are writable at `to`.
    unsafe fn store(self, to: *mut f32);
    /// Stores past the caches; [`dispatch`] makes the store visible to other threads before it returns.
    ///
    /// # Safety
    /// Sixteen f32 are writable at `to`, which is aligned to 64 bytes; the kernel does not read them.
    unsafe fn stream(self, to: *mut f32);
    /// # Safety
    /// `count` ≤ 16 f32 are writable at `to`.
    unsafe fn store_part(self, to: *mut f32, count: usize);
    /// self + other
    fn add(self, other: Self) -> Self;
    /// self − other
    fn sub(self, other: Self) -> Self;
    /// self · other
    fn mul(self, other: Self) -> Self;
    /// self · factor + addend, rounded once where the level has FMA.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// max(self, other)
    fn max(self, other: Self) -> Self;
    /// `value` where self > other, else 0.
    fn where_greater(self, other: Self, value: Self) -> Self;
    /// `yes` where self > other, else `no`.
    fn select_greater(self, other: Self, yes: Self, no: Self) -> Self;
}

/// A kernel: its arguments, and a body generic over the lanes.
pub trait Kernel {
    /// What the kernel returns.
    type Output;
    /// The body; `#[inline(always)]`, so that it is compiled inside the level's function.
    fn run<V: Lanes>(self) -> Self::Output;
}

/// Runs `kernel` at the level in force.
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match level() {
        // SAFETY: `level` returns only what the processor has.
        Level::Avx512 => unsafe { run_avx512(kernel) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { run_avx2(kernel) },
        Level::Portable => kernel.run::<Portable>(),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    let output = kernel.run::<Avx512>();
    _mm_sfence();
    output
}

#[target_feature(enable = "avx2,fma,bmi2")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    let output = kernel.run::<Avx2>();
    _mm_sfence();
    output
}

/// Asks for the cache line at `at`, which need not be there.
#[inline(always)]
pub fn prefetch(at: *const f32) {
    // SAFETY: a hint; it reads nothing, and no address faults.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// One 512-bit vector.
#[derive(Clone, Copy)]
pub struct Avx512(__m512);

#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

// SAFETY (all methods): only `dispatch` instantiates a kernel with these lanes, inside a function
// that enables AVX-512; pointers are the caller's promise.
impl Lanes for Avx512 {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see the impl.
        Avx512(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see the impl.
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: see the impl; masked lanes are not read.
        Avx512(unsafe { _mm512_maskz_loadu_ps(mask(count), from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: see the impl.
        unsafe { _mm512_stream_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: see the impl; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, mask(count), self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see the impl.
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see the impl.
        Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see the impl.
        Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see the impl.
        Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see the impl.
        Avx512(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn where_greater(self, other: Self, value: Self) -> Self {
        // SAFETY: see the impl.
        Avx512(unsafe {
            _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0), value.0)
        })
    }
    #[inline(always)]
    fn select_greater(self, other: Self, yes: Self, no: Self) -> Self {
        // SAFETY: see the impl.
        Avx512(unsafe {
            _mm512_mask_blend_ps(
                _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0),
                no.0,
                yes.0,
            )
        })
    }
}

/// Two 256-bit vectors.
#[derive(Clone, Copy)]
pub struct Avx2([__m256; 2]);

impl Avx2 {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(__m256, __m256) -> __m256) -> Self {
        Avx2([f(self.0[0], other.0[0]), f(self.0[1], other.0[1])])
    }
}

// SAFETY (all methods): as for `Avx512`, with AVX2 and FMA.
impl Lanes for Avx2 {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see the impl.
        Avx2([unsafe { _mm256_set1_ps(value) }; 2])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see the impl.
        Avx2(unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] })
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: `count` ≤ 16 f32 are readable, and fit the array.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_storeu_ps(to, self.0[0]);
            _mm256_storeu_ps(to.add(8), self.0[1]);
        }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_stream_ps(to, self.0[0]);
            _mm256_stream_ps(to.add(8), self.0[1]);
        }
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: `count` ≤ 16 f32 are writable, and the array has them.
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see the impl.
        self.zip(other, |a, b| unsafe { _mm256_add_ps(a, b) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see the impl.
        self.zip(other, |a, b| unsafe { _mm256_sub_ps(a, b) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see the impl.
        self.zip(other, |a, b| unsafe { _mm256_mul_ps(a, b) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see the impl.
        unsafe {
            Avx2([
                _mm256_fmadd_ps(self.0[0], factor.0[0], addend.0[0]),
                _mm256_fmadd_ps(self.0[1], factor.0[1], addend.0[1]),
            ])
        }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see the impl.
        self.zip(other, |a, b| unsafe { _mm256_max_ps(a, b) })
    }
    #[inline(always)]
    fn where_greater(self, other: Self, value: Self) -> Self {
        // SAFETY: see the impl.
        let greater = self.zip(other, |a, b| unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(a, b) });
        // SAFETY: see the impl.
        greater.zip(value, |m, v| unsafe { _mm256_and_ps(m, v) })
    }
    #[inline(always)]
    fn select_greater(self, other: Self, yes: Self, no: Self) -> Self {
        // SAFETY: see the impl.
        let greater = self.zip(other, |a, b| unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(a, b) });
        // SAFETY: see the impl.
        unsafe {
            Avx2([
                _mm256_blendv_ps(no.0[0], yes.0[0], greater.0[0]),
                _mm256_blendv_ps(no.0[1], yes.0[1], greater.0[1]),
            ])
        }
    }
}

/// An array, for targets without the above.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Portable {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen f32 are readable; an array has the alignment of its elements.
        Portable(unsafe { from.cast::<[f32; LANES]>().read() })
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; LANES];
        // SAFETY: `count` ≤ 16 f32 are readable.
        unsafe { std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count) };
        Portable(lanes)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: sixteen f32 are writable.
        unsafe { to.cast::<[f32; LANES]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to) }
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: `count` ≤ 16 f32 are writable.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, count) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Two roundings: a fused multiply-add without the instruction is a library call.
        Portable(std::array::from_fn(|i| {
            self.0[i] * factor.0[i] + addend.0[i]
        }))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn where_greater(self, other: Self, value: Self) -> Self {
        self.select_greater(other, value, Self::splat(0.0))
    }
    #[inline(always)]
    fn select_greater(self, other: Self, yes: Self, no: Self) -> Self {
        Portable(std::array::from_fn(|i| {
            if self.0[i] > other.0[i] {
                yes.0[i]
            } else {
                no.0[i]
            }
        }))
    }
}
