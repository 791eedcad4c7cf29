//! A generation on a GPU: see `kernels/perturb.cu`. Three launches, whatever the population.

use super::Noise;
use crate::device::cuda::gpu::FlatResult;
use crate::device::cuda::launch::{Header, Kernel, Launch, Recording, Step};
use crate::device::vector::Part;
use crate::layout_test;
use crate::ops::cuda::narrow;
use bytemuck::{Pod, Zeroable};

/// `Generation` of `perturb.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Parameters {
    header: Header,
    theta: u64,
    population: u64,
    recombined: u64,
    outcomes: u64,
    choice: u64,
    first_stream: u64,
    key0: u32,
    key1: u32,
    stride: u32,
    len: u32,
    omega: u32,
    members: u32,
    sigma: f32,
    antithetic: u32,
    factor: f64,
    literal: u32,
    unused: u32,
}

layout_test!(Parameters = 112);

/// THREADS of the kernel file; a thread takes four elements.
const THREADS: usize = 256;
/// Most blocks: enough for every GPU, and each then draws for many members in turn.
const MOST_BLOCKS: usize = 4096;

/// Every entry of `perturb.cu`.
pub const ENTRIES: [&str; 3] = ["perturb_population", "perturb_recombine", "perturb_select"];

/// Elements from a member's θ to the next: whole vectors.
pub fn stride(theta_len: usize) -> usize {
    theta_len.next_multiple_of(4)
}

/// How a generation recombines.
#[derive(Clone, Copy, Debug)]
pub struct Recombination {
    /// σ
    pub sigma: f32,
    /// η/(nσ)
    pub factor: f64,
    /// The weights as the paper prints them.
    pub literal: bool,
}

/// A generation's vectors on the device.
#[derive(Clone, Copy)]
pub struct Generation<'a> {
    parameters: Parameters,
    theta: Part<'a>,
}

impl<'a> Generation<'a> {
    /// Of `members` members of `theta` = (ω, α), in `population` `[n + 1, stride]` behind θ itself, with
    /// ω₀ in `recombined`.
    pub fn new(
        (noise, members): (&Noise, usize),
        recombination: Recombination,
        (theta, omega): (Part<'a>, usize),
        population: Part<'a>,
        recombined: Part<'a>,
    ) -> Generation<'a> {
        let stride = stride(theta.len);
        assert!(population.len >= (members + 1) * stride && recombined.len == theta.len);
        assert!(omega <= theta.len);
        assert!(
            [theta, population, recombined]
                .iter()
                .all(|v| v.address % 16 == 0),
            "whole vectors"
        );
        let [key0, key1] = noise.philox.key();
        let parameters = Parameters {
            header: Header::default(),
            theta: theta.address,
            population: population.address,
            recombined: recombined.address,
            outcomes: 0,
            choice: theta.gpu.flat().result(FlatResult::Choice),
            first_stream: noise.first_stream,
            key0,
            key1,
            stride: narrow(stride),
            len: narrow(theta.len),
            omega: narrow(omega),
            members: narrow(members),
            sigma: recombination.sigma,
            antithetic: u32::from(noise.antithetic),
            factor: recombination.factor,
            literal: u32::from(recombination.literal),
            unused: 0,
        };
        Generation { parameters, theta }
    }

    fn run(&self, entry: &'static str, outcomes: u64, shared: usize) -> anyhow::Result<()> {
        let parameters = Parameters {
            outcomes,
            ..self.parameters
        };
        let blocks = self.theta.len.div_ceil(4 * THREADS).clamp(1, MOST_BLOCKS);
        let kernel = Kernel::new("perturb", entry).define("STORAGE", "float");
        let grid = [narrow(blocks), 1, 1];
        let launch = Launch::new(kernel, grid, narrow(THREADS), shared, &parameters);
        let mut recording = Recording::new("generation");
        recording.steps.push(Step::Launch(launch));
        // The streams of the noise are the generation's own: no graph would be replayed.
        self.theta.gpu.issue(recording)
    }

    /// Writes θ and all members.
    ///
    /// # Errors
    /// The device's.
    pub fn populate(&self) -> anyhow::Result<()> {
        self.run("perturb_population", 0, 0)
    }

    /// Writes ω₀ (and α) by the losses at `outcomes`, of ω and of the members.
    ///
    /// # Errors
    /// The device's.
    pub fn recombine(&self, outcomes: u64) -> anyhow::Result<()> {
        let shared = 4 * self.parameters.members as usize;
        self.run("perturb_recombine", outcomes, shared)
    }

    /// Moves ω to the best of ω, ω₀ and the members, by all losses at `outcomes`; returns which: 0 for ω,
    /// i for member i from 1, n + 1 for ω₀.
    ///
    /// # Errors
    /// The device's.
    pub fn select(&self, outcomes: u64) -> anyhow::Result<usize> {
        self.run("perturb_select", outcomes, 0)?;
        let mut choice = [0u32];
        self.theta.gpu.read(self.parameters.choice, &mut choice)?;
        Ok(choice[0] as usize)
    }
}
