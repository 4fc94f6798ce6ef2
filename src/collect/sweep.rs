//! One sweep, and one after the other.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::api::{Client, Credential, Exchange, Failure, Page};
use crate::clock::Clock;
use crate::envelope;
use crate::ingest::{Ingest, Published, Takes};
use crate::privacy::Policy;
use crate::snapshot::{Answer, Body, DeviceId, Endpoint, Listing, Outcome, Source, sweep_id};

use super::paging::{MOST_PAGES, Next, Paging, Shown};
use super::plan::{Live, Plan};
use super::schedule::{self, End, Stop};
use super::writer::{self, Chance, JournalBroken, Writer, WriterGone};
use super::{CollectError, CollectOptions, CollectStats, Progress};

/// Requests that may be under way at once. The pacer decides how many are sent; this bounds how many
/// wait for slow answers.
const REQUESTS_AT_ONCE: usize = 64;

/// So many requests in a row without a connection, and the sweep is given up.
const UNREACHABLE: u32 = 10;

/// So many requests in a row are forbidden, and it is all of them that are.
const FORBIDDEN: u32 = 3;

/// So many answers in a row say that our clock is wrong, and it is.
const CLOCK_OFF: u32 = 3;

/// So many failures are told one by one.
const FAILURES_TOLD: usize = 5;

/// Collects one account, into all shards of an archive or into one; others may collect theirs beside it, through the same
/// writer.
pub struct Collector<'a> {
    pub(super) client: Client,
    pub(super) clock: Clock,
    options: CollectOptions,
    pub(super) policy: Policy,
    /// Which devices are its own; none where all are.
    takes: Option<Takes>,
    writer: Writer,
    pub(super) progress: &'a dyn Progress,
    pub(super) stop: Stop,
    /// What the last sweep had no time for.
    carried: Resume,
    /// How long the last publish took.
    pub(super) publish_took: Duration,
    /// Answers that are in memory alone: nothing more is asked while they cannot be written.
    unwritten: usize,
}

/// Where a sweep ended: the next one, which another process may make, begins there. No ids, which are personal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The page of the list that it had no time for.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u32>,
    /// The place of the first device that it had no time for, in the order of their ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<usize>,
}

/// A sweep under way.
pub(super) struct Sweep {
    pub(super) end: Arc<End>,
    seen: HashSet<DeviceId>,
    list: Paging,
    /// Requests in a row that found no connection.
    unreachable: u32,
    /// Requests in a row that were forbidden.
    forbidden: u32,
    /// Answers in a row by which our clock is wrong.
    clock_off: u32,
    pub(super) stats: CollectStats,
}

/// Where the counts stood when something began.
pub(super) struct Mark {
    pub(super) at: Instant,
    sent: u64,
    paused: Duration,
}

/// What was asked, before anything of it is published.
pub(super) struct Asked {
    pub(super) sweep: Sweep,
    pub(super) came_to: Result<(), Halt>,
    pub(super) before: Mark,
    pub(super) took: Duration,
}

/// Why asking ended early.
pub(super) enum Halt {
    Failed(CollectError),
    /// Nothing can be journalled; the publish says why.
    Journal,
}

impl<'a> Collector<'a> {
    /// Makes a collector; its writer's thread runs until [`Collector::finish`].
    #[must_use]
    pub fn new(
        client: Client,
        ingest: Ingest,
        clock: &Clock,
        options: &CollectOptions,
        progress: &'a dyn Progress,
        stop: &Stop,
    ) -> Self {
        let one = Self::of_accounts(vec![client], ingest, clock, options, progress, stop);
        one.into_iter().next().expect("one client has one collector")
    }

    /// A collector for each account, which hand what they receive to one writer.
    #[must_use]
    pub fn of_accounts(
        clients: Vec<Client>,
        ingest: Ingest,
        clock: &Clock,
        options: &CollectOptions,
        progress: &'a dyn Progress,
        stop: &Stop,
    ) -> Vec<Self> {
        let (policy, takes, writer) = (ingest.policy().clone(), ingest.takes(), Writer::start(ingest));
        let of_account = |client| Self {
            client,
            clock: clock.clone(),
            options: options.clone(),
            policy: policy.clone(),
            takes: takes.clone(),
            writer: writer.clone(),
            progress,
            stop: stop.clone(),
            carried: Resume::default(),
            publish_took: Duration::ZERO,
            unwritten: 0,
        };
        clients.into_iter().map(of_account).collect()
    }

    /// Asks with another credential from the next request on.
    pub fn renew(&self, credential: Credential) {
        self.client.renew(credential);
    }

    /// Begins the next sweep where another process's ended.
    pub fn resume(&mut self, from: Resume) {
        self.carried = from;
    }

    /// Where the last sweep ended; none where it came to its end.
    #[must_use]
    pub fn ended_at(&self) -> Option<Resume> {
        (self.carried != Resume::default()).then_some(self.carried)
    }

    /// Waits for the next tick of the schedule; false where the end was asked for.
    pub async fn next_tick(&self, every: Duration) -> bool {
        schedule::next_tick(&self.clock, every, &self.stop).await
    }

    /// How long it is until the next tick of the schedule.
    #[must_use]
    pub fn time_left(&self, every: Duration) -> Duration {
        schedule::until_tick(self.clock.now(), every)
    }

    /// Makes one sweep and publishes what it brought, if that is due, however it ended: what it did, and why it did not
    /// come to its end. `number` tells sweeps of one second apart.
    ///
    /// It ends early where the API lets nobody in, no page of the list can be read, or the archive or
    /// its journal cannot be written. What was received stays in the journal.
    pub async fn sweep(&mut self, number: u16) -> (CollectStats, Option<CollectError>) {
        let mut both = Self::sweep_side_by_side(std::slice::from_mut(self), number).await;
        both.pop().expect("there is one result for each collector")
    }

    /// Makes a [sweep](Self::sweep) of several collectors at once, with one publish at the end, which counts as the first one's.
    pub async fn sweep_side_by_side(collectors: &mut [Self], number: u16) -> Vec<(CollectStats, Option<CollectError>)> {
        let numbered = collectors.iter_mut().zip((0..).map(|at: u16| number.wrapping_add(at.wrapping_mul(0x1111))));
        let asked = futures_util::future::join_all(numbered.map(|(collector, number)| collector.ask_all(number))).await;
        let mut published = match collectors.first_mut() {
            Some(first) => {
                let rule = first.options.publish;
                let chance = Chance { rule, now: first.clock.now(), next: first.options.interval };
                Some(first.publish_timed(Some(chance)).await)
            }
            None => None,
        };
        let (took, unwritten) =
            collectors.first().map_or_else(Default::default, |first| (first.publish_took, first.unwritten));
        let concluded = collectors.iter_mut().zip(asked).map(|(collector, asked)| {
            (collector.publish_took, collector.unwritten) = (took, unwritten);
            collector.conclude(asked, published.take())
        });
        concluded.collect()
    }

    /// Asks for all that a sweep is to ask for.
    async fn ask_all(&mut self, number: u16) -> Asked {
        let before = self.mark();
        let end = End::new(self.stop.clone(), self.options.deadline, self.publish_took);
        let mut sweep = Sweep::new(sweep_id(self.clock.now(), number), end);
        let asked = if self.has_room(&mut sweep.stats).await { self.ask(&mut sweep).await } else { Err(Halt::Journal) };
        self.progress.finish();
        let took = before.at.elapsed();
        Asked { sweep, came_to: asked, before, took }
    }

    /// When something began, and what had been sent and waited for by then.
    pub(super) fn mark(&self) -> Mark {
        Mark { at: Instant::now(), sent: self.client.pacer().sent(), paused: self.client.pacer().paused() }
    }

    /// Publishes what was brought, if that is due, and notes how long it took.
    pub(super) async fn publish_timed(&mut self, chance: Option<Chance>) -> Result<writer::Report, CollectError> {
        let report = self.publish(chance).await;
        // Where nothing was due, the next one that is will take as long as the last one that was.
        if let Ok(report) = &report
            && report.published.rows > 0
        {
            self.publish_took = report.took;
        }
        // Where the journal failed, there may be some: the next sweep begins with another publish, which finds out.
        self.unwritten = report.as_ref().map_or(self.unwritten.max(1), |report| report.unwritten);
        report
    }

    /// Says what was done since it was begun, with what was published of it, if this one published.
    pub(super) fn conclude(
        &self,
        asked: Asked,
        published: Option<Result<writer::Report, CollectError>>,
    ) -> (CollectStats, Option<CollectError>) {
        let Asked { sweep, came_to, before, took } = asked;
        let mut stats = sweep.stats;
        stats.devices = sweep.seen.len() as u64;
        stats.requests_sent = self.client.pacer().sent() - before.sent;
        stats.throttled_s = self.client.pacer().paused().saturating_sub(before.paused).as_secs_f64();
        (stats.stopped, stats.elapsed_s) = (sweep.end.is_reached(), took.as_secs_f64());
        stats.clock_ahead_s = self.client.clock_ahead().map(TimeDelta::as_seconds_f64);
        let published = published.unwrap_or(Ok(writer::Report::default())).and_then(|report| {
            stats.elapsed_s += report.took.as_secs_f64();
            Ok(stats.take(report)?)
        });
        let failed = match (came_to, published) {
            (Err(Halt::Failed(error)), _) | (_, Err(error)) => Some(error),
            (Err(Halt::Journal) | Ok(()), Ok(())) => None,
        };
        (stats, failed)
    }

    /// Publishes what waits, due or not: who ends a loop may want to look at what it brought.
    ///
    /// # Errors
    /// Where the writer has ended, or the journal cannot be used.
    pub async fn publish_waiting(&self) -> Result<Published, CollectError> {
        let writer::Report { published, fault, .. } = self.publish(None).await?;
        fault.map_or(Ok(published), |fault| Err(fault.into()))
    }

    /// Ends the writer's thread.
    ///
    /// # Errors
    /// What it ended of, where that was the journal.
    pub fn finish(self) -> Result<(), CollectError> {
        Ok(self.writer.join().map_err(|WriterGone| CollectError::Ended)??)
    }

    pub(super) async fn publish(&self, chance: Option<Chance>) -> Result<writer::Report, CollectError> {
        Ok(self.writer.publish(chance).await.map_err(|WriterGone| CollectError::Ended)??)
    }

    /// Whether there is any use in asking: what was received in an earlier sweep has been written.
    pub(super) async fn has_room(&mut self, stats: &mut CollectStats) -> bool {
        if self.unwritten > 0
            && let Ok(report) = self.publish(None).await
        {
            self.unwritten = report.unwritten;
            // Nothing was journalled since the last publish, which told of what failed before.
            let _ = stats.take(report);
        }
        self.unwritten == 0
    }

    async fn ask(&mut self, sweep: &mut Sweep) -> Result<(), Halt> {
        let mut plan = Plan::new(&self.options, self.client.pacer().budget());
        let carried = std::mem::take(&mut self.carried);
        // What this one does not look at is left to one that does.
        self.carried.page = carried.page.filter(|_| !plan.list);
        let mut devices = self.options.devices.clone();
        devices.retain(|device| self.takes.as_ref().is_none_or(|takes| takes.is_own(device.as_str())));
        self.progress.plan(&plan.to_string());
        if plan.list {
            self.progress.start("pages", None);
            if let Err(halt) = self.read_list(sweep, carried.page).await {
                self.carried = carried;
                return Err(halt);
            }
            self.progress.finish();
            if let Some(takes) = &self.takes {
                sweep.seen.retain(|device| takes.is_own(device.as_str()));
            }
            plan = plan.discovered(sweep.seen.len() as u64, u64::from(sweep.list.pages));
            self.progress.plan(&plan.to_string());
            devices = sorted(&sweep.seen);
        } else {
            sweep.seen.extend(devices.iter().cloned());
        }
        if plan.live == Live::Always {
            self.progress.start("devices", Some(devices.len() as u64));
            // What is known of a list that was not read to its end is no place in it.
            let is_whole = self.carried.page.is_none() && !sweep.list.is_given_up();
            let place = carried.device.filter(|place| is_whole && *place < devices.len());
            devices.rotate_left(place.unwrap_or(0));
            let asked = self.ask_each(sweep, devices).await;
            if !is_whole {
                self.carried.device = carried.device;
            }
            return asked;
        }
        self.carried.device = carried.device;
        Ok(())
    }

    /// Reads the list page by page: from the page on that the last sweep had no time for, then those
    /// before it.
    async fn read_list(&mut self, sweep: &mut Sweep, carried: Option<u32>) -> Result<(), Halt> {
        let now = self.clock.now();
        let window = TimeDelta::minutes(i64::from(self.options.since_minutes));
        let listing = &Listing { source: Source::List, from: now - window, to: now };
        let of_all = |number: u32| Page { listing, device: None, number };
        let begin = carried.unwrap_or(1);
        let mut page = begin;
        for _ in 1..=MOST_PAGES {
            let permit = tokio::select! {
                permit = self.client.permit() => permit,
                () = sweep.end.reached() => {
                    // Who stands on it was not asked for, and may have had a state.
                    let unasked = self.client.unasked_page(&sweep.stats.sweep_id, of_all(page));
                    self.cut_list(sweep, page);
                    return self.write(unasked.answer).await;
                }
            };
            let id = &sweep.stats.sweep_id;
            let mut exchange = self.client.list(permit, id, of_all(page), sweep.end.drained()).await;
            self.progress.advance(1);
            if exchange.failure == Some(Failure::CutOff) {
                self.cut_list(sweep, page);
                return self.keep(sweep, exchange).await;
            }
            let shown = sweep.see(&exchange.answer);
            let mut next = sweep.list.take(&mut exchange, shown);
            // The API's own words may name somebody: the policy has its say.
            if let (Next::GiveUp(reason), Some(poll)) = (&mut next, &exchange.answer.poll)
                && !matches!(exchange.failure, Some(Failure::Unreachable(_)))
            {
                *reason = self.policy.apply_poll(poll.clone()).error.unwrap_or_else(|| std::mem::take(reason));
            }
            self.keep(sweep, exchange).await?;
            let following = page + 1;
            page = match next {
                Next::Again => page,
                Next::Back => unreachable!("a list of now is no settled one"),
                Next::Read if following == begin => return Ok(()),
                Next::Read => following,
                Next::End if begin > 1 && following > begin => 1,
                Next::End => return Ok(()),
                Next::GiveUp(_) if sweep.list.read > 0 => return Ok(()),
                Next::GiveUp(reason) => return Err(Halt::Failed(CollectError::Discovery(reason))),
            };
        }
        Ok(())
    }

    /// Notes that there was no time for a page, with which the next sweep begins.
    fn cut_list(&mut self, sweep: &mut Sweep, page: u32) {
        self.carried.page = Some(page);
        sweep.stats.list_cut = true;
    }

    /// Asks for each device. At the sweep's end no more are asked for, and those under way are waited
    /// for a little.
    async fn ask_each(&mut self, sweep: &mut Sweep, devices: Vec<DeviceId>) -> Result<(), Halt> {
        let mut unasked = vec![true; devices.len()];
        let id = sweep.stats.sweep_id.clone();
        let end = Arc::clone(&sweep.end);
        let mut halted = Ok(());
        {
            let mut answers = std::pin::pin!(self.answers(&id, devices.clone(), &end));
            while let Some((place, exchange)) = answers.next().await {
                self.progress.advance(1);
                unasked[place] = exchange.failure == Some(Failure::CutOff);
                if let Err(halt) = self.keep(sweep, exchange).await {
                    // Those under way are still waited for: they count, and each has its record.
                    sweep.end.halt();
                    halted = halted.and(Err(halt));
                }
            }
        }
        let left = devices.iter().zip(unasked).filter(|(_, is_unasked)| *is_unasked).map(|(device, _)| device);
        let left: Vec<&DeviceId> = left.collect();
        sweep.stats.devices_unasked = left.len() as u64;
        self.carried.device = left.first().map(|first| devices.iter().filter(|device| device < first).count());
        halted
    }

    /// The answers for each device, as they come, with its place among them.
    fn answers<'s>(
        &'s self,
        sweep_id: &'s str,
        devices: Vec<DeviceId>,
        end: &'s End,
    ) -> impl Stream<Item = (usize, Exchange)> + 's {
        let since = self.options.since_minutes;
        futures_util::stream::iter(devices.into_iter().enumerate())
            .then(async |device| (self.client.permit().await, device))
            .take_until(end.reached())
            .map(move |(permit, (place, device))| async move {
                (place, self.client.live(permit, sweep_id, &device, since, end.drained()).await)
            })
            .buffer_unordered(REQUESTS_AT_ONCE)
    }

    /// Hands an answer to the writer, and notes how it failed if it did.
    async fn keep(&self, sweep: &mut Sweep, mut exchange: Exchange) -> Result<(), Halt> {
        exchange.heed_clock();
        let noted = sweep.note(&exchange, &self.policy);
        self.write(exchange.answer).await?;
        noted.map_err(Halt::Failed)
    }

    /// Hands what is one's own of an answer to the writer.
    pub(super) async fn write(&self, answer: Answer) -> Result<(), Halt> {
        let answer = match &self.takes {
            Some(takes) => own(answer, takes),
            None => answer,
        };
        self.writer.append(answer).await.map_err(|JournalBroken| Halt::Journal)
    }
}

impl Sweep {
    pub(super) fn new(id: String, end: End) -> Self {
        let stats = CollectStats { sweep_id: id, ..CollectStats::default() };
        let (seen, list) = (HashSet::new(), Paging::default());
        Self { end: Arc::new(end), seen, list, unreachable: 0, forbidden: 0, clock_off: 0, stats }
    }

    /// Notes the devices on a page of the list; says which it shows.
    pub(super) fn see(&mut self, answer: &Answer) -> Shown {
        let texts = answer.bodies.iter().filter_map(|body| std::str::from_utf8(&body.bytes).ok());
        let ids: Vec<String> = texts.filter_map(envelope::device_id).collect();
        self.seen.extend(ids.iter().filter_map(|id| DeviceId::parse(id).ok()));
        Shown::of(&ids)
    }

    /// Whether so many answers in a row said another time than our clock that it is no slip of theirs.
    pub(super) fn has_wrong_clock(&self) -> bool {
        self.clock_off >= CLOCK_OFF
    }

    /// Counts an answer, and keeps the first failures: their words go to a log or the summary's file, so
    /// the policy has its say there too. An error where there is no use in asking on.
    pub(super) fn note(&mut self, exchange: &Exchange, policy: &Policy) -> Result<(), CollectError> {
        let Some(poll) = &exchange.answer.poll else { return Ok(()) };
        self.stats.requests_failed += u64::from(poll.outcome == Outcome::Failed);
        if poll.outcome == Outcome::Absent && poll.endpoint == Endpoint::Live {
            self.stats.devices_absent += 1;
        }
        let unreachable = matches!(exchange.failure, Some(Failure::Unreachable(_)));
        self.unreachable = if unreachable { self.unreachable + 1 } else { 0 };
        let forbidden = matches!(exchange.failure, Some(Failure::Forbidden(_)));
        self.forbidden = if forbidden { self.forbidden + 1 } else { 0 };
        self.clock_off = if exchange.clock_off.is_some() { self.clock_off + 1 } else { 0 };
        // A clock that is wrong is so for many answers, and leaves no room for other reasons.
        let is_told = self.clock_off <= 1 && self.stats.failures.len() < FAILURES_TOLD;
        if poll.outcome == Outcome::Failed && is_told {
            let poll = policy.apply_poll(poll.clone());
            let what = match (&poll.device_id, poll.page) {
                (Some(device), _) => format!("device {device}"),
                (None, page) => format!("page {} of the list", page.unwrap_or_default()),
            };
            self.stats.failures.push(format!("{what}: {}", poll.error.as_deref().unwrap_or("failed")));
        }
        let is_denied = matches!(exchange.failure, Some(Failure::Denied(_))) || self.forbidden == FORBIDDEN;
        match &exchange.failure {
            Some(_) if is_denied => {
                let reason = policy.apply_poll(poll.clone()).error.unwrap_or_default();
                Err(CollectError::Denied { endpoint: poll.endpoint, reason })
            }
            Some(Failure::Unreachable(reason)) if self.unreachable == UNREACHABLE => {
                Err(CollectError::Unreachable(reason.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// An answer without the states of devices that are others' to collect. What was asked of a device of one's own is one's
/// own, however the API writes its id.
fn own(mut answer: Answer, takes: &Takes) -> Answer {
    if let Some(poll) = &mut answer.poll {
        poll.shard = Some(takes.shard().to_owned());
        if poll.endpoint == Endpoint::Live {
            return answer;
        }
    }
    let id = |body: &Body| std::str::from_utf8(&body.bytes).ok().and_then(envelope::device_id);
    let before = answer.bodies.len();
    // What is of no device, one of the collectors keeps.
    answer.bodies.retain(|body| takes.is_own(&id(body).unwrap_or_default()));
    let is_empty = answer.bodies.is_empty() && before > 0;
    // Nobody of one's own is on that page, which ends no list: its rows are those that it showed.
    if let Some(poll) = answer.poll.as_mut().filter(|poll| is_empty && poll.outcome == Outcome::State) {
        poll.outcome = Outcome::Absent;
    }
    answer
}

fn sorted(devices: &HashSet<DeviceId>) -> Vec<DeviceId> {
    let mut devices: Vec<DeviceId> = devices.iter().cloned().collect();
    devices.sort_unstable();
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Poll;

    fn answer(endpoint: Endpoint, ids: &[&str]) -> Answer {
        let poll = Poll::example(endpoint);
        let bodies = ids.iter().map(|id| Body::new(&format!(r#"{{"deviceId":"{id}"}}"#))).collect();
        let (account_id, collected_at) = (poll.account_id.clone(), poll.requested_at);
        Answer { account_id, sweep_id: "s".to_owned(), source: Source::List, collected_at, bodies, poll: Some(poll) }
    }

    #[test]
    fn a_request_that_is_forbidden_ends_no_sweep_and_three_in_a_row_do() {
        let end = End::new(schedule::stop_pair().1, None, Duration::ZERO);
        let mut sweep = Sweep::new("s".to_owned(), end);
        let mut ends = |failure: Option<Failure>| {
            let exchange = Exchange { answer: answer(Endpoint::Live, &[]), failure, clock_off: None };
            sweep.note(&exchange, &Policy::default()).is_err()
        };
        let forbidden = || Some(Failure::Forbidden("HTTP 403".to_owned()));
        let all = [forbidden(), forbidden(), None, forbidden(), forbidden(), forbidden()].map(&mut ends);
        assert_eq!(all, [false, false, false, false, false, true]);
        assert!(ends(Some(Failure::Denied("HTTP 401".to_owned()))));
    }

    #[test]
    fn what_was_asked_of_ones_own_device_is_kept_however_its_id_is_written() {
        let takes = Takes::of("0/2".to_owned(), |id| id == "mine");
        let answered = |endpoint, ids: &[&str]| {
            let kept = own(answer(endpoint, ids), &takes);
            (kept.bodies.len(), kept.poll.map(|poll| poll.outcome))
        };
        assert_eq!(answered(Endpoint::List, &["mine", "yours"]), (1, Some(Outcome::State)));
        assert_eq!(answered(Endpoint::List, &["yours"]), (0, Some(Outcome::Absent)));
        assert_eq!(answered(Endpoint::Live, &["MINE"]), (1, Some(Outcome::State)));
        let polls = [(Endpoint::List, "yours"), (Endpoint::Live, "mine")].map(|(endpoint, id)| {
            let mut page = answer(endpoint, &[id]);
            page.poll.iter_mut().for_each(|poll| poll.rows = 1);
            own(page, &takes).poll.map(|poll| (poll.rows, poll.shard))
        });
        // A page of others' devices alone is not the empty one that ends the list.
        assert_eq!(polls, [(); 2].map(|()| Some((1, Some("0/2".to_owned())))));
    }
}
