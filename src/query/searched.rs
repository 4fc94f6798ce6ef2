//! Which stretches of Cloudflare's history were read to their end: what is not in the archive then is not there.
//!
//! The polls say it. Each reading of a window has a name of its own; one that came to its end has an empty page behind all
//! others, all of these are there, and none failed or turned out to hold something else than states.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use arrow_array::{Array, RecordBatch};
use chrono::TimeDelta;

use crate::archive::Scan;
use crate::schema::Schema;
use crate::snapshot::{HISTORY, Outcome, SETTLE, Source};

use super::scan::Days;
use super::window::Window;
use super::{QueryError, column, moment, numbers, texts, times};

/// What was read to its end, by account and device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Searched {
    whole: Stretches,
    /// What readings began that came to no end.
    begun: Stretches,
}

/// Stretches of the history, in microseconds.
type Stretches = BTreeMap<String, BTreeMap<Option<String>, Vec<Range<i64>>>>;

/// Which reading of a window: its name, the account, the device, and from when to when.
type Name = (String, String, Option<String>, i64, i64);

/// How a window was read.
#[derive(Debug, Clone, Default)]
struct Reading {
    /// The pages with rows.
    filled: BTreeSet<i64>,
    /// The last empty page, and when it was asked for.
    empty: Option<(i64, i64)>,
    is_broken: bool,
}

impl Searched {
    /// What was read of a window of the history, in one of some resolutions.
    ///
    /// # Errors
    /// Where the archive cannot be read.
    pub fn read(days: &Days, window: Window, sources: &[Source]) -> Result<Self, QueryError> {
        let polls = Schema::poll();
        let names = [
            "sweep_id",
            "account_id",
            "device_id",
            "requested_at",
            "page",
            "source",
            "window_from",
            "window_to",
            "outcome",
            "rows",
        ];
        let sources = sources.iter().map(|source| source.as_str().to_owned()).collect::<Vec<_>>();
        let columns = names.iter().map(|name| column(&polls, name)).collect();
        let any_of = Some((column(&polls, "source"), sources.clone()));
        let scan = Scan { columns, any_of, ..Scan::default() };
        // A window is asked for after it has ended, and as long as it is remembered.
        let until = window.until + HISTORY + TimeDelta::days(1);
        let mut readings = BTreeMap::<Name, Reading>::new();
        let add = |found: &mut BTreeMap<Name, Reading>, batch: &RecordBatch| take_polls(batch, &sources, found);
        days.fold(&polls, Window { until, ..window }, &scan, BTreeMap::new, add, |found| {
            found.into_iter().for_each(|(name, reading)| readings.entry(name).or_default().merge(reading));
        })?;
        let mut searched = Self::default();
        for ((_, account, device, from, to), reading) in readings {
            let (known, range) = match reading.reach(from..to) {
                Some(read) => (&mut searched.whole, read),
                None => (&mut searched.begun, from..to),
            };
            if !range.is_empty() {
                known.entry(account).or_default().entry(device).or_default().push(range);
            }
        }
        searched.whole.values_mut().for_each(join_each);
        Ok(searched)
    }

    /// Whether a stretch, in microseconds, was read to its end for a device.
    pub(super) fn covers(&self, account: &str, device: &str, stretch: &Range<i64>) -> bool {
        let holds = |ranges: &Vec<Range<i64>>| {
            let past = ranges.partition_point(|range| range.start <= stretch.start);
            past > 0 && ranges[past - 1].end >= stretch.end
        };
        let Some(devices) = self.whole.get(account) else { return false };
        // Mostly whole lists were read, and no device by itself: those come last.
        let has_single = devices.last_key_value().is_some_and(|(device, _)| device.is_some());
        let own = if has_single { devices.get(&Some(device.to_owned())) } else { None };
        own.or_else(|| devices.get(&None)).is_some_and(holds)
    }

    /// What of an account was begun to be read, for a device or for all, but for what was begun so often in vain that it
    /// is no accident. Some of it may have been read to its end since.
    #[must_use]
    pub fn broken_off(&self, account: &str, often: usize) -> Vec<(Option<String>, Window)> {
        let mut broken_off = Vec::new();
        for (device, begun) in self.begun.get(account).into_iter().flatten() {
            let is_accident = |range: &&Range<i64>| begun.iter().filter(|other| touch(range, other)).count() < often;
            let windows = begun.iter().filter(is_accident);
            broken_off.extend(windows.map(|range| (device.clone(), window_of(range))));
        }
        broken_off
    }

    /// How often a window of a device, or of all, was begun to be read in vain.
    #[must_use]
    pub fn begun_in_vain(&self, account: &str, device: Option<&str>, window: Window) -> usize {
        let begun = self.begun.get(account).and_then(|devices| devices.get(&device.map(str::to_owned)));
        let stretch = window.micros();
        begun.into_iter().flatten().filter(|range| touch(range, &stretch)).count()
    }

    /// Counts stretches as read for all devices of an account.
    pub fn note(&mut self, account: &str, stretches: &[Window]) {
        let read = self.whole.entry(account.to_owned()).or_default().entry(None).or_default();
        read.extend(stretches.iter().map(Window::micros));
        *read = join(std::mem::take(read));
    }

    /// What is left of some stretches, for a device or for all: joined where they touch, without what was read.
    #[must_use]
    pub fn left(&self, account: &str, device: Option<&str>, wanted: &[Window]) -> Vec<Window> {
        let devices = self.whole.get(account);
        let of = |device: Option<String>| devices.and_then(|devices| devices.get(&device)).into_iter().flatten();
        let own = device.map(|device| of(Some(device.to_owned())));
        let read: Vec<Range<i64>> = join(of(None).chain(own.into_iter().flatten()).cloned().collect());
        let left =
            join(wanted.iter().map(Window::micros).collect()).into_iter().flat_map(|range| without(range, &read));
        left.map(|range| window_of(&range)).collect()
    }
}

/// Whether two stretches have a moment in common.
fn touch(one: &Range<i64>, other: &Range<i64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Takes in what the polls of a batch say of readings in some resolutions.
fn take_polls(batch: &RecordBatch, sources: &[String], found: &mut BTreeMap<Name, Reading>) {
    let [sweeps, accounts, devices] = ["sweep_id", "account_id", "device_id"].map(|name| texts(batch, name));
    let (kinds, outcomes) = (texts(batch, "source"), texts(batch, "outcome"));
    let [asked, from, to] = ["requested_at", "window_from", "window_to"].map(|name| times(batch, name));
    let (pages, rows) = (numbers(batch, "page"), numbers(batch, "rows"));
    for row in 0..batch.num_rows() {
        let is_history = kinds.is_valid(row) && sources.iter().any(|source| source == kinds.value(row));
        if !is_history || from.is_null(row) || to.is_null(row) {
            continue;
        }
        let device = devices.is_valid(row).then(|| devices.value(row).to_owned());
        let (sweep, account) = (sweeps.value(row).to_owned(), accounts.value(row).to_owned());
        let reading = found.entry((sweep, account, device, from.value(row), to.value(row))).or_default();
        let page = pages.value(row);
        reading.merge(match (Outcome::parse(outcomes.value(row)), rows.value(row)) {
            (Some(Outcome::Failed), _) => Reading { is_broken: true, ..Reading::default() },
            (_, 0) => Reading { empty: Some((page, asked.value(row))), ..Reading::default() },
            _ => Reading { filled: [page].into(), ..Reading::default() },
        });
    }
}

impl Reading {
    fn merge(&mut self, other: Self) {
        self.filled.extend(other.filled);
        self.empty = self.empty.max(other.empty);
        self.is_broken |= other.is_broken;
    }

    /// What was read of a window that was read to its end: what had not been forgotten, and could not change any more.
    fn reach(self, window: Range<i64>) -> Option<Range<i64>> {
        // A poll that was lost was of rows that may be lost as well.
        let is_behind = |(page, _): &(i64, i64)| self.filled.iter().copied().eq(1..*page);
        let (_, asked) = self.empty.filter(is_behind).filter(|_| !self.is_broken)?;
        let before = |time: TimeDelta| asked - time.num_microseconds().unwrap_or_default();
        // What is forgotten while a list is read moves the rest of it to pages that were read already.
        if before(HISTORY) > window.start && !self.filled.is_empty() {
            return None;
        }
        Some(window.start.max(before(HISTORY))..window.end.min(before(SETTLE)))
    }
}

fn window_of(range: &Range<i64>) -> Window {
    Window { since: moment(range.start), until: moment(range.end) }
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

/// Joins the stretches that were read for all, and for each device by itself those with its own.
fn join_each(devices: &mut BTreeMap<Option<String>, Vec<Range<i64>>>) {
    let all = join(devices.remove(&None).unwrap_or_default());
    devices.insert(None, all.clone());
    for ranges in devices.values_mut() {
        ranges.extend_from_slice(&all);
        *ranges = join(std::mem::take(ranges));
    }
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
    fn a_window_is_read_to_its_end_by_an_empty_page_behind_all_others() {
        let asked = 9 + SETTLE.num_microseconds().expect("some minutes");
        let filled = |page| Reading { filled: [page].into(), ..Reading::default() };
        let empty = |page| Reading { empty: Some((page, asked)), ..Reading::default() };
        let broken = Reading { is_broken: true, ..Reading::default() };
        for (pages, is_read) in [
            (&[empty(1)][..], true),
            (&[filled(1), filled(2), empty(3)], true),
            (&[filled(1), filled(2)], false),
            (&[filled(2), empty(3)], false),
            (&[filled(1), filled(3), empty(4)], false),
            (&[empty(2)], false),
            (&[filled(1), broken.clone(), empty(3)], false),
            // A slip in the middle, after which it was broken off.
            (&[filled(1), empty(2), filled(2)], false),
            (&[filled(1), empty(2), filled(2), empty(3)], true),
        ] {
            let mut reading = Reading::default();
            pages.iter().for_each(|page| reading.merge(page.clone()));
            assert_eq!(reading.reach(5..9), is_read.then_some(5..9), "{pages:?}");
        }
    }

    #[test]
    fn what_was_begun_is_told_until_it_was_begun_too_often() {
        let devices = BTreeMap::from([(None, vec![0..10, 20..30, 22..28, 25..26])]);
        let searched = Searched { whole: BTreeMap::new(), begun: BTreeMap::from([("a".to_owned(), devices)]) };
        let told = |often| {
            let windows = searched.broken_off("a", often).into_iter();
            windows.map(|(_, window)| window.micros()).collect::<Vec<_>>()
        };
        assert_eq!(told(3), [0..10]);
        assert_eq!(told(4), [0..10, 20..30, 22..28, 25..26]);
        assert!(searched.broken_off("b", 4).is_empty());
    }

    #[test]
    fn what_was_forgotten_while_a_window_was_read_makes_it_unread() {
        let history = HISTORY.num_microseconds().expect("some days");
        let filled = || Reading { filled: [1].into(), ..Reading::default() };
        let read = |mut reading: Reading, page, asked| {
            reading.merge(Reading { empty: Some((page, asked)), ..Reading::default() });
            reading.reach(5..9)
        };
        assert_eq!(read(filled(), 2, history + 5), Some(5..9));
        assert_eq!(read(filled(), 2, history + 6), None);
        // Of nothing, nothing moves.
        assert_eq!(read(Reading::default(), 1, history + 6), Some(6..9));
        // What may still come in is not read, and not broken off either.
        assert!(read(filled(), 2, 8).is_some_and(|read| read.is_empty()));
    }

    #[test]
    fn a_stretch_is_covered_by_one_that_was_read_for_all_or_for_the_device() {
        let ranges = |ranges: &[Range<i64>]| ranges.to_vec();
        let own = (Some("d".to_owned()), ranges(&[40..50, 30..32]));
        let mut devices = BTreeMap::from([(None, ranges(&[0..10, 20..30])), own]);
        join_each(&mut devices);
        let whole = BTreeMap::from([("a".to_owned(), devices)]);
        let searched = Searched { whole, begun: BTreeMap::new() };
        for (device, stretch, covered) in [
            ("d", 0..10, true),
            ("e", 2..9, true),
            ("d", 9..21, false),
            ("d", 41..50, true),
            ("e", 41..50, false),
            ("d", 49..51, false),
            // One half was read for all, and the other for the device.
            ("d", 28..32, true),
            ("e", 28..32, false),
        ] {
            assert_eq!(searched.covers("a", device, &stretch), covered, "{device} {stretch:?}");
            assert!(!searched.covers("b", device, &stretch));
        }
    }
}
