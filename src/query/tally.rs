//! What is computed of the values in a bucket.

use std::cmp::Ordering;

use super::answer::Cell;
use super::sum::Sum;

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agg {
    /// The arithmetic mean.
    Mean,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// All of them together.
    Sum,
    /// How many there are.
    Count,
    /// The earliest; of several at one time the least.
    First,
    /// The latest; of several at one time the greatest.
    Last,
    /// Half of them are no larger: exact, between two values by linear interpolation.
    P50,
    /// Nine in ten are no larger.
    P90,
    /// Nineteen in twenty are no larger.
    P95,
    /// Ninety-nine in a hundred are no larger.
    P99,
    /// Together, per second: of counts within a window, by the windows' lengths.
    Rate,
}

/// What is known of the values of one metric in one bucket.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    count: u64,
    sum: Sum,
    min: f64,
    max: f64,
    first: Option<(i64, f64)>,
    last: Option<(i64, f64)>,
    /// Of the values whose windows have a length: these, and the lengths in seconds.
    timed: Sum,
    seconds: Sum,
    /// All of them, where they are needed.
    values: Vec<f64>,
}

impl Agg {
    /// The aggregate of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|agg| agg.name() == name)
    }

    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::Mean,
        Self::Min,
        Self::Max,
        Self::Sum,
        Self::Count,
        Self::First,
        Self::Last,
        Self::P50,
        Self::P90,
        Self::P95,
        Self::P99,
        Self::Rate,
    ];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Sum => "sum",
            Self::Count => "count",
            Self::First => "first",
            Self::Last => "last",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::Rate => "rate",
        }
    }

    /// Whether it needs every value.
    pub(super) fn needs_values(self) -> bool {
        self.quantile().is_some()
    }

    fn quantile(self) -> Option<f64> {
        match self {
            Self::P50 => Some(0.5),
            Self::P90 => Some(0.9),
            Self::P95 => Some(0.95),
            Self::P99 => Some(0.99),
            _ => None,
        }
    }
}

impl Tally {
    /// Takes in a value of a time, and the length of the window that it counts in.
    pub(super) fn add(&mut self, micros: i64, value: f64, seconds: f64, keep: bool) {
        (self.min, self.max) = match self.count {
            0 => (value, value),
            _ => (self.min.min(value), self.max.max(value)),
        };
        self.count += 1;
        self.sum.add(value);
        if seconds > 0.0 {
            self.timed.add(value);
            self.seconds.add(seconds);
        }
        if self.first.is_none_or(|first| is_before((micros, value), first)) {
            self.first = Some((micros, value));
        }
        if self.last.is_none_or(|last| is_before(last, (micros, value))) {
            self.last = Some((micros, value));
        }
        if keep {
            self.values.push(value);
        }
    }

    /// Takes in what another knows of the same bucket.
    pub(super) fn merge(&mut self, other: Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = other;
            return;
        }
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
        self.count += other.count;
        self.sum.merge(other.sum);
        self.timed.merge(other.timed);
        self.seconds.merge(other.seconds);
        self.first = self.first.into_iter().chain(other.first).min_by(|a, b| order(*a, *b));
        self.last = self.last.into_iter().chain(other.last).max_by(|a, b| order(*a, *b));
        self.values.extend(other.values);
    }

    /// As it is shown: a count is a whole number.
    pub(super) fn cell(&mut self, agg: Agg) -> Cell {
        match agg {
            Agg::Count if self.count > 0 => Cell::Count(i64::try_from(self.count).unwrap_or(i64::MAX)),
            _ => self.get(agg).into(),
        }
    }

    /// None where no state has a value: a gap is no zero, but for a count. None too where it is beyond all doubles.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 values")]
    pub(super) fn get(&mut self, agg: Agg) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let value = match agg {
            Agg::Mean => Some(self.sum.get() / self.count as f64),
            Agg::Min => Some(self.min),
            Agg::Max => Some(self.max),
            Agg::Sum => Some(self.sum.get()),
            Agg::Count => Some(self.count as f64),
            Agg::First => self.first.map(|(_, value)| value),
            Agg::Last => self.last.map(|(_, value)| value),
            Agg::Rate => {
                Some(self.seconds.get()).filter(|&seconds| seconds > 0.0).map(|seconds| self.timed.get() / seconds)
            }
            Agg::P50 | Agg::P90 | Agg::P95 | Agg::P99 => agg.quantile().map(|share| self.quantile(share)),
        };
        value.filter(|value| value.is_finite())
    }

    /// The value below which a share of the values lies, between two of them by linear interpolation: what
    /// DuckDB's `quantile_cont` and numpy's default give.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a position"
    )]
    fn quantile(&mut self, share: f64) -> f64 {
        let position = share * (self.values.len() - 1) as f64;
        let (_, below, above) = self.values.select_nth_unstable_by(position.floor() as usize, f64::total_cmp);
        let above = above.iter().copied().min_by(f64::total_cmp).unwrap_or(*below);
        let (below, share) = (*below, position - position.floor());
        let step = above - below;
        // Between the least and the greatest of all doubles there are more than a double holds.
        if step.is_finite() { below + step * share } else { below * (1.0 - share) + above * share }
    }
}

/// Values by their times. Those of one time have an order too: an answer is the same in whatever order they are read.
fn order(a: (i64, f64), b: (i64, f64)) -> Ordering {
    a.0.cmp(&b.0).then_with(|| a.1.total_cmp(&b.1))
}

fn is_before(a: (i64, f64), b: (i64, f64)) -> bool {
    order(a, b).is_lt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(values: &[(i64, f64)]) -> Tally {
        let mut tally = Tally::default();
        values.iter().for_each(|(at, value)| tally.add(*at, *value, 30.0, true));
        tally
    }

    #[test]
    fn a_rate_is_of_values_whose_windows_are_known() {
        let mut tally = tally(&[(1, 60.0)]);
        tally.add(2, 1_000.0, 0.0, false);
        assert_eq!(tally.get(Agg::Rate), Some(2.0));
        assert_eq!(tally.get(Agg::Sum), Some(1_060.0));
    }

    #[test]
    fn of_several_values_at_one_time_the_order_says_which_is_first_and_last() {
        for values in [[(5, 2.0), (5, 1.0), (5, 3.0)], [(5, 3.0), (5, 2.0), (5, 1.0)], [(5, 1.0), (5, 3.0), (5, 2.0)]] {
            let mut whole = tally(&values[..2]);
            whole.merge(tally(&values[2..]));
            assert_eq!((whole.get(Agg::First), whole.get(Agg::Last)), (Some(1.0), Some(3.0)));
        }
    }

    #[test]
    fn what_lies_between_the_ends_of_all_doubles_is_found_and_what_lies_beyond_is_none() {
        let mut tally = tally(&[(1, f64::MIN), (2, f64::MIN), (3, f64::MAX)]);
        assert_eq!(tally.get(Agg::P50), Some(f64::MIN));
        let p90 = tally.get(Agg::P90).expect("a value");
        assert!((p90 / f64::MAX - 0.6).abs() < 1e-12, "{p90}");
        let mut beyond = Tally::default();
        [1, 2].into_iter().for_each(|at| beyond.add(at, f64::MAX, 30.0, true));
        assert_eq!((beyond.get(Agg::Sum), beyond.get(Agg::Mean), beyond.get(Agg::Max)), (None, None, Some(f64::MAX)));
    }

    #[test]
    fn values_in_parts_are_as_good_as_together() {
        let values = [(5, 4.0), (1, 1.0), (9, 2.0), (7, 10.0), (3, 3.0)];
        let expected = [4.0, 1.0, 10.0, 20.0, 5.0, 1.0, 2.0, 3.0, 7.6, 8.8, 9.76, 20.0 / 150.0];
        for cut in 0..=values.len() {
            let mut whole = tally(&values[..cut]);
            whole.merge(tally(&values[cut..]));
            for (agg, expected) in Agg::ALL.iter().zip(expected) {
                let found = whole.get(*agg).expect("a value");
                assert!((found - expected).abs() < 1e-12, "{} of parts at {cut}: {found}", agg.name());
            }
        }
        assert!(Agg::ALL.iter().all(|agg| Tally::default().get(*agg).is_none()));
    }
}
