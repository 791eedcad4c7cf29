//! A grid of searches as text, as CSV (a line a search) and as an HTML page with a plot of the spread.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::{Ablation, Shown, places};
use crate::run::columns;
use crate::run::report::{SERIES, Spreads, document, escape, legend, spreads};
use crate::run::tabular::Spread;

/// A grid and what its finished searches showed.
pub struct Page<'a> {
    /// The grid.
    pub ablation: &'a Ablation,
    /// What was found, in any order.
    pub shown: &'a [Shown],
}

/// What is told of each place: heading, unit, and the number.
type Told = (&'static str, &'static str, fn(&Shown) -> Option<f64>);

const TOLD: [Told; 4] = [
    ("validation accuracy of the supernet", "%", |s| {
        Some(s.validation)
    }),
    ("test accuracy of the cell", "%", |s| s.test),
    ("epochs", "", |s| Some(s.epochs as f64)),
    ("time", "s", |s| Some(s.seconds)),
];

/// Of these the page has plots.
const PLOTTED: usize = 2;

impl Page<'_> {
    /// Of a place: how a number spreads over the seeds.
    fn spread(&self, place: &[usize], number: fn(&Shown) -> Option<f64>) -> Option<Spread> {
        let here = self.shown.iter().filter(|shown| shown.place == place);
        Spread::of(here.filter_map(number))
    }

    /// What is told of this grid: numbers that at least one search has.
    fn told(&self) -> impl Iterator<Item = &'static Told> {
        TOLD.iter()
            .filter(|(_, _, number)| self.shown.iter().any(|shown| number(shown).is_some()))
    }

    /// Headings, and a row a place.
    fn table(&self) -> Vec<Vec<String>> {
        let axes = &self.ablation.axes;
        let mut heading: Vec<String> = axes.iter().map(|axis| axis.key.clone()).collect();
        heading.push("seeds".into());
        heading.extend(self.told().map(|(name, unit, _)| {
            if unit.is_empty() {
                (*name).to_owned()
            } else {
                format!("{name}, {unit}")
            }
        }));
        let mut rows = vec![heading];
        for place in places(axes) {
            let values = axes.iter().zip(&place);
            let mut row: Vec<String> = values.map(|(axis, &v)| axis.values[v].clone()).collect();
            let seeds = self.shown.iter().filter(|shown| shown.place == place);
            row.push(seeds.count().to_string());
            row.extend(self.told().map(|(_, _, number)| {
                let spread = self.spread(&place, *number);
                spread.as_ref().map(ToString::to_string).unwrap_or_default()
            }));
            rows.push(row);
        }
        rows
    }

    /// Columns set below each other.
    pub fn text(&self) -> String {
        columns::text(&self.table())
    }

    /// A line a search: the values of the axes, the seed, and what it showed.
    ///
    /// # Errors
    /// The CSV writer refuses.
    pub fn csv(&self) -> Result<String> {
        let axes = &self.ablation.axes;
        let names = axes.iter().map(|axis| axis.key.as_str());
        let own = [
            "seed",
            "epochs",
            "seconds",
            "validation",
            "test",
            "genotype",
        ];
        let mut records: Vec<Vec<String>> = vec![names.chain(own).map(str::to_owned).collect()];
        for shown in self.shown {
            let values = axes.iter().zip(&shown.place);
            let mut record: Vec<String> = values.map(|(axis, &v)| axis.values[v].clone()).collect();
            record.extend([
                shown.seed.to_string(),
                shown.epochs.to_string(),
                format!("{:.1}", shown.seconds),
                format!("{:.2}", shown.validation),
                shown.test.map(|test| test.to_string()).unwrap_or_default(),
                shown.genotype.clone(),
            ]);
            records.push(record);
        }
        columns::csv(records)
    }

    /// A page like the report.
    ///
    /// # Errors
    /// The plotting crate refuses.
    pub fn html(&self) -> Result<String> {
        let keys: Vec<&str> = self.ablation.axes.iter().map(|a| a.key.as_str()).collect();
        let done = format!(
            "{} of {} searches",
            self.shown.len(),
            self.ablation.planned.len()
        );
        let mut body = format!(
            "<h1>Searches by {}</h1>\n<p>{done}.</p>\n",
            escape(&keys.join(" and "))
        );
        body += "<div class=\"large\">\n";
        for (name, unit, number) in self
            .told()
            .take_while(|told| TOLD[..PLOTTED].iter().any(|(name, ..)| *name == told.0))
        {
            body += &self.figure(&format!("{name}, {unit}"), *number)?;
        }
        body +=
            "</div>\n<h2>Numbers</h2>\n<div class=\"wide\">\n<table class=\"paper\">\n<thead><tr>";
        let table = self.table();
        for heading in &table[0] {
            let _ = write!(body, "<th scope=\"col\">{}</th>", escape(heading));
        }
        body += "</tr></thead>\n<tbody>\n";
        for row in &table[1..] {
            body += "<tr>";
            for cell in row {
                let _ = write!(body, "<td>{}</td>", escape(cell));
            }
            body += "</tr>\n";
        }
        body += "</tbody>\n</table>\n</div>\n<p>Mean ± standard deviation over seeds. In the plots a point is a mean, \
                 its bar reaches from the lowest to the highest seed.</p>\n";
        Ok(document("ndarts: ablation", &body))
    }

    /// The spread of a number: the last axis from left to right, a line for each value of the others.
    fn figure(&self, caption: &str, number: fn(&Shown) -> Option<f64>) -> Result<String> {
        let (last, others) = self
            .ablation
            .axes
            .split_last()
            .context("a grid has an axis")?;
        let lines = places(others);
        let series = lines.iter().enumerate().map(|(index, line)| {
            let points = (0..last.values.len()).map(|value| {
                let spread = self.spread(&[line.as_slice(), &[value]].concat(), number)?;
                Some([spread.lowest, spread.mean, spread.highest])
            });
            (SERIES[index % SERIES.len()], points.collect())
        });
        let svg = spreads(&Spreads {
            size: (480, 320),
            places: &last.values,
            label: &last.key,
            joined: last.values.iter().all(|v| v.parse::<f64>().is_ok()),
            series: series.collect(),
        })?;
        let mut figure = format!("<figure><figcaption>{}</figcaption>\n", escape(caption));
        if !others.is_empty() {
            figure += &legend(lines.iter().enumerate().map(|(index, line)| {
                let parts = others.iter().zip(line);
                let name: Vec<String> = parts
                    .map(|(axis, &value)| format!("{} {}", axis.key, axis.values[value]))
                    .collect();
                (SERIES[index % SERIES.len()].name, name.join(", "))
            }));
        }
        Ok(figure + &svg + "</figure>\n")
    }
}
