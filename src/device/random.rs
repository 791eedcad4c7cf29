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
/// Blocks that [`Philox::fill_normal`] computes at once: a few of the widest SIMD registers, and few
/// enough for the first-level cache.
const SIDE_BY_SIDE: usize = 64;

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
    /// Which branches drop path drops for which image; one stream a step.
    DropPath = 10,
    /// Architectures and op weights that a strategy draws; one stream a draw.
    Architectures = 11,
    /// Elements that dropout drops; one stream a pass and entry of the tape.
    Dropout = 12,
    /// A strategy that searches a tabular benchmark; one stream a run.
    TabularSearch = 20,
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
        let mut counter = [
            index as u32,
            (index >> 32) as u32,
            stream as u32,
            (stream >> 32) as u32,
        ];
        let mut key = self.key;
        let mut done = 0;
        while done < ROUNDS {
            counter = round(counter, key);
            key = next_key(key);
            done += 1;
        }
        counter
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

    /// Writes the standard normals of elements `first`, `first + 1`, … of `stream` to `out`: element `e`
    /// is lane `e % 4` of [`normal4`](Self::normal4)`(e / 4, stream)`.
    ///
    /// Blocks are computed side by side, one SIMD lane each. Inlined into a function with
    /// `#[target_feature]` it uses that function's width; the bits stay the same.
    #[inline(always)]
    pub fn fill_normal(&self, first: u64, stream: u64, out: &mut [f32]) {
        let lane = (first % 4) as usize;
        let head = if lane == 0 {
            0
        } else {
            out.len().min(4 - lane)
        };
        let (head, body) = out.split_at_mut(head);
        if !head.is_empty() {
            head.copy_from_slice(&self.normal4(first / 4, stream)[lane..][..head.len()]);
        }
        let mut index = first.div_ceil(4);
        let mut wide = body.chunks_exact_mut(4 * SIDE_BY_SIDE);
        for chunk in &mut wide {
            self.normals_side_by_side(index, stream, chunk);
            index += SIDE_BY_SIDE as u64;
        }
        for chunk in wide.into_remainder().chunks_mut(4) {
            chunk.copy_from_slice(&self.normal4(index, stream)[..chunk.len()]);
            index += 1;
        }
    }

    /// Blocks `first..first + SIDE_BY_SIDE` as normals, 4 · [`SIDE_BY_SIDE`] of them.
    #[inline(always)]
    fn normals_side_by_side(&self, first: u64, stream: u64, out: &mut [f32]) {
        // Two plain loops over lane-wise arrays: the form that the compiler turns into SIMD.
        let mut words = [[0; SIDE_BY_SIDE]; 4];
        let [w0, w1, w2, w3] = &mut words;
        for lane in 0..SIDE_BY_SIDE {
            let block = self.block(first.wrapping_add(lane as u64), stream);
            [w0[lane], w1[lane], w2[lane], w3[lane]] = block;
        }
        let mut normals = [[0.0; SIDE_BY_SIDE]; 4];
        let [n0, n1, n2, n3] = &mut normals;
        for lane in 0..SIDE_BY_SIDE {
            [n0[lane], n1[lane]] = box_muller(w0[lane], w1[lane]);
            [n2[lane], n3[lane]] = box_muller(w2[lane], w3[lane]);
        }
        for (lane, out) in out.chunks_exact_mut(4).enumerate() {
            out.copy_from_slice(&[n0[lane], n1[lane], n2[lane], n3[lane]]);
        }
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

/// One round of Philox4x32.
#[inline(always)]
const fn round([c0, c1, c2, c3]: [u32; 4], [k0, k1]: [u32; 2]) -> [u32; 4] {
    let p0 = MULTIPLIER_0 as u64 * c0 as u64;
    let p1 = MULTIPLIER_1 as u64 * c2 as u64;
    [
        (p1 >> 32) as u32 ^ c1 ^ k0,
        p1 as u32,
        (p0 >> 32) as u32 ^ c3 ^ k1,
        p0 as u32,
    ]
}

/// The key of the next round.
#[inline(always)]
const fn next_key([k0, k1]: [u32; 2]) -> [u32; 2] {
    [k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1])]
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
    y = y * f + 3.333_333e-1;
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
    fn filled_normals_are_the_lanes_of_the_blocks_from_any_first_element() {
        let philox = Philox::new(2, Purpose::EsNoise);
        let base = u64::from(u32::MAX) * 4 - 40;
        let all: Vec<f32> = (0..170)
            .flat_map(|block| philox.normal4(base / 4 + block, 7))
            .collect();
        for offset in 0..9 {
            for length in [0, 1, 2, 3, 5, 64, 255, 300, 650] {
                let mut out = vec![0.0; length];
                philox.fill_normal(base + offset as u64, 7, &mut out);
                assert_eq!(out, all[offset..offset + length], "{offset} {length}");
            }
        }
    }

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
