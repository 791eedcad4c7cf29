//! A small network that holds every op in the shapes of the supernets' first stages, and what each
//! of its entries computes.

use super::BATCH;
use ndarts::autograd::Tape;
use ndarts::ops::mix::Term;
use ndarts::ops::pool::Kind;
use ndarts::ops::separable::{Branch, Group};
use ndarts::ops::{ActivationId, Scale, WeightsId};

/// An entry of the tape that is measured.
pub struct Entry {
    /// What it is.
    pub name: &'static str,
    /// Its place on the tape.
    pub index: usize,
    /// Multiply-adds of the forward pass.
    pub multiply_adds: f64,
    /// Both factors of a product depend on θ, so that its derivative has two terms and its second
    /// derivative four; false for the pools, which are linear.
    pub bilinear: bool,
}

/// The network, and its entries worth measuring.
pub struct Chain {
    /// The tape, finished.
    pub tape: Tape,
    /// In forward order.
    pub entries: Vec<Entry>,
}

/// C of the cells.
const CHANNELS: usize = 16;
/// H and W of the images.
const SIDE: usize = 32;
/// Classes.
const CLASSES: usize = 10;

impl Chain {
    /// Records the network.
    pub fn record() -> Chain {
        let mut chain = Chain {
            tape: Tape::new(BATCH, SIDE, SIDE),
            entries: Vec::new(),
        };
        let (_, op_weights) = chain.tape.alpha(14, 8);
        chain.note("relax 14×8", 0, 14.0 * 8.0, true);
        let images = chain.tape.images;
        let stem = chain.conv("conv 3×3 3→48", images, (3, 1), 3 * CHANNELS, false);
        let stem = chain.norm("norm affine 48", stem);
        let x = chain.conv("conv 1×1 48→16 relu", stem, (1, 1), CHANNELS, true);
        let x = chain.norm("norm affine 16", x);
        let x = chain.node(x, op_weights);
        let x = chain.conv("conv 3×3 16→16 relu", x, (3, 1), CHANNELS, true);
        let x = chain.norm("norm affine 16, again", x);
        let x = chain.reduced(x);
        let x = chain.conv("conv 3×3 64→64 relu, 16×16", x, (3, 1), 4 * CHANNELS, true);
        let x = chain.norm("norm affine 64, 16×16", x);
        let (weight, bias) = (
            chain.tape.weight(4 * CHANNELS * CLASSES),
            chain.tape.weight(CLASSES),
        );
        let adds = chain.elements(x) + (BATCH * 4 * CHANNELS * CLASSES) as f64;
        let index = chain.tape.ops.len();
        chain.tape.classifier(x, false, weight, bias);
        chain.note("classifier 64→10, 16×16", index, adds, true);
        chain.tape.finish();
        chain
    }

    fn note(&mut self, name: &'static str, index: usize, multiply_adds: f64, bilinear: bool) {
        self.entries.push(Entry {
            name,
            index,
            multiply_adds,
            bilinear,
        });
    }

    /// N·H·W·C
    fn elements(&self, id: ActivationId) -> f64 {
        let [height, width] = self.tape.size(id);
        (BATCH * height * width * self.tape.channels(id)) as f64
    }

    fn conv(
        &mut self,
        name: &'static str,
        input: ActivationId,
        (kernel, stride): (usize, usize),
        cout: usize,
        relu: bool,
    ) -> ActivationId {
        let cin = self.tape.channels(input);
        let weight = self.tape.weight(kernel * kernel * cin * cout);
        let index = self.tape.ops.len();
        let shape = (kernel, stride);
        let output = self
            .tape
            .conv(input, shape, cout, relu, true, (weight, None));
        let adds = self.elements(output) * (kernel * kernel * cin) as f64;
        self.note(name, index, adds, true);
        output
    }

    fn norm(&mut self, name: &'static str, z: ActivationId) -> ActivationId {
        let channels = self.tape.channels(z);
        let affine = (self.tape.weight(channels), self.tape.weight(channels));
        let index = self.tape.ops.len();
        let output = self.tape.norm(z, Some(affine));
        self.note(name, index, self.elements(output), true);
        output
    }

    /// The ops of one edge of a DARTS cell: separable convolutions, pools, skip, and their mix.
    fn node(&mut self, x: ActivationId, op_weights: WeightsId) -> ActivationId {
        let size = self.tape.size(x);
        let (mut branches, mut adds) = (Vec::new(), 0.0);
        for (kernel, dilation) in [(3, 1), (5, 1), (3, 2), (5, 2)] {
            let output = self.tape.activation(size, CHANNELS, true);
            branches.push(Branch {
                kernel,
                stride: 1,
                dilation,
                depthwise: self.tape.weight(kernel * kernel * CHANNELS),
                pointwise: self.tape.weight(CHANNELS * CHANNELS),
                output,
            });
            adds += self.elements(output) * (kernel * kernel + CHANNELS) as f64;
        }
        let mut terms: Vec<ActivationId> = branches.iter().map(|branch| branch.output).collect();
        let index = self.tape.ops.len();
        self.tape.separable(vec![Group { input: x, branches }]);
        self.note("separable 3, 5, dilated 3, 5, 16→16", index, adds, true);
        let index = self.tape.ops.len();
        let kinds = [Kind::Average3, Kind::Maximum3];
        terms.extend(self.tape.pool(x, 1, &kinds, true));
        self.note(
            "pool average, maximum 3×3",
            index,
            18.0 * self.elements(x),
            false,
        );
        terms.push(x);
        self.mix("mix of 7 branches", &terms, op_weights)
    }

    /// Stride 2: pools and a factorized reduction, to 4·C channels.
    fn reduced(&mut self, x: ActivationId) -> ActivationId {
        let index = self.tape.ops.len();
        let kinds = [Kind::Average3, Kind::Maximum3];
        let pooled = self.tape.pool(x, 2, &kinds, true);
        let adds = 18.0 * self.elements(pooled[0]);
        self.note("pool average, maximum 3×3, stride 2", index, adds, false);
        let output = self
            .tape
            .activation(self.tape.size(pooled[0]), CHANNELS, false);
        let terms = pooled.iter().map(|&input| Term {
            input,
            scale: Scale::One,
        });
        let (terms, index) = (terms.collect(), self.tape.ops.len());
        self.tape.mix(terms, None, output);
        self.note(
            "mix of 2 branches, 16×16",
            index,
            2.0 * self.elements(output),
            true,
        );
        let wide = self.conv(
            "conv 1×1 16→64 relu, 16×16",
            output,
            (1, 1),
            4 * CHANNELS,
            true,
        );
        let wide = self.norm("norm affine 64, 16×16, first", wide);
        let weights = [(); 2].map(|()| self.tape.weight(CHANNELS * 2 * CHANNELS));
        let index = self.tape.ops.len();
        let z = self.tape.factorized_reduce(x, 4 * CHANNELS, weights);
        let adds = self.elements(z) * CHANNELS as f64;
        self.note("factorized reduce 16→64", index, adds, true);
        let sum = self.tape.activation(self.tape.size(z), 4 * CHANNELS, false);
        let terms = [z, wide].map(|input| Term {
            input,
            scale: Scale::One,
        });
        let index = self.tape.ops.len();
        self.tape.mix(terms.into(), None, sum);
        self.note(
            "mix of 1 branch and 1 skip, 16×16",
            index,
            2.0 * self.elements(sum),
            true,
        );
        sum
    }

    fn mix(
        &mut self,
        name: &'static str,
        inputs: &[ActivationId],
        op_weights: WeightsId,
    ) -> ActivationId {
        let x = inputs[0];
        let output = self
            .tape
            .activation(self.tape.size(x), self.tape.channels(x), false);
        let terms = inputs.iter().enumerate().map(|(i, &input)| Term {
            input,
            scale: Scale::OpWeight(op_weights, i),
        });
        let (terms, index) = (terms.collect(), self.tape.ops.len());
        self.tape.mix(terms, None, output);
        let adds = inputs.len() as f64 * self.elements(output);
        self.note(name, index, adds, true);
        output
    }
}
