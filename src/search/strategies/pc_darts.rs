//! PC-DARTS: "Partial channel connections for memory-efficient architecture search" (Xu et al., ICLR 2020).
//!
//! One channel in K = 4 of each state goes through the mixed op; the others pass it by, through 2×2 maximum
//! pooling where the edge has stride 2, and the channels of a node are shuffled. What an edge hands on
//! depends on so few channels that the choice of edges would waver, so edges are normalised by weights of their
//! own, β, relaxed over the edges into each node:
//!
//! ```text
//! y_j = Σ_i softmax(β_j)_i · shuffle(Σ_o softmax(α_ij)_o·o(x_i[first C/K]), x_i[rest])
//! ```
//!
//! A cell is derived as in DARTS, by softmax(β)·softmax(α). dα is of first order. α and β are held in the first
//! 15 of 50 epochs, lest ops without weights win before the others are trained; here in that part (`held`)
//! of any number. The published batch is 256 and the learning rate 0.1, four times those of DARTS, because
//! memory allows it.

use super::differentiable::first_order;
use super::{
    Design, Method, OwnSetting, Step, Stepped, Strategy, StrategyKind, softmax_rows, take_turns,
};
use crate::device::{Device, SliceMut};
use crate::network::Variant;
use crate::ops::relax::Relaxation;
use crate::optim::SecondMoment;
use crate::search::settings::SearchSettings;
use crate::space::{
    DARTS_CANDIDATES, DARTS_EDGES, DartsGenotype, DartsOp, Genotype, Space, strongest,
};

const OPS: usize = DartsOp::ALL.len();
const EDGES: usize = DARTS_EDGES.len();

/// PC-DARTS as published.
pub const METHOD: Method = Method {
    spaces: &[Space::Darts],
    relaxation: Relaxation::Softmax,
    options: &[
        OwnSetting {
            name: "partial",
            about: "K: one channel in K goes through the ops",
            default: [4.0; 2],
            range: [2.0, 64.0],
            whole: true,
        },
        OwnSetting {
            name: "held",
            about: "part of the search in which α and β are held",
            default: [0.3; 2],
            range: [0.0, 0.95],
            whole: false,
        },
    ],
    defaults: |settings: &mut SearchSettings| {
        take_turns(settings);
        settings.batch *= 4;
        settings.lr = 0.1;
        settings.lr_min = 0.0;
        settings.arch_lr = settings.arch_lr.max(6e-4);
    },
    make: |settings| {
        let own = |name| StrategyKind::PcDarts.option(settings, name);
        Box::new(PcDarts {
            partial: own("partial") as usize,
            held: own("held"),
            gradient: first_order(),
        })
    },
};

/// See the module.
struct PcDarts {
    partial: usize,
    held: f64,
    gradient: Box<dyn Strategy>,
}

/// softmax(β)·softmax(α) of one cell.
fn products(alpha: &[f32], beta: &[f32]) -> Vec<f32> {
    let mut weights = softmax_rows(OPS, alpha);
    let mut rows = weights.chunks_exact_mut(OPS);
    let mut first = 0;
    while first < EDGES {
        let node = DARTS_EDGES[first].to;
        let edges = DARTS_EDGES.iter().filter(|edge| edge.to == node).count();
        let shares = softmax_rows(edges, &beta[first..first + edges]);
        // In this order: a zip asks its first iterator once more than it yields.
        for (share, row) in shares.into_iter().zip(rows.by_ref()) {
            row.iter_mut().for_each(|c| *c *= share);
        }
        first += edges;
    }
    weights
}

impl Strategy for PcDarts {
    fn check(&self, settings: &SearchSettings) -> Result<(), (&'static str, String)> {
        let (channels, partial) = (settings.channels, self.partial);
        if settings.arch_second_moment == SecondMoment::Edge {
            return Err((
                "arch-second-moment",
                "expected `element` with strategy pc-darts, whose edges have weights of their own behind those of the \
                 ops, found `edge`"
                    .into(),
            ));
        }
        if channels.is_multiple_of(partial) {
            return Ok(());
        }
        Err((
            "channels",
            format!(
                "expected a multiple of {partial}, as strategy pc-darts sends one channel in {partial} through \
                 the ops (--option partial), found {channels}"
            ),
        ))
    }

    fn design(&self, settings: &SearchSettings) -> Design {
        Design {
            cells: settings.cells,
            variant: Variant {
                partial: Some(self.partial),
                ..Variant::default()
            },
            stage: 0,
        }
    }

    fn holds(&self, epoch: usize, epochs: usize) -> bool {
        epoch < (self.held * epochs as f64) as usize
    }

    fn architecture_step(
        &mut self,
        step: Step,
        alpha_gradient: SliceMut,
    ) -> anyhow::Result<Stepped> {
        self.gradient.architecture_step(step, alpha_gradient)
    }

    fn genotype(&self, _: Space, alphas: &[(&str, &[f32])]) -> Genotype {
        let of = |name: &str| {
            let found = alphas.iter().find(|(given, _)| *given == name);
            found.expect("the α and β of this supernet").1
        };
        let cell = |alpha: &str, beta: &str| {
            let weights = products(of(alpha), of(beta));
            let chosen = strongest(&weights, &DARTS_CANDIDATES).into_iter();
            chosen.map(|edge| (edge.op, edge.from)).collect()
        };
        Genotype::Darts(DartsGenotype::of_cells(
            cell("alphas_normal", "betas_normal"),
            cell("alphas_reduce", "betas_reduce"),
        ))
    }

    /// What cells are derived by; α of both cells comes first, then β.
    fn op_weights(&self, _: usize, alpha: &[f32]) -> Vec<f32> {
        let (alphas, betas) = alpha.split_at(2 * EDGES * OPS);
        let cells = alphas
            .chunks_exact(EDGES * OPS)
            .zip(betas.chunks_exact(EDGES));
        cells
            .flat_map(|(alpha, beta)| products(alpha, beta))
            .collect()
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

    fn pc_darts() -> PcDarts {
        PcDarts {
            partial: 4,
            held: 0.3,
            gradient: first_order(),
        }
    }

    #[test]
    fn weights_sum_to_one_over_all_edges_of_a_node() {
        let alpha: Vec<f32> = (0..EDGES * OPS).map(|i| (i as f32 * 0.7).sin()).collect();
        let beta: Vec<f32> = (0..EDGES).map(|i| (i as f32 * 1.7).cos()).collect();
        let weights = products(&alpha, &beta);
        for node in 2..6 {
            let rows = weights.chunks_exact(OPS).zip(&DARTS_EDGES);
            let of_node = rows.filter(|(_, edge)| edge.to == node);
            let sum: f32 = of_node.map(|(row, _)| row.iter().sum::<f32>()).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{node}");
        }
    }

    #[test]
    fn a_strong_edge_wins_over_strong_ops() {
        // Node 1 has rows 2 to 4. The ops of edge 0 are the clearest, but its β is small.
        let mut alpha = vec![0.0f32; EDGES * OPS];
        alpha[2 * OPS + DartsOp::SepConv3x3.index()] = 2.0;
        alpha[3 * OPS + DartsOp::SepConv5x5.index()] = 1.0;
        alpha[4 * OPS + DartsOp::DilConv3x3.index()] = 1.0;
        let mut beta = vec![0.0f32; EDGES];
        beta[2] = -3.0;
        beta[4] = 0.5;
        let names = [
            "alphas_normal",
            "alphas_reduce",
            "betas_normal",
            "betas_reduce",
        ];
        let tensors = [&alpha, &alpha, &beta, &beta];
        let alphas: Vec<_> = names
            .into_iter()
            .zip(tensors.map(|tensor| tensor.as_slice()))
            .collect();
        let Genotype::Darts(found) = pc_darts().genotype(Space::Darts, &alphas) else {
            unreachable!("the space is DARTS");
        };
        let expected = [(GenotypeOp::DilConv3x3, 2), (GenotypeOp::SepConv5x5, 1)];
        assert_eq!(found.normal[2..4], expected);
        assert_eq!(found.normal, found.reduce);
    }

    #[test]
    fn alpha_is_held_in_the_first_15_of_50_epochs() {
        let held = (0..50).filter(|&epoch| pc_darts().holds(epoch, 50));
        assert_eq!(held.collect::<Vec<_>>(), (0..15).collect::<Vec<_>>());
    }
}
