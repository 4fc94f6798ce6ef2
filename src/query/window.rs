//! A stretch of time, and the buckets that it is cut into.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use arrow_array::{Array, TimestampMicrosecondArray};
use chrono::{Days, NaiveDate, NaiveTime, TimeDelta};

use crate::clock::{self, Timestamp, Zone};

use super::QueryError;

/// The most buckets that a trend has.
pub(super) const MOST_BUCKETS: u64 = 100_000;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

/// A stretch of time: from `since` on, up to and without `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its first moment.
    pub since: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
}

impl Window {
    /// The days (UTC) of which something lies in it.
    #[must_use]
    pub fn days(&self) -> RangeInclusive<NaiveDate> {
        // The end is not part of it: a window that ends at midnight does not touch the day after.
        let last = self.until - TimeDelta::microseconds(1);
        self.since.date_naive()..=last.date_naive()
    }

    /// In microseconds since the Unix epoch.
    pub(super) fn micros(&self) -> Range<i64> {
        self.since.timestamp_micros()..self.until.timestamp_micros()
    }

    /// Whether the time of a row lies in it; a row without one lies nowhere.
    pub(super) fn holds_row(&self, times: &TimestampMicrosecondArray, row: usize) -> bool {
        times.is_valid(row) && self.holds(times.value(row))
    }

    pub(super) fn holds(&self, micros: i64) -> bool {
        self.micros().contains(&micros)
    }

    /// What of it lies in another one, if anything does.
    #[must_use]
    pub fn within(&self, other: &Self) -> Option<Self> {
        let both = Self { since: self.since.max(other.since), until: self.until.min(other.until) };
        both.check().is_ok().then_some(both)
    }

    /// Whether it has a length.
    ///
    /// # Errors
    /// Says so where it has none.
    pub fn check(&self) -> Result<(), QueryError> {
        if self.until <= self.since { Err(QueryError::EmptyWindow(*self)) } else { Ok(()) }
    }
}

/// Where the buckets of a window lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Buckets {
    /// In microseconds since the Unix epoch, the beginning of each, and the end of the last.
    edges: Vec<i64>,
}

impl Buckets {
    /// Buckets begin at whole multiples of their length since the Unix epoch; in a time zone, at its midnight and
    /// whole multiples of their length after it, or at every so many midnights. Those of more than an hour begin when
    /// its clock shows the same hours on each day: where it is changed, one is longer or shorter. Weeks begin on Mondays.
    pub(super) fn new(window: Window, every: Duration, zone: Zone) -> Result<Self, QueryError> {
        window.check()?;
        let every = i64::try_from(every.as_micros()).unwrap_or(i64::MAX).max(1);
        let Range { start: since, end: until } = window.micros();
        let count = (until - 1).div_euclid(every) - since.div_euclid(every) + 1;
        if count.unsigned_abs() > MOST_BUCKETS {
            return Err(QueryError::Buckets { buckets: count.unsigned_abs() });
        }
        let mut edges: Vec<i64> = Vec::new();
        for start in starts(window.since, every, zone)? {
            // A day that a time zone leaves out begins when the next one does.
            if edges.last().is_some_and(|&last| start <= last) {
                continue;
            }
            if start <= since {
                edges.clear();
            }
            edges.push(start);
            if start >= until {
                break;
            }
        }
        // The calendar begins after a bucket of that length does, or ends before it.
        if edges.first().is_none_or(|&edge| edge > since) {
            edges.insert(0, since);
        }
        if edges.last().is_none_or(|&edge| edge < until) {
            edges.push(until);
        }
        Ok(Self { edges })
    }

    /// Those that have ended, and when the last of them did; none where none has.
    pub(super) fn ended_by(mut self, now: Timestamp) -> Option<(Self, Timestamp)> {
        self.edges.retain(|&edge| edge <= now.timestamp_micros());
        let end = self.edges.last().filter(|_| self.edges.len() > 1).and_then(|&end| clock::from_micros(end))?;
        Some((self, end))
    }

    pub(super) fn count(&self) -> usize {
        self.edges.len() - 1
    }

    /// The beginning of a bucket.
    pub(super) fn start(&self, bucket: usize) -> Option<Timestamp> {
        clock::from_micros(self.edges[bucket])
    }

    /// The bucket of a time in the window: the one that is tried first, or another.
    pub(super) fn of(&self, micros: i64, first: usize) -> usize {
        if self.range(first).contains(&micros) {
            return first;
        }
        self.edges.partition_point(|&edge| edge <= micros).saturating_sub(1).min(self.count() - 1)
    }

    /// Where a bucket begins and ends.
    pub(super) fn range(&self, bucket: usize) -> Range<i64> {
        self.edges[bucket]..self.edges[bucket + 1]
    }
}

/// Days from the Unix epoch to the first Monday in it.
const FIRST_MONDAY: i64 = 4;

/// Where buckets of so many microseconds begin, from the one that a moment is in on, or from an earlier one.
fn starts(since: Timestamp, every: i64, zone: Zone) -> Result<Box<dyn Iterator<Item = i64>>, QueryError> {
    if zone == Zone::UTC {
        let begin = if every % (7 * DAY) == 0 { FIRST_MONDAY * DAY } else { 0 };
        let first = (since.timestamp_micros() - begin).div_euclid(every);
        return Ok(Box::new((first..).map_while(move |at| at.checked_mul(every)?.checked_add(begin))));
    }
    if every % DAY == 0 {
        return Ok(Box::new(midnights(since, every / DAY, zone)));
    }
    if DAY % every != 0 {
        return Err(QueryError::ZoneBuckets);
    }
    if every > HOUR {
        let times = dates(since, 1, zone).flat_map(move |date| {
            (0..DAY / every).map(move |at| date.and_time(NaiveTime::MIN) + TimeDelta::microseconds(at * every))
        });
        return Ok(Box::new(times.map_while(move |time| Some(zone.moment(time)?.timestamp_micros()))));
    }
    let days = midnights(since, 1, zone);
    let starts = days
        .clone()
        .zip(days.skip(1))
        .flat_map(move |(day, next)| (0..).map(move |at| day + at * every).take_while(move |&start| start < next));
    Ok(Box::new(starts))
}

/// Every so many midnights of a time zone, from the last before a moment on.
fn midnights(since: Timestamp, days: i64, zone: Zone) -> impl Iterator<Item = i64> + Clone {
    dates(since, days, zone).map_while(move |date| Some(clock::midnight(date, zone)?.timestamp_micros()))
}

/// Every so many days of a time zone, from that of a moment on or one before.
fn dates(since: Timestamp, days: i64, zone: Zone) -> impl Iterator<Item = NaiveDate> + Clone {
    let day = zone.local(since).date_naive();
    let begin = if days % 7 == 0 { FIRST_MONDAY } else { 0 };
    let number = day.signed_duration_since(NaiveDate::default()).num_days() - begin;
    let number = number.div_euclid(days) * days + begin;
    let date = move |number: i64| match u64::try_from(number) {
        Ok(number) => NaiveDate::default().checked_add_days(Days::new(number)),
        Err(_before_the_epoch) => NaiveDate::default().checked_sub_days(Days::new(number.unsigned_abs())),
    };
    (0..).map_while(move |at: i64| date(number + at * days))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(since: &str, until: &str, every_minutes: u64, zone: &str) -> Vec<String> {
        let time = |text| clock::parse_timestamp(text).expect("a time");
        let zone = Zone::parse(zone).expect("a zone");
        let window = Window { since: time(since), until: time(until) };
        let buckets = Buckets::new(window, Duration::from_secs(60 * every_minutes), zone).expect("buckets");
        let edges = buckets.edges.iter().map(|&edge| clock::from_micros(edge).expect("a time"));
        edges.map(|edge| edge.format("%dT%H:%M").to_string()).collect()
    }

    #[test]
    fn buckets_begin_at_multiples_of_their_length() {
        let edges = buckets("2026-10-01T03:10:00Z", "2026-10-01T05:00:00Z", 60, "UTC");
        assert_eq!(edges, ["01T03:00", "01T04:00", "01T05:00"]);
        assert_eq!(buckets("2026-10-01T03:10:00Z", "2026-10-01T03:11:00Z", 1_440, "UTC"), ["01T00:00", "02T00:00"]);
    }

    #[test]
    fn a_week_begins_on_monday() {
        for zone in ["UTC", "Europe/London"] {
            let weeks = buckets("2026-01-06T10:00:00Z", "2026-01-20T10:00:00Z", 7 * 1_440, zone);
            assert_eq!(weeks, ["05T00:00", "12T00:00", "19T00:00", "26T00:00"], "{zone}");
        }
        assert_eq!(buckets("1969-12-31T10:00:00Z", "1970-01-01T10:00:00Z", 7 * 1_440, "UTC"), ["29T00:00", "05T00:00"]);
    }

    #[test]
    fn a_day_is_the_time_zones_own() {
        // On 25 October 2026 the clocks of Berlin go back.
        let days = buckets("2026-10-24T10:00:00Z", "2026-10-26T10:00:00Z", 1_440, "Europe/Berlin");
        assert_eq!(days, ["23T22:00", "24T22:00", "25T23:00", "26T23:00"]);
        let quarters = buckets("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 360, "Europe/Berlin");
        assert_eq!(quarters, ["24T22:00", "25T05:00", "25T11:00", "25T17:00", "25T23:00"]);
        // The hour that comes twice is two; in March one is left out.
        let hours = buckets("2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z", 60, "Europe/Berlin");
        assert_eq!(hours, ["25T00:00", "25T01:00", "25T02:00"]);
        let spring = buckets("2026-03-28T23:00:00Z", "2026-03-29T10:00:00Z", 120, "Europe/Berlin");
        assert_eq!(spring, ["28T23:00", "29T01:00", "29T02:00", "29T04:00", "29T06:00", "29T08:00", "29T10:00"]);
        // The day that Samoa left out has no bucket.
        let apia = buckets("2011-12-30T00:00:00Z", "2011-12-30T22:00:00Z", 360, "Pacific/Apia");
        assert_eq!(apia, ["29T22:00", "30T04:00", "30T10:00", "30T16:00", "30T22:00"]);
        let half_hour_off = buckets("2026-10-24T22:00:00Z", "2026-10-24T23:00:00Z", 60, "Asia/Kolkata");
        assert_eq!(half_hour_off, ["24T21:30", "24T22:30", "24T23:30"]);
        // On Samoa a day was left out.
        let apia = buckets("2011-12-29T12:00:00Z", "2012-01-01T00:00:00Z", 1_440, "Pacific/Apia");
        assert_eq!(apia.first().map(String::as_str), Some("29T10:00"));
        assert!(apia.last().is_some_and(|last| last.as_str() >= "01T00:00" && last.as_str() < "03"), "{apia:?}");
        let ages = buckets("2026-10-01T00:00:00Z", "2026-10-02T00:00:00Z", 100_000_000 * 1_440, "Europe/Berlin");
        assert_eq!(ages.len(), 2);
        let ages = buckets("1960-01-01T00:00:00Z", "2026-10-02T00:00:00Z", 99_999_999 * 1_440, "Europe/Berlin");
        assert_eq!(ages.first().map(String::as_str), Some("01T00:00"), "{ages:?}");
        // In Santiago the clocks go forward at midnight.
        let late = buckets("2026-09-06T00:00:00Z", "2026-09-06T12:00:00Z", 1_440, "America/Santiago");
        assert_eq!(late, ["05T04:00", "06T04:00", "07T03:00"]);
    }

    #[test]
    fn a_time_finds_its_bucket_whatever_is_tried_first() {
        let time = |text: &str| clock::parse_timestamp(text).expect("a time");
        let window = Window { since: time("2026-10-01T00:10:00Z"), until: time("2026-10-01T04:00:00Z") };
        let buckets = Buckets::new(window, Duration::from_hours(1), Zone::UTC).expect("buckets");
        for first in 0..buckets.count() {
            for (text, bucket) in [("00:10", 0), ("00:59", 0), ("01:00", 1), ("03:59", 3)] {
                let micros = time(&format!("2026-10-01T{text}:00Z")).timestamp_micros();
                assert_eq!(buckets.of(micros, first), bucket, "{text} from {first}");
            }
        }
    }
}
