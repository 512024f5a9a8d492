//! Pictures as SVG and as PNG, by plotters.
//!
//! Sizes are in pixels of the SVG; a PNG has [`DOTS`] dots to each, so that it is sharp on a fine screen. Letters in a
//! PNG come from a font within this program, so it looks the same on every machine.

use dejavu::sans;
use plotters::{
    chart::ChartBuilder,
    coord::{
        Shift,
        ranged1d::{IntoSegmentedCoord, SegmentValue},
    },
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    element::{Circle, DashedPathElement, PathElement, Rectangle, Text},
    prelude::{BitMapBackend, DrawingBackend, SVGBackend},
    style::{
        BLACK, Color, FontDesc, FontFamily, FontStyle, RGBColor, ShapeStyle, TRANSPARENT, TextStyle, WHITE,
        register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{Cells, Lines, Panel, Picture};
use crate::{Error, Result};

/// Dots of a PNG to a pixel.
const DOTS: i32 = 2;

/// The fonts that an SVG names: the one that text is measured in, then similar ones.
const FONT: &str = "DejaVu Sans, Verdana, sans-serif";
const TEXT_SIZE: i32 = 14;

const TITLE_HEIGHT: i32 = 32;
const MARGIN: i32 = 10;
/// Left of a panel, for tick labels and the name of the axis.
const LEFT: i32 = 76;
/// Below a panel, for the same.
const BELOW: i32 = 44;

const CELL: (i32, i32) = (58, 26);
const PLOT: (i32, i32) = (480, 220);
/// Between entries of a legend.
const LEGEND_LINE: i32 = 18;
/// The piece of a line that stands before its name.
const SAMPLE: i32 = 24;

/// The length of a dash, and of the gap after it.
const DASH: i32 = 4;

/// The color of the largest number: a dark blue, on which text is white.
const DARK: [u8; 3] = [8, 48, 107];
const GRID: RGBColor = RGBColor(221, 221, 221);
/// The colors of lines, which colour-blind people can tell apart too (Okabe and Ito 2008). The next seven lines are
/// dashed.
const LINES: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// The result of drawing with a backend.
type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

pub(super) fn svg(picture: &Picture) -> Result<String> {
    let size = size(picture)?;
    let mut svg = String::new();
    draw(picture, SVGBackend::with_string(&mut svg, size), 1).map_err(failed)?;
    Ok(svg)
}

pub(super) fn png(picture: &Picture) -> Result<Vec<u8>> {
    let (width, height) = size(picture)?;
    let (width, height) = (width * DOTS as u32, height * DOTS as u32);
    let mut dots = vec![0; 3 * width as usize * height as usize];
    draw(picture, BitMapBackend::with_buffer(&mut dots, (width, height)), DOTS).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&dots).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Picture { reason: error.to_string() }
}

/// The width and height that a picture needs, in pixels. Registers the font with plotters.
pub(super) fn size(picture: &Picture) -> Result<(u32, u32)> {
    /// A larger picture is of no use.
    const MOST: i32 = 16_000;
    register_font(FONT, FontStyle::Normal, sans::regular()).map_err(|_| failed("the built-in font cannot be read"))?;
    let mut width = MARGIN + text_width(&picture.title)?;
    let mut height = TITLE_HEIGHT;
    for panel in &picture.panels {
        width = width.max(match panel {
            Panel::Cells(cells) => LEFT + CELL.0.saturating_mul(i32::try_from(cells.columns).unwrap_or(i32::MAX)),
            Panel::Lines(lines) => LEFT + PLOT.0 + legend_width(lines)?,
        });
        height = height.saturating_add(panel_height(panel));
    }
    let (width, height) = (width.saturating_add(MARGIN), height);
    if width > MOST || height > MOST {
        return Err(failed(format!("it would be {width} by {height} pixels, more than {MOST}")));
    }
    // Both are sums of positive numbers.
    Ok((width.unsigned_abs(), height.unsigned_abs()))
}

fn panel_height(panel: &Panel) -> i32 {
    match panel {
        Panel::Cells(cells) => CELL.1.saturating_mul(i32::try_from(cells.rows.len()).unwrap_or(i32::MAX)),
        Panel::Lines(lines) => PLOT.1.max(LEGEND_LINE * (1 + legend(lines).count() as i32)),
    }
    .saturating_add(BELOW + MARGIN)
}

fn text_width(text: &str) -> Result<i32> {
    let (width, _) = font(1).box_size(text).map_err(failed)?;
    Ok(i32::try_from(width).unwrap_or(i32::MAX / 4))
}

/// The font, `unit` dots to a pixel.
fn font(unit: i32) -> FontDesc<'static> {
    FontDesc::new(FontFamily::Name(FONT), f64::from(TEXT_SIZE * unit), FontStyle::Normal)
}

/// The lines that are named beside a plot: name, color, and whether they are dashed.
fn legend(lines: &Lines) -> impl Iterator<Item = (&str, RGBColor, bool)> {
    let styles = [false, true].into_iter().flat_map(|dashed| LINES.map(|color| (color, dashed)));
    lines.series.iter().zip(styles).map(|(series, (color, dashed))| (&series.name[..], color, dashed))
}

fn legend_width(lines: &Lines) -> Result<i32> {
    let names = legend(lines).map(|(name, ..)| text_width(name)).collect::<Result<Vec<i32>>>()?;
    Ok(MARGIN + SAMPLE + MARGIN + names.into_iter().max().unwrap_or(0))
}

/// Draws a picture, `unit` dots to a pixel.
fn draw<DB: DrawingBackend>(picture: &Picture, backend: DB, unit: i32) -> Drawn<DB> {
    let mut rest = backend.into_drawing_area();
    rest.fill(&WHITE)?;
    let style = text(BLACK, HPos::Left, unit);
    rest.draw(&Text::new(&picture.title[..], (MARGIN * unit, TITLE_HEIGHT * unit / 2), style))?;
    (_, rest) = rest.split_vertically(TITLE_HEIGHT * unit);
    for panel in &picture.panels {
        let (area, below) = rest.split_vertically(panel_height(panel) * unit);
        match panel {
            Panel::Cells(cells) => draw_cells(cells, &area, unit)?,
            Panel::Lines(lines) => draw_lines(lines, &area, unit)?,
        }
        rest = below;
    }
    rest.present()
}

/// Text that is centered upon its place from top to bottom.
fn text(color: RGBColor, align: HPos, unit: i32) -> TextStyle<'static> {
    font(unit).color(&color).pos(Pos::new(align, VPos::Center))
}

fn draw_cells<DB: DrawingBackend>(cells: &Cells, area: &DrawingArea<DB, Shift>, unit: i32) -> Drawn<DB> {
    let (rows, columns) = (cells.rows.len() as i32, cells.columns as i32);
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let (area, _) = area.split_horizontally((LEFT + CELL.0 * columns) * unit);
    let mut chart = ChartBuilder::on(&area)
        .margin_bottom(MARGIN * unit)
        .x_label_area_size(BELOW * unit)
        .margin_left(MARGIN * unit)
        .y_label_area_size((LEFT - MARGIN) * unit)
        // Ends are inclusive.
        .build_cartesian_2d((0..columns - 1).into_segmented(), (0..rows - 1).into_segmented())?;
    // The first row is on top.
    let name = |at: &SegmentValue<i32>| match at {
        SegmentValue::CenterOf(at) => cells.rows[(rows - 1 - at) as usize].0.clone(),
        _ => String::new(),
    };
    let number = |at: &SegmentValue<i32>| match at {
        SegmentValue::CenterOf(at) => at.to_string(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .bold_line_style(TRANSPARENT)
        .light_line_style(TRANSPARENT)
        .axis_style(TRANSPARENT)
        .x_labels(cells.columns)
        .y_labels(cells.rows.len())
        .x_label_formatter(&number)
        .y_label_formatter(&name)
        .x_desc(&cells.across)
        .label_style(font(unit))
        .axis_desc_style(font(unit))
        .draw()?;
    for ((_, row), y) in cells.rows.iter().zip((0..rows).rev()) {
        for (value, x) in row.iter().zip(0..columns) {
            let Some(value) = value else { continue };
            let fraction = cells.fraction(*value);
            let [red, green, blue] = DARK.map(|full| (255.0 - fraction * (255.0 - f32::from(full))).round() as u8);
            let corners = [
                (SegmentValue::Exact(x), SegmentValue::Exact(y)),
                (SegmentValue::Exact(x + 1), SegmentValue::Exact(y + 1)),
            ];
            let mut cell = Rectangle::new(corners, RGBColor(red, green, blue).filled());
            cell.set_margin(unit.unsigned_abs(), 0, 0, unit.unsigned_abs());
            let style = text(if fraction > 0.5 { WHITE } else { BLACK }, HPos::Center, unit);
            let middle = (SegmentValue::CenterOf(x), SegmentValue::CenterOf(y));
            chart.draw_series([cell])?;
            chart.draw_series([Text::new(format!("{value:.4}"), middle, style)])?;
        }
    }
    Ok(())
}

fn draw_lines<DB: DrawingBackend>(lines: &Lines, area: &DrawingArea<DB, Shift>, unit: i32) -> Drawn<DB> {
    /// Lines with more points than these have no marks at them.
    const MARKED: usize = 50;
    let Some((across, up)) = lines.axes() else { return Ok(()) };
    let (plot, beside) = area.split_horizontally((LEFT + PLOT.0) * unit);
    let mut chart = ChartBuilder::on(&plot)
        .margin_bottom(MARGIN * unit)
        .x_label_area_size(BELOW * unit)
        .margin_left(MARGIN * unit)
        .y_label_area_size((LEFT - MARGIN) * unit)
        .build_cartesian_2d(across, up)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels(8)
        .y_labels(8)
        .x_desc(lines.across)
        .y_desc(&lines.up)
        .label_style(font(unit))
        .axis_desc_style(font(unit))
        .draw()?;
    for (series, (_, color, dashed)) in lines.series.iter().zip(legend(lines)) {
        let marked = series.pieces.iter().map(Vec::len).sum::<usize>() <= MARKED;
        for (x, least, most) in &series.bars {
            chart.draw_series([PathElement::new(
                vec![(*x, *least), (*x, *most)],
                color.stroke_width(unit.unsigned_abs()),
            )])?;
        }
        for piece in &series.pieces {
            let style = color.stroke_width(unit.unsigned_abs());
            match dashed {
                false => chart.draw_series([PathElement::new(piece.clone(), style)])?,
                true => chart.draw_series([dashes(piece.clone(), style, unit)])?,
            };
            // A line through one point is none.
            if marked || piece.len() == 1 {
                chart.draw_series(piece.iter().map(|point| Circle::new(*point, 3 * unit, color.filled())))?;
            }
        }
    }
    let place = |at: usize| (MARGIN * unit, LEGEND_LINE * unit * (1 + at as i32) - LEGEND_LINE * unit / 2);
    for (at, (name, color, dashed)) in legend(lines).enumerate() {
        let (x, y) = place(at);
        let ends = vec![(x, y), (x + SAMPLE * unit, y)];
        let style = color.stroke_width((2 * unit).unsigned_abs());
        match dashed {
            false => beside.draw(&PathElement::new(ends, style))?,
            true => beside.draw(&dashes(ends, style, unit))?,
        }
        beside.draw(&Text::new(name, (x + (SAMPLE + MARGIN) * unit, y), text(BLACK, HPos::Left, unit)))?;
    }
    if let Some(rest) = lines.rest(2 * LINES.len()) {
        beside.draw(&Text::new(rest, place(2 * LINES.len()), text(BLACK, HPos::Left, unit)))?;
    }
    Ok(())
}

fn dashes<P>(points: Vec<P>, style: ShapeStyle, unit: i32) -> DashedPathElement<std::vec::IntoIter<P>, i32>
where
    P: Clone,
{
    DashedPathElement::new(points, DASH * unit, DASH * unit, style)
}
