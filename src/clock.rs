//! Time: the only wall clock of the program, and the lenient reading of timestamps.
//!
//! Everything else is handed a [`Clock`] or a `now`, so that tests and the demo run on a simulated
//! day. Nothing here sleeps; waiting is tokio's business.

mod zone;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;

pub use zone::Zone;

/// A point in time, in UTC. The archive keeps microseconds.
pub type Timestamp = DateTime<Utc>;

/// The latest epoch milliseconds that are read as a timestamp: the end of the year 9999.
const MAX_EPOCH_MS: i64 = 253_402_300_799_999;

/// The earliest epoch milliseconds that are, of 1973.
const LEAST_EPOCH_MS: i64 = 100_000_000_000;

/// The earliest in seconds.
const LEAST_EPOCH_S: i64 = LEAST_EPOCH_MS / 1_000;

/// Where `now` comes from: the system, or a simulated day that only [`Clock::advance`] moves.
#[derive(Clone, Debug)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The system's wall clock.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `start` until it is advanced. Clones share its hands.
    #[must_use]
    pub fn simulated(start: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicI64::new(start.timestamp_micros()))))
    }

    /// The time now, cut to the microsecond.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let micros = match &self.0 {
            Some(hands) => hands.load(Ordering::SeqCst),
            None => system_now().timestamp_micros(),
        };
        from_micros(micros).expect("a clock stands within the years that chrono knows")
    }

    /// Moves a simulated clock forward; the system's clock moves by itself.
    pub fn advance(&self, by: TimeDelta) {
        if let Some(hands) = &self.0 {
            let micros = by.num_microseconds().unwrap_or(i64::MAX);
            hands.fetch_add(micros, Ordering::SeqCst);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that asks the system for the time")]
fn system_now() -> Timestamp {
    Utc::now()
}

/// Microseconds since the Unix epoch as a timestamp; `None` outside chrono's range.
#[must_use]
pub fn from_micros(micros: i64) -> Option<Timestamp> {
    DateTime::from_timestamp_micros(micros)
}

/// A time since the Unix epoch, 1973 to 9999, in milliseconds. Smaller numbers are seconds, as far as those are of 1973
/// or later: no number is both.
#[must_use]
pub fn from_epoch(count: i64) -> Option<Timestamp> {
    match count {
        LEAST_EPOCH_MS..=MAX_EPOCH_MS => DateTime::from_timestamp_millis(count),
        LEAST_EPOCH_S..LEAST_EPOCH_MS => DateTime::from_timestamp(count, 0),
        _ => None,
    }
}

/// Reads a timestamp in any form the API has been seen or said to use: `T` or a space between date
/// and time, up to nine fraction digits (cut to the microsecond), `Z`, `+00`, `+0000`, `+00:00` or
/// any other offset, no offset at all (UTC), or digits alone, as [`from_epoch`] reads them.
///
/// A leap second (`:60`) has no place in microseconds since the epoch and is not read.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return from_epoch(text.parse().ok()?);
    }
    let bytes = text.as_bytes();
    let date = parse_date_bytes(bytes.get(..10)?)?;
    let (seconds, rest) = parse_time_of_day(bytes.get(10..)?)?;
    let (nanos, rest) = parse_fraction(rest)?;
    let offset = parse_offset(rest)?;
    let midnight = date.and_hms_opt(0, 0, 0)?.and_utc();
    let at = midnight + TimeDelta::seconds(i64::from(seconds) - i64::from(offset));
    at.checked_add_signed(TimeDelta::microseconds(i64::from(nanos / 1_000))).filter(has_four_digits)
}

/// Whether the year is one that every reader of a date knows: 1 to 9999.
fn has_four_digits(at: &Timestamp) -> bool {
    (1..=9999).contains(&at.year())
}

/// Reads `YYYY-MM-DD`.
#[must_use]
pub fn parse_date(text: &str) -> Option<NaiveDate> {
    parse_date_bytes(text.as_bytes())
}

/// Reads a duration as people type it: `90s`, `5m`, `1h`, `7d`, and their sums (`1h30m`).
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest.get(..digits)?.parse().ok()?;
        let (unit, after) = split_unit(&rest[digits..])?;
        total = total.checked_add(Duration::from_millis(count.checked_mul(unit)?))?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// Milliseconds since the Unix epoch have so many digits at least; fewer that somebody types are not read as a time.
const SHORTEST_EPOCH_MS: usize = 12;

/// Reads a point in time as people type it: RFC 3339 and its relatives, a date (its first moment), `now`, or how
/// long ago (`7d`). What names no offset is the time zone's.
#[must_use]
pub fn parse_point(text: &str, zone: Zone, now: Timestamp) -> Option<Timestamp> {
    if text == "now" {
        return Some(now);
    }
    if let Some(ago) = parse_duration(text) {
        return now.checked_sub_signed(TimeDelta::from_std(ago).ok()?).filter(has_four_digits);
    }
    if text.len() < SHORTEST_EPOCH_MS && text.bytes().all(|letter| letter.is_ascii_digit()) {
        // Rather a length of time without its unit than a moment in seconds.
        return None;
    }
    if let Some(date) = parse_date(text) {
        return midnight(date, zone);
    }
    let forms = ["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let local = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let with_offset = |form| DateTime::parse_from_str(text, form).ok().map(|at| at.to_utc()).filter(has_four_digits);
    match local {
        Some(local) => zone.moment(local).filter(has_four_digits),
        None => parse_timestamp(text)
            .or_else(|| ["%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M%#z"].into_iter().find_map(with_offset)),
    }
}

/// When a day begins in a time zone. Where the clock is put forward at midnight, that is later than 00:00.
#[must_use]
pub fn midnight(date: NaiveDate, zone: Zone) -> Option<Timestamp> {
    zone.moment(date.and_time(NaiveTime::MIN))
}

/// A timestamp in a time zone, with its offset, to the microsecond; in UTC as [`format_timestamp`] has it.
#[must_use]
pub fn format_in(at: Timestamp, zone: Zone) -> String {
    zone.local(at).to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A timestamp as the archive prints and journals it: RFC 3339 in UTC, to the microsecond.
#[must_use]
pub fn format_timestamp(at: Timestamp) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A point in time that is a timestamp in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Moment(#[serde(with = "rfc3339")] pub Timestamp);

/// Timestamps in JSON, in the form of [`format_timestamp`]: for `#[serde(with = "clock::rfc3339")]`.
pub mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes a timestamp.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(at: &super::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_timestamp(*at))
    }

    /// Reads a timestamp.
    ///
    /// # Errors
    /// Where the text is no timestamp.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<super::Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_timestamp(&text).ok_or_else(|| D::Error::custom("not a timestamp"))
    }
}

/// The last whole multiple of a length since the Unix epoch that is not after a time. The time itself where a length
/// has no multiples: it is not above 0.
#[must_use]
pub fn floor(at: Timestamp, every: TimeDelta) -> Timestamp {
    let every = every.num_microseconds().unwrap_or(i64::MAX);
    let micros = at.timestamp_micros();
    let floor = micros.checked_rem_euclid(every).filter(|_| every > 0).and_then(|past| micros.checked_sub(past));
    floor.and_then(from_micros).unwrap_or(at)
}

/// A duration in whole seconds, rounded up, as estimates are told.
#[must_use]
pub fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0)))
}

/// The units of durations, the longest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration in the shortest form that [`parse_duration`] reads back, to the millisecond.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, size) in UNITS {
        if ms >= size {
            text.push_str(&(ms / size).to_string());
            text.push_str(unit);
            ms %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The milliseconds of the unit that `text` begins with, and what follows the unit.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    // `ms` begins with `m`.
    UNITS.into_iter().rev().find_map(|(unit, ms)| Some((ms, text.strip_prefix(unit)?)))
}

fn parse_date_bytes(bytes: &[u8]) -> Option<NaiveDate> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = bytes else { return None };
    let year = i32::try_from(digits(&[*y1, *y2, *y3, *y4])?).ok()?;
    NaiveDate::from_ymd_opt(year, digits(&[*m1, *m2])?, digits(&[*d1, *d2])?)
}

/// Reads `Thh:mm:ss` (or a space for the `T`): seconds since midnight, and what follows.
fn parse_time_of_day(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let [b'T' | b't' | b' ', h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = bytes else { return None };
    let (hour, minute, second) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?, digits(&[*s1, *s2])?);
    (hour < 24 && minute < 60 && second < 60).then_some((hour * 3_600 + minute * 60 + second, rest))
}

/// Reads an optional fraction of a second: nanoseconds, and what follows.
fn parse_fraction(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let [b'.' | b',', rest @ ..] = bytes else { return Some((0, bytes)) };
    let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if count == 0 || count > 9 {
        return None;
    }
    let power = u32::try_from(9 - count).ok()?;
    Some((digits(&rest[..count])? * 10_u32.pow(power), &rest[count..]))
}

/// Reads the offset that ends a timestamp, in seconds east of UTC.
fn parse_offset(bytes: &[u8]) -> Option<i32> {
    let (sign, hours, minutes) = match bytes {
        [] | [b'Z' | b'z'] => return Some(0),
        [sign, h1, h2] => (sign, [*h1, *h2], [b'0'; 2]),
        [sign, h1, h2, m1, m2] | [sign, h1, h2, b':', m1, m2] => (sign, [*h1, *h2], [*m1, *m2]),
        _ => return None,
    };
    let (hours, minutes) = (digits(&hours)?, digits(&minutes)?);
    let seconds = i32::try_from(hours * 3_600 + minutes * 60).ok()?;
    match sign {
        _ if hours >= 24 || minutes >= 60 => None,
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

/// Up to nine ASCII digits as a number.
fn digits(bytes: &[u8]) -> Option<u32> {
    bytes.iter().try_fold(0_u32, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u32::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let read = parse_timestamp(text).map(|at| at.to_rfc3339());
        assert_eq!(read.as_deref().unwrap_or("-"), expect, "{text:?}");
    }

    #[test]
    fn reads_every_form_of_timestamp() {
        check("2023-10-11T00:00:00Z", "2023-10-11T00:00:00+00:00");
        // Seconds or milliseconds: no number is both.
        check("1696982400", "2023-10-11T00:00:00+00:00");
        check("1696982400000", "2023-10-11T00:00:00+00:00");
        check("16969824", "-");
        check("2023-10-11 00:00:00+00", "2023-10-11T00:00:00+00:00");
        check("2023-10-11 00:00:00.5+0000", "2023-10-11T00:00:00.500+00:00");
        check("2023-10-11T02:30:00+02:30", "2023-10-11T00:00:00+00:00");
        check("2023-10-10T22:00:00-02", "2023-10-11T00:00:00+00:00");
        check("2023-10-11T00:00:00", "2023-10-11T00:00:00+00:00");
        check("2023-10-11T00:00:00.123456789Z", "2023-10-11T00:00:00.123456+00:00");
        check("1696982400123", "2023-10-11T00:00:00.123+00:00");
        check("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00");
    }

    #[test]
    fn leaves_unreadable_timestamps_alone() {
        for text in [
            "",
            "now",
            "2023-10-11",
            "2023-02-30T00:00:00Z",
            "2023-10-11T24:00:00Z",
            "2023-10-11T23:59:60Z",
            "2023-10-11T00:00:00.Z",
            "2023-10-11T00:00:00.1234567890Z",
            "2023-10-11T00:00:00+25",
            "2023-10-11T00:00:00*00",
            "2023-10-11T00:00:00+00:00x",
            "99999999999999999",
            "253402300800000",
            "2023-10-11X00:00:00Z",
            "日本語日本語日本語",
        ] {
            check(text, "-");
        }
    }

    #[test]
    fn reads_durations_and_writes_them_back() {
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_mins(90)));
        assert_eq!(parse_duration("7d"), Some(Duration::from_hours(168)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "m", "5 m", "-5m", "5w", "99999999999999999999s", "99999999999999999d"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
        assert_eq!(format_duration(Duration::from_mins(90)), "1h30m");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn reads_points_in_time() {
        let now = parse_timestamp("2026-11-24T12:00:00Z").expect("a timestamp");
        let berlin = Zone::parse("europe/berlin").expect("a zone");
        let point = |text, zone| parse_point(text, zone, now);
        assert_eq!((point("7", Zone::UTC), point("2026", Zone::UTC)), (None, None));
        assert!(point("1764028800000", Zone::UTC).is_some());
        assert_eq!(point("now", berlin), Some(now));
        assert_eq!(point("1d", berlin), parse_timestamp("2026-11-23T12:00:00Z"));
        assert_eq!(point("2026-11-01", Zone::UTC), parse_timestamp("2026-11-01T00:00:00Z"));
        assert_eq!(point("2026-11-01", berlin), parse_timestamp("2026-10-31T23:00:00Z"));
        assert_eq!(point("2026-11-01 09:30", berlin), parse_timestamp("2026-11-01T08:30:00Z"));
        assert_eq!(point("2026-11-01T09:30:00.5", berlin), parse_timestamp("2026-11-01T08:30:00.5Z"));
        assert_eq!(point("2026-11-01T09:30:00Z", berlin), parse_timestamp("2026-11-01T09:30:00Z"));
        assert_eq!(point("tomorrow", berlin), None);
        assert_eq!(format_in(now, berlin), "2026-11-24T13:00:00.000000+01:00");
        assert_eq!(format_in(now, Zone::UTC), format_timestamp(now));
    }

    #[test]
    fn a_simulated_clock_stands_until_it_is_advanced() {
        let start = parse_timestamp("2026-11-24T12:00:00Z").expect("a timestamp");
        let clock = Clock::simulated(start);
        let twin = clock.clone();
        clock.advance(TimeDelta::minutes(5));
        assert_eq!(twin.now(), start + TimeDelta::minutes(5));
    }
}
