//! Search strategies behind one trait.
//!
//! A strategy owns its relaxation (how α becomes op weights, and the adjoint back), its architecture step,
//! its derivation, and its settings with their published defaults. It is a file of its own with a
//! [`Method`], and a line in the list below.
//!
//! Two kinds share the trait. A *differentiable* strategy leaves the softmax to the tape and gives a
//! hypergradient ([`differentiable`]). The others weigh ops themselves ([`Weighting`]): the α part of θ then
//! holds op weights, whatever they were made from, and ops without a part in the sum do not run at all. α is
//! theirs, outside the tape.

mod architecture;
mod controller;
mod differentiable;
mod enas;
mod evolution;
mod fair_darts;
mod gdas;
mod judge;
mod nasnet;
mod p_darts;
mod pc_darts;
mod pnas;
mod random;
mod reinforce;
mod setn;
mod sharp_darts;

use super::settings::SearchSettings;
use crate::autograd::{Executor, Mode};
use crate::data::Batch;
use crate::device::random::{Philox, PhiloxRng, Purpose};
use crate::device::{Device, Later, SliceMut, Vector};
use crate::hypergradient::Report;
use crate::network::Variant;
use crate::ops::Outcome;
use crate::ops::relax::{Relaxation, softmax};
use crate::ops::update::norm;
use crate::optim::sgd::cosine;
use crate::optim::{SecondMoment, Sgd};
use crate::space::{Genotype, Space, derive};
use serde::{Deserialize, Serialize};
use std::ops::Range;

pub use architecture::{Architecture, Weighting};
pub use judge::{Judge, Score};

/// The list of strategies: help, name, where its [`Method`] is.
macro_rules! strategies {
    ($($(#[doc = $doc:literal])+ $variant:ident = $method:path,)+) => {
        /// The search strategies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
        #[serde(rename_all = "kebab-case")]
        pub enum StrategyKind {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl StrategyKind {
            /// All of them, in the order of `--help`.
            pub const ALL: &[StrategyKind] = &[$(StrategyKind::$variant,)+];

            /// What it is made of.
            pub fn method(self) -> &'static Method {
                match self {
                    $(StrategyKind::$variant => &$method,)+
                }
            }
        }
    };
}

strategies! {
    /// Implicit hypergradient by a Neumann series (Han et al. 2023).
    Ndarts = differentiable::NDARTS,
    /// DARTS, first order: dα = ∂L2/∂α (Liu et al. 2019).
    DartsV1 = differentiable::DARTS_V1,
    /// DARTS, second order: one unrolled step (Liu et al. 2019).
    DartsV2 = differentiable::DARTS_V2,
    /// One op an edge by Gumbel softmax, straight-through gradient (Dong & Yang 2019).
    Gdas = gdas::METHOD,
    /// Sigmoid in place of softmax, zero–one loss, derivation by threshold (Chu et al. 2020).
    FairDarts = fair_darts::METHOD,
    /// Three stages of growing depth and fewer ops, dropout on skip connections (Chen et al. 2019).
    PDarts = p_darts::METHOD,
    /// A quarter of the channels through the ops, edges normalised (Xu et al. 2020).
    PcDarts = pc_darts::METHOD,
    /// Sharper separable convolutions, the strongest op at weight one, cosine power annealing (Hundt et al. 2019).
    SharpDarts = sharp_darts::METHOD,
    /// Random search with weight sharing (Li & Talwalkar 2019).
    Random = random::METHOD,
    /// Regularised evolution over shared weights (Real et al. 2019).
    Evolution = evolution::METHOD,
    /// Policy gradient over shared weights (Williams 1992).
    Reinforce = reinforce::METHOD,
    /// LSTM controller over shared weights (Pham et al. 2018).
    Enas = enas::METHOD,
    /// LSTM controller by proximal policy optimisation over shared weights (Zoph et al. 2018).
    Nasnet = nasnet::METHOD,
    /// Uniform paths for the weights, the best of many drawn from α (Dong & Yang 2019).
    Setn = setn::METHOD,
    /// Cells of growing size, the next ranked by a surrogate, over shared weights (Liu et al. 2018).
    Pnas = pnas::METHOD,
}

/// A strategy as the settings and the command line know it.
pub struct Method {
    /// Spaces that its paper defines it for.
    pub spaces: &'static [Space],
    /// Whether the tape relaxes α, or the strategy.
    pub relaxation: Relaxation,
    /// Its own settings.
    pub options: &'static [OwnSetting],
    /// Lays its published settings over the defaults of every search.
    pub defaults: fn(&mut SearchSettings),
    /// Makes it.
    pub make: fn(&SearchSettings) -> Box<dyn Strategy>,
}

/// A setting that only one strategy has: `--option NAME=VALUE`.
pub struct OwnSetting {
    /// Its name.
    pub name: &'static str,
    /// What it is, for `--help`.
    pub about: &'static str,
    /// As published, in the spaces of DARTS and NASNet and in that of NAS-Bench-201.
    pub default: [f64; 2],
    /// Least and largest value.
    pub range: [f64; 2],
    /// It takes whole numbers only.
    pub whole: bool,
}

impl OwnSetting {
    /// The same setting with another published value, in all spaces.
    const fn published(self, default: f64) -> OwnSetting {
        OwnSetting {
            default: [default; 2],
            ..self
        }
    }
}

impl StrategyKind {
    /// Its name on the command line and in files.
    pub fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self).expect("none is hidden");
        value.get_name().to_owned()
    }

    /// Its own setting `name`: as given, or as published.
    ///
    /// # Panics
    /// A name that it does not have.
    pub fn option(self, settings: &SearchSettings, name: &str) -> f64 {
        let own = self.method().options.iter().find(|own| own.name == name);
        let published = own.expect("a setting of this strategy").default;
        let default = published[usize::from(settings.space == Space::NasBench201)];
        settings.option.get(name).copied().unwrap_or(default)
    }

    /// Checks that the strategy is defined for the settings: the setting at fault, and what is wrong.
    ///
    /// # Errors
    /// A space that the strategy's paper does not define it for, or an `--option` that it does not have or that
    /// is out of range.
    pub fn check(self, settings: &SearchSettings) -> Result<(), (&'static str, String)> {
        let (name, method) = (self.name(), self.method());
        if !method.spaces.contains(&settings.space) {
            let spaces: Vec<&str> = method.spaces.iter().map(|space| space.name()).collect();
            let spaces = spaces.join(" or ");
            let found = settings.space;
            return Err((
                "space",
                format!("expected {spaces}, where strategy {name} is defined, found {found}"),
            ));
        }
        device(settings.space, &settings.device).map_err(|problem| ("device", problem))?;
        for (given, &value) in &settings.option {
            let Some(own) = method.options.iter().find(|own| own.name == given) else {
                let known: Vec<&str> = method.options.iter().map(|own| own.name).collect();
                let known = if known.is_empty() {
                    "none".into()
                } else {
                    known.join(", ")
                };
                return Err((
                    "option",
                    format!(
                        "expected a setting of strategy {name} (it has {known}), found `{}`",
                        given.escape_debug()
                    ),
                ));
            };
            let [least, most] = own.range;
            let whole = if own.whole {
                "a whole number"
            } else {
                "a number"
            };
            if !(least..=most).contains(&value) || own.whole && value.fract() != 0.0 {
                return Err((
                    "option",
                    format!("expected {given} to be {whole} from {least} to {most}, found {value}"),
                ));
            }
        }
        strategy(settings).check(settings)
    }
}

/// The device to open where `asked` is wanted: `auto` is the CPU where the space runs on it alone.
///
/// # Errors
/// A GPU, for the NASNet space: a mix of the 78 terms of its last node does not fit a block's shared memory in
/// the fourth pass.
pub fn device(space: Space, asked: &str) -> Result<&str, String> {
    match (space, asked) {
        (Space::Nasnet, "auto" | "cpu") => Ok("cpu"),
        (Space::Nasnet, _) => Err(format!(
            "expected `auto` or `cpu`, as space {space} runs on the CPU alone, found `{asked}`"
        )),
        _ => Ok(asked),
    }
}

/// The published schedule of nearly every method: weights and architecture take turns, each element of α
/// has its own second moment, and the search goes on to its last epoch.
fn take_turns(settings: &mut SearchSettings) {
    settings.inner_steps = 1;
    settings.arch_second_moment = SecondMoment::Element;
    settings.stable_epochs = 0;
}

/// The epochs of one of so many stages, as equal as whole numbers allow.
fn epochs_of(stage: usize, stages: usize, epochs: usize) -> Range<usize> {
    stage * epochs / stages..(stage + 1) * epochs / stages
}

/// The stage that an epoch lies in.
fn stage_of(epoch: usize, stages: usize, epochs: usize) -> usize {
    let holds = |&stage: &usize| epochs_of(stage, stages, epochs).contains(&epoch);
    (0..stages).find(holds).unwrap_or(stages - 1)
}

/// What a strategy draws random numbers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draw {
    /// The op weights of a weight step.
    Weights = 0,
    /// An architecture step.
    Architecture = 1,
    /// The end of an epoch.
    Selection = 2,
    /// The start of the search.
    Start = 3,
}

/// The supernet that a strategy trains.
#[derive(Clone, Debug, PartialEq)]
pub struct Design {
    /// Cells, as `--cells` counts them.
    pub cells: usize,
    /// What the strategy changes about it.
    pub variant: Variant,
    /// Number of the stage, of which initial values are drawn.
    pub stage: u64,
}

/// Where a search stands.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Number of the weight step, the round or the epoch, from 0.
    pub number: u64,
    /// Epoch, from 0.
    pub epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
}

impl Moment {
    /// The part of the search that lies behind, 0 in the first epoch and 1 in the last.
    fn progress(&self) -> f64 {
        self.epoch as f64 / (self.epochs.max(2) - 1) as f64
    }

    /// True in the last epoch.
    fn is_last(&self) -> bool {
        self.epoch + 1 >= self.epochs
    }
}

/// The random numbers of one draw: a function of seed, purpose and number, so that nothing has to be kept
/// for a resumed search.
fn rng(seed: u64, draw: Draw, number: u64) -> PhiloxRng {
    Philox::new(seed, Purpose::Architectures).rng(4 * number + draw as u64)
}

/// What a strategy sees in an architecture step.
pub struct Step<'a> {
    /// The supernet.
    pub executor: &'a mut Executor,
    /// (ω, α), or (ω, op weights) for a strategy that weighs ops itself.
    pub theta: &'a mut Vector,
    /// α
    pub alpha: &'a [f32],
    /// A fresh training batch, of L1.
    pub training: &'a Batch,
    /// A fresh validation batch, of L2.
    pub validation: &'a Batch,
    /// The optimiser of ω.
    pub sgd: &'a Sgd,
    /// Its learning rate in this epoch.
    pub lr: f32,
    /// When; the number is the round's.
    pub moment: Moment,
}

impl Step<'_> {
    /// L2 with the ops weighed as said.
    fn loss(&mut self, weighting: &Weighting) -> anyhow::Result<Outcome> {
        weighting.apply(self.executor, self.theta)?;
        let batch = self.validation;
        self.executor.load(&batch.images, &batch.labels)?;
        self.executor.forward(Mode::Evaluate, &*self.theta)
    }

    /// L2 with the ops weighed as said, and c̄ = ∂L2/∂c, which is zero for ops that do not run. `scratch` is
    /// made as long as θ.
    fn loss_and_adjoint(
        &mut self,
        weighting: &Weighting,
        scratch: &mut Vector,
    ) -> anyhow::Result<(Outcome, Vec<f32>)> {
        weighting.apply(self.executor, self.theta)?;
        let batch = self.validation;
        self.executor.load(&batch.images, &batch.labels)?;
        scratch.fit(self.theta.slice())?;
        let outcome = self.executor.forward(Mode::Gradient, &*self.theta)?;
        self.executor.backward(&*self.theta, &mut *scratch)?;
        let omega = self.executor.tape().omega_len;
        Ok((outcome, scratch.part(omega..scratch.len()).to_vec()?))
    }
}

/// Numbers of a strategy's own, for the log.
pub type Numbers = Vec<(&'static str, f64)>;

/// What an architecture step showed.
#[derive(Default)]
pub struct Stepped {
    /// Loss and norms.
    pub report: Later<Report>,
    /// dα was written, for Adam to follow.
    pub follow: bool,
    /// Numbers of the strategy's own.
    pub numbers: Numbers,
}

impl Stepped {
    /// Hands `gradient` over as dα, for Adam to follow.
    fn following(
        gradient: &[f32],
        mut alpha_gradient: SliceMut,
        validation: Outcome,
        numbers: Numbers,
    ) -> anyhow::Result<Stepped> {
        alpha_gradient.write(gradient)?;
        let report = Report {
            validation,
            direct_norm: norm(alpha_gradient.as_slice())?,
            ..Report::default()
        };
        Ok(Stepped {
            report: report.into(),
            follow: true,
            numbers,
        })
    }
}

/// A way to search.
pub trait Strategy: Send {
    /// What does not fit the strategy: the setting at fault, and what is wrong.
    ///
    /// # Errors
    /// See [`StrategyKind::check`].
    fn check(&self, _settings: &SearchSettings) -> Result<(), (&'static str, String)> {
        Ok(())
    }

    /// The supernet that it trains now.
    fn design(&self, settings: &SearchSettings) -> Design {
        Design {
            cells: settings.cells,
            variant: Variant {
                relaxation: settings.strategy.method().relaxation,
                ..Variant::default()
            },
            stage: 0,
        }
    }

    /// Told before the first round of an epoch; another [`Strategy::design`] afterwards begins with weights, α and
    /// optimisers of its own.
    fn begin_epoch(&mut self, _epoch: usize, _alpha: &[f32]) {}

    /// The epochs of the stage that `epoch` lies in, over which the learning rate falls.
    fn stage(&self, _epoch: usize, epochs: usize) -> Range<usize> {
        0..epochs
    }

    /// The learning rate of the weights in an epoch.
    fn rate(&self, settings: &SearchSettings, epoch: usize) -> f32 {
        let stage = self.stage(epoch, settings.epochs);
        cosine(
            settings.lr,
            settings.lr_min,
            epoch - stage.start,
            stage.len(),
        )
    }

    /// Whether α stays as it is in an epoch, beside those of `--warmup-epochs`.
    fn holds(&self, _epoch: usize, _epochs: usize) -> bool {
        false
    }

    /// The op weights of a weight step; none where the tape relaxes α.
    fn weigh(&mut self, _moment: Moment, _alpha: &[f32]) -> Option<Weighting> {
        None
    }

    /// The op weights that the supernet is evaluated with at the end of an epoch; none where the tape
    /// relaxes α.
    fn shown(&self, _alpha: &[f32]) -> Option<Weighting> {
        None
    }

    /// False for a strategy without architecture steps.
    fn steps(&self) -> bool {
        true
    }

    /// One architecture step; writes dα where it says so.
    ///
    /// # Errors
    /// The device's.
    fn architecture_step(
        &mut self,
        step: Step,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Stepped>;

    /// What there is to do, and to log, at the end of an epoch.
    ///
    /// # Errors
    /// The device's.
    fn end_epoch(
        &mut self,
        _judge: &mut Judge,
        _moment: Moment,
        _alpha: &[f32],
    ) -> anyhow::Result<Numbers> {
        Ok(Numbers::new())
    }

    /// The genotype that the search would end with now.
    fn genotype(&self, space: Space, alphas: &[(&str, &[f32])]) -> Genotype {
        derive(space, alphas).expect("the α of this space, finite")
    }

    /// The op weights to show, in α's order; `ops` an edge.
    fn op_weights(&self, ops: usize, alpha: &[f32]) -> Vec<f32> {
        softmax_rows(ops, alpha)
    }

    /// A vector to keep in checkpoints.
    ///
    /// # Errors
    /// The device's.
    fn state(&self) -> anyhow::Result<Vec<f32>> {
        Ok(Vec::new())
    }

    /// Restores [`Strategy::state`] on `device`.
    ///
    /// # Errors
    /// The device's, or a state of another search.
    fn restore(&mut self, _device: &Device, _state: &[f32]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Softmax of each row of `ops`.
fn softmax_rows(ops: usize, alpha: &[f32]) -> Vec<f32> {
    let mut weights = vec![0.0; alpha.len()];
    for (row, alpha) in weights.chunks_exact_mut(ops).zip(alpha.chunks_exact(ops)) {
        softmax(alpha, row);
    }
    weights
}

/// The place of the largest, the first of equals.
fn first_maximum<T: PartialOrd>(values: &[T]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Checks that a checkpoint's `strategy` vector has the length that this strategy keeps.
fn check_state(state: &[f32], expected: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        state.len() == expected,
        "checkpoint: optimizer tensor `strategy`: expected {expected} elements, found {}; it belongs to \
         another strategy",
        state.len()
    );
    Ok(())
}

/// Makes the strategy that the settings name.
pub fn strategy(settings: &SearchSettings) -> Box<dyn Strategy> {
    (settings.strategy.method().make)(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_has_options_of_distinct_names_and_defaults_within_their_range() {
        for kind in StrategyKind::ALL {
            let options = kind.method().options;
            for (index, own) in options.iter().enumerate() {
                assert!(options[..index].iter().all(|other| other.name != own.name));
                for default in own.default {
                    let [least, most] = own.range;
                    assert!((least..=most).contains(&default), "{}", own.name);
                    assert!(!own.whole || default.fract() == 0.0, "{}", own.name);
                }
            }
        }
    }

    #[test]
    fn the_nasnet_space_runs_on_the_cpu_alone() {
        assert_eq!(device(Space::Darts, "cuda:1"), Ok("cuda:1"));
        assert_eq!(device(Space::Nasnet, "auto"), Ok("cpu"));
        let refused = device(Space::Nasnet, "cuda").unwrap_err();
        assert!(
            refused.contains("space nasnet runs on the CPU alone"),
            "{refused}"
        );
    }
}
