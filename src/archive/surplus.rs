//! Parts of a shard that stand in a day beside the newest one: what a publish left that was broken off, and what somebody
//! put there.
//!
//! Here they are only told apart; rows that stand nowhere else are filed where they belong by [refile](super::refile).

use std::cmp::Ordering;

use arrow_array::RecordBatch;

use crate::bucket::Version;
use crate::schema::Schema;

use super::order::{Keys, replaces};
use super::{Archive, ArchiveError, Checksum, Part, PartName, Partition, Placed};

impl Archive {
    /// Every part of a day, also those that the archive's own readers pass over, as they are not the newest of their shard.
    ///
    /// # Errors
    /// Where the day cannot be listed.
    pub fn all_parts(&self, partition: &Partition) -> Result<Vec<Placed>, ArchiveError> {
        let days = self.store.listed(&partition.dataset, &(partition.date..=partition.date))?;
        Ok(days.into_values().flatten().map(|part| (part.name, part.path)).collect())
    }

    /// The newest part of a shard in a day, and the older ones beside it.
    pub(super) fn parts_of_shard(
        &self,
        partition: &Partition,
        shard: u32,
    ) -> Result<(Option<Placed>, Vec<Placed>), ArchiveError> {
        let mut parts = self.all_parts(partition)?;
        parts.retain(|(name, _)| name.shard == shard);
        parts.sort_unstable();
        Ok((parts.pop(), parts))
    }

    /// Those of the older parts of a shard that its newest one took the place of: each of their rows is in it, or a later
    /// one of the same key.
    pub(super) fn left_over(
        &self,
        older: Vec<Placed>,
        newest: &Part,
        schema: &Schema,
    ) -> Result<Vec<(PartName, Option<Version>)>, ArchiveError> {
        let mut found = Vec::new();
        for (name, path) in older {
            let older = self.hold(&path)?;
            let is_whole = older.checksum().is_ok_and(|checksum| checksum == Checksum::Right);
            if is_whole && older.part(schema).and_then(|older| has_all_of(newest, &older, schema)).unwrap_or(false) {
                found.push((name, older.version));
            } else {
                tracing::warn!(part = %path.display(), "stands beside the day's own part, and readers find its rows too: see `dex-archive verify`");
            }
        }
        Ok(found)
    }
}

/// Whether a part has every row of another one, or for its key one that would take its place.
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
                // Of two rows with one key, it is the other part's that would stay: it is not in this one.
                Ordering::Equal
                    if replaces(&b, their.next, &a, our.next) && !replaces(&a, our.next, &b, their.next) =>
                {
                    return Ok(false);
                }
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
