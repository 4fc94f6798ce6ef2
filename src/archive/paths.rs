//! Where everything lies: each kind of name is built and parsed side by side.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;

use crate::clock;

use super::ArchiveError;

/// The folder of everything that is not data.
pub const OWN_FOLDER: &str = "_archive";

/// One UTC day of one dataset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// Name of the dataset.
    pub dataset: String,
    /// The day.
    pub date: NaiveDate,
}

/// A part, and where it is.
pub type Placed = (PartName, PathBuf);

/// The name of a part: `part-0-000042.parquet`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartName {
    /// The shard that wrote it.
    pub shard: u32,
    /// How many publishes of that day by that shard there were, this one included.
    pub publish: u64,
}

impl Partition {
    /// Reads the name of a day's folder, `date=2026-11-24`.
    #[must_use]
    pub fn parse(dataset: &str, name: &str) -> Option<Self> {
        let date = clock::parse_date(name.strip_prefix("date=")?)?;
        Some(Self { dataset: dataset.to_owned(), date })
    }

    /// The day's folder.
    #[must_use]
    pub fn dir(&self, root: &Path) -> PathBuf {
        dataset(root, &self.dataset).join(format!("date={}", self.date))
    }

    /// The folder in which a new version of the day is built.
    pub(super) fn staging_dir(&self, own: &Path, shard: u32) -> PathBuf {
        staging(own, shard).join(format!("{}.date={}", self.dataset, self.date))
    }
}

impl PartName {
    /// Reads the name of a part.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (shard, publish) = name.strip_prefix("part-")?.strip_suffix(".parquet")?.split_once('-')?;
        let parsed = Self { shard: shard.parse().ok()?, publish: publish.parse().ok()? };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "part-{}-{:06}.parquet", self.shard, self.publish)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}/date={}", self.dataset, self.date)
    }
}

pub(super) fn dataset(root: &Path, dataset: &str) -> PathBuf {
    root.join(dataset)
}

pub(super) fn description(root: &Path) -> PathBuf {
    root.join(OWN_FOLDER).join("archive.json")
}

pub(super) fn journal(own: &Path, shard: u32) -> PathBuf {
    own.join("journal").join(format!("shard-{shard}"))
}

/// The journals that there are, each with its shard.
pub(super) fn journals(own: &Path) -> Result<Vec<(u32, PathBuf)>, ArchiveError> {
    by_shard(&own.join("journal"))
}

/// The staging folders that there are, each with its shard.
pub(super) fn stagings(own: &Path) -> Result<Vec<(u32, PathBuf)>, ArchiveError> {
    by_shard(&own.join("staging"))
}

fn by_shard(dir: &Path) -> Result<Vec<(u32, PathBuf)>, ArchiveError> {
    let found = entries(dir)?.into_iter();
    Ok(found.filter_map(|(name, path)| Some((name.strip_prefix("shard-")?.parse().ok()?, path))).collect())
}

pub(super) fn staging(own: &Path, shard: u32) -> PathBuf {
    own.join("staging").join(format!("shard-{shard}"))
}

/// `account` is an id of the API's, which is hexadecimal.
pub(super) fn resume(own: &Path, shard: u32, account: &str) -> PathBuf {
    resumes(own).join(format!("{account}.shard-{shard}.json"))
}

pub(super) fn resumes(own: &Path) -> PathBuf {
    own.join("resume")
}

pub(super) fn quarantine(own: &Path) -> PathBuf {
    own.join("quarantine")
}

pub(super) fn shard_lock(own: &Path, shard: u32) -> PathBuf {
    own.join(format!("shard-{shard}.lock"))
}

pub(super) fn publish_lock(own: &Path) -> PathBuf {
    own.join("publish.lock")
}

/// The entries of a folder: each name, as far as it is text, and the path; none where there is no such folder.
pub(super) fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, ArchiveError> {
    entries_but(dir, |_| false)
}

/// The entries of a folder that are no folders themselves.
pub(super) fn entries_but_folders(dir: &Path) -> Result<Vec<(String, PathBuf)>, ArchiveError> {
    entries_but(dir, |entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

fn entries_but(dir: &Path, leave: impl Fn(&fs::DirEntry) -> bool) -> Result<Vec<(String, PathBuf)>, ArchiveError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ArchiveError::io("read", dir)(error)),
    };
    let entry = |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), entry.path());
    let entries = entries.filter(|read| !read.as_ref().is_ok_and(&leave)).map(|read| read.map(entry));
    entries.collect::<io::Result<_>>().map_err(ArchiveError::io("read", dir))
}

/// The names in a folder; none where there is no such folder.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, ArchiveError> {
    Ok(entries(dir)?.into_iter().map(|(name, _)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_they_are_written() {
        for part in [PartName { shard: 0, publish: 42 }, PartName { shard: 12, publish: 1_234_567 }] {
            assert_eq!(PartName::parse(&part.to_string()), Some(part));
        }
        assert_eq!(PartName { shard: 0, publish: 42 }.to_string(), "part-0-000042.parquet");
        let day = Partition::parse("poll", "date=2026-11-24").expect("a day");
        assert_eq!(day.dir(Path::new("a")), Path::new("a/poll/date=2026-11-24"));
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in
            ["part-0-42.parquet", "part-0-000042.parquet.tmp", "part-00-000042.parquet", "x.parquet", "part-0.parquet"]
        {
            assert_eq!(PartName::parse(name), None, "{name}");
        }
        for name in ["date=2026-11-31", "date=2026-11-24x", "2026-11-24", "hour=3"] {
            assert_eq!(Partition::parse("poll", name), None, "{name}");
        }
    }
}
