//! One flat record, with the text it refers to. A row is made once and filled over and over: once
//! its buffers have grown, a body costs no allocation but for what is unmapped.

use std::collections::BTreeMap;
#[cfg(test)]
use std::fmt::Write as _;

#[cfg(test)]
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
    cells: Vec<Cell>,
    text: String,
    elements: Vec<Element>,
    members: Vec<Cell>,
    unmapped: BTreeMap<String, String>,
    met_columns: Vec<bool>,
    met_groups: Vec<bool>,
    /// For each group, by entry, the entry that followed the last time; at the end, the one that was first. Of use
    /// for the next body, so that it is not cleared.
    followers: Vec<Vec<usize>>,
}

/// One struct of a list: where its members begin; `None` for a null.
type Element = Option<usize>;

impl Row {
    /// The value in a column.
    #[must_use]
    pub fn cell(&self, column: usize) -> Cell {
        self.cells[column]
    }

    /// The text in a column; `None` where it holds none.
    #[must_use]
    pub fn text(&self, column: usize) -> Option<&str> {
        self.resolve(self.cells[column])
    }

    /// The text that a cell of this row refers to.
    #[must_use]
    pub fn resolve(&self, cell: Cell) -> Option<&str> {
        match cell {
            Cell::String { start, end } => Some(&self.text[start..end]),
            _ => None,
        }
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
        self.cells[column] = cell;
    }

    /// Copies text into the row.
    pub fn write(&mut self, text: &str) -> Cell {
        let start = self.text.len();
        self.text.push_str(text);
        Cell::String { start, end: self.text.len() }
    }

    /// The row's values that are not null, a line each.
    #[cfg(test)]
    pub(super) fn describe(&self, schema: &Schema) -> String {
        let mut said = String::new();
        for (column, &cell) in schema.columns.iter().zip(&self.cells) {
            let value = match cell {
                Cell::Null => continue,
                Cell::List { start, end } => self.describe_list(column, start, end),
                scalar => self.describe_scalar(scalar),
            };
            let _ = writeln!(said, "{} = {value}", column.name);
        }
        said
    }

    /// Makes room for a row of so many columns, and groups of so many entries each.
    pub(super) fn clear(&mut self, columns: usize, groups: impl ExactSizeIterator<Item = usize>) {
        self.text.clear();
        self.elements.clear();
        self.members.clear();
        self.unmapped.clear();
        for (list, length) in [(&mut self.met_columns, columns), (&mut self.met_groups, groups.len())] {
            list.clear();
            list.resize(length, false);
        }
        self.cells.clear();
        self.cells.resize(columns, Cell::Null);
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

    pub(super) fn has_unmapped(&self) -> bool {
        !self.unmapped.is_empty()
    }

    /// Notes that a column's key was met; says whether it had been before.
    pub(super) fn meet_column(&mut self, column: usize) -> bool {
        std::mem::replace(&mut self.met_columns[column], true)
    }

    /// Notes that a group's key was met; says whether it had been before.
    pub(super) fn meet_group(&mut self, group: usize) -> bool {
        std::mem::replace(&mut self.met_groups[group], true)
    }

    pub(super) fn forget(&mut self, column: usize) {
        self.cells[column] = Cell::Null;
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
        self.cells[column] = Cell::List { start, end: start };
    }

    pub(super) fn close_list(&mut self, column: usize) {
        if let Cell::List { end, .. } = &mut self.cells[column] {
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
        let start = self.text.len();
        for (index, (path, raw)) in self.unmapped.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(&quoted(path));
            self.text.push(':');
            self.text.push_str(raw);
        }
        self.text.push('}');
        self.cells[column] = Cell::String { start, end: self.text.len() };
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
