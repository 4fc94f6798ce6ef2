//! The archive on disk: paths, locks, and the reading, merging and publishing of Parquet.
//!
//! # Format
//!
//! ```text
//! ARCHIVE/
//!   device_state/date=2026-11-24/part-0-000042.parquet   one row per device state
//!   poll/date=2026-11-24/part-0-000042.parquet           one row per API request
//!   _archive/archive.json                                format version, number of shards, keys of pseudonyms
//!   _archive/journal/shard-0/                            answers that are not yet published
//!   _archive/staging/shard-0/                            days that are being built
//!   _archive/quarantine/                                 what was received and could not be filed
//!   _archive/resume/ACCOUNT.shard-0.json                 where the next single sweep goes on
//!   _archive/shard-0.lock, _archive/publish.lock
//! ```
//!
//! In a bucket of an object store there are the parts and `archive.json` under the same names; journal, staging,
//! quarantine and locks are in a folder on the writer's disk, with the address of the archive (`archive-url`) and what of
//! `archive.json` a writer has to know while the bucket cannot be asked.
//!
//! * There is exactly one part per dataset, day and shard. `part-0-000042` is the 42nd publish of
//!   that day by shard 0. A device always falls into the same shard: the XXH64 of its id (seed 0), modulo the number
//!   of shards.
//! * The day is the UTC date of `timestamp`, or of `collected_at` where a state has no readable
//!   timestamp. It stands in the path only.
//! * A path's content never changes: readers open a path more than once per query, and a file that is
//!   replaced under them gives wrong answers. A publish builds the day's folder anew in `staging` and
//!   exchanges it with the live one, so that a reader sees the old day or the new, never both or half.
//!   The old folder stays in `staging` for some seconds, unchanged: a reader may have it open and be
//!   about to list it. What no writer can prevent: pyarrow and DuckDB look up each name that they have
//!   listed, and pass over one that was replaced in between; readers that are handed files fail cleanly.
//! * In a bucket a part keeps its key, `part-0-000001` unless the archive was resharded: it is written in one request,
//!   and only if it still is what was merged into it (`If-Match`), or is new (`If-None-Match: *`). Whoever loses such a
//!   race merges again. Readers that ask for the version they began with (`query`, DuckDB) are told where it is gone.
//! * Nothing but complete Parquet files stands in a dataset's folder, not for a moment: no temporary
//!   name is skipped by all of DuckDB, pandas and Polars.
//! * Every part holds every column of its schema, with the same type for ever. Columns are only added.
//! * Rows are sorted by the schema's key, which is unique in the archive; nulls come first. Of two
//!   states with one key, the one collected last stays. States without a readable timestamp are told
//!   apart by when they were collected and, of one such moment, by their values, column by column.
//! * Parts carry statistics, name their sorting columns, and say in their key-value metadata which format,
//!   schema and tool they come from. Whole numbers and times are delta-encoded and not compressed, the rest is
//!   zstd. The columns that rows are known by have bounds for each page.
//! * In front of its footer, where readers of Parquet do not look, each part has an outline: which keys each
//!   row group holds, where in it the rows of each device begin, and where in the footer it is described. `query`
//!   reads by it; it can be done without.
//!
//! This module does not know where rows come from: it is handed Arrow batches of a schema. It is the
//! only user of Parquet. Every change on the disk goes through [`Disk`].

mod checksum;
mod description;
mod export;
mod folder;
mod incoming;
mod interleave;
mod key_index;
mod lock;
mod merge;
mod object;
mod order;
mod outline;
mod pages;
mod paths;
mod place;
mod provenance;
mod publish;
mod quarantine;
mod read;
mod refile;
mod resume;
mod salvage;
mod scan;
mod source;
mod staging;
mod store;
mod surplus;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDate;
use parquet::errors::ParquetError;

use crate::bucket::BucketError;
use crate::clock::{self, Timestamp};
use crate::disk::{Disk, DiskError};
use crate::schema::Schema;

pub use checksum::Checksum;
pub use description::KeyMark;
pub use export::to_parquet;
pub use incoming::{Incoming, Stretches, Supply};
pub use lock::{ShardLock, Shards};
pub use order::{Spot, day_of, is_any_of, is_in_shard, misplaced, partitions_of, shard_name, shard_of, shards_by_name};
pub use paths::{OWN_FOLDER, PartName, Partition, Placed};
pub use place::Place;
pub use provenance::Provenance;
pub use publish::{PartInfo, PublishedDay, Staged, while_replaced};
pub use quarantine::{Aside, AsideKind, is_report, report_of};
pub use read::{Part, PartFile, Piece};
pub use refile::Refiled;
pub use scan::Scan;
pub use store::Entry;
pub use surplus::has_all_of;

use store::{Days, Listed, Store};

/// The version of the format above.
pub const ARCHIVE_FORMAT: u32 = 1;

/// An archive that is known to be one of this format.
#[derive(Debug, Clone)]
pub struct Archive {
    root: PathBuf,
    /// The folder on the local disk of all that is not data.
    own: PathBuf,
    store: Arc<dyn Store>,
    shards: u32,
    /// Days may still be in parts of another number of shards.
    is_resharding: bool,
    /// When that was begun last.
    resharding_since: Option<String>,
    pseudonym_keys: Vec<KeyMark>,
    disk: Disk,
    linger: Duration,
}

/// Why an archive cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is none at the path.
    #[error("{} is no archive: `collect` or `import` makes one there", .0.display())]
    Absent(PathBuf),
    /// The path is taken by something else.
    #[error("{} is a file: an archive is a folder", .0.display())]
    NotAFolder(PathBuf),
    /// There is something in the folder, and it is no archive.
    #[error("{} is not empty and no archive: name an empty or a new folder", .0.display())]
    Foreign(PathBuf),
    /// It was made by a later version.
    #[error("archive {} has format {found}, this version reads {ARCHIVE_FORMAT}: use the newer dex-archive", path.display())]
    Format {
        /// The archive.
        path: PathBuf,
        /// The format it says it has.
        found: u32,
    },
    /// Its description cannot be read.
    #[error("{} is damaged: {problem}; restore it, or write {{\"format\":{ARCHIVE_FORMAT},\"shards\":{shards}}} into it", path.display())]
    Description {
        /// The description's file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The number of shards, as far as the parts' names and devices tell.
        shards: u32,
    },
    /// Another collector writes to the shard.
    #[error("archive {} is in use by {holder}: wait for it, or stop it", path.display())]
    Locked {
        /// The archive.
        path: PathBuf,
        /// Who says to hold the lock.
        holder: String,
    },
    /// There is no such shard.
    #[error("archive {} has {shards} shards, counted from 0, and no shard {shard}", path.display())]
    NoShard {
        /// The archive.
        path: PathBuf,
        /// The shard.
        shard: u32,
        /// How many there are.
        shards: u32,
    },
    /// Its days are being filed into another number of shards, or that was broken off.
    #[error("archive {} is being filed into other shards: wait for it, or end it by `reshard --shards {shards}`", path.display())]
    Resharding {
        /// The archive.
        path: PathBuf,
        /// How many there will be.
        shards: u32,
    },
    /// Its days were filed into another number of shards since it was opened.
    #[error("archive {} was filed into {shards} shards meanwhile: start this command again", path.display())]
    Resharded {
        /// The archive.
        path: PathBuf,
        /// How many there are now.
        shards: u32,
    },
    /// The archive is a folder and is to have its state elsewhere.
    #[error("{} is a folder and keeps its own state: --state-dir is for archives in a bucket", .0.display())]
    StateElsewhere(PathBuf),
    /// The folder of the state belongs to another archive.
    #[error("{} is the state of {claimed}: name another --state-dir for this archive", path.display())]
    Claimed {
        /// The folder.
        path: PathBuf,
        /// The archive that it belongs to.
        claimed: String,
    },
    /// It is another user's, and this is root: what root writes, that one could not write anew.
    #[error(
        "{} belongs to user {owner}, who could not change what root writes into it: run this as that user (`sudo -u '#{owner}' …`), or, if root is to write from now on, `chown -R root` the folder",
        path.display()
    )]
    NotOwner {
        /// The archive, or the folder of its state.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// What comes into a day cannot be read.
    #[error(transparent)]
    Incoming(Box<dyn std::error::Error + Send + Sync>),
    /// The object store gives no answer, or has not for some time.
    #[error("{} gives no answer in {}: look at the network, and at the address of the store", path.display(), clock::format_duration(*waited))]
    Slow {
        /// The archive.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The object store does not do it.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The file system would not change something.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file system would not let something be read.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// A part is not as it was written.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The part.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Rows could not be written as Parquet.
    #[error("cannot write {}: {error}", path.display())]
    Parquet {
        /// The part.
        path: PathBuf,
        /// What is wrong.
        error: ParquetError,
    },
    /// A part has a column that the schema has not, or has with another type.
    #[error("{} has a column {column:?} that is not as in this version's schema: use a newer dex-archive, or, where another tool wrote it, `verify --repair`", path.display())]
    Schema {
        /// The part.
        path: PathBuf,
        /// The column.
        column: String,
    },
}

impl Archive {
    /// Opens the archive at a place.
    ///
    /// # Errors
    /// Where there is none, or none of this format.
    pub fn open(place: impl Into<Place>) -> Result<Self, ArchiveError> {
        let archive = Self::new(&place.into(), 1);
        match archive.store.description()? {
            Some(text) => {
                let said = archive.read_description(&text)?;
                Ok(archive.described(said))
            }
            None => Err(archive.undescribed()),
        }
    }

    /// Opens the archive at a place, or makes one there with the given number of shards.
    ///
    /// # Errors
    /// Where there is something else, an archive of another format, or no right to write.
    pub fn open_or_create(
        place: impl Into<Place>,
        shards: u32,
        now: Timestamp,
        disk: Disk,
    ) -> Result<Self, ArchiveError> {
        let place = place.into();
        let created = match Self::open(&place) {
            Err(ArchiveError::Absent(_)) => Self::create(&place, shards, now, disk.clone()),
            other => return Ok(other?.on(disk)),
        };
        match created {
            // Where somebody else has just made it, that one is as good.
            Err(error) => Self::open(&place).map(|archive| archive.on(disk)).map_err(|_absent| error),
            created => created,
        }
    }

    /// This archive, written through another disk.
    #[must_use]
    pub fn on(self, disk: Disk) -> Self {
        Self { disk, ..self }
    }

    /// This archive, in which a day that was replaced stays for so long for readers that have it open: 2 seconds unless
    /// something is said.
    #[must_use]
    pub fn lingering(self, linger: Duration) -> Self {
        Self { linger, ..self }
    }

    /// What the archive is written through.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Opens what is there; none where [`Archive::open_or_create`] would have to make one. Writes nothing.
    ///
    /// # Errors
    /// As for [`Archive::open`], but for one that is absent.
    pub fn find(place: impl Into<Place>) -> Result<Option<Self>, ArchiveError> {
        match Self::open(place) {
            Ok(archive) => Ok(Some(archive)),
            Err(ArchiveError::Absent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The folder of the archive, or its address.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of what is always on a local disk: journal, staging, quarantine and locks.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.own
    }

    /// Whether the parts are on the same disk, which they fill.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        self.own.starts_with(&self.root)
    }

    /// The folder of a dataset, which may not be there yet.
    #[must_use]
    pub fn dataset_dir(&self, schema: &Schema) -> PathBuf {
        paths::dataset(&self.root, &schema.dataset)
    }

    /// The folder of a shard's journal, which may not be there yet.
    #[must_use]
    pub fn journal_path(&self, shard: u32) -> PathBuf {
        paths::journal(&self.own, shard)
    }

    /// Journals of shards that there are no more, since the archive was filed into fewer: whoever comes next takes them.
    ///
    /// # Errors
    /// Where their folder cannot be read.
    pub fn orphaned_journals(&self) -> Result<Vec<(u32, PathBuf)>, ArchiveError> {
        Ok(paths::journals(&self.own)?.into_iter().filter(|(shard, _)| *shard >= self.shards).collect())
    }

    /// The folders of all journals in which something may wait: of the shards, whether they are there or not, and of
    /// former ones, as far as they can be listed.
    #[must_use]
    pub fn journals(&self) -> Vec<PathBuf> {
        let orphaned = self.orphaned_journals().unwrap_or_default().into_iter().map(|(_, path)| path);
        (0..self.shards).map(|shard| self.journal_path(shard)).chain(orphaned).collect()
    }

    /// That what is on the local disk, if anything is, belongs to this archive and no other.
    ///
    /// # Errors
    /// [`ArchiveError::Claimed`] where it belongs to another one.
    pub fn check_state(&self) -> Result<(), ArchiveError> {
        self.store.is_claimed(self).map(drop)
    }

    /// Whether one of two writers to a part is kept from overwriting the other's: not every object store does so. Tries
    /// to write.
    ///
    /// # Errors
    /// Where the place may not be written to, or cannot be reached.
    pub fn is_guarded(&self) -> Result<bool, ArchiveError> {
        self.store.is_guarded()
    }

    /// The folder of what could not be filed, which may not be there yet.
    #[must_use]
    pub fn quarantine_dir(&self) -> PathBuf {
        paths::quarantine(&self.own)
    }

    /// The folder of a day.
    #[must_use]
    pub fn day_dir(&self, partition: &Partition) -> PathBuf {
        partition.dir(&self.root)
    }

    /// Whether its days are being filed into another number of shards.
    #[must_use]
    pub fn is_resharding(&self) -> bool {
        self.is_resharding
    }

    /// The number of shards, as it was when the archive was opened: `reshard` changes it.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// Makes a shard ready for its writer, who has just [taken its lock](Archive::lock_shards), and returns the journal's
    /// folder: clears away what an earlier one left in staging, and makes names durable that it may not have.
    ///
    /// # Errors
    /// Where the file system says no. That something cannot be cleared away is only told.
    pub fn settle(&self, shard: u32) -> Result<PathBuf, ArchiveError> {
        if self.is_resharding {
            return Err(ArchiveError::Resharding { path: self.root.clone(), shards: self.shards });
        }
        let journal = self.journal_path(shard);
        self.disk.make_dirs(&journal)?;
        self.remember(self.pseudonym_keys.clone());
        let first = if self.is_on_disk() { &self.root } else { &self.own };
        let above = first.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for folder in journal.ancestors().take_while(|folder| folder.starts_with(first)) {
            self.disk.sync_dir(folder)?;
        }
        // Where that may not be read, it is somebody else's, and not we made what is in it.
        let _ = self.disk.sync_dir(above);
        self.clear_staging(shard).unwrap_or_else(|error| tracing::warn!("{error}"));
        Ok(journal)
    }

    /// The days of a dataset that are there, oldest first.
    ///
    /// # Errors
    /// Where the dataset's folder cannot be read.
    pub fn partitions(&self, schema: &Schema) -> Result<Vec<Partition>, ArchiveError> {
        let entries = self.entries(&self.dataset_dir(schema))?;
        let mut found: Vec<_> =
            entries.iter().filter_map(|entry| Partition::parse(&schema.dataset, &entry.name)).collect();
        found.sort_unstable_by_key(|partition| partition.date);
        Ok(found)
    }

    /// The parts of a day: the newest of each shard; while the archive is filed into another number of shards, all.
    ///
    /// # Errors
    /// Where the day's folder cannot be read.
    pub fn parts(&self, partition: &Partition) -> Result<Vec<Placed>, ArchiveError> {
        let days = self.store.listed(&partition.dataset, &(partition.date..=partition.date))?;
        let parts = self.newest(days).flat_map(|(_, parts)| parts);
        Ok(parts.map(|part| (part.name, part.path)).collect())
    }

    /// The parts of some days of a dataset, oldest day first. A day without a part is among them too, as far as the
    /// place has such.
    ///
    /// # Errors
    /// Where a folder cannot be read.
    pub fn days(
        &self,
        schema: &Schema,
        days: &RangeInclusive<NaiveDate>,
    ) -> Result<BTreeMap<Partition, Vec<PathBuf>>, ArchiveError> {
        let days = self.newest(self.store.listed(&schema.dataset, days)?);
        Ok(days.map(|(day, parts)| (day, parts.into_iter().map(|part| part.path).collect())).collect())
    }

    /// The bytes of each day of a dataset.
    ///
    /// # Errors
    /// Where a folder cannot be read.
    pub fn sizes(&self, schema: &Schema) -> Result<BTreeMap<Partition, u64>, ArchiveError> {
        let days = self.newest(self.store.listed(&schema.dataset, &(NaiveDate::MIN..=NaiveDate::MAX))?);
        Ok(days.map(|(day, parts)| (day, parts.iter().map(Listed::length).sum())).collect())
    }

    /// What stands in a folder of the archive; nothing where there is no such folder.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn entries(&self, dir: &Path) -> Result<Vec<Entry>, ArchiveError> {
        self.store.entries(dir)
    }

    /// A part, or another file among the parts, for reading from end to end.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn hold(&self, path: &Path) -> Result<PartFile, ArchiveError> {
        self.store.hold(self, path)
    }

    /// Opens a part by its outline; where it is gone because its day was published anew, the one in its place.
    ///
    /// # Errors
    /// As for [`Part::open`].
    pub fn look(&self, path: &Path, schema: &Schema) -> Result<Part, ArchiveError> {
        self.or_its_successor(path, |path| self.store.look(path).and_then(|source| Part::look(path, source, schema)))
    }

    /// Opens a part, or the one that took its place meanwhile, for reading from end to end.
    ///
    /// # Errors
    /// As for [`Archive::hold`].
    pub fn hold_or_successor(&self, path: &Path) -> Result<PartFile, ArchiveError> {
        self.or_its_successor(path, |path| self.hold(path))
    }

    /// Opens a part, or the one that took its place.
    fn or_its_successor<T>(
        &self,
        path: &Path,
        open: impl Fn(&Path) -> Result<T, ArchiveError>,
    ) -> Result<T, ArchiveError> {
        let mut path = path.to_owned();
        loop {
            let error = match open(&path) {
                Err(error @ ArchiveError::Io { .. }) => error,
                other => return other,
            };
            let name = |path: &Path| PartName::parse(path.file_name()?.to_str()?);
            let (Some(name), Some(dir)) = (name(&path), path.parent()) else { return Err(error) };
            self.check_shards()?;
            let names = paths::names(dir)?;
            let later = names.iter().filter_map(|other| PartName::parse(other));
            match later.filter(|other| other.shard == name.shard && other.publish > name.publish).max() {
                Some(later) => path = dir.join(later.to_string()),
                None => return Err(error),
            }
        }
    }

    fn new(place: &Place, shards: u32) -> Self {
        let (root, own) = (place.root().to_owned(), place.state_dir().to_owned());
        let (store, disk, linger) = (place.store(), Disk::default(), staging::LINGER);
        let (is_resharding, resharding_since, pseudonym_keys) = (false, None, Vec::new());
        Self { root, own, store, shards, is_resharding, resharding_since, pseudonym_keys, disk, linger }
    }

    fn create(place: &Place, shards: u32, now: Timestamp, disk: Disk) -> Result<Self, ArchiveError> {
        let archive = Self::new(place, shards).on(disk);
        archive.describe_new(now)?;
        Ok(archive)
    }

    /// The parts of each day by shard, the newest of each. What was broken off while days were filed into another number
    /// of shards has left new ones beside old ones that hold rows of their own: then all of them.
    fn newest(&self, days: Days) -> impl Iterator<Item = (Partition, Vec<Listed>)> {
        let is_each = self.is_resharding;
        days.into_iter().map(move |(day, mut parts)| {
            parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.name));
            parts.dedup_by(|next, kept| !is_each && next.name.shard == kept.name.shard);
            parts.reverse();
            (day, parts)
        })
    }
}

fn is_of_bucket(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(inner) if inner.is::<BucketError>())
}

impl ArchiveError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { action, path, error }
    }

    /// Whether something is wrong with one part, whatever the others are.
    #[must_use]
    pub fn is_of_part(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Schema { .. })
    }

    /// Whether the object store gives no answer, or does not let it be done: both may pass.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Slow { .. } | Self::Bucket(BucketError::Denied { .. } | BucketError::Failed { .. }))
    }

    /// Whether the credentials do not let it be done.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Bucket(BucketError::Denied { .. }))
    }

    /// Whether somebody else wrote what was read, since then: trying again may do.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        matches!(self, Self::Bucket(BucketError::Replaced(_) | BucketError::Absent(_)))
    }

    /// What went wrong in the reading of a part: the file system's fault, or the part's.
    fn reading(path: &Path, error: ParquetError) -> Self {
        let path = path.to_owned();
        match error {
            ParquetError::External(cause) => match cause.downcast::<io::Error>() {
                Ok(error) if is_of_bucket(&error) => {
                    let inner = error.into_inner().and_then(|inner| inner.downcast::<BucketError>().ok());
                    Self::Bucket(*inner.expect("it was seen to be one"))
                }
                Ok(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    Self::Io { action: "read", path, error: *error }
                }
                Ok(error) => Self::Damaged { path, problem: error.to_string() },
                Err(cause) => Self::Damaged { path, problem: cause.to_string() },
            },
            error => Self::Damaged { path, problem: error.to_string() },
        }
    }
}
