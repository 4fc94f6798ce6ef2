//! Putting a new version of a day in the place of the old one.
//!
//! A part is written and synced in a staging folder; [`Staged::publish`] completes that folder with
//! the other shards' parts and exchanges it with the live one. The old folder lingers for
//! those who have it open, and goes at a later publish.

use std::fs;
use std::hash::Hasher;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use twox_hash::XxHash64;

use super::{Archive, ArchiveError, PartName, Partition, ShardLock, paths};

/// How long a folder that was live stays as it was, for readers that have it open. A reader lists a
/// folder right after it opened it; only one that the system held up in between takes longer.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// In the name of a folder that was live.
const RETIRED: &str = ".retired";

/// How the name of a small file begins that is being written.
const UNFINISHED: &str = "unfinished.";

/// A new version of a day, written and synced, that no reader sees yet. Dropping it leaves the
/// archive as it was.
#[derive(Debug)]
#[must_use = "what is staged is not published"]
pub struct Staged {
    pub(super) partition: Partition,
    pub(super) folder: Folder,
    pub(super) name: PartName,
    pub(super) damage: Option<Damage>,
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

/// What was found wrong with the part that a staged one takes the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    part: PathBuf,
    problem: String,
    /// Rows that could not be carried over; none where nobody knows how many there were.
    rows_lost: Option<u64>,
}

/// A staging folder that goes when it is dropped, unless it became live.
#[derive(Debug)]
pub(super) struct Folder {
    archive: Archive,
    path: PathBuf,
    keep: bool,
}

/// What the quarantine says of a file that it keeps.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    from: &'a str,
    cause: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_lost: Option<u64>,
}

impl Staged {
    /// Makes the new version the day's only one, durably.
    ///
    /// # Errors
    /// Where the file system says no. The old version then stands.
    pub fn publish(mut self) -> Result<PartInfo, ArchiveError> {
        let archive = self.folder.archive.clone();
        let live = self.partition.dir(&archive.root);
        let dataset = paths::dataset(&archive.root, &self.partition.dataset);
        archive.disk.make_dirs(&dataset)?;
        let _lock = archive.lock_publish()?;
        self.keep_damaged(&archive)?;
        self.link_others(&archive, &live)?;
        archive.disk.sync_dir(self.folder.path())?;
        if !live.exists() {
            archive.disk.rename(self.folder.path(), &live)?;
            self.folder.keep = true;
            archive.disk.sync_dir(&dataset)?;
        } else if archive.can_exchange.load(Ordering::Relaxed) && archive.disk.exchange(self.folder.path(), &live)? {
            self.folder.keep = true;
            archive.disk.sync_dir(&dataset)?;
            // The new version is there and durable: that the old one cannot be cleared away is no reason
            // to publish it again.
            archive.retire(self.folder.path(), self.name.shard).unwrap_or_else(|error| told(&error));
        } else {
            archive.note_no_exchange();
            self.replace_part(&archive, &live)?;
        }
        Ok(self.info)
    }

    /// Whether rows of the day's old part could not be carried over.
    #[must_use]
    pub fn loses_rows(&self) -> bool {
        self.damage.as_ref().is_some_and(|damage| damage.rows_lost != Some(0))
    }

    /// What was found wrong with the day's old part: a sentence.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        self.damage.as_ref().map(Damage::sentence)
    }

    /// Keeps the old part as it is, before another takes its place.
    fn keep_damaged(&self, archive: &Archive) -> Result<(), ArchiveError> {
        let Some(damage) = &self.damage else { return Ok(()) };
        let dir = paths::quarantine(&archive.root);
        archive.disk.make_dirs(&dir)?;
        let name = format!("{}.{}.{}", self.partition.dataset, self.partition.date, name_of(&damage.part));
        let kept = free_place(&dir, &name);
        // A publish that failed after this point may have kept it already.
        if same_content(&last_place(&dir, &name), &damage.part) {
            return Ok(());
        }
        archive.link_or_copy(&damage.part, &kept, self.name.shard)?;
        let from = damage.part.strip_prefix(&archive.root).unwrap_or(&damage.part).to_string_lossy();
        let report = Report { file: name_of(&kept), from: &from, cause: &damage.problem, rows_lost: damage.rows_lost };
        archive.report(self.name.shard, &report)?;
        archive.disk.sync_dir(&dir)?;
        Ok(())
    }

    /// Links what the live folder holds beside this shard's parts into the new one. What is no part was
    /// put there by somebody else; where it cannot be linked, it goes to the quarantine with the old folder.
    fn link_others(&self, archive: &Archive, live: &Path) -> Result<(), ArchiveError> {
        for (name, from) in paths::entries(live)? {
            let to = self.folder.path().join(from.file_name().unwrap_or_default());
            match PartName::parse(&name) {
                Some(part) if part.shard == self.name.shard => (),
                Some(_) => archive.link_or_copy(&from, &to, self.name.shard)?,
                None if from.is_dir() => (),
                None => archive.disk.link(&from, &to).unwrap_or_else(|error| told(&error)),
            }
        }
        Ok(())
    }

    /// Where folders cannot be exchanged: the new name comes, the old one goes at once.
    fn replace_part(&self, archive: &Archive, live: &Path) -> Result<(), ArchiveError> {
        archive.disk.rename(&self.folder.path().join(self.name.to_string()), &live.join(self.name.to_string()))?;
        archive.disk.sync_dir(live)?;
        for name in paths::names(live)? {
            if PartName::parse(&name).is_some_and(|part| part.shard == self.name.shard && part < self.name) {
                archive.disk.remove(&live.join(name))?;
            }
        }
        Ok(archive.disk.sync_dir(live)?)
    }
}

impl Damage {
    pub(super) fn new(part: &Path, problem: String, rows_lost: Option<u64>) -> Self {
        Self { part: part.to_owned(), problem, rows_lost }
    }

    fn sentence(&self) -> String {
        let lost = match self.rows_lost {
            None => "none of its rows could be carried over".to_owned(),
            Some(0) => "all of its rows were carried over".to_owned(),
            Some(rows) => format!("{rows} of its rows could not be carried over"),
        };
        format!("{} was damaged ({}): {lost}; it is kept in the quarantine", self.part.display(), self.problem)
    }
}

impl Folder {
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
}

impl Drop for Folder {
    /// A publish that failed, for want of room perhaps, gives back the room that it took.
    fn drop(&mut self) {
        if !self.keep && self.path.exists() {
            self.archive.clear(&self.path).unwrap_or_else(|error| told(&error));
        }
    }
}

impl Archive {
    /// Takes a day out of the archive, all of it, and removes it. Whoever calls it holds every shard's lock.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn remove_day(&self, partition: &Partition) -> Result<(), ArchiveError> {
        let staging = paths::staging(&self.root, 0);
        self.disk.make_dirs(&staging)?;
        let _lock = self.lock_publish()?;
        let place = free_place(&staging, &format!("{}.date={}{RETIRED}", partition.dataset, partition.date));
        self.disk.rename(&partition.dir(&self.root), &place)?;
        self.disk.sync_dir(&paths::dataset(&self.root, &partition.dataset))?;
        self.clear_older(0, changed_at(&place)?, |name| name.contains(RETIRED))
    }

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
        self.disk.rename(folder, &place)?;
        self.clear_older(shard, changed_at(&place)?, |name| name.contains(RETIRED))
    }

    /// Removes the entries of a staging folder that were changed long enough before `now`, which is a
    /// time of the file system's own clock: no other clock has to agree with it.
    fn clear_older(&self, shard: u32, now: Duration, which: impl Fn(&str) -> bool) -> Result<(), ArchiveError> {
        let mut ended = Ok(());
        for (name, left) in paths::entries(&paths::staging(&self.root, shard))? {
            let cleared = match () {
                () if !which(&name) => Ok(()),
                () if name.starts_with(UNFINISHED) => self.disk.remove(&left).map_err(ArchiveError::from),
                () if !left.is_dir() => self.keep_foreign(&left),
                () => changed_at(&left)
                    .and_then(|at| if now.saturating_sub(at) >= self.linger { self.clear(&left) } else { Ok(()) }),
            };
            // One that cannot be cleared away is no reason to leave the others.
            ended = ended.and(cleared);
        }
        ended
    }

    /// What stands in a shard's staging folder.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn staged(&self, shard: u32) -> Result<Vec<PathBuf>, ArchiveError> {
        Ok(paths::entries(&paths::staging(&self.root, shard))?.into_iter().map(|(_, path)| path).collect())
    }

    /// Keeps bytes that were received and could not be filed, with a report of where they come from
    /// and what is wrong with them. Keeping the same bytes again does nothing.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn quarantine(&self, shard: u32, aside: &Aside) -> Result<(), ArchiveError> {
        let dir = paths::quarantine(&self.root);
        self.disk.make_dirs(&dir)?;
        let mut hash = XxHash64::with_seed(0);
        hash.write(&aside.bytes);
        // The content is in the name: a crash may let the same bytes come again.
        let file = format!("{}-{:016x}.{}", aside.name, hash.finish(), aside.kind);
        self.report(shard, &Report { file: file.clone(), from: &aside.from, cause: &aside.cause, rows_lost: None })?;
        let path = dir.join(file);
        if path.exists() {
            return Ok(self.disk.sync_dir(&dir)?);
        }
        self.write_durably(shard, &path, &aside.bytes)
    }

    /// Moves a file or folder that does not belong where it is to the quarantine, with a report.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn set_aside(&self, lock: &ShardLock, path: &Path, cause: &str) -> Result<PathBuf, ArchiveError> {
        let dir = paths::quarantine(&self.root);
        self.disk.make_dirs(&dir)?;
        let from = path.strip_prefix(&self.root).unwrap_or(path);
        let place = free_place(&dir, &from.to_string_lossy().replace('/', "."));
        let report = Report { file: name_of(&place), from: &from.to_string_lossy(), cause, rows_lost: None };
        self.report(lock.shard, &report)?;
        self.disk.rename(path, &place)?;
        self.disk.sync_dir(&dir)?;
        self.disk.sync_dir(path.parent().unwrap_or(&self.root))?;
        Ok(place)
    }

    /// Writes a file of the quarantine anew.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn rewrite_quarantined(&self, lock: &ShardLock, path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.write_durably(lock.shard, path, bytes)
    }

    fn report(&self, shard: u32, report: &Report) -> Result<(), ArchiveError> {
        let path = paths::quarantine(&self.root).join(format!("{}.report.json", report.file));
        let text = serde_json::to_string_pretty(report).expect("a report always has a form in JSON");
        self.write_durably(shard, &path, format!("{text}\n").as_bytes())
    }

    /// Writes a small file so that it is there as a whole or not at all.
    pub(super) fn write_durably(&self, shard: u32, path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
        let staging = paths::staging(&self.root, shard);
        self.disk.make_dirs(&staging)?;
        // Two processes may be about to make the same archive.
        let staged = staging.join(format!("{UNFINISHED}{}.{}", name_of(path), std::process::id()));
        if staged.exists() {
            self.disk.remove(&staged)?;
        }
        let mut file = self.disk.create(&staged)?;
        file.write_all(bytes).map_err(crate::disk::DiskError::of("write", &staged))?;
        file.sync()?;
        self.disk.rename(&staged, path)?;
        Ok(self.disk.sync_dir(path.parent().unwrap_or(&self.root))?)
    }

    /// Gives a file a second name; where the file system has no such thing, a copy.
    fn link_or_copy(&self, from: &Path, to: &Path, shard: u32) -> Result<(), ArchiveError> {
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

    fn keep_foreign(&self, folder: &Path) -> Result<(), ArchiveError> {
        let dir = paths::quarantine(&self.root);
        self.disk.make_dirs(&dir)?;
        let day = name_of(folder);
        let place = free_place(&dir, day.split(RETIRED).next().unwrap_or(&day));
        self.disk.rename(folder, &place)?;
        tracing::warn!(kept = %place.display(), "somebody else's files stood where the archive's are; they were kept aside");
        Ok(())
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

/// Bytes for the quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// What the file's name begins with; made by us, never from what was received.
    pub name: String,
    /// What it ends with.
    pub kind: &'static str,
    /// Where the bytes come from.
    pub from: String,
    /// What is wrong with them.
    pub cause: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Tells of something that did not work and can wait.
fn told(error: &dyn std::error::Error) {
    tracing::warn!("{error}");
}

/// The first place in a folder with a name that begins so, and a number, that is free.
fn free_place(dir: &Path, name: &str) -> PathBuf {
    let free = (0..u32::MAX).map(|count| dir.join(format!("{name}.{count}"))).find(|path| !path.exists());
    free.expect("there are more numbers than folders")
}

/// The last place of those names that is taken; the first where none is.
fn last_place(dir: &Path, name: &str) -> PathBuf {
    let taken = (0..u32::MAX).map(|count| dir.join(format!("{name}.{count}"))).take_while(|path| path.exists()).last();
    taken.unwrap_or_else(|| dir.join(format!("{name}.0")))
}

fn same_content(a: &Path, b: &Path) -> bool {
    match (fs::read(a), fs::read(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a file of the archive has a name").to_string_lossy().into_owned()
}

/// When a file or folder was last changed, renaming included, since the Unix epoch.
fn changed_at(path: &Path) -> Result<Duration, ArchiveError> {
    let metadata = fs::metadata(path).map_err(ArchiveError::io("read", path))?;
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Duration::from_secs(part(metadata.ctime())) + Duration::from_nanos(part(metadata.ctime_nsec())))
}
