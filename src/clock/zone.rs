//! Time zones: what the clock on the wall shows, and when it shows it.
//!
//! The IANA database is compiled in, as text that is read when a zone is asked for.

use std::fmt;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDateTime, Timelike};
use jiff::tz::TimeZone;

use super::Timestamp;

/// A time zone of the IANA database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone(&'static TimeZone);

static UTC: TimeZone = TimeZone::UTC;

impl Zone {
    /// Universal time.
    pub const UTC: Self = Self(&UTC);

    /// The time zone of a name, as `UTC` or `Europe/Berlin`; upper and lower case are one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("utc") {
            return Some(Self::UTC);
        }
        let zone = jiff::tz::db().get(name).ok()?;
        // There are few in the life of a program, and they live as long as it does.
        Some(Self(Box::leak(Box::new(zone))))
    }

    /// What the clock on the wall shows, and how far it is ahead of universal time.
    #[must_use]
    pub fn local(self, at: Timestamp) -> DateTime<FixedOffset> {
        // Jiff's time ends two days before that of the archive.
        let moment = jiff::Timestamp::from_microsecond(at.timestamp_micros()).unwrap_or(jiff::Timestamp::MAX);
        let seconds = self.0.to_offset(moment).seconds();
        let offset = FixedOffset::east_opt(seconds).expect("no offset is a day long");
        // At either end of time there is no such time by the clock on the wall.
        let has_local = at.naive_utc().checked_add_offset(offset).is_some();
        at.with_timezone(if has_local { &offset } else { const { &FixedOffset::east_opt(0).expect("no offset") } })
    }

    /// When the clock on the wall first shows this; where it is put forward over it, so much later.
    #[must_use]
    pub fn moment(self, local: NaiveDateTime) -> Option<Timestamp> {
        if self == Self::UTC {
            return Some(local.and_utc());
        }
        let small = |number: u32| i8::try_from(number).ok();
        let (year, nanos) = (i16::try_from(local.year()).ok()?, i32::try_from(local.nanosecond()).ok()?);
        let date = jiff::civil::Date::new(year, small(local.month())?, small(local.day())?).ok()?;
        let time = [local.hour(), local.minute(), local.second()].map(small);
        let time = jiff::civil::Time::new(time[0]?, time[1]?, time[2]?, nanos).ok()?;
        let moment = self.0.to_ambiguous_timestamp(date.to_datetime(time)).compatible().ok()?;
        super::from_micros(moment.as_microsecond())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::parse_timestamp;

    #[test]
    fn the_last_days_of_all_have_a_clock_too() {
        let local = chrono::NaiveDate::from_ymd_opt(9999, 12, 31).expect("a day").and_time(chrono::NaiveTime::MIN);
        let last = parse_timestamp("9999-12-31T00:00:00Z").expect("a time");
        assert_eq!(Zone::UTC.moment(local), Some(last));
        let berlin = Zone::parse("Europe/Berlin").expect("a zone");
        assert_eq!(berlin.local(last).to_string(), "9999-12-31 01:00:00 +01:00");
    }
}
