//! What a report consists of, whatever it is written as.

use std::time::Duration;

use serde::Serialize;

use crate::clock::{Moment, Timestamp, Zone, rfc3339};
use crate::query::{Answer, Cell, ColumnRole, Window, whole_intervals};

/// The most series of a chart: more are told apart by nobody, and the rest is one.
const MOST_SERIES: usize = 8;

/// The series of all that have none of their own.
const OTHERS: &str = "(others)";

/// A report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What it is about.
    pub title: String,
    /// The first moment that it is about.
    #[serde(with = "rfc3339")]
    pub since: Timestamp,
    /// The first moment after.
    #[serde(with = "rfc3339")]
    pub until: Timestamp,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub made_at: Timestamp,
    /// How long the time is that a point of its charts stands for, in seconds.
    pub every_s: u64,
    /// It in a few numbers.
    pub facts: Vec<Fact>,
    /// About the fleet.
    pub sections: Vec<Section>,
    /// About single devices.
    pub devices: Vec<Section>,
}

/// A part of a report.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Section {
    /// What it is about.
    pub title: String,
    /// What it is found by, unique in the report.
    pub anchor: String,
    /// How it is to be read.
    pub note: String,
    /// It in a few words.
    pub facts: Vec<Fact>,
    /// How it went.
    pub charts: Vec<Chart>,
    /// The rest.
    pub tables: Vec<Table>,
}

/// A value and its name.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    /// Its name.
    pub name: String,
    /// The value, for people.
    pub value: String,
    /// Whether somebody should look at it.
    pub is_poor: bool,
}

/// How values went over time.
#[derive(Debug, Clone, Serialize)]
pub struct Chart {
    /// What is shown.
    pub title: String,
    /// Unit of the values.
    pub unit: String,
    /// Whether the values are shares of one whole, which are drawn one upon the other.
    pub is_stacked: bool,
    /// When each bucket begins.
    pub starts: Vec<Moment>,
    /// The lines.
    pub series: Vec<Line>,
    /// A number that the values should not cross.
    pub limit: Option<f64>,
}

/// One value over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// A value for each bucket; none where there is a gap.
    pub values: Vec<Option<f64>>,
}

/// Rows of cells.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// What the rows are.
    pub title: String,
    /// Name of each column.
    pub columns: Vec<String>,
    /// A cell for each column.
    pub rows: Vec<TableRow>,
    /// How many rows were left out.
    pub more: usize,
}

/// A row of a table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TableRow {
    /// A cell for each column.
    pub cells: Vec<Cell>,
    /// Whether somebody should look at it.
    pub is_poor: bool,
    /// The section that says more about what its first cell names.
    pub anchor: Option<String>,
}

impl Fact {
    pub(super) fn new(name: &str, value: impl Into<String>) -> Self {
        Self { name: name.to_owned(), value: value.into(), is_poor: false }
    }
}

impl Table {
    /// A table of the first rows.
    pub(super) fn new(title: &str, columns: &[&str], mut rows: Vec<TableRow>, most: usize) -> Self {
        let more = rows.len().saturating_sub(most);
        rows.truncate(most);
        Self { title: title.to_owned(), columns: columns.iter().map(ToString::to_string).collect(), rows, more }
    }
}

impl Chart {
    /// The values of some of an answer's columns over time; `name` makes of a column's name that of its line.
    pub(super) fn of(
        title: &str,
        answer: &Answer,
        columns: std::ops::Range<usize>,
        name: impl Fn(&str) -> String,
    ) -> Self {
        let start = answer.columns.iter().position(|column| column.role == ColumnRole::Start);
        let starts = answer.rows.iter().filter_map(|row| match row.get(start?) {
            Some(Cell::Time(at)) => Some(Moment(*at)),
            _ => None,
        });
        let unit = answer.columns.get(columns.start).map(|column| column.unit.clone()).unwrap_or_default();
        let line = |at: usize| Line {
            name: name(&answer.columns[at].name),
            values: answer.rows.iter().map(|row| row[at].number().filter(|value| value.is_finite())).collect(),
        };
        let series = columns.map(line).collect();
        Self { title: title.to_owned(), unit, is_stacked: false, starts: starts.collect(), series, limit: None }
    }

    /// Takes out the values of buckets of which a window has a part only: a count of these says little.
    pub(super) fn leave_out_parts(&mut self, window: Window, every: Duration, zone: Zone) {
        // There may be none.
        let until = whole_intervals(window, every, zone, window.until).map_or(window.since, |whole| whole.until);
        let is_part = |start: &Moment| start.0 < window.since || start.0 >= until;
        if self.starts.iter().all(is_part) {
            // They are all there is.
            return;
        }
        for line in &mut self.series {
            let parts = line.values.iter_mut().zip(&self.starts).filter(|(_, start)| is_part(start));
            parts.for_each(|(value, _)| *value = None);
        }
    }

    /// One whole, of which each series is a part: the largest, and all others as one. What has no share is no part.
    pub(super) fn stacked(mut self) -> Self {
        self.is_stacked = true;
        let total = |line: &Line| line.values.iter().flatten().sum::<f64>();
        self.series.retain(|line| total(line) > 0.0);
        self.series.sort_by(|a, b| total(b).total_cmp(&total(a)).then_with(|| a.name.cmp(&b.name)));
        if self.series.len() > MOST_SERIES {
            let rest = self.series.split_off(MOST_SERIES - 1);
            let sum = |at: usize| {
                let values = rest.iter().filter_map(|line| line.values[at]);
                values.fold(None, |sum: Option<f64>, value| Some(sum.unwrap_or(0.0) + value))
            };
            self.series.push(Line { name: OTHERS.to_owned(), values: (0..self.starts.len()).map(sum).collect() });
        }
        self
    }

    /// The least, the mean and the greatest value of a line.
    #[must_use]
    pub fn range(line: &Line) -> Option<(f64, f64, f64)> {
        let values = || line.values.iter().flatten().copied();
        let count = values().count();
        let (least, greatest) = values().map(|value| (value, value)).reduce(|(a, b), (c, d)| (a.min(c), b.max(d)))?;
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 buckets")]
        let (sum, count) = (values().sum::<f64>(), count as f64);
        let mean = if sum.is_finite() { sum / count } else { values().map(|value| value / count).sum() };
        Some((least, mean, greatest))
    }
}

/// The length of the buckets of a window: short enough for a chart, and one that people count in.
pub(super) fn bucket_length(window: Duration) -> Duration {
    // Not shorter than the time between two sweeps of most: a point without a state is a gap.
    const LENGTHS: [u64; 8] = [15, 30, 60, 180, 360, 720, 1_440, 10_080];
    const MOST_POINTS: u64 = 180;
    let minutes = window.as_secs() / 60;
    let length = LENGTHS.into_iter().find(|length| minutes / length <= MOST_POINTS);
    Duration::from_secs(60 * length.unwrap_or(minutes.div_ceil(MOST_POINTS).div_ceil(10_080) * 10_080))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_as_long_as_a_chart_needs() {
        let lengths = [1, 24, 7 * 24, 30 * 24, 365 * 24, 20_000 * 24]
            .map(|hours| bucket_length(Duration::from_hours(hours)).as_secs() / 60);
        assert_eq!(lengths, [15, 15, 60, 360, 10_080, 10_080 * 16]);
    }

    #[test]
    fn a_bucket_is_whole_where_it_ends_within_the_window() {
        let time = |text: &str| crate::clock::parse_timestamp(text).expect("a time");
        let berlin = Zone::parse("Europe/Berlin").expect("a zone");
        let whole = |starts: &[&str], until: &str, hours: u64| {
            let starts: Vec<Moment> = starts.iter().map(|text| Moment(time(text))).collect();
            let window = Window { since: starts[0].0, until: time(until) };
            let series = vec![Line { name: String::new(), values: vec![Some(1.0); starts.len()] }];
            let (title, unit) = (String::new(), String::new());
            let mut chart = Chart { title, unit, is_stacked: false, starts, series, limit: None };
            chart.leave_out_parts(window, Duration::from_hours(hours), berlin);
            chart.series[0].values.iter().map(Option::is_some).collect::<Vec<_>>()
        };
        // The clocks of Berlin go forward on 29 March 2026, and back on 25 October.
        let spring = ["2026-03-27T23:00:00Z", "2026-03-28T23:00:00Z"];
        assert_eq!(whole(&spring, "2026-03-29T22:00:00Z", 24), [true, true]);
        assert_eq!(whole(&spring, "2026-03-29T21:00:00Z", 24), [true, false]);
        assert_eq!(whole(&["2026-03-22T23:00:00Z"], "2026-03-29T22:00:00Z", 7 * 24), [true]);
        let autumn = ["2026-10-23T22:00:00Z", "2026-10-24T22:00:00Z"];
        assert_eq!(whole(&autumn, "2026-10-25T22:00:00Z", 24), [true, false]);
        // Where none is, they are all there is to show.
        assert_eq!(whole(&autumn[1..], "2026-10-25T22:00:00Z", 24), [true]);
        assert_eq!(whole(&["2026-03-28T23:00:00Z"], "2026-03-29T04:00:00Z", 6), [true]);
        assert_eq!(whole(&["2026-03-29T01:00:00Z"], "2026-03-29T02:00:00Z", 2), [true]);
    }

    #[test]
    fn what_has_no_share_is_no_part() {
        let line = |name: &str, value: f64| Line { name: name.to_owned(), values: vec![Some(value), None] };
        let chart = Chart {
            title: String::new(),
            unit: String::new(),
            is_stacked: false,
            starts: vec![Moment(Timestamp::default()); 2],
            series: vec![line("never", 0.0), line("always", 1.0)],
            limit: None,
        };
        assert_eq!(chart.stacked().series, [line("always", 1.0)]);
    }

    #[test]
    fn what_is_too_much_for_a_chart_becomes_one_series() {
        let line = |at: u32| Line { name: at.to_string(), values: vec![Some(f64::from(at)), None] };
        let starts = vec![Moment(Timestamp::default()); 2];
        let chart = Chart {
            title: String::new(),
            unit: String::new(),
            is_stacked: false,
            starts,
            series: (1..=10).map(line).collect(),
            limit: None,
        };
        let chart = chart.stacked();
        assert_eq!(chart.series.len(), MOST_SERIES);
        assert_eq!(chart.series[0], line(10));
        assert_eq!(chart.series[7], Line { name: OTHERS.to_owned(), values: vec![Some(6.0), None] });
    }
}
