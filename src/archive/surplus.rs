//! Parts of a shard that stand in a day beside the newest one: what a publish left that was broken off, and what somebody
//! put there.
//!
//! Here is only said which is which. Who finds rows that stand nowhere else files them where they belong
//! ([refile](super::refile)).

use std::cmp::Ordering;
use std::path::PathBuf;

use arrow_array::RecordBatch;

use crate::bucket::Version;
use crate::schema::Schema;

use super::order::Keys;
use super::{Archive, ArchiveError, Checksum, Part, PartName, Partition};

impl Archive {
    /// The parts of a day that are not the newest of their shard: the archive's own readers pass over them. Where days are
    /// being filed into other shards, there is none.
    ///
    /// # Errors
    /// Where the day cannot be listed.
    pub fn surplus(&self, partition: &Partition) -> Result<Vec<(PartName, PathBuf)>, ArchiveError> {
        let newest = self.parts(partition)?;
        let mut parts = self.all_parts(partition)?;
        parts.retain(|(name, _)| newest.iter().all(|(newest, _)| newest != name));
        Ok(parts)
    }

    /// Every part of a day.
    pub(super) fn all_parts(&self, partition: &Partition) -> Result<Vec<(PartName, PathBuf)>, ArchiveError> {
        let days = self.store.listed(&partition.dataset, &(partition.date..=partition.date))?;
        Ok(days.into_values().flatten().map(|part| (part.name, part.path)).collect())
    }

    /// Those of the older parts of a shard that its newest one took the place of: each of their rows is in it, or a later
    /// one of the same key.
    pub(super) fn left_over(
        &self,
        older: Vec<(PartName, PathBuf)>,
        newest: &Part,
        schema: &Schema,
    ) -> Result<Vec<(PartName, Option<Version>)>, ArchiveError> {
        let mut found = Vec::new();
        for (name, path) in older {
            let older = self.hold(&path)?;
            let is_whole = older.checksum().is_ok_and(|checksum| checksum == Checksum::Right);
            if is_whole && older.part(schema).and_then(|older| has_all_of(newest, &older, schema)).unwrap_or(false) {
                found.push((name, older.version));
            }
        }
        Ok(found)
    }
}

/// Whether a part has a row for every key of another one.
///
/// # Errors
/// Where either cannot be read.
pub fn has_all_of(part: &Part, other: &Part, schema: &Schema) -> Result<bool, ArchiveError> {
    let (mut ours, mut theirs) = (part.batches(None), other.batches(None));
    let (mut our, mut their) = (Rest::default(), Rest::default());
    loop {
        if !their.is_refilled(&mut theirs)? {
            return Ok(true);
        }
        if !our.is_refilled(&mut ours)? {
            return Ok(false);
        }
        let (Some(a), Some(b)) = (&our.batch, &their.batch) else { continue };
        let (a, b) = (Keys::new(schema, a), Keys::new(schema, b));
        while our.has_more() && their.has_more() {
            match a.compare(our.next, &b, their.next) {
                Ordering::Less => our.next += 1,
                Ordering::Equal => (our.next, their.next) = (our.next + 1, their.next + 1),
                Ordering::Greater => return Ok(false),
            }
        }
    }
}

/// What is left of a batch.
#[derive(Default)]
struct Rest {
    batch: Option<RecordBatch>,
    next: usize,
}

impl Rest {
    fn has_more(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| self.next < batch.num_rows())
    }

    /// Whether there is a row, of the next batch if need be.
    fn is_refilled(
        &mut self,
        batches: &mut impl Iterator<Item = Result<RecordBatch, ArchiveError>>,
    ) -> Result<bool, ArchiveError> {
        while !self.has_more() {
            let Some(batch) = batches.next().transpose()? else { return Ok(false) };
            *self = Self { batch: Some(batch), next: 0 };
        }
        Ok(true)
    }
}
