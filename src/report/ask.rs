//! The questions that a report asks of the archive.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;

use crate::clock::Zone;
use crate::query::{
    Agg, Answer, Cell, Change, ChangesOptions, DeviceGaps, Gap, Gaps, GapsOptions, QueryError, StateOptions,
    TrendOptions, Who, changes, each_gap, gaps, latest, metrics, newest_names, trend,
};
use crate::schema::Unit;

use super::Asking;
use super::plan::{Bound, Limit};

/// Longer than any window, so that all of it is one bucket.
const ONE_BUCKET: Duration = Duration::from_hours(1_000 * 365 * 24);

/// For so long before the window a state is looked for that its first one is a change from.
const CHANGED_FROM: TimeDelta = TimeDelta::days(1);

/// The unit of percentages that are 0 to 1.
const FRACTION: &str = "of 1";

impl Asking<'_> {
    /// The newest values of what devices are known by.
    pub(super) fn known(&self, devices: Option<Vec<String>>) -> Result<Known, QueryError> {
        let facts = self.plan.fact.iter().chain(&self.plan.count).map(|shown| shown.column.as_str());
        let mut columns: Vec<String> = Vec::new();
        for name in facts {
            if !columns.iter().any(|column| column == name) {
                columns.push(name.to_owned());
            }
        }
        let window = self.options.window;
        // The newest state may be of a source that knows no names.
        let names = newest_names(self.days, devices.as_deref(), window)?;
        let options = StateOptions { devices, columns, window };
        Ok(Known::of(&latest(self.days, &options)?, &names))
    }

    /// The changes of the devices, oldest first.
    pub(super) fn changed(&self) -> Result<Vec<Change>, QueryError> {
        let columns = self.plan.change.iter().map(|shown| &shown.column);
        let columns = columns.chain([&self.plan.disconnects.column]).cloned().collect();
        let states = StateOptions { devices: self.options.devices.clone(), columns, window: self.options.window };
        let mut changed = changes(self.days, &ChangesOptions { states, back: CHANGED_FROM })?;
        if changed.has_accounts {
            // What a device did is one thing, though it is in several accounts: that of the first that tells of it.
            let mut first = BTreeMap::new();
            changed.changes.retain(|Change { at, device, column, from, to, account, .. }| {
                let change = (*at, device.clone(), column.clone(), from.text(), to.text());
                first.entry(change).or_insert_with(|| account.clone()) == account
            });
        }
        Ok(changed.changes)
    }

    /// A limit, on the scale that percentages have in this archive.
    pub(super) fn bound(&self, limit: &Limit) -> Bound {
        if self.has_fractions && is_percent(&limit.metric) { limit.bound.hundredth() } else { limit.bound }
    }

    /// What percentages are of.
    pub(super) fn percent_unit(&self) -> &'static str {
        if self.has_fractions { FRACTION } else { "%" }
    }

    /// Whether percentages are 0 to 1: the one that they are judged by is, and no other is more.
    pub(super) fn finds_fractions(&self) -> Result<bool, QueryError> {
        let most = |names: &[String]| -> Result<Option<f64>, QueryError> {
            let answer = self.trend(Who::Fleet { by: None }, names, &[Agg::Max], ONE_BUCKET, Zone::UTC)?;
            let values = answer.rows.iter().flat_map(|row| answer.values(row)).filter_map(Cell::number);
            Ok(values.reduce(f64::max))
        };
        // Where nobody says it, they are what most of the API's are. Zero is zero of either.
        if !most(std::slice::from_ref(&self.plan.percent_judged_by))?.is_some_and(|most| most > 0.0 && most <= 1.0) {
            return Ok(false);
        }
        let limited = self.plan.limit.iter().map(|limit| &limit.metric).filter(|metric| is_percent(metric));
        let limited: Vec<String> = limited.cloned().collect();
        Ok(limited.is_empty() || most(&limited)?.is_none_or(|most| most <= 1.0))
    }

    pub(super) fn by_device(&self, names: &[String], aggs: &[Agg]) -> Result<Answer, QueryError> {
        self.trend(Who::Fleet { by: Some("device_id".to_owned()) }, names, aggs, ONE_BUCKET, Zone::UTC)
    }

    pub(super) fn over_time(&self, who: Who, names: &[String], aggs: &[Agg]) -> Result<Answer, QueryError> {
        self.trend(who, names, aggs, self.every, self.options.zone)
    }

    fn trend(
        &self,
        who: Who,
        names: &[String],
        aggs: &[Agg],
        every: Duration,
        zone: Zone,
    ) -> Result<Answer, QueryError> {
        let (window, aggs) = (self.options.window, aggs.to_vec());
        let mut answer = trend(self.days, &TrendOptions { who, metrics: metrics(names)?, window, every, zone, aggs })?;
        let percent =
            answer.columns.iter_mut().filter(|column| self.has_fractions && column.unit == Unit::Percent.name());
        percent.for_each(|column| FRACTION.clone_into(&mut column.unit));
        Ok(answer)
    }

    /// What is missing of each device; none where no interval is over in which a state was expected.
    pub(super) fn gaps(&self) -> Result<Option<Gaps<DeviceGaps>>, QueryError> {
        if_expected(gaps(self.days, &self.gaps_options(None)))
    }

    /// The gaps of a device; none where no interval is over in which a state was expected.
    pub(super) fn gaps_of(&self, id: &str) -> Result<Option<Gaps<Gap>>, QueryError> {
        if_expected(each_gap(self.days, &self.gaps_options(Some(vec![id.to_owned()]))))
    }

    fn gaps_options(&self, devices: Option<Vec<String>>) -> GapsOptions {
        let options = self.options;
        let (window, every, zone, known_until) = (options.window, options.expect, options.zone, options.known_until);
        GapsOptions { devices, window, every, zone, now: options.now, known_until }
    }
}

fn if_expected<T>(gaps: Result<T, QueryError>) -> Result<Option<T>, QueryError> {
    match gaps {
        Err(error) if error.is_nothing_expected() => Ok(None),
        gaps => gaps.map(Some),
    }
}

/// So many letters of its id are put behind a name that several devices have.
const ID_LETTERS: usize = 8;

/// The newest values of each device.
pub(super) struct Known {
    columns: Vec<String>,
    rows: BTreeMap<String, Vec<Cell>>,
    /// By id, of the devices that have a name.
    names: BTreeMap<String, String>,
}

impl Known {
    fn of(answer: &Answer, names: &BTreeMap<String, String>) -> Self {
        let columns = answer.columns.iter().map(|column| column.name.clone()).collect();
        let rows = answer.rows.iter().filter_map(|row| Some((row.first()?.text()?, row.clone()))).collect();
        Self { columns, rows, names: told_apart(names) }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &String> {
        self.rows.keys()
    }

    pub(super) fn value(&self, id: &str, column: &str) -> Option<String> {
        let at = self.columns.iter().position(|name| name == column)?;
        self.rows.get(id)?.get(at)?.text()
    }

    /// When the newest state is of.
    pub(super) fn seen(&self, id: &str) -> Option<&Cell> {
        let at = self.columns.iter().position(|name| name == "timestamp")?;
        self.rows.get(id)?.get(at)
    }

    /// Whether a device has a state.
    pub(super) fn has(&self, id: &str) -> bool {
        self.rows.contains_key(id)
    }

    /// The device's name, told apart from those of others, or else its id.
    pub(super) fn name(&self, id: &str) -> String {
        self.names.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }
}

/// Whether nothing is seen of a name: no link could be made of it.
fn is_blank(name: &str) -> bool {
    let is_unseen = |letter: char| matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}');
    name.chars().all(|letter| letter.is_whitespace() || letter.is_control() || is_unseen(letter))
}

/// The names of devices by their ids, without blank ones; where several have the same, each with the beginning of its
/// id, or with all of it where that does not tell them apart.
fn told_apart(names: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let seen = || names.iter().filter(|(_, name)| !is_blank(name));
    let beginning = |id: &str| id.chars().take(ID_LETTERS).collect::<String>();
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_both: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for (id, name) in seen() {
        *by_name.entry(name.as_str()).or_default() += 1;
        *by_both.entry((name.as_str(), beginning(id))).or_default() += 1;
    }
    let shown = |(id, name): (&String, &String)| {
        let beginning = beginning(id);
        let shown = match (by_name[name.as_str()], by_both[&(name.as_str(), beginning.clone())]) {
            (1, _) => name.clone(),
            (_, 1) => format!("{name} ({beginning})"),
            _ => format!("{name} ({id})"),
        };
        (id.clone(), shown)
    };
    seen().map(shown).collect()
}

fn is_percent(metric: &str) -> bool {
    let metric = metrics(&[metric.to_owned()]);
    metric.is_ok_and(|found| found.iter().any(|metric| metric.unit == Some(Unit::Percent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_apart_and_a_blank_name_is_none() {
        let ids = ["1f1f1f1f-a", "2e2e2e2e-a", "2e2e2e2e-b", "3d3d3d3d-a", "4c4c4c4c-a", "5b5b5b5b-a"];
        let names = ["lap", "twin", "twin", "lap", "own", " \u{200b}\t"];
        let names = ids.iter().zip(names).map(|(id, name)| ((*id).to_owned(), name.to_owned()));
        let answer = Answer { title: String::new(), columns: Vec::new(), rows: Vec::new() };
        let known = Known::of(&answer, &names.collect());
        let shown = ids.map(|id| known.name(id));
        let expected =
            ["lap (1f1f1f1f)", "twin (2e2e2e2e-a)", "twin (2e2e2e2e-b)", "lap (3d3d3d3d)", "own", "5b5b5b5b-a"];
        assert_eq!(shown, expected);
        assert_eq!(known.name("unknown"), "unknown");
    }
}
