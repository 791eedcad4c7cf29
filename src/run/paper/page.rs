//! A table of the paper beside what was measured, as text, as CSV and as an HTML page.

use std::fmt::Write;

use anyhow::Result;

use super::{Measured, PaperTable};
use crate::run::columns;
use crate::run::report::{document, escape};

/// A table of the paper with its measured lines.
pub struct Page<'a> {
    /// The table.
    pub paper: &'a PaperTable,
    /// Measured lines of each row.
    pub rows: Vec<Vec<Measured>>,
    /// Measured lines of no row.
    pub others: Vec<Measured>,
}

/// A line: what is printed, and what was measured; either may be missing.
struct Line<'a> {
    printed: Option<&'a super::Row>,
    measured: Option<&'a Measured>,
}

impl Page<'_> {
    fn lines(&self) -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        for (row, measured) in self.paper.rows.iter().zip(&self.rows) {
            lines.push(Line {
                printed: Some(row),
                measured: measured.first(),
            });
            lines.extend(measured.iter().skip(1).map(|measured| Line {
                printed: None,
                measured: Some(measured),
            }));
        }
        lines.extend(self.others.iter().map(|measured| Line {
            printed: None,
            measured: Some(measured),
        }));
        lines
    }

    /// Headings of the text and of the page.
    fn headings(&self) -> [String; 10] {
        let [a, b, c] = self.paper.headings;
        let here = |heading: &str| format!("{heading} here");
        [
            "Algorithm".into(),
            a.into(),
            b.into(),
            c.into(),
            "Search Space".into(),
            "Search Method".into(),
            here(a),
            here(b),
            here(c),
            "Measured by".into(),
        ]
    }

    fn cells(line: &Line) -> [String; 10] {
        let mut cells: [String; 10] = Default::default();
        if let Some(row) = line.printed {
            let printed = [
                row.algorithm,
                row.printed[0],
                row.printed[1],
                row.printed[2],
            ];
            for (cell, text) in cells
                .iter_mut()
                .zip(printed.into_iter().chain([row.space, row.method]))
            {
                *cell = text.to_owned();
            }
        }
        if let Some(measured) = line.measured {
            for (cell, value) in cells[6..].iter_mut().zip(&measured.values) {
                *cell = value.as_ref().map(ToString::to_string).unwrap_or_default();
            }
            cells[9] = format!("{}, {}", measured.strategy, measured.by);
        }
        cells
    }

    /// Columns set below each other.
    pub fn text(&self) -> String {
        let mut table = vec![self.headings()];
        table.extend(self.lines().iter().map(Self::cells));
        let heading = format!("Table {}. {}\n\n", self.paper.number, self.paper.title);
        heading + &columns::text(&table)
    }

    /// One record a line; means and deviations in columns of their own.
    ///
    /// # Errors
    /// The CSV writer refuses.
    pub fn csv(&self) -> Result<String> {
        let headings = self.headings();
        let mut header: Vec<String> = headings[..6].to_vec();
        for heading in self.paper.headings {
            header.extend([format!("{heading} here"), format!("{heading} deviation")]);
        }
        header.extend(["Strategy".to_owned(), "Measured by".to_owned()]);
        let mut records = vec![header];
        for line in self.lines() {
            let mut record = Self::cells(&line)[..6].to_vec();
            for place in 0..3 {
                let spread = line.measured.and_then(|measured| measured.values[place]);
                record.push(spread.map(|s| s.mean.to_string()).unwrap_or_default());
                record.push(spread.map(|s| s.deviation.to_string()).unwrap_or_default());
            }
            let by =
                |of: fn(&Measured) -> &String| line.measured.map(of).cloned().unwrap_or_default();
            record.extend([by(|m| &m.strategy), by(|m| &m.by)]);
            records.push(record);
        }
        columns::csv(records)
    }

    /// A page like the report.
    pub fn html(&self) -> String {
        let title = format!("Table {}", self.paper.number);
        let mut body = format!(
            "<h1>{title}</h1>\n<p>{}</p>\n<div class=\"wide\">\n<table class=\"paper\">\n<thead><tr>",
            escape(self.paper.title)
        );
        for heading in self.headings() {
            let _ = write!(body, "<th scope=\"col\">{}</th>", escape(&heading));
        }
        body += "</tr></thead>\n<tbody>\n";
        for line in self.lines() {
            let [algorithm, rest @ ..] = Self::cells(&line);
            let _ = write!(body, "<tr><th scope=\"row\">{}</th>", escape(&algorithm));
            for (index, cell) in rest.iter().enumerate() {
                let class = if index >= 5 { " class=\"here\"" } else { "" };
                let _ = write!(body, "<td{class}>{}</td>", escape(cell));
            }
            body += "</tr>\n";
        }
        body += "</tbody>\n</table>\n</div>\n\
                 <p>As printed by the paper (Han et al. 2023, Algorithms 16, 536), and beside each row \
                 what was measured with this program: mean ± standard deviation over runs; empty where \
                 nothing was.</p>\n";
        document(&format!("ndarts: {title} of the paper"), &body)
    }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::finished;
    use super::super::{Runs, table};
    use super::*;

    fn page(number: usize) -> Page<'static> {
        let folder = tempfile::tempdir().unwrap();
        for (name, strategy) in [("a", "darts-v1"), ("b", "darts-v2"), ("c", "x<y")] {
            finished(
                &folder.path().join(name),
                (strategy, "darts", "cifar10:x"),
                "DARTS_V2",
            );
        }
        let runs = Runs::find(folder.path()).unwrap();
        let paper = table(number).unwrap();
        let (rows, others) = runs.beside(paper, None).unwrap();
        Page {
            paper,
            rows,
            others,
        }
    }

    #[test]
    fn text_holds_printed_rows_and_measured_lines_beside_and_below() {
        let text = page(1).text();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(
            line("DARTS ").contains("2.76") && line("DARTS ").contains("3.35"),
            "{text}"
        );
        assert!(line("DARTS ").ends_with("darts-v1, 1 run"));
        assert!(line("NDARTS").ends_with("Gradient"));
        assert_eq!(
            text.lines()
                .filter(|line| line.contains("darts-v2, 1 run"))
                .count(),
            1
        );
        assert_eq!(text.lines().count(), 3 + 12 + 2);
    }

    #[test]
    fn csv_has_as_many_fields_in_every_record_and_plain_numbers() {
        let csv = page(1).csv().unwrap();
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        assert_eq!(reader.headers().unwrap().len(), 14);
        let records: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(records.len(), 14);
        let darts = records.iter().find(|record| &record[0] == "DARTS").unwrap();
        assert_eq!(darts[10].parse::<f64>().unwrap(), 3.349342);
    }

    #[test]
    fn the_page_escapes_what_runs_say_and_asks_for_nothing_else() {
        let html = page(2).html();
        assert!(html.contains("x&lt;y") && !html.contains("x<y"));
        assert!(html.contains("<title>ndarts: Table 2 of the paper</title>"));
        assert!(!html.contains("http:") && !html.contains("https:"));
    }
}
