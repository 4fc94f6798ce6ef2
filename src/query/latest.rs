//! The newest state of each device, and what changed from state to state.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use chrono::TimeDelta;

use crate::archive::Scan;
use crate::clock;
use crate::schema::{Column, Kind, Schema};

use super::answer::{Answer, AnswerColumn, Cell};
use super::metric::near;
use super::newest::{Newest, newest_names};
use super::scan::Days;
use super::trend::MOST_ROWS;
use super::window::Window;
use super::{QueryError, cell, column, is_asked, no_state, texts, times};

/// What is asked of states as they are.
#[derive(Debug, Clone)]
pub struct StateOptions {
    /// The devices' ids; none for all.
    pub devices: Option<Vec<String>>,
    /// The columns that are shown, or watched.
    pub columns: Vec<String>,
    /// Over which time.
    pub window: Window,
}

/// What is asked of changes.
#[derive(Debug, Clone)]
pub struct ChangesOptions {
    /// Of whom, of which columns, and over which time.
    pub states: StateOptions,
    /// For how long before that the state is looked for that the first one is a change from.
    pub back: TimeDelta,
}

/// What a state is known by.
const KNOWN_BY: [&str; 2] = ["device_id", "timestamp"];

/// The newest state of each device in a window.
///
/// # Errors
/// Where the window has no length, there is no such column or no state in the window, or the archive cannot be read.
pub fn latest(days: &Days, options: &StateOptions) -> Result<Answer, QueryError> {
    let mut reading = Reading::new(options)?;
    // Those are there anyway.
    reading.wanted.retain(|&at| !KNOWN_BY.contains(&reading.schema.columns[at].name.as_str()));
    let devices = options.devices.as_deref();
    let newest =
        Newest { schema: &reading.schema, window: options.window, devices, columns: &reading.wanted, needed: None };
    let newest = newest.find(days)?;
    if newest.is_empty() {
        return Err(no_state(devices, options.window));
    }
    let rows = newest.into_iter().map(|(id, (micros, cells))| {
        [Cell::Text(id), Cell::from(clock::from_micros(micros))].into_iter().chain(cells).collect()
    });
    let [device, time] = KNOWN_BY.map(AnswerColumn::key);
    let keys = [device, time.of_kind(Kind::Timestamp)];
    let columns = keys.into_iter().chain(reading.answer_columns()).collect();
    Ok(Answer { title: "newest states".to_owned(), columns, rows: rows.collect() })
}

/// When the values of columns changed: from what to what, and after how long, or at least how long where nothing older
/// was looked at, which `at_least` says. A state without a value changes nothing.
///
/// # Errors
/// Where the window has no length, there is no such column or no state in the window, or the archive cannot be read.
pub fn changes(days: &Days, options: &ChangesOptions) -> Result<Answer, QueryError> {
    let ChangesOptions { states: asked, back } = options;
    asked.window.check()?;
    let since = asked.window.since;
    let window = Window { since: since.checked_sub_signed(*back).unwrap_or(since), ..asked.window };
    let options = &StateOptions { window, ..asked.clone() };
    let reading = Reading::new(options)?;
    let mut all = Histories::new();
    let mut is_empty = true;
    let add = |(has_states, found): &mut (bool, Histories), batch: &RecordBatch| {
        each_state(batch, options, &mut |id, micros, row| {
            *has_states |= asked.window.holds(micros);
            for (at, cell) in reading.cells(batch, row).into_iter().enumerate().filter(|(_, cell)| *cell != Cell::Null)
            {
                found.entry((id.to_owned(), at)).or_default().see(micros, cell);
            }
        });
    };
    let mut length = 0;
    days.fold(&reading.schema, options.window, &reading.scan, Default::default, add, |(has_states, found)| {
        is_empty &= !has_states;
        // What is too long to be told is not kept either.
        let found = if length > MOST_ROWS { Histories::new() } else { found };
        for (key, later) in found {
            length += all.entry(key).or_default().follow(later);
        }
    })?;
    if length > MOST_ROWS {
        return Err(QueryError::Long { what: "changes" });
    }
    if is_empty {
        return Err(no_state(asked.devices.as_deref(), asked.window));
    }
    let names = newest_names(days, options.devices.as_deref(), window)?;
    let mut rows: Vec<(i64, Vec<Cell>)> = Vec::new();
    for ((id, column), history) in all {
        let keys =
            [Cell::Text(id.clone()), names.get(&id).cloned().into(), Cell::from(options.columns[column].clone())];
        rows.extend(history.rows(&keys));
    }
    rows.retain(|(at, _)| *at >= since.timestamp_micros());
    rows.sort_by_key(|(at, _)| *at);
    let keys = ["device_id", "device_name", "column"].map(AnswerColumn::key);
    let keys = [AnswerColumn::key("at").of_kind(Kind::Timestamp)].into_iter().chain(keys);
    let values = [("from", ""), ("to", ""), ("after_s", "s"), ("at_least", "")];
    let values = values.map(|(name, unit)| AnswerColumn::value(name.to_owned(), unit));
    let columns = keys.chain(values).collect();
    Ok(Answer { title: "changes".to_owned(), columns, rows: rows.into_iter().map(|(_, row)| row).collect() })
}

/// By device and watched column.
type Histories = BTreeMap<(String, usize), History>;

/// The values that a column had, each with its first and its last moment.
#[derive(Default)]
struct History(Vec<(i64, i64, Cell)>);

impl History {
    fn see(&mut self, micros: i64, value: Cell) {
        match self.0.last_mut() {
            Some((_, last, known)) if *known == value => *last = micros,
            _ => self.0.push((micros, micros, value)),
        }
    }

    /// Takes in what came later, and says how many changes that were; the first value of all is not one.
    fn follow(&mut self, later: Self) -> usize {
        let before = self.0.len().max(1);
        for (first, last, value) in later.0 {
            self.see(first, value.clone());
            self.see(last, value);
        }
        self.0.len().saturating_sub(before)
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    fn rows(self, keys: &[Cell]) -> Vec<(i64, Vec<Cell>)> {
        let pairs = self.0.windows(2).enumerate().map(|(place, pair)| {
            let ((began, _, from), (at, _, to)) = (&pair[0], &pair[1]);
            let after = Cell::Number((at - began) as f64 / 1e6);
            // Of the first value, only the states that were looked at are known.
            let at_least = Cell::Text((place == 0).to_string());
            let keys = [Cell::from(clock::from_micros(*at))].into_iter().chain(keys.iter().cloned());
            (*at, keys.chain([from.clone(), to.clone(), after, at_least]).collect())
        });
        pairs.collect()
    }
}

/// Where the wanted columns stand in the batches of a scan.
struct Reading {
    schema: Arc<Schema>,
    scan: Scan,
    wanted: Vec<usize>,
}

impl Reading {
    fn new(options: &StateOptions) -> Result<Self, QueryError> {
        options.window.check()?;
        let schema = Schema::device_state();
        let find = |name: &String| {
            let is_shown = |column: &Column| column.kind != Kind::List;
            let found = schema.index_of(name).filter(|&at| is_shown(&schema.columns[at]));
            found.ok_or_else(|| QueryError::Column { name: name.clone(), near: near(&schema, name, is_shown) })
        };
        let wanted = options.columns.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let device = column(&schema, "device_id");
        let columns = wanted.iter().copied().chain([device, column(&schema, "timestamp")]).collect();
        let scan = Scan { columns, any_of: options.devices.clone().map(|ids| (device, ids)), ..Scan::default() };
        Ok(Self { schema, scan, wanted })
    }

    fn cells(&self, batch: &RecordBatch, row: usize) -> Vec<Cell> {
        let columns = self.wanted.iter().map(|&at| batch.column_by_name(&self.schema.columns[at].name));
        columns.map(|column| column.map_or(Cell::Null, |column| cell(column, row))).collect()
    }

    fn answer_columns(&self) -> impl Iterator<Item = AnswerColumn> {
        self.wanted.iter().map(|&at| {
            let column = &self.schema.columns[at];
            AnswerColumn::value(column.name.clone(), column.unit.map_or("", |unit| unit.name())).of_kind(column.kind)
        })
    }
}

/// Calls `state` for each state that is asked about: its device, its time, its row.
fn each_state(batch: &RecordBatch, options: &StateOptions, state: &mut dyn FnMut(&str, i64, usize)) {
    let (ids, times) = (texts(batch, "device_id"), times(batch, "timestamp"));
    for row in 0..batch.num_rows() {
        let id = ids.value(row);
        let is_meant = is_asked(options.devices.as_deref(), id);
        if is_meant && times.is_valid(row) && options.window.holds(times.value(row)) {
            state(id, times.value(row), row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_stays_is_no_change_however_many_days_say_so() {
        let day = |values: &[(i64, &str)]| {
            let mut day = History::default();
            values.iter().for_each(|(at, value)| day.see(*at, Cell::Text((*value).to_owned())));
            day
        };
        let mut all = History::default();
        let changes =
            [&[(1, "a"), (2, "a")][..], &[(3, "a")], &[(4, "a"), (5, "b")], &[(6, "b")], &[(7, "a"), (8, "b")]];
        assert_eq!(changes.map(|values| all.follow(day(values))), [0, 0, 1, 0, 2]);
    }
}
