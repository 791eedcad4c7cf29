//! Lowers what a warp or block does together: barriers, shuffles, votes, matrix products.

use super::function::{Lowerer, Result, Words};
use super::inst::*;
use super::types::{Type, Width};
use crate::ptx::ast::{Instruction, Operand};

impl<'a> Lowerer<'a, '_> {
    pub(crate) fn warp_instruction(&mut self, inst: &Instruction<'a>) -> Result<()> {
        match inst.opcode[0] {
            "bar" | "barrier" => self.barrier(inst),
            "shfl" => self.shuffle(inst),
            "vote" => self.vote(inst),
            "match" => self.match_any(inst),
            "redux" => self.redux(inst),
            "activemask" => {
                self.arity(inst, 1..=1)?;
                let dst = self.dest(&inst.operands[0], Type::B32)?;
                self.emit_to(Op::ActiveMask, dst, &[]);
                Ok(())
            }
            "elect" => {
                self.arity(inst, 2..=2)?;
                let Operand::Pair(dst, flag) = &inst.operands[0] else {
                    return self.unknown(inst);
                };
                let dst = self.dest(dst, Type::B32)?;
                let flag = self.predicate_dest(flag)?;
                let mask = self.source(&inst.operands[1], Type::B32)?;
                self.emit_to(Op::Elect, dst, &[NONE, NONE, mask, flag]);
                Ok(())
            }
            "ldmatrix" => self.matrix_move(inst, true),
            "stmatrix" => self.matrix_move(inst, false),
            "movmatrix" => {
                self.arity(inst, 2..=2)?;
                let dst = self.dest(&inst.operands[0], Type::B32)?;
                let a = self.source(&inst.operands[1], Type::B32)?;
                self.emit_to(Op::MovMatrix, dst, &[a]);
                Ok(())
            }
            "mma" => self.mma(inst),
            "wmma" => self.wmma(inst),
            "nanosleep" => {
                self.emit(Op::Yield);
                Ok(())
            }
            "setmaxnreg" | "griddepcontrol" | "pmevent" | "nop" => {
                self.emit(Op::Nop);
                Ok(())
            }
            _ => self.unknown(inst),
        }
    }

    fn barrier(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let rest = &inst.opcode[1..];
        match rest {
            ["warp", "sync"] => {
                self.arity(inst, 1..=1)?;
                let mask = self.source(&inst.operands[0], Type::B32)?;
                self.emit_to(Op::WarpSync, NONE, &[NONE, NONE, mask]);
                return Ok(());
            }
            ["cluster", "arrive", ..] => {
                self.emit(Op::ClusterArrive);
                return Ok(());
            }
            ["cluster", "wait", ..] => {
                self.emit(Op::ClusterWait);
                return Ok(());
            }
            _ => {}
        }
        // `bar` is `barrier….aligned`.
        let aligned = inst.opcode[0] == "bar" || rest.contains(&"aligned");
        let words: Vec<&str> = rest
            .iter()
            .copied()
            .filter(|w| !matches!(*w, "cta" | "aligned"))
            .collect();
        let op = match words[..] {
            ["sync"] => BarrierOp::Sync,
            ["arrive"] => BarrierOp::Arrive,
            ["red", "popc", "u32"] => BarrierOp::Popc,
            ["red", "and", "pred"] => BarrierOp::And,
            ["red", "or", "pred"] => BarrierOp::Or,
            _ => return self.unknown(inst),
        };
        let mut operands = inst.operands.iter();
        let mut dst = NONE;
        let mut predicate = ALWAYS;
        let mut last = inst.operands.len();
        if matches!(op, BarrierOp::Popc | BarrierOp::And | BarrierOp::Or) {
            self.arity(inst, 3..=4)?;
            let Some(operand) = operands.next() else {
                return self.unknown(inst);
            };
            dst = match op {
                BarrierOp::Popc => self.dest(operand, Type::U32)?,
                _ => self.predicate_dest(operand)?,
            };
            last -= 1;
            predicate = self.predicate_source(&inst.operands[last])?;
        }
        let start = usize::from(last < inst.operands.len());
        let numbers: Vec<u32> = inst.operands[start..last]
            .iter()
            .map(|operand| self.source(operand, Type::U32))
            .collect::<Result<_>>()?;
        let Some(&a) = numbers.first() else {
            return self.unknown(inst);
        };
        let b = numbers.get(1).copied().unwrap_or(NONE);
        self.emit_to(Op::Barrier { op, aligned }, dst, &[a, b, predicate]);
        Ok(())
    }

    /// `shfl{.sync}.mode.b32 d{|p}, a, b, c{, mask}`
    fn shuffle(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(&words.rest, &["sync", "up", "down", "bfly", "idx"])?;
        let mode = match words.rest.last() {
            Some(&"up") => Shuffle::Up,
            Some(&"down") => Shuffle::Down,
            Some(&"bfly") => Shuffle::Butterfly,
            Some(&"idx") => Shuffle::Index,
            _ => return self.unknown(inst),
        };
        let sync = words.has("sync");
        self.arity(inst, if sync { 5..=5 } else { 4..=4 })?;
        let (dst, flag) = match &inst.operands[0] {
            Operand::Pair(dst, flag) => (
                self.dest(dst, Type::B32)?,
                i64::from(self.predicate_dest(flag)?),
            ),
            dst => (self.dest(dst, Type::B32)?, -1),
        };
        let a = self.source(&inst.operands[1], Type::B32)?;
        let b = self.source(&inst.operands[2], Type::B32)?;
        let clamp = self.source(&inst.operands[3], Type::B32)?;
        let mask = if sync {
            self.source(&inst.operands[4], Type::B32)?
        } else {
            NONE
        };
        let out = self.emit(Op::Shuffle(mode));
        (out.dst, out.a, out.b, out.c, out.d, out.imm) = (dst, a, b, mask, clamp, flag);
        Ok(())
    }

    fn vote(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        let sync = words.has("sync");
        self.arity(inst, if sync { 3..=3 } else { 2..=2 })?;
        let mode = match words.rest.last() {
            Some(&"all") => Vote::All,
            Some(&"any") => Vote::Any,
            Some(&"uni") => Vote::Uniform,
            Some(&"ballot") => Vote::Ballot,
            _ => return self.unknown(inst),
        };
        let dst = match mode {
            Vote::Ballot => self.dest(&inst.operands[0], Type::B32)?,
            _ => self.predicate_dest(&inst.operands[0])?,
        };
        let a = self.predicate_source(&inst.operands[1])?;
        let mask = if sync {
            self.source(&inst.operands[2], Type::B32)?
        } else {
            NONE
        };
        self.emit_to(Op::Vote(mode), dst, &[a, NONE, mask]);
        Ok(())
    }

    fn match_any(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(&words.rest, &["any", "all", "sync"])?;
        self.arity(inst, 3..=3)?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let all = words.has("all");
        let (dst, flag) = match &inst.operands[0] {
            Operand::Pair(dst, flag) => (self.dest(dst, Type::B32)?, self.predicate_dest(flag)?),
            dst => (self.dest(dst, Type::B32)?, NONE),
        };
        let a = self.source(&inst.operands[1], ty)?;
        let mask = self.source(&inst.operands[2], Type::B32)?;
        let wide = ty.width() == Width::Double;
        self.emit_to(Op::Match { all, wide }, dst, &[a, NONE, mask, flag]);
        Ok(())
    }

    fn redux(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(
            &words.rest,
            &["sync", "add", "min", "max", "and", "or", "xor", "abs"],
        )?;
        self.arity(inst, 3..=3)?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let op = match words.rest.iter().find(|w| **w != "sync" && **w != "abs") {
            Some(&"add") => AtomOp::Add,
            Some(&"min") => AtomOp::Min,
            Some(&"max") => AtomOp::Max,
            Some(&"and") => AtomOp::And,
            Some(&"or") => AtomOp::Or,
            Some(&"xor") => AtomOp::Xor,
            _ => return self.unknown(inst),
        };
        let dst = self.dest(&inst.operands[0], Type::B32)?;
        let a = self.source(&inst.operands[1], Type::B32)?;
        let mask = self.source(&inst.operands[2], Type::B32)?;
        let abs = words.has("abs");
        let nan = words.mode.nan;
        self.emit_to(Op::Redux(op, ty, abs), dst, &[a, NONE, mask]);
        if let Some(last) = self.out.code.last_mut() {
            last.imm = i64::from(nan);
        }
        Ok(())
    }

    /// `ldmatrix.sync.aligned.m8n8.x4{.trans}.shared.b16 {…}, [a]` and `stmatrix`.
    fn matrix_move(&mut self, inst: &Instruction<'a>, load: bool) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(
            &words.rest,
            &[
                "sync",
                "aligned",
                "m8n8",
                "x1",
                "x2",
                "x4",
                "trans",
                "shared",
                "shared::cta",
            ],
        )?;
        self.arity(inst, 2..=2)?;
        let count = if words.has("x4") {
            4
        } else if words.has("x2") {
            2
        } else {
            1
        };
        if words.types != [Type::B16] {
            return self.unknown(inst);
        }
        let (registers, address) = if load {
            (&inst.operands[0], &inst.operands[1])
        } else {
            (&inst.operands[1], &inst.operands[0])
        };
        let list = self.word_list(registers, count, load)?;
        let (a, imm, wide_address) = self.address(address)?;
        let stated = words.rest.iter().any(|w| w.starts_with("shared"));
        let space = if stated {
            MemSpace::Shared
        } else {
            MemSpace::Generic
        };
        let transposed = words.has("trans");
        let start = self.list(&list);
        let out = self.emit(if load {
            Op::LdMatrix {
                transposed,
                wide_address,
                space,
            }
        } else {
            Op::StMatrix {
                transposed,
                wide_address,
                space,
            }
        });
        (out.a, out.d, out.b, out.imm) = (a, start, count as u32, imm);
        Ok(())
    }

    fn word_list(&mut self, operand: &Operand<'a>, count: usize, dest: bool) -> Result<Vec<u32>> {
        self.register_list(operand, count, Type::B32, dest)
    }

    fn register_list(
        &mut self,
        operand: &Operand<'a>,
        count: usize,
        ty: Type,
        dest: bool,
    ) -> Result<Vec<u32>> {
        let items = self.elements(operand);
        if items.len() != count {
            return self.error(format!("expected {count} registers, found {}", items.len()));
        }
        items
            .iter()
            .map(|item| {
                if dest {
                    self.dest(item, ty)
                } else {
                    self.source(item, ty)
                }
            })
            .collect()
    }

    /// `mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 d, a, b, c`
    fn mma(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        let (Some((m, n, k)), [d, input, input_b, c]) =
            (words.rest.iter().find_map(|w| shape(w)), &words.types[..])
        else {
            return self.unknown(inst);
        };
        let known: Vec<&str> = words
            .rest
            .iter()
            .copied()
            .filter(|w| !matches!(*w, "sync" | "aligned" | "row" | "col"))
            .collect();
        if known.len() != 1 || !words.has("row") || !words.has("col") {
            return self.unknown(inst);
        }
        let shape = MmaShape {
            m,
            n,
            k,
            input: *input,
            input_b: *input_b,
            c: *c,
            d: *d,
            wmma: false,
            sat: words.mode.satfinite,
        };
        let valid = matches!(
            (m, n, k, *input),
            (16, 8, 8 | 16, Type::F16 | Type::BF16)
                | (16, 8, 4 | 8, Type::TF32)
                | (
                    16,
                    8,
                    16 | 32,
                    Type::S8 | Type::U8 | Type::E4M3 | Type::E5M2
                )
                | (8, 8, 16, Type::S8 | Type::U8)
                | (8, 8, 4, Type::F64)
                | (16, 8, 4 | 8 | 16, Type::F64)
        );
        if !valid {
            return self.unknown(inst);
        }
        self.emit_mma(inst, shape)
    }

    fn emit_mma(&mut self, inst: &Instruction<'a>, shape: MmaShape) -> Result<()> {
        self.arity(inst, 4..=4)?;
        let registers = |ty: Type, elements: u32| {
            (elements / 32 * ty.bytes()).div_ceil(if ty == Type::F64 { 8 } else { 4 }) as usize
        };
        let (m, n, k) = (u32::from(shape.m), u32::from(shape.n), u32::from(shape.k));
        let counts = [
            (shape.d, registers(shape.d, m * n), true),
            (shape.input, registers(shape.input, m * k), false),
            (shape.input_b, registers(shape.input_b, n * k), false),
            (shape.c, registers(shape.c, m * n), false),
        ];
        let mut list = Vec::new();
        let mut lengths = [0u32; 4];
        for (i, (operand, (ty, count, dest))) in inst.operands.iter().zip(counts).enumerate() {
            let ty = if ty == Type::F64 {
                Type::F64
            } else {
                Type::B32
            };
            // `wmma` fragments may hold each element more than once.
            let count = if shape.wmma {
                self.elements(operand).len()
            } else {
                count
            };
            if count == 0 || count > 16 {
                return self.unknown(inst);
            }
            lengths[i] = count as u32;
            list.extend(self.register_list(operand, count, ty, dest)?);
        }
        let start = self.list(&list);
        let out = self.emit(Op::Mma(shape));
        (out.dst, out.a, out.b, out.c, out.d) =
            (lengths[0], lengths[1], lengths[2], lengths[3], start);
        Ok(())
    }

    fn wmma(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        let Some((m, n, k)) = words.rest.iter().find_map(|w| shape(w)) else {
            return self.unknown(inst);
        };
        if !matches!(
            (m, n, k),
            (16, 16, 8 | 16) | (32, 8, 16) | (8, 32, 16) | (8, 8, 4)
        ) {
            return self.unknown(inst);
        }
        if words.has("mma") {
            let (d, input, input_b, c) = match words.types[..] {
                [d, c] => (d, Type::F16, Type::F16, c),
                [d, a, b, c] => (d, a, b, c),
                _ => return self.unknown(inst),
            };
            let sat = words.mode.satfinite;
            return self.emit_mma(
                inst,
                MmaShape {
                    m,
                    n,
                    k,
                    input,
                    input_b,
                    c,
                    d,
                    wmma: true,
                    sat,
                },
            );
        }
        let (load, operand) = match words.rest[..] {
            ["load", "a", ..] => (true, 0),
            ["load", "b", ..] => (true, 1),
            ["load", "c", ..] => (true, 2),
            ["store", "d", ..] => (false, 2),
            _ => return self.unknown(inst),
        };
        self.arity(inst, 2..=3)?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let (registers, address) = if load {
            (&inst.operands[0], &inst.operands[1])
        } else {
            (&inst.operands[1], &inst.operands[0])
        };
        let held = if ty == Type::F64 {
            Type::F64
        } else {
            Type::B32
        };
        let count = self.elements(registers).len();
        let list = self.register_list(registers, count, held, load)?;
        let (a, imm, wide_address) = self.address(address)?;
        let column_major = words.has("col");
        let stride = match inst.operands.get(2) {
            Some(operand) => self.source(operand, Type::U32)?,
            None => {
                let (rows, cols) = match operand {
                    0 => (m, k),
                    1 => (k, n),
                    _ => (m, n),
                };
                self.constant(
                    u64::from(if column_major { rows } else { cols }),
                    Width::Word,
                )
            }
        };
        let space = if words.rest.iter().any(|w| w.starts_with("shared")) {
            MemSpace::Shared
        } else if words.has("global") {
            MemSpace::Global
        } else {
            MemSpace::Generic
        };
        let access = WmmaAccess {
            operand,
            column_major,
            m,
            n,
            k,
            ty,
            space,
            wide_address,
        };
        let start = self.list(&list);
        let out = self.emit(if load {
            Op::WmmaLoad(access)
        } else {
            Op::WmmaStore(access)
        });
        (out.a, out.b, out.c, out.d, out.imm) = (a, stride, count as u32, start, imm);
        Ok(())
    }
}

/// `m16n8k16` → (16, 8, 16)
fn shape(word: &str) -> Option<(u8, u8, u8)> {
    let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}
