//! The thread that owns the files of a shard.
//!
//! The async side hands it answers through a bounded queue. It journals each at once and syncs at most
//! [`SYNC_AFTER`] later, so that a burst of answers shares one sync. When the journal cannot be written,
//! it says so and takes nothing more until the next publish, after which it tries again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};

use crate::clock::Timestamp;
use crate::ingest::{Ingest, IngestError, PublishRule, Published, Waiting};
use crate::snapshot::Answer;

/// An answer is durable at most so much later, and the time of a sync.
const SYNC_AFTER: Duration = Duration::from_millis(500);

/// Answers that wait for the writer; more make the requests wait.
const QUEUED_ANSWERS: usize = 64;

/// A handle on the writer's thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    commands: Sender<Command>,
    broken: Arc<AtomicBool>,
    thread: Arc<thread::JoinHandle<Result<(), IngestError>>>,
}

enum Command {
    Append(Box<Answer>),
    Publish(Option<Chance>, Sender<Result<Outcome, IngestError>>),
}

/// A chance to publish, if that is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance {
    pub(super) rule: PublishRule,
    pub(super) now: Timestamp,
    /// How long until the next one.
    pub(super) next: Duration,
}

/// What was published, and what waits.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) published: Published,
    pub(super) waiting: Option<Waiting>,
}

/// The journal cannot be written; the next publish says why.
#[derive(Debug)]
pub(super) struct JournalBroken;

/// The writer's thread has ended.
#[derive(Debug)]
pub(super) struct WriterGone;

impl Writer {
    /// Starts the thread.
    pub(super) fn start(ingest: Ingest) -> Self {
        let (commands, queue) = flume::bounded(QUEUED_ANSWERS);
        let broken = Arc::new(AtomicBool::new(false));
        let mut work = Work { ingest, broken: Arc::clone(&broken), failed: None, unsynced_since: None };
        Self { commands, broken, thread: Arc::new(thread::spawn(move || work.run(&queue))) }
    }

    /// Hands over an answer.
    pub(super) async fn append(&self, answer: Answer) -> Result<(), JournalBroken> {
        let sent = self.commands.send_async(Command::Append(Box::new(answer))).await;
        if sent.is_err() || self.broken.load(Ordering::SeqCst) { Err(JournalBroken) } else { Ok(()) }
    }

    /// Publishes all that was handed over; with a chance, only if that is due.
    pub(super) async fn publish(&self, chance: Option<Chance>) -> Result<Result<Outcome, IngestError>, WriterGone> {
        let (reply, done) = flume::bounded(1);
        self.commands.send_async(Command::Publish(chance, reply)).await.map_err(|_closed| WriterGone)?;
        done.recv_async().await.map_err(|_closed| WriterGone)
    }

    /// Waits for the thread's end, where this is the last handle on it.
    pub(super) fn join(self) -> Result<(), IngestError> {
        drop(self.commands);
        let Some(thread) = Arc::into_inner(self.thread) else { return Ok(()) };
        thread.join().expect("the writer's thread returns its errors and does not panic")
    }
}

/// What the thread works on.
struct Work {
    ingest: Ingest,
    /// Set while nothing can be journalled.
    broken: Arc<AtomicBool>,
    failed: Option<IngestError>,
    unsynced_since: Option<Instant>,
}

impl Work {
    /// Ends when nobody can send any more.
    fn run(&mut self, queue: &Receiver<Command>) -> Result<(), IngestError> {
        loop {
            match self.receive(queue) {
                Ok(Command::Append(answer)) => self.append(*answer),
                Ok(Command::Publish(chance, reply)) => {
                    // Nobody waits for it any more only where the sweep was dropped; the rows are safe.
                    let _ = reply.send(self.publish(chance));
                }
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => return self.failed.take().map_or(self.ingest.sync(), Err),
            }
            if self.unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_AFTER) {
                self.unsynced_since = None;
                let synced = self.ingest.sync();
                self.note(synced);
            }
        }
    }

    /// Answers that come after one that could not be journalled are tried all the same: room may come
    /// back at any moment.
    fn append(&mut self, answer: Answer) {
        let appended = self.ingest.append(answer);
        if appended.is_ok() {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        self.note(appended);
    }

    /// Publishes what is journalled, which may make room: where something was not journalled, at once. The first
    /// fault of the journal is told even where that goes well.
    fn publish(&mut self, chance: Option<Chance>) -> Result<Outcome, IngestError> {
        self.unsynced_since = None;
        let published = match chance.filter(|_| self.failed.is_none()) {
            Some(Chance { rule, now, next }) => {
                self.ingest.sync().and_then(|()| self.ingest.publish_if_due(rule, now, next))
            }
            None => self.ingest.publish().map(Some),
        };
        self.broken.store(false, Ordering::SeqCst);
        let published = self.failed.take().map_or(published, Err)?;
        Ok(Outcome { published: published.unwrap_or_default(), waiting: self.ingest.waiting()? })
    }

    fn note(&mut self, result: Result<(), IngestError>) {
        if let Err(error) = result {
            self.broken.store(true, Ordering::SeqCst);
            self.failed.get_or_insert(error);
        }
    }

    fn receive(&self, queue: &Receiver<Command>) -> Result<Command, RecvTimeoutError> {
        match self.unsynced_since {
            Some(since) => queue.recv_deadline(since + SYNC_AFTER),
            None => queue.recv().map_err(|_closed| RecvTimeoutError::Disconnected),
        }
    }
}
