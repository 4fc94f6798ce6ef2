//! Numbers, units and times as people read them.

use crate::clock::{Timestamp, Zone};
use crate::query::{Cell, digits};

/// Units that large values of another are shown in: from, from which value on, divided by what, to.
const LARGER: [(&str, f64, f64, &str); 7] = [
    ("us", 1_000.0, 1e3, "ms"),
    ("kB", 1e6, 1e6, "GB"),
    ("kB", 1e3, 1e3, "MB"),
    ("bytes", 1e6, 1e6, "MB"),
    ("bytes", 1e3, 1e3, "kB"),
    ("bytes/s", 1e6, 1e6, "MB/s"),
    ("bytes/s", 1e3, 1e3, "kB/s"),
];

/// By what values of a unit are divided, of which `most` is the largest, and the unit that they then have.
pub(super) fn scale(most: f64, unit: &str) -> (f64, String) {
    let larger = LARGER.iter().find(|(from, least, ..)| *from == unit && most.abs() >= *least);
    larger.map_or_else(|| (1.0, unit_words(unit)), |(_, _, divisor, to)| (*divisor, (*to).to_owned()))
}

/// A number that somebody chose, as short as it can be.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A unit for people.
pub(super) fn unit_words(unit: &str) -> String {
    match unit {
        "pct" => "%",
        "us" => "µs",
        "share" | "count" => "",
        unit => unit,
    }
    .to_owned()
}

/// A share of one.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A point in time, to the minute.
pub(super) fn moment(at: Timestamp, zone: Zone) -> String {
    zone.local(at).format("%Y-%m-%d %H:%M").to_string()
}

/// A cell of a table.
pub(super) fn cell(cell: &Cell, zone: Zone) -> String {
    match cell {
        Cell::Null => "-".to_owned(),
        Cell::Text(text) => text.clone(),
        Cell::Count(count) => count.to_string(),
        // A count of things has no fraction, and a share one digit of it.
        Cell::Number(value) if value.fract() == 0.0 => format!("{value:.0}"),
        Cell::Number(value) if (value * 10.0).fract() == 0.0 => format!("{value:.1}"),
        Cell::Number(value) => digits(*value),
        Cell::Time(at) => moment(*at, zone),
    }
}
