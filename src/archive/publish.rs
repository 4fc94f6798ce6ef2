//! Putting a new version of a day in the place of the old one.
//!
//! A part is written and synced in a staging folder; [`Staged::publish`] completes that folder with
//! the other shards' parts and exchanges it with the live one. The old folder lingers for
//! those who have it open, and goes at a later publish. This is the only file that renames.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Archive, ArchiveError, PartName, Partition, make_dirs, paths, sync_dir};

/// How long a folder that was live stays as it was, for readers that have it open. A reader lists a
/// folder right after it opened it; only one that the system held up in between takes longer.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// In the name of a folder that was live.
const RETIRED: &str = ".retired";

/// A new version of a day, written and synced, that no reader sees yet. Dropping it leaves the
/// archive as it was; what is left in the staging folder goes when the next writer starts.
#[derive(Debug)]
#[must_use = "what is staged is not published"]
pub struct Staged {
    pub(super) archive: Archive,
    pub(super) partition: Partition,
    pub(super) folder: PathBuf,
    pub(super) name: PartName,
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

impl Staged {
    /// Makes the new version the day's only one, durably.
    ///
    /// # Errors
    /// Where the file system says no. The old version then stands; or the new one does, where only
    /// the clearing away failed.
    pub fn publish(self) -> Result<PartInfo, ArchiveError> {
        let live = self.partition.dir(&self.archive.root);
        let dataset = paths::dataset(&self.archive.root, &self.partition.dataset);
        make_dirs(&dataset)?;
        let _lock = self.archive.lock_publish()?;
        self.link_others(&live)?;
        sync_dir(&self.folder)?;
        if !live.exists() {
            rename(&self.folder, &live)?;
            sync_dir(&dataset)?;
        } else if self.archive.can_exchange.load(Ordering::Relaxed) && exchange(&self.folder, &live)? {
            sync_dir(&dataset)?;
            self.archive.retire(&self.folder, self.name.shard)?;
        } else {
            self.note_no_exchange();
            self.replace_part(&live)?;
        }
        Ok(self.info)
    }

    /// Links what the live folder holds beside this shard's parts into the new one.
    fn link_others(&self, live: &Path) -> Result<(), ArchiveError> {
        let ours = |name: &str| PartName::parse(name).is_some_and(|part| part.shard == self.name.shard);
        for name in paths::names(live)? {
            let from = live.join(&name);
            if ours(&name) || from.is_dir() {
                continue;
            }
            fs::hard_link(&from, self.folder.join(&name)).map_err(ArchiveError::io("link", &from))?;
        }
        Ok(())
    }

    /// Where folders cannot be exchanged: the new name comes, the old one goes at once.
    fn replace_part(&self, live: &Path) -> Result<(), ArchiveError> {
        rename(&self.folder.join(self.name.to_string()), &live.join(self.name.to_string()))?;
        sync_dir(live)?;
        for name in paths::names(live)? {
            if PartName::parse(&name).is_some_and(|part| part.shard == self.name.shard && part < self.name) {
                let old = live.join(name);
                fs::remove_file(&old).map_err(ArchiveError::io("remove", &old))?;
            }
        }
        sync_dir(live)?;
        self.archive.clear(&self.folder)
    }

    fn note_no_exchange(&self) {
        if self.archive.can_exchange.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                archive = %self.archive.root.display(),
                "this file system cannot exchange folders: a query that runs during a publish may fail or see rows twice"
            );
        }
    }
}

impl Archive {
    /// Removes what an earlier process left in a shard's staging folder: days that never became live,
    /// and days that were live until they were exchanged, unless that is only just so. Whoever calls it
    /// has just taken the shard's lock.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn clear_staging(&self, shard: u32) -> Result<(), ArchiveError> {
        self.clear_older(shard, changed_at(&paths::shard_lock(&self.root, shard))?, |_name| true)
    }

    /// Sets a folder aside that was live until now, and removes those that were some time ago. A reader
    /// that opened it and has not listed it yet would find it empty, and take the day for one without
    /// rows, if it were removed at once.
    fn retire(&self, folder: &Path, shard: u32) -> Result<(), ArchiveError> {
        let staging = paths::staging(&self.root, shard);
        let place = free_place(&staging, &format!("{}{RETIRED}", name_of(folder)));
        rename(folder, &place)?;
        self.clear_older(shard, changed_at(&place)?, |name| name.contains(RETIRED))
    }

    /// Removes the entries of a staging folder that were changed long enough before `now`, which is a
    /// time of the file system's own clock: no other clock has to agree with it.
    fn clear_older(&self, shard: u32, now: Duration, which: impl Fn(&str) -> bool) -> Result<(), ArchiveError> {
        let staging = paths::staging(&self.root, shard);
        for name in paths::names(&staging)?.into_iter().filter(|name| which(name)) {
            let left = staging.join(&name);
            if !left.is_dir() {
                fs::remove_file(&left).map_err(ArchiveError::io("remove", &left))?;
            } else if now.saturating_sub(changed_at(&left)?) >= self.linger {
                self.clear(&left)?;
            }
        }
        Ok(())
    }

    /// Keeps bytes that were received and could not be filed, under a name of our own making. Keeping
    /// the same bytes again does nothing; other bytes get another name.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn quarantine(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, ArchiveError> {
        let dir = paths::quarantine(&self.root);
        make_dirs(&dir)?;
        let mut path = dir.join(name);
        for count in 1_u32.. {
            match fs::read(&path) {
                Ok(kept) if kept == bytes => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                _ => path = dir.join(format!("{name}.{count}")),
            }
        }
        self.write_durably(&path, bytes)?;
        Ok(path)
    }

    /// Writes a small file so that it is there as a whole or not at all.
    pub(super) fn write_durably(&self, path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
        let name = path.file_name().expect("a file of the archive has a name");
        let staging = paths::staging(&self.root, 0);
        make_dirs(&staging)?;
        let staged = staging.join(name);
        let mut file = File::create(&staged).map_err(ArchiveError::io("make", &staged))?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(ArchiveError::io("write", &staged))?;
        rename(&staged, path)?;
        sync_dir(path.parent().unwrap_or(&self.root))
    }

    /// Removes a folder that was live or staged: its parts, and what is linked elsewhere. Anything else
    /// that stands in it was put there by somebody else and goes to the quarantine.
    pub(super) fn clear(&self, folder: &Path) -> Result<(), ArchiveError> {
        for name in paths::names(folder)? {
            let path = folder.join(&name);
            let metadata = fs::symlink_metadata(&path).map_err(ArchiveError::io("read", &path))?;
            if !metadata.is_dir() && (PartName::parse(&name).is_some() || metadata.nlink() > 1) {
                fs::remove_file(&path).map_err(ArchiveError::io("remove", &path))?;
            }
        }
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => self.keep_foreign(folder),
            other => other.map_err(ArchiveError::io("remove", folder)),
        }
    }

    fn keep_foreign(&self, folder: &Path) -> Result<(), ArchiveError> {
        let dir = paths::quarantine(&self.root);
        make_dirs(&dir)?;
        let day = name_of(folder);
        let place = free_place(&dir, day.split(RETIRED).next().unwrap_or(&day));
        rename(folder, &place)?;
        tracing::warn!(kept = %place.display(), "somebody else's files stood in a day's folder; they were kept aside");
        Ok(())
    }
}

/// The first place in a folder with a name that begins so, and a number, that is free.
fn free_place(dir: &Path, name: &str) -> PathBuf {
    let free = (0..u32::MAX).map(|count| dir.join(format!("{name}.{count}"))).find(|path| !path.exists());
    free.expect("there are more numbers than folders")
}

fn name_of(folder: &Path) -> String {
    folder.file_name().expect("a staged folder has a name").to_string_lossy().into_owned()
}

/// When a file or folder was last changed, renaming included, since the Unix epoch.
fn changed_at(path: &Path) -> Result<Duration, ArchiveError> {
    let metadata = fs::metadata(path).map_err(ArchiveError::io("read", path))?;
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Duration::from_secs(part(metadata.ctime())) + Duration::from_nanos(part(metadata.ctime_nsec())))
}

/// Exchanges two folders; false where this file system cannot.
fn exchange(a: &Path, b: &Path) -> Result<bool, ArchiveError> {
    match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(ArchiveError::io("exchange", b)(error.into())),
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that renames; its callers sync the folders")]
fn rename(from: &Path, to: &Path) -> Result<(), ArchiveError> {
    fs::rename(from, to).map_err(ArchiveError::io("rename to", to))
}
