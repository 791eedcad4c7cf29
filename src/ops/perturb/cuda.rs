//! A generation on a GPU: see `kernels/perturb.cu`. Three launches, whatever the population.

use super::Noise;
use crate::device::cuda::launch::{Header, Kernel, Launch, Recording, Step};
use crate::device::vector::Part;
use crate::layout_test;
use crate::ops::cuda::{DeviceOutcome, narrow};
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
            choice: 0,
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
        let behind = self.parameters.members as u64 + 2;
        let parameters = Parameters {
            outcomes,
            choice: outcomes + behind * size_of::<DeviceOutcome>() as u64,
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

    /// Moves ω to the best of ω, ω₀ and the members, by all losses at `outcomes`, and leaves which as u32
    /// behind them: 0 for ω, i for member i from 1, n + 1 for ω₀.
    ///
    /// # Errors
    /// The device's.
    pub fn select(&self, outcomes: u64) -> anyhow::Result<()> {
        self.run("perturb_select", outcomes, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{perturb, recombine};
    use super::*;
    use crate::device::cuda::for_tests;
    use crate::device::{Device, Slice, Vector};

    fn part(vector: &Vector) -> Part<'_> {
        match vector.slice() {
            Slice::Cuda(part) => part,
            Slice::Host(_) => panic!("a vector on the device"),
        }
    }

    fn outcomes(losses: &[f64]) -> Vec<DeviceOutcome> {
        let outcome = |&loss: &f64| DeviceOutcome {
            loss,
            top1: 0,
            top5: 0,
        };
        losses.iter().map(outcome).collect()
    }

    #[test]
    fn a_generation_on_the_device_has_the_bits_of_the_cpu() {
        let Some(gpu) = for_tests() else { return };
        let device = Device::Cuda(gpu.clone());
        for (len, omega, members, antithetic) in [
            (1, 1, 1, false),
            (7, 5, 2, true),
            (5003, 4999, 5, false),
            (4096, 4000, 4, true),
        ] {
            let noise = Noise::new(11, 6, members, antithetic);
            let theta: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
            let stride = stride(len);
            let on_device = Vector::new(&device, theta.clone()).unwrap();
            let population = Vector::zeros(&device, (members + 1) * stride).unwrap();
            let recombined = Vector::zeros(&device, len).unwrap();
            let recombination = Recombination {
                sigma: 0.03,
                factor: 0.7,
                literal: false,
            };
            let generation = Generation::new(
                (&noise, members),
                recombination,
                (part(&on_device), omega),
                part(&population),
                part(&recombined),
            );
            generation.populate().unwrap();
            let all = population.slice().to_vec().unwrap();
            assert_eq!(all[..len], theta);
            for m in 0..members {
                let mut expected = theta.clone();
                perturb(&noise, m, 0.03, &theta[..omega], &mut expected[..omega]);
                assert_eq!(
                    all[(m + 1) * stride..][..len],
                    expected,
                    "member {m} of {len}"
                );
            }
            let losses: Vec<f64> = (0..members + 1).map(|i| 2.0 - (i as f64).cos()).collect();
            let mean = losses[1..].iter().sum::<f64>() / members as f64;
            let weights: Vec<f32> = losses[1..]
                .iter()
                .map(|l| (-0.7 * (l - mean)) as f32)
                .collect();
            let room = gpu.buffer(16 * (members + 3)).unwrap();
            gpu.write(room.address(), &outcomes(&losses)).unwrap();
            generation.recombine(room.address()).unwrap();
            let mut expected = theta.clone();
            recombine(&noise, &weights, &mut expected[..omega]);
            assert_eq!(recombined.slice().to_vec().unwrap(), expected);

            // A member, ω₀ and ω in turn are the best; what is no number is never kept.
            for best in [members, members + 1, 0] {
                let mut losses = vec![f64::NAN; members + 2];
                losses[best] = 1.0;
                if best != 0 {
                    losses[0] = 3.0;
                }
                gpu.write(room.address(), &outcomes(&losses)).unwrap();
                let before = on_device.slice().to_vec().unwrap();
                generation.select(room.address()).unwrap();
                let mut choice = [0u32];
                let behind = room.address() + 16 * (members as u64 + 2);
                gpu.read(behind, &mut choice).unwrap();
                assert_eq!(choice[0] as usize, best);
                let expected = match best {
                    0 => before,
                    _ if best > members => recombined.slice().to_vec().unwrap(),
                    _ => all[best * stride..][..len].to_vec(),
                };
                let found = on_device.slice().to_vec().unwrap();
                assert_eq!(found[..omega], expected[..omega]);
                assert_eq!(found[omega..], theta[omega..]);
            }
        }
    }
}
