//! What the supernets of DARTS and NASNet share (search network of the official code of DARTS): stem 3×3 to
//! 3C; a row of cells, each over the outputs of the two before it; reduction cells at L/3 and 2L/3, where C
//! doubles; classifier. In the cells batch norm has no γ and β.

use super::Recorder;
use crate::ops::{ActivationId, ParameterId};

const STEM_MULTIPLIER: usize = 3;

/// A cell in the row.
pub(super) struct Place {
    /// `cells.<number>`
    pub name: String,
    /// Of each of its nodes.
    pub channels: usize,
    /// It is a reduction cell.
    pub reduction: bool,
    /// The cell before it is one, so that its first input is twice as large as the second.
    reduced: bool,
}

impl Place {
    /// Of the edges that read the cell's inputs.
    pub fn stride(&self) -> usize {
        if self.reduction { 2 } else { 1 }
    }
}

impl Recorder {
    /// Records the whole row; `cell` records the cell at a place over its two inputs, brought to its size, and
    /// returns its output.
    pub(super) fn row_of_cells(
        &mut self,
        channels: usize,
        cells: usize,
        classes: usize,
        mut cell: impl FnMut(&mut Recorder, &Place, [ActivationId; 2]) -> ActivationId,
    ) {
        let names = ("stem.0.weight".to_owned(), "stem.1");
        let (images, stem) = (self.tape.images, STEM_MULTIPLIER * channels);
        let stem = self.conv_norm(images, names, stem, (3, 1), false);
        let (mut before, mut last) = (stem, stem);
        let (mut channels, mut reduced) = (channels, false);
        for index in 0..cells {
            let reduction = index == cells / 3 || index == 2 * cells / 3;
            if reduction {
                channels *= 2;
            }
            let place = Place {
                name: format!("cells.{index}"),
                channels,
                reduction,
                reduced,
            };
            let inputs = self.preprocessed(&place, before, last);
            let output = cell(self, &place, inputs);
            (before, last, reduced) = (last, output, reduction);
        }
        self.classifier(last, false, classes);
    }

    /// A cell's inputs, both of the size of the second and of the cell's channels.
    fn preprocessed(
        &mut self,
        place: &Place,
        before: ActivationId,
        last: ActivationId,
    ) -> [ActivationId; 2] {
        let Place { name, channels, .. } = place;
        let first = format!("{name}.preprocess0");
        let first = if place.reduced {
            let weights = self.factorized(&first, self.tape.channels(before), *channels);
            let z = self.tape.factorized_reduce(before, *channels, weights);
            self.tape.norm(z, None)
        } else {
            self.preprocess(&first, before, *channels)
        };
        [
            first,
            self.preprocess(&format!("{name}.preprocess1"), last, *channels),
        ]
    }

    fn preprocess(&mut self, name: &str, input: ActivationId, cout: usize) -> ActivationId {
        let cin = self.tape.channels(input);
        let weight = self.conv_weight(format!("{name}.op.1.weight"), cout, cin, 1);
        let z = self
            .tape
            .conv(input, (1, 1), cout, true, true, (weight, None));
        self.tape.norm(z, None)
    }

    /// The weights of the factorized reduction `name`.
    pub(super) fn factorized(&mut self, name: &str, cin: usize, cout: usize) -> [ParameterId; 2] {
        let half = cout / 2;
        [(1, half), (2, cout - half)]
            .map(|(i, cout)| self.conv_weight(format!("{name}.conv_{i}.weight"), cout, cin, 1))
    }

    /// The weights of a separable convolution `name` of `cin` to `cout` channels whose depthwise half is module `at`:
    /// depthwise and pointwise.
    pub(super) fn separable_weights(
        &mut self,
        name: &str,
        at: usize,
        [cin, cout]: [usize; 2],
        kernel: usize,
    ) -> (ParameterId, ParameterId) {
        let of = |i: usize| format!("{name}.op.{i}.weight");
        (
            self.depthwise_weight(of(at), cin, kernel),
            self.conv_weight(of(at + 1), cout, cin, 1),
        )
    }
}
