//! Each op on a GPU (or on softcuda) against the same op on the CPU, one pass at a time.
//!
//! The CPU runs the four passes. Before every step of the op under test its whole state (arena,
//! moments, op weights, gradient) is copied to the device, the op's kernels run there on the same plan,
//! and what they leave is compared with what the CPU left: the buffers that the op says it writes, and
//! all moments, op weights and gradients, of which nothing else may have changed. So an op is tested
//! without the kernels of any other.
//!
//! In bf16 the CPU works on rounded buffers too: after each of its steps the arena is rounded, and the
//! statistics of what was written are taken again, of the rounded values. Else a maximum would be found at
//! another place, or a vanishing deviation be another one, and no bound would hold.
//!
//! The sums over an adjoint that an op stores (S₁, S₂ of `ops/adjoint.rs`) may cancel to any depth, and the
//! kernels sum what they stored, the CPU what it had before: they are held to the sum of their terms' absolute
//! values. So are the gradients of a separable convolution's weights (`ops/separable/terms.rs`).
//!
//! Run with `LD_LIBRARY_PATH=target/softcuda` where there is no GPU.

use super::cpu::Cpu;
use crate::autograd::plan::{Mode, Plan};
use crate::autograd::tape::Tape;
use crate::device::View;
use crate::device::cuda::{Buffer, Gpu, Program};
use crate::device::simd::padded;
use crate::ops::cuda::{DeviceOutcome, Encoder, Precision, Region, Regions, SmallBuffers};
use crate::ops::dropout::cuda::DeviceDraw;
use crate::ops::separable::{self, Separable};
use crate::ops::{
    ActivationId, Graph, Moments, NORM_EPSILON, Op, Outcome, ParameterId, Pass, Role, Scale,
};
use half::bf16;
use num_dual::Dual64;
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// A tape with everything its passes run on.
pub struct Case<'a> {
    /// The network.
    pub tape: &'a Tape,
    /// Images `[N, H, W, 3]`.
    pub images: &'a [f32],
    /// Labels `[N]`.
    pub labels: &'a [u32],
    /// θ
    pub theta: &'a [f32],
    /// The direction of the tangent passes.
    pub direction: &'a [f32],
}

/// Norm-wise relative errors allowed: of values, and of everything else.
fn tolerances(precision: Precision) -> [f64; 2] {
    match precision {
        Precision::F32 => [1e-5, 1e-4],
        Precision::Tf32 => [5e-3, 5e-3],
        Precision::Bf16 => [2e-2, 2e-2],
    }
}

/// Checks every op called `name` in all four passes.
///
/// # Errors
/// What differs: op, pass, buffer, by how much.
pub fn check(gpu: &Arc<Gpu>, case: &Case, name: &str, precision: Precision) -> Result<(), String> {
    let tape = case.tape;
    let mut cpu = Cpu::new(tape);
    cpu.load(case.images, case.labels);
    cpu.prepare(tape, Mode::Products);
    let mut gradient = vec![0.0f32; tape.theta_len()];
    let outcome = Mutex::new(Outcome::default());
    let plan = Plan::new(tape, Mode::Products);
    let round = |cpu: &Cpu, written: &[(ActivationId, Role)]| {
        if precision == Precision::Bf16 {
            round(cpu, tape, &plan, written);
        }
    };
    round(&cpu, &[]);
    let count = tape.ops.len();
    for pass in [
        Pass::Forward,
        Pass::Backward,
        Pass::Tangent,
        Pass::TangentBackward,
    ] {
        match pass {
            Pass::Backward => cpu.clear(tape, Role::Adjoint, Moments::AdjointSums),
            Pass::TangentBackward => {
                cpu.clear(tape, Role::AdjointTangent, Moments::AdjointSumsTangent);
            }
            Pass::Forward | Pass::Tangent => {}
        }
        for step in 0..count {
            let reversed = matches!(pass, Pass::Backward | Pass::TangentBackward);
            let i = if reversed { count - 1 - step } else { step };
            let before = (tape.ops[i].name() == name).then(|| State::of(&cpu, tape, &gradient));
            let written = cpu.written.clone();
            let view = View::of_mut(&mut gradient);
            cpu.step(tape, (pass, i), case.theta, case.direction, view, &outcome);
            round(&cpu, &tape.ops[i].uses(&tape.graph, pass).writes);
            if let Some(before) = before {
                let device = Device::new(gpu, case, &before, precision);
                let after = device
                    .and_then(|d| d.run(case, (pass, i), &written))
                    .map_err(|e| format!("{pass:?} of {name} (op {i}): {e:#}"))?;
                let expected = State::of(&cpu, tape, &gradient);
                let found = compare(case, (pass, i), &expected, &after, precision);
                found.map_err(|e| format!("{pass:?} of {name} (op {i}): {e}"))?;
                if pass == Pass::Forward && !after.logits.is_empty() && name == "classifier" {
                    let expected = *outcome.lock().unwrap();
                    if (after.outcome.loss - expected.loss).abs() > 1e-4 * expected.loss.abs()
                        || after.outcome.top1 as usize != expected.top1
                        || after.outcome.top5 as usize != expected.top5
                    {
                        let found = after.outcome;
                        return Err(format!("outcome: expected {expected:?}, found {found:?}"));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Rounds the arena to bf16, and takes the statistics (or their tangents) of what was `written` again.
fn round(cpu: &Cpu, tape: &Tape, plan: &Plan, written: &[(ActivationId, Role)]) {
    let arena = cpu.arena.view(0, plan.workspace).write();
    for x in arena.iter_mut() {
        *x = bf16::from_f32(*x).to_f32();
    }
    for &(id, role) in written {
        let activation = tape.graph.activation(id);
        if !activation.normalised || !matches!(role, Role::Value | Role::Tangent) {
            continue;
        }
        let (channels, step) = (activation.channels, padded(activation.channels));
        let pixels = tape.graph.batch * activation.height * activation.width;
        let (owner, first) = activation.slice_of.unwrap_or((id, 0));
        let stride = tape.graph.activation(owner).channels;
        let value = |role: Role, pixel: usize, c: usize| {
            f64::from(arena[plan.offsets[owner.0][role as usize] + pixel * stride + first + c])
        };
        let kind = |kind: Moments| {
            let from = cpu.moment_offsets[id.0] + kind as usize * 2 * step;
            cpu.moments.view(from, 2 * step).write()
        };
        let statistics = kind(Moments::Statistics);
        let mean_of = |f: &dyn Fn(usize) -> f64| (0..pixels).map(f).sum::<f64>() / pixels as f64;
        for c in 0..channels {
            if role == Role::Value {
                let mean = mean_of(&|pixel| value(role, pixel, c));
                let variance = mean_of(&|pixel| (value(role, pixel, c) - mean).powi(2));
                statistics[c] = mean as f32;
                statistics[step + c] = (1.0 / (variance + NORM_EPSILON).sqrt()) as f32;
            } else {
                let (mean, r) = (f64::from(statistics[c]), f64::from(statistics[step + c]));
                let normed = |pixel| (value(Role::Value, pixel, c) - mean) * r;
                let tangents = kind(Moments::StatisticsTangent);
                tangents[c] = mean_of(&|pixel| value(role, pixel, c)) as f32;
                tangents[step + c] = mean_of(&|pixel| normed(pixel) * value(role, pixel, c)) as f32;
            }
        }
    }
}

/// What an op may change.
struct State {
    arena: Vec<f32>,
    moments: Vec<f32>,
    weights: Vec<f32>,
    gradient: Vec<f32>,
    logits: Vec<f32>,
    outcome: DeviceOutcome,
}

impl State {
    /// The CPU's, in the device's layout.
    fn of(cpu: &Cpu, tape: &Tape, gradient: &[f32]) -> State {
        let small = SmallBuffers::new(&tape.graph);
        let mut moments = vec![0.0; 4 * small.moments_len];
        for (id, activation) in tape.graph.activations.iter().enumerate() {
            let len = 2 * padded(activation.channels);
            for kind in (0..4).filter(|_| activation.normalised) {
                let from = cpu.moments.view(cpu.moment_offsets[id] + kind * len, len);
                let to = kind * small.moments_len + small.moments[id];
                moments[to..to + len].copy_from_slice(from.read());
            }
        }
        let mut weights = vec![0.0; 4 * small.weights_len];
        for (id, &len) in tape.graph.weights.iter().enumerate() {
            for role in 0..4 {
                let from = cpu
                    .op_weights
                    .view(cpu.op_weight_offsets[id] + role * len, len);
                let to = role * small.weights_len + small.weights[id];
                weights[to..to + len].copy_from_slice(from.read());
            }
        }
        let plan = Plan::new(tape, Mode::Products);
        State {
            arena: cpu.arena.view(0, plan.workspace).read().to_vec(),
            moments,
            weights,
            gradient: gradient.to_vec(),
            logits: cpu.logits().to_vec(),
            outcome: DeviceOutcome::default(),
        }
    }
}

/// Device memory holding a state.
struct Device<'a> {
    gpu: &'a Arc<Gpu>,
    precision: Precision,
    plan: Plan,
    small: SmallBuffers,
    arena: Buffer,
    buffers: Vec<Buffer>,
}

const THETA: usize = 0;
const DIRECTION: usize = 1;
const GRADIENT: usize = 2;
const MOMENTS: usize = 3;
const WEIGHTS: usize = 4;
const LABELS: usize = 5;
const LOGITS: usize = 6;
const OUTCOME: usize = 7;
const DRAW: usize = 8;

impl<'a> Device<'a> {
    fn new(
        gpu: &'a Arc<Gpu>,
        case: &Case,
        state: &State,
        precision: Precision,
    ) -> anyhow::Result<Device<'a>> {
        let tape = case.tape;
        let arena = gpu.buffer(state.arena.len() * precision.bytes())?;
        match precision {
            Precision::F32 | Precision::Tf32 => gpu.write(arena.address(), &state.arena)?,
            Precision::Bf16 => {
                let narrow: Vec<bf16> = state.arena.iter().map(|&x| bf16::from_f32(x)).collect();
                gpu.write(arena.address(), &narrow)?;
            }
        }
        let floats = |values: &[f32]| -> anyhow::Result<Buffer> {
            let buffer = gpu.buffer(4 * values.len())?;
            gpu.write(buffer.address(), values)?;
            Ok(buffer)
        };
        let mut buffers = Vec::new();
        for values in [
            case.theta,
            case.direction,
            &state.gradient,
            &state.moments,
            &state.weights,
        ] {
            buffers.push(floats(values)?);
        }
        let labels = gpu.buffer(4 * case.labels.len())?;
        gpu.write(labels.address(), case.labels)?;
        buffers.push(labels);
        buffers.push(floats(&state.logits)?);
        buffers.push(gpu.buffer(size_of::<DeviceOutcome>())?);
        // Zeros: nothing is dropped.
        buffers.push(gpu.buffer(size_of::<DeviceDraw>())?);
        gpu.wait()?;
        Ok(Device {
            gpu,
            precision,
            plan: Plan::new(tape, Mode::Products),
            small: SmallBuffers::new(&tape.graph),
            arena,
            buffers,
        })
    }

    /// Runs one op and reads everything back.
    fn run(
        &self,
        case: &Case,
        (pass, i): (Pass, usize),
        written: &[bool],
    ) -> anyhow::Result<State> {
        let graph = &case.tape.graph;
        let one = |index: usize| self.buffers[index].address();
        let region = |base| Region { base, member: 0 };
        let encode = |workspace: u64, tickets: u64, constants: u64| {
            let regions = Regions {
                arena: region(self.arena.address()),
                theta: region(one(THETA)),
                direction: one(DIRECTION),
                gradient: one(GRADIENT),
                moments: region(one(MOMENTS)),
                weights: region(one(WEIGHTS)),
                workspace: region(workspace),
                tickets: region(tickets),
                labels: one(LABELS),
                logits: region(one(LOGITS)),
                outcome: one(OUTCOME),
                constants,
                draw: one(DRAW),
            };
            let layout = (self.plan.offsets.as_slice(), &self.small);
            let encoder = Encoder::new(graph, layout, regions, (self.precision, 1), "parity");
            let mut encoder = encoder.with_shared(self.gpu.shared_per_block());
            encoder.note_written(written);
            encoder.op(case.tape.ops[i].as_ref(), pass)?;
            anyhow::Ok(encoder.finish())
        };
        let (first, wants) = encode(0, 0, 0)?;
        let workspace = self.gpu.buffer(4 * wants.workspace)?;
        let tickets = self.gpu.buffer(4 * wants.tickets)?;
        let constants = self.gpu.buffer(first.constants.len())?;
        let addresses = (workspace.address(), tickets.address(), constants.address());
        let (recording, _) = encode(addresses.0, addresses.1, addresses.2)?;
        let mut program = Program::load(self.gpu, recording, Some(constants))?;
        program.replay(self.gpu)?;
        self.gpu.wait()?;
        let state = self.read(case)?;
        let mut left = vec![0u32; wants.tickets];
        self.gpu.read(tickets.address(), &mut left)?;
        anyhow::ensure!(left.iter().all(|&t| t == 0), "tickets are not zero again");
        Ok(state)
    }

    fn read(&self, case: &Case) -> anyhow::Result<State> {
        let floats = |index: usize, len: usize| -> anyhow::Result<Vec<f32>> {
            let mut values = vec![0.0f32; len];
            self.gpu.read(self.buffers[index].address(), &mut values)?;
            Ok(values)
        };
        let tape = case.tape;
        let mut arena = vec![0.0f32; self.plan.workspace];
        match self.precision {
            Precision::F32 | Precision::Tf32 => self.gpu.read(self.arena.address(), &mut arena)?,
            Precision::Bf16 => {
                let mut narrow = vec![bf16::ZERO; arena.len()];
                self.gpu.read(self.arena.address(), &mut narrow)?;
                for (to, from) in arena.iter_mut().zip(narrow) {
                    *to = from.to_f32();
                }
            }
        }
        let mut outcome = [DeviceOutcome::default()];
        self.gpu
            .read(self.buffers[OUTCOME].address(), &mut outcome)?;
        Ok(State {
            arena,
            moments: floats(MOMENTS, 4 * self.small.moments_len)?,
            weights: floats(WEIGHTS, 4 * self.small.weights_len)?,
            gradient: floats(GRADIENT, tape.theta_len())?,
            logits: floats(LOGITS, tape.graph.batch * tape.classes)?,
            outcome: outcome[0],
        })
    }
}

/// ‖found − expected‖ / ‖scale‖, where scale is `expected` unless something else is given.
fn error(expected: &[f32], found: &[f32], scale: &[f32]) -> f64 {
    let wide = |x: f32| f64::from(x);
    let pairs = || expected.iter().zip(found);
    let difference: f64 = pairs().map(|(&e, &f)| (wide(e) - wide(f)).powi(2)).sum();
    let scale: f64 = scale.iter().map(|&e| wide(e).powi(2)).sum();
    if difference == 0.0 {
        return 0.0;
    }
    (difference / scale).sqrt()
}

/// Σ |u| and Σ |u·x̂| of the adjoint of activation `id`, or Σ |u̇| and Σ |u̇·x̂| + |u·x̂˙| of its tangent:
/// what the terms of its sums amount to where they do not cancel.
fn terms_of_sums(
    tape: &Tape,
    plan: &Plan,
    small: &SmallBuffers,
    state: &State,
    (id, role): (usize, Role),
) -> Vec<f32> {
    let activation = &tape.graph.activations[id];
    let (owner, first) = activation.slice_of.unwrap_or((ActivationId(id), 0));
    let whole = tape.graph.activation(owner);
    let step = padded(activation.channels);
    let moment = |kind: Moments, row: usize, c: usize| {
        let at = kind as usize * small.moments_len + small.moments[id];
        f64::from(state.moments[at + row * step + c])
    };
    let at = |role: Role, pixel: usize, c: usize| {
        let from = plan.offsets[owner.0][role as usize];
        f64::from(state.arena[from + pixel * whole.channels + first + c])
    };
    let mut sums = vec![0.0f64; 2 * step];
    for pixel in 0..tape.graph.batch * whole.height * whole.width {
        for c in 0..activation.channels {
            let (mean, r) = (
                moment(Moments::Statistics, 0, c),
                moment(Moments::Statistics, 1, c),
            );
            let x = (at(Role::Value, pixel, c) - mean) * r;
            let u = at(role, pixel, c);
            sums[c] += u.abs();
            sums[step + c] += (u * x).abs();
            if role == Role::AdjointTangent {
                let [mean_dot, t] = [0, 1].map(|row| moment(Moments::StatisticsTangent, row, c));
                let x_dot = r * (at(Role::Tangent, pixel, c) - mean_dot - x * t);
                sums[step + c] += (at(Role::Adjoint, pixel, c) * x_dot).abs();
            }
        }
    }
    sums.into_iter().map(|x| x as f32).collect()
}

/// What an op's backward passes read, where the formulas may see it: everything as value and tangent.
pub(crate) struct Snapshot<'a> {
    case: &'a Case<'a>,
    plan: &'a Plan,
    small: &'a SmallBuffers,
    state: &'a State,
}

impl Snapshot<'_> {
    /// The shapes.
    pub(crate) fn graph(&self) -> &Graph {
        &self.case.tape.graph
    }

    /// Channel c of a pixel, in the two roles; the tangent of an input that has none is zero.
    pub(crate) fn activation(
        &self,
        id: ActivationId,
        roles: [Role; 2],
        pixel: usize,
        c: usize,
    ) -> Dual64 {
        let activation = self.graph().activation(id);
        let (owner, first) = activation.slice_of.unwrap_or((id, 0));
        let stride = self.graph().activation(owner).channels;
        let [x, dot] = roles.map(|role| {
            let from = self.plan.offsets[owner.0][role as usize];
            let at = from.saturating_add(pixel * stride + first + c);
            self.state.arena.get(at).map_or(0.0, |&x| f64::from(x))
        });
        Dual64::new(x, if activation.differentiable { dot } else { 0.0 })
    }

    /// Row 0 or 1 of an activation's moments at channel c.
    pub(crate) fn moment(&self, id: ActivationId, kind: Moments, row: usize, c: usize) -> f64 {
        let step = padded(self.graph().activation(id).channels);
        let at = kind as usize * self.small.moments_len + self.small.moments[id.0];
        f64::from(self.state.moments[at + row * step + c])
    }

    /// A source's factor at channel c.
    pub(crate) fn scale(&self, scale: Scale, c: usize) -> Dual64 {
        match scale {
            Scale::One => Dual64::new(1.0, 0.0),
            Scale::OpWeight(id, i) => {
                let [s, dot] = [Role::Value, Role::Tangent].map(|role| {
                    let at = role as usize * self.small.weights_len + self.small.weights[id.0];
                    f64::from(self.state.weights[at + i])
                });
                Dual64::new(s, dot)
            }
            Scale::Gain(id) => self.parameter(id)[c],
        }
    }

    /// A parameter, and its part of the direction.
    pub(crate) fn parameter(&self, id: ParameterId) -> Vec<Dual64> {
        let span = self.graph().parameters[id.0];
        let range = span.offset..span.offset + span.len;
        let pairs = range.map(|i| [self.case.theta[i], self.case.direction[i]].map(f64::from));
        pairs.map(|[x, dot]| Dual64::new(x, dot)).collect()
    }
}

/// Σ|terms| of the gradients that the op leaves in this pass, where its formulas know them.
fn gradient_terms(pass: Pass, op: &dyn Op, at: &Snapshot) -> HashMap<usize, Vec<f32>> {
    let op: &dyn Any = op;
    let part = match pass {
        Pass::Forward | Pass::Tangent => return HashMap::new(),
        Pass::Backward => |x: &Dual64| x.re as f32,
        Pass::TangentBackward => |x: &Dual64| x.eps as f32,
    };
    let op = op.downcast_ref::<Separable>();
    let found = op.map_or_else(Vec::new, |op| separable::terms::gradient_terms(op, at));
    let found = found.into_iter();
    found
        .map(|(id, terms)| (id.0, terms.iter().map(part).collect()))
        .collect()
}

fn compare(
    case: &Case,
    (pass, i): (Pass, usize),
    expected: &State,
    found: &State,
    precision: Precision,
) -> Result<(), String> {
    let tape = case.tape;
    let [values, others] = tolerances(precision);
    let tolerance = if pass == Pass::Forward {
        values
    } else {
        others
    };
    let judge_beside = |what: &str, expected: &[f32], found: &[f32], scale: &[f32]| {
        let error = error(expected, found, scale);
        if error <= tolerance {
            return Ok(());
        }
        let worst = expected.iter().zip(found).enumerate().max_by(|a, b| {
            let off = |(_, (e, f)): &(usize, (&f32, &f32))| (**e - **f).abs();
            off(a).total_cmp(&off(b))
        });
        Err(format!("{what} differs by {error:.2e}; most at {worst:?}"))
    };
    let judge =
        |what: &str, expected: &[f32], found: &[f32]| judge_beside(what, expected, found, expected);
    let plan = Plan::new(tape, Mode::Products);
    let writes = tape.ops[i].uses(&tape.graph, pass).writes;
    for &(id, role) in &writes {
        let activation = tape.graph.activation(id);
        let (owner, first) = activation.slice_of.unwrap_or((id, 0));
        let whole = tape.graph.activation(owner);
        let from = plan.offsets[owner.0][role as usize];
        let pixels = tape.graph.batch * whole.height * whole.width;
        let part = |arena: &[f32]| -> Vec<f32> {
            let rows = arena[from..from + pixels * whole.channels].chunks(whole.channels);
            rows.flat_map(|row| row[first..first + activation.channels].to_vec())
                .collect()
        };
        let what = format!("{role:?} of activation {}", id.0);
        judge(&what, &part(&expected.arena), &part(&found.arena))?;
    }
    let small = SmallBuffers::new(&tape.graph);
    for (id, activation) in tape.graph.activations.iter().enumerate() {
        for kind in [
            Moments::Statistics,
            Moments::AdjointSums,
            Moments::StatisticsTangent,
            Moments::AdjointSumsTangent,
        ] {
            if activation.normalised {
                let at = kind as usize * small.moments_len + small.moments[id];
                let range = at..at + 2 * padded(activation.channels);
                let what = format!("{kind:?} of activation {id}");
                let sums = [
                    (Moments::AdjointSums, Role::Adjoint),
                    (Moments::AdjointSumsTangent, Role::AdjointTangent),
                ];
                let stored = |of: &(Moments, Role)| {
                    kind as usize == of.0 as usize && writes.contains(&(ActivationId(id), of.1))
                };
                let moments = &expected.moments[range.clone()];
                let scale = match sums.iter().find(|of| stored(of)) {
                    Some(&(_, role)) => terms_of_sums(tape, &plan, &small, expected, (id, role)),
                    None => moments.to_vec(),
                };
                judge_beside(&what, moments, &found.moments[range], &scale)?;
            }
        }
    }
    for role in Role::ALL {
        let at = role as usize * small.weights_len;
        let range = at..at + small.weights_len;
        let what = format!("op weights, {role:?}");
        judge(
            &what,
            &expected.weights[range.clone()],
            &found.weights[range],
        )?;
    }
    let snapshot = Snapshot {
        case,
        plan: &plan,
        small: &small,
        state: expected,
    };
    let terms = gradient_terms(pass, tape.ops[i].as_ref(), &snapshot);
    for (id, span) in tape.graph.parameters.iter().enumerate() {
        let range = span.offset..span.offset + span.len;
        let what = format!("the gradient of parameter {id}");
        let gradient = &expected.gradient[range.clone()];
        let scale = terms.get(&id).map_or(gradient, Vec::as_slice);
        judge_beside(&what, gradient, &found.gradient[range], scale)?;
    }
    judge("logits", &expected.logits, &found.logits)
}
