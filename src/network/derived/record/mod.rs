//! Records a derived network on a tape, from the list of layers that describes it.
//!
//! The list has a layer a PyTorch module; the tape has fused ops. Relu, the crop of a factorized
//! reduction, a depthwise convolution and the first halves of pairs are therefore kept back as a
//! [`Value`] until the layer that reads them, which takes them in. Batch norm is materialised, as
//! every reader of a derived network applies relu to it or adds it up. A cell's concatenated nodes
//! are slices of one activation.
//!
//! Layers that no logit depends on (a node that is not concatenated, an input that no edge reads)
//! have parameters, as in PyTorch, but no entry on the tape: their gradient is zero.

use super::layers::{Kind, Layer, Part, TensorId, Window};
use super::{Derived, TensorShape};
use crate::autograd::Tape;
use crate::network::Recorder;
use crate::network::parameters::{Initialisation, Layout, Parameter};
use crate::ops::classifier::Loss;
use crate::ops::mix;
use crate::ops::pool;
use crate::ops::separable::{Branch, Group};
use crate::ops::sum::Term;
use crate::ops::{ActivationId, ParameterId, Scale};
use std::collections::{HashMap, HashSet};

/// What a tape needs beyond the network itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recording {
    /// Images a batch.
    pub batch: usize,
    /// Whether branches get factors for drop path.
    pub drop_path: bool,
    /// Factor of the auxiliary head's loss.
    pub auxiliary_weight: f32,
    /// ε of label smoothing.
    pub smoothing: f32,
}

/// A batch norm of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Path of its module.
    pub name: String,
    /// Channels.
    pub channels: usize,
    /// What it normalises; none where no logit depends on it.
    pub z: Option<ActivationId>,
    /// Values a channel in a batch.
    pub count: usize,
}

/// A recorded network.
pub struct Network {
    /// The tape.
    pub tape: Tape,
    /// Every trainable tensor, in `state_dict` order.
    pub parameters: Vec<Parameter>,
    /// Every batch norm, in the same order.
    pub norms: Vec<Norm>,
}

impl Derived {
    /// Records the network for batches of a fixed size.
    pub fn record(&self, recording: &Recording) -> Network {
        let [height, width] = self.tensors[0].size;
        let recorder = Recorder {
            tape: Tape::new(recording.batch, height, width),
            parameters: Vec::new(),
        };
        let mut walk = Walk {
            derived: self,
            recording,
            values: HashMap::from([(TensorId(0), Value::Plain(recorder.tape.images))]),
            readers: readers(self),
            places: places(self),
            wholes: HashMap::new(),
            norms: Vec::new(),
            recorder,
        };
        let live = live(self);
        for (layer, live) in self.layers.iter().zip(live) {
            walk.layer(layer, live);
        }
        let Walk {
            recorder, norms, ..
        } = walk;
        let network = recorder.finish();
        Network {
            tape: network.tape,
            parameters: network.parameters,
            norms,
        }
    }
}

/// Which layers a logit depends on.
fn live(derived: &Derived) -> Vec<bool> {
    let mut needed = vec![false; derived.tensors.len()];
    needed[derived.logits.0] = true;
    if let Some(auxiliary) = derived.auxiliary_logits {
        needed[auxiliary.0] = true;
    }
    let mut live = vec![false; derived.layers.len()];
    for (layer, live) in derived.layers.iter().zip(&mut live).rev() {
        *live = needed[layer.output.0];
        if *live && !matches!(layer.kind, Kind::Zero { .. }) {
            for input in &layer.inputs {
                needed[input.0] = true;
            }
        }
    }
    live
}

/// The layers that read each tensor.
fn readers(derived: &Derived) -> Vec<Vec<usize>> {
    let mut readers = vec![Vec::new(); derived.tensors.len()];
    for (number, layer) in derived.layers.iter().enumerate() {
        for input in &layer.inputs {
            readers[input.0].push(number);
        }
    }
    readers
}

/// For a node that a live concatenation takes in: the whole, and the node's first channel in it.
fn places(derived: &Derived) -> HashMap<TensorId, (TensorId, usize)> {
    let mut places = HashMap::new();
    let sums: HashSet<TensorId> = derived
        .layers
        .iter()
        .filter(|layer| matches!(layer.kind, Kind::Sum { .. }))
        .map(|layer| layer.output)
        .collect();
    for (layer, live) in derived.layers.iter().zip(live(derived)) {
        let nodes = layer.inputs.iter().all(|input| sums.contains(input));
        if live && layer.kind == Kind::Concatenate && layer.inputs.len() > 1 && nodes {
            let mut first = 0;
            for &input in &layer.inputs {
                places.insert(input, (layer.output, first));
                first += derived.tensors[input.0].channels;
            }
        }
    }
    places
}

/// What a tensor is on the tape.
#[derive(Clone, Copy, Debug)]
enum Value {
    /// An activation.
    Plain(ActivationId),
    /// relu of one, taken by its readers.
    Relu(ActivationId),
    /// relu of one without its first row and column.
    Cropped(ActivationId),
    /// The depthwise half of a separable convolution of relu of an activation.
    Depthwise(ActivationId, Window, ParameterId),
    /// A pointwise half of a factorized reduction of relu of an activation.
    Half(ActivationId, ParameterId),
    /// Zeros.
    Zero,
}

struct Walk<'a> {
    derived: &'a Derived,
    recording: &'a Recording,
    values: HashMap<TensorId, Value>,
    readers: Vec<Vec<usize>>,
    places: HashMap<TensorId, (TensorId, usize)>,
    /// Activations of concatenations, made when their first node is.
    wholes: HashMap<TensorId, ActivationId>,
    norms: Vec<Norm>,
    recorder: Recorder,
}

impl Walk<'_> {
    fn layer(&mut self, layer: &Layer, live: bool) {
        let parameters: Vec<ParameterId> = layer
            .parameters()
            .into_iter()
            .map(|tensor| self.parameter(layer, tensor))
            .collect();
        if layer.kind == Kind::BatchNorm {
            self.note_norm(layer, live);
        }
        if !live {
            return;
        }
        let first = self.recorder.tape.ops.len();
        if let Some(value) = self.record(layer, &parameters) {
            self.values.insert(layer.output, value);
        }
        if layer.part == Part::Auxiliary {
            let tape = &mut self.recorder.tape;
            let start = if tape.training_only.is_empty() {
                first
            } else {
                tape.training_only.start
            };
            tape.training_only = start..tape.ops.len();
        }
    }

    /// A trainable tensor, drawn as PyTorch draws it.
    fn parameter(&mut self, layer: &Layer, tensor: TensorShape) -> ParameterId {
        let TensorShape { name, shape } = tensor;
        let (layout, initialisation) = match (&layer.kind, shape.len()) {
            (Kind::BatchNorm, _) => {
                let start = if name.ends_with(".weight") { 1.0 } else { 0.0 };
                (Layout::Same, Initialisation::Constant(start))
            }
            (_, 4) => (Layout::Conv, Recorder::uniform(shape[1..].iter().product())),
            (_, 2) => (Layout::Linear, Recorder::uniform(shape[1])),
            // A bias has the bound of its weight, whose inputs are the layer's.
            _ => {
                let inputs = self.derived.tensors[layer.inputs[0].0].channels;
                (Layout::Same, Recorder::uniform(inputs))
            }
        };
        self.recorder.add(name, shape, layout, initialisation)
    }

    fn note_norm(&mut self, layer: &Layer, live: bool) {
        let tensor = self.derived.tensors[layer.output.0];
        let z = live.then(|| self.plain(layer.inputs[0]));
        self.norms.push(Norm {
            name: layer.name.clone(),
            channels: tensor.channels,
            z,
            count: self.recording.batch * tensor.size[0] * tensor.size[1],
        });
    }

    fn value(&self, id: TensorId) -> Value {
        self.values[&id]
    }

    fn plain(&self, id: TensorId) -> ActivationId {
        match self.value(id) {
            Value::Plain(activation) => activation,
            other => unreachable!("the layers of a derived network never read {other:?} like this"),
        }
    }

    /// An activation, and whether its relu is meant.
    fn maybe_relu(&self, id: TensorId) -> (ActivationId, bool) {
        match self.value(id) {
            Value::Relu(activation) => (activation, true),
            _ => (self.plain(id), false),
        }
    }

    /// Whether the only reader of a tensor is of this kind.
    fn read_by(&self, id: TensorId, kind: impl Fn(&Kind) -> bool) -> bool {
        let readers = &self.readers[id.0];
        !readers.is_empty() && readers.iter().all(|&r| kind(&self.derived.layers[r].kind))
    }

    fn normalised(&self, id: TensorId) -> bool {
        self.read_by(id, |kind| *kind == Kind::BatchNorm)
    }

    /// Records one layer; none for logits, which nothing reads.
    fn record(&mut self, layer: &Layer, parameters: &[ParameterId]) -> Option<Value> {
        let input = layer.inputs[0];
        Some(match &layer.kind {
            Kind::Relu => Value::Relu(self.plain(input)),
            Kind::Crop => Value::Cropped(self.maybe_relu(input).0),
            Kind::Zero { .. } => Value::Zero,
            Kind::GlobalAverage => self.value(input),
            Kind::Convolution { window, .. } => self.convolution(layer, window, parameters[0]),
            Kind::BatchNorm => {
                let affine = (parameters[0], parameters[1]);
                Value::Plain(self.recorder.tape.norm(self.plain(input), Some(affine)))
            }
            Kind::MaxPool(window) => {
                let kind = match window.kernel[0] {
                    5 => pool::Kind::Maximum5,
                    7 => pool::Kind::Maximum7,
                    _ => pool::Kind::Maximum3,
                };
                self.pool(input, kind, window)
            }
            Kind::AveragePool(window) => {
                let kind = match window.kernel[0] {
                    2 => pool::Kind::Average2,
                    5 => pool::Kind::Average5,
                    _ => pool::Kind::Average3,
                };
                self.pool(input, kind, window)
            }
            Kind::Sum { drop_path } => self.sum(layer, drop_path),
            Kind::Concatenate => self.concatenate(layer),
            Kind::Linear => {
                self.linear(layer, (parameters[0], parameters[1]));
                return None;
            }
        })
    }

    fn pool(&mut self, input: TensorId, kind: pool::Kind, window: &Window) -> Value {
        let input = self.maybe_relu(input);
        let stride = window.stride[0];
        Value::Plain(self.recorder.tape.pool_of(input, stride, &[kind], false)[0])
    }

    fn convolution(&mut self, layer: &Layer, window: &Window, weight: ParameterId) -> Value {
        let (input, output) = (layer.inputs[0], layer.output);
        let cout = self.derived.tensors[output.0].channels;
        let normalised = self.normalised(output);
        if let Value::Depthwise(state, first, depthwise) = self.value(input) {
            let size = self.derived.tensors[output.0].size;
            let z = self.recorder.tape.activation(size, cout, normalised);
            let branch = Branch {
                kernel: first.kernel[0],
                stride: first.stride[0],
                dilation: first.dilation,
                depthwise,
                pointwise: weight,
                output: z,
            };
            self.recorder.tape.separable(vec![Group {
                input: state,
                branches: vec![branch],
            }]);
            return Value::Plain(z);
        }
        if let Value::Cropped(state) = self.value(input) {
            return Value::Half(state, weight);
        }
        let (state, relu) = self.maybe_relu(input);
        let pointwise = |kind: &Kind| matches!(kind, Kind::Convolution { window, .. } if window.kernel == [1, 1]);
        if relu && self.read_by(output, pointwise) {
            return Value::Depthwise(state, *window, weight);
        }
        let [rows, columns] = window.kernel;
        if rows != columns {
            // The stride of the first is taken by the second, which skips what it would not need.
            let vertical = rows > columns;
            let stride = if vertical { window.stride[0] } else { 1 };
            let shape = (rows.max(columns), stride);
            let kind = (relu, normalised);
            let tape = &mut self.recorder.tape;
            return Value::Plain(tape.conv_along(state, shape, vertical, kind, weight));
        }
        // A factorized reduction's, but not a 1×1 convolution that is an op.
        if self.read_by(output, |kind| *kind == Kind::Concatenate) {
            return Value::Half(state, weight);
        }
        // Without padding a 2×2 window has one place on a 2×2 map: that of stride 2.
        let stride = if rows == 2 { 2 } else { window.stride[0] };
        let parameters = (weight, None);
        let tape = &mut self.recorder.tape;
        Value::Plain(tape.conv(state, (rows, stride), cout, relu, normalised, parameters))
    }

    fn sum(&mut self, layer: &Layer, drop_path: &[bool]) -> Value {
        let terms: Vec<(ActivationId, bool)> = layer
            .inputs
            .iter()
            .zip(drop_path)
            .filter(|(input, _)| !matches!(self.value(**input), Value::Zero))
            .map(|(input, &dropped)| (self.plain(*input), dropped))
            .collect();
        let tensor = self.derived.tensors[layer.output.0];
        let normalised = self.normalised(layer.output);
        let output = match self.places.get(&layer.output) {
            Some(&(whole, first)) => {
                let whole = self.whole(whole);
                self.recorder.tape.slice(whole, first, tensor.channels)
            }
            None => {
                let tape = &mut self.recorder.tape;
                tape.activation(tensor.size, tensor.channels, normalised)
            }
        };
        let tape = &mut self.recorder.tape;
        if normalised {
            let term = |&(input, _): &(ActivationId, bool)| mix::Term {
                input,
                scale: Scale::One,
            };
            tape.mix(terms.iter().map(term).collect(), None, output);
        } else {
            let term = |(input, dropped): (ActivationId, bool)| Term {
                input,
                factor: (dropped && self.recording.drop_path).then(|| tape.factor()),
            };
            let terms = terms.into_iter().map(term).collect();
            tape.sum(terms, output);
        }
        Value::Plain(output)
    }

    fn whole(&mut self, id: TensorId) -> ActivationId {
        let tensor = self.derived.tensors[id.0];
        let tape = &mut self.recorder.tape;
        *self
            .wholes
            .entry(id)
            .or_insert_with(|| tape.activation(tensor.size, tensor.channels, false))
    }

    fn concatenate(&mut self, layer: &Layer) -> Value {
        if let Some(&whole) = self.wholes.get(&layer.output) {
            return Value::Plain(whole);
        }
        match layer.inputs.as_slice() {
            &[only] => self.value(only),
            &[even, odd] => match (self.value(even), self.value(odd)) {
                (Value::Half(state, first), Value::Half(_, second)) => {
                    let cout = self.derived.tensors[layer.output.0].channels;
                    let tape = &mut self.recorder.tape;
                    Value::Plain(tape.factorized_reduce(state, cout, [first, second]))
                }
                other => unreachable!("nodes are slices of their concatenation, found {other:?}"),
            },
            inputs => unreachable!("nodes are slices of their concatenation, found {inputs:?}"),
        }
    }

    fn linear(&mut self, layer: &Layer, parameters: (ParameterId, ParameterId)) {
        let (features, relu) = self.maybe_relu(layer.inputs[0]);
        let auxiliary = layer.part == Part::Auxiliary;
        let loss = Loss {
            weight: if auxiliary {
                self.recording.auxiliary_weight
            } else {
                1.0
            },
            smoothing: self.recording.smoothing,
            auxiliary,
        };
        let tape = &mut self.recorder.tape;
        tape.classifier_with(features, relu, parameters, loss);
    }
}

#[cfg(test)]
mod tests;
