//! From answers to day files: journal first, then flatten, merge and publish.
//!
//! [`Ingest`] owns the files of one shard. [`Ingest::append`] only journals; [`Ingest::publish`] reads
//! back what is journalled, makes rows of it and merges them into their days. That is also all that
//! recovery does: what a crash left in the journal is published when the next writer starts, by the
//! same code. Plain blocking code, for one thread.
//!
//! It is also the one way into the journal, and so the place where the [`Policy`] is kept: an answer is
//! treated before its first byte is written.
//!
//! # Killed here, what is lost, what is seen twice?
//!
//! * Before an answer is synced: that answer, and the API is asked again in the next sweep.
//! * Between the staging of the parts and their publish: nothing; the journal still holds the answers.
//! * Between the publish of the polls and that of the states, or before the segments are removed: the
//!   answers are merged once more. A state finds itself by its key, and a poll keeps the outcome that
//!   it was given the first time, so neither is there twice.
//!
//! # When something cannot be read or written
//!
//! A segment that cannot be read, or a day that cannot be written, holds up nothing else: it is named in
//! [`Published::held`], the segments concerned stay, and every later publish tries again.

mod batch;
mod due;
mod outcome;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::archive::{Archive, ArchiveError, Incoming, ShardLock, Staged};
use crate::clock::Timestamp;
use crate::flatten::{Columns, Plan};
use crate::journal::{self, JournalError, Segment, Writer};
use crate::privacy::Policy;
use crate::schema::Schema;
use crate::snapshot::Answer;

use batch::Batch;

pub use due::PublishRule;

/// A segment is closed once it holds this many bodies and answers, or this many bytes of them: a publish
/// takes whole segments.
const SEGMENT_BODIES: usize = 12 * 1024;
const SEGMENT_BYTES: usize = 64 << 20;

/// Segments are merged together up to so much: each merge writes the whole day anew, so few are cheaper than
/// many, and take more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimit {
    /// Rows.
    pub rows: usize,
    /// Bytes of text in memory.
    pub bytes: usize,
}

impl BatchLimit {
    /// For small days.
    pub const SMALL: Self = Self { rows: 12 * 1024, bytes: 64 << 20 };
    /// For whoever has much to take in: about 300 MB.
    pub const LARGE: Self = Self { rows: 96 * 1024, bytes: 128 << 20 };
}

/// The writer of one shard.
#[derive(Debug)]
pub struct Ingest {
    archive: Archive,
    lock: ShardLock,
    journal_dir: PathBuf,
    writer: Option<Writer>,
    next_sequence: u64,
    bodies: usize,
    bytes: usize,
    /// Answers that could not be journalled yet.
    unwritten: VecDeque<Answer>,
    plans: Plans,
    policy: Policy,
    /// None to go by the size of the day.
    limit: Option<BatchLimit>,
    /// When the first of the answers that wait was received.
    waiting_since: Option<Timestamp>,
}

/// What is journalled and not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes in the journal.
    pub bytes: u64,
    /// When the first of it was received.
    pub since: Timestamp,
}

/// What a publish brought into the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Device states that are new to the archive.
    pub states_new: u64,
    /// Device states that the archive had already.
    pub states_known: u64,
    /// Bodies that are no device state; they are in the quarantine.
    pub quarantined: u64,
    /// Stretches of the journal that could not be read; they are in the quarantine.
    pub gaps: u64,
    /// Requests by how they ended.
    pub polls: PollCounts,
    /// Values that no column could hold, by path without list positions.
    pub drift: BTreeMap<String, u64>,
    /// Bytes of the parts that were written.
    pub bytes: u64,
    /// Rows in the parts that were written.
    pub rows: u64,
    /// Parts that were found damaged and are kept in the quarantine, a sentence each.
    pub damaged: Vec<String>,
    /// Why something is still in the journal, a sentence each.
    pub held: Vec<String>,
    /// Answers that could not be journalled and are in this process's memory alone.
    pub unwritten: u64,
}

/// Requests by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PollCounts {
    /// Brought something new.
    pub state: u64,
    /// Brought what was known.
    pub unchanged: u64,
    /// There is no state in the window.
    pub absent: u64,
    /// No answer that could be used.
    pub failed: u64,
}

/// Why answers could not be journalled or published.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The journal's fault: nothing more can be taken in.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The archive's fault: what is journalled stays there until a publish succeeds.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl BatchLimit {
    /// The larger the day, the dearer a merge, and the more is merged at once.
    fn for_day(rows: u64) -> Self {
        let rows = usize::try_from(rows / 32).unwrap_or(usize::MAX).clamp(Self::SMALL.rows, Self::LARGE.rows);
        Self { rows, bytes: Self::LARGE.bytes.min(Self::SMALL.bytes.max(rows * 1_400)) }
    }
}

#[derive(Debug)]
struct Plans {
    states: Plan,
    polls: Plan,
}

impl Ingest {
    /// Takes a shard and publishes what an earlier writer left in its journal, as that one wrote it and as
    /// far as that can be done. `policy` says what may be written from now on.
    ///
    /// # Errors
    /// Where somebody else has the shard, or the journal's folder cannot be used.
    pub fn open(archive: Archive, shard: u32, holder: &str, policy: Policy) -> Result<(Self, Published), IngestError> {
        let mut ingest = Self::attach(archive, shard, holder, policy)?;
        let recovered = ingest.publish()?;
        Ok((ingest, recovered))
    }

    /// Takes a shard and leaves what is in its journal where it is, until it is published with what is to come.
    ///
    /// # Errors
    /// As for [`Ingest::open`].
    pub fn attach(archive: Archive, shard: u32, holder: &str, policy: Policy) -> Result<Self, IngestError> {
        let lock = archive.lock(shard, holder)?;
        let journal_dir = archive.settle(shard)?;
        let segments = journal::segments(&journal_dir)?;
        let last = segments.last().map_or(0, |(sequence, _)| *sequence);
        let waiting_since = segments.iter().find_map(|(_, path)| Segment::read(path).ok()?.first_received());
        let plans = Plans { states: Plan::new(Schema::device_state()), polls: Plan::new(Schema::poll()) };
        let next_sequence = last + 1;
        Ok(Self {
            archive,
            lock,
            journal_dir,
            writer: None,
            next_sequence,
            bodies: 0,
            bytes: 0,
            unwritten: VecDeque::new(),
            plans,
            policy,
            limit: None,
            waiting_since,
        })
    }

    /// Merges so much at once from now on, whatever the size of the day.
    pub fn merge_up_to(&mut self, limit: BatchLimit) {
        self.limit = Some(limit);
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
        let waited = self.waiting_since.map_or(Duration::ZERO, |since| (now - since).to_std().unwrap_or_default());
        if rule.is_due(waited, next, self.day_rows()?) { self.publish().map(Some) } else { Ok(None) }
    }

    /// What is journalled and not published; none where nothing is.
    ///
    /// # Errors
    /// Where the journal's folder cannot be read.
    pub fn waiting(&self) -> Result<Option<Waiting>, IngestError> {
        let Some(since) = self.waiting_since else { return Ok(None) };
        let segments = journal::segments(&self.journal_dir)?;
        let bytes = segments.iter().map(|(_, path)| path.metadata().map_or(0, |file| file.len())).sum();
        Ok(Some(Waiting { bytes, since }))
    }

    /// Rows in this shard's part of the newest day.
    fn day_rows(&self) -> Result<u64, IngestError> {
        let schema = self.plans.states.schema();
        let Some(day) = self.archive.partitions(schema)?.pop() else { return Ok(0) };
        let part = self.archive.parts(&day)?.into_iter().find(|(name, _)| name.shard == self.lock.shard);
        Ok(part.map_or(0, |(_, path)| self.archive.look(&path, schema).map_or(0, |part| part.rows())))
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

    /// The lock that is held.
    #[must_use]
    pub fn lock(&self) -> &ShardLock {
        &self.lock
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
            self.writer = Some(Writer::create(self.archive.disk(), &self.journal_dir, self.next_sequence - 1)?);
        }
        if let Some(Err(error)) = self.writer.as_mut().map(|writer| writer.append(answer)) {
            self.close_segment()?;
            return Err(error.into());
        }
        self.bodies += 1 + answer.bodies.len();
        self.bytes += answer.bodies.iter().map(|body| body.bytes.len()).sum::<usize>();
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
        self.close_segment()?;
        let mut published = Published::default();
        self.publish_segments(&mut published)?;
        if !self.unwritten.is_empty() {
            // Publishing may have made the room that was wanting.
            match self.write().and_then(|()| self.close_segment()) {
                Ok(()) => self.publish_segments(&mut published)?,
                Err(error) => {
                    let count = self.unwritten.len();
                    published.unwritten = count as u64;
                    published.held.push(format!("{count} answers are in this process's memory alone: {error}"));
                }
            }
        }
        if self.unwritten.is_empty() && journal::segments(&self.journal_dir)?.is_empty() {
            self.waiting_since = None;
        }
        Ok(published)
    }

    fn publish_segments(&mut self, published: &mut Published) -> Result<(), IngestError> {
        let limit = match self.limit {
            Some(limit) => limit,
            None => BatchLimit::for_day(self.day_rows()?),
        };
        let mut batch = Batch::new(&self.plans);
        for (sequence, path) in journal::segments(&self.journal_dir)? {
            match Segment::read(&path) {
                Ok(segment) => batch.read(&self.plans, self.lock.shard, sequence, &segment),
                Err(error) => {
                    published.held.push(error.to_string());
                    continue;
                }
            }
            batch.segments.push(path);
            if batch.states.rows().max(batch.polls.len()) >= limit.rows || batch.bytes() >= limit.bytes {
                self.publish_batch(std::mem::replace(&mut batch, Batch::new(&self.plans)), published);
            }
        }
        if !batch.segments.is_empty() {
            self.publish_batch(batch, published);
        }
        Ok(())
    }

    fn close_segment(&mut self) -> Result<(), IngestError> {
        let synced = self.sync();
        self.forget_segment();
        synced
    }

    fn forget_segment(&mut self) {
        self.writer = None;
        (self.bodies, self.bytes) = (0, 0);
    }

    /// Publishes a batch. Its segments go once all of it is in the archive.
    fn publish_batch(&self, batch: Batch, published: &mut Published) {
        let held_before = published.held.len();
        let segments = batch.segments.clone();
        self.file(batch, published).unwrap_or_else(|error| published.held.push(error.to_string()));
        if published.held.len() > held_before {
            return;
        }
        for path in &segments {
            let removed = self.archive.disk().remove(path);
            removed.unwrap_or_else(|error| published.held.push(error.to_string()));
        }
    }

    /// The polls become live before the states: should the process end between the two, the polls
    /// say already which states were new, and keep saying it. Where no poll can become live, no state
    /// does.
    fn file(&self, mut batch: Batch, published: &mut Published) -> Result<(), IngestError> {
        for aside in &batch.aside {
            self.archive.quarantine(self.lock.shard, aside)?;
        }
        let states = self.stage(&mut batch.states, self.plans.states.schema());
        let polls = outcome::settle(&batch.polls, &states.fresh);
        let staged_polls = self.stage(&mut batch::poll_columns(&self.plans.polls, &polls), self.plans.polls.schema());
        if let Some(error) = staged_polls.failed.into_iter().next() {
            return Err(error.into());
        }
        for staged in staged_polls.days {
            published.take(staged)?;
        }
        published.held.extend(states.failed.iter().map(ToString::to_string));
        for staged in states.days {
            let fresh = staged.fresh.clone();
            match published.take(staged) {
                Ok(()) => published.count_states(&fresh),
                Err(error) => published.held.push(error.to_string()),
            }
        }
        published.count(&batch, &polls);
        Ok(())
    }

    /// Stages the days that the rows belong to.
    fn stage(&self, columns: &mut Columns, schema: &Arc<Schema>) -> StagedDays {
        let rows = columns.finish();
        // Of a day that cannot be staged nobody knows what is new; it will be when it can.
        let mut staged = StagedDays { fresh: vec![true; rows.num_rows()], ..StagedDays::default() };
        for (date, incoming, positions) in Incoming::by_day(schema, rows) {
            match self.archive.stage(&self.lock, schema, date, incoming) {
                Ok(day) => {
                    positions.iter().zip(&day.fresh).for_each(|(&at, &new)| staged.fresh[at as usize] = new);
                    staged.days.push(day);
                }
                Err(error) => staged.failed.push(error),
            }
        }
        staged
    }
}

/// Days that are about to be published.
#[derive(Debug, Default)]
struct StagedDays {
    days: Vec<Staged>,
    failed: Vec<ArchiveError>,
    /// For each row: whether its key is new.
    fresh: Vec<bool>,
}

impl Published {
    /// Whether something is not as it should be: damage was found, or bodies could not be filed.
    #[must_use]
    pub fn has_findings(&self) -> bool {
        self.quarantined > 0 || self.gaps > 0 || !self.damaged.is_empty()
    }

    /// Publishes a day.
    fn take(&mut self, staged: Staged) -> Result<(), ArchiveError> {
        let damage = staged.damage();
        let info = staged.publish()?;
        self.damaged.extend(damage);
        self.bytes += info.bytes;
        self.rows += info.rows;
        Ok(())
    }

    fn count_states(&mut self, fresh: &[bool]) {
        let new = fresh.iter().filter(|new| **new).count() as u64;
        self.states_new += new;
        self.states_known += fresh.len() as u64 - new;
    }

    fn count(&mut self, batch: &Batch, polls: &[crate::snapshot::Poll]) {
        self.quarantined += batch.quarantined;
        self.gaps += batch.gaps;
        polls.iter().for_each(|poll| self.polls.count(poll.outcome));
        for (path, count) in &batch.drift {
            *self.drift.entry(path.clone()).or_default() += count;
        }
    }
}
