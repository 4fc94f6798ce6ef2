//! Metrics over time: of devices, or of the fleet as one or by groups.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, Int64Array, PrimitiveArray, RecordBatch, TimestampMicrosecondArray,
};

use crate::archive::Scan;
use crate::clock::Zone;
use crate::schema::{Kind, Schema};

use super::answer::{Answer, AnswerColumn, Cell};
use super::metric::{Metric, MetricKind};
use super::newest::{Names, newest_names};
use super::scan::Days;
use super::series::{AllSeries, MetricAt, Series};
use super::tally::Agg;
use super::texts::Texts;
use super::window::{Buckets, Window};
use super::{Asked, QueryError, column};

/// Stands for a group whose states have no value.
const NO_VALUE: &str = "(none)";

/// The most rows of a trend.
pub(super) const MOST_ROWS: usize = 2_000_000;

/// The most that may be added up side by side, a metric of a row each: three quarters of a gigabyte.
pub(super) const MOST_TALLIES: usize = 4_000_000;

/// The most values that are kept for percentiles: a gigabyte, and twice that while it grows.
pub(super) const MOST_KEPT: usize = 100_000_000;

/// The most values of an answer: about as much.
pub(super) const MOST_CELLS: usize = 20_000_000;

/// What is asked.
#[derive(Debug, Clone)]
pub struct TrendOptions {
    /// Of whom.
    pub who: Who,
    /// Which metrics.
    pub metrics: Vec<Metric>,
    /// Over which time.
    pub window: Window,
    /// Length of a bucket. Buckets begin at whole multiples of it since the Unix epoch, or since midnight.
    pub every: Duration,
    /// Whose midnight that is.
    pub zone: Zone,
    /// What is computed of the values in a bucket.
    pub aggs: Vec<Agg>,
}

/// Of whom a trend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Devices, each by itself: their ids.
    Devices(Vec<String>),
    /// All devices together; or those that share a value of a column.
    Fleet {
        /// The column.
        by: Option<String>,
    },
}

/// Aggregates metrics over time: a row for each bucket of each device or group, also where there is no state.
///
/// # Errors
/// Where the window has no length or too many buckets, there is no such column or no state in the window, or
/// the archive cannot be read.
pub fn trend(days: &Days, options: &TrendOptions) -> Result<Answer, QueryError> {
    let schema = Schema::device_state();
    // Of texts there are shares, whatever is asked for.
    let has_no_rate = |metric: &Metric| metric.kind == MetricKind::Number;
    if options.aggs == [Agg::Rate] && options.metrics.iter().all(has_no_rate) {
        return Err(QueryError::NoRate);
    }
    let buckets = Buckets::new(options.window, options.every, options.zone)?;
    let question = Question::new(&schema, options, &buckets)?;
    let mut all = AllSeries::default();
    // Once it is too much, nothing more is gathered.
    let is_refused = AtomicBool::new(false);
    let refuse = |found: &AllSeries| is_refused.fetch_or(question.refusal(found).is_some(), Ordering::Relaxed);
    let add = |found: &mut AllSeries, batch: &RecordBatch| {
        if !is_refused.load(Ordering::Relaxed) {
            question.add(batch, found);
            refuse(found);
        }
    };
    days.fold(&schema, options.window, &question.scan, AllSeries::default, add, |found| {
        if question.refusal(&all).is_none() {
            all.merge(found);
            refuse(&all);
        }
    })?;
    if let Some(refusal) = question.refusal(&all) {
        return Err(refusal);
    }
    if all.is_empty() {
        return Err(QueryError::NoState { who: options.who.clone(), window: options.window });
    }
    if let Who::Devices(ids) = &options.who {
        // A device that was named and has no state gets rows too.
        for id in ids {
            all.series(id);
        }
    }
    let names = match &options.who {
        Who::Devices(ids) => newest_names(days, Some(ids), options.window)?,
        Who::Fleet { .. } => Names::new(),
    };
    question.answer(all, &names)
}

/// Where the wanted columns stand in the batches of a scan.
struct Question<'a> {
    options: &'a TrendOptions,
    buckets: &'a Buckets,
    scan: Scan,
    time: usize,
    /// By what the series are told apart, if there are several.
    key: Option<usize>,
    metrics: Vec<MetricAt>,
    keep: bool,
    asked: Asked<'a>,
}

/// Rows one after the other that fall into one bucket of one series.
struct Run {
    rows: std::ops::Range<usize>,
    slot: usize,
}

impl<'a> Question<'a> {
    fn new(schema: &Schema, options: &'a TrendOptions, buckets: &'a Buckets) -> Result<Self, QueryError> {
        let time = column(schema, "timestamp");
        let device = column(schema, "device_id");
        let (key, any_of) = match &options.who {
            Who::Devices(ids) => (Some(device), Some((device, ids.clone()))),
            Who::Fleet { by: None } => (None, None),
            Who::Fleet { by: Some(by) } => (Some(label(schema, by)?), None),
        };
        let metrics = options.metrics.iter().flat_map(|metric| [Some(metric.column), metric.window()]).flatten();
        let columns = metrics.chain([time]).chain(key).collect();
        let scan = Scan { columns, any_of, ..Scan::default() };
        let place = |column| scan.columns.iter().position(|&at| at == column).expect("the column is in the scan");
        let wanted = |metric: &Metric| match metric.kind {
            MetricKind::Share => MetricAt::Shares(place(metric.column)),
            _ => MetricAt::Numbers {
                values: place(metric.column),
                missing: metric.missing,
                window: metric.window().map(place),
            },
        };
        let metrics = options.metrics.iter().map(wanted).collect();
        let keep = options.aggs.iter().any(|agg| agg.needs_values());
        let (time, key) = (place(time), key.map(place));
        let asked = Asked::of(match &options.who {
            Who::Devices(ids) => Some(ids),
            Who::Fleet { .. } => None,
        });
        Ok(Self { options, buckets, scan, time, key, metrics, keep, asked })
    }

    /// Why the answer would be too large; none where it is not.
    fn refusal(&self, found: &AllSeries) -> Option<QueryError> {
        let (series, buckets) = (found.count(), self.buckets.count());
        let rows = series.saturating_mul(buckets);
        if rows > MOST_ROWS {
            return Some(QueryError::Rows { series, buckets });
        }
        if found.kept > MOST_KEPT {
            return Some(QueryError::Percentiles);
        }
        let metrics = self.metrics.len();
        (rows.saturating_mul(metrics) > MOST_TALLIES).then_some(QueryError::Metrics { metrics, rows })
    }

    fn add(&self, batch: &RecordBatch, found: &mut AllSeries) {
        let times = batch.column(self.time).as_primitive::<TimestampMicrosecondType>();
        let runs = self.runs(batch, times, found);
        for run in &runs {
            found.bucket(run.slot).states += i64::try_from(run.rows.len()).unwrap_or(i64::MAX);
        }
        if self.keep {
            let kept = |values: usize, run: &Run| {
                let values = batch.column(values).slice(run.rows.start, run.rows.len());
                values.len() - values.null_count()
            };
            found.kept += self
                .metrics
                .iter()
                .map(|metric| match metric {
                    MetricAt::Numbers { values, .. } => runs.iter().map(|run| kept(*values, run)).sum::<usize>(),
                    MetricAt::Shares(_) => 0,
                })
                .sum::<usize>();
        }
        for (at, metric) in self.metrics.iter().enumerate() {
            match metric {
                MetricAt::Shares(texts) => add_texts(&Texts::of(batch.column(*texts)), &runs, at, found),
                MetricAt::Numbers { values, missing, window } => {
                    let windows = window.map(|at| batch.column(at).as_primitive::<Int64Type>());
                    let add = AddNumbers { times, windows, missing: *missing, keep: self.keep };
                    add.column(batch.column(*values), &runs, at, found);
                }
            }
        }
    }

    /// Cuts the rows that are asked about into runs. In a part the rows of a device follow each other by time, so
    /// that a run is seldom short, and series and bucket are looked up once for each.
    fn runs(&self, batch: &RecordBatch, times: &TimestampMicrosecondArray, found: &mut AllSeries) -> Vec<Run> {
        let keys = self.key.map(|at| Texts::of(batch.column(at)));
        let window = self.options.window.micros();
        let (mut runs, mut bucket, mut row) = (Vec::new(), 0, 0);
        while row < batch.num_rows() {
            let start = row;
            let key = keys.as_ref().map_or(Some(""), |keys| keys.get(row));
            if !self.is_asked(key) {
                row += 1;
                continue;
            }
            bucket = self.buckets.of(times.value(row), bucket);
            let range = self.buckets.range(bucket);
            let range = range.start.max(window.start)..range.end.min(window.end);
            let belongs = |row: usize| {
                times.is_valid(row)
                    && range.contains(&times.value(row))
                    && keys.as_ref().is_none_or(|keys| keys.get(row) == key)
            };
            if belongs(row) {
                row = (row + 1..batch.num_rows()).find(|&row| !belongs(row)).unwrap_or(batch.num_rows());
                let series = found.series(key.unwrap_or(NO_VALUE));
                runs.push(Run { rows: start..row, slot: found.slot(series, bucket, self.metrics.len()) });
            } else {
                row += 1;
            }
        }
        runs
    }

    fn is_asked(&self, key: Option<&str>) -> bool {
        key.map_or_else(|| self.asked.is_everybody(), |key| self.asked.holds(key))
    }

    fn answer(&self, all: AllSeries, names: &Names) -> Result<Answer, QueryError> {
        let options = self.options;
        let shares: Vec<Vec<String>> = (0..self.metrics.len()).map(|metric| all.values_of(metric)).collect();
        let mut columns = vec![AnswerColumn::start()];
        columns.extend(options.who.key_columns().into_iter().map(|name| AnswerColumn::key(&name)));
        columns.push(AnswerColumn::states());
        for (metric, shares) in options.metrics.iter().zip(&shares) {
            columns.extend(value_columns(metric, &options.aggs, shares));
        }
        let length = all.count() * self.buckets.count();
        if length.saturating_mul(columns.len()) > MOST_CELLS {
            return Err(QueryError::Cells { columns: columns.len(), rows: length });
        }
        let series = match &options.who {
            Who::Devices(ids) => {
                let places: HashMap<&str, usize> = ids.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
                all.sorted_by_key(|key| (places.get(key).copied(), String::new()))
            }
            Who::Fleet { .. } => all.sorted_by_key(|key| (None::<usize>, key.to_owned())),
        };
        let title = options.who.title(&series, names);
        let mut rows = Vec::new();
        for (series, mut own) in series {
            let keys = options.who.key_cells(&series.key, names);
            for bucket in 0..self.buckets.count() {
                let cells = own.get_mut(&bucket).map(|bucket| bucket.cells(&self.metrics, &options.aggs, &shares));
                let start = [Cell::from(self.buckets.start(bucket))].into_iter().chain(keys.clone());
                let row = start.chain(cells.unwrap_or_else(|| vec![Cell::Count(0)]));
                rows.push(row.chain(std::iter::repeat(Cell::Null)).take(columns.len()).collect());
            }
        }
        Ok(Answer { title, columns, rows })
    }
}

fn add_texts(texts: &Texts, runs: &[Run], metric: usize, found: &mut AllSeries) {
    for run in runs {
        let tally = &mut found.bucket(run.slot).metrics[metric];
        for (text, states) in texts.runs(run.rows.clone()) {
            text.into_iter().for_each(|text| tally.add_text(text, states));
        }
    }
}

/// How the numbers of a metric are taken in.
struct AddNumbers<'a> {
    times: &'a TimestampMicrosecondArray,
    /// How long each counts, in milliseconds.
    windows: Option<&'a Int64Array>,
    missing: Option<f64>,
    keep: bool,
}

impl AddNumbers<'_> {
    #[expect(clippy::cast_precision_loss, reason = "an aggregate is a double; beyond 2^53 it is rounded")]
    fn column(&self, values: &ArrayRef, runs: &[Run], metric: usize, found: &mut AllSeries) {
        match values.as_primitive_opt::<Int64Type>() {
            Some(values) => self.values(values, |value| value as f64, runs, metric, found),
            None => self.values(values.as_primitive::<Float64Type>(), |value| value, runs, metric, found),
        }
    }

    fn values<T: ArrowPrimitiveType>(
        &self,
        values: &PrimitiveArray<T>,
        number: impl Fn(T::Native) -> f64,
        runs: &[Run],
        metric: usize,
        found: &mut AllSeries,
    ) {
        for run in runs {
            let tally = &mut found.bucket(run.slot).metrics[metric].numbers;
            for row in run.rows.clone().filter(|&row| values.is_valid(row)) {
                let value = number(values.value(row));
                if Some(value) != self.missing {
                    tally.add(self.times.value(row), value, self.seconds(row), self.keep);
                }
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a window is shorter than 2^53 ms")]
    fn seconds(&self, row: usize) -> f64 {
        let windows = self.windows.filter(|windows| windows.is_valid(row));
        windows.map_or(0.0, |windows| windows.value(row) as f64 / 1_000.0)
    }
}

impl Who {
    fn key_columns(&self) -> Vec<String> {
        match self {
            Self::Devices(_) => vec!["device_id".to_owned(), "device_name".to_owned()],
            Self::Fleet { by } => by.iter().cloned().collect(),
        }
    }

    fn key_cells(&self, key: &str, names: &Names) -> Vec<Cell> {
        let key_cell = || Cell::Text(key.to_owned());
        match self {
            Self::Devices(_) => vec![key_cell(), names.get(key).cloned().into()],
            Self::Fleet { by: None } => Vec::new(),
            Self::Fleet { by: Some(_) } => vec![key_cell()],
        }
    }

    fn title<T>(&self, series: &[(Series, T)], names: &Names) -> String {
        match (self, series) {
            (Self::Devices(_), [(one, _)]) => {
                format!("{} ({})", names.get(&one.key).map_or("(no name)", String::as_str), one.key)
            }
            (Self::Devices(_), many) => format!("{} devices", many.len()),
            (Self::Fleet { by: None }, _) => "the fleet".to_owned(),
            (Self::Fleet { by: Some(by) }, _) => format!("the fleet by {by}"),
        }
    }
}

fn value_columns(metric: &Metric, aggs: &[Agg], shares: &[String]) -> Vec<AnswerColumn> {
    let unit = metric.unit.map_or("", |unit| unit.name());
    if metric.kind == MetricKind::Share {
        let column = |value| AnswerColumn::value(format!("{}={value}", metric.name), "share");
        return shares.iter().map(column).collect();
    }
    let column = |agg: &Agg| {
        let unit = match agg {
            Agg::Rate => format!("{unit}/s"),
            Agg::Count => "count".to_owned(),
            _ => unit.to_owned(),
        };
        let kind = if *agg == Agg::Count { Kind::Int64 } else { Kind::Float64 };
        AnswerColumn::value(format!("{}_{}", metric.name, agg.name()), &unit).of_kind(kind)
    };
    aggs.iter().map(column).collect()
}

/// The position of a column that devices can be grouped by.
fn label(schema: &Schema, name: &str) -> Result<usize, QueryError> {
    let found = schema.index_of(name).filter(|&at| matches!(schema.columns[at].kind, Kind::String | Kind::Boolean));
    found.ok_or_else(|| QueryError::Label { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::metrics;
    use super::*;
    use crate::clock;

    #[test]
    fn more_values_than_there_is_room_for_are_not_kept() {
        let time = |text| clock::parse_timestamp(text).expect("a time");
        let window = Window { since: time("2026-10-01T00:00:00Z"), until: time("2026-10-02T00:00:00Z") };
        let (who, every, zone) = (Who::Fleet { by: None }, Duration::from_hours(1), Zone::UTC);
        let metrics = metrics(&["cpu_pct".to_owned()]).expect("a metric");
        let options = TrendOptions { who, metrics, window, every, zone, aggs: vec![Agg::P95] };
        let buckets = Buckets::new(window, every, zone).expect("buckets");
        let schema = Schema::device_state();
        let question = Question::new(&schema, &options, &buckets).expect("columns");
        let (mut found, mut more) = (AllSeries::default(), AllSeries::default());
        (found.kept, more.kept) = (MOST_KEPT, 1);
        assert!(question.refusal(&found).is_none());
        found.merge(more);
        assert!(matches!(question.refusal(&found), Some(QueryError::Percentiles)));
    }
}
