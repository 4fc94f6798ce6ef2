//! Where what is being written stands until it is whole, and what was live until nobody has it open: a folder for each
//! shard, on the local disk. What takes whose place is the publish's business.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::DiskFile;

use super::{Archive, ArchiveError, PartName, paths};

/// How long a folder that was live stays as it was, for readers that have it open. A reader lists a
/// folder right after it opened it; only one that the system held up in between takes longer.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// In the name of a folder that was live.
pub(super) const RETIRED: &str = ".retired";

/// How the name of a small file begins that is being written.
const UNFINISHED: &str = "unfinished.";

/// A staging folder that goes when it is dropped, unless it became live.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) archive: Archive,
    path: PathBuf,
    keep: bool,
}

impl Staging {
    /// Makes an empty staging folder.
    pub(super) fn make(archive: &Archive, path: &Path) -> Result<Self, ArchiveError> {
        let cleared = if path.exists() { archive.clear(path) } else { Ok(()) };
        // One that cannot be cleared away, whoever's it is, keeps nobody from publishing.
        let free = |_| free_place(path.parent().unwrap_or(path), &name_of(path));
        let path = cleared.map_or_else(free, |()| path.to_owned());
        archive.disk.make_dirs(&path)?;
        Ok(Self { archive: archive.clone(), path, keep: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It has become live: what is at its path is not its own any more.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Staging {
    /// A publish that failed, for want of room perhaps, gives back the room that it took.
    fn drop(&mut self) {
        if !self.keep && self.path.exists() {
            self.archive.clear(&self.path).unwrap_or_else(|error| warn(&error));
        }
    }
}

impl Archive {
    /// Removes what an earlier process left in a shard's staging folder: days that never became live,
    /// and days that were live until they were exchanged, unless that is only just so. Whoever calls it
    /// has just taken the shard's lock. The first shard's takes those of former shards along.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn clear_staging(&self, shard: u32) -> Result<(), ArchiveError> {
        let now = changed_at(&paths::shard_lock(&self.own, shard))?;
        let all = self.stagings(shard)?.into_iter();
        all.map(|shard| self.clear_older(shard, now, |_name| true)).fold(Ok(()), Result::and)
    }

    /// The shards whose staging folders are a shard's to clear away: its own, and the first one's also those that are no
    /// more since the archive was filed into fewer.
    fn stagings(&self, shard: u32) -> Result<Vec<u32>, ArchiveError> {
        let mut all = vec![shard];
        if shard == 0 && !self.is_resharding {
            let there = paths::stagings(&self.own)?.into_iter().map(|(shard, _)| shard);
            all.extend(there.filter(|shard| *shard >= self.shards));
        }
        Ok(all)
    }

    /// Removes the entries of a staging folder that were changed long enough before `now`, which is a
    /// time of the file system's own clock: no other clock has to agree with it.
    pub(super) fn clear_older(
        &self,
        shard: u32,
        now: Duration,
        which: impl Fn(&str) -> bool,
    ) -> Result<(), ArchiveError> {
        let mut ended = Ok(());
        for (name, left) in paths::entries(&paths::staging(&self.own, shard))? {
            let cleared = if !which(&name) {
                Ok(())
            } else if name.starts_with(UNFINISHED) {
                self.disk.remove(&left).map_err(ArchiveError::from)
            } else if !left.is_dir() {
                self.keep_foreign(&left)
            } else {
                let is_old = |at| now.saturating_sub(at) >= self.linger;
                changed_at(&left).and_then(|at| if is_old(at) { self.clear(&left) } else { Ok(()) })
            };
            // One that cannot be cleared away is no reason to leave the others.
            ended = ended.and(cleared);
        }
        ended
    }

    /// What stands in the staging folders that [`Archive::clear_staging`] clears away.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn staging_entries(&self, shard: u32) -> Result<Vec<PathBuf>, ArchiveError> {
        let entries = self.stagings(shard)?.into_iter().map(|shard| paths::entries(&paths::staging(&self.own, shard)));
        Ok(entries.collect::<Result<Vec<_>, _>>()?.concat().into_iter().map(|(_, path)| path).collect())
    }

    /// Writes a small file so that it is there as a whole or not at all.
    pub(super) fn write_durably(&self, shard: u32, path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
        let staging = paths::staging(&self.own, shard);
        self.disk.make_dirs(&staging)?;
        let mut file = self.unfinished(&staging, &name_of(path))?;
        let staged = file.path().to_owned();
        file.write_all(bytes).map_err(crate::disk::DiskError::of("write", &staged))?;
        file.sync()?;
        self.disk.rename(&staged, path)?;
        Ok(self.disk.sync_dir(path.parent().unwrap_or(&self.root))?)
    }

    /// Begins a file that stands in a staging folder until it is complete.
    pub(super) fn unfinished(&self, staging: &Path, name: &str) -> Result<DiskFile, ArchiveError> {
        Ok(self.disk.create(&self.unfinished_path(staging, name)?)?)
    }

    /// Where such a file stands, free for it.
    pub(super) fn unfinished_path(&self, staging: &Path, name: &str) -> Result<PathBuf, ArchiveError> {
        // Two processes may be about to make the same archive.
        let staged = staging.join(format!("{UNFINISHED}{name}.{}", std::process::id()));
        if staged.exists() {
            self.disk.remove(&staged)?;
        }
        Ok(staged)
    }

    /// Gives a file a second name; where the file system has no such thing, a copy.
    pub(super) fn link_or_copy(&self, from: &Path, to: &Path, shard: u32) -> Result<(), ArchiveError> {
        if self.disk.link(from, to).is_ok() {
            return Ok(());
        }
        let bytes = fs::read(from).map_err(ArchiveError::io("read", from))?;
        self.write_durably(shard, to, &bytes)
    }

    /// Removes a folder that was live or staged: its parts, and what is linked elsewhere. Anything else
    /// that stands in it was put there by somebody else and goes to the quarantine.
    pub(super) fn clear(&self, folder: &Path) -> Result<(), ArchiveError> {
        if folder.is_symlink() {
            // What it leads to was put there by somebody else and stays.
            return Ok(self.disk.remove(folder)?);
        }
        for (name, path) in paths::entries(folder)? {
            let metadata = fs::symlink_metadata(&path).map_err(ArchiveError::io("read", &path))?;
            if !metadata.is_dir() && (PartName::parse(&name).is_some() || metadata.nlink() > 1) {
                self.disk.remove(&path)?;
            }
        }
        if self.disk.remove_dir(folder)? { Ok(()) } else { self.keep_foreign(folder) }
    }
}

/// Tells of something that did not work and can wait.
pub(super) fn warn(error: &dyn std::error::Error) {
    tracing::warn!("{error}");
}

/// The first place in a folder with a name that begins so, and a number, that is free.
pub(super) fn free_place(dir: &Path, name: &str) -> PathBuf {
    let free = (0..u32::MAX).map(|count| dir.join(format!("{name}.{count}"))).find(|path| !path.exists());
    free.expect("there are more numbers than folders")
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().expect("a file of the archive has a name").to_string_lossy().into_owned()
}

/// When a file or folder was last changed, renaming included, since the Unix epoch.
pub(super) fn changed_at(path: &Path) -> Result<Duration, ArchiveError> {
    let metadata = fs::metadata(path).map_err(ArchiveError::io("read", path))?;
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Duration::from_secs(part(metadata.ctime())) + Duration::from_nanos(part(metadata.ctime_nsec())))
}
