//! Taking rows out of the archive for good: days that are too old, and whatever is about a device, a person or an
//! account.
//!
//! Both are the archive's usual operation: a day is written anew and takes the old one's place. What was
//! there goes at once, also for readers that have it open. [`forget`] takes the quarantine along, and
//! looks at everything again afterwards; what it cannot search or may not touch, it names, and goes on. It needs a
//! journal that is empty, which is the ingest's business, and does not decide who is to be forgotten.

mod quarantine;
mod subject;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::NaiveDate;

use crate::archive::{Archive, ArchiveError, PartName, Partition, ShardLock};
use crate::journal::{self, JournalError};
use crate::schema::Schema;

use subject::Belongings;

pub use subject::{Subject, SubjectKind};

/// What was taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// How many rows of each dataset's days went.
    pub days: BTreeMap<(NaiveDate, String), u64>,
    /// Bytes of parts that went, less those of the parts that took their place.
    pub bytes: u64,
    /// Files of the quarantine that went, and lines that went out of others.
    pub quarantined: u64,
    /// Files that mention the subject and are somebody else's, or that nobody can search.
    pub left: Vec<PathBuf>,
    /// Devices of a person that have states of which nobody can say whose they are: they name nobody, and have no
    /// registration that is known to be one person's alone. These stay.
    pub unclear: BTreeSet<String>,
    /// Whether no state in the archive names anybody: nobody can be found in it.
    pub names_nobody: bool,
    /// Rows under pseudonyms that are none of the subject's. Where no row went, they may be made with another key.
    pub other_pseudonyms: u64,
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
    /// The archive holds pseudonyms, and nobody gave the key.
    #[error("{} holds pseudonyms: name the config with the [privacy] rules and their key", .0.display())]
    NeedsKey(PathBuf),
    /// Not a day would be left.
    #[error(
        "no state in {} is of {first_kept} or later, the newest is of {newest}: look at this machine's clock; if it is right and all of that is to go, remove the folder yourself",
        path.display()
    )]
    Everything {
        /// The archive.
        path: PathBuf,
        /// Its last day.
        newest: NaiveDate,
        /// The first day that was to be kept.
        first_kept: NaiveDate,
    },
    /// Something about it is still there.
    #[error("something about it is still in {}: run `verify`, mend what it says, and try again", .0.display())]
    Left(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// Who watches a [`forget`].
pub trait Watch {
    /// Called for each part, each time that it is read ([`times_read`]).
    fn looked(&self);

    /// Told of [`Erased::unclear`], where there are such devices, before anything goes: once the others' states are gone
    /// nobody can find them any more.
    fn found_unclear(&self, devices: &BTreeSet<String>);
}

/// Takes everything about a subject out of shards and of the quarantine, and proves it by looking again.
/// Without every shard's lock nothing is changed: `erased` says what would be, also while a collector publishes.
///
/// # Errors
/// Where the journal is not empty, or the file system says no. What went before is gone, and told in `erased`.
pub fn forget(
    archive: &Archive,
    locks: Option<&[ShardLock]>,
    subject: &Subject,
    watch: &dyn Watch,
    erased: &mut Erased,
) -> Result<(), EraseError> {
    archive.check_state()?;
    for lock in locks.unwrap_or_default() {
        if let Some((_, path)) = journal::segments(&archive.journal_path(lock.shard))?.into_iter().next() {
            return Err(EraseError::Pending(path));
        }
    }
    let archive = archive.clone().lingering(Duration::ZERO);
    let looked = &|| watch.looked();
    let found = belongings(&archive, subject, looked)?;
    (erased.names_nobody, erased.unclear) = (found.names_nobody(), found.unclear());
    if !erased.unclear.is_empty() {
        watch.found_unclear(&erased.unclear);
    }
    let subject = &subject.clone().having(&found);
    // It is the states that name somebody by which the others are found: broken off, it is done again from them.
    if let Some(nameless) = subject.nameless().filter(|_| locks.is_some()) {
        let forgetting = Forgetting { archive: &archive, locks, subject: &nameless, looked: &|| () };
        forgetting.dataset(&Schema::device_state(), erased)?;
        erased.other_pseudonyms = 0;
    }
    let forgetting = Forgetting { archive: &archive, locks, subject, looked };
    // The states say whose devices they are, too.
    for schema in [Schema::poll(), Schema::device_state()] {
        forgetting.dataset(&schema, erased)?;
    }
    quarantine::forget(&archive, locks.and_then(<[_]>::first), subject, erased)?;
    if let Some(locks) = locks {
        for lock in locks {
            // Former versions of the days that were written anew, and of those before.
            archive.clear_staging(lock.shard)?;
            let staged = archive.staging_entries(lock.shard)?;
            staged.into_iter().next().map_or(Ok(()), |path| Err(EraseError::Left(path)))?;
        }
        // Where the last sweep of an account ended stands in files of its name.
        subject.accounts().try_for_each(|account| archive.forget_resumes(account))?;
        prove(&archive, subject, &erased.left, looked)?;
    }
    Ok(())
}

/// How many parts [`forget`] reads, each as often as it does: those of states once more than the others, to learn what is
/// whose, and all of them again to prove it. (Where somebody has states that name nobody, those days are read once more.)
///
/// # Errors
/// Where a folder cannot be listed.
pub fn times_read(archive: &Archive, is_rehearsal: bool) -> Result<u64, EraseError> {
    let parts = |schema: &Schema| -> Result<u64, ArchiveError> {
        let days = archive.days(schema, &(NaiveDate::MIN..=NaiveDate::MAX))?;
        Ok(days.values().map(|parts| parts.len() as u64).sum())
    };
    let (states, polls) = (parts(&Schema::device_state())?, parts(&Schema::poll())?);
    Ok(if is_rehearsal { 2 * states + polls } else { 3 * states + 2 * polls })
}

/// Whether something waits in a journal that [`forget`] would have to see.
#[must_use]
pub fn is_waiting(archive: &Archive) -> bool {
    archive.journals().iter().any(|journal| journal::segments(journal).is_ok_and(|segments| !segments.is_empty()))
}

/// Removes the days before `first_kept`, and what came into the quarantine before it. With `dry_run`
/// nothing is changed: the answer says what would be. Without it, whoever calls it holds every shard's lock. `today` is
/// when the machine says it is.
///
/// # Errors
/// [`EraseError::Everything`] where not a day would be left: then nothing goes. Where the file system says
/// no, what went before is gone.
pub fn prune(
    archive: &Archive,
    (first_kept, today): (NaiveDate, NaiveDate),
    dry_run: bool,
) -> Result<Erased, EraseError> {
    archive.check_state()?;
    leaves_a_day(archive, first_kept, today)?;
    let archive = archive.clone().lingering(Duration::ZERO);
    let mut erased = Erased::default();
    for schema in Schema::all() {
        let days = archive.sizes(&schema)?.into_iter();
        for (partition, bytes) in days.filter(|(partition, _)| partition.date < first_kept) {
            let mut rows = 0;
            for (_, path) in archive.parts(&partition)? {
                // A part that cannot be read is pruned all the same: it is too old whatever it says.
                rows += archive.look(&path, &schema).map_or(0, |part| part.rows());
            }
            erased.bytes += bytes;
            if !dry_run {
                archive.remove_day(&partition)?;
            }
            erased.add(&partition, rows);
        }
    }
    quarantine::prune(&archive, first_kept, dry_run, &mut erased)?;
    Ok(erased)
}

/// Makes sure that a day is kept, if there is any: a clock that is ahead makes all of them look old. Only states of devices
/// show that it is right: polls have this machine's time, and states of days to come another wrong one.
fn leaves_a_day(archive: &Archive, first_kept: NaiveDate, today: NaiveDate) -> Result<(), EraseError> {
    let newest = |schema: &Schema| -> Result<Option<NaiveDate>, ArchiveError> {
        let days = archive.partitions(schema)?.into_iter().map(|day| day.date);
        Ok(days.filter(|day| today.succ_opt().is_none_or(|tomorrow| *day <= tomorrow)).max())
    };
    let newest = match newest(&Schema::device_state())? {
        None => newest(&Schema::poll())?,
        newest => newest,
    };
    match newest {
        Some(newest) if newest < first_kept => {
            Err(EraseError::Everything { path: archive.root().to_owned(), newest, first_kept })
        }
        _ => Ok(()),
    }
}

impl Erased {
    fn add(&mut self, partition: &Partition, rows: u64) {
        *self.days.entry((partition.date, partition.dataset.clone())).or_default() += rows;
    }

    fn rows(&self) -> u64 {
        self.days.values().sum()
    }

    fn leave(&mut self, path: PathBuf) {
        if !self.left.contains(&path) {
            self.left.push(path);
        }
    }
}

/// How something is forgotten.
struct Forgetting<'a> {
    archive: &'a Archive,
    /// Every shard's; none where nothing is to be changed.
    locks: Option<&'a [ShardLock]>,
    subject: &'a Subject,
    looked: &'a dyn Fn(),
}

impl Forgetting<'_> {
    /// Takes the subject out of every day of a dataset.
    fn dataset(&self, schema: &Schema, erased: &mut Erased) -> Result<(), EraseError> {
        for partition in self.archive.partitions(schema)? {
            for (part, path) in self.archive.parts(&partition)? {
                let day = Day { archive: self.archive, locks: self.locks, schema, partition: &partition, part };
                match day.forget(&path, self.subject, erased) {
                    // It keeps nobody from the other days.
                    Err(EraseError::Archive(error)) if is_of_one(&error) => erased.leave(path),
                    forgotten => forgotten?,
                }
                (self.looked)();
            }
        }
        Ok(())
    }
}

/// Whether it is one file that cannot be read, whatever the others are.
fn is_of_one(error: &ArchiveError) -> bool {
    error.is_of_part() || matches!(error, ArchiveError::Io { .. })
}

/// What is somebody's, by all states.
fn belongings(archive: &Archive, subject: &Subject, looked: &dyn Fn()) -> Result<Belongings, EraseError> {
    let schema = Schema::device_state();
    let mut found = Belongings::default();
    for partition in archive.partitions(&schema)? {
        for (_, path) in archive.parts(&partition)? {
            match archive.hold_or_successor(&path).and_then(|held| subject.belongings_in(&held, &schema, &mut found)) {
                // It is named when it cannot be searched.
                Err(error) if is_of_one(&error) => (),
                searched => searched?,
            }
            looked();
        }
    }
    Ok(found)
}

/// A part of a day.
struct Day<'a> {
    archive: &'a Archive,
    /// Every shard's; none where nothing is to be changed.
    locks: Option<&'a [ShardLock]>,
    schema: &'a Schema,
    partition: &'a Partition,
    part: PartName,
}

impl Day<'_> {
    fn forget(&self, path: &Path, subject: &Subject, erased: &mut Erased) -> Result<(), EraseError> {
        let Self { archive, locks, schema, partition, part } = self;
        // During a rehearsal, a collector may have published the day meanwhile.
        let held = archive.hold_or_successor(path)?;
        let found = subject.count_in(&held, schema)?;
        if found.hidden > 0 && !subject.has_pseudonym() {
            return Err(EraseError::NeedsKey(path.to_owned()));
        }
        erased.other_pseudonyms += found.hidden;
        if found.about == 0 {
            return Ok(());
        }
        // The archive may have no such shard.
        let lock = locks.unwrap_or_default().iter().find(|lock| lock.shard == part.shard);
        if part.shard >= archive.shards() || (locks.is_some() && lock.is_none()) {
            erased.leave(path.to_owned());
            return Ok(());
        }
        if let Some(lock) = lock {
            let freed = match self.write_without(lock, subject, held.length()) {
                // Somebody else has written the day since: what that one wrote may be about the subject too.
                Err(error) if error.is_replaced() => {
                    let before = erased.rows();
                    self.forget(path, subject, erased)?;
                    // Or it was this one, and the answer that said so was lost.
                    if erased.rows() == before {
                        erased.add(partition, found.about);
                    }
                    return Ok(());
                }
                freed => freed?,
            };
            erased.bytes += freed;
        }
        erased.add(partition, found.about);
        Ok(())
    }

    /// Writes the day anew; returns how many bytes that freed of those before.
    fn write_without(&self, lock: &ShardLock, subject: &Subject, before: u64) -> Result<u64, ArchiveError> {
        let Self { archive, schema, partition, .. } = self;
        let staged = archive.stage_without(lock, schema, partition.date, &|batch| subject.spares(schema, batch))?;
        let Some(staged) = staged else { return Ok(0) };
        // A part of another shard, which should not be there, would go with the day.
        let is_alone = archive.shards() == 1 && archive.entries(&archive.day_dir(partition))?.len() == 1;
        if staged.info.rows == 0 && is_alone && archive.is_on_disk() {
            drop(staged);
            archive.remove_day(partition)?;
            return Ok(before);
        }
        Ok(before.saturating_sub(staged.publish()?.info.bytes))
    }
}

/// Looks at every part, and at everything beside them, again.
fn prove(archive: &Archive, subject: &Subject, left: &[PathBuf], looked: &dyn Fn()) -> Result<(), EraseError> {
    for schema in Schema::all() {
        for partition in archive.partitions(&schema)? {
            for (_, path) in archive.parts(&partition)? {
                if !left.contains(&path) && subject.count_in(&archive.hold(&path)?, &schema)?.about > 0 {
                    return Err(EraseError::Left(path));
                }
                looked();
            }
        }
    }
    quarantine::mentions(archive, subject, left)?.map_or(Ok(()), |path| Err(EraseError::Left(path)))
}
