//! Recording: activations, parameters and ops in the order of the forward pass.

use crate::ops::classifier::{Classifier, Loss};
use crate::ops::conv::Conv;
use crate::ops::dropout::Dropout;
use crate::ops::edge_relax::EdgeRelax;
use crate::ops::mix::{Mix, Term};
use crate::ops::pool::{self, Pool};
use crate::ops::relax::{Relax, Relaxation};
use crate::ops::separable::{Group, Separable};
use crate::ops::shuffle::Shuffle;
use crate::ops::sum::{self, Sum};
use crate::ops::{
    Activation, ActivationId, Graph, MAX_SOURCES, Op, ParameterId, Scale, Source, Span, WeightsId,
};
use std::ops::Range;

/// A recorded network: images in, loss out.
pub struct Tape {
    /// Shapes of everything.
    pub graph: Graph,
    /// Ops in forward order.
    pub ops: Vec<Box<dyn Op>>,
    /// The input images `[N, H, W, 3]`.
    pub images: ActivationId,
    /// Number of classes.
    pub classes: usize,
    /// Length of ω: the first part of θ.
    pub omega_len: usize,
    /// Length of α: the rest of θ.
    pub alpha_len: usize,
    /// Classifiers, whose logits lie one behind another.
    pub classifiers: usize,
    /// Rows of factors that the sums read.
    pub factors: usize,
    /// Ops that inference leaves out: an auxiliary head's.
    pub training_only: Range<usize>,
    /// How the α recorded from now on become op weights.
    pub relaxation: Relaxation,
    alphas: Vec<ParameterId>,
}

impl Tape {
    /// An empty tape for batches of `batch` images of `height`×`width`×3.
    pub fn new(batch: usize, height: usize, width: usize) -> Tape {
        let mut tape = Tape {
            graph: Graph {
                batch,
                ..Graph::default()
            },
            ops: Vec::new(),
            images: ActivationId(0),
            classes: 0,
            omega_len: 0,
            alpha_len: 0,
            classifiers: 0,
            factors: 0,
            training_only: 0..0,
            relaxation: Relaxation::Softmax,
            alphas: Vec::new(),
        };
        tape.images = tape.activation([height, width], 3, false);
        tape.graph.activations[0].differentiable = false;
        tape
    }

    /// A new activation; `normalised` ones are read through batch norm.
    pub fn activation(
        &mut self,
        size: [usize; 2],
        channels: usize,
        normalised: bool,
    ) -> ActivationId {
        self.graph.activations.push(Activation {
            height: size[0],
            width: size[1],
            channels,
            slice_of: None,
            normalised,
            differentiable: true,
            sources: Vec::new(),
            live: true,
        });
        ActivationId(self.graph.activations.len() - 1)
    }

    /// Channels `first..first + channels` of `whole`, as an activation of its own.
    pub fn slice(&mut self, whole: ActivationId, first: usize, channels: usize) -> ActivationId {
        let of = self.graph.activation(whole).clone();
        assert!(of.slice_of.is_none() && !of.normalised && first + channels <= of.channels);
        self.graph.activations.push(Activation {
            channels,
            slice_of: Some((whole, first)),
            ..of
        });
        ActivationId(self.graph.activations.len() - 1)
    }

    /// H, W of an activation.
    pub fn size(&self, id: ActivationId) -> [usize; 2] {
        let activation = self.graph.activation(id);
        [activation.height, activation.width]
    }

    /// C of an activation.
    pub fn channels(&self, id: ActivationId) -> usize {
        self.graph.activation(id).channels
    }

    /// A new weight tensor of `len` elements, next in ω.
    pub fn weight(&mut self, len: usize) -> ParameterId {
        self.graph.parameters.push(Span {
            offset: self.omega_len,
            len,
        });
        self.omega_len += len;
        ParameterId(self.graph.parameters.len() - 1)
    }

    /// A new α of `edges`×`ops`, relaxed into op weights by the tape's next entry. Its offset in θ
    /// is behind ω, and final after [`Tape::finish`].
    pub fn alpha(&mut self, edges: usize, ops: usize) -> (ParameterId, WeightsId) {
        let alpha = self.architecture(edges * ops);
        let weights = self.op_weights(edges * ops);
        let relax = Relax::new(alpha, weights, ops, self.relaxation);
        self.ops.push(Box::new(relax));
        (alpha, weights)
    }

    /// New architecture parameters, next in α. Their offset in θ is behind ω, and final after
    /// [`Tape::finish`].
    pub fn architecture(&mut self, len: usize) -> ParameterId {
        self.graph.parameters.push(Span {
            offset: self.alpha_len,
            len,
        });
        self.alpha_len += len;
        let id = ParameterId(self.graph.parameters.len() - 1);
        self.alphas.push(id);
        id
    }

    fn op_weights(&mut self, len: usize) -> WeightsId {
        self.graph.weights.push(len);
        WeightsId(self.graph.weights.len() - 1)
    }

    /// Records the edge-normalised relaxation of `alpha`, `[edges, ops]`, and `beta`, `[edges]`; node i has
    /// the next `into[i]` edges. Returns `[edges, ops + 1]` op weights: see [`EdgeRelax`].
    pub fn edge_relax(
        &mut self,
        (alpha, beta): (ParameterId, ParameterId),
        into: &[usize],
        ops: usize,
    ) -> WeightsId {
        let edges: usize = into.iter().sum();
        let weights = self.op_weights(edges * (ops + 1));
        let op = EdgeRelax::new((alpha, beta), weights, into, ops);
        self.ops.push(Box::new(op));
        weights
    }

    /// Records a channel shuffle of `groups` groups into `output`, which exists already.
    pub fn shuffle(&mut self, input: ActivationId, groups: usize, output: ActivationId) {
        let op = Shuffle::new(&self.graph, input, output, groups);
        self.ops.push(Box::new(op));
    }

    /// Notes that `reader` reads the normalised `z` with factor `scale`.
    fn read_by(&mut self, z: ActivationId, reader: ActivationId, scale: Scale) {
        let sources = &mut self.graph.activations[z.0].sources;
        assert!(
            sources.len() < MAX_SOURCES,
            "more readers of one activation than planned for"
        );
        sources.push(Source { at: reader, scale });
    }

    /// Records a dense convolution (see [`Conv::new`]); returns its output.
    pub fn conv(
        &mut self,
        input: ActivationId,
        (kernel, stride): (usize, usize),
        cout: usize,
        relu: bool,
        normalised: bool,
        (weight, bias): (ParameterId, Option<ParameterId>),
    ) -> ActivationId {
        let size = self.size(input).map(|s| s.div_ceil(stride));
        let output = self.activation(size, cout, normalised);
        let shape = (kernel, stride);
        let op = Conv::new(&self.graph, (input, output), shape, relu, weight, bias);
        self.ops.push(Box::new(op));
        output
    }

    /// Records a convolution along one axis (see [`Conv::along`]); returns its output.
    pub fn conv_along(
        &mut self,
        input: ActivationId,
        (kernel, stride): (usize, usize),
        vertical: bool,
        (relu, normalised): (bool, bool),
        weight: ParameterId,
    ) -> ActivationId {
        let size = self.size(input).map(|s| s.div_ceil(stride));
        let output = self.activation(size, self.channels(input), normalised);
        let shape = (kernel, stride);
        let op = Conv::along(&self.graph, (input, output), shape, vertical, relu, weight);
        self.ops.push(Box::new(op));
        output
    }

    /// Records a factorized reduction to `cout` normalised channels.
    pub fn factorized_reduce(
        &mut self,
        input: ActivationId,
        cout: usize,
        weights: [ParameterId; 2],
    ) -> ActivationId {
        let output = self.activation(self.size(input).map(|s| s / 2), cout, true);
        let op = Conv::factorized_reduce(&self.graph, (input, output), weights);
        self.ops.push(Box::new(op));
        output
    }

    /// Records groups of separable convolutions, whose outputs exist already.
    pub fn separable(&mut self, groups: Vec<Group>) {
        for group in &groups {
            if self.graph.activation(group.input).normalised {
                self.read_by(group.input, group.input, Scale::One);
            }
        }
        let op = Separable::new(&self.graph, groups);
        self.ops.push(Box::new(op));
    }

    /// Records pools of one input; returns an output a kind.
    pub fn pool(
        &mut self,
        input: ActivationId,
        stride: usize,
        kinds: &[pool::Kind],
        normalised: bool,
    ) -> Vec<ActivationId> {
        self.pool_of((input, false), stride, kinds, normalised)
    }

    /// Records pools of one input, or of its relu; returns an output a kind.
    pub fn pool_of(
        &mut self,
        (input, relu): (ActivationId, bool),
        stride: usize,
        kinds: &[pool::Kind],
        normalised: bool,
    ) -> Vec<ActivationId> {
        let channels = self.channels(input);
        let outputs: Vec<_> = kinds
            .iter()
            .map(|&kind| {
                let size = Pool::output_size(kind, stride, self.size(input));
                self.activation(size, channels, normalised)
            })
            .collect();
        let branches = kinds.iter().zip(&outputs);
        let branches = branches
            .map(|(&kind, &output)| pool::Branch { kind, output })
            .collect();
        let op = Pool::new(&self.graph, input, relu, stride, branches);
        self.ops.push(Box::new(op));
        outputs
    }

    /// Records a mix into `output`, which exists already.
    pub fn mix(&mut self, terms: Vec<Term>, shift: Option<ParameterId>, output: ActivationId) {
        for term in &terms {
            if self.graph.activation(term.input).normalised {
                self.read_by(term.input, output, term.scale);
            }
        }
        let op = Mix::new(&self.graph, terms, shift, output);
        self.ops.push(Box::new(op));
    }

    /// Records batch norm of a normalised activation, with γ and β if given; returns its output.
    pub fn norm(
        &mut self,
        z: ActivationId,
        affine: Option<(ParameterId, ParameterId)>,
    ) -> ActivationId {
        let output = self.activation(self.size(z), self.channels(z), false);
        let scale = affine.map_or(Scale::One, |(gain, _)| Scale::Gain(gain));
        self.mix(
            vec![Term { input: z, scale }],
            affine.map(|(_, shift)| shift),
            output,
        );
        output
    }

    /// Records dropout of a plain activation; returns its output.
    pub fn dropout(&mut self, input: ActivationId) -> ActivationId {
        let output = self.activation(self.size(input), self.channels(input), false);
        let entry = self.ops.len() as u64;
        self.ops
            .push(Box::new(Dropout::new(&self.graph, input, output, entry)));
        output
    }

    /// A row of factors for one term of one sum.
    pub fn factor(&mut self) -> usize {
        self.factors += 1;
        self.factors - 1
    }

    /// Records the sum of plain activations into `output`, which exists already.
    pub fn sum(&mut self, terms: Vec<sum::Term>, output: ActivationId) {
        let op = Sum::new(&self.graph, terms, output);
        self.ops.push(Box::new(op));
    }

    /// Records the classifier, the last op.
    pub fn classifier(
        &mut self,
        features: ActivationId,
        relu: bool,
        weight: ParameterId,
        bias: ParameterId,
    ) {
        self.classifier_with(features, relu, (weight, bias), Loss::default());
    }

    /// Records a classifier: the main one last, an auxiliary one before it.
    pub fn classifier_with(
        &mut self,
        features: ActivationId,
        relu: bool,
        parameters: (ParameterId, ParameterId),
        loss: Loss,
    ) {
        let op = Classifier::new(&self.graph, features, relu, parameters, loss);
        self.classes = op.classes();
        self.classifiers += 1;
        self.ops.push(Box::new(op));
    }

    /// Moves α behind ω in θ. Call once, after the last parameter.
    pub fn finish(&mut self) {
        for alpha in std::mem::take(&mut self.alphas) {
            self.graph.parameters[alpha.0].offset += self.omega_len;
        }
    }

    /// Length of θ = (ω, α).
    pub fn theta_len(&self) -> usize {
        self.omega_len + self.alpha_len
    }
}
