//! Putting a new version of a day in the place of the old one.
//!
//! A part is written and synced in a staging folder on the local disk; [`Staged::publish`] lets the [store](super::store)
//! put it in place, after what was found damaged of the old version went to the [quarantine](super::quarantine). In a local
//! folder, what was live lingers for those who have it open, and goes at a later publish.

use std::sync::Arc;

use crate::bucket::Version;

use super::merge::Redo;
use super::quarantine::Damage;
use super::staging::Staging;
use super::{Archive, ArchiveError, PartName, Partition};

/// So many times in a row, others may be faster.
const MOST_RACES: u32 = 20;

/// Does something once more where somebody else was faster, as often as that may be.
///
/// # Errors
/// As what is done; [`ArchiveError::is_replaced`] where somebody was faster each time.
pub fn while_replaced<T>(mut once: impl FnMut() -> Result<T, ArchiveError>) -> Result<T, ArchiveError> {
    for _ in 0..MOST_RACES {
        match once() {
            Err(error) if error.is_replaced() => (),
            done => return done,
        }
    }
    once()
}

/// A new version of a day, written and synced, that no reader sees yet. Dropping it leaves the
/// archive as it was.
#[derive(Debug)]
#[must_use = "what is staged is not published"]
pub struct Staged {
    pub(super) partition: Partition,
    pub(super) folder: Staging,
    /// The shard whose writer it is.
    pub(super) shard: u32,
    /// The parts in the folder.
    pub(super) names: Vec<PartName>,
    /// The parts that they take the place of.
    pub(super) bases: Vec<(PartName, Option<Version>)>,
    pub(super) damage: Option<Damage>,
    /// How it is done again, where somebody else may write meanwhile.
    pub(super) redo: Option<Redo>,
    /// What was staged.
    pub info: PartInfo,
    /// For each row that was merged: whether its key is new to the archive.
    pub fresh: Vec<bool>,
}

/// What a part holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartInfo {
    /// Rows in the part.
    pub rows: u64,
    /// Rows in the part that it takes the place of.
    pub rows_before: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// What became live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedDay {
    /// What the part holds.
    pub info: PartInfo,
    /// For each row that was merged: whether its key was new to the archive.
    pub fresh: Vec<bool>,
    /// What was found wrong with the day's old part: a sentence.
    pub damage: Option<String>,
}

impl Staged {
    /// Makes the new version the day's only one, durably. Where somebody else wrote the day since it was read, merges
    /// into that and tries again.
    ///
    /// # Errors
    /// Where the file system or the object store says no. The old version then stands; or, where
    /// [`ArchiveError::is_replaced`], another one that somebody else wrote meanwhile.
    pub fn publish(mut self) -> Result<PublishedDay, ArchiveError> {
        for _ in 0..MOST_RACES {
            let published = self.publish_once();
            match (&published, self.redo.take()) {
                (Err(error), Some(redo)) if error.is_replaced() => {
                    let (archive, shard) = (self.folder.archive.clone(), self.shard);
                    // The folder of the first attempt is in the way of the next.
                    drop(self);
                    self = archive.stage_from(shard, &redo)?;
                }
                _ => return published.map(|()| self.into_live()),
            }
        }
        self.publish_once().map(|()| self.into_live())
    }

    fn into_live(mut self) -> PublishedDay {
        PublishedDay { info: self.info, fresh: std::mem::take(&mut self.fresh), damage: self.damage() }
    }

    fn publish_once(&mut self) -> Result<(), ArchiveError> {
        let archive = self.folder.archive.clone();
        let _lock = archive.lock_publish()?;
        if let Some(damage) = &self.damage {
            archive.keep_damaged(&self.partition, self.shard, damage)?;
        }
        Arc::clone(&archive.store).replace(&archive, self)
    }

    /// Whether a part of the day is one that it takes the place of: one that was read for it. What else stands there has
    /// rows that are nowhere else, whatever its name is.
    pub(super) fn replaces(&self, part: PartName) -> bool {
        self.bases.iter().any(|(base, _)| *base == part) || self.names.contains(&part)
    }

    /// Whether it has no row and takes the place of none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.info.rows == 0 && self.bases.is_empty() && self.damage.is_none()
    }

    /// Whether rows of the day's old part could not be carried over, or their values may have changed. So many that
    /// belonged elsewhere are there by now.
    #[must_use]
    pub fn loses_rows(&self, refiled: u64) -> bool {
        let loses = |damage: &Damage| damage.rows_lost != Some(0) || damage.is_bent || damage.elsewhere > refiled;
        self.damage.as_ref().is_some_and(loses)
    }

    /// What was found wrong with the day's old part: a sentence.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        self.damage.as_ref().map(Damage::sentence)
    }
}

impl Archive {
    /// Takes a day out of the archive, all of it, and removes it. Whoever calls it holds every shard's lock.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn remove_day(&self, partition: &Partition) -> Result<(), ArchiveError> {
        let _lock = self.lock_publish()?;
        self.store.remove_day(self, partition)
    }
}
