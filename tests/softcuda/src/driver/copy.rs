//! Copies and fills, in one, two and three dimensions, waiting and not.

use super::capture;
use super::entry::{Handle, Outcome, entries, take};
use super::errors::Code;
use super::state::{Driver, current};
use super::stream::submit;
use super::types::{Memcpy2d, Memcpy3d};
use super::work::{Copy, Fill, Side, Work};

/// `CU_MEMORYTYPE_HOST`, `_DEVICE`, `_UNIFIED`. Arrays (3) are not supported.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const UNIFIED: u32 = 4;

entries! {
    fn cuMemcpyHtoD(to: u64, from: u64, bytes: usize) {
        copy_now((from, HOST), (to, DEVICE), bytes)
    }

    fn cuMemcpyHtoDAsync(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy_in((from, HOST), (to, DEVICE), bytes, stream)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) [cuMemcpyHtoD_v2_ptds] {
        copy_now((from, HOST), (to, DEVICE), bytes)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) [cuMemcpyHtoDAsync_v2_ptsz] {
        copy_in((from, HOST), (to, DEVICE), bytes, stream)
    }

    fn cuMemcpyDtoH(to: u64, from: u64, bytes: usize) {
        copy_now((from, DEVICE), (to, HOST), bytes)
    }

    fn cuMemcpyDtoHAsync(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy_in((from, DEVICE), (to, HOST), bytes, stream)
    }

    fn cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) [cuMemcpyDtoH_v2_ptds] {
        copy_now((from, DEVICE), (to, HOST), bytes)
    }

    fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) [cuMemcpyDtoHAsync_v2_ptsz] {
        copy_in((from, DEVICE), (to, HOST), bytes, stream)
    }

    fn cuMemcpyDtoD(to: u64, from: u64, bytes: usize) {
        copy_now((from, DEVICE), (to, DEVICE), bytes)
    }

    fn cuMemcpyDtoDAsync(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy_in((from, DEVICE), (to, DEVICE), bytes, stream)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) [cuMemcpyDtoD_v2_ptds] {
        copy_now((from, DEVICE), (to, DEVICE), bytes)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) [cuMemcpyDtoDAsync_v2_ptsz] {
        copy_in((from, DEVICE), (to, DEVICE), bytes, stream)
    }

    fn cuMemcpy(to: u64, from: u64, bytes: usize) [cuMemcpy_ptds] {
        copy_now((from, UNIFIED), (to, UNIFIED), bytes)
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) [cuMemcpyAsync_ptsz] {
        copy_in((from, UNIFIED), (to, UNIFIED), bytes, stream)
    }

    fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) [cuMemcpyPeer_ptds] {
        known_contexts([to_context, from_context])?;
        copy_now((from, DEVICE), (to, DEVICE), bytes)
    }

    fn cuMemcpyPeerAsync(
        to: u64,
        to_context: Handle,
        from: u64,
        from_context: Handle,
        bytes: usize,
        stream: Handle,
    ) [cuMemcpyPeerAsync_ptsz] {
        known_contexts([to_context, from_context])?;
        copy_in((from, DEVICE), (to, DEVICE), bytes, stream)
    }

    fn cuMemcpy2D(parameters: *const Memcpy2d) {
        copy_box(box_of_2d(&take(parameters)?)?)
    }

    fn cuMemcpy2D_v2(parameters: *const Memcpy2d) [cuMemcpy2D_v2_ptds] {
        copy_box(box_of_2d(&take(parameters)?)?)
    }

    fn cuMemcpy2DUnaligned(parameters: *const Memcpy2d) {
        copy_box(box_of_2d(&take(parameters)?)?)
    }

    fn cuMemcpy2DUnaligned_v2(parameters: *const Memcpy2d) [cuMemcpy2DUnaligned_v2_ptds] {
        copy_box(box_of_2d(&take(parameters)?)?)
    }

    fn cuMemcpy2DAsync(parameters: *const Memcpy2d, stream: Handle) {
        copy_box_in(box_of_2d(&take(parameters)?)?, stream)
    }

    fn cuMemcpy2DAsync_v2(parameters: *const Memcpy2d, stream: Handle) [cuMemcpy2DAsync_v2_ptsz] {
        copy_box_in(box_of_2d(&take(parameters)?)?, stream)
    }

    fn cuMemcpy3D(parameters: *const Memcpy3d) {
        copy_box(box_of_3d(&take(parameters)?)?)
    }

    fn cuMemcpy3D_v2(parameters: *const Memcpy3d) [cuMemcpy3D_v2_ptds] {
        copy_box(box_of_3d(&take(parameters)?)?)
    }

    fn cuMemcpy3DAsync(parameters: *const Memcpy3d, stream: Handle) {
        copy_box_in(box_of_3d(&take(parameters)?)?, stream)
    }

    fn cuMemcpy3DAsync_v2(parameters: *const Memcpy3d, stream: Handle) [cuMemcpy3DAsync_v2_ptsz] {
        copy_box_in(box_of_3d(&take(parameters)?)?, stream)
    }

    fn cuMemsetD8(to: u64, value: u8, count: usize) {
        fill_now(to, value.into(), 1, count)
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) [cuMemsetD8_v2_ptds] {
        fill_now(to, value.into(), 1, count)
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) [cuMemsetD8Async_ptsz] {
        fill_in(flat_fill(to, value.into(), 1, count), stream)
    }

    fn cuMemsetD2D8(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill_box(fill_of(to, pitch, value.into(), 1, width, height))
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, height: usize) [cuMemsetD2D8_v2_ptds] {
        fill_box(fill_of(to, pitch, value.into(), 1, width, height))
    }

    fn cuMemsetD2D8Async(
        to: u64,
        pitch: usize,
        value: u8,
        width: usize,
        height: usize,
        stream: Handle,
    ) [cuMemsetD2D8Async_ptsz] {
        fill_in(fill_of(to, pitch, value.into(), 1, width, height), stream)
    }

    fn cuMemsetD16(to: u64, value: u16, count: usize) {
        fill_now(to, value.into(), 2, count)
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) [cuMemsetD16_v2_ptds] {
        fill_now(to, value.into(), 2, count)
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) [cuMemsetD16Async_ptsz] {
        fill_in(flat_fill(to, value.into(), 2, count), stream)
    }

    fn cuMemsetD2D16(to: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill_box(fill_of(to, pitch, value.into(), 2, width, height))
    }

    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: u16, width: usize, height: usize) [cuMemsetD2D16_v2_ptds] {
        fill_box(fill_of(to, pitch, value.into(), 2, width, height))
    }

    fn cuMemsetD2D16Async(
        to: u64,
        pitch: usize,
        value: u16,
        width: usize,
        height: usize,
        stream: Handle,
    ) [cuMemsetD2D16Async_ptsz] {
        fill_in(fill_of(to, pitch, value.into(), 2, width, height), stream)
    }

    fn cuMemsetD32(to: u64, value: u32, count: usize) {
        fill_now(to, value, 4, count)
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) [cuMemsetD32_v2_ptds] {
        fill_now(to, value, 4, count)
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) [cuMemsetD32Async_ptsz] {
        fill_in(flat_fill(to, value, 4, count), stream)
    }

    fn cuMemsetD2D32(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill_box(fill_of(to, pitch, value, 4, width, height))
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, height: usize) [cuMemsetD2D32_v2_ptds] {
        fill_box(fill_of(to, pitch, value, 4, width, height))
    }

    fn cuMemsetD2D32Async(
        to: u64,
        pitch: usize,
        value: u32,
        width: usize,
        height: usize,
        stream: Handle,
    ) [cuMemsetD2D32Async_ptsz] {
        fill_in(fill_of(to, pitch, value, 4, width, height), stream)
    }
}

/// Whether contexts that a peer copy names exist. All share the one device.
fn known_contexts(contexts: [Handle; 2]) -> Outcome {
    let (driver, _) = current()?;
    for context in contexts {
        driver
            .contexts
            .get(context)
            .map_err(|_| Code::INVALID_CONTEXT)?;
    }
    Ok(())
}

/// Whether an address given under a memory type is device memory.
fn is_device(driver: &Driver, address: u64, kind: u32) -> bool {
    kind == DEVICE || kind == UNIFIED && driver.memory.contains(address, 1)
}

fn flat(driver: &Driver, from: (u64, u32), to: (u64, u32), bytes: usize) -> Copy {
    let side = |(address, kind)| (address, is_device(driver, address, kind));
    Copy::flat(side(from), side(to), bytes as u64)
}

/// A copy in the legacy default stream, which the host waits for if the host takes part.
fn copy_now(from: (u64, u32), to: (u64, u32), bytes: usize) -> Outcome {
    let (driver, _) = current()?;
    let copy = flat(&driver, from, to, bytes);
    drop(driver);
    copy_box(copy)
}

fn copy_in(from: (u64, u32), to: (u64, u32), bytes: usize, stream: Handle) -> Outcome {
    let (driver, context) = current()?;
    let copy = flat(&driver, from, to, bytes);
    submit(driver, context, stream, Work::Copy(copy))
}

fn copy_box(copy: Copy) -> Outcome {
    let (mut driver, context) = current()?;
    capture::forbid(&mut driver, context)?;
    let legacy = driver.stream(context, 0)?;
    submit(driver, context, 0, Work::Copy(copy))?;
    wait(legacy)
}

fn copy_box_in(copy: Copy, stream: Handle) -> Outcome {
    let (driver, context) = current()?;
    submit(driver, context, stream, Work::Copy(copy))
}

/// The first byte of one side of a copy, by its memory type.
fn base(driver: &Driver, kind: u32, host: usize, device: u64) -> Result<(u64, bool), Code> {
    match kind {
        HOST => Ok((host as u64, false)),
        DEVICE => Ok((device, true)),
        UNIFIED => Ok((device, is_device(driver, device, UNIFIED))),
        3 => super::unsupported::refuse("a copy to or from a CUDA array").map(|()| (0, false)),
        _ => Err(Code::INVALID_VALUE),
    }
}

/// A side of a box. A pitch or height of 0 means rows, or slices, without gaps.
fn side(
    base: (u64, bool),
    [x, y, z]: [usize; 3],
    pitch: usize,
    height: usize,
    copy: [usize; 2],
) -> Option<Side> {
    let pitch = if pitch == 0 { copy[0] } else { pitch };
    let rows = if height == 0 { copy[1] } else { height };
    let slice = pitch.checked_mul(rows)?;
    let offset = z
        .checked_mul(slice)?
        .checked_add(y.checked_mul(pitch)?)?
        .checked_add(x)?;
    let address = base.0.checked_add(offset as u64)?;
    Some(Side {
        address,
        pitch: pitch as u64,
        slice: slice as u64,
        device: base.1,
    })
}

pub(super) fn box_of_2d(p: &Memcpy2d) -> Result<Copy, Code> {
    let (driver, _) = current()?;
    let from = base(&driver, p.src_memory_type, p.src_host, p.src_device)?;
    let to = base(&driver, p.dst_memory_type, p.dst_host, p.dst_device)?;
    let size = [p.width_in_bytes, p.height];
    let side = |base, x, y, pitch| side(base, [x, y, 0], pitch, 0, size).ok_or(Code::INVALID_VALUE);
    Ok(Copy {
        from: side(from, p.src_x_in_bytes, p.src_y, p.src_pitch)?,
        to: side(to, p.dst_x_in_bytes, p.dst_y, p.dst_pitch)?,
        width: p.width_in_bytes as u64,
        height: p.height as u64,
        depth: 1,
    })
}

pub(super) fn box_of_3d(p: &Memcpy3d) -> Result<Copy, Code> {
    let (driver, _) = current()?;
    box_with(&driver, p)
}

/// The box of a 3D copy, with the driver at hand.
pub(super) fn box_with(driver: &Driver, p: &Memcpy3d) -> Result<Copy, Code> {
    let from = base(driver, p.src_memory_type, p.src_host, p.src_device)?;
    let to = base(driver, p.dst_memory_type, p.dst_host, p.dst_device)?;
    let size = [p.width_in_bytes, p.height];
    let source = [p.src_x_in_bytes, p.src_y, p.src_z];
    let target = [p.dst_x_in_bytes, p.dst_y, p.dst_z];
    Ok(Copy {
        from: side(from, source, p.src_pitch, p.src_height, size).ok_or(Code::INVALID_VALUE)?,
        to: side(to, target, p.dst_pitch, p.dst_height, size).ok_or(Code::INVALID_VALUE)?,
        width: p.width_in_bytes as u64,
        height: p.height as u64,
        depth: p.depth as u64,
    })
}

pub(super) fn fill_of(
    address: u64,
    pitch: usize,
    value: u32,
    element: u64,
    width: usize,
    height: usize,
) -> Fill {
    Fill {
        address,
        pitch: pitch as u64,
        value,
        element,
        width: width as u64,
        height: height as u64,
    }
}

fn flat_fill(address: u64, value: u32, element: u64, count: usize) -> Fill {
    fill_of(address, 0, value, element, count, 1)
}

/// A fill in the legacy default stream.
fn fill_now(address: u64, value: u32, element: u64, count: usize) -> Outcome {
    fill_box(flat_fill(address, value, element, count))
}

fn fill_box(fill: Fill) -> Outcome {
    let (mut driver, context) = current()?;
    capture::forbid(&mut driver, context)?;
    let legacy = driver.stream(context, 0)?;
    submit(driver, context, 0, Work::Fill(fill))?;
    wait(legacy)
}

/// The host waits for a copy or fill without a stream. A GPU's driver does not for fills and for copies
/// within the device; but programs count on the order, and it would only show as a race of streams.
fn wait(legacy: Handle) -> Outcome {
    let (mut driver, context) = current()?;
    driver.wait_for_stream(legacy)?;
    driver.healthy(context)
}

fn fill_in(fill: Fill, stream: Handle) -> Outcome {
    let (driver, context) = current()?;
    submit(driver, context, stream, Work::Fill(fill))
}
