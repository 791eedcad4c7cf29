//! Loads, stores and atomics: from addresses to bytes, by way of the checks.
//!
//! An access of a warp is 32 addresses. One vector pass finds their range, their alignment and whether they
//! follow each other; everything common (inside one allocation, consecutive, all the same) is decided
//! from that, and only the rest goes lane by lane.

use super::block::{BlockState, LOCAL_BASE, PARAM_BASE, SHARED_BASE, SHARED_WINDOW, WINDOW};
use super::convert::{get128, put128};
use super::lanes::{Lane, Slot, leveled};
use super::transfer::{atomic, get, load, put, read_element, register, store, write_element};
use super::warp::Warp;
use crate::check::{AccessKind, Fault, FaultKind, Party};
use crate::lower::inst::{Access, Inst, MemSpace};
use crate::lower::types::{Type, Width};

/// What the addresses of an access have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survey {
    /// Lowest and highest address of an active lane.
    pub(crate) min: u64,
    pub(crate) max: u64,
    /// All addresses or-ed: their alignment.
    pub(super) bits: u64,
    /// Every lane is active and follows the one before.
    pub(super) linear: bool,
}

leveled!(
    /// Surveys the addresses of the active lanes of an access of `bytes` bytes a lane.
    survey = survey_body(addresses: &[u64; 32], mask: u32, bytes: u64) -> Survey
);
leveled!(
    /// The addresses `a + imm`.
    addresses = addresses_body(base: *const Slot, slot: u32, wide: bool, imm: i64, out: &mut [u64; 32])
);

/// # Safety
/// None; `unsafe` is the macro's.
#[inline(always)]
unsafe fn survey_body(addresses: &[u64; 32], mask: u32, bytes: u64) -> Survey {
    let (mut min, mut max, mut bits) = (u64::MAX, 0, 0);
    let mut gaps = 0;
    for lane in 0..32 {
        let active = mask >> lane & 1 == 1;
        let address = addresses[lane];
        min = if active && address < min {
            address
        } else {
            min
        };
        max = if active && address > max {
            address
        } else {
            max
        };
        bits |= if active { address } else { 0 };
        gaps |= address.wrapping_sub(addresses[0]) ^ (lane as u64 * bytes);
    }
    Survey {
        min,
        max,
        bits,
        linear: gaps == 0 && mask == u32::MAX,
    }
}

/// # Safety
/// `slot` is a register of the frame at `base`, 64 bits a lane where `wide`.
#[inline(always)]
unsafe fn addresses_body(base: *const Slot, slot: u32, wide: bool, imm: i64, out: &mut [u64; 32]) {
    // SAFETY: the caller's promise.
    unsafe {
        if wide {
            for (lane, out) in out.iter_mut().enumerate() {
                *out = u64::get(base, slot, lane).wrapping_add_signed(imm);
            }
        } else {
            // 32-bit addresses wrap within 32 bits.
            for (lane, out) in out.iter_mut().enumerate() {
                *out = u64::from(u32::get(base, slot, lane).wrapping_add(imm as u32));
            }
        }
    }
}

/// Where in the code an access is, for findings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) function: u32,
    pub(crate) pc: u32,
}

pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros();
        left &= left - 1;
        Some(lane as usize)
    })
}

/// An access being executed.
pub(crate) struct Run<'r> {
    pub(crate) inst: &'r Inst,
    pub(crate) access: Access,
    pub(crate) lists: &'r [u32],
    pub(crate) regs: *mut Slot,
    pub(crate) mask: u32,
    pub(crate) at: At,
}

impl Warp {
    /// Executes a load, store or atomic.
    pub(crate) fn access(
        &mut self,
        block: &mut BlockState,
        run: &Run,
        kind: AccessKind,
    ) -> Result<(), Box<Fault>> {
        let mut list = [0; 32];
        let access = run.access;
        // SAFETY: lowering made `a` a register of the width that the access says.
        unsafe {
            addresses(
                block.env.level,
                run.regs,
                run.inst.a,
                access.wide_address,
                run.inst.imm,
                &mut list,
            );
        }
        let bytes = u64::from(access.ty.bytes()) * u64::from(access.count);
        // SAFETY: the level is the processor's.
        let found = unsafe { survey(block.env.level, &list, run.mask, bytes) };
        if found.bits & (bytes - 1) != 0 {
            self.misaligned(block, run, &list, bytes)?;
        }
        match access.space {
            MemSpace::Global => self.global(block, run, &list, found, kind),
            MemSpace::Shared => self.shared(block, run, &list, found, kind),
            MemSpace::Local => self.local(block, run, &list, kind),
            MemSpace::Param => param(self, block, run, &list, found),
            MemSpace::Generic => self.generic(block, run, &list, found, kind),
        }
    }

    /// A kernel parameter at a fixed place.
    ///
    /// # Safety
    /// The destination is a register of that width in the frame at `regs`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn load_param(
        &self,
        block: &BlockState,
        inst: &Inst,
        ty: Type,
        width: Width,
        regs: *mut Slot,
        mask: u32,
        at: At,
    ) -> Result<(), Box<Fault>> {
        let params = &block.env.launch.params;
        let (offset, bytes) = (inst.imm as usize, ty.bytes() as usize);
        if offset.saturating_add(bytes) > params.len() {
            let message = format!(
                "out-of-bounds access: {bytes} bytes at {offset:#x} of the kernel's parameters, which \
                 are {} bytes",
                params.len()
            );
            let lane = mask.trailing_zeros();
            let kind = FaultKind::IllegalAddress;
            return Err(block.fault(kind, self, at.function, at.pc, lane, &message));
        }
        // SAFETY: the bytes are inside the parameter block; the register is the caller's promise.
        unsafe {
            let value = read_element(params.as_ptr().add(offset), ty);
            if width == Width::Word {
                super::lanes::write(regs, inst.dst, &[value as u32; 32], mask);
            } else {
                super::lanes::write(regs, inst.dst, &[value; 32], mask);
            }
        }
        Ok(())
    }

    #[cold]
    fn misaligned(
        &self,
        block: &BlockState,
        run: &Run,
        list: &[u64; 32],
        bytes: u64,
    ) -> Result<(), Box<Fault>> {
        let Some(lane) = lanes(run.mask).find(|&lane| list[lane] & (bytes - 1) != 0) else {
            return Ok(());
        };
        let message = format!(
            "misaligned access: {bytes} bytes at {:#x}, which is not a multiple of {bytes}; it is {}",
            list[lane],
            self.describe(block, list[lane], bytes)
        );
        Err(block.fault(
            FaultKind::MisalignedAddress,
            self,
            run.at.function,
            run.at.pc,
            lane as u32,
            &message,
        ))
    }

    fn describe(&self, block: &BlockState, address: u64, bytes: u64) -> String {
        if (SHARED_BASE..SHARED_BASE + WINDOW).contains(&address)
            || address < u64::from(block.env.shared_bytes)
        {
            return "in shared memory".to_string();
        }
        block.env.machine.memory.describe(address, bytes)
    }

    /// Sorts the lanes of a generic access by the window that their address is in.
    fn generic(
        &mut self,
        block: &mut BlockState,
        run: &Run,
        list: &[u64; 32],
        found: Survey,
        kind: AccessKind,
    ) -> Result<(), Box<Fault>> {
        let windows = SHARED_BASE..PARAM_BASE + WINDOW;
        if found.max < windows.start || found.min >= windows.end {
            return self.global(block, run, list, found, kind);
        }
        let (mut shared, mut local, mut param_lanes, mut global) = (0u32, 0u32, 0u32, 0u32);
        let mut moved = *list;
        for lane in lanes(run.mask) {
            let address = list[lane];
            let bit = 1 << lane;
            if (SHARED_BASE..SHARED_BASE + WINDOW).contains(&address) {
                shared |= bit;
                moved[lane] = address - SHARED_BASE;
            } else if (LOCAL_BASE..LOCAL_BASE + WINDOW).contains(&address) {
                local |= bit;
                moved[lane] = address - LOCAL_BASE;
            } else if (PARAM_BASE..PARAM_BASE + WINDOW).contains(&address) {
                param_lanes |= bit;
                moved[lane] = address - PARAM_BASE;
            } else {
                global |= bit;
            }
        }
        let bytes = u64::from(run.access.ty.bytes()) * u64::from(run.access.count);
        let part = |mask: u32, space: MemSpace| Run {
            mask,
            access: Access {
                space,
                ..run.access
            },
            ..*run
        };
        // SAFETY: the level is the processor's.
        let again = |mask: u32| unsafe { survey(block.env.level, &moved, mask, bytes) };
        let surveys = [again(global), again(shared), again(param_lanes)];
        if global != 0 {
            let run = part(global, MemSpace::Global);
            self.global(block, &run, &moved, surveys[0], kind)?;
        }
        if shared != 0 {
            let run = part(shared, MemSpace::Shared);
            self.shared(block, &run, &moved, surveys[1], kind)?;
        }
        if local != 0 {
            self.local(block, &part(local, MemSpace::Local), &moved, kind)?;
        }
        if param_lanes != 0 {
            let run = part(param_lanes, MemSpace::Param);
            param(self, block, &run, &moved, surveys[2])?;
        }
        Ok(())
    }

    fn global(
        &mut self,
        block: &mut BlockState,
        run: &Run,
        list: &[u64; 32],
        found: Survey,
        kind: AccessKind,
    ) -> Result<(), Box<Fault>> {
        let bytes = u64::from(run.access.ty.bytes()) * u64::from(run.access.count);
        let strong = run.access.order.strong;
        let race = self.check_global(block, run.mask, run.at, list, found, bytes, kind, strong)?;
        block.tally.global(run.at, list, run.mask, bytes, kind);
        if strong {
            self.order_global(block, run, list);
        }
        let before = match race {
            // Two writes of the same value leave no doubt about the result.
            Some((lane, other)) => {
                let address = list[lane as usize];
                if kind != AccessKind::Write || other.kind != AccessKind::Write {
                    return Err(self.global_race(block, run.at, lane, address, bytes, kind, other));
                }
                Some((lane, other, peek(address, bytes)))
            }
            None => None,
        };
        // SAFETY: the check found every address inside the device's memory region, which is mapped for
        // as long as the machine exists; kernels that race do so on plain bytes.
        unsafe {
            match kind {
                AccessKind::Read => load(run, list, found, std::ptr::null_mut()),
                AccessKind::Write => store(run, list, found, std::ptr::null_mut()),
                AccessKind::Atomic => {
                    let parallel = !block.env.kernel.traits.ordered;
                    atomic(run, list, std::ptr::null_mut(), parallel, true);
                }
            }
        }
        if let Some((lane, other, before)) = before {
            let address = list[lane as usize];
            if before != peek(address, bytes) {
                return Err(self.global_race(block, run.at, lane, address, bytes, kind, other));
            }
        }
        Ok(())
    }

    /// Bounds, initialised bits and races of a global access.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn check_global(
        &mut self,
        block: &mut BlockState,
        mask: u32,
        at: At,
        list: &[u64; 32],
        found: Survey,
        bytes: u64,
        kind: AccessKind,
        strong: bool,
    ) -> Result<Option<(u32, Party)>, Box<Fault>> {
        if !block
            .tally
            .touch(&block.env.machine.memory, found.min, found.max, bytes)
        {
            // Not all in one allocation: each lane by itself.
            for lane in lanes(mask) {
                let address = list[lane];
                if !block
                    .tally
                    .touch(&block.env.machine.memory, address, address, bytes)
                {
                    self.outside(block, at, lane, address, bytes, kind)?;
                }
            }
        }
        let checks = block.env.machine.options.checks;
        // Adopted host memory lies outside the region; it is initialised and not watched.
        let (first, size) = block.env.region;
        if found.min < first || found.max - first >= size {
            return Ok(None);
        }
        if let Some(shadow) = block.env.machine.memory.shadow() {
            let whole = found.linear.then_some((found.min, bytes * 32));
            if kind == AccessKind::Write {
                match whole {
                    Some((address, length)) => shadow.set(address, length),
                    None => lanes(mask).for_each(|lane| shadow.set(list[lane], bytes)),
                }
            } else {
                let missing = match whole {
                    Some((address, length)) => shadow.first_clear(address, length),
                    None => lanes(mask).find_map(|lane| shadow.first_clear(list[lane], bytes)),
                };
                if let Some(address) = missing {
                    self.uninitialised(block, mask, at, list, bytes, address)?;
                }
            }
        }
        if checks.races {
            return Ok(block.watch.global(
                &block.env.machine.race_shadow,
                block.order.as_mut(),
                list,
                mask,
                bytes,
                kind,
                at,
                strong,
            ));
        }
        Ok(None)
    }

    #[cold]
    fn outside(
        &self,
        block: &BlockState,
        at: At,
        lane: usize,
        address: u64,
        bytes: u64,
        kind: AccessKind,
    ) -> Result<(), Box<Fault>> {
        let memory = &block.env.machine.memory;
        let checked = block.env.machine.options.checks.memory;
        if !checked && memory.contains(address, bytes) {
            return Ok(());
        }
        let freed = memory.find(address).is_some_and(|a| a.freed.is_some());
        let what = if freed {
            "use after free"
        } else {
            "out-of-bounds access"
        };
        let message = format!(
            "{what}: {} of {bytes} bytes at {address:#x}; it is {}",
            kind.name(),
            self.describe(block, address, bytes)
        );
        let kind = FaultKind::IllegalAddress;
        Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message))
    }

    #[cold]
    fn uninitialised(
        &self,
        block: &BlockState,
        mask: u32,
        at: At,
        list: &[u64; 32],
        bytes: u64,
        address: u64,
    ) -> Result<(), Box<Fault>> {
        let lane = lanes(mask)
            .find(|&lane| (list[lane]..list[lane] + bytes).contains(&address))
            .unwrap_or(0);
        let message = format!(
            "uninitialised read: {bytes} bytes at {:#x}, of which nothing has written {address:#x}; \
             it is {}",
            list[lane],
            self.describe(block, address, 1)
        );
        let kind = FaultKind::Uninitialised;
        Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message))
    }

    pub(super) fn shared(
        &mut self,
        block: &mut BlockState,
        run: &Run,
        list: &[u64; 32],
        found: Survey,
        kind: AccessKind,
    ) -> Result<(), Box<Fault>> {
        let bytes = u64::from(run.access.ty.bytes()) * u64::from(run.access.count);
        let strong = run.access.order.strong;
        if found.max >= SHARED_WINDOW {
            return self.distributed(block, run, list, kind);
        }
        let race = self.check_shared(block, run.mask, run.at, list, found, bytes, kind, strong)?;
        block.tally.shared(run.at, list, run.mask, bytes, kind);
        let base = block.shared_pointer();
        if let Some((lane, other)) = race {
            // Two writes of the same value leave no doubt about the result.
            let before = block.shared_bytes_at(list[lane as usize], bytes);
            if kind == AccessKind::Write && other.kind == AccessKind::Write {
                // SAFETY: as below.
                unsafe { store(run, list, found, base) };
            }
            if before != block.shared_bytes_at(list[lane as usize], bytes)
                || kind != AccessKind::Write
                || other.kind != AccessKind::Write
            {
                let address = list[lane as usize];
                return Err(self.shared_race(block, run.at, lane, address, bytes, kind, other));
            }
            return Ok(());
        }
        // SAFETY: the check found every offset inside the block's shared memory.
        unsafe {
            match kind {
                AccessKind::Read => load(run, list, found, base),
                AccessKind::Write => store(run, list, found, base),
                AccessKind::Atomic => atomic(run, list, base, false, false),
            }
        }
        Ok(())
    }

    /// Bounds, initialised bits and races of a shared access. A race is handed back: the lane and the
    /// other party.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn check_shared(
        &mut self,
        block: &mut BlockState,
        mask: u32,
        at: At,
        list: &[u64; 32],
        found: Survey,
        bytes: u64,
        kind: AccessKind,
        strong: bool,
    ) -> Result<Option<(u32, Party)>, Box<Fault>> {
        let size = u64::from(block.env.shared_bytes);
        if found.max.saturating_add(bytes) > size {
            let lane = lanes(mask)
                .find(|&lane| list[lane].saturating_add(bytes) > size)
                .unwrap_or(0);
            let other = list[lane] >= SHARED_WINDOW;
            let message = format!(
                "out-of-bounds access: {} of {bytes} bytes at {:#x} of shared memory; {}",
                kind.name(),
                list[lane],
                if other {
                    "this instruction doesn't reach the shared memory of other blocks here"
                        .to_string()
                } else {
                    format!("the block has {size} bytes")
                }
            );
            let kind = FaultKind::IllegalAddress;
            return Err(block.fault(kind, self, at.function, at.pc, lane as u32, &message));
        }
        let checks = block.env.machine.options.checks;
        if checks.uninitialised && !(kind != AccessKind::Write && block.all_written(found, bytes)) {
            for lane in lanes(mask) {
                let (word, bit) = ((list[lane] / 64) as usize, list[lane] % 64);
                let bits = (u64::MAX >> (64 - bytes)) << bit;
                if kind == AccessKind::Write {
                    block.shared_written[word] |= bits;
                } else if block.shared_written[word] & bits != bits {
                    let message = format!(
                        "uninitialised read: {bytes} bytes at {:#x} of shared memory, which no thread \
                         of the block has written",
                        list[lane]
                    );
                    let what = FaultKind::Uninitialised;
                    let fault = block.fault(what, self, at.function, at.pc, lane as u32, &message);
                    if !checks.races {
                        return Err(fault);
                    }
                    if block.suspect.is_none() {
                        block.suspect = Some((fault, block.barriers_completed()));
                    }
                }
            }
        }
        if checks.races {
            return Ok(block
                .watch
                .shared(self, list, mask, bytes, kind, at, strong));
        }
        Ok(None)
    }

    fn local(
        &mut self,
        block: &mut BlockState,
        run: &Run,
        list: &[u64; 32],
        kind: AccessKind,
    ) -> Result<(), Box<Fault>> {
        let element = run.access.ty.bytes() as usize;
        let bytes = element * usize::from(run.access.count);
        let check = block.env.machine.options.checks.uninitialised;
        block.tally.local(run.at, run.mask, bytes as u64, kind);
        for lane in lanes(run.mask) {
            let Some(memory) = self.local.get(lane, list[lane], bytes) else {
                let message = format!(
                    "out-of-bounds access: {} of {bytes} bytes at {:#x} of local memory, past the \
                     thread's frames",
                    kind.name(),
                    list[lane]
                );
                return Err(block.fault(
                    FaultKind::IllegalAddress,
                    self,
                    run.at.function,
                    run.at.pc,
                    lane as u32,
                    &message,
                ));
            };
            let pointer = memory.as_mut_ptr();
            for index in 0..usize::from(run.access.count) {
                let scalar = if kind == AccessKind::Read {
                    run.inst.dst
                } else {
                    run.inst.b
                };
                let slot = register(run.lists, run.inst, scalar, index);
                let (ty, width) = (run.access.ty, run.access.width);
                // SAFETY: the bytes were found inside the lane's local memory; the register is of the
                // frame and as wide as the access says.
                unsafe {
                    let at = pointer.add(index * element);
                    match (kind, ty) {
                        (AccessKind::Read, Type::B128) => {
                            let value = at.cast::<u128>().read_unaligned();
                            put128(run.regs, slot, lane, value);
                        }
                        (AccessKind::Read, _) => {
                            put(run.regs, slot, width, lane, read_element(at, ty));
                        }
                        (_, Type::B128) => {
                            at.cast::<u128>()
                                .write_unaligned(get128(run.regs, slot, lane));
                        }
                        _ => write_element(at, ty, get(run.regs, slot, width, lane)),
                    }
                }
            }
            if kind == AccessKind::Read {
                if check && !self.local.is_written(lane, list[lane], bytes) {
                    let message = format!(
                        "uninitialised read: {bytes} bytes at {:#x} of local memory, which the thread \
                         has not written",
                        list[lane]
                    );
                    return Err(block.fault(
                        FaultKind::Uninitialised,
                        self,
                        run.at.function,
                        run.at.pc,
                        lane as u32,
                        &message,
                    ));
                }
            } else if check {
                self.local.mark(lane, list[lane], bytes);
            }
        }
        Ok(())
    }
}

/// The first bytes of an access to device memory that was checked.
fn peek(address: u64, bytes: u64) -> [u8; 32] {
    let mut copy = [0; 32];
    // SAFETY: the caller has checked the access, which has at most 32 bytes a lane.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address as *const u8,
            copy.as_mut_ptr(),
            bytes.min(32) as usize,
        );
    }
    copy
}

/// Loads of the kernel's parameter block.
fn param(
    warp: &Warp,
    block: &BlockState,
    run: &Run,
    list: &[u64; 32],
    found: Survey,
) -> Result<(), Box<Fault>> {
    let bytes = u64::from(run.access.ty.bytes()) * u64::from(run.access.count);
    let params = &block.env.launch.params;
    if found.max.saturating_add(bytes) > params.len() as u64 {
        let message = format!(
            "out-of-bounds access: {bytes} bytes at {:#x} of the kernel's parameters, which are {} \
             bytes",
            found.max,
            params.len()
        );
        let lane = run.mask.trailing_zeros();
        let kind = FaultKind::IllegalAddress;
        return Err(block.fault(kind, warp, run.at.function, run.at.pc, lane, &message));
    }
    // SAFETY: all offsets are inside the parameter block; it is only read.
    unsafe { load(run, list, found, params.as_ptr().cast_mut()) };
    Ok(())
}
