//! NASNet: "Learning transferable architectures for scalable image recognition" (Zoph et al., CVPR 2018), over
//! weights that are shared.
//!
//! An LSTM of one layer, 100 wide, draws cells ([`super::controller`]): for each node of either cell two states
//! and an op on each, which the paper's blocks then combine; here always by addition, as the cells that it
//! found do. An architecture step draws a minibatch of twenty, takes their accuracies as rewards, and moves the
//! controller by proximal policy optimisation, Adam at 3.5·10⁻⁴, with 10⁻⁵ of the entropy beside it and a
//! baseline of decay 0.95: appendices A.2 and A.3.
//!
//! The paper trains every network that is drawn, 20 epochs from scratch, and 20,000 of them. Here they share
//! the weights of a supernet, so its 450 GPUs for four days become minutes. What follows from that, or what
//! the paper leaves open, is ours: four weight steps before a minibatch; ratios of whole architectures, as it
//! speaks of the joint probability, clipped at 0.2, and ten steps a minibatch (both as Schulman et al. 2017);
//! and the end, where it trains the best 250 of those drawn until they converge: 250 are drawn and judged on
//! one batch, and the best ten of them on the whole validation half.

use super::controller::{
    AGGREGATE, Adam, BASELINE_DECAY, Controlled, Controller, ENTROPY_WEIGHT, LEARNING_RATE, Logits,
    Rule, Shape,
};
use super::random::{BATCHES, CANDIDATES, FINALISTS, Selection};
use super::{Method, OwnSetting, StrategyKind, take_turns};
use crate::ops::relax::Relaxation;
use crate::search::settings::SearchSettings;
use crate::space::Space;

/// NASNet as published, with weights that are shared.
pub const METHOD: Method = Method {
    spaces: &[Space::Nasnet],
    relaxation: Relaxation::Given,
    options: &[
        LEARNING_RATE.published(3.5e-4),
        AGGREGATE.published(20.0),
        ENTROPY_WEIGHT.published(1e-5),
        BASELINE_DECAY.published(0.95),
        OwnSetting {
            name: "ratio-clip",
            about: "bound of the ratio of probabilities: within 1 − this and 1 + this",
            default: [0.2; 2],
            range: [0.0, 1e3],
            whole: false,
        },
        OwnSetting {
            name: "passes",
            about: "steps of the controller for each minibatch of architectures",
            default: [10.0; 2],
            range: [1.0, 1e4],
            whole: true,
        },
        CANDIDATES.published(250.0),
        BATCHES.published(1.0),
        FINALISTS.published(10.0),
    ],
    defaults: |settings: &mut SearchSettings| {
        take_turns(settings);
        settings.inner_steps = 4;
    },
    make: |settings| {
        let own = |name| StrategyKind::Nasnet.option(settings, name);
        let controller = Controller::new(settings.space, SHAPE, settings.seed);
        let (lr, len) = (own("controller-lr"), controller.parameters.len());
        Box::new(Controlled {
            adam: Adam::new(lr, (0.9, 1e-8), len),
            controller,
            rule: Rule::Proximal {
                clip: own("ratio-clip"),
                passes: own("passes") as usize,
            },
            aggregate: own("aggregate") as usize,
            entropy_weight: own("entropy-weight"),
            baseline_decay: own("baseline-decay") as f32,
            baseline: None,
            selection: Selection::new(settings, StrategyKind::Nasnet),
        })
    },
};

/// The controller of the paper.
pub(super) const SHAPE: Shape = Shape {
    width: 100,
    layers: 1,
    logits: Logits::Plain,
};
