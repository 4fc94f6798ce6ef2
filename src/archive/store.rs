//! Where the parts of an archive lie: the one interface through which it reaches them.
//!
//! There are two: a local [folder](super::folder), and a [bucket](super::object) of an object store. Nothing above
//! knows which. What is not data (journal, staging, quarantine, locks) is always on a local disk; a store only says whether
//! that disk's folder belongs to its archive, and keeps there what has to be known while it cannot be asked.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;

use super::read::PartFile;
use super::source::Source;
use super::{Archive, ArchiveError, PartName, Partition, Staged};

/// A place for parts.
pub(super) trait Store: fmt::Debug + Send + Sync {
    /// The text of the archive's description; none where there is none.
    fn description(&self) -> Result<Option<String>, ArchiveError>;

    /// Writes the description, in place of the `old` one if there is one; a local disk by way of the shard's staging.
    fn describe(&self, archive: &Archive, shard: u32, text: &str, old: Option<&str>) -> Result<(), ArchiveError>;

    /// Whether what is on the local disk is known to belong to this place; an error where it belongs to another.
    fn is_claimed(&self, archive: &Archive) -> Result<bool, ArchiveError>;

    /// Makes sure, for a writer, that what is on the local disk belongs to this place.
    fn claim(&self, archive: &Archive) -> Result<(), ArchiveError>;

    /// What [`Store::remember`] was last told, where the place itself cannot be asked; nothing where it always can.
    fn recall(&self, archive: &Archive) -> Result<Option<String>, ArchiveError>;

    /// Keeps on the local disk what a writer has to know of the archive while the place cannot be asked.
    fn remember(&self, archive: &Archive, text: &str) -> Result<(), ArchiveError>;

    /// Whether one of two writers to a part is kept from overwriting the other's. Tries to write.
    fn is_guarded(&self) -> Result<bool, ArchiveError>;

    /// What stands in a folder; nothing where there is no such folder.
    fn entries(&self, dir: &Path) -> Result<Vec<Entry>, ArchiveError>;

    /// The parts of some days of a dataset, in no order; days without a part too, where the place has such.
    fn listed(&self, dataset: &str, days: &RangeInclusive<NaiveDate>) -> Result<Days, ArchiveError>;

    /// A part for reading here and there.
    fn look(&self, path: &Path) -> Result<Source, ArchiveError>;

    /// A file for reading from end to end: what is read stays the same whatever takes its place meanwhile.
    fn hold(&self, archive: &Archive, path: &Path) -> Result<PartFile, ArchiveError>;

    /// The name of the part that takes the place of another, or is its shard's first of the day.
    fn next_name(&self, shard: u32, old: Option<PartName>) -> PartName;

    /// Makes a staged part the day's only one of its shard, durably.
    fn replace(&self, archive: &Archive, staged: &mut Staged) -> Result<(), ArchiveError>;

    /// Takes away all of a day.
    fn remove_day(&self, archive: &Archive, partition: &Partition) -> Result<(), ArchiveError>;

    /// Moves what stands among the parts to a place on the local disk.
    fn take_away(&self, archive: &Archive, path: &Path, place: &Path) -> Result<(), ArchiveError>;
}

/// What was listed of each day.
pub(super) type Days = BTreeMap<Partition, Vec<Listed>>;

/// What stands in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name, as far as it is text.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is a folder, or leads to one.
    pub is_folder: bool,
    /// Whether it is a file, or leads to one.
    pub is_file: bool,
    /// Whether it only leads elsewhere.
    pub is_link: bool,
}

/// A part, as a list names it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) name: PartName,
    pub(super) path: PathBuf,
    /// Its length, where the list says it.
    pub(super) bytes: Option<u64>,
}

impl Listed {
    /// The length of the part; 0 where it is gone.
    pub(super) fn length(&self) -> u64 {
        self.bytes.unwrap_or_else(|| self.path.metadata().map_or(0, |file| file.len()))
    }
}
