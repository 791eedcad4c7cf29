//! The bundled UCI optical digits (`assets/README.md`): 1,797 grey 8×8 images, values 0..16.
//!
//! The fifth, tenth, … image of each class is for testing, the others for training: a fixed split with
//! the same share of every class.

use std::sync::Arc;

use super::memory::InMemory;
use super::{Images, Parts};

/// Records of one label byte and 64 pixel bytes.
static RECORDS: &[u8] = include_bytes!("../../assets/digits.bin");
const SIDE: usize = 8;
const RECORD: usize = 1 + SIDE * SIDE;
const CLASSES: usize = 10;
const TEST_EVERY: usize = 5;

const _: () = assert!(RECORDS.len() == 1797 * RECORD);

/// The digits, grey replicated to three channels, 0..16 scaled to 0..255.
pub fn open() -> Parts {
    let empty = || InMemory {
        size: [SIDE, SIDE],
        pixels: Vec::new(),
        labels: Vec::new(),
    };
    let (mut train, mut test) = (empty(), empty());
    let mut seen = [0; CLASSES];
    for record in RECORDS.chunks_exact(RECORD) {
        let label = usize::from(record[0]);
        seen[label] += 1;
        let part = if seen[label] % TEST_EVERY == 0 {
            &mut test
        } else {
            &mut train
        };
        part.labels.push(label as u32);
        part.pixels.extend(record[1..].iter().flat_map(|&value| {
            let grey = ((u32::from(value) * 255 + 8) / 16) as u8;
            [grey; 3]
        }));
    }
    Parts {
        name: "digits".into(),
        classes: (0..CLASSES).map(|class| class.to_string()).collect(),
        train: Arc::new(train) as Arc<dyn Images>,
        test: Arc::new(test),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_balanced_over_the_classes() {
        let parts = open();
        assert_eq!((parts.train.len(), parts.test.len()), (1442, 355));
        for class in 0..CLASSES as u32 {
            let count =
                |part: &dyn Images| (0..part.len()).filter(|&i| part.label(i) == class).count();
            assert!((139..=147).contains(&count(&*parts.train)));
            assert!((34..=36).contains(&count(&*parts.test)));
        }
    }

    #[test]
    fn the_first_image_is_the_zero_of_the_uci_file() {
        let parts = open();
        let mut pixels = [0; 192];
        parts.train.pixels(0, &mut pixels);
        assert_eq!(parts.train.label(0), 0);
        // Its first row is 0 0 5 13 9 1 0 0.
        let row: Vec<u8> = pixels[..24].iter().step_by(3).copied().collect();
        assert_eq!(row, [0, 0, 80, 207, 143, 16, 0, 0]);
        assert_eq!(pixels[6..9], [80; 3]);
    }
}
