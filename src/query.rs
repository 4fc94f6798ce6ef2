//! Answers to everyday questions, from the files alone.
//!
//! [`trend()`] aggregates metrics over time, of devices or of the fleet; [`latest()`] gives the newest states,
//! [`changes()`] what became different from one to the next, [`apps()`] the applications that use most, [`gaps()`]
//! where there are no states, and why. Each reads the days of its window side by side, and of these only the row groups
//! and the columns that it needs. Nothing here prints.

mod answer;
mod apps;
mod changes;
mod device;
mod drift;
mod gaps;
mod latest;
mod metric;
mod newest;
mod scan;
mod searched;
mod series;
mod side_by_side;
mod sum;
mod sweeps;
mod tally;
mod texts;
mod trend;
mod wanted;
mod window;

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

use crate::archive::{ArchiveError, Scan};
use crate::clock::{self, Timestamp};
use crate::schema::Schema;

pub use answer::{Answer, AnswerColumn, Cell, ColumnRole};
pub use apps::{AppsOptions, apps};
pub use changes::{Change, Changes, ChangesOptions, changes};
pub use device::{Named, Shared, TimesSeen, devices_seen, last_seen, resolve_devices, shared, times_seen};
pub use drift::{Unexpected, drift, unexpected};
pub use gaps::{
    Cause, Coverage, DeviceGaps, Gap, Gaps, GapsOptions, Hole, KNOWN_BEFORE, MOST_MISSED, Missed, coverage, each_gap,
    gaps, holes, whole_intervals,
};
pub use latest::latest;
pub use metric::{Metric, MetricKind, is_pattern, metric_groups, metrics};
pub use newest::newest_names;
pub use scan::Days;
pub use searched::Searched;
pub use sweeps::{SweepSummary, first_sweeps, last_sweeps, outages};
pub use tally::Agg;
pub use trend::{TrendOptions, Who, trend};
pub use wanted::StateOptions;
pub use window::Window;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There is no such metric.
    #[error("{name:?} is no metric{}: `dex-archive schema` lists them", suggestion(.near))]
    Metric {
        /// What was asked for.
        name: String,
        /// What may have been meant.
        near: Vec<String>,
    },
    /// There is no such column.
    #[error("{name:?} is no column that can be shown{}: `dex-archive schema` lists them", suggestion(.near))]
    Column {
        /// What was asked for.
        name: String,
        /// What may have been meant.
        near: Vec<String>,
    },
    /// Applications use no such thing.
    #[error("what applications use is known of {known}, and not of {name:?}", known = .known.join(" and "))]
    Resource {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// None of the metrics is a count within a window.
    #[error("rates exist only for counts within a window: ask for metrics such as tunnel_stats_*, or another --agg")]
    NoRate,
    /// There would be more intervals to look at than there is room for.
    #[error("{devices} or more devices in {intervals} intervals each are too many (at most {most} in all): use a longer --every or a shorter window, or name devices", most = gaps::MOST_INTERVALS)]
    Intervals {
        /// How many devices there are.
        devices: usize,
        /// How many intervals each of them has.
        intervals: usize,
    },
    /// The answer would be longer than anybody reads.
    #[error(
        "there are more {what} than anybody reads (at most {most}): ask for a shorter window, or for fewer devices"
    )]
    Long {
        /// Of what.
        what: &'static str,
        /// How much can be.
        most: usize,
    },
    /// Devices cannot be grouped by that.
    #[error("the fleet cannot be grouped by {name:?}: name a column of text, such as platform, version or colo")]
    Label {
        /// What was asked for.
        name: String,
    },
    /// No device of that name has a state in the window.
    #[error("no device {device:?} between {}", window_words(.window))]
    NoDevice {
        /// What was asked for.
        device: String,
        /// Where it was looked for.
        window: Window,
    },
    /// The device has states, but none in the window.
    #[error("{device:?} has no state between {}: its last one is of {}", window_words(.window), clock::format_timestamp(*.last))]
    NotInWindow {
        /// What was asked for.
        device: String,
        /// Where it was looked for.
        window: Window,
        /// When its last one is of.
        last: Timestamp,
    },
    /// There is no state in the window.
    #[error("no {} between {}", who_words(.who), window_words(.window))]
    NoState {
        /// Of whom.
        who: Who,
        /// Where it was looked for.
        window: Window,
    },
    /// There is neither a state nor a request in the window.
    #[error("neither a state nor a request between {}: an interval counts once it is over", window_words(.0))]
    NothingExpected(Window),
    /// No interval of the window is over.
    #[error("no whole interval of {} is over yet in that window: nobody can say of it that a state is missing", clock::format_duration(*.0))]
    NoneEnded(std::time::Duration),
    /// Several devices have the name.
    #[error("several devices are meant by {name:?}: name one by its id, {}", candidates(.devices, *.more))]
    Ambiguous {
        /// The name.
        name: String,
        /// Their ids, and when each was seen last.
        devices: Vec<(String, Timestamp)>,
        /// How many there are besides.
        more: usize,
    },
    /// The window has no length.
    #[error("{}", empty_words(.0))]
    EmptyWindow(Window),
    /// Buckets of this length do not fit a time zone.
    #[error(
        "in a time zone a bucket must be whole days or an even part of a day, such as 15m, 1h or 6h: change --every, or leave out --tz"
    )]
    ZoneBuckets,
    /// There would be too many rows: series times buckets.
    #[error("{series} or more devices or groups in {buckets} buckets each are too many (at most {most} in all): use a longer --every, a shorter window, or a --by of fewer values", most = trend::MOST_ROWS)]
    Rows {
        /// How many devices or groups there are.
        series: usize,
        /// How many buckets each of them would have.
        buckets: usize,
    },
    /// More would have to be added up than there is room for.
    #[error("{metrics} metrics in {rows} or more rows are too many (at most {most} together): ask for fewer metrics, or use a longer --every or a shorter window", most = trend::MOST_TALLIES)]
    Metrics {
        /// How many are asked for.
        metrics: usize,
        /// In how many rows.
        rows: usize,
    },
    /// Percentiles would keep more values than there is room for.
    #[error(
        "percentiles keep every value, and there are more than {} of them: ask for fewer metrics or a shorter window, or for mean, min and max",
        trend::MOST_KEPT
    )]
    Percentiles,
    /// The answer would be larger than there is room for.
    #[error("{columns} columns in {rows} rows are too many (at most {most} values): a text has a column for each value it has, so ask for others, or use a longer --every or a shorter window", most = trend::MOST_CELLS)]
    Cells {
        /// How many columns it would have.
        columns: usize,
        /// How many rows.
        rows: usize,
    },
    /// There would be more buckets than anybody reads.
    #[error("{buckets} buckets are too many (at most {most}): use a longer --every or a shorter window", most = window::MOST_BUCKETS)]
    Buckets {
        /// How many there would be.
        buckets: u64,
    },
}

impl QueryError {
    /// Whether it says that there is nothing to expect in a window: no interval of it is over, or nobody was there.
    #[must_use]
    pub fn is_nothing_expected(&self) -> bool {
        matches!(self, Self::NothingExpected(_) | Self::NoneEnded(_))
    }
}

/// The position of a column that answers rely on.
fn column(schema: &Schema, name: &str) -> usize {
    schema.index_of(name).expect("the table has the columns that devices are known by")
}

/// A column of texts in a batch of a scan that asked for it.
fn texts<'a>(batch: &'a RecordBatch, name: &str) -> &'a StringArray {
    batch.column_by_name(name).expect("the scan has it").as_string()
}

/// A column of times in a batch of a scan that asked for it.
fn times<'a>(batch: &'a RecordBatch, name: &str) -> &'a TimestampMicrosecondArray {
    batch.column_by_name(name).expect("the scan has it").as_primitive::<TimestampMicrosecondType>()
}

/// A column of whole numbers in a batch of a scan that asked for it.
fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> &'a Int64Array {
    batch.column_by_name(name).expect("the scan has it").as_primitive::<Int64Type>()
}

/// The time that a cell of a column of times says: within the years that there are.
fn moment(micros: i64) -> Timestamp {
    clock::from_micros(micros).unwrap_or_default()
}

/// The columns that say which registration of a device reported a state.
fn registrations(schema: &Schema) -> [usize; 2] {
    schema.stand_in.expect("states of a device have registrations").into()
}

/// The devices that are asked about: all where none is named.
struct Asked<'a>(Option<HashSet<&'a str>>);

impl<'a> Asked<'a> {
    fn of(devices: Option<&'a [String]>) -> Self {
        Self(devices.map(|devices| devices.iter().map(String::as_str).collect()))
    }

    fn is_everybody(&self) -> bool {
        self.0.is_none()
    }

    fn holds(&self, id: &str) -> bool {
        self.0.as_ref().is_none_or(|ids| ids.contains(id))
    }
}

/// What is read to answer about some devices, or all: these columns.
fn scan_of(schema: &Schema, devices: Option<&[String]>, columns: impl IntoIterator<Item = usize>) -> Scan {
    let any_of = devices.map(|ids| (column(schema, "device_id"), ids.to_vec()));
    Scan { columns: columns.into_iter().collect(), any_of, ..Scan::default() }
}

/// That there is no state of those who are asked about.
fn no_state(devices: Option<&[String]>, window: Window) -> QueryError {
    let who = devices.map_or(Who::Fleet { by: None }, |devices| Who::Devices(devices.to_vec()));
    QueryError::NoState { who, window }
}

/// The value of a row.
fn cell(column: &ArrayRef, row: usize) -> Cell {
    if column.is_null(row) {
        return Cell::Null;
    }
    if let Some(texts) = column.as_string_opt::<i32>() {
        return Cell::Text(texts.value(row).to_owned());
    }
    if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
        return Cell::Count(numbers.value(row));
    }
    if let Some(numbers) = column.as_primitive_opt::<Float64Type>() {
        // What is no number, another tool wrote.
        let number = Some(numbers.value(row)).filter(|number| number.is_finite());
        return number.map_or(Cell::Null, Cell::Number);
    }
    if let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() {
        return Cell::from(clock::from_micros(times.value(row)));
    }
    column.as_boolean_opt().map_or(Cell::Null, |flags| Cell::Flag(flags.value(row)))
}

fn suggestion(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(", did you mean {}", near.join(", ")) }
}

fn who_words(who: &Who) -> String {
    match who {
        Who::Devices(ids) => format!("device {:?}", ids.join(", ")),
        Who::Fleet { .. } => "states".to_owned(),
    }
}

/// Devices to choose from. Their ids are as somebody sent them.
fn candidates(devices: &[(String, Timestamp)], more: usize) -> String {
    let device = |(id, at): &(String, Timestamp)| format!("{id:?} (last seen {})", clock::format_timestamp(*at));
    let devices = devices.iter().map(device).collect::<Vec<_>>().join(", ");
    if more == 0 { devices } else { format!("{devices} and {more} more") }
}

/// Why a window has no length.
fn empty_words(window: &Window) -> String {
    let (since, until) = (clock::format_timestamp(window.since), clock::format_timestamp(window.until));
    if since == until {
        return format!("the window ends as it begins, {since}: a whole day ends when the next one begins");
    }
    format!("the window ends ({until}) before it begins ({since})")
}

fn window_words(window: &Window) -> String {
    format!("{} and {}", clock::format_timestamp(window.since), clock::format_timestamp(window.until))
}
