//! Who is to be forgotten, and where that is mentioned.

use std::collections::BTreeSet;

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use serde_json::Value;

use crate::archive::{ArchiveError, PartFile, Scan};
use crate::privacy::is_pseudonym;
use crate::schema::{Personal, Role, Schema};

/// Who or what is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    kind: SubjectKind,
    /// The values by which it is known, pseudonyms among them, in lower case.
    values: BTreeSet<String>,
}

/// What a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKind {
    /// Devices, by their ids.
    Device,
    /// People, by their e-mail addresses.
    Person,
}

/// What a part holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Rows that are about the subject.
    pub(super) about: u64,
    /// Rows whose value is a pseudonym that nobody gave the key of.
    pub(super) hidden: u64,
}

impl Subject {
    /// A subject that is known by some values; where rules have made pseudonyms of them, by these too.
    #[must_use]
    pub fn new(kind: SubjectKind, values: impl IntoIterator<Item = String>) -> Self {
        Self { kind, values: values.into_iter().map(|value| value.to_lowercase()).collect() }
    }

    /// For each row, whether it is about something else.
    pub(super) fn spares(&self, schema: &Schema, batch: &RecordBatch) -> BooleanArray {
        let texts = |columns: Vec<usize>| {
            let named = columns.into_iter().filter_map(|at| batch.column_by_name(&schema.columns[at].name));
            named.filter_map(|column| column.as_string_opt::<i32>()).collect::<Vec<_>>()
        };
        let (known, unmapped) = (texts(self.columns(schema)), texts(unmapped(schema)));
        let is_about = |row: usize| {
            known.iter().any(|texts| texts.is_valid(row) && self.values.contains(&texts.value(row).to_lowercase()))
                || unmapped.iter().any(|texts| texts.is_valid(row) && self.is_in(texts.value(row)))
        };
        (0..batch.num_rows()).map(|row| Some(!is_about(row))).collect()
    }

    /// Rows of a part that are about it.
    pub(super) fn count_in(&self, file: &PartFile, schema: &Schema) -> Result<Found, ArchiveError> {
        let columns = self.columns(schema).into_iter().chain(unmapped(schema));
        let scan = Scan { columns: columns.collect(), ..Scan::default() };
        let mut found = Found::default();
        for batch in file.part(schema)?.batches(Some(&scan)) {
            let batch = batch?;
            found.about += (batch.num_rows() - self.spares(schema, &batch).true_count()) as u64;
            found.hidden += self.hidden_in(schema, &batch);
        }
        Ok(found)
    }

    /// Whether a text, or a JSON text in it, mentions it.
    pub(super) fn is_in(&self, text: &str) -> bool {
        let plain = text.to_lowercase();
        self.values.iter().any(|value| is_word_in(value, &plain)) || self.is_in_json(text)
    }

    /// The columns in which it is known, as positions in a schema.
    fn columns(&self, schema: &Schema) -> Vec<usize> {
        let device = schema.index_of("device_id");
        let is_ours = |at: &usize| match self.kind {
            SubjectKind::Device => Some(*at) == device,
            SubjectKind::Person => schema.columns[*at].personal == Some(Personal::Person),
        };
        (0..schema.columns.len()).filter(is_ours).collect()
    }

    fn hidden_in(&self, schema: &Schema, batch: &RecordBatch) -> u64 {
        if self.values.iter().any(|value| is_pseudonym(value)) {
            return 0;
        }
        let columns = self.columns(schema).into_iter().filter_map(|at| batch.column_by_name(&schema.columns[at].name));
        let hidden = columns
            .filter_map(|column| column.as_string_opt::<i32>())
            .map(|texts| texts.iter().flatten().filter(|text| is_pseudonym(text)).count() as u64);
        hidden.sum()
    }

    fn is_in_json(&self, text: &str) -> bool {
        match serde_json::from_str(text) {
            Ok(Value::Object(members)) => {
                members.iter().any(|(key, value)| self.is_in(key) || self.is_in_json(&value.to_string()))
            }
            Ok(Value::Array(items)) => match bytes_of(&items) {
                // A body that is no UTF-8 stands in the quarantine as its bytes.
                Some(bytes) => self.is_in(&String::from_utf8_lossy(&bytes)),
                None => items.iter().any(|item| self.is_in_json(&item.to_string())),
            },
            // Letters may be written as escapes, and a body stands in the quarantine as a string.
            Ok(Value::String(inner)) => self.is_in(&inner),
            _ => false,
        }
    }
}

/// Whether a value stands in a text as a whole: `ann@example.com` is not in `joann@example.com`.
fn is_word_in(value: &str, text: &str) -> bool {
    let belongs = |letter: char| letter.is_alphanumeric() || matches!(letter, '.' | '_' | '%' | '+' | '-' | '@');
    text.match_indices(value).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + value.len()..]);
        // A dot behind an address may end a sentence.
        let goes_on = after.trim_start_matches('.').starts_with(belongs);
        !before.ends_with(belongs) && !goes_on
    })
}

fn bytes_of(items: &[Value]) -> Option<Vec<u8>> {
    let byte = |item: &Value| item.as_u64().and_then(|number| u8::try_from(number).ok());
    items.iter().map(byte).collect::<Option<Vec<u8>>>().filter(|bytes| !bytes.is_empty())
}

fn unmapped(schema: &Schema) -> Vec<usize> {
    (0..schema.columns.len()).filter(|at| schema.columns[*at].role == Role::Unmapped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_found_as_a_whole_however_it_is_written() {
        let ann = Subject::new(SubjectKind::Person, ["Ann@Example.com".to_owned()]);
        for text in
            ["ann@example.com", "x=ANN@example.com;", "mail ann@example.com.", r#"{"a":["\u0061nn@example.com"]}"#]
        {
            assert!(ann.is_in(text), "{text}");
        }
        assert!(ann.is_in(&format!(r#"{{"bytes":{:?}}}"#, b"{\"x\":\"ann@example.com\",\"y\":\"\xfc\"}")));
        for text in ["joann@example.com", "ann@example.com.au", "ann@example.community", "", "ann"] {
            assert!(!ann.is_in(text), "{text}");
        }
    }
}
