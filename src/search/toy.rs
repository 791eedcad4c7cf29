//! TOY stand-in for the search while the real one is being built: never merge this file.
#![allow(missing_docs)]

use super::record::{EpochRecord, OpWeights, RoundRecord};
use super::settings::SearchSettings;
use crate::network::state_dict::NamedTensor;
use crate::space::{Genotype, derive};

#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error("the training loss of round {round} is not a number")]
    NotFinite { round: u64 },
}

pub struct Snapshot {
    pub weights: Vec<NamedTensor>,
    pub optimizer: Vec<NamedTensor>,
    pub state: serde_json::Value,
}

pub struct Search {
    settings: SearchSettings,
    done: u64,
    state: u64,
    alphas: Vec<NamedTensor>,
    weight: NamedTensor,
    momentum: NamedTensor,
}

impl Search {
    pub fn new(settings: SearchSettings) -> anyhow::Result<Search> {
        let tensor = |name: &str, shape: Vec<usize>| NamedTensor {
            name: name.into(),
            data: vec![0.0; shape.iter().product()],
            shape,
        };
        let alphas = settings
            .space
            .alphas()
            .iter()
            .map(|m| tensor(m.name, vec![m.edges, m.ops]))
            .collect();
        Ok(Search {
            state: settings.seed + 1,
            settings,
            done: 0,
            alphas,
            weight: tensor("stem.0.weight", vec![100]),
            momentum: tensor("momentum.stem.0.weight", vec![100]),
        })
    }
    fn draw(&mut self) -> f32 {
        self.state = self
            .state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.state >> 40) as f32 / (1u64 << 24) as f32
    }
    pub fn settings(&self) -> &SearchSettings {
        &self.settings
    }
    pub fn rounds_per_epoch(&self) -> u64 {
        20
    }
    pub fn rounds_total(&self) -> u64 {
        20 * self.settings.epochs as u64
    }
    pub fn rounds_done(&self) -> u64 {
        self.done
    }
    pub fn round(&mut self) -> anyhow::Result<RoundRecord> {
        std::thread::sleep(std::time::Duration::from_millis(10));
        if self.settings.lr > 100.0 && self.done == 25 {
            return Err(SearchError::NotFinite {
                round: self.done + 1,
            }
            .into());
        }
        self.done += 1;
        for m in 0..self.alphas.len() {
            for i in 0..self.alphas[m].data.len() {
                let pull = ((i * 7919 + m * 13) % 31) as f32 / 31.0 - 0.5;
                let noise = self.draw() - 0.5;
                self.alphas[m].data[i] += 0.03 * pull + 0.05 * noise;
            }
        }
        for i in 0..100 {
            let noise = self.draw() - 0.5;
            self.momentum.data[i] = 0.9 * self.momentum.data[i] + noise;
            self.weight.data[i] -= 0.01 * self.momentum.data[i];
        }
        let t = self.done as f64;
        let noise = f64::from(self.draw()) * 0.2;
        let loss = 2.3 * (-t / 120.0).exp() + 0.1 + noise;
        Ok(RoundRecord {
            round: self.done,
            epoch: ((self.done - 1) / 20) as usize,
            loss_train: loss,
            accuracy_train: 1.0 - loss / 2.7,
            loss_val: Some(loss * 1.1 + noise),
            accuracy_val: Some(1.0 - loss / 2.6),
            lr: 0.025,
            grad_norm: Some(1.0 + noise),
            gamma: Some(0.025),
            neumann_norms: (0..=self.settings.neumann_terms)
                .map(|k| (1.0 + noise) * 0.8f64.powi(k as i32))
                .collect(),
            neumann_stopped: false,
            correction_ratio: Some(0.05 + noise * 0.1),
            es_choice: None,
            es_loss: None,
            seconds: 0.01,
        })
    }
    pub fn finish_epoch(&mut self) -> anyhow::Result<EpochRecord> {
        let t = self.done as f64;
        Ok(EpochRecord {
            epoch: (self.done / 20 - 1) as usize,
            loss_val: 2.3 * (-t / 120.0).exp() + 0.2,
            accuracy_val: 1.0 - 0.9 * (-t / 120.0).exp(),
            genotype: self.genotype().to_string(),
            op_weights: self.op_weights(),
            seconds: 0.0,
        })
    }
    pub fn genotype(&self) -> Genotype {
        let alphas: Vec<(&str, &[f32])> = self
            .alphas
            .iter()
            .map(|a| (a.name.as_str(), a.data.as_slice()))
            .collect();
        derive(self.settings.space, &alphas).unwrap()
    }
    pub fn op_weights(&self) -> Vec<OpWeights> {
        let softmax = |row: &[f32]| {
            let e: Vec<f32> = row.iter().map(|x| x.exp()).collect();
            let s: f32 = e.iter().sum();
            e.iter().map(|x| x / s).collect()
        };
        self.alphas
            .iter()
            .map(|a| OpWeights {
                name: a.name.clone(),
                rows: a.data.chunks(a.shape[1]).map(softmax).collect(),
            })
            .collect()
    }
    pub fn snapshot(&self) -> Snapshot {
        let mut weights = self.alphas.clone();
        weights.push(self.weight.clone());
        Snapshot {
            weights,
            optimizer: vec![self.momentum.clone()],
            state: serde_json::json!({"done": self.done, "rng": self.state.to_string()}),
        }
    }
    pub fn restore(&mut self, s: &Snapshot) -> anyhow::Result<()> {
        for t in &s.weights {
            if t.name == self.weight.name {
                self.weight = t.clone();
            }
            for a in &mut self.alphas {
                if a.name == t.name {
                    *a = t.clone();
                }
            }
        }
        self.momentum = s.optimizer[0].clone();
        self.done = s.state["done"].as_u64().unwrap();
        self.state = s.state["rng"].as_str().unwrap().parse()?;
        Ok(())
    }
}
