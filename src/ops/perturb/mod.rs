//! Gaussian perturbation of a population: ω + σ·ε_i, and Σ w_i·ε_i, with ε never stored.
//!
//! Member i of generation t draws ε from Philox stream t·n + i, element j from lane j mod 4 of
//! block j/4, so that any element can be drawn again by itself. With antithetic pairs member 2i+1
//! takes −ε of member 2i.

pub mod cuda;

use crate::device::View;
use crate::device::parallel::for_ranges;
use crate::device::random::{Philox, Purpose};
use crate::device::simd::{Kernel, Lanes, dispatch};

/// The noise of one generation.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    philox: Philox,
    first_stream: u64,
    antithetic: bool,
}

impl Noise {
    /// Noise of `generation` under `seed` for `population` members.
    pub fn new(seed: u64, generation: u64, population: usize, antithetic: bool) -> Noise {
        Noise {
            philox: Philox::new(seed, Purpose::EsNoise),
            first_stream: generation * population as u64,
            antithetic,
        }
    }

    /// Stream and sign of a member.
    fn of(&self, member: usize) -> (u64, f32) {
        let odd = self.antithetic && member % 2 == 1;
        let drawn = member - usize::from(odd);
        (
            self.first_stream + drawn as u64,
            if odd { -1.0 } else { 1.0 },
        )
    }
}

/// Elements whose noise is held at a time: the first-level cache keeps them.
const BLOCK: usize = 1024;

/// to = from + Σ_i factor_i·ε(stream_i), elements from `first` on.
struct AddNoise<'a> {
    philox: Philox,
    first: usize,
    terms: &'a dyn Fn(usize) -> Option<(u64, f32)>,
    to: &'a mut [f32],
}

impl Kernel for AddNoise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let mut epsilon = [0.0f32; BLOCK];
        for (block, to) in self.to.chunks_mut(BLOCK).enumerate() {
            let first = (self.first + block * BLOCK) as u64;
            for (stream, factor) in (0..).map_while(self.terms) {
                self.philox
                    .fill_normal(first, stream, &mut epsilon[..to.len()]);
                for (to, &e) in to.iter_mut().zip(&epsilon) {
                    *to += factor * e;
                }
            }
        }
    }
}

/// out = ω + σ·ε of `member`.
pub fn perturb(noise: &Noise, member: usize, sigma: f32, omega: &[f32], out: &mut [f32]) {
    out.copy_from_slice(omega);
    let (stream, sign) = noise.of(member);
    add(noise, &|i| (i == 0).then_some((stream, sigma * sign)), out);
}

/// out += Σ_i weights[i]·ε_i, members in order.
pub fn recombine(noise: &Noise, weights: &[f32], out: &mut [f32]) {
    let term = |i: usize| {
        let (stream, sign) = noise.of(i);
        weights.get(i).map(|&weight| (stream, weight * sign))
    };
    add(noise, &term, out);
}

fn add(noise: &Noise, terms: &(dyn Fn(usize) -> Option<(u64, f32)> + Sync), out: &mut [f32]) {
    let len = out.len();
    let out = View::of_mut(out);
    for_ranges(len, |range| {
        let to = out.part(range.start, range.len()).write();
        dispatch(AddNoise {
            philox: noise.philox,
            first: range.start,
            terms,
            to,
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recombination_draws_the_noise_that_perturbation_drew() {
        for antithetic in [false, true] {
            let noise = Noise::new(7, 3, 4, antithetic);
            let omega = vec![0.0f32; 1027];
            let mut member = vec![0.0; 1027];
            let mut sum = vec![0.0; 1027];
            perturb(&noise, 3, 1.0, &omega, &mut member);
            recombine(&noise, &[0.0, 0.0, 0.0, 1.0], &mut sum);
            assert_eq!(member, sum);
        }
    }

    #[test]
    fn antithetic_members_cancel() {
        let noise = Noise::new(1, 0, 2, true);
        let mut sum = vec![0.0; 33];
        recombine(&noise, &[0.5, 0.5], &mut sum);
        assert!(sum.iter().all(|&s| s == 0.0));
    }

    #[test]
    fn noise_does_not_depend_on_the_thread_count() {
        let noise = Noise::new(5, 1, 2, false);
        let omega = vec![1.0f32; 100_001];
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let mut out = vec![0.0; omega.len()];
            pool.install(|| perturb(&noise, 1, 0.1, &omega, &mut out));
            out
        };
        assert_eq!(with(1), with(5));
    }
}
