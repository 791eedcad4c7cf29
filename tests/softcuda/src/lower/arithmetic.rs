//! Lowers arithmetic, comparisons, moves and conversions.

use super::function::{Lowerer, Place, Result, Words};
use super::inst::*;
use super::types::{Type, Width};
use crate::ptx::ast::{Instruction, Operand};

impl<'a> Lowerer<'a, '_> {
    /// Lowers one instruction.
    pub(crate) fn instruction(&mut self, inst: &Instruction<'a>) -> Result<()> {
        match inst.opcode[0] {
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg" | "min"
            | "max"
                if !matches!(inst.opcode.get(1), Some(&("cc" | "hi" | "lo")))
                    || !inst.opcode.contains(&"cc") =>
            {
                self.arithmetic(inst)
            }
            "add" | "sub" | "mad" | "addc" | "subc" | "madc" => self.carry(inst),
            "mul24" | "mad24" | "sad" | "popc" | "clz" | "brev" | "bfind" | "fns" | "bfe"
            | "bfi" | "szext" | "bmsk" | "dp4a" | "dp2a" | "shl" | "shr" | "shf" | "prmt"
            | "slct" | "cnot" => self.integer(inst),
            "vadd2" | "vsub2" | "vavrg2" | "vmin2" | "vmax2" | "vabsdiff2" | "vadd4" | "vsub4"
            | "vavrg4" | "vmin4" | "vmax4" | "vabsdiff4" => self.video(inst),
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign" => {
                self.float_function(inst)
            }
            "and" | "or" | "xor" | "not" => self.logic(inst),
            "lop3" => self.lop3(inst),
            "mov" => self.mov(inst),
            "cvt" => self.convert(inst),
            "selp" => self.select(inst),
            "setp" => self.setp(inst),
            "set" => self.set(inst),
            "testp" => self.testp(inst),
            "bra" => self.branch(inst),
            "brx" => self.branch_table(inst),
            "call" => self.call(inst),
            "ret" => {
                let op = if self.is_entry() { Op::Exit } else { Op::Ret };
                self.emit(op);
                Ok(())
            }
            "exit" => {
                self.emit(Op::Exit);
                Ok(())
            }
            "trap" | "brkpt" => {
                self.emit(Op::Trap);
                Ok(())
            }
            "ld" | "ldu" | "st" | "atom" | "red" | "cvta" | "isspacep" | "mapa" | "getctarank"
            | "prefetch" | "prefetchu" | "discard" | "applypriority" | "createpolicy"
            | "membar" | "fence" | "mbarrier" | "cp" => self.memory_instruction(inst),
            _ => self.warp_instruction(inst),
        }
    }

    fn arithmetic(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        if ty.float() {
            self.float(inst, &words, ty)
        } else {
            self.integer_basic(inst, &words, ty)
        }
    }

    fn float(&mut self, inst: &Instruction<'a>, words: &Words<'a>, ty: Type) -> Result<()> {
        self.no_modifiers(&words.rest, &["abs"])?;
        let op = match (inst.opcode[0], inst.operands.len()) {
            ("add", _) => FloatOp::Add,
            ("sub", _) => FloatOp::Sub,
            ("mul", _) => FloatOp::Mul,
            ("mad" | "fma", _) => FloatOp::Fma,
            ("div", _) => FloatOp::Div,
            ("abs", _) => FloatOp::Abs,
            ("neg", _) => FloatOp::Neg,
            ("min", 4) => FloatOp::Min3,
            ("max", 4) => FloatOp::Max3,
            ("min", _) => FloatOp::Min,
            ("max", _) => FloatOp::Max,
            _ => return self.unknown(inst),
        };
        let mut mode = words.mode;
        mode.xorsign |= words.has("abs");
        let arity = match op {
            FloatOp::Abs | FloatOp::Neg => 2,
            FloatOp::Fma | FloatOp::Min3 | FloatOp::Max3 => 4,
            _ => 3,
        };
        self.arity(inst, arity..=arity)?;
        // `add.f32.f16 d, a, c`: mixed precision, the first sources are the second type.
        if words.types.len() == 2 && words.types[0] == Type::F32 && ty.half() {
            return self.mixed(inst, op, ty, mode);
        }
        let dst = self.dest(&inst.operands[0], ty)?;
        let sources: Vec<u32> = inst.operands[1..]
            .iter()
            .map(|operand| self.source(operand, ty))
            .collect::<Result<_>>()?;
        let op = match ty {
            Type::F32 => Op::F32(op, mode),
            Type::F64 => Op::F64(op, mode),
            _ => Op::Half(op, ty, mode),
        };
        self.emit_to(op, dst, &sources);
        Ok(())
    }

    fn mixed(
        &mut self,
        inst: &Instruction<'a>,
        op: FloatOp,
        ty: Type,
        mode: super::types::Mode,
    ) -> Result<()> {
        let narrow = if op == FloatOp::Fma { 2 } else { 1 };
        if !matches!(op, FloatOp::Add | FloatOp::Sub | FloatOp::Fma) {
            return self.unknown(inst);
        }
        let dst = self.dest(&inst.operands[0], Type::F32)?;
        let mut sources = Vec::new();
        for (i, operand) in inst.operands[1..].iter().enumerate() {
            sources.push(self.source(operand, if i < narrow { ty } else { Type::F32 })?);
        }
        self.emit_to(Op::Mixed(op, ty, mode), dst, &sources);
        Ok(())
    }

    fn integer_basic(&mut self, inst: &Instruction<'a>, words: &Words<'a>, ty: Type) -> Result<()> {
        self.no_modifiers(&words.rest, &["lo", "hi", "wide"])?;
        let (hi, wide) = (words.has("hi"), words.has("wide"));
        let (sat, relu) = (words.mode.sat, words.mode.relu);
        let op = match inst.opcode[0] {
            "add" if sat => IntOp::AddSat,
            "add" => IntOp::Add,
            "sub" if sat => IntOp::SubSat,
            "sub" => IntOp::Sub,
            "mul" if wide => IntOp::MulWide,
            "mul" if hi => IntOp::MulHi,
            "mul" => IntOp::Mul,
            "mad" if wide => IntOp::MadWide,
            "mad" if hi && sat => IntOp::MadHiSat,
            "mad" if hi => IntOp::MadHi,
            "mad" => IntOp::Mad,
            "div" => IntOp::Div,
            "rem" => IntOp::Rem,
            "abs" => IntOp::Abs,
            "neg" => IntOp::Neg,
            "min" if relu => IntOp::MinRelu,
            "min" => IntOp::Min,
            "max" if relu => IntOp::MaxRelu,
            "max" => IntOp::Max,
            _ => return self.unknown(inst),
        };
        let arity = match op {
            IntOp::Abs | IntOp::Neg => 2,
            IntOp::Mad | IntOp::MadHi | IntOp::MadHiSat | IntOp::MadWide => 4,
            _ => 3,
        };
        self.arity(inst, arity..=arity)?;
        let result = match (wide, ty) {
            (false, _) => ty,
            (true, Type::U16) => Type::U32,
            (true, Type::S16) => Type::S32,
            (true, Type::U32) => Type::U64,
            (true, Type::S32) => Type::S64,
            _ => return self.unknown(inst),
        };
        let dst = self.dest(&inst.operands[0], result)?;
        let mut sources = Vec::new();
        for (i, operand) in inst.operands[1..].iter().enumerate() {
            sources.push(self.source(operand, if i == 2 { result } else { ty })?);
        }
        self.emit_to(Op::Int(op, ty), dst, &sources);
        Ok(())
    }

    fn carry(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(&words.rest, &["cc", "hi", "lo"])?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let name = inst.opcode[0];
        let multiply = name.starts_with("mad").then(|| words.has("hi"));
        let op = CarryOp {
            take: name.ends_with('c'),
            give: words.has("cc"),
            subtract: name.starts_with("sub"),
            multiply,
        };
        let arity = if multiply.is_some() { 4 } else { 3 };
        self.arity(inst, arity..=arity)?;
        let dst = self.dest(&inst.operands[0], ty)?;
        let sources: Vec<u32> = inst.operands[1..]
            .iter()
            .map(|operand| self.source(operand, ty))
            .collect::<Result<_>>()?;
        self.emit_to(Op::Carry(op, ty), dst, &sources);
        Ok(())
    }

    fn integer(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let has = |word: &str| words.has(word);
        let u32s = |n: usize| vec![Type::U32; n];
        let (op, result, sources) = match inst.opcode[0] {
            "mul24" => (
                if has("hi") {
                    IntOp::Mul24Hi
                } else {
                    IntOp::Mul24
                },
                ty,
                vec![ty; 2],
            ),
            "mad24" if has("hi") && words.mode.sat => (IntOp::Mad24HiSat, ty, vec![ty; 3]),
            "mad24" => (
                if has("hi") {
                    IntOp::Mad24Hi
                } else {
                    IntOp::Mad24
                },
                ty,
                vec![ty; 3],
            ),
            "sad" => (IntOp::Sad, ty, vec![ty; 3]),
            "popc" => (IntOp::Popc, Type::U32, vec![ty]),
            "clz" => (IntOp::Clz, Type::U32, vec![ty]),
            "brev" => (IntOp::Brev, ty, vec![ty]),
            "bfind" => (
                if has("shiftamt") {
                    IntOp::BfindShift
                } else {
                    IntOp::Bfind
                },
                Type::U32,
                vec![ty],
            ),
            "fns" => (IntOp::Fns, ty, u32s(3)),
            "bfe" => (IntOp::Bfe, ty, vec![ty, Type::U32, Type::U32]),
            "bfi" => (IntOp::Bfi, ty, vec![ty, ty, Type::U32, Type::U32]),
            "szext" if has("wrap") => (IntOp::SzextWrap, ty, vec![ty, Type::U32]),
            "szext" => (IntOp::SzextClamp, ty, vec![ty, Type::U32]),
            "bmsk" if has("wrap") => (IntOp::BmskWrap, ty, u32s(2)),
            "bmsk" => (IntOp::BmskClamp, ty, u32s(2)),
            "dp4a" => return self.dot_product(inst, &words, IntOp::Dp4a),
            "dp2a" if has("lo") => return self.dot_product(inst, &words, IntOp::Dp2aLo),
            "dp2a" => return self.dot_product(inst, &words, IntOp::Dp2aHi),
            "shl" => (IntOp::Shl, ty, vec![ty, Type::U32]),
            "shr" => (IntOp::Shr, ty, vec![ty, Type::U32]),
            "shf" => {
                let op = match (has("l"), has("wrap")) {
                    (true, false) => IntOp::ShfLeftClamp,
                    (true, true) => IntOp::ShfLeftWrap,
                    (false, false) => IntOp::ShfRightClamp,
                    (false, true) => IntOp::ShfRightWrap,
                };
                (op, ty, u32s(3))
            }
            "prmt" => return self.permute(inst, &words),
            // `slct.dtype.ctype d, a, b, c`
            "slct" => {
                let Some(&value) = words.types.first() else {
                    return self.unknown(inst);
                };
                self.arity(inst, 4..=4)?;
                let dst = self.dest(&inst.operands[0], value)?;
                let a = self.source(&inst.operands[1], value)?;
                let b = self.source(&inst.operands[2], value)?;
                let c = self.source(&inst.operands[3], ty)?;
                // The condition's type decides what −0 and NaN mean; the value's width is in `d`.
                let wide = u32::from(value.width() == Width::Double);
                let float = u32::from(ty == Type::F32);
                let flush = u32::from(words.mode.ftz);
                self.emit_to(Op::Int(IntOp::Slct, value), dst, &[a, b, c]);
                if let Some(last) = self.out.code.last_mut() {
                    last.imm = i64::from(wide | float << 1 | flush << 2);
                }
                return Ok(());
            }
            "cnot" => (IntOp::Cnot, ty, vec![ty]),
            _ => return self.unknown(inst),
        };
        self.no_modifiers(
            &words.rest,
            &["hi", "lo", "shiftamt", "wrap", "clamp", "l", "r"],
        )?;
        self.arity(inst, sources.len() + 1..=sources.len() + 1)?;
        let dst = self.dest(&inst.operands[0], result)?;
        let slots: Vec<u32> = inst.operands[1..]
            .iter()
            .zip(sources)
            .map(|(operand, ty)| self.source(operand, ty))
            .collect::<Result<_>>()?;
        self.emit_to(Op::Int(op, ty), dst, &slots);
        Ok(())
    }

    fn dot_product(&mut self, inst: &Instruction<'a>, words: &Words, op: IntOp) -> Result<()> {
        let [a, b] = words.types[..] else {
            return self.unknown(inst);
        };
        self.arity(inst, 4..=4)?;
        let dst = self.dest(&inst.operands[0], Type::U32)?;
        let sources: Vec<u32> = inst.operands[1..]
            .iter()
            .map(|operand| self.source(operand, Type::U32))
            .collect::<Result<_>>()?;
        self.emit_to(Op::Int(op, Type::U32), dst, &sources);
        if let Some(last) = self.out.code.last_mut() {
            last.imm = i64::from(a.signed()) | i64::from(b.signed()) << 1;
        }
        Ok(())
    }

    /// `vabsdiff4.u32.u32.u32.add d, a, b, c` and its kin, on whole registers.
    fn video(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        let [to, a, b] = words.types[..] else {
            return self.unknown(inst);
        };
        self.no_modifiers(&words.rest, &["add"])?;
        self.arity(inst, 4..=4)?;
        let name = inst.opcode[0];
        let operations = ["vadd", "vsub", "vavrg", "vmin", "vmax", "vabsdiff"];
        let operation = operations
            .iter()
            .position(|operation| *operation == &name[..name.len() - 1])
            .unwrap_or(0) as i64;
        let dst = self.dest(&inst.operands[0], Type::U32)?;
        let sources: Vec<u32> = inst.operands[1..]
            .iter()
            .map(|operand| self.source(operand, Type::U32))
            .collect::<Result<_>>()?;
        self.emit_to(Op::Int(IntOp::Video, Type::U32), dst, &sources);
        if let Some(last) = self.out.code.last_mut() {
            last.imm = operation
                | i64::from(name.ends_with('4')) << 3
                | i64::from(to.signed()) << 4
                | i64::from(a.signed()) << 5
                | i64::from(b.signed()) << 6
                | i64::from(words.mode.sat) << 7
                | i64::from(words.has("add")) << 8;
        }
        Ok(())
    }

    fn permute(&mut self, inst: &Instruction<'a>, words: &Words) -> Result<()> {
        self.arity(inst, 4..=4)?;
        let modes = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
        self.no_modifiers(&words.rest, &modes)?;
        let mode = words
            .rest
            .first()
            .and_then(|word| modes.iter().position(|mode| mode == word))
            .map_or(0, |index| index as i64 + 1);
        let dst = self.dest(&inst.operands[0], Type::B32)?;
        let sources: Vec<u32> = inst.operands[1..]
            .iter()
            .map(|operand| self.source(operand, Type::B32))
            .collect::<Result<_>>()?;
        self.emit_to(Op::Int(IntOp::Prmt, Type::B32), dst, &sources);
        if let Some(last) = self.out.code.last_mut() {
            last.imm = mode;
        }
        Ok(())
    }

    fn float_function(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(&words.rest, &[])?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let op = match inst.opcode[0] {
            "rcp" => FloatOp::Rcp,
            "sqrt" => FloatOp::Sqrt,
            "rsqrt" => FloatOp::Rsqrt,
            "sin" => FloatOp::Sin,
            "cos" => FloatOp::Cos,
            "lg2" => FloatOp::Lg2,
            "ex2" => FloatOp::Ex2,
            "tanh" => FloatOp::Tanh,
            _ => FloatOp::Copysign,
        };
        let arity = if op == FloatOp::Copysign { 3 } else { 2 };
        self.arity(inst, arity..=arity)?;
        if !ty.float() {
            return self.unknown(inst);
        }
        let dst = self.dest(&inst.operands[0], ty)?;
        let sources: Vec<u32> = inst.operands[1..]
            .iter()
            .map(|operand| self.source(operand, ty))
            .collect::<Result<_>>()?;
        let op = match ty {
            Type::F32 => Op::F32(op, words.mode),
            Type::F64 => Op::F64(op, words.mode),
            _ => Op::Half(op, ty, words.mode),
        };
        self.emit_to(op, dst, &sources);
        Ok(())
    }

    fn logic(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(&words.rest, &[])?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let name = inst.opcode[0];
        self.arity(inst, if name == "not" { 2..=2 } else { 3..=3 })?;
        if ty == Type::Pred {
            let dst = self.predicate_dest(&inst.operands[0])?;
            let a = self.predicate_source(&inst.operands[1])?;
            if name == "not" {
                self.emit_to(Op::PredMov, dst, &[a ^ 1]);
                return Ok(());
            }
            let b = self.predicate_source(&inst.operands[2])?;
            let op = match name {
                "and" => BoolOp::And,
                "or" => BoolOp::Or,
                _ => BoolOp::Xor,
            };
            self.emit_to(Op::PredBool(op), dst, &[a, b]);
            return Ok(());
        }
        let op = match name {
            "and" => IntOp::And,
            "or" => IntOp::Or,
            "xor" => IntOp::Xor,
            _ => IntOp::Not,
        };
        let dst = self.dest(&inst.operands[0], ty)?;
        let sources: Vec<u32> = inst.operands[1..]
            .iter()
            .map(|operand| self.source(operand, ty))
            .collect::<Result<_>>()?;
        self.emit_to(Op::Int(op, ty.unsigned()), dst, &sources);
        Ok(())
    }

    /// `lop3.b32 d, a, b, c, table` and `lop3.or.b32 d|p, a, b, c, table, q`
    fn lop3(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(&words.rest, &["or", "and"])?;
        self.arity(inst, 5..=6)?;
        let (dst, flag) = match &inst.operands[0] {
            Operand::Pair(dst, flag) => {
                (self.dest(dst, Type::B32)?, Some(self.predicate_dest(flag)?))
            }
            dst => (self.dest(dst, Type::B32)?, None),
        };
        let mut sources = Vec::new();
        for operand in &inst.operands[1..4] {
            sources.push(self.source(operand, Type::B32)?);
        }
        let table = self.immediate(&inst.operands[4])?;
        if table > 255 {
            return self.error(format!("`lop3` takes a table of 8 bits, found {table:#x}"));
        }
        self.emit_to(Op::Int(IntOp::Lop3, Type::B32), dst, &sources);
        if let Some(last) = self.out.code.last_mut() {
            last.imm = table as i64;
        }
        if let (Some(flag), Some(operand)) = (flag, inst.operands.get(5)) {
            let zero = self.constant(0, Width::Word);
            let other = self.predicate_source(operand)?;
            let op = if words.has("or") {
                BoolOp::Or
            } else {
                BoolOp::And
            };
            let unused = self.new_slot(Width::Pred);
            self.emit_to(
                Op::Setp(Compare::Ne, Type::U32, op, false),
                flag,
                &[dst, zero, other, unused],
            );
        }
        Ok(())
    }

    fn mov(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(&words.rest, &["v2", "v4"])?;
        self.arity(inst, 2..=2)?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let (to, from) = (&inst.operands[0], &inst.operands[1]);
        if ty == Type::Pred {
            let dst = self.predicate_dest(to)?;
            let a = self.predicate_source(from)?;
            self.emit_to(Op::PredMov, dst, &[a]);
            return Ok(());
        }
        if words.has("v2") || words.has("v4") {
            let (to, from) = (self.elements(to), self.elements(from));
            for (to, from) in to.iter().zip(&from) {
                let (dst, a) = (self.dest(to, ty)?, self.source(from, ty)?);
                self.emit_to(Op::Mov(ty.width()), dst, &[a]);
            }
            return Ok(());
        }
        match (to, from) {
            (_, Operand::Vector(parts)) => self.pack(to, parts, ty),
            (Operand::Vector(parts), _) => self.unpack(parts, from, ty),
            _ => self.mov_scalar(to, from, ty),
        }
    }

    fn part_bits(&self, ty: Type, parts: usize) -> Result<u8> {
        match (ty.bytes() as usize * 8).checked_div(parts) {
            Some(bits @ (8 | 16 | 32 | 64)) => Ok(bits as u8),
            _ => self.error(format!(
                "cannot cut {} bytes into {parts} parts",
                ty.bytes()
            )),
        }
    }

    fn pack(&mut self, to: &Operand<'a>, parts: &[Operand<'a>], ty: Type) -> Result<()> {
        let bits = self.part_bits(ty, parts.len())?;
        let part = if bits == 64 { Type::B64 } else { Type::B32 };
        let dst = self.dest(to, ty)?;
        let mut list = Vec::new();
        for operand in parts {
            list.push(self.source(operand, part)?);
        }
        let start = self.list(&list);
        let inst = self.emit(Op::Pack {
            bits,
            to: ty.width(),
        });
        (inst.dst, inst.d, inst.imm) = (dst, start, list.len() as i64);
        Ok(())
    }

    fn unpack(&mut self, parts: &[Operand<'a>], from: &Operand<'a>, ty: Type) -> Result<()> {
        let bits = self.part_bits(ty, parts.len())?;
        let part = if bits == 64 { Type::B64 } else { Type::B32 };
        let a = self.source(from, ty)?;
        let mut list = Vec::new();
        for operand in parts {
            list.push(self.dest(operand, part)?);
        }
        let start = self.list(&list);
        let inst = self.emit(Op::Unpack {
            bits,
            from: ty.width(),
        });
        (inst.a, inst.d, inst.imm) = (a, start, list.len() as i64);
        Ok(())
    }

    fn mov_scalar(&mut self, to: &Operand<'a>, from: &Operand<'a>, ty: Type) -> Result<()> {
        let dst = self.dest(to, ty)?;
        let width = ty.width();
        if let Operand::Name(name) = from
            && let Some(clock) = clock_register(name)
        {
            self.emit_to(Op::ReadClock(clock), dst, &[]);
            return Ok(());
        }
        let (name, offset) = match from {
            Operand::Name(name) => (*name, 0),
            Operand::Offset(name, offset) => (*name, *offset),
            _ => {
                let a = self.source(from, ty)?;
                self.emit_to(Op::Mov(width), dst, &[a]);
                return Ok(());
            }
        };
        // An address of a variable or function, else a register.
        let (base, offset) = match self.place(name) {
            Some(Place::Global(address)) => {
                (self.constant(address.wrapping_add_signed(offset), width), 0)
            }
            Some(Place::Shared(at)) => (
                self.constant(u64::from(at).wrapping_add_signed(offset), width),
                0,
            ),
            Some(Place::KernelParam(at)) => (
                self.constant(u64::from(at).wrapping_add_signed(offset), width),
                0,
            ),
            Some(Place::DynamicShared) => (self.special(Special::DynamicShared, width), offset),
            Some(Place::Frame(at, _)) => (
                self.special(Special::FrameBase, width),
                offset + i64::from(at),
            ),
            None => match self.function_address(name) {
                Some(address) if matches!(from, Operand::Name(_)) => {
                    (self.constant(address, width), 0)
                }
                _ => (self.source(from, ty)?, 0),
            },
        };
        if offset == 0 {
            self.emit_to(Op::Mov(width), dst, &[base]);
        } else {
            let offset = self.constant(offset as u64, width);
            let ty = if width == Width::Double {
                Type::U64
            } else {
                Type::U32
            };
            self.emit_to(Op::Int(IntOp::Add, ty), dst, &[base, offset]);
        }
        Ok(())
    }

    fn convert(&mut self, inst: &Instruction<'a>) -> Result<()> {
        if inst.opcode.get(1) == Some(&"pack") {
            return self.convert_pack(inst);
        }
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(&words.rest, &[])?;
        let [to, from] = words.types[..] else {
            return self.unknown(inst);
        };
        // Two sources make a packed result: `cvt.rn.f16x2.f32 d, a, b` (b is the low half).
        let packs = matches!(to, Type::F16x2 | Type::BF16x2 | Type::E4M3x2 | Type::E5M2x2)
            && from == Type::F32;
        self.arity(inst, if packs { 3..=3 } else { 2..=2 })?;
        let target = self.any_register(&inst.operands[0]);
        let (dst, to_width) = match target {
            Ok(register) => (register.id, register.ty.width()),
            Err(_) => (self.dest(&inst.operands[0], to)?, to.width()),
        };
        if to_width == Width::Pred || to.width() == Width::Double && to_width != Width::Double {
            return self.error("the destination register is narrower than the result");
        }
        // A source register may be wider than the source type.
        let a = match &inst.operands[1] {
            Operand::Name(name) if self.register(name).is_ok() => {
                let register = self.register(name)?;
                match (register.ty.width(), from.width()) {
                    (Width::Pred | Width::Quad, _) | (Width::Word, Width::Double) => {
                        return self.error(format!("`{name}` is not wide enough"));
                    }
                    (Width::Double, Width::Word) => self.low_half(register.id),
                    _ => register.id,
                }
            }
            other => self.source(other, from)?,
        };
        let b = if packs {
            self.source(&inst.operands[2], from)?
        } else {
            NONE
        };
        self.emit_to(
            Op::Convert {
                to,
                from,
                to_width,
                mode: words.mode,
            },
            dst,
            &[a, b],
        );
        Ok(())
    }

    /// A word slot with the low half of a 64-bit register.
    fn low_half(&mut self, id: u32) -> u32 {
        let (low, high) = (self.new_slot(Width::Word), self.new_slot(Width::Word));
        let start = self.list(&[low, high]);
        let inst = self.emit(Op::Unpack {
            bits: 32,
            from: Width::Double,
        });
        (inst.a, inst.d, inst.imm) = (id, start, 2);
        low
    }

    /// `cvt.pack.sat.u8.s32.b32 d, a, b, c` and its kin: narrow two values and shift them into c.
    fn convert_pack(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[2..]);
        let (Some(&narrow), true) = (words.types.first(), words.mode.sat) else {
            return self.unknown(inst);
        };
        self.arity(inst, 3..=4)?;
        let dst = self.dest(&inst.operands[0], Type::B32)?;
        let mut parts = Vec::new();
        for operand in &inst.operands[1..3] {
            let from = self.source(operand, Type::S32)?;
            let part = self.new_slot(Width::Word);
            self.emit_to(
                Op::Convert {
                    to: narrow,
                    from: Type::S32,
                    to_width: Width::Word,
                    mode: words.mode,
                },
                part,
                &[from],
            );
            parts.push(part);
        }
        let bits = (narrow.bytes() * 8) as u8;
        // `a` is the higher part; narrow results leave room for the low half of c above them.
        let mut list = vec![parts[1], parts[0]];
        if let Some(operand) = inst.operands.get(3) {
            let c = self.source(operand, Type::B32)?;
            let c_low = self.new_slot(Width::Word);
            let c_high = self.new_slot(Width::Word);
            let start = self.list(&[c_low, c_high]);
            let unpack = self.emit(Op::Unpack {
                bits: 8,
                from: Width::Word,
            });
            (unpack.a, unpack.d, unpack.imm) = (c, start, 2);
            list.extend([c_low, c_high]);
        }
        let start = self.list(&list);
        let pack = self.emit(Op::Pack {
            bits,
            to: Width::Word,
        });
        (pack.dst, pack.d, pack.imm) = (dst, start, list.len() as i64);
        Ok(())
    }

    fn select(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.no_modifiers(&words.rest, &[])?;
        self.arity(inst, 4..=4)?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let dst = self.dest(&inst.operands[0], ty)?;
        let a = self.source(&inst.operands[1], ty)?;
        let b = self.source(&inst.operands[2], ty)?;
        let c = self.predicate_source(&inst.operands[3])?;
        self.emit_to(Op::Select(ty.width()), dst, &[a, b, c]);
        Ok(())
    }

    fn comparison(&self, word: &str, ty: Type) -> Option<Compare> {
        Some(match word {
            "eq" => Compare::Eq,
            "ne" => Compare::Ne,
            "lt" | "lo" => Compare::Lt,
            "le" | "ls" => Compare::Le,
            "gt" | "hi" => Compare::Gt,
            "ge" | "hs" => Compare::Ge,
            "equ" => Compare::Equ,
            "neu" => Compare::Neu,
            "ltu" => Compare::Ltu,
            "leu" => Compare::Leu,
            "gtu" => Compare::Gtu,
            "geu" => Compare::Geu,
            "num" if ty.float() => Compare::Num,
            "nan" if ty.float() => Compare::Nan,
            _ => return None,
        })
    }

    fn bool_op(&self, words: &Words) -> Result<BoolOp> {
        match words.rest.get(1) {
            None | Some(&"and") => Ok(BoolOp::And),
            Some(&"or") => Ok(BoolOp::Or),
            Some(&"xor") => Ok(BoolOp::Xor),
            Some(word) => self.error(format!("unknown modifier `.{word}`")),
        }
    }

    fn setp(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.arity(inst, 3..=4)?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let Some(compare) = words
            .rest
            .first()
            .and_then(|word| self.comparison(word, ty))
        else {
            return self.unknown(inst);
        };
        let op = self.bool_op(&words)?;
        let (dst, second) = match &inst.operands[0] {
            Operand::Pair(p, q) => (self.predicate_dest(p)?, self.predicate_dest(q)?),
            p => (self.predicate_dest(p)?, NONE),
        };
        let a = self.source(&inst.operands[1], ty)?;
        let b = self.source(&inst.operands[2], ty)?;
        let c = match inst.operands.get(3) {
            Some(operand) => self.predicate_source(operand)?,
            None => ALWAYS,
        };
        let ty = if ty.float() || ty.signed() {
            ty
        } else {
            ty.unsigned()
        };
        self.emit_to(
            Op::Setp(compare, ty, op, words.mode.ftz),
            dst,
            &[a, b, c, second],
        );
        Ok(())
    }

    fn set(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.arity(inst, 3..=4)?;
        let [to, from] = words.types[..] else {
            return self.unknown(inst);
        };
        let Some(compare) = words
            .rest
            .first()
            .and_then(|word| self.comparison(word, from))
        else {
            return self.unknown(inst);
        };
        let op = self.bool_op(&words)?;
        let dst = self.dest(&inst.operands[0], to)?;
        let a = self.source(&inst.operands[1], from)?;
        let b = self.source(&inst.operands[2], from)?;
        let c = match inst.operands.get(3) {
            Some(operand) => self.predicate_source(operand)?,
            None => ALWAYS,
        };
        let from = if from.float() || from.signed() {
            from
        } else {
            from.unsigned()
        };
        self.emit_to(
            Op::Set(compare, to, from, op, words.mode.ftz),
            dst,
            &[a, b, c],
        );
        Ok(())
    }

    fn testp(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.arity(inst, 2..=2)?;
        let Some(&ty @ (Type::F32 | Type::F64)) = words.types.last() else {
            return self.unknown(inst);
        };
        let class = match words.rest.first() {
            Some(&"finite") => FloatClass::Finite,
            Some(&"infinite") => FloatClass::Infinite,
            Some(&"number") => FloatClass::Number,
            Some(&"notanumber") => FloatClass::NotANumber,
            Some(&"normal") => FloatClass::Normal,
            Some(&"subnormal") => FloatClass::Subnormal,
            _ => return self.unknown(inst),
        };
        let dst = self.predicate_dest(&inst.operands[0])?;
        let a = self.source(&inst.operands[1], ty)?;
        self.emit_to(Op::Testp(class, ty), dst, &[a]);
        Ok(())
    }
}

fn clock_register(name: &str) -> Option<Clock> {
    Some(match name {
        "%clock" => Clock::Clock,
        "%clock_hi" => Clock::ClockHi,
        "%clock64" => Clock::Clock64,
        "%globaltimer" => Clock::GlobalTimer,
        "%globaltimer_lo" => Clock::GlobalTimerLo,
        "%globaltimer_hi" => Clock::GlobalTimerHi,
        _ => return None,
    })
}
