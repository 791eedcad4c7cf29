//! Ops by their published names: the candidates of each space, and all that a genotype may hold.
//!
//! The order of a space's variants is the column order of the α matrices of the official code
//! (`genotypes.py` PRIMITIVES of DARTS, `NAS_BENCH_201` of NAS-Bench-201), of NASNet the order of the
//! paper's list. A DARTS genotype may hold more than the DARTS space has: the official `operations.py`
//! builds ten ops, which the genotypes of NASNet and AmoebaNet use; the NASNet space has five more, and sharpDARTS
//! another five. Which ops the columns of a matrix stand for in a supernet of DARTS cells is a list:
//! [`DARTS_CANDIDATES`], [`SHARP_CANDIDATES`].

/// Declares an op enum whose variants and published names cannot drift apart.
macro_rules! op_enum {
    ($(#[$doc:meta])* $name:ident, $count:literal, $space:literal, { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All ops, in order.
            pub const ALL: [$name; $count] = [$($name::$variant,)+];

            /// Published names, in order.
            pub const NAMES: [&'static str; $count] = [$($text,)+];

            /// The published name.
            pub fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }

            /// Place of the op in that order; for a space's ops the column in an α matrix.
            pub fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = anyhow::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match Self::NAMES.iter().position(|&name| name == text) {
                    Some(index) => Ok(Self::ALL[index]),
                    None => anyhow::bail!(
                        "unknown op {} (the ops of {} are {})",
                        super::quoted(text),
                        $space,
                        Self::NAMES.join(", ")
                    ),
                }
            }
        }
    };
}

op_enum!(
    /// Candidate ops of a DARTS edge.
    DartsOp, 8, "DARTS", {
        /// No connection: a zero of the edge's output shape.
        None = "none",
        /// Max pooling 3×3.
        MaxPool3x3 = "max_pool_3x3",
        /// Average pooling 3×3, padding not counted.
        AvgPool3x3 = "avg_pool_3x3",
        /// Identity; factorized reduction where the edge has stride 2.
        SkipConnect = "skip_connect",
        /// Separable convolution 3×3, applied twice.
        SepConv3x3 = "sep_conv_3x3",
        /// Separable convolution 5×5, applied twice.
        SepConv5x5 = "sep_conv_5x5",
        /// Dilated (2) separable convolution 3×3.
        DilConv3x3 = "dil_conv_3x3",
        /// Dilated (2) separable convolution 5×5.
        DilConv5x5 = "dil_conv_5x5",
    }
);

op_enum!(
    /// Candidate ops of a NAS-Bench-201 edge.
    Nb201Op, 5, "NAS-Bench-201", {
        /// No connection: zero.
        None = "none",
        /// Identity.
        SkipConnect = "skip_connect",
        /// ReLU, convolution 1×1, batch norm.
        NorConv1x1 = "nor_conv_1x1",
        /// ReLU, convolution 3×3, batch norm.
        NorConv3x3 = "nor_conv_3x3",
        /// Average pooling 3×3, padding not counted.
        AvgPool3x3 = "avg_pool_3x3",
    }
);

op_enum!(
    /// Candidate ops of a NASNet edge. The paper leaves open what a dilated convolution is; here it is that
    /// of DARTS.
    NasnetOp, 13, "NASNet", {
        /// Identity; factorized reduction where the edge has stride 2.
        SkipConnect = "skip_connect",
        /// Convolution 1×3 and then 3×1, under one batch norm.
        Conv3x1Then1x3 = "conv_3x1_1x3",
        /// Convolution 1×7 and then 7×1, under one batch norm.
        Conv7x1Then1x7 = "conv_7x1_1x7",
        /// Dilated (2) separable convolution 3×3.
        DilConv3x3 = "dil_conv_3x3",
        /// Average pooling 3×3, padding not counted.
        AvgPool3x3 = "avg_pool_3x3",
        /// Max pooling 3×3.
        MaxPool3x3 = "max_pool_3x3",
        /// Max pooling 5×5.
        MaxPool5x5 = "max_pool_5x5",
        /// Max pooling 7×7.
        MaxPool7x7 = "max_pool_7x7",
        /// ReLU, convolution 1×1, batch norm.
        Conv1x1 = "conv_1x1",
        /// ReLU, convolution 3×3, batch norm.
        Conv3x3 = "conv_3x3",
        /// Separable convolution 3×3, applied twice.
        SepConv3x3 = "sep_conv_3x3",
        /// Separable convolution 5×5, applied twice.
        SepConv5x5 = "sep_conv_5x5",
        /// Separable convolution 7×7, applied twice.
        SepConv7x7 = "sep_conv_7x7",
    }
);

op_enum!(
    /// Ops of a DARTS genotype: the keys of `OPS` in the official `operations.py`, the others of NASNet, and those that
    /// sharpDARTS adds (Hundt et al. 2019).
    GenotypeOp, 20, "a DARTS genotype", {
        /// Zero.
        None = "none",
        /// Average pooling 3×3, padding not counted.
        AvgPool3x3 = "avg_pool_3x3",
        /// Max pooling 3×3.
        MaxPool3x3 = "max_pool_3x3",
        /// Identity; factorized reduction where the edge has stride 2.
        SkipConnect = "skip_connect",
        /// Separable convolution 3×3, applied twice.
        SepConv3x3 = "sep_conv_3x3",
        /// Separable convolution 5×5, applied twice.
        SepConv5x5 = "sep_conv_5x5",
        /// Separable convolution 7×7, applied twice.
        SepConv7x7 = "sep_conv_7x7",
        /// Dilated (2) separable convolution 3×3.
        DilConv3x3 = "dil_conv_3x3",
        /// Dilated (2) separable convolution 5×5.
        DilConv5x5 = "dil_conv_5x5",
        /// Convolution 1×7 and then 7×1, under one batch norm.
        Conv7x1Then1x7 = "conv_7x1_1x7",
        /// sharpDARTS' `dil_conv_3x3`, which is DARTS' with a second half, not dilated. Its official text has
        /// DARTS' name for it; here a name is one op.
        SharpDilConv3x3 = "sharp_dil_conv_3x3",
        /// Separable convolution 3×3, applied twice, four times as wide between.
        FloodConv3x3 = "flood_conv_3x3",
        /// The same, its first half dilated (2).
        DilFloodConv3x3 = "dil_flood_conv_3x3",
        /// Separable convolution 3×3, applied twice, 32 channels between.
        ChokeConv3x3 = "choke_conv_3x3",
        /// The same, its first half dilated (2).
        DilChokeConv3x3 = "dil_choke_conv_3x3",
        /// Convolution 1×3 and then 3×1, under one batch norm.
        Conv3x1Then1x3 = "conv_3x1_1x3",
        /// Max pooling 5×5.
        MaxPool5x5 = "max_pool_5x5",
        /// Max pooling 7×7.
        MaxPool7x7 = "max_pool_7x7",
        /// ReLU, convolution 1×1, batch norm.
        Conv1x1 = "conv_1x1",
        /// ReLU, convolution 3×3, batch norm.
        Conv3x3 = "conv_3x3",
    }
);

/// Channels between the halves of an op that is two separable convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle {
    /// So many for each channel that the op reads.
    Times(usize),
    /// So many.
    Fixed(usize),
}

/// A separable op: relu → depthwise k×k → pointwise → batch norm, once, or twice; the second half has stride 1 and is
/// not dilated. Two halves of any width between are `SharpSepConv` (Hundt et al. 2019).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeparableOp {
    /// k
    pub kernel: usize,
    /// Of the first half.
    pub dilation: usize,
    /// Between the halves, where there are two.
    pub middle: Option<Middle>,
}

impl SeparableOp {
    /// Channels between the halves of the op on `channels`; none where it has one.
    pub fn width(&self, channels: usize) -> Option<usize> {
        self.middle.map(|middle| match middle {
            Middle::Times(factor) => factor * channels,
            Middle::Fixed(width) => width,
        })
    }
}

/// `C_mid_mult` of the official flood ops.
const FLOOD: Middle = Middle::Times(4);
/// `C_mid` of the official choke ops.
const CHOKE: Middle = Middle::Fixed(32);

impl GenotypeOp {
    /// What a separable op is made of; none for the others.
    pub fn separable(self) -> Option<SeparableOp> {
        let op = |kernel, dilation, middle| {
            Some(SeparableOp {
                kernel,
                dilation,
                middle,
            })
        };
        let same = Some(Middle::Times(1));
        match self {
            GenotypeOp::SepConv3x3 => op(3, 1, same),
            GenotypeOp::SepConv5x5 => op(5, 1, same),
            GenotypeOp::SepConv7x7 => op(7, 1, same),
            GenotypeOp::DilConv3x3 => op(3, 2, None),
            GenotypeOp::DilConv5x5 => op(5, 2, None),
            GenotypeOp::SharpDilConv3x3 => op(3, 2, same),
            GenotypeOp::FloodConv3x3 => op(3, 1, Some(FLOOD)),
            GenotypeOp::DilFloodConv3x3 => op(3, 2, Some(FLOOD)),
            GenotypeOp::ChokeConv3x3 => op(3, 1, Some(CHOKE)),
            GenotypeOp::DilChokeConv3x3 => op(3, 2, Some(CHOKE)),
            GenotypeOp::None
            | GenotypeOp::AvgPool3x3
            | GenotypeOp::MaxPool3x3
            | GenotypeOp::SkipConnect
            | GenotypeOp::Conv7x1Then1x7
            | GenotypeOp::Conv3x1Then1x3
            | GenotypeOp::MaxPool5x5
            | GenotypeOp::MaxPool7x7
            | GenotypeOp::Conv1x1
            | GenotypeOp::Conv3x3 => None,
        }
    }
}

/// The candidates of a DARTS edge, by column of α: [`DartsOp`].
pub const DARTS_CANDIDATES: [GenotypeOp; 8] = [
    GenotypeOp::None,
    GenotypeOp::MaxPool3x3,
    GenotypeOp::AvgPool3x3,
    GenotypeOp::SkipConnect,
    GenotypeOp::SepConv3x3,
    GenotypeOp::SepConv5x5,
    GenotypeOp::DilConv3x3,
    GenotypeOp::DilConv5x5,
];

/// The candidates of a sharpDARTS edge, by column of α: `PRIMITIVES` of the official `genotypes.py`.
pub const SHARP_CANDIDATES: [GenotypeOp; 9] = [
    GenotypeOp::None,
    GenotypeOp::MaxPool3x3,
    GenotypeOp::SkipConnect,
    GenotypeOp::SepConv3x3,
    GenotypeOp::SharpDilConv3x3,
    GenotypeOp::FloodConv3x3,
    GenotypeOp::DilFloodConv3x3,
    GenotypeOp::ChokeConv3x3,
    GenotypeOp::DilChokeConv3x3,
];

impl From<DartsOp> for GenotypeOp {
    fn from(op: DartsOp) -> GenotypeOp {
        DARTS_CANDIDATES[op.index()]
    }
}

impl From<NasnetOp> for GenotypeOp {
    fn from(op: NasnetOp) -> GenotypeOp {
        match op {
            NasnetOp::SkipConnect => GenotypeOp::SkipConnect,
            NasnetOp::Conv3x1Then1x3 => GenotypeOp::Conv3x1Then1x3,
            NasnetOp::Conv7x1Then1x7 => GenotypeOp::Conv7x1Then1x7,
            NasnetOp::DilConv3x3 => GenotypeOp::DilConv3x3,
            NasnetOp::AvgPool3x3 => GenotypeOp::AvgPool3x3,
            NasnetOp::MaxPool3x3 => GenotypeOp::MaxPool3x3,
            NasnetOp::MaxPool5x5 => GenotypeOp::MaxPool5x5,
            NasnetOp::MaxPool7x7 => GenotypeOp::MaxPool7x7,
            NasnetOp::Conv1x1 => GenotypeOp::Conv1x1,
            NasnetOp::Conv3x3 => GenotypeOp::Conv3x3,
            NasnetOp::SepConv3x3 => GenotypeOp::SepConv3x3,
            NasnetOp::SepConv5x5 => GenotypeOp::SepConv5x5,
            NasnetOp::SepConv7x7 => GenotypeOp::SepConv7x7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_round_trips_through_its_name_and_column() {
        for (column, op) in DartsOp::ALL.into_iter().enumerate() {
            assert_eq!(op.index(), column);
            assert_eq!(op.name().parse::<DartsOp>().unwrap(), op);
        }
        for (column, op) in Nb201Op::ALL.into_iter().enumerate() {
            assert_eq!(op.index(), column);
            assert_eq!(op.name().parse::<Nb201Op>().unwrap(), op);
        }
        for (column, op) in NasnetOp::ALL.into_iter().enumerate() {
            assert_eq!(op.index(), column);
            assert_eq!(op.name().parse::<NasnetOp>().unwrap(), op);
        }
        for op in GenotypeOp::ALL {
            assert_eq!(op.name().parse::<GenotypeOp>().unwrap(), op);
        }
    }

    #[test]
    fn an_op_of_a_space_keeps_its_name_in_a_genotype() {
        for op in DartsOp::ALL {
            assert_eq!(GenotypeOp::from(op).name(), op.name());
        }
        for op in NasnetOp::ALL {
            assert_eq!(GenotypeOp::from(op).name(), op.name());
        }
    }

    #[test]
    fn an_op_of_sharp_darts_has_two_halves_and_the_published_width_between() {
        let width = |op: GenotypeOp| op.separable().expect("separable").width(16);
        for (op, expected) in [
            (GenotypeOp::SepConv3x3, 16),
            (GenotypeOp::SharpDilConv3x3, 16),
            (GenotypeOp::FloodConv3x3, 64),
            (GenotypeOp::DilFloodConv3x3, 64),
            (GenotypeOp::ChokeConv3x3, 32),
            (GenotypeOp::DilChokeConv3x3, 32),
        ] {
            assert_eq!(width(op), Some(expected), "{op}");
            let dilated = op.name().contains("dil_");
            let separable = op.separable().unwrap();
            assert_eq!(separable.dilation, if dilated { 2 } else { 1 }, "{op}");
            assert!(SHARP_CANDIDATES.contains(&op));
        }
        assert_eq!(width(GenotypeOp::DilConv3x3), None);
        // The first column of a list is what derivation leaves out.
        assert_eq!(SHARP_CANDIDATES[0], GenotypeOp::None);
    }

    #[test]
    fn an_unknown_op_is_named_with_the_list_of_known_ones() {
        let error = "conv_7x1_1x7".parse::<DartsOp>().unwrap_err().to_string();
        assert!(error.contains("`conv_7x1_1x7`"), "{error}");
        for name in DartsOp::NAMES {
            assert!(error.contains(name), "{error}");
        }
    }
}
