//! A derived network as an ONNX model (opset 17): a node a layer, in evaluation mode.
//!
//! Input `images` `[N, 3, H, W]`, normalised; output `logits` `[N, classes]`; N is free. The
//! normalisation stands in the model's metadata (`mean`, `std`, of pixels in 0..1), beside the
//! genotype. The auxiliary head is training's and left out.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use prost::Message;

use super::Normalisation;
use super::proto::{
    Attribute, Dimension, FLOAT, Graph, INT64, Model, Node, OperatorSet, Property, Shape, Tensor,
    TensorType, Type, ValueInfo,
};
use crate::network::derived::{Derived, Kind, Layer, Part, TensorId, Window};
use crate::network::state_dict::NamedTensor;
use crate::ops::NORM_EPSILON;

/// IR version and opset: what onnxruntime reads since 1.13.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
/// Protobuf's limit on a message, bytes.
const LARGEST: usize = i32::MAX as usize;

/// The bytes of the model.
///
/// # Errors
/// A network beyond the 2 GB that a protobuf message may have.
pub fn encode(
    derived: &Derived,
    tensors: &[NamedTensor],
    genotype: &str,
    normalisation: &Normalisation,
) -> Result<Vec<u8>> {
    let mut graph = Graph {
        name: "ndarts".into(),
        ..Graph::default()
    };
    let mut needed = HashSet::new();
    for layer in needed_layers(derived) {
        add(&mut graph, derived, layer);
        needed.extend(layer.parameters().into_iter().map(|t| t.name));
        needed.extend(layer.buffers().into_iter().map(|t| t.name));
    }
    let wanted = tensors.iter().filter(|t| needed.contains(&t.name));
    graph.initializer.extend(wanted.map(floats));
    let [height, width] = derived.tensors[0].size;
    let classes = derived.tensors[derived.logits.0].channels;
    graph.input = vec![value_info("images", &[3, height, width])];
    graph.output = vec![value_info("logits", &[classes])];
    let list = |values: [f32; 3]| values.map(|v| v.to_string()).join(",");
    let property = |key: &str, value: String| Property {
        key: key.into(),
        value,
    };
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: "ndarts".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: OPSET,
        }],
        metadata_props: vec![
            property("genotype", genotype.into()),
            property("mean", list(normalisation.mean)),
            property("std", list(normalisation.std)),
        ],
    };
    let len = model.encoded_len();
    ensure!(
        len <= LARGEST,
        "--export: expected a network of at most {LARGEST} bytes as ONNX, found {len}; export \
         safetensors instead"
    );
    let mut bytes = Vec::with_capacity(len);
    model.encode(&mut bytes).context("the ONNX model")?;
    Ok(bytes)
}

/// Layers of the body that the logits depend on, in order.
fn needed_layers(derived: &Derived) -> Vec<&Layer> {
    let mut needed = vec![false; derived.tensors.len()];
    needed[derived.logits.0] = true;
    let mut layers = Vec::new();
    for layer in derived.layers.iter().rev() {
        if layer.part == Part::Body && needed[layer.output.0] {
            for input in &layer.inputs {
                needed[input.0] = true;
            }
            layers.push(layer);
        }
    }
    layers.reverse();
    layers
}

fn name(derived: &Derived, id: TensorId) -> String {
    match id {
        TensorId(0) => "images".into(),
        id if id == derived.logits => "logits".into(),
        TensorId(number) => format!("t{number}"),
    }
}

fn add(graph: &mut Graph, derived: &Derived, layer: &Layer) {
    let mut inputs: Vec<String> = layer.inputs.iter().map(|&id| name(derived, id)).collect();
    let output = name(derived, layer.output);
    let own = |suffix: &str| format!("{}.{suffix}", layer.name);
    let mut attributes = Vec::new();
    let op = match &layer.kind {
        Kind::Relu => "Relu",
        Kind::Convolution {
            window,
            groups,
            bias,
        } => {
            inputs.push(own("weight"));
            inputs.extend(bias.then(|| own("bias")));
            attributes = of_window(window);
            let dilation = window.dilation as i64;
            attributes.push(ints("dilations", vec![dilation; 2]));
            attributes.push(int("group", *groups as i64));
            "Conv"
        }
        Kind::BatchNorm => {
            inputs.extend(["weight", "bias", "running_mean", "running_var"].map(own));
            attributes.push(Attribute {
                name: "epsilon".into(),
                f: Some(NORM_EPSILON as f32),
                kind: 1,
                ..Attribute::default()
            });
            "BatchNormalization"
        }
        Kind::MaxPool(window) => {
            attributes = of_window(window);
            "MaxPool"
        }
        Kind::AveragePool(window) => {
            attributes = of_window(window);
            attributes.push(int("count_include_pad", 0));
            "AveragePool"
        }
        Kind::Crop => {
            for (part, values) in [
                ("starts", [1, 1]),
                ("ends", [i64::MAX; 2]),
                ("axes", [2, 3]),
            ] {
                inputs.push(constant(graph, format!("{output}.{part}"), &values));
            }
            "Slice"
        }
        Kind::Zero { stride } => {
            zero(graph, &inputs[0], &output, *stride);
            return;
        }
        Kind::Sum { .. } => "Sum",
        Kind::Concatenate => {
            attributes.push(int("axis", 1));
            "Concat"
        }
        Kind::GlobalAverage => {
            let pooled = format!("{output}.pooled");
            node(graph, "GlobalAveragePool", inputs, &pooled, Vec::new());
            inputs = vec![pooled];
            attributes.push(int("axis", 1));
            "Flatten"
        }
        Kind::Linear => {
            inputs.extend(["weight", "bias"].map(own));
            attributes.push(int("transB", 1));
            "Gemm"
        }
    };
    node(graph, op, inputs, &output, attributes);
}

/// Zeros as PyTorch's code makes them: every `stride`-th place, times zero.
fn zero(graph: &mut Graph, input: &str, output: &str, stride: usize) {
    let picked = format!("{output}.picked");
    let window = Window::valid(1, stride);
    let input = vec![input.to_owned()];
    node(graph, "MaxPool", input, &picked, of_window(&window));
    let factor = format!("{output}.zero");
    graph.initializer.push(floats(&NamedTensor {
        name: factor.clone(),
        shape: vec![1],
        data: vec![0.0],
    }));
    node(graph, "Mul", vec![picked, factor], output, Vec::new());
}

fn node(graph: &mut Graph, op: &str, input: Vec<String>, output: &str, attribute: Vec<Attribute>) {
    graph.node.push(Node {
        input,
        output: vec![output.into()],
        name: format!("{op}_{output}"),
        op_type: op.into(),
        attribute,
    });
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute {
        name: name.into(),
        i: Some(value),
        kind: 2,
        ..Attribute::default()
    }
}

fn ints(name: &str, values: Vec<i64>) -> Attribute {
    Attribute {
        name: name.into(),
        ints: values,
        kind: 7,
        ..Attribute::default()
    }
}

fn of_window(window: &Window) -> Vec<Attribute> {
    let pair = |values: [usize; 2]| values.map(|v| v as i64).to_vec();
    let [top, left] = window.padding;
    vec![
        ints("kernel_shape", pair(window.kernel)),
        ints("strides", pair(window.stride)),
        ints("pads", [top, left, top, left].map(|v| v as i64).to_vec()),
    ]
}

fn floats(tensor: &NamedTensor) -> Tensor {
    Tensor {
        dims: tensor.shape.iter().map(|&side| side as i64).collect(),
        data_type: FLOAT,
        name: tensor.name.clone(),
        raw_data: tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn constant(graph: &mut Graph, name: String, values: &[i64]) -> String {
    graph.initializer.push(Tensor {
        dims: vec![values.len() as i64],
        data_type: INT64,
        name: name.clone(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    });
    name
}

/// A float tensor whose first side is the free batch.
fn value_info(name: &str, sides: &[usize]) -> ValueInfo {
    let fixed = sides.iter().map(|&side| Dimension {
        value: Some(side as i64),
        parameter: None,
    });
    let batch = Dimension {
        value: None,
        parameter: Some("N".into()),
    };
    ValueInfo {
        name: name.into(),
        kind: Some(Type {
            tensor: Some(TensorType {
                elem_type: FLOAT,
                shape: Some(Shape {
                    dim: std::iter::once(batch).chain(fixed).collect(),
                }),
            }),
        }),
    }
}
