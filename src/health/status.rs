//! What the archive says of how the collecting goes.

use std::time::Duration;

use chrono::TimeDelta;
use serde::Serialize;

use crate::archive::Archive;
use crate::clock::{self, Timestamp, Zone, rfc3339};
use crate::disk;
use crate::journal::{self, Segment};
use crate::query::{Cell, Days, GapsOptions, QueryError, Window, first_sweeps, gaps, holes, last_sweeps};
use crate::schema::Schema;
use crate::snapshot::HISTORY;

use super::{Check, Level, bytes};

/// Of the intervals in which a state is expected, so many may be missed for want of a good answer.
const MOST_MISSED: f64 = 0.05;

/// Of the requests of a sweep, so many may fail.
const MOST_FAILED: f64 = 0.1;

/// What is journalled waits an hour at most; twice that is too long.
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(2);

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
    /// A state of each device is expected in each interval of this length.
    pub expect: Duration,
}

/// How the collecting goes.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The newest pass over the fleet, of each account.
    pub last_sweeps: Vec<Sweep>,
    /// Intervals of the last day in which a state was expected.
    pub expected: u64,
    /// Those that have one.
    pub present: u64,
    /// Those in which nobody asked, or the asking failed.
    pub missed: u64,
    /// Bytes in the journal that are yet to be published.
    pub pending_bytes: u64,
    /// Since when the oldest of them wait.
    pub pending_since: Option<Moment>,
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
    /// What of that is as it should be.
    pub checks: Vec<Check>,
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
    /// States that they brought.
    pub states: u64,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Moment(#[serde(with = "rfc3339")] pub Timestamp);

impl Status {
    /// Reads it from the archive.
    ///
    /// # Errors
    /// Where the archive cannot be read.
    pub fn read(archive: &Archive, options: &StatusOptions) -> Result<Self, QueryError> {
        let (days, now) = (Days::new(archive, true), options.now);
        let back = |time: TimeDelta| Window { since: now - time, until: now };
        let mut sweeps = last_sweeps(&days, back(TimeDelta::days(1)))?;
        if sweeps.is_empty() {
            sweeps = last_sweeps(&days, back(HISTORY))?;
        }
        let question =
            |window| GapsOptions { devices: None, window, every: options.expect, zone: Zone::UTC, each: false, now };
        let [expected, present, missed] = coverage(&days, &question(back(TimeDelta::days(1))))?;
        let mut oldest_gap: Option<Timestamp> = None;
        let expect = TimeDelta::from_std(options.expect).unwrap_or_default();
        let window = back(HISTORY - expect);
        for account in sweeps.iter().map(|sweep| &sweep.account_id) {
            // Before the collecting began there was nothing to miss.
            let since = began(archive, &days, account, window)?.max(window.since);
            let found = match (Window { since, ..window }).check() {
                Ok(()) => holes(&days, &question(Window { since, ..window }), account, &[])?,
                Err(_) => Vec::new(),
            };
            // The interval in which it began is counted as a whole.
            let began = found.iter().map(|hole| hole.window.since.max(since));
            oldest_gap = began.chain(oldest_gap).min();
        }
        let (pending_bytes, pending_since) = pending(archive);
        let (day_count, bytes, bytes_per_day) = size(archive, now)?;
        let free_bytes = disk::free_bytes(archive.root());
        let mut status = Self {
            last_sweeps: sweeps.into_iter().map(Sweep::from).collect(),
            expected,
            present,
            missed,
            pending_bytes,
            pending_since: pending_since.map(Moment),
            days: day_count,
            bytes,
            bytes_per_day,
            free_bytes,
            days_until_full: free_bytes.zip(bytes_per_day).map(|(free, growth)| ratio(free, growth.max(1))),
            oldest_gap: oldest_gap.map(Moment),
            oldest_gap_days_left: oldest_gap.map(|since| days_of(since + HISTORY - now)),
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
        let sweeps = self.last_sweeps.iter().map(|sweep| sweep.check(options, self.last_sweeps.len() > 1));
        let mut checks: Vec<Check> = sweeps.collect();
        if checks.is_empty() {
            let remedy = "nothing collects: run `dex-archive collect`, by hand and then from cron or as a service";
            checks.push(Check::poor("last sweep", "none in the last 7 days", remedy));
        }
        checks.extend([self.coverage(), self.pending(options.now), self.archive(), self.disk(), self.gap()]);
        checks
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

    fn pending(&self, now: Timestamp) -> Check {
        let name = "journal";
        let Some(Moment(since)) = self.pending_since else { return Check::fine(name, "nothing waits to be published") };
        let found =
            format!("{} wait to be published since {}", bytes(self.pending_bytes), clock::format_timestamp(since));
        if now - since > LONGEST_WAIT {
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
            return Check::fine(name, "nothing of the last 7 days was missed");
        };
        let since = clock::format_timestamp(since);
        let found = format!("states since {since} were missed; Cloudflare has them for {left:.1} days more");
        let remedy = "fetch them: `dex-archive backfill`, or collect with --self-heal";
        if left < 1.0 { Check::poor(name, found, remedy) } else { Check::note(name, found, remedy) }
    }
}

impl Sweep {
    fn check(&self, options: &StatusOptions, is_one_of_several: bool) -> Check {
        let name = if is_one_of_several { format!("last sweep, {}", self.account_id) } else { "last sweep".to_owned() };
        let age = (options.now - self.ended.0).to_std().unwrap_or_default();
        let ago = clock::format_duration(Duration::from_secs(age.as_secs()));
        let found = format!("{ago} ago: {} states by {} requests, {} failed", self.states, self.requests, self.failed);
        if age > options.max_age {
            let longest = clock::format_duration(options.max_age);
            let remedy = format!("a sweep is expected at least every {longest}: look at the collector's log");
            return Check::poor(&name, found, &remedy);
        }
        if ratio(self.failed, self.requests.max(1)) > MOST_FAILED {
            return Check::poor(&name, found, "see what the API says: `dex-archive doctor`");
        }
        Check::fine(&name, found)
    }
}

impl From<crate::query::LastSweep> for Sweep {
    fn from(sweep: crate::query::LastSweep) -> Self {
        Self {
            account_id: sweep.account_id,
            sweep_id: sweep.sweep_id,
            ended: Moment(sweep.ended),
            requests: sweep.requests,
            failed: sweep.failed,
            states: sweep.states,
        }
    }
}

/// When the first request for an account was made, as far as a window reaches back.
fn began(archive: &Archive, days: &Days, account: &str, window: Window) -> Result<Timestamp, QueryError> {
    let first = archive.partitions(&Schema::poll())?.into_iter().map(|partition| partition.date).min();
    let Some(first) = first.filter(|first| window.touches(*first)) else { return Ok(window.since) };
    let midnight = first.and_time(chrono::NaiveTime::MIN).and_utc();
    let day = Window { since: midnight, until: midnight + TimeDelta::days(1) };
    let sweeps = first_sweeps(days, day)?;
    Ok(sweeps.into_iter().find(|sweep| sweep.account_id == account).map_or(window.since, |sweep| sweep.began))
}

/// Intervals in which a state is expected, in which there is one, and of which it was missed.
fn coverage(days: &Days, options: &GapsOptions) -> Result<[u64; 3], QueryError> {
    let answer = match gaps(days, options) {
        Err(QueryError::NothingExpected(_)) => return Ok([0; 3]),
        answer => answer?,
    };
    let total = |names: &[&str]| -> u64 {
        let of = |name: &&str| answer.columns.iter().position(|column| column.name == *name);
        let cells = names.iter().filter_map(of).flat_map(|at| answer.rows.iter().map(move |row| &row[at]));
        cells.filter_map(|cell| if let Cell::Count(count) = cell { u64::try_from(*count).ok() } else { None }).sum()
    };
    Ok([total(&["expected"]), total(&["present"]), total(&["not_asked", "failed"])])
}

/// What waits in the journals: bytes, and since when. What cannot be read is `verify`'s to say.
fn pending(archive: &Archive) -> (u64, Option<Timestamp>) {
    let segments = (0..archive.shards()).filter_map(|shard| journal::segments(&archive.journal_path(shard)).ok());
    let (mut bytes, mut since) = (0, None);
    for segments in segments {
        let read = |(_, path): &(u64, std::path::PathBuf)| Segment::read(path).ok()?.first_received();
        if let Some(first) = segments.iter().find_map(read) {
            since = Some(since.map_or(first, |since: Timestamp| since.min(first)));
            bytes += segments.iter().filter_map(|(_, path)| path.metadata().ok()).map(|file| file.len()).sum::<u64>();
        }
    }
    (bytes, since)
}

/// Days with device states, the bytes of all datasets, and of the last whole days, bytes a day.
fn size(archive: &Archive, now: Timestamp) -> Result<(u64, u64, Option<u64>), QueryError> {
    let today = now.date_naive();
    let (mut days, mut bytes) = (0, 0);
    let mut by_day = std::collections::BTreeMap::new();
    for schema in [Schema::device_state(), Schema::poll()] {
        for partition in archive.partitions(&schema)? {
            let parts = archive.parts(&partition)?;
            let size: u64 = parts.iter().filter_map(|(_, path)| path.metadata().ok()).map(|file| file.len()).sum();
            bytes += size;
            days += u64::from(schema.dataset == Schema::device_state().dataset);
            if partition.date < today {
                *by_day.entry(partition.date).or_insert(0) += size;
            }
        }
    }
    let last: Vec<u64> = by_day.into_values().rev().take(GROWTH_DAYS).collect();
    let growth = (!last.is_empty()).then(|| last.iter().sum::<u64>() / last.len() as u64);
    Ok((days, bytes, growth))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[expect(clippy::cast_precision_loss, reason = "days for people")]
fn days_of(time: TimeDelta) -> f64 {
    time.num_seconds() as f64 / 86_400.0
}
