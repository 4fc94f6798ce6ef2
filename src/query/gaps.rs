//! Where there are no states, and why: each interval of a window, for each device. What is known of each, [`seen`] says;
//! here it is asked, put into words, and counted.

mod seen;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;

use crate::clock::{Timestamp, Zone};
use crate::schema::Kind;
use crate::snapshot::{HISTORY, Source};

use super::QueryError;
use super::answer::{Answer, AnswerColumn, Cell};
use super::scan::Days;
use super::trend::MOST_ROWS;
use super::window::{Buckets, Window};

use seen::{Device, Seeings, Seen, intervals};

/// Of the intervals in which a state is expected, so many may be missed for want of a good answer.
pub const MOST_MISSED: f64 = 0.05;

/// For so long before a window a device is looked for that has no state in it.
pub const KNOWN_BEFORE: TimeDelta = TimeDelta::days(366);

/// The length of the intervals that the history has averages of.
const AN_HOUR: Duration = Duration::from_hours(1);

/// What is asked of gaps.
#[derive(Debug, Clone)]
pub struct GapsOptions {
    /// The devices' ids; none for all.
    pub devices: Option<Vec<String>>,
    /// Over which time.
    pub window: Window,
    /// Length of an interval in which a state is expected.
    pub every: Duration,
    /// Whose midnight the intervals are counted from.
    pub zone: Zone,
    /// Each gap by itself, and not each device.
    pub each: bool,
    /// What is asked of Cloudflare's history is asked now.
    pub now: Timestamp,
    /// What was asked of the API since is not known: intervals that end later are none.
    pub known_until: Timestamp,
}

/// Why there is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// No request that would have brought one was made.
    NotAsked,
    /// A request was made, and failed.
    Failed,
    /// The API said that it has no state of the device.
    Absent,
    /// There was an answer, with nothing of that time.
    Silent,
}

impl Cause {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::NotAsked, Self::Failed, Self::Absent, Self::Silent];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::Failed => "failed",
            Self::Absent => "absent",
            Self::Silent => "silent",
        }
    }

    /// Whether nobody had an answer.
    fn is_missed(self) -> bool {
        matches!(self, Self::NotAsked | Self::Failed)
    }
}

/// A stretch in which a device has no state, of which the history may still have some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// The device, as the archive knows it.
    pub device_id: String,
    /// The whole intervals that it spans.
    pub window: Window,
}

/// The stretches in which nobody asked for a device of an account, or the asking failed, and of which Cloudflare's
/// history was not read either and still reaches back to. `known` are devices that are expected besides those of the
/// window.
///
/// # Errors
/// As for [`gaps`]; where nothing is expected, there is none.
pub fn holes(days: &Days, options: &GapsOptions, account: &str, known: &[String]) -> Result<Vec<Hole>, QueryError> {
    let known = known.iter().map(|device| (account.to_owned(), device.clone())).collect();
    let seen = match Seen::read(days, options, known, &[Source::Raw]) {
        Err(QueryError::NothingExpected(_) | QueryError::NoneEnded(_)) => return Ok(Vec::new()),
        seen => seen?,
    };
    let reading = Reading::of(&seen, options);
    let of_device = |(device, seeings)| {
        let gaps = reading.gaps(device, seeings).into_iter();
        gaps.filter_map(|gap| {
            let since = reading.recoverable(&gap).next().and_then(|bucket| seen.buckets.start(bucket))?;
            let window = Window { since, until: seen.buckets.start(gap.last + 1)? };
            Some(Hole { device_id: device.1.clone(), window })
        })
    };
    Ok(seen.devices.iter().filter(|(device, _)| device.0 == account).flat_map(of_device).collect())
}

/// The time that the intervals of a window take: those that it touches and that are over.
///
/// # Errors
/// Where the window has no length, no interval is over, or there is no such interval.
pub fn whole_intervals(window: Window, every: Duration, zone: Zone, now: Timestamp) -> Result<Window, QueryError> {
    window.check()?;
    Ok(intervals(window, every, zone, now)?.1)
}

/// How much of what was expected is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Intervals in which a state is expected.
    pub expected: u64,
    /// Those that have one.
    pub present: u64,
    /// Those in which nobody asked, or the asking failed.
    pub missed: u64,
}

/// What is there of an account's devices, in all.
///
/// # Errors
/// As for [`gaps`]; where nothing is expected, that much is there.
pub fn coverage(days: &Days, options: &GapsOptions, account: &str) -> Result<Coverage, QueryError> {
    let seen = match options.window.check().and_then(|()| Seen::read(days, options, Vec::new(), &[Source::Raw])) {
        Err(QueryError::NothingExpected(_) | QueryError::NoneEnded(_) | QueryError::EmptyWindow(_)) => {
            return Ok(Coverage::default());
        }
        seen => seen?,
    };
    let reading = Reading::of(&seen, options);
    let mut all = Coverage::default();
    for (device, seeings) in seen.devices.iter().filter(|(device, _)| device.0 == account) {
        let expected = seen.buckets.count();
        let (mut gone, mut missed) = (0, 0);
        for gap in reading.gaps(device, seeings) {
            gone += gap.intervals();
            missed += if gap.is_missed() { gap.intervals() } else { 0 };
        }
        all.expected += expected as u64;
        all.present += (expected - gone) as u64;
        all.missed += missed as u64;
    }
    Ok(all)
}

/// Expected and present intervals of each device, and why the others have no state; or each gap by itself.
///
/// Expected is every device that is named, or has a state or was asked for in the window, in every interval of it that
/// is over. A page of the list asks for every device of its account that the collector keeps: all, or those of a shard.
///
/// # Errors
/// Where the window has no length or too many intervals, there is neither state nor request in it, or the archive
/// cannot be read.
pub fn gaps(days: &Days, options: &GapsOptions) -> Result<Answer, QueryError> {
    // An average an hour says nothing of shorter intervals.
    let sources: &[Source] = if options.every < AN_HOUR { &[Source::Raw] } else { &[Source::Raw, Source::Hourly] };
    let seen = Seen::read(days, options, Vec::new(), sources)?;
    let reading = Reading::of(&seen, options);
    if options.each { reading.each() } else { Ok(reading.by_device()) }
}

/// What was seen, as it is told.
struct Reading<'a> {
    options: &'a GapsOptions,
    buckets: &'a Buckets,
    seen: &'a Seen,
    /// A device in one of several accounts is told by it.
    has_accounts: bool,
}

impl<'a> Reading<'a> {
    fn of(seen: &'a Seen, options: &'a GapsOptions) -> Self {
        let accounts: BTreeSet<&String> = seen.devices.keys().map(|(account, _)| account).collect();
        Self { options, buckets: &seen.buckets, seen, has_accounts: accounts.len() > 1 }
    }

    /// A row for each device.
    fn by_device(&self) -> Answer {
        let mut columns = self.keys();
        columns.extend(["expected", "present"].map(|name| AnswerColumn::value(name.to_owned(), "intervals")));
        columns.push(AnswerColumn::value("coverage".to_owned(), "share"));
        columns.extend(Cause::ALL.map(|cause| AnswerColumn::value(cause.name().to_owned(), "intervals")));
        columns.push(AnswerColumn::value("recoverable".to_owned(), "intervals"));
        columns.push(AnswerColumn::value("days_left".to_owned(), "d"));
        let rows = self.seen.devices.iter().map(|(device, seeings)| {
            let gaps = self.gaps(device, seeings);
            let missing = |cause| gaps.iter().filter(|gap| gap.cause == cause).map(Gap::intervals).sum::<usize>();
            let present = self.buckets.count() - Cause::ALL.map(missing).iter().sum::<usize>();
            let recoverable: usize = gaps.iter().map(|gap| self.recoverable(gap).count()).sum();
            let oldest = gaps.iter().filter_map(|gap| self.days_left(gap)).min_by(f64::total_cmp);
            let mut row = self.key_cells(device);
            row.extend([Cell::count(self.buckets.count()), Cell::count(present), share(present, self.buckets.count())]);
            row.extend(Cause::ALL.map(|cause| Cell::count(missing(cause))));
            row.extend([Cell::count(recoverable), oldest.into()]);
            row
        });
        Answer { title: self.title(), columns, rows: rows.collect() }
    }

    /// A row for each gap.
    fn each(&self) -> Result<Answer, QueryError> {
        let mut columns = self.keys();
        columns.extend(["from", "to"].map(|name| AnswerColumn::key(name).of_kind(Kind::Timestamp)));
        columns.push(AnswerColumn::key("cause"));
        columns.push(AnswerColumn::value("length".to_owned(), "intervals"));
        columns.push(AnswerColumn::value("days_left".to_owned(), "d"));
        let of_device = |(device, seeings)| {
            self.gaps(device, seeings).into_iter().map(move |gap| {
                let mut row = self.key_cells(device);
                row.extend([self.buckets.start(gap.first).into(), self.buckets.start(gap.last + 1).into()]);
                row.push(Cell::Text(gap.cause.name().to_owned()));
                row.extend([Cell::count(gap.intervals()), self.days_left(&gap).into()]);
                row
            })
        };
        // More would take more room than there is: they are counted before any is told.
        let counts = self.seen.devices.iter().map(|(device, seeings)| self.gaps(device, seeings).len());
        if counts.sum::<usize>() > MOST_ROWS {
            return Err(QueryError::Long { what: "gaps", most: MOST_ROWS });
        }
        let rows = self.seen.devices.iter().flat_map(of_device).collect();
        Ok(Answer { title: self.title(), columns, rows })
    }

    fn keys(&self) -> Vec<AnswerColumn> {
        let account = self.has_accounts.then(|| AnswerColumn::key("account_id"));
        account.into_iter().chain(["device_id", "device_name"].map(AnswerColumn::key)).collect()
    }

    fn key_cells(&self, (account, device): &Device) -> Vec<Cell> {
        let name = self.seen.names.get(device).cloned();
        let account = self.has_accounts.then(|| Cell::Text(account.clone()));
        account.into_iter().chain([Cell::Text(device.clone()), name.into()]).collect()
    }

    fn title(&self) -> String {
        let devices = self.seen.devices.len();
        let gaps = self.seen.devices.iter().flat_map(|(device, seeings)| self.gaps(device, seeings));
        let expected = devices * self.buckets.count();
        let present = expected - gaps.map(|gap| gap.intervals()).sum::<usize>();
        format!("{present} of {expected} intervals of {devices} devices have a state")
    }

    /// The gaps of a device: intervals that follow each other and have no state for the same cause.
    fn gaps(&self, device: &Device, seeings: &Seeings) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = Vec::new();
        let seen = self.seen.of(device, seeings);
        for bucket in 0..self.buckets.count() {
            let Some(cause) = seen.cause(bucket) else { continue };
            match gaps.last_mut() {
                Some(gap) if (gap.cause, gap.last + 1) == (cause, bucket) => gap.last = bucket,
                _ => gaps.push(Gap { cause, first: bucket, last: bucket }),
            }
        }
        gaps
    }

    /// The intervals of a gap that Cloudflare's history still reaches, if nobody had an answer: where it was read already,
    /// that was one.
    fn recoverable(&self, gap: &Gap) -> std::ops::RangeInclusive<usize> {
        let oldest = (self.options.now - HISTORY).timestamp_micros();
        let reached = (gap.first..=gap.last).find(|&bucket| self.buckets.range(bucket).end > oldest);
        reached.filter(|_| gap.is_missed()).unwrap_or(gap.last + 1)..=gap.last
    }

    /// Days until the oldest interval of a gap that can still be asked for is gone; none where all are.
    #[expect(clippy::cast_precision_loss, reason = "days for people")]
    fn days_left(&self, gap: &Gap) -> Option<f64> {
        let oldest = self.recoverable(gap).next()?;
        let gone = self.buckets.range(oldest).end + HISTORY.num_microseconds()?;
        Some((gone - self.options.now.timestamp_micros()) as f64 / 86_400e6)
    }
}

/// Intervals that follow each other.
struct Gap {
    cause: Cause,
    first: usize,
    last: usize,
}

impl Gap {
    /// Whether nobody had an answer.
    fn is_missed(&self) -> bool {
        self.cause.is_missed()
    }

    fn intervals(&self) -> usize {
        self.last + 1 - self.first
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share of fewer than 2^53")]
fn share(part: usize, whole: usize) -> Cell {
    Cell::Number(part as f64 / whole as f64)
}
