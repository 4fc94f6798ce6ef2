//! What changed from state to state of a device.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::DataType;
use chrono::TimeDelta;

use crate::archive::Scan;
use crate::clock::Timestamp;
use crate::schema::{Kind, Schema};

use super::answer::{Answer, AnswerColumn, Cell};
use super::newest::{Names, newest_names};
use super::scan::Days;
use super::trend::MOST_ROWS;
use super::wanted::{StateOptions, Wanted};
use super::window::Window;
use super::{Asked, QueryError, cell, column, moment, no_state, registrations, scan_of, texts, times};

/// What is asked of changes.
#[derive(Debug, Clone)]
pub struct ChangesOptions {
    /// Of whom, of which columns, and over which time.
    pub states: StateOptions,
    /// How far before the window to look for the value that the first change started from.
    pub back: TimeDelta,
}

/// A change of a device's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// When the first state with the new value was.
    pub at: Timestamp,
    /// The device's id.
    pub device: String,
    /// Its newest name.
    pub device_name: Option<String>,
    /// The account that it was reported to; none where nobody said so.
    pub account: Option<String>,
    /// The registration, or what stands for it.
    pub registration: Option<String>,
    /// What changed.
    pub column: String,
    /// The value before.
    pub from: Cell,
    /// The new value.
    pub to: Cell,
    /// Seconds for which the value before was seen.
    pub after_s: f64,
    /// Whether it may have been there for longer: of the first value, only the states that were looked at are known.
    pub at_least: bool,
}

/// What changed, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// Each change.
    pub changes: Vec<Change>,
    /// Whether only the account tells some of them apart.
    pub has_accounts: bool,
    /// The column of the registration, where only that tells some of them apart.
    pub registration: Option<String>,
}

impl Changes {
    /// A row for each.
    #[must_use]
    pub fn into_answer(self) -> Answer {
        let reporter = self.has_accounts.then_some("account_id").into_iter().chain(self.registration.as_deref());
        let keys = ["device_id", "device_name"].into_iter().chain(reporter).chain(["column"]).map(AnswerColumn::key);
        let keys = [AnswerColumn::key("at").of_kind(Kind::Timestamp)].into_iter().chain(keys);
        let values = [("from", ""), ("to", ""), ("after_s", "s"), ("at_least", "")];
        let values = values.map(|(name, unit)| AnswerColumn::value(name.to_owned(), unit));
        let columns = keys.chain(values).collect();
        let (has_accounts, has_registrations) = (self.has_accounts, self.registration.is_some());
        let row = |change: Change| {
            let reporter = [has_accounts.then_some(change.account), has_registrations.then_some(change.registration)];
            let keys = [change.at.into(), change.device.into(), change.device_name.into()];
            let keys = keys.into_iter().chain(reporter.into_iter().flatten().map(Cell::from));
            let values = [change.column.into(), change.from, change.to, change.after_s.into()];
            keys.chain(values).chain([Cell::Flag(change.at_least)]).collect()
        };
        Answer { title: "changes".to_owned(), columns, rows: self.changes.into_iter().map(row).collect() }
    }
}

/// When the values of columns changed: from what to what, and after how long, or at least how long where nothing older
/// was looked at, which `at_least` says. A state without a value changes nothing.
///
/// What registrations report that a device has side by side, as one for each of its users, is no change from one to the
/// other: each has its own history, and `registration_id` tells them apart. One that begins when the others have ended
/// goes on from them; and who a device is, and whose, is the device's history.
///
/// # Errors
/// Where the window has no length, there is no such column or no state in the window, or the archive cannot be read.
pub fn changes(days: &Days, options: &ChangesOptions) -> Result<Changes, QueryError> {
    let ChangesOptions { states: asked, back } = options;
    asked.window.check()?;
    let since = asked.window.since;
    let window = Window { since: since.checked_sub_signed(*back).unwrap_or(Timestamp::MIN_UTC), ..asked.window };
    let options = &StateOptions { window, ..asked.clone() };
    let wanted = Wanted::new(options)?;
    let mut all = Histories::default();
    let mut is_empty = true;
    let question = Question { asked: Asked::of(options.devices.as_deref()), window, told: asked.window };
    let add = |found: &mut (bool, Histories), batch: &RecordBatch| take(batch, &wanted, &question, found);
    let mut length = 0;
    days.fold(
        &wanted.schema,
        options.window,
        &scan(&wanted, options),
        Default::default,
        add,
        |(has_states, found)| {
            is_empty &= !has_states;
            // What is too long to be told is not kept either.
            if length <= MOST_ROWS {
                length += all.follow(found);
            }
        },
    )?;
    if length > MOST_ROWS {
        return Err(QueryError::Long { what: "changes", most: MOST_ROWS });
    }
    if is_empty {
        return Err(no_state(asked.devices.as_deref(), asked.window));
    }
    let names = newest_names(days, options.devices.as_deref(), window)?;
    Ok(changes_since(since, all, &names, &wanted))
}

/// The changes since a moment, oldest first.
fn changes_since(since: Timestamp, all: Histories, names: &Names, wanted: &Wanted) -> Changes {
    let Wanted { schema, columns } = wanted;
    let watched: Vec<&str> = columns.iter().map(|&at| schema.columns[at].name.as_str()).collect();
    let micros = since.timestamp_micros();
    let lines = all.0.into_iter().map(|(device, registrations)| (device, lines_of(registrations)));
    // A device without a change does not decide which columns are shown either.
    let lines = lines.filter(|(_, lines)| lines.iter().any(|line| line.history.has_changed_since(micros)));
    let lines: Vec<(String, Vec<Line>)> = lines.collect();
    let shown = Shown::of(lines.iter().map(|(_, lines)| &lines[..]));
    let of_lines = lines.iter().flat_map(|(device, lines)| {
        let of_line = |line| changes_of(line, device, names.get(device), &watched);
        lines.iter().flat_map(of_line).collect::<Vec<_>>()
    });
    let mut changes: Vec<Change> = of_lines.filter(|change| change.at >= since).collect();
    changes.sort_by_key(|change| change.at);
    let [registration, _] = registrations(schema).map(|at| schema.columns[at].name.clone());
    Changes { changes, has_accounts: shown.account, registration: shown.registration.then_some(registration) }
}

/// The changes in what a column was of a device.
#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn changes_of(line: &Line, device: &str, name: Option<&String>, watched: &[&str]) -> Vec<Change> {
    let pairs = line.history.0.windows(2).enumerate().map(|(place, pair)| {
        let ((began, _, from), (at, _, to)) = (&pair[0], &pair[1]);
        let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let (account, registration) = line.reporter(*at);
        Change {
            at: moment(*at),
            device: device.to_owned(),
            device_name: name.cloned(),
            account: said(account),
            registration: said(registration),
            column: watched[line.column].to_owned(),
            from: from.clone(),
            to: to.clone(),
            after_s: (at - began) as f64 / 1e6,
            at_least: place == 0,
        }
    });
    pairs.collect()
}

/// What was reported of devices, by their ids.
#[derive(Default)]
struct Histories(BTreeMap<String, Vec<Registration>>);

/// What a registration of a device reported in an account.
struct Registration {
    account: String,
    /// Empty where there was none; none for the columns to which it does not matter, which are the device's own.
    id: Option<String>,
    /// When the first and the last of its states were, whatever they said.
    span: (i64, i64),
    /// Of each watched column.
    columns: Vec<History>,
}

/// The values that a column had, each with its first and its last moment.
#[derive(Default)]
struct History(Vec<(i64, i64, Cell)>);

/// What a column was of registrations that followed each other.
struct Line {
    column: usize,
    /// Since when it is whose: an account's and a registration's.
    reporters: Vec<(i64, String, String)>,
    /// When the last of their states was.
    end: i64,
    history: History,
}

/// What of the reporter of a change is shown: where a device has several at a time, which it is.
struct Shown {
    account: bool,
    registration: bool,
}

impl Shown {
    fn of<'a>(devices: impl Iterator<Item = &'a [Line]>) -> Self {
        let mut shown = Self { account: false, registration: false };
        for lines in devices {
            for side_by_side in lines.chunk_by(|a, b| a.column == b.column).filter(|lines| lines.len() > 1) {
                let reporters = || side_by_side.iter().flat_map(|line| &line.reporters);
                let (_, account, registration) = reporters().next().expect("each line has one");
                shown.account |= reporters().any(|(_, other, _)| other != account);
                shown.registration |= reporters().any(|(_, _, other)| other != registration);
            }
        }
        shown
    }
}

impl Histories {
    /// Of the watched columns, which are so many, in states of a span.
    fn of(
        &mut self,
        device: &str,
        (account, registration): (&str, Option<&str>),
        span: (i64, i64),
        columns: usize,
    ) -> &mut [History] {
        if !self.0.contains_key(device) {
            self.0.insert(device.to_owned(), Vec::new());
        }
        let known = self.0.get_mut(device).expect("it was put there if it was not");
        let place = known.iter().position(|one| one.id.as_deref() == registration && one.account == account);
        let place = place.unwrap_or_else(|| {
            let columns = std::iter::repeat_with(History::default).take(columns).collect();
            known.push(Registration {
                account: account.to_owned(),
                id: registration.map(str::to_owned),
                span,
                columns,
            });
            known.len() - 1
        });
        let Registration { span: (first, last), columns, .. } = &mut known[place];
        (*first, *last) = ((*first).min(span.0), (*last).max(span.1));
        columns
    }

    /// Takes in what came later, and says how many changes that were.
    fn follow(&mut self, later: Self) -> usize {
        let mut changes = 0;
        for (device, registrations) in later.0 {
            for Registration { account, id, span, columns } in registrations {
                let known = self.of(&device, (&account, id.as_deref()), span, columns.len()).iter_mut();
                changes += known.zip(columns).map(|(history, later)| history.follow(later)).sum::<usize>();
            }
        }
        changes
    }
}

/// What each column was of a device, by registration: one that begins when others have ended goes on from the last.
fn lines_of(registrations: Vec<Registration>) -> Vec<Line> {
    let mut all: Vec<Line> = Vec::new();
    for Registration { account, id, span: (begin, end), columns } in registrations {
        let reporters = vec![(begin, account, id.unwrap_or_default())];
        let columns = columns.into_iter().enumerate().filter(|(_, history)| !history.0.is_empty());
        all.extend(columns.map(|(column, history)| Line { column, reporters: reporters.clone(), end, history }));
    }
    all.sort_by_key(|line| (line.column, line.begin()));
    let mut lines: Vec<Line> = Vec::new();
    for later in all {
        let ended = lines.iter_mut().filter(|line| line.column == later.column && line.end < later.begin());
        match ended.max_by_key(|line| line.end) {
            Some(line) => {
                line.history.follow(later.history);
                line.reporters.extend(later.reporters);
                line.end = later.end;
            }
            None => lines.push(later),
        }
    }
    lines
}

impl Line {
    /// When the first state of its first reporter was.
    fn begin(&self) -> i64 {
        self.reporters.first().map_or(i64::MAX, |(since, ..)| *since)
    }

    /// Whose it is at a time: an account's and a registration's, empty where nobody said so.
    fn reporter(&self, at: i64) -> (&str, &str) {
        let of_then = self.reporters.iter().rev().find(|(since, ..)| *since <= at);
        of_then.map_or(("", ""), |(_, account, registration)| (account, registration))
    }
}

impl History {
    /// Takes in a value that was there from one moment to another.
    fn see(&mut self, (first, until): (i64, i64), value: Cell) {
        match self.0.last_mut() {
            Some((_, last, known)) if *known == value => *last = until,
            _ => self.0.push((first, until, value)),
        }
    }

    /// Takes in what came later, and says how many changes that were; the first value of all is not one.
    fn follow(&mut self, later: Self) -> usize {
        let before = self.0.len().max(1);
        for (first, last, value) in later.0 {
            self.see((first, last), value);
        }
        self.0.len().saturating_sub(before)
    }

    /// Whether there was a change at a moment or later.
    fn has_changed_since(&self, micros: i64) -> bool {
        self.0.iter().skip(1).any(|(at, _, _)| *at >= micros)
    }
}

/// Which registration reported a row, and in which account.
struct Reporters<'a> {
    accounts: &'a StringArray,
    /// The registration, and what stands for it.
    registrations: [&'a StringArray; 2],
}

impl<'a> Reporters<'a> {
    fn of(schema: &Schema, batch: &'a RecordBatch) -> Self {
        let registrations = registrations(schema).map(|at| texts(batch, &schema.columns[at].name));
        Self { accounts: texts(batch, "account_id"), registrations }
    }

    /// Account and registration, empty where there is none.
    fn of_row(&self, row: usize) -> (&'a str, &'a str) {
        let known = self.registrations.iter().find(|texts| texts.is_valid(row));
        (self.accounts.value(row), known.map_or("", |texts| texts.value(row)))
    }
}

/// Which states are watched.
struct Question<'a> {
    asked: Asked<'a>,
    window: Window,
    /// In which there has to be one.
    told: Window,
}

fn scan(Wanted { schema, columns }: &Wanted, options: &StateOptions) -> Scan {
    let known_by = ["device_id", "timestamp", "account_id"].map(|name| column(schema, name));
    let columns = columns.iter().copied().chain(known_by).chain(registrations(schema));
    scan_of(schema, options.devices.as_deref(), columns)
}

/// Takes in the states of a batch, and whether there is one to be told of: those of a registration that follow each other
/// in one go.
fn take(batch: &RecordBatch, wanted: &Wanted, question: &Question, (has_states, found): &mut (bool, Histories)) {
    let (ids, times) = (texts(batch, "device_id"), times(batch, "timestamp"));
    let reporters = Reporters::of(&wanted.schema, batch);
    let columns: Vec<_> = wanted.of(batch).map(|column| (column, equality(column))).collect();
    let counts = |row: usize| question.window.holds_row(times, row);
    let mut row = 0;
    while row < batch.num_rows() {
        let start = row;
        row += 1;
        let (id, reporter) = (ids.value(start), reporters.of_row(start));
        if !counts(start) || !question.asked.holds(id) {
            continue;
        }
        let goes_on = |row: usize| counts(row) && ids.value(row) == id && reporters.of_row(row) == reporter;
        row = (row..batch.num_rows()).find(|&row| !goes_on(row)).unwrap_or(batch.num_rows());
        *has_states |= (start..row).any(|row| question.told.holds(times.value(row)));
        for (at, (column, is_same)) in columns.iter().enumerate() {
            let registration = (!wanted.is_of_device(at)).then_some(reporter.1);
            let span = (times.value(start), times.value(row - 1));
            let history = &mut found.of(id, (reporter.0, registration), span, columns.len())[at];
            let mut first = start;
            while first < row {
                let end = (first + 1..row).find(|&next| !is_same(first, next)).unwrap_or(row);
                if column.is_valid(first) {
                    history.see((times.value(first), times.value(end - 1)), cell(column, first));
                }
                first = end;
            }
        }
    }
}

/// Whether two rows of a column have the same value, or both none.
fn equality(column: &ArrayRef) -> Equality<'_> {
    fn of<'a, A: Array, V: PartialEq + 'a>(array: &'a A, value: impl Fn(usize) -> V + 'a) -> Equality<'a> {
        Box::new(move |a, b| match (array.is_valid(a), array.is_valid(b)) {
            (true, true) => value(a) == value(b),
            (a, b) => a == b,
        })
    }
    match column.data_type() {
        DataType::Utf8 => of(column, |row| column.as_string::<i32>().value(row)),
        DataType::Int64 => of(column, |row| column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => of(column, |row| column.as_primitive::<Float64Type>().value(row).to_bits()),
        DataType::Boolean => of(column, |row| column.as_boolean().value(row)),
        _ => of(column, |row| column.as_primitive::<TimestampMicrosecondType>().value(row)),
    }
}

/// Whether two rows have the same value.
type Equality<'a> = Box<dyn Fn(usize, usize) -> bool + 'a>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_stays_is_no_change_however_many_days_say_so() {
        let day = |values: &[(i64, &str)]| {
            let mut day = History::default();
            values.iter().for_each(|(at, value)| day.see((*at, *at), Cell::Text((*value).to_owned())));
            day
        };
        let mut all = History::default();
        let changes =
            [&[(1, "a"), (2, "a")][..], &[(3, "a")], &[(4, "a"), (5, "b")], &[(6, "b")], &[(7, "a"), (8, "b")]];
        assert_eq!(changes.map(|values| all.follow(day(values))), [0, 0, 1, 0, 2]);
    }
}
