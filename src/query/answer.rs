//! What every question is answered with: a table of named, typed columns.
//!
//! How it is shown is not decided here.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};

use crate::clock::{self, Timestamp};
use crate::schema::Kind;

/// The answer to a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What the rows are about, in a line.
    pub title: String,
    /// The columns, as they were asked for.
    pub columns: Vec<AnswerColumn>,
    /// A cell for each column.
    pub rows: Vec<Vec<Cell>>,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerColumn {
    /// Its name.
    pub name: String,
    /// The unit of its values; empty where they have none.
    pub unit: String,
    /// What it is to the row.
    pub role: ColumnRole,
    /// What its values are, where that is known: a column without any has a type as well.
    pub kind: Option<Kind>,
}

/// What a column is to the rows of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnRole {
    /// When a bucket begins: the rows of a series follow each other by it.
    Start,
    /// What a row is known by, or the series that it belongs to.
    Key,
    /// How many states there were.
    States,
    /// One of the values that were asked for.
    Value,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// There is none: a gap, which is no zero.
    Null,
    /// A text.
    Text(String),
    /// Yes or no.
    Flag(bool),
    /// A whole number.
    Count(i64),
    /// Any number.
    Number(f64),
    /// A point in time.
    Time(#[serde(with = "clock::rfc3339")] Timestamp),
}

impl Answer {
    /// Its columns as Arrow arrays: texts, flags, whole numbers, doubles, times in microseconds (UTC). A column of which
    /// nobody said the kind and that is without any value is of doubles if it was asked for, else of texts.
    #[must_use]
    pub fn to_batch(&self) -> RecordBatch {
        let columns = self.columns.iter().enumerate().map(|(at, column)| {
            let array = array(self.rows.iter().map(|row| &row[at]), column);
            (column.name.as_str(), array, true)
        });
        RecordBatch::try_from_iter_with_nullable(columns).expect("each row has a cell for each column")
    }

    /// Where the columns of a role stand.
    pub fn of_role(&self, role: ColumnRole) -> impl Iterator<Item = usize> {
        (0..self.columns.len()).filter(move |&at| self.columns[at].role == role)
    }

    /// Where the values stand that were asked for: behind all else.
    #[must_use]
    pub fn value_columns(&self) -> Range<usize> {
        self.of_role(ColumnRole::Value).next().unwrap_or(self.columns.len())..self.columns.len()
    }

    /// The values of a row that were asked for and are there.
    pub fn values<'a>(&'a self, row: &'a [Cell]) -> impl Iterator<Item = &'a Cell> {
        let wanted = self
            .columns
            .iter()
            .zip(row)
            .filter(|(column, cell)| column.role == ColumnRole::Value && **cell != Cell::Null);
        wanted.map(|(_, cell)| cell)
    }
}

fn array<'a>(cells: impl Iterator<Item = &'a Cell> + Clone, column: &AnswerColumn) -> ArrayRef {
    match column.kind.unwrap_or_else(|| seen_kind(&cells, column.role == ColumnRole::Value)) {
        Kind::Timestamp => {
            let times = cells.map(|cell| if let Cell::Time(at) = cell { Some(at.timestamp_micros()) } else { None });
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        Kind::Int64 => {
            let counts = cells.map(|cell| if let Cell::Count(count) = cell { Some(*count) } else { None });
            Arc::new(counts.collect::<Int64Array>())
        }
        Kind::Float64 => Arc::new(cells.map(Cell::number).collect::<Float64Array>()),
        Kind::Boolean => {
            let flags = cells.map(|cell| if let Cell::Flag(flag) = cell { Some(*flag) } else { None });
            Arc::new(flags.collect::<BooleanArray>())
        }
        Kind::String | Kind::List => Arc::new(cells.map(Cell::text).collect::<StringArray>()),
    }
}

/// What the values of a column are: text where they are of several kinds, for a double holds not every whole number.
fn seen_kind<'a>(cells: &(impl Iterator<Item = &'a Cell> + Clone), is_value: bool) -> Kind {
    let all = |fits: fn(&Cell) -> bool| cells.clone().all(|cell| *cell == Cell::Null || fits(cell));
    let is_empty = cells.clone().all(|cell| *cell == Cell::Null);
    if !is_empty && all(|cell| matches!(cell, Cell::Time(_))) {
        Kind::Timestamp
    } else if !is_empty && all(|cell| matches!(cell, Cell::Flag(_))) {
        Kind::Boolean
    } else if !is_empty && all(|cell| matches!(cell, Cell::Count(_))) {
        Kind::Int64
    } else if all(|cell| matches!(cell, Cell::Number(_))) && (is_value || !is_empty) {
        Kind::Float64
    } else {
        Kind::String
    }
}

impl AnswerColumn {
    /// A column by which a row is known.
    #[must_use]
    pub fn key(name: &str) -> Self {
        Self { name: name.to_owned(), unit: String::new(), role: ColumnRole::Key, kind: None }
    }

    /// When each bucket begins.
    #[must_use]
    pub fn start() -> Self {
        Self { role: ColumnRole::Start, ..Self::key("start").of_kind(Kind::Timestamp) }
    }

    /// How many states there were.
    #[must_use]
    pub fn states() -> Self {
        Self { role: ColumnRole::States, ..Self::key("states").of_kind(Kind::Int64) }
    }

    /// A column that was asked for.
    #[must_use]
    pub fn value(name: String, unit: &str) -> Self {
        Self { name, unit: unit.to_owned(), role: ColumnRole::Value, kind: None }
    }

    /// This column, of values of a kind.
    #[must_use]
    pub fn of_kind(self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self }
    }
}

impl Cell {
    /// A number of things.
    #[must_use]
    pub fn count(count: usize) -> Self {
        Self::Count(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// It as a text; none where there is none.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text.clone()),
            Self::Flag(flag) => Some(flag.to_string()),
            Self::Count(count) => Some(count.to_string()),
            Self::Number(value) => Some(value.to_string()),
            Self::Time(at) => Some(clock::format_timestamp(*at)),
        }
    }

    /// The number that it is, if it is one.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(value) => Some(*value),
            #[expect(clippy::cast_precision_loss, reason = "for a chart")]
            Self::Count(value) => Some(*value as f64),
            _ => None,
        }
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Count(value)
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Timestamp> for Cell {
    fn from(value: Timestamp) -> Self {
        Self::Time(value)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;

    use super::*;

    #[test]
    fn a_column_without_a_value_has_the_type_of_one_that_has_some() {
        let columns = vec![
            AnswerColumn::start(),
            AnswerColumn::value("network_ssid".to_owned(), "").of_kind(Kind::String),
            AnswerColumn::value("cpu_pct_count".to_owned(), "count").of_kind(Kind::Int64),
        ];
        let types = |rows: Vec<Vec<Cell>>| {
            let batch = Answer { title: String::new(), columns: columns.clone(), rows }.to_batch();
            batch.columns().iter().map(|column| arrow_array::Array::data_type(column).clone()).collect::<Vec<_>>()
        };
        let some = vec![Cell::from(clock::from_micros(1)), Cell::Text("a".to_owned()), Cell::Count(1)];
        assert_eq!(types(vec![vec![Cell::Null, Cell::Null, Cell::Null]]), types(vec![some]));
        assert_eq!(types(Vec::new()), types(vec![vec![Cell::Null, Cell::Null, Cell::Null]]));
    }

    #[test]
    fn whole_numbers_beside_others_keep_their_digits() {
        let columns = vec![AnswerColumn::value("from".to_owned(), "")];
        let rows = vec![vec![Cell::Count(9_007_199_254_740_993)], vec![Cell::Number(1.5)]];
        let batch = Answer { title: String::new(), columns, rows }.to_batch();
        let texts: Vec<_> = batch.column(0).as_string::<i32>().iter().flatten().collect();
        assert_eq!(texts, ["9007199254740993", "1.5"]);
    }
}
