//! The thread that owns the files of the shards that are written to: of all, or of one.
//!
//! The async side hands it answers through a queue that is bounded in bytes. It journals each at once and syncs at most
//! [`SYNC_AFTER`] later, so that a burst of answers shares one sync. When the journal cannot be written,
//! it says so and takes nothing more until the next publish, after which it tries again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Timestamp;
use crate::ingest::{Ingest, IngestError, PublishRule, Published, SYNC_AFTER, Waiting};
use crate::snapshot::Answer;

/// So long the thread looks away from the queue while answers come in one after the other.
const BURST: Duration = Duration::from_millis(2);

/// Bytes of answers that wait for the writer; more make the requests wait. As many as come in while the disk syncs, and
/// no more: a page of the list may be large.
const QUEUED_BYTES: u32 = 8 << 20;

/// What an answer takes in the queue beside its bodies.
const ANSWER_BYTES: usize = 1024;

/// A handle on the writer's thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    commands: Sender<Command>,
    /// In bytes.
    room: Arc<Semaphore>,
    broken: Arc<AtomicBool>,
    thread: Arc<thread::JoinHandle<Result<(), IngestError>>>,
}

enum Command {
    /// With the room that it takes, until the journal has taken or refused it.
    Append(Box<Answer>, OwnedSemaphorePermit),
    Publish(Option<Chance>, Sender<Result<Report, IngestError>>),
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
pub(super) struct Report {
    pub(super) published: Published,
    pub(super) waiting: Option<Waiting>,
    /// The first fault of the journal since the last publish.
    pub(super) fault: Option<IngestError>,
    /// Answers that are in this process's memory alone.
    pub(super) unwritten: usize,
    /// How long it took.
    pub(super) took: Duration,
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
        let (commands, room, queue) = queue();
        let broken = Arc::new(AtomicBool::new(false));
        let mut work = Work { ingest, broken: Arc::clone(&broken), failed: None, unsynced_since: None };
        Self { commands, room, broken, thread: Arc::new(thread::spawn(move || work.run(&queue))) }
    }

    /// Hands over an answer.
    pub(super) async fn append(&self, answer: Answer) -> Result<(), JournalBroken> {
        let bytes = ANSWER_BYTES + answer.bodies.iter().map(|body| body.bytes.len()).sum::<usize>();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(QUEUED_BYTES);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_closed| JournalBroken)?;
        let sent = self.commands.send(Command::Append(Box::new(answer), room));
        if sent.is_err() || self.broken.load(Ordering::SeqCst) { Err(JournalBroken) } else { Ok(()) }
    }

    /// Publishes all that was handed over; with a chance, only if that is due.
    pub(super) async fn publish(&self, chance: Option<Chance>) -> Result<Result<Report, IngestError>, WriterGone> {
        let (reply, done) = flume::bounded(1);
        self.commands.send(Command::Publish(chance, reply)).map_err(|_closed| WriterGone)?;
        // What is sent behind the queue's last emptying stays in it, with its reply; the room is closed before that.
        if self.room.is_closed() {
            return Err(WriterGone);
        }
        done.recv_async().await.map_err(|_closed| WriterGone)
    }

    /// Waits for the thread's end, where this is the last handle on it, and says what it ended of.
    pub(super) fn join(self) -> Result<Result<(), IngestError>, WriterGone> {
        drop(self.commands);
        let Some(thread) = Arc::into_inner(self.thread) else { return Ok(Ok(())) };
        thread.join().map_err(|_panic| WriterGone)
    }
}

/// What is handed over, as the thread takes it.
struct Queue {
    commands: Receiver<Command>,
    room: Arc<Semaphore>,
}

/// A queue and its other end: where commands go in, and the room for their bytes.
fn queue() -> (Sender<Command>, Arc<Semaphore>, Queue) {
    let (sender, commands) = flume::unbounded();
    let room = Arc::new(Semaphore::new(QUEUED_BYTES as usize));
    (sender, Arc::clone(&room), Queue { commands, room })
}

/// Who waits for room is told that there will be none.
impl Drop for Queue {
    fn drop(&mut self) {
        self.room.close();
        // With what is left in it, those are told who wait for a reply.
        self.commands.drain().for_each(drop);
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
    fn run(&mut self, queue: &Queue) -> Result<(), IngestError> {
        loop {
            match self.receive(&queue.commands) {
                Ok(command) => {
                    self.take(command);
                    self.take_burst(&queue.commands);
                }
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => return self.failed.take().map_or(self.ingest.sync(), Err),
            }
            self.sync_if_due();
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Append(answer, room) => {
                self.append(*answer);
                drop(room);
            }
            Command::Publish(chance, reply) => {
                // Nobody waits for it any more only where the sweep was dropped; the rows are safe.
                let _ = reply.send(self.publish(chance));
            }
        }
    }

    /// Takes what comes in while it looks away, as long as something does: to wake this thread for each answer would
    /// cost whoever asks more than the rest of handing it over.
    #[expect(clippy::disallowed_methods, reason = "it has a thread of its own, and nothing else to do")]
    fn take_burst(&mut self, commands: &Receiver<Command>) {
        loop {
            thread::sleep(BURST);
            // Not what comes in meanwhile: a burst has an end, and what was journalled is synced.
            let burst = commands.drain();
            if burst.len() == 0 {
                return;
            }
            burst.for_each(|command| self.take(command));
            self.sync_if_due();
        }
    }

    fn sync_if_due(&mut self) {
        if self.unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_AFTER) {
            self.unsynced_since = None;
            let synced = self.ingest.sync();
            self.note(synced);
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
    fn publish(&mut self, chance: Option<Chance>) -> Result<Report, IngestError> {
        self.unsynced_since = None;
        let began = Instant::now();
        let published = match chance.filter(|_| self.failed.is_none()) {
            Some(Chance { rule, now, next }) => {
                self.ingest.sync().and_then(|()| self.ingest.publish_if_due(rule, now, next))
            }
            None => self.ingest.publish().map(Some),
        };
        self.broken.store(false, Ordering::SeqCst);
        let fault = self.failed.take();
        let published = match published {
            Ok(published) => published.unwrap_or_default(),
            Err(error) => return Err(fault.unwrap_or(error)),
        };
        let (waiting, unwritten) = (self.ingest.waiting()?, self.ingest.unwritten());
        Ok(Report { published, waiting, fault, unwritten, took: began.elapsed() })
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::clock;
    use crate::snapshot::{AccountId, Body, Source};

    /// A writer of which the thread takes nothing.
    fn idle() -> (Writer, Queue) {
        let (commands, room, queue) = queue();
        (Writer { commands, room, broken: Arc::default(), thread: Arc::new(thread::spawn(|| Ok(()))) }, queue)
    }

    fn answer(bytes: usize) -> Answer {
        Answer {
            account_id: AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an id"),
            sweep_id: String::new(),
            source: Source::Live,
            collected_at: clock::from_micros(0).expect("a time"),
            bodies: vec![Body::new(&"x".repeat(bytes))],
            poll: None,
        }
    }

    #[test]
    fn answers_wait_where_there_is_no_room_for_them() {
        let (writer, queue) = idle();
        for _ in 0..1_000 {
            assert!(writer.append(answer(3_000)).now_or_never().is_some(), "small ones have room");
        }
        // A page that is larger than all of the queue waits for the others, and then has it for itself.
        let mut large = Box::pin(writer.append(answer(QUEUED_BYTES as usize)));
        let mut now = || large.as_mut().now_or_never();
        assert!(now().is_none());
        let mut taken: Vec<Command> = queue.commands.drain().collect();
        taken.truncate(1);
        assert!(now().is_none(), "one is still on its way to the journal");
        taken.clear();
        assert!(now().is_some_and(|appended| appended.is_ok()));
        assert!(writer.append(answer(0)).now_or_never().is_none());
    }

    #[test]
    fn who_waits_for_room_is_told_where_the_thread_has_ended() {
        let (writer, queue) = idle();
        writer.append(answer(QUEUED_BYTES as usize)).now_or_never().expect("room").expect("a journal");
        let mut waiting = Box::pin(writer.append(answer(1)));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(queue);
        assert!(matches!(waiting.now_or_never(), Some(Err(JournalBroken))));
    }

    #[test]
    fn who_waits_for_a_publish_is_told_where_the_thread_has_ended() {
        let (writer, queue) = idle();
        let mut before = Box::pin(writer.publish(None));
        assert!(before.as_mut().now_or_never().is_none());
        // As if the thread still had its end of the queue, and had looked into it for the last time.
        let _open = queue.commands.clone();
        drop(queue);
        assert!(matches!(before.now_or_never(), Some(Err(WriterGone))));
        assert!(matches!(writer.publish(None).now_or_never(), Some(Err(WriterGone))));
    }
}
