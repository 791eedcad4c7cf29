//! Lowers loads, stores, atomics, copies, address conversions, fences and mbarriers.

use super::function::{Lowerer, Result, Words};
use super::inst::*;
use super::types::{Type, Width};
use crate::ptx::ast::{Instruction, Operand};

/// Words of accesses that say how to cache, which changes no result.
const CACHE_WORDS: &[&str] = &[
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "noftz",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_normal",
    "L2::evict_first",
    "L2::evict_last",
    "L2::cache_hint",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "unified",
    "v2",
    "v4",
    "v8",
];

fn space_word(word: &str) -> Option<MemSpace> {
    Some(match word {
        "global" | "const" => MemSpace::Global,
        "shared" | "shared::cta" | "shared::cluster" => MemSpace::Shared,
        "local" => MemSpace::Local,
        "param" | "param::entry" | "param::func" => MemSpace::Param,
        _ => return None,
    })
}

impl<'a> Lowerer<'a, '_> {
    pub(crate) fn memory_instruction(&mut self, inst: &Instruction<'a>) -> Result<()> {
        match inst.opcode[0] {
            "ld" | "ldu" => self.load(inst),
            "st" => self.store(inst),
            "atom" => self.atom(inst, true),
            "red" => self.atom(inst, false),
            "cvta" => self.cvta(inst),
            "isspacep" => self.isspacep(inst),
            "mapa" => self.mapa(inst),
            "getctarank" => {
                self.arity(inst, 2..=2)?;
                let words = Words::of(&inst.opcode[1..]);
                let Some(&ty) = words.types.last() else {
                    return self.unknown(inst);
                };
                let wide = ty.width() == Width::Double;
                let dst = self.dest(&inst.operands[0], Type::U32)?;
                let a = self.source(&inst.operands[1], ty)?;
                self.emit_to(Op::CtaRank { wide }, dst, &[a]);
                Ok(())
            }
            "membar" | "fence" => {
                let wide = inst
                    .opcode
                    .iter()
                    .any(|word| matches!(*word, "gl" | "sys" | "gpu" | "cluster" | "proxy"));
                self.emit(Op::Fence { wide });
                Ok(())
            }
            "prefetch" | "prefetchu" | "discard" | "applypriority" => {
                self.emit(Op::Nop);
                Ok(())
            }
            "createpolicy" => {
                let dst = self.dest(&inst.operands[0], Type::B64)?;
                let zero = self.constant(0, Width::Double);
                self.emit_to(Op::Mov(Width::Double), dst, &[zero]);
                Ok(())
            }
            "mbarrier" => self.mbarrier(inst),
            "cp" => self.copy(inst),
            _ => self.unknown(inst),
        }
    }

    /// The access that the words of a load, store or atomic describe.
    fn access(
        &mut self,
        inst: &Instruction<'a>,
        words: &Words,
        address: &Operand<'a>,
    ) -> Result<Access> {
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let mut access = Access {
            space: MemSpace::Generic,
            ty,
            count: 1,
            width: ty.width(),
            wide_address: true,
            order: Order::default(),
        };
        let mut stated = false;
        let mut narrow_scope = false;
        for word in &words.rest {
            if let Some(space) = space_word(word) {
                access.space = space;
                stated = true;
                continue;
            }
            match *word {
                "volatile" | "relaxed" | "mmio" => access.order.strong = true,
                "acquire" => (access.order.strong, access.order.acquire) = (true, true),
                "release" => (access.order.strong, access.order.release) = (true, true),
                "acq_rel" => {
                    access.order = Order {
                        strong: true,
                        acquire: true,
                        release: true,
                        wide: false,
                    };
                }
                "cta" => narrow_scope = true,
                "gpu" | "sys" | "cluster" | "weak" => {}
                "v2" => access.count = 2,
                "v4" => access.count = 4,
                "v8" => access.count = 8,
                "b128" => {}
                _ if CACHE_WORDS.contains(word) => {}
                _ => {}
            }
        }
        access.order.wide = access.order.strong && !narrow_scope;
        // A variable named in a generic access says where it is; function parameters are frame memory.
        let named = self.address_space(address);
        let in_frame = !self.is_entry() || named == Some(MemSpace::Local);
        if access.space == MemSpace::Param && in_frame {
            access.space = MemSpace::Local;
        }
        if !stated && let Some(space) = named {
            access.space = space;
        }
        Ok(access)
    }

    fn check_access_words(&self, words: &Words, also: &[&str]) -> Result<()> {
        const ORDER: &[&str] = &[
            "volatile", "relaxed", "mmio", "acquire", "release", "acq_rel", "cta", "gpu", "sys",
            "cluster", "weak",
        ];
        for word in &words.rest {
            let known = space_word(word).is_some()
                || ORDER.contains(word)
                || CACHE_WORDS.contains(word)
                || also.contains(word);
            if !known {
                return self.error(format!("unknown modifier `.{word}`"));
            }
        }
        Ok(())
    }

    /// The registers of a load or store: scalar or vector, each at least as wide as the type.
    fn data_registers(
        &mut self,
        operand: &Operand<'a>,
        access: &mut Access,
        store: bool,
    ) -> Result<Vec<u32>> {
        let items = self.elements(operand);
        if items.len() != usize::from(access.count) {
            return self.error(format!(
                "expected {} registers, found {}",
                access.count,
                items.len()
            ));
        }
        // Registers may be wider than the type; all of a vector are alike.
        let mut width = access.ty.width();
        for item in &items {
            if let Operand::Name(name) = item
                && *name != "_"
                && let Ok(register) = self.register(name)
            {
                width = register.ty.width();
            }
        }
        if width.slots() < access.ty.width().slots() || width == Width::Pred {
            return self.error("a register is narrower than the type of the access");
        }
        access.width = width;
        let ty = match width {
            Width::Word if store && access.ty.width() == Width::Word => access.ty,
            Width::Word | Width::Pred => Type::B32,
            Width::Double if access.ty.width() == Width::Double => access.ty,
            Width::Double => Type::B64,
            Width::Quad => Type::B128,
        };
        items
            .iter()
            .map(|item| {
                if store {
                    self.source(item, ty)
                } else {
                    self.dest(item, ty)
                }
            })
            .collect()
    }

    fn load(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.check_access_words(&words, &[])?;
        self.arity(inst, 2..=3)?;
        let mut access = self.access(inst, &words, &inst.operands[1])?;
        let registers = self.data_registers(&inst.operands[0], &mut access, false)?;
        let (a, imm, wide) = self.address(&inst.operands[1])?;
        access.wide_address = wide;
        let constant = self.address_space(&inst.operands[1]) == Some(MemSpace::Param);
        let aligned = imm >= 0 && imm % i64::from(access.ty.bytes()) == 0;
        if constant && aligned && access.space == MemSpace::Param && access.ty != Type::B128 {
            for (i, &register) in registers.iter().enumerate() {
                let op = Op::LoadParam {
                    ty: access.ty,
                    width: access.width,
                };
                let load = self.emit(op);
                (load.dst, load.imm) = (register, imm + i as i64 * i64::from(access.ty.bytes()));
            }
            return Ok(());
        }
        let list = if registers.len() > 1 {
            self.list(&registers)
        } else {
            NONE
        };
        let load = self.emit(Op::Load(access));
        (load.dst, load.a, load.d, load.imm) = (registers[0], a, list, imm);
        Ok(())
    }

    fn store(&mut self, inst: &Instruction<'a>) -> Result<()> {
        if inst.opcode.get(1) == Some(&"async") {
            return self.unknown(inst);
        }
        let words = Words::of(&inst.opcode[1..]);
        self.check_access_words(&words, &[])?;
        self.arity(inst, 2..=3)?;
        let mut access = self.access(inst, &words, &inst.operands[0])?;
        let registers = self.data_registers(&inst.operands[1], &mut access, true)?;
        let (a, imm, wide) = self.address(&inst.operands[0])?;
        access.wide_address = wide;
        let list = if registers.len() > 1 {
            self.list(&registers)
        } else {
            NONE
        };
        let store = self.emit(Op::Store(access));
        (store.b, store.a, store.d, store.imm) = (registers[0], a, list, imm);
        Ok(())
    }

    fn atom(&mut self, inst: &Instruction<'a>, returns: bool) -> Result<()> {
        if inst.opcode.get(1) == Some(&"async") {
            return self.unknown(inst);
        }
        const OPS: &[(&str, AtomOp)] = &[
            ("add", AtomOp::Add),
            ("inc", AtomOp::Inc),
            ("dec", AtomOp::Dec),
            ("min", AtomOp::Min),
            ("max", AtomOp::Max),
            ("and", AtomOp::And),
            ("or", AtomOp::Or),
            ("xor", AtomOp::Xor),
            ("exch", AtomOp::Exch),
            ("cas", AtomOp::Cas),
        ];
        let words = Words::of(&inst.opcode[1..]);
        let names: Vec<&str> = OPS.iter().map(|(name, _)| *name).collect();
        self.check_access_words(&words, &names)?;
        let Some(&(_, op)) = OPS.iter().find(|(name, _)| words.has(name)) else {
            return self.unknown(inst);
        };
        let first = usize::from(returns);
        let sources = if op == AtomOp::Cas { 2 } else { 1 };
        self.arity(inst, first + 1 + sources..=first + 2 + sources)?;
        let address = &inst.operands[first];
        let mut access = self.access(inst, &words, address)?;
        access.order.strong = true;
        access.order.wide = !words.has("cta");
        let (a, imm, wide) = self.address(address)?;
        access.wide_address = wide;
        if !matches!(
            access.space,
            MemSpace::Generic | MemSpace::Global | MemSpace::Shared
        ) {
            return self.error("atomics work on global and shared memory");
        }
        let values = self.data_registers(&inst.operands[first + 1], &mut access, true)?;
        let list = if access.count > 1 {
            self.list(&values)
        } else {
            NONE
        };
        let dst = match returns {
            true if access.count > 1 => {
                let old = self.data_registers(&inst.operands[0], &mut access, false)?;
                self.list(&old)
            }
            true if inst.operands[0] == Operand::Name("_") => NONE,
            true => self.data_registers(&inst.operands[0], &mut access, false)?[0],
            false => NONE,
        };
        let c = match op {
            AtomOp::Cas => self.data_registers(&inst.operands[first + 2], &mut access, true)?[0],
            _ => NONE,
        };
        let atom = self.emit(Op::Atom(op, access));
        (atom.dst, atom.a, atom.b, atom.c, atom.d, atom.imm) = (dst, a, values[0], c, list, imm);
        Ok(())
    }

    fn cvta(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.arity(inst, 2..=2)?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let space = words.rest.iter().find_map(|word| space_word(word));
        let Some(space) = space else {
            return self.unknown(inst);
        };
        let to_generic = !words.has("to");
        let dst = self.dest(&inst.operands[0], ty)?;
        // The source may be a variable's name.
        let a = match &inst.operands[1] {
            Operand::Name(name) if self.place(name).is_some() => {
                let slot = self.new_register(ty);
                let mov = Instruction {
                    guard: None,
                    opcode: vec!["mov", "b64"],
                    operands: Vec::new(),
                    line: inst.line,
                };
                self.address_value(slot, name, ty, &mov)?;
                slot
            }
            other => self.source(other, ty)?,
        };
        let wide = ty.width() == Width::Double;
        self.emit_to(
            Op::Cvta {
                space,
                to_generic,
                wide,
            },
            dst,
            &[a],
        );
        Ok(())
    }

    /// `slot ← address of the variable`
    fn address_value(
        &mut self,
        slot: u32,
        name: &'a str,
        ty: Type,
        inst: &Instruction<'a>,
    ) -> Result<()> {
        let operand = Operand::Address {
            base: Some(name),
            offset: 0,
        };
        let (base, offset, wide) = self.address(&operand)?;
        let width = ty.width();
        let _ = inst;
        let base = match (wide, width) {
            (true, Width::Double) | (false, Width::Word) => base,
            (false, _) => {
                let extended = self.new_slot(Width::Double);
                let op = Op::Convert {
                    to: Type::U64,
                    from: Type::U32,
                    to_width: Width::Double,
                    mode: super::types::Mode::PLAIN,
                };
                self.emit_to(op, extended, &[base]);
                extended
            }
            (true, _) => return self.error("a 64-bit address doesn't fit into 32 bits"),
        };
        let offset = self.constant(offset as u64, width);
        let ty = if width == Width::Double {
            Type::U64
        } else {
            Type::U32
        };
        self.emit_to(Op::Int(IntOp::Add, ty), slot, &[base, offset]);
        Ok(())
    }

    fn isspacep(&mut self, inst: &Instruction<'a>) -> Result<()> {
        self.arity(inst, 2..=2)?;
        let Some(space) = inst.opcode.get(1).and_then(|word| space_word(word)) else {
            return self.unknown(inst);
        };
        let dst = self.predicate_dest(&inst.operands[0])?;
        let register = self.any_register(&inst.operands[1])?;
        let wide = register.ty.width() == Width::Double;
        self.emit_to(Op::IsSpace { space, wide }, dst, &[register.id]);
        Ok(())
    }

    /// `mapa{.shared::cluster}.u64 d, a, rank`
    fn mapa(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        self.arity(inst, 3..=3)?;
        let Some(&ty) = words.types.last() else {
            return self.unknown(inst);
        };
        let dst = self.dest(&inst.operands[0], ty)?;
        let a = self.source(&inst.operands[1], ty)?;
        let rank = self.source(&inst.operands[2], Type::U32)?;
        let wide = ty.width() == Width::Double;
        self.emit_to(Op::Mapa { wide }, dst, &[a, rank]);
        Ok(())
    }

    fn mbarrier(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let words = Words::of(&inst.opcode[1..]);
        let Some(&name) = words.rest.first() else {
            return self.unknown(inst);
        };
        let parity = words.has("parity");
        let op = match name {
            "init" => MbarrierOp::Init,
            "inval" => MbarrierOp::Inval,
            "arrive" if words.has("expect_tx") => MbarrierOp::ArriveExpectTx,
            "arrive" => MbarrierOp::Arrive,
            "arrive_drop" => MbarrierOp::ArriveDrop,
            "expect_tx" => MbarrierOp::ExpectTx,
            "complete_tx" => MbarrierOp::CompleteTx,
            "test_wait" | "try_wait" if parity => MbarrierOp::TestWaitParity,
            "test_wait" | "try_wait" => MbarrierOp::TestWait,
            "pending_count" => MbarrierOp::PendingCount,
            _ => return self.unknown(inst),
        };
        let mut operands = inst.operands.iter();
        let mut dst = NONE;
        match op {
            MbarrierOp::TestWait | MbarrierOp::TestWaitParity => {
                let Some(operand) = operands.next() else {
                    return self.unknown(inst);
                };
                dst = self.predicate_dest(operand)?;
            }
            MbarrierOp::PendingCount => {
                self.arity(inst, 2..=2)?;
                dst = self.dest(&inst.operands[0], Type::B32)?;
                let a = self.source(&inst.operands[1], Type::B64)?;
                self.emit_to(
                    Op::Mbarrier {
                        op,
                        wide_address: true,
                        space: MemSpace::Shared,
                    },
                    dst,
                    &[a],
                );
                return Ok(());
            }
            MbarrierOp::Arrive | MbarrierOp::ArriveDrop | MbarrierOp::ArriveExpectTx
                if !matches!(inst.operands.first(), Some(Operand::Address { .. })) =>
            {
                let Some(operand) = operands.next() else {
                    return self.unknown(inst);
                };
                if *operand != Operand::Name("_") {
                    dst = self.dest(operand, Type::B64)?;
                }
            }
            _ => {}
        }
        let Some(address) = operands.next() else {
            return self.unknown(inst);
        };
        let (a, imm, wide_address) = self.address(address)?;
        let mut space = MemSpace::Generic;
        for word in &words.rest {
            if let Some(found) = space_word(word) {
                space = found;
            }
        }
        if let Some(found) = self.address_space(address) {
            space = found;
        }
        let b = match (op, operands.next()) {
            (MbarrierOp::TestWait, Some(operand)) => self.source(operand, Type::B64)?,
            (MbarrierOp::TestWait | MbarrierOp::TestWaitParity | MbarrierOp::Init, None) => {
                return self.unknown(inst);
            }
            (_, Some(operand)) => self.source(operand, Type::U32)?,
            (_, None) => NONE,
        };
        let out = self.emit(Op::Mbarrier {
            op,
            wide_address,
            space,
        });
        (out.dst, out.a, out.b, out.imm) = (dst, a, b, imm);
        Ok(())
    }

    fn copy(&mut self, inst: &Instruction<'a>) -> Result<()> {
        let rest = &inst.opcode[1..];
        match rest {
            ["async", "commit_group"] => {
                self.emit(Op::CpAsyncCommit);
                Ok(())
            }
            ["async", "wait_all"] => {
                self.emit(Op::CpAsyncWait).imm = -1;
                Ok(())
            }
            ["async", "wait_group"] => {
                self.arity(inst, 1..=1)?;
                let pending = self.immediate(&inst.operands[0])?;
                self.emit(Op::CpAsyncWait).imm = pending.min(1 << 20) as i64;
                Ok(())
            }
            ["async", "bulk", "commit_group"] => {
                self.emit(Op::Nop);
                Ok(())
            }
            ["async", "bulk", "wait_group", ..] => {
                self.emit(Op::Nop);
                Ok(())
            }
            ["async", "mbarrier", "arrive", words @ ..] => {
                self.arity(inst, 1..=1)?;
                let (a, imm, wide_address) = self.address(&inst.operands[0])?;
                let noinc = words.contains(&"noinc");
                let out = self.emit(Op::CpAsyncMbarrier {
                    noinc,
                    wide_address,
                });
                (out.a, out.imm) = (a, imm);
                Ok(())
            }
            [
                "async",
                "bulk",
                "shared::cluster" | "shared::cta",
                "global",
                ..,
            ] => {
                self.arity(inst, 4..=5)?;
                self.bulk(inst, true)
            }
            ["async", "bulk", "global", "shared::cta", ..] => {
                self.arity(inst, 3..=4)?;
                self.bulk(inst, false)
            }
            ["async", "ca" | "cg", "shared" | "shared::cta", "global", ..] => self.copy_async(inst),
            _ => self.unknown(inst),
        }
    }

    /// `cp.async.ca.shared.global [dst], [src], bytes {, src bytes | ignore}`
    fn copy_async(&mut self, inst: &Instruction<'a>) -> Result<()> {
        self.arity(inst, 3..=5)?;
        let bytes = self.immediate(&inst.operands[2])?;
        if !matches!(bytes, 4 | 8 | 16) {
            return self.error(format!("`cp.async` copies 4, 8 or 16 bytes, found {bytes}"));
        }
        let (a, imm, wide_address) = self.address(&inst.operands[0])?;
        let (b, source_offset, wide_source) = self.address(&inst.operands[1])?;
        if !wide_source {
            return self.error("a global address needs a 64-bit register");
        }
        let hint = inst.opcode.contains(&"L2::cache_hint");
        let size = match inst.operands.get(3) {
            Some(_) if hint && inst.operands.len() == 4 => NONE,
            Some(Operand::Name(name)) if self.register(name).is_ok_and(|r| r.ty == Type::Pred) => {
                // `ignore-src`: nothing is read where the predicate holds.
                let predicate = self.predicate(name)?;
                let slot = self.new_slot(Width::Word);
                let none = self.constant(0, Width::Word);
                let all = self.constant(bytes, Width::Word);
                self.emit_to(Op::Select(Width::Word), slot, &[none, all, predicate * 2]);
                slot
            }
            Some(operand) => self.source(operand, Type::U32)?,
            None => NONE,
        };
        let source = if source_offset == 0 {
            b
        } else {
            let slot = self.new_slot(Width::Double);
            let offset = self.constant(source_offset as u64, Width::Double);
            self.emit_to(Op::Int(IntOp::Add, Type::U64), slot, &[b, offset]);
            slot
        };
        let out = self.emit(Op::CpAsync {
            wide_address,
            bytes: bytes as u8,
        });
        (out.a, out.b, out.c, out.imm) = (a, source, size, imm);
        Ok(())
    }

    fn bulk(&mut self, inst: &Instruction<'a>, to_shared: bool) -> Result<()> {
        let (shared, global) = if to_shared { (0, 1) } else { (1, 0) };
        let plain = |lowerer: &mut Self, operand: &Operand<'a>| -> Result<(u32, bool)> {
            let (slot, offset, wide) = lowerer.address(operand)?;
            if offset == 0 {
                return Ok((slot, wide));
            }
            let (width, ty) = if wide {
                (Width::Double, Type::U64)
            } else {
                (Width::Word, Type::U32)
            };
            let sum = lowerer.new_slot(width);
            let offset = lowerer.constant(offset as u64, width);
            lowerer.emit_to(Op::Int(IntOp::Add, ty), sum, &[slot, offset]);
            Ok((sum, wide))
        };
        let (a, wide_address) = plain(self, &inst.operands[shared])?;
        let (b, _) = plain(self, &inst.operands[global])?;
        let c = self.source(&inst.operands[2], Type::U32)?;
        let d = if to_shared {
            let (slot, wide) = plain(self, &inst.operands[3])?;
            if wide != wide_address {
                return self.error("both shared addresses need registers of one width");
            }
            slot
        } else {
            NONE
        };
        self.emit_to(
            Op::CpBulk {
                to_shared,
                wide_address,
            },
            NONE,
            &[a, b, c, d],
        );
        Ok(())
    }
}
