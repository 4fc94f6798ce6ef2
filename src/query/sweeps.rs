//! The passes over the fleet of each account, as its polls tell them: the oldest, the newest, and where none were.

use std::collections::BTreeMap;

use arrow_array::{Array, RecordBatch};
use chrono::TimeDelta;

use crate::archive::Scan;
use crate::clock::Timestamp;
use crate::schema::Schema;
use crate::snapshot::{Outcome, Source};

use super::scan::Days;
use super::window::Window;
use super::{QueryError, column, moment, numbers, texts, times};

/// A pass over the fleet of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepSummary {
    /// The account.
    pub account_id: String,
    /// The pass.
    pub sweep_id: String,
    /// When its first request was sent.
    pub began: Timestamp,
    /// When its last was.
    pub ended: Timestamp,
    /// How many there were.
    pub requests: u64,
    /// How many of them failed.
    pub failed: u64,
    /// States in the answers.
    pub states: u64,
    /// The only shard whose devices it kept, of how many: `3/8`.
    pub shard: Option<String>,
}

/// By account, pass and shard: passes that two collectors began in one second may have one name.
type Sweeps = BTreeMap<(String, String, Option<String>), Counts>;

#[derive(Clone, Copy)]
struct Counts {
    began: i64,
    ended: i64,
    requests: u64,
    failed: u64,
    states: u64,
}

/// The newest passes over the fleet of each account that began in a window: that of all devices, and that of each shard
/// whose devices a collector kept alone. What asked the history is none.
///
/// # Errors
/// Where the archive cannot be read.
pub fn last_sweeps(days: &Days, window: Window) -> Result<Vec<SweepSummary>, QueryError> {
    let newest = sweeps(days, window)?.map(|sweep| ((sweep.account_id.clone(), sweep.shard.clone()), sweep));
    Ok(newest.collect::<BTreeMap<_, _>>().into_values().collect())
}

/// The oldest pass of each account that began in a window, whichever shard it was of.
///
/// # Errors
/// Where the archive cannot be read.
pub fn first_sweeps(days: &Days, window: Window) -> Result<Vec<SweepSummary>, QueryError> {
    let mut oldest: BTreeMap<String, SweepSummary> = BTreeMap::new();
    for sweep in sweeps(days, window)? {
        oldest.entry(sweep.account_id.clone()).or_insert(sweep);
    }
    Ok(oldest.into_values().collect())
}

/// The stretches of a window from the beginning of one pass over the fleet of an account to that of the next, or to the end of
/// the window, where they lie farther apart than they should: whoever was asked for first in a pass was not in the rest of it.
///
/// # Errors
/// Where the archive cannot be read.
pub fn outages(days: &Days, window: Window, account: &str, most: TimeDelta) -> Result<Vec<Window>, QueryError> {
    let (mut outages, mut last) = (Vec::new(), None::<SweepSummary>);
    for sweep in sweeps(days, window)?.filter(|sweep| sweep.account_id == account && sweep.requests > sweep.failed) {
        let before = last.as_ref().filter(|last| sweep.began - last.ended > most);
        outages.extend(before.map(|last| Window { since: last.began, until: sweep.began }));
        if last.as_ref().is_none_or(|last| last.ended <= sweep.ended) {
            last = Some(sweep);
        }
    }
    let before = last.filter(|last| window.until - last.ended > most);
    outages.extend(before.map(|last| Window { since: last.began, ..window }));
    Ok(outages)
}

/// By account, and then by time: the names of passes sort so.
fn sweeps(days: &Days, window: Window) -> Result<impl Iterator<Item = SweepSummary>, QueryError> {
    let polls = Schema::poll();
    let names = ["account_id", "sweep_id", "requested_at", "source", "outcome", "rows", "shard"];
    let columns = names.iter().map(|name| column(&polls, name)).collect();
    let scan = Scan { columns, ..Scan::default() };
    let mut all = Sweeps::new();
    let add = |found: &mut Sweeps, batch: &RecordBatch| add(found, batch, window);
    days.fold(&polls, window, &scan, Sweeps::new, add, |found| {
        found.into_iter().for_each(|(key, tally)| all.entry(key).or_insert(Counts::NONE).merge(tally));
    })?;
    Ok(all.into_iter().map(|((account_id, sweep_id, shard), tally)| {
        let Counts { began, ended, requests, failed, states } = tally;
        SweepSummary {
            account_id,
            sweep_id,
            began: moment(began),
            ended: moment(ended),
            requests,
            failed,
            states,
            shard,
        }
    }))
}

fn add(found: &mut Sweeps, batch: &RecordBatch, window: Window) {
    let (accounts, sweeps, shards) = (texts(batch, "account_id"), texts(batch, "sweep_id"), texts(batch, "shard"));
    let (sources, outcomes, at) = (texts(batch, "source"), texts(batch, "outcome"), times(batch, "requested_at"));
    let rows = numbers(batch, "rows");
    let is_history =
        |row: usize| sources.is_valid(row) && Source::HISTORY.iter().any(|s| s.as_str() == sources.value(row));
    for row in (0..batch.num_rows()).filter(|&row| window.holds_row(at, row) && !is_history(row)) {
        let shard = shards.is_valid(row).then(|| shards.value(row).to_owned());
        let key = (accounts.value(row).to_owned(), sweeps.value(row).to_owned(), shard);
        found.entry(key).or_insert(Counts::NONE).merge(Counts {
            began: at.value(row),
            ended: at.value(row),
            requests: 1,
            failed: u64::from(outcomes.value(row) == Outcome::Failed.as_str()),
            states: u64::try_from(rows.value(row)).unwrap_or(0),
        });
    }
}

impl Counts {
    const NONE: Self = Self { began: i64::MAX, ended: i64::MIN, requests: 0, failed: 0, states: 0 };

    fn merge(&mut self, other: Self) {
        self.began = self.began.min(other.began);
        self.ended = self.ended.max(other.ended);
        self.requests += other.requests;
        self.failed += other.failed;
        self.states += other.states;
    }
}
