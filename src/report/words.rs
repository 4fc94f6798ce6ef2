//! Numbers, units and times as people read them.

use crate::clock::{Timestamp, Zone};
use crate::query::Cell;
use crate::shown::digits;

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

/// What numbers are shown in that are too long for an axis.
const SHORTER: [(f64, &str); 3] = [(1e9, "G"), (1e6, "M"), (1e3, "k")];

/// A number that somebody chose, as short as it can be: two decimals, or below one three digits that count.
pub(super) fn plain(value: f64) -> String {
    let text = match value.abs() {
        0.0 => return "0".to_owned(),
        1.0.. => format!("{value:.2}"),
        1e-6.. => rounded(value, 3).to_string(),
        _ => return format!("{:e}", rounded(value, 3)),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A number at an axis that goes up to `most`: there is room for few digits.
pub(super) fn short(value: f64, most: f64) -> String {
    match most {
        _ if value == 0.0 => "0".to_owned(),
        1e12.. => format!("{:e}", rounded(value, 3)),
        1e5.. => {
            let larger = SHORTER.into_iter().find(|(divisor, _)| most >= *divisor);
            larger.map_or_else(|| plain(value), |(divisor, letter)| plain(value / divisor) + letter)
        }
        _ => plain(value),
    }
}

/// A number of so many digits that count: further ones are the noise of its computation.
fn rounded(value: f64, digits: usize) -> f64 {
    format!("{value:.*e}", digits.saturating_sub(1)).parse().unwrap_or(value)
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
        Cell::Flag(flag) => flag.to_string(),
        Cell::Count(count) => count.to_string(),
        // A count of things has no fraction, and a share one digit of it.
        Cell::Number(value) if value.abs() >= 1e15 => digits(*value),
        Cell::Number(value) if rounded(*value, 4).fract() == 0.0 => format!("{value:.0}"),
        Cell::Number(value) if (rounded(*value, 4) * 10.0).fract() == 0.0 => format!("{value:.1}"),
        Cell::Number(value) => digits(*value),
        Cell::Time(at) => moment(*at, zone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_decimals_that_it_needs() {
        let texts = [0.0, 2.0, 99.5, 1_000.0, 150.25, 0.9, 0.001, 0.012_34, -0.05].map(plain);
        assert_eq!(texts, ["0", "2", "99.5", "1000", "150.25", "0.9", "0.001", "0.0123", "-0.05"]);
        assert_eq!([plain(2e-12), plain(0.1 + 0.2), plain(0.999_99)], ["2e-12", "0.3", "1"]);
    }

    #[test]
    fn large_numbers_are_short_at_an_axis() {
        let texts = [0.0, 50_000.0, 99_999.0].map(|value| short(value, 99_999.0));
        assert_eq!(texts, ["0", "50000", "99999"]);
        assert_eq!([0.0, 50_000.0, 150_000.0].map(|value| short(value, 150_000.0)), ["0", "50k", "150k"]);
        assert_eq!([5e6, 12e6].map(|value| short(value, 12_345_678.0)), ["5M", "12M"]);
        assert_eq!([-2e9, 5e8].map(|value| short(value, 2e9)), ["-2G", "0.5G"]);
        assert_eq!([short(0.0, 1e308), short(1e308, 1e308)], ["0", "1e308"]);
    }

    #[test]
    fn noise_is_no_decimal_of_a_cell() {
        let texts = [7.9, 7.8 + 1e-12, 7.999_999_999, 12_345.0, 0.25, 1_234.6, -1e300];
        let texts = texts.map(|value| cell(&Cell::Number(value), Zone::UTC));
        assert_eq!(texts, ["7.9", "7.8", "8", "12345", "0.2500", "1235", "-1.000e300"]);
    }
}
