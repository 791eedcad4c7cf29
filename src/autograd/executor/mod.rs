//! The four passes over a planned tape, on the device that was asked for.
//!
//! Vectors over θ = (ω, α) come from the caller and stay where they are: the CPU reads and writes them
//! in place ([`cpu`]), and a GPU's recordings are keyed by their addresses ([`cuda`]).

mod active;
mod cpu;
mod cuda;
#[cfg(test)]
pub mod parity;

use super::plan::Mode;
use super::tape::Tape;
use crate::device::cuda::Measured;
use crate::device::vector::Part;
use crate::device::{Device, Later, Slice, SliceMut, Vector};
use crate::ops::cuda::Precision;
use crate::ops::dropout::Draw;
use crate::ops::perturb::Noise;
use crate::ops::perturb::cuda::{Generation, Recombination, stride};
use crate::ops::update::Factor;
use crate::ops::{ActivationId, Outcome, Pass};
use active::Active;
use cpu::Cpu;
use cuda::Cuda;

pub use cuda::{Recorded, planned_bytes, record, specialisations};

const ONE_DEVICE: &str = "vectors on the executor's device";

/// A tape with its memory on a device, and one batch loaded.
pub struct Executor {
    tape: Tape,
    engine: Engine,
    /// The mode whose forward pass ran last.
    mode: Option<Mode>,
}

enum Engine {
    Cpu(Box<Cpu>),
    Cuda(Box<Cuda>),
}

/// What a Neumann series left beside its sum.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// ‖v_k‖, k = 0 … the last term computed.
    pub norms: Vec<f64>,
    /// The last term grew and is not in the sum.
    pub stopped: bool,
}

/// What a generation of the evolution strategy found.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// Outcomes of ω, of the members, and of ω₀.
    pub outcomes: Vec<Outcome>,
    /// The place among them of the one that was kept.
    pub kept: usize,
}

impl Executor {
    /// Prepares `tape` for `device`. Memory is planned and allocated when a mode first runs.
    pub fn new(tape: Tape, device: Device) -> Executor {
        Executor::on(tape, device, Precision::F32)
    }

    /// As [`Executor::new`], with activations in `precision`.
    ///
    /// # Errors
    /// tf32 or bf16 on a device without tensor cores for it; the message names the flag.
    pub fn with_precision(
        tape: Tape,
        device: Device,
        precision: Precision,
    ) -> anyhow::Result<Executor> {
        if precision != Precision::F32 {
            match &device {
                Device::Cpu => anyhow::bail!(
                    "--precision {}: expected --device cuda[:N], as the CPU computes in f32, found cpu",
                    precision.name()
                ),
                Device::Cuda(gpu) => cuda::check_tensor_cores(gpu, precision)?,
            }
        }
        Ok(Executor::on(tape, device, precision))
    }

    fn on(tape: Tape, device: Device, precision: Precision) -> Executor {
        let engine = match device {
            Device::Cpu => Engine::Cpu(Box::new(Cpu::new(&tape))),
            Device::Cuda(gpu) => Engine::Cuda(Box::new(Cuda::new(&tape, gpu, precision))),
        };
        Executor {
            tape,
            engine,
            mode: None,
        }
    }

    /// The recorded network.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        match &self.engine {
            Engine::Cpu(_) => Device::Cpu,
            Engine::Cuda(cuda) => Device::Cuda(cuda.gpu()),
        }
    }

    /// Loads a batch: `images` `[N, H, W, 3]`, `labels` `[N]`, each below the number of classes. On a
    /// GPU it is on its way when this returns, beside whatever runs.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Panics
    /// Another length, or a label out of range: the loaders check both where data comes in.
    pub fn load(&mut self, images: &[f32], labels: &[u32]) -> anyhow::Result<()> {
        assert!(
            labels.iter().all(|&l| (l as usize) < self.tape.classes),
            "labels below classes"
        );
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.load(images, labels),
            Engine::Cuda(cuda) => cuda.load(&self.tape, images, labels)?,
        }
        Ok(())
    }

    /// From now on only the op weights that are `active` (one flag each, in α's order) take part: the
    /// others' terms are left out of the sums, and no op runs whose result nothing reads. Their weights'
    /// gradients are zero.
    ///
    /// # Panics
    /// Another number of flags.
    pub fn activate(&mut self, active: &[bool]) {
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.activate(&self.tape, active),
            Engine::Cuda(cuda) => cuda.activate(&self.tape, active),
        }
    }

    /// From now on every op runs.
    pub fn activate_all(&mut self) {
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.activate_all(),
            Engine::Cuda(cuda) => cuda.activate_all(),
        }
    }

    /// Entries of the tape that run, and all of them.
    pub fn entries(&self) -> (usize, usize) {
        let part = match &self.engine {
            Engine::Cpu(cpu) => cpu.part(),
            Engine::Cuda(cuda) => cuda.part(),
        };
        let all = self.tape.ops.len();
        (part.map_or(all, Active::running), all)
    }

    /// Logits `[N, classes]` of the last forward pass; those of an auxiliary classifier behind them.
    ///
    /// # Errors
    /// The device's.
    pub fn logits(&self) -> anyhow::Result<Vec<f32>> {
        match &self.engine {
            Engine::Cpu(cpu) => Ok(cpu.logits().to_vec()),
            Engine::Cuda(cuda) => cuda.logits(&self.tape),
        }
    }

    /// The CPU's engine, for what derived networks need and no kernel does yet.
    fn cpu(&mut self) -> anyhow::Result<(&mut Cpu, &Tape)> {
        match &mut self.engine {
            Engine::Cpu(cpu) => Ok((cpu, &self.tape)),
            Engine::Cuda(_) => anyhow::bail!(
                "there are no CUDA kernels in this build for drop path, running statistics and \
                 auxiliary heads; use --device cpu"
            ),
        }
    }

    /// Sets the factors of the sums' terms, `[factors, N]`, for the passes to come. CPU only.
    ///
    /// # Errors
    /// A GPU.
    ///
    /// # Panics
    /// Another length.
    pub fn set_factors(&mut self, factors: &[f32]) -> anyhow::Result<()> {
        self.cpu()?.0.set_factors(factors);
        Ok(())
    }

    /// Sets what dropout drops in the passes to come; none: nothing.
    ///
    /// # Errors
    /// The device's.
    pub fn set_dropout(&mut self, draw: Option<Draw>) -> anyhow::Result<()> {
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.set_dropout(draw),
            Engine::Cuda(cuda) => cuda.set_dropout(draw)?,
        }
        Ok(())
    }

    /// μ and r of the last forward pass, `[2, padded(C)]`, of the normalised activation `id`. CPU only.
    ///
    /// # Errors
    /// A GPU.
    pub fn statistics(&mut self, id: ActivationId) -> anyhow::Result<&[f32]> {
        let (cpu, tape) = self.cpu()?;
        Ok(cpu.statistics(tape, id))
    }

    /// f32 of the stated statistics that [`Self::infer`] takes, and where those of each of `ids` begin in
    /// them. CPU only.
    ///
    /// # Errors
    /// A GPU.
    pub fn stated_layout(&mut self, ids: &[ActivationId]) -> anyhow::Result<(usize, Vec<usize>)> {
        Ok(self.cpu()?.0.stated_layout(ids))
    }

    /// Inference: values with stated statistics (μ and r of every norm, in the layout of
    /// [`Self::stated_layout`]) in place of the batch's, factors of one, without the ops that only
    /// training runs. CPU only.
    ///
    /// # Errors
    /// A GPU.
    ///
    /// # Panics
    /// Another length of θ or of the statistics.
    pub fn infer(&mut self, theta: &[f32], statistics: &[f32]) -> anyhow::Result<Outcome> {
        assert_eq!(theta.len(), self.tape.theta_len(), "theta = (ω, α)");
        self.mode = Some(Mode::Evaluate);
        let (cpu, tape) = self.cpu()?;
        Ok(cpu.infer(tape, theta, statistics))
    }

    /// Pass 1: values, for the passes that `mode` allows. `theta` is (ω, α).
    ///
    /// # Errors
    /// The device's.
    pub fn forward<'a>(
        &mut self,
        mode: Mode,
        theta: impl Into<Slice<'a>>,
    ) -> anyhow::Result<Outcome> {
        self.start_forward(mode, theta)?.value()
    }

    /// Pass 1 without waiting for its outcome.
    ///
    /// # Errors
    /// The device's.
    pub fn start_forward<'a>(
        &mut self,
        mode: Mode,
        theta: impl Into<Slice<'a>>,
    ) -> anyhow::Result<Later<Outcome>> {
        let theta = theta.into();
        assert_eq!(theta.len(), self.tape.theta_len(), "theta = (ω, α)");
        self.mode = Some(mode);
        match (&mut self.engine, theta) {
            (Engine::Cpu(cpu), Slice::Host(theta)) => {
                Ok(cpu.forward(&self.tape, mode, theta).into())
            }
            (Engine::Cuda(cuda), Slice::Cuda(theta)) => cuda.forward(&self.tape, mode, theta),
            _ => unreachable!("{ONE_DEVICE}"),
        }
    }

    /// Pass 2: the gradient of the loss by θ, after `forward` with the same `theta`.
    ///
    /// # Errors
    /// The device's.
    pub fn backward<'a>(
        &mut self,
        theta: impl Into<Slice<'a>>,
        gradient: impl Into<SliceMut<'a>>,
    ) -> anyhow::Result<()> {
        let (theta, gradient) = (theta.into(), gradient.into());
        assert!(
            matches!(self.mode, Some(Mode::Gradient | Mode::Products)),
            "forward kept values"
        );
        assert_eq!(gradient.len(), self.tape.theta_len());
        match (&mut self.engine, theta, gradient) {
            (Engine::Cpu(cpu), Slice::Host(theta), SliceMut::Host(gradient)) => {
                cpu.backward(&self.tape, theta, gradient);
                Ok(())
            }
            (Engine::Cuda(cuda), Slice::Cuda(theta), SliceMut::Cuda(gradient)) => {
                cuda.backward(&self.tape, theta, gradient)
            }
            _ => unreachable!("{ONE_DEVICE}"),
        }
    }

    /// Passes 3 and 4: `product` = ∂(∇L)/∂θ · `direction`, that is (H·v, ∂²L/∂α∂ω·v) for v = (v, 0),
    /// after `backward` in [`Mode::Products`]; any number of times.
    ///
    /// # Errors
    /// The device's.
    pub fn product<'a>(
        &mut self,
        theta: impl Into<Slice<'a>>,
        direction: impl Into<Slice<'a>>,
        product: impl Into<SliceMut<'a>>,
    ) -> anyhow::Result<()> {
        let (theta, direction) = (theta.into(), direction.into());
        self.tangent(theta, direction)?;
        self.tangent_backward(theta, direction, product)
    }

    /// Pass 3: tangents of the values along `direction` of (ω, α).
    ///
    /// # Errors
    /// The device's.
    pub fn tangent<'a>(
        &mut self,
        theta: impl Into<Slice<'a>>,
        direction: impl Into<Slice<'a>>,
    ) -> anyhow::Result<()> {
        let (theta, direction) = (theta.into(), direction.into());
        assert!(
            self.mode == Some(Mode::Products),
            "forward and backward ran for products"
        );
        assert_eq!(direction.len(), self.tape.theta_len());
        match (&mut self.engine, theta, direction) {
            (Engine::Cpu(cpu), Slice::Host(theta), Slice::Host(direction)) => {
                cpu.tangent(&self.tape, theta, direction);
                Ok(())
            }
            (Engine::Cuda(cuda), Slice::Cuda(theta), Slice::Cuda(direction)) => {
                cuda.tangent(&self.tape, theta, direction)
            }
            _ => unreachable!("{ONE_DEVICE}"),
        }
    }

    /// Pass 4: tangents of the adjoints, after `tangent` with the same `direction`.
    ///
    /// # Errors
    /// The device's.
    pub fn tangent_backward<'a>(
        &mut self,
        theta: impl Into<Slice<'a>>,
        direction: impl Into<Slice<'a>>,
        product: impl Into<SliceMut<'a>>,
    ) -> anyhow::Result<()> {
        let product = product.into();
        assert_eq!(product.len(), self.tape.theta_len());
        match (&mut self.engine, theta.into(), direction.into(), product) {
            (
                Engine::Cpu(cpu),
                Slice::Host(theta),
                Slice::Host(direction),
                SliceMut::Host(product),
            ) => {
                cpu.tangent_backward(&self.tape, theta, direction, product);
                Ok(())
            }
            (
                Engine::Cuda(cuda),
                Slice::Cuda(theta),
                Slice::Cuda(direction),
                SliceMut::Cuda(product),
            ) => cuda.tangent_backward(&self.tape, theta, direction, product),
            _ => unreachable!("{ONE_DEVICE}"),
        }
    }

    /// Runs entry `index` of the tape once more in `pass` on the CPU, after that pass ran as a whole in
    /// [`Mode::Products`], with the vectors of that run. It does the work and the memory traffic it did
    /// there, which is what a measurement of one op wants, but adds to adjoints a second time:
    /// afterwards no result of the pass holds.
    ///
    /// # Panics
    /// On a GPU, or where the vectors' lengths are not θ's.
    pub fn repeat_entry(
        &mut self,
        pass: Pass,
        index: usize,
        theta: &[f32],
        direction: &[f32],
        gradient: &mut [f32],
    ) {
        for (what, len) in [
            ("theta", theta.len()),
            ("direction", direction.len()),
            ("gradient", gradient.len()),
        ] {
            assert_eq!(len, self.tape.theta_len(), "{what} = (ω, α)");
        }
        let Engine::Cpu(cpu) = &mut self.engine else {
            panic!("an entry is repeated on the CPU");
        };
        cpu.repeat_entry(&self.tape, (pass, index), theta, direction, gradient);
    }

    /// Runs `pass` in [`Mode::Products`] launch by launch, each measured: what `ndarts profile` shows. The
    /// passes before it must have run. None on the CPU, which has no launches.
    ///
    /// # Errors
    /// The device's.
    pub fn measure(
        &mut self,
        pass: Pass,
        [theta, direction, gradient]: [&Vector; 3],
    ) -> anyhow::Result<Option<Vec<Measured>>> {
        let Engine::Cuda(cuda) = &mut self.engine else {
            return Ok(None);
        };
        self.mode = Some(Mode::Products);
        let vectors = [theta, direction, gradient].map(|v| on_gpu(v.slice()));
        cuda.measure(&self.tape, pass, vectors).map(Some)
    }

    /// Bytes of device memory that the tape's buffers take by the plans made so far; none on the CPU.
    pub fn device_bytes(&self) -> Option<usize> {
        match &self.engine {
            Engine::Cpu(_) => None,
            Engine::Cuda(cuda) => Some(cuda.bytes()),
        }
    }

    /// K = `terms` Neumann terms from v, and p = Σ v_k: v_k = v_{k−1} − γ·H·v_{k−1}, on ω. α's part of v must
    /// be zero, and of p becomes so. `product` is scratch. With `guard` a term that grows ends the series
    /// and is left out. After `backward` in [`Mode::Products`].
    ///
    /// On a GPU the whole series is one graph, and the guard is evaluated where the norms are. None on
    /// the CPU, where nothing is gained over one [`Executor::product`] a term.
    ///
    /// # Errors
    /// The device's.
    pub fn series(
        &mut self,
        theta: Slice,
        settings: (Factor, usize, bool),
        [v, p, product]: [&mut Vector; 3],
    ) -> anyhow::Result<Option<Later<Series>>> {
        let (Engine::Cuda(cuda), Slice::Cuda(theta)) = (&mut self.engine, theta) else {
            return Ok(None);
        };
        let omega = self.tape.omega_len;
        p.part_mut(omega..p.len()).zero()?;
        let vectors = [v.slice(), p.slice(), product.slice()].map(on_gpu);
        let series = cuda.series(&self.tape, settings, theta, vectors)?;
        Ok(Some(series))
    }

    /// One generation of the evolution strategy on the loaded batch, all members as one batch: `theta` moves
    /// to the best of ω, ω₀ and the members. None on the CPU, where members take turns.
    ///
    /// # Errors
    /// The device's.
    pub fn generation(
        &mut self,
        (noise, members): (&Noise, usize),
        recombination: Recombination,
        theta: &mut Vector,
        [population, recombined]: [&mut Vector; 2],
    ) -> anyhow::Result<Option<Later<Candidates>>> {
        let Engine::Cuda(cuda) = &mut self.engine else {
            return Ok(None);
        };
        let wanted = (members + 1) * stride(theta.len());
        if population.len() != wanted {
            *population = Vector::zeros(&Device::Cuda(cuda.gpu()), wanted)?;
        }
        recombined.fit(theta.slice())?;
        let vectors = [theta.slice(), population.slice(), recombined.slice()].map(on_gpu);
        let [theta, population, recombined] = vectors;
        let omega = self.tape.omega_len;
        let generation = Generation::new(
            (noise, members),
            recombination,
            (theta, omega),
            population,
            recombined,
        );
        let vectors = (population, recombined);
        let found = cuda.generation(&self.tape, generation, members, vectors)?;
        self.mode = Some(Mode::Evaluate);
        Ok(Some(found))
    }
}

fn on_gpu(slice: Slice<'_>) -> Part<'_> {
    match slice {
        Slice::Cuda(part) => part,
        Slice::Host(_) => unreachable!("{ONE_DEVICE}"),
    }
}
