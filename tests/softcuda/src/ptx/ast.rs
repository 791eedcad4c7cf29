//! The syntax tree of a PTX module. Every name borrows the module's text.

/// A module: header, variables and functions in order.
#[derive(Debug, Default)]
pub struct Module<'a> {
    /// `.version` as (major, minor).
    pub version: (u32, u32),
    /// `.target`, the words in order.
    pub target: Vec<&'a str>,
    /// `.file` entries: number and path.
    pub files: Vec<(u32, &'a str)>,
    /// Module-scope variables.
    pub variables: Vec<Variable<'a>>,
    /// Function declarations and definitions.
    pub functions: Vec<Function<'a>>,
    /// `.alias` pairs: alias and the function it stands for.
    pub aliases: Vec<(&'a str, &'a str)>,
}

/// A state space that a variable can be declared in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Registers.
    Register,
    /// Device memory.
    Global,
    /// Device memory, read-only to kernels.
    Constant,
    /// Memory of a block.
    Shared,
    /// Memory of a thread.
    Local,
    /// Parameters of a kernel or function.
    Param,
}

/// A variable, a register range, or a parameter.
#[derive(Clone, Debug)]
pub struct Variable<'a> {
    /// Where it lives.
    pub space: Space,
    /// Alignment in bytes, where stated.
    pub align: Option<u32>,
    /// Elements of a vector type: 1, 2 or 4.
    pub vector: u32,
    /// Element type as written, `b8`, `f32`, …
    pub ty: &'a str,
    /// The name; of a register range, the part before the number.
    pub name: &'a str,
    /// `%r<N>` declares N registers.
    pub range: Option<u32>,
    /// Array dimensions; `None` for an open one.
    pub dims: Vec<Option<u64>>,
    /// The initial value, flattened.
    pub init: Vec<Init<'a>>,
    /// Declared with `.extern`.
    pub external: bool,
    /// Line of the declaration.
    pub line: u32,
}

/// One element of an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub enum Init<'a> {
    /// An integer, two's complement.
    Int(u64),
    /// A single-precision literal's bits.
    F32(u32),
    /// A double-precision literal's bits.
    F64(u64),
    /// The address of a variable or function plus an offset; `generic` for a generic address; a byte
    /// of it where `mask` says which.
    Address {
        /// The symbol.
        name: &'a str,
        /// Added to its address.
        offset: i64,
        /// Shift to the byte that is stored, where the initialiser masks one out.
        mask_shift: Option<u32>,
    },
}

/// A function or kernel.
#[derive(Debug)]
pub struct Function<'a> {
    /// `.entry` rather than `.func`.
    pub entry: bool,
    /// The name.
    pub name: &'a str,
    /// Return parameters.
    pub returns: Vec<Variable<'a>>,
    /// Parameters.
    pub params: Vec<Variable<'a>>,
    /// Performance directives: name and numbers.
    pub directives: Vec<(&'a str, Vec<u64>)>,
    /// The body; `None` for a declaration.
    pub body: Option<Vec<Statement<'a>>>,
    /// Line of the name.
    pub line: u32,
}

/// A source position from `.loc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loc {
    /// Number of the `.file`.
    pub file: u32,
    /// Line in it.
    pub line: u32,
}

/// A statement of a body.
#[derive(Debug)]
pub enum Statement<'a> {
    /// `{ … }`: a scope of names.
    Block(Vec<Statement<'a>>),
    /// A declaration.
    Variable(Variable<'a>),
    /// `name:`
    Label(&'a str),
    /// `name: .branchtargets a, b;`
    BranchTargets(&'a str, Vec<&'a str>),
    /// `name: .callprototype …;`
    Prototype(&'a str, Prototype<'a>),
    /// `.loc`
    Loc(Loc),
    /// An instruction.
    Instruction(Instruction<'a>),
}

/// The signature of an indirect call.
#[derive(Clone, Debug)]
pub struct Prototype<'a> {
    /// Return parameters.
    pub returns: Vec<Variable<'a>>,
    /// Parameters.
    pub params: Vec<Variable<'a>>,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction<'a> {
    /// `@p` or `@!p`: the predicate and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    /// The opcode's words: `["ld", "global", "u32"]`.
    pub opcode: Vec<&'a str>,
    /// The operands in order.
    pub operands: Vec<Operand<'a>>,
    /// Line of the text.
    pub line: u32,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'a> {
    /// A register, variable, label or function.
    Name(&'a str),
    /// A component, as in `%tid.x`.
    Component(&'a str, &'a str),
    /// `!p`
    Not(&'a str),
    /// An integer, two's complement.
    Int(u64),
    /// A single-precision literal's bits.
    F32(u32),
    /// A double-precision literal's bits.
    F64(u64),
    /// `[base + offset]`
    Address {
        /// Register or variable; `None` for an absolute address.
        base: Option<&'a str>,
        /// Added to the base.
        offset: i64,
    },
    /// `{a, b, …}`
    Vector(Vec<Operand<'a>>),
    /// `p|q`
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `(a, b, …)` of a call.
    List(Vec<Operand<'a>>),
    /// `variable + offset` where an address is taken.
    Offset(&'a str, i64),
}
