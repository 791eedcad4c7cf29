//! Instruction classes and floating-point operations, from how often each instruction ran.

use crate::lower::inst::{AtomOp, FloatOp, IntOp, MmaShape, Op};
use crate::lower::types::Type;

/// What kind of instruction it is, as Nsight Compute divides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Integer arithmetic and comparisons.
    Integer,
    /// Arithmetic of 32-bit floats.
    Fp32,
    /// Arithmetic of 64-bit floats.
    Fp64,
    /// Arithmetic of 16-bit floats, packed or not.
    Fp16,
    /// Conversions between types.
    Conversion,
    /// Logic, shifts, bit fields, predicates.
    Bit,
    /// Branches, calls, returns, exits.
    Control,
    /// Loads, stores, atomics, asynchronous copies, address conversions.
    Memory,
    /// Shuffles, votes, matches, warp reductions.
    Communication,
    /// Matrix products and the moves of their fragments between lanes.
    Matrix,
    /// Barriers and fences.
    Synchronisation,
    /// Moves, selections, clocks.
    Other,
}

impl Class {
    /// Every class, in the order of their numbers.
    pub const ALL: [Class; 12] = [
        Class::Integer,
        Class::Fp32,
        Class::Fp64,
        Class::Fp16,
        Class::Conversion,
        Class::Bit,
        Class::Control,
        Class::Memory,
        Class::Communication,
        Class::Matrix,
        Class::Synchronisation,
        Class::Other,
    ];

    /// The metric that counts thread instructions of the class.
    pub fn metric(self) -> &'static str {
        match self {
            Class::Integer => "smsp__sass_thread_inst_executed_op_integer_pred_on.sum",
            Class::Fp32 => "smsp__sass_thread_inst_executed_op_fp32_pred_on.sum",
            Class::Fp64 => "smsp__sass_thread_inst_executed_op_fp64_pred_on.sum",
            Class::Fp16 => "smsp__sass_thread_inst_executed_op_fp16_pred_on.sum",
            Class::Conversion => "smsp__sass_thread_inst_executed_op_conversion_pred_on.sum",
            Class::Bit => "smsp__sass_thread_inst_executed_op_bit_pred_on.sum",
            Class::Control => "smsp__sass_thread_inst_executed_op_control_pred_on.sum",
            Class::Memory => "smsp__sass_thread_inst_executed_op_memory_pred_on.sum",
            Class::Communication => {
                "smsp__sass_thread_inst_executed_op_inter_thread_communication_pred_on.sum"
            }
            Class::Matrix => "thread_inst_executed_op_matrix",
            Class::Synchronisation => "thread_inst_executed_op_synchronisation",
            Class::Other => "smsp__sass_thread_inst_executed_op_misc_pred_on.sum",
        }
    }

    pub(super) fn of(op: &Op) -> Class {
        match op {
            Op::Int(op, _) => Class::of_integer(*op),
            Op::Carry(..) => Class::Integer,
            Op::F32(..) | Op::Testp(_, Type::F32) => Class::Fp32,
            Op::F64(..) | Op::Testp(_, Type::F64) => Class::Fp64,
            Op::Half(..) | Op::Mixed(..) | Op::Testp(..) => Class::Fp16,
            Op::Convert { .. } => Class::Conversion,
            Op::Setp(_, ty, ..) | Op::Set(_, ty, ..) => match ty {
                Type::F32 | Type::TF32 => Class::Fp32,
                Type::F64 => Class::Fp64,
                ty if ty.half() => Class::Fp16,
                _ => Class::Integer,
            },
            Op::PredBool(_) => Class::Bit,
            Op::Branch | Op::BranchTable | Op::Join | Op::Call | Op::Ret | Op::Exit | Op::Trap => {
                Class::Control
            }
            Op::Load(_)
            | Op::Store(_)
            | Op::Atom(..)
            | Op::CpAsync { .. }
            | Op::CpAsyncCommit
            | Op::CpAsyncWait
            | Op::CpAsyncMbarrier { .. }
            | Op::CpBulk { .. }
            | Op::Cvta { .. }
            | Op::IsSpace { .. }
            | Op::Mapa { .. } => Class::Memory,
            Op::Shuffle(_)
            | Op::Vote(_)
            | Op::Match { .. }
            | Op::Redux(..)
            | Op::ActiveMask
            | Op::Elect => Class::Communication,
            Op::LdMatrix { .. }
            | Op::StMatrix { .. }
            | Op::MovMatrix
            | Op::Mma(_)
            | Op::WmmaLoad(_)
            | Op::WmmaStore(_) => Class::Matrix,
            Op::Barrier { .. }
            | Op::ClusterArrive
            | Op::ClusterWait
            | Op::WarpSync
            | Op::Fence { .. }
            | Op::Mbarrier { .. } => Class::Synchronisation,
            _ => Class::Other,
        }
    }

    fn of_integer(op: IntOp) -> Class {
        use IntOp::*;
        match op {
            Popc | Clz | Brev | Bfind | BfindShift | Fns | Bfe | Bfi | SzextClamp | SzextWrap
            | BmskClamp | BmskWrap | And | Or | Xor | Not | Cnot | Lop3 | Shl | Shr
            | ShfLeftClamp | ShfLeftWrap | ShfRightClamp | ShfRightWrap | Prmt => Class::Bit,
            _ => Class::Integer,
        }
    }
}

/// Additions, multiplications and fused pairs of one type, as thread instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    /// Additions and subtractions.
    pub add: u64,
    /// Multiplications.
    pub mul: u64,
    /// Fused multiply-adds.
    pub fma: u64,
}

impl Arithmetic {
    fn add_all(&mut self, other: &Arithmetic) {
        self.add += other.add;
        self.mul += other.mul;
        self.fma += other.fma;
    }

    fn count(&mut self, op: FloatOp, threads: u64) {
        match op {
            FloatOp::Add | FloatOp::Sub => self.add += threads,
            FloatOp::Mul => self.mul += threads,
            FloatOp::Fma => self.fma += threads,
            _ => {}
        }
    }

    /// Operations; a fused pair is two.
    fn flops(&self) -> u64 {
        self.add + self.mul + 2 * self.fma
    }
}

/// Floating-point operations of a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floats {
    /// Of 32 bits.
    pub f32: Arithmetic,
    /// Of 64 bits.
    pub f64: Arithmetic,
    /// f16, a packed instruction counted once.
    pub f16: Arithmetic,
    /// Operations on f16, each half of a packed instruction counted.
    pub f16_flops: u64,
    /// Operations on bf16, likewise.
    pub bf16_flops: u64,
    /// Reciprocals, roots, sines, logarithms, …: what the special function unit does.
    pub special: u64,
    /// Matrix products, as warp instructions.
    pub products: u64,
    /// Operations of matrix products of f16.
    pub tensor_f16: u64,
    /// Operations of matrix products of bf16.
    pub tensor_bf16: u64,
    /// Operations of matrix products of tf32.
    pub tensor_tf32: u64,
    /// Operations of matrix products of other types.
    pub tensor_other: u64,
}

impl Floats {
    /// One matrix product of a warp.
    pub(super) fn product(&mut self, shape: MmaShape) {
        let flops = 2 * u64::from(shape.m) * u64::from(shape.n) * u64::from(shape.k);
        self.products += 1;
        match shape.input {
            Type::F16 | Type::F16x2 => self.tensor_f16 += flops,
            Type::BF16 | Type::BF16x2 => self.tensor_bf16 += flops,
            Type::TF32 => self.tensor_tf32 += flops,
            _ => self.tensor_other += flops,
        }
    }

    /// `threads` threads ran one instruction.
    pub(super) fn instruction(&mut self, op: &Op, threads: u64) {
        let (op, ty) = match *op {
            Op::F32(op, _) => (op, Type::F32),
            Op::F64(op, _) => (op, Type::F64),
            Op::Half(op, ty, _) => (op, ty),
            // An f32 operation that takes a narrower operand.
            Op::Mixed(op, ..) => (op, Type::F32),
            Op::Atom(AtomOp::Add, access) if access.ty.float() => (FloatOp::Add, access.ty),
            _ => return,
        };
        let mut one = Arithmetic::default();
        one.count(op, threads);
        match ty {
            Type::F32 => self.f32.add_all(&one),
            Type::F64 => self.f64.add_all(&one),
            Type::F16 | Type::F16x2 => {
                self.f16.add_all(&one);
                self.f16_flops += one.flops() * if ty == Type::F16x2 { 2 } else { 1 };
            }
            _ => self.bf16_flops += one.flops() * if ty == Type::BF16x2 { 2 } else { 1 },
        }
        use FloatOp::*;
        if matches!(op, Rcp | Sqrt | Rsqrt | Sin | Cos | Lg2 | Ex2 | Tanh | Div) {
            self.special += threads;
        }
    }

    pub(super) fn add(&mut self, other: &Floats) {
        self.f32.add_all(&other.f32);
        self.f64.add_all(&other.f64);
        self.f16.add_all(&other.f16);
        self.f16_flops += other.f16_flops;
        self.bf16_flops += other.bf16_flops;
        self.special += other.special;
        self.products += other.products;
        self.tensor_f16 += other.tensor_f16;
        self.tensor_bf16 += other.tensor_bf16;
        self.tensor_tf32 += other.tensor_tf32;
        self.tensor_other += other.tensor_other;
    }

    /// All operations, of every type.
    pub fn flops(&self) -> u64 {
        self.f32.flops()
            + self.f64.flops()
            + self.f16_flops
            + self.bf16_flops
            + self.tensor_f16
            + self.tensor_bf16
            + self.tensor_tf32
            + self.tensor_other
    }

    pub(super) fn metrics(&self) -> [(&'static str, f64); 20] {
        [
            (
                "smsp__sass_thread_inst_executed_op_fadd_pred_on.sum",
                self.f32.add as f64,
            ),
            (
                "smsp__sass_thread_inst_executed_op_fmul_pred_on.sum",
                self.f32.mul as f64,
            ),
            (
                "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum",
                self.f32.fma as f64,
            ),
            (
                "smsp__sass_thread_inst_executed_op_dadd_pred_on.sum",
                self.f64.add as f64,
            ),
            (
                "smsp__sass_thread_inst_executed_op_dmul_pred_on.sum",
                self.f64.mul as f64,
            ),
            (
                "smsp__sass_thread_inst_executed_op_dfma_pred_on.sum",
                self.f64.fma as f64,
            ),
            (
                "smsp__sass_thread_inst_executed_op_hadd_pred_on.sum",
                self.f16.add as f64,
            ),
            (
                "smsp__sass_thread_inst_executed_op_hmul_pred_on.sum",
                self.f16.mul as f64,
            ),
            (
                "smsp__sass_thread_inst_executed_op_hfma_pred_on.sum",
                self.f16.fma as f64,
            ),
            ("thread_inst_executed_special", self.special as f64),
            ("sm__inst_executed_pipe_tensor.sum", self.products as f64),
            ("flops_f32", self.f32.flops() as f64),
            ("flops_f64", self.f64.flops() as f64),
            ("flops_f16", self.f16_flops as f64),
            ("flops_bf16", self.bf16_flops as f64),
            ("flops_tensor_f16", self.tensor_f16 as f64),
            ("flops_tensor_bf16", self.tensor_bf16 as f64),
            ("flops_tensor_tf32", self.tensor_tf32 as f64),
            ("flops_tensor_other", self.tensor_other as f64),
            ("flops", self.flops() as f64),
        ]
    }
}
