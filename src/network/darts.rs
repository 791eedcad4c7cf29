//! The DARTS supernet (Liu et al. 2019, search network of the official code).
//!
//! Cells of four nodes in the row of [`super::skeleton`]. A cell's nodes are written side by side into one
//! activation, so its concatenation costs nothing. A [`Variant`] may name other candidates of an edge than DARTS'; of
//! the ops that it leaves out nothing is recorded.

use super::{Recorder, Variant};
use crate::ops::mix::Term;
use crate::ops::pool::Kind;
use crate::ops::relax::Relaxation;
use crate::ops::separable::{Branch, Group};
use crate::ops::{ActivationId, ParameterId, Scale, WeightsId};
use crate::space::ops::SeparableOp;
use crate::space::{DARTS_CANDIDATES, DARTS_EDGES, GenotypeOp};

const NODES: usize = 4;

pub(super) fn record(
    r: &mut Recorder,
    channels: usize,
    cells: usize,
    classes: usize,
    variant: &Variant,
) {
    let ops: &[GenotypeOp] = if variant.ops.is_empty() {
        &DARTS_CANDIDATES
    } else {
        variant.ops
    };
    let choices = DARTS_EDGES.len() * ops.len();
    let all = vec![true; 2 * choices];
    let kept = if variant.kept.is_empty() {
        &all
    } else {
        &variant.kept
    };
    assert_eq!(kept.len(), all.len(), "one flag an op of an edge");
    let [normal, reduce] = match variant.partial {
        None => ["alphas_normal", "alphas_reduce"]
            .map(|name| r.alpha(name, DARTS_EDGES.len(), ops.len())),
        Some(_) => {
            assert!(
                variant.relaxation == Relaxation::Softmax,
                "relaxed by the tape"
            );
            let into: Vec<usize> = (0..NODES).map(|node| node + 2).collect();
            r.edge_alphas(["normal", "reduce"], &into, ops.len())
        }
    };
    r.row_of_cells(channels, cells, classes, |r, place, inputs| {
        let cell = Cell {
            name: &place.name,
            channels: place.channels,
            stride: place.stride(),
            weights: if place.reduction { reduce } else { normal },
            ops,
            kept: if place.reduction {
                &kept[choices..]
            } else {
                &kept[..choices]
            },
            dropout: variant.dropout,
            partial: variant.partial,
        };
        cell.record(r, inputs)
    });
}

struct Cell<'a> {
    name: &'a str,
    channels: usize,
    /// Of the edges that read the cell's inputs.
    stride: usize,
    weights: WeightsId,
    /// Candidates of an edge, by column of α.
    ops: &'a [GenotypeOp],
    /// Which of them each edge has, `[14, ops]`.
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

/// Weights of one op of an edge.
enum OpWeights {
    /// Depthwise and pointwise of each half.
    Separable(SeparableOp, Vec<(ParameterId, ParameterId)>),
    /// Of a skip at stride 2.
    Reduce([ParameterId; 2]),
}

/// Weights of those ops of an edge that have any, by column of α.
type EdgeWeights = Vec<(usize, OpWeights)>;

/// Normalised results of one edge's ops, by column of α; a skip at stride 1 is the state itself.
type Branches = Vec<(usize, ActivationId)>;

impl Cell<'_> {
    /// Whether an edge has the op of a column.
    fn has(&self, edge: usize, column: usize) -> bool {
        self.kept[edge * self.ops.len() + column]
    }

    /// Columns and ops of an edge.
    fn of_edge(&self, edge: usize) -> impl Iterator<Item = (usize, GenotypeOp)> {
        let columns = self.ops.iter().copied().enumerate();
        columns.filter(move |&(column, _)| self.has(edge, column))
    }

    /// Columns of op weights an edge: the last of PC-DARTS is the edge's own weight.
    fn columns(&self) -> usize {
        self.ops.len() + usize::from(self.partial.is_some())
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
        let mut weights = Vec::new();
        for (column, op) in self.of_edge(edge) {
            let name = format!("{edge_name}.{column}");
            if let Some(form) = op.separable() {
                let mut half = |at: usize, cin: usize, cout: usize| {
                    r.separable_weights(&name, at, [cin, cout], form.kernel)
                };
                let halves = match form.width(c) {
                    None => vec![half(1, c, c)],
                    Some(middle) => vec![half(1, c, middle), half(5, middle, c)],
                };
                weights.push((column, OpWeights::Separable(form, halves)));
            } else if op == GenotypeOp::SkipConnect && strided {
                let halves = r.factorized(&name, c, c);
                weights.push((column, OpWeights::Reduce(halves)));
            }
        }
        weights
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
            for edge in outgoing {
                for (column, weights) in &weights[edge] {
                    let OpWeights::Separable(form, halves) = weights else {
                        continue;
                    };
                    let half = |r: &mut Recorder, width, stride, dilation, (w, p)| Branch {
                        kernel: form.kernel,
                        stride,
                        dilation,
                        depthwise: w,
                        pointwise: p,
                        output: r.tape.activation(size, width, true),
                    };
                    let (dilation, whole) = (form.dilation, self.width());
                    let middle = form.width(whole);
                    let first = half(r, middle.unwrap_or(whole), stride, dilation, halves[0]);
                    group.branches.push(first);
                    let mut output = first.output;
                    if middle.is_some() {
                        let last = half(r, whole, 1, 1, halves[1]);
                        second.push(Group {
                            input: output,
                            branches: vec![last],
                        });
                        output = last.output;
                    }
                    branches[edge].push((*column, output));
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
            let pooled = self
                .ops
                .iter()
                .enumerate()
                .filter_map(|(column, op)| match op {
                    GenotypeOp::MaxPool3x3 => Some((column, Kind::Maximum3)),
                    GenotypeOp::AvgPool3x3 => Some((column, Kind::Average3)),
                    _ => None,
                });
            let (columns, kinds): (Vec<_>, Vec<_>) = pooled
                .filter(|&(column, _)| outgoing.clone().any(|edge| self.has(edge, column)))
                .unzip();
            let pools = if kinds.is_empty() {
                Vec::new()
            } else {
                r.tape.pool(state, stride, &kinds, true)
            };
            for edge in outgoing {
                let pools = columns.iter().copied().zip(pools.iter().copied());
                branches[edge].extend(pools.filter(|&(column, _)| self.has(edge, column)));
                for (column, weights) in &weights[edge] {
                    if let OpWeights::Reduce(halves) = weights {
                        let z = r.tape.factorized_reduce(state, self.width(), *halves);
                        branches[edge].push((*column, z));
                    }
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
            let index = edge * self.columns() + self.ops.len();
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
            let scale = |column| Scale::OpWeight(self.weights, edge * self.columns() + column);
            let strided = self.stride == 2 && between.from < 2;
            let skip = self
                .of_edge(edge)
                .find(|&(_, op)| op == GenotypeOp::SkipConnect);
            if let Some((column, _)) = skip.filter(|_| !strided) {
                let state = states[between.from].mixed;
                let input = if self.dropout {
                    r.tape.dropout(state)
                } else {
                    state
                };
                terms.push(Term {
                    input,
                    scale: scale(column),
                });
            }
            for &(column, z) in &branches[edge] {
                terms.push(Term {
                    input: z,
                    scale: scale(column),
                });
            }
        }
        r.tape.mix(terms, None, to);
    }
}
