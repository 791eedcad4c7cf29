//! sharpDARTS: "sharpDARTS: faster and more accurate differentiable architecture search" (Hundt, Jain & Hager
//! 2019, arXiv 1903.09900).
//!
//! - **Ops of one make.** An edge of DARTS prefers what is shallow and cheap to train. Here every convolution is a
//!   `SharpSepConv`: relu → depthwise → pointwise → batch norm twice, 3×3, of a width between the halves that is C, 4C
//!   (flood) or 32 (choke), the first half plain or dilated; beside them `none`, max pooling and the skip
//!   ([`SHARP_CANDIDATES`], `PRIMITIVES` of the official code).
//! - **Max-W regularisation.** c = 1 − max softmax(α) + softmax(α) ([`Relaxation::MaxW`]): the op of the largest weight
//!   passes whole, and every other is trained by how it compares with that one.
//! - **Cosine power annealing** of the learning rate, after a warm-up ([`cosine_power`]).
//!
//! dα is of first order and a cell is derived as in DARTS, from softmax(α). Settings are the defaults of the final
//! `train_search.py`: DARTS', but for the last learning rate, the power and a warm-up of 5 of 50 epochs, here that part of
//! any number. The official commands augment with cutout and AutoAugment, too; the first is a flag here, the second does not
//! exist. Behind a reduction cell the official search network has a separable 1×1 convolution in place of DARTS' factorized
//! reduction; here the cell is DARTS'.

use super::differentiable::first_order;
use super::{Design, Method, OwnSetting, Step, Stepped, Strategy, StrategyKind, take_turns};
use crate::device::{Device, SliceMut};
use crate::network::Variant;
use crate::ops::relax::Relaxation;
use crate::optim::sgd::cosine_power;
use crate::search::settings::SearchSettings;
use crate::space::{DartsGenotype, Genotype, SHARP_CANDIDATES, Space, softmax_cell};

/// sharpDARTS as published.
pub const METHOD: Method = Method {
    spaces: &[Space::Darts],
    relaxation: Relaxation::MaxW,
    options: &[
        OwnSetting {
            name: "lr-power",
            about: "p of cosine power annealing: the larger, the sooner the learning rate falls; 1: the cosine",
            default: [2.0; 2],
            range: [1.0, 1e4],
            whole: false,
        },
        OwnSetting {
            name: "lr-warmup",
            about: "part of the search in which the learning rate climbs",
            default: [0.1; 2],
            range: [0.0, 0.95],
            whole: false,
        },
    ],
    defaults: |settings: &mut SearchSettings| {
        take_turns(settings);
        settings.lr_min = 1e-4;
    },
    make: |settings| {
        let own = |name| StrategyKind::SharpDarts.option(settings, name);
        Box::new(SharpDarts {
            power: own("lr-power"),
            warmup: own("lr-warmup"),
            gradient: first_order(),
        })
    },
};

/// See the module.
struct SharpDarts {
    power: f64,
    warmup: f64,
    gradient: Box<dyn Strategy>,
}

impl Strategy for SharpDarts {
    fn design(&self, settings: &SearchSettings) -> Design {
        Design {
            cells: settings.cells,
            variant: Variant {
                relaxation: METHOD.relaxation,
                ops: &SHARP_CANDIDATES,
                ..Variant::default()
            },
            stage: 0,
        }
    }

    fn rate(&self, settings: &SearchSettings, epoch: usize) -> f32 {
        let warmup = (self.warmup * settings.epochs as f64) as usize;
        let rates = [settings.lr, settings.lr_min];
        cosine_power(rates, self.power, warmup, epoch, settings.epochs)
    }

    fn architecture_step(
        &mut self,
        step: Step,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Stepped> {
        self.gradient.architecture_step(step, alpha_gradient)
    }

    fn genotype(&self, _: Space, alphas: &[(&str, &[f32])]) -> Genotype {
        let [normal, reduce] = ["alphas_normal", "alphas_reduce"].map(|name| {
            let found = alphas.iter().find(|(given, _)| *given == name);
            let (_, alpha) = found.expect("the α of this supernet");
            softmax_cell(alpha, &SHARP_CANDIDATES)
        });
        Genotype::Darts(DartsGenotype::of_cells(normal, reduce))
    }

    fn state(&self) -> anyhow::Result<Vec<f32>> {
        self.gradient.state()
    }

    fn restore(&mut self, device: &Device, state: &[f32]) -> anyhow::Result<()> {
        self.gradient.restore(device, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::GenotypeOp;

    #[test]
    fn the_rate_climbs_in_5_of_50_epochs_and_a_cell_is_derived_by_the_sharper_ops() {
        let settings = SearchSettings {
            epochs: 50,
            ..crate::common::settings(Space::Darts, StrategyKind::SharpDarts)
        };
        let strategy = (METHOD.make)(&settings);
        let rates: Vec<f32> = (0..50)
            .map(|epoch| strategy.rate(&settings, epoch))
            .collect();
        assert!(rates[..6].is_sorted_by(|a, b| a < b));
        assert!(rates[5..].is_sorted_by(|a, b| a > b));
        assert_eq!((rates[5], rates[49]), (settings.lr, settings.lr_min));

        let mut alpha = vec![0.0; 14 * SHARP_CANDIDATES.len()];
        let last = alpha.len() - 1;
        alpha[last] = 1.0;
        let names = ["alphas_normal", "alphas_reduce"];
        let alphas = names.map(|name| (name, alpha.as_slice()));
        let Genotype::Darts(found) = strategy.genotype(Space::Darts, &alphas) else {
            unreachable!("the space is DARTS");
        };
        assert_eq!(found.normal[6], (GenotypeOp::DilChokeConv3x3, 4));
        let text = found.to_string();
        assert_eq!(text.parse::<DartsGenotype>().unwrap(), found);
    }
}
