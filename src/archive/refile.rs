//! Filing rows that stand in the wrong part: a part was moved, or the archive was said to have other shards.
//!
//! Rows are merged into the days and shards that they belong to, as new ones are. The part itself is not touched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;

use crate::schema::Schema;

use super::incoming::Incoming;
use super::order::{Spot, spots_of};
use super::salvage::{HELD_ROWS, readable};
use super::{Archive, ArchiveError, Checksum, ShardLock};

/// What was filed where it belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refiled {
    /// Rows.
    pub rows: u64,
    /// Parts of the days that they belong to which were found damaged, a sentence each.
    pub damaged: Vec<String>,
    /// Whether rows of these could not be carried over.
    pub loses_rows: bool,
}

impl Archive {
    /// Files those rows of a part elsewhere that do not belong where it stands, `own`; all of them where that is no place
    /// at all. Of a part that is not as it was written nothing is filed: a bent time or id belongs nowhere. Whoever calls
    /// it holds every shard's lock.
    ///
    /// # Errors
    /// Where the part cannot be read, or the days that its rows belong to not be written.
    pub fn refile(
        &self,
        locks: &[ShardLock],
        schema: &Arc<Schema>,
        path: &Path,
        own: Option<Spot>,
    ) -> Result<Refiled, ArchiveError> {
        let mut refiled = Refiled::default();
        let file = self.hold(path)?;
        if file.checksum()? != Checksum::Right {
            return Ok(refiled);
        }
        let part = file.part(schema)?;
        let (mut held, mut rows) = (Vec::new(), 0);
        for batch in readable(&part) {
            let batch = batch?;
            if spots_of(schema, &batch, self.shards, own.map_or(0, |own| own.shard)).keys().all(|at| Some(*at) == own) {
                continue;
            }
            rows += batch.num_rows();
            held.push(batch);
            if rows >= HELD_ROWS {
                self.file(locks, schema, &std::mem::take(&mut held), own, &mut refiled)?;
                rows = 0;
            }
        }
        self.file(locks, schema, &held, own, &mut refiled)?;
        Ok(refiled)
    }

    /// Merges rows into the parts that they belong to, but for those that stand where they should.
    fn file(
        &self,
        locks: &[ShardLock],
        schema: &Arc<Schema>,
        batches: &[RecordBatch],
        own: Option<Spot>,
        refiled: &mut Refiled,
    ) -> Result<(), ArchiveError> {
        let rows = concat_batches(schema.arrow(), batches).expect("they are of the schema");
        let spots: BTreeMap<Spot, Vec<u32>> = spots_of(schema, &rows, self.shards, own.map_or(0, |own| own.shard));
        for (spot, positions) in spots.into_iter().filter(|(spot, _)| Some(*spot) != own) {
            let Some(lock) = locks.iter().find(|lock| lock.shard == spot.shard) else { continue };
            let staged = self.stage(lock, schema, spot.date, Incoming::new(schema, &rows, &positions))?;
            refiled.damaged.extend(staged.damage());
            refiled.loses_rows |= staged.loses_rows(0);
            staged.publish()?;
            refiled.rows += positions.len() as u64;
        }
        Ok(())
    }
}
