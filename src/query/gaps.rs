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
use super::window::Window;

use seen::{Device, Seeings, Seen, intervals};

/// Of the intervals in which a state is expected, so many may be missed for want of a good answer.
pub const MOST_MISSED: f64 = 0.05;

/// The most intervals of all devices together, a byte or two each. A week of 500,000 devices by the quarter of an hour is
/// fewer. (Tests have less room.)
pub(super) const MOST_INTERVALS: usize = if cfg!(test) { 100_000 } else { 400_000_000 };

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
        Err(error) if error.is_nothing_expected() => return Ok(Vec::new()),
        seen => seen?,
    };
    let told = Told::of(&seen, options);
    let of_device = |(device, seeings)| {
        let gaps = told.runs(device, seeings).into_iter();
        gaps.filter_map(|gap| {
            let since = told.recoverable(&gap).next().and_then(|bucket| seen.buckets.start(bucket))?;
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
        Err(QueryError::EmptyWindow(_)) => return Ok(Coverage::default()),
        Err(error) if error.is_nothing_expected() => return Ok(Coverage::default()),
        seen => seen?,
    };
    let told = Told::of(&seen, options);
    let mut all = Coverage::default();
    for (device, seeings) in seen.devices.iter().filter(|(device, _)| device.0 == account) {
        let expected = seen.buckets.count();
        let (mut gone, mut missed) = (0, 0);
        for gap in told.runs(device, seeings) {
            gone += gap.intervals();
            missed += if gap.cause.is_missed() { gap.intervals() } else { 0 };
        }
        all.expected += expected as u64;
        all.present += (expected - gone) as u64;
        all.missed += missed as u64;
    }
    Ok(all)
}

/// What is missing of devices, in their order: of each device, or gap by gap.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaps<T> {
    /// Each device, or each gap.
    pub all: Vec<T>,
    /// Whether they are of several accounts.
    pub has_accounts: bool,
    /// Intervals in which a state is expected, of all devices.
    pub expected: usize,
    /// Those that have one.
    pub present: usize,
    /// How many devices there are.
    pub devices: usize,
}

/// Who a gap is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// The account.
    pub account: String,
    /// The device's id.
    pub device: String,
    /// Its newest name.
    pub device_name: Option<String>,
}

/// What is missing of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceGaps {
    /// The device.
    pub of: Missed,
    /// Intervals in which a state is expected.
    pub expected: usize,
    /// Those that have one.
    pub present: usize,
    /// The others, by why they have none, in the order of [`Cause::ALL`].
    pub missing: [usize; Cause::ALL.len()],
    /// Those that Cloudflare's history may still have.
    pub recoverable: usize,
    /// Days until it no longer has the oldest of them.
    pub days_left: Option<f64>,
}

/// Intervals that follow each other and have no state for the same cause.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    /// The device.
    pub of: Missed,
    /// When the first of them begins.
    pub from: Option<Timestamp>,
    /// When the last ends.
    pub to: Option<Timestamp>,
    /// Why there is no state.
    pub cause: Cause,
    /// How many they are.
    pub intervals: usize,
    /// Days until Cloudflare's history no longer has the oldest of them; none where it has none.
    pub days_left: Option<f64>,
}

/// Expected and present intervals of each device, and why the others have no state.
///
/// Expected is every device that is named, or has a state or was asked for in the window, in every interval of it that
/// is over. A page of the list asks for every device of its account that the collector keeps: all, or those of a shard.
///
/// # Errors
/// Where the window has no length or too many intervals, there is neither state nor request in it, or the archive
/// cannot be read.
pub fn gaps(days: &Days, options: &GapsOptions) -> Result<Gaps<DeviceGaps>, QueryError> {
    let seen = Seen::read(days, options, Vec::new(), sources(options))?;
    Ok(Told::of(&seen, options).by_device())
}

/// Each gap of them by itself.
///
/// # Errors
/// As for [`gaps`], and where there are too many.
pub fn each_gap(days: &Days, options: &GapsOptions) -> Result<Gaps<Gap>, QueryError> {
    let seen = Seen::read(days, options, Vec::new(), sources(options))?;
    Told::of(&seen, options).each()
}

/// What was read of the history counts, but for averages an hour where intervals are shorter.
fn sources(options: &GapsOptions) -> &'static [Source] {
    if options.every < AN_HOUR { &[Source::Raw] } else { &Source::HISTORY }
}

impl<T> Gaps<T> {
    fn answer(self, columns: impl IntoIterator<Item = AnswerColumn>, row: impl Fn(T, bool) -> Vec<Cell>) -> Answer {
        let Self { expected, present, devices, has_accounts, .. } = self;
        let title = format!("{present} of {expected} intervals of {devices} devices have a state");
        let account = has_accounts.then(|| AnswerColumn::key("account_id"));
        let keys = account.into_iter().chain(["device_id", "device_name"].map(AnswerColumn::key));
        let rows = self.all.into_iter().map(|one| row(one, has_accounts)).collect();
        Answer { title, columns: keys.chain(columns).collect(), rows }
    }
}

impl Gaps<DeviceGaps> {
    /// Intervals that have no state for a cause, of all devices.
    #[must_use]
    pub fn missing(&self, cause: Cause) -> usize {
        self.all.iter().map(|device| device.missing[cause as usize]).sum()
    }

    /// A row for each device.
    #[must_use]
    pub fn into_answer(self) -> Answer {
        let intervals = |name: &str| AnswerColumn::value(name.to_owned(), "intervals");
        let counts = ["expected", "present"].map(intervals).into_iter();
        let coverage = [AnswerColumn::value("coverage".to_owned(), "share")];
        let causes = Cause::ALL.map(|cause| intervals(cause.name()));
        let rest = [intervals("recoverable"), AnswerColumn::value("days_left".to_owned(), "d")];
        self.answer(counts.chain(coverage).chain(causes).chain(rest), |device, has_accounts| {
            let mut row = device.of.cells(has_accounts);
            let DeviceGaps { expected, present, .. } = device;
            row.extend([Cell::count(expected), Cell::count(present), share(present, expected)]);
            row.extend(device.missing.map(Cell::count));
            row.extend([Cell::count(device.recoverable), device.days_left.into()]);
            row
        })
    }
}

impl Gaps<Gap> {
    /// A row for each gap.
    #[must_use]
    pub fn into_answer(self) -> Answer {
        let times = ["from", "to"].map(|name| AnswerColumn::key(name).of_kind(Kind::Timestamp)).into_iter();
        let values = [("length", "intervals"), ("days_left", "d")];
        let values = values.map(|(name, unit)| AnswerColumn::value(name.to_owned(), unit));
        self.answer(times.chain([AnswerColumn::key("cause")]).chain(values), |gap, has_accounts| {
            let mut row = gap.of.cells(has_accounts);
            row.extend([gap.from.into(), gap.to.into(), Cell::Text(gap.cause.name().to_owned())]);
            row.extend([Cell::count(gap.intervals), gap.days_left.into()]);
            row
        })
    }
}

impl Missed {
    /// A device in one of several accounts is told by it.
    fn cells(self, has_accounts: bool) -> Vec<Cell> {
        let account = has_accounts.then_some(Cell::Text(self.account));
        account.into_iter().chain([Cell::Text(self.device), self.device_name.into()]).collect()
    }
}

/// What was seen, as it is told.
struct Told<'a> {
    options: &'a GapsOptions,
    seen: &'a Seen,
    /// A device in one of several accounts is told by it.
    has_accounts: bool,
}

impl<'a> Told<'a> {
    fn of(seen: &'a Seen, options: &'a GapsOptions) -> Self {
        let accounts: BTreeSet<&String> = seen.devices.keys().map(|(account, _)| account).collect();
        Self { options, seen, has_accounts: accounts.len() > 1 }
    }

    /// What is missing of each device.
    fn by_device(&self) -> Gaps<DeviceGaps> {
        let of_device = |(device, seeings)| {
            let runs = self.runs(device, seeings);
            let missing = |cause| runs.iter().filter(|run| run.cause == cause).map(Run::intervals).sum();
            let missing: [usize; _] = Cause::ALL.map(missing);
            DeviceGaps {
                of: self.missed(device),
                expected: self.seen.buckets.count(),
                present: self.seen.buckets.count() - missing.iter().sum::<usize>(),
                missing,
                recoverable: runs.iter().map(|run| self.recoverable(run).count()).sum(),
                days_left: runs.iter().filter_map(|run| self.days_left(run)).min_by(f64::total_cmp),
            }
        };
        let all: Vec<DeviceGaps> = self.seen.devices.iter().map(of_device).collect();
        let present = all.iter().map(|device| device.present).sum();
        self.gaps_of(all, present)
    }

    /// Each gap.
    fn each(&self) -> Result<Gaps<Gap>, QueryError> {
        // More would take more room than there is: they are counted before any is told.
        let (mut count, mut missing) = (0, 0);
        for (device, seeings) in &self.seen.devices {
            let runs = self.runs(device, seeings);
            (count, missing) = (count + runs.len(), missing + runs.iter().map(Run::intervals).sum::<usize>());
        }
        if count > MOST_ROWS {
            return Err(QueryError::Long { what: "gaps", most: MOST_ROWS });
        }
        let of_device = |(device, seeings)| {
            self.runs(device, seeings).into_iter().map(move |run| Gap {
                of: self.missed(device),
                from: self.seen.buckets.start(run.first),
                to: self.seen.buckets.start(run.last + 1),
                cause: run.cause,
                intervals: run.intervals(),
                days_left: self.days_left(&run),
            })
        };
        let all = self.seen.devices.iter().flat_map(of_device).collect();
        Ok(self.gaps_of(all, self.expected() - missing))
    }

    fn gaps_of<T>(&self, all: Vec<T>, present: usize) -> Gaps<T> {
        let (has_accounts, expected, devices) = (self.has_accounts, self.expected(), self.seen.devices.len());
        Gaps { all, has_accounts, expected, present, devices }
    }

    fn expected(&self) -> usize {
        self.seen.devices.len() * self.seen.buckets.count()
    }

    fn missed(&self, (account, device): &Device) -> Missed {
        let device_name = self.seen.names.get(device).cloned();
        Missed { account: account.clone(), device: device.clone(), device_name }
    }

    /// The gaps of a device.
    fn runs(&self, device: &Device, seeings: &Seeings) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let seen = self.seen.of(device, seeings);
        for bucket in 0..self.seen.buckets.count() {
            let Some(cause) = seen.cause(bucket) else { continue };
            match runs.last_mut() {
                Some(run) if (run.cause, run.last + 1) == (cause, bucket) => run.last = bucket,
                _ => runs.push(Run { cause, first: bucket, last: bucket }),
            }
        }
        runs
    }

    /// The intervals of a gap that Cloudflare's history still reaches; none where somebody had an answer, as who has read
    /// that history has, if there was nothing in it.
    fn recoverable(&self, gap: &Run) -> std::ops::RangeInclusive<usize> {
        let oldest = (self.options.now - HISTORY).timestamp_micros();
        let reached = (gap.first..=gap.last).find(|&bucket| self.seen.buckets.range(bucket).end > oldest);
        reached.filter(|_| gap.cause.is_missed()).unwrap_or(gap.last + 1)..=gap.last
    }

    /// Days until the oldest interval of a gap that can still be asked for is gone; none where all are.
    #[expect(clippy::cast_precision_loss, reason = "days for people")]
    fn days_left(&self, gap: &Run) -> Option<f64> {
        let oldest = self.recoverable(gap).next()?;
        let gone = self.seen.buckets.range(oldest).end + HISTORY.num_microseconds()?;
        Some((gone - self.options.now.timestamp_micros()) as f64 / 86_400e6)
    }
}

/// A gap, by its intervals.
struct Run {
    cause: Cause,
    first: usize,
    last: usize,
}

impl Run {
    fn intervals(&self) -> usize {
        self.last + 1 - self.first
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share of fewer than 2^53")]
fn share(part: usize, whole: usize) -> Cell {
    Cell::Number(part as f64 / whole as f64)
}
