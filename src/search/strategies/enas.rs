//! ENAS: "Efficient neural architecture search via parameter sharing" (Pham et al., ICML 2018), with the
//! controller and the settings of the official code of NAS-Bench-201.
//!
//! An LSTM of two layers, 32 wide, draws architectures ([`super::controller`]); their logits are
//! 2.5·tanh(score/5). An architecture step draws ten and moves the controller along
//!
//! ```text
//! (b − R)·∂log π        R = accuracy + 10⁻⁴·entropy        b ← b − 0.01·(b − R)
//! ```
//!
//! by Adam (10⁻³, β 0 and 0.999, ε 10⁻³). At the end of the search a hundred are drawn and judged on one
//! validation batch; the best is the answer.
//!
//! The official controller of the DARTS-like space points at earlier nodes by attention; here a state is a
//! token like an op, with a row of the same linear layer. The entropy enters R as a number.

use super::controller::{
    AGGREGATE, Adam, BASELINE_DECAY, Controlled, Controller, ENTROPY_WEIGHT, LEARNING_RATE, Logits,
    Rule, Shape,
};
use super::random::{BATCHES, CANDIDATES, FINALISTS, Selection};
use super::{Method, StrategyKind, take_turns};
use crate::ops::relax::Relaxation;
use crate::space::Space;

/// ENAS as published.
pub const METHOD: Method = Method {
    spaces: &Space::ALL,
    relaxation: Relaxation::Given,
    options: &[
        LEARNING_RATE,
        AGGREGATE,
        ENTROPY_WEIGHT,
        BASELINE_DECAY,
        CANDIDATES.published(100.0),
        BATCHES.published(1.0),
        FINALISTS.published(0.0),
    ],
    defaults: take_turns,
    make: |settings| {
        let own = |name| StrategyKind::Enas.option(settings, name);
        let controller = Controller::new(settings.space, SHAPE, settings.seed);
        let (lr, len) = (own("controller-lr"), controller.parameters.len());
        Box::new(Controlled {
            adam: Adam::new(lr, (0.0, 1e-3), len),
            controller,
            rule: Rule::Reinforce,
            aggregate: own("aggregate") as usize,
            entropy_weight: own("entropy-weight"),
            baseline_decay: own("baseline-decay") as f32,
            baseline: None,
            selection: Selection::new(settings, StrategyKind::Enas),
        })
    },
};

/// The controller of the official code.
pub(super) const SHAPE: Shape = Shape {
    width: 32,
    layers: 2,
    logits: Logits::Bounded {
        bound: 2.5,
        temperature: 5.0,
    },
};
