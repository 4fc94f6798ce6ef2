//! What was seen of each device in each interval of a window, and what that means for those without a state.
//!
//! An interval in which a device has a state is present. What the archive knows of the requests says of the others
//! whether nobody asked, whether the asking failed, or whether the device had nothing to say. An answer shows what came
//! before it: that nothing came in an interval, only one of the next interval can say. So where the collector was off from
//! 10:20 to 14:00, the hour from 10:00 is as much *not asked* as those that follow, for a device of which no state is there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow_array::{Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use chrono::TimeDelta;

use crate::archive::{ArchiveError, Scan, is_in_shard};
use crate::clock::{Timestamp, Zone};
use crate::query::device::devices_seen;
use crate::query::newest::Newest;
use crate::query::scan::Days;
use crate::query::searched::Searched;
use crate::query::window::{Buckets, Window};
use crate::query::{Asked, QueryError, column, numbers, scan_of, texts, times};
use crate::schema::Schema;
use crate::snapshot::{HISTORY, Outcome, Source};

use super::{Cause, GapsOptions, KNOWN_BEFORE, MOST_INTERVALS};

/// What was seen of a device, or of an account, in an interval: a bit for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seeing(u8);

/// That of each interval, up to the last in which anything was seen.
#[derive(Default)]
pub(super) struct Seeings(Vec<Seeing>);

/// An account and a device.
pub(super) type Device = (String, String);

/// Whom a list asks for: an account's devices, or those of a shard, by its name.
type Listed = (String, Option<String>);

/// What was seen in a window, by interval.
pub(super) struct Seen {
    pub(super) buckets: Buckets,
    /// Of so many intervals it is known what was asked: the one after those of the window is among them, once it is over.
    asked: usize,
    pub(super) devices: BTreeMap<Device, Seeings>,
    /// What came of the lists.
    lists: BTreeMap<Listed, Seeings>,
    /// By device, as far as they are known.
    pub(super) names: BTreeMap<String, String>,
    searched: Searched,
}

/// What was seen in some rows.
#[derive(Default)]
struct Found {
    devices: BTreeMap<Device, Seeings>,
    /// What came of the lists.
    lists: BTreeMap<Listed, Seeings>,
    /// When each sweep, by its name, read a list, and whether all of it.
    sweeps: BTreeMap<(Listed, String), Pages>,
    names: BTreeMap<String, (i64, String)>,
}

/// Of which rows something is seen.
struct Question<'a> {
    window: Window,
    buckets: &'a Buckets,
    asked: Asked<'a>,
}

/// The pages of the list that a sweep asked for: the first and the last interval in which it did, whether one failed, and
/// what those that did not show.
struct Pages {
    first: usize,
    last: usize,
    has_failed: bool,
    /// Their numbers.
    filled: Vec<i64>,
    /// Those without a device: one of them ends the list.
    empty: Vec<i64>,
}

impl Pages {
    fn merge(&mut self, other: Self) {
        (self.first, self.last) = (self.first.min(other.first), self.last.max(other.last));
        self.has_failed |= other.has_failed;
        self.filled.extend(other.filled);
        self.empty.extend(other.empty);
    }

    /// Whether they are a list from its first page to the empty one behind its last. What lies before the first interval
    /// and behind the last of so many is not looked at: a sweep may have begun there, and may have gone on.
    fn are_all(mut self, intervals: usize) -> bool {
        self.filled.sort_unstable();
        self.filled.dedup();
        let first = if self.first == 0 { self.filled.first().or(self.empty.iter().min()).copied() } else { Some(1) };
        let Some(first) = first else { return false };
        let end = self.filled.last().map_or(first, |last| last + 1);
        let has_end = self.empty.contains(&end) || self.last + 1 == intervals;
        has_end && self.filled.iter().copied().eq(first..end)
    }
}

impl Seeing {
    const PRESENT: Self = Self(1);
    const ANSWERED: Self = Self(2);
    const ABSENT: Self = Self(4);
    const FAILED: Self = Self(8);
    /// A whole list, of which no page failed.
    const WHOLE: Self = Self(16);

    fn of_outcome(outcome: &str) -> Self {
        match Outcome::parse(outcome) {
            Some(Outcome::State | Outcome::Unchanged) => Self::ANSWERED,
            Some(Outcome::Absent) => Self::ABSENT,
            Some(Outcome::Failed) => Self::FAILED,
            None => Self::default(),
        }
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Seeings {
    fn at(&self, bucket: usize) -> Seeing {
        self.0.get(bucket).copied().unwrap_or_default()
    }

    fn see(&mut self, bucket: usize, seeing: Seeing) {
        if self.0.len() <= bucket {
            self.0.resize(bucket + 1, Seeing::default());
        }
        self.0[bucket] = self.0[bucket].and(seeing);
    }

    /// Whether anything was seen in the first intervals.
    fn is_within(&self, intervals: usize) -> bool {
        self.0.iter().take(intervals).any(|seeing| *seeing != Seeing::default())
    }

    fn merge(&mut self, other: &Self) {
        other.0.iter().enumerate().for_each(|(bucket, &seeing)| self.see(bucket, seeing));
    }
}

impl Seen {
    pub(super) fn read(
        days: &Days,
        options: &GapsOptions,
        known: Vec<Device>,
        sources: &[Source],
    ) -> Result<Self, QueryError> {
        let (buckets, window) = intervals(options.window, options.every, options.zone, options.known_until)?;
        let options = &GapsOptions { window, ..options.clone() };
        let (asked, asked_window) = one_more(options).unwrap_or_else(|| (buckets.clone(), window));
        let mut seen = Found::default();
        let question = |window, buckets| Question { window, buckets, asked: Asked::of(options.devices.as_deref()) };
        seen.read_states(days, options.devices.as_deref(), &question(window, &buckets))?;
        seen.read_polls(days, &question(asked_window, &asked))?;
        if seen.is_full(&asked) {
            return Err(QueryError::Intervals { devices: seen.devices.len(), intervals: buckets.count() });
        }
        seen.note_whole_lists(asked.count());
        let after = seen.expect_none_after(buckets.count());
        for device in known {
            seen.devices.entry(device).or_default();
        }
        seen.expect(days, options, buckets.count())?;
        for (device, seeings) in &mut seen.devices {
            after.get(device).into_iter().for_each(|after| seeings.merge(after));
        }
        if seen.devices.is_empty() {
            return Err(QueryError::NothingExpected(window));
        }
        let Found { devices, lists, names, .. } = seen;
        let names = names.into_iter().map(|(device, (_, name))| (device, name)).collect();
        let searched = Searched::read(days, options.window, sources)?;
        Ok(Self { buckets, asked: asked.count(), devices, lists, names, searched })
    }

    /// What was seen of a device, by itself and by the lists that it should be on.
    pub(super) fn of<'a>(&'a self, device: &'a Device, own: &'a Seeings) -> OfDevice<'a> {
        let mut lists = Seeings::default();
        self.lists.iter().filter(|(listed, _)| is_listed(device, listed)).for_each(|(_, list)| lists.merge(list));
        OfDevice { seen: self, device, own, lists }
    }
}

/// What was seen of a device.
pub(super) struct OfDevice<'a> {
    seen: &'a Seen,
    device: &'a Device,
    own: &'a Seeings,
    lists: Seeings,
}

impl OfDevice<'_> {
    /// Why it has no state in an interval; none where it has one.
    pub(super) fn cause(&self, bucket: usize) -> Option<Cause> {
        if self.own.at(bucket).has(Seeing::PRESENT) {
            return None;
        }
        let own = self.asked_in(bucket);
        // What it has a state of there may have come from elsewhere.
        let after = (bucket + 1 < self.seen.asked).then(|| self.asked_in(bucket + 1));
        let Some(missed) = [Some(own), after].into_iter().flatten().find(|cause| cause.is_missed()) else {
            return Some(own);
        };
        // Where the history has nothing, nothing was missed, whatever failed at the time.
        let is_searched = self.is_searched(bucket);
        Some(if !is_searched {
            missed
        } else if own.is_missed() {
            Cause::Silent
        } else {
            own
        })
    }

    /// What came of asking in an interval, as if there were no state of it.
    fn asked_in(&self, bucket: usize) -> Cause {
        let (own, list) = (self.own.at(bucket), self.lists.at(bucket));
        let causes = [
            (own.has(Seeing::ANSWERED), Cause::Silent),
            (own.has(Seeing::ABSENT), Cause::Absent),
            // Which devices would have stood on a page that failed, nobody knows, unless another sweep read all pages.
            (own.has(Seeing::FAILED) || list.has(Seeing::FAILED) && !list.has(Seeing::WHOLE), Cause::Failed),
            (list.has(Seeing::ANSWERED.and(Seeing::ABSENT)), Cause::Silent),
        ];
        causes.into_iter().find_map(|(is_so, cause)| is_so.then_some(cause)).unwrap_or(Cause::NotAsked)
    }

    /// Whether the history of an interval was read to its end.
    fn is_searched(&self, bucket: usize) -> bool {
        let (account, id) = self.device;
        self.seen.searched.covers(account, id, &self.seen.buckets.range(bucket))
    }
}

impl Found {
    fn read_states(
        &mut self,
        days: &Days,
        devices: Option<&[String]>,
        question: &Question,
    ) -> Result<(), ArchiveError> {
        let schema = Schema::device_state();
        let columns = ["account_id", "device_id", "timestamp", "device_name"].map(|name| column(&schema, name));
        let scan = scan_of(&schema, devices, columns);
        self.read(days, (&schema, &scan), question, Self::states)
    }

    fn read_polls(&mut self, days: &Days, question: &Question) -> Result<(), ArchiveError> {
        let schema = Schema::poll();
        let names =
            ["account_id", "device_id", "requested_at", "source", "outcome", "sweep_id", "page", "rows", "shard"];
        // The pages of the list have no device, and must be read too.
        let scan = scan_of(&schema, None, names.map(|name| column(&schema, name)));
        self.read(days, (&schema, &scan), question, Self::polls)
    }

    /// Takes in the rows of a scan, as long as there is room.
    fn read(
        &mut self,
        days: &Days,
        (schema, scan): (&Schema, &Scan),
        question: &Question,
        take: impl Fn(&mut Self, &RecordBatch, &Question) + Sync,
    ) -> Result<(), ArchiveError> {
        let add = |found: &mut Self, batch: &RecordBatch| {
            if !found.is_full(question.buckets) {
                take(found, batch, question);
            }
        };
        days.fold(schema, question.window, scan, Self::default, add, |found| {
            if !self.is_full(question.buckets) {
                self.merge(found);
            }
        })
    }

    fn states(&mut self, batch: &RecordBatch, question: &Question) {
        let rows = Rows::of(batch, "timestamp");
        let names = texts(batch, "device_name");
        rows.each_run(question, |account, device, bucket, rows| {
            let Some(device) = device else { return };
            self.see(account, device, bucket, Seeing::PRESENT);
            if let Some(row) = rows.rev().find(|&row| names.is_valid(row)) {
                let at = times(batch, "timestamp").value(row);
                self.name(device, at, names.value(row));
            }
        });
    }

    fn polls(&mut self, batch: &RecordBatch, question: &Question) {
        let rows = Rows::of(batch, "requested_at");
        let (outcomes, sources, sweeps) = (texts(batch, "outcome"), texts(batch, "source"), texts(batch, "sweep_id"));
        let (pages, shown, shards) = (numbers(batch, "page"), numbers(batch, "rows"), texts(batch, "shard"));
        // A page of the history says nothing of the time at which it was asked for.
        let is_of_now = |row: usize| sources.is_null(row) || sources.value(row) == Source::List.as_str();
        rows.each_run(question, |account, device, bucket, rows| {
            let mut of_now = rows.filter(|&row| is_of_now(row)).peekable();
            if of_now.peek().is_none() {
                return;
            }
            let seen = of_now.filter(|&row| outcomes.is_valid(row));
            let seen = seen.map(|row| (row, Seeing::of_outcome(outcomes.value(row))));
            match device {
                Some(device) => {
                    let seeing = seen.fold(Seeing::default(), |all, (_, seeing)| all.and(seeing));
                    self.see(account, device, bucket, seeing);
                }
                None => seen.for_each(|(row, seeing)| {
                    let shard = shards.is_valid(row).then(|| shards.value(row).to_owned());
                    let page = (pages.value(row), shown.is_valid(row) && shown.value(row) > 0);
                    self.page((account.to_owned(), shard), sweeps.value(row), bucket, seeing, page);
                }),
            }
        });
    }

    /// Takes in a page of the list that a sweep asked for: its number, and whether it shows anybody.
    fn page(&mut self, listed: Listed, sweep: &str, bucket: usize, seeing: Seeing, (page, is_filled): (i64, bool)) {
        self.lists.entry(listed.clone()).or_default().see(bucket, seeing);
        let has_failed = seeing.has(Seeing::FAILED);
        let filled = Vec::from_iter((!has_failed && is_filled).then_some(page));
        let empty = Vec::from_iter((!has_failed && !is_filled).then_some(page));
        let pages = Pages { first: bucket, last: bucket, has_failed, filled, empty };
        self.pages((listed, sweep.to_owned()), pages);
    }

    fn pages(&mut self, sweep: (Listed, String), pages: Pages) {
        match self.sweeps.entry(sweep) {
            Entry::Vacant(place) => drop(place.insert(pages)),
            Entry::Occupied(all) => all.into_mut().merge(pages),
        }
    }

    /// Notes the intervals in which a sweep read a whole list of so many. Whom a list that broke off would have shown, nobody
    /// knows: that is as good as a page that failed.
    fn note_whole_lists(&mut self, intervals: usize) {
        let read = std::mem::take(&mut self.sweeps).into_iter().filter(|(_, pages)| !pages.has_failed);
        for ((listed, _), pages) in read {
            let list = self.lists.entry(listed).or_default();
            let intervals_read = pages.first..=pages.last;
            let seeing = if pages.are_all(intervals) { Seeing::WHOLE } else { Seeing::FAILED };
            intervals_read.for_each(|bucket| list.see(bucket, seeing));
        }
    }

    /// Removes devices that were seen only after so many intervals, which nobody expects; hands over what was seen of them.
    fn expect_none_after(&mut self, intervals: usize) -> BTreeMap<Device, Seeings> {
        let devices = std::mem::take(&mut self.devices);
        let (within, after) = devices.into_iter().partition(|(_, seeings)| seeings.is_within(intervals));
        self.devices = within;
        after
    }

    /// Devices that were asked about by name are expected, even where nothing was seen of them: in the account in which
    /// they were seen last. Where a list was asked for and nobody who should be on it was seen, those are who was seen before.
    fn expect(&mut self, days: &Days, options: &GapsOptions, intervals: usize) -> Result<(), QueryError> {
        let Some(ids) = &options.devices else {
            let asked = self.lists.iter().filter(|(_, seeings)| seeings.is_within(intervals)).map(|(listed, _)| listed);
            let is_unseen = |listed: &&Listed| !self.devices.keys().any(|device| is_listed(device, listed));
            let unseen: Vec<Listed> = asked.filter(is_unseen).cloned().collect();
            if !unseen.is_empty() {
                let window = options.window;
                let since = window.since.checked_sub_signed(HISTORY).unwrap_or(window.since);
                let seen = devices_seen(days, Window { since, until: window.since })?.into_iter();
                let of_these = seen.filter(|device| unseen.iter().any(|listed| is_listed(device, listed)));
                self.devices.extend(of_these.map(|device| (device, Seeings::default())));
            }
            return Ok(());
        };
        let seen: BTreeSet<&String> = self.devices.keys().map(|(_, device)| device).collect();
        let unseen: Vec<String> = ids.iter().filter(|id| !seen.contains(id)).cloned().collect();
        if unseen.is_empty() {
            return Ok(());
        }
        let schema = Schema::device_state();
        let account = column(&schema, "account_id");
        let newest = Newest {
            schema: &schema,
            window: known_in(options),
            devices: Some(&unseen),
            columns: &[account],
            needed: None,
        };
        let found = newest.find(days)?;
        for id in unseen {
            let account = match found.get(&id).and_then(|(_, cells)| cells.first()?.text()) {
                None => asked_of(days, options, &id)?,
                account => account,
            };
            let window = known_in(options);
            let account = account.ok_or_else(|| QueryError::NoDevice { device: id.clone(), window })?;
            self.devices.insert((account, id), Seeings::default());
        }
        Ok(())
    }

    fn see(&mut self, account: &str, device: &str, bucket: usize, seeing: Seeing) {
        let key = (account.to_owned(), device.to_owned());
        self.devices.entry(key).or_default().see(bucket, seeing);
    }

    /// Whether so many intervals of each device are more than there is room for: then nothing more is taken in.
    fn is_full(&self, buckets: &Buckets) -> bool {
        self.devices.len().saturating_mul(buckets.count()) > MOST_INTERVALS
    }

    fn name(&mut self, device: &str, at: i64, name: &str) {
        match self.names.get_mut(device) {
            Some((known, _)) if *known > at => (),
            Some((known, same)) if same == name => *known = at,
            _ => drop(self.names.insert(device.to_owned(), (at, name.to_owned()))),
        }
    }

    fn merge(&mut self, other: Self) {
        for (key, seeings) in other.devices {
            self.devices.entry(key).or_default().merge(&seeings);
        }
        for (listed, seeings) in other.lists {
            self.lists.entry(listed).or_default().merge(&seeings);
        }
        for (sweep, pages) in other.sweeps {
            self.pages(sweep, pages);
        }
        other.names.into_iter().for_each(|(device, (at, name))| self.name(&device, at, &name));
    }
}

/// The columns by which rows of either dataset are told apart.
struct Rows<'a> {
    accounts: &'a StringArray,
    devices: &'a StringArray,
    times: &'a TimestampMicrosecondArray,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch, time: &str) -> Self {
        Self { accounts: texts(batch, "account_id"), devices: texts(batch, "device_id"), times: times(batch, time) }
    }

    /// Calls `run` with rows of one account and device that follow each other in one interval.
    fn each_run(
        &self,
        Question { window, buckets, asked }: &Question,
        mut run: impl FnMut(&str, Option<&str>, usize, std::ops::Range<usize>),
    ) {
        let device = |row: usize| self.devices.is_valid(row).then(|| self.devices.value(row));
        let counts = |row: usize| window.holds_row(self.times, row) && device(row).is_none_or(|id| asked.holds(id));
        let (mut row, mut bucket) = (0, 0);
        while row < self.times.len() {
            let start = row;
            row += 1;
            if !counts(start) {
                continue;
            }
            bucket = buckets.of(self.times.value(start), bucket);
            let range = buckets.range(bucket);
            let belongs = |row: usize| {
                range.contains(&self.times.value(row))
                    && device(row) == device(start)
                    && self.accounts.value(row) == self.accounts.value(start)
                    && counts(row)
            };
            row = (row..self.times.len()).find(|&row| !belongs(row)).unwrap_or(self.times.len());
            run(self.accounts.value(start), device(start), bucket, start..row);
        }
    }
}

/// Whether a list should have a device.
fn is_listed((account, id): &Device, (listed, shard): &Listed) -> bool {
    account == listed && shard.as_ref().is_none_or(|shard| is_in_shard(id, shard))
}

/// The intervals of a window that are over, and the time that they take.
pub(super) fn intervals(
    window: Window,
    every: Duration,
    zone: Zone,
    now: Timestamp,
) -> Result<(Buckets, Window), QueryError> {
    // Of an interval that is not over nobody can say that it has no state.
    let ended = Buckets::new(window, every, zone)?.ended_by(now);
    let (buckets, until) = ended.ok_or(QueryError::NoneEnded(every))?;
    // Of one that the window only touches all is read: a state in the rest of it is one too.
    let since = buckets.start(0).unwrap_or(window.since);
    Ok((buckets, Window { since, until }))
}

/// The time in which devices are looked for that have nothing in the window.
fn known_in(options: &GapsOptions) -> Window {
    let since = options.window.since;
    Window {
        since: since.checked_sub_signed(KNOWN_BEFORE).unwrap_or(since),
        until: options.now.max(options.window.until),
    }
}

/// The account of which a device was ever asked for by name that has no state.
fn asked_of(days: &Days, options: &GapsOptions, device: &str) -> Result<Option<String>, QueryError> {
    let polls = Schema::poll();
    let columns = ["account_id", "device_id", "requested_at"].map(|name| column(&polls, name));
    let scan = scan_of(&polls, Some(&[device.to_owned()]), columns);
    let add = |found: &mut Option<String>, batch: &RecordBatch| {
        let (accounts, devices) = (texts(batch, "account_id"), texts(batch, "device_id"));
        let is_its = |row: &usize| devices.is_valid(*row) && devices.value(*row) == device;
        if let Some(row) = (0..batch.num_rows()).find(is_its) {
            *found = Some(accounts.value(row).to_owned());
        }
    };
    let mut account = None;
    days.fold(&polls, known_in(options), &scan, Option::default, add, |found: Option<String>| {
        account = found.or(account.take())
    })?;
    Ok(account)
}

/// The intervals of a window that are over and one more, if that is over too; none where there cannot be so many.
fn one_more(GapsOptions { window, every, zone, known_until, .. }: &GapsOptions) -> Option<(Buckets, Window)> {
    let until = window.until.checked_add_signed(TimeDelta::from_std(*every).ok()?)?;
    intervals(Window { until, ..*window }, *every, *zone, *known_until).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::query::gaps::AN_HOUR;

    #[test]
    fn a_page_that_failed_or_is_not_there_is_made_up_for_by_a_whole_list() {
        let time = |text| clock::parse_timestamp(text).expect("a time");
        let window = Window { since: time("2026-10-01T00:00:00Z"), until: time("2026-10-01T08:00:00Z") };
        let mut found = Found::default();
        let (answered, failed, absent) = (Seeing::ANSWERED, Seeing::FAILED, Seeing::ABSENT);
        let pages = [
            // This one began before the window.
            (0, "z", 7, answered),
            (0, "z", 8, absent),
            // In the second hour one sweep breaks off, and another reads all; in the third both break off.
            (1, "a", 1, answered),
            (1, "a", 2, failed),
            (1, "b", 1, answered),
            (1, "b", 2, absent),
            (2, "c", 1, answered),
            (2, "c", 2, failed),
            (2, "d", 1, failed),
            // In the fourth and fifth one ends amid the list, without a word; in the fifth a page was lost.
            (3, "e", 1, answered),
            (4, "e", 2, answered),
            (4, "f", 1, answered),
            (4, "f", 3, absent),
            // This one went on where the one before had no time, and nobody was there any more.
            (5, "h", 9, absent),
            (5, "h", 1, answered),
            (5, "h", 2, absent),
            (7, "i", 1, answered),
            (7, "i", 2, absent),
            // This one goes on behind what is read.
            (8, "g", 1, answered),
        ];
        for (bucket, sweep, page, seeing) in pages {
            let all = ("account".to_owned(), None);
            found.page(all, sweep, bucket, seeing, (page, seeing.has(answered)));
        }
        // It is known of a ninth hour that nobody asked in it.
        found.note_whole_lists(9);
        let buckets = Buckets::new(window, AN_HOUR, Zone::UTC).expect("buckets");
        let (lists, searched) = (found.lists, Searched::default());
        let seen = Seen { buckets, asked: 9, devices: BTreeMap::new(), lists, names: BTreeMap::new(), searched };
        let device = ("account".to_owned(), "device".to_owned());
        let nothing = Seeings::default();
        let of_device = seen.of(&device, &nothing);
        let within = |bucket| of_device.asked_in(bucket);
        let (silent, failed, not_asked) = (Cause::Silent, Cause::Failed, Cause::NotAsked);
        let expected = [silent, silent, failed, failed, failed, silent, not_asked, silent, silent];
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 8].map(within), expected);
        // What came after the last answer before an outage, nobody saw.
        let cause = |bucket| of_device.cause(bucket);
        let expected = [silent, failed, failed, failed, failed, not_asked, not_asked, silent];
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(cause), expected.map(Some));
    }

    #[test]
    fn that_nothing_came_in_an_interval_only_the_next_one_can_say() {
        let time = |text| clock::parse_timestamp(text).expect("a time");
        let window = Window { since: time("2026-10-01T00:00:00Z"), until: time("2026-10-01T01:00:00Z") };
        let buckets = Buckets::new(window, AN_HOUR, Zone::UTC).expect("buckets");
        let (silent, absent, failed, not_asked) = (Cause::Silent, Cause::Absent, Cause::Failed, Cause::NotAsked);
        let cause = |asked: usize, seen_in: [Seeing; 2]| {
            let (devices, lists, names) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            let seen = Seen { buckets: buckets.clone(), asked, devices, lists, names, searched: Searched::default() };
            seen.of(&("account".to_owned(), "device".to_owned()), &Seeings(seen_in.to_vec())).cause(0)
        };
        let nothing = Seeing::default();
        for (after, expected) in [
            (nothing, [not_asked, not_asked]),
            (Seeing::FAILED, [failed, failed]),
            (Seeing::ANSWERED, [silent, absent]),
            (Seeing::ABSENT, [silent, absent]),
            // A state may have come from elsewhere.
            (Seeing::PRESENT, [not_asked, not_asked]),
            (Seeing::PRESENT.and(Seeing::ANSWERED), [silent, absent]),
        ] {
            assert_eq!(cause(2, [Seeing::ANSWERED, after]), Some(expected[0]), "{after:?}");
            assert_eq!(cause(2, [Seeing::ABSENT, after]), Some(expected[1]), "{after:?}");
            assert_eq!(cause(2, [Seeing::FAILED, after]), Some(failed), "{after:?}");
            assert_eq!(cause(2, [Seeing::PRESENT, after]), None, "{after:?}");
        }
        // As long as the next interval is not over, it says nothing.
        assert_eq!(cause(1, [Seeing::ANSWERED, nothing]), Some(silent));
    }
}
