//! An axis: the values it spans, the ticks on it, and where a value is along it.

use std::ops::Range;

use plotters::{
    coord::{
        combinators::{IntoLogRange, LogCoord},
        ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
        types::RangedCoordf64,
    },
    data::float::pretty_print_float,
};

/// A linear axis, or a logarithmic one whose ends are powers of ten.
pub(super) enum Axis {
    Linear(RangedCoordf64),
    Logarithmic(LogCoord<f64>),
}

impl Axis {
    /// A linear axis that spans all values, and `margin` times their range more on both sides; none where there is no
    /// value.
    pub fn linear(values: impl Iterator<Item = f64>, margin: f64) -> Option<Self> {
        let Range { start, end } = range(values)?;
        let size = start.abs().max(end.abs()).max(1e-3);
        // Values that are all the same are in the middle.
        let around = if end - start > 1e-9 * size { margin * (end - start) } else { 0.1 * size };
        Some(Axis::Linear((start - around..end + around).into()))
    }

    /// A logarithmic axis that spans all values, which are above zero; none where there is no value.
    pub fn logarithmic(values: impl Iterator<Item = f64>) -> Option<Self> {
        let Range { start, end } = range(values)?;
        let (first, last) = (start.log10().floor(), end.log10().ceil());
        let powers = 10f64.powf(first)..10f64.powf(last.max(first + 1.0));
        Some(Axis::Logarithmic(powers.log_scale().into()))
    }
}

/// The range of values.
fn range(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    (low <= high).then_some(low..high)
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        match self {
            Axis::Linear(axis) => axis.map(value, limit),
            Axis::Logarithmic(axis) => axis.map(value, limit),
        }
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match self {
            Axis::Linear(axis) => {
                // Sums of steps that should be 0 may miss it by a rounding error.
                let near = 1e-9 * (axis.range().end - axis.range().start);
                axis.key_points(hint).into_iter().map(|tick| if tick.abs() < near { 0.0 } else { tick }).collect()
            }
            Axis::Logarithmic(axis) => {
                // 1, 2 and 5 times powers of ten, or powers of ten alone where those are too many.
                let Range { start, end } = axis.range();
                let powers = (start.log10().round() as i32..=end.log10().round() as i32).map(|power| 10f64.powi(power));
                let powers: Vec<f64> = powers.collect();
                let (most, last) = (hint.max_num_points(), powers.len().saturating_sub(1));
                match 3 * last + 1 {
                    _ if most == 0 => Vec::new(),
                    fine if fine > most => powers.into_iter().step_by(last.div_ceil(most).max(1)).collect(),
                    _ => powers.iter().flat_map(|p| [*p, 2.0 * p, 5.0 * p]).take(3 * last + 1).collect(),
                }
            }
        }
    }

    fn range(&self) -> Range<f64> {
        match self {
            Axis::Linear(axis) => axis.range(),
            Axis::Logarithmic(axis) => axis.range(),
        }
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        pretty_print_float(*value, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        for (values, logarithmic, expected) in [
            (&[0.51, 0.93][..], false, &["0.6", "0.7", "0.8", "0.9"][..]),
            (&[0.0, 1536.0], false, &["0", "500", "1000", "1500"]),
            (&[-0.02, 0.03], false, &["-0.02", "-0.01", "0", "0.01", "0.02", "0.03"]),
            (&[100.0, 60_000.0], true, &["100", "1000", "1e4", "1e5"]),
            (&[24.0, 96.0], true, &["10", "20", "50", "100"]),
            (&[0.7, 0.7], false, &["0.65", "0.7", "0.75"]),
        ] {
            let values = values.iter().copied();
            let axis = if logarithmic { Axis::logarithmic(values) } else { Axis::linear(values, 0.0) };
            let axis = axis.unwrap();
            let found: Vec<String> = axis.key_points(6).iter().map(|tick| axis.format_ext(tick)).collect();
            assert_eq!(found, expected);
        }
        assert!(Axis::linear([].into_iter(), 0.1).is_none());
    }

    #[test]
    fn every_value_is_within_the_axis() {
        for (values, logarithmic) in [
            (&[0.7][..], false),
            (&[0.0], false),
            (&[0.5, 0.5 + f64::EPSILON], false),
            (&[1e-8, 3e-8], false),
            (&[1e60, -1e60], false),
            (&[1.0], true),
            (&[1.0, 1e9], true),
        ] {
            let all = values.iter().copied();
            let axis = if logarithmic { Axis::logarithmic(all) } else { Axis::linear(all, 0.05) };
            let axis = axis.unwrap();
            for value in values {
                assert!((0..=1000).contains(&axis.map(value, (0, 1000))), "{value} in {:?}", axis.range());
            }
            assert!(axis.key_points(8).len() <= 12);
        }
        let axis = Axis::logarithmic([10.0, 1000.0].into_iter()).unwrap();
        assert_eq!(axis.map(&100.0, (0, 1000)), 500);
    }
}
