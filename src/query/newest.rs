//! The newest state of each device in a window: the days are read from the last one back, and of an older day only
//! what is about devices that were not seen since.

use std::collections::BTreeMap;

use arrow_array::{Array, RecordBatch};

use crate::archive::{ArchiveError, Part, Piece, Scan};
use crate::schema::Schema;

use super::answer::Cell;
use super::scan::Days;
use super::window::Window;
use super::{Asked, QueryError, cell, column, scan_of, texts, times};

/// What is looked for.
pub(super) struct Newest<'a> {
    pub(super) schema: &'a Schema,
    pub(super) window: Window,
    /// The devices' ids; none for all.
    pub(super) devices: Option<&'a [String]>,
    /// Positions of the columns that are shown.
    pub(super) columns: &'a [usize],
    /// A state without a value here does not count.
    pub(super) needed: Option<usize>,
}

/// By device, when its newest state is of, and the values.
pub(super) type Found = BTreeMap<String, (i64, Vec<Cell>)>;

/// By device, its newest name.
pub(super) type Names = BTreeMap<String, String>;

/// By its id, what each device was last called in a window; all devices where none is named. A state without a name
/// takes away none. Read by themselves: a name seldom changes, and the newest day has most of them.
///
/// # Errors
/// Where the archive cannot be read.
pub fn newest_names(
    days: &Days,
    devices: Option<&[String]>,
    window: Window,
) -> Result<BTreeMap<String, String>, QueryError> {
    let schema = Schema::device_state();
    let name = column(&schema, "device_name");
    let newest = Newest { schema: &schema, window, devices, columns: &[name], needed: Some(name) };
    let found = newest.find(days)?.into_iter();
    Ok(found.filter_map(|(id, (_, cells))| Some((id, cells.first()?.text()?))).collect())
}

impl Newest<'_> {
    pub(super) fn find(&self, days: &Days) -> Result<Found, QueryError> {
        let (device, time) = (column(self.schema, "device_id"), column(self.schema, "timestamp"));
        let scan = scan_of(self.schema, self.devices, [device, time]);
        let ids = Scan { within: Some((time, self.window.micros())), ..scan };
        let asked = Asked::of(self.devices);
        let mut found = Found::new();
        for paths in days.by_day(self.schema, self.window)?.iter().rev() {
            let mut of_day = Found::new();
            let read = |part: &Part, piece: &Piece| self.piece((days, &asked), (part, piece), &ids, &found);
            days.each_piece(paths, self.schema, &ids, read, |more| of_day.extend(more))?;
            found.extend(of_day);
            if self.devices.is_some_and(|ids| ids.iter().all(|id| found.contains_key(id))) {
                break;
            }
        }
        Ok(found)
    }

    /// The newest states in a piece of a part, of devices of which none is known yet.
    fn piece(
        &self,
        (days, asked): (&Days, &Asked),
        (part, piece): (&Part, &Piece),
        ids: &Scan,
        known: &Found,
    ) -> Result<Found, ArchiveError> {
        let mut scan = Scan {
            columns: ids.columns.iter().chain(self.columns).chain(&self.needed).copied().collect(),
            ..ids.clone()
        };
        if !known.is_empty() {
            let mut unknown = Vec::new();
            for batch in days.rows(self.schema, part, piece, ids)? {
                self.each_last(&batch?, asked, |id, _, _| {
                    if !known.contains_key(id) {
                        unknown.push(id.to_owned());
                    }
                });
            }
            if unknown.is_empty() {
                return Ok(Found::new());
            }
            scan.any_of = Some((column(self.schema, "device_id"), unknown));
        }
        let mut found = Found::new();
        for batch in days.rows(self.schema, part, piece, &scan)? {
            let batch = batch?;
            let of = |at: usize| batch.column_by_name(&self.schema.columns[at].name).expect("the scan has it");
            self.each_last(&batch, asked, |id, micros, row| {
                if !known.contains_key(id) {
                    // In a part, a device's later rows come later.
                    let cells = self.columns.iter().map(|&at| cell(of(at), row)).collect();
                    found.insert(id.to_owned(), (micros, cells));
                }
            });
        }
        Ok(found)
    }

    /// The last row of each device in a batch that counts: its id, its time, its place.
    fn each_last(&self, batch: &RecordBatch, asked: &Asked, mut last: impl FnMut(&str, i64, usize)) {
        let (ids, times) = (texts(batch, "device_id"), times(batch, "timestamp"));
        let needed = self.needed.and_then(|at| batch.column_by_name(&self.schema.columns[at].name));
        let counts = |row: usize| self.window.holds_row(times, row) && needed.is_none_or(|values| values.is_valid(row));
        let mut start = 0;
        while start < batch.num_rows() {
            let id = ids.value(start);
            let end = (start + 1..batch.num_rows()).find(|&row| ids.value(row) != id).unwrap_or(batch.num_rows());
            let is_asked = asked.holds(id);
            if let Some(row) = (start..end).rev().find(|&row| is_asked && counts(row)) {
                last(id, times.value(row), row);
            }
            start = end;
        }
    }
}
