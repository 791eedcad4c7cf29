//! A trained network on a whole part of a data set: loss, accuracies, confusion matrix.

use serde::{Deserialize, Serialize};

use super::model::Model;
use crate::data::{Images, evaluation_batch};

/// What a network does on a set of images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Images.
    pub images: usize,
    /// Mean softmax cross entropy.
    pub loss: f64,
    /// Share of images whose label has the largest logit.
    pub top1: f64,
    /// Share of images whose label is among the five largest logits.
    pub top5: f64,
    /// Images by class (row) and answer (column).
    pub confusion: Vec<Vec<u32>>,
}

/// Asks the network about every image, in batches of its tape's size; the last one is filled up
/// with images that are not counted.
///
/// # Errors
/// The device's.
pub fn evaluate(
    model: &mut Model,
    images: &dyn Images,
    mean: [f32; 3],
    std: [f32; 3],
) -> anyhow::Result<Evaluation> {
    let (count, batch, classes) = (images.len(), model.batch(), model.classes());
    let mut found = Evaluation {
        images: count,
        confusion: vec![vec![0; classes]; classes],
        ..Evaluation::default()
    };
    let (mut loss, mut top1, mut top5) = (0.0, 0usize, 0usize);
    for first in (0..count).step_by(batch) {
        let indices: Vec<u32> = (first..first + batch)
            .map(|i| i.min(count - 1) as u32)
            .collect();
        let loaded = evaluation_batch(images, &indices, mean, std);
        let logits = model.infer(&loaded)?;
        let counted = batch.min(count - first);
        for (row, &label) in logits
            .chunks_exact(classes)
            .zip(&loaded.labels)
            .take(counted)
        {
            let label = label as usize;
            let answer = Answer::of(row, label);
            loss += answer.loss;
            top1 += usize::from(answer.rank == 0);
            top5 += usize::from(answer.rank < 5);
            found.confusion[label][answer.class] += 1;
        }
    }
    let share = |hits: usize| hits as f64 / count.max(1) as f64;
    found.loss = loss / count.max(1) as f64;
    (found.top1, found.top5) = (share(top1), share(top5));
    Ok(found)
}

struct Answer {
    loss: f64,
    /// Classes above the label; beyond all where a logit is no number.
    rank: usize,
    class: usize,
}

impl Answer {
    fn of(logits: &[f32], label: usize) -> Answer {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
        let finite = logits.iter().all(|l| l.is_finite());
        let class = logits.iter().position(|&l| l == max).unwrap_or(0);
        Answer {
            loss: sum.ln() + f64::from(max) - f64::from(logits[label]),
            rank: if finite {
                logits.iter().filter(|&&l| l > logits[label]).count()
            } else {
                usize::MAX
            },
            class,
        }
    }
}
