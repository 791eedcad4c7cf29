//! The parts of the page, from top to bottom.

use std::fmt::Write;

use anyhow::{Result, ensure};

use super::charts::{self, Frame, Series};
use super::palette::{self, SERIES, TRAIN, VALIDATION};
use super::{cells, escape};
use crate::run::config::RunConfig;
use crate::run::drive;
use crate::run::log::History;
use crate::search::record::{EpochRecord, RoundRecord};
use crate::space::{Genotype, Space};

/// Size of a chart that stands one to a phone's width, pixels.
const LARGE: (u32, u32) = (400, 260);
/// Size of a small multiple, two to a phone's width, pixels.
const SMALL: (u32, u32) = (250, 190);

/// Title and the few numbers that one asks for first.
pub fn summary(config: &RunConfig, history: &History) -> String {
    let settings = &config.search;
    let strategy = drive::word(&settings.strategy);
    let mut facts = vec![("strategy", strategy), ("data", escape(&settings.data))];
    let rounds = history.rounds.len();
    let of = history
        .start
        .as_ref()
        .map_or_else(String::new, |s| format!(" of {}", s.rounds_total));
    facts.push(("rounds", format!("{rounds}{of}")));
    match history.epochs.last() {
        Some(epoch) => {
            facts.push((
                "epochs",
                format!("{} of {}", epoch.epoch + 1, settings.epochs),
            ));
            facts.push((
                "validation accuracy",
                format!("{:.2} %", 100.0 * epoch.accuracy_val),
            ));
            facts.push(("validation loss", format!("{:.4}", epoch.loss_val)));
            facts.push(("time", duration(epoch.seconds)));
        }
        None => facts.push(("epochs", "none finished yet".into())),
    }
    headed(&format!("Search in the {} space", settings.space), &facts)
}

/// A title and facts under it, all HTML already.
pub(super) fn headed(title: &str, facts: &[(&str, String)]) -> String {
    let mut html = format!("<h1>{title}</h1>\n<dl class=\"facts\">\n");
    for (name, value) in facts {
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    html + "</dl>\n"
}

/// The cells, and the text to paste, under `title`.
pub fn genotype(title: &str, genotype: &Genotype) -> String {
    let mut html = format!("<section>\n<h2>{title}</h2>\n<div class=\"cells\">\n");
    for cell in genotype.cells() {
        let _ = writeln!(
            html,
            "<figure><figcaption>{}</figcaption>\n<div class=\"wide\">{}</div></figure>",
            caption(&cell.name),
            cells::draw(&cell)
        );
    }
    let _ = write!(
        html,
        "</div>\n<div class=\"copy\"><button type=\"button\" id=\"copy\">Copy genotype</button>\
         <span id=\"copied\" role=\"status\"></span></div>\n<pre id=\"genotype\">{}</pre>\n</section>\n",
        escape(&genotype.to_string())
    );
    html
}

/// Losses, accuracies and what the hypergradient reports.
///
/// # Errors
///
/// See [`charts::lines`].
pub fn curves(history: &History) -> Result<String> {
    let mut html = String::from("<section>\n<h2>Training</h2>\n<div class=\"large\">\n");
    let rounds = &history.rounds;
    let halves = |train: fn(&RoundRecord) -> Option<f64>, val: fn(&RoundRecord) -> Option<f64>| {
        vec![
            series("training batch", TRAIN, rounds, train),
            series("validation batch", VALIDATION, rounds, val),
        ]
    };
    html += &chart("Loss", None, halves(|r| Some(r.loss_train), |r| r.loss_val))?;
    let accuracies = halves(|r| Some(r.accuracy_train), |r| r.accuracy_val);
    html += &chart("Accuracy", Some((0.0, 1.0)), accuracies)?;
    html += &validation(history)?;
    html += &chart(
        "Norm of ∂L1/∂ω",
        None,
        vec![series("gradient norm", TRAIN, rounds, |r| r.grad_norm)],
    )?;
    html += &chart("Norms ‖v_k‖ of the Neumann series", None, neumann(rounds))?;
    let ratio = vec![series(
        "‖correction‖ / ‖∂L2/∂α‖",
        TRAIN,
        rounds,
        |r| r.correction_ratio,
    )];
    html += &chart("Size of the correction", None, ratio)?;
    let chosen = vec![series("L1 of the choice", TRAIN, rounds, |r| r.es_loss)];
    html += &chart("Evolution strategy", None, chosen)?;
    html += "</div>\n";
    let stopped = rounds.iter().filter(|round| round.neumann_stopped).count();
    if stopped > 0 {
        let _ = writeln!(
            html,
            "<p class=\"note\">In {stopped} of {} rounds the series was stopped because ‖v_k‖ grew: \
             γ is too large there; try <code>--gamma auto</code>.</p>",
            rounds.len()
        );
    }
    Ok(html + "</section>\n")
}

/// α over time: one small chart an edge; `ops` are the names of α's columns.
///
/// # Errors
///
/// Op weights whose shape is not the supernet's.
pub fn op_weights(space: Space, ops: &[&'static str], epochs: &[EpochRecord]) -> Result<String> {
    if epochs.is_empty() {
        return Ok(String::new());
    }
    let mut html = String::from(
        "<section>\n<h2>Op weights over time</h2>\n<p>of each edge, by epoch: softmax of α, or what the strategy weighs ops by</p>\n",
    );
    html += &legend(
        ops.iter()
            .map(|op| (palette::of_op(op).name, (*op).to_owned())),
    );
    for (index, matrix) in space.alphas().iter().enumerate() {
        let fits = epochs.iter().all(|epoch| {
            epoch.op_weights.get(index).is_some_and(|weights| {
                weights.name == matrix.name
                    && weights.rows.len() == matrix.edges
                    && weights.rows.iter().all(|row| row.len() == ops.len())
            })
        });
        ensure!(
            fits,
            "expected op weights `{}` of {} edges and {} ops in every epoch, found another shape",
            matrix.name,
            matrix.edges,
            ops.len()
        );
        let _ = writeln!(
            html,
            "<h3><code>{}</code></h3>\n<div class=\"small\">",
            matrix.name
        );
        let highest = epochs
            .iter()
            .flat_map(|epoch| epoch.op_weights[index].rows.iter().flatten());
        let highest = highest.fold(0.0f32, |high, &weight| high.max(weight));
        let frame = Frame {
            size: SMALL,
            x_label: "",
            y: Some((0.0, (f64::from(highest) * 1.05).clamp(0.05, 1.0))),
            text: 18,
            labels: 4,
        };
        for (edge, label) in space.edge_labels().iter().enumerate() {
            let curves: Vec<Series> = (0..ops.len())
                .map(|op| Series {
                    name: ops[op].into(),
                    colour: palette::of_op(ops[op]),
                    points: epochs
                        .iter()
                        .map(|e| {
                            (
                                (e.epoch + 1) as f64,
                                f64::from(e.op_weights[index].rows[edge][op]),
                            )
                        })
                        .collect(),
                })
                .collect();
            let svg = charts::lines(&frame, &curves)?;
            let _ = writeln!(
                html,
                "<figure><figcaption>{}</figcaption>\n{svg}</figure>",
                with_subscripts(label)
            );
        }
        html += "</div>\n";
    }
    Ok(html + "</section>\n")
}

/// All settings, under the flags' names: the lines of a `config.toml`.
pub fn settings(config: &str) -> String {
    let mut html = String::from("<section>\n<h2>Settings</h2>\n<table>\n");
    for line in config.lines().filter(|line| !line.starts_with('#')) {
        let (key, value) = line.split_once(" = ").unwrap_or((line, ""));
        // Mean and deviation that were not stated.
        let value = if value == "[]" {
            "computed from the data"
        } else {
            value
        };
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
            escape(key),
            escape(value.trim_matches('"'))
        );
    }
    html + "</table>\n</section>\n"
}

fn series(
    name: &str,
    colour: palette::Colour,
    rounds: &[RoundRecord],
    value: fn(&RoundRecord) -> Option<f64>,
) -> Series {
    let points = rounds
        .iter()
        .filter_map(|round| Some((round.round as f64, value(round)?)));
    Series {
        name: name.into(),
        colour,
        points: points.collect(),
    }
}

/// Loss and accuracy over the whole validation half, at each epoch's end.
fn validation(history: &History) -> Result<String> {
    let over_epochs = |name: &str, colour, value: fn(&EpochRecord) -> f64| Series {
        name: name.into(),
        colour,
        points: history
            .epochs
            .iter()
            .map(|e| ((e.epoch + 1) as f64, value(e)))
            .collect(),
    };
    let curves = vec![
        over_epochs("accuracy", TRAIN, |epoch| epoch.accuracy_val),
        over_epochs("loss", VALIDATION, |epoch| epoch.loss_val),
    ];
    figure("Whole validation half", "epoch", None, curves)
}

/// ‖v_k‖ for a few k, first and last among them.
fn neumann(rounds: &[RoundRecord]) -> Vec<Series> {
    let terms = rounds
        .iter()
        .map(|round| round.neumann_norms.len())
        .max()
        .unwrap_or(0);
    let mut shown: Vec<usize> = (0..terms.min(SERIES.len())).collect();
    if let Some(last) = shown.last_mut() {
        *last = terms - 1;
    }
    let of = |(slot, k): (usize, usize)| Series {
        name: format!("‖v_{k}‖"),
        colour: SERIES[slot],
        points: rounds
            .iter()
            .filter_map(|round| Some((round.round as f64, *round.neumann_norms.get(k)?)))
            .collect(),
    };
    shown.into_iter().enumerate().map(of).collect()
}

fn chart(title: &str, y: Option<(f64, f64)>, curves: Vec<Series>) -> Result<String> {
    figure(title, "round", y, curves)
}

/// A titled chart with its legend; nothing where no curve has a point.
pub(super) fn figure(
    title: &str,
    x_label: &'static str,
    y: Option<(f64, f64)>,
    mut curves: Vec<Series>,
) -> Result<String> {
    curves.retain(|curve| !curve.points.is_empty());
    if curves.is_empty() {
        return Ok(String::new());
    }
    let svg = charts::lines(
        &Frame {
            size: LARGE,
            x_label,
            y,
            text: 15,
            labels: 6,
        },
        &curves,
    )?;
    let keys = legend(
        curves
            .iter()
            .map(|curve| (curve.colour.name, curve.name.clone())),
    );
    Ok(format!(
        "<figure><figcaption>{title}</figcaption>\n{keys}{svg}</figure>\n"
    ))
}

/// The legend of a chart: names of colours, and of what is drawn in them.
pub fn legend(entries: impl Iterator<Item = (&'static str, String)>) -> String {
    let mut html = String::from("<ul class=\"legend\">");
    for (colour, name) in entries {
        let _ = write!(
            html,
            "<li style=\"--c:var(--{colour})\">{}</li>",
            escape(&name)
        );
    }
    html + "</ul>\n"
}

/// An edge's label with the indices of `c_{k-2}` and `c_{k-1}` set low.
fn with_subscripts(label: &str) -> String {
    escape(label)
        .replace("_{", "<sub>")
        .replace('}', "</sub>")
        .replace('-', "−")
}

/// `Normal cell`, `Reduction cell`, or `Cell` where a network has but one.
fn caption(cell: &str) -> String {
    let mut letters = cell.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let name: String = first.chain(letters).collect();
    escape(&if cell == "cell" {
        name
    } else {
        format!("{name} cell")
    })
}

/// Seconds as `1 h 2 min`, `3 min 4 s` or `5.6 s`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{} min {} s", whole / 60, whole % 60)
    } else {
        format!("{} h {} min", whole / 3600, whole % 3600 / 60)
    }
}
