//! The DARTS supernet (Liu et al. 2019, search network of the official code).
//!
//! Stem 3×3 to 3C; cells of four nodes; reduction cells at L/3 and 2L/3, where C doubles. A cell's
//! nodes are written side by side into one activation, so its concatenation costs nothing. In the
//! cells batch norm has no γ and β.

use super::Recorder;
use crate::ops::mix::Term;
use crate::ops::pool::Kind;
use crate::ops::separable::{Branch, Group};
use crate::ops::{ActivationId, ParameterId, Scale, WeightsId};
use crate::space::{DARTS_EDGES, DARTS_OPS};

const NODES: usize = 4;
const STEM_MULTIPLIER: usize = 3;

/// Columns of α.
const MAX_POOL: usize = 1;
const AVG_POOL: usize = 2;
const SKIP: usize = 3;
const SEP_3: usize = 4;
const SEP_5: usize = 5;
const DIL_3: usize = 6;
const DIL_5: usize = 7;

pub(super) fn record(r: &mut Recorder, channels: usize, cells: usize, classes: usize) {
    let normal = r.alpha("alphas_normal", DARTS_EDGES.len(), DARTS_OPS.len());
    let reduce = r.alpha("alphas_reduce", DARTS_EDGES.len(), DARTS_OPS.len());
    let stem_channels = STEM_MULTIPLIER * channels;
    let names = ("stem.0.weight".to_owned(), "stem.1");
    let stem = r.conv_norm(r.tape.images, names, stem_channels, (3, 1), false);
    let (mut before, mut last) = (stem, stem);
    let (mut channels, mut reduced) = (channels, false);
    for index in 0..cells {
        let reduction = index == cells / 3 || index == 2 * cells / 3;
        if reduction {
            channels *= 2;
        }
        let cell = Cell {
            name: format!("cells.{index}"),
            channels,
            stride: if reduction { 2 } else { 1 },
            weights: if reduction { reduce } else { normal },
        };
        let output = cell.record(r, before, last, reduced);
        (before, last, reduced) = (last, output, reduction);
    }
    r.classifier(last, false, classes);
}

struct Cell {
    name: String,
    channels: usize,
    /// Of the edges that read the cell's inputs.
    stride: usize,
    weights: WeightsId,
}

/// Weights of one edge's ops.
struct EdgeWeights {
    /// Depthwise and pointwise of both halves of sep 3×3 and 5×5, and of dil 3×3 and 5×5.
    sep: [[(ParameterId, ParameterId); 2]; 2],
    dil: [(ParameterId, ParameterId); 2],
    /// Of the skip at stride 2.
    reduce: Option<[ParameterId; 2]>,
}

/// Normalised results of one edge's ops, by column of α; a skip at stride 1 is the state itself.
type Branches = Vec<(usize, ActivationId)>;

impl Cell {
    fn record(
        &self,
        r: &mut Recorder,
        before: ActivationId,
        last: ActivationId,
        reduced: bool,
    ) -> ActivationId {
        let name = &self.name;
        let first = if reduced {
            let weights = self.factorized(r, &format!("{name}.preprocess0"), before);
            let z = r.tape.factorized_reduce(before, self.channels, weights);
            r.tape.norm(z, None)
        } else {
            self.preprocess(r, &format!("{name}.preprocess0"), before)
        };
        let second = self.preprocess(r, &format!("{name}.preprocess1"), last);
        let weights: Vec<_> = (0..DARTS_EDGES.len())
            .map(|edge| self.edge_weights(r, edge, first))
            .collect();
        let size = r.tape.size(first).map(|s| s / self.stride);
        let output = r.tape.activation(size, NODES * self.channels, false);
        let nodes: Vec<_> = (0..NODES)
            .map(|i| r.tape.slice(output, i * self.channels, self.channels))
            .collect();
        let mut states = vec![first, second];
        let mut branches: Vec<Branches> = vec![Vec::new(); DARTS_EDGES.len()];
        self.read_states(r, &states, 0, &weights, &mut branches);
        for (node, &to) in nodes.iter().enumerate() {
            self.mix(r, node, &states, &branches, to);
            states.push(to);
            if node + 1 < NODES {
                self.read_states(r, &states, 2 + node, &weights, &mut branches);
            }
        }
        output
    }

    fn preprocess(&self, r: &mut Recorder, name: &str, input: ActivationId) -> ActivationId {
        let cin = r.tape.channels(input);
        let weight = r.conv_weight(format!("{name}.op.1.weight"), self.channels, cin, 1);
        let z = r
            .tape
            .conv(input, (1, 1), self.channels, true, true, (weight, None));
        r.tape.norm(z, None)
    }

    fn factorized(&self, r: &mut Recorder, name: &str, input: ActivationId) -> [ParameterId; 2] {
        let cin = r.tape.channels(input);
        let half = self.channels / 2;
        [(1, half), (2, self.channels - half)]
            .map(|(i, cout)| r.conv_weight(format!("{name}.conv_{i}.weight"), cout, cin, 1))
    }

    fn edge_weights(&self, r: &mut Recorder, edge: usize, state: ActivationId) -> EdgeWeights {
        let c = self.channels;
        let edge_name = format!("{}._ops.{edge}._ops", self.name);
        let strided = self.stride == 2 && DARTS_EDGES[edge].from < 2;
        let reduce = strided.then(|| self.factorized(r, &format!("{edge_name}.{SKIP}"), state));
        let mut pair = |op: usize, at: usize, k: usize| {
            let name = |i| format!("{edge_name}.{op}.op.{i}.weight");
            (
                r.depthwise_weight(name(at), c, k),
                r.conv_weight(name(at + 1), c, c, 1),
            )
        };
        EdgeWeights {
            sep: [(SEP_3, 3), (SEP_5, 5)].map(|(op, k)| [pair(op, 1, k), pair(op, 5, k)]),
            dil: [(DIL_3, 3), (DIL_5, 5)].map(|(op, k)| pair(op, 1, k)),
            reduce,
        }
    }

    /// Records every op that reads one of the states from `first` on, for all outgoing edges.
    fn read_states(
        &self,
        r: &mut Recorder,
        states: &[ActivationId],
        first: usize,
        weights: &[EdgeWeights],
        branches: &mut [Branches],
    ) {
        let mut groups = Vec::new();
        let mut second = Vec::new();
        for (number, &state) in states.iter().enumerate().skip(first) {
            let stride = if number < 2 { self.stride } else { 1 };
            let size = r.tape.size(state).map(|s| s / stride);
            let outgoing = (0..DARTS_EDGES.len()).filter(|&e| DARTS_EDGES[e].from == number);
            let mut group = Group {
                input: state,
                branches: Vec::new(),
            };
            for edge in outgoing.clone() {
                let branch = |r: &mut Recorder, kernel, stride, dilation, (w, p)| {
                    let output = r.tape.activation(size, self.channels, true);
                    let branch = Branch {
                        kernel,
                        stride,
                        dilation,
                        depthwise: w,
                        pointwise: p,
                        output,
                    };
                    (output, branch)
                };
                for (i, (op, kernel)) in [(SEP_3, 3), (SEP_5, 5)].into_iter().enumerate() {
                    let [w1, w2] = weights[edge].sep[i];
                    let (middle, half) = branch(r, kernel, stride, 1, w1);
                    group.branches.push(half);
                    let (output, half) = branch(r, kernel, 1, 1, w2);
                    second.push(Group {
                        input: middle,
                        branches: vec![half],
                    });
                    branches[edge].push((op, output));
                }
                for (i, (op, kernel)) in [(DIL_3, 3), (DIL_5, 5)].into_iter().enumerate() {
                    let (output, whole) = branch(r, kernel, stride, 2, weights[edge].dil[i]);
                    group.branches.push(whole);
                    branches[edge].push((op, output));
                }
            }
            groups.push(group);
        }
        r.tape.separable(groups);
        r.tape.separable(second);
        for (number, &state) in states.iter().enumerate().skip(first) {
            let stride = if number < 2 { self.stride } else { 1 };
            let pools = r
                .tape
                .pool(state, stride, &[Kind::Maximum3, Kind::Average3], true);
            for edge in (0..DARTS_EDGES.len()).filter(|&e| DARTS_EDGES[e].from == number) {
                branches[edge].push((MAX_POOL, pools[0]));
                branches[edge].push((AVG_POOL, pools[1]));
                if let Some(weights) = weights[edge].reduce {
                    let z = r.tape.factorized_reduce(state, self.channels, weights);
                    branches[edge].push((SKIP, z));
                }
            }
        }
    }

    /// Sums a node's incoming edges.
    fn mix(
        &self,
        r: &mut Recorder,
        node: usize,
        states: &[ActivationId],
        branches: &[Branches],
        to: ActivationId,
    ) {
        let mut terms = Vec::new();
        for (edge, between) in DARTS_EDGES
            .iter()
            .enumerate()
            .filter(|(_, e)| e.to == node + 2)
        {
            let scale = |op: usize| Scale::OpWeight(self.weights, edge * DARTS_OPS.len() + op);
            let strided = self.stride == 2 && between.from < 2;
            if !strided {
                terms.push(Term {
                    input: states[between.from],
                    scale: scale(SKIP),
                });
            }
            for &(op, z) in &branches[edge] {
                terms.push(Term {
                    input: z,
                    scale: scale(op),
                });
            }
        }
        r.tape.mix(terms, None, to);
    }
}
