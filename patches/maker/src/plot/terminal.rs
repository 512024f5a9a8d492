//! Pictures as lines for a terminal: shades for cells, letters for lines.

use std::ops::RangeInclusive;

use plotters::coord::ranged1d::{Ranged, ValueFormatter};

use super::{Cells, Lines, Panel, Picture, Series};

pub(super) fn lines(picture: &Picture) -> Vec<String> {
    let mut all = vec![picture.title.clone()];
    for panel in &picture.panels {
        match panel {
            Panel::Cells(cells) => of_cells(cells, &mut all),
            Panel::Lines(lines) => of_lines(lines, &mut all),
        }
    }
    all
}

/// Darker where a number is larger.
fn of_cells(cells: &Cells, all: &mut Vec<String>) {
    const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
    let header: String = (0..cells.columns).map(|column| format!("{column:>4}")).collect();
    let width = cells.rows.iter().map(|(name, _)| name.len()).fold(8, usize::max);
    all.push(format!("{:width$}{header}  {}", "", cells.across));
    for (name, row) in &cells.rows {
        let cell = |column: usize| match row.get(column).copied().flatten() {
            // A fraction is at most 1.
            Some(value) => {
                format!(" {}", String::from(SHADES[(cells.fraction(value) * 4.0).round() as usize]).repeat(3))
            }
            None => "   -".to_owned(),
        };
        all.push(format!("{name:width$}{}", (0..cells.columns).map(cell).collect::<String>()));
    }
    all.push(format!("█ is {:.4}", cells.largest));
}

/// A letter where a line is, the one of the first line where several are.
fn of_lines(lines: &Lines, all: &mut Vec<String>) {
    const WIDTH: usize = 64;
    const HEIGHT: usize = 14;
    /// No more lines are drawn than there are letters.
    const LETTERS: RangeInclusive<char> = 'a'..='z';
    let Some((across, up)) = lines.axes() else { return };
    // Every point is within its axis; rows are counted from the top.
    let place = |at: i32, length: usize| usize::try_from(at).unwrap_or(0).min(length - 1);
    let column = |x: f64| place(across.map(&x, (0, WIDTH as i32 - 1)), WIDTH);
    let row = |y: f64| place(up.map(&y, (HEIGHT as i32 - 1, 0)), HEIGHT);
    let mut grid = vec![[' '; WIDTH]; HEIGHT];
    let drawn: Vec<(char, &Series)> = LETTERS.zip(&lines.series).collect();
    let pieces =
        drawn.iter().rev().flat_map(|(letter, series)| series.pieces.iter().map(move |piece| (*letter, piece)));
    for (letter, piece) in pieces {
        let single = piece.first().map(|point| [*point, *point]);
        for [from, to] in piece.windows(2).map(|ends| [ends[0], ends[1]]).chain(single) {
            let first = column(from.0);
            let steps = column(to.0).saturating_sub(first);
            for step in 0..=steps {
                let along = step as f64 / steps.max(1) as f64;
                grid[row(from.1 + along * (to.1 - from.1))][first + step] = letter;
            }
        }
    }
    let mut labels = vec![String::new(); HEIGHT];
    up.key_points(8).iter().for_each(|tick| labels[row(*tick)] = up.format_ext(tick));
    all.push(format!("{:10}{}", "", lines.up));
    for (label, cells) in labels.iter().zip(&grid) {
        all.push(format!("{label:>9}|{}", cells.iter().collect::<String>().trim_end()));
    }
    let mut below = [' '; WIDTH + 12];
    for tick in across.key_points(6) {
        let label = across.format_ext(&tick);
        let start = (column(tick) + 10).saturating_sub(label.len() / 2);
        below[start..].iter_mut().zip(label.chars()).for_each(|(place, letter)| *place = letter);
    }
    all.push(format!("{:9}+{}", "", "-".repeat(WIDTH)));
    all.push(format!("{}  {}", below.iter().collect::<String>().trim_end(), lines.across));
    all.extend(drawn.iter().map(|(letter, series)| format!("{:10}{letter}  {}", "", series.name)));
    all.extend(lines.rest(drawn.len()).map(|rest| format!("{:10}{rest}", "")));
}
