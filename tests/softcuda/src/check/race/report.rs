//! How a race reads: both parties, with their places in the source.

use super::Party;
use crate::check::{AccessKind, Fault, FaultKind};
use crate::execute::{At, BlockState, Warp};

impl Warp {
    /// The finding of a race between blocks.
    #[allow(
        clippy::too_many_arguments,
        reason = "an access as the machine has it, by its parts"
    )]
    #[cold]
    pub(crate) fn global_race(
        &self,
        block: &BlockState,
        at: At,
        lane: u32,
        address: u64,
        bytes: u64,
        kind: AccessKind,
        other: Party,
    ) -> Box<Fault> {
        let who = match other.block {
            Some(index) => {
                let [gx, gy, _] = block.env.launch.grid.map(u64::from);
                format!(
                    "block ({},{},{})",
                    index % gx,
                    index / gx % gy,
                    index / gx / gy
                )
            }
            None => "several other blocks".to_string(),
        };
        let place = other.at.map_or(String::new(), |at| {
            format!(" at {}", block.place(at.function, at.pc))
        });
        let message = format!(
            "race: {} of {bytes} bytes at {address:#x} and {} by {who}{place}, without an order \
             between them; it is {}",
            kind.name(),
            other.kind.name(),
            block.env.machine.memory.describe(address, bytes)
        );
        block.fault(FaultKind::Race, self, at.function, at.pc, lane, &message)
    }

    /// The finding of a race within a block.
    #[allow(
        clippy::too_many_arguments,
        reason = "an access as the machine has it, by its parts"
    )]
    #[cold]
    pub(crate) fn shared_race(
        &self,
        block: &BlockState,
        at: At,
        lane: u32,
        address: u64,
        bytes: u64,
        kind: AccessKind,
        other: Party,
    ) -> Box<Fault> {
        let place = other.at.map_or(String::new(), |at| {
            format!(" at {}", block.place(at.function, at.pc))
        });
        let message = format!(
            "race: {} of {bytes} bytes at {address:#x} of shared memory and {} by thread {}{place}, \
             without a barrier between them",
            kind.name(),
            other.kind.name(),
            block.thread(other.thread),
        );
        block.fault(FaultKind::Race, self, at.function, at.pc, lane, &message)
    }
}
