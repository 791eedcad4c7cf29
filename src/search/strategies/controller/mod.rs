//! Search by a controller over shared weights: an LSTM ([`lstm`]) draws architectures, and rewards move it.
//!
//! A weight step trains one architecture that it draws. An architecture step draws some, takes their
//! accuracies on the validation batch, by the shared weights, as rewards R, and moves the controller by Adam
//! with the gradient clipped at 5. The baseline b is a moving average of the rewards. At the end of the search
//! many are drawn and judged with the shared weights; the best is the answer. α takes no part.
//!
//! ENAS and NASNet differ in the controller's shape, in what counts as reward, and in how rewards move it
//! ([`Rule`]).

mod lstm;

use super::random::Selection;
use super::{
    Architecture, Draw, Judge, Moment, Numbers, OwnSetting, Step, Stepped, Strategy, Weighting,
    check_state, rng,
};
use crate::device::random::PhiloxRng;
use crate::device::{Device, SliceMut};
use crate::hypergradient::Report;
use crate::search::tabular::reinforce::draw;
use crate::space::{Genotype, Space};
use lstm::Trace;
pub(super) use lstm::{Controller, Logits, Shape};

/// Adam's learning rate.
pub(super) const LEARNING_RATE: OwnSetting = OwnSetting {
    name: "controller-lr",
    about: "Adam's learning rate of the controller",
    default: [1e-3; 2],
    range: [1e-9, 1e3],
    whole: false,
};

/// Architectures an architecture step.
pub(super) const AGGREGATE: OwnSetting = OwnSetting {
    name: "aggregate",
    about: "architectures drawn in an architecture step",
    default: [10.0; 2],
    range: [1.0, 1e4],
    whole: true,
};

/// What the entropy counts.
pub(super) const ENTROPY_WEIGHT: OwnSetting = OwnSetting {
    name: "entropy-weight",
    about: "weight of the controller's entropy beside the accuracy",
    default: [1e-4; 2],
    range: [0.0, 1e3],
    whole: false,
};

/// Of the moving average of rewards.
pub(super) const BASELINE_DECAY: OwnSetting = OwnSetting {
    name: "baseline-decay",
    about: "decay of the moving average of rewards",
    default: [0.99; 2],
    range: [0.0, 1.0],
    whole: false,
};

/// How rewards move the controller.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// REINFORCE (Williams 1992): one step along (b − R)·∂log π. The entropy enters R as a number.
    Reinforce,
    /// Proximal policy optimisation (Schulman et al. 2017): steps along the gradient of the mean of
    /// −min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A) − w·H, A = R − b. ρ is the probability of the whole architecture
    /// over what it was when it was drawn, H the entropy.
    Proximal {
        /// ε
        clip: f64,
        /// Steps for each set of drawn architectures.
        passes: usize,
    },
}

/// The controller's optimiser. (That of α has another ε.)
pub(super) struct Adam {
    lr: f64,
    beta1: f64,
    epsilon: f64,
    /// Empty where β₁ is zero.
    m: Vec<f32>,
    v: Vec<f32>,
    steps: u32,
}

impl Adam {
    const BETA2: f64 = 0.999;

    /// Of `len` parameters.
    pub fn new(lr: f64, (beta1, epsilon): (f64, f64), len: usize) -> Adam {
        Adam {
            lr,
            beta1,
            epsilon,
            m: vec![0.0; if beta1 > 0.0 { len } else { 0 }],
            v: vec![0.0; len],
            steps: 0,
        }
    }

    fn step(&mut self, gradient: &[f64], parameters: &mut [f32]) {
        self.steps += 1;
        let correction = |beta: f64| 1.0 - beta.powf(f64::from(self.steps));
        let (first, second) = (correction(self.beta1), correction(Self::BETA2));
        for (i, &g) in gradient.iter().enumerate() {
            let v = Self::BETA2 * f64::from(self.v[i]) + (1.0 - Self::BETA2) * g * g;
            self.v[i] = v as f32;
            let along = match self.m.get_mut(i) {
                None => g,
                Some(m) => {
                    *m = (self.beta1 * f64::from(*m) + (1.0 - self.beta1) * g) as f32;
                    f64::from(*m) / first
                }
            };
            let step = self.lr * along / ((v / second).sqrt() + self.epsilon);
            parameters[i] -= step as f32;
        }
    }
}

/// See the module.
pub(super) struct Controlled {
    pub controller: Controller,
    pub adam: Adam,
    pub rule: Rule,
    pub aggregate: usize,
    pub entropy_weight: f64,
    pub baseline_decay: f32,
    /// b; none before the first reward.
    pub baseline: Option<f32>,
    pub selection: Selection,
}

/// A drawn architecture that was judged.
struct Judged {
    trace: Trace,
    /// R − b, over the number that were drawn.
    advantage: f64,
}

/// The architecture of the tokens that a controller picked.
fn architecture(space: Space, picked: &[usize]) -> Architecture {
    match space {
        Space::NasBench201 => Architecture::of(space, picked.iter().map(|&op| Some(op)).collect()),
        Space::Darts | Space::Nasnet => {
            let ops = space.op_names().len();
            let nodes = picked.chunks_exact(4);
            let pairs = nodes.flat_map(|made| [(made[0] - ops, made[2]), (made[1] - ops, made[3])]);
            Architecture::of_pairs(space, pairs)
        }
    }
}

/// ‖gradient‖ brought down to `most`; returns what it was.
fn clip(gradient: &mut [f64], most: f64) -> f64 {
    let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    if norm > most {
        gradient.iter_mut().for_each(|g| *g *= most / norm);
    }
    norm
}

impl Controlled {
    fn draw(&self, rng: &mut PhiloxRng) -> (Trace, Architecture) {
        let trace = self
            .controller
            .run(|_, probabilities| draw(probabilities, rng));
        let drawn = architecture(self.selection.space, &trace.picked());
        (trace, drawn)
    }

    /// What an architecture of this accuracy is worth.
    fn reward(&self, accuracy: f64, trace: &Trace) -> f64 {
        match self.rule {
            Rule::Reinforce => accuracy + self.entropy_weight * trace.entropy,
            Rule::Proximal { .. } => accuracy,
        }
    }

    /// One step of Adam; returns ‖gradient‖.
    fn step(&mut self, mut gradient: Vec<f64>) -> f64 {
        let norm = clip(&mut gradient, 5.0);
        self.adam.step(&gradient, &mut self.controller.parameters);
        norm
    }

    /// Moves the controller; returns the last gradient's norm and, where the rule clips, the share of ratios
    /// that were clipped.
    fn follow(&mut self, judged: &[Judged]) -> (f64, Option<f64>) {
        let zeros = vec![0.0; self.controller.parameters.len()];
        match self.rule {
            Rule::Reinforce => {
                let mut gradient = zeros;
                for Judged { trace, advantage } in judged {
                    self.controller
                        .add_gradient(trace, *advantage, 0.0, &mut gradient);
                }
                (self.step(gradient), None)
            }
            Rule::Proximal { clip, passes } => {
                let entropy = self.entropy_weight / judged.len() as f64;
                let (mut norm, mut clipped) = (0.0, 0);
                for _ in 0..passes {
                    let mut gradient = zeros.clone();
                    for Judged { trace, advantage } in judged {
                        let places = trace.places();
                        let now = self.controller.run(|number, _| places[number]);
                        let ratio = (now.log_probability - trace.log_probability).exp();
                        // Past the bound on the side that the advantage drives it to, the minimum is flat.
                        let flat = if *advantage > 0.0 {
                            ratio > 1.0 + clip
                        } else {
                            ratio < 1.0 - clip
                        };
                        clipped += usize::from(flat);
                        let factor = if flat { 0.0 } else { ratio * advantage };
                        self.controller
                            .add_gradient(&now, factor, entropy, &mut gradient);
                    }
                    norm = self.step(gradient);
                }
                let ratios = (passes * judged.len()) as f64;
                (norm, Some(clipped as f64 / ratios))
            }
        }
    }
}

impl Strategy for Controlled {
    fn weigh(&mut self, moment: Moment, _: &[f32]) -> Option<Weighting> {
        let mut rng = rng(self.selection.seed, Draw::Weights, moment.number);
        Some(self.draw(&mut rng).1.weighting())
    }

    fn shown(&self, _: &[f32]) -> Option<Weighting> {
        Some(self.selection.chosen.weighting())
    }

    fn architecture_step(&mut self, mut step: Step, _: SliceMut) -> anyhow::Result<Stepped> {
        let mut rng = rng(self.selection.seed, Draw::Architecture, step.moment.number);
        let batch = step.validation.labels.len() as f64;
        let mut judged = Vec::with_capacity(self.aggregate);
        let mut validation = Default::default();
        let (mut mean_reward, mut entropy) = (0.0, 0.0);
        for _ in 0..self.aggregate {
            let (trace, drawn) = self.draw(&mut rng);
            validation = step.loss(&drawn.weighting())?;
            let accuracy = validation.top1 as f64 / batch;
            let reward = self.reward(accuracy, &trace);
            let baseline = match self.baseline {
                None => accuracy as f32,
                Some(b) => b - (1.0 - self.baseline_decay) * (b - reward as f32),
            };
            self.baseline = Some(baseline);
            mean_reward += reward / self.aggregate as f64;
            entropy += trace.entropy / self.aggregate as f64;
            let advantage = (reward - f64::from(baseline)) / self.aggregate as f64;
            judged.push(Judged { trace, advantage });
        }
        let (norm, clipped) = self.follow(&judged);
        let report = Report {
            validation,
            direct_norm: norm,
            ..Report::default()
        };
        let mut numbers = vec![
            ("mean-reward", mean_reward),
            ("controller-entropy", entropy),
            ("controller-gradient-norm", norm),
        ];
        numbers.extend(clipped.map(|share| ("clipped-ratios", share)));
        Ok(Stepped {
            report: report.into(),
            follow: false,
            numbers,
        })
    }

    fn end_epoch(
        &mut self,
        judge: &mut Judge,
        moment: Moment,
        _: &[f32],
    ) -> anyhow::Result<Numbers> {
        let Selection { space, seed, .. } = self.selection;
        let mut rng = rng(seed, Draw::Selection, moment.number);
        let controller = &self.controller;
        let drawn = || {
            let trace = controller.run(|_, probabilities| draw(probabilities, &mut rng));
            architecture(space, &trace.picked())
        };
        let score = self.selection.choose(judge, moment, drawn)?;
        Ok(vec![("accuracy-of-chosen", score.accuracy)])
    }

    fn genotype(&self, _: Space, _: &[(&str, &[f32])]) -> Genotype {
        self.selection.chosen.genotype()
    }

    fn op_weights(&self, _: usize, _: &[f32]) -> Vec<f32> {
        self.selection.op_weights()
    }

    /// The chosen architecture, (steps, whether there is a baseline, baseline), parameters and moments.
    fn state(&self) -> anyhow::Result<Vec<f32>> {
        let mut state: Vec<f32> = self.selection.chosen.to_state().collect();
        // Whole numbers are exact in f32 up to 2²⁴, as many bits as two halves need.
        let steps = [self.adam.steps >> 16, self.adam.steps & 0xFFFF];
        state.extend(steps.map(|half| half as f32));
        let known = f32::from(u8::from(self.baseline.is_some()));
        state.extend([known, self.baseline.unwrap_or_default()]);
        state.extend(&self.controller.parameters);
        state.extend(&self.adam.v);
        state.extend(&self.adam.m);
        Ok(state)
    }

    fn restore(&mut self, _: &Device, state: &[f32]) -> anyhow::Result<()> {
        let space = self.selection.space;
        let (architecture, len) = (Architecture::state_len(space), self.adam.v.len());
        let moments = len + self.adam.m.len();
        check_state(state, architecture + 4 + len + moments)?;
        let (chosen, rest) = state.split_at(architecture);
        let (counters, vectors) = rest.split_at(4);
        self.selection.chosen = Architecture::from_state(space, chosen)?;
        self.adam.steps = ((counters[0] as u32) << 16) | counters[1] as u32;
        self.baseline = (counters[2] != 0.0).then_some(counters[3]);
        let (parameters, moments) = vectors.split_at(len);
        let (v, m) = moments.split_at(len);
        self.controller.parameters.copy_from_slice(parameters);
        self.adam.v.copy_from_slice(v);
        self.adam.m.copy_from_slice(m);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
