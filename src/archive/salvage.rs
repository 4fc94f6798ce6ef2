//! What can still be read of a part that is not as it was written, or that somebody else wrote.
//!
//! Every row that can be read and belongs to the part's day and shard is carried over: what stands in its order as it
//! comes, and what does not is sorted in again. The part itself is kept, which is the [publish](super::publish)'s business.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;

use crate::schema::Schema;

use super::incoming::{Incoming, Supply};
use super::merge::Merge;
use super::order::{Spot, elsewhere, misplaced, spots_of};
use super::quarantine::Damage;
use super::read::{BATCH_ROWS, PartFile};
use super::staging::warn;
use super::write::PartWriter;
use super::{Archive, ArchiveError, Checksum, Part, paths};

/// Rows that stand out of order, or elsewhere, are held until they are so many, and then merged.
pub(super) const HELD_ROWS: usize = 200_000;

/// Some rows of a part, with which something is wrong.
#[derive(Default)]
struct Found {
    /// The batches, by their numbers, of which the rows stand out of order.
    astray: BTreeSet<usize>,
    kept: u64,
    elsewhere: u64,
    problem: Option<String>,
}

impl Archive {
    /// The rows of an old part that can be believed: all of one that is as it was written, and of another what can be
    /// salvaged. Says what is wrong with it, if something is.
    pub(super) fn believed(
        &self,
        old: PartFile,
        schema: &Schema,
        spot: Spot,
        trusting: bool,
    ) -> Result<(Option<Part>, Option<Damage>), ArchiveError> {
        let checksum = old.checksum()?;
        // Columns that nobody knows may be a newer program's, but hardly in a file without its checksum.
        let part = if checksum == Checksum::Right { old.part(schema) } else { old.part_of_anybody(schema) };
        let part = match part {
            Err(ArchiveError::Damaged { problem, .. }) => return Ok((None, Some(Damage::of_all(old, problem)))),
            Err(ArchiveError::Schema { column, .. }) if checksum != Checksum::Right => {
                let problem = format!("somebody else's, or bent: its column {column:?} is not as ours");
                return Ok((None, Some(Damage::of_all(old, problem))));
            }
            other => other?,
        };
        if checksum == Checksum::Right && trusting {
            return Ok((Some(part), None));
        }
        let (salvaged, found) = self.salvaged(&part, schema, spot)?;
        let rows_lost = Some(part.rows().saturating_sub(found.kept + found.elsewhere));
        let passed_over = || {
            let names: Vec<String> = part.strange_columns().iter().map(|name| format!("{name:?}")).collect();
            (!names.is_empty())
                .then(|| format!("its columns {} are not as ours, and were passed over", names.join(", ")))
        };
        let is_wrong = checksum == Checksum::Wrong;
        let problem = found.problem.or_else(passed_over).or(is_wrong.then(|| "its checksum is wrong".to_owned()));
        let is_bent = is_wrong || !part.strange_columns().is_empty();
        let elsewhere = found.elsewhere;
        let damage = problem.map(|problem| Damage { part: old, problem, rows_lost, elsewhere, is_bent });
        Ok((Some(salvaged), damage))
    }

    /// A sound part of what can be read of another one and belongs to its spot.
    fn salvaged(&self, part: &Part, schema: &Schema, spot: Spot) -> Result<(Part, Found), ArchiveError> {
        let place = (spot, self.shards);
        let mut found = Found::default();
        let (path, mut writer) = self.salvage_writer(schema, spot, part.rows())?;
        let mut last: Option<RecordBatch> = None;
        for (number, batch) in readable(part).enumerate() {
            let own = match batch.map(|batch| found.own(schema, &batch, place)) {
                Ok(own) if own.num_rows() == 0 => continue,
                Ok(own) => own,
                Err(ArchiveError::Damaged { problem, .. }) => {
                    found.problem = Some(problem);
                    continue;
                }
                Err(error) => return Err(error),
            };
            found.kept += own.num_rows() as u64;
            if let Some(problem) = misplaced(schema, last.as_ref(), &own, place, true) {
                found.problem = Some(problem.to_owned());
                found.astray.insert(number);
            } else {
                writer.write(&own)?;
                last = Some(own);
            }
        }
        writer.finish(schema)?;
        let mut salvaged = self.unnamed(&path, schema)?;
        if found.astray.is_empty() {
            return Ok((salvaged, found));
        }
        let (mut held, mut rows) = (Vec::new(), 0);
        for (_, batch) in readable(part).enumerate().filter(|(number, _)| found.astray.contains(number)) {
            // It was counted before, when it could be read.
            let own = Found::default().own(schema, &batch?, place);
            rows += own.num_rows();
            held.push(own);
            if rows >= HELD_ROWS {
                salvaged = self.with_rows(&salvaged, schema, spot, &std::mem::take(&mut held))?;
                rows = 0;
            }
        }
        if !held.is_empty() {
            salvaged = self.with_rows(&salvaged, schema, spot, &held)?;
        }
        Ok((salvaged, found))
    }

    /// A part with more rows at their places among its own.
    fn with_rows(
        &self,
        part: &Part,
        schema: &Schema,
        spot: Spot,
        batches: &[RecordBatch],
    ) -> Result<Part, ArchiveError> {
        let rows = concat_batches(schema.arrow(), batches).expect("they are of the schema");
        let incoming = Incoming::of_all(schema, &rows);
        let (path, writer) = self.salvage_writer(schema, spot, part.rows() + rows.num_rows() as u64)?;
        let mut merge = Merge::new(schema, incoming.in_order(), writer);
        merge.pass_all(part)?;
        merge.finish()?;
        self.unnamed(&path, schema)
    }

    /// A file for salvaged rows, where no reader sees it and the next writer clears away what a killed process leaves.
    fn salvage_writer(&self, schema: &Schema, spot: Spot, rows: u64) -> Result<(PathBuf, PartWriter), ArchiveError> {
        let staging = paths::staging(&self.own, spot.shard);
        self.disk.make_dirs(&staging)?;
        let path = self.unfinished_path(&staging, &format!("{}.{}", schema.dataset, spot.date))?;
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let writer = PartWriter::create(&self.disk, &path, schema, rows)?;
        Ok((path, writer))
    }

    /// The part at a path, which goes: it is open.
    fn unnamed(&self, path: &Path, schema: &Schema) -> Result<Part, ArchiveError> {
        let part = Part::open(path, schema);
        self.disk.remove(path).unwrap_or_else(|error| warn(&error));
        part
    }
}

impl Found {
    /// The rows of a batch that belong where it stands; notes how many others are among them.
    fn own(&mut self, schema: &Schema, batch: &RecordBatch, (spot, shards): (Spot, u32)) -> RecordBatch {
        let mut spots = spots_of(schema, batch, shards, spot.shard);
        let Some(said) = elsewhere(&spots, spot) else { return batch.clone() };
        self.problem = Some(said.to_owned());
        let rows = UInt32Array::from(spots.remove(&spot).unwrap_or_default());
        self.elsewhere += (batch.num_rows() - rows.values().len()) as u64;
        take_record_batch(batch, &rows).expect("every position lies in the batch")
    }
}

/// The batches of a part that can be read, and an error for each that cannot.
pub(super) fn readable(part: &Part) -> impl Iterator<Item = Result<RecordBatch, ArchiveError>> {
    (0..part.groups()).flat_map(|group| readable_of(part, group))
}

/// The batches of a row group that can be read, and an error for each that cannot: behind it, reading begins anew.
fn readable_of(part: &Part, group: usize) -> impl Iterator<Item = Result<RecordBatch, ArchiveError>> {
    let (mut at, mut batches) = (0, None);
    std::iter::from_fn(move || {
        while at < part.group_rows(group) {
            let opened = match batches.take() {
                Some(batches) => Ok(batches),
                None => part.group_from(group, at),
            };
            let next = opened.and_then(|mut opened| {
                let next = opened.next().transpose();
                batches = next.is_ok().then_some(opened);
                next
            });
            at += next.as_ref().map_or(BATCH_ROWS, |batch| batch.as_ref().map_or(BATCH_ROWS, RecordBatch::num_rows));
            if let Some(next) = next.transpose() {
                return Some(next);
            }
        }
        None
    })
}
