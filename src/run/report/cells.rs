//! A cell drawn as a graph: states as boxes, ops as coloured pills on the edges between them.
//!
//! An op is a vertex of the layout, so that its label gets room and never lies on another. Edges
//! that span several layers get a vertex in each layer between, so that the layout keeps their way
//! free; the drawn curve passes through those.

use std::collections::BTreeMap;
use std::fmt::Write;

use rust_sugiyama::configure::Config;
use rust_sugiyama::from_vertices_and_edges;

use super::escape;
use super::palette::{self, AXIS, Colour, of_op, short_name};
use crate::space::CellGraph;

/// Height of boxes and pills, pixels.
const HEIGHT: f64 = 24.0;
/// Width of a pill, pixels: the longest short name.
const PILL: f64 = 74.0;
/// Width kept free for a passing edge, pixels.
const PASSING: f64 = 8.0;
/// How far the layout's layers are drawn apart, so that edges between them stay steep enough to
/// follow.
const STRETCH: f64 = 1.75;
/// Empty border of the drawing, pixels.
const MARGIN: f64 = 4.0;

/// A vertex of the layout.
enum Vertex<'a> {
    State(&'a str),
    Op(&'a str),
    /// A long edge on its way.
    Passing,
}

impl Vertex<'_> {
    fn size(&self) -> (f64, f64) {
        let width = match self {
            Vertex::State(name) if name.len() > 1 => 40.0,
            Vertex::State(_) => 24.0,
            Vertex::Op(_) => PILL,
            Vertex::Passing => PASSING,
        };
        (width, HEIGHT)
    }
}

/// The graph that is laid out: every edge goes from one layer to the next.
#[derive(Default)]
struct Layered<'a> {
    vertices: Vec<Vertex<'a>>,
    layers: Vec<usize>,
    edges: Vec<(usize, usize)>,
    /// Each drawn curve: its colour and the vertices it passes.
    curves: Vec<(Colour, Vec<usize>)>,
}

impl<'a> Layered<'a> {
    fn of(cell: &'a CellGraph) -> Layered<'a> {
        let mut graph = Layered::default();
        for (name, layer) in cell.nodes.iter().zip(state_layers(cell)) {
            graph.add(Vertex::State(name), layer);
        }
        for (from, to, op) in &cell.edges {
            if op.is_empty() {
                graph.connect(*from, *to, AXIS);
            } else {
                // Beside the node it feeds: ops of one node then stand in one row.
                let pill = graph.add(Vertex::Op(op), graph.layers[*to] - 1);
                graph.connect(*from, pill, of_op(op));
                graph.connect(pill, *to, of_op(op));
            }
        }
        graph
    }

    fn add(&mut self, vertex: Vertex<'a>, layer: usize) -> usize {
        self.vertices.push(vertex);
        self.layers.push(layer);
        self.vertices.len() - 1
    }

    fn connect(&mut self, from: usize, to: usize, colour: Colour) {
        let mut curve = vec![from];
        for layer in self.layers[from] + 1..self.layers[to] {
            let passing = self.add(Vertex::Passing, layer);
            curve.push(passing);
        }
        curve.push(to);
        self.edges
            .extend(curve.windows(2).map(|pair| (pair[0], pair[1])));
        self.curves.push((colour, curve));
    }

    /// Centres of the vertices, and the size of the whole.
    fn place(&self) -> (BTreeMap<usize, (f64, f64)>, f64, f64) {
        let id = |vertex: usize| vertex as u32;
        let vertices: Vec<_> = self
            .vertices
            .iter()
            .enumerate()
            .map(|(v, vertex)| (id(v), vertex.size()))
            .collect();
        let edges: Vec<_> = self
            .edges
            .iter()
            .map(|&(from, to)| (id(from), id(to)))
            .collect();
        let config = Config {
            vertex_spacing: 5.0,
            dummy_vertices: false,
            ..Config::default()
        };
        let mut places = BTreeMap::new();
        let mut width = 0.0f64;
        let mut height = 0.0f64;
        // A state that no edge touches is a graph of its own: they are set side by side.
        for (layout, _, _) in from_vertices_and_edges(&vertices, &edges, &config) {
            let edge_of = |(v, (x, y)): &(usize, (f64, f64))| {
                let (w, h) = self.vertices[*v].size();
                (x - w / 2.0, x + w / 2.0, y - h / 2.0, y + h / 2.0)
            };
            let fold = |pick: fn((f64, f64, f64, f64)) -> f64, choose: fn(f64, f64) -> f64| {
                layout
                    .iter()
                    .map(edge_of)
                    .map(pick)
                    .reduce(choose)
                    .unwrap_or(0.0)
            };
            let (left, right) = (fold(|e| e.0, f64::min), fold(|e| e.1, f64::max));
            let (top, bottom) = (fold(|e| e.2, f64::min), fold(|e| e.3, f64::max));
            let start = if width > 0.0 {
                width + 2.0 * MARGIN
            } else {
                0.0
            };
            for (vertex, (x, y)) in layout {
                places.insert(
                    vertex,
                    (
                        start + x - left,
                        (y - top - HEIGHT / 2.0) * STRETCH + HEIGHT / 2.0,
                    ),
                );
            }
            width = start + right - left;
            height = height.max((bottom - top - HEIGHT) * STRETCH + HEIGHT);
        }
        (places, width, height)
    }
}

/// Layer of each state: inputs at 0; a node two below its lowest input, as its ops stand between.
fn state_layers(cell: &CellGraph) -> Vec<usize> {
    let mut layers = vec![0; cell.nodes.len()];
    // Edges go from lower to higher states, so one sweep in the order of targets is enough.
    for state in 0..cell.nodes.len() {
        for (from, _, op) in cell.edges.iter().filter(|(_, to, _)| *to == state) {
            let step = if op.is_empty() { 1 } else { 2 };
            layers[state] = layers[state].max(layers[*from] + step);
        }
    }
    layers
}

/// The drawing of a cell, as an SVG element that a page styles.
pub fn draw(cell: &CellGraph) -> String {
    let (body, width, height) = body(cell);
    format!(
        "<svg class=\"cell\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         style=\"min-width:{:.0}px\" \
         aria-label=\"{} cell\">\n{body}</svg>\n",
        // Smaller, and the text is not readable: the page then scrolls the drawing sideways.
        0.66 * width,
        escape(&cell.name)
    )
}

/// All cells of a genotype below one another, as a file that stands alone: light colours, no CSS
/// variables, which few programs beside browsers know.
pub fn file(cells: &[CellGraph]) -> String {
    const TITLE: f64 = 28.0;
    let mut parts = String::new();
    let (mut width, mut top) = (0.0f64, 0.0);
    for cell in cells {
        let (body, own_width, height) = body(cell);
        let _ = write!(
            parts,
            "<text class=\"title\" x=\"{MARGIN}\" y=\"{:.0}\">{}</text>\n\
             <svg class=\"cell\" x=\"0\" y=\"{:.0}\" width=\"{own_width:.0}\" height=\"{height:.0}\">\n{}</svg>\n",
            top + 0.7 * TITLE,
            escape(&cell.name),
            top + TITLE,
            palette::in_light(&body)
        );
        width = width.max(own_width);
        top += TITLE + height + 2.0 * MARGIN;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {top:.0}\" \
         width=\"{width:.0}\" height=\"{top:.0}\">\n<style>{FILE_STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{parts}</svg>\n"
    )
}

/// Style of a drawing that stands alone: what `page.css` says of cells, in light.
const FILE_STYLE: &str = ".cell path{fill:none;stroke-width:1.5px}\
    .cell rect{fill:#ffffff;stroke-width:1.5px}.cell .state rect{rx:4px;fill:#d5d9df}\
    .cell .op rect{rx:12px;stroke-width:2px}\
    text{fill:#1b1f24;stroke:none;font:13.5px sans-serif}\
    .cell text{text-anchor:middle;dominant-baseline:central}.title{font-weight:600}";

/// What a cell's drawing consists of, its width and its height.
fn body(cell: &CellGraph) -> (String, f64, f64) {
    let graph = Layered::of(cell);
    let (places, width, height) = graph.place();
    let at = |vertex: usize| {
        let (x, y) = places.get(&vertex).copied().unwrap_or_default();
        (x + MARGIN, y + MARGIN)
    };
    let (width, height) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    let mut svg = String::new();
    for (colour, curve) in &graph.curves {
        let points: Vec<_> = curve.iter().map(|&vertex| at(vertex)).collect();
        let _ = writeln!(
            svg,
            "<path style=\"--c:var(--{})\" d=\"{}\"/>",
            colour.name,
            path(&points)
        );
    }
    for (index, vertex) in graph.vertices.iter().enumerate() {
        let (x, y) = at(index);
        let (width, _) = vertex.size();
        let (left, top) = (x - width / 2.0, y - HEIGHT / 2.0);
        let (class, colour, text, title) = match vertex {
            Vertex::Passing => continue,
            Vertex::State(name) => ("state", AXIS.name, with_subscript(name), *name),
            Vertex::Op(op) => ("op", of_op(op).name, escape(&short_name(op)), *op),
        };
        let _ = writeln!(
            svg,
            "<g class=\"{class}\" style=\"--c:var(--{colour})\"><title>{}</title>\
             <rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\"/>\
             <text x=\"{x:.1}\" y=\"{y:.1}\">{text}</text></g>",
            escape(title)
        );
    }
    (svg, width, height)
}

/// `c_{k-2}` with its index set low; other names as they are.
fn with_subscript(name: &str) -> String {
    match name
        .strip_prefix("c_{")
        .and_then(|rest| rest.strip_suffix('}'))
    {
        Some(index) => {
            let index = escape(&index.replace('-', "−"));
            format!("c<tspan dy=\"4\" font-size=\"10\">{index}</tspan>")
        }
        None => escape(name),
    }
}

/// A smooth way from the bottom of the first vertex to the top of the last, upright at every
/// vertex between.
fn path(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    let last = points.len() - 1;
    let mut from = (0.0, 0.0);
    for (index, &(x, y)) in points.iter().enumerate() {
        let enters = (x, y - HEIGHT / 2.0);
        if index == 0 {
            let _ = write!(path, "M{x:.1} {:.1}", y + HEIGHT / 2.0);
        } else {
            let bend = (enters.1 - from.1) / 2.0;
            let _ = write!(
                path,
                "C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}",
                from.0,
                from.1 + bend,
                x,
                enters.1 - bend,
                x,
                enters.1
            );
            if index < last {
                let _ = write!(path, "V{:.1}", y + HEIGHT / 2.0);
            }
        }
        from = (x, y + HEIGHT / 2.0);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Genotype;
    use proptest::prelude::*;

    #[test]
    fn all_ops_and_states_are_drawn_and_boxes_do_not_overlap() {
        let text = "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), \
                    ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), \
                    ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), \
                    ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), \
                    ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], \
                    reduce_concat=[2, 3, 4, 5])";
        let genotype: Genotype = text.parse().unwrap();
        for cell in genotype.cells() {
            let graph = Layered::of(&cell);
            let (places, ..) = graph.place();
            assert_eq!(places.len(), graph.vertices.len());
            for (a, (xa, ya)) in &places {
                for (b, (xb, yb)) in places.range(a + 1..) {
                    let apart_x = (xa - xb).abs() * 2.0
                        >= graph.vertices[*a].size().0 + graph.vertices[*b].size().0 - 1e-6;
                    assert!(apart_x || (ya - yb).abs() >= HEIGHT, "{a} {b}");
                }
            }
            assert_eq!(draw(&cell).matches("class=\"op\"").count(), 8);
        }
    }

    #[test]
    fn a_file_of_cells_names_no_variable_and_draws_the_ops_of_every_published_genotype() {
        for name in crate::space::genotype::known::names() {
            let genotype: Genotype = name.parse().unwrap();
            let svg = file(&genotype.cells());
            assert!(
                !svg.contains("var(") && svg.starts_with("<svg xmlns="),
                "{name}"
            );
            let ops = genotype
                .cells()
                .iter()
                .flat_map(|cell| &cell.edges)
                .filter(|e| !e.2.is_empty())
                .count();
            assert_eq!(svg.matches("class=\"op\"").count(), ops, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_nb201_cell_is_drawn(index in 0usize..15_625) {
            let cell = crate::space::Nb201Genotype::from_index(index).unwrap();
            for graph in Genotype::from(cell).cells() {
                prop_assert_eq!(draw(&graph).matches("class=\"op\"").count(), graph.edges.len());
            }
        }
    }
}
