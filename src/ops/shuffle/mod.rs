//! Channel shuffle (Zhang et al. 2018): channels of K groups, dealt out in turn.
//!
//! ```text
//! y[i·K + g] = x[g·C/K + i]      x̄[g·C/K + i] += ȳ[i·K + g]      and ẏ, x̄˙ likewise
//! ```
//!
//! PC-DARTS shuffles each node, so that the next edges' first channels come from all of its groups. A copy:
//! bound by memory, one load and one store an element.

mod cuda;
#[cfg(test)]
mod tests;

use super::cuda::Encoder;
use super::{ActivationId, Context, Graph, Op, Pass, Role, Uses};
use crate::device::parallel::for_each;

/// A tape entry; see the module.
pub struct Shuffle {
    input: ActivationId,
    output: ActivationId,
    groups: usize,
    channels: usize,
    size: [usize; 2],
    batch: usize,
}

impl Shuffle {
    /// Shuffles `input` into `output`.
    ///
    /// # Panics
    /// Normalised activations, other shapes, or groups that do not divide the channels.
    pub fn new(graph: &Graph, input: ActivationId, output: ActivationId, groups: usize) -> Shuffle {
        let (from, to) = (graph.activation(input), graph.activation(output));
        let shape = [from.height, from.width, from.channels];
        assert!(
            !from.normalised && !to.normalised && shape == [to.height, to.width, to.channels],
            "a shuffle reads and writes plain activations of one shape"
        );
        assert!(
            from.channels.is_multiple_of(groups),
            "groups of equal channels"
        );
        Shuffle {
            input,
            output,
            groups,
            channels: from.channels,
            size: [from.height, from.width],
            batch: graph.batch,
        }
    }

    fn pixels(&self) -> usize {
        self.batch * self.size[0] * self.size[1]
    }

    /// y from x, or ẏ from ẋ.
    fn shuffle(&self, cx: &Context, role: Role) {
        let (from, to) = (cx.dense(self.input, role), cx.dense(self.output, role));
        self.each_pixel(|pixel| {
            let x = from.view.part(pixel * from.pixel_stride, self.channels);
            let y = to.view.part(pixel * to.pixel_stride, self.channels);
            let (x, y) = (x.read(), y.write());
            for (g, group) in x.chunks_exact(self.channels / self.groups).enumerate() {
                for (i, &x) in group.iter().enumerate() {
                    y[i * self.groups + g] = x;
                }
            }
        });
    }

    /// x̄ from ȳ, or x̄˙ from ȳ˙.
    fn back(&self, cx: &Context, role: Role) {
        let (from, to) = (cx.dense(self.output, role), cx.dense(self.input, role));
        let add = cx.adds_to(self.input);
        self.each_pixel(|pixel| {
            let y = from.view.part(pixel * from.pixel_stride, self.channels);
            let x = to.view.part(pixel * to.pixel_stride, self.channels);
            let (y, x) = (y.read(), x.write());
            for (g, group) in x.chunks_exact_mut(self.channels / self.groups).enumerate() {
                for (i, x) in group.iter_mut().enumerate() {
                    let bar = y[i * self.groups + g];
                    *x = if add { *x + bar } else { bar };
                }
            }
        });
    }

    /// Runs `body` on every pixel, an image a task.
    fn each_pixel(&self, body: impl Fn(usize) + Sync + Send) {
        let [height, width] = self.size;
        for_each(self.batch, |image| {
            let first = image * height * width;
            (first..first + height * width).for_each(&body);
        });
    }
}

impl Op for Shuffle {
    fn name(&self) -> &'static str {
        "shuffle"
    }

    fn uses(&self, graph: &Graph, pass: Pass) -> Uses {
        Uses::linear(graph, pass, self.input, self.output)
    }

    fn forward(&self, cx: &Context) {
        self.shuffle(cx, Role::Value);
    }

    fn backward(&self, cx: &Context) {
        self.back(cx, Role::Adjoint);
    }

    fn tangent(&self, cx: &Context) {
        self.shuffle(cx, Role::Tangent);
    }

    fn tangent_backward(&self, cx: &Context) {
        self.back(cx, Role::AdjointTangent);
    }

    fn encode(&self, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
        cuda::encode(self, pass, encoder);
        Ok(())
    }
}
