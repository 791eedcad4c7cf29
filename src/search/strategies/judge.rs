//! Architectures judged with the supernet's weights: loss and accuracy on batches of the validation half.

use super::Architecture;
use crate::autograd::{Executor, Mode};
use crate::data::{Batch, Dataset, evaluation_batch};
use crate::device::Vector;

/// The supernet and the validation half, at the end of an epoch.
pub struct Judge<'a> {
    /// The supernet.
    pub executor: &'a mut Executor,
    /// (ω, op weights)
    pub theta: &'a mut Vector,
    /// The data set.
    pub data: &'a Dataset,
    /// Its images that the architecture is trained on.
    pub half: &'a [u32],
    /// Images a batch.
    pub batch: usize,
}

/// What an architecture reached.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Mean loss.
    pub loss: f64,
    /// Top-1 accuracy, 0..1.
    pub accuracy: f64,
}

impl Judge<'_> {
    /// Scores each candidate on the first `batches` batches of the half (all, where it has fewer), each with
    /// its own batch statistics. Every candidate sees the same images.
    ///
    /// # Errors
    /// The device's.
    pub fn scores(
        &mut self,
        candidates: &[Architecture],
        batches: usize,
    ) -> anyhow::Result<Vec<Score>> {
        let weightings: Vec<_> = candidates.iter().map(Architecture::weighting).collect();
        let mut scores = vec![Score::default(); candidates.len()];
        let mut count = 0;
        for indices in self.half.chunks_exact(self.batch).take(batches) {
            let images = self.data.train.as_ref();
            let Batch { images, labels } =
                evaluation_batch(images, indices, self.data.mean, self.data.std);
            self.executor.load(&images, &labels)?;
            // All are started before one is asked for, so that a GPU need not wait for the host.
            let found = weightings.iter().map(|weighting| {
                weighting.apply(self.executor, self.theta)?;
                self.executor.start_forward(Mode::Evaluate, &*self.theta)
            });
            let found: Vec<_> = found.collect::<anyhow::Result<_>>()?;
            for (outcome, score) in found.into_iter().zip(&mut scores) {
                let outcome = outcome.value()?;
                score.loss += outcome.loss;
                score.accuracy += outcome.top1 as f64 / self.batch as f64;
            }
            count += 1;
        }
        for score in &mut scores {
            score.loss /= f64::from(count);
            score.accuracy /= f64::from(count);
        }
        Ok(scores)
    }

    /// The place and score of the best of `candidates`, which have these `scores`: that of highest accuracy, of equals that
    /// of lowest loss. With `finalists` so many of the highest accuracy are judged again, on the whole half.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Panics
    /// No candidates.
    pub fn choose(
        &mut self,
        candidates: &[Architecture],
        scores: &[Score],
        finalists: usize,
    ) -> anyhow::Result<(usize, Score)> {
        if finalists == 0 {
            return Ok(best(scores));
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].accuracy.total_cmp(&scores[a].accuracy));
        order.truncate(finalists);
        let again: Vec<_> = order.iter().map(|&at| candidates[at].clone()).collect();
        let (found, score) = best(&self.scores(&again, usize::MAX)?);
        Ok((order[found], score))
    }
}

/// The place of the best score, and the score.
fn best(scores: &[Score]) -> (usize, Score) {
    let better = |a: &Score, b: &Score| {
        a.accuracy > b.accuracy || a.accuracy == b.accuracy && a.loss < b.loss
    };
    let mut found = 0;
    for (index, score) in scores.iter().enumerate() {
        if better(score, &scores[found]) {
            found = index;
        }
    }
    (found, scores[found])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_score_has_the_highest_accuracy_then_the_lowest_loss() {
        let score = |accuracy, loss| Score { loss, accuracy };
        let scores = [
            score(0.5, 0.1),
            score(0.7, 2.0),
            score(0.7, 1.0),
            score(0.7, 1.0),
        ];
        assert_eq!(best(&scores).0, 2);
        assert_eq!(best(&[score(0.0, f64::NAN)]).0, 0);
    }
}
