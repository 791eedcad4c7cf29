//! The four passes over a planned tape.

use super::plan::{Mode, Plan};
use super::tape::Tape;
use crate::device::parallel::level_scratch;
use crate::device::simd::padded;
use crate::device::{Arena, Device, View};
use crate::ops::{ActivationId, Context, Moments, Op, Outcome, Pass, Role};
use std::sync::Mutex;

/// A tape with its memory on a device, and one batch loaded.
pub struct Executor {
    tape: Tape,
    device: Device,
    plans: [Option<Plan>; 3],
    arena: Arena,
    moments: Arena,
    moment_offsets: Vec<usize>,
    op_weights: Arena,
    op_weight_offsets: Vec<usize>,
    logits: Arena,
    images: Vec<f32>,
    labels: Vec<u32>,
    /// Activations whose adjoint each op writes, for `backward` and `tangent_backward`.
    writes: [Vec<Vec<ActivationId>>; 2],
    written: Vec<bool>,
    /// The mode whose forward pass ran last.
    mode: Option<Mode>,
}

impl Executor {
    /// Prepares `tape` for `device`. Memory is planned and allocated when a mode first runs.
    pub fn new(tape: Tape, device: Device) -> Executor {
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
        Executor {
            images: vec![0.0; tape.graph.batch * height * width * 3],
            labels: vec![0; tape.graph.batch],
            logits: Arena::new(tape.graph.batch * tape.classes),
            plans: [None, None, None],
            arena: Arena::new(0),
            moments: Arena::new(moments),
            moment_offsets,
            op_weights: Arena::new(weights),
            op_weight_offsets,
            written: vec![false; tape.graph.activations.len()],
            writes,
            mode: None,
            tape,
            device,
        }
    }

    /// The recorded network.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// Loads a batch: `images` `[N, H, W, 3]`, `labels` `[N]`, each below the number of classes.
    ///
    /// # Panics
    /// Another length, or a label out of range: the loaders check both where data comes in.
    pub fn load(&mut self, images: &[f32], labels: &[u32]) {
        assert!(
            labels.iter().all(|&l| (l as usize) < self.tape.classes),
            "labels below classes"
        );
        self.images.copy_from_slice(images);
        self.labels.copy_from_slice(labels);
    }

    /// Logits `[N, classes]` of the last forward pass.
    pub fn logits(&self) -> &[f32] {
        let len = self.tape.graph.batch * self.tape.classes;
        self.logits.view(0, len).read()
    }

    fn plan(&mut self, mode: Mode) {
        let slot = &mut self.plans[mode as usize];
        if slot.is_none() {
            *slot = Some(Plan::new(&self.tape, mode));
        }
        let len = slot.as_ref().map_or(0, |p| p.len);
        if self.arena.len() < len {
            // The old arena goes first: both at once would be the peak.
            self.arena = Arena::new(0);
            self.arena = Arena::new(len);
        }
    }

    /// Pass 1: values, for the passes that `mode` allows. `theta` is (ω, α).
    pub fn forward(&mut self, mode: Mode, theta: &[f32]) -> Outcome {
        assert_eq!(theta.len(), self.tape.theta_len(), "theta = (ω, α)");
        self.plan(mode);
        self.mode = Some(mode);
        let outcome = Mutex::new(Outcome::default());
        {
            let cx = self.context(theta, &[], View::of(&[]), &outcome);
            cx.dense(self.tape.images, Role::Value)
                .view
                .write()
                .copy_from_slice(&self.images);
        }
        self.run(Pass::Forward, theta, &[], View::of(&[]), &outcome);
        outcome.into_inner().expect("no op panicked")
    }

    /// Pass 2: the gradient of the loss by θ, after `forward` with the same `theta`.
    pub fn backward(&mut self, theta: &[f32], gradient: &mut [f32]) {
        assert!(
            matches!(self.mode, Some(Mode::Gradient | Mode::Products)),
            "forward kept values"
        );
        assert_eq!(gradient.len(), self.tape.theta_len());
        self.clear(Role::Adjoint, Moments::AdjointSums);
        self.run(
            Pass::Backward,
            theta,
            &[],
            View::of_mut(gradient),
            &Mutex::default(),
        );
    }

    /// Passes 3 and 4: `product` = ∂(∇L)/∂θ · `direction`, that is (H·v, ∂²L/∂α∂ω·v) for v = (v, 0),
    /// after `backward` in [`Mode::Products`]; any number of times.
    pub fn product(&mut self, theta: &[f32], direction: &[f32], product: &mut [f32]) {
        self.tangent(theta, direction);
        self.tangent_backward(theta, direction, product);
    }

    /// Pass 3: tangents of the values along `direction` of (ω, α).
    pub fn tangent(&mut self, theta: &[f32], direction: &[f32]) {
        assert!(
            self.mode == Some(Mode::Products),
            "forward and backward ran for products"
        );
        assert_eq!(direction.len(), self.tape.theta_len());
        self.run(
            Pass::Tangent,
            theta,
            direction,
            View::of(&[]),
            &Mutex::default(),
        );
    }

    /// Pass 4: tangents of the adjoints, after `tangent` with the same `direction`.
    pub fn tangent_backward(&mut self, theta: &[f32], direction: &[f32], product: &mut [f32]) {
        assert_eq!(product.len(), self.tape.theta_len());
        self.clear(Role::AdjointTangent, Moments::AdjointSumsTangent);
        let product = View::of_mut(product);
        self.run(
            Pass::TangentBackward,
            theta,
            direction,
            product,
            &Mutex::default(),
        );
    }

    /// Zeroes the small sums that ops add to in a backward pass.
    fn clear(&mut self, role: Role, kind: Moments) {
        self.written.fill(false);
        for (&offset, &len) in self.op_weight_offsets.iter().zip(&self.tape.graph.weights) {
            self.op_weights
                .view(offset + role as usize * len, len)
                .write()
                .fill(0.0);
        }
        for (activation, &offset) in self.tape.graph.activations.iter().zip(&self.moment_offsets) {
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
            graph: &self.tape.graph,
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
            written: &self.written,
        }
    }

    fn run(
        &mut self,
        pass: Pass,
        theta: &[f32],
        direction: &[f32],
        gradient: View,
        outcome: &Mutex<Outcome>,
    ) {
        let Device::Cpu = self.device;
        let count = self.tape.ops.len();
        for step in 0..count {
            let reversed = matches!(pass, Pass::Backward | Pass::TangentBackward);
            let i = if reversed { count - 1 - step } else { step };
            let cx = self.context(theta, direction, gradient, outcome);
            run_entry(self.tape.ops[i].as_ref(), pass, &cx);
            if reversed {
                let writes = &self.writes[usize::from(pass == Pass::TangentBackward)][i];
                for id in writes {
                    self.written[id.0] = true;
                }
            }
        }
        level_scratch();
    }

    /// Runs entry `index` of the tape once more in `pass`, after that pass ran as a whole, with
    /// (ω, α), the direction and the gradient of that run. It does the work and the memory traffic
    /// it did there, which is what a measurement of one op wants, but adds to adjoints a second
    /// time: afterwards no result of the pass holds.
    pub fn repeat_entry(
        &mut self,
        pass: Pass,
        index: usize,
        theta: &[f32],
        direction: &[f32],
        gradient: &mut [f32],
    ) {
        let Device::Cpu = self.device;
        assert!(
            self.mode == Some(Mode::Products),
            "all four passes ran and kept what they read"
        );
        for (what, len) in [("theta", theta.len()), ("gradient", gradient.len())] {
            assert_eq!(len, self.tape.theta_len(), "{what} = (ω, α)");
        }
        assert_eq!(direction.len(), self.tape.theta_len(), "direction = (ω, α)");
        let outcome = Mutex::default();
        let cx = self.context(theta, direction, View::of_mut(gradient), &outcome);
        run_entry(self.tape.ops[index].as_ref(), pass, &cx);
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
