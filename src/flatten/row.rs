//! One flat record, with the text it refers to. A row is made once and filled over and over: once
//! its buffers have grown, a body costs no allocation but for what is unmapped.
//!
//! A row remembers the body before it. Where a value, or an object as a whole, has the same text as at that place of
//! the one before, it is not read again: most of what a device reports is what it reported five minutes ago.

use std::collections::BTreeMap;
#[cfg(test)]
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::schema::Schema;

use super::quoted;

/// One value. Text and lists are places in the row's own buffers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// A place in the text.
    String {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
    },
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Int64(i64),
    /// A double.
    Float64(f64),
    /// Microseconds since the Unix epoch.
    Timestamp(i64),
    /// A place among the elements.
    List {
        /// First element.
        start: usize,
        /// One past the last element.
        end: usize,
    },
}

/// One flat record.
#[derive(Debug, Default)]
pub struct Row {
    now: Content,
    /// The body before, where that was a row of the same schema.
    before: Content,
    schema: Option<Arc<Schema>>,
    /// A number that no other body's row has; and that of the body before, where it counts.
    number: u64,
    after: Option<u64>,
    /// Whether a column has the value that it had in the body before.
    same: Vec<bool>,
    /// Whether the body was read to its end.
    is_whole: bool,
    /// Length of the body.
    body: usize,
    elements: Vec<Element>,
    members: Vec<Cell>,
    unmapped: BTreeMap<String, String>,
    met_columns: Vec<bool>,
    /// Columns whose key was met twice.
    doubled: Vec<usize>,
    met_groups: Vec<bool>,
    /// For each group, by entry, the entry that followed the last time; at the end, the one that was first. Of use
    /// for the next body, so that it is not cleared.
    followers: Vec<Vec<usize>>,
}

/// Numbers of bodies.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// What a body says.
#[derive(Debug, Default)]
struct Content {
    cells: Vec<Cell>,
    /// The body, and behind it what does not stand in it like that.
    text: String,
    /// Where the value of a column stands in the body; empty where it may not be taken as it is.
    values: Vec<Range<usize>>,
    /// Where a group's object stands in the body; empty where it may not be taken as it is.
    objects: Vec<Range<usize>>,
}

/// One struct of a list: where its members begin; `None` for a null.
type Element = Option<usize>;

impl Row {
    /// The value in a column.
    #[must_use]
    pub fn cell(&self, column: usize) -> Cell {
        self.now.cells[column]
    }

    /// The text in a column; `None` where it holds none.
    #[must_use]
    pub fn text(&self, column: usize) -> Option<&str> {
        self.resolve(self.now.cells[column])
    }

    /// The text that a cell of this row refers to.
    #[must_use]
    pub fn resolve(&self, cell: Cell) -> Option<&str> {
        self.now.resolve(cell)
    }

    /// The structs of a list: the members of each, or `None` for a null.
    pub fn elements(&self, start: usize, end: usize, members: usize) -> impl Iterator<Item = Option<&[Cell]>> {
        self.elements[start..end].iter().map(move |element| element.map(|first| &self.members[first..first + members]))
    }

    /// What no column could hold: its path and its text.
    pub fn unmapped(&self) -> impl Iterator<Item = (&str, &str)> {
        self.unmapped.iter().map(|(path, raw)| (path.as_str(), raw.as_str()))
    }

    /// Writes a value into a column.
    pub fn set(&mut self, column: usize, cell: Cell) {
        self.now.cells[column] = cell;
        let is_text = matches!(cell, Cell::String { .. } | Cell::List { .. });
        self.same[column] = !is_text && self.after.is_some() && self.before.cells[column] == cell;
    }

    /// Writes text into a column.
    pub fn set_text(&mut self, column: usize, text: &str) {
        let cell = self.write(text);
        self.set(column, cell);
        self.same[column] = self.after.is_some() && self.before.resolve(self.before.cells[column]) == Some(text);
    }

    /// The number of the body that was read, which no other has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The columns that have another value than in the row of the body `number`: all of them, unless that was read into
    /// this row just before.
    pub fn changed(&self, number: Option<u64>) -> impl Iterator<Item = usize> {
        let follows = self.after.is_some() && self.after == number;
        let is_null = |content: &Content, at: usize| content.cells[at] == Cell::Null;
        let is_same = move |at: usize| self.same[at] || (is_null(&self.now, at) && is_null(&self.before, at));
        (0..self.now.cells.len()).filter(move |&at| !follows || !is_same(at))
    }

    /// Copies text into the row.
    pub(super) fn write(&mut self, text: &str) -> Cell {
        let start = self.now.text.len();
        self.now.text.push_str(text);
        Cell::String { start, end: self.now.text.len() }
    }

    /// The row's values that are not null, a line each.
    #[cfg(test)]
    pub(super) fn describe(&self, schema: &Schema) -> String {
        let mut said = String::new();
        for (column, &cell) in schema.columns.iter().zip(&self.now.cells) {
            let value = match cell {
                Cell::Null => continue,
                Cell::List { start, end } => self.describe_list(column, start, end),
                scalar => self.describe_scalar(scalar),
            };
            let _ = writeln!(said, "{} = {value}", column.name);
        }
        said
    }

    /// Makes room for a row of a schema, with groups of so many entries each, from this body.
    pub(super) fn begin(&mut self, schema: &Arc<Schema>, body: &str, groups: impl ExactSizeIterator<Item = usize>) {
        let columns = schema.columns.len();
        std::mem::swap(&mut self.now, &mut self.before);
        let counts = self.is_whole && self.schema.as_ref().is_some_and(|before| Arc::ptr_eq(before, schema));
        self.after = counts.then_some(self.number);
        self.number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if !counts {
            self.before.values.clear();
            self.before.objects.clear();
        }
        self.same.clear();
        self.same.resize(columns, false);
        self.schema.get_or_insert_with(|| Arc::clone(schema)).clone_from(schema);
        self.is_whole = false;
        self.now.begin(body, columns, groups.len());
        self.body = body.len();
        self.elements.clear();
        self.members.clear();
        self.unmapped.clear();
        self.doubled.clear();
        for (list, length) in [(&mut self.met_columns, columns), (&mut self.met_groups, groups.len())] {
            list.clear();
            list.resize(length, false);
        }
        if self.followers.len() != groups.len() {
            self.followers = groups.map(|entries| (1..=entries).chain([0]).collect()).collect();
        }
    }

    /// The entry of a group that followed another the last time.
    pub(super) fn follower(&self, group: usize, entry: usize) -> usize {
        self.followers[group].get(entry).copied().unwrap_or(0)
    }

    /// Notes that an entry of a group follows another.
    pub(super) fn follow(&mut self, group: usize, entry: usize, next: usize) {
        if let Some(follower) = self.followers[group].get_mut(entry) {
            *follower = next;
        }
    }

    /// Notes that the body was read to its end.
    pub(super) fn end(&mut self) {
        self.is_whole = true;
    }

    /// The text that a column's value had in the body before.
    pub(super) fn value_before(&self, column: usize) -> Option<&str> {
        self.before.text_at(self.before.values.get(column)?)
    }

    /// The text that a group's object had in the body before.
    pub(super) fn object_before(&self, group: usize) -> Option<&str> {
        self.before.text_at(self.before.objects.get(group)?)
    }

    /// Takes a column's value from the body before. It stands at `start` now.
    pub(super) fn take_value(&mut self, column: usize, start: usize) {
        let from = self.before.values[column].start;
        self.now.take(column, &self.before, from, start);
        self.same[column] = true;
    }

    /// Takes the columns of a group's object from the body before. It stands at `start` now.
    pub(super) fn take_object(&mut self, group: usize, columns: &[usize], start: usize) {
        let object = &self.before.objects[group];
        for &column in columns {
            self.now.take(column, &self.before, object.start, start);
            self.same[column] = true;
        }
        self.now.objects[group] = start..start + object.len();
    }

    /// Writes into a column the value that stands at a place of the body.
    pub(super) fn set_value(&mut self, column: usize, cell: Cell, place: Range<usize>) {
        self.now.cells[column] = cell;
        if self.is_plain() {
            self.now.values[column] = place;
        }
    }

    /// Notes where a group's object stands, all of which is in its columns now.
    pub(super) fn note_object(&mut self, group: usize, place: Range<usize>) {
        if self.is_plain() {
            self.now.objects[group] = place;
        }
    }

    /// Whether all that was read so far is in columns, and its text in the body.
    fn is_plain(&self) -> bool {
        self.unmapped.is_empty() && self.now.text.len() == self.body
    }

    pub(super) fn has_unmapped(&self) -> bool {
        !self.unmapped.is_empty()
    }

    /// Notes that a column's key was met; says whether it had been before.
    pub(super) fn meet_column(&mut self, column: usize) -> bool {
        let is_again = std::mem::replace(&mut self.met_columns[column], true);
        if is_again {
            self.doubled.push(column);
        }
        is_again
    }

    /// Whether a column's key stood more than once in the body, of which the last counts.
    #[must_use]
    pub fn stands_twice(&self, column: usize) -> bool {
        self.doubled.contains(&column)
    }

    /// Notes that a group's key was met; says whether it had been before.
    pub(super) fn meet_group(&mut self, group: usize) -> bool {
        std::mem::replace(&mut self.met_groups[group], true)
    }

    /// Forgets a column's value: another counts.
    pub(super) fn forget(&mut self, column: usize) {
        self.now.cells[column] = Cell::Null;
        self.now.values[column] = 0..0;
        self.same[column] = false;
    }

    /// Forgets where objects stand: of one that stands twice, another may count.
    pub(super) fn forget_objects(&mut self) {
        self.now.objects.fill(0..0);
    }

    /// Keeps what no column can hold.
    pub(super) fn keep(&mut self, path: String, raw: &str) {
        self.unmapped.insert(path, raw.to_owned());
    }

    /// Forgets what was kept at a path and below it.
    pub(super) fn forget_below(&mut self, path: &str) {
        if self.unmapped.is_empty() {
            return;
        }
        self.unmapped.remove(path);
        for (first, past) in [('.', '/'), ('[', '\\')] {
            let below = format!("{path}{first}")..format!("{path}{past}");
            let paths: Vec<String> = self.unmapped.range(below).map(|(path, _)| path.clone()).collect();
            paths.iter().for_each(|path| drop(self.unmapped.remove(path)));
        }
    }

    pub(super) fn open_list(&mut self, column: usize) {
        let start = self.elements.len();
        self.now.cells[column] = Cell::List { start, end: start };
    }

    pub(super) fn close_list(&mut self, column: usize) {
        if let Cell::List { end, .. } = &mut self.now.cells[column] {
            *end = self.elements.len();
        }
    }

    pub(super) fn push_null_element(&mut self) {
        self.elements.push(None);
    }

    /// Adds a struct of nulls to the list that is open; returns where its members begin.
    pub(super) fn push_element(&mut self, members: usize) -> usize {
        let first = self.members.len();
        self.members.resize(first + members, Cell::Null);
        self.elements.push(Some(first));
        first
    }

    pub(super) fn set_member(&mut self, element: usize, member: usize, cell: Cell) {
        self.members[element + member] = cell;
    }

    /// Writes what was kept into its column, as a JSON object; null where nothing was.
    pub(super) fn close_unmapped(&mut self, column: usize) {
        if self.unmapped.is_empty() {
            return;
        }
        let start = self.now.text.len();
        for (index, (path, raw)) in self.unmapped.iter().enumerate() {
            self.now.text.push(if index == 0 { '{' } else { ',' });
            self.now.text.push_str(&quoted(path));
            self.now.text.push(':');
            self.now.text.push_str(raw);
        }
        self.now.text.push('}');
        self.now.cells[column] = Cell::String { start, end: self.now.text.len() };
    }

    #[cfg(test)]
    fn describe_scalar(&self, cell: Cell) -> String {
        match cell {
            Cell::Boolean(value) => value.to_string(),
            Cell::Int64(value) | Cell::Timestamp(value) => value.to_string(),
            Cell::Float64(value) => format!("{value:?}"),
            Cell::String { .. } => format!("{:?}", self.resolve(cell).unwrap_or_default()),
            Cell::Null | Cell::List { .. } => "null".to_owned(),
        }
    }

    #[cfg(test)]
    fn describe_list(&self, column: &crate::schema::Column, start: usize, end: usize) -> String {
        let elements = self.elements(start, end, column.fields.len()).map(|element| match element {
            None => "null".to_owned(),
            Some(members) => {
                let members = column.fields.iter().zip(members);
                let members = members.map(|(field, &cell)| format!("{}: {}", field.name, self.describe_scalar(cell)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
            }
        });
        format!("[{}]", elements.collect::<Vec<_>>().join(", "))
    }
}

impl Content {
    fn begin(&mut self, body: &str, columns: usize, groups: usize) {
        self.text.clear();
        self.text.push_str(body);
        self.cells.clear();
        self.cells.resize(columns, Cell::Null);
        for (places, length) in [(&mut self.values, columns), (&mut self.objects, groups)] {
            places.clear();
            places.resize(length, 0..0);
        }
    }

    fn resolve(&self, cell: Cell) -> Option<&str> {
        match cell {
            Cell::String { start, end } => Some(&self.text[start..end]),
            _ => None,
        }
    }

    fn text_at(&self, place: &Range<usize>) -> Option<&str> {
        (!place.is_empty()).then(|| &self.text[place.clone()])
    }

    /// Takes a column's value from another body, where what it is part of stood at `from`, and stands at `to` here.
    fn take(&mut self, column: usize, other: &Self, from: usize, to: usize) {
        let moved = |at: usize| at - from + to;
        self.cells[column] = match other.cells[column] {
            Cell::String { start, end } => Cell::String { start: moved(start), end: moved(end) },
            cell => cell,
        };
        let place = &other.values[column];
        self.values[column] = if place.is_empty() { 0..0 } else { moved(place.start)..moved(place.end) };
    }
}
