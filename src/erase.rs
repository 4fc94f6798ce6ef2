//! Taking rows out of the archive for good: days that are too old, and whatever is about a device or a
//! person.
//!
//! Both are the archive's usual operation: a day is written anew and takes the old one's place. What was
//! there goes at once, also for readers that have it open. [`forget`] takes the quarantine along, and
//! looks at everything again afterwards. It needs a journal that is empty, which is the ingest's
//! business, and does not decide who is to be forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use chrono::NaiveDate;
use serde_json::Value;

use crate::archive::{Archive, ArchiveError, Part, Partition, Scan, ShardLock};
use crate::journal::{self, JournalError};
use crate::schema::{Personal, Schema};

/// Who or what is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    kind: SubjectKind,
    /// The values by which it is known, pseudonyms among them, in lower case.
    values: BTreeSet<String>,
}

/// What a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKind {
    /// Devices, by their ids.
    Device,
    /// People, by their e-mail addresses.
    Person,
}

/// What was taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// The days, oldest first: dataset, date, rows that went.
    pub days: Vec<(String, NaiveDate, u64)>,
    /// Bytes of parts that went, less those of the parts that took their place.
    pub bytes: u64,
    /// Files of the quarantine that went, and lines that went out of others.
    pub quarantined: u64,
    /// Files that mention the subject and that are somebody else's to deal with.
    pub left: Vec<PathBuf>,
}

/// Why something could not be taken out.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The archive's fault.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The journal's.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Something waits to be published, and may be about the subject.
    #[error("{} is not published yet: run `collect` or `import`, mend what it says, and try again", .0.display())]
    Pending(PathBuf),
    /// Rows are still there.
    #[error("{rows} rows about it are still in {}: run `verify`, mend what it says, and try again", path.display())]
    Left {
        /// A part that holds them.
        path: PathBuf,
        /// How many.
        rows: u64,
    },
    /// A file of the quarantine cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Quarantine {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
}

/// Takes everything about a subject out of a shard and of the quarantine, and proves it by looking again.
/// With `dry_run` nothing is changed: the answer says what would be.
///
/// # Errors
/// Where the journal is not empty, a part is damaged, or the file system says no. What went before is gone.
pub fn forget(archive: &Archive, lock: &ShardLock, subject: &Subject, dry_run: bool) -> Result<Erased, EraseError> {
    if let Some((_, path)) = journal::segments(&archive.journal_path(lock.shard))?.into_iter().next() {
        return Err(EraseError::Pending(path));
    }
    let archive = archive.clone().lingering(Duration::ZERO);
    archive.clear_staging(lock.shard)?;
    let mut erased = Erased::default();
    for schema in Schema::all() {
        let columns = subject.columns(&schema);
        for partition in archive.partitions(&schema)?.into_iter().filter(|_| !columns.is_empty()) {
            forget_in_day(&archive, lock, &schema, &partition, subject, dry_run, &mut erased)?;
        }
    }
    forget_in_quarantine(&archive, lock, subject, dry_run, &mut erased)?;
    if !dry_run {
        prove(&archive, subject)?;
    }
    Ok(erased)
}

/// Removes the days before `first_kept`, and what was put into the quarantine before it. With `dry_run`
/// nothing is changed: the answer says what would be. Whoever calls it holds every shard's lock.
///
/// # Errors
/// Where the file system says no. What went before is gone.
pub fn prune(archive: &Archive, first_kept: NaiveDate, dry_run: bool) -> Result<Erased, EraseError> {
    let mut erased = Erased::default();
    for schema in Schema::all() {
        for partition in archive.partitions(&schema)?.into_iter().filter(|partition| partition.date < first_kept) {
            let mut rows = 0;
            for (_, path) in archive.parts(&partition)? {
                // A part that cannot be read is pruned all the same: it is too old whatever it says.
                rows += Part::open(&path, &schema).map_or(0, |part| part.footer().0);
                erased.bytes += size(&path);
            }
            if !dry_run {
                archive.remove_day(&partition)?;
            }
            erased.days.push((partition.dataset, partition.date, rows));
        }
    }
    for path in quarantined(archive)? {
        if changed_on(&path).is_some_and(|date| date < first_kept) {
            erased.quarantined += 1;
            erased.bytes += size(&path);
            if !dry_run {
                archive.disk().remove(&path).map_err(ArchiveError::from)?;
            }
        }
    }
    Ok(erased)
}

impl Subject {
    /// A subject that is known by some values; where rules have made pseudonyms of them, by these too.
    #[must_use]
    pub fn new(kind: SubjectKind, values: impl IntoIterator<Item = String>) -> Self {
        Self { kind, values: values.into_iter().map(|value| value.to_lowercase()).collect() }
    }

    /// The columns in which it is known, as positions in a schema.
    fn columns(&self, schema: &Schema) -> Vec<usize> {
        let device = schema.index_of("device_id");
        let is_ours = |at: &usize| match self.kind {
            SubjectKind::Device => Some(*at) == device,
            SubjectKind::Person => schema.columns[*at].personal == Some(Personal::Person),
        };
        (0..schema.columns.len()).filter(is_ours).collect()
    }

    /// For each row, whether it is about something else.
    fn spares(&self, schema: &Schema, batch: &RecordBatch) -> BooleanArray {
        let columns: Vec<_> = self.columns(schema).into_iter().map(|at| &schema.columns[at].name).collect();
        let columns = columns.iter().filter_map(|name| batch.column_by_name(name)?.as_string_opt::<i32>());
        let columns: Vec<_> = columns.collect();
        let is_about = |row: usize| {
            columns.iter().any(|texts| texts.is_valid(row) && self.values.contains(&texts.value(row).to_lowercase()))
        };
        (0..batch.num_rows()).map(|row| Some(!is_about(row))).collect()
    }

    /// Rows of a part that are about it.
    fn count_in(&self, path: &Path, schema: &Schema) -> Result<u64, ArchiveError> {
        let scan = Scan { columns: self.columns(schema).into_iter().collect(), any_of: None };
        let mut rows = 0;
        for batch in Part::open(path, schema)?.batches(Some(&scan))? {
            let batch = batch?;
            rows += (batch.num_rows() - self.spares(schema, &batch).true_count()) as u64;
        }
        Ok(rows)
    }

    /// Whether a text, or a JSON text in it, mentions it.
    fn is_in(&self, text: &str) -> bool {
        let plain = text.to_lowercase();
        self.values.iter().any(|value| plain.contains(value)) || self.is_in_json(text)
    }

    fn is_in_json(&self, text: &str) -> bool {
        match serde_json::from_str(text) {
            Ok(Value::Object(members)) => {
                members.iter().any(|(key, value)| self.is_in(key) || self.is_in_json(&value.to_string()))
            }
            Ok(Value::Array(items)) => items.iter().any(|item| self.is_in_json(&item.to_string())),
            // Letters may be written as escapes, and a body stands in the quarantine as a string.
            Ok(Value::String(inner)) => self.is_in(&inner),
            _ => false,
        }
    }
}

fn forget_in_day(
    archive: &Archive,
    lock: &ShardLock,
    schema: &Schema,
    partition: &Partition,
    subject: &Subject,
    dry_run: bool,
    erased: &mut Erased,
) -> Result<(), EraseError> {
    let Some((_, path)) = archive.parts(partition)?.into_iter().find(|(part, _)| part.shard == lock.shard) else {
        return Ok(());
    };
    let rows = subject.count_in(&path, schema)?;
    if rows == 0 {
        return Ok(());
    }
    let before = size(&path);
    erased.days.push((partition.dataset.clone(), partition.date, rows));
    if dry_run {
        return Ok(());
    }
    let staged = archive.stage_without(lock, schema, partition.date, &|batch| subject.spares(schema, batch))?;
    let Some(staged) = staged else { return Ok(()) };
    if staged.info.rows == 0 && archive.shards() == 1 {
        drop(staged);
        archive.remove_day(partition)?;
        erased.bytes += before;
    } else {
        erased.bytes += before.saturating_sub(staged.publish()?.bytes);
    }
    Ok(())
}

fn forget_in_quarantine(
    archive: &Archive,
    lock: &ShardLock,
    subject: &Subject,
    dry_run: bool,
    erased: &mut Erased,
) -> Result<(), EraseError> {
    for path in quarantined(archive)? {
        let bytes = fs::read(&path).map_err(|error| EraseError::Quarantine { path: path.clone(), error })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = path.parent() == Some(&archive.quarantine_dir());
        let text = String::from_utf8_lossy(&bytes);
        if name.contains(".parquet.") && path.extension().is_none_or(|kind| kind != "json") {
            // A damaged part may hide what it holds: it goes, unless all of it can be read and spares the subject.
            if is_spared_by_part(&path, subject) {
                continue;
            }
        } else if !subject.is_in(&text) {
            continue;
        } else if !ours {
            erased.left.push(path);
            continue;
        } else if path.extension().is_some_and(|kind| kind == "ndjson") {
            let kept: Vec<&str> = text.split_inclusive('\n').filter(|line| !subject.is_in(line)).collect();
            erased.quarantined += (text.lines().count() - kept.len()) as u64;
            if !dry_run {
                archive.rewrite_quarantined(lock, &path, kept.concat().as_bytes())?;
            }
            continue;
        }
        erased.quarantined += 1;
        if !dry_run {
            archive.disk().remove(&path).map_err(ArchiveError::from)?;
        }
    }
    Ok(())
}

fn is_spared_by_part(path: &Path, subject: &Subject) -> bool {
    let schemas = Schema::all();
    let schema = schemas.iter().find(|schema| Part::open(path, schema).is_ok());
    schema.is_some_and(|schema| matches!(subject.count_in(path, schema), Ok(0)))
}

/// Looks at every part and every file of the quarantine again.
fn prove(archive: &Archive, subject: &Subject) -> Result<(), EraseError> {
    for schema in Schema::all() {
        for partition in archive.partitions(&schema)? {
            for (_, path) in archive.parts(&partition)? {
                let rows = if subject.columns(&schema).is_empty() { 0 } else { subject.count_in(&path, &schema)? };
                if rows > 0 {
                    return Err(EraseError::Left { path, rows });
                }
            }
        }
    }
    Ok(())
}

/// Every file below the quarantine.
fn quarantined(archive: &Archive) -> Result<Vec<PathBuf>, EraseError> {
    let (mut files, mut folders) = (Vec::new(), vec![archive.quarantine_dir()]);
    while let Some(folder) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        let entries = fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in entries.map_err(|error| EraseError::Quarantine { path: folder.clone(), error })? {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn changed_on(path: &Path) -> Option<NaiveDate> {
    let changed = path.metadata().ok()?.modified().ok()?;
    Some(chrono::DateTime::<chrono::Utc>::from(changed).date_naive())
}
