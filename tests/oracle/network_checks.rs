//! The supernets of the oracle: their parameter lists and their derivatives.

use crate::draw::uniform;
use crate::network::{Direction, Parameters, Space, Supernet, draw_direction};
use crate::tensor::Tensor;

/// A supernet small enough for hyper-dual numbers, with a drawn batch.
pub fn small(space: Space) -> Supernet {
    let (channels, cells, side, batch, classes) = match space {
        Space::Darts => (2, 3, 8, 3, 4),
        Space::NasBench201 => (3, 1, 8, 3, 4),
    };
    supernet(space, channels, cells, [batch, side], classes)
}

fn supernet(
    space: Space,
    channels: usize,
    cells: usize,
    [batch, side]: [usize; 2],
    classes: usize,
) -> Supernet {
    let shape = [batch, side, side, 3];
    let images = Tensor::new(shape, uniform("images", shape.iter().product()));
    let labels = (0..batch).map(|image| (3 * image + 1) % classes).collect();
    Supernet {
        space,
        channels,
        cells,
        classes,
        images,
        labels,
    }
}

fn weights_in(parameters: &Parameters) -> usize {
    let weights = parameters
        .iter()
        .filter(|(name, _)| !crate::network::is_architecture(name));
    weights.map(|(_, (_, data))| data.len()).sum()
}

fn moved(parameters: &Parameters, direction: &Direction, step: f64) -> Parameters {
    let mut moved = parameters.clone();
    for (name, values) in direction {
        let (_, data) = moved
            .get_mut(name)
            .expect("a direction has the network's names");
        data.iter_mut()
            .zip(values)
            .for_each(|(x, v)| *x += step * v);
    }
    moved
}

#[test]
fn supernets_of_the_papers_sizes_have_their_parameter_counts() {
    let darts = supernet(Space::Darts, 16, 8, [1, 4], 10).draw("weights");
    let nasbench201 = supernet(Space::NasBench201, 16, 5, [1, 4], 10).draw("weights");
    assert_eq!((darts.len(), weights_in(&darts)), (1401, 1_930_618));
    assert_eq!(
        (nasbench201.len(), weights_in(&nasbench201)),
        (382, 1_692_826)
    );
}

#[test]
fn slope_of_a_supernet_matches_a_central_difference() {
    for space in [Space::Darts, Space::NasBench201] {
        let net = small(space);
        let parameters = net.draw("weights");
        let u = draw_direction(&parameters, "u", |_| true);
        let step = 1e-6;
        let loss = |step| net.value(&moved(&parameters, &u, step)).0;
        let difference = (loss(step) - loss(-step)) / (2.0 * step);
        let slope = net.slope(&parameters, &u);
        assert!(
            (slope / difference - 1.0).abs() < 1e-6,
            "{space:?}: {slope} {difference}"
        );
    }
}

#[test]
fn curvature_of_a_supernet_is_symmetric_and_matches_a_difference_of_slopes() {
    for space in [Space::Darts, Space::NasBench201] {
        let net = small(space);
        let parameters = net.draw("weights");
        let u = draw_direction(&parameters, "u", |_| true);
        let v = draw_direction(&parameters, "v", |_| true);
        let step = 1e-6;
        let slope = |step| net.slope(&moved(&parameters, &v, step), &u);
        let difference = (slope(step) - slope(-step)) / (2.0 * step);
        let curvature = net.curvature(&parameters, &u, &v);
        assert!(
            (curvature / difference - 1.0).abs() < 1e-5,
            "{space:?}: {curvature} {difference}"
        );
        assert!((curvature / net.curvature(&parameters, &v, &u) - 1.0).abs() < 1e-10);
    }
}
