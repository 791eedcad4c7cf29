//! The register form: a flat array of instructions over numbered slots.
//!
//! A slot is one 32-bit value for each of the 32 lanes; a 64-bit register takes two. Constants and special
//! registers are slots too, filled before the function runs, so an operand is always just a slot.
//! Predicates are 32-bit lane masks in an array of their own; predicate 0 is true in every lane, which
//! makes "no guard" an ordinary guard, and predicate 1 is the carry flag.

use super::types::{Mode, Type, Width};

/// An operand's slot that isn't there: a `_` sink.
pub const NONE: u32 = u32::MAX;
/// The predicate that is true in every lane, as a guard or source operand.
pub const ALWAYS: u32 = 0;
/// Number of the carry flag among the predicates.
pub const CARRY: u32 = 1;

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub struct Inst {
    /// What to do.
    pub op: Op,
    /// Guard: predicate number × 2, plus 1 where negated.
    pub guard: u32,
    /// Destination slot or predicate number.
    pub dst: u32,
    /// First source slot.
    pub a: u32,
    /// Second source slot.
    pub b: u32,
    /// Third source slot, or a predicate source (number × 2 + negated).
    pub c: u32,
    /// Fourth source, second destination, or the start of a list in [`Function::lists`].
    pub d: u32,
    /// Offset of an address, target of a branch, an index: what `op` says.
    pub imm: i64,
}

/// Integer operations; types are given beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum IntOp {
    Add,
    AddSat,
    Sub,
    SubSat,
    Mul,
    MulHi,
    MulWide,
    Mad,
    MadHi,
    MadHiSat,
    MadWide,
    Mul24,
    Mul24Hi,
    Mad24,
    Mad24Hi,
    Mad24HiSat,
    Sad,
    Div,
    Rem,
    Abs,
    Neg,
    Min,
    Max,
    MinRelu,
    MaxRelu,
    Popc,
    Clz,
    Brev,
    Bfind,
    BfindShift,
    Fns,
    Bfe,
    Bfi,
    SzextClamp,
    SzextWrap,
    BmskClamp,
    BmskWrap,
    Dp4a,
    Dp2aLo,
    Dp2aHi,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Lop3,
    Shl,
    Shr,
    ShfLeftClamp,
    ShfLeftWrap,
    ShfRightClamp,
    ShfRightWrap,
    Prmt,
    Slct,
    /// Two or four parts of a word; what to do is in the instruction's immediate.
    Video,
}

/// Operations of carry chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarryOp {
    /// Reads the carry flag.
    pub take: bool,
    /// Writes the carry flag.
    pub give: bool,
    /// Subtracts rather than adds.
    pub subtract: bool,
    /// Multiplies the first two sources before adding the third: low half, high half, or no.
    pub multiply: Option<bool>,
}

/// Floating-point operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FloatOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Abs,
    Neg,
    Min,
    Max,
    Min3,
    Max3,
    Rcp,
    Sqrt,
    Rsqrt,
    Sin,
    Cos,
    Lg2,
    Ex2,
    Tanh,
    Copysign,
}

/// Comparisons; the `u` forms are also true where an operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// What `setp` does with its predicate source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

/// Classes that `testp` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FloatClass {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// The state space of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MemSpace {
    /// Decided by the address.
    Generic,
    /// Device memory; constants live there too.
    Global,
    Shared,
    Local,
    /// A kernel's parameter block.
    Param,
}

/// How a memory access takes part in ordering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Order {
    /// `.volatile`, `.relaxed`, `.acquire`, `.release`, or an atomic: never a data race by itself.
    pub strong: bool,
    /// What came before another block's release is visible after this.
    pub acquire: bool,
    /// What this block did before is visible to whoever acquires.
    pub release: bool,
    /// Reaches past the block (`.gpu`, `.sys`, `.cluster`).
    pub wide: bool,
}

/// A load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where.
    pub space: MemSpace,
    /// Type of an element.
    pub ty: Type,
    /// Elements: 1, 2, 4 or 8.
    pub count: u8,
    /// How the registers are held.
    pub width: Width,
    /// The address register has 64 bits.
    pub wide_address: bool,
    /// Ordering.
    pub order: Order,
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AtomOp {
    Add,
    Inc,
    Dec,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

/// `shfl` modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `vote` modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// What a barrier does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierOp {
    /// Arrive and wait.
    Sync,
    /// Arrive only.
    Arrive,
    /// Arrive, wait, count the threads whose predicate is true.
    Popc,
    /// Arrive, wait, and.
    And,
    /// Arrive, wait, or.
    Or,
}

/// Operations on an `mbarrier` object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MbarrierOp {
    Init,
    Inval,
    Arrive,
    ArriveDrop,
    ArriveExpectTx,
    ExpectTx,
    CompleteTx,
    /// Wait for the phase of a state token.
    TestWait,
    /// Wait for the phase of a parity.
    TestWaitParity,
    PendingCount,
}

/// Special registers whose value is fixed while a block runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    GridId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    EnvReg(u8),
    /// Where dynamic shared memory starts.
    DynamicShared,
    DynamicSharedSize,
    TotalShared,
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtaRank,
    ClusterNctaRank,
    IsExplicitCluster,
    /// Start of the function's frame in local memory.
    FrameBase,
}

impl Special {
    /// Whether lanes of a warp have different values.
    pub fn differs_by_lane(self) -> bool {
        matches!(
            self,
            Special::Tid(_)
                | Special::LaneId
                | Special::LaneMaskEq
                | Special::LaneMaskLt
                | Special::LaneMaskLe
                | Special::LaneMaskGt
                | Special::LaneMaskGe
        )
    }
}

/// Registers that change as a warp runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Clock {
    Clock,
    ClockHi,
    Clock64,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
}

/// A matrix element type of `mma` and `wmma`.
pub type MatrixType = Type;

/// A matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmaShape {
    /// Rows of A and D.
    pub m: u8,
    /// Columns of B and D.
    pub n: u8,
    /// Columns of A, rows of B.
    pub k: u8,
    /// Type of A and B.
    pub input: MatrixType,
    /// Type of B where it differs (integer signedness).
    pub input_b: MatrixType,
    /// Type of C.
    pub c: MatrixType,
    /// Type of D.
    pub d: MatrixType,
    /// A `wmma` instruction: the layout of fragments is this machine's own.
    pub wmma: bool,
    /// `.satfinite` of integer products.
    pub sat: bool,
}

/// A `wmma` load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WmmaAccess {
    /// 0: A, 1: B, 2: C or D.
    pub operand: u8,
    /// The memory holds columns one after the other.
    pub column_major: bool,
    /// Shape.
    pub m: u8,
    /// Shape.
    pub n: u8,
    /// Shape.
    pub k: u8,
    /// Element type.
    pub ty: MatrixType,
    /// State space.
    pub space: MemSpace,
    /// The address register has 64 bits.
    pub wide_address: bool,
}

/// What an instruction does. Slots are in the fields of [`Inst`]; lists in [`Function::lists`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Op {
    /// `dst ← op(a, b, c, d)`
    Int(IntOp, Type),
    Carry(CarryOp, Type),
    /// `dst ← op(a, b, c)`
    F32(FloatOp, Mode),
    F64(FloatOp, Mode),
    Half(FloatOp, Type, Mode),
    /// `dst ← a + b·c`-like operations with operands of two types: `fma.rn.f32.bf16`.
    Mixed(FloatOp, Type, Mode),
    /// `dst ← a` as `to`; `b` is the second source of a packing conversion.
    Convert {
        to: Type,
        from: Type,
        to_width: Width,
        mode: Mode,
    },
    Mov(Width),
    /// `dst ← pack(list at d)`, `imm` elements of `bits` bits.
    Pack {
        bits: u8,
        to: Width,
    },
    /// `list at d ← parts of a`
    Unpack {
        bits: u8,
        from: Width,
    },
    /// `dst ← c ? a : b`
    Select(Width),
    /// Predicates `dst`, `d` ← `(a cmp b)`, its negation, each combined with predicate `c`.
    Setp(Compare, Type, BoolOp, bool),
    /// `dst ← (a cmp b) combined with c`, as all ones or 1.0.
    Set(Compare, Type, Type, BoolOp, bool),
    Testp(FloatClass, Type),
    /// Predicate `dst ← a op b`
    PredBool(BoolOp),
    /// Predicate `dst ← a`
    PredMov,
    /// `dst ← lane masks of a` is not PTX; `mov` of a predicate into a register isn't either.
    ReadClock(Clock),

    /// `dst` or list at `d` ← [a + imm]
    Load(Access),
    /// `dst` ← the kernel's parameters at `imm`, the same for all lanes
    LoadParam {
        ty: Type,
        width: Width,
    },
    /// [a + imm] ← b or list at `d`
    Store(Access),
    /// `dst` ← old of [a + imm]; sources b, c; `dst` may be [`NONE`].
    Atom(AtomOp, Access),
    /// Shared [a + imm] ← global [b + c's low bits]: `cp.async`; c: source size slot or NONE; d: bytes.
    CpAsync {
        wide_address: bool,
        bytes: u8,
    },
    CpAsyncCommit,
    /// Waits until at most `imm` groups are pending; −1: all, committed or not.
    CpAsyncWait,
    /// The mbarrier at [a + imm] counts this thread's earlier copies.
    CpAsyncMbarrier {
        noinc: bool,
        wide_address: bool,
    },
    /// Bulk copy shared [a] ← global [b], `c` bytes, counted by the mbarrier at [d].
    CpBulk {
        to_shared: bool,
        wide_address: bool,
    },
    /// Address windows: `dst ← a` made generic or specific.
    Cvta {
        space: MemSpace,
        to_generic: bool,
        wide: bool,
    },
    /// Predicate `dst ← a in space`
    IsSpace {
        space: MemSpace,
        wide: bool,
    },
    /// `dst` ← the address `a` in block `b` of the cluster
    Mapa {
        wide: bool,
    },
    /// `dst` ← the rank of the block whose shared memory `a` is in
    CtaRank {
        wide: bool,
    },
    Fence {
        wide: bool,
    },

    Mbarrier {
        op: MbarrierOp,
        wide_address: bool,
        space: MemSpace,
    },

    /// To `imm` where the guard holds; `d`: where the paths meet again, or [`NONE`].
    Branch,
    /// To entry `a` of the list at `d`, `b` entries; `c`: where the paths meet again.
    BranchTable,
    /// Paths that split earlier meet here.
    Join,
    /// Call number `imm` of [`Function::calls`].
    Call,
    Ret,
    Exit,
    Trap,
    Nop,
    /// Gives the other warps a turn.
    Yield,

    /// Barrier `a` (slot), thread count `b` (slot or NONE); predicate source `c`; result `dst`.
    Barrier {
        op: BarrierOp,
        aligned: bool,
    },
    ClusterArrive,
    ClusterWait,
    /// `*.sync` with member mask in slot `c`.
    WarpSync,
    /// `dst ← a` of the lane that b and d say; predicate `imm` (or −1) ← in range; mask in c.
    Shuffle(Shuffle),
    /// Predicate source a; mask in slot c (NONE: legacy, active lanes).
    Vote(Vote),
    /// a; mask c; `d`: predicate result of `match.all` or NONE.
    Match {
        all: bool,
        wide: bool,
    },
    /// a; mask c.
    Redux(AtomOp, Type, bool),
    ActiveMask,
    /// `dst` ← leader, predicate `d`; mask in c.
    Elect,

    /// `imm` matrices of 8×8 b16 from shared rows at a into the list at d.
    LdMatrix {
        transposed: bool,
        wide_address: bool,
        space: MemSpace,
    },
    StMatrix {
        transposed: bool,
        wide_address: bool,
        space: MemSpace,
    },
    MovMatrix,
    /// List at d: d, a, b, c registers; `a`, `b`, `c`, `dst` hold how many of each.
    Mma(MmaShape),
    /// List at d; address a + imm; stride slot b.
    WmmaLoad(WmmaAccess),
    WmmaStore(WmmaAccess),
}

/// What a call calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callee {
    /// A function of the same program.
    Function(u32),
    /// The function whose address is in the slot.
    Indirect(u32),
    /// `vprintf(format, arguments)`
    Printf,
    /// `__assertfail(…)`
    AssertFail,
    /// `malloc(bytes)`
    Malloc,
    /// `free(pointer)`
    Free,
}

/// A call site. Arguments and results are in the frames' local memory.
#[derive(Clone, Debug)]
pub struct CallSite {
    /// What is called.
    pub callee: Callee,
    /// Offset and size in the caller's frame of each argument.
    pub arguments: Vec<(u32, u32)>,
    /// Offset and size in the caller's frame of each result.
    pub results: Vec<(u32, u32)>,
}

/// A function in register form.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// The name.
    pub name: String,
    /// The instructions.
    pub code: Vec<Inst>,
    /// For each instruction: line of the PTX text, source file number and line (0 where unknown).
    pub lines: Vec<(u32, u32, u32)>,
    /// Operand lists.
    pub lists: Vec<u32>,
    /// Call sites.
    pub calls: Vec<CallSite>,
    /// Slots of a frame.
    pub slots: u32,
    /// Predicates of a frame.
    pub preds: u32,
    /// Constant slots: slot, value, how it is held.
    pub constants: Vec<(u32, u64, Width)>,
    /// Special-register slots, and whether they are 64 bits wide.
    pub specials: Vec<(u32, Special, Width)>,
    /// Bytes of a frame in local memory.
    pub frame_bytes: u32,
    /// Offset and size in the frame of each parameter.
    pub params: Vec<(u32, u32)>,
    /// Offset and size in the frame of each result.
    pub returns: Vec<(u32, u32)>,
    /// The widest set of 32-bit values that live at once.
    pub pressure: u32,
}
