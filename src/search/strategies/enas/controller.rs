//! The controller: an LSTM that draws an architecture decision by decision, and the gradient of −log π.
//!
//! Each decision picks one of some *tokens*, the ops and, in the DARTS space, the states an edge may come
//! from. The token picked is embedded and fed to the next decision:
//!
//! ```text
//! (h, c) = LSTM(x, h, c)     ℓ_j = k·tanh((w_j·h + b_j)/T)     π = softmax over the decision's tokens
//! ```
//!
//! with k = 2.5 and T = 5. Sizes are small (32 wide, two layers), so the code is the formula, in f64.

use super::super::{Draw, rng};
use crate::space::genotype::darts::NODES;
use crate::space::{Space, genotype};
use rand::RngExt;
use std::ops::Range;

/// Width of the LSTM.
const WIDTH: usize = 32;
/// Its layers.
const LAYERS: usize = 2;
/// k: bound of the logits.
const TANH_CONSTANT: f64 = 2.5;
/// T: the logits' temperature.
const TEMPERATURE: f64 = 5.0;
/// Gates of a layer: input, forget, cell, output.
const GATES: usize = 4 * WIDTH;

/// One choice: the tokens it may pick, but for one that is taken already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    tokens: Range<usize>,
    /// The decision before this one, whose token may not be picked again.
    differs: bool,
}

/// The decisions that make an architecture of `space`: its six ops in NAS-Bench-201; in the DARTS space, for
/// each node of each cell, two different states and their ops.
pub(super) fn decisions(space: Space) -> Vec<Decision> {
    let ops = space.op_names().len();
    let op = Decision {
        tokens: 0..ops,
        differs: false,
    };
    match space {
        Space::NasBench201 => vec![op; space.edges().len()],
        Space::Darts => {
            let node = |node: usize| {
                let state = |differs| Decision {
                    tokens: ops..ops + node + genotype::darts::EDGES_PER_NODE,
                    differs,
                };
                [state(false), state(true), op.clone(), op.clone()]
            };
            (0..2).flat_map(|_| (0..NODES).flat_map(node)).collect()
        }
    }
}

/// Where each tensor lies in the parameters.
#[derive(Clone, Debug)]
struct Layout {
    tokens: usize,
}

impl Layout {
    /// [H], the first input.
    fn start(&self) -> usize {
        0
    }
    /// [4H, H] of the input, [4H, H] of h, [4H].
    fn layer(&self, layer: usize) -> [usize; 3] {
        let first = WIDTH + layer * (2 * GATES * WIDTH + GATES);
        [first, first + GATES * WIDTH, first + 2 * GATES * WIDTH]
    }
    /// [tokens, H]
    fn embedding(&self) -> usize {
        self.layer(LAYERS)[0]
    }
    /// [tokens, H]
    fn prediction(&self) -> usize {
        self.embedding() + self.tokens * WIDTH
    }
    /// [tokens]
    fn bias(&self) -> usize {
        self.prediction() + self.tokens * WIDTH
    }
    fn len(&self) -> usize {
        self.bias() + self.tokens
    }
}

/// What a layer did in a step, as its gradient needs it.
#[derive(Clone, Debug)]
struct Cell {
    x: Vec<f64>,
    h_before: Vec<f64>,
    c_before: Vec<f64>,
    /// After their nonlinearities.
    gates: Vec<f64>,
    c: Vec<f64>,
}

/// What a decision did.
#[derive(Clone, Debug)]
struct Made {
    cells: Vec<Cell>,
    h: Vec<f64>,
    /// tanh of each allowed token's logit, and its probability.
    tokens: Vec<(usize, f64, f64)>,
    picked: usize,
}

/// A drawn sequence.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    made: Vec<Made>,
    /// log π of all of it.
    pub log_probability: f64,
    /// Sum of the decisions' entropies.
    pub entropy: f64,
}

impl Trace {
    /// The token of each decision.
    pub fn picked(&self) -> Vec<usize> {
        self.made.iter().map(|made| made.picked).collect()
    }
}

/// See the module.
pub(super) struct Controller {
    decisions: Vec<Decision>,
    layout: Layout,
    /// All parameters.
    pub parameters: Vec<f32>,
}

fn logistic(a: f64) -> f64 {
    1.0 / (1.0 + (-a).exp())
}

impl Controller {
    /// Parameters from U(−0.1, 0.1), biases of the gates and the prediction zero.
    pub fn new(space: Space, seed: u64) -> Controller {
        let decisions = decisions(space);
        let tokens = decisions.iter().map(|d| d.tokens.end).max().unwrap_or(0);
        let layout = Layout { tokens };
        let mut rng = rng(seed, Draw::Start, 1);
        let drawn = std::iter::repeat_with(|| 0.2 * rng.random::<f32>() - 0.1);
        let mut parameters: Vec<f32> = drawn.take(layout.len()).collect();
        for layer in 0..LAYERS {
            let bias = layout.layer(layer)[2];
            parameters[bias..bias + GATES].fill(0.0);
        }
        parameters[layout.bias()..].fill(0.0);
        Controller {
            decisions,
            layout,
            parameters,
        }
    }

    fn row(&self, first: usize, row: usize) -> &[f32] {
        &self.parameters[first + row * WIDTH..][..WIDTH]
    }

    /// One layer's step.
    fn cell(&self, layer: usize, x: Vec<f64>, h: &[f64], c: &[f64]) -> (Cell, Vec<f64>) {
        let [of_x, of_h, bias] = self.layout.layer(layer);
        let sum = |gate: usize| {
            let mut sum = f64::from(self.parameters[bias + gate]);
            let rows = self.row(of_x, gate).iter().zip(self.row(of_h, gate));
            for ((&w, &u), (&x, &h)) in rows.zip(x.iter().zip(h)) {
                sum += f64::from(w) * x + f64::from(u) * h;
            }
            sum
        };
        let of = |gate: usize| match gate / WIDTH {
            2 => sum(gate).tanh(),
            _ => logistic(sum(gate)),
        };
        let gates: Vec<f64> = (0..GATES).map(of).collect();
        let gate = |which: usize, i: usize| gates[which * WIDTH + i];
        let c_now = |i: usize| gate(1, i) * c[i] + gate(0, i) * gate(2, i);
        let c_now: Vec<f64> = (0..WIDTH).map(c_now).collect();
        let h_now = (0..WIDTH).map(|i| gate(3, i) * c_now[i].tanh()).collect();
        let cell = Cell {
            x,
            h_before: h.to_vec(),
            c_before: c.to_vec(),
            gates,
            c: c_now,
        };
        (cell, h_now)
    }

    /// Runs the decisions; `pick` gets their number and the probabilities of the tokens that are allowed, and
    /// returns a place among them.
    pub fn run(&self, mut pick: impl FnMut(usize, &[f32]) -> usize) -> Trace {
        let mut trace = Trace {
            made: Vec::with_capacity(self.decisions.len()),
            log_probability: 0.0,
            entropy: 0.0,
        };
        let mut state = vec![(vec![0.0; WIDTH], vec![0.0; WIDTH]); LAYERS];
        for (number, decision) in self.decisions.iter().enumerate() {
            let before = trace.made.last().map(|made: &Made| made.picked);
            let input = match before {
                None => self.row(self.layout.start(), 0),
                Some(token) => self.row(self.layout.embedding(), token),
            };
            let mut x: Vec<f64> = input.iter().map(|&x| f64::from(x)).collect();
            let mut cells = Vec::with_capacity(LAYERS);
            for (layer, (h, c)) in state.iter_mut().enumerate() {
                let (cell, out) = self.cell(layer, x, h, c);
                (*h, *c) = (out.clone(), cell.c.clone());
                cells.push(cell);
                x = out;
            }
            let taken = before.filter(|_| decision.differs);
            let allowed = decision
                .tokens
                .clone()
                .filter(|&token| Some(token) != taken);
            let tokens = self.distribution(allowed, &x);
            let probabilities: Vec<f32> = tokens.iter().map(|t| t.2 as f32).collect();
            let (picked, _, probability) = tokens[pick(number, &probabilities)];
            trace.log_probability += probability.ln();
            trace.entropy -= tokens.iter().map(|t| t.2 * t.2.ln()).sum::<f64>();
            trace.made.push(Made {
                cells,
                h: x,
                tokens,
                picked,
            });
        }
        trace
    }

    /// (token, tanh of its logit, probability) of each allowed token.
    fn distribution(
        &self,
        allowed: impl Iterator<Item = usize>,
        h: &[f64],
    ) -> Vec<(usize, f64, f64)> {
        let squashed = |token: usize| {
            let row = self.row(self.layout.prediction(), token).iter().zip(h);
            let sum: f64 = row.map(|(&w, &h)| f64::from(w) * h).sum();
            let bias = f64::from(self.parameters[self.layout.bias() + token]);
            ((sum + bias) / TEMPERATURE).tanh()
        };
        let mut tokens: Vec<_> = allowed
            .map(|token| {
                let squashed = squashed(token);
                // Logits are bounded by k, so nothing overflows.
                (token, squashed, (TANH_CONSTANT * squashed).exp())
            })
            .collect();
        let sum: f64 = tokens.iter().map(|t| t.2).sum();
        for token in &mut tokens {
            token.2 /= sum;
        }
        tokens
    }

    /// Adds `factor`·∂(−log π)/∂parameters of a drawn sequence to `gradient`.
    pub fn add_gradient(&self, trace: &Trace, factor: f64, gradient: &mut [f64]) {
        let mut later = vec![(vec![0.0; WIDTH], vec![0.0; WIDTH]); LAYERS];
        for (number, made) in trace.made.iter().enumerate().rev() {
            let mut h_bar = self.prediction_gradient(made, factor, gradient);
            for layer in (0..LAYERS).rev() {
                let (h_later, c_later) = &mut later[layer];
                for (h_bar, later) in h_bar.iter_mut().zip(h_later.iter()) {
                    *h_bar += later;
                }
                let cell = &made.cells[layer];
                h_bar = self.cell_gradient(layer, cell, &h_bar, (h_later, c_later), gradient);
            }
            let first = match number.checked_sub(1) {
                None => self.layout.start(),
                Some(before) => self.layout.embedding() + trace.made[before].picked * WIDTH,
            };
            for (gradient, x_bar) in gradient[first..].iter_mut().zip(&h_bar) {
                *gradient += x_bar;
            }
        }
    }

    /// The gradient of one decision's logits; returns h̄.
    fn prediction_gradient(&self, made: &Made, factor: f64, gradient: &mut [f64]) -> Vec<f64> {
        let mut h_bar = vec![0.0; WIDTH];
        for &(token, squashed, probability) in &made.tokens {
            let hit = f64::from(u8::from(token == made.picked));
            let logit_bar = factor * (probability - hit);
            let slope = TANH_CONSTANT * (1.0 - squashed * squashed) / TEMPERATURE;
            let bar = logit_bar * slope;
            gradient[self.layout.bias() + token] += bar;
            let first = self.layout.prediction() + token * WIDTH;
            for i in 0..WIDTH {
                gradient[first + i] += bar * made.h[i];
                h_bar[i] += bar * f64::from(self.parameters[first + i]);
            }
        }
        h_bar
    }

    /// The gradient of one layer's step from h̄; returns x̄ and leaves what goes to the step before.
    fn cell_gradient(
        &self,
        layer: usize,
        cell: &Cell,
        h_bar: &[f64],
        (h_before_bar, c_bar): (&mut [f64], &mut [f64]),
        gradient: &mut [f64],
    ) -> Vec<f64> {
        let [of_x, of_h, bias] = self.layout.layer(layer);
        let mut sums = vec![0.0; GATES];
        for i in 0..WIDTH {
            let [input, forget, new, output] =
                [0, 1, 2, 3].map(|which| cell.gates[which * WIDTH + i]);
            let squashed = cell.c[i].tanh();
            let c = c_bar[i] + h_bar[i] * output * (1.0 - squashed * squashed);
            sums[i] = c * new * input * (1.0 - input);
            sums[WIDTH + i] = c * cell.c_before[i] * forget * (1.0 - forget);
            sums[2 * WIDTH + i] = c * input * (1.0 - new * new);
            sums[3 * WIDTH + i] = h_bar[i] * squashed * output * (1.0 - output);
            c_bar[i] = c * forget;
        }
        let mut x_bar = vec![0.0; WIDTH];
        h_before_bar.fill(0.0);
        for (gate, &sum) in sums.iter().enumerate() {
            gradient[bias + gate] += sum;
            let (w, u) = (of_x + gate * WIDTH, of_h + gate * WIDTH);
            for i in 0..WIDTH {
                gradient[w + i] += sum * cell.x[i];
                gradient[u + i] += sum * cell.h_before[i];
                x_bar[i] += sum * f64::from(self.parameters[w + i]);
                h_before_bar[i] += sum * f64::from(self.parameters[u + i]);
            }
        }
        x_bar
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_matches_differences_in_every_tensor() {
        for space in Space::ALL {
            let mut controller = Controller::new(space, 4);
            // Large enough for every nonlinearity to bend.
            for (i, parameter) in controller.parameters.iter_mut().enumerate() {
                *parameter = *parameter * 4.0 + 0.05 * (i as f32).sin();
            }
            let pick = |number: usize, p: &[f32]| (3 * number + 1) % p.len();
            let trace = controller.run(pick);
            let mut gradient = vec![0.0; controller.parameters.len()];
            controller.add_gradient(&trace, 1.0, &mut gradient);
            let layout = controller.layout.clone();
            let mut starts = vec![layout.start(), layout.embedding(), layout.prediction()];
            starts.extend((0..LAYERS).flat_map(|layer| layout.layer(layer)));
            starts.push(layout.bias());
            for start in starts {
                for i in [start, start + 1, (start + 37).min(layout.len() - 1)] {
                    let mut at = |step: f32| {
                        let before = controller.parameters[i];
                        controller.parameters[i] = before + step;
                        let moved = f64::from(controller.parameters[i]);
                        let found = -controller.run(pick).log_probability;
                        controller.parameters[i] = before;
                        (found, moved)
                    };
                    let ((up, above), (down, below)) = (at(1e-3), at(-1e-3));
                    let slope = (up - down) / (above - below);
                    let error = (slope - gradient[i]).abs();
                    assert!(
                        error < 1e-6 + 1e-4 * slope.abs(),
                        "{space:?}, {i}: {slope} {}",
                        gradient[i]
                    );
                }
            }
        }
    }

    #[test]
    fn decisions_of_a_node_pick_two_different_states_below_it() {
        let controller = Controller::new(Space::Darts, 1);
        let ops = Space::Darts.op_names().len();
        for salt in 0..20 {
            let trace = controller.run(|number, p| (number + salt) % p.len());
            for (place, made) in trace.picked().chunks(4).enumerate() {
                let states = [made[0] - ops, made[1] - ops];
                assert!(states[0] != states[1]);
                assert!(states.iter().all(|&state| state < place % NODES + 2));
                assert!(made[2] < ops && made[3] < ops);
            }
        }
    }

    #[test]
    fn probabilities_of_a_decision_sum_to_one() {
        let controller = Controller::new(Space::NasBench201, 1);
        let trace = controller.run(|_, p| {
            assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            0
        });
        // Fresh, nothing is preferred.
        assert!((trace.entropy - 6.0 * 5f64.ln()).abs() < 1e-2);
    }
}
