//! Races.

use crate::check::{AccessKind, Fault, FaultKind};
use crate::execute::{At, BlockState, Warp};
use crate::options::Checks;

/// stub
pub(crate) struct RaceShadow {}
impl RaceShadow {
    pub(crate) fn new(_region: (u64, u64)) -> RaceShadow {
        RaceShadow {}
    }
    pub(crate) fn start(&self, _on: bool) {}
}

/// stub
pub(crate) struct Watch {}

/// The other party of a race.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party {
    pub(crate) thread: u32,
    pub(crate) block: u64,
    pub(crate) kind: AccessKind,
    pub(crate) at: At,
}

impl Watch {
    pub(crate) fn new(_checks: Checks, _warps: u32, _shared: u32) -> Watch {
        Watch {}
    }
    pub(crate) fn start_block(&mut self, _index: u64) {}
    pub(crate) fn barrier(&mut self, _warps: u32) {}
    pub(crate) fn arrive(&mut self, _warp: u32, _id: u32) {}
    pub(crate) fn fence(&mut self) {}
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn global(
        &mut self,
        _shadow: &RaceShadow,
        _list: &[u64; 32],
        _mask: u32,
        _bytes: u64,
        _kind: AccessKind,
        _at: At,
        _linear: bool,
    ) -> Option<(u32, Party)> {
        None
    }
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn shared(
        &mut self,
        _warp: &Warp,
        _list: &[u64; 32],
        _mask: u32,
        _bytes: u64,
        _kind: AccessKind,
        _at: At,
        _strong: bool,
    ) -> Option<(u32, Party)> {
        None
    }
}

impl Warp {
    pub(crate) fn order_global(
        &mut self,
        _block: &mut BlockState,
        _run: &crate::execute::Run,
        _list: &[u64; 32],
    ) {
    }

    #[allow(clippy::too_many_arguments)]
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
        let message = format!(
            "race: {} of {bytes} bytes at {address:#x} and {} by block {}, without an order between \
             them",
            kind.name(),
            other.kind.name(),
            other.block
        );
        block.fault(FaultKind::Race, self, at.function, at.pc, lane, &message)
    }

    #[allow(clippy::too_many_arguments)]
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
        let message = format!(
            "race: {} of {bytes} bytes at {address:#x} of shared memory and {} by thread {} at {}, \
             without a barrier between them",
            kind.name(),
            other.kind.name(),
            block.thread(other.thread),
            block.place(other.at.function, other.at.pc)
        );
        block.fault(FaultKind::Race, self, at.function, at.pc, lane, &message)
    }
}
