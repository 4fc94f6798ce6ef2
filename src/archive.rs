//! The archive on disk: paths, locks, and the reading, merging and publishing of Parquet.
//!
//! # Format
//!
//! ```text
//! ARCHIVE/
//!   device_state/date=2026-11-24/part-0-000042.parquet   one row per device state
//!   poll/date=2026-11-24/part-0-000042.parquet           one row per API request
//!   _archive/archive.json                                format version and number of shards
//!   _archive/journal/shard-0/                            answers that are not yet published
//!   _archive/staging/shard-0/                            days that are being built
//!   _archive/quarantine/                                 what was received and could not be filed
//!   _archive/shard-0.lock, _archive/publish.lock
//! ```
//!
//! * There is exactly one part per dataset, day and shard. `part-0-000042` is the 42nd publish of
//!   that day by shard 0. A device always falls into the same shard.
//! * The day is the UTC date of `timestamp`, or of `collected_at` where a state has no readable
//!   timestamp. It stands in the path only.
//! * A path's content never changes: readers open a path more than once per query, and a file that is
//!   replaced under them gives wrong answers. A publish builds the day's folder anew in `staging` and
//!   exchanges it with the live one, so that a reader sees the old day or the new, never both or half.
//!   The old folder stays in `staging` for some seconds, unchanged: a reader may have it open and be
//!   about to list it. What no writer can prevent: pyarrow and DuckDB look up each name that they have
//!   listed, and pass over one that was replaced in between; readers that are handed files fail cleanly.
//! * Nothing but complete Parquet files stands in a dataset's folder, not for a moment: no temporary
//!   name is skipped by all of DuckDB, pandas and Polars.
//! * Every part holds every column of its schema, with the same type for ever. Columns are only added.
//! * Rows are sorted by the schema's key, which is unique in the archive; nulls come first. Of two
//!   states with one key, the one collected last stays. States without a readable timestamp are told
//!   apart by when they were collected.
//! * Parts carry statistics, name their sorting columns, and say in their key-value metadata which format,
//!   schema and tool they come from. Whole numbers and times are delta-encoded and not compressed, the rest is
//!   zstd. The columns that rows are known by have bounds for each page.
//! * In front of its footer, where readers of Parquet do not look, each part has an outline: which keys each
//!   row group holds, and where in the footer it is described. `query` reads by it; it can be done without.
//!
//! This module does not know where rows come from: it is handed Arrow batches of a schema. It is the
//! only user of Parquet. Every change on the disk goes through [`Disk`].

mod checksum;
mod export;
mod lock;
mod merge;
mod order;
mod outline;
mod pages;
mod paths;
mod publish;
mod read;
mod source;
#[cfg(test)]
mod tests;
mod write;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};

use crate::clock::{self, Timestamp};
use crate::disk::{Disk, DiskError};
use crate::schema::Schema;

pub use checksum::Checksum;
pub use export::to_parquet;
pub use lock::ShardLock;
pub use merge::Incoming;
pub use order::{misplaced, partitions_of};
pub use paths::{PartName, Partition};
pub use publish::{Aside, PartInfo, Staged};
pub use read::{Part, Scan};

/// The folder of everything that is not data.
pub const OWN_FOLDER: &str = paths::OWN;

/// The version of the format above.
pub const ARCHIVE_FORMAT: u32 = 1;

/// An archive that is known to be one of this format.
#[derive(Debug, Clone)]
pub struct Archive {
    root: PathBuf,
    shards: u32,
    disk: Disk,
    can_exchange: Arc<AtomicBool>,
    linger: Duration,
}

/// What `_archive/archive.json` says.
#[derive(Debug, Clone, Serialize)]
struct Description {
    format: u32,
    shards: u32,
    #[serde(with = "clock::rfc3339")]
    created_at: Timestamp,
    created_by: String,
}

/// What has to be known of an archive: its description may have been written anew by hand.
#[derive(Deserialize)]
struct Needed {
    shards: u32,
}

/// Only the format, so that an archive of a later one is refused for that and not for a strange key.
#[derive(Deserialize)]
struct Format {
    format: u32,
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
        /// The number of shards, as far as the names of the parts tell.
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
    #[error("{} has a column {column:?} that this version's schema has not: use a newer dex-archive", path.display())]
    Schema {
        /// The part.
        path: PathBuf,
        /// The column.
        column: String,
    },
}

impl Archive {
    /// Opens the archive at `root`.
    ///
    /// # Errors
    /// Where there is none, or none of this format.
    pub fn open(root: &Path) -> Result<Self, ArchiveError> {
        let path = paths::description(root);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !root.exists() => {
                return Err(ArchiveError::Absent(root.to_owned()));
            }
            Err(_) if root.is_file() => return Err(ArchiveError::NotAFolder(root.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Self::undescribed(root)),
            Err(error) => return Err(ArchiveError::io("read", &path)(error)),
        };
        Ok(Self::new(root, read_shards(root, &text)?))
    }

    /// Opens the archive at `root`, or makes one there with the given number of shards.
    ///
    /// # Errors
    /// Where there is something else, an archive of another format, or no right to write.
    pub fn open_or_create(root: &Path, shards: u32, now: Timestamp, disk: Disk) -> Result<Self, ArchiveError> {
        match Self::open(root) {
            Err(ArchiveError::Absent(_)) => Self::create(root, shards, now, disk),
            other => Ok(other?.on(disk)),
        }
    }

    /// The same archive, written through another disk.
    #[must_use]
    pub fn on(self, disk: Disk) -> Self {
        Self { disk, ..self }
    }

    /// The same archive, with another time for which a day that was replaced stays for readers that have
    /// it open: 2 seconds unless something is said.
    #[must_use]
    pub fn lingering(self, linger: Duration) -> Self {
        Self { linger, ..self }
    }

    /// What the archive is written through.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Whether [`Archive::open_or_create`] would have to make one. Writes nothing.
    ///
    /// # Errors
    /// Where it would fail by what can be seen beforehand.
    pub fn is_absent(root: &Path) -> Result<bool, ArchiveError> {
        match Self::open(root) {
            Ok(_) => Ok(false),
            Err(ArchiveError::Absent(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The folder of the archive.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a dataset, which may not be there yet.
    #[must_use]
    pub fn dataset_dir(&self, schema: &Schema) -> PathBuf {
        paths::dataset(&self.root, &schema.dataset)
    }

    /// The folder of a shard's journal, which may not be there yet.
    #[must_use]
    pub fn journal_path(&self, shard: u32) -> PathBuf {
        paths::journal(&self.root, shard)
    }

    /// The folder of what could not be filed, which may not be there yet.
    #[must_use]
    pub fn quarantine_dir(&self) -> PathBuf {
        paths::quarantine(&self.root)
    }

    /// The folder of a day.
    #[must_use]
    pub fn day_dir(&self, partition: &Partition) -> PathBuf {
        partition.dir(&self.root)
    }

    /// The number of shards, fixed when the archive was made.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// Makes a shard ready for its writer, who has just taken its lock, and returns the journal's folder:
    /// clears away what an earlier one left in staging, and makes names durable that it may not have.
    ///
    /// # Errors
    /// Where the file system says no. That something cannot be cleared away is only told.
    pub fn settle(&self, shard: u32) -> Result<PathBuf, ArchiveError> {
        let journal = self.journal_path(shard);
        self.disk.make_dirs(&journal)?;
        let above = self.root.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for folder in journal.ancestors().take_while(|folder| folder.starts_with(&self.root)) {
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
        let dir = paths::dataset(&self.root, &schema.dataset);
        let names = paths::names(&dir)?;
        let mut found: Vec<_> = names.iter().filter_map(|name| Partition::parse(&schema.dataset, name)).collect();
        found.sort_unstable_by_key(|partition| partition.date);
        Ok(found)
    }

    /// The parts of a day: the newest of each shard.
    ///
    /// # Errors
    /// Where the day's folder cannot be read.
    pub fn parts(&self, partition: &Partition) -> Result<Vec<(PartName, PathBuf)>, ArchiveError> {
        let dir = partition.dir(&self.root);
        let mut names: Vec<_> = paths::names(&dir)?.iter().filter_map(|name| PartName::parse(name)).collect();
        names.sort_unstable();
        let newest = names.chunk_by(|a, b| a.shard == b.shard).filter_map(|shard| shard.last().copied());
        Ok(newest.map(|name| (name, dir.join(name.to_string()))).collect())
    }

    /// Opens a part by its outline; where it is gone because its day was published anew, the one in its place.
    ///
    /// # Errors
    /// As for [`Part::open`].
    pub fn look(&self, path: &Path, schema: &Schema) -> Result<Part, ArchiveError> {
        let mut path = path.to_owned();
        loop {
            let error = match Part::look(&path, schema) {
                Err(error @ ArchiveError::Io { .. }) => error,
                other => return other,
            };
            let name = |path: &Path| PartName::parse(path.file_name()?.to_str()?);
            let (Some(name), Some(dir)) = (name(&path), path.parent()) else { return Err(error) };
            let names = paths::names(dir)?;
            let later = names.iter().filter_map(|other| PartName::parse(other));
            match later.filter(|other| other.shard == name.shard && other.publish > name.publish).max() {
                Some(later) => path = dir.join(later.to_string()),
                None => return Err(error),
            }
        }
    }

    fn new(root: &Path, shards: u32) -> Self {
        let (root, disk, can_exchange) = (root.to_owned(), Disk::default(), Arc::new(AtomicBool::new(true)));
        Self { root, shards, disk, can_exchange, linger: publish::LINGER }
    }

    fn create(root: &Path, shards: u32, now: Timestamp, disk: Disk) -> Result<Self, ArchiveError> {
        let description = Description { format: ARCHIVE_FORMAT, shards, created_at: now, created_by: write::tool() };
        let text = serde_json::to_string_pretty(&description).expect("a description always has a form in JSON");
        let archive = Self::new(root, shards).on(disk);
        archive.write_durably(0, &paths::description(root), format!("{text}\n").as_bytes())?;
        Ok(archive)
    }

    /// What a folder without a description is.
    fn undescribed(root: &Path) -> ArchiveError {
        match paths::names(root) {
            // A crash before the description was written leaves at most the folders around it.
            Ok(names) if names.iter().all(|name| name == paths::OWN) => ArchiveError::Absent(root.to_owned()),
            Ok(names) if names.iter().any(|name| name == paths::OWN) => {
                ArchiveError::description(root, "it is missing".to_owned())
            }
            Ok(_) => ArchiveError::Foreign(root.to_owned()),
            Err(error) => error,
        }
    }
}

impl ArchiveError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { action, path, error }
    }

    fn description(root: &Path, problem: String) -> Self {
        Self::Description { path: paths::description(root), problem, shards: paths::shards_seen(root) }
    }

    /// What went wrong in the reading of a part: the file system's fault, or the part's.
    fn reading(path: &Path, error: ParquetError) -> Self {
        let path = path.to_owned();
        match error {
            ParquetError::External(cause) => match cause.downcast::<io::Error>() {
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

/// The number of shards that a description names.
fn read_shards(root: &Path, text: &str) -> Result<u32, ArchiveError> {
    let damaged = |error: serde_json::Error| {
        let place = format!("at line {} column {}", error.line(), error.column());
        ArchiveError::description(root, format!("not the JSON it was written as, {place}"))
    };
    let format: Format = serde_json::from_str(text).map_err(damaged)?;
    if format.format != ARCHIVE_FORMAT {
        return Err(ArchiveError::Format { path: root.to_owned(), found: format.format });
    }
    match serde_json::from_str(text).map_err(damaged)? {
        Needed { shards: 0 } => Err(ArchiveError::description(root, "it has no shards".to_owned())),
        Needed { shards } => Ok(shards),
    }
}
