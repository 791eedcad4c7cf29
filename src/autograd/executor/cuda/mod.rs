//! The four passes on a GPU: recorded once a pass and set of vectors, then replayed as graphs.
//!
//! What a recording's launches touch lies at fixed addresses: one arena laid out by the plan of the
//! mode, the small buffers beside it ([`memory`]), and the caller's vectors. A recording is therefore keyed by
//! (mode, pass, addresses of the vectors); a search uses about ten. Encoding a mode's passes at no
//! address shows how much workspace they want; encoding one shows how many bytes its tables take, and
//! a second time, when all has its place, gives the launches ([`recording`]).
//!
//! Where only a part of the tape runs ([`Active`]), which one changes with nearly every step. Its passes are encoded
//! each time and launched one by one, with the kernels of the whole tape; their tables go through a ring
//! of pinned memory.

mod memory;
mod recording;

use crate::autograd::plan::{Mode, Plan};
use crate::autograd::tape::Tape;
use crate::device::cuda::launch::{Recording, Step};
use crate::device::cuda::{Buffer, Gpu, Measured, Program, Staging, Tables};
use crate::device::vector::Part;
use crate::device::{Later, Slice};
use crate::ops::cuda::{DeviceOutcome, Precision, Region, Regions, SmallBuffers};
use crate::ops::dropout::Draw;
use crate::ops::dropout::cuda::DeviceDraw;
use crate::ops::perturb::cuda::{Generation, stride};
use crate::ops::update::Factor;
use crate::ops::update::cuda::SeriesResults;
use crate::ops::{Outcome, Pass, Role};
use half::bf16;
use half::slice::HalfFloatSliceExt as _;
use memory::{Bank, batch_bytes};
use recording::{Planned, encode};
use std::collections::HashMap;
use std::sync::Arc;

use super::active::Active;
use super::{Candidates, Series, on_gpu};

pub use memory::planned_bytes;
pub use recording::{Recorded, record, specialisations};

/// Programs that are kept; more means that vectors come and go, and all start anew.
const MOST_PROGRAMS: usize = 64;

/// Compute capability from which tensor cores multiply bf16 and TF32.
const FIRST_TENSOR_CORES: u32 = 80;

/// The vectors that a pass runs on, by address; 0 where it takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Vectors {
    theta: u64,
    direction: u64,
    gradient: u64,
}

/// What a program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pass {
        mode: Mode,
        pass: Pass,
        members: usize,
        vectors: Vectors,
    },
    Series {
        theta: u64,
        v: u64,
        p: u64,
        product: u64,
        /// Its bits, if it does not lie on the device.
        gamma: Option<u32>,
        terms: usize,
        guard: bool,
    },
}

/// A tape's memory on a GPU, and one batch.
pub(super) struct Cuda {
    gpu: Arc<Gpu>,
    precision: Precision,
    small: SmallBuffers,
    plans: [Option<Planned>; 3],
    /// Of one member, and of a population.
    banks: [Option<Bank>; 2],
    staging: Option<Staging>,
    labels: Option<Buffer>,
    programs: HashMap<Key, Program>,
    mode: Option<Mode>,
    /// Room for the norms of a series, and how many terms.
    series: Option<(usize, Buffer)>,
    /// What runs, where that is not everything.
    part: Option<Active>,
    tables: Option<Tables>,
    /// What dropout drops, where launches read it.
    draw: Option<Buffer>,
}

/// Refuses bf16 and TF32 on a GPU that lacks them.
pub(super) fn check_tensor_cores(gpu: &Gpu, precision: Precision) -> anyhow::Result<()> {
    let description = gpu.description();
    anyhow::ensure!(
        description.compute >= FIRST_TENSOR_CORES,
        "--precision {}: expected a GPU of compute capability 8.0 or newer, found {} of {}.{}; use \
         --precision f32",
        precision.name(),
        description.name,
        description.compute / 10,
        description.compute % 10
    );
    Ok(())
}

fn outcome(device: DeviceOutcome) -> Outcome {
    Outcome {
        loss: device.loss,
        top1: device.top1 as usize,
        top5: device.top5 as usize,
    }
}

impl Cuda {
    /// Prepares for `tape`. Memory is allocated when a mode first runs.
    pub fn new(tape: &Tape, gpu: Arc<Gpu>, precision: Precision) -> Cuda {
        Cuda {
            gpu,
            precision,
            small: SmallBuffers::new(&tape.graph),
            plans: [None, None, None],
            banks: [None, None],
            staging: None,
            labels: None,
            programs: HashMap::new(),
            mode: None,
            series: None,
            part: None,
            tables: None,
            draw: None,
        }
    }

    /// From now on runs only what the `active` op weights need.
    pub fn activate(&mut self, tape: &Tape, active: &[bool]) {
        match &mut self.part {
            Some(part) => part.choose(tape, active),
            None => self.part = Some(Active::new(tape, active)),
        }
    }

    /// From now on runs everything.
    pub fn activate_all(&mut self) {
        self.part = None;
    }

    /// Sets what dropout drops in the passes to come.
    pub fn set_dropout(&mut self, draw: Option<Draw>) -> anyhow::Result<()> {
        let buffer = match self.draw.take() {
            Some(buffer) => buffer,
            None => self.gpu.buffer(size_of::<DeviceDraw>())?,
        };
        self.gpu.write(buffer.address(), &[DeviceDraw::new(draw)])?;
        self.draw = Some(buffer);
        Ok(())
    }

    /// What runs, where that is not everything.
    pub fn part(&self) -> Option<&Active> {
        self.part.as_ref()
    }

    pub fn gpu(&self) -> Arc<Gpu> {
        Arc::clone(&self.gpu)
    }

    pub fn load(&mut self, tape: &Tape, images: &[f32], labels: &[u32]) -> anyhow::Result<()> {
        let (bytes, labels_at) = batch_bytes(tape, self.precision);
        let precision = self.precision;
        let [height, width] = tape.size(tape.images);
        assert_eq!(images.len(), tape.graph.batch * height * width * 3);
        assert_eq!(labels.len(), tape.graph.batch);
        if self.staging.is_none() {
            self.staging = Some(Staging::new(&self.gpu, bytes)?);
        }
        let staging = self.staging.as_mut().expect("made above");
        staging.send(&self.gpu, |to| {
            let (to_images, to_labels) = to.split_at_mut(labels_at);
            match precision {
                Precision::F32 | Precision::Tf32 => {
                    let from: &[u8] = bytemuck::cast_slice(images);
                    to_images[..from.len()].copy_from_slice(from);
                }
                Precision::Bf16 => {
                    let to: &mut [bf16] = bytemuck::cast_slice_mut(to_images);
                    to[..images.len()].convert_from_f32_slice(images);
                }
            }
            to_labels.copy_from_slice(bytemuck::cast_slice(labels));
        })
    }

    /// Plans `mode`, and makes the bank of `members` as large as it needs.
    fn bank(&mut self, tape: &Tape, mode: Mode, members: usize) -> anyhow::Result<()> {
        let slot = &mut self.plans[mode as usize];
        if slot.is_none() {
            let kind = (self.precision, self.gpu.shared_per_block());
            let planned = Planned::new(tape, mode, &self.small, kind)?;
            // All passes' kernels at once, so that every core compiles until the last few.
            self.gpu.prepare(&planned.kernels)?;
            *slot = Some(planned);
        }
        let planned = slot.as_ref().expect("planned above");
        let bank = &mut self.banks[usize::from(members > 1)];
        let (mut arena_len, mut wants) = (planned.plan.workspace, planned.wants);
        if let Some(bank) = bank
            && bank.members == members
        {
            arena_len = arena_len.max(bank.arena_len);
            wants = wants.max(bank.wants);
            if (arena_len, wants) == (bank.arena_len, bank.wants) {
                return Ok(());
            }
        }
        // Old programs hold old addresses; the old memory goes first, as both at once would be the peak.
        self.programs.clear();
        self.gpu.wait()?;
        *bank = None;
        let kind = (self.precision, members);
        let size = (arena_len, wants);
        *bank = Some(Bank::allocate(&self.gpu, (tape, &self.small), kind, size)?);
        if self.draw.is_none() {
            self.set_dropout(None)?;
        }
        if self.labels.is_none() {
            self.labels = Some(self.gpu.buffer(4 * tape.graph.batch)?);
        }
        Ok(())
    }

    fn bank_of(&self, members: usize) -> &Bank {
        let bank = self.banks[usize::from(members > 1)].as_ref();
        bank.expect("made by a forward pass")
    }

    /// Where everything lies for `vectors`, with tables at `constants`.
    fn regions(&self, tape: &Tape, members: usize, vectors: Vectors, constants: u64) -> Regions {
        let bank = self.bank_of(members);
        let region = |buffer: &Buffer, member| Region {
            base: buffer.address(),
            member,
        };
        Regions {
            arena: region(&bank.arena, bank.arena_len),
            theta: Region {
                base: vectors.theta,
                member: stride(tape.theta_len()),
            },
            direction: vectors.direction,
            gradient: vectors.gradient,
            moments: region(&bank.moments, 4 * self.small.moments_len),
            weights: region(&bank.weights, 4 * self.small.weights_len),
            workspace: region(&bank.workspace, bank.wants.workspace),
            tickets: region(&bank.tickets, bank.wants.tickets),
            labels: self.labels.as_ref().map_or(0, Buffer::address),
            logits: region(&bank.logits, tape.graph.batch * tape.classes),
            outcome: bank.outcome.address(),
            constants,
            draw: self.draw.as_ref().map_or(0, Buffer::address),
        }
    }

    /// Encodes a pass with its tables at `constants`.
    fn encode(
        &self,
        tape: &Tape,
        (mode, pass, members): (Mode, Pass, usize),
        vectors: Vectors,
        constants: u64,
    ) -> anyhow::Result<Recording> {
        let plan = self.plan(mode);
        let regions = self.regions(tape, members, vectors, constants);
        let kind = (self.precision, members, self.gpu.shared_per_block());
        let layout = (plan, &self.small);
        let (recording, _) = encode((tape, None), layout, pass, regions, kind)?;
        Ok(recording)
    }

    /// Runs a pass of the part that runs, launch by launch.
    fn run_part(
        &mut self,
        tape: &Tape,
        (mode, pass, members): (Mode, Pass, usize),
        vectors: Vectors,
    ) -> anyhow::Result<()> {
        let gpu = Arc::clone(&self.gpu);
        let bytes = self.planned(mode).tables;
        let mut tables = match self.tables.take() {
            Some(tables) if tables.bytes() >= bytes => tables,
            _ => Tables::new(&gpu, bytes)?,
        };
        let regions = self.regions(tape, members, vectors, tables.address());
        let layout = (self.plan(mode), &self.small);
        let kind = (self.precision, members, gpu.shared_per_block());
        let part = (tape, self.part.as_ref());
        let (recording, wants) = encode(part, layout, pass, regions, kind)?;
        let given = self.bank_of(members).wants;
        assert_eq!(wants.max(given), given, "no part wants more than the whole");
        tables.send(&gpu, &recording.constants)?;
        self.tables = Some(tables);
        gpu.issue(recording)
    }

    fn planned(&self, mode: Mode) -> &Planned {
        let planned = self.plans[mode as usize].as_ref();
        planned.expect("planned by a forward pass")
    }

    fn plan(&self, mode: Mode) -> &Plan {
        &self.planned(mode).plan
    }

    /// Runs a pass over `vectors`; of the whole tape as it was recorded.
    fn run(
        &mut self,
        tape: &Tape,
        what: (Mode, Pass, usize),
        vectors: Vectors,
    ) -> anyhow::Result<()> {
        if self.part.is_some() {
            return self.run_part(tape, what, vectors);
        }
        let gpu = Arc::clone(&self.gpu);
        self.program(tape, what, vectors)?.replay(&gpu)
    }

    /// The program of a pass over `vectors`, recorded if it has not been.
    fn program(
        &mut self,
        tape: &Tape,
        (mode, pass, members): (Mode, Pass, usize),
        vectors: Vectors,
    ) -> anyhow::Result<&mut Program> {
        let key = Key::Pass {
            mode,
            pass,
            members,
            vectors,
        };
        if !self.programs.contains_key(&key) {
            let what = (mode, pass, members);
            let first = self.encode(tape, what, vectors, 0)?;
            let constants = self.constants(first.constants.len())?;
            let at = constants.as_ref().map_or(0, Buffer::address);
            let recording = self.encode(tape, what, vectors, at)?;
            self.keep(key, recording, constants)?;
        }
        Ok(self.programs.get_mut(&key).expect("kept above"))
    }

    /// Runs `pass` in [`Mode::Products`] launch by launch and measures each.
    pub fn measure(
        &mut self,
        tape: &Tape,
        pass: Pass,
        [theta, direction, gradient]: [Part; 3],
    ) -> anyhow::Result<Vec<Measured>> {
        let (mode, gpu) = (Mode::Products, Arc::clone(&self.gpu));
        self.bank(tape, mode, 1)?;
        self.mode = Some(mode);
        if pass == Pass::Forward {
            self.take(tape, mode, 1)?;
        }
        // As the passes themselves key their programs.
        let tangents = matches!(pass, Pass::Tangent | Pass::TangentBackward);
        let gradients = matches!(pass, Pass::Backward | Pass::TangentBackward);
        let vectors = Vectors {
            theta: theta.address,
            direction: if tangents { direction.address } else { 0 },
            gradient: if gradients { gradient.address } else { 0 },
        };
        self.program(tape, (mode, pass, 1), vectors)?.measure(&gpu)
    }

    /// Bytes of device memory that the plan and the buffers beside it take.
    pub fn bytes(&self) -> usize {
        self.banks.iter().flatten().map(Bank::bytes).sum()
    }

    fn constants(&self, bytes: usize) -> anyhow::Result<Option<Buffer>> {
        (bytes > 0).then(|| self.gpu.buffer(bytes)).transpose()
    }

    fn keep(
        &mut self,
        key: Key,
        recording: Recording,
        constants: Option<Buffer>,
    ) -> anyhow::Result<()> {
        if self.programs.len() >= MOST_PROGRAMS {
            self.gpu.wait()?;
            self.programs.clear();
        }
        let program = Program::load(&self.gpu, recording, constants)?;
        self.programs.insert(key, program);
        Ok(())
    }

    /// Takes the staged batch into the arena of a bank.
    fn take(&mut self, tape: &Tape, mode: Mode, members: usize) -> anyhow::Result<()> {
        let offset = self.plan(mode).offsets[tape.images.0][Role::Value as usize];
        let (_, labels_at) = batch_bytes(tape, self.precision);
        let [height, width] = tape.size(tape.images);
        let images = tape.graph.batch * height * width * 3 * self.precision.bytes();
        let at = self.bank_of(members).arena.address() + (offset * self.precision.bytes()) as u64;
        let labels = self.labels.as_ref().map_or(0, Buffer::address);
        let parts = [(at, 0, images), (labels, labels_at, 4 * tape.graph.batch)];
        let staging = self.staging.as_mut();
        let staging = staging.ok_or_else(|| anyhow::anyhow!("a pass before a batch was loaded"))?;
        staging.take(&self.gpu, &parts)
    }

    pub fn forward(
        &mut self,
        tape: &Tape,
        mode: Mode,
        theta: Part,
    ) -> anyhow::Result<Later<Outcome>> {
        self.bank(tape, mode, 1)?;
        self.mode = Some(mode);
        self.take(tape, mode, 1)?;
        let vectors = Vectors {
            theta: theta.address,
            ..Vectors::default()
        };
        self.run(tape, (mode, Pass::Forward, 1), vectors)?;
        let at = self.bank_of(1).outcome.address();
        self.gpu.note(at, size_of::<DeviceOutcome>(), |bytes| {
            outcome(bytemuck::pod_read_unaligned(bytes))
        })
    }

    pub fn logits(&self, tape: &Tape) -> anyhow::Result<Vec<f32>> {
        let mut logits = vec![0.0; tape.graph.batch * tape.classes];
        if self.banks[0].is_some() {
            self.gpu
                .read(self.bank_of(1).logits.address(), &mut logits)?;
        }
        Ok(logits)
    }

    fn mode(&self) -> Mode {
        self.mode.expect("a forward pass ran")
    }

    pub fn backward(&mut self, tape: &Tape, theta: Part, gradient: Part) -> anyhow::Result<()> {
        let vectors = Vectors {
            theta: theta.address,
            direction: 0,
            gradient: gradient.address,
        };
        self.run(tape, (self.mode(), Pass::Backward, 1), vectors)
    }

    pub fn tangent(&mut self, tape: &Tape, theta: Part, direction: Part) -> anyhow::Result<()> {
        let vectors = Vectors {
            theta: theta.address,
            direction: direction.address,
            gradient: 0,
        };
        self.run(tape, (Mode::Products, Pass::Tangent, 1), vectors)
    }

    pub fn tangent_backward(
        &mut self,
        tape: &Tape,
        theta: Part,
        direction: Part,
        product: Part,
    ) -> anyhow::Result<()> {
        let vectors = Vectors {
            theta: theta.address,
            direction: direction.address,
            gradient: product.address,
        };
        self.run(tape, (Mode::Products, Pass::TangentBackward, 1), vectors)
    }

    /// The whole series as one graph: see [`super::Executor::series`].
    ///
    /// # Panics
    /// Where only a part of the tape runs.
    pub fn series(
        &mut self,
        tape: &Tape,
        (gamma, terms, guard): (Factor, usize, bool),
        theta: Part,
        [v, p, product]: [Part; 3],
    ) -> anyhow::Result<Later<Series>> {
        assert!(self.part.is_none(), "a series runs over the whole tape");
        if self.series.as_ref().is_none_or(|(most, _)| *most < terms) {
            self.gpu.wait()?;
            self.programs
                .retain(|key, _| matches!(key, Key::Pass { .. }));
            self.series = Some((terms, self.gpu.buffer(8 * (terms + 2))?));
        }
        let norms = self
            .series
            .as_ref()
            .map_or(0, |(_, buffer)| buffer.address());
        let results = SeriesResults {
            norms,
            stopped: norms + 8 * (terms as u64 + 1),
        };
        let key = Key::Series {
            theta: theta.address,
            v: v.address,
            p: p.address,
            product: product.address,
            gamma: match gamma {
                Factor::Known(gamma) => Some(gamma.to_bits()),
                Factor::OnDevice { .. } => None,
            },
            terms,
            guard,
        };
        if !self.programs.contains_key(&key) {
            let vectors = Vectors {
                theta: theta.address,
                direction: v.address,
                gradient: product.address,
            };
            let (term, constants) = self.one_product(tape, vectors)?;
            let omega = tape.omega_len;
            let [v, p, h] = [v, p, product].map(|of| on_gpu(Slice::Cuda(of).part(0..omega)));
            let mut recording = Recording::new("neumann series");
            recording.steps.push(Step::Launch(results.begin(v, p)));
            for k in 1..=terms {
                recording.steps.extend(term.steps.iter().cloned());
                let launch = results.term(k, (gamma, guard), [v, p, h]);
                recording.steps.push(Step::Launch(launch));
            }
            recording.steps.push(Step::Launch(results.end(v, p)));
            recording.constants = term.constants;
            self.keep(key, recording, constants)?;
        }
        let program = self.programs.get_mut(&key).expect("kept above");
        program.replay(&self.gpu)?;
        self.gpu.note(results.norms, 8 * (terms + 2), move |bytes| {
            let (norms, stopped) = bytes.split_at(8 * (terms + 1));
            let norms = norms.chunks_exact(8).map(bytemuck::pod_read_unaligned);
            let stopped = bytemuck::pod_read_unaligned::<u32>(&stopped[..4]) as usize;
            let count = if stopped > 0 { stopped } else { terms };
            Series {
                norms: norms.take(count + 1).collect(),
                stopped: stopped > 0,
            }
        })
    }

    /// Tangent and tangent_backward over `vectors` as one recording, and memory for its tables.
    fn one_product(
        &self,
        tape: &Tape,
        vectors: Vectors,
    ) -> anyhow::Result<(Recording, Option<Buffer>)> {
        let passes = [Pass::Tangent, Pass::TangentBackward];
        let mut lengths = [0; 2];
        for (pass, length) in passes.into_iter().zip(&mut lengths) {
            let what = (Mode::Products, pass, 1);
            let recording = self.encode(tape, what, vectors, 0)?;
            *length = recording.constants.len().next_multiple_of(16);
        }
        let constants = self.constants(lengths.iter().sum())?;
        let at = constants.as_ref().map_or(0, Buffer::address);
        let mut both = Recording::new("product");
        for (i, pass) in passes.into_iter().enumerate() {
            let begin: usize = lengths[..i].iter().sum();
            let what = (Mode::Products, pass, 1);
            let recording = self.encode(tape, what, vectors, at + begin as u64)?;
            both.steps.extend(recording.steps);
            both.constants.resize(begin, 0);
            both.constants.extend(recording.constants);
        }
        Ok((both, constants))
    }

    /// One generation: see [`super::Executor::generation`].
    pub fn generation(
        &mut self,
        tape: &Tape,
        generation: Generation,
        members: usize,
        (population, recombined): (Part, Part),
    ) -> anyhow::Result<Later<Candidates>> {
        let (mode, all) = (Mode::Evaluate, members + 1);
        generation.populate()?;
        self.bank(tape, mode, 1)?;
        self.bank(tape, mode, all)?;
        self.take(tape, mode, all)?;
        let vectors = |of: Part| Vectors {
            theta: of.address,
            ..Vectors::default()
        };
        self.run(tape, (mode, Pass::Forward, all), vectors(population))?;
        let outcomes = self.bank_of(all).outcome.address();
        generation.recombine(outcomes)?;
        self.take(tape, mode, 1)?;
        self.mode = Some(mode);
        self.run(tape, (mode, Pass::Forward, 1), vectors(recombined))?;
        let bytes = size_of::<DeviceOutcome>();
        let last = outcomes + (all * bytes) as u64;
        self.gpu
            .copy(last, self.bank_of(1).outcome.address(), bytes)?;
        generation.select(outcomes)?;
        self.gpu.note(outcomes, (all + 2) * bytes, move |found| {
            let (found, choice) = found.split_at((all + 1) * bytes);
            let outcomes = found.chunks_exact(bytes);
            let outcomes = outcomes.map(|one| outcome(bytemuck::pod_read_unaligned(one)));
            let choice = bytemuck::pod_read_unaligned::<u32>(&choice[..4]);
            Candidates {
                outcomes: outcomes.collect(),
                kept: choice as usize,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, Vector};
    use crate::ops::perturb::Noise;
    use crate::ops::perturb::cuda::Recombination;

    /// A network of nothing but α: every pass runs, through plans, staging, graphs and ledger, and all that
    /// depends on the loss is zero.
    #[test]
    fn passes_series_and_generations_run_as_graphs() {
        let Some(gpu) = crate::device::cuda::for_tests() else {
            return;
        };
        let mut tape = Tape::new(2, 4, 4);
        tape.weight(5);
        tape.alpha(2, 3);
        tape.finish();
        let device = Device::Cuda(Arc::clone(&gpu));
        let values: Vec<f32> = (0..11).map(|i| i as f32 - 4.0).collect();
        let theta = Vector::new(&device, values.clone()).unwrap();
        let [gradient, product, p] =
            [3.0, 4.0, 5.0].map(|x| Vector::new(&device, vec![x; 11]).unwrap());
        let mut direction = values.clone();
        direction[5..].fill(0.0);
        let v = Vector::new(&device, direction.clone()).unwrap();
        let of = |vector: &Vector| vector.slice().to_vec().unwrap();
        let [t, g, h, d, s] = [&theta, &gradient, &product, &v, &p].map(|x| on_gpu(x.slice()));
        let mut cuda = Cuda::new(&tape, Arc::clone(&gpu), Precision::F32);
        assert!(
            cuda.forward(&tape, Mode::Evaluate, t).is_err(),
            "no batch yet"
        );
        let mut notes = Vec::new();
        for round in 0..3u8 {
            let images = vec![f32::from(round); 2 * 16 * 3];
            cuda.load(&tape, &images, &[1, u32::from(round)]).unwrap();
            notes.push(cuda.forward(&tape, Mode::Gradient, t).unwrap());
            cuda.backward(&tape, t, g).unwrap();
            let plan = cuda.plan(Mode::Gradient);
            let at = cuda.bank_of(1).arena.address()
                + 4 * plan.offsets[tape.images.0][Role::Value as usize] as u64;
            let mut found = vec![0.0f32; images.len()];
            gpu.read(at, &mut found).unwrap();
            assert_eq!(found, images);
            let mut labels = [0u32; 2];
            let at = cuda.labels.as_ref().unwrap().address();
            gpu.read(at, &mut labels).unwrap();
            assert_eq!(labels, [1, u32::from(round)]);
        }
        for note in notes {
            assert_eq!(note.value().unwrap(), Outcome::default());
        }
        assert_eq!(of(&gradient), [[3.0; 5].as_slice(), &[0.0; 6]].concat());
        cuda.forward(&tape, Mode::Products, t).unwrap();
        cuda.backward(&tape, t, g).unwrap();
        cuda.tangent(&tape, t, d).unwrap();
        cuda.tangent_backward(&tape, t, d, h).unwrap();
        assert_eq!(of(&product), [[4.0; 5].as_slice(), &[0.0; 6]].concat());
        // "H·v" is what lies in product's ω: 4 everywhere, so v_k = v₀ − 4kγ.
        for _ in 0..2 {
            v_reset(&gpu, d, &direction);
            let series = cuda.series(&tape, (0.25.into(), 2, false), t, [d, s, h]);
            let series = series.unwrap().value().unwrap();
            let norm = |k: f64| {
                let squares = direction[..5].iter().map(|&x| (f64::from(x) - k).powi(2));
                squares.sum::<f64>().sqrt()
            };
            let expected = [norm(0.0), norm(1.0), norm(2.0)];
            assert_eq!((series.norms, series.stopped), (expected.to_vec(), false));
            let sum: Vec<f32> = direction[..5].iter().map(|x| 3.0 * x - 3.0).collect();
            assert_eq!(of(&p)[..5], sum);
        }
        let noise = Noise::new(1, 0, 3, false);
        let population = Vector::zeros(&device, 4 * stride(11)).unwrap();
        let recombined = Vector::zeros(&device, 11).unwrap();
        let recombination = Recombination {
            sigma: 0.1,
            factor: 1.0,
            literal: false,
        };
        let vectors = (on_gpu(population.slice()), on_gpu(recombined.slice()));
        let generation = Generation::new((&noise, 3), recombination, (t, 5), vectors.0, vectors.1);
        for _ in 0..2 {
            let found = cuda.generation(&tape, generation, 3, vectors).unwrap();
            let Candidates { outcomes, kept } = found.value().unwrap();
            assert_eq!((outcomes.len(), kept), (5, 0));
        }
        assert_eq!(of(&theta), values);
        // Each pass and vector once: recorded again only when a mode that needs more memory first ran.
        assert!(cuda.programs.len() <= 8, "{}", cuda.programs.len());
    }

    fn v_reset(gpu: &Gpu, to: Part, values: &[f32]) {
        gpu.write(to.address, values).unwrap();
        gpu.wait().unwrap();
    }
}
