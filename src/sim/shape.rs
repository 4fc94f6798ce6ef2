//! The forms in which one device's states come: the age of its schema, how it prints time, its quirks.
//!
//! It decides; the writing of the body is done elsewhere.

use std::str::FromStr;

use chrono::{DateTime, Datelike, Timelike};

use super::SimError;
use super::dice::{Dice, Topic};
use super::json::{push_digits, push_int};

/// Which of the API's ages the bodies come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// As documented since June 2026.
    #[default]
    Current,
    /// As documented from January 2025: nested lists of apps, no registration, no tunnel counters.
    Legacy,
    /// Either, by device; with every form of timestamp, unknown keys, and values of wrong types.
    Mixed,
}

impl FromStr for Shape {
    type Err = SimError;

    fn from_str(text: &str) -> Result<Self, SimError> {
        match text {
            "current" => Ok(Self::Current),
            "legacy" => Ok(Self::Legacy),
            "mixed" => Ok(Self::Mixed),
            _ => Err(SimError::Shape(text.to_owned())),
        }
    }
}

/// How a device prints time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeForm {
    /// `2023-10-11 00:00:00.123+00`
    Space,
    /// `2023-10-11T00:00:00Z`
    WholeSeconds,
    /// `2023-10-11T00:00:00.123Z`
    Millis,
    /// `2023-10-11T00:00:00.123000Z`
    Micros,
    /// `2023-10-11T00:00:00.123000000+00:00`
    Nanos,
    /// `2023-10-11 00:00:00.123+0000`
    SpaceLong,
    /// `2023-10-11 00:00:00.123`
    NoOffset,
    /// `1696982400123`
    EpochMs,
}

const FORMS: [TimeForm; 8] = [
    TimeForm::Space,
    TimeForm::WholeSeconds,
    TimeForm::Millis,
    TimeForm::Micros,
    TimeForm::Nanos,
    TimeForm::SpaceLong,
    TimeForm::NoOffset,
    TimeForm::EpochMs,
];

/// Values that no schema allows where they stand.
const WRONG: [(&str, &str); 10] = [
    ("cpuPct", "\"12.5\""),
    ("alwaysOn", "\"yes\""),
    ("batteryCycles", "\"many\""),
    ("firewallEnabled", "1"),
    ("rtt", "17"),
    ("tunnelStats", "[]"),
    ("deviceIpv4", "\"192.168.1.2\""),
    ("ramUsedPctByApp", "{\"name\":\"Slack\",\"ram_used_pct\":3.5}"),
    ("networkRcvdBps", "{\"value\":7}"),
    ("wifiStrengthDbm", "false"),
];

/// How the bodies of one device are written.
#[expect(clippy::struct_excessive_bools, reason = "each is a quirk of its own")]
#[derive(Clone, Copy)]
pub(super) struct Form {
    dice: Dice,
    pub(super) legacy: bool,
    pub(super) time: TimeForm,
    /// Nulls are left out.
    pub(super) terse: bool,
    /// Personal data of the public address is hidden.
    pub(super) redacted: bool,
    mixed: bool,
}

impl Form {
    pub(super) fn of(shape: Shape, device: Dice) -> Self {
        let dice = device.on(Topic::Shape);
        let mixed = shape == Shape::Mixed;
        let legacy = shape == Shape::Legacy || mixed && dice.chance(0.3);
        let time = match shape {
            Shape::Current => TimeForm::Space,
            Shape::Legacy => TimeForm::WholeSeconds,
            Shape::Mixed => *device.on(Topic::TimeForm).pick(&FORMS),
        };
        let (terse, redacted) = (mixed && dice.with(1).chance(0.2), mixed && dice.with(2).chance(0.05));
        Self { dice, legacy, time, terse, redacted, mixed }
    }

    /// Whether answers about this device come without an envelope; `plain` is the server's way.
    pub(super) fn bare(&self, plain: bool) -> bool {
        if self.mixed { self.dice.with(3).chance(0.5) } else { plain }
    }

    /// Whether the report has keys that no schema knows.
    pub(super) fn has_extra_keys(&self, at_ms: i64) -> bool {
        self.mixed && (self.dice.with(4).chance(0.03) || self.dice.with(5).at(at_ms).chance(0.01))
    }

    /// The key that has a value of a wrong type in this report, with that value.
    pub(super) fn wrong_value(&self, at_ms: i64) -> Option<(&'static str, &'static str)> {
        let dice = self.dice.on(Topic::Quirk).at(at_ms);
        (self.mixed && dice.chance(0.02)).then(|| *dice.with(1).pick(&WRONG))
    }
}

/// Prints a time; a fraction that is not zero is never dropped.
pub(super) fn push_time(out: &mut String, at_ms: i64, form: TimeForm) {
    if form == TimeForm::EpochMs {
        return push_int(out, at_ms);
    }
    let at = DateTime::from_timestamp_millis(at_ms).unwrap_or_default();
    push_digits(out, u64::try_from(at.year()).unwrap_or(0), 4);
    let spaced = matches!(form, TimeForm::Space | TimeForm::SpaceLong | TimeForm::NoOffset);
    let between = if spaced { " " } else { "T" };
    let parts = [("-", at.month()), ("-", at.day()), (between, at.hour()), (":", at.minute()), (":", at.second())];
    for (before, part) in parts {
        out.push_str(before);
        push_digits(out, part.into(), 2);
    }
    let millis = at.timestamp_subsec_millis();
    if form != TimeForm::WholeSeconds || millis > 0 {
        out.push('.');
        push_digits(out, millis.into(), 3);
    }
    out.push_str(match form {
        TimeForm::Space => "+00",
        TimeForm::Micros => "000Z",
        TimeForm::Nanos => "000000+00:00",
        TimeForm::SpaceLong => "+0000",
        TimeForm::NoOffset | TimeForm::EpochMs => "",
        TimeForm::WholeSeconds | TimeForm::Millis => "Z",
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{from_epoch, parse_timestamp};

    #[test]
    fn every_form_of_time_names_the_same_moment() {
        for ms in [1_696_982_400_123, 1_696_982_400_000] {
            for form in FORMS {
                let mut text = String::new();
                push_time(&mut text, ms, form);
                assert_eq!(parse_timestamp(&text), from_epoch(ms), "{text}");
            }
        }
    }

    #[test]
    fn the_default_form_has_a_space_and_a_short_offset() {
        let mut text = String::new();
        push_time(&mut text, 1_696_982_400_123, TimeForm::Space);
        assert_eq!(text, "2023-10-11 00:00:00.123+00");
    }
}
