//! The columns of states that a question is about: whose states, which columns of them, and over which time.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};

use crate::schema::{Column, Kind, Personal, Role, Schema};

use super::QueryError;
use super::answer::AnswerColumn;
use super::metric::near;
use super::window::Window;

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

/// Columns of states that can be shown.
pub(super) struct Wanted {
    pub(super) schema: Arc<Schema>,
    /// As positions in the schema.
    pub(super) columns: Vec<usize>,
}

impl Wanted {
    /// Finds the columns that are asked for.
    pub(super) fn new(options: &StateOptions) -> Result<Self, QueryError> {
        options.window.check()?;
        let schema = Schema::device_state();
        let find = |name: &String| {
            let is_shown = |column: &Column| column.kind != Kind::List;
            let found = schema.index_of(name).filter(|&at| is_shown(&schema.columns[at]));
            found.ok_or_else(|| QueryError::Column { name: name.clone(), near: near(&schema, name, is_shown) })
        };
        let columns = options.columns.iter().map(find).collect::<Result<Vec<_>, _>>()?;
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
