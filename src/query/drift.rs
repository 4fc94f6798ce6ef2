//! What states held that the schema does not expect: the paths of `unmapped`, over time and devices.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{Array, RecordBatch};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::archive::Scan;
use crate::clock;
use crate::schema::{Schema, without_positions};

use super::answer::{Answer, AnswerColumn, Cell};
use super::scan::Days;
use super::window::Window;
use super::{QueryError, texts, times};

/// Letters of an example at most.
const LONGEST_EXAMPLE: usize = 60;

/// Paths at most.
const MOST_PATHS: usize = 100_000;

/// Each path that the schema does not expect: of which types its values are, when it was first and last seen, in how
/// many states and devices, which share of the devices that is, and an example, as it was sent. Positions in a list are
/// left out of a path.
///
/// # Errors
/// Where the window has no length, there are more paths than anybody reads, or the archive cannot be read.
pub fn drift(days: &Days, window: Window) -> Result<Answer, QueryError> {
    window.check()?;
    let schema = Schema::device_state();
    let (scan, name) = scan(&schema, &["device_id", "timestamp", "collected_at"]);
    let mut all = Found::default();
    let add = |found: &mut Found, batch: &RecordBatch| found.add(batch, name, window);
    days.fold_all(&schema, window, &scan, Found::default, add, |found| all.merge(found))?;
    if all.is_long {
        return Err(QueryError::Long { what: "paths", most: MOST_PATHS });
    }
    let devices = all.devices.len();
    let rows = all.paths.into_iter().map(|(path, seen)| seen.row(path, devices)).collect();
    let keys = ["path", "types", "first", "last"].map(AnswerColumn::key);
    let counts = [("states", ""), ("devices", ""), ("devices_share", "share"), ("example", "")]
        .map(|(name, unit)| AnswerColumn::value(name.to_owned(), unit));
    let title = format!("what the schema does not expect, in states of {devices} devices");
    Ok(Answer { title, columns: keys.into_iter().chain(counts).collect(), rows })
}

/// How much of a window's states the schema does not expect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unexpected {
    /// States in all.
    pub states: u64,
    /// Those that hold something that no column has.
    pub unmapped: u64,
    /// Those without a time that can be read: they are filed by when they were collected, each time anew.
    pub timeless: u64,
}

/// How much of the states of a window the schema does not expect.
///
/// # Errors
/// Where the window has no length, or the archive cannot be read.
pub fn unexpected(days: &Days, window: Window) -> Result<Unexpected, QueryError> {
    window.check()?;
    let schema = Schema::device_state();
    let (scan, name) = scan(&schema, &["timestamp", "collected_at"]);
    let mut all = Unexpected::default();
    let add = |found: &mut Unexpected, batch: &RecordBatch| found.add(batch, name, window);
    days.fold_all(&schema, window, &scan, Unexpected::default, add, |found| {
        all.states += found.states;
        all.unmapped += found.unmapped;
        all.timeless += found.timeless;
    })?;
    Ok(all)
}

/// A scan of these columns and of the one that keeps what no other has, and the name of that one.
fn scan<'a>(schema: &'a Schema, names: &[&str]) -> (Scan, &'a str) {
    let unmapped = schema.unmapped().expect("the table has the column");
    let columns = names.iter().map(|name| super::column(schema, name)).chain([unmapped]).collect();
    (Scan { columns, ..Scan::default() }, &schema.columns[unmapped].name)
}

/// When each state of a batch is of, if that is in a window: where its own time cannot be read, when it was collected.
fn moments(batch: &RecordBatch, window: Window) -> impl Iterator<Item = (usize, i64)> {
    let (own, collected) = (times(batch, "timestamp"), times(batch, "collected_at"));
    let at = move |row: usize| if own.is_valid(row) { own.value(row) } else { collected.value(row) };
    (0..batch.num_rows()).map(move |row| (row, at(row))).filter(move |(_, at)| window.holds(*at))
}

impl Unexpected {
    fn add(&mut self, batch: &RecordBatch, unmapped: &str, window: Window) {
        let (own, kept) = (times(batch, "timestamp"), texts(batch, unmapped));
        for (row, _) in moments(batch, window) {
            self.states += 1;
            self.unmapped += u64::from(kept.is_valid(row));
            self.timeless += u64::from(own.is_null(row));
        }
    }
}

#[derive(Default)]
struct Found {
    devices: BTreeSet<String>,
    paths: BTreeMap<String, Seen>,
    /// Whether there are more: the keys of an object may be anything.
    is_long: bool,
}

/// What was seen of a path.
#[derive(Default)]
struct Seen {
    types: BTreeSet<&'static str>,
    first: i64,
    last: i64,
    states: i64,
    devices: BTreeSet<String>,
    example: String,
}

impl Found {
    fn add(&mut self, batch: &RecordBatch, unmapped: &str, window: Window) {
        let (ids, bodies) = (texts(batch, "device_id"), texts(batch, unmapped));
        for (row, at) in moments(batch, window) {
            let id = ids.value(row);
            if !self.devices.contains(id) {
                self.devices.insert(id.to_owned());
            }
            if bodies.is_null(row) {
                continue;
            }
            // What the archive wrote is an object; what somebody else wrote there says nothing.
            let kept: BTreeMap<String, &RawValue> = serde_json::from_str(bodies.value(row)).unwrap_or_default();
            for (path, value) in kept {
                self.of(without_positions(&path)).into_iter().for_each(|seen| seen.see(id, at, value));
            }
        }
    }

    /// What was seen of a path, if there is room for it.
    fn of(&mut self, path: String) -> Option<&mut Seen> {
        self.is_long |= self.paths.len() >= MOST_PATHS && !self.paths.contains_key(&path);
        (!self.is_long).then(|| self.paths.entry(path).or_default())
    }

    fn merge(&mut self, other: Self) {
        self.devices.extend(other.devices);
        self.is_long |= other.is_long;
        for (path, found) in other.paths {
            if let Some(seen) = self.of(path) {
                seen.merge(found);
            }
        }
    }
}

impl Seen {
    fn see(&mut self, device: &str, at: i64, value: &RawValue) {
        let example: String = value.get().chars().take(LONGEST_EXAMPLE).collect();
        let devices = [device.to_owned()].into();
        self.merge(Self { types: [kind(value)].into(), first: at, last: at, states: 1, devices, example });
    }

    fn merge(&mut self, other: Self) {
        if self.states == 0 {
            return *self = other;
        }
        // The newest says most; of one moment, the order of the archive decides.
        if other.last >= self.last {
            self.example = other.example;
        }
        (self.first, self.last) = (self.first.min(other.first), self.last.max(other.last));
        self.states += other.states;
        self.types.extend(other.types);
        self.devices.extend(other.devices);
    }

    #[expect(clippy::cast_precision_loss, reason = "a share of fewer than 2^53")]
    fn row(self, path: String, devices: usize) -> Vec<Cell> {
        let own = self.devices.len();
        vec![
            path.into(),
            Cell::Text(self.types.into_iter().collect::<Vec<_>>().join(", ")),
            clock::from_micros(self.first).into(),
            clock::from_micros(self.last).into(),
            self.states.into(),
            Cell::count(own),
            Cell::Number(own as f64 / devices.max(1) as f64),
            self.example.into(),
        ]
    }
}

fn kind(value: &RawValue) -> &'static str {
    match serde_json::from_str(value.get()) {
        Ok(Value::Null) => "null",
        Ok(Value::Bool(_)) => "boolean",
        Ok(Value::Number(number)) if number.is_f64() => "number",
        Ok(Value::Number(_)) => "integer",
        Ok(Value::String(_)) => "string",
        Ok(Value::Array(_)) => "list",
        Ok(Value::Object(_)) => "object",
        Err(_) => "unreadable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_paths_than_anybody_reads_are_none() {
        let found = |paths: std::ops::Range<usize>| {
            let mut found = Found::default();
            paths.for_each(|path| found.of(path.to_string()).into_iter().for_each(|seen| seen.states += 1));
            found
        };
        let half = MOST_PATHS / 2;
        let mut all = found(0..half);
        all.merge(found(0..half));
        assert_eq!((all.paths.len(), all.is_long), (half, false));
        all.merge(found(half..MOST_PATHS));
        assert!(!all.is_long && all.of("0".to_owned()).is_some(), "all that there can be");
        all.merge(found(half..MOST_PATHS + 1));
        assert!(all.is_long && all.paths.len() == MOST_PATHS);
    }
}
