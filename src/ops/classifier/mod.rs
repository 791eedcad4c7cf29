//! Classifier: optional relu → global average pool → linear → mean softmax cross entropy.
//!
//! ```text
//! g = mean_{HW} f      l = g·W + b      L = mean_n (log Σ exp l − l_label)      f: [N, H, W, F]
//! l̄ = (softmax l − onehot)/N      W̄ = gᵀ l̄      b̄ = Σ l̄      f̄ = l̄·Wᵀ/(HW)
//! ```
//!
//! With label smoothing ε (Szegedy et al. 2016) the target is (1 − ε)·onehot + ε/K of K classes. A
//! tape may have a second, *auxiliary* classifier, whose loss enters with a weight and whose hits do
//! not count.
//!
//! and along a direction, with p = softmax l:
//!
//! ```text
//! l̇ = ġ·W + g·Ẇ + ḃ      l̄˙ = p ∘ (l̇ − Σ p·l̇)/N
//! W̄˙ = ġᵀ l̄ + gᵀ l̄˙      b̄˙ = Σ l̄˙      f̄˙ = (l̄˙·Wᵀ + l̄·Ẇᵀ)/(HW)
//! ```

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use super::cuda::Encoder;
use super::{ActivationId, Context, Graph, Op, ParameterId, Pass, Uses};

/// The last entry of a tape; see the module.
pub struct Classifier {
    features: ActivationId,
    relu: bool,
    weight: ParameterId,
    bias: ParameterId,
    batch: usize,
    channels: usize,
    classes: usize,
    loss: Loss,
}

/// How a classifier's loss is made, and where its logits go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Factor of this loss in the tape's.
    pub weight: f32,
    /// ε of label smoothing.
    pub smoothing: f32,
    /// Whether this is an auxiliary classifier: logits behind the main one's, hits not counted.
    pub auxiliary: bool,
}

impl Default for Loss {
    fn default() -> Loss {
        Loss {
            weight: 1.0,
            smoothing: 0.0,
            auxiliary: false,
        }
    }
}

impl Classifier {
    /// Classifies `features` with `weight` `[F, classes]` and `bias` `[classes]`.
    pub fn new(
        graph: &Graph,
        features: ActivationId,
        relu: bool,
        (weight, bias): (ParameterId, ParameterId),
        loss: Loss,
    ) -> Classifier {
        let channels = graph.activation(features).channels;
        let classes = graph.parameters[bias.0].len;
        Classifier {
            features,
            relu,
            weight,
            bias,
            batch: graph.batch,
            channels,
            classes,
            loss,
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }
}

impl Op for Classifier {
    fn name(&self) -> &'static str {
        "classifier"
    }

    fn uses(&self, graph: &Graph, pass: Pass) -> Uses {
        let workspace = 2 * self.batch * (self.channels + self.classes);
        Uses::of_pass(graph, pass, &[self.features], &[], |_| true, workspace)
    }

    fn forward(&self, cx: &Context) {
        cpu::forward(self, cx);
    }

    fn backward(&self, cx: &Context) {
        cpu::backward(self, cx);
    }

    fn tangent(&self, cx: &Context) {
        cpu::tangent(self, cx);
    }

    fn tangent_backward(&self, cx: &Context) {
        cpu::tangent_backward(self, cx);
    }

    fn encode(&self, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
        cuda::encode(self, pass, encoder)
    }
}
