//! Filing an archive's days into another number of shards.
//!
//! Each day is written anew, in the order of the days, and takes the old one's place. Until all are, nobody else can
//! write; broken off, it is done again from the start, which changes nothing of the days that were done. It needs
//! journals that are empty, which is the ingest's business.
//!
//! In a folder a day changes at once. In a bucket its parts come and go one by one: who reads meanwhile may find rows
//! twice, but misses none.

use crate::archive::{Archive, ArchiveError, Partition, ShardLock, while_replaced};
use crate::clock::Timestamp;
use crate::schema::Schema;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resharded {
    /// Days of all datasets.
    pub days: u64,
    /// Rows in them.
    pub rows: u64,
}

/// The days that have to be filed anew.
///
/// # Errors
/// Where a folder cannot be listed.
pub fn days(archive: &Archive) -> Result<Vec<Partition>, ArchiveError> {
    let days = Schema::all().map(|schema| archive.partitions(&schema));
    Ok(days.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

/// Files every day into so many shards. Whoever calls it holds every shard's lock, `first` among them; `done` is told
/// of each day.
///
/// # Errors
/// Where a part is damaged, of which nothing comes, or the file system or the object store says no: what was done before
/// stays done.
pub fn reshard(
    archive: Archive,
    first: &ShardLock,
    shards: u32,
    now: Timestamp,
    done: &mut dyn FnMut(&Partition),
) -> Result<Resharded, ArchiveError> {
    if !archive.is_resharding() {
        // Once it has begun nobody can write until it has ended: what would stop it is found before.
        for schema in Schema::all() {
            for partition in archive.partitions(&schema)? {
                let parts = archive.all_parts(&partition)?;
                parts.iter().try_for_each(|(_, part)| archive.check_whole(part, &schema))?;
            }
        }
    }
    let archive = archive.begin_resharding(shards, now)?;
    let mut all = Resharded::default();
    for schema in Schema::all() {
        for partition in archive.partitions(&schema)? {
            all.rows += file_anew(&archive, first, &schema, &partition, shards)?;
            all.days += 1;
            done(&partition);
        }
    }
    archive.end_resharding(now)?;
    Ok(all)
}

/// Files a day; returns its rows. What somebody else had begun to file before this one began may still come: then it is
/// read once more.
fn file_anew(
    archive: &Archive,
    first: &ShardLock,
    schema: &Schema,
    partition: &Partition,
    shards: u32,
) -> Result<u64, ArchiveError> {
    while_replaced(|| {
        let staged = archive.stage_resharded(first, schema, partition, shards)?;
        if staged.info.rows > 0 {
            return Ok(staged.publish()?.info.rows);
        }
        drop(staged);
        archive.remove_day(partition).map(|()| 0)
    })
}
