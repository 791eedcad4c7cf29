//! The surrogate of PNAS: an ensemble of small networks that predict a cell's accuracy from its ops.
//!
//! As in Liu et al. 2018 (section 3.3 and appendix): tokens are embedded and averaged over the cell,
//! so that one network reads cells of every size; a hidden layer of ReLU and a sigmoid follow; the
//! loss is |prediction − accuracy|, Adam minimises it, the last bias starts at 1.8 so that first
//! predictions are good accuracies; five members see four fifths of the data each, and their mean
//! is the prediction. A token here is an (edge, op) pair. Embedding and hidden layer are 16 and 32
//! wide, not 100: there are 30 tokens and some fifty cells to learn from in NAS-Bench-201, 112 and some
//! hundreds in DARTS.

use rand::RngExt;

use crate::device::random::PhiloxRng;
use crate::optim::Adam;

/// Members of the ensemble; each leaves one fifth of the data out.
const MEMBERS: usize = 5;
/// Width of an embedding.
const WIDTH: usize = 16;
/// Hidden units.
const HIDDEN: usize = 32;
/// Passes over a member's data.
const EPOCHS: usize = 60;
/// Cells of a gradient.
const BATCH: usize = 8;
/// First value of the last bias: sigmoid(1.8) ≈ 0.86.
const FIRST_BIAS: f32 = 1.8;

/// A cell as tokens, and its accuracy, 0..1.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Numbers of its (edge, op) pairs.
    pub tokens: Vec<usize>,
    /// Its accuracy.
    pub accuracy: f32,
}

/// A fitted ensemble.
pub struct Surrogate {
    members: Vec<Member>,
}

impl Surrogate {
    /// Fits all members to `examples`, whose tokens are below `vocabulary`.
    pub fn fit(examples: &[Example], vocabulary: usize, lr: f32, rng: &mut PhiloxRng) -> Self {
        let members = (0..MEMBERS).map(|member| {
            let kept: Vec<&Example> = examples
                .iter()
                .enumerate()
                .filter(|(index, _)| index % MEMBERS != member || examples.len() < MEMBERS)
                .map(|(_, example)| example)
                .collect();
            let mut network = Member::new(vocabulary, rng);
            network.fit(kept, lr, rng);
            network
        });
        Surrogate {
            members: members.collect(),
        }
    }

    /// The predicted accuracy of a cell, 0..1.
    pub fn predict(&self, tokens: &[usize]) -> f32 {
        let sum: f32 = self.members.iter().map(|m| m.forward(tokens).output).sum();
        sum / self.members.len() as f32
    }
}

/// One network; its parameters are one flat vector: embeddings `[tokens, WIDTH]`, hidden weights
/// `[HIDDEN, WIDTH]`, hidden biases, output weights, output bias.
struct Member {
    parameters: Vec<f32>,
    vocabulary: usize,
}

/// What a forward pass leaves for the backward pass.
struct Activations {
    mean: [f32; WIDTH],
    hidden: [f32; HIDDEN],
    output: f32,
}

impl Member {
    fn new(vocabulary: usize, rng: &mut PhiloxRng) -> Member {
        let embeddings = vocabulary * WIDTH;
        let mut parameters = vec![0.0; embeddings + HIDDEN * WIDTH + HIDDEN + HIDDEN + 1];
        let mut fill = |part: &mut [f32], bound: f32| {
            for value in part {
                *value = bound * (2.0 * rng.random::<f32>() - 1.0);
            }
        };
        let hidden = embeddings + HIDDEN * WIDTH;
        fill(&mut parameters[..embeddings], 0.1);
        fill(
            &mut parameters[embeddings..hidden],
            (WIDTH as f32).powf(-0.5),
        );
        let outputs = hidden + HIDDEN;
        fill(
            &mut parameters[outputs..outputs + HIDDEN],
            (HIDDEN as f32).powf(-0.5),
        );
        parameters[outputs + HIDDEN] = FIRST_BIAS;
        Member {
            parameters,
            vocabulary,
        }
    }

    /// Offsets of hidden weights, hidden biases and output weights.
    fn offsets(&self) -> [usize; 3] {
        let weights = self.vocabulary * WIDTH;
        let biases = weights + HIDDEN * WIDTH;
        [weights, biases, biases + HIDDEN]
    }

    fn forward(&self, tokens: &[usize]) -> Activations {
        let [weights, biases, outputs] = self.offsets();
        let p = &self.parameters;
        let mut mean = [0.0; WIDTH];
        for &token in tokens {
            for (sum, value) in mean.iter_mut().zip(&p[token * WIDTH..]) {
                *sum += value / tokens.len() as f32;
            }
        }
        let mut hidden = [0.0f32; HIDDEN];
        let mut logit = p[outputs + HIDDEN];
        for (unit, value) in hidden.iter_mut().enumerate() {
            let row = &p[weights + unit * WIDTH..][..WIDTH];
            let sum: f32 = row.iter().zip(&mean).map(|(w, x)| w * x).sum();
            *value = (sum + p[biases + unit]).max(0.0);
            logit += p[outputs + unit] * *value;
        }
        Activations {
            mean,
            hidden,
            output: 1.0 / (1.0 + (-logit).exp()),
        }
    }

    /// Adds the gradient of |output − accuracy| / `of` to `gradient`.
    fn backward(&self, example: &Example, of: usize, gradient: &mut [f32]) {
        let [weights, biases, outputs] = self.offsets();
        let p = &self.parameters;
        let a = self.forward(&example.tokens);
        let sign = (a.output - example.accuracy).signum() / of as f32;
        let logit = sign * a.output * (1.0 - a.output);
        gradient[outputs + HIDDEN] += logit;
        let mut mean = [0.0f32; WIDTH];
        for unit in 0..HIDDEN {
            gradient[outputs + unit] += logit * a.hidden[unit];
            if a.hidden[unit] <= 0.0 {
                continue;
            }
            let sum = logit * p[outputs + unit];
            gradient[biases + unit] += sum;
            for i in 0..WIDTH {
                gradient[weights + unit * WIDTH + i] += sum * a.mean[i];
                mean[i] += sum * p[weights + unit * WIDTH + i];
            }
        }
        for &token in &example.tokens {
            for i in 0..WIDTH {
                gradient[token * WIDTH + i] += mean[i] / example.tokens.len() as f32;
            }
        }
    }

    fn fit(&mut self, mut examples: Vec<&Example>, lr: f32, rng: &mut PhiloxRng) {
        let mut adam = Adam::on_host(self.parameters.len(), lr, [0.9, 0.999], 0.0);
        let mut gradient = vec![0.0; self.parameters.len()];
        for _ in 0..EPOCHS {
            for last in (1..examples.len()).rev() {
                examples.swap(last, rng.random_range(0..=last));
            }
            for batch in examples.chunks(BATCH) {
                gradient.fill(0.0);
                for example in batch {
                    self.backward(example, batch.len(), &mut gradient);
                }
                adam.step_on_host(&gradient, &mut self.parameters);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::{Philox, Purpose};

    fn rng() -> PhiloxRng {
        Philox::new(4, Purpose::TabularSearch).rng(0)
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let member = Member::new(6, &mut rng());
        let example = Example {
            tokens: vec![0, 3, 5],
            accuracy: 0.3,
        };
        let mut gradient = vec![0.0; member.parameters.len()];
        member.backward(&example, 1, &mut gradient);
        let loss = |at: usize, by: f32| {
            let mut moved = Member::new(6, &mut rng());
            moved.parameters[at] += by;
            f64::from((moved.forward(&example.tokens).output - example.accuracy).abs())
        };
        for at in (0..gradient.len()).step_by(7) {
            // A small step: a unit may switch on within a large one.
            let difference = (loss(at, 1e-3) - loss(at, -1e-3)) / 2e-3;
            let analytic = f64::from(gradient[at]);
            assert!(
                (difference - analytic).abs() < 2e-4,
                "{at}: {difference} {analytic}"
            );
        }
    }

    #[test]
    fn a_fitted_ensemble_ranks_cells_of_another_size_by_their_tokens() {
        // Token t is worth t; cells of two tokens teach, cells of three are ranked.
        let accuracy = |tokens: &[usize]| {
            0.5 + 0.04 * tokens.iter().sum::<usize>() as f32 / tokens.len() as f32
        };
        let pairs = (0..10).flat_map(|a| (0..10).map(move |b| vec![a, b]));
        let examples: Vec<Example> = pairs
            .step_by(2)
            .map(|tokens| Example {
                accuracy: accuracy(&tokens),
                tokens,
            })
            .collect();
        let surrogate = Surrogate::fit(&examples, 10, 0.01, &mut rng());
        assert!(surrogate.predict(&[9, 8, 9]) > surrogate.predict(&[4, 5, 4]));
        assert!(surrogate.predict(&[4, 5, 4]) > surrogate.predict(&[0, 1, 1]));
    }
}
