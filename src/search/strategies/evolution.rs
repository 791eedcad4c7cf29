//! Regularised evolution: "Regularized evolution for image classifier architecture search" (Real et al., AAAI
//! 2019), over weights that are shared.
//!
//! A queue of the youngest architectures. An architecture step is one cycle: a sample of the queue is drawn,
//! the best of the sample is mutated, the child is judged on the validation batch and joins the queue, and
//! the oldest leaves it, however good it is. While the queue fills, children are drawn uniformly. A weight
//! step trains one of the queue. Ageing suits shared weights: an accuracy that was taken with old weights
//! does not stay. At the end of an epoch all in the queue are judged anew on the same images, and the best
//! is the answer; in the last epoch the best few are judged again on the whole validation half.
//!
//! Population and sample are AmoebaNet's (100, 25) in the DARTS and NASNet spaces and those of Dong & Yang 2020 (10, 3)
//! in NAS-Bench-201. A mutation changes an op or, but for NAS-Bench-201, one of the two edges into a node.

use super::random::{BATCHES, FINALISTS};
use super::{
    Architecture, Draw, Judge, Method, Moment, Numbers, OwnSetting, Step, Stepped, Strategy,
    StrategyKind, Weighting, check_state, rng, take_turns,
};
use crate::device::random::PhiloxRng;
use crate::device::{Device, SliceMut};
use crate::hypergradient::Report;
use crate::ops::relax::Relaxation;
use crate::space::{Genotype, Space};
use rand::RngExt;
use std::collections::VecDeque;

/// Regularised evolution as published, with weights that are shared.
pub const METHOD: Method = Method {
    spaces: &Space::ALL,
    relaxation: Relaxation::Given,
    options: &[
        OwnSetting {
            name: "alive",
            about: "architectures in the queue",
            default: [100.0, 10.0],
            range: [1.0, 1e5],
            whole: true,
        },
        OwnSetting {
            name: "sample",
            about: "of them, how many compete to be a parent",
            default: [25.0, 3.0],
            range: [1.0, 1e5],
            whole: true,
        },
        BATCHES.published(1.0),
        OwnSetting {
            default: [10.0, 3.0],
            ..FINALISTS
        },
    ],
    defaults: take_turns,
    make: |settings| {
        let own = |name| StrategyKind::Evolution.option(settings, name) as usize;
        let (space, seed) = (settings.space, settings.seed);
        Box::new(Evolution {
            space,
            seed,
            most: own("alive"),
            sample: own("sample"),
            batches: own("batches"),
            finalists: own("finalists"),
            alive: VecDeque::new(),
            chosen: Architecture::random(space, &mut rng(seed, Draw::Start, 0)),
        })
    },
};

/// An architecture of the queue, and its accuracy when it was last judged.
#[derive(Clone, Debug, PartialEq)]
struct Member {
    architecture: Architecture,
    accuracy: f32,
}

/// See the module.
struct Evolution {
    space: Space,
    seed: u64,
    most: usize,
    sample: usize,
    batches: usize,
    finalists: usize,
    alive: VecDeque<Member>,
    chosen: Architecture,
}

impl Evolution {
    fn child(&self, rng: &mut PhiloxRng) -> Architecture {
        if self.alive.len() < self.most {
            return Architecture::random(self.space, rng);
        }
        let mut parent = &self.alive[rng.random_range(0..self.alive.len())];
        for _ in 1..self.sample {
            let rival = &self.alive[rng.random_range(0..self.alive.len())];
            if rival.accuracy > parent.accuracy {
                parent = rival;
            }
        }
        parent.architecture.mutated(rng)
    }

    fn join(&mut self, member: Member) {
        self.alive.push_back(member);
        if self.alive.len() > self.most {
            self.alive.pop_front();
        }
    }
}

impl Strategy for Evolution {
    fn weigh(&mut self, moment: Moment, _: &[f32]) -> Option<Weighting> {
        let mut rng = rng(self.seed, Draw::Weights, moment.number);
        Some(if self.alive.len() < self.most {
            Architecture::random(self.space, &mut rng).weighting()
        } else {
            let one = rng.random_range(0..self.alive.len());
            self.alive[one].architecture.weighting()
        })
    }

    fn shown(&self, _: &[f32]) -> Option<Weighting> {
        Some(self.chosen.weighting())
    }

    fn architecture_step(&mut self, mut step: Step, _: SliceMut) -> anyhow::Result<Stepped> {
        let mut rng = rng(self.seed, Draw::Architecture, step.moment.number);
        let architecture = self.child(&mut rng);
        let validation = step.loss(&architecture.weighting())?;
        let accuracy = validation.top1 as f32 / step.validation.labels.len() as f32;
        self.join(Member {
            architecture,
            accuracy,
        });
        let mean: f32 = self.alive.iter().map(|member| member.accuracy).sum();
        let mean = f64::from(mean) / self.alive.len() as f64;
        let report = Report {
            validation,
            ..Report::default()
        };
        Ok(Stepped {
            report: report.into(),
            follow: false,
            numbers: vec![
                ("alive", self.alive.len() as f64),
                ("mean-accuracy-alive", mean),
            ],
        })
    }

    fn end_epoch(
        &mut self,
        judge: &mut Judge,
        moment: Moment,
        _: &[f32],
    ) -> anyhow::Result<Numbers> {
        if self.alive.is_empty() {
            return Ok(Numbers::new());
        }
        let architectures = self.alive.iter().map(|member| member.architecture.clone());
        let mut drawn: Vec<Architecture> = architectures.collect();
        let scores = judge.scores(&drawn, self.batches)?;
        for (member, score) in self.alive.iter_mut().zip(&scores) {
            member.accuracy = score.accuracy as f32;
        }
        let finalists = if moment.is_last() { self.finalists } else { 0 };
        let (best, score) = judge.choose(&drawn, &scores, finalists)?;
        self.chosen = drawn.swap_remove(best);
        Ok(vec![("accuracy-of-chosen", score.accuracy)])
    }

    fn genotype(&self, _: Space, _: &[(&str, &[f32])]) -> Genotype {
        self.chosen.genotype()
    }

    /// How often each op is in the queue.
    fn op_weights(&self, _: usize, alpha: &[f32]) -> Vec<f32> {
        if self.alive.is_empty() {
            return vec![0.0; alpha.len()];
        }
        Architecture::shares(self.alive.iter().map(|member| &member.architecture))
    }

    fn state(&self) -> anyhow::Result<Vec<f32>> {
        let mut state: Vec<f32> = self.chosen.to_state().collect();
        for member in &self.alive {
            state.extend(member.architecture.to_state());
            state.push(member.accuracy);
        }
        Ok(state)
    }

    fn restore(&mut self, _: &Device, state: &[f32]) -> anyhow::Result<()> {
        let len = Architecture::state_len(self.space);
        let alive = state.len().saturating_sub(len) / (len + 1);
        check_state(state, len + alive.min(self.most) * (len + 1))?;
        self.chosen = Architecture::from_state(self.space, &state[..len])?;
        let member = |state: &[f32]| -> anyhow::Result<Member> {
            Ok(Member {
                architecture: Architecture::from_state(self.space, &state[..len])?,
                accuracy: state[len],
            })
        };
        let members = state[len..].chunks_exact(len + 1).map(member);
        self.alive = members.collect::<anyhow::Result<_>>()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evolution(space: Space) -> Evolution {
        Evolution {
            space,
            seed: 1,
            most: 6,
            sample: 3,
            batches: 1,
            finalists: 0,
            alive: VecDeque::new(),
            chosen: Architecture::random(space, &mut rng(1, Draw::Start, 0)),
        }
    }

    #[test]
    fn the_oldest_leaves_however_good_it_is_and_children_are_one_change_from_one_alive() {
        for space in Space::ALL {
            let mut evolution = evolution(space);
            for number in 0..40u64 {
                let mut rng = rng(1, Draw::Architecture, number);
                let architecture = evolution.child(&mut rng);
                if evolution.alive.len() == 6 {
                    let apart = |member: &Member| {
                        let pairs = member.architecture.ops().iter().zip(architecture.ops());
                        pairs.filter(|(a, b)| a != b).count()
                    };
                    // A moved edge is two rows that differ.
                    let mut distances = evolution.alive.iter().map(apart);
                    assert!(distances.any(|rows| matches!(rows, 1 | 2)), "{space:?}");
                }
                let oldest = evolution.alive.front().cloned();
                let full = evolution.alive.len() == 6;
                // The first is the best there will be.
                let accuracy = 1.0 / (1.0 + number as f32);
                evolution.join(Member {
                    architecture,
                    accuracy,
                });
                assert!(evolution.alive.len() <= 6);
                assert_eq!(
                    full,
                    evolution.alive.front() != oldest.as_ref() && number > 0
                );
            }
        }
    }

    #[test]
    fn the_queue_survives_a_checkpoint() {
        let mut before = evolution(Space::Darts);
        for number in 0..9u64 {
            let mut rng = rng(1, Draw::Architecture, number);
            let architecture = before.child(&mut rng);
            before.join(Member {
                architecture,
                accuracy: number as f32,
            });
        }
        let mut after = evolution(Space::Darts);
        let state = before.state().unwrap();
        after.restore(&Device::Cpu, &state).unwrap();
        assert_eq!(after.alive, before.alive);
        assert_eq!(after.chosen, before.chosen);
        assert!(after.restore(&Device::Cpu, &state[1..]).is_err());
    }
}
