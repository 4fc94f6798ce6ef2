//! From answers to day files: journal first, then flatten, merge and publish.
//!
//! [`Ingest`] owns the files of one shard, or of all. [`Ingest::append`] only journals; [`Ingest::publish`] reads
//! back what is journalled, makes rows of it and merges them into their days. That is also all that
//! recovery does: what a crash left in the journal is published when the next writer starts, by the
//! same code. Plain blocking code, for one thread.
//!
//! What stands in a file that is there to stay need not be journalled: [`Ingest::append_lasting`] remembers where, and
//! the publish reads it from there. Where it cannot be published, it is journalled after all.
//!
//! It is also the one way into the journal, and so the place where the [`Policy`] is kept: an answer is
//! treated before its first byte is written.
//!
//! # After a crash: what is lost, and what comes twice
//!
//! * Before an answer is synced: that answer, and the API is asked again in the next sweep.
//! * Before bodies of a file are published: nothing that is not in the file still.
//! * Between the staging of the parts and their publish: nothing; the journal still holds the answers.
//! * Between the publish of the states and that of the polls, or before the segments are removed: the
//!   answers are merged once more. Both are merged by key, so neither is there twice; but a poll that is published by the
//!   second try counts its answer's states as known.
//!
//! # When something cannot be read or written
//!
//! A segment that cannot be read, or a day that cannot be written, holds up nothing else: it is named in
//! [`Published::held`], the segments concerned stay, and every later publish tries again.

mod batch;
mod bodies;
mod day;
mod due;
mod filing;
mod outcome;
mod published;
mod rules;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::archive::{Archive, ArchiveError, ShardLock, Shards, shard_name, shard_of};
use crate::clock::Timestamp;
use crate::flatten::Plan;
use crate::journal::{self, JournalError, Writer};
use crate::privacy::Policy;
use crate::schema::Schema;
use crate::snapshot::Answer;

use batch::{Batch, Divided};

pub use crate::journal::BodyFile;
pub use due::PublishRule;
pub use published::{Held, Published};

/// A segment is closed once it holds this many bodies and answers, or this many bytes of them: a publish
/// reads whole segments.
const SEGMENT_BODIES: usize = 12 * 1024;
const SEGMENT_BYTES: usize = 64 << 20;

/// So much in the journal is no small thing on a disk: where nothing else says so, it is published.
const MUCH_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 1 << 30 };

/// Whoever hands answers over has them synced so soon: they are durable at most so much later, and the time of a sync.
pub const SYNC_AFTER: Duration = Duration::from_millis(500);

/// The writer of one shard, or of all.
#[derive(Debug)]
pub struct Ingest {
    archive: Archive,
    /// What others are told who want a shard that it has.
    holder: String,
    locks: Vec<ShardLock>,
    /// The journal of each shard it has; the first is written to.
    journals: Vec<(u32, PathBuf)>,
    writer: Option<Writer>,
    next_sequence: u64,
    bodies: usize,
    bytes: usize,
    /// Bytes of bodies that were journalled since the last publish.
    unpublished: u64,
    /// Bodies of files that are there to stay.
    lasting: Batch,
    /// What was published before anybody asked.
    published: Published,
    /// Answers that could not be journalled yet.
    unwritten: VecDeque<Answer>,
    plans: Plans,
    policy: Policy,
    /// When the first of the answers that wait was received.
    waiting_since: Option<Timestamp>,
}

/// The shard whose devices alone are one's own.
#[derive(Clone)]
pub struct Takes {
    shard: String,
    is_own: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

/// Bodies that are journalled together where a file's have to be.
const JOURNALLED_BODIES: usize = 256;

/// What is journalled and not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes in the journal.
    pub bytes: u64,
    /// When the first of it was received.
    pub since: Timestamp,
}

/// Why answers could not be journalled or published.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The journal's fault: nothing more can be taken in.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file that bodies are taken from, by its name, is not what it was a moment ago.
    #[error("{0} was changed while it was taken in: take it in again")]
    Changed(String),
    /// There are pseudonyms, and what is to be written would stand beside them in the clear.
    #[error(
        "{} holds pseudonyms, and this command has no [privacy] rules: name the config that has them (--config), or write an empty [privacy] section to keep everything from now on",
        .0.display()
    )]
    Unruled(PathBuf),
    /// The archive's fault: what is journalled stays there until a publish succeeds.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl Takes {
    pub(crate) fn of(shard: String, is_own: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self { shard, is_own: Arc::new(is_own) }
    }

    /// Which shard, of how many.
    #[must_use]
    pub fn shard(&self) -> &str {
        &self.shard
    }

    /// Whether a device, by the id that the API gives it, is one's own.
    #[must_use]
    pub fn is_own(&self, device_id: &str) -> bool {
        (self.is_own)(device_id)
    }
}

impl fmt::Debug for Takes {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "Takes({})", self.shard)
    }
}

#[derive(Debug)]
struct Plans {
    states: Arc<Plan>,
    polls: Plan,
}

impl Ingest {
    /// Takes shards and publishes what an earlier writer left in their journals, as that one wrote it and as
    /// far as that can be done. `policy` says what may be written from now on.
    ///
    /// # Errors
    /// Where somebody else has one of them, or a journal's folder cannot be used.
    pub fn open(
        archive: Archive,
        shards: Shards,
        holder: &str,
        policy: Policy,
    ) -> Result<(Self, Published), IngestError> {
        let mut ingest = Self::attach(archive, shards, holder, policy)?;
        let recovered = ingest.publish()?;
        Ok((ingest, recovered))
    }

    /// Takes shards and leaves what is in their journals where it is, until it is published with what is to come.
    ///
    /// # Errors
    /// As for [`Ingest::open`].
    pub fn attach(archive: Archive, shards: Shards, holder: &str, policy: Policy) -> Result<Self, IngestError> {
        let locks = archive.lock_shards(shards, holder)?;
        let settled = locks.iter().map(|lock| Ok((lock.shard, archive.settle(lock.shard)?)));
        let mut journals = settled.collect::<Result<Vec<_>, ArchiveError>>()?;
        journals.extend(archive.orphaned_journals()?);
        let segments = journals.iter().map(|(_, dir)| journal::segments(dir)).collect::<Result<Vec<_>, _>>()?;
        let last = segments.first().and_then(|own| own.last()).map_or(0, |(sequence, _)| *sequence);
        let waiting_since = segments.iter().filter_map(|own| journal::first_received(own)).min();
        let plans = Plans { states: Arc::new(Plan::new(Schema::device_state())), polls: Plan::new(Schema::poll()) };
        let next_sequence = last + 1;
        Ok(Self {
            archive,
            holder: holder.to_owned(),
            locks,
            journals,
            writer: None,
            next_sequence,
            bodies: 0,
            bytes: 0,
            unpublished: 0,
            lasting: Batch::default(),
            published: Published::default(),
            unwritten: VecDeque::new(),
            plans,
            policy,
            waiting_since,
        })
    }

    /// Publishes everything that is journalled if a rule says so; if not, there is a chance again after `next`.
    ///
    /// # Errors
    /// As for [`Ingest::publish`].
    pub fn publish_if_due(
        &mut self,
        rule: PublishRule,
        now: Timestamp,
        next: Duration,
    ) -> Result<Option<Published>, IngestError> {
        // Where it seems to have come in the future, the clock was set back, and nobody knows how long it has waited.
        let waited = |since: Timestamp| (now - since).to_std().unwrap_or(Duration::MAX);
        let waited = self.waiting_since.map_or(Duration::ZERO, waited);
        let rows = match self.day_rows(now) {
            // To try each day would take as long as the longest of its requests, and end in the same.
            Err(error) if error.is_away() => {
                let mut published = Published { is_away: true, ..Published::default() };
                published.hold(&error);
                return Ok(Some(published));
            }
            // A publish says itself which day cannot be read, and which is held for that; until then nobody knows what it costs.
            rows => rows.unwrap_or(0),
        };
        if rule.is_due(waited, next, rows) { self.publish().map(Some) } else { Ok(None) }
    }

    /// What is journalled and not published; none where nothing is.
    ///
    /// # Errors
    /// Where the journal's folder cannot be read.
    pub fn waiting(&self) -> Result<Option<Waiting>, IngestError> {
        let Some(since) = self.waiting_since else { return Ok(None) };
        let segments = self.segments()?;
        let bytes = segments.iter().map(|(_, path)| path.metadata().map_or(0, |file| file.len())).sum();
        Ok(Some(Waiting { bytes, since }))
    }

    /// Answers that could not be journalled, and are in this process's memory alone.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.unwritten.len()
    }

    /// What is in the journals.
    fn segments(&self) -> Result<Vec<(u64, PathBuf)>, IngestError> {
        let segments = self.journals.iter().map(|(_, dir)| journal::segments(dir));
        Ok(segments.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Rows in the largest of these shards' parts of the newest day, today at the latest: a device whose clock is wrong
    /// may have states of days to come.
    fn day_rows(&self, now: Timestamp) -> Result<u64, ArchiveError> {
        let schema = self.plans.states.schema();
        let mut days = self.archive.partitions(schema)?.into_iter();
        let Some(day) = days.rfind(|day| day.date <= now.date_naive()) else { return Ok(0) };
        let parts = self.archive.parts(&day)?.into_iter();
        let ours = parts.filter(|(name, _)| self.locks.iter().any(|lock| lock.shard == name.shard));
        let rows = ours.map(|(_, path)| self.archive.look(&path, schema).map_or(0, |part| part.rows()));
        Ok(rows.max().unwrap_or(0))
    }

    /// What may be written.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The archive that is written.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The locks that are held, one for each shard.
    #[must_use]
    pub fn locks(&self) -> &[ShardLock] {
        &self.locks
    }

    /// Which devices are this writer's; none where all are.
    #[must_use]
    pub fn takes(&self) -> Option<Takes> {
        let (policy, shards) = (self.policy.clone(), self.archive.shards());
        match self.locks[..] {
            [ShardLock { shard, .. }] if shards > 1 => Some(Takes::of(shard_name(shard, shards), move |id| {
                shard_of(&policy.stored_device(id), shards) == shard
            })),
            _ => None,
        }
    }

    /// Journals what may be written of an answer. It is durable after the next [`Ingest::sync`].
    ///
    /// # Errors
    /// Where the journal cannot be written. The answer is kept in memory, and tried again before the next
    /// one and at the next publish.
    pub fn append(&mut self, answer: Answer) -> Result<(), IngestError> {
        self.waiting_since.get_or_insert(answer.collected_at);
        self.unwritten.push_back(self.policy.apply(answer));
        self.write()
    }

    /// Takes an answer whose bodies stand at `places` of a file that is there to stay. It is journalled only where it
    /// has to be changed first, or cannot be published.
    ///
    /// # Errors
    /// As for [`Ingest::append`].
    pub fn append_lasting(&mut self, answer: Answer, file: &Arc<BodyFile>, places: &[u64]) -> Result<(), IngestError> {
        if self.policy.is_active() {
            return self.append(answer);
        }
        self.lasting.take_lasting(&self.plans.states, answer, self.journals[0].0, (file, places));
        if self.lasting.is_full() {
            let mut published = std::mem::take(&mut self.published);
            self.publish_lasting(&mut published);
            self.published = published;
        }
        Ok(())
    }

    /// Publishes where so much is journalled since the last publish that the journal is no place for it, unless something
    /// had to be held then: it would be read again and again. What it brings, the next publish tells.
    ///
    /// # Errors
    /// As for [`Ingest::publish`].
    pub fn publish_if_much(&mut self) -> Result<(), IngestError> {
        if self.unpublished >= MUCH_BYTES && self.published.held.is_empty() {
            self.published = self.publish()?;
        }
        Ok(())
    }

    /// Publishes what came so far before bodies come in the other way, journalled instead of read where they lie or the
    /// reverse, so that of two equal states the later one stays. Not where something had to be held: see
    /// [`Ingest::publish_if_much`].
    ///
    /// # Errors
    /// As for [`Ingest::publish`].
    pub fn keep_order(&mut self, is_lasting: bool) -> Result<(), IngestError> {
        let is_lasting = is_lasting && !self.policy.is_active();
        let has_others = if is_lasting { self.unpublished > 0 } else { !self.lasting.is_empty() };
        if has_others && self.published.held.is_empty() {
            self.published = self.publish()?;
        }
        Ok(())
    }

    /// Journals what was taken of files and is not published, for a later publish.
    ///
    /// # Errors
    /// As for [`Ingest::append`], and where the files cannot be read.
    pub fn keep_lasting(&mut self) -> Result<(), IngestError> {
        let rest = std::mem::take(&mut self.lasting).divide(&self.plans.states, self.archive.shards());
        let (rest, changed) = rest.without_changed(&self.plans.states, self.archive.shards());
        self.journal(&rest)?;
        changed.first().map_or(Ok(()), |file| Err(IngestError::Changed(file.clone())))
    }

    /// Journals those bodies that are nowhere yet and can be read.
    fn journal(&mut self, rest: &Divided) -> Result<(), IngestError> {
        let mut unread = None;
        for answer in rest.answers(JOURNALLED_BODIES) {
            match answer {
                Ok(answer) => self.append(answer)?,
                Err(error) => unread = unread.or(Some(error)),
            }
        }
        self.sync()?;
        unread.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Journals what is in memory alone, oldest first.
    fn write(&mut self) -> Result<(), IngestError> {
        while let Some(answer) = self.unwritten.pop_front() {
            if let Err(error) = self.write_one(&answer) {
                self.unwritten.push_front(answer);
                return Err(error);
            }
        }
        Ok(())
    }

    fn write_one(&mut self, answer: &Answer) -> Result<(), IngestError> {
        if self.bodies >= SEGMENT_BODIES || self.bytes >= SEGMENT_BYTES {
            self.close_segment()?;
        }
        if self.writer.is_none() {
            // The number is used up even where the file comes to nothing: it may be there all the same.
            self.next_sequence += 1;
            let dir = self.journals.first().map(|(_, dir)| dir).expect("a writer has at least one shard");
            self.writer = Some(Writer::create(self.archive.disk(), dir, self.next_sequence - 1)?);
        }
        if let Some(Err(error)) = self.writer.as_mut().map(|writer| writer.append(answer)) {
            self.close_segment()?;
            return Err(error.into());
        }
        let bytes = answer.bodies.iter().map(|body| body.bytes.len()).sum::<usize>();
        self.bodies += 1 + answer.bodies.len();
        self.bytes += bytes;
        self.unpublished += bytes as u64;
        Ok(())
    }

    /// Makes durable what was journalled.
    ///
    /// # Errors
    /// Where the journal cannot be synced. What was appended since the last time may be lost, and no
    /// later sync of the same file would tell: the next answer begins a new segment.
    pub fn sync(&mut self) -> Result<(), IngestError> {
        let synced = self.writer.as_mut().map_or(Ok(()), Writer::sync);
        if synced.is_err() {
            self.forget_segment();
        }
        Ok(synced?)
    }

    /// Publishes everything that is journalled, but for what has to be held: see [`Published::held`].
    ///
    /// # Errors
    /// Where the journal itself cannot be used.
    pub fn publish(&mut self) -> Result<Published, IngestError> {
        let mut published = std::mem::take(&mut self.published);
        // What was held before is tried again now.
        published.held.retain(|held| !held.is_tried_again);
        published.is_away = false;
        match self.publish_into(&mut published) {
            Ok(()) => Ok(published),
            Err(error) => {
                // What it brought all the same, the next one tells.
                self.published = published;
                Err(error)
            }
        }
    }

    fn publish_into(&mut self, published: &mut Published) -> Result<(), IngestError> {
        self.close_segment()?;
        self.unpublished = 0;
        self.publish_segments(published)?;
        self.publish_lasting(published);
        if !self.unwritten.is_empty() {
            // Publishing may have made the room that was wanting.
            match self.write().and_then(|()| self.close_segment()) {
                Ok(()) => self.publish_segments(published)?,
                Err(error) => {
                    let count = self.unwritten.len();
                    let said = format!(
                        "{count} answers are in memory alone, and lost if this process ends before they can be written: {error}"
                    );
                    published.held.push(Held::until_next(&said));
                }
            }
        }
        if self.unwritten.is_empty() && self.segments()?.is_empty() {
            self.waiting_since = None;
        }
        Ok(())
    }

    fn publish_segments(&mut self, published: &mut Published) -> Result<(), IngestError> {
        for (shard, dir) in &self.journals {
            if published.is_away {
                break;
            }
            let is_own = self.locks.iter().any(|lock| lock.shard == *shard);
            // Of a shard that there is no more, whoever does not know that yet may be writing to it.
            let _orphan = match (!is_own).then(|| self.archive.lock(*shard, &self.holder)).transpose() {
                Err(error @ ArchiveError::Locked { .. }) => {
                    if self.takes().is_none() && !journal::segments(dir)?.is_empty() {
                        published.hold(&error);
                    }
                    continue;
                }
                locked => locked?,
            };
            self.publish_journal(*shard, dir, published)?;
        }
        Ok(())
    }

    fn publish_journal(&self, shard: u32, dir: &Path, published: &mut Published) -> Result<(), IngestError> {
        let (mut batch, mut paths) = (Batch::default(), Vec::new());
        for (sequence, path) in journal::segments(dir)? {
            if published.is_away {
                return Ok(());
            }
            match batch.read(&self.plans.states, (shard, sequence, &path)) {
                Ok(()) => paths.push(path),
                Err(error) => published.hold(&error),
            }
            if batch.is_full() {
                self.publish_journalled(shard, std::mem::take(&mut batch), &std::mem::take(&mut paths), published);
            }
        }
        self.publish_journalled(shard, batch, &paths, published);
        Ok(())
    }

    fn close_segment(&mut self) -> Result<(), IngestError> {
        let empty = self.writer.as_ref().filter(|writer| writer.is_empty()).map(|writer| writer.path().to_owned());
        let synced = self.sync();
        self.forget_segment();
        // Where nothing can be written, each try would leave another one.
        if let Some(empty) = empty {
            let _ = self.archive.disk().remove(&empty);
        }
        synced
    }

    fn forget_segment(&mut self) {
        self.writer = None;
        (self.bodies, self.bytes) = (0, 0);
    }

    /// Publishes a batch. Its segments go once all of it is in the archive.
    fn publish_journalled(&self, shard: u32, batch: Batch, segments: &[PathBuf], published: &mut Published) {
        let mut divided = batch.divide(&self.plans.states, self.archive.shards());
        if !self.is_filed(shard, &mut divided, published) {
            return;
        }
        for path in segments {
            let removed = self.archive.disk().remove(path);
            removed.unwrap_or_else(|error| published.hold(&error));
        }
    }

    /// Publishes what was taken of files that are there to stay. What cannot be published is journalled, unless its file
    /// is not what it was: then nobody knows what it is.
    fn publish_lasting(&mut self, published: &mut Published) {
        if self.lasting.is_empty() {
            return;
        }
        let mut divided = std::mem::take(&mut self.lasting).divide(&self.plans.states, self.archive.shards());
        loop {
            divided = self.unchanged(divided, published);
            let held_before = published.held.len();
            // Where another file was changed meanwhile, nothing of the others is filed yet.
            let Some(states) = self.stage(&mut divided) else { continue };
            let filed = self.file(self.journals[0].0, states, &mut divided, published);
            filed.unwrap_or_else(|error| published.hold(&error));
            if published.held.len() > held_before {
                // Those are in the quarantine by now, and not journalled.
                if divided.is_quarantined {
                    published.count_quarantined(&divided);
                }
                divided = self.unchanged(divided, published);
                self.journal(&divided).unwrap_or_else(|error| published.held.push(Held::new(&error)));
            }
            return;
        }
    }

    /// What is left of a batch without files that were changed, which are told.
    fn unchanged(&self, divided: Divided, published: &mut Published) -> Divided {
        let (divided, changed) = divided.without_changed(&self.plans.states, self.archive.shards());
        published.held.extend(changed.into_iter().map(|file| Held::new(&IngestError::Changed(file))));
        divided
    }

    /// Files a batch; says whether all of it is in the archive now.
    fn is_filed(&self, shard: u32, divided: &mut Divided, published: &mut Published) -> bool {
        let held_before = published.held.len();
        let states = self.stage(divided).expect("nobody else changes the journal's segments");
        let filed = self.file(shard, states, divided, published);
        filed.unwrap_or_else(|error| published.hold(&error));
        published.held.len() == held_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::disk::Disk;
    use crate::snapshot::{AccountId, Body, Source};

    const NOW: &str = "2026-10-02T12:00:00Z";

    fn time(text: &str) -> Timestamp {
        clock::parse_timestamp(text).expect("a time")
    }

    fn answer(bodies: &[&str]) -> Answer {
        Answer {
            account_id: AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an id"),
            sweep_id: "s".to_owned(),
            source: Source::Import,
            collected_at: time(NOW),
            bodies: bodies.iter().map(|body| Body::new(body)).collect(),
            poll: None,
        }
    }

    /// A writer of an archive with these bodies, and what their publish brought.
    fn published(bodies: &[&str]) -> (tempfile::TempDir, Ingest, Published) {
        let dir = tempfile::tempdir().expect("a folder");
        let archive =
            Archive::open_or_create(&dir.path().join("a"), 1, time(NOW), Disk::default()).expect("an archive");
        let (mut ingest, _) = Ingest::open(archive, Shards::All, "a test", Policy::default()).expect("the shard");
        ingest.append(answer(bodies)).expect("a journal");
        let published = ingest.publish().expect("a publish");
        (dir, ingest, published)
    }

    #[test]
    fn a_publish_costs_what_the_newest_day_does_and_not_one_to_come() {
        let bodies = [
            r#"{"deviceId":"a","timestamp":"2026-10-01T11:00:00Z"}"#,
            r#"{"deviceId":"a","timestamp":"2026-10-02T10:00:00Z"}"#,
            r#"{"deviceId":"a","timestamp":"2026-10-02T11:00:00Z"}"#,
            r#"{"deviceId":"a","timestamp":"2027-11-05T11:00:00Z"}"#,
        ];
        let (_dir, ingest, _) = published(&bodies);
        assert_eq!(ingest.day_rows(time(NOW)).expect("rows"), 2);
        assert_eq!(ingest.day_rows(time("2026-10-01T12:00:00Z")).expect("rows"), 1);
        assert_eq!(ingest.day_rows(time("2026-10-20T12:00:00Z")).expect("rows"), 2);
        assert_eq!(ingest.day_rows(time("2026-09-20T12:00:00Z")).expect("rows"), 0);
    }

    #[test]
    fn a_day_that_cannot_be_looked_at_holds_itself_up_and_no_other() {
        let (dir, mut ingest, _) = published(&[r#"{"deviceId":"a","timestamp":"2026-10-01T10:00:00Z"}"#]);
        let disk = Disk::default();
        // A file where today's folder is to be.
        drop(disk.create(&dir.path().join("a/device_state/date=2026-10-02")).expect("room"));
        for bodies in [
            r#"{"deviceId":"b","timestamp":"2026-10-01T11:00:00Z"}"#,
            r#"{"deviceId":"b","timestamp":"2026-10-02T11:00:00Z"}"#,
        ] {
            ingest.append(answer(&[bodies])).expect("a journal");
        }
        assert!(ingest.day_rows(time(NOW)).is_err());
        let published = ingest.publish_if_due(PublishRule::Auto, time(NOW), Duration::from_mins(5));
        let published = published.expect("no error of the journal's").expect("it is due");
        assert_eq!((published.states_new, published.held.len()), (1, 1), "{published:?}");
    }

    /// A disk on which a segment can be begun, and nothing be written into it.
    #[derive(Debug)]
    struct NoFrames;

    impl crate::disk::Watch for NoFrames {
        fn before(&self, change: &crate::disk::Change<'_>) -> std::io::Result<()> {
            let is_frame = |path: &Path, at: u64| at > 0 && path.extension().is_some_and(|kind| kind == "journal");
            match change {
                crate::disk::Change::Write { path, at, .. } if is_frame(path, *at) => {
                    Err(std::io::ErrorKind::StorageFull.into())
                }
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn a_try_to_journal_that_fails_leaves_no_segment_and_a_pipe_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::default().watched(Arc::new(NoFrames));
        let archive = Archive::open_or_create(&dir.path().join("a"), 1, time(NOW), disk).expect("an archive");
        let (mut ingest, _) = Ingest::open(archive, Shards::All, "a test", Policy::default()).expect("the shard");
        for _ in 0..3 {
            assert!(ingest.append(answer(&["{}"])).is_err());
        }
        let journal = ingest.archive.journal_path(0);
        assert_eq!(std::fs::read_dir(&journal).expect("a folder").count(), 0);
        // Who opened it would wait for somebody to write.
        let pipe = journal.join("0000000001.journal");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        assert_eq!(journal::segments(&journal).expect("a folder"), []);
        Disk::default().remove(&pipe).expect("ours");
        drop(Disk::default().create(&pipe).expect("room"));
        assert_eq!(journal::segments(&journal).expect("a folder").len(), 1);
    }

    #[test]
    fn a_journal_that_another_one_still_writes_to_is_left_to_that_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("a");
        let archive = Archive::open_or_create(&root, 2, time(NOW), Disk::default()).expect("an archive");
        let policy = Policy::default;
        let mut second = Ingest::attach(archive.clone(), Shards::One(1), "the second", policy()).expect("a shard");
        let take = |ingest: &mut Ingest, id: &str| {
            let state = format!(r#"{{"deviceId":"{id}","timestamp":"2026-10-01T11:00:00Z"}}"#);
            ingest.append(answer(&[&state])).and_then(|()| ingest.sync()).expect("a journal");
        };
        let segments = || journal::segments(&archive.journal_path(1)).expect("a journal").len();
        let filed =
            archive.clone().begin_resharding(1, time(NOW)).and_then(|archive| archive.end_resharding(time(NOW)));
        let filed = filed.expect("room");
        let (first, nothing) = Ingest::open(filed.clone(), Shards::All, "a test", policy()).expect("a shard");
        assert_eq!((segments(), &nothing.held[..]), (0, &[][..]), "of what has nothing in it, nothing is said");
        drop(first);
        take(&mut second, "a");
        // It does not know that its shard is no more.
        let (mut first, recovered) = Ingest::open(filed, Shards::All, "a test", policy()).expect("a shard");
        let said = recovered.held.iter().map(Held::to_string).collect::<String>();
        assert!(said.contains("is in use by the second") && recovered.states_new == 0, "{said}");
        take(&mut second, "b");
        drop(second);
        let published = first.publish().expect("a publish");
        assert_eq!((published.states_new, &published.held[..]), (2, &[][..]));
    }

    #[test]
    fn what_stands_in_a_file_is_published_whatever_another_batch_met() {
        let (dir, mut ingest, _) = published(&[]);
        let (path, state) = (dir.path().join("file"), r#"{"deviceId":"a","timestamp":"2026-10-01T11:00:00Z"}"#);
        let mut file = Disk::default().create(&path).expect("room");
        std::io::Write::write_all(&mut file, state.as_bytes()).expect("room");
        let file = Arc::new(BodyFile::open(&path).expect("a file"));
        ingest.append_lasting(answer(&[state]), &file, &[0]).expect("a file");
        let mut met = Published { is_away: true, ..Published::default() };
        ingest.publish_lasting(&mut met);
        assert_eq!((met.states_new, &met.held[..]), (1, &[][..]));
    }

    #[test]
    fn what_came_before_the_clock_was_set_back_does_not_wait_until_it_is_that_late_again() {
        let (_dir, mut ingest, _) = published(&[r#"{"deviceId":"a","timestamp":"2026-10-01T11:00:00Z"}"#]);
        let mut is_due = |received: &str| {
            ingest.append(Answer { collected_at: time(received), ..answer(&[]) }).expect("a journal");
            let rule = PublishRule::Every(Duration::from_mins(15));
            let published = ingest.publish_if_due(rule, time(NOW), Duration::from_mins(5));
            ingest.publish().expect("a publish");
            published.expect("a journal").is_some()
        };
        assert!(!is_due("2026-10-02T11:55:00Z"));
        assert!(is_due("2026-10-02T11:45:00Z"));
        assert!(is_due("2026-10-03T12:00:00Z"));
    }

    #[test]
    fn what_had_to_be_held_is_not_tried_again_at_each_gigabyte() {
        let (_dir, mut ingest, _) = published(&[]);
        let in_the_way = ingest.archive.root().join("device_state");
        drop(ingest.archive.disk().create(&in_the_way).expect("room on the disk"));
        let state =
            r#"{"deviceId":"a","timestamp":"2026-10-01T11:00:00Z","x":""#.to_owned() + &"x".repeat(1 << 20) + r#""}"#;
        for _ in 0..3 {
            ingest.append(answer(&[&state])).expect("a journal");
            ingest.publish_if_much().expect("a journal");
            assert_eq!(ingest.published.held.len(), 1, "{:?}", ingest.published.held);
        }
        assert!(ingest.unpublished >= 2 << 20, "nothing was read again");
        ingest.archive.disk().remove(&in_the_way).expect("our own file");
        let published = ingest.publish().expect("a publish");
        assert_eq!((published.states_new, &published.held[..]), (1, &[][..]));
    }

    #[test]
    fn what_is_held_is_counted_once() {
        let (_dir, mut ingest, _) = published(&[]);
        let in_the_way = ingest.archive.root().join("device_state");
        drop(ingest.archive.disk().create(&in_the_way).expect("room on the disk"));
        let state = r#"{"deviceId":"a","timestamp":"2026-10-01T11:00:00Z","unheardOf":1}"#;
        ingest.append(answer(&[state, "{}"])).expect("a journal");
        let counts = |published: &Published| (published.states_new, published.quarantined, published.drift.len());
        for _ in 0..2 {
            assert_eq!(counts(&ingest.publish().expect("a journal")), (0, 0, 0));
        }
        ingest.archive.disk().remove(&in_the_way).expect("our own file");
        assert_eq!(counts(&ingest.publish().expect("a journal")), (1, 1, 1));
        assert_eq!(counts(&ingest.publish().expect("a journal")), (0, 0, 0));
    }

    #[test]
    fn behind_however_much_that_is_no_state_the_states_are_found() {
        let broken =
            format!(r#"{{"deviceId":"a","timestamp":"2026-10-02T10:00:00Z","x":"{}"}}}}"#, "x".repeat(33 << 20));
        let (_dir, _, published) =
            published(&[&broken, r#"{"deviceId":"b","timestamp":"2026-10-02T11:00:00Z"}"#, &broken]);
        assert_eq!((published.quarantined, published.states_new), (2, 1));
    }

    #[test]
    fn a_day_of_which_no_state_is_one_is_not_made() {
        let broken = r#"{"deviceId":"a","timestamp":"2031-10-03T00:00:00Z","cpuPct":"#;
        let (_dir, ingest, published) = published(&[broken, r#"{"deviceId":"a","timestamp":"2026-10-02T11:00:00Z"}"#]);
        assert_eq!((published.quarantined, published.states_new, &published.held[..]), (1, 1, &[][..]));
        let days = ingest.archive.partitions(ingest.plans.states.schema()).expect("days");
        assert_eq!(days.iter().map(|day| day.date.to_string()).collect::<Vec<_>>(), ["2026-10-02"]);
        assert_eq!(ingest.waiting().expect("a journal"), None, "and nothing waits for it");
    }
}
