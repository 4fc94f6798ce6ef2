//! Metrics of one device over time.

use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use chrono::NaiveDate;

use crate::archive::{Archive, Scan};
use crate::clock::{self, Timestamp};
use crate::schema::{Column, Kind, Role, Schema, Unit};

use super::{QueryError, column, each_batch};

/// The most buckets that a trend has.
pub(super) const MOST_BUCKETS: u64 = 100_000;

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
    /// The device's id.
    pub device_id: String,
    /// Which metrics.
    pub metrics: Vec<Metric>,
    /// Over which time.
    pub window: Window,
    /// Length of a bucket. Buckets begin at whole multiples of it since the Unix epoch.
    pub every: Duration,
    /// What is computed of the values in a bucket.
    pub aggs: Vec<Agg>,
}

/// A column that holds numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Name of the column.
    pub name: String,
    /// Its unit.
    pub unit: Option<Unit>,
    /// The value that stands for none.
    pub missing: Option<f64>,
    column: usize,
}

/// What is computed of the values in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agg {
    /// The arithmetic mean.
    Mean,
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Trend {
    /// The device's id.
    pub device_id: String,
    /// The device's last name in the window.
    pub device_name: Option<String>,
    /// The metrics, as they were asked for.
    pub metrics: Vec<Metric>,
    /// The aggregates, as they were asked for.
    pub aggs: Vec<Agg>,
    /// Every bucket of the window, also those without a state.
    pub points: Vec<Point>,
}

/// One bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// When it begins.
    pub start: Timestamp,
    /// Device states in it.
    pub states: u64,
    /// Metric by metric, the aggregates in their order. None where no state has a value: a gap is no
    /// zero.
    pub values: Vec<Option<f64>>,
}

impl Window {
    /// Whether any of a day lies in it.
    #[must_use]
    pub fn touches(&self, date: NaiveDate) -> bool {
        // The end is not part of it: a window that ends at midnight does not touch the day after.
        let last = self.until - chrono::TimeDelta::microseconds(1);
        (self.since.date_naive()..=last.date_naive()).contains(&date)
    }
}

impl Agg {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}

/// The metrics of these names.
///
/// # Errors
/// Says which is none, and which may have been meant.
pub fn metrics(names: &[String]) -> Result<Vec<Metric>, QueryError> {
    let schema = Schema::device_state();
    let find = |name: &String| {
        let column = schema.index_of(name).filter(|&at| is_metric(&schema, at));
        let unknown = || QueryError::Metric { name: name.clone(), near: near(&schema, name) };
        let column = column.ok_or_else(unknown)?;
        let Column { unit, missing, .. } = schema.columns[column];
        Ok(Metric { name: name.clone(), unit, missing, column })
    };
    names.iter().map(find).collect()
}

/// Aggregates metrics of one device over time.
///
/// # Errors
/// Where the window has no length or too many buckets, no state of the device lies in it, or the archive
/// cannot be read.
pub fn trend(archive: &Archive, options: &TrendOptions) -> Result<Trend, QueryError> {
    let mut buckets = Buckets::new(options)?;
    let schema = Schema::device_state();
    let reading = Reading::new(&schema, options);
    each_batch(archive, options.window, &reading.scan, &mut |batch| reading.add(batch, options, &mut buckets))?;
    let trend = buckets.into_trend(options);
    if trend.points.iter().all(|point| point.states == 0) {
        return Err(QueryError::NoDevice { device: options.device_id.clone(), window: options.window });
    }
    Ok(trend)
}

fn is_metric(schema: &Schema, at: usize) -> bool {
    let column = &schema.columns[at];
    matches!(column.kind, Kind::Int64 | Kind::Float64) && column.role != Role::Provenance
}

/// Metrics whose name holds the text, or is held by it.
fn near(schema: &Schema, text: &str) -> Vec<String> {
    let text = text.to_lowercase().replace('-', "_");
    let names = (0..schema.columns.len()).filter(|&at| is_metric(schema, at)).map(|at| &schema.columns[at].name);
    names.filter(|name| text.len() > 1 && (name.contains(&text) || text.contains(*name))).take(5).cloned().collect()
}

/// Where the wanted columns stand in the batches of a scan.
struct Reading {
    scan: Scan,
    device: usize,
    name: usize,
    time: usize,
    metrics: Vec<usize>,
}

impl Reading {
    fn new(schema: &Schema, options: &TrendOptions) -> Self {
        let at = |name| column(schema, name);
        let (device, name, time) = (at("device_id"), at("device_name"), at("timestamp"));
        let metrics = options.metrics.iter().map(|metric| metric.column);
        let scan = Scan {
            columns: metrics.clone().chain([device, name, time]).collect(),
            any_of: Some((device, vec![options.device_id.clone()])),
        };
        let place = |column| scan.columns.iter().position(|&at| at == column).expect("the column is in the scan");
        let (device, name, time) = (place(device), place(name), place(time));
        Self { device, name, time, metrics: metrics.map(place).collect(), scan }
    }

    fn add(&self, batch: &RecordBatch, options: &TrendOptions, buckets: &mut Buckets) {
        let devices = batch.column(self.device).as_string::<i32>();
        let names = batch.column(self.name).as_string::<i32>();
        let times = batch.column(self.time).as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            if devices.value(row) != options.device_id || times.is_null(row) {
                continue;
            }
            let name = names.is_valid(row).then(|| names.value(row));
            let Some(bucket) = buckets.find(times.value(row), name) else { continue };
            for ((tally, &column), metric) in bucket.tallies.iter_mut().zip(&self.metrics).zip(&options.metrics) {
                number(batch.column(column), row)
                    .filter(|value| Some(*value) != metric.missing)
                    .into_iter()
                    .for_each(|value| tally.add(value));
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an aggregate is a double; beyond 2^53 it is rounded")]
fn number(column: &dyn Array, row: usize) -> Option<f64> {
    if column.is_null(row) {
        return None;
    }
    match column.as_primitive_opt::<Int64Type>() {
        Some(numbers) => Some(numbers.value(row) as f64),
        None => Some(column.as_primitive::<Float64Type>().value(row)),
    }
}

/// The buckets of a window, filled row by row.
struct Buckets {
    since: i64,
    until: i64,
    first: i64,
    every: i64,
    list: Vec<Bucket>,
    name: Option<(i64, String)>,
}

#[derive(Clone)]
struct Bucket {
    states: u64,
    tallies: Vec<Tally>,
}

/// What is known of the values of one metric in one bucket.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: u32,
    sum: f64,
    min: f64,
    max: f64,
}

impl Buckets {
    fn new(options: &TrendOptions) -> Result<Self, QueryError> {
        let (since, until) = (options.window.since.timestamp_micros(), options.window.until.timestamp_micros());
        let every = i64::try_from(options.every.as_micros()).unwrap_or(i64::MAX).max(1);
        if until <= since {
            return Err(QueryError::EmptyWindow(options.window));
        }
        let first = since.div_euclid(every);
        let count = (until - 1).div_euclid(every).abs_diff(first) + 1;
        if count > MOST_BUCKETS {
            return Err(QueryError::Buckets { buckets: count });
        }
        let bucket = Bucket { states: 0, tallies: vec![Tally::default(); options.metrics.len()] };
        let list = (0..count).map(|_| bucket.clone()).collect();
        Ok(Self { since, until, first, every, list, name: None })
    }

    /// The bucket of a state at a time, which is counted there.
    fn find(&mut self, micros: i64, name: Option<&str>) -> Option<&mut Bucket> {
        if !(self.since..self.until).contains(&micros) {
            return None;
        }
        if let Some(name) = name
            && self.name.as_ref().is_none_or(|(at, _)| *at <= micros)
        {
            self.name = Some((micros, name.to_owned()));
        }
        let index = micros.div_euclid(self.every) - self.first;
        let bucket = self.list.get_mut(usize::try_from(index).ok()?)?;
        bucket.states += 1;
        Some(bucket)
    }

    fn into_trend(self, options: &TrendOptions) -> Trend {
        let start = |index: i64| clock::from_micros((self.first + index) * self.every).unwrap_or(options.window.since);
        let points = self.list.iter().zip(0..).map(|(bucket, index)| Point {
            start: start(index),
            states: bucket.states,
            values: bucket.tallies.iter().flat_map(|tally| options.aggs.iter().map(|agg| tally.get(*agg))).collect(),
        });
        Trend {
            device_id: options.device_id.clone(),
            points: points.collect(),
            device_name: self.name.map(|(_, name)| name),
            metrics: options.metrics.clone(),
            aggs: options.aggs.clone(),
        }
    }
}

impl Tally {
    fn add(&mut self, value: f64) {
        (self.min, self.max) = match self.count {
            0 => (value, value),
            _ => (self.min.min(value), self.max.max(value)),
        };
        self.count += 1;
        self.sum += value;
    }

    fn get(&self, agg: Agg) -> Option<f64> {
        (self.count > 0).then(|| match agg {
            Agg::Mean => self.sum / f64::from(self.count),
            Agg::Min => self.min,
            Agg::Max => self.max,
        })
    }
}
