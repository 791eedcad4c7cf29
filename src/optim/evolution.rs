//! The improved evolution strategy for ω (Han et al. 2023, section 2.3).
//!
//! ```text
//! ε_i ~ N(0, I)     L_i = L1(ω + σ·ε_i)     ω₀ = ω − η/(nσ) · Σ (L_i − mean L)·ε_i
//! ω ← argmin over { L1(ω), L1(ω₀), L1(ω + σ·ε_1), …, L1(ω + σ·ε_n) }
//! ```
//!
//! The paper prints a plus sign and no mean; L is a loss, so plus climbs, and the mean only cuts
//! variance. `literal` is the formula as printed. No noise is stored: members are drawn again from
//! the counter ([`crate::ops::perturb`]).

use crate::ops::perturb::{Noise, perturb, recombine};
use serde::{Deserialize, Serialize};

/// Settings of a generation.
#[derive(Clone, Copy, Debug)]
pub struct Evolution {
    /// n
    pub population: usize,
    /// σ
    pub sigma: f32,
    /// η
    pub step: f32,
    /// The recombination as the paper prints it.
    pub literal: bool,
    /// Antithetic pairs.
    pub antithetic: bool,
    /// Seed of the noise.
    pub seed: u64,
}

/// Which candidate a generation kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// ω as it was.
    Current,
    /// ω₀
    Recombined,
    /// ω + σ·ε_i
    Member(usize),
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Choice::Current => f.write_str("current"),
            Choice::Recombined => f.write_str("recombined"),
            Choice::Member(i) => write!(f, "member {i}"),
        }
    }
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        let member = |text: &str| text.strip_prefix("member ")?.parse().ok();
        match text {
            "current" => Ok(Choice::Current),
            "recombined" => Ok(Choice::Recombined),
            _ => member(text).map(Choice::Member).ok_or_else(|| {
                format!("expected `current`, `recombined` or `member i`, found `{text}`")
            }),
        }
    }
}

impl Serialize for Choice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Choice, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A generation's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// What was kept.
    pub choice: Choice,
    /// Its L1.
    pub loss: f64,
    /// L1 of ω before.
    pub loss_before: f64,
}

/// Working memory of generations, kept from one to the next so that only the first allocates.
#[derive(Default)]
pub struct Scratch {
    /// A candidate's θ.
    candidate: Vec<f32>,
    /// L_i
    losses: Vec<f64>,
    /// Weight of each ε_i in ω₀ − ω.
    weights: Vec<f32>,
}

impl Evolution {
    /// Runs generation number `generation` at `theta` = (ω, α), ω its first `omega` elements; α is
    /// left alone. `loss` is L1 on the generation's batch; a candidate whose loss is not a number is
    /// never chosen. Ties go to ω, then ω₀, then the lowest member.
    pub fn generation(
        &self,
        generation: u64,
        theta: &mut [f32],
        omega: usize,
        scratch: &mut Scratch,
        mut loss: impl FnMut(&[f32]) -> f64,
    ) -> Generation {
        let loss_before = loss(theta);
        let recombined = self.explore(generation, theta, omega, scratch, loss);
        let mut best = (Choice::Current, loss_before);
        let members = scratch.losses.iter().enumerate();
        let members = members.map(|(i, &l)| (Choice::Member(i), l));
        for (choice, value) in std::iter::once((Choice::Recombined, recombined)).chain(members) {
            if value < best.1 || (best.1.is_nan() && !value.is_nan()) {
                best = (choice, value);
            }
        }
        let candidate = &mut scratch.candidate[..omega];
        match best.0 {
            Choice::Current => {}
            Choice::Recombined => theta[..omega].copy_from_slice(candidate),
            Choice::Member(i) => {
                let noise = self.noise(generation);
                perturb(&noise, i, self.sigma, &theta[..omega], candidate);
                theta[..omega].copy_from_slice(candidate);
            }
        }
        Generation {
            choice: best.0,
            loss: best.1,
            loss_before,
        }
    }

    /// The losses of the members and of ω₀, in this order: a generation without its choice. Returns
    /// L1(ω₀).
    pub fn explore(
        &self,
        generation: u64,
        theta: &[f32],
        omega: usize,
        scratch: &mut Scratch,
        mut loss: impl FnMut(&[f32]) -> f64,
    ) -> f64 {
        let noise = self.noise(generation);
        let Scratch {
            candidate,
            losses,
            weights,
        } = scratch;
        candidate.clear();
        candidate.extend_from_slice(theta);
        losses.clear();
        for member in 0..self.population {
            let to = &mut candidate[..omega];
            perturb(&noise, member, self.sigma, &theta[..omega], to);
            losses.push(loss(candidate));
        }
        self.recombination(losses, weights);
        candidate[..omega].copy_from_slice(&theta[..omega]);
        recombine(&noise, weights, &mut candidate[..omega]);
        loss(candidate)
    }

    fn noise(&self, generation: u64) -> Noise {
        Noise::new(self.seed, generation, self.population, self.antithetic)
    }

    /// Weight of each ε_i in ω₀ − ω.
    fn recombination(&self, losses: &[f64], weights: &mut Vec<f32>) {
        let n = losses.len() as f64;
        let finite = losses.iter().all(|l| l.is_finite());
        let mean = losses.iter().sum::<f64>() / n;
        let factor = f64::from(self.step) / (n * f64::from(self.sigma));
        let weight = |&l: &f64| match (finite, self.literal) {
            // Without a ranking there is no direction: ω₀ = ω.
            (false, _) => 0.0,
            (true, true) => (factor * l) as f32,
            (true, false) => (-factor * (l - mean)) as f32,
        };
        weights.clear();
        weights.extend(losses.iter().map(weight));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strategy(population: usize) -> Evolution {
        let (sigma, step) = (0.1, 0.05);
        Evolution {
            population,
            sigma,
            step,
            literal: false,
            antithetic: false,
            seed: 4,
        }
    }

    fn sphere(theta: &[f32]) -> f64 {
        theta.iter().map(|&x| f64::from(x).powi(2)).sum()
    }

    #[test]
    fn keeps_the_best_of_current_recombined_and_members() {
        for seed in 0..20 {
            let evolution = Evolution {
                seed,
                ..strategy(5)
            };
            let start = [0.3f32, -0.2, 0.1, 0.4, -0.5, 9.0];
            let mut theta = start;
            let mut seen = Vec::new();
            let mut scratch = Scratch::default();
            let generation = evolution.generation(3, &mut theta, 5, &mut scratch, |t| {
                seen.push(t.to_vec());
                sphere(&t[..5])
            });
            let best = seen
                .iter()
                .min_by(|a, b| sphere(&a[..5]).total_cmp(&sphere(&b[..5])));
            assert_eq!(seen.len(), 7);
            assert_eq!(&theta[..], best.unwrap().as_slice());
            assert_eq!(generation.loss, sphere(&theta[..5]));
            assert_eq!(theta[5], 9.0, "α is left alone");
        }
    }

    #[test]
    fn reverts_to_the_current_weights_when_nothing_is_better() {
        let mut theta = [0.0f32; 4];
        let generation = strategy(4).generation(0, &mut theta, 4, &mut Scratch::default(), sphere);
        assert_eq!(generation.choice, Choice::Current);
        assert_eq!(theta, [0.0; 4]);
    }

    #[test]
    fn descent_recombines_downhill_and_the_printed_formula_uphill() {
        let start = vec![1.0f32; 64];
        let recombined = |literal| {
            let evolution = Evolution {
                literal,
                antithetic: true,
                ..strategy(64)
            };
            let (mut theta, mut calls, mut last) = (start.clone(), 0, 0.0);
            evolution.generation(0, &mut theta, 64, &mut Scratch::default(), |t| {
                calls += 1;
                if calls == 66 {
                    last = sphere(t);
                }
                sphere(t)
            });
            last
        };
        assert!(recombined(false) < sphere(&start));
        assert!(recombined(true) > sphere(&start));
    }

    #[test]
    fn a_choice_is_logged_in_words_and_read_back() {
        for choice in [Choice::Current, Choice::Recombined, Choice::Member(12)] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("member x".parse::<Choice>().is_err());
    }

    #[test]
    fn a_loss_that_is_no_number_is_never_chosen() {
        let mut theta = [1.0f32; 3];
        let mut call = 0;
        let generation = strategy(2).generation(0, &mut theta, 3, &mut Scratch::default(), |_| {
            call += 1;
            if call == 1 { 5.0 } else { f64::NAN }
        });
        assert_eq!((generation.choice, generation.loss), (Choice::Current, 5.0));
    }
}
