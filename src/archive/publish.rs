//! Putting a new version of a day in the place of the old one, and what lies beside the parts.
//!
//! A part is written and synced in a staging folder on the local disk; [`Staged::publish`] lets the [store](super::store)
//! put it in place. In a local folder, what was live lingers for those who have it open, and goes at a later publish.

use std::fs;
use std::hash::Hasher;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use serde::Serialize;
use twox_hash::XxHash64;

use super::merge::Redo;
use super::read::PartFile;
use super::{Archive, ArchiveError, Part, PartName, Partition, ShardLock, paths};
use crate::bucket::Version;
use crate::disk::DiskFile;
use crate::schema::Schema;

/// How long a folder that was live stays as it was, for readers that have it open. A reader lists a
/// folder right after it opened it; only one that the system held up in between takes longer.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// So many times in a row, others may be faster.
pub const MOST_RACES: u32 = 20;

/// What can be done about rows that are lost.
const FETCH: &str = " (`backfill --again` fetches what Cloudflare has of the last 7 days)";

/// In the name of a folder that was live.
pub(super) const RETIRED: &str = ".retired";

/// How the name of a small file begins that is being written.
const UNFINISHED: &str = "unfinished.";

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
pub struct Live {
    /// What the part holds.
    pub info: PartInfo,
    /// For each row that was merged: whether its key was new to the archive.
    pub fresh: Vec<bool>,
    /// What was found wrong with the day's old part: a sentence.
    pub damage: Option<String>,
}

/// What was found wrong with the part that a staged one takes the place of.
#[derive(Debug)]
pub(super) struct Damage {
    pub(super) part: PartFile,
    pub(super) problem: String,
    /// Rows that could not be carried over; none where nobody knows how many there were.
    pub(super) rows_lost: Option<u64>,
    /// Rows that are left out because they belong to another day or shard.
    pub(super) elsewhere: u64,
    /// Whether a value may have changed that nobody can tell from the others.
    pub(super) is_bent: bool,
}

/// A staging folder that goes when it is dropped, unless it became live.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) archive: Archive,
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
    /// Makes the new version the day's only one, durably. Where somebody else wrote the day since it was read, merges
    /// into that and tries again.
    ///
    /// # Errors
    /// Where the file system or the object store says no. The old version then stands; or, where
    /// [`ArchiveError::is_replaced`], another one that somebody else wrote meanwhile.
    pub fn publish(mut self) -> Result<Live, ArchiveError> {
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

    fn into_live(mut self) -> Live {
        Live { info: self.info, fresh: std::mem::take(&mut self.fresh), damage: self.damage() }
    }

    fn publish_once(&mut self) -> Result<(), ArchiveError> {
        let archive = self.folder.archive.clone();
        let _lock = archive.lock_publish()?;
        self.keep_damaged(&archive)?;
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

    /// Keeps the old part as it is, before another takes its place.
    fn keep_damaged(&self, archive: &Archive) -> Result<(), ArchiveError> {
        let Some(damage) = &self.damage else { return Ok(()) };
        let dir = paths::quarantine(&archive.own);
        archive.disk.make_dirs(&dir)?;
        let part = damage.part.path();
        let name = format!("{}.{}.{}", self.partition.dataset, self.partition.date, name_of(part));
        let kept = free_place(&dir, &name);
        // A publish that failed after this point may have kept it already.
        if fs::read(last_place(&dir, &name)).is_ok_and(|kept| damage.part.bytes().is_ok_and(|bytes| bytes == kept)) {
            return Ok(());
        }
        archive.keep(&damage.part, &kept, self.shard)?;
        let from = part.strip_prefix(&archive.root).unwrap_or(part).to_string_lossy();
        let report = Report { file: name_of(&kept), from: &from, cause: &damage.problem, rows_lost: damage.rows_lost };
        archive.report(self.shard, &report)?;
        archive.disk.sync_dir(&dir)?;
        Ok(())
    }
}

impl Damage {
    /// Of a part of which nothing can be read.
    pub(super) fn of_all(part: PartFile, problem: String) -> Self {
        Self { part, problem, rows_lost: None, elsewhere: 0, is_bent: false }
    }

    fn sentence(&self) -> String {
        let lost = match self.rows_lost {
            None => format!("none of its rows could be carried over{FETCH}"),
            Some(0) if self.elsewhere > 0 => format!("{} of its rows belong elsewhere", self.elsewhere),
            Some(0) if self.is_bent => "all of its rows were carried over, some of which may be bent".to_owned(),
            Some(0) => "all of its rows were carried over".to_owned(),
            Some(rows) => format!("{rows} of its rows could not be carried over{FETCH}"),
        };
        format!("{} was damaged ({}): {lost}; it is kept in the quarantine", self.part.path().display(), self.problem)
    }
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
        let _lock = self.lock_publish()?;
        self.store.remove_day(self, partition)
    }

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

    /// What stands in the staging folders that [`Archive::clear_staging`] clears away.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn staged(&self, shard: u32) -> Result<Vec<PathBuf>, ArchiveError> {
        let entries = self.stagings(shard)?.into_iter().map(|shard| paths::entries(&paths::staging(&self.own, shard)));
        Ok(entries.collect::<Result<Vec<_>, _>>()?.concat().into_iter().map(|(_, path)| path).collect())
    }

    /// Keeps bytes that were received and could not be filed, with a report of where they come from
    /// and what is wrong with them. Keeping the same bytes again does nothing.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn quarantine(&self, shard: u32, aside: &Aside) -> Result<(), ArchiveError> {
        let dir = paths::quarantine(&self.own);
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
        let dir = paths::quarantine(&self.own);
        self.disk.make_dirs(&dir)?;
        let from = path.strip_prefix(&self.root).unwrap_or(path);
        let place = free_place(&dir, &from.to_string_lossy().replace('/', "."));
        let report = Report { file: name_of(&place), from: &from.to_string_lossy(), cause, rows_lost: None };
        self.report(lock.shard, &report)?;
        self.store.take_away(self, path, &place)?;
        Ok(place)
    }

    /// Writes a file of the quarantine anew.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn rewrite_quarantined(&self, lock: &ShardLock, path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.write_durably(lock.shard, path, bytes)
    }

    /// Writes a part of the quarantine anew with those rows that `keep` says stay, unless none do; returns how many.
    ///
    /// # Errors
    /// Where it is damaged, or the file system says no.
    pub fn rewrite_quarantined_part(
        &self,
        lock: &ShardLock,
        path: &Path,
        schema: &Schema,
        keep: &dyn Fn(&RecordBatch) -> BooleanArray,
    ) -> Result<u64, ArchiveError> {
        let staging = paths::staging(&self.own, lock.shard);
        self.disk.make_dirs(&staging)?;
        let staged = self.unfinished_path(&staging, &name_of(path))?;
        let mut map = |batch: &RecordBatch| filter_record_batch(batch, &keep(batch));
        let rows = self.write_mapped(&Part::open(path, schema)?, schema, &staged, &mut map)?.rows;
        if rows == 0 {
            self.disk.remove(&staged)?;
            return Ok(0);
        }
        self.disk.rename(&staged, path)?;
        self.disk.sync_dir(path.parent().unwrap_or(&self.own))?;
        Ok(rows)
    }

    /// Where the next pass over an account goes on, as [`Archive::keep_resume`] noted it; none where it begins anew.
    #[must_use]
    pub fn resume(&self, shard: u32, account: &str) -> Option<String> {
        fs::read_to_string(paths::resume(&self.own, shard, account)).ok()
    }

    /// Notes where the next pass over an account goes on.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn keep_resume(&self, shard: u32, account: &str, note: Option<&str>) -> Result<(), ArchiveError> {
        let path = paths::resume(&self.own, shard, account);
        match note {
            Some(note) => {
                self.disk.make_dirs(path.parent().unwrap_or(&self.own))?;
                self.write_durably(shard, &path, note.as_bytes())
            }
            None if path.exists() => Ok(self.disk.remove(&path)?),
            None => Ok(()),
        }
    }

    fn report(&self, shard: u32, report: &Report) -> Result<(), ArchiveError> {
        let path = paths::quarantine(&self.own).join(format!("{}.report.json", report.file));
        let text = serde_json::to_string_pretty(report).expect("a report always has a form in JSON");
        self.write_durably(shard, &path, format!("{text}\n").as_bytes())
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

    /// Keeps a part under another name.
    fn keep(&self, part: &PartFile, to: &Path, shard: u32) -> Result<(), ArchiveError> {
        match part.version {
            None => self.link_or_copy(part.path(), to, shard),
            // What is held is a copy without a name.
            Some(_) => self.write_durably(shard, to, &part.bytes()?),
        }
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

    fn keep_foreign(&self, folder: &Path) -> Result<(), ArchiveError> {
        let dir = paths::quarantine(&self.own);
        self.disk.make_dirs(&dir)?;
        let day = name_of(folder);
        let place = free_place(&dir, day.split(RETIRED).next().unwrap_or(&day));
        self.disk.rename(folder, &place)?;
        tracing::warn!(kept = %place.display(), "somebody else's files stood where the archive's are; they were kept aside");
        Ok(())
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
pub(super) fn told(error: &dyn std::error::Error) {
    tracing::warn!("{error}");
}

/// The first place in a folder with a name that begins so, and a number, that is free.
pub(super) fn free_place(dir: &Path, name: &str) -> PathBuf {
    let free = (0..u32::MAX).map(|count| dir.join(format!("{name}.{count}"))).find(|path| !path.exists());
    free.expect("there are more numbers than folders")
}

/// The last place of those names that is taken; the first where none is.
fn last_place(dir: &Path, name: &str) -> PathBuf {
    let taken = (0..u32::MAX).map(|count| dir.join(format!("{name}.{count}"))).take_while(|path| path.exists()).last();
    taken.unwrap_or_else(|| dir.join(format!("{name}.0")))
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
