//! Lowers one function: scopes, operands, control flow. The instructions themselves are in
//! [`super::arithmetic`], [`super::access`] and [`super::warp`].

use std::collections::HashMap;

use super::inst::*;
use super::types::{Mode, Type, Width};
use crate::ptx::ast::{self, Operand, Space, Statement, Variable};

/// An instruction that can't be lowered: the line and what is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    pub(crate) line: u32,
    pub(crate) message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// First address of the window that function addresses come from: they are called, never read.
pub(crate) const FUNCTION_BASE: u64 = 0x0000_4000_0000_0000;

/// A module-scope variable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ModuleVariable {
    /// In device memory.
    Placed(u64),
    /// Shared memory of `bytes` bytes aligned to `align`, placed in each kernel that uses it.
    Shared { bytes: u32, align: u32 },
    /// `.extern .shared`: starts where the static shared memory ends.
    DynamicShared { align: u32 },
}

/// What functions of a module can refer to.
pub(crate) struct ModuleScope<'a> {
    pub(crate) variables: HashMap<&'a str, ModuleVariable>,
    /// Functions by name: index into the module's functions.
    pub(crate) functions: HashMap<&'a str, u32>,
    pub(crate) ast: &'a [ast::Function<'a>],
}

/// What a kernel's functions share while they are lowered.
#[derive(Default)]
pub(crate) struct KernelScope<'a> {
    /// Placed shared variables.
    shared: HashMap<&'a str, u32>,
    /// Static shared memory so far, in bytes.
    pub(crate) shared_bytes: u32,
    /// Alignment that dynamic shared memory needs.
    pub(crate) dynamic_align: u32,
    /// Module functions in the order in which the program holds them.
    pub(crate) program: Vec<u32>,
    /// Whether a function is called by address.
    pub(crate) indirect: bool,
}

impl KernelScope<'_> {
    /// Index in the program of a module function; adds it where it is new.
    pub(crate) fn function(&mut self, module_index: u32) -> u32 {
        match self.program.iter().position(|&f| f == module_index) {
            Some(index) => index as u32,
            None => {
                self.program.push(module_index);
                self.program.len() as u32 - 1
            }
        }
    }

    /// Static shared memory is limited by the largest that any device has.
    fn place(&mut self, bytes: u64, align: u32) -> Option<u32> {
        let offset = u64::from(self.shared_bytes).next_multiple_of(u64::from(align.max(1)));
        let end = offset.checked_add(bytes)?;
        if end > 1 << 20 {
            return None;
        }
        self.shared_bytes = end as u32;
        Some(offset as u32)
    }
}

#[derive(Clone, Debug)]
enum Symbol {
    Register {
        id: u32,
        ty: Type,
    },
    /// `%r<N>`: registers get a slot when first named.
    Range {
        ty: Type,
        count: u32,
        ids: HashMap<u32, u32>,
    },
    Vector(Vec<(u32, Type)>),
    Address(Place),
    Targets(Vec<u32>),
    Prototype,
}

/// Where a variable is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Global(u64),
    Shared(u32),
    DynamicShared,
    /// In the frame: offset and size.
    Frame(u32, u32),
    /// In the kernel's parameter block.
    KernelParam(u32),
}

/// A register operand, resolved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Register {
    pub(crate) id: u32,
    pub(crate) ty: Type,
}

pub(crate) struct Lowerer<'a, 'm> {
    pub(crate) module: &'m ModuleScope<'a>,
    pub(crate) kernel: &'m mut KernelScope<'a>,
    pub(crate) out: Function,
    scopes: Vec<HashMap<&'a str, Symbol>>,
    labels: Vec<HashMap<&'a str, u32>>,
    /// Instruction index of each label.
    label_at: Vec<Option<u32>>,
    constants: HashMap<(u64, Width), u32>,
    specials: HashMap<(Special, Width), u32>,
    frame_top: u32,
    line: u32,
    loc: ast::Loc,
    guard: u32,
    entry: bool,
}

/// Lowers the function `index` of the module.
pub(crate) fn lower<'a>(
    module: &ModuleScope<'a>,
    kernel: &mut KernelScope<'a>,
    index: u32,
) -> Result<Function> {
    let function = &module.ast[index as usize];
    let mut lowerer = Lowerer {
        module,
        kernel,
        out: Function {
            name: function.name.to_string(),
            preds: 2,
            ..Function::default()
        },
        scopes: vec![HashMap::new()],
        labels: Vec::new(),
        label_at: Vec::new(),
        constants: HashMap::new(),
        specials: HashMap::new(),
        frame_top: 0,
        line: function.line,
        loc: ast::Loc { file: 0, line: 0 },
        guard: ALWAYS,
        entry: function.entry,
    };
    lowerer.signature(function)?;
    if let Some(body) = &function.body {
        lowerer.block(body)?;
    }
    lowerer.guard = ALWAYS;
    lowerer.emit(if function.entry { Op::Exit } else { Op::Ret });
    lowerer.finish()
}

impl<'a> Lowerer<'a, '_> {
    pub(crate) fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error {
            line: self.line,
            message: message.into(),
        })
    }

    fn signature(&mut self, function: &ast::Function<'a>) -> Result<()> {
        let mut offset = 0u32;
        for (variable, result) in function
            .params
            .iter()
            .map(|v| (v, false))
            .chain(function.returns.iter().map(|v| (v, true)))
        {
            self.line = variable.line;
            let (bytes, align) = self.size_of(variable)?;
            if variable.space == Space::Register {
                return self.error(format!(
                    "`{}`: parameters in registers are not supported, use `.param`",
                    variable.name
                ));
            }
            offset = offset.next_multiple_of(align);
            let place = if function.entry {
                Place::KernelParam(offset)
            } else {
                Place::Frame(offset, bytes)
            };
            self.scopes[0].insert(variable.name, Symbol::Address(place));
            let list = if result {
                &mut self.out.returns
            } else {
                &mut self.out.params
            };
            list.push((offset, bytes));
            offset += bytes;
        }
        if !function.entry {
            self.frame_top = offset;
            self.out.frame_bytes = offset;
        }
        Ok(())
    }

    /// Bytes and alignment of a variable.
    pub(crate) fn size_of(&self, variable: &Variable) -> Result<(u32, u32)> {
        match super::module::size_of(variable) {
            Some((bytes, align)) if bytes <= 1 << 24 => Ok((bytes as u32, align)),
            _ => self.error(format!(
                "`{}`: expected a variable of a known type and at most 16 MiB",
                variable.name
            )),
        }
    }

    fn block(&mut self, statements: &[Statement<'a>]) -> Result<()> {
        self.scopes.push(HashMap::new());
        let mut labels = HashMap::new();
        for statement in statements {
            if let Statement::Label(name) = statement {
                labels.insert(*name, self.label_at.len() as u32);
                self.label_at.push(None);
            }
        }
        self.labels.push(labels);
        // Branch targets may follow the branch that names them.
        for statement in statements {
            match statement {
                Statement::BranchTargets(name, targets) => {
                    let ids = targets.iter().filter_map(|t| self.find_label(t)).collect();
                    self.declare(name, Symbol::Targets(ids));
                }
                Statement::Prototype(name, _) => self.declare(name, Symbol::Prototype),
                _ => {}
            }
        }
        let frame = self.frame_top;
        for statement in statements {
            match statement {
                Statement::Block(inner) => self.block(inner)?,
                Statement::Variable(variable) => self.variable(variable)?,
                Statement::Label(name) => {
                    let id = self.labels[self.labels.len() - 1][name];
                    self.label_at[id as usize] = Some(self.out.code.len() as u32);
                    self.guard = ALWAYS;
                    self.emit(Op::Join);
                }
                Statement::BranchTargets(..) | Statement::Prototype(..) => {}
                Statement::Loc(loc) => self.loc = *loc,
                Statement::Instruction(instruction) => {
                    self.line = instruction.line;
                    self.guard = match instruction.guard {
                        None => ALWAYS,
                        Some((name, negated)) => self.predicate(name)? * 2 + u32::from(negated),
                    };
                    self.instruction(instruction)?;
                }
            }
        }
        self.frame_top = frame;
        self.labels.pop();
        self.scopes.pop();
        Ok(())
    }

    fn declare(&mut self, name: &'a str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, symbol);
        }
    }

    fn variable(&mut self, variable: &Variable<'a>) -> Result<()> {
        self.line = variable.line;
        match variable.space {
            Space::Register => self.register_declaration(variable),
            Space::Local | Space::Param => {
                let (bytes, align) = self.size_of(variable)?;
                let offset = self.frame_top.next_multiple_of(align);
                self.frame_top = offset + bytes;
                self.out.frame_bytes = self.out.frame_bytes.max(self.frame_top);
                if self.out.frame_bytes > 1 << 24 {
                    return self.error("a frame of local memory is larger than 16 MiB");
                }
                self.declare(variable.name, Symbol::Address(Place::Frame(offset, bytes)));
                Ok(())
            }
            Space::Shared => {
                if variable.dims.first() == Some(&None) {
                    let align = variable.align.unwrap_or(16);
                    self.kernel.dynamic_align = self.kernel.dynamic_align.max(align);
                    self.declare(variable.name, Symbol::Address(Place::DynamicShared));
                    return Ok(());
                }
                let (bytes, align) = self.size_of(variable)?;
                let Some(offset) = self.kernel.place(u64::from(bytes), align) else {
                    return self.error("static shared memory is larger than any device has");
                };
                self.declare(variable.name, Symbol::Address(Place::Shared(offset)));
                Ok(())
            }
            // The module has placed it already, under its name.
            Space::Global | Space::Constant => match self.module.variables.get(variable.name) {
                Some(ModuleVariable::Placed(address)) => {
                    self.declare(variable.name, Symbol::Address(Place::Global(*address)));
                    Ok(())
                }
                _ => self.error(format!("`{}` has no place in memory", variable.name)),
            },
        }
    }

    fn register_declaration(&mut self, variable: &Variable<'a>) -> Result<()> {
        let Some(ty) = Type::parse(variable.ty) else {
            return self.error(format!("unknown register type `.{}`", variable.ty));
        };
        let symbol = if let Some(count) = variable.range {
            Symbol::Range {
                ty,
                count,
                ids: HashMap::new(),
            }
        } else if variable.vector > 1 {
            Symbol::Vector(
                (0..variable.vector)
                    .map(|_| (self.new_register(ty), ty))
                    .collect(),
            )
        } else {
            Symbol::Register {
                id: self.new_register(ty),
                ty,
            }
        };
        self.declare(variable.name, symbol);
        Ok(())
    }

    pub(crate) fn new_register(&mut self, ty: Type) -> u32 {
        self.new_slot(ty.width())
    }

    /// A new slot of that width, or a new predicate.
    pub(crate) fn new_slot(&mut self, width: Width) -> u32 {
        if width == Width::Pred {
            self.out.preds += 1;
            return self.out.preds - 1;
        }
        let id = self.out.slots;
        self.out.slots += width.slots();
        id
    }

    fn lookup(&mut self, name: &str) -> Option<Symbol> {
        for depth in (0..self.scopes.len()).rev() {
            if let Some(symbol) = self.scopes[depth].get(name)
                && !matches!(symbol, Symbol::Range { .. })
            {
                return Some(symbol.clone());
            }
            let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            let (prefix, number) = name.split_at(name.len() - digits);
            let Some(Symbol::Range { ty, count, ids }) = self.scopes[depth].get(prefix) else {
                continue;
            };
            let (ty, number) = (*ty, number.parse::<u32>().ok()?);
            if number >= *count || digits > 1 && name[name.len() - digits..].starts_with('0') {
                continue;
            }
            let id = match ids.get(&number) {
                Some(id) => *id,
                None => {
                    let id = self.new_register(ty);
                    if let Some(Symbol::Range { ids, .. }) = self.scopes[depth].get_mut(prefix) {
                        ids.insert(number, id);
                    }
                    id
                }
            };
            return Some(Symbol::Register { id, ty });
        }
        None
    }

    fn find_label(&self, name: &str) -> Option<u32> {
        self.labels
            .iter()
            .rev()
            .find_map(|labels| labels.get(name).copied())
    }

    /// The register called `name`.
    pub(crate) fn register(&mut self, name: &str) -> Result<Register> {
        match self.lookup(name) {
            Some(Symbol::Register { id, ty }) => Ok(Register { id, ty }),
            _ => self.error(format!("expected a register, found `{name}`")),
        }
    }

    /// The number of the predicate called `name`.
    pub(crate) fn predicate(&mut self, name: &str) -> Result<u32> {
        let register = self.register(name)?;
        if register.ty != Type::Pred {
            return self.error(format!("expected a predicate, found `{name}`"));
        }
        Ok(register.id)
    }

    /// A predicate source: number × 2 + negated.
    pub(crate) fn predicate_source(&mut self, operand: &Operand<'a>) -> Result<u32> {
        match operand {
            Operand::Name(name) => Ok(self.predicate(name)? * 2),
            Operand::Not(name) => Ok(self.predicate(name)? * 2 + 1),
            Operand::Int(value) => Ok(ALWAYS * 2 + u32::from(*value == 0)),
            other => self.error(format!("expected a predicate, found {other:?}")),
        }
    }

    /// A predicate destination; a fresh one for `_`.
    pub(crate) fn predicate_dest(&mut self, operand: &Operand<'a>) -> Result<u32> {
        match operand {
            Operand::Name("_") => Ok(self.new_slot(Width::Pred)),
            Operand::Name(name) => self.predicate(name),
            other => self.error(format!("expected a predicate, found {other:?}")),
        }
    }

    /// The slot of a constant.
    pub(crate) fn constant(&mut self, value: u64, width: Width) -> u32 {
        if let Some(slot) = self.constants.get(&(value, width)) {
            return *slot;
        }
        let slot = self.new_slot(width);
        self.constants.insert((value, width), slot);
        self.out.constants.push((slot, value, width));
        slot
    }

    /// The slot of a special register.
    pub(crate) fn special(&mut self, special: Special, width: Width) -> u32 {
        if let Some(slot) = self.specials.get(&(special, width)) {
            return *slot;
        }
        let slot = self.new_slot(width);
        self.specials.insert((special, width), slot);
        self.out.specials.push((slot, special, width));
        slot
    }

    /// The slot of a source operand of type `ty`.
    pub(crate) fn source(&mut self, operand: &Operand<'a>, ty: Type) -> Result<u32> {
        let width = ty.width();
        match operand {
            Operand::Name(name) => {
                if let Some(special) = special_register(name, None) {
                    return Ok(self.special(special, width));
                }
                if *name == "WARP_SZ" {
                    return Ok(self.constant(32, width));
                }
                match self.lookup(name) {
                    Some(Symbol::Register { id, ty: found }) if found.width() == width => Ok(id),
                    Some(Symbol::Register { ty: found, .. }) => self.error(format!(
                        "`{name}` is a {}-byte register, the instruction needs {} bytes",
                        found.bytes(),
                        ty.bytes()
                    )),
                    _ => self.error(format!("unknown register `{name}`")),
                }
            }
            Operand::Component(name, component) => {
                if let Some(special) = special_register(name, Some(component)) {
                    return Ok(self.special(special, width));
                }
                if let Some(Symbol::Vector(elements)) = self.lookup(name)
                    && let Some((id, _)) = component_index(component)
                        .and_then(|i| elements.get(i))
                        .filter(|(_, found)| found.width() == width)
                {
                    return Ok(*id);
                }
                self.error(format!("unknown register `{name}.{component}`"))
            }
            Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => {
                let bits = self.literal(operand, ty)?;
                Ok(self.constant(bits, width))
            }
            other => self.error(format!("expected a register or number, found {other:?}")),
        }
    }

    /// The bits of a literal as type `ty`.
    pub(crate) fn literal(&self, operand: &Operand<'a>, ty: Type) -> Result<u64> {
        let mask = match ty.bytes() {
            1 => 0xff,
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        };
        match (operand, ty) {
            (Operand::F32(bits), Type::F64) => Ok(f64::from(f32::from_bits(*bits)).to_bits()),
            (Operand::F32(bits), _) => Ok(u64::from(*bits)),
            (Operand::F64(bits), Type::F32 | Type::B32) => {
                Ok(u64::from((f64::from_bits(*bits) as f32).to_bits()))
            }
            (Operand::F64(bits), Type::F64 | Type::B64 | Type::U64 | Type::S64) => Ok(*bits),
            (Operand::Int(value), Type::F64) => Ok((*value as i64 as f64).to_bits()),
            (Operand::Int(value), Type::F32) => Ok(u64::from((*value as i64 as f32).to_bits())),
            (Operand::Int(value), _) => Ok(*value & mask),
            _ => self.error(format!(
                "expected a number of type {ty:?}, found {operand:?}"
            )),
        }
    }

    /// The number that an operand must be.
    pub(crate) fn immediate(&self, operand: &Operand<'a>) -> Result<u64> {
        match operand {
            Operand::Int(value) => Ok(*value),
            other => self.error(format!("expected a number, found {other:?}")),
        }
    }

    /// The slot of a destination of type `ty`; a scratch one for `_`.
    pub(crate) fn dest(&mut self, operand: &Operand<'a>, ty: Type) -> Result<u32> {
        match operand {
            Operand::Name("_") => Ok(self.new_register(ty)),
            Operand::Name(_) | Operand::Component(..) => self.source(operand, ty),
            other => self.error(format!("expected a register, found {other:?}")),
        }
    }

    /// The register that an operand names, whatever its type.
    pub(crate) fn any_register(&mut self, operand: &Operand<'a>) -> Result<Register> {
        match operand {
            Operand::Name(name) => self.register(name),
            Operand::Component(name, component) => match self.lookup(name) {
                Some(Symbol::Vector(elements)) => {
                    match component_index(component).and_then(|i| elements.get(i)) {
                        Some(&(id, ty)) => Ok(Register { id, ty }),
                        None => self.error(format!("unknown register `{name}.{component}`")),
                    }
                }
                _ => self.error(format!("expected a register, found `{name}.{component}`")),
            },
            other => self.error(format!("expected a register, found {other:?}")),
        }
    }

    /// The elements of `{a, b}` or of a vector register; a scalar is one element.
    pub(crate) fn elements(&mut self, operand: &Operand<'a>) -> Vec<Operand<'a>> {
        match operand {
            Operand::Vector(items) => items.clone(),
            Operand::Name(name) => match self.lookup(name) {
                Some(Symbol::Vector(elements)) => ["x", "y", "z", "w"][..elements.len().min(4)]
                    .iter()
                    .map(|component| Operand::Component(name, component))
                    .collect(),
                _ => vec![operand.clone()],
            },
            _ => vec![operand.clone()],
        }
    }

    /// Where a variable is, by name.
    pub(crate) fn place(&mut self, name: &'a str) -> Option<Place> {
        if let Some(Symbol::Address(place)) = self.lookup(name) {
            return Some(place);
        }
        match *self.module.variables.get(name)? {
            ModuleVariable::Placed(address) => Some(Place::Global(address)),
            ModuleVariable::DynamicShared { align } => {
                self.kernel.dynamic_align = self.kernel.dynamic_align.max(align);
                Some(Place::DynamicShared)
            }
            ModuleVariable::Shared { bytes, align } => {
                if let Some(offset) = self.kernel.shared.get(name) {
                    return Some(Place::Shared(*offset));
                }
                let offset = self.kernel.place(u64::from(bytes), align)?;
                self.kernel.shared.insert(name, offset);
                Some(Place::Shared(offset))
            }
        }
    }

    /// The address of a function, as a value.
    pub(crate) fn function_address(&self, name: &str) -> Option<u64> {
        self.module
            .functions
            .get(name)
            .map(|&index| FUNCTION_BASE + u64::from(index) * 16)
    }

    /// An address operand: slot, offset, whether the slot has 64 bits.
    pub(crate) fn address(&mut self, operand: &Operand<'a>) -> Result<(u32, i64, bool)> {
        let (base, offset) = match operand {
            Operand::Address { base, offset } => (*base, *offset),
            other => return self.error(format!("expected an address, found {other:?}")),
        };
        let Some(name) = base else {
            return Ok((self.constant(0, Width::Double), offset, true));
        };
        match self.lookup(name) {
            Some(Symbol::Register { id, ty }) => match ty.width() {
                Width::Double => Ok((id, offset, true)),
                Width::Word => Ok((id, offset, false)),
                _ => self.error(format!("`{name}` cannot hold an address")),
            },
            _ => match self.place(name) {
                Some(Place::Global(address)) => {
                    Ok((self.constant(address, Width::Double), offset, true))
                }
                Some(Place::Shared(at)) => {
                    Ok((self.constant(u64::from(at), Width::Word), offset, false))
                }
                Some(Place::DynamicShared) => Ok((
                    self.special(Special::DynamicShared, Width::Word),
                    offset,
                    false,
                )),
                Some(Place::Frame(at, _)) => Ok((
                    self.special(Special::FrameBase, Width::Double),
                    offset + i64::from(at),
                    true,
                )),
                Some(Place::KernelParam(at)) => Ok((
                    self.constant(0, Width::Double),
                    offset + i64::from(at),
                    true,
                )),
                None => self.error(format!("unknown variable `{name}`")),
            },
        }
    }

    /// The space that a variable named in an address lives in, where one is named.
    pub(crate) fn address_space(&mut self, operand: &Operand<'a>) -> Option<MemSpace> {
        let Operand::Address {
            base: Some(name), ..
        } = operand
        else {
            return None;
        };
        if matches!(self.lookup(name), Some(Symbol::Register { .. })) {
            return None;
        }
        Some(match self.place(name)? {
            Place::Global(_) => MemSpace::Global,
            Place::Shared(_) | Place::DynamicShared => MemSpace::Shared,
            Place::Frame(..) => MemSpace::Local,
            Place::KernelParam(_) => MemSpace::Param,
        })
    }

    /// Whether `param` space means the kernel's parameter block here.
    pub(crate) fn is_entry(&self) -> bool {
        self.entry
    }

    /// Emits an instruction with the current guard; fields are filled in by the caller.
    pub(crate) fn emit(&mut self, op: Op) -> &mut Inst {
        self.out
            .lines
            .push((self.line, self.loc.file, self.loc.line));
        self.out.code.push(Inst {
            op,
            guard: self.guard,
            dst: NONE,
            a: NONE,
            b: NONE,
            c: NONE,
            d: NONE,
            imm: 0,
        });
        let last = self.out.code.len() - 1;
        &mut self.out.code[last]
    }

    /// Emits `dst ← op(sources)`.
    pub(crate) fn emit_to(&mut self, op: Op, dst: u32, sources: &[u32]) {
        let get = |i: usize| sources.get(i).copied().unwrap_or(NONE);
        let inst = self.emit(op);
        (inst.dst, inst.a, inst.b, inst.c, inst.d) = (dst, get(0), get(1), get(2), get(3));
    }

    /// Stores an operand list and returns its start.
    pub(crate) fn list(&mut self, items: &[u32]) -> u32 {
        let start = self.out.lists.len() as u32;
        self.out.lists.extend_from_slice(items);
        start
    }

    pub(crate) fn unknown<T>(&self, instruction: &ast::Instruction<'a>) -> Result<T> {
        self.error(format!(
            "unknown instruction `{}`",
            instruction.opcode.join(".")
        ))
    }

    /// Checks the number of operands.
    pub(crate) fn arity(
        &self,
        instruction: &ast::Instruction<'a>,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<()> {
        let found = instruction.operands.len();
        if range.contains(&found) {
            return Ok(());
        }
        self.error(format!(
            "`{}` takes {} operands, found {found}",
            instruction.opcode.join("."),
            if range.start() == range.end() {
                format!("{}", range.start())
            } else {
                format!("{} to {}", range.start(), range.end())
            }
        ))
    }

    /// Control flow.
    pub(crate) fn branch(&mut self, instruction: &ast::Instruction<'a>) -> Result<()> {
        let target = match instruction.operands.as_slice() {
            [Operand::Name(name)] => match self.find_label(name) {
                Some(target) => target,
                None => return self.error(format!("unknown label `{name}`")),
            },
            _ => return self.error("`bra` takes one label"),
        };
        self.emit(Op::Branch).imm = i64::from(target);
        let guard = std::mem::replace(&mut self.guard, ALWAYS);
        if guard != ALWAYS {
            self.emit(Op::Join);
        }
        Ok(())
    }

    /// `brx.idx index, targets`
    pub(crate) fn branch_table(&mut self, instruction: &ast::Instruction<'a>) -> Result<()> {
        let [index, Operand::Name(name)] = instruction.operands.as_slice() else {
            return self.error("`brx.idx` takes an index and a list of targets");
        };
        let index = self.source(index, Type::U32)?;
        let Some(Symbol::Targets(targets)) = self.lookup(name) else {
            return self.error(format!("unknown list of targets `{name}`"));
        };
        let (start, count) = (self.list(&targets), targets.len() as u32);
        let inst = self.emit(Op::BranchTable);
        (inst.a, inst.b, inst.d) = (index, count, start);
        self.guard = ALWAYS;
        self.emit(Op::Join);
        Ok(())
    }

    /// `call (results), callee, (arguments), prototype`
    pub(crate) fn call(&mut self, instruction: &ast::Instruction<'a>) -> Result<()> {
        let mut operands = instruction.operands.iter().peekable();
        let empty = Vec::new();
        let results = match operands.peek() {
            Some(Operand::List(items)) => {
                operands.next();
                items
            }
            _ => &empty,
        };
        let Some(Operand::Name(callee)) = operands.next() else {
            return self.error("`call` needs a function");
        };
        let arguments = match operands.next() {
            Some(Operand::List(items)) => items,
            _ => &empty,
        };
        let results = self.call_places(results)?;
        let arguments = self.call_places(arguments)?;
        let callee = match *callee {
            "vprintf" => Callee::Printf,
            "__assertfail" => Callee::AssertFail,
            "malloc" => Callee::Malloc,
            "free" => Callee::Free,
            name => match self.module.functions.get(name) {
                Some(&index) if self.module.ast[index as usize].body.is_some() => {
                    Callee::Function(self.kernel.function(index))
                }
                Some(_) => {
                    return self.error(format!("function `{name}` is declared but not defined"));
                }
                None => {
                    self.kernel.indirect = true;
                    let register = self.register(name)?;
                    if register.ty.width() != Width::Double {
                        return self.error(format!("`{name}` cannot hold a function's address"));
                    }
                    Callee::Indirect(register.id)
                }
            },
        };
        let needs = match callee {
            Callee::Printf => 2,
            Callee::AssertFail => 3,
            Callee::Malloc | Callee::Free => 1,
            _ => 0,
        };
        if arguments.len() < needs {
            return self.error(format!("the function takes {needs} arguments"));
        }
        self.out.calls.push(CallSite {
            callee,
            arguments,
            results,
        });
        let site = self.out.calls.len() as i64 - 1;
        // A guarded call is a branch around it, so that callers and others meet again.
        let guard = std::mem::replace(&mut self.guard, ALWAYS);
        if guard == ALWAYS {
            self.emit(Op::Call).imm = site;
            return Ok(());
        }
        let skip = self.label_at.len() as u32;
        self.label_at.push(None);
        self.guard = guard ^ 1;
        self.emit(Op::Branch).imm = i64::from(skip);
        self.guard = ALWAYS;
        self.emit(Op::Join);
        self.emit(Op::Call).imm = site;
        self.label_at[skip as usize] = Some(self.out.code.len() as u32);
        self.emit(Op::Join);
        Ok(())
    }

    fn call_places(&mut self, operands: &[Operand<'a>]) -> Result<Vec<(u32, u32)>> {
        let mut places = Vec::with_capacity(operands.len());
        for operand in operands {
            let place = match operand {
                Operand::Name(name) => self.place(name),
                _ => None,
            };
            match place {
                Some(Place::Frame(offset, bytes)) => places.push((offset, bytes)),
                _ => {
                    return self.error(format!(
                        "expected a `.param` variable of this function, found {operand:?}"
                    ));
                }
            }
        }
        Ok(places)
    }

    /// Resolves labels, finds where paths meet again, drops what isn't needed.
    fn finish(mut self) -> Result<Function> {
        let mut at = Vec::with_capacity(self.label_at.len());
        for label in &self.label_at {
            match label {
                Some(index) => at.push(*index),
                None => return self.error("a label is never placed"),
            }
        }
        for inst in &mut self.out.code {
            if inst.op == Op::Branch {
                inst.imm = i64::from(at[inst.imm as usize]);
            }
        }
        let tables: Vec<(u32, u32)> = self
            .out
            .code
            .iter()
            .filter(|inst| inst.op == Op::BranchTable)
            .map(|inst| (inst.d, inst.b))
            .collect();
        for (start, count) in tables {
            for target in &mut self.out.lists[start as usize..(start + count) as usize] {
                *target = at[*target as usize];
            }
        }
        super::flow::reconverge(&mut self.out);
        self.out.pressure = super::pressure::estimate(&self.out);
        Ok(self.out)
    }

    pub(crate) fn no_modifiers(&self, rest: &[&str], known: &[&str]) -> Result<()> {
        match rest.iter().find(|word| !known.contains(word)) {
            Some(word) => self.error(format!("unknown modifier `.{word}`")),
            None => Ok(()),
        }
    }
}

/// The words of an opcode after the first, sorted into modifiers, types and the rest.
pub(crate) struct Words<'a> {
    pub(crate) mode: Mode,
    pub(crate) types: Vec<Type>,
    pub(crate) rest: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn of(words: &[&'a str]) -> Words<'a> {
        let mut sorted = Words {
            mode: Mode::PLAIN,
            types: Vec::new(),
            rest: Vec::new(),
        };
        for word in words {
            if let Some(ty) = Type::parse(word) {
                sorted.types.push(ty);
            } else if !sorted.mode.accept(word) {
                sorted.rest.push(word);
            }
        }
        sorted
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.rest.contains(&word)
    }
}

fn component_index(component: &str) -> Option<usize> {
    match component {
        "x" | "r" => Some(0),
        "y" | "g" => Some(1),
        "z" | "b" => Some(2),
        "w" | "a" => Some(3),
        _ => None,
    }
}

fn special_register(name: &str, component: Option<&str>) -> Option<Special> {
    let name = name.strip_prefix('%')?;
    if let Some(component) = component {
        let axis = component_index(component)? as u8;
        return Some(match name {
            "tid" => Special::Tid(axis),
            "ntid" => Special::Ntid(axis),
            "ctaid" => Special::Ctaid(axis),
            "nctaid" => Special::Nctaid(axis),
            "clusterid" => Special::ClusterId(axis),
            "nclusterid" => Special::NclusterId(axis),
            "cluster_ctaid" => Special::ClusterCtaid(axis),
            "cluster_nctaid" => Special::ClusterNctaid(axis),
            _ => return None,
        });
    }
    if let Some(number) = name.strip_prefix("envreg") {
        return number.parse().ok().filter(|n| *n < 32).map(Special::EnvReg);
    }
    Some(match name {
        "laneid" => Special::LaneId,
        "warpid" => Special::WarpId,
        "nwarpid" => Special::NwarpId,
        "smid" => Special::SmId,
        "nsmid" => Special::NsmId,
        "gridid" => Special::GridId,
        "lanemask_eq" => Special::LaneMaskEq,
        "lanemask_lt" => Special::LaneMaskLt,
        "lanemask_le" => Special::LaneMaskLe,
        "lanemask_gt" => Special::LaneMaskGt,
        "lanemask_ge" => Special::LaneMaskGe,
        "dynamic_smem_size" => Special::DynamicSharedSize,
        "total_smem_size" | "aggr_smem_size" => Special::TotalShared,
        "cluster_ctarank" => Special::ClusterCtaRank,
        "cluster_nctarank" => Special::ClusterNctaRank,
        "is_explicit_cluster" => Special::IsExplicitCluster,
        _ => return None,
    })
}
