//! A CPU pass cut into chunks of images, each with its own block of partial sums.
//!
//! The cut depends on the batch alone, a chunk sums in a fixed order, and the chunks' sums are added
//! in order and in f64: so a pass leaves the same bits at any number of threads.

use crate::device::View;
use crate::device::parallel::{chunk_range, chunks, for_each, with_scratch};
use std::ops::Range;

/// What one task of a pass works on.
pub struct Chunk<'a> {
    /// Its images.
    pub images: Range<usize>,
    /// Its block of partial sums, with whatever it held before.
    pub partial: View,
    /// Rows and images of its own, with whatever they held before.
    pub scratch: &'a mut [f32],
}

/// The partial sums of every chunk, in an op's workspace.
#[derive(Clone, Copy)]
pub struct Partials {
    blocks: View,
    images: usize,
    stride: usize,
}

impl Partials {
    /// f32 that the blocks of a batch of `images` take, `stride` each.
    pub fn len(images: usize, stride: usize) -> usize {
        chunks(images) * stride
    }

    /// The blocks of a batch of `images`, `stride` f32 each, from `start` on in `workspace`.
    pub fn new(workspace: View, start: usize, images: usize, stride: usize) -> Partials {
        Partials {
            blocks: workspace.part(start, Partials::len(images, stride)),
            images,
            stride,
        }
    }

    /// Runs `body` on each chunk, with `scratch` f32 of the thread's own.
    pub fn for_each_chunk(self, scratch: usize, body: impl Fn(Chunk) + Sync + Send) {
        self.for_each_task(1, |_| scratch, |_, chunk| body(chunk));
    }

    /// Runs `body` on each chunk of each of `groups`, with `scratch(group)` f32 of the thread's own.
    pub fn for_each_task(
        self,
        groups: usize,
        scratch: impl Fn(usize) -> usize + Sync + Send,
        body: impl Fn(usize, Chunk) + Sync + Send,
    ) {
        let count = chunks(self.images);
        for_each(groups * count, |task| {
            let (group, chunk) = (task / count, task % count);
            with_scratch(scratch(group), |scratch| {
                body(
                    group,
                    Chunk {
                        images: chunk_range(self.images, chunk),
                        partial: self.blocks.part(chunk * self.stride, self.stride),
                        scratch,
                    },
                );
            });
        });
    }

    /// Each chunk's number of images and its block, in order.
    pub fn blocks<'a>(self) -> impl Iterator<Item = (usize, &'a [f32])> {
        (0..chunks(self.images)).map(move |chunk| {
            let block = self.blocks.part(chunk * self.stride, self.stride);
            (chunk_range(self.images, chunk).len(), block.read())
        })
    }

    /// Σ over the chunks of the element `at` of their blocks.
    pub fn sum(self, at: usize) -> f64 {
        let blocks = self.blocks.read();
        (0..chunks(self.images))
            .map(|chunk| f64::from(blocks[chunk * self.stride + at]))
            .sum()
    }
}
