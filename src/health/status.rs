//! What the archive says of how the collecting goes.

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
    Coverage, Days, GapsOptions, LastSweep, MOST_MISSED, QueryError, Unexpected, Window, coverage, devices_seen,
    first_sweeps, holes, last_sweeps, unexpected,
};
use crate::schema::Schema;
use crate::shown::bytes;
use crate::snapshot::HISTORY;

use super::collectors::{Collector, Newest, collectors};
use super::{Check, LEAST_ROOM, Level};

/// Of the requests of a sweep, so many may fail.
const MOST_FAILED: f64 = 0.1;

/// What was received later than this from now was received under another clock: so far apart are clocks that nobody sets.
const FUTURE: TimeDelta = TimeDelta::minutes(1);

/// So many states without a time are more than a device or two.
const MOST_TIMELESS: f64 = 0.01;

/// Segments of a journal that are looked into: a sweep is in the last ones.
const LAST_SEGMENTS: usize = 4;

/// Of the time before Cloudflare's history, so many days tell which accounts there were.
const KNOWN_DAYS: usize = 2;

/// The disk should be good for so long.
const SHORTEST_ROOM: f64 = 14.0;

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
    /// Accounts and shards of which everything waits, and when the newest of it was received.
    #[serde(skip)]
    unpublished: Vec<(String, Option<String>, Timestamp)>,
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
        status.checks = status.checks(options);
        Ok(status)
    }

    /// Whether somebody should do something.
    #[must_use]
    pub fn is_poor(&self) -> bool {
        self.checks.iter().any(|check| check.level == Level::Poor)
    }

    fn checks(&self, options: &StatusOptions) -> Vec<Check> {
        let swept = self.last_sweeps.iter().map(|sweep| &sweep.account_id);
        let swept = swept.chain(self.unpublished.iter().map(|(account, ..)| account)).chain(&self.silent_accounts);
        let several = swept.collect::<BTreeSet<_>>().len() > 1;
        let name = |account: &str, shard: Option<&str>| {
            let called = options.accounts.get(account).map_or(account, String::as_str);
            let account = if several { format!(", {called}") } else { String::new() };
            format!("last sweep{account}{}", shard.map_or(String::new(), |shard| format!(", shard {shard}")))
        };
        let of_sweep = |sweep: &Sweep| match sweep.check(&name(&sweep.account_id, sweep.shard.as_deref()), options) {
            check if check.level == Level::Fine && self.empty_accounts.contains(&sweep.account_id) => Check::poor(
                &check.name,
                format!("{}; nobody was seen in 7 days", check.found),
                "look at the account's id, whether DEX is set up, and at a metadata boundary: `dex-archive doctor`",
            ),
            check => check,
        };
        let mut checks: Vec<Check> = self.last_sweeps.iter().map(of_sweep).collect();
        let waiting = self.unpublished.iter();
        checks.extend(waiting.map(|(account, shard, at)| {
            by_age(&name(account, shard.as_deref()), *at, "it waits in the journal to be published", options)
        }));
        let silent = |account: &str, shard: Option<&str>| {
            let remedy = "nothing collects: run `dex-archive collect`, by hand and then from cron or as a service";
            Check::poor(&name(account, shard), "none in the last 7 days", remedy)
        };
        let shards = self.silent_shards.iter();
        checks.extend(shards.map(|SilentShard { account_id, shard }| silent(account_id, Some(shard))));
        checks.extend(self.silent_accounts.iter().map(|account| silent(account, None)));
        if checks.is_empty() {
            checks.push(silent("", None));
        }
        checks.extend([self.coverage(), self.pending(options), self.archive(), self.disk(), self.gap()]);
        checks.extend(self.unexpected());
        checks.extend(self.resharding.map(|shards| {
            let remedy = format!("wait for it, or end it: `dex-archive reshard --shards {shards}`");
            Check::poor("shards", format!("nobody can write: the archive is being filed into {shards}"), &remedy)
        }));
        checks.extend(self.pseudonyms());
        checks.extend(self.damage());
        checks
    }

    /// Whether the states are as the schema expects them.
    fn unexpected(&self) -> Option<Check> {
        let (name, all) = ("states, last day", self.states);
        if ratio(self.states_timeless, all.max(1)) > MOST_TIMELESS {
            let found =
                format!("{} of {all} have no time that can be read: each sweep files them anew", self.states_timeless);
            return Some(Check::poor(name, found, "see what stands there instead: `dex-archive schema drift`"));
        }
        (self.states_unmapped > 0).then(|| {
            let found = format!("{} of {all} hold something that no column has; it is kept", self.states_unmapped);
            Check::note(name, found, "see what: `dex-archive schema drift`")
        })
    }

    /// One key is as it should be.
    fn pseudonyms(&self) -> Option<Check> {
        let [_, .., last] = self.pseudonym_keys.as_slice() else { return None };
        let (count, since) = (self.pseudonym_keys.len(), clock::format_timestamp(last.since));
        let found =
            format!("made with {count} keys, the last since {since}: nobody can be followed from one to another");
        Some(Check::note("pseudonyms", found, ""))
    }

    fn damage(&self) -> Option<Check> {
        let first = self.damaged.first()?.display();
        let more = match self.damaged.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let remedy = "see what can be read of it: `dex-archive verify`, and mend it: `dex-archive verify --repair`";
        Some(Check::poor("damage", format!("rows of {first}{more} cannot be read"), remedy))
    }

    fn coverage(&self) -> Check {
        let name = "coverage, last day";
        if self.expected == 0 {
            return Check::note(name, "no whole interval yet in which a state was expected", "");
        }
        let (present, missed) = (ratio(self.present, self.expected), ratio(self.missed, self.expected));
        let found = format!(
            "{:.1} % of {} intervals have a state; {:.1} % were missed",
            present * 100.0,
            self.expected,
            missed * 100.0
        );
        if missed > MOST_MISSED {
            let remedy =
                "see why: `dex-archive query gaps --since 1d`; fill what can be filled: `dex-archive backfill`";
            return Check::poor(name, found, remedy);
        }
        Check::fine(name, found)
    }

    fn pending(&self, options: &StatusOptions) -> Check {
        let name = "journal";
        if self.pending_unreadable > 0 {
            let found = format!("{} of its segments cannot be read, and wait", self.pending_unreadable);
            return Check::poor(name, found, "see why: `dex-archive verify`");
        }
        let Some(Moment(since)) = self.pending_since else { return Check::fine(name, "nothing waits to be published") };
        let found =
            format!("{} wait to be published since {}", bytes(self.pending_bytes), clock::format_timestamp(since));
        if since > options.now + FUTURE {
            let remedy = "the clock was set back since: the next `dex-archive collect` publishes it";
            return Check::poor(name, found, remedy);
        }
        if (options.now - since).to_std().unwrap_or_default() > 2 * options.longest_wait {
            return Check::poor(name, found, "the next `dex-archive collect` publishes it, or says why it cannot");
        }
        Check::fine(name, found)
    }

    fn archive(&self) -> Check {
        let growth = self.bytes_per_day.map_or(String::new(), |growth| format!(", {} a day", bytes(growth)));
        Check::fine("archive", format!("{} in {} days{growth}", bytes(self.bytes), self.days))
    }

    fn disk(&self) -> Check {
        let name = "disk";
        let Some(free) = self.free_bytes else { return Check::note(name, "nobody knows how much is free", "") };
        match self.days_until_full {
            _ if free < LEAST_ROOM => {
                Check::poor(name, format!("{} free", bytes(free)), "make room before the next publish")
            }
            Some(days) if days < SHORTEST_ROOM => {
                let found = format!("{} free: full in {days:.0} days", bytes(free));
                Check::poor(name, found, "make room, or keep fewer days: `dex-archive prune --keep 400d --dry-run`")
            }
            Some(days) if days < 10_000.0 => Check::fine(name, format!("{} free: for {days:.0} days", bytes(free))),
            _ => Check::fine(name, format!("{} free", bytes(free))),
        }
    }

    fn gap(&self) -> Check {
        let name = "oldest gap";
        let Some((Moment(since), left)) = self.oldest_gap.zip(self.oldest_gap_days_left) else {
            return match self.before_first {
                Some(Moment(since)) => {
                    let since = clock::format_timestamp(since);
                    let found =
                        format!("nothing was missed since the first sweep; Cloudflare has states since {since}");
                    Check::note(name, found, "fetch them before it forgets them: `dex-archive backfill`")
                }
                None => Check::fine(name, "nothing of the last 7 days was missed"),
            };
        };
        let since = clock::format_timestamp(since);
        let found = format!("states since {since} were missed; Cloudflare has them for {left:.1} days more");
        let is_divided = self.last_sweeps.iter().any(|sweep| sweep.shard.is_some());
        let remedy = if is_divided {
            "fetch them: `dex-archive backfill`"
        } else {
            "fetch them: `dex-archive backfill`, or collect with --self-heal"
        };
        if left < 1.0 { Check::poor(name, found, remedy) } else { Check::note(name, found, remedy) }
    }
}

impl Sweep {
    fn new(sweep: LastSweep, waiting: Option<Timestamp>) -> Self {
        let LastSweep { account_id, sweep_id, ended, requests, failed, states, shard, .. } = sweep;
        let (ended, waiting) = (Moment(ended), waiting.map(Moment));
        Self { account_id, sweep_id, ended, requests, failed, states, shard, waiting }
    }

    fn check(&self, name: &str, options: &StatusOptions) -> Check {
        let ended = self.waiting.map_or(self.ended.0, |waiting| waiting.0.max(self.ended.0));
        let counts = format!("{} states by {} requests, {} failed", self.states, self.requests, self.failed);
        let check = by_age(name, ended, &counts, options);
        if check.level == Level::Fine && ratio(self.failed, self.requests.max(1)) > MOST_FAILED {
            return Check::poor(name, check.found, "see what the API says: `dex-archive doctor`");
        }
        check
    }
}

/// A sweep that is of a time, and what else there is to say of it.
fn by_age(name: &str, ended: Timestamp, said: &str, options: &StatusOptions) -> Check {
    let age = (options.now - ended).to_std().unwrap_or_default();
    let ago = clock::format_duration(Duration::from_secs(age.as_secs()));
    let found = format!("{ago} ago: {said}");
    if age <= options.max_age {
        return Check::fine(name, found);
    }
    let longest = clock::format_duration(options.max_age);
    Check::poor(name, found, &format!("a sweep is expected at least every {longest}: look at the collector's log"))
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
        sweeps: &[LastSweep],
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
fn empty_accounts(days: &Days, sweeps: &[LastSweep], now: Timestamp) -> Result<BTreeSet<String>, QueryError> {
    let is_empty = |sweep: &&LastSweep| sweep.states == 0 && sweep.failed < sweep.requests;
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
    /// Of whom nothing is published yet: the account, the shard, and when the newest answer was received.
    unpublished: Vec<(String, Option<String>, Timestamp)>,
    silent_shards: Vec<SilentShard>,
}

impl Passes {
    fn of(collectors: BTreeMap<Collector, Newest>) -> Self {
        let mut passes = Self::default();
        for ((account_id, shard), Newest { sweep, waiting }) in collectors {
            match (sweep, waiting) {
                (Some(sweep), waiting) => passes.last_sweeps.push(Sweep::new(sweep, waiting)),
                (None, Some(waiting)) => passes.unpublished.push((account_id, shard, waiting)),
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
