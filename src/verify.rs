//! Whether an archive is what it should be.
//!
//! [`verify()`] looks at everything that stands in the folder and changes nothing. Each [`Finding`] says
//! how bad it is, what it is about, what is wrong, and what to do. [`repair`] does what is safe: it moves
//! what does not belong to the quarantine, files rows where they do belong, and rewrites a part from what can be read of
//! it, the part itself being kept. Nothing is ever deleted.
//!
//! A key has its time and its device in it, so a row that stands in its own day and shard and in order is there once in
//! the whole archive.

mod layout;
mod part;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::NaiveDate;
use serde::{Serialize, Serializer};

use crate::archive::{Archive, ArchiveError, PartName, Partition, Refiled, ShardLock, Spot};
use crate::journal::{self, Item, JournalError, Segment};
use crate::privacy::Action;
use crate::schema::Schema;

/// What is looked at.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Reads every column of every part, and not only those that rows are told apart by.
    pub deep: bool,
    /// Columns that are to be dropped or pseudonyms by the rules in force; looked at with `deep`.
    pub treated: Vec<(String, Action)>,
}

/// What was looked at, and found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Parts that were looked at.
    pub parts: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Answers in the journal that are yet to be published.
    pub pending_answers: u64,
    /// Files in the quarantine.
    pub quarantined: u64,
    /// What is not as it should be, worst first.
    pub findings: Vec<Finding>,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or folder, below the archive's.
    #[serde(serialize_with = "lossy")]
    pub subject: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
    /// What [`repair`] does about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
}

/// A path whose name is no text is told as far as it is.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Rows are lost or doubled, or readers fail.
    Error,
    /// Nothing is lost yet.
    Warning,
    /// Good to know.
    Note,
}

/// What can safely be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Move it to the quarantine.
    SetAside,
    /// Move it to the quarantine, although rows of it may stand nowhere else.
    SetDamagedAside,
    /// File its rows where they belong, and move it to the quarantine.
    Refile {
        /// The dataset.
        dataset: String,
    },
    /// Write the day's part anew from what can be read of it, and keep the old one in the quarantine.
    Rewrite {
        /// The dataset.
        dataset: String,
        /// The day.
        #[serde(serialize_with = "as_text")]
        date: NaiveDate,
        /// The shard.
        shard: u32,
    },
}

/// What was done about findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// A sentence for each thing that was done.
    pub sentences: Vec<String>,
    /// What could not be done, and why, a sentence each.
    pub failed: Vec<String>,
    /// Whether rows could not be carried over: they are in the quarantine alone.
    pub loses_rows: bool,
}

/// Looks at an archive. `looked` is told of each part before it is read.
///
/// # Errors
/// Where the folder itself cannot be listed, there is no room to hold a part, or the state's folder is another archive's.
pub fn verify(
    archive: &Archive,
    options: &VerifyOptions,
    looked: &mut dyn FnMut(&Path),
) -> Result<Report, ArchiveError> {
    archive.check_state()?;
    let mut report = Report::default();
    let mut findings = Findings { root: archive.root().to_owned(), list: Vec::new() };
    layout::look(archive, &mut findings);
    for schema in Schema::all() {
        let mut unlisted = |day: &Partition, error: &_| findings.unlisted(&archive.day_dir(day), error);
        for (partition, name, path) in parts(archive, &schema, &mut unlisted)? {
            looked(&path);
            part::Look { schema: &schema, partition: &partition, name, path, options }.look(
                archive,
                &mut report,
                &mut findings,
            )?;
        }
    }
    for journal in archive.journals() {
        look_at_journal(archive, &journal, &mut report, &mut findings);
    }
    report.quarantined = layout::quarantined(&archive.quarantine_dir());
    if report.quarantined > 0 {
        let problem = format!("{} files were received or found, and could not be filed", report.quarantined);
        findings.add(
            Severity::Note,
            &archive.quarantine_dir(),
            &problem,
            "read the reports there; remove what you do not need",
            None,
        );
    }
    report.findings = findings.list;
    report.findings.sort_by_key(|finding| finding.severity);
    Ok(report)
}

/// The parts that [`verify()`] reads.
///
/// # Errors
/// Where a folder cannot be listed.
pub fn count_parts(archive: &Archive) -> Result<u64, ArchiveError> {
    Schema::all().iter().map(|schema| Ok(parts(archive, schema, &mut |_, _| ())?.len() as u64)).sum()
}

/// Does what is safe about the findings, one after the other: what cannot be done about one keeps no other from being
/// mended, unless the place cannot be asked at all.
///
/// # Errors
/// Where the object store gives no answer; what was repaired before stays so.
pub fn repair(archive: &Archive, locks: &[ShardLock], report: &Report) -> Result<Repaired, ArchiveError> {
    let mut done = Repaired::default();
    let Some(first) = locks.first() else { return Ok(done) };
    for finding in &report.findings {
        match done.mend(archive, (first, locks), finding) {
            Err(error) if !error.is_away() => done.failed.push(format!("{}: {error}", finding.subject.display())),
            mended => mended?,
        }
    }
    Ok(done)
}

/// Removes the folder of a day whose last part was filed elsewhere: left empty, it would look like one whose parts are lost.
fn leave_no_empty_day(archive: &Archive, part: &Path) -> Result<(), ArchiveError> {
    let Some(dir) = part.parent() else { return Ok(()) };
    let (dataset, day) = (dir.parent().and_then(Path::file_name), dir.file_name());
    let named = dataset.and_then(|dataset| dataset.to_str()).zip(day.and_then(|day| day.to_str()));
    match named.and_then(|(dataset, day)| Partition::parse(dataset, day)) {
        Some(partition) if archive.entries(dir)?.is_empty() => archive.remove_day(&partition),
        _ => Ok(()),
    }
}

/// Whether something is where it was found.
fn is_there(archive: &Archive, path: &Path) -> Result<bool, ArchiveError> {
    let entries = archive.entries(path.parent().unwrap_or(archive.root()))?;
    Ok(entries.iter().any(|entry| entry.path == path))
}

/// The schema of a dataset; none where there is no such.
fn schema_of(dataset: &str) -> Option<Arc<Schema>> {
    Schema::all().into_iter().find(|schema| schema.dataset == dataset)
}

impl Repaired {
    fn mend(
        &mut self,
        archive: &Archive,
        (first, locks): (&ShardLock, &[ShardLock]),
        finding: &Finding,
    ) -> Result<(), ArchiveError> {
        let subject = archive.root().join(&finding.subject);
        // Two findings may be of one part, and a publish takes away a part of which it has all rows.
        let is_part = !matches!(finding.repair, None | Some(Repair::Rewrite { .. }));
        if is_part && !is_there(archive, &subject)? {
            return Ok(());
        }
        let (mut is_filed, mut loses_rows) = (false, false);
        match &finding.repair {
            None => return Ok(()),
            Some(Repair::SetAside) => (),
            Some(Repair::SetDamagedAside) => loses_rows = true,
            Some(Repair::Refile { dataset }) => {
                if let Some(schema) = schema_of(dataset) {
                    // A part that says no number of rows has none that could be filed.
                    let all = archive.look(&subject, &schema).map_or(u64::MAX, |part| part.rows());
                    is_filed = self.refile(archive, locks, &schema, &subject, None)? == all;
                    loses_rows = !is_filed;
                }
            }
            Some(Repair::Rewrite { dataset, date, shard }) => {
                return match schema_of(dataset) {
                    Some(schema) => self.rewrite(archive, locks, &schema, Spot { shard: *shard, date: *date }),
                    None => Ok(()),
                };
            }
        }
        if !is_there(archive, &subject)? {
            return Ok(());
        }
        let place = archive.set_aside(first, &subject, &finding.problem)?;
        // What could not be moved is where it was, with its rows.
        self.loses_rows |= loses_rows;
        self.sentences.push(format!("moved {} to {}", finding.subject.display(), place.display()));
        if is_filed { leave_no_empty_day(archive, &subject) } else { Ok(()) }
    }

    /// Files those rows of a part elsewhere that do not belong where it is, as far as it can be read; returns how many.
    fn refile(
        &mut self,
        archive: &Archive,
        locks: &[ShardLock],
        schema: &Arc<Schema>,
        path: &Path,
        own: Option<Spot>,
    ) -> Result<u64, ArchiveError> {
        let refiled = match archive.refile(locks, schema, path, own) {
            // What is not filed goes to the quarantine with the part.
            Err(ArchiveError::Damaged { path: ref at, .. } | ArchiveError::Schema { path: ref at, .. })
                if at == path =>
            {
                Refiled::default()
            }
            refiled => refiled?,
        };
        let Refiled { rows: refiled, damaged, loses_rows } = refiled;
        self.sentences.extend(damaged);
        self.loses_rows |= loses_rows;
        if refiled > 0 {
            self.sentences.push(format!("filed {refiled} rows of {} where they belong", path.display()));
        }
        Ok(refiled)
    }

    /// Writes a day's part anew from what can be read of it. Rows that do not belong there are filed elsewhere first.
    fn rewrite(
        &mut self,
        archive: &Archive,
        locks: &[ShardLock],
        schema: &Arc<Schema>,
        own: Spot,
    ) -> Result<(), ArchiveError> {
        let Some(lock) = locks.iter().find(|lock| lock.shard == own.shard) else { return Ok(()) };
        let parts = archive.parts(&Partition { dataset: schema.dataset.clone(), date: own.date })?;
        // By now it may be another one: what was repaired before has filed rows into this day.
        let part = parts.into_iter().find(|(part, _)| part.shard == own.shard);
        let refiled = match part {
            Some((_, part)) => self.refile(archive, locks, schema, &part, Some(own))?,
            None => 0,
        };
        let staged = archive.stage_anew(lock, schema, own.date)?;
        self.sentences.extend(staged.damage());
        self.loses_rows |= staged.loses_rows(refiled);
        staged.publish()?;
        Ok(())
    }
}

impl Report {
    /// Whether something is not as it should be, beyond what is good to know.
    #[must_use]
    pub fn has_findings(&self) -> bool {
        self.count(Severity::Error) + self.count(Severity::Warning) > 0
    }

    /// Findings of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn as_text<S: Serializer>(date: &NaiveDate, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(date)
}

/// What was found so far.
struct Findings {
    root: PathBuf,
    list: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, severity: Severity, subject: &Path, problem: &str, remedy: &str, repair: Option<Repair>) {
        let subject = subject.strip_prefix(&self.root).unwrap_or(subject).to_owned();
        let (problem, remedy) = (problem.to_owned(), remedy.to_owned());
        self.list.push(Finding { severity, subject, problem, remedy, repair });
    }

    /// A folder that cannot be listed, which may have been found before.
    fn unlisted(&mut self, dir: &Path, error: &ArchiveError) {
        let subject = dir.strip_prefix(&self.root).unwrap_or(dir);
        if self.list.iter().all(|finding| finding.subject != subject) {
            let problem = format!("it cannot be listed: {error}");
            self.add(Severity::Error, dir, &problem, "make it readable to this user", None);
        }
    }
}

/// What is told of a day that cannot be listed.
type Unlisted<'a> = &'a mut dyn FnMut(&Partition, &ArchiveError);

/// The parts of a dataset, but for days that cannot be listed.
fn parts(
    archive: &Archive,
    schema: &Schema,
    unlisted: Unlisted,
) -> Result<Vec<(Partition, PartName, PathBuf)>, ArchiveError> {
    let mut found = Vec::new();
    for partition in archive.partitions(schema)? {
        match archive.parts(&partition) {
            Ok(parts) => found.extend(parts.into_iter().map(|(name, path)| (partition.clone(), name, path))),
            Err(error) => unlisted(&partition, &error),
        }
    }
    Ok(found)
}

/// Whether somebody is collecting or importing.
fn is_written(archive: &Archive) -> bool {
    (0..archive.shards()).any(|shard| matches!(archive.holder(shard), Ok(Some(_))))
}

/// Counts what waits in a journal, and what of it cannot be read.
fn look_at_journal(archive: &Archive, dir: &Path, report: &mut Report, findings: &mut Findings) {
    let segments = match journal::segments(dir) {
        Ok(segments) => segments,
        Err(_) if !dir.exists() => return,
        Err(error) => {
            let remedy = "nothing can be collected: make it a folder that this user may read and write";
            return findings.add(Severity::Error, dir, &error.to_string(), remedy, None);
        }
    };
    let last = segments.last().map(|(_, path)| path.clone());
    for (_, path) in segments {
        match Segment::read(&path) {
            Ok(segment) => {
                let (answers, gaps, ends_in_gap) =
                    segment.items().fold((0, 0, false), |(answers, gaps, _), item| match item {
                        Item::Answer { .. } => (answers + 1, gaps, false),
                        Item::Gap { .. } => (answers, gaps + 1, true),
                    });
                report.pending_answers += answers;
                // The end of what a collector is just writing is no finding.
                let is_under_way = ends_in_gap && Some(&path) == last.as_ref() && is_written(archive);
                if gaps > u64::from(is_under_way) {
                    let problem = format!("{gaps} stretches of it were written in part, or bent since");
                    let remedy = "the next collect or import publishes the rest, and keeps them in the quarantine";
                    findings.add(Severity::Warning, &path, &problem, remedy, None);
                }
            }
            // It was published meanwhile.
            Err(_) if !path.exists() => (),
            Err(error @ JournalError::Format { .. }) => {
                findings.add(Severity::Error, &path, &error.to_string(), "use the newer dex-archive", None);
            }
            Err(error) => {
                let remedy = "make it readable to this user: the next collect or import publishes it";
                findings.add(Severity::Error, &path, &error.to_string(), remedy, None);
            }
        }
    }
}
