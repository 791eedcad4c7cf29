//! Recorded networks: gradients against differences, inference, what is dead.

use super::*;
use crate::autograd::{Executor, Mode};
use crate::device::Device;
use crate::device::random::{Philox, Purpose};
use crate::device::simd::padded;
use crate::network::derived::Design;
use crate::network::parameters::initial_theta;
use crate::ops::update::{axpy, dot, norm};
use crate::space::Genotype;

const NB201: &str =
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|";
/// Every op of sharpDARTS, at both strides.
const SHARP: &str = "Genotype(normal=[('choke_conv_3x3', 0), ('dil_choke_conv_3x3', 1), \
     ('flood_conv_3x3', 0), ('dil_flood_conv_3x3', 2)], normal_concat=[2, 3], \
     reduce=[('sharp_dil_conv_3x3', 0), ('choke_conv_3x3', 1), ('dil_flood_conv_3x3', 0), \
     ('dil_choke_conv_3x3', 1)], reduce_concat=[2, 3])";
/// One node of each cell is read by nobody, one term is nothing.
const PARTLY_DEAD: &str = "Genotype(normal=[('sep_conv_7x7', 0), ('conv_7x1_1x7', 1), \
     ('sep_conv_3x3', 0), ('dil_conv_5x5', 1), ('none', 0), ('skip_connect', 2)], \
     normal_concat=[2, 4], reduce=[('conv_7x1_1x7', 0), ('skip_connect', 1), ('none', 0), \
     ('none', 1), ('avg_pool_3x3', 1), ('max_pool_3x3', 0)], reduce_concat=[2, 3])";

/// Each op that only the NASNet space has, at both strides; a state that a node reads twice.
const OF_NASNET: &str = "Genotype(normal=[('conv_1x1', 0), ('conv_3x3', 1), ('conv_3x1_1x3', 0), \
     ('max_pool_5x5', 1), ('max_pool_7x7', 1), ('max_pool_7x7', 1), ('skip_connect', 2), \
     ('skip_connect', 2)], normal_concat=[3, 4, 5], reduce=[('conv_1x1', 0), ('conv_3x3', 1), \
     ('conv_3x1_1x3', 0), ('max_pool_5x5', 1), ('max_pool_7x7', 0), ('conv_1x1', 2)], \
     reduce_concat=[3, 4])";

fn network(genotype: &str, image_size: usize, drop_path: bool) -> (Network, Vec<f32>) {
    let genotype: Genotype = genotype.parse().unwrap();
    let darts = matches!(genotype, Genotype::Darts(_));
    let design = Design {
        channels: 4,
        cells: if darts { 3 } else { 1 },
        classes: 5,
        image_size,
        imagenet: false,
        auxiliary: darts && image_size == 32,
    };
    let network = Derived::new(&genotype, &design)
        .unwrap()
        .record(&Recording {
            batch: 3,
            drop_path,
            auxiliary_weight: 0.4,
            smoothing: 0.1,
        });
    let theta = initial_theta(&network.parameters, 1);
    (network, theta)
}

fn normal(len: usize, stream: u64) -> Vec<f32> {
    let philox = Philox::new(3, Purpose::ProbeVector);
    (0..len as u64)
        .map(|i| philox.normal4(i / 4, stream)[(i % 4) as usize])
        .collect()
}

fn loaded(network: Network, image_size: usize) -> Executor {
    let mut executor = Executor::new(network.tape, Device::Cpu);
    let images = normal(3 * image_size * image_size * 3, 1);
    executor.load(&images, &[0, 3, 4]).unwrap();
    executor
}

#[test]
fn the_gradient_predicts_the_change_of_the_loss_with_head_smoothing_and_drop_path() {
    for (genotype, size) in [
        ("DARTS_V2", 32),
        ("AmoebaNet", 8),
        ("AmoebaNet", 32),
        (NB201, 8),
        (PARTLY_DEAD, 8),
        (SHARP, 8),
        (OF_NASNET, 8),
    ] {
        let (network, theta) = network(genotype, size, true);
        let mut executor = loaded(network, size);
        let factors: Vec<f32> = (0..executor.tape().factors * 3)
            .map(|i| if i % 4 == 0 { 0.0 } else { 1.25 })
            .collect();
        executor.set_factors(&factors).unwrap();
        let mut gradient = vec![0.0; theta.len()];
        executor.forward(Mode::Gradient, &theta).unwrap();
        executor.backward(&theta, &mut gradient).unwrap();
        let expected = dot(&gradient, &gradient).unwrap();
        let mut best = f64::INFINITY;
        // Max pools and relus bend the loss, so only short steps are straight; f32 bounds them below.
        for length in [1e-2, 3e-3, 1e-3, 3e-4, 1e-4] {
            let step = (length / norm(&gradient).unwrap()) as f32;
            let mut at = |sign: f32| {
                let mut moved = theta.clone();
                axpy(sign * step, &gradient, &mut moved).unwrap();
                executor.forward(Mode::Gradient, &moved).unwrap().loss
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
            best = best.min((slope / expected - 1.0).abs());
        }
        assert!(best < 0.02, "{genotype}: {best}");
    }
}

#[test]
fn inference_with_a_batchs_own_statistics_gives_that_batchs_logits() {
    for (genotype, size) in [("DARTS_V1", 32), (NB201, 8)] {
        let (network, theta) = network(genotype, size, false);
        let norms = network.norms.clone();
        let mut executor = loaded(network, size);
        executor.forward(Mode::Gradient, &theta).unwrap();
        let trained = executor.logits().unwrap();
        let live = |norm: &Norm| norm.z.expect("every norm of this network is live");
        let ids: Vec<_> = norms.iter().map(live).collect();
        let (len, starts) = executor.stated_layout(&ids).unwrap();
        let mut stated = vec![0.0; len];
        for ((norm, &z), &start) in norms.iter().zip(&ids).zip(&starts) {
            let statistics = executor.statistics(z).unwrap();
            assert_eq!(statistics.len(), 2 * padded(norm.channels));
            stated[start..start + statistics.len()].copy_from_slice(statistics);
        }
        executor.infer(&theta, &stated).unwrap();
        assert_eq!(executor.logits().unwrap(), trained, "{genotype}");
        // Other statistics give other logits.
        stated.iter_mut().for_each(|s| *s *= 0.5);
        executor.infer(&theta, &stated).unwrap();
        assert_ne!(executor.logits().unwrap(), trained, "{genotype}");
    }
}

#[test]
fn the_tape_has_the_parameters_that_the_description_counts() {
    for genotype in [
        "DARTS_V2",
        "NASNet",
        "AmoebaNet",
        PARTLY_DEAD,
        SHARP,
        OF_NASNET,
        NB201,
    ] {
        let (network, theta) = network(genotype, 32, false);
        let count: usize = network
            .parameters
            .iter()
            .map(|p| p.shape.iter().product::<usize>())
            .sum();
        assert_eq!(count, theta.len(), "{genotype}");
        assert_eq!(network.tape.omega_len, theta.len());
    }
}

#[test]
fn what_no_logit_depends_on_has_parameters_and_no_gradient() {
    let (network, theta) = network(PARTLY_DEAD, 8, false);
    let dead: Vec<_> = network
        .parameters
        .iter()
        .filter(|p| p.name.starts_with("cells.0._ops.2."))
        .map(|p| p.span())
        .collect();
    assert!(!dead.is_empty() && network.norms.iter().any(|norm| norm.z.is_none()));
    let mut executor = loaded(network, 8);
    let mut gradient = vec![0.0; theta.len()];
    executor.forward(Mode::Gradient, &theta).unwrap();
    executor.backward(&theta, &mut gradient).unwrap();
    assert!(gradient.iter().all(|g| g.is_finite()));
    for span in dead {
        let part = &gradient[span.offset..span.offset + span.len];
        assert!(part.iter().all(|&g| g == 0.0));
    }
}
