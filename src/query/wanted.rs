//! The columns of states that a question is about: whose states, which columns of them, and over which time.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};

use crate::schema::{Column, Kind, Personal, Role, Schema};

use super::QueryError;
use super::answer::AnswerColumn;
use super::metric::{near, select};
use super::window::Window;

/// What is asked of states as they are.
#[derive(Debug, Clone)]
pub struct StateOptions {
    /// The devices' ids; none for all.
    pub devices: Option<Vec<String>>,
    /// The columns that are shown, or watched: by name, by the word of their group, or by a pattern with `*` and `?`.
    pub columns: Vec<String>,
    /// Over which time.
    pub window: Window,
}

/// Columns of states that can be shown.
pub(super) struct Wanted {
    pub(super) schema: Arc<Schema>,
    /// As positions in the schema.
    pub(super) columns: Vec<usize>,
}

impl Wanted {
    /// Finds the columns that are asked for, each once: by their names, groups or patterns.
    pub(super) fn new(options: &StateOptions) -> Result<Self, QueryError> {
        options.window.check()?;
        let schema = Schema::device_state();
        let is_shown = |column: &Column| column.kind != Kind::List;
        let mut columns = Vec::new();
        for name in options.columns.iter().map(|name| name.trim()) {
            let found = select(&schema, name, is_shown, is_shown);
            if found.is_empty() {
                let near = near(&schema, name, is_shown);
                return Err(QueryError::Column { name: name.to_owned(), near });
            }
            columns.extend(found);
        }
        let mut known = BTreeSet::new();
        columns.retain(|&at| known.insert(at));
        Ok(Self { schema, columns })
    }

    /// Those of a batch of a scan that asked for them.
    pub(super) fn of<'a>(&self, batch: &'a RecordBatch) -> impl Iterator<Item = &'a ArrayRef> {
        let names = self.columns.iter().map(|&at| &self.schema.columns[at].name);
        names.map(|name| batch.column_by_name(name).expect("the scan has it"))
    }

    /// Whether one of them says who a device is, or whose: then it is no registration's.
    pub(super) fn is_of_device(&self, at: usize) -> bool {
        let column = &self.schema.columns[self.columns[at]];
        column.role == Role::Identity || matches!(column.personal, Some(Personal::Person | Personal::Device))
    }

    /// The columns of an answer that shows them.
    pub(super) fn answer_columns(&self) -> impl Iterator<Item = AnswerColumn> {
        self.columns.iter().map(|&at| {
            let column = &self.schema.columns[at];
            AnswerColumn::value(column.name.clone(), column.unit.map_or("", |unit| unit.name())).of_kind(column.kind)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn columns_are_named_by_themselves_their_group_or_a_pattern() {
        let time = |text: &str| clock::parse_timestamp(text).expect("a time");
        let window = Window { since: time("2026-10-01T00:00:00Z"), until: time("2026-10-02T00:00:00Z") };
        let asked = |names: &[&str]| {
            let columns = names.iter().map(ToString::to_string).collect();
            let wanted = Wanted::new(&StateOptions { devices: None, columns, window });
            wanted.map(|wanted| wanted.columns.iter().map(|&at| wanted.schema.columns[at].name.clone()).collect())
        };
        let names = |names: &[&str]| -> Vec<String> { asked(names).expect("columns") };
        assert_eq!(names(&["version", "disk_*_bps", "disk_read_bps"]), ["version", "disk_read_bps", "disk_write_bps"]);
        assert!(names(&["rtt"]).iter().all(|name| name.starts_with("rtt_")) && names(&["rtt"]).len() > 2);
        assert!(
            names(&["*"]).contains(&"isp_ipv4_aso".to_owned()) && !names(&["*"]).contains(&"cpu_pct_by_app".to_owned())
        );
        let said: Result<Vec<String>, QueryError> = asked(&["no_*"]);
        assert!(said.is_err_and(|error| error.to_string().starts_with("\"no_*\" is no column that can be shown")));
    }
}
