//! The table after the measurements: speed of each op and pass beside the machine's peaks.

use super::peaks::Peaks;
use criterion::{Criterion, Throughput};
use std::time::Duration;

/// What a work must do at the least.
#[derive(Clone, Copy)]
pub struct Floor {
    /// Floating-point operations; none where nobody counted them.
    pub flop: Option<f64>,
    /// Bytes: inputs read once, outputs written once.
    pub bytes: f64,
}

struct Row {
    name: String,
    seconds: f64,
    floor: Floor,
}

/// Rows of the table, in the order measured.
pub struct Report {
    peaks: Peaks,
    rows: Vec<Row>,
}

impl Report {
    /// An empty table under these peaks.
    pub fn new(peaks: Peaks) -> Report {
        Report {
            peaks,
            rows: Vec::new(),
        }
    }

    /// Has Criterion measure `work`, and keeps the mean of its fastest sample.
    pub fn measure(
        &mut self,
        criterion: &mut Criterion,
        (group, name): (&str, &str),
        floor: Floor,
        mut work: impl FnMut(),
    ) {
        let mut seconds = f64::INFINITY;
        let mut criterion_group = criterion.benchmark_group(group);
        let bytes = floor.bytes as u64;
        criterion_group.throughput(match floor.flop {
            Some(flop) => Throughput::ElementsAndBytes {
                elements: flop as u64,
                bytes,
            },
            None => Throughput::Bytes(bytes),
        });
        criterion_group.bench_function(name, |bencher| {
            bencher.iter_custom(|iters| {
                let start = std::time::Instant::now();
                for _ in 0..iters {
                    work();
                }
                let elapsed: Duration = start.elapsed();
                seconds = seconds.min(elapsed.as_secs_f64() / iters as f64);
                elapsed
            });
        });
        criterion_group.finish();
        // A filter on the command line leaves works out.
        if seconds.is_finite() {
            let name = format!("{group}/{name}");
            self.rows.push(Row {
                name,
                seconds,
                floor,
            });
        }
    }

    /// Seconds of a row, if it was measured.
    pub fn seconds(&self, name: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.name == name);
        row.map(|row| row.seconds)
    }

    /// Prints the table. The roof of a work is the time that the peaks allow its floor.
    pub fn print(&self) {
        println!(
            "\npeaks, {} threads: {:.0} GFLOP/s in a matrix product, {:.1} GB/s in a copy\n",
            rayon::current_num_threads(),
            self.peaks.flops / 1e9,
            self.peaks.bytes / 1e9
        );
        println!(
            "{:<44} {:>10} {:>9} {:>7} {:>8} {:>7} {:>8}",
            "op/pass", "ms", "GFLOP/s", "of peak", "GB/s", "of peak", "of roof"
        );
        for Row {
            name,
            seconds,
            floor,
        } in &self.rows
        {
            let of_bytes = floor.bytes / seconds / self.peaks.bytes;
            let of_flops = floor.flop.map(|flop| flop / seconds / self.peaks.flops);
            let (speed, share) = match (floor.flop, of_flops) {
                (Some(flop), Some(share)) => (
                    format!("{:.1}", flop / seconds / 1e9),
                    format!("{:.0} %", 100.0 * share),
                ),
                _ => ("–".into(), "–".into()),
            };
            println!(
                "{name:<44} {:>10.3} {speed:>9} {share:>7} {:>8.1} {:>7} {:>8}",
                1e3 * seconds,
                floor.bytes / seconds / 1e9,
                format!("{:.0} %", 100.0 * of_bytes),
                format!("{:.0} %", 100.0 * of_bytes.max(of_flops.unwrap_or(0.0)))
            );
        }
    }
}
