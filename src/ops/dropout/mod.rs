//! Dropout of a plain activation (Srivastava et al. 2014), element by element.
//!
//! ```text
//! y = m ∘ x      x̄ += m ∘ ȳ      ẏ = m ∘ ẋ      x̄˙ += m ∘ ȳ˙      m: 0 with probability p, else 1/(1 − p)
//! ```
//!
//! The mask is never stored: each pass draws it again from the counter of its [`Draw`] and of the tape's
//! entry, by the element's number. All four passes are the same masked copy. Bound by the drawing: a
//! Philox block for four elements.

pub mod cuda;
#[cfg(test)]
mod tests;

use super::cuda::Encoder;
use super::{ActivationId, Context, Dense, Graph, Op, Pass, Role, Uses};
use crate::device::parallel::for_each;
use crate::device::random::{Philox, uniform};

/// Entries of a tape that draws can tell apart.
const ENTRIES: u64 = 1 << 20;

/// What is dropped in a forward pass and in those that follow it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// p, below 1.
    pub rate: f32,
    /// Of [`Purpose::Dropout`](crate::device::random::Purpose::Dropout).
    pub philox: Philox,
    /// Number of the draw, below 2⁴⁴.
    pub number: u64,
}

/// A tape entry; see the module.
pub struct Dropout {
    input: ActivationId,
    output: ActivationId,
    entry: u64,
    batch: usize,
}

impl Dropout {
    /// Drops elements of `input`; `entry` is the entry's number on its tape.
    ///
    /// # Panics
    /// A normalised activation, or an entry beyond 2²⁰.
    pub fn new(graph: &Graph, input: ActivationId, output: ActivationId, entry: u64) -> Dropout {
        let plain = |id| !graph.activation(id).normalised;
        assert!(
            plain(input) && plain(output),
            "dropout reads and writes plain activations"
        );
        assert!(entry < ENTRIES, "a tape of at most {ENTRIES} entries");
        Dropout {
            input,
            output,
            entry,
            batch: graph.batch,
        }
    }

    fn copy(&self, cx: &Context, from: Dense, to: Dense, add: bool) {
        let draw = cx.dropout.filter(|draw| draw.rate > 0.0);
        for_each(self.batch, |image| match draw {
            None => masked_copy(from, to, image, add, || 1.0),
            Some(draw) => {
                let first = image * from.height * from.width * from.channels;
                let mut mask = Mask::new(draw, self.entry, first);
                masked_copy(from, to, image, add, || mask.next());
            }
        });
    }
}

/// The factors of consecutive elements.
struct Mask {
    draw: Draw,
    stream: u64,
    element: usize,
    words: [u32; 4],
}

impl Mask {
    /// From element `first` on.
    fn new(draw: Draw, entry: u64, first: usize) -> Mask {
        let stream = draw.number * ENTRIES + entry;
        Mask {
            draw,
            stream,
            element: first,
            words: draw.philox.block(first as u64 / 4, stream),
        }
    }

    #[inline(always)]
    fn next(&mut self) -> f32 {
        let lane = self.element % 4;
        if lane == 0 {
            self.words = self.draw.philox.block(self.element as u64 / 4, self.stream);
        }
        self.element += 1;
        if uniform(self.words[lane]) <= self.draw.rate {
            0.0
        } else {
            1.0 / (1.0 - self.draw.rate)
        }
    }
}

/// to (+)= m ∘ from for one image.
#[inline(always)]
fn masked_copy(from: Dense, to: Dense, image: usize, add: bool, mut mask: impl FnMut() -> f32) {
    let (width, channels) = (from.width, from.channels);
    for y in 0..from.height {
        for x in 0..width {
            let at = |dense: &Dense| {
                let pixel = (image * dense.height + y) * width + x;
                dense.view.part(pixel * dense.pixel_stride, channels)
            };
            let (source, target) = (at(&from).read(), at(&to).write());
            for (target, source) in target.iter_mut().zip(source) {
                let value = mask() * source;
                *target = if add { *target + value } else { value };
            }
        }
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn uses(&self, graph: &Graph, pass: Pass) -> Uses {
        Uses::linear(graph, pass, self.input, self.output)
    }

    fn forward(&self, cx: &Context) {
        let of = |id| cx.dense(id, Role::Value);
        self.copy(cx, of(self.input), of(self.output), false);
    }

    fn backward(&self, cx: &Context) {
        let of = |id| cx.dense(id, Role::Adjoint);
        let add = cx.adds_to(self.input);
        self.copy(cx, of(self.output), of(self.input), add);
    }

    fn tangent(&self, cx: &Context) {
        let of = |id| cx.dense(id, Role::Tangent);
        self.copy(cx, of(self.input), of(self.output), false);
    }

    fn tangent_backward(&self, cx: &Context) {
        let of = |id| cx.dense(id, Role::AdjointTangent);
        let add = cx.adds_to(self.input);
        self.copy(cx, of(self.output), of(self.input), add);
    }

    fn encode(&self, pass: Pass, encoder: &mut Encoder) -> anyhow::Result<()> {
        cuda::encode(self, pass, encoder);
        Ok(())
    }
}
