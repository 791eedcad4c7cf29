//! Progress of a search or a training: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::run::drive::{Observer, Work};
use crate::search::Search;
use crate::search::record::{EpochRecord, RoundRecord};
use crate::space::Genotype;
use crate::train::Trainer;
use crate::train::record::{StepRecord, TrainEpochRecord};

/// Least time between two plain lines of rounds.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Counts things that are done, on standard error: a bar on a terminal, a line now and then elsewhere.
pub struct Counter {
    what: &'static str,
    bar: Option<ProgressBar>,
    last: Cell<Instant>,
}

impl Counter {
    /// A count of `what`.
    pub fn new(what: &'static str) -> Counter {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let form = format!("{{bar:30}} {{pos}}/{{len}} {what}, {{per_sec}}, {{eta}} left");
            bar.set_style(ProgressStyle::with_template(&form).expect("a good template"));
            bar
        });
        Counter {
            what,
            bar,
            last: Cell::new(Instant::now()),
        }
    }

    /// `done` of `all`.
    pub fn show(&self, done: u64, all: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(all) {
                bar.set_length(all);
                // Of the speed, what an earlier sitting did is no part.
                bar.set_position(done);
                bar.reset_eta();
            }
            bar.set_position(done);
        } else if self.last.get().elapsed() >= PLAIN_EVERY {
            self.last.set(Instant::now());
            eprintln!("{done} of {all} {}", self.what);
        }
    }

    /// Takes the bar off the screen.
    pub fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows what a run is doing, on standard error.
pub enum Progress {
    /// `--quiet`.
    Quiet,
    /// A terminal.
    Bar(ProgressBar),
    /// A file or a pipe.
    Plain {
        /// When this sitting began.
        began: Instant,
        /// When the last line was printed.
        last: Instant,
        /// Rounds done before this sitting, and in all.
        rounds: (u64, u64),
    },
}

impl Progress {
    /// The form that suits standard error.
    pub fn new(quiet: bool) -> Progress {
        if quiet {
            Progress::Quiet
        } else if std::io::stderr().is_terminal() {
            Progress::Bar(ProgressBar::new(0))
        } else {
            Progress::Plain {
                began: Instant::now(),
                last: Instant::now(),
                rounds: (0, 0),
            }
        }
    }

    /// Takes the bar off the screen.
    pub fn close(&mut self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Progress {
    fn start(&mut self, unit: &str, done: u64, total: u64) {
        match self {
            Progress::Quiet => {}
            Progress::Bar(bar) => {
                let style = ProgressStyle::with_template(&format!(
                    "{{bar:24}} {{pos}}/{{len}} {unit}s, {{per_sec}}, {{eta}} left\n{{wide_msg}}"
                ));
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_length(total);
                bar.set_position(done);
                bar.reset_eta();
            }
            Progress::Plain { began, rounds, .. } => {
                *began = Instant::now();
                *rounds = (done, total);
                if done > 0 {
                    eprintln!("going on after {unit} {done} of {total}");
                }
            }
        }
    }

    fn advance(&mut self, unit: &str, done: u64, message: impl FnOnce() -> String) {
        match self {
            Progress::Quiet => {}
            Progress::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(message());
            }
            Progress::Plain {
                began,
                last,
                rounds,
            } => {
                if last.elapsed() < PLAIN_EVERY {
                    return;
                }
                *last = Instant::now();
                let (before, total) = *rounds;
                let rate = (done - before) as f64 / began.elapsed().as_secs_f64().max(1e-9);
                let left = Duration::from_secs_f64((total - done) as f64 / rate.max(1e-9));
                eprintln!(
                    "{unit} {done}/{total}, {rate:.2}/s, {} left: {}",
                    HumanDuration(left),
                    message()
                );
            }
        }
    }

    /// A line that stays.
    pub fn line(&mut self, line: String) {
        match self {
            Progress::Quiet => {}
            Progress::Bar(bar) => bar.println(line),
            Progress::Plain { last, .. } => {
                *last = Instant::now();
                eprintln!("{line}");
            }
        }
    }
}

impl Observer<Search> for Progress {
    fn device(&mut self, line: &str) {
        self.line(format!("device: {line}"));
    }

    fn begin(&mut self, done: u64, total: u64) {
        self.start("round", done, total);
    }

    fn round(&mut self, record: &RoundRecord, search: &Search) {
        self.advance("round", record.round, || {
            format!("{}; {}", losses(record), in_short(&search.genotype()))
        });
    }

    fn epoch(&mut self, record: &EpochRecord) {
        let genotype = record
            .genotype
            .parse()
            .map_or_else(|_| String::new(), |g| in_short(&g));
        self.line(format!(
            "epoch {}: validation loss {:.4}, accuracy {:.2} %, {:.1} s; {genotype}",
            record.epoch + 1,
            record.loss_val,
            100.0 * record.accuracy_val,
            record.seconds
        ));
    }
}

impl Observer<Trainer> for Progress {
    fn begin(&mut self, done: u64, total: u64) {
        self.start("step", done, total);
    }

    fn round(&mut self, record: &StepRecord, trainer: &Trainer) {
        self.advance("step", trainer.rounds_done(), || {
            format!(
                "epoch {}, train {:.4} ({:.1} %)",
                record.epoch + 1,
                record.loss_train,
                100.0 * record.accuracy_train
            )
        });
    }

    fn epoch(&mut self, record: &TrainEpochRecord) {
        self.line(format!(
            "epoch {}: train {:.4} ({:.2} %), test {:.4} ({:.2} %, best {:.2} %), {:.1} s",
            record.epoch + 1,
            record.loss_train,
            100.0 * record.accuracy_train,
            record.loss_test,
            100.0 * record.accuracy_test,
            100.0 * record.best_accuracy_test,
            record.seconds
        ));
    }
}

fn losses(record: &RoundRecord) -> String {
    let train = format!(
        "train {:.4} ({:.1} %)",
        record.loss_train,
        100.0 * record.accuracy_train
    );
    match (record.loss_val, record.accuracy_val) {
        (Some(loss), Some(accuracy)) => {
            format!("{train}, val {loss:.4} ({:.1} %)", 100.0 * accuracy)
        }
        _ => train,
    }
}

/// How often each op stands in each cell: `normal 5 sep_conv_3x3 2 skip_connect, reduction …`.
fn in_short(genotype: &Genotype) -> String {
    let cells = genotype.cells().into_iter().map(|cell| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, _, op) in cell.edges.iter().filter(|(_, _, op)| !op.is_empty()) {
            *counts.entry(op).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(op, count)| (std::cmp::Reverse(count), op));
        let counts: Vec<String> = counts
            .iter()
            .map(|(op, count)| format!("{count} {op}"))
            .collect();
        let counts = if counts.is_empty() {
            "no ops".into()
        } else {
            counts.join(" ")
        };
        format!("{} {counts}", cell.name)
    });
    cells.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_genotype_in_short_counts_ops_most_frequent_first() {
        let text = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|none~1|none~2|";
        assert_eq!(
            in_short(&text.parse().unwrap()),
            "cell 2 nor_conv_3x3 1 skip_connect"
        );
    }
}
