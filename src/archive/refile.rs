//! Filing rows that stand in the wrong part: a part was moved, or the archive was said to have other shards.
//!
//! Rows are merged into the days and shards that they belong to, as new ones are. The part itself is not touched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;

use crate::schema::Schema;

use super::merge::{Incoming, readable};
use super::order::{Spot, spots_of};
use super::{Archive, ArchiveError, Checksum, ShardLock};

/// Rows that are held until they are merged.
const HELD_ROWS: usize = 200_000;

impl Archive {
    /// Files those rows of a part elsewhere that do not belong where it stands, `own`; all of them where that is no place
    /// at all. Of a part that is not as it was written nothing is filed: a bent time or id belongs nowhere. Returns how
    /// many were. Whoever calls it holds every shard's lock.
    ///
    /// # Errors
    /// Where the part cannot be read, or the days that its rows belong to not be written.
    pub fn refile(
        &self,
        locks: &[ShardLock],
        schema: &Arc<Schema>,
        path: &Path,
        own: Option<Spot>,
    ) -> Result<u64, ArchiveError> {
        let file = self.hold(path)?;
        if file.checksum()? != Checksum::Right {
            return Ok(0);
        }
        let part = file.part(schema)?;
        let (mut held, mut rows, mut filed) = (Vec::new(), 0, 0);
        for batch in (0..part.groups()).flat_map(|group| readable(&part, group)) {
            let batch = batch?;
            if spots_of(schema, &batch, self.shards, own.map_or(0, |own| own.shard)).keys().all(|at| Some(*at) == own) {
                continue;
            }
            rows += batch.num_rows();
            held.push(batch);
            if rows >= HELD_ROWS {
                filed += self.file(locks, schema, &std::mem::take(&mut held), own)?;
                rows = 0;
            }
        }
        Ok(filed + self.file(locks, schema, &held, own)?)
    }

    /// Merges rows into the parts that they belong to, but for those that stand where they should.
    fn file(
        &self,
        locks: &[ShardLock],
        schema: &Arc<Schema>,
        batches: &[RecordBatch],
        own: Option<Spot>,
    ) -> Result<u64, ArchiveError> {
        let rows = concat_batches(schema.arrow(), batches).expect("they are of the schema");
        let spots: BTreeMap<Spot, Vec<u32>> = spots_of(schema, &rows, self.shards, own.map_or(0, |own| own.shard));
        let mut filed = 0;
        for (spot, positions) in spots.into_iter().filter(|(spot, _)| Some(*spot) != own) {
            let Some(lock) = locks.iter().find(|lock| lock.shard == spot.shard) else { continue };
            self.stage(lock, schema, spot.date, Incoming::new(schema, &rows, &positions))?.publish()?;
            filed += positions.len() as u64;
        }
        Ok(filed)
    }
}
