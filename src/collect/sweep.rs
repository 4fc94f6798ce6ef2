//! One sweep, and one after the other.

use std::collections::HashSet;
use std::hash::Hasher;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::{Stream, StreamExt};
use tokio::time::Instant;

use crate::api::{Client, Exchange, Failure, Listing, PAGE_ROWS};
use crate::clock::Clock;
use crate::envelope;
use crate::ingest::{Ingest, Published};
use crate::privacy::Policy;
use crate::snapshot::{Answer, DeviceId, Endpoint, Outcome, Source, sweep_id};

use super::plan::{Live, Plan};
use super::schedule::{self, Stop};
use super::writer::{Writer, WriterGone};
use super::{CollectError, CollectOptions, CollectStats, Progress};

/// Requests that may be under way at once. The pacer decides how many are sent; this bounds how many
/// wait for slow answers.
const REQUESTS_AT_ONCE: usize = 64;

/// Requests that are under way when the end is asked for get this long.
const DRAIN: Duration = Duration::from_secs(10);

/// So many pages in a row that cannot be read, and the rest of the list is given up.
const FAILED_PAGES: u32 = 3;

/// No list is longer: 2,000,000 devices.
const MOST_PAGES: u32 = 40_000;

/// So many requests in a row without a connection, and the sweep is given up.
const UNREACHABLE: u32 = 10;

/// So many failures are told one by one.
const FAILURES_TOLD: usize = 5;

/// Collects one account into one shard.
pub struct Collector<'a> {
    client: Client,
    clock: Clock,
    options: CollectOptions,
    policy: Policy,
    /// Gone once its thread has ended by itself.
    writer: Option<Writer>,
    progress: &'a dyn Progress,
    stop: Stop,
}

/// A sweep under way.
struct Sweep {
    seen: HashSet<DeviceId>,
    list: ListState,
    /// Requests in a row that found no connection.
    unreachable: u32,
    stats: CollectStats,
}

/// How far the list is read.
#[derive(Default)]
struct ListState {
    pages: u32,
    contents: HashSet<u64>,
    failed_in_a_row: u32,
    read: u32,
}

/// What a page of the list says of the next one.
enum Next {
    Read,
    End,
    GiveUp(String),
}

/// Why asking ended early.
enum Halt {
    Failed(CollectError),
    WriterGone,
}

impl<'a> Collector<'a> {
    /// Makes a collector; its writer's thread runs until [`Collector::finish`].
    #[must_use]
    pub fn new(
        client: Client,
        ingest: Ingest,
        clock: Clock,
        options: CollectOptions,
        progress: &'a dyn Progress,
        stop: Stop,
    ) -> Self {
        let policy = ingest.policy().clone();
        Self { client, clock, options, policy, writer: Some(Writer::start(ingest)), progress, stop }
    }

    /// Waits for the next tick of the schedule; false where the end was asked for.
    pub async fn next_tick(&self, every: Duration) -> bool {
        schedule::next_tick(&self.clock, every, &self.stop).await
    }

    /// Makes one sweep and publishes what it brought, however it ended. `random` tells sweeps of one
    /// second apart.
    ///
    /// # Errors
    /// Where the API lets nobody in, no page of the list can be read, or the archive or its journal
    /// cannot be written. What was received stays in the journal.
    pub async fn sweep(&mut self, random: u16) -> Result<CollectStats, CollectError> {
        let start = Instant::now();
        let before = (self.client.pacer().sent(), self.client.pacer().paused());
        let mut sweep = Sweep::new(sweep_id(self.clock.now(), random));
        let asked = self.ask(&mut sweep).await;
        self.progress.finish();
        let published = self.publish().await;
        match asked {
            Err(Halt::Failed(error)) => return Err(error),
            Err(Halt::WriterGone) | Ok(()) => (),
        }
        let mut stats = sweep.stats;
        stats.take(&published?);
        stats.devices = sweep.seen.len() as u64;
        stats.requests_sent = self.client.pacer().sent() - before.0;
        stats.throttled_s = self.client.pacer().paused().saturating_sub(before.1).as_secs_f64();
        stats.elapsed_s = start.elapsed().as_secs_f64();
        stats.stopped = self.stop.is_requested();
        Ok(stats)
    }

    /// Ends the writer's thread.
    ///
    /// # Errors
    /// What it ended of, where that was the journal.
    pub fn finish(mut self) -> Result<(), CollectError> {
        Ok(self.writer.take().map_or(Ok(()), Writer::join)?)
    }

    async fn publish(&mut self) -> Result<Published, CollectError> {
        let reply = match &self.writer {
            Some(writer) => writer.publish().await,
            None => Err(WriterGone),
        };
        match reply {
            Ok(published) => Ok(published?),
            // Only a journal that cannot be written ends the thread, and only its end says why.
            Err(WriterGone) => match self.writer.take().map(Writer::join) {
                Some(Err(error)) => Err(error.into()),
                _ => Err(CollectError::Ended),
            },
        }
    }

    async fn ask(&self, sweep: &mut Sweep) -> Result<(), Halt> {
        let mut plan = Plan::new(&self.options, self.client.pacer().budget());
        let mut devices = self.options.devices.clone();
        self.progress.plan(&plan.to_string());
        if plan.list {
            self.progress.start("pages", None);
            self.read_list(sweep).await?;
            self.progress.finish();
            plan = plan.discovered(sweep.seen.len() as u64, u64::from(sweep.list.pages));
            self.progress.plan(&plan.to_string());
            devices = sorted(&sweep.seen);
        } else {
            sweep.seen.extend(devices.iter().cloned());
        }
        if plan.live == Live::Always && !self.stop.is_requested() {
            self.progress.start("devices", Some(devices.len() as u64));
            self.ask_each(sweep, devices).await?;
        }
        Ok(())
    }

    /// Reads the list page by page.
    async fn read_list(&self, sweep: &mut Sweep) -> Result<(), Halt> {
        let now = self.clock.now();
        let window = TimeDelta::minutes(i64::from(self.options.since_minutes));
        let listing = Listing { source: Source::List, from: now - window, to: now };
        for page in 1..=MOST_PAGES {
            let permit = tokio::select! {
                permit = self.client.permit() => permit,
                () = self.stop.requested() => return Ok(()),
            };
            let exchange = self.client.list(permit, &sweep.stats.sweep_id, &listing, page).await;
            self.progress.advance(1);
            let devices = sweep.see(&exchange.answer);
            let next = sweep.list.take(&exchange, devices);
            self.keep(sweep, exchange, Endpoint::List).await?;
            match next {
                Next::Read => (),
                Next::End => return Ok(()),
                Next::GiveUp(_) if sweep.list.read > 0 => return Ok(()),
                Next::GiveUp(reason) => return Err(Halt::Failed(CollectError::Discovery(reason))),
            }
        }
        Ok(())
    }

    /// Asks for each device. Once the end is asked for, no more are, and those under way are given
    /// [`DRAIN`].
    async fn ask_each(&self, sweep: &mut Sweep, devices: Vec<DeviceId>) -> Result<(), Halt> {
        let id = sweep.stats.sweep_id.clone();
        let mut answers = std::pin::pin!(self.answers(&id, devices));
        let mut deadline = std::pin::pin!(async {
            self.stop.requested().await;
            schedule::sleep(DRAIN).await;
        });
        loop {
            let exchange = tokio::select! {
                exchange = answers.next() => exchange,
                () = &mut deadline => None,
            };
            let Some(exchange) = exchange else { return Ok(()) };
            self.progress.advance(1);
            self.keep(sweep, exchange, Endpoint::Live).await?;
        }
    }

    /// The answers for each device, as they come.
    fn answers(&self, sweep_id: &str, devices: Vec<DeviceId>) -> impl Stream<Item = Exchange> {
        let since = self.options.since_minutes;
        futures_util::stream::iter(devices)
            .then(async |device| (self.client.permit().await, device))
            .take_until(self.stop.requested())
            .map(move |(permit, device)| async move { self.client.live(permit, sweep_id, &device, since).await })
            .buffer_unordered(REQUESTS_AT_ONCE)
    }

    /// Hands an answer to the writer, and notes how it failed if it did.
    async fn keep(&self, sweep: &mut Sweep, exchange: Exchange, endpoint: Endpoint) -> Result<(), Halt> {
        sweep.note(&exchange, &self.policy);
        let failure = exchange.failure;
        let writer = self.writer.as_ref().ok_or(Halt::WriterGone)?;
        writer.append(exchange.answer).await.map_err(|WriterGone| Halt::WriterGone)?;
        match failure {
            Some(Failure::Denied(reason)) => Err(Halt::Failed(CollectError::Denied { endpoint, reason })),
            Some(Failure::Unreachable(reason)) if sweep.unreachable == UNREACHABLE => {
                Err(Halt::Failed(CollectError::Unreachable(reason)))
            }
            _ => Ok(()),
        }
    }
}

impl Sweep {
    fn new(id: String) -> Self {
        let stats = CollectStats { sweep_id: id, ..CollectStats::default() };
        Self { seen: HashSet::new(), list: ListState::default(), unreachable: 0, stats }
    }

    /// Notes the devices on a page of the list; says how many there are.
    fn see(&mut self, answer: &Answer) -> usize {
        let texts = answer.bodies.iter().filter_map(|body| std::str::from_utf8(&body.bytes).ok());
        let ids: Vec<String> = texts.filter_map(envelope::device_id).collect();
        self.seen.extend(ids.iter().filter_map(|id| DeviceId::parse(id).ok()));
        ids.len()
    }

    /// Counts an answer, and keeps the first failures: their words go to a log or the summary's file, so
    /// the policy has its say there too.
    fn note(&mut self, exchange: &Exchange, policy: &Policy) {
        let Some(poll) = &exchange.answer.poll else { return };
        if poll.outcome == Outcome::Absent && poll.endpoint == Endpoint::Live {
            self.stats.devices_absent += 1;
        }
        let unreachable = matches!(exchange.failure, Some(Failure::Unreachable(_)));
        self.unreachable = if unreachable { self.unreachable + 1 } else { 0 };
        if exchange.failure.is_some() && self.stats.failures.len() < FAILURES_TOLD {
            let poll = policy.apply_poll(poll.clone());
            let what = match (&poll.device_id, poll.page) {
                (Some(device), _) => format!("device {device}"),
                (None, page) => format!("page {} of the list", page.unwrap_or_default()),
            };
            self.stats.failures.push(format!("{what}: {}", poll.error.as_deref().unwrap_or("failed")));
        }
    }
}

impl ListState {
    /// Takes in a page that shows so many devices. The list ends with its first empty or short page,
    /// whatever `result_info` says; and with a page that was there before, so that a server which
    /// repeats itself is not read for ever. A page of something else than devices says nothing of the
    /// list's length: it counts as failed.
    fn take(&mut self, exchange: &Exchange, devices: usize) -> Next {
        self.pages += 1;
        let rows = exchange.answer.bodies.len();
        let failure = exchange.failure.as_ref().map(Failure::reason);
        if let Some(reason) = failure.or((rows > 0 && devices == 0).then_some("the page shows no devices")) {
            self.failed_in_a_row += 1;
            let hopeless = matches!(exchange.failure, Some(Failure::Unreachable(_)));
            let give_up = hopeless || self.failed_in_a_row == FAILED_PAGES;
            return if give_up { Next::GiveUp(reason.to_owned()) } else { Next::Read };
        }
        self.failed_in_a_row = 0;
        self.read += 1;
        if rows >= PAGE_ROWS && self.contents.insert(fingerprint(&exchange.answer)) { Next::Read } else { Next::End }
    }
}

/// A hash over a page's bodies.
fn fingerprint(answer: &Answer) -> u64 {
    let mut hash = twox_hash::XxHash64::with_seed(0);
    answer.bodies.iter().for_each(|body| hash.write(&body.bytes));
    hash.finish()
}

fn sorted(devices: &HashSet<DeviceId>) -> Vec<DeviceId> {
    let mut devices: Vec<DeviceId> = devices.iter().cloned().collect();
    devices.sort_unstable();
    devices
}
