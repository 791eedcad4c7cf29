//! DARTS's derived networks (Liu et al. 2019; `model.py` and `operations.py` of the official code).
//!
//! A stem; L cells, of which those at L/3 and 2L/3 double the channels and halve the size; global
//! average and linear. A cell brings its two inputs to C channels, sums two ops a node and
//! concatenates. The CIFAR stem is one 3×3 convolution to 3C; the ImageNet stem is three of stride 2
//! to C/2, C, C, the first cell reading both sides of the last. The auxiliary head reads the cell at
//! 2L/3.

use anyhow::{Result, bail};

use super::layers::{Builder, Part, TensorId, Window};
use super::{Derived, Design};
use crate::space::ops::SeparableOp;
use crate::space::{DartsGenotype, GenotypeOp};

const STEM_MULTIPLIER: usize = 3;

pub(super) fn describe(genotype: &DartsGenotype, design: &Design) -> Result<Derived> {
    let (mut b, images) = Builder::new(design.image_size);
    let (mut before, mut last) = if design.imagenet {
        imagenet_stem(&mut b, images, design.channels)
    } else {
        let stem = b.conv(
            "stem.0",
            images,
            STEM_MULTIPLIER * design.channels,
            Window::same(3, 1, 1),
        );
        let stem = b.norm("stem.1", stem);
        (stem, stem)
    };
    let second_reduction = 2 * design.cells / 3;
    let mut channels = design.channels;
    // The ImageNet stem's two results differ in size like those around a reduction cell.
    let mut reduced = design.imagenet;
    let mut auxiliary_input = last;
    for index in 0..design.cells {
        let reduction = index == design.cells / 3 || index == second_reduction;
        if reduction {
            channels *= 2;
        }
        let (edges, concat) = if reduction {
            (&genotype.reduce, &genotype.reduce_concat)
        } else {
            (&genotype.normal, &genotype.normal_concat)
        };
        let cell = Cell {
            name: format!("cells.{index}"),
            edges,
            concat,
            channels,
            stride: if reduction { 2 } else { 1 },
        };
        let output = cell.describe(&mut b, before, last, reduced);
        (before, last, reduced) = (last, output, reduction);
        if index == second_reduction {
            auxiliary_input = output;
        }
    }
    let auxiliary_logits = if design.auxiliary {
        b.part = Part::Auxiliary;
        Some(auxiliary_head(&mut b, auxiliary_input, design)?)
    } else {
        None
    };
    b.part = Part::Body;
    let features = b.global_average("global_pooling", last);
    let logits = b.linear("classifier", features, design.classes);
    Ok(Derived {
        tensors: b.tensors,
        layers: b.layers,
        logits,
        auxiliary_logits,
    })
}

/// Results of `stem0` (a quarter of the image's side) and `stem1` (an eighth).
fn imagenet_stem(b: &mut Builder, images: TensorId, channels: usize) -> (TensorId, TensorId) {
    let halving = Window::same(3, 2, 1);
    let x = b.conv("stem0.0", images, channels / 2, halving);
    let x = b.norm("stem0.1", x);
    let x = b.relu("stem0.2", x);
    let x = b.conv("stem0.3", x, channels, halving);
    let quarter = b.norm("stem0.4", x);
    let x = b.relu("stem1.0", quarter);
    let x = b.conv("stem1.1", x, channels, halving);
    (quarter, b.norm("stem1.2", x))
}

/// `AuxiliaryHeadCIFAR`, or `AuxiliaryHeadImageNet`, which pools at stride 2 and, by an accident
/// that the official code keeps, has no second batch norm.
fn auxiliary_head(b: &mut Builder, input: TensorId, design: &Design) -> Result<TensorId> {
    let name = |part: &str| format!("auxiliary_head.{part}");
    let pool = Window::valid(5, if design.imagenet { 2 } else { 3 });
    let square = Window::valid(2, 1);
    let side = b.tensor(input).size;
    let result = pool.over(side).and_then(|size| square.over(size));
    if result != Some([1, 1]) {
        bail!(
            "--auxiliary: expected images of {} pixels, as the head pools what two reductions leave \
             of them to 2×2, found {}",
            if design.imagenet {
                "224 or 256"
            } else {
                "32, 36 or 40"
            },
            design.image_size
        );
    }
    let x = b.relu(&name("features.0"), input);
    let x = b.average_pool(&name("features.1"), x, pool);
    let x = b.conv(&name("features.2"), x, 128, Window::valid(1, 1));
    let x = b.norm(&name("features.3"), x);
    let x = b.relu(&name("features.4"), x);
    let x = b.conv(&name("features.5"), x, 768, square);
    let x = if design.imagenet {
        b.relu(&name("features.6"), x)
    } else {
        let x = b.norm(&name("features.6"), x);
        b.relu(&name("features.7"), x)
    };
    Ok(b.linear(&name("classifier"), x, design.classes))
}

struct Cell<'a> {
    name: String,
    edges: &'a [(GenotypeOp, usize)],
    concat: &'a [usize],
    channels: usize,
    /// Of the edges that read the cell's inputs.
    stride: usize,
}

impl Cell<'_> {
    fn describe(
        &self,
        b: &mut Builder,
        before: TensorId,
        last: TensorId,
        reduced: bool,
    ) -> TensorId {
        let Cell { name, channels, .. } = self;
        let pointwise = Window::same(1, 1, 1);
        let first = format!("{name}.preprocess0");
        let first = if reduced {
            factorized_reduce(b, &first, before, *channels)
        } else {
            b.relu_conv_norm(&first, before, *channels, pointwise)
        };
        let second = b.relu_conv_norm(&format!("{name}.preprocess1"), last, *channels, pointwise);
        let mut states = vec![first, second];
        for (node, pair) in self.edges.chunks_exact(2).enumerate() {
            let mut terms = Vec::with_capacity(pair.len());
            for (place, &(op, from)) in pair.iter().enumerate() {
                let stride = if from < 2 { self.stride } else { 1 };
                let op_name = format!("{name}._ops.{}", 2 * node + place);
                let result = describe_op(b, &op_name, op, states[from], stride);
                // Drop-path spares identities, which are the state itself.
                terms.push((result, result != states[from]));
            }
            states.push(b.sum(name, &terms));
        }
        let nodes: Vec<TensorId> = self.concat.iter().map(|&state| states[state]).collect();
        b.concatenate(name, &nodes)
    }
}

/// One op, under the name of its module; an identity is its input.
fn describe_op(
    b: &mut Builder,
    name: &str,
    op: GenotypeOp,
    input: TensorId,
    stride: usize,
) -> TensorId {
    let channels = b.channels(input);
    if let Some(form) = op.separable() {
        return separable(b, name, input, stride, form);
    }
    match op {
        GenotypeOp::None => b.zero(name, input, stride),
        GenotypeOp::SkipConnect if stride == 1 => input,
        GenotypeOp::SkipConnect => factorized_reduce(b, name, input, channels),
        GenotypeOp::AvgPool3x3 => b.average_pool(name, input, Window::same(3, stride, 1)),
        GenotypeOp::MaxPool3x3 => b.max_pool(name, input, Window::same(3, stride, 1)),
        GenotypeOp::MaxPool5x5 => b.max_pool(name, input, Window::same(5, stride, 1)),
        GenotypeOp::MaxPool7x7 => b.max_pool(name, input, Window::same(7, stride, 1)),
        GenotypeOp::Conv1x1 => b.relu_conv_norm(name, input, channels, Window::same(1, stride, 1)),
        GenotypeOp::Conv3x3 => b.relu_conv_norm(name, input, channels, Window::same(3, stride, 1)),
        GenotypeOp::Conv7x1Then1x7 => along_both_axes(b, name, input, 7, stride),
        GenotypeOp::Conv3x1Then1x3 => along_both_axes(b, name, input, 3, stride),
        other => unreachable!("{other} is separable"),
    }
}

/// relu → convolution 1×k → convolution k×1 → batch norm.
fn along_both_axes(
    b: &mut Builder,
    name: &str,
    input: TensorId,
    kernel: usize,
    stride: usize,
) -> TensorId {
    let channels = b.channels(input);
    let row = Window {
        kernel: [1, kernel],
        stride: [1, stride],
        padding: [0, kernel / 2],
        dilation: 1,
    };
    let column = Window {
        kernel: [kernel, 1],
        stride: [stride, 1],
        padding: [kernel / 2, 0],
        dilation: 1,
    };
    let x = b.relu(&format!("{name}.0"), input);
    let x = b.conv(&format!("{name}.1"), x, channels, row);
    let x = b.conv(&format!("{name}.2"), x, channels, column);
    b.norm(&format!("{name}.3"), x)
}

/// `DilConv`, `SepConv` or `SharpSepConv`: relu → depthwise → pointwise → batch norm once or twice, the stride in the
/// first.
fn separable(
    b: &mut Builder,
    name: &str,
    input: TensorId,
    stride: usize,
    form: SeparableOp,
) -> TensorId {
    let channels = b.channels(input);
    let mut half = |first: usize, input: TensorId, cout: usize, window: Window| {
        let at = |step: usize| format!("{name}.op.{}", first + step);
        let x = b.relu(&at(0), input);
        let x = b.depthwise(&at(1), x, window);
        let x = b.conv(&at(2), x, cout, Window::same(1, 1, 1));
        b.norm(&at(3), x)
    };
    let window = Window::same(form.kernel, stride, form.dilation);
    match form.width(channels) {
        None => half(0, input, channels, window),
        Some(width) => {
            let middle = half(0, input, width, window);
            half(4, middle, channels, Window::same(form.kernel, 1, 1))
        }
    }
}

/// `FactorizedReduce`: two pointwise convolutions of stride 2, one pixel apart, side by side.
fn factorized_reduce(b: &mut Builder, name: &str, input: TensorId, channels: usize) -> TensorId {
    let halving = Window::valid(1, 2);
    let half = channels / 2;
    let x = b.relu(&format!("{name}.relu"), input);
    let even = b.conv(&format!("{name}.conv_1"), x, half, halving);
    let shifted = b.crop(name, x);
    let odd = b.conv(&format!("{name}.conv_2"), shifted, channels - half, halving);
    let both = b.concatenate(name, &[even, odd]);
    b.norm(&format!("{name}.bn"), both)
}
