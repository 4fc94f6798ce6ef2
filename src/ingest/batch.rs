//! A segment of the journal as rows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::archive::Aside;
use crate::clock;
use crate::flatten::{Cell, Columns, FlattenError, Plan, Row};
use crate::journal::{Item, Segment};
use crate::schema::Schema;
use crate::snapshot::{Answer, Body, Poll};

use super::Plans;

/// What some segments hold.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) states: Columns,
    /// Each request, and the rows that it brought.
    pub(super) polls: Vec<(Poll, Range<usize>)>,
    /// The segments that were read.
    pub(super) segments: Vec<PathBuf>,
    /// Files for the quarantine: what is no row, and what is no frame.
    pub(super) aside: Vec<Aside>,
    /// Bodies that are no device state.
    pub(super) quarantined: u64,
    /// Stretches that are no frame.
    pub(super) gaps: u64,
    pub(super) drift: BTreeMap<String, u64>,
}

impl Batch {
    /// Nothing yet.
    pub(super) fn new(plans: &Plans) -> Self {
        Self {
            states: Columns::new(Arc::clone(plans.states.schema())),
            polls: Vec::new(),
            segments: Vec::new(),
            aside: Vec::new(),
            quarantined: 0,
            gaps: 0,
            drift: BTreeMap::new(),
        }
    }

    /// Adds what a segment holds.
    pub(super) fn read(&mut self, plans: &Plans, shard: u32, sequence: u64, segment: &Segment) {
        let stamp = Stamp::new(plans.states.schema());
        let name = format!("shard-{shard}-{sequence:010}");
        let mut row = Row::default();
        let mut no_rows = String::new();
        for item in segment.items() {
            match item {
                Item::Answer(answer) => self.take(&plans.states, &stamp, *answer, &mut row, &mut no_rows),
                Item::Gap { start, end } => {
                    self.gaps += 1;
                    self.aside.push(Aside {
                        name: format!("{name}-{start}"),
                        kind: "journal-gap",
                        from: format!("journal segment {sequence} of shard {shard}, bytes {start} to {end}"),
                        cause: "written in part, or bent since: no frame of the journal".to_owned(),
                        bytes: segment.bytes(start, end).to_vec(),
                    });
                }
            }
        }
        if !no_rows.is_empty() {
            self.aside.push(Aside {
                name,
                kind: "ndjson",
                from: format!("journal segment {sequence} of shard {shard}"),
                cause: "no device states: each line holds a body, where it came from, and why it is none".to_owned(),
                bytes: no_rows.into_bytes(),
            });
        }
    }

    /// Bytes of text and of what is set aside: about what is in memory.
    pub(super) fn bytes(&self) -> usize {
        self.states.text_bytes() + self.aside.iter().map(|aside| aside.bytes.len()).sum::<usize>()
    }

    /// Adds an answer: its bodies to the rows, or a line each to `no_rows`.
    fn take(&mut self, plan: &Plan, stamp: &Stamp, answer: Answer, row: &mut Row, no_rows: &mut String) {
        let first = self.states.rows();
        for body in &answer.bodies {
            match plan.flatten(&body.bytes, row) {
                Ok(()) => {
                    stamp.set(row, &answer);
                    self.states.push(row);
                    row.unmapped().for_each(|(path, _)| *self.drift.entry(without_positions(path)).or_default() += 1);
                }
                Err(error) => {
                    self.quarantined += 1;
                    no_rows.push_str(&Quarantined::line(&answer, body, &error));
                }
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
    origin: Option<String>,
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
            origin: body.origin.as_ref().map(ToString::to_string),
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
