//! A column of texts or flags, read as texts.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, StringArray};

/// The values of a column as texts.
pub(super) enum Texts<'a> {
    Strings(&'a StringArray),
    Flags(&'a BooleanArray),
}

impl<'a> Texts<'a> {
    /// Of a column that is known to hold texts or flags.
    pub(super) fn of(column: &'a ArrayRef) -> Self {
        match column.as_string_opt::<i32>() {
            Some(strings) => Self::Strings(strings),
            None => Self::Flags(column.as_boolean()),
        }
    }

    pub(super) fn get(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Strings(strings) => strings.is_valid(row).then(|| strings.value(row)),
            Self::Flags(flags) => flags.is_valid(row).then(|| if flags.value(row) { "true" } else { "false" }),
        }
    }

    /// Equal values that follow each other, and how many they are.
    pub(super) fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = (Option<&'a str>, u64)> {
        let mut row = rows.start;
        std::iter::from_fn(move || {
            let (start, end) = (row, rows.end);
            let value = (start < end).then(|| self.get(start))?;
            row = (start + 1..end).find(|&row| self.get(row) != value).unwrap_or(end);
            Some((value, (row - start) as u64))
        })
    }
}
