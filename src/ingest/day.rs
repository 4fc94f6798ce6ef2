//! The rows of a day, made of bodies as they are wanted: in the order in which they stand in the part.
//!
//! A body is flattened right behind the one of the same device before it, which is mostly the same. What is found on
//! the way (bodies that are no device state, values without a column) is kept until somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::archive::{ArchiveError, Incoming, Stretches, Supply};
use crate::flatten::{Cell, Columns, FlattenError, Plan, Row};
use crate::schema::{Schema, without_positions};

use super::bodies::{Bodies, BodyPlace, Head, SortedBy};

/// Rows that are made at a time. Column by column, they are looked up among the values that a part has had so far; of
/// few, each column's come from far in memory again and again.
const STRETCH_ROWS: usize = 8 * 1024;

/// A stretch ends behind so many bytes of bodies, however few rows that are.
const STRETCH_BYTES: u64 = 32 << 20;

/// What is said of a body that is of another device or time than when it was sorted.
const CHANGED: &str = "a body is not what it was a moment ago: somebody has written to its file";

/// The bodies of a part.
#[derive(Debug)]
pub(super) struct DayRows {
    bodies: Arc<Bodies>,
    plan: Arc<Plan>,
    /// By device and time.
    order: Vec<BodyPlace>,
    found: Mutex<Found>,
}

/// What became of the bodies when they were last read.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The body of each row, in the order of the stretches.
    pub(super) rows: Vec<u32>,
    /// Bodies that are no device state.
    pub(super) no_states: BTreeMap<u32, FlattenError>,
    /// Values that no column could hold, by path without list positions.
    pub(super) drift: BTreeMap<String, u64>,
}

impl DayRows {
    pub(super) fn new(bodies: Arc<Bodies>, plan: Arc<Plan>, order: Vec<BodyPlace>) -> Self {
        Self { bodies, plan, order, found: Mutex::default() }
    }

    /// Where the bodies lie.
    pub(super) fn places(&self) -> impl Iterator<Item = BodyPlace> {
        self.order.iter().copied()
    }

    /// Whether each body became a row or is known to be none, when they were last read.
    pub(super) fn is_all_found(&self) -> bool {
        let found = self.found();
        found.rows.len() + found.no_states.len() == self.order.len()
    }

    /// What was found when the rows were last read to their end.
    pub(super) fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supply for DayRows {
    fn expected(&self) -> usize {
        self.order.len()
    }

    fn in_order(&self) -> Stretches<'_> {
        Box::new(Reading {
            day: self,
            next: 0,
            stamp: Stamp::new(self.plan.schema()),
            columns: Columns::new(Arc::clone(self.plan.schema())),
            row: Row::default(),
            body: Vec::new(),
            found: Found::default(),
            is_ended: false,
        })
    }
}

/// Bodies on their way to rows.
struct Reading<'a> {
    day: &'a DayRows,
    /// The place in the order that comes next.
    next: usize,
    stamp: Stamp,
    columns: Columns,
    row: Row,
    body: Vec<u8>,
    found: Found,
    is_ended: bool,
}

impl Iterator for Reading<'_> {
    type Item = Result<Incoming, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut last, mut bytes) = (None, 0);
        while let Some(&place) = self.day.order.get(self.next) {
            // Rows that only other columns put in order are in one stretch, which sorts them.
            let key = self.day.bodies.key(place);
            // A stretch without a row would be taken for the end of all.
            let rows = self.columns.rows();
            let is_enough = rows >= STRETCH_ROWS || (rows > 0 && bytes >= STRETCH_BYTES);
            if is_enough && last.is_some_and(|last| last != key) {
                break;
            }
            last = Some(key);
            bytes += place.bytes();
            self.next += 1;
            if let Err(error) = self.read(place) {
                return Some(Err(error));
            }
        }
        if self.columns.rows() == 0 {
            if !std::mem::replace(&mut self.is_ended, true) {
                *self.day.found() = std::mem::take(&mut self.found);
            }
            return None;
        }
        let batch = self.columns.finish();
        Some(Ok(Incoming::of_all(self.day.plan.schema(), &batch)))
    }
}

impl Reading<'_> {
    /// Reads a body into the columns.
    fn read(&mut self, place: BodyPlace) -> Result<(), ArchiveError> {
        let DayRows { bodies, plan, .. } = self.day;
        bodies.read(place, &mut self.body).map_err(|error| ArchiveError::Incoming(error.into()))?;
        let by = SortedBy::new(plan.schema());
        if let Err(error) = by.flatten(plan, &self.body, &mut self.row) {
            self.found.no_states.insert(place.number, error);
            return Ok(());
        }
        if by.of(&self.row) != bodies.key(place) {
            // Its row would stand at a wrong place.
            return Err(ArchiveError::Incoming(CHANGED.into()));
        }
        self.stamp.set(&mut self.row, bodies.head(place));
        self.columns.push(&self.row);
        self.found.rows.push(place.number);
        for (path, _) in self.row.unmapped() {
            *self.found.drift.entry(without_positions(path)).or_default() += 1;
        }
        Ok(())
    }
}

/// The columns that say where a row comes from.
struct Stamp {
    account_id: usize,
    collected_at: usize,
    sweep_id: usize,
    source: usize,
}

impl Stamp {
    fn new(schema: &Schema) -> Self {
        let at = |name| schema.index_of(name).expect("the table has the columns that the archive itself writes");
        Self {
            account_id: at("account_id"),
            collected_at: at("collected_at"),
            sweep_id: at("sweep_id"),
            source: at("source"),
        }
    }

    fn set(&self, row: &mut Row, head: &Head) {
        let texts = [
            (self.account_id, head.account_id.as_str()),
            (self.sweep_id, &head.sweep_id),
            (self.source, head.source.as_str()),
        ];
        texts.into_iter().for_each(|(at, text)| row.set_text(at, text));
        row.set(self.collected_at, Cell::Timestamp(head.collected_at.timestamp_micros()));
    }
}
