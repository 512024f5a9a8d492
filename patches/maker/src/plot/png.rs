//! Drawings as PNG, two dots to a pixel of the drawing in each direction. Words are in a bitmap font, which looks the same
//! on every machine; a character that it does not have is a question mark.

use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};

use super::drawing::{Color, DASH, Drawing, LETTER, Shape, WHITE};
use crate::{Error, Result};

/// Dots to a pixel.
const SCALE: f64 = 2.0;

pub(super) fn write(drawing: &Drawing) -> Result<Vec<u8>> {
    let mut canvas = Canvas::new(drawing);
    for shape in &drawing.shapes {
        canvas.draw(shape);
    }
    let wrong = |found: String| Error::Recipe {
        field: "picture".to_owned(),
        expected: "a size that PNG can have".to_owned(),
        found,
    };
    let size = |dots: usize| u32::try_from(dots).map_err(|_| wrong(format!("{dots} dots")));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size(canvas.width)?, size(canvas.height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| wrong(e.to_string()))?;
    writer.write_image_data(canvas.dots.as_flattened()).map_err(|e| wrong(e.to_string()))?;
    writer.finish().map_err(|e| wrong(e.to_string()))?;
    Ok(bytes)
}

struct Canvas {
    width: usize,
    height: usize,
    /// Row by row.
    dots: Vec<Color>,
}

impl Canvas {
    fn new(drawing: &Drawing) -> Self {
        let dots = |pixels: f64| (pixels * SCALE).ceil() as usize;
        let (width, height) = (dots(drawing.width), dots(drawing.height));
        Canvas { width, height, dots: vec![WHITE; width * height] }
    }

    fn draw(&mut self, shape: &Shape) {
        match shape {
            Shape::Box { x, y, width, height, fill } => self.fill(*x, *y, *width, *height, *fill),
            Shape::Line { points, ink, dashed } => {
                // Dashes go on around corners.
                let mut before = 0.0;
                for ends in points.windows(2) {
                    before += self.line(ends[0], ends[1], *ink, dashed.then_some(before));
                }
            }
            Shape::Words { x, y, align, text, ink } => {
                let start = x - LETTER * text.chars().count() as f64 * align.before();
                for (at, letter) in text.chars().enumerate() {
                    self.letter(start + LETTER * at as f64, *y, letter, *ink);
                }
            }
        }
    }

    /// Fills a rectangle, or what of it is on the canvas.
    fn fill(&mut self, x: f64, y: f64, width: f64, height: f64, ink: Color) {
        // What is left of the canvas or above it becomes 0.
        let dots = |from: f64, length: f64, most: usize| {
            let [from, to] = [from, from + length].map(|pixels| (pixels * SCALE).round() as usize);
            from.min(most)..to.min(most)
        };
        let columns = dots(x, width, self.width);
        for row in dots(y, height, self.height) {
            self.dots[row * self.width..][columns.clone()].fill(ink);
        }
    }

    /// Draws a line a pixel wide and gives its length; of a dashed one, so much as `dashed` says is before it.
    fn line(&mut self, from: (f64, f64), to: (f64, f64), ink: Color, dashed: Option<f64>) -> f64 {
        let (width, height) = (to.0 - from.0, to.1 - from.1);
        let length = width.hypot(height);
        let steps = (width.abs().max(height.abs()) * SCALE).ceil().max(1.0);
        for step in 0..=steps as usize {
            let along = step as f64 / steps;
            if dashed.is_some_and(|before| (before + along * length) % (2.0 * DASH) > DASH) {
                continue;
            }
            self.fill(from.0 + along * width - 0.5, from.1 + along * height - 0.5, 1.0, 1.0, ink);
        }
        length
    }

    /// Draws a character that begins at `x` and stands on `y`: its last row is below, for letters that go there.
    fn letter(&mut self, x: f64, y: f64, letter: char, ink: Color) {
        let rows = BASIC_FONTS.get(letter).or_else(|| LATIN_FONTS.get(letter)).or_else(|| BASIC_FONTS.get('?'));
        for (row, bits) in rows.unwrap_or_default().into_iter().enumerate() {
            for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                self.fill(x + f64::from(column), y - 7.0 + row as f64, 1.0, 1.0, ink);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_go_on_around_corners() {
        const INK: Color = [0; 3];
        for dashed in [false, true] {
            let mut canvas = Canvas::new(&Drawing { width: 20.0, height: 10.0, shapes: Vec::new() });
            canvas.draw(&Shape::Line { points: vec![(0.0, 5.0), (6.0, 5.0), (16.0, 5.0)], ink: INK, dashed });
            // In the middle of two dashes, and of the gap after each.
            let dots = [2, 6, 10, 14].map(|x| canvas.dots[2 * (5 * canvas.width + x)] == INK);
            assert_eq!(dots, [true, !dashed, true, !dashed]);
        }
    }
}
