//! Batches: shuffled and augmented for training, plain for evaluation.
//!
//! Batch `step` of a [`Loader`] is a pure function of (seed, stream, step), so a search resumed at any
//! step sees the batches of an unbroken one. A thread of its own prepares batch `step + 1` while the
//! caller works on `step`. Two buffers change hands between the two, so a step allocates nothing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::Images;
use super::augment::{Augment, Normaliser};
use super::split::shuffle;
use crate::device::random::{Philox, Purpose};

/// What a loader's batches are for; loaders of different streams draw independently under one seed.
///
/// The discriminants are part of what a seed means and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// Training batches of weight steps.
    Train = 0,
    /// Validation batches of architecture steps.
    Validation = 1,
    /// Training batches of architecture steps.
    ArchTrain = 2,
    /// Training batches of ES generations between SGD steps.
    Evolution = 3,
}

/// One batch of normalised images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// \[B, H, W, 3\].
    pub images: Vec<f32>,
    /// \[B\].
    pub labels: Vec<u32>,
}

/// An endless stream of shuffled batches.
pub struct Loader {
    batches_per_epoch: usize,
    /// The batch lent to the caller.
    batch: Batch,
    worker: Worker,
}

enum Worker {
    Thread {
        desk: Arc<Desk>,
        handle: Option<JoinHandle<()>>,
        /// The step that the thread prepares or has ready.
        pending: Option<u64>,
    },
    /// The system gave no thread: batches are made when they are asked for. They are the same.
    Inline(Box<Source>),
}

/// Where the loader and its thread hand each other work. A lock rather than a channel, because a
/// channel allocates as messages pass.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The step to prepare next.
    wanted: Option<u64>,
    /// The last step prepared is in `batch`, and nobody took it yet.
    ready: bool,
    batch: Batch,
    /// The loader was dropped, or its thread ended.
    closed: bool,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Waits for `met`, or until the other side is gone.
    fn wait(&self, mut met: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed
            .wait_while(self.state(), |state| !state.closed && !met(state))
            .expect("nothing panics under this lock")
    }

    /// The thread's side: prepares what is wanted until the loader is gone.
    fn serve(&self, mut source: Source) {
        let _closing = Closing(self);
        loop {
            let mut state = self.wait(|state| state.wanted.is_some());
            if state.closed {
                return;
            }
            let Some(step) = state.wanted.take() else {
                continue;
            };
            let mut batch = std::mem::take(&mut state.batch);
            drop(state);
            source.fill(step, &mut batch);
            let mut state = self.state();
            state.batch = batch;
            state.ready = true;
            self.changed.notify_all();
        }
    }

    /// The loader's side: swaps the batch of `step` into `batch` and asks for the one after it.
    /// False when the thread is gone.
    fn exchange(&self, step: u64, pending: &mut Option<u64>, batch: &mut Batch) -> bool {
        if *pending != Some(step) {
            let pending_one = pending.take().is_some();
            let mut state = self.wait(|state| state.ready || !pending_one);
            state.ready = false;
            state.wanted = Some(step);
            self.changed.notify_all();
        }
        let mut state = self.wait(|state| state.ready);
        if !state.ready {
            return false;
        }
        state.ready = false;
        std::mem::swap(&mut state.batch, batch);
        let next = step.wrapping_add(1);
        state.wanted = Some(next);
        *pending = Some(next);
        self.changed.notify_all();
        true
    }
}

/// Closes the desk when it goes out of scope, also by a panic, so that the other side never waits
/// for one that is gone.
struct Closing<'a>(&'a Desk);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

impl Loader {
    /// A loader of the images at `indices`, `batch` at a time.
    ///
    /// `mean` and `std` are per channel, of pixels in 0..1. Each epoch is shuffled anew and cut into whole
    /// batches; the images left over wait for another epoch.
    ///
    /// # Panics
    /// Unless 1 ≤ `batch` ≤ `indices.len()` ([`check_batch`](super::check_batch)) and all indices are
    /// below `images.len()`.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one independent setting of a search"
    )]
    pub fn new(
        images: Arc<dyn Images>,
        indices: Vec<u32>,
        batch: usize,
        augment: Option<Augment>,
        mean: [f32; 3],
        std: [f32; 3],
        seed: u64,
        stream: Stream,
    ) -> Loader {
        assert!(
            (1..=indices.len()).contains(&batch),
            "a batch of {batch} cannot be drawn from {} images",
            indices.len()
        );
        assert!(
            indices.iter().all(|&i| (i as usize) < images.len()),
            "index beyond the images"
        );
        let size = images.size();
        let elements = size.iter().product::<usize>() * 3;
        let source = Source {
            images,
            order: indices.clone(),
            indices,
            order_epoch: None,
            batch,
            size: augment.map_or(size, |augment| augment.size(size)),
            augment,
            normaliser: Normaliser::new(mean, std),
            shuffle: Philox::new(seed, Purpose::Shuffle),
            augmentation: Philox::new(seed, Purpose::Augment),
            stream,
            pixels: vec![0; elements],
        };
        Loader {
            batches_per_epoch: source.batches_per_epoch(),
            batch: source.blank(),
            worker: Worker::new(source),
        }
    }

    /// Whole batches in one pass over the indices; at least 1.
    pub fn batches_per_epoch(&self) -> usize {
        self.batches_per_epoch
    }

    /// Batch `step`, of epoch `step / batches_per_epoch`.
    ///
    /// Steps in order are prepared ahead; any other order gives the same batches, later.
    pub fn batch(&mut self, step: u64) -> &Batch {
        match &mut self.worker {
            Worker::Inline(source) => source.fill(step, &mut self.batch),
            Worker::Thread {
                desk,
                handle,
                pending,
            } => {
                if !desk.exchange(step, pending, &mut self.batch) {
                    // The thread ends early only by a panic: hand it on.
                    match handle.take().map(JoinHandle::join) {
                        Some(Err(panic)) => std::panic::resume_unwind(panic),
                        _ => unreachable!("the loader's thread ended while its loader lives"),
                    }
                }
            }
        }
        &self.batch
    }
}

impl Worker {
    fn new(source: Source) -> Worker {
        let inline = Box::new(source.clone());
        let desk = Arc::new(Desk::default());
        desk.state().batch = source.blank();
        let shared = Arc::clone(&desk);
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || shared.serve(source));
        match thread {
            Ok(handle) => Worker::Thread {
                desk,
                handle: Some(handle),
                pending: None,
            },
            Err(error) => {
                tracing::warn!(
                    "no thread for the data loader ({error}): batches are not prepared ahead"
                );
                Worker::Inline(inline)
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Worker::Thread { desk, handle, .. } = self {
            drop(Closing(desk));
            if let Some(handle) = handle.take() {
                // A panic of the thread was either handed on by `batch` or concerns a batch nobody asked for.
                let _ = handle.join();
            }
        }
    }
}

/// Makes the batches.
#[derive(Clone)]
struct Source {
    images: Arc<dyn Images>,
    indices: Vec<u32>,
    /// `indices` as shuffled for `order_epoch`.
    order: Vec<u32>,
    order_epoch: Option<u64>,
    batch: usize,
    /// \[H, W\] of the batch's images.
    size: [usize; 2],
    augment: Option<Augment>,
    normaliser: Normaliser,
    shuffle: Philox,
    augmentation: Philox,
    stream: Stream,
    /// One image as it is stored.
    pixels: Vec<u8>,
}

impl Source {
    fn batches_per_epoch(&self) -> usize {
        self.indices.len() / self.batch
    }

    /// The second half of the Philox counter: the stream in the top byte, epoch or step below.
    fn counter(&self, number: u64) -> u64 {
        (self.stream as u64) << 56 | number & ((1 << 56) - 1)
    }

    /// A batch of zeros: the memory of one.
    fn blank(&self) -> Batch {
        Batch {
            images: vec![0.0; self.batch * self.size[0] * self.size[1] * 3],
            labels: vec![0; self.batch],
        }
    }

    /// Writes batch `step` into `batch`, in the memory it has.
    fn fill(&mut self, step: u64, batch: &mut Batch) {
        let per_epoch = self.batches_per_epoch() as u64;
        let epoch = step / per_epoch;
        if self.order_epoch != Some(epoch) {
            // From the same start each time: the order depends on the epoch, not on the ones before.
            self.order.copy_from_slice(&self.indices);
            let mut rng = self.shuffle.rng(self.counter(epoch));
            shuffle(&mut self.order, &mut rng);
            self.order_epoch = Some(epoch);
        }
        let first = (step % per_epoch) as usize * self.batch;
        let chosen = &self.order[first..first + self.batch];
        let (size, counter) = (self.images.size(), self.counter(step));
        let convert = |slot: usize, pixels: &[u8], out: &mut [f32]| match &self.augment {
            None => self.normaliser.plain(pixels, out),
            Some(augment) => {
                let placement = augment.draw(&self.augmentation, counter, slot as u64, size);
                self.normaliser.placed(pixels, size, &placement, out);
            }
        };
        assemble(
            &*self.images,
            (chosen, self.size),
            &mut self.pixels,
            batch,
            convert,
        );
    }
}

/// The images at `indices` in that order, normalised and otherwise as they are.
///
/// # Panics
/// When an index is not below `images.len()`.
pub fn evaluation_batch(
    images: &dyn Images,
    indices: &[u32],
    mean: [f32; 3],
    std: [f32; 3],
) -> Batch {
    let normaliser = Normaliser::new(mean, std);
    let mut batch = Batch::default();
    let convert = |_: usize, pixels: &[u8], out: &mut [f32]| normaliser.plain(pixels, out);
    let chosen = (indices, images.size());
    assemble(images, chosen, &mut Vec::new(), &mut batch, convert);
    batch
}

/// Makes `batch` one of the images at `indices`, each `size` when converted; `convert(slot, pixels, out)` writes each, `pixels`
/// is working memory.
fn assemble(
    images: &dyn Images,
    (indices, size): (&[u32], [usize; 2]),
    pixels: &mut Vec<u8>,
    batch: &mut Batch,
    convert: impl Fn(usize, &[u8], &mut [f32]),
) {
    let [height, width] = images.size();
    pixels.resize(height * width * 3, 0);
    let elements = size[0] * size[1] * 3;
    batch.images.resize(indices.len() * elements, 0.0);
    batch.labels.clear();
    for (slot, out) in batch.images.chunks_exact_mut(elements).enumerate() {
        let i = indices[slot] as usize;
        images.pixels(i, pixels);
        batch.labels.push(images.label(i));
        convert(slot, pixels, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::InMemory;
    use super::super::testing::counting;
    use super::*;

    /// 1×1 images whose label and red pixel are their index.
    fn numbered(n: usize) -> Arc<dyn Images> {
        Arc::new(InMemory {
            size: [1, 1],
            pixels: (0..n).flat_map(|i| [i as u8, 0, 0]).collect(),
            labels: (0..n as u32).collect(),
        })
    }

    fn loader(
        images: Arc<dyn Images>,
        batch: usize,
        augment: Option<Augment>,
        seed: u64,
        stream: Stream,
    ) -> Loader {
        let indices = (0..images.len() as u32).collect();
        Loader::new(
            images, indices, batch, augment, [0.0; 3], [1.0; 3], seed, stream,
        )
    }

    #[test]
    fn an_epoch_shows_every_image_once_and_each_epoch_has_its_own_order() {
        let mut loader = loader(numbered(12), 3, None, 1, Stream::Train);
        assert_eq!(loader.batches_per_epoch(), 4);
        let mut epoch = |e: u64| {
            (0..4)
                .flat_map(|b| loader.batch(4 * e + b).labels.clone())
                .collect::<Vec<_>>()
        };
        let orders = [epoch(0), epoch(1)];
        assert_ne!(orders[0], orders[1]);
        for mut order in orders {
            order.sort_unstable();
            assert!(order.into_iter().eq(0..12));
        }
    }

    #[test]
    fn images_left_over_by_whole_batches_change_from_epoch_to_epoch() {
        let mut loader = loader(numbered(7), 3, None, 1, Stream::Train);
        assert_eq!(loader.batches_per_epoch(), 2);
        let seen: std::collections::HashSet<u32> = (0..40)
            .flat_map(|step| loader.batch(step).labels.clone())
            .collect();
        assert_eq!(seen.len(), 7);
    }

    #[test]
    fn a_batch_is_a_function_of_seed_stream_and_step_in_any_order_of_asking() {
        let augment = Some(Augment {
            crop_padding: 1,
            flip: true,
            resized_crop: 0,
            jitter: [0.0; 4],
            cutout: 2,
        });
        let images: Arc<dyn Images> = Arc::new(counting(20, [5, 4], 4));
        let make = |seed, stream| loader(images.clone(), 4, augment, seed, stream);
        let mut forward = make(9, Stream::Train);
        let batches: Vec<Batch> = (0..15).map(|step| forward.batch(step).clone()).collect();
        let mut jumping = make(9, Stream::Train);
        for step in [14, 3, 4, 4, 0, 9, 10, 2] {
            assert_eq!(jumping.batch(step), &batches[step as usize], "step {step}");
        }
        assert_ne!(make(10, Stream::Train).batch(0), &batches[0]);
        assert_ne!(make(9, Stream::Validation).batch(0), &batches[0]);
    }

    #[test]
    fn augmentation_differs_between_two_showings_of_one_image() {
        let augment = Some(Augment {
            crop_padding: 2,
            flip: true,
            resized_crop: 0,
            jitter: [0.0; 4],
            cutout: 0,
        });
        let images: Arc<dyn Images> = Arc::new(counting(1, [6, 6], 1));
        let mut loader = loader(images, 1, augment, 1, Stream::Train);
        let distinct: std::collections::HashSet<Vec<u32>> = (0..50)
            .map(|step| {
                loader
                    .batch(step)
                    .images
                    .iter()
                    .map(|v| v.to_bits())
                    .collect()
            })
            .collect();
        // 25 shifts, mirrored or not.
        assert!(distinct.len() > 25);
    }

    #[test]
    fn evaluation_batches_are_plain_and_in_order() {
        let images = numbered(10);
        let batch = evaluation_batch(&*images, &[7, 2], [0.0; 3], [0.5; 3]);
        assert_eq!(batch.labels, [7, 2]);
        assert_eq!(batch.images[0], 7.0 / 255.0 / 0.5);
        assert_eq!(batch.images[3], 2.0 / 255.0 / 0.5);
    }

    struct Broken;
    impl Images for Broken {
        fn len(&self) -> usize {
            2
        }
        fn size(&self) -> [usize; 2] {
            [1, 1]
        }
        fn label(&self, _: usize) -> u32 {
            0
        }
        fn pixels(&self, _: usize, _: &mut [u8]) {
            panic!("the disk is gone")
        }
    }

    #[test]
    #[should_panic(expected = "the disk is gone")]
    fn a_panic_of_the_preparing_thread_reaches_the_caller() {
        loader(Arc::new(Broken), 1, None, 1, Stream::Train).batch(0);
    }
}
