//! Whole supernets: every tensor of the gradient and of a product along (ω, α).

use super::ops::sharp_variant;
use super::{POINTS, Truth, compare, nudged, run};
use crate::network::Variant;
use crate::network::parameters::Parameter;
use crate::ops::Span;
use crate::oracle::network::{Direction, Parameters, Space, Supernet, draw_direction};
use crate::oracle::network_checks::small;

struct SupernetTruth<'a> {
    net: &'a Supernet,
    points: Vec<Parameters>,
    direction: Direction,
    tensors: &'a [(String, Span)],
    recorded: &'a [Parameter],
}

impl SupernetTruth<'_> {
    /// A vector in the order of θ as a direction in PyTorch's order.
    fn embed(&self, index: usize, u: &[f64]) -> Direction {
        let (name, span) = &self.tensors[index];
        let mut whole = vec![0.0; span.offset + span.len];
        let part = whole[span.offset..].iter_mut();
        part.zip(u).for_each(|(to, &u)| *to = u as f32);
        let ordered = self.recorded[index].to_torch(&whole);
        Direction::from([(
            name.clone(),
            ordered.iter().map(|&x| f64::from(x)).collect(),
        )])
    }
}

impl Truth for SupernetTruth<'_> {
    fn value(&self) -> (f64, Vec<f64>) {
        self.net.value(&self.points[0])
    }

    fn slope(&self, point: usize, index: usize, u: &[f64]) -> f64 {
        self.net.slope(&self.points[point], &self.embed(index, u))
    }

    fn curvature(&self, point: usize, index: usize, u: &[f64]) -> f64 {
        self.net
            .curvature(&self.points[point], &self.embed(index, u), &self.direction)
    }
}

fn round(values: &mut [f64]) {
    values.iter_mut().for_each(|x| *x = f64::from(*x as f32));
}

/// Engine and oracle on one small network; `keep` chooses the tensors that v moves.
fn check(space: Space, keep: impl Fn(&str) -> bool) {
    check_net(small(space), 1, keep);
}

/// As [`check`], of α and of one in `every` of the other tensors.
fn check_net(mut net: Supernet, every: usize, keep: impl Fn(&str) -> bool) {
    let space = net.space;
    round(&mut net.images.data);
    let mut parameters = net.draw("weights");
    parameters.values_mut().for_each(|(_, data)| round(data));
    let mut direction = draw_direction(&parameters, "v", keep);
    direction.values_mut().for_each(|data| round(data));

    let of_engine = match space {
        Space::Darts => crate::space::Space::Darts,
        Space::NasBench201 => crate::space::Space::NasBench201,
        Space::Nasnet => crate::space::Space::Nasnet,
    };
    let [batch, height, width, _] = net.images.shape;
    let (channels, cells, classes) = (net.channels, net.cells, net.classes);
    let size = [height, width];
    let variant = Variant {
        partial: net.partial,
        ..if net.sharp {
            sharp_variant()
        } else {
            Variant::default()
        }
    };
    let recorded = crate::network::Supernet::record_variant(
        of_engine, channels, cells, classes, batch, size, &variant,
    )
    .expect("the sizes are allowed");
    let listed: Vec<_> = recorded
        .parameters
        .iter()
        .map(|p| (&p.name, &p.shape))
        .collect();
    assert_eq!(listed.len(), parameters.len());
    let len = recorded.tape.theta_len();
    let (mut theta, mut v) = (vec![0.0f32; len], vec![0.0f32; len]);
    for parameter in &recorded.parameters {
        let (shape, data) = &parameters[&parameter.name];
        assert_eq!(shape, &parameter.shape, "shape of {}", parameter.name);
        let single = |data: &[f64]| data.iter().map(|&x| x as f32).collect::<Vec<_>>();
        parameter.from_torch(&single(data), &mut theta);
        if let Some(data) = direction.get(&parameter.name) {
            parameter.from_torch(&single(data), &mut v);
        }
    }
    let double = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (theta, v) = (double(&theta), double(&v));
    let passes = run(recorded.tape, &net.images.data, &net.labels, &theta, &v);
    let numbered = recorded.parameters.iter().enumerate();
    let compared: Vec<_> = numbered
        .filter(|(number, p)| number % every == 0 || p.is_alpha())
        .map(|(_, p)| p.clone())
        .collect();
    let named = compared.iter().map(|p| (p.name.clone(), p.span()));
    let tensors: Vec<_> = named.collect();
    let net = &net;
    let at_point = |index| {
        let move_tensor = |(name, (shape, data)): (&String, &(Vec<usize>, Vec<f64>))| {
            (name.clone(), (shape.clone(), nudged(name, data, index)))
        };
        parameters.iter().map(move_tensor).collect()
    };
    let points = (0..POINTS).map(at_point).collect();
    let truth = SupernetTruth {
        net,
        points,
        direction,
        tensors: &tensors,
        recorded: &compared,
    };
    compare(&passes, &tensors, &truth).unwrap_or_else(|message| panic!("{space:?}: {message}"));
}

#[test]
fn gradient_and_product_of_the_darts_supernet_match_the_oracle() {
    check(Space::Darts, |_| true);
}

#[test]
fn gradient_and_product_of_the_nasbench201_supernet_match_the_oracle() {
    check(Space::NasBench201, |_| true);
}

#[test]
fn gradient_and_product_of_the_nasnet_supernet_match_the_oracle() {
    // All 1,254 would take minutes; an edge has twenty or so, of which one in seven is in turn each.
    check_net(small(Space::Nasnet), 7, |_| true);
}

#[test]
fn gradient_and_product_of_the_pc_darts_supernet_match_the_oracle() {
    let net = Supernet {
        channels: 4,
        partial: Some(4),
        ..small(Space::Darts)
    };
    check_net(net, 1, |_| true);
}

#[test]
fn gradient_and_product_of_the_sharp_darts_supernet_match_the_oracle() {
    let net = Supernet {
        sharp: true,
        ..small(Space::Darts)
    };
    // Seven hits every tensor of every op at both strides.
    check_net(net, 7, |_| true);
}

#[test]
fn a_product_along_the_weights_alone_matches_the_oracle() {
    let weights = |name: &str| !crate::oracle::network::is_architecture(name);
    check(Space::Darts, weights);
    check(Space::NasBench201, weights);
}
