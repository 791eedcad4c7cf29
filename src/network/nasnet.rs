//! A weight-sharing supernet of the NASNet space: "Learning transferable architectures for scalable image
//! recognition" (Zoph et al., CVPR 2018), whose child networks share no weights. The cells stand in the row of
//! DARTS ([`super::skeleton`]), so that spaces can be compared.
//!
//! A cell has two input states and five nodes (the paper's blocks). Every edge has all thirteen ops; a node
//! adds up what their weights leave of them, two in an architecture of the space. Results of convolutions and
//! pools are normalised without γ and β, as in the supernet of DARTS. The output concatenates all nodes, so
//! that every cell has as many channels whatever is drawn; a found cell concatenates those that none reads.

use super::Recorder;
use super::skeleton::Place;
use crate::ops::mix::Term;
use crate::ops::pool::Kind;
use crate::ops::separable::{Branch, Group};
use crate::ops::{ActivationId, ParameterId, Scale, WeightsId};
use crate::space::{NASNET_EDGES, NASNET_OPS, NasnetOp};

const NODES: usize = 5;

/// Separable convolutions that are applied twice, with their windows.
const TWICE: [(NasnetOp, usize); 3] = [
    (NasnetOp::SepConv3x3, 3),
    (NasnetOp::SepConv5x5, 5),
    (NasnetOp::SepConv7x7, 7),
];
/// Dense convolutions.
const DENSE: [(NasnetOp, usize); 2] = [(NasnetOp::Conv1x1, 1), (NasnetOp::Conv3x3, 3)];
/// Convolutions along one axis and then the other.
const AXES: [(NasnetOp, usize); 2] = [(NasnetOp::Conv3x1Then1x3, 3), (NasnetOp::Conv7x1Then1x7, 7)];
/// Pools.
const POOLS: [(NasnetOp, Kind); 4] = [
    (NasnetOp::AvgPool3x3, Kind::Average3),
    (NasnetOp::MaxPool3x3, Kind::Maximum3),
    (NasnetOp::MaxPool5x5, Kind::Maximum5),
    (NasnetOp::MaxPool7x7, Kind::Maximum7),
];

pub(super) fn record(r: &mut Recorder, channels: usize, cells: usize, classes: usize) {
    let [normal, reduce] = ["alphas_normal", "alphas_reduce"]
        .map(|name| r.alpha(name, NASNET_EDGES.len(), NASNET_OPS.len()));
    r.row_of_cells(channels, cells, classes, |r, place, inputs| {
        let weights = if place.reduction { reduce } else { normal };
        Cell { place, weights }.record(r, inputs)
    });
}

struct Cell<'a> {
    place: &'a Place,
    weights: WeightsId,
}

/// Depthwise and pointwise weights of a separable convolution.
type Pair = (ParameterId, ParameterId);

/// Weights of one edge's ops.
struct EdgeWeights {
    axes: [[ParameterId; 2]; AXES.len()],
    dilated: Pair,
    dense: [ParameterId; DENSE.len()],
    twice: [[Pair; 2]; TWICE.len()],
    /// Of the skip at stride 2.
    reduce: Option<[ParameterId; 2]>,
}

/// What one edge's ops make, by op; an identity is the state itself.
type Results = Vec<(NasnetOp, ActivationId)>;

impl Cell<'_> {
    /// Of the edges that read state `from`.
    fn stride(&self, from: usize) -> usize {
        if from < 2 { self.place.stride() } else { 1 }
    }

    fn record(&self, r: &mut Recorder, inputs: [ActivationId; 2]) -> ActivationId {
        let channels = self.place.channels;
        let size = r.tape.size(inputs[0]).map(|s| s / self.place.stride());
        let output = r.tape.activation(size, NODES * channels, false);
        let weights: Vec<EdgeWeights> = (0..NASNET_EDGES.len())
            .map(|edge| self.edge_weights(r, edge))
            .collect();
        let mut results: Vec<Results> = vec![Results::new(); NASNET_EDGES.len()];
        for (number, state) in inputs.into_iter().enumerate() {
            self.read_state(r, number, state, &weights, &mut results);
        }
        for node in 0..NODES {
            let state = r.tape.slice(output, node * channels, channels);
            self.node(r, node, &results, state);
            if node + 1 < NODES {
                self.read_state(r, node + 2, state, &weights, &mut results);
            }
        }
        output
    }

    /// In the order of the ops, which is that of a `state_dict`.
    fn edge_weights(&self, r: &mut Recorder, edge: usize) -> EdgeWeights {
        let (c, edge_name) = (
            self.place.channels,
            format!("{}._ops.{edge}._ops", self.place.name),
        );
        let name = |op: NasnetOp| format!("{edge_name}.{}", op.index());
        let strided = self.stride(NASNET_EDGES[edge].from) == 2;
        let reduce = strided.then(|| r.factorized(&name(NasnetOp::SkipConnect), c, c));
        EdgeWeights {
            reduce,
            axes: AXES.map(|(op, k)| {
                [(1, false), (2, true)].map(|(module, vertical)| {
                    r.conv_along_weight(format!("{}.{module}.weight", name(op)), c, k, vertical)
                })
            }),
            dilated: r.separable_weights(&name(NasnetOp::DilConv3x3), 1, [c, c], 3),
            dense: DENSE.map(|(op, k)| r.conv_weight(format!("{}.op.1.weight", name(op)), c, c, k)),
            twice: TWICE
                .map(|(op, k)| [1, 5].map(|at| r.separable_weights(&name(op), at, [c, c], k))),
        }
    }

    /// Records every op that reads state `number`, for all outgoing edges.
    fn read_state(
        &self,
        r: &mut Recorder,
        number: usize,
        state: ActivationId,
        weights: &[EdgeWeights],
        results: &mut [Results],
    ) {
        let (channels, stride) = (self.place.channels, self.stride(number));
        let outgoing = (0..NASNET_EDGES.len()).filter(|&e| NASNET_EDGES[e].from == number);
        self.separable(r, (state, stride), outgoing.clone(), weights, results);
        let pools = r
            .tape
            .pool(state, stride, &POOLS.map(|(_, kind)| kind), true);
        for edge in outgoing {
            let (weights, results) = (&weights[edge], &mut results[edge]);
            let skip = match weights.reduce {
                None => state,
                Some(weights) => r.tape.factorized_reduce(state, channels, weights),
            };
            results.push((NasnetOp::SkipConnect, skip));
            for ((op, k), [row, column]) in AXES.into_iter().zip(weights.axes) {
                let across = r.tape.conv_along(state, (k, 1), false, (true, false), row);
                let z = r
                    .tape
                    .conv_along(across, (k, stride), true, (false, true), column);
                results.push((op, z));
            }
            for ((op, k), weight) in DENSE.into_iter().zip(weights.dense) {
                let shape = (k, stride);
                let z = r
                    .tape
                    .conv(state, shape, channels, true, true, (weight, None));
                results.push((op, z));
            }
            let pools = pools.iter();
            results.extend(POOLS.iter().zip(pools).map(|(&(op, _), &z)| (op, z)));
        }
    }

    /// The separable convolutions of a state's outgoing edges: one entry, and one of second halves.
    fn separable(
        &self,
        r: &mut Recorder,
        (state, stride): (ActivationId, usize),
        outgoing: impl Iterator<Item = usize>,
        weights: &[EdgeWeights],
        results: &mut [Results],
    ) {
        let size = r.tape.size(state).map(|s| s / stride);
        let mut branch = |kernel, stride, dilation, (depthwise, pointwise): Pair| Branch {
            kernel,
            stride,
            dilation,
            depthwise,
            pointwise,
            output: r.tape.activation(size, self.place.channels, true),
        };
        let (mut branches, mut second) = (Vec::new(), Vec::new());
        for edge in outgoing {
            let (weights, results) = (&weights[edge], &mut results[edge]);
            let dilated = branch(3, stride, 2, weights.dilated);
            branches.push(dilated);
            results.push((NasnetOp::DilConv3x3, dilated.output));
            for ((op, kernel), [first, last]) in TWICE.into_iter().zip(weights.twice) {
                let first = branch(kernel, stride, 1, first);
                let last = branch(kernel, 1, 1, last);
                branches.push(first);
                second.push(Group {
                    input: first.output,
                    branches: vec![last],
                });
                results.push((op, last.output));
            }
        }
        let input = state;
        r.tape.separable(vec![Group { input, branches }]);
        r.tape.separable(second);
    }

    /// Sums a node's incoming edges into `state`.
    fn node(&self, r: &mut Recorder, node: usize, results: &[Results], state: ActivationId) {
        let incoming = NASNET_EDGES.iter().zip(results).enumerate();
        let incoming = incoming.filter(|(_, (edge, _))| edge.to == node + 2);
        let terms = incoming.flat_map(|(edge, (_, results))| {
            results.iter().map(move |&(op, input)| Term {
                input,
                scale: Scale::OpWeight(self.weights, edge * NASNET_OPS.len() + op.index()),
            })
        });
        r.tape.mix(terms.collect(), None, state);
    }
}
