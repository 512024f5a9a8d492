//! Drawings as SVG: text that any browser shows and any editor changes.

use std::fmt::Write;

use super::drawing::{Align, Color, DASH, Drawing, Shape, WHITE};

pub(super) fn write(drawing: &Drawing) -> String {
    let Drawing { width, height, shapes } = drawing;
    let paper = Shape::Box { x: 0.0, y: 0.0, width: *width, height: *height, fill: WHITE };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n"
    );
    for shape in std::iter::once(&paper).chain(shapes) {
        // Writing to a String cannot fail.
        let _ = match shape {
            Shape::Box { x, y, width, height, fill } => writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
                color(*fill)
            ),
            Shape::Line { points, ink, dashed } => {
                let places: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                let (places, ink) = (places.join(" "), color(*ink));
                let dashes = if *dashed { format!(" stroke-dasharray=\"{DASH}\"") } else { String::new() };
                writeln!(svg, "<polyline points=\"{places}\" fill=\"none\" stroke=\"{ink}\"{dashes}/>")
            }
            Shape::Words { x, y, align, text, ink } => {
                let anchor = match align {
                    Align::Start => "start",
                    Align::Middle => "middle",
                    Align::End => "end",
                };
                let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let fill = color(*ink);
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{text}</text>")
            }
        };
    }
    svg + "</svg>\n"
}

fn color([red, green, blue]: Color) -> String {
    format!("rgb({red},{green},{blue})")
}
