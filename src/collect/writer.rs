//! The thread that owns the files of a shard.
//!
//! The async side hands it answers through a bounded queue. It journals each at once and syncs at most
//! [`SYNC_AFTER`] later, so that a burst of answers shares one sync.

use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};

use crate::ingest::{Ingest, IngestError, Published};
use crate::snapshot::Answer;

/// An answer is durable at most so much later, and the time of a sync.
const SYNC_AFTER: Duration = Duration::from_millis(500);

/// Answers that wait for the writer; more make the requests wait.
const QUEUED_ANSWERS: usize = 64;

/// A handle on the writer's thread.
#[derive(Debug)]
pub(super) struct Writer {
    commands: Sender<Command>,
    thread: thread::JoinHandle<Result<(), IngestError>>,
}

enum Command {
    Append(Box<Answer>),
    Publish(Sender<Result<Published, IngestError>>),
}

/// The writer's thread has ended; [`Writer::join`] says why.
#[derive(Debug)]
pub(super) struct WriterGone;

impl Writer {
    /// Starts the thread.
    pub(super) fn start(ingest: Ingest) -> Self {
        let (commands, queue) = flume::bounded(QUEUED_ANSWERS);
        Self { commands, thread: thread::spawn(move || run(ingest, &queue)) }
    }

    /// Hands over an answer.
    pub(super) async fn append(&self, answer: Answer) -> Result<(), WriterGone> {
        self.commands.send_async(Command::Append(Box::new(answer))).await.map_err(|_closed| WriterGone)
    }

    /// Publishes all that was handed over.
    pub(super) async fn publish(&self) -> Result<Result<Published, IngestError>, WriterGone> {
        let (reply, done) = flume::bounded(1);
        self.commands.send_async(Command::Publish(reply)).await.map_err(|_closed| WriterGone)?;
        done.recv_async().await.map_err(|_closed| WriterGone)
    }

    /// Waits for the thread's end.
    pub(super) fn join(self) -> Result<(), IngestError> {
        drop(self.commands);
        self.thread.join().expect("the writer's thread returns its errors and does not panic")
    }
}

/// Ends when nobody can send any more, or when the journal cannot be written.
fn run(mut ingest: Ingest, queue: &Receiver<Command>) -> Result<(), IngestError> {
    let mut unsynced_since: Option<Instant> = None;
    loop {
        match receive(queue, unsynced_since) {
            Ok(Command::Append(answer)) => {
                ingest.append(*answer)?;
                unsynced_since.get_or_insert_with(Instant::now);
            }
            Ok(Command::Publish(reply)) => {
                unsynced_since = None;
                // Nobody waits for it any more only where the sweep was dropped; the rows are safe.
                let _ = reply.send(ingest.publish());
            }
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return ingest.sync(),
        }
        if unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_AFTER) {
            ingest.sync()?;
            unsynced_since = None;
        }
    }
}

fn receive(queue: &Receiver<Command>, unsynced_since: Option<Instant>) -> Result<Command, RecvTimeoutError> {
    match unsynced_since {
        Some(since) => queue.recv_deadline(since + SYNC_AFTER),
        None => queue.recv().map_err(|_closed| RecvTimeoutError::Disconnected),
    }
}
