//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011).
//!
//! A draw is a pure function of (seed, purpose, stream, index): no state is carried from one draw to
//! the next, so any thread count, launch shape or device draws the same bits, and a draw can be
//! regenerated instead of stored. The 64-bit key stands for (seed, purpose); of the 128-bit counter the
//! low half is the index of the block (logical element / 4) and the high half the stream (a step, an
//! epoch, a member of a population). Element `e` of a logical array is lane `e % 4` of block `e / 4`.
//!
//! The distributions are written in f32 additions, multiplications and square roots alone, without a
//! fused multiply-add and without libm. Each of those is correctly rounded by IEEE 754, so a GPU that
//! repeats the expressions in the same order (contraction off) gets the same bits as any CPU.

use std::convert::Infallible;

const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
/// Weyl increments of the key: the golden ratio and √3 − 1, times 2³².
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// What random numbers are drawn for. Different purposes under one seed are independent.
///
/// The discriminants enter the key: they are part of what a seed means and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial network weights ω.
    WeightInit = 1,
    /// Initial architecture parameters α.
    ArchInit = 2,
    /// Order of the images in an epoch.
    Shuffle = 3,
    /// Random crop, flip and cutout.
    Augment = 4,
    /// The halves of the training set.
    Split = 5,
    /// Perturbations ε of the evolution strategy.
    EsNoise = 6,
    /// Start vector of the power iteration.
    PowerIteration = 7,
    /// Inputs of benchmarks.
    Bench = 8,
    /// The vector that `probe` multiplies with the Hessian.
    ProbeVector = 9,
}

/// Philox4x32-10 under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The generator of (seed, purpose).
    ///
    /// 96 bits of (seed, purpose) become the 64 bits of the key by one Philox block whose counter is
    /// (seed low, seed high, purpose, 0) under the key (0, 0).
    pub fn new(seed: u64, purpose: Purpose) -> Philox {
        let [k0, k1, ..] = Philox::from_key([0, 0]).block(seed, u64::from(purpose as u32));
        Philox::from_key([k0, k1])
    }

    /// The generator of a raw key.
    pub const fn from_key(key: [u32; 2]) -> Philox {
        Philox { key }
    }

    /// The raw key, as a kernel takes it.
    pub const fn key(&self) -> [u32; 2] {
        self.key
    }

    /// Four random words: the block of counter (index low, index high, stream low, stream high).
    #[inline(always)]
    pub const fn block(&self, index: u64, stream: u64) -> [u32; 4] {
        let [mut k0, mut k1] = self.key;
        let [mut c0, mut c1] = [index as u32, (index >> 32) as u32];
        let [mut c2, mut c3] = [stream as u32, (stream >> 32) as u32];
        let mut round = 0;
        while round < ROUNDS {
            let p0 = MULTIPLIER_0 as u64 * c0 as u64;
            let p1 = MULTIPLIER_1 as u64 * c2 as u64;
            [c0, c1, c2, c3] = [
                (p1 >> 32) as u32 ^ c1 ^ k0,
                p1 as u32,
                (p0 >> 32) as u32 ^ c3 ^ k1,
                p0 as u32,
            ];
            k0 = k0.wrapping_add(WEYL[0]);
            k1 = k1.wrapping_add(WEYL[1]);
            round += 1;
        }
        [c0, c1, c2, c3]
    }

    /// Four uniform numbers in (0, 1], multiples of 2⁻²⁴.
    #[inline(always)]
    pub fn uniform4(&self, index: u64, stream: u64) -> [f32; 4] {
        self.block(index, stream).map(uniform)
    }

    /// Four standard normal numbers by the Box–Muller transform.
    ///
    /// Words (x₀, x₁) give lanes 0 and 1, words (x₂, x₃) lanes 2 and 3: with uniforms u₁, u₂ in (0, 1],
    /// r = √(−2 ln u₁), lanes r·cos(2πu₂) and r·sin(2πu₂). Bounded by √(48 ln 2) ≈ 5.77.
    #[inline(always)]
    pub fn normal4(&self, index: u64, stream: u64) -> [f32; 4] {
        let [x0, x1, x2, x3] = self.block(index, stream);
        let [a, b] = box_muller(x0, x1);
        let [c, d] = box_muller(x2, x3);
        [a, b, c, d]
    }

    /// The words of one stream in order, as a generator for `rand` and `rand_distr`.
    pub fn rng(&self, stream: u64) -> PhiloxRng {
        PhiloxRng {
            philox: *self,
            stream,
            next_block: 0,
            words: [0; 4],
            used: 4,
        }
    }
}

/// Uniform number in (0, 1]: (⌊x / 2⁸⌋ + 1) · 2⁻²⁴, exact in f32.
#[inline(always)]
pub fn uniform(word: u32) -> f32 {
    ((word >> 8) + 1) as i32 as f32 * TWO_POW_MINUS_24
}

const TWO_POW_MINUS_24: f32 = 1.0 / 16_777_216.0;

/// Two standard normal numbers of two random words.
#[inline(always)]
fn box_muller(x0: u32, x1: u32) -> [f32; 2] {
    let radius = (-2.0 * ln(uniform(x0))).sqrt();
    let [cos, sin] = cos_sin_turn(x1);
    [radius * cos, radius * sin]
}

/// Natural logarithm of a normal f32 in (0, 1], within 1 ulp or so (Cephes `logf`).
///
/// x = m·2ᵉ with m in [√½, √2); ln m by the polynomial in f = m − 1; e·ln 2 in two parts.
#[inline(always)]
fn ln(x: f32) -> f32 {
    // Bits of √½: subtracting them moves the split of the mantissas from 1 to √½.
    const SQRT_HALF: u32 = 0x3F35_04F3;
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF);
    let exponent = ((shifted as i32) >> 23) as f32;
    let mantissa = f32::from_bits((shifted & 0x007F_FFFF) + SQRT_HALF);
    let f = mantissa - 1.0;
    let z = f * f;
    let mut y = 7.037_683_6e-2 * f - 1.151_461e-1;
    y = y * f + 1.167_699_9e-1;
    y = y * f - 1.242_014_1e-1;
    y = y * f + 1.424_932_3e-1;
    y = y * f - 1.666_805_8e-1;
    y = y * f + 2.000_071_4e-1;
    y = y * f - 2.5e-1;
    y = y * f + 3.333_333_1e-1;
    y = y * f * z;
    y += exponent * -2.121_944_4e-4;
    y -= 0.5 * z;
    (f + y) + exponent * 0.693_359_4
}

/// [cos 2πu, sin 2πu] for u = [`uniform`]`(word)`, within 1 ulp or so (Cephes `cosf`, `sinf`).
///
/// The nearest quarter turn is split off in integers, exactly; the rest lies in ±1/8 turn.
#[inline(always)]
fn cos_sin_turn(word: u32) -> [f32; 2] {
    const QUARTER: i32 = 1 << 22; // in units of 2⁻²⁴ turns
    let turn = (word >> 8) as i32 + 1;
    let quadrant = (turn + QUARTER / 2) >> 22;
    let rest = turn - (quadrant << 22);
    // rest · 2⁻²⁴ turns · 2π: the constant is 2π·2⁻²⁴.
    let x = rest as f32 * (std::f32::consts::TAU * TWO_POW_MINUS_24);
    let z = x * x;
    let mut sin = -1.951_529_6e-4 * z + 8.332_161e-3;
    sin = sin * z - 1.666_665_5e-1;
    sin = sin * z * x + x;
    let mut cos = 2.443_315_7e-5 * z - 1.388_731_6e-3;
    cos = cos * z + 4.166_664_6e-2;
    cos = cos * z * z - 0.5 * z + 1.0;
    let swap = quadrant & 1 != 0;
    let (c, s) = if swap { (sin, cos) } else { (cos, sin) };
    // Signs as bits, so that the loop around stays free of branches: cos is negative in quadrants
    // 1 and 2, sin in 2 and 3.
    let c_sign = (((quadrant + 1) & 2) as u32) << 30;
    let s_sign = ((quadrant & 2) as u32) << 30;
    [
        f32::from_bits(c.to_bits() ^ c_sign),
        f32::from_bits(s.to_bits() ^ s_sign),
    ]
}

/// One stream of a [`Philox`] as a `rand` generator; made by [`Philox::rng`].
#[derive(Clone, Debug)]
pub struct PhiloxRng {
    philox: Philox,
    stream: u64,
    next_block: u64,
    words: [u32; 4],
    used: usize,
}

impl rand::TryRng for PhiloxRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        if self.used == 4 {
            self.words = self.philox.block(self.next_block, self.stream);
            self.next_block = self.next_block.wrapping_add(1);
            self.used = 0;
        }
        let word = self.words[self.used];
        self.used += 1;
        Ok(word)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let low = u64::from(self.try_next_u32()?);
        let high = u64::from(self.try_next_u32()?);
        Ok(high << 32 | low)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(4) {
            let word = self.try_next_u32()?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand_distr::Distribution;

    use super::*;

    #[test]
    fn blocks_are_those_of_the_random123_known_answer_file() {
        let block = |k, i, s| Philox::from_key(k).block(i, s);
        assert_eq!(
            block([0, 0], 0, 0),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            block([u32::MAX; 2], u64::MAX, u64::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        // Digits of π: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0.
        assert_eq!(
            block(
                [0xa409_3822, 0x299f_31d0],
                0x85a3_08d3_243f_6a88,
                0x0370_7344_1319_8a2e
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn keys_differ_between_purposes_and_between_seeds_that_differ_in_high_bits() {
        let key = |seed, purpose| Philox::new(seed, purpose).key();
        assert_ne!(key(1, Purpose::Shuffle), key(1, Purpose::Augment));
        assert_ne!(key(1, Purpose::Shuffle), key(1 << 40 | 1, Purpose::Shuffle));
        assert_eq!(key(7, Purpose::Split), key(7, Purpose::Split));
    }

    #[test]
    fn uniforms_lie_in_the_half_open_unit_interval() {
        assert_eq!(uniform(0), TWO_POW_MINUS_24);
        assert_eq!(uniform(u32::MAX), 1.0);
    }

    #[test]
    fn logarithm_and_turn_agree_with_f64_to_two_ulps() {
        for i in 0..200_000u32 {
            let word = i.wrapping_mul(0x9E37_79B9);
            let u = uniform(word);
            let exact = f64::from(u).ln();
            assert!((f64::from(ln(u)) - exact).abs() <= 2.4e-7 * exact.abs());
            let [cos, sin] = cos_sin_turn(word);
            let angle = std::f64::consts::TAU * f64::from(u);
            assert!((f64::from(cos) - angle.cos()).abs() < 1.8e-7, "cos of {u}");
            assert!((f64::from(sin) - angle.sin()).abs() < 1.8e-7, "sin of {u}");
        }
    }

    #[test]
    fn normals_have_the_moments_of_the_standard_normal() {
        let philox = Philox::new(3, Purpose::EsNoise);
        let draws: Vec<f64> = (0..50_000)
            .flat_map(|i| philox.normal4(i, 1))
            .map(f64::from)
            .collect();
        let moment = |p| draws.iter().map(|x| x.powi(p)).sum::<f64>() / draws.len() as f64;
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.015, "variance {}", moment(2));
        assert!(moment(3).abs() < 0.04, "third moment {}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "fourth moment {}", moment(4));
        let lanes = draws
            .chunks_exact(2)
            .map(|pair| pair[0] * pair[1])
            .sum::<f64>();
        assert!(
            (lanes / 1e5).abs() < 0.015,
            "the lanes of a pair are correlated"
        );
    }

    #[test]
    fn normal_bits_of_a_seed_never_change() {
        let bits = Philox::new(0, Purpose::EsNoise)
            .normal4(0, 0)
            .map(f32::to_bits);
        assert_eq!(bits, NORMAL_BITS);
    }
    const NORMAL_BITS: [u32; 4] = [1_065_580_266, 1_059_671_302, 1_067_314_688, 3_167_799_912];

    #[test]
    fn the_rand_generator_walks_the_blocks_of_its_stream() {
        let philox = Philox::new(5, Purpose::Bench);
        let mut rng = philox.rng(9);
        let words: Vec<u32> = (0..8).map(|_| rng.next_u32()).collect();
        assert_eq!(words[..4], philox.block(0, 9));
        assert_eq!(words[4..], philox.block(1, 9));
        let draw: f64 = rand_distr::StandardNormal.sample(&mut philox.rng(9));
        assert!(draw.is_finite());
    }
}
