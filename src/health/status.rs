//! What the archive says of how the collecting goes.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use serde::Serialize;

use crate::archive::{Archive, KeyMark};
use crate::clock::{self, Moment, Timestamp, Zone};
use crate::disk;
use crate::journal::{self, Segment};
use crate::query::{
    Coverage, Days, GapsOptions, QueryError, SweepSummary, Unexpected, Window, coverage, devices_seen, first_sweeps,
    holes, last_sweeps, unexpected,
};
use crate::schema::Schema;
use crate::snapshot::HISTORY;

use super::collectors::{CollectorKey, Newest, collectors};
use super::{Check, Level};

/// Segments of a journal that are looked into: a sweep is in the last ones.
const LAST_SEGMENTS: usize = 4;

/// Of the time before Cloudflare's history, so many days tell which accounts there were.
const KNOWN_DAYS: usize = 2;

/// The days by which growth is measured.
const GROWTH_DAYS: usize = 7;

/// What is asked of an archive.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    /// When it is asked.
    pub now: Timestamp,
    /// A sweep that is older is too old.
    pub max_age: Duration,
    /// A state of each device is expected in each interval of this length: of so much of the history at most.
    pub expect: Duration,
    /// For so long, what is journalled waits as it should; for twice that, something is wrong.
    pub longest_wait: Duration,
    /// The accounts that are to be collected, as far as anybody said, and what each is called.
    pub accounts: BTreeMap<String, String>,
}

/// How the collecting goes.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The newest pass over the fleet, of each account and, where collectors divide the fleet, of each shard.
    pub last_sweeps: Vec<Sweep>,
    /// Accounts that were collected before, or are to be, and have neither a pass of the last 7 days nor one that waits.
    pub silent_accounts: Vec<String>,
    /// Shards of accounts whose other shards are collected, with neither either.
    pub silent_shards: Vec<SilentShard>,
    #[serde(skip)]
    unpublished: Vec<Unpublished>,
    /// Intervals of the last day in which a state was expected.
    pub expected: u64,
    /// Those that have one.
    pub present: u64,
    /// Those in which nobody asked, or the asking failed.
    pub missed: u64,
    /// States of the last day.
    pub states: u64,
    /// Those that hold something that no column has.
    pub states_unmapped: u64,
    /// Those without a time that can be read.
    pub states_timeless: u64,
    /// Accounts of which the last pass brought nothing, nor any before it in the last 7 days.
    pub empty_accounts: Vec<String>,
    /// Bytes in the journal that are yet to be published.
    pub pending_bytes: u64,
    /// Segments of it that cannot be read.
    pub pending_unreadable: u64,
    /// Since when the oldest of them wait.
    pub pending_since: Option<Moment>,
    /// When the newest of them was received, of each account.
    pub pending_newest: BTreeMap<String, Moment>,
    /// Days with device states.
    pub days: u64,
    /// Bytes of the datasets.
    pub bytes: u64,
    /// Bytes a day, of the last whole days.
    pub bytes_per_day: Option<u64>,
    /// Bytes that are free on the archive's disk.
    pub free_bytes: Option<u64>,
    /// Days until that is used up.
    pub days_until_full: Option<f64>,
    /// The beginning of the oldest stretch that was missed and that Cloudflare still has.
    pub oldest_gap: Option<Moment>,
    /// Days until it no longer has.
    pub oldest_gap_days_left: Option<f64>,
    /// The beginning of the oldest stretch from before the collecting began that Cloudflare still has.
    pub before_first: Option<Moment>,
    /// Parts of which rows could not be read.
    #[serde(serialize_with = "as_texts")]
    pub damaged: Vec<PathBuf>,
    /// The keys that pseudonyms were made with, the last one last.
    pub pseudonym_keys: Vec<KeyMark>,
    /// The number of shards that its days are being filed into.
    pub resharding: Option<u32>,
    /// What all of that says: how good or bad it is, and what to do about it.
    pub checks: Vec<Check>,
}

/// A shard that nobody collects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SilentShard {
    /// The account.
    pub account_id: String,
    /// Which shard, of how many: `3/8`.
    pub shard: String,
}

/// A collector of which everything waits in the journal.
#[derive(Debug, Clone)]
struct Unpublished {
    account_id: String,
    shard: Option<String>,
    /// When the newest of it was received.
    newest: Timestamp,
}

/// A pass over the fleet.
#[derive(Debug, Clone, Serialize)]
pub struct Sweep {
    /// The account.
    pub account_id: String,
    /// Its name.
    pub sweep_id: String,
    /// When its last request was sent.
    pub ended: Moment,
    /// How many there were.
    pub requests: u64,
    /// How many of them failed.
    pub failed: u64,
    /// States in the answers.
    pub states: u64,
    /// The only shard whose devices it kept, of how many: `3/8`.
    pub shard: Option<String>,
    /// When the newest answer was received that waits in the journal, and may be of a newer pass.
    pub waiting: Option<Moment>,
}

impl Status {
    /// Reads it from the archive.
    ///
    /// # Errors
    /// Where the archive cannot be read.
    pub fn read(archive: &Archive, options: &StatusOptions) -> Result<Self, QueryError> {
        let (days, now) = (Days::new(archive, true), options.now);
        let back = |time: TimeDelta| Window { since: now - time, until: now };
        // An account that stopped days ago is to be told as well.
        let sweeps = last_sweeps(&days, back(HISTORY))?;
        let known = known(archive, &days, now)?;
        let began = began(&days, now, &known)?;
        archive.check_state()?;
        let pending = Pending::read(archive);
        let until = known_but_for(pending.since, options.longest_wait, now);
        let covered = Covered::read(&days, options, until, &sweeps, &began)?;
        let Unexpected { states, unmapped: states_unmapped, timeless: states_timeless } =
            unexpected(&days, back(TimeDelta::days(1)))?;
        let empty = empty_accounts(&days, &sweeps, now)?;
        let newest_by_account = pending.newest_by_account();
        let Pending { bytes: pending_bytes, unreadable: pending_unreadable, since: pending_since, newest } = pending;
        let expected = known.iter().chain(options.accounts.keys());
        let is_silent = |account: &&String| {
            !sweeps.iter().any(|sweep| sweep.account_id == **account) && !newest_by_account.contains_key(*account)
        };
        let silent: BTreeSet<&String> = expected.filter(is_silent).collect();
        let collectors = collectors(&sweeps, &newest, archive.shards(), (now, options.max_age));
        let Passes { last_sweeps, unpublished, silent_shards } = Passes::of(collectors);
        let Size { days: day_count, bytes, bytes_per_day } = Size::of(archive, now)?;
        let free_bytes = disk::free_bytes(archive.state_dir());
        let mut status = Self {
            silent_accounts: silent.into_iter().cloned().collect(),
            silent_shards,
            last_sweeps,
            unpublished,
            expected: covered.last_day.expected,
            present: covered.last_day.present,
            missed: covered.last_day.missed,
            states,
            states_unmapped,
            states_timeless,
            empty_accounts: empty.into_iter().collect(),
            pending_bytes,
            pending_unreadable,
            pending_since: pending_since.map(Moment),
            pending_newest: newest_by_account,
            days: day_count,
            bytes,
            bytes_per_day,
            free_bytes,
            days_until_full: free_bytes
                .zip(bytes_per_day)
                .filter(|_| archive.is_on_disk())
                .map(|(free, growth)| ratio(free, growth.max(1))),
            oldest_gap: covered.oldest_gap.map(Moment),
            oldest_gap_days_left: covered.oldest_gap.map(|since| days_of(since + HISTORY - now)),
            before_first: covered.before_first.map(Moment),
            damaged: days.skipped(),
            pseudonym_keys: archive.pseudonym_keys().to_vec(),
            resharding: archive.is_resharding().then(|| archive.shards()),
            checks: Vec::new(),
        };
        status.checks = status.judged(options);
        Ok(status)
    }

    /// Whether somebody should do something.
    #[must_use]
    pub fn is_poor(&self) -> bool {
        self.checks.iter().any(|check| check.level == Level::Poor)
    }
}

impl Sweep {
    fn new(sweep: SweepSummary, waiting: Option<Timestamp>) -> Self {
        let SweepSummary { account_id, sweep_id, ended, requests, failed, states, shard, .. } = sweep;
        let (ended, waiting) = (Moment(ended), waiting.map(Moment));
        Self { account_id, sweep_id, ended, requests, failed, states, shard, waiting }
    }
}

/// The accounts that were collected before the history that Cloudflare has: on the last days of that time that are there.
fn known(archive: &Archive, days: &Days, now: Timestamp) -> Result<BTreeSet<String>, QueryError> {
    let until = now - HISTORY;
    let before = archive.partitions(&Schema::poll())?.into_iter().rev().filter(|day| day.date <= until.date_naive());
    let Some(first) = before.take(KNOWN_DAYS).last() else { return Ok(BTreeSet::new()) };
    let window = Window { since: clock::midnight(first.date, Zone::UTC).unwrap_or(until), until };
    if window.check().is_err() {
        return Ok(BTreeSet::new());
    }
    Ok(first_sweeps(days, window)?.into_iter().map(|sweep| sweep.account_id).collect())
}

/// When the first request for each account was made, of those that are new within the history.
fn began(days: &Days, now: Timestamp, known: &BTreeSet<String>) -> Result<BTreeMap<String, Timestamp>, QueryError> {
    let first = first_sweeps(days, Window { since: now - HISTORY, until: now })?.into_iter();
    let new = first.filter(|sweep| !known.contains(&sweep.account_id));
    Ok(new.map(|sweep| (sweep.account_id, sweep.began)).collect())
}

/// The first whole interval at or after a time.
fn next_whole(at: Timestamp, every: Duration) -> Timestamp {
    let every = TimeDelta::from_std(every).unwrap_or(TimeDelta::MAX);
    let last = clock::floor(at, every);
    if last < at { last.checked_add_signed(every).unwrap_or(at) } else { at }
}

/// What is there of the states that were expected, of all accounts.
struct Covered {
    /// In the intervals of the last day.
    last_day: Coverage,
    /// Of what was missed and is in the history still, where the oldest begins.
    oldest_gap: Option<Timestamp>,
    /// Of what is from before the collecting began, and is in the history still, where the oldest begins.
    before_first: Option<Timestamp>,
}

impl Covered {
    /// What was asked is known up to `until`. `began` has the accounts whose collecting began within the history, and when
    /// it did.
    fn read(
        days: &Days,
        options: &StatusOptions,
        until: Timestamp,
        sweeps: &[SweepSummary],
        began: &BTreeMap<String, Timestamp>,
    ) -> Result<Self, QueryError> {
        let now = options.now;
        let question = |window| GapsOptions {
            devices: None,
            window,
            every: options.expect,
            zone: Zone::UTC,
            now,
            known_until: until,
        };
        let mut last_day = Coverage::default();
        let (mut oldest_gap, mut before_first): (Option<Timestamp>, Option<Timestamp>) = (None, None);
        let expect = TimeDelta::from_std(options.expect).unwrap_or(HISTORY).min(HISTORY);
        let window = Window { since: now - (HISTORY - expect), until: now };
        // Of an account that is new the first interval is not over, and of one of which something waits the last: what is in
        // it may be all that is known.
        let is_all_seen = began.is_empty() && until == now || window.check().is_err();
        let seen = if is_all_seen { BTreeSet::new() } else { devices_seen(days, window)? };
        for account in sweeps.iter().map(|sweep| &sweep.account_id).collect::<BTreeSet<_>>() {
            // Before the collecting began there was nothing to miss; the interval in which it did is not counted.
            let first = began.get(account).map(|began| next_whole(*began, options.expect));
            let since = |earliest: Timestamp| first.map_or(earliest, |first| first.max(earliest));
            let day = Window { since: since(now - TimeDelta::days(1)), until: now };
            let own = coverage(days, &question(day), account)?;
            last_day.expected += own.expected;
            last_day.present += own.present;
            last_day.missed += own.missed;
            let found = match window.check() {
                Ok(()) => {
                    let is_its = |(own, _): &&(String, String)| own == account && (first.is_some() || until < now);
                    let devices: Vec<String> = seen.iter().filter(is_its).map(|(_, device)| device.clone()).collect();
                    holes(days, &question(window), account, &devices)?
                }
                Err(_) => Vec::new(),
            };
            let missed = found.iter().map(|hole| (hole.window.since.max(window.since), hole.window.until));
            // A hole may go on from before the collecting began.
            let counted_from = since(window.since);
            for (since, until) in missed {
                before_first = before_first.into_iter().chain((since < counted_from).then_some(since)).min();
                oldest_gap =
                    oldest_gap.into_iter().chain((until > counted_from).then(|| since.max(counted_from))).min();
            }
        }
        Ok(Self { last_day, oldest_gap, before_first })
    }
}

/// The accounts of which the last sweep brought nothing, although requests were answered, nor any before it that the
/// history reaches back to.
fn empty_accounts(days: &Days, sweeps: &[SweepSummary], now: Timestamp) -> Result<BTreeSet<String>, QueryError> {
    let is_empty = |sweep: &&SweepSummary| sweep.states == 0 && sweep.failed < sweep.requests;
    let mut empty: BTreeSet<String> = sweeps.iter().filter(is_empty).map(|sweep| sweep.account_id.clone()).collect();
    if !empty.is_empty() {
        let seen = devices_seen(days, Window { since: now - HISTORY, until: now })?;
        empty.retain(|account| seen.iter().all(|(own, _)| own != account));
    }
    Ok(empty)
}

/// What waits in the journals. What of it cannot be read is `verify`'s to say.
#[derive(Default)]
struct Pending {
    bytes: u64,
    /// Segments that nobody can read, up to the first that can be.
    unreadable: u64,
    since: Option<Timestamp>,
    /// By account and shard, as far as the last segments tell.
    newest: BTreeMap<(String, Option<String>), Timestamp>,
}

/// Until when the archive knows what was asked for: what was received since then waits in the journals, as it should.
#[must_use]
pub fn known_until(archive: &Archive, longest_wait: Duration, now: Timestamp) -> Timestamp {
    let first = |journal: PathBuf| journal::first_received(&journal::segments(&journal).ok()?);
    // Those of another archive say nothing of this one.
    let journals = if archive.check_state().is_ok() { archive.journals() } else { Vec::new() };
    let since = journals.into_iter().filter_map(first).min();
    known_but_for(since, longest_wait, now)
}

/// Until when it is known what was asked for, where something waits since then. Of what waits longer than it should,
/// nobody knows why.
fn known_but_for(since: Option<Timestamp>, longest_wait: Duration, now: Timestamp) -> Timestamp {
    let longest = TimeDelta::from_std(2 * longest_wait).unwrap_or(HISTORY);
    since.filter(|since| *since <= now && now - *since <= longest).unwrap_or(now)
}

impl Pending {
    fn newest_by_account(&self) -> BTreeMap<String, Moment> {
        let mut newest: BTreeMap<String, Moment> = BTreeMap::new();
        for ((account, _), at) in &self.newest {
            let known = newest.entry(account.clone()).or_insert(Moment(*at));
            *known = Moment(*at).max(*known);
        }
        newest
    }

    fn read(archive: &Archive) -> Self {
        let mut pending = Self::default();
        for journal in archive.journals() {
            let Ok(segments) = journal::segments(&journal) else { continue };
            let files = segments.iter().filter_map(|(_, path)| path.metadata().ok());
            pending.bytes += files.map(|file| file.len()).sum::<u64>();
            let mut received = segments.iter().filter_map(|(_, path)| match Segment::read(path) {
                Ok(segment) => segment.first_received(),
                // It was published meanwhile.
                Err(_) if !path.exists() => None,
                Err(_) => {
                    pending.unreadable += 1;
                    None
                }
            });
            let Some(since) = received.next() else { continue };
            pending.since = Some(pending.since.map_or(since, |other| other.min(since)));
            let last = segments.iter().rev().take(LAST_SEGMENTS).filter_map(|(_, path)| Segment::read(path).ok());
            for (collector, at) in last.flat_map(|segment| segment.newest_by_collector()) {
                let newest = pending.newest.entry(collector).or_insert(at);
                *newest = at.max(*newest);
            }
        }
        pending
    }
}

/// Paths whose names are no text are told as far as they are.
fn as_texts<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

/// What was heard last of each collector that there is to be.
#[derive(Default)]
struct Passes {
    last_sweeps: Vec<Sweep>,
    unpublished: Vec<Unpublished>,
    silent_shards: Vec<SilentShard>,
}

impl Passes {
    fn of(collectors: BTreeMap<CollectorKey, Newest>) -> Self {
        let mut passes = Self::default();
        for ((account_id, shard), Newest { sweep, waiting }) in collectors {
            match (sweep, waiting) {
                (Some(sweep), waiting) => passes.last_sweeps.push(Sweep::new(sweep, waiting)),
                (None, Some(newest)) => passes.unpublished.push(Unpublished { account_id, shard, newest }),
                (None, None) => {
                    passes.silent_shards.push(SilentShard { account_id, shard: shard.unwrap_or_default() });
                }
            }
        }
        passes
    }
}

/// How large an archive is.
struct Size {
    /// Days with device states.
    days: u64,
    /// Of all datasets.
    bytes: u64,
    /// Of the last whole days.
    bytes_per_day: Option<u64>,
}

impl Size {
    fn of(archive: &Archive, now: Timestamp) -> Result<Self, QueryError> {
        let today = now.date_naive();
        let (mut days, mut bytes) = (0, 0);
        let mut by_day = BTreeMap::new();
        let states = Schema::device_state();
        for schema in Schema::all() {
            for (partition, size) in archive.sizes(&schema)? {
                bytes += size;
                days += u64::from(schema.dataset == states.dataset);
                if partition.date < today {
                    *by_day.entry(partition.date).or_insert(0) += size;
                }
            }
        }
        let last: Vec<u64> = by_day.into_values().rev().take(GROWTH_DAYS).collect();
        let bytes_per_day = (!last.is_empty()).then(|| last.iter().sum::<u64>() / last.len() as u64);
        Ok(Self { days, bytes, bytes_per_day })
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[expect(clippy::cast_precision_loss, reason = "days for people")]
fn days_of(time: TimeDelta) -> f64 {
    time.num_seconds() as f64 / 86_400.0
}
