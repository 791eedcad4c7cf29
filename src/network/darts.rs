//! The DARTS supernet (Liu et al. 2019, search network of the official code).
//!
//! Cells of four nodes in the row of [`super::skeleton`]. A cell's nodes are written side by side into one
//! activation, so its concatenation costs nothing. Of the ops that a [`Variant`] leaves out nothing is
//! recorded.

use super::{Recorder, Variant};
use crate::ops::mix::Term;
use crate::ops::pool::Kind;
use crate::ops::relax::Relaxation;
use crate::ops::separable::{Branch, Group};
use crate::ops::{ActivationId, ParameterId, Scale, WeightsId};
use crate::space::{DARTS_EDGES, DARTS_OPS};

const NODES: usize = 4;

/// Columns of α.
const MAX_POOL: usize = 1;
const AVG_POOL: usize = 2;
const SKIP: usize = 3;
const SEP_3: usize = 4;
const SEP_5: usize = 5;
const DIL_3: usize = 6;
const DIL_5: usize = 7;

pub(super) fn record(
    r: &mut Recorder,
    channels: usize,
    cells: usize,
    classes: usize,
    variant: &Variant,
) {
    let all = vec![true; 2 * CHOICES];
    let kept = if variant.kept.is_empty() {
        &all
    } else {
        &variant.kept
    };
    assert_eq!(kept.len(), all.len(), "one flag an op of an edge");
    let [normal, reduce] = match variant.partial {
        None => ["alphas_normal", "alphas_reduce"]
            .map(|name| r.alpha(name, DARTS_EDGES.len(), DARTS_OPS.len())),
        Some(_) => {
            assert!(
                variant.relaxation == Relaxation::Softmax,
                "relaxed by the tape"
            );
            let into: Vec<usize> = (0..NODES).map(|node| node + 2).collect();
            r.edge_alphas(["normal", "reduce"], &into, DARTS_OPS.len())
        }
    };
    r.row_of_cells(channels, cells, classes, |r, place, inputs| {
        let cell = Cell {
            name: &place.name,
            channels: place.channels,
            stride: place.stride(),
            weights: if place.reduction { reduce } else { normal },
            kept: if place.reduction {
                &kept[CHOICES..]
            } else {
                &kept[..CHOICES]
            },
            dropout: variant.dropout,
            partial: variant.partial,
        };
        cell.record(r, inputs)
    });
}

/// Ops of all edges of a cell.
const CHOICES: usize = DARTS_EDGES.len() * DARTS_OPS.len();

struct Cell<'a> {
    name: &'a str,
    channels: usize,
    /// Of the edges that read the cell's inputs.
    stride: usize,
    weights: WeightsId,
    /// Which ops of each edge there are, `[14, 8]`.
    kept: &'a [bool],
    /// Behind skip connections of stride 1.
    dropout: bool,
    /// K of PC-DARTS.
    partial: Option<usize>,
}

/// A state as the edges that leave it read it.
#[derive(Clone, Copy)]
struct State {
    /// What goes through the ops: all of it, or PC-DARTS' first channels.
    mixed: ActivationId,
    /// What goes by them, as edges of stride 1 read it and as those of the cell's stride do.
    bypass: Option<[ActivationId; 2]>,
}

/// Weights of one edge's ops, where it has them.
struct EdgeWeights {
    /// Depthwise and pointwise of both halves of sep 3×3 and 5×5, and of dil 3×3 and 5×5.
    sep: [Option<[(ParameterId, ParameterId); 2]>; 2],
    dil: [Option<(ParameterId, ParameterId)>; 2],
    /// Of the skip at stride 2.
    reduce: Option<[ParameterId; 2]>,
}

/// Normalised results of one edge's ops, by column of α; a skip at stride 1 is the state itself.
type Branches = Vec<(usize, ActivationId)>;

impl Cell<'_> {
    fn has(&self, edge: usize, op: usize) -> bool {
        self.kept[edge * DARTS_OPS.len() + op]
    }

    /// Columns of op weights an edge: the last of PC-DARTS is the edge's own weight.
    fn columns(&self) -> usize {
        DARTS_OPS.len() + usize::from(self.partial.is_some())
    }

    /// Channels that go through the ops.
    fn width(&self) -> usize {
        self.channels / self.partial.unwrap_or(1)
    }

    /// The state in channels `first..` of `whole`; `stride` is that of edges that pass the rest by.
    fn state(&self, r: &mut Recorder, whole: ActivationId, first: usize, stride: usize) -> State {
        let width = self.width();
        let mixed = if r.tape.channels(whole) == width {
            whole
        } else {
            r.tape.slice(whole, first, width)
        };
        let bypass = self.partial.map(|_| {
            let rest = r.tape.slice(whole, first + width, self.channels - width);
            if stride == 1 {
                return [rest; 2];
            }
            [rest, r.tape.pool(rest, stride, &[Kind::Maximum2], false)[0]]
        });
        State { mixed, bypass }
    }

    fn record(&self, r: &mut Recorder, inputs: [ActivationId; 2]) -> ActivationId {
        let size = r.tape.size(inputs[0]).map(|s| s / self.stride);
        let output = r.tape.activation(size, NODES * self.channels, false);
        let mut states: Vec<State> = inputs
            .into_iter()
            .map(|input| self.state(r, input, 0, self.stride))
            .collect();
        let weights: Vec<_> = (0..DARTS_EDGES.len())
            .map(|edge| self.edge_weights(r, edge))
            .collect();
        let mut branches: Vec<Branches> = vec![Vec::new(); DARTS_EDGES.len()];
        self.read_states(r, &states, 0, &weights, &mut branches);
        for node in 0..NODES {
            let at = node * self.channels;
            self.node(r, node, &states, &branches, (output, at));
            states.push(self.state(r, output, at, 1));
            if node + 1 < NODES {
                self.read_states(r, &states, 2 + node, &weights, &mut branches);
            }
        }
        output
    }

    fn edge_weights(&self, r: &mut Recorder, edge: usize) -> EdgeWeights {
        let c = self.width();
        let edge_name = format!("{}._ops.{edge}._ops", self.name);
        let strided = self.stride == 2 && DARTS_EDGES[edge].from < 2;
        let reduce = (strided && self.has(edge, SKIP))
            .then(|| r.factorized(&format!("{edge_name}.{SKIP}"), c, c));
        let mut pair = |op: usize, at: usize, k: usize| {
            r.separable_weights(&format!("{edge_name}.{op}"), at, c, k)
        };
        EdgeWeights {
            sep: [(SEP_3, 3), (SEP_5, 5)]
                .map(|(op, k)| self.has(edge, op).then(|| [pair(op, 1, k), pair(op, 5, k)])),
            dil: [(DIL_3, 3), (DIL_5, 5)].map(|(op, k)| self.has(edge, op).then(|| pair(op, 1, k))),
            reduce,
        }
    }

    /// Records every op that reads one of the states from `first` on, for all outgoing edges.
    fn read_states(
        &self,
        r: &mut Recorder,
        states: &[State],
        first: usize,
        weights: &[EdgeWeights],
        branches: &mut [Branches],
    ) {
        let mut groups = Vec::new();
        let mut second = Vec::new();
        for (number, state) in states.iter().enumerate().skip(first) {
            let state = state.mixed;
            let stride = if number < 2 { self.stride } else { 1 };
            let size = r.tape.size(state).map(|s| s / stride);
            let outgoing = (0..DARTS_EDGES.len()).filter(|&e| DARTS_EDGES[e].from == number);
            let mut group = Group {
                input: state,
                branches: Vec::new(),
            };
            for edge in outgoing.clone() {
                let branch = |r: &mut Recorder, kernel, stride, dilation, (w, p)| {
                    let output = r.tape.activation(size, self.width(), true);
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
                    let Some([w1, w2]) = weights[edge].sep[i] else {
                        continue;
                    };
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
                    let Some(pair) = weights[edge].dil[i] else {
                        continue;
                    };
                    let (output, whole) = branch(r, kernel, stride, 2, pair);
                    group.branches.push(whole);
                    branches[edge].push((op, output));
                }
            }
            if !group.branches.is_empty() {
                groups.push(group);
            }
        }
        for groups in [groups, second] {
            if !groups.is_empty() {
                r.tape.separable(groups);
            }
        }
        for (number, state) in states.iter().enumerate().skip(first) {
            let state = state.mixed;
            let stride = if number < 2 { self.stride } else { 1 };
            let outgoing = (0..DARTS_EDGES.len()).filter(|&e| DARTS_EDGES[e].from == number);
            let (ops, kinds): (Vec<_>, Vec<_>) =
                [(MAX_POOL, Kind::Maximum3), (AVG_POOL, Kind::Average3)]
                    .into_iter()
                    .filter(|&(op, _)| outgoing.clone().any(|edge| self.has(edge, op)))
                    .unzip();
            let pools = if kinds.is_empty() {
                Vec::new()
            } else {
                r.tape.pool(state, stride, &kinds, true)
            };
            for edge in outgoing {
                let pools = ops.iter().copied().zip(pools.iter().copied());
                branches[edge].extend(pools.filter(|&(op, _)| self.has(edge, op)));
                if let Some(weights) = weights[edge].reduce {
                    let z = r.tape.factorized_reduce(state, self.width(), weights);
                    branches[edge].push((SKIP, z));
                }
            }
        }
    }

    /// Sums a node's incoming edges into the channels from `first` on of `output`: what went through the ops
    /// and what went by them side by side, and then shuffled.
    fn node(
        &self,
        r: &mut Recorder,
        node: usize,
        states: &[State],
        branches: &[Branches],
        (output, first): (ActivationId, usize),
    ) {
        let to = r.tape.slice(output, first, self.channels);
        let Some(groups) = self.partial else {
            return self.mix(r, node, states, branches, to);
        };
        let whole = r.tape.activation(r.tape.size(to), self.channels, false);
        let mixed = r.tape.slice(whole, 0, self.width());
        self.mix(r, node, states, branches, mixed);
        let edges = DARTS_EDGES.iter().enumerate();
        let terms = edges.filter(|(_, e)| e.to == node + 2).map(|(edge, e)| {
            let [plain, strided] = states[e.from].bypass.expect("of every state");
            let index = edge * self.columns() + DARTS_OPS.len();
            Term {
                input: if e.from < 2 { strided } else { plain },
                scale: Scale::OpWeight(self.weights, index),
            }
        });
        let rest = r
            .tape
            .slice(whole, self.width(), self.channels - self.width());
        r.tape.mix(terms.collect(), None, rest);
        r.tape.shuffle(whole, groups, to);
    }

    /// Sums what the ops of a node's incoming edges make.
    fn mix(
        &self,
        r: &mut Recorder,
        node: usize,
        states: &[State],
        branches: &[Branches],
        to: ActivationId,
    ) {
        let mut terms = Vec::new();
        for (edge, between) in DARTS_EDGES
            .iter()
            .enumerate()
            .filter(|(_, e)| e.to == node + 2)
        {
            let scale = |op: usize| Scale::OpWeight(self.weights, edge * self.columns() + op);
            let strided = self.stride == 2 && between.from < 2;
            if !strided && self.has(edge, SKIP) {
                let state = states[between.from].mixed;
                let input = if self.dropout {
                    r.tape.dropout(state)
                } else {
                    state
                };
                terms.push(Term {
                    input,
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
