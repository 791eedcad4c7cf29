//! A small network around a set of ops: enough in front that their inputs have gradients, enough
//! behind that their outputs' adjoints differ from pixel to pixel.
//!
//! ```text
//! images → conv 1×1 → x → terms → mix by relaxed α → y → [norm γ, β] → relu, conv 3×3 → classifier
//! ```
//!
//! It is written twice, as a tape and as an oracle, over one flat θ = (ω, α).

use super::{POINTS, Truth, nudged};
use crate::autograd::Tape;
use crate::ops::separable::{Branch as SeparableBranch, Group};
use crate::ops::{self as engine, ActivationId, ParameterId, Scale, Span};
use crate::oracle::derivative::{Function, Scalar, second, tangent};
use crate::oracle::draw::uniform;
use crate::oracle::ops::{
    Branch, Pool, Window, classifier, conv, conv_along, factorized_reduce, mix, norm, pool, relax,
    separable,
};
use crate::oracle::tensor::Tensor;

/// Output channels of the last convolution.
const FEATURES: usize = 5;

/// One term of the chain's mix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Term {
    /// relu → depthwise → pointwise → norm; `twice` puts a second one of stride 1 behind it.
    Separable {
        kernel: usize,
        dilation: usize,
        twice: bool,
    },
    /// relu → dense convolution with bias → norm.
    Conv { kernel: usize },
    /// relu → 1×k → k×1, the second with the stride → norm; without bias.
    Along { kernel: usize },
    /// A pool, with or without norm.
    Pool { kind: Pool, normalised: bool },
    /// Factorized reduction → norm.
    Reduce,
    /// x itself.
    Skip,
}

/// Sizes and terms of a chain.
#[derive(Clone, Debug)]
pub struct Chain {
    /// N, H, W of the images.
    pub size: [usize; 3],
    /// Channels of x.
    pub cin: usize,
    /// Channels of y.
    pub cout: usize,
    /// Stride of every term.
    pub stride: usize,
    /// x is read through batch norm; then every term is a separable convolution.
    pub normalised_input: bool,
    /// What is mixed.
    pub terms: Vec<Term>,
    /// y is read through batch norm with γ and β.
    pub normalised_output: bool,
    /// Classes.
    pub classes: usize,
}

impl Chain {
    /// Images `[N, H, W, 3]`, rounded to f32.
    pub fn images(&self) -> Tensor<f64> {
        let [n, h, w] = self.size;
        let data = uniform("images", n * h * w * 3);
        Tensor::new(
            [n, h, w, 3],
            data.iter().map(|&x| f64::from(x as f32)).collect(),
        )
    }

    /// Labels `[N]`.
    pub fn labels(&self) -> Vec<usize> {
        (0..self.size[0])
            .map(|image| (image * 7 + 1) % self.classes)
            .collect()
    }

    /// The tape, and the name and span of each of its parameters.
    pub fn record(&self) -> (Tape, Vec<(String, Span)>) {
        let [n, h, w] = self.size;
        let mut tape = Tape::new(n, h, w);
        let (alpha, op_weights) = tape.alpha(1, self.terms.len());
        let mut names = vec![("alpha".to_string(), alpha)];
        let mut weight = |tape: &mut Tape, name: String, len| {
            let id = tape.weight(len);
            names.push((name, id));
            id
        };
        let first = weight(&mut tape, "first".into(), 3 * self.cin);
        let images = tape.images;
        let x = tape.conv(
            images,
            (1, 1),
            self.cin,
            false,
            self.normalised_input,
            (first, None),
        );
        let mut weights = Vec::new();
        for (i, term) in self.terms.iter().enumerate() {
            let lens = self.weight_lens(*term).into_iter().enumerate();
            let name = |part| format!("{i} {term:?}.{part}");
            let ids = lens.map(|(part, len)| weight(&mut tape, name(part), len));
            weights.push(ids.collect::<Vec<_>>());
        }
        let inputs = self.record_terms(&mut tape, x, &weights);
        let scale = |i| Scale::OpWeight(op_weights, i);
        let scaled = inputs.into_iter().enumerate();
        let terms: Vec<_> = scaled
            .map(|(i, input)| engine::mix::Term {
                input,
                scale: scale(i),
            })
            .collect();
        let size = tape.size(terms[0].input);
        let mut y = tape.activation(size, self.cout, self.normalised_output);
        tape.mix(terms, None, y);
        if self.normalised_output {
            let gain = weight(&mut tape, "gain".into(), self.cout);
            let shift = weight(&mut tape, "shift".into(), self.cout);
            y = tape.norm(y, Some((gain, shift)));
        }
        let last = weight(&mut tape, "last".into(), 9 * self.cout * FEATURES);
        let features = tape.conv(y, (3, 1), FEATURES, true, false, (last, None));
        let linear = weight(&mut tape, "linear".into(), FEATURES * self.classes);
        let bias = weight(&mut tape, "bias".into(), self.classes);
        tape.classifier(features, true, linear, bias);
        tape.finish();
        let spans = names
            .into_iter()
            .map(|(name, id)| (name, tape.graph.parameters[id.0]))
            .collect();
        (tape, spans)
    }

    /// Lengths of a term's weights, in the order of θ.
    fn weight_lens(&self, term: Term) -> Vec<usize> {
        let (cin, cout) = (self.cin, self.cout);
        match term {
            Term::Separable { kernel, twice, .. } => {
                let taps = kernel * kernel;
                let both = vec![taps * cin, cin * cout, taps * cout, cout * cout];
                if twice { both } else { both[..2].to_vec() }
            }
            Term::Conv { kernel } => vec![kernel * kernel * cin * cout, cout],
            // An axis keeps the channels.
            Term::Along { kernel } => vec![kernel * cin * cin; 2],
            Term::Reduce => vec![cin * (cout / 2), cin * (cout - cout / 2)],
            Term::Pool { .. } | Term::Skip => vec![],
        }
    }

    /// Records every term; the separable ones as one group, their second halves as one entry of
    /// several groups. Returns what the mix reads.
    fn record_terms(
        &self,
        tape: &mut Tape,
        x: ActivationId,
        weights: &[Vec<ParameterId>],
    ) -> Vec<ActivationId> {
        let (cout, stride) = (self.cout, self.stride);
        let size = tape.size(x).map(|side| side.div_ceil(stride));
        let mut first = Group {
            input: x,
            branches: Vec::new(),
        };
        let mut second = Vec::new();
        let mut results = Vec::new();
        for (term, weights) in self.terms.iter().zip(weights) {
            results.push(match *term {
                Term::Separable {
                    kernel,
                    dilation,
                    twice,
                } => {
                    let mut half = |weights: &[ParameterId], stride, dilation| {
                        let output = tape.activation(size, cout, true);
                        let (depthwise, pointwise) = (weights[0], weights[1]);
                        SeparableBranch {
                            kernel,
                            stride,
                            dilation,
                            depthwise,
                            pointwise,
                            output,
                        }
                    };
                    let branch = half(&weights[..2], stride, dilation);
                    first.branches.push(branch);
                    if twice {
                        let last = half(&weights[2..], 1, 1);
                        second.push(Group {
                            input: branch.output,
                            branches: vec![last],
                        });
                        last.output
                    } else {
                        branch.output
                    }
                }
                Term::Conv { kernel } => {
                    let weights = (weights[0], Some(weights[1]));
                    tape.conv(x, (kernel, stride), cout, true, true, weights)
                }
                Term::Along { kernel } => {
                    let row = tape.conv_along(x, (kernel, 1), false, (true, false), weights[0]);
                    let shape = (kernel, stride);
                    tape.conv_along(row, shape, true, (false, true), weights[1])
                }
                Term::Pool { kind, normalised } => {
                    tape.pool(x, stride, &[engine_kind(kind)], normalised)[0]
                }
                Term::Reduce => tape.factorized_reduce(x, cout, [weights[0], weights[1]]),
                Term::Skip => x,
            });
        }
        for groups in [vec![first], second] {
            let groups: Vec<_> = groups
                .into_iter()
                .filter(|g| !g.branches.is_empty())
                .collect();
            if !groups.is_empty() {
                tape.separable(groups);
            }
        }
        results
    }

    /// Loss and logits.
    pub fn forward<T: Scalar>(&self, theta: &[T]) -> (T, Vec<T>) {
        let (omega, alpha) = theta.split_at(theta.len() - self.terms.len());
        let mut omega = omega.iter().copied();
        let mut take = |len: usize| omega.by_ref().take(len).collect::<Vec<T>>();
        let images = self.images();
        let images = Tensor::new(
            images.shape,
            images.data.iter().map(|&x| x.into()).collect(),
        );
        let x = conv(
            &images,
            false,
            Window::dense(1, 1),
            &take(3 * self.cin),
            None,
        );
        let x = if self.normalised_input {
            norm(&x, None)
        } else {
            x
        };
        let results: Vec<_> = self
            .terms
            .iter()
            .map(|&term| self.apply_term(&x, term, &mut take))
            .collect();
        let (mut branches, mut plain) = (Vec::new(), Vec::new());
        for ((z, normalised), weight) in results.iter().zip(relax(alpha, self.terms.len())) {
            if *normalised {
                branches.push(Branch {
                    z,
                    affine: None,
                    weight,
                });
            } else {
                plain.push((z, weight));
            }
        }
        let mut y = mix(&branches, &plain);
        if self.normalised_output {
            let (gain, shift) = (take(self.cout), take(self.cout));
            y = norm(&y, Some((&gain, &shift)));
        }
        let features = conv(
            &y,
            true,
            Window::dense(3, 1),
            &take(9 * self.cout * FEATURES),
            None,
        );
        let (linear, bias) = (take(FEATURES * self.classes), take(self.classes));
        classifier(&features, true, &linear, &bias, &self.labels())
    }

    /// A term's result, and whether the mix normalises it.
    fn apply_term<T: Scalar>(
        &self,
        x: &Tensor<T>,
        term: Term,
        take: &mut impl FnMut(usize) -> Vec<T>,
    ) -> (Tensor<T>, bool) {
        let (cin, cout, stride) = (self.cin, self.cout, self.stride);
        match term {
            Term::Separable {
                kernel,
                dilation,
                twice,
            } => {
                let window = Window {
                    kernel,
                    stride,
                    dilation,
                };
                let taps = kernel * kernel;
                let z = separable(x, false, window, &take(taps * cin), &take(cin * cout));
                if !twice {
                    return (z, true);
                }
                let window = Window::dense(kernel, 1);
                (
                    separable(&z, true, window, &take(taps * cout), &take(cout * cout)),
                    true,
                )
            }
            Term::Conv { kernel } => {
                let (weight, bias) = (take(kernel * kernel * cin * cout), take(cout));
                (
                    conv(x, true, Window::dense(kernel, stride), &weight, Some(&bias)),
                    true,
                )
            }
            Term::Along { kernel } => {
                let len = kernel * cin * cin;
                let row = conv_along(x, true, false, Window::dense(kernel, 1), &take(len));
                let window = Window::dense(kernel, stride);
                (conv_along(&row, false, true, window, &take(len)), true)
            }
            Term::Pool { kind, normalised } => (pool(x, kind, stride), normalised),
            Term::Reduce => {
                let half = cout / 2;
                (
                    factorized_reduce(x, &take(cin * half), &take(cin * (cout - half))),
                    true,
                )
            }
            Term::Skip => (x.clone(), false),
        }
    }
}

impl Function for Chain {
    fn call<T: Scalar>(&self, theta: &[T]) -> Vec<T> {
        vec![self.forward(theta).0]
    }
}

fn engine_kind(kind: Pool) -> engine::pool::Kind {
    match kind {
        Pool::Average3 => engine::pool::Kind::Average3,
        Pool::Max3 => engine::pool::Kind::Maximum3,
        Pool::Max5 => engine::pool::Kind::Maximum5,
        Pool::Max7 => engine::pool::Kind::Maximum7,
        Pool::Average2 => engine::pool::Kind::Average2,
        Pool::Max2 => engine::pool::Kind::Maximum2,
    }
}

/// A chain at its points, with the direction v of its product.
pub struct ChainTruth<'a> {
    chain: &'a Chain,
    points: Vec<Vec<f64>>,
    direction: Vec<f64>,
    tensors: &'a [(String, Span)],
}

impl<'a> ChainTruth<'a> {
    /// The chain at `theta`.
    pub fn new(
        chain: &'a Chain,
        theta: &[f64],
        direction: Vec<f64>,
        tensors: &'a [(String, Span)],
    ) -> Self {
        let points = (0..POINTS)
            .map(|index| nudged("theta", theta, index))
            .collect();
        ChainTruth {
            chain,
            points,
            direction,
            tensors,
        }
    }

    fn embed(&self, index: usize, u: &[f64]) -> Vec<f64> {
        let span = self.tensors[index].1;
        let mut whole = vec![0.0; self.direction.len()];
        whole[span.offset..span.offset + span.len].copy_from_slice(u);
        whole
    }
}

impl Truth for ChainTruth<'_> {
    fn value(&self) -> (f64, Vec<f64>) {
        self.chain.forward(&self.points[0])
    }

    fn slope(&self, point: usize, index: usize, u: &[f64]) -> f64 {
        tangent(self.chain, &self.points[point], &self.embed(index, u))[0]
    }

    fn curvature(&self, point: usize, index: usize, u: &[f64]) -> f64 {
        second(
            self.chain,
            &self.points[point],
            &self.embed(index, u),
            &self.direction,
        )
    }
}
