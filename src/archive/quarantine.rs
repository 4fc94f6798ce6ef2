//! What could not be filed, did not belong where it was, or was damaged: kept as it came, with a report of where it comes
//! from and why it is there. Nothing here is taken out again but by `forget`.

use std::fs;
use std::path::{Path, PathBuf};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use serde::Serialize;
use twox_hash::XxHash64;

use crate::schema::Schema;

use super::read::PartFile;
use super::staging::{RETIRED, free_place, name_of};
use super::{Archive, ArchiveError, Part, Partition, ShardLock, paths};

/// What can be done about rows that are lost.
const FETCH: &str = " (`backfill --again` fetches what Cloudflare has of the last 7 days)";

/// Bytes for the quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// What the file's name begins with; made by us, never from what was received.
    pub name: String,
    /// What is in it, by which its name ends.
    pub kind: AsideKind,
    /// Where the bytes come from.
    pub from: String,
    /// What is wrong with them.
    pub cause: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What a file of the quarantine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsideKind {
    /// Bodies, one a line, each with where it comes from and why it is there.
    Lines,
    /// A stretch of the journal.
    JournalGap,
}

impl AsideKind {
    const ALL: [Self; 2] = [Self::Lines, Self::JournalGap];

    fn extension(self) -> &'static str {
        match self {
            Self::Lines => "ndjson",
            Self::JournalGap => "journal-gap",
        }
    }

    /// What a file of the quarantine holds, by its name; none where it is a part, a report, or not ours.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?;
        Self::ALL.into_iter().find(|kind| extension == kind.extension())
    }
}

/// How the names of reports end.
const REPORT: &str = ".report.json";

/// The report on a file of the quarantine.
#[must_use]
pub fn report_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(REPORT);
    name.into()
}

/// Whether a file of the quarantine is a report on another.
#[must_use]
pub fn is_report(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(REPORT.as_bytes())
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

impl Damage {
    /// Of a part of which nothing can be read.
    pub(super) fn of_all(part: PartFile, problem: String) -> Self {
        Self { part, problem, rows_lost: None, elsewhere: 0, is_bent: false }
    }

    pub(super) fn sentence(&self) -> String {
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

/// What the quarantine says of a file that it keeps.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    from: &'a str,
    cause: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_lost: Option<u64>,
}

impl Archive {
    /// Keeps bytes that were received and could not be filed, with a report of where they come from
    /// and what is wrong with them. Keeping the same bytes again does nothing.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn quarantine(&self, shard: u32, aside: &Aside) -> Result<(), ArchiveError> {
        let dir = paths::quarantine(&self.own);
        self.disk.make_dirs(&dir)?;
        // The content is in the name: a crash may let the same bytes come again.
        let hash = XxHash64::oneshot(0, &aside.bytes);
        let file = format!("{}-{hash:016x}.{}", aside.name, aside.kind.extension());
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
        let written = Part::open(path, schema).and_then(|part| self.write_mapped(&part, schema, &staged, &mut map));
        if written.is_err() && staged.exists() {
            self.disk.remove(&staged)?;
        }
        let rows = written?.rows;
        if rows == 0 {
            self.disk.remove(&staged)?;
            return Ok(0);
        }
        self.disk.rename(&staged, path)?;
        self.disk.sync_dir(path.parent().unwrap_or(&self.own))?;
        Ok(rows)
    }

    fn report(&self, shard: u32, report: &Report) -> Result<(), ArchiveError> {
        let path = report_of(&paths::quarantine(&self.own).join(&report.file));
        let text = serde_json::to_string_pretty(report).expect("a report always has a form in JSON");
        self.write_durably(shard, &path, format!("{text}\n").as_bytes())
    }

    pub(super) fn keep_foreign(&self, folder: &Path) -> Result<(), ArchiveError> {
        let dir = paths::quarantine(&self.own);
        self.disk.make_dirs(&dir)?;
        let day = name_of(folder);
        let place = free_place(&dir, day.split(RETIRED).next().unwrap_or(&day));
        self.disk.rename(folder, &place)?;
        tracing::warn!(kept = %place.display(), "somebody else's files stood where the archive's are; they were kept aside");
        Ok(())
    }

    /// Keeps a damaged part as it is, before another takes its place.
    pub(super) fn keep_damaged(&self, partition: &Partition, shard: u32, damage: &Damage) -> Result<(), ArchiveError> {
        let dir = paths::quarantine(&self.own);
        self.disk.make_dirs(&dir)?;
        let part = damage.part.path();
        let name = format!("{}.{}.{}", partition.dataset, partition.date, name_of(part));
        let kept = free_place(&dir, &name);
        // A publish that failed after this point may have kept it already.
        if fs::read(last_place(&dir, &name)).is_ok_and(|kept| damage.part.bytes().is_ok_and(|bytes| bytes == kept)) {
            return Ok(());
        }
        self.keep(&damage.part, &kept, shard)?;
        let from = part.strip_prefix(&self.root).unwrap_or(part).to_string_lossy();
        let report = Report { file: name_of(&kept), from: &from, cause: &damage.problem, rows_lost: damage.rows_lost };
        self.report(shard, &report)?;
        self.disk.sync_dir(&dir)?;
        Ok(())
    }

    /// Keeps a part under another name.
    fn keep(&self, part: &PartFile, to: &Path, shard: u32) -> Result<(), ArchiveError> {
        match part.version {
            None => self.link_or_copy(part.path(), to, shard),
            // What is held is a copy without a name.
            Some(_) => self.write_durably(shard, to, &part.bytes()?),
        }
    }
}

/// The last place of those names that is taken; the first where none is.
fn last_place(dir: &Path, name: &str) -> PathBuf {
    let taken = (0..u32::MAX).map(|count| dir.join(format!("{name}.{count}"))).take_while(|path| path.exists()).last();
    taken.unwrap_or_else(|| dir.join(format!("{name}.0")))
}
