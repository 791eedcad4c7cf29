//! The comparison: every work by `ndarts` and by libtorch in both layouts, in turns, each time in a
//! process of its own, with the same number of threads; then a table.
//!
//! Taking turns spreads what else happens on the machine over all three; the one that begins changes
//! from round to round.

use crate::parameters::Layout;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::{Command, Stdio};

/// What both programs' JSON lines tell of a measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Median of the repetitions, seconds.
    pub median_s: f64,
    /// The fastest.
    pub min_s: f64,
    /// The slowest.
    pub max_s: f64,
    /// Most resident memory of the process, MiB.
    pub peak_rss_mb: Option<f64>,
}

/// A line of the table.
struct Case {
    label: String,
    /// Arguments that both programs take.
    arguments: Vec<String>,
}

/// (label, work, space, channels, cells, batch)
type Line = (
    &'static str,
    &'static str,
    &'static str,
    usize,
    usize,
    usize,
);

const FULL: [Line; 7] = [
    ("weight step", "step", "darts", 16, 8, 64),
    ("forward", "forward", "darts", 16, 8, 64),
    ("exact Hessian-vector product", "hvp", "darts", 16, 8, 16),
    ("hypergradient, K = 3", "hypergrad", "darts", 16, 8, 16),
    ("ES generation, population 8", "es", "darts", 16, 8, 16),
    ("weight step", "step", "nb201", 16, 5, 64),
    ("weight step", "step", "nb201", 8, 1, 64),
];

fn cases(small: bool) -> Vec<Case> {
    let case = |(label, what, space, channels, cells, batch): Line| {
        let [channels, cells, batch] = match small {
            false => [channels, cells, batch],
            true => [4, if space == "darts" { 3 } else { 1 }, 4],
        };
        let (name, depth) = match space {
            "darts" => ("DARTS", "L"),
            _ => ("NAS-Bench-201", "N"),
        };
        let arguments = format!(
            "--what {what} --space {space} --channels {channels} --cells {cells} --batch {batch} \
             --neumann-terms 3 --population 8"
        );
        Case {
            label: format!("{name} C = {channels}, {depth} = {cells}, batch {batch}: {label}"),
            arguments: arguments.split_whitespace().map(String::from).collect(),
        }
    };
    let mut cases: Vec<Case> = FULL.into_iter().map(case).collect();
    cases.dedup_by(|a, b| a.label == b.label);
    cases
}

/// Who does the work.
#[derive(Clone, Copy)]
enum Contender {
    Ndarts,
    Libtorch(Layout),
}

const CONTENDERS: [Contender; 3] = [
    Contender::Ndarts,
    Contender::Libtorch(Layout::Nchw),
    Contender::Libtorch(Layout::ChannelsLast),
];

/// How the comparison is made.
pub struct Plan<'a> {
    /// The `ndarts` binary.
    pub ndarts: &'a Path,
    /// Rounds: processes a contender and work.
    pub rounds: usize,
    /// Timed repetitions in a process.
    pub iters: usize,
    /// Threads of each.
    pub threads: usize,
    /// Tiny networks, to try the machinery.
    pub small: bool,
}

impl Plan<'_> {
    fn measure(&self, contender: Contender, case: &Case) -> Result<Measured> {
        let mut command = match contender {
            Contender::Ndarts => {
                let mut command = Command::new(self.ndarts);
                command.args(["bench", "--json"]);
                command
            }
            Contender::Libtorch(layout) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["measure", "--layout", layout.name()]);
                command
            }
        };
        command.args(&case.arguments).args(["--device", "cpu"]);
        for (flag, value) in [("--iters", self.iters), ("--threads", self.threads)] {
            command.args([flag, &value.to_string()]);
        }
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start {command:?}"))?;
        ensure!(
            output.status.success(),
            "expected {command:?} to end well, found {}",
            output.status
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{command:?}: expected one measurement, found no such line"))
    }

    /// Measures everything and prints the table in Markdown.
    ///
    /// # Errors
    /// A process that fails.
    pub fn run(&self) -> Result<()> {
        let cases = cases(self.small);
        let mut measured = vec![[const { Vec::new() }; 3]; cases.len()];
        for round in 0..self.rounds {
            for (case, measured) in cases.iter().zip(&mut measured) {
                eprintln!("round {} of {}: {}", round + 1, self.rounds, case.label);
                for turn in 0..CONTENDERS.len() {
                    let who = (round + turn) % CONTENDERS.len();
                    measured[who].push(self.measure(CONTENDERS[who], case)?);
                }
            }
        }
        println!(
            "| work | ndarts | libtorch NCHW | libtorch channels-last | faster layout / ndarts | peak MiB of each |"
        );
        println!("|---|---|---|---|---|---|");
        for (case, measured) in cases.iter().zip(measured) {
            println!("{}", line(case, &measured.map(|of| Summary::of(&of))));
        }
        Ok(())
    }
}

/// All processes of a contender and work together.
struct Summary {
    median: f64,
    least: f64,
    most: f64,
    peak: Option<f64>,
}

impl Summary {
    fn of(measured: &[Measured]) -> Summary {
        let mut medians: Vec<f64> = measured.iter().map(|m| m.median_s).collect();
        medians.sort_by(f64::total_cmp);
        Summary {
            median: median(&medians),
            least: measured
                .iter()
                .map(|m| m.min_s)
                .fold(f64::INFINITY, f64::min),
            most: measured.iter().map(|m| m.max_s).fold(0.0, f64::max),
            peak: measured
                .iter()
                .filter_map(|m| m.peak_rss_mb)
                .reduce(f64::max),
        }
    }
}

/// Of an ascending list that is not empty.
pub fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        0.5 * (sorted[middle - 1] + sorted[middle])
    }
}

fn line(case: &Case, [ours, nchw, channels_last]: &[Summary; 3]) -> String {
    let seconds = |s: &Summary| format!("{:.3} s ({:.3}–{:.3})", s.median, s.least, s.most);
    let peak = |s: &Summary| s.peak.map_or("unknown".into(), |mib| format!("{mib:.0}"));
    let faster = nchw.median.min(channels_last.median);
    format!(
        "| {} | {} | {} | {} | {:.2}× | {} / {} / {} |",
        case.label,
        seconds(ours),
        seconds(nchw),
        seconds(channels_last),
        faster / ours.median,
        peak(ours),
        peak(nchw),
        peak(channels_last)
    )
}
