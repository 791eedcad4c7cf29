//! Colours of ops and series. Charts carry the light colour as an attribute; a style rule for that
//! very value swaps in a variable, so the drawing follows light and dark and needs no second copy.

use std::fmt::Write;

/// A colour: its name as a CSS variable, its light value, its dark value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    /// CSS variable without dashes.
    pub name: &'static str,
    /// Red, green, blue on a light page; no two colours share one.
    pub light: (u8, u8, u8),
    dark: &'static str,
}

const fn colour(name: &'static str, light: (u8, u8, u8), dark: &'static str) -> Colour {
    Colour { name, light, dark }
}

/// Axes and their text.
pub const AXIS: Colour = colour("axis", (0x59, 0x5F, 0x69), "#A9B1BD");
/// Grid lines.
pub const GRID: Colour = colour("grid", (0xE3, 0xE6, 0xEA), "#31363F");
/// Training half.
pub const TRAIN: Colour = colour("blue", (0x00, 0x6B, 0xB0), "#56B0F0");
/// Validation half.
pub const VALIDATION: Colour = colour("orange", (0xD8, 0x5F, 0x1A), "#FF9A5C");

const GREY: Colour = colour("grey", (0x8B, 0x90, 0x98), "#8F96A1");
const YELLOW: Colour = colour("yellow", (0xB3, 0x94, 0x00), "#E3CB4F");
const RED: Colour = colour("red", (0xC6, 0x2F, 0x2F), "#FF7A73");
const CYAN: Colour = colour("cyan", (0x1F, 0xA6, 0xDC), "#86DBFF");
const GREEN: Colour = colour("green", (0x0B, 0x8A, 0x6F), "#3DD1AE");
const PURPLE: Colour = colour("purple", (0x96, 0x3A, 0x8E), "#E08AD8");
const BROWN: Colour = colour("brown", (0x7A, 0x4B, 0x22), "#C79A6B");
const INDIGO: Colour = colour("indigo", (0x3D, 0x3A, 0xA8), "#9C9AF5");
const PINK: Colour = colour("pink", (0xD6, 0x4B, 0x8A), "#FF93C4");
const OLIVE: Colour = colour("olive", (0x5E, 0x6B, 0x12), "#B5C45A");
const MAROON: Colour = colour("maroon", (0x7E, 0x1F, 0x3D), "#D98AA0");
const LIME: Colour = colour("lime", (0x4F, 0xA3, 0x1E), "#9BE36B");
const SLATE: Colour = colour("slate", (0x2F, 0x5D, 0x73), "#8DB9CE");
const WINE: Colour = colour("wine", (0x9B, 0x2F, 0x5C), "#E58AB4");
const TEAL: Colour = colour("teal", (0x0F, 0x6F, 0x6B), "#5FD0C4");
const NAVY: Colour = colour("navy", (0x1E, 0x3A, 0x6E), "#A9BFE6");
const OCHRE: Colour = colour("ochre", (0x9A, 0x73, 0x0A), "#E2C25A");
const CORAL: Colour = colour("coral", (0xC9, 0x5B, 0x45), "#FFA894");

const ALL: [Colour; 22] = [
    AXIS, GRID, TRAIN, VALIDATION, GREY, YELLOW, RED, CYAN, GREEN, PURPLE, BROWN, INDIGO, PINK,
    OLIVE, MAROON, LIME, SLATE, WINE, TEAL, NAVY, OCHRE, CORAL,
];

/// Colours of series that are no op, told apart by their order.
pub const SERIES: [Colour; 7] = [TRAIN, VALIDATION, GREEN, PURPLE, YELLOW, CYAN, RED];

/// The colour of an op; related ops of the spaces share one.
pub fn of_op(op: &str) -> Colour {
    match op {
        "skip_connect" => RED,
        "max_pool_3x3" => VALIDATION,
        "avg_pool_3x3" => YELLOW,
        "sep_conv_3x3" | "nor_conv_3x3" => TRAIN,
        "sep_conv_5x5" | "nor_conv_1x1" => CYAN,
        "dil_conv_3x3" => GREEN,
        "dil_conv_5x5" => PURPLE,
        "sep_conv_7x7" => INDIGO,
        "conv_7x1_1x7" => BROWN,
        "sharp_dil_conv_3x3" => OCHRE,
        "flood_conv_3x3" => CORAL,
        "dil_flood_conv_3x3" => WINE,
        "choke_conv_3x3" => TEAL,
        "dil_choke_conv_3x3" => NAVY,
        "conv_3x1_1x3" => OLIVE,
        "max_pool_5x5" => PINK,
        "max_pool_7x7" => MAROON,
        "conv_1x1" => LIME,
        "conv_3x3" => SLATE,
        _ => GREY,
    }
}

/// An op's name where room is short: `sep 3×3`.
pub fn short_name(op: &str) -> String {
    match op {
        "conv_7x1_1x7" => return "7×1 1×7".into(),
        "conv_3x1_1x3" => return "3×1 1×3".into(),
        _ => {}
    }
    let name = op.replace("_connect", "").replace("nor_conv", "conv");
    let name = name
        .replace("_conv", "")
        .replace("_pool", "")
        .replace('_', " ");
    match name.rsplit_once(' ') {
        Some((kind, size)) => format!("{kind} {}", size.replace('x', "×")),
        None => name,
    }
}

/// The light colours in place of the variables that a drawing's elements name: for a file of its
/// own, which other programs than browsers read.
pub fn in_light(drawing: &str) -> String {
    let mut drawing = drawing.to_owned();
    for Colour { name, light, .. } in ALL {
        let (r, g, b) = light;
        drawing = drawing.replace(
            &format!("style=\"--c:var(--{name})\""),
            &format!("stroke=\"#{r:02X}{g:02X}{b:02X}\""),
        );
    }
    drawing
}

/// Variables for light and dark, and the rules that swap chart colours for them.
pub fn style() -> String {
    let mut light = String::new();
    let mut dark = String::new();
    let mut swaps = String::new();
    for Colour {
        name,
        light: (r, g, b),
        dark: value,
    } in ALL
    {
        let hex = format!("#{r:02X}{g:02X}{b:02X}");
        let _ = write!(light, "--{name}:{hex};");
        let _ = write!(dark, "--{name}:{value};");
        let _ = writeln!(
            swaps,
            "svg [stroke=\"{hex}\"]{{stroke:var(--{name})}} svg [fill=\"{hex}\"]{{fill:var(--{name})}}"
        );
    }
    format!(":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{swaps}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{GenotypeOp, Space};

    #[test]
    fn ops_that_meet_in_a_drawing_have_distinct_colours_and_short_names() {
        let spaces = Space::ALL.map(Space::op_names);
        for ops in spaces.into_iter().chain([GenotypeOp::NAMES.as_slice()]) {
            for (index, op) in ops.iter().enumerate() {
                for other in &ops[..index] {
                    assert_ne!(of_op(op), of_op(other), "{op} {other}");
                    assert_ne!(short_name(op), short_name(other));
                }
            }
        }
        assert_eq!(short_name("sep_conv_3x3"), "sep 3×3");
        assert_eq!(short_name("nor_conv_1x1"), "conv 1×1");
        assert_eq!(short_name("skip_connect"), "skip");
    }
}
