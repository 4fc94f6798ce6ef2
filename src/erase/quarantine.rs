//! What lies beside the parts: the quarantine, and what stands in the datasets without being a part.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use chrono::{DateTime, NaiveDate};

use crate::archive::{Archive, ArchiveError, AsideKind, PartFile, ShardLock, is_report, report_of};
use crate::schema::Schema;

use super::subject::{Found, Subject};
use super::{EraseError, Erased, is_of_one};

/// Takes what mentions a subject out of the quarantine, as far as the files are ours and can be read; the
/// others are named. Without a shard's lock nothing is changed.
pub(super) fn forget(
    archive: &Archive,
    lock: Option<&ShardLock>,
    subject: &Subject,
    erased: &mut Erased,
) -> Result<(), EraseError> {
    for path in files(&archive.quarantine_dir())? {
        // A report goes with its file.
        if !path.exists() {
            continue;
        }
        let ours = path.parent() == Some(&archive.quarantine_dir());
        match (look(archive, &path, subject)?, ours) {
            (Mention::None, _) => (),
            (Mention::Lines(kept, gone), true) => {
                erased.quarantined += gone;
                if let Some(lock) = lock {
                    archive.rewrite_quarantined(lock, &path, kept.as_bytes())?;
                }
            }
            (Mention::Rows(schema, gone), true) => {
                let spares = |batch: &RecordBatch| subject.spares(&schema, batch);
                let rewritten =
                    lock.map(|lock| archive.rewrite_quarantined_part(lock, &path, &schema, &spares)).transpose();
                match rewritten {
                    // What was searched can be read; the rest of a damaged part may not be.
                    Err(error) if is_of_one(&error) => {
                        erased.leave(path);
                        continue;
                    }
                    Ok(Some(0)) => remove(archive, &path)?,
                    rewritten => drop(rewritten?),
                }
                erased.quarantined += gone;
            }
            (Mention::All, true) => {
                erased.quarantined += 1;
                if lock.is_some() {
                    remove(archive, &path)?;
                }
            }
            // What cannot be searched may be the last copy of somebody else's rows.
            (Mention::Hidden, _) | (_, false) => erased.leave(path),
        }
    }
    for path in strays(archive)? {
        if !matches!(look(archive, &path, subject)?, Mention::None) {
            erased.leave(path);
        }
    }
    Ok(())
}

/// A file that mentions the subject, or may do so, but for those that are left.
pub(super) fn mentions(archive: &Archive, subject: &Subject, left: &[PathBuf]) -> Result<Option<PathBuf>, EraseError> {
    for path in files(&archive.quarantine_dir())?.into_iter().chain(strays(archive)?) {
        if !left.contains(&path) && !matches!(look(archive, &path, subject)?, Mention::None) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Removes what came into the quarantine before a day.
pub(super) fn prune(
    archive: &Archive,
    first_kept: NaiveDate,
    dry_run: bool,
    erased: &mut Erased,
) -> Result<(), EraseError> {
    for path in files(&archive.quarantine_dir())? {
        let Ok(metadata) = path.metadata() else { continue };
        // When it came there; when it was written is somebody else's story.
        let came = DateTime::from_timestamp(metadata.ctime(), 0);
        if came.is_some_and(|came| came.date_naive() < first_kept) {
            erased.quarantined += 1;
            erased.bytes += metadata.len();
            if !dry_run {
                archive.disk().remove(&path).map_err(ArchiveError::from)?;
            }
        }
    }
    Ok(())
}

/// What a file says of a subject.
enum Mention {
    None,
    /// Some lines do: what is left without them, and how many they are.
    Lines(String, u64),
    /// Some rows of a part do: its schema, and how many they are.
    Rows(Arc<Schema>, u64),
    All,
    /// Nobody can tell.
    Hidden,
}

/// How files begin in which nothing can be found: gzip (RFC 1952) and Zstandard (RFC 8878).
const PACKED: [&[u8]; 2] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd"];

/// A file of the quarantine, or one among the parts. One that cannot be read may hold anything.
fn look(archive: &Archive, path: &Path, subject: &Subject) -> Result<Mention, EraseError> {
    let is_in_quarantine = path.starts_with(archive.quarantine_dir());
    let held = if is_in_quarantine { PartFile::open(path) } else { archive.hold(path) };
    match held.map_err(EraseError::from).and_then(|file| look_at(&file, subject)) {
        // A link that leads nowhere; or a collector has published the day since, and it was its part.
        Err(EraseError::Archive(error)) if is_gone(&error) => Ok(Mention::None),
        Err(EraseError::Archive(error)) if is_of_one(&error) => Ok(Mention::Hidden),
        mention => mention,
    }
}

fn look_at(file: &PartFile, subject: &Subject) -> Result<Mention, EraseError> {
    let (path, bytes) = (file.path(), file.bytes()?);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if bytes.starts_with(b"PAR1") || name.contains(".parquet") && !is_report(path) {
        return Ok(look_into_part(file, subject));
    }
    if PACKED.iter().any(|magic| bytes.starts_with(magic)) {
        return Ok(Mention::Hidden);
    }
    let text = String::from_utf8_lossy(&bytes);
    if !subject.is_in(&text) && !text.lines().any(|line| subject.is_in(line)) && !subject.is_in(&name) {
        return Ok(Mention::None);
    }
    if AsideKind::of(path) != Some(AsideKind::Lines) {
        return Ok(Mention::All);
    }
    let kept: Vec<&str> = text.split_inclusive('\n').filter(|line| !subject.is_in(line)).collect();
    Ok(Mention::Lines(kept.concat(), (text.lines().count() - kept.len()) as u64))
}

/// Rows of a part that was set aside may stand nowhere else.
fn look_into_part(file: &PartFile, subject: &Subject) -> Mention {
    let schemas = Schema::all();
    let schema = schemas.iter().find(|schema| file.part(schema).is_ok());
    match schema.and_then(|schema| Some((schema, subject.count_in(file, schema).ok()?))) {
        Some((_, Found { about: 0, hidden })) if hidden == 0 || subject.has_pseudonym() => Mention::None,
        Some((schema, Found { about: gone @ 1.., .. })) => Mention::Rows(Arc::clone(schema), gone),
        _ => Mention::Hidden,
    }
}

/// Removes a file of the quarantine, and its report.
fn remove(archive: &Archive, path: &Path) -> Result<(), EraseError> {
    archive.disk().remove(path).map_err(ArchiveError::from)?;
    let report = report_of(path);
    if report.exists() {
        archive.disk().remove(&report).map_err(ArchiveError::from)?;
    }
    Ok(())
}

/// Files in the datasets' folders that are no current part: readers may find rows in them.
fn strays(archive: &Archive) -> Result<Vec<PathBuf>, EraseError> {
    let (mut found, mut parts) = (Vec::new(), Vec::new());
    for schema in Schema::all() {
        let mut folders = vec![archive.dataset_dir(&schema)];
        while let Some(folder) = folders.pop() {
            for entry in archive.entries(&folder)? {
                if entry.is_folder && !entry.is_link { folders.push(entry.path) } else { found.push(entry.path) }
            }
        }
        // After the files: what is published in between is among the parts then, and the part before it gone.
        for partition in archive.partitions(&schema)? {
            parts.extend(archive.parts(&partition)?.into_iter().map(|(_, path)| path));
        }
    }
    found.retain(|path| !parts.contains(path));
    found.sort_unstable();
    Ok(found)
}

/// Every file below a folder.
fn files(dir: &Path) -> Result<Vec<PathBuf>, EraseError> {
    let (mut files, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        let entries = fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in entries.map_err(unreadable(&folder))? {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Whether there is no such file, or no more.
fn is_gone(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> EraseError {
    let path = path.to_owned();
    move |error| EraseError::Unreadable { path, error }
}
