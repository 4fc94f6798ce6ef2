//! Writes days of a fleet as lines of JSON, in the order in which a collector would see them.
//!
//! No envelopes and no faults: bare bodies, one to a line.

use std::io::{self, Write};
use std::time::Duration;

use super::fleet::{Fleet, ceil_ms};
use crate::clock::Timestamp;

/// Writes for each tick, and within it for each device, the newest state that the device reported in
/// the tick; devices that were silent are left out. Returns the number of lines. Writes line by line:
/// `out` should be buffered.
///
/// # Errors
/// When `out` cannot be written.
pub fn dump(fleet: &Fleet, start: Timestamp, ticks: u32, step: Duration, out: &mut dyn Write) -> io::Result<u64> {
    let step_ms = i64::try_from(step.as_millis()).unwrap_or(i64::MAX / 4);
    let mut lines = 0;
    for tick in 0..ticks {
        let from_ms = ceil_ms(start).saturating_add(step_ms.saturating_mul(tick.into()));
        for index in 0..fleet.options().devices {
            let Some(at_ms) = fleet.schedule(index).newest(from_ms, from_ms + step_ms - 1) else { continue };
            let mut line = fleet.text(index, at_ms);
            line.push('\n');
            out.write_all(line.as_bytes())?;
            lines += 1;
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::super::FleetOptions;
    use super::*;
    use crate::clock::parse_timestamp;

    #[test]
    fn each_line_is_the_last_state_of_its_tick() {
        let fleet = Fleet::new(FleetOptions { devices: 40, ..FleetOptions::default() });
        let start = parse_timestamp("2026-11-24T12:00:00Z").expect("a timestamp");
        let mut out = Vec::new();
        let lines = dump(&fleet, start, 5, Duration::from_mins(5), &mut out).expect("memory can be written");
        let mut expect = Vec::new();
        for tick in 0..5 {
            let from = start + TimeDelta::minutes(5 * tick);
            let newest = (0..40).filter_map(|i| fleet.states_between(i, from, from + TimeDelta::minutes(5)).pop());
            expect.extend(newest.map(|(_, text)| text));
        }
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        assert_eq!(text.lines().collect::<Vec<_>>(), expect);
        assert_eq!(lines, expect.len() as u64);
        assert!(lines > 150);
    }
}
