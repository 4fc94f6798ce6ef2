//! What every question is answered with: a table of named, typed columns.
//!
//! How it is shown is not decided here.

use crate::clock::Timestamp;

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
    /// Whether it is one of the values that were asked for, and not what the row is known by.
    pub is_value: bool,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// There is none: a gap, which is no zero.
    Null,
    /// A text.
    Text(String),
    /// A whole number.
    Count(i64),
    /// Any number.
    Number(f64),
    /// A point in time.
    Time(Timestamp),
}

impl Answer {
    /// The values of a row that were asked for and are there.
    pub fn values<'a>(&'a self, row: &'a [Cell]) -> impl Iterator<Item = &'a Cell> {
        let wanted = self.columns.iter().zip(row).filter(|(column, cell)| column.is_value && **cell != Cell::Null);
        wanted.map(|(_, cell)| cell)
    }
}

impl AnswerColumn {
    /// A column by which a row is known.
    #[must_use]
    pub fn key(name: &str) -> Self {
        Self { name: name.to_owned(), unit: String::new(), is_value: false }
    }

    /// A column that was asked for.
    #[must_use]
    pub fn value(name: String, unit: &str) -> Self {
        Self { name, unit: unit.to_owned(), is_value: true }
    }
}

impl Cell {
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
