//! The supernets of the oracle: their parameter lists and their derivatives.

use crate::oracle::derivative::relative_error;
use crate::oracle::draw::uniform;
use crate::oracle::network::{Direction, Parameters, Space, Supernet, draw_direction};
use crate::oracle::tensor::Tensor;

/// A supernet small enough for hyper-dual numbers, with a drawn batch.
pub fn small(space: Space) -> Supernet {
    let (channels, cells, side, batch, classes) = match space {
        Space::Darts => (2, 3, 8, 3, 4),
        Space::NasBench201 => (3, 1, 8, 3, 4),
        Space::Nasnet => (2, 3, 8, 3, 4),
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
        partial: None,
        sharp: false,
        classes,
        images,
        labels,
    }
}

fn weights_in(parameters: &Parameters) -> usize {
    let weights = parameters
        .iter()
        .filter(|(name, _)| !crate::oracle::network::is_architecture(name));
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
    for space in [Space::Darts, Space::NasBench201, Space::Nasnet] {
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
    for space in [Space::Darts, Space::NasBench201, Space::Nasnet] {
        let net = small(space);
        let parameters = net.draw("weights");
        let u = draw_direction(&parameters, "u", |_| true);
        let v = draw_direction(&parameters, "v", |_| true);
        // Of NASNet's maxima and relus some lie closer to a kink.
        let step = if space == Space::Nasnet { 1e-8 } else { 1e-6 };
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

/// Loss, logits, ∇L·u and uᵀ∇²L·v by PyTorch in float64: `python tests/torch/oracle_values.py`.
struct PyTorch {
    loss: f64,
    logits: [f64; 12],
    slope: f64,
    curvature: f64,
}

const DARTS: PyTorch = PyTorch {
    loss: 1.2865291061620348,
    logits: [
        0.09456934503495817,
        0.4054615323164645,
        -1.1264833465949315,
        0.20649953249419828,
        -0.02009919863143017,
        -0.8419082624841067,
        0.16147479217820718,
        -0.23326340859511877,
        0.29536362681078043,
        0.2709468920028624,
        1.321145697214326,
        0.47738865543360587,
    ],
    slope: -2.9827799426832287,
    curvature: -180.8354971895289,
};

const NASBENCH201: PyTorch = PyTorch {
    loss: 1.4793541365167726,
    logits: [
        0.21719810078106042,
        -0.6390637746982342,
        -0.1798263028442541,
        0.22717714984544043,
        -0.24360576785493734,
        -0.23339668887702003,
        -0.9275085460342127,
        -0.14550142013022108,
        0.020771574598309528,
        -0.8497071290240249,
        0.2694763774565543,
        0.227367559629766,
    ],
    slope: 6.1871444189954365,
    curvature: 141.47692519394525,
};

#[test]
fn supernets_agree_with_pytorch_in_value_and_both_derivatives() {
    for (space, torch) in [(Space::Darts, DARTS), (Space::NasBench201, NASBENCH201)] {
        let net = small(space);
        let parameters = net.draw("weights");
        let [u, v] = ["u", "v"].map(|salt| draw_direction(&parameters, salt, |_| true));
        let (loss, logits) = net.value(&parameters);
        assert!((loss / torch.loss - 1.0).abs() < 1e-13, "{space:?}: {loss}");
        assert!(
            relative_error(&logits, &torch.logits) < 1e-12,
            "{space:?}: {logits:?}"
        );
        let slope = net.slope(&parameters, &u);
        assert!(
            (slope / torch.slope - 1.0).abs() < 1e-11,
            "{space:?}: {slope}"
        );
        let curvature = net.curvature(&parameters, &u, &v);
        assert!(
            (curvature / torch.curvature - 1.0).abs() < 1e-10,
            "{space:?}: {curvature}"
        );
    }
}
