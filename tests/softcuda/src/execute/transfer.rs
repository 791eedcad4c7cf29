//! From bytes to registers and back: loads, stores and read-modify-writes at addresses that were checked before.

use super::access::{Run, Survey, lanes};
use super::convert::{get128, put128};
use super::lanes::{Lane, Slot};
use crate::lower::inst::{AtomOp, Inst, NONE};
use crate::lower::types::{Type, Width};

/// A register operand of an access: the scalar, or element `i` of the list.
pub(super) fn register(lists: &[u32], inst: &Inst, scalar: u32, element: usize) -> u32 {
    if inst.d == NONE {
        scalar
    } else {
        lists[inst.d as usize + element]
    }
}

/// Reads an element and extends it as its type says.
///
/// # Safety
/// `bytes` bytes at `pointer` are readable.
#[inline(always)]
pub(super) unsafe fn read_element(pointer: *const u8, ty: Type) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match ty {
            Type::S8 => pointer.cast::<i8>().read() as u64,
            Type::S16 => pointer.cast::<i16>().read_unaligned() as u64,
            Type::S32 => pointer.cast::<i32>().read_unaligned() as u64,
            _ => match ty.bytes() {
                1 => u64::from(pointer.read()),
                2 => u64::from(pointer.cast::<u16>().read_unaligned()),
                4 => u64::from(pointer.cast::<u32>().read_unaligned()),
                _ => pointer.cast::<u64>().read_unaligned(),
            },
        }
    }
}

/// Writes the low bytes of a value.
///
/// # Safety
/// `ty.bytes()` bytes at `pointer` are writable.
#[inline(always)]
pub(super) unsafe fn write_element(pointer: *mut u8, ty: Type, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        match ty.bytes() {
            1 => pointer.write(value as u8),
            2 => pointer.cast::<u16>().write_unaligned(value as u16),
            4 => pointer.cast::<u32>().write_unaligned(value as u32),
            _ => pointer.cast::<u64>().write_unaligned(value),
        }
    }
}

/// # Safety
/// `slot` is a register of that width in the frame at `regs`.
#[inline(always)]
pub(super) unsafe fn put(regs: *mut Slot, slot: u32, width: Width, lane: usize, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        if width == Width::Word {
            u32::put(regs, slot, lane, value as u32);
        } else {
            u64::put(regs, slot, lane, value);
        }
    }
}

/// # Safety
/// As [`put`].
#[inline(always)]
pub(super) unsafe fn get(regs: *const Slot, slot: u32, width: Width, lane: usize) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        if width == Width::Word {
            u64::from(u32::get(regs, slot, lane))
        } else {
            u64::get(regs, slot, lane)
        }
    }
}

/// # Safety
/// `base` plus each active address is readable for the whole access; registers are of the frame.
pub(super) unsafe fn load(run: &Run, list: &[u64; 32], found: Survey, base: *mut u8) {
    let (ty, width) = (run.access.ty, run.access.width);
    let count = usize::from(run.access.count);
    let size = ty.bytes() as usize;
    let pointer = |address: u64| base.wrapping_add(address as usize);
    // SAFETY: the caller's promise throughout.
    unsafe {
        if ty == Type::B128 {
            for lane in lanes(run.mask) {
                let value = pointer(list[lane]).cast::<u128>().read_unaligned();
                put128(
                    run.regs,
                    register(run.lists, run.inst, run.inst.dst, 0),
                    lane,
                    value,
                );
            }
            return;
        }
        let plain = size == 4 && width == Width::Word || size == 8 && width == Width::Double;
        if count == 1 && plain && found.linear {
            let to = run.regs.add(run.inst.dst as usize).cast::<u8>();
            std::ptr::copy_nonoverlapping(pointer(list[0]), to, size * 32);
            return;
        }
        if found.min == found.max {
            for index in 0..count {
                let value = read_element(pointer(found.min).add(index * size), ty);
                let slot = register(run.lists, run.inst, run.inst.dst, index);
                for lane in lanes(run.mask) {
                    put(run.regs, slot, width, lane, value);
                }
            }
            return;
        }
        if run.mask == u32::MAX && plain && size == 4 {
            for index in 0..count {
                let slot = register(run.lists, run.inst, run.inst.dst, index);
                let to = run.regs.add(slot as usize).cast::<u32>();
                for (lane, address) in list.iter().enumerate() {
                    let from = pointer(*address).add(index * 4).cast::<u32>();
                    *to.add(lane) = from.read_unaligned();
                }
            }
            return;
        }
        for index in 0..count {
            let slot = register(run.lists, run.inst, run.inst.dst, index);
            for lane in lanes(run.mask) {
                let value = read_element(pointer(list[lane]).add(index * size), ty);
                put(run.regs, slot, width, lane, value);
            }
        }
    }
}

/// # Safety
/// As [`load`], writable.
pub(super) unsafe fn store(run: &Run, list: &[u64; 32], found: Survey, base: *mut u8) {
    let (ty, width) = (run.access.ty, run.access.width);
    let count = usize::from(run.access.count);
    let size = ty.bytes() as usize;
    let pointer = |address: u64| base.wrapping_add(address as usize);
    // SAFETY: the caller's promise throughout.
    unsafe {
        if ty == Type::B128 {
            for lane in lanes(run.mask) {
                let value = get128(run.regs, register(run.lists, run.inst, run.inst.b, 0), lane);
                pointer(list[lane]).cast::<u128>().write_unaligned(value);
            }
            return;
        }
        let plain = size == 4 && width == Width::Word || size == 8 && width == Width::Double;
        if count == 1 && plain && found.linear {
            let from = run.regs.add(run.inst.b as usize).cast::<u8>();
            std::ptr::copy_nonoverlapping(from, pointer(list[0]), size * 32);
            return;
        }
        for index in 0..count {
            let slot = register(run.lists, run.inst, run.inst.b, index);
            for lane in lanes(run.mask) {
                let value = get(run.regs, slot, width, lane);
                write_element(pointer(list[lane]).add(index * size), ty, value);
            }
        }
    }
}

/// Atomics, lane after lane. `parallel`: other cores may work on the same address.
///
/// # Safety
/// As [`store`].
pub(super) unsafe fn atomic(
    run: &Run,
    list: &[u64; 32],
    base: *mut u8,
    parallel: bool,
    global: bool,
) {
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
    let crate::lower::inst::Op::Atom(op, _) = run.inst.op else {
        return;
    };
    let (ty, width) = (run.access.ty, run.access.width);
    let size = ty.bytes() as usize;
    let count = usize::from(run.access.count);
    // SAFETY: the caller's promise throughout; an aligned address makes an atomic.
    unsafe {
        for lane in lanes(run.mask) {
            for index in 0..count {
                let at = base.wrapping_add(list[lane] as usize + index * size);
                let source = register(run.lists, run.inst, run.inst.b, index);
                if ty == Type::B128 {
                    let old = at.cast::<u128>().read_unaligned();
                    let value = get128(run.regs, source, lane);
                    let swap = if op == AtomOp::Cas {
                        (old == value).then(|| get128(run.regs, run.inst.c, lane))
                    } else {
                        Some(value)
                    };
                    if let Some(new) = swap {
                        at.cast::<u128>().write_unaligned(new);
                    }
                    if run.inst.dst != NONE {
                        put128(run.regs, run.inst.dst, lane, old);
                    }
                    continue;
                }
                let b = get(run.regs, source, width, lane);
                let c = if op == AtomOp::Cas {
                    get(run.regs, run.inst.c, width, lane)
                } else {
                    0
                };
                let new = |old: u64| modify(op, ty, old, b, c, global);
                let old = if parallel && size == 4 {
                    let cell = AtomicU32::from_ptr(at.cast());
                    let update = |old: u32| Some(new(u64::from(old)) as u32);
                    u64::from(
                        cell.fetch_update(Relaxed, Relaxed, update)
                            .unwrap_or_else(|v| v),
                    )
                } else if parallel && size == 8 {
                    let cell = AtomicU64::from_ptr(at.cast());
                    cell.fetch_update(Relaxed, Relaxed, |old| Some(new(old)))
                        .unwrap_or_else(|v| v)
                } else {
                    let old = read_element(at, ty);
                    write_element(at, ty, new(old));
                    old
                };
                if run.inst.dst != NONE {
                    let dst = if count == 1 {
                        run.inst.dst
                    } else {
                        run.lists[run.inst.dst as usize + index]
                    };
                    put(run.regs, dst, width, lane, old);
                }
            }
        }
    }
}

/// The new value of an atomic: `old op b`, or `c` where `old` is `b`.
pub(crate) fn modify(op: AtomOp, ty: Type, old: u64, b: u64, c: u64, global: bool) -> u64 {
    let mask = match ty.bytes() {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let (old, b) = (old & mask, b & mask);
    match op {
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c & mask
            } else {
                old
            }
        }
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomOp::Add | AtomOp::Min | AtomOp::Max if ty.float() => {
            float_modify(op, ty, old, b, global)
        }
        AtomOp::Add => old.wrapping_add(b) & mask,
        AtomOp::Min | AtomOp::Max => {
            let less = match ty {
                Type::S32 => (old as i32) < (b as i32),
                Type::S64 => (old as i64) < (b as i64),
                _ => old < b,
            };
            if less == (op == AtomOp::Min) { old } else { b }
        }
    }
}

fn float_modify(op: AtomOp, ty: Type, old: u64, b: u64, global: bool) -> u64 {
    use super::{float, soft};
    let f32_op = |x: f32, y: f32| match op {
        AtomOp::Add => x + y,
        AtomOp::Min => float::min(x, y),
        _ => float::max(x, y),
    };
    match ty {
        Type::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        Type::F32 => {
            let (x, y) = (f32::from_bits(old as u32), f32::from_bits(b as u32));
            // In global memory, f32 additions flush subnormals.
            let z = |value: f32| if global { float::flush(value) } else { value };
            u64::from(z(float::canonical(f32_op(z(x), z(y)))).to_bits())
        }
        Type::F16 | Type::BF16 | Type::F16x2 | Type::BF16x2 => {
            let one = |x: u16, y: u16| {
                u64::from(if matches!(ty, Type::F16 | Type::F16x2) {
                    soft::f32_to_f16(f32_op(soft::f16_to_f32(x), soft::f16_to_f32(y)))
                } else {
                    soft::f32_to_bf16(f32_op(soft::bf16_to_f32(x), soft::bf16_to_f32(y)))
                })
            };
            let low = one(old as u16, b as u16);
            if matches!(ty, Type::F16 | Type::BF16) {
                return low;
            }
            low | one((old >> 16) as u16, (b >> 16) as u16) << 16
        }
        _ => old,
    }
}
