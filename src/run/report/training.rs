//! The page of a training: curves, the confusion matrix, the cells.

use std::fmt::Write;

use anyhow::{Result, ensure};

use super::charts::Series;
use super::palette::{SERIES, TRAIN, VALIDATION};
use super::{document, escape, sections};
use crate::run::config::TrainConfig;
use crate::run::evaluation::Judged;
use crate::run::log::History;
use crate::space::Genotype;

/// Most classes whose whole matrix is shown; of more, the worst confusions.
const WHOLE_MATRIX: usize = 20;
/// Confusions listed.
const LISTED: usize = 20;

/// The whole page.
///
/// # Errors
/// A log without a step, or a genotype that cannot be read.
pub fn page(config: &TrainConfig, history: &History, judged: Option<&Judged>) -> Result<String> {
    ensure!(
        !history.steps.is_empty(),
        "expected at least one step to report, found none; let the training run longer"
    );
    let settings = &config.train;
    let genotype: Genotype = settings.genotype.parse()?;
    let title = format!("Training of a {} network", genotype.space().name());
    let mut body = sections::headed(&title, &facts(config, history));
    body += &curves(history)?;
    if let Some(judged) = judged {
        body += &confusion(judged);
    }
    body += &sections::genotype("Architecture", &genotype);
    body += &sections::settings(&config.to_toml()?);
    Ok(document(
        &format!("ndarts: training on {}", escape(&settings.data)),
        &format!("{body}<script>\n{}</script>\n", super::SCRIPT),
    ))
}

/// The page of an evaluation that is of no run: `name` is the checkpoint's.
pub fn evaluation(name: &str, data: &str, judged: &Judged) -> String {
    let found = &judged.evaluation;
    let facts = [
        ("checkpoint", escape(name)),
        ("data", escape(data)),
        ("images", found.images.to_string()),
        ("top-1 accuracy", percent(found.top1)),
        ("top-5 accuracy", percent(found.top5)),
        ("loss", format!("{:.4}", found.loss)),
    ];
    let body = sections::headed("Evaluation", &facts) + &confusion(judged);
    document(&format!("ndarts: evaluation on {}", escape(data)), &body)
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn facts(config: &TrainConfig, history: &History) -> Vec<(&'static str, String)> {
    let settings = &config.train;
    let mut facts = vec![("data", escape(&settings.data))];
    let steps = history.steps.last().map_or(0, |step| step.step);
    let of = history
        .start
        .as_ref()
        .map_or_else(String::new, |s| format!(" of {}", s.rounds_total));
    facts.push(("steps", format!("{steps}{of}")));
    match history.train_epochs.last() {
        Some(last) => facts.extend([
            (
                "epochs",
                format!("{} of {}", last.epoch + 1, settings.epochs),
            ),
            ("test accuracy", percent(last.accuracy_test)),
            ("top-5", percent(last.top5_test)),
            ("best test accuracy", percent(last.best_accuracy_test)),
            ("test loss", format!("{:.4}", last.loss_test)),
            ("time", sections::duration(last.seconds)),
        ]),
        None => facts.push(("epochs", "none finished yet".into())),
    }
    facts
}

fn curves(history: &History) -> Result<String> {
    let (steps, epochs) = (&history.steps, &history.train_epochs);
    let by_step = |name: &str, value: fn(&crate::train::record::StepRecord) -> f64| Series {
        name: name.into(),
        colour: SERIES[0],
        points: steps.iter().map(|s| (s.step as f64, value(s))).collect(),
    };
    let by_epoch =
        |name: &str, colour, value: fn(&crate::train::record::TrainEpochRecord) -> f64| Series {
            name: name.into(),
            colour,
            points: epochs
                .iter()
                .map(|e| ((e.epoch + 1) as f64, value(e)))
                .collect(),
        };
    let mut html = String::from("<section>\n<h2>Training</h2>\n<div class=\"large\">\n");
    let losses = vec![
        by_epoch("training", TRAIN, |e| e.loss_train),
        by_epoch("test", VALIDATION, |e| e.loss_test),
    ];
    html += &sections::figure("Loss", "epoch", None, losses)?;
    let accuracies = vec![
        by_epoch("training", TRAIN, |e| e.accuracy_train),
        by_epoch("test", VALIDATION, |e| e.accuracy_test),
    ];
    html += &sections::figure("Accuracy", "epoch", None, accuracies)?;
    for (title, series) in [
        (
            "Loss of the training batches",
            by_step("loss", |s| s.loss_train),
        ),
        ("Norm of the gradient", by_step("norm", |s| s.grad_norm)),
        ("Learning rate", by_step("rate", |s| s.lr)),
        ("Drop path", by_step("probability", |s| s.drop_path)),
    ] {
        html += &sections::figure(title, "step", None, vec![series])?;
    }
    Ok(html + "</div>\n</section>\n")
}

/// The matrix of few classes, or the worst confusions of many.
fn confusion(judged: &Judged) -> String {
    let Judged {
        classes,
        evaluation,
    } = judged;
    let matrix = &evaluation.confusion;
    let mut html = String::from("<section>\n<h2>Confusion on the test set</h2>\n");
    if classes.len() <= WHOLE_MATRIX {
        html += "<p>rows: class; columns: answer; images</p>\n<div class=\"wide\"><table>\n<tr><th></th>";
        for class in classes {
            let _ = write!(html, "<th scope=\"col\">{}</th>", escape(class));
        }
        html += "</tr>\n";
        for (class, row) in classes.iter().zip(matrix) {
            let total: u32 = row.iter().sum();
            let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(class));
            for &count in row {
                let share = 60.0 * f64::from(count) / f64::from(total.max(1));
                let _ = write!(
                    html,
                    "<td style=\"background:color-mix(in srgb, var(--blue) {share:.0}%, transparent)\">{count}</td>"
                );
            }
            html += "</tr>\n";
        }
        return html + "</table></div>\n</section>\n";
    }
    let mut wrong: Vec<(u32, usize, usize)> = Vec::new();
    for (class, row) in matrix.iter().enumerate() {
        let others = row
            .iter()
            .enumerate()
            .filter(|&(answer, &n)| answer != class && n > 0);
        wrong.extend(others.map(|(answer, &n)| (n, class, answer)));
    }
    wrong.sort_by_key(|&(n, class, answer)| (std::cmp::Reverse(n), class, answer));
    html += "<table>\n<tr><th>class</th><th>answer</th><th>images</th></tr>\n";
    for &(n, class, answer) in wrong.iter().take(LISTED) {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{n}</td></tr>",
            escape(&classes[class]),
            escape(&classes[answer])
        );
    }
    html + "</table>\n</section>\n"
}
