//! Metrics over time: of devices, or of the fleet as one or by groups.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use chrono::NaiveDate;

use crate::archive::{Archive, Scan};
use crate::clock::{self, Timestamp};
use crate::schema::{Kind, Schema};

use super::answer::{Answer, AnswerColumn, Cell};
use super::metric::{Metric, MetricKind};
use super::tally::{Agg, Tally};
use super::{QueryError, column, scan};

/// The most buckets that a trend has.
pub(super) const MOST_BUCKETS: u64 = 100_000;

/// Stands for a group whose states have no value.
const NO_VALUE: &str = "(none)";

/// A stretch of time: from `since` on, up to and without `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its first moment.
    pub since: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct TrendOptions {
    /// Of whom.
    pub who: Who,
    /// Which metrics.
    pub metrics: Vec<Metric>,
    /// Over which time.
    pub window: Window,
    /// Length of a bucket. Buckets begin at whole multiples of it since the Unix epoch.
    pub every: Duration,
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

impl Window {
    /// Whether any of a day lies in it.
    #[must_use]
    pub fn touches(&self, date: NaiveDate) -> bool {
        // The end is not part of it: a window that ends at midnight does not touch the day after.
        let last = self.until - chrono::TimeDelta::microseconds(1);
        (self.since.date_naive()..=last.date_naive()).contains(&date)
    }

    pub(super) fn holds(&self, micros: i64) -> bool {
        (self.since.timestamp_micros()..self.until.timestamp_micros()).contains(&micros)
    }

    pub(super) fn check(&self) -> Result<(), QueryError> {
        if self.until <= self.since { Err(QueryError::EmptyWindow(*self)) } else { Ok(()) }
    }
}

/// Aggregates metrics over time: a row for each bucket of each device or group, also where there is no state.
///
/// # Errors
/// Where the window has no length or too many buckets, there is no such column or no state in the window, or
/// the archive cannot be read.
pub fn trend(archive: &Archive, options: &TrendOptions) -> Result<Answer, QueryError> {
    let schema = Schema::device_state();
    let buckets = Buckets::new(options)?;
    let reading = Reading::new(&schema, options)?;
    let mut all = Partial::default();
    let add = |found: &mut Partial, batch: &RecordBatch| reading.add(batch, options, &buckets, found);
    scan::fold(archive, &schema, options.window, &reading.scan, Partial::default, add, |found| all.merge(found))?;
    if all.series.is_empty() {
        return Err(QueryError::NoState { who: options.who.clone(), window: options.window });
    }
    Ok(all.answer(options, &buckets))
}

/// Where the buckets of a window lie.
struct Buckets {
    first: i64,
    count: i64,
    every: i64,
}

impl Buckets {
    fn new(options: &TrendOptions) -> Result<Self, QueryError> {
        options.window.check()?;
        let (since, until) = (options.window.since.timestamp_micros(), options.window.until.timestamp_micros());
        let every = i64::try_from(options.every.as_micros()).unwrap_or(i64::MAX).max(1);
        let first = since.div_euclid(every);
        let count = (until - 1).div_euclid(every) - first + 1;
        if count.unsigned_abs() > MOST_BUCKETS {
            return Err(QueryError::Buckets { buckets: count.unsigned_abs() });
        }
        Ok(Self { first, count, every })
    }

    fn of(&self, micros: i64) -> i64 {
        micros.div_euclid(self.every) - self.first
    }

    fn start(&self, bucket: i64) -> Cell {
        Cell::from(clock::from_micros((self.first + bucket) * self.every))
    }
}

/// Where the wanted columns stand in the batches of a scan.
struct Reading {
    scan: Scan,
    series: Option<usize>,
    name: usize,
    time: usize,
    /// For each metric its values, and the lengths of their windows.
    metrics: Vec<(usize, Option<usize>)>,
    keep: bool,
}

impl Reading {
    fn new(schema: &Schema, options: &TrendOptions) -> Result<Self, QueryError> {
        let at = |name| column(schema, name);
        let (device, name, time) = (at("device_id"), at("device_name"), at("timestamp"));
        let (series, any_of) = match &options.who {
            Who::Devices(ids) => (Some(device), Some((device, ids.clone()))),
            Who::Fleet { by: None } => (None, None),
            Who::Fleet { by: Some(by) } => (Some(label(schema, by)?), None),
        };
        let window = |metric: &Metric| match metric.kind {
            MetricKind::PerWindow { window } => Some(window),
            _ => None,
        };
        let metrics = options.metrics.iter().flat_map(|metric| [Some(metric.column), window(metric)]).flatten();
        let columns = metrics.chain([name, time]).chain(series).collect();
        let scan = Scan { columns, any_of };
        let place = |column| scan.columns.iter().position(|&at| at == column).expect("the column is in the scan");
        let metrics = options.metrics.iter().map(|metric| (place(metric.column), window(metric).map(place))).collect();
        let keep = options.aggs.iter().any(|agg| agg.needs_values());
        Ok(Self { series: series.map(place), name: place(name), time: place(time), metrics, keep, scan })
    }

    fn add(&self, batch: &RecordBatch, options: &TrendOptions, buckets: &Buckets, found: &mut Partial) {
        let times = batch.column(self.time).as_primitive::<TimestampMicrosecondType>();
        let names = batch.column(self.name).as_string::<i32>();
        let series = self.series.map(|at| batch.column(at));
        let wanted = match &options.who {
            Who::Devices(ids) => Some(ids),
            Who::Fleet { .. } => None,
        };
        for row in 0..batch.num_rows() {
            if times.is_null(row) || !options.window.holds(times.value(row)) {
                continue;
            }
            let key = series.map_or(String::new(), |column| text(column, row).unwrap_or_else(|| NO_VALUE.to_owned()));
            if wanted.is_some_and(|ids| !ids.contains(&key)) {
                continue;
            }
            let micros = times.value(row);
            let series = found.series(key);
            if names.is_valid(row) {
                series.see_name(micros, names.value(row));
            }
            let bucket = series.bucket(buckets.of(micros), options.metrics.len());
            bucket.states += 1;
            for ((metric, tally), (values, window)) in
                options.metrics.iter().zip(&mut bucket.metrics).zip(&self.metrics)
            {
                let values = batch.column(*values);
                if metric.kind == MetricKind::Share {
                    text(values, row).into_iter().for_each(|value| *tally.shares.entry(value).or_default() += 1);
                } else if let Some(value) = number(values, row).filter(|value| Some(*value) != metric.missing) {
                    let seconds = window.and_then(|window| number(batch.column(window), row)).map(|ms| ms / 1_000.0);
                    tally.numbers.add(micros, value, seconds, self.keep);
                }
            }
        }
    }
}

/// What some days say.
#[derive(Default)]
struct Partial {
    series: Vec<Series>,
    by_key: HashMap<String, usize>,
}

/// One device or group.
struct Series {
    key: String,
    /// The latest name, and when it was seen.
    name: Option<(i64, String)>,
    buckets: BTreeMap<i64, Bucket>,
}

#[derive(Default)]
struct Bucket {
    states: i64,
    metrics: Vec<MetricTally>,
}

/// What is known of one metric in one bucket.
#[derive(Default, Clone)]
struct MetricTally {
    numbers: Tally,
    shares: BTreeMap<String, u64>,
}

impl Partial {
    fn series(&mut self, key: String) -> &mut Series {
        let at = match self.by_key.get(&key) {
            Some(at) => *at,
            None => {
                self.by_key.insert(key.clone(), self.series.len());
                self.series.push(Series { key, name: None, buckets: BTreeMap::new() });
                self.series.len() - 1
            }
        };
        &mut self.series[at]
    }

    fn merge(&mut self, other: Self) {
        for theirs in other.series {
            let ours = self.series(theirs.key);
            theirs.name.into_iter().for_each(|(at, name)| ours.see_name(at, &name));
            for (at, bucket) in theirs.buckets {
                let same = ours.bucket(at, bucket.metrics.len());
                same.states += bucket.states;
                for (ours, theirs) in same.metrics.iter_mut().zip(bucket.metrics) {
                    ours.numbers.merge(theirs.numbers);
                    theirs
                        .shares
                        .into_iter()
                        .for_each(|(value, count)| *ours.shares.entry(value).or_default() += count);
                }
            }
        }
    }

    fn answer(mut self, options: &TrendOptions, buckets: &Buckets) -> Answer {
        let shares: Vec<Vec<String>> = (0..options.metrics.len()).map(|metric| self.values_of(metric)).collect();
        let mut columns = vec![AnswerColumn::key("start")];
        columns.extend(options.who.key_columns().into_iter().map(|name| AnswerColumn::key(&name)));
        columns.push(AnswerColumn::key("states"));
        for (metric, shares) in options.metrics.iter().zip(&shares) {
            columns.extend(value_columns(metric, &options.aggs, shares));
        }
        match &options.who {
            Who::Devices(ids) => self.series.sort_by_key(|series| ids.iter().position(|id| *id == series.key)),
            Who::Fleet { .. } => self.series.sort_by(|a, b| a.key.cmp(&b.key)),
        }
        let title = self.title(options);
        let mut rows = Vec::new();
        for series in &mut self.series {
            let keys = series.key_cells(&options.who);
            let width = columns.len();
            for bucket in 0..buckets.count {
                let cells = series.buckets.get_mut(&bucket).map(|bucket| bucket.cells(options, &shares));
                let start = [buckets.start(bucket)].into_iter().chain(keys.clone());
                let row = start.chain(cells.unwrap_or_else(|| vec![Cell::Count(0)]));
                rows.push(row.chain(std::iter::repeat(Cell::Null)).take(width).collect());
            }
        }
        Answer { title, columns, rows }
    }

    fn title(&self, options: &TrendOptions) -> String {
        match (&options.who, &self.series[..]) {
            (Who::Devices(_), [one]) => {
                let name = one.name.as_ref().map_or("(no name)", |(_, name)| name);
                format!("{name} ({})", one.key)
            }
            (Who::Devices(_), many) => format!("{} devices", many.len()),
            (Who::Fleet { by: None }, _) => "the fleet".to_owned(),
            (Who::Fleet { by: Some(by) }, _) => format!("the fleet by {by}"),
        }
    }

    /// The texts that a metric has in any bucket.
    fn values_of(&self, metric: usize) -> Vec<String> {
        let buckets = self.series.iter().flat_map(|series| series.buckets.values());
        let mut values: Vec<String> =
            buckets.flat_map(|bucket| bucket.metrics[metric].shares.keys().cloned()).collect();
        values.sort_unstable();
        values.dedup();
        values
    }
}

impl Series {
    fn see_name(&mut self, micros: i64, name: &str) {
        match &mut self.name {
            Some((at, _)) if *at > micros => (),
            Some((at, known)) if known == name => *at = micros,
            _ => self.name = Some((micros, name.to_owned())),
        }
    }

    fn bucket(&mut self, at: i64, metrics: usize) -> &mut Bucket {
        let new = || Bucket { states: 0, metrics: vec![MetricTally::default(); metrics] };
        self.buckets.entry(at).or_insert_with(new)
    }

    fn key_cells(&self, who: &Who) -> Vec<Cell> {
        let name = || Cell::from(self.name.as_ref().map(|(_, name)| name.clone()));
        match who {
            Who::Devices(_) => vec![Cell::Text(self.key.clone()), name()],
            Who::Fleet { by: None } => Vec::new(),
            Who::Fleet { by: Some(_) } => vec![Cell::Text(self.key.clone())],
        }
    }
}

impl Bucket {
    fn cells(&mut self, options: &TrendOptions, shares: &[Vec<String>]) -> Vec<Cell> {
        let mut cells = vec![Cell::Count(self.states)];
        for ((metric, tally), shares) in options.metrics.iter().zip(&mut self.metrics).zip(shares) {
            match metric.kind {
                MetricKind::Share => cells.extend(tally.share_cells(shares)),
                _ => cells.extend(options.aggs.iter().map(|agg| tally.numbers.get(*agg).into())),
            }
        }
        cells
    }
}

impl MetricTally {
    #[expect(clippy::cast_precision_loss, reason = "a share of fewer than 2^53 states")]
    fn share_cells(&self, values: &[String]) -> Vec<Cell> {
        let all = self.shares.values().sum::<u64>();
        let share = |value: &String| self.shares.get(value).copied().unwrap_or(0) as f64 / all as f64;
        values.iter().map(|value| if all == 0 { Cell::Null } else { Cell::Number(share(value)) }).collect()
    }
}

impl Who {
    fn key_columns(&self) -> Vec<String> {
        match self {
            Self::Devices(_) => vec!["device_id".to_owned(), "device_name".to_owned()],
            Self::Fleet { by } => by.iter().cloned().collect(),
        }
    }
}

fn value_columns(metric: &Metric, aggs: &[Agg], shares: &[String]) -> Vec<AnswerColumn> {
    let unit = metric.unit.map_or("", |unit| unit.name());
    match metric.kind {
        MetricKind::Share => {
            shares.iter().map(|value| AnswerColumn::value(format!("{}={value}", metric.name), "share")).collect()
        }
        _ => {
            let of = |agg: &Agg| {
                let unit = match agg {
                    Agg::Rate => format!("{unit}/s"),
                    Agg::Count => "count".to_owned(),
                    _ => unit.to_owned(),
                };
                AnswerColumn::value(format!("{}_{}", metric.name, agg.name()), &unit)
            };
            aggs.iter().map(of).collect()
        }
    }
}

/// The position of a column that devices can be grouped by.
fn label(schema: &Schema, name: &str) -> Result<usize, QueryError> {
    let found = schema.index_of(name).filter(|&at| matches!(schema.columns[at].kind, Kind::String | Kind::Boolean));
    found.ok_or_else(|| QueryError::Label { name: name.to_owned() })
}

fn text(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    match column.as_string_opt::<i32>() {
        Some(texts) => Some(texts.value(row).to_owned()),
        None => column.as_boolean_opt().map(|flags| flags.value(row).to_string()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "an aggregate is a double; beyond 2^53 it is rounded")]
fn number(column: &ArrayRef, row: usize) -> Option<f64> {
    if column.is_null(row) {
        return None;
    }
    match column.as_primitive_opt::<Int64Type>() {
        Some(numbers) => Some(numbers.value(row) as f64),
        None => Some(column.as_primitive::<Float64Type>().value(row)),
    }
}
