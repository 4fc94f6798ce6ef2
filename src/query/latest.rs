//! The newest state of each device, and the columns of states that a question is about.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};

use crate::archive::Scan;
use crate::clock;
use crate::schema::{Column, Kind, Personal, Role, Schema};

use super::answer::{Answer, AnswerColumn, Cell};
use super::metric::near;
use super::newest::Newest;
use super::scan::Days;
use super::window::Window;
use super::{QueryError, column, no_state, registrations};

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

/// Where the wanted columns stand in the batches of a scan.
pub(super) struct Reading {
    pub(super) schema: Arc<Schema>,
    pub(super) scan: Scan,
    wanted: Vec<usize>,
}

impl Reading {
    pub(super) fn new(options: &StateOptions) -> Result<Self, QueryError> {
        options.window.check()?;
        let schema = Schema::device_state();
        let find = |name: &String| {
            let is_shown = |column: &Column| column.kind != Kind::List;
            let found = schema.index_of(name).filter(|&at| is_shown(&schema.columns[at]));
            found.ok_or_else(|| QueryError::Column { name: name.clone(), near: near(&schema, name, is_shown) })
        };
        let wanted = options.columns.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let device = column(&schema, "device_id");
        let known_by = [device, column(&schema, "timestamp"), column(&schema, "account_id")];
        let columns = wanted.iter().copied().chain(known_by).chain(registrations(&schema)).collect();
        let scan = Scan { columns, any_of: options.devices.clone().map(|ids| (device, ids)), ..Scan::default() };
        Ok(Self { schema, scan, wanted })
    }

    /// The wanted columns of a batch of the scan.
    pub(super) fn columns<'a>(&self, batch: &'a RecordBatch) -> impl Iterator<Item = &'a ArrayRef> {
        let names = self.wanted.iter().map(|&at| &self.schema.columns[at].name);
        names.map(|name| batch.column_by_name(name).expect("the scan has it"))
    }

    /// Whether a wanted column says who a device is, or whose: then it is no registration's.
    pub(super) fn is_of_device(&self, at: usize) -> bool {
        let column = &self.schema.columns[self.wanted[at]];
        column.role == Role::Identity || matches!(column.personal, Some(Personal::Person | Personal::Device))
    }

    fn answer_columns(&self) -> impl Iterator<Item = AnswerColumn> {
        self.wanted.iter().map(|&at| {
            let column = &self.schema.columns[at];
            AnswerColumn::value(column.name.clone(), column.unit.map_or("", |unit| unit.name())).of_kind(column.kind)
        })
    }
}
