//! Gaussian perturbation of a population: ω + σ·ε_i, and Σ w_i·ε_i, with ε never stored.
//!
//! Member i of generation t draws ε from Philox stream t·n + i, element j from lane j mod 4 of
//! block j/4, so that any element can be drawn again by itself. With antithetic pairs member 2i+1
//! takes −ε of member 2i.

use crate::device::View;
use crate::device::parallel::for_ranges;
use crate::device::random::{Philox, Purpose};

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
        (self.first_stream + drawn as u64, if odd { -1.0 } else { 1.0 })
    }
}

/// out = ω + σ·ε of `member`.
pub fn perturb(noise: &Noise, member: usize, sigma: f32, omega: &[f32], out: &mut [f32]) {
    let (stream, sign) = noise.of(member);
    let scale = sigma * sign;
    let out = View::of_mut(out);
    for_ranges(omega.len(), |range| {
        let to = out.part(range.start, range.len()).write();
        let from = omega[range.clone()].chunks(4);
        for (block, (to, from)) in to.chunks_mut(4).zip(from).enumerate() {
            let epsilon = noise.philox.normal4((range.start / 4 + block) as u64, stream);
            for ((to, &w), e) in to.iter_mut().zip(from).zip(epsilon) {
                *to = w + scale * e;
            }
        }
    });
}

/// out += Σ_i weights[i]·ε_i, members in order.
pub fn recombine(noise: &Noise, weights: &[f32], out: &mut [f32]) {
    let len = out.len();
    let out = View::of_mut(out);
    for_ranges(len, |range| {
        let to = out.part(range.start, range.len()).write();
        for (block, to) in to.chunks_mut(4).enumerate() {
            for (member, &weight) in weights.iter().enumerate() {
                let (stream, sign) = noise.of(member);
                let epsilon = noise.philox.normal4((range.start / 4 + block) as u64, stream);
                for (to, e) in to.iter_mut().zip(epsilon) {
                    *to += weight * sign * e;
                }
            }
        }
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
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; omega.len()];
            pool.install(|| perturb(&noise, 1, 0.1, &omega, &mut out));
            out
        };
        assert_eq!(with(1), with(5));
    }
}
