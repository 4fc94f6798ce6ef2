//! Which stretches of Cloudflare's history were read to their end: what is not in the archive then is not there.
//!
//! The polls say it. Pages of a window are read one after the other, and nothing behind one that failed: the empty page
//! that ends a list is there only where all before it are.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};
use chrono::TimeDelta;

use crate::archive::Scan;
use crate::clock;
use crate::schema::Schema;
use crate::snapshot::{HISTORY, SETTLE, Source};

use super::scan::Days;
use super::window::Window;
use super::{QueryError, column, texts, times};

/// What was read to its end, by account and device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Searched(BTreeMap<String, BTreeMap<Option<String>, Vec<Range<i64>>>>);

impl Searched {
    /// What was read of a window of the history, in one of some resolutions.
    ///
    /// # Errors
    /// Where the archive cannot be read.
    pub fn read(days: &Days, window: Window, sources: &[Source]) -> Result<Self, QueryError> {
        let polls = Schema::poll();
        let names =
            ["account_id", "device_id", "requested_at", "source", "window_from", "window_to", "outcome", "rows"];
        let sources = sources.iter().map(|source| source.as_str().to_owned()).collect::<Vec<_>>();
        let columns = names.iter().map(|name| column(&polls, name)).collect();
        let any_of = Some((column(&polls, "source"), sources.clone()));
        let scan = Scan { columns, any_of, ..Scan::default() };
        // A window is asked for after it has ended, and as long as it is remembered.
        let until = window.until + HISTORY + TimeDelta::days(1);
        let mut searched = Self::default();
        let add = |found: &mut Self, batch: &RecordBatch| found.polls(batch, &sources);
        days.fold(&polls, Window { until, ..window }, &scan, Self::default, add, |found| searched.merge(found))?;
        searched.join();
        Ok(searched)
    }

    /// Whether a stretch, in microseconds, was read to its end for a device.
    pub(super) fn covers(&self, account: &str, device: &str, stretch: &Range<i64>) -> bool {
        let holds = |ranges: &Vec<Range<i64>>| {
            let past = ranges.partition_point(|range| range.start <= stretch.start);
            past > 0 && ranges[past - 1].end >= stretch.end
        };
        let Some(devices) = self.0.get(account) else { return false };
        devices.get(&None).is_some_and(holds) || devices.get(&Some(device.to_owned())).is_some_and(holds)
    }

    /// What is left of some stretches, for a device or for all: joined where they touch, without what was read.
    #[must_use]
    pub fn left(&self, account: &str, device: Option<&str>, wanted: &[Window]) -> Vec<Window> {
        let devices = self.0.get(account);
        let of = |device: Option<String>| devices.and_then(|devices| devices.get(&device)).into_iter().flatten();
        let own = device.map(|device| of(Some(device.to_owned())));
        let read: Vec<Range<i64>> = join(of(None).chain(own.into_iter().flatten()).cloned().collect());
        let left =
            join(wanted.iter().map(Window::micros).collect()).into_iter().flat_map(|range| without(range, &read));
        let time = |micros| clock::from_micros(micros).unwrap_or_default();
        left.map(|range| Window { since: time(range.start), until: time(range.end) }).collect()
    }

    fn polls(&mut self, batch: &RecordBatch, sources: &[String]) {
        let (accounts, devices) = (texts(batch, "account_id"), texts(batch, "device_id"));
        let (kinds, outcomes) = (texts(batch, "source"), texts(batch, "outcome"));
        let [asked, from, to] = ["requested_at", "window_from", "window_to"].map(|name| times(batch, name));
        let rows = batch.column_by_name("rows").expect("the scan has it").as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let is_history = kinds.is_valid(row) && sources.iter().any(|source| source == kinds.value(row));
            let is_last = outcomes.value(row) != "failed" && rows.value(row) == 0;
            if !is_history || !is_last || from.is_null(row) || to.is_null(row) {
                continue;
            }
            let reach = |time: TimeDelta| asked.value(row) - time.num_microseconds().unwrap_or_default();
            let read = from.value(row).max(reach(HISTORY))..to.value(row).min(reach(SETTLE));
            if !read.is_empty() {
                let device = devices.is_valid(row).then(|| devices.value(row).to_owned());
                self.0.entry(accounts.value(row).to_owned()).or_default().entry(device).or_default().push(read);
            }
        }
    }

    fn merge(&mut self, other: Self) {
        for (account, devices) in other.0 {
            let known = self.0.entry(account).or_default();
            devices.into_iter().for_each(|(device, ranges)| known.entry(device).or_default().extend(ranges));
        }
    }

    fn join(&mut self) {
        let all = self.0.values_mut().flat_map(BTreeMap::values_mut);
        all.for_each(|ranges| *ranges = join(std::mem::take(ranges)));
    }
}

/// Ranges in order, those that touch made one.
fn join(mut ranges: Vec<Range<i64>>) -> Vec<Range<i64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<i64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// What some ranges, which are joined, leave of one.
fn without(range: Range<i64>, taken: &[Range<i64>]) -> Vec<Range<i64>> {
    let touching = taken.iter().filter(|taken| taken.start < range.end && range.start < taken.end);
    let (mut left, mut start) = (Vec::new(), range.start);
    for taken in touching {
        left.push(start..taken.start);
        start = taken.end;
    }
    left.push(start..range.end);
    left.retain(|range| !range.is_empty());
    left
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_left_out_of_what_is_wanted() {
        let taken = join(vec![20..30, 0..5, 5..8, 28..32]);
        assert_eq!(taken, [0..8, 20..32]);
        assert_eq!(without(0..40, &taken), [8..20, 32..40]);
        assert_eq!(without(4..21, &taken), [8..20]);
        assert_eq!(without(21..30, &taken), []);
        assert_eq!(without(10..12, &taken), [10..12]);
    }

    #[test]
    fn a_stretch_is_covered_by_one_that_was_read_for_all_or_for_the_device() {
        let ranges = |ranges: &[Range<i64>]| ranges.to_vec();
        let devices = BTreeMap::from([(None, ranges(&[0..10, 20..30])), (Some("d".to_owned()), ranges(&[40..50]))]);
        let searched = Searched(BTreeMap::from([("a".to_owned(), devices)]));
        for (device, stretch, covered) in [
            ("d", 0..10, true),
            ("e", 2..9, true),
            ("d", 9..21, false),
            ("d", 41..50, true),
            ("e", 41..50, false),
            ("d", 49..51, false),
        ] {
            assert_eq!(searched.covers("a", device, &stretch), covered, "{device} {stretch:?}");
            assert!(!searched.covers("b", device, &stretch));
        }
    }
}
