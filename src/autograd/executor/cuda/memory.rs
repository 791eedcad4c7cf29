//! The accounting of device memory: what a tape takes by its plan, the buffers that hold it, and what is said
//! when they do not fit.

use super::recording::Planned;
use crate::autograd::plan::Mode;
use crate::autograd::tape::Tape;
use crate::device::cuda::gpu::OutOfMemory;
use crate::device::cuda::launch::SHARED_EVERYWHERE;
use crate::device::cuda::{Buffer, Gpu};
use crate::ops::cuda::{DeviceOutcome, Precision, SmallBuffers, Wants};

/// Device memory of a number of members, each with buffers of its own.
pub(super) struct Bank {
    pub members: usize,
    /// Elements of the arena, one member.
    pub arena_len: usize,
    pub arena: Buffer,
    pub moments: Buffer,
    pub weights: Buffer,
    pub logits: Buffer,
    /// Two more than members: a generation keeps ω₀'s behind them, and which it chose.
    pub outcome: Buffer,
    pub wants: Wants,
    pub workspace: Buffer,
    pub tickets: Buffer,
}

impl Bank {
    /// Buffers for `members` members of `tape`: an arena of `arena_len` elements, and what its passes want.
    ///
    /// # Errors
    /// Memory that ran out: which batch would fit.
    pub fn allocate(
        gpu: &Gpu,
        (tape, small): (&Tape, &SmallBuffers),
        (precision, members): (Precision, usize),
        (arena_len, wants): (usize, Wants),
    ) -> anyhow::Result<Bank> {
        let sizes = bank_bytes(tape, small, (precision, members), (arena_len, wants));
        let buffers = match allocate(gpu, sizes) {
            Ok(buffers) => buffers,
            Err(error) => {
                let Some(memory) = error.downcast_ref::<OutOfMemory>() else {
                    return Err(error);
                };
                // The advice is to last: of one member's modes that for products takes the most.
                let most = match members {
                    1 => planned_bytes(tape, Mode::Products, precision)?,
                    _ => sizes.iter().sum(),
                };
                let most = most.div_ceil(1_000_000) as u64;
                return Err(fits(memory, most, tape.graph.batch, members));
            }
        };
        let [arena, moments, weights, logits, outcome, workspace, tickets] = buffers;
        Ok(Bank {
            members,
            arena_len,
            arena,
            moments,
            weights,
            logits,
            outcome,
            wants,
            workspace,
            tickets,
        })
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        let buffers = [
            &self.arena,
            &self.moments,
            &self.weights,
            &self.logits,
            &self.outcome,
            &self.workspace,
            &self.tickets,
        ];
        buffers.iter().map(|buffer| buffer.bytes()).sum()
    }
}

/// Bytes of a batch: images in storage, then labels; and where the labels begin.
pub(super) fn batch_bytes(tape: &Tape, precision: Precision) -> (usize, usize) {
    let [height, width] = tape.size(tape.images);
    let images = tape.graph.batch * height * width * 3 * precision.bytes();
    let labels = images.next_multiple_of(16);
    (labels + 4 * tape.graph.batch, labels)
}

/// Bytes of each buffer of a [`Bank`], in the order of its fields.
fn bank_bytes(
    tape: &Tape,
    small: &SmallBuffers,
    (precision, members): (Precision, usize),
    (arena_len, wants): (usize, Wants),
) -> [usize; 7] {
    let floats = |len: usize| 4 * members * len;
    [
        members * arena_len * precision.bytes(),
        floats(4 * small.moments_len),
        floats(4 * small.weights_len),
        floats(tape.graph.batch * tape.classes),
        (members + 2) * size_of::<DeviceOutcome>(),
        floats(wants.workspace),
        floats(wants.tickets),
    ]
}

/// Bytes of device memory that `tape` takes in `mode` by its plan; no device is needed. Beside it a search
/// has some ten vectors as long as θ.
///
/// # Errors
/// An op that has no kernels, or not for its size.
pub fn planned_bytes(tape: &Tape, mode: Mode, precision: Precision) -> anyhow::Result<usize> {
    let small = SmallBuffers::new(&tape.graph);
    let planned = Planned::new(tape, mode, &small, (precision, SHARED_EVERYWHERE))?;
    let size = (planned.plan.workspace, planned.wants);
    Ok(bank_bytes(tape, &small, (precision, 1), size).iter().sum())
}

/// Buffers of these bytes, or none: then the error says what all need, and what was free before the first.
fn allocate<const N: usize>(gpu: &Gpu, sizes: [usize; N]) -> anyhow::Result<[Buffer; N]> {
    let (mut buffers, mut taken) = (Vec::with_capacity(N), 0);
    for bytes in sizes {
        match gpu.buffer(bytes) {
            Ok(buffer) => {
                taken += buffer.bytes();
                buffers.push(buffer);
            }
            Err(error) => {
                return Err(match error.downcast_ref::<OutOfMemory>() {
                    Some(memory) => memory.of_all(taken, sizes.iter().sum()).into(),
                    None => error,
                });
            }
        }
    }
    Ok(buffers.try_into().ok().expect("a buffer for each size"))
}

/// Says what the network needs, what is free, and which batch would fit if in all `most` MB are needed.
fn fits(memory: &OutOfMemory, most: u64, batch: usize, members: usize) -> anyhow::Error {
    let (need, free) = (memory.need, memory.free);
    // Nearly everything grows with the batch; a fifth stays for what does not, and for what is beside it.
    let fitting = batch as u64 * free * 8 / 10 / most.max(need).max(1);
    let population = if members > 1 {
        format!(", or a smaller --population than {}", members - 1)
    } else {
        String::new()
    };
    let advice = if fitting > 0 {
        format!("try --batch {fitting}{population}")
    } else {
        format!("it does not fit at any --batch{population}; try fewer --channels")
    };
    anyhow::anyhow!(
        "--batch {batch}: the network needs {need} MB of device memory, and {free} of {} MB are free; \
         {advice}",
        memory.total
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_large_a_network_is_told_the_batch_that_fits() {
        let memory = OutOfMemory {
            need: 8000,
            free: 4000,
            total: 6000,
        };
        let text = fits(&memory, 10_000, 64, 1).to_string();
        assert!(
            text.contains("--batch 20") && text.contains("8000 MB"),
            "{text}"
        );
    }
}
