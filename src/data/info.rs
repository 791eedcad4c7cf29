//! What `ndarts data info` prints about a data set.

use std::fmt;

use anyhow::Result;

use super::{Images, Parts, Spec, grouped, open_parts, statistics};

/// A data set in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The SPEC it was opened by.
    pub spec: String,
    /// Short name.
    pub name: String,
    /// \[H, W\] of the images, in pixels.
    pub size: [usize; 2],
    /// Training images.
    pub train: usize,
    /// Test images.
    pub test: usize,
    /// Name, training images and test images of each class.
    pub classes: Vec<(String, usize, usize)>,
    /// Mean per channel of the training pixels, in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel of the training pixels, in 0..1.
    pub std: [f32; 3],
    /// Bytes of all pixels, decoded, at one byte a channel.
    pub bytes: u64,
}

/// Opens the data set that `spec` names (at `image_size`; 0 keeps its own) and sums it up.
///
/// # Errors
/// Those of [`Dataset::open`](super::Dataset::open).
pub fn info(spec: &str, image_size: usize) -> Result<Summary> {
    let spec: Spec = spec.parse()?;
    Ok(summary(&spec, &open_parts(&spec, image_size)?))
}

fn summary(spec: &Spec, parts: &Parts) -> Summary {
    let counts = |images: &dyn Images| {
        let mut counts = vec![0; parts.classes.len()];
        (0..images.len()).for_each(|i| counts[images.label(i) as usize] += 1);
        counts
    };
    let (train, test) = (counts(&*parts.train), counts(&*parts.test));
    let moments = statistics::of(&*parts.train);
    let size = parts.train.size();
    let images = parts.train.len() + parts.test.len();
    Summary {
        spec: spec.to_string(),
        name: parts.name.clone(),
        size,
        train: parts.train.len(),
        test: parts.test.len(),
        classes: parts
            .classes
            .iter()
            .enumerate()
            .map(|(class, name)| (name.clone(), train[class], test[class]))
            .collect(),
        mean: moments.mean,
        std: moments.std,
        bytes: (images * size[0] * size[1] * 3) as u64,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let three = |values: [f32; 3]| values.map(|value| format!("{value:.4}")).join(" ");
        let [height, width] = self.size;
        writeln!(f, "data      {}", self.spec)?;
        writeln!(f, "name      {}", self.name)?;
        writeln!(
            f,
            "images    {} train, {} test",
            grouped(self.train as u64),
            grouped(self.test as u64)
        )?;
        writeln!(f, "size      {width}×{height} pixels, 3 channels")?;
        writeln!(f, "pixels    {} bytes", grouped(self.bytes))?;
        writeln!(f, "mean      {}", three(self.mean))?;
        writeln!(f, "std       {}", three(self.std))?;
        writeln!(f, "classes   {}", self.classes.len())?;
        let wide = self
            .classes
            .iter()
            .map(|(name, ..)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (name, train, test) in &self.classes {
            writeln!(
                f,
                "  {name:<wide$}  {:>9} train  {:>9} test",
                grouped(*train as u64),
                grouped(*test as u64)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_the_digits_counts_every_class() {
        let summary = info("digits", 0).unwrap();
        assert_eq!(
            (summary.train, summary.test, summary.size),
            (1442, 355, [8, 8])
        );
        assert_eq!(summary.bytes, 1797 * 64 * 3);
        assert_eq!(
            summary.classes.iter().map(|class| class.1).sum::<usize>(),
            1442
        );
        let text = summary.to_string();
        assert!(
            text.contains("images    1,442 train, 355 test") && text.contains("classes   10"),
            "{text}"
        );
    }
}
