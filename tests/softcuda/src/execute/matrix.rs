//! Matrix instructions: where each lane's registers lie in a matrix, products, loads and stores.
//!
//! `mma` layouts are those of the PTX documentation. `wmma` fragments have no documented layout; here they
//! hold a matrix in row order, except 16×16 accumulators, which have the layout of the hardware.

use super::access::{At, Run};
use super::block::BlockState;
use super::lanes::{Lane, Level, Slot, leveled};
use super::soft;
use super::warp::Warp;
use crate::check::{AccessKind, Fault};
use crate::lower::inst::{Access, Inst, MemSpace, MmaShape, NONE, Op, Order, WmmaAccess};
use crate::lower::types::{Rounding, Type, Width};

/// Which operand of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    A,
    B,
    C,
}

/// Elements that a register of a lane holds.
fn per_register(ty: Type) -> usize {
    match ty.bytes() {
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

/// Row and column of element `j` of register `r` of a lane, of a fragment of `registers` registers.
#[allow(clippy::too_many_arguments)]
fn place(
    operand: Operand,
    shape: (usize, usize, usize),
    wmma: bool,
    ty: Type,
    registers: usize,
    lane: usize,
    r: usize,
    j: usize,
) -> (usize, usize) {
    let (m, n, k) = shape;
    let e = per_register(ty);
    let (group, tid) = (lane / 4, lane % 4);
    if wmma {
        let (rows, columns) = match operand {
            Operand::A => (m, k),
            Operand::B => (k, n),
            Operand::C => (m, n),
        };
        if operand == Operand::C && (m, n) == (16, 16) && registers * e == 8 {
            let index = r * e + j;
            let (tile, index) = (index / 4, index % 4);
            return (group + 8 * (index / 2), tid * 2 + index % 2 + 8 * tile);
        }
        let position = (lane * registers * e + r * e + j) % (rows * columns);
        return (position / columns, position % columns);
    }
    match operand {
        Operand::A if m == 8 => (group, tid * e + j),
        Operand::A => (group + 8 * (r % 2), tid * e + j + r / 2 * 4 * e),
        Operand::B => (tid * e + j + r * 4 * e, group),
        Operand::C if e == 2 => (group + 8 * r, tid * 2 + j),
        Operand::C => (group + 8 * (r / 2), tid * 2 + r % 2),
    }
}

/// The bits of element `j` of a register.
unsafe fn element(regs: *const Slot, slot: u32, ty: Type, lane: usize, j: usize) -> u64 {
    // SAFETY: the caller's promise: a register of the frame, 64 bits a lane for f64.
    unsafe {
        if ty == Type::F64 {
            return u64::get(regs, slot, lane);
        }
        let word = u32::get(regs, slot, lane);
        match ty.bytes() {
            1 => u64::from(word >> (8 * j) & 0xff),
            2 => u64::from(word >> (16 * j) & 0xffff),
            _ => u64::from(word),
        }
    }
}

/// An element as f64; exact for every type.
fn value(bits: u64, ty: Type) -> f64 {
    match ty {
        Type::F16 => f64::from(soft::f16_to_f32(bits as u16)),
        Type::BF16 => f64::from(soft::bf16_to_f32(bits as u16)),
        // The low 13 bits of a TF32 operand are ignored.
        Type::TF32 => f64::from(f32::from_bits(bits as u32 & 0xffff_e000)),
        Type::F32 => f64::from(f32::from_bits(bits as u32)),
        Type::F64 => f64::from_bits(bits),
        Type::S8 => f64::from(bits as i8),
        Type::S32 => f64::from(bits as i32),
        Type::E4M3 | Type::E5M2 => {
            let wide = soft::pack(soft::unpack(bits, ty), Type::F32, Rounding::Nearest, false);
            f64::from(f32::from_bits(wide as u32))
        }
        _ => bits as f64,
    }
}

/// The largest matrix of any shape.
const MOST: usize = 32 * 32;

pub(crate) struct Matrices {
    a: [f32; MOST],
    b: [f32; MOST],
    d: [f32; MOST],
}

leveled!(
    /// d += a·b, each element summed in order of k with fused steps.
    multiply = multiply_body(matrices: &mut Matrices, m: usize, n: usize, k: usize)
);

/// # Safety
/// None; `unsafe` is the macro's.
#[inline(always)]
unsafe fn multiply_body(x: &mut Matrices, m: usize, n: usize, k: usize) {
    macro_rules! columns {
        ($n:literal) => {
            for row in 0..m {
                let mut sum = [0f32; $n];
                sum.copy_from_slice(&x.d[row * $n..row * $n + $n]);
                for step in 0..k {
                    let a = x.a[row * k + step];
                    let b = &x.b[step * $n..step * $n + $n];
                    for column in 0..$n {
                        sum[column] = a.mul_add(b[column], sum[column]);
                    }
                }
                x.d[row * $n..row * $n + $n].copy_from_slice(&sum);
            }
        };
    }
    match n {
        8 => columns!(8),
        16 => columns!(16),
        _ => columns!(32),
    }
}

/// `mma` and `wmma.mma`: D = A·B + C. All lanes take part.
///
/// # Safety
/// The listed registers are of the frame.
pub(super) unsafe fn product(
    level: Level,
    shape: MmaShape,
    inst: &Inst,
    lists: &[u32],
    regs: *mut Slot,
) {
    let size = (
        usize::from(shape.m),
        usize::from(shape.n),
        usize::from(shape.k),
    );
    let (m, n, k) = size;
    let list = &lists[inst.d as usize..];
    let (d, list) = list.split_at(inst.dst as usize);
    let (a, list) = list.split_at(inst.a as usize);
    let (b, list) = list.split_at(inst.b as usize);
    let c = &list[..inst.c as usize];
    // SAFETY: the caller's promise throughout.
    unsafe {
        let each =
            |slots: &[u32], ty: Type, operand: Operand, f: &mut dyn FnMut(usize, usize, u64)| {
                for lane in 0..32 {
                    for (r, &slot) in slots.iter().enumerate() {
                        for j in 0..per_register(ty) {
                            let (row, column) =
                                place(operand, size, shape.wmma, ty, slots.len(), lane, r, j);
                            f(row, column, element(regs, slot, ty, lane, j));
                        }
                    }
                }
            };
        let integer = shape.d == Type::S32;
        let double = shape.d == Type::F64;
        let mut results = [0u64; MOST];
        if integer || double {
            let (mut xa, mut xb) = (vec![0f64; m * k], vec![0f64; k * n]);
            let mut xd = vec![0f64; m * n];
            each(a, shape.input, Operand::A, &mut |r, c, v| {
                xa[r * k + c] = value(v, shape.input)
            });
            each(b, shape.input_b, Operand::B, &mut |r, c, v| {
                xb[r * n + c] = value(v, shape.input_b);
            });
            each(c, shape.c, Operand::C, &mut |r, c, v| {
                xd[r * n + c] = value(v, shape.c)
            });
            for row in 0..m {
                for column in 0..n {
                    let mut sum = xd[row * n + column];
                    for step in 0..k {
                        sum = xa[row * k + step].mul_add(xb[step * n + column], sum);
                    }
                    results[row * n + column] = if double {
                        sum.to_bits()
                    } else if shape.sat {
                        u64::from(sum as i32 as u32)
                    } else {
                        // Sums of 8-bit products are exact in f64.
                        u64::from(sum as i64 as u32)
                    };
                }
            }
        } else {
            let mut x = Matrices {
                a: [0.0; MOST],
                b: [0.0; MOST],
                d: [0.0; MOST],
            };
            each(a, shape.input, Operand::A, &mut |r, c, v| {
                x.a[r * k + c] = value(v, shape.input) as f32;
            });
            each(b, shape.input_b, Operand::B, &mut |r, c, v| {
                x.b[r * n + c] = value(v, shape.input_b) as f32;
            });
            each(c, shape.c, Operand::C, &mut |r, c, v| {
                x.d[r * n + c] = value(v, shape.c) as f32
            });
            multiply(level, &mut x, m, n, k);
            for (result, sum) in results.iter_mut().zip(&x.d).take(m * n) {
                *result = if shape.d == Type::F16 {
                    u64::from(soft::f32_to_f16(*sum))
                } else {
                    u64::from(super::float::canonical(*sum).to_bits())
                };
            }
        }
        for lane in 0..32 {
            for (r, &slot) in d.iter().enumerate() {
                let mut word = 0;
                for j in 0..per_register(shape.d) {
                    let (row, column) =
                        place(Operand::C, size, shape.wmma, shape.d, d.len(), lane, r, j);
                    word |= results[row * n + column] << (16 * j);
                }
                if double {
                    u64::put(regs, slot, lane, word);
                } else {
                    u32::put(regs, slot, lane, word as u32);
                }
            }
        }
    }
}

/// `movmatrix`: transposes an 8×8 matrix of 16-bit elements.
///
/// # Safety
/// The registers of `inst` are of the frame.
pub(super) unsafe fn transpose(inst: &Inst, regs: *mut Slot) {
    // SAFETY: the caller's promise.
    unsafe {
        let words: [u32; 32] = std::array::from_fn(|lane| u32::get(regs, inst.a, lane));
        let get =
            |row: usize, column: usize| words[row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff;
        for lane in 0..32 {
            let (row, column) = (lane / 4, lane % 4 * 2);
            u32::put(
                regs,
                inst.dst,
                lane,
                get(column, row) | get(column + 1, row) << 16,
            );
        }
    }
}

impl Warp {
    /// `ldmatrix` and `stmatrix`: each row of 16 bytes is at the address of one lane.
    ///
    /// # Safety
    /// Registers and lists are of the fragment's frame and function.
    pub(super) unsafe fn matrix_move(
        &mut self,
        block: &mut BlockState,
        inst: &Inst,
        lists: &[u32],
        regs: *mut Slot,
        active: u32,
        at: At,
    ) -> Result<(), Box<Fault>> {
        let (load, transposed, wide_address, space) = match inst.op {
            Op::LdMatrix {
                transposed,
                wide_address,
                space,
            } => (true, transposed, wide_address, space),
            Op::StMatrix {
                transposed,
                wide_address,
                space,
            } => (false, transposed, wide_address, space),
            _ => return Ok(()),
        };
        let _ = active;
        let count = inst.b as usize;
        let registers = &lists[inst.d as usize..][..count];
        // The rows go through four scratch registers of 8 lanes each: 16 bytes a row.
        let mut rows = vec![Slot([0; 32]); 4 + 2];
        let scratch = rows.as_mut_ptr();
        let row_lanes = if count == 4 {
            u32::MAX
        } else {
            (1u32 << (count * 8)) - 1
        };
        let elements = [0, 1, 2, 3];
        let mut moved = Inst {
            dst: 0,
            b: 0,
            d: 0,
            a: 4,
            ..*inst
        };
        // SAFETY: the caller's promise; the scratch frame has the slots that are named here.
        unsafe {
            for lane in 0..32 {
                if wide_address {
                    u64::put(scratch, 4, lane, u64::get(regs, inst.a, lane));
                } else {
                    u32::put(scratch, 4, lane, u32::get(regs, inst.a, lane));
                }
            }
            if !load {
                for (matrix, &slot) in registers.iter().enumerate() {
                    for lane in 0..32 {
                        let word = u32::get(regs, slot, lane);
                        for j in 0..2 {
                            let half = word >> (16 * j) & 0xffff;
                            let (mut row, mut column) = (lane / 4, lane % 4 * 2 + j);
                            if transposed {
                                (row, column) = (column, row);
                            }
                            let element = column as u32 / 2;
                            let old = u32::get(scratch, element, matrix * 8 + row);
                            let shift = 16 * (column % 2);
                            let new = old & !(0xffff << shift) | half << shift;
                            u32::put(scratch, element, matrix * 8 + row, new);
                        }
                    }
                }
            }
            let access = Access {
                space,
                ty: Type::B32,
                count: 4,
                width: Width::Word,
                wide_address,
                order: Order::default(),
            };
            moved.op = if load {
                Op::Load(access)
            } else {
                Op::Store(access)
            };
            let run = Run {
                inst: &moved,
                access,
                lists: &elements,
                regs: scratch,
                mask: row_lanes,
                at,
            };
            let kind = if load {
                AccessKind::Read
            } else {
                AccessKind::Write
            };
            self.access(block, &run, kind)?;
            if load {
                for (matrix, &slot) in registers.iter().enumerate() {
                    let half = |row: usize, column: usize| {
                        u32::get(scratch, column as u32 / 2, matrix * 8 + row)
                            >> (16 * (column % 2))
                            & 0xffff
                    };
                    for lane in 0..32 {
                        let (row, column) = (lane / 4, lane % 4 * 2);
                        let word = if transposed {
                            half(column, row) | half(column + 1, row) << 16
                        } else {
                            half(row, column) | half(row, column + 1) << 16
                        };
                        u32::put(regs, slot, lane, word);
                    }
                }
            }
        }
        Ok(())
    }

    /// `wmma.load` and `wmma.store`: element after element of a fragment.
    ///
    /// # Safety
    /// As [`Warp::matrix_move`].
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn wmma_access(
        &mut self,
        block: &mut BlockState,
        inst: &Inst,
        wmma: WmmaAccess,
        lists: &[u32],
        regs: *mut Slot,
        active: u32,
        at: At,
    ) -> Result<(), Box<Fault>> {
        let load = matches!(inst.op, Op::WmmaLoad(_));
        let registers = &lists[inst.d as usize..][..inst.c as usize];
        let size = (
            usize::from(wmma.m),
            usize::from(wmma.n),
            usize::from(wmma.k),
        );
        let operand = [Operand::A, Operand::B, Operand::C][usize::from(wmma.operand.min(2))];
        let bytes = i64::from(wmma.ty.bytes());
        let memory_type = match wmma.ty {
            Type::F64 => Type::B64,
            Type::F16 | Type::BF16 => Type::U16,
            Type::S8 | Type::U8 => Type::U8,
            _ => Type::B32,
        };
        let width = memory_type.width();
        let access = Access {
            space: wmma.space,
            ty: memory_type,
            count: 1,
            width,
            wide_address: true,
            order: Order::default(),
        };
        // Scratch frame: slots 0–1 data, 2–3 addresses.
        let mut rows = vec![Slot([0; 32]); 4];
        let scratch = rows.as_mut_ptr();
        let e = per_register(wmma.ty);
        for (r, &slot) in registers.iter().enumerate() {
            for j in 0..e {
                // SAFETY: the caller's promise; the scratch frame has these slots.
                unsafe {
                    for lane in 0..32 {
                        let (row, column) =
                            place(operand, size, true, wmma.ty, registers.len(), lane, r, j);
                        let stride = i64::from(u32::get(regs, inst.b, lane));
                        let offset = if wmma.column_major {
                            column as i64 * stride + row as i64
                        } else {
                            row as i64 * stride + column as i64
                        };
                        let base = if wmma.wide_address {
                            u64::get(regs, inst.a, lane)
                        } else {
                            u64::from(u32::get(regs, inst.a, lane))
                        };
                        u64::put(scratch, 2, lane, base.wrapping_add_signed(offset * bytes));
                        if !load {
                            let bits = element(regs, slot, wmma.ty, lane, j);
                            if width == Width::Double {
                                u64::put(scratch, 0, lane, bits);
                            } else {
                                u32::put(scratch, 0, lane, bits as u32);
                            }
                        }
                    }
                    let op = if load {
                        Op::Load(access)
                    } else {
                        Op::Store(access)
                    };
                    let moved = Inst {
                        op,
                        dst: 0,
                        a: 2,
                        b: 0,
                        d: NONE,
                        ..*inst
                    };
                    let run = Run {
                        inst: &moved,
                        access,
                        lists: &[],
                        regs: scratch,
                        mask: active,
                        at,
                    };
                    let kind = if load {
                        AccessKind::Read
                    } else {
                        AccessKind::Write
                    };
                    self.access(block, &run, kind)?;
                    if load {
                        for lane in 0..32 {
                            if width == Width::Double {
                                u64::put(regs, slot, lane, u64::get(scratch, 0, lane));
                                continue;
                            }
                            let bits = u32::get(scratch, 0, lane);
                            let shift = 32 / e * j;
                            let keep = if j == 0 {
                                0
                            } else {
                                u32::get(regs, slot, lane)
                            };
                            u32::put(regs, slot, lane, keep | bits << (shift % 32));
                        }
                    }
                }
            }
        }
        let _ = MemSpace::Generic;
        Ok(())
    }
}
