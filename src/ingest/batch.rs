//! A segment of the journal as rows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use crate::archive::{Archive, ArchiveError};
use crate::clock;
use crate::flatten::{Cell, Columns, FlattenError, Plan, Row};
use crate::journal::{Item, Segment};
use crate::schema::Schema;
use crate::snapshot::{Answer, Body, Poll};

use super::Plans;

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Batch {
    sequence: u64,
    pub(super) states: Columns,
    /// Each request, and the rows that it brought.
    pub(super) polls: Vec<(Poll, Range<usize>)>,
    /// Bodies that are no device state, a line of JSON each.
    pub(super) quarantined: Vec<String>,
    /// Bytes that are no frame, and where they stand.
    pub(super) gaps: Vec<(u64, Vec<u8>)>,
    pub(super) drift: BTreeMap<String, u64>,
}

impl Batch {
    /// Reads a segment.
    pub(super) fn read(plans: &Plans, sequence: u64, segment: &Segment) -> Self {
        let schema = plans.states.schema();
        let stamp = Stamp::new(schema);
        let mut batch = Self {
            sequence,
            states: Columns::new(Arc::clone(schema)),
            polls: Vec::new(),
            quarantined: Vec::new(),
            gaps: Vec::new(),
            drift: BTreeMap::new(),
        };
        let mut row = Row::default();
        for item in segment.items() {
            match item {
                Item::Answer(answer) => batch.take(&plans.states, &stamp, *answer, &mut row),
                Item::Gap { start, end } => batch.gaps.push((start, segment.bytes(start, end).to_vec())),
            }
        }
        batch
    }

    /// Writes what is no row into the quarantine.
    pub(super) fn keep_aside(&self, archive: &Archive, shard: u32) -> Result<(), ArchiveError> {
        let name = format!("shard-{shard}-{:010}", self.sequence);
        if !self.quarantined.is_empty() {
            archive.quarantine(&format!("{name}.ndjson"), self.quarantined.concat().as_bytes())?;
        }
        for (start, bytes) in &self.gaps {
            archive.quarantine(&format!("{name}-{start}.journal-gap"), bytes)?;
        }
        Ok(())
    }

    fn take(&mut self, plan: &Plan, stamp: &Stamp, answer: Answer, row: &mut Row) {
        let first = self.states.rows();
        for body in &answer.bodies {
            match plan.flatten(&body.bytes, row) {
                Ok(()) => {
                    stamp.set(row, &answer);
                    self.states.push(row);
                    row.unmapped().for_each(|(path, _)| *self.drift.entry(without_positions(path)).or_default() += 1);
                }
                Err(error) => self.quarantined.push(Quarantined::line(&answer, body, &error)),
            }
        }
        if let Some(poll) = answer.poll {
            self.polls.push((poll, first..self.states.rows()));
        }
    }
}

/// Requests as rows. A poll's JSON is flattened like any other body.
pub(super) fn poll_columns(plan: &Plan, polls: &[Poll]) -> Columns {
    let mut columns = Columns::new(Arc::clone(plan.schema()));
    let mut row = Row::default();
    for poll in polls {
        let body = serde_json::to_vec(poll).expect("a poll always has a form in JSON");
        plan.flatten(&body, &mut row).expect("the poll table requires nothing that a poll lacks");
        columns.push(&row);
    }
    columns
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

    fn set(&self, row: &mut Row, answer: &Answer) {
        let texts = [
            (self.account_id, answer.account_id.as_str()),
            (self.sweep_id, &answer.sweep_id),
            (self.source, answer.source.as_str()),
        ];
        for (at, text) in texts {
            let cell = row.write(text);
            row.set(at, cell);
        }
        row.set(self.collected_at, Cell::Timestamp(answer.collected_at.timestamp_micros()));
    }
}

/// A body in the quarantine, with what is known about it.
#[derive(Serialize)]
struct Quarantined<'a> {
    cause: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    account_id: &'a str,
    sweep_id: &'a str,
    source: &'a str,
    collected_at: String,
    /// The body as it came, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// The body's bytes, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<&'a [u8]>,
}

impl<'a> Quarantined<'a> {
    fn line(answer: &'a Answer, body: &'a Body, cause: &FlattenError) -> String {
        let text = std::str::from_utf8(&body.bytes).ok();
        let entry = Quarantined {
            cause: cause.to_string(),
            origin: body.origin.as_deref(),
            account_id: answer.account_id.as_str(),
            sweep_id: &answer.sweep_id,
            source: answer.source.as_str(),
            collected_at: clock::format_timestamp(answer.collected_at),
            body: text,
            bytes: text.is_none().then_some(&body.bytes),
        };
        serde_json::to_string(&entry).expect("an entry always has a form in JSON") + "\n"
    }
}

/// A path without the positions in lists: `cpuPctByApp[3].pid` counts as `cpuPctByApp[].pid`.
fn without_positions(path: &str) -> String {
    let mut short = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        short.push_str(before);
        short.push('[');
        rest = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
    }
    short + rest
}

#[cfg(test)]
mod tests {
    #[test]
    fn drift_is_counted_without_positions() {
        for (path, expect) in [
            ("cpuPctByApp[3].pid", "cpuPctByApp[].pid"),
            ("cpuPctByApp[0][12].pid", "cpuPctByApp[][].pid"),
            ("rtt[\"x.y\"]", "rtt[\"x.y\"]"),
            ("new", "new"),
        ] {
            assert_eq!(super::without_positions(path), expect);
        }
    }
}
