//! Sweeps over the fleet: what is asked, in which order, and what came of it.
//!
//! A sweep reads the list, asks for single devices where the plan says so, and publishes; a backfill reads what the
//! list still knows of days past. Answers go to the writer's thread as they come, and are journalled there before
//! anything else happens to them. Pacing and retries are the client's business, rows and files the ingest's.

mod backfill;
mod paging;
mod plan;
mod schedule;
mod sweep;
mod writer;

use std::time::Duration;

use serde::Serialize;

use crate::api::MOST_CLOCK_AHEAD;
use crate::clock::Moment;
use crate::ingest::{Held, IngestError, PublishRule};
use crate::snapshot::{DeviceId, Endpoint};

pub use backfill::{BackfillPlan, BackfillStats, Stretch};
pub use plan::{Plan, SourceChoice};
pub use schedule::{Stop, StopSwitch, stop_pair};
pub use sweep::{Collector, Resume};

/// What is collected, and how.
#[derive(Debug, Clone)]
pub struct CollectOptions {
    /// Where states are taken from.
    pub source: SourceChoice,
    /// The devices to ask for; none for all that the list shows.
    pub devices: Vec<DeviceId>,
    /// How far back a state may lie, in minutes (1 to 60).
    pub since_minutes: u32,
    /// How long until the next sweep: the budget of a sweep is that of this time.
    pub interval: Duration,
    /// How long a sweep may take; what it could not ask, the next one asks first.
    pub deadline: Option<Duration>,
    /// When what was received is published.
    pub publish: PublishRule,
}

/// What a sweep did. Its JSON is the `--summary-json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CollectStats {
    /// Name of the sweep; it stands in every row.
    pub sweep_id: String,
    /// Devices that were seen or asked for.
    pub devices: u64,
    /// States that are new to the archive.
    pub states_new: u64,
    /// States that the archive had already.
    pub states_unchanged: u64,
    /// Devices that there was no time to ask for; the next sweep asks for them first.
    pub devices_unasked: u64,
    /// Whether there was no time to read the list to its end; the next sweep goes on where this one ended.
    pub list_cut: bool,
    /// Devices without a state in the window.
    pub devices_absent: u64,
    /// Requests that failed for good.
    pub requests_failed: u64,
    /// Bodies that were no device state.
    pub bodies_quarantined: u64,
    /// Stretches of the journal that could not be read back.
    pub journal_gaps: u64,
    /// Requests sent, retries included.
    pub requests_sent: u64,
    /// Seconds for which the API kept everything waiting.
    pub throttled_s: f64,
    /// Rows in the parts that were published.
    pub rows_published: u64,
    /// Bytes of the parts that were published.
    pub bytes_published: u64,
    /// Values that no column could hold.
    pub values_unmapped: u64,
    /// Seconds from first to last.
    pub elapsed_s: f64,
    /// Whether it ended before all was asked.
    pub stopped: bool,
    /// Seconds by which this machine's clock is ahead of the API's, where that says what time it is.
    pub clock_ahead_s: Option<f64>,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// Parts that were found damaged and are kept in the quarantine.
    pub damaged: Vec<String>,
    /// Why something is still in the journal; the next publish tries again.
    pub held: Vec<Held>,
    /// Whether that is for want of the object store.
    #[serde(skip)]
    pub is_away: bool,
    /// Bytes in the journal that wait for a publish.
    pub waiting_bytes: u64,
    /// When the first of them was received.
    pub waiting_since: Option<Moment>,
}

/// Why a sweep did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The API does not let us in. Asking on would only use up the limit.
    #[error(
        "the API refused the {} endpoint ({reason}): see whether the token is the right one and still valid; it needs one of the \
         permissions Cloudflare DEX Read, Cloudflare DEX Write, Zero Trust Read, Zero Trust Report, for this account",
        .endpoint.as_str()
    )]
    Denied {
        /// Where.
        endpoint: Endpoint,
        /// In the API's words.
        reason: String,
    },
    /// No page of the list could be read.
    #[error("the list of devices cannot be read: {0}")]
    Discovery(String),
    /// Nothing answers any more.
    #[error("the API cannot be reached: {0}")]
    Unreachable(String),
    /// What is asked of the history is of the time that the clock shows.
    #[error(
        "this machine's clock is wrong, and so is what would be asked of the history: set it by NTP, and start again"
    )]
    WrongClock,
    /// The writer has ended, which it does only when it is told to.
    #[error("the writer of the archive has ended: start again; what it journalled is published then")]
    Ended,
    /// The archive or its journal.
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

/// Who is told how far a sweep is. All of it may be called at any time, also never.
pub trait Progress: Send + Sync {
    /// What is about to be done, in a line.
    fn plan(&self, line: &str);
    /// A stretch begins: so many requests, where that is known.
    fn start(&self, what: &'static str, requests: Option<u64>);
    /// So many requests are done.
    fn advance(&self, requests: u64);
    /// The stretch has ended.
    fn finish(&self);
}

impl CollectStats {
    /// Whether anything failed that should not have.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.requests_failed > 0 || self.has_publish_failures() || self.has_wrong_clock()
    }

    /// Whether the list was read, devices were asked, and no request failed. That there was no time for some of the devices
    /// is no fault: the next sweep begins with them.
    #[must_use]
    pub fn has_gone_well(&self) -> bool {
        let asked_nobody = self.devices > 0 && self.devices_unasked >= self.devices;
        self.requests_failed == 0 && !self.list_cut && !asked_nobody && !self.has_wrong_clock()
    }

    /// Whether what was published was not all that was received, or not all that was there.
    #[must_use]
    pub fn has_publish_failures(&self) -> bool {
        self.bodies_quarantined > 0 || self.journal_gaps > 0 || !self.damaged.is_empty()
    }

    /// Adds what another sweep did at the same time.
    pub fn merge(&mut self, other: Self) {
        // Every field by its name: one that is added is asked about here.
        let Self {
            sweep_id: _,
            devices,
            states_new,
            states_unchanged,
            devices_unasked,
            devices_absent,
            requests_failed,
            bodies_quarantined,
            journal_gaps,
            requests_sent,
            throttled_s,
            rows_published,
            bytes_published,
            values_unmapped,
            elapsed_s,
            stopped,
            list_cut,
            clock_ahead_s,
            failures,
            damaged,
            held,
            is_away,
            waiting_bytes,
            waiting_since,
        } = other;
        self.devices += devices;
        self.states_new += states_new;
        self.states_unchanged += states_unchanged;
        self.devices_unasked += devices_unasked;
        self.devices_absent += devices_absent;
        self.requests_failed += requests_failed;
        self.bodies_quarantined += bodies_quarantined;
        self.journal_gaps += journal_gaps;
        self.requests_sent += requests_sent;
        self.throttled_s = self.throttled_s.max(throttled_s);
        self.rows_published += rows_published;
        self.bytes_published += bytes_published;
        self.values_unmapped += values_unmapped;
        self.elapsed_s = self.elapsed_s.max(elapsed_s);
        self.stopped |= stopped;
        self.list_cut |= list_cut;
        self.clock_ahead_s = self.clock_ahead_s.or(clock_ahead_s);
        self.failures.extend(failures);
        self.damaged.extend(damaged);
        self.held.extend(held);
        self.is_away |= is_away;
        self.waiting_bytes += waiting_bytes;
        self.waiting_since = self.waiting_since.or(waiting_since);
    }

    /// Whether the clock here is wrong: what was asked for is not what was meant.
    #[must_use]
    pub fn has_wrong_clock(&self) -> bool {
        self.clock_ahead_s.is_some_and(|ahead| ahead.abs() > MOST_CLOCK_AHEAD.as_seconds_f64())
    }

    /// Takes in what was published. An error where the journal failed before, which a publish may have mended.
    fn take(&mut self, report: writer::Report) -> Result<(), IngestError> {
        let writer::Report { published, waiting, fault, .. } = report;
        self.waiting_bytes = waiting.map_or(0, |waiting| waiting.bytes);
        self.waiting_since = waiting.map(|waiting| Moment(waiting.since));
        self.states_new += published.states_new;
        self.states_unchanged += published.states_known;
        self.bodies_quarantined += published.quarantined;
        self.rows_published += published.rows;
        self.bytes_published += published.bytes;
        self.values_unmapped += published.drift.values().sum::<u64>();
        self.journal_gaps += published.gaps;
        self.damaged.extend(published.damaged);
        self.held.extend(published.held);
        self.is_away = published.is_away;
        fault.map_or(Ok(()), Err)
    }
}
