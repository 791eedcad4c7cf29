//! Line charts as SVG, small enough to stand several to a row and one to a phone's width.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::palette::{AXIS, Colour, GRID};

/// Points a curve is thinned to: more cannot be told apart at this width.
const POINTS: usize = 300;

/// A curve.
pub struct Series {
    /// Name for the legend.
    pub name: String,
    /// Its colour.
    pub colour: Colour,
    /// (x, y); points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Size and range of a chart.
pub struct Frame {
    /// Width and height, pixels.
    pub size: (u32, u32),
    /// What x counts.
    pub x_label: &'static str,
    /// Lowest and highest y; none: what the curves reach, from 0.
    pub y: Option<(f64, f64)>,
    /// Size of the text as plotters counts it, 1.24 times the pixels.
    pub text: u32,
    /// Labels on each axis.
    pub labels: usize,
}

/// A chart of `series` as an SVG element.
///
/// # Errors
///
/// The plotting crate refuses.
pub fn lines(frame: &Frame, series: &[Series]) -> Result<String> {
    let thinned: Vec<Vec<(f64, f64)>> = series.iter().map(|s| thin(&s.points)).collect();
    let points = || thinned.iter().flatten();
    let first = points().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let last = points().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
    let top = points().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let x = if first < last {
        first..last
    } else {
        first.min(1e9) - 0.5..last.max(-1e9) + 0.5
    };
    let x = if x.start.is_finite() && x.end > x.start {
        x
    } else {
        0.0..1.0
    };
    let y = match frame.y {
        Some((low, high)) => low..high,
        None if top > 0.0 => 0.0..top * 1.05,
        None => 0.0..1.0,
    };
    let mut svg = String::new();
    draw(&mut svg, frame, series, &thinned, x, y).map_err(|error| anyhow!("a chart: {error}"))?;
    Ok(svg)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(
    svg: &mut String,
    frame: &Frame,
    series: &[Series],
    thinned: &[Vec<(f64, f64)>],
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> Drawn {
    let text = ("sans-serif", frame.text).into_font().color(&rgb(AXIS));
    let root = SVGBackend::with_string(svg, frame.size).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(4)
        .margin_top(12)
        .margin_right(14)
        .x_label_area_size(if frame.x_label.is_empty() { 22 } else { 36 })
        .y_label_area_size(44)
        .build_cartesian_2d(x, y.clone())?;
    let decimals = if y.end - y.start < 0.02 {
        4
    } else if y.end - y.start < 0.2 {
        3
    } else if y.end - y.start < 20.0 {
        2
    } else {
        0
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(rgb(GRID))
        .light_line_style(TRANSPARENT)
        .axis_style(rgb(AXIS))
        .x_desc(frame.x_label)
        .x_labels(frame.labels)
        .y_labels(frame.labels)
        .x_label_formatter(&|x| whole(*x))
        .y_label_formatter(&|y| format!("{y:.decimals$}"))
        .label_style(text.clone())
        .axis_desc_style(text)
        .draw()?;
    for (series, points) in series.iter().zip(thinned) {
        let style = rgb(series.colour).stroke_width(2);
        chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        if let [point] = points[..] {
            chart.draw_series([Circle::new(point, 3, rgb(series.colour).filled())])?;
        }
    }
    root.present()?;
    Ok(())
}

/// Spreads over named places: of each series a mean at every place, and how far the values reach.
pub struct Spreads<'a> {
    /// Width and height, pixels.
    pub size: (u32, u32),
    /// Names of the places, from left to right.
    pub places: &'a [String],
    /// What the places are.
    pub label: &'a str,
    /// Join the means of a series: where the places are numbers.
    pub joined: bool,
    /// Of each series its colour and, at each place, lowest, mean and highest value, if there are any.
    pub series: Vec<(Colour, Vec<Option<[f64; 3]>>)>,
}

/// A chart of spreads as an SVG element: means, and a bar from the lowest to the highest value. Series stand beside each other.
///
/// # Errors
///
/// The plotting crate refuses.
pub fn spreads(chart: &Spreads) -> Result<String> {
    let mut svg = String::new();
    draw_spreads(&mut svg, chart).map_err(|error| anyhow!("a chart: {error}"))?;
    Ok(svg)
}

fn draw_spreads(svg: &mut String, chart: &Spreads) -> Drawn {
    let values = || {
        let all = chart.series.iter().flat_map(|(_, points)| points);
        all.flatten().flatten().copied().filter(|v| v.is_finite())
    };
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = ((high - low) * 0.08).max(0.01);
    let x = -0.5..chart.places.len() as f64 - 0.5;
    let text = ("sans-serif", 15).into_font().color(&rgb(AXIS));
    let root = SVGBackend::with_string(svg, chart.size).into_drawing_area();
    let mut drawn = ChartBuilder::on(&root)
        .margin(4)
        .margin_top(12)
        .margin_right(14)
        .x_label_area_size(40)
        .y_label_area_size(52)
        .build_cartesian_2d(x, low - margin..high + margin)?;
    let decimals = if high - low < 2.0 { 2 } else { 1 };
    let place = |x: &f64| {
        let near = (x - x.round()).abs() < 1e-6 && *x >= 0.0;
        let name = near.then(|| chart.places.get(x.round() as usize)).flatten();
        name.cloned().unwrap_or_default()
    };
    drawn
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(rgb(GRID))
        .light_line_style(TRANSPARENT)
        .axis_style(rgb(AXIS))
        .x_desc(chart.label)
        .x_labels(2 * chart.places.len() + 1)
        .y_labels(6)
        .x_label_formatter(&place)
        .y_label_formatter(&|y| format!("{y:.decimals$}"))
        .label_style(text.clone())
        .axis_desc_style(text)
        .draw()?;
    let count = chart.series.len() as f64;
    for (index, (colour, points)) in chart.series.iter().enumerate() {
        let aside = 0.5 * ((index as f64 + 0.5) / count - 0.5);
        let there: Vec<(f64, [f64; 3])> = points
            .iter()
            .enumerate()
            .filter_map(|(place, point)| Some((place as f64 + aside, (*point)?)))
            .collect();
        let style = rgb(*colour).stroke_width(2);
        let means = there.iter().map(|&(x, [_, mean, _])| (x, mean));
        if chart.joined {
            drawn.draw_series(LineSeries::new(means.clone(), style))?;
        }
        drawn.draw_series(there.iter().map(|&(x, [lowest, _, highest])| {
            PathElement::new(
                vec![(x, lowest), (x, highest)],
                rgb(*colour).stroke_width(1),
            )
        }))?;
        drawn.draw_series(means.map(|at| Circle::new(at, 4, rgb(*colour).filled())))?;
    }
    root.present()?;
    Ok(())
}

fn rgb(colour: Colour) -> RGBColor {
    let (red, green, blue) = colour.light;
    RGBColor(red, green, blue)
}

/// A round or an epoch on the axis; a tick between two of them stays bare.
fn whole(x: f64) -> String {
    if (x - x.round()).abs() < 1e-6 {
        format!("{x:.0}")
    } else {
        String::new()
    }
}

/// At most [`POINTS`] points: means of neighbours, so that noise is averaged and not sampled.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<_> = points
        .iter()
        .copied()
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect();
    let bucket = finite.len().div_ceil(POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let (x, y) = points
            .iter()
            .fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
        (x / points.len() as f64, y / points.len() as f64)
    };
    finite.chunks(bucket).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::report::palette::TRAIN;

    fn chart(points: Vec<(f64, f64)>) -> String {
        let frame = Frame {
            size: (360, 240),
            x_label: "round",
            y: None,
            text: 15,
            labels: 5,
        };
        lines(
            &frame,
            &[Series {
                name: "train".into(),
                colour: TRAIN,
                points,
            }],
        )
        .unwrap()
    }

    #[test]
    fn curves_keep_the_palette_colour_that_the_style_swaps() {
        let svg = chart(vec![(1.0, 2.0), (2.0, 1.0)]);
        assert!(svg.contains("stroke=\"#006BB0\""), "{svg}");
    }

    #[test]
    fn no_points_one_point_and_points_that_are_no_numbers_are_drawn_without_a_panic() {
        chart(vec![]);
        assert!(chart(vec![(3.0, 1.0)]).contains("<circle"));
        chart(vec![(1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 0.0)]);
    }

    #[test]
    fn long_curves_are_thinned_to_means() {
        let points: Vec<_> = (0..3000)
            .map(|i| (f64::from(i), f64::from(i % 2)))
            .collect();
        let thinned = thin(&points);
        assert_eq!(thinned.len(), 300);
        assert!(thinned.iter().all(|p| p.1 == 0.5));
    }
}
