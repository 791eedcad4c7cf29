//! The four passes on the CPU: op by op, over one arena a mode.

use super::active::Active;
use crate::autograd::plan::{Mode, Plan};
use crate::autograd::tape::Tape;
use crate::device::parallel::level_scratch;
use crate::device::simd::padded;
use crate::device::{Arena, View};
use crate::ops::dropout::Draw;
use crate::ops::{ActivationId, Context, Moments, Op, Outcome, Pass, Role};
use std::sync::Mutex;

/// A tape's memory on the host, and one batch.
pub(super) struct Cpu {
    plans: [Option<Plan>; 3],
    pub(super) arena: Arena,
    pub(super) moments: Arena,
    pub(super) moment_offsets: Vec<usize>,
    pub(super) op_weights: Arena,
    pub(super) op_weight_offsets: Vec<usize>,
    logits: Arena,
    images: Vec<f32>,
    labels: Vec<u32>,
    /// Activations whose adjoint each op writes, for `backward` and `tangent_backward`.
    writes: [Vec<Vec<ActivationId>>; 2],
    pub(super) written: Vec<bool>,
    /// `[factors, N]`, ones where none were set.
    factors: Vec<f32>,
    /// What dropout drops in the passes to come.
    dropout: Option<Draw>,
    /// Whether the pass in progress is inference, with these stated statistics.
    infers: bool,
    stated: Vec<f32>,
    /// The mode whose forward pass ran last.
    mode: Option<Mode>,
    /// The part that runs; none where all of it does.
    active: Option<Active>,
}

impl Cpu {
    /// Prepares for `tape`. Memory is planned and allocated when a mode first runs.
    pub fn new(tape: &Tape) -> Cpu {
        let (mut moments, mut moment_offsets) = (0, Vec::new());
        for activation in &tape.graph.activations {
            moment_offsets.push(moments);
            if activation.normalised {
                moments += 4 * 2 * padded(activation.channels);
            }
        }
        let (mut weights, mut op_weight_offsets) = (0, Vec::new());
        for &len in &tape.graph.weights {
            op_weight_offsets.push(weights);
            weights += 4 * len;
        }
        let writes = [Pass::Backward, Pass::TangentBackward].map(|pass| {
            let of = |op: &dyn Op| {
                op.uses(&tape.graph, pass)
                    .writes
                    .iter()
                    .map(|&(id, _)| id)
                    .collect()
            };
            tape.ops.iter().map(|op| of(op.as_ref())).collect()
        });
        let [height, width] = tape.size(tape.images);
        Cpu {
            images: vec![0.0; tape.graph.batch * height * width * 3],
            labels: vec![0; tape.graph.batch],
            logits: Arena::new(tape.classifiers * tape.graph.batch * tape.classes),
            factors: vec![1.0; tape.factors * tape.graph.batch],
            dropout: None,
            infers: false,
            stated: Vec::new(),
            plans: [None, None, None],
            arena: Arena::new(0),
            moments: Arena::new(moments),
            moment_offsets,
            op_weights: Arena::new(weights),
            op_weight_offsets,
            written: vec![false; tape.graph.activations.len()],
            writes,
            mode: None,
            active: None,
        }
    }

    /// From now on runs only what the `active` op weights need.
    pub fn activate(&mut self, tape: &Tape, active: &[bool]) {
        match &mut self.active {
            Some(part) => part.choose(tape, active),
            None => self.active = Some(Active::new(tape, active)),
        }
    }

    /// From now on runs everything.
    pub fn activate_all(&mut self) {
        self.active = None;
    }

    /// What runs, where that is not everything.
    pub fn part(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    /// Loads a batch; the executor has checked it.
    pub fn load(&mut self, images: &[f32], labels: &[u32]) {
        self.images.copy_from_slice(images);
        self.labels.copy_from_slice(labels);
    }

    /// Sets the factors of the sums' terms, `[factors, N]`, for the passes to come.
    ///
    /// # Panics
    /// Another length.
    pub fn set_factors(&mut self, factors: &[f32]) {
        self.factors.copy_from_slice(factors);
    }

    /// Sets what dropout drops in the passes to come.
    pub fn set_dropout(&mut self, draw: Option<Draw>) {
        self.dropout = draw;
    }

    /// μ and r of the last forward pass, `[2, padded(C)]`, of the normalised activation `id`.
    pub fn statistics(&self, tape: &Tape, id: ActivationId) -> &[f32] {
        let len = 2 * padded(tape.graph.activation(id).channels);
        self.moments.view(self.moment_offsets[id.0], len).read()
    }

    /// f32 of the stated statistics that [`Self::infer`] takes, and where those of each of `ids`
    /// begin in them: the arena has four kinds an activation, the stated vector only the first.
    pub fn stated_layout(&self, ids: &[ActivationId]) -> (usize, Vec<usize>) {
        let at = |id: &ActivationId| self.moment_offsets[id.0] / 4;
        (self.moments.len() / 4, ids.iter().map(at).collect())
    }

    /// Inference: values with stated statistics in place of the batch's, factors of one, without
    /// the ops that only training runs. `statistics` has the layout of [`Self::stated_layout`].
    pub fn infer(&mut self, tape: &Tape, theta: &[f32], statistics: &[f32]) -> Outcome {
        assert_eq!(
            statistics.len(),
            self.moments.len() / 4,
            "μ and r of every norm"
        );
        self.stated.extend_from_slice(statistics);
        self.infers = true;
        let outcome = self.forward(tape, Mode::Evaluate, theta);
        self.infers = false;
        self.stated.clear();
        outcome
    }

    /// Logits `[N, classes]` of the last forward pass.
    pub fn logits(&self) -> &[f32] {
        self.logits.view(0, self.logits.len()).read()
    }

    fn plan(&mut self, tape: &Tape, mode: Mode) {
        let slot = &mut self.plans[mode as usize];
        if slot.is_none() {
            *slot = Some(Plan::new(tape, mode));
        }
        let len = slot.as_ref().map_or(0, |p| p.len);
        if self.arena.len() < len {
            // The old arena goes first: both at once would be the peak.
            self.arena = Arena::new(0);
            self.arena = Arena::new(len);
        }
    }

    /// Plans `mode` and places the images in its arena.
    pub(super) fn prepare(&mut self, tape: &Tape, mode: Mode) {
        self.plan(tape, mode);
        self.mode = Some(mode);
        let outcome = Mutex::default();
        let cx = self.context(tape, &[], &[], View::of(&[]), &outcome);
        cx.dense(tape.images, Role::Value)
            .view
            .write()
            .copy_from_slice(&self.images);
    }

    /// Pass 1.
    pub fn forward(&mut self, tape: &Tape, mode: Mode, theta: &[f32]) -> Outcome {
        self.prepare(tape, mode);
        let outcome = Mutex::new(Outcome::default());
        self.run(tape, Pass::Forward, theta, &[], View::of(&[]), &outcome);
        outcome.into_inner().expect("no op panicked")
    }

    /// Pass 2.
    pub fn backward(&mut self, tape: &Tape, theta: &[f32], gradient: &mut [f32]) {
        self.clear(tape, Role::Adjoint, Moments::AdjointSums);
        self.clear_gradient(gradient);
        let gradient = View::of_mut(gradient);
        let outcome = Mutex::default();
        self.run(tape, Pass::Backward, theta, &[], gradient, &outcome);
    }

    /// Pass 3.
    pub fn tangent(&mut self, tape: &Tape, theta: &[f32], direction: &[f32]) {
        let (none, outcome) = (View::of(&[]), Mutex::default());
        self.run(tape, Pass::Tangent, theta, direction, none, &outcome);
    }

    /// Pass 4.
    pub fn tangent_backward(
        &mut self,
        tape: &Tape,
        theta: &[f32],
        direction: &[f32],
        product: &mut [f32],
    ) {
        self.clear(tape, Role::AdjointTangent, Moments::AdjointSumsTangent);
        self.clear_gradient(product);
        let (product, outcome) = (View::of_mut(product), Mutex::default());
        self.run(
            tape,
            Pass::TangentBackward,
            theta,
            direction,
            product,
            &outcome,
        );
    }

    /// Zeroes what ops that do not run would have written.
    fn clear_gradient(&self, gradient: &mut [f32]) {
        if self.active.is_some() {
            gradient.fill(0.0);
        }
    }

    /// Zeroes the small sums that ops add to in a backward pass.
    pub(super) fn clear(&mut self, tape: &Tape, role: Role, kind: Moments) {
        self.written.fill(false);
        for (&offset, &len) in self.op_weight_offsets.iter().zip(&tape.graph.weights) {
            self.op_weights
                .view(offset + role as usize * len, len)
                .write()
                .fill(0.0);
        }
        for (activation, &offset) in tape.graph.activations.iter().zip(&self.moment_offsets) {
            if activation.normalised {
                let len = 2 * padded(activation.channels);
                self.moments
                    .view(offset + kind as usize * len, len)
                    .write()
                    .fill(0.0);
            }
        }
    }

    fn context<'a>(
        &'a self,
        tape: &'a Tape,
        theta: &[f32],
        direction: &[f32],
        gradient: View,
        outcome: &'a Mutex<Outcome>,
    ) -> Context<'a> {
        let mode = self.mode.expect("a forward pass began");
        let plan = self.plans[mode as usize]
            .as_ref()
            .expect("planned by forward");
        Context {
            graph: self.active.as_ref().map_or(&tape.graph, |part| &part.graph),
            arena: self.arena.view(0, self.arena.len()),
            offsets: &plan.offsets,
            moment_offsets: &self.moment_offsets,
            moments_arena: self.moments.view(0, self.moments.len()),
            op_weights: self.op_weights.view(0, self.op_weights.len()),
            op_weight_offsets: &self.op_weight_offsets,
            theta: View::of(theta),
            direction: View::of(direction),
            gradient,
            workspace: self.arena.view(plan.workspace, plan.workspace_len),
            labels: &self.labels,
            logits: self.logits.view(0, self.logits.len()),
            outcome,
            stated: self.infers.then_some(self.stated.as_slice()),
            factors: (!self.infers).then_some(self.factors.as_slice()),
            dropout: self.dropout.filter(|_| !self.infers),
            written: &self.written,
        }
    }

    fn run(
        &mut self,
        tape: &Tape,
        pass: Pass,
        theta: &[f32],
        direction: &[f32],
        gradient: View,
        outcome: &Mutex<Outcome>,
    ) {
        let count = tape.ops.len();
        for step in 0..count {
            let reversed = matches!(pass, Pass::Backward | Pass::TangentBackward);
            let i = if reversed { count - 1 - step } else { step };
            if self.infers && tape.training_only.contains(&i) {
                continue;
            }
            self.step(tape, (pass, i), theta, direction, gradient, outcome);
        }
        level_scratch();
    }

    /// One op of a pass.
    pub(super) fn step(
        &mut self,
        tape: &Tape,
        (pass, i): (Pass, usize),
        theta: &[f32],
        direction: &[f32],
        gradient: View,
        outcome: &Mutex<Outcome>,
    ) {
        if self.active.as_ref().is_some_and(|part| !part.entries[i]) {
            return;
        }
        let cx = self.context(tape, theta, direction, gradient, outcome);
        run_entry(tape.ops[i].as_ref(), pass, &cx);
        if matches!(pass, Pass::Backward | Pass::TangentBackward) {
            let writes = match &self.active {
                Some(part) => &part.writes[i],
                None => &self.writes[usize::from(pass == Pass::TangentBackward)][i],
            };
            for id in writes {
                self.written[id.0] = true;
            }
        }
    }

    /// Runs entry `index` of the tape once more in `pass`, after that pass ran as a whole, with
    /// (ω, α), the direction and the gradient of that run. It does the work and the memory traffic
    /// it did there, which is what a measurement of one op wants, but adds to adjoints a second
    /// time: afterwards no result of the pass holds.
    pub fn repeat_entry(
        &mut self,
        tape: &Tape,
        (pass, index): (Pass, usize),
        theta: &[f32],
        direction: &[f32],
        gradient: &mut [f32],
    ) {
        assert!(
            self.mode == Some(Mode::Products),
            "all four passes ran and kept what they read"
        );
        let outcome = Mutex::default();
        let cx = self.context(tape, theta, direction, View::of_mut(gradient), &outcome);
        run_entry(tape.ops[index].as_ref(), pass, &cx);
    }
}

fn run_entry(op: &dyn Op, pass: Pass, cx: &Context) {
    match pass {
        Pass::Forward => op.forward(cx),
        Pass::Backward => op.backward(cx),
        Pass::Tangent => op.tangent(cx),
        Pass::TangentBackward => op.tangent_backward(cx),
    }
}
