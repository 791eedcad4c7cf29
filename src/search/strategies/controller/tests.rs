//! What a controller learns, by either rule, and what it draws.

use super::super::{enas, nasnet};
use super::*;
use crate::search::tabular::reinforce::draw;

const REINFORCE: (Shape, Rule) = (enas::SHAPE, Rule::Reinforce);
const PROXIMAL: (Shape, Rule) = (
    nasnet::SHAPE,
    Rule::Proximal {
        clip: 0.2,
        passes: 5,
    },
);

/// A controller of a space, without a supernet to judge by.
fn controlled(space: Space, (shape, rule): (Shape, Rule), lr: f64) -> Controlled {
    let controller = Controller::new(space, shape, 2);
    let beta1 = match rule {
        Rule::Reinforce => 0.0,
        Rule::Proximal { .. } => 0.9,
    };
    Controlled {
        adam: Adam::new(lr, (beta1, 1e-3), controller.parameters.len()),
        controller,
        rule,
        aggregate: 10,
        entropy_weight: 0.0,
        baseline_decay: 0.9,
        baseline: None,
        selection: Selection::of(space, 3),
    }
}

/// The share of decisions that pick op 3.
fn reward(trace: &Trace) -> f64 {
    let picked = trace.picked();
    picked.iter().filter(|&&op| op == 3).count() as f64 / picked.len() as f64
}

#[test]
fn the_controller_learns_what_is_rewarded_by_either_rule() {
    for (what, steps) in [(REINFORCE, 120), (PROXIMAL, 40)] {
        let mut found = controlled(Space::NasBench201, what, 0.02);
        let share = |found: &Controlled| {
            let mut rng = rng(9, Draw::Selection, 0);
            (0..100)
                .map(|_| reward(&found.draw(&mut rng).0))
                .sum::<f64>()
                / 100.0
        };
        let before = share(&found);
        for step in 0..steps {
            let mut rng = rng(9, Draw::Architecture, step);
            let judged: Vec<Judged> = (0..10)
                .map(|_| {
                    let trace = found.draw(&mut rng).0;
                    let advantage = (reward(&trace) - before) / 10.0;
                    Judged { trace, advantage }
                })
                .collect();
            found.follow(&judged);
        }
        let after = share(&found);
        assert!(after > before + 0.2, "{:?}: {before} to {after}", what.1);
    }
}

#[test]
fn a_ratio_past_its_bound_moves_nothing_any_more() {
    let one_pass = Rule::Proximal {
        clip: 0.2,
        passes: 1,
    };
    let mut found = controlled(Space::Nasnet, (nasnet::SHAPE, one_pass), 1e-4);
    let trace = found.draw(&mut rng(4, Draw::Architecture, 0)).0;
    let places = trace.places();
    let ratio = |found: &Controlled| {
        let now = found.controller.run(|number, _| places[number]);
        (now.log_probability - trace.log_probability).exp()
    };
    let mut follow = |advantage| {
        let trace = trace.clone();
        let before = ratio(&found);
        let (norm, clipped) = found.follow(&[Judged { trace, advantage }]);
        (before, norm, clipped.unwrap())
    };
    let mut passed = 0;
    for _ in 0..200 {
        let (ratio, norm, clipped) = follow(1.0);
        let flat = ratio > 1.2;
        assert_eq!((clipped, norm == 0.0), (f64::from(u8::from(flat)), flat));
        passed += usize::from(flat);
    }
    assert!(passed > 0);
    // To make it less likely again there is nothing in the way.
    let (ratio, norm, clipped) = follow(-1.0);
    assert!(ratio > 1.2 && norm > 0.0 && clipped == 0.0);
}

#[test]
fn the_entropy_bonus_spreads_what_is_drawn() {
    let mut found = controlled(Space::Nasnet, PROXIMAL, 0.01);
    for parameter in &mut found.controller.parameters {
        *parameter *= 8.0;
    }
    found.entropy_weight = 1.0;
    let draw = |found: &Controlled, number| found.draw(&mut rng(4, Draw::Architecture, number)).0;
    let before = draw(&found, 0).entropy;
    for number in 0..10 {
        let trace = draw(&found, number);
        let advantage = 0.0;
        found.follow(&[Judged { trace, advantage }]);
    }
    let after = draw(&found, 0).entropy;
    assert!(after > before + 1.0, "{before} to {after}");
}

#[test]
fn drawn_architectures_are_those_of_the_space() {
    for space in Space::ALL {
        let controller = Controller::new(space, enas::SHAPE, 3);
        let mut rng = rng(3, Draw::Weights, 0);
        for _ in 0..20 {
            let trace = controller.run(|_, p| draw(p, &mut rng));
            let drawn = architecture(space, &trace.picked());
            let state: Vec<f32> = drawn.to_state().collect();
            assert_eq!(Architecture::from_state(space, &state).unwrap(), drawn);
        }
    }
}

#[test]
fn the_first_of_a_node_is_what_the_first_two_tokens_say() {
    // Node 1 of the normal cell takes op 4 of state 2 and op 0 of state 1; all others op 12 of state 0.
    let mut picked = [13, 13, 12, 12].repeat(10);
    picked[4..8].copy_from_slice(&[15, 14, 4, 0]);
    let Genotype::Darts(found) = architecture(Space::Nasnet, &picked).genotype() else {
        unreachable!("NASNet has DARTS genotypes")
    };
    let names: Vec<(&str, usize)> = found.normal[2..4]
        .iter()
        .map(|(o, s)| (o.name(), *s))
        .collect();
    assert_eq!(names, [("avg_pool_3x3", 2), ("skip_connect", 1)]);
    assert_eq!(found.normal_concat, [3, 4, 5, 6]);
}
