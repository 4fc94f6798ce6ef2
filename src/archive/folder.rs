//! Parts in a local folder. A new version of a day is a folder of its own, which is exchanged with the live one.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::NaiveDate;

use super::read::PartFile;
use super::source::Source;
use super::staging::{RETIRED, changed_at, free_place, name_of, warn};
use super::store::{Days, Entry, Listed, Store};
use super::{Archive, ArchiveError, PartName, Partition, Staged, paths};

/// A folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    can_exchange: AtomicBool,
}

impl Folder {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), can_exchange: AtomicBool::new(true) }
    }

    /// A folder on a file system that cannot exchange folders.
    #[cfg(test)]
    pub(super) fn without_exchange(root: &Path) -> Self {
        Self { can_exchange: AtomicBool::new(false), ..Self::new(root) }
    }

    /// Links what the live folder holds beside this shard's parts into the new one. What is no part was
    /// put there by somebody else; where it cannot be linked, it goes to the quarantine with the old folder.
    fn link_others(&self, archive: &Archive, staged: &Staged, live: &Path) -> Result<(), ArchiveError> {
        for Entry { name, path: from, is_folder, .. } in self.entries(live)? {
            let to = staged.folder.path().join(from.file_name().unwrap_or_default());
            match PartName::parse(&name) {
                _ if is_folder => (),
                Some(part) if staged.replaces(part) => (),
                Some(_) => archive.link_or_copy(&from, &to, staged.shard)?,
                None => archive.disk.link(&from, &to).unwrap_or_else(|error| warn(&error)),
            }
        }
        Ok(())
    }

    /// Where folders cannot be exchanged: the new names come, the old ones go at once.
    fn replace_parts(&self, archive: &Archive, staged: &Staged, live: &Path) -> Result<(), ArchiveError> {
        for name in &staged.names {
            let name = name.to_string();
            archive.disk.rename(&staged.folder.path().join(&name), &live.join(&name))?;
        }
        archive.disk.sync_dir(live)?;
        for Entry { name, path, .. } in self.entries(live)?.into_iter().filter(|entry| !entry.is_folder) {
            if PartName::parse(&name).is_some_and(|part| staged.replaces(part) && !staged.names.contains(&part)) {
                archive.disk.remove(&path)?;
            }
        }
        Ok(archive.disk.sync_dir(live)?)
    }

    fn note_no_exchange(&self) {
        if self.can_exchange.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                archive = %self.root.display(),
                "this file system cannot exchange folders: a query that runs during a publish may fail or see rows twice"
            );
        }
    }
}

impl Store for Folder {
    fn description(&self) -> Result<Option<String>, ArchiveError> {
        let path = paths::description(&self.root);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(_) if self.root.is_file() => Err(ArchiveError::NotAFolder(self.root.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ArchiveError::io("read", &path)(error)),
        }
    }

    fn describe(&self, archive: &Archive, shard: u32, text: &str, _old: Option<&str>) -> Result<(), ArchiveError> {
        archive.write_durably(shard, &paths::description(&self.root), text.as_bytes())
    }

    fn is_claimed(&self, _archive: &Archive) -> Result<bool, ArchiveError> {
        // What is not data lies in the archive's own folder.
        Ok(true)
    }

    fn claim(&self, _archive: &Archive) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn recall(&self, _archive: &Archive) -> Result<Option<String>, ArchiveError> {
        // The journal is in the same folder: where that cannot be read, neither can this.
        Ok(None)
    }

    fn remember(&self, _archive: &Archive, _text: &str) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn is_guarded(&self) -> Result<bool, ArchiveError> {
        // By the lock.
        Ok(true)
    }

    fn entries(&self, dir: &Path) -> Result<Vec<Entry>, ArchiveError> {
        let found = paths::entries(dir)?.into_iter().map(|(name, path)| {
            let (is_folder, is_file) = (path.is_dir(), path.is_file());
            Entry { name, is_folder, is_file, is_link: path.is_symlink(), path }
        });
        Ok(found.collect())
    }

    fn listed(&self, dataset: &str, days: &RangeInclusive<NaiveDate>) -> Result<Days, ArchiveError> {
        let names = paths::names(&paths::dataset(&self.root, dataset))?;
        let found = names.iter().filter_map(|name| Partition::parse(dataset, name));
        let listed = found.filter(|day| days.contains(&day.date)).map(|day| {
            // A folder of a part's name is somebody else's.
            let parts = paths::entries_but_folders(&day.dir(&self.root))?.into_iter();
            let parts =
                parts.filter_map(|(name, path)| Some(Listed { name: PartName::parse(&name)?, path, bytes: None }));
            Ok((day, parts.collect()))
        });
        listed.collect()
    }

    fn look(&self, path: &Path) -> Result<Source, ArchiveError> {
        Source::open(path).map_err(ArchiveError::io("open", path))
    }

    fn hold(&self, _archive: &Archive, path: &Path) -> Result<PartFile, ArchiveError> {
        // What is open stays what it is: a path's content never changes.
        PartFile::open(path)
    }

    fn next_name(&self, shard: u32, old: Option<PartName>) -> PartName {
        PartName { shard, publish: old.map_or(1, |name| name.publish + 1) }
    }

    fn replace(&self, archive: &Archive, staged: &mut Staged) -> Result<(), ArchiveError> {
        let live = staged.partition.dir(&self.root);
        let dataset = paths::dataset(&self.root, &staged.partition.dataset);
        archive.disk.make_dirs(&dataset)?;
        self.link_others(archive, staged, &live)?;
        archive.disk.sync_dir(staged.folder.path())?;
        if !live.exists() {
            archive.disk.rename(staged.folder.path(), &live)?;
            staged.folder.keep();
            archive.disk.sync_dir(&dataset)?;
        } else if self.can_exchange.load(Ordering::Relaxed) && archive.disk.exchange(staged.folder.path(), &live)? {
            staged.folder.keep();
            archive.disk.sync_dir(&dataset)?;
            // The new version is there and durable: that the old one cannot be cleared away is no reason
            // to publish it again.
            retire(archive, staged.folder.path(), staged.shard).unwrap_or_else(|error| warn(&error));
        } else {
            self.note_no_exchange();
            self.replace_parts(archive, staged, &live)?;
        }
        Ok(())
    }

    fn remove_day(&self, archive: &Archive, partition: &Partition) -> Result<(), ArchiveError> {
        let staging = paths::staging(&archive.own, 0);
        archive.disk.make_dirs(&staging)?;
        let place = free_place(&staging, &format!("{}.date={}{RETIRED}", partition.dataset, partition.date));
        archive.disk.rename(&partition.dir(&self.root), &place)?;
        archive.disk.sync_dir(&paths::dataset(&self.root, &partition.dataset))?;
        archive.clear_older(0, changed_at(&place)?, |name| name.contains(RETIRED))
    }

    fn take_away(&self, archive: &Archive, path: &Path, place: &Path) -> Result<(), ArchiveError> {
        archive.disk.rename(path, place)?;
        archive.disk.sync_dir(place.parent().unwrap_or(&archive.own))?;
        Ok(archive.disk.sync_dir(path.parent().unwrap_or(&self.root))?)
    }
}

/// Sets a folder aside that was live until now, and removes those that were some time ago. A reader
/// that opened it and has not listed it yet would find it empty, and take the day for one without
/// rows, if it were removed at once.
fn retire(archive: &Archive, folder: &Path, shard: u32) -> Result<(), ArchiveError> {
    let staging = paths::staging(&archive.own, shard);
    let place = free_place(&staging, &format!("{}{RETIRED}", name_of(folder)));
    archive.disk.rename(folder, &place)?;
    archive.clear_older(shard, changed_at(&place)?, |name| name.contains(RETIRED))
}
