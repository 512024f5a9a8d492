//! An axis: which numbers stand at it, and where a value is between its ends.

/// Numbers along an axis, the first and the last of which are its ends.
#[derive(Debug)]
pub(super) struct Scale {
    /// At least two, rising.
    ticks: Vec<f64>,
    logarithmic: bool,
}

impl Scale {
    /// An axis on which all values have a place; none where there is no value. Those of a logarithmic one are above zero.
    pub fn of(values: impl Iterator<Item = f64>, logarithmic: bool) -> Option<Self> {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let ticks = |low, high| if logarithmic { powers(low, high) } else { multiples(low, high) };
        (low <= high).then(|| Scale { ticks: ticks(low, high), logarithmic })
    }

    /// Where a value is, from 0 to 1.
    pub fn share(&self, value: f64) -> f64 {
        let along = |v: f64| if self.logarithmic { v.log10() } else { v };
        let (first, last) = (along(self.ticks[0]), along(self.ticks[self.ticks.len() - 1]));
        (along(value) - first) / (last - first)
    }

    /// The numbers to write, each with its place from 0 to 1.
    pub fn labels(&self) -> Vec<(f64, String)> {
        /// More powers than these are written only where they are powers of ten.
        const CROWD: usize = 9;
        /// Characters that there is room for: longer numbers are written with an exponent.
        const ROOM: usize = 8;
        // Differences of ticks are not exact.
        let power = |value: f64| (value.abs().log10() + 1e-9).floor();
        let apart = power(self.ticks[1] - self.ticks[0]);
        // As many digits as tell ticks apart; those of a logarithmic axis have one.
        let decimals = (-apart).clamp(0.0, 9.0) as usize;
        let label = |tick: f64| {
            let digits = if self.logarithmic { 0 } else { (power(tick) - apart).max(0.0) as usize };
            let (plain, short) = (format!("{tick:.decimals$}"), format!("{tick:.digits$e}"));
            let short = short.trim_end_matches("e0");
            if plain.len() > ROOM && short.len() < plain.len() { short.to_owned() } else { plain }
        };
        let crowded = self.logarithmic && self.ticks.len() > CROWD;
        let written = self.ticks.iter().filter(|tick| !crowded || tick.log10().fract() == 0.0);
        written.map(|tick| (self.share(*tick), label(*tick))).collect()
    }
}

/// Multiples of 1, 2 or 5 times a power of ten, some five of them, from one below all values to one above.
fn multiples(low: f64, high: f64) -> Vec<f64> {
    // Values that are all the same are in the middle.
    let size = low.abs().max(high.abs());
    let around = if high - low > 1e-9 * size { 0.0 } else { 0.1 * size.max(1e-3) };
    let (low, high) = (low - around, high + around);
    let rough = (high - low) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step).floor(), (high / step).ceil());
    // Never more than a few: the step is a quarter of the way.
    (0..=((last - first) as usize).clamp(1, 9)).map(|at| (first + at as f64) * step).collect()
}

/// 1, 2 and 5 times powers of ten, from one below all values to one above.
fn powers(low: f64, high: f64) -> Vec<f64> {
    let decades = low.log10().floor() as i32 - 1..=high.log10().ceil() as i32 + 1;
    let all: Vec<f64> = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade))).collect();
    let first = all.iter().rposition(|tick| *tick < low).unwrap_or(0);
    let last = all.iter().position(|tick| *tick > high).unwrap_or(all.len().saturating_sub(1));
    all.get(first..=last).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_around_the_values() {
        for (values, logarithmic, due) in [
            (&[0.51, 0.93][..], false, &["0.4", "0.6", "0.8", "1.0"][..]),
            (&[0.0, 1536.0], false, &["0", "500", "1000", "1500", "2000"]),
            (&[-0.02, 0.03], false, &["-0.02", "0.00", "0.02", "0.04"]),
            (&[24.0, 96.0], true, &["20", "50", "100"]),
            (&[100.0], true, &["50", "100", "200"]),
            (&[0.0, 3e-8], false, &["0", "1e-8", "2e-8", "3e-8"]),
            (&[-2e9, 1e9], false, &["-2e9", "-1e9", "0", "1e9"]),
            (&[0.0, 2e9], false, &["0", "5e8", "1.0e9", "1.5e9", "2.0e9"]),
            (&[3e7, 3e8], true, &["20000000", "50000000", "1e8", "2e8", "5e8"]),
            (&[150.0, 60_000.0], true, &["100", "1000", "10000", "100000"]),
        ] {
            let labels = Scale::of(values.iter().copied(), logarithmic).unwrap().labels();
            let found: Vec<&str> = labels.iter().map(|(_, label)| label.as_str()).collect();
            assert_eq!(found, due, "{values:?}");
        }
        assert!(Scale::of([].into_iter(), false).is_none());
    }

    #[test]
    fn every_value_has_a_place() {
        for (values, logarithmic) in [
            (&[0.7][..], false),
            (&[0.0], false),
            (&[0.5, 0.5 + f64::EPSILON], false),
            (&[1e-8, 3e-8], false),
            (&[1e60, -1e60], false),
            (&[1.0], true),
            (&[1.0, 1e9], true),
        ] {
            let scale = Scale::of(values.iter().copied(), logarithmic).unwrap();
            for value in values {
                assert!((0.0..=1.0).contains(&scale.share(*value)), "{value} on {scale:?}");
            }
        }
        let scale = Scale::of([10.0, 1000.0].into_iter(), true).unwrap();
        assert!((scale.share(100.0) - 0.5).abs() < 1e-9);
    }
}
