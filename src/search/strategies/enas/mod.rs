//! ENAS: "Efficient neural architecture search via parameter sharing" (Pham et al., ICML 2018), with the
//! controller and the settings of the official code of NAS-Bench-201.
//!
//! An LSTM ([`controller`]) draws architectures. A weight step trains one that it draws. An architecture
//! step draws ten, takes their accuracies on the validation batch, by the shared weights, as rewards, and
//! moves the controller along
//!
//! ```text
//! (b − R)·∂log π        R = accuracy + 10⁻⁴·entropy        b ← b − 0.01·(b − R)
//! ```
//!
//! by Adam (10⁻³, β 0 and 0.999, ε 10⁻³) with the gradient clipped at 5. At the end of the search a hundred are
//! drawn and judged on one validation batch; the best is the answer. α takes no part.
//!
//! The official controller of the DARTS-like space points at earlier nodes by attention; here a state is a
//! token like an op, with a row of the same linear layer. The entropy enters R as a number.

mod controller;

use super::random::{BATCHES, CANDIDATES, FINALISTS, Selection};
use super::{
    Architecture, Draw, Judge, Method, Moment, Numbers, OwnSetting, Step, Stepped, Strategy,
    StrategyKind, Weighting, check_state, rng, take_turns,
};
use crate::device::random::PhiloxRng;
use crate::device::{Device, SliceMut};
use crate::hypergradient::Report;
use crate::ops::relax::Relaxation;
use crate::search::tabular::reinforce::draw;
use crate::space::genotype::darts::NODES;
use crate::space::{DARTS_EDGES, Genotype, Space};
use controller::{Controller, Trace};

/// ENAS as published.
pub const METHOD: Method = Method {
    spaces: &Space::ALL,
    relaxation: Relaxation::Given,
    options: &[
        OwnSetting {
            name: "controller-lr",
            about: "Adam's learning rate of the controller",
            default: [1e-3; 2],
            range: [1e-9, 1e3],
            whole: false,
        },
        OwnSetting {
            name: "aggregate",
            about: "architectures drawn in an architecture step",
            default: [10.0; 2],
            range: [1.0, 1e4],
            whole: true,
        },
        OwnSetting {
            name: "entropy-weight",
            about: "weight of the entropy in the reward",
            default: [1e-4; 2],
            range: [0.0, 1e3],
            whole: false,
        },
        OwnSetting {
            name: "baseline-decay",
            about: "decay of the moving average of rewards",
            default: [0.99; 2],
            range: [0.0, 1.0],
            whole: false,
        },
        CANDIDATES.published(100.0),
        BATCHES.published(1.0),
        FINALISTS.published(0.0),
    ],
    defaults: take_turns,
    make: |settings| {
        let own = |name| StrategyKind::Enas.option(settings, name);
        let controller = Controller::new(settings.space, settings.seed);
        Box::new(Enas {
            aggregate: own("aggregate") as usize,
            entropy_weight: own("entropy-weight"),
            baseline_decay: own("baseline-decay") as f32,
            adam: Adam::new(own("controller-lr"), controller.parameters.len()),
            controller,
            baseline: None,
            selection: Selection::new(settings, StrategyKind::Enas),
        })
    },
};

/// See the module.
struct Enas {
    controller: Controller,
    adam: Adam,
    aggregate: usize,
    entropy_weight: f64,
    baseline_decay: f32,
    /// b; none before the first reward.
    baseline: Option<f32>,
    selection: Selection,
}

/// The controller's optimiser. (That of α has another ε.)
struct Adam {
    lr: f64,
    v: Vec<f32>,
    steps: u32,
}

impl Adam {
    const BETA2: f64 = 0.999;
    const EPSILON: f64 = 1e-3;

    fn new(lr: f64, len: usize) -> Adam {
        Adam {
            lr,
            v: vec![0.0; len],
            steps: 0,
        }
    }

    /// One step; β₁ is zero, so there is no first moment to keep.
    fn step(&mut self, gradient: &[f64], parameters: &mut [f32]) {
        self.steps += 1;
        let correction = 1.0 - Self::BETA2.powf(f64::from(self.steps));
        for (i, &g) in gradient.iter().enumerate() {
            let v = Self::BETA2 * f64::from(self.v[i]) + (1.0 - Self::BETA2) * g * g;
            self.v[i] = v as f32;
            let step = self.lr * g / ((v / correction).sqrt() + Self::EPSILON);
            parameters[i] -= step as f32;
        }
    }
}

/// The architecture of the tokens that a controller picked.
fn architecture(space: Space, picked: &[usize]) -> Architecture {
    let chosen = match space {
        Space::NasBench201 => picked.iter().map(|&op| Some(op)).collect(),
        Space::Darts => {
            let ops = space.op_names().len();
            let mut chosen = vec![None; Architecture::state_len(space)];
            for (place, made) in picked.chunks_exact(4).enumerate() {
                let (cell, node) = (place / NODES, place % NODES);
                for (state, op) in [(made[0] - ops, made[2]), (made[1] - ops, made[3])] {
                    let edge =
                        |edge: &crate::space::Edge| (edge.from, edge.to) == (state, node + 2);
                    let row = DARTS_EDGES.iter().position(edge);
                    let row = row.expect("a state below the node");
                    chosen[cell * DARTS_EDGES.len() + row] = Some(op);
                }
            }
            chosen
        }
    };
    Architecture::of(space, chosen)
}

/// ‖gradient‖ brought down to `most`.
fn clip(gradient: &mut [f64], most: f64) -> f64 {
    let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    if norm > most {
        gradient.iter_mut().for_each(|g| *g *= most / norm);
    }
    norm
}

impl Enas {
    fn draw(&self, rng: &mut PhiloxRng) -> (Trace, Architecture) {
        let trace = self
            .controller
            .run(|_, probabilities| draw(probabilities, rng));
        let drawn = architecture(self.selection.space, &trace.picked());
        (trace, drawn)
    }
}

impl Strategy for Enas {
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
        let mut gradient = vec![0.0; self.controller.parameters.len()];
        let mut validation = Default::default();
        let (mut mean_reward, mut entropy) = (0.0, 0.0);
        for _ in 0..self.aggregate {
            let (trace, drawn) = self.draw(&mut rng);
            validation = step.loss(&drawn.weighting())?;
            let accuracy = validation.top1 as f64 / batch;
            let reward = accuracy + self.entropy_weight * trace.entropy;
            let baseline = match self.baseline {
                None => accuracy as f32,
                Some(b) => b - (1.0 - self.baseline_decay) * (b - reward as f32),
            };
            self.baseline = Some(baseline);
            let advantage = (reward - f64::from(baseline)) / self.aggregate as f64;
            self.controller
                .add_gradient(&trace, advantage, &mut gradient);
            mean_reward += reward / self.aggregate as f64;
            entropy += trace.entropy / self.aggregate as f64;
        }
        let norm = clip(&mut gradient, 5.0);
        self.adam.step(&gradient, &mut self.controller.parameters);
        let report = Report {
            validation,
            direct_norm: norm,
            ..Report::default()
        };
        Ok(Stepped {
            report: report.into(),
            follow: false,
            numbers: vec![
                ("mean-reward", mean_reward),
                ("controller-entropy", entropy),
                ("controller-gradient-norm", norm),
            ],
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

    /// The chosen architecture, (steps, whether there is a baseline, baseline), parameters and second moments.
    fn state(&self) -> anyhow::Result<Vec<f32>> {
        let mut state: Vec<f32> = self.selection.chosen.to_state().collect();
        // Whole numbers are exact in f32 up to 2²⁴, as many bits as two halves need.
        let steps = [self.adam.steps >> 16, self.adam.steps & 0xFFFF];
        state.extend(steps.map(|half| half as f32));
        let known = f32::from(u8::from(self.baseline.is_some()));
        state.extend([known, self.baseline.unwrap_or_default()]);
        state.extend(&self.controller.parameters);
        state.extend(&self.adam.v);
        Ok(state)
    }

    fn restore(&mut self, _: &Device, state: &[f32]) -> anyhow::Result<()> {
        let space = self.selection.space;
        let (architecture, len) = (Architecture::state_len(space), self.adam.v.len());
        check_state(state, architecture + 4 + 2 * len)?;
        let (chosen, rest) = state.split_at(architecture);
        let (counters, vectors) = rest.split_at(4);
        self.selection.chosen = Architecture::from_state(space, chosen)?;
        self.adam.steps = ((counters[0] as u32) << 16) | counters[1] as u32;
        self.baseline = (counters[2] != 0.0).then_some(counters[3]);
        self.controller.parameters.copy_from_slice(&vectors[..len]);
        self.adam.v.copy_from_slice(&vectors[len..]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_learns_what_is_rewarded() {
        let mut controller = Controller::new(Space::NasBench201, 2);
        let mut adam = Adam::new(0.02, controller.parameters.len());
        let share = |controller: &Controller| {
            let mut rng = rng(9, Draw::Selection, 0);
            let hits: usize = (0..100)
                .map(|_| {
                    let trace = controller.run(|_, p| draw(p, &mut rng));
                    trace.picked().iter().filter(|&&op| op == 3).count()
                })
                .sum();
            hits as f64 / 600.0
        };
        let before = share(&controller);
        for step in 0..120 {
            let mut rng = rng(9, Draw::Architecture, step);
            let mut gradient = vec![0.0; controller.parameters.len()];
            for _ in 0..10 {
                let trace = controller.run(|_, p| draw(p, &mut rng));
                let reward = trace.picked().iter().filter(|&&op| op == 3).count() as f64 / 6.0;
                controller.add_gradient(&trace, (reward - before) / 10.0, &mut gradient);
            }
            clip(&mut gradient, 5.0);
            adam.step(&gradient, &mut controller.parameters);
        }
        let after = share(&controller);
        assert!(after > before + 0.2, "{before} to {after}");
    }

    #[test]
    fn drawn_architectures_are_those_of_the_space() {
        for space in Space::ALL {
            let controller = Controller::new(space, 3);
            let mut rng = rng(3, Draw::Weights, 0);
            for _ in 0..20 {
                let trace = controller.run(|_, p| draw(p, &mut rng));
                let drawn = architecture(space, &trace.picked());
                let state: Vec<f32> = drawn.to_state().collect();
                assert_eq!(Architecture::from_state(space, &state).unwrap(), drawn);
            }
        }
    }
}
