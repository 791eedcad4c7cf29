//! The supernets of DARTS and NAS-Bench-201 in eager libtorch: `tests/torch/supernets.py`, op for op.
//!
//! Images are NCHW in shape; every batch norm uses the batch's own statistics. Works in any floating
//! type.

use crate::parameters::Parameters;
use anyhow::Result;
use tch::{Kind, Tensor};

/// A search space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Space {
    /// Cells of DARTS.
    Darts,
    /// Cells of NAS-Bench-201.
    Nb201,
}

impl Space {
    /// Its word on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Space::Darts => "darts",
            Space::Nb201 => "nb201",
        }
    }
}

/// The sizes of a supernet.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Search space.
    pub space: Space,
    /// C
    pub channels: i64,
    /// L, or N of NAS-Bench-201.
    pub cells: i64,
    /// Classes.
    pub classes: i64,
}

/// Logits `[N, classes]` of the supernet for images `[N, 3, H, W]`.
///
/// # Errors
/// A parameter that is missing or has another shape.
pub fn logits(get: &Parameters, images: &Tensor, sizes: Sizes) -> Result<Tensor> {
    match sizes.space {
        Space::Darts => darts(get, images, sizes),
        Space::Nb201 => nb201(get, images, sizes),
    }
}

fn channels(x: &Tensor) -> i64 {
    x.size()[1]
}

fn batch_norm(x: &Tensor, affine: Option<(Tensor, Tensor)>) -> Tensor {
    let (gain, shift) = affine.unzip();
    x.batch_norm(gain, shift, None, None, true, 0.1, 1e-5, false)
}

fn affine_norm(get: &Parameters, name: &str, x: &Tensor) -> Result<Tensor> {
    let of = |part| get.get(&format!("{name}.{part}"), &[channels(x)]);
    Ok(batch_norm(x, Some((of("weight")?, of("bias")?))))
}

/// A convolution's shape.
#[derive(Clone, Copy)]
struct Conv {
    cout: i64,
    kernel: i64,
    stride: i64,
    bias: bool,
}

fn conv(get: &Parameters, name: &str, x: &Tensor, shape: Conv) -> Result<Tensor> {
    let Conv {
        cout,
        kernel,
        stride,
        bias,
    } = shape;
    let size = [cout, channels(x), kernel, kernel];
    let weight = get.get(&format!("{name}.weight"), &size)?;
    let bias = bias.then(|| get.get(&format!("{name}.bias"), &[cout]));
    let padding = (kernel - 1) / 2;
    Ok(x.conv2d(&weight, bias.transpose()?, stride, padding, 1, 1))
}

fn pointwise(get: &Parameters, name: &str, x: &Tensor, cout: i64, stride: i64) -> Result<Tensor> {
    let shape = Conv {
        cout,
        kernel: 1,
        stride,
        bias: false,
    };
    conv(get, name, x, shape)
}

/// relu → depthwise → pointwise → batch norm.
fn separable(
    get: &Parameters,
    names: [String; 2],
    x: &Tensor,
    [kernel, stride, dilation]: [i64; 3],
) -> Result<Tensor> {
    let c = channels(x);
    let weight = get.get(&format!("{}.weight", names[0]), &[c, 1, kernel, kernel])?;
    let padding = dilation * (kernel - 1) / 2;
    let none: Option<Tensor> = None;
    let x = x.relu().conv2d(&weight, none, stride, padding, dilation, c);
    Ok(batch_norm(&pointwise(get, &names[1], &x, c, 1)?, None))
}

fn factorized_reduce(get: &Parameters, name: &str, x: &Tensor, cout: i64) -> Result<Tensor> {
    let x = x.relu();
    let shifted = x.slice(2, 1, None, 1).slice(3, 1, None, 1);
    let first = pointwise(get, &format!("{name}.conv_1"), &x, cout / 2, 2)?;
    let second = pointwise(get, &format!("{name}.conv_2"), &shifted, cout / 2, 2)?;
    Ok(batch_norm(&Tensor::cat(&[first, second], 1), None))
}

/// One of the eight primitives, in the order of the official list.
fn darts_op(get: &Parameters, edge: &str, op: usize, x: &Tensor, stride: i64) -> Result<Tensor> {
    let name = format!("{edge}.{op}");
    Ok(match op {
        0 => x.slice(2, None, None, stride).slice(3, None, None, stride) * 0.0,
        1 => batch_norm(&x.max_pool2d(3, stride, 1, 1, false), None),
        2 => batch_norm(&x.avg_pool2d(3, stride, 1, false, false, None), None),
        3 if stride == 1 => x.shallow_clone(),
        3 => factorized_reduce(get, &name, x, channels(x))?,
        _ => {
            let (kernel, dilation) = [(3, 1), (5, 1), (3, 2), (5, 2)][op - 4];
            let names = |i: usize| [format!("{name}.op.{i}"), format!("{name}.op.{}", i + 1)];
            let y = separable(get, names(1), x, [kernel, stride, dilation])?;
            match dilation {
                1 => separable(get, names(5), &y, [kernel, 1, 1])?,
                _ => y,
            }
        }
    })
}

/// total + Σ c·y
fn add_weighted(total: Option<Tensor>, op_weights: &Tensor, results: Vec<Tensor>) -> Tensor {
    let terms = op_weights.unbind(0).into_iter().zip(results);
    let sum = terms.map(|(c, y)| c * y).reduce(|sum, term| sum + term);
    let sum = sum.expect("an edge has candidate ops");
    match total {
        Some(total) => total + sum,
        None => sum,
    }
}

/// What a DARTS cell is told besides its inputs.
struct Cell<'a> {
    name: String,
    channels: i64,
    reduces: bool,
    reduced_before: bool,
    op_weights: &'a [Tensor],
}

fn darts_cell(get: &Parameters, inputs: [&Tensor; 2], cell: Cell) -> Result<Tensor> {
    let mut states = Vec::new();
    for (i, x) in inputs.into_iter().enumerate() {
        let layer = format!("{}.preprocess{i}", cell.name);
        states.push(if i == 0 && cell.reduced_before {
            factorized_reduce(get, &layer, x, cell.channels)?
        } else {
            let name = format!("{layer}.op.1");
            batch_norm(&pointwise(get, &name, &x.relu(), cell.channels, 1)?, None)
        });
    }
    let mut edge = 0;
    for node in 0..4 {
        let mut total = None;
        for (source, state) in states.iter().enumerate().take(2 + node) {
            let stride = if cell.reduces && source < 2 { 2 } else { 1 };
            let name = format!("{}._ops.{edge}._ops", cell.name);
            let results = (0..8).map(|op| darts_op(get, &name, op, state, stride));
            let results = results.collect::<Result<Vec<_>>>()?;
            total = Some(add_weighted(total, &cell.op_weights[edge], results));
            edge += 1;
        }
        states.extend(total);
    }
    Ok(Tensor::cat(&states[2..], 1))
}

fn darts(get: &Parameters, images: &Tensor, sizes: Sizes) -> Result<Tensor> {
    let relaxed = |name| -> Result<Vec<Tensor>> {
        let alpha = get.get(name, &[14, 8])?;
        Ok(alpha.softmax(-1, None::<Kind>).unbind(0))
    };
    let op_weights = [relaxed("alphas_normal")?, relaxed("alphas_reduce")?];
    let mut width = sizes.channels;
    let stem = Conv {
        cout: 3 * width,
        kernel: 3,
        stride: 1,
        bias: false,
    };
    let stem = affine_norm(get, "stem.1", &conv(get, "stem.0", images, stem)?)?;
    let (mut before, mut last, mut reduced_before) = (stem.shallow_clone(), stem, false);
    for index in 0..sizes.cells {
        let reduces = index == sizes.cells / 3 || index == 2 * sizes.cells / 3;
        width *= if reduces { 2 } else { 1 };
        let cell = Cell {
            name: format!("cells.{index}"),
            channels: width,
            reduces,
            reduced_before,
            op_weights: &op_weights[usize::from(reduces)],
        };
        let output = darts_cell(get, [&before, &last], cell)?;
        (before, last, reduced_before) = (last, output, reduces);
    }
    classifier(get, &last, sizes.classes)
}

fn nb201_edge(get: &Parameters, name: &str, x: &Tensor) -> Result<Vec<Tensor>> {
    let convolution = |op: i64, kernel| -> Result<Tensor> {
        let shape = Conv {
            cout: channels(x),
            kernel,
            stride: 1,
            bias: true,
        };
        let y = conv(get, &format!("{name}.{op}.op.1"), &x.relu(), shape)?;
        Ok(batch_norm(&y, None))
    };
    Ok(vec![
        x * 0.0,
        x.shallow_clone(),
        convolution(2, 1)?,
        convolution(3, 3)?,
        x.avg_pool2d(3, 1, 1, false, false, None),
    ])
}

/// Residual block of stride 2 that doubles the channels.
fn nb201_block(get: &Parameters, name: &str, x: &Tensor) -> Result<Tensor> {
    let cout = 2 * channels(x);
    let mut residual = x.shallow_clone();
    for (part, stride) in [("conv_a", 2), ("conv_b", 1)] {
        let shape = Conv {
            cout,
            kernel: 3,
            stride,
            bias: false,
        };
        let y = conv(get, &format!("{name}.{part}.op.1"), &residual.relu(), shape)?;
        residual = affine_norm(get, &format!("{name}.{part}.op.2"), &y)?;
    }
    let pooled = x.avg_pool2d(2, 2, 0, false, true, None);
    Ok(residual + pointwise(get, &format!("{name}.downsample.1"), &pooled, cout, 1)?)
}

fn nb201(get: &Parameters, images: &Tensor, sizes: Sizes) -> Result<Tensor> {
    let alpha = get.get("arch_parameters", &[6, 5])?;
    let op_weights = alpha.softmax(-1, None::<Kind>).unbind(0);
    let stem = Conv {
        cout: sizes.channels,
        kernel: 3,
        stride: 1,
        bias: false,
    };
    let mut x = affine_norm(get, "stem.1", &conv(get, "stem.0", images, stem)?)?;
    let mut index = 0;
    for stage in 0..3 {
        if stage > 0 {
            x = nb201_block(get, &format!("cells.{index}"), &x)?;
            index += 1;
        }
        for _ in 0..sizes.cells {
            let (mut nodes, mut edge) = (vec![x], 0);
            for node in 1..4 {
                let mut total = None;
                for (source, state) in nodes.iter().enumerate() {
                    let name = format!("cells.{index}.edges.{node}<-{source}");
                    let results = nb201_edge(get, &name, state)?;
                    total = Some(add_weighted(total, &op_weights[edge], results));
                    edge += 1;
                }
                nodes.extend(total);
            }
            x = nodes.swap_remove(3);
            index += 1;
        }
    }
    let features = affine_norm(get, "lastact.0", &x)?.relu();
    classifier(get, &features, sizes.classes)
}

fn classifier(get: &Parameters, x: &Tensor, classes: i64) -> Result<Tensor> {
    let pooled = x.mean_dim([2i64, 3].as_slice(), false, None::<Kind>);
    let weight = get.get("classifier.weight", &[classes, pooled.size()[1]])?;
    let bias = get.get("classifier.bias", &[classes])?;
    Ok(pooled.linear(&weight, Some(bias)))
}
