//! The list endpoint: the states of a window of time, in order and in pages.
//!
//! An order is made of times alone, which are arithmetic; bodies are written for one page only. The
//! last few orders are kept, because all pages of a sweep share one. Which pages are bent is decided
//! elsewhere.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use super::answer::Answer;
use super::dice::Dice;
use super::fault::FaultKind;
use super::fleet::{Fleet, MEMORY_MS, ceil_ms};
use super::route::Ask;
use crate::clock::{Timestamp, parse_timestamp};

const HOUR_MS: i64 = 3_600_000;
const REACH_MS: i64 = 7 * 24 * HOUR_MS;
const ORDERS_KEPT: usize = 4;

/// More rows than this are not put in order: a quarter of a gigabyte.
const ROWS_MAX: i64 = 32_000_000;

/// The share of devices that vanish together.
const GONE: f64 = 0.3;

const FILTERS: [&str; 6] = ["device_id", "platform", "status", "mode", "version", "colo"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    LastSeen,
    Hourly,
    Raw,
}

/// Which rows, in which order.
#[derive(Clone, PartialEq, Eq)]
struct Window {
    source: Source,
    from_ms: i64,
    to_ms: i64,
    sort_by: String,
    filters: Vec<(&'static str, String)>,
}

/// A row: milliseconds since the window's start, above the device's index. So rows sort by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row(u64);

/// What is done to a page on purpose.
#[derive(Clone, Copy)]
pub(super) enum Bend {
    Empty,
    Repeat,
    Shift(Dice),
    /// Pages are shorter than was asked for.
    Short,
    /// Some devices are missing from the whole list.
    Without(Dice),
}

/// Rows of a short page.
const SHORT_ROWS: u32 = 20;

/// The orders that were asked for last.
#[derive(Default)]
pub(super) struct Orders(VecDeque<(Window, Arc<[Row]>)>);

impl Orders {
    /// Answers one page.
    pub(super) fn page(&mut self, fleet: &Fleet, ask: &Ask, now: Timestamp) -> Result<Answer, Answer> {
        let (page, per_page, window) = read(fleet, ask, now)?;
        let rows = self.rows(fleet, &window);
        let states = window.texts(fleet, cut(&rows, first(page, per_page), per_page));
        Ok(Answer::page(states, page, per_page, rows.len()))
    }

    /// Answers one page wrongly; `None` where that makes no difference.
    pub(super) fn bent(&mut self, fleet: &Fleet, ask: &Ask, now: Timestamp, bend: Bend) -> Option<Answer> {
        let (page, per_page, window) = read(fleet, ask, now).ok()?;
        let rows = self.rows(fleet, &window);
        let kept = bend.keep(&rows);
        let straight = cut(&rows, first(page, per_page), per_page);
        let wrong = match bend {
            Bend::Empty if page > 1 => &[],
            Bend::Short => cut(&kept, first(page, SHORT_ROWS), SHORT_ROWS),
            _ => cut(&kept, bend.first(page, per_page), per_page),
        };
        if wrong == straight && kept.len() == rows.len() {
            return None;
        }
        Some(Answer::page(window.texts(fleet, wrong), page, per_page, kept.len()))
    }

    fn rows(&mut self, fleet: &Fleet, window: &Window) -> Arc<[Row]> {
        if let Some((_, rows)) = self.0.iter().find(|(known, _)| known == window) {
            return Arc::clone(rows);
        }
        let rows: Arc<[Row]> = window.rows(fleet).into();
        self.0.truncate(ORDERS_KEPT - 1);
        self.0.push_front((window.clone(), Arc::clone(&rows)));
        rows
    }
}

impl Bend {
    /// What a kind of fault does to a page, if it does anything to pages in particular.
    pub(super) fn of(kind: FaultKind, dice: Dice) -> Option<Self> {
        match kind {
            FaultKind::EmptyPage => Some(Self::Empty),
            FaultKind::RepeatedPage => Some(Self::Repeat),
            FaultKind::ShiftedPage => Some(Self::Shift(dice)),
            FaultKind::ShortPage => Some(Self::Short),
            FaultKind::Vanished => Some(Self::Without(dice)),
            _ => None,
        }
    }

    /// The rows that are left.
    fn keep(self, rows: &[Row]) -> Cow<'_, [Row]> {
        match self {
            Self::Without(dice) => rows.iter().copied().filter(|row| !is_gone(dice, row.device())).collect(),
            _ => Cow::Borrowed(rows),
        }
    }

    /// The first row of a page.
    fn first(self, page: u32, per_page: u32) -> usize {
        let first = first(page, per_page);
        match self {
            Self::Repeat => first.saturating_sub(per_page as usize),
            Self::Shift(dice) => {
                let by = 1 + usize::try_from(dice.below(9)).unwrap_or(0);
                // Before the first row there is nothing to show.
                if first < by || dice.with(1).chance(0.5) { first + by } else { first - by }
            }
            Self::Empty | Self::Short | Self::Without(_) => first,
        }
    }
}

/// Whether a device is one of those that have vanished.
pub(super) fn is_gone(dice: Dice, device: u32) -> bool {
    dice.with(device.into()).chance(GONE)
}

fn read(fleet: &Fleet, ask: &Ask, now: Timestamp) -> Result<(u32, u32, Window), Answer> {
    let page = ask.number("page", 1, u32::MAX)?.unwrap_or(1);
    let per_page = ask.number("per_page", 1, 50)?.unwrap_or(10);
    let window = Window::read(ask, now)?;
    window.check_size(fleet)?;
    Ok((page, per_page, window))
}

fn first(page: u32, per_page: u32) -> usize {
    (page as usize - 1).saturating_mul(per_page as usize)
}

fn cut(rows: &[Row], first: usize, count: u32) -> &[Row] {
    let first = first.min(rows.len());
    &rows[first..first.saturating_add(count as usize).min(rows.len())]
}

impl Window {
    fn read(ask: &Ask, now: Timestamp) -> Result<Self, Answer> {
        let (from_ms, to_ms) = (bound(ask, "from")?, bound(ask, "to")?);
        let source = match ask.parameter("source").unwrap_or("last_seen") {
            "last_seen" => Source::LastSeen,
            "hourly" => Source::Hourly,
            "raw" => Source::Raw,
            _ => return Err(Answer::bad_request("source must be last_seen, hourly or raw")),
        };
        if from_ms >= to_ms {
            return Err(Answer::bad_request("from must be before to"));
        }
        if source == Source::LastSeen && to_ms - from_ms > MEMORY_MS {
            return Err(Answer::bad_request("the window of last_seen must not be longer than 60 minutes"));
        }
        let now_ms = now.timestamp_millis();
        // Cut to the minute, so that the pages of one sweep forget the same rows.
        let forgotten = now_ms - now_ms.rem_euclid(60_000) - REACH_MS;
        let (from_ms, to_ms) = (from_ms.max(forgotten), to_ms.min(now_ms + 1));
        Ok(Self { source, from_ms, to_ms, sort_by: sort_key(ask)?, filters: filters(ask) })
    }

    fn check_size(&self, fleet: &Fleet) -> Result<(), Answer> {
        let every_ms = i64::try_from(fleet.options().report_every.as_millis()).unwrap_or(i64::MAX).max(1);
        let rows_of_one = match self.source {
            Source::LastSeen => 1,
            Source::Hourly => (self.to_ms - self.from_ms) / HOUR_MS,
            Source::Raw => (self.to_ms - self.from_ms) / every_ms,
        };
        if rows_of_one.saturating_mul(fleet.options().devices.into()) > ROWS_MAX {
            return Err(Answer::bad_request("the window holds too many rows"));
        }
        Ok(())
    }

    fn rows(&self, fleet: &Fleet) -> Vec<Row> {
        let one = self.filters.iter().find(|(name, _)| *name == "device_id").map(|(_, id)| fleet.index_of(id));
        let mut rows = Vec::new();
        match one {
            Some(index) => index.into_iter().for_each(|index| self.push_rows(fleet, index, &mut rows)),
            None => (0..fleet.options().devices).for_each(|index| self.push_rows(fleet, index, &mut rows)),
        }
        rows.sort_unstable();
        match self.sort_by.as_str() {
            "timestamp" => {}
            "device_id" => rows.sort_by_cached_key(|row| fleet.device_id(row.device())),
            name => rows.sort_by_cached_key(|row| {
                let facts = fleet.facts(row.device(), self.reported(fleet, *row));
                facts.attribute(name).unwrap_or_default().to_owned()
            }),
        }
        rows
    }

    /// The rows of one device.
    fn push_rows(&self, fleet: &Fleet, device: u32, rows: &mut Vec<Row>) {
        let schedule = fleet.schedule(device);
        let mut push = |at_ms: i64| {
            let row = Row::new(at_ms - self.from_ms, device);
            if self.is_wanted(fleet, row) {
                rows.push(row);
            }
        };
        match self.source {
            Source::LastSeen => schedule.newest(self.from_ms, self.to_ms - 1).into_iter().for_each(push),
            Source::Raw => schedule.between(self.from_ms, self.to_ms).for_each(push),
            Source::Hourly => {
                self.hours()
                    .filter(|hour| schedule.newest(*hour, self.end_of(*hour) - 1).is_some())
                    .for_each(&mut push);
            }
        }
    }

    fn is_wanted(&self, fleet: &Fleet, row: Row) -> bool {
        if self.filters.is_empty() {
            return true;
        }
        let facts = fleet.facts(row.device(), self.reported(fleet, row));
        self.filters.iter().all(|(name, value)| *name == "device_id" || facts.attribute(name) == Some(value))
    }

    /// The starts of the hours in the window.
    fn hours(&self) -> impl Iterator<Item = i64> {
        let first = self.from_ms.div_euclid(HOUR_MS) + i64::from(self.from_ms.rem_euclid(HOUR_MS) > 0);
        let to_ms = self.to_ms;
        (first..).map(|hour| hour * HOUR_MS).take_while(move |start| *start < to_ms)
    }

    /// The end of an hour, as far as it has come.
    fn end_of(&self, hour_ms: i64) -> i64 {
        self.to_ms.min(hour_ms + HOUR_MS)
    }

    /// The time of the report that gives a row its attributes.
    fn reported(&self, fleet: &Fleet, row: Row) -> i64 {
        let at_ms = self.from_ms + row.offset();
        if self.source != Source::Hourly {
            return at_ms;
        }
        fleet.schedule(row.device()).newest(at_ms, self.end_of(at_ms) - 1).unwrap_or(at_ms)
    }

    fn texts(&self, fleet: &Fleet, rows: &[Row]) -> Vec<String> {
        rows.iter().map(|row| self.text(fleet, *row)).collect()
    }

    fn text(&self, fleet: &Fleet, row: Row) -> String {
        let at_ms = self.from_ms + row.offset();
        match self.source {
            Source::Hourly => fleet.hourly_text(row.device(), at_ms, self.end_of(at_ms)),
            Source::LastSeen | Source::Raw => fleet.text(row.device(), at_ms),
        }
    }
}

impl Row {
    fn new(offset_ms: i64, device: u32) -> Self {
        Self(offset_ms.unsigned_abs() << 32 | u64::from(device))
    }

    fn offset(self) -> i64 {
        (self.0 >> 32).cast_signed()
    }

    fn device(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).expect("32 bits fit in a u32")
    }
}

fn bound(ask: &Ask, name: &str) -> Result<i64, Answer> {
    let text = ask.parameter(name).ok_or_else(|| Answer::bad_request(&format!("{name} is required")))?;
    let bad = || Answer::bad_request(&format!("{name} must be an ISO 8601 time or epoch milliseconds"));
    parse_timestamp(text).map(ceil_ms).ok_or_else(bad)
}

fn sort_key(ask: &Ask) -> Result<String, Answer> {
    let key = ask.parameter("sort_by").unwrap_or("timestamp");
    if key == "timestamp" || FILTERS.contains(&key) {
        return Ok(key.to_owned());
    }
    Err(Answer::bad_request("sort_by is none of the sort keys"))
}

fn filters(ask: &Ask) -> Vec<(&'static str, String)> {
    FILTERS.into_iter().filter_map(|name| Some((name, ask.parameter(name)?.to_owned()))).collect()
}
