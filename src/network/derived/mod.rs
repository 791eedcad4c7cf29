//! Derived networks: what is trained once a genotype is found, described before anything runs.
//!
//! A [`Derived`] is a list of layers over numbered tensors, in an order in which they can run. One
//! walk over the genotype makes it; names and shapes of the parameters, multiply-accumulates and
//! memory are all read off that list, so they cannot disagree with each other or with what a tape
//! records from it. A layer's name is the path of its module in the official PyTorch code, hence
//! `layer.name + ".weight"` is the key of its `state_dict`: `NetworkCIFAR` and `NetworkImageNet` of
//! DARTS ([`darts`]), `TinyNetwork` of NAS-Bench-201 ([`nb201`]). Layers stand in the order of that
//! `state_dict`, in which every layer comes after those it reads.

mod darts;
pub mod layers;
mod nb201;
pub mod record;

use anyhow::{Result, ensure};

use crate::space::Genotype;
pub use layers::{Kind, Layer, Part, Tensor, TensorId, TensorShape, Window};
pub use record::{Network, Norm, Recording};

/// Size of the images that ImageNet networks are made for, pixels.
pub const IMAGENET_SIZE: usize = 224;
/// Size of CIFAR images, pixels.
pub const CIFAR_SIZE: usize = 32;

/// Which network a genotype becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Design {
    /// Channels of the first stage.
    pub channels: usize,
    /// DARTS: cells of the network; NAS-Bench-201: cells of each of its three stages.
    pub cells: usize,
    /// Classes.
    pub classes: usize,
    /// Side of the square images, pixels.
    pub image_size: usize,
    /// The stem of DARTS's ImageNet network: three convolutions of stride 2.
    pub imagenet: bool,
    /// The auxiliary head behind the second reduction.
    pub auxiliary: bool,
}

impl Design {
    /// The published network: DARTS on CIFAR-10 (36 channels, 20 cells) or ImageNet (48, 14),
    /// NAS-Bench-201 on CIFAR-10 (16 channels, 5 cells a stage).
    pub fn published(genotype: &Genotype, imagenet: bool) -> Design {
        let (channels, cells) = match (genotype, imagenet) {
            (Genotype::Nb201(_), _) => (16, 5),
            (Genotype::Darts(_), false) => (36, 20),
            (Genotype::Darts(_), true) => (48, 14),
        };
        Design {
            channels,
            cells,
            classes: if imagenet { 1000 } else { 10 },
            image_size: if imagenet { IMAGENET_SIZE } else { CIFAR_SIZE },
            imagenet,
            auxiliary: false,
        }
    }

    fn check(&self, genotype: &Genotype) -> Result<()> {
        let bounded = [
            ("--channels", self.channels, 1024),
            ("--cells", self.cells, 200),
            ("--classes", self.classes, 1_000_000),
        ];
        for (flag, value, most) in bounded {
            ensure!(
                (1..=most).contains(&value),
                "{flag}: expected 1 to {most}, found {value}"
            );
        }
        if matches!(genotype, Genotype::Nb201(_)) {
            for (flag, given) in [
                ("--imagenet", self.imagenet),
                ("--auxiliary", self.auxiliary),
            ] {
                ensure!(
                    !given,
                    "{flag}: expected a DARTS genotype, as the network of NAS-Bench-201 has no such \
                     part, found a NAS-Bench-201 cell; leave the flag out"
                );
            }
        }
        // Each reduction halves; the stem of ImageNet is three of them more.
        let multiple = if self.imagenet { 32 } else { 4 };
        ensure!(
            self.image_size.is_multiple_of(multiple)
                && (multiple..=1024).contains(&self.image_size),
            "--image-size: expected a multiple of {multiple} from {multiple} to 1024, as the network \
             halves it {} times, found {}",
            multiple.ilog2(),
            self.image_size
        );
        ensure!(
            !self.imagenet || self.channels.is_multiple_of(2),
            "--channels: expected an even number for --imagenet, whose stem starts with half of them, \
             found {}",
            self.channels
        );
        Ok(())
    }
}

/// A derived network as data.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    /// What the layers read and write; the first is the images.
    pub tensors: Vec<Tensor>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// The logits.
    pub logits: TensorId,
    /// The auxiliary head's logits, where there is one.
    pub auxiliary_logits: Option<TensorId>,
}

impl Derived {
    /// Describes the network that `genotype` becomes by `design`.
    ///
    /// # Errors
    /// A size out of range, a flag that the genotype's space has no use for, and an auxiliary head
    /// on images that it does not fit; each message names its flag.
    pub fn new(genotype: &Genotype, design: &Design) -> Result<Derived> {
        design.check(genotype)?;
        match genotype {
            Genotype::Darts(genotype) => darts::describe(genotype, design),
            Genotype::Nb201(genotype) => Ok(nb201::describe(genotype, design)),
        }
    }

    /// Names and PyTorch shapes of the trainable tensors, in `state_dict` order.
    pub fn parameters(&self) -> impl Iterator<Item = TensorShape> {
        self.layers.iter().flat_map(Layer::parameters)
    }

    /// Names and PyTorch shapes of parameters and buffers (running statistics), in `state_dict`
    /// order.
    pub fn state_dict(&self) -> impl Iterator<Item = TensorShape> {
        let of = |layer: &Layer| layer.parameters().into_iter().chain(layer.buffers());
        self.layers.iter().flat_map(of)
    }

    /// Elements of all parameters of a part.
    pub fn parameter_count(&self, part: Part) -> u64 {
        let layers = self.layers.iter().filter(|layer| layer.part == part);
        layers
            .flat_map(Layer::parameters)
            .map(|p| p.elements())
            .sum()
    }

    /// Multiply-accumulates of a part's convolutions and linear layers, one image, forward. Batch
    /// norm, pooling and sums are not counted; some published figures count them.
    pub fn macs(&self, part: Part) -> u64 {
        let layers = self.layers.iter().filter(|layer| layer.part == part);
        layers.map(|layer| layer.macs(&self.tensors)).sum()
    }

    /// Elements that a training step keeps for its backward pass, one image: the result of every
    /// layer once, but not of ReLU, which is cheap to compute again, nor of what only selects.
    pub fn training_elements(&self) -> u64 {
        let kept = self
            .layers
            .iter()
            .filter(|layer| !matches!(layer.kind, Kind::Relu | Kind::Crop | Kind::Zero { .. }));
        let images = self.tensors[0].elements();
        images
            + kept
                .map(|layer| self.tensors[layer.output.0].elements())
                .sum::<u64>()
    }

    /// Most elements alive at once in a forward pass of the body, one image: every tensor from the
    /// layer that writes it to the last that reads it.
    pub fn inference_elements(&self) -> u64 {
        let body = || self.layers.iter().filter(|layer| layer.part == Part::Body);
        let mut last_read = vec![0; self.tensors.len()];
        for (at, layer) in body().enumerate() {
            for input in &layer.inputs {
                last_read[input.0] = at;
            }
        }
        let mut alive = self.tensors[0].elements();
        let mut most = alive;
        for (at, layer) in body().enumerate() {
            alive += self.tensors[layer.output.0].elements();
            most = most.max(alive);
            let mut freed = layer.inputs.clone();
            freed.sort_unstable();
            freed.dedup();
            for input in freed.into_iter().filter(|input| last_read[input.0] == at) {
                alive -= self.tensors[input.0].elements();
            }
            // A node that nothing reads is dead where it is written.
            if last_read[layer.output.0] <= at && layer.output != self.logits {
                alive -= self.tensors[layer.output.0].elements();
            }
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(genotype: &str, change: impl Fn(&mut Design), imagenet: bool) -> Result<Derived> {
        let genotype: Genotype = genotype.parse().unwrap();
        let mut design = Design::published(&genotype, imagenet);
        change(&mut design);
        Derived::new(&genotype, &design)
    }

    fn published(genotype: &str, imagenet: bool) -> Derived {
        described(genotype, |_| {}, imagenet).unwrap()
    }

    #[test]
    fn darts_networks_have_the_published_numbers_of_parameters() {
        for (name, imagenet, parameters) in [
            ("DARTS_V2", false, 3_349_342),
            ("DARTS_V2", true, 4_718_752),
            ("DARTS_V1", false, 3_169_414),
            ("DARTS_V1", true, 4_510_432),
        ] {
            let network = published(name, imagenet);
            assert_eq!(network.parameter_count(Part::Body), parameters, "{name}");
            assert_eq!(network.parameter_count(Part::Auxiliary), 0);
        }
    }

    #[test]
    fn multiply_accumulates_are_those_that_others_count() {
        // On CIFAR-10: 528 M, 501 M and 532 M by the counters of other code bases. The 574 M that
        // the DARTS paper states for ImageNet hold more than convolutions and linear layers.
        for (name, imagenet, millions) in [
            ("DARTS_V2", false, 528.4),
            ("DARTS_V1", false, 501.0),
            ("PDARTS", false, 532.2),
            ("DARTS_V2", true, 529.9),
        ] {
            let counted = published(name, imagenet).macs(Part::Body) as f64 / 1e6;
            assert!((counted - millions).abs() < 0.1, "{name}: {counted}");
        }
    }

    #[test]
    fn the_nb201_network_has_the_benchmarks_parameters_and_multiply_accumulates() {
        let network = published(
            "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
            false,
        );
        assert_eq!(network.parameter_count(Part::Body), 129_306);
        let millions = network.macs(Part::Body) as f64 / 1e6;
        // The benchmark states 15.648 M.
        assert!((millions - 15.648).abs() < 1e-3, "{millions}");
    }

    #[test]
    fn the_auxiliary_head_adds_its_own_parameters_and_leaves_the_body_alone() {
        let with = described("DARTS_V2", |design| design.auxiliary = true, false).unwrap();
        assert_eq!(with.parameter_count(Part::Body), 3_349_342);
        // Conv 576 → 128, its batch norm, conv 2×2 128 → 768, its batch norm, linear.
        let head = 576 * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * 10 + 10;
        assert_eq!(with.parameter_count(Part::Auxiliary), head);
        assert_eq!(with.tensors[with.auxiliary_logits.unwrap().0].channels, 10);
        let names: Vec<String> = with.parameters().map(|p| p.name).collect();
        let tail = &names[names.len() - 4..];
        assert_eq!(
            tail,
            [
                "auxiliary_head.classifier.weight",
                "auxiliary_head.classifier.bias",
                "classifier.weight",
                "classifier.bias"
            ]
        );
        let large = described("DARTS_V1", |design| design.auxiliary = true, true).unwrap();
        // On ImageNet the second batch norm is left out, as in the official code.
        let head = 768 * 128 + 2 * 128 + 128 * 768 * 4 + 768 * 1000 + 1000;
        assert_eq!(large.parameter_count(Part::Auxiliary), head);
    }

    #[test]
    fn names_are_those_of_the_official_state_dict() {
        let names = |network: &Derived| -> Vec<String> {
            network.state_dict().map(|tensor| tensor.name).collect()
        };
        let darts = names(&published("DARTS_V2", false));
        assert_eq!(
            darts[..12],
            [
                "stem.0.weight",
                "stem.1.weight",
                "stem.1.bias",
                "stem.1.running_mean",
                "stem.1.running_var",
                "stem.1.num_batches_tracked",
                "cells.0.preprocess0.op.1.weight",
                "cells.0.preprocess0.op.2.weight",
                "cells.0.preprocess0.op.2.bias",
                "cells.0.preprocess0.op.2.running_mean",
                "cells.0.preprocess0.op.2.running_var",
                "cells.0.preprocess0.op.2.num_batches_tracked",
            ]
        );
        for name in [
            "cells.0._ops.0.op.7.weight",
            "cells.0._ops.7.op.3.running_var",
            "cells.7.preprocess0.conv_2.weight",
            "cells.7.preprocess0.bn.bias",
        ] {
            assert!(darts.iter().any(|found| found == name), "{name}");
        }
        let amoeba = names(&published("AmoebaNet", false));
        assert!(amoeba.iter().any(|name| name == "cells.6._ops.8.2.weight"));
        let imagenet = names(&published("DARTS_V1", true));
        assert_eq!(imagenet[0], "stem0.0.weight");
        assert!(imagenet.iter().any(|name| name == "stem1.2.running_mean"));
        let nb201 = names(&published(
            "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|",
            false,
        ));
        for name in [
            "cells.0.layers.0.op.1.weight",
            "cells.0.layers.5.op.2.bias",
            "cells.5.conv_a.op.2.running_mean",
            "cells.5.downsample.1.weight",
            "lastact.0.weight",
        ] {
            assert!(nb201.iter().any(|found| found == name), "{name}");
        }
        for names in [darts, amoeba, imagenet, nb201] {
            let distinct: std::collections::HashSet<_> = names.iter().collect();
            assert_eq!(distinct.len(), names.len());
        }
    }

    #[test]
    fn every_layer_reads_what_was_written_before_and_terms_of_a_sum_agree() {
        for (name, imagenet) in [("NASNet", false), ("AmoebaNet", true), ("PDARTS", false)] {
            let network = described(name, |design| design.auxiliary = true, imagenet).unwrap();
            let mut written = 1;
            for layer in &network.layers {
                assert!(
                    layer.inputs.iter().all(|input| input.0 < written),
                    "{}",
                    layer.name
                );
                assert_eq!(layer.output.0, written);
                written += 1;
                if let Kind::Sum { .. } = layer.kind {
                    for input in &layer.inputs {
                        assert_eq!(network.tensors[input.0], network.tensors[layer.output.0]);
                    }
                }
            }
            assert_eq!(written, network.tensors.len());
            assert!(network.inference_elements() < network.training_elements());
        }
    }

    #[test]
    fn sizes_and_flags_that_do_not_fit_are_named() {
        let message = |genotype: &str, change: &dyn Fn(&mut Design), imagenet| {
            described(genotype, change, imagenet)
                .unwrap_err()
                .to_string()
        };
        let cell = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|";
        assert!(message("DARTS_V1", &|d| d.channels = 0, false).starts_with("--channels"));
        assert!(message("DARTS_V1", &|d| d.channels = 47, true).contains("even"));
        assert!(message("DARTS_V1", &|d| d.cells = 0, false).starts_with("--cells"));
        assert!(message("DARTS_V1", &|d| d.image_size = 30, false).contains("multiple of 4"));
        assert!(message(cell, &|d| d.imagenet = true, false).starts_with("--imagenet"));
        assert!(message(cell, &|d| d.auxiliary = true, false).starts_with("--auxiliary"));
        let small = |d: &mut Design| {
            d.auxiliary = true;
            d.image_size = 16;
        };
        assert!(message("DARTS_V1", &small, false).starts_with("--auxiliary"));
    }
}
