//! History from the list: closed windows of up to 7 days back, each read from its first page to its last.
//!
//! The polls say whether a window was read to its end: its last page is empty, and none of its pages failed. A short page
//! is no end: what `result_info` says of the list's length cannot be relied on (the API document), and a server may give
//! fewer rows a page than it was asked for. So what was done needs no other record, and a stopped backfill left whatever no
//! such polls cover. Which windows are wanted is the caller's business.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::StreamExt;
use serde::Serialize;

use crate::api::{Budget, Failure, Page};
use crate::clock::{self, Timestamp};
use crate::snapshot::{DeviceId, HISTORY, Listing, PAGE_ROWS, SETTLE, Source, sweep_id};

use super::paging::{MOST_PAGES, Next, Paging, pages_of};
use super::schedule::End;
use super::sweep::{Asked, Collector, Halt, Sweep};
use super::{CollectError, CollectStats};

/// About so many rows are in a window: 100 pages. A stop costs what was read of one.
const WINDOW_ROWS: f64 = 5_000.0;

/// How often a device reports, where the archive does not know: a guess that sizes windows, and nothing else.
const REPORTS_PER_HOUR: f64 = 30.0;

/// How many devices a fleet has, where the archive does not know: another such guess.
const UNKNOWN_FLEET: u64 = 500;

/// Windows that are read side by side: the pages of one follow each other.
const WINDOWS_AT_ONCE: usize = 8;

/// So many where there is not the time for all: what was read of a window that was not read to its end is asked again.
const AT_ONCE_IN_TIME: usize = 2;

/// With a deadline, windows are made so small that at least this many of them fit into it.
const LEAST_IN_TIME: f64 = 4.0;

/// A window that Cloudflare forgets while it is read is begun so often.
const MOST_READINGS: usize = 4;

/// Averages are of whole hours.
const HOUR: TimeDelta = TimeDelta::hours(1);

/// What Cloudflare is about to forget is not asked for.
const MARGIN: TimeDelta = TimeDelta::minutes(5);

/// What was received is published at the latest when so many bytes of it wait.
const PUBLISH_BYTES: usize = 256 << 20;

/// A stretch of the history: of all devices, or of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch {
    /// Its first moment.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// Whose; none for all.
    pub device: Option<DeviceId>,
}

/// What a backfill will ask.
#[derive(Debug, Clone, PartialEq)]
pub struct BackfillPlan {
    /// In which of its resolutions: raw or hourly.
    pub source: Source,
    /// What is asked, in this order; made as the oldest first, which is forgotten first.
    pub windows: Vec<Stretch>,
    requests: u64,
    budget: Budget,
    at_once: usize,
}

/// What a backfill did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BackfillStats {
    /// Windows that were read to their end.
    pub windows_done: u64,
    /// Windows that were not; the next backfill asks for them again.
    pub windows_left: u64,
    /// Windows that Cloudflare forgot before they could be asked for.
    pub windows_forgotten: u64,
    /// What was asked, and what came of it.
    #[serde(flatten)]
    pub asked: CollectStats,
}

impl BackfillPlan {
    /// Cuts stretches into windows that hold about 5,000 rows each, by the number of devices, where that is
    /// known, or fewer, so that several can be read to their end in the time that there is. What lies farther back
    /// than Cloudflare's history reaches is left out. Of averages, whole hours that are over are asked for.
    #[must_use]
    pub fn new(
        source: Source,
        stretches: Vec<Stretch>,
        devices: Option<u64>,
        budget: Budget,
        now: Timestamp,
        time: Option<Duration>,
    ) -> Self {
        let at_once = if time.is_some() { AT_ONCE_IN_TIME } else { WINDOWS_AT_ONCE };
        let mut plan = Self { source, windows: Vec::new(), requests: 0, budget, at_once };
        let rows = time.map_or(WINDOW_ROWS, |time| rows_in(time, budget));
        for mut stretch in stretches {
            stretch.from = stretch.from.max(now - HISTORY + MARGIN);
            stretch.to = stretch.to.min(now);
            if source == Source::Hourly {
                stretch.from = clock::floor(stretch.from, HOUR);
                if stretch.from < now - HISTORY + MARGIN {
                    stretch.from += HOUR;
                }
                stretch.to = clock::floor(stretch.to.min(now - SETTLE), HOUR);
            }
            plan.cut(&stretch, devices.unwrap_or(UNKNOWN_FLEET).max(1), rows, now - SETTLE);
        }
        plan.windows.sort();
        plan
    }

    /// What may still change is in windows of its own.
    fn cut(&mut self, stretch: &Stretch, devices: u64, rows: f64, settled: Timestamp) {
        let devices = if stretch.device.is_some() { 1 } else { devices };
        let rows_per_hour = rows_per_hour(self.source, devices);
        let hours = (rows / rows_per_hour).clamp(1.0 / 60.0, 24.0);
        let minutes = if self.source == Source::Hourly { hours.ceil() * 60.0 } else { (hours * 60.0).floor() };
        #[expect(clippy::cast_possible_truncation, reason = "between a minute and a day")]
        let length = TimeDelta::minutes(minutes as i64);
        let mut from = stretch.from;
        while from < stretch.to {
            // Windows of a later run have the same edges.
            let to = (clock::floor(from, length) + length).min(stretch.to);
            let to = if from < settled { to.min(settled) } else { to };
            self.requests += pages_of(estimate(rows_per_hour * hours_of(to - from)));
            self.windows.push(Stretch { from, to, device: stretch.device.clone() });
            from = to;
        }
    }
}

fn rows_per_hour(source: Source, devices: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let devices = devices as f64;
    if source == Source::Hourly { devices } else { devices * REPORTS_PER_HOUR }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn hours_of(time: TimeDelta) -> f64 {
    time.num_seconds() as f64 / 3_600.0
}

/// Rows, as a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
fn estimate(rows: f64) -> u64 {
    rows as u64
}

/// Rows in a window, of which some are to be read in a time.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn rows_in(time: Duration, budget: Budget) -> f64 {
    let rows = |requests: u64| requests as f64 / LEAST_IN_TIME * PAGE_ROWS as f64;
    budget.requests_in(time).map_or(WINDOW_ROWS, rows).clamp(PAGE_ROWS as f64, WINDOW_ROWS)
}

/// One line: from when to when, and whose.
impl fmt::Display for Stretch {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let (from, to) = (clock::format_timestamp(self.from), clock::format_timestamp(self.to));
        match &self.device {
            Some(device) => write!(formatter, "{from} {to} {device}"),
            None => write!(formatter, "{from} {to}"),
        }
    }
}

/// One line: windows, requests, time.
impl fmt::Display for BackfillPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let bounds =
            (self.windows.iter().map(|window| window.from).min(), self.windows.iter().map(|window| window.to).max());
        let (Some(first), Some(last)) = bounds else {
            let else_what = if self.source == Source::Hourly { ", or no whole hour of it is over" } else { "" };
            return write!(formatter, "nothing to ask: all of it was read before{else_what}");
        };
        let time = self.budget.time_for(self.requests);
        write!(
            formatter,
            "{} windows of {} history between {} and {}; about {} requests, {}{}",
            self.windows.len(),
            self.source.as_str(),
            clock::format_timestamp(first),
            clock::format_timestamp(last),
            self.requests,
            clock::format_duration(clock::whole_seconds(time)),
            if TimeDelta::from_std(time).is_ok_and(|time| time < HISTORY) {
                ""
            } else {
                ", longer than Cloudflare remembers: averages (--resolution hourly) or fewer days (--since) take less"
            },
        )
    }
}

/// How far a window was read.
enum Read {
    ToItsEnd,
    /// The next backfill asks for it again.
    InPart,
    /// Not at all: while others were read, Cloudflare forgot it.
    Forgotten,
    /// While it was read, Cloudflare began to forget it: of what was left, rows may have been passed over.
    Overtaken,
}

/// A backfill under way.
struct Backfill {
    sweep: RefCell<Sweep>,
    /// Bytes received since the last publish.
    unpublished: Cell<usize>,
}

impl Collector<'_> {
    /// Reads windows of the history and publishes what they bring: what was done, and why it came to no end. `deadline`
    /// is how long it may take; `number` tells backfills of one second apart.
    ///
    /// Windows that could not be read to their end are left to the next backfill.
    pub async fn backfill(
        &mut self,
        plan: &BackfillPlan,
        deadline: Option<Duration>,
        number: u16,
    ) -> (BackfillStats, Option<CollectError>) {
        let before = self.mark();
        let days: BTreeSet<_> = plan.windows.iter().map(|window| window.from.date_naive()).collect();
        let publish = self.publish_took.saturating_mul(u32::try_from(days.len()).unwrap_or(u32::MAX).max(1));
        let end = End::new(self.stop.clone(), deadline, publish);
        let mut sweep = Sweep::new(sweep_id(self.clock.now(), number), end);
        let has_room = self.has_room(&mut sweep.stats).await;
        let backfill = Backfill { sweep: RefCell::new(sweep), unpublished: Cell::new(0) };
        self.progress.start("windows", Some(plan.windows.len() as u64));
        let mut stats = BackfillStats::default();
        let asked =
            if has_room { self.read_windows(plan, &backfill, number, &mut stats).await } else { Err(Halt::Journal) };
        self.progress.finish();
        let took = before.at.elapsed();
        // A sweep's publish is of fewer days: how long that takes, this one does not say.
        let of_a_sweep = self.publish_took;
        let published = self.publish_timed(None).await;
        self.publish_took = of_a_sweep;
        let asked = Asked { sweep: backfill.sweep.into_inner(), came_to: asked, before, took };
        let (asked, failed) = self.conclude(asked, Some(published));
        let windows_left = plan.windows.len() as u64 - stats.windows_done - stats.windows_forgotten;
        (BackfillStats { windows_left, asked, ..stats }, failed)
    }

    async fn read_windows(
        &self,
        plan: &BackfillPlan,
        backfill: &Backfill,
        number: u16,
        stats: &mut BackfillStats,
    ) -> Result<(), Halt> {
        let end = Arc::clone(&backfill.sweep.borrow().end);
        let mut halted = Ok(());
        // Each window has a name of its own: pages of two may be asked for in one moment.
        let numbers = std::iter::successors(Some(number), |number| Some(number.wrapping_add(1)));
        let numbered = plan.windows.iter().zip(numbers.skip(1));
        let reading = futures_util::stream::iter(numbered)
            .take_until(end.reached())
            .map(|(window, number)| self.read_window(plan.source, window, number, backfill))
            .buffer_unordered(plan.at_once);
        let mut reading = std::pin::pin!(reading);
        while let Some(read) = reading.next().await {
            self.progress.advance(1);
            match read {
                Ok(Read::ToItsEnd) => stats.windows_done += 1,
                Ok(Read::Forgotten) => stats.windows_forgotten += 1,
                Ok(Read::InPart | Read::Overtaken) => (),
                Err(halt) => {
                    // Those under way are still waited for.
                    end.halt();
                    halted = halted.and(Err(halt));
                }
            }
        }
        halted
    }

    /// Reads a window; says how far. Where Cloudflare begins to forget it meanwhile, the rest is read once more, with
    /// more and more time until it begins to forget that.
    async fn read_window(
        &self,
        source: Source,
        window: &Stretch,
        number: u16,
        backfill: &Backfill,
    ) -> Result<Read, Halt> {
        let (mut from, mut read) = (window.from, Read::Forgotten);
        let mut margin = MARGIN;
        for _ in 0..MOST_READINGS {
            let now = self.clock.now();
            from = from.max(now - HISTORY);
            if from >= window.to {
                break;
            }
            let listing = Listing { source, from, to: window.to };
            read = self.read_listing(&listing, window.device.as_ref(), (now, number), backfill).await?;
            if !matches!(read, Read::Overtaken) {
                break;
            }
            let ended = self.clock.now();
            from = ended - HISTORY + margin;
            // What did not suffice is made up for; a reading that takes longer than all that needs its own time.
            margin = (margin * 2).max(ended - now);
            if source == Source::Hourly {
                from = clock::floor(from, HOUR) + HOUR;
            }
        }
        Ok(read)
    }

    /// Reads a list page by page; says how far. It has a name of its own, by when it is begun and by a number.
    async fn read_listing(
        &self,
        listing: &Listing,
        device: Option<&DeviceId>,
        (now, number): (Timestamp, u16),
        backfill: &Backfill,
    ) -> Result<Read, Halt> {
        let end = Arc::clone(&backfill.sweep.borrow().end);
        let is_settled = listing.to + SETTLE <= now;
        let id = sweep_id(now, number);
        let (mut paging, mut is_whole, mut page) = (Paging::settled(is_settled), true, 1);
        while page < MOST_PAGES {
            let permit = tokio::select! {
                permit = self.client.permit() => permit,
                () = end.reached() => return Ok(Read::InPart),
            };
            let asked = Page { listing, device, number: page };
            let mut exchange = self.client.list(permit, &id, asked, end.drained()).await;
            let is_cut_off = exchange.failure == Some(Failure::CutOff);
            let (next, noted) = {
                let mut sweep = backfill.sweep.borrow_mut();
                let shown = sweep.see(&exchange.answer);
                let next = paging.take(&mut exchange, shown);
                exchange.heed_clock();
                (next, if is_cut_off { Ok(()) } else { sweep.note(&exchange, &self.policy) })
            };
            let bytes: usize = exchange.answer.bodies.iter().map(|body| body.bytes.len()).sum();
            // What stands on the pages behind one that failed may be gone when it can be read at last.
            // Nor can anybody tell what is there at the end of a time that is none yet.
            is_whole &= exchange.failure.is_none() && exchange.clock_off.is_none();
            self.write(exchange.answer).await?;
            noted.map_err(Halt::Failed)?;
            self.publish_some(backfill, bytes).await?;
            if backfill.sweep.borrow().has_wrong_clock() {
                return Err(Halt::Failed(CollectError::WrongClock));
            }
            match next {
                // What is forgotten moves the rest of the list to pages that were read already.
                _ if page > 1 && listing.from < self.clock.now() - HISTORY => return Ok(Read::Overtaken),
                Next::Again => (),
                Next::Back => page -= 1,
                _ if is_cut_off => return Ok(Read::InPart),
                Next::GiveUp(_) => return Ok(Read::InPart),
                Next::Read => page += 1,
                Next::End => return Ok(if is_whole { Read::ToItsEnd } else { Read::InPart }),
            }
        }
        Ok(Read::InPart)
    }

    /// Publishes what waits once that is much: the journal is no place for a week.
    async fn publish_some(&self, backfill: &Backfill, bytes: usize) -> Result<(), Halt> {
        backfill.unpublished.set(backfill.unpublished.get() + bytes);
        if backfill.unpublished.get() < PUBLISH_BYTES {
            return Ok(());
        }
        backfill.unpublished.set(0);
        let report = self.publish(None).await.map_err(Halt::Failed)?;
        backfill.sweep.borrow_mut().stats.take(report).map_err(|fault| Halt::Failed(fault.into()))
    }
}
