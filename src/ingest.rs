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

mod batch;
mod outcome;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::{Archive, ArchiveError, ShardLock, Staged, partitions_of};
use crate::flatten::{Columns, Plan};
use crate::journal::{self, JournalError, Segment, Writer};
use crate::privacy::Policy;
use crate::schema::Schema;
use crate::snapshot::Answer;

use batch::Batch;

/// A segment is closed once it holds this many bodies, or this many bytes of them: a publish takes
/// whole segments.
const SEGMENT_BODIES: usize = 16 * 1024;
const SEGMENT_BYTES: usize = 64 << 20;

/// Segments are merged together up to so many rows, or bytes of text: each merge writes the whole day
/// anew, so few are cheaper than many, and their rows are in memory.
const BATCH_ROWS: usize = 16 * 1024;
const BATCH_BYTES: usize = 64 << 20;

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
    plans: Plans,
    policy: Policy,
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

#[derive(Debug)]
struct Plans {
    states: Plan,
    polls: Plan,
}

impl Ingest {
    /// Takes a shard and publishes what an earlier writer left in its journal, as that one wrote it.
    /// `policy` says what may be written from now on.
    ///
    /// # Errors
    /// Where somebody else has the shard, or the file system says no.
    pub fn open(archive: Archive, shard: u32, holder: &str, policy: Policy) -> Result<(Self, Published), IngestError> {
        let lock = archive.lock(shard, holder)?;
        archive.clear_staging(shard)?;
        let journal_dir = archive.journal_dir(shard)?;
        let last = journal::segments(&journal_dir)?.last().map_or(0, |(sequence, _)| *sequence);
        let plans = Plans { states: Plan::new(Schema::device_state()), polls: Plan::new(Schema::poll()) };
        let next_sequence = last + 1;
        let mut ingest =
            Self { archive, lock, journal_dir, writer: None, next_sequence, bodies: 0, bytes: 0, plans, policy };
        let recovered = ingest.publish()?;
        Ok((ingest, recovered))
    }

    /// What may be written.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Journals what may be written of an answer. It is durable after the next [`Ingest::sync`].
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn append(&mut self, answer: Answer) -> Result<(), IngestError> {
        let answer = self.policy.apply(answer);
        if self.bodies >= SEGMENT_BODIES || self.bytes >= SEGMENT_BYTES {
            self.close_segment()?;
        }
        if self.writer.is_none() {
            self.writer = Some(Writer::create(&self.journal_dir, self.next_sequence)?);
            self.next_sequence += 1;
        }
        if let Some(writer) = &mut self.writer {
            writer.append(&answer)?;
        }
        self.bodies += answer.bodies.len();
        self.bytes += answer.bodies.iter().map(|body| body.bytes.len()).sum::<usize>();
        Ok(())
    }

    /// Makes durable what was journalled.
    ///
    /// # Errors
    /// Where the journal cannot be synced.
    pub fn sync(&mut self) -> Result<(), IngestError> {
        Ok(self.writer.as_mut().map_or(Ok(()), Writer::sync)?)
    }

    /// Publishes everything that is journalled.
    ///
    /// # Errors
    /// Where the archive cannot be written. What was not published stays in the journal, and the next
    /// publish takes it up.
    pub fn publish(&mut self) -> Result<Published, IngestError> {
        self.close_segment()?;
        let mut published = Published::default();
        let mut batch = Batch::new(&self.plans);
        for (sequence, path) in journal::segments(&self.journal_dir)? {
            let segment = Segment::read(&path)?;
            batch.read(&self.plans, self.lock.shard, sequence, &segment);
            drop(segment);
            batch.segments.push(path);
            if batch.states.rows() >= BATCH_ROWS || batch.states.text_bytes() >= BATCH_BYTES {
                self.publish_batch(std::mem::replace(&mut batch, Batch::new(&self.plans)), &mut published)?;
            }
        }
        if !batch.segments.is_empty() {
            self.publish_batch(batch, &mut published)?;
        }
        Ok(published)
    }

    fn close_segment(&mut self) -> Result<(), IngestError> {
        self.sync()?;
        self.writer = None;
        (self.bodies, self.bytes) = (0, 0);
        Ok(())
    }

    /// The polls become live before the states: should the process end between the two, the polls
    /// say already which states were new, and keep saying it.
    fn publish_batch(&self, mut batch: Batch, published: &mut Published) -> Result<(), IngestError> {
        for (name, bytes) in &batch.aside {
            self.archive.quarantine(name, bytes)?;
        }
        let (states, fresh) = self.stage(&mut batch.states, self.plans.states.schema())?;
        let polls = outcome::settle(&batch.polls, &fresh);
        let mut poll_columns = batch::poll_columns(&self.plans.polls, &polls);
        let (staged_polls, _) = self.stage(&mut poll_columns, self.plans.polls.schema())?;
        for staged in staged_polls.into_iter().chain(states) {
            let info = staged.publish()?;
            published.bytes += info.bytes;
            published.rows += info.rows;
        }
        published.count(&batch, &fresh, &polls);
        for path in &batch.segments {
            fs::remove_file(path).map_err(ArchiveError::io("remove", path))?;
        }
        Ok(())
    }

    /// Stages the days that the rows belong to; says for each row whether its key is new.
    fn stage(&self, columns: &mut Columns, schema: &Arc<Schema>) -> Result<(Vec<Staged>, Vec<bool>), IngestError> {
        let rows = columns.finish();
        let mut fresh = vec![false; rows.num_rows()];
        let mut days = Vec::new();
        for (date, positions) in partitions_of(schema, &rows) {
            let staged = self.archive.stage(&self.lock, schema, date, &rows, &positions)?;
            for (&position, &new) in positions.iter().zip(&staged.fresh) {
                fresh[position as usize] = new;
            }
            days.push(staged);
        }
        Ok((days, fresh))
    }
}

impl Published {
    fn count(&mut self, batch: &Batch, fresh: &[bool], polls: &[crate::snapshot::Poll]) {
        let new = fresh.iter().filter(|new| **new).count() as u64;
        self.states_new += new;
        self.states_known += fresh.len() as u64 - new;
        self.quarantined += batch.quarantined;
        self.gaps += batch.gaps;
        polls.iter().for_each(|poll| self.polls.count(poll.outcome));
        for (path, count) in &batch.drift {
            *self.drift.entry(path.clone()).or_default() += count;
        }
    }
}
