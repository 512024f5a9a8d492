//! Panels laid out as rectangles, lines and words, in pixels from the upper left corner.

use super::{Cells, Lines, Panel, Picture};

/// Red, green, blue.
pub(super) type Color = [u8; 3];

pub(super) const WHITE: Color = [255; 3];
const BLACK: Color = [0; 3];
const GREY: Color = [221; 3];
/// The largest cell: a dark blue, on which words are white.
const DARK: Color = [8, 48, 107];
/// Of lines: told apart by colour-blind people too (Okabe and Ito 2008). As many more are drawn in them, dashed.
const LINES: [Color; 7] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [230, 159, 0], [90, 90, 90]];

/// Of a dash, and of the gap after it.
pub(super) const DASH: f64 = 4.0;

/// Of a character of the bitmap font; those of SVG are no wider in the mean.
pub(super) const LETTER: f64 = 8.0;

/// Left of all panels, for names of rows and numbers of an axis.
const LEFT: f64 = 72.0;
const MARGIN: f64 = 10.0;

/// What is drawn, and on how large a paper.
#[derive(Debug, Default)]
pub(super) struct Drawing {
    pub width: f64,
    pub height: f64,
    pub shapes: Vec<Shape>,
}

#[derive(Debug)]
pub(super) enum Shape {
    Box {
        x: f64,
        y: f64,
        width: f64,
        height: f64,
        fill: Color,
    },
    Line {
        points: Vec<(f64, f64)>,
        ink: Color,
        dashed: bool,
    },
    /// At `x` is their start, middle or end, at `y` the line they stand on.
    Words {
        x: f64,
        y: f64,
        align: Align,
        text: String,
        ink: Color,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Align {
    Start,
    Middle,
    End,
}

impl Align {
    /// The part of a text that is left of its place.
    pub fn before(self) -> f64 {
        match self {
            Align::Start => 0.0,
            Align::Middle => 0.5,
            Align::End => 1.0,
        }
    }
}

impl Picture {
    pub(super) fn drawing(&self) -> Drawing {
        let mut drawing = Drawing::default();
        drawing.words(LEFT, 16.0, Align::Start, self.title.clone(), BLACK);
        let mut top = 24.0;
        for panel in &self.panels {
            match panel {
                Panel::Cells(cells) => draw_cells(cells, top, &mut drawing),
                Panel::Lines(lines) => draw_lines(lines, top, &mut drawing),
            }
            top = drawing.height;
        }
        drawing
    }
}

fn draw_cells(cells: &Cells, top: f64, drawing: &mut Drawing) {
    const WIDTH: f64 = 56.0;
    const HEIGHT: f64 = 24.0;
    let middle = |column: usize| LEFT + WIDTH * column as f64 + WIDTH / 2.0;
    for column in 0..cells.columns {
        drawing.words(middle(column), top + 14.0, Align::Middle, column.to_string(), BLACK);
    }
    drawing.words(LEFT - 6.0, top + 14.0, Align::End, cells.across.to_owned(), BLACK);
    for (at, (name, row)) in cells.rows.iter().enumerate() {
        let y = top + 20.0 + HEIGHT * at as f64;
        drawing.words(LEFT - 6.0, y + 16.0, Align::End, name.clone(), BLACK);
        for (column, value) in row.iter().enumerate() {
            let Some(value) = value else { continue };
            let share = cells.share(*value);
            let fill = DARK.map(|full| (255.0 - share * (255.0 - f32::from(full))).round() as u8);
            drawing.box_at(LEFT + WIDTH * column as f64, y, WIDTH - 1.0, HEIGHT - 1.0, fill);
            let ink = if share > 0.5 { WHITE } else { BLACK };
            drawing.words(middle(column), y + 16.0, Align::Middle, format!("{value:.4}"), ink);
        }
    }
}

fn draw_lines(lines: &Lines, top: f64, drawing: &mut Drawing) {
    const WIDTH: f64 = 480.0;
    const HEIGHT: f64 = 220.0;
    /// Lines with more points than these have no marks at them.
    const MARKED: usize = 50;
    /// The piece of a line that stands before its name: three dashes.
    const SAMPLE: f64 = 5.0 * DASH;
    let Some((across, up)) = lines.scales() else { return };
    let (top, right) = (top + 24.0, LEFT + WIDTH);
    let place = |(x, y): (f64, f64)| (LEFT + WIDTH * across.share(x), top + HEIGHT * (1.0 - up.share(y)));
    drawing.words(LEFT, top - 8.0, Align::Start, lines.up.clone(), BLACK);
    for (share, label) in up.labels() {
        let y = top + HEIGHT * (1.0 - share);
        drawing.line(vec![(LEFT, y), (right, y)], GREY, false);
        drawing.words(LEFT - 6.0, y + 4.0, Align::End, label, BLACK);
    }
    for (share, label) in across.labels() {
        let x = LEFT + WIDTH * share;
        drawing.line(vec![(x, top), (x, top + HEIGHT)], GREY, false);
        drawing.words(x, top + HEIGHT + 14.0, Align::Middle, label, BLACK);
    }
    drawing.words(LEFT + WIDTH / 2.0, top + HEIGHT + 30.0, Align::Middle, lines.across.to_owned(), BLACK);
    let beside = |at: usize| (right + 12.0, top + 8.0 + 15.0 * at as f64);
    let styles = [false, true].into_iter().flat_map(|dashed| LINES.map(|ink| (ink, dashed)));
    for (at, (series, (ink, dashed))) in lines.series.iter().zip(styles).enumerate() {
        let marked = series.pieces.iter().map(Vec::len).sum::<usize>() <= MARKED;
        for piece in &series.pieces {
            let points: Vec<(f64, f64)> = piece.iter().map(|point| place(*point)).collect();
            // A line through one point is none.
            if marked || points.len() == 1 {
                points.iter().for_each(|(x, y)| drawing.box_at(x - 2.5, y - 2.5, 5.0, 5.0, ink));
            }
            drawing.line(points, ink, dashed);
        }
        let (x, y) = beside(at);
        drawing.line(vec![(x, y - 4.0), (x + SAMPLE, y - 4.0)], ink, dashed);
        drawing.words(x + SAMPLE + 6.0, y, Align::Start, series.name.clone(), ink);
    }
    if let Some(rest) = lines.rest(2 * LINES.len()) {
        let (x, y) = beside(2 * LINES.len());
        drawing.words(x, y, Align::Start, rest, BLACK);
    }
}

impl Drawing {
    fn box_at(&mut self, x: f64, y: f64, width: f64, height: f64, fill: Color) {
        self.hold(x + width, y + height);
        self.shapes.push(Shape::Box { x, y, width, height, fill });
    }

    fn line(&mut self, points: Vec<(f64, f64)>, ink: Color, dashed: bool) {
        points.iter().for_each(|(x, y)| self.hold(*x, *y));
        self.shapes.push(Shape::Line { points, ink, dashed });
    }

    fn words(&mut self, x: f64, y: f64, align: Align, text: String, ink: Color) {
        let width = LETTER * text.chars().count() as f64;
        self.hold(x + width * (1.0 - align.before()), y);
        self.shapes.push(Shape::Words { x, y, align, text, ink });
    }

    /// Makes the paper large enough for a place on it.
    fn hold(&mut self, x: f64, y: f64) {
        self.width = self.width.max((x + MARGIN).ceil());
        self.height = self.height.max((y + MARGIN).ceil());
    }
}
