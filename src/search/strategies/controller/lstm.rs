//! An LSTM that draws an architecture decision by decision, and the gradient of −log π.
//!
//! Each decision picks one of some *tokens*, the ops and, in the DARTS and NASNet spaces, the states an edge
//! may come from. The token picked is embedded and fed to the next decision:
//!
//! ```text
//! (h, c) = LSTM(x, h, c)     ℓ_j = w_j·h + b_j  or  k·tanh((w_j·h + b_j)/T)
//! π = softmax of ℓ over the decision's tokens
//! ```
//!
//! It is small beside a supernet, so the code is the formula, in f64.

use super::super::{Draw, rng};
use crate::space::Space;
use crate::space::genotype::darts::EDGES_PER_NODE;
use rand::RngExt;
use std::ops::Range;

/// Gates of a layer: input, forget, cell, output.
const GATES: usize = 4;

/// Sizes of a controller.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Shape {
    /// H: width of the LSTM.
    pub width: usize,
    /// Its layers.
    pub layers: usize,
    /// What a token's score becomes.
    pub logits: Logits,
}

/// From a token's score w·h + b to its logit.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Logits {
    /// The score itself.
    Plain,
    /// k·tanh(score/T)
    Bounded {
        /// k
        bound: f64,
        /// T
        temperature: f64,
    },
}

impl Logits {
    /// The logit, and its derivative in the score.
    fn of(self, score: f64) -> (f64, f64) {
        match self {
            Logits::Plain => (score, 1.0),
            Logits::Bounded { bound, temperature } => {
                let squashed = (score / temperature).tanh();
                let slope = bound * (1.0 - squashed * squashed) / temperature;
                (bound * squashed, slope)
            }
        }
    }

    /// What is taken off every logit before its exponential: nothing where none is large.
    fn offset(self, logits: impl Iterator<Item = f64>) -> f64 {
        match self {
            Logits::Plain => logits.fold(f64::NEG_INFINITY, f64::max),
            Logits::Bounded { .. } => 0.0,
        }
    }
}

/// One choice: the tokens it may pick, but for one that is taken already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    tokens: Range<usize>,
    /// The decision before this one, whose token may not be picked again.
    differs: bool,
}

/// The decisions that make an architecture of `space`: its six ops in NAS-Bench-201; in the DARTS and NASNet
/// spaces, for each node of each cell, two states, which differ in that of DARTS, and their ops.
pub(super) fn decisions(space: Space) -> Vec<Decision> {
    let ops = space.op_names().len();
    let op = Decision {
        tokens: 0..ops,
        differs: false,
    };
    match space {
        Space::NasBench201 => vec![op; space.edges().len()],
        Space::Darts | Space::Nasnet => {
            let node = |node: usize| {
                let state = |differs| Decision {
                    tokens: ops..ops + node + EDGES_PER_NODE,
                    differs,
                };
                let second = state(space == Space::Darts);
                [state(false), second, op.clone(), op.clone()]
            };
            let cell = |_| (0..space.nodes()).flat_map(node);
            (0..space.alphas().len()).flat_map(cell).collect()
        }
    }
}

/// Where each tensor lies in the parameters.
#[derive(Clone, Debug)]
struct Layout {
    /// H
    width: usize,
    layers: usize,
    tokens: usize,
}

impl Layout {
    /// Rows of a layer's matrices.
    fn gates(&self) -> usize {
        GATES * self.width
    }
    /// [H], the first input.
    fn start(&self) -> usize {
        0
    }
    /// [4H, H] of the input, [4H, H] of h, [4H].
    fn layer(&self, layer: usize) -> [usize; 3] {
        let (width, gates) = (self.width, self.gates());
        let first = width + layer * (2 * gates * width + gates);
        [first, first + gates * width, first + 2 * gates * width]
    }
    /// [tokens, H]
    fn embedding(&self) -> usize {
        self.layer(self.layers)[0]
    }
    /// [tokens, H]
    fn prediction(&self) -> usize {
        self.embedding() + self.tokens * self.width
    }
    /// [tokens]
    fn bias(&self) -> usize {
        self.prediction() + self.tokens * self.width
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
    /// The tokens that were allowed.
    tokens: Vec<Token>,
    /// The place of the picked one among them.
    place: usize,
    entropy: f64,
}

impl Made {
    fn picked(&self) -> usize {
        self.tokens[self.place].token
    }
}

/// A token that a decision may pick.
#[derive(Clone, Copy, Debug)]
struct Token {
    token: usize,
    /// Its logit's derivative in its score.
    slope: f64,
    probability: f64,
}

/// A drawn sequence.
#[derive(Clone, Debug)]
pub(in super::super) struct Trace {
    made: Vec<Made>,
    /// log π of all of it.
    pub log_probability: f64,
    /// Sum of the decisions' entropies.
    pub entropy: f64,
}

impl Trace {
    /// The token of each decision.
    pub fn picked(&self) -> Vec<usize> {
        self.made.iter().map(Made::picked).collect()
    }

    /// The place of each among the tokens that were allowed: what draws the same again.
    pub fn places(&self) -> Vec<usize> {
        self.made.iter().map(|made| made.place).collect()
    }
}

/// See the module.
pub(in super::super) struct Controller {
    decisions: Vec<Decision>,
    layout: Layout,
    logits: Logits,
    /// All parameters.
    pub parameters: Vec<f32>,
}

/// ln p, finite where a plain logit leaves nothing of p.
fn ln(probability: f64) -> f64 {
    probability.max(f64::MIN_POSITIVE).ln()
}

fn logistic(a: f64) -> f64 {
    1.0 / (1.0 + (-a).exp())
}

impl Controller {
    /// Parameters from U(−0.1, 0.1), biases of the gates and the prediction zero.
    pub fn new(space: Space, shape: Shape, seed: u64) -> Controller {
        let decisions = decisions(space);
        let tokens = decisions.iter().map(|d| d.tokens.end).max().unwrap_or(0);
        let Shape {
            width,
            layers,
            logits,
        } = shape;
        let layout = Layout {
            width,
            layers,
            tokens,
        };
        let mut rng = rng(seed, Draw::Start, 1);
        let drawn = std::iter::repeat_with(|| 0.2 * rng.random::<f32>() - 0.1);
        let mut parameters: Vec<f32> = drawn.take(layout.len()).collect();
        for layer in 0..layers {
            let bias = layout.layer(layer)[2];
            parameters[bias..bias + layout.gates()].fill(0.0);
        }
        parameters[layout.bias()..].fill(0.0);
        Controller {
            decisions,
            layout,
            logits,
            parameters,
        }
    }

    fn row(&self, first: usize, row: usize) -> &[f32] {
        let width = self.layout.width;
        &self.parameters[first + row * width..][..width]
    }

    /// (h, c) of every layer, zero.
    fn zeros(&self) -> Vec<(Vec<f64>, Vec<f64>)> {
        let zeros = vec![0.0; self.layout.width];
        vec![(zeros.clone(), zeros); self.layout.layers]
    }

    /// One layer's step.
    fn cell(&self, layer: usize, x: Vec<f64>, h: &[f64], c: &[f64]) -> (Cell, Vec<f64>) {
        let (width, [of_x, of_h, bias]) = (self.layout.width, self.layout.layer(layer));
        let sum = |gate: usize| {
            let mut sum = f64::from(self.parameters[bias + gate]);
            let rows = self.row(of_x, gate).iter().zip(self.row(of_h, gate));
            for ((&w, &u), (&x, &h)) in rows.zip(x.iter().zip(h)) {
                sum += f64::from(w) * x + f64::from(u) * h;
            }
            sum
        };
        let of = |gate: usize| match gate / width {
            2 => sum(gate).tanh(),
            _ => logistic(sum(gate)),
        };
        let gates: Vec<f64> = (0..self.layout.gates()).map(of).collect();
        let gate = |which: usize, i: usize| gates[which * width + i];
        let c_now = |i: usize| gate(1, i) * c[i] + gate(0, i) * gate(2, i);
        let c_now: Vec<f64> = (0..width).map(c_now).collect();
        let h_now = (0..width).map(|i| gate(3, i) * c_now[i].tanh()).collect();
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
        let mut state = self.zeros();
        for (number, decision) in self.decisions.iter().enumerate() {
            let before = trace.made.last().map(Made::picked);
            let input = match before {
                None => self.row(self.layout.start(), 0),
                Some(token) => self.row(self.layout.embedding(), token),
            };
            let mut x: Vec<f64> = input.iter().map(|&x| f64::from(x)).collect();
            let mut cells = Vec::with_capacity(self.layout.layers);
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
            let probabilities = || tokens.iter().map(|t| t.probability);
            let drawn: Vec<f32> = probabilities().map(|p| p as f32).collect();
            let place = pick(number, &drawn);
            let entropy = -probabilities().map(|p| p * ln(p)).sum::<f64>();
            trace.log_probability += ln(tokens[place].probability);
            trace.entropy += entropy;
            trace.made.push(Made {
                cells,
                h: x,
                tokens,
                place,
                entropy,
            });
        }
        trace
    }

    /// The allowed tokens with their probabilities.
    fn distribution(&self, allowed: impl Iterator<Item = usize>, h: &[f64]) -> Vec<Token> {
        let score = |token: usize| {
            let row = self.row(self.layout.prediction(), token).iter().zip(h);
            let sum: f64 = row.map(|(&w, &h)| f64::from(w) * h).sum();
            sum + f64::from(self.parameters[self.layout.bias() + token])
        };
        let mut tokens: Vec<Token> = allowed
            .map(|token| {
                let (logit, slope) = self.logits.of(score(token));
                Token {
                    token,
                    slope,
                    probability: logit,
                }
            })
            .collect();
        let offset = self.logits.offset(tokens.iter().map(|t| t.probability));
        for token in &mut tokens {
            token.probability = (token.probability - offset).exp();
        }
        let sum: f64 = tokens.iter().map(|t| t.probability).sum();
        for token in &mut tokens {
            token.probability /= sum;
        }
        tokens
    }

    /// Adds ∂(−`factor`·log π − `entropy`·H)/∂parameters of a drawn sequence to `gradient`; H is the sum of
    /// the decisions' entropies.
    pub fn add_gradient(&self, trace: &Trace, factor: f64, entropy: f64, gradient: &mut [f64]) {
        let mut later = self.zeros();
        for (number, made) in trace.made.iter().enumerate().rev() {
            let mut h_bar = self.prediction_gradient(made, (factor, entropy), gradient);
            for layer in (0..self.layout.layers).rev() {
                let (h_later, c_later) = &mut later[layer];
                for (h_bar, later) in h_bar.iter_mut().zip(h_later.iter()) {
                    *h_bar += later;
                }
                let cell = &made.cells[layer];
                h_bar = self.cell_gradient(layer, cell, &h_bar, (h_later, c_later), gradient);
            }
            let first = match number.checked_sub(1) {
                None => self.layout.start(),
                Some(before) => {
                    self.layout.embedding() + trace.made[before].picked() * self.layout.width
                }
            };
            for (gradient, x_bar) in gradient[first..].iter_mut().zip(&h_bar) {
                *gradient += x_bar;
            }
        }
    }

    /// The gradient of one decision's logits; returns h̄.
    fn prediction_gradient(
        &self,
        made: &Made,
        (factor, entropy): (f64, f64),
        gradient: &mut [f64],
    ) -> Vec<f64> {
        let width = self.layout.width;
        let mut h_bar = vec![0.0; width];
        for (
            place,
            &Token {
                token,
                slope,
                probability,
            },
        ) in made.tokens.iter().enumerate()
        {
            let hit = f64::from(u8::from(place == made.place));
            // ∂H/∂ℓ_j = −π_j·(ln π_j + H)
            let spread = entropy * probability * (ln(probability) + made.entropy);
            let bar = (factor * (probability - hit) + spread) * slope;
            gradient[self.layout.bias() + token] += bar;
            let first = self.layout.prediction() + token * width;
            for i in 0..width {
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
        let (width, [of_x, of_h, bias]) = (self.layout.width, self.layout.layer(layer));
        let mut sums = vec![0.0; self.layout.gates()];
        for i in 0..width {
            let [input, forget, new, output] =
                [0, 1, 2, 3].map(|which| cell.gates[which * width + i]);
            let squashed = cell.c[i].tanh();
            let c = c_bar[i] + h_bar[i] * output * (1.0 - squashed * squashed);
            sums[i] = c * new * input * (1.0 - input);
            sums[width + i] = c * cell.c_before[i] * forget * (1.0 - forget);
            sums[2 * width + i] = c * input * (1.0 - new * new);
            sums[3 * width + i] = h_bar[i] * squashed * output * (1.0 - output);
            c_bar[i] = c * forget;
        }
        let mut x_bar = vec![0.0; width];
        h_before_bar.fill(0.0);
        for (gate, &sum) in sums.iter().enumerate() {
            gradient[bias + gate] += sum;
            let (w, u) = (of_x + gate * width, of_h + gate * width);
            for i in 0..width {
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

    const SHAPES: [Shape; 2] = [
        Shape {
            width: 32,
            layers: 2,
            logits: Logits::Bounded {
                bound: 2.5,
                temperature: 5.0,
            },
        },
        Shape {
            width: 20,
            layers: 1,
            logits: Logits::Plain,
        },
    ];

    #[test]
    fn the_gradient_matches_differences_in_every_tensor() {
        for (space, shape) in Space::ALL
            .into_iter()
            .flat_map(|s| SHAPES.map(|shape| (s, shape)))
        {
            let mut controller = Controller::new(space, shape, 4);
            // Large enough for every nonlinearity to bend.
            for (i, parameter) in controller.parameters.iter_mut().enumerate() {
                *parameter = *parameter * 4.0 + 0.05 * (i as f32).sin();
            }
            let pick = |number: usize, p: &[f32]| (3 * number + 1) % p.len();
            let trace = controller.run(pick);
            let mut gradient = vec![0.0; controller.parameters.len()];
            controller.add_gradient(&trace, 1.0, 0.5, &mut gradient);
            let layout = controller.layout.clone();
            let mut starts = vec![layout.start(), layout.embedding(), layout.prediction()];
            starts.extend((0..shape.layers).flat_map(|layer| layout.layer(layer)));
            starts.push(layout.bias());
            for start in starts {
                for i in [start, start + 1, (start + 37).min(layout.len() - 1)] {
                    let mut at = |step: f32| {
                        let before = controller.parameters[i];
                        controller.parameters[i] = before + step;
                        let moved = f64::from(controller.parameters[i]);
                        let found = controller.run(pick);
                        controller.parameters[i] = before;
                        (-found.log_probability - 0.5 * found.entropy, moved)
                    };
                    let ((up, above), (down, below)) = (at(1e-3), at(-1e-3));
                    let slope = (up - down) / (above - below);
                    let error = (slope - gradient[i]).abs();
                    assert!(
                        error < 1e-6 + 1e-4 * slope.abs(),
                        "{space:?}, {shape:?}, {i}: {slope} {}",
                        gradient[i]
                    );
                }
            }
        }
    }

    #[test]
    fn decisions_of_a_node_pick_states_below_it_and_in_darts_two_different_ones() {
        for space in [Space::Darts, Space::Nasnet] {
            let controller = Controller::new(space, SHAPES[0], 1);
            let (ops, nodes) = (space.op_names().len(), space.nodes());
            let mut same = 0;
            for salt in 0..20 {
                let trace = controller.run(|number, p| (number * salt + salt) % p.len());
                for (place, made) in trace.picked().chunks(4).enumerate() {
                    let states = [made[0] - ops, made[1] - ops];
                    same += usize::from(states[0] == states[1]);
                    assert!(states.iter().all(|&state| state < place % nodes + 2));
                    assert!(made[2] < ops && made[3] < ops);
                }
            }
            assert_eq!(same == 0, space == Space::Darts, "{space:?}: {same}");
        }
    }

    #[test]
    fn places_repeat_a_sequence() {
        let controller = Controller::new(Space::Darts, SHAPES[1], 1);
        let trace = controller.run(|number, p| (5 * number + 2) % p.len());
        let places = trace.places();
        let again = controller.run(|number, _| places[number]);
        assert_eq!(again.picked(), trace.picked());
        assert_eq!(again.log_probability, trace.log_probability);
    }

    #[test]
    fn probabilities_of_a_decision_sum_to_one() {
        for shape in SHAPES {
            let controller = Controller::new(Space::NasBench201, shape, 1);
            let trace = controller.run(|_, p| {
                assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                0
            });
            // Fresh, nothing is preferred.
            assert!((trace.entropy - 6.0 * 5f64.ln()).abs() < 1e-2);
        }
    }
}
